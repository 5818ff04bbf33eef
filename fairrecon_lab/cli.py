"""The command line: `python3 run.py ...` in a clone, `fairrecon ...` where the package is installed."""

import argparse
import importlib.util
import os
import re
import subprocess
import sys


def main(argv: list[str] | None = None) -> int:
    """`fairrecon [profile] [--only NN] [--from NN] [-p ...]`, or one of the verbs below.

    Parameters
    ----------
    argv : list of str, optional
        The command line without the program.

    Returns
    -------
    int
        The exit status.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):  # a console without a character shows a mark in its place
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    verb = argv[0] if argv else ""
    if verb == "audit":
        from fairrecon_lab.auditing.command import main as audit  # no more: the audit alone may be installed

        return audit(argv[1:]) or 0
    if verb == "verify":
        from fairrecon_lab.auditing.evidence import main as verify

        return verify(argv[1:])
    from fairrecon_core.settings import project_folder

    if verb == "test":
        return subprocess.call([sys.executable, "-m", "pytest", *argv[1:]], cwd=project_folder())
    if verb == "lab":
        return subprocess.call([sys.executable, "-m", "jupyterlab", "notebooks", *argv[1:]], cwd=project_folder())
    if verb == "book":
        return subprocess.call(
            [sys.executable, str(project_folder() / "tools" / "book.py"), *argv[1:]], cwd=project_folder()
        )
    if verb in ("slides", "sheet"):
        tool, more = project_folder() / "tools" / "slides.py", ["--sheet"] * (verb == "sheet")
        return subprocess.call([sys.executable, str(tool), *argv[1:], *more], cwd=project_folder())
    if verb == "plan":
        from fairrecon_lab.auditing.plan import main as plan

        return plan(argv[1:])
    if verb in ("class", "grade"):
        from fairrecon_lab.classroom.command import main as classroom

        return classroom(verb, argv[1:])
    return _series(argv)


def _series(argv: list[str]) -> int:
    """Run the notebooks of a profile, or its steps first, or say what they cost; the exit status."""
    options = argparse.ArgumentParser(
        prog="run.py",
        description="Run the series of a profile; other verbs: test, lab, book, slides, sheet, audit, plan, verify, "
        "class, grade.",
    )
    options.add_argument("profile", nargs="?", default="tutorial", help="tutorial (default), smoke, ... or a .yml file")
    options.add_argument("--only", nargs="+", metavar="NN", default=[], help="only these notebooks, such as 04 07")
    options.add_argument("--from", dest="start", metavar="NN", default="", help="start at this notebook")
    options.add_argument("-p", dest="settings", action="append", metavar="KEY=VALUE", default=[], help="a setting")
    options.add_argument("--again", action="store_true", help="run notebooks even if nothing changed")
    options.add_argument("--with-images", action="store_true", help="save and report images of real patients")
    options.add_argument("--on", metavar="WHERE", help="first the steps, by Dask: local:N, slurm:N, tcp://...; '': no")
    options.add_argument(
        "--plan", nargs="?", type=int, const=0, metavar="N", help="what it costs with N workers; no run"
    )
    chosen = options.parse_args(argv)
    try:
        from fairrecon_lab.runner import SeriesError, run_series  # papermill takes a second to load
    except ModuleNotFoundError as error:
        print(f"error: the series needs {error.name}: pip install 'fairrecon[all]'", file=sys.stderr)
        return 1
    import yaml

    try:
        overrides = dict(key_value(text) for text in chosen.settings)
        if chosen.with_images:  # for the kernels; what is kept from an earlier start is drawn anew with --again
            os.environ["FAIRRECON_WITH_IMAGES"] = "1"
        if chosen.plan is not None:
            from fairrecon_lab.engine.plan import plan
            from fairrecon_lab.engine.workers import n_workers

            print(plan(chosen.profile, overrides, max(1, chosen.plan or n_workers(_where(chosen, overrides)))))
            return 0
        if where := _where(chosen, overrides):
            from fairrecon_lab.engine.cluster import run_steps

            run_series(chosen.profile, overrides, only=["01"])
            run_steps(chosen.profile, overrides, where)
        which = {"only": chosen.only, "start": chosen.start, "again": chosen.again}
        run_series(chosen.profile, overrides, **which, with_images=chosen.with_images)
    except (SeriesError, ValueError, OSError, yaml.YAMLError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _where(chosen: argparse.Namespace, overrides: dict) -> str:
    """Who does the steps first: as `--on` says, else the profile's `workers` if the whole series is asked for."""
    if chosen.on is not None:
        return chosen.on
    from fairrecon_core.settings import load_settings

    where = "" if chosen.only or chosen.start else load_settings(chosen.profile, **overrides).workers
    if where and importlib.util.find_spec("distributed") is None:
        print(f"workers: {where} needs Dask (pip install 'fairrecon[cluster]'): the notebooks do the steps themselves")
        return ""
    return where


def key_value(text: str) -> tuple[str, object]:
    """A setting and its value from the text `key=value` after `-p`; ValueError for another text."""
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"-p takes key=value, got {text!r}")
    return key.strip(), number_or_yaml(value.strip())


def number_or_yaml(text: str):
    """A value as typed: 010 is 10 and 1e4 is 10000, which YAML reads as 8 and as a word; anything else is YAML."""
    if re.fullmatch(r"[+-]?\d+", text):
        return int(text)
    if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)e[+-]?\d+", text, re.IGNORECASE):
        number = float(text)
        return int(number) if number.is_integer() else number
    import yaml

    return yaml.safe_load(text)


if __name__ == "__main__":
    sys.exit(main())
