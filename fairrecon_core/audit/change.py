"""The audit in one call: did an arm change the gaps between subgroups, and can these data tell?

    table = audit_change(predictions, cohort, "sex")
    print(summary(table))

Three kinds of rows, all paired (arm against baseline on the same patients) and clustered by patient:

- signed: one subgroup against the reference. `value` and `baseline` are its gap to the reference, `delta` the
  difference in differences, adjusted over their family, with an equivalence verdict.
- within one subgroup (`reference` empty): its rate, and how it changed.
- max-min (`subgroup` empty): EODD, EOP, SER, Delta Dice and so on, with the noise band: what such a gap would be were
  all subgroups alike. `delta`, interval, p and verdict speak of the size of the gap; the row "omnibus" of the same
  metric asks whether all subgroups changed alike. `estimator` "double_corrected" is the spread between subgroups
  without its sampling variance: a figure, without a verdict.

One family carries the claims of an audit, its `role` is "primary": the signed rows of one metric, in which the chance
of a false *changed* is at most alpha over all arms, levels, tasks and subgroups. All else is "exploratory": adjusted
within its own family, but there are several. With several training seeds, samples or folds the estimator "nested"
leads, there the networks are a sample, too; "plug_in" then speaks of these alone.

Every row ends in a verdict: `changed`, `changed_within_margin`, `equivalent`, `undetermined` or `not_estimable`; p,
interval and verdict of a row answer one question: p <= alpha exactly where 0 is outside of the interval, *equivalent*
only where the interval is inside the margin, and *changed* only where p_adjusted <= alpha.
No torch here: works on anybody's two tables.
"""

import dataclasses

import numpy as np
import pandas as pd
from scipy.stats import norm

from fairrecon_core.audit import inference, multiplicity
from fairrecon_core.audit.engine import Stratum, fold_placements, patient_codes
from fairrecon_core.audit.groups import GroupMeans, resample_aurocs, resample_means, with_shift
from fairrecon_core.audit.matching import QUALITY, Matched, match
from fairrecon_core.audit.metrics import AGGREGATE, UNKNOWN, WEAK_SUPPORT, intersect, logit
from fairrecon_core.audit.rows import COLUMNS, Choices, StratumResult, gap_rows, kind_of, omnibus_p_value, signed_rows
from fairrecon_core.measures import image_metrics, unit_of

PRIMARY = ("rates", "dice", "psnr_db")  # the first of these that is there carries the claims
METRICS = ("rates", "auroc", "calibration", "flip_rate", "logit_shift")  # of a predictions table


