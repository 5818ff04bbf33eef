"""A class: sets with numbers of their own, no answers in them, offline grading, and the null in the crowd."""

import json

import nbformat
import numpy as np
import pytest
from scipy.stats import kstest

from fairrecon_lab.classroom import crowd
from fairrecon_lab.classroom.command import main
from fairrecon_lab.classroom.exercises import EXERCISES, expected, numbers_of
from fairrecon_lab.classroom.grading import grade_class, judge
from fairrecon_lab.classroom.sets import BLANK, DETAILS, crowd_notebook, make_class, student_notebook

WRITTEN = {
    "00": "answer = sum(women) / len(women) - sum(men) / len(men)",
    "01": "answer = 1 / 0",
    "02": "import sys; sys.exit()",
    "03": "answer = float('nan')",
}


@pytest.fixture(scope="module")
def sources(root):
    return sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb"))


@pytest.fixture(scope="module")
def made(tmp_path_factory, sources):
    folder = tmp_path_factory.mktemp("class")
    return folder, make_class(4, 7, folder, sources)


def students(folder):
    return {path: nbformat.read(path, as_version=4) for path in sorted(folder.glob("student_*/*.ipynb"))}


def test_the_key_gets_every_point_and_a_blank_set_none(made):
    folder, record = made
    full = grade_class(folder, folder / "teacher" / "key")
    assert (full["points"] == full["of"]).all() and set(full["of"]) == {len(EXERCISES)}
    assert (grade_class(folder)["points"] == 0).all()
    assert len(list((folder / "teacher" / "graded").glob("student_*.md"))) == len(record["students"])


def test_no_student_file_holds_a_solution_or_a_folded_answer(made, sources):
    answers = []
    for path in sources:
        for cell in nbformat.read(path, as_version=4).cells:
            if "solution" in cell.metadata.get("tags", []):
                answers += [cell.source.strip(), cell.source.strip().splitlines()[-1]]
            answers += [match[0].split("</summary>")[1].strip()[:60] for match in DETAILS.finditer(cell.source)]
    assert len(answers) > 50
    references = [exercise.reference for exercise in EXERCISES.values()]
    for path, notebook in students(made[0]).items():
        text = "\n".join(cell.source for cell in notebook.cells)
        held = [answer for answer in answers + references if len(answer) > 20 and answer in text]
        assert not held, f"{path.name}: {held[0]}"
        assert all(not cell.get("outputs") for cell in notebook.cells)


def test_no_two_students_have_the_same_numbers_and_every_notebook_has_an_exercise(made, sources):
    _folder, record = made
    assert {path.stem[:2] for path in sources} == set(EXERCISES)
    seeds = [facts["seed"] for facts in record["students"].values()]
    assert len(set(seeds)) == len(seeds) and 1 not in seeds
    for number, exercise in EXERCISES.items():
        numbers = [json.dumps(numbers_of(exercise, seed, number)) for seed in range(30)]
        assert len(set(numbers)) == 30
        answers = {round(expected(exercise, numbers_of(exercise, seed, number)), 9) for seed in range(30)}
        assert len(answers) >= 29 and np.isfinite(list(answers)).all(), number


def test_nbgrader_metadata_is_whole_and_names_are_unique(made):
    for path, notebook in students(made[0]).items():
        nbformat.validate(notebook)
        marks = [cell.metadata["nbgrader"] for cell in notebook.cells if "nbgrader" in cell.metadata]
        names = [mark["grade_id"] for mark in marks]
        assert len(names) == len(set(names)) and f"own-{path.stem[:2]}" in names
        for mark in marks:
            assert mark["schema_version"] == 3 and {"grade", "solution", "locked", "task"} <= set(mark)
            assert ("points" in mark) == mark["grade"]


def test_a_student_works_with_patients_of_their_own(made):
    folder, record = made
    for path, notebook in students(folder).items():
        first = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
        assert f'overrides = {{"seed": {record["students"][path.parent.name]["seed"]}}}' in first.source


def test_an_answer_in_another_way_counts_and_bad_code_costs_only_its_point(made, sources, tmp_path):
    folder, _record = made
    name = "student_01"
    for path in sources:
        notebook = nbformat.read(folder / name / path.name, as_version=4)
        own = next(c for c in notebook.cells if c.metadata.get("nbgrader", {}).get("grade_id", "").startswith("own-"))
        assert own.source == BLANK
        own.source = WRITTEN.get(path.stem[:2], BLANK)
        (tmp_path / name).mkdir(exist_ok=True)
        nbformat.write(notebook, tmp_path / name / path.name)
    (tmp_path / name / "13_your_turn.ipynb").write_text("not a notebook")
    table = grade_class(folder, tmp_path).set_index("student")
    assert table.loc[name, "points"] == 1 and (table.drop(name)["points"] == 0).all()
    said = (folder / "teacher" / "graded" / f"{name}.md").read_text()
    assert "ZeroDivisionError" in said and "no finite number" in said and "cannot be read" in said


