"""The women's gain in PSNR: what is held equal vanishes, what is not stays, and a smaller head is the same anatomy."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from fairrecon_core.predict import quality
from fairrecon_lab.analysis import mechanism


def world(of_size=0.0, of_sex=0.0, n=60, seed=0):
    """Gains of three slices a patient that depend on head size, on sex, or on both; men have larger heads."""
    rng = np.random.default_rng(seed)
    female = np.arange(n) % 2 == 0
    head = 0.5 - 0.05 * female + rng.normal(0, 0.03, n)
    facts = pd.DataFrame({"patient_id": np.repeat(np.arange(n), 3), "head_share": np.repeat(head, 3)})
    facts["sex"] = np.where(np.repeat(female, 3), "female", "male")
    facts["place"] = np.tile([0, 0.5, 1.0], n)
    facts.index = [f"i{k}" for k in range(len(facts))]
    gain = 5 - of_size * (facts["head_share"] - 0.5) + of_sex * (facts["sex"] == "female") + rng.normal(0, 0.1, 3 * n)
    table = pd.DataFrame({"arm": "unet", "image_id": facts.index, "gain": gain.to_numpy()})
    return table.assign(baseline=rng.normal(24, 1, 3 * n)), facts


def test_a_difference_that_is_all_size_vanishes_at_equal_size_and_one_of_sex_stays():
    for given, left in ((10.0, 0.0), (0.0, 0.5)):
        gain, facts = world(of_size=given, of_sex=left)
        found = mechanism.at_equal(gain, facts).set_index("held_equal")
        assert found.loc["nothing", "ci_low"] > 0.2
        row = found.loc["head size"]
        assert row["ci_low"] < left < row["ci_high"] and abs(row["value"] - left) < 0.1
    assert "and site" not in found.index, "what is not recorded cannot be held equal"


def test_matched_pairs_agree_with_the_regression_and_are_counted():
    gain, facts = world(of_size=10.0, of_sex=0.3, n=300)
    found = mechanism.matched_difference(gain.drop(columns="baseline"), facts, ["head_share"], caliper=0.2)
    regression = mechanism.at_equal(gain, facts).set_index("held_equal")["value"]
    assert 30 < found["pairs"] <= 150 and abs(found["value"] - regression["head size"]) < 0.06
    assert regression["nothing"] > 0.7 and found["low"] < 0.36 and found["high"] > 0.24
    alone = facts.assign(sex="male")
    none = mechanism.matched_difference(gain.drop(columns="baseline"), alone, ["head_share"])
    assert none["pairs"] == 0 and np.isnan(none["value"])


def test_gains_are_over_the_degraded_image_and_average_seeds():
    table = pd.DataFrame({
        "image_id": ["a", "a", "a"], "arm": ["degraded", "unet", "unet"], "psnr_db": [20.0, 24.0, 26.0],
    })  # fmt: skip
    found = mechanism.gains(table)
    assert found.to_dict("records") == [{"image_id": "a", "arm": "unet", "gain": 5.0, "baseline": 20.0}]


def test_facts_of_an_image_by_hand():
    image = np.zeros((64, 64), np.float32)
    image[16:48, 16:48] = 0.5
    facts = mechanism.image_facts(image)
    assert facts["head_share"] == pytest.approx(0.25, abs=0.07) and facts["brightness"] > 0.35
    stripes = image.copy()
    stripes[16:48:2, 16:48] = 0.3
    assert mechanism.image_facts(stripes)["detail"] > facts["detail"]
    assert mechanism.image_facts(image * 0.5)["detail"] == pytest.approx(facts["detail"])


def test_smaller_keeps_the_anatomy_and_shrinks_the_head():
    y, x = np.mgrid[:128, :128] / 128 - 0.5
    disc = (np.hypot(y, x) < 0.4).astype(np.float32)
    whole, half = mechanism.smaller(disc, 64, 1.0), mechanism.smaller(disc, 64, 0.5)
    assert whole.shape == half.shape == (64, 64)
    assert half.sum() / whole.sum() == pytest.approx(0.25, rel=0.03) and not half[:16].any()


def test_the_gain_of_the_same_anatomy_is_paired_between_sizes():
    images = np.random.default_rng(1).random((6, 32, 32)).astype(np.float32)
    noise = np.random.default_rng(2).normal(0, 0.1, (16, 16)).astype(np.float32)
    restore = lambda clean, ids: {"degraded": clean + noise, "half": clean + noise / 2}
    found = mechanism.gain_by_size(
        images, list("aabbcc"), restore, size=16, shares=[1.0, 0.75], measure=quality.measure, n_boot=100, seed=0
    )
    assert np.allclose(found["value"], 20 * np.log10(2), atol=1e-3) and np.allclose(found["delta"], 0, atol=1e-3)
    assert found["patients"].tolist() == [3, 3]


def test_place_runs_from_the_lowest_slice_to_the_highest():
    table = pd.DataFrame({"image_id": list("abc"), "patient_id": "p", "x_slice": [10, 30, 20], "sex": "male"})
    table["age_group"] = "old"
    cohort = SimpleNamespace(table=table, image=lambda row: np.full((32, 32), 0.5, np.float32), modality="mri")
    facts = mechanism.covariates(cohort, rows=[0, 1, 2])
    assert facts["place"].to_dict() == {"a": 0.0, "b": 1.0, "c": 0.5} and (facts["head_share"] > 0).all()


def test_a_film_s_facts_are_of_the_film_and_its_steps_hold_view_and_grey_values_equal():
    """Women's films are darker, and a darker film gains less: at equal brightness nothing is left."""
    rng, n = np.random.default_rng(3), 160
    female = np.arange(n) % 2 == 0
    bright = 0.6 - 0.1 * female + rng.normal(0, 0.05, n)
    films = np.zeros((n, 32, 32), np.float32)
    films[:, 4:-4] = (bright[:, None, None] + rng.normal(0, 0.05, (n, 24, 32))).clip(0.01, 1)
    table = pd.DataFrame({"image_id": [f"i{k}" for k in range(n)], "patient_id": np.arange(n), "age_group": "old"})
    table["sex"], table["x_view"] = np.where(female, "female", "male"), np.where(rng.random(n) < 0.5, "ap", "pa")
    cohort = SimpleNamespace(table=table, image=lambda row: films[row], modality="xray")
    facts = mechanism.covariates(cohort, rows=range(n))
    assert np.allclose(facts["film_share"], 24 / 32) and "head_share" not in facts, "the black border is no film"
    assert np.allclose(facts["brightness"], films[:, 4:-4].mean(axis=(1, 2)), atol=1e-6)
    gain = pd.DataFrame({"arm": "unet", "image_id": table["image_id"], "baseline": rng.normal(25, 1, n)})
    gain["gain"] = 5 + 6 * (bright - 0.55) + rng.normal(0, 0.05, n)
    found = mechanism.at_equal(gain, facts).set_index("held_equal")
    assert found.loc["nothing", "value"] == pytest.approx(-0.6, abs=0.12) and found.loc["and view", "ci_high"] < -0.4
    assert abs(found.loc["and brightness and contrast", "value"]) < 0.05
    assert found.index.tolist() == list(mechanism.STEPS["xray"])
