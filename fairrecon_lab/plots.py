"""Figures: one look for every notebook.

Conventions: a function returns a `matplotlib.figure.Figure` made without pyplot, so that nothing leaks when a
slider redraws it; a notebook cell ends with the figure. One colour and one marker belong to each arm, the same in
every notebook, told apart with any colour vision and in grey print. Subgroups are told apart by position, never by
those colours. Every estimate comes with its 95 % interval and its n. Noise grows to the right.
Source of the colours: Okabe and Ito's palette, plus a dark wine for the diffusion model.
"""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from scipy.ndimage import zoom

COLOURS = {
    "clean": "#000000",
    "degraded": "#8C8C8C",
    "tv": "#8C8C8C",
    "nlm": "#8C8C8C",
    "unet": "#0072B2",
    "pix2pix": "#E69F00",
    "sde": "#882255",
    "placebo": "#009E73",
    "planted": "#D55E00",
    "yours": "#56B4E9",
}
MARKERS = {
    "clean": "s",
    "degraded": "x",
    "tv": "+",
    "nlm": "1",
    "unet": "o",
    "pix2pix": "^",
    "sde": "D",
    "placebo": "v",
    "planted": "*",
    "yours": "P",
}
LINES = {"tv": "--", "nlm": ":"}  # classical arms share the grey of "degraded"
VERDICT_COLOURS = {
    "changed": "#D55E00",
    "changed_within_margin": "#E69F00",
    "equivalent": "#0072B2",
    "undetermined": "#8C8C8C",
    "not_estimable": "#C8C8C8",
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


def image_row(
    images,
    titles=None,
    *,
    limits: tuple[float, float] | None = (0.0, 1.0),
    outlines=None,
    note: str = "simulated",
    height: float = 2.6,
) -> Figure:
    """Show images side by side on one grey scale.

    Parameters
    ----------
    images : sequence of arrays, each (H, W)
    titles : sequence of str, optional
    limits : (low, high) or None
        The grey scale of the whole row; None takes the row's own minimum and maximum.
    outlines : sequence of bool arrays or None, optional
        Masks drawn as a thin contour, one per image.
    note : str
        Written at the lower left: where the images come from. Empty for none.
    height : float
        Of the row with titles of one line, in inches; the figure grows with further lines.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If there is nothing to show, or titles and images differ in number.
    """
    images = [np.asarray(image) for image in images]
    titles = list(titles) if titles is not None else [""] * len(images)
    if not images or len(titles) != len(images):
        raise ValueError(f"need one title per image and at least one image, got {len(images)} and {len(titles)}")
    low, high = limits or (min(map(np.min, images)), max(map(np.max, images)))
    tall = height + 0.35 + _more_lines(titles)
    figure, axes = canvas(height * len(images) * 0.95, tall, 1, len(images), squeeze=False)
    for i, (ax, image, title) in enumerate(zip(axes[0], images, titles)):
        draw_image(ax, image, title, limits=(low, high), outline=None if outlines is None else outlines[i])
    if note:
        figure.supxlabel(note, x=0.01, ha="left", fontsize=8, color="#595959")
    return figure


def _more_lines(titles) -> float:
    """Inches that titles need beyond their first line."""
    return 0.17 * max(title.count("\n") for title in titles)  # 10 points, with their spacing


def draw_image(ax: Axes, image, title: str = "", *, limits=(0.0, 1.0), outline=None, cmap: str = "gray") -> None:
    """Draw one (H, W) image on `ax` with a fixed scale, and the contour of a mask if one is given."""
    ax.imshow(np.asarray(image), cmap=cmap, vmin=limits[0], vmax=limits[1], interpolation="nearest")
    if outline is not None and np.any(outline):
        ax.contour(np.asarray(outline, dtype=float), levels=[0.5], colors=["#E69F00"], linewidths=1.0)
    ax.set_title(title, fontsize=10)
    ax.set_anchor("N")  # the image hangs from its title, which the layout would otherwise push out at the top
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)


def draw_difference(ax: Axes, difference, title: str = "difference", limit: float | None = None) -> float:
    """Draw a signed difference centred on 0 and state its range in the title; returns the range used."""
    difference = np.asarray(difference)
    limit = float(limit if limit is not None else max(np.abs(difference).max(), 1e-6))
    draw_image(ax, difference, f"{title} (± {limit:.2g})", limits=(-limit, limit), cmap="RdBu_r")
    return limit


def origin(cohort) -> str:
    """What the note below a figure says of a `Cohort`: "simulated", or the name of the real one."""
    return "simulated" if "simulator_version" in cohort.info else f"real: {cohort.name}"


