"""The two worlds of the study, named by their finding: a pleural effusion of the chest, a large tumour of the brain.

In both, a patient can be drawn as a woman and as a man, and without the finding, with the same luck in all else; no
finding is more frequent in one sex. Everybody in the world of brains has a tumour; it is large from `LARGE_MM2` of the
slice, measured in the same brain with the head of neither sex, and "without" is the brain without any tumour. Masks are
known there.
Conventions: images (n, H, W) in [0, 1], one per patient; the finding of a table is `true_<task>`.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from fairrecon_lab.simulate import Bias, patient_table, simulate
from fairrecon_lab.simulate.brain import BrainPatient, render
from fairrecon_lab.simulate.causal import STREAMS
from fairrecon_lab.simulate.population import standard_age

LARGE_MM2 = 1300.0  # about the median


class Drawn(NamedTuple):
    """Images (n, H, W), their table, and masks of the tumour (n, H, W), or None."""

    images: np.ndarray
    table: pd.DataFrame
    masks: np.ndarray | None


@dataclass(frozen=True)
class World:
    """Whom a study draws, and what is done to their images.

    name : of the simulator. modality : of the degradation. task : the finding.
    """

    name: str
    modality: str
    task: str

    def draw(self, n: int, seed: int, size: int, anatomy: float, *, sex: str = "", without: bool = False,
             patients: Sequence[int] | None = None) -> Drawn:  # fmt: skip
        """Draw patients of a cohort.

        Parameters
        ----------
        n, seed, size : int
            Patients of the cohort, its seed, pixels along an edge.
        anatomy : float
            How much the sexes' bodies differ, 0 to 2.
        sex : str
            Everybody's, in place of their own.
        without : bool
            The same people without the finding.
        patients : sequence of int, optional
            Only these.
        """
        bias, do = _anatomy_alone(anatomy), {"sex": sex} if sex else {}
        if self.name == "brain":
            return _brains(n, seed, size, bias, do, without, patients)
        do |= {f"severity_{self.task}": 0.0} if without else {}
        images, rows, _ = zip(*simulate("chest", n, seed, size, bias, do=do, patients=patients))
        return Drawn(np.stack(images), pd.DataFrame(rows), None)

    def recorded_sex(self, n: int, seed: int, anatomy: float) -> np.ndarray:
        """Everybody's own sex, (n,), in the cohort that `draw` draws."""
        return patient_table(self.name, n, seed=seed, bias=_anatomy_alone(anatomy))["sex"].to_numpy()


def _anatomy_alone(anatomy: float) -> Bias:
    return Bias(anatomy=anatomy, prevalence=0, acquisition=0)


def brain_patient(row: dict, number: int, seed: int, anatomy: float = 1.0) -> BrainPatient:
    """The causes of a brain from a `row` of `simulate.patient_table` of `seed`, of patient `number`."""
    key = (seed, STREAMS.index("image"), number)
    sex, age = (1.0 if row["sex"] == "male" else -1.0), float(standard_age(row["age_years"], "brain"))
    return BrainPatient(key, anatomy * sex, anatomy * age, row["x_aggressiveness"], row["x_kind"])


def _brains(n: int, seed: int, size: int, bias: Bias, do: dict, without: bool, patients) -> Drawn:
    """One slice a patient, through the centre of the tumour."""
    table = patient_table("brain", n, seed=seed, bias=bias, do=do)
    table = table if patients is None else table.loc[list(patients)]
    images, masks, area = [], [], []
    for number, row in zip(table.index, table.to_dict("records")):
        patient = brain_patient(row, int(number), seed, bias.anatomy)
        slices = render(patient, size, n_slices=1, tumour=not without)
        images.append(slices.images[0])
        masks.append(slices.masks[0])
        area.append(render(dataclasses.replace(patient, sex=0.0), size, n_slices=1).latents["tumour_mm2"])
    large = (np.array(area) >= LARGE_MM2).astype(np.int8)
    found = {"image_id": table["patient_id"] + "-0", "x_tumour_mm2": area, "y_large_tumour": large,
             "true_large_tumour": large}  # fmt: skip
    return Drawn(np.stack(images), table.assign(**found), np.stack(masks))


WORLDS = {
    world.task: world for world in (World("chest", "xray", "pleural_effusion"), World("brain", "mri", "large_tumour"))
}  # by their task
