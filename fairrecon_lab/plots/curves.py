"""Estimates with their intervals: against the noise, as a forest, by epoch; distributions, and tables as heat maps.

Conventions: every estimate comes with its 95 % interval; support under 10 positives is drawn hollow, above all lines;
noise grows to the right. seaborn draws what it has a plot for: it is imported when it is asked for.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fairrecon_lab.plots.look import AXIS, BAND, GREY, VERDICT_MARKERS, arm_style, canvas

PALE = ("undetermined", "not_estimable")  # verdicts that decide nothing are grey
KEY = "key to the verdicts"


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
        hole = {"markersize": 5, "markerfacecolor": "white", "color": style["color"], "zorder": 5}  # above all lines
        ax.plot(x[weak], value[weak], style["marker"], **hole)


def level_axis(ax: Axes, modality: str, levels) -> None:
    """Label the x axis of a noise curve: R ascends, the photon count descends on a log scale."""
    levels = [level for level in levels if math.isfinite(level) and level > 1]
    if modality == "xray":
        ax.set_xscale("log")
        ax.invert_xaxis()
    ax.set_xticks(levels, [f"{level:,.0f}" for level in levels])
    ax.minorticks_off()
    ax.set_xlabel(AXIS[modality])


def forest(ax: Axes, labels, value, low, high, *, verdicts=None, bands=None, margin=None, words=None) -> None:
    """Draw signed effects as a forest plot with a zero line, noise bands and the equivalence margin.

    The bar is the interval of the table, and *equivalent* is said exactly where the whole of it lies between the dotted
    lines. *Changed* is said by the p-value, adjusted over the family: a bar may miss zero and not be enough. The key to
    the verdicts stands once, above the figure.

    Parameters
    ----------
    ax : Axes
    labels : sequence of str
        One per effect, from top to bottom; state n here.
    value, low, high : sequences of float
        Estimate and interval; NaN draws nothing.
    verdicts : sequence of str, optional
        Decide the shape of the point, with a key: changed, equivalent, undetermined, ...
    bands : sequence of (low, high), optional
        What pure noise would give at these group sizes, drawn as a grey bar behind.
    margin : float, optional
        Dotted lines at plus and minus this value.
    words : mapping of str to str, optional
        What the key says in place of a verdict's own name.
    """
    y = np.arange(len(labels))[::-1]
    for i, row in enumerate(y):
        if bands is not None and np.all(np.isfinite(bands[i])):
            ax.fill_between(bands[i], row - 0.32, row + 0.32, color=BAND, linewidth=0, zorder=0)
        verdict = verdicts[i] if verdicts is not None else ""
        colour = GREY if verdict in PALE else "#000000"
        ax.plot([low[i], high[i]], [row, row], color=colour, linewidth=1.8, zorder=2)
        ax.plot(value[i], row, VERDICT_MARKERS.get(verdict, "o"), color=colour, markersize=5, zorder=3)
    if verdicts is not None:
        verdict_key(ax.figure, verdicts, words)
    ax.axvline(0, color="#000000", linewidth=0.8, zorder=1)
    for side in (-1, 1) if margin else ():
        ax.axvline(side * margin, color=GREY, linewidth=0.8, linestyle=":", zorder=1)
    ax.set_yticks(y, labels, fontsize=9)
    ax.set_ylim(-0.7, len(labels) - 0.3)
    ax.locator_params(axis="x", nbins=6)


def verdict_key(figure, verdicts, words: Mapping[str, str] | None = None) -> None:
    """One key of shapes above a `figure`: those of `verdicts` and of all that were drawn before.

    `words` says something else than a verdict's own name.
    """
    before = [legend for legend in figure.legends if legend.get_gid() == KEY]
    names = {
        text.get_text(): handle.get_marker() for one in before for text, handle in zip(one.texts, one.legend_handles)
    }
    for legend in before:
        legend.remove()
    names |= {(words or {}).get(name, name.replace("_", " ")): VERDICT_MARKERS.get(name, "") for name in verdicts}
    lines = []
    for name, marker in VERDICT_MARKERS.items():
        look = {"linestyle": "", "marker": marker, "color": GREY if name in PALE else "#000000"}
        lines += [Line2D([], [], label=label, **look) for label, drawn in names.items() if drawn == marker]
    if lines:
        options = {"frameon": False, "fontsize": 9, "ncols": len(lines), "loc": "outside upper center"}
        figure.legend(handles=lines, **options).set_gid(KEY)


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
        x = level * 10 ** (-0.05 * aside) if modality == "xray" else level + 0.36 * aside
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
    ax.axhline(math.log(2), color=GREY, linewidth=0.8, linestyle=":", label="cannot tell: log 2")
    ax.set(ylabel="Training loss of the judge", ylim=(0, 1.2 * max(math.log(2), np.max(loss))))


def distributions(ax: Axes, samples: Mapping[str, Sequence], styles: Mapping[str, Mapping] | None = None, **options):
    """Draw distributions on one axis, as outlines that do not hide one another.

    Parameters
    ----------
    ax : Axes
    samples : mapping of str to sequence of float
        Label to values.
    styles : mapping of str to mapping, optional
        Label to options of its line, such as `color` and `linestyle`.
    **options
        Of `seaborn.histplot`, such as `bins`, `stat`, or `y=True` for a distribution along the vertical axis.
    """
    import seaborn

    along = "y" if options.pop("y", False) else "x"
    for label, values in samples.items():
        style = {"element": "step", "fill": False, "linewidth": 1.4} | dict((styles or {}).get(label, {}))
        seaborn.histplot(**{along: np.asarray(values)}, ax=ax, label=label, **style, **options)


def heat_table(ax: Axes, text: pd.DataFrame, shade: pd.DataFrame, ink: pd.DataFrame | None = None) -> None:
    """Draw a table whose cells are shaded.

    Parameters
    ----------
    ax : Axes
    text : DataFrame of str
        What the cells say; its index and columns label the rows and columns.
    shade : DataFrame of str
        Colour of each cell, shaped as `text`.
    ink : DataFrame of str, optional
        Colour of each text; black if left out.
    """
    import seaborn

    colours = list(dict.fromkeys(shade.to_numpy().ravel()))
    codes = shade.map(colours.index).astype(float)
    scale = {"vmin": 0, "vmax": max(len(colours) - 1, 1), "cbar": False, "linewidths": 1, "linecolor": "white"}
    fonts = {"fontsize": 8, "color": "#000000"}
    seaborn.heatmap(codes, ax=ax, annot=text, fmt="", cmap=ListedColormap(colours), annot_kws=fonts, **scale)
    for label, colour in zip(ax.texts, np.ravel(ink) if ink is not None else ()):
        label.set_color(colour)
    ax.xaxis.tick_top()
    ax.tick_params(length=0, labelsize=8, labelrotation=0)
    ax.set(xlabel="", ylabel="")


def by_arm(ax: Axes, frame: pd.DataFrame, x: str, y: str) -> None:
    """Draw one number per category and arm, the arms side by side, each with its own look.

    Parameters
    ----------
    ax : Axes
    frame : DataFrame
        Columns `x` (category), `y` (number) and `arm`; one row for each pair.
    x, y : str
    """
    import seaborn

    arms = list(dict.fromkeys(frame["arm"]))
    looks = [arm_style(arm) for arm in arms]
    palette, markers = [look["color"] for look in looks], [look["marker"] for look in looks]
    options = {"linestyles": "none", "errorbar": None, "dodge": 0.8 if len(arms) > 1 else False, "legend": False}
    seaborn.pointplot(frame, x=x, y=y, hue="arm", hue_order=arms, palette=palette, markers=markers, ax=ax, **options)
    for arm, look in zip(arms, looks):
        ax.plot([], [], color=look["color"], marker=look["marker"], linestyle="none", label=arm)
    ax.set(xlabel="", ylabel="")
