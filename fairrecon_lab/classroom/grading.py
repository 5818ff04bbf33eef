"""Mark the folders that come back: the own exercises by their expected value, free text listed for the teacher.

Only the cells `given-NN` and `own-NN` are run, student by student in a process of its own with a time limit, and the
given numbers come from the class's record, not from what was handed in.
"""

import json
import math
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd

from fairrecon_lab.classroom.exercises import EXERCISES, numbers_of
from fairrecon_lab.classroom.sets import BLANK, BY_HAND, FREE_TEXT

LIMIT_S = 60  # for all notebooks of a student
RUN = """
import contextlib, io, json, sys
import numpy as np
answers = {}
for name, (given, code) in json.load(sys.stdin).items():
    space = {"np": np, **given}
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            exec(code, space)
        value = space.get("answer")
        answers[name] = None if value is None else float(value)
    except BaseException as error:
        answers[name] = f"{type(error).__name__}: {error}"
print(json.dumps(answers))
"""


def grade_class(folder: Path, handed_in: Path | None = None) -> pd.DataFrame:
    """Grade every student of a class; writes `grades.csv` and a feedback text for each into `teacher/graded/`.

    Parameters
    ----------
    folder : Path
        The folder that `make_class` wrote.
    handed_in : Path, optional
        Where the students' folders are, if not in `folder`.

    Returns
    -------
    DataFrame
        One row per student: `points`, `of`, `for_the_teacher` (cells of free text and own code that were filled in).

    Raises
    ------
    FileNotFoundError
        `folder` holds no class.
    """
    record_file = folder / "teacher" / "class.json"
    if not record_file.exists():
        raise FileNotFoundError(f"{folder} holds no class: make one with run.py class --out {folder}")
    record = json.loads(record_file.read_text("utf-8"))
    out = folder / "teacher" / "graded"
    out.mkdir(exist_ok=True)
    rows = []
    for name, facts in record["students"].items():
        row, feedback = grade_student((handed_in or folder) / name, facts)
        rows.append({"student": name} | row)
        (out / f"{name}.md").write_text(f"# {name}\n\n" + "\n".join(feedback) + "\n", encoding="utf-8")
    table = pd.DataFrame(rows)
    table.to_csv(out / "grades.csv", index=False)
    return table


def grade_student(folder: Path, facts: dict) -> tuple[dict, list[str]]:
    """Points and feedback lines of one student.

    Parameters
    ----------
    folder : Path
        With the notebooks that came back.
    facts : dict
        The student's `seed` and `expected` answers, as the class's record holds them.
    """
    tasks, feedback, for_teacher = {}, [], []
    for stem in facts["expected"]:
        cells = _marked_cells(folder / f"{stem}.ipynb")
        if cells is None:
            feedback.append(f"- {stem}: 0 of 1, the notebook is missing or cannot be read")
            continue
        code = cells.get(f"own-{stem[:2]}", BLANK)
        given = numbers_of(EXERCISES[stem[:2]], facts["seed"], stem[:2])
        tasks[stem] = [given, code]
        for_teacher += [f"{stem}, cell {key}" for key, text in cells.items() if _written(key, text)]
    points = 0
    for stem, answer in _answers(tasks).items():
        won, why = judge(answer, facts["expected"][stem], EXERCISES[stem[:2]].tolerance)
        points += won
        feedback.append(f"- {stem}: {won} of 1, {why}")
    feedback += ["", "Read by the teacher:", *(f"- {line}" for line in for_teacher or ["nothing was written"])]
    return {"points": points, "of": len(facts["expected"]), "for_the_teacher": len(for_teacher)}, feedback


def judge(answer, right: float, tolerance: float) -> tuple[int, str]:
    """Points and one line for an answer.

    Parameters
    ----------
    answer : float, None or str
        A number, no answer, or the text of an error.
    right : float
        What the student's numbers give.
    tolerance : float
        Relative.
    """
    if answer is None:
        return 0, "no answer"
    if isinstance(answer, str):
        return 0, f"the cell stopped with {answer[:120]}"
    if not math.isfinite(answer):
        return 0, f"{answer} is no finite number"
    if math.isclose(answer, right, rel_tol=tolerance, abs_tol=1e-9):
        return 1, "right"
    return 0, f"{answer:.6g} is not the number that your data give"


def _marked_cells(path: Path) -> dict | None:
    """Source of each cell by its nbgrader name; None if the file cannot be read."""
    try:
        notebook = nbformat.read(path, as_version=4)
    except (OSError, ValueError, KeyError, AttributeError):
        return None
    marked = [(cell.metadata.get("nbgrader", {}).get("grade_id"), cell.source) for cell in notebook.cells]
    return {name: source for name, source in marked if name}


def _written(key: str, text: str) -> bool:
    """Whether a cell for the teacher holds something of the student's own."""
    return key.startswith(("hand-", "text-")) and text.strip() not in ("", BY_HAND, FREE_TEXT)


def _answers(tasks: dict) -> dict:
    """What each cell sets `answer` to: a number, None, or the text of its error."""
    if not tasks:
        return {}
    command = [sys.executable, "-I", "-c", RUN]
    try:
        done = subprocess.run(
            command, input=json.dumps(tasks), capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
        return json.loads(done.stdout.strip().splitlines()[-1])
    except (subprocess.TimeoutExpired, ValueError, IndexError):
        return dict.fromkeys(tasks, f"no end within {LIMIT_S} s, or an exit")
