"""The small tables of real runs that the repository shows: what is in them was read from images."""

import json

import pandas as pd
import pytest


@pytest.mark.parametrize("profile", ["lgg", "covid_cxr", "nih"])
def test_an_audit_holds_the_arms_of_its_run_and_nothing_that_was_drawn(root, profile):
    settings = json.loads((root / "results" / profile / "run.json").read_text())["settings"]
    audit = pd.read_csv(root / "results" / profile / "audit.csv")
    known = {"clean", *settings["classical"], *settings["arms"], "placebo", "planted"}
    assert set(audit["arm"]) | set(audit["baseline_arm"]) <= known
    performance = pd.read_csv(root / "results" / profile / "performance.csv")
    assert set(performance["arm"]) <= known
    measured = performance["quantity"]
    assert ("segmentation" in set(audit["task"])) == measured.str.startswith("dice").any()
