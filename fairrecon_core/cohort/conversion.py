"""A conversion under way: items checked one by one, pixels and rows appended in chunks, and how to go on after a stop.

Conventions: unfinished files end in `.part`. The journal `rows.jsonl.part` opens with a line that says which cohort
this is; then it has one line per image, written after the pixels, with a digest of them. So whatever the moment of a
stop, the images that can be trusted are the first ones whose digests agree.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from fairrecon_core.cohort.splits import PLACES
from fairrecon_core.columns import check_word
from fairrecon_core.settings import suggest

# types of a pixel on disk
STORED: dict[str, np.dtype] = {"mri": np.dtype("uint16"), "xray": np.dtype("uint8"), "mask": np.dtype("bool")}
HEADER_BYTES = 128  # of a .npy file of ours: fixed, so that it can be written again once the count is known
REQUIRED = ("image_id", "patient_id", "modality", "sex", "age_years", "race")  # keys of a row


class Conversion:
    """The part files of a cohort that is being written.

    Parameters
    ----------
    folder : Path
        Folder of the cohort; exists.
    head : dict
        What tells this conversion from another; part files with another head are overwritten.
    chunk : int
        Images held in memory before they are written.
    tasks : list of str, optional
        The only tasks whose labels rows may bring.
    """

    def __init__(self, folder: Path, head: dict, chunk: int, tasks: list[str] | None = None):
        self.folder, self.head, self.chunk, self.tasks = folder, json.loads(as_json(head)), chunk, tasks
        self.journal = folder / "rows.jsonl.part"
        self.patients, self.seen, self.pending = dict[str, dict](), set[str](), list[tuple]()
        self.kept = self._resume()  # row texts of the images that an interrupted conversion left, in order

    def add(self, image, row: dict, mask=None) -> None:
        """Take one item: check its row, and check and store its pixels unless they are there already.

        Parameters
        ----------
        image, row, mask
            As in `cohort.write_cohort`.

        Raises
        ------
        ValueError
            As listed in `cohort.write_cohort`.
        """
        row = clean_row(row, self.tasks)
        self._check_against_others(row)
        text, number = as_json(row), len(self.seen)
        self.seen.add(row["image_id"])
        if number < len(self.kept):
            if self.kept[number] == text:
                return
            self._cut(number)  # not the items of last time: keep what agrees
        image = _stored_image(image, row, self.head.get("shape"))
        mask = None if mask is None else _stored_mask(mask, row, image.shape)
        self._check_form(image, mask, row)
        self.pending.append((text, image) if mask is None else (text, image, mask))
        if len(self.pending) == self.chunk:
            self._flush()

    def close(self) -> tuple[pd.DataFrame, list[str]]:
        """Write what is pending; return all rows as a frame, and the digests of their pixels.

        Raises
        ------
        ValueError
            If there were no items.
        """
        self._flush()
        if not self.seen:
            raise ValueError(f"no items for cohort {self.head['name']!r}: the iterator is empty")
        self._cut(len(self.seen))
        frames, digests, block = [], [], []
        for number, entry in enumerate(self._entries(), start=1):
            digests.append(entry["digest"])
            block.append(json.loads(entry["row"]))
            if number % 4096 == 0 or number == len(self.seen):
                frames.append(pd.DataFrame(block))
                block = []
        return pd.concat(frames, ignore_index=True), digests

    def publish_pixels(self) -> None:
        """Give the finished pixel files their headers and their names; drop masks of an earlier cohort."""
        shape = (len(self.seen), *self.head["shape"])
        (self.folder / "masks.npy").unlink(missing_ok=True)
        for path, dtype in self._files():
            write_header(path, dtype, shape)
            path.replace(path.with_suffix(""))

    def _resume(self) -> list[str]:
        """Row texts that an interrupted conversion of the same cohort left, where the pixels are intact."""
        if not self.journal.exists():
            return []
        with self.journal.open(encoding="utf-8") as lines:
            first = lines.readline()
        found = json.loads(first) if first.endswith("\n") else {}
        if any(found.get(name) != value for name, value in self.head.items()):
            return []  # of another cohort
        fresh, self.head = self.head, found
        if not all(path.exists() and path.stat().st_size >= HEADER_BYTES for path, _ in self._files()):
            self.head = fresh
            return []
        digests = pixel_digests(*(self._pixels(path, dtype) for path, dtype in self._files()))
        kept = []
        for entry in self._entries():
            if entry["digest"] != next(digests, None):
                break
            kept.append(entry["row"])
        self.kept = [*kept, ""]  # whatever follows is cut off
        self._cut(len(kept))
        return kept

    def _entries(self) -> Iterator[dict]:
        """Entries of the journal; a torn last line is left out."""
        with self.journal.open(encoding="utf-8") as lines:
            next(lines)
            yield from (json.loads(line) for line in lines if line.endswith("\n"))

    def _files(self) -> list[tuple[Path, np.dtype]]:
        """Paths and pixel types of the part files."""
        files = [(self.folder / "images.npy.part", STORED[self.head["modality"]])]
        return [*files, (self.folder / "masks.npy.part", STORED["mask"])] if self.head["has_masks"] else files

    def _pixels(self, path, dtype) -> np.ndarray:
        """Whole images in a part file, shape (n, H, W)."""
        n = (path.stat().st_size - HEADER_BYTES) // (dtype.itemsize * math.prod(self.head["shape"]))
        if n == 0:  # nothing to map
            return np.empty((0, *self.head["shape"]), dtype)
        return np.memmap(path, dtype, mode="r", offset=HEADER_BYTES, shape=(n, *self.head["shape"]))

    def _cut(self, number: int) -> None:
        """Shorten all part files to `number` images if an interrupted conversion left more."""
        if number >= len(self.kept):
            return
        self.kept = self.kept[:number]
        for path, dtype in self._files():
            with path.open("r+b") as file:
                file.truncate(HEADER_BYTES + number * dtype.itemsize * math.prod(self.head["shape"]))
        with self.journal.open("r+b") as file:
            for _ in range(number + 1):
                file.readline()
            file.truncate(file.tell())

    def _check_against_others(self, row: dict) -> None:
        """Refuse an image_id that came before, and a patient in two splits, roles or folds."""
        if row["image_id"] in self.seen:
            raise ValueError(f"image_id {row['image_id']!r} comes twice: every image needs its own")
        place = {name: row.get(name) for name in PLACES}
        for name, known in self.patients.setdefault(row["patient_id"], place).items():
            if known != place[name]:
                raise ValueError(f"patient {row['patient_id']!r} is in two {name}s, {known!r} and {place[name]!r} "
                                 f"(image {row['image_id']!r}): a patient's images belong to one {name}")  # fmt: skip

    def _check_form(self, image, mask, row) -> None:
        """Hold modality, size and presence of a mask against the first image's, which opens the part files."""
        form = {"modality": row["modality"], "shape": list(image.shape), "has_masks": mask is not None}
        if "shape" not in self.head:
            self.head |= form
            for path, _ in self._files():
                path.write_bytes(bytes(HEADER_BYTES))
            self.journal.write_text(as_json(self.head) + "\n", encoding="utf-8")
        for name, value in form.items():
            if self.head[name] != value:
                raise ValueError(f"image {row['image_id']!r} has {name} {value!r}, the first of this cohort has "
                                 f"{self.head[name]!r}: write two cohorts, or make them alike")  # fmt: skip

    def _flush(self) -> None:
        """Append the pending pixels, then their journal lines."""
        if not self.pending:
            return
        texts, *stacks = zip(*self.pending)
        for (path, _), stack in zip(self._files(), stacks):
            with path.open("ab") as file:
                file.writelines(np.ascontiguousarray(pixels).data for pixels in stack)
        lines = [as_json({"row": text, "digest": digest}) for text, digest in zip(texts, pixel_digests(*stacks))]
        with self.journal.open("a", encoding="utf-8") as file:
            file.write("\n".join([*lines, ""]))
        self.pending = []


