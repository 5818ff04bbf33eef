"""Did reconstruction add bias: the figures of notebook 10.

Conventions: a function takes rows of audit tables and returns a `Figure`; `note` says whose numbers they are.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fairrecon_core.measures import label_of
from fairrecon_lab import plots
from fairrecon_lab.analysis.estimates import in_order, spoken
from fairrecon_lab.auditing.summary import signed_cells

WORSE, BETTER, WHITE = "#F1D892", "#93C1C9", "#FFFFFF"  # the paper's yellow and blue
SHADES = {"changed": "#E8B5BA", "changed_within_margin": "#F9DDD0", "equivalent": "#BBD6C3"}  # light verdict colours
SIGNS = {"changed": " ◆", "changed_within_margin": " ◇", "equivalent": " ■"}  # the same in grey print
FIRST = ("clean", "degraded", "tv", "nlm", "unet", "pix2pix", "sde")
CONTROLS = ("placebo", "planted")


def arm_order(arms) -> list[str]:
    """`arms` once each, as an image meets them: degraded, classical, networks, yours, and the controls last."""
    return in_order(list(arms), [*FIRST, *(arm for arm in dict.fromkeys(arms) if arm not in CONTROLS)])


def _sorted(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with a column `arm` in the order of `arm_order`."""
    order = arm_order(rows["arm"])
    return rows.sort_values("arm", key=lambda column: column.map(order.index), kind="stable")


def table_five(published: pd.DataFrame, ours: pd.DataFrame, metric: str, note: str) -> Figure:
    """The form of Table 5: as published above plain gaps, shaded and marked by the verdict about their change.

    Parameters
    ----------
    published : DataFrame
        From `paper.evaluation.published_audit`: shaded where its own test says p < .05, worse or better.
    ours : DataFrame
        Plug-in rows of an audit table. Figures in grey lie within the noise band.
    metric : {"eodd", "eop"}
    note : str
    """
    tasks = list(ours["task"].unique())
    figure, axes = plots.canvas(10, 1.7 + 0.52 * len(tasks), 2, 1)
    side = np.where(published["delta"] >= 0, WORSE, BETTER)
    theirs = published.assign(shade=np.where(published["p_value"] < 0.05, side, WHITE), ink="#000000", sign="")
    noise = (ours["band_high"] >= ours["value"]).map({True: "#767676", False: "#000000"})
    shade, sign = ours["verdict"].map(SHADES).fillna(WHITE), ours["verdict"].map(SIGNS).fillna("")
    ours = ours.assign(shade=shade, ink=noise, sign=sign)
    ways = ("as published (yellow: worse, blue: better)", "with a verdict on its change (◆ changed, ■ equivalent)")
    for ax, rows, way in zip(axes, (theirs, ours), ways):
        _grid(ax, rows[(rows["metric"] == metric) & (rows["arm"] != "clean")], tasks)
        ax.set_title(f"{metric.upper()}, {way}", fontsize=10, pad=10)
    figure.supxlabel(note, fontsize=8, color=plots.GREY)
    return figure


def _grid(ax, rows: pd.DataFrame, tasks: list[str]) -> None:
    """Values of rows with `shade`, `ink` and `sign`, findings down, clean and the arms across."""
    arms = arm_order(rows["arm"])
    wide = {name: rows.pivot(index="task", columns="arm", values=name) for name in ("value", "shade", "ink", "sign")}
    wide = {name: table.reindex(index=tasks, columns=arms) for name, table in wide.items()}
    wide["value"].insert(0, "clean", rows.groupby("task")["baseline"].first())
    wide["shade"].insert(0, "clean", WHITE)
    wide["ink"].insert(0, "clean", "#000000")
    wide["sign"].insert(0, "clean", "")
    text = wide["value"].map(lambda value: "–" if np.isnan(value) else f"{value:.3f}") + wide["sign"].fillna("")
    text.index = [spoken(task) for task in tasks]
    shade = wide["shade"].fillna(WHITE).set_axis(text.index)
    plots.heat_table(ax, text, shade, wide["ink"].fillna("#000000"))


