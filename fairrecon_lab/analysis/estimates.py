"""Means with their intervals, how both are written, and what stands around a figure.

Conventions: intervals have 95 % and draw patients again, with all their images. `patients` gives the patient_id of an
image_id. An estimate is a dict or a row with `value low high patients`; the unknown is NaN and printed as a dash.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fairrecon_lab import plots
from fairrecon_lab.bootstrap import patient_bootstrap
from fairrecon_lab.paper import numbers

GREY = "#595959"  # of captions and helping lines


def patients_of(table: pd.DataFrame) -> pd.Series:
    """patient_id by image_id, from the table of a cohort."""
    return table.set_index("image_id")["patient_id"]


def mean_of(values, patients, *, n_boot: int, seed: int, baseline=None) -> dict:
    """Mean over patients of their own means, with its interval.

    Parameters
    ----------
    values, patients : array-like, shape (n,)
        Of each image, and whose it is; NaN is left out.
    n_boot, seed : int
        Resamples of patients; their seed.
    baseline : array-like, shape (n,), optional
        Taken off each value before: a paired difference.

    Returns
    -------
    dict
        `value low high patients`.
    """
    found = patient_bootstrap(values, patients, n_boot=n_boot, seed=seed, baseline=baseline, per="patient")
    return {"value": found.value, "low": found.low, "high": found.high, "patients": found.n_patients}


def means_by_level(table: pd.DataFrame, metric: str, patients: pd.Series, *, arms=None, **options) -> pd.DataFrame:
    """Mean of one column of a table for every arm and level.

    Parameters
    ----------
    table : DataFrame
        `image_id arm level` and the column `metric`.
    metric : str
    patients : Series
    arms : sequence of str, optional
        Their order; the table's own by default.
    **options
        `n_boot` and `seed`, as in `mean_of`.

    Returns
    -------
    DataFrame
        `arm level value low high patients`.
    """
    rows = []
    for arm in arms or dict.fromkeys(table["arm"]):
        for level, part in table[table["arm"] == arm].groupby("level"):
            found = mean_of(part[metric], part["image_id"].map(patients), **options)
            rows.append({"arm": arm, "level": level} | found)
    return pd.DataFrame(rows, columns=["arm", "level", "value", "low", "high", "patients"])


def interval_text(value: float, low: float, high: float, *, digits: int = 3, sign: str = "", extra: str = "") -> str:
    """An estimate as text, "0.812 [0.790, 0.834]"; `sign` "+" shows signs, `extra` follows in brackets; NaN: a dash."""
    if np.isnan(value):
        return "-"
    form = f"{sign}.{digits}f"
    return f"{value:{form}} [{low:{form}}, {high:{form}}]" + (f" ({extra})" if extra else "")


def place_of(values, which: str = "median") -> int:
    """Place of the worst (smallest), median or best of `values`; NaN counts for none of them, ties take the first."""
    values = np.asarray(values, dtype=float)
    last = int(np.isfinite(values).sum()) - 1
    return int(np.argsort(values, kind="stable")[{"worst": 0, "median": last // 2, "best": last}[which]])


def printed_in_paper(*metrics: str) -> dict[tuple, str]:
    """What Tables 3 and 4 print for some metrics: (modality, level, task, metric, arm) to the text."""
    table = pd.concat([numbers.numbers("3"), numbers.numbers("4")])
    table = table[table["metric"].isin(metrics)]
    modality = {"UCSF-PDGM": "mri", "CheXpert": "xray"}
    return {(modality[row.cohort], row.level, row.task, row.metric, row.arm): row.printed for row in table.itertuples()}


def in_order(arms: Sequence[str], first: Sequence[str]) -> list[str]:
    """`arms` without repeats, those of `first` before the others."""
    return [arm for arm in dict.fromkeys([*first, *arms]) if arm in set(arms)]


# ---------------------------------------------------------------------- around a figure
def caption(figure: Figure, text: str) -> Figure:
    """Write `text` below a figure: whose data it shows."""
    figure.supxlabel(text, fontsize=8, color=GREY)
    return figure


def whose(cohort, level: float | None = None) -> str:
    """Simulated or real, the cohort's name and, where one is given, the noise `level`."""
    at = "" if level is None else f", {plots.AXIS[cohort.modality]} {level:,.0f}"
    return f"{plots.origin(cohort)}, {cohort.name}{at}"


def legend_beside(ax: Axes, size: int = 8) -> None:
    """A legend to the right of `ax`, where it can hide nothing; text of `size` points."""
    ax.legend(frameon=False, fontsize=size, loc="upper left", bbox_to_anchor=(1, 1))


def show_images(run, figure: Figure, name: str, cohort) -> None:
    """Show a figure of images; save it with the run under `name` only if nobody real is in the `cohort`."""
    display(run.figure(figure, name) if plots.origin(cohort) == "simulated" else figure)


def spoken(name: str) -> str:
    """The name of a task or metric with blanks for underscores."""
    return name.replace("_", " ")
