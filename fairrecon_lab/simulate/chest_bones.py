"""The healthy chest, part 2: bones, vessels, and how thin structures get onto the film.

A rib, a vessel or a wire is a set of points with a mass each, deposited on the film so that mass is kept whatever the
pixel. Conventions as in `chest_anatomy`: `frame` is the film, `person` the patient's `Physique`, `rng` a generator;
`speckle` is one of the `textures`. `rods` run from (x, y) along (dx, dy), with a radius and a spacing in cm.
"""

import functools
import math
from typing import NamedTuple

import numpy as np

from fairrecon_lab.simulate.chest_anatomy import APEX, BASE, FIELD_OF_VIEW, HALF_WIDTH, Frame, Physique, chord, step

N_RIBS = 10  # pairs


class Points(NamedTuple):
    """Material at points: patient coordinates (cm) and mass, thickness times area (cm3); equal shapes."""

    x: np.ndarray
    y: np.ndarray
    mass: np.ndarray


def splat(x: np.ndarray, y: np.ndarray, mass: np.ndarray, size: int) -> np.ndarray:
    """Deposit masses on the film, shared bilinearly among the four nearest pixels.

    Parameters
    ----------
    x, y : ndarray, shape (n,)
        Film coordinates, cm.
    mass : ndarray, shape (n,)
        Thickness times area (cm3), or that times an attenuation.

    Returns
    -------
    thickness : ndarray, float32, shape (size, size)
        Mean thickness per pixel; its sum times the pixel area is the mass that falls on the film.
    """
    # A margin of one pixel catches what the border shares with the outside; beyond it points are dropped.
    side, flat = size + 2, np.zeros((size + 2) ** 2, np.float32)
    for start in range(0, len(mass), 8192):  # short pieces stay in the processor's cache
        part = slice(start, start + 8192)
        column = (x[part] * (size / FIELD_OF_VIEW) + (size + 1) / 2).astype(np.float32, copy=False)
        row = (y[part] * (size / FIELD_OF_VIEW) + (size + 1) / 2).astype(np.float32, copy=False)
        inside = (column >= 0) & (column < side - 1) & (row >= 0) & (row < side - 1)
        column, row, weight = column[inside], row[inside], mass[part][inside]
        j, i = np.floor(column), np.floor(row)
        first = i.astype(np.int64) * side + j.astype(np.int64)
        right, lower = column - j, weight * (row - i)
        upper = weight - lower
        np.add.at(flat, first, upper - upper * right)
        np.add.at(flat, first + 1, upper * right)
        np.add.at(flat, first + side, lower - lower * right)
        np.add.at(flat, first + side + 1, lower * right)
    return flat.reshape(side, side)[1:-1, 1:-1] * np.float32((size / FIELD_OF_VIEW) ** 2)


def solid(offset):
    """Thickness of a rod across its diameter, per radius."""
    return 2 * chord(offset * offset)


def shell(offset, wall: float = 0.26, marrow: float = 0.2):
    """Mineral thickness of a tubular bone across its diameter: a dense wall around a porous inside."""
    inner = np.sqrt(np.clip((1 - wall) ** 2 - offset * offset, 0, None))
    return 2 * (chord(offset * offset) - (1 - marrow) * inner)


def tube(x, y, radius, profile, pixel: float, stretch=1.0) -> Points:
    """Samples of bent tubes.

    Parameters
    ----------
    x, y, radius : ndarray, shape (..., n)
        Axis and radius along each tube, cm.
    profile : callable
        Thickness per radius at an offset in (-1, 1) across the tube.
    pixel : float
        Spacing of the samples across, cm.
    stretch : ndarray or float, shape (..., n)
        Path length along the beam relative to the projection (a rib's margin runs along the beam).
    """
    dx, dy = np.gradient(x, axis=-1), np.gradient(y, axis=-1)
    length = np.sqrt(dx * dx + dy * dy) + np.float32(1e-6)
    n_across = max(3, math.ceil(1.5 * float(np.max(radius)) / pixel) | 1)
    offset = ((np.arange(n_across) + 0.5) / n_across * 2 - 1).astype(np.float32)
    weight = profile(offset) * np.float32(2 / n_across)
    mass = (radius * radius * length * stretch)[..., None] * weight
    across = radius[..., None] * offset
    return Points(
        x[..., None] - (dy / length)[..., None] * across, y[..., None] + (dx / length)[..., None] * across, mass
    )


