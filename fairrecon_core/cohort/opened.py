"""A finished cohort, opened: images by memory map, their table, and who is in it.

Conventions: as in `folder.py`, which writes it.
"""

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from fairrecon_core.cohort.conversion import HEADER_BYTES, STORED, pixel_digests
from fairrecon_core.cohort.pixels import as_float
from fairrecon_core.cohort.splits import SPLITS, TRAITS, check_patients, split_of_fold
from fairrecon_core.columns import VOCABULARY, check_word
from fairrecon_core.tables import SCHEMAS, read_parquet

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
        return as_float(self.images[self._places(rows)])

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
        rows = {("all", "all"): counts_of(self.table)}
        for trait in TRAITS:
            for subgroup in VOCABULARY[trait]:
                part = self.table[self.table[trait] == subgroup]
                if len(part):
                    rows[trait, subgroup] = counts_of(part)
        counts = pd.DataFrame.from_dict(rows, orient="index")
        counts.index = pd.MultiIndex.from_tuples(rows, names=["attribute", "subgroup"])
        return counts


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
        raise ValueError(f"{folder} is of version {info.get('version')}, not {COHORT_VERSION}: {_again(folder)}")
    table = read_parquet(folder / "cohort.parquet", "cohort")
    kept = info.get("pixel_rows")
    shape = (len(table) if kept is None else len(kept), *info["shape"])
    if not (table["row"] == np.arange(len(table))).all() or len(table) != info["counts"]["images"]:
        raise ValueError(f"{folder / 'cohort.parquet'} does not fit cohort.json: {_again(folder)}")
    check_patients(table)
    images = _open_npy(folder / "images.npy", STORED[info["modality"]], shape)
    masks = _open_npy(folder / "masks.npy", STORED["mask"], shape) if info["has_masks"] else None
    stacks = [stack for stack in (images, masks) if stack is not None]
    if verify and content_hash(table, pixel_digests(*stacks)) != info["content_hash"]:
        raise ValueError(f"{folder} is not what was written (content hash differs): {_again(folder)}")
    return Cohort(folder, table, images, masks, info)


def counts_of(table: pd.DataFrame) -> dict[str, int]:
    """Numbers of patients and images, and of the patients in each split."""
    patients = table.drop_duplicates("patient_id")["split"].value_counts()
    counts = {"patients": int(patients.sum()), "images": len(table)}
    return counts | {split: int(patients.get(split, 0)) for split in SPLITS}


def people_left(table: pd.DataFrame) -> list[dict]:
    """Who of a cohort's `table` can be audited: in it, with a label of any task, of these with a known trait."""
    labels = [column for column in table.columns if column.startswith("y_")]
    labelled = table[labels].notna().any(axis=1) if labels else pd.Series(True, index=table.index)
    steps = {"in the cohort": labelled | True} | ({"with a label": labelled} if labels else {})
    return _steps(table, steps | _known(table, labelled, "of these with a known"))


def funnel(cohort: Cohort, image_ids: Iterable[str] | None = None) -> list[dict]:
    """How many people are left at every step, from what was recorded to what is audited.

    Parameters
    ----------
    cohort : Cohort
    image_ids : iterable of str, optional
        Images that readers answered for: adds who of them is audited, by trait.

    Returns
    -------
    list of dict
        Entries `step patients images`. A conversion's own steps come first (its table, with image, with label); of a
        simulated cohort the first is the cohort itself.
    """
    steps = cohort.info.get("funnel") or people_left(cohort.table)
    if image_ids is None:
        return steps
    table = cohort.table
    labels = table[[f"y_{task}" for task in cohort.tasks]].notna().any(axis=1) | (not cohort.tasks)
    tested = table["image_id"].isin(list(image_ids)) & labels
    tested &= (table["split"] == "test") | (cohort.info["n_folds"] > 1)
    return [*steps, *_steps(table, _known(table, tested, "audited by", 2))]


def _known(table, among, words, n_groups=1) -> dict:
    known = {trait: among & (table[trait] != "unknown") for trait in TRAITS}
    return {f"{words} {trait}": rows & (table.loc[rows, trait].nunique() >= n_groups) for trait, rows in known.items()}


def _steps(table, kept: dict) -> list[dict]:
    """Patients and images of each of several parts of a table."""
    return [{"step": step, "patients": int(table["patient_id"][rows].nunique()), "images": int(rows.sum())}
            for step, rows in kept.items()]  # fmt: skip


def content_hash(table: pd.DataFrame, digests: Iterable[str]) -> str:
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
    again = _again(path.parent)
    if size != wanted:
        raise ValueError(f"{path} is truncated or of another cohort: {size:,} bytes, not {wanted:,}; {again}")
    array = np.load(path, mmap_mode="r")
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(f"{path} holds {array.dtype} {array.shape}, not {dtype} {shape}; {again}")
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