def change_by_task(cells: pd.DataFrame, metric: str, reference: str, note: str) -> Figure:
    """Difference in differences per task, one panel per arm, with interval, noise band, margin and verdict.

    Parameters
    ----------
    cells : DataFrame
        An audit table.
    metric : str
        Of its signed rows.
    reference : str
        Named where there are several subgroups.
    note : str
    """
    cells = signed_cells(cells).query("metric == @metric")
    shown = [arm for arm in ("unet", "pix2pix", "sde", "planted") if arm in set(cells["arm"])]
    cells = cells[cells["arm"].isin(shown if len(shown) > 1 else set(cells["arm"]))]
    cells = cells[(metric != "logit_shift") | (cells["label"] == "1")]  # of patients who have the finding
    arms, several = arm_order(cells["arm"]), cells["subgroup"].nunique() > 1
    height = 1.5 + 0.24 * int(cells.groupby("arm").size().max())
    figure, axes = plots.canvas(10, height, 1, len(arms), sharey=True, sharex=True, squeeze=False)
    for ax, arm in zip(axes[0], arms):
        rows = cells[cells["arm"] == arm]
        names = [f"{r.task.replace('_', ' ')}{', ' + r.subgroup if several else ''}" for r in rows.itertuples()]
        labels = [f"{name} ({n})" for name, n in zip(names, rows["smallest_group"])]
        effect = rows[["delta", "delta_ci_low", "delta_ci_high"]].to_numpy().T
        bands, margin = rows[["band_low", "band_high"]].to_numpy(), rows["margin"].iloc[0]
        plots.forest(ax, labels, *effect, verdicts=list(rows["verdict"]), bands=bands, margin=margin)
        ax.set_title(arm, fontsize=10)
        ax.tick_params(axis="x", labelsize=8)
        ax.locator_params(axis="x", nbins=4)
    who = f"against {reference}" if several else f"{cells['subgroup'].iloc[0]} − {cells['reference'].iloc[0]}"
    figure.supxlabel(f"Change of the gap in {label_of(metric)}, {who} ({note}); n in brackets", fontsize=9)
    return figure


def folded_figure(folded: pd.DataFrame, note: str) -> Figure:
    """Mean |change| per attribute and arm, and that of swaps (black dash); an arm that a cohort lacks leaves a gap.

    Parameters
    ----------
    folded : DataFrame
        From `fairness.folded_table`.
    note : str
    """
    figure, axes = plots.canvas(10, 3.4, 1, 2, sharey=True)
    for ax, metric in zip(axes, ("EODD", "EOP")):
        rows = folded[folded["metric"] == metric].groupby(["attribute", "arm"], sort=False)[["observed", "noise"]]
        rows = (
            rows.mean().unstack(sort=False).stack(future_stack=True).reset_index()
        )  # an arm may lack an attribute: a gap
        rows = _sorted(rows.assign(attribute=rows["attribute"].map(spoken)))
        plots.by_arm(ax, rows, "attribute", "observed")
        between = np.arange(rows["attribute"].nunique() - 1) + 0.5
        ax.vlines(between, 0, 1, transform=ax.get_xaxis_transform(), color=plots.BAND, linewidth=0.8, zorder=0)
        drawn = [line for line in ax.lines if len(line.get_xdata())]
        for line, (_, noise) in zip(drawn, rows.groupby("arm", sort=False)["noise"]):
            ax.plot(line.get_xdata(), noise, "_", color="#000000", markersize=9, markeredgewidth=2, zorder=1)
        ax.set_title(f"Mean |change of {metric}| over tasks", fontsize=10)
    axes[0].set_ylabel("Absolute change")
    axes[1].plot([], [], "_", color="#000000", markeredgewidth=2, label="noise alone")
    axes[1].legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    figure.supxlabel(note, fontsize=8, color=plots.GREY)
    return figure


