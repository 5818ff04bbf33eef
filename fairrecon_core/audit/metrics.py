"""What rates, overlaps and names of subgroups are made of, on plain arrays; metrics by hand: `fairrecon_lab.auditing`.

Conventions: a missing name of a subgroup is "unknown": kept, counted, and left out of every gap. What cannot be
estimated is NaN, never 0 or 1; what cannot be right is a ValueError.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

UNKNOWN = "unknown"
WEAK_SUPPORT = 20  # patients with, and without, the label: below, a rate is marked weak
JOIN = " & "  # between the names of an intersection: "female & old"
AGGREGATE: dict[str, Callable] = {"mean": lambda tpr_gap, fpr_gap: (tpr_gap + fpr_gap) / 2, "max": np.maximum}


def aggregate(tpr_gap, fpr_gap, agg: str = "mean"):
    """Two gaps into one equalised odds gap; arrays welcome. ValueError if `agg` is neither "mean" nor "max"."""
    if agg not in AGGREGATE:
        raise ValueError(f"unknown agg {agg!r}; choose one of {sorted(AGGREGATE)}")
    return AGGREGATE[agg](tpr_gap, fpr_gap)


def dice(intersection, predicted, actual):
    """Dice overlap 2 |A and B| / (|A| + |B|) from pixel counts; NaN where both masks are empty.

    ValueError if an intersection is larger than one of its masks.
    """
    intersection, predicted, actual = (np.asarray(count, dtype=float) for count in (intersection, predicted, actual))
    total = predicted + actual
    if (intersection < 0).any() or (intersection > np.minimum(predicted, actual)).any():
        raise ValueError("an intersection is larger than one of its masks: pass pixel counts, in this order")
    return np.divide(2 * intersection, total, out=np.full(total.shape, np.nan), where=total > 0)


def overlap_measures(intersection, predicted, actual) -> dict[str, np.ndarray]:
    """What a segmentation did to each slice; NaN where a slice cannot tell.

    Parameters
    ----------
    intersection, predicted, actual : array-like, shape (n,)
        Pixels marked rightly, marked, and of the tumour.

    Returns
    -------
    measures : dict of float64 arrays
        `dice`: two empty masks agree, 1, so that a tumour invented in a healthy slice costs something.
        `dice_published`: NaN there, as in the published evaluation. `false_positive_slices`: 1 where pixels are marked
        in a slice without a tumour. `lost_volume`: share of a tumour's pixels that is not marked. `invented_volume`:
        pixels marked outside, as a share of the mean tumour of these slices.
    """
    published = dice(intersection, predicted, actual)
    intersection, predicted, actual = (np.asarray(count, dtype=float) for count in (intersection, predicted, actual))
    tumour = actual > 0
    mean = actual[tumour].mean() if tumour.any() else np.nan
    return {
        "dice": np.where(predicted + actual == 0, 1.0, published),
        "dice_published": published,
        "false_positive_slices": np.where(tumour, np.nan, predicted > 0),
        "lost_volume": np.where(tumour, 1 - intersection / np.where(tumour, actual, 1), np.nan),
        "invented_volume": (predicted - intersection) / mean,
    }


def logit(score, clip: float = 1e-6):
    """Log odds of a probability, clipped to [clip, 1 - clip] first."""
    score = np.clip(probabilities(score), clip, 1 - clip)
    return np.log(score) - np.log1p(-score)


def smoothed(score, truth, weights, patient, copies: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`score`, `truth`, `weights` (draws, n) with each of at most `copies` of an image apart, noise on its log odds.

    What is chosen among few scores jumps when they are resampled as they are (Silverman and Young 1987). A third of
    their width, the same for the same patients, so that two arms move together.
    """
    same, odds = np.unique(patient, return_inverse=True)[1], logit(score)
    noise = np.random.default_rng(1).standard_normal((len(weights), copies, len(odds)))[:, :, same]
    moved = 1 / (1 + np.exp(-odds - 0.35 * len(odds) ** -0.2 * odds.std() * noise))
    apart = weights[:, None] > np.arange(copies)[:, None]
    return moved.reshape(len(weights), -1), np.tile(truth, copies), apart.reshape(len(weights), -1)


def intersect(table: pd.DataFrame, attribute) -> tuple[str, pd.Series]:
    """Name and column of an attribute, or of the intersection of several: "sex & age_group", "female & old".

    A row whose value is missing or "unknown" in any of them is "unknown".

    Raises
    ------
    ValueError
        If the table has no such column.
    """
    names = [attribute] if isinstance(attribute, str) else list(attribute)
    absent = [name for name in names if name not in table.columns]
    if absent or not names:
        raise ValueError(f"the cohort has no attribute {absent or names}; its columns are {list(table.columns)}")
    columns = [table[name].astype(object).where(table[name].notna(), UNKNOWN).astype(str) for name in names]
    joined = columns[0]
    for column in columns[1:]:
        joined = joined + JOIN + column
    unknown = np.logical_or.reduce([column.to_numpy() == UNKNOWN for column in columns])
    return JOIN.join(names), joined.where(~unknown, UNKNOWN)


def probabilities(score, name: str = "score") -> np.ndarray:
    """`score` as float64; ValueError, in which `name` tells the column, if one is NaN or outside [0, 1]."""
    score = np.asarray(score, dtype=float)
    if np.isnan(score).any():
        raise ValueError(f"{np.isnan(score).sum()} of {score.size} values of {name!r} are NaN: drop or repair them")
    if score.size and (score.min() < 0 or score.max() > 1):
        raise ValueError(
            f"{name!r} should be a probability in [0, 1], found {score.min():.4g} to {score.max():.4g}: "
            "pass logits through 1 / (1 + exp(-x)) first"
        )
    return score
