"""What the recorded groups cannot show, for the page: bounds for the unrecorded, and subgroups that nobody named.

Both are computed for the page alone, with the thresholds, arms and split of the rates beside them. The search is one
family: its alpha is shared by all arms, tasks and measures that are searched.
"""

import numpy as np
import pandas as pd

from fairrecon_core.audit.metrics import JOIN, UNKNOWN
from fairrecon_core.audit.thresholds import is_word
from fairrecon_core.measures import METRICS, decimals_of, label_of, unit_of
from fairrecon_lab.auditing import page_figures as figures
from fairrecon_lab.auditing import run
from fairrecon_lab.auditing.bounds import bounds_unrecorded
from fairrecon_lab.auditing.formats import between, number, p_value
from fairrecon_lab.auditing.page_sections import left_out
from fairrecon_lab.auditing.search import MOST_NAMES, search_subgroups
from fairrecon_lab.auditing.summary import REAL

CLAIMED = ("tpr", "fpr")  # what is bounded and searched of scores
ALPHA, LEAST_SUPPORT, DEPTH = 0.05, 20, 2  # of the search
MOST_STRIPS = 12
WORDS = {
    "different": "beyond chance, whoever the unrecorded are",
    "different_within_margin": "beyond chance and smaller than the margin, whoever the unrecorded are",
    "equivalent": "smaller than the margin, whoever the unrecorded are",
    "undetermined": "the unrecorded, or chance, could turn it",
    "not_estimable": "too few patients to estimate",
}
SEARCHED = {"different": "served worse, beyond chance", "undetermined": "cannot be told from these data"}


def unseen(found: run.Found, options) -> dict:
    """Both sections of the page, each with `text` (sentences), `forests` and a `table` (None where there is nothing).

    Parameters
    ----------
    found : run.Found
    options : Namespace
        Of `options.parse`, with which it was found.
    """
    return {"bounds": bounds_section(*bounded(found, options)), "search": search_section(*searched(found, options))}


def bounded(found: run.Found, options) -> tuple[pd.DataFrame | None, str]:
    """Bounds of TPR and FPR by every attribute.

    Parameters
    ----------
    found : run.Found
    options : Namespace
        Of `options.parse`, with which it was found.

    Returns
    -------
    table : DataFrame or None
    why : str
        There is no table; "" if there is.
    """
    scores, cohort = found.tables.scores, found.tables.cohort
    if scores is None:
        return None, "There are no decisions here, so no rates to bound."
    labels = [name for name in cohort if name.startswith("y_")]
    lacks = [names for names in found.tables.attributes
             if any(_missing(cohort[name]).any() for name in (*names, *labels))]  # fmt: skip
    if not lacks:
        return None, "Everybody in these files has every attribute and every label: nothing is left to bound."
    parts = [bounds_unrecorded(scores, cohort, names if len(names) > 1 else names[0], margin=options.margin,
                               reference=options.reference, metrics=CLAIMED, **found.shared)
             for names in lacks]  # fmt: skip
    return pd.concat(parts, ignore_index=True), ""


def _missing(values: pd.Series) -> np.ndarray:
    if pd.api.types.is_numeric_dtype(values):
        return values.isna().to_numpy()
    words = values.astype(object).where(values.notna(), UNKNOWN)
    return is_word(words.astype(str))[:-1]


def bounds_section(table: pd.DataFrame | None, why: str = "") -> dict:
    """The gaps of a table in words and figures.

    Parameters
    ----------
    table : DataFrame or None
        Of `bounded`.
    why : str
        There is none.
    """
    if table is None:
        return {"text": [why], "forests": [], "table": None}
    gaps = table[table["reference"].ne("") & (table["high"] > table["low"])]
    if gaps.empty:
        return {"text": ["No gap that could be estimated rests on anybody who is not recorded."], "forests": [],
                "table": table}  # fmt: skip
    sure = gaps["verdict"].isin(REAL)
    same, n = gaps["verdict"].eq("equivalent"), len(gaps)
    lost = [f"{name}: {int(part['patients_unknown'].max()):,} patients without {name}"
            for name, part in gaps.groupby("attribute", sort=False) if part["patients_unknown"].max()]  # fmt: skip
    unlabelled = int(gaps["images_unlabelled"].max())
    lost += [f"up to {unlabelled:,} images of a task without a label"] if unlabelled else []
    turn = n - int(sure.sum()) - int(same.sum())
    text = [
        f"Not recorded: {'; '.join(lost)}. They may belong to any subgroup, and an image may or may not show the "
        f"finding. Of the {n} gaps that they could move, {_count(sure.sum())} beyond chance and {_count(same.sum())} "
        f"smaller than the margin whatever is true of them; {_count(turn)} open."
    ]
    widest = (gaps["high"] - gaps["low"]).idxmax()
    text.append(f"The unrecorded matter most for {_bounds_words(gaps.loc[widest])}")
    order = np.lexsort([-(gaps["value"].abs() / gaps["margin"]).to_numpy(), ~sure])
    return {"text": text, "forests": [_bounds_forest(gaps.iloc[order])], "table": table}


