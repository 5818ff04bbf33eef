"""The setting `training_skew`: who trains the reconstructors of any cohort, simulated or converted.

A text names a subgroup and its share of those who train (`female-0.25`), or a task that none of the subgroup who train
has (`female-without-tumour_grade`). Patients who are left out keep their place in the cohort: they may still train
readers, choose thresholds and are tested. In the run's own copy of the table their `role` changes, or their split turns
`unused` if reconstructors were their only role; the source of a converted cohort is not touched. Skews are by patients:
the published way draws images of a patient, which a cohort's table does not hold (`skew.Skew`, way "published").
In a cross-validated cohort each fold's patients are skewed by themselves, so that training and validation patients of
every fold together have the share and the number; who chooses the best weights is skewed, too, as in the released code.
"""

import functools
import operator
import re
from pathlib import Path

import pandas as pd

from fairrecon_core.cohort.conversion import pixel_digests
from fairrecon_core.cohort.folder import load_cohort
from fairrecon_core.cohort.opened import Cohort, content_hash, counts_of
from fairrecon_core.columns import VOCABULARY, check_word
from fairrecon_core.steps.folder import write_json
from fairrecon_core.tables import write_parquet
from fairrecon_lab.mitigation.skew import Skew, training_rows

FORM = re.compile(r"(?P<group>\w+)-(?:(?P<share>\d*\.?\d+)|without-(?P<task>\w+))")
ATTRIBUTES = ("sex", "age_group", "race")


def skew_of(text: str) -> Skew:
    """The skew that a `text` of the setting `training_skew` names.

    Raises
    ------
    ValueError
        Another form, a share beyond [0, 1], or a subgroup that no attribute knows; the text says which forms there are.
    """
    found = FORM.fullmatch(text)
    if not found:
        raise ValueError(f"training_skew {text!r} is neither GROUP-SHARE nor GROUP-without-TASK, such as "
                         "female-0.25 or female-without-tumour_grade")  # fmt: skip
    group = found["group"]
    known = {value: attribute for attribute in ATTRIBUTES for value in VOCABULARY[attribute] if value != "unknown"}
    check_word("training_skew", group, tuple(known))
    missing = f"y_{found['task']}" if found["task"] else ""
    return Skew(text, known[group], group, float(found["share"] or 0.5), missing)


def leave_out(folder: str | Path, text: str, source: str | Path | None = None) -> pd.DataFrame:
    """Let only those train reconstructors whom a skew chooses, in the cohort of a run.

    The number who train is the same for every share: per part (fold, or train split) that of the rarer of the subgroup
    and all others; nobody whose attribute is unknown trains.

    Parameters
    ----------
    folder : path
        Of the run's cohort; its table is written anew.
    text : str
        As `skew_of` takes it.
    source : path, optional
        A converted cohort: its images are linked and its table read. Without it, `folder` holds a cohort.

    Returns
    -------
    DataFrame
        Who trains reconstructors: patients and images by subgroup of the skew's attribute.

    Raises
    ------
    ValueError
        A task that the cohort has not, or fewer patients than the skew needs; the text says how many there are.
    """
    skew, folder = skew_of(text), Path(folder)
    cohort = load_cohort(Path(source or folder))
    table = cohort.table.copy()
    if skew.missing and skew.missing[2:] not in cohort.tasks:
        raise ValueError(f"training_skew {text!r}: cohort {cohort.name!r} has no task {skew.missing[2:]!r}, it has "
                         f"{', '.join(cohort.tasks)}")  # fmt: skip
    may = table["role"].isin(["both", "reconstruction"]) & (table[skew.attribute] != "unknown")
    splits = table["split"] if cohort.info["n_folds"] == 1 else "fold " + table["fold"].astype(str)
    parts = [splits == part for part in sorted(set(splits)) if part not in ("validation", "test", "unused")]
    train = pd.concat([_chosen(table[may & part], skew, cohort.info["seed"]) for part in parts])
    out = functools.reduce(operator.or_, parts) & ~table["image_id"].isin(train)
    only = out & (table["role"] == "reconstruction")
    if only.any() and cohort.info["n_folds"] > 1:
        raise ValueError(f"training_skew {text!r}: cohort {cohort.name!r} has folds and patients whose only role is "
                         "reconstruction, who cannot be left out: convert it with one role for all")  # fmt: skip
    table["role"] = table["role"].mask(out & ~only, "prediction")
    table["split"] = table["split"].mask(only, "unused")
    _write(folder, cohort, table, text)
    chosen = table[table["image_id"].isin(train)].groupby(skew.attribute)
    return pd.DataFrame({"patients": chosen["patient_id"].nunique(), "images": chosen.size()})


def _chosen(part: pd.DataFrame, skew: Skew, seed: int) -> pd.Series:
    """`image_id` of those of a part who train."""
    if skew.missing:  # a finding on one slice is one of the patient; unknown on one slice, unknown
        worst = part.groupby("patient_id")[skew.missing].transform(lambda found: found.max(skipna=False))
        part = part.assign(**{skew.missing: worst})
    inside = part.drop_duplicates("patient_id")[skew.attribute] == skew.group
    n_patients = min(int(inside.sum()), int((~inside).sum()))
    return part["image_id"].iloc[training_rows(part, skew, n_patients, seed)]


def _write(folder: Path, cohort: Cohort, table: pd.DataFrame, text: str) -> None:
    """The cohort with another table: images stay where they are, and are linked where they are elsewhere."""
    stacks = {"images.npy": cohort.images} | ({} if cohort.masks is None else {"masks.npy": cohort.masks})
    info = cohort.info | {"skew": text, "content_hash": content_hash(table, pixel_digests(*stacks.values())),
                          "counts": counts_of(table)}  # fmt: skip
    if folder.is_symlink():
        folder.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    if folder.resolve() != cohort.folder.resolve():
        for name in stacks:
            link = folder / name
            link.unlink(missing_ok=True)
            link.symlink_to((cohort.folder / name).resolve())
    (folder / "cohort.json").unlink(missing_ok=True)  # a table without it is no cohort, should this be stopped here
    write_parquet(folder / "cohort.parquet", "cohort", table)
    write_json(folder / "cohort.json", info)
