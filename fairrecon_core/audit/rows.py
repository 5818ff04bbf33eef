"""Rows of the audit table: figures, families and verdicts of what was resampled.

Three kinds, described in `change.py`: signed (subgroup against reference) and within one subgroup; max-min; and nested,
where the choice of a sample and a training seed counts as uncertainty. Axes as in `groups.py`: S strata (here one), A
conditions with the baseline first, G subgroups. Throughout: `parts` are the resampled strata, `names` the subgroups,
`attribute` is what they are subgroups of, `choices` what the caller decided.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.stats import norm

from fairrecon_core.audit import inference, multiplicity
from fairrecon_core.audit.groups import GroupMeans
from fairrecon_core.audit.matching import Matched
from fairrecon_core.audit.metrics import aggregate
from fairrecon_core.measures import gap_of, margin_of, unit_of

COLUMNS = (
    "cohort", "baseline_arm", "arm", "level", "task", "attribute", "metric", "label", "subgroup", "reference",
    "estimator", "value", "ci_low", "ci_high", "baseline", "delta", "delta_ci_low", "delta_ci_high", "p_value",
    "p_adjusted", "family", "margin", "verdict", "band_low", "band_high", "mde", "unit", "n_patients",
    "smallest_group", "n_boot", "threshold_policy",
)  # fmt: skip
VERDICTS = (*inference.VERDICTS, "not_estimable")
FLIPPING = ("tpr", "fpr")  # means of decisions


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

    def margin_of(self, unit: str) -> float:
        """Equivalence margin of a unit."""
        return margin_of(unit, self.margin)


@dataclasses.dataclass(frozen=True)
class Part:
    """Results of one stratum (task, metric, label) for a baseline and the conditions compared with it."""

    task: str
    metric: str
    label: str
    result: GroupMeans  # S = 1
    arms: list  # (arm, level) of the conditions, without the baseline
    did: inference.Contrast
    change_p: np.ndarray  # (A - 1,) omnibus: did the subgroups change differently?
    null: np.ndarray | None = None  # (draws, A, G)


def _kind(metric: str) -> str:
    return "rates" if metric in ("tpr", "fpr") else metric


def signed_rows(parts: list[Part], names: list[str], attribute: str, choices: Choices) -> list[dict]:
    """Signed rows (subgroup against reference) and rows within one subgroup.

    Parameters
    ----------
    parts, names, attribute, choices
        As throughout this file.

    Returns
    -------
    rows : list of dict
        With the columns of the audit table that differ between rows.
    """
    adjusted, families = _adjusted(parts, attribute, choices)
    rows = []
    for part, p_adjusted, family in zip(parts, adjusted, families):
        unit, result = unit_of(part.metric), part.result
        margin, n = choices.margin_of(unit), result.n_patients[0]
        rest = result.reference == "rest"
        versus = "rest" if result.reference == "rest" else names[result.reference]
        n_reference = n.sum() - n if rest else np.full(len(n), n[result.reference])
        head = {"task": part.task, "metric": part.metric, "label": part.label, "estimator": "plug_in", "unit": unit}
        for kind, moved, p_used in (
            ("gap", part.did, p_adjusted),
            ("level", inference.contrast(result, "change"), None),
        ):
            signed = kind == "gap"
            state, p_value = inference.contrast(result, kind), moved.p_value()
            own = n if part.metric in FLIPPING else None
            columns = _columns(state, moved, p_value, choices.alpha, own)
            verdict = inference.verdicts(moved, margin, choices.alpha, p_used)
            half = columns["delta_ci_high"] - moved.estimate
            for a, (arm, level) in enumerate(part.arms):
                for g, subgroup in enumerate(names):
                    if signed and not rest and g == result.reference:
                        continue
                    smallest = min(n[g], n_reference[g]) if signed else n[g]
                    row = head | {"arm": arm, "level": level, "subgroup": subgroup}
                    row |= {name: array[0, a, g] for name, array in columns.items()}
                    row["reference"] = versus if signed else ""
                    row |= {
                        "p_adjusted": np.nan if p_used is None else p_used[0, a, g],
                        "family": family[a] if signed else "",
                    }
                    row |= {"margin": margin, "verdict": str(verdict[0, a, g]) or "not_estimable"}
                    row |= {"band_low": -half[0, a, g], "band_high": half[0, a, g]}
                    row |= {"n_patients": int(n[g] + n_reference[g] * signed), "smallest_group": int(smallest)}
                    rows.append(row)
    return rows


def _columns(state: inference.Contrast, moved: inference.Contrast, p_value, alpha: float, n_group=None) -> dict:
    """Figures of one question: the arm's state, the baseline's, and the change between them; arrays (1, A - 1, G).

    Where decisions flip, an effect brings flips of its own: `n_group`, the subgroup's patients, enters the MDE.
    """
    low, high = state.interval(alpha)
    delta_low, delta_high = moved.interval(alpha)
    baseline = np.broadcast_to(state.estimate[:, :1], moved.estimate.shape)
    mde = inference.minimal_detectable_effect(
        moved.se, alpha, n_group=None if n_group is None else np.maximum(n_group, 1)
    )
    return {
        "value": state.estimate[:, 1:], "ci_low": low[:, 1:], "ci_high": high[:, 1:], "baseline": baseline,
        "delta": moved.estimate, "delta_ci_low": delta_low, "delta_ci_high": delta_high, "p_value": p_value,
        "mde": np.where(np.isnan(moved.estimate), np.nan, mde),
    }  # fmt: skip


def _adjusted(parts: list[Part], attribute: str, choices: Choices) -> tuple[list[np.ndarray], list[list[str]]]:
    """Adjusted p-values of the DiD of every part, (1, A - 1, G), and the name of the family of every arm."""
    families: dict = {}
    names = []
    for i, part in enumerate(parts):
        suffix = [f"/{arm}@{level:g}" if choices.family == "arm" else "" for arm, level in part.arms]
        names.append([f"{attribute}/{_kind(part.metric)}{end}" for end in suffix])
        for a, name in enumerate(names[i]):
            families.setdefault(name, []).append((i, a))
    out = [np.full(part.did.estimate.shape, np.nan) for part in parts]
    for cells in families.values():
        questions = [_one_arm(parts[i].did, a) for i, a in cells]
        if choices.adjust == "max_t" and any(np.isfinite(question.estimate).any() for question in questions):
            values = multiplicity.step_down_max_t(questions)
        else:
            raw = [question.p_value() for question in questions]
            values = raw if choices.adjust == "none" else _split_like(raw, multiplicity.benjamini_hochberg)
        for (i, a), value in zip(cells, values):
            out[i][:, a] = value[:, 0]
    return out, names


def _one_arm(question: inference.Contrast, a: int) -> inference.Contrast:
    return inference.Contrast(
        question.kind, question.estimate[:, a : a + 1], question.deviations[:, :, a : a + 1],
        question.se[:, a : a + 1], question.df[:, a : a + 1],
    )  # fmt: skip


def _split_like(arrays: list[np.ndarray], adjust) -> list[np.ndarray]:
    """Adjust all values of several arrays together."""
    flat = adjust(np.concatenate([array.ravel() for array in arrays]))
    ends = np.cumsum([array.size for array in arrays])[:-1]
    return [piece.reshape(array.shape) for piece, array in zip(np.split(flat, ends), arrays)]


def gap_rows(parts: list[Part], attribute: str, choices: Choices) -> list[dict]:
    """Max-min rows: a gap of every part, EODD of TPR and FPR together, SER of Dice, and dispersions."""
    rows = []
    for i, part in enumerate(parts):
        name = gap_of(part.metric)
        band = _null_gap(part, choices)
        own = _gap_row(part, name, part.label, *_gap_bounds(part.result, None, choices), part.change_p, band, choices)
        rows += own + _dispersion_rows(part, own)
        if part.metric == "tpr" and parts[i + 1].metric == "fpr":  # they come in pairs
            rows += _eodd_rows(part, parts[i + 1], choices)
        if part.metric == "dice":
            rows += _ser_rows(part, choices)
    return _holm(rows, attribute, choices)


def _null_gap(part: Part, choices: Choices) -> np.ndarray:
    """Max-min gap with no true disparity, (draws, A): of AUROCs by normal errors with cluster-robust variances."""
    if part.null is not None:
        return inference.group_range(part.null)
    noise = np.random.default_rng(choices.seed).standard_normal((1000, *part.result.variance[0].shape))
    return inference.group_range(noise * np.sqrt(part.result.variance[0]))


def omnibus_p_value(p_value: np.ndarray, did: inference.Contrast) -> np.ndarray:
    """P-values (A - 1,) of "all subgroups changed alike"; of two subgroups the DiD's own, and Bonferroni where NaN.

    The omnibus statistic leaves out subgroups in which nobody changed; those say something too.
    """
    each = did.p_value()[0]  # (A - 1, G)
    n_tests = np.isfinite(each).sum(axis=-1)
    smallest = np.min(np.where(np.isfinite(each), each, 1.0), axis=-1)
    by_pairs = np.where(n_tests > 0, np.minimum(1, smallest * n_tests), np.nan)
    return np.where((n_tests == 1) | np.isnan(p_value), by_pairs, p_value)


def _gap_bounds(result: GroupMeans, together, choices: Choices) -> tuple[inference.Gap, inference.Gap, inference.Gap]:
    """The gap with its interval, its change with its interval, and the wider-level interval for equivalence."""
    return (
        inference.range_interval(result, together, choices.alpha),
        inference.change_interval(result, together, choices.alpha),
        inference.change_interval(result, together, 2 * choices.alpha),
    )


def _gap_row(part, metric, label, state, moved, inner, p_value, band, choices, unit=None) -> list[dict]:
    """One max-min row per arm; `state`, `moved`, `inner` are Gaps (1, ...), `band` null gaps (draws, A)."""
    unit = unit or unit_of(part.metric)
    margin, n = choices.margin_of(unit), part.result.n_patients[0]
    estimable = ~np.isnan(part.result.value[0]).any(axis=0)
    low, high = (np.nan, np.nan) if band is None else inference.noise_band(band, choices.alpha)[1:]
    rows = []
    for a, (arm, level) in enumerate(part.arms):
        within = inner.low[0, a] > -margin and inner.high[0, a] < margin
        rows.append({
            "arm": arm, "level": level, "task": part.task, "metric": metric, "label": label, "subgroup": "",
            "reference": "", "estimator": "plug_in", "value": state.value[0, a + 1], "ci_low": state.low[0, a + 1],
            "ci_high": state.high[0, a + 1], "baseline": state.value[0, 0], "delta": moved.value[0, a],
            "delta_ci_low": moved.low[0, a], "delta_ci_high": moved.high[0, a], "p_value": p_value[a],
            "margin": margin, "within": bool(within), "band_low": np.ravel(low)[a + 1] if np.size(low) > 1 else np.nan,
            "band_high": np.ravel(high)[a + 1] if np.size(high) > 1 else np.nan, "mde": np.nan, "unit": unit,
            "n_patients": int(n.sum()), "smallest_group": int(n[estimable].min() if estimable.any() else n.min()),
        })  # fmt: skip
    return rows


def _dispersion_rows(part: Part, gap_rows: list[dict]) -> list[dict]:
    """Spread between subgroups without its sampling variance; test and verdict are those of the max-min row."""
    spread = inference.dispersion(part.result)[0]
    undefined = dict.fromkeys(("ci_low", "ci_high", "delta_ci_low", "delta_ci_high", "band_low", "band_high"), np.nan)
    return [
        row
        | undefined
        | {"metric": part.metric, "estimator": "double_corrected", "value": spread[a + 1], "baseline": spread[0]}
        | {"delta": spread[a + 1] - spread[0]}
        for a, row in enumerate(gap_rows)
    ]


def _eodd_rows(tpr: Part, fpr: Part, choices: Choices) -> list[dict]:
    """EODD: the simultaneous bounds of TPR gap and FPR gap, combined; p is Bonferroni's over the two."""
    joint: dict[str, Any] = {
        **{name: np.concatenate([getattr(tpr.result, name), getattr(fpr.result, name)], axis)
           for name, axis in (("value", 0), ("smoothed", 0), ("resamples", 1), ("reference_value", 0),
                              ("reference_resamples", 1), ("variance", 0), ("n_patients", 0), ("n_rows", 0))},
        "se": {kind: np.concatenate([tpr.result.se[kind], fpr.result.se[kind]]) for kind in tpr.result.se},
        "df": {kind: np.concatenate([tpr.result.df[kind], fpr.result.df[kind]]) for kind in tpr.result.df},
    }  # fmt: skip
    both = dataclasses.replace(tpr.result, **joint)
    joined = []
    for k, gap in enumerate(_gap_bounds(both, [(0, 1)], choices)):
        joined.append(inference.Gap(*(aggregate(array[:1], array[1:], choices.agg) for array in gap)))
        if k:  # the change of an aggregate is not the aggregate of changes unless it is a mean
            joined[k] = joined[k]._replace(value=joined[0].value[:, 1:] - joined[0].value[:, :1])
    if choices.agg == "max":  # bounds of a maximum's change: it moves by one of the two changes
        for k, gap in enumerate(_gap_bounds(both, [(0, 1)], choices)[1:], start=1):
            joined[k] = joined[k]._replace(
                low=gap.low.min(axis=0, keepdims=True), high=gap.high.max(axis=0, keepdims=True)
            )
    state, change, inner = joined
    null = aggregate(_null_gap(tpr, choices), _null_gap(fpr, choices), choices.agg)
    p_value = np.minimum(1, 2 * np.minimum(tpr.change_p, fpr.change_p))
    rows = _gap_row(tpr, "eodd", "", state, change, inner, p_value, null, choices)
    n = np.minimum(tpr.result.n_patients, fpr.result.n_patients)[0]
    known = ~np.isnan(tpr.result.value[0] + fpr.result.value[0]).any(axis=0)
    total = int((tpr.result.n_patients + fpr.result.n_patients).sum())
    return [
        row | {"n_patients": total, "smallest_group": int(n[known].min() if known.any() else n.min())} for row in rows
    ]