# ---------------------------------------------------------------- bones and vessels


class Ribs(NamedTuple):
    """Axes of the ribs, shape (10, 2 sides, n): position, radius and stretch along the beam; `angle` is (10, n)."""

    x: np.ndarray
    y: np.ndarray
    radius: np.ndarray
    stretch: np.ndarray
    angle: np.ndarray


def rib_axes(person: Physique, rng: np.random.Generator, pixel: float) -> Ribs:
    """Ten pairs of arcs from the spine (angle 0) round the chest wall to the front, each a little irregular.

    Parameters
    ----------
    person : Physique
    rng : Generator
    pixel : float
        In cm.
    """
    jitter = rng.standard_normal((5, N_RIBS, 2, 1)).astype(np.float32)
    smooth = np.cumsum(0.12 * rng.standard_normal((N_RIBS, 1, 1)), axis=0).astype(np.float32)
    n, pair = math.ceil(32 / pixel), np.arange(N_RIBS, dtype=np.float32)
    end = np.radians(np.where(pair < 7, 152 - 2.2 * pair, 124 - 6 * (pair - 7)))[:, None]
    angle = (0.02 + (end - 0.02) * np.linspace(0, 1, n)).astype(np.float32)  # (10, n)
    top = (-13.0 + 2.33 * pair)[:, None, None] + smooth + 0.16 * jitter[0]  # (10, 2, 1)
    sag = 0.9 * person.kyphosis + 0.35 * person.inspiration
    drop = (5.2 + 0.75 * np.minimum(pair, 6))[:, None, None] * (1 + 0.042 * sag)
    drop = drop + 0.35 * sag * (0.3 + 0.07 * pair)[:, None, None] + 0.30 * jitter[1]
    level = np.clip((BASE - top - 0.5 * drop) / (BASE - APEX), 0, 1)
    reach = HALF_WIDTH * (1 + 0.01 * person.inspiration) * np.sqrt(np.maximum(1 - level**2.5, 0.05))
    reach = reach * (1 - 0.012 * np.clip(top + 0.5 * drop - BASE, 0, None)) + 0.45
    theta = angle[:, None, :]  # (10, 1, n)
    side = np.array([-1, 1], np.float32)[None, :, None]
    x = side * (2.0 + (reach - 2.0) * np.sin(theta) ** np.float32(0.92)) + 0.3 * person.rotation
    bend = 0.33 * np.sin(2 * theta) - (0.10 + 0.10 * jitter[2]) * np.sin(3 * theta + jitter[3])
    y = top + drop * (1 - np.cos(theta)) / 2 - bend
    radius = np.where(pair > 0, np.float32(0.64), np.float32(0.8))[:, None, None] * np.exp(0.07 * jitter[4])
    radius = radius * (1 + 0.08 * np.cos(theta))
    along = np.hypot(np.gradient(x, axis=-1), np.gradient(y, axis=-1))
    depth = 7.5 * np.gradient(-np.cos(theta), axis=-1)
    stretch = np.clip(np.sqrt(along**2 + depth**2) / (along + 1e-3), 1, 2.4) * (0.82 + 0.18 * np.cos(theta))
    return Ribs(*(np.asarray(v, np.float32) for v in (x, y, radius, stretch, angle)))


@functools.lru_cache(maxsize=64)
def _spline(n_knots: int, n: int) -> np.ndarray:
    """Weights (n, n_knots) of a Catmull-Rom spline whose ends go on straight."""
    extend = np.eye(n_knots)
    extend = np.concatenate([2 * extend[:1] - extend[1:2], extend, 2 * extend[-1:] - extend[-2:-1]])
    t = np.linspace(0, n_knots - 1, n)
    k = np.minimum(t.astype(int), n_knots - 2)
    u = (t - k)[:, None]
    a, b, c, d = (extend[k + i] for i in range(4))
    weights = 0.5 * (2 * b + (c - a) * u + (2 * a - 5 * b + 4 * c - d) * u**2 + (3 * b - a - 3 * c + d) * u**3)
    return weights.astype(np.float32)


