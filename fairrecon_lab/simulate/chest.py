"""Simulated frontal chest radiographs with findings of continuous severity.

A patient is a seed, attributes and severities; `render` sums line integrals through a stylised chest
(`chest_anatomy`, `chest_bones`, `chest_findings`), applies Beer-Lambert with scatter, blur and photon noise, and
displays the result in a window set from the healthy geometry, so a finding never changes the brightness elsewhere.
Conventions: lengths in cm, attenuation per cm, images (H, W) float32 in [0, 1] with bone bright.
Race has no anatomy here, on purpose: nothing known says what in a radiograph would encode it.
Everything is stylised by eye, nothing is fitted to patients: call its figures "simulated".
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from fairrecon_lab.simulate import chest_anatomy as anatomy
from fairrecon_lab.simulate import chest_bones as bones
from fairrecon_lab.simulate import chest_findings as findings
from fairrecon_lab.simulate.chest_anatomy import MU, Frame, Physique, step
from fairrecon_lab.simulate.chest_bones import Points
from fairrecon_lab.simulate.chest_findings import Layers, Site

FINDINGS = (
    "enlarged_cardiomediastinum",
    "cardiomegaly",
    "lung_lesion",
    "edema",
    "consolidation",
    "pneumonia",
    "atelectasis",
    "pneumothorax",
    "pleural_effusion",
    "pleural_other",
    "fracture",
    "support_devices",
)

# A finding that is present has severity SEVERITY_FLOOR + SEVERITY_SCALE * Exp(1), without unit.
# Chosen with benchmarks/learnability.py.
SEVERITY_FLOOR: dict[str, float] = {
    "enlarged_cardiomediastinum": 0.30,
    "cardiomegaly": 0.30,
    "lung_lesion": 0.40,
    "edema": 0.15,
    "consolidation": 0.50,
    "pneumonia": 0.50,
    "atelectasis": 0.30,
    "pneumothorax": 0.30,
    "pleural_effusion": 0.10,
    "pleural_other": 0.50,
    "fracture": 0.60,
    "support_devices": 0.30,
}
SEVERITY_SCALE: dict[str, float] = {
    "enlarged_cardiomediastinum": 1.0,
    "cardiomegaly": 0.9,
    "lung_lesion": 0.9,
    "edema": 0.8,
    "consolidation": 0.9,
    "pneumonia": 1.0,
    "atelectasis": 0.9,
    "pneumothorax": 1.0,
    "pleural_effusion": 0.8,
    "pleural_other": 1.0,
    "fracture": 0.9,
    "support_devices": 0.8,
}

PHOTONS = 3.5e6  # per cm2 of the film at relative exposure 1 without a patient
SCATTER_WIDTH = 2.6  # cm, standard deviation of the scatter kernel
SCATTER_YIELD = 0.80  # scatter that reaches the detector, per primary lost from it

KNEE, TOE = 0.55, 0.30  # display levels beyond which the grey scale flattens


@dataclass(frozen=True)
class ChestPatient:
    """One patient and one exposure.

    Parameters
    ----------
    exogenous : tuple of int
        Entropy of everything random: anatomy, places of findings, noise. Two patients that share it differ
        only through the other fields.
    severity : mapping of str to float
        Severity >= 0 per finding; an absent finding counts as 0.
    sex : float
        Anatomical effect: +1 male, -1 female, 0 none.
    age : float
        (years - 60) / 17; 0 none.
    view : {"PA", "AP"}
        Standing at the wall stand, or bedside.
    exposure : float
        Relative photon exposure, > 0.
    conspicuity : float
        Factor >= 0 on every severity as the image shows it.
    visit : int
        A later exposure of the same patient: other photon noise.
    """

    exogenous: tuple[int, ...]
    severity: Mapping[str, float] = field(default_factory=dict)
    sex: float = 0.0
    age: float = 0.0
    view: str = "PA"
    exposure: float = 1.0
    conspicuity: float = 1.0
    visit: int = 0


class ChestImage(NamedTuple):
    """A rendered radiograph: `image` and `line_integral` are float32 (H, W), `latents` what drew them."""

    image: np.ndarray
    line_integral: np.ndarray
    latents: dict


def render(patient: ChestPatient, size: int = 128) -> ChestImage:
    """Draw the radiograph of one patient.

    Parameters
    ----------
    patient : ChestPatient
    size : int
        Pixels per side, even, at least 32. The chest keeps its shape at every size; the noise does not.

    Returns
    -------
    chest : ChestImage
        `image` in [0, 1]; `line_integral` the dimensionless exponent of Beer-Lambert; `latents` with
        cardiothoracic_ratio, heart_width_cm, lung_area_cm2, fluid_ml and fluid_height_cm (pleural effusion), physique,
        and lung, bool (H, W).

    Raises
    ------
    ValueError
        On an unknown finding or view, a negative severity, conspicuity or exposure, or a size that is odd or below 32.

    Examples
    --------
    >>> chest = render(ChestPatient(exogenous=(1, 7), severity={"cardiomegaly": 2.0}))
    >>> chest.image.shape, chest.latents["cardiothoracic_ratio"] > 0.5
    ((128, 128), True)
    """
    _check(patient, size)
    seen = {name: patient.conspicuity * float(patient.severity.get(name, 0.0)) for name in FINDINGS}
    person = anatomy.physique(
        _stream(patient, "physique"), patient.sex, patient.age, float(patient.view == "AP"), patient.exposure
    )
    frame = Frame(size, person.scale, person.tilt, person.shift)
    waves = anatomy.textures(_stream(patient, "textures"), size)
    line_integral, latents = _line_integral(patient, seen, person, frame, waves)
    noise = _stream(patient, "noise", patient.visit).standard_normal((size, size), dtype=np.float32)
    signal = detect(line_integral, person.scatter, PHOTONS * person.exposure * frame.pixel**2, noise, frame.pixel)
    return ChestImage(display(signal, person, frame.pixel), line_integral, latents)


STREAMS = ("physique", "textures", "ribs", "vessels", "noise", *FINDINGS)  # append only: positions are seeds


def _stream(patient: ChestPatient, name: str, *visit: int) -> np.random.Generator:
    """The random stream of one part of one patient; no part can shift another's draws."""
    return np.random.default_rng(np.random.SeedSequence(patient.exogenous, spawn_key=(STREAMS.index(name), *visit)))


