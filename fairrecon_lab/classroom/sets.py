"""A folder for each student of a class, and one for the teacher.

    class/student_01/NN_name.ipynb    solutions, their outputs and folded answers out, answer cells in
    class/teacher/class.json          who has which seed, and every expected answer
    class/teacher/the_crowd.ipynb     pools the placebo audits of the class, to be shown to it
    class/teacher/key/student_01/     the same set filled in with the reference answers, and nbgrader's hidden tests

Cells carry nbgrader's metadata (schema 3). Autograded: `own-NN`, with numbers of the student's own. Marked by the
teacher: what replaces the solutions and the folded answers.
"""

import copy
import json
import re
from pathlib import Path

import nbformat
import numpy as np
from nbformat.v4 import new_code_cell, new_markdown_cell

from fairrecon_lab.classroom.exercises import EXERCISES, expected, numbers_of

KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3"}, "language_info": {"name": "python"}}
CROWD = """
%% text
# The null in the crowd
Each of you audited an arm. For all but one of you it changed nothing: patients swapped images with their likes. For one
of you it harmed women. Before you run the next cell: who has p < .05? What did you conclude?
%% code
from pathlib import Path

from fairrecon_lab.classroom import crowd

table = crowd.pooled(sorted(Path("..").glob("student_*/my_audit.json")))
alpha = 0.05
table.head(8).round(5)
%% text
## What chance looks like
Where nothing happened a p-value is as likely to be .03 as .73: the histogram is flat, but for the luck of so few. The
dashed line is where it would be with infinitely many of you.
%% code
crowd.histogram(table)
%% text
## One by one, and together
With n audits of nothing, n times .05 are *expected* below .05, and the chance that *somebody* is below is 1 minus .95
to the power of n. By hand:
%% code
n, said = len(table), crowd.said(table, alpha)
low, high = said["range_by_chance"]
print(f"{said['n_below']} of {n} found p < {alpha}; by chance {alpha * n:.1f}, usually {low} to {high}")
print(f"somebody finds it although nothing happened: {1 - (1 - alpha) ** n:.0%}")
assert abs(said["chance_of_a_false_alarm"] - (1 - (1 - alpha) ** n)) < 1e-12
%% text
## Who stands out
Ask for alpha divided by n from each, and the chance of any false alarm in the whole class is at most alpha. Who is
left?
%% code
print(f"below {alpha} / {n}: {', '.join(said['stands_out']) or 'nobody'}")
print(f"all others against a flat law (Kolmogorov-Smirnov): p = {said['ks_p']:.2f}")
%% text
To talk about: a journal prints only audits with p < .05. Which of yours would it have printed, and how many of these
were true?
"""
BLANK = "# Your answer: set `answer` to one number\nanswer = None"
BY_HAND = "# Your own solution here. Your teacher reads it."
FREE_TEXT = "*Your answer here, in a sentence or two. Your teacher reads it.*"
GLOSSARY = re.compile(r"\[([^\]]+)\]\(\.\./book/[^)]*\)")  # a set has no book beside it
DETAILS = re.compile(r"<details><summary>(.*?)</summary>.*?</details>", re.S)


