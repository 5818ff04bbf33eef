"""Bounds for the unrecorded: against every completion of small tables, one by one."""

import itertools

import numpy as np
import pandas as pd
import pytest

from fairrecon_lab.auditing.bounds import BOUNDED, bounds_unrecorded


def small_table(rng):
    """Nine patients with one to three images; some without subgroup, some images without label."""
    patient = np.repeat(np.arange(9), rng.integers(1, 4, 9))
    sex = np.array([*"aaabbb", "", "", ""])[patient]
    truth = rng.integers(0, 2, len(patient)).astype(float)
    truth[rng.choice(len(patient), 3, replace=False)] = np.nan
    cohort = pd.DataFrame({"image_id": np.arange(len(patient)), "patient_id": patient, "sex": sex, "y_t": truth})
    return cohort, pd.DataFrame({"image_id": cohort["image_id"], "task": "t", "score": rng.random(len(patient))})


def rates_of(decision, truth, inside):
    """TPR, FPR, PPV and accuracy of the rows inside, NaN where there are none."""
    mean = lambda values: values.mean() if values.size else np.nan
    d, y = decision[inside], truth[inside]
    return {"tpr": mean(d[y == 1]), "fpr": mean(d[y == 0]), "ppv": mean(y[d == 1]), "accuracy": mean((d == y) * 1.0)}


def every_completion(cohort, predictions):
    """Rates of a and b, and their gap, in all completions: {(metric, name): (least, greatest)}."""
    decision, patient = (predictions["score"].to_numpy() >= 0.5) * 1.0, cohort["patient_id"].to_numpy()
    unknown, lost = np.unique(patient[cohort["sex"] == ""]), np.flatnonzero(cohort["y_t"].isna())
    found: dict = {}
    for labels in itertools.product([0.0, 1.0], repeat=len(lost)):
        truth = cohort["y_t"].to_numpy().copy()
        truth[lost] = labels
        for homes in itertools.product("abx", repeat=len(unknown)):
            sex = cohort["sex"].to_numpy(dtype=object).copy()
            for who, home in zip(unknown, homes):
                sex[patient == who] = home
            a, b = (rates_of(decision, truth, sex == name) for name in "ab")
            for metric in BOUNDED:
                for name, value in (("a", a[metric]), ("b", b[metric]), ("gap", b[metric] - a[metric])):
                    if not np.isnan(value):
                        low, high = found.get((metric, name), (np.inf, -np.inf))
                        found[metric, name] = min(low, value), max(high, value)
    return found


@pytest.mark.parametrize("seed", range(12))
def test_ends_are_those_of_all_completions(seed):
    cohort, predictions = small_table(np.random.default_rng(seed))
    truth = every_completion(cohort, predictions)
    table = bounds_unrecorded(predictions, cohort, "sex", thresholds=0.5, min_support=1, reference="a")
    known = table[table["low"].notna()]
    assert len(known) >= 6
    for row in known.itertuples():
        low, high = truth[row.metric, "gap" if row.reference else row.subgroup]
        if row.sharp:
            assert (row.low, row.high) == pytest.approx((low, high), abs=1e-9), row
        else:
            assert row.reference and row.low <= low + 1e-9 and row.high >= high - 1e-9


def test_nothing_missing_leaves_the_rate_itself():
    rng = np.random.default_rng(0)
    cohort = pd.DataFrame({"image_id": range(400), "sex": rng.choice(["f", "m"], 400), "y_t": rng.integers(0, 2, 400)})
    predictions = pd.DataFrame({"image_id": range(400), "task": "t", "score": rng.random(400)})
    table = bounds_unrecorded(predictions, cohort, "sex", thresholds=0.5)
    assert np.allclose(table["low"], table["value"]) and np.allclose(table["high"], table["value"])
    assert (table["ci_low"] < table["low"]).all() and (table["ci_high"] > table["high"]).all()
    assert (table["patients_unknown"] == 0).all() and (table["images_unlabelled"] == 0).all()


def test_more_unknown_widen_and_a_lost_subgroup_is_not_estimable():
    rng = np.random.default_rng(1)
    sex = np.array(["f"] * 200 + ["m"] * 195 + ["x"] * 5)
    cohort = pd.DataFrame({"image_id": range(400), "sex": sex, "y_t": rng.integers(0, 2, 400)})
    predictions = pd.DataFrame({"image_id": range(400), "task": "t", "score": rng.random(400)})
    width = []
    for n in (0, 20, 80):
        cohort.loc[rng.choice(395, n, replace=False), "sex"] = None
        table = bounds_unrecorded(predictions, cohort, "sex", thresholds=0.5, metrics=("tpr",), reference="f")
        row = table[(table["subgroup"] == "m") & (table["reference"] == "f")].iloc[0]
        width.append(row["high"] - row["low"])
        assert (table.loc[table["subgroup"] == "x", "verdict"] == "not_estimable").all()
    assert width[0] < 1e-9 < width[1] < width[2]


def test_an_unknown_metric_is_refused():
    frame = pd.DataFrame({"image_id": [1], "sex": ["a"], "y_t": [1], "task": ["t"], "score": [0.2]})
    with pytest.raises(ValueError, match="no bounds of 'auroc'"):
        bounds_unrecorded(frame, frame, "sex", metrics=("auroc",))
