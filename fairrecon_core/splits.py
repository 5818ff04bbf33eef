"""Who goes where: splits, roles and folds by patient, and age groups.

Conventions: chance is a hash of (seed, purpose, patient_id). Patients are ranked by it and cut into exact shares, so
the order in which they come plays no part, nor does anything else about them; the split of a cohort can be computed
before one of its images exists.
Source: 70/10/20 and the 70/30 roles of the paper's Sec. 3.1.
"""

import hashlib
import math
from collections.abc import Iterable

import numpy as np
import pandas as pd

SPLITS = ("train", "validation", "test")
ROLES = ("reconstruction", "prediction")


def assign_splits(patient_ids: Iterable, seed: int, shares: tuple[float, ...] = (0.7, 0.1, 0.2)) -> pd.Series:
    """Share patients out over train, validation and test.

    Parameters
    ----------
    patient_ids : iterable of str
        In any order, repeated or not.
    seed : int
    shares : tuple of 3 floats
        Sum 1. The counts are exact up to rounding; a part with a share gets a patient while there are enough.

    Returns
    -------
    Series of str
        Index patient_id, sorted. Depends on the set of patients and the seed only.

    Raises
    ------
    ValueError
        If the shares are negative, or do not sum to 1.
    """
    ids = ranked(patient_ids, seed, "split")
    return pd.Series(np.repeat(SPLITS, whole_parts(len(ids), shares)), index=ids, dtype="str").sort_index()


def assign_roles(splits: pd.Series, seed: int, shares: tuple[float, float] | None = (0.7, 0.3)) -> pd.Series:
    """Decide which patients train reconstructors and which train downstream readers.

    Parameters
    ----------
    splits : Series
        Index patient_id; the patients of each value other than "test" are shared out apart.
    seed : int
    shares : tuple of 2 floats, or None
        Shares for "reconstruction" and "prediction". None: "both" for everybody.

    Returns
    -------
    Series of str
        Index as in `splits`. Test patients have "both".

    Raises
    ------
    ValueError
        If the shares are negative, or do not sum to 1.
    """
    roles = pd.Series("both", index=splits.index, dtype="str")
    for value, part in splits.groupby(splits) if shares is not None else ():
        if value != "test":
            ids = ranked(part.index, seed, "role")
            roles[ids] = np.repeat(ROLES, whole_parts(len(ids), shares))
    return roles


def assign_folds(patient_ids: Iterable, seed: int, n_folds: int) -> pd.Series:
    """Share patients out over folds 0 to `n_folds` - 1, equally up to one patient.

    Returns
    -------
    Series of int
        Index patient_id, sorted.

    Raises
    ------
    ValueError
        If there are fewer patients than folds.
    """
    ids = ranked(patient_ids, seed, "fold")
    if len(ids) < n_folds:
        raise ValueError(f"{n_folds} folds need as many patients, there are {len(ids)}")
    return pd.Series(np.arange(len(ids)) % n_folds, index=ids, dtype="int64").sort_index()


def split_of_fold(folds: pd.Series, fold: int, n_folds: int) -> pd.Series:
    """Splits as fold `fold` sees them: its own patients are test, the next fold's validation, the rest train."""
    splits = np.select([folds == fold, folds == (fold + 1) % n_folds], ["test", "validation"], "train")
    return pd.Series(splits, index=folds.index, dtype="str")


def assign_age_groups(age_years, cut_years: float, *, at_cut_is_young: bool = False) -> np.ndarray:
    """Age groups "young" and "old" of ages in years; "unknown" where the age is NaN. At the cut is old, or as told."""
    age = np.asarray(age_years, dtype=float)
    young = age <= cut_years if at_cut_is_young else age < cut_years
    return np.select([np.isnan(age), young], ["unknown", "young"], "old")


def thinned(patient_ids: Iterable, seed: int, trait: str, share: float) -> list[str]:
    """The patients to leave out so that `share` of them, a number in [0, 1], stays."""
    ids = ranked(patient_ids, seed, f"skew {trait}")
    return ids[round(share * len(ids)) :]


def ranked(patient_ids: Iterable, seed: int, purpose: str) -> list[str]:
    """Patients, each once, in the order of a hash: random, yet the same on every machine and in every call."""
    keys = {patient: f"{seed}|{purpose}|{patient}".encode() for patient in map(str, patient_ids)}
    return sorted(keys, key=lambda patient: (hashlib.blake2b(keys[patient], digest_size=8).digest(), patient))


def whole_parts(n: int, shares: tuple[float, ...]) -> list[int]:
    """Whole numbers near `n * share` that sum to n; no share goes empty while there is enough for all.

    Raises
    ------
    ValueError
        If the shares are negative, or do not sum to 1.
    """
    shares = np.asarray(shares, dtype=float)
    if (shares < 0).any() or not math.isclose(shares.sum(), 1, abs_tol=1e-9):
        raise ValueError(f"shares should be at least 0 and sum to 1, got {tuple(shares.tolist())}")
    parts = np.floor(n * shares + 1e-9).astype(int)
    largest_rest_first = np.argsort(-(n * shares - parts), kind="stable")
    parts[largest_rest_first[: n - parts.sum()]] += 1
    while n >= (shares > 0).sum() and (empty := (parts == 0) & (shares > 0)).any():
        parts[np.argmax(parts)] -= 1
        parts[np.argmax(empty)] += 1
    return parts.tolist()
