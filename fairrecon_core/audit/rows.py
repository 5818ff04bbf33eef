"""Rows of the audit table: figures, families and verdicts of what was resampled.

Three kinds, described in `change.py`: signed (subgroup against reference), within one subgroup, and max-min; the first
two also "nested", where the choice of a sample, a training seed or a fold's network counts as uncertainty. Axes as in
`groups.py`: S strata (here one), A conditions with the baseline first, G subgroups. Throughout: `parts` are the
resampled strata, `names` the subgroups, `attribute` is what they are subgroups of, `choices` what the caller decided.
"""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.stats import norm

from fairrecon_core.audit import inference, multiplicity
from fairrecon_core.audit.groups import GroupMeans
from fairrecon_core.audit.metrics import aggregate
from fairrecon_core.measures import gap_of, margin_of, unit_of

COLUMNS = (
    "cohort", "baseline_arm", "arm", "level", "task", "attribute", "metric", "label", "subgroup", "reference",
    "estimator", "role", "value", "ci_low", "ci_high", "baseline", "delta", "delta_ci_low", "delta_ci_high", "p_value",
    "p_adjusted", "family", "margin", "verdict", "band_low", "band_high", "mde", "unit", "n_patients",
    "smallest_group", "n_boot", "threshold_policy",
)  # fmt: skip
VERDICTS = (*inference.VERDICTS, "not_estimable")
DESCRIPTIVE = "descriptive"  # a figure without an interval or test
FLIPPING = ("tpr", "fpr")  # means of decisions
FIGURES = ("value", "ci_low", "ci_high", "baseline", "delta", "delta_ci_low", "delta_ci_high", "band_low", "band_high")


@dataclasses.dataclass(frozen=True)
class Choices:
    """What the caller decided, handed through."""

    n_boot: int
    seed: int
    margin: float | dict
    alpha: float
    min_support: int
    agg: str
    adjust: str
    family: str
    primary: str = ""

    def margin_of(self, unit: str) -> float:
        """Equivalence margin of a unit."""
        return margin_of(unit, self.margin)


@dataclasses.dataclass(frozen=True)
class StratumResult:
    """Results of one stratum (task, metric, label) for a baseline and the conditions compared with it."""

    task: str
    metric: str
    label: str
    result: GroupMeans  # S = 1
    arms: list  # (arm, level) of the conditions, without the baseline
    change_p: np.ndarray  # (A - 1,) omnibus: did the subgroups change differently?
    change_by_replicate: np.ndarray | None = None  # (replicates, A - 1, G)
    did_by_replicate: np.ndarray | None = None
    folds: bool = False  # the replicates are folds, which have patients of their own

    @property
    def did(self) -> inference.Contrast:
        """The DiD of every subgroup; made when asked for, because the deviations of all strata fill the memory."""
        return inference.contrast(self.result, "did")


def kind_of(metric: str) -> str:
    """Metrics that are one question: TPR and FPR are "rates"."""
    return "rates" if metric in ("tpr", "fpr") else metric


def signed_rows(parts: list[StratumResult], names: list[str], attribute: str, choices: Choices) -> list[dict]:
    """Signed rows (subgroup against reference) and rows within one subgroup, "plug_in" and "nested".

    Parameters
    ----------
    parts, names, attribute, choices
        As throughout this file.

    Returns
    -------
    rows : list of dict
        With the columns of the audit table that differ between rows.
    """
    adjusted, within = _adjusted(parts, choices), _adjusted_within(parts, choices)
    rows = []
    for part, p_signed, p_within in zip(parts, adjusted, within):
        for kind, moved, p_used in (
            ("gap", part.did, p_signed),
            ("level", inference.contrast(part.result, "change"), p_within),
        ):
            state = inference.contrast(part.result, kind)
            own = part.result.n_patients[0] if part.metric in FLIPPING else None
            columns = _columns(state, moved, moved.p_value(), choices.alpha, own)
            columns |= {"p_adjusted": p_used, "verdict": inference.verdicts(
                moved, choices.margin_of(unit_of(part.metric)), choices.alpha, p_used)}  # fmt: skip
            plain = _rows_of(part, kind, columns, names, attribute, choices)
            rows += plain + _nested_rows(part, kind, moved, plain, choices)
    return _with_roles(_adjust_nested(rows, choices), choices)


