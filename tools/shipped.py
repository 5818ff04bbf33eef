"""Make the weights that the package ships, step by step; every step goes on where it was stopped.

python tools/shipped.py cohorts brain                 simulate the training patients (other seeds than any profile)
python tools/shipped.py train brain unet --epochs 12  train one network; --published for the released code's mode
python tools/shipped.py read chest --epochs 12        train the readers
python tools/shipped.py card brain unet               measure the float16 weights on the tutorial's test patients
                                                      and put them, with their model card, into the package
"""

import argparse
import json
import os
import shlex
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pandas as pd

from fairrecon_core.cohort.folder import load_cohort, write_cohort
from fairrecon_core.degrade import degradation
from fairrecon_core.predict import quality
from fairrecon_core.predict.classifier import Classifier
from fairrecon_core.predict.segmenter import Segmenter
from fairrecon_core.predict.training import READER_RATE, train_reader
from fairrecon_core.reconstruct import arm_class, names, reconstructor
from fairrecon_core.reconstruct.training import train_reconstructor
from fairrecon_core.settings import load_settings, project_folder
from fairrecon_core.steps.folder import Run, commit, run_folder
from fairrecon_core.steps.pipeline import CohortSteps, open_cohort
from fairrecon_core.steps.weight_files import SHIPPED
from fairrecon_lab.analysis.patients import dice_table
from fairrecon_lab.auditing.by_hand import auroc
from fairrecon_lab.simulate import SIMULATOR_VERSION, TASKS, simulate

SEEDS = {"reconstruction": 101, "prediction": 102}  # of training patients; the profiles' own is 1
PATIENTS = {("brain", "reconstruction"): 1700, ("chest", "reconstruction"): 3200,
            ("brain", "prediction"): 2600, ("chest", "prediction"): 6500}  # fmt: skip
WORK = Path(os.environ.get("FAIRRECON_RUNS") or project_folder() / "runs") / "shipped"
MODE = {"brain": "mri_mode", "chest": "xray_mode"}
MODALITY = {"brain": "mri", "chest": "xray"}


def cohort_of(name: str, role: str):
    """The training cohort of a role, drawn when missing: 92 % train, 8 % validation."""
    folder = WORK / "cohorts" / f"{name}-{role}"
    if (folder / "cohort.json").exists():
        return load_cohort(folder)
    n, seed, settings = PATIENTS[name, role], SEEDS[role], load_settings("tutorial")
    items = simulate(name, n, seed=seed, size=settings.image_size, bias=settings.bias, n_slices=settings.brain_slices)
    extra = {"simulator_version": SIMULATOR_VERSION}
    n_images = n * (settings.brain_slices if name == "brain" else 1)
    return write_cohort(folder, items, name=name, seed=seed, split=(0.92, 0.08, 0.0), n_images=n_images,
                        tasks=TASKS[name], extra=extra)  # fmt: skip


def levels_of(name: str) -> tuple[float, ...]:
    settings = load_settings("tutorial")
    return settings.mri_levels if name == "brain" else settings.xray_levels


def train(name: str, arm: str, *, published, width: int, epochs: int, batch_size: int, seed: int, again: int) -> None:
    """Train one reconstructor and leave its state under `WORK`; `again`: then once more for so many epochs."""
    options = arm_class(arm).short_training | ({"published": True} if published else {})
    network = reconstructor(arm, MODALITY[name], width=width, **options)
    mode = "published" if published else "physical"
    folder = WORK / f"{name}-{arm}{'-published' if published else ''}"
    given = network, cohort_of(name, "reconstruction"), degradation(MODALITY[name], mode=mode), levels_of(name)
    options = {"cache": WORK / "cached", "batch_size": batch_size, "precision": "bf16-mixed"}
    path, losses = folder / "weights.safetensors", []
    for part, n_epochs in enumerate([epochs, again] if again else [epochs]):
        start = path if part else None
        state = folder / "again" if part else folder
        losses.append(
            train_reconstructor(*given, folder=state, seed=seed + part, epochs=n_epochs, start=start, **options)
        )
        network.save(path, seed=seed, epochs=epochs + part * again)
    pd.concat(losses, ignore_index=True).assign(epoch=lambda t: t.index).to_csv(folder / "loss.csv", index=False)


def read(name: str, *, epochs: int, seed: int, only: str = "") -> None:
    """Train the readers of a cohort and leave their states under `WORK`."""
    cohort = cohort_of(name, "prediction")
    for what, reader in readers(name).items():
        if only and what != only:
            continue
        folder = WORK / f"{name}-{what}"
        losses = train_reader(reader, cohort, folder=folder, seed=seed, epochs=epochs, precision="bf16-mixed")
        reader.save(folder / "weights.safetensors", seed=seed, epochs=epochs)
        losses.to_csv(folder / "loss.csv", index=False)


def readers(name: str) -> dict:
    """Fresh readers of a cohort by file name: brain tasks are learned independently, chest findings together."""
    options = {"backbone": "resnet18_half", "learning_rate": READER_RATE}
    if name == "chest":
        return {"findings": Classifier(TASKS["chest"], **options)}
    tasks = {task.removeprefix("tumour_"): Classifier([task], **options) for task in TASKS["brain"]}
    return tasks | {"segmenter": Segmenter(width=8)}


