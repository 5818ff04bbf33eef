"""How fast the audit is: the paper's whole grid beside a pandas loop and NumPy loops; memory of a large table.

The grid: 12 findings x 3 attributes x clean and 3 arms, 34 126 images of 11 362 patients, 10 000 resamples, simulated
decisions. The pandas loop is written after the published procedure (rows resampled anew for every finding, attribute
and arm; rates by masks); it and the NumPy loops are timed on a few iterations and extrapolated. CPU time, one run.

    python benchmarks/audit.py [--json FILE] [--no-memory]
"""

import multiprocessing
import resource
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parent))
from report import Report, parser

from fairrecon_core.audit.engine import Stratum, cell_sums, group_totals, means, patient_weights, resample
from fairrecon_core.audit.groups import resample_means
from fairrecon_core.audit.inference import (
    change_interval,
    contrast,
    group_range,
    noise_band,
    null_draws,
    range_interval,
    verdicts,
)
from fairrecon_core.audit.multiplicity import step_down_max_t, swap_test

N_BOOT = 10_000
N_IMAGES, N_PATIENTS = 34_126, 11_362
FINDINGS, ARMS = 12, 4  # arm 0 is clean
GROUPS = {"sex": 2, "age_group": 2, "race": 6}
RACE_SHARES = np.array([0.0031, 0.1221, 0.0544, 0.0152, 0.1696, 0.6356])  # of the paper's Table 2


def grid(seed: int = 1) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """A table of the paper's shape: frame (patient, three attributes), truth (12, rows), decisions (4, 12, rows)."""
    rng = np.random.default_rng(seed)
    patient = np.sort(np.concatenate([np.arange(N_PATIENTS), rng.integers(0, N_PATIENTS, N_IMAGES - N_PATIENTS)]))
    frame = pd.DataFrame({"patient": patient, "sex": (rng.random(N_PATIENTS) < 0.45)[patient].astype(int)})
    frame["age_group"] = (rng.random(N_PATIENTS) < 0.52)[patient] ^ (rng.random(N_IMAGES) < 0.01)  # a birthday between
    frame["age_group"] = frame["age_group"].astype(int)
    frame["race"] = rng.choice(6, N_PATIENTS, p=RACE_SHARES / RACE_SHARES.sum())[patient]
    prevalence = np.geomspace(0.02, 0.45, FINDINGS)[:, None]
    truth = np.where(rng.random((FINDINGS, N_IMAGES)) < 0.1, np.nan, rng.random((FINDINGS, N_IMAGES)) < prevalence)
    clean = rng.random((FINDINGS, N_IMAGES)) < np.where(truth == 1, 0.78, 0.22)
    flipped = rng.random((ARMS - 1, FINDINGS, N_IMAGES)) < 0.06
    return frame, truth, np.concatenate([clean[None], clean ^ flipped])


def strata_of(truth, decisions) -> list[Stratum]:
    """TPR and FPR of every finding."""
    return [Stratum(f"{name} {task}", decisions[:, task], truth[task] == label)
            for task in range(len(truth)) for name, label in (("tpr", 1), ("fpr", 0))]  # fmt: skip


def published_quantities(frame, truth, decisions) -> np.ndarray:
    """What the loops below compute, by the engine: bootstrap mean, standard deviation and p of every EODD and EOP."""
    cells = cell_sums(frame["patient"], frame[list(GROUPS)].to_numpy(), strata_of(truth, decisions))
    draws = []
    for totals in resample(cells, N_BOOT, seed=1):
        gaps = []
        for i, n_groups in enumerate(GROUPS.values()):
            rates = means(group_totals(totals, cells.codes[:, i], n_groups))  # (b, groups, strata, arms)
            with np.errstate(invalid="ignore"):
                gap = np.fmax.reduce(rates, axis=1) - np.fmin.reduce(rates, axis=1)
            gaps.append(np.stack([(gap[:, ::2] + gap[:, 1::2]) / 2, gap[:, ::2]], axis=1))  # EODD, EOP
        draws.append(np.stack(gaps, axis=1))
    draws = np.concatenate(draws)  # (B, attributes, 2, findings, arms)
    change = draws[..., 1:] - draws[..., :1]
    return np.stack([draws.mean(axis=0)[..., 1:], draws.std(axis=0)[..., 1:], (change <= 0).mean(axis=0)])