def _rows_of(part: StratumResult, kind: str, columns: dict, names, attribute: str, choices: Choices) -> list[dict]:
    """One row per condition and subgroup from `columns`, arrays (1, A - 1, G)."""
    result, signed, unit = part.result, kind == "gap", unit_of(part.metric)
    n, rest = result.n_patients[0], result.reference == "rest"
    n_reference = n.sum() - n if rest else np.full(len(n), n[result.reference])
    versus = "rest" if rest else names[result.reference]
    rows = []
    for (a, (arm, level)), (g, subgroup) in itertools.product(enumerate(part.arms), enumerate(names)):
        if signed and not rest and g == result.reference:
            continue
        row = {"arm": arm, "level": level, "task": part.task, "metric": part.metric, "label": part.label}
        row |= {"subgroup": subgroup, "reference": versus if signed else "", "estimator": "plug_in", "unit": unit}
        row |= {name: array[0, a, g] for name, array in columns.items()}
        row["verdict"] = str(row["verdict"]) or "not_estimable"
        row["family"] = _family(attribute, kind_of(part.metric), "" if signed else "within", (arm, level), choices)
        half = row["delta_ci_high"] - row["delta"]
        row |= {"margin": choices.margin_of(unit), "band_low": -half, "band_high": half}
        row |= {"n_patients": int(n[g] + n_reference[g] * signed)}
        rows.append(row | {"smallest_group": int(min(n[g], n_reference[g]) if signed else n[g]), "_at": (a, g)})
    return rows


def _family(attribute: str, what: str, which: str, condition: tuple, choices: Choices) -> str:
    """Name of the cells over which a p-value is adjusted."""
    own = "{}@{:g}".format(*condition) if choices.family == "arm" else ""
    return "/".join(part for part in (attribute, what, which, own) if part)


def _columns(state: inference.Contrast, moved: inference.Contrast, p_value, alpha: float, n_group=None) -> dict:
    """Figures of one question: the arm's state, the baseline's, and the change between them; arrays (1, A - 1, G).

    Where decisions flip, an effect brings flips of its own: `n_group`, the subgroup's patients, enters the MDE.
    """
    low, high = state.interval(alpha)
    delta_low, delta_high = moved.interval(alpha)
    baseline = np.broadcast_to(state.estimate[:, :1], moved.estimate.shape)
    n_group = None if n_group is None else np.maximum(n_group, 1)
    mde = inference.minimal_detectable_effect(moved.se, alpha, n_group=n_group)
    return {
        "value": state.estimate[:, 1:], "ci_low": low[:, 1:], "ci_high": high[:, 1:], "baseline": baseline,
        "delta": moved.estimate, "delta_ci_low": delta_low, "delta_ci_high": delta_high, "p_value": p_value,
        "mde": np.where(np.isnan(moved.estimate), np.nan, mde),
    }  # fmt: skip


def _families(parts: list[StratumResult], choices: Choices) -> dict[str, list[tuple[int, int]]]:
    """Which cells, as (part, arm), share an error rate."""
    families: dict = {}
    for i, part in enumerate(parts):
        for a, condition in enumerate(part.arms):
            families.setdefault(_family("", kind_of(part.metric), "", condition, choices), []).append((i, a))
    return families


def _adjusted(parts: list[StratumResult], choices: Choices) -> list[np.ndarray]:
    """Adjusted p-values of the DiD of every part, (1, A - 1, G)."""
    out = [np.full((1, len(part.arms), part.result.value.shape[-1]), np.nan) for part in parts]
    for cells in _families(parts, choices).values():
        did = {i: parts[i].did for i in {i for i, _ in cells}}
        questions = [_one_arm(did[i], a) for i, a in cells]
        for (i, a), value in zip(cells, multiplicity.adjusted(questions, choices.adjust)):
            out[i][:, a] = value[:, 0]
    return out


