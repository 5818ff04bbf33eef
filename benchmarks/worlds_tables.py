"""Tables of known truth for `calibration.py`. Nothing here is shared with the audit.

The model: an image's latent value is its signal plus a residual of variance 1, of which the share `icc` belongs to the
patient. The score is its logistic, so a threshold of .5 is a cut of the latent value at 0, and a rate is Phi(signal).
Another arm sees (r + noise * e) / sqrt(1 + noise^2) in place of the residual r: other scores of exactly the same law.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy.stats import norm

SENSITIVITY, SPECIFICITY = 0.8, 0.8
FLAGGED = ("changed", "changed_within_margin")
WITHIN = ("equivalent", "changed_within_margin")


@dataclasses.dataclass(frozen=True)
class World:
    """One world: its name, what it is in plain words, one simulated audit of it, and what should hold.

    `trial(rng, seed, n_boot)` gives {figure: share}, of this one audit (NaN: nothing to count).
    `goals` has (low, high) of the mean of a figure, None where nothing was promised.
    """

    name: str
    words: str
    trial: Callable
    goals: dict
    n_boot: int = 499


@dataclasses.dataclass
class Readers:
    """Patients, their images and the truth; draws what arms see of them."""

    rng: np.random.Generator
    group: np.ndarray  # of each patient, numbers
    images: np.ndarray  # of each patient
    icc: float = 0.5
    tasks: tuple = ("finding",)
    prevalence: float = 0.5

    def __post_init__(self):
        self.patient = np.repeat(np.arange(len(self.group)), self.images)
        self.g = self.group[self.patient]
        n = len(self.patient)
        self.truth = {task: self.rng.random(n) < self.prevalence for task in self.tasks}
        self.residual = {task: self.residuals() for task in self.tasks}

    def residuals(self) -> np.ndarray:
        """Variance 1, of which `icc` is the patient's."""
        own = self.rng.normal(size=len(self.group))[self.patient]
        return np.sqrt(self.icc) * own + np.sqrt(1 - self.icc) * self.rng.normal(size=len(self.patient))

    def cohort(self, **columns) -> pd.DataFrame:
        """The cohort table; group 0 is "a", and so on."""
        labels = {f"y_{task}": truth.astype(float) for task, truth in self.truth.items()}
        names = np.array(list("abcdefgh"))[self.g]
        return pd.DataFrame({"image_id": np.arange(len(self.g)), "patient_id": self.patient, "sex": names}
                            | labels | columns)  # fmt: skip

    def scores(self, arm: str, noise=0.0, shift=0.0, signal=None, **columns) -> pd.DataFrame:
        """The predictions of one arm: other noise, and the signal moved by `shift` (a number, or one per image)."""
        parts = []
        for task, truth in self.truth.items():
            own = np.where(truth, *self.cuts()) if signal is None else signal
            seen = self.residual[task]
            if noise:
                seen = (seen + noise * self.residuals()) / np.hypot(1, noise)
            score = 1 / (1 + np.exp(-(own + shift + seen)))
            parts.append(pd.DataFrame({"image_id": np.arange(len(self.g)), "arm": arm, "task": task, "score": score}
                                      | columns))  # fmt: skip
        return pd.concat(parts, ignore_index=True)

    @staticmethod
    def cuts() -> tuple[float, float]:
        """Signal of an image with, and without the finding."""
        return norm.ppf(SENSITIVITY), -norm.ppf(SPECIFICITY)


def groups_of(*sizes: int) -> np.ndarray:
    """Group number of each patient."""
    return np.repeat(np.arange(len(sizes)), sizes)


def heavy_tail(rng, n: int, most: int = 40) -> np.ndarray:
    """1 to `most` images a patient, few patients with many (a Pareto law of index 1.2)."""
    return np.minimum(np.floor((1 - rng.random(n)) ** (-1 / 1.2)), most).astype(int)


def rate_change(before: float, shift: float) -> float:
    """True change of a rate whose signal moves by `shift`."""
    return float(norm.cdf(norm.ppf(before) + shift) - before)


def shift_for(before: float, change: float) -> float:
    """The shift that changes a rate by `change`."""
    return float(norm.ppf(before + change) - norm.ppf(before))


