"""Why does one subgroup gain more image quality than another: is it who they are, or what their images look like?

Three tests of one finding: the difference at equal covariates (regression, errors by patient), the difference between
matched patients, and what happens to the gain when the same anatomy is made smaller. Conventions: `quality` holds rows
of that table at one level, `cohort` is the core's `Cohort`; gains are in dB over the degraded image.
Source: Frisch-Waugh-Lovell regression as in `audit.confounders`; optimal matching of Rosenbaum 1989.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment
from skimage.transform import resize

from fairrecon_core.predict.quality import film_mask, head_mask
from fairrecon_lab.analysis.confounders import adjusted
from fairrecon_lab.analysis.estimates import mean_of

INSIDE = {"mri": ("head", head_mask), "xray": ("film", film_mask)}  # what is not background, and who finds it
LOOKS = ("head_share", "place", "x_site", "brightness", "contrast", "detail", "x_tumour_pixels")
OF_FILMS = ("film_share", "x_view", "brightness", "contrast", "detail")
STEPS = {  # what is held equal, one after the other
    "mri": {
        "nothing": (),
        "head size": LOOKS[:1],
        "and slice position": LOOKS[:2],
        "and site": LOOKS[:3],
        "and brightness and contrast": LOOKS[:5],
        "and detail": LOOKS[:6],
        "and tumour size": LOOKS,
        "degraded PSNR alone": ("baseline",),
        "all of these": (*LOOKS, "baseline"),
    },
    "xray": {
        "nothing": (),
        "film size": OF_FILMS[:1],
        "and view": OF_FILMS[:2],
        "and brightness and contrast": OF_FILMS[:4],
        "and detail": OF_FILMS,
        "degraded PSNR alone": ("baseline",),
        "all of these": (*OF_FILMS, "baseline"),
    },
}


def covariates(cohort, rows: Sequence[int] | None = None) -> pd.DataFrame:
    """What an image looks like, by image: size of head or film, place of the slice, grey values, detail.

    Parameters
    ----------
    cohort : Cohort
    rows : sequence of int, optional
        All of them by default.

    Returns
    -------
    DataFrame
        Indexed by image_id: `head_share` (of the pixels; of X-rays `film_share`), `place` (0 the lowest slice of a
        patient, 1 the highest), `brightness` and `contrast` (mean and standard deviation inside head or film),
        `detail` (share of the energy, less the mean, at more than an eighth of the sampling rate), and the cohort's own
        `patient_id`, sex, age group and `x_` columns.
    """
    rows = np.arange(len(cohort)) if rows is None else np.asarray(rows)
    table = cohort.table.iloc[rows].set_index("image_id")
    found = pd.DataFrame([image_facts(cohort.image(row), cohort.modality) for row in rows], index=table.index)
    if "x_slice" in table:
        rank = table.groupby("patient_id")["x_slice"]
        span = (rank.transform("max") - rank.transform("min")).replace(0, 1)
        found["place"] = (table["x_slice"] - rank.transform("min")) / span
    kept = ["patient_id", "sex", "age_group", *(name for name in table if name.startswith("x_"))]
    return found.join(table[kept])


def image_facts(image: np.ndarray, modality: str = "mri") -> dict[str, float]:
    """The first columns of `covariates` for one image (H, W) of a `modality`."""
    part, mask = INSIDE[modality]
    seen = mask(image[None])[0]
    inside = image[seen] if seen.any() else image.ravel()
    energy = np.abs(np.fft.fftshift(np.fft.fft2(image - image.mean()))) ** 2
    y, x = (np.arange(n) - n // 2 for n in image.shape)
    far = np.hypot(y[:, None] / image.shape[0], x / image.shape[1]) > 1 / 8
    facts = {f"{part}_share": seen.mean(), "brightness": inside.mean(), "contrast": inside.std()}
    return facts | {"detail": energy[far].sum() / max(energy.sum(), 1e-12)}


def modality_of(facts: pd.DataFrame) -> str:
    """Whether `facts` of `covariates` are of brains ("mri") or of films ("xray")."""
    return next(modality for modality, (part, _) in INSIDE.items() if f"{part}_share" in facts)


def gains(quality: pd.DataFrame, metric: str = "psnr_db") -> pd.DataFrame:
    """Gain over the degraded image, by image: columns `arm image_id gain baseline`; seeds and samples averaged."""
    wide = quality.pivot_table(index="image_id", columns="arm", values=metric)
    base = wide.pop("degraded")
    long = wide.sub(base, axis=0).stack().rename("gain").reset_index()
    return long.assign(baseline=long["image_id"].map(base))


def at_equal(gain: pd.DataFrame, facts: pd.DataFrame, attribute: str = "sex", reference: str = "male") -> pd.DataFrame:
    """The difference in gain between subgroups, with more and more held equal (`STEPS`), pooled over images.

    Parameters
    ----------
    gain : DataFrame
        From `gains`.
    facts : DataFrame
        From `covariates`.
    attribute, reference : str

    Returns
    -------
    DataFrame
        `arm held_equal subgroup value ci_low ci_high n_patients`; steps whose columns are not recorded are left out.
    """
    rows, steps = [], STEPS[modality_of(facts)]
    for arm, part in gain.groupby("arm", sort=False):
        here = part.set_index("image_id").join(facts, how="inner")
        for step, names in steps.items():
            if not set(names) <= set(here):
                continue
            found = adjusted(here["gain"], here[attribute], here["patient_id"], here[list(names)], reference=reference)
            rows.append(found.assign(arm=arm, held_equal=step))
    columns = ["arm", "held_equal", "subgroup", "value", "ci_low", "ci_high", "n_patients"]
    return pd.concat(rows)[columns].reset_index(drop=True)


def matched_difference(
    gain: pd.DataFrame, facts: pd.DataFrame, names: Sequence[str], *, caliper: float = 0.5, n_boot: int = 2000, seed=0
) -> dict:
    """Difference in gain, women minus men, between pairs of patients who are alike in the means of `names`.

    What a pair still differs in is taken off by regression over the pairs (Abadie and Imbens 2011).

    Parameters
    ----------
    gain : DataFrame
        From `gains`, of one arm.
    facts : DataFrame
        From `covariates`.
    names : sequence of str
        Columns of numbers to match on.
    caliper : float
        Pairs further apart than this, in standard deviations of any of `names`, are left out.
    n_boot, seed : int
        Resamples of pairs.

    Returns
    -------
    dict
        `value low high pairs`; NaN with hardly more pairs than `names`.
    """
    here = gain.set_index("image_id").join(facts, how="inner")
    people = here.groupby("patient_id").agg({"gain": "mean", "sex": "first"} | dict.fromkeys(names, "mean"))
    scaled = (people[list(names)] - people[list(names)].mean()) / people[list(names)].std()
    women, men = (np.flatnonzero(people["sex"] == sex) for sex in ("female", "male"))
    apart = np.abs(scaled.to_numpy()[women][:, None] - scaled.to_numpy()[men])  # (women, men, names)
    far = apart.max(axis=2) > caliper
    i, j = linear_sum_assignment((apart**2).sum(axis=2) + 1e6 * far)
    kept = ~far[i, j]
    change = people["gain"].to_numpy()[women[i[kept]]] - people["gain"].to_numpy()[men[j[kept]]]
    left = scaled.to_numpy()[women[i[kept]]] - scaled.to_numpy()[men[j[kept]]]  # what matching did not make equal
    if len(change) < len(names) + 2:
        return {"value": np.nan, "low": np.nan, "high": np.nan, "pairs": len(change)}
    design, rng = np.column_stack([np.ones(len(change)), left]), np.random.default_rng(seed)
    at_zero = lambda rows: np.linalg.lstsq(design[rows], change[rows], rcond=None)[0][0]
    drawn = [at_zero(rng.integers(0, len(change), len(change))) for _ in range(n_boot)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"value": at_zero(np.arange(len(change))), "low": low, "high": high, "pairs": len(change)}


def smaller(image: np.ndarray, size: int, share: float) -> np.ndarray:
    """An image (H, W) drawn with `share` of its size in a black square of `size` pixels: same anatomy, smaller head."""
    inner = 2 * round(size * share / 2)
    drawn = np.clip(resize(image, (inner, inner), order=1, anti_aliasing=True), 0, 1)
    return np.pad(drawn, (size - inner) // 2).astype(np.float32)


def gain_by_size(
    images: np.ndarray,
    patients: Sequence[str],
    restore: Callable[[np.ndarray, list[str]], Mapping[str, np.ndarray]],
    *,
    size: int,
    shares: Sequence[float],
    measure: Callable,
    **options,
) -> pd.DataFrame:
    """Gain of each arm on the same anatomy at several sizes, and its paired change from the largest.

    Parameters
    ----------
    images : array, shape (n, H, W)
        Larger than `size`, so that every size is drawn from more pixels than it has.
    patients : sequence of str, shape (n,)
    restore : callable
        `restore(clean, ids)` gives images by arm, `degraded` among them.
    size : int
        Pixels of the images that are degraded.
    shares : sequence of float
        Of the field that the head's image fills; the first is compared with.
    measure : callable
        `predict.quality.measure`.
    **options
        `n_boot` and `seed`.

    Returns
    -------
    DataFrame
        `arm share value low high delta delta_low delta_high patients`.
    """
    seen = []
    for share in shares:
        clean = np.stack([smaller(image, size, share) for image in images])
        ids = [f"{k}" for k in range(len(clean))]
        made = restore(clean, ids)
        for arm, restored in made.items():
            table = measure(restored, clean, foreground=head_mask(clean), with_lpips=False)
            seen.append(table.assign(arm=arm, share=share, image_id=ids))
    table, rows = pd.concat(seen), []
    by_share = {share: gains(part) for share, part in table.groupby("share")}
    for share in shares:
        for arm, part in by_share[share].groupby("arm", sort=False):
            first = by_share[shares[0]].query("arm == @arm").set_index("image_id")["gain"].reindex(part["image_id"])
            who = np.asarray(patients)[part["image_id"].astype(int)]
            found = mean_of(part["gain"], who, **options)
            change = mean_of(part["gain"], who, baseline=first.to_numpy(), **options)
            rows.append({"arm": arm, "share": share} | found | {f"delta{k}": change[v] for k, v in DELTA.items()})
    return pd.DataFrame(rows)


DELTA = {"": "value", "_low": "low", "_high": "high"}