def audit_change(
    predictions: pd.DataFrame, cohort: pd.DataFrame, attribute="sex", *, baseline_arm="clean", arms=None,
    metrics=METRICS, n_boot=10_000, thresholds=None, rule="sens_spec", margin=0.05, alpha=0.05, min_support=10,
    reference="largest", family="attribute", adjust="max_t", agg="mean", split="test", seed=0, primary=None,
    threshold_draws=200,
) -> pd.DataFrame:  # fmt: skip
    """Audit what each arm changed in the gaps between subgroups, relative to a baseline arm.

    Parameters
    ----------
    predictions : DataFrame
        Results, one row per image, arm and task: `image_id arm task score` (probabilities in [0, 1]); or
        `image_id arm intersection predicted actual` (pixels); or `image_id arm` and any of `psnr_db ssim nmse lpips`.
        Absent key columns have defaults: level 1, fold, train_seed and sample 0, one cohort. Several samples and
        training seeds of an image are averaged, and get rows of their own (estimator "nested") in which the choice
        of the seed counts as uncertainty.
    cohort : DataFrame
        One row per image: `image_id`, `patient_id` (default: every image its own patient), the attribute,
        `y_<task>` (0, 1, empty), and perhaps `split` and `fold`.
    attribute : str or sequence of str
        Column of the cohort; several give their intersections. "unknown" or empty is left out.
    baseline_arm : str
        "clean": what degradation and reconstruction did together. "degraded": what the reconstructor added.
    arms : sequence of str, optional
        Arms to audit; default all but the baseline.
    metrics : sequence of str
        Of a predictions table: any of "rates" (TPR, FPR, EOP, EODD), "auroc", "calibration", "flip_rate",
        "logit_shift"; or names of its columns with measures of images.
    n_boot, seed : int
        Resamples of patients; their seed.
    thresholds : None, str, float, dict or DataFrame
        A policy of `thresholds.POLICIES`; or one number, a number per task, or a table `task value` with any of
        `arm level fold train_seed`. None: "validation_frozen" if there are validation images, else "test_frozen".
    rule : str
        How a policy chooses: see `thresholds.choose_threshold`.
    margin : float or dict of unit to float
        Changes of a rate within +- margin do not matter. Other units have margins of their own, with a reason each, in
        `measures.UNITS`; a dict sets those.
    alpha : float
        Level of tests and intervals.
    min_support : int
        Patients that a subgroup needs in a stratum (with the label for a TPR, without for an FPR).
    reference : str
        Subgroup that the others are compared with: its name, "largest" (by patients), or "rest": all the others.
    family : {"attribute", "arm"}
        Over which cells p-values are adjusted: all of one kind for this attribute, or per arm and level.
    adjust : {"max_t", "bh", "none"}
        How: max-T for claims, Benjamini-Hochberg for exploration. Verdicts use the adjusted p-values.
    agg : {"mean", "max"}
        How TPR gap and FPR gap become EODD.
    split : str
        Which images are audited, where the cohort has a `split` (and only one fold).
    primary : str, optional
        Which metric carries the claims: "rates" (TPR and FPR), "auroc", "dice", "psnr_db" ...; default: the first of
        `PRIMARY` that is there, else the first of `metrics`.
    threshold_draws : int
        Where a policy chooses thresholds on validation images (one sample and seed each): how often their patients
        are resampled, so that intervals of rates count the choice. 0: all rows speak of these thresholds.

    Returns
    -------
    table : DataFrame
        The audit table, columns `COLUMNS`; `table.attrs["notes"]` lists what was left out and assumed.

    Raises
    ------
    ValueError
        Results without a row in the cohort, rows or images that occur twice, scores that are NaN or outside [0, 1],
        an attribute with a single value, an unknown arm, task, policy or choice. The text names the value.

    Examples
    --------
    >>> table = audit_change(predictions, cohort, "sex", thresholds=0.5, n_boot=2000)  # doctest: +SKIP
    """
    choices = Choices(n_boot, seed, margin, alpha, min_support, agg, adjust, family)
    measures = tuple(metric for metric in metrics if metric not in METRICS and metric in predictions)
    _check_choices(choices, set(metrics) - set(measures), n_boot)
    matched = match(predictions, cohort, baseline_arm=baseline_arm, arms=arms, thresholds=thresholds, rule=rule,
                    split=split, threshold_draws=threshold_draws, seed=seed, measures=measures or QUALITY)  # fmt: skip
    name, names, codes = subgroups_of(matched, attribute)
    patient, ids = patient_codes(matched.images["patient_id"])
    who, parts = reference_of(reference, names, codes, patient), []
    for baseline, members, usable in _calls(matched):
        chosen = np.flatnonzero(usable)
        parts += _measure(
            matched, chosen, [baseline, *members], patient, codes, len(names), len(ids), metrics, who, choices
        )
    choices = dataclasses.replace(choices, primary=_primary(primary, parts))
    rows = signed_rows(parts, names, name, choices) + gap_rows(parts, name, choices)
    matched.notes += _what_varies(matched, parts)
    constant = {"cohort": matched.cohort, "baseline_arm": baseline_arm, "attribute": name, "n_boot": n_boot}
    table = pd.DataFrame(rows).assign(**constant)
    decided = table["metric"].str.startswith(("tpr", "fpr", "flip", "eop", "eodd"))
    table["threshold_policy"] = np.where(decided, matched.policy, "")
    table = table[list(COLUMNS)].reset_index(drop=True)
    table.attrs["notes"] = list(dict.fromkeys(matched.notes))
    return table


