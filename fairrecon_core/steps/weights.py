"""The step that makes weights: of reconstructors and of readers, shipped with the package or trained in the run.

Weights are made by `make`, which a notebook calls by name. Whoever asks for them while they are missing or out of date
is told so, and starts no training.
"""

import functools
from pathlib import Path
from typing import Any, cast

import pandas as pd

from fairrecon_core.cohort.folder import Cohort
from fairrecon_core.learn.loop import Images
from fairrecon_core.learn.recipes import checked, parted
from fairrecon_core.learn.rows import learning_rows
from fairrecon_core.predict.classifier import Classifier
from fairrecon_core.predict.imagenet import BACKBONE, ImageNetReader
from fairrecon_core.predict.readers import Reader
from fairrecon_core.predict.segmenter import Segmenter
from fairrecon_core.predict.training import READER_RATE, train_reader
from fairrecon_core.reconstruct import Reconstructor, arm_class, base_arm, consistency_class, is_consistent
from fairrecon_core.reconstruct.network import NetworkReconstructor
from fairrecon_core.reconstruct.training import train_reconstructor
from fairrecon_core.steps.features import clean_features
from fairrecon_core.steps.setup import Setup, compiled, degradation_stamp, product_folder
from fairrecon_core.steps.stamps import Stamp, parameters, stamp
from fairrecon_core.steps.weight_files import card_of, current_or_why, make_weights, refuse_stale, shipped, start_of


