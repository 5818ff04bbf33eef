"""Adjusting for confounders: what it takes away, what it leaves, and that its errors are statsmodels'."""

import numpy as np
import pandas as pd
import pytest

from fairrecon_lab.analysis.confounders import adjusted


def cohort(n_patients=400, direct=0.0, seed=0):
    """Women have smaller tumours, and small tumours lose more; `direct` is what women lose beyond that."""
    rng = np.random.default_rng(seed)
    female = rng.random(n_patients) < 0.5
    size = rng.normal(np.where(female, -0.5, 0.5), 1)
    site = rng.choice(["a", "b", "c"], n_patients)
    who = np.repeat(np.arange(n_patients), 3)
    change = 0.1 * size + 0.05 * (site == "b") - direct * female + rng.normal(0, 0.05, n_patients)
    table = pd.DataFrame(
        {"patient_id": who, "sex": np.where(female, "female", "male")[who], "size": size[who], "site": site[who]}
    )
    return table.assign(change=change[who] + rng.normal(0, 0.02, len(who)))


def fit(table, columns):
    others = table[columns] if columns else None
    return adjusted(table["change"], table["sex"], table["patient_id"], others, reference="male").iloc[0]


def test_a_difference_that_is_all_confounder_vanishes():
    table = cohort()
    row = fit(table, ["size", "site"])
    assert row["unadjusted"] < -0.05 and row["ci_low"] < 0 < row["ci_high"]
    assert fit(table, [])["ci_high"] < 0


def test_a_direct_harm_stays_and_is_covered():
    rows = [fit(cohort(direct=0.04, seed=seed), ["size", "site"]) for seed in range(40)]
    covered = sum(row["ci_low"] <= -0.04 <= row["ci_high"] for row in rows)
    assert covered >= 34 and abs(np.mean([row["value"] for row in rows]) + 0.04) < 0.003


def test_without_confounders_it_is_the_difference_of_means():
    table = cohort()
    means = table.groupby("sex")["change"].mean()
    assert fit(table, [])["value"] == pytest.approx(means["female"] - means["male"], abs=1e-12)


def test_estimates_and_errors_are_those_of_statsmodels():
    models = pytest.importorskip("statsmodels.formula.api")
    table = cohort(120).assign(female=lambda t: (t["sex"] == "female").astype(float))
    peer = models.ols("change ~ female + size + C(site)", table).fit(
        cov_type="cluster", cov_kwds={"groups": table["patient_id"], "use_correction": False}
    )
    ours, n = fit(table, ["size", "site"]), table["patient_id"].nunique()
    assert ours["value"] == pytest.approx(peer.params["female"], rel=1e-9)
    assert ours["se"] == pytest.approx(peer.bse["female"] * np.sqrt(n / (n - 1)), rel=1e-9)


def test_a_confounder_that_tells_the_subgroup_leaves_nothing():
    table = cohort().assign(code=lambda t: t["sex"].map({"female": "f", "male": "m"}))
    assert np.isnan(fit(table, ["code"])["value"])


def test_missing_values_are_left_out_and_counted():
    table = cohort(50)
    table.loc[table["patient_id"] < 10, "size"] = np.nan
    assert fit(table, ["size"])["n_patients"] == 40


def test_a_reference_must_occur():
    with pytest.raises(ValueError, match=r"no reference subgroup 'other' among \['female', 'male'\]"):
        adjusted([0.1, 0.2], ["female", "male"], [1, 2], reference="other")


def test_where_a_confounder_follows_the_subgroup_the_answer_is_not_a_number_and_says_why():
    """Every woman at site a, every man at site b; age overlaps. By hand: no pair of a woman and a man shares a site."""
    rng = np.random.default_rng(0)
    sex = np.repeat(["female", "male"], 20)
    people = pd.DataFrame({"site": np.where(sex == "female", "a", "b"), "age": rng.normal(60, 9, 40)})
    found = adjusted(rng.normal(0, 1, 40), sex, np.arange(40), people, reference="male").iloc[0]
    assert np.isnan(found[["value", "ci_low", "ci_high", "se"]].astype(float)).all() and np.isfinite(
        found["unadjusted"]
    )
    assert found["why_not"].startswith("site by itself") and "age" not in found["why_not"]
    mixed = people.assign(site=np.where(np.arange(40) % 2 == 0, "a", "b"))
    assert adjusted(rng.normal(0, 1, 40), sex, np.arange(40), mixed, reference="male")["why_not"][0] == ""


def test_two_confounders_that_only_together_tell_the_subgroup_are_both_named():
    """The sum of two numbers is 1 for women and 0 for men; neither alone decides."""
    rng = np.random.default_rng(1)
    sex, x = np.repeat(["female", "male"], 20), rng.normal(0, 1, 40)
    people = pd.DataFrame({"x": x, "rest": (sex == "female") - x})
    found = adjusted(rng.normal(0, 1, 40), sex, np.arange(40), people, reference="male").iloc[0]
    assert np.isnan(found["value"]) and found["why_not"].startswith("x, rest together")
