"""The plan of an audit, and the search for unknown subgroups."""

import json

import numpy as np
import pandas as pd
import pytest

from fairrecon_lab.auditing.plan import Plan, main, plan_table
from fairrecon_lab.auditing.search import search_subgroups


def test_more_patients_more_power_and_the_needed_number_is_enough():
    power = [plan_table(Plan({"a": 5000, "b": n}))["power"].iloc[0] for n in (200, 800, 3000)]
    assert power[0] < power[1] < power[2]
    row = plan_table(Plan({"a": 5000, "b": 800})).iloc[0]
    n = int(row["patients_for_power"])
    enough, short = (plan_table(Plan({"a": 5000, "b": k})).iloc[0]["power"] for k in (n, n - 60))
    assert enough >= 0.79 and short < enough


def test_clusters_and_more_tasks_cost_power():
    base = plan_table(Plan({"a": 2000, "b": 900}, images=3, icc=0.0))["power"].iloc[0]
    assert plan_table(Plan({"a": 2000, "b": 900}, images=3, icc=0.5))["power"].iloc[0] < base
    assert plan_table(Plan({"a": 2000, "b": 900}, images=3, n_tasks=12))["power"].iloc[0] < base


def test_margins_are_declared_and_wrong_ones_refused(tmp_path, capsys):
    out = tmp_path / "plan.json"
    assert main(["--groups", "f=3000,m=1800", "--margin", ".04", "--out", str(out)]) == 0
    assert json.loads(out.read_text())["margins"] == {"rate": 0.04}
    for argv, words in ((["--groups", "3000,x"], "got 'x'"), (["--groups", "30,20", "--margin", "5"], "5 % is 0.05")):
        assert main(argv) == 2
        assert words in capsys.readouterr().err


def test_a_planted_pair_is_found_and_named():
    rng = np.random.default_rng(0)
    n = 1200
    cohort = pd.DataFrame({"image_id": range(n), "sex": rng.choice(["f", "m"], n), "site": rng.choice(["p", "q"], n),
                           "age": rng.normal(60, 15, n), "y_t": rng.integers(0, 2, n)})  # fmt: skip
    bad = (cohort["sex"] == "f") & (cohort["site"] == "q")
    wrong = rng.random(n) < np.where(bad, 0.45, 0.15)
    results = pd.DataFrame(
        {"image_id": range(n), "task": "t", "score": np.where(wrong, 1 - cohort["y_t"], cohort["y_t"])}
    )
    table = search_subgroups(results, cohort, ["sex", "site", "age"], thresholds=0.5, n_boot=300)
    assert table.loc[table["flagged"], "subgroup"].str.contains("sex = f & site = q").any()
    assert (table["flagged"] == (table["bound"] < 0)).all()
    with pytest.raises(ValueError, match="unknown metric"):
        search_subgroups(results, cohort, ["sex"], metric="accuracies")