def _count(n) -> str:
    n = int(n)
    return f"{n or 'none'} {'are' if n != 1 else 'is'}"


def _bounds_words(row) -> str:
    digits = decimals_of(unit_of(row["metric"]))
    ends = between(row["low"], row["high"], digits, sign=True)
    band = between(row["ci_low"], row["ci_high"], digits, sign=True)
    own = number(row["value"], digits, sign=True)
    return (f"{_head(row)}: {row['subgroup']} less {row['reference']} is {own} among the recorded and {ends} over all "
            f"that the others could be; with sampling error {band}.")  # fmt: skip


def _head(row) -> str:
    """Arm, task and measure."""
    level = "" if row["level"] == 1 else f" at {row['level']:g}"
    arm = f"{row['arm']}{level}, " if row["arm"] != "model" or level else ""
    return f"{arm}{row['task']}, {label_of(row['metric'])}"


def _bounds_forest(gaps: pd.DataFrame) -> dict:
    drawn = gaps.head(MOST_STRIPS)
    unit, digits = "rate", decimals_of("rate")
    limit = figures.limit_of([*drawn["ci_low"], *drawn["ci_high"], *drawn["margin"]])
    strips = [{
        "name": _head(row), "sides": f"{row['subgroup']} − {row['reference']}", "verdict": row["verdict"],
        "words": WORDS[row["verdict"]], "p": "–", "value": between(row["low"], row["high"], digits, sign=True),
        "interval": between(row["ci_low"], row["ci_high"], digits, sign=True),
        "svg": figures.strip(row["value"], row["ci_low"], row["ci_high"], (np.nan, np.nan), row["margin"], limit,
                             row["verdict"], _bounds_words(row), possible=(row["low"], row["high"])),
    } for _, row in drawn.iterrows()]  # fmt: skip
    return {"title": "Gaps over every possible value of what is missing", "unit": unit, "strips": strips,
            "axis": figures.axis(limit, digits, unit), "told": "worst to best case [with sampling error]",
            "left": left_out(len(drawn), len(gaps)), "counts": _counts(gaps["verdict"], WORDS)}  # fmt: skip


def _counts(verdicts: pd.Series, words: dict) -> list[tuple[str, str, int]]:
    return [(word, text, n) for word, text in words.items() if (n := int((verdicts == word).sum()))]


def searched(found: run.Found, options) -> tuple[pd.DataFrame | None, str]:
    """All intersections of the audited columns against everybody else, the surest first.

    Parameters
    ----------
    found : run.Found
    options : Namespace
        Of `options.parse`, with which it was found.

    Returns
    -------
    table : DataFrame or None
    why : str
        There is no table; "" if there is.
    """
    tables, own = found.tables, found.rates[found.rates["reference"].eq("") & found.rates["subgroup"].ne("")]
    every = list(dict.fromkeys(name for names in tables.attributes for name in names))
    columns = [name for name in every if tables.cohort[name].nunique() <= MOST_NAMES]
    if len(columns) < 2:
        return None, ("Intersections need two or more attributes of at most 12 groups: name more (--attribute sex "
                      "--attribute age) to search them.")  # fmt: skip
    measures = [] if tables.measures is None else [name for name in own["metric"].unique() if name in tables.measures]
    results, metrics = (tables.scores, CLAIMED) if tables.scores is not None else (tables.measures, measures[:1])
    n = len(own.loc[own["metric"].isin(metrics), ["arm", "level", "task", "metric"]].drop_duplicates())
    shared = {name: found.shared[name] for name in ("arms", "thresholds", "rule", "split", "seed")}
    if tables.scores is None:
        shared |= {"thresholds": None}
    parts = []
    for metric in metrics:
        try:
            parts.append(search_subgroups(
                results, tables.cohort, columns, depth=DEPTH, metric=metric, bins=MOST_NAMES, alpha=ALPHA / max(n, 1),
                min_support=max(LEAST_SUPPORT, options.min_support), n_boot=max(2000, 60 * n), **shared,
            ))  # fmt: skip
        except ValueError as error:
            if "no subgroup of" not in str(error):
                raise
    if not parts:
        return None, f"No intersection has {max(LEAST_SUPPORT, options.min_support)} patients: nothing to search."
    table = pd.concat(parts, ignore_index=True).assign(n_searches=n)
    if tables.scores is None:  # measures have one task, called as in the rates
        table["task"] = own["task"].iloc[0]
    surest = np.lexsort([-table["bound"].abs(), table["p_adjusted"]])
    table = table.iloc[surest].reset_index(drop=True)
    return table.assign(p_adjusted=np.minimum(table["p_adjusted"] * n, 1.0)), ""


