"""The folder of a run: tables computed once, by content; inputs found or named; overrides kept apart."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from fairrecon_core.settings import load_settings
from fairrecon_core.steps import folder as runs
from fairrecon_core.steps.folder import Run, begin, run_folder
from fairrecon_core.steps.stamps import content_hash, stamp
from fairrecon_lab import cli
from fairrecon_lab.plots import canvas, image_row


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A house of its own with a smoke profile, so that nothing touches the clone's runs."""
    (tmp_path / "notebooks" / "profiles").mkdir(parents=True)
    (tmp_path / "notebooks" / "profiles" / "smoke.yml").write_text("seed: 1\n")
    monkeypatch.setenv("FAIRRECON_HOME", str(tmp_path))
    monkeypatch.delenv("FAIRRECON_RUNS", raising=False)
    return tmp_path


@pytest.fixture
def run(house):
    return begin("smoke")[1]


def scores(value=0.5):
    return pd.DataFrame({"image_id": ["a", "b"], "task": "t", "score": value})


def quality_rows():
    return pd.DataFrame({"image_id": ["a"], "psnr_db": 30.0, "ssim": 0.9, "nmse": 0.1, "lpips": 0.1})


def write(path, entries):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entries))


def test_a_made_table_is_computed_once_and_again_when_an_input_changes(run, tmp_path):
    calls, source = [], tmp_path / "input.txt"
    source.write_text("1")

    def compute():
        calls.append(source.read_text())
        return scores(float(source.read_text()) / 10)

    parts = {"cohort": "toy", "arm": "unet", "level": 8}
    for _ in range(2):
        assert run.make("predictions", compute, made_from=stamp(source=source, number=3), **parts)[
            "score"
        ].tolist() == [0.1, 0.1]
    assert calls == ["1"]
    source.touch()  # a new time is not a new content
    run.make("predictions", compute, made_from=stamp(source=source, number=3), **parts)
    assert calls == ["1"]
    source.write_text("2")
    assert run.make("predictions", compute, made_from=stamp(source=source, number=3), **parts)["score"][0] == 0.2
    run.make("predictions", compute, made_from=stamp(source=source, number=4), **parts)
    assert calls == ["1", "2", "2"]


def test_of_pieces_made_together_only_those_with_new_inputs_are_computed(run):
    asked = []

    def compute(numbers):
        asked.append(numbers)
        return [scores((k + 1) / 10) for k in numbers]

    def made(*inputs):
        pieces = [({"value": value}, {"cohort": "toy", "arm": "unet", "level": 2**k}) for k, value in enumerate(inputs)]
        return run.make_parts("predictions", compute, pieces)["score"].tolist()

    assert made("a", "b", "c") == [0.1, 0.1, 0.2, 0.2, 0.3, 0.3] == made("a", "b", "c")
    assert made("a", "new", "c", "d") == [0.1, 0.1, 0.2, 0.2, 0.3, 0.3, 0.4, 0.4]
    assert asked == [[0, 1, 2], [1, 3]]
    with pytest.raises(ValueError, match="shorter"):
        run.make_parts(
            "predictions", lambda numbers: [], [({"value": "e"}, {"cohort": "toy", "arm": "unet", "level": 1})]
        )


def test_a_made_table_that_was_tampered_with_is_made_again(run):
    parts = {"cohort": "toy", "arm": "unet", "level": 8}
    run.make("predictions", scores, **parts)
    run.save("predictions", scores(0.9), **parts)
    assert run.make("predictions", scores, **parts)["score"][0] == 0.5


def test_a_made_table_is_not_shared_between_settings(house):
    first, second = begin("smoke")[1], Run(begin("smoke")[1].folder, load_settings("smoke", seed=2))
    parts = {"cohort": "toy", "arm": "unet", "level": 8}
    first.make("predictions", scores, **parts)
    calls = []
    second.make("predictions", lambda: calls.append(1) or scores(), **parts)
    assert calls == [1]


def test_saving_replaces_its_own_file_and_nobody_elses(run):
    run.save("predictions", scores(0.1), cohort="toy", arm="unet", level=8)
    run.save("predictions", scores(0.2), cohort="toy", arm="sde", level=8)
    run.save("predictions", scores(0.3), cohort="toy", arm="unet", level=8)
    assert sorted(run.read("predictions")["score"].unique()) == [0.2, 0.3]
    assert run.read("predictions", arm="sde")["score"].tolist() == [0.2, 0.2]


def test_a_missing_input_names_the_notebook_that_makes_it(house):
    with pytest.raises(FileNotFoundError, match="no table 'predictions' in smoke: run notebook 08 first"):
        begin("smoke", needs=["predictions"])
    with pytest.raises(FileNotFoundError, match="no cohort 'brain' in smoke: run notebook 01 first"):
        begin("smoke", needs=["cohort"])


