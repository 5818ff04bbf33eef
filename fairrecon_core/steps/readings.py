"""The step that reads: scores and masks of the frozen readers over every arm, made when missing or out of date."""

import functools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from fairrecon_core.predict.classifier import Classifier
from fairrecon_core.predict.imagenet import ImageNetReader
from fairrecon_core.predict.readers import Reader
from fairrecon_core.predict.reading import read_arm
from fairrecon_core.predict.segmenter import Segmenter
from fairrecon_core.reconstruct import controls
from fairrecon_core.steps.features import clean_features, kept_features
from fairrecon_core.steps.images import ArmImages
from fairrecon_core.steps.quality import images_stamp
from fairrecon_core.steps.setup import product_folder
from fairrecon_core.steps.stamps import Stamp, content_hash, stamp
from fairrecon_core.steps.weights import ReaderWeights


class Readings:
    """What the frozen readers of a cohort say of the images of every arm.

    Parameters
    ----------
    images : ArmImages

    Attributes
    ----------
    weights : ReaderWeights
        Makes the readers; `weights.make_all()` comes first.
    """

    stream: Any = None  # a `Stream`, where images are not kept

    def __init__(self, images: ArmImages):
        self.images, self.setup = images, images.setup
        self.weights = ReaderWeights(images.setup)

    def tasks(self) -> list[str]:
        """Tasks of the readers, as in `ReaderWeights.tasks`."""
        return self.weights.tasks()

    def tables(self) -> list[str]:
        """Tables that the readers fill: `predictions` if they have tasks, `overlap` if the cohort has masks."""
        return ["predictions"] * bool(self.tasks()) + ["overlap"] * (self.setup.cohort.masks is not None)

    @property
    def is_frozen(self) -> bool:
        """Whether a reader is a head on features that are kept, so that no image is read twice."""
        return any(isinstance(reader, ImageNetReader) for reader in self.weights.untrained.values())

    def readers(self, fold: int = 0) -> dict[str, Reader]:
        """The frozen readers of a fold by name; errors as those of `ReaderWeights.path`."""
        return self.weights.load(fold)

    def read(self, arm: str) -> dict[str, pd.DataFrame]:
        """Rows of the tables `predictions` and, with a segmenter, `overlap` of an arm; computed when out of date.

        `clean` is read on test and validation images, the others on test images (and on validation images under the
        threshold policy `validation_per_arm`).

        Parameters
        ----------
        arm : str
            `clean`, an arm with images, or a control.
        """
        run, name, tables = self.setup.run, self.setup.cohort.name, self.tables()
        if self.setup.is_excerpt:
            return {table: run.read(table, cohort=name, arm=arm) for table in tables}
        frames: dict[str, list] = {table: [] for table in tables}
        for level in self.setup.levels_of(arm):
            streams = bool(self.stream) and not self.is_frozen
            both = functools.cache(functools.partial(self.stream.readings if streams else self._read, arm, level))
            made_from, key = self.made_from(arm, level), {"cohort": name, "arm": arm, "level": float(level)}
            for table in tables:
                compute = lambda table=table, both=both: both()[table]
                frames[table].append(run.make(table, compute, made_from=made_from, **key))
            for table in tables if streams else ():
                self.stream.forget(table, arm, level)
        return {table: pd.concat(parts, ignore_index=True) for table, parts in frames.items()}

    def features(self, arm: str, level: float, *, fold=0, train_seed=0, sample=0, split="test") -> tuple:
        """Features (n, 1280) of an arm's images by the frozen ImageNet network, and the rows of the cohort.

        Parameters
        ----------
        arm, level, fold, train_seed, sample, split
            As in `ArmImages.get`, errors included.
        """
        images, setup, rows = self.images, self.setup, self.setup.rows(level, fold, split, arm)
        if arm in controls.NOT_RECONSTRUCTED:
            return clean_features(setup)[rows[images.donors(arm, rows)]], rows
        which = {"fold": fold, "train_seed": train_seed, "sample": sample}
        path = product_folder(setup, arm, fold, train_seed) / f"{level:g}" / f"{split}-{sample}-features.npy"
        batches = lambda: (part for part, *_ in images.batches(arm, level, split=split, **which))
        return kept_features(setup, path, images.made_from(arm, level, rows, **which), batches), rows

    def parts(self, arm: str, level: float) -> Iterator[tuple[str, dict]]:
        """(split, variant) of everything that is read of an arm at a level."""
        tuned = self.setup.run.settings.threshold_policy == "validation_per_arm" and level == self.setup.audit_level
        validates = arm == "clean" or (tuned and arm not in controls.CONTROLS)
        for variant in self.setup.variants(arm):
            yield "test", variant
            if validates:
                yield "validation", variant

    def readers_stamp(self) -> Stamp:
        """What all readings follow from: this step and the readers of all folds; errors as those of `readers`."""
        readers = self.weights.untrained
        files = [self.weights.path(name, fold) for fold in self.setup.folds for name in readers]
        return stamp("fairrecon_core.steps.readings", *map(type, readers.values()), readers=content_hash(files))

    def made_from(self, arm: str, level: float, readers: Stamp | None = None) -> Stamp:
        """The stamp of an arm's readings at a level; `readers` is that of `readers_stamp`."""
        settings, setup = self.setup.run.settings, self.setup
        splits = sorted({split for split, _ in self.parts(arm, level)})
        made = (readers or self.readers_stamp()) | stamp(splits=splits)
        if arm in controls.NOT_RECONSTRUCTED:
            share = settings.control_share if arm in controls.CONTROLS else 0
            return made | stamp(
                "fairrecon_core.steps.images", cohort=setup.cohort.info["content_hash"], share=share, seed=settings.seed
            )
        for split in splits:
            made |= images_stamp(self.images, arm, level, setup.variants(arm), split)
        return made

    def _read(self, arm: str, level: float) -> dict[str, pd.DataFrame]:
        """Both tables of an arm at a level."""
        found = []
        for split, variant in self.parts(arm, level):
            batches = self.images.batches(arm, level, split=split, **variant)
            predictions, overlap = self.frames(arm, level, variant, batches)
            readers = self.readers(variant["fold"]).values()
            key = {"cohort": self.setup.cohort.name, "arm": arm, "level": float(level)} | variant
            for reader in (reader for reader in readers if isinstance(reader, ImageNetReader)):
                features, rows = self.features(arm, level, split=split, **variant)
                names, scores = self.setup.names_of(rows), reader.scores_of(features)
                columns = {"task": np.tile(reader.tasks, len(rows)), "score": scores.ravel()}
                predictions = pd.DataFrame({"image_id": np.repeat(names, len(reader.tasks))} | key | columns)
            found.append((predictions, overlap))
        return {table: pd.concat(parts) for table, parts in zip(("predictions", "overlap"), zip(*found))}

    def frames(self, arm: str, level: float, variant: dict, batches: Iterable[tuple]) -> tuple:
        """Rows of both tables of some `batches` of an arm, as from `ArmImages.batches`, without those of features."""
        readers = self.readers(variant["fold"]).values()
        classifiers = [r for r in readers if isinstance(r, Classifier) and not isinstance(r, ImageNetReader)]
        segmenter = next((reader for reader in readers if isinstance(reader, Segmenter)), None)
        key = {"cohort": self.setup.cohort.name, "arm": arm, "level": float(level)} | variant
        return read_arm(batches, classifiers, segmenter, **key)