class Weights:
    """Weights of the reconstructors of a cohort.

    Parameters
    ----------
    setup : Setup
    """

    def __init__(self, setup: Setup):
        self.setup = setup
        self._ready: dict[tuple, Reconstructor] = {}

    def network(self, arm: str) -> Any:
        """The arm's reconstructor as the settings want it, without weights and without `_dc`; ValueError if unknown."""
        kind, modality = arm_class(arm), self.setup.cohort.modality
        learned = parted(self._recipe(arm))[0] if kind.learns else {}
        options = kind.options(self.setup.run.settings, modality) | learned
        return self.setup.placed(kind(modality=modality, **options))

    def _recipe(self, arm: str) -> dict:
        """All options of a network and of its training: what its class says, and above it `recipes` of the settings."""
        kind, settings, cohort = _learner(arm), self.setup.run.settings, self.setup.cohort
        given = settings.recipe(kind.name, cohort.name, cohort.modality)
        return kind.recipe(settings) | checked(kind, kind.name, given)

    def make(self, arm: str, fold: int = 0, train_seed: int = 0, level: float | None = None) -> Path | None:
        """Train the weights of an arm unless they are shipped or current; a training that was killed goes on.

        Parameters
        ----------
        arm : str
        fold, train_seed : int
            Which patients it may learn from; the seed of its training.
        level : float, optional
            Whose network, where each level has its own (`one_level_each`); the audited one if left out.

        Returns
        -------
        Path or None
            The file; None for an arm without weights.
        """
        settings = self.setup.run.settings
        if not arm_class(arm).learns:
            return None
        if not settings.train:
            return self.path(arm)
        setup, network, options = self.setup, self.network(arm), self._options(arm, fold, train_seed)
        kept: dict[str, Any] = {
            "cache": None if settings.new_noise else setup.run.folder / "cached" / f"{setup.cohort.name}-{fold}",
            "made_from": degradation_stamp(setup.degradation, setup.cohort),
            "accelerator": setup.device,
        }

        def learn(state: Path) -> pd.DataFrame:
            levels = self._levels(level)
            return train_reconstructor(
                network, setup.cohort, setup.degradation, levels, folder=state, **kept, **options
            )

        facts = {"seed": train_seed, "epochs": options["epochs"], "start_from": settings.start_from}
        folder = self._folder(arm, fold, train_seed, level)
        made_from = self.made_from(arm, fold, train_seed, level)
        return make_weights(setup, network, base_arm(arm), folder, made_from, learn, facts)

    def _options(self, arm: str, fold: int, train_seed: int) -> dict:
        """Options of `train_reconstructor` that decide the weights."""
        settings = self.setup.run.settings
        return parted(self._recipe(arm))[1] | {
            "fold": fold,
            "seed": train_seed,
            "mirror": settings.mirror,
            "n_validation": settings.n_validation,
            "precision": settings.precision,
            "start": start_of(self.setup, base_arm(arm)),
        }

    def _levels(self, level: float | None) -> tuple[float, ...]:
        """The levels that the network of a `level` learns."""
        setup = self.setup
        return (float(level or setup.audit_level),) if setup.run.settings.one_level_each else setup.levels

    def _folder(self, arm: str, fold: int, train_seed: int, level: float | None) -> Path:
        folder = product_folder(self.setup, base_arm(arm), fold, train_seed)
        return folder / f"{self._levels(level)[0]:g}" if self.setup.run.settings.one_level_each else folder

    def trainings(self, arm: str) -> list[dict]:
        """`fold`, `train_seed` and `level` of everything that `make_all` makes; nothing for an arm without weights."""
        levels: tuple = self.setup.levels if self.setup.run.settings.one_level_each else (None,)
        variants = [v for v in self.setup.variants(arm) if not v["sample"]] if arm_class(arm).learns else []
        return [
            {"fold": v["fold"], "train_seed": v["train_seed"], "level": level} for v in variants for level in levels
        ]

    def make_all(self, arm: str) -> None:
        """`make` for all folds, training seeds and, where each has its own network, levels of the settings."""
        for which in self.trainings(arm):
            self.make(arm, **which)

    def made_from(self, arm: str, fold: int = 0, train_seed: int = 0, level: float | None = None) -> Stamp:
        """The stamp of weights that are trained in the run; ValueError for an arm without weights."""
        network, code = self.network(arm), "fairrecon_core.reconstruct.training"
        options = self._options(arm, fold, train_seed) | {"levels": list(self._levels(level))}
        options["new_noise"] = self.setup.run.settings.new_noise
        options["network"] = parameters(network, without=network.at_inference) | network.card()
        return degradation_stamp(self.setup.degradation, self.setup.cohort) | stamp(type(network), code, **options)

    def path(self, arm: str, fold: int = 0, train_seed: int = 0, level: float | None = None) -> Path:
        """File with an arm's weights, shipped or trained; never starts a training.

        Raises
        ------
        FileNotFoundError
            There are none, or those there are were made from something else; the message says how to make them.
        ValueError
            Unknown arm, one without weights, or weights of another version of the simulator.
        """
        base, setup = _learner(arm).name, self.setup
        if not setup.run.settings.train:
            published = setup.run.settings.mode(setup.cohort.modality) == "published"
            return shipped(setup, f"{setup.cohort.name}-{base}{'-published' if published else ''}")
        path = self._folder(arm, fold, train_seed, level) / "weights.safetensors"
        reason = current_or_why(setup, path, self.made_from(arm, fold, train_seed, level))
        call = f"weights.make_all({base!r}), as notebooks 04 to 06 do"
        return refuse_stale(path, reason, f"{base} for {setup.cohort.name}", call)

    def load(self, arm: str, fold: int = 0, train_seed: int = 0, level: float | None = None) -> Reconstructor:
        """The arm's reconstructor, ready to be called: its weights loaded, or tuned on a few validation images.

        `fold`, `train_seed`, `level` and errors as those of `path`.
        """
        key = (arm, fold, train_seed, self._levels(level))
        if key not in self._ready:
            network = self.network(arm)
            if network.learns:
                network.load(self.path(arm, fold, train_seed, level))
                compiled(self.setup, getattr(network, network.saved))
            else:
                self._tune(network, fold)
            self._ready[key] = consistency_class()(network) if is_consistent(arm) else network
        return self._ready[key]

    def _tune(self, arm: Reconstructor, fold: int) -> None:
        """Fit an arm without weights; one that is only tuned gets `n_tuning` validation images and no others."""
        setup, n = self.setup, arm.n_tuning
        few = clean_images(setup, "validation", fold, n)
        train = few if n is not None else clean_images(setup, "train", fold)
        arm.fit(train, few, setup.degradation, setup.levels, seed=setup.run.settings.seed)

    def card(self, arm: str, fold: int = 0, train_seed: int = 0, level: float | None = None) -> dict:
        """The model card of an arm's weights; arguments and errors as those of `path`."""
        return card_of(self.path(arm, fold, train_seed, level))

    def losses(self, arm: str, fold: int = 0, train_seed: int = 0, level: float | None = None) -> pd.DataFrame:
        """Loss table of an arm's training: epoch, training losses, validation."""
        return pd.DataFrame(self.card(arm, fold, train_seed, level)["losses"])


