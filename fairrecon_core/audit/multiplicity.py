"""Many questions at once: families of tests, more than two groups, several samples and training seeds.

- `step_down_max_t`: adjusted p-values from the joint bootstrap, for claims (Westfall and Young 1993, Romano and Wolf
  2005).
- `holm`, `benjamini_hochberg`: from p-values alone; Benjamini-Hochberg is for exploration.
- `omnibus_test`, `swap_test`: do any groups differ? From the bootstrap; by swapping baseline and arm within patients.
- `nested`: what the choice of a sample, a training seed or a fold's network adds to the uncertainty over patients.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import chi2, norm, t

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
    parts = [standardised(question, keep) for question, keep in zip(family, known)]
    size, draws = np.concatenate([part[0] for part in parts]), np.concatenate([part[1].T for part in parts])
    order = np.argsort(size, kind="stable")  # the largest meets the maximum over all, the next that without it ...
    largest = np.maximum.accumulate(draws[order], axis=0)
    exceed = (largest >= (size[order, None] * (1 - TIE)).astype(np.float32)).sum(axis=1)
    adjusted = np.empty(len(size))
    adjusted[order] = np.maximum.accumulate(((1 + exceed) / (n_boot.pop() + 1))[::-1])[::-1]
    return _unflatten(adjusted, known)


def standardised(question: Contrast, keep: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sizes (cells,) of the estimates that `keep` names, and of their resamples (B, cells), in standard deviations.

    The deviations' own spread is the yardstick of both: a cell with wider tails than its standard error would
    otherwise set the maximum of a family alone.
    """
    moved = np.abs(question.deviations[:, keep])
    unit = spread(moved)
    unit = np.where(unit > 0, unit, 1)
    return np.abs(question.estimate[keep]) / unit, moved / unit.astype(np.float32)


def spread(deviations: np.ndarray) -> np.ndarray:
    """Root of the mean square over the first axis, float64; the infinitely far count as none."""
    finite = np.isfinite(deviations)
    return np.sqrt(np.mean(np.square(deviations, where=finite, out=np.zeros_like(deviations)), axis=0, dtype=float))


class SingleStep:
    """Single-step max-T of families too large to be held: hand over one contrast after the other, then ask.

    Examples
    --------
    >>> family = SingleStep()
    >>> for question in questions: family.add("within", question, known)  # doctest: +SKIP
    >>> family.p_value("within", size)  # doctest: +SKIP
    """

    def __init__(self) -> None:
        self._largest: dict[str, np.ndarray] = {}

    def add(self, family: str, question: Contrast, keep: np.ndarray) -> np.ndarray:
        """Take the cells of `question` that `keep` names into `family`; their sizes (cells,), for `p_value`."""
        size, draws = standardised(question, keep)
        if size.size:
            largest = draws.max(axis=1)
            self._largest[family] = np.maximum(self._largest.get(family, largest), largest)
        return size

    def p_value(self, family: str, size: np.ndarray) -> np.ndarray:
        """Adjusted p-values of cells of these sizes, once the `family` is complete."""
        ordered = np.sort(self._largest[family])
        below = np.searchsorted(ordered, (size * (1 - TIE)).astype(np.float32), side="left")
        return (1 + len(ordered) - below) / (len(ordered) + 1)


def _unflatten(values: np.ndarray, known: Sequence[np.ndarray]) -> list[np.ndarray]:
    out, first = [], 0
    for keep in known:
        array = np.full(keep.shape, np.nan)
        array[keep] = values[first : first + keep.sum()]
        out.append(array)
        first += keep.sum()
    return out


def adjusted(family: Sequence[Contrast], adjust: str) -> list[np.ndarray]:
    """P-values of a `family`, adjusted by "max_t" or "bh", or as they are; `adjust` says how."""
    raw = [question.p_value() for question in family]
    if adjust == "max_t" and any(np.isfinite(p).any() for p in raw):
        return step_down_max_t(family)
    return split_like(raw, benjamini_hochberg) if adjust == "bh" else raw


def split_like(arrays: Sequence[np.ndarray], adjust) -> list[np.ndarray]:
    """All values of several `arrays` adjusted together by a function `adjust`."""
    flat = adjust(np.concatenate([array.ravel() for array in arrays]))
    ends = np.cumsum([array.size for array in arrays])[:-1]
    return [piece.reshape(array.shape) for piece, array in zip(np.split(flat, ends), arrays)]


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
        who = cells.patient[cells.start[c] : cells.start[c + 1]]
        pieces.append((g, who, np.stack([moved, moved * weight], axis=1)))
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
    enough, p_value = n_groups > 1, (1 + exceed) / (n_draws + 1)
    return Omnibus(np.where(enough, statistic, np.nan), np.where(enough, p_value, np.nan), n_groups)


