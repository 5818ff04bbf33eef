"""From readings of images to figures of patients: scores, and Dice of volumes.

Conventions: rows are those of the tables `predictions` and `overlap`; `patients` gives the patient_id of an image_id.
"""

import numpy as np
import pandas as pd


def patient_scores(predictions: pd.DataFrame, patients: pd.Series, rule: str = "median") -> pd.DataFrame:
    """Scores of patients from scores of their images.

    Parameters
    ----------
    predictions : DataFrame
        Table `predictions`.
    patients : Series
        patient_id, indexed by image_id.
    rule : {"median", "mean"}
        Median as in the published evaluation.

    Returns
    -------
    DataFrame
        The same columns with `patient_id` in place of `image_id`.

    Raises
    ------
    ValueError
        Unknown rule, or an image without a patient.
    """
    if rule not in ("median", "mean"):
        raise ValueError(f"rule is 'median' or 'mean', got {rule!r}")
    keys = [column for column in predictions.columns if column not in ("image_id", "score")]
    named = _with_patients(predictions, patients)
    return named.groupby(["patient_id", *keys], as_index=False, sort=False)["score"].agg(rule)


def dice_table(overlap: pd.DataFrame, patients: pd.Series, per: str = "image", empty: float = np.nan) -> pd.DataFrame:
    """Dice of slices, or of patients' volumes, from pixels.

    Parameters
    ----------
    overlap : DataFrame
        Table `overlap`.
    patients : Series
        patient_id, indexed by image_id.
    per : {"image", "patient"}
        A patient's volume pools the pixels of all slices.
    empty : float
        Dice where mask and prediction are both empty: NaN leaves them out, 1 counts them as right.

    Returns
    -------
    DataFrame
        Key columns, `patient_id` and `dice`.

    Raises
    ------
    ValueError
        Unknown unit, or an image without a patient.
    """
    if per not in ("image", "patient"):
        raise ValueError(f"per is 'image' or 'patient', got {per!r}")
    pixels = ["intersection", "predicted", "actual"]
    named = _with_patients(overlap, patients)
    if per == "patient":
        keys = [column for column in named.columns if column not in ("image_id", *pixels)]
        named = named.groupby(keys, as_index=False, sort=False)[pixels].sum()
    total = named["predicted"] + named["actual"]
    dice = (2 * named["intersection"] / total.where(total > 0)).where(total > 0, empty)
    return named.drop(columns=pixels).assign(dice=dice)


def _with_patients(table: pd.DataFrame, patients: pd.Series) -> pd.DataFrame:
    named = table.assign(patient_id=table["image_id"].map(patients))
    lost = named.loc[named["patient_id"].isna(), "image_id"]  # a groupby would drop them in silence
    if len(lost):
        raise ValueError(f"{lost.nunique()} images have no patient, such as {lost.iloc[0]!r}")
    return named
