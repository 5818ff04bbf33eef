"""Means of every stratum, arm and subgroup: joint bootstrap by patient, cluster-robust standard errors.

`resample_means` takes rows, `resample_aurocs` scores; both return `GroupMeans`, to which `inference.contrast` puts
questions. Axes: S strata, A arms (the baseline is 0), G groups, B resamples, P patients; NaN where a group has too few.
Standard errors come from each patient's influence on the mean, so several rows of a patient and a patient in two groups
are taken into account. For rates two pseudo-patients per group enter them (Agresti and Caffo 2000 for levels, Agresti
and Min 2005 for paired changes): ten patients without a single flipped decision are not certainty.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from fairrecon_core.audit.engine import (
    CellSums,
    Stratum,
    cell_sums,
    fold_placements,
    group_totals,
    means,
    observed,
    resample,
)

KINDS = ("level", "gap", "change", "did")
Reference = int | Literal["rest"]  # number of a group, or all the others


@dataclass(frozen=True)
class GroupMeans:
    """Means of every stratum, arm and group of one attribute, with their joint bootstrap.

    value : float64, (S, A, G); smoothed : the same with two pseudo-patients where the stratum is a rate.
    resamples : float32, (B, S, A, G).
    reference : index of the reference group, or "rest": every group is compared with all the others together.
    reference_value, reference_resamples : as above, last axis 1 (one group) or G ("rest").
    variance : float64, (S, A, G), cluster-robust, of `value`, no pseudo-patients.
    se, df : by kind of contrast, (S, A or A - 1, G): standard error and its degrees of freedom.
    n_patients : (S, G) patients with a row in stratum and group; n_rows : (S, G) the sum of weights.
    """

    value: np.ndarray
    smoothed: np.ndarray
    resamples: np.ndarray
    reference: Reference
    reference_value: np.ndarray
    reference_resamples: np.ndarray
    variance: np.ndarray
    se: dict[str, np.ndarray]
    df: dict[str, np.ndarray]
    n_patients: np.ndarray
    n_rows: np.ndarray


def resample_means(
    patient,
    codes,
    strata: Sequence[Stratum],
    n_groups: Sequence[int],
    *,
    n_boot: int = 10_000,
    seed: int = 0,
    reference: int | str | Sequence[int | str] = "largest",
    min_support: int = 10,
    n_patients: int | None = None,
) -> list[GroupMeans]:
    """Means of all groups of all attributes, resampled jointly by patient.

    Parameters
    ----------
    patient : int array, shape (rows,)
        From `engine.patient_codes`.
    codes : int array, shape (rows, attributes)
        Group of each row, -1 unknown. An intersection of attributes is one more column.
    strata : sequence of Stratum
        What is averaged over which rows, for all arms, the baseline first.
    n_groups : sequence of int
        Groups of each attribute.
    n_boot, seed : int
        Resamples of patients; their seed.
    reference : "largest", "rest" or a group's number; or one of these for each attribute
        "largest" is the group with the most patients.
    min_support : int
        Groups with fewer patients in a stratum are NaN there.
    n_patients : int, optional
        Patients to resample; hand over the cohort's number, so that all calls share their weights.

    Returns
    -------
    list of GroupMeans, one for each attribute

    Raises
    ------
    ValueError
        On inconsistent shapes, undefined values, no rows, or an unknown reference.
    """
    patient = np.asarray(patient)
    codes = np.asarray(codes).reshape(len(patient), len(n_groups))
    if not len(patient) or not strata:
        raise ValueError("nothing to average: no rows, or no strata")
    if (codes.max(axis=0) >= np.asarray(n_groups)).any():
        raise ValueError(f"group codes reach {codes.max(axis=0).tolist()}, but n_groups is {list(n_groups)}")
    cells = cell_sums(patient, codes, strata, n_patients)
    references = [reference] * len(n_groups) if isinstance(reference, int | str) else list(reference)
    wanted = [_as_reference(cells, i, n, which) for i, (n, which) in enumerate(zip(n_groups, references))]
    rate = np.array([stratum.rate for stratum in strata])
    point = [_group_values(observed(cells), cells, i, n, which) for i, (n, which) in enumerate(zip(n_groups, wanted))]
    drawn = [[np.empty((n_boot, *array.shape[1:]), np.float32) for array in arrays] for arrays in point]
    first = 0
    for totals in resample(cells, n_boot, seed):
        for i, (n, which) in enumerate(zip(n_groups, wanted)):
            for kept, part in zip(drawn[i], _group_values(totals, cells, i, n, which)):
                kept[first : first + len(totals)] = part
        first += len(totals)
    out = []
    for i, (n, which) in enumerate(zip(n_groups, wanted)):
        value, reference_value = (array[0] for array in point[i])
        spread = _Spread.of(cells, i, n, which, rate, min_support)
        few = (spread.n_patients < max(min_support, 2))[:, None, :]
        hidden = few if which == "rest" else few[..., [which]]
        for kept, lost in zip(drawn[i], (few, hidden)):
            kept[np.broadcast_to(lost, kept.shape)] = np.nan
        out.append(
            GroupMeans(
                value=np.where(few, np.nan, value),
                smoothed=np.where(few, np.nan, spread.smoothed),
                resamples=drawn[i][0],
                reference=which,
                reference_value=np.where(hidden, np.nan, reference_value),
                reference_resamples=drawn[i][1],
                variance=np.where(few, np.nan, spread.variance),
                se=spread.se,
                df=spread.df,
                n_patients=spread.n_patients,
                n_rows=spread.n_rows,
            )
        )
    return out


def _as_reference(cells: CellSums, attribute: int, n_groups: int, reference: int | str) -> Reference:
    if reference == "largest":
        code = cells.unit_codes[:, attribute]
        known = np.unique(np.stack([code, cells.patient])[:, code >= 0], axis=1)[0]
        return int(np.bincount(known, minlength=n_groups).argmax())
    if reference == "rest":
        return "rest"
    if not isinstance(reference, str) and 0 <= reference < n_groups:
        return reference
    raise ValueError(f"unknown reference {reference!r}: choose 'largest', 'rest' or a group from 0 to {n_groups - 1}")


def _group_values(totals, cells: CellSums, attribute: int, n_groups: int, reference: Reference):
    """Means by group and of the reference, each (b, S, A, G or 1)."""
    by_group = group_totals(totals, cells.codes[:, attribute], n_groups)  # (b, G, S, 1 + A)
    other = by_group.sum(axis=1, keepdims=True) - by_group if reference == "rest" else by_group[:, [reference]]
    dtype = np.float64 if len(totals) == 1 else np.float32
    return [np.ascontiguousarray(np.moveaxis(means(part), 1, -1), dtype=dtype) for part in (by_group, other)]


@dataclass(frozen=True)
class _Spread:
    """Cluster-robust standard errors of one attribute, from each patient's influence."""

    variance: np.ndarray
    smoothed: np.ndarray
    se: dict[str, np.ndarray]
    df: dict[str, np.ndarray]
    n_patients: np.ndarray
    n_rows: np.ndarray

    @classmethod
    def of(
        cls, cells: CellSums, attribute: int, n_groups: int, reference, rate: np.ndarray, min_support: int
    ) -> "_Spread":
        code = cells.unit_codes[:, attribute]
        known = code >= 0
        where = cells.patient[known] * n_groups + code[known]
        size = cells.n_patients * n_groups
        parts = []
        for s in range(len(rate)):
            columns = cells.sums[known, s].T  # (1 + A, units)
            dense = np.stack([np.bincount(where, column, minlength=size) for column in columns])
            dense = dense.reshape(len(columns), cells.n_patients, n_groups)
            parts.append(_spread_of_stratum(dense[0], dense[1:], reference, rate[s], min_support))
        stack = lambda name: np.stack([part[name] for part in parts])
        se, df = ({kind: stack((name, kind)) for kind in KINDS} for name in ("se", "df"))
        return cls(stack("variance"), stack("smoothed"), se, df, stack("n_patients"), stack("n_rows"))


