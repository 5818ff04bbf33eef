"""The setting `training_skew`: who trains reconstructors, in fake cohorts with folds and with a single split."""

import numpy as np
import pandas as pd
import pytest

from fairrecon_core.cohort.folder import load_cohort, write_cohort
from fairrecon_core.learn.rows import learning_rows
from fairrecon_core.settings import load_settings
from fairrecon_core.steps.folder import Run, run_folder
from fairrecon_lab.mitigation.runs import beside_even
from fairrecon_lab.mitigation.trainers import leave_out, skew_of


def fake(folder, n_folds=3, n=60, roles=None):
    """Two slices a patient, more men than women; a tumour on one slice of every other patient; one of unknown sex."""
    rng = np.random.default_rng(4)

    def items():
        for k in range(n):
            sex = "unknown" if k == 0 else "female" if k % 3 == 1 else "male"
            for piece in (0, 1):
                row = {"image_id": f"p{k:02}-{piece}", "patient_id": f"p{k:02}", "sex": sex, "age_years": 30.0 + k % 60,
                       "modality": "mri", "race": "white"}  # fmt: skip
                row |= {"y_tumour": float(k % 2 and piece), "y_grade": np.nan if k % 5 == 0 else float(k % 2)}
                yield rng.random((32, 32), dtype=np.float32), row

    return write_cohort(folder, items(), name="fake", seed=1, n_images=2 * n, n_folds=n_folds,
                        roles=roles, tasks=("tumour", "grade"))  # fmt: skip


def trainers(cohort, fold=0, role="reconstruction"):
    return cohort.table.iloc[learning_rows(cohort, "train", role, fold)]


def learners(cohort, fold):
    """Patients who train; with folds also those who choose the best weights, who are drawn from the same parts."""
    parts = [trainers(cohort, fold)]
    if cohort.info["n_folds"] > 1:
        parts.append(cohort.table.iloc[cohort.select("validation", "reconstruction", fold)])
    return pd.concat(parts).drop_duplicates("patient_id")


@pytest.mark.parametrize("text", ["female-0", "female-0.25", "female-1", "male-.75", "young-0.5"])
@pytest.mark.parametrize("n_folds", [1, 3])
def test_a_share_of_every_fold_trains_and_the_number_stays(tmp_path, text, n_folds):
    source = fake(tmp_path / "source", n_folds)
    leave_out(tmp_path / "run", text, source.folder)
    skew, made = skew_of(text), load_cohort(tmp_path / "run", verify=True)
    leave_out(tmp_path / "even", f"{skew.group}-0.5", source.folder)
    even = load_cohort(tmp_path / "even")
    for fold in range(n_folds):
        people = learners(made, fold)[skew.attribute]
        rounding = 0.5 if n_folds == 1 else 1.0  # of each part of the patients that trains
        assert abs((people == skew.group).sum() - skew.share * len(people)) <= rounding
        assert "unknown" not in set(people)
        assert len(people) == len(learners(even, fold)) > 5


@pytest.mark.parametrize("n_folds", [1, 3])
def test_those_left_out_are_tested_and_train_readers_as_before(tmp_path, n_folds):
    source = fake(tmp_path / "source", n_folds)
    leave_out(tmp_path / "run", "female-0", source.folder)
    made = load_cohort(tmp_path / "run")
    for fold in range(n_folds):
        for split in ("train", "validation", "test"):
            assert np.array_equal(made.select(split, "prediction", fold), source.select(split, "prediction", fold))
        assert np.array_equal(
            made.select("test", "reconstruction", fold), source.select("test", "reconstruction", fold)
        )
    assert np.array_equal(made.images[:], source.images[:]) and made.info["skew"] == "female-0"
    assert made.info["content_hash"] != source.info["content_hash"]
    before = load_cohort(source.folder, verify=True).table
    pd.testing.assert_frame_equal(before, source.table)


def test_a_finding_on_one_slice_is_missing_with_the_whole_patient_and_men_stay_the_same(tmp_path):
    source = fake(tmp_path / "source", 1, n=120)
    leave_out(tmp_path / "without", "female-without-tumour", source.folder)
    leave_out(tmp_path / "even", "female-0.5", source.folder)
    without, even = (trainers(load_cohort(tmp_path / name)) for name in ("without", "even"))
    ill = lambda part, sex: part[part["sex"] == sex].groupby("patient_id")["y_tumour"].max().sum()
    assert ill(without, "female") == 0 < ill(even, "female") and ill(without, "male") > 0
    assert set(without.query("sex == 'male'")["image_id"]) == set(even.query("sex == 'male'")["image_id"])
    assert len(without) == len(even)


