"""One model is enough: which rates does each subgroup get, and which gaps between subgroups can these data tell?

    table = audit_single(predictions, cohort, "sex")

Four kinds of rows, by arm (each stands alone) and task, all by patient:

- of one subgroup (`reference` empty): its own figure with an interval; no p-value, no verdict.
- signed: `value` is the subgroup's figure minus that of `reference`, with interval, p-value, noise band and verdict.
- max-min (`subgroup` empty): the widest gap, its interval, and the noise band: what it would be were all alike.
- `estimator` "omnibus": do the subgroups differ at all? A p-value alone; with two subgroups the signed row says it.

Verdicts are "different", "different_within_margin", "equivalent", "undetermined", "not_estimable"; or "descriptive", a
figure without an interval. As in `change.py` one family, `role` "primary", carries the claims, p, interval and verdict
of a row answer one question, and *different* is said only where the p-value adjusted over the family is at most alpha.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd

from fairrecon_core.audit import inference, multiplicity
from fairrecon_core.audit.change import floored_spread, reference_of, stratum_of, subgroups_of, threshold_shift
from fairrecon_core.audit.engine import Stratum, patient_codes
from fairrecon_core.audit.groups import GroupMeans, resample_means, with_shift
from fairrecon_core.audit.matching import DEFAULTS, Matched, match
from fairrecon_core.audit.metrics import logit
from fairrecon_core.audit.rows import COLUMNS, DESCRIPTIVE, Choices, kind_of
from fairrecon_core.measures import METRICS, UNITS, gap_of, margin_of, unit_of
from fairrecon_lab.auditing import linearised

ASKED = ("rates", "ppv", "accuracy", "auroc", "auprc", "brier", "calibration", "ece", "score_shift")
SINGLE_COLUMNS = tuple(name for name in COLUMNS if "baseline" not in name and "delta" not in name)
LINEARISED: dict[str, Callable] = {
    "auroc": linearised.area_under_roc,
    "auprc": linearised.average_precision,
    "calibration_intercept": partial(linearised.recalibration, free_slope=False),
    "calibration_slope": partial(linearised.recalibration, free_slope=True),
}
WORDS = {"changed": "different", "changed_within_margin": "different_within_margin", "": "not_estimable"}
ADJUST: dict[str, Callable] = {"max_t": multiplicity.holm, "bh": multiplicity.benjamini_hochberg, "none": np.array}


class _View(NamedTuple):
    """Subgroups to be compared: code of every image, their names, the reference's number, who is compared with it."""

    codes: np.ndarray
    names: list
    reference: int
    compared: range


class _Cell(NamedTuple):
    """One measure of one arm and task in one view."""

    arm: str
    level: float
    task: str
    metric: str
    label: str
    view: _View
    result: GroupMeans


