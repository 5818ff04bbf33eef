"""What is fixed for a cohort in a run: how it is degraded, at which levels, and which of its images are used where."""

import functools
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fairrecon_core.cohort.folder import Cohort
from fairrecon_core.degrade import Degradation, degradation
from fairrecon_core.learn.devices import device_of
from fairrecon_core.reconstruct import arm_class, controls
from fairrecon_core.settings import Settings
from fairrecon_core.steps.folder import Run
from fairrecon_core.steps.stamps import Stamp, parameters, stamp


class Setup:
    """One cohort of a run, its degradation, levels and rows.

    Parameters
    ----------
    run : Run
    cohort : str
        Name of a cohort of the run, or of the shipped example run; ValueError if a converted one has another size.

    Attributes
    ----------
    run, cohort, degradation, levels, audit_level
        As the settings of the run decide.
    """

    def __init__(self, run: Run, cohort: str):
        self.run, self._rows = run, dict[tuple, np.ndarray]()
        self.cohort: Cohort = run.cohort(cohort)
        modality, side, asked = self.cohort.modality, self.cohort.images.shape[-1], run.settings.image_size
        if run.settings.cohort_folder and side != asked:
            raise ValueError(f"cohort {cohort!r} has images of {side} px, image_size is {asked}: convert it with "
                             f"--size {asked}, or run with -p image_size={side}")  # fmt: skip
        self.degradation = degradation_of(run.settings, modality)
        self.levels, self.audit_level = run.settings.levels(modality), run.settings.audit_level(modality)

    @property
    def folds(self) -> range:
        """Folds of the cohort; one fold is a plain split."""
        return range(int(self.cohort.info["n_folds"]))

    @property
    def is_excerpt(self) -> bool:
        """Whether only some images are there, as in the shipped example run."""
        return len(self.cohort.pixel_rows) < len(self.cohort)

    def arms(self) -> list[str]:
        """Arms that have images: degraded, classical, networks; not `clean` and not the controls."""
        return [*self.run.settings.classical, *self.run.settings.arms]

    def levels_of(self, arm: str) -> list[float]:
        """Levels at which an arm is read: `clean` at the identity, controls at the audited one, others at all."""
        if arm == "clean":
            return [self.degradation.identity_level]
        return [self.audit_level] if arm in controls.CONTROLS else list(self.levels)

    def variants(self, arm: str) -> Iterator[dict]:
        """The fold, train_seed and sample values with which an arm occurs."""
        shown = arm == "clean" or arm in controls.CONTROLS
        learns, stochastic = (False, False) if shown else (arm_class(arm).learns, arm_class(arm).stochastic)
        for fold in self.folds:
            for train_seed in self.run.settings.train_seeds if learns else (0,):
                for sample in range(self.run.settings.samples if stochastic else 1):
                    yield {"fold": fold, "train_seed": train_seed, "sample": sample}

    def rows(self, level: float, fold: int = 0, split: str = "test", arm: str = "clean") -> np.ndarray:
        """Rows of the cohort that are used at a level, ascending.

        Parameters
        ----------
        level : float
            The audited level (and the identity) has the whole split; the others a random subset of `level_subset`.
        fold : int
        split : {"test", "validation"}
        arm : str
            Of arms that filter, `classical_subset` images at most, some of those of the others.

        Returns
        -------
        ndarray of int
            Only rows whose pixels are there.
        """
        key = (level, fold, split, is_limited(self.run.settings, arm))
        if key not in self._rows:
            self._rows[key] = self._selected(*key)
        return self._rows[key]

    def _selected(self, level: float, fold: int, split: str, limited: bool) -> np.ndarray:
        rows, settings = self.cohort.select(split, "prediction", fold, with_pixels=True), self.run.settings
        whole = level in (self.audit_level, self.degradation.identity_level) or split != "test"
        n = len(rows) if whole else min(len(rows), settings.level_subset)
        n = min(n, settings.classical_subset) if limited and split == "test" else n
        return rows if n == len(rows) else np.sort(np.random.default_rng([settings.seed, fold]).permutation(rows)[:n])

    def pictured(self, level: float, fold: int = 0, split: str = "test") -> np.ndarray:
        """Rows whose pixels are kept: all that `rows` gives for `level`, `fold` and `split`, or `keep_images` of them.

        Those are at even steps of the images that all arms and levels have, in the cohort's order, ends included.
        """
        n, rows = self.run.settings.keep_images, self.rows(level, fold, split)
        if n > 0:
            parts = (self.rows(other, fold, split, arm) for other in self.levels for arm in self.arms())
            rows = functools.reduce(np.intersect1d, parts, rows)
            rows = rows[np.linspace(0, len(rows) - 1, min(n, len(rows))).astype(int)]
        return rows

    def shared_rows(self) -> np.ndarray:
        """Test rows of the first fold that every level has and something is to be seen on: more than one grey value.

        Of those whose pixels are kept, see `pictured`.
        """
        rows = functools.reduce(np.intersect1d, [self.pictured(level) for level in self.levels])
        flat = self.cohort.table["image_id"].iloc[rows].isin(self.cohort.info.get("one_grey_value", []))
        return rows[~flat.to_numpy()]

    def names_of(self, rows) -> list[str]:
        """`image_id` of some rows."""
        return list(self.cohort.table["image_id"].iloc[rows].astype(str))

    def chunks(self, rows: Iterable[int]) -> Iterator[slice]:
        """Slices that cover `rows`, of as many images as are in memory at a time."""
        n, size = len(list(rows)), self.run.settings.inference_batch
        return (slice(start, start + size) for start in range(0, n, size))

    @functools.cached_property
    def device(self) -> str:
        """Where networks compute: what the settings ask for; ValueError if it is not there."""
        return device_of(self.run.settings.device)

    def placed(self, network: Any) -> Any:
        """A network or reader, told where to compute and how many images at a time."""
        network.device, network.inference_batch = self.device, self.run.settings.inference_batch
        return network


