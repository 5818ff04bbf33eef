"""Write the notebooks: notebooks/NN_name.ipynb from notebooks/NN_name.py, which is the source.

    python tools/pairs.py            write what is out of step
    python tools/pairs.py --check    change nothing; exit 1 and name the files that are out of step

The same .py always gives the same bytes: cell ids come from a cell's text and place, and there are no outputs.
"""

import argparse
import hashlib
import sys
from collections import Counter
from pathlib import Path

import jupytext
import nbformat

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def paired(source: Path) -> str:
    """The text of the .ipynb that belongs to a percent-format .py."""
    notebook = jupytext.read(source)
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    seen = Counter()
    for cell in notebook.cells:
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]
        seen[digest] += 1
        cell["id"] = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
        cell.metadata.pop("lines_to_next_cell", None)
    nbformat.validate(notebook)
    return nbformat.writes(notebook, version=nbformat.NO_CONVERT) + "\n"


def sources(folder: Path) -> list[Path]:
    """The .py of all notebooks: the numbered series, and the explorer."""
    return [*sorted(folder.glob("[0-9]*.py")), *folder.glob("explorer.py")]


def out_of_step(folder: Path = FOLDER) -> dict[Path, str]:
    """The .ipynb that differ from their .py, each with the text it should have."""
    wanted = {source.with_suffix(".ipynb"): paired(source) for source in sources(folder)}
    return {path: text for path, text in wanted.items() if not path.exists() or path.read_text("utf-8") != text}


def without_source(folder: Path = FOLDER) -> list[Path]:
    """The .ipynb that have no .py."""
    return sorted(path for path in folder.glob("[0-9]*.ipynb") if not path.with_suffix(".py").exists())


def main(argv: list[str] | None = None) -> int:
    """Write the pairs, or check them; returns the exit status."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--check", action="store_true", help="change nothing; exit 1 when a pair is out of step")
    options.add_argument("--folder", type=Path, default=FOLDER, help="where the notebooks are")
    arguments = options.parse_args(argv)
    stale, orphans = out_of_step(arguments.folder), without_source(arguments.folder)
    for path in orphans:
        print(f"{path.name} has no {path.stem}.py: delete it, or save it as percent-format .py")
    for path, text in stale.items():
        if arguments.check:
            print(f"{path.name} is out of step with {path.stem}.py: run python tools/pairs.py")
        else:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path.name}")
    return int(bool(orphans) or (arguments.check and bool(stale)))


if __name__ == "__main__":
    sys.exit(main())
