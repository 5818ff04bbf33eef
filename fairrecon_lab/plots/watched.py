"""While a notebook runs: whether each figure that it shows can be read, noted in the record of the run.

Opt-in, because it draws every figure once more: the runner calls `watch` in each kernel where $FAIRRECON_LEGIBLE is
set. What is shown goes through IPython's `print_figure`; the pictures of a slider do not, but the cell before it shows
the same figure.
"""

import json
import os
from itertools import count
from pathlib import Path

from matplotlib.figure import Figure

from fairrecon_lab.plots.legible import drawn_text, flaws

STARTS_WITH = "from fairrecon_lab.plots.watched import watch; watch()"  # the first line of a watched kernel


def watch() -> None:
    """From here on every figure that the notebook shows is asked; does nothing twice, and nothing without a trace."""
    from IPython.core import pylabtools

    log = os.environ.get("FAIRRECON_TRACE")
    if not log or hasattr(pylabtools.print_figure, "watched"):
        return
    show, serial = pylabtools.print_figure, count(1)

    def print_figure(figure, *args, **options):
        picture = show(figure, *args, **options)
        if picture is None:
            return None
        entry = {"action": "note", "path": None, "legible": {f"{next(serial):02} {named(figure)}": flaws(figure)}}
        with Path(log).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")
        return picture

    print_figure.watched = True
    pylabtools.print_figure = print_figure


def named(figure: Figure) -> str:
    """The first words that are drawn on a figure, by which a reader finds it."""
    return " / ".join(line.words for line in drawn_text(figure)[:3])[:80] or "no text"


def unreadable(record: dict) -> list[str]:
    """Flaws of the figures of a run, in words, by notebook and figure; empty if there are none.

    Parameters
    ----------
    record : dict
        Content of a `run.json`.

    Raises
    ------
    ValueError
        A notebook was run without $FAIRRECON_LEGIBLE.
    """
    unasked = [name for name, entry in record["notebooks"].items() if "legible" not in entry]
    if unasked:
        raise ValueError(f"figures of {', '.join(unasked)} were not asked: run again with FAIRRECON_LEGIBLE=1")
    return [
        f"{name}, figure {figure}: {flaw}"
        for name, entry in sorted(record["notebooks"].items())
        for figure, found in sorted(entry["legible"].items())
        for flaw in found
    ]