def overlaps(rng, patient, tumour, found: float, spread: float, arm: str, offset=0.0) -> pd.DataFrame:
    """Slices with a tumour of 400 pixels, segmented with Dice about `found` + a patient's effect + `offset`."""
    n = len(patient)
    own = rng.normal(size=patient.max() + 1)[patient] * spread
    dice = np.clip(found + own + offset + spread * rng.normal(size=n), 0.02, 0.98)
    actual = np.where(tumour, 400, 0)
    intersection = np.where(tumour, np.round(400 * dice), 0).astype(int)  # as many predicted as there are: Dice = share
    return pd.DataFrame({"image_id": np.arange(n), "arm": arm, "intersection": intersection, "predicted": actual,
                         "actual": actual})  # fmt: skip


# What is counted in an audit table


def claims(table: pd.DataFrame) -> pd.DataFrame:
    """The cells that carry the claims, as the table itself marks them."""
    return table[table["role"].eq("primary")]


def within_subgroups(table: pd.DataFrame) -> pd.DataFrame:
    """Rows within one subgroup; those that count the choice of a network where there are any."""
    rows = table[(table["subgroup"] != "") & (table["reference"] == "")]
    nested = rows["estimator"].eq("nested")
    return rows[nested] if nested.any() else rows


def flagged(rows: pd.DataFrame) -> float:
    """1 where any row is flagged; NaN where nothing could be estimated."""
    known = rows[rows["verdict"] != "not_estimable"]
    return float(known["verdict"].isin(FLAGGED).any()) if len(known) else np.nan


def covers(rows: pd.DataFrame, truth) -> float:
    """Share of the rows whose interval of the change holds the truth."""
    known = rows["delta_ci_low"].notna().to_numpy()
    inside = (rows["delta_ci_low"] <= truth) & (truth <= rows["delta_ci_high"])
    return float(inside[known].mean()) if known.any() else np.nan


def contradictions(table: pd.DataFrame) -> float:
    """1 where a row is *changed* with 0 in its own interval, or *equivalent* with a bound outside its margin."""
    low, high = table["delta_ci_low"], table["delta_ci_high"]
    changed = table["verdict"].isin(FLAGGED) & (low <= 0) & (high >= 0)
    outside = ~((low > -table["margin"]) & (high < table["margin"]))  # also where there is no interval
    verdict, p = table["verdict"], table["p_value"]
    dual = low.notna() & p.notna() & (p.le(0.05) != ((low > 0) | (high < 0)))  # p and interval are one thing
    return float((changed | (verdict.isin(WITHIN) & outside) | dual).any())


def null_figures(table: pd.DataFrame) -> dict:
    """What is counted where nothing changed: flags, coverage of a change of 0, rows that deny themselves."""
    cells = claims(table)
    shown = table[table["metric"].isin(["tpr", "fpr", "auroc", "calibration", "dice"])]
    within = within_subgroups(shown)
    true_flips = table["metric"].str.contains("flip") & (table["subgroup"] != "") & (table["reference"] == "")
    cells_shown = cells[cells["metric"].isin(["tpr", "fpr", "auroc", "calibration", "dice"])]
    return {
        "flagged: any claimed cell": flagged(cells),
        "flagged: TPR and FPR cells": flagged(cells[cells["metric"].isin(["tpr", "fpr"])]),
        "flagged: any row, also exploratory": flagged(table[~true_flips]),  # another noise does flip decisions
        "flagged: a change in a subgroup": flagged(within[within["metric"].isin(["tpr", "fpr"])]),
        "coverage: change of a gap": covers(cells_shown, 0.0),
        "coverage: change in a subgroup": covers(within, 0.0),
        "a row denies its interval": contradictions(table),
    }


LESS, COVER = (None, 0.065), (0.93, 0.97)
NULL_GOALS = {
    "flagged: any claimed cell": LESS,
    "flagged: TPR and FPR cells": LESS,
    "flagged: any row, also exploratory": None,
    "flagged: a change in a subgroup": LESS,
    "coverage: change of a gap": COVER,
    "coverage: change in a subgroup": COVER,
    "a row denies its interval": (None, 0.0),
}
