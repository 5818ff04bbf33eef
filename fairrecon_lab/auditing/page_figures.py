"""Figures of the audit's page as inline SVG: strips of a forest plot, ROC and calibration curves.

Strips have no view box: their places are shares of the width, their marks keep their size on a phone, on a wide screen
and on paper. A verdict is a shape, a subgroup a dash and a mark; colour is never needed. Every figure has a text.
"""

import math
from html import escape
from typing import NamedTuple

import numpy as np

from fairrecon_core.audit.thresholds import roc_points

MARKS = {  # verdict -> path around (0, 0), filled or not
    "different": ("M0,-7L7,0L0,7L-7,0Z", True),
    "different_within_margin": ("M0,-7L7,0L0,7L-7,0Z", False),
    "equivalent": ("M-5,-5H5V5H-5Z", True),
    "undetermined": ("M-5,0A5,5 0 1 0 5,0A5,5 0 1 0 -5,0Z", False),
    "not_estimable": ("M-5,-5L5,5M5,-5L-5,5", False),
}
STROKES = (("#1a1a1a", ""), ("#b34700", "7 3"), ("#00664f", "2 3"), ("#6a3d9a", "10 3 2 3"), ("#5f5f5f", "5 5"),
           ("#005a92", "12 4"))  # fmt: skip
DOTS = ("M-3.5,0A3.5,3.5 0 1 0 3.5,0A3.5,3.5 0 1 0 -3.5,0Z", "M-3.5,-3.5H3.5V3.5H-3.5Z", "M0,-4.5L4.5,3.5H-4.5Z",
        "M0,-5L5,0L0,5L-5,0Z", "M-4,-4L4,4M4,-4L-4,4", "M0,-5V5M-5,0H5")  # fmt: skip
MOST_POINTS = 120  # of a curve
LEFT, TOP, SIDE = 40.0, 8.0, 208.0  # of a square plot, in units of about a pixel


class Curve(NamedTuple):
    """One subgroup's curve: x, y, and a point to be marked on it (None for marks on every point)."""

    name: str
    x: np.ndarray
    y: np.ndarray
    point: tuple[float, float] | None = None


def limit_of(values) -> float:
    """A round number that is at least the greatest of the sizes of finite `values`; half of the axis around 0."""
    sizes = np.abs(np.asarray(list(values), dtype=float))
    largest = float(sizes[np.isfinite(sizes)].max(initial=0))
    if largest == 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(largest))
    return next(step * power for step in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if step * power >= largest * (1 - 1e-9))


def _place(value: float, limit: float) -> float:
    """Where a value lies on the axis, in per cent of the width; 4 % are free at both ends."""
    return round(50 + 46 * min(max(value / limit, -1.08), 1.08), 2)


def axis(limit: float, digits: int, unit: str) -> str:
    """The scale above the strips, from -`limit` to `limit`, as SVG; hidden from readers of the texts."""
    shown = [-limit, -limit / 2, 0.0, limit / 2, limit]
    digits = max(digits - 1, 0) if all(abs(round(v, max(digits - 1, 0)) - v) < 1e-9 for v in shown) else digits
    marks = ""
    for v in shown:
        x, text = _place(v, limit), f"{v:+.{digits}f}".replace("-", "−") if v else "0"
        marks += f'<line x1="{x}%" x2="{x}%" y1="17" y2="22" class="ink"/>'
        marks += f'<text x="{x}%" y="13" text-anchor="middle">{text}</text>'
    return f'<svg class="strip" height="22" aria-hidden="true" data-unit="{escape(unit)}">{marks}</svg>'


def strip(value, low, high, band, margin, limit: float, verdict: str, text: str, possible=(np.nan, np.nan)) -> str:
    """One row of a forest plot.

    Parameters
    ----------
    value, low, high : float
        Estimate and interval.
    band : tuple of float
        Within which chance alone would leave the estimate in 95 of 100 samples; NaN without.
    margin : float
        Differences within +- margin do not matter; NaN without.
    limit : float
        Half of the axis.
    verdict : str
        Key of `MARKS`.
    text : str
        What the figure says, for those who do not see it.
    possible : tuple of float
        All that the estimate could be were everybody recorded, drawn as a bar; NaN without.

    Returns
    -------
    svg : str
    """
    at = lambda number: _place(number, limit)
    parts = []
    if np.isfinite(margin):
        left, right = at(-margin), at(margin)
        parts.append(f'<rect x="{left}%" width="{right - left:.2f}%" y="0" height="30" class="margin"/>')
    parts.append('<line x1="50%" x2="50%" y1="0" y2="30" class="zero"/>')
    if np.isfinite(band[0] + band[1]):
        left, right = at(band[0]), at(band[1])
        parts.append(f'<rect x="{left}%" width="{right - left:.2f}%" y="22" height="5" class="noise"/>')
    if np.isfinite(possible[0] + possible[1]):
        left, right = at(possible[0]), at(possible[1])
        parts.append(f'<rect x="{left}%" width="{right - left:.2f}%" y="7" height="8" class="possible"/>')
    if np.isfinite(low + high):
        parts.append(f'<line x1="{at(low)}%" x2="{at(high)}%" y1="11" y2="11" class="interval"/>')
        parts += [f'<line x1="{at(end)}%" x2="{at(end)}%" y1="7" y2="15" class="interval"/>' for end in (low, high)]
    if np.isfinite(value):
        path, filled = MARKS[verdict]
        parts.append(f'<svg x="{at(value)}%" y="11" overflow="visible"><path d="{path}" '
                     f'class="{"full" if filled else "hollow"}"/></svg>')  # fmt: skip
    return (f'<svg class="strip" height="30" role="img" aria-label="{escape(text)}"><title>{escape(text)}</title>'
            f"{''.join(parts)}</svg>")  # fmt: skip


