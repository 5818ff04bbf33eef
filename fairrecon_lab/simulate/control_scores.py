"""Control arms whose added bias is known: what an audit must not find, and what it must.

Conventions: predictions are a frame with columns `image_id task score` (more are carried along), one row per image and
task; the cohort has one row per image with `y_<task>` and the attributes. A control returns the same rows with other
scores and another `arm`, so it travels through the same tables as any arm. Randomness belongs to the image: it depends
on (seed, task, image_id) alone, so order and number of rows change nothing.
"""

import hashlib

import numpy as np
import pandas as pd
from scipy.stats import norm

from fairrecon_core.audit.metrics import UNKNOWN, intersect, logit, probabilities


def placebo(predictions: pd.DataFrame, cohort: pd.DataFrame, attribute="sex", *, share=0.2, seed=0, arm="placebo"):
    """Give a share of the images the score of somebody like them: much changes, nobody is harmed more than others.

    Each chosen image takes the score of a random image with the same subgroup, recorded label and task. So the law
    of the scores given subgroup and label stays what it was, whatever the gaps of the baseline are: the added bias is
    exactly zero at every threshold, for every rate and for AUROC, while about `share` of the scores are others. (The
    share of decisions that flip may still differ: a rate near one half has more to flip than one near one.)

    Parameters
    ----------
    predictions : DataFrame
        `image_id task score` of one baseline arm.
    cohort : DataFrame
        `image_id`, `y_<task>` and the attribute(s).
    attribute : str or list of str
        Subgroups within which scores are exchanged; several give their intersections, which keeps each of them fair.
    share : float in [0, 1]
        Chance of an image to be changed.

    Returns
    -------
    predictions : DataFrame
        The same rows in the same order, `arm` and `score` replaced.
    """
    _check_share(share)
    table = _with_labels(predictions, cohort, attribute)
    chosen = _uniform(table, seed, "placebo who") < share
    donor = _uniform(table, seed, "placebo donor")
    score = table["score"].to_numpy().copy()
    for rows in table.groupby(["task", "subgroup", "truth"], dropna=False).indices.values():
        pool = rows[np.argsort(table["image_id"].to_numpy()[rows], kind="stable")]  # the order of rows must not matter
        here = rows[chosen[rows]]
        score[here] = table["score"].to_numpy()[pool[(donor[here] * len(pool)).astype(int)]]
    return predictions.assign(arm=arm, score=score)


def blurred(predictions: pd.DataFrame, *, shift=0.0, noise=0.5, seed=0, arm="blurred_reader") -> pd.DataFrame:
    """A reader who sees less well and does not look at whom: logit + shift + noise * N(0, 1), alike for everybody.

    A negative `shift` costs sensitivity. The harm is the same mechanism for every subgroup, yet where the subgroups'
    scores differ before, their rates change by different amounts: blind to the group is not the same as neutral.
    """
    table = _with_labels(predictions, None, None)
    standard_normal = norm.ppf(np.clip(_uniform(table, seed, "blurred"), 1e-12, 1 - 1e-12))
    score = 1 / (1 + np.exp(-(logit(table["score"]) + shift + noise * standard_normal)))
    return predictions.assign(arm=arm, score=score)


def planted(
    predictions: pd.DataFrame, cohort: pd.DataFrame, attribute="sex", subgroup="female", *,
    thresholds, share=0.1, label=1, flip=1, seed=0, arm="planted",
):  # fmt: skip
    """Flip a known share of one subgroup's decisions: an added bias of known size.

    Parameters
    ----------
    predictions, cohort, attribute
        As in `placebo`.
    subgroup : str
        Whose decisions are flipped.
    thresholds : dict or float
        Threshold of each task (or of all): a flipped score is mirrored to its other side on the logit scale.
    share : float in [0, 1]
        Chance of each such decision to be flipped.
    label : {1, 0, None}
        Flip only where the recorded label is this; None: both.
    flip : {1, 0, None}
        Flip only decisions that are this (1 with label 1: true positives become misses); None: both.

    Returns
    -------
    predictions : DataFrame
        The same rows in the same order, `arm` and `score` replaced. The rate of the subgroup changes by
        `planted_change(rate, share, flip)`, that of everybody else by exactly 0.

    Raises
    ------
    ValueError
        If the subgroup does not occur, a threshold is missing, or the share is outside [0, 1].
    """
    _check_share(share)
    table = _with_labels(predictions, cohort, attribute)
    if subgroup not in set(table["subgroup"]):
        raise ValueError(f"no subgroup {subgroup!r}; there are {sorted(set(table['subgroup']))}")
    cut = _thresholds(thresholds, table["task"])
    score = table["score"].to_numpy()
    decision = score >= cut
    chosen = (table["subgroup"] == subgroup).to_numpy() & (_uniform(table, seed, "planted") < share)
    if label is not None:
        chosen &= table["truth"].to_numpy() == label
    if flip is not None:
        chosen &= decision == bool(flip)
    mirrored = 1 / (1 + np.exp(logit(score, 1e-12) - 2 * logit(cut, 1e-12)))
    below, above = np.minimum(mirrored, np.nextafter(cut, 0)), np.maximum(mirrored, cut)
    return predictions.assign(arm=arm, score=np.where(chosen, np.where(decision, below, above), score))