def audit_single(
    predictions: pd.DataFrame, cohort: pd.DataFrame, attribute, *, arms=None, thresholds=None, rule="sens_spec",
    margin=0.05, alpha=0.05, min_support=10, n_boot=10_000, reference="largest", adjust="max_t", split="test", seed=0,
    metrics=None,
) -> pd.DataFrame:  # fmt: skip
    """Audit every arm of a table by itself: figures of each subgroup, and gaps between subgroups with verdicts.

    Parameters
    ----------
    predictions, cohort, attribute
        As in `change.audit_change`; without a column `arm` the table is one model's. Where there is no score, all
        other columns of numbers are measures of an image, such as `dice` or `hd95`.
    arms : sequence of str, optional
        Arms to audit; default all.
    thresholds, rule, split
        As in `change.audit_change`. None: "validation_frozen" on each arm's own validation images, else 0.5.
    margin : float or dict of unit, or metric, to float
        Gaps within +- margin do not matter. A measure of unknown unit needs its own, or is never *equivalent*.
    alpha, min_support, n_boot, seed
        As in `change.audit_change`.
    reference : str
        A subgroup's name, "largest", "rest" (each against all others together) or "all-pairs".
    adjust : {"max_t", "bh", "none"}
        Of signed rows over their family; max-min and omnibus rows are adjusted by Holm in place of max-T.
    metrics : sequence of str, optional
        Any of `ASKED` ("rates" are TPR and FPR; "calibration" is also the intercept and the slope of the logistic
        recalibration), or names of columns with measures. The first of "rates", "dice" and the others given that is
        there carries the claims.

    Returns
    -------
    table : DataFrame
        Columns `SINGLE_COLUMNS`; `table.attrs["notes"]` lists what was left out and assumed.

    Raises
    ------
    ValueError
        As in `change.audit_change`; the text names the value.

    Examples
    --------
    >>> table = audit_single(predictions, cohort, "sex", thresholds=0.5, n_boot=2000)  # doctest: +SKIP
    """
    choices = Choices(n_boot, seed, margin, alpha, min_support, "mean", adjust, "attribute")
    if adjust not in ADJUST or not 0 < alpha < 0.5 or n_boot < 100:
        raise ValueError(f"need adjust of {', '.join(ADJUST)}, 0 < alpha < 0.5, and at least 100 resamples, "
                         f"got {adjust=}, {alpha=}, {n_boot=}")  # fmt: skip
    if "arm" not in predictions:
        predictions = predictions.assign(arm="model")
    asked, measures = _asked(predictions, metrics)
    if measures:
        predictions = predictions.drop(columns="score", errors="ignore")
    matched = match(predictions, cohort, baseline_arm=None, arms=arms, thresholds=thresholds, rule=rule, split=split,
                    seed=seed, measures=measures)  # fmt: skip
    name, names, codes = subgroups_of(matched, attribute)
    patient, ids = patient_codes(matched.images["patient_id"])
    views = _views(reference, names, codes, patient)
    cells, extra = [], []
    for i in map(int, np.flatnonzero(matched.baseline_of >= 0)):
        for view in views:
            cells += list(_cells(matched, i, view, patient, len(ids), asked, choices))
        extra += _ece_rows(matched, i, views, patient, choices) if "ece" in asked else []
    rows = _rows(cells, views[0], name, choices)
    kinds = list(dict.fromkeys(kind_of(cell.metric) for cell in cells))
    primary = next((kind for kind in ("rates", "dice", *kinds) if kind in kinds), "")
    table = pd.DataFrame(rows + extra).assign(cohort=matched.cohort, attribute=name, n_boot=n_boot)
    claim = table["metric"].map(kind_of).eq(primary) & table["reference"].ne("")
    table["role"] = np.where(claim, "primary", "exploratory")
    decided = table["metric"].isin(["tpr", "fpr", "eop", "fpr_gap", "ppv", "ppv_gap", "accuracy", "accuracy_gap"])
    table["threshold_policy"] = np.where(decided, matched.policy, "")
    table = table.reindex(columns=list(SINGLE_COLUMNS)).reset_index(drop=True)
    table.attrs["notes"] = list(dict.fromkeys([*matched.notes, *_notes(matched, table, choices)]))
    return table


def _margin(metric: str, choices: Choices) -> float:
    """Of the metric or its unit; NaN for a measure of unknown unit without a margin of its own."""
    if isinstance(choices.margin, dict) and metric in choices.margin:
        return choices.margin[metric]
    return margin_of(unit_of(metric), choices.margin) if unit_of(metric) in UNITS else np.nan


def _asked(predictions: pd.DataFrame, metrics) -> tuple[tuple, tuple]:
    """Metrics of scores, and columns with measures of images; ValueError for what is neither."""
    keys = {"image_id", "arm", "task", "score", *DEFAULTS}
    numeric = [name for name in predictions if name not in keys and pd.api.types.is_numeric_dtype(predictions[name])]
    scored = "score" in predictions or {"intersection", "predicted", "actual"} <= set(predictions.columns)
    wanted = [metrics] if isinstance(metrics, str) else metrics if metrics is not None else ASKED if scored else numeric
    for metric in wanted:
        if metric not in ASKED and metric not in predictions:
            raise ValueError(f"unknown metric {metric!r}; choose from {', '.join((*ASKED, *numeric))}")
    measures = tuple(metric for metric in wanted if metric not in ASKED)
    if measures and len(measures) < len(wanted):
        raise ValueError(f"{measures[0]!r} measures images and {next(m for m in wanted if m in ASKED)!r} scores: "
                         "audit one after the other")  # fmt: skip
    return tuple(metric for metric in wanted if metric in ASKED), measures


def _views(reference: str, names: list[str], codes: np.ndarray, patient) -> list[_View]:
    """What is compared with what; the first holds all subgroups."""
    everybody = range(len(names))
    if reference == "all-pairs":
        return [_View(codes, names, r, everybody[r + 1 :]) for r in everybody[:-1]]
    if reference != "rest":
        return [_View(codes, names, int(reference_of(reference, names, codes, patient)), everybody)]
    against = [(np.where(codes < 0, -1, codes != g), [names[g], "rest"]) for g in everybody]
    return [_View(codes, names, 0, range(0)), *(_View(*sides, 1, range(1)) for sides in against)]


