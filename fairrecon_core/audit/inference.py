"""Did a group change more than the reference group? Paired, patient-clustered intervals, tests and verdicts.

The estimand is signed: the difference in differences (DiD) of group g,
(mean_g of the arm - mean_g of the baseline) - (the same in the reference group), on the same patients::

    patient, ids = patient_codes(table["patient_id"])
    strata = [Stratum("tpr", decisions, truth == 1), Stratum("fpr", decisions, truth == 0)]  # decisions (arms, rows)
    sex, race = resample_means(patient, codes, strata, n_groups=(2, 6), n_boot=10_000, seed=1, n_patients=len(ids))
    did = contrast(sex, "did")                     # estimate (strata, arms - 1, groups)
    low, high = did.interval(alpha=0.05)           # the same shape, as did.p_value()
    verdict = verdicts(did, margin=0.05)           # "changed", "equivalent", "undetermined", ...

Several questions at once, more than two groups: `multiplicity`.
How an interval is made: deviations of the resamples from the estimate, widened so that their spread is never below the
cluster-robust standard error times t / z (Hesterberg 2015, "expanded percentile"). Intervals are symmetric and dual to
the two-sided p-value (1 + #{|deviation| >= |estimate|}) / (B + 1).

Gaps between the best and the worst group: honest intervals, the gap that noise alone gives, corrected dispersion.

A max-min gap is never below zero, grows with the number of groups and with their smallness, and its bootstrap is biased
upwards; percentile and BCa intervals of it do not cover (0 % at no gap). Here instead:

- `range_interval`: simultaneous intervals of all pairs of groups give [max lower bound, max upper bound] of the gap.
- `change_interval`: the same for arm minus baseline, over the pairs that can be the extreme ones.
- `null_means`, `noise_band`: what the gap would be were all groups alike, at these group sizes and clusters.
- `dispersion`: spread between groups with the sampling variance taken out (Lum et al. 2022, "double-corrected").

Axes as in `groups`: S strata, A arms, G groups, B resamples. For EODD join the strata of TPR and FPR in `together`,
then average (or take the larger of) their values, lower and upper bounds: bounds of one set hold simultaneously.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.stats import norm, t

from fairrecon_core.audit.engine import Stratum, cell_sums
from fairrecon_core.audit.groups import KINDS, GroupMeans

TIE = 1e-5  # figures this close (relative) are equal: float32 sums of a discrete law
VERDICTS = ("changed", "changed_within_margin", "equivalent", "undetermined")
MANY_PATIENTS = 300  # sums over more patients than this are drawn from their normal limit


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


# ---------------------------------------------------------------------- gaps between the best and the worst group
class Gap(NamedTuple):
    """Value and bounds, each of shape (S, A), or (S, A - 1) for a change; NaN with fewer than two estimable groups."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


def group_range(values: np.ndarray) -> np.ndarray:
    """Largest minus smallest over the last axis; NaN entries are left out, NaN where fewer than two are defined."""
    defined = ~np.isnan(values)
    top = np.max(values, axis=-1, where=defined, initial=-np.inf)
    bottom = np.min(values, axis=-1, where=defined, initial=np.inf)
    return np.where(defined.sum(axis=-1) > 1, top - bottom, np.nan)


def range_interval(result: GroupMeans, together: Sequence[Sequence[int]] | None = None, alpha: float = 0.05) -> Gap:
    """Max-min gap of each stratum and arm, with an interval that also holds where there is no gap.

    Parameters
    ----------
    result : GroupMeans
    alpha : float
        One less the coverage.
    together : sequence of sequences of int, optional
        Strata whose bounds are to hold at once, such as [(0, 1), (2, 3)] for TPR and FPR of two tasks; default: each
        alone.

    Returns
    -------
    Gap, arrays (S, A)
        The bounds are centred on rates with two pseudo-patients per group, the value is the plain gap.
    """
    n_strata, n_arms = result.value.shape[:2]
    low, high = np.full((2, n_strata, n_arms), np.nan)
    deviations = contrast(result, "level").deviations
    for strata in [(s,) for s in range(n_strata)] if together is None else together:
        for a in range(n_arms):
            pairs = [_Pairs.of(result.smoothed[s, a], deviations[:, s, a]) for s in strata]
            width = _simultaneous(pairs, alpha)
            for s, pair in zip(strata, pairs):
                if pair.difference.size:
                    low[s, a] = max(0.0, (np.abs(pair.difference) - width * pair.se).max())
                    high[s, a] = (np.abs(pair.difference) + width * pair.se).max()
    return Gap(group_range(result.value), low, high)


def change_interval(result: GroupMeans, together: Sequence[Sequence[int]] | None = None, alpha: float = 0.05) -> Gap:
    """Change of the max-min gap from the baseline to each arm, with an interval.

    The gap can only have changed by the signed change of a pair that may be extreme: the bounds run over the pairs
    whose simultaneous intervals allow them to be the widest in the baseline (below) and in the arm (above).
    With a clear gap between two groups this is the interval of their DiD; with none it is symmetric about 0.

    Parameters
    ----------
    result, together, alpha
        As in `range_interval`.

    Returns
    -------
    Gap, arrays (S, A - 1)
    """
    n_strata, n_arms = result.value.shape[:2]
    gap = group_range(result.value)
    low, high = np.full((2, n_strata, n_arms - 1), np.nan)
    level = contrast(result, "level").deviations
    moved, change = result.value[:, 1:] - result.value[:, :1], contrast(result, "change").deviations
    for strata in [(s,) for s in range(n_strata)] if together is None else together:
        before = [_Pairs.of(result.smoothed[s, 0], level[:, s, 0]) for s in strata]
        for a in range(1, n_arms):
            after = [_Pairs.of(result.smoothed[s, a], level[:, s, a]) for s in strata]
            move = [_Pairs.of(moved[s, a - 1], change[:, s, a - 1]) for s in strata]
            width = _simultaneous(before + after + move, alpha)
            for i, s in enumerate(strata):
                if move[i].difference.size:
                    lower, upper = move[i].bounds(width)
                    low[s, a - 1] = lower[before[i].may_be_widest(width)].min()
                    high[s, a - 1] = upper[after[i].may_be_widest(width)].max()
    return Gap(gap[:, 1:] - gap[:, :1], low, high)


