"""Reading the arms with frozen readers.

Rows go to the tables `predictions` (key, task, score) and `overlap` (key, pixels of mask and prediction); Dice follows
from these.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from fairrecon_core.predict.classifier import Classifier
from fairrecon_core.predict.segmenter import Segmenter


def read_arm(
    batches: Iterable[tuple], classifiers: Iterable[Classifier] = (), segmenter: Segmenter | None = None, **key
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Run frozen readers over one arm, batch after batch, keeping scores but no images.

    Parameters
    ----------
    batches : iterable of (images, image_ids) or (images, image_ids, masks)
        Images (B, H, W) in [0, 1]; masks of bool where a segmenter reads.
    classifiers : iterable of Classifier
    segmenter : Segmenter, optional
    **key
        `cohort`, `arm`, `level`, and `fold`, `train_seed`, `sample` (0 by default).

    Returns
    -------
    predictions, overlap : DataFrame
        Rows of those tables; a frame without rows where nothing was asked for.

    Raises
    ------
    ValueError
        An image holds a value that is not finite.
    """
    key = {"fold": 0, "train_seed": 0, "sample": 0} | key
    predictions, overlaps, classifiers = [], [], list(classifiers)
    for images, image_ids, *masks in batches:
        images = np.asarray(images, dtype=np.float32)
        if not np.isfinite(images).all():
            raise ValueError(f"arm {key.get('arm')!r} holds an image that is not finite, among {list(image_ids)[:3]}")
        head = {"image_id": list(map(str, image_ids))} | key
        for classifier in classifiers:
            scores = classifier.scores(images)
            predictions += [
                pd.DataFrame(head | {"task": task, "score": scores[:, k]}) for k, task in enumerate(classifier.tasks)
            ]
        if segmenter is not None:
            found, truth = segmenter.masks(images), np.asarray(masks[0], dtype=bool)
            counts = {"intersection": found & truth, "predicted": found, "actual": truth}
            overlaps.append(pd.DataFrame(head | {name: part.sum(axis=(1, 2)) for name, part in counts.items()}))
    columns = ["image_id", *key]
    join = lambda parts, more: pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns + more)
    return join(predictions, ["task", "score"]), join(overlaps, ["intersection", "predicted", "actual"])
