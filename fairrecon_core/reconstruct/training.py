"""How a reconstructor learns: on the clean images of a cohort's train split, degraded as they are drawn.

It is stopped at its best validation loss. What an arm wants from its training stands on its class.
"""

from pathlib import Path

import pandas as pd

from fairrecon_core.cohort.folder import Cohort
from fairrecon_core.degrade import Degradation, Degrades
from fairrecon_core.degrade.cached import CachedDegradation
from fairrecon_core.learn.rows import images_of, learning_rows, spread, with_mirrored
from fairrecon_core.reconstruct.network import NetworkReconstructor


def train_reconstructor(
    network: NetworkReconstructor, cohort: Cohort, degradation: Degradation, levels, *, folder: str | Path,
    fold: int = 0, cache: str | Path | None = None, made_from: dict | None = None, mirror: bool = False,
    n_validation: int = 128, seed: int = 0, **options,
) -> pd.DataFrame:  # fmt: skip
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
    cache : path, optional
        Degrade each image once per level and keep it here; otherwise anew in every epoch.
    made_from : dict, optional
        Stamp of the degraded images, as in `CachedDegradation`.
    mirror : bool
        What is kept includes every image's mirror image: an epoch is twice as long. Without a cache, half of an
        epoch's images are mirrored.
    n_validation : int
        Validation images, evenly spread; 0: all.
    seed : int
    **options
        Of `learn.loop.fit` and `pairs`: epochs, patience, batch_size, precision, ...

    Raises
    ------
    ValueError
        The cohort has no train or no validation images for reconstructors.
    """
    images = lambda split: images_of(cohort, learning_rows(cohort, split, "reconstruction", fold))
    train, validation = images("train"), images("validation")
    validation = spread(validation, n_validation) if n_validation else validation
    flips = mirror and cache is None
    used: Degrades = degradation
    if cache is not None:
        train = with_mirrored(train) if mirror else train
        names, size, seed_of_noise = [*train.names, *validation.names], cohort.images.shape[-1], cohort.info["seed"]
        used = CachedDegradation(degradation, names, size, cache, seed=seed_of_noise, made_from=made_from)
    return network.fit(train, validation, used, levels, seed=seed, flips=flips, folder=folder, **options)