def clean_row(row: dict, tasks: list[str] | None = None) -> dict:
    """Check one row and put it into plain Python values.

    Parameters
    ----------
    row, tasks
        As given to `cohort.write_cohort`.

    Returns
    -------
    dict
        Ids as text, missing traits "unknown", a missing age or label NaN, a missing covariate None.

    Raises
    ------
    ValueError
        A key is missing or unknown, or a value is not allowed; the message names the image.
    """
    name = f"image {row.get('image_id')!r}"
    for key in REQUIRED:
        if key not in row:
            raise ValueError(f"the row of {name} lacks {key!r}; rows need {', '.join(REQUIRED)}")
    try:
        for key in row if tasks is not None else ():
            kind, _, task = key.partition("_")
            if kind in ("y", "true"):
                check_word("task", task, tuple(tasks or ()))
        return {key: _clean_value(key, value) for key, value in row.items()}
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name}: {error}") from error


def _clean_value(key: str, value):
    """One value of a row as plain Python."""
    value = value.item() if isinstance(value, np.generic) else value
    blank = value is None or value is pd.NA or value == "" or value != value
    if key.startswith("x_"):
        return None if blank else value
    if key in ("sex", "race"):
        value = "unknown" if blank else value
    elif key == "age_years" or key.startswith(("y_", "true_")):
        value = math.nan if blank else float(value)
    elif key not in (*REQUIRED, *PLACES):
        known = (*REQUIRED, *PLACES)
        raise ValueError(f"unknown key {key!r} in its row{suggest(key, known)}; rows hold {', '.join(known)}, labels "
                         "y_<task> and true_<task>, and other covariates as x_<name>")  # fmt: skip
    elif blank:
        raise ValueError(f"empty {key!r} in its row")
    if key in ("image_id", "patient_id"):
        return str(int(value) if isinstance(value, float) and value.is_integer() else value).strip()
    if key == "fold":
        return int(value)
    if key == "age_years":
        if value < 0 or value > 120:
            raise ValueError(f"age_years is {value:g}, should be in [0, 120], or NaN if unknown")
    elif isinstance(value, float):
        if value not in (0, 1) and not math.isnan(value):
            raise ValueError(f"{key} is {value:g}: a label is 0, 1 or NaN (not recorded)")
    else:
        check_word(key, value)
    return value


