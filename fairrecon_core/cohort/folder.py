"""Cohorts: images with one table row each, split by patient; written in chunks, read by memory map.

Conventions: a cohort is a folder with `cohort.parquet`, `images.npy`, perhaps `masks.npy`, and `cohort.json`, which is
written last: without it the cohort is unfinished. Row i of `images.npy` is the table's row i. On disk an X-ray has
8 bits and an MR image 16; in memory an image is float32 in [0, 1]. All images of a patient share split, role, fold,
sex, age group and race.
Source: age cuts of the paper's Tables 1 and 2; splits as in `splits.py`.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from fairrecon_core.cohort.conversion import Conversion
from fairrecon_core.cohort.opened import (
    COHORT_VERSION,
    Cohort,
    content_hash,
    counts_of,
    funnel,
    load_cohort,
    people_left,
)
from fairrecon_core.cohort.splits import (
    assign_age_groups,
    assign_folds,
    assign_roles,
    assign_splits,
    check_patients,
    check_rules,
    with_places,
    with_traits,
)
from fairrecon_core.columns import VOCABULARY
from fairrecon_core.tables import check, write_parquet

__all__ = [
    "Cohort",
    "amend_info",
    "assign_age_groups",
    "assign_folds",
    "assign_roles",
    "assign_splits",
    "funnel",
    "load_cohort",
    "people_left",
    "write_cohort",
]


def write_cohort(
    folder: str | Path, items: Iterable, *, name: str, seed: int, split: tuple[float, float, float] = (0.7, 0.1, 0.2),
    roles: tuple[float, float] | None = None, n_folds: int = 1, skew: dict | None = None,
    age_cut_years: float | None = None, age_cut_is_young: bool = False, conflicts: str = "error",
    tasks: Iterable[str] | None = None, chunk: int = 256, n_images: int | None = None, extra: dict | None = None,
) -> Cohort:  # fmt: skip
    """Write a cohort from any iterator, in chunks, with memory that does not grow with the images.

    An interrupted conversion is continued by calling again with the same items: what is already there, and agrees with
    the items row by row, is kept. The files come out the same, byte for byte.

    Parameters
    ----------
    folder : path
        Folder of the cohort; made if absent. A finished cohort there is replaced at the very end.
    items : iterable of (image, row) or (image, row, mask)
        image: float, shape (H, W), in [0, 1], or an array of the stored type (uint8 for X-ray, uint16 for MRI), taken
        as it is. mask: bool or 0/1, shape (H, W). Either may be a function without arguments that returns the array:
        it is called only if the image is not there yet. row: dict with `image_id patient_id modality sex age_years
        race`, perhaps `split role fold`, and any `y_<task>`, `true_<task>` (0, 1, NaN) and `x_<name>` (text or
        number). A missing sex or race (None, NaN, "") becomes "unknown", a missing age NaN.
    name : str
        Name of the cohort, for example "brain".
    seed : int
        Decides splits, roles, folds and thinning.
    split : tuple of 3 floats
        Shares of patients in train, validation and test; not used where rows bring their own split, or with folds.
    roles : tuple of 2 floats, optional
        Shares of patients for the reconstructor and the downstream readers, within train and validation: (0.7, 0.3) in
        the paper's chest data. None: both learn from the same patients.
    n_folds : int
        Above 1 (at least 3): cross-validation by patient. Seen from fold k, its own patients are the test split, some
        of fold k + 1 validation, all others train (`split_of_fold`); the column `split` shows fold 0.
    skew : dict, optional
        Thins subgroups of the training split, by patient: `{"sex": ("female", 0.5)}` keeps half of the women. The
        others stay in the files with split "unused". Not with folds.
    age_cut_years : float, optional
        Young is below it. None or 0: the median over patients of known age. A patient's age is the youngest recorded.
    age_cut_is_young : bool
        Whether an age exactly at the cut is young, as in the paper's UCSF-PDGM evaluation (58).
    conflicts : {"error", "unknown"}
        What to do with a patient who has two sexes or two races: refuse, or take the trait as unknown.
    tasks : iterable of str, optional
        Names of all tasks: a `y_` or `true_` of another is refused, a task that no row records gets a column of NaN.
    chunk : int
        Images held in memory at a time.
    n_images : int, optional
        Number of items to come: shows a progress bar, and another number is refused at the end.
    extra : dict, optional
        Further entries for `cohort.json`, for example `simulator_version`. Part files of a conversion with another
        name, seed or extra are not continued but overwritten.

    Returns
    -------
    Cohort

    Raises
    ------
    ValueError
        An image is not finite, outside [0, 1] or of another size; an image_id comes twice; a row lacks a key, holds an
        unknown one, or a value outside the vocabulary; a patient is in two splits or has two sexes or races; there are
        no items, or not `n_images` of them. The message names the image or the patient.
    """
    check_rules(split, roles, n_folds, skew, conflicts, chunk)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    head = {"version": COHORT_VERSION, "name": name, "seed": seed, "extra": extra or {}}
    tasks = None if tasks is None else list(tasks)
    conversion = Conversion(folder, head, chunk, tasks)
    for item in tqdm(items, total=n_images, disable=n_images is None, desc=name, unit="image"):
        conversion.add(*item)
    table, digests = conversion.close()
    if n_images is not None and len(table) != n_images:
        raise ValueError(f"cohort {name!r} should have {n_images} images, the items hold {len(table)}")
    table = table.assign(**{f"y_{task}": np.nan for task in tasks or () if f"y_{task}" not in table})
    table, cut, n_filled = with_traits(table, age_cut_years, age_cut_is_young, conflicts)
    table, n_folds = with_places(table, seed, split, roles, n_folds, skew)
    table = check("cohort", table.assign(row=np.arange(len(table))))
    check_patients(table)
    info = {name: value for name, value in conversion.head.items() if name != "extra"}
    info |= {"n_folds": n_folds, "skew": skew, "age_cut_years": cut, "age_cut_is_young": age_cut_is_young}
    info |= {"n_traits_filled": n_filled, "counts": counts_of(table), "vocabulary": VOCABULARY}
    info["content_hash"] = content_hash(table, digests)
    (folder / "cohort.json").unlink(missing_ok=True)
    conversion.publish_pixels()
    write_parquet(folder / "cohort.parquet", "cohort", table, checked=True)
    _write_info(folder, (extra or {}) | info)
    conversion.journal.unlink()
    return load_cohort(folder)


def amend_info(cohort: Cohort, **entries) -> Cohort:
    """The cohort with further `entries` in its `cohort.json`, such as what was noted when it was complete."""
    _write_info(cohort.folder, cohort.info | entries)
    return load_cohort(cohort.folder)


def _write_info(folder, info) -> None:
    """Write `cohort.json`, the sign that a cohort is complete."""
    part = folder / "cohort.json.part"
    text = json.dumps(info, indent=1, sort_keys=True, default=lambda other: other.item())
    part.write_text(text + "\n", encoding="utf-8")
    part.replace(folder / "cohort.json")
