"""What running steps on Dask's workers costs, and what a second worker brings.

python benchmarks/engine.py [--seconds 30] [--steps 6] [--rounds 5] [--work 20] [--json FILE]

Overhead: steps that sleep, done one after the other here and by one worker; sleep needs no core, so a busy machine
disturbs little. Second worker: steps that compute on one thread, by one worker and by two, in pairs of which every
other one is turned round. That needs quiet cores: what others take of them is measured before each pair and printed,
and the goal is judged only where it stays below a tenth of a core.
"""

import os
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

for library in ("OMP", "MKL", "OPENBLAS"):
    os.environ[f"{library}_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import psutil
from report import Report, parser

from fairrecon_core.cohort.folder import write_cohort
from fairrecon_lab.engine.cluster import do_steps, order_of
from fairrecon_lab.engine.graph import Step
from fairrecon_lab.engine.workers import Watch, client_of
from fairrecon_lab.simulate import SIMULATOR_VERSION, TASKS, simulate

OVERRIDES = {"cohorts": ["brain"], "arms": [], "classical": ["degraded"], "image_size": 32}
QUIET = 0.1  # cores that others may take


@dataclass(frozen=True)
class Nap(Step):
    """A step that sleeps for some seconds."""

    seconds: float = 0.0

    def do(self, every) -> None:
        """Sleep, with the cohorts of the run opened as for any other step."""
        time.sleep(self.seconds)


@dataclass(frozen=True)
class Sum(Step):
    """A step that multiplies matrices a number of times, on one thread."""

    times: int = 0

    def do(self, every) -> None:
        """Compute; the same work whoever does it."""
        matrix = np.random.default_rng(0).random((400, 400))
        for _ in range(self.times):
            matrix = matrix @ matrix
            matrix /= matrix.max()


def on(where: str, steps: list[Step], order, logs: Path) -> tuple[float, float]:
    """Seconds until the workers have done a first empty step each, and from then on for all `steps`."""
    began = time.perf_counter()
    with client_of(where, logs) as client:
        n = int(where.partition(":")[2])
        client.wait_for_workers(n)
        first = [Nap("quality", "brain", f"first {number}", seconds=0.5) for number in range(2 * n)]
        do_steps(client, first, order, Watch(client, where, logs))
        started = time.perf_counter()
        do_steps(client, steps, order, Watch(client, where, logs))
        return started - began, time.perf_counter() - started


def others(seconds: float = 3.0) -> float:
    """Cores that other processes take while this one waits."""
    return psutil.cpu_percent(interval=seconds) / 100 * (os.cpu_count() or 1)


def times_of(seconds: float) -> int:
    """How often `Sum` must multiply to take about so many seconds here and now."""
    began = time.process_time()
    Sum("quality", "brain", "trial", times=200).do({})
    return max(1, int(200 * seconds / (time.process_time() - began)))


def main() -> int:
    """Measure, print, and exit with 1 if a goal was missed."""
    options = parser(__doc__)
    options.add_argument("--seconds", type=float, default=30, help="that a sleeping step takes (30)")
    options.add_argument("--steps", type=int, default=6, help="sleeping steps (6)")
    options.add_argument("--rounds", type=int, default=5, help="pairs of one worker and two; 0 leaves them out (5)")
    options.add_argument("--work", type=float, default=20, help="seconds of work in a pair's run, in 8 steps (20)")
    chosen = options.parse_args()
    report = Report("engine")
    with tempfile.TemporaryDirectory(prefix="engine-") as base:
        os.environ["FAIRRECON_RUNS"] = base
        order = order_of("smoke", OVERRIDES)
        items = simulate("brain", 6, seed=1, size=32, n_slices=1)
        write_cohort(Path(order.folder) / "cohorts" / "brain", items, name="brain", seed=1, tasks=TASKS["brain"],
                     extra={"simulator_version": SIMULATOR_VERSION})  # fmt: skip
        logs = Path(base) / "logs"
        naps = [Nap("quality", "brain", f"nap {k}", seconds=chosen.seconds) for k in range(chosen.steps)]
        began = time.perf_counter()
        for nap in naps:
            nap.do({})
        direct = time.perf_counter() - began
        start, engine = on("local:1", naps, order, logs)
        each = (engine - direct) / len(naps)
        report.row("cores that others took", others(), "of " + str(os.cpu_count()))
        report.row("start of one worker, its imports and the cohort", start, "s")
        report.row(f"{len(naps)} steps of {chosen.seconds:g} s one after the other, direct", direct, "s")
        report.row("the same on one worker", engine, "s")
        report.row("overhead a step", 1000 * each, "ms")
        report.row("overhead at 30 s a step", 100 * each / 30, "%", "< 5", each / 30 < 0.05)
        ratios, taken, times = [], [], times_of(chosen.work / 8) if chosen.rounds else 0
        for number in range(chosen.rounds):
            taken.append(others())
            seconds = {}
            for n in (1, 2) if number % 2 == 0 else (2, 1):
                sums = [Sum("quality", "brain", f"sum {k}", times=times) for k in range(8)]
                _, seconds[n] = on(f"local:{n}", sums, replace(order, start=f"{number}-{n}"), logs)
            ratios.append(seconds[1] / seconds[2])
            print(f"pair {number + 1}: one {seconds[1]:.1f} s, two {seconds[2]:.1f} s, others {taken[-1]:.2f} cores")
        if ratios:
            quiet = max(taken) < QUIET
            report.row("most cores that others took before a pair", max(taken), f"of {os.cpu_count()}")
            report.row("two workers against one, median of pairs", float(np.median(ratios)), "times",
                       ">= 1.7" if quiet else "not judged", np.median(ratios) >= 1.7 if quiet else None)  # fmt: skip
            report.row("smallest of the pairs", min(ratios), "times")
            report.row("largest of the pairs", max(ratios), "times")
    return int(not report.finish(chosen.json))


if __name__ == "__main__":
    sys.exit(main())
