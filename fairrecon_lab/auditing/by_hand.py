"""Fairness metrics by hand: rates per subgroup and the gaps between them, on plain arrays, without inference.

Conventions: one entry per image; `truth` is 0, 1 or NaN (not recorded, left out), `decision` is 0 or 1, `score` a
probability in [0, 1], `subgroup` a name. The subgroup "unknown" (or a missing name) is kept and counted, and left
out of every gap. What cannot be estimated is NaN with its support beside it, never 0 or 1; support is counted in
patients (`patient_id`; without it every image is its own patient), because two images of one patient are not two
witnesses; a value that rests on fewer than `min_support` patients is NaN. What cannot be right is a ValueError.

Who computes what: fairlearn's `equalized_odds_difference` is `eodd(agg="max")`, with `agg="mean"` it is the paper's
and our default; aif360's `average_odds_error` is `agg="mean"` for two subgroups; FairMedFM and MEDFAIR print
1 - `eodd`, so higher is fairer there. fairlearn calls the rate of a subgroup without positives 0, we call it NaN.
Source: paper Sec. 2.2; SER after doi:10.1038/s41598-024-66873-6 with Dice in place of IoU.
"""

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from fairrecon_core.audit.metrics import UNKNOWN, WEAK_SUPPORT, aggregate, logit, probabilities

PSNR_UNITS = ("db", "percent", "mse_ratio")


def group_rates(truth, decision, subgroup, *, patient_id=None, min_support: int = 1) -> pd.DataFrame:
    """True and false positive rate of every subgroup, with the support they rest on.

    Parameters
    ----------
    truth, decision, subgroup : array-like, shape (n,)
        Recorded labels (0, 1, NaN), decisions (0, 1), names.
    patient_id : array-like, shape (n,), optional
        Who each image is of; without it every image counts as its own patient.
    min_support : int
        A rate that rests on fewer patients is NaN.

    Returns
    -------
    rates : DataFrame, one row per subgroup in alphabetical order
        `tpr fpr` in [0, 1] or NaN; `n_positive n_negative` images; `patients_positive patients_negative`;
        `support`: "ok", "weak" (a rate on fewer than 20 patients) or "not estimable" (a rate is NaN).

    Raises
    ------
    ValueError
        If lengths differ, or a label or decision is neither 0 nor 1.
    """
    truth, decision, subgroup, patient = _aligned(truth, decision, subgroup, patient_id)
    truth, decision, subgroup = _binary(truth, "truth"), _binary(decision, "decision", missing=False), _names(subgroup)
    rows = []
    for name in np.unique(subgroup):
        row = {"subgroup": name}
        for rate, label, word in (("tpr", 1, "positive"), ("fpr", 0, "negative")):
            here = (subgroup == name) & (truth == label)
            n_patients = pd.unique(patient[here]).size
            row[rate] = decision[here].mean() if n_patients >= max(min_support, 1) else np.nan
            row[f"n_{word}"], row[f"patients_{word}"] = int(here.sum()), n_patients
        row["support"] = support_word(min(row["patients_positive"], row["patients_negative"]), min_support)
        rows.append(row)
    order = ["tpr", "fpr", "n_positive", "n_negative", "patients_positive", "patients_negative", "support"]
    return pd.DataFrame(rows, columns=["subgroup", *order]).set_index("subgroup")


def support_word(n_patients: int, min_support: int = 1) -> str:
    """Say what `n_patients` can carry: "ok", "weak" (below 20) or "not estimable" (below `min_support`)."""
    if n_patients < max(min_support, 1):
        return "not estimable"
    return "weak" if n_patients < WEAK_SUPPORT else "ok"


def gap(values) -> float:
    """Largest minus smallest of the values that exist; NaN when fewer than two do.

    A Series indexed by subgroup loses its "unknown" first.
    """
    values = _known(values)
    return float(values.max() - values.min()) if values.size > 1 else np.nan


def eop(truth, decision, subgroup, *, patient_id=None, min_support: int = 1) -> float:
    """Equal opportunity gap: largest minus smallest true positive rate; 0 is equal.

    Examples
    --------
    >>> eop([1, 1, 1, 1], [1, 1, 1, 0], ["a", "a", "b", "b"])
    0.5
    """
    return gap(group_rates(truth, decision, subgroup, patient_id=patient_id, min_support=min_support)["tpr"])


