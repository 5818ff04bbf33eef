"""`report.html`: one run on one page that needs nothing else - no network, no server, no other file.

It reads `run.json`, the run's tables, cohorts (without their pixels) and figures, and the text around a figure in the
executed notebook, which becomes its alternative text. What a run does not have is left out and named. The first screen
says what was asked, on which data, and what came out; the rest is for looking up.
"""

from pathlib import Path

from fairrecon_lab.report import sections
from fairrecon_lab.report.contents import Contents
from fairrecon_lab.report.markup import safe
from fairrecon_lab.report.pictures import cell_texts, figure_texts

__all__ = ["STYLE", "cell_texts", "figure_texts", "page", "write_report"]

STYLE = (Path(__file__).parent / "report.css").read_text(encoding="utf-8")
ON_PRINT = "addEventListener('beforeprint', () => document.querySelectorAll('details').forEach(d => d.open = true))"


def write_report(folder: str | Path, with_images: bool = False) -> Path:
    """Write `report.html` into the folder of a run.

    Parameters
    ----------
    folder : path
        `runs/<profile>`, with a `run.json`; tables, cohorts and figures as far as there are any.
    with_images : bool
        Whether figures are shown although the run has, or may have, a cohort that is not simulated. A figure may hold
        an image of a patient, and a page travels further than a folder.

    Returns
    -------
    Path
        Of the page, which is replaced in one step.

    Raises
    ------
    FileNotFoundError
        There is no `run.json`.
    """
    path = Path(folder) / "report.html"
    part = path.with_name("report.html.part")
    part.write_text(page(Contents(folder, with_images)), encoding="utf-8")
    part.replace(path)
    return path


def page(run: Contents) -> str:
    """The whole page as HTML."""
    parts = [(title.lower().replace(" ", "-"), title, make(run)) for title, make in sections.SECTIONS.items()]
    parts = [part for part in parts if part[2]]
    links = "".join(f'<li><a href="#{key}">{title}</a></li>' for key, title, _ in parts)
    body = "".join(f'<section id="{key}"><h2>{title}</h2>{text}</section>' for key, title, text in parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Run report: {safe(run.profile)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>\n{STYLE}</style></head>\n<body>'
        f'<a class="skip" href="#first">Skip to the results</a>\n<header>{sections.head(run)}</header>\n'
        f'<main>{sections.first_screen(run)}<nav aria-label="Sections"><ul>{links}</ul></nav>\n{body}</main>\n'
        f"<script>{ON_PRINT}</script></body></html>\n"
    )