def is_limited(settings: Settings, arm: str) -> bool:
    """Whether an arm has `classical_subset` images: one that learns nothing, and makes something of an image."""
    if not settings.classical_subset or arm in controls.NOT_RECONSTRUCTED:
        return False
    return arm_class(arm).reconstructs and not arm_class(arm).learns


def compiled(setup: Setup, module: Any) -> None:
    """Compile a network that is ready, where the settings want it and a GPU computes."""
    if setup.run.settings.compile and setup.device != "cpu":
        module.compile()


def ahead(items: Iterable, device: str) -> Iterable:
    """The same `items`; where a GPU is the `device`, the next is prepared while it works with one."""
    return items if device == "cpu" else _one_ahead(items)


def _one_ahead(items: Iterable) -> Iterator:
    """A thread makes the next of the `items` while one is worked with. An error comes in the place of its item."""
    source, end = iter(items), object()
    gpu = torch.cuda.current_device() if torch.cuda.is_available() else -1  # a negative one changes nothing

    def same_gpu() -> None:
        torch.cuda.set_device(gpu)

    with ThreadPoolExecutor(1, initializer=same_gpu) as pool:
        coming = pool.submit(next, source, end)
        while (item := coming.result()) is not end:
            coming = pool.submit(next, source, end)
            yield item


def degradation_of(settings: Settings, modality: str) -> Degradation:
    """The degradation that the `settings` ask for, for images of a `modality`."""
    if modality == "mri":
        return degradation("mri", mode=settings.mri_mode, order=settings.mri_order, noise=settings.mri_noise)
    return degradation("xray", mode=settings.xray_mode)


def degradation_stamp(made: Degradation, cohort: Cohort) -> Stamp:
    """What images of a cohort that are degraded by `made` depend on, besides their level, names and seed."""
    return stamp(made, degradation=parameters(made), cohort=cohort.info["content_hash"])


def product_folder(setup: Setup, name: str, fold: int = 0, train_seed: int = 0) -> Path:
    """Folder of the weights and images of an arm, or of a reader's weights."""
    return setup.run.folder / "reconstructions" / setup.cohort.name / name / f"{fold}-{train_seed}"