def eodd(truth, decision, subgroup, *, agg: str = "mean", patient_id=None, min_support: int = 1) -> float:
    """Equalised odds gap: the gaps in true and false positive rate, averaged (`mean`) or the larger (`max`).

    The two gaps may come from different pairs of subgroups. Always EOP / 2 <= mean <= max <= 2 mean.
    `mean` is what the published code computes, `max` is fairlearn's default and what "worst case" suggests.

    Raises
    ------
    ValueError
        If `agg` is unknown, or as in `group_rates`.
    """
    rates = group_rates(truth, decision, subgroup, patient_id=patient_id, min_support=min_support)
    return float(aggregate(gap(rates["tpr"]), gap(rates["fpr"]), agg))


def group_means(values, subgroup, *, patient_id=None, min_support: int = 1) -> pd.DataFrame:
    """Mean per subgroup of the patients' means; columns `mean n n_patients support`. NaN values are left out."""
    values, subgroup, patient = _aligned(values, subgroup, patient_id)
    subgroup = _names(subgroup)
    frame = pd.DataFrame({"value": values.astype(float), "subgroup": subgroup, "patient": patient})
    names = np.unique(subgroup)
    frame = frame[frame["value"].notna()]
    n_images = frame.groupby("subgroup").size()
    by_patient = frame.groupby(["subgroup", "patient"])["value"].mean().groupby("subgroup")
    table = pd.DataFrame({"mean": by_patient.mean(), "n": n_images, "n_patients": by_patient.size()})
    table = table.reindex(names)
    table[["n", "n_patients"]] = table[["n", "n_patients"]].fillna(0).astype(int)
    table.loc[table["n_patients"] < max(min_support, 1), "mean"] = np.nan
    table["support"] = [support_word(n, min_support) for n in table["n_patients"]]
    return table.rename_axis("subgroup")


def delta_dice(dice_values, subgroup, *, patient_id=None, min_support: int = 1) -> float:
    """Largest minus smallest subgroup Dice, each the mean of its patients' means; 0 is equal."""
    return gap(_dice_by_group(dice_values, subgroup, patient_id, min_support))


def ser(dice_values, subgroup, *, patient_id=None, min_support: int = 1) -> float:
    """Skewed error ratio, largest over smallest subgroup error 1 - Dice; 1 is equal.

    Infinite when one subgroup is segmented without any error and another is not.
    """
    return ser_of(_dice_by_group(dice_values, subgroup, patient_id, min_support))


def ser_of(group_dice) -> float:
    """Skewed error ratio of Dice values that are already per subgroup."""
    error = 1 - _known(group_dice)
    if error.size < 2:
        return np.nan
    if error.max() == error.min():
        return 1.0
    return float(error.max() / error.min()) if error.min() > 0 else np.inf


def psnr_gap(psnr_db, subgroup, *, patient_id=None, unit: str = "db", min_support: int = 1) -> float:
    """Largest minus smallest subgroup PSNR, each the mean of its patients' means.

    Parameters
    ----------
    unit : {"db", "percent", "mse_ratio"}
        Decibels; per cent of the smallest (published, Tables 6 and 7, though a decibel has no per cent); or the ratio
        of mean squared errors that the decibels stand for, 10^(gap / 10). Another one is a ValueError.
    """
    if unit not in PSNR_UNITS:
        raise ValueError(f"unknown unit {unit!r}; choose one of {list(PSNR_UNITS)}")
    by_group = group_means(psnr_db, subgroup, patient_id=patient_id, min_support=min_support)["mean"]
    decibels = gap(by_group)
    if unit == "percent":
        return 100 * decibels / float(_known(by_group).min()) if np.isfinite(decibels) else np.nan
    return 10 ** (decibels / 10) if unit == "mse_ratio" else decibels


