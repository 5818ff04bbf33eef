"""The runner: order, refusals, resumption by content, and one screen for a failure."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from fairrecon_core.settings import Settings
from fairrecon_lab.progress import Progress
from fairrecon_lab.runner import choose, made_from, why_run, widget_failures

PARAMETERS = '# %% tags=["parameters"]\nprofile = "tiny"\noverrides = {}\n\n# %%\n'
HEAD = PARAMETERS + "from fairrecon_core.steps.folder import begin\n"
SCORES = (
    HEAD
    + """
import time
import numpy as np
import pandas as pd

settings, run = begin(profile, overrides)


def scores(arm):
    time.sleep(0.15)
    values = np.random.default_rng([settings.seed, len(arm)]).random(40)
    return pd.DataFrame({"image_id": [f"i{i}" for i in range(40)], "task": "t", "score": values})


# %%
for arm in ("clean", "unet", "pix2pix", "sde"):
    run.make("predictions", lambda: scores(arm), cohort="toy", arm=arm, level=8)
"""
)
CUTS = (
    HEAD
    + """
import pandas as pd

settings, run = begin(profile, overrides, needs=["predictions"])
cut = run.read("predictions", arm="clean")["score"].median()
row = {"task": "t", "policy": "test", "value": cut, "n": 40, "chosen_on": "test"}
run.save("thresholds", pd.DataFrame([row]), cohort="toy", arm="clean", level=8)
"""
)
LAST = (
    HEAD
    + """
