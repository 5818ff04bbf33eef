"""Is a difference between subgroups still there among patients who are alike otherwise?

A subgroup may lose more in a reconstruction because its tumours are smaller or its scanner is another one. `adjusted`
compares subgroups at equal values of such confounders by linear regression. It answers "would the difference vanish
if the groups had the same tumours", not "is it fair": a confounder may itself be how the harm comes about.
Source: Frisch-Waugh-Lovell; cluster-robust variance of Liang and Zeger 1986 times patients / (patients - 1).
"""

import numpy as np
import pandas as pd
from scipy.stats import t as student

from fairrecon_core.audit.engine import patient_codes
from fairrecon_core.audit.metrics import UNKNOWN


def adjusted(
    difference, subgroup, patient_id, confounders: pd.DataFrame | None = None, *, reference: str, alpha: float = 0.05
) -> pd.DataFrame:
    """Mean paired difference of each subgroup less that of the reference, at equal confounders.

    Parameters
    ----------
    difference : array, shape (rows,)
        Arm minus baseline of each image: of Dice, of a logit, of PSNR. NaN rows are left out.
    subgroup : array of str, shape (rows,)
        "unknown" is left out.
    patient_id : array, shape (rows,)
        Rows of one patient count as one.
    confounders : DataFrame, shape (rows, any), optional
        Numbers enter linearly, text as categories (levels of fewer than 3 patients are pooled); rows with a missing
        value are left out, here and in the unadjusted estimate beside it.
    reference : str
    alpha : float

    Returns
    -------
    DataFrame
        One row per subgroup but the reference: `subgroup`, `unadjusted`, `value` (adjusted), `ci_low`, `ci_high`, `se`,
        `n_patients`, `n_confounders` (columns after coding), and `why_not`: where confounders leave nothing to compare
        (no positivity: nobody of one subgroup is like anybody of the others), the numbers are NaN and the reason
        stands here, with the confounder that tells the subgroups apart by itself; else empty.

    Raises
    ------
    ValueError
        The reference does not occur, or lengths differ.
    """
    frame = pd.DataFrame(
        {"difference": np.asarray(difference, dtype=float), "subgroup": np.asarray(subgroup, dtype=object)}
    )
    frame["patient"] = np.asarray(patient_id)
    others = pd.DataFrame(index=frame.index) if confounders is None else confounders.reset_index(drop=True)
    if len(others) != len(frame):
        raise ValueError(f"{len(frame)} differences and {len(others)} rows of confounders")
    known = frame["difference"].notna() & (frame["subgroup"] != UNKNOWN) & others.notna().all(axis=1)
    frame, others = frame[known], others[known]
    if reference not in set(frame["subgroup"]):
        raise ValueError(f"no reference subgroup {reference!r} among {sorted(set(frame['subgroup']))}")
    groups = [name for name in sorted(set(frame["subgroup"])) if name != reference]
    dummies = np.stack([(frame["subgroup"] == name).to_numpy(float) for name in groups], axis=1)
    coded = _coded(others, frame["patient"])
    plain = _fit(dummies, np.zeros((len(frame), 0)), frame)[0]
    value, se, n_patients = _fit(dummies, coded, frame)
    half = student.ppf(1 - alpha / 2, max(n_patients - dummies.shape[1] - coded.shape[1] - 1, 1)) * se
    columns = {"subgroup": groups, "unadjusted": plain, "value": value, "ci_low": value - half, "ci_high": value + half}
    columns |= {"se": se, "n_patients": n_patients, "n_confounders": coded.shape[1]}
    return pd.DataFrame(
        columns | {"why_not": [_why_not(k, dummies, others, frame["patient"]) for k in range(len(groups))]}
    )


def _why_not(k: int, dummies: np.ndarray, others: pd.DataFrame, patient: pd.Series) -> str:
    """Why the k-th subgroup cannot be compared at equal confounders; empty if it can."""
    if not _told(_coded(others, patient), dummies)[k]:
        return ""
    alone = [name for name in others if _told(_coded(others[[name]], patient), dummies)[k]]
    who = f"{' and '.join(alone)} by itself" if alone else f"{', '.join(others)} together"
    return f"{who} tells who belongs to the subgroup: nobody outside it is alike, so nothing can be held equal"


def _told(coded: np.ndarray, dummies: np.ndarray) -> np.ndarray:
    """Which of the `dummies` the coded confounders and the other dummies give away."""
    told = []
    for k, dummy in enumerate(dummies.T):
        rest = np.concatenate([np.ones((len(dummy), 1)), np.delete(dummies, k, axis=1), coded], axis=1)
        told.append(((dummy - rest @ np.linalg.lstsq(rest, dummy, rcond=None)[0]) ** 2).sum() < 1e-9 * len(dummy))
    return np.array(told)


def _coded(others: pd.DataFrame, patient: pd.Series) -> np.ndarray:
    """Confounders as columns of numbers: z-scores, and indicators of all but the first category."""
    columns = []
    for name in others:
        values = others[name]
        if pd.api.types.is_numeric_dtype(values):
            values = values.to_numpy(float)
            columns += [(values - values.mean()) / values.std()] if values.std() > 0 else []
            continue
        sizes = patient.groupby(values.to_numpy()).nunique()
        pooled = values.where(values.map(sizes) >= 3, "pooled").to_numpy()
        columns += [(pooled == level).astype(float) for level in sorted(set(pooled))[1:]]
    return np.stack(columns, axis=1) if columns else np.zeros((len(others), 0))


def _fit(dummies: np.ndarray, coded: np.ndarray, frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, int]:
    """Coefficients of the dummies by least squares, with standard errors clustered by patient."""
    design = np.concatenate([np.ones((len(frame), 1)), dummies, coded], axis=1)
    outcome = frame["difference"].to_numpy()
    inverse = np.linalg.pinv(design.T @ design)
    beta = inverse @ design.T @ outcome
    codes, ids = patient_codes(frame["patient"])
    score = np.zeros((len(ids), design.shape[1]))
    np.add.at(score, codes, design * (outcome - design @ beta)[:, None])
    factor = len(ids) / (len(ids) - 1) if len(ids) > 1 else np.nan
    se = np.sqrt(np.clip(np.diag(inverse @ score.T @ score @ inverse), 0, None) * factor)
    here = slice(1, 1 + dummies.shape[1])
    lost = _told(coded, dummies)  # the confounders tell the subgroup: nothing to compare
    return np.where(lost, np.nan, beta[here]), np.where(lost, np.nan, se[here]), len(ids)
