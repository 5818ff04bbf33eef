"""A first cell for whoever opens a notebook where nothing is installed, as on Colab; elsewhere it does nothing.

It names the public repository, so it exists only where `pyproject.toml` names one (`[project.urls]`, `Repository`).
`tools/pairs.py` puts it into the .ipynb, which Colab opens; the .py, which people read and edit, stays without it.
"""

import tomllib
from pathlib import Path

import nbformat

TAG = "install"
SOURCE = """#@title Installs fairrecon where it is missing, as on Colab (minutes). Elsewhere it does nothing.
import importlib.util, os, subprocess, sys

if importlib.util.find_spec("fairrecon_lab") is None:
    subprocess.run(["git", "clone", "--depth", "1", "{repository}", "fairrecon"], check=True)
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "./fairrecon[all]"], check=True)
    os.environ["FAIRRECON_HOME"] = os.path.abspath("fairrecon")
    importlib.invalidate_caches()"""


def repository(clone: Path) -> str:
    """Address of the public repository of a `clone`, from the `[project.urls]` of its pyproject; empty if none."""
    urls = tomllib.loads((clone / "pyproject.toml").read_text("utf-8"))["project"].get("urls", {})
    urls = {name.lower(): url for name, url in urls.items()}
    return next((urls[name] for name in ("repository", "source", "homepage") if name in urls), "")


def is_install(cell) -> bool:
    """Whether a cell of a notebook is the one that installs."""
    return TAG in cell.metadata.get("tags", [])


def with_install(notebook, address: str):
    """The notebook with the cell below its title, folded; without it where `address` is empty. Doing it twice is once.

    Parameters
    ----------
    notebook : NotebookNode
        Is changed, and returned.
    address : str
        Of the repository, as `repository` gives it.
    """
    notebook.cells = [cell for cell in notebook.cells if not is_install(cell)]
    if address:
        metadata = {"tags": [TAG], "jupyter": {"source_hidden": True}, "cellView": "form"}  # the last is Colab's
        source = SOURCE.format(repository=address.removesuffix("/"))
        notebook.cells.insert(1, nbformat.v4.new_code_cell(source, metadata=metadata, id=TAG))
    return notebook
