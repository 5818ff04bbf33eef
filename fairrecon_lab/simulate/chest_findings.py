"""Findings of the simulated chest: how each one changes the healthy anatomy, as a continuous function of severity.

Each finding draws its place and shape from its own random stream, so adding one never moves another.
A severity of 0 is the healthy patient: all appearances vanish continuously.
Conventions as in `chest_anatomy`. A finding changes the thickness maps `layers` in place; `site` is what it needs to
know of the patient, `severity` is 0 or more, `rng` its random stream; `z` and `line` place a pacemaker's leads.
"""

import math
from dataclasses import dataclass, field

import numpy as np

from fairrecon_lab.simulate.chest_anatomy import HALF_WIDTH, Frame, Physique, chord, step
from fairrecon_lab.simulate.chest_bones import Points, Ribs, curve, shell, solid, tube


@dataclass
class Layers:
    """What findings put into the chest; maps are float32 (H, W) and start at 0.

    `filled` is the share of each airspace filled with fluid, `fluid` that of the depth taken by pleural fluid,
    `free_air` that taken by air outside the lung, `soft` soft tissue and `bone` mineral added, in cm.
    `devices` are (points, attenuation per cm).
    """

    filled: np.ndarray
    fluid: np.ndarray
    free_air: np.ndarray
    soft: np.ndarray
    bone: np.ndarray
    devices: list[tuple[Points, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Site:
    """Where findings are placed: the frame, the patient, and maps of the healthy thorax (all float32 (H, W)).

    `half_width` of the cavity at each level (cm), `dome` level of the diaphragm (cm), `lung` 1 inside the aerated lung,
    `waves` (8, H, W) random fields as of `chest_anatomy.textures`.
    """

    frame: Frame
    person: Physique
    supine: bool
    half_width: np.ndarray
    dome: np.ndarray
    lung: np.ndarray
    waves: np.ndarray


def side_of(rng: np.random.Generator, right: float = 0.5) -> int:
    """-1 for the patient's right (left in the image) with the given probability, else +1."""
    return -1 if rng.uniform() < right else 1


def blob(site: Site, cx, cy, a, b, angle, softness, ragged):
    """Box and weight (0 to 1) of an ellipse with a soft, ragged border."""
    reach = max(a, b) * (1.35 + 2 * ragged) + 3 * softness
    box = site.frame.box(cx - reach, cx + reach, cy - reach, cy + reach)
    c, s = math.cos(angle), math.sin(angle)
    dx, dy = site.frame.x[box] - cx, site.frame.y[box] - cy
    radius = np.sqrt(((c * dx + s * dy) / a) ** 2 + ((c * dy - s * dx) / b) ** 2)
    waves = site.waves[0][box] + 0.6 * site.waves[2][box]
    weight = step((1 - radius + ragged * waves) / softness)
    return box, weight * np.clip((1.35 + 2 * ragged - radius) / 0.2, 0, 1)


def saturating(severity: float, ceiling: float, rate: float) -> float:
    """Grows from 0 as `ceiling * rate * severity` and levels off at `ceiling`."""
    return ceiling * -math.expm1(-rate * severity)


# ---------------------------------------------------------------- lungs


def consolidation(layers: Layers, site: Site, severity: float, rng: np.random.Generator) -> None:
    """A dense lobar opacity with a soft border on one side."""
    side, cy, cx = side_of(rng, 0.55), -5 + 11 * rng.uniform(), 5.0 + 3.5 * rng.uniform()
    shape, angle = 0.2 * rng.standard_normal(), rng.standard_normal()
    grow = math.sqrt(0.5 + 0.5 * severity)
    box, weight = blob(site, side * cx, cy, 3.8 * grow * math.exp(shape), 3.0 * grow, angle, 0.22, 0.22)
    mottle = 0.78 + 0.2 * np.tanh(site.waves[4][box])
    np.maximum(layers.filled[box], saturating(severity, 0.88, 0.85) * weight * mottle, out=layers.filled[box])


def pneumonia(layers: Layers, site: Site, severity: float, rng: np.random.Generator) -> None:
    """One to four faint patches with strong mottle, mostly on one side."""
    n_patches, first = 1 + int(4 * rng.uniform()), side_of(rng, 0.55)
    for patch in range(4):
        u, angle = rng.uniform(size=5).tolist(), rng.standard_normal()
        side = first if u[4] < 0.75 else -first
        if patch >= n_patches:
            continue
        box, weight = blob(
            site, side * (4.2 + 5 * u[0]), -6 + 13 * u[1], 2.3 + 1.4 * u[2], 1.9 + 1.2 * u[3], angle, 0.35, 0.3
        )
        mottle = 0.65 + 0.5 * np.tanh(0.9 * site.waves[3][box] + 0.9 * site.waves[5][box])
        np.maximum(
            layers.filled[box],
            saturating(severity, 0.72, 0.78) * weight * np.clip(mottle, 0, 1),
            out=layers.filled[box],
        )


def edema(layers: Layers, site: Site, severity: float, rng: np.random.Generator) -> None:
    """Haze around both hila, more on one side, with the mottle of fluid in the interstitium; vessels swell too."""
    lean = 0.12 * rng.standard_normal()
    x, y = site.frame.x, site.frame.y
    bat = np.exp(-(((np.abs(x) - 5.0) / 4.6) ** 2) - ((y - 0.8) / 6.8) ** 2) * (1 + lean * np.sign(x))
    mottle = np.clip(0.8 + 0.35 * np.tanh(site.waves[3] + 0.5 * site.waves[4]) + 0.12 * site.waves[1], 0, None)
    layers.filled += saturating(severity, 0.55, 0.42) * bat * mottle


def atelectasis(layers: Layers, site: Site, severity: float, rng: np.random.Generator) -> None:
    """A basal plate of collapsed lung under some haze; `raised_diaphragm` gives the loss of volume."""
    side = side_of(rng)
    tilt, cy, cx, thick = side * -0.25 + 0.2 * rng.standard_normal(), *rng.standard_normal(3).tolist()
    frame, person = site.frame, site.person
    box = frame.box(min(0, side * 14), max(0, side * 14), -2, 16)
    x, y = frame.x[box], frame.y[box]
    dx, dy = x - side * (7 + 1.2 * cx), y - (5.0 + 0.6 * cy + 0.6 * person.inspiration)
    along, across = math.cos(tilt) * dx + math.sin(tilt) * dy, math.cos(tilt) * dy - math.sin(tilt) * dx
    across = across - 0.03 * along * along + 0.15 * site.waves[2][box]
    width = (0.26 + 0.16 * severity) * math.exp(0.2 * thick)
    plate = np.exp(-((across / width) ** 2)) * step((2.4 + 0.8 * severity - np.abs(along)) / 0.5)
    base = step((y - (site.dome[box] - 1.6 - 0.7 * severity)) / 0.9) * (0.6 + 0.4 * np.tanh(site.waves[3][box]))
    own_side = x * side > 0
    layers.filled[box] += own_side * (saturating(severity, 0.6, 0.9) * plate + saturating(severity, 0.45, 0.5) * base)


def raised_diaphragm(frame: Frame, severity: float, rng: np.random.Generator) -> np.ndarray:
    """How far (cm) atelectasis lifts the diaphragm on its side; a copy of its stream gives the same side."""
    own_side = frame.x * side_of(rng) > 0
    return np.float32(0.5 * min(severity, 4.0)) * own_side


def lung_lesion(layers: Layers, site: Site, severity: float, rng: np.random.Generator) -> None:
    """One to three round nodules; each is a ball of soft tissue with a slightly lobed border."""
    n_nodules = 1 if rng.uniform() < 0.7 else 3
    for nodule in range(3):
        side, u = side_of(rng, 0.55), rng.uniform(size=3).tolist()
        if nodule >= n_nodules:
            continue
        radius = 1.5 * math.sqrt(severity) * (0.8 + 0.4 * u[0])
        cx, cy = side * (4.6 + 5.4 * u[1]), -9 + 15 * u[2]
        box = site.frame.box(cx - 1.6 * radius, cx + 1.6 * radius, cy - 1.6 * radius, cy + 1.6 * radius)
        distance = (site.frame.x[box] - cx) ** 2 + (site.frame.y[box] - cy) ** 2
        lobes = np.clip(1 + 0.12 * site.waves[2][box], 0.7, 1.5)
        ball = 2 * radius * chord(distance / (radius * lobes) ** 2) * site.lung[box]
        np.maximum(layers.soft[box], 1.25 * ball, out=layers.soft[box])


# ---------------------------------------------------------------- pleura


def pneumothorax(layers: Layers, site: Site, severity: float, rng: np.random.Generator) -> None:
    """Air outside the lung: a rim that widens towards the apex, without vessels, inside a thin pleural line.

    Of supine patients 40 % have no rim: their air lies in front and only darkens the base of one side.
    """
    side, in_front, tail = side_of(rng, 0.55), rng.uniform() < 0.4, rng.uniform()
    x, y = site.frame.x, site.frame.y
    own_side = (x * side > 0) * site.lung
    if site.supine and in_front:
        place = np.exp(-(((np.abs(x) - 8.5) / 4.0) ** 2) - ((y - (6.5 - 4 * tail)) / 4.5) ** 2)
        layers.free_air += saturating(severity, 0.95, 1.4) * place * own_side
        return
    rim = (3.6 * severity) * (0.45 + 0.2 * tail + (0.55 - 0.2 * tail) * step(-(y + 6) / 2.5))
    depth = np.abs(x) - (site.half_width - rim - 0.06 * rim * site.waves[0])  # cm outside the pleural line
    layers.free_air += step(depth / 0.10) * own_side * np.minimum(rim / 0.15, 1)
    layers.soft += 0.6 * min(severity / 0.4, 1) * np.exp(-((depth / 0.11) ** 2)) * own_side


def pleural_effusion(layers: Layers, site: Site, severity: float, rng: np.random.Generator) -> None:
    """Fluid that first blunts the angle beside the diaphragm, then rises with a meniscus; in half of supine
    patients it lies behind the lung and veils it instead.

    Parameters
    ----------
    layers : Layers
        Thickness maps, changed in place.
    site : Site
        What the finding needs to know of the patient.
    severity : float
        0 or more.
    rng : Generator
    """
    both, side, layered = rng.uniform() < 0.4, side_of(rng), rng.uniform() < 0.5
    lesser = 0.3 + 0.6 * rng.uniform()
    x, y = site.frame.x, site.frame.y
    base = 8.5 + 0.9 * site.person.inspiration
    for this, amount in ((side, severity), (-side, lesser * severity if both else 0.0)):
        if amount <= 0:
            continue
        own_side = x * this > 0
        if site.supine and layered:
            veil = saturating(amount, 0.8, 0.55) * step((y - (3.5 - 2.5 * amount)) / 2.2)
            layers.fluid += veil * own_side
            continue
        lateral = np.clip((np.abs(x) / HALF_WIDTH - 0.5) / 0.5, 0, 1.1)
        climb = 1.6 + 0.8 * amount
        level = base + 2.4 - 3.4 * amount - climb * lateral * lateral + 0.12 * site.waves[0]
        layers.fluid += 0.95 * step((y - level) / 0.35) * own_side * min(amount / 0.15, 1)


def pleural_other(layers: Layers, site: Site, severity: float, rng: np.random.Generator) -> None:
    """Thickened pleura along the chest wall of one side, sometimes with calcium, and a cap at the apex."""
    side, cy, length, calcified = side_of(rng), -8 + 13 * rng.uniform(), 3.0 + 2.5 * rng.uniform(), rng.uniform() < 0.4
    x, y = site.frame.x, site.frame.y
    depth = site.half_width - np.abs(x)
    thick = 0.95 * severity**0.7 * (1 + 0.2 * site.waves[2])
    along = np.exp(-(((y - cy) / length) ** 4))
    plaque = step((thick - depth) / 0.10) * along * (x * side > 0) * (depth > -0.2)
    layers.soft += (1.3 + 1.2 * min(severity, 3)) * plaque * min(severity / 0.3, 1)
    if calcified:
        layers.bone += 0.22 * min(severity, 2.5) * np.exp(-(((depth - thick) / 0.16) ** 2)) * along * (x * side > 0)


# ---------------------------------------------------------------- bones


def fracture(ribs: Ribs, layers: Layers, site: Site, severity: float, rng: np.random.Generator) -> Ribs:
    """Three to five neighbouring ribs broken along a line: a gap, a step between the ends, callus when healed.

    Blood beside the fractures, or the scar it leaves, lifts the pleura.

    Parameters
    ----------
    ribs : Ribs
    layers : Layers
        Thickness maps, changed in place.
    site : Site
        What the finding needs to know of the patient.
    severity : float
        0 or more.
    rng : Generator
    """
    n_broken, side, healed = 3 + int(2.99 * rng.uniform()), side_of(rng), rng.uniform() < 0.5
    first, place = 2 + int(4.99 * rng.uniform()), 0.5 + 0.95 * rng.uniform()
    jitter = 0.10 * rng.standard_normal(5)
    x, y, radius, stretch = (np.array(v) for v in ribs[:4])
    k = 0 if side < 0 else 1
    for j in range(n_broken):
        i, where = min(first + j, 9), place + 0.03 * j + float(jitter[j])
        offset = ribs.angle[i] - np.float32(where)
        past = step(offset / 0.012)
        displaced = saturating(severity, 1.9, 0.6)
        y[i, k] += displaced * past * np.exp(-np.clip(offset, 0, None) / 0.5)
        x[i, k] -= side * 0.35 * displaced * past * np.exp(-np.clip(offset, 0, None) / 0.4)
        gap = np.exp(-((offset / 0.04) ** 2))
        stretch[i, k] *= 1 - min(0.9 * severity, 0.9) * gap * (0.3 if healed else 1)
        if healed:
            callus = np.exp(-((offset / 0.12) ** 2))
            radius[i, k] += saturating(severity, 0.8, 0.6) * callus
        at = int(np.argmin(np.abs(offset)))
        cx, cy = float(x[i, k, at]) - 0.8 * side, float(y[i, k, at])
        box = site.frame.box(cx - 4.5, cx + 4.5, cy - 4.5, cy + 4.5)
        near = ((site.frame.x[box] - cx) / 1.7) ** 2 + ((site.frame.y[box] - cy) / 2.0) ** 2
        blood = saturating(severity, 5.0 if healed else 7.0, 0.5) * np.exp(-near) * site.lung[box]
        np.maximum(layers.soft[box], blood, out=layers.soft[box])
    pulled = np.hypot(np.gradient(x, axis=-1), np.gradient(y, axis=-1))  # a break adds no bone
    before = np.hypot(np.gradient(ribs.x, axis=-1), np.gradient(ribs.y, axis=-1))
    return Ribs(x, y, radius, stretch * np.minimum(before / (pulled + np.float32(1e-6)), 1), ribs.angle)


# ---------------------------------------------------------------- devices


def support_devices(layers: Layers, site: Site, severity: float, rng: np.random.Generator) -> None:
    """Central line, tubes, electrodes or a pacemaker; sicker patients carry more of them.

    Parameters
    ----------
    layers : Layers
        Thickness maps, changed in place.
    site : Site
        What the finding needs to know of the patient.
    severity : float
        0 or more.
    rng : Generator
    """
    which, z, u = rng.uniform(), rng.standard_normal(24).tolist(), rng.uniform(size=6).tolist()
    pixel = site.frame.pixel / site.frame.scale
    turn = 0.5 * site.person.rotation

    def line(knots, radius, attenuation, profile=solid):
        path = curve(knots, max(24, math.ceil(45 / pixel)))
        points = tube(path[:, 0], path[:, 1], np.full(len(path), radius, np.float32), profile, pixel)
        layers.devices.append((points, attenuation * saturating(severity, 1.0, 3.0)))

    if which < 0.60 or severity > 1.6:  # central venous line
        side = -1 if u[0] < 0.75 else 1
        start = [(side * (9 + 2 * u[1]), -12), (side * 5, -11.4 + 0.4 * z[0]), (side * 2.3, -9.5)]
        line([*start, (-1.9, -6 + z[1]), (-1.7 + 0.3 * z[2], -0.5 + 1.5 * z[3])], 0.13, 1.1)
    if severity > 1.0 and site.supine:  # endotracheal tube
        line([(turn + 0.1, -19), (turn, -12), (turn, -6.4 + z[4])], 0.38, 0.9, lambda s: shell(s, 0.28))
    if severity > 1.3 and site.supine:  # feeding tube
        line(
            [(0.4, -19), (0.5 + 0.3 * z[5], -8), (0.9, 2), (2.5, 9), (4.5 + z[6], 13 + z[7])],
            0.22,
            0.9,
            lambda s: shell(s, 0.4),
        )
    if which >= 0.45 or severity > 2:  # electrodes and their leads
        for j in range(3):
            ex, ey = -9 + 9 * j + 1.5 * z[8 + j], -4 + 4 * (j % 2) + 2.5 * z[11 + j]
            line([(ex - 5 + 2.5 * z[14 + j], -18), (ex - 2, -9 + z[17 + j]), (ex, ey)], 0.10, 2.0)
            line([(ex - 0.35, ey), (ex, ey + 0.02), (ex + 0.35, ey)], 0.40, 0.9)
    if which > 0.86:
        pacemaker(layers, site, severity, z, line)


def pacemaker(layers: Layers, site: Site, severity: float, z, line) -> None:
    """A can with battery and circuit of different density, a clear header, and two leads into the heart."""
    cx, cy, angle = 10.2 + 0.5 * z[20], -9.2 + 0.6 * z[21], 0.5 * z[22]
    box = site.frame.box(cx - 4, cx + 4, cy - 4, cy + 4)
    c, s = math.cos(angle), math.sin(angle)
    dx, dy = site.frame.x[box] - cx, site.frame.y[box] - cy
    u, v = (c * dx + s * dy) / 2.1, (c * dy - s * dx) / 1.8
    round_can = np.abs(u) ** 2.4 + np.abs(v) ** 2.4 + 0.35 * u * np.abs(u) * v
    can = step((1 - round_can) / 0.06)
    battery = step((0.05 - v + 0.2 * u) / 0.04)
    header = step((0.75 - np.abs(u)) / 0.08) * step((v + 1.45) / 0.08) * step((-0.85 - v) / 0.08)
    mineral = can * (0.9 + 1.1 * battery) + 0.35 * header
    layers.bone[box] += 1.4 * saturating(severity, 1.0, 3.0) * mineral
    for end in ((1.5, 3.5), (3.5 + z[23], 6.5)):
        line([(cx - 1.5, cy - 1.8), (cx - 5, cy - 1.6), (2, -9), (-1.3, -5), (-1.6, 1.0), end], 0.09, 4.0)
