"""What the conversion scripts share: tables and films, fitting to a square, options, and a report of what came out.

Conventions: a source is a download as `archives.Source` reads it. Codes of a table are looked up in a dict of the
script: an unknown one is refused by name. A film becomes float32 in [0, 1] first and a square second, as in the
published code.
"""

import argparse
import io
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from archives import DAMAGED, Source
from PIL import Image, ImageOps

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the core, where it is not installed

from fairrecon_core.cohort.folder import Cohort, write_cohort


def read_csv(source: Source | None, name: str, columns: Iterable[str]) -> pd.DataFrame:
    """A table of the source (or, without one, of the file system) as texts, blanks "", with at least `columns`.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is damaged, or lacks a column; the message names both, and the columns that are there.
    """
    if source is None and not Path(name).exists():
        raise FileNotFoundError(f"no table {name}: give the path of the file")
    data = io.BytesIO(Path(name).read_bytes() if source is None else source.read(name))
    try:
        frame = pd.read_csv(data, dtype=str, keep_default_na=False, encoding="utf-8-sig", encoding_errors="replace")
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(f"{name} is not a whole CSV table ({error}): fetch it again") from error
    return with_columns(frame, name, columns)


def with_columns(frame: pd.DataFrame, name: str, columns: Iterable[str]) -> pd.DataFrame:
    """The frame of texts with blanks stripped; ValueError if the table called `name` lacks one of `columns`."""
    missing = [column for column in columns if column not in frame]
    if missing:
        there = ", ".join(map(str, frame.columns))
        raise ValueError(f"{name} has no column {', '.join(map(repr, missing))}; it has {there}: take the original")
    return frame.apply(lambda values: values.str.strip())


def lookup(codes: dict, value: str, column: str, where: str, table: str):
    """Meaning of a code; None for a blank.

    Parameters
    ----------
    codes : dict
        Code (text) to meaning.
    value : str
        As it stands in the source.
    column, where : str
        Column and row, for the message.
    table : str
        Name of the dict in the script, for the message.

    Raises
    ------
    ValueError
        The code is not in `codes`.
    """
    if value == "":
        return None
    if value not in codes:
        raise ValueError(f"{where}: unknown code {value!r} in column {column!r}; known are {', '.join(codes)}. If the "
                         f"source's legend explains it, add it to {table} in {Path(sys.argv[0]).name}")  # fmt: skip
    return codes[value]


def number(value: str, column: str, where: str) -> float | None:
    """A number written in a table; None for a blank; ValueError that names `column` and row (`where`) otherwise."""
    try:
        return float(value) if value else None
    except ValueError:
        raise ValueError(f"{where}: {value!r} in column {column!r} is no number: mend the table") from None


