"""Measure what the published choices of degradation change: one switch at a time, everything else fixed.

    python tools/switchboard.py [--images N] [--out FOLDER]

For the tutorial's test patients at the audited level, each row compares the steps under a published choice with the
steps under the recommended one: image quality and the sex gap of the frozen readers, with patient-bootstrap intervals
of the difference. "Everything else" is as recommended, or where the choice says so as published: effects of choices do
not add up. Two rows turn a whole mode at once, as only for these are there networks of their own (the shipped ones).
Writes results/switchboard/switchboard.csv and its run.json. The evaluation switches (thresholds, estimator, unit, ...)
need no networks: notebook 11 computes them. `trained_switches.py` beside this file measures what needs training anew.
"""

import argparse
import functools
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from fairrecon_core.audit import choose_threshold
from fairrecon_core.degrade import Degradation, degradation
from fairrecon_core.degrade.xray import CHOICES
from fairrecon_core.predict import quality
from fairrecon_core.predict.classifier import Classifier
from fairrecon_core.settings import load_settings, project_folder
from fairrecon_core.steps.folder import Run, begin, commit, write_json
from fairrecon_core.steps.pipeline import CohortSteps, open_cohort

N_IMAGES, N_BOOT = 400, 2000
MOVES = (0.5, 0.0)  # an effect moves a conclusion when its interval lies beyond this: dB, and EODD
OUT = project_folder() / "results" / "switchboard"


@dataclass(frozen=True)
class Switch:
    """One choice: how the two sides degrade, which arm is compared, and which mode its network belongs to.

    A `setting` that ends in "_mode" gives the published side the networks of that mode; `others` holds for both sides.
    """

    choice: str
    setting: str
    cohort: str
    published: dict
    recommended: dict
    arm: str = "degraded"
    note: str = ""
    others: dict = field(default_factory=dict)


X_RAY = {  # choice, its option, and what it is
    "bow-tie axis": ("bowtie_axis", "filter in a V along the views against a rounded one along the detector"),
    "counts": ("counts", "Poisson on the line integrals themselves against N0 exp(-p) photons and a logarithm"),
    "flat field": ("flat_field", "bow-tie left in the sinogram against divided out"),
    "stretch": ("stretch", "each image from its own minimum to its maximum, 8 bits, against clipped to [0, 1]"),
}
AS_PUBLISHED = {option: valid[1] for option, valid in CHOICES.items()}


def x_ray_switches() -> list[Switch]:
    """Each choice of the X-ray degradation by itself: with the others recommended, then with the others published."""
    found = []
    for name, others in (("", {}), (" (others published)", AS_PUBLISHED)):
        for choice, (option, note) in X_RAY.items():
            right, published = ({option: value} for value in CHOICES[option])
            fixed = {key: value for key, value in others.items() if key != option}
            found.append(Switch(choice + name, option, "chest", published, right, "degraded", note, fixed))
    return found


SWITCHES = (
    Switch("mask", "mri_mode", "brain", {"mode": "published"}, {"mode": "physical"}, "degraded",
           "uniform half-spokes with cut coordinates (two samples of three lack their mirror), 15 diameters' worth, "
           "against 16 golden-angle diameters"),
    Switch("mask", "mri_mode", "brain", {"mode": "published"}, {"mode": "physical"}, "unet",
           "each mask with its own shipped U-Net; the published one has half the width and no level channel"),
    Switch("spoke order", "order", "brain", {"order": "uniform"}, {"order": "golden"}, "degraded",
           "the angle alone: as many full diameters, uniform against golden"),
    Switch("magnitude", "part", "brain", {"part": "real"}, {"part": "magnitude"}, "degraded",
           "|real part| against magnitude, same spokes; exactly 0 because the recommended mask is point-symmetric: "
           "the image of a real object is real, and both are its absolute value"),
    Switch("magnitude (published mask)", "part", "brain", {"part": "real"}, {"part": "magnitude"}, "degraded",
           "|real part| against magnitude, same spokes; most samples of this mask lack their mirror, so the image is "
           "complex, and |real part| drops an imaginary part that is error alone",
           {"mode": "published"}),
    Switch("all of the published X-ray degradation together", "xray_mode", "chest", {"mode": "published"},
           {"mode": "physical"}, "degraded", "bow-tie axis, counts, flat field, stretch and projector at once"),
    Switch("all of the published X-ray degradation together", "xray_mode", "chest", {"mode": "published"},
           {"mode": "physical"}, "unet",
           "each with its own shipped U-Net; the published one has half the width and no level channel"),
    *x_ray_switches(),
    Switch("projector (others published)", "mode", "chest", {"mode": "published"}, AS_PUBLISHED, "degraded",
           "what is left of the published mode: bilinear projector and back-projector against ours"),
    Switch("bow-tie filter", "edge_transmission", "chest", {"edge_transmission": 1.0}, {"edge_transmission": 0.05},
           "degraded", "physical mode without any bow-tie filter against with one"),
)  # fmt: skip


@functools.cache
def steps_of(cohort: str, **overrides: str) -> CohortSteps:
    """The tutorial's steps."""
    run = begin("tutorial")[1]
    return open_cohort(Run(run.folder, load_settings("tutorial", **overrides)), cohort)


