"""Did a group change more than the reference group? Paired, patient-clustered intervals, tests and verdicts.

The estimand is signed: the difference in differences (DiD) of group g,
(mean_g of the arm - mean_g of the baseline) - (the same in the reference group), on the same patients::

    strata = [Stratum("tpr", decisions, truth == 1), Stratum("fpr", decisions, truth == 0)]  # decisions (arms, rows)
    sex, race = resample_means(patient, codes, strata, n_groups=(2, 6), n_boot=10_000, seed=1)
    did = contrast(sex, "did")                     # estimate (strata, arms - 1, groups)
    low, high = did.interval(alpha=0.05)           # the same shape, as did.p_value()
    verdict = verdicts(did, margin=0.05)           # "changed", "equivalent", "undetermined", ...

How an interval is made: deviations of the resamples from the estimate, widened so that their spread is never below the
cluster-robust standard error times t / z (Hesterberg 2015, "expanded percentile"). Intervals are symmetric and dual to
the two-sided p-value (1 + #{|deviation| >= |estimate|}) / (B + 1). Several questions at once: `multiplicity`.

Gaps between the best and the worst group: honest intervals, the gap that noise alone gives, corrected dispersion.

A max-min gap is never below zero, grows with the number of groups and with their smallness, and its bootstrap is biased
upwards; percentile and BCa intervals of it do not cover (0 % at no gap). Here instead:

- `range_interval`: simultaneous intervals of all pairs of groups give [max lower bound, max upper bound] of the gap.
- `change_interval`: the same for arm minus baseline, over the pairs that can be the extreme ones, with the p-value
  that belongs to this interval: at most alpha exactly where 0 lies outside of the (1 - alpha) interval.
- `null_draws`, `noise_band`: what the gap would be were all groups alike, at these group sizes and clusters.
- `dispersion`: spread between groups with the sampling variance taken out (Lum et al. 2022, "double-corrected").

Axes as in `groups`: S strata, A arms, G groups, B resamples. For EODD join the strata of TPR and FPR in `together` and
say how (`agg`): bounds of one set hold simultaneously.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy.stats import norm, t

from fairrecon_core.audit.groups import KINDS, GroupMeans

TIE = 1e-5  # figures this close (relative) are equal: float32 sums of a discrete law
VERDICTS = ("changed", "changed_within_margin", "equivalent", "undetermined")
AGGREGATES: dict[str, tuple[Callable, Callable, Callable]] = {  # of the value, the lower and the upper bound
    "mean": (np.mean, np.mean, np.mean),
    "max": (np.max, np.min, np.max),  # a maximum changes by one of the changes
}


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
        half = _nan_quantile(np.abs(self.deviations), 1 - alpha) / (1 - TIE)  # as wide as the p-value's ties are
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


def _rank(level: float, n: int) -> int:
    """Which of n ordered draws is their quantile, so that p-values (1 + draws beyond) / (n + 1) are dual to it."""
    return min(int(np.ceil(level * (n + 1) - 1e-9)) - 1, n - 1)


def _nan_quantile(values: np.ndarray, level: float) -> np.ndarray:
    """Quantile over the first axis, of a sample with the infinitely far last; NaN columns stay NaN."""
    rank = _rank(level, len(values))
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
        `changed`: p <= alpha. `equivalent`: the (1 - alpha) interval lies within the margin, that is two one-sided
        tests at alpha / 2 each. `changed_within_margin`: both. `undetermined`: neither.

    Raises
    ------
    ValueError
        The margin is not positive.
    """
    if not margin > 0:
        raise ValueError(f"an equivalence margin is positive, got {margin}")
    p_value = question.p_value() if p_value is None else p_value
    return verdicts_of(question.estimate, *question.interval(alpha), p_value, margin, alpha)


