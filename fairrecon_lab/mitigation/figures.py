"""Figures of notebooks 15 and 16. A function takes a table of `mitigation.tables` and returns a `Figure`."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fairrecon_lab import plots
from fairrecon_lab.analysis.estimates import caption, legend_beside
from fairrecon_lab.mitigation.compare import QUANTITIES
from fairrecon_lab.mitigation.plan import SEXES

NAMES = {  # quantity, and what its axis says
    "tpr": "TPR",
    "fpr": "FPR",
    "dice": "Dice",
    "psnr_db": "PSNR (dB)",
    "contrast": "share of the finding left",
    "eodd": "EODD",
}
OF_BRAINS = ("tpr", "fpr", "dice", "contrast")  # four panels, as many as a page holds
MARKERS = "os^Dv<>P*Xhd"
WORST = {"tpr": np.min, "fpr": np.max, "psnr_db": np.min}
WHO = {"female": ("^", "#000000"), "male": ("s", plots.GREY), "gap": ("D", "#000000")}


def skew_figure(table: pd.DataFrame, note: str, quantities: Sequence[str] = ()) -> Figure:
    """What each skew changed against its control: in each sex, in their gap, and the counterfactual truth of the gap.

    Parameters
    ----------
    table : DataFrame
        Of `tables.skew_table`, of skews by sex.
    note : str
    quantities : sequence of str
        All of `compare.QUANTITIES` that the table has, by default.
    """
    quantities = quantities or [quantity for quantity in QUANTITIES if quantity in set(table["quantity"])]
    skews = list(dict.fromkeys(table["skew"]))
    figure, axes = plots.canvas(2.6 * len(quantities) + 1, 1.1 * len(skews) + 1.2, 1, len(quantities), squeeze=False)
    for ax, quantity in zip(axes[0], quantities):
        for k, group in enumerate(WHO):
            part = table.query("quantity == @quantity and subgroup == @group").set_index("skew").loc[skews]
            y, (marker, colour) = np.arange(len(skews)) + 0.24 * (k - 1), WHO[group]
            bars = np.abs([part["delta"] - part["low"], part["high"] - part["delta"]])
            label = "women minus men" if group == "gap" else {"female": "women", "male": "men"}[group]
            ax.errorbar(part["delta"], y, xerr=bars, fmt=marker, color=colour, capsize=2, label=label)
            if group == "gap" and part["truth"].notna().any():
                ax.plot(part["truth"], y, "|", color=plots.VERDICT_COLOURS["changed"], markersize=16, label="truth")
        ax.axvline(0, color="#000000", linewidth=0.8, linestyle=":")
        ax.set_yticks(np.arange(len(skews)), skews if ax is axes[0, 0] else [""] * len(skews))
        ax.set_xlabel(f"Change of {NAMES[quantity]}", fontsize=9)
        ax.invert_yaxis()
    legend_beside(axes[0, -1])
    return caption(figure, note)


def dose_figure(table: pd.DataFrame, seeds: pd.DataFrame, note: str, quantities=("psnr_db", "tpr", "fpr")) -> Figure:
    """Dose and response: what the share of a group in training changes in its gap, beside what training again changes.

    A mark is the change against half of each group, by sex that of the same patients as women and as men, with its
    interval; the cross is the control, dots are the training seeds one by one. The grey band is what other patients of
    the control's own kind change: from its lowest to its highest seed.

    Parameters
    ----------
    table, seeds : DataFrame
        Of `tables.skew_table`.
    note : str
    quantities : sequence of str
    """
    kept = [part[~part["skew"].str.contains("finding")] for part in (table.query("subgroup == 'gap'"), seeds)]
    again = [part["skew"].str.contains("again") for part in kept]
    nothing = kept[1][again[1]]
    table, seeds = (part[~is_again] for part, is_again in zip(kept, again))
    figure, axes = plots.canvas(3.2 * len(quantities) + 2, 3.2, 1, len(quantities), squeeze=False)
    lines = list(table.groupby(["attribute", "way"], sort=False).groups)
    for ax, quantity in zip(axes[0], quantities):
        for k, (attribute, way) in enumerate(lines):
            by_sex, fill = attribute == "sex", "none" if way == "published" else None
            columns = ("truth", "truth_low", "truth_high") if by_sex else ("delta", "low", "high")
            own = (table["attribute"] == attribute) & (table["way"] == way)
            part = table[own & (table["quantity"] == quantity)].sort_values("share")
            place = 0.015 * (k - (len(lines) - 1) / 2)
            value, low, high = (part[column].to_numpy() for column in columns)
            colour = "#000000" if by_sex else plots.GREY
            label = f"{attribute.removesuffix('_group')}, by {'images (published)' if fill else 'patients'}"
            ax.errorbar(part["share"] + place, value, yerr=np.abs([value - low, high - value]), fmt=MARKERS[k] + "-",
                        capsize=2, color=colour, markerfacecolor=fill, label=label)  # fmt: skip
            each = seeds[(seeds["attribute"] == attribute) & (seeds["way"] == way)]
            ax.plot(each["share"] + place, each[f"truth_{quantity}" if by_sex else quantity], ".", color=colour,
                    markersize=3, alpha=0.5)  # fmt: skip
        if len(nothing):
            noise = nothing[f"truth_{quantity}"]
            ax.axhspan(noise.min(), noise.max(), color=plots.GREY, alpha=0.25, linewidth=0, label="training again")
        ax.axhline(0, color="#000000", linewidth=0.8, linestyle=":")
        ax.plot(0.5, 0, "+", color=plots.VERDICT_COLOURS["changed"], markersize=10)  # the control, by definition
        ax.set_xlabel("Share of women, or of the young", fontsize=9)
        ax.set_ylabel(f"Change of the gap in {NAMES[quantity]}", fontsize=9)
    legend_beside(axes[0, -1])
    return caption(figure, note)


def pareto_figure(table: pd.DataFrame, note: str, threshold: str = "own") -> Figure:
    """Change of EODD against the skewed network, and TPR, FPR and PSNR of the subgroup that is worst off.

    Lambdas of a method are joined; twins and published forms, which cannot repair, are hollow. Bars are 95 % intervals
    over patients and training seeds: across that of the change of EODD, upwards that of the difference to the twin.

    Parameters
    ----------
    table : DataFrame
        Of `tables.mitigation_table`.
    note : str
    threshold : {"own", "control"}
    """
    figure, axes = plots.canvas(11.4, 3.6, 1, 3)
    table = table[table["threshold"] == threshold]
    methods = list(dict.fromkeys(table["method"]))
    for ax, (quantity, worse) in zip(axes, WORST.items()):
        for k, method in enumerate(methods):
            points = [_point(part, quantity, worse) for _, part in table[table["method"] == method].groupby("weight")]
            x, y, across, upwards = (np.array(values) for values in zip(*points))
            hollow = method == "twin" or bool(table.loc[table["method"] == method, "published"].iloc[0])
            look = {"color": plots.GREY, "markerfacecolor": "none"} if hollow else {"color": "#000000"}
            ax.errorbar(x, y, xerr=across.T, yerr=upwards.T, fmt=MARKERS[k % len(MARKERS)] + "-", capsize=2,
                        linewidth=0.8, label=method, **look)  # fmt: skip
        groups = table.query("method == 'twin' and quantity == @quantity and subgroup in @SEXES")
        eodd = table.query("method == 'twin' and quantity == 'eodd'").iloc[0]
        for mark, column, label in (("x", "skewed", "with the skew"), ("*", "control", "without")):
            ax.plot(eodd[column] - eodd["skewed"], worse(groups[column]), mark, markersize=9, label=label,
                    color=plots.VERDICT_COLOURS["changed"], linestyle="none")  # fmt: skip
        ax.axvline(0, color="#000000", linewidth=0.8, linestyle=":")
        ax.set_xlabel("Change of EODD by sex (left: more equal)", fontsize=9)
        ax.set_ylabel(f"Worst subgroup's {NAMES[quantity]}", fontsize=9)
    legend_beside(axes[-1])
    return caption(figure, note)


def _point(part: pd.DataFrame, quantity: str, worse) -> tuple:
    """Place of one method and lambda in a panel, and the lengths of its bars."""
    row = part.set_index(["quantity", "subgroup"])
    eodd, groups = row.loc[("eodd", "gap")], row.loc[[(quantity, sex) for sex in SEXES]]
    own = groups.iloc[int(np.argmin(np.abs(groups["value"] - worse(groups["value"]))))]
    bars = [(eodd["since"] - eodd["since_low"], eodd["since_high"] - eodd["since"]),
            (own["delta"] - own["low"], own["high"] - own["delta"])]  # fmt: skip
    return eodd["since"], own["value"], *np.abs(bars)


def levels_figure(table: pd.DataFrame, note: str) -> Figure:
    """TPR and FPR of each sex under every method: whether a gap closed upwards, or by levelling down.

    Parameters
    ----------
    table : DataFrame
        Of `tables.mitigation_table`.
    note : str
    """
    kinds = list(table.groupby(["method", "weight", "threshold"], sort=False).groups)
    figure, axes = plots.canvas(9, 0.36 * len(kinds) + 1.6, 1, 2)
    for ax, quantity in zip(axes, ("tpr", "fpr")):
        part = table[table["quantity"] == quantity]
        rows = [
            part.query("method == @m and weight == @w and threshold == @t").set_index("subgroup") for m, w, t in kinds
        ]
        names = ["without the skew", "with the skew", *(_told(m, t, w) for m, w, t in kinds)]
        values = {sex: [rows[0].loc[sex, "control"], rows[0].loc[sex, "skewed"], *(r.loc[sex, "value"] for r in rows)]
                  for sex in SEXES}  # fmt: skip
        y = np.arange(len(names))
        ax.hlines(y, values["female"], values["male"], color=plots.GREY, linewidth=1)
        for sex, said in zip(SEXES, ("women", "men")):
            marker, colour = WHO[sex]
            ax.plot(values[sex], y, marker, color=colour, label=said)
        ax.set_yticks(y, names if quantity == "tpr" else [""] * len(names), fontsize=8)
        ax.set_xlabel(NAMES[quantity], fontsize=9)
        ax.invert_yaxis()
    legend_beside(axes[-1])
    return caption(figure, note)


def _told(method: str, threshold: str, weight: float = 0.0) -> str:
    """A method with its lambda, and whether it has a threshold of its own."""
    own = threshold == "own" and method != "threshold"
    return method + (f", {weight:g}" if weight else "") + (" (own threshold)" if own else "")
