"""The first half of the chain of one cohort in one run: degrade, reconstruct, measure.

`ImageChain` knows which images a level is tested on, where an arm's images lie, whether its weights are shipped or
trained in place, and computes what is missing or out of date. Every product carries a stamp of what it was made from:
the cohort, the settings that matter, the weights, the core's code. `chain.Chain` adds the readers.
"""

import functools
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.lib.format import open_memmap

from fairrecon_core.cohort.folder import Cohort
from fairrecon_core.degrade import Degradation, degradation
from fairrecon_core.learn.loop import Images
from fairrecon_core.learn.weights import read_card
from fairrecon_core.predict import quality
from fairrecon_core.reconstruct import Reconstructor, controls, names, reconstructor
from fairrecon_core.reconstruct.classical import DataConsistent, Tuned
from fairrecon_core.reconstruct.unet import NetworkReconstructor
from fairrecon_core.settings import Settings
from fairrecon_core.steps import recipes
from fairrecon_core.steps.folder import Run, content_hash, core_hash, write_json

WEIGHTS = Path(__file__).parents[1] / "weights"
CONTROLS = ("placebo", "planted")
SIMULATED = {"mri": "brain", "xray": "chest"}  # whose shipped weights a real cohort's networks may start from
CHUNK = 32  # images in memory at a time
N_TUNING = 24  # validation images that tune a classical arm


