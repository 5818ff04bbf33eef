"""Simulated brain FLAIR slices with a glioma, its exact mask, and the k-space behind them.

A patient is a set of smooth maps from the slice to a tissue atlas: warps give everyone other gyri, growing ventricles
and mass effect are displacements, and sharpening the atlas' tissue probabilities turns a mean brain into one person's.
The signal follows the inversion-recovery equation. Everything is a function of the place in mm, so slices of a patient
fit together and the pixel size does not change the anatomy.

Conventions: images are (H, W), anterior on top, the patient's right on the left; places are MNI mm (right, anterior,
superior); lengths mm, times ms. Random numbers never depend on an attribute: a patient with another `sex` or `age` is
the same person otherwise. Nothing was fitted to patients: the images resemble FLAIR and are no sample of it.
Source: atlas ICBM152 2009a (Fonov et al., doi:10.1016/j.neuroimage.2010.07.033), see data_scripts/make_atlas.py.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import scipy.fft
from scipy import ndimage

from .brain_tumour import KINDS as TUMOUR_KINDS
from .brain_tumour import draw_tumour, push, tumour_shape, tumour_signal, without_islands
from .fields import Field, sigmoid, trilinear

FIELD_OF_VIEW = 212.0  # mm
WHITE_LEVEL = 0.36  # image value of white matter with the default sequence
ATLAS_LOW, ATLAS_STEP = np.array([-78, -114, -40], np.float32), np.float32(1.5)  # mm
F32 = np.float32


@dataclass(frozen=True)
class Sequence:
    """Inversion-recovery fast spin echo: repetition, inversion and effective echo time in ms."""

    tr_ms: float = 9000.0
    ti_ms: float = 2500.0
    te_ms: float = 100.0


SEQUENCE = Sequence()

# T1 ms, T2 ms, proton density: rounded values in the range of the literature at 3 T; those of tumours are guesses.
TISSUES = {
    "white": (850, 70, 0.70),
    "grey": (1350, 93, 0.80),
    "deep_grey": (1250, 83, 0.82),
    "csf": (4300, 1800, 1.00),
    "lesion": (1250, 118, 0.82),  # white-matter hyperintensity
    "oedema": (1450, 135, 0.86),
    "low_grade": (1500, 150, 0.88),
    "mismatch": (2250, 260, 0.93),  # bright on T2, suppressed on FLAIR: IDH-mutant astrocytoma
    "solid": (1600, 122, 0.87),  # high grade
    "rim": (1300, 115, 0.85),
    "necrosis": (3300, 420, 0.95),
    "calcified": (900, 35, 0.55),
}


def signal(tissue: str, sequence: Sequence = SEQUENCE) -> float:
    """Signal of a tissue: PD |1 - 2 exp(-TI/T1) + exp(-TR/T1)| exp(-TE/T2), in [0, 1]."""
    t1, t2, density = TISSUES[tissue]
    recovery = 1 - 2 * math.exp(-sequence.ti_ms / t1) + math.exp(-sequence.tr_ms / t1)
    return density * abs(recovery) * math.exp(-sequence.te_ms / t2)


@lru_cache(maxsize=16)
def signal_table(sequence: Sequence) -> SimpleNamespace:
    """Image value of each tissue: one receiver gain per sequence, whatever the patient, so that none clips.

    `reference` is what white matter would give with the default sequence: the noise of the receiver is set against it.
    """
    values = {tissue: signal(tissue, sequence) for tissue in TISSUES} | {"reference": signal("white")}
    gain = min(WHITE_LEVEL / max(values["white"], 1e-6), 0.9 / max(signal(tissue, sequence) for tissue in TISSUES))
    return SimpleNamespace(**{tissue: F32(gain * value) for tissue, value in values.items()})


@dataclass(frozen=True)
class BrainPatient:
    """Causes of one patient's images. Everything not named here follows from `exogenous`.

    Parameters
    ----------
    exogenous : tuple of int
        Entropy of `numpy.random.SeedSequence`: anatomy, place and shape of the tumour, noise.
    sex : float
        Anatomical effect of sex: +1 male, -1 female, 0 none. Head size and, slightly, the ventricles.
    age : float
        Anatomical effect of age, (age in years - 58) / 17. Ventricles, sulci, white-matter lesions, iron.
    aggressiveness : float
        Moves radius, irregularity, mass effect, oedema, heterogeneity and necrosis together; of order 1.
    tumour_kind : {"glioblastoma", "astrocytoma", "oligodendroglioma"}
        Astrocytoma shows the T2-FLAIR mismatch, oligodendroglioma calcified spots, both less when aggressive.
    conspicuity : float
        1 leaves the tumour as it is; its contrast is multiplied by conspicuity^0.4.
    snr : float
        White-matter signal (default sequence) over the standard deviation of the noise in one channel, per pixel.
    """

    exogenous: tuple[int, ...]
    sex: float = 0.0
    age: float = 0.0
    aggressiveness: float = 0.0
    tumour_kind: str = "glioblastoma"
    conspicuity: float = 1.0
    snr: float = 26.0

    def __post_init__(self):
        if self.tumour_kind not in TUMOUR_KINDS:
            raise ValueError(f"unknown tumour_kind {self.tumour_kind!r}; choose one of {TUMOUR_KINDS}")
        if not self.snr > 0 or not self.conspicuity > 0:
            raise ValueError(f"snr and conspicuity must be above 0, got {self.snr=}, {self.conspicuity=}")


class BrainSlices(NamedTuple):
    """Slices of one patient: the one through the tumour's centre first, then its neighbours by distance.

    images float32 (S, H, W) in [0, 1], 0 outside the brain; masks bool (S, H, W), the whole FLAIR abnormality;
    kspace complex64 (S, H, W), centred, orthonormal, noise included, or None; latents of the first slice
    (areas in mm2, radius in mm) and of the patient, all float.
    """

    images: np.ndarray
    masks: np.ndarray
    kspace: np.ndarray | None
    latents: dict[str, float]


def render(
    patient: BrainPatient,
    size: int = 128,
    n_slices: int = 2,
    spacing_mm: float = 5.0,
    sequence: Sequence = SEQUENCE,
    kspace: bool = False,
    tumour: bool = True,
) -> BrainSlices:
    """Simulate the FLAIR slices of one patient.

    Parameters
    ----------
    patient : BrainPatient
    size : int
        Matrix size, even and at least 32; the field of view is 212 mm.
    n_slices : int
        At offsets 0, +1, -1, +2, ... times `spacing_mm` from the tumour's centre.
        Beyond z = -40 and 80 mm the atlas ends and slices are empty.
    spacing_mm : float
    sequence : Sequence
    kspace : bool
        Also return the k-space: |inverse transform| is the image, before the skull is stripped and values clipped.
    tumour : bool
        False draws the same person without the tumour and its mass effect; the masks are then empty.

    Returns
    -------
    BrainSlices

    Raises
    ------
    ValueError
        Odd size, size below 32, or no slice.
    """
    if size % 2 or size < 32:
        raise ValueError(f"size must be even and at least 32, got {size}")
    if n_slices < 1:
        raise ValueError(f"n_slices must be at least 1, got {n_slices}")
    person, values = _person(patient), signal_table(sequence)
    slices = []
    for index in range(n_slices):
        offset = spacing_mm * ((index + 1) // 2) * (1 if index % 2 else -1)
        slices.append(_slice(person, size, index, offset, values, tumour))
    images, masks, spectra, latents = zip(*slices)
    latents = latents[0] | {"radius_mm": person.tumour.radius, "aggressiveness": float(patient.aggressiveness)}
    return BrainSlices(np.stack(images), np.stack(masks), np.stack(spectra) if kspace else None, latents)


@lru_cache(maxsize=1)
def _atlas() -> SimpleNamespace:
    """Both hemispheres: maps (105, 131, 81, 4); slope of the ventricle potential per mm and depth (..., 4); sites."""
    with np.load(Path(__file__).with_name("atlas.npz")) as stored:
        half, sites = stored["maps"].astype(F32) / F32(255), stored["sites"].astype(float)
    maps = np.concatenate([half[:, :0:-1], half], axis=1)
    maps[..., [0, -1]] = 0  # below and above the atlas there is nothing
    smooth = ndimage.gaussian_filter(maps[3], 1.0)  # the 8-bit steps would show in the slope
    depth = np.clip(ndimage.gaussian_filter(maps[2], 5.0) / 0.35 - 1.45, 0, 1)  # 0 at the surface, 1 from 8 mm inside
    coarse = np.stack([*np.gradient(smooth, ATLAS_STEP), depth], axis=-1).astype(F32)
    return SimpleNamespace(maps=np.ascontiguousarray(np.moveaxis(maps, 0, -1)), coarse=coarse, sites=sites)


def _look_up(volume: np.ndarray, points) -> np.ndarray:
    """Channels of an atlas volume at MNI points (three arrays of mm): float32 (C, n). Outside, the nearest voxel."""
    index = [(p - low) / ATLAS_STEP for p, low in zip(points, ATLAS_LOW)]
    return trilinear(volume, [np.clip(i, F32(0), F32(n - 1.001)) for i, n in zip(index, volume.shape)])


def _person(patient: BrainPatient) -> SimpleNamespace:
    """Everything about a patient that does not depend on the slice. Sizes are standard deviations or means in mm."""
    rng = np.random.default_rng(np.random.SeedSequence(patient.exogenous, spawn_key=(0,)))
    z = [float(value) for value in rng.standard_normal(30)]
    site = _atlas().sites[rng.integers(len(_atlas().sites))] * [rng.choice([-1, 1]), 1, 1]
    warps = [(Field(rng, 22.0), (2.2, 2.6, 3.6)), (Field(rng, 9.0), (0.9, 0.9, 2.0))]
    shift = _displacement(warps, site.astype(F32)[:, None])
    return SimpleNamespace(
        exogenous=patient.exogenous,
        snr=patient.snr,
        scale=(1 + 0.022 * np.array(z[:3])) * (1 + 0.020 * patient.sex),
        angle=math.radians(3 * z[3]),
        tilt=np.tan(np.radians([3 * z[4], 3 * z[5]])),
        shift=(2 * z[6], 2 * z[7]),
        ventricle=float(np.clip(0.40 * patient.age + 0.06 * patient.sex + 0.28 * z[8], -0.8, 1.5)),  # log size
        atrophy=float(np.clip(0.30 + 0.42 * patient.age + 0.30 * z[9], -0.4, 1.8)),
        lesions=0.65 * patient.age + 0.60 * z[10],
        iron=float(np.clip(0.5 + 0.3 * patient.age + 0.15 * z[11], 0, 1.5)),
        grey_tone=1 + 0.03 * z[12],
        white_tone=1 + 0.03 * z[13],
        phase=z[14:19],
        warps=warps,
        tissue=Field(rng, 2.0),
        patch=Field(rng, 3.5),
        shading=Field(rng, 70.0),
        tumour=draw_tumour(patient, site - shift[:, 0], z[20:], rng),  # where the warps put the site
    )


def _displacement(warps, points) -> np.ndarray:
    """Sum of random smooth displacements at points, in mm, (3, n).

    It fades towards the surface, because a skull keeps the outline smooth, and up and down it fades below z = 0, where
    the temporal poles would get lumpy.
    """
    moved = sum(field(points)[:3] * np.array(amplitude, F32)[:, None] for field, amplitude in warps)
    moved *= 0.3 + 0.7 * _look_up(_atlas().coarse, points)[3]
    moved[2] *= 0.35 + 0.65 * sigmoid((points[2] + F32(2)) / F32(5))
    return moved


def _slice(person, size, index, offset, values, tumour):
    """One slice: image, mask, k-space, latents. Tissue is drawn on a grid 1.2 times finer than the image."""
    fine = 2 * round(0.6 * size)
    x, y, z, shading, inside = _geometry(person, size, fine, offset, tumour)
    head = [axis.ravel()[inside] for axis in _head(person, _axis(size, fine), offset)]
    tissue = _tissue(person, (x, y, z), _look_up(_atlas().maps, (x, y, z)), values)
    level, abnormal = tissue.level, np.zeros_like(x)
    if tumour:
        shape = tumour_shape(person.tumour, head, tissue.white, tissue.csf)
        near, pixel = shape.near, FIELD_OF_VIEW / fine
        abnormal[near] = without_islands(np.maximum(shape.core, shape.oedema), inside[near], fine, pixel)
        level[near] = tumour_signal(person.tumour, shape, level[near], abnormal[near] > 0, tissue.noise[near], values)
    level *= np.exp(0.10 * shading) * tissue.brain
    flat = np.zeros((3, fine * fine), F32)
    flat[:, inside] = level, abnormal, tissue.brain
    level, abnormal, brain = flat.reshape(3, fine, fine)
    image, spectrum = _acquire(person, level, size, index, values.reference / person.snr)
    abnormal, brain = _shrink(np.stack([abnormal, brain]), size)
    stripped = brain > 0.5
    mask = (abnormal > 0.5) & stripped
    area = (FIELD_OF_VIEW / fine) ** 2
    latents = {
        "brain_mm2": float(tissue.brain.sum()) * area,
        "ventricle_mm2": float((tissue.csf * tissue.deep * tissue.brain).sum()) * area,
        "sulci_mm2": float((tissue.csf * (1 - tissue.deep) * tissue.brain).sum()) * area,
        "lesion_mm2": float(tissue.lesion.sum()) * area,
        "tumour_mm2": float(mask.sum()) * (FIELD_OF_VIEW / size) ** 2,
    }
    return np.where(stripped, np.clip(image, 0, 1), F32(0)).astype(F32), mask, spectrum, latents


def _axis(size: int, n: int) -> np.ndarray:
    """Places in mm of n samples over the field of view, such that cropping k-space to `size` keeps it centred."""
    return (((np.arange(n) - n / 2) / n + 0.5 / size) * FIELD_OF_VIEW).astype(F32)


def _head(person, axis, offset):
    """MNI places of a slice grid before any deformation: x, y, z, each (n, n)."""
    right, front = -axis[None, :], -axis[:, None]  # columns run to the patient's left, rows to the back
    cos, sin = F32(math.cos(person.angle)), F32(math.sin(person.angle))
    x = (cos * right - sin * front) / F32(person.scale[0]) + F32(person.shift[0])
    y = (sin * right + cos * front) / F32(person.scale[1]) + F32(person.shift[1] - 17)
    tilt, centre = person.tilt.astype(F32), person.tumour.centre
    z = centre[2] + F32(offset / person.scale[2]) + (x - centre[0]) * tilt[0] + (y - centre[1]) * tilt[1]
    return x, y, z


GRID = 40  # knots per side on which the smooth displacements are computed


def _geometry(person, size, fine, offset, tumour):
    """Atlas places (x, y, z) and shading of the fine pixels in the brain, and the flat index of those pixels."""
    axis = _axis(size, fine)
    knots = np.linspace(axis[0], axis[-1], GRID, dtype=F32)
    head = np.stack([p.ravel() for p in _head(person, knots, offset)])
    place = head + _displacement(person.warps, head)
    if tumour:
        place -= push(person.tumour, head)
    for _ in range(3):  # in steps, or a large ventricle would overshoot its middle
        place += F32(45 * person.ventricle) * _look_up(_atlas().coarse, place)[:3]
    brain = _look_up(_atlas().maps, place)[2]
    smooth = np.concatenate([place, person.shading(head)[:1], brain[None]]).reshape(5, GRID, GRID)
    smooth = _enlarge(smooth, fine)
    inside = np.flatnonzero(ndimage.binary_dilation(smooth[4] > 0.02, iterations=2))
    x, y, z, shading = (np.take(channel, inside) for channel in smooth[:4])
    return x, y, z, shading, inside


def _enlarge(coarse: np.ndarray, n: int) -> np.ndarray:
    """(C, m, m) to (C, n, n) by cubic convolution with the corner samples in place."""
    taps, weights = _cubic(coarse.shape[-1], n)
    rows = sum(coarse[:, tap] * weight[:, None] for tap, weight in zip(taps, weights))
    return sum(np.take(rows, tap, axis=2) * weight for tap, weight in zip(taps, weights))


@lru_cache(maxsize=8)
def _cubic(m: int, n: int):
    """Four taps and Catmull-Rom weights (4, n) that read m samples at n even places."""
    place = np.linspace(0, m - 1, n)
    whole = np.minimum(place.astype(int), m - 2)
    t = place - whole
    weights = [-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2]
    return np.clip(whole + np.arange(-1, 3)[:, None], 0, m - 1), (np.array(weights) / 2).astype(F32)


def _tissue(person, place, prior, values):
    """One person's tissue fractions and signal at the fine pixels: a sharpened sample of the atlas' probabilities."""
    x, y, z = place
    grey, white, brain, potential = prior
    noise, patch = person.tissue(place), person.patch(place)
    csf = np.clip(brain - grey - white, 0, 1)
    deep = np.clip(3 * potential, 0, 1)  # 1 at the ventricles
    # Sulci widen with atrophy; much less at the basal cisterns, which would fall apart.
    widening = person.atrophy * (1 - deep) * (0.25 + 0.75 * sigmoid((z + 4) / 4))
    nuclei = np.exp(-((((np.abs(x) - 15) / 17) ** 2) ** 2) - (((y + 3) / 26) ** 2) ** 2 - (((z - 5) / 17) ** 2) ** 2)
    sharp = (1 - 0.3 * nuclei) / 0.52  # nuclei keep the graded tone of the atlas
    rough = 0.38 * (1 - nuclei)
    log_grey = np.log(grey + 0.02) + rough * noise[0] - 0.25 * widening * (csf > 0.03)
    log_white = np.log(white + 0.02) + rough * noise[1]
    log_csf = np.log(csf + 0.02) + 1.05 * widening * np.clip(6 * csf, 0, 1)
    top = np.maximum(np.maximum(log_grey, log_white), log_csf)
    grey, white_now, csf = (np.exp((value - top) * sharp) for value in (log_grey, log_white, log_csf))
    total = grey + white_now + csf
    grey, white_now, csf = grey / total, white_now / total, csf / total
    pallidum = np.exp(-(((np.abs(x) - 20) / 6.5) ** 2 + ((y + 4) / 10) ** 2 + (z / 8) ** 2))
    level = grey * (values.grey + (values.deep_grey - values.grey) * nuclei) * person.grey_tone
    level += white_now * values.white * person.white_tone * (1 + 0.018 * noise[3]) + csf * values.csf
    level *= 1 + 0.025 * patch[3]
    level *= 1 - 0.16 * person.iron * pallidum * (1 - csf)
    lesion = _white_matter_lesions(person, y, white, white_now, potential, patch)
    level += 0.9 * lesion * (values.lesion * (1 + 0.05 * patch[2]) - level)
    return SimpleNamespace(level=level, white=white_now, csf=csf, brain=brain, deep=deep, lesion=lesion, noise=noise[3])


def _white_matter_lesions(person, y, white, white_now, potential, patch):
    """Weight in [0, 1] of caps and rims at the ventricles and of foci in the deep white matter."""
    horns = np.exp(-(((np.abs(y - 2) - 32) / 16) ** 2))
    rim = np.exp(-(((potential - 0.40) / 0.09) ** 2))
    around = sigmoid(8 * (rim * (0.62 + 0.40 * person.lesions + 0.25 * horns) + 0.16 * patch[0] - 0.80))
    excess = (
        patch[1] + 0.35 * patch[0] + 0.15 * patch[2] - (2.75 - 0.50 * person.lesions)
    )  # peaks of a field: sizes and tones vary
    foci = np.clip(excess / 0.7, 0, 1) * (potential < 0.5) * np.clip(3 * (white - 0.6), 0, 1)
    return np.clip(around * np.clip(1.5 * white_now, 0, 1) + foci * white_now, 0, 1)


def _acquire(person, level, size, index, noise_sd):
    """Crop the k-space of a finer object (point spread and Gibbs ringing), add complex noise: magnitude, k-space."""
    fine = level.shape[0]
    a, b, c, d, e = person.phase
    turn = np.linspace(-1, 1, fine, dtype=F32)
    rows, columns = 0.8 * a * turn + 0.5 * b * turn**2 + e, 0.8 * c * turn + 0.5 * d * turn**2  # smooth phase, rad
    signal = level * np.exp(1j * rows)[:, None].astype(np.complex64) * np.exp(1j * columns).astype(np.complex64)
    low = (fine - size) // 2
    spectrum = scipy.fft.fftshift(scipy.fft.fft2(scipy.fft.ifftshift(signal), norm="ortho"))
    spectrum = spectrum[low : low + size, low : low + size] * F32(size / fine)
    rng = np.random.default_rng(np.random.SeedSequence(person.exogenous, spawn_key=(1, index)))
    noise = rng.standard_normal((size, size, 2), dtype=F32).view(np.complex64)[..., 0]
    spectrum += F32(noise_sd) * noise
    image = scipy.fft.fftshift(scipy.fft.ifft2(scipy.fft.ifftshift(spectrum), norm="ortho"))
    return np.abs(image), spectrum


def _shrink(maps: np.ndarray, size: int) -> np.ndarray:
    """(C, n, n) read between samples at the places of the image's pixels: (C, size, size)."""
    n = maps.shape[-1]
    place = np.arange(size) * (n / size)
    whole = np.minimum(place.astype(int), n - 2)
    part = (place - whole).astype(F32)
    rows = maps[:, whole] * (1 - part)[:, None] + maps[:, whole + 1] * part[:, None]
    return rows[:, :, whole] * (1 - part) + rows[:, :, whole + 1] * part
