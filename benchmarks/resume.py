"""Kill the smoke series at random moments and start it again: the tables must not change by a byte.

python benchmarks/resume.py [--kills 20] [--only 01 10] [--json FILE]
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from report import Report, parser

ROOT = Path(__file__).resolve().parents[1]
KEPT = (".parquet", ".npy", ".json", ".safetensors")


def start(runs: Path, only: list[str]) -> subprocess.Popen:
    """The smoke series, with its results below `runs`."""
    command = [sys.executable, "-m", "fairrecon_lab.cli", "smoke", *(["--only", *only] if only else [])]
    environment = dict(os.environ, FAIRRECON_RUNS=str(runs), PYTHONPATH=str(ROOT))
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, cwd=ROOT, env=environment, **quiet)


def results(runs: Path) -> dict[str, bytes]:
    """Every table and cohort of the run, as bytes; the record of times is not a result."""
    folders = [runs / "smoke" / name for name in ("tables", "cohorts", "reconstructions")]
    files = [path for folder in folders for path in sorted(folder.rglob("*")) if path.suffix in KEPT]
    return {str(path.relative_to(runs)): path.read_bytes() for path in files if not path.name.startswith("made-")}


def main() -> int:
    """Measure, print, and exit with 1 if a table changed."""
    options = parser(__doc__)
    options.add_argument("--kills", type=int, default=20, help="how often the runner is killed")
    options.add_argument("--only", nargs="+", default=[], help="only these notebooks")
    options.add_argument("--seed", type=int, default=1)
    chosen = options.parse_args()
    report, dice = Report("resume"), random.Random(chosen.seed)
    base = Path(tempfile.mkdtemp(prefix="resume-"))
    began = time.time()
    if start(base / "undisturbed", chosen.only).wait():
        sys.exit("the undisturbed series fails: run `python3 run.py smoke` and mend it first")
    undisturbed = time.time() - began
    wanted = results(base / "undisturbed")
    kills = 0
    began = time.time()
    while kills < chosen.kills:
        process = start(base / "killed", chosen.only)
        try:
            process.wait(timeout=dice.uniform(2, undisturbed / 2))
            shutil.rmtree(base / "killed")  # it came through: begin anew
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
    if start(base / "killed", chosen.only).wait():
        sys.exit("the series does not finish after it was killed")
    found = results(base / "killed")
    differing = [name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)]
    print("\n".join(differing))
    report.row("undisturbed series", undisturbed, "s")
    report.row("files compared", len(wanted), "", "> 0", len(wanted) > 0)
    report.row("kills of the runner", kills, "")
    report.row("time with all kills", time.time() - began, "s")
    report.row("files that differ", len(differing), "", "0", not differing)
    shutil.rmtree(base)
    return int(not report.finish(chosen.json))


if __name__ == "__main__":
    sys.exit(main())
