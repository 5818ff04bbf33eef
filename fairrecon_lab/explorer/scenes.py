"""What the explorer can show of a cohort, and what becomes of one image on its way to the reader.

A simulated cohort is drawn as it is asked for, so its patients can be given another sex, age or race (a counterfactual:
the same luck in everything else). A real cohort is read from the run. Networks and readers come from the weights that
are shipped or were trained in this run; nothing is ever trained here. Where there is no trained reader, simulated
patients are read by `matched_score`, which needs no training.

Conventions: images are float32 (N, N) in [0, 1]; scores are in [0, 1]; the arm `clean` is the image itself.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fairrecon_core.cohort.folder import Cohort
from fairrecon_core.degrade import degradation
from fairrecon_core.learn.loop import Images
from fairrecon_core.predict.classifier import Classifier
from fairrecon_core.predict.quality import psnr_db
from fairrecon_core.reconstruct import Reconstructor, reconstructor
from fairrecon_core.reconstruct.classical import Tuned
from fairrecon_core.settings import Settings
from fairrecon_core.steps.folder import Run
from fairrecon_core.steps.setup import Setup
from fairrecon_core.steps.weights import ReaderWeights, Weights
from fairrecon_lab.plots import RACE_LABELS
from fairrecon_lab.simulate import TASKS, as_bias, counterfactual, patient_table
from fairrecon_lab.simulate.population import VALUES

MODES = {"mri": ("physical", "published"), "xray": ("physical", "published", "radiograph")}
MODALITY = {"brain": "mri", "chest": "xray"}
WORLDS = {  # of the simulator: what differs between groups
    "as in life": ("realistic", "sex"),
    "no difference": ("null", "sex"),
    "fainter in women": ("injected", "sex"),
    "fainter in the young": ("injected", "age_group"),
    "fainter in Black, AI/AN, NH/PI": ("injected", "race"),
}
AGGRESSIVENESS = (-2.0, 2.0)  # of a glioma: what the matched filter scores 0 and 1
SEVERITY = 1.0  # of a finding that a patient does not have, for the matched filter
N_PATIENTS, N_TUNING, N_REMEMBERED = 24, 6, 256
AS_RECORDED: tuple[tuple[str, object], ...] = ()


@dataclass(frozen=True)
class Choice:
    """What one column is asked to show.

    Attributes
    ----------
    patient : int
        Patient number of a simulated cohort, row of a real one.
    level : float
        Acceleration or photons per detector bin; the identity level shows the clean image.
    mode, arm, task : str
        Mode of the degradation; a reconstructor; the reader's question.
    world : str
        Key of `WORLDS` (simulated cohorts).
    do : tuple of (attribute, value)
        Attributes that are set, such as `(("sex", "male"),)`; empty shows the patient as recorded.
    """

    patient: int
    level: float
    mode: str
    arm: str
    task: str
    world: str = "as in life"
    do: tuple[tuple[str, object], ...] = AS_RECORDED


@dataclass(frozen=True)
class View:
    """What one column shows.

    Attributes
    ----------
    images : dict of arm -> ndarray, shape (N, N)
        `clean`, `degraded` and the chosen arm.
    psnr_db : dict of arm -> float
        Infinite where nothing changed.
    scores : dict of arm -> float
        NaN where no reader is there.
    threshold : float
        Above it the reader says yes; NaN when unknown.
    person : str
        Sex, age and race in words.
    truth : str
        What is recorded of the task.
    """

    images: dict[str, np.ndarray]
    psnr_db: dict[str, float]
    scores: dict[str, float]
    threshold: float
    person: str
    truth: str


class Scene:
    """One cohort as the explorer sees it.

    Parameters
    ----------
    run : Run
        Its settings give seed, image size and levels.
    name : str
        "brain" or "chest" (simulated as asked for), or a cohort of the run.

    Attributes
    ----------
    see : callable
        `see(choice) -> View`: what becomes of the chosen patient's image. The last views are remembered.
    """

    def __init__(self, run: Run, name: str):
        self.run, self.name, self.settings = run, name, run.settings
        self.cohort = _open(run, name)
        self.simulated = self.cohort is None or "simulator_version" in self.cohort.info
        self.modality = MODALITY[name] if self.cohort is None else self.cohort.modality
        self.modes = MODES[self.modality]
        self.degradations = {mode: degradation(self.modality, mode=mode) for mode in self.modes}
        identity = self.degradations[self.modes[0]].identity_level
        s: Settings = self.settings
        self.levels = [identity, *(s.mri_levels if self.modality == "mri" else s.xray_levels)]
        self.audit_level = s.mri_audit_level if self.modality == "mri" else s.xray_audit_level
        self._networks = {mode: self._load_networks(mode) for mode in self.modes}
        self._readers = self._load_readers()
        self._tuned: dict = {}
        self._draw = lru_cache(N_REMEMBERED)(self._draw_patient)
        self._others = self._tuning_images()
        self.see = lru_cache(N_REMEMBERED)(self._look)

    # ------------------------------------------------------------------ what there is to choose from
    @property
    def title(self) -> str:
        """Modality, cohort and where the patients come from."""
        return (
            f"{'MRI' if self.modality == 'mri' else 'X-ray'}: {self.name}, {'simulated' if self.simulated else 'real'}"
        )

    @property
    def tasks(self) -> list[str]:
        """Questions that a reader here can answer; those of the simulator without a trained one."""
        if self._readers:
            return list(self._readers)
        return [task for task in TASKS.get(self.name, ()) if task != "lung_opacity"] if self.simulated else ["none"]

    @property
    def reader(self) -> str:
        """Who reads, in words."""
        if self._readers:
            return "trained network"
        return "matched filter" if self.simulated else "no trained reader"

    @property
    def worlds(self) -> list[str]:
        """Worlds that exist for this cohort."""
        if not self.simulated:
            return ["as recorded"]
        return [world for world in WORLDS if self.name == "chest" or WORLDS[world][1] != "race"]

    @property
    def attributes(self) -> dict[str, tuple]:
        """Attributes that can be set, with their values; none in a real cohort."""
        if not self.simulated:
            return {}
        ages = tuple(range(20, 91, 10))
        return {"sex": VALUES["sex"], "age_years": ages} | ({"race": VALUES["race"]} if self.name == "chest" else {})

    def arms(self, mode: str) -> list[str]:
        """Reconstructors for a mode: networks with weights first, then the classical ones."""
        return [*self._networks[mode], "tv", "nlm"]

    def patients(self, task: str) -> dict[str, int]:
        """Label -> number of some patients to look at, half of them with the label of `task` if possible."""
        if self.simulated:
            table = patient_table(self.name, 20 * N_PATIENTS, seed=self.settings.seed)
            table = table[table.index.isin(self._held_out())] if self.cohort is not None else table
            label = table.get(f"true_{task}")
        else:
            table = self.cohort.table.loc[self.cohort.select("test", with_pixels=True)]
            label = table.get(f"y_{task}")
        half = N_PATIENTS // 2
        chosen = table.head(N_PATIENTS)
        if label is not None:
            with_it, without = table[label == 1].head(half), table[label != 1]
            chosen = table.loc[sorted({*with_it.index, *without.head(N_PATIENTS - len(with_it)).index})]
        return {
            f"{number}: {in_words(row)}": int(number) for number, row in zip(chosen.index, chosen.to_dict("records"))
        }

    def _held_out(self) -> set[int]:
        rows = self.cohort.select("test", "prediction")
        return {int(name.rsplit("-", 1)[1]) for name in self.cohort.table["patient_id"].iloc[rows]}

    # ------------------------------------------------------------------ one view
    def _look(self, choice: Choice) -> View:
        """What becomes of the chosen patient's image."""
        clean, row = self.person(choice.patient, choice.world, choice.do)
        how, seed, image_id = self.degradations[choice.mode], self.settings.seed, row["image_id"]
        degraded, measurement = how.measure(clean, choice.level, image_id, seed)
        restored = degraded
        if choice.level != how.identity_level:
            restore = self.reconstructor(choice.arm, choice.mode, choice.level)
            options = {"image_ids": image_id, "seed": seed, "measurement": measurement}
            restored = restore(degraded, choice.level, **options)
        images = {"clean": clean, "degraded": np.asarray(degraded), choice.arm: np.asarray(restored)}
        scores, threshold = self._read(images, choice)
        return View(
            images=images,
            psnr_db={arm: float(psnr_db(image, clean)) for arm, image in images.items()},
            scores=scores,
            threshold=threshold,
            person=in_words(row),
            truth={1: "present", 0: "absent"}.get(
                row.get(f"true_{choice.task}", row.get(f"y_{choice.task}")), "unknown"
            ),
        )

    def person(self, patient: int, world: str = "as in life", do=AS_RECORDED, **nodes) -> tuple[np.ndarray, dict]:
        """A patient's image and row, with the attributes `do` and other `nodes` set (simulated cohorts)."""
        if not self.simulated:
            return self.cohort.image(patient), dict(self.cohort.table.iloc[patient])
        return self._draw(patient, WORLDS[world], do, tuple(nodes.items()))

    def _draw_patient(self, patient: int, world: tuple[str, str], do: tuple, nodes: tuple) -> tuple[np.ndarray, dict]:
        s, bias = self.settings, as_bias(*world)
        return counterfactual(self.name, patient, s.seed, s.image_size, bias, **dict(do), **dict(nodes))[:2]

    def reconstructor(self, arm: str, mode: str, level: float) -> Reconstructor:
        """A network of `mode` with its weights, or a classical arm tuned for `level` on a few other images."""
        if arm in self._networks[mode]:
            return self._networks[mode][arm]
        key = (arm, mode, level)
        if key not in self._tuned:
            made = reconstructor(arm, self.modality)
            if isinstance(made, Tuned):
                made.fit(None, self._others, self.degradations[mode], [level], seed=self.settings.seed)
            self._tuned[key] = made
        return self._tuned[key]

    def _tuning_images(self) -> Images:
        """Images to tune on: never those of the patients shown."""
        if self.simulated:
            items = [self.person(patient) for patient in range(10_000, 10_000 + N_TUNING)]
            return Images(np.stack([image for image, _ in items]), [row["image_id"] for _, row in items])
        rows = self.cohort.select("validation", with_pixels=True)[:N_TUNING]
        return Images(self.cohort.images_at(rows), list(self.cohort.table["image_id"].iloc[rows]))

    # ------------------------------------------------------------------ the reader
    def _read(self, images: dict[str, np.ndarray], choice: Choice) -> tuple[dict[str, float], float]:
        """Score of each image, and the threshold."""
        if choice.task in self._readers:
            score, threshold = self._readers[choice.task]
            return dict(zip(images, map(float, score(np.stack(list(images.values())))))), threshold
        if not self.simulated:
            return dict.fromkeys(images, math.nan), math.nan
        ends = self._ends(choice)
        return {arm: matched_score(image, *ends) for arm, image in images.items()}, 0.5

    def _ends(self, choice: Choice) -> list[np.ndarray]:
        """The patient without and with what the task asks for, at full contrast, whatever the world hides."""
        world = choice.world if WORLDS[choice.world][0] == "null" else "as in life"
        node, values = "aggressiveness", AGGRESSIVENESS
        if self.name == "chest":
            node = f"severity_{choice.task}"
            own = self.person(choice.patient, choice.world, choice.do)[1][f"x_{node}"]
            values = (0.0, own or SEVERITY)
        return [self.person(choice.patient, world, choice.do, **{node: value})[0] for value in values]

    def _load_readers(self) -> dict[str, tuple[Callable, float]]:
        """task -> (scores of images, threshold) of the trained classifiers; empty where there are none."""
        found: dict[str, tuple[Callable, float]] = {}
        try:
            weights = ReaderWeights(Setup(self.run, self.name))
            for label, reader in weights.blank().items():
                if not isinstance(reader, Classifier):
                    continue
                reader.load(weights.path(label))
                for column, task in enumerate(reader.tasks):
                    score = lambda images, reader=reader, column=column: reader.scores(images)[:, column]
                    found[task] = score, self._threshold(task)
        except FileNotFoundError:
            return {}
        return found

    def _threshold(self, task: str) -> float:
        """The frozen threshold of this run; NaN before notebook 08 has chosen one."""
        try:
            table = self.run.read("thresholds", cohort=self.name, task=task, policy="validation_frozen")
        except FileNotFoundError:
            return math.nan
        return float(table["value"].iloc[0]) if len(table) else math.nan

    def _load_networks(self, mode: str) -> dict[str, Reconstructor]:
        """arm -> network for the arms of the settings that have weights for this mode."""
        own = self.settings.mri_mode if self.modality == "mri" else self.settings.xray_mode
        if mode != own and (mode != "published" or self.settings.train):
            return {}  # weights of another mode would be shown what they never learned
        settings = dataclasses.replace(self.settings, **{f"{self.modality}_mode": mode})
        found: dict[str, Reconstructor] = {}
        for arm in self.settings.arms:
            try:
                network = Weights(Setup(Run(self.run.folder, settings), self.name)).load(arm)
            except FileNotFoundError:
                continue
            found[arm] = network
        return found