def verdicts_of(estimate, low, high, p_value, margin: float, alpha: float = 0.05) -> np.ndarray:
    """The same from figures: `estimate`, its interval `low` to `high`, and `p_value`, arrays of one shape."""
    changed, within = np.asarray(p_value) <= alpha, (np.asarray(low) > -margin) & (np.asarray(high) < margin)
    names = np.select([changed & within, changed, within], ["changed_within_margin", "changed", "equivalent"],
                      "undetermined")  # fmt: skip
    return np.where(np.isfinite(estimate), names, "")


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
    """Value, bounds, p-value of 0; (S, A), of a change (S, A - 1). NaN with fewer than two estimable groups."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p_value: np.ndarray = np.empty(0)


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
        Strata whose bounds hold at once, such as [(0, 1), (2, 3)] for TPR and FPR of two tasks; default: each alone.

    Returns
    -------
    Gap, arrays (S, A)
        The bounds are centred on rates with two pseudo-patients per group, the value is the plain gap.
    """
    n_strata, n_arms = result.value.shape[:2]
    low, high, p_value = np.full((3, n_strata, n_arms), np.nan)
    deviations = contrast(result, "level").deviations
    for strata in [(s,) for s in range(n_strata)] if together is None else together:
        for a in range(n_arms):
            pairs = [_Pairs.of(result.smoothed[s, a], deviations[:, s, a]) for s in strata]
            largest = _largest(pairs)
            width = largest[_rank(1 - alpha, len(largest))] if largest.size else np.nan
            for s, pair in zip(strata, pairs):
                if pair.difference.size:
                    low[s, a], high[s, a] = pair.gap(width)
                    size = (np.abs(pair.difference) / np.maximum(pair.se, 1e-30)).max()
                    p_value[s, a] = (1 + (largest >= size).sum()) / (len(largest) + 1)
    return Gap(group_range(result.value), low, high, p_value)


def change_interval(
    result: GroupMeans, together: Sequence[Sequence[int]] | None = None, alpha: float = 0.05, agg: str = ""
) -> Gap:
    """Change of the max-min gap from the baseline to each arm, with an interval and its p-value.

    The gap can only have changed by the signed change of a pair that may be extreme: the bounds run over the pairs
    whose simultaneous intervals allow them to be the widest in the baseline (below) and in the arm (above), and are no
    wider than the gaps of arm and baseline allow.
    With a clear gap between two groups this is the interval of their DiD; with none it is symmetric about 0. The
    p-value is the share of resamples beyond the widest intervals whose bounds do not hold 0.

    Parameters
    ----------
    result, together, alpha
        As in `range_interval`.
    agg : {"", "mean", "max"}
        How the strata of a set become one figure; "" leaves them apart.

    Returns
    -------
    Gap, arrays (S, A - 1), or (sets, A - 1) with `agg`
    """
    n_strata, n_arms = result.value.shape[:2]
    sets = [[s] for s in range(n_strata)] if together is None else [list(strata) for strata in together]
    gap, level = group_range(result.value), contrast(result, "level").deviations
    moved, change = result.value[:, 1:] - result.value[:, :1], contrast(result, "change").deviations
    out = np.full((4, len(sets) if agg else n_strata, n_arms - 1), np.nan)
    for k, strata in enumerate(sets):
        before = [_Pairs.of(result.smoothed[s, 0], level[:, s, 0]) for s in strata]
        size = AGGREGATES[agg][0](gap[strata], axis=0, keepdims=True) if agg else gap[strata]
        at = [k] if agg else strata
        out[0, at] = size[:, 1:] - size[:, :1]
        for a in range(1, n_arms):
            after = [_Pairs.of(result.smoothed[s, a], level[:, s, a]) for s in strata]
            move = [_Pairs.of(moved[s, a - 1], change[:, s, a - 1]) for s in strata]
            out[1:, at, a - 1] = _bounds_and_p(list(zip(before, after, move)), alpha, agg)
    return Gap(*out)


