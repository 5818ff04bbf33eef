"""What an arm changed against another, by subgroup: the audit, effects with intervals, and the counterfactual truth.

The truth of a skew comes from the simulator: every patient as a woman and as a man, with the same luck.
Conventions: `read` are readings of `measure.readings`; intervals are 95 %. With several training seeds the networks are
a sample, too: the variance over resampled patients and that over seeds add up, with Student's t at the degrees of
freedom of Satterthwaite 1946, because resampling three seeds would understate their spread. With one seed an interval
speaks of that network alone.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import t as student

from fairrecon_core.audit import audit_change
from fairrecon_core.audit.engine import patient_weights

QUANTITIES = ("tpr", "fpr", "dice", "psnr_db", "contrast")  # dice where masks are known

PIXELS = ("intersection", "predicted", "actual")  # of masks


def quantities(part: dict) -> list[str]:
    """Those of `QUANTITIES` that are in a dict of `by_group`."""
    return [quantity for quantity in QUANTITIES if quantity in part]


def audited(read: pd.DataFrame, cohort: pd.DataFrame, cuts: dict, attribute: str = "sex", *, baseline: str,
            arms: Sequence[str], n_boot: int = 2000, min_support: int = 10, seed: int = 1) -> pd.DataFrame:  # fmt: skip
    """The audit of each arm against another: TPR and FPR at a fixed threshold, PSNR, and Dice where masks are known.

    Parameters
    ----------
    read : DataFrame
        Readings of several arms and training seeds.
    cohort : DataFrame
        As `audit_change` takes it.
    cuts : dict
        Threshold of the score by training seed, the same for all arms.
    attribute, n_boot, min_support, seed
        As in `audit_change`.
    baseline : str
        Arm that the others are compared with.
    arms : sequence of str

    Returns
    -------
    DataFrame
        Rows of the audit table.
    """
    read = read[read["arm"].isin([baseline, *arms])]
    options = {"baseline_arm": baseline, "arms": list(arms), "n_boot": n_boot, "min_support": min_support, "seed": seed}
    task = str(read["task"].iloc[0])
    thresholds = pd.DataFrame({"task": task, "train_seed": list(cuts), "value": list(cuts.values())})
    key = ["image_id", "arm", "train_seed"]
    scores = read[[name for name in (*key, "task", "level", "score") if name in read]]
    parts = [audit_change(scores, cohort, attribute, thresholds=thresholds, metrics=("rates",), **options)]
    for columns in (["psnr_db"], list(PIXELS)):
        if set(columns) <= set(read):
            parts.append(audit_change(read[[*key, *columns]], cohort, attribute, **options))
    return pd.concat(parts, ignore_index=True)


def by_group(read: pd.DataFrame, cohort: pd.DataFrame, cuts: dict, attribute: str = "sex", task: str = "") -> dict:
    """Per image and training seed what each subgroup's figures are means of.

    Parameters
    ----------
    read : DataFrame
        Readings of one arm.
    cohort : DataFrame
        `image_id`, `patient_id`, the attribute and `y_<task>`.
    cuts : dict
        Threshold by training seed.
    attribute, task : str

    Returns
    -------
    dict
        quantity -> (values (seeds, images) with NaN where an image takes no part); and "group", the subgroup of each
        image, "patient", its patient.
    """
    task = task or str(read["task"].iloc[0])
    of_images = [name for name in ("dice", "psnr_db", "contrast") if name in read]
    wide = {q: read.pivot(index="train_seed", columns="image_id", values=q) for q in ("score", *of_images)}
    people = cohort.set_index("image_id").loc[wide["score"].columns]
    truth = people[f"y_{task}"].to_numpy(float)
    cut = np.array([cuts[seed] for seed in wide["score"].index])[:, None]
    decision = (wide["score"].to_numpy() >= cut).astype(float)
    measured = {name: wide[name].to_numpy(float) for name in of_images}
    return {
        "tpr": np.where(truth == 1, decision, np.nan),
        "fpr": np.where(truth == 0, decision, np.nan),
        **measured,
        "contrast": np.where(truth == 1, measured["contrast"], np.nan),
        "group": people[attribute].to_numpy(),
        "patient": people["patient_id"].to_numpy(),
    }


def effects(one: dict, other: dict, groups: Sequence[str], n_boot: int = 2000, seed: int = 1) -> pd.DataFrame:
    """Figures of one arm beside another on the same patients, with intervals of their differences.

    Parameters
    ----------
    one, other : dict
        From `by_group`, with the same images and seeds: an arm and what it is compared with.
    groups : sequence of str
        Two subgroups; the gap is the first minus the second.
    n_boot : int
        Resamples of patients, and of training seeds where there are at least two.
    seed : int

    Returns
    -------
    DataFrame
        One row per quantity and `subgroup` (each group, and "gap"; quantity "eodd" has "gap" alone): value, other,
        delta, low, high, n (images that count). |gap| changes are rows "size of gap". A figure of nobody is NaN.
    """
    ids, patient = np.unique(one["patient"], return_inverse=True)
    weights = np.concatenate([np.ones((1, len(ids))), *patient_weights(len(ids), n_boot, seed)])[:, patient]
    rows, gaps = [], {}
    for quantity in quantities(one):
        figures = {}
        for group in groups:
            inside = one["group"] == group
            pair = [_means(arm[quantity], inside, weights) for arm in (one, other)]
            figures[group] = pair
            n = int((np.isfinite(one[quantity]).all(axis=0) & inside).sum())
            rows.append({"quantity": quantity, "subgroup": group, **_row(*pair), "n": n})
        gap = [figures[groups[0]][k] - figures[groups[1]][k] for k in (0, 1)]
        gaps[quantity] = gap
        rows.append({"quantity": quantity, "subgroup": "gap", **_row(*gap)})
        rows.append({"quantity": quantity, "subgroup": "size of gap", **_row(*gap, of=np.abs)})
    both = [np.stack([gaps[quantity][k] for quantity in ("tpr", "fpr")]) for k in (0, 1)]
    rows.append({"quantity": "eodd", "subgroup": "gap", **_row(*both, of=lambda pair: np.abs(pair).mean(axis=0))})
    return pd.DataFrame(rows)


def counterfactual_truth(as_one: dict, as_other: dict, control_one: dict, control_other: dict, seed: int = 1,
                         n_boot: int = 2000) -> pd.DataFrame:  # fmt: skip
    """The bias that a skew made, from every patient as both: (arm - control) as one sex less (arm - control) as other.

    Parameters
    ----------
    as_one, as_other : dict
        From `by_group`, the skewed arm on the patients as the first and the second group.
    control_one, control_other : dict
        The same of the control arm.
    seed, n_boot : int

    Returns
    -------
    DataFrame
        quantity, value, low, high, n: the mean over patients, its interval over patients and seeds.
    """
    return same_patients([(1, (as_one, as_other)), (-1, (control_one, control_other))], seed, n_boot)


def same_patients(parts: Sequence[tuple[float, tuple[dict, dict]]], seed: int = 1, n_boot: int = 2000) -> pd.DataFrame:
    """A sum of gaps of several arms, each gap that of the same patients as one sex and as the other.

    Parameters
    ----------
    parts : sequence
        Pairs of a factor and (arm as the first, arm as the second group), from `by_group`, with the same images and
        seeds. [(1, arm), (-1, control)] is the bias of an arm; [(1, method), (-0.5, twin), (-0.5, control)] is 0 where
        a method took half of the bias that its twin left.
    seed, n_boot : int

    Returns
    -------
    DataFrame
        quantity, value, low, high, n, and `seed_sd`: standard deviation over training seeds, NaN with one. Quantity
        "odds" is the mean of the gaps in TPR and FPR with their signs: what both rates of one sex have in common.
    """
    gaps = {q: sum(factor * (one[q] - other[q]) for factor, (one, other) in parts)
            for q in quantities(parts[0][1][0])}  # fmt: skip
    n = gaps["psnr_db"].shape[1]
    weights = np.concatenate([np.ones((1, n)), *patient_weights(n, n_boot, seed)])
    kept = {quantity: np.isfinite(gap).all(axis=0) for quantity, gap in gaps.items()}
    drawn = {quantity: _means(gap, kept[quantity], weights) for quantity, gap in gaps.items()}
    kept["odds"], drawn["odds"] = kept["tpr"] | kept["fpr"], (drawn["tpr"] + drawn["fpr"]) / 2
    rows = []
    for quantity, means in drawn.items():
        found = _row(means, np.zeros_like(means))
        spread = float(np.std(means[0], ddof=1)) if means.shape[1] > 1 else np.nan
        told = {k: found[k] for k in ("value", "low", "high")}
        rows.append({"quantity": quantity, **told, "n": int(kept[quantity].sum()), "seed_sd": spread})
    return pd.DataFrame(rows)


def _means(values: np.ndarray, inside: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Means of (seeds, images) over the images `inside`, (resamples, seeds); the first resample is everybody once."""
    known = np.isfinite(values) & inside
    with np.errstate(invalid="ignore", divide="ignore"):
        return weights @ np.where(known, values, 0).T / (weights @ known.astype(float).T)


