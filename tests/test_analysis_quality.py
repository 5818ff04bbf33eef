"""Notebook 07's numbers by hand: means by patient, places, gains of samples, gaps of subgroups."""

import numpy as np
import pandas as pd
import pytest

from fairrecon_lab.analysis import estimates, quality

OPTIONS = {"n_boot": 50, "seed": 1}


def test_a_mean_counts_patients_not_images():
    found = estimates.mean_of([1.0, 3.0, 8.0], ["a", "a", "b"], **OPTIONS)
    assert found["value"] == pytest.approx((2 + 8) / 2) and found["patients"] == 2
    assert found["low"] <= 5 <= found["high"]


def test_means_by_level_keep_the_order_of_the_arms():
    rows = pd.DataFrame(
        {"image_id": list("abab"), "arm": ["tv", "tv", "unet", "unet"], "level": 4.0, "psnr_db": [20.0, 22, 30, 34]}
    )
    patients = pd.Series({"a": "p", "b": "q"})
    found = estimates.means_by_level(rows, "psnr_db", patients, arms=["unet", "tv"], **OPTIONS)
    assert list(found["arm"]) == ["unet", "tv"] and list(found["value"]) == [32.0, 21.0]


def test_an_interval_is_written_with_its_sign_and_the_unknown_as_a_dash():
    assert estimates.interval_text(0.25, 0.1, 0.4, digits=2) == "0.25 [0.10, 0.40]"
    assert estimates.interval_text(0.25, -0.1, 0.4, digits=1, sign="+", extra="x") == "+0.2 [-0.1, +0.4] (x)"
    assert estimates.interval_text(np.nan, np.nan, np.nan) == "-"


@pytest.mark.parametrize(("which", "place"), [("worst", 2), ("median", 0), ("best", 4)])
def test_places_are_those_of_known_values(which, place):
    assert estimates.place_of([3.0, np.nan, 1.0, 4.0, 9.0], which) == place


def test_the_paper_prints_decibels_of_both_cohorts():
    printed = estimates.printed_in_paper("psnr_db")
    assert {key[0] for key in printed} == {"mri", "xray"} and {key[3] for key in printed} == {"psnr_db"}


def test_averaging_two_opposite_samples_removes_their_error():
    truth = np.full((1, 8, 8), 0.5)
    samples = np.stack([truth + 0.1, truth - 0.05])  # errors .1 and -.05: PSNR 20 and 26.02; the mean is off by .025
    gains = quality.sample_gains(samples, truth, ["p"]).set_index("n")["gain"]
    single = (20 - 20 * np.log10(0.05)) / 2
    assert gains[2] == pytest.approx(-20 * np.log10(0.025) - single, abs=1e-6)


def test_without_samples_there_are_no_gains():
    assert quality.sample_gains(np.zeros((0, 2, 8, 8)), np.zeros((2, 8, 8)), ["p", "q"]).empty


def test_an_erased_lesion_takes_the_value_around_it_and_nothing_else_changes():
    image, lesion = np.full((16, 16), 0.3), np.zeros((16, 16), bool)
    lesion[6:9, 6:9] = True
    image[lesion] = 0.9
    erased = quality.erased(image, lesion)
    assert np.allclose(erased, 0.3)


def people_and_rows():
    """Two women (30, 34 dB), two men (29, 31 dB), two slices each, 1 dB around the patient's mean."""
    people = pd.DataFrame({"image_id": [f"i{k}" for k in range(8)], "patient_id": list("aabbccdd"), "fold": 0})
    people["sex"] = ["female"] * 4 + ["male"] * 4
    means = np.repeat([30.0, 34.0, 29.0, 31.0], 2) + np.tile([-0.5, 0.5], 4)
    rows = people[["image_id"]].assign(arm="unet", level=8.0, train_seed=0, sample=0, psnr_db=means)
    return people, rows


def test_subgroup_means_and_their_gap_by_hand():
    people, rows = people_and_rows()
    means = quality.subgroup_table(rows, people, "sex", ["unet"], n_boot=50, min_support=1, seed=1)
    assert means.groups == ["female", "male"] and means.arms == ["unet"]
    assert means.result.value[0, 0] == pytest.approx([32.0, 30.0])


def test_the_papers_unit_of_a_brain_is_the_patient_and_of_a_film_the_image():
    people, rows = people_and_rows()
    assert list(quality.paper_units(rows, people, "unet", "mri")["psnr_db"]) == [30.0, 34.0, 29.0, 31.0]
    assert len(quality.paper_units(rows, people, "unet", "xray")) == 8


def test_the_published_gap_is_in_per_cent_of_the_lowest_mean():
    people, rows = people_and_rows()
    units = {"unet": quality.paper_units(rows, people, "unet", "mri")}
    found = quality.published_gaps(units, ["sex"], n_boot=20, seed=1).loc[("sex", "unet")]
    assert found["percent"] == pytest.approx(100 * 2 / 30) and (found["best"], found["worst"]) == ("female", "male")


def test_paired_differences_are_taken_on_the_same_images():
    rows = pd.DataFrame(
        {"image_id": list("abab"), "arm": ["tv", "tv", "unet", "unet"], "psnr_db": [20.0, 25.0, 24.0, 27.0]}
    )
    found = quality.paired_psnr(rows, pd.Series({"a": "p", "b": "q"}), ["tv", "unet"], "unet", **OPTIONS)
    assert found["PSNR (dB), unet minus"].item() == "tv" and found["n"].item() == 2
    assert found["paired difference"].item().startswith("+3.00 [")  # (4 + 2) / 2
