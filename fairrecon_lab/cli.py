"""The command line: `python3 run.py ...` in a clone, `fairrecon ...` where the package is installed."""

import argparse
import subprocess
import sys

import yaml

from fairrecon_core.settings import project_folder
from fairrecon_lab.audit_command import main as audit


def main(argv: list[str] | None = None) -> int:
    """`fairrecon [profile] [--only NN] [--from NN] [-p key=value]`, or the verbs test, lab, book, audit.

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
    verb = argv[0] if argv else ""
    if verb == "test":
        return subprocess.call([sys.executable, "-m", "pytest", *argv[1:]], cwd=project_folder())
    if verb == "lab":
        return subprocess.call([sys.executable, "-m", "jupyterlab", "notebooks", *argv[1:]], cwd=project_folder())
    if verb == "book":
        return subprocess.call(
            [sys.executable, str(project_folder() / "tools" / "book.py"), *argv[1:]], cwd=project_folder()
        )
    if verb == "audit":
        return audit(argv[1:]) or 0
    options = argparse.ArgumentParser(
        prog="run.py", description="Run the notebook series of a profile; other verbs: test, lab, book, audit."
    )
    options.add_argument("profile", nargs="?", default="tutorial", help="tutorial (default), smoke, ... or a .yml file")
    options.add_argument("--only", nargs="+", metavar="NN", default=[], help="only these notebooks, such as 04 07")
    options.add_argument("--from", dest="start", metavar="NN", default="", help="start at this notebook")
    options.add_argument("-p", dest="settings", action="append", metavar="KEY=VALUE", default=[], help="a setting")
    options.add_argument("--again", action="store_true", help="run notebooks even if nothing changed")
    chosen = options.parse_args(argv)
    from fairrecon_lab.runner import SeriesError, run_series  # papermill takes a second to load

    try:
        overrides = dict(_key_value(text) for text in chosen.settings)
        run_series(chosen.profile, overrides, only=chosen.only, start=chosen.start, again=chosen.again)
    except (SeriesError, ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _key_value(text: str) -> tuple[str, object]:
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"-p takes key=value, got {text!r}")
    return key.strip(), yaml.safe_load(value)


if __name__ == "__main__":
    sys.exit(main())
