"""How a reader learns: on the clean images of a cohort's train split and their recorded labels, or masks."""

from pathlib import Path

import numpy as np
import pandas as pd

from fairrecon_core.cohort.folder import Cohort
from fairrecon_core.learn.rows import images_of, learning_rows
from fairrecon_core.predict.readers import Reader, labelled

READER_RATE = 1e-3  # learning rate


def train_reader(
    reader: Reader, cohort: Cohort, *, folder: str | Path, fold: int = 0, seed: int = 0,
    batch_size: int | None = None, augment: bool = False, mirror: bool = True, **options,
) -> pd.DataFrame:  # fmt: skip
    """Train a reader on a cohort's train split; the table of losses. The best weights stay in the reader.

    A reader with nobody `held_out` learns from the validation split as well, and keeps the last weights.

    Parameters
    ----------
    reader : Reader
        A classifier learns the recorded labels of its tasks, columns `y_<task>` of the cohort; a segmenter the masks.
    cohort, folder, fold, seed
        As in `train_reconstructor`.
    batch_size : int, optional
        The reader's own if left out: 16 for a classifier, 8 for a segmenter.
    augment, mirror : bool
        As in `predict.labelled`, where `mirror` is `flips`.
    **options
        Of `learn.loop.fit`, and `start`: weights to begin with.

    Raises
    ------
    ValueError
        No images (with a label) in train or validation, or a cohort without masks.
    """
    images, targets = [], []
    learn, choose = (learning_rows(cohort, split, "prediction", fold) for split in ("train", "validation"))
    if not reader.held_out:  # validation has one image, for a loss that nobody looks at
        learn, choose = np.union1d(learn, choose), choose[:1]
    for split, of_split in (("train", learn), ("validation", choose)):
        rows, found = reader.training_targets(cohort, of_split)
        if not len(rows):
            wanted = f"a label of {reader.tasks}" if reader.tasks else "a mask"
            raise ValueError(
                f"cohort {cohort.name!r} has no {split} image with {wanted}: a {reader.kind} cannot learn from it"
            )
        images.append(images_of(cohort, rows))
        targets.append(found)
    reader.prepare(targets[0])
    size, of_both = batch_size or reader.batch_size, (images[0], targets[0], images[1], targets[1])
    draw = labelled(*of_both, batch_size=size, seed=seed, flips=mirror, augment=augment, crop=reader.crop)
    return reader.fit(draw, seed=seed, folder=folder, **options)
