"""CheXpert's size for real: 224 316 films, some 45 000 of them tested, through cohort, stream, tables and audits.

Each stage runs in a process of its own, which says its peak memory, with and without pages of files that the system may
take back at any time. What is the run's own: conversion, degradation, shards, tables, stamps, audits. What is not the
paper's, and named so: 64 simulated films of 64 px, repeated; six arms `cheap_1` ... that mix an image with its mean; a
cheap reader, which looks at 64 means; and SSIM and LPIPS, whose place in the table is filled from the error. So rows
and bytes are those of the paper's size, and the seconds of images say nothing.

    python benchmarks/paper_rows.py [--scale 0.25 1] [--json FILE]
"""

import json
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parent))
from report import Report, parser

N_FILMS, N_PATIENTS, SIZE, N_DRAWN = 224_316, 65_240, 64, 64
TASKS = [f"finding_{k}" for k in range(12)]
CHEAP = [f"cheap_{k}" for k in range(1, 7)]
RACES = {"white": 0.64, "asian": 0.12, "black": 0.05, "other": 0.17, "pacific_islander": 0.02}
GIVEN = {"cohorts": ["chest"], "image_size": SIZE, "train": True, "keep_images": 64, "level_subset": 10**6,
         "xray_levels": [100_000, 10_000, 3_000], "classical": ["degraded", *CHEAP], "arms": [], "n_boot": 1000,
         "min_support": 10, "device": "cpu", "inference_batch": 256}  # fmt: skip
STAGES = ("cohort", "stream", "tables", "whole table", "audit")
LIMITS = {"memory": 4.0, "tables": 4.0, "scratch": 30.0, "audit": 300.0}  # GiB, GB, GB, CPU seconds


def films(n: int) -> Iterator[tuple]:
    """(image, row) of `n` films as `write_cohort` takes them, some three and a half of a patient."""
    from fairrecon_lab.simulate import simulate

    drawn = [np.round(np.asarray(image) * 255).astype(np.uint8)
             for image, *_ in simulate("chest", N_DRAWN, seed=1, size=SIZE)]  # fmt: skip
    rng = np.random.default_rng(1)
    n_patients = max(40, round(N_PATIENTS * n / N_FILMS))
    who = np.sort(rng.integers(0, n_patients, n))
    sex, age = rng.choice(["female", "male"], n_patients, p=[0.41, 0.59]), rng.integers(18, 91, n_patients)
    race = rng.choice(list(RACES), n_patients, p=list(RACES.values()))
    prevalence = np.linspace(0.05, 0.45, len(TASKS))
    for k, patient in enumerate(who):
        labels = np.where(rng.random(len(TASKS)) < 0.1, np.nan, rng.random(len(TASKS)) < prevalence)
        row = {"image_id": f"film{k:06d}", "patient_id": f"patient{patient:05d}", "modality": "xray"}
        row |= {"sex": sex[patient], "age_years": float(age[patient]), "race": race[patient]}
        yield drawn[k % N_DRAWN], row | {f"y_{task}": label for task, label in zip(TASKS, labels)}


