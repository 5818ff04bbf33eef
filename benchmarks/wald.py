"""An independent way to the audit's standard errors: ordinary least squares, clustered by patient."""

import numpy as np


def cluster_robust_did(difference, group, patient, reference: int = 0, correction: str | None = "groups"):
    """Cluster-robust (Wald) difference in differences: OLS of arm minus baseline on group, clustered by patient.

    Parameters
    ----------
    difference : array, shape (rows,)
        Arm minus baseline, for example of two 0 / 1 decisions.
    group : int array, shape (rows,), from 0
    patient : array, shape (rows,)
    reference : int
    correction : {"groups", "statsmodels", None}
        Small-sample factor: n / (n - 1) patients of each group; P / (P - 1) x (N - 1) / (N - G) as in statsmodels;
        or none.

    Returns
    -------
    did, se : float64, shape (groups,); the reference is 0 and NaN
    """
    difference, group = np.asarray(difference, dtype=float), np.asarray(group)
    ids, codes = np.unique(np.asarray(patient), return_inverse=True)
    n_groups, n_rows = int(group.max()) + 1, np.bincount(group)
    mean = np.bincount(group, difference) / n_rows
    influence = np.zeros((len(ids), n_groups))  # of each patient on each group's mean
    np.add.at(influence, (codes, group), (difference - mean[group]) / n_rows[group])
    inside = np.zeros((len(ids), n_groups), dtype=bool)
    inside[codes, group] = True
    n = inside.sum(axis=0)
    if correction == "groups":
        influence = influence * np.sqrt(n / (n - 1))
    factor = (
        len(ids) / (len(ids) - 1) * (len(group) - 1) / (len(group) - n_groups) if correction == "statsmodels" else 1
    )
    se = np.sqrt(((influence - influence[:, [reference]]) ** 2).sum(axis=0) * factor)
    se[reference] = np.nan
    return mean - mean[reference], se
