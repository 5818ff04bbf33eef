"""The healthy chest, part 1: the patient, the film, soft tissue and air (part 2: `chest_bones`).

Conventions: lengths in cm at the patient; x grows to the right of the image (the patient's left), y grows
downwards, the origin lies at the centre of the film. Thickness maps are float32 (H, W) in cm along the beam.
`frame` is the film, `person` the patient's `Physique`, `rng` a generator of random numbers, `pixel` a length in cm;
`coarse` and `fine` are `textures`; `growth` is the relative enlargement of the heart, 0 when healthy.
Attenuation is per cm at an effective 60-70 keV (densities as in ICRU report 44).
Every random draw is taken in a fixed order before an attribute is read, so attributes and findings move
structures but never the draws. Shapes and sizes are stylised by eye and not fitted to patients.
"""

import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.fft

FIELD_OF_VIEW = 34.0  # cm, side of the square film
MU = {"soft": 0.205, "fat": 0.178, "lung": 0.052, "bone": 0.60, "plastic": 0.95, "metal": 6.0}  # 1 / cm
APEX, BASE, HALF_WIDTH = -14.4, 4.8, 12.9  # cm: top of the lungs, widest level, half width there


def step(value):
    """Smooth step from 0 to 1: the logistic function, exact at 1/2 for 0."""
    return 0.5 + 0.5 * np.tanh(0.5 * value)


def chord(radius_squared):
    """Half length of a unit ball's chord at a squared distance from its centre; 0 outside."""
    return np.sqrt(np.clip(1 - radius_squared, 0, None))


@dataclass(frozen=True)
class Physique:
    """Scalars that describe one patient and one exposure; cm, radians or relative to 1."""

    scale: float  # body size times magnification
    habitus: float  # 0 slim, 1 average, 2.5 obese
    inspiration: float  # cm by which the diaphragm lies lower than average
    heart: float  # relative size
    bone: float  # relative mineral content
    kyphosis: float
    unfolding: float  # of the aorta
    calcium: float  # of the aortic knob and rib cartilage, >= 0
    breast: float  # relative size; 0 none
    emphysema: float  # relative drop of lung density / 0.12
    rotation: float  # shift of anterior against posterior structures, cm
    tilt: float  # in-plane rotation, radians
    shift: tuple[float, float]  # cm
    scapula: float  # cm by which the scapulae lie over the lungs
    exposure: float  # relative photon exposure
    scatter: float  # share of scatter at the detector
    gamma: float  # of the display
    window: tuple[float, float]  # displayed level of lung and of mediastinum
    sharpness: float  # local contrast enhancement
    asymmetry: tuple[float, ...]  # 16 standard normal draws for shapes used once
    share: tuple[float, ...]  # 8 uniform draws


