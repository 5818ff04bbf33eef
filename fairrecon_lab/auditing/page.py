"""The audit on one page: the answer first, then rates, gaps, changes, curves, who was left out, and every choice.

One HTML file that needs nothing else, no network and no script, and prints. `AuditReport` is the same from Python:

    AuditReport.of(predictions, cohort, "sex").save("audit.html")  # or, in a notebook, the report alone on a line

Nothing on the page depends on the clock or the machine: the same tables and choices give the same bytes.
"""

import html
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fairrecon_core.audit.change import subgroups_of
from fairrecon_core.audit.engine import patient_codes
from fairrecon_core.audit.matching import match
from fairrecon_core.measures import decimals_of, gap_of, label_of
from fairrecon_lab.auditing import page_figures as figures
from fairrecon_lab.auditing import run
from fairrecon_lab.auditing.formats import between, number, p_value
from fairrecon_lab.auditing.options import parse
from fairrecon_lab.auditing.standard import standard
from fairrecon_lab.auditing.summary import REAL, SHOWN, natural, signed_cells

HERE = Path(__file__).parent
MOST_BLOCKS, MOST_STRIPS, MOST_EACH, MOST_CURVES, MOST_ROWS = 24, 48, 6, 12, 4000
MOST_CLAIMED = 12  # real gaps told one by one
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
FIGURES = ("value", "ci_low", "ci_high", "margin", "band_low", "band_high", *CHANGED)


class AuditReport:
    """One audit as a page: shown by a notebook, saved as HTML.

    Parameters
    ----------
    found : run.Found
    options : Namespace
        Of `options.parse`, with which it was found.

    Attributes
    ----------
    rates, changes : DataFrame
        The tables; `changes` is None with one arm.
    text : str
        The summary that a shell shows.
    """

    def __init__(self, found: run.Found, options):
        self.rates, self.changes, self.text = found.rates, found.changes, found.text
        self._page = page(found, options)

    @classmethod
    def of(cls, predictions: pd.DataFrame, cohort: pd.DataFrame | None = None, attribute="sex", **choices: Any):
        """Audit two DataFrames, or one that has scores and people.

        Parameters
        ----------
        predictions, cohort : DataFrame
            As the files of `fairrecon audit`.
        attribute : str or list of str
            Columns to audit one by one; "sex,race" for their intersections.
        **choices
            Options of the command line by their names: margin, thresholds, reference, baseline, arms, min_support,
            n_boot, adjust, split, seed, id, patient, arm, task, score, label, uncertain, logits, bins={"age": [40]}.

        Raises
        ------
        ValueError
            As the command; or there is no such choice.
        """
        texts = [attribute] if isinstance(attribute, str) else list(attribute)
        options = parse(["predictions", *(["cohort"] if cohort is not None else []),
                         *(f"--attribute={text}" for text in texts)])  # fmt: skip
        for name, value in choices.items():
            if not hasattr(options, name) or name in (*OUTPUTS, "masks", "results", "cohort"):
                raise ValueError(f"there is no choice {name!r}; see fairrecon audit --help")
            lists = isinstance(getattr(options, name), list) or name == "arms"
            value = list(value.items()) if isinstance(value, dict) else value
            setattr(options, name, [value] if lists and isinstance(value, str) else value)
        options.map = [(old.casefold(), new) for old, new in options.map]
        options.thresholds = None if options.thresholds is None else str(options.thresholds)
        frames = [predictions.copy(), None if cohort is None else cohort.copy()]
        for frame, name in zip(frames, ("predictions", "cohort")):
            if frame is not None:
                frame.attrs = {"file": name, "notes": []}
        tables = run.grouped(standard(frames[0], frames[1], options), options)
        return cls(run.audited(tables, options), options)

    def save(self, path: str | Path) -> Path:
        """Write the page to `path`, in one step."""
        return save(self._page, path)

    def _repr_html_(self) -> str:
        return (f'<iframe title="audit" sandbox="" style="width:100%;height:48rem;border:1px solid #d4d8dc" '
                f'srcdoc="{html.escape(self._page, quote=True)}"></iframe>')  # fmt: skip


