"""Whether a figure can be read: text on text, text that is too small or cut off, legends on top of data.

Conventions: everything is asked of what is *drawn*, line by line, by a renderer that keeps what it is told to draw; a
text that exists and is hidden does not count. `width_px` is the widest that a page shows a picture, in CSS pixels (96
to an inch); a narrower figure is shown as it is, at 100 pixels per inch, as Jupyter does.
"""

import math
from typing import NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

JUPYTER_DPI = 100  # pixels per inch of a figure in a notebook
TOUCH = 1.0  # pixels that two boxes may share: rounding, and the air above letters


class Drawn(NamedTuple):
    """One line of text as it was drawn: its words, its box in pixels, and its size in points on the page."""

    words: str
    box: Bbox
    points: float


class _Listening(RendererAgg):
    """Draws as usual, and keeps each line of text."""

    def __init__(self, width: float, height: float, dpi: float):
        super().__init__(width, height, dpi)
        self.heard: list[tuple] = []

    def draw_text(self, gc, x, y, s, prop, angle, ismath=False, mtext=None):
        width, height, descent = self.get_text_width_height_descent(s, prop, ismath)
        turn = math.radians(angle)
        right, up = np.array([math.cos(turn), math.sin(turn)]), np.array([-math.sin(turn), math.cos(turn)])
        start = np.array([x, self.height - y]) - descent * up
        corners = [start + a * width * right + b * height * up for a in (0, 1) for b in (0, 1)]
        if s.strip():
            self.heard.append((s, Bbox([np.min(corners, axis=0), np.max(corners, axis=0)]), prop.get_size_in_points()))
        super().draw_text(gc, x, y, s, prop, angle, ismath, mtext)


def _shown_width(figure: Figure, width_px: float) -> float:
    """CSS pixels that the figure takes on a page."""
    return min(width_px, JUPYTER_DPI * figure.get_figwidth())


def drawn_text(figure: Figure, width_px: float = 1000) -> list[Drawn]:
    """Every line of text of a figure as a page of `width_px` CSS pixels shows it."""
    before, width = figure.dpi, _shown_width(figure, width_px)
    figure.set_dpi(width / figure.get_figwidth())
    try:
        renderer = _Listening(*figure.bbox.size, figure.dpi)
        figure.draw(renderer)
    finally:
        figure.set_dpi(before)
    scale = width / figure.get_figwidth() / 96
    return [Drawn(words, box, size * scale) for words, box, size in renderer.heard]


def overlapping_text(figure: Figure, width_px: float = 1000) -> list[tuple[str, str]]:
    """Pairs of lines of text of which one lies on the other, on a page of `width_px` CSS pixels."""
    return _overlapping(drawn_text(figure, width_px))


def _overlapping(lines: list[Drawn]) -> list[tuple[str, str]]:
    pairs = [(a, b) for i, a in enumerate(lines) for b in lines[i + 1 :] if _share(a.box, b.box)]
    return [(a.words, b.words) for a, b in pairs]


def _share(a: Bbox, b: Bbox) -> bool:
    """Whether two boxes have more in common than touching edges; one that is nowhere, as a bar of NaN, has nothing."""
    if not np.isfinite([a.extents, b.extents]).all():
        return False
    wide, tall = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
    return wide > TOUCH and tall > TOUCH


def small_text(figure: Figure, width_px: float = 1000, least: float = 7.0) -> list[str]:
    """Lines of text below `least` points (1/72 inch, 96 CSS pixels an inch) on a page of `width_px` CSS pixels."""
    return _small(drawn_text(figure, width_px), least)


def _small(lines: list[Drawn], least: float = 7.0) -> list[str]:
    return [f"{one.words!r}: {one.points:.1f} pt" for one in lines if one.points < least - 0.01]


def cut_text(figure: Figure, width_px: float = 1000) -> list[str]:
    """Lines of text that leave the figure on a page of `width_px` CSS pixels."""
    return _cut(drawn_text(figure, width_px), figure, width_px)


def _cut(lines: list[Drawn], figure: Figure, width_px: float) -> list[str]:
    width, height = np.array(figure.get_size_inches()) * _shown_width(figure, width_px) / figure.get_figwidth()
    inside = lambda box: box.x0 > -2 and box.y0 > -2 and box.x1 < width + 2 and box.y1 < height + 2
    return [one.words for one in lines if not inside(one.box)]


def hidden_data(figure: Figure) -> list[str]:
    """Legends of a figure, by their first line, that lie on a bar or a point of any axes."""
    figure.draw_without_rendering()
    boxes = [(legend, legend.get_window_extent()) for ax in figure.axes if (legend := ax.get_legend())]
    boxes += [(legend, legend.get_window_extent()) for legend in figure.legends]
    found = []
    for legend, box in boxes:
        for ax in figure.axes:
            points = [line.get_transform().transform(line.get_xydata()) for line in ax.lines if len(line.get_xydata())]
            hit = any(box.contains(*one) for part in points for one in part)
            if hit or any(_share(box, bar.get_window_extent()) for bar in ax.patches):
                found.append(legend.get_texts()[0].get_text())
                break
    return found


def flaws(figure: Figure, width_px: float = 1000) -> list[str]:
    """All that makes a figure hard to read on a page of `width_px` CSS pixels, in words; empty if nothing does."""
    lines = drawn_text(figure, width_px)  # drawn once for all three
    found = [f"{a!r} lies on {b!r}" for a, b in _overlapping(lines)]
    found += [f"small: {text}" for text in _small(lines)]
    found += [f"cut off: {text!r}" for text in _cut(lines, figure, width_px)]
    return found + [f"the legend from {text!r} hides data" for text in hidden_data(figure)]
