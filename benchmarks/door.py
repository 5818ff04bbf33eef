"""How long the audit of anybody's tables takes, files read and page written: `fairrecon audit` from a shell.

One model, 12 tasks, 3 attributes, 10 000 resamples; five million rows of scores (416 667 images of 138 889 patients) as
Parquet and as CSV, and the page of 45 000 images. Each run is a process of its own, on one thread.

    python benchmarks/door.py [--share 0.2] [--json FILE]
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parent))
from report import Report, parser

TASKS, ROWS, SMALL = 12, 5_000_000, 45_000
ATTRIBUTES = ("sex", "age", "race")
ROOT = Path(__file__).resolve().parents[1]


def tables(folder: Path, n_images: int, seed: int = 1) -> tuple[Path, Path]:
    """Scores (a row an image and task) and people (a row an image) as Parquet files with columns of text."""
    rng = np.random.default_rng(seed)
    patient = np.arange(n_images) // 3
    n = patient[-1] + 1
    people = pd.DataFrame({"image_id": [f"CXR{i:08d}.png" for i in range(n_images)],
                           "patient_id": [f"P{i:07d}" for i in patient]})  # fmt: skip
    people["sex"] = np.array(["F", "M"])[rng.integers(0, 2, n)][patient]
    people["age"] = rng.integers(18, 95, n)[patient]
    people["race"] = np.array(["Asian", "Black", "Other", "White"])[rng.choice(4, n, p=[0.1, 0.2, 0.1, 0.6])][patient]
    parts = []
    for t in range(TASKS):
        truth = rng.random(n_images) < 0.02 + 0.03 * t
        people[f"y_finding {t}"] = truth.astype(int)
        score = 1 / (1 + np.exp(1 - rng.normal(size=n_images) - 1.5 * truth))
        parts.append(pd.DataFrame({"image_id": people["image_id"], "task": f"finding {t}", "score": score}))
    paths = folder / f"scores{n_images}.parquet", folder / f"people{n_images}.parquet"
    pd.concat(parts, ignore_index=True).to_parquet(paths[0], index=False)
    people.to_parquet(paths[1], index=False)
    return paths


def run(*arguments) -> tuple[float, float, float]:
    """Seconds of CPU and by the clock, and peak memory in GiB, of `fairrecon` with these arguments."""
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "ARROW_DEFAULT_THREADS"), "1")
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "fairrecon_lab.cli", *map(str, arguments)],
                               env=os.environ | one | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL)  # fmt: skip
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"fairrecon {' '.join(map(str, arguments))} ended with status {status}")
    return used.ru_utime + used.ru_stime, time.perf_counter() - start, used.ru_maxrss / 2**20


def main() -> None:
    options = parser(__doc__.split("\n")[0])
    options.add_argument("--share", type=float, default=1.0, help="of the rows and images; below 1 nothing is promised")
    options.add_argument("--only", choices=["parquet", "csv", "page", "help"], nargs="+", help="only these figures")
    arguments = options.parse_args()
    report, whole = Report("door"), arguments.share >= 1
    only = arguments.only or ["parquet", "csv", "page", "help"]
    asked = [f"--attribute={name}" for name in ATTRIBUTES]
    with tempfile.TemporaryDirectory() as folder:
        large, small = (int(arguments.share * n) for n in (ROWS / TASKS, SMALL))
        paths = tables(Path(folder), large)
        if "csv" in only:
            text = [path.with_suffix(".csv") for path in paths]
            for path, target in zip(paths, text):
                pd.read_parquet(path).to_csv(target, index=False)
        for kind in ("parquet", "csv"):
            if kind not in only:
                continue
            cpu, _, peak = run("audit", *(paths if kind == "parquet" else text), *asked)
            name = f"{large * TASKS:,} rows of scores, {kind}"
            report.row(f"{name}: a task", cpu / TASKS, "s CPU", "<= 10", cpu / TASKS <= 10 if whole else None)
            report.row(f"{name}: peak memory", peak, "GiB", "<= 4", peak <= 4 if whole else None)
        if "page" in only:
            page = Path(folder) / "page.html"
            cpu, _, peak = run("audit", *tables(Path(folder), small), *asked, "--report", page)
            alone, _, _ = run("audit", *tables(Path(folder), small), *asked)
            name = f"{small:,} images x {TASKS} tasks"
            report.row(f"{name}: audit and page", cpu, "s CPU")
            report.row(f"{name}: the page alone", cpu - alone, "s CPU", "<= 30", cpu - alone <= 30 if whole else None)
            report.row(f"{name}: size of the page", page.stat().st_size / 2**20, "MiB")
        if "help" in only:
            _, clock, _ = min(run("audit", "--help") for _ in range(3))
            report.row("fairrecon audit --help", clock, "s wall", "< 2", clock < 2)
    report.finish(arguments.json)


if __name__ == "__main__":
    main()
