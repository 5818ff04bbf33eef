"""The audit on one page: the answer first, then rates, gaps, changes, curves, who was left out, and every choice.

One HTML file that needs nothing else, no network and no script, and prints. `AuditReport` is the same from Python:

    AuditReport.of(predictions, cohort, "sex").save("audit.html")  # or, in a notebook, the report alone on a line

Nothing on the page depends on the clock or the machine: the same tables and choices give the same bytes.
"""

import html
from pathlib import Path
from typing import Any

import pandas as pd

from fairrecon_lab.auditing import page_figures as figures
from fairrecon_lab.auditing import page_sections as sections
from fairrecon_lab.auditing import page_unseen, run
from fairrecon_lab.auditing.options import parse
from fairrecon_lab.auditing.standard import standard

HERE = Path(__file__).parent


class AuditReport:
    """One audit as a page: shown by a notebook, saved as HTML.

    Parameters
    ----------
    found : run.Found
    options : Namespace
        Of `options.parse`, with which it was found.

    Attributes
    ----------
    rates, changes : DataFrame
        The tables; `changes` is None with one arm.
    unrecorded, search : DataFrame
        Bounds for the unrecorded, and subgroups against everybody else; None where there is nothing to say.
    text : str
        The summary that a shell shows.
    """

    def __init__(self, found: run.Found, options):
        self.rates, self.changes, self.text = found.rates, found.changes, found.text
        self._contents = contents(found, options)
        self.unrecorded, self.search = (self._contents["unseen"][name]["table"] for name in ("bounds", "search"))

    @classmethod
    def of(cls, predictions: pd.DataFrame, cohort: pd.DataFrame | None = None, attribute="sex", **choices: Any):
        """Audit two DataFrames, or one that has scores and people.

        Parameters
        ----------
        predictions, cohort : DataFrame
            As the files of `fairrecon audit`.
        attribute : str or list of str
            Columns to audit one by one; "sex,race" for their intersections.
        **choices
            Options of the command line by their names: margin, thresholds, reference, baseline, arms, min_support,
            n_boot, adjust, split, seed, id, patient, arm, task, score, label, uncertain, logits, bins={"age": [40]}.

        Raises
        ------
        ValueError
            As the command; or there is no such choice.
        """
        texts = [attribute] if isinstance(attribute, str) else list(attribute)
        options = parse(["predictions", *(["cohort"] if cohort is not None else []),
                         *(f"--attribute={text}" for text in texts)])  # fmt: skip
        for name, value in choices.items():
            if not hasattr(options, name) or name in (*sections.OUTPUTS, "masks", "results", "cohort"):
                raise ValueError(f"there is no choice {name!r}; see fairrecon audit --help")
            lists = isinstance(getattr(options, name), list) or name == "arms"
            value = list(value.items()) if isinstance(value, dict) else value
            setattr(options, name, [value] if lists and isinstance(value, str) else value)
        options.map = [(old.casefold(), new) for old, new in options.map]
        options.thresholds = None if options.thresholds is None else str(options.thresholds)
        frames = [predictions.copy(), None if cohort is None else cohort.copy()]
        for frame, name in zip(frames, ("predictions", "cohort")):
            if frame is not None:
                frame.attrs = {"file": name, "notes": []}
        tables = run.grouped(standard(frames[0], frames[1], options), options)
        return cls(run.audited(tables, options), options)

    def save(self, path: str | Path) -> Path:
        """Write the page to `path`, in one step."""
        return run.write_whole(path, rendered(self._contents).encode())

    def _repr_html_(self) -> str:
        """The page without its whole tables, which are most of its bytes: a notebook has them as DataFrames."""
        brief = html.escape(rendered(self._contents | {"tables": []}), quote=True)
        return (f'<iframe title="audit" sandbox="" style="width:100%;height:48rem;border:1px solid #d4d8dc" '
                f'srcdoc="{brief}"></iframe>')  # fmt: skip


def page(found: run.Found, options) -> str:
    """The whole page as HTML of what was `found` with the `options`.

    Raises
    ------
    ImportError
        jinja2 is not installed.
    """
    return rendered(contents(found, options))


def rendered(contents: dict) -> str:
    """The page of its `contents`; ImportError as in `page`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # only a page needs it

    templates = Environment(loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined,
                            trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    templates.globals |= {"sign_of": figures.sign_of, "key_of": figures.key_of, "verdicts": sections.VERDICTS}
    return templates.get_template("audit.html.j2").render(contents)


def contents(found: run.Found, options) -> dict:
    """What the page shows, by section, as plain texts and SVG.

    Parameters
    ----------
    found : run.Found
    options : Namespace
        Of `options.parse`, with which it was found.
    """
    gaps = sections.gaps_of(found.rates)
    changes = sections.changes_of(found.changes)
    unseen = page_unseen.unseen(found, options)
    tables = [("Rates and gaps", found.rates), ("Changes", found.changes),
              ("Bounds for the unrecorded", unseen["bounds"]["table"]),
              ("Subgroups against everybody else", unseen["search"]["table"])]  # fmt: skip
    file = Path(options.cohort or options.results).name
    return {
        "title": f"Audit of {Path(options.results or file).name} by {', '.join(found.steps)}",
        "style": (HERE.parent / "report" / "report.css").read_text(encoding="utf-8")
        + (HERE / "templates" / "audit.css").read_text(encoding="utf-8"),
        "who": found.who,
        "warnings": [note for note in found.notes if note.startswith("NO PATIENTS")],
        "answer": sections.answer(gaps, changes),
        "blocks": sections.blocks(found.rates, gaps),
        "forests": sections.forests(gaps, 0),
        "change_forests": sections.forests(changes, 1),
        "widest": sections.widest(found.rates),
        "unseen": unseen,
        "curves": sections.curves(found, gaps, options),
        "steps": {name: steps.to_dict("records") for name, steps in found.steps.items()},
        "choices": sections.choices(found, options),
        "notes": [note for note in found.notes if not note.startswith("NO PATIENTS")],
        "tables": [sections.whole(title, table) for title, table in tables if table is not None],
    }