def _adjusted_within(parts: list[StratumResult], choices: Choices) -> list[np.ndarray]:
    """The same of the changes within subgroups; single-step max-T, one part in memory at a time."""
    families, family, out, sizes = _families(parts, choices), multiplicity.SingleStep(), [], {}
    home = {cell: name for name, cells in families.items() for cell in cells}
    for i, part in enumerate(parts):
        change = inference.contrast(part.result, "change")
        out.append(np.full(change.estimate.shape, np.nan) if choices.adjust == "max_t" else change.p_value())
        for a in range(len(part.arms) if choices.adjust == "max_t" else 0):
            keep = np.isfinite(change.estimate) & (np.arange(len(part.arms)) == a)[:, None]
            sizes[i, a] = keep, family.add(home[i, a], change, keep)
    for (i, a), (keep, size) in sizes.items():
        if size.size:
            out[i][keep] = family.p_value(home[i, a], size)
    for cells in families.values() if choices.adjust == "bh" else ():
        raw = [out[i][:, [a]] for i, a in cells]
        for (i, a), value in zip(cells, multiplicity.split_like(raw, multiplicity.benjamini_hochberg)):
            out[i][:, [a]] = value
    return out


def _nested_rows(part: StratumResult, kind: str, moved: inference.Contrast, plain: list, choices: Choices) -> list:
    """The same rows with the networks as a sample; none without replicates."""
    estimates = part.did_by_replicate if kind == "gap" else part.change_by_replicate
    if estimates is None:
        return []
    spread = None if part.folds else multiplicity.spread(moved.deviations)[0]
    both = multiplicity.nested(estimates, spread, choices.alpha)
    rows = []
    for row in plain:
        at = row["_at"]
        if both.n[at] < 2 or row["verdict"] == "not_estimable":
            continue
        low, high = both.low[at], both.high[at]
        new = {"estimator": "nested", "delta": both.value[at], "delta_ci_low": low, "delta_ci_high": high}
        new |= {"p_value": both.p_value[at], "p_adjusted": np.nan, "family": f"{row['family']}/nested"}
        half = (high - low) / 2
        se = half / norm.ppf(1 - choices.alpha / 2)  # that a normal law of this width would have
        own = row["smallest_group"] if part.metric in FLIPPING else None
        mde = inference.minimal_detectable_effect(se, choices.alpha, n_group=own)
        rows.append(row | new | {"mde": mde, "band_low": -half, "band_high": half})
    return rows


def _adjust_nested(rows: list[dict], choices: Choices) -> list[dict]:
    """Adjust nested rows over their family, and put their verdicts."""
    for row in rows:
        del row["_at"]
    _adjust([row for row in rows if row["estimator"] == "nested"], choices)
    return rows


def _with_roles(rows: list[dict], choices: Choices) -> list[dict]:
    """Mark the signed rows of the primary metric: the nested ones, where there are any."""
    led = {row["family"].removesuffix("/nested") for row in rows if row["estimator"] == "nested"}
    for row in rows:
        leads = row["estimator"] == "nested" or row["family"] not in led
        claim = leads and row["reference"] != "" and kind_of(row["metric"]) == choices.primary
        row["role"] = "primary" if claim else "exploratory"
    return rows


def _one_arm(question: inference.Contrast, a: int) -> inference.Contrast:
    return inference.Contrast(
        question.kind, question.estimate[:, a : a + 1], question.deviations[:, :, a : a + 1],
        question.se[:, a : a + 1], question.df[:, a : a + 1],
    )  # fmt: skip


