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

from fairrecon_core.columns import check_word

SPLITS = ("train", "validation", "test")
ROLES = ("reconstruction", "prediction")
PLACES = ("split", "role", "fold")  # of a patient; a row may bring its own
TRAITS = ("sex", "age_group", "race")  # the sensitive attributes


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
    if shares is None:
        return roles
    for value, part in splits.groupby(splits):
        if value != "test":
            ids = ranked(part.index, seed, "role")
            roles[ids] = np.repeat(np.array(ROLES), whole_parts(len(ids), shares))
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


def split_of_fold(folds: pd.Series, fold: int, n_folds: int, seed: int) -> pd.Series:
    """Splits as fold `fold` sees them: its own patients are test, some of the next fold's validation, the rest train.

    Validation has a quarter of the patients that are not tested, and never more than one fold, so that three folds
    leave half of all patients to learn from.

    Parameters
    ----------
    folds : Series of int
        Index patient_id, each once.
    fold, n_folds : int
    seed : int
        Decides who of the next fold is validation.

    Returns
    -------
    Series of str
        Index as in `folds`.
    """
    splits = pd.Series("train", index=folds.index, dtype="str")
    splits[folds == fold] = "test"
    following = ranked(folds.index[folds == (fold + 1) % n_folds], seed, "validation")
    splits[following[: math.ceil((folds != fold).sum() / 4)]] = "validation"
    return splits


def assign_age_groups(age_years, cut_years: float, *, at_cut_is_young: bool = False) -> np.ndarray:
    """Age groups "young" and "old" of ages in years; "unknown" where the age is NaN. At the cut is old, or as told."""
    age = np.asarray(age_years, dtype=float)
    young = age <= cut_years if at_cut_is_young else age < cut_years
    return np.select([np.isnan(age), young], ["unknown", "young"], "old")


def with_traits(
    table: pd.DataFrame, cut: float | None, cut_is_young: bool, conflicts: str
) -> tuple[pd.DataFrame, float | None, int]:
    """Give every patient one sex, race and age group.

    Parameters
    ----------
    table : DataFrame
        One row per image; sex, race and age_years as recorded.
    cut : float or None
        Young is below this age, in years; None or 0: the median over patients. The youngest recorded age counts.
    cut_is_young : bool
        Whether an age at the cut is young.
    conflicts : {"error", "unknown"}
        What becomes of a patient with two sexes or races.

    Returns
    -------
    table : DataFrame
        A copy with `age_group`; what is known of a patient holds for all images.
    cut : float or None
        The age cut; None if no age is known.
    n_filled : int
        Unknown values that another image of the patient filled.

    Raises
    ------
    ValueError
        A patient has two sexes or races, and `conflicts` is "error".
    """
    table, n_filled = table.copy(), 0
    for trait in ("sex", "race"):
        known = table.loc[table[trait] != "unknown", ["patient_id", trait]].drop_duplicates()
        torn = known.loc[known["patient_id"].duplicated(), "patient_id"].unique()
        if len(torn) and conflicts == "error":
            values = " and ".join(map(repr, known.loc[known["patient_id"] == torn[0], trait]))
            raise ValueError(
                f"patient {torn[0]!r} has {trait} {values}: mend the source, or give conflicts='unknown' "
                f"to count {len(torn)} such patients as unknown"
            )
        known = known[~known["patient_id"].isin(torn)].set_index("patient_id")[trait]
        whole = table["patient_id"].map(known).astype(object).fillna("unknown")
        n_filled += int(((table[trait] == "unknown") & (whole != "unknown")).sum())
        table[trait] = whole
    youngest = table.groupby("patient_id")["age_years"].transform("min")
    known_ages = youngest[~table["patient_id"].duplicated()].dropna()
    cut = cut or (float(known_ages.median()) if len(known_ages) else math.nan)
    table["age_group"] = assign_age_groups(youngest, cut, at_cut_is_young=cut_is_young)
    return table, None if math.isnan(cut) else cut, n_filled


