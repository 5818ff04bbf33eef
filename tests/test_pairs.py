"""Notebook pairs: the .py decides, the .ipynb follows byte for byte."""

import importlib.util
import json
import os
import re
import subprocess
import sys

import jupytext
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


TEXT = """# %% [markdown]
# # 1. An AUROC in the title
# - **Time** 1 s; **needs** 02, and 02 again; **makes** nothing

# %% [markdown]
# ## AUROC in a heading
# `AUROC` in code, $AUROC$ in a formula. AUROCs of both arms, and the AUROC again; see notebook 02.
#
# | AUROC | in a table |
"""


def test_a_word_is_linked_at_its_first_use_in_prose_and_nowhere_else(root, folder):
    (folder / "01_one.py").write_text(TEXT)
    (folder / "02_two.py").write_text(SOURCE)
    pairs(root, folder)
    head, text = ("".join(cell["source"]) for cell in json.loads((folder / "01_one.ipynb").read_text())["cells"])
    assert head.splitlines()[0] == "# 1. An AUROC in the title" and head.count("[02](02_two.ipynb)") == 2
    assert text.count("glossary.md") == 2 and text.count("[AUROCs](../book/glossary.md ") == 1
    assert "both [arms](" in text and "the AUROC again; see [notebook 02](02_two.ipynb)." in text
    assert text.startswith("## AUROC in a heading\n`AUROC` in code, $AUROC$ in") and "| AUROC | in a table |" in text


def test_without_its_links_a_notebook_says_what_its_source_says(root):
    """The links add nothing and take nothing away; and the words that stop a newcomer have one."""
    linked = {}
    for path in sorted((root / "notebooks").glob("[0-9]*.ipynb")):
        made = [cell for cell in json.loads(path.read_text("utf-8"))["cells"] if cell["cell_type"] == "markdown"]
        texts = ["".join(cell["source"]) for cell in made]
        source = [cell.source for cell in jupytext.read(path.with_suffix(".py")).cells if cell.cell_type == "markdown"]
        link = re.compile(r"\[([^\]]+)\]\((?:\.\./book/glossary\.md \"[^\"]*\"|\d\d_\w+\.ipynb)\)")
        assert [link.sub(r"\1", text) for text in texts] == [link.sub(r"\1", text) for text in source], path.name
        linked[path.stem[:2]] = set(re.findall(r"\[([^\]]+)\]\(\.\./book", " ".join(texts)))
    assert "mde" in linked["10"] | linked["14"] and "FLAIR" in linked["00"] and "design effect" in linked["12"]
    assert {"omnibus", "arms", "minimal detectable effect"} <= linked["10"]


HARD = {  # how a term may be written, to the words of which one is linked where it comes first
    r"\barms?\b": {"arm", "arms"},
    r"\bFLAIR\b": {"FLAIR"},
    r"\bomnibus\b": {"omnibus"},
    r"\bdesign effect\b": {"design effect", "design effects"},
    r"\bmde\b|\bminimal detectable effect": {"mde", "minimal detectable effect", "minimal detectable effects"},
    r"\bchanged[ _]within[ _]margin\b": {"changed within margin", "verdict", "verdicts"},
}


def unlinked(texts):
    """Hard terms that a notebook's prose uses, also in `code` or a table, before or without a link to their meaning."""
    linked, found = set(), []
    for text in texts:
        linked |= set(re.findall(r"\[([^\]]+)\]\(\.\./book", text))
        lower = {word.lower() for word in linked}
        prose = re.sub(r"^#+ .*$", "", text, flags=re.M)
        found += [term for term, words in HARD.items()
                  if re.search(term, prose) and not lower & {word.lower() for word in words}]  # fmt: skip
    return found


def test_no_hard_term_comes_before_its_link(root):
    for path in sorted((root / "notebooks").glob("[0-9]*.ipynb")):
        cells = json.loads(path.read_text("utf-8"))["cells"]
        texts = ["".join(cell["source"]) for cell in cells[1:] if cell["cell_type"] == "markdown"]
        assert not unlinked(texts), path.name


def test_a_hard_term_before_its_link_is_found():
    assert unlinked(["The column `mde`.", '[mde](../book/glossary.md "x")']) == [list(HARD)[4]]
    assert unlinked(['An [arm](../book/glossary.md "x") and arms', "`changed_within_margin`"])[0].startswith(
        r"\bchanged"
    )


def test_where_a_repository_is_named_a_pair_installs_what_is_missing_and_only_that(root, folder, monkeypatch):
    """The cell is run: with the package nothing is called, without it a clone and an installation of it."""
    monkeypatch.syspath_prepend(str(root / "tools"))
    import pairs as tool

    monkeypatch.setattr(tool, "repository", lambda clone: "https://example.org/someone/fairrecon")
    text = tool.paired(folder / "01_one.py")
    title, install, parameters = json.loads(text)["cells"][:3]
    assert title["cell_type"] == "markdown" and parameters["metadata"]["tags"] == ["parameters"]
    assert install["metadata"]["tags"] == ["install"] and install["metadata"]["jupyter"] == {"source_hidden": True}
    called, source = [], "".join(install["source"])
    monkeypatch.setattr(subprocess, "run", lambda command, check: called.append(command))
    monkeypatch.setenv("FAIRRECON_HOME", "as it was")
    exec(source, {})
    assert called == [] and os.environ["FAIRRECON_HOME"] == "as it was"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    exec(source, {})
    (clone, made), fetched = called, os.environ["FAIRRECON_HOME"]
    assert clone[:2] == ["git", "clone"] and clone[-2] == "https://example.org/someone/fairrecon"
    assert made[:4] == [sys.executable, "-m", "pip", "install"] and made[-1] == f"./{clone[-1]}[all]"
    assert fetched == os.path.abspath(clone[-1])


def test_a_saved_installing_cell_is_not_doubled(root, folder, monkeypatch):
    monkeypatch.syspath_prepend(str(root / "tools"))
    import pairs as tool

    (folder / "01_one.py").write_text(SOURCE.replace("\n# %% tags=", '\n# %% tags=["install"]\n1\n\n# %% tags=', 1))
    tags = lambda: [cell["metadata"].get("tags") for cell in json.loads(tool.paired(folder / "01_one.py"))["cells"]]
    assert ["install"] not in tags()
    monkeypatch.setattr(tool, "repository", lambda clone: "https://example.org/x")
    assert tags().count(["install"]) == 1