def scenes(run: Run) -> list[Scene]:
    """Every cohort that can be explored: the two simulated ones, and the real ones of the run."""
    real = [name for name in run.settings.cohorts if name not in MODALITY and _open(run, name) is not None]
    return [Scene(run, name) for name in (*MODALITY, *real)]


def matched_score(image: np.ndarray, without: np.ndarray, with_it: np.ndarray) -> float:
    """Where an image lies between the same patient without a finding (0) and with it (1): how much of it is left.

    A matched filter that knows exactly what to look for: the share of the difference between the two that the image
    holds, cut to [0, 1]. NaN if there is no difference.
    """
    template = np.asarray(with_it, dtype=float) - without
    energy = float((template**2).sum())
    return float(np.clip(((image - without) * template).sum() / energy, 0, 1)) if energy else math.nan


def in_words(row: dict) -> str:
    """Sex, age and race of a row, as far as they are known."""
    age, race = row.get("age_years"), row.get("race", "unknown")
    parts = [row["sex"] if row["sex"] != "unknown" else "", f"{age:.0f} y" if age == age and age is not None else ""]
    parts.append(RACE_LABELS.get(race, race) if race != "unknown" else "")
    return ", ".join(filter(None, parts)) or "unknown"


def _open(run: Run, name: str) -> Cohort | None:
    try:
        return run.cohort(name)
    except FileNotFoundError:
        return None