def test_a_notebook_opened_alone_takes_the_shipped_example_and_says_so(house, capsys):
    example = Run(house / "results" / "tutorial", load_settings("smoke"))
    example.save("predictions", scores(), cohort="toy", arm="clean", level=1)
    _, run = begin("smoke", needs=["predictions"])
    assert len(run.read("predictions")) == 2
    assert "comes from the shipped example run" in capsys.readouterr().out


def test_the_example_never_stands_in_beside_other_patients_or_settings(house):
    example = Run(house / "results" / "tutorial", load_settings("smoke"))
    example.save("quality", quality_rows(), cohort="toy", arm="clean", level=1)
    write(example.folder / "cohorts" / "toy" / "cohort.json", {"content_hash": "part", "excerpt_of": "whole"})
    write(example.folder / "run.json", {"settings": {"profile": "tutorial", "seed": 1}})
    _, run = begin("smoke")
    assert run.has("quality")
    run.save("predictions", scores(), cohort="toy", arm="clean", level=1)
    assert run.has("quality") and len(run.read("quality")) == 1, "the same settings, and no other patients"
    write(run.folder / "cohorts" / "toy" / "cohort.json", {"content_hash": "whole"})
    assert run.has("quality")
    for name, text in (("toy", "others"), ("real", "whole")):
        write(run.folder / "cohorts" / name / "cohort.json", {"content_hash": text})
        assert not run.has("quality")
        with pytest.raises(FileNotFoundError, match="no table 'quality' in smoke: run notebook 07 first"):
            run.read("quality")
        shutil.rmtree(run.folder / "cohorts" / name)
    _, other = begin("smoke", {"seed": 2})
    assert other.has("quality"), "it has nothing of its own, and says whose rows these are"
    other.save("predictions", scores(), cohort="toy", arm="clean", level=1)
    assert not other.has("quality")


def test_overrides_have_a_folder_of_their_own(house):
    assert run_folder("smoke", {}).name == "smoke"
    assert run_folder("smoke", {"seed": 3, "n_boot": 50}).name == "smoke+n_boot=50,seed=3"
    odd = run_folder("smoke", {"cohort_folder": "a/b c"}).name
    assert odd.startswith("smoke+") and "/" not in odd and odd != run_folder("smoke", {"cohort_folder": "a/b d"}).name


@pytest.mark.parametrize(
    "name, spellings, folder",
    [
        ("arms", (["unet"], ("unet",), "unet", "[unet]"), "smoke+arms=unet"),
        ("arms", (["unet", "sde"], ("unet", "sde"), "[unet, sde]"), "smoke+arms=unet,sde"),
        ("mri_levels", ([4, 8], [4.0, 8.0], "[4, 8]"), "smoke+mri_levels=4,8"),
        ("mri_noise", (0.5, "0.5"), "smoke+mri_noise=0.5"),
        ("mri_audit_level", (8, 8.0, "8"), "smoke+mri_audit_level=8"),
        ("seed", (3, 3.0, "3"), "smoke+seed=3"),
        ("train", (True, "true", "True"), "smoke+train=True"),
        ("tasks", ([], (), "[]"), "smoke+tasks="),
    ],
)
def test_equal_settings_share_a_folder_however_they_are_written(house, name, spellings, folder):
    assert len({load_settings("smoke", **{name: value}) for value in spellings}) == 1
    assert {run_folder("smoke", {name: value}).name for value in spellings} == {folder}
    assert {begin("smoke", {name: value})[1].folder.name for value in spellings} == {folder}


def test_different_settings_never_share_a_folder(house):
    different = [{"arms": ["unet", "sde"]}, {"arms": ["unet,sde"]}, {"arms": ["unet"]}, {"arms": []},
                 {"cohort_folder": "x,seed=3"}, {"cohort_folder": "x", "seed": 3}, {"cohort_folder": "x"},
                 {"mri_levels": list(range(2, 40))}, {"mri_levels": list(range(2, 41))}]  # fmt: skip
    names = [run_folder("smoke", overrides).name for overrides in different]
    assert len(set(names)) == len(different) and max(map(len, names)) < 80
    with pytest.raises(ValueError, match="unknown setting 'arm', did you mean 'arms'"):
        run_folder("smoke", {"arm": "unet"})


def test_the_command_line_and_a_notebook_name_the_same_folder(house):
    for text, value in (("arms=unet", ["unet"]), ("arms=[unet, sde]", ["unet", "sde"]), ("n_boot=50", 50)):
        name, parsed = cli.key_value(text)
        assert run_folder("smoke", {name: parsed}) == run_folder("smoke", {name: value})


def test_content_decides_the_hash_and_nothing_else(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name / "folder").mkdir(parents=True)
        (tmp_path / name / "folder" / "x.txt").write_text("same")
    first, second = (content_hash([tmp_path / name / "folder"]) for name in ("one", "two"))
    assert first == second
    (tmp_path / "two" / "folder" / "x.txt").write_text("other")
    assert content_hash([tmp_path / "two" / "folder"]) != first
    assert content_hash([1, "1"]) != content_hash(["1", 1])