def overlap_changes(audits: Mapping[str, pd.DataFrame], note: str) -> Figure:
    """Change of SER and Delta Dice by attribute and arm, with verdicts; `audits` by attribute."""
    whole = pd.concat([frame.assign(attribute=name) for name, frame in audits.items()])
    rows = whole[whole["metric"].isin(["ser", "delta_dice"]) & (whole["estimator"] == "plug_in")]
    figure, axes = plots.canvas(10, 1.5 + 0.25 * int(rows.groupby("metric").size().max()), 1, 2, sharey=True)
    for ax, metric, name in zip(axes, ("ser", "delta_dice"), ("SER", "Delta Dice")):
        part = rows[rows["metric"] == metric]
        part = pd.concat([_sorted(part[part["attribute"] == one]) for one in part["attribute"].unique()])
        labels = [f"{spoken(r.attribute)}, {r.arm} (n = {r.n_patients})" for r in part.itertuples()]
        effect = part[["delta", "delta_ci_low", "delta_ci_high"]].to_numpy().T
        plots.forest(ax, labels, *effect, verdicts=list(part["verdict"]), margin=part["margin"].iloc[0])
        ax.set_xlabel(f"Change of {name}", fontsize=9)
    figure.supxlabel(note, fontsize=8, color=plots.GREY)
    return figure


def standard_errors(published: Mapping[tuple, pd.DataFrame], note: str) -> Figure:
    """Bootstrap standard errors of the EODD of clean, of an arm, and of their paired difference, means over tasks.

    Parameters
    ----------
    published : mapping of (cohort, attribute) to DataFrame
        From `paper.evaluation.published_audit`.
    note : str
    """
    columns = {
        "baseline_standard_error": "clean",
        "standard_error": "arm",
        "delta_standard_error": "their difference, paired",
    }
    rows = _sorted(pd.concat(published.values()).query("arm != 'clean' and metric == 'eodd'"))
    rows = pd.concat([rows[rows["attribute"] == one] for one in dict.fromkeys(rows["attribute"])])
    means = rows.groupby(["attribute", "arm"], sort=False)[list(columns)].mean().rename(columns=columns)
    figure, ax = plots.canvas(8, 0.9 + 0.26 * len(means))
    y = np.arange(len(means))[::-1]
    for name, marker, size in zip(means, ("s", "x", "D"), (8, 6, 5)):
        ax.plot(means[name], y, marker, color="#000000", label=name, markersize=size, markerfacecolor="none")
    ax.set_yticks(y, [f"{spoken(attribute)}, {arm}" for attribute, arm in means.index], fontsize=8)
    ax.set_xlabel(f"Bootstrap standard error of EODD ({note})", fontsize=9)
    ax.set_xlim(left=0)
    ax.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def gaps_and_bands(rows: pd.DataFrame, metric: str, note: str) -> Figure:
    """Every task's gap in a `metric`, clean and of one arm, in `rows` of an audit table, with the band of noise."""
    rows = rows[(rows["estimator"] == "plug_in") & (rows["metric"] == metric)]
    arm = "placebo" if "placebo" in set(rows["arm"]) else rows["arm"].iloc[0]
    rows = rows[rows["arm"] == arm]
    figure, ax = plots.canvas(8, 0.9 + 0.26 * len(rows))
    y, width = np.arange(len(rows))[::-1], rows["band_high"] - rows["band_low"]
    ax.barh(y, width, left=rows["band_low"], height=0.6, color=plots.BAND, label="equal groups, 95 %")
    ax.plot(rows["baseline"], y, "s", color="#000000", markersize=5, label="clean images")
    ax.plot(rows["value"], y, "o", color=plots.colour_of(arm), markersize=4, markerfacecolor="none", label=arm)
    labels = [f"{row.task.replace('_', ' ')} (smallest n = {row.smallest_group})" for row in rows.itertuples()]
    ax.set_yticks(y, labels, fontsize=8)
    ax.set_xlabel(f"{label_of(metric)} ({note})", fontsize=9)
    ax.set_xlim(left=0)
    ax.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def known_truth(rows: pd.DataFrame, truth, margin: float) -> Figure:
    """Changes found in worlds of known truth, and the `truth` as a black bar.

    `rows` are signed audit rows, one per world, whose name is the index.
    """
    figure, ax = plots.canvas(7, 2.5)
    effect = rows[["delta", "delta_ci_low", "delta_ci_high"]].to_numpy(float).T
    bands = rows[["band_low", "band_high"]].to_numpy(float)
    plots.forest(ax, list(rows.index), *effect, verdicts=list(rows["verdict"]), bands=bands, margin=margin)
    y = np.arange(len(rows))[::-1]
    ax.plot(truth, y, "|", color="#000000", markersize=16, markeredgewidth=2)
    ax.set_xlabel("Added bias in TPR, women − men; black bar: the truth (simulated)", fontsize=9)
    return figure
