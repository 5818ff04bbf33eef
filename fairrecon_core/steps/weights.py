"""The step that makes weights: of reconstructors and of readers, shipped with the package or trained in the run.

Weights are made by `make`, which a notebook calls by name. Whoever asks for them while they are missing or out of date
is told so, and starts no training.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import pandas as pd

from fairrecon_core.cohort.folder import Cohort
from fairrecon_core.learn.loop import Images
from fairrecon_core.learn.rows import learning_rows
from fairrecon_core.learn.weights import read_card
from fairrecon_core.predict.classifier import Classifier
from fairrecon_core.predict.imagenet import BACKBONE, ImageNetReader
from fairrecon_core.predict.readers import Reader
from fairrecon_core.predict.segmenter import Segmenter
from fairrecon_core.predict.training import READER_RATE, train_reader
from fairrecon_core.reconstruct import Reconstructor, arm_class, base_arm, consistency_class, is_consistent
from fairrecon_core.reconstruct.network import NetworkReconstructor
from fairrecon_core.reconstruct.training import train_reconstructor
from fairrecon_core.steps.features import clean_features
from fairrecon_core.steps.setup import Setup, degradation_stamp, product_folder
from fairrecon_core.steps.stamps import Stamp, digest, parameters, stamp, why

SHIPPED = Path(__file__).parents[1] / "weights"
SIMULATED = {"mri": "brain", "xray": "chest"}  # whose shipped weights a real cohort's networks may start from


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
        kind, settings, modality = arm_class(arm), self.setup.run.settings, self.setup.cohort.modality
        return kind(modality=modality, **kind.options(settings, modality))

    def make(self, arm: str, fold: int = 0, train_seed: int = 0) -> Path | None:
        """Train the weights of an arm unless they are shipped or current; a training that was killed goes on.

        Parameters
        ----------
        arm : str
        fold, train_seed : int
            Which patients it may learn from; the seed of its training.

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
            "cache": setup.run.folder / "cached" / f"{setup.cohort.name}-{fold}",
            "made_from": degradation_stamp(setup.degradation, setup.cohort),
        }

        def learn(state: Path) -> pd.DataFrame:
            return train_reconstructor(
                network, setup.cohort, setup.degradation, setup.levels, folder=state, **kept, **options
            )

        facts = {"seed": train_seed, "epochs": options["epochs"], "start_from": settings.start_from}
        folder = product_folder(setup, base_arm(arm), fold, train_seed)
        made_from = self.made_from(arm, fold, train_seed)
        return make_weights(setup, network, base_arm(arm), folder, made_from, learn, facts)

    def _options(self, arm: str, fold: int, train_seed: int) -> dict:
        """Options of `train_reconstructor` that decide the weights."""
        settings = self.setup.run.settings
        return {
            "fold": fold,
            "seed": train_seed,
            "mirror": True,
            "epochs": _learner(arm).epochs(settings),
            "batch_size": settings.batch_size,
            "precision": settings.precision,
            "start": start_of(self.setup, base_arm(arm)),
        }

    def make_all(self, arm: str) -> None:
        """`make` for all folds and training seeds of the settings."""
        for variant in self.setup.variants(arm):
            if not variant["sample"]:
                self.make(arm, variant["fold"], variant["train_seed"])

    def made_from(self, arm: str, fold: int = 0, train_seed: int = 0) -> Stamp:
        """The stamp of weights that are trained in the run; ValueError for an arm without weights."""
        network, code = self.network(arm), "fairrecon_core.reconstruct.training"
        options = self._options(arm, fold, train_seed) | {"levels": list(self.setup.levels)}
        options["network"] = parameters(network, without=network.at_inference) | network.card()
        return degradation_stamp(self.setup.degradation, self.setup.cohort) | stamp(type(network), code, **options)

    def path(self, arm: str, fold: int = 0, train_seed: int = 0) -> Path:
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
        path = product_folder(setup, base, fold, train_seed) / "weights.safetensors"
        reason = why(card_of(path).get("made_from"), self.made_from(arm, fold, train_seed))
        call = f"weights.make_all({base!r}), as notebooks 04 to 06 do"
        return refuse_stale(path, reason, f"{base} for {setup.cohort.name}", call)

    def load(self, arm: str, fold: int = 0, train_seed: int = 0) -> Reconstructor:
        """The arm's reconstructor, ready to be called: its weights loaded, or tuned on a few validation images.

        `fold`, `train_seed` and errors as those of `path`.
        """
        key = (arm, fold, train_seed)
        if key not in self._ready:
            network = self.network(arm)
            if network.learns:
                network.load(self.path(arm, fold, train_seed))
            else:
                self._tune(network, fold)
            self._ready[key] = consistency_class()(network) if is_consistent(arm) else network
        return self._ready[key]

    def _tune(self, arm: Reconstructor, fold: int) -> None:
        """Fit an arm without weights; one that is only tuned gets `n_tuning` validation images and no others."""
        setup, n = self.setup, arm.n_tuning
        validation = clean_images(setup, "validation", fold)
        few = Images(validation.pixels[:n], validation.names[:n])
        train = few if n is not None else clean_images(setup, "train", fold)
        arm.fit(train, few, setup.degradation, setup.levels, seed=setup.run.settings.seed)

    def card(self, arm: str, fold: int = 0, train_seed: int = 0) -> dict:
        """The model card of an arm's weights; errors as those of `path`."""
        return card_of(self.path(arm, fold, train_seed))

    def losses(self, arm: str, fold: int = 0, train_seed: int = 0) -> pd.DataFrame:
        """Loss table of an arm's training: epoch, training losses, validation."""
        return pd.DataFrame(self.card(arm, fold, train_seed)["losses"])


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
        settings, tasks = self.setup.run.settings, self.tasks()
        options: dict[str, Any] = {"backbone": settings.backbone, "learning_rate": READER_RATE}
        options["imagenet"] = settings.start_from == "imagenet"
        made: dict[str, Reader] = {}
        if settings.backbone == BACKBONE:
            made = {"imagenet": ImageNetReader(tasks)} if tasks else {}
        elif self.setup.cohort.modality == "xray":
            made = {"findings": Classifier(tasks, **options)} if tasks else {}
        else:
            made = {task.removeprefix("tumour_"): Classifier([task], **options) for task in tasks}
        if self.setup.cohort.masks is not None:
            made["segmenter"] = Segmenter(width=settings.segmenter_width)
        return made

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
        learn = lambda state: train_reader(reader, setup.cohort, folder=state, **options)
        if isinstance(reader, ImageNetReader):
            learn = lambda state: self._learn_head(reader, fold)
        facts = {"epochs": settings.reader_epochs, "start_from": settings.start_from}
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
        return {
            "fold": fold,
            "epochs": settings.reader_epochs,
            "precision": settings.precision,
            "augment": settings.augment,
            "start": start_of(self.setup, name, "grade"),
        }

    def make_all(self) -> None:
        """`make` for all readers and folds."""
        for fold in self.setup.folds:
            for name in self.blank():
                self.make(name, fold)

    def made_from(self, name: str, fold: int = 0) -> Stamp:
        """The stamp of a reader that is trained in the run."""
        reader, cohort = self.blank()[name], self.setup.cohort.info["content_hash"]
        options = self._options(name, fold) | {"reader": parameters(reader) | reader.settings, "cohort": cohort}
        return stamp(type(reader), "fairrecon_core.predict.training", **options)

    def path(self, name: str, fold: int = 0) -> Path:
        """File with a reader's weights, shipped or trained; errors as those of `Weights.path`."""
        setup = self.setup
        if not setup.run.settings.train:
            return shipped(setup, f"{setup.cohort.name}-{name}")
        path = product_folder(setup, f"reader-{name}", fold) / "weights.safetensors"
        reason = why(card_of(path).get("made_from"), self.made_from(name, fold))
        call = "readings.weights.make_all(), as notebook 08 does"
        return refuse_stale(path, reason, f"reader {name} for {setup.cohort.name}", call)

    def load(self, fold: int = 0) -> dict[str, Reader]:
        """The frozen readers of a fold by name, ready to read; errors as those of `path`."""
        if fold not in self._ready:
            readers = self.blank()
            for name, reader in readers.items():
                reader.load(self.path(name, fold))
            self._ready[fold] = readers
        return self._ready[fold]