def cheap() -> None:
    """Put cheap arms, a cheap reader and cheap measures in place of networks, in this process."""
    import torch

    from fairrecon_core.measures import image_metrics
    from fairrecon_core.predict import quality
    from fairrecon_core.predict.classifier import Classifier
    from fairrecon_core.reconstruct import Reconstructor, register
    from fairrecon_core.steps import weights

    for k, name in enumerate(CHEAP, start=1):

        class Cheap(Reconstructor):
            n_tuning = 1

            def chunk(self, n):
                return n

            def restore(self, degraded, level, image_ids, seed, sample, measurement, share=0.1 * k):
                return (1 - share) * degraded + share * degraded.mean(dim=(1, 2), keepdim=True)

        Cheap.name = name
        register(Cheap)
    looks = np.random.default_rng(2).normal(size=(64, len(TASKS)))

    def scores(self, images) -> np.ndarray:
        means = np.asarray(images).reshape(-1, 8, SIZE // 8, 8, SIZE // 8).mean(axis=(2, 4)).reshape(-1, 64)
        return 1 / (1 + np.exp(-(means - 0.5) @ looks))

    def measure_arms(arms, clean, *, foreground=None, device="cpu") -> list[pd.DataFrame]:
        frames = []
        for images in arms:
            error = ((images - clean) ** 2).mean(axis=(1, 2), dtype=float)
            psnr = -10 * np.log10(np.maximum(error, 1e-12))
            found = {"psnr_db": psnr, "ssim": 1 - error, "nmse": error, "lpips": error, "psnr_foreground_db": psnr}
            frames.append(pd.DataFrame(found)[list(image_metrics())])
        return frames

    def untrained(reader, *given, **options) -> pd.DataFrame:
        torch.manual_seed(0)
        reader.build()
        reader.ready()
        return pd.DataFrame({"validation": [0.0]})

    Classifier.scores, quality.measure_arms, weights.train_reader = scores, measure_arms, untrained


def opened(folder: Path):
    """The steps of the cohort in `folder`, cheap ones in this process."""
    from fairrecon_core.settings import load_settings
    from fairrecon_core.steps.folder import Run
    from fairrecon_core.steps.pipeline import open_cohort

    cheap()
    return open_cohort(Run(folder, load_settings("smoke", **GIVEN)), "chest")


def stage(name: str, folder: Path, scale: float) -> dict[str, float]:
    """Do one stage in this process: figures by name."""
    from fairrecon_core.audit import audit_change
    from fairrecon_core.cohort.folder import load_cohort, write_cohort
    from fairrecon_lab.engine.graph import steps_of

    n = round(N_FILMS * scale)
    if name == "cohort":
        cohort = write_cohort(folder / "cohorts" / "chest", films(n), name="chest", seed=1, tasks=TASKS,
                              roles=(0.7, 0.3), extra={"simulator_version": "1"})  # fmt: skip
        return {"films": len(cohort), "test films": len(cohort.select("test", "prediction"))}
    if name in ("stream", "tables"):
        steps = opened(folder)
        kinds = ("reader", "stream") if name == "stream" else ("quality", "read")
        for step in steps_of({"chest": steps}):
            if step.kind in kinds:
                step.do({"chest": steps})
        return {}
    from fairrecon_core.settings import load_settings
    from fairrecon_core.steps.folder import Run

    run, table = Run(folder, load_settings("smoke", **GIVEN)), load_cohort(folder / "cohorts" / "chest").table
    if name == "whole table":
        return {"rows of predictions, all levels": len(run.read("predictions", cohort="chest"))}
    predictions = run.read("predictions", cohort="chest", level=[float("inf"), GIVEN["xray_levels"][1]])
    arms = predictions["arm"].nunique() - 1
    read, began, cells = time.process_time(), time.process_time(), 0
    for attribute in ("sex", "age_group", "race"):
        cells += len(audit_change(predictions, table, attribute, n_boot=1000, margin=0.05))
    seconds = time.process_time() - began
    return {"rows audited": len(predictions), "arms": arms, "cells": cells, "reading (CPU s)": read, "CPU s": seconds}


class Watched(threading.Thread):
    """Looks five times a second at how much memory of this process no file lies behind."""

    def __init__(self):
        super().__init__(daemon=True)
        self.peak_kib = 0

    def run(self):
        while True:
            for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
                if line.startswith("RssAnon"):
                    self.peak_kib = max(self.peak_kib, int(line.split()[1]))
            time.sleep(0.2)


def size_of(folder: Path) -> float:
    """GB of the files in a folder; 0 if it is not there."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e9


def measure(report: Report, scales: list[float]) -> None:
    """All stages at each scale, in processes of their own; figures and limits go to the `report`."""
    for scale in scales:
        folder, whole = Path(tempfile.mkdtemp(prefix="paper-rows-")), scale >= 1
        try:
            for name in STAGES:
                began, command = time.perf_counter(), [sys.executable, __file__, "--stage", name, "--folder"]
                done = subprocess.run([*command, str(folder), "--scale", str(scale)], capture_output=True, text=True)
                if done.returncode:
                    sys.exit(f"{name} failed:\n{done.stderr[-3000:]}")
                figures = json.loads(done.stdout.splitlines()[-1])
                _tell(report, f"{scale:g}x {name}", figures, whole)
                report.row(f"{scale:g}x {name}: by the clock", time.perf_counter() - began, "s")
                for what, part in (("cohort", "cohorts"), ("scratch", "stream"), ("tables", "tables")):
                    goal = LIMITS.get(what) if whole else None
                    size = size_of(folder / part)
                    report.row(f"{scale:g}x after {name}: {what}", size, "GB", f"< {goal:g}" if goal else "",
                               size < goal if goal else None)  # fmt: skip
        finally:
            shutil.rmtree(folder)


def _tell(report: Report, title: str, figures: dict, whole: bool) -> None:
    """Rows of one stage's figures."""
    for name, value in figures.items():
        goal = {"peak memory": "memory", "CPU s": "audit"}.get(name) if whole else None
        unit = {"peak memory": "GiB", "of it, no file's pages": "GiB"}.get(name, "")
        if goal:
            report.row(f"{title}: {name}", value, unit, f"< {LIMITS[goal]:g}", value < LIMITS[goal])
        else:
            report.row(f"{title}: {name}", value, unit)


def main() -> int:
    """All stages, or one of them in this process; 1 if a limit was passed."""
    options = parser(__doc__.split("\n")[0])
    options.add_argument("--scale", nargs="+", type=float, default=[0.25, 1.0], help="shares of CheXpert's films")
    options.add_argument("--stage", choices=STAGES, help="only this one, in --folder")
    options.add_argument("--folder", type=Path)
    given = options.parse_args()
    if given.stage:
        watched = Watched()
        watched.start()
        figures = stage(given.stage, given.folder, given.scale[0])
        figures["CPU s in all"] = time.process_time()
        figures["peak memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        figures["of it, no file's pages"] = watched.peak_kib / 2**20
        print(json.dumps(figures))
        return 0
    report = Report("paper_rows")
    measure(report, given.scale)
    return 0 if report.finish(given.json) else 1


if __name__ == "__main__":
    sys.exit(main())