def physique(rng: np.random.Generator, sex: float, age: float, supine: float, exposure: float) -> Physique:
    """Structural equations: exogenous draws and attributes give one patient's scalars.

    Parameters
    ----------
    rng : Generator
    sex, age : float
        Anatomical effects: +1 male, -1 female; (age in years - 60) / 17; 0 none.
    supine : float
        1 for an AP exposure; views overlap on purpose, a bedside film is not always a bad one.
    exposure : float
        Relative number of photons.
    """
    z = [min(max(float(v), -2.2), 2.2) for v in rng.standard_normal(40)]  # nobody is extreme
    share = tuple(float(v) for v in rng.uniform(size=8))
    habitus = min(max(0.9 + 0.5 * z[1] + 0.1 * age, -0.3), 2.6)
    return Physique(
        scale=math.exp(0.035 * z[0] + 0.05 * z[14] + 0.028 * sex + 0.02 * supine + 0.01),
        habitus=habitus,
        inspiration=0.9 * z[2] - 0.6 * supine - 0.35 * age,
        heart=math.exp(0.055 * z[3] + 0.025 * age - 0.02 * sex + 0.045 * supine),
        bone=min(max(math.exp(0.09 * z[4] - 0.1 * age + 0.03 * sex), 0.45), 1.4),
        kyphosis=0.4 * age + 0.4 * z[5],
        unfolding=min(max(0.5 + 0.45 * age + 0.35 * z[6], -0.3), 2.0),
        calcium=min(max(0.55 * age + 0.35 * z[7] - 0.2, 0.0), 2.0),
        breast=min(max(-sex, 0.0) * math.exp(0.25 * z[8] + 0.2 * (habitus - 0.9)), 2.2),
        emphysema=min(max(0.3 * age + 0.5 * z[18], -1.0), 2.0),
        rotation=0.55 * z[9] + 0.3 * supine * z[10],
        tilt=math.radians((1.7 + 0.6 * supine) * z[11]),
        shift=((0.55 + 0.35 * supine) * z[12], (0.75 + 0.35 * supine) * z[13]),
        scapula=0.6 + 0.7 * z[19] + 0.9 * supine,
        exposure=math.exp(0.25 * z[15] - 0.25 * supine) * exposure,
        scatter=min(max(0.40 + 0.05 * z[16] + 0.04 * habitus + 0.03 * supine, 0.2), 0.7),
        gamma=math.exp(0.08 * z[17]),
        window=(0.42 + 0.045 * z[20], 0.81 + 0.03 * z[21]),
        sharpness=0.45 * math.exp(0.25 * z[22]),
        asymmetry=tuple(z[24:40]),
        share=share,
    )


class Frame:
    """The patient's coordinates of every pixel, and the way back from a point to the film.

    `x`, `y` are float32 (size, size) in cm; `pixel` is the pixel's side in cm on the film.
    """

    def __init__(self, size: int, scale: float = 1.0, tilt: float = 0.0, shift: tuple[float, float] = (0.0, 0.0)):
        self.size, self.pixel, self.scale, self.shift = size, FIELD_OF_VIEW / size, scale, shift
        self.cos, self.sin = math.cos(tilt), math.sin(tilt)
        column, row = film(size)
        column, row = column - np.float32(shift[0]), row - np.float32(shift[1])
        self.x = (self.cos / scale) * column + (self.sin / scale) * row
        self.y = (self.cos / scale) * row - (self.sin / scale) * column

    def place(self, x, y):
        """Film coordinates (cm) of points given in the patient's."""
        return (
            self.scale * (self.cos * x - self.sin * y) + self.shift[0],
            self.scale * (self.sin * x + self.cos * y) + self.shift[1],
        )

    def box(self, left: float, right: float, top: float, bottom: float) -> tuple[slice, slice]:
        """Rows and columns that hold a rectangle of the patient's coordinates."""
        corners = [self.place(x, y) for x in (left, right) for y in (top, bottom)]
        columns, rows = zip(*corners)
        return self._pixels(min(rows), max(rows)), self._pixels(min(columns), max(columns))

    def _pixels(self, low: float, high: float) -> slice:
        """The pixels between two film coordinates, cut at the film's border."""
        first, last = low / self.pixel + self.size / 2, high / self.pixel + self.size / 2
        return slice(min(max(math.floor(first), 0), self.size), min(max(math.ceil(last), 0), self.size))