def _ser_rows(part: Part, choices: Choices) -> list[dict]:
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
    state, change, inner = _gap_bounds(logs, None, choices)
    ratio = inference.Gap(*(np.exp(array) for array in state))
    base = ratio.value[:, :1]
    delta, inside = (inference.Gap(ratio.value[:, 1:] - base, base * np.expm1(gap.low), base * np.expm1(gap.high))
                     for gap in (change, inner))  # fmt: skip
    band = np.exp(inference.group_range(error(part.null)))
    return _gap_row(part, "ser", "", ratio, delta, inside, part.change_p, band, choices, unit="ratio")


def _holm(rows: list[dict], attribute: str, choices: Choices) -> list[dict]:
    """Adjust the max-min rows of one measure over tasks and arms, and put the verdicts."""
    families: dict = {}
    for row in rows:
        end = f"/{row['arm']}@{row['level']:g}" if choices.family == "arm" else ""
        row["family"] = f"{attribute}/{row['metric']}/{row['estimator']}{end}"
        families.setdefault(row["family"], []).append(row)
    rules: dict[str, Callable] = {"max_t": multiplicity.holm, "bh": multiplicity.benjamini_hochberg, "none": np.array}
    rule = rules[choices.adjust]
    for members in families.values():
        for row, p_adjusted in zip(members, rule([row["p_value"] for row in members])):
            row["p_adjusted"] = float(p_adjusted)
            changed, within = p_adjusted <= choices.alpha, row.pop("within")
            undefined = not np.isfinite(row["value"]) or not np.isfinite(row["delta"])
            row["verdict"] = "not_estimable" if undefined else _verdict(changed, within)
    return rows


