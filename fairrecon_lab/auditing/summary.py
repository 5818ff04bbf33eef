"""The audit table in words: what changed, what provably did not, what these data cannot tell."""

import numpy as np
import pandas as pd

from fairrecon_core.audit.metrics import WEAK_SUPPORT
from fairrecon_core.audit.rows import VERDICTS
from fairrecon_core.measures import decimals_of


def summary(table: pd.DataFrame, max_rows: int = 12) -> str:
    """Readable text of an audit table.

    Parameters
    ----------
    table : DataFrame
        From `audit_change`.
    max_rows : int
        At most so many cells are listed one by one, the smallest p-values first.

    Returns
    -------
    text : str
    """
    lines = []
    for (cohort, attribute, baseline), part in table.groupby(["cohort", "attribute", "baseline_arm"], sort=False):
        lines += [*_head(part, cohort, attribute, baseline), "", *_counts(part), ""]
        lines += [*_changed(claims(part), max_rows), *_others(part), *_gaps(part), *_limits(claims(part)), ""]
    notes = table.attrs.get("notes", [])
    return "\n".join([*lines, *(f"Note: {note}." for note in notes)]).strip() + "\n"


def leading(table: pd.DataFrame) -> pd.DataFrame:
    """One row a cell: the estimator "nested" where a cell has it (the networks are a sample, too), else "plug_in"."""
    nested = table["estimator"] == "nested"
    key = ["cohort", "baseline_arm", "arm", "level", "task", "attribute", "metric", "label", "subgroup", "reference"]
    cells = pd.MultiIndex.from_frame(table[key])
    return table[nested | ((table["estimator"] == "plug_in") & ~cells.isin(cells[nested]))]


def signed_cells(table: pd.DataFrame) -> pd.DataFrame:
    """One subgroup against its reference, of all metrics, each adjusted over its own family; nested rows lead."""
    return leading(table[table["reference"] != ""])


def claims(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that carry the claims: of each audit one family, in which a false *changed* has chance alpha at most."""
    return table[table["role"] == "primary"]


def _head(part: pd.DataFrame, cohort: str, attribute: str, baseline: str) -> list[str]:
    arms = [f"{arm}@{level:g}" for arm, level in part[["arm", "level"]].drop_duplicates().itertuples(index=False)]
    tasks = list(part["task"].drop_duplicates())
    policy = next((text for text in part["threshold_policy"] if text), "")
    shown = ", ".join(tasks) if len(tasks) <= 4 else f"{len(tasks)} tasks"
    return [
        f"Audit of {cohort!r} by {attribute}: {', '.join(arms)} against {baseline}; {shown}",
        f"{part['n_boot'].iloc[0]:,} resamples of patients" + (f"; thresholds {policy}" if policy else ""),
    ]


def _counts(part: pd.DataFrame) -> list[str]:
    """How many signed cells of each measure end in each verdict."""
    cells, primary = signed_cells(part), claims(part)["metric"].drop_duplicates()
    counts = pd.crosstab(cells["metric"], cells["verdict"])
    counts = counts.reindex(index=cells["metric"].drop_duplicates(), columns=VERDICTS, fill_value=0)
    width = [max(len(verdict), 5) for verdict in VERDICTS]
    named = ", ".join(primary)
    lines = [
        f"Cells, subgroup against reference. The claims are those of {named}: one family, in which the chance of any "
        "false 'changed' is at most alpha. The others are exploratory; each is adjusted over its own cells.",
        "'equivalent' is said cell by cell: its interval lies inside the margin.",
    ]
    lines.append(" " * 16 + "  ".join(verdict.rjust(w) for verdict, w in zip(VERDICTS, width)))
    return lines + [
        f"{metric:<16}" + "  ".join(str(n).rjust(w) for n, w in zip(row, width)) for metric, row in counts.iterrows()
    ]


def _changed(cells: pd.DataFrame, max_rows: int) -> list[str]:
    hits = cells[cells["verdict"].isin(["changed", "changed_within_margin"])].sort_values(["p_adjusted", "p_value"])
    if hits.empty:
        return ["No claimed cell changed beyond doubt."]
    lines = [f"Changed ({len(hits)} of {len(cells)} claimed cells):"]
    lines += [f"  {sentence(row)}" for row in hits.head(max_rows).itertuples()]
    return lines + ([f"  ... and {len(hits) - max_rows} more"] if len(hits) > max_rows else [])


def _others(part: pd.DataFrame) -> list[str]:
    """How many exploratory signed cells changed, by metric."""
    cells = signed_cells(part)
    cells = cells[(cells["role"] != "primary") & cells["verdict"].isin(["changed", "changed_within_margin"])]
    found = cells.groupby("metric", sort=False).size()
    text = ", ".join(f"{name} {n}" for name, n in found.items())
    return [f"Exploratory, in one or more cells: {text}."] if len(found) else []


def sentence(row) -> str:
    """One signed row in words: "unet@8 edema tpr: female - male +0.012 -> -0.094, change -0.106 [-0.133, ..."."""
    digits = decimals_of(row.unit)
    number = lambda value: f"{value:+.{digits}f}"
    label = {"1": ", with the finding", "0": ", without"}.get(row.label, "") if row.metric == "logit_shift" else ""
    return (
        f"{row.arm}@{row.level:g} {row.task} {row.metric}{label}: {row.subgroup} - {row.reference} "
        f"{number(row.baseline)} -> {number(row.value)}, change {number(row.delta)} "
        f"[{number(row.delta_ci_low)}, {number(row.delta_ci_high)}] {row.unit}, p {row.p_adjusted:.2g}, {row.verdict}"
    )


def _gaps(part: pd.DataFrame) -> list[str]:
    """How many max-min gaps exceed what noise alone gives."""
    gaps = part[(part["subgroup"] == "") & (part["estimator"] == "plug_in") & part["band_high"].notna()]
    if gaps.empty:
        return []
    beyond = gaps[gaps["value"] > gaps["band_high"]].groupby("metric", sort=False).size()
    sizes = gaps.groupby("metric", sort=False).size()
    text = ", ".join(f"{name} {beyond.get(name, 0)} of {n}" for name, n in sizes.items())
    return [f"Max-min gaps larger than groups that are all alike would show (97.5 %): {text}."]


def _limits(cells: pd.DataFrame) -> list[str]:
    """What could not be estimated, what rests on few patients, and how large an effect had to be."""
    lines = []
    lost = cells[cells["verdict"] == "not_estimable"]
    if len(lost):
        worst = lost.groupby("subgroup")["smallest_group"].min().sort_values()
        named = ", ".join(f"{name} (n = {n})" for name, n in worst.items())
        lines.append(f"Not estimable: {len(lost)} cells, too few patients: {named}.")
    weak = cells[(cells["verdict"] != "not_estimable") & (cells["smallest_group"] < WEAK_SUPPORT)]
    if len(weak):
        lines.append(f"Weak support, under {WEAK_SUPPORT} patients on one side: {len(weak)} cells.")
    metric = cells["metric"].iloc[0] if len(cells) else ""
    mde = cells.loc[(cells["metric"] == metric) & np.isfinite(cells["mde"])]
    if len(mde):
        digits = decimals_of(mde["unit"].iloc[0])
        lines.append(
            f"A {metric} change had to reach {mde['mde'].min():.{digits}f} to {mde['mde'].max():.{digits}f} "
            f"{mde['unit'].iloc[0]} (median {mde['mde'].median():.{digits}f}) to be found with power .8, unadjusted."
        )
    return lines
