"""Cohorts: images with one table row each, split by patient; written in chunks, read by memory map.

Conventions: a cohort is a folder with `cohort.parquet`, `images.npy`, perhaps `masks.npy`, and `cohort.json`, which is
written last: without it the cohort is unfinished. Row i of `images.npy` is the table's row i. On disk an X-ray has
8 bits and an MR image 16; in memory an image is float32 in [0, 1]. Whatever is decided by chance (split, role, fold,
thinning) is decided for a patient, by ranking a hash of (seed, patient_id): the order of the patients plays no part,
and the split can be computed before a single image exists.
Source: splits 70/10/20 and the 70/30 roles of paper Sec. 3.1; age cuts of its Tables 1 and 2.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from fairrecon_core.settings import suggest
from fairrecon_core.tables import SCHEMAS, VOCABULARY, check, check_word, read_parquet, write_parquet

COHORT_VERSION = 1
STORED = {"mri": np.uint16, "xray": np.uint8}  # type of one pixel on disk
SPLITS = ("train", "validation", "test")
ROLES = ("reconstruction", "prediction")
TRAITS = ("sex", "age_group", "race")  # the sensitive attributes
_REQUIRED = ("image_id", "patient_id", "modality", "sex", "age_years", "race")
_OPTIONAL = ("split", "role", "fold")
_HEADER_BYTES = 128  # of a .npy file of ours: fixed, so that it can be written again once the count is known


@dataclass(frozen=True, eq=False)
class Cohort:
    """Images and their table, one row each.

    Parameters
    ----------
    folder : Path
        Where it lies.
    table : DataFrame
        Table "cohort" of `tables.SCHEMAS`; row i belongs to `images[i]`.
    images : ndarray, uint8 (X-ray) or uint16 (MRI), shape (n, H, W)
        Memory-mapped, read-only.
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
        return _as_float(self.images[row])

    def images_at(self, rows) -> np.ndarray:
        """Images of several rows (numbers or a slice), float32 in [0, 1], shape (n, H, W)."""
        return _as_float(self.images[rows])

    def mask(self, row: int) -> np.ndarray:
        """Mask `row`, bool, shape (H, W); ValueError if the cohort has no masks."""
        return self.masks_at(row)

    def masks_at(self, rows) -> np.ndarray:
        """Masks of several rows, bool, shape (n, H, W); ValueError if the cohort has no masks."""
        if self.masks is None:
            raise ValueError(f"cohort {self.name!r} has no masks: write it with items (image, row, mask)")
        return np.array(self.masks[rows], dtype=bool)

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
        return self.table["split"] if n_folds == 1 else _split_of_fold(self.table["fold"], fold, n_folds)

    def select(self, split: str | None = None, role: str | None = None, fold: int = 0) -> np.ndarray:
        """Row numbers of a part of the cohort, ascending.

        Parameters
        ----------
        split : {"train", "validation", "test", "unused"}, optional
            All of them if left out.
        role : {"reconstruction", "prediction"}, optional
            Patients who may train a reconstructor, or a downstream reader. Test patients serve both.
        fold : int
            Of a cross-validated cohort: the fold whose patients are the test split.

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
        return np.flatnonzero(keep)

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
        Above 1 (at least 3): cross-validation by patient. Seen from fold k, its own patients are the test split, those
        of fold k + 1 validation, all others train; the column `split` shows fold 0.
    skew : dict, optional
        Thins subgroups of the training split, by patient: `{"sex": ("female", 0.5)}` keeps half of the women. The
        others stay in the files with split "unused".
    age_cut_years : float, optional
        Young is below it. None or 0: the median over patients of known age. A patient's age is the youngest recorded.
    age_cut_is_young : bool
        Whether an age exactly at the cut is young, as in the paper's UCSF-PDGM evaluation (58).
    conflicts : {"error", "unknown"}
        What to do with a patient who has two sexes or two races: refuse, or take the trait as unknown.
    chunk : int
        Images held in memory at a time.
    n_images : int, optional
        Number of items to come: shows a progress bar, and another number is refused at the end.
    extra : dict, optional
        Further entries for `cohort.json`, for example `simulator_version`; also tells one conversion from another.

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
    rules = {"split": split, "roles": roles, "n_folds": n_folds, "skew": skew}
    age = {"cut": age_cut_years or None, "at_cut_is_young": age_cut_is_young}
    _check_rules(split, roles, n_folds, skew, conflicts, chunk)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    draft = _Draft(folder, {"version": COHORT_VERSION, "name": name, "seed": seed, "extra": extra or {}}, chunk)
    with draft:
        for item in tqdm(items, total=n_images, disable=n_images is None, desc=name, unit="image"):
            draft.add(*item)
    table, digests = draft.rows()
    if n_images is not None and len(table) != n_images:
        raise ValueError(f"cohort {name!r} should have {n_images} images, the items hold {len(table)}")
    table, cut, filled = _complete(table, seed, rules, age, conflicts)
    info = draft.head | {"n_folds": int(table["fold"].max()) + 1, "skew": skew, "age_cut_years": cut}
    info |= {"age_cut_is_young": age_cut_is_young, "traits_filled": filled, "counts": _counts(table)}
    info |= {"vocabulary": VOCABULARY, "content_hash": _content_hash(table, digests)} | info.pop("extra")
    draft.finish(table, info)
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
    table = read_parquet(folder / "cohort.parquet", "cohort")
    shape = (len(table), *info["shape"])
    if not (table["row"] == np.arange(len(table))).all() or len(table) != info["counts"]["images"]:
        raise ValueError(f"{folder / 'cohort.parquet'} does not fit cohort.json: {_again(folder)}")
    _check_patients(table)
    images = _open_npy(folder / "images.npy", np.dtype(STORED[info["modality"]]), shape)
    masks = _open_npy(folder / "masks.npy", np.dtype(bool), shape) if info["has_masks"] else None
    if verify and _content_hash(table, _digests(images, masks)) != info["content_hash"]:
        raise ValueError(f"{folder} is not what was written (content hash differs): {_again(folder)}")
    return Cohort(folder, table, images, masks, info)


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
    ids = _ranked(patient_ids, seed, "split")
    return pd.Series(np.repeat(SPLITS, _whole_parts(len(ids), shares)), index=ids, dtype="str").sort_index()


def assign_roles(splits: pd.Series, seed: int, shares: tuple[float, float] | None = (0.7, 0.3)) -> pd.Series:
    """Decide which patients train reconstructors and which train downstream readers.

    Parameters
    ----------
    splits : Series
        Index patient_id; within each of its values other than "test" the patients are shared out apart.
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
            ids = _ranked(part.index, seed, "role")
            roles[ids] = np.repeat(ROLES, _whole_parts(len(ids), shares))
    return roles


