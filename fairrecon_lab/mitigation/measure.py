"""What a frozen reader and a ruler say of each reconstructed image: score, PSNR, contrast of the finding.

A *reading* is one row per image and network. The contrast is exact, because the simulator draws the same patient with
and without the finding: with d their difference and r the reconstruction less the image without, it is
(r . d) / (d . d), 1 where the finding is kept whole, 0 where it is gone. Conventions: images (n, H, W) in [0, 1].
"""

import numpy as np
import pandas as pd

from fairrecon_core.audit.metrics import dice
from fairrecon_core.predict.quality import psnr_db


def lesion_contrast(images, clean, without) -> np.ndarray:
    """Share of the finding that is left in each image.

    Parameters
    ----------
    images, clean, without : arrays, shape (n, H, W)
        Reconstructed, clean, and clean without the finding.

    Returns
    -------
    ndarray, shape (n,)
        NaN where the finding shows in no pixel.
    """
    difference = np.asarray(clean, float) - np.asarray(without, float)
    energy = (difference**2).sum(axis=(1, 2))
    left = ((np.asarray(images, float) - np.asarray(without, float)) * difference).sum(axis=(1, 2))
    return np.where(energy > 0, left / np.where(energy > 0, energy, 1), np.nan)


def readings(images, clean, without, table: pd.DataFrame, scores, task: str, **key) -> pd.DataFrame:
    """One row per image: `image_id`, the `key` (arm, train_seed, ...), `task`, `score`, `psnr_db`, `contrast`.

    Parameters
    ----------
    images, clean, without : arrays, shape (n, H, W)
        As in `lesion_contrast`.
    table : DataFrame
        `image_id` of each.
    scores : array, shape (n,)
        Of the frozen reader on `images`.
    task : str
    """
    psnr = [psnr_db(image.clip(0, 1), truth) for image, truth in zip(np.asarray(images), np.asarray(clean))]
    left = lesion_contrast(images, clean, without)
    made = {"image_id": table["image_id"].to_numpy(), **key, "task": task, "score": scores}
    return pd.DataFrame(made | {"psnr_db": psnr, "contrast": left})


def overlaps(predicted, actual) -> dict[str, np.ndarray]:
    """What a segmenter marked in each image beside the truth.

    Parameters
    ----------
    predicted, actual : bool arrays, shape (n, H, W)

    Returns
    -------
    dict
        intersection, predicted, actual: pixels; dice: NaN where both masks are empty. Each of shape (n,).
    """
    parts = {"intersection": predicted & actual, "predicted": predicted, "actual": actual}
    pixels = {name: part.sum(axis=(1, 2)) for name, part in parts.items()}
    return pixels | {"dice": dice(**pixels)}