def make_class(n_students: int, seed: int, out: Path, sources: list[Path], with_key: bool = True) -> dict:
    """Write the sets of a class and return what `teacher/class.json` holds.

    Parameters
    ----------
    n_students : int
    seed : int
        Of the class; with it and a student's number the student's own seed is fixed.
    out : Path
        Folder of the class; must not hold one already.
    sources : list of Path
        Notebooks (.ipynb), such as `notebooks/00_start_here.ipynb`.
    with_key : bool
        Whether the teacher gets every set with the answers filled in.

    Raises
    ------
    ValueError
        Fewer than one student, no notebook, or a class in `out` already.
    """
    if n_students < 1:
        raise ValueError(f"a class needs at least one student, got --students {n_students}")
    if not sources:
        raise ValueError("no notebooks to make a class of: run this in a clone")
    if (out / "teacher").exists():
        raise ValueError(f"{out} holds a class already: choose another folder with --out, or delete it")
    notebooks = {path.stem: nbformat.read(path, as_version=4) for path in sources}
    draw = np.random.default_rng([seed, n_students])
    seeds = 2 + draw.choice(10_000, n_students, replace=False)  # never 1, the seed of the book
    planted = int(draw.integers(n_students))
    record = {"seed": seed, "planted": student_name(planted), "students": {}}
    for i, own in enumerate(int(value) for value in seeds):
        name = student_name(i)
        record["students"][name] = {"seed": own, "expected": {}}
        for stem, notebook in notebooks.items():
            blank, answer = student_notebook(notebook, stem, own, name, planted=i == planted)
            _write(blank, out / name / f"{stem}.ipynb")
            if answer is not None:
                record["students"][name]["expected"][stem] = answer
            if with_key:
                _write(filled(blank, stem[:2], answer), out / "teacher" / "key" / name / f"{stem}.ipynb")
    (out / "teacher").mkdir(parents=True, exist_ok=True)
    _write(crowd_notebook(), out / "teacher" / "the_crowd.ipynb")
    (out / "teacher" / "class.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    return record


def student_name(i: int) -> str:
    """Name of a student's folder, from 0: `student_01`."""
    return f"student_{i + 1:02d}"


def student_notebook(notebook, stem: str, seed: int, student: str, planted: bool = False):
    """The student's version of a notebook, and the expected answer of its own exercise (None without one).

    Parameters
    ----------
    notebook : NotebookNode
    stem : str
        Its file's name without `.ipynb`; begins with the number.
    seed : int
        The student's own.
    student : str
        Name of the student's folder.
    planted : bool
        Whether this student's arm in notebook 10 harms women.
    """
    notebook, number, cells = copy.deepcopy(notebook), stem[:2], []
    for i, cell in enumerate(notebook.cells):
        cell.source = GLOSSARY.sub(r"\1", cell.source)
        tags = cell.metadata.get("tags", [])
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        if "parameters" in tags:
            cell.source = re.sub(r"overrides = .*", f'overrides = {{"seed": {seed}}}  # yours alone', cell.source)
        if "solution" in tags:
            cell = new_code_cell(BY_HAND, metadata=_marks(f"hand-{number}-{i}", grade=True, solution=True, points=1))
        parts = _without_answers(cell, number, i) if cell.cell_type == "markdown" else [cell]
        cells += parts
    exercise = EXERCISES.get(number)
    if exercise is None:
        notebook.cells = cells
        return notebook, None
    numbers = numbers_of(exercise, seed, number)
    if number == "10":
        cells += _crowd_cells(seed, student, planted)
    notebook.cells = cells + _own_cells(exercise, number, numbers)
    for i, cell in enumerate(notebook.cells):
        cell["id"] = f"{number}-{i}"
    return notebook, expected(exercise, numbers)


def filled(notebook, number: str, answer: float | None = None):
    """A student's notebook with the reference answer in its own exercise; given the `answer`, nbgrader can grade by it.

    `number` is the notebook's, such as "04". nbgrader takes what stands between its marks out of what it releases, and
    puts it back when it grades.
    """
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        name = cell.metadata.get("nbgrader", {}).get("grade_id")
        if name == f"own-{number}":
            body = f"import numpy as np\n\n{EXERCISES[number].reference}"
            cell.source = f"### BEGIN SOLUTION\n{body}\n### END SOLUTION"
        elif name == f"check-{number}" and answer is not None:
            test = f"assert np.isclose(answer, {answer!r}, rtol={EXERCISES[number].tolerance}, atol=1e-9)"
            cell.source += f"\n### BEGIN HIDDEN TESTS\n{test}\n### END HIDDEN TESTS"
    return notebook


def _without_answers(cell, number: str, i: int) -> list:
    """The cell, a folded answer replaced by its question, and a cell for free text if there was one."""
    found = DETAILS.search(cell.source)
    if not found:
        return [cell]
    question = "" if "nswer" in found[1] else re.sub(r"</?b>", "**", found[1])
    before = (cell.source[: found.start()] + question).strip()
    after = DETAILS.sub("", cell.source[found.end() :]).strip()
    free = new_markdown_cell(FREE_TEXT, metadata=_marks(f"text-{number}-{i}", grade=True, solution=True, points=1))
    return [*([new_markdown_cell(before)] if before else []), free, *([new_markdown_cell(after)] if after else [])]


def _own_cells(exercise, number: str, numbers: dict) -> list:
    """Question, numbers (locked), answer cell and a locked check of its form; the value is checked when graded."""
    given = "\n".join(f"{name} = {value!r}" for name, value in numbers.items())
    check = f'assert answer is None or np.ndim(answer) == 0, "answer is one number"  # graded as own-{number}'
    return [
        new_markdown_cell(f"## Your own numbers\n{exercise.question}"),
        new_code_cell(f"import numpy as np\n\n{given}", metadata=_marks(f"given-{number}", locked=True)),
        new_code_cell(BLANK, metadata=_marks(f"own-{number}", solution=True)),
        new_code_cell(check, metadata=_marks(f"check-{number}", grade=True, locked=True, points=1)),
    ]


def _crowd_cells(seed: int, student: str, planted: bool) -> list:
    """The placebo audit whose small file goes to the teacher; a salt keeps what was planted out of sight."""
    text = (
        "## Your part of the class's experiment\nEverybody audits an arm that changed nothing for anybody's group, "
        "except one of you, whose arm harms women. Is your p-value small? Send `my_audit.json` to your teacher."
    )
    call = f'write_audit({seed}, "{student}", {_salt(seed, planted)})'
    code = f"from fairrecon_lab.classroom.crowd import write_audit\n\n{call}"
    return [new_markdown_cell(text), new_code_cell(code, metadata=_marks("crowd-10", locked=True))]


def crowd_notebook():
    """The teacher's notebook: what the audits of the class say together. It reads the folders beside it."""
    parts = re.split(r"^%% (text|code)\n", CROWD, flags=re.M)[1:]
    make = {"text": new_markdown_cell, "code": new_code_cell}
    cells = [make[kind](source.strip()) for kind, source in zip(parts[::2], parts[1::2])]
    for i, cell in enumerate(cells):
        cell["id"] = f"crowd-{i}"
    return nbformat.v4.new_notebook(metadata=KERNEL, cells=cells)


def _salt(seed: int, planted: bool) -> int:
    """A number that is odd for the planted student after adding the seed's own digit sum."""
    return 2 * (seed * 7919 % 4999) + (int(planted) + sum(map(int, str(seed)))) % 2


def _marks(grade_id: str, *, grade=False, solution=False, locked=False, points=0) -> dict:
    """nbgrader's metadata of a cell, schema 3."""
    marks = {"schema_version": 3, "grade_id": grade_id, "grade": grade, "solution": solution, "locked": locked}
    return {"nbgrader": marks | {"task": False} | ({"points": points} if grade else {})}


def _write(notebook, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