def assign_folds(patient_ids: Iterable, seed: int, n_folds: int) -> pd.Series:
    """Share patients out over `n_folds` folds of equal size (up to one patient).

    Returns
    -------
    Series of int
        Index patient_id, sorted; values 0 to n_folds - 1.

    Raises
    ------
    ValueError
        If there are fewer patients than folds.
    """
    ids = _ranked(patient_ids, seed, "fold")
    if len(ids) < n_folds:
        raise ValueError(f"{n_folds} folds need as many patients, there are {len(ids)}")
    return pd.Series(np.arange(len(ids)) % n_folds, index=ids, dtype="int64").sort_index()


def assign_age_groups(age_years, cut_years: float, *, at_cut_is_young: bool = False) -> np.ndarray:
    """Age groups "young" and "old" of ages in years; "unknown" where the age is NaN. At the cut is old, or as told."""
    age = np.asarray(age_years, dtype=float)
    young = age <= cut_years if at_cut_is_young else age < cut_years
    return np.select([np.isnan(age), young], ["unknown", "young"], "old")


class _Draft:
    """A conversion under way: finished chunks in `*.part` files, and a journal with one line per image."""

    def __init__(self, folder: Path, head: dict, chunk: int):
        self.folder, self.head, self.chunk = folder, json.loads(_json(head)), chunk
        self.journal, self.pixels = folder / "rows.jsonl.part", folder / "images.npy.part"
        self.mask_pixels = folder / "masks.npy.part"
        self.patients, self.seen, self.pending = {}, set(), []
        self.kept = self._kept()  # row texts that an interrupted conversion left, in order

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if kind is None:
            self._flush()
            if not self.seen:
                raise ValueError(f"no items for cohort {self.head['name']!r}: the iterator is empty")
            self._truncate(len(self.seen))

    def add(self, image, row: dict, mask=None) -> None:
        """Take one item: check its row, and store it unless it is there already."""
        row = _clean_row(row)
        self._check_against_others(row)
        text, number = _json(row), len(self.seen)
        self.seen.add(row["image_id"])
        if number < len(self.kept):
            if self.kept[number] == text:
                return
            self._truncate(number)  # other items than last time: keep what agrees
        image = _stored_image(image, row, self.head.get("shape"))
        mask = None if mask is None else _stored_mask(mask, row, image.shape)
        self._check_form(image, mask, row)
        self.pending.append((image, text, mask))
        if len(self.pending) == self.chunk:
            self._flush()

    def rows(self) -> tuple[pd.DataFrame, list[str]]:
        """All rows as a frame, and the digests of the pixels."""
        frames, digests, block = [], [], []
        with self.journal.open(encoding="utf-8") as lines:
            next(lines)
            for line in lines:
                entry = json.loads(line)
                digests.append(entry["digest"])
                block.append(json.loads(entry["row"]))
                if len(block) == 4096:
                    frames.append(pd.DataFrame(block))
                    block = []
        return pd.concat([*frames, pd.DataFrame(block)] if block else frames, ignore_index=True), digests

    def finish(self, table: pd.DataFrame, info: dict) -> None:
        """Write the headers and the table, and give all files their names; `cohort.json` comes last."""
        shape = (len(table), *info["shape"])
        (self.folder / "cohort.json").unlink(missing_ok=True)
        _write_header(self.pixels, STORED[info["modality"]], shape)
        self.pixels.replace(self.folder / "images.npy")
        if info["has_masks"]:
            _write_header(self.mask_pixels, bool, shape)
            self.mask_pixels.replace(self.folder / "masks.npy")
        else:
            (self.folder / "masks.npy").unlink(missing_ok=True)
        write_parquet(self.folder / "cohort.parquet", "cohort", table)
        part = self.folder / "cohort.json.part"
        part.write_text(json.dumps(info, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        part.replace(self.folder / "cohort.json")
        self.journal.unlink()

    def _kept(self) -> list[str]:
        """Row texts of an interrupted conversion of the same cohort whose pixels are on disk and intact."""
        if not self.journal.exists():
            return []
        lines = self.journal.read_text(encoding="utf-8").split("\n")[:-1]  # without a torn last line
        head = json.loads(lines[0]) if lines else {}
        if {name: head.get(name) for name in self.head} != self.head:
            return []  # of another cohort
        begun, self.head = self.head, head
        if not all(path.exists() and path.stat().st_size >= _HEADER_BYTES for path, _ in self._files()):
            self.head = begun
            return []
        entries = [json.loads(line) for line in lines[1:]]
        found = _digests(*(self._pixels_on_disk(path, dtype) for path, dtype in self._files()))
        intact = next((i for i, entry in enumerate(entries) if entry["digest"] != next(found, None)), len(entries))
        self._cut(intact)
        return [entry["row"] for entry in entries[:intact]]

    def _files(self):
        """Paths and pixel types of the files of pixels."""
        files = [(self.pixels, STORED[self.head["modality"]])]
        return [*files, (self.mask_pixels, bool)] if self.head["has_masks"] else files

    def _pixels_on_disk(self, path, dtype):
        """What is there of one file, shape (n, H, W); whole images only."""
        n = (path.stat().st_size - _HEADER_BYTES) // (np.dtype(dtype).itemsize * math.prod(self.head["shape"]))
        if n == 0:
            return np.empty((0, *self.head["shape"]), dtype)
        return np.memmap(path, dtype, mode="r", offset=_HEADER_BYTES, shape=(n, *self.head["shape"]))

    def _truncate(self, number: int) -> None:
        """Forget the images that an interrupted conversion left from `number` on."""
        if number < len(self.kept):
            self.kept = self.kept[:number]
            self._cut(number)

    def _cut(self, number: int) -> None:
        """Shorten all files to `number` images."""
        for path, dtype in self._files():
            with path.open("r+b") as file:
                file.truncate(_HEADER_BYTES + number * np.dtype(dtype).itemsize * math.prod(self.head["shape"]))
        with self.journal.open("r+b") as file:
            for _ in range(number + 1):
                file.readline()
            file.truncate(file.tell())

    def _check_against_others(self, row: dict) -> None:
        """Refuse an image_id that came before, and a patient in two splits."""
        if row["image_id"] in self.seen:
            raise ValueError(f"image_id {row['image_id']!r} comes twice: every image needs its own")
        place = {name: row.get(name) for name in _OPTIONAL}
        known = self.patients.setdefault(row["patient_id"], place)
        for name, value in place.items():
            if known[name] != value:
                raise ValueError(
                    f"patient {row['patient_id']!r} is in two {name}s, {known[name]!r} and {value!r} "
                    f"(image {row['image_id']!r}): all images of a patient belong to one {name}"
                )

    def _check_form(self, image, mask, row) -> None:
        """Hold modality and the presence of a mask against the first image's; the first image opens the files."""
        form = {"modality": row["modality"], "shape": list(image.shape), "has_masks": mask is not None}
        if "shape" not in self.head:
            self.head |= form
            for path, _ in self._files():
                path.write_bytes(bytes(_HEADER_BYTES))
            self.journal.write_text(_json(self.head) + "\n", encoding="utf-8")
        for name, value in form.items():
            if self.head[name] != value:
                raise ValueError(f"image {row['image_id']!r} has {name} {value!r}, the first of this cohort has "
                                 f"{self.head[name]!r}: write two cohorts, or make them alike")  # fmt: skip

    def _flush(self) -> None:
        """Append the pending images, then their journal lines, so that a line stands for pixels on disk."""
        if not self.pending:
            return
        images, texts, masks = zip(*self.pending)
        for (path, _), stack in zip(self._files(), (images, masks)):
            with path.open("ab") as file:
                file.write(np.stack(stack).tobytes())
        found = _digests(images, masks if self.head["has_masks"] else None)
        with self.journal.open("a", encoding="utf-8") as file:
            file.write("".join(_json({"row": text, "digest": digest}) + "\n" for text, digest in zip(texts, found)))
        self.pending = []


def _clean_row(row: dict) -> dict:
    """A row in plain Python values, its vocabulary checked; missing traits are "unknown", a missing age NaN."""
    name = f"image {row.get('image_id')!r}"
    missing = [key for key in _REQUIRED if key not in row]
    if missing:
        raise ValueError(f"the row of {name} lacks {missing[0]!r}; rows need {', '.join(_REQUIRED)}")
    clean = {}
    for key, value in row.items():
        value = value.item() if isinstance(value, np.generic) else value
        blank = value is None or value is pd.NA or value == "" or value != value
        if key in ("image_id", "patient_id"):
            if blank:
                raise ValueError(f"empty {key!r} in the row of {name}: every image and every patient needs an id")
            clean[key] = str(value)
        elif key in ("sex", "race", "modality", "split", "role"):
            clean[key] = "unknown" if blank and key in TRAITS else value
            _named(name, check_word, key, clean[key])
        elif key == "fold" or key == "age_years":
            clean[key] = int(value) if key == "fold" else math.nan if blank else float(value)
        elif key.startswith(("y_", "true_")):
            clean[key] = math.nan if blank else float(value)
            if not blank and clean[key] not in (0.0, 1.0):
                raise ValueError(f"{key} of {name} is {value!r}: a label is 0, 1 or NaN (not recorded)")
        elif key.startswith("x_"):
            clean[key] = None if blank else value
        else:
            known = (*_REQUIRED, *_OPTIONAL)
            raise ValueError(f"unknown key {key!r} in the row of {name}{suggest(key, known)}; "
                             "other covariates are named x_<name>")  # fmt: skip
    if not (math.isnan(clean["age_years"]) or 0 <= clean["age_years"] <= 120):
        raise ValueError(f"age_years of {name} is {clean['age_years']:g}: should be in [0, 120], or NaN if unknown")
    return clean


def _named(name, function: Callable, *arguments):
    """Call `function`; a ValueError gets the name of the image in front."""
    try:
        return function(*arguments)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _stored_image(image, row, shape) -> np.ndarray:
    """An image as it is stored, uint8 or uint16, shape (H, W); refused if it is not an image in [0, 1]."""
    name, dtype = f"image {row['image_id']!r}", STORED[row["modality"]]
    image = np.asarray(image() if callable(image) else image)
    if image.ndim != 2 or (shape is not None and image.shape != tuple(shape)):
        wanted = f"({', '.join(map(str, shape))})" if shape else "(H, W)"
        raise ValueError(f"{name} has shape {image.shape}, should be {wanted}")
    if image.dtype == dtype:
        return image
    if not np.issubdtype(image.dtype, np.floating):
        raise ValueError(f"{name} has pixels of type {image.dtype}: give floats in [0, 1], or {np.dtype(dtype)}")
    low, high = float(image.min()), float(image.max())  # NaN and infinity show in one of them
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"{name} is not finite: {int((~np.isfinite(image)).sum())} pixels are NaN or infinite")
    if low < 0 or high > 1:
        raise ValueError(f"{name} spans [{low:g}, {high:g}], should lie in [0, 1]: rescale or clip it")
    return np.rint(image * np.float32(np.iinfo(dtype).max)).astype(dtype)


def _stored_mask(mask, row, shape) -> np.ndarray:
    """A mask as bool, shape (H, W); refused if it is not 0/1 or not of the image's size."""
    mask = np.asarray(mask() if callable(mask) else mask)
    if mask.shape != shape:
        raise ValueError(f"the mask of image {row['image_id']!r} has shape {mask.shape}, its image {shape}")
    if mask.dtype != bool and not np.isin(mask, (0, 1)).all():
        raise ValueError(f"the mask of image {row['image_id']!r} holds other values than 0 and 1: threshold it")
    return mask.astype(bool)


def _as_float(stored: np.ndarray) -> np.ndarray:
    """Stored pixels as float32 in [0, 1]."""
    return np.asarray(stored, dtype=np.float32) / np.float32(np.iinfo(stored.dtype).max)


def _complete(table, seed, rules, age, conflicts):
    """Fill in row, role, split, fold and age_group; returns the table, the age cut and how many traits were filled."""
    table = table.assign(row=np.arange(len(table)))
    table, filled = _one_trait_per_patient(table, conflicts)
    patients = table.drop_duplicates("patient_id").set_index("patient_id")
    places = pd.DataFrame(index=patients.index)
    places["split"], places["fold"] = _splits_and_folds(patients, seed, rules)
    groups = places["fold"].astype(str) if rules["n_folds"] > 1 else places["split"]
    places["role"] = patients["role"] if "role" in patients else assign_roles(groups, seed, rules["roles"])
    for trait, (subgroup, share) in (rules["skew"] or {}).items():
        members = places.index[(places["split"] == "train") & (patients[trait] == subgroup)]
        dropped = _ranked(members, seed, f"skew {trait}")[round(share * len(members)) :]
        places.loc[dropped, "split"] = "unused"
    table = table.drop(columns=list(_OPTIONAL), errors="ignore").join(places, on="patient_id")
    youngest = table.groupby("patient_id")["age_years"].transform("min")
    cut = age["cut"] or float(youngest[~table["patient_id"].duplicated()].median())
    table["age_group"] = assign_age_groups(youngest, cut, at_cut_is_young=age["at_cut_is_young"])
    table = check("cohort", table)
    _check_patients(table)
    return table, None if math.isnan(cut) else cut, filled


def _splits_and_folds(patients, seed, rules):
    """Split and fold of every patient: the rows' own, else assigned."""
    n_folds = rules["n_folds"]
    folds = pd.Series(0, index=patients.index)
    if "fold" in patients:
        folds, n_folds = patients["fold"], int(patients["fold"].max()) + 1
    elif n_folds > 1:
        folds = assign_folds(patients.index, seed, n_folds)
    if n_folds > 1:
        return _split_of_fold(folds, 0, n_folds), folds
    if "split" in patients:
        return patients["split"], folds
    return assign_splits(patients.index, seed, rules["split"]), folds


def _split_of_fold(folds: pd.Series, fold: int, n_folds: int) -> pd.Series:
    """Splits as fold `fold` sees them: itself the test split, the next one validation, the others train."""
    splits = np.select([folds == fold, folds == (fold + 1) % n_folds], ["test", "validation"], "train")
    return pd.Series(splits, index=folds.index, dtype="str")


def _one_trait_per_patient(table, conflicts):
    """Give a patient's known sex and race to all of the patient's images; refuse or blank a contradiction."""
    table, filled = table.copy(), 0
    for trait in ("sex", "race"):
        known = table.loc[table[trait] != "unknown", ["patient_id", trait]].drop_duplicates()
        torn = known.loc[known["patient_id"].duplicated(), "patient_id"]
        if len(torn) and conflicts == "error":
            patient = torn.iloc[0]
            values = " and ".join(map(repr, known.loc[known["patient_id"] == patient, trait]))
            raise ValueError(f"patient {patient!r} has {trait} {values}: mend the source, or give conflicts='unknown' "
                             f"to count {len(torn)} such patients as unknown")  # fmt: skip
        known = known[~known["patient_id"].isin(torn)].set_index("patient_id")[trait]
        whole = table["patient_id"].map(known).fillna("unknown")
        filled += int((whole != table[trait]).sum())
        table[trait] = whole
    return table, filled


def _check_patients(table) -> None:
    """Refuse a table in which a patient is in two splits, folds or roles, or has two values of a trait."""
    for column in (*_OPTIONAL, *TRAITS):
        pairs = table[["patient_id", column]].drop_duplicates()
        torn = pairs.loc[pairs["patient_id"].duplicated(), "patient_id"]
        if len(torn):
            values = " and ".join(map(repr, pairs.loc[pairs["patient_id"] == torn.iloc[0], column].tolist()[:2]))
            raise ValueError(f"patient {torn.iloc[0]!r} is in two {column}s, {values}: all images of a patient belong "
                             "to one; write the cohort again")  # fmt: skip


def _check_rules(split, roles, n_folds, skew, conflicts, chunk) -> None:
    _whole_parts(0, split)
    _whole_parts(0, (1, 0) if roles is None else roles)
    check_word("conflicts", conflicts, ("error", "unknown"))
    if n_folds < 1 or n_folds == 2 or chunk < 1:
        raise ValueError(
            f"need one fold or at least 3 (train, validation, test), and a chunk; got {n_folds=}, {chunk=}"
        )
    if skew and n_folds > 1:
        raise ValueError("skew thins one training split; with folds every patient is tested once: use n_folds=1")
    for trait, (subgroup, share) in (skew or {}).items():
        check_word("skew", trait, ("sex", "race"))
        check_word(trait, subgroup)
        if not 0 <= share <= 1:
            raise ValueError(f"skew keeps a share in [0, 1] of {trait} {subgroup!r}, got {share!r}")


def _ranked(patient_ids: Iterable, seed: int, purpose: str) -> list[str]:
    """Patients in the order of a hash of (seed, purpose, patient_id): random, yet the same on every machine."""

    def rank(patient):
        return hashlib.blake2b(f"{seed}|{purpose}|{patient}".encode(), digest_size=8).digest(), patient

    return sorted({str(patient) for patient in patient_ids}, key=rank)


def _whole_parts(n: int, shares) -> list[int]:
    """Whole numbers near `n * share` that sum to n; no share goes empty while there is enough for all."""
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


def _counts(table) -> dict[str, int]:
    """Numbers of patients and images, and of the patients in each split."""
    patients = table.drop_duplicates("patient_id")["split"].value_counts()
    counts = {"patients": int(patients.sum()), "images": len(table)}
    return counts | {split: int(patients.get(split, 0)) for split in SPLITS}


def _digests(images, masks=None):
    """Digest of the pixels of every image, with its mask's."""
    for i, image in enumerate(images):
        if masks is not None and i >= len(masks):
            return
        digest = hashlib.blake2b(np.ascontiguousarray(image), digest_size=16)
        if masks is not None:
            digest.update(np.ascontiguousarray(masks[i]))
        yield digest.hexdigest()


def _content_hash(table: pd.DataFrame, digests: Iterable[str]) -> str:
    """Hash of the pixels and the table: equal cohorts give equal text, whatever the chunk or the library versions."""
    whole = hashlib.sha256(table.to_csv(index=False).encode())
    for digest in digests:
        whole.update(digest.encode())
    return whole.hexdigest()[:32]


def _write_header(path, dtype, shape) -> None:
    """Put the header of a .npy file (format 1.0) into the first bytes of a file."""
    text = f"{{'descr': {np.lib.format.dtype_to_descr(np.dtype(dtype))!r}, 'fortran_order': False, 'shape': {shape}, }}"
    length = _HEADER_BYTES - 10
    with path.open("r+b") as file:
        file.write(b"\x93NUMPY\x01\x00" + length.to_bytes(2, "little") + text.ljust(length - 1).encode() + b"\n")


def _open_npy(path, dtype, shape) -> np.ndarray:
    """Memory-map a .npy file after comparing its size and form with what they should be."""
    if not path.exists():
        raise ValueError(f"{path} is missing: {_again(path.parent)}")
    wanted = _HEADER_BYTES + dtype.itemsize * math.prod(shape)
    if path.stat().st_size != wanted:
        raise ValueError(f"{path} is truncated or not of this cohort: {path.stat().st_size:,} bytes instead of "
                         f"{wanted:,}; {_again(path.parent)}")  # fmt: skip
    array = np.load(path, mmap_mode="r")
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(f"{path} holds {array.dtype} {array.shape} instead of {dtype} {shape}; {_again(path.parent)}")
    return array


def _no_cohort(folder) -> str:
    journal = folder / "rows.jsonl.part"
    notebook = SCHEMAS["cohort"].notebook
    if not journal.exists():
        return f"no cohort {folder.name!r} in {folder.parent}: run notebook {notebook}"
    with journal.open("rb") as lines:
        n = max(sum(1 for _ in lines) - 1, 0)
    return (f"cohort {folder.name!r} in {folder.parent} is unfinished ({n} images so far): run notebook {notebook}, or "
            "the same conversion, again to continue it")  # fmt: skip


def _again(folder) -> str:
    return f"delete {folder.name!r} and run notebook {SCHEMAS['cohort'].notebook} again"


def _json(value) -> str:
    """A value as one line of text; numpy scalars as plain numbers."""
    return json.dumps(value, default=lambda other: other.item(), sort_keys=True)