def error_row(truth, images, titles, *, note: str = "simulated", height: float = 2.5) -> Figure:
    """Two rows: images on one grey scale, and below each its signed error against `truth` on one shared range.

    Parameters
    ----------
    truth : array (H, W)
    images : sequence of arrays (H, W)
    titles : sequence of str
    note : str
        Where the images come from.
    height : float
        Of one row with titles of one line, in inches; the figure grows with further lines.
    """
    errors = [np.asarray(image) - np.asarray(truth) for image in images]
    limit = max(np.quantile(np.abs(error), 0.999) for error in errors)
    n = len(images) + 1
    figure, axes = canvas(height * n * 0.95, 2 * height + 0.5 + _more_lines(titles), 2, n, squeeze=False)
    draw_image(axes[0, 0], truth, "clean")
    axes[1, 0].axis("off")
    for column, (image, error, title) in enumerate(zip(images, errors, titles), start=1):
        draw_image(axes[0, column], image, title)
        draw_difference(axes[1, column], error, "error", limit)
    if note:
        figure.supxlabel(note, x=0.01, ha="left", fontsize=8, color="#595959")
    return figure


def arm_style(arm: str) -> dict:
    """Colour, marker and line style of an arm; an arm without its own gets the look of `yours`."""
    key = arm if arm in COLOURS else "yours"
    return {"color": COLOURS[key], "marker": MARKERS[key], "linestyle": LINES.get(key, "-")}


def error_bars(ax: Axes, x, value, low, high, arm: str, *, label: str | None = None, hollow=None) -> None:
    """Draw estimates of one arm with their intervals.

    Parameters
    ----------
    ax : Axes
    x, value, low, high : sequences of float, same length
        Position, estimate and the ends of its interval; NaN leaves a gap.
    arm : str
        Decides colour and marker.
    label : str, optional
        Legend text; the arm's name by default.
    hollow : sequence of bool, optional
        True where the support is weak (under 10 positives).
    """
    x, value, low, high = (np.asarray(part, dtype=float) for part in (x, value, low, high))
    style = arm_style(arm)
    bars = np.clip(np.stack([value - low, high - value]), 0, None)
    ax.errorbar(x, value, yerr=bars, label=label or arm, capsize=2, markersize=5, linewidth=1.3, **style)
    if hollow is not None and np.any(hollow):
        weak = np.asarray(hollow, dtype=bool)
        ax.plot(x[weak], value[weak], style["marker"], markersize=5, markerfacecolor="white", color=style["color"])


def level_axis(ax: Axes, modality: str, levels) -> None:
    """Label the x axis of a noise curve: R ascends, the photon count descends on a log scale."""
    levels = [level for level in levels if math.isfinite(level) and level > 1]
    if modality == "xray":
        ax.set_xscale("log")
        ax.invert_xaxis()
    ax.set_xticks(levels, [f"{level:,.0f}" for level in levels])
    ax.minorticks_off()
    ax.set_xlabel(AXIS[modality])


def forest(ax: Axes, labels, value, low, high, *, verdicts=None, bands=None, margin: float | None = None) -> None:
    """Draw signed effects as a forest plot with a zero line, noise bands and the equivalence margin.

    Parameters
    ----------
    ax : Axes
    labels : sequence of str
        One per effect, from top to bottom; state n here.
    value, low, high : sequences of float
        Estimate and interval; NaN draws nothing.
    verdicts : sequence of str, optional
        Colours the point: changed, equivalent, undetermined, ...
    bands : sequence of (low, high), optional
        What pure noise would give at these group sizes, drawn as a grey bar behind.
    margin : float, optional
        Dotted lines at plus and minus this value.
    """
    y = np.arange(len(labels))[::-1]
    for i, row in enumerate(y):
        if bands is not None and np.all(np.isfinite(bands[i])):
            ax.fill_between(bands[i], row - 0.32, row + 0.32, color="#E3E3E3", linewidth=0, zorder=0)
        colour = VERDICT_COLOURS.get(verdicts[i], "#000000") if verdicts is not None else "#000000"
        ax.plot([low[i], high[i]], [row, row], color=colour, linewidth=1.8, zorder=2)
        ax.plot(value[i], row, "o", color=colour, markersize=5, zorder=3)
    ax.axvline(0, color="#000000", linewidth=0.8, zorder=1)
    for side in (-1, 1) if margin else ():
        ax.axvline(side * margin, color="#595959", linewidth=0.8, linestyle=":", zorder=1)
    ax.set_yticks(y, labels, fontsize=9)
    ax.set_ylim(-0.7, len(labels) - 0.3)


