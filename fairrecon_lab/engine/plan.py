"""What a run costs, from a few images: steps, hours and gigabytes for a number of workers. Nothing is started.

Each network is made as the settings want it, with random weights, and timed on a few images of noise on the run's own
device: a call, a step of its training, a reading, a measurement. All else is arithmetic with the sizes of the cohorts.
"""

import heapq
import time
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from fairrecon_core.learn.loop import Batch
from fairrecon_core.learn.recipes import OF_TRAINING
from fairrecon_core.predict import quality
from fairrecon_core.predict.readers import Labelled, Reader
from fairrecon_core.reconstruct import arm_class, base_arm, reconstructor
from fairrecon_core.settings import Settings, load_settings
from fairrecon_core.steps.folder import run_folder
from fairrecon_core.steps.setup import degradation_of
from fairrecon_lab.engine.room import counts, gigabytes, remember, shown

FEW = 2  # images that are timed
clock = time.perf_counter  # or `time.process_time`, where other work would be counted


def seconds_of(call: Callable[[], object]) -> float:
    """Seconds by `clock` of a call an image, the second of two calls on `FEW` images."""
    call()
    began = clock()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (clock() - began) / FEW


def plan(profile: str, overrides: Mapping, n_workers: int = 1) -> str:
    """The steps of a profile as a table with their cost, the disk that they take, and the time with some workers.

    The hours are kept in the run's folder: a run says them before it starts.

    Parameters
    ----------
    profile : str
    overrides : mapping
    n_workers : int
        Processes that work at the same time, each with a GPU of its own where there are some.
    """
    settings = load_settings(profile, **overrides)
    table = costs(settings)
    if table.empty:
        return f"no cohort of {settings.profile} is there: convert it first (data_scripts/)"
    total, longest = table["hours"].sum(), wall_hours(table, n_workers, shards=settings.keep_images > 0)
    shown_table = table.groupby(["cohort", "kind", "what"], sort=False).agg(
        steps=("hours", "size"), images=("images", "sum"), seconds_an_image=("unit_s", "mean"), hours=("hours", "sum")
    )
    text = shown_table.reset_index().to_string(index=False, float_format=lambda value: f"{value:.3g}")
    parts = ", ".join(f"{name} {value:.1f}" for name, value in gigabytes(settings).items())
    remember(run_folder(settings.profile, dict(overrides)), settings, len(table), total)
    return (
        f"{text}\n{len(table)} steps, {total:.1f} hours of one worker; {longest:.1f} with {n_workers}, measured on "
        f"{FEW} images each on this machine\ndisk {sum(gigabytes(settings).values()):.1f} GB: {parts}"
    )


def costs(settings: Settings, sizes: Mapping | None = None) -> pd.DataFrame:
    """Every step of a run: cohort, kind, what, images, unit_s (seconds an image), hours.

    Parameters
    ----------
    settings : Settings
    sizes : mapping, optional
        By cohort, as from `counts`; those of the cohorts that are there if left out.
    """
    rows: list[dict] = []
    for name, of in (counts(settings) if sizes is None else sizes).items():
        units = units_of(settings, name, of)
        levels, priced = settings.levels(of["modality"]), units["of every image"]
        for what, (unit, epochs) in units["train"].items():
            for _ in range(of["folds"] * len(settings.train_seeds) * (len(levels) if settings.one_level_each else 1)):
                n = of["train"] * (2 if settings.mirror and not settings.new_noise else 1) * epochs
                rows.append({"cohort": name, "kind": "train", "what": what, "images": n, "unit_s": unit})
        for what, (unit, epochs) in units["reader"].items():
            for _ in range(of["folds"]):
                n = of["read_train"] * epochs
                rows.append({"cohort": name, "kind": "reader", "what": what, "images": n, "unit_s": unit})
        for what, unit in units["images"].items():
            kind = arm_class(what)
            times = (len(settings.train_seeds) if kind.learns else 1) * (settings.samples if kind.stochastic else 1)
            for level in levels:
                n = times * shown(settings, of, level, what)
                for kind_, price in (("images", unit), *priced.items()):
                    rows.append({"cohort": name, "kind": kind_, "what": what, "images": n, "unit_s": price})
    table = pd.DataFrame(rows, columns=["cohort", "kind", "what", "images", "unit_s"])
    return table.assign(hours=table["images"] * table["unit_s"] / 3600)


