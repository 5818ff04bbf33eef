"""Slides and printable sheets from the executed notebooks of a run: their own figures, no code, no network.

    python tools/slides.py [profile] [--only 02 09] [--out FOLDER]            a deck for each notebook
    python tools/slides.py [profile] [--only 02 09] [--out FOLDER] --sheet    a sheet for each notebook, to be printed

Each is one HTML file with everything in it. A deck has the title, a slide for each figure with what to look for in it,
the questions and the takeaways; arrow keys, Page Up and Page Down, Home and End turn it, and it prints a slide a page.
A sheet has the text, figures and tables, and room to write under each question. Solutions and folded answers are in
neither. reveal.js is not used: no package that the lock names holds its style sheets, and a deck may not fetch them.
"""

import argparse
import os
import re
import sys
from html import escape
from pathlib import Path

import nbformat
from latex2mathml.converter import convert
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin

from fairrecon_core.settings import load_settings, project_folder
from fairrecon_core.steps.folder import run_folder
from fairrecon_lab.report import cell_texts

DETAILS = re.compile(r"<details>\s*<summary>(?:<b>)?(.*?)</summary>.*?</details>", re.S)
BESIDE = re.compile(r"\[([^\]]+)\]\((?!https?:)[^)]*\)")  # a link to a file that is not beside a deck
ANNOUNCED = re.compile(r"(^|(?<=[.?!]) )[^.?!]*:$")  # a last sentence about what a slide does not show
ROOM = '<p class="room"></p>' * 4  # lines to write on
STYLE = """
* { box-sizing: border-box; } body { margin: 0; color: #1a1a1a; background: #fff; font-family: system-ui, sans-serif; }
img { max-width: 100%; } table { border-collapse: collapse; font-size: .85em; } th, td { padding: .2em .6em; }
th, td { border-top: 1px solid #d4d8dc; text-align: left; } .formula { overflow-x: auto; }
"""
DECK = """
html { scroll-snap-type: y mandatory; font-size: clamp(14px, 2vw, 24px); }
section { height: 100vh; scroll-snap-align: start; padding: 3vh 4vw; display: flex; flex-direction: column; gap: 2vh;
  overflow: auto; break-after: page; } section:focus { outline: none; }
h1, h2 { margin: 0; line-height: 1.2; } img { flex: 1 1 0; min-height: 0; object-fit: contain; } p, ul { margin: 0; }
footer { margin-top: auto; font-size: .6em; color: #545454; }
@media print { @page { size: landscape; } html { font-size: 16px; } section { height: 95vh; } }
"""
SHEET = """
body { max-width: 48rem; margin: auto; padding: 1rem; font-size: 15px; line-height: 1.45; }
.room { height: 1.6em; margin: 0; border-bottom: 1px solid #8c8c8c; } img, table { break-inside: avoid; }
h2, h3 { break-after: avoid; } @media print { body { font-size: 10pt; max-width: none; } img { max-height: 11cm; } }
"""
TURN = """
const slides = [...document.querySelectorAll('section')];
const here = () => slides.findIndex(s => s.getBoundingClientRect().bottom > innerHeight / 2);
const to = i => { const slide = slides[Math.max(0, Math.min(slides.length - 1, i))];
  slide.scrollIntoView(); slide.focus({preventScroll: true}); };
const step = {ArrowRight: 1, ArrowDown: 1, PageDown: 1, ' ': 1, ArrowLeft: -1, ArrowUp: -1, PageUp: -1};
addEventListener('keydown', event => {
  if (event.key in step) to(here() + step[event.key]);
  else if (event.key === 'Home') to(0);
  else if (event.key === 'End') to(slides.length);
  else return;
  event.preventDefault();
});
"""


def formula(text: str, options: dict) -> str:
    """A formula as MathML, which browsers draw by themselves."""
    return convert(text, display="block" if options["display_mode"] else "inline")


MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable("table").use(dollarmath_plugin, renderer=formula)


