"""Resampled sums: one matrix product per intersection cell gives every subgroup's counts in every resample.

Every statistic of the audit is made of sums over patients, and a bootstrap resample only changes how often a patient
counts. So the table is condensed once to sums per patient and cell of attributes (sex x age group x race), the
resampling weights W (n_boot x patients) are drawn once, and W @ sums gives all resampled sums. Groups of one attribute
and their intersections are sums over cells. The same seed and the same patients give the same weights, so tasks, arms,
attributes and metrics are resampled jointly, however they are split over calls.

Use it in three steps (`groups.resample_means` does all of them)::

    patient, ids = patient_codes(table["patient_id"])                # (N,) numbers 0 ... P - 1
    cells = cell_sums(patient, codes, [Stratum("tpr", decisions, truth == 1), ...], n_patients=len(ids))
    for totals in resample(cells, n_boot=10_000, seed=1):            # (b, cells, strata, 1 + arms)
        by_group = group_totals(totals, cells.codes[:, 0], n_groups=2)  # (b, groups, strata, 1 + arms)

Conventions: arrays only; arms are stacked on the first axis of `values`, the baseline first; group codes are integers
from 0, -1 is unknown (kept in the resampling, left out of every group). Products in float32 are exact for counts below
2**24; all else is summed in float64. Source: Efron and Tibshirani 1993 (bootstrap); DeLong et al. 1988 (placements).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import rankdata

BLOCK = 16  # resamples that share one random generator: chunk sizes change no weight
CHUNK_ELEMENTS = 2**24  # weights held at once (64 MiB as float32), whatever n_boot is
EXACT_FLOAT32 = 2**24  # integers up to here are exact in float32
MANY, BAGS = 50_000, 4_000  # above so many patients, resamples draw random bags of patients, so many in all


class Stratum(NamedTuple):
    """Rows over which a mean is taken, and what is averaged: TPR is the mean decision over the rows with truth 1.

    values : array, shape (arms, rows), baseline first; ignored (may be NaN) where `weight` is 0.
    weight : array, shape (rows,), bool or >= 0. `truth == 1` gives a TPR; 1 / (rows of the patient) a mean of patients.
    rate : bool. True when values are 0 / 1 decisions (or means of such): groups then get two pseudo-patients.
    """

    name: str
    values: np.ndarray
    weight: np.ndarray
    rate: bool = True


@dataclass(frozen=True)
class CellSums:
    """A table condensed to sums per patient and cell; unit = a patient's rows within one cell.

    patient : int, shape (units,); codes of a patient whose rows lie in several cells occur several times.
    start : int, shape (cells + 1,); units of cell c are start[c] : start[c + 1].
    sums : float32 or float64, shape (units, strata, 1 + arms); [..., 0] is the weight, [..., 1:] weight x value by arm.
    codes : int, shape (cells, attributes); -1 is unknown.
    """

    patient: np.ndarray
    start: np.ndarray
    sums: np.ndarray
    codes: np.ndarray
    n_patients: int

    @property
    def unit_codes(self) -> np.ndarray:
        """Attribute codes of each unit, shape (units, attributes)."""
        return np.repeat(self.codes, np.diff(self.start), axis=0)


def text_of(value) -> str:
    """An id or a name as text: "7" for 7.0, without blanks at its ends; "" for a missing `value`."""
    if isinstance(value, str):
        return value.strip()
    if value is None or value is pd.NA or value != value:
        return ""
    whole = isinstance(value, float | np.floating) and float(value).is_integer()
    return str(int(value)) if whole else str(value).strip()


def text_codes(values: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """A column as codes, -1 where it is empty, and its distinct texts, sorted; each of `values` is read once."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        codes, distinct = values.cat.codes.to_numpy(), values.cat.categories
    else:
        codes, distinct = pd.factorize(values)
    texts = np.array(["", *(text_of(value) for value in distinct)], dtype=object)  # code -1 finds the first
    place, names = pd.factorize(texts, sort=True)
    return (place - 1)[np.asarray(codes) + 1], names[1:]


