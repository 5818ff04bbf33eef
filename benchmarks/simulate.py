"""What a simulated image costs: CPU time and its stages, peak memory, and the time of a whole patient table.

    python benchmarks/simulate.py [--json FILE] [--images 60]

Times are CPU time of one process and one thread, medians over images. Shares are each function's own time, without
what it calls in the simulator's modules. Peak memory is that of a fresh process that writes a cohort of 2 000 images.
"""

import os

for library in ("OMP", "MKL", "OPENBLAS"):
    os.environ[f"{library}_NUM_THREADS"] = "1"

import functools
import itertools
import subprocess
import sys
import time
import types
from collections import defaultdict

import numpy as np
from report import Report, parser

from fairrecon_lab import simulate

WRITE = """
import sys, tempfile
from pathlib import Path
from fairrecon_core.cohort.folder import write_cohort
from fairrecon_lab.simulate import simulate
name, n = sys.argv[1], int(sys.argv[2])
with tempfile.TemporaryDirectory() as folder:
    write_cohort(folder, simulate(name, n, size=128, n_slices=1), name=name, seed=1)
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(int(status["VmHWM"].split()[0]) / 1024)  # of this program; ru_maxrss would remember the parent's
"""


def milliseconds(name: str, size: int, n: int) -> list[float]:
    """CPU time in ms of each of `n` images of different patients, after one to warm up."""
    items, times = simulate.simulate(name, n + 1, size=size, n_slices=1), []
    next(items)
    for _ in range(n):
        start = time.process_time()
        next(items)
        times.append(1e3 * (time.process_time() - start))
    return times


class Stopwatch:
    """Own CPU time of every function of some modules: wrapped while the `with` block runs."""

    def __init__(self, modules):
        self.modules, self.own, self.stack, self.saved = modules, defaultdict(float), [], []

    def __enter__(self):
        wrapped = {}
        names = {module.__name__ for module in self.modules}
        for module, (name, value) in itertools.chain.from_iterable(
            [(m, item) for item in list(vars(m).items())] for m in self.modules
        ):
            if isinstance(value, types.FunctionType) and value.__module__ in names:
                self.saved.append((module, name, value))
                wrapped.setdefault(value, self._timed(value))
                setattr(module, name, wrapped[value])
        return self

    def __exit__(self, *_):
        for module, name, value in self.saved:
            setattr(module, name, value)

    def _timed(self, function):
        @functools.wraps(function)
        def timed(*args, **kwargs):
            self.stack.append(0.0)
            start = time.process_time()
            result = function(*args, **kwargs)
            spent = time.process_time() - start
            self.own[function.__name__.strip("_")] += spent - self.stack.pop()
            if self.stack:
                self.stack[-1] += spent
            return result

        return timed


def stages(report: Report, name: str, n: int, largest: int = 9) -> None:
    """Report the share of the largest stages of an image at 128 px."""
    prefixes = tuple(f"fairrecon_lab.simulate.{part}" for part in (name, "brain_tumour", "fields"))
    modules = [module for path, module in sys.modules.items() if path.startswith(prefixes)]
    with Stopwatch(modules) as watch:
        list(simulate.simulate(name, n, size=128, n_slices=1))
    total = sum(watch.own.values())
    for stage in sorted(watch.own, key=watch.own.get, reverse=True)[:largest]:
        report.row(f"{name} 128 px: share of {stage}", 100 * watch.own[stage] / total, "%")


def peak_memory(name: str, n: int) -> float:
    """Peak resident memory in MB of a process that writes a cohort of `n` images (Linux)."""
    done = subprocess.run([sys.executable, "-c", WRITE, name, str(n)], capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    options = parser(__doc__.splitlines()[0])
    options.add_argument("--images", type=int, default=60, help="images per time")
    options.add_argument("--no-memory", action="store_true", help="leave out the two cohorts of 2 000 images")
    arguments = options.parse_args()
    report = Report("simulate")
    for name in ("brain", "chest"):
        for size in (128, 256):
            times = milliseconds(name, size, arguments.images)
            promised = {"goal": "<= 12", "holds": np.median(times) <= 12} if size == 128 else {}
            report.row(f"{name} {size} px: CPU time per image, median", np.median(times), "ms", **promised)
            report.row(f"{name} {size} px: CPU time per image, fastest tenth", np.quantile(times, 0.1), "ms")
        stages(report, name, arguments.images)
    for name in ("brain", "chest"):
        start = time.process_time()
        simulate.patient_table(name, 56_810)
        report.row(f"{name}: patient_table of 56 810 patients, CPU time", time.process_time() - start, "s")
    for name in () if arguments.no_memory else ("brain", "chest"):
        few, many = peak_memory(name, 200), peak_memory(name, 2000)
        report.row(f"{name}: peak memory, 2 000 images written", many, "MB", goal="<= 300", holds=many <= 300)
        report.row(f"{name}: of that, growth from 200 to 2 000 images", many - few, "MB")
    sys.exit(not report.finish(arguments.json))


if __name__ == "__main__":
    main()
