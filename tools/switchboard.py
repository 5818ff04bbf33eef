"""Measure what the published choices of degradation change: one switch at a time, everything else fixed.

    python tools/switchboard.py

For the tutorial's test patients at the audited level, each row compares the chain under a published choice with the
chain under the recommended one: image quality and the sex gap of the frozen readers, with patient-bootstrap intervals
of the difference. Networks are the shipped ones, each for its own mode. Writes results/switchboard/switchboard.csv and
its run.json. The evaluation switches (thresholds, estimator, unit, ...) need no networks: notebook 11 computes them.
"""

import sys
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from fairrecon_core import quality
from fairrecon_core.audit import choose_threshold
from fairrecon_core.chain import Chain
from fairrecon_core.degrade import degradation
from fairrecon_core.predict import Classifier
from fairrecon_core.run import Run, begin, commit, write_json
from fairrecon_core.settings import house, load_settings

N_IMAGES, N_BOOT = 400, 2000
OUT = house() / "results" / "switchboard"


@dataclass(frozen=True)
class Switch:
    """One choice: how the two chains degrade, which arm is compared, and which mode its network belongs to."""

    choice: str
    setting: str
    cohort: str
    published: dict
    recommended: dict
    arm: str = "degraded"
    note: str = ""


SWITCHES = (
    Switch("mask", "mri_mode", "brain", {"mode": "published"}, {"mode": "physical"}, "degraded",
           "uniform spokes as in the code against golden-angle spokes, at the same R"),
    Switch("mask", "mri_mode", "brain", {"mode": "published"}, {"mode": "physical"}, "unet",
           "each mask with its own shipped U-Net; the published one has half the width and no level channel"),
    Switch("magnitude", "part", "brain", {"part": "real"}, {"part": "magnitude"}, "degraded",
           "|real part| of the image against its magnitude, same spokes"),
    Switch("Beer-Lambert and bow-tie axis", "xray_mode", "chest", {"mode": "published"}, {"mode": "physical"},
           "degraded",
           "counts drawn from line integrals with the filter along the views, against attenuation along the detector"),
    Switch("Beer-Lambert and bow-tie axis", "xray_mode", "chest", {"mode": "published"}, {"mode": "physical"}, "unet",
           "each with its own shipped U-Net; the published one has half the width and no level channel"),
    Switch("bow-tie filter", "edge_transmission", "chest", {"edge_transmission": 1.0}, {}, "degraded",
           "physical mode without any bow-tie filter against with one"),
)  # fmt: skip


def chain_for(switch: Switch, published: bool) -> Chain:
    """The tutorial's chain, degrading as one side of the switch wants."""
    overrides = {switch.setting: "published"} if published and switch.setting.endswith("_mode") else {}
    run = begin("tutorial")[1]
    chain = Chain(Run(run.folder, load_settings("tutorial", **overrides)), switch.cohort)
    chain.degradation = degradation(chain.modality, **(switch.published if published else switch.recommended))
    return chain


def one_side(switch: Switch, published: bool) -> tuple[pd.DataFrame, pd.DataFrame]:
    """PSNR of each test image, and decisions of the frozen readers (threshold from clean validation images)."""
    chain = chain_for(switch, published)
    rows = chain.rows(chain.audit_level)[:N_IMAGES]
    clean, ids = chain.cohort.images_at(rows), chain.names_of(rows)
    images = chain.degradation(clean, chain.audit_level, ids, seed=chain.settings.seed)
    if switch.arm != "degraded":
        images = chain.reconstructor(switch.arm)(images, chain.audit_level, image_ids=ids, seed=chain.settings.seed)
    measured = quality.measure(images, clean, with_lpips=False)
    calibration = chain.rows(chain.degradation.identity_level, 0, "validation")
    decisions = {}
    for reader in chain.readers().values():
        if isinstance(reader, Classifier):
            before, scores = reader.scores(chain.cohort.images_at(calibration)), reader.scores(images)
            for k, task in enumerate(reader.tasks):
                truth = chain.cohort.table[f"y_{task}"].to_numpy(float)[calibration]
                decisions[task] = scores[:, k] >= choose_threshold(before[:, k], truth)
    table = chain.cohort.table.iloc[rows].reset_index(drop=True)
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


def effects(switch: Switch) -> list[dict]:
    """The rows of one switch: what the published choice changes in each quantity, with its interval."""
    (table, called), (other, recommended) = one_side(switch, True), one_side(switch, False)
    codes, ids = pd.factorize(table["patient_id"])
    counts = np.random.default_rng(1).multinomial(len(ids), np.full(len(ids), 1 / len(ids)), N_BOOT)
    weights = np.concatenate([np.ones((1, len(ids))), counts])[:, codes]
    quantities = {
        "PSNR (dB)": weights @ (table["psnr_db"] - other["psnr_db"]).to_numpy() / weights.sum(axis=1),
        "EODD by sex, mean over tasks": sex_eodd(table, called, weights) - sex_eodd(other, recommended, weights),
    }
    rows = []
    for quantity, values in quantities.items():
        low, high = np.quantile(values[1:], [0.025, 0.975])
        rows.append(
            {"choice": switch.choice, "setting": switch.setting, "published": str(switch.published),
             "recommended": str(switch.recommended), "quantity": f"{quantity}, {switch.arm}", "cohort": switch.cohort,
             "effect": round(values[0], 4), "low": round(low, 4), "high": round(high, 4),
             "moves_a_conclusion": bool(low > 0 or high < 0), "note": f"{switch.note}; {len(ids)} patients"}
        )  # fmt: skip
    return rows


if __name__ == "__main__":
    torch.set_num_threads(1)
    table = pd.DataFrame([row for switch in SWITCHES for row in effects(switch)])
    OUT.mkdir(parents=True, exist_ok=True)
    table.to_csv(OUT / "switchboard.csv", index=False)
    write_json(OUT / "run.json", {
        "command": "python tools/switchboard.py", "commit": commit(), "python": sys.version.split()[0],
        "n_boot": N_BOOT, "n_images": N_IMAGES,
    })  # fmt: skip
    print(table.drop(columns=["note", "published", "recommended"]).to_string())
