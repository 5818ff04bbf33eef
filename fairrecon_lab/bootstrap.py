"""Intervals of simple figures by resampling patients with all their images; and what a number of flips can show."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fairrecon_core.audit.engine import patient_codes, patient_weights


class Interval(NamedTuple):
    """An estimate with its patient-bootstrap interval; unpacks as value, low, high, ..."""

    value: float
    low: float
    high: float
    se: float
    n_patients: int
    n_boot: int


def patient_bootstrap(
    values,
    patient_ids,
    statistic: str | Callable = "mean",
    n_boot: int = 10_000,
    seed: int = 0,
    alpha: float = 0.05,
    baseline=None,
    per: str = "row",
) -> Interval:
    """Interval for a simple statistic, resampling patients with all their rows.

    Parameters
    ----------
    values : array, shape (rows,)
        One value per image; rows with NaN (in either array) are left out.
    patient_ids : array, shape (rows,)
    statistic : "mean", "median", or a function of a 1-D array
        Anything but the mean is computed once per resample: choose a smaller `n_boot`.
    n_boot, seed : int
        Resamples of patients; their seed.
    alpha : float
        One minus the coverage.
    baseline : array, shape (rows,), optional
        The same rows under the baseline: the result is the paired difference, statistic(values) - statistic(baseline).
    per : {"row", "patient"}
        Weigh rows equally, or average within patients first.

    Returns
    -------
    Interval
        NaN bounds with fewer than two patients; `se` is the bootstrap standard deviation.

    Raises
    ------
    ValueError
        Numbers of values and patients differ, or `per` or `statistic` is unknown.

    Examples
    --------
    >>> patient_bootstrap([30.0, 31.0, 28.0, 29.0], ["a", "a", "b", "b"], n_boot=200).value
    29.5
    """
    if per not in ("row", "patient"):
        raise ValueError(f"per is 'row' or 'patient', got {per!r}")
    if not callable(statistic) and statistic not in ("mean", "median"):
        raise ValueError(f"statistic is 'mean', 'median' or a function, got {statistic!r}")
    values = np.stack([np.asarray(values, dtype=float)] + ([] if baseline is None else [np.asarray(baseline, float)]))
    patient_ids = np.asarray(patient_ids)
    if values.shape[1:] != patient_ids.shape:
        raise ValueError(f"{values.shape[1]} values but {patient_ids.size} patient ids")
    keep = np.isfinite(values).all(axis=0)
    if not keep.any():
        return Interval(np.nan, np.nan, np.nan, np.nan, 0, n_boot)
    patient, ids = patient_codes(patient_ids[keep])
    n_rows: np.ndarray = np.bincount(patient)
    sums = np.stack([np.bincount(patient, row) for row in values[:, keep]])  # (1 or 2, patients)
    if per == "patient":
        values, patient, keep = sums / n_rows, np.arange(len(ids)), np.ones(len(ids), dtype=bool)
        sums, n_rows = values, np.ones(len(ids))
    values = values[:, keep]
    if statistic == "mean":
        point = (sums.sum(axis=1) / n_rows.sum())[:, None]
        draws = np.concatenate([weights.astype(float) @ sums.T / (weights @ n_rows)[:, None]
                                for weights in patient_weights(len(ids), n_boot, seed)]).T  # fmt: skip
    else:
        function = statistic if callable(statistic) else np.median
        point = np.array([[function(row)] for row in values])
        draws = np.array([[function(np.repeat(row, weight[patient])) for row in values]
                          for weights in patient_weights(len(ids), n_boot, seed) for weight in weights]).T  # fmt: skip
    estimate, draws = (x[0] if baseline is None else x[0] - x[1] for x in (point, draws))
    if len(ids) < 2:
        return Interval(float(estimate[0]), np.nan, np.nan, np.nan, len(ids), n_boot)
    low, high = percentile_interval(draws, alpha)
    return Interval(float(estimate[0]), float(low), float(high), float(draws.std(ddof=1)), len(ids), n_boot)


def percentile_interval(resamples: np.ndarray, alpha: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    """Plain percentile interval over the first axis; wrong for a max-min gap (see `inference.range_interval`)."""
    low, high = np.nanquantile(resamples, [alpha / 2, 1 - alpha / 2], axis=0)
    return low, high


def se_from_flips(flip_rate: float, n_group: float, n_reference: float, design_effect: float = 1.0) -> float:
    """Standard error of a DiD of rates to plan for, from the share of decisions that flip.

    Parameters
    ----------
    flip_rate : float
        Share of rows whose decision differs between arm and baseline, in [0, 1].
    n_group, n_reference : float
        Rows with the label in the group and in the reference.
    design_effect : float
        Variance inflation by several rows of one patient; 1 without.
    """
    return float(np.sqrt(flip_rate * design_effect * (1 / n_group + 1 / n_reference)))


def weighted_auroc(scores, truth, weights=None) -> np.ndarray:
    """Exact area under the ROC curve in each resample, ties counted half.

    Parameters
    ----------
    scores : array, shape (rows,), finite
    truth : array, shape (rows,), 0 or 1
    weights : array, shape (b, rows) or (rows,), optional
        Weight of each row in each resample; of a patient bootstrap, the patient's weight in all of its rows.

    Returns
    -------
    auroc : float64, shape (b,) or scalar
        NaN where one class has no weight.

    Raises
    ------
    ValueError
        A score is not finite.
    """
    scores, truth = np.asarray(scores, dtype=float), np.asarray(truth).astype(bool)
    if not np.isfinite(scores).all():
        raise ValueError(f"{int((~np.isfinite(scores)).sum())} of {scores.size} scores are undefined: drop those rows")
    weights = np.ones(len(scores)) if weights is None else np.asarray(weights)
    order = np.argsort(scores, kind="stable")
    new = np.concatenate([[True], np.diff(scores[order]) > 0])
    first = np.flatnonzero(new)  # where each run of equal scores begins
    sorted_weights = np.atleast_2d(weights)[:, order].astype(float)
    positive = np.add.reduceat(sorted_weights * truth[order], first, axis=1)
    negative = np.add.reduceat(sorted_weights * ~truth[order], first, axis=1)
    below = np.cumsum(negative, axis=1) - negative / 2  # negatives below, those tied counted half
    with np.errstate(invalid="ignore", divide="ignore"):
        area = (positive * below).sum(axis=1) / (positive.sum(axis=1) * negative.sum(axis=1))
    return area if weights.ndim == 2 else area[0]
