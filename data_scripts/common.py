"""What the conversion scripts share: tables, options, and a report of what came out. Pixels: `films.py`.

Conventions: a source is a download as `archives.Source` reads it; tables are read as text. Codes of a table are looked
up in a dict of the script: an unknown one is refused by name, but where a column only chooses rows. Every join says
how many found a partner and fails below a share; every filter counts people (`Funnel`).
"""

import argparse
import math
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
from archives import Source
from films import decode, weak_images

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the core, where it is not installed

from fairrecon_core.cohort.folder import Cohort, amend_info, people_left, write_cohort
from fairrecon_lab.auditing.reading import text_table
from fairrecon_lab.engine.lock import InUseError, held

MIN_SHARE = 0.5  # of a table that has to find a partner in a join


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
    data = Path(name).read_bytes() if source is None else source.read(name)
    try:
        frame, _ = text_table(data, name, tuple(columns))
    except ValueError as error:
        raise ValueError(f"{name} is not a whole CSV table ({error}): fetch it again") from error
    return with_columns(frame, name, columns)


def with_columns(frame: pd.DataFrame, name: str, columns: Iterable[str]) -> pd.DataFrame:
    """The frame of texts with blanks stripped; ValueError if the table called `name` lacks one of `columns`."""
    missing = [column for column in columns if column not in frame]
    if missing:
        there = ", ".join(map(str, frame.columns))
        raise ValueError(f"{name} has no column {', '.join(map(repr, missing))}; it has {there}: take the original")
    return frame.astype(object).fillna("").apply(lambda values: values.str.strip())


def agreeing(table: pd.DataFrame, key: str, name: str) -> pd.DataFrame:
    """The table called `name` with one row for each `key`; ValueError if two rows of one key contradict each other."""
    table = table.drop_duplicates()
    twice = table[key].duplicated()
    if twice.any():
        same = table[table[key] == table[key][twice].iloc[0]]
        column = next(column for column in table if same[column].nunique() > 1)
        values = " and ".join(map(repr, same[column].unique()[:2]))
        raise ValueError(f"{name} has rows of {same[key].iloc[0]!r} that contradict each other: {column} {values}")
    return table


def joined(wanted: Iterable, there: Iterable, what: str, share: float = MIN_SHARE) -> str:
    """How many of the patients `wanted` have a row `there`, as a note.

    Parameters
    ----------
    wanted, there : iterable of str
    what : str
        Name of the table that is joined.
    share : float
        Of `wanted` that has to be found.

    Raises
    ------
    ValueError
        Fewer are found: the ids are written in another way, or the table is of other people.
    """
    wanted, there = set(wanted), set(there)
    n = len(wanted & there)
    if n < share * len(wanted):
        raise ValueError(
            f"{what}: only {n} of {len(wanted)} patients have a row there (it has {sorted(there - wanted)[:1]}, lacks "
            f"{sorted(wanted - there)[:1]}): write the ids alike, or lower --min-joined to {n / len(wanted):.2g}"
        )
    return f"{what}: {n} of {len(wanted)} patients have a row there"


class Funnel(list):
    """Who is left at each step of a conversion: dicts `step patients images`, as `cohort.json` keeps them."""

    def count(self, step: str, frame: pd.DataFrame) -> None:
        """Add a step: the rows of `frame`, which has a `patient_id`, are the images left."""
        self.append({"step": step, "patients": int(frame["patient_id"].nunique()), "images": len(frame)})


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


def _years(text: str) -> float:
    years = float(text)
    if not (math.isfinite(years) and 0 < years <= 120):
        raise argparse.ArgumentTypeError(f"{text!r} is no age in years")
    return years


def parser(
    doc: str, *, scales: tuple[str, ...] = ("image", "fixed"), folds: int = 1, conflicts: str = "error"
) -> argparse.ArgumentParser:
    """The options that all conversions share.

    Parameters
    ----------
    doc : str
        Docstring of the script.
    scales : tuple of str
        Choices of --scale, the default first.
    folds : int
        Default of --folds.
    conflicts : {"error", "unknown"}
        Default of --conflicts.
    """
    options = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("source", metavar="SOURCE", type=Path, help="folder or archive as downloaded")
    options.add_argument("out", metavar="OUT", type=Path, nargs="?", help="folder of the cohort to write")
    options.add_argument("--size", type=int, default=256, help="side of the square images in pixels (256)")
    options.add_argument("--fit", choices=("squeeze", "pad"), default="squeeze", help="how a film becomes a square")
    options.add_argument("--scale", choices=scales, default=scales[0], help=f"what becomes 1 ({scales[0]})")
    if "fixed" in scales:
        options.add_argument("--bits", type=int, choices=(8, 10, 12, 14, 16), help="of a grey value, for --scale fixed")
    options.add_argument("--seed", type=int, default=1, help="decides splits, roles and folds (1)")
    options.add_argument("--folds", type=int, default=folds, help=f"cross-validation by patient if above 1 ({folds})")
    options.add_argument("--age-cut", type=_years, metavar="YEARS", help="young is below (default: see above)")
    options.add_argument("--workers", type=int, default=min(4, os.cpu_count() or 1), metavar="N",
                         help="threads that read ahead; they change no byte (one per core, at most 4)")  # fmt: skip
    options.add_argument("--conflicts", choices=("error", "unknown"), default=conflicts,
                         help=f"what a patient with two sexes or races becomes ({conflicts})")  # fmt: skip
    options.add_argument("--min-joined", type=float, default=MIN_SHARE, metavar="SHARE",
                         help=f"share of patients that a joined table has to know ({MIN_SHARE})")  # fmt: skip
    options.add_argument("--patients", type=int, metavar="N", help="only the first N patients, to try things out")
    return options