def _verdict(changed: bool, within: bool) -> str:
    if changed:
        return "changed_within_margin" if within else "changed"
    return "equivalent" if within else "undetermined"


def nested_rows(matched: Matched, parts, codes, names, choices: Choices) -> list[dict]:
    """TPR and FPR differences in differences in which the choice of sample and training seed is uncertain, too.

    Parameters
    ----------
    matched : Matched
        Holds each replicate's decisions.
    parts, names, choices
        As throughout this file.
    codes : int array, shape (images,)
        Subgroup of every image, -1 unknown.
    """
    rows = []
    for part in parts:
        if part.metric not in ("tpr", "fpr") or part.task not in matched.per_seed or part.result.reference == "rest":
            continue
        did = _did_per_seed(matched, part, codes, len(names))
        for a, (arm, level) in enumerate(part.arms):
            estimates = did[:, a][~np.isnan(did[:, a]).all(axis=1)]
            if len(estimates) < 2:
                continue
            both = multiplicity.nested(estimates, part.did.se[0, a], choices.alpha)
            inner = multiplicity.nested(estimates, part.did.se[0, a], 2 * choices.alpha)
            for g, subgroup in enumerate(names):
                if g == part.result.reference:
                    continue
                rows.append(_nested_row(part, a, g, subgroup, names, both, inner, choices))
                rows[-1] |= {"arm": arm, "level": level, "family": ""}
    return rows


