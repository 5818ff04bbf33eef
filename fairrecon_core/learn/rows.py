"""Whom a network learns from: rows and images of a cohort's split."""

import numpy as np

from fairrecon_core.cohort.folder import Cohort
from fairrecon_core.learn.loop import Images


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


def images_of(cohort: Cohort, rows) -> Images:
    """Clean images of some rows, as they are stored, and their names."""
    return Images(cohort.images[rows], list(cohort.table["image_id"].iloc[rows]))


def spread(images: Images, n: int) -> Images:
    """At most `n` of the images, evenly spread."""
    rows = np.unique(np.linspace(0, len(images) - 1, n).round().astype(int))
    return Images(images.pixels[rows], [images.names[row] for row in rows])


def with_mirrored(images: Images) -> Images:
    """Every image, and its mirror image under a name of its own."""
    pixels = np.concatenate([images.pixels, images.pixels[..., ::-1]])
    return Images(pixels, [*images.names, *(f"{name}~mirrored" for name in images.names)])
