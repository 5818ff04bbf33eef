"""Did a group change more than the reference group? Paired, patient-clustered intervals, tests and verdicts.

The estimand is signed: the difference in differences (DiD) of group g,
(mean_g of the arm - mean_g of the baseline) - (the same in the reference group), on the same patients::

    patient, ids = patient_codes(table["patient_id"])
    strata = [Stratum("tpr", decisions, truth == 1), Stratum("fpr", decisions, truth == 0)]  # decisions (arms, rows)
    sex, race = resample_means(patient, codes, strata, n_groups=(2, 6), n_boot=10_000, seed=1, n_patients=len(ids))
    did = contrast(sex, "did")                     # estimate (strata, arms - 1, groups)
    low, high = did.interval(alpha=0.05)           # the same shape, as did.p_value()
    verdict = verdicts(did, margin=0.05)           # "changed", "equivalent", "undetermined", ...

Gaps between the best and the worst group: `gaps`. Several questions at once, more than two groups: `multiplicity`.
How an interval is made: deviations of the resamples from the estimate, widened so that their spread is never below the
cluster-robust standard error times t / z (Hesterberg 2015, "expanded percentile"). Intervals are symmetric and dual to
the two-sided p-value (1 + #{|deviation| >= |estimate|}) / (B + 1).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy.stats import norm, t

from fairrecon_core.audit.engine import (
    Stratum,
    cell_sums,
    group_totals,
    observed,
    patient_codes,
    patient_weights,
    resample,
)
from fairrecon_core.audit.groups import KINDS, GroupMeans, influence

TIE = 1e-5  # figures this close (relative) are equal: float32 sums of a discrete law
VERDICTS = ("changed", "changed_within_margin", "equivalent", "undetermined")


@dataclass(frozen=True)
class Contrast:
    """A signed question about every stratum, arm and group, with its resampled deviations.

    estimate, se, df : float64, (S, A or A - 1, G).
    deviations : float32, (B, S, A or A - 1, G), resamples minus estimate, their spread not below `se` x t / z.
    """

    kind: str
    estimate: np.ndarray
    deviations: np.ndarray
    se: np.ndarray
    df: np.ndarray

    def interval(self, alpha: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
        """Symmetric two-sided (1 - alpha) interval."""
        half = _nan_quantile(np.abs(self.deviations), 1 - alpha)
        return self.estimate - half, self.estimate + half

    def p_value(self) -> np.ndarray:
        """Two-sided p of "no difference", at least 1 / (B + 1)."""
        size = np.abs(self.estimate).astype(np.float32) * np.float32(1 - TIE)
        exceed = (np.abs(self.deviations) >= size).sum(axis=0)
        p = (1 + exceed) / (len(self.deviations) + 1)
        return np.where(np.isfinite(self.estimate), p, np.nan)


def contrast(result: GroupMeans, kind: str = "did") -> Contrast:
    """Ask one of four signed questions.

    Parameters
    ----------
    result : GroupMeans
    kind : {"level", "gap", "change", "did"}
        The mean itself; the mean minus the reference's; the arm minus the baseline; or the difference in differences,
        (arm - baseline) minus the same in the reference.

    Returns
    -------
    Contrast
        The reference group's own gap and DiD are NaN.

    Raises
    ------
    ValueError
        Unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown contrast {kind!r}; choose one of {KINDS}")
    value, draws = result.value, result.resamples
    if kind in ("gap", "did"):
        value, draws = value - result.reference_value, draws - result.reference_resamples
    if kind in ("change", "did"):
        value, draws = value[:, 1:] - value[:, :1], draws[:, :, 1:] - draws[:, :, :1]
    value, se = value.copy(), np.where(np.isnan(value), np.nan, result.se[kind])
    if kind in ("gap", "did") and result.reference != "rest":
        value[..., result.reference] = se[..., result.reference] = np.nan
    df = np.maximum(result.df[kind], 1)
    return Contrast(kind, value, expanded(draws - value.astype(np.float32), se, df), se, df)


def expanded(deviations: np.ndarray, se: np.ndarray, df: np.ndarray, seed: int = 0) -> np.ndarray:
    """Widen bootstrap deviations so that their spread is at least `se` x t / z; never narrows.

    Parameters
    ----------
    deviations : array, shape (B, ...)
        Resamples minus estimate. Undefined ones (the group vanished from a resample) count as infinitely far.
    se, df : arrays, shape (...)
        Cluster-robust standard error (NaN: not estimable) and degrees of freedom.
    """
    target = se * t.ppf(0.975, df) / norm.ppf(0.975)
    undefined = ~np.isfinite(deviations)
    spread = np.sqrt(np.mean(np.square(deviations, where=~undefined, out=np.zeros_like(deviations)), axis=0))
    flat = (spread <= 1e-6 * np.maximum(target, 1e-30)) & (target > 0)  # no patient changed: the bootstrap is blind
    factor = np.where(flat | (spread == 0), 1, np.maximum(1, target / np.maximum(spread, 1e-30)))
    out = deviations * factor.astype(np.float32)
    for at in np.argwhere(flat):
        noise = np.random.default_rng([seed, *at]).standard_normal(len(out))
        out[(slice(None), *at)] = noise * target[tuple(at)]
    if undefined.any():
        out[undefined & np.isfinite(se)] = np.inf
    return out