def search_section(table: pd.DataFrame | None, why: str = "") -> dict:
    """A table of comparisons in words and figures.

    Parameters
    ----------
    table : DataFrame or None
        Of `searched`.
    why : str
        There is none.
    """
    if table is None:
        return {"text": [why], "forests": [], "table": None}
    hits, n = table[table["flagged"]], len(table)
    tried = table["subgroup"].nunique()
    text = [
        f"{tried} subgroups, of one or two traits with at least {int(table['n_patients'].min()):,} patients, were "
        f"compared with everybody else, {n:,} comparisons in all: {_count(len(hits))} served worse beyond chance. "
        "The chance of any false one among all of them is 5 % at most."
    ]
    text += [_search_words(row) for _, row in hits.head(3).iterrows()]
    if hits.empty:
        text.append("That is no proof that nobody is served worse: a small subgroup could be, by more than it shows.")
    forests = []
    for metric, part in table.groupby("metric", sort=False):
        drawn = part[part["flagged"]].head(MOST_STRIPS)
        drawn = drawn if len(drawn) else part.head(3)
        forests.append(_search_forest(metric, part, drawn))
    return {"text": text, "forests": forests, "table": table}


def _named(subgroup: str) -> str:
    return subgroup.replace(JOIN, " and ")


def _search_words(row) -> str:
    digits = decimals_of(row["unit"])
    least = f"worse by {number(abs(row['bound']), digits)} or more" if row["flagged"] else SEARCHED["undetermined"]
    return (f"{_head(row)}: {_named(row['subgroup'])} ({row['n_patients']:,} patients) "
            f"{number(row['value'], digits)}, everybody else {number(row['rest'], digits)}: {least}, "
            f"p {p_value(row['p_adjusted'])}.")  # fmt: skip


def _search_forest(metric: str, part: pd.DataFrame, drawn: pd.DataFrame) -> dict:
    unit = part["unit"].iloc[0]
    digits = decimals_of(unit)
    limit = figures.limit_of([*drawn["gap"], *drawn["bound"]])
    strips = []
    for _, row in drawn.iterrows():
        verdict = "different" if row["flagged"] else "undetermined"
        ends = sorted([row["bound"], row["gap"]])
        strips.append({
            "name": _head(row), "sides": f"{_named(row['subgroup'])} − everybody else, n = {row['n_patients']:,}",
            "verdict": verdict, "words": SEARCHED[verdict], "p": p_value(row["p_adjusted"]),
            "value": number(row["gap"], digits, sign=True),
            "interval": number(row["bound"], digits, sign=True) if np.isfinite(row["bound"]) else "–",
            "svg": figures.strip(row["gap"], *ends, (np.nan, np.nan), np.nan, limit, verdict, _search_words(row)),
        })  # fmt: skip
    better = METRICS[metric].better if metric in METRICS else "lower"
    verdicts = part["flagged"].map({True: "different", False: "undetermined"})
    return {"title": f"{label_of(metric)}: {'below' if better == 'higher' else 'above'} 0 is worse", "unit": unit,
            "axis": figures.axis(limit, digits, unit), "told": "estimate [bound: worse by that at least]",
            "strips": strips, "left": left_out(len(drawn), len(part), "surest of {} comparisons"),
            "counts": _counts(verdicts, SEARCHED)}  # fmt: skip
