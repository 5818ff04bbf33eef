"""Image quality by arm, level and subgroup: the numbers of notebook 07.

Conventions: `table` holds rows of the table `quality`, `people` is the table of the cohort (one row per image), images
are (H, W) in [0, 1]. PSNR in dB.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.ndimage import distance_transform_edt, gaussian_filter

from fairrecon_core.audit.engine import Stratum, patient_codes
from fairrecon_core.audit.groups import resample_means
from fairrecon_core.audit.inference import contrast, group_range, noise_band, null_draws, range_interval
from fairrecon_core.audit.multiplicity import omnibus_test
from fairrecon_core.predict.quality import psnr_db
from fairrecon_lab.analysis.estimates import interval_text, mean_of
from fairrecon_lab.paper.evaluation import published_psnr_gap


# ---------------------------------------------------------------------- images
def lesion_or_disc(cohort, row: int) -> np.ndarray:
    """The tumour's mask of a `row` of the cohort; without one, a disc that stands in for it."""
    if cohort.masks is not None and cohort.mask(row).any():
        return cohort.mask(row)
    size = cohort.image(row).shape
    y, x = np.indices(size) / size[0]
    return np.hypot(y - 0.6, x - 0.35) < 0.06


def erased(image: np.ndarray, lesion: np.ndarray) -> np.ndarray:
    """The `image` with the pixels of the `lesion` filled from the nearest ones around it, smoothed."""
    nearest = distance_transform_edt(lesion, return_distances=False, return_indices=True)
    return np.where(lesion, gaussian_filter(image[tuple(nearest)], 2), image)


def sample_gains(samples, truths, patients) -> pd.DataFrame:
    """What averaging samples of a stochastic arm gains over one sample.

    Parameters
    ----------
    samples : array, shape (N, B, H, W)
        N samples of each of B images.
    truths : array, shape (B, H, W)
    patients : sequence of B patient_ids

    Returns
    -------
    DataFrame
        `n gain patient`: PSNR of the mean of the first n samples, minus the mean PSNR of single samples.
    """
    rows = []
    for n in range(1, len(samples) + 1):
        for of_image, truth, patient in zip(np.stack(list(samples), axis=1), truths, patients):
            single = np.mean([psnr_db(one, truth) for one in of_image])
            rows.append({"n": n, "gain": psnr_db(np.mean(of_image[:n], axis=0), truth) - single, "patient": patient})
    return pd.DataFrame(rows, columns=["n", "gain", "patient"])


# ---------------------------------------------------------------------- arms
def paired_psnr(table: pd.DataFrame, patients: pd.Series, arms, reference: str, **options) -> pd.DataFrame:
    """PSNR of a reference arm minus that of every other, on the same images.

    Parameters
    ----------
    table : DataFrame
        Rows of one level.
    patients : Series
        patient_id by image_id.
    arms : sequence of str
        Those that are compared, where they are in the table.
    reference : str
    **options
        `n_boot` and `seed`.

    Returns
    -------
    DataFrame
        One row per arm: its name under the reference's, the difference as text, and the number of patients.
    """
    wide = table.pivot_table(index="image_id", columns="arm", values="psnr_db")
    who, rows = patients.reindex(wide.index), []
    for arm in [arm for arm in arms if arm in wide and arm != reference and reference in wide]:
        found = mean_of(wide[reference], who, baseline=wide[arm], **options)
        text = interval_text(found["value"], found["low"], found["high"], digits=2, sign="+")
        rows.append({f"PSNR (dB), {reference} minus": arm, "paired difference": text, "n": found["patients"]})
    return pd.DataFrame(rows)


def table_rows(means: dict[str, pd.DataFrame], printed: dict[tuple, str], modality: str) -> pd.DataFrame:
    """The rows PSNR and LPIPS of Tables 3 and 4, in the paper's form.

    Parameters
    ----------
    means : dict of metric to DataFrame
        As from `estimates.means_by_level`.
    printed : dict
        From `estimates.printed_in_paper`; what it holds stands in brackets.
    modality : {"mri", "xray"}
    """
    cells: dict[tuple, dict] = {}
    for metric, digits in (("psnr_db", 2), ("lpips", 3)):
        for row in means[metric].itertuples():
            theirs = printed.get((modality, row.level, "quality", metric, row.arm), "")
            text = interval_text(row.value, row.low, row.high, digits=digits, extra=theirs)
            cells.setdefault((f"{row.level:,.0f}", metric), {})[row.arm] = text
    return pd.DataFrame(cells).T.rename_axis(["level", "measure"])


# ---------------------------------------------------------------------- subgroups, as published
def paper_units(table: pd.DataFrame, people: pd.DataFrame, arm: str, modality: str) -> pd.DataFrame:
    """PSNR of one `arm` in the paper's units beside who they are.

    The first sample of the first training; of the `modality` "mri" a patient's median over slices, else each image.
    """
    here = table.query("arm == @arm and train_seed == 0 and sample == 0").merge(
        people.drop(columns=["fold"]), on="image_id"
    )
    if modality == "mri":
        median = here.groupby("patient_id")["psnr_db"].transform("median")
        here = here.assign(psnr_db=median).drop_duplicates("patient_id")
    return here


def published_gaps(units: dict[str, pd.DataFrame], attributes: Sequence[str], **options) -> pd.DataFrame:
    """The gaps of Tables 6 and 7 as the paper computes them.

    Parameters
    ----------
    units : dict of arm to DataFrame
        From `paper_units`.
    attributes : sequence of str
    **options
        `n_boot` and `seed` of `published_psnr_gap`.

    Returns
    -------
    DataFrame
        Indexed by attribute and arm: `percent p_value best worst`.
    """
    rows = []
    for attribute in attributes:
        for arm, of_arm in units.items():
            known = of_arm[of_arm[attribute] != "unknown"]
            found = published_psnr_gap(known["psnr_db"], known[attribute], **options)
            rows.append({"attribute": attribute, "arm": arm} | found)
    return pd.DataFrame(rows).set_index(["attribute", "arm"])