def curve(knots, n: int) -> np.ndarray:
    """Smooth curve through knots: (..., k, 2) -> (..., n, 2)."""
    knots = np.asarray(knots, np.float32)
    return _spline(knots.shape[-2], n) @ knots


def shoulder_girdle(person: Physique, pixel: float) -> list[Points]:
    """Clavicles and the borders of the scapulae, both sides in one.

    Parameters
    ----------
    person : Physique
    pixel : float
        In cm.
    """
    over, uneven, turn = person.scapula, 0.35 * person.asymmetry[12], 0.5 * person.rotation
    knots = np.array(
        [
            (1.6, -9.7 - 0.25 * over),
            (4.5, -10.7 - 0.2 * over),
            (8.5, -11.3 - 0.3 * over),
            (12.0, -12.4 - 0.2 * over),
            (15.5, -12.8),
        ],
        np.float32,
    )
    both = np.stack([knots * np.float32([side, 1]) for side in (-1, 1)])
    both[:, 0, 0] += turn
    both[:, 1:, 1] += np.float32([[-uneven], [uneven]]) * np.float32([1, 1, 1.5, 1.5])
    clavicle = curve(both, math.ceil(22 / pixel))
    along = np.linspace(0, 1, clavicle.shape[1], dtype=np.float32)
    thick = np.broadcast_to(0.55 + 0.28 * (2 * along - 0.9) ** 2, clavicle.shape[:2])
    x = 14.4 - over
    border = [(x + 1.2, -11.2), (x, -7), (x + 0.3, -2.5), (x + 1.6, 1.0), (x + 3.0, -2.0), (x + 4.0, -8.5)]
    both = np.stack([np.float32(border) * np.float32([side, 1]) for side in (-1, 1)])
    both[:, :, 0] -= 0.3 * uneven
    scapula = curve(both, math.ceil(34 / pixel))
    thin = np.full(scapula.shape[:2], 0.4, np.float32)
    return [
        tube(clavicle[..., 0], clavicle[..., 1], thick, lambda s: 1.05 * shell(s), pixel),
        tube(scapula[..., 0], scapula[..., 1], thin, lambda s: 0.55 * solid(s), pixel),
    ]


def blade_and_humerus(frame: Frame, person: Physique) -> np.ndarray:
    """Mineral thickness (cm) of the scapular blades and the heads of the humeri."""
    x, y = np.abs(frame.x), frame.y
    out = np.zeros_like(x)
    rows = frame.box(-17, 17, -17, 2)[0]
    x, y = x[rows], y[rows]
    blade = 0.18 * step(8 * (1 - ((x - (16.4 - person.scapula)) / 2.1) ** 2 - ((y + 5.5) / 5.8) ** 2))
    distance = (x - 17.6) ** 2 + (y + 11.6) ** 2
    humerus = 2.2 * chord(distance / 6.2) - 1.5 * chord(distance / 4.8)
    out[rows] = blade + np.clip(humerus, 0, None)
    return out


def spine(frame: Frame, person: Physique) -> np.ndarray:
    """Mineral thickness (cm) of vertebral bodies, end plates, pedicles and processes.

    Parameters
    ----------
    frame : Frame
        The film: coordinates in cm and the pixel.
    person : Physique
    """
    z, out = person.asymmetry, np.zeros_like(frame.x)
    box = frame.box(-4, 4, -19, 19)
    y = frame.y[box] + 0.05 * frame.x[box] * z[13]
    x = frame.x[box] - 0.25 * person.rotation - 0.05 * z[14] * y - 0.3 * z[15] * np.sin(0.17 * y)
    phase = ((y + 13.2) / 2.28) % np.float32(1.0)
    across = np.abs(x) / 1.65
    hump = lambda value, centre, width: np.exp(-(((value - centre) / width) ** 2))
    centrum = chord(across**4)
    disc = step((phase - 0.86) / 0.03) + step((0.06 - phase) / 0.03)
    plates = hump(phase, 0.10, 0.06) + hump(phase, 0.80, 0.06)
    bone = centrum * (0.26 - 0.20 * disc + 0.10 * plates)
    bone = bone + 0.28 * hump(across, 0.68, 0.16) * hump(phase, 0.35, 0.17) * centrum
    bone = bone + 0.20 * hump(across, 0, 0.14) * hump(phase, 0.62, 0.16)
    bone = bone + 0.10 * hump(across, 1, 0.08) * (1 - disc)
    out[box] = bone + 0.25 * hump(across, 1.4, 0.55) * hump(phase, 0.30, 0.16)
    return out