def _cells(matched: Matched, i: int, view: _View, patient, n_patients, asked, choices) -> Iterator[_Cell]:
    """All measures of condition `i` in one view."""
    n_groups, (arm, level) = len(view.names), matched.conditions[i]
    shared = {"n_boot": choices.n_boot, "seed": choices.seed, "reference": view.reference, "n_patients": n_patients}
    shared |= {"min_support": choices.min_support}
    named = _means(matched, i, patient, asked)
    known = {task: np.flatnonzero(~np.isnan(score[i] + matched.truth[task])) for task, score in matched.score.items()}
    support = {}
    for task, rows in known.items():
        both = [np.array([len(np.unique(patient[rows[(view.codes[rows] == g) & (matched.truth[task][rows] == label)]]))
                          for g in range(n_groups)]) for label in (0, 1)]  # fmt: skip
        for metric in [name for name in LINEARISED if name.split("_")[0] in asked]:
            support[task, metric] = np.minimum(*both)
            values = matched.score[task][i], matched.truth[task], matched.fold
            named.append((task, metric, "", _in_groups(metric, *values, rows, view, support[task, metric], choices)))
    named = [one for one in named if np.asarray(one[3].weight).any()]
    if named:
        (whole,) = resample_means(patient, view.codes, [one[3] for one in named], [n_groups], **shared)
    for s, (task, metric, label, stratum) in enumerate(named):
        result = stratum_of(whole, s)
        if (task, metric) in support:
            result = _with_support(result, support[task, metric])
        if metric in ("tpr", "fpr") and task in matched.cut_draws:
            every = np.arange(len(patient))
            shift = threshold_shift(matched, task, every, [i], view.codes, stratum, n_groups)
            result = with_shift(result, shift, choices.seed)
        result = linearised.for_uneven_patients(result, stratum, patient, view.codes)
        yield _Cell(arm, level, task, metric, label, view, result if stratum.rate else floored_spread(result))


def _means(matched: Matched, i: int, patient, asked) -> list[tuple]:
    """(task, metric, label, Stratum) of everything that is a mean over rows."""
    named = []
    for task, score in matched.score.items():
        truth, score, decision = matched.truth[task], score[[i]], matched.decision[task][[i]]
        scored, decided = ~np.isnan(score[0] + truth), ~np.isnan(decision[0] + truth)
        right = np.where(truth == 1, decision, 1 - decision)
        logits = logit(np.where(np.isnan(score), 0.5, score))
        found = {
            "rates": [("tpr", "1", decision, decided & (truth == 1)), ("fpr", "0", decision, decided & (truth == 0))],
            "ppv": [("ppv", "", truth[None], np.where(decided, decision[0], 0))],
            "accuracy": [("accuracy", "", right, decided)],
            "brier": [("brier", "", (score - truth) ** 2, scored)],
            "calibration": [("calibration", "", score - truth, scored)],
            "score_shift": [("score_shift", str(label), logits, scored & (truth == label)) for label in (1, 0)],
        }
        named += [(task, metric, label, Stratum(metric, values, weight, unit_of(metric) == "rate"))
                  for kind in asked for metric, label, values, weight in found.get(kind, [])]  # fmt: skip
    for name, values in matched.measure.items():
        usable = np.isfinite(values[i])
        n_rows = np.bincount(patient[usable], minlength=patient.max() + 1)[patient]
        rate = unit_of(name) == "rate"
        weight = usable if rate else np.where(usable, 1 / np.maximum(n_rows, 1), 0)  # a mean of patients' means
        named.append(("segmentation" if "dice" in matched.measure else "images", name, "",
                      Stratum(name, values[[i]], weight, rate)))  # fmt: skip
    return named


def _in_groups(metric: str, score, truth, fold, rows, view: _View, support, choices) -> Stratum:
    """A measure of scores as a mean of values within each subgroup that has the support."""
    values, weight = np.zeros((1, len(score))), np.zeros(len(score))
    for g in np.flatnonzero(support >= max(choices.min_support, 2)):
        own = rows[view.codes[rows] == g]
        found = LINEARISED[metric](score[own], truth[own], *([fold[own]] if metric == "auroc" else []))
        values[0, own], weight[own] = np.nan_to_num(found), np.isfinite(found)
    return Stratum(metric, values, weight, rate=False)


def _with_support(result: GroupMeans, support) -> GroupMeans:
    """Support counted in patients of the scarcer label, as of an AUROC."""
    df = {kind: np.minimum(df, np.maximum(support - 1, 1)) for kind, df in result.df.items()}
    least = np.minimum(df["gap"], df["level"][..., [result.reference]])
    return dataclasses.replace(result, n_patients=support[None], df=df | {"gap": least})


