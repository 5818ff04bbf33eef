"""Figures of notebook 14. A function takes a table of `analysis.real` and returns a `Figure`."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fairrecon_lab import plots
from fairrecon_lab.analysis.estimates import caption, legend_beside, spoken

SHADES = {name: plots.VERDICT_COLOURS[name] for name in ("changed", "equivalent", "undetermined")}
HATCHES = {"changed": "xxx", "equivalent": "//", "undetermined": ""}  # told apart without colours


def verdicts_figure(table: pd.DataFrame, note: str) -> Figure:
    """Share of estimable cells by verdict, one bar per arm, one panel per cohort.

    Parameters
    ----------
    table : DataFrame
        Of `real.verdict_shares`.
    note : str
    """
    cohorts = list(dict.fromkeys(table["cohort"]))
    figure, axes = plots.canvas(3.4 * len(cohorts) + 1.5, 3.2, 1, len(cohorts), squeeze=False)
    for ax, cohort in zip(axes[0], cohorts):
        part = table[table["cohort"] == cohort]
        known, left = part[list(SHADES)].sum(axis=1), np.zeros(len(part))
        for name, shade in SHADES.items():
            share = (part[name] / known).to_numpy()
            ax.barh(part["arm"], share, left=left, facecolor=shade, label=name, edgecolor="white", hatch=HATCHES[name])
            left += share
        ax.axvline(0.5, color="#000000", linewidth=0.8, linestyle=":")
        ax.invert_yaxis()
        ax.set_title(f"{cohort} ({known.max():.0f} cells)", fontsize=10)
        ax.set_xlabel("Share of cells", fontsize=9)
    legend_beside(axes[0, -1])
    return caption(figure, note)


def leakage_figure(table: pd.DataFrame, attribute: str, note: str) -> Figure:
    """Left: AUROC of an attribute from each arm (clean: dotted line). Right: whose reading changes sides, by subgroup.

    Parameters
    ----------
    table : DataFrame
        Of `real.leakage`, of one or several cohorts (column `profile`).
    attribute : str
    note : str
    """
    table = table[table["attribute"] == attribute]
    names = list(dict.fromkeys(table["profile"]))
    figure, axes = plots.canvas(9.5, 2.6 * len(names), len(names), 2, squeeze=False)
    for (left, right), name in zip(axes, names):
        part = table[table["profile"] == name]
        arms = list(dict.fromkeys(part["arm"]))
        once = part.drop_duplicates("arm").set_index("arm").loc[arms]
        bars = [once["value"] - once["low"], once["high"] - once["value"]]
        left.errorbar(once["value"], np.arange(len(arms)), xerr=bars, fmt="o", color="#000000", capsize=2)
        left.axvline(once["clean"].iloc[0], color="#000000", linestyle=":")
        left.set_yticks(np.arange(len(arms)), arms)
        left.set_xlabel(f"AUROC of {spoken(attribute)}, {name} (dotted: clean)", fontsize=9)
        for k, (group, rows) in enumerate(part.groupby("subgroup")):
            rows, y = rows.set_index("arm").loc[arms], np.arange(len(arms)) + 0.24 * k - 0.12
            bars = [rows["flips"] - rows["flips_low"], rows["flips_high"] - rows["flips"]]
            label = f"{group} (n = {rows['patients'].max():.0f})"
            right.errorbar(rows["flips"], y, xerr=bars, fmt="s" if k else "^", capsize=2, color="#595959", label=label)
        right.set_yticks(np.arange(len(arms)), [""] * len(arms))
        right.set_xlabel("Share read the other way than on clean images", fontsize=9)
        legend_beside(right)
        left.invert_yaxis()
        right.invert_yaxis()
    return caption(figure, note)