def _row(value: np.ndarray, other: np.ndarray, of=lambda part: part) -> dict:
    """A figure, what it is compared with, and the difference with its interval.

    Both are (..., resamples, seeds); a figure is `of` their mean over seeds, its spread over seeds that of `of` each.
    """
    one, two = of(value.mean(axis=-1)), of(other.mean(axis=-1))
    drawn, each = one - two, (of(value) - of(other))[0]
    low, high = interval(drawn, each)
    return {"value": one[0], "other": two[0], "delta": drawn[0], "low": low, "high": high}


def interval(drawn: np.ndarray, each: np.ndarray) -> tuple[float, float]:
    """95 % interval of `drawn[0]`.

    Parameters
    ----------
    drawn : array, shape (1 + resamples,)
        The estimate, then it in resamples of patients.
    each : array, shape (seeds,)
        The estimate of each training seed alone. One: percentiles of the resamples.

    Returns
    -------
    low, high : float
        NaN where fewer than two resamples have a value.
    """
    known = drawn[1:][np.isfinite(drawn[1:])]
    if len(known) < 2 or not np.isfinite(drawn[0]):
        return np.nan, np.nan
    if len(each) < 2:
        low, high = np.quantile(known, [0.025, 0.975])
        return float(low), float(high)
    patients, seeds = known.var(ddof=1), np.var(each, ddof=1) / len(each)
    total = patients + seeds
    freedom = total**2 / (seeds**2 / (len(each) - 1)) if seeds > 0 else np.inf
    half = student.ppf(0.975, freedom) * np.sqrt(total)
    return float(drawn[0] - half), float(drawn[0] + half)
