"""Notebook 08: units, readers that may not be counted, and a cut that could not be chosen."""

from types import SimpleNamespace

import numpy as np
import pandas as pd

from fairrecon_lab.analysis import downstream
from fairrecon_lab.analysis.downstream_figures import threshold_figure


def test_a_task_without_a_threshold_leaves_the_others_marked():
    frozen = pd.DataFrame({"task": ["oedema", "mass"], "arm": "clean", "value": [np.nan, np.nan]})
    per_arm = pd.DataFrame(
        {
            "task": ["oedema", "mass"] * 2,
            "arm": ["clean"] * 2 + ["unet"] * 2,
            "value": [0.5, np.nan, 1 / (1 + np.exp(-1)), 1 / (1 + np.exp(2))],
        }
    )
    lines = {line.get_label(): line for line in threshold_figure(per_arm, frozen, ["unet"], "").axes[0].lines}
    assert not len(lines["frozen, validation, clean"].get_xdata())
    assert np.allclose(lines["clean, own test labels"].get_xdata(), 0)
    unet = lines["unet, own test labels"]
    assert sorted(np.round(unet.get_xdata(), 6)) == [-2, 1]
    upper, lower = unet.get_ydata()[np.argmax(unet.get_xdata())], unet.get_ydata()[np.argmin(unet.get_xdata())]
    assert (round(upper), round(lower)) == (1, 0)  # the first task is on top


def brains(n=30, seed=0):
    """A cohort of MRI with three slices a patient, and clean scores: grade is the patient's, tumour the slice's."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"patient_id": np.repeat([f"p{k}" for k in range(n)], 3)})
    table["image_id"] = [f"i{k}" for k in range(len(table))]
    table["y_grade"] = np.repeat(rng.integers(0, 2, n), 3).astype(float)
    table["y_tumour"] = np.tile([0.0, 1.0, 1.0], n)
    cohort = SimpleNamespace(table=table, modality="mri", info={"control_tasks": ["tumour"]})
    score = {"grade": rng.random(len(table)), "tumour": 0.2 + 0.5 * table["y_tumour"] + 0.1 * rng.random(len(table))}
    key = {"fold": 0, "train_seed": 0, "sample": 0}
    rows = [
        table[["image_id"]].assign(task=task, score=values, arm=arm, level=level, **key)
        for task, values in score.items()
        for arm, level in (("clean", 1.0), ("unet", 8.0))
    ]
    return cohort, pd.concat(rows, ignore_index=True)


def test_a_label_that_differs_from_slice_to_slice_is_counted_by_slice():
    cohort, predictions = brains()
    predictions = predictions[predictions["arm"] == "clean"]
    units = downstream.unit_scores(predictions, cohort)
    grade, tumour = (units[units["task"] == task] for task in ("grade", "tumour"))
    assert len(grade) == 30 and len(tumour) == 90
    by_hand = predictions[predictions["task"] == "grade"].groupby(np.repeat(np.arange(30), 3))["score"].median()
    assert np.allclose(grade.set_index("unit")["score"].reindex([f"p{k}" for k in range(30)]), by_hand)
    truth = downstream.labels_of(cohort, "tumour", tumour["unit"])
    assert truth.sum() == 60 and (truth == cohort.table.set_index("image_id")["y_tumour"][tumour["unit"]]).all()


def test_a_reader_near_chance_is_shown_and_called_uninformative():
    cohort, predictions = brains()
    units = downstream.unit_scores(predictions, cohort)
    table = downstream.clean_aurocs(units, cohort, ["grade", "tumour"], 8.0, n_boot=200, seed=1)
    table = table[table["label"] == "recorded"].set_index("task")
    assert table["informative"].to_dict() == {"grade": False, "tumour": True} and table["value"].notna().all()
    assert table["kind"].to_dict() == {"grade": "clinical", "tumour": "control"}
