"""The evaluation's choices, one at a time, against independent counts."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from fairrecon_core.audit import choose_threshold
from fairrecon_core.audit.engine import patient_weights
from fairrecon_lab.auditing.by_hand import eodd
from fairrecon_lab.paper.evaluation import published_audit
from fairrecon_lab.paper.switches import PUBLISHED, RECOMMENDED, SWITCHES, _Evaluation, switch_evaluation


def world(n_patients=300, per_patient=1, seed=0, shift=0.0, groups=("female", "male"), shares=None):
    """Two tables: scores of a clean arm and two more for one task, and who is who."""
    rng = np.random.default_rng(seed)
    sex = rng.choice(groups, n_patients, p=shares)
    truth = (rng.random(n_patients) < 0.4).astype(float)
    latent = rng.normal(size=n_patients) + 1.5 * truth
    other = {"b": rng.normal(0, 0.5, n_patients) + shift * (sex == groups[0]), "c": rng.normal(0, 0.5, n_patients)}
    split = np.where(np.arange(n_patients) % 3 == 0, "validation", "test")
    people = pd.DataFrame(
        {"patient_id": [f"p{i:04}" for i in range(n_patients)], "sex": sex, "y_edema": truth, "split": split}
    )
    people = people.loc[people.index.repeat(per_patient)].reset_index(drop=True)
    people["image_id"] = [f"i{i:05}" for i in range(len(people))]
    rows = np.repeat(np.arange(n_patients), per_patient)
    values = {"clean": latent} | {name: latent + change for name, change in other.items()}
    scores = [people[["image_id"]].assign(arm=arm, level=1.0, task="edema", score=norm.cdf(value[rows] - 0.7))
              for arm, value in values.items()]  # fmt: skip
    return pd.concat(scores, ignore_index=True).assign(cohort="w"), people


def switches(*tables, **options):
    return switch_evaluation(*tables, **({"n_boot": 300} | options)).set_index("choice")


def test_all_choices_as_published_are_the_published_evaluation():
    predictions, cohort = world(240, 2, shift=-0.6)
    n_boot, seed = 200, 5
    evaluation = _Evaluation.of(predictions, cohort, "sex", "clean", (1.0, 10, n_boot, 0.05, seed))
    ours = evaluation.run(PUBLISHED, np.ones(len(evaluation.patient), bool))
    n = len(evaluation.patient)
    rows = [np.repeat(np.arange(n), weight) for weights in patient_weights(n, n_boot, seed) for weight in weights]
    test = cohort[cohort["split"] == "test"]
    theirs = published_audit(predictions, test, "sex", resamples=rows).query("metric == 'eodd' and arm != 'clean'")
    assert ours.eodd[0] == pytest.approx(theirs["value"].to_numpy(), abs=1e-6)
    assert ours.se[0] == pytest.approx(theirs["delta_standard_error"].to_numpy(), abs=1e-6)
    assert ours.p_value[0] == pytest.approx(theirs["p_value"].to_numpy(), abs=1.1 / n_boot)


def test_the_recommended_value_is_the_plain_gap():
    predictions, cohort = world(600, shift=-0.6)
    evaluation = _Evaluation.of(predictions, cohort, "sex", "clean", (1.0, 10, 100, 0.05, 0))
    ours = evaluation.run(RECOMMENDED, np.ones(len(evaluation.patient), bool))
    validation = cohort[cohort["split"] == "validation"].merge(
        predictions[predictions["arm"] == "clean"], on="image_id"
    )
    cut = choose_threshold(validation["score"], validation["y_edema"])
    test = cohort[cohort["split"] == "test"].merge(predictions[predictions["arm"] == "b"], on="image_id")
    assert ours.eodd[0, 0] == pytest.approx(eodd(test["y_edema"], test["score"] >= cut, test["sex"]))


def test_switches_name_their_settings_and_repeat_themselves():
    tables = world(300)
    table = switches(*tables)
    assert list(table.index) == list(SWITCHES) and (table["cohort"] == "w").all()
    assert (table["low"] <= table["effect"]).all() and (table["effect"] <= table["high"]).all()
    assert table["note"].str.fullmatch(r"\d of 2 cells called differently").all()
    pd.testing.assert_frame_equal(table, switches(*tables))
    assert not table["effect"].equals(switches(*tables, others="published")["effect"])
    with pytest.raises(ValueError, match="'recommended' or 'published', got 'mine'"):
        switches(*tables, others="mine")


def test_counting_images_for_patients_halves_the_error_of_four_alike():
    one = switches(*world(300, 1))
    four = switches(*world(300, 4))
    assert one.loc["resampling unit", "effect"] == pytest.approx(0, abs=1e-12)
    evaluation = _Evaluation.of(*world(300, 4), "sex", "clean", (1.0, 10, 1000, 0.05, 0))
    keep = np.ones(len(evaluation.patient), bool)
    se = {unit: evaluation.run(RECOMMENDED | {"unit": unit}, keep).se.mean() for unit in ("rows", "patients")}
    assert se["rows"] / se["patients"] == pytest.approx(0.5, abs=0.06)
    assert four.loc["resampling unit", "effect"] < 0


def test_an_empty_stratum_counts_as_perfect_in_the_published_way():
    predictions, cohort = world(400, groups=("a", "b", "rare"), shares=[0.5, 0.47, 0.03])
    cohort.loc[cohort["sex"] == "rare", "y_edema"] = 0.0
    table = switches(predictions, cohort)
    assert table.loc["empty strata", "effect"] > 0  # TPR 1 beside rates of .8, FPR of a handful
    brain = switches(predictions, cohort, empty_tpr=0.0)
    assert brain.loc["empty strata", "effect"] > table.loc["empty strata", "effect"]


def test_bootstrap_means_are_larger_where_nothing_differs():
    row = switches(*world(1200, seed=2)).loc["estimator"]
    assert row["effect"] > 0 and not row["moves_a_conclusion"]


def test_without_adjustment_and_with_a_chosen_side_more_is_called_changed():
    predictions, cohort = world(900, shift=-0.25, seed=4)
    evaluation = _Evaluation.of(predictions, cohort, "sex", "clean", (1.0, 10, 1000, 0.05, 0))
    keep = np.ones(len(evaluation.patient), bool)
    base = evaluation.run(RECOMMENDED, keep).p_value
    for switch in ({"adjust": "none"}, {"side": "post_hoc"}):
        assert (evaluation.run(RECOMMENDED | switch, keep).p_value <= base + 1e-12).all()


def test_too_few_patients_are_refused_with_a_way_out():
    with pytest.raises(ValueError, match="lower min_support \\(is 400\\)"):
        switches(*world(300), min_support=400)
