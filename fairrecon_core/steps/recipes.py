"""How each network of the series is trained: what a run needs to make its own weights, and how ours were made.

One table of recipes, two functions. A network is trained on the clean images of a cohort's train split, degraded as
they are drawn (or remembered, `degrade.remembered`), and stopped at its best validation loss.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from fairrecon_core.cohort.folder import Cohort
from fairrecon_core.degrade import Degradation
from fairrecon_core.degrade.cached import Remembered
from fairrecon_core.learn.loop import Images
from fairrecon_core.predict.readers import Classifier, Reader, labelled, positive_weights
from fairrecon_core.reconstruct.unet import NetworkReconstructor

RECIPES = {  # of a short training on a CPU; the paper's long one has 1e-4 (U-Net, SDE) and no decay
    "unet": {"learning_rate": 1e-3, "decay": True},
    "pix2pix": {"learning_rate": 5e-4},
    "sde": {"learning_rate": 1e-3, "decay": True, "average": 0.995},
}
READER_RATE = 1e-3


def train_reconstructor(
    network: NetworkReconstructor,
    cohort: Cohort,
    degradation: Degradation,
    levels,
    *,
    folder: str | Path,
    fold: int = 0,
    remember: str | Path | None = None,
    mirror: bool = False,
    n_validation: int = 128,
    seed: int = 0,
    **options,
) -> pd.DataFrame:
    """Train a network on a cohort's train split; the table of losses. The best weights stay in the network.

    Parameters
    ----------
    network : NetworkReconstructor
    cohort : Cohort
    degradation : Degradation
    levels : sequence of float
    folder : path
        State after each epoch, so that a second call goes on.
    fold : int
        Whose train and validation patients.
    remember : path, optional
        Degrade each image once per level and keep it here; otherwise anew in every epoch, half of them mirrored.
    mirror : bool
        What is remembered includes every image's mirror image: an epoch is twice as long.
    n_validation : int
        Validation images, evenly spread.
    seed : int
    **options
        Of `training.fit` and `pairs`: epochs, patience, batch_size, precision, ...

    Raises
    ------
    ValueError
        The cohort has no train or no validation images for reconstructors.
    """
    train, validation = (_images(cohort, split, "reconstruction", fold) for split in ("train", "validation"))
    validation = _spread(validation, n_validation)
    flips = remember is None
    if remember is not None:
        train = _with_mirrored(train) if mirror else train
        names = [*train.names, *validation.names]
        degradation = Remembered(degradation, names, cohort.images.shape[-1], remember, seed=cohort.info["seed"])
    return network.fit(train, validation, degradation, levels, seed=seed, flips=flips, folder=folder, **options)


def train_reader(
    reader: Reader,
    cohort: Cohort,
    *,
    folder: str | Path,
    fold: int = 0,
    seed: int = 0,
    batch_size: int | None = None,
    augment: bool = False,
    **options,
) -> pd.DataFrame:
    """Train a reader on a cohort's train split; the table of losses. The best weights stay in the reader.

    Parameters
    ----------
    reader : Reader
        A classifier learns the recorded labels of its tasks, columns `y_<task>` of the cohort; a segmenter the masks.
    cohort, folder, fold, seed
        As in `train_reconstructor`.
    batch_size : int, optional
        The reader's own if left out: 16 for a classifier, 8 for a segmenter.
    augment : bool
        As in `predict.labelled`.
    **options
        Of `training.fit`, and `start`: weights to begin with.

    Raises
    ------
    ValueError
        No images (with a label) in train or validation, or a cohort without masks.
    """
    parts = []
    for split in ("train", "validation"):
        rows, targets = reader.lesson(cohort, learning_rows(cohort, split, "prediction", fold))
        if not len(rows):
            raise ValueError(
                f"cohort {cohort.name!r} has no {split} image with a label of {reader.tasks}: "
                f"a {reader.kind} cannot learn from it"
            )
        parts += [_at(cohort, rows), targets]
    if isinstance(reader, Classifier):
        reader.positive_weight = reader.positive_weight.new_tensor(positive_weights(parts[1]))
    draw = labelled(*parts, batch_size=batch_size or reader.batch_size, seed=seed, flips=True, augment=augment)
    return reader.fit(draw, seed=seed, folder=folder, **options)


def learning_rows(cohort: Cohort, split: str, role: str, fold: int = 0) -> np.ndarray:
    """Rows of the cohort to learn from.

    Parameters
    ----------
    cohort : Cohort
    split, role, fold
        As in `Cohort.select`.

    Raises
    ------
    ValueError
        There are none; the message has the way out.
    """
    rows = cohort.select(split, role, fold)
    if not len(rows):
        way_out = f"add {split!r} to the setting `splits` and make the cohort again (notebook 01)"
        if "excerpt_of" in cohort.info:
            way_out = "the shipped example is not there to learn from, run notebook 01 first (--only 01 04, for 04)"
        raise ValueError(f"cohort {cohort.name!r} has no {split} images for {role}: {way_out}")
    return rows


def _at(cohort: Cohort, rows) -> Images:
    return Images(cohort.images[rows], list(cohort.table["image_id"].iloc[rows]))


def _images(cohort: Cohort, split: str, role: str, fold: int) -> Images:
    return _at(cohort, learning_rows(cohort, split, role, fold))


def _spread(images: Images, n: int) -> Images:
    rows = np.unique(np.linspace(0, len(images) - 1, n).round().astype(int))
    return Images(images.pixels[rows], [images.names[row] for row in rows])


def _with_mirrored(images: Images) -> Images:
    """Every image, and its mirror image under a name of its own."""
    pixels = np.concatenate([images.pixels, images.pixels[..., ::-1]])
    return Images(pixels, [*images.names, *(f"{name}~mirrored" for name in images.names)])