def gap_rows(parts: list[StratumResult], attribute: str, choices: Choices) -> list[dict]:
    """Max-min rows: a gap of every part, EODD of TPR and FPR together, SER of Dice; omnibus tests and dispersions."""
    rows = []
    for i, part in enumerate(parts):
        bounds = _gap_bounds(part.result, choices)
        own = _gap_row(part, gap_of(part.metric), part.label, *bounds, _null_gap(part), choices)
        rows += own + _omnibus_rows(part, own) + _dispersion_rows(part, own)
        if part.metric == "tpr" and parts[i + 1].metric == "fpr":  # they come in pairs
            rows += _eodd_rows(part, parts[i + 1], choices)
        if part.metric in ("dice", "dice_published"):
            rows += _ser_rows(part, choices)
    for row in rows:
        what = f"{row['metric']}/{row['estimator']}"
        row |= {"family": _family(attribute, what, "", (row["arm"], row["level"]), choices), "role": "exploratory"}
    _adjust([row for row in rows if row["estimator"] != "double_corrected"], choices)
    return rows


def _null_gap(part: StratumResult) -> np.ndarray:
    """Max-min gap with no true disparity, (draws, A)."""
    return inference.group_range(inference.null_draws(part.result)[:, 0])


def omnibus_p_value(p_value: np.ndarray, did: inference.Contrast) -> np.ndarray:
    """P-values (A - 1,) of "all subgroups changed alike"; of two subgroups the DiD's own, and Bonferroni where NaN.

    The omnibus statistic leaves out subgroups in which nobody changed; those say something too.
    """
    each = did.p_value()[0]  # (A - 1, G)
    n_tests = np.isfinite(each).sum(axis=-1)
    smallest = np.min(np.where(np.isfinite(each), each, 1.0), axis=-1)
    by_pairs = np.where(n_tests > 0, np.minimum(1, smallest * n_tests), np.nan)
    return np.where((n_tests == 1) | np.isnan(p_value), by_pairs, p_value)


def _gap_bounds(result: GroupMeans, choices: Choices, agg: str = "") -> tuple[inference.Gap, inference.Gap]:
    """The gap with its interval, and its change with interval and p-value; of two strata together with `agg`."""
    together = [list(range(len(result.value)))] if agg else None
    state = inference.range_interval(result, together, choices.alpha)
    if agg:
        state = inference.Gap(*(aggregate(array[:1], array[1:], agg) for array in state[:3]))
    return state, inference.change_interval(result, together, choices.alpha, agg)


def _gap_row(part, metric, label, state, moved, band, choices, unit=None) -> list[dict]:
    """One max-min row per arm; `state`, `moved` are Gaps (1, ...), `band` null gaps (draws, A)."""
    unit = unit or unit_of(part.metric)
    n = part.result.n_patients[0]
    estimable = ~np.isnan(part.result.value[0]).any(axis=0)
    low, high = inference.noise_band(band, choices.alpha)[1:3]
    rows = []
    for a, (arm, level) in enumerate(part.arms):
        rows.append({
            "arm": arm, "level": level, "task": part.task, "metric": metric, "label": label, "subgroup": "",
            "reference": "", "estimator": "plug_in", "value": state.value[0, a + 1], "ci_low": state.low[0, a + 1],
            "ci_high": state.high[0, a + 1], "baseline": state.value[0, 0], "delta": moved.value[0, a],
            "delta_ci_low": moved.low[0, a], "delta_ci_high": moved.high[0, a], "p_value": moved.p_value[0, a],
            "margin": choices.margin_of(unit), "band_low": low[a + 1], "band_high": high[a + 1], "mde": np.nan,
            "unit": unit, "n_patients": int(n.sum()),
            "smallest_group": int(n[estimable].min() if estimable.any() else n.min()),
        })  # fmt: skip
    return rows


def _omnibus_rows(part: StratumResult, gap_rows: list[dict]) -> list[dict]:
    """Did all subgroups change alike? A test of its own, without a figure or interval."""
    if part.result.value.shape[-1] == 2:  # then the signed row asks it
        return []
    return [
        row | dict.fromkeys(FIGURES, np.nan) | {"estimator": "omnibus", "p_value": part.change_p[a]}
        for a, row in enumerate(gap_rows)
    ]