def card(name: str, what: str, *, published: bool, width: int, command: str) -> None:
    """Measure the float16 weights of one network on the tutorial's test patients and put them into the package."""
    ending = "-published" if published else ""
    source = WORK / f"{name}-{what}{ending}" / "weights.safetensors"
    overrides = {MODE[name]: "published"} if published else {}
    steps = open_cohort(Run(run_folder("tutorial", {}), load_settings("tutorial", **overrides)), name)
    facts = {"command": command, "commit": commit(), "simulator_version": SIMULATOR_VERSION, "image_size": 128}
    facts |= {
        "trained_on": f"simulated, {PATIENTS[name, role_of(what)]} patients, seed {SEEDS[role_of(what)]}, 92 % train"
    }
    facts["losses"] = pd.read_csv(source.with_name("loss.csv")).round(6).to_dict("list")
    if what in names():
        options = arm_class(what).short_training | ({"published": True} if published else {})
        network = reconstructor(what, MODALITY[name], width=width, **options)
        before = network.load(source)
        facts |= {"mode": "published" if published else "physical", "test": quality_of(steps, network)}
    else:
        network = readers(name)[what]
        before = network.load(source)
        facts["test"] = reading_of(steps, network)
    facts |= {key: before[key] for key in ("seed", "epochs")}
    path = SHIPPED / f"{name}-{what}{ending}.safetensors"
    network.save(path, **facts)
    print(path.name, f"{path.stat().st_size / 1e6:.2f} MB", json.dumps(facts["test"], indent=1))


def quality_of(steps: CohortSteps, network, n: int = 100) -> dict:
    """Mean PSNR and LPIPS of degraded and reconstructed test images, per level."""
    figures = {}
    for level in steps.levels:
        rows = steps.setup.rows(level)[:n]
        clean, ids = steps.cohort.images_at(rows), steps.setup.names_of(rows)
        degraded = steps.setup.degradation(clean, level, ids, seed=steps.setup.run.settings.seed)
        for arm, images in (("degraded", degraded), (network.name, network(degraded, level, image_ids=ids))):
            means = quality.measure(images, clean).mean()
            figures[f"{arm} at {level:g}"] = {
                "psnr_db": round(means["psnr_db"], 3),
                "lpips": round(means["lpips"], 4),
                "n": len(rows),
            }
    return figures


def reading_of(steps: CohortSteps, reader) -> dict:
    """AUROC of each task, or Dice per slice and per patient, on clean test images."""
    rows = steps.setup.rows(steps.setup.degradation.identity_level)
    images, table = steps.cohort.images_at(rows), steps.cohort.table.iloc[rows]
    if isinstance(reader, Segmenter):
        found, truth = reader.masks(images), steps.cohort.masks_at(rows)
        pixels = {"intersection": found & truth, "predicted": found, "actual": truth}
        counts = {name: part.sum(axis=(1, 2)) for name, part in pixels.items()}
        overlap = pd.DataFrame({"image_id": steps.setup.names_of(rows)} | counts)
        patients = table.set_index("image_id")["patient_id"]
        return {
            f"dice per {per}": round(float(dice_table(overlap, patients, per)["dice"].mean()), 4)
            for per in ("image", "patient")
        }
    scores = reader.scores(images)
    return {task: {kind: round(float(auroc(table[f"{kind[0]}{kind[1:]}_{task}"].to_numpy(float), scores[:, k])), 4)
                   for kind in ("y", "true")} for k, task in enumerate(reader.tasks)}  # fmt: skip


def trained_with(given) -> str:
    """The command that trained what `given` names."""
    step = "train" if given.arm in names() else "read"
    extra = f" --published --width {given.width}" if given.published else ""
    extra += f" --again {given.again}" if given.again else ""
    return f"python tools/shipped.py {step} {given.cohort} {given.arm} --epochs {given.epochs}{extra}"


def role_of(what: str) -> str:
    return "reconstruction" if what in names() else "prediction"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("cohorts", "train", "read", "card"))
    parser.add_argument("cohort", choices=tuple(MODALITY))
    parser.add_argument("arm", nargs="?", default="", help="unet, pix2pix or sde; or one reader")
    parser.add_argument("--published", action="store_true", help="the released code's degradation and network")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--again", type=int, default=0, help="epochs of a second training that starts from the first")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print("command:", shlex.join(sys.argv), flush=True)
    if given.step == "cohorts":
        for role in SEEDS:
            cohort_of(given.cohort, role)
    elif given.step == "card":
        card(given.cohort, given.arm, published=given.published, width=given.width, command=trained_with(given))
    elif given.step == "train":
        train(given.cohort, given.arm, published=given.published, width=given.width, epochs=given.epochs,
              batch_size=given.batch_size, seed=given.seed, again=given.again)  # fmt: skip
    else:
        read(given.cohort, epochs=given.epochs, seed=given.seed, only=given.arm)