def decode(data: bytes, name: str) -> np.ndarray:
    """Pixels of a PNG, JPEG or TIFF file.

    Parameters
    ----------
    data : bytes
        The whole file.
    name : str
        Its name, for the message.

    Returns
    -------
    ndarray, uint8 or uint16, shape (H, W), or (H, W, 3) of a colour TIFF
        Other colour images are turned into grey; the camera's orientation is applied.

    Raises
    ------
    ValueError
        The file is truncated or no image.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "TIFF")) as film:
            film.load()
            if film.format == "TIFF" and film.mode == "RGB":
                return np.asarray(film)
            film = ImageOps.exif_transpose(film) if film.format == "JPEG" else film
            deep = film.mode.startswith("I")
            return np.asarray(film).astype(np.uint16) if deep else np.asarray(film.convert("L"))
    except DAMAGED as error:
        raise ValueError(
            f"{name} is truncated or no image ({error}): fetch that file again, then start again"
        ) from error


def to_unit(image: np.ndarray, scale: str) -> np.ndarray:
    """Grey values as float32 in [0, 1].

    Parameters
    ----------
    image : ndarray, shape (H, W)
        Of any type; a whole-number type tells the full scale.
    scale : {"image", "fixed"}
        Minimum to 0 and maximum to 1 of this image, as published (an even image becomes 0); or 0 to the largest
        number of its type, which keeps the brightness of images comparable.
    """
    image = np.asarray(image)
    low, high = (0, np.iinfo(image.dtype).max) if scale == "fixed" else (float(image.min()), float(image.max()))
    return (image.astype(np.float32) - np.float32(low)) / np.float32(high - low if high > low else 1)


def to_square(image: np.ndarray, size: int, fit: str) -> np.ndarray:
    """Fit an image to a square.

    Parameters
    ----------
    image : ndarray, float32, shape (H, W), in [0, 1]
    size : int
        Side of the square, in pixels.
    fit : {"squeeze", "pad"}
        Stretch both sides to `size`, as published; or keep the proportions and put black beside the short side.

    Returns
    -------
    ndarray, float32, shape (size, size)
        Resampled bilinearly with antialiasing; an image of that size is returned as it is.
    """
    height, width = image.shape
    if fit == "pad":
        height, width = (max(1, round(side * size / max(image.shape))) for side in image.shape)
    else:
        height = width = size
    if image.shape != (height, width):
        film = Image.fromarray(np.ascontiguousarray(image, dtype=np.float32))
        image = np.asarray(film.resize((width, height), Image.Resampling.BILINEAR)).clip(0, 1)
    top, left = (size - height) // 2, (size - width) // 2
    return np.pad(image, ((top, size - height - top), (left, size - width - left)))


def mask_to_square(mask: np.ndarray, size: int, fit: str) -> np.ndarray:
    """Fit a mask, bool (H, W), to a square as `to_square` does: True where at least half is covered (`size`, `fit`)."""
    return to_square(mask.astype(np.float32), size, fit) >= 0.5


def parser(doc: str, *, scales: tuple[str, ...] = ("image", "fixed"), folds: int = 1) -> argparse.ArgumentParser:
    """The options that all conversions share.

    Parameters
    ----------
    doc : str
        Docstring of the script.
    scales : tuple of str
        Choices of --scale, the default first.
    folds : int
        Default of --folds.
    """
    options = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("source", metavar="SOURCE", type=Path, help="folder or archive as downloaded")
    options.add_argument("out", metavar="OUT", type=Path, nargs="?", help="folder of the cohort to write")
    options.add_argument("--size", type=int, default=256, help="side of the square images in pixels (256)")
    options.add_argument("--fit", choices=("squeeze", "pad"), default="squeeze", help="how a film becomes a square")
    options.add_argument("--scale", choices=scales, default=scales[0], help=f"what becomes 1 ({scales[0]})")
    options.add_argument("--seed", type=int, default=1, help="decides splits, roles and folds (1)")
    options.add_argument("--folds", type=int, default=folds, help=f"cross-validation by patient if above 1 ({folds})")
    options.add_argument("--age-cut", type=float, metavar="YEARS", help="young is below (default: see above)")
    options.add_argument("--workers", type=int, default=min(4, os.cpu_count() or 1), metavar="N",
                         help="threads that read ahead; they change no byte (one per core, at most 4)")  # fmt: skip
    options.add_argument("--patients", type=int, metavar="N", help="only the first N patients, to try things out")
    return options


def first_patients(frame: pd.DataFrame, n_patients: int | None) -> pd.DataFrame:
    """Rows of the first `n_patients` patients (column `patient_id`), all if None."""
    return frame if n_patients is None else frame[frame["patient_id"].isin(frame["patient_id"].unique()[:n_patients])]


def ahead(items: Iterable[tuple], n_workers: int) -> Iterator[tuple]:
    """The same items in the same order, whose images threads read before they are asked for.

    Parameters
    ----------
    items : iterable of tuple
        The first of each is a function without arguments that returns the image.
    n_workers : int
        Number of threads; with 1 nothing is read ahead.

    Yields
    ------
    tuple
        Threads start once the first image is asked for: what an earlier start left is skipped at no cost.
    """
    if n_workers == 1:
        yield from items
        return
    asked, waiting = False, deque()

    def image_of(read, future):
        nonlocal asked
        asked = True
        return read() if future is None else future.result()

    with ThreadPoolExecutor(n_workers) as pool:
        try:
            for read, *rest in items:
                waiting.append((read, pool.submit(read) if asked else None, rest))
                if len(waiting) > 2 * n_workers:
                    *image, rest = waiting.popleft()
                    yield partial(image_of, *image), *rest
            for *image, rest in waiting:
                yield partial(image_of, *image), *rest
        finally:
            pool.shutdown(cancel_futures=True)


def convert(
    arguments: argparse.Namespace,
    source: Source,
    items: Iterable,
    n_images: int,
    *,
    name: str,
    about: dict,
    expected: dict[str, int],
    notes: list[str],
    **options,
) -> Cohort:
    """Write the cohort, then print its summary, what was noted and the check of counts.

    Parameters
    ----------
    arguments : Namespace
        Of `parser`.
    source : Source
        Where the images come from; one whose files must be read in turn is not read ahead.
    items : iterable
        As `write_cohort` takes them.
    n_images : int
        How many there are.
    name : str
        Name of the cohort.
    about : dict
        Goes into `cohort.json`, with size, fit and scale: source, licence, what to cite, options of the script.
    expected : dict of str to int
        Patients and images of the complete data set under these options.
    notes : list of str
        Blemishes found and what became of them.
    **options
        For `write_cohort`.

    Raises
    ------
    ValueError
        `arguments` lacks the folder to write, or the size is not a positive number; also all of `write_cohort`.
    """
    if arguments.out is None or arguments.size < 1 or arguments.workers < 1:
        raise ValueError("need a folder OUT, a size of at least 1 pixel and a worker, got "
                         f"{arguments.out}, {arguments.size} and {arguments.workers}")  # fmt: skip
    if not n_images:
        raise ValueError(f"no image of the table is in {arguments.source}: give the folder or archive as downloaded")
    about = about | {key: getattr(arguments, key) for key in ("size", "fit", "scale")} | {"notes": notes}
    if arguments.age_cut is not None:
        options |= {"age_cut_years": arguments.age_cut, "age_cut_is_young": False}
    with closing(ahead(items, 1 if source.in_turn else arguments.workers)) as images:
        cohort = write_cohort(arguments.out, images, name=name, seed=arguments.seed, n_folds=arguments.folds,
                              n_images=n_images, extra=about, **options)  # fmt: skip
    print(summary(cohort))
    print("\n".join(["", "Noted", *(f"  {note}" for note in notes or ["nothing"])]))
    print("\n".join(["", "Counts", *(f"  {line}" for line in check_counts(cohort.info["counts"], expected))]))
    return cohort


def summary(cohort: Cohort) -> str:
    """Tables of who and what is in a cohort: subgroups by patients and images, labels, and what is missing."""
    table = cohort.table
    cut = cohort.info["age_cut_years"]
    at = "up to" if cohort.info["age_cut_is_young"] else "below"
    parts = [f"{cohort.name}: {cohort.info['counts']['patients']} patients, {len(cohort)} images of "
             f"{cohort.images.shape[1]} px", "", cohort.describe().to_string(), "",
             "no age is known" if cut is None else f"young: {at} {cut:g} years"]  # fmt: skip
    rows = {}
    for task in cohort.tasks:
        label = table[f"y_{task}"]
        patients = table["patient_id"]
        rows[task] = [(label == 1).sum(), (label == 0).sum(), label.isna().sum(), patients[label == 1].nunique(),
                      patients[label == 0].nunique()]  # fmt: skip
    columns = ["images with", "without", "not recorded", "patients with", "without"]
    parts += ["", pd.DataFrame.from_dict(rows, orient="index", columns=columns).to_string() if rows else "no task", ""]
    once = table.drop_duplicates("patient_id")
    unknown = {trait: int((once[trait] == "unknown").sum()) for trait in ("sex", "age_group", "race")}
    parts += ["patients with unknown " + ", ".join(f"{trait} {n}" for trait, n in unknown.items())]
    if cohort.masks is not None and "x_tumour" in table:
        parts += [f"images with a tumour {int(table['x_tumour'].sum())} of {len(table)}"]
    return "\n".join(parts)


def check_counts(found: dict[str, int], expected: dict[str, int]) -> list[str]:
    """One line per count that the complete data set has, saying whether `found` is complete, partial or too many."""
    lines = []
    for what, wanted in expected.items():
        n = found[what]
        verdict = "complete" if n == wanted else "partial" if n < wanted else "too many: look at SOURCE"
        lines.append(f"{what}: {n} of {wanted}, {verdict}")
    return lines


def run(main: Callable[[list[str] | None], object]) -> None:
    """Call a script's `main`; an expected error ends it with one line instead of a traceback."""
    try:
        main(None)
    except (ValueError, FileNotFoundError, ImportError) as error:
        raise SystemExit(f"{error}\nNothing that was converted so far is lost: the same command goes on.") from None
    except KeyboardInterrupt:
        raise SystemExit("\nstopped; the same command goes on from here") from None