def _spread_of_stratum(weight, total, reference: Reference, rate: bool, min_support: int) -> dict:
    """Standard errors in one stratum from its sums by patient and group: weight (P, G), total (A, P, G)."""
    own = _sides(weight, total, rate, min_support)
    others: Sequence[_Side]
    if reference == "rest":
        remaining = weight.sum(axis=1, keepdims=True) - weight, total.sum(axis=2, keepdims=True) - total
        others = _sides(*remaining, rate, min_support)
    else:
        others = [_Side(*(part[..., [reference]] for part in side)) for side in own]
    out: dict[str | tuple[str, str], np.ndarray] = {"n_patients": own[0].n_patients, "n_rows": weight.sum(axis=0)}
    out |= {"variance": own[0].variance, "smoothed": own[0].value}
    for a, b, alone, compared in zip(own, others, ("level", "change"), ("gap", "did")):
        variance, variance_b = a.variance + a.extra, b.variance + b.extra
        out["se", alone], out["df", alone] = np.sqrt(variance), np.broadcast_to(a.n_patients - 1, variance.shape)
        with np.errstate(invalid="ignore", divide="ignore"):  # Satterthwaite
            out["se", compared] = np.sqrt(_squares(a.psi - b.psi) + a.extra + b.extra)
            df = (variance + variance_b) ** 2 / (variance**2 / (a.n_patients - 1) + variance_b**2 / (b.n_patients - 1))
        out["df", compared] = np.where(np.isfinite(df), df, np.minimum(a.n_patients, b.n_patients) - 1)
    return out


