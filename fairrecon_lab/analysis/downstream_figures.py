"""Figures of notebook 08: readers and their training, performance against noise, thresholds, shifts, heat maps.

Conventions: `note` is the caption: whose images, which readers. Curves are frames from `downstream`. Control arms are
left to notebook 10, but for the shifts.
"""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fairrecon_core.audit.metrics import logit
from fairrecon_lab import plots
from fairrecon_lab.analysis.downstream import SHIFTS
from fairrecon_lab.analysis.estimates import GREY, caption, in_order, legend_beside, spoken

CONTROLS = ("placebo", "planted")


def losses_figure(losses: dict[str, pd.DataFrame], note: str) -> Figure:
    """Training (line) and validation loss (squares) by epoch, one panel per reader; `losses` maps its title to them."""
    figure, axes = plots.canvas(2.6 * len(losses) + 1, 2.6, 1, len(losses), squeeze=False)
    for ax, (title, frame) in zip(axes[0], losses.items()):
        ax.plot(frame["epoch"], frame["train_net"], "-", color="#8C8C8C", label="training")
        ax.plot(frame["epoch"], frame["validation"], "s", color="#000000", markersize=4, label="validation")
        ax.set_title(title, fontsize=10)
        ax.set_xlabel("Epoch", fontsize=9)
    axes[0, 0].set_ylabel("Loss", fontsize=9)
    axes[0, 0].legend(frameon=False, fontsize=8)
    return caption(figure, note)


def clean_figure(table: pd.DataFrame, note: str) -> Figure:
    """Forest of AUROCs on clean images, a `table` of `downstream.clean_aurocs`: recorded labels filled, true hollow."""
    tasks = list(table["task"].unique())
    figure, ax = plots.canvas(6.5, 1.1 + 0.3 * len(tasks))
    y, look = np.arange(len(tasks))[::-1], {"fmt": "s", "color": "#000000", "markersize": 5, "capsize": 2}
    for kind, aside, face in (("recorded", 0.13, "#000000"), ("true", -0.13, "white")):
        part = table[table["label"] == kind].set_index("task").loc[tasks]
        if part["value"].notna().any():
            bars = [part["value"] - part["low"], part["high"] - part["value"]]
            ax.errorbar(part["value"], y + aside, xerr=bars, **look, markerfacecolor=face, label=f"{kind} label")
    n = table[table["label"] == "recorded"].set_index("task")
    ax.set_yticks(y, [f"{spoken(t)} ({n['with'][t]} with, {n['without'][t]} without)" for t in tasks], fontsize=8)
    ax.axvline(0.5, color=GREY, linewidth=0.8, linestyle=":")
    ax.set_xlabel("AUROC on clean images", fontsize=9)
    legend_beside(ax)
    return caption(figure, note)


