"""What could be, were everybody recorded: rates and gaps over every possible value of what is missing.

Some patients have no known subgroup, some images no label. Instead of guessing, each rate is given between the least
and the greatest value that any completion of the table allows (partial identification, Manski 1989): an unrecorded
patient may belong to any one subgroup, or to none of those named, with all images that lack the attribute at once; an
unlabelled image may show the finding or not. Of a rate both ends are exact. Of a gap they are exact (`sharp`) unless
the two sides would claim the same patient, then they are safe, a little too wide.

The band adds the sampling error of both ends, alpha / 2 on each side: it holds the whole set of possible values, and so
the truth, in at least 1 - alpha of samples, however the missing ones were chosen (Horowitz and Manski 2000; Imbens and
Manski 2004 would cover the truth alone, with a slightly narrower band).
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import t

from fairrecon_core.audit.change import reference_of, subgroups_of
from fairrecon_core.audit.engine import patient_codes
from fairrecon_core.audit.matching import match
from fairrecon_core.measures import margin_of, unit_of

BOUNDED = ("tpr", "fpr", "ppv", "accuracy")
COLUMNS = (
    "cohort", "arm", "level", "task", "attribute", "metric", "subgroup", "reference", "value", "low", "high", "ci_low",
    "ci_high", "sharp", "margin", "verdict", "n_patients", "patients_unknown", "images_unlabelled",
)  # fmt: skip


class _End(NamedTuple):
    """One end of a rate: its value, standard error, degrees of freedom, and the unrecorded patients it claims."""

    value: float
    se: float
    df: float
    claimed: np.ndarray


def bounds_unrecorded(
    predictions: pd.DataFrame, cohort: pd.DataFrame, attribute, *, arms=None, thresholds=None, rule="sens_spec",
    margin=0.05, alpha=0.05, min_support=10, reference="largest", split="test", seed=0, metrics=BOUNDED,
) -> pd.DataFrame:  # fmt: skip
    """Worst and best case of rates, and of their gaps, over all values of unknown attributes and missing labels.

    Parameters
    ----------
    predictions, cohort, attribute, arms, thresholds, rule, margin, alpha, min_support, reference, split, seed
        As in `single.audit_single`. Thresholds are held fixed.
    metrics : sequence of str
        Any of `BOUNDED`.

    Returns
    -------
    table : DataFrame
        Columns `COLUMNS`. `value` is the figure of the recorded; `low` to `high` hold every completion; `ci_low` to
        `ci_high` hold them with sampling error. `reference` is empty in rows of one subgroup, which have no verdict;
        of a gap it is "different", "equivalent" or both ("different_within_margin") where this holds for every
        completion, else "undetermined"; "not_estimable" below `min_support` recorded patients.

    Raises
    ------
    ValueError
        As in `single.audit_single`; or an unknown metric.
    """
    strange = [metric for metric in metrics if metric not in BOUNDED]
    if strange:
        raise ValueError(f"no bounds of {strange[0]!r}; choose from {', '.join(BOUNDED)}")
    if "arm" not in predictions:
        predictions = predictions.assign(arm="model")
    matched = match(predictions, cohort, baseline_arm=None, arms=arms, thresholds=thresholds, rule=rule, split=split,
                    seed=seed)  # fmt: skip
    name, names, codes = subgroups_of(matched, attribute)
    patient = patient_codes(matched.images["patient_id"])[0]
    rows = []
    for i in np.flatnonzero(matched.baseline_of >= 0):
        arm, level = matched.conditions[i]
        for task, truth in matched.truth.items():
            decision = matched.decision[task][i]
            here = ~np.isnan(decision)
            unlabelled = int((here & np.isnan(truth)).sum())
            head = {"arm": arm, "level": level, "task": task, "images_unlabelled": unlabelled}
            head |= {"patients_unknown": len(np.unique(patient[here & (codes < 0)]))}
            for metric in metrics:
                counted = _counted(metric, decision[here], truth[here])
                sides = _sides(codes[here], names, reference, codes, patient)
                for first, second in sides:
                    found = _row(counted, codes[here], patient[here], first, second, alpha, min_support)
                    rows.append(head | {"metric": metric, "margin": margin_of(unit_of(metric), margin)} | found)
    table = pd.DataFrame(rows).assign(cohort=matched.cohort, attribute=name)
    table["verdict"] = _verdicts(table)
    table = table[list(COLUMNS)]
    table.attrs["notes"] = list(dict.fromkeys(matched.notes))
    return table


def _sides(codes, names: list, reference: str, every, patient) -> list:
    """What is bounded: (name, rows) alone, and against (name, rows)."""
    of = {name: codes == g for g, name in enumerate(names)}
    alone = [((name, rows), None) for name, rows in of.items()]
    if reference == "rest":
        return alone + [((name, rows), ("rest", (codes >= 0) & ~rows)) for name, rows in of.items()]
    if reference == "all-pairs":
        return alone + [((names[g], of[names[g]]), (names[r], of[names[r]]))
                        for r in range(len(names)) for g in range(r + 1, len(names))]  # fmt: skip
    r = names[int(reference_of(reference, names, every, patient))]
    return alone + [((name, rows), (r, of[r])) for name, rows in of.items() if name != r]


def _counted(metric: str, decision, truth) -> dict:
    """By end (1: greatest, -1: least): value of every row, whether it is counted, and whether that is free to choose.

    A missing label decides whether a row counts (TPR, FPR), or what it counts as (PPV, accuracy).
    """
    missing = np.isnan(truth)
    if metric in ("tpr", "fpr"):
        counts = (truth == (metric == "tpr")) | missing
        return {end: (decision, counts.astype(float), missing) for end in (1, -1)}
    known = truth if metric == "ppv" else np.where(truth == 1, decision, 1 - decision)
    best = np.ones_like(decision) if metric == "ppv" else np.maximum(decision, 1 - decision)
    counts, never = decision if metric == "ppv" else np.ones_like(decision), np.zeros(len(truth), bool)
    return {1: (np.where(missing, best, known), counts, never), -1: (np.where(missing, 1 - best, known), counts, never)}


def extreme_rate(value, counts, free, patient, member, roaming, end: int) -> tuple[float, np.ndarray]:
    """Greatest or least mean over all choices of who and what is counted, and the rows it counts; exact.

    The best ratio of sums under free choices is found by Dinkelbach's iteration (1967): at a trial value, choose what
    lies above it; the mean of the chosen is the next trial.

    Parameters
    ----------
    value, counts : arrays, shape (rows,)
        What a row counts as, in [0, 1], and its weight.
    free : bool array, shape (rows,)
        Rows that may be left out one by one (no label).
    patient : int array, shape (rows,)
    member, roaming : bool arrays, shape (rows,)
        Rows that are in; rows that may be in, all those of a patient at once.
    end : {1, -1}
        Greatest or least.

    Returns
    -------
    rate : float
        NaN where nothing can be counted.
    counted : bool array, shape (rows,)
    """
    sure = member & ~free & (counts > 0)
    rate, counted = (np.average(value[sure], weights=counts[sure]) if sure.any() else 0.5 - end / 2), sure
    for _ in range(200):
        gain = end * (value - rate) * counts
        gain = np.where(free, np.maximum(gain, 0), gain)
        own = np.bincount(patient[roaming], gain[roaming], minlength=patient.max(initial=0) + 1)
        counted = (member | (roaming & (own[patient] > 1e-12))) & (~free | (gain > 0)) & (counts > 0)
        if not counted.any():
            return (rate, sure) if sure.any() else (np.nan, sure)
        new = np.average(value[counted], weights=counts[counted])
        if abs(new - rate) < 1e-13:
            break
        rate = new
    return float(rate), counted


def _end(counted: dict, end: int, patient, rows, roaming) -> _End:
    value, counts, free = counted[end]
    rate, chosen = extreme_rate(value, counts, free, patient, rows, roaming, end)
    who, index = np.unique(patient[chosen], return_inverse=True)
    n = len(who)
    if n < 2 or np.isnan(rate):
        return _End(rate, np.nan, np.nan, who[:0])
    weight = np.bincount(index, counts[chosen])
    influence = np.bincount(index, (counts * (value - rate))[chosen]) / weight.sum()
    variance, plain = (influence**2).sum() * n / (n - 1), rate * (1 - rate) / weight.sum()
    effect = np.clip(variance / plain, 1, None) if plain > 1e-12 else weight.mean()
    rows_left = weight.sum() / max(effect, 1)
    smoothed = (rate * rows_left + 1) / (rows_left + 2)  # two pseudo-patients (Agresti and Caffo 2000)
    variance = max(variance, smoothed * (1 - smoothed) / (rows_left + 2))
    return _End(rate, float(np.sqrt(variance)), n - 1.0, np.unique(patient[chosen & roaming]))


def _row(counted, codes, patient, first, second, alpha: float, min_support: int) -> dict:
    """Ends, band and the figure of the recorded, of one side or of a gap."""
    roaming, sides = codes < 0, [side for side in (first, second) if side is not None]
    plain, n = [], []
    for _, rows in sides:
        value, counts, free = counted[1]
        sure = rows & ~free & (counts > 0)
        plain.append(np.average(value[sure], weights=counts[sure]) if sure.any() else np.nan)
        n.append(len(np.unique(patient[sure])))
    row = {"subgroup": first[0], "reference": second[0] if second else "", "n_patients": sum(n), "sharp": True}
    row |= dict.fromkeys(("value", "low", "high", "ci_low", "ci_high"), np.nan)
    if min(n) < min_support:
        return row
    row["value"] = plain[0] - (plain[1] if second else 0)
    for end, name in ((-1, "low"), (1, "high")):
        own = _end(counted, end, patient, first[1], roaming)
        value, se, df = own.value, own.se, own.df
        if second:
            other = _end(counted, -end, patient, second[1], roaming)
            value, se, df = value - other.value, np.hypot(se, other.se), min(df, other.df)
            row["sharp"] &= not np.isin(own.claimed, other.claimed).any()
        reach = value + end * t.ppf(1 - alpha / 2, df) * se
        row |= {name: value, f"ci_{name}": reach if second else float(np.clip(reach, 0, 1))}
    return row


def _verdicts(table: pd.DataFrame) -> np.ndarray:
    different = (table["ci_low"] > 0) | (table["ci_high"] < 0)
    within = (table["ci_low"] > -table["margin"]) & (table["ci_high"] < table["margin"])
    cases = [table["ci_low"].isna(), table["reference"].eq(""), different & within, different, within]
    words = ["not_estimable", "", "different_within_margin", "different", "equivalent"]
    return np.select(cases, words, "undetermined")