def whole_audit(frame, truth, decisions) -> dict:
    """Everything the audit says about the grid; returns the CPU seconds of its parts."""
    seconds, mark = {}, time.process_time()

    def lap(name):
        nonlocal mark
        seconds[name], mark = time.process_time() - mark, time.process_time()

    strata, codes = strata_of(truth, decisions), frame[list(GROUPS)].to_numpy()
    together = [(2 * task, 2 * task + 1) for task in range(FINDINGS)]
    results = resample_means(frame["patient"], codes, strata, list(GROUPS.values()), n_boot=N_BOOT, seed=1)
    lap("resampled rates and standard errors")
    for result in results:
        did = contrast(result, "did")
        did.interval()
        verdicts(did, margin=0.05, p_value=step_down_max_t([did])[0])
    lap("differences in differences: intervals, max-T, verdicts")
    for result in results:
        range_interval(result, together)
        change_interval(result, together)
    lap("EODD and EOP: simultaneous intervals")
    for result in results:
        noise_band(group_range(null_draws(result)))
    lap("noise bands")
    for name in (name for name, n_groups in GROUPS.items() if n_groups > 2):  # of two groups the DiD is the test
        swap_test(frame["patient"], frame[name], strata, GROUPS[name], n_draws=N_BOOT, seed=1)
    lap("omnibus swap tests of more than two groups")
    return seconds


def gaps_by_masks(truth, decision, group) -> tuple[float, float]:
    """EODD and EOP of one table, as an evaluation script in pandas would write them."""
    tpr, fpr = [], []
    for name in group.unique():
        here_truth, here = truth[group == name], decision[group == name]
        positive, negative = here_truth == 1, here_truth == 0
        tpr.append((here[positive] == 1).sum() / positive.sum() if positive.sum() else 1.0)
        fpr.append((here[negative] == 1).sum() / negative.sum() if negative.sum() else 0.0)
    return ((max(tpr) - min(tpr)) + (max(fpr) - min(fpr))) / 2, max(tpr) - min(tpr)


def pandas_loop(frame, truth, decisions, iterations: int) -> float:
    """CPU seconds for the grid at N_BOOT, after the published procedure, from `iterations` of a middle finding."""
    task, total = FINDINGS // 2, 0.0
    known = ~np.isnan(truth[task])
    table = frame[known].assign(
        truth=truth[task, known], clean=decisions[0, task, known], arm=decisions[1, task, known]
    )
    for attribute in GROUPS:
        start = time.process_time()
        for i in range(iterations):
            drawn = table.sample(len(table), replace=True, random_state=i)
            for column in ("clean", "arm"):
                gaps_by_masks(drawn["truth"], drawn[column], drawn[attribute])
        total += (time.process_time() - start) / iterations
    return total * FINDINGS * (ARMS - 1) * N_BOOT


def numpy_loop(frame, truth, decisions, iterations: int, joint: bool) -> float:
    """CPU seconds for the rates of the grid at N_BOOT: patients' weights and np.bincount in every resample.

    `joint`: one count over all arms' decisions together (the best loop we know) instead of one count for each arm.
    """
    patient = frame["patient"].to_numpy()
    rows = [np.flatnonzero(~np.isnan(one)) for one in truth]
    keys = {(name, task): frame[name].to_numpy()[rows[task]] * 2 + truth[task, rows[task]].astype(int)
            for name in GROUPS for task in range(FINDINGS)}  # fmt: skip
    pattern = [(decisions[:, task, rows[task]] * 2 ** np.arange(ARMS)[:, None]).sum(axis=0) for task in range(FINDINGS)]
    joint_keys = {key: value * 2**ARMS + pattern[key[1]] for key, value in keys.items()}
    bits = (np.arange(2**ARMS)[:, None] >> np.arange(ARMS)) & 1  # (patterns, arms)
    values = decisions.astype(float)
    start = time.process_time()
    for i in range(iterations):
        drawn = np.random.default_rng(i).integers(0, N_PATIENTS, N_PATIENTS)
        weight = np.bincount(drawn, minlength=N_PATIENTS).astype(float)[patient]
        for (name, task), key in keys.items():
            size, w = 2 * GROUPS[name], weight[rows[task]]
            if joint:
                counts = np.bincount(joint_keys[name, task], w, size * 2**ARMS).reshape(size, -1)
                rates = (counts @ bits) / np.maximum(counts.sum(axis=1, keepdims=True), 1)
            else:
                n = np.bincount(key, w, size)
                rates = np.stack([np.bincount(key, w * values[arm, task, rows[task]], size) / np.maximum(n, 1)
                                  for arm in range(ARMS)])  # fmt: skip
            np.ptp(rates.reshape(ARMS, -1, 2), axis=1)
    return (time.process_time() - start) / iterations * N_BOOT


