"""Numbers and words as HTML: every function returns text that is safe to put into a page."""

import html
import math
from collections.abc import Collection, Sequence

import pandas as pd

from fairrecon_lab.plots import RACE_LABELS, VERDICT_COLOURS

VERDICTS = {
    "changed": "the gap changed, beyond chance",
    "changed_within_margin": "it changed, and by less than the margin",
    "equivalent": "any change is smaller than the margin",
    "undetermined": "too few patients to tell",
    "not_estimable": "a group is too small to be estimated",
}


def safe(value) -> str:
    """Any value as text of a page."""
    return html.escape(str(value))


def words(name: str) -> str:
    """A name of the tables as words."""
    return safe(str(name).replace("_", " "))


def group(name: str) -> str:
    """A subgroup as it is printed."""
    return safe(RACE_LABELS.get(name, str(name).replace("_", " ")))


def number(value: float, digits: int, sign: bool = False) -> str:
    """A number of so many digits with a true minus sign; a dash for NaN."""
    if math.isnan(value):
        return "–"
    return f"{value:{'+' if sign else ''},.{digits}f}".replace("-", "−") if math.isfinite(value) else "∞"


def p_value(value: float) -> str:
    """An adjusted p-value."""
    return "–" if math.isnan(value) else "&lt; 0.001" if value < 0.001 else f"{value:.3f}"


def between(low: float, high: float, digits: int, sign: bool = False) -> str:
    """The ends of an interval in so many digits; a dash if there is none."""
    return "–" if math.isnan(low + high) else f"{number(low, digits, sign)} to {number(high, digits, sign)}"


def estimate(value: tuple[float, float, float], digits: int) -> str:
    """A value in so many digits with its interval below."""
    point, low, high = value
    around = f"<small>{between(low, high, digits)}</small>" if math.isfinite(low) else ""
    return number(point, digits) + around


def items(lines: Sequence[str]) -> str:
    """A list, or nothing."""
    return "<ul>" + "".join(f"<li>{line}</li>" for line in lines) + "</ul>" if len(lines) else ""


def table(heads: Sequence[str], rows: Sequence, caption: str, numbers: Collection[int] = (), style: str = "") -> str:
    """A table in a box that scrolls by itself, also by keyboard; nothing if there are no rows.

    Parameters
    ----------
    heads : sequence of str
    rows : sequence of sequences
        HTML of each cell; the first of a row is its heading.
    caption : str
    numbers : collection of int
        Columns that are right-aligned.
    style : str
        Class of the box.
    """
    if not rows:
        return ""
    kind = ["n" if i in numbers else "t" for i in range(len(heads))]
    top = "".join(f'<th scope="col" class="{kind[i]}">{head}</th>' for i, head in enumerate(heads))
    body = ""
    for first, *rest in rows:
        cells = (
            f'<td class="{kind[i]}{" empty" if str(value) == "–" else ""}" data-of="{heads[i]}">{value}</td>'
            for i, value in enumerate(rest, start=1)
        )
        body += f'<tr><th scope="row">{first}</th>{"".join(cells)}</tr>\n'
    return (
        f'<div class="scroll {style}" tabindex="0" role="region" aria-label="{safe(caption)}"><table>'
        f"<caption>{safe(caption)}</caption><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>\n"
    )


def details(title: str, text: str) -> str:
    """Text that opens on demand, and by itself in print; nothing if there is none."""
    return f"<details><summary>{safe(title)}</summary>{text}</details>\n" if text else ""


def chip(verdict: str) -> str:
    """A verdict with its colour."""
    return f'<span class="chip" style="--c:{VERDICT_COLOURS.get(verdict, "#8C8C8C")}">{words(verdict)}</span>'


def legend() -> str:
    """What the verdicts mean."""
    keys = "".join(f"<div><dt>{chip(name)}</dt> <dd>{text}</dd></div>" for name, text in VERDICTS.items())
    return f'<dl class="legend">{keys}</dl>'


def bar(verdicts: pd.Series, said: bool = True) -> str:
    """Shares of the verdicts as a coloured bar, with the counts in words: below it (`said`), or for screen readers."""
    counts = {name: int((verdicts == name).sum()) for name in VERDICTS}
    text = ", ".join(f"{n:,} {words(name)}" for name, n in counts.items() if n)
    bits = "".join(f'<i style="flex:{n};background:{VERDICT_COLOURS[name]}"></i>' for name, n in counts.items() if n)
    return f'<span class="bar" role="img" aria-label="{text}">{bits}</span>' + (f"<small>{text}</small>" * said)