class _Pairs(NamedTuple):
    """All pairs of estimable groups: difference and standard error (pairs,), standardised deviations (B, pairs)."""

    difference: np.ndarray
    se: np.ndarray
    deviations: np.ndarray

    @classmethod
    def of(cls, value: np.ndarray, deviations: np.ndarray) -> "_Pairs":
        groups = np.flatnonzero(~np.isnan(value))
        first, second = (groups[index] for index in np.triu_indices(len(groups), 1))
        columns = np.ascontiguousarray(deviations.T)
        moved = np.where(np.isfinite(columns), columns, 0)  # a group that vanished from a resample says nothing
        apart = moved[first] - moved[second]
        se = np.sqrt(np.mean(np.square(apart), axis=1)).astype(float)
        return cls(value[first] - value[second], se, np.abs(apart) / np.maximum(se, 1e-30)[:, None])

    def bounds(self, width: float) -> tuple[np.ndarray, np.ndarray]:
        """Simultaneous bounds of the ordered pairs, first as they are, then swapped."""
        signed, half = np.concatenate([self.difference, -self.difference]), width * np.tile(self.se, 2)
        return signed - half, signed + half

    def may_be_widest(self, width: float) -> np.ndarray:
        """Which ordered pairs the simultaneous bounds allow to be the widest."""
        lower, upper = self.bounds(width)
        return upper >= lower.max()


def _simultaneous(pairs: Sequence[_Pairs], alpha: float) -> float:
    """Quantile of the largest standardised deviation over all pairs of all sets."""
    largest = [one.deviations.max(axis=0) for one in pairs if one.difference.size]
    return float(np.quantile(np.max(largest, axis=0), 1 - alpha)) if largest else np.nan


def null_means(
    patient,
    group,
    strata: Sequence[Stratum],
    n_groups: int,
    *,
    n_draws: int = 1000,
    seed: int = 0,
    min_support: int = 10,
) -> np.ndarray:
    """Group means as they would fall were every group a draw from all patients together.

    Each group keeps its number of patients in the stratum; patients come with all their rows and all arms.

    Parameters
    ----------
    patient, group : int array, shape (rows,)
        As in `groups.resample_means`, for one attribute.
    strata : sequence of Stratum
    n_groups, n_draws, seed : int
        Groups of the attribute; draws from the null; their seed.
    min_support : int
        Patients that a group needs in a stratum.

    Returns
    -------
    draws : float64, shape (n_draws, S, A, G)
        NaN for groups below the minimum support. Any gap measure of them is that measure's null distribution.
    """
    cells = cell_sums(patient, group, strata)
    code = cells.unit_codes[:, 0]
    draws = np.full((n_draws, len(strata), cells.sums.shape[2] - 1, n_groups), np.nan)
    for s in range(len(strata)):
        rows = (code >= 0) & (cells.sums[:, s, 0] > 0)
        sums, n_patients = cells.sums[rows, s].astype(float), np.bincount(code[rows], minlength=n_groups)
        for g in np.flatnonzero(n_patients >= max(min_support, 1)):
            totals = _draw_totals(sums, n_patients[g], n_draws, np.random.default_rng([seed, s, int(g)]))
            draws[:, s, :, g] = totals[:, 1:] / totals[:, :1]
    return draws


def _draw_totals(sums: np.ndarray, size: int, n_draws: int, rng: np.random.Generator) -> np.ndarray:
    """Sums over `size` patients drawn with replacement from `sums` (patients, columns): shape (n_draws, columns)."""
    if size <= MANY_PATIENTS:
        return sums[rng.integers(0, len(sums), (n_draws, size))].sum(axis=1)
    mean, covariance = size * sums.mean(axis=0), size * np.cov(sums.T, ddof=0)
    return rng.multivariate_normal(mean, covariance, n_draws, method="eigh")


def noise_band(null_gaps: np.ndarray, alpha: float = 0.05) -> Gap:
    """Expected gap and its central (1 - alpha) range with no true disparity, over the first axis of `null_gaps`.

    For a max-min gap `null_gaps` is `group_range(null_means(...))`; for EODD the mean of two of its strata.
    """
    low, high = np.quantile(null_gaps, [alpha / 2, 1 - alpha / 2], axis=0)
    return Gap(np.mean(null_gaps, axis=0), low, high)


def dispersion(result: GroupMeans) -> np.ndarray:
    """Standard deviation between groups, sampling variance taken out; its square is unbiased.

    Returns
    -------
    sd : float64, shape (S, A)
        Negative where groups differ less than chance makes them (the square root of the absolute value, signed);
        NaN with fewer than two estimable groups.
    """
    known = ~np.isnan(result.value)
    n = known.sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(known, result.value, 0).sum(axis=-1, keepdims=True) / n[..., None]
        between = np.where(known, (result.value - mean) ** 2, 0).sum(axis=-1) / (n - 1)
        corrected = between - np.where(known, result.variance, 0).sum(axis=-1) / n
    return np.where(n > 1, np.sign(corrected) * np.sqrt(np.abs(corrected)), np.nan)
