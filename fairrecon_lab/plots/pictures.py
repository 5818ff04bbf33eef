"""Figures of images: side by side, with their errors, under a heat map; and the pipe.

Conventions: images in a row share one grey scale; a difference is centred on 0 and has a colour bar.
"""

import itertools

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch
from scipy.ndimage import zoom

from fairrecon_lab.plots.look import GREY, OUTLINE, canvas

WIDEST = 10.0  # inches of a row of images: a page shows them as they are


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
        Of the row with titles of one line, in inches; less where the row would be wider than `WIDEST`. The figure grows
        with further lines.

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
    height = min(height, WIDEST / (0.95 * len(images)))
    tall = height + 0.35 + _more_lines(titles)
    figure, axes = canvas(height * len(images) * 0.95, tall, 1, len(images), squeeze=False)
    for i, (ax, image, title) in enumerate(zip(axes[0], images, titles)):
        draw_image(ax, image, title, limits=(low, high), outline=None if outlines is None else outlines[i])
    _fit_titles(figure, height)
    if note:
        figure.supxlabel(note, x=0.01, ha="left", fontsize=8, color=GREY)
    return figure


def _fit_titles(figure: Figure, height: float) -> None:
    """Smaller titles over images that are narrow; `height` of an image in inches."""
    for ax in figure.axes:
        ax.title.set_size(10 if height > 1.9 else 8)


def _more_lines(titles) -> float:
    """Inches that titles need beyond their first line."""
    return 0.17 * max(title.count("\n") for title in titles)  # 10 points, with their spacing


def draw_image(ax: Axes, image, title: str = "", *, limits=(0.0, 1.0), outline=None, cmap: str = "gray") -> None:
    """Draw one (H, W) image on `ax` with a fixed scale, and the contour of a mask if one is given."""
    ax.imshow(np.asarray(image), cmap=cmap, vmin=limits[0], vmax=limits[1], interpolation="nearest")
    if outline is not None and np.any(outline):
        ax.contour(np.asarray(outline, dtype=float), levels=[0.5], colors=[OUTLINE], linewidths=1.2)
    ax.set_title(title, fontsize=10)
    ax.set_anchor("N")  # the image hangs from its title, which the layout would otherwise push out at the top
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)


def draw_difference(ax: Axes, difference, title: str = "difference", limit: float | None = None, bar=True) -> float:
    """Draw a signed difference centred on 0 and state its range in the title; returns the range used.

    Parameters
    ----------
    ax : Axes
    difference : array (H, W)
    title : str
    limit : float, optional
        Of the range, on both sides of 0; the largest difference by default.
    bar : bool
        Whether a colour bar stands below the image; False where images share one.
    """
    difference = np.asarray(difference)
    limit = float(limit if limit is not None else max(np.abs(difference).max(), 1e-6))
    draw_image(ax, difference, f"{title} (± {limit:.2g})", limits=(-limit, limit), cmap="RdBu_r")
    if bar:
        place = ax.inset_axes((0.1, -0.09, 0.8, 0.05))
        ticks = {"ticks": [-limit, 0, limit], "format": "{x:.2g}", "orientation": "horizontal"}
        ax.figure.colorbar(ax.images[0], cax=place, **ticks).ax.tick_params(labelsize=8)
    return limit


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
        Of one row with titles of one line, in inches, at most; as in `image_row`.
    """
    errors = [np.asarray(image) - np.asarray(truth) for image in images]
    limit = max(1e-6, *(np.quantile(np.abs(error), 0.999) for error in errors))
    n = len(images) + 1
    height = min(height, WIDEST / (0.95 * n))
    figure, axes = canvas(height * n * 0.95, 2 * height + 0.5 + _more_lines(titles), 2, n, squeeze=False)
    draw_image(axes[0, 0], truth, "clean")
    axes[1, 0].axis("off")
    bar = axes[1, 0].inset_axes((0.72, 0.08, 0.07, 0.84))
    for column, (image, error, title) in enumerate(zip(images, errors, titles), start=1):
        draw_image(axes[0, column], image, title)
        draw_difference(axes[1, column], error, "error", limit, bar=False)
    _fit_titles(figure, height)
    figure.colorbar(axes[1, 1].images[0], cax=bar, label="error", location="left").ax.tick_params(labelsize=8)
    if note:
        figure.supxlabel(note, x=0.01, ha="left", fontsize=8, color=GREY)
    return figure


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
        box = FancyBboxPatch((i + 0.06, 0.24), 0.8, 0.62, boxstyle="round,pad=0.01", fc="#F4F6F8", ec=GREY, lw=1.4)
        ax.add_patch(box)
        ax.text(i + 0.46, 0.74, name, ha="center", va="center", fontsize=12, fontweight="bold")
        ax.text(i + 0.46, 0.46, text, ha="center", va="center", fontsize=8.5, linespacing=1.35)
        if i:
            ax.annotate("", (i + 0.045, 0.55), (i - 0.125, 0.55), arrowprops={"arrowstyle": "-|>", "lw": 1.6})
    ax.text(0.06, 0.09, note, fontsize=8.5, color=GREY)
    return figure


def unet_figure(size: int, width: int, depth: int = 4) -> Figure:
    """Draw a U-Net: what each step holds on the way down and up, and the skips between equal sizes.

    Parameters
    ----------
    size : int
        Pixels along an edge of the image.
    width, depth : int
        Feature maps at the top, doubled at each of the `depth` steps down.
    """
    figure, ax = canvas(10, 1.3 + 0.75 * depth)
    ax.axis("off")
    places = [(i, -i) for i in range(depth + 1)] + [(2 * depth - i, -i) for i in range(depth - 1, -1, -1)]
    for x, y in places:
        text = f"{width * 2**-y} maps\n{size // 2**-y} × {size // 2**-y}"
        box = {"boxstyle": "round,pad=0.35", "fc": "#F4F6F8", "ec": GREY}
        ax.text(x, y, text, ha="center", va="center", fontsize=9, bbox=box)
    for (x0, y0), (x1, y1) in itertools.pairwise(places):
        go = {"arrowstyle": "-|>", "lw": 1.4, "shrinkA": 20, "shrinkB": 20, "linestyle": "-" if y1 < y0 else "--"}
        ax.annotate("", (x1, y1), (x0, y0), arrowprops=go)
    for level in range(depth):
        skip = {"arrowstyle": "-|>", "lw": 1.4, "shrinkA": 34, "shrinkB": 34, "linestyle": ":", "color": GREY}
        ax.annotate("", (2 * depth - level, -level), (level, -level), arrowprops=skip)
    looks = {"down: keep the largest of 2 × 2": "-", "up: learned, twice the size": "--", "skip: laid beside": ":"}
    lines = [Line2D([], [], color=GREY if line == ":" else "#000000", linestyle=line) for line in looks.values()]
    figure.legend(lines, list(looks), frameon=False, fontsize=9, ncols=3, loc="outside lower center")
    ax.set(xlim=(-0.6, 2 * depth + 0.6), ylim=(-depth - 0.4, 0.5))
    return figure


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
