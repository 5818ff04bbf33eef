"""Cohorts: images with one table row each, split by patient; written in chunks, read by memory map.

Conventions: a cohort is a folder with `cohort.parquet`, `images.npy`, perhaps `masks.npy`, and `cohort.json`, which is
written last: without it the cohort is unfinished. Row i of `images.npy` is the table's row i. On disk an X-ray has
8 bits and an MR image 16; in memory an image is float32 in [0, 1]. All images of a patient share split, role, fold,
sex, age group and race.
Source: age cuts of the paper's Tables 1 and 2; splits as in `splits.py`.
"""

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from fairrecon_core.cohort.conversion import HEADER_BYTES, STORED, Conversion, pixel_digests, write_header
from fairrecon_core.cohort.splits import (
    SPLITS,
    TRAITS,
    assign_age_groups,
    assign_folds,
    assign_roles,
    assign_splits,
    check_patients,
    check_rules,
    split_of_fold,
    with_places,
    with_traits,
)
from fairrecon_core.columns import VOCABULARY, check_word
from fairrecon_core.tables import SCHEMAS, check, read_parquet, write_parquet

__all__ = [
    "Cohort",
    "assign_age_groups",
    "assign_folds",
    "assign_roles",
    "assign_splits",
    "load_cohort",
    "write_cohort",
    "write_excerpt",
]

COHORT_VERSION = 1
_NOTEBOOK = SCHEMAS["cohort"].notebook


