"""The study as a recipe and steps: cohorts, skewed networks, their readings, fine-tuned networks; resumable.

A step is made once and kept with a stamp of its recipe and code; a second run goes on where the first was stopped.
Cohorts are simulated, one image a patient, of one of two `worlds`, and their sexes differ in anatomy alone: no finding
is more frequent in one of them, so what differs after reconstruction came from the network. Patients that train a
network, that fine-tune it, that choose thresholds and that are tested are four cohorts of different seeds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from fairrecon_core.audit import choose_threshold
from fairrecon_core.degrade import degradation
from fairrecon_core.learn.loop import Images
from fairrecon_core.learn.weights import read_card
from fairrecon_core.predict.classifier import Classifier
from fairrecon_core.predict.segmenter import Segmenter
from fairrecon_core.steps.weight_files import SHIPPED
from fairrecon_lab.mitigation import measure
from fairrecon_lab.mitigation.finetune import Eye, People, fine_tune
from fairrecon_lab.mitigation.instruments import SEGMENTER_WIDTH, blank_network, teach_reader, teach_segmenter
from fairrecon_lab.mitigation.kept import Steps, current, slug
from fairrecon_lab.mitigation.methods import METHODS, of_task
from fairrecon_lab.mitigation.registered import CONTROL
from fairrecon_lab.mitigation.skew import Skew, training_rows, tuning_rows
from fairrecon_lab.mitigation.worlds import WORLDS, Drawn

SEEDS = {"pool": 231, "tune": 232, "validation": 233, "test": 234, "reader": 235}  # of cohorts; pilots drew others
ON_CPU = {"accelerator": "cpu", "precision": "32-true"}  # so that a seed gives the same network everywhere
SEXES = ("female", "male")
DRAWN = ("size", "level", "anatomy", "task", "n_noises")  # of the recipe: what decides an image
TRAINED = (*DRAWN, "arm", "width", "epochs", "rate", "n_train", "n_pool", "n_validation", "batch_size")
READS = ("reader_size", "n_reader", "reader_epochs")
TUNED = (*TRAINED, *READS, "n_tune", "n_tune_pool", "tune_epochs", "tune_rate")
HERE = "fairrecon_lab.mitigation"


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a figure of the study. Sizes are patients, one image each.

    task : the finding, which names the world. size, reader_size : side of the images in pixels, and of what the reader
    sees. n_reader, reader_epochs : patients that teach a reader of this world, and a segmenter where masks are known; 0
    takes the reader that the series ships, for chests. level : photons per bin; of brains the acceleration. n_noises :
    draws of noise of each patient who trains. anatomy : how much the sexes' bodies differ (1 is usual, 2 the most the
    simulator draws). arm, width, epochs, rate : of the networks. n_tune, n_tune_pool : patients that fine-tune, of
    those there are. tune_share : of the women among them, how many have the finding; -1 as it comes. tune_epochs,
    tune_rate : of fine-tuning. seeds : of training and of the choice of patients; all else is fixed.
    """

    size: int = 64
    reader_size: int = 64
    n_reader: int = 2400
    reader_epochs: int = 10
    level: float = 40.0
    n_noises: int = 8
    anatomy: float = 2.0
    task: str = "pleural_effusion"
    arm: str = "unet"
    width: int = 8
    epochs: int = 12
    rate: float = 2e-3
    n_train: int = 400
    n_pool: int = 1100
    n_tune: int = 160
    n_tune_pool: int = 400
    tune_share: float = 0.05
    n_validation: int = 200
    n_test: int = 1500
    tune_epochs: int = 3
    tune_rate: float = 1e-4
    batch_size: int = 8
    seeds: tuple[int, ...] = (20, 21, 22, 23, 24, 25)
    n_boot: int = 2000

    def __post_init__(self):
        if self.task not in WORLDS:
            raise ValueError(f"unknown task {self.task!r}; there are {', '.join(WORLDS)}")
        if not self.n_reader and WORLDS[self.task].name != "chest":
            raise ValueError(f"no reader of {self.task} is shipped: give n_reader, the patients that teach one")


RECIPES = {
    "smoke": Recipe(size=32, width=4, epochs=1, n_train=16, n_pool=160, n_tune=16, n_tune_pool=80, n_validation=24,
                    n_test=40, tune_epochs=1, seeds=(0,), n_boot=200, reader_size=128, n_reader=0, n_noises=2),
    "tutorial": Recipe(epochs=4, n_train=200, n_pool=500, n_tune=96, n_tune_pool=300, n_validation=80, n_test=120,
                       seeds=(0,), n_boot=400, reader_size=128, n_reader=0, n_noises=2),
    "registered": Recipe(),
    "full": Recipe(width=16, epochs=16, n_train=1600, n_pool=8000, n_tune=1600, n_tune_pool=4800, n_validation=800,
                   n_test=3000, tune_epochs=6, seeds=tuple(range(8)), n_boot=10_000),
    "brain": Recipe(task="large_tumour", level=16.0, n_pool=1400),
}  # fmt: skip


