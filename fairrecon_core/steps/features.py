"""The step that asks the frozen ImageNet network: features of images, kept while they are current."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from fairrecon_core.predict.imagenet import ImageNetReader
from fairrecon_core.steps.folder import write_json
from fairrecon_core.steps.setup import Setup, product_folder
from fairrecon_core.steps.siblings import taken_over
from fairrecon_core.steps.stamps import Stamp, read_stamp, stamp, why
from fairrecon_core.tables import unfinished


def kept_features(setup: Setup, path: Path, made_from: Stamp, batches: Callable[[], Iterable]) -> np.ndarray:
    """Features (n, 1280), read from `path` while they are current, else made.

    Parameters
    ----------
    setup, path, made_from : Setup, Path, Stamp
        Whose they are, where they lie, and what the images were made from.
    batches : callable
        Gives the images (b, H, W).
    """
    made_from = made_from | stamp(ImageNetReader)
    mark = path.with_suffix(".json")
    reason = why((read_stamp(path) or {}).get("stamp"), made_from)
    if reason and not taken_over(setup.run.folder, mark, made_from, beside=lambda found: [path.name]):
        setup.run.remade(f"features of {path.parent.parent.name} for {setup.cohort.name}", reason)
        mark.unlink(missing_ok=True)  # features and their stamp never disagree
        path.parent.mkdir(parents=True, exist_ok=True)
        part, frozen = unfinished(path), setup.placed(ImageNetReader([]))
        with part.open("wb") as stream:
            np.save(stream, np.concatenate([frozen.outputs(images).numpy() for images in batches()]))
        part.replace(path)
        write_json(mark, {"stamp": made_from})
    return np.load(path)


def clean_features(setup: Setup) -> np.ndarray:
    """Features of all clean images of a cohort, row by row: asked once, whatever the fold."""
    cohort, rows = setup.cohort, np.arange(len(setup.cohort))
    batches = lambda: (cohort.images_at(rows[part]) for part in setup.chunks(rows))
    path, made_from = product_folder(setup, "clean") / "features.npy", stamp(cohort=cohort.info["content_hash"])
    return kept_features(setup, path, made_from, batches)
