"""Control arms made of images: what an audit must not find (`placebo`), and what it must (`planted`).

A control shows some patients the clean image of somebody else. In `placebo` the other is of the same subgroups and has
the same recorded labels, so images given subgroup and labels have the law they had: the added bias is zero by
construction, for every reader, task and threshold, though many scores move. In `planted` a share of one subgroup's
images with a finding give way to images of the same subgroup without it, as if they had been reconstructed away: the
subgroup's TPR changes by `planted_change(tpr, fpr, share)`, that of all others by exactly nothing.
Conventions: a table has one row per image (`image_id patient_id`, attributes, `y_<task>`); donors are row positions in
it. Randomness belongs to the image: it follows from (seed, image_id), and order does not matter.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import pandas as pd

CONTROLS = ("placebo", "planted")
NOT_RECONSTRUCTED = ("clean", *CONTROLS)  # arms that show images of the cohort as they are
MASK_MOVES = ("placebo",)  # whose mask is the other patient's too
ATTRIBUTES = ("sex", "age_group", "race")
PREFERRED = ("tumour_grade", "pleural_effusion")  # tasks to plant a bias in


def donors(control: str, table: pd.DataFrame, task: str, *, share: float, seed: int) -> np.ndarray:
    """Whose clean image each row of `table` shows in the arm `control`; `planted` harms `task`.

    `share` and `seed` as in `placebo_donors`.
    """
    if control == "placebo":
        return placebo_donors(table, share=share, seed=seed)
    return planted_donors(table, task, share=share, seed=seed)


def planted_task(table: pd.DataFrame) -> str:
    """The task that `planted` harms: a preferred one that `table` has, or the one with the most balanced labels.

    Raises
    ------
    ValueError
        There is no task with positive and negative labels.
    """
    tasks = [column[2:] for column in table if column.startswith("y_")]
    smaller = {task: int(min((table[f"y_{task}"] == label).sum() for label in (0, 1))) for task in tasks}
    for task in PREFERRED:
        if smaller.get(task):
            return task
    if not any(smaller.values()):
        raise ValueError(f"no task with positive and negative labels among {tasks}: nothing to plant a bias in")
    return max(smaller, key=smaller.__getitem__)


def placebo_donors(table: pd.DataFrame, *, attributes: Sequence[str] = ATTRIBUTES, share=0.3, seed=0) -> np.ndarray:
    """Whose clean image each row shows in `placebo`.

    Parameters
    ----------
    table : DataFrame
        The images of one split.
    attributes : sequence of str
        The other is alike in all of these, and in every `y_<task>`.
    share : float in [0, 1]
        Chance of an image to be exchanged; one that has no like stays.
    seed : int

    Returns
    -------
    ndarray of int, shape (len(table),)
        Positions in `table`; its own for those that stay.

    Raises
    ------
    ValueError
        A share outside [0, 1].
    """
    _check_share(share)
    donors, chosen = np.arange(len(table)), _uniform(table, seed, "placebo who") < share
    pick = _uniform(table, seed, "placebo donor")
    alike = [*attributes, *(column for column in table if column.startswith("y_"))]
    names = table["image_id"].astype(str).to_numpy()
    for rows in table.reset_index(drop=True).groupby(alike, dropna=False, observed=True).indices.values():
        pool = rows[np.argsort(names[rows])]
        here = rows[chosen[rows]]
        donors[here] = pool[(pick[here] * len(pool)).astype(int)]
    return donors


def planted_donors(
    table: pd.DataFrame, task: str, *, attribute: str = "sex", subgroup: str = "female", share=0.3, seed=0
) -> np.ndarray:
    """Whose clean image each row shows in `planted`.

    Parameters
    ----------
    table : DataFrame
        The images of one split.
    task : str
        Positive images of this task, in this subgroup, are exchanged.
    attribute, subgroup : str
        Whom the planted bias harms.
    share : float in [0, 1]
        Chance of such an image to be exchanged.
    seed : int

    Returns
    -------
    ndarray of int, shape (len(table),)
        Positions in `table`; its own for those that stay. The other has the task negative and, among those, as many of
        the other labels alike as can be had.

    Raises
    ------
    ValueError
        No such task or subgroup, nobody in it without the finding, or a share outside [0, 1].
    """
    _check_share(share)
    if f"y_{task}" not in table:
        raise ValueError(f"no task {task!r}; there are {[c[2:] for c in table if c.startswith('y_')]}")
    members = (table[attribute] == subgroup).to_numpy()
    label = table[f"y_{task}"].to_numpy(dtype=float)
    negative = np.flatnonzero(members & (label == 0))
    chosen = np.flatnonzero(members & (label == 1) & (_uniform(table, seed, "planted who") < share))
    if not members.any() or (len(chosen) and not len(negative)):
        raise ValueError(
            f"cannot plant: {members.sum()} images of {subgroup!r}, {len(negative)} of them without {task}"
        )
    labels = table[[c for c in table if c.startswith("y_") and c != f"y_{task}"]].to_numpy(dtype=float)
    labels = np.nan_to_num(labels, nan=0.5)
    luck = _uniform(table, seed, "planted donor")
    donors = np.arange(len(table))
    for row in chosen:
        distance = np.abs(labels[negative] - labels[row]).sum(axis=1)
        nearest = negative[distance == distance.min()]
        donors[row] = nearest[int(luck[row] * len(nearest))]
    return donors


def planted_change(tpr: float, fpr: float, share: float) -> float:
    """Expected change of the subgroup's TPR: a share of its hits becomes what its negatives get."""
    return -share * (tpr - fpr)


def _uniform(table: pd.DataFrame, seed: int, stream: str) -> np.ndarray:
    """One number in [0, 1) per image, from (seed, stream, image_id)."""
    text = (f"{seed}\0{stream}\0{name}".encode() for name in table["image_id"])
    return np.array([int.from_bytes(hashlib.sha256(t).digest()[:8], "big") / 2**64 for t in text])


def _check_share(share: float) -> None:
    if not 0 <= share <= 1:
        raise ValueError(f"a share is in [0, 1], got {share!r}")
