"""Write the notebooks: notebooks/NN_name.ipynb from notebooks/NN_name.py, which is the source.

    python tools/pairs.py            write what is out of step
    python tools/pairs.py --check    change nothing; exit 1 and name the files that are out of step

The same .py always gives the same bytes: cell ids come from a cell's text and place, and there are no outputs. A word
of book/glossary.md is linked where a notebook uses it first, with its meaning as a tooltip; so is each other notebook
that is named by its number. Where pyproject.toml names a public repository, the .ipynb gets a folded cell below its
title that installs what is missing, so that Colab can open it; the .py does not.
"""

import argparse
import hashlib
import re
import sys
from collections import Counter
from pathlib import Path

import jupytext
import nbformat

from fairrecon_lab.classroom.install import repository, with_install

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
GLOSSARY = FOLDER.parent / "book" / "glossary.md"
PLAIN = {
    "clean",
    "degraded",
    "level",
    "task",
    "paired",
    "interval",
    "claim",
    "nested",
    "score",
    "decision",
    "truth",
    "split",
    "physical",
    "published",
    "support",
    "delta",
}  # also words of everyday: no link at each of them
ALIASES = {"mde": "minimal detectable effect", "changed within margin": "verdict", "max-min gap": "noise band"}
# what is no prose: code, formulas, links, headings, tables, tags of HTML
KEPT = re.compile(r"(`[^`]*`|\$\$.*?\$\$|\$[^$\n]+\$|\[[^\]]*\]\([^)]*\)|^#+ [^\n]*|^\|[^\n]*|<[^>]*>)", re.S | re.M)
METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def paired(source: Path) -> str:
    """The text of the .ipynb that belongs to a percent-format .py."""
    notebook = with_install(jupytext.read(source), "")  # JupyterLab may have saved it into the .py
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    seen, words = Counter(), glossary()
    others = {path.stem[:2]: path.stem for path in source.parent.glob("[0-9][0-9]_*.py") if path != source}
    for cell in notebook.cells:
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]
        seen[digest] += 1
        cell["id"] = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
        cell.metadata.pop("lines_to_next_cell", None)
        if cell.cell_type == "markdown":
            head = cell is notebook.cells[0]
            cell.source = _notebooks_linked(cell.source, others, head)
            cell.source = cell.source if head else _words_linked(cell.source, words)
    with_install(notebook, repository(GLOSSARY.parents[1]))
    nbformat.validate(notebook)
    return nbformat.writes(notebook, version=nbformat.NO_CONVERT) + "\n"


def glossary() -> dict[str, tuple[str, str]]:
    """Each word of the glossary that is linked: its entry, and the first sentence of its meaning without marks."""
    entries = re.findall(r"^(?![:#{])(\S.*)\n  (\S.*)$", GLOSSARY.read_text("utf-8"), re.M)
    found = {}
    for entry, meaning in entries:
        short = re.sub(r'["()*`\[\]|]', "", re.split(r"(?<=[.!?]) ", meaning)[0])
        found |= {word: (entry, short) for word in entry.split(", ") if word not in PLAIN}
    return found | {word: found[entry] for word, entry in ALIASES.items()}


def _words_linked(text: str, words: dict[str, tuple[str, str]]) -> str:
    """`text` with a link at each word that has none yet in this notebook; the word is then taken out of `words`."""
    for word in sorted(words, key=len, reverse=True):
        case = 0 if any(letter.isupper() for letter in word) else re.I
        pattern = re.compile(rf"(?<![\w-]){re.escape(word)}s?(?![\w-])", case)
        parts = KEPT.split(text)
        for i in range(0, len(parts), 2):  # the odd ones are kept
            if pattern.search(parts[i]):
                entry, meaning = words.pop(word)
                link = f'](../book/glossary.md "{entry}: {meaning}")'
                parts[i] = pattern.sub(lambda found, link=link: f"[{found[0]}{link}", parts[i], count=1)
                break
        text = "".join(parts)
    return text


def _notebooks_linked(text: str, others: dict[str, str], head: bool) -> str:
    """`text` with links at "notebook 07" and, in the `head`, at the numbers of what is needed."""
    link = lambda found: f"[{found[0]}]({others[found[1]]}.ipynb)" if found[1] in others else found[0]
    if head:
        needs = re.compile(r"(?<=\*\*needs\*\* )[^;*\n]+")
        return needs.sub(lambda found: re.sub(r"\b(\d\d)\b", link, found[0]), text)
    parts = KEPT.split(text)
    return "".join(
        part if i % 2 else re.sub(r"\bnotebooks? (\d\d)\b", link, part, flags=re.I) for i, part in enumerate(parts)
    )


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