def main(argv: list[str] | None = None) -> int:
    """Write the decks or the sheets of a profile's run; returns the exit status."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("profile", nargs="?", default="tutorial")
    options.add_argument("--only", nargs="+", metavar="NN", default=[], help="only these notebooks, such as 02 09")
    options.add_argument("--out", type=Path, help="where the files go")
    options.add_argument("--sheet", action="store_true", help="sheets to be printed instead of slides")
    chosen = options.parse_args(argv)
    kind = "sheet" if chosen.sheet else "slides"
    try:
        profile = load_settings(chosen.profile).profile
        folder = chosen.out or project_folder() / "_book" / f"{profile}-{kind}"
        made = write(run_folder(profile, {}), folder, chosen.only, chosen.sheet)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{len(made)} files in {os.path.relpath(folder)}")
    return 0


def write(run: Path, folder: Path, only: list[str] | None = None, sheet: bool = False) -> list[Path]:
    """One HTML file for each executed notebook of a run.

    Parameters
    ----------
    run : Path
        With `notebooks/`.
    folder : Path
        Gets `NN_name.html`.
    only : list of str, optional
        Numbers of notebooks; all by default.
    sheet : bool
        Sheets instead of slides.

    Raises
    ------
    FileNotFoundError
        A notebook that was asked for, or every one, has not been run.
    """
    paths = {path.stem[:2]: path for path in sorted((run / "notebooks").glob("[0-9][0-9]_*.ipynb"))}
    lacking = [number for number in only or [] if number not in paths]
    if lacking or not paths:
        which = f"notebook {', '.join(lacking)}" if lacking else "no notebook"
        raise FileNotFoundError(f"{which} executed in {run / 'notebooks'}: run the series first")
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for number in only or paths:
        notebook = nbformat.read(paths[number], as_version=4)
        made.append(folder / f"{paths[number].stem}.html")
        made[-1].write_text(page_of(notebook, sheet), encoding="utf-8")
    return made


def page_of(notebook, sheet: bool = False) -> str:
    """A notebook as a deck, or as a sheet."""
    body = sheet_of(notebook) if sheet else "".join(map(slide, slides_of(notebook)))
    style, script = STYLE + (SHEET if sheet else DECK), "" if sheet else f"<script>{TURN}</script>"
    head = f'<meta charset="utf-8"><title>{escape(title(notebook))}</title><style>{style}</style>'
    size = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    return f'<!doctype html><html lang="en"><head>{head}{size}</head><body>{body}{script}</body></html>\n'


def title(notebook) -> str:
    """The heading of a notebook."""
    return next((m[1] for cell in notebook.cells if (m := re.match(r"# (.+)", cell.source))), "Notebook")


def to_html(text: str) -> str:
    """Markdown as HTML; folded answers leave their question, links to files beside the notebook only their words."""
    text = DETAILS.sub(lambda found: "" if "nswer" in found[1] else f"**{found[1].replace('</b>', '')}**", text)
    return MARKDOWN.render(BESIDE.sub(r"\1", text))


def pictures(cell) -> list[str]:
    """Every picture that a code cell gave, as the address of an <img>; those of a widget need a kernel and are not."""
    data = [output.get("data", {}) for output in cell.get("outputs", [])]
    return [f"data:image/png;base64,{one['image/png'].strip()}" for one in data if "image/png" in one]


def picture(address: str, heading: str, text: str) -> str:
    """An <img> with words for those who do not see it."""
    return f'<img alt="{escape(f"{heading}. {text}".strip(" .") or "Figure")}." src="{address}">'


def shown(notebook):
    """Cells that are no solution, each with its heading and what the text beside it says."""
    pairs = zip(notebook.cells, cell_texts(notebook))
    return [(cell, *texts) for cell, texts in pairs if "solution" not in cell.metadata.get("tags", [])]


def slides_of(notebook) -> list[tuple[str, str]]:
    """Heading and body of every slide: title, figures, questions, takeaways."""
    first = next((cell.source for cell in notebook.cells if cell.source.startswith("# ")), "")
    will = re.search(r"\*\*You will\*\* ([^\n]*(?:\n +[^\n]+)*)", first)
    points = re.split(r"; ", re.sub(r"\s+", " ", will[1])) if will else []
    made = [(title(notebook), to_html("\n".join(f"- {point}" for point in points)))]
    for cell, heading, text in shown(notebook):
        if cell.cell_type == "code":
            under = ANNOUNCED.sub("", text)
            made += [(heading, picture(one, heading, text) + f"<p>{escape(under)}</p>") for one in pictures(cell)]
            continue
        for part in re.split(r"^(?=#+ )", cell.source, flags=re.M):
            if found := re.match(r"#+ (Check your understanding|Takeaways|Exercise)([^\n]*)\n", part):
                made.append((found[1] + found[2], to_html(part[found.end() :])))
    return made


def slide(content: tuple[str, str]) -> str:
    """One slide."""
    return f'<section tabindex="-1"><h2>{escape(content[0])}</h2>{content[1]}</section>'


def sheet_of(notebook) -> str:
    """Text, figures and tables in order, with room to write where a solution or a folded answer was."""
    parts = []
    for cell, (heading, text) in zip(notebook.cells, cell_texts(notebook)):
        if "solution" in cell.metadata.get("tags", []):
            parts.append(ROOM)
        elif cell.cell_type == "markdown":
            parts.append(to_html(cell.source) + ROOM * bool(DETAILS.search(cell.source)))
        else:
            parts += [picture(one, heading, text) for one in pictures(cell)]
            tables = [str(output.get("data", {}).get("text/html", "")) for output in cell.outputs]
            parts += [one for one in tables if "<table" in one and "<script" not in one]
    return "".join(parts)


if __name__ == "__main__":
    sys.exit(main())