def test_judge_by_hand():
    assert judge(1.0005, 1.0, 1e-3)[0] == 1 and judge(1.01, 1.0, 1e-3)[0] == 0 and judge(None, 0.0, 1e-3)[0] == 0


def test_free_text_is_listed_for_the_teacher(made, sources):
    blank, _ = student_notebook(nbformat.read(sources[0], as_version=4), sources[0].stem, 5, "student_01")
    names = [cell.metadata["nbgrader"]["grade_id"] for cell in blank.cells if "nbgrader" in cell.metadata]
    assert any(name.startswith("text-00") for name in names) and any(name.startswith("hand-00") for name in names)


def test_the_command_line_refuses_a_second_class_and_a_folder_without_one(made, tmp_path, capsys):
    assert main("class", ["--students", "2", "--out", str(made[0])]) == 1
    assert "holds a class already" in capsys.readouterr().err
    assert main("grade", [str(tmp_path)]) == 1 and "holds no class" in capsys.readouterr().err
    assert main("class", ["--students", "0", "--out", str(tmp_path / "x")]) == 1


# the crowd


def test_placebo_audits_are_uniform_and_the_planted_one_stands_out():
    values = [crowd.audit(seed)["p"] for seed in range(100, 200)]
    assert kstest(values, "uniform").pvalue > 0.05
    harmed = [crowd.audit(seed, harmed=True) for seed in range(5)]
    assert all(found["p"] < 0.05 / 31 and found["delta"] < -0.1 for found in harmed)


def test_the_teacher_pools_small_files_and_names_who_stands_out(made, tmp_path):
    folder, record = made
    salted = {}
    for name in record["students"]:
        notebook = nbformat.read(next((folder / name).glob("10_*.ipynb")), as_version=4)
        cell = next(c for c in notebook.cells if c.metadata.get("nbgrader", {}).get("grade_id") == "crowd-10")
        (tmp_path / name).mkdir()
        call = cell.source.splitlines()[-1].replace(")", f", path={str(tmp_path / name / 'my_audit.json')!r})")
        exec(call, {"write_audit": crowd.write_audit})
        salted[name] = cell.source
        assert "planted" not in cell.source and "True" not in cell.source
    table = crowd.pooled(sorted(tmp_path.glob("*/my_audit.json")))
    assert crowd.said(table)["stands_out"] == [record["planted"]]
    assert record["planted"] in crowd.histogram(table).axes[0].get_title()


def test_a_file_that_is_no_audit_is_named(tmp_path):
    (tmp_path / "my_audit.json").write_text("[]")
    with pytest.raises(ValueError, match="my_audit.json is not a student's audit"):
        crowd.pooled([tmp_path / "my_audit.json"])


def test_the_key_holds_what_nbgrader_grades_by_and_no_students_file_does(made):
    """nbgrader's own run over such a set gave 3 of 3 points to the right answers, 0 to none and to wrong ones."""
    folder, record = made
    for name, facts in record["students"].items():
        for stem, answer in facts["expected"].items():
            key = (folder / "teacher" / "key" / name / f"{stem}.ipynb").read_text(encoding="utf-8")
            assert key.count("### BEGIN HIDDEN TESTS") == key.count("### BEGIN SOLUTION") == 1 and repr(answer) in key
            blank = (folder / name / f"{stem}.ipynb").read_text(encoding="utf-8")
            assert "HIDDEN TESTS" not in blank and "BEGIN SOLUTION" not in blank


def test_the_teachers_notebook_pools_the_class_and_finds_the_planted_student(tmp_path, monkeypatch):
    """Eleven uniform p-values by hand, and one far below; the notebook's cells run where the teacher's folder is."""
    values = {f"student_{k:02d}": (k + 0.5) / 12 for k in range(1, 12)} | {"student_12": 1e-6}
    for name, p in values.items():
        (tmp_path / name).mkdir()
        found = {"student": name, "delta": 0.0, "p": p}
        (tmp_path / name / "my_audit.json").write_text(json.dumps(found))
    (tmp_path / "teacher").mkdir()
    monkeypatch.chdir(tmp_path / "teacher")
    space: dict = {}
    for cell in crowd_notebook().cells:
        if cell.cell_type == "code":
            exec(cell.source, space)
    assert space["said"]["stands_out"] == ["student_12"] and space["said"]["n_below"] == 1 and space["n"] == 12
    assert space["said"]["ks_p"] > 0.9