def _rows(cells: list[_Cell], first: _View, attribute: str, choices: Choices) -> list[dict]:
    """Rows of all cells; p-values adjusted over their families."""
    rows, gaps = [], []
    for cell in (cell for cell in cells if cell.view is first):
        rows += _level_rows(cell, choices)
        gaps += _widest_rows(cell, attribute, choices)
    rows += _signed_rows(cells, attribute, choices)
    for family in dict.fromkeys(row["family"] for row in gaps):
        members = [row for row in gaps if row["family"] == family]
        for row, p_adjusted in zip(members, ADJUST[choices.adjust]([row["p_value"] for row in members])):
            row |= {"p_adjusted": float(p_adjusted), "verdict": _verdict(row, p_adjusted, choices.alpha)}
    return rows + gaps


def _head(cell: _Cell, choices: Choices) -> dict:
    head = {"arm": cell.arm, "level": cell.level, "task": cell.task, "metric": cell.metric, "label": cell.label}
    return head | {"estimator": "plug_in", "unit": unit_of(cell.metric), "margin": _margin(cell.metric, choices)}


def _verdict(row: dict, p_adjusted: float, alpha: float) -> str:
    known = row["p_value"] if row["estimator"] == "omnibus" else row["value"]
    word = inference.verdicts_of(known, row["ci_low"], row["ci_high"], p_adjusted, row["margin"], alpha)
    return WORDS.get(str(word), str(word))


def _level_rows(cell: _Cell, choices: Choices) -> list[dict]:
    """Each subgroup's own figure."""
    level, metric = inference.contrast(cell.result, "level"), METRICS.get(cell.metric)
    limits = (metric.low, metric.high) if metric else (-np.inf, np.inf)
    low, high = (np.clip(bound, *limits)[0, 0] for bound in linearised.area_interval(cell.metric, level, choices.alpha))
    n = cell.result.n_patients
    return [
        _head(cell, choices)
        | {"subgroup": name, "reference": "", "value": level.estimate[0, 0, g], "ci_low": low[g],
                "ci_high": high[g], "family": "", "n_patients": int(n[0, g]), "smallest_group": int(n[0, g]),
                "verdict": "" if np.isfinite(level.estimate[0, 0, g]) else "not_estimable"}
        for g, name in enumerate(cell.view.names)
    ]  # fmt: skip


def _widest_rows(cell: _Cell, attribute: str, choices: Choices) -> list[dict]:
    """The max-min gap, and the omnibus test of more than two subgroups."""
    result, n, metric = cell.result, cell.result.n_patients[0], gap_of(cell.metric)
    gap = inference.range_interval(result, alpha=choices.alpha)
    band = inference.noise_band(inference.group_range(inference.null_draws(result)[:, 0]), choices.alpha)
    known = ~np.isnan(result.value[0, 0])
    row = _head(cell, choices) | {
        "metric": metric, "subgroup": "", "reference": "", "value": gap.value[0, 0], "ci_low": gap.low[0, 0],
        "ci_high": gap.high[0, 0], "p_value": gap.p_value[0, 0], "band_low": band.low[0], "band_high": band.high[0],
        "family": f"{attribute}/{metric}", "n_patients": int(n.sum()),
        "smallest_group": int(n[known].min(initial=n.max())),
    }  # fmt: skip
    if len(n) == 2:  # then the signed row is the same test, and sharper
        return [row]
    p_value = multiplicity.omnibus_test(inference.contrast(result, "level")).p_value[0, 0]
    empty = dict.fromkeys(("value", "ci_low", "ci_high", "band_low", "band_high"), np.nan)
    return [row, row | empty | {"estimator": "omnibus", "p_value": p_value, "family": f"{row['family']}/omnibus"}]


def _signed_rows(cells: list[_Cell], attribute: str, choices: Choices) -> list[dict]:
    """Gaps to the reference, adjusted over all cells of one kind of metric."""
    rows: list[dict] = []
    for kind in dict.fromkeys(kind_of(cell.metric) for cell in cells):
        own = [cell for cell in cells if kind_of(cell.metric) == kind and len(cell.view.compared)]
        questions = []
        for cell in own:
            gap = inference.contrast(cell.result, "gap")
            compared = np.isin(np.arange(len(cell.view.names)), cell.view.compared)
            questions.append(dataclasses.replace(gap, estimate=np.where(compared, gap.estimate, np.nan)))
        asked = [linearised.deviates(one, cell.result, unit_of(cell.metric) == "rate")
                 for one, cell in zip(questions, own)] if choices.adjust == "max_t" else questions  # fmt: skip
        adjusted = multiplicity.adjusted(asked, choices.adjust)
        for cell, question, p_adjusted in zip(own, questions, adjusted):
            rows += _signed_cell(cell, question, p_adjusted[0, 0], f"{attribute}/{kind}", choices)
    return rows


