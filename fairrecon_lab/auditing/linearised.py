"""Measures of scores that are no means, written as means over rows: so one patient bootstrap carries all of them.

Each function takes the rows of one subgroup and returns a value per row whose mean is the measure itself; by how much
a row's value is off this mean, over the number of rows, is by how much the row moves the measure (its influence).
Weighted means of these values follow the measure of a resample to first order. NaN where the measure is undefined.
Conventions: `score` in [0, 1], `truth` 0 or 1, arrays (rows,). Sources: influence functions (Hampel et al. 1986);
average precision as in scikit-learn; logistic recalibration (Cox 1958, Van Calster et al. 2019).
"""

import dataclasses

import numpy as np
from scipy.special import expit
from scipy.stats import norm, t

from fairrecon_core.audit.engine import Stratum, fold_placements
from fairrecon_core.audit.groups import GroupMeans
from fairrecon_core.audit.inference import Contrast
from fairrecon_core.audit.metrics import logit
from fairrecon_core.audit.multiplicity import spread

ECE_BINS = 10  # of equal width on [0, 1], each with its upper edge


def area_under_roc(score: np.ndarray, truth: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """AUROC, ties counted half; of several networks the mean over their `fold` (rows,), weighted by positives."""
    value, weight = fold_placements(score[None], truth, np.zeros(len(score), int), 1, fold)
    if not weight.any(axis=1).all():
        return np.full(len(score), np.nan)
    share = weight / weight.sum(axis=1, keepdims=True)
    mean = share[0] @ value[0]  # over the positives; over the negatives it is the same
    return mean + len(score) * share.sum(axis=0) * (value[0] - mean)


def average_precision(score: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """AUPRC, as average precision: the mean, over the positives, of the precision at their own score; ties at once."""
    n, n_positive = len(score), truth.sum()
    if not n_positive:
        return np.full(n, np.nan)
    order = np.argsort(-score, kind="stable")
    last = np.flatnonzero(np.diff(-score[order], append=np.inf) != 0)  # of each run of equal scores
    run = np.repeat(np.arange(len(last)), np.diff(last, prepend=-1))
    positive, found = truth[order], np.cumsum(truth[order])[last]
    own, precision = np.diff(found, prepend=0), found / (last + 1)
    below = lambda values: np.cumsum(values[::-1])[::-1][run]  # a row enters the precision of all scores below its own
    value = (own * precision).sum() / n_positive
    moved = positive * (precision[run] - value + below(own / (last + 1))) - below(own * precision / (last + 1))
    out = np.empty(n)
    out[order] = value + moved * n / n_positive
    return out


def recalibration(score: np.ndarray, truth: np.ndarray, free_slope: bool) -> np.ndarray:
    """Slope of logit P(truth) = a + b logit(`score`), or with `free_slope` False the intercept a at b = 1.

    A slope below 1: scores are too extreme. An intercept below 0: they are too high. Scores are clipped as in
    `metrics.logit`. NaN where the labels are separated by the score, or all `truth` or all scores are the same.
    """
    x, n = logit(score), len(score)
    design = np.stack([np.ones(n), x], axis=1) if free_slope else np.ones((n, 1))
    offset, beta = np.zeros(n) if free_slope else x, np.zeros(1 + free_slope)
    if not 0 < truth.sum() < n or (free_slope and np.ptp(x) == 0):
        return np.full(n, np.nan)
    for _ in range(50):
        p = expit(design @ beta + offset)
        rest, bread = design * (truth - p)[:, None], (design.T * (p * (1 - p))) @ design
        if np.linalg.cond(bread) > 1e12:
            return np.full(n, np.nan)
        step = np.linalg.solve(bread, rest.sum(axis=0))
        beta = beta + step * min(1, 5 / np.abs(step).max(initial=1e-30))
        if np.abs(step).max() < 1e-10:
            return beta[-1] + n * np.linalg.solve(bread, rest.T)[-1]
    return np.full(n, np.nan)


def for_uneven_patients(result: GroupMeans, stratum: Stratum, patient, codes) -> GroupMeans:
    """Standard errors and degrees of freedom where some patients have many more rows than others.

    A few patients then carry the mean, and hide their own scatter. The variance grows by the mean leverage and the
    degrees of freedom are those of the patients' expected shares in it (Bell and McCaffrey 2002), under one
    correlation within patients, found by moments. With equally many rows nothing changes.

    Parameters
    ----------
    result : GroupMeans
        Of one stratum and arm, with a numbered reference.
    stratum : Stratum
    patient, codes : int arrays, shape (rows,)
        Patient and group of every row.
    """
    level, df, weight = result.se["level"].copy(), result.df["level"].copy(), np.asarray(stratum.weight, dtype=float)
    for g in np.flatnonzero(np.isfinite(result.value[0, 0])):
        rows = np.flatnonzero((codes == g) & (weight > 0))
        n = np.bincount(np.unique(patient[rows], return_inverse=True)[1], weight[rows])
        plain = np.average((stratum.values[0, rows] - result.value[0, 0, g]) ** 2, weights=weight[rows]) / n.sum()
        if np.ptp(n) <= 1e-9 or not plain > 0:
            continue
        excess = (result.variance[0, 0, g] / plain - 1) / max((n @ n) / n.sum() - 1, 1e-9)
        share = n * (1 + np.clip(excess, 0, 1) * np.maximum(n - 1, 0))
        share /= share.sum()
        level[0, 0, g] *= np.sqrt((share / (1 - n / n.sum())).sum() * (1 - 1 / len(n)))
        df[0, 0, g] = min(df[0, 0, g], 1 / (share @ share) - 1)
    r, extra, squared = int(result.reference), level**2 - result.se["level"] ** 2, level**2
    gap = np.sqrt(result.se["gap"] ** 2 + extra + extra[..., [r]])
    with np.errstate(invalid="ignore", divide="ignore"):  # Satterthwaite
        both = (squared + squared[..., [r]]) ** 2 / (squared**2 / df + squared[..., [r]] ** 2 / df[..., [r]])
    both = np.where(np.isfinite(both), np.minimum(both, result.df["gap"]), result.df["gap"])
    return dataclasses.replace(
        result, se=result.se | {"level": level, "gap": gap}, df=result.df | {"level": df, "gap": both}
    )


def area_interval(metric: str, level: Contrast, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """(1 - `alpha`) interval of a `level`; symmetric in its logit where `metric` is an area, surer towards 1."""
    low, high = level.interval(alpha)
    inner = (level.estimate > 1e-6) & (level.estimate < 1 - 1e-6) & (metric in ("auroc", "auprc"))
    middle = np.where(inner, level.estimate, 0.5)
    half = (high - level.estimate) / (middle * (1 - middle))
    return np.where(inner, expit(logit(middle) - half), low), np.where(inner, expit(logit(middle) + half), high)


def deviates(question: Contrast, result: GroupMeans, rate: bool) -> Contrast:
    """Gaps in normal deviates, for p-values far out in the tail, where a family is decided.

    Beyond 95 % a small subgroup's Student tail is the longer; and a rate near 0 or 1 looks surer than it is, so its
    deviate is no larger than with the variance of the two rates put together, which holds were they equal (score test).

    Parameters
    ----------
    question : Contrast
        Gaps of one stratum and arm.
    result : GroupMeans
        What they are made of.
    rate : bool
        Whether the values are 0 or 1.
    """
    unit, df, r = np.maximum(spread(question.deviations), 1e-30), question.df, int(result.reference)
    size = np.abs(question.estimate) / unit
    if rate:
        n, p, var = result.n_rows[:, None], result.smoothed, result.se["level"] ** 2
        pooled = (result.value * n + (result.value * n)[..., [r]]) / (n + n[..., [r]])
        of_one = var / (p * (1 - p))
        null = pooled * (1 - pooled) * (of_one + of_one[..., [r]])
        size = size * np.minimum(1, np.sqrt((var + var[..., [r]]) / np.maximum(null, 1e-30)))
    tail = t.sf(size * t.ppf(0.975, df) / norm.ppf(0.975), df)
    size = np.minimum(size, norm.isf(np.maximum(tail, 1e-300)))
    return dataclasses.replace(question, estimate=size, deviations=question.deviations / unit)


def calibration_errors(score: np.ndarray, truth: np.ndarray, patient: np.ndarray) -> tuple[float, float, np.ndarray]:
    """Expected calibration error in `ECE_BINS` bins, the same without its upward bias, and what chance alone gives.

    Parameters
    ----------
    score, truth : arrays, shape (rows,)
    patient : int array, shape (rows,)
        Whose the row is.

    Returns
    -------
    plain : float
        Mean over the rows of the absolute mean of score - truth in their bin.
    debiased : float
        The same with the sign of each bin taken from all patients but the row's own: about 0 if calibrated, also
        below 0, where `plain` is above 0 by chance. Small errors come out somewhat too small.
    chance : float64, shape (1000,)
        Draws of what `plain` would be were the scores calibrated, for these patients.
    """
    n, who = len(score), np.unique(patient, return_inverse=True)[1]
    at = who * ECE_BINS + np.searchsorted(np.linspace(0, 1, ECE_BINS + 1)[1:-1], score)
    excess = np.bincount(at, score - truth, minlength=(who.max() + 1) * ECE_BINS).reshape(-1, ECE_BINS)
    whole = excess.sum(axis=0)
    root = np.linalg.cholesky(excess.T @ excess + 1e-12 * np.eye(ECE_BINS))  # of the covariance of the bins' sums
    chance = np.abs(np.random.default_rng(0).standard_normal((1000, ECE_BINS)) @ root.T).sum(axis=1) / n
    return np.abs(whole).sum() / n, (np.sign(whole - excess) * excess).sum() / n, chance
