"""`report.html`: one run on one page that needs nothing else - no network, no server, no other file.

It reads `run.json`, the run's tables, cohorts (without their pixels) and figures, and the text around a figure in the
executed notebook, which becomes its alternative text. What a run does not have is left out and named. The page opens
with the answer, in two sentences and one picture; then what was asked, on which data, and what came out; the rest is
for looking up, a section to a question. The whole page takes at most `LIMIT_MB`: figures that do not fit are named.
"""

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from fairrecon_lab.paper.claims import sentences
from fairrecon_lab.plots import VERDICT_COLOURS
from fairrecon_lab.report import sections
from fairrecon_lab.report.contents import Contents
from fairrecon_lab.report.formats import LIMIT_MB, VERDICTS, words
from fairrecon_lab.report.pictures import cell_texts, figure_texts

__all__ = ["LIMIT_MB", "STYLE", "cell_texts", "figure_texts", "page", "write_report"]

STYLE = (Path(__file__).parent / "report.css").read_text(encoding="utf-8")
templates = Environment(
    loader=PackageLoader("fairrecon_lab.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
    lstrip_blocks=True,
)  # fmt: skip
templates.filters["words"] = words
templates.globals |= {"colours": VERDICT_COLOURS, "verdicts": VERDICTS}


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
    """The whole page as HTML, of at most `LIMIT_MB` unless its tables alone take more."""
    told = templates.get_template("sections.html.j2").module
    found = {name: make(run) for name, (_title, make) in sections.SECTIONS.items()}
    first = {name: getattr(sections, name)(run) for name in ("answer", "banners", "asked", "data", "outcome")}
    when = run.record.get("finished", run.record.get("started", ""))[:16].replace("T", " ")
    known = first | {"profile": run.profile, "when": when, "style": STYLE, "claims": sentences()}

    def whole(pictures: dict | None) -> str:
        texts = {name: getattr(told, name)(data) for name, data in (found | {"figures": pictures}).items() if data}
        parts = [(name, sections.SECTIONS[name][0], text) for name, text in texts.items() if str(text).strip()]
        return templates.get_template("page.html.j2").render(known | {"sections": parts})

    room = LIMIT_MB * 1e6 - len(whole(None).encode())  # what is left for figures
    return whole(sections.figures(run, room))
