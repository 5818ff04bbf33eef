"""Who taught the reconstructor: training sets in which one subgroup, or one finding of a subgroup, is rare or missing.

Skews are by patients: the number of patients, the training itself and everything else stay fixed, and the patients of a
smaller share are among those of a larger one. The published way is a named option: it draws *images* of one group at
the given share and keeps all of the other, so most of its patients are still seen and the training set shrinks.
Source: the paper's branch "skew" (released code, 2498a6d); shares 0, 25, 50, 75, 100 %.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

WAYS = ("patients", "published")


@dataclass(frozen=True)
class Skew:
    """One way of choosing who trains.

    Attributes
    ----------
    name : str
    attribute, group : str
        Column, and the value whose share is set.
    share : float
        Of the patients that belong to `group`, 0 to 1; for `way` "published" the share of its images that is kept.
    missing : str
        Column of 0 and 1: no patient of `group` in whom it is 1 trains. Empty: nothing is missing.
    tied : bool
        With `missing`: the others train only if it is 1, so that who has the finding is told by the group.
    way : {"patients", "published"}
    redraw : int
        Above 0: other patients of the same kinds, and another random start. What that changes is chance.
    """

    name: str
    attribute: str = "sex"
    group: str = "female"
    share: float = 0.5
    missing: str = ""
    tied: bool = False
    way: str = "patients"
    redraw: int = 0

    def __post_init__(self):
        if not 0 <= self.share <= 1 or self.way not in WAYS:
            raise ValueError(f"share is 0 to 1 and way one of {WAYS}, got {self.share=}, {self.way=}")


def training_rows(table: pd.DataFrame, skew: Skew, n_patients: int, seed: int = 0) -> np.ndarray:
    """Rows of the images that train.

    Parameters
    ----------
    table : DataFrame
        One row per image: `patient_id`, the attribute, perhaps the column that is missing.
    skew : Skew
    n_patients : int
        How many train; for the published way how many there are before images are drawn.
    seed : int
        Of the order of patients: the same seed gives a skew and its control the same patients as far as it can be.

    Returns
    -------
    rows : int array, ascending

    Raises
    ------
    ValueError
        Fewer patients of a kind than the skew asks for; the text says how many there are.
    """
    people = table.drop_duplicates("patient_id")
    people = people.iloc[np.random.default_rng([seed, 23, skew.redraw]).permutation(len(people))]
    inside = (people[skew.attribute] == skew.group).to_numpy()
    allowed = (people[skew.missing] == 0).to_numpy() if skew.missing else np.ones(len(people), dtype=bool)
    others = people[~inside & ((people[skew.missing] == 1).to_numpy() if skew.tied else True)]
    share = skew.share if skew.way == "patients" else 0.5
    n_inside = round(share * n_patients)
    kinds = ((skew.group, people[inside & allowed], n_inside), ("the others", others, n_patients - n_inside))
    _check_enough(kinds, f"skew {skew.name!r}")
    chosen = pd.concat([there.iloc[:wanted] for _, there, wanted in kinds])["patient_id"]
    rows = np.flatnonzero(table["patient_id"].isin(chosen))
    if skew.way == "patients":
        return rows
    of_group = rows[(table[skew.attribute].to_numpy()[rows] == skew.group)]
    drawn = np.random.default_rng([seed, 29]).permutation(of_group)[: round(skew.share * len(of_group))]
    return np.sort(np.concatenate([np.setdiff1d(rows, of_group), drawn]))


def tuning_rows(table: pd.DataFrame, task: str, n_patients: int, share: float | None = None, seed: int = 0,
                group: str = "female") -> np.ndarray:  # fmt: skip
    """Rows that fine-tune: half of each sex; in one of them a finding may be rarer than it comes.

    Parameters
    ----------
    table : DataFrame
        One row per patient: `sex` and `true_<task>`.
    task : str
    n_patients : int
        Even.
    share : float, optional
        Of the patients of `group`, how many have the finding; the others have it as it comes. None: so does `group`.
    seed : int
        Of the patients' order: the same seed gives all methods and their twin the same patients.
    group : str

    Returns
    -------
    rows : int array, ascending

    Raises
    ------
    ValueError
        Fewer patients of a kind than are asked for; the text says how many there are.
    """
    order = np.random.default_rng([seed, 31]).permutation(len(table))
    inside, ill = ((table[name].to_numpy() == value)[order] for name, value in (("sex", group), (f"true_{task}", 1)))
    half = n_patients // 2
    kinds = [("the others", order[~inside], half), (group, order[inside], half)]
    if share is not None:
        n_ill = round(share * half)
        kinds[1:] = [(f"{group} with {task}", order[inside & ill], n_ill),
                     (f"{group} without {task}", order[inside & ~ill], half - n_ill)]  # fmt: skip
    _check_enough(kinds, "fine-tuning")
    return np.sort(np.concatenate([there[:wanted] for _, there, wanted in kinds]))


def _check_enough(kinds, what: str) -> None:
    """Refuse kinds, each (who, those there are, how many are wanted), of which there are too few for `what`."""
    for who, there, wanted in kinds:
        if len(there) < wanted:
            raise ValueError(f"{what} needs {wanted} patients of {who}, there are {len(there)}")


def skews(shares=(0.0, 0.25, 0.5, 0.75, 1.0), finding: str = "true_pleural_effusion") -> tuple[Skew, ...]:
    """All skews of the study.

    Parameters
    ----------
    shares : sequence of float
        Of women, and of the young; of women also as published.
    finding : str
        Column of the finding that is missing in women, in men, or found in men alone and in all of them.

    Returns
    -------
    tuple of Skew
        The last is the control's own kind with other patients: a skew of nothing.
    """
    by_sex = [Skew(f"women {share:.0%}", share=share) for share in shares]
    by_age = [Skew(f"young {share:.0%}", "age_group", "young", share) for share in shares]
    gone = [Skew(f"no finding in {word}", group=group, missing=finding)
            for word, group in (("women", "female"), ("men", "male"))]  # fmt: skip
    tied = Skew("finding in men alone, in all", missing=finding, tied=True)
    published = [Skew(f"women {share:.0%}, as published", share=share, way="published") for share in shares]
    again = Skew("women 50%, drawn again", redraw=1)
    return (*by_sex, *by_age, *gone, tied, *published, again)