def pipe_figure(stages: dict[str, str], note: str = "") -> Figure:
    """Draw the pipe: one box per stage with what it holds, joined by arrows (the paper's Fig. 1, redrawn).

    Parameters
    ----------
    stages : dict
        Stage name to a short description; drawn from left to right.
    note : str
        A line below the boxes.
    """
    figure = Figure(figsize=(2.15 * len(stages), 2.1))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set_xlim(0, len(stages))
    ax.set_ylim(0, 1)
    ax.axis("off")
    for i, (name, text) in enumerate(stages.items()):
        box = FancyBboxPatch((i + 0.06, 0.24), 0.8, 0.62, boxstyle="round,pad=0.01", fc="#F4F6F8", ec="#0072B2", lw=1.4)
        ax.add_patch(box)
        ax.text(i + 0.46, 0.74, name, ha="center", va="center", fontsize=12, fontweight="bold")
        ax.text(i + 0.46, 0.46, text, ha="center", va="center", fontsize=8.5, linespacing=1.35)
        if i:
            ax.annotate("", (i + 0.045, 0.55), (i - 0.125, 0.55), arrowprops={"arrowstyle": "-|>", "lw": 1.6})
    ax.text(0.06, 0.09, note, fontsize=8.5, color="#444444")
    return figure


def noise_curves(ax: Axes, frame, modality: str, label: str) -> None:
    """Draw one quantity against the noise level, one curve with intervals per arm, side by side so that none hides.

    Parameters
    ----------
    ax : Axes
    frame : DataFrame
        Columns `arm level value low high`, and perhaps `hollow` (bool: weak support). NaN leaves a gap.
    modality : {"mri", "xray"}
    label : str
        Of the quantity, with its unit.
    """
    arms = list(dict.fromkeys(frame["arm"]))
    for i, arm in enumerate(arms):
        rows, aside = frame[frame["arm"] == arm].sort_values("level"), i - (len(arms) - 1) / 2
        level = rows["level"].to_numpy(float)
        x = level * 10 ** (-0.025 * aside) if modality == "xray" else level + 0.16 * aside
        error_bars(ax, x, rows["value"], rows["low"], rows["high"], arm, hollow=rows.get("hollow"))
    level_axis(ax, modality, sorted(set(frame["level"])))
    ax.set_ylabel(label, fontsize=9)


def training_curves(losses, arm: str, label: str, *, log: bool = False) -> Figure:
    """Draw how an arm's networks learned: loss against epoch, one column per network.

    Parameters
    ----------
    losses : dict of str to DataFrame
        Title of the column to a loss table: `epoch` (from 0) and `validation`; where present also `train_net`, drawn
        beside it, and `train_judge`, drawn below it with the loss of a judge that cannot tell, log 2.
    arm : str
        Decides colour and marker.
    label : str
        Of the loss that is validated.
    log : bool
        Whether its axis is logarithmic.

    Returns
    -------
    Figure
    """
    judged = any("train_judge" in frame for frame in losses.values())
    height = 5.0 if judged else 3.0
    figure, axes = canvas(4.4 * len(losses), height, 1 + judged, len(losses), squeeze=False, sharex="col")
    style = arm_style(arm)
    for column, (title, frame) in zip(axes.T, losses.items()):
        ax, epoch = column[0], frame["epoch"] + 1
        if "train_net" in frame:
            ax.plot(epoch, frame["train_net"], ":", color=style["color"], label="training")
        ax.plot(epoch, frame["validation"], label="validation", markersize=4, **style)
        ax.set(ylabel=label, yscale="log" if log else "linear")
        ax.set_title(title, fontsize=10)
        if "train_judge" in frame:
            _judge_curve(column[1], epoch, frame["train_judge"])
        column[-1].set_xlabel("Epoch")
        column[-1].xaxis.get_major_locator().set_params(integer=True)
        for part in column:
            part.legend(frameon=False, fontsize=9)
    return figure


def _judge_curve(ax: Axes, epoch, loss) -> None:
    """Loss of a judge by epoch, beside that of one who cannot tell."""
    ax.plot(epoch, loss, "-o", markersize=3, color="#000000", label="judge")
    ax.axhline(math.log(2), color="#595959", linewidth=0.8, linestyle=":", label="cannot tell: log 2")
    ax.set(ylabel="Training loss of the judge", ylim=(0, 1.2 * max(math.log(2), np.max(loss))))


def draw_heat(ax: Axes, image, heat, title: str = "", limit: float | None = None) -> float:
    """Draw an image (H, W) under a heat map, interpolated to its size; `limit` is the value that gets the full colour.

    Parameters
    ----------
    ax : Axes
    image : array (H, W)
        In [0, 1].
    heat : array (h, w)
        At least 0; nothing is drawn where it is 0.
    title : str
    limit : float, optional
        The heat map's own maximum by default. Give one to all maps that are to be compared.

    Returns
    -------
    float
        The limit used.
    """
    image, heat = np.asarray(image), np.asarray(heat, dtype=float)
    limit = float(limit if limit is not None else max(heat.max(), 1e-9))
    draw_image(ax, image, title)
    scale = [pixels / cells for pixels, cells in zip(image.shape, heat.shape)]
    strength = np.clip(zoom(heat / limit, scale, order=1, mode="nearest", grid_mode=True), 0, 1)
    ax.imshow(strength, cmap="inferno", vmin=0, vmax=1, alpha=0.6 * strength, interpolation="nearest")
    return limit