def units_of(settings: Settings, name: str, of: Mapping) -> dict:
    """Seconds an image of each kind of work on a cohort; (seconds, epochs) of trainings and readers.

    Parameters
    ----------
    settings : Settings
    name : str
    of : mapping
        The cohort's sizes, as in `counts`.
    """
    from fairrecon_core.learn.devices import device_of

    modality, size, device = of["modality"], of["size"], device_of(settings.device)
    pixels = np.random.default_rng(0).random((FEW, size, size)).astype(np.float32)
    names, level = [f"{k}" for k in range(FEW)], settings.audit_level(modality)
    degrade = degradation_of(settings, modality)
    degrading = seconds_of(lambda: degrade(pixels, level, names))
    found: dict = {"train": {}, "reader": {}, "images": {}}
    _, measured = degrade.measure(pixels, level, names)
    for arm in tqdm((*settings.classical, *settings.arms), desc=f"timing arms on {name}", unit="arm"):
        kind = arm_class(arm)
        options = kind.options(settings, modality)
        if kind.learns:
            recipe = kind.recipe(settings) | settings.recipe(kind.name, name, modality)
            options |= {key: value for key, value in recipe.items() if key not in OF_TRAINING}
        made = reconstructor(arm, modality, **options)
        inner = getattr(made, "inner", made)
        inner.device = device
        if kind.learns:
            if settings.train and base_arm(arm) not in found["train"]:
                step = seconds_of(lambda inner=inner: _step(inner, Batch(*_pair(pixels), level, names), device))
                step += degrading if settings.new_noise else 0
                found["train"][base_arm(arm)] = (step, recipe["epochs"])
            inner.ready()
        elif hasattr(inner, "strengths"):
            inner.fixed = inner.grid[0]
        call = lambda made=made: made(pixels, level, image_ids=names, measurement=measured)
        found["images"][arm] = degrading if not kind.reconstructs else seconds_of(call)
    readers = _readers(settings, name, of)
    for what, (reader, epochs) in readers.items():
        reader.device = device
        if settings.train and epochs:
            side = min(reader.crop or size, size)
            target = torch.zeros(FEW, len(reader.tasks)) if reader.tasks else torch.zeros(FEW, 1, side, side)
            batch = Labelled(torch.from_numpy(pixels)[:, None, :side, :side], target, names)
            step = seconds_of(lambda reader=reader, batch=batch: _step(reader, batch, device))
            learn = 1 if reader.held_out else 1 + of["validation"] / of["read_train"]
            found["reader"][what] = (step * learn, epochs)
        reader.ready()
    reading = sum(seconds_of(lambda reader=reader: reader.outputs(pixels)) for reader, _ in readers.values())
    several = np.concatenate([pixels] * quality.CHUNK)  # LPIPS takes so many at a time, or fills up
    lpips = seconds_of(lambda: quality.lpips_of([several], several, device)) / quality.CHUNK
    whole = seconds_of(lambda: quality.measure_arms([several], several, device=device)) / quality.CHUNK
    found["of every image"] = {"reading": reading, "LPIPS": lpips, "other quality": max(0.0, whole - lpips)}
    return found


def _readers(settings: Settings, name: str, of: Mapping) -> dict[str, tuple[Reader, int]]:
    """The readers of a cohort with random weights, and their epochs."""
    from fairrecon_core.predict.classifier import Classifier
    from fairrecon_core.predict.segmenter import Segmenter

    def options(kind: type[Reader], **ours) -> dict:
        return {"epochs": settings.reader_epochs} | ours | settings.recipe(kind.kind, name, of["modality"])

    whole = options(Classifier, backbone=settings.backbone)
    tasks = [f"task {k}" for k in range(of["tasks"])]
    own = {key: value for key, value in whole.items() if key not in OF_TRAINING}
    found: dict[str, tuple[Reader, int]] = {}
    if own["backbone"] == "efficientnet_lite0":
        from fairrecon_core.predict.imagenet import ImageNetReader

        found["imagenet"] = (ImageNetReader(tasks), 0)  # its features are those of reading the clean images
    elif of["modality"] == "xray":
        found["findings"] = (Classifier(tasks, **own), whole["epochs"])
    else:
        found |= {task: (Classifier([task], **own), whole["epochs"]) for task in tasks[:2]}
    if of["masks"]:
        whole = options(Segmenter, width=settings.segmenter_width)
        own = {key: value for key, value in whole.items() if key not in OF_TRAINING}
        found["segmenter"] = (Segmenter(**own), whole["epochs"])
    return found


def _pair(pixels: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.from_numpy(pixels)[:, None]
    return images, images


def _step(network, batch, device: str) -> None:
    """One step of a training, as the loop does it."""
    for module in network.modules().values():
        module.train().to(device)
    for name, loss in network.losses(batch.to(device)):
        loss.backward()
        network.optimizers()[name].step()


def wall_hours(table: pd.DataFrame, n_workers: int, shards: bool = False) -> float:
    """Hours of the steps in `table` with `n_workers`: the longest first, and images after all trainings.

    Of `shards`, which are small, each worker does as many as any other.
    """
    ends = [0.0] * n_workers
    for first in (True, False):
        stage = table[table["kind"].isin(["train", "reader"]) == first]
        ends = [max(ends)] * n_workers if not first else ends
        if shards and not first:
            return max(ends) + stage["hours"].sum() / n_workers
        for hours in sorted(stage["hours"], reverse=True):
            heapq.heapreplace(ends, min(ends) + hours)
    return max(ends)