def _bounds_and_p(strata: list[tuple["_Pairs", "_Pairs", "_Pairs"]], alpha: float, agg: str) -> np.ndarray:
    """Bounds and p-values (3, strata), or (3, 1) of their aggregate, from each stratum's pairs: before, after, move."""
    known = np.array([move.difference.size > 0 for *_, move in strata])
    out = np.full((3, 1 if agg else len(strata)), np.nan)
    if not (known.all() if agg else known.any()):
        return out
    largest = _largest([pairs for stratum in strata for pairs in stratum])

    def bounds(width: float) -> np.ndarray:
        each = np.array([_bounds(*stratum, width) for stratum in strata]).T
        return np.array([[AGGREGATES[agg][1](each[0])], [AGGREGATES[agg][2](each[1])]]) if agg else each

    out[:2] = bounds(largest[_rank(1 - alpha, len(largest))])
    for i in range(out.shape[1]):
        holds_zero = lambda width, i=i: bool(np.prod(bounds(width)[:, i]) <= 0)
        first = bisect_left([*map(float, largest)], True, key=holds_zero) if np.isfinite(out[0, i]) else np.nan
        out[2, i] = (1 + len(largest) - first) / (len(largest) + 1)
    return out


def _bounds(before: "_Pairs", after: "_Pairs", move: "_Pairs", width: float) -> tuple[float, float]:
    """What the gap can have changed by, at a width of the simultaneous intervals; NaN with fewer than two groups."""
    if not move.difference.size:
        return np.nan, np.nan
    lower, upper = move.bounds(width)
    (least, most), (least_before, most_before) = after.gap(width), before.gap(width)
    low = max(lower[before.may_be_widest(width)].min(), least - most_before)
    return low, min(upper[after.may_be_widest(width)].max(), most - least_before)


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

    def gap(self, width: float) -> tuple[float, float]:
        """Bounds of the largest difference."""
        half = width * self.se
        return max(0.0, (np.abs(self.difference) - half).max()), (np.abs(self.difference) + half).max()

    def may_be_widest(self, width: float) -> np.ndarray:
        """Which ordered pairs the simultaneous bounds allow to be the widest."""
        lower, upper = self.bounds(width)
        return upper >= lower.max()


def _largest(pairs: Sequence[_Pairs]) -> np.ndarray:
    """Largest standardised deviation over all pairs of all sets, of each resample, ordered; empty without pairs."""
    largest = [one.deviations.max(axis=0) for one in pairs if one.difference.size]
    return np.sort(np.max(largest, axis=0)) if largest else np.empty(0)


def null_draws(result: GroupMeans, n_draws: int = 1000) -> np.ndarray:
    """Group means as they would fall were all groups alike.

    Each group keeps its own patients with all their rows and arms, so its own noise; only its mean is moved to that of
    all groups together. The first `n_draws` resamples of `result` serve. Returns float64 (n_draws, S, A, G), NaN for
    groups below the minimum support; any gap measure of them is that measure's null distribution.
    """
    few = replace(result, resamples=result.resamples[:n_draws])
    weight = np.where(np.isnan(result.value), 0, result.n_rows[:, None, :])
    total = np.maximum(weight.sum(axis=-1, keepdims=True), 1e-30)
    pooled = (np.nan_to_num(result.value) * weight).sum(axis=-1, keepdims=True) / total
    draws = pooled + contrast(few, "level").deviations
    return np.where(np.isfinite(draws), draws, np.nan)


def noise_band(null_gaps: np.ndarray, alpha: float = 0.05) -> Gap:
    """Expected gap and its central (1 - alpha) range with no true disparity, over the first axis of `null_gaps`.

    For a max-min gap `null_gaps` is `group_range(null_draws(...))`; for EODD the mean of two of its strata.
    """
    return Gap(np.mean(null_gaps, axis=0), *np.quantile(null_gaps, [alpha / 2, 1 - alpha / 2], axis=0))


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