def compressed(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Small non-negative integers renumbered without holes, and those that occur; faster than sorting them."""
    used = np.flatnonzero(np.bincount(codes))
    place = np.zeros(used.max() + 1, np.int32)
    place[used] = np.arange(len(used))
    return place[codes], used


def patient_codes(patient_ids) -> tuple[np.ndarray, np.ndarray]:
    """Number the patients by their sorted id, so that row order changes no weight.

    Returns
    -------
    patient : int array, shape (rows,), from 0
    ids : array, shape (patients,), sorted

    Raises
    ------
    ValueError
        If a patient id is missing.
    """
    codes, ids = pd.factorize(np.asarray(patient_ids), sort=True)
    if (codes < 0).any():
        raise ValueError(f"{int((codes < 0).sum())} rows lack a patient id: drop them or give each its own id")
    return codes.astype(np.int32), ids


def patient_weights(n_patients: int, n_boot: int, seed: int = 0, chunk: int | None = None) -> Iterator[np.ndarray]:
    """Draw how often each patient counts in each bootstrap resample.

    Parameters
    ----------
    n_patients, n_boot : int
        Patients P and resamples B, at least 1.
    seed : int
        Equal seeds give equal weights, whatever the chunk.
    chunk : int, optional
        Resamples per array, rounded up to a multiple of 16; by default as many as fit in about 64 MiB.

    Yields
    ------
    weights : uint8, shape (b, P)
        Multinomial counts: every row sums to P, every weight has mean 1.

    Raises
    ------
    ValueError
        No patient or no resample.
    """
    if n_patients < 1 or n_boot < 1:
        raise ValueError(f"need at least one patient and one resample, got {n_patients=}, {n_boot=}")
    chunk = chunk or min(512, CHUNK_ELEMENTS // n_patients)
    n_blocks = max(1, -(-chunk // BLOCK))
    offset = np.arange(BLOCK)[:, None] * n_patients
    for first in range(0, -(-n_boot // BLOCK), n_blocks):
        rows = min(n_blocks * BLOCK, n_boot - first * BLOCK)
        weights = np.empty((-(-rows // BLOCK) * BLOCK, n_patients), np.uint8)
        for i in range(len(weights) // BLOCK):
            drawn = np.random.default_rng([seed, first + i]).integers(0, n_patients, (BLOCK, n_patients), np.int32)
            counts = np.bincount((drawn + offset).ravel(), minlength=BLOCK * n_patients)
            weights[i * BLOCK : (i + 1) * BLOCK] = counts.reshape(BLOCK, n_patients)
        yield weights[:rows]


def patient_signs(n_patients: int, n_draws: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Draw for every patient whether its arms are swapped: chunks of -1 and 1, int8, shape (b, patients)."""
    step = max(1, min(512, CHUNK_ELEMENTS // n_patients) // BLOCK) * BLOCK
    for first in range(0, n_draws, step):
        generators = (np.random.default_rng([seed, 1, (first + i) // BLOCK]) for i in range(0, step, BLOCK))
        coins = np.stack([np.frombuffer(rng.bytes(BLOCK * n_patients // 8), np.uint8) for rng in generators])
        signs = np.unpackbits(coins).reshape(step, n_patients).view(np.int8)
        yield signs[: n_draws - first] * np.int8(2) - np.int8(1)


def cell_sums(patient, codes, strata: Sequence[Stratum], n_patients: int | None = None) -> CellSums:
    """Condense rows to sums per patient and cell.

    Parameters
    ----------
    patient : int array, shape (rows,)
        From `patient_codes`.
    codes : int array, shape (rows,) or (rows, attributes)
        Group of each row for each attribute, -1 unknown. May vary within a patient (age at several visits).
    strata : sequence of Stratum
        All with the same arms.
    n_patients : int, optional
        Patients to resample, also those without a row here; default: the largest code plus one.

    Raises
    ------
    ValueError
        On lengths that differ, undefined values with a weight, or negative weights.
    """
    patient = np.asarray(patient)
    codes = np.asarray(codes, dtype=np.int64).reshape(len(patient), -1)
    for stratum in strata:
        _check(stratum, len(patient), len(strata[0].values))
    levels = codes.max(axis=0, initial=-1) + 2  # room for -1
    cell_key = np.ravel_multi_index(tuple((codes + 1).T), tuple(levels))
    n_patients = int(patient.max(initial=-1)) + 1 if n_patients is None else n_patients
    units, unit_of_row = np.unique(cell_key * n_patients + patient, return_inverse=True)
    cells, n_units = np.unique(units // n_patients, return_counts=True)
    sums = np.stack([_unit_sums(stratum, unit_of_row, len(units)) for stratum in strata], axis=1)
    whole = np.abs(sums).sum(axis=0).max(initial=0) < EXACT_FLOAT32 and np.array_equal(sums, np.rint(sums))
    return CellSums(
        patient=(units % n_patients).astype(np.int64),
        start=np.concatenate([[0], np.cumsum(n_units)]),
        sums=sums.astype(np.float32) if whole else sums,
        codes=np.stack(np.unravel_index(cells, tuple(levels)), axis=1) - 1,
        n_patients=n_patients,
    )


def _check(stratum: Stratum, n_rows: int, n_arms: int) -> None:
    values, weight = np.asarray(stratum.values), np.asarray(stratum.weight)
    if values.shape != (n_arms, n_rows) or weight.shape != (n_rows,):
        expected = f"values {(n_arms, n_rows)} and weight {(n_rows,)}"
        raise ValueError(f"stratum '{stratum.name}': expected {expected}, got {values.shape} and {weight.shape}")
    if not (weight >= 0).all():
        raise ValueError(f"stratum '{stratum.name}' has negative or undefined weights")
    if values.dtype.kind == "f" and not np.isfinite(values[:, weight > 0]).all():
        raise ValueError(f"stratum '{stratum.name}' averages undefined values: give those rows weight 0 in all arms")


def _unit_sums(stratum: Stratum, unit_of_row: np.ndarray, n_units: int) -> np.ndarray:
    """Sums of weight and of weight x value within units, shape (units, 1 + arms)."""
    rows = np.flatnonzero(stratum.weight)
    weight, unit = np.asarray(stratum.weight)[rows].astype(float), unit_of_row[rows]
    columns = [weight] + [weight * np.asarray(value)[rows] for value in stratum.values]
    return np.stack([np.bincount(unit, column, minlength=n_units) for column in columns], axis=1)


def resample(cells: CellSums, n_boot: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Resampled sums of every cell, in chunks whose size does not depend on `n_boot`.

    Yields
    ------
    totals : float32 or float64, shape (b, cells, strata, 1 + arms)
    """
    cells = in_bags(cells, seed)
    sums = cells.sums.reshape(len(cells.sums), -1)
    for weights in patient_weights(cells.n_patients, n_boot, seed):
        totals = np.empty((len(weights), len(cells.codes), sums.shape[1]), sums.dtype)
        for c, (first, end) in enumerate(zip(cells.start[:-1], cells.start[1:])):
            in_cell = weights.take(cells.patient[first:end], axis=1).astype(sums.dtype)
            np.matmul(in_cell, sums[first:end], out=totals[:, c])
        yield totals.reshape(len(weights), len(cells.codes), *cells.sums.shape[1:])


def in_bags(cells: CellSums, seed: int = 0, many: int = MANY, bags: int = BAGS) -> CellSums:
    """Patients of `cells` put together at random (`seed`) in as many as `bags`, if there are more than `many`.

    Sums over independent patients have the same variance in bags; standard errors are made from patients all the same.
    """
    if cells.n_patients <= many:
        return cells
    bag = np.random.default_rng([seed, 3]).permutation(cells.n_patients) % bags
    cell = np.repeat(np.arange(len(cells.codes)), np.diff(cells.start))
    units, at = np.unique(cell * bags + bag[cells.patient], return_inverse=True)
    flat = cells.sums.reshape(len(at), -1)
    sums = np.stack([np.bincount(at, column, minlength=len(units)) for column in flat.T], axis=1)
    start = np.searchsorted(units, np.arange(len(cells.codes) + 1) * bags)
    sums = sums.reshape(len(units), *cells.sums.shape[1:]).astype(cells.sums.dtype)
    return CellSums(units % bags, start, sums, cells.codes, bags)


def observed(cells: CellSums) -> np.ndarray:
    """The sums of every cell in the data themselves, float64, shape (1, cells, strata, 1 + arms)."""
    return np.add.reduceat(cells.sums, cells.start[:-1], axis=0, dtype=np.float64)[None]


def group_totals(totals: np.ndarray, code: np.ndarray, n_groups: int) -> np.ndarray:
    """Add cells up to the groups of one attribute.

    Parameters
    ----------
    totals : array, shape (b, cells, ...)
    code : int array, shape (cells,)
        The attribute's column of `CellSums.codes`; cells with -1 join no group.

    Returns
    -------
    by_group : array, shape (b, n_groups, ...)
    """
    out = np.zeros((len(totals), n_groups, *totals.shape[2:]), totals.dtype)
    for c in np.flatnonzero(code >= 0):
        out[:, code[c]] += totals[:, c]
    return out


def means(totals: np.ndarray) -> np.ndarray:
    """Totals (..., 1 + arms) to means (..., arms); NaN where the weight is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return totals[..., 1:] / totals[..., :1]


def placements(scores, truth) -> np.ndarray:
    """Each row's share in the AUROC: of negatives that a positive beats, of positives that beat a negative.

    The mean over the positives, and over the negatives, is the AUROC; their weighted means add up to the AUROC of a
    resample to first order: auroc* = mean*(positives) + mean*(negatives) - auroc.

    Parameters
    ----------
    scores : array, shape (rows,), finite
    truth : array, shape (rows,), 0 or 1

    Returns
    -------
    placement : float64, shape (rows,), in [0, 1]; NaN when a class is empty
    """
    scores, truth = np.asarray(scores, dtype=float), np.asarray(truth).astype(bool)
    n_positive, n_negative = int(truth.sum()), int((~truth).sum())
    if not n_positive or not n_negative:
        return np.full(len(scores), np.nan)
    everyone = rankdata(scores)
    out = np.empty(len(scores))
    out[truth] = (everyone[truth] - rankdata(scores[truth])) / n_negative
    out[~truth] = 1 - (everyone[~truth] - rankdata(scores[~truth])) / n_positive
    return out


def fold_placements(scores, truth, group, n_groups: int, fold=None) -> tuple[np.ndarray, np.ndarray]:
    """Placement of every row among the other label of its own group and fold, and its weights.

    Parameters
    ----------
    scores, truth, group, n_groups, fold
        As in `groups.resample_aurocs`.

    Returns
    -------
    value : float64, shape (arms, rows); 0 where group and fold lack one of the labels
    weight : float64, shape (2, rows)
        Of the positives, 1 each; of the negatives, such that a fold counts by its positives.
    """
    value, weight = np.zeros_like(scores), np.zeros((2, len(truth)))
    fold = np.zeros(len(truth), int) if fold is None else np.asarray(fold)
    for g in range(n_groups):
        parts = [np.flatnonzero((group == g) & (fold == f)) for f in np.unique(fold[group == g])]
        parts = [rows for rows in parts if len(np.unique(truth[rows])) == 2]
        n_positive, n_negative = (sum(int((truth[rows] == label).sum()) for rows in parts) for label in (1, 0))
        for rows in parts:
            positive = truth[rows] == 1
            value[:, rows] = [placements(arm[rows], positive) for arm in scores]
            share = int(positive.sum()) * n_negative / (int((~positive).sum()) * n_positive)
            weight[:, rows] = [positive, ~positive * share]
    return value, weight