def _nan_quantile(values: np.ndarray, level: float) -> np.ndarray:
    """Quantile over the first axis, of a sample with the infinitely far last; NaN columns stay NaN."""
    rank = min(int(np.ceil(level * (len(values) + 1))) - 1, len(values) - 1)
    columns = np.ascontiguousarray(values.reshape(len(values), -1).T)
    out = np.partition(columns, rank, axis=1)[:, rank].astype(float)
    out[np.isnan(columns).any(axis=1)] = np.nan
    return out.reshape(values.shape[1:])


def percentile_interval(resamples: np.ndarray, alpha: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    """Plain percentile interval over the first axis; wrong for a max-min gap (see `gaps.range_interval`)."""
    low, high = np.nanquantile(resamples, [alpha / 2, 1 - alpha / 2], axis=0)
    return low, high


def bootstrap_t_interval(
    patient, group, stratum: Stratum, n_groups: int, *, reference: int = 0, n_boot: int = 10_000, seed: int = 0,
    alpha: float = 0.05, n_patients: int | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Equal-tailed bootstrap-t interval of the DiD of one stratum: every resample brings its own standard error.

    More accurate for skewed values and moderate groups; undefined (infinite) where resamples without any change are
    frequent, so the default remains `Contrast.interval`.

    Parameters
    ----------
    patient, group : int array, shape (rows,)
        As in `groups.resample_means`, for one attribute with `n_groups` groups.
    stratum : Stratum
    reference : int
        The group that the others are compared with.
    n_boot, seed, n_patients
        As in `groups.resample_means`.
    alpha : float
        One less the coverage.

    Returns
    -------
    did, low, high : float64, shape (A - 1, G); the reference is NaN
    """
    cells = cell_sums(patient, group, [stratum], n_patients)
    weight = cells.sums[..., :1].astype(float)  # (units, 1, 1)
    moved = cells.sums[..., 2:] - cells.sums[..., 1:2].astype(float)  # (units, 1, A - 1)
    n_moved = moved.shape[2]
    columns = np.concatenate([weight > 0, weight, weight**2, moved, moved**2, moved * weight], axis=2)
    cells = replace(cells, sums=columns)

    def studentized(totals):
        total = group_totals(totals, cells.codes[:, 0], n_groups)[:, :, 0]  # (b, G, columns)
        n, rows, squares = (total[..., i : i + 1] for i in range(3))
        first, second, mixed = (total[..., 3 + i * n_moved : 3 + (i + 1) * n_moved] for i in range(3))
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = first / rows
            variance = np.maximum(second - 2 * mean * mixed + mean**2 * squares, 0) / rows**2 * n / (n - 1)
        did, both = mean - mean[:, [reference]], variance + variance[:, [reference]]
        return np.moveaxis(did, 1, -1), np.moveaxis(np.sqrt(both), 1, -1)  # (b, A - 1, G)

    (did,), (se,) = studentized(observed(cells))
    draws = [studentized(totals) for totals in resample(cells, n_boot, seed)]
    draw, draw_se = (np.concatenate(parts) for parts in zip(*draws))
    with np.errstate(invalid="ignore", divide="ignore"):
        t_values = np.where(draw == did, 0, (draw - did) / draw_se)
    lower, upper = np.quantile(t_values, [alpha / 2, 1 - alpha / 2], axis=0, method="nearest")
    did[:, reference] = np.nan
    return did, did - upper * se, did - lower * se


def verdicts(question: Contrast, margin: float, alpha: float = 0.05, p_value: np.ndarray | None = None) -> np.ndarray:
    """Name what the data can say about each cell; "no significant difference" alone is never a verdict.

    Parameters
    ----------
    question : Contrast
    alpha : float
        Level of the tests.
    margin : float, > 0
        Changes within +- margin do not matter, in the unit of the estimate.
    p_value : array, optional
        P-values to use, such as ones adjusted over a family; default: the contrast's own.

    Returns
    -------
    verdict : array of str, "" where not estimable
        `changed`: p <= alpha. `equivalent`: the (1 - 2 alpha) interval lies within the margin (two one-sided tests).
        `changed_within_margin`: both. `undetermined`: neither.

    Raises
    ------
    ValueError
        The margin is not positive.
    """
    if not margin > 0:
        raise ValueError(f"an equivalence margin is positive, got {margin}")
    low, high = question.interval(2 * alpha)
    p_value = question.p_value() if p_value is None else p_value
    changed, within = p_value <= alpha, (low > -margin) & (high < margin)
    names = np.select([changed & within, changed, within], ["changed_within_margin", "changed", "equivalent"],
                      "undetermined")  # fmt: skip
    return np.where(np.isfinite(question.estimate), names, "")


def minimal_detectable_effect(se, alpha: float = 0.05, power: float = 0.8, n_group=None):
    """Smallest true effect found with `power` by a two-sided test at `alpha`: 2.80 SE by default.

    Parameters
    ----------
    se : float or array
        Standard error without the effect, of this audit or from `se_from_flips`.
    n_group : float or array, optional
        Rows of the group with the label (divided by the design effect). A change of a rate by delta needs flips of its
        own, which add delta (1 - delta) / n_group to the variance: with few positives 2.80 SE promises too much.
    """
    factor = (norm.ppf(1 - alpha / 2) + norm.ppf(power)) ** 2
    if n_group is None:
        return np.sqrt(factor) * np.asarray(se)
    share = factor / np.asarray(n_group, dtype=float)  # delta**2 = factor se**2 + share delta (1 - delta), solved
    return (share + np.sqrt(share**2 + 4 * (1 + share) * factor * np.asarray(se) ** 2)) / (2 * (1 + share))


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


def cluster_robust_did(difference, group, patient, reference: int = 0, correction: str | None = "groups"):
    """Cluster-robust (Wald) difference in differences: OLS of arm minus baseline on group, clustered by patient.

    Parameters
    ----------
    difference : array, shape (rows,)
        Arm minus baseline, for example of two 0 / 1 decisions.
    group : int array, shape (rows,), from 0
    patient : array, shape (rows,)
    correction : {"groups", "statsmodels", None}
        Small-sample factor: n / (n - 1) patients of each group; P / (P - 1) x (N - 1) / (N - G) as in statsmodels;
        or none.

    Returns
    -------
    did, se : float64, shape (groups,); the reference is 0 and NaN
    """
    difference, group = np.asarray(difference, dtype=float), np.asarray(group)
    codes, ids = patient_codes(patient)
    n_groups, key = int(group.max()) + 1, codes.astype(np.int64) * (int(group.max()) + 1) + group
    weight, total = (np.bincount(key, column, minlength=len(ids) * n_groups).reshape(len(ids), n_groups)
                     for column in (np.ones(len(key)), difference))  # fmt: skip
    psi = influence(weight, total[None])[0]
    n_patients = (weight > 0).sum(axis=0)
    if correction != "groups":
        psi = psi * np.sqrt((n_patients - 1) / n_patients)
    factor = len(ids) / (len(ids) - 1) * (len(key) - 1) / (len(key) - n_groups) if correction == "statsmodels" else 1
    mean = total.sum(axis=0) / weight.sum(axis=0)
    se = np.sqrt(((psi - psi[:, [reference]]) ** 2).sum(axis=0) * factor)
    se[reference] = np.nan
    return mean - mean[reference], se


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
        Numbers of values and patients differ, or `per` is unknown.

    Examples
    --------
    >>> patient_bootstrap([30.0, 31.0, 28.0, 29.0], ["a", "a", "b", "b"], n_boot=200).value
    29.5
    """
    if per not in ("row", "patient"):
        raise ValueError(f"per is 'row' or 'patient', got {per!r}")
    values = np.stack([np.asarray(values, dtype=float)] + ([] if baseline is None else [np.asarray(baseline, float)]))
    patient_ids = np.asarray(patient_ids)
    if values.shape[1:] != patient_ids.shape:
        raise ValueError(f"{values.shape[1]} values but {patient_ids.size} patient ids")
    keep = np.isfinite(values).all(axis=0)
    if not keep.any():
        return Interval(np.nan, np.nan, np.nan, np.nan, 0, n_boot)
    patient, ids = patient_codes(patient_ids[keep])
    n_rows = np.bincount(patient)
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
        function = np.median if statistic == "median" else statistic
        point = np.array([[function(row)] for row in values])
        draws = np.array([[function(np.repeat(row, weight[patient])) for row in values]
                          for weights in patient_weights(len(ids), n_boot, seed) for weight in weights]).T  # fmt: skip
    estimate, draws = (x[0] if baseline is None else x[0] - x[1] for x in (point, draws))
    if len(ids) < 2:
        return Interval(float(estimate[0]), np.nan, np.nan, np.nan, len(ids), n_boot)
    low, high = percentile_interval(draws, alpha)
    return Interval(float(estimate[0]), float(low), float(high), float(draws.std(ddof=1)), len(ids), n_boot)