def _did_per_seed(matched: Matched, part: Part, codes, n_groups: int) -> np.ndarray:
    """DiD of each replicate, (replicates, A - 1, G): a replicate's own decisions against the baseline's mean."""
    decision, truth = matched.per_seed[part.task], matched.truth[part.task]
    chosen = [matched.conditions.index(arm) for arm in part.arms]
    baseline = matched.decision[part.task][matched.baseline_of[chosen[0]]]
    out = np.full((len(decision), len(chosen), n_groups), np.nan)
    for r, a in np.ndindex(out.shape[:2]):
        moved = decision[r, chosen[a]] - baseline
        for g in range(n_groups):
            here = moved[(codes == g) & (truth == int(part.label)) & ~np.isnan(moved)]
            out[r, a, g] = here.mean() if len(here) else np.nan
    return out - out[..., [int(part.result.reference)]]


def _nested_row(part, a, g, subgroup, names, both, inner, choices) -> dict:
    margin, known = choices.margin_of("rate"), np.isfinite(part.did.estimate[0, a, g])
    p_value = 2 * norm.sf(abs(both.value[g]) / both.se[g]) if known else np.nan
    within = inner.low[g] > -margin and inner.high[g] < margin
    n = part.result.n_patients[0][[g, part.result.reference]]
    return {
        "task": part.task, "metric": part.metric, "label": part.label, "subgroup": subgroup, "estimator": "nested",
        "reference": names[part.result.reference], "delta": both.value[g] if known else np.nan, "unit": "rate",
        "delta_ci_low": both.low[g], "delta_ci_high": both.high[g], "p_value": p_value, "margin": margin,
        "mde": inference.minimal_detectable_effect(both.se[g], choices.alpha, n_group=n[0]) if known else np.nan,
        "verdict": _verdict(p_value <= choices.alpha, within) if known else "not_estimable",
        "n_patients": int(n.sum()), "smallest_group": int(n.min()),
        **dict.fromkeys(("value", "ci_low", "ci_high", "baseline", "p_adjusted", "band_low", "band_high"), np.nan),
    }  # fmt: skip
