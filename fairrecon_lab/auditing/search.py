"""Subgroups that nobody named: which intersections of recorded traits are served worse than everybody else?

All values of all traits, and their intersections up to a depth, are compared with the rest at once. The bounds hold for
the whole collection together: with probability 1 - alpha no subgroup is truly better served than its bound says
(bootstrap sup-t over the collection, after Cherian and Candes 2023). So what is flagged may be named, whatever the
number of subgroups that were tried; what is not flagged may still be worse, by less than these data can show.
"""

import itertools

import numpy as np
import pandas as pd

from fairrecon_core.audit.engine import Stratum, cell_sums, patient_codes, resample
from fairrecon_core.audit.groups import resample_means
from fairrecon_core.audit.inference import expanded
from fairrecon_core.audit.matching import match
from fairrecon_core.audit.metrics import JOIN, UNKNOWN
from fairrecon_core.measures import METRICS, unit_of

SEARCHED = ("accuracy", "tpr", "fpr", "brier")
MOST_NAMES = 12  # values of a column of words; beyond, it names people
COLUMNS = (
    "cohort", "arm", "level", "task", "metric", "subgroup", "depth", "value", "rest", "gap", "bound", "p_adjusted",
    "flagged", "n_patients", "n_subgroups", "unit", "n_boot",
)  # fmt: skip


def search_subgroups(
    predictions: pd.DataFrame, cohort: pd.DataFrame, attributes, *, depth=2, metric="accuracy", bins=3, arms=None,
    thresholds=None, rule="sens_spec", alpha=0.05, min_support=20, n_boot=2000, split="test", seed=0,
) -> pd.DataFrame:  # fmt: skip
    """Compare all intersections of `attributes` up to `depth` with the rest, with simultaneous bounds.

    Parameters
    ----------
    predictions, cohort, arms, thresholds, rule, split
        As in `single.audit_single`.
    attributes : sequence of str
        Columns of the cohort; numbers with more than `bins` values are cut into so many equal parts.
    depth : int
        Most traits in one subgroup.
    metric : str
        One of `SEARCHED`, or a column of numbers, one per image (then a mean of patients' means).
    alpha : float
        Chance that any subgroup is flagged that is not served worse, in each arm and task.
    min_support : int
        Patients that a subgroup, and the rest, need.
    n_boot, seed : int
        Resamples of patients; their seed.

    Returns
    -------
    table : DataFrame
        Columns `COLUMNS`, one row per subgroup, the worst first. `gap` is subgroup minus rest. `bound`: the subgroup is
        worse by at least that much (upper bound of a gap in what should be high, lower bound in what should be low);
        `flagged` where it excludes 0, that is where `p_adjusted` <= alpha.

    Raises
    ------
    ValueError
        An unknown metric, a depth below 1, no column or one with too many names, or no subgroup with the support.
    """
    if depth < 1:
        raise ValueError(f"a subgroup has at least one trait, got {depth=}")
    if "arm" not in predictions:
        predictions = predictions.assign(arm="model")
    scored = metric in SEARCHED
    if not scored and metric not in predictions:
        raise ValueError(f"unknown metric {metric!r}; choose from {', '.join(SEARCHED)} or a column of numbers")
    results = predictions if scored else predictions.drop(columns="score", errors="ignore")
    matched = match(results, cohort, baseline_arm=None, arms=arms, thresholds=thresholds, rule=rule, split=split,
                    seed=seed, measures=() if scored else (metric,))  # fmt: skip
    traits = {name: trait_codes(matched.images, name, bins) for name in attributes}
    patient, ids = patient_codes(matched.images["patient_id"])
    rows = []
    for i in np.flatnonzero(matched.baseline_of >= 0):
        arm, level = matched.conditions[i]
        for task, stratum in _strata(matched, i, metric, patient).items():
            head = {"cohort": matched.cohort, "arm": arm, "level": level, "task": task, "metric": metric}
            found = _compare(stratum, traits, patient, len(ids), depth, alpha, min_support, n_boot, seed)
            rows += [head | row | {"unit": unit_of(metric), "n_boot": n_boot} for row in found]
    if not rows:
        raise ValueError(f"no subgroup of {', '.join(attributes)} has {min_support} patients with the result")
    table = pd.DataFrame(rows)[list(COLUMNS)]
    table = table.sort_values(["arm", "level", "task", "p_adjusted"], kind="stable").reset_index(drop=True)
    table.attrs["notes"] = list(dict.fromkeys(matched.notes))
    return table


def trait_codes(images: pd.DataFrame, name: str, bins: int = 3) -> tuple[np.ndarray, list[str]]:
    """Codes of column `name` of `images`, -1 unknown, and names such as "sex = female", "age < 52".

    Numbers with more than `bins` values are cut at quantiles. ValueError without the column, or with too many names.
    """
    if name not in images:
        raise ValueError(f"the cohort has no column {name!r}; its columns are {list(images.columns)}")
    values = images[name]
    number = pd.to_numeric(values.astype(object), errors="coerce")
    known = values.notna() & (values.astype(str) != UNKNOWN)
    if number[known].notna().all() and number.nunique() > bins:
        cuts = np.unique(np.quantile(number[known], np.arange(1, bins) / bins))
        words = [f"{name} < {cuts[0]:g}", *(f"{name} {a:g} to {b:g}" for a, b in itertools.pairwise(cuts)),
                 f"{name} >= {cuts[-1]:g}"]  # fmt: skip
        return np.where(known, np.searchsorted(cuts, number, side="right"), -1), words
    names = sorted(set(values[known].astype(str)))
    if len(names) > MOST_NAMES:
        raise ValueError(f"column {name!r} has {len(names)} values, such as {names[0]!r}: make groups of them first")
    return pd.Index(names).get_indexer(values.astype(str)), [f"{name} = {word}" for word in names]