class ReaderWeights:
    """Weights of the frozen readers of a cohort: one for each brain task, one for all chest findings, a segmenter.

    Parameters
    ----------
    setup : Setup
    """

    def __init__(self, setup: Setup):
        self.setup = setup
        self._ready: dict[int, dict[str, Reader]] = {}

    def tasks(self) -> list[str]:
        """Tasks of the readers: those with positive and negative cases to learn from in every fold.

        Shipped readers know their own tasks.
        """
        setup, settings, cohort = self.setup, self.setup.run.settings, self.setup.cohort
        wanted = [task for task in cohort.tasks if task in (settings.tasks or cohort.tasks)]
        if not settings.train or setup.is_excerpt:
            return wanted
        parts = [learning_rows(cohort, "train", "prediction", fold) for fold in setup.folds]
        return [task for task in wanted if all(_has_both(cohort, task, rows) for rows in parts)]

    def blank(self) -> dict[str, Reader]:
        """The readers by name, without weights."""
        tasks, options = self.tasks(), parted(self._recipe(Classifier))[0]
        made: dict[str, Reader] = {}
        if options["backbone"] == BACKBONE:
            made = {"imagenet": ImageNetReader(tasks)} if tasks else {}
        elif self.setup.cohort.modality == "xray":
            made = {"findings": Classifier(tasks, **options)} if tasks else {}
        else:
            made = {task.removeprefix("tumour_"): Classifier([task], **options) for task in tasks}
        if self.setup.cohort.masks is not None:
            made["segmenter"] = Segmenter(**parted(self._recipe(Segmenter))[0])
        return {name: self.setup.placed(reader) for name, reader in made.items()}

    @functools.cached_property
    def untrained(self) -> dict[str, Reader]:
        """`blank`, made once: to be asked for names and stamps, never to be trained or loaded."""
        return self.blank()

    def _recipe(self, kind: type[Reader]) -> dict:
        """All options of a kind of reader and of its training, those of the settings' `recipes` above all."""
        settings, cohort = self.setup.run.settings, self.setup.cohort
        whole: dict[str, Any] = {"epochs": settings.reader_epochs, "patience": settings.patience}
        whole["batch_size"] = kind.batch_size
        if kind is Classifier:
            imagenet = settings.start_from == "imagenet"
            whole |= {"backbone": settings.backbone, "imagenet": imagenet, "learning_rate": READER_RATE}
        else:
            whole["width"] = settings.segmenter_width
        return whole | checked(kind, kind.kind, settings.recipe(kind.kind, cohort.name, cohort.modality))

    def make(self, name: str, fold: int = 0) -> Path:
        """Train a reader unless its weights are shipped or current.

        Parameters
        ----------
        name : str
            Key of `blank`.
        fold : int
            Which patients it may learn from.
        """
        setup, settings = self.setup, self.setup.run.settings
        if not settings.train:
            return self.path(name)
        reader, options = self.blank()[name], self._options(name, fold)
        learn = lambda state: train_reader(reader, setup.cohort, folder=state, accelerator=setup.device, **options)
        if isinstance(reader, ImageNetReader):
            learn = lambda state: self._learn_head(reader, fold)
        facts = {"epochs": options.get("epochs", 0), "start_from": settings.start_from}
        folder, made_from = product_folder(setup, f"reader-{name}", fold), self.made_from(name, fold)
        return make_weights(setup, reader, f"reader {name}", folder, made_from, learn, facts)

    def _learn_head(self, reader: ImageNetReader, fold: int) -> pd.DataFrame:
        """What `ImageNetReader.learn` gives for the patients that a fold may learn from."""
        cohort, features = self.setup.cohort, clean_features(self.setup)
        rows, labels = reader.training_targets(cohort, learning_rows(cohort, "train", "prediction", fold))
        return reader.learn(features[rows], labels, cohort.table["patient_id"].to_numpy()[rows])

    def _options(self, name: str, fold: int) -> dict:
        """Options of `train_reader` that decide the weights; an `ImageNetReader` has none but the fold."""
        settings = self.setup.run.settings
        if name == "imagenet":
            return {"fold": fold}
        options = parted(self._recipe(Segmenter if name == "segmenter" else Classifier))[1]
        start = start_of(self.setup, name, "grade")
        same = {"precision": settings.precision, "augment": settings.augment, "mirror": settings.mirror}
        return options | same | {"fold": fold, "start": start}

    def make_all(self) -> None:
        """`make` for all readers and folds."""
        for fold in self.setup.folds:
            for name in self.untrained:
                self.make(name, fold)

    def made_from(self, name: str, fold: int = 0) -> Stamp:
        """The stamp of a reader that is trained in the run."""
        reader, cohort = self.untrained[name], self.setup.cohort.info["content_hash"]
        options = self._options(name, fold) | {"reader": parameters(reader) | reader.settings, "cohort": cohort}
        return stamp(type(reader), "fairrecon_core.predict.training", **options)

    def path(self, name: str, fold: int = 0) -> Path:
        """File with a reader's weights, shipped or trained; errors as those of `Weights.path`."""
        setup = self.setup
        if not setup.run.settings.train:
            return shipped(setup, f"{setup.cohort.name}-{name}")
        path = product_folder(setup, f"reader-{name}", fold) / "weights.safetensors"
        reason = current_or_why(setup, path, self.made_from(name, fold))
        call = "readings.weights.make_all(), as notebook 08 does"
        return refuse_stale(path, reason, f"reader {name} for {setup.cohort.name}", call)

    def load(self, fold: int = 0) -> dict[str, Reader]:
        """The frozen readers of a fold by name, ready to read; errors as those of `path`."""
        if fold not in self._ready:
            readers = self.blank()
            for name, reader in readers.items():
                reader.load(self.path(name, fold))
                compiled(self.setup, reader.net)
            self._ready[fold] = readers
        return self._ready[fold]


# ---------------------------------------------------------------------- helpers
def _learner(arm: str) -> type[NetworkReconstructor]:
    """Class of an arm that has weights; ValueError for another."""
    kind = arm_class(arm)
    if not kind.learns:
        raise ValueError(f"{kind.name} has no weights: it is tuned when it is loaded")
    return cast(type[NetworkReconstructor], kind)


def clean_images(setup: Setup, split: str, fold: int, n: int | None = None) -> Images:
    """`n` clean images of a `split` that may tune a reconstructor; of an excerpt without any, those that are tested."""
    rows = setup.cohort.select(split, "reconstruction", fold, with_pixels=True)
    if split == "validation" and not len(rows):
        rows = setup.rows(setup.audit_level, fold)
    rows = rows[:n]
    return Images(setup.cohort.images_at(rows), setup.names_of(rows))


def _has_both(cohort: Cohort, task: str, rows) -> bool:
    label = cohort.table[f"y_{task}"].to_numpy(dtype=float)[rows]
    return bool((label == 1).any() and (label == 0).any())