def _check_choices(choices: Choices, metrics, n_boot: int) -> None:
    for value, known, word in (
        (choices.agg, AGGREGATE, "agg"),
        (choices.adjust, ("max_t", "bh", "none"), "adjust"),
        (choices.family, ("attribute", "arm"), "family"),
        *((metric, METRICS, "metric") for metric in metrics),
    ):
        if value not in known:
            raise ValueError(f"unknown {word} {value!r}; choose from {', '.join(known)}")
    if not 0 < choices.alpha < 0.5 or n_boot < 100:
        raise ValueError(f"need 0 < alpha < 0.5 and at least 100 resamples, got {choices.alpha=}, {n_boot=}")


def _primary(asked: str | None, parts: list[StratumResult]) -> str:
    """The metric that carries the claims."""
    there = list(dict.fromkeys(kind_of(part.metric) for part in parts))
    if asked is not None and asked not in there:
        raise ValueError(f"no results of the primary metric {asked!r}; there are {', '.join(there)}")
    return asked or next((kind for kind in PRIMARY if kind in there), there[0] if there else "")


def _what_varies(matched: Matched, parts: list[StratumResult]) -> list[str]:
    """Over what the claims generalise: patients always; networks and thresholds where they vary here."""
    n_folds = matched.fold.max() + 1 if len(matched.fold) else 1
    n_seeds = max((len(values) for values in matched.per_seed.values()), default=1)
    if n_folds > 1 and any(part.change_by_replicate is not None for part in parts):
        networks = f"rows 'nested' count the choice of a network, seen in {n_folds} folds; 'plug_in' holds for these"
    elif n_seeds > 1:
        networks = f"rows 'nested' count the choice of a seed, seen in {n_seeds}; 'plug_in' holds for these networks"
    else:
        networks = "one network an arm: the claims hold for these trained networks, on other patients"
    if not matched.policy:
        return [networks]
    if not matched.cut_draws:
        return [networks, "thresholds are held fixed: every change of a rate is one at these thresholds"]
    n = max(len(draws) for draws in matched.cut_draws.values())
    return [networks, f"intervals of rates count the choice of thresholds ({n} resamples of validation patients)"]


def subgroups_of(matched: Matched, attribute) -> tuple[str, list[str], np.ndarray]:
    """Name of `attribute`, its subgroups, code of every `matched` image (-1 unknown); ValueError with under two."""
    name, column = intersect(matched.images, attribute)
    names = sorted(set(column) - {UNKNOWN})
    if (n := len(names)) < 2:
        raise ValueError(f"attribute {name!r} has {n} subgroup(s) {names} among the audited images: no gap to audit")
    declared = matched.images[name].dtype if name in matched.images else None
    if isinstance(declared, pd.CategoricalDtype):
        names = [str(value) for value in declared.categories if value != UNKNOWN]
    n_unknown = int((column == UNKNOWN).sum())
    if n_unknown:
        matched.notes.append(f"{n_unknown} of {len(column)} images have no known {name}: in no subgroup")
    return name, names, pd.Index(names).get_indexer(column)


def reference_of(reference: str, names: list[str], codes, patient) -> int | str:
    """Number of the subgroup `reference` by `names`, `codes`, `patient` of images, or "rest"; ValueError if unknown."""
    if reference == "largest":
        known = codes >= 0
        return int(np.bincount(codes[known], 1 / np.bincount(patient)[patient[known]], minlength=len(names)).argmax())
    if reference in names:
        return names.index(reference)
    if reference != "rest":
        raise ValueError(f"no reference subgroup {reference!r}; choose 'largest', 'rest' or one of {names}")
    return reference