def save(text: str, path: str | Path) -> Path:
    """Write a `text` to `path`: it is there whole, or not at all."""
    path = Path(path)
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="utf-8", newline="\n")
    part.replace(path)
    return path


def page(found: run.Found, options) -> str:
    """The whole page as HTML of what was `found` with the `options`.

    Raises
    ------
    ImportError
        jinja2 is not installed.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # only a page needs it

    templates = Environment(loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined,
                            trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    templates.globals |= {"sign_of": figures.sign_of, "key_of": figures.key_of, "verdicts": VERDICTS}
    return templates.get_template("audit.html.j2").render(contents(found, options))


def contents(found: run.Found, options) -> dict:
    """What the page shows, by section, as plain texts and SVG."""
    gaps = _gaps(found.rates)
    changes = _changes(found.changes)
    tables = [("Rates and gaps", found.rates), *([("Changes", found.changes)] if found.changes is not None else [])]
    names = list(found.steps)
    file = Path(options.cohort or options.results).name
    return {
        "title": f"Audit of {Path(options.results or file).name} by {_and(names)}",
        "style": (HERE.parent / "report" / "report.css").read_text(encoding="utf-8")
        + (HERE / "templates" / "audit.css").read_text(encoding="utf-8"),
        "who": found.who,
        "warnings": [note for note in found.notes if note.startswith("NO PATIENTS")],
        "answer": answer(gaps, changes),
        "blocks": _blocks(found.rates, gaps),
        "forests": _forests(gaps, 0),
        "change_forests": _forests(changes, 1),
        "widest": _widest(found.rates),
        "curves": _curves(found, gaps, options),
        "steps": {name: steps.to_dict("records") for name, steps in found.steps.items()},
        "choices": _choices(found, options),
        "notes": [note for note in found.notes if not note.startswith("NO PATIENTS")],
        "tables": [_whole(title, table) for title, table in tables],
    }


def _gaps(rates: pd.DataFrame) -> pd.DataFrame:
    """Signed rows with a common form: estimate, low, high, verdict among `VERDICTS`, width in margins."""
    rows = rates[(rates["reference"] != "") & (rates["subgroup"] != "") & rates["verdict"].isin(VERDICTS)]
    return rows.assign(estimate=rows["value"], low=rows["ci_low"], high=rows["ci_high"], word=rows["verdict"],
                       width=(rows["value"].abs() / rows["margin"]).fillna(-1))  # fmt: skip


def _changes(changes: pd.DataFrame | None) -> pd.DataFrame | None:
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
        Of `_gaps` and `_changes`.
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
                f"{n - real - same - few} cannot be told from these data"]  # fmt: skip
        rest += [f"{few} rest on too few patients"] if few else []
        said.append(f"{head}; {_and(rest)}.")
        if not real and same < n:
            said.append(f"That is no proof of {'stability' if which else 'equality'}: only what is smaller than the "
                        "margin is shown to be so.")  # fmt: skip
        hits = claimed[words.isin(REAL)].sort_values("width", ascending=False, kind="stable")
        said += [plain_words(row, which) for row in hits.head(3).itertuples()]
    return said or ["These tables give figures of subgroups, and no gap that could be judged."]


def plain_words(row, which: int = 0) -> str:
    """One gap, or change (`which` 1), as a sentence.

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


def _blocks(rates: pd.DataFrame, gaps: pd.DataFrame) -> dict:
    """Tables of rates by subgroup, those of the widest gaps first."""
    own = rates[(rates["subgroup"] != "") & (rates["reference"] == "")]
    parts = dict(iter(own.groupby(KEYS, sort=False)))
    order = [key for key in _order(gaps, KEYS) if key in parts]
    order += [key for key in parts if key not in order]
    several, blocks = own["arm"].nunique() > 1 or own["level"].nunique() > 1, []
    for key in order[:MOST_BLOCKS]:
        part, (attribute, arm, level, task) = parts[key], key
        there = list(part["metric"].drop_duplicates())
        metrics = [name for name in SHOWN if name in there] or there[:4]
        cells = {(row.subgroup, row.metric): row for row in part.itertuples()}
        names = sorted(part["subgroup"].drop_duplicates(), key=natural)
        who = f", {arm}{'' if level == 1 else f' at {level:g}'}" if several else ""
        blocks.append({
            "title": f"{task}{who}: by {attribute}", "metrics": [label_of(name) for name in metrics],
            "rows": [{"name": name, "cells": [_cell(cells.get((name, metric))) for metric in metrics]}
                     for name in names],
        })  # fmt: skip
    return {"blocks": blocks, "left": len(order) - len(blocks)}