class _Side(NamedTuple):
    """One side of a comparison: the groups, or what they are compared with (last axis G or 1).

    psi (A, P, G) influence; variance (A, G) its sum of squares; extra (A, G) variance of the pseudo-patients;
    value (A, G) smoothed mean; n_patients (G,). With A - 1 instead of A for arm minus baseline.
    """

    psi: np.ndarray
    variance: np.ndarray
    extra: np.ndarray
    value: np.ndarray
    n_patients: np.ndarray


def _sides(weight, total, rate: bool, min_support: int) -> tuple[_Side, _Side]:
    """Levels, and changes from the baseline."""
    n_patients, change = (weight > 0).sum(axis=0), total[1:] - total[:1]
    psi = influence(weight, total)
    moved = psi[1:] - psi[:1]
    variance, variance_moved = _squares(psi), _squares(moved)
    mean = _ratio(total.sum(axis=1), weight.sum(axis=0))
    extra, extra_moved = np.zeros_like(variance), np.zeros_like(variance_moved)
    if rate:
        pooled = n_patients >= min_support
        mean, extra = _smoothed_level(weight, mean, variance, pooled)
        extra_moved = _smoothed_change(weight, change, variance_moved, pooled)
    return (_Side(psi, variance, extra, mean, n_patients),
            _Side(moved, variance_moved, extra_moved, mean[1:] - mean[:1], n_patients))  # fmt: skip


def _squares(psi):
    """Sum of squares over patients: (A, P, G) to (A, G)."""
    return np.einsum("apg,apg->ag", psi, psi)


def _ratio(total, weight):
    with np.errstate(invalid="ignore", divide="ignore"):
        return total / weight


def influence(weight: np.ndarray, total: np.ndarray) -> np.ndarray:
    """How much each patient moves each group's mean: squares add up to its cluster-robust variance.

    Parameters
    ----------
    weight : array, shape (patients, groups)
        Rows (or their weight) of the patient in the group.
    total : array, shape (arms, patients, groups)
        Sum of the values of those rows.

    Returns
    -------
    influence : float64, shape (arms, patients, groups)
        (total - mean x weight) / (sum of weights), times sqrt(n / (n - 1)) for the n patients of the group.
    """
    n_patients = (weight > 0).sum(axis=0)
    mean = _ratio(total.sum(axis=1), weight.sum(axis=0))  # (arms, groups)
    with np.errstate(invalid="ignore", divide="ignore"):  # one patient: no variance to see
        scale = np.sqrt(n_patients / (n_patients - 1.0)) / weight.sum(axis=0)
        return (total - mean[:, None] * weight) * scale


