"""The fast way back of the SDE beside the published one: image quality and CPU time with the same weights.

`ode2` with 10 network calls against `euler` with 100, on test images of the tutorial's simulated chest cohort at 10 000
photons (`python3 run.py tutorial --only 01` makes the cohort), with the shipped weights and the same starting noise.
Intervals are over patients. Time is CPU time on one thread, the two samplers taking turns pair by pair.
"""

import os
import sys
import time

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"

import numpy as np
import torch
from report import Report, parser

from fairrecon_core.predict import quality
from fairrecon_core.settings import load_settings
from fairrecon_core.steps.folder import Run, run_folder
from fairrecon_core.steps.pipeline import open_cohort
from fairrecon_lab.bootstrap import patient_bootstrap

LEVEL = 10_000
SAMPLERS = {"euler, 100 calls": ("euler", 100), "ode2, 10 calls": ("ode2", 10)}


def main() -> bool:
    """Measure, print the table, and say whether every goal was reached."""
    options = parser(__doc__)
    options.add_argument("--n", type=int, default=64, help="number of test images")
    given = options.parse_args()
    torch.set_num_threads(1)
    steps = open_cohort(Run(run_folder("tutorial", {}), load_settings("tutorial")), "chest")
    rows = steps.setup.rows(LEVEL)[: given.n]
    ids, clean = steps.setup.names_of(rows), steps.cohort.images_at(rows)
    degraded = steps.setup.degradation(clean, LEVEL, ids, seed=steps.setup.run.settings.seed)
    images, seconds = walk(steps.weights.load("sde"), degraded, ids, steps.setup.run.settings.seed)
    measured = {key: quality.measure(found, clean) for key, found in images.items()}
    patients = steps.cohort.table["patient_id"].to_numpy()[rows]

    report = Report("sde")
    report.row("images", len(rows))
    report.row("PSNR, degraded", quality.measure(degraded, clean, with_lpips=False)["psnr_db"].mean(), "dB")
    for key in SAMPLERS:
        report.row(f"PSNR, {key}", measured[key]["psnr_db"].mean(), "dB")
        report.row(f"LPIPS, {key}", measured[key]["lpips"].mean())
        report.row(f"CPU time, {key}", 1000 * np.median(seconds[key]), "ms/image")
    slow, fast = (measured[key] for key in SAMPLERS)
    for column, unit, limit in (("psnr_db", "dB", -0.1), ("lpips", "", 0.005)):
        found = patient_bootstrap(fast[column], patients, baseline=slow[column], n_boot=5000)
        goal, holds = (f">= {limit}", found.value >= limit) if limit < 0 else (f"<= {limit}", found.value <= limit)
        title = f"{column.split('_')[0].upper()}, ode2 less euler"
        report.row(f"{title} [95 %: {found.low:+.4f} to {found.high:+.4f}]", found.value, unit, goal, holds)
    ratio = np.median(np.array(seconds["euler, 100 calls"]) / np.array(seconds["ode2, 10 calls"]))
    report.row("CPU time, euler over ode2", ratio, "times", ">= 9", ratio >= 9)
    return report.finish(given.json)


def walk(network, degraded, ids, seed: int) -> tuple[dict, dict]:
    """Images (n, H, W) of both samplers, and CPU seconds per image of each pair of images."""
    images, seconds = {key: [] for key in SAMPLERS}, {key: [] for key in SAMPLERS}
    for start in range(0, len(degraded), 2):  # the reconstructor takes two at a time
        pair, names = degraded[start : start + 2], ids[start : start + 2]
        for key, (network.sampler, network.n_steps) in SAMPLERS.items():
            if not start:
                network(pair, LEVEL, image_ids=names, seed=seed)  # warm up
            began = time.process_time()
            images[key].append(network(pair, LEVEL, image_ids=names, seed=seed).numpy())
            seconds[key].append((time.process_time() - began) / len(pair))
    return {key: np.concatenate(found) for key, found in images.items()}, seconds


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
