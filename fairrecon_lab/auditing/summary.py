"""The audit tables in words: the rates, which gaps are real, what changed, and what these data cannot tell."""

import re

import numpy as np
import pandas as pd

from fairrecon_core.audit.metrics import WEAK_SUPPORT
from fairrecon_core.audit.rows import VERDICTS
from fairrecon_core.measures import decimals_of, label_of


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


SHOWN = ("tpr", "fpr", "ppv", "auroc")  # of the rates on the screen; the others are in the table
REAL = ("different", "different_within_margin")  # verdicts of a gap of one model
WORDS = {"different": "different", "different_within_margin": "different, within the margin",
         "equivalent": "equivalent", "undetermined": "undetermined", "not_estimable": "not estimable"}  # fmt: skip


def glance(rates: pd.DataFrame, room: int = 30) -> list[str]:
    """The table of one model's rates and gaps as lines of a screen: rates by subgroup, then gaps, the widest first.

    Parameters
    ----------
    rates : DataFrame
        From `audit_single`.
    room : int
        About how many lines there may be.

    Returns
    -------
    lines : list of str
    """
    own = rates[(rates["subgroup"] != "") & (rates["reference"] == "")]
    gaps = rates[(rates["reference"] != "") & (rates["subgroup"] != "")]
    width = gaps.assign(width=(gaps["value"].abs() / gaps["margin"]).fillna(-1))
    keys = ["attribute", "arm", "level", "task"]
    widest = (
        width[width["role"] == "primary"]
        .groupby(keys, sort=False)["width"]
        .max()
        .sort_values(ascending=False, kind="stable")
    )
    blocks = dict(iter(own.groupby(keys, sort=False)))
    order = [key for key in widest.index if key in blocks] + [key for key in blocks if key not in widest.index]
    several, lines, left = own["arm"].nunique() > 1 or own["level"].nunique() > 1, [], 0
    for key in order:
        block = _block(key, blocks[key], several)
        if lines and len(lines) + len(block) > room * 2 // 3:
            left += 1
        else:
            lines += block
    if left:
        lines.append(f"... and {left} more tables of rates, with narrower gaps (--out FILE has all)")
    return [*lines, "", *_gap_lines(width, max(room - len(lines) - 3, 4), several)]


def _block(key, part: pd.DataFrame, several: bool) -> list[str]:
    """Rates of one attribute, arm and task: a line a subgroup."""
    attribute, arm, level, task = key
    there = list(part["metric"].drop_duplicates())
    metrics = [name for name in SHOWN if name in there] or there[:4]
    who = f", {arm}@{level:g}" if several else ""
    names = sorted(part["subgroup"].drop_duplicates(), key=natural)
    wide = max([len(name) for name in names] + [8])
    cells = {(row.subgroup, row.metric): row for row in part.itertuples() if row.label in ("", "0", "1")}
    head = f"{task}{who}: rates by {attribute}, with 95 % intervals, and patients"
    lines = [head, " " * wide + "".join(f"  {_short(name):<19} {'n':>6}" for name in metrics)]
    for name in names:
        found = [cells.get((name, metric)) for metric in metrics]
        lines.append(f"{name:<{wide}}" + "".join(f"  {_rate(row):<19} {_count_of(row):>6}" for row in found))
    return lines


def _short(metric: str) -> str:
    return metric.upper() if metric in (*SHOWN, "auprc", "ece") else label_of(metric)[:19]


def _rate(row) -> str:
    if row is None or not np.isfinite(row.value):
        return "too few patients" if row is not None else "-"
    digits = decimals_of(row.unit)
    interval = f" [{row.ci_low:.{digits}f}, {row.ci_high:.{digits}f}]" if np.isfinite(row.ci_low) else ""
    return f"{row.value:.{digits}f}{interval}"


def _count_of(row) -> str:
    return "" if row is None or not np.isfinite(row.n_patients) else f"{int(row.n_patients)}"


def natural(name: str) -> tuple:
    """Sorts a `name` of a subgroup: bins by their lower edge, names by the alphabet."""
    number = re.match(r"(<|>=)?(-?[\d.]+)", name)
    if number is None:
        return (1, 0.0, name)
    return (0, float(number[2].rstrip(".")) - 1e-9 * (number[1] == "<"), name)


def _gap_lines(gaps: pd.DataFrame, room: int, several: bool) -> list[str]:
    """Gaps between subgroups: those that are real, the claims that cannot be told, each widest first in margins."""
    if gaps.empty:
        return []
    by_width = gaps.sort_values("width", ascending=False, kind="stable")
    claimed, verdict = by_width["role"] == "primary", by_width["verdict"]
    named = " and ".join(by_width[claimed]["metric"].unique())
    alone = "for each attribute, " if gaps["attribute"].nunique() > 1 else ""
    counts = lambda part: ", ".join(f"{n} {word}" for name, word in WORDS.items() if (n := (part == name).sum()))
    lines = [
        f"Gaps of {named}, the claims ({alone}a false 'different' among them: 5 % at most): {counts(verdict[claimed])}."
    ]
    other = counts(verdict[~claimed])
    lines[0] += f" Exploratory: {other}." if other else ""
    chosen = pd.concat([by_width[verdict.isin(REAL) & claimed], by_width[verdict.isin(REAL) & ~claimed],
                        by_width[(verdict == "undetermined") & claimed]])  # fmt: skip
    lines += [f"  {gap_sentence(row, several)}" for row in chosen.head(room).itertuples()]
    more = len(chosen) - room
    lines += [f"  ... and {more} more"] if more > 0 else []
    same = by_width[verdict == "equivalent"]
    told = ", ".join(f"{metric} {n}" for metric, n in same.groupby("metric", sort=False).size().items())
    lines += [f"Provably within their margins: {told}."] if len(same) else []
    few = by_width[verdict == "not_estimable"]["subgroup"].unique()
    return lines + ([f"Too few patients for some figures: {', '.join(few[:8])}."] if len(few) else [])


def gap_sentence(row, several: bool = True) -> str:
    """One gap of one model in words, with its arm where there are `several`.

    "edema tpr: female - male -0.120 [-0.200, -0.051] rate, p 0.001, different"
    """
    digits = decimals_of(row.unit)
    number = lambda value: f"{value:+.{digits}f}"
    arm = f"{row.arm}@{row.level:g} " if several else ""
    label = {"1": ", with the finding", "0": ", without"}.get(row.label, "") if row.metric == "score_shift" else ""
    p = f", p {row.p_adjusted:.2g}" if np.isfinite(row.p_adjusted) else ""
    return (f"{arm}{row.task} {row.metric}{label}: {row.subgroup} - {row.reference} {number(row.value)} "
            f"[{number(row.ci_low)}, {number(row.ci_high)}] {row.unit}{p}, {WORDS[row.verdict]}")  # fmt: skip
