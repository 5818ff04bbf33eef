"""One look for every figure: colours, markers and line styles of arms and verdicts, and an empty figure.

Source of the colours: Okabe and Ito's palette, plus a dark wine for the diffusion model.
"""

import numpy as np
from matplotlib.figure import Figure

OWN = {  # arms that are not reconstructed; all others say on their class how they look
    "clean": ("#000000", "s", "-"),
    "placebo": ("#009E73", "v", "-"),
    "planted": ("#D55E00", "*", "-"),
}
GREY = "#595959"  # of notes, margins and what serves for comparison
BAND = "#DEDEDE"  # of what chance alone would give
OUTLINE = "#FFE119"  # of a mask on an image: no arm and no verdict has it
VERDICT_COLOURS = {  # of pages and tables, beside the word: none of them is the colour of an arm
    "changed": "#B2182B",
    "changed_within_margin": "#EF8A62",
    "equivalent": "#1B7837",
    "undetermined": "#8C8C8C",
    "not_estimable": "#C8C8C8",
}
VERDICT_MARKERS = {  # verdicts are told apart by shape: colours belong to arms
    "changed": "D",
    "changed_within_margin": "d",
    "equivalent": "s",
    "undetermined": "o",
    "not_estimable": "x",
}
AXIS = {"mri": "Acceleration R", "xray": "Photons per detector bin"}
RACE_LABELS = {
    "white": "White",
    "asian": "Asian",
    "black": "Black",
    "native_american": "AI/AN",
    "pacific_islander": "NH/PI",
    "other": "Other",
    "unknown": "unknown",
}


def canvas(width: float = 8.0, height: float = 3.0, rows: int = 1, columns: int = 1, **options):
    """A figure (inches) with its axes in one call, as `plt.subplots`, but without pyplot's global state.

    Returns
    -------
    figure : Figure
    axes : Axes, or array of Axes when there is more than one
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, **options)
    for ax in np.ravel(axes):
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=9)
    return figure, axes


def arm_style(arm: str) -> dict:
    """Colour, marker and line style of an arm, from its class; an unknown one looks like yours will.

    With data consistency an arm keeps its colour and has dashes and a marker of its own.
    """
    if arm in OWN:
        return dict(zip(("color", "marker", "linestyle"), OWN[arm]))
    from fairrecon_core.reconstruct import Reconstructor, arm_class, is_consistent  # only here: it loads torch

    try:
        kind = arm_class(arm)
    except ValueError:
        kind = Reconstructor
    marker, line = ("h", "--") if is_consistent(arm) else (kind.marker, kind.line)
    return {"color": kind.colour, "marker": marker, "linestyle": line}


def colour_of(arm: str) -> str:
    """Colour of an arm."""
    return arm_style(arm)["color"]


def origin(cohort) -> str:
    """What the note below a figure says of a `Cohort`: "simulated", or the name of the real one."""
    return "simulated" if "simulator_version" in cohort.info else f"real: {cohort.name}"
