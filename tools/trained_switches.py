"""Measure choices that need networks trained anew: the rate of the U-Net, and the backbone of the brain reader.

    python tools/trained_switches.py [--patients N] [--epochs N] [--out FOLDER]

Both papers' texts and their code disagree in these. Each row trains two networks on the same simulated brain patients
(same first weights, same order of images, audited level), one as in the code and one as in the text, and compares them
on the same test patients, with patient-bootstrap intervals of the difference. One training each: how much another seed
of training would move is not in the interval. Writes results/switchboard/trained.csv and trained.json.

A third disagreement, whether the segmenter starts from ImageNet weights, needs weights from the network and is not
measured.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from fairrecon_core.audit import choose_threshold
from fairrecon_core.cohort.folder import Cohort, write_cohort
from fairrecon_core.degrade import degradation
from fairrecon_core.predict.classifier import Classifier
from fairrecon_core.predict.quality import psnr_db
from fairrecon_core.predict.training import train_reader
from fairrecon_core.reconstruct.training import train_reconstructor
from fairrecon_core.reconstruct.unet import UNetReconstructor
from fairrecon_core.settings import project_folder
from fairrecon_core.steps.folder import commit, write_json
from fairrecon_lab.bootstrap import weighted_auroc
from fairrecon_lab.simulate import SIMULATOR_VERSION, TASKS, simulate

LEVEL, WIDTH, SIZE, SLICES, N_BOOT = 8.0, 8, 128, 2, 2000
SEED = 1
MOVES_DB = 0.5


def brain(folder: Path, n_patients: int) -> Cohort:
    """Simulated brain patients, split 70/10/20."""
    items = simulate("brain", n_patients, size=SIZE, n_slices=SLICES, seed=SEED)
    extra = {"simulator_version": SIMULATOR_VERSION}
    return write_cohort(folder, items, name="brain", seed=SEED, tasks=TASKS["brain"], extra=extra)


def bootstrap_weights(patients: pd.Series) -> np.ndarray:
    """How often each image counts (1 + N_BOOT, images): once, then as its patient is drawn."""
    codes, ids = pd.factorize(patients)
    counts = np.random.default_rng(SEED).multinomial(len(ids), np.full(len(ids), 1 / len(ids)), N_BOOT)
    return np.concatenate([np.ones((1, len(ids))), counts])[:, codes]


def row(choice, setting, code, text, quantity, values, moves, note) -> dict:
    """One row of the board from the differences `values` (1 + N_BOOT,), the first of them observed."""
    low, high = np.nanquantile(values[1:], [0.025, 0.975])
    return {
        "choice": choice, "setting": setting, "published": code, "recommended": text, "quantity": quantity,
        "cohort": "brain", "effect": round(values[0], 4), "low": round(low, 4), "high": round(high, 4),
        "moves_a_conclusion": bool(moves(low, high)), "note": note,
    }  # fmt: skip


def rate_of_the_unet(cohort: Cohort, folder: Path, epochs: int) -> list[dict]:
    """PSNR of test slices behind a U-Net trained at 1e-4 (code) less at 1e-3 (text of the follow-up)."""
    made = degradation("mri")
    test = cohort.table[cohort.table["split"] == "test"]
    clean, psnr = cohort.images_at(test["row"].to_numpy()), {}
    degraded = made(clean, LEVEL, list(test["image_id"]), seed=SEED)
    for rate in (1e-4, 1e-3):
        network = UNetReconstructor("mri", WIDTH, learning_rate=rate)
        where = folder / f"unet-{rate:g}"
        train_reconstructor(network, cohort, made, [LEVEL], folder=where, epochs=epochs, seed=SEED, progress=False)
        images = network(degraded, LEVEL, image_ids=list(test["image_id"]), seed=SEED)
        psnr[rate] = np.array([psnr_db(np.asarray(image), truth) for image, truth in zip(images, clean)])
    weights = bootstrap_weights(test["patient_id"])
    values = weights @ (psnr[1e-4] - psnr[1e-3]) / weights.sum(axis=1)
    note = f"width {WIDTH}, {epochs} epochs of {(cohort.table['split'] == 'train').sum()} images, one training each"
    moves = lambda low, high: low > MOVES_DB or high < -MOVES_DB
    return [row("learning rate", "learning_rate", "1e-4", "1e-3", "PSNR (dB), unet", values, moves, note)]


def backbone_of_the_reader(cohort: Cohort, folder: Path, epochs: int) -> list[dict]:
    """Mean AUROC and sex gap on clean test slices of a ResNet-18 (code) less a ResNet-50 (text)."""
    parts = {name: cohort.table[cohort.table["split"] == name] for name in ("validation", "test")}
    images = {name: cohort.images_at(part["row"].to_numpy()) for name, part in parts.items()}
    weights, measured = bootstrap_weights(parts["test"]["patient_id"]), {}
    for backbone in ("resnet18", "resnet50"):
        reader = Classifier(TASKS["brain"], backbone, learning_rate=1e-4)
        train_reader(reader, cohort, folder=folder / backbone, epochs=epochs, seed=SEED, progress=False)
        scores = {name: reader.scores(stack) for name, stack in images.items()}
        measured[backbone] = measure(scores, parts, reader.tasks, weights)
    auroc, gap = (measured["resnet18"][k] - measured["resnet50"][k] for k in (0, 1))
    note = f"rate 1e-4, {epochs} epochs of {(cohort.table['split'] == 'train').sum()} images, one training each"
    apart = lambda low, high: low > 0 or high < 0
    settings = ("backbone", "backbone", "resnet18", "resnet50")
    return [
        row(*settings, "mean AUROC on clean images", auroc, apart, note),
        row(*settings, "EODD by sex, mean over tasks, clean", gap, apart, note),
    ]


def measure(scores: dict, parts: dict, tasks, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean AUROC and mean EODD by sex on the test part, for each row of `weights`; thresholds from validation."""
    aurocs, gaps, test = [], [], parts["test"]
    female = (test["sex"] == "female").to_numpy()
    for k, task in enumerate(tasks):
        truth = test[f"y_{task}"].to_numpy(float)
        cut = choose_threshold(scores["validation"][:, k], parts["validation"][f"y_{task}"].to_numpy(float))
        called = (scores["test"][:, k] >= cut).astype(float)
        aurocs.append(weighted_auroc(scores["test"][:, k], truth, weights))
        rate = lambda here, called=called: weights[:, here] @ called[here] / weights[:, here].sum(axis=1)
        with np.errstate(invalid="ignore"):
            both = [np.abs(rate((truth == y) & female) - rate((truth == y) & ~female)) for y in (1, 0)]
        gaps.append(np.mean(both, axis=0))
    return np.mean(aurocs, axis=0), np.mean(gaps, axis=0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patients", type=int, default=400, help="simulated brain patients before the split")
    parser.add_argument("--epochs", type=int, default=6, help="of every training")
    parser.add_argument("--out", type=Path, default=project_folder() / "results" / "switchboard", help="folder")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        cohort = brain(Path(place) / "brain", asked.patients)
        rows = rate_of_the_unet(cohort, Path(place), asked.epochs)
        print(rows, f"{time.perf_counter() - start:.0f} s", flush=True)
        rows += backbone_of_the_reader(cohort, Path(place), asked.epochs)
    asked.out.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(asked.out / "trained.csv", index=False)
    command = f"python tools/trained_switches.py --patients {asked.patients} --epochs {asked.epochs}"
    seconds = round(time.perf_counter() - start)
    facts = {"command": command, "commit": commit(), "python": sys.version.split()[0], "seconds": seconds}
    write_json(asked.out / "trained.json", facts)
    print(pd.DataFrame(rows).drop(columns=["note"]).to_string(), f"{seconds} s")