class ImageChain:
    """One cohort of a run, with its degradation, levels, reconstructors, their images and how good those are.

    Parameters
    ----------
    run : Run
    cohort : str
        Name of a cohort of the run, or of the shipped example run.
    """

    def __init__(self, run: Run, cohort: str):
        self.run, self.settings = run, run.settings
        self.cohort: Cohort = run.cohort(cohort)
        self.modality = self.cohort.modality
        self.degradation = degradation_of(self.settings, self.modality)
        self.levels = self.settings.mri_levels if self.modality == "mri" else self.settings.xray_levels
        self.audit_level = self.settings.mri_audit_level if self.modality == "mri" else self.settings.xray_audit_level
        self.n_folds = int(self.cohort.info["n_folds"])
        self._made: dict = {}

    # ------------------------------------------------------------------ which images
    @property
    def name(self) -> str:
        """Name of the cohort."""
        return self.cohort.name

    @property
    def folds(self) -> range:
        """Folds of the cohort; one fold is a plain split."""
        return range(self.n_folds)

    @property
    def is_excerpt(self) -> bool:
        """Whether only some images are there, as in the shipped example run."""
        return len(self.cohort.pixel_rows) < len(self.cohort)

    def arms(self) -> list[str]:
        """Arms that have images: degraded, classical, networks; not `clean` and not the controls."""
        return [*self.settings.classical, *self.settings.arms]

    def rows(self, level: float, fold: int = 0, split: str = "test") -> np.ndarray:
        """Rows of the cohort that are used at a level, ascending.

        Parameters
        ----------
        level : float
            The audited level (and the identity) has the whole split; the others a random subset of `level_subset`.
        fold : int
        split : {"test", "validation"}

        Returns
        -------
        ndarray of int
            Only rows whose pixels are there.
        """
        rows = self.cohort.select(split, "prediction", fold, with_pixels=True)
        whole = level in (self.audit_level, self.degradation.identity_level) or split != "test"
        if whole or len(rows) <= self.settings.level_subset:
            return rows
        return np.sort(
            np.random.default_rng([self.settings.seed, fold]).permutation(rows)[: self.settings.level_subset]
        )

    def shared_rows(self) -> np.ndarray:
        """Test rows of the first fold that every level has."""
        return functools.reduce(np.intersect1d, [self.rows(level) for level in self.levels])

    def names_of(self, rows) -> list[str]:
        """`image_id` of some rows."""
        return list(self.cohort.table["image_id"].iloc[rows].astype(str))

    # ------------------------------------------------------------------ reconstructors
    def place(self, arm: str, fold: int = 0, train_seed: int = 0) -> Path:
        """Folder of an arm's weights and images."""
        return self.run.folder / "reconstructions" / self.name / arm / f"{fold}-{train_seed}"

    def reconstructor(self, arm: str, fold: int = 0, train_seed: int = 0) -> Reconstructor:
        """The arm's reconstructor, ready: tuned, loaded from shipped weights, or trained in place (`train: true`).

        Parameters
        ----------
        arm : str
        fold, train_seed : int
            Which patients it may learn from; the seed of its training.

        Raises
        ------
        ValueError
            Unknown arm (the known ones are listed); weights that were made for something else.
        FileNotFoundError
            No weights are shipped for this cohort and size: the message says how to train.
        """
        key = ("reconstructor", arm, fold, train_seed)
        if key not in self._made:
            base, dc = (arm[:-3], True) if arm.endswith("_dc") and arm not in names() else (arm, False)
            inner = self._fitted(base, fold, train_seed)
            if dc:
                inner = DataConsistent(inner)
            self._made[key] = inner
        return self._made[key]

    def _fitted(self, arm: str, fold: int, train_seed: int) -> Reconstructor:
        made = self.network(arm)
        if isinstance(made, NetworkReconstructor):
            made.load(self.weights(arm, fold, train_seed))
        else:
            train, validation = (self._clean(split, fold) for split in ("train", "validation"))
            if isinstance(made, Tuned):  # a few images decide one number
                validation = Images(validation.pixels[:N_TUNING], validation.names[:N_TUNING])
            made.fit(train, validation, self.degradation, self.levels, seed=self.settings.seed)
        return made

    def network(self, arm: str) -> Reconstructor:
        """The arm's reconstructor as the settings want it, without weights."""
        options = {}
        if arm in recipes.RECIPES:
            options = recipes.RECIPES[arm] | {"width": self.settings.width}
            if arm == "sde":
                n_steps = None if self.settings.sampler == "euler" else self.settings.sde_steps or None
                options |= {"sampler": self.settings.sampler, "n_steps": n_steps}
            if arm == "unet" and self._published():
                options |= {"published": True, "width": self.settings.published_width}
        return reconstructor(arm, self.modality, **options)

    def _published(self) -> bool:
        mode = self.settings.mri_mode if self.modality == "mri" else self.settings.xray_mode
        return mode == "published"

    def weights(self, arm: str, fold: int = 0, train_seed: int = 0) -> Path:
        """File with an arm's weights: trained in place when `train` is set, otherwise shipped."""
        if self.settings.train:
            return self._trained(arm, fold, train_seed)
        name = f"{self.name}-{arm}{'-published' if self._published() else ''}.safetensors"
        return self._shipped(name)

    def _shipped(self, name: str) -> Path:
        path, shape = WEIGHTS / name, self.cohort.images.shape[1:]
        simulated = "simulator_version" in self.cohort.info
        if not (path.exists() and simulated and shape == (128, 128)):
            raise FileNotFoundError(
                f"no weights are shipped for {name.removesuffix('.safetensors')!r} on {shape[0]} px images of cohort "
                f"{self.name!r}: set train: true to train it here"
            )
        card = card_of(path)
        if card.get("simulator_version") != self.cohort.info["simulator_version"]:
            raise ValueError(
                f"{name} was trained on simulator version {card.get('simulator_version')!r}, the cohort has "
                f"{self.cohort.info['simulator_version']!r}: train again (train: true)"
            )
        self.run.note("weights", {name: card.get("commit", "")})
        return path

    def _trained(self, arm: str, fold: int, train_seed: int) -> Path:
        """Train an arm in place unless it has been; a killed training goes on."""
        s, folder = self.settings, self.place(arm, fold, train_seed)
        made = self.network(arm)
        start, epochs = self._start(arm), (arm != "unet" and s.generative_epochs) or s.epochs
        wants = [made.card(), recipes.RECIPES.get(arm), epochs, s.batch_size, s.precision, list(self.levels), start]
        stamp = content_hash([*wants, self.cohort.info["content_hash"], plain(self.degradation), fold, train_seed])
        path = folder / "weights.safetensors"
        if not (path.exists() and card_of(path).get("stamp") == stamp):
            losses = recipes.train_reconstructor(
                made, self.cohort, self.degradation, self.levels, folder=folder / f"training-{stamp[:8]}", fold=fold,
                remember=self.run.folder / "remembered" / f"{self.name}-{fold}", mirror=True, seed=train_seed,
                epochs=epochs, batch_size=s.batch_size, precision=s.precision, start=start,
            )  # fmt: skip
            facts = {"start_from": s.start_from, "losses": losses.to_dict("list")}
            made.save(path, stamp=stamp, seed=train_seed, epochs=epochs, **facts)
        self._finished(path, folder)
        return path

    def _start(self, *names: str) -> Path | None:
        """Shipped weights of the simulated cohort to start a training from: the first that exists; None for random.

        Raises
        ------
        ValueError
            Unknown `start_from`, or nothing of these names is shipped.
        """
        if self.settings.start_from == "random":
            return None
        if self.settings.start_from != "shipped":
            raise ValueError(f"start_from is 'random' or 'shipped', got {self.settings.start_from!r}")
        files = [WEIGHTS / f"{SIMULATED[self.modality]}-{name}.safetensors" for name in names]
        for path in files:
            if path.exists():
                return path
        raise ValueError(f"no weights are shipped to start {names[0]!r} from: set start_from: random")

    def _finished(self, path: Path, folder: Path) -> None:
        self.run.wrote(path)
        self.run.note("weights", {str(path.relative_to(self.run.folder)): card_of(path)["stamp"]})
        for state in folder.glob("training-*/state.safetensors"):
            state.unlink()

    def card(self, arm: str, fold: int = 0, train_seed: int = 0) -> dict:
        """The model card of an arm's weights."""
        return card_of(self.weights(arm, fold, train_seed))

    def losses(self, arm: str, fold: int = 0, train_seed: int = 0) -> pd.DataFrame:
        """Loss table of an arm's training: epoch, training losses, validation."""
        return pd.DataFrame(self.card(arm, fold, train_seed)["losses"])

    def _clean(self, split: str, fold: int) -> Images:
        rows = self.cohort.select(split, "reconstruction", fold, with_pixels=True)
        if split == "validation" and not len(rows):  # an excerpt may have none
            rows = self.rows(self.audit_level, fold)
        return Images(self.cohort.images_at(rows), self.names_of(rows))

    # ------------------------------------------------------------------ images
    def images(self, arm: str, level: float, *, fold: int = 0, train_seed: int = 0, sample: int = 0, split="test"):
        """Images of an arm at a level, made when missing or out of date.

        Parameters
        ----------
        arm : str
            `clean`, `degraded`, a reconstructor, or a control (`placebo`, `planted`).
        level : float
        fold, train_seed, sample : int
        split : {"test", "validation"}

        Returns
        -------
        images : ndarray, uint16 (or as the cohort stores them), shape (n, H, W)
            Memory-mapped where they are kept on disk.
        rows : ndarray of int
            Rows of the cohort that they belong to.
        """
        rows = self.rows(level, fold, split)
        if arm == "clean" or arm in CONTROLS:
            return self.cohort.images_at(rows if arm == "clean" else rows[self.donors(arm, rows)]), rows
        folder = self.place(arm, fold, train_seed) / f"{level:g}"
        path = folder / f"{split}{f'-{sample}' if sample else ''}.npy"
        stamp = self._image_stamp(arm, level, rows, fold, train_seed, sample)
        mark = path.with_suffix(".json")
        if not (path.exists() and mark.exists() and json.loads(mark.read_text())["stamp"] == stamp):
            self._reconstruct(path, arm, level, rows, fold, train_seed, sample, split)
            write_json(mark, {"stamp": stamp, "rows": rows.tolist()})
        self.run.wrote(path)
        return np.load(path, mmap_mode="r"), rows

    def donors(self, arm: str, rows) -> np.ndarray:
        """For a control arm: positions in `rows` of the images that are shown."""
        table = self.cohort.table.iloc[rows].reset_index(drop=True)
        if arm == "placebo":
            return controls.placebo_donors(table, share=self.settings.control_share, seed=self.settings.seed)
        return controls.planted_donors(
            table, self.planted_task(), share=self.settings.control_share, seed=self.settings.seed
        )

    def planted_task(self) -> str:
        """The task that the arm `planted` harms, see `controls.planted_task`."""
        return controls.planted_task(self.cohort.table)

    def _image_stamp(self, arm, level, rows, fold, train_seed, sample) -> str:
        """What an arm's images are made from."""
        network = arm.removesuffix("_dc") in recipes.RECIPES
        weights = [self.weights(arm.removesuffix("_dc"), fold, train_seed)] if network else []
        s = self.settings
        how = (s.sampler, s.sde_steps) if arm.startswith("sde") else ()
        parts = [self.cohort.info["content_hash"], plain(self.degradation), arm, level, list(rows), s.seed, sample, how]
        return content_hash([*parts, core_hash(), *weights])

    def _reconstruct(self, path: Path, arm, level, rows, fold, train_seed, sample, split) -> None:
        """Write the images of an arm, chunk by chunk, under a temporary name that is then renamed."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        out = open_memmap(part, mode="w+", dtype=np.uint16, shape=(len(rows), *self.cohort.images.shape[1:]))
        degraded = None if arm == "degraded" else self.images("degraded", level, fold=fold, split=split)[0]
        restore = None if arm == "degraded" else self.reconstructor(arm, fold, train_seed)
        needs = arm.endswith("_dc") or getattr(restore, "needs_measurement", False)
        for start in range(0, len(rows), CHUNK):
            here = rows[start : start + CHUNK]
            ids, measurement = self.names_of(here), None
            if degraded is None or needs:
                images, measurement = self.degradation.measure(
                    self.cohort.images_at(here), level, ids, self.settings.seed
                )
            if degraded is not None:
                images = as_float(degraded[start : start + CHUNK])
                options = {"image_ids": ids, "seed": self.settings.seed, "sample": sample, "measurement": measurement}
                images = restore(images, level, **options)
            out[start : start + len(here)] = np.round(np.asarray(images).clip(0, 1) * 65535)
        out.flush()
        del out
        part.replace(path)

    def batches(self, arm: str, level: float, **which) -> Iterator[tuple]:
        """(images float32 (b, H, W), image_ids, masks bool or None) of an arm, in chunks; `which` as in `images`."""
        images, rows = self.images(arm, level, **which)
        origin = rows[self.donors(arm, rows)] if arm == "placebo" else rows  # a placebo's mask moves with the image
        for start in range(0, len(rows), CHUNK):
            part = slice(start, start + CHUNK)
            masks = None if self.cohort.masks is None else self.cohort.masks_at(origin[part])
            yield as_float(images[part]), self.names_of(rows[part]), masks

    # ------------------------------------------------------------------ quality
    def quality(self, *arms: str) -> pd.DataFrame:
        """Rows of the table `quality` of some arms, all levels, folds, training seeds and samples.

        Computed where missing or out of date; faster for several arms at once than for one after the other.
        """
        if self.is_excerpt:
            return pd.concat([self.run.read("quality", cohort=self.name, arm=arm) for arm in arms], ignore_index=True)
        frames, arms = [], tuple(dict.fromkeys(arms))
        for level in self.levels:
            compute = lambda numbers: self._measured([arms[k] for k in numbers], level)  # noqa: B023
            frames.append(self.run.make_together("quality", compute, [self._quality_piece(a, level) for a in arms]))
        return pd.concat(frames, ignore_index=True)

    def _quality_piece(self, arm: str, level: float) -> tuple[list, dict]:
        """What the quality of an arm at a level depends on, and the part of the table that it is."""
        stamps = [self._image_stamp(arm, level, self.rows(level, v["fold"]), **v) for v in self.variants(arm)]
        return stamps, {"cohort": self.name, "arm": arm, "level": float(level)}

    def compared(self, arms: Iterable[str], metric: str = "psnr_db") -> pd.DataFrame:
        """One measure of every test image, side by side for several arms (first training seed, first sample).

        Parameters
        ----------
        arms : iterable of str
        metric : str
            Column of the table `quality`.

        Returns
        -------
        DataFrame
            level, image_id, patient_id and one column per arm.
        """
        rows = self.quality(*arms).drop_duplicates(["arm", "level", "image_id"])
        table = rows.pivot(index=["level", "image_id"], columns="arm", values=metric).reset_index()
        patient = self.cohort.table.set_index("image_id")["patient_id"]
        return table.assign(patient_id=table["image_id"].map(patient))

    def variants(self, arm: str) -> Iterator[dict]:
        """The fold, train_seed and sample values with which an arm occurs."""
        learned = arm.removesuffix("_dc") in recipes.RECIPES
        n_samples = self.settings.samples if arm.startswith("sde") else 1
        for fold in self.folds:
            for train_seed in self.settings.train_seeds if learned else (0,):
                for sample in range(n_samples):
                    yield {"fold": fold, "train_seed": train_seed, "sample": sample}

    def _measured(self, arms: list[str], level: float) -> list[pd.DataFrame]:
        """Quality of some arms at a level, chunk by chunk, a frame each."""
        found = {arm: [] for arm in arms}
        for fold in self.folds:
            which = [(arm, v) for arm in arms for v in self.variants(arm) if v["fold"] == fold]
            stacks, rows = [self.images(arm, level, **v)[0] for arm, v in which], self.rows(level, fold)
            for start in range(0, len(rows), CHUNK):
                part = slice(start, start + CHUNK)
                clean, head = self.cohort.images_at(rows[part]), {"image_id": self.names_of(rows[part])}
                images = [as_float(stack[part]) for stack in stacks]
                measured = quality.measure_arms(images, clean, foreground=quality.head_mask(clean))
                for (arm, v), table in zip(which, measured):
                    found[arm].append(table.assign(**head, cohort=self.name, arm=arm, level=float(level), **v))
        return [pd.concat(parts) for parts in found.values()]


def degradation_of(settings: Settings, modality: str) -> Degradation:
    """The degradation that the settings ask for."""
    if modality == "mri":
        return degradation("mri", mode=settings.mri_mode, order=settings.mri_order, noise=settings.mri_noise)
    return degradation("xray", mode=settings.xray_mode)


def plain(thing) -> list:
    """An object's plain attributes, sorted: what a stamp can hold."""
    kept = {key: value for key, value in vars(thing).items() if isinstance(value, str | int | float | tuple)}
    return [type(thing).__name__, *sorted(kept.items())]


def card_of(path: Path) -> dict:
    """Model card of a weights file, empty if it cannot be read: that is refused by name when it is loaded."""
    try:
        return read_card(path)
    except (ValueError, OSError):
        return {}


def as_float(images) -> np.ndarray:
    """Stored images as float32 in [0, 1]."""
    images = np.asarray(images)
    return images.astype(np.float32) / 65535 if images.dtype == np.uint16 else images.astype(np.float32)
