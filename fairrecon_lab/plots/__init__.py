"""Figures: one look for every notebook.

Conventions: a function returns a `matplotlib.figure.Figure` made without pyplot, so that nothing leaks when a slider
redraws it; a notebook cell ends with the figure. One colour and one marker belong to each arm, the same in every
notebook, told apart with any colour vision and in grey print. Subgroups are told apart by position, never by those
colours, and verdicts by shape. Every estimate comes with its 95 % interval and its n. Noise grows to the right.
"""

from fairrecon_lab.plots.curves import (
    by_arm,
    distributions,
    error_bars,
    forest,
    heat_table,
    level_axis,
    noise_curves,
    training_curves,
)
from fairrecon_lab.plots.look import (
    AXIS,
    BAND,
    GREY,
    OUTLINE,
    RACE_LABELS,
    VERDICT_COLOURS,
    VERDICT_MARKERS,
    arm_style,
    canvas,
    colour_of,
    origin,
)
from fairrecon_lab.plots.pictures import (
    WIDEST,
    draw_difference,
    draw_heat,
    draw_image,
    error_row,
    image_row,
    pipe_figure,
    unet_figure,
)

__all__ = [
    "AXIS",
    "BAND",
    "GREY",
    "OUTLINE",
    "RACE_LABELS",
    "VERDICT_COLOURS",
    "VERDICT_MARKERS",
    "WIDEST",
    "arm_style",
    "by_arm",
    "canvas",
    "colour_of",
    "distributions",
    "draw_difference",
    "draw_heat",
    "draw_image",
    "error_bars",
    "error_row",
    "forest",
    "heat_table",
    "image_row",
    "level_axis",
    "noise_curves",
    "origin",
    "pipe_figure",
    "training_curves",
    "unet_figure",
]