def _calls(matched: Matched):
    """Conditions that share baseline and images, for one joint resampling: (baseline, members, images)."""
    everything = [*matched.score.values(), *matched.measure.values()]
    present = np.logical_or.reduce([~np.isnan(values) for values in everything])  # (conditions, images)
    groups: dict = {}
    for i, (arm, level) in enumerate(matched.conditions):
        baseline = matched.baseline_of[i]
        if baseline in (-1, i):
            continue
        usable = present[i] & present[baseline]
        lost = int(present[baseline].sum() - usable.sum())
        if lost:
            of = f"{lost} of the baseline's {int(present[baseline].sum())} images"
            matched.notes.append(f"{arm} at level {level:g} has no result for {of}: audited on the others")
        groups.setdefault((baseline, usable.tobytes()), (baseline, [], usable))[1].append(i)
    return [group for group in groups.values() if group[2].any()]


def _measure(matched, rows, conditions, patient, codes, n_groups, n_patients, metrics, reference,
             choices) -> list[StratumResult]:  # fmt: skip
    """All strata of one joint call, and the AUROCs."""
    patient, codes, fold = patient[rows], codes[rows], matched.fold[rows]
    arms = [matched.conditions[i] for i in conditions[1:]]
    shared = {"n_boot": choices.n_boot, "seed": choices.seed, "reference": reference}
    shared |= {"min_support": choices.min_support, "n_patients": n_patients}
    named, several = _strata(matched, rows, conditions, patient, metrics), bool(fold.max(initial=0) > 0)
    parts = []
    if named:
        strata = [stratum for *_, stratum in named]
        (whole,) = resample_means(patient, codes, strata, [n_groups], **shared)
        change_p = _change_p_values(patient, codes, strata, whole, n_groups, n_patients, choices)
        for s, (task, metric, label, stratum) in enumerate(named):
            result = stratum_of(whole, s)
            result = result if stratum.rate else floored_spread(result)
            if metric in ("tpr", "fpr") and task in matched.cut_draws:
                shift = threshold_shift(matched, task, rows, conditions, codes, stratum, n_groups)
                result = with_shift(result, shift, choices.seed)
            omnibus = omnibus_p_value(change_p[s], inference.contrast(result, "did"))
            change, own = None, None
            if replicated := _replicates(matched, task, metric, stratum, rows, conditions, fold):
                values, weight = replicated
                change, own = multiplicity.replicate_changes(values, weight, codes, n_groups, result.reference)
            parts.append(StratumResult(task, metric, label, result, arms, omnibus, change, own, several))
    if "auroc" in metrics and reference != "rest":
        for task, score in matched.score.items():
            part = _aurocs(matched.truth[task][rows], score[np.ix_(conditions, rows)], patient, codes, fold, n_groups,
                           shared)  # fmt: skip
            if part is not None:
                one = StratumResult(task, "auroc", "", part[0], arms, *part[1:])
                parts.append(dataclasses.replace(one, folds=several))
    return parts


def _replicates(matched: Matched, task, metric, stratum: Stratum, rows, conditions, fold) -> tuple | None:
    """(values, weight) of every fold, or of every sample and training seed, as `replicate_changes` takes them."""
    weight = np.asarray(stratum.weight, dtype=float)
    if fold.size and fold.max() > 0:
        apart = np.stack([weight * (fold == f) for f in range(fold.max() + 1)])
        return np.broadcast_to(np.asarray(stratum.values, dtype=float), (len(apart), *np.shape(stratum.values))), apart
    key = task if metric in ("tpr", "fpr") else metric
    if key not in matched.per_seed:
        return None
    values = matched.per_seed[key][:, conditions][:, :, rows].copy()
    values[np.isnan(values[:, 0]).all(axis=1), 0] = stratum.values[0]  # but a trained baseline has seeds of its own
    return values, np.broadcast_to(weight, (len(values), len(weight)))