def _check(patient: ChestPatient, size: int) -> None:
    """Refuse bad input by name."""
    if size < 32 or size % 2:
        raise ValueError(f"size must be even and at least 32 pixels, got {size}")
    if patient.view not in ("PA", "AP"):
        raise ValueError(f"unknown view {patient.view!r}; choose 'PA' or 'AP'")
    unknown = set(patient.severity) - set(FINDINGS)
    if unknown:
        raise ValueError(f"unknown finding {sorted(unknown)}; choose among {list(FINDINGS)}")
    for name, value in {**patient.severity, "conspicuity": patient.conspicuity}.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be a finite number >= 0, got {value}")
    if not 0 < patient.exposure < math.inf:
        raise ValueError(f"exposure must be a finite number > 0, got {patient.exposure}")
    if not (math.isfinite(patient.sex) and math.isfinite(patient.age)):
        raise ValueError(f"sex and age must be finite, got {patient.sex} and {patient.age}")


# ---------------------------------------------------------------- from anatomy to line integrals


def _line_integral(patient, seen, person: Physique, frame: Frame, waves) -> tuple[np.ndarray, dict]:
    """Place the anatomy, apply the findings, add up; float32 (H, W), and the latents."""
    depth, half_width = anatomy.cavity(frame, person)
    dome = anatomy.diaphragm(frame, person, waves[0])
    if seen["atelectasis"] > 0:
        dome = dome - findings.raised_diaphragm(frame, seen["atelectasis"], _stream(patient, "atelectasis"))
    growth, widening = 0.20 * min(seen["cardiomegaly"], 4), 0.085 * min(seen["enlarged_cardiomediastinum"], 5)
    centre = anatomy.mediastinum(frame, person, growth, widening)
    lung = _aerated(frame, depth, dome, centre)
    site = Site(frame, person, patient.view == "AP", half_width, dome, np.clip(lung / 3, 0, 1), waves)
    layers = Layers(*(np.zeros_like(lung) for _ in range(5)))
    for name, draw in _DRAWN.items():
        if seen[name] > 0:
            draw(layers, site, seen[name], _stream(patient, name))
    pixel = frame.pixel / frame.scale
    ribs = bones.rib_axes(person, _stream(patient, "ribs"), pixel)
    if seen["fracture"] > 0:
        ribs = findings.fracture(ribs, layers, site, seen["fracture"], _stream(patient, "fracture"))
    vessels = bones.vessel_tree(person, _stream(patient, "vessels"), pixel, 0.10 * min(seen["edema"], 4))
    layers.free_air, layers.fluid = np.clip(layers.free_air, 0, 1), np.clip(layers.fluid, 0, 0.97)

    body, fat = anatomy.body(frame, person)
    total = _tissue(site, body, lung, centre, layers) - (MU["soft"] - MU["fat"]) * fat + _mineral(site, layers)
    around_vessels = np.clip(lung / 9, 0, 1) * (1 - layers.free_air) * (1 - layers.fluid)
    total = np.where(body > 0, total * (1 + 0.01 * waves[1]), 0)
    total += _deposited(frame, person, ribs, vessels, around_vessels, layers)
    return total.astype(np.float32, copy=False), _latents(frame, site, centre, lung, layers.fluid)