def large_table(n_images: int = 104_200) -> None:
    """Audit five million rows: 12 tasks x 4 arms of 104 200 images, through the one call."""
    from fairrecon_core.audit.change import audit_change

    rng = np.random.default_rng(1)
    image = np.array([f"image{i:06d}" for i in range(n_images)])
    cohort = pd.DataFrame({"image_id": image, "patient_id": np.arange(n_images) // 3})
    cohort["sex"] = np.where(cohort["patient_id"] % 2, "female", "male")
    parts = []
    for t in range(FINDINGS):
        cohort[f"y_task{t}"] = (rng.random(n_images) < 0.1 + 0.02 * t).astype(float)
        latent = rng.normal(size=n_images) + 1.5 * cohort[f"y_task{t}"].to_numpy()
        for arm in ("clean", "a", "b", "c"):
            noise = 0 if arm == "clean" else 0.3 * rng.normal(size=n_images)
            score = (1 / (1 + np.exp(1 - latent - noise))).astype(np.float32)
            parts.append(pd.DataFrame({"image_id": image, "arm": arm, "task": f"task{t}", "score": score}))
    for name in ("arm", "task", "image_id"):
        kind = pd.CategoricalDtype(sorted(set().union(*(part[name].unique() for part in parts))))
        for part in parts:
            part[name] = part[name].astype(kind)
    predictions = pd.concat(parts, ignore_index=True)
    del parts
    assert len(predictions) > 5_000_000
    audit_change(predictions, cohort, attribute="sex")


def peak_memory(report: Report) -> None:
    """Run the large audit in a process of its own and report its peak."""
    start = time.perf_counter()
    process = multiprocessing.get_context("spawn").Process(target=large_table)
    process.start()
    process.join()
    if process.exitcode:
        print(f"the large audit ended with code {process.exitcode}")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20  # KiB on Linux
    holds = peak < 4 and not process.exitcode
    report.row("peak memory of an audit of 5 million rows", peak, "GiB", "< 4", holds)
    report.row("its time, making the table included", time.perf_counter() - start, "s wall")


def main() -> None:
    options = parser(__doc__.split("\n")[0])
    options.add_argument("--no-memory", action="store_true", help="leave out the audit of 5 million rows")
    arguments = options.parse_args()
    report, table = Report("audit"), grid()
    frame, truth, decisions = table
    start = time.process_time()
    for _ in patient_weights(N_PATIENTS, N_BOOT, seed=1):
        pass
    report.row("weights alone (10 000 x 11 362)", time.process_time() - start, "s CPU")
    cells = cell_sums(frame["patient"], frame[list(GROUPS)].to_numpy(), strata_of(truth, decisions))
    start = time.process_time()
    for _ in resample(cells, N_BOOT, seed=1):
        pass
    report.row("weights and all counts (24 cells)", time.process_time() - start, "s CPU")
    wall, seconds = time.perf_counter(), whole_audit(*table)
    wall = time.perf_counter() - wall
    for name, value in seconds.items():
        report.row(f"  {name}", value, "s CPU")
    ours = sum(seconds.values())
    report.row("the paper's whole grid, everything", ours, "s CPU", "<= 5", ours <= 5)
    report.row("the same, by the clock (other work on the machine included)", wall, "s wall")
    start = time.process_time()
    published_quantities(*table)
    same = time.process_time() - start
    report.row("EODD and EOP of the grid, as the loops compute them", same, "s CPU")
    peers = [
        ("pandas loop after the published procedure", pandas_loop(*table, iterations=50), 5000),
        ("good NumPy loop (weights, one bincount an arm)", numpy_loop(*table, iterations=20, joint=False), 100),
        ("best NumPy loop (one bincount for all arms)", numpy_loop(*table, iterations=20, joint=True), None),
    ]
    for name, value, goal in peers:
        report.row(name, value, "s CPU")
        report.row("  over ours, the same quantities", value / same, "x", f">= {goal}" if goal else "",
                   value / same >= goal if goal else None)  # fmt: skip
        report.row("  over our whole audit", value / ours, "x")
    if not arguments.no_memory:
        peak_memory(report)
    report.finish(arguments.json)


if __name__ == "__main__":
    main()