def _dispersion_rows(part: StratumResult, gap_rows: list[dict]) -> list[dict]:
    """Spread between subgroups without its sampling variance: a figure without an interval, so without a verdict."""
    spread = inference.dispersion(part.result)[0]
    verdict = np.where(np.isfinite(spread), DESCRIPTIVE, "not_estimable")
    return [
        row
        | dict.fromkeys((*FIGURES, "p_value", "p_adjusted"), np.nan)
        | {"metric": part.metric, "estimator": "double_corrected", "value": spread[a + 1], "baseline": spread[0]}
        | {"delta": spread[a + 1] - spread[0], "verdict": str(verdict[a + 1])}
        for a, row in enumerate(gap_rows)
    ]


def _eodd_rows(tpr: StratumResult, fpr: StratumResult, choices: Choices) -> list[dict]:
    """EODD from the simultaneous bounds of TPR gap and FPR gap."""
    joint: dict[str, Any] = {
        **{name: np.concatenate([getattr(tpr.result, name), getattr(fpr.result, name)], axis)
           for name, axis in (("value", 0), ("smoothed", 0), ("resamples", 1), ("reference_value", 0),
                              ("reference_resamples", 1), ("variance", 0), ("n_patients", 0), ("n_rows", 0))},
        "se": {kind: np.concatenate([tpr.result.se[kind], fpr.result.se[kind]]) for kind in tpr.result.se},
        "df": {kind: np.concatenate([tpr.result.df[kind], fpr.result.df[kind]]) for kind in tpr.result.df},
    }  # fmt: skip
    both = dataclasses.replace(tpr.result, **joint)
    null = aggregate(_null_gap(tpr), _null_gap(fpr), choices.agg)
    rows = _gap_row(tpr, "eodd", "", *_gap_bounds(both, choices, choices.agg), null, choices)
    n = np.minimum(tpr.result.n_patients, fpr.result.n_patients)[0]
    known = ~np.isnan(tpr.result.value[0] + fpr.result.value[0]).any(axis=0)
    total = int((tpr.result.n_patients + fpr.result.n_patients).sum())
    smallest = int(n[known].min() if known.any() else n.min())
    return [row | {"n_patients": total, "smallest_group": smallest} for row in rows]


def _ser_rows(part: StratumResult, choices: Choices) -> list[dict]:
    """SER as exp(max-min gap of the log error); bounds of the change are the ratio's, times the baseline's SER."""
    error = lambda values: np.log(np.maximum(1 - values, 1e-6))
    result = part.result
    scale = 1 / np.maximum(1 - result.value, 1e-6)  # of d log(1 - x)
    moved = (scale[:, 1:] + scale[:, :1]) / 2
    logs = dataclasses.replace(
        result, value=error(result.value), smoothed=error(result.smoothed), resamples=error(result.resamples),
        variance=result.variance * scale**2,
        se={"level": result.se["level"] * scale, "change": result.se["change"] * moved},
    )  # fmt: skip
    state, change = _gap_bounds(logs, choices)
    ratio = inference.Gap(*(np.exp(array) for array in state[:3]))
    base = ratio.value[:, :1]
    low, high = (base * np.expm1(end) for end in (change.low, change.high))
    delta = inference.Gap(ratio.value[:, 1:] - base, low, high, change.p_value)
    band = np.exp(inference.group_range(error(inference.null_draws(result)[:, 0])))
    return _gap_row(part, part.metric.replace("dice", "ser"), "", ratio, delta, band, choices, unit="ratio")


def _adjust(rows: list[dict], choices: Choices) -> None:
    """Adjust rows over their family from their p-values alone, and put their verdicts."""
    families: dict = {}
    for row in rows:
        families.setdefault(row["family"], []).append(row)
    rules: dict[str, Callable] = {"max_t": multiplicity.holm, "bh": multiplicity.benjamini_hochberg, "none": np.array}
    for members in families.values():
        for row, p_adjusted in zip(members, rules[choices.adjust]([row["p_value"] for row in members])):
            row["p_adjusted"] = float(p_adjusted)
            known = row["p_value"] if row["estimator"] == "omnibus" else row["value"] + row["delta"]
            figures = (known, row["delta_ci_low"], row["delta_ci_high"], p_adjusted, row["margin"], choices.alpha)
            row["verdict"] = str(inference.verdicts_of(*figures)) or "not_estimable"
