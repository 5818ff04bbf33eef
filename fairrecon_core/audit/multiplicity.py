"""Many questions at once: families of tests, more than two groups, several samples and training seeds.

- `step_down_max_t`: adjusted p-values from the joint bootstrap, for claims (Westfall and Young 1993, Romano and Wolf
  2005).
- `holm`, `benjamini_hochberg`: from p-values alone; Benjamini-Hochberg is for exploration.
- `omnibus_test`, `swap_test`: do any groups differ? From the bootstrap; by swapping baseline and arm within patients.
- `nested`: what the choice of a sample or training seed adds to the uncertainty over patients.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import norm, t

from fairrecon_core.audit.engine import Stratum, cell_sums, patient_signs
from fairrecon_core.audit.inference import TIE, Contrast


def step_down_max_t(family: Sequence[Contrast]) -> list[np.ndarray]:
    """P-values adjusted over all estimable cells of all contrasts, using their dependence.

    Parameters
    ----------
    family : sequence of Contrast
        Made with the same seed, patients and `n_boot`: their resamples are one joint bootstrap.

    Returns
    -------
    list of array
        In the shapes of the estimates; the chance that any true null of the family gets p <= alpha is at most alpha.

    Raises
    ------
    ValueError
        If the contrasts have different numbers of resamples.
    """
    n_boot = {len(question.deviations) for question in family}
    if len(n_boot) != 1:
        raise ValueError(f"a family shares its resamples, got n_boot {sorted(n_boot)}: use one n_boot and one seed")
    known = [np.isfinite(question.estimate) for question in family]
    spread = [np.where(keep, q.se, 1) for q, keep in zip(family, known)]
    spread = [np.where(sd > 0, sd, 1) for sd in spread]
    size = np.concatenate([np.abs(q.estimate / sd)[keep] for q, sd, keep in zip(family, spread, known)])
    draws = np.concatenate([np.abs(q.deviations[:, keep] / sd[keep].astype(np.float32)).T
                            for q, sd, keep in zip(family, spread, known)])  # fmt: skip
    order = np.argsort(
        size, kind="stable"
    )  # the largest is compared with the maximum over all, the next without it ...
    largest = np.maximum.accumulate(draws[order], axis=0)
    exceed = (largest >= (size[order, None] * (1 - TIE)).astype(np.float32)).sum(axis=1)
    adjusted = np.empty(len(size))
    adjusted[order] = np.maximum.accumulate(((1 + exceed) / (n_boot.pop() + 1))[::-1])[::-1]
    return _unflatten(adjusted, known)


def _unflatten(values: np.ndarray, known: Sequence[np.ndarray]) -> list[np.ndarray]:
    out, first = [], 0
    for keep in known:
        array = np.full(keep.shape, np.nan)
        array[keep] = values[first : first + keep.sum()]
        out.append(array)
        first += keep.sum()
    return out


def holm(p_values) -> np.ndarray:
    """Holm's step-down adjusted p-values; NaN entries stay NaN and do not count."""
    return _adjust(p_values, lambda p: np.minimum(np.maximum.accumulate(p * np.arange(len(p), 0, -1)), 1))


def benjamini_hochberg(p_values) -> np.ndarray:
    """Adjusted p-values that control the expected share of false discoveries; NaN entries stay NaN and do not count."""
    scaled = lambda p: (p * len(p) / np.arange(1, len(p) + 1))[::-1]
    return _adjust(p_values, lambda p: np.minimum(np.minimum.accumulate(scaled(p))[::-1], 1))


def _adjust(p_values, rule) -> np.ndarray:
    """Apply `rule` to the sorted, defined p-values and put the result back in place."""
    p_values = np.asarray(p_values, dtype=float)
    out = np.full(p_values.shape, np.nan)
    known = np.flatnonzero(~np.isnan(p_values.ravel()))
    order = known[np.argsort(p_values.ravel()[known], kind="stable")]
    if len(order):
        out.ravel()[order] = rule(p_values.ravel()[order])
    return out


class Omnibus(NamedTuple):
    """Wald statistic and p-value of "all groups are alike", and how many groups entered; arrays (S, A or A - 1)."""

    statistic: np.ndarray
    p_value: np.ndarray
    n_groups: np.ndarray


def omnibus_test(question: Contrast) -> Omnibus:
    """Do the groups differ at all? Weighted squares about the common mean, with their null law from the bootstrap.

    Parameters
    ----------
    question : Contrast of kind "level" (do the groups differ?) or "change" (did they change differently?)

    Raises
    ------
    ValueError
        Another kind of question.
    """
    if question.kind not in ("level", "change"):
        raise ValueError(f"an omnibus test takes 'level' or 'change', not '{question.kind}', which has a reference")
    known = np.isfinite(question.estimate) & (question.se > 0)
    weight = np.where(known, 1 / np.where(known, question.se, 1) ** 2, 0)
    statistic = _wald(np.where(known, question.estimate, 0), weight)
    draws = _wald(np.where(known & np.isfinite(question.deviations), question.deviations, 0), weight)
    return _omnibus(statistic, (draws >= statistic * (1 - TIE)).sum(axis=0), len(draws), known.sum(axis=-1))


