"""The glioma of a simulated brain: its traits, what it pushes aside, its shape and its signal.

One number, the aggressiveness, moves every trait by degrees, so that grade and type show only in the mean and a reader
can be right most of the time, not always. A tumour is a level set of distance plus smooth noise that stops at CSF;
oedema follows the white matter. All lengths are mm, or radii where said. The numbers are guesses that looked right.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from .fields import Field, sigmoid

KINDS = ("glioblastoma", "astrocytoma", "oligodendroglioma")
F32 = np.float32


@dataclass(frozen=True)
class Tumour:
    """Traits of one tumour, the same in every slice."""

    kind: str
    contrast: float  # 1: full
    centre: np.ndarray  # mm, float32 (3,)
    radius: float  # mm, 9 to 36
    mass_effect: float  # largest push, in radii
    stretch: float  # along over across, within the slice, is its square
    direction: float  # rad
    roughness: tuple[float, float]  # of the boundary at 6.5 and 16 mm, in radii
    softness: float  # of the boundary, in radii
    spared_cortex: float  # how much the boundary avoids grey matter
    oedema: float  # how far it reaches beyond the core, in radii
    high_grade: float  # 0: homogeneous and bright, 1: solid part with rim and necrosis
    necrosis: float  # its radius, in radii
    fluid: float  # factor on the signal of necrosis
    tone: float  # factor on the signal of low-grade tissue and oedema
    mismatch: float  # share of the suppressed centre of an astrocytoma
    fine: Field  # noise of 6.5 mm
    coarse: Field  # noise of 16 mm


def draw_tumour(patient, centre: np.ndarray, z: list[float], rng: np.random.Generator) -> Tumour:
    """Traits of a patient's tumour.

    Parameters
    ----------
    patient : BrainPatient
        Aggressiveness, kind and conspicuity count.
    centre : ndarray, shape (3,)
        In mm.
    z : list of ten floats
        Standard normal numbers, one for each trait that varies.
    rng : Generator
        Gives the noise fields their turn and shift.
    """
    weight = float(sigmoid(1.8 * patient.aggressiveness))  # 0 indolent, 1 aggressive
    between = lambda indolent, aggressive: indolent + (aggressive - indolent) * weight
    to_edge = np.clip((70 - math.hypot(centre[0] * 1.05, (centre[1] + 17) * 0.78)) / 22, 0.15, 1)  # the skull holds
    return Tumour(
        kind=patient.tumour_kind,
        contrast=0.95 * patient.conspicuity**0.4,
        centre=centre.astype(F32),
        radius=float(np.clip(math.exp(between(2.88, 2.98) + 0.30 * z[0]), 9, 36)),
        mass_effect=between(0.16, 0.38) * math.exp(0.35 * z[1]) * float(to_edge),
        stretch=math.exp(0.22 * z[2]),
        direction=z[3],
        roughness=(between(0.12, 0.27) * math.exp(0.25 * z[4]), between(0.10, 0.19)),
        softness=between(0.13, 0.10),
        spared_cortex=0.05 if patient.tumour_kind == "oligodendroglioma" else 0.20,
        oedema=float(np.clip(between(-0.05, 0.55) + 0.28 * z[5], 0.0, 1.6)),
        high_grade=float(sigmoid(4 * (weight - 0.5))),
        necrosis=float(np.clip(0.62 * (weight - 0.35) / 0.5 + 0.15 * z[6], 0.0, 0.88)),
        fluid=math.exp(0.4 * z[7]),
        tone=math.exp(0.05 + float(np.clip(0.15 * z[8], -0.3, 0.3))),
        mismatch=float(np.clip(0.35 + 0.4 * z[9], 0, 1)),
        fine=Field(rng, 6.5),
        coarse=Field(rng, 16.0),
    )


def push(tumour: Tumour, head: np.ndarray) -> np.ndarray:
    """How far the tumour has pushed the tissue found at places `head` (3, n), in mm: outwards, fading with distance."""
    away = head - tumour.centre[:, None]
    distance = np.sqrt((away**2).sum(axis=0)) + F32(1e-3)
    length = tumour.mass_effect * tumour.radius * np.exp(-np.maximum(distance / tumour.radius - 0.4, 0) / 0.9)
    return away * (np.minimum(length, 0.8 * distance) / distance)


@dataclass(frozen=True)
class Shape:
    """A tumour at the n pixels near it; all float32 (n,) unless said."""

    near: np.ndarray  # int, which of the brain's pixels these are
    core: np.ndarray  # 0 to 1
    oedema: np.ndarray  # 0 to 1
    edge: np.ndarray  # below 0 inside, in radii
    distance: np.ndarray  # from the centre, in radii
    noise: np.ndarray  # (4, n), 6.5 mm


def tumour_shape(tumour: Tumour, head, white: np.ndarray, csf: np.ndarray) -> Shape:
    """Core and oedema at the brain's pixels.

    Parameters
    ----------
    tumour : Tumour
    head : ndarray, shape (3, n)
        Places x, y, z of the pixels, in mm.
    white, csf : ndarray, shape (n,)
        Share of white matter and of CSF in each pixel, 0 to 1.
    """
    dx, dy, dz = (axis - centre for axis, centre in zip(head, tumour.centre))
    cos, sin = F32(math.cos(tumour.direction)), F32(math.sin(tumour.direction))
    across, along = (cos * dx - sin * dy) * F32(tumour.stretch), (sin * dx + cos * dy) / F32(tumour.stretch)
    distance = np.sqrt(across**2 + along**2 + (F32(0.85) * dz) ** 2) / F32(tumour.radius)
    near = np.flatnonzero(distance < max(1.7, 1.5 * (1 + tumour.oedema)))
    distance, white, csf = distance[near], white[near], csf[near]
    places = [axis[near] for axis in head]
    fine, coarse = tumour.fine(places), tumour.coarse(places)

    edge = distance - 1 + tumour.roughness[0] * fine[0] + tumour.roughness[1] * coarse[0]
    barrier = np.minimum(1.6 * csf + tumour.spared_cortex * (1 - white), 2)
    core = sigmoid(-(edge + 0.9 * barrier) / tumour.softness) * (1 - 0.85 * csf)

    # Fluid follows the white matter and stops at the cortex and at CSF.
    reach = distance / (1 + tumour.oedema) - 1 + 0.30 * fine[1] + 0.22 * coarse[1]
    oedema = sigmoid(-(reach + (0.8 * (1 - white) + 0.9 * csf) * (1 - core)) / 0.10) * (1 - 0.9 * csf)
    oedema *= np.minimum(sigmoid((1.7 - distance) / 0.1) + (white > 0.6), 1) * min(6 * tumour.oedema, 1)
    return Shape(near, core, oedema, edge, distance, fine)


def without_islands(weight: np.ndarray, flat: np.ndarray, n: int, pixel: float) -> np.ndarray:
    """Zero the small separate parts of a lesion: its `weight` at ascending `flat` indices of an (n, n) slice.

    Parts are connected regions above 0.5. One below half of the largest goes, with the 3 mm around it; `pixel` is mm.
    """
    if not len(flat):
        return weight
    first = flat[0] // n * n  # of the row where it begins
    region = np.zeros((flat[-1] // n + 1 - flat[0] // n, n), F32)
    region.ravel()[flat - first] = weight
    label, n_parts = ndimage.label(region > 0.5)
    if n_parts < 2:
        return weight
    area = np.bincount(label.ravel())[1:]
    large = np.concatenate([[False], area >= area.max() / 2])
    steps = math.ceil(3 / pixel)
    main = ndimage.binary_dilation(large[label], iterations=steps)
    island = ndimage.binary_dilation((label > 0) & ~large[label], iterations=steps) & ~main
    return np.where(island.ravel()[flat - first], F32(0), weight)


def tumour_signal(tumour: Tumour, shape: Shape, healthy: np.ndarray, part: np.ndarray, grain: np.ndarray, values):
    """Signal at the pixels near the tumour: oedema, then a core in which low-grade tissue turns into high-grade.

    Parameters
    ----------
    healthy : ndarray, shape (n,)
        Signal without the tumour.
    part : ndarray of bool, shape (n,)
        Where the lesion counts; elsewhere the signal stays as it is.
    grain : ndarray, shape (n,)
        Noise of 2 mm.
    values : namespace
        Signal of each tissue.
    """
    noise, edge, contrast = shape.noise, shape.edge, tumour.contrast * part
    oedema = values.oedema * tumour.tone * (1 + 0.06 * noise[2] + 0.03 * grain)
    level = healthy + contrast * shape.oedema * (1 - shape.core) * (oedema - healthy)

    low = values.low_grade * tumour.tone * (1 + 0.05 * noise[1] + 0.02 * grain)
    if tumour.kind == "astrocytoma":
        suppressed = sigmoid(-(edge + 0.22 + 0.1 * noise[2]) / 0.07) * tumour.mismatch
        low = low * (1 - suppressed) + values.mismatch * suppressed
    elif tumour.kind == "oligodendroglioma":
        spots = 0.6 * sigmoid(5 * (noise[2] + 0.5 * grain - 1.5))
        low = (low * (1 - spots) + values.calcified * spots) * (1 + 0.07 * noise[0])

    rim = 0.7 * np.exp(-(((edge + 0.16) / 0.12) ** 2))
    high = values.solid * (1 + 0.12 * noise[1] + 0.06 * grain) * (1 - rim) + values.rim * (1 + 0.05 * grain) * rim
    if tumour.necrosis > 0.12:
        dead = sigmoid(-(shape.distance / tumour.necrosis - 1 + 0.38 * noise[2] + 0.2 * noise[0]) / 0.10)
        high = high * (1 - dead) + values.necrosis * tumour.fluid * dead
    return level + contrast * shape.core * (low + (high - low) * tumour.high_grade - level)
