"""What stands in each section of the audit's page: plain texts, which the template escapes, and SVG.

Throughout, `which` is 0 for gaps of one model and 1 for changes between arms; `rates` and `found` are those of `run`.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from fairrecon_core.audit.change import subgroups_of
from fairrecon_core.audit.engine import patient_codes
from fairrecon_core.audit.matching import match
from fairrecon_core.measures import decimals_of, gap_of, label_of, unit_of
from fairrecon_lab.auditing import page_figures as figures
from fairrecon_lab.auditing import run
from fairrecon_lab.auditing.formats import between, number, p_value
from fairrecon_lab.auditing.summary import REAL, SHOWN, natural, signed_cells

MOST_BLOCKS, MOST_STRIPS, MOST_EACH, MOST_CURVES, MOST_ROWS = 24, 48, 6, 12, 4000
SAME = {"changed": "different", "changed_within_margin": "different_within_margin"}
VERDICTS = {  # (gap of one model, change between two arms)
    "different": ("beyond chance", "changed, beyond chance"),
    "different_within_margin": ("beyond chance, but smaller than the margin", "changed, but by less than the margin"),
    "equivalent": ("provably smaller than the margin", "any change is provably smaller than the margin"),
    "undetermined": ("cannot be told from these data", "cannot be told from these data"),
    "not_estimable": ("too few patients to estimate", "too few patients to estimate"),
}
OUTPUTS = ("out", "json", "report", "evidence", "declared")  # where things go is no choice about the audit
COLUMNS = ("arm", "level", "task", "attribute", "metric", "label", "subgroup", "reference", "estimator", "value",
           "ci_low", "ci_high", "p_adjusted", "margin", "band_low", "band_high", "verdict", "role",
           "n_patients")  # fmt: skip
CHANGED = ("baseline", "delta", "delta_ci_low", "delta_ci_high")
COUNTS = ("n_patients", "patients_unknown", "images_unlabelled")
UNSEEN = ("rest", "gap", "bound", "flagged", "low", "high", *COUNTS[1:])  # of bounds and searches
FIGURES = ("value", "ci_low", "ci_high", "margin", "band_low", "band_high", *CHANGED, *UNSEEN[:3], "low", "high")


def gaps_of(rates: pd.DataFrame) -> pd.DataFrame:
    """Signed rows with a common form: estimate, low, high, verdict among `VERDICTS`, width in margins."""
    rows = rates[(rates["reference"] != "") & (rates["subgroup"] != "") & rates["verdict"].isin(VERDICTS)]
    return rows.assign(estimate=rows["value"], low=rows["ci_low"], high=rows["ci_high"], word=rows["verdict"],
                       width=(rows["value"].abs() / rows["margin"]).fillna(-1))  # fmt: skip


def changes_of(changes: pd.DataFrame | None) -> pd.DataFrame | None:
    """Signed rows of `changes` in the form of `gaps_of`; None with one arm."""
    if changes is None:
        return None
    rows = signed_cells(changes)
    rows = rows.assign(word=rows["verdict"].replace(SAME))
    rows = rows[rows["word"].isin(VERDICTS) & (rows["subgroup"] != "")]
    return rows.assign(estimate=rows["delta"], low=rows["delta_ci_low"], high=rows["delta_ci_high"],
                       width=(rows["delta"].abs() / rows["margin"]).fillna(-1))  # fmt: skip


def answer(gaps: pd.DataFrame, changes: pd.DataFrame | None = None) -> list[str]:
    """The answer in plain sentences.

    Parameters
    ----------
    gaps, changes : DataFrame
        Of `gaps_of` and `changes_of`.
    """
    said = []
    for which, (rows, what) in enumerate(((gaps, "gaps between subgroups"), (changes, "changes of these gaps"))):
        claimed = None if rows is None else rows[rows["role"] == "primary"]
        if claimed is None or claimed.empty:
            continue
        words, n = claimed["word"], len(claimed)
        metrics = _and([label_of(name) for name in claimed["metric"].unique()])
        real, same = int(words.isin(REAL).sum()), int((words == "equivalent").sum())
        beside = int((words == "different_within_margin").sum())
        few = int((words == "not_estimable").sum())
        from_base = f" from {_and(list(rows['baseline_arm'].unique()))}" if which else ""
        head = f"Of {n} {what} in {metrics}{from_base}, {real or 'none'} {'are' if real != 1 else 'is'} beyond chance"
        head += f" ({beside} of them smaller than the margin)" if beside else ""
        rest = [f"{same or 'none'} {'are' if same != 1 else 'is'} provably smaller than the margin",
                f"{n - real - same - few or 'none'} cannot be told from these data"]  # fmt: skip
        rest += [f"{few} rest on too few patients"] if few else []
        said.append(f"{head}; {_and(rest)}.")
        if not real and same < n:
            said.append(f"That is no proof of {'stability' if which else 'equality'}: only what is smaller than the "
                        "margin is shown to be so.")  # fmt: skip
        hits = claimed[words.isin(REAL)].sort_values("width", ascending=False, kind="stable")
        said += [plain_words(row, which) for row in hits.head(3).itertuples()]
    return said or ["These tables give figures of subgroups, and no gap that could be judged."]


def plain_words(row, which: int = 0) -> str:
    """One `row` of a gap, or of a change (`which` is 1), as a sentence.

    "edema, true positive rate: female 0.173 below male (95 % interval -0.258 to -0.088): beyond chance."
    """
    digits = decimals_of(row.unit)
    label = {"1": ", with the finding", "0": ", without"}.get(row.label, "") if "shift" in row.metric else ""
    arm = f"{row.arm}, " if which or row.arm != "model" else ""
    arm = f"{arm[:-2]} at {row.level:g}, " if arm and row.level != 1 else arm
    head = f"{arm}{row.task}, {label_of(row.metric)}{label}: "
    words = VERDICTS[row.word][which]
    if not np.isfinite(row.estimate):
        return f"{head}{row.subgroup} against {row.reference}: {words}."
    interval = f"95 % interval {between(row.low, row.high, digits, sign=True)}"
    if which:
        gap = f"the gap of {row.subgroup} to {row.reference} went from {number(row.baseline, digits, sign=True)} to "
        return f"{head}{gap}{number(row.value, digits, sign=True)}, a change of " \
               f"{number(row.estimate, digits, sign=True)} ({interval}): {words}."  # fmt: skip
    side = "above" if row.estimate > 0 else "below"
    return f"{head}{row.subgroup} {number(abs(row.estimate), digits)} {side} {row.reference} ({interval}): {words}."


def _and(names: list) -> str:
    names = [str(name) for name in names]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""


def _order(gaps: pd.DataFrame, keys: list[str]) -> list:
    """Attribute, arm, level, task: widest claimed gap first."""
    rows = gaps[gaps["role"] == "primary"]
    return list(rows.groupby(keys, sort=False)["width"].max().sort_values(ascending=False, kind="stable").index)


KEYS = ["attribute", "arm", "level", "task"]


def blocks(rates: pd.DataFrame, gaps: pd.DataFrame) -> dict:
    """Tables of rates by subgroup, those of the widest gaps first.

    Parameters
    ----------
    rates, gaps : DataFrame
        Of `audit_single`, and of `gaps_of`.
    """
    own = rates[(rates["subgroup"] != "") & (rates["reference"] == "")]
    parts = dict(iter(own.groupby(KEYS, sort=False)))
    order = [key for key in _order(gaps, KEYS) if key in parts]
    order += [key for key in parts if key not in order]
    several, told = own["arm"].nunique() > 1 or own["level"].nunique() > 1, []
    for key in order[:MOST_BLOCKS]:
        part, (attribute, arm, level, task) = parts[key], key
        there = list(part["metric"].drop_duplicates())
        metrics = [name for name in SHOWN if name in there] or there[:4]
        cells = {(row.subgroup, row.metric): row for row in part.itertuples()}
        names = sorted(part["subgroup"].drop_duplicates(), key=natural)
        who = f", {arm}{'' if level == 1 else f' at {level:g}'}" if several else ""
        told.append({
            "title": f"{task}{who}: by {attribute}", "metrics": [label_of(name) for name in metrics],
            "rows": [{"name": name, "cells": [_cell(cells.get((name, metric))) for metric in metrics]}
                     for name in names],
        })  # fmt: skip
    return {"blocks": told, "left": len(order) - len(told)}


def _cell(row) -> dict:
    if row is None or not np.isfinite(row.value):
        few = "too few patients" if row is not None else "–"
        return {"value": few, "interval": "", "n": "" if row is None else _count(row.n_patients)}
    digits = decimals_of(row.unit)
    interval = between(row.ci_low, row.ci_high, digits) if np.isfinite(row.ci_low) else ""
    return {"value": number(row.value, digits), "interval": interval, "n": _count(row.n_patients)}


def _count(value) -> str:
    return f"{int(value):,}" if np.isfinite(value) else ""


def forests(rows: pd.DataFrame | None, which: int) -> list[dict]:
    """Of `rows` the claims by unit, then what is beyond chance of exploratory measures; the widest first."""
    if rows is None or rows.empty:
        return []
    claimed, found = rows[rows["role"] == "primary"], []
    for unit, part in claimed.groupby("unit", sort=False):
        names = _and([label_of(name) for name in part["metric"].unique()])
        found.append(_forest(f"The claims: {names}", part, unit, MOST_STRIPS, which))
    others = rows[rows["role"] != "primary"]
    for metric, part in others.groupby("metric", sort=False):
        if part["word"].isin(REAL).any():
            title, unit = f"Exploratory: {label_of(metric)}", part["unit"].iloc[0]
            found.append(_forest(title, part, unit, MOST_EACH, which))
    return found


def _forest(title: str, part: pd.DataFrame, unit: str, most: int, which: int) -> dict:
    """One forest plot: rows with their strips on one axis; of exploratory ones those beyond chance."""
    drawn = part.sort_values("width", ascending=False, kind="stable")
    drawn = (drawn if part["role"].eq("primary").all() else drawn[drawn["word"].isin(REAL)]).head(most)
    digits = decimals_of(unit)
    limit = figures.limit_of([*drawn["low"], *drawn["high"], *drawn["estimate"], *drawn["margin"],
                              *drawn["band_low"], *drawn["band_high"]])  # fmt: skip
    strips = [{
        "name": _name_of(row, which), "sides": f"{row.subgroup} − {row.reference}", "verdict": row.word,
        "words": VERDICTS[row.word][which], "p": p_value(row.p_adjusted),
        "value": number(row.estimate, digits, sign=True), "interval": between(row.low, row.high, digits, sign=True),
        "svg": figures.strip(row.estimate, row.low, row.high, (row.band_low, row.band_high), row.margin, limit,
                             row.word, plain_words(row, which)),
    } for row in drawn.itertuples()]  # fmt: skip
    counts = [(word, int((part["word"] == word).sum())) for word in VERDICTS]
    return {"title": title, "unit": unit, "told": "estimate [95 % interval]", "axis": figures.axis(limit, digits, unit),
            "strips": strips, "left": left_out(len(drawn), len(part)),
            "counts": [(word, VERDICTS[word][which], n) for word, n in counts if n]}  # fmt: skip


def left_out(n_drawn: int, n: int, order: str = "widest of {} (in margins)") -> str:
    """A sentence on the rows that a figure of `n_drawn` of `n` does not show, and the `order` that chose; or ""."""
    return f"The {n_drawn} {order.format(n)}; the others are in the whole table." if n > n_drawn else ""


def _name_of(row, which: int) -> str:
    label = {"1": ", with the finding", "0": ", without"}.get(row.label, "") if "shift" in row.metric else ""
    arm = f"{row.arm}{'' if row.level == 1 else f' at {row.level:g}'}: " if which or row.arm != "model" else ""
    return f"{arm}{row.task}, {label_of(row.metric)}{label}"


def widest(rates: pd.DataFrame) -> dict:
    """Max-min gaps of the claims beside what chance alone gives."""
    primary = {gap_of(name) for name in rates.loc[(rates["role"] == "primary") & rates["subgroup"].ne(""), "metric"]}
    rows = rates[(rates["subgroup"] == "") & (rates["estimator"] == "plug_in") & rates["metric"].isin(primary)]
    rows = rows[np.isfinite(rows["value"])].sort_values("value", ascending=False, kind="stable")
    told = []
    for row in rows.head(MOST_BLOCKS).itertuples():
        digits = decimals_of(row.unit)
        arm = f"{row.arm}{'' if row.level == 1 else f' at {row.level:g}'}: " if row.arm != "model" else ""
        told.append({"name": f"{arm}{row.task}, {label_of(row.metric)} by {row.attribute}",
                     "value": number(row.value, digits), "interval": between(row.ci_low, row.ci_high, digits),
                     "chance": number(row.band_high, digits), "smallest": _count(row.smallest_group),
                     "beyond": bool(row.value > row.band_high)})  # fmt: skip
    return {"rows": told, "left": len(rows) - len(told)}


def curves(found: run.Found, gaps: pd.DataFrame, options) -> dict:
    """ROC and calibration by group of the tasks with the widest gaps.

    Parameters
    ----------
    found : run.Found
    gaps : DataFrame
        Of `gaps_of`.
    options : Namespace
        Has the split and the least support.
    """
    scores, order = found.tables.scores, _order(gaps, KEYS)
    if scores is None:
        return {"panels": [], "left": 0}
    order = [key for key in order if "score" in scores]
    chosen, panels = order[:MOST_CURVES], []
    arms = list(dict.fromkeys(key[1] for key in chosen))
    results = scores if "arm" in scores else scores.assign(arm="model")
    matched = match(results, found.tables.cohort, baseline_arm=None, arms=arms, thresholds=0.5, split=options.split)
    patient = patient_codes(matched.images["patient_id"])[0]
    place = {(arm, level): i for i, (arm, level) in enumerate(matched.conditions)}
    several = found.rates["arm"].nunique() > 1 or found.rates["level"].nunique() > 1
    for names in found.tables.attributes:
        attribute, groups, codes = subgroups_of(matched, names if len(names) > 1 else names[0])
        groups = sorted(enumerate(groups), key=lambda one: natural(one[1]))
        for key in (key for key in chosen if key[0] == attribute):
            panels.append((chosen.index(key), _panel(key, found.rates, matched, place, codes, groups, patient, several,
                                                     options.min_support)))  # fmt: skip
    return {"panels": [panel for _, panel in sorted(panels, key=lambda one: one[0])], "left": len(order) - len(chosen)}


def _panel(key, rates, matched, place, codes, groups, patient, several: bool, min_support: int) -> dict:
    attribute, arm, level, task = key
    score, truth = matched.score[task][place[arm, level]], matched.truth[task]
    known = ~np.isnan(score + truth)
    own = rates[(rates[KEYS] == list(key)).all(axis=1) & (rates["reference"] == "") & (rates["subgroup"] != "")]
    value = {(row.subgroup, row.metric): row for row in own.itertuples()}
    most = len(figures.STROKES)
    sizes = sorted(groups, key=lambda one: -int((codes == one[0]).sum()))[:most]
    shown = [one for one in groups if one in sizes]
    rocs, bins, legend = [], [], []
    for g, name in shown:
        rows = np.flatnonzero(known & (codes == g))
        point = tuple(_value(value.get((name, metric))) for metric in ("fpr", "tpr"))
        area = value.get((name, "auroc"))
        x, y = figures.roc(score[rows], truth[rows]) if np.isfinite(_value(area)) else (np.zeros(0), np.zeros(0))
        rocs.append(figures.Curve(name, x, y, point))
        bins.append(figures.Curve(name, *figures.calibration(score[rows], truth[rows], patient[rows], min_support)))
        slope = value.get((name, "calibration_slope"))
        legend.append({"name": name, "n": f"{len(np.unique(patient[rows])):,}", "auroc": _cell(area),
                       "slope": _cell(slope)})  # fmt: skip
    who = f", {arm}{'' if level == 1 else f' at {level:g}'}" if several else ""
    title = f"{task}{who}: by {attribute}"
    areas = ", ".join(f"{one['name']} {one['auroc']['value']}" for one in legend)
    slopes = ", ".join(f"{one['name']} {one['slope']['value']}" for one in legend)
    return {"title": title, "legend": legend, "left": len(groups) - len(shown),
            "roc": figures.square(rocs, "false positive rate", "true positive rate",
                                  f"ROC curves of {title}. AUROC: {areas}."),
            "calibration": figures.square(bins, "mean score", "share with the finding",
                                          f"Calibration curves of {title}. Slope: {slopes}.")}  # fmt: skip


def _value(row) -> float:
    return float("nan") if row is None else float(row.value)


def choices(found: run.Found, options) -> list[tuple[str, str]]:
    """Every one of `options` with its value, names of files without their folders, columns as they were found."""
    out = []
    for name, value in sorted(vars(options).items()):
        if name in OUTPUTS:
            continue
        if name in ("results", "cohort", "masks"):
            value = [Path(path).name for path in ([value] if isinstance(value, str) else value or [])]
        out.append((name.replace("_", " "), _shown(value)))
    policy = [text for text in found.rates["threshold_policy"].unique() if text]
    out.append(("thresholds used", _and(policy) or "none"))
    margins = found.rates.loc[found.rates["subgroup"].ne("") & found.rates["reference"].ne(""), ["metric", "margin"]]
    told = [f"{label_of(row.metric)} {row.margin:g}" if np.isfinite(row.margin) else f"{label_of(row.metric)} none"
            for row in margins.drop_duplicates().itertuples()]  # fmt: skip
    out.append(("margins used", ", ".join(told)))
    out += [(f"column of {role}", f"{column}") for role, column in found.tables.shown.items()]
    return out


def _shown(value) -> str:
    if value is None or value == []:
        return "not given"
    if isinstance(value, list | tuple):
        return ", ".join(_shown(each) for each in value)
    return {True: "yes", False: "no"}.get(value, "") if isinstance(value, bool) else str(value)


def whole(title: str, table: pd.DataFrame) -> dict:
    """A table as texts, at most `MOST_ROWS` of its rows, the claims first.

    Parameters
    ----------
    title : str
    table : DataFrame
        Of `audit_single`, `audit_change`, `bounds_unrecorded` or `search_subgroups`.
    """
    names = [name for name in (*COLUMNS[:10], *CHANGED, *COLUMNS[10:], *UNSEEN) if name in table]
    first = table["role"].eq("primary").to_numpy() if "role" in table else np.ones(len(table), bool)
    order = np.argsort(~first, kind="stable")[:MOST_ROWS]
    part = table.iloc[order]
    digits = [decimals_of(unit) for unit in (part["unit"] if "unit" in part else part["metric"].map(unit_of))]
    columns = []
    for name in names:
        values = part[name].tolist()
        if name in FIGURES:
            texts = [number(value, d) for value, d in zip(values, digits)]
        elif name == "p_adjusted":
            texts = [p_value(value) for value in values]
        elif name in COUNTS:
            texts = [_count(value) for value in values]
        else:
            texts = [f"{value:g}" if isinstance(value, float) else str(value) for value in values]
        columns.append(texts)
    return {"title": title, "names": names, "rows": list(zip(*columns)), "left": len(table) - len(part),
            "numbers": [name in (*FIGURES, *COUNTS, "level", "p_adjusted") for name in names]}  # fmt: skip