def _cell(row) -> dict:
    if row is None or not np.isfinite(row.value):
        few = "too few patients" if row is not None else "–"
        return {"value": few, "interval": "", "n": "" if row is None else _count(row.n_patients)}
    digits = decimals_of(row.unit)
    interval = between(row.ci_low, row.ci_high, digits) if np.isfinite(row.ci_low) else ""
    return {"value": number(row.value, digits), "interval": interval, "n": _count(row.n_patients)}


def _count(value) -> str:
    return f"{int(value):,}" if np.isfinite(value) else ""


def _forests(rows: pd.DataFrame | None, which: int) -> list[dict]:
    """The claims by metric's unit, then exploratory measures of which a gap is beyond chance, widest first."""
    if rows is None or rows.empty:
        return []
    claimed, found = rows[rows["role"] == "primary"], []
    for unit, part in claimed.groupby("unit", sort=False):
        names = _and([label_of(name) for name in part["metric"].unique()])
        found.append(_forest(f"The claims: {names}", part, unit, MOST_STRIPS, which))
    others = rows[rows["role"] != "primary"]
    for metric, part in others.groupby("metric", sort=False):
        if part["word"].isin(REAL).any():
            found.append(_forest(f"Exploratory: {label_of(metric)}", part, part["unit"].iloc[0], MOST_EACH, which))
    return found


def _forest(title: str, part: pd.DataFrame, unit: str, most: int, which: int) -> dict:
    """One forest plot: rows with their strips on one axis."""
    drawn = part.sort_values("width", ascending=False, kind="stable").head(most)
    digits, margin = decimals_of(unit), part["margin"].iloc[0]
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
    return {"title": title, "unit": unit, "margin": number(margin, digits) if np.isfinite(margin) else "",
            "axis": figures.axis(limit, digits, unit), "strips": strips, "left": len(part) - len(drawn),
            "counts": [(word, VERDICTS[word][which], n) for word, n in counts if n]}  # fmt: skip


def _name_of(row, which: int) -> str:
    label = {"1": ", with the finding", "0": ", without"}.get(row.label, "") if "shift" in row.metric else ""
    arm = f"{row.arm}{'' if row.level == 1 else f' at {row.level:g}'}: " if which or row.arm != "model" else ""
    return f"{arm}{row.task}, {label_of(row.metric)}{label}"


def _widest(rates: pd.DataFrame) -> dict:
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


def _curves(found: run.Found, gaps: pd.DataFrame, options) -> dict:
    """ROC and calibration by group of the tasks with the widest gaps."""
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


def _choices(found: run.Found, options) -> list[tuple[str, str]]:
    """Every option with its value, names of files without their folders, columns as they were found."""
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


def _whole(title: str, table: pd.DataFrame) -> dict:
    """The table as texts, at most `MOST_ROWS` of its rows, the claims first."""
    names = [name for name in (*COLUMNS[:10], *CHANGED, *COLUMNS[10:]) if name in table]
    first = table["role"].eq("primary").to_numpy()
    order = np.argsort(~first, kind="stable")[:MOST_ROWS]
    part = table.iloc[order]
    digits = [decimals_of(unit) for unit in part["unit"]]
    columns = []
    for name in names:
        values = part[name].tolist()
        if name in FIGURES:
            texts = [number(value, d) for value, d in zip(values, digits)]
        elif name == "p_adjusted":
            texts = [p_value(value) for value in values]
        elif name == "n_patients":
            texts = [_count(value) for value in values]
        else:
            texts = [f"{value:g}" if isinstance(value, float) else str(value) for value in values]
        columns.append(texts)
    return {"title": title, "names": names, "rows": list(zip(*columns)), "left": len(table) - len(part),
            "numbers": [name in (*FIGURES, "level", "p_adjusted", "n_patients") for name in names]}  # fmt: skip
