"""Every notebook has the same form, so that a reader knows where to look."""

import ast
import itertools
import re
from pathlib import Path

import jupytext
import pytest

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
SOURCES = sorted(FOLDER.glob("[0-9][0-9]_*.py")) + [FOLDER / "_template.py"]
WIDGETS = {"slider_image", "frames_slider"}

pytestmark = pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)


def cells(path):
    return jupytext.read(path).cells


def code(path):
    return [cell for cell in cells(path) if cell.cell_type == "code"]


def tags(cell):
    return cell.metadata.get("tags", [])


def names_called(source):
    """Names of the functions that a cell calls; magics do not count."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return {getattr(call.func, "id", getattr(call.func, "attr", "")) for call in calls}


def test_it_opens_with_title_goals_cost_and_place_in_the_paper(path):
    head = cells(path)[0].source
    number = path.stem[:2]
    title = rf"# {int(number)}\. \S" if number.isdigit() else r"# N\. "
    assert re.match(title, head), "the title is '# number. Title'"
    for part in ("**You will** ", "**Time** ", "**memory** ", "**needs** ", "**makes** ", "**In the paper** "):
        assert part in head, f"the header lacks {part.strip()}"
    assert re.search(r"\*\*Time\*\* [\d.]+ (min|s)", head), "state the time as a number of min or s"


def test_it_says_how_long_a_learner_takes(path):
    """Reading 130 words a minute, ten lines of code a minute, five minutes for an exercise."""
    if path.stem == "_template":
        pytest.skip("a form to be filled")
    words = sum(len(cell.source.split()) for cell in cells(path) if cell.cell_type == "markdown")
    lines = sum(
        bool(line.strip()) for cell in code(path) if "solution" not in tags(cell) for line in cell.source.splitlines()
    )
    exercises = sum("solution" in tags(cell) or "<details>" in cell.source for cell in cells(path))
    stated = re.search(r"about (\d+) min to work through", cells(path)[0].source)
    assert stated, "beside the machine's time state the learner's: 'about 40 min to work through'"
    assert abs(int(stated[1]) - (words / 130 + lines / 10 + 5 * exercises)) <= 8


def test_its_parameters_are_literals_and_the_two_that_the_runner_passes(path):
    tagged = [i for i, cell in enumerate(code(path)) if "parameters" in tags(cell)]
    assert tagged == [0], "one parameters cell, the first code cell"
    values = {}
    for statement in ast.parse(code(path)[0].source).body:
        values[statement.targets[0].id] = ast.literal_eval(statement.value)
    assert values == {"profile": "tutorial", "overrides": {}}


def test_each_widget_follows_a_plain_call_of_its_function(path):
    all_code = code(path)
    for before, cell in itertools.pairwise(all_code):
        calls = [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Call)]
        widgets = [call for call in calls if getattr(call.func, "id", "") in WIDGETS]
        assert bool(widgets) == ("widget" in tags(cell)), f"tag 'widget' and a slider go together:\n{cell.source}"
        for call in widgets:
            drawn = call.args[0].id
            assert drawn in names_called(before.source), f"call {drawn}(...) in the cell before its slider"


def test_solutions_are_hidden_and_end_in_an_assert(path):
    solutions = [cell for cell in code(path) if "solution" in tags(cell)]
    assert solutions, "every notebook has an exercise with a solution"
    for cell in solutions:
        assert cell.metadata.get("jupyter", {}).get("source_hidden"), "a solution is hidden until asked for"
        assert isinstance(ast.parse(cell.source).body[-1], ast.Assert), f"end in an assert:\n{cell.source}"


def test_takeaways_mirror_the_goals(path):
    goals = re.search(r"\*\*You will\*\* (.+?)(?=\n- \*\*)", cells(path)[0].source, re.S)[1].split(";")
    takeaways = cells(path)[-1].source.split("## Takeaways")
    assert len(takeaways) == 2, "the last cell ends with ## Takeaways"
    bullets = re.findall(r"^- ", takeaways[1], re.M)
    assert len(bullets) == len(goals), f"{len(goals)} goals, {len(bullets)} takeaways"


def test_it_speaks_of_the_paper_and_defines_no_path_of_its_own(path):
    text = path.read_text(encoding="utf-8")
    assert "**Against " in text or "**In the paper** -" in text, "compare with the paper, or say that it has no part"
    assert not re.search(r"""["'](/|\.\./|[A-Z]:\\)""", text), "read and write through `run`"
    assert "%run" not in text and "pickle" not in text


LESSONS = ("07", "08", "10", "11", "12", "13")  # what is not the lesson lives in fairrecon_lab


def test_prose_keeps_up_with_code(path):
    prose = sum(len(cell.source.split()) for cell in cells(path) if cell.cell_type == "markdown")
    lines = sum(len([line for line in cell.source.splitlines() if line.strip()]) for cell in code(path))
    floor = 7 if path.stem[:2] in LESSONS else 3
    assert prose >= floor * lines, f"{prose} words for {lines} lines of code"
    assert max(len(cell.source.splitlines()) for cell in code(path)) <= 40, "one idea a cell"


def test_a_lesson_defines_little_and_its_cells_are_short(path):
    if path.stem[:2] not in LESSONS:
        pytest.skip("this notebook builds its idea by hand, piece by piece")
    sizes = [len([line for line in cell.source.splitlines() if line.strip()]) for cell in code(path)]
    assert sum(sizes) < 350, f"{sum(sizes)} lines of code"
    assert sum(size <= 8 for size in sizes) >= 0.7 * len(sizes), f"cells of {sizes} lines"
    for cell in code(path):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 12, f"{node.name} is longer than 12 lines"