@functools.lru_cache(maxsize=8)
def film(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of the film's columns (1, size) and rows (size, 1) in cm, float32."""
    centre = (((np.arange(size) + 0.5) / size - 0.5) * FIELD_OF_VIEW).astype(np.float32)
    return centre[None, :], centre[:, None]


# ---------------------------------------------------------------- soft tissue and air


def body(frame: Frame, person: Physique) -> tuple[np.ndarray, np.ndarray]:
    """Thickness (cm) of the body and the part of it that is fat."""
    x, y, habitus = np.abs(frame.x), frame.y, person.habitus
    shoulder = np.clip((y + 18.3) / 6.5, 0, 1)
    half = 5.4 + 14.6 * shoulder * np.sqrt(shoulder) + (1.2 * habitus - 1.2) * step((y - 4) / 4)
    depth = (18.3 + 1.9 * habitus) * (0.80 + 0.20 * step((y + 11) / 2)) * (1 + 0.06 * step((y - 7) / 2))
    ratio = np.minimum(x / half, 1)
    thickness = depth * np.sqrt(1 - (ratio * ratio) ** 2)
    return thickness, (1.4 + 2.4 * max(habitus, 0.0)) * np.minimum(thickness / 4, 1)


def cavity(frame: Frame, person: Physique) -> tuple[np.ndarray, np.ndarray]:
    """Depth of the thoracic cavity along the beam and its half width at each level, both cm."""
    level = np.clip((BASE - frame.y) / (BASE - APEX), 0, 1)
    square = level * level
    width = HALF_WIDTH * (1 + 0.01 * person.inspiration) * np.sqrt(1 - square * np.sqrt(level))
    width = width * (1 - 0.012 * np.clip(frame.y - BASE, 0, None))
    depth = 14.8 * (1 + 0.04 * person.emphysema) * (1 - square) * (1 - 0.35 * square * square)
    ratio = np.minimum(np.abs(frame.x) / (width + np.float32(1e-3)), 1)
    return depth * np.sqrt(1 - ratio * ratio * np.sqrt(ratio)), width


def diaphragm(frame: Frame, person: Physique, wave: np.ndarray) -> np.ndarray:
    """Level (cm) of the diaphragm at each column; `wave` makes the domes uneven."""
    right, z = frame.x < 0, person.asymmetry
    top = np.where(right, np.float32(8.0 + 0.3 * z[0]), np.float32(9.1 + 0.35 * z[1])) + 0.9 * person.inspiration
    from_top = frame.x - np.where(right, np.float32(-6.4), np.float32(6.8))
    angle = np.clip((np.abs(frame.x) - 9.8) / 3, 0, None)
    medial = np.abs(frame.x) < 6.6
    steep = np.where(medial, np.float32(0.012), np.float32(0.045 + 0.006 * z[2]))
    return top + steep * from_top * from_top + 2.2 * angle * angle + 0.16 * wave


class Mediastinum(NamedTuple):
    """Heart, great vessels and hila: cm of soft tissue each."""

    heart: np.ndarray
    vessels: np.ndarray
    core: np.ndarray
    hila: np.ndarray


def mediastinum(frame: Frame, person: Physique, growth: float = 0.0, widening: float = 0.0) -> Mediastinum:
    """Thickness maps of heart, great vessels, central soft tissue and hila.

    Parameters
    ----------
    frame : Frame
        The film: coordinates in cm and the pixel.
    person : Physique
    growth : float
        Relative enlargement of the heart, 0 when healthy.
    widening : float
        Relative enlargement of the upper mediastinum, 0 when healthy.
    """
    wide, turn, ao = 1 + widening, person.rotation, person.unfolding
    x, y = frame.x, frame.y

    def ellipsoid(cx, cy, a, b, angle, depth):
        out = np.zeros_like(x)
        reach = max(a, b)
        box = frame.box(cx - reach, cx + reach, cy - reach, cy + reach)
        out[box] = depth * chord(-implicit(x[box], y[box], cx, cy, a, b, angle) + 1)
        return out

    knob = ellipsoid(2.0 * wide + 0.45 * ao + turn, -6.9 - 0.3 * ao, (1.5 + 0.22 * ao) * wide, 1.8 + 0.2 * ao, 0, 7.5)
    artery = ellipsoid(2.4 + turn + 0.2 * (wide - 1), -3.2, 1.3 * wide, 1.9, 0.3, 5.5)
    box = frame.box(-5.5, 6.5, -18, 18)
    bx, by = x[box], y[box]
    rod = lambda centre, half, depth: depth * chord(((bx - centre) / half) ** 2)
    tall = np.zeros_like(x)
    descending = rod(1.5 + 0.5 * ao + turn, 1.3 + 0.1 * ao, 5.2) * step((by + 6.3) / 0.5)
    ascending = rod(-(1.3 + 0.25 * ao) * wide + 0.6 * turn, 1.9 * wide, 7.5)
    ascending = ascending * step((by + 8.5) / 1.2) * step((2.5 - by) / 1.0)
    cava = rod(-1.5 * wide + 0.5 * turn, 1.35 * wide, 6.0) * step((2 - by) / 1.5) * step((by + 13) / 1.5)
    tall[box] = np.maximum(np.maximum(descending, ascending), cava)
    core = np.zeros_like(x)
    edge = (
        2.5 * wide
        + 0.25 * np.sin(0.5 * by + 3 * person.asymmetry[4])
        + 0.15 * np.sin(1.3 * by + 5 * turn)
        + 0.5 * step((-9 - by) / 1.5)
    )
    core[box] = (
        12.5
        * np.clip(1 - np.abs((bx - 0.4 * turn) / edge) ** 3, 0, None)
        * (0.95 - 0.4 * step((by - 1) / 1.5) + 0.45 * step((by - 7 - person.inspiration) / 0.8))
    )
    hila = np.maximum(
        ellipsoid(-3.9 + turn, -0.6, 1.5, 2.5, 0.25, 2.6), ellipsoid(4.0 + turn, -1.9, 1.35, 2.0, -0.3, 2.6)
    )
    return Mediastinum(heart(frame, person, growth), np.maximum(np.maximum(knob, artery), tall), core, hila)


def implicit(x, y, cx, cy, a, b, angle):
    """1 at the centre of an ellipse, 0 on its border, negative outside."""
    c, s = math.cos(angle), math.sin(angle)
    dx, dy = x - cx, y - cy
    return 1 - ((c * dx + s * dy) / a) ** 2 - ((c * dy - s * dx) / b) ** 2


def heart(frame: Frame, person: Physique, growth: float) -> np.ndarray:
    """Thickness (cm) of the heart: four ellipses joined smoothly, so that its border has no notches."""
    size, turn, z = person.heart * (1 + growth), person.rotation, person.asymmetry
    low = 5.4 + 0.75 * person.inspiration - 2.4 * (size - 1)
    box = frame.box(-9 * size - 2, 11 * size + 2, low - 13, low + 8)
    x, y = frame.x[box], frame.y[box]
    parts = (
        implicit(x, y, 2.3 * size + turn, low, 6.7 * size, 4.7 * size, 0.60 + 0.06 * z[3]),
        implicit(x, y, -1.3 + 0.3 * turn, low - 0.2, 3.6 * size * (1 + 0.2 * (size - 1)), 4.6 * size, 0.1),
        implicit(x, y, 1.2 + turn, low - 4.4, 3.5 * size**0.7, 4.6, -0.25),
        implicit(x, y, 2.5 + turn, low - 7.2, 1.7, 2.6, 0.2),
    )
    total = sum(np.exp(5 * np.clip(part, -4, 2)) for part in parts)
    out = np.zeros_like(frame.x)
    out[box] = 13.0 * size * np.sqrt(np.clip(np.log(total) / 5 - 0.06, 0, None))
    return out


def airways(frame: Frame, person: Physique) -> np.ndarray:
    """Air (cm) in the trachea and the main bronchi."""
    out = np.zeros_like(frame.x)
    box = frame.box(-5, 5, -18, 0)
    x, y = frame.x[box] - (0.5 * person.rotation + 0.12 * person.asymmetry[4] - 0.2 * person.unfolding), frame.y[box]
    trachea = 1.7 * chord(((x - 0.02 * (y + 8)) / 0.85) ** 2) * step((-3.6 - y) / 0.35)
    left = chord(((x - 1.25 * (y + 3.9)) / 0.62) ** 2) * step((-1.2 - y) / 0.3)
    right = chord(((x + 0.75 * (y + 3.9)) / 0.60) ** 2) * step((-0.9 - y) / 0.3)
    out[box] = trachea + 0.9 * (left + right) * step((y + 4) / 0.25)
    return out


def abdomen_gas(frame: Frame, person: Physique, coarse: np.ndarray, fine: np.ndarray) -> np.ndarray:
    """Gas (cm) in the stomach, with a ragged border and mostly a fluid level, and some in the colon."""
    z, out = person.asymmetry, np.zeros_like(frame.x)
    cx, cy = 5.6 + 1.3 * z[5], 11.2 + 0.9 * person.inspiration + 0.5 * z[6]
    a, b = 2.6 * math.exp(0.3 * z[7]), 1.6 * math.exp(0.25 * z[8])
    box = frame.box(cx - 7, cx + 9, cy - 4, cy + 6)
    x, y = frame.x[box], frame.y[box]
    ragged = 0.45 * coarse[box] + 0.25 * fine[box]
    stomach = np.clip(implicit(x, y, cx, cy, a, b, 0.25 * z[9]) + ragged, 0, 1)
    if person.share[1] < 0.6:
        stomach = stomach * step((cy + 0.3 * b - y) / 0.12)
    colon = np.clip(implicit(x, y, cx + 2.5, cy + 2.2, 4.2, 1.6, 0.3) * 0.8 + 1.2 * ragged - 0.4, 0, 1)
    out[box] = (2.4 * np.sqrt(stomach) if person.share[0] < 0.6 else 0) + (1.6 if person.share[2] < 0.5 else 0) * colon
    return out


def breasts(frame: Frame, person: Physique) -> np.ndarray:
    """Thickness (cm) of the breasts: they fade towards the breast bone and end sharply below."""
    if person.breast < 0.02:
        return np.zeros_like(frame.x)
    size, sag = math.sqrt(person.breast), 0.5 * person.asymmetry[10]
    dx, dy = np.abs(frame.x) - (7.6 + 0.4 * size), frame.y - (3.0 + 0.9 * size + sag)
    dy = dy - 0.15 * person.asymmetry[11] * np.sign(frame.x)
    wide, tall = np.where(dx < 0, np.float32(8.2), np.float32(6.0)), np.where(dy < 0, np.float32(8.5), np.float32(4.4))
    inside = np.clip(1 - (dx / (wide * size)) ** 2 - (dy / (tall * size)) ** 2, 0, None)
    soft = np.where(dy < 0, inside, np.sqrt(inside)) * np.where(dx < 0, np.sqrt(inside), 1)
    return 3.1 * person.breast**0.8 * soft


# ---------------------------------------------------------------- textures


WAVES = ((3.0, 12), (1.2, 28), (0.5, 40), (None, 40))  # correlation length (cm; None: power law), highest frequency


@functools.lru_cache(maxsize=8)
def _spectra(size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each pair of textures the filter (2c, 2c), and which of its frequencies a film of this size can hold."""
    out = []
    for width, highest in WAVES:
        cycles = np.arange(-highest, highest)
        square = (cycles[:, None] ** 2 + cycles[None, :] ** 2) / FIELD_OF_VIEW**2
        shape = (0.01 + square) ** -0.9 if width is None else np.exp(-(math.pi**2) * square * width**2)
        shape[highest, highest] = 0  # no constant part
        centre = np.exp(1j * math.pi / size * (cycles[:, None] + cycles[None, :]))  # samples lie at pixel centres
        keep = np.flatnonzero(np.abs(cycles + 0.5) < size / 2)
        out.append(((shape / math.sqrt((shape**2).sum()) * centre).astype(np.complex64), keep))
    return out


def textures(rng: np.random.Generator, size: int) -> np.ndarray:
    """Random fields of unit variance, the same pattern at every film size.

    Returns
    -------
    fields : ndarray, float32, shape (8, size, size)
        Two each with correlation lengths of 3, 1.2 and 0.5 cm, and two with a power law, as of fine lung structure.
    """
    fields = np.empty((8, size, size), np.float32)
    for k, (shape, keep) in enumerate(_spectra(size)):
        noise = rng.standard_normal((*shape.shape, 2), dtype=np.float32).view(np.complex64)[..., 0]
        spectrum = np.zeros((size, size), np.complex64)
        where = (keep - len(shape) // 2) % size
        spectrum[where[:, None], where] = (noise * shape)[keep[:, None], keep]
        field = scipy.fft.ifft2(spectrum, norm="forward", overwrite_x=True)
        fields[2 * k], fields[2 * k + 1] = field.real, field.imag
    return fields
