"""Thresholds: from scores to decisions.

Conventions: a decision is 1 where score >= threshold. A threshold is chosen among the observed scores, each tie as a
whole. Where it is chosen decides what a change means, so every result carries the name of its policy:

`validation_frozen`    on validation images of the baseline arm, then used for every arm: what happens when a
                       reconstruction is dropped into a running clinic (default).
`validation_per_arm`   on validation images of each arm: what happens after retuning, which hides a drift of scores.
`test_per_arm`         on the test labels of each arm: what the published code does.
`test_frozen`          on the test labels of the baseline, then used for every arm: where nothing else is at hand.
Source: the published rule is the point of the ROC curve where sensitivity and specificity are closest.
"""

import numpy as np

from fairrecon_core.audit.metrics import probabilities

POLICIES = ("validation_frozen", "validation_per_arm", "test_per_arm", "test_frozen")
RULES = {  # cost from TPR, FPR and prevalence p; the smallest wins, the highest threshold on ties
    "sens_spec": lambda tpr, fpr, p: np.abs((1 - fpr) - tpr),
    "youden": lambda tpr, fpr, p: fpr - tpr,
    "f1": lambda tpr, fpr, p: -2 * p * tpr / (p * tpr + (1 - p) * fpr + p),
    "specificity_90": lambda tpr, fpr, p: np.where(fpr <= 0.1 + 1e-12, -tpr, np.inf),
}


def choose_threshold(scores, truth, rule: str = "sens_spec") -> float:
    """Choose the cut that serves a rule best on these images.

    Parameters
    ----------
    scores : array-like, shape (n,)
        Probabilities in [0, 1].
    truth : array-like, shape (n,)
        Recorded labels 0 and 1; NaN is left out.
    rule : {"sens_spec", "youden", "f1", "specificity_90"}
        Sensitivity closest to specificity (published); largest TPR - FPR; largest F1; largest TPR at an FPR of at
        most 10 %.

    Returns
    -------
    threshold : float
        One of the scores, or just above the largest of them; NaN where one of the labels does not occur.

    Raises
    ------
    ValueError
        If the rule is unknown, lengths differ, or a score is NaN or outside [0, 1].

    Examples
    --------
    >>> choose_threshold([0.1, 0.4, 0.6, 0.9], [0, 0, 1, 1])
    0.6
    """
    if rule not in RULES:
        raise ValueError(f"unknown rule {rule!r}; choose one of {sorted(RULES)}")
    threshold, tpr, fpr, prevalence = roc_points(scores, truth)
    if not threshold.size:
        return np.nan
    return float(threshold[np.argmin(RULES[rule](tpr, fpr, prevalence))])


def roc_points(scores, truth) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Every distinct threshold from high to low with its TPR and FPR, and the prevalence of `truth` 1.

    Empty without both labels; ValueError if `scores` and `truth` differ in shape or a score is no probability.
    """
    scores, truth = probabilities(scores), np.asarray(truth, dtype=float)
    if scores.shape != truth.shape:
        raise ValueError(f"one label per score expected, got {truth.shape} for {scores.shape}")
    scores, truth = scores[~np.isnan(truth)], truth[~np.isnan(truth)]
    n_positive, n_negative = int((truth == 1).sum()), int((truth == 0).sum())
    if not n_positive or not n_negative:
        return np.empty(0), np.empty(0), np.empty(0), np.nan
    order = np.argsort(-scores, kind="stable")
    last_of_tie = np.flatnonzero(np.diff(-scores[order], append=np.inf) != 0)
    true_positive = np.cumsum(truth[order])[last_of_tie]
    false_positive = last_of_tie + 1 - true_positive
    nobody = np.nextafter(scores[order[0]], 2)
    threshold = np.concatenate([[nobody], scores[order][last_of_tie]])
    tpr = np.concatenate([[0], true_positive / n_positive])
    return threshold, tpr, np.concatenate([[0], false_positive / n_negative]), n_positive / (n_positive + n_negative)