@dataclass(frozen=True, eq=False)
class Cohort:
    """Images and their table, one row each.

    Parameters
    ----------
    folder : Path
        Where it lies.
    table : DataFrame
        Table "cohort" of `tables.SCHEMAS`; its row i belongs to `images[i]`.
    images : ndarray, uint8 (X-ray) or uint16 (MRI), shape (n, H, W)
        Memory-mapped, read-only. An excerpt holds those of `pixel_rows` only.
    masks : ndarray or None, bool, shape (n, H, W)
        Memory-mapped, read-only; True in the tumour. None where the cohort has none.
    info : dict
        `cohort.json`: name, seed, modality, shape, n_folds, age_cut_years, counts, content_hash and what `extra` held.
    """

    folder: Path
    table: pd.DataFrame = field(repr=False)
    images: np.ndarray = field(repr=False)
    masks: np.ndarray | None = field(repr=False)
    info: dict = field(repr=False)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.table)

    @property
    def name(self) -> str:
        """Name of the cohort, as in the column `cohort` of every other table."""
        return self.info["name"]

    @property
    def modality(self) -> str:
        """`mri` or `xray`."""
        return self.info["modality"]

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks with recorded labels, the columns `y_<task>`."""
        return [column[2:] for column in self.table.columns if column.startswith("y_")]

    def image(self, row: int) -> np.ndarray:
        """Image `row`, float32 in [0, 1], shape (H, W)."""
        return self.images_at(row)

    def images_at(self, rows) -> np.ndarray:
        """Images of several rows (numbers or a slice), float32 in [0, 1], shape (n, H, W)."""
        return _as_float(self.images[self._places(rows)])

    def mask(self, row: int) -> np.ndarray:
        """Mask `row`, bool, shape (H, W); ValueError if the cohort has no masks."""
        return self.masks_at(row)

    def masks_at(self, rows) -> np.ndarray:
        """Masks of several rows, bool, shape (n, H, W); ValueError if the cohort has no masks."""
        if self.masks is None:
            raise ValueError(f"cohort {self.name!r} has no masks: write it with items (image, row, mask)")
        return np.array(self.masks[self._places(rows)], dtype=bool)

    @property
    def pixel_rows(self) -> np.ndarray:
        """Rows whose pixels are there, int64, ascending: all of them, except in an excerpt."""
        kept = self.info.get("pixel_rows")
        return np.arange(len(self)) if kept is None else np.array(kept, dtype=np.int64)

    def _places(self, rows):
        """Where the pixels of `rows` lie in the files; in an excerpt, LookupError for one that is not there."""
        if self.info.get("pixel_rows") is None:
            return rows
        rows = np.arange(len(self))[rows]
        places = np.searchsorted(self.pixel_rows, rows).clip(max=len(self.pixel_rows) - 1)
        absent = np.atleast_1d(rows)[np.atleast_1d(self.pixel_rows[places] != rows)]
        if len(absent):
            raise LookupError(
                f"image {self.table['image_id'][absent[0]]!r} is not in this excerpt, which has the pixels of "
                f"{len(self.pixel_rows)} of {len(self)} images (`pixel_rows`): run notebook {_NOTEBOOK} for all"
            )
        return places

    def splits(self, fold: int = 0) -> pd.Series:
        """Split of every image as fold `fold` sees it; with one fold, the column `split`.

        Raises
        ------
        ValueError
            If there is no such fold.
        """
        n_folds = self.info["n_folds"]
        if not 0 <= fold < n_folds:
            raise ValueError(f"cohort {self.name!r} has {n_folds} folds, counted from 0; there is no fold {fold}")
        if n_folds == 1:
            return self.table["split"]
        folds = self.table.drop_duplicates("patient_id").set_index("patient_id")["fold"]
        return self.table["patient_id"].map(split_of_fold(folds, fold, n_folds, self.info["seed"]))

    def select(
        self, split: str | None = None, role: str | None = None, fold: int = 0, with_pixels: bool = False
    ) -> np.ndarray:
        """Row numbers of a part of the cohort, ascending.

        Parameters
        ----------
        split : {"train", "validation", "test", "unused"}, optional
            All of them if left out.
        role : {"reconstruction", "prediction"}, optional
            Patients who may train a reconstructor, or a downstream reader. Test patients serve both.
        fold : int
            Of a cross-validated cohort: the fold whose patients are the test split.
        with_pixels : bool
            Only rows whose pixels are there, see `pixel_rows`.

        Returns
        -------
        ndarray, int64, shape (n,)

        Raises
        ------
        ValueError
            Unknown split, role or fold.
        """
        splits = self.splits(fold)
        keep = np.ones(len(self), dtype=bool)
        if split is not None:
            check_word("split", split)
            keep &= (splits == split).to_numpy()
        if role is not None:
            check_word("role", role)
            keep &= (self.table["role"].isin([role, "both"]) | (splits == "test")).to_numpy()
        return np.intersect1d(np.flatnonzero(keep), self.pixel_rows) if with_pixels else np.flatnonzero(keep)

    def describe(self) -> pd.DataFrame:
        """Count patients and images per subgroup.

        Returns
        -------
        DataFrame
            Index (attribute, subgroup), "all" first, in the order of the vocabulary. Columns: `patients`, `images`, and
            the patients of each split. Unknown is a row of its own.
        """
        rows = {("all", "all"): _counts(self.table)}
        for trait in TRAITS:
            for subgroup in VOCABULARY[trait]:
                part = self.table[self.table[trait] == subgroup]
                if len(part):
                    rows[trait, subgroup] = _counts(part)
        counts = pd.DataFrame.from_dict(rows, orient="index")
        counts.index = pd.MultiIndex.from_tuples(rows, names=["attribute", "subgroup"])
        return counts


def write_cohort(
    folder: str | Path,
    items: Iterable,
    *,
    name: str,
    seed: int,
    split: tuple[float, float, float] = (0.7, 0.1, 0.2),
    roles: tuple[float, float] | None = None,
    n_folds: int = 1,
    skew: dict | None = None,
    age_cut_years: float | None = None,
    age_cut_is_young: bool = False,
    conflicts: str = "error",
    tasks: Iterable[str] | None = None,
    chunk: int = 256,
    n_images: int | None = None,
    extra: dict | None = None,
) -> Cohort:
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
    info |= {"n_traits_filled": n_filled, "counts": _counts(table), "vocabulary": VOCABULARY}
    info["content_hash"] = _content_hash(table, digests)
    (folder / "cohort.json").unlink(missing_ok=True)
    conversion.publish_pixels()
    write_parquet(folder / "cohort.parquet", "cohort", table, checked=True)
    _write_info(folder, (extra or {}) | info)
    conversion.journal.unlink()
    return load_cohort(folder)


def load_cohort(folder: str | Path, *, verify: bool = False) -> Cohort:
    """Open a cohort without reading its images.

    Parameters
    ----------
    folder : path
        Folder of a finished cohort.
    verify : bool
        Also read every pixel and compare with the stored content hash.

    Returns
    -------
    Cohort

    Raises
    ------
    FileNotFoundError
        There is no cohort, or only an unfinished one.
    ValueError
        A file is truncated or does not fit the others, the table breaks its schema, or a patient is in two splits.
    """
    folder = Path(folder)
    if not (folder / "cohort.json").exists():
        raise FileNotFoundError(_no_cohort(folder))
    try:
        info = json.loads((folder / "cohort.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{folder / 'cohort.json'} is damaged ({error}): {_again(folder)}") from error
    if info.get("version") != COHORT_VERSION:
        raise ValueError(
            f"{folder} is of version {info.get('version')}, this code reads {COHORT_VERSION}: {_again(folder)}"
        )
    table = read_parquet(folder / "cohort.parquet", "cohort")
    kept = info.get("pixel_rows")
    shape = (len(table) if kept is None else len(kept), *info["shape"])
    if not (table["row"] == np.arange(len(table))).all() or len(table) != info["counts"]["images"]:
        raise ValueError(f"{folder / 'cohort.parquet'} does not fit cohort.json: {_again(folder)}")
    check_patients(table)
    images = _open_npy(folder / "images.npy", STORED[info["modality"]], shape)
    masks = _open_npy(folder / "masks.npy", STORED["mask"], shape) if info["has_masks"] else None
    if (
        verify
        and _content_hash(table, pixel_digests(*(stack for stack in (images, masks) if stack is not None)))
        != info["content_hash"]
    ):
        raise ValueError(f"{folder} is not what was written (content hash differs): {_again(folder)}")
    return Cohort(folder, table, images, masks, info)


def write_excerpt(cohort: Cohort, folder: str | Path, rows: Iterable[int]) -> Cohort:
    """Copy a cohort with its whole table but the pixels of a few rows, as a small example to ship.

    Parameters
    ----------
    cohort : Cohort
    folder : path
        Folder of the excerpt; made if absent.
    rows : iterable of int
        Rows whose images and masks are kept; at least one.

    Returns
    -------
    Cohort
        Other rows have their table row, but `image` refuses them.

    Raises
    ------
    ValueError
        If there are no rows.
    """
    folder, rows = Path(folder), np.unique(np.fromiter(rows, dtype=np.int64))
    if not len(rows):
        raise ValueError("an excerpt needs the pixels of at least one row")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cohort.json").unlink(missing_ok=True)
    stacks = {"images.npy": cohort.images[cohort._places(rows)]}
    if cohort.masks is not None:
        stacks["masks.npy"] = cohort.masks[cohort._places(rows)]
    for name, stack in stacks.items():
        (folder / name).write_bytes(bytes(HEADER_BYTES) + stack.tobytes())
        write_header(folder / name, stack.dtype, stack.shape)
    write_parquet(folder / "cohort.parquet", "cohort", cohort.table)
    info = cohort.info | {"pixel_rows": rows.tolist(), "excerpt_of": cohort.info["content_hash"]}
    _write_info(folder, info | {"content_hash": _content_hash(cohort.table, pixel_digests(*stacks.values()))})
    return load_cohort(folder)


def _write_info(folder, info) -> None:
    """Write `cohort.json`, the sign that a cohort is complete."""
    part = folder / "cohort.json.part"
    text = json.dumps(info, indent=1, sort_keys=True, default=lambda other: other.item())
    part.write_text(text + "\n", encoding="utf-8")
    part.replace(folder / "cohort.json")


def _counts(table) -> dict[str, int]:
    """Numbers of patients and images, and of the patients in each split."""
    patients = table.drop_duplicates("patient_id")["split"].value_counts()
    counts = {"patients": int(patients.sum()), "images": len(table)}
    return counts | {split: int(patients.get(split, 0)) for split in SPLITS}


def _as_float(stored: np.ndarray) -> np.ndarray:
    """Stored pixels as float32 in [0, 1]."""
    return np.asarray(stored, dtype=np.float32) / np.float32(np.iinfo(stored.dtype).max)


def _content_hash(table: pd.DataFrame, digests: Iterable[str]) -> str:
    """Hash of the pixels and the table: equal cohorts give equal text, whatever the chunk or the library versions."""
    whole = hashlib.sha256(table.to_csv(index=False).encode())
    for digest in digests:
        whole.update(digest.encode())
    return whole.hexdigest()[:32]


def _open_npy(path, dtype, shape) -> np.ndarray:
    """Memory-map a .npy file after comparing its size and form with what they should be."""
    if not path.exists():
        raise ValueError(f"{path} is missing: {_again(path.parent)}")
    size, wanted = path.stat().st_size, HEADER_BYTES + dtype.itemsize * math.prod(shape)
    if size != wanted:
        raise ValueError(
            f"{path} is truncated or of another cohort: {size:,} bytes, not {wanted:,}; {_again(path.parent)}"
        )
    array = np.load(path, mmap_mode="r")
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(f"{path} holds {array.dtype} {array.shape}, not {dtype} {shape}; {_again(path.parent)}")
    return array


def _no_cohort(folder) -> str:
    """Why there is no cohort to open, and what to do."""
    journal = folder / "rows.jsonl.part"
    if not journal.exists():
        return f"no cohort {folder.name!r} in {folder.parent}: run notebook {_NOTEBOOK}"
    with journal.open("rb") as lines:
        n_images = max(sum(1 for _ in lines) - 1, 0)
    return (
        f"cohort {folder.name!r} in {folder.parent} is unfinished ({n_images} images so far): "
        f"run notebook {_NOTEBOOK}, or the same conversion, again to continue it"
    )


def _again(folder) -> str:
    return f"delete {folder.name!r} and run notebook {_NOTEBOOK} again"