# ---------------------------------------------------------------------- files of weights
def _learner(arm: str) -> type[NetworkReconstructor]:
    """Class of an arm that has weights; ValueError for another."""
    kind = arm_class(arm)
    if not kind.learns:
        raise ValueError(f"{kind.name} has no weights: it is tuned when it is loaded")
    return cast(type[NetworkReconstructor], kind)


def make_weights(
    setup: Setup, network, name: str, folder: Path, made_from: Stamp, learn: Callable, facts: Mapping
) -> Path:
    """Train and save weights unless those in `folder` are current.

    Parameters
    ----------
    setup : Setup
    network : NetworkReconstructor or Reader
        What `learn` trains.
    name : str
        Of the arm or reader, for the line that says why it is made anew.
    folder : Path
    made_from : dict
        Stamp of the weights.
    learn : callable
        `learn(state)` trains with its state in the folder `state` and gives the table of losses.
    facts : mapping
        Further entries of the model card.
    """
    path, mark = folder / "weights.safetensors", digest(made_from)
    if reason := why(card_of(path).get("made_from"), made_from):
        setup.run.remade(f"weights of {name} for {setup.cohort.name}", reason)
        losses = learn(folder / f"training-{mark[:8]}")
        network.save(path, stamp=mark, made_from=made_from, losses=losses.to_dict("list"), **facts)
    setup.run.wrote(path)
    setup.run.note("weights", {str(path.relative_to(setup.run.folder)): mark})
    for state in folder.glob("training-*/state.safetensors"):
        state.unlink()
    return path


