"""What notebook 10 computes beside the audit: by hand, and in worlds whose answer is known."""

import numpy as np
import pandas as pd
import pytest

from fairrecon_core.audit import audit_change
from fairrecon_core.audit.matching import match
from fairrecon_lab.analysis import fairness, fairness_figures
from fairrecon_lab.auditing.by_hand import eodd, eop
from fairrecon_lab.simulate import Bias


def test_gaps_from_counts_are_those_of_the_metrics():
    rng = np.random.default_rng(0)
    truth, decision, group = rng.integers(0, 2, 300), rng.integers(0, 2, 300), rng.integers(0, 3, 300)
    found = fairness.gaps_of(truth, decision, group, 3)
    assert found == pytest.approx([eodd(truth, decision, group), eop(truth, decision, group)])


def readings(n=400, seed=0, harm=0.0):
    """Scores of `clean` and `arm` of n patients; women lose `harm` of their score in the arm."""
    rng = np.random.default_rng(seed)
    people = pd.DataFrame({"image_id": [f"i{k}" for k in range(n)], "sex": rng.choice(["female", "male"], n)})
    people = people.assign(patient_id=people["image_id"], y_t=rng.integers(0, 2, n).astype(float), split="test")
    clean = np.clip(0.5 + 0.3 * (people["y_t"] - 0.5) + rng.normal(0, 0.2, n), 0, 1)
    other = np.clip(clean + rng.normal(0, 0.1, n) - harm * (people["sex"] == "female"), 0, 1)
    rows = [
        people[["image_id"]].assign(task="t", arm=arm, score=score) for arm, score in (("clean", clean), ("arm", other))
    ]
    return pd.concat(rows, ignore_index=True), people


def test_a_folded_change_of_nothing_is_like_that_of_swaps_and_a_harm_is_not():
    nothing, harmed = [], []
    for seed in range(20):
        for harm, into in ((0.0, nothing), (0.4, harmed)):
            pairs = match(*readings(seed=seed, harm=harm), thresholds=0.5)
            (seen, _), (noise, _) = fairness.folded_changes(pairs, "sex", "t", "arm", seed=seed)
            into.append(seen / noise)
    assert 0.6 < np.median(nothing) < 1.6 and np.median(harmed) > 2


def test_a_task_with_one_label_has_no_folded_change():
    scores, people = readings()
    pairs = match(scores, people.assign(y_t=1.0), thresholds=0.5)
    assert np.isnan(fairness.folded_changes(pairs, "sex", "t", "arm")).all()


def test_the_known_change_of_a_world_is_what_a_large_cohort_shows():
    bias, task = Bias(conspicuity=0.4), "pleural_effusion"
    scores, people = fairness.world(bias, 3, task, n_patients=60_000)
    called = scores.assign(hit=scores["score"] >= 0.5).pivot(index="image_id", columns="arm", values="hit")
    sick = people[people[f"y_{task}"] == 1]
    rates = called.loc[sick["image_id"]].groupby(sick.set_index("image_id")["sex"]).mean()
    moved = rates["arm"] - rates["clean"]
    assert moved["female"] - moved["male"] == pytest.approx(fairness.true_change(bias, task), abs=0.02)
    assert fairness.true_change(Bias(), task) == 0 == fairness.true_change(Bias(label=1.0), task)


def test_a_planted_harm_is_known_by_hand():
    scores, people = readings(n=2000)
    women = people.loc[(people["sex"] == "female") & (people["y_t"] == 1), "image_id"]
    clean = scores[scores["arm"] == "clean"]
    lost = clean["image_id"].isin(women) & (np.arange(len(clean)) % 4 == 0)
    planted = clean.assign(arm="planted", score=np.where(lost, 0.0, clean["score"]))
    table = audit_change(pd.concat([clean, planted]), people, reference="male", thresholds=0.5, n_boot=300)
    found = fairness.planted_check(table, "t", lost.sum() / len(women), hits_become_misses=True)
    hits = clean.set_index("image_id").loc[women, "score"] >= 0.5
    assert found["known"] == pytest.approx(-hits.mean() * lost.sum() / len(women), abs=1e-6)
    assert found["delta_ci_low"] <= found["known"] <= found["delta_ci_high"] and found["verdict"] == "changed"


def test_drawn_overlaps_plant_what_they_say():
    table = pd.DataFrame({"image_id": [f"i{k}" for k in range(600)], "patient_id": [f"p{k // 2}" for k in range(600)]})
    table = table.assign(sex=np.where(np.arange(600) % 4 < 2, "female", "male"))
    cohort = type("Toy", (), {"table": table, "masks": None, "pixel_rows": np.arange(600)})()
    rows = fairness.dice_values(fairness.drawn_overlaps(cohort, 8, 0))
    means = rows.merge(table, on="image_id").groupby(["arm", "sex"])["value"].mean().unstack()
    assert means.loc["planted", "male"] == means.loc["clean", "male"]
    assert means.loc["clean", "female"] - means.loc["planted", "female"] == pytest.approx(0.05, abs=0.005)
    assert np.allclose(means.loc["clean"] - means.loc["blurred_reader"], 0.05, atol=0.005)
    cohort.table = table.assign(fold=np.arange(600) // 2 % 3)
    found = audit_change(fairness.drawn_overlaps(cohort, 8, 0), cohort.table, "sex", reference="male", n_boot=100)
    assert found["n_patients"].max() == 300, "with folds everybody is audited, each in the fold that tests them"


def test_a_loss_is_paired_within_the_fold_that_tested_the_image():
    rows = pd.DataFrame({"image_id": ["a", "a", "a"], "fold": [0, 0, 1], "arm": ["clean", "unet", "clean"]})
    found = fairness.losses(rows.assign(value=[0.8, 0.5, 0.1]), "unet")
    assert len(found) == 1 and found["loss"][0] == pytest.approx(-0.3)


def test_who_is_of_unknown_sex_has_no_part_in_the_swaps():
    rows, people = readings()
    unknown = people["image_id"].isin(people["image_id"][:60])
    pairs = match(rows, people.assign(sex=people["sex"].where(~unknown)), thresholds=0.5)
    pairs_without = match(rows[~rows["image_id"].isin(people["image_id"][:60])], people[~unknown], thresholds=0.5)
    found = fairness.folded_changes(pairs, "sex", "t", "arm")
    assert found[0] == pytest.approx(fairness.folded_changes(pairs_without, "sex", "t", "arm")[0])


def test_an_arm_that_one_attribute_lacks_leaves_a_gap_in_the_figure():
    rows = [["c", attribute, arm, metric, 0.1, 0.05] for metric in ("EODD", "EOP")
            for attribute, arm in (("sex", "unet"), ("sex", "placebo"), ("race", "unet"))]  # fmt: skip
    folded = pd.DataFrame(rows, columns=["cohort", "attribute", "arm", "metric", "observed", "noise"])
    lines = [line for line in fairness_figures.folded_figure(folded, "").axes[0].lines if len(line.get_xdata())]
    assert [np.isfinite(line.get_ydata()).sum() for line in lines] == [2, 1, 2, 1]