def _smoothed_level(weight, rate, variance, pooled):
    """Rates with one success and one failure more among the effective rows, and the variance this adds (at least 0).

    Effective rows are rows / design effect, which is pooled over the groups named by `pooled`, bool (G,); where all
    agree there, patients are taken as all or nothing (Agresti and Caffo 2000). Returns two arrays (A, G).
    """
    n = weight.sum(axis=0)
    size = _ratio(n, (weight > 0).sum(axis=0))  # rows of a mean patient
    plain = rate * (1 - rate)
    effect = _ratio((variance * n**2)[:, pooled].sum(axis=1), (plain * n)[:, pooled].sum(axis=1))[:, None]
    effect = np.clip(np.where(np.isfinite(effect), effect, size), 1, np.maximum(size, 1))
    smoothed = _ratio(rate * n / effect + 1, n / effect + 2)
    return smoothed, np.maximum(smoothed * (1 - smoothed) / (n / effect + 2) - _ratio(plain * effect, n), 0)


def _smoothed_change(weight, change, variance, pooled):
    """Variance added by two patients more, one of whom changed, half up and half down; (A - 1, G), at least 0.

    By which share of the rows a patient changes who changes at all is pooled likewise (Agresti and Min 2005).
    """
    n = weight.sum(axis=0)
    size = _ratio(n, (weight > 0).sum(axis=0))
    seen = np.divide(change, weight, out=np.zeros_like(change, dtype=float), where=weight > 0)[..., pooled]
    square = _ratio((seen**2).sum(axis=(1, 2)), (seen != 0).sum(axis=(1, 2)))[:, None]
    square = np.where(np.isfinite(square), square, 1) * size**2
    return np.maximum((variance * n**2 + square) / (n + 2 * size) ** 2 - variance, 0)