def with_places(table: pd.DataFrame, seed: int, split, roles, n_folds: int, skew) -> tuple[pd.DataFrame, int]:
    """Give every patient a split, role and fold: the rows' own, else assigned.

    Parameters
    ----------
    table : DataFrame
        One row per image, with the traits of `with_traits`.
    seed, split, roles, n_folds, skew
        As in `cohort.write_cohort`.

    Returns
    -------
    table : DataFrame
        A copy with `split role fold`.
    n_folds : int
        The number of folds, the rows' own if they bring some.

    Raises
    ------
    ValueError
        If there are fewer patients than folds, or thinning meets folds.
    """
    patients = table.drop_duplicates("patient_id").set_index("patient_id")
    if "fold" in patients:
        folds, n_folds = patients["fold"], int(patients["fold"].max()) + 1
        check_rules(split, roles, n_folds, skew)
    else:
        folds = assign_folds(patients.index, seed, n_folds).reindex(patients.index)
    if n_folds > 1:
        splits, groups = split_of_fold(folds, 0, n_folds, seed), folds.astype(str)
    else:
        splits = patients["split"] if "split" in patients else assign_splits(patients.index, seed, split)
        splits = groups = splits.reindex(patients.index).astype(object)
    role = patients["role"] if "role" in patients else assign_roles(groups, seed, roles)
    for trait, (subgroup, share) in (skew or {}).items():
        members = patients.index[(splits == "train") & (patients[trait] == subgroup)]
        splits = splits.where(~splits.index.isin(thinned(members, seed, trait, share)), "unused")
    places = pd.DataFrame({"split": splits, "role": role, "fold": folds})
    return table.drop(columns=list(PLACES), errors="ignore").join(places, on="patient_id"), n_folds


def check_patients(table) -> None:
    """Refuse, with a ValueError, a table in which a patient is in two splits, folds or roles, or has a trait twice."""
    for column in (*PLACES, *TRAITS):
        pairs = table[["patient_id", column]].drop_duplicates()
        torn = pairs.loc[pairs["patient_id"].duplicated(), "patient_id"]
        if len(torn):
            values = " and ".join(map(repr, pairs.loc[pairs["patient_id"] == torn.iloc[0], column].tolist()[:2]))
            raise ValueError(
                f"patient {torn.iloc[0]!r} is in two {column}s, {values}: all images of a patient belong to one; "
                "write the cohort again"
            )


def check_rules(split, roles, n_folds, skew, conflicts="error", chunk=1) -> None:
    """Refuse choices that make no sense, before anything is written.

    Parameters
    ----------
    split, roles, n_folds, skew, conflicts, chunk
        As in `cohort.write_cohort`.

    Raises
    ------
    ValueError
        Names the choice and the way out.
    """
    whole_parts(0, split)
    whole_parts(0, (1, 0) if roles is None else roles)
    check_word("conflicts", conflicts, ("error", "unknown"))
    if n_folds < 1 or n_folds == 2 or chunk < 1:
        raise ValueError(f"need one fold or at least 3 (train, validation, test), and a chunk: {n_folds=}, {chunk=}")
    if skew and n_folds > 1:
        raise ValueError("skew thins one training split; with folds every patient is tested once: use n_folds=1")
    for trait, (subgroup, share) in (skew or {}).items():
        check_word("skew", trait, TRAITS)
        check_word(trait, subgroup)
        if not 0 <= share <= 1:
            raise ValueError(f"skew keeps a share in [0, 1] of {trait} {subgroup!r}, got {share!r}")


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
    share = np.asarray(shares, dtype=float)
    if (share < 0).any() or not math.isclose(share.sum(), 1, abs_tol=1e-9):
        raise ValueError(f"shares should be at least 0 and sum to 1, got {tuple(share.tolist())}")
    parts = np.floor(n * share + 1e-9).astype(int)
    largest_rest_first = np.argsort(-(n * share - parts), kind="stable")
    parts[largest_rest_first[: n - parts.sum()]] += 1
    while n >= (share > 0).sum() and (empty := (parts == 0) & (share > 0)).any():
        parts[np.argmax(parts)] -= 1
        parts[np.argmax(empty)] += 1
    return parts.tolist()