def _tissue(site: Site, body, lung, centre: anatomy.Mediastinum, layers: Layers) -> np.ndarray:
    """Line integral of soft tissue and lung, with what findings put into them; `body` and `lung` in cm."""
    frame, person, waves = site.frame, site.person, site.waves
    below = step((frame.y - site.dome - 0.4) / 0.15)
    gas = anatomy.airways(frame, person) + anatomy.abdomen_gas(frame, person, waves[2], waves[4]) * below
    soft = np.clip(body - lung - gas, 0, None) + layers.soft + 0.3 * centre.hila * site.lung
    texture = 1 + 0.14 * waves[6] + 0.05 * waves[4] - 0.12 * person.emphysema
    filled = np.clip(layers.filled, 0, 0.92)
    parenchyma = (1 - layers.free_air) * (MU["lung"] * texture * (1 - filled) + MU["soft"] * filled)
    breast = (MU["soft"] + MU["fat"]) / 2 * anatomy.breasts(frame, person)
    return MU["soft"] * soft + lung * ((1 - layers.fluid) * parenchyma + MU["soft"] * layers.fluid) + breast


def _mineral(site: Site, layers: Layers) -> np.ndarray:
    """What the bones that are drawn as maps, and mineral or metal of findings, attenuate beyond soft tissue."""
    frame, person = site.frame, site.person
    bone = bones.spine(frame, person) + bones.blade_and_humerus(frame, person)
    bone += bones.calcification(frame, person, site.waves[5])
    return (MU["bone"] - MU["soft"]) * (bone * person.bone + layers.bone)


_DRAWN = {
    "consolidation": findings.consolidation,
    "pneumonia": findings.pneumonia,
    "edema": findings.edema,
    "atelectasis": findings.atelectasis,
    "lung_lesion": findings.lung_lesion,
    "pneumothorax": findings.pneumothorax,
    "pleural_effusion": findings.pleural_effusion,
    "pleural_other": findings.pleural_other,
    "support_devices": findings.support_devices,
}


def _aerated(frame: Frame, depth, dome, centre: anatomy.Mediastinum) -> np.ndarray:
    """Path length (cm) through lung: the cavity less what lies in it, and a thin recess behind the diaphragm."""
    outer = np.maximum(centre.heart, centre.vessels)
    lung = depth - np.maximum(centre.core, outer) - 0.25 * np.minimum(centre.core, outer) - 0.5 * centre.hila
    under = step((frame.y - dome) / 0.16)
    recess = 0.16 * step((dome + 3.2 - frame.y) / 0.7)
    return np.clip(lung, 0, None) * (1 - under * (1 - recess))


def _deposited(
    frame: Frame, person: Physique, ribs: bones.Ribs, vessels: Points, aerated, layers: Layers
) -> np.ndarray:
    """Line integral of ribs, shoulder girdle, vessels (only where there is air around them) and devices."""
    pixel, mineral = frame.pixel / frame.scale, (MU["bone"] - MU["soft"]) * person.bone * 1.1
    rib = bones.tube(ribs.x, ribs.y, ribs.radius, lambda s: 0.62 * bones.shell(s), pixel, ribs.stretch)
    parts = [(rib, mineral)] + [(points, mineral) for points in bones.shoulder_girdle(person, pixel)] + layers.devices
    x, y = frame.place(vessels.x, vessels.y)
    total = bones.splat(x, y, vessels.mass * _nearest(aerated, x, y, frame), frame.size) * (1.35 * MU["soft"])
    for points, mu in parts:
        x, y = frame.place(points.x.ravel(), points.y.ravel())
        total += bones.splat(x, y, points.mass.ravel(), frame.size) * mu
    return total * frame.scale**2


def _nearest(values: np.ndarray, x, y, frame: Frame) -> np.ndarray:
    """Values of a map at film coordinates."""
    column = np.clip((x / frame.pixel + frame.size / 2).astype(np.int32), 0, frame.size - 1)
    row = np.clip((y / frame.pixel + frame.size / 2).astype(np.int32), 0, frame.size - 1)
    return values.ravel()[row * frame.size + column]