def threshold_shift(matched: Matched, task, rows, conditions, codes, stratum: Stratum, n_groups) -> np.ndarray:
    """(draws, A, G): how rates of `n_groups` groups by `codes` move with other validation patients; up to a constant.

    `matched` has the thresholds of the `task`; `stratum` is averaged over its `rows` and `conditions`. A rate is the
    mean over cuts as far apart as thresholds vary: the noise of these test images is not counted again between cuts.
    """
    draws, fold = matched.cut_draws[task][:, conditions], matched.fold[rows]
    score, used = matched.score[task][np.ix_(conditions, rows)], np.asarray(stratum.weight) > 0
    positive, n = np.zeros((len(draws), len(conditions), n_groups)), np.zeros((1, 1, n_groups))
    apart = norm.ppf((np.arange(9) + 0.5) / 9)
    for g, f in np.ndindex(n_groups, fold.max(initial=0) + 1):
        here = np.flatnonzero(used & (codes == g) & (fold == f))
        n[..., g] += len(here)
        for a, (own, cut) in enumerate(zip(np.sort(score[:, here], axis=1), draws[..., f].T)):
            for off in apart * cut.std():
                positive[:, a, g] += (len(here) - np.searchsorted(own, cut + off, side="left")) / len(apart)
    with np.errstate(invalid="ignore", divide="ignore"):
        return positive / n


def _strata(matched: Matched, rows, conditions, patient, metrics) -> list[tuple]:
    """(task, metric, label, Stratum) of everything that is a mean over rows."""
    at, named = np.ix_(conditions, rows), []
    held = lambda part: part if (part % 1 > 0).any() else part > 0  # 0, 1 or NaN, which has no weight: a byte each
    for task, score in matched.score.items():
        truth, score, decision = matched.truth[task][rows], score[at], matched.decision[task][at]
        scored, decided, taken = ~np.isnan(score).any(axis=0), ~np.isnan(decision).any(axis=0), held(decision)
        if "rates" in metrics:
            named += [(task, name, str(label), Stratum(name, taken, decided & (truth == label)))
                      for name, label in (("tpr", 1), ("fpr", 0))]  # fmt: skip
        if "flip_rate" in metrics:
            wrong = np.where(truth == 1, decision[:1] - decision, decision - decision[:1])  # net, of means too
            named.append((task, "flip_rate", "", Stratum("flip_rate", held(np.abs(wrong)), decided)))
            named += [(task, name, "", Stratum(name, held(np.maximum(sign * wrong, 0)), decided & ~np.isnan(truth)))
                      for name, sign in (("flip_harmful", 1), ("flip_helpful", -1))]  # fmt: skip
        if "calibration" in metrics:
            known = scored & ~np.isnan(truth)
            named.append((task, "calibration", "", Stratum("calibration", score - truth, known, False)))
        if "logit_shift" in metrics:
            logits = logit(np.where(np.isnan(score), 0.5, score))
            for label in (1, 0):
                shift = Stratum("logit_shift", logits - logits[:1], scored & (truth == label), rate=False)
                named.append((task, "logit_shift", str(label), shift))
    for name, values in matched.measure.items():
        values, of_image = values[at].copy(), name in image_metrics()
        if of_image and (matched.conditions[conditions[0]][0] == "clean" or not np.isfinite(values[0]).any()):
            values[0] = 0.0  # the clean image: the same quality for everybody, so no gap
        usable = np.isfinite(values).all(axis=0)
        n_rows = np.bincount(patient[usable], minlength=patient.max() + 1)[patient]
        weight = np.where(usable, 1 / np.maximum(n_rows, 1), 0)  # a mean of patients' means
        rate, kind = unit_of(name) == "rate", "segmentation" if "dice" in matched.measure else "images"
        stratum = Stratum(name, values, usable if rate else weight, rate)
        named.append(("quality" if of_image else kind, name, "", stratum))
    return named


