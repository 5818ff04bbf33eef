"""What a cohort is too small for is said, and left out of the series."""

import numpy as np
import pandas as pd
import pytest

from fairrecon_core import tables
from fairrecon_core.cohort.folder import write_cohort
from fairrecon_core.settings import load_settings
from fairrecon_core.steps.folder import Run, run_folder
from fairrecon_core.steps.pipeline import open_cohort
from fairrecon_lab.analysis.downstream import task_to_show
from fairrecon_lab.analysis.support import cannot_fill, left_out
from fairrecon_lab.engine.room import remember_start
from fairrecon_lab.runner import run_series


def steps_of(folder, people, **more):
    """Steps of a cohort `mine` with an image for each of (sex, age, race, grade, astrocytoma)."""
    split = ["train"] * 6 + ["validation"] * 2
    items = []
    for k, (sex, age, race, grade, kind) in enumerate(people):
        row = {
            "image_id": f"i{k}",
            "patient_id": f"p{k}",
            "modality": "mri",
            "sex": sex,
            "age_years": age,
            "race": race,
        }
        row |= {"y_tumour_grade": grade, "y_astrocytoma": kind, "split": split[k] if k < 8 else "test"}
        items.append((np.full((32, 32), 0.5, np.float32), row))
    write_cohort(folder / "cohorts" / "mine", items, name="mine", seed=1, tasks=["tumour_grade", "astrocytoma"])
    settings = load_settings("smoke", cohorts=["mine"], cohort_folder="data", train=True, image_size=32, **more)
    return open_cohort(Run(folder, settings), "mine")


def people(n, sexes=("female", "male"), ages=(30.0, 70.0), races=("white", "black"), grades=(0, 1), kinds=(0, 1)):
    return [(sexes[i % len(sexes)], ages[i // 2 % len(ages)], races[i // 4 % len(races)], grades[i // 2 % len(grades)],
             kinds[i % len(kinds)]) for i in range(n)]  # fmt: skip


def test_a_cohort_that_fills_everything_has_nothing_to_say(tmp_path):
    steps = steps_of(tmp_path, people(88), min_support=10)
    assert cannot_fill(steps) == [] and task_to_show(steps) == "tumour_grade"


def test_what_nobody_can_learn_exchange_or_compare_is_named(tmp_path):
    steps = steps_of(tmp_path, people(48, sexes=("male",), races=("white",), grades=(1,)), min_support=30)
    assert cannot_fill(steps) == [
        "no reader of tumour_grade: in a fold, nobody who trains has it, or everybody",
        "no arm planted: cannot plant: 0 images of 'female', 0 of them without astrocytoma",
        "no audit by sex: 1 groups known of 40 patients tested",
        "no verdict by age_group: fewer than two groups of 30 patients (young 20, old 20)",
        "no audit by race: 1 groups known of 40 patients tested",
    ]
    assert task_to_show(steps) == "astrocytoma", "a task that a reader knows"


@pytest.mark.parametrize(("sexes", "read", "words"), [
    (("male",), ["overlap", "predictions"], "mine has one sex, male: there is no gap to audit"),
    (("female", "male"), ["overlap"], "mine is too small for a reader that classifies"),
    (("female", "male"), ["overlap", "predictions"], ""),
    (("female", "male"), [], ""),  # notebook 08 has not been there: notebook 10 says so itself
])  # fmt: skip
def test_the_audit_of_readers_is_left_out_where_there_is_none(tmp_path, sexes, read, words):
    settings = steps_of(tmp_path, people(20, sexes=sexes)).setup.run.settings
    key = {"cohort": "mine", "image_id": "i1", "arm": "clean", "level": 1.0, "fold": 0, "train_seed": 0, "sample": 0}
    rows = {"overlap": {"intersection": 1, "predicted": 2, "actual": 3}, "predictions": {"task": "t", "score": 0.5}}
    for table in read:
        tables.write_table(tmp_path, table, pd.DataFrame([key | rows[table]]))
    found = left_out("10", tmp_path, settings)
    assert found.startswith(words) and bool(found) == bool(words)
    assert left_out("08", tmp_path, settings) == "" == left_out("10", tmp_path, load_settings("smoke"))


@pytest.mark.parametrize(("arms", "gone"), [
    (["unet", "pix2pix", "sde"], ""),
    (["unet"], "05 06"),
    (["unet_dc", "sde"], "05"),  # data consistency uses the network's weights
    ([], "04 05 06"),
])  # fmt: skip
def test_the_notebook_of_a_network_is_left_out_where_the_run_has_none(tmp_path, arms, gone):
    settings = load_settings("smoke", arms=arms)
    why = {f"{n:02d}": left_out(f"{n:02d}", tmp_path, settings) for n in range(17)}
    assert [number for number, line in why.items() if line] == gone.split()
    for number in gone.split():
        way_out = why[number].split("'")[1]
        name, value = way_out.split("=", 1)
        assert not left_out(number, tmp_path, load_settings("smoke", **{name: value})), "what the line says helps"


def test_a_run_names_the_notebooks_that_it_leaves_out_and_runs_none_of_their_cells(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FAIRRECON_RUNS", str(tmp_path))
    folder = run_folder("smoke", {"arms": ["unet"]})
    folder.mkdir()
    for seconds in ({"train brain": 1.26}, {}):
        remember_start(folder, {"on": "local:2", "steps": 3, "wall_s": 2.04, "seconds": seconds})
    record = run_series("smoke", {"arms": ["unet"]}, only=["05"])
    start = {"on": "local:2", "steps": 3, "wall_s": 2.0, "seconds": {"train brain": 1.3}}
    assert record["steps"] == [start, start | {"seconds": {}}], "the record has what workers did before"
    line = "pix2pix is not among the arms of this run: -p 'arms=[unet, pix2pix]' makes it one"
    assert record["left_out"] == {"05_pix2pix": line} and not record["notebooks"]
    assert line in capsys.readouterr().out
    assert not list(tmp_path.rglob("*.safetensors")) and not list(tmp_path.rglob("05_*.ipynb"))
