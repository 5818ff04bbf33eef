"""Pictures inside a page, and the words for those who do not see them: taken from the notebook around a figure."""

import json
import re
from base64 import b64encode
from collections.abc import Iterable
from pathlib import Path

LOOK = "**What to look for"
PARAGRAPHS = re.compile(r"\n\s*\n|^#.*$", re.M)


def figure_texts(notebook: dict, names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Heading and description of those figures that a notebook saves.

    Parameters
    ----------
    notebook : dict
        An .ipynb as read from JSON.
    names : iterable of str
        Names of saved figures, without ".png".

    Returns
    -------
    dict
        Name to (heading, description), as in `cell_texts`, in the notebook's order. A cell counts as the one that saves
        a figure if its name stands there as a text; `f"07_curves_{cohort}"` fits `07_curves_brain`, whose heading then
        ends in "(brain)".
    """
    found, names = {}, list(names)
    for cell, (heading, text) in zip(notebook["cells"], cell_texts(notebook)):
        literals = (
            re.findall(r"""f?(["'])(\w{3}[^"'\s]*)\1""", "".join(cell["source"])) if cell["cell_type"] == "code" else []
        )
        for _, literal in literals:
            pattern = re.compile(r"(\w+)".join(map(re.escape, re.split(r"\{[^}]*\}", literal))))
            for name in names:
                if (fits := pattern.fullmatch(name)) and name not in found:
                    part = ", ".join(fits.groups()).replace("_", " ")
                    found[name] = (f"{heading} ({part})" if part else heading, text)
    return found


def cell_texts(notebook: dict) -> list[tuple[str, str]]:
    """For every cell the heading it stands under, and what the text beside it says about its output.

    That is the "What to look for" next to the cell, otherwise the last paragraph before it: the best description
    of a picture that a notebook has.

    Parameters
    ----------
    notebook : dict
        An .ipynb as read from JSON.

    Returns
    -------
    list of (str, str)
        Heading and description, without markup; either may be empty.
    """
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]]
    heading, before, texts = "", "", []
    for i, (kind, source) in enumerate(cells):
        if kind == "markdown":
            headings = re.findall(r"^#+ +(.+)$", source, re.M)
            heading, before = (_plain(headings[-1]) if headings else heading), source
        after = next((text for kind, text in cells[i + 1 :] if kind == "markdown"), "")
        look = next((text for text in (before, after) if LOOK in text), "")
        look = PARAGRAPHS.split(look[look.find(LOOK) :])[0].partition(":**")[2]
        prose = [part for part in PARAGRAPHS.split(before) if re.match(r"\s*[A-Za-z*`]", part)]
        text = _short(_plain(look or (prose[-1] if prose else "")))
        texts.append((heading, text[:1].upper() + text[1:]))
    return texts


def _plain(text: str) -> str:
    """Markdown without its marks, lists and tables."""
    text = re.sub(r"<[^>]+>|^\s*[-|].*$", " ", text, flags=re.M)
    text = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", text)
    return re.sub(r"\s+", " ", re.sub(r"[*`$]|\\(?=\w)", "", text)).strip()


def _short(text: str, limit: int = 300) -> str:
    """Whole sentences, up to about `limit` characters."""
    kept = ""
    for sentence in re.split(r"(?<=[.!?]) ", text):
        if kept and len(kept) + len(sentence) > limit:
            break
        kept = f"{kept} {sentence}".strip()
    return kept


def gallery(folder: Path, most_bytes: float) -> tuple[list[dict], list[str]]:
    """Every figure of the run in `folder`, by notebook, as long as they fit into `most_bytes` as they are embedded.

    Returns
    -------
    groups : list of dict
        `title` and `figures` of each notebook.
    left_out : list of str
        Files that did not fit: the largest of all.
    """
    paths = {path.stem: path for path in sorted((folder / "figures").glob("*.png"))}
    left_out = _too_much(list(paths.values()), most_bytes)
    groups = []
    for path in sorted((folder / "notebooks").glob("*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        title = next((heading for heading, _ in cell_texts(notebook) if heading), path.stem)
        mine = [(paths.pop(name), *text) for name, text in figure_texts(notebook, paths).items()]
        groups.append((title, mine))
    groups.append(("others", [(path, "", "") for path in paths.values()]))
    shown = [(title, [_figure(*one) for one in mine if one[0] not in left_out]) for title, mine in groups]
    return [{"title": title, "figures": mine} for title, mine in shown if mine], [path.name for path in left_out]


def _too_much(paths: list[Path], most_bytes: float) -> list[Path]:
    """The largest files, without which the others fit."""
    total, left_out = sum(map(_embedded, paths)), []
    for path in sorted(paths, key=lambda path: -path.stat().st_size):
        if total <= most_bytes:
            break
        left_out.append(path)
        total -= _embedded(path)
    return sorted(left_out)


def _embedded(path: Path) -> float:
    """Bytes that a figure takes on the page: base64 takes four for three, its words at most a thousand."""
    return path.stat().st_size * 4 / 3 + 1000


def _figure(path: Path, heading: str, text: str) -> dict:
    caption = heading or path.stem.replace("_", " ")
    alt = f"{caption}. {text}".strip()
    return {"caption": caption, "file": path.name, "alt": alt, "data": b64encode(path.read_bytes()).decode()}
