"""The declared population of the simulated cohorts: who there is, with exact shares.

It is a finite table of sex, race and age in whole years, so every probability over it is a sum, not an estimate.

Sources: paper Tables 1 and 2 (the total that Table 1 prints for the young, 147, is a misprint for 155 + 92 = 247); age
bands of the brain cohort: public metadata of UCSF-PDGM, doi:10.7937/tcia.bdgf-8v37; of the chest cohort: stylised.
"""

from functools import lru_cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import betainc

from fairrecon_core.settings import suggest

RACES = ("native_american", "asian", "black", "pacific_islander", "other", "white")  # column order of Table 2
VALUES = {"sex": ("female", "male"), "age_group": ("young", "old"), "race": RACES}
TABLE_1 = {("male", "young"): 155, ("female", "young"): 92, ("male", "old"): 144, ("female", "old"): 110}
TABLE_2 = {
    ("female", "old"): (54, 1539, 923, 314, 2518, 6456),
    ("female", "young"): (39, 1739, 608, 136, 1710, 9500),
    ("male", "old"): (56, 1734, 1023, 240, 3553, 8984),
    ("male", "young"): (27, 1924, 539, 171, 1853, 11170),
}
AGE_CUT = {"brain": 59, "chest": 63}  # young is below; the paper: at most 58 and 62 years
AGES = {  # first and last year of a band, and the beta distribution over it (chest: stylised)
    "brain": {"young": (17, 58, 1.7, 0.9), "old": (59, 94, 1.3, 3.2)},
    "chest": {"young": (18, 62, 2.2, 1.3), "old": (63, 90, 1.2, 1.8)},
}
AGE_SCALE = {"brain": (58, 17), "chest": (60, 17)}  # centre and unit (years) of the standardised age


def known(name: str, names, what: str) -> str:
    """`name` if it is among `names`; otherwise a ValueError with the nearest one."""
    if name not in names:
        raise ValueError(f"unknown {what} {name!r}{suggest(name, names)}; choose one of {', '.join(names)}")
    return name


@lru_cache
def population(name: str, race: str = "paper") -> pd.DataFrame:
    """The declared population: one row per sex, race and age in years, with its exact share.

    Parameters
    ----------
    name : {"brain", "chest"}
    race : {"paper", "balanced"}
        "paper": Table 2 (chest), not recorded (brain, as in UCSF-PDGM). "balanced": six equal shares in every
        group of sex and age, whose own shares stay those of the paper.

    Returns
    -------
    cells : DataFrame with columns sex, race, age_years, weight
        Weights sum to 1. Do not change it: it is shared.
    """
    known(name, AGES, "cohort")
    known(race, ("paper", "balanced"), "race shares")
    groups = []
    for (sex, band), total in TABLE_1.items():
        shares = {"unknown": total} if name == "brain" else dict(zip(RACES, TABLE_2[sex, band]))
        if race == "balanced":
            shares = dict.fromkeys(RACES, sum(shares.values()) / len(RACES))
        first, last, a, b = AGES[name][band]
        years = np.arange(first, last + 1)
        share_of_year = np.diff(betainc(a, b, np.linspace(0, 1, len(years) + 1)))
        groups += [
            pd.DataFrame({"sex": sex, "race": group, "age_years": years, "weight": count * share_of_year})
            for group, count in shares.items()
        ]
    cells = pd.concat(groups, ignore_index=True)
    return cells.assign(weight=cells.weight / cells.weight.sum())


def subgroup(frame: pd.DataFrame, attribute: str, name: str, age_cut: float | None = None) -> NDArray[np.str_]:
    """Group of each row: `frame[attribute]`, or "young" below the age cut (default: the paper's) and "old"."""
    known(attribute, VALUES, "attribute")
    if attribute != "age_group":
        return frame[attribute].to_numpy(dtype=str)
    return np.where(frame.age_years.to_numpy() < (age_cut or AGE_CUT[name]), "young", "old")


def standard_age(age_years, name: str):
    """Age in units of about one standard deviation, 0 at the cohort's centre."""
    centre, unit = AGE_SCALE[name]
    return (np.asarray(age_years, dtype=float) - centre) / unit