@functools.cache
def thresholds(cohort: str) -> dict:
    """Each task's threshold, from clean validation images."""
    steps, found = steps_of(cohort), {}
    rows = steps.setup.rows(steps.setup.degradation.identity_level, 0, "validation")
    for reader in steps.readings.readers().values():
        if isinstance(reader, Classifier):
            scores = reader.scores(steps.cohort.images_at(rows))
            for k, task in enumerate(reader.tasks):
                truth = steps.cohort.table[f"y_{task}"].to_numpy(float)[rows]
                found[task] = choose_threshold(scores[:, k], truth)
    return found


MEASURED = {}  # sides of switches: the recommended one is that of many


def one_side(switch: Switch, published: bool, n_images: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """PSNR of each test image, and decisions of the frozen readers (threshold from clean validation images)."""
    overrides = {switch.setting: "published"} if published and switch.setting.endswith("_mode") else {}
    steps = steps_of(switch.cohort, **overrides)
    made = degradation(
        steps.cohort.modality, **switch.others, **(switch.published if published else switch.recommended)
    )
    key = repr([switch.cohort, switch.arm, overrides if switch.arm != "degraded" else {}, n_images, vars(made)])
    if key not in MEASURED:
        MEASURED[key] = measure(steps, made, switch.arm, n_images)
    return MEASURED[key]


def measure(steps: CohortSteps, made: Degradation, arm: str, n_images: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What `one_side` returns, for an arm behind a degradation."""
    rows = steps.setup.rows(steps.audit_level)[:n_images]
    clean, ids = steps.cohort.images_at(rows), steps.setup.names_of(rows)
    images = made(clean, steps.audit_level, ids, seed=steps.setup.run.settings.seed)
    if arm != "degraded":
        images = steps.weights.load(arm)(images, steps.audit_level, image_ids=ids, seed=steps.setup.run.settings.seed)
    measured = quality.measure(images, clean, with_lpips=False)
    cuts, decisions = thresholds(steps.name), {}
    for reader in steps_of(steps.name).readings.readers().values():
        if isinstance(reader, Classifier):
            scores = reader.scores(images)
            decisions |= {task: scores[:, k] >= cuts[task] for k, task in enumerate(reader.tasks)}
    table = steps.cohort.table.iloc[rows].reset_index(drop=True)
    return table.assign(psnr_db=measured["psnr_db"].to_numpy()), pd.DataFrame(decisions)


def sex_eodd(table: pd.DataFrame, decisions: pd.DataFrame, weights: np.ndarray) -> np.ndarray:
    """EODD (mean of TPR and FPR gap) by sex, averaged over tasks, for each row of image weights."""
    female = (table["sex"] == "female").to_numpy()
    gaps = []
    for task in decisions:
        truth, called = table[f"y_{task}"].to_numpy(float), decisions[task].to_numpy(float)
        rates = []
        for label in (1, 0):
            for group in (female, ~female):
                here = (truth == label) & group
                with np.errstate(invalid="ignore"):
                    rates.append(weights[:, here] @ called[here] / weights[:, here].sum(axis=1))
        gaps.append((np.abs(rates[0] - rates[1]) + np.abs(rates[2] - rates[3])) / 2)
    return np.nanmean(gaps, axis=0)


def shown(options: dict) -> str:
    """Options of one side as the table prints them."""
    return "the four choices of the physical mode" if options == AS_PUBLISHED else str(options)


def effects(switch: Switch, n_images: int = N_IMAGES) -> list[dict]:
    """The rows of one switch: what the published choice changes in each quantity, with its interval."""
    (table, called), (other, recommended) = (one_side(switch, published, n_images) for published in (True, False))
    codes, ids = pd.factorize(table["patient_id"])
    counts = np.random.default_rng(1).multinomial(len(ids), np.full(len(ids), 1 / len(ids)), N_BOOT)
    weights = np.concatenate([np.ones((1, len(ids))), counts])[:, codes]
    quantities = {
        "PSNR (dB)": weights @ (table["psnr_db"] - other["psnr_db"]).to_numpy() / weights.sum(axis=1),
        "EODD by sex, mean over tasks": sex_eodd(table, called, weights) - sex_eodd(other, recommended, weights),
    }
    rows = []
    for (quantity, values), bound in zip(quantities.items(), MOVES):
        low, high = np.quantile(values[1:], [0.025, 0.975])
        rows.append(
            {"choice": switch.choice, "setting": switch.setting, "published": shown(switch.published),
             "recommended": shown(switch.recommended), "quantity": f"{quantity}, {switch.arm}", "cohort": switch.cohort,
             "effect": round(values[0], 4), "low": round(low, 4), "high": round(high, 4),
             "moves_a_conclusion": bool(low > bound or high < -bound), "note": f"{switch.note}; {len(ids)} patients"}
        )  # fmt: skip
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=N_IMAGES, help="test images of each cohort")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the table")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    table = pd.DataFrame([row for switch in SWITCHES for row in effects(switch, asked.images)])
    asked.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(asked.out / "switchboard.csv", index=False)
    write_json(asked.out / "run.json", {
        "command": "python tools/switchboard.py", "commit": commit(), "python": sys.version.split()[0],
        "n_boot": N_BOOT, "n_images": asked.images,
    })  # fmt: skip
    print(table.drop(columns=["note", "published", "recommended"]).to_string())
