"""The step that stores no image it can do without: a shard is degraded, reconstructed, measured and read in one pass.

Its rows stay, a file for each table, arm and shard, named by a digest of all that they follow from and put in place by
a rename: a process that is killed loses the shard it was at. Once a table holds the rows, their files go. The rows, and
the stamps of the tables, are those of a run that keeps its images, byte for byte.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from fairrecon_core.cohort.pixels import as_float
from fairrecon_core.reconstruct.controls import NOT_RECONSTRUCTED
from fairrecon_core.steps.images import ArmImages
from fairrecon_core.steps.quality import Quality
from fairrecon_core.steps.readings import Readings
from fairrecon_core.steps.setup import is_limited
from fairrecon_core.steps.stamps import Stamp, digest
from fairrecon_core.tables import read_parquet, with_defaults, write_parquet

SHARD = 512  # images, or the multiple of `inference_batch` below that


class Piece(NamedTuple):
    """Rows of a shard in one file: of a table, for some variants of an arm."""

    table: str
    arm: str
    fold: int
    split: str
    variants: list[dict]
    shard: int
    rows: np.ndarray  # of the cohort
    path: Path


class Stream:
    """Rows of `quality` and `readings` of a cohort whose `images` are not kept."""

    def __init__(self, images: ArmImages, quality: Quality, readings: Readings):
        self.images, self.setup, self._quality, self._readings = images, images.setup, quality, readings

    def shards(self, level: float, fold: int = 0, split: str = "test", arm: str = "clean") -> list[np.ndarray]:
        """Rows of the cohort of each shard of an arm; chunks are those of a run that keeps its images."""
        rows, batch = self.setup.rows(level, fold, split, arm), self.setup.run.settings.inference_batch
        size = max(1, SHARD // batch) * batch
        return [rows[start : start + size] for start in range(0, len(rows), size)]

    def n_shards(self, arms: Iterable[str], level: float) -> int:
        """Shards of `arms` at a level, that of a fold or split with the most."""
        parts = {(v["fold"], split) for arm in arms for split, v in self._readings.parts(arm, level)}
        return max((len(self.shards(level, fold, split)) for fold, split in parts), default=0)

    def make(self, arms: Iterable[str], level: float, shards: Iterable[int] | None = None) -> None:
        """Make what the tables still lack of the rows of some arms at a level; readers are trained first.

        Parameters
        ----------
        arms, level
            Whose. FileNotFoundError if weights of an arm are missing or out of date, see `Weights.path`.
        shards : iterable of int, optional
            Only these of every fold and split, from 0.
        """
        self._readings.weights.make_all()
        lacking: dict[tuple, list[Piece]] = {}
        wanted, name = None if shards is None else set(shards), self.setup.cohort.name
        stamps = self._stamps(arms, level)
        for (table, arm), made_from in stamps.items():
            pieces = self._pieces(table, arm, level, made_from, wanted)
            absent = [piece for piece in pieces if not piece.path.exists()]
            part = {"cohort": name, "arm": arm, "level": float(level)}
            if absent and not self.setup.run.is_current(table, made_from, **part):
                for piece in absent:
                    key = (is_limited(self.setup.run.settings, arm), piece.fold, piece.split, piece.shard)
                    lacking.setdefault(key, []).append(piece)
        passes = [pieces for _, pieces in sorted(lacking.items())]
        for pieces in tqdm(passes, desc=f"{name} at {level:g}", unit="shard", disable=len(passes) < 2):
            self._pass(level, pieces)

    def quality(self, arms: list[str], level: float) -> list[pd.DataFrame]:
        """Rows of the table `quality` of some arms at a level, a frame each."""
        self.make(arms, level)
        return [self._joined("quality", arm, level) for arm in arms]

    def readings(self, arm: str, level: float) -> dict[str, pd.DataFrame]:
        """Rows of the readers' tables of an arm at a level."""
        self.make([arm], level)
        return {table: self._joined(table, arm, level) for table in self._readings.tables()}

    def forget(self, table: str, arm: str, level: float) -> None:
        """Delete the files of the shards whose rows a table holds."""
        for path in self._folder(arm).glob(f"{table}-{level:g}-*.parquet"):
            path.unlink(missing_ok=True)

    def _stamps(self, arms: Iterable[str], level: float) -> dict[tuple[str, str], Stamp]:
        """Stamps by table and arm, of all tables that the arms' shards have rows for."""
        found: dict[tuple[str, str], Stamp] = {}
        tables = [] if self._readings.is_frozen else self._readings.tables()
        readers = self._readings.readers_stamp() if tables else None
        for arm in dict.fromkeys(arms):
            if arm not in NOT_RECONSTRUCTED:
                found["quality", arm] = self._quality.piece(arm, level)[0]
            found |= {(table, arm): self._readings.made_from(arm, level, readers) for table in tables}
        return found

    def _folder(self, arm: str) -> Path:
        return self.setup.run.folder / "stream" / self.setup.cohort.name / arm

    def _pieces(self, table: str, arm: str, level: float, made_from, wanted: set | None = None) -> Iterator[Piece]:
        """Pieces of an arm's table at a level, in the order of its rows: all, or those of the `wanted` shards."""
        if table == "quality":  # chunk by chunk, all variants of a fold
            of = [(fold, "test", [v for v in self.setup.variants(arm) if v["fold"] == fold])
                  for fold in self.setup.folds]  # fmt: skip
        else:
            of = [(v["fold"], split, [v]) for split, v in self._readings.parts(arm, level)]
        for fold, split, variants in of:
            for number, rows in enumerate(self.shards(level, fold, split, arm)):
                if wanted is not None and number not in wanted:
                    continue
                follows = {"from": made_from, "split": split, "variants": variants, "rows": rows.tolist()}
                path = self._folder(arm) / f"{table}-{level:g}-{number:04d}-{digest(follows)}.parquet"
                yield Piece(table, arm, fold, split, variants, number, rows, path)

    def _joined(self, table: str, arm: str, level: float) -> pd.DataFrame:
        pieces = self._pieces(table, arm, level, self._stamps([arm], level)[table, arm])
        return pd.concat([read_parquet(piece.path, table) for piece in pieces])

    def _pass(self, level: float, pieces: list[Piece]) -> None:
        """Make the rows of one shard for all `pieces`, of the same rows of the cohort."""
        fold, split, rows = pieces[0].fold, pieces[0].split, pieces[0].rows
        which = {(p.arm, *v.values()): (p.arm, v) for p in pieces for v in p.variants}
        measured = [key for key in which if any(p.table == "quality" and p.arm == key[0] for p in pieces)]
        read = [key for key in which if any(p.table != "quality" and p.arm == key[0] for p in pieces)]
        found: dict[Path, list[pd.DataFrame]] = {piece.path: [] for piece in pieces}
        for here, stored in self.images.made(list(which.values()), level, rows, fold, split):
            images = dict(zip(which, map(as_float, stored)))
            of_arms, pixels = [which[key] for key in measured], [images[key] for key in measured]
            frames = self._quality.frames(of_arms, level, here, pixels) if measured else []
            made = {("quality", *key): frame for key, frame in zip(measured, frames)}
            for key in read:
                arm, variant = which[key]
                masks = self.images.masks_of(arm, level, here, fold, split)
                batch = (images[key], self.setup.names_of(here), masks)
                both = self._readings.frames(arm, level, variant, [batch])
                made |= {(table, *key): frame for table, frame in zip(("predictions", "overlap"), both)}
            for piece in pieces:
                found[piece.path] += [made[piece.table, piece.arm, *v.values()] for v in piece.variants]
        for piece in pieces:
            piece.path.parent.mkdir(parents=True, exist_ok=True)
            write_parquet(piece.path, piece.table, with_defaults(piece.table, pd.concat(found[piece.path])))