def sign_of(verdict: str) -> str:
    """The shape of a `verdict`, small, beside its word."""
    path, filled = MARKS[verdict]
    return (f'<svg class="sign" width="16" height="16" viewBox="-8 -8 16 16" aria-hidden="true"><path d="{path}" '
            f'class="{"full" if filled else "hollow"}"/></svg>')  # fmt: skip


def key_of(number: int) -> str:
    """Dash and mark of the subgroup `number`, for the legend."""
    colour, dash = STROKES[number % len(STROKES)]
    return (f'<svg class="sign" width="34" height="12" viewBox="0 -6 34 12" aria-hidden="true">'
            f'<line x1="0" x2="34" y1="0" y2="0" stroke="{colour}" stroke-width="1.8" stroke-dasharray="{dash}"/>'
            f'<g transform="translate(17 0)"><path d="{DOTS[number % len(DOTS)]}" stroke="{colour}" fill="#fff" '
            'stroke-width="1.6"/></g></svg>')  # fmt: skip


def square(curves: list[Curve], across: str, up: str, text: str) -> str:
    """A square plot from 0 to 1 both ways with its diagonal.

    Parameters
    ----------
    curves : list of Curve
        In the order of the legend; an empty one keeps its place.
    across, up : str
        Names of the axes.
    text : str
        What the figure says, for those who do not see it.

    Returns
    -------
    svg : str
    """
    x_of = lambda x: np.round(LEFT + SIDE * np.asarray(x), 1)
    y_of = lambda y: np.round(TOP + SIDE * (1 - np.asarray(y)), 1)
    parts = [f'<rect x="{LEFT}" y="{TOP}" width="{SIDE}" height="{SIDE}" class="frame"/>',
             f'<line x1="{LEFT}" x2="{LEFT + SIDE}" y1="{TOP + SIDE}" y2="{TOP}" class="zero"/>']  # fmt: skip
    for tick in (0, 0.5, 1):
        parts.append(f'<text x="{x_of(tick)}" y="{TOP + SIDE + 15}" text-anchor="middle">{tick:g}</text>')
        parts.append(f'<text x="{LEFT - 5}" y="{y_of(tick) + 4}" text-anchor="end">{tick:g}</text>')
    middle = TOP + SIDE / 2
    parts.append(f'<text x="{LEFT + SIDE / 2}" y="{TOP + SIDE + 31}" text-anchor="middle">{escape(across)}</text>')
    parts.append(f'<text transform="translate(11 {middle}) rotate(-90)" text-anchor="middle">{escape(up)}</text>')
    for number, curve in enumerate(curves):
        colour, dash = STROKES[number % len(STROKES)]
        if not len(curve.x):
            continue
        line = " ".join(f"{x:g},{y:g}" for x, y in zip(x_of(curve.x), y_of(curve.y)))
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.8" '
                     f'stroke-dasharray="{dash}"/>')  # fmt: skip
        marked = zip(curve.x, curve.y) if curve.point is None else [curve.point]
        parts += [f'<g transform="translate({x_of(x):g} {y_of(y):g})"><path d="{DOTS[number % len(DOTS)]}" '
                  f'stroke="{colour}" fill="#fff" stroke-width="1.6"/></g>'
                  for x, y in marked if np.isfinite(x + y)]  # fmt: skip
    height = TOP + SIDE + 38
    return (f'<svg class="square" viewBox="0 0 260 {height:g}" role="img" aria-label="{escape(text)}">'
            f"<title>{escape(text)}</title>{''.join(parts)}</svg>")  # fmt: skip


def roc(score, truth) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rate at every threshold, thinned to `MOST_POINTS`; empty without both labels.

    Parameters
    ----------
    score : array, shape (n,)
    truth : array of 0 and 1, shape (n,)
    """
    _, y, x, _ = roc_points(score, truth)
    if len(x) > MOST_POINTS:  # evenly along the curve
        way = x + y
        kept = np.unique(np.searchsorted(way, np.linspace(0, way[-1], MOST_POINTS)).clip(0, len(x) - 1))
        x, y = x[kept], y[kept]
    return x, y


def calibration(score, truth, patient, min_support: int, most: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Mean score and share with the finding in bins of equally many images, each of `min_support` patients or more.

    Parameters
    ----------
    score : array, shape (n,), in [0, 1]
    truth : array of 0 and 1, shape (n,)
    patient : int array, shape (n,)
    min_support : int
    most : int
        Bins at most.

    Returns
    -------
    mean, share : arrays, of one length; empty with too few patients.
    """
    n_bins = min(most, len(np.unique(patient)) // max(min_support, 1))
    if n_bins < 2:
        return np.zeros(0), np.zeros(0)
    order = np.argsort(score, kind="stable")
    parts = [part for part in np.array_split(order, n_bins)
             if len(np.unique(patient[part])) >= min_support]  # fmt: skip
    return np.array([score[part].mean() for part in parts]), np.array([truth[part].mean() for part in parts])