def planted_change(rate: float, share: float, flip: int | None = 1) -> float:
    """Expected change of a rate (TPR or FPR) when a share of the decisions is flipped.

    Only positive decisions (`flip=1`): -share * rate. Only negative ones (0): share * (1 - rate). Both (None):
    share * (1 - 2 rate), which is why blind flipping shrinks a rate above one half and raises one below.

    Examples
    --------
    >>> planted_change(0.8, share=0.125)
    -0.1
    """
    _check_share(share)
    return {1: -share * rate, 0: share * (1 - rate), None: share * (1 - 2 * rate)}[flip]


def _with_labels(predictions: pd.DataFrame, cohort: pd.DataFrame | None, attribute) -> pd.DataFrame:
    """`image_id task score`, and with a cohort `subgroup truth`, in the order of the predictions."""
    table = pd.DataFrame({name: predictions[name].to_numpy() for name in ("image_id", "task", "score")})
    probabilities(table["score"])
    if table.duplicated(["image_id", "task"]).any():
        raise ValueError("a control arm is made from one baseline arm: pass one row per image and task")
    if cohort is None:
        return table
    by_image = cohort.drop_duplicates("image_id").set_index("image_id")
    unmatched = ~table["image_id"].isin(by_image.index)
    if unmatched.any():
        example = table["image_id"][unmatched].iloc[0]
        raise ValueError(f"{int(unmatched.sum())} predictions have no image in the cohort, e.g. {example!r}")
    group = intersect(by_image, attribute)[1].reindex(table["image_id"]).to_numpy()
    table["subgroup"] = pd.Series(group).fillna(UNKNOWN)
    table["truth"] = np.nan
    for task, rows in table.groupby("task").indices.items():
        if f"y_{task}" not in by_image:
            raise ValueError(f"the cohort has no labels 'y_{task}'; its columns are {list(cohort.columns)}")
        table.loc[rows, "truth"] = by_image[f"y_{task}"].reindex(table["image_id"].iloc[rows]).to_numpy(dtype=float)
    return table


def _thresholds(thresholds, task: pd.Series) -> np.ndarray:
    """One threshold per row, from a number or a dict by task."""
    if np.isscalar(thresholds):
        return np.full(len(task), float(thresholds))
    cut = task.map(thresholds).astype(float)
    if cut.isna().any():
        raise ValueError(f"no threshold for task {task[cut.isna()].iloc[0]!r}; there are {sorted(thresholds)}")
    return cut.to_numpy()


def _uniform(table: pd.DataFrame, seed: int, purpose: str) -> np.ndarray:
    """One number in (0, 1) per row that depends on (seed, purpose, task, image_id) alone."""
    out = np.empty(len(table))
    for task, rows in table.groupby("task").indices.items():
        key = hashlib.sha256(f"{seed}|{purpose}|{task}".encode()).hexdigest()[:16]
        names = table["image_id"].iloc[rows].astype(str).to_numpy(dtype=object)
        out[rows] = ((pd.util.hash_array(names, hash_key=key) >> np.uint64(11)) + 0.5) / 2.0**53
    return out


def _check_share(share: float) -> None:
    if not 0 <= share <= 1:
        raise ValueError(f"share should be in [0, 1], got {share}")
