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
    "psnr_db": "PSNR (dB)",
    "contrast": "share of the finding left",
    "eodd": "EODD",
}
MARKERS = "os^Dv<>P*Xhd"
WHO = {"female": ("^", "#000000"), "male": ("s", plots.GREY), "gap": ("D", "#000000")}


def skew_figure(table: pd.DataFrame, note: str, quantities: Sequence[str] = QUANTITIES) -> Figure:
    """What each skew changed against its control: in each sex, in their gap, and the counterfactual truth of the gap.

    Parameters
    ----------
    table : DataFrame
        Of `tables.skew_table`, of skews by sex.
    note : str
    quantities : sequence of str
    """
    skews = list(dict.fromkeys(table["skew"]))
    figure, axes = plots.canvas(3 * len(quantities) + 1, 1.1 * len(skews) + 1.2, 1, len(quantities), squeeze=False)
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


def dose_figure(table: pd.DataFrame, note: str, quantities: Sequence[str] = ("tpr", "psnr_db", "contrast")) -> Figure:
    """Dose and response: what the share of a group in training changes in its gap, by patients and as published.

    Parameters
    ----------
    table : DataFrame
        Of `tables.skew_table`: skews that set a share.
    note : str
    quantities : sequence of str
    """  # fmt: skip
    table = table[~table["skew"].str.contains("finding")]
    figure, axes = plots.canvas(3 * len(quantities) + 1, 2.8, 1, len(quantities), squeeze=False)
    lines = list(table.groupby(["attribute", "way"], sort=False).groups)
    for ax, quantity in zip(axes[0], quantities):
        for k, (attribute, way) in enumerate(lines):
            part = table.query(
                "quantity == @quantity and subgroup == 'gap' and attribute == @attribute and way == @way"
            )
            part = part.sort_values("share")
            bars = np.abs([part["delta"] - part["low"], part["high"] - part["delta"]])
            fill = "none" if way == "published" else None
            label = f"{attribute.removesuffix('_group')}, by {'images (published)' if fill else 'patients'}"
            ax.errorbar(part["share"] + 0.01 * k, part["delta"], yerr=bars, fmt=MARKERS[k] + "-", capsize=2,
                        color="#000000" if attribute == "sex" else plots.GREY, markerfacecolor=fill,
                        label=label)  # fmt: skip
        ax.axhline(0, color="#000000", linewidth=0.8, linestyle=":")
        ax.set_xlabel("Share of women, or of the young", fontsize=9)
        ax.set_ylabel(f"Change of the gap in {NAMES[quantity]}", fontsize=9)
    legend_beside(axes[0, -1])
    return caption(figure, note)


def pareto_figure(table: pd.DataFrame, note: str) -> Figure:
    """What a method does to EODD, against what it does to the worst-off subgroup: TPR, FPR and PSNR; the twin hollow.

    Both axes are figures, not changes: the skewed network is a cross, the one without the skew a star.

    Parameters
    ----------
    table : DataFrame
        Of `tables.mitigation_table`.
    note : str
    """
    figure, axes = plots.canvas(11, 3.2, 1, 3)
    methods = list(dict.fromkeys(table["method"]))
    worst = {"tpr": np.min, "fpr": np.max, "psnr_db": np.min}
    for ax, (quantity, worse) in zip(axes, worst.items()):
        for (method, _, threshold), part in table.groupby(["method", "weight", "threshold"], sort=False):
            row = part.set_index(["quantity", "subgroup"])
            eodd = row.loc[("eodd", "gap")]
            groups = row.loc[[(quantity, sex) for sex in SEXES]]
            place = groups.index[int(np.argmin(np.abs(groups["value"] - worse(groups["value"]))))]
            own = row.loc[place]
            x, half = eodd["value"], [[eodd["delta"] - eodd["low"]], [eodd["high"] - eodd["delta"]]]
            tall = [[own["delta"] - own["low"]], [own["high"] - own["delta"]]]
            hollow = method == "twin" or part["published"].iloc[0]
            look = {"color": plots.GREY, "markerfacecolor": "none"} if hollow else {"color": "#000000"}
            marker = MARKERS[(2 * methods.index(method) + (threshold == "own")) % len(MARKERS)]
            ax.errorbar(x, own["value"], xerr=np.abs(half), yerr=np.abs(tall), fmt=marker, capsize=2, linewidth=0.8,
                        label=_told(method, threshold), **look)  # fmt: skip
        for mark, column in (("x", "skewed"), ("*", "control")):
            groups = [row.loc[(quantity, sex), column] for sex in SEXES]
            ax.plot(row.loc[("eodd", "gap"), column], worse(groups), mark, color=plots.VERDICT_COLOURS["changed"],
                    markersize=9, label={"x": "with the skew", "*": "without"}[mark])  # fmt: skip
        ax.set_xlabel("EODD by sex (0: equal)", fontsize=9)
        ax.set_ylabel(f"Worst subgroup's {NAMES[quantity]}", fontsize=9)
    handles, labels = axes[-1].get_legend_handles_labels()
    once = dict(zip(labels, handles))
    axes[-1].legend(once.values(), once.keys(), fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return caption(figure, note)


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