def auroc(truth, score) -> float:
    """Chance that a positive scores above a negative, ties counted half; NaN without both. Source: Mann-Whitney."""
    truth, score = _aligned(truth, score)[:2]
    truth = _binary(truth, "truth")
    score, positive = probabilities(score)[~np.isnan(truth)], truth[~np.isnan(truth)] == 1
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if not n_positive or not n_negative:
        return np.nan
    rank_sum = rankdata(score)[positive].sum()
    return float((rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def group_auroc(truth, score, subgroup, *, patient_id=None, min_support: int = 1) -> pd.Series:
    """AUROC within every subgroup; NaN below `min_support` patients with or without the label."""
    truth, score, subgroup, patient = _aligned(truth, score, _names(subgroup), patient_id)
    rates = group_rates(truth, np.zeros(len(truth)), subgroup, patient_id=patient, min_support=min_support)
    values = {
        name: auroc(truth[subgroup == name], score[subgroup == name]) if word != "not estimable" else np.nan
        for name, word in rates["support"].items()
    }
    return pd.Series(values, name="auroc", dtype=float).rename_axis("subgroup")


def auroc_gap(truth, score, subgroup, *, patient_id=None, min_support: int = 1) -> float:
    """Largest minus smallest AUROC within a subgroup; needs no threshold; 0 is equal."""
    return gap(group_auroc(truth, score, subgroup, patient_id=patient_id, min_support=min_support))


def calibration_gap(truth, score, subgroup, *, patient_id=None, min_support: int = 1) -> float:
    """Largest minus smallest calibration in the large, mean(score - truth), over subgroups; 0 is equal.

    The finer expected calibration error is not used: it is an average of absolute values, so small subgroups look
    badly calibrated from noise alone.
    """
    truth, score, subgroup, patient = _aligned(truth, score, subgroup, patient_id)
    excess = probabilities(score) - _binary(truth, "truth")
    return gap(group_means(excess, subgroup, patient_id=patient, min_support=min_support)["mean"])


def flip_rate(decision, baseline_decision, subgroup, *, patient_id=None, min_support: int = 1) -> pd.Series:
    """Share of decisions per subgroup that differ from the baseline's; needs no labels; 0 is unchanged."""
    changed = _binary(decision, "decision", missing=False) != _binary(baseline_decision, "decision", missing=False)
    return group_means(changed, subgroup, patient_id=patient_id, min_support=min_support)["mean"].rename("flip_rate")


def logit_shift(score, baseline_score, truth, subgroup, *, patient_id=None, min_support: int = 1) -> pd.DataFrame:
    """Mean change of the logit from `baseline_score`, per subgroup (rows) and label (columns 0, 1); 0 is unchanged."""
    score, baseline, truth, subgroup, patient = _aligned(score, baseline_score, truth, subgroup, patient_id)
    shift, truth = logit(score) - logit(baseline), _binary(truth, "truth")
    columns = {
        label: group_means(
            np.where(truth == label, shift, np.nan), subgroup, patient_id=patient, min_support=min_support
        )["mean"]
        for label in (0, 1)
    }
    return pd.DataFrame(columns).rename_axis(index="subgroup", columns="label")


def worst_case(values, better: str = "higher") -> tuple[str, float]:
    """Name and value of the subgroup that is served worst; ("", NaN) if none can be estimated.

    Parameters
    ----------
    values : Series, indexed by subgroup
    better : {"higher", "lower"}
        Which direction is good: "higher" for a TPR or an AUROC, "lower" for an FPR or a flip rate; else a ValueError.
    """
    if better not in ("higher", "lower"):
        raise ValueError(f"better is 'higher' or 'lower', got {better!r}")
    values = _known(values)
    if not values.size:
        return "", np.nan
    name = values.idxmin() if better == "higher" else values.idxmax()
    return str(name), float(values[name])


def _known(values) -> pd.Series:
    """Values that exist, as a Series without the subgroup "unknown"."""
    values = values if isinstance(values, pd.Series) else pd.Series(np.asarray(values, dtype=float))
    return values[(values.index != UNKNOWN) & values.notna()]


def _aligned(*columns) -> list[np.ndarray]:
    """Columns as arrays of one length; the last may be None (no patients given) and becomes 0 ... n - 1."""
    arrays = [np.asarray(column) for column in columns if column is not None]
    if columns[-1] is None:
        arrays.append(np.arange(len(arrays[0])))
    lengths = {len(array) for array in arrays}
    if len(lengths) > 1:
        raise ValueError(f"one entry per image expected, got columns of {sorted(lengths)} entries")
    return arrays


def _names(subgroup) -> np.ndarray:
    """Names of subgroups as an array; a missing name is "unknown"."""
    subgroup = np.asarray(subgroup)
    missing = pd.isna(subgroup)
    if missing.any() or subgroup.dtype == object:
        return np.where(missing, UNKNOWN, subgroup.astype(object)).astype(str)
    return subgroup


def _binary(values, name: str, missing: bool = True) -> np.ndarray:
    """Check for 0, 1 and (if `missing`) NaN; returns float64."""
    values = np.asarray(values, dtype=float)
    odd = ~np.isin(values, (0, 1)) & ~(np.isnan(values) if missing else np.zeros(values.shape, bool))
    if odd.any():
        raise ValueError(f"{name!r} should be 0 or 1{' or NaN' if missing else ''}, found {float(values[odd][0])}")
    return values


def _dice_by_group(dice_values, subgroup, patient_id, min_support) -> pd.Series:
    probabilities(np.asarray(dice_values, dtype=float)[~np.isnan(np.asarray(dice_values, dtype=float))], "dice")
    return group_means(dice_values, subgroup, patient_id=patient_id, min_support=min_support)["mean"]