def test_a_second_skew_of_the_same_run_replaces_the_first_and_a_simulated_cohort_is_changed_in_place(tmp_path):
    source = fake(tmp_path / "source")
    (tmp_path / "run").symlink_to(source.folder)  # as a run without a skew leaves it
    leave_out(tmp_path / "run", "female-0", source.folder)
    leave_out(tmp_path / "run", "female-1", source.folder)
    assert set(trainers(load_cohort(tmp_path / "run"))["sex"]) == {"female"}
    assert not source.info["skew"] and load_cohort(source.folder).info["skew"] is None
    own = fake(tmp_path / "own")
    table = leave_out(own.folder, "female-0")
    assert set(trainers(load_cohort(own.folder, verify=True))["sex"]) == {"male"} == set(table.index)


def test_patients_whose_only_role_is_reconstruction_turn_unused_and_never_readers(tmp_path):
    source = fake(tmp_path / "source", 1, roles=(0.7, 0.3))
    leave_out(tmp_path / "run", "female-0", source.folder)
    made = load_cohort(tmp_path / "run")
    assert np.array_equal(made.select("train", "prediction"), source.select("train", "prediction"))
    assert set(trainers(made)["sex"]) == {"male"} and (made.table["split"] == "unused").any()
    folds = fake(tmp_path / "folds", 3, roles=(0.7, 0.3))
    with pytest.raises(ValueError, match="has folds and patients whose only role is reconstruction"):
        leave_out(tmp_path / "no", "female-0", folds.folder)


@pytest.mark.parametrize(("text", "says"), [
    ("female", "neither GROUP-SHARE nor GROUP-without-TASK"), ("female-1.5", "share is 0 to 1"),
    ("femal-0.5", "'femal' is not in the vocabulary, did you mean 'female'"),
    ("female-without-grad", "has no task 'grad', it has"), ("female-0,5", "neither GROUP-SHARE"),
])  # fmt: skip
def test_what_no_skew_is_called_is_refused_in_one_line(tmp_path, text, says):
    source = fake(tmp_path / "source")
    with pytest.raises(ValueError, match=says) as error:
        leave_out(tmp_path / "run", text, source.folder)
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_two_runs_are_compared_on_the_same_patients_and_a_missing_sibling_is_named(tmp_path, monkeypatch, capsys):
    """Women lose 2 dB in the skewed run and men nothing: the audit of both runs says so, by hand and by sex."""
    monkeypatch.setenv("FAIRRECON_RUNS", str(tmp_path / "runs"))
    source, made = fake(tmp_path / "source"), {}
    usual = {"cohorts": ["fake"], "cohort_folder": "data", "train": True, "arms": ["unet"], "n_boot": 300}
    rng = np.random.default_rng(0)
    people = source.table.set_index("image_id")
    psnr = 25 + rng.normal(0, 1, len(people))
    for text in ("female-0", "female-0.5"):
        overrides = usual | {"training_skew": text}
        run = made[text] = Run(run_folder("smoke", overrides), load_settings("smoke", **overrides))
        assert text != "female-0.5" or beside_even(made["female-0"], "smoke", usual).empty
        leave_out(run.folder / "cohorts" / "fake", text, source.folder)
        loss = 2.0 * (people["sex"] == "female").to_numpy() * (text == "female-0")
        frame = pd.DataFrame({"image_id": people.index, "fold": people["fold"].to_numpy(), "train_seed": 0, "sample": 0,
                              "psnr_db": psnr - loss, "ssim": 0.9, "nmse": 0.1, "lpips": 0.1,
                              "psnr_foreground_db": 25.0})  # fmt: skip
        run.save("quality", frame, cohort="fake", arm="unet", level=8.0)
    assert "-p training_skew=female-0.5 makes the sibling" in capsys.readouterr().out
    table = beside_even(made["female-0"], "smoke", usual | {"training_skew": "female-0"})
    gap = table.query("metric == 'psnr_db' and subgroup == 'female' and reference == 'male'").iloc[0]
    assert gap["delta"] == pytest.approx(-2, abs=1e-6) and gap["network"] == "unet"
    assert beside_even(made["female-0.5"], "smoke", usual | {"training_skew": "female-0.5"}).empty
