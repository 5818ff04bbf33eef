"""Who is in which subgroup, and how much each image weighs when rare subgroups should count as much as common ones.

Conventions: `table` has one row per image; codes are whole numbers from 0, -1 is unknown and takes no part.
Source: the follow-up's appendix (arXiv:2604.10904), its released code; Idrissi et al. 2022 for reweighting.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

UNKNOWN = "unknown"
AGE_EDGES = (40, 50, 60, 70)  # years: below 40, 40 to 49, ..., 70 and above
AGES = ("binned", "published")
SEX_CODES = ("recorded", "published")


def subgroup_codes(table: pd.DataFrame, attributes: Sequence[str], sex_code: str = "recorded") -> np.ndarray:
    """Code of each image's subgroup, one column per attribute.

    Parameters
    ----------
    table : DataFrame
    attributes : sequence of str
        Columns; `age_years` is binned at `AGE_EDGES`.
    sex_code : {"recorded", "published"}
        "published": 0 for the value "F", else 1. The recorded values are "female" and "male", so all get 1.

    Returns
    -------
    codes : int array, shape (n, attributes)

    Raises
    ------
    ValueError
        An unknown sex_code, or a column that the table lacks.
    """
    if sex_code not in SEX_CODES:
        raise ValueError(f"unknown sex_code {sex_code!r}; choose one of {SEX_CODES}")
    columns = [_published_sex(table) if a == "sex" and sex_code == "published" else _codes(table, a)
               for a in attributes]  # fmt: skip
    return np.stack(columns, axis=1)


def joint_codes(table: pd.DataFrame, attributes: Sequence[str], ages: str = "binned") -> np.ndarray:
    """Code of each image's cell of all attributes together.

    Parameters
    ----------
    table : DataFrame
    attributes : sequence of str
        Columns, `age_years` among them.
    ages : {"binned", "published"}
        "published" takes every year of age for a subgroup of its own: hundreds of cells, many with one image.

    Returns
    -------
    codes : int array, shape (n,)

    Raises
    ------
    ValueError
        Unknown `ages`, or a column that the table lacks.
    """
    if ages not in AGES:
        raise ValueError(f"unknown ages {ages!r}; choose one of {AGES}")
    raw = ages == "published"
    parts = np.stack([_codes(table, a, binned=not raw) for a in attributes], axis=1)
    cells = np.unique(parts, axis=0, return_inverse=True)[1].ravel()
    return np.where((parts < 0).any(axis=1), -1, cells)


def balancing_weights(codes) -> np.ndarray:
    """Weight of each image such that every cell counts alike, mean 1; an image of an unknown cell keeps 1.

    Weighing a loss with these gives, on average, what drawing images with these probabilities gives, on the same
    images in the same order as without them. `codes` has shape (n,).
    """
    codes = np.asarray(codes)
    weights, known = np.ones(len(codes)), codes >= 0
    if known.any():
        _, place, counts = np.unique(codes[known], return_inverse=True, return_counts=True)
        weights[known] = known.sum() / (len(counts) * counts[place.ravel()])
    return weights


def _codes(table: pd.DataFrame, attribute: str, binned: bool = True) -> np.ndarray:
    if attribute not in table:
        raise ValueError(f"no column {attribute!r} in the table: it has {', '.join(map(str, table.columns[:12]))}")
    values = table[attribute]
    if attribute == "age_years":
        years = pd.to_numeric(values, errors="coerce").to_numpy(float)
        codes = np.digitize(years, AGE_EDGES) if binned else np.nan_to_num(years, nan=-1)
        return np.where(np.isnan(years), -1, codes).astype(int)
    texts = values.astype("string").fillna(UNKNOWN).to_numpy(dtype=object)
    names = sorted(set(texts) - {UNKNOWN})
    return pd.Index(names).get_indexer(pd.Index(texts)) if names else np.full(len(texts), -1)


def _published_sex(table: pd.DataFrame) -> np.ndarray:
    return np.where(table["sex"].to_numpy() == "F", 0, 1)
