"""What another run has made already, found by its stamp: it is linked into a run in place of being made again.

So a changed setting costs only what it touches. A product is always replaced as a whole, never changed in its place,
hence two runs can share one file.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from fairrecon_core.steps.stamps import why
from fairrecon_core.tables import unfinished


def read_mark(mark: Path) -> dict:
    """What lies beside a product: its stamp and more; no stamp if it is missing or damaged."""
    try:
        return json.loads(mark.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {"stamp": None}


def taken_over(
    folder: Path,
    mark: Path,
    made_from: Mapping,
    read: Callable[[Path], dict] = read_mark,
    beside: Callable[[dict], Iterable[Path | str]] = lambda found: (),
) -> bool:
    """Link a product from a run beside this one, if one has it with the same stamp; whether one had.

    Parameters
    ----------
    folder : Path
        Of the run that lacks the product.
    mark : Path
        Where the file that has the product's stamp is to lie, in `folder`. It is linked last.
    made_from : mapping
        The stamp that the product must have.
    read : callable
        What the mark says: a dict with the key `stamp`.
    beside : callable
        Names of the files of the product that lie beside a mark, from what it says.
    """
    for other in sorted(folder.parent.glob("*")):
        theirs = other / mark.relative_to(folder)
        if other.name == folder.name or not theirs.exists():
            continue
        found = read(theirs)
        files = [theirs.with_name(str(name)) for name in ([] if why(found["stamp"], made_from) else beside(found))]
        if not why(found["stamp"], made_from) and all(file.exists() for file in files):
            for file in [*files, theirs]:
                _link(file, mark.with_name(file.name))
            print(f"{mark.relative_to(folder)} is that of {other.name}")
            return True
    return False


def _link(source: Path, target: Path) -> None:
    """A second name for a file, or a copy where the disk has no such thing."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = unfinished(target)
    try:
        os.link(source, part)
    except OSError:
        shutil.copyfile(source, part)
    part.replace(target)
    part.unlink(missing_ok=True)  # which is still there if both were one file before
