"""Figures of the notebooks that read the papers against ours and against chance; each function returns a `Figure`."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fairrecon_lab import plots
from fairrecon_lab.paper.chance import LABEL_COUNTS, chance_rows, detectable, expected_counts
from fairrecon_lab.paper.numbers import numbers
from fairrecon_lab.paper.seed_claims import detectable_by_sex

MODELS = ("unet", "pix2pix", "sde")
TITLES = {"sex": "Sex", "age_group": "Age", "race": "Race", "merged_race": "Race, merged"}
BAND, QUIET = plots.BAND, plots.GREY

HATCHED = {"facecolor": "none", "edgecolor": QUIET, "hatch": "////", "linewidth": 0}
TOPICS = {  # of the switchboard: pairs of quantities that stand side by side, on the same rows
    "images": (
        ("PSNR (dB), degraded", "EODD by sex, mean over tasks, degraded"),
        ("PSNR (dB), unet", "EODD by sex, mean over tasks, unet"),
        ("mean AUROC on clean images", "EODD by sex, mean over tasks, clean"),
        ("PSNR of degraded slices (dB)", ""),
    ),
    "evaluation": tuple(
        (f"{quantity}, by sex", f"{quantity}, by race")
        for quantity in ("mean EODD", "share of cells called changed", "mean standard error of the change of EODD")
    ),
}
MOVED = {"changed": "a conclusion moves", "undetermined": "none moves"}


def against_chance(attribute="race", metric="eop", label_counts=1.0, design_effect=1.0) -> Figure:
    """Printed gaps on clean images and after reconstruction, on the grey band of equal rates.

    Parameters
    ----------
    attribute, metric, label_counts, design_effect
        As in `chance.chance_rows`.
    """
    rows = chance_rows(attribute, metric, label_counts, design_effect).sort_values("expected")
    figure, ax = plots.canvas(9, 4.4)
    y = np.arange(len(rows))
    ax.barh(y, rows["high"] - rows["low"], left=rows["low"], height=0.66, color=BAND, label="equal rates, 95 %")
    ax.plot(rows["expected"], y, "|", color=QUIET, markersize=13, label="equal rates, mean")
    for arm in MODELS:
        style = plots.arm_style(arm)
        ax.plot(rows[arm], y, style["marker"], color=style["color"], markersize=4.5, markerfacecolor="none", label=arm)
    ax.plot(rows["clean"], y, "s", color="#000000", markersize=5.5, label="printed, clean")
    names = [f"{task.replace('_', ' ')} (about {n:,} positives)" for task, n in zip(rows["task"], rows["positives"])]
    ax.set_yticks(y, names, fontsize=8)
    ax.set_xlim(left=0)
    beyond = int((rows["clean"] > rows["high"]).sum())
    what = f"{metric.upper()} by {attribute.replace('_', ' ')}, Table 5"
    ax.set_xlabel(f"{what}; {beyond} of {len(rows)} clean gaps beyond the band", fontsize=9)
    ax.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def eodd_pairs() -> pd.DataFrame:
    """EODD and EOP of all 160 pairs of Table 5."""
    five = numbers("5").query("metric in ('eodd', 'eop')")
    return five.pivot(index=["attribute", "task", "arm"], columns="metric", values="value")


def mean_not_maximum() -> Figure:
    """EODD against EOP of Table 5: what a maximum and what a mean forbid."""
    figure, ax = plots.canvas(5.6, 4.6)
    x, pairs = np.array([0, 0.8]), eodd_pairs()
    ax.fill_between(x, 0, x / 2, color=BAND, linewidth=0)
    ax.plot(x, x, color="#000000", linewidth=1, linestyle="--")
    ax.text(0.45, 0.13, "impossible for a mean", fontsize=8, color=QUIET)
    ax.text(0.77, 0.515, "below the dashed line:\nimpossible for a maximum", fontsize=8, color=QUIET, ha="right")
    for attribute, marker in (("sex", "o"), ("age_group", "^"), ("race", "x")):
        here, look = pairs.loc[attribute], {"color": "#000000", "markersize": 4, "markerfacecolor": "none"}
        ax.plot(here["eop"], here["eodd"], marker, label=attribute.replace("_", " "), **look)
    ax.set(xlabel="EOP as printed", ylabel="EODD as printed", xlim=(0, 0.78), ylim=(0, 0.55))
    ax.legend(fontsize=8, frameon=False, loc="upper left")
    return figure


def detectable_changes() -> Figure:
    """Printed changes of EOP by sex beside the smallest that the test split could have shown."""
    by_sex = detectable_by_sex()
    tasks = sorted(LABEL_COUNTS, key=lambda task: expected_counts(task)[0])
    figure, ax = plots.canvas(9, 4.2)
    y = np.arange(len(tasks))
    low, high = ([detectable(task, "female", "male", flips) for task in tasks] for flips in (0.05, 0.10))
    ax.barh(y, np.subtract(high, low), left=low, height=0.62, color=BAND, label="smallest detectable,\n5 to 10 % flips")
    for arm in MODELS:
        style, size = plots.arm_style(arm), by_sex[by_sex["arm"] == arm].set_index("task")["change"].abs()
        ax.plot(size[tasks], y, style["marker"], color=style["color"], markersize=5, label=arm)
    ax.set_yticks(y, [f"{task.replace('_', ' ')} ({expected_counts(task)[0]:,})" for task in tasks], fontsize=8)
    ax.set_xlabel(
        "|change of EOP by sex|, Table 5a, and the smallest effect that the test split could show", fontsize=9
    )
    ax.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def switchboard(board: pd.DataFrame, whose: str, topic: str) -> Figure:
    """One row per choice, two quantities side by side; a diamond where a conclusion moves.

    Parameters
    ----------
    board : DataFrame
        Of `board.whole_board`.
    whose : str
        Names the data.
    topic : {"images", "evaluation"}
        Choices of how images are made, or of how they are judged; a quantity that `TOPICS` lacks is of the second.
    """
    there, known = set(board["quantity"]), {name for pairs in TOPICS.values() for pair in pairs for name in pair}
    pairs = [pair for pair in TOPICS[topic] if there & set(pair)]
    pairs += [(name, "") for name in board["quantity"].unique() if topic == "evaluation" and name not in known]
    board = board.assign(label=board["choice"] + " (" + board["cohort"] + ")")
    board["label"] += np.where(board.groupby(["label", "quantity"]).cumcount() > 0, " again", "")
    rows = [list(dict.fromkeys(board.loc[board["quantity"].isin(pair), "label"])) for pair in pairs]
    heights = [1.6 + len(labels) for labels in rows]
    figure, axes = plots.canvas(10, 0.7 + 0.27 * sum(heights), len(pairs), 2, squeeze=False, height_ratios=heights)
    for line, pair, labels in zip(axes, pairs, rows):
        for ax, quantity in zip(line, pair):
            _choices(ax, board[board["quantity"] == quantity].set_index("label").reindex(labels), quantity)
        line[1].set_yticklabels([])
    figure.supxlabel(f"published minus recommended (or minus the text), 95 %; {whose}", fontsize=8, color=QUIET)
    return figure


def _choices(ax, rows: pd.DataFrame, quantity: str) -> None:
    """Effects of choices on one quantity; no axes where nothing was measured."""
    if rows["effect"].isna().all():
        ax.axis("off")
        return
    moves = rows["moves_a_conclusion"].eq(True)
    labels = ["\n".join(textwrap.wrap(label, 40)) for label in rows.index]
    plots.forest(ax, labels, *rows[["effect", "low", "high"]].to_numpy(float).T,
                 verdicts=list(np.where(moves, "changed", "undetermined")), words=MOVED)  # fmt: skip
    ax.tick_params(labelsize=8)
    ax.set_title(quantity, fontsize=9)
    if rows[["low", "high"]].abs().max(axis=None) < 1e-9:
        ax.set_xlim(-1, 1)  # exactly nothing has no scale of its own


# ---------------------------------------------------------------------- the follow-up's laws and figures
def printed_on_laws(table: pd.DataFrame) -> Figure:
    """Printed medians on the bands of both laws.

    Parameters
    ----------
    table : DataFrame
        Rows of `against_chance`, each statistic under "no change" and "no direction".
    """
    looks = {"no change": ({"color": BAND}, 0.16), "no direction": (HATCHED, -0.16)}
    table = table[table["law"].isin(looks)]
    places = table.drop_duplicates(["table", "row", "column"])
    figure, ax = plots.canvas(9, 1.2 + 0.42 * len(places))
    for law, (look, aside) in looks.items():
        rows = places[["table", "row", "column"]].merge(table[table["law"] == law])
        y = np.arange(len(rows))[::-1] + aside
        ax.barh(y, rows["high"] - rows["low"], left=rows["low"], height=0.28, label=f"{law}, 95 %", **look)
        ax.plot(rows["expected"], y, "|", color="#000000", markersize=9)
    y = np.arange(len(places))[::-1]
    ax.plot(places["printed"], y, "D", color="#000000", markersize=6, label="printed")
    names = [f"{row.row}: {row.column} ({_table_name(row.table)})" for row in places.itertuples()]
    ax.set_yticks(y, names, fontsize=9)
    ax.axvline(0, color="#000000", linewidth=0.8)
    ax.set_xlim(1.15 * table["low"].min(), 1.05 * max(table["high"].max(), table["printed"].max()))
    ax.set_xlabel("Median change (%) of EODD and SER", fontsize=9)
    ax.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _table_name(name: str) -> str:
    return f"Table {name.lstrip('F')}" if name.startswith("F") else f"seed, Table {name}"


def percent_histograms(tables: Mapping[str, pd.DataFrame], bands: Mapping | None = None, note: str = "") -> Figure:
    """The follow-up's Figs 3 and 20: how changes in per cent are spread, one panel per attribute.

    Parameters
    ----------
    tables : dict of str to DataFrame
        Title to rows with a column `percent`; changes beyond 200 % are drawn at the edge.
    bands : dict of str to (low, high), optional
        Where the median would lie if nothing changed.
    note : str
        Where the numbers come from.
    """
    figure, axes = plots.canvas(9, 3.2, 1, len(tables), squeeze=False, sharey=True)
    bins = np.linspace(-200, 200, 33)
    for ax, (title, table) in zip(axes[0], tables.items()):
        percent = table["percent"].dropna()
        if band := (bands or {}).get(title):
            ax.axvspan(*band, label="median, if nothing\nchanged (95 %)", zorder=3, **HATCHED)
        if len(percent):
            ax.hist(np.clip(percent, -200, 200), bins=bins, color="#BDBDBD")
            median = f"median {percent.median():+.1f} %".replace("-", "−")
            ax.axvline(percent.median(), color="#000000", linewidth=1.6, label=median)
        else:
            ax.text(
                0.5, 0.5, "no cell could\nbe estimated", ha="center", va="center", transform=ax.transAxes, fontsize=9
            )
            ax.set_xlim(-220, 220)
        ax.set_title(f"{TITLES.get(title, title)} ({len(percent)} cells)", fontsize=10)
        ax.set_xlabel("Change (%)", fontsize=9)
        if ax.get_legend_handles_labels()[0]:
            ax.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(0, -0.22))
    axes[0, 0].set_ylabel("Cells", fontsize=9)
    axes[0, 0].yaxis.set_major_locator(MaxNLocator("auto", integer=True))
    figure.supxlabel(note, x=0.99, ha="right", fontsize=8, color=QUIET)
    return figure


def changes_by_task(table: pd.DataFrame, attributes: Sequence[str], note: str = "") -> Figure:
    """The follow-up's Figs 4 and 5 before mitigation: change of a gap by task and model, one panel per attribute.

    Parameters
    ----------
    table : DataFrame
        Of `percent.percent_table`, with intervals.
    attributes : sequence of str
        Those to show; one of which `table` has no rows gives an empty panel.
    note : str
        Where the numbers come from.
    """
    tasks = list(dict.fromkeys(table["task"]))[::-1]
    figure, axes = plots.canvas(9, 1.3 + 0.4 * len(tasks), 1, len(attributes), squeeze=False, sharey=True, sharex=True)
    for ax, attribute in zip(axes[0], attributes):
        for k, arm in enumerate(MODELS):
            rows = table[(table["attribute"] == attribute) & (table["arm"] == arm)]
            style, y = plots.arm_style(arm), [tasks.index(task) + 0.22 * (1 - k) for task in rows["task"]]
            ax.hlines(y, rows["delta_ci_low"], rows["delta_ci_high"], color=style["color"], linewidth=1.2)
            ax.plot(rows["delta"], y, style["marker"], color=style["color"], markersize=4.5, label=arm)
        ax.axvline(0, color="#000000", linewidth=0.8)
        ax.set_title(TITLES.get(attribute, attribute), fontsize=10)
        ax.set_xlabel("Change of the gap", fontsize=9)
    axes[0, 0].set_yticks(range(len(tasks)), [task.replace("_", " ") for task in tasks], fontsize=8)
    axes[0, -1].legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    figure.supxlabel(note, x=0.01, ha="left", fontsize=8, color=QUIET)
    return figure


def quality_and_task(panels: Mapping[str, tuple], note: str = "") -> Figure:
    """The follow-up's Figs 18 and 19 with an axis for each quantity: SSIM above, the task's measure below.

    Parameters
    ----------
    panels : dict of str to (modality, quality, performance, label)
        Title to the frames of `plots.noise_curves` and the name of the task's measure.
    note : str
        Where the numbers come from.
    """
    figure, axes = plots.canvas(10, 5.2, 2, len(panels), squeeze=False)
    for column, (title, (modality, quality, performance, label)) in zip(axes.T, panels.items()):
        plots.noise_curves(column[0], quality, modality, "SSIM")
        plots.noise_curves(column[1], performance, modality, label)
        column[0].set_title(title, fontsize=10)
        column[0].set_xlabel("")
        for ax in column:
            ax.tick_params(axis="x", rotation=30 if modality == "xray" else 0)
    axes[0, -1].legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    figure.supxlabel(note, x=0.01, ha="left", fontsize=8, color=QUIET)
    return figure