def _strata(matched, i: int, metric: str, patient) -> dict[str, Stratum]:
    """What is averaged, by task; larger is worse or better as the metric says."""
    if metric not in SEARCHED:
        values = matched.measure[metric][i]
        usable = np.isfinite(values)
        n_rows = np.bincount(patient[usable], minlength=patient.max() + 1)[patient]
        return {"images": Stratum(metric, values[None], np.where(usable, 1 / np.maximum(n_rows, 1), 0), False)}
    out = {}
    for task, truth in matched.truth.items():
        decision, score = matched.decision[task][i], matched.score[task][i]
        known = ~np.isnan(decision + truth)
        values = {"accuracy": np.where(truth == 1, decision, 1 - decision), "brier": (score - truth) ** 2}
        weight = {"tpr": known & (truth == 1), "fpr": known & (truth == 0)}.get(metric, known)
        out[task] = Stratum(metric, values.get(metric, decision)[None], weight, metric != "brier")
    return out


def _compare(stratum, traits: dict, patient, n_patients, depth, alpha, min_support, n_boot, seed) -> list[dict]:
    """All subgroups of one stratum against the rest, with bounds over the whole collection."""
    keys = np.stack([codes for codes, _ in traits.values()], axis=1)
    leaves, leaf = np.unique(keys, axis=0, return_inverse=True)
    cells = cell_sums(patient, leaf.ravel(), [stratum], n_patients)
    kept, inside, outside = [], [], []
    for columns in itertools.chain.from_iterable(
        itertools.combinations(range(len(traits)), k) for k in range(1, depth + 1)
    ):
        known = (leaves[:, columns] >= 0).all(axis=1)
        for value in np.unique(leaves[known][:, columns], axis=0):
            member = known & (leaves[:, columns] == value).all(axis=1)
            codes = np.where(member, 0, np.where(known, 1, -1))[leaf.ravel()]
            (one,) = resample_means(patient, codes, [stratum], [2], n_boot=16, seed=seed, reference=1,
                                    min_support=min_support, n_patients=n_patients)  # fmt: skip
            if np.isfinite(one.value).all():
                words = [list(traits.values())[c][1][v] for c, v in zip(columns, value)]
                kept.append((JOIN.join(words), len(columns), one))
                inside.append(member)
                outside.append(known & ~member)
    if not kept:
        return []
    order = cells.codes[:, 0]  # cell of the table -> leaf
    sums = [np.array(side, dtype=float)[:, order] for side in (inside, outside)]
    draws = []
    for totals in resample(cells, n_boot, seed):  # (b, cells, 1, 2)
        with np.errstate(invalid="ignore", divide="ignore"):
            means = [(totals[:, :, 0, 1] @ side.T) / (totals[:, :, 0, 0] @ side.T) for side in sums]
        draws.append((means[0] - means[1]).astype(np.float32))
    gap = np.array([one.value[0, 0, 0] - one.reference_value[0, 0, 0] for *_, one in kept])
    se, df = (np.array([getattr(one, name)["gap"][0, 0, 0] for *_, one in kept]) for name in ("se", "df"))
    deviations = expanded(np.concatenate(draws) - gap.astype(np.float32), se, np.maximum(df, 1), seed)
    worse = 1.0 if getattr(METRICS.get(stratum.name), "better", "lower") == "lower" else -1.0
    return _flagged(kept, gap, deviations, worse, alpha)


def _flagged(kept, gap, deviations, worse: float, alpha: float) -> list[dict]:
    """Bounds and p-values: the largest deviation over all subgroups, each in its own standard deviations."""
    spread = np.sqrt(np.mean(np.where(np.isfinite(deviations), deviations, 0) ** 2, axis=0, dtype=float))
    spread = np.maximum(spread, 1e-30)
    largest = np.sort((worse * deviations / spread).max(axis=1))
    rank = min(int(np.ceil((1 - alpha) * (len(largest) + 1) - 1e-9)) - 1, len(largest) - 1)
    size = worse * gap / spread
    beyond = len(largest) - np.searchsorted(largest, size, side="left")
    p_value = (1 + beyond) / (len(largest) + 1)
    return [
        {"subgroup": name, "depth": k, "value": one.value[0, 0, 0], "rest": one.reference_value[0, 0, 0], "gap": gap[c],
         "bound": gap[c] - worse * largest[rank] * spread[c], "p_adjusted": p_value[c], "flagged": p_value[c] <= alpha,
         "n_patients": int(one.n_patients[0, 0]), "n_subgroups": len(kept)}
        for c, (name, k, one) in enumerate(kept)
    ]  # fmt: skip