class Nested(NamedTuple):
    """Mean over replicates (samples, training seeds, folds), with the uncertainty that they add.

    value : mean over replicates. spread : standard deviation of one replicate around it. low, high, p_value : its
    interval and the test of 0 that belongs to it. n : replicates of each cell. NaN with fewer than two.
    """

    value: np.ndarray
    spread: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p_value: np.ndarray
    n: np.ndarray


def nested(estimates, patient_se=None, alpha: float = 0.05) -> Nested:
    """Put samples of a reconstructor, training seeds, or folds into an estimate and its uncertainty.

    Parameters
    ----------
    estimates : array, shape (replicates, ...)
        The same statistic (say a DiD) of each replicate; NaN where there is none.
    patient_se : array, shape (...), optional
        For replicates on the same patients: standard error over patients of the mean over replicates. Without it the
        replicates have patients of their own, as folds do, and their spread is all of the uncertainty.
    alpha : float
        One less the coverage.

    Returns
    -------
    Nested
        Folds: Student's t. Else the law of a normal error (patients) plus an independent Student error (replicates),
        the Behrens-Fisher law: exact where either dominates, a little wide in between, also with two replicates. An
        estimated number of degrees of freedom (Satterthwaite) is too narrow there: it trusts the spread of two.
    """
    estimates = np.asarray(estimates, dtype=float)
    n = (~np.isnan(estimates)).sum(axis=0)
    enough, fewer = n > 1, np.maximum(n - 1, 1)
    value = np.where(enough, np.nansum(estimates, axis=0) / np.maximum(n, 1), np.nan)
    spread = np.sqrt(np.nansum((estimates - value) ** 2, axis=0) / fewer)
    error = spread / np.sqrt(np.maximum(n, 1))
    shape = () if patient_se is None else (256, *([1] * value.ndim))
    points = (np.arange(256).reshape(shape) + 0.5) / 256 if shape else np.empty(0)
    patient = np.zeros(value.shape) if patient_se is None else np.asarray(patient_se, dtype=float)
    scale = np.sqrt(patient**2 + error**2 * fewer / chi2.ppf(points, fewer)) if shape else error

    def tail(size):
        """Chance of a deviation of at least `size`."""
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = size / scale
        return (2 * norm.sf(ratio)).mean(axis=0) if shape else 2 * t.sf(ratio, fewer)

    low, high = np.zeros(value.shape), 2 * (norm.ppf(1 - alpha / 2) * patient + t.ppf(1 - alpha / 2, fewer) * error)
    for _ in range(50):
        middle = (low + high) / 2
        far = tail(middle) > alpha
        low, high = np.where(far, middle, low), np.where(far, high, middle)
    half = np.where(enough, high, np.nan)
    sure = np.where(value == 0, 1.0, 0.0)  # no spread at all
    p_value = np.where(enough, np.where(patient + error > 0, tail(np.abs(value)), sure), np.nan)
    return Nested(value, np.where(enough, spread, np.nan), value - half, value + half, p_value, n)


def replicate_changes(values, weight, codes, n_groups: int, reference) -> tuple[np.ndarray, np.ndarray]:
    """Changes from the baseline in each group and replicate, and the same less the reference's.

    Parameters
    ----------
    values : array, shape (replicates, arms, rows)
        The baseline first; NaN where an arm or the replicate has no value.
    weight : array, shape (rows,) or (replicates, rows)
    codes : int array, shape (rows,)
        Group of every row, -1 unknown.
    n_groups : int
    reference : int or "rest"

    Returns
    -------
    change, did : float64, shape (replicates, arms - 1, groups)
    """
    values = np.asarray(values, dtype=float)
    moved = values[:, 1:] - values[:, :1]  # (replicates, arms - 1, rows)
    weight = np.where(np.isnan(moved), 0, np.broadcast_to(np.atleast_2d(weight)[:, None], moved.shape))
    known = np.flatnonzero(codes >= 0)
    member = np.zeros((len(codes), n_groups))
    member[known, codes[known]] = 1
    total, size = (np.nan_to_num(moved) * weight) @ member, weight @ member
    with np.errstate(invalid="ignore", divide="ignore"):
        change = total / size
        if reference == "rest":
            other = (total.sum(-1, keepdims=True) - total) / (size.sum(-1, keepdims=True) - size)
        else:
            other = change[..., [reference]]
    return change, change - other