def swap_test(
    patient, group, strata: Sequence[Stratum], n_groups: int, *, n_draws: int = 10_000, seed: int = 0,
    min_support: int = 10, n_patients: int | None = None,
) -> Omnibus:  # fmt: skip
    """Did the groups change differently? Swaps baseline and arm within random patients; exact when nothing changed.

    The statistic is the cluster-robust Wald statistic of equal changes; of two groups, the squared studentised DiD.
    Being studentised, it also holds (approximately) when all groups changed by the same amount.

    Parameters
    ----------
    patient, group, strata, n_groups, min_support, n_patients
        As in `groups.resample_means`, for one attribute.
    n_draws : int
        Swaps; all strata and arms share them.

    Returns
    -------
    Omnibus, arrays (S, A - 1)
        NaN with fewer than two estimable groups.
    """
    cells = cell_sums(patient, group, strata, n_patients)
    groups = np.flatnonzero(cells.codes[:, 0] >= 0)
    n_strata, n_arms = len(strata), cells.sums.shape[2] - 1
    shape = (n_strata, n_arms - 1, n_groups)
    pieces, fixed = [], {name: np.zeros(shape) for name in ("n", "patients", "square", "weight", "extra")}
    for c in groups:
        part = cells.sums[cells.start[c] : cells.start[c + 1]]
        weight, moved = part[..., :1], part[..., 2:] - part[..., 1:2]  # (units, S, 1), (units, S, A - 1)
        g = cells.codes[c, 0]
        pieces.append(
            (g, cells.patient[cells.start[c] : cells.start[c + 1]], np.stack([moved, moved * weight], axis=1))
        )
        for name, value in (("n", weight), ("patients", weight > 0), ("square", moved**2), ("weight", weight**2)):
            fixed[name][..., g] = value.sum(axis=0, dtype=float)
    rate = np.array([stratum.rate for stratum in strata])[:, None, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        fixed["extra"] = np.where(rate, (fixed["n"] / fixed["patients"]) ** 2, 0)  # two half pseudo-patients
    known = fixed["patients"] >= max(min_support, 2)
    statistic, exceed = None, 0
    for signs in _with_identity(patient_signs(cells.n_patients, n_draws, seed), cells.n_patients):
        sums = np.zeros((2, len(signs), *shape))
        for g, who, columns in pieces:
            product = signs.take(who, axis=1).astype(columns.dtype) @ columns.reshape(len(columns), -1)
            sums[..., g] = np.moveaxis(product.reshape(len(signs), 2, *shape[:2]), 1, 0)
        draws = _swapped_wald(sums, fixed, known)
        if statistic is None:
            statistic = draws[0]
        else:
            exceed = exceed + (draws >= statistic * (1 - TIE) - 1e-12).sum(axis=0)
    return _omnibus(statistic, exceed, n_draws, known.sum(axis=-1))


def _with_identity(signs, n_patients: int):
    """The data themselves first (nobody swapped), then the random swaps."""
    yield np.ones((1, n_patients), dtype=np.int8)
    yield from signs


def _swapped_wald(sums, fixed: dict, known: np.ndarray) -> np.ndarray:
    """Wald statistics (b, S, A - 1) from the signed sums of change and of change x weight, (2, b, S, A - 1, G)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = sums[0] / fixed["n"]
        square = fixed["square"] - 2 * mean * sums[1] + mean**2 * fixed["weight"]
        size = fixed["n"] ** 2 * (fixed["patients"] - 1) / fixed["patients"]
        variance = (np.maximum(square, 0) + fixed["extra"]) / size
        weight = np.where(known & (variance > 0), 1 / variance, 0)
    return _wald(np.where(known, mean, 0), weight)


def _wald(value, weight):
    """Weighted sum of squares about the weighted mean, over the last axis."""
    total = np.maximum(weight.sum(axis=-1, keepdims=True), 1e-300)
    mean = (weight * value).sum(axis=-1, keepdims=True) / total
    return (weight * (value - mean) ** 2).sum(axis=-1)


def _omnibus(statistic, exceed, n_draws: int, n_groups) -> Omnibus:
    enough = n_groups > 1
    return Omnibus(
        np.where(enough, statistic, np.nan), np.where(enough, (1 + exceed) / (n_draws + 1), np.nan), n_groups
    )


class Nested(NamedTuple):
    """Mean over samples or training seeds, with the share of uncertainty they add.

    value : mean over seeds. seed_sd : standard deviation of one seed's estimate around it (patients held fixed).
    se : of `value` with patients and seeds both random. low, high : its interval. n_seeds.
    """

    value: np.ndarray
    seed_sd: np.ndarray
    se: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n_seeds: int


def nested(estimates, patient_se, alpha: float = 0.05) -> Nested:
    """Put samples of a stochastic reconstructor, or training seeds, into an estimate and its uncertainty.

    Parameters
    ----------
    estimates : array, shape (seeds, ...)
        The same statistic (say a DiD) of each seed, on the same patients.
    patient_se : array, shape (...)
        Standard error over patients of the mean over seeds: average the seeds' values within each image first
        (a `Stratum` takes means of decisions), then resample patients.
    alpha : float
        One less the coverage.

    Returns
    -------
    Nested
        With one seed the component is unknown: `seed_sd` is NaN and the interval is that of the patients alone.
    """
    estimates, patient_se = np.asarray(estimates, dtype=float), np.asarray(patient_se, dtype=float)
    n_seeds, value = len(estimates), estimates.mean(axis=0)
    seed_sd = estimates.std(axis=0, ddof=1) if n_seeds > 1 else np.full(value.shape, np.nan)
    part = np.nan_to_num(seed_sd**2 / n_seeds)
    se = np.sqrt(patient_se**2 + part)
    with np.errstate(invalid="ignore", divide="ignore"):
        df = (n_seeds - 1) * np.minimum(se**2 / part, 1e6) ** 2  # Satterthwaite
    half = np.where(part > 0, t.ppf(1 - alpha / 2, df), norm.ppf(1 - alpha / 2)) * se
    return Nested(value, seed_sd, se, value - half, value + half, n_seeds)