def _change_p_values(patient, codes, strata, whole, n_groups, n_patients, choices) -> np.ndarray:
    """Did the subgroups change differently? (S, A - 1): swaps for rates of many subgroups, else from the bootstrap."""
    each = (inference.contrast(stratum_of(whole, s), "change") for s in range(len(strata)))  # one in memory at a time
    p_value = np.concatenate([multiplicity.omnibus_test(change).p_value for change in each])
    rates = [s for s, stratum in enumerate(strata) if stratum.name in ("tpr", "fpr")]
    if n_groups > 2 and rates:
        swapped = multiplicity.swap_test(
            patient, codes, [strata[s] for s in rates], n_groups, n_draws=choices.n_boot, seed=choices.seed,
            min_support=choices.min_support, n_patients=n_patients,
        )  # fmt: skip
        p_value[rates] = swapped.p_value
    return p_value


def _aurocs(truth, score, patient, codes, fold, n_groups, shared) -> tuple | None:
    """AUROCs of a task, omnibus p-values and, with folds, the changes of each fold."""
    usable = ~np.isnan(score).any(axis=0) & ~np.isnan(truth)
    if len(np.unique(truth[usable])) < 2:
        return None
    several = bool(fold.size) and fold.max() > 0
    score, truth, codes, fold = score[:, usable], truth[usable], codes[usable], fold[usable] if several else None
    result = resample_aurocs(patient[usable], codes, score, truth, n_groups, **shared, fold=fold)
    result = floored_spread(result)
    did = inference.contrast(result, "did")
    p_value = multiplicity.omnibus_test(inference.contrast(result, "change")).p_value[0]
    both: tuple = (None, None)
    if fold is not None:
        value, (positive, _) = fold_placements(score, truth, codes, n_groups, fold)
        apart = np.stack([positive * (fold == f) for f in range(fold.max() + 1)])
        each = np.broadcast_to(value, (len(apart), *value.shape))
        both = multiplicity.replicate_changes(each, apart, codes, n_groups, result.reference)
    return result, omnibus_p_value(p_value, did), *both


def floored_spread(result: GroupMeans) -> GroupMeans:
    """Let groups of `result` with weak support (under 20 patients) vary at least as much as all patients do.

    Rates have pseudo-patients for this. Without, ten patients none of whom changed would be certainty.
    """
    n, known = result.n_patients[:, None, :], ~np.isnan(result.value)
    floor = {}
    for kind, own in (("level", known), ("change", known[:, 1:])):
        patient_variance = np.where(own, result.se[kind] ** 2 * n, 0)
        pooled = (patient_variance * n * own).sum(-1, keepdims=True) / np.maximum((n * own).sum(-1, keepdims=True), 1)
        least = np.where(n < WEAK_SUPPORT, pooled / np.maximum(n, 1), 0)
        floor[kind] = np.maximum(result.se[kind] ** 2, least)
    for kind, base in (("gap", "level"), ("did", "change")):
        extra = np.maximum(floor[base] - result.se[base] ** 2, 0)
        other = 0.0 if result.reference == "rest" else extra[..., [result.reference]]
        floor[kind] = result.se[kind] ** 2 + extra + other
    return dataclasses.replace(result, se={kind: np.sqrt(squared) for kind, squared in floor.items()})


def stratum_of(result: GroupMeans, s: int) -> GroupMeans:
    """Stratum `s` of a joint `result`, as views."""
    cut = lambda array, axis: array[(slice(None),) * axis + (slice(s, s + 1),)]
    first = ("value", "smoothed", "reference_value", "variance", "n_patients", "n_rows")
    return dataclasses.replace(
        result,
        **{name: cut(getattr(result, name), 0) for name in first},
        **{name: cut(getattr(result, name), 1) for name in ("resamples", "reference_resamples")},
        se={kind: cut(array, 0) for kind, array in result.se.items()},
        df={kind: cut(array, 0) for kind, array in result.df.items()},
    )
