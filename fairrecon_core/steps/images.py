"""The step that makes images: those of every arm at a level, degraded and reconstructed, kept while they are current.

Images lie as uint16 beside the stamp of what they were made from; `clean` and the control arms are read off the cohort.
With the setting `keep_images` only so many lie there, and whoever needs all gets them chunk by chunk, made in memory.
"""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from fairrecon_core.cohort.pixels import as_float, as_uint16
from fairrecon_core.reconstruct import DEGRADED, arm_class, consistency_class, controls, is_consistent
from fairrecon_core.reconstruct.controls import NOT_RECONSTRUCTED
from fairrecon_core.steps.folder import write_json
from fairrecon_core.steps.setup import Setup, ahead, degradation_stamp, product_folder
from fairrecon_core.steps.siblings import taken_over
from fairrecon_core.steps.stamps import Stamp, parameters, read_stamp, stamp, why
from fairrecon_core.steps.weights import Weights
from fairrecon_core.tables import unfinished


class ArmImages:
    """Images of the arms of a cohort.

    Parameters
    ----------
    setup : Setup
    weights : Weights
        Where reconstructors come from.
    """

    def __init__(self, setup: Setup, weights: Weights):
        self.setup, self.weights = setup, weights
        self._origins: dict[tuple, np.ndarray] = {}

    def get(self, arm: str, level: float, *, fold: int = 0, train_seed: int = 0, sample: int = 0, split: str = "test"):
        """Images of an arm at a level, made when missing or out of date; never starts a training.

        Parameters
        ----------
        arm : str
            `clean`, `degraded`, a reconstructor, or a control (`placebo`, `planted`).
        level : float
        fold, train_seed, sample : int
        split : {"test", "validation"}

        Returns
        -------
        images : ndarray, shape (n, H, W)
            uint16, memory-mapped; float32 for `clean` and the controls.
        rows : ndarray of int
            Rows of the cohort that they belong to: those of `Setup.pictured`.

        Raises
        ------
        ValueError
            Unknown arm.
        FileNotFoundError
            The arm's weights are missing or out of date, see `Weights.path`.
        """
        setup, rows = self.setup, self.setup.pictured(level, fold, split)
        if arm in NOT_RECONSTRUCTED:
            return setup.cohort.images_at(self._origin(arm, level, rows, fold, split)), rows
        folder = product_folder(setup, arm, fold, train_seed) / f"{level:g}"
        kept = f"-kept-{setup.run.settings.keep_images}" if setup.run.settings.keep_images else ""
        path = folder / f"{split}{f'-{sample}' if sample else ''}{kept}.npy"
        made_from = self.made_from(arm, level, rows, fold, train_seed, sample)
        mark = path.with_suffix(".json")
        reason = why((read_stamp(path) or {}).get("stamp"), made_from)
        if reason and not taken_over(setup.run.folder, mark, made_from, beside=lambda found: [path.name]):
            setup.run.remade(f"images of {arm} for {setup.cohort.name} at {level:g}", reason)
            mark.unlink(missing_ok=True)  # images and their stamp never disagree
            if arm_class(arm).reconstructs:
                degraded = self.get(DEGRADED, level, fold=fold, split=split)[0]
                made = self._reconstructed(arm, level, rows, degraded, fold, train_seed, sample)
            else:
                made = self._degraded(level, rows)
            write_images(path, made, (len(rows), *setup.cohort.images.shape[1:]))
            write_json(mark, {"stamp": made_from, "rows": rows.tolist()})
        setup.run.wrote(path)
        return np.load(path, mmap_mode="r"), rows

    def made_from(self, arm: str, level: float, rows, fold: int = 0, train_seed: int = 0, sample: int = 0) -> Stamp:
        """The stamp of an arm's images of some `rows` at a `level`; errors as those of `get`."""
        setup, network = self.setup, self.weights.network(arm)
        weights = self.weights.path(arm, fold, train_seed, level) if network.learns else None
        code = [type(network), *([consistency_class()] if is_consistent(arm) else []), "fairrecon_core.steps.images"]
        which = {"level": float(level), "rows": list(rows), "seed": setup.run.settings.seed, "sample": sample}
        made: dict[str, Any] = {"arm": parameters(network), "weights": weights, **which}
        return degradation_stamp(setup.degradation, setup.cohort) | stamp(*code, **made)

    def _degraded(self, level: float, rows: np.ndarray) -> Iterator[Tensor]:
        """Degraded images of the rows, chunk by chunk."""
        for part in self.setup.chunks(rows):
            yield self._measured(level, rows[part])[0]

    def _reconstructed(self, arm, level, rows, degraded, fold, train_seed, sample) -> Iterator[Tensor]:
        """An arm's images of the rows, chunk by chunk, from their degraded images as they are stored."""
        restore, parts = self.weights.load(arm, fold, train_seed, level), list(self.setup.chunks(rows))
        measured = (self._measured(level, rows[part])[1] if restore.needs_measurement else None for part in parts)
        for part, measurement in zip(parts, ahead(measured, self.setup.device), strict=True):
            yield self._restored(restore, as_float(degraded[part]), level, rows[part], sample, measurement)

    def _restored(self, restore, degraded: np.ndarray, level: float, rows, sample: int, measurement) -> Tensor:
        """What a reconstructor makes of the degraded images of some rows."""
        names, seed = self.setup.names_of(rows), self.setup.run.settings.seed
        return restore(degraded, level, image_ids=names, seed=seed, sample=sample, measurement=measurement)

    def made(self, which: Sequence[tuple[str, dict]], level: float, rows, fold=0, split="test") -> Iterator[tuple]:
        """Images of several arms, made in memory as they would be stored, chunk by chunk.

        Parameters
        ----------
        which : sequence of (arm, variant)
            Variants as from `Setup.variants`, all of one fold.
        level, fold, split
            As in `get`.
        rows : ndarray of int
            Of those in `Setup.rows`.

        Yields
        ------
        (rows, images) : the latter a list of ndarrays (b, H, W), for each in `which`; uint16, float32 if not made
        """
        origins = {arm: self._origin(arm, level, rows, fold, split) for arm, _ in which if arm in NOT_RECONSTRUCTED}
        degrades = len(origins) < len({arm for arm, _ in which})
        parts = list(self.setup.chunks(rows))
        measured = (self._measured(level, rows[part]) if degrades else (None, None) for part in parts)
        for part, (degraded, measurement) in zip(parts, ahead(measured, self.setup.device), strict=True):
            here, images = rows[part], []
            stored = as_uint16(degraded) if degrades else np.empty(0)
            for arm, variant in which:
                if arm in origins:
                    images.append(self.setup.cohort.images_at(origins[arm][part]))
                elif not arm_class(arm).reconstructs:
                    images.append(stored)
                else:
                    restore = self.weights.load(arm, variant["fold"], variant["train_seed"], level)
                    recorded = measurement if restore.needs_measurement else None
                    sample = variant["sample"]
                    images.append(as_uint16(self._restored(restore, as_float(stored), level, here, sample, recorded)))
            yield here, images

    def _measured(self, level: float, rows: np.ndarray) -> tuple:
        """Degraded images, and what was recorded of them; on a GPU only as the physical modes do it."""
        setup = self.setup
        clean, names = torch.from_numpy(setup.cohort.images_at(rows)), setup.names_of(rows)
        on_gpu = setup.device == "cuda" and setup.run.settings.mode(setup.cohort.modality) != "published"
        clean = clean.to(setup.device) if on_gpu else clean
        degraded, measurement = setup.degradation.measure(clean, level, names, setup.run.settings.seed)
        return degraded.cpu(), measurement.cpu()

    def donors(self, arm: str, rows: np.ndarray) -> np.ndarray:
        """For `clean` and the control arms: positions in `rows` of the images that are shown."""
        if arm not in controls.CONTROLS:
            return np.arange(len(rows))
        table, settings = self.setup.cohort.table.iloc[rows].reset_index(drop=True), self.setup.run.settings
        return controls.donors(arm, table, self.planted_task(), share=settings.control_share, seed=settings.seed)

    def _origin(self, arm: str, level: float, rows, fold: int, split: str) -> np.ndarray:
        """For `clean` and the control arms: rows of the cohort whose images are shown as those of `rows`."""
        whole, key = self.setup.rows(level, fold, split), (arm, level, fold, split)
        if key not in self._origins:
            self._origins[key] = whole[self.donors(arm, whole)]
        return self._origins[key][np.searchsorted(whole, rows)]

    @functools.cached_property
    def controls_left_out(self) -> dict[str, str]:
        """Control arms that this cohort is too small to fill, and why; an excerpt shows what the whole run had."""
        left_out: dict[str, str] = {}
        level = self.setup.audit_level
        parts = [self.setup.rows(level, fold) for fold in self.setup.folds if not self.setup.is_excerpt]
        for arm in controls.CONTROLS if parts else ():
            try:
                moved = sum(np.count_nonzero(self.donors(arm, rows) - np.arange(len(rows))) for rows in parts)
                reason = "" if moved else f"nobody among {sum(map(len, parts))} images to exchange with"
            except ValueError as error:
                reason = str(error)
            left_out |= {arm: reason} if reason else {}
        return left_out

    def planted_task(self) -> str:
        """The task that the arm `planted` harms, see `controls.planted_task`."""
        return controls.planted_task(self.setup.cohort.table)

    def batches(self, arm: str, level: float, *, split: str = "test", **variant) -> Iterator[tuple]:
        """(images float32 (b, H, W), image_ids, masks bool or None) of all of an arm, in chunks; `variant` as in `get`.

        `arm`, `level` and `split` as there.
        """
        variant = {"fold": 0, "train_seed": 0, "sample": 0} | variant
        fold, rows = variant["fold"], self.setup.rows(level, variant["fold"], split, arm)
        if self.setup.run.settings.keep_images or arm in NOT_RECONSTRUCTED:
            chunks = ((here, images) for here, (images,) in self.made([(arm, variant)], level, rows, fold, split))
        else:
            stored = self.get(arm, level, split=split, **variant)[0]
            chunks = ((rows[part], stored[part]) for part in self.setup.chunks(rows))
        for here, images in chunks:
            yield as_float(images), self.setup.names_of(here), self.masks_of(arm, level, here, fold, split)

    def masks_of(self, arm: str, level: float, rows, fold: int = 0, split: str = "test") -> np.ndarray | None:
        """Masks (n, H, W) of an arm's images of some `rows`, each of whom the image is of; None without masks."""
        if self.setup.cohort.masks is None:
            return None
        moves = arm in controls.MASK_MOVES  # with its image
        return self.setup.cohort.masks_at(self._origin(arm, level, rows, fold, split) if moves else rows)


def write_images(path: Path, parts: Iterator, shape: tuple[int, ...]) -> None:
    """Write images of a `shape` (n, H, W), given in `parts`, as uint16 to `path`, which is replaced as a whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = unfinished(path)
    out, done = open_memmap(part, mode="w+", dtype=np.uint16, shape=shape), 0
    for images in parts:
        out[done : done + len(images)] = as_uint16(images)
        done += len(images)
    out.flush()
    del out
    part.replace(path)