def _latents(frame: Frame, site: Site, centre: anatomy.Mediastinum, lung, fluid) -> dict:
    """What is known about the picture: widths, areas and volumes in patient centimetres."""
    pixel = frame.pixel / frame.scale
    columns = np.flatnonzero((centre.heart > 1.0).any(axis=0))
    rows = np.flatnonzero(((fluid > 0.5) & (lung > 0.3)).any(axis=1))
    width = (columns[-1] - columns[0] + 1) * pixel
    return {
        "cardiothoracic_ratio": float(width / (2 * site.half_width.max())),
        "heart_width_cm": float(width),
        "lung_area_cm2": float((lung > 1.5).sum() * pixel**2),
        "fluid_ml": float((lung * fluid).sum() * pixel**2),
        "fluid_height_cm": float((rows[-1] - rows[0] + 1) * pixel) if len(rows) else 0.0,
        "physique": site.person,
        "lung": lung > 1.5,
    }


# ---------------------------------------------------------------- from line integrals to an image


def smooth(image: np.ndarray, width: float) -> np.ndarray:
    """Nearly Gaussian blur of standard deviation `width` pixels: three moving averages, cheap at any width."""
    side = 2 * round((math.sqrt(4 * width * width + 1) - 1) / 2) + 1
    for _ in range(3):
        image = ndimage.uniform_filter(image, side, mode="nearest")
    return image


def detect(line_integral: np.ndarray, scatter: float, photons: float, noise: np.ndarray, pixel: float) -> np.ndarray:
    """Relative detector signal behind an object: Beer-Lambert, scatter, blur, photon noise.

    Parameters
    ----------
    line_integral : ndarray, shape (H, W)
    scatter : float
        Share of primary radiation that turns into scatter, 0 none.
    photons : float
        Photons per pixel without an object; `inf` leaves out the noise.
    noise : ndarray, shape (H, W)
        Standard normal draws.
    pixel : float
        Side of a pixel in cm.

    Returns
    -------
    signal : ndarray, float32, shape (H, W)
        1 without an object; the noise variance is signal / photons.
    """
    primary = np.exp(-line_integral)
    signal = (1 - scatter) * primary + (scatter * SCATTER_YIELD) * smooth(primary, SCATTER_WIDTH / pixel)
    signal = ndimage.gaussian_filter(signal, 0.1 / pixel, truncate=3.0)
    return signal + np.sqrt(signal / np.float32(photons)) * noise


def levels(person: Physique) -> tuple[float, float]:
    """Expected -log(signal) of lung and mediastinum, from the healthy geometry alone.

    The constants are means over healthy patients of this simulator; what they leave open is 0.06 (standard deviation).
    """
    flesh, breast = person.habitus, person.breast**0.8
    lung = math.exp(-(2.57 + 0.33 * flesh + 0.18 * breast - 0.05 * person.emphysema + 0.22 * person.bone))
    centre = math.exp(-(2.73 + 0.36 * flesh + 0.14 * breast + 0.19 * person.bone + 0.75 * person.heart))
    scattered = person.scatter * SCATTER_YIELD * lung
    behind_centre = scattered * (0.57 - 0.8 * (person.heart - 1.03))
    return -math.log((1 - person.scatter) * lung + scattered), -math.log((1 - person.scatter) * centre + behind_centre)


def display(signal: np.ndarray, person: Physique, pixel: float) -> np.ndarray:
    """Logarithm of the `signal` (H, W), a window set between lung and mediastinum of the `person`, local contrast over
    distances in cm (`pixel` is one), shoulder and gamma; float32 in [0, 1]."""
    low, high = levels(person)
    dark, bright = person.window
    depth = -np.log(np.clip(signal, 1e-4, 1))
    value = (depth - low) / (high - low)
    value = np.clip(value, -1.4, 1.6)
    taper = np.clip(1.25 - value, 0.25, 1)  # dense regions are shown flatter
    value = value + person.sharpness * taper * (value - smooth(value, 2.2 / pixel))
    value = dark + (bright - dark) * value
    value = np.where(value > KNEE, KNEE + (1 - KNEE) * np.tanh((value - KNEE) / (1 - KNEE)), value)
    value = np.where(value < TOE, TOE * np.exp(np.minimum(value / TOE - 1, 0)), value)
    value = np.clip(value * np.minimum(depth / 1.5, 1), 0, 1) ** np.float32(person.gamma)  # bare film is black
    return value.astype(np.float32, copy=False)