@dataclass(frozen=True)
class Pool:
    """Images (n, H, W) of a cohort, degraded (noises, n, H, W), and without the finding; its table; masks if known."""

    clean: np.ndarray
    degraded: np.ndarray
    without: np.ndarray
    table: pd.DataFrame
    masks: np.ndarray | None = None


class Study(Steps):
    """The steps of one recipe in one folder.

    Parameters
    ----------
    recipe : Recipe
    folder : path
        Where everything is kept.
    say : callable
        Gets a line for each step that is made.
    """

    def __init__(self, recipe: Recipe, folder: Path, say: Callable[[str], object] = lambda line: None):
        super().__init__(recipe, folder, say)
        self.world = WORLDS[recipe.task]
        self.degrade = degradation(self.world.modality)
        self.pools: dict[tuple[str, str], Pool] = {}

    @cached_property
    def eye(self) -> Eye:
        """A frozen reader, the recipe's own or the shipped one, looking at one task."""
        path = self._reader() if self.recipe.n_reader else SHIPPED / "chest-findings.safetensors"
        card = read_card(path)
        reader = Classifier(card["tasks"], card["backbone"])
        reader.load(path)
        return Eye(reader, [self.recipe.task], self.recipe.reader_size)

    def _reader(self) -> Path:
        """File of the reader of this world, made once."""
        recipe = self.recipe

        def teach():
            drawn = self._draw("reader")
            truth = drawn.table[f"true_{recipe.task}"]
            return teach_reader(drawn.images, truth, recipe.task, recipe.reader_epochs, **ON_CPU)

        return self._taught("reader", teach)

    def _taught(self, name: str, teach: Callable[[], Any]) -> Path:
        """File of an instrument that `teach` makes, made once."""
        path = self.folder / f"{name}.safetensors"
        mark = self.mark(name, "fairrecon_lab.simulate.drawing", f"{HERE}.instruments", f"{HERE}.worlds",
                         names=("size", "anatomy", "task", *READS))  # fmt: skip
        if not current(path, mark):
            self.say(f"teach the {name}")
            self.keep(path, mark, teach().save)
        return path

    @cached_property
    def segmenter(self) -> Segmenter | None:
        """A segmenter of this world, taught by the reader's patients; None where no masks are known."""
        if self.world.name != "brain":
            return None

        def teach():
            drawn = self._draw("reader")
            return teach_segmenter(drawn.images, drawn.masks, self.recipe.reader_epochs, **ON_CPU)

        found = Segmenter(SEGMENTER_WIDTH)
        found.load(self._taught("segmenter", teach))
        return found

    def scores(self, images: np.ndarray) -> np.ndarray:
        """Probabilities of the task, (n,), for images (n, H, W)."""
        eye = self.eye  # made outside of inference mode, or no gradient could pass it later
        with torch.inference_mode():
            parts = torch.from_numpy(np.asarray(images, np.float32))[:, None].split(32)
            return torch.cat([eye(part)[0] for part in parts])[:, 0].sigmoid().numpy().astype(float)

    def pool(self, split: str, sex: str = "") -> Pool:
        """A cohort, made once: "pool", "tune", "validation" or "test"; with `sex` everybody has that sex."""
        if (split, sex) not in self.pools:
            self.pools[split, sex] = self._made_pool(split, sex)
        return self.pools[split, sex]

    def _made_pool(self, split: str, sex: str = "") -> Pool:
        recipe, path = self.recipe, self.folder / f"{split}{'-' + sex if sex else ''}.npz"
        mark = self.mark("pool", "fairrecon_lab.simulate.drawing", f"{HERE}.worlds",
                         "fairrecon_core.degrade." + self.world.modality,
                          names=(*DRAWN, _size_of(split)), split=split, sex=sex)  # fmt: skip
        if not current(path, mark):
            self.say(f"draw {path.stem}")
            clean, table, masks = self._draw(split, sex)
            if sex:
                n_patients = getattr(recipe, _size_of(split))
                table["recorded_sex"] = self.world.recorded_sex(n_patients, SEEDS[split], recipe.anatomy)
            positive = table[f"true_{recipe.task}"].to_numpy() == 1
            without, need = clean.copy(), np.flatnonzero(positive)
            if split == "test":  # the same people without the finding
                without[need] = self._draw(split, sex, without=True, patients=need.tolist()).images
            names, draws = list(table["image_id"]), recipe.n_noises if split in ("pool", "tune") else 1
            degraded = np.stack([self.degrade(clean, recipe.level, names, seed=1 + k).numpy() for k in range(draws)])
            table.to_parquet(path.with_suffix(".parquet"))
            stacks = {"clean": clean, "degraded": degraded, "without": without} | (
                {} if masks is None else {"masks": masks}
            )
            self.keep(path, mark, lambda part: np.savez(part, **stacks))
        with np.load(path) as stored:
            return Pool(table=pd.read_parquet(path.with_suffix(".parquet")), **{k: stored[k] for k in stored.files})

    def _draw(self, split: str, sex: str = "", **what) -> Drawn:
        """Patients of a cohort, named after it."""
        recipe = self.recipe
        drawn = self.world.draw(getattr(recipe, _size_of(split)), SEEDS[split], recipe.size, recipe.anatomy, sex=sex,
                                **what)  # fmt: skip
        young = drawn.table["age_years"] < 60
        return drawn._replace(table=drawn.table.assign(
            image_id=split + "-" + drawn.table["image_id"], split="test",
            age_group=np.where(young, "young", "old")))  # fmt: skip

    @cached_property
    def cohort(self) -> pd.DataFrame:
        """The test cohort as it is: every patient with the recorded sex."""
        both = pd.concat([self.pool("test", sex).table for sex in SEXES])
        return both[both["sex"] == both["recorded_sex"]].sort_values("image_id").reset_index(drop=True)

    @cached_property
    def cuts(self) -> dict[int, float]:
        """Threshold by training seed: sensitivity equals specificity on validation images of the control network.

        So the threshold suits reconstructed images, and no skewed network chooses its own. A reader calls nearly every
        image ill at few photons when its threshold was chosen on clean ones, and then no rate can move.
        """
        net = lambda seed: self.network(CONTROL, seed)
        return {seed: self.cut_of(CONTROL.name, seed, net) for seed in self.recipe.seeds}

    def network(self, skew: Skew, seed: int):
        """The network of a skew, trained once.

        Parameters
        ----------
        skew : Skew
        seed : int
            Of the patients' order and of training.
        """
        recipe, path = self.recipe, self._net_path(skew, seed)
        made = blank_network(recipe.arm, recipe.width, recipe.rate, self.world.modality)
        mark = self.mark("net", "fairrecon_core.reconstruct." + recipe.arm, f"{HERE}.skew", f"{HERE}.instruments",
                         names=TRAINED, skew=repr(skew), seed=seed)  # fmt: skip
        if current(path, mark):
            made.load(path)
            return made
        self.say(f"train {path.stem}")
        pool = self.pool("pool")
        rows = training_rows(pool.table, skew, recipe.n_train, seed)
        few = self.pool("validation")
        some = slice(0, min(40, recipe.n_validation))
        made.fit(_images(pool, rows), _images(few, np.arange(len(few.table))[some]), self._stored("pool", "validation"),
                 [recipe.level], seed=seed + 1000 * skew.redraw, batch_size=recipe.batch_size, epochs=recipe.epochs,
                 progress=False,
                 **ON_CPU)  # fmt: skip
        self.keep(path, mark, made.save)
        made.load(path)  # as whoever comes later finds it: float16
        return made

    def tuned(self, skew: Skew, seed: int, name: str, weight: float, share: float | None = None):
        """The network of a skew after fine-tuning.

        Parameters
        ----------
        skew : Skew
        seed : int
        name : str
            Of a method, or "twin".
        weight : float
            lambda.
        share : float, optional
            Of the women that fine-tune, how many have the finding; -1 as it comes; by default `tune_share`.
        """
        recipe, share = self.recipe, self.recipe.tune_share if share is None else share
        stem = f"tuned-{slug(skew.name)}-{slug(name)}-{weight:g}-{slug(f'{share:g}')}-{seed}"
        path = self.folder / f"{stem}.safetensors"
        made = self.network(skew, seed)
        method = METHODS.get(name)
        chosen = repr(method and (method.people, method.estimate))
        mark = self.mark("tuned", f"{HERE}.finetune", "fairrecon_core.reconstruct." + recipe.arm, seed=seed,
                         skew=repr(skew), method=name, weight=weight, share=share, options=chosen,
                         names=TUNED)  # fmt: skip
        if current(path, mark):
            made.load(path)
            return made
        self.say(f"fine-tune {path.stem}")
        made.start_from(self._net_path(skew, seed))  # an SDE's network, too, not only its running mean
        pool = self.pool("tune")
        rows = tuning_rows(pool.table, recipe.task, recipe.n_tune, share if share >= 0 else None, seed)
        people = People(pool.table.iloc[rows], [recipe.task], **(of_task(method, recipe.task) if method else {}))
        cuts = torch.tensor([np.log(self.cuts[seed] / (1 - self.cuts[seed]))], dtype=torch.float32)
        term = method.term(self.eye, cuts, people) if method and method.term else None
        made.learning_rate = recipe.tune_rate
        fine_tune(made, term, _images(pool, rows), people, self._stored("tune"), recipe.level,
                  weight=weight, eye=self.eye, estimate=method.estimate if method else "one_step",
                  epochs=recipe.tune_epochs, batch_size=recipe.batch_size, seed=seed, **ON_CPU)  # fmt: skip
        self.keep(path, mark, made.save)
        made.load(path)
        return made

    def read(self, name: str, seed: int, network: Callable[[], Any] | None, split: str = "test", sex: str = ""):
        """Readings of an arm on a cohort, made once.

        Parameters
        ----------
        name : str
            Of the arm.
        seed : int
            Of its training.
        network : callable or None
            Makes it when asked; None reads the clean images.
        split, sex : str
            As in `pool`.
        """
        recipe = self.recipe
        path = self.folder / f"read-{slug(name)}-{seed}-{split}{'-' + sex if sex else ''}.parquet"
        mark = self.mark("read", f"{HERE}.measure", f"{HERE}.finetune", "fairrecon_core.reconstruct." + recipe.arm,
                          f"{HERE}.skew", name=name, seed=seed, split=split, sex=sex,
                         names=(*TUNED, _size_of(split)))  # fmt: skip
        if not current(path, mark):
            pool = self.pool(split, sex)
            images = pool.clean
            if network is not None:
                made = network()
                self.say(f"read {path.stem}")
                images = made(pool.degraded[0], recipe.level, image_ids=list(pool.table["image_id"]), seed=1).numpy()
            table = measure.readings(images, pool.clean, pool.without, pool.table, self.scores(images), recipe.task,
                                     arm=name, train_seed=seed, level=recipe.level)  # fmt: skip
            if self.segmenter is not None:
                table = table.assign(**measure.overlaps(self.segmenter.masks(images), pool.masks))
            self.keep(path, mark, table.to_parquet)
        return pd.read_parquet(path)

    def read_all(self, name: str, network: Callable[[int], Any] | None, seeds=None) -> pd.DataFrame:
        """Readings of an arm on the test patients, each as a woman and as a man, with every training seed.

        Parameters
        ----------
        name : str
        network : callable or None
            `network(seed)` makes the arm; None reads the clean images.
        seeds : sequence of int, optional
            Of training; the recipe's by default.

        Returns
        -------
        DataFrame
            As `measure.readings`, with `as_sex` and `recorded`: whether that is the patient's recorded sex.
        """
        parts = []
        for seed in self.recipe.seeds if seeds is None else seeds:
            make = network and (lambda seed=seed: network(seed))
            for sex in SEXES:
                part = self.read(name, seed, make, "test", sex)
                recorded = self.pool("test", sex).table["recorded_sex"].to_numpy() == sex
                parts.append(part.assign(as_sex=sex, recorded=recorded))
        return pd.concat(parts, ignore_index=True)

    def cut_of(self, name: str, seed: int, network: Callable[[int], Any]) -> float:
        """Threshold chosen on an arm's own validation images: what recalibration gives."""
        read = self.read(name, seed, lambda: network(seed), "validation")
        return choose_threshold(read["score"], self.pool("validation").table[f"true_{self.recipe.task}"])

    def _net_path(self, skew: Skew, seed: int) -> Path:
        return self.folder / f"net-{slug(skew.name)}-{seed}.safetensors"

    def _stored(self, *splits: str) -> Callable:
        """Degraded images by name, called like a degradation; the seed chooses among the noises that are stored."""
        found: dict[str, np.ndarray] = {}
        for split in splits:
            pool = self.pool(split)
            found |= dict(zip(pool.table["image_id"], pool.degraded.swapaxes(0, 1)))

        def degraded(images, level, names, seed=0) -> torch.Tensor:
            drawn = np.random.default_rng(seed).random(len(names))
            return torch.from_numpy(np.stack([found[name][int(u * len(found[name]))] for name, u in zip(names, drawn)]))

        return degraded


def _size_of(split: str) -> str:
    """Field of the recipe that says how many patients a cohort has."""
    return "n_tune_pool" if split == "tune" else f"n_{split}"


def _images(pool: Pool, rows: np.ndarray) -> Images:
    return Images(pool.clean[rows], list(pool.table["image_id"].to_numpy()[rows]))