def calcification(frame: Frame, person: Physique, speckle: np.ndarray) -> np.ndarray:
    """Mineral (cm) in the wall of the aortic knob and in the rib cartilages of older patients."""
    out = np.zeros_like(frame.x)
    if person.calcium <= 0:
        return out
    ao = person.unfolding
    box = frame.box(-7, 7, -10, 10)
    x, y = frame.x[box], frame.y[box]
    kx, ky = x - (2.0 + 0.45 * ao + person.rotation), y + 6.9 + 0.3 * ao
    radius = np.hypot(kx / (1.5 + 0.22 * ao), ky / (1.8 + 0.2 * ao))
    wall = np.exp(-(((radius - 0.93) / 0.07) ** 2)) * step((kx - 0.2) / 0.2)
    strip = np.exp(-(((np.abs(x) - 5 - 0.25 * (y - 2)) / 1.3) ** 2)) * step((y + 2) / 1.5) * step((8 - y) / 1.5)
    out[box] = person.calcium * (0.16 * wall + 0.13 * strip * np.clip(speckle[box] - 0.7, 0, None))
    return out


def vessel_tree(person: Physique, rng: np.random.Generator, pixel: float, swelling: float = 0.0) -> Points:
    """Pulmonary vessels: eight roots at each hilum, branching four times.

    Parameters
    ----------
    person : Physique
    rng : Generator
    pixel : float
        In cm.
    swelling : float
        Relative widening, 0 when healthy.
    """
    n_roots, sides = 8, np.array([[-1.0], [1.0]], np.float32)
    normal = lambda *shape: rng.standard_normal(shape, dtype=np.float32)
    angle = np.linspace(-1.45, 1.5, n_roots, dtype=np.float32) + 0.18 * normal(2, n_roots)
    x = np.array([[-3.3], [3.5]], np.float32) + person.rotation + 0.75 * normal(2, n_roots)
    y = np.array([[-0.8], [-1.6]], np.float32) + 0.75 * normal(2, n_roots)
    radius = (0.50 + 0.06 * normal(2, n_roots)) * (0.95 + 0.35 * step(1.5 * angle))
    length = 2.7 * (1 + 0.25 * normal(2, n_roots))
    out = []
    for generation in range(5):
        n = max(5, math.ceil(1.7 * 2.7 * 0.8**generation / pixel))
        t = ((np.arange(n) + 0.5) / n).astype(np.float32)
        dx, dy = sides * np.cos(angle), np.sin(angle)
        bend = 0.22 * normal(*angle.shape) * length
        px = x[..., None] + (dx * length)[..., None] * t - (dy * bend)[..., None] * t * t
        py = y[..., None] + (dy * length)[..., None] * t + (dx * bend)[..., None] * t * t
        out.append(
            rods(px, py, dx, dy, radius[..., None] * (1 - 0.22 * t) * (1 + swelling), (length / n)[..., None], pixel)
        )
        x, y = x + dx * length - dy * bend, y + dy * length + dx * bend
        spread = 0.42 + 0.12 * normal(*angle.shape)
        angle = np.concatenate([angle + spread, angle - 0.9 * spread], axis=1)
        x, y = np.tile(x, 2), np.tile(y, 2)
        radius = np.tile(radius, 2) * 0.78
        length = np.tile(length, 2) * 0.8 * (1 + 0.15 * normal(*angle.shape))
    return Points(*(np.concatenate([getattr(p, name) for p in out]) for name in Points._fields))


def rods(x, y, dx, dy, radius, spacing, pixel: float) -> Points:
    """Three-strand samples of thin round vessels, flattened to one axis."""
    n_across = 3 if float(radius.max()) < 1.2 * pixel else 5
    offset = ((np.arange(n_across) + 0.5) / n_across * 2 - 1).astype(np.float32)
    weight = 2 * chord(offset * offset) * np.float32(2 / n_across)
    across = radius[..., None] * offset
    mass = (radius * radius * spacing)[..., None] * weight
    return Points(
        (x[..., None] - dy[..., None, None] * across).ravel(),
        (y[..., None] + dx[..., None, None] * across).ravel(),
        mass.ravel(),
    )