def first_patients(frame: pd.DataFrame, n_patients: int | None) -> pd.DataFrame:
    """Rows of the first `n_patients` patients (column `patient_id`), all if None."""
    return frame if n_patients is None else frame[frame["patient_id"].isin(frame["patient_id"].unique()[:n_patients])]


def skip_broken(options: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The same `options`, with --skip-broken for `readable`."""
    options.add_argument("--skip-broken", action="store_true",
                         help="leave out films that cannot be decoded, counted and named")  # fmt: skip
    return options


def readable(
    source: Source, films: pd.DataFrame, arguments: argparse.Namespace, funnel: Funnel
) -> tuple[pd.DataFrame, list[str]]:
    """Rows of `films` whose `file` can be decoded, and what was noted; all of them without --skip-broken.

    Parameters
    ----------
    source : Source
    films : DataFrame
        With `file` and `patient_id`.
    arguments : Namespace
        Of `skip_broken`.
    funnel : Funnel
        Counts who is left.
    """
    if not arguments.skip_broken:
        return films, []

    def broken(name: str) -> bool:
        try:
            decode(source.read(name), name)
        except ValueError:
            return True
        return False

    reads = ((partial(broken, name),) for name in films["file"])
    with closing(ahead(reads, 1 if source.in_turn else arguments.workers)) as answers:
        bad = np.fromiter((read() for (read,) in answers), bool, len(films))
    kept = films[~bad]
    funnel.count("that can be decoded", kept)
    names = list(films["file"][bad])
    return kept, [f"{len(names)} films cannot be decoded and were left out: {_some(names)}"] if names else []


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
    funnel: Funnel,
    counted: dict[str, int] | None = None,
    **options,
) -> Cohort:
    """Write the cohort, then print its summary, what was noted and the check of counts; one process a folder.

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
    funnel : Funnel
        Who was left at each step so far; what the cohort's table knows of them is added.
    counted : dict of str to int, optional
        Patients and images to hold against `expected`, where people were left out on purpose; default the cohort's.
    **options
        For `write_cohort`.

    Raises
    ------
    ValueError
        `arguments` lacks the folder to write, or the size is not a positive number; also all of `write_cohort`.
    InUseError
        Another process writes this folder; the message names it.
    """
    if arguments.out is None or arguments.size < 1 or arguments.workers < 1:
        raise ValueError("need a folder OUT, a size of at least 1 pixel and a worker, got "
                         f"{arguments.out}, {arguments.size} and {arguments.workers}")  # fmt: skip
    if not n_images:
        raise ValueError(f"no image of the table is in {arguments.source}: give the folder or archive as downloaded")
    about = about | {key: getattr(arguments, key) for key in ("size", "fit", "scale")} | {"notes": notes}
    if arguments.age_cut is not None:
        options |= {"age_cut_years": arguments.age_cut, "age_cut_is_young": False}
    with held(arguments.out, f"the cohort in {arguments.out}"):  # two that write it would spoil it
        with closing(ahead(items, 1 if source.in_turn else arguments.workers)) as images:
            cohort = write_cohort(arguments.out, images, name=name, seed=arguments.seed, n_folds=arguments.folds,
                                  n_images=n_images, extra=about, conflicts=arguments.conflicts, **options)  # fmt: skip
        return _said(cohort, notes, funnel, counted, expected)


def _said(cohort: Cohort, notes: list[str], funnel: Funnel, counted: dict | None, expected: dict) -> Cohort:
    """Look at a written cohort, as in `convert`; print and keep what was found."""
    flat, dim = weak_images(cohort)
    if flat:
        notes = [*notes, f"{len(flat)} images have one grey value (no image quality is measured there): {_some(flat)}"]
    if dim:
        notes = [*notes, f"{len(dim)} images are almost black, a few hot pixels are their maximum; --scale "
                 f"volume-percentile or fixed keeps the rest bright: {_some(dim)}"]  # fmt: skip
    funnel = [*funnel, *people_left(cohort.table)]
    checked = check_counts(cohort.info["counts"] if counted is None else counted, expected)
    complete = all(line.endswith(", complete") for line in checked)  # what a comparison with the paper asks for
    cohort = amend_info(cohort, notes=notes, funnel=funnel, one_grey_value=flat, complete=complete, checked=checked)
    print(summary(cohort))
    print("\n".join(["", "Noted", *(f"  {note}" for note in notes or ["nothing"])]))
    print("\n".join(["", "Who is left", *(f"  {row['patients']:>7} patients {row['images']:>8} images  {row['step']}"
                                           for row in funnel)]))  # fmt: skip
    print("\n".join(["", "Counts", *(f"  {line}" for line in checked)]))
    return cohort


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")


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
    except InUseError as error:
        raise SystemExit(str(error)) from None
    except (ValueError, OSError, ImportError, MemoryError) as error:
        raise SystemExit(f"{error}\nNothing that was converted so far is lost: the same command goes on.") from None
    except KeyboardInterrupt:
        raise SystemExit("\nstopped; the same command goes on from here") from None