def _signed_cell(cell: _Cell, question: inference.Contrast, p_adjusted, family: str, choices: Choices) -> list[dict]:
    (low, high), p_value = question.interval(choices.alpha), question.p_value()[0, 0]
    n, r, rows = cell.result.n_patients[0], cell.view.reference, []
    mde = inference.minimal_detectable_effect(question.se, choices.alpha)[0, 0]
    for g in (g for g in cell.view.compared if g != r):
        value, half = question.estimate[0, 0, g], (high - question.estimate)[0, 0, g]
        row = _head(cell, choices) | {
            "subgroup": cell.view.names[g], "reference": cell.view.names[r], "value": value, "family": family,
            "ci_low": low[0, 0, g], "ci_high": high[0, 0, g], "p_value": p_value[g], "p_adjusted": p_adjusted[g],
            "band_low": -half, "band_high": half, "mde": mde[g] if np.isfinite(value) else np.nan,
            "n_patients": int(n[g] + n[r]), "smallest_group": int(min(n[g], n[r])),
        }  # fmt: skip
        rows.append(row | {"verdict": _verdict(row, p_adjusted[g], choices.alpha)})
    return rows


def _ece_rows(matched: Matched, i: int, views: list[_View], patient, choices: Choices) -> list[dict]:
    """Expected calibration errors: figures beside what chance alone gives, without interval or verdict."""
    rows, (arm, level) = [], matched.conditions[i]
    for (task, score), view in ((one, view) for one in matched.score.items() for view in views):
        known, found, n = ~np.isnan(score[i] + matched.truth[task]), {}, {}
        for g in range(len(view.names)):
            own = np.flatnonzero(known & (view.codes == g))
            n[g] = len(np.unique(patient[own]))
            found[g] = [np.nan] * 4
            if n[g] >= max(choices.min_support, 2):
                arrays = (array[own] for array in (score[i], matched.truth[task], patient))
                plain, debiased, chance = linearised.calibration_errors(*arrays)
                found[g] = [plain, debiased, *np.quantile(chance, [choices.alpha / 2, 1 - choices.alpha / 2])]
        pairs: list[tuple[int, int | None]] = [(g, None) for g in found if view is views[0]]
        pairs += [(g, view.reference) for g in view.compared if g != view.reference]
        for (g, r), (k, metric) in itertools.product(pairs, enumerate(("ece", "ece_debiased"))):
            value = found[g][k] - (0 if r is None else found[r][k])
            band = found[g][2:] if r is None and k == 0 else [np.nan, np.nan]
            rows.append({
                "arm": arm, "level": level, "task": task, "metric": metric, "label": "", "subgroup": view.names[g],
                "reference": "" if r is None else view.names[r], "estimator": "plug_in", "value": value,
                "band_low": band[0], "band_high": band[1], "unit": unit_of(metric), "family": "",
                "margin": _margin(metric, choices), "n_patients": n[g] + (0 if r is None else n[r]),
                "smallest_group": n[g] if r is None else min(n[g], n[r]),
                "verdict": DESCRIPTIVE if np.isfinite(value) else "not_estimable",
            })  # fmt: skip
    return rows


def _notes(matched: Matched, table: pd.DataFrame, choices: Choices) -> list[str]:
    """What holds for the whole table."""
    notes = [f"{task}: {n} of {len(truth)} images have no label" for task, truth in matched.truth.items()
             if (n := int(np.isnan(truth).sum()))]  # fmt: skip
    notes += [
        f"several samples or seeds of {name} are averaged: the figures hold for these" for name in matched.per_seed
    ]
    if matched.cut_draws:
        notes.append("intervals of TPR and FPR count the choice of thresholds; those of PPV and accuracy do not")
    if table["metric"].eq("ece").any():
        notes.append(
            f"ECE: {linearised.ECE_BINS} bins of equal width; above 0 by chance, the more so in small subgroups (band: "
            "what a calibrated score would show); 'ece_debiased' is without this; neither has an interval or a verdict"
        )
    unknown = sorted(set(table.loc[table["margin"].isna() & table["subgroup"].ne(""), "metric"]))
    return notes + [f"no margin for {name}: none of its gaps is called equivalent; give one" for name in unknown]
