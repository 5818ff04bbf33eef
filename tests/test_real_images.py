"""What real images say: how many patients a cell takes, which cells count, and what leaks."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from fairrecon_lab.analysis import real, real_figures


def test_patients_needed_by_hand_and_by_drawing_again():
    # per-patient changes of standard deviation 1: the error of a mean over 400 is .05, so mde is .05 (1.960 + .842)
    mde, margin = 0.05 * (1.959964 + 0.841621), 0.1
    needed = real.patients_needed([400], [mde], margin)[0]
    assert needed == np.ceil(400 * ((1.959964 + 1.281552) * 0.05 / 0.1) ** 2)
    drawn = np.random.default_rng(0).normal(0, 1 / np.sqrt(needed), 20_000)  # means of so many patients, truth 0
    assert np.mean(np.abs(drawn) + 1.959964 / np.sqrt(needed) < margin) == pytest.approx(0.8, abs=0.01)


def cells():
    key = {"cohort": "toy", "baseline_arm": "clean", "attribute": "sex", "arm": "unet", "unit": "rate"}
    rows = [("good", "changed", 0.1), ("good", "equivalent", 0.02), ("good", "undetermined", 0.28015862),
            ("good", "not_estimable", np.nan), ("bad", "undetermined", 0.5),
            ("segmentation", "equivalent", 0.01)]  # fmt: skip
    table = pd.DataFrame(rows, columns=["task", "verdict", "mde"]).assign(**key, margin=0.05, n_patients=100)
    return table


def test_an_uninformative_task_is_left_out_of_every_count():
    row = real.verdict_shares(cells(), ["good"]).iloc[0]
    assert row[["cells", "changed", "equivalent", "undetermined", "not_estimable"]].tolist() == [5, 1, 2, 1, 1]
    assert row["decided"] == 3 / 4 and row["needed"] == np.ceil(100 * (3.241516 * 0.1 / 0.05) ** 2)
    assert real.verdict_shares(cells(), ["good", "bad"]).iloc[0]["decided"] == 3 / 5


def test_informative_tasks_go_by_the_recorded_label_alone():
    clean = pd.DataFrame({"task": ["a", "a", "b"], "label": ["recorded", "true", "true"]})
    assert real.informative_tasks(clean.assign(informative=True)) == ["a"]
    assert real.informative_tasks(clean.assign(informative=[False, True, True])) == []


def test_leakage_by_hand():
    n = 40
    table = pd.DataFrame({"image_id": [f"i{k}" for k in range(n)], "patient_id": [f"p{k}" for k in range(n)]})
    table["sex"] = ["female", "male"] * (n // 2 - 1) + ["unknown"] * 2
    cohort = SimpleNamespace(table=table, modality="xray", name="toy")
    female = (table["sex"] == "female").to_numpy()
    clean = np.where(female, 0.9, 0.1) + np.linspace(0, 0.05, n)
    blurred = clean.copy()
    blurred[:4] = [0.2, 0.15, 0.3, 0.12]  # two women are now read as men; no man is read as a woman
    key = {"task": "female", "fold": 0, "train_seed": 0, "sample": 0}
    scores = pd.concat([table[["image_id"]].assign(arm=arm, level=level, score=score, **key)
                        for arm, level, score in (("clean", 1.0, clean), ("unet", 8.0, blurred))])  # fmt: skip
    found = real.leakage(scores, cohort, 8.0, ("sex",), n_boot=500, seed=0).set_index("subgroup")
    assert found["flips"].to_dict() == {"female": pytest.approx(2 / 19), "male": 0.0}
    assert (found["clean"] == 1).all() and found["patients"].tolist() == [19, 19]
    assert found.loc["female", "delta_low"] <= found.loc["female", "delta"] <= 0
    labels = real.labelled_cohort(cohort, ["sex"]).table["y_female"]
    assert labels.isna().sum() == 2 and labels.sum() == 19


def test_bars_of_verdicts_fill_the_whole_and_flips_stand_by_subgroup():
    table = pd.DataFrame({"cohort": "toy", "arm": ["unet", "tv"], "changed": [1, 0], "equivalent": [2, 1]})
    table["undetermined"] = [1, 3]
    bars = real_figures.verdicts_figure(table, "").axes[0].patches
    assert [round(bar.get_width(), 2) for bar in bars] == [0.25, 0, 0.5, 0.25, 0.25, 0.75]
    leaks = pd.DataFrame({"attribute": "sex", "arm": ["unet", "unet"], "subgroup": ["female", "male"], "patients": 9})
    for name, value in (("value", 0.7), ("flips", 0.2)):
        low = "flips_low" if name == "flips" else "low"
        leaks[name], leaks[low], leaks[low.replace("low", "high")] = value, value - 0.1, value + 0.1
    left, right = real_figures.leakage_figure(leaks.assign(clean=0.9, profile="toy"), "sex", "").axes
    assert left.lines[-1].get_xdata()[0] == 0.9
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["female (n = 9)", "male (n = 9)"]