settings, run = begin(profile, overrides, needs=["thresholds"])
run.note("weights", {"unet": "none"})
assert 0 < run.read("thresholds")["value"][0] < 1
"""
)


@pytest.fixture
def clone(tmp_path, root):
    """A small house: three notebooks and a profile, and the environment that makes the core use it."""
    notebooks = tmp_path / "notebooks"
    (notebooks / "profiles").mkdir(parents=True)
    (notebooks / "profiles" / "tiny.yml").write_text("seed: 3\n")
    for name, text in {"00_scores": SCORES, "01_cuts": CUTS, "02_last": LAST}.items():
        (notebooks / f"{name}.py").write_text(text)
    write_pairs(root, tmp_path)
    return tmp_path


def write_pairs(root, clone):
    tool = [sys.executable, str(root / "tools/pairs.py"), "--folder", str(clone / "notebooks")]
    subprocess.run(tool, check=True, capture_output=True)


def environment(clone):
    return dict(os.environ, FAIRRECON_HOME=str(clone), PYTHONPATH=str(Path(__file__).resolve().parents[1]))


def series(clone, *options):
    command = [sys.executable, "-m", "fairrecon_lab.cli", "tiny", *options]
    return subprocess.run(command, cwd=clone, env=environment(clone), capture_output=True, text=True, check=False)


def tables(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted((folder / "tables").rglob("*.parquet"))}


@pytest.mark.series
def test_a_killed_series_continues_and_gives_the_same_tables_byte_for_byte(clone):
    undisturbed = series(clone)
    assert undisturbed.returncode == 0, undisturbed.stderr
    run = clone / "runs" / "tiny"
    wanted = tables(run)
    assert len(wanted) == 5
    run.rename(clone / "runs" / "undisturbed")
    dice = random.Random(2)
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-m", "fairrecon_lab.cli", "tiny"], cwd=clone, env=environment(clone),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(dice.uniform(2.0, 9.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
    finished = series(clone)
    assert finished.returncode == 0, finished.stderr
    assert tables(run) == wanted


@pytest.mark.series
def test_the_record_tells_what_it_cost_and_a_second_run_keeps_what_is_current(clone, root):
    first = series(clone)
    assert first.returncode == 0, first.stderr
    record = json.loads((clone / "runs/tiny/run.json").read_text())
    assert list(record["notebooks"]) == ["00_scores", "01_cuts", "02_last"]
    assert record["settings"]["seed"] == 3 and record["versions"]["numpy"]
    assert all(20 < entry["peak_memory_mb"] < 4000 and entry["wall_s"] > 0 for entry in record["notebooks"].values())
    assert record["notebooks"]["02_last"]["weights"] == {"unet": "none"}
    again = series(clone)
    assert again.returncode == 0 and (again.stdout + again.stderr).count("nothing changed, kept") == 3
    (clone / "notebooks/01_cuts.py").write_text(CUTS.replace("median()", "mean()"))
    write_pairs(root, clone)
    changed = series(clone)
    assert changed.returncode == 0 and (changed.stdout + changed.stderr).count("nothing changed, kept") == 1
    record = json.loads((clone / "runs/tiny/run.json").read_text())
    assert sorted(record["notebooks"]) == ["00_scores", "01_cuts", "02_last"], "what was kept stays in the record"


@pytest.mark.series
def test_a_failing_cell_is_shown_on_one_screen_and_stops_the_series(clone, root):
    (clone / "notebooks/01_cuts.py").write_text(HEAD + '\nvalues = {"a": 1}\nvalues["b"]\n')
    write_pairs(root, clone)
    failed = series(clone)
    message = failed.stderr[failed.stderr.index("error: ") :]
    assert failed.returncode == 1 and not (clone / "runs/tiny/notebooks/02_last.ipynb").exists()
    assert "01_cuts.ipynb failed in cell 2" in message and 'values["b"]' in message and "KeyError" in message
    assert len(message.splitlines()) <= 40


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-p", "sed=3"], "unknown setting 'sed', did you mean 'seed'?"),
        (["-p", "seed"], "-p takes key=value, got 'seed'"),
        (["--only", "17"], "no notebook '17'; there are 00, 01, 02"),
        (["--only", "00", "--from", "02"], "--only and --from exclude each other"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_runs(clone, options, message):
    refused = series(clone, *options)
    assert refused.returncode != 0 and message in refused.stderr
    assert not (clone / "runs").exists()


def test_a_notebook_without_our_parameters_is_refused(clone, root):
    (clone / "notebooks/02_last.py").write_text(LAST.replace("overrides", "override"))
    write_pairs(root, clone)
    refused = series(clone, "--only", "02")
    assert refused.returncode != 0 and "no parameter 'overrides', did you mean 'override'?" in refused.stderr


@pytest.mark.series
def test_a_profile_file_is_found_from_the_folder_of_the_caller(clone):
    (clone / "elsewhere").mkdir()
    (clone / "elsewhere" / "mine.yml").write_text("seed: 4\n")
    command = [sys.executable, "-m", "fairrecon_lab.cli", "mine.yml", "--only", "00"]
    done = subprocess.run(
        command, cwd=clone / "elsewhere", env=environment(clone), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((clone / "runs/mine/run.json").read_text())["seed"] == 4


@pytest.mark.series
def test_the_series_runs_on_its_own_interpreter_whatever_kernel_is_called_python3(clone, tmp_path):
    foreign = tmp_path / "jupyter" / "kernels" / "python3"
    foreign.mkdir(parents=True)
    spec = {"argv": [sys.executable, "-c", "raise SystemExit('foreign')"], "display_name": "x", "language": "python"}
    (foreign / "kernel.json").write_text(json.dumps(spec))
    command = [sys.executable, "-m", "fairrecon_lab.cli", "tiny", "--only", "00", "-p", "seed=010"]
    home = environment(clone) | {"JUPYTER_PATH": str(tmp_path / "jupyter")}
    done = subprocess.run(command, cwd=clone, env=home, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (record,) = (clone / "runs").glob("*/run.json")
    assert json.loads(record.read_text())["seed"] == 10


def test_a_folder_that_cannot_be_written_names_the_way_out(clone):
    (clone / "file").write_text("")
    home = environment(clone) | {"FAIRRECON_RUNS": str(clone / "file")}
    command = [sys.executable, "-m", "fairrecon_lab.cli", "tiny", "--only", "00"]
    refused = subprocess.run(command, cwd=clone, env=home, capture_output=True, text=True, check=False)
    assert refused.returncode == 1 and "set FAIRRECON_RUNS to a folder of yours" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_the_time_left_is_shown_once_it_was_measured_and_scales_with_this_machine():
    paths, record = [Path("00_a.ipynb"), Path("01_b.ipynb")], {"00_a": {"wall_s": 30}, "01_b": {"wall_s": 70}}
    with Progress(paths, {"notebooks": record}) as progress:
        with progress.notebook(paths[0]):
            progress.tick(0, 10)
            assert "left" not in progress.bar.bar_format and progress.bar.n == 3
            progress.tick(4, 10)
            assert "about {remaining} left" in progress.bar.bar_format and progress.bar.smoothing == 0
        assert progress.bar.n == 30 and progress.bar.total == 100


def test_no_time_left_is_shown_for_a_run_whose_shares_were_never_measured(tmp_path):
    paths, record = [tmp_path / "00_a.ipynb", tmp_path / "01_b.ipynb"], {"00_a": {"wall_s": 30}}
    paths[1].write_text('"**Time** 70 s"')
    with Progress(paths, {"notebooks": record}) as progress, progress.notebook(paths[0]):
        progress.tick(8, 10)
        assert progress.bar.n == 27 and "left" not in progress.bar.bar_format


def test_numbers_choose_notebooks_in_order():
    with pytest.raises(ValueError, match="no notebook '100'; there are 00, 01"):
        choose([Path(f"{number:02}_x.ipynb") for number in range(11)], ["100"], "")
    paths = [Path(f"{number:02}_x.ipynb") for number in range(5)]
    assert choose(paths, ["3", "01"], "") == [paths[1], paths[3]]
    assert choose(paths, [], "02") == paths[2:]


def test_widget_callbacks_that_raised_are_found():
    notebook = nbformat.v4.new_notebook()
    assert widget_failures(notebook) == []
    error = {"output_type": "error", "ename": "ValueError", "evalue": "no such level", "traceback": []}
    state = {"m": {"model_name": "OutputModel", "state": {"outputs": [error]}}}
    notebook.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": state}}
    stderr = nbformat.v4.new_output("stream", name="stderr", text="Traceback (most recent call last)\n...\nKeyError: 3")
    notebook.cells.append(nbformat.v4.new_code_cell("slider", outputs=[stderr]))
    assert widget_failures(notebook) == ["widget: ValueError: no such level", "cell 1: KeyError: 3"]


def test_a_notebook_that_names_results_runs_again_when_a_table_of_them_changed(tmp_path, monkeypatch):
    monkeypatch.setenv("FAIRRECON_HOME", str(tmp_path))
    (tmp_path / "notebooks" / "profiles").mkdir(parents=True)  # a clone
    table, settings = tmp_path / "results" / "lgg" / "cells.csv", Settings()
    table.parent.mkdir(parents=True)
    table.write_text("n\n1\n")
    reads, reads_not = tmp_path / "14_reads.ipynb", tmp_path / "01_not.ipynb"
    reads.with_suffix(".py").write_text("# it reads `results/`\n")
    reads_not.with_suffix(".py").write_text("# it reads nothing\n")
    entry = {path: {"made_from": made_from(path, settings, []), "read": {}, "wrote": {}}
             for path in (reads, reads_not)}  # fmt: skip
    assert [why_run(entry[path], path, settings, tmp_path) for path in entry] == ["", ""]
    table.write_text("n\n2\n")
    reasons = [why_run(entry[path], path, settings, tmp_path) for path in entry]
    assert reasons == ["the tables of results changed", ""]