def test_figures_are_saved_whole_and_returned(run):
    figure, _ = canvas(1, 1)
    assert run.figure(figure, "00_pipe") is figure
    assert (run.folder / "figures" / "00_pipe.png").read_bytes().startswith(b"\x89PNG")
    assert not list((run.folder / "figures").glob("*.part"))


def test_pictures_of_a_run_on_converted_cohorts_are_not_saved_unless_asked_for(tmp_path, monkeypatch):
    monkeypatch.delenv("FAIRRECON_WITH_IMAGES", raising=False)
    real = Run(tmp_path / "nih", load_settings("nih"))
    picture, curve = image_row([np.eye(8)]), canvas(1, 1)[0]
    curve.axes[0].plot([1, 2])
    assert real.figure(picture, "patient") is picture and real.figure(curve, "curve") is curve
    assert [path.name for path in (real.folder / "figures").iterdir()] == ["curve.png"]
    monkeypatch.setenv("FAIRRECON_WITH_IMAGES", "1")
    real.figure(picture, "patient")
    assert (real.folder / "figures" / "patient.png").exists()
    simulated = Run(tmp_path / "smoke", load_settings("smoke"))
    monkeypatch.delenv("FAIRRECON_WITH_IMAGES")
    simulated.figure(picture, "nobody")
    assert (simulated.folder / "figures" / "nobody.png").exists()


def test_what_a_notebook_reads_and_writes_is_traced_for_the_runner(run, tmp_path, monkeypatch):
    monkeypatch.setenv("FAIRRECON_TRACE", str(tmp_path / "trace"))
    run.save("predictions", scores(), cohort="toy", arm="unet", level=8)
    run.read("predictions")
    run.note("weights", {"unet": "shipped"})
    lines = [json.loads(line) for line in (tmp_path / "trace").read_text().splitlines()]
    assert [line["action"] for line in lines] == ["write", "read", "note"]
    assert lines[1]["path"] == "tables/predictions" and lines[2]["weights"] == {"unet": "shipped"}


def test_the_commit_is_recorded_only_inside_git(house):
    assert runs.commit() == ""


def test_verbs_of_the_command_line_need_no_profile():
    with pytest.raises(SystemExit):
        cli.main(["--help"])


@pytest.mark.parametrize(("arguments", "workers", "expected"), [
    ((), "", [None]),
    ((), "local:2", ["01", "local:2", None]),
    (("--on", "local:3"), "local:2", ["01", "local:3", None]),
    (("--on", ""), "local:2", [None]),
    (("--only", "14"), "local:2", ["14"]),  # one notebook asks for no training of ten folds
    (("--from", "07"), "local:2", [None]),
    (("--on", "local:3", "--only", "14"), "", ["01", "local:3", "14"]),
])  # fmt: skip
def test_a_profile_says_who_does_its_steps_and_the_command_has_the_last_word(
    arguments, workers, expected, tmp_path, monkeypatch
):
    from fairrecon_lab import runner
    from fairrecon_lab.engine import cluster

    asked = []
    series = lambda profile, overrides, only=(), **_: asked.append(only[0] if only else None)
    monkeypatch.setattr(runner, "run_series", series)
    monkeypatch.setattr(cluster, "run_steps", lambda profile, overrides, where: asked.append(where))
    profile = tmp_path / "mine.yml"
    profile.write_text(f"cohorts: [brain]\nworkers: '{workers}'\n")
    assert cli.main([str(profile), *arguments]) == 0
    assert asked == expected


def test_without_dask_the_notebooks_do_the_steps_and_a_line_says_so(tmp_path, monkeypatch, capsys):
    from fairrecon_lab import runner

    asked = []
    monkeypatch.setattr(runner, "run_series", lambda *_, **options: asked.append(options))
    found = cli.importlib.util.find_spec
    monkeypatch.setattr(cli.importlib.util, "find_spec", lambda name: None if name == "distributed" else found(name))
    assert cli.main(["smoke", "-p", "workers=local:2"]) == 0
    assert len(asked) == 1 and not asked[0]["only"]
    assert "workers: local:2 needs Dask (pip install 'fairrecon[cluster]')" in capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "n"), [
    (("--plan",), 2), (("--plan", "4"), 4), (("--plan", "--on", ""), 1), (("--plan", "--on", "slurm:8"), 8),
    (("--plan", "--on", "tcp://host:8786"), 1),
])  # fmt: skip
def test_a_plan_counts_the_workers_that_the_run_would_have(arguments, n, monkeypatch, capsys):
    from fairrecon_lab.engine import plan

    monkeypatch.setattr(plan, "plan", lambda profile, overrides, n_workers: f"{n_workers} workers")
    assert cli.main(["smoke", "-p", "workers=local:2", *arguments]) == 0
    assert capsys.readouterr().out == f"{n} workers\n"
