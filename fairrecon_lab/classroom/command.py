"""`run.py class` and `run.py grade`: make the sets of a class, and mark what comes back."""

import argparse
import sys
from pathlib import Path

from fairrecon_core.settings import project_folder
from fairrecon_lab.classroom import crowd
from fairrecon_lab.classroom.grading import grade_class
from fairrecon_lab.classroom.sets import make_class


def main(verb: str, argv: list[str]) -> int:
    """Run one of the two verbs; returns the exit status."""
    try:
        return (_class if verb == "class" else _grade)(argv)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _class(argv: list[str]) -> int:
    options = argparse.ArgumentParser(prog="run.py class", description="A set of notebooks for each student.")
    options.add_argument("--students", type=int, default=30)
    options.add_argument("--seed", type=int, default=7, help="of the class (default 7)")
    options.add_argument("--out", type=Path, default=Path("class"), help="folder of the class (default class/)")
    chosen = options.parse_args(argv)
    sources = sorted((project_folder() / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    make_class(chosen.students, chosen.seed, chosen.out, sources)
    print(
        f"{chosen.students} sets of {len(sources)} notebooks in {chosen.out}; {chosen.out / 'teacher'} is yours alone"
    )
    return 0


def _grade(argv: list[str]) -> int:
    options = argparse.ArgumentParser(prog="run.py grade", description="Grade a class; no network is needed.")
    options.add_argument("folder", type=Path, help="the folder that run.py class made")
    options.add_argument("--handed-in", type=Path, help="where the students' folders are (default: in FOLDER)")
    chosen = options.parse_args(argv)
    print(grade_class(chosen.folder, chosen.handed_in).to_string(index=False))
    print(f"feedback and grades.csv in {chosen.folder / 'teacher' / 'graded'}")
    if files := sorted((chosen.handed_in or chosen.folder).glob("student_*/my_audit.json")):
        table = crowd.pooled(files)
        picture = chosen.folder / "teacher" / "graded" / "crowd.png"
        crowd.histogram(table).savefig(picture)
        print(f"the crowd, {len(files)} audits ({picture}): {crowd.said(table)}")
    return 0
