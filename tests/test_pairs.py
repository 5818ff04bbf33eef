"""Notebook pairs: the .py decides, the .ipynb follows byte for byte."""

import json
import subprocess
import sys

import pytest

SOURCE = (
    '# %% [markdown]\n# # Title\n\n# %% tags=["parameters"]\nprofile = "smoke"\n\n# %%\nprint(1)\n\n# %%\nprint(1)\n'
)


def pairs(root, folder, *options):
    command = [sys.executable, str(root / "tools/pairs.py"), "--folder", str(folder), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "01_one.py").write_text(SOURCE)
    return tmp_path


def test_the_same_source_gives_the_same_bytes(root, folder):
    assert pairs(root, folder).returncode == 0
    first = (folder / "01_one.ipynb").read_bytes()
    (folder / "01_one.ipynb").unlink()
    pairs(root, folder)
    assert (folder / "01_one.ipynb").read_bytes() == first


def test_a_pair_has_unique_cell_ids_a_kernel_tags_and_no_outputs(root, folder):
    pairs(root, folder)
    notebook = json.loads((folder / "01_one.ipynb").read_text())
    identities = [cell["id"] for cell in notebook["cells"]]
    assert len(set(identities)) == len(identities) == 4
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert notebook["cells"][1]["metadata"]["tags"] == ["parameters"]
    assert all(not cell.get("outputs") for cell in notebook["cells"])


def test_check_names_a_pair_that_is_out_of_step_and_changes_nothing(root, folder):
    pairs(root, folder)
    assert pairs(root, folder, "--check").returncode == 0
    (folder / "01_one.py").write_text(SOURCE.replace("print(1)", "print(2)"))
    before = (folder / "01_one.ipynb").read_bytes()
    checked = pairs(root, folder, "--check")
    assert checked.returncode == 1 and "01_one.ipynb is out of step" in checked.stdout
    assert (folder / "01_one.ipynb").read_bytes() == before


def test_a_notebook_without_source_is_named(root, folder):
    pairs(root, folder)
    (folder / "01_one.py").unlink()
    checked = pairs(root, folder, "--check")
    assert checked.returncode == 1 and "01_one.ipynb has no 01_one.py" in checked.stdout


def test_the_notebooks_of_this_clone_are_in_step(root):
    checked = pairs(root, root / "notebooks", "--check")
    assert checked.returncode == 0, checked.stdout