def with_shift(result: GroupMeans, shift: np.ndarray, seed: int) -> GroupMeans:
    """Add to `result`, of one stratum, an independent error: draws `shift` (n, A, G) of its means, picked by `seed`."""
    n_rows, shift = result.n_rows[0], shift - shift.mean(axis=0)
    if result.reference == "rest":
        whole = np.nansum(shift * n_rows, axis=-1, keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            other = (whole - np.nan_to_num(shift) * n_rows) / (n_rows.sum() - n_rows)
    else:
        other = shift[..., [result.reference]]
    drawn = np.random.default_rng([seed, 2]).integers(0, len(shift), len(result.resamples))
    moved = {"level": shift, "gap": shift - other}
    moved |= {"change": shift[:, 1:] - shift[:, :1], "did": moved["gap"][:, 1:] - moved["gap"][:, :1]}
    se = {kind: np.sqrt(result.se[kind] ** 2 + np.mean(part**2, axis=0)) for kind, part in moved.items()}
    both = [draws + part[drawn][:, None].astype(np.float32)
            for draws, part in ((result.resamples, shift), (result.reference_resamples, other))]  # fmt: skip
    return replace(result, resamples=both[0], reference_resamples=both[1], se=se)


def resample_aurocs(
    patient, group, scores, truth, n_groups: int, *, n_boot=10_000, seed=0, reference="largest", min_support=10,
    n_patients: int | None = None, fold=None,
) -> GroupMeans:  # fmt: skip
    """AUROC of every group and arm with its patient bootstrap, linearised by placement values (within the group).

    Scores of networks of different folds have no common scale: positives are compared with the negatives of their own
    fold, and an AUROC is the mean over folds, weighted by their positives.

    Parameters
    ----------
    scores : array, shape (arms, rows), the baseline first
    truth : array, shape (rows,), 0 or 1
    patient, group : int array, shape (rows,); group -1 is unknown
    n_groups : int
    n_boot, seed, min_support, n_patients
        As in `resample_means`.
    reference : "largest" or a group's number
    fold : int array, shape (rows,), optional
        Whose network gave the score.

    Returns
    -------
    GroupMeans
        One stratum; a group needs `min_support` patients with and as many without the label. `n_rows` counts the
        positives, `n_patients` the patients of the scarcer label.

    Raises
    ------
    ValueError
        The reference is "rest", or a score is not finite.
    """
    scores, truth, group = np.asarray(scores, dtype=float), np.asarray(truth), np.asarray(group)
    if reference == "rest":
        raise ValueError("an AUROC has no reference 'rest': choose 'largest' or a group's number")
    if not np.isfinite(scores).all():
        raise ValueError(f"{int((~np.isfinite(scores)).sum())} of {scores.size} scores are undefined: drop those rows")
    value, weight = fold_placements(scores, truth, group, n_groups, fold)
    for g in range(n_groups) if fold is not None else ():  # that folds differ in AUROC is no spread between patients
        own = weight[0] * (group == g)
        mean = value @ own / max(own.sum(), 1)
        for rows in (np.flatnonzero((group == g) & (fold == f) & (weight.sum(axis=0) > 0)) for f in np.unique(fold)):
            value[:, rows] += (mean - value[:, rows] @ own[rows] / max(own[rows].sum(), 1))[:, None]
    strata = [Stratum(name, value, keep, rate=False) for name, keep in zip(("positives", "negatives"), weight)]
    (halves,) = resample_means(patient, group, strata, [n_groups], n_boot=n_boot, seed=seed, reference=reference,
                            min_support=min_support, n_patients=n_patients)  # fmt: skip
    cells = cell_sums(patient, group, strata, n_patients)
    spread = _auroc_spread(cells, n_groups, int(halves.reference))
    point = halves.value.mean(axis=0, keepdims=True)  # both halves are the AUROC; NaN if either lacks support
    resamples = (halves.resamples.sum(axis=1, keepdims=True) - point).astype(np.float32)
    return GroupMeans(
        value=point, smoothed=point, resamples=resamples, reference=halves.reference,
        reference_value=point[..., [halves.reference]], reference_resamples=resamples[..., [halves.reference]],
        variance=np.where(np.isnan(point), np.nan, spread["variance"][None]),
        se={kind: spread["se", kind][None] for kind in KINDS}, df={kind: spread["df", kind][None] for kind in KINDS},
        n_patients=halves.n_patients.min(axis=0, keepdims=True), n_rows=halves.n_rows[:1],
    )  # fmt: skip


@np.errstate(invalid="ignore", divide="ignore")  # a group without one of the labels has no AUROC
def _auroc_spread(cells: CellSums, n_groups: int, reference: int) -> dict:
    """Standard errors from the patients' placement sums over both labels (Obuchowski 1997)."""
    code, known = cells.unit_codes[:, 0], cells.unit_codes[:, 0] >= 0
    where = cells.patient[known] * n_groups + code[known]
    halves, n_patients = [], []
    for s in range(2):
        dense = np.stack([np.bincount(where, column, minlength=cells.n_patients * n_groups)
                          for column in cells.sums[known, s].T]).reshape(-1, cells.n_patients, n_groups)  # fmt: skip
        halves.append(influence(dense[0], dense[1:]))
        n_patients.append((dense[0] > 0).sum(axis=0))
    psi, fewer = halves[0] + halves[1], np.minimum(*n_patients)
    out: dict[str | tuple[str, str], np.ndarray] = {"variance": (psi**2).sum(axis=1)}
    for kind in KINDS:
        own = psi if kind in ("level", "gap") else psi[1:] - psi[:1]
        own = own - own[..., [reference]] if kind in ("gap", "did") else own
        out["se", kind] = np.sqrt((own**2).sum(axis=1))
        df = np.minimum(fewer, fewer[reference]) - 1 if kind in ("gap", "did") else fewer - 1
        out["df", kind] = np.broadcast_to(df, out["se", kind].shape)
    return out