def _stored_image(image, row, shape) -> np.ndarray:
    """An image as it is stored, shape (H, W); refused if it is not an image in [0, 1]."""
    name, dtype = f"image {row['image_id']!r}", STORED[row["modality"]]
    image = np.asarray(image() if callable(image) else image)
    if image.ndim != 2 or (shape is not None and image.shape != tuple(shape)):
        wanted = f"({', '.join(map(str, shape))})" if shape else "(H, W)"
        raise ValueError(f"{name} has shape {image.shape}, should be {wanted}")
    if image.dtype == dtype:
        return image
    if not np.issubdtype(image.dtype, np.floating):
        raise ValueError(f"{name} has pixels of type {image.dtype}: give floats in [0, 1], or {dtype}")
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


def pixel_digests(*stacks: Iterable) -> Iterator[str]:
    """Digest of the pixels of every image, over its mask too where a second stack is given; stops with the shorter."""
    for pixels in zip(*stacks):
        digest = hashlib.blake2b(digest_size=16)
        for array in pixels:
            digest.update(np.ascontiguousarray(array).data)
        yield digest.hexdigest()


def as_json(value) -> str:
    """A value as one line of text, keys in their order; numpy scalars as plain numbers."""
    return json.dumps(value, default=lambda other: other.item())


def write_header(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    """Put the header of a .npy file (format 1.0) into the first HEADER_BYTES bytes of a file."""
    text = f"{{'descr': {np.lib.format.dtype_to_descr(dtype)!r}, 'fortran_order': False, 'shape': {shape}, }}"
    length = HEADER_BYTES - 10
    with path.open("r+b") as file:
        file.write(b"\x93NUMPY\x01\x00" + length.to_bytes(2, "little") + text.ljust(length - 1).encode() + b"\n")
