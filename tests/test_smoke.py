"""The whole series, as small as it goes: every notebook runs, and every widget in it has something to show."""

import json
import os
import subprocess
import sys

import nbformat
import pytest
from browser_tools import smoke_run

from fairrecon_lab.plots.watched import unreadable

WIDGET = "application/vnd.jupyter.widget-view+json"


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """One run of the smoke profile through the runner, shared by all tests that look at its results."""
    return smoke_run(tmp_path_factory) / "smoke"


@pytest.mark.series
def test_every_notebook_runs_within_its_memory(smoke, root):
    record = json.loads((smoke / "run.json").read_text())["notebooks"]
    assert sorted(record) == sorted(path.stem for path in (root / "notebooks").glob("[0-9]*.py"))
    too_much = {name: entry["peak_memory_mb"] for name, entry in record.items() if entry["peak_memory_mb"] > 1300}
    assert not too_much, f"kernels above 1.3 GB: {too_much}"


@pytest.mark.series
def test_every_slider_has_drawn_its_picture(smoke):
    with_widgets = 0
    for path in sorted((smoke / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        widgets = [cell for cell in notebook.cells if "widget" in cell.metadata.get("tags", [])]
        drawn_before = [cell for cell in widgets if "frames_slider(" in cell.source]
        n_cells = len(widgets) - len(drawn_before)
        shows = lambda cell: any({WIDGET, "text/html"} & set(output.get("data", {})) for output in cell.outputs)
        unseen = [cell.source[-80:] for cell in widgets if not shows(cell)]
        assert not unseen, f"{path.name}: a slider is made and never shown: {unseen}"
        for cell in drawn_before:
            page = "".join(o["data"].get("text/html", "") for o in cell.outputs if "data" in o)
            assert page.count("data:image/png;base64,") >= 5, f"{path.name}: a pre-drawn slider without its pictures"
        saved = notebook.metadata.get("widgets", {}).get("application/vnd.jupyter.widget-state+json", {})
        pictures = [m for m in saved.get("state", {}).values() if m["model_name"] == "ImageModel" and m.get("buffers")]
        assert len(pictures) >= n_cells, f"{path.name}: {n_cells} sliders, {len(pictures)} pictures"
        with_widgets += bool(n_cells)
    assert with_widgets >= 4


@pytest.mark.series
def test_every_figure_of_every_notebook_can_be_read_at_a_thousand_pixels(smoke):
    """What the run noted while it drew; `tools/legible.py` asks the same of the tutorial."""
    record = json.loads((smoke / "run.json").read_text())
    assert unreadable(record) == []
    shown = {name: len(entry["legible"]) for name, entry in record["notebooks"].items()}
    assert min(shown.values()) >= 1 and sum(shown.values()) >= 90, shown


@pytest.mark.series
def test_numbers_of_smoke_are_marked_as_meaningless(smoke):
    for path in (smoke / "notebooks").glob("*.ipynb"):
        assert "the numbers mean nothing" in path.read_text(encoding="utf-8"), path.name


@pytest.mark.series
@pytest.mark.parametrize("number", ["02", "11"])  # `tools/example.py --check` opens all of them
def test_a_notebook_opened_first_and_alone_reads_the_shipped_example(number, tmp_path, root):
    command = [sys.executable, "-m", "fairrecon_lab.cli", "tutorial", "--only", number]
    environment = dict(os.environ, FAIRRECON_RUNS=str(tmp_path), FAIRRECON_HOME=str(root))
    made = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr[-3000:]
    assert list((tmp_path / "tutorial" / "notebooks").glob(f"{number}*.ipynb"))
    assert not (tmp_path / "tutorial" / "cohorts").exists(), "nothing was simulated: it read the example"
