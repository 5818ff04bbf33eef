"""What a run of the same profile has made already: found by its stamp and linked, in place of being made again.

So an override costs only what it touches. Two runs can share a file, for it is replaced as a whole, never changed.
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
    beside: Callable[[dict], Iterable[str]] = lambda found: (),
) -> bool:
    """Link a product from a run of the same profile that has it with the same stamp; whether one had.

    Parameters
    ----------
    folder : Path
        Of the run that lacks the product.
    mark : Path
        Where, in `folder`, the file with the product's stamp is to lie. It is linked last.
    made_from : mapping
        The stamp that the product must have.
    read, beside : callable
        What a mark says, with the key `stamp`; the names of the product's other files, from that.
    """
    profile = folder.name.split("+")[0]
    for other in [folder.with_name(profile), *sorted(folder.parent.glob(f"{profile}+*"))]:
        theirs = other / mark.relative_to(folder)
        if other.name == folder.name or not theirs.exists() or why((found := read(theirs))["stamp"], made_from):
            continue
        files = [theirs.with_name(name) for name in beside(found)]
        if all(file.exists() for file in files):
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
    part.unlink(missing_ok=True)  # it is still there if both were one file before
