"""Sentences of the notebooks that speak of what a run gave are computed or asserted, or are true of every run.

A result is read out in a paragraph "What to look for", or with "in this run". A statement there that compares needs
an `assert` within two cells. What is true by arithmetic, by construction or of the print is named below, with why.
"""

import ast
import re
from pathlib import Path

import jupytext
import pytest

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("[0-9][0-9]_*.py"))
NEAR = 2  # cells
TREND = re.compile(
    r"\b(larger|largest|smaller|smallest|higher|highest|lower|lowest|wider|widest|narrower|longer|shorter|ris(es?|ing)"
    r"|rose|falls?|falling|fell|drop(s|ped)?|gr[eo]ws?|more|fewer|most(ly)?|hardly|nearly|almost|as high as|as many as"
    r"|lies?|widens?|vanish(es)?|moves? nobody|together|flips?|stays?|survives?|weaker|stronger|better|worse|loses?"
    r"|gains?|becomes?|pull|in this run)\b"
    r"|(?<![\w.])[+-]?\d*\.\d+\b|\b\d+ (%|dB)",
    re.I,
)
OPEN = re.compile(
    r"\?|\b(if|would|could|may|might|can|whether|should|must|how|suppose|let|choose|compare|predict|count|asks?|means)\b",
    re.I,
)
TRUE_OF_EVERY_RUN = {  # number of the notebook, beginning of the sentence: why
    ("01", "the smallest column"): "points at a column",
    ("01", "A share of 0.3 % is 176 people in the paper"): "of the print",
    ("07", "A pair that was picked out of many"): "arithmetic of a maximum",
    ("07", "Several images of a patient, counted as"): "arithmetic: a test that counts images has too small an error",
    ("07", "A gap that is there in"): "what the degraded arm is",
    ("08", "The weights that are kept are those"): "the rule of the training loop",
    ("08", "`placebo` moves nobody on average"): "by construction: patients swap with their likes",
    ("08", "A spot that stays while the score falls"): "a definition",
    ("08", "an earlier layer has smaller cells"): "the shape of the network",
    ("09", "at both ends the gap vanishes"): "arithmetic: all rates are 0 or 1",
    ("10", "A patient who shows somebody else's image keeps"): "by construction of the arm",
    ("12", "Several images of one patient make the band wider"): "arithmetic of a design effect",
    ("12", "Most of their claims are modest"): "a judgement of the print, claim by claim above",
}


def statements(text: str) -> list[str]:
    """Sentences of a markdown cell that read out a result with a comparison, a trend or a number."""
    text = re.sub(r"<details>.*?</details>|\$\$.*?\$\$|\$[^$\n]*\$|^\|.*$|^#+ .*$", " ", text, flags=re.S | re.M)
    found = []
    for paragraph in re.split(r"\n\s*\n", text):
        if paragraph.lstrip().startswith("**What to look for") or "in this run" in paragraph:
            paragraph = re.sub(r"\*\*What to look for:?\*\*", "", paragraph).replace("\n", " ")
            sentences = re.split(r"(?<=[.?!;])\s+", paragraph)
            found += [one.strip() for one in sentences if TREND.search(one) and not OPEN.search(one)]
    return found


def asserted(cells, place: int) -> bool:
    """Whether a cell near `place` asserts something; a solution, which is hidden, does not count."""
    near = cells[max(0, place - NEAR) : place + NEAR + 1]
    codes = [cell for cell in near if cell.cell_type == "code" and "solution" not in cell.metadata.get("tags", [])]
    return any(isinstance(node, ast.Assert) for cell in codes for node in ast.walk(ast.parse(cell.source)))


def loose(cells, number: str) -> list[str]:
    """Statements that nothing near computes or asserts and that no reason exempts."""
    known = [begin for nb, begin in TRUE_OF_EVERY_RUN if nb == number]
    found = []
    for place, cell in enumerate(cells):
        if cell.cell_type == "markdown" and not asserted(cells, place):
            found += [one for one in statements(cell.source) if not one.startswith(tuple(known))]
    return found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_depends_on_a_run_is_computed_or_asserted(path):
    found = loose(jupytext.read(path).cells, path.stem[:2])
    assert not found, "compute it, assert it or ask it:\n" + "\n".join(found)


def test_every_exemption_is_still_there():
    cells = {path.stem[:2]: jupytext.read(path).cells for path in NOTEBOOKS}
    every = {number: [one for cell in these for one in statements(cell.source)] for number, these in cells.items()}
    gone = [key for key in TRUE_OF_EVERY_RUN if not any(one.startswith(key[1]) for one in every[key[0]])]
    assert not gone


@pytest.mark.parametrize("sentence", [
    "so fewer are coloured.", "The loss stops falling.", "two curves that pull against each other.",
    "TPRs rose on degraded images.", "They become shorter, in this run by about a third.", "the U-Net gains 4.4 dB.",
])  # fmt: skip
def test_sentences_of_the_kind_that_were_wrong_are_found(sentence):
    """The first four stood in notebooks 08 to 10, and this run's numbers said otherwise."""
    without, proved = (
        jupytext.reads(f"# %% [markdown]\n# **What to look for:** {sentence}\n\n# %%\n{code}\n", fmt="py:percent").cells
        for code in ("x = 1", "assert x")
    )
    assert loose(without, "99") == [sentence] and loose(proved, "99") == []