def refuse_stale(path: Path, reason: str, what: str, call: str) -> Path:
    """`path`, or a FileNotFoundError if weights of `what` are out of date for a `reason`; `call` makes them."""
    if reason:
        raise FileNotFoundError(f"the weights of {what} are not current ({reason}): make them first, by {call}")
    return path


def shipped(setup: Setup, name: str) -> Path:
    """Shipped weights for a cohort of `setup`.

    Raises
    ------
    FileNotFoundError
        None are shipped under this `name`, for this cohort and size.
    ValueError
        They were trained on another version of the simulator.
    """
    path, info, shape = SHIPPED / f"{name}.safetensors", setup.cohort.info, setup.cohort.images.shape[1:]
    if not (path.exists() and "simulator_version" in info and shape == (128, 128)):
        raise FileNotFoundError(
            f"no weights are shipped for {name!r} on {shape[0]} px images of cohort {setup.cohort.name!r}: "
            "set train: true to train it here"
        )
    card = card_of(path)
    if card.get("simulator_version") != info["simulator_version"]:
        raise ValueError(
            f"{path.name} was trained on simulator version {card.get('simulator_version')!r}, the cohort has "
            f"{info['simulator_version']!r}: train again (train: true)"
        )
    setup.run.note("weights", {path.name: card.get("commit", "")})
    return path


def start_of(setup: Setup, *names: str) -> Path | None:
    """Shipped weights of the simulated cohort to start a training of `setup` from: the first of `names`, if any.

    Raises
    ------
    ValueError
        Unknown `start_from`, or nothing of these names is shipped.
    """
    choice = setup.run.settings.start_from
    if choice in ("random", "imagenet"):
        return None
    if choice != "shipped":
        raise ValueError(f"start_from is 'random', 'shipped' or 'imagenet', got {choice!r}")
    files = [SHIPPED / f"{SIMULATED[setup.cohort.modality]}-{name}.safetensors" for name in names]
    for path in files:
        if path.exists():
            return path
    raise ValueError(f"no weights are shipped to start {names[0]!r} from: set start_from: random")


def card_of(path: Path) -> dict:
    """Model card of a weights file, empty if it cannot be read: that is refused by name when it is loaded."""
    try:
        return read_card(path)
    except (ValueError, OSError):
        return {}


def clean_images(setup: Setup, split: str, fold: int) -> Images:
    """Clean images of a split that may tune a reconstructor; of an excerpt without validation images, those tested."""
    rows = setup.cohort.select(split, "reconstruction", fold, with_pixels=True)
    if split == "validation" and not len(rows):
        rows = setup.rows(setup.audit_level, fold)
    return Images(setup.cohort.images_at(rows), setup.names_of(rows))


def _has_both(cohort: Cohort, task: str, rows) -> bool:
    label = cohort.table[f"y_{task}"].to_numpy(dtype=float)[rows]
    return bool((label == 1).any() and (label == 0).any())
