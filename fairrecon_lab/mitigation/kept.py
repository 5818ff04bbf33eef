"""Steps that are made once: a product, and beside it the stamp of the recipe and the code that made it."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fairrecon_core.steps.folder import write_json
from fairrecon_core.steps.stamps import read_stamp, stamp, why


class Steps:
    """Products of one recipe in one folder.

    Parameters
    ----------
    recipe : dataclass
        Its fields count in stamps, but for `seeds` and `n_boot`, which no single product depends on.
    folder : path
    say : callable
        Gets a line for each step that is made.
    """

    def __init__(self, recipe: Any, folder: Path, say: Callable[[str], object] = lambda line: None):
        self.recipe, self.folder, self.say = recipe, Path(folder), say
        self.folder.mkdir(parents=True, exist_ok=True)

    def mark(self, kind: str, *code: str, names=None, **inputs) -> dict:
        """The stamp of a product: its `kind`, modules of `code`, fields of the recipe (`names`, or all), `inputs`."""
        chosen = dataclasses.asdict(self.recipe)
        chosen = {key: value for key, value in chosen.items() if key not in ("seeds", "n_boot")}
        chosen = {name: chosen[name] for name in names} if names else chosen
        return stamp(*code, settings=chosen, kind=kind, **inputs)

    def keep(self, path: Path, mark: dict, write: Callable[[Path], object]) -> None:
        """Write a product under another name, rename it, and put its stamp beside it."""
        part = path.with_name("part-" + path.name)
        write(part)
        part.replace(path)
        write_json(path.with_suffix(".json"), mark)


def current(path: Path, mark: dict) -> bool:
    """Whether the product at `path` is there and has the stamp `mark`."""
    return not why(read_stamp(path), mark)


def slug(name: str) -> str:
    """A `name` as a part of a file's name."""
    return "".join(c if c.isalnum() else "_" for c in name)