def false_alarms(units: pd.DataFrame, attribute: str, *, n_worlds: int, min_support: int, seed: int) -> np.ndarray:
    """How often each of two tests says p < .05 when subgroups are handed out to patients at random.

    Parameters
    ----------
    units : DataFrame
        From `paper_units`.
    attribute : str
        Its recorded values are what is handed out.
    n_worlds, min_support, seed : int
        Random hand-outs; the smallest subgroup that the omnibus test counts; the seed.

    Returns
    -------
    ndarray, shape (2,)
        Shares: the published test, the omnibus test by patient.
    """
    units = units[units[attribute] != "unknown"]
    who = units.drop_duplicates("patient_id").set_index("patient_id")[attribute]
    generator, hits = np.random.default_rng(seed), np.zeros(2)
    options = {"n_boot": 200, "min_support": min_support, "seed": seed}
    for _ in range(n_worlds):
        handed = pd.Series(generator.permutation(who.to_numpy()), index=who.index)[units["patient_id"]].to_numpy()
        theirs = published_psnr_gap(units["psnr_db"].to_numpy(), handed, n_boot=100)["p_value"]
        result, *_ = subgroup_means(units["psnr_db"], units["patient_id"], handed, **options)
        hits += [theirs < 0.05, omnibus_test(contrast(result, "level")).p_value[0, 0] < 0.05]
    return hits / n_worlds


# ---------------------------------------------------------------------- subgroups, by patient
class Subgroups(NamedTuple):
    """Means by subgroup and arm: the resampled means, the names along both axes, and the noise band of the gaps."""

    result: object
    groups: list[str]
    arms: list[str]
    noise: np.ndarray


def subgroup_means(values, patients, groups, *, n_boot: int, min_support: int, seed: int):
    """Means of patients' means by subgroup.

    Parameters
    ----------
    values : array, shape (images,) or (arms, images)
    patients, groups : array-like, shape (images,)
        Whose image it is; the subgroup of that patient.
    n_boot, min_support, seed : int
        As in `audit_change`.

    Returns
    -------
    result
        Of `resample_means`.
    names : list of str
        Of the subgroups, sorted.
    """
    codes, names = pd.factorize(groups, sort=True)
    patient, ids = patient_codes(patients)
    stratum = Stratum("psnr_db", np.atleast_2d(values), 1 / np.bincount(patient)[patient], rate=False)
    options = {"n_boot": n_boot, "seed": seed, "min_support": min_support, "n_patients": len(ids)}
    result, *_ = resample_means(patient, codes, [stratum], [len(names)], **options)
    return result, list(names)


def subgroup_table(table, people, attribute: str, arms, metric: str = "psnr_db", **options) -> Subgroups:
    """Subgroup means of all arms at one level, and what their gaps would be if all subgroups were alike.

    Parameters
    ----------
    table, people : DataFrame
        Rows of one level; the table of the cohort.
    attribute : str
    arms : sequence of str
        Their order; those that miss an image cannot be paired and are left out.
    metric : str
    **options
        `n_boot`, `min_support`, `seed`.
    """
    wide = table.pivot_table(index="image_id", columns="arm", values=metric).dropna(axis=1)
    people = people.set_index("image_id").loc[wide.index]
    known = (people[attribute] != "unknown").to_numpy()
    kept, people = [arm for arm in arms if arm in wide], people[known]
    values = wide.loc[known, kept].T.to_numpy()  # (arms, images)
    result, groups = subgroup_means(values, people["patient_id"], people[attribute], **options)
    null = null_draws(result)
    return Subgroups(result, groups, kept, noise_band(group_range(null[:, 0])).high)


def gap_table(means: Subgroups, audit: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """Tables 6 and 7 done right, one row per arm: the gap in dB, its change from `degraded`, and the published way.

    Parameters
    ----------
    means : Subgroups
    audit : DataFrame
        From `audit_change` with `degraded` as baseline; its rows of the PSNR gap give the change.
    published : DataFrame
        `percent p_value` by arm.
    """
    gap, p_any = range_interval(means.result), omnibus_test(contrast(means.result, "level")).p_value[0]
    changes = audit.query("metric == 'psnr_db_gap' and estimator == 'plug_in'").set_index("arm")
    rows = {}
    for a, arm in enumerate(means.arms):
        mean = pd.Series(means.result.value[0, a], index=means.groups).dropna()
        row = {"best": mean.idxmax(), "worst": mean.idxmin()} if len(mean) else {}
        row["gap (dB)"] = interval_text(gap.value[0, a], gap.low[0, a], gap.high[0, a], digits=2)
        row |= {"noise": means.noise[a], "p any": p_any[a]} | (_added(changes.loc[arm]) if arm in changes.index else {})
        theirs = published.loc[arm]
        rows[arm] = row | {"as published": f"{theirs['percent']:.2f} %, p {theirs['p_value']:.3f}"}
    columns = ["best", "worst", "gap (dB)", "noise", "p any", "added (dB)", "p added", "verdict", "as published"]
    return pd.DataFrame(rows).T.reindex(columns=columns)


def _added(row) -> dict:
    text = interval_text(row["delta"], row["delta_ci_low"], row["delta_ci_high"], digits=2, sign="+")
    return {"added (dB)": text, "p added": row["p_value"], "verdict": row["verdict"]}
