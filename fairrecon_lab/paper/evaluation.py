"""The published evaluation, reproducible number for number; every choice it makes is a named argument.

Use it to compare with the paper, not to find out whether anything changed: its test has a size of .14 at a nominal .05
and its race column is what noise alone would give (see notebook 10). What it does, with the recommended way in
`change.py`:

| choice | published | recommended |
|---|---|---|
| estimate of a gap | mean over resamples of max - min, biased upward | plug-in, with the noise band beside it |
| what is resampled | 1 000 times the rows (images), patients ignored | 10 000 times the patients |
| p-value | one-sided, the side chosen after seeing the sign | two-sided, on signed differences |
| threshold | on the test labels, anew for each arm, then frozen | on validation labels of the baseline |
| stratum without cases | TPR 1 (chest) or 0 (brain), FPR 0 | NaN, listed with its support |
| many tests | nothing | max-T within a family |

Conventions: one entry per row (image for chest, patient for brain). Source: what `original_code_facts.md` section 6
records of the released evaluation. A guess: subgroups are those of the whole table, also in a resample that misses one.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from fairrecon_core.audit.metrics import aggregate, intersect, probabilities
from fairrecon_core.audit.thresholds import choose_threshold

ESTIMATORS = ("bootstrap_mean", "plug_in")
SIDES = ("post_hoc", "two_sided")


def published_classification(
    truth, scores: Mapping, subgroup, *, baseline="clean", thresholds="test_per_arm", agg="mean",
    empty_tpr=1.0, empty_fpr=0.0, estimator="bootstrap_mean", side="post_hoc", n_boot=1000, seed=0, resamples=None,
) -> pd.DataFrame:  # fmt: skip
    """EODD and EOP of every arm beside the baseline's, with the published p-value.

    Parameters
    ----------
    truth, subgroup : array-like, shape (n,)
        Labels 0 and 1 (rows with NaN are left out), names.
    scores : dict of arm to array-like (n,)
        Probabilities in [0, 1]; holds the baseline too.
    thresholds : "test_per_arm", or dict of arm to float
        Where sensitivity is closest to specificity on these labels, for each arm; or given numbers.
    agg : {"mean", "max"}
        How the TPR gap and the FPR gap become one.
    empty_tpr, empty_fpr : float
        Rate of a subgroup without positives (published: 1 for chest, 0 for brain) and without negatives. NaN
        leaves the subgroup out of the gap.
    estimator : {"bootstrap_mean", "plug_in"}
        What the columns `value` and `baseline` hold.
    side : {"post_hoc", "two_sided"}
        Published: the share of resampled changes on the other side of 0 than the observed one; or twice the smaller
        of both shares.
    n_boot, seed : int
        Number of resamples of rows; their seed.
    resamples : iterable of int arrays (n_rows,), optional
        The resamples themselves, as row numbers among the rows with a label; replaces `n_boot` and `seed`.

    Returns
    -------
    table : DataFrame, one row per arm and metric
        `arm metric estimator value baseline delta` (plug-in difference) `delta_bootstrap_mean standard_error
        baseline_standard_error p_value threshold baseline_threshold n_boot`.

    Raises
    ------
    ValueError
        Unknown choice, missing baseline, or a score outside [0, 1].
    """
    if estimator not in ESTIMATORS or side not in SIDES:
        raise ValueError(f"choose estimator from {ESTIMATORS} and side from {SIDES}, got {estimator!r} and {side!r}")
    truth, subgroup = np.asarray(truth, dtype=float), np.asarray(subgroup)
    arms, labelled = _arms(scores, baseline), ~np.isnan(truth)
    cuts = thresholds if isinstance(thresholds, Mapping) else _test_thresholds(scores, truth, thresholds)
    truth, groups = truth[labelled].astype(int), np.unique(subgroup[labelled], return_inverse=True)[1]
    decision = [probabilities(scores[arm])[labelled] >= cuts[arm] for arm in arms]
    codes = [(groups * 2 + truth) * 2 + made for made in decision]
    shape = (groups.max() + 1, 2, 2)  # group, label, decision

    def gaps(rows) -> np.ndarray:  # (arms, metrics)
        counts = [np.bincount(code[rows], minlength=np.prod(shape)).reshape(shape) for code in codes]
        return np.array([_gaps_of_counts(count, agg, empty_tpr, empty_fpr) for count in counts])

    resamples = row_resamples(len(truth), n_boot, seed) if resamples is None else resamples
    table = _changes(gaps, ("eodd", "eop"), arms, len(truth), resamples, estimator, side)
    return table.assign(threshold=table["arm"].map(cuts), baseline_threshold=float(cuts[baseline]))


def published_segmentation(
    dice: Mapping, subgroup, *, baseline="clean", estimator="bootstrap_mean", side="post_hoc",
    n_boot=1000, seed=0, resamples=None,
) -> pd.DataFrame:  # fmt: skip
    """SER and Delta Dice of every arm beside the baseline's, with the published p-value.

    Parameters
    ----------
    dice : dict of arm to array-like (n,)
        Dice per patient, in [0, 1].
    subgroup, baseline, estimator, side, n_boot, seed, resamples
        As in `published_classification`.

    Returns
    -------
    table : DataFrame
        As there, metrics `ser` and `delta_dice`, without thresholds.
    """
    arms = _arms(dice, baseline)
    values = np.array([probabilities(dice[arm], "dice") for arm in arms])
    groups = np.unique(np.asarray(subgroup), return_inverse=True)[1]

    def metrics(rows) -> np.ndarray:
        n = np.bincount(groups[rows], minlength=groups.max() + 1)
        with np.errstate(invalid="ignore", divide="ignore"):
            means = np.array([np.bincount(groups[rows], one[rows], minlength=groups.max() + 1) / n for one in values])
            low, high = np.nanmin(means, axis=1), np.nanmax(means, axis=1)
            return np.stack([(1 - low) / (1 - high), high - low], axis=1)

    resamples = row_resamples(len(groups), n_boot, seed) if resamples is None else resamples
    return _changes(metrics, ("ser", "delta_dice"), arms, len(groups), resamples, estimator, side)


def published_psnr_gap(psnr_db, subgroup, *, n_boot=1000, seed=0, resamples=None) -> dict:
    """The largest subgroup PSNR gap in per cent of the smallest mean, and its published p-value (Tables 6 and 7).

    The best and the worst subgroup are picked on the data and then kept in all resamples, and the test is one-sided:
    with six subgroups and several images a patient it calls pure noise significant four times in five.

    Parameters
    ----------
    psnr_db, subgroup : array-like, shape (n,)
        Of each image (chest) or patient (brain).
    n_boot, seed, resamples
        As in `published_classification`.

    Returns
    -------
    dict
        `percent`, `p_value`, `best`, `worst`.
    """
    names, groups = np.unique(np.asarray(subgroup), return_inverse=True)
    psnr = np.asarray(psnr_db, dtype=float)
    means = np.array([psnr[groups == g].mean() for g in range(len(names))])
    best, worst = int(means.argmax()), int(means.argmin())
    resamples = row_resamples(len(psnr), n_boot, seed) if resamples is None else resamples
    differences = []
    for rows in resamples:
        with np.errstate(invalid="ignore", divide="ignore"):
            drawn = np.bincount(groups[rows], psnr[rows], len(names)) / np.bincount(groups[rows], minlength=len(names))
        differences.append(drawn[best] - drawn[worst])
    return {
        "percent": 100 * (means[best] - means[worst]) / means[worst],
        "p_value": float(np.mean(np.array(differences) <= 0)),
        "best": str(names[best]),
        "worst": str(names[worst]),
    }


def published_audit(
    predictions: pd.DataFrame, cohort: pd.DataFrame, attribute="sex", *, baseline_arm="clean", unknown="drop", **choices
) -> pd.DataFrame:
    """`published_classification` over every task of a table, in the columns of the audit table that it can fill.

    Parameters
    ----------
    predictions, cohort : DataFrame
        `image_id arm task score`; `image_id`, `y_<task>` and the attribute. A task without both labels is left out.
        Of several samples or training seeds the first is used (the published code has one); of a cross-validated
        cohort, each image's own fold.
    attribute : str or list of str
        Column of the cohort; several give their intersections.
    baseline_arm : str
    unknown : {"drop", "keep"}
        Whether rows of subgroup "unknown" are left out or form a subgroup.
    **choices
        Of `published_classification`.

    Returns
    -------
    table : DataFrame
        `arm task attribute metric estimator value baseline delta p_value n_boot threshold_policy ...`.

    Raises
    ------
    ValueError
        If no task has both labels; the message says what each of them lacks.
    """
    by_image = cohort.drop_duplicates("image_id").set_index("image_id")
    name, subgroup = intersect(by_image, attribute)
    if unknown == "drop":
        subgroup = subgroup[subgroup != "unknown"]
    parts, lacking = [], {}
    for task, rows in _first_reading(predictions, by_image).groupby("task", sort=False):
        wide = rows.pivot(index="image_id", columns="arm", values="score").reindex(subgroup.index).dropna()
        truth, group = by_image.loc[wide.index, f"y_{task}"], subgroup.loc[wide.index]
        if truth.nunique() < 2:
            lacking[task] = truth.dropna()
            continue
        scores = {arm: wide[arm].to_numpy() for arm in wide.columns}
        part = published_classification(truth, scores, group.to_numpy(), baseline=baseline_arm, **choices)
        parts.append(part.assign(task=task, attribute=name, baseline_arm=baseline_arm))
    if not parts:
        raise ValueError(_no_task(lacking, name))
    policy = choices.get("thresholds", "test_per_arm")
    return pd.concat(parts, ignore_index=True).assign(threshold_policy=policy if isinstance(policy, str) else "given")


def _no_task(lacking: Mapping[str, pd.Series], attribute: str) -> str:
    """Why nothing can be audited: the labels that each task has on the images that can be used."""
    if not lacking:
        return "no image_id of the predictions is in the cohort: give the cohort that the readers saw"
    texts = []
    for task, labels in lacking.items():
        only = f"only label {labels.iloc[0]:g} ({len(labels)} images)" if len(labels) else "no labelled image"
        texts.append(f"{task!r} has {only}")
    return (
        f"no task has both labels, 0 and 1, among images with a score of every arm and a known {attribute}: "
        f"{'; '.join(texts)}. Give more images, or predictions of another task"
    )


def _first_reading(predictions: pd.DataFrame, by_image: pd.DataFrame) -> pd.DataFrame:
    """One score per image, arm and task."""
    known = predictions[predictions["image_id"].isin(by_image.index)]
    if "fold" in known and "fold" in by_image and by_image["fold"].max() > 0:
        known = known[known["fold"].to_numpy() == by_image.loc[known["image_id"], "fold"].to_numpy()]
    order = [name for name in ("train_seed", "sample") if name in known]
    known = known.sort_values(order, kind="stable") if order else known
    return known.drop_duplicates(["image_id", "arm", "task"]) if order else known


def row_resamples(n_rows: int, n_boot: int, seed: int = 0) -> Iterable[np.ndarray]:
    """Rows drawn with replacement, `n_boot` times; patients are ignored on purpose."""
    rng = np.random.default_rng(seed)
    for _ in range(n_boot):
        yield rng.integers(0, n_rows, n_rows)


def post_hoc_p_value(observed: float, resampled: np.ndarray) -> float:
    """Share of resampled changes on the other side of 0 than the observed one: one-sided, the side picked after."""
    return float(np.mean(resampled <= 0 if observed >= 0 else resampled >= 0))


def _two_sided_p_value(observed: float, resampled: np.ndarray) -> float:
    return float(min(1, 2 * min(np.mean(resampled <= 0), np.mean(resampled >= 0))))


def _gaps_of_counts(counts: np.ndarray, agg: str, empty_tpr: float, empty_fpr: float) -> tuple[float, float]:
    """EODD and EOP from counts (group, label, decision)."""
    n = counts.sum(axis=2)
    with np.errstate(invalid="ignore", divide="ignore"):
        tpr = np.where(n[:, 1] > 0, counts[:, 1, 1] / n[:, 1], empty_tpr)
        fpr = np.where(n[:, 0] > 0, counts[:, 0, 1] / n[:, 0], empty_fpr)
    tpr_gap, fpr_gap = np.nanmax(tpr) - np.nanmin(tpr), np.nanmax(fpr) - np.nanmin(fpr)
    return aggregate(tpr_gap, fpr_gap, agg), tpr_gap


def _changes(statistic, names, arms, n_rows, resamples, estimator, side) -> pd.DataFrame:
    """The published table of one statistic (rows -> (arms, metrics)), the baseline being the first arm."""
    observed = statistic(np.arange(n_rows))
    drawn = np.array([statistic(rows) for rows in resamples])  # (n_boot, arms, metrics)
    value = drawn.mean(axis=0) if estimator == "bootstrap_mean" else observed
    p_value = {"post_hoc": post_hoc_p_value, "two_sided": _two_sided_p_value}[side]
    rows = []
    for a, arm in enumerate(arms):
        for m, metric in enumerate(names):
            delta, change = observed[a, m] - observed[0, m], drawn[:, a, m] - drawn[:, 0, m]
            row = {"arm": arm, "metric": metric, "estimator": f"published_{estimator}"}
            row |= {"value": value[a, m], "baseline": value[0, m], "delta": delta}
            row |= {"delta_bootstrap_mean": change.mean(), "standard_error": drawn[:, a, m].std()}
            row |= {"baseline_standard_error": drawn[:, 0, m].std(), "delta_standard_error": change.std()}
            rows.append(row | {"p_value": p_value(delta, change) if a else np.nan, "n_boot": len(drawn)})
    return pd.DataFrame(rows)


def _arms(values: Mapping, baseline: str) -> list[str]:
    if baseline not in values:
        raise ValueError(f"no baseline arm {baseline!r}; there are {sorted(values)}")
    return [baseline, *(arm for arm in values if arm != baseline)]


def _test_thresholds(scores: Mapping, truth: np.ndarray, policy: str) -> dict:
    if policy != "test_per_arm":
        raise ValueError(f"published thresholds are 'test_per_arm' or a dict by arm, got {policy!r}")
    return {arm: choose_threshold(values, truth) for arm, values in scores.items()}
