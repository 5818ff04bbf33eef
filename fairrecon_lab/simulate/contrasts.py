"""The same anatomy in several contrasts: T1, T2 and proton density beside FLAIR, from the same tissue parameters.

The signal equation is that of `brain.signal`: with an inversion time of 0 it is a spin echo, PD (1 - exp(-TR/T1))
exp(-TE/T2). Each contrast has noise of its own. Parts of a tumour can be *silent*: they change T2 but not T1, so a
network that maps T1 to T2 cannot see them. Then two patients whose T1 images are equal to the last bit have different
T2 images, and whatever the network draws is wrong for one of them: a test for hallucination that needs no reader.
Conventions as in `brain`; FLAIR comes from `brain.render` and is not touched here. Nothing was fitted to patients.
Source: parameters in `brain.TISSUES`; sequences rounded from clinical protocols at 3 T.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from fairrecon_lab.simulate import brain
from fairrecon_lab.simulate.brain import BrainPatient, Sequence

SEQUENCES = {
    "t1": Sequence(tr_ms=600.0, ti_ms=0.0, te_ms=12.0),
    "t2": Sequence(tr_ms=4500.0, ti_ms=0.0, te_ms=100.0),
    "pd": Sequence(tr_ms=4500.0, ti_ms=0.0, te_ms=15.0),
}
STREAM = {"t1": 1000, "t2": 2000, "pd": 3000}  # where the noise of each contrast begins; FLAIR's is below
SILENT = ("", "oedema")


class Contrasts(NamedTuple):
    """One slice of a patient in several contrasts.

    images : {"t1", "t2", "pd"} to float32 (H, W) in [0, 1]. mask : bool (H, W), the whole tumour as T2 shows it.
    silent : bool (H, W), the part of it that T1 does not show; empty where nothing is silent.
    """

    images: dict[str, np.ndarray]
    mask: np.ndarray
    silent: np.ndarray


def render_contrasts(patient: BrainPatient, size: int = 128, kinds=("t1", "t2"), *, silent: str = "oedema",
                     oedema: bool = True, index: int = 0, spacing_mm: float = 5.0) -> Contrasts:  # fmt: skip
    """Simulate one slice of a patient in several contrasts.

    Parameters
    ----------
    patient : BrainPatient
    size : int
        Matrix size, even and at least 32.
    kinds : sequence of {"t1", "t2", "pd"}
    silent : {"oedema", ""}
        The part of the tumour that shows on T2 and PD, not on T1; "": every part shows wherever its parameters say.
    oedema : bool
        False draws the same patient without any oedema. With `silent` "oedema" the T1 image stays the same, bit by bit.
    index : int
        Which slice, as in `brain.render`: 0 goes through the tumour's centre.
    spacing_mm : float

    Returns
    -------
    Contrasts

    Raises
    ------
    ValueError
        Odd size or below 32, an unknown kind or silent part.
    """
    if size % 2 or size < 32:
        raise ValueError(f"size must be even and at least 32, got {size}")
    unknown = [kind for kind in kinds if kind not in SEQUENCES]
    if unknown or silent not in SILENT:
        raise ValueError(f"unknown contrast {unknown} or silent part {silent!r}; there are {[*SEQUENCES]}, {SILENT}")
    person = brain._person(patient)
    dry = _without_oedema(person)
    whole = person if oedema else dry
    offset = spacing_mm * ((index + 1) // 2) * (1 if index % 2 else -1)
    images, masks = {}, {}
    for kind in kinds:
        shown = dry if kind == "t1" and silent == "oedema" else whole
        values = brain.signal_table(SEQUENCES[kind])
        images[kind], masks[kind], *_ = brain._slice(shown, size, STREAM[kind] + index, offset, values, True)
    t2 = brain.signal_table(SEQUENCES["t2"])
    mask = brain._slice(whole, size, STREAM["t2"] + index, offset, t2, True)[1] if "t2" not in masks else masks["t2"]
    core = brain._slice(dry, size, STREAM["t2"] + index, offset, t2, True)[1]
    hidden = mask & ~core if silent == "oedema" else np.zeros_like(mask)
    return Contrasts(images, mask, hidden)


def _without_oedema(person):
    """The same person, whose tumour has a core alone; nothing else moves, since oedema pushes nothing."""
    copy = type(person)(**vars(person))
    copy.tumour = dataclasses.replace(person.tumour, oedema=0.0)
    return copy