# ---------------------------------------------------------------------- against noise
def noise_figure(panels, arms, modality: str, note: str) -> Figure:
    """Panels with one quantity each against the noise level, at most two in a row.

    Parameters
    ----------
    panels : sequence of (label, frame)
    arms : sequence of str
        Their order; others follow.
    modality : {"mri", "xray"}
    note : str
    """
    n_columns = min(2, len(panels))
    n_rows = -(-len(panels) // n_columns)
    figure, axes = plots.canvas(4.2 * n_columns + 1.3, 3 * n_rows + 0.2, n_rows, n_columns, squeeze=False)
    for ax in axes.ravel()[len(panels) :]:
        ax.axis("off")
    for ax, (label, frame) in zip(axes.ravel(), panels):
        frame = _ordered(frame, arms)
        plots.noise_curves(ax, frame, modality, label)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside right upper")
    return caption(figure, note)


def _ordered(frame: pd.DataFrame, arms) -> pd.DataFrame:
    """Without the controls, `arms` first."""
    frame = frame[~frame["arm"].isin(CONTROLS)]
    order = in_order(list(frame["arm"]), ["clean", *arms])
    return frame.sort_values("arm", key=lambda column: column.map(order.index), kind="stable")


def findings_figure(curves: dict[str, pd.DataFrame], modality: str, note: str) -> Figure:
    """Fig. 17: one small panel per finding, points hollow and pale where fewer than ten patients have it.

    Parameters
    ----------
    curves : dict of task to DataFrame
        From `downstream.task_curve`.
    modality : {"mri", "xray"}
    note : str
    """
    n_columns = min(3, len(curves))
    n_rows = -(-len(curves) // n_columns)
    figure, axes = plots.canvas(10, 2.2 * n_rows + 0.4, n_rows, n_columns, sharey=True, squeeze=False)
    for ax in axes.ravel()[len(curves) :]:
        ax.axis("off")
    for ax, (task, frame) in zip(axes.ravel(), curves.items()):
        _finding(ax, task, frame[~frame["arm"].isin(CONTROLS)], modality)
    handles = axes[0, 0].get_legend_handles_labels()
    figure.legend(*handles, frameon=False, fontsize=8, loc="outside right upper")
    return caption(figure, note)


def _finding(ax: Axes, task: str, frame: pd.DataFrame, modality: str) -> None:
    plots.noise_curves(ax, frame.drop(columns="hollow"), modality, "AUROC")
    for line in ax.lines:  # hollow markers lie above every line and interval, whoever drew last
        line.set_zorder(1)
    for arm, shown in zip(dict.fromkeys(frame["arm"]), ax.containers):
        weak = frame[frame["arm"] == arm].sort_values("level")["hollow"].to_numpy(bool)
        x, y = (values[weak] for values in shown.lines[0].get_data())
        style = plots.arm_style(arm)
        ax.plot(x, y, style["marker"], color=style["color"], markerfacecolor="white", markersize=5, zorder=4)
    n = frame.groupby("level")["with"].first().dropna()
    text = f"with: {', '.join(f'{k:.0f}' for k in n[::-1])}" if len(n) else "not estimable"
    ax.set_title(f"{spoken(task)}\n{text}", fontsize=9)
    ax.tick_params(labelsize=8)
    ax.xaxis.label.set_size(8)


# ---------------------------------------------------------------------- decisions
def threshold_figure(per_arm: pd.DataFrame, frozen: pd.DataFrame, arms, note: str) -> Figure:
    """Cuts chosen on each arm's own test labels, as logits, beside the frozen one; no mark where labels are all alike.

    Parameters
    ----------
    per_arm, frozen : DataFrame
        Rows of the table `thresholds` under the published and under the frozen policy.
    arms : sequence of str
        Their order; others follow.
    note : str
    """
    tasks = list(dict.fromkeys(per_arm["task"]))
    figure, ax = plots.canvas(7.5, 1.2 + 0.3 * len(tasks))
    y = pd.Series(np.arange(len(tasks))[::-1], index=tasks)
    bar = {"color": "#000000", "markersize": 15, "markeredgewidth": 2}
    cut = frozen.groupby("task")["value"].mean().dropna()
    ax.plot(logit(cut), y[cut.index], "|", **bar, label="frozen, validation, clean")
    shown = [arm for arm in dict.fromkeys(["clean", *arms, *per_arm["arm"]]) if arm not in CONTROLS]
    for a, arm in enumerate(shown):
        value = per_arm[per_arm["arm"] == arm].groupby("task")["value"].mean().dropna()
        style = plots.arm_style(arm) | {"linestyle": "", "markersize": 5, "label": f"{arm}, own test labels"}
        ax.plot(logit(value), y[value.index] + 0.09 * (a - 3), **style)
    ax.set_yticks(y, [spoken(task) for task in tasks], fontsize=8)
    ax.set_xlabel("Threshold (logit)", fontsize=9)
    legend_beside(ax)
    return caption(figure, note)


def shift_figure(shifts: pd.DataFrame, arms, note: str) -> Figure:
    """Flip rate and logit shifts per task and arm, with intervals.

    Parameters
    ----------
    shifts : DataFrame
        `task arm measure value low high`.
    arms : sequence of str
        Their order; others follow.
    note : str
    """
    tasks, measures = list(shifts["task"].unique()), [name for name in SHIFTS if name in set(shifts["measure"])]
    figure, axes = plots.canvas(11, 1.4 + 0.5 * len(tasks), 1, len(measures), sharey=True, squeeze=False)
    for ax, measure in zip(axes[0], measures):
        _shift_panel(ax, shifts[shifts["measure"] == measure], tasks, in_order(list(shifts["arm"]), arms))
        ax.set_xlabel(measure.capitalize(), fontsize=9)
    axes[0, 0].set_yticks(np.arange(len(tasks))[::-1], [spoken(task) for task in tasks], fontsize=8)
    legend_beside(axes[0, -1])
    return caption(figure, note)


def _shift_panel(ax: Axes, rows: pd.DataFrame, tasks: list[str], arms: list[str]) -> None:
    for a, arm in enumerate(arms):
        part = rows[rows["arm"] == arm].set_index("task").reindex(tasks)
        y = np.arange(len(tasks))[::-1] - 0.1 * (a - (len(arms) - 1) / 2)
        style = plots.arm_style(arm) | {"linestyle": "", "markersize": 4, "elinewidth": 0.8, "label": arm}
        ax.errorbar(part["value"], y, xerr=[part["value"] - part["low"], part["high"] - part["value"]], **style)
    ax.axvline(0, color="#000000", linewidth=0.8)
    ax.locator_params(axis="x", nbins=5)


# ---------------------------------------------------------------------- heat maps
def heat_row(axes, images: dict[str, np.ndarray], maps, titles) -> float:
    """Images under their heat maps on one row of `axes`, one scale for all `maps`; returns what has the full colour."""
    limit = max(max(heat.max() for heat in maps), 1e-9)
    for ax, image, heat, title in zip(axes, images.values(), maps, titles):
        plots.draw_heat(ax, image, heat, title, limit)
        ax.title.set_size(8)
    return limit


def heat_figure(images: dict[str, np.ndarray], rows: dict[str, tuple], note: str) -> Figure:
    """One row per task: the reader's heat map on clean and on every arm.

    Parameters
    ----------
    images : dict of arm to array (H, W)
    rows : dict of task to (maps, scores)
        One map and one score per image.
    note : str
    """
    side = min(1.75, plots.WIDEST / len(images))
    size = (side * len(images), (side + 0.4) * len(rows) + 0.4)
    figure, axes = plots.canvas(*size, len(rows), len(images), squeeze=False)
    for line, (task, (maps, scores)) in zip(axes, rows.items()):
        titles = [f"{arm}\n{spoken(task)} {score:.2f}" for arm, score in zip(images, scores)]
        limit = heat_row(line, images, maps, titles)
    return caption(figure, f"{note}; full colour: {limit:.2f} of the logit (last row)")


def beside_clean(images: dict[str, np.ndarray], maps, titles, heat_titles, note: str) -> Figure:
    """Each of two images alone and under its heat map; `titles` name the images, `heat_titles` the maps."""
    figure, axes = plots.canvas(9.2, 2.9, 1, 2 * len(images))
    for ax, image, title in zip(axes[::2], images.values(), titles):
        plots.draw_image(ax, image, title)
    heat_row(axes[1::2], images, maps, heat_titles)
    return caption(figure, note)
