"""The paper's numbers: all of Tables 1 to 7, what may be compared with them, and what chance alone would have printed.

`numbers()` reads `published.csv`, which lies beside this file and is meant to be read: one row per printed number.
Names of cohort, arm, task, attribute, metric and level are the house's, `row` and `column` the paper's; Table 5 has the
parts 5a (sex), 5b (age) and 5c (race). What is not plain about the columns:

- `printed`: as printed, so "0.70" has two decimals. `origin`: "text" (read in the paper's text), "copied" (printed, but
  the published code fills the cell from another column), "slides" or "figure" (of the authors, where the text lost its
  column), "lost".
- `slides`: the same number with more decimals, where the authors' slides have it.
- `colour`: "worse" or "better" where the slides colour the cell (p < .05 in the paper's test); "worse at .1".
- `note`: why the print is doubtful.

The rest of the file asks what the printed gaps would be if all subgroups had equal rates (`null_gaps`,
`null_dice_gaps`).
"""

from collections.abc import Sequence
from functools import cache
from importlib.resources import files

import numpy as np
import pandas as pd
from scipy.stats import norm

KEY = ("table", "row", "column")
COHORTS = ("UCSF-PDGM", "CheXpert")
FIGURE_READING = {"psnr_db": 0.3}  # how far a number read off a figure may be off; otherwise 0.005

TEST_SHARE = 0.2 * 56_810 / 65_240  # of CheXpert's images: test split, race known
NO_FINDING = 22_381  # images of CheXpert's training table without any finding: negatives of every finding
LABEL_COUNTS = {  # images with and explicitly without; from memory of that table, recount on the real file
    "enlarged_cardiomediastinum": (10_798, 21_638),
    "cardiomegaly": (27_000, 11_116),
    "lung_opacity": (105_581, 6_599),
    "lung_lesion": (9_186, 1_270),
    "edema": (52_246, 20_726),
    "consolidation": (14_783, 28_097),
    "pneumonia": (6_039, 2_799),
    "atelectasis": (33_376, 1_328),
    "pneumothorax": (19_448, 56_341),
    "pleural_effusion": (86_187, 35_396),
    "pleural_other": (3_523, 316),
    "fracture": (9_040, 2_512),
}
FIGURES = {  # the paper's result figures: what is in them, the notebook with the counterpart, its pictures' names
    "2": ("MRI at several accelerations", "02", "02_fig2"),
    "3": ("X-ray at several photon counts", "03", "03_fig3"),
    "4": ("brain: reconstructions and masks", "08", "08_fig_4"),
    "5": ("chest: reconstructions and Grad-CAM", "08", "08_fig_5"),
    "7": ("Dice and PSNR over acceleration", "08", "08_noise"),
    "8": ("mean AUROC and PSNR over photon count", "08", "08_noise"),
    "10": ("mean absolute change of SER and Delta Dice", "10", "10_fig_21"),
    "11": ("mean absolute change of EODD and EOP", "10", "10_fig_11"),
    "12": ("change by tumour task", "10", "10_fig_12"),
    "13": ("change by finding", "10", "10_fig_13"),
    "15": ("tumour grade: AUROC and PSNR over acceleration", "08", "08_noise"),
    "16": ("tumour type: AUROC and PSNR over acceleration", "08", "08_noise"),
    "17": ("every finding: AUROC and PSNR over photon count", "08", "08_findings"),
    "19": ("standard errors, segmentation", "10", "10_fig_20"),
    "20": ("standard errors, classification", "10", "10_fig_20"),
    "21": ("change of SER and Delta Dice", "10", "10_fig_21"),
}


# ---------------------------------------------------------------------- the printed numbers
@cache
def _numbers() -> pd.DataFrame:
    text = files("fairrecon_lab.paper").joinpath("published.csv").open(encoding="utf-8")
    with text:
        table = pd.read_csv(text, dtype=str, keep_default_na=False)
    table["level"] = pd.to_numeric(table["level"], errors="coerce")
    table["value"] = pd.to_numeric(table["printed"], errors="coerce")
    decimals = table["printed"].str.partition(".")[2].str.len()
    rounding = np.where(table["metric"] == "patients", 0.0, 0.5 * 10.0**-decimals)
    rounding = np.where(table["printed"] == "0", np.where(table["metric"] == "p_value", 0.001, 0.0), rounding)
    read_off = table["metric"].map(FIGURE_READING).fillna(0.005)
    table["precision"] = np.where(table["origin"] == "figure", read_off, rounding)
    return table


def numbers(table: str | None = None) -> pd.DataFrame:
    """All printed numbers, or those of one table ("1" ... "7"; "5" has the parts "5a", "5b", "5c").

    Returns
    -------
    DataFrame
        Columns of `published.csv`, and `value` (NaN where lost) and `precision`: half a unit of the last printed digit,
        or how far a reading of a figure may be off.

    Raises
    ------
    ValueError
        Unknown table.
    """
    frame = _numbers()
    if table is not None:
        wanted = frame["table"].str.fullmatch(f"{table}[abc]?")
        if not wanted.any():
            raise ValueError(f"no table {table!r}; there are {', '.join(frame['table'].unique())}")
        frame = frame[wanted]
    return frame.reset_index(drop=True)


def paper_table(table: str, values: str = "printed") -> pd.DataFrame:
    """One table in the paper's own rows and columns, of any column `values` of `numbers()`."""
    frame = numbers(table)
    wide = frame.pivot(index="row", columns="column", values=values)
    wide = wide.reindex(index=frame["row"].unique(), columns=frame["column"].unique())
    return wide.fillna("") if values == "printed" else wide


def changes() -> pd.DataFrame:
    """Table 5 as one row per attribute, task, metric and arm: `value`, `baseline`, `change` and the cell's `colour`.

    `copied` marks the eight baselines that are no baselines; their change says nothing.
    """
    frame = numbers("5")
    on = ["attribute", "task", "metric"]
    base = frame[frame["arm"] == "clean"].assign(copied=lambda rows: rows["origin"] == "copied")
    base = base.rename(columns={"value": "baseline"})[[*on, "baseline", "copied"]]
    out = frame[frame["arm"] != "clean"].merge(base, on=on)
    out["change"] = (out["value"] - out["baseline"]).round(3)
    return out[[*on, "arm", "value", "baseline", "change", "colour", "copied"]]


def compare(ours: pd.DataFrame) -> pd.DataFrame:
    """Put our numbers beside the printed ones, and say which of them may be compared at all.

    Parameters
    ----------
    ours : DataFrame
        One row per number: `table row column value`, and perhaps `low high` (the ends of its interval), `source`
        (name of the data; only the paper's own, `COHORTS`, can be compared) and `definition` (how the quantity
        differs from the paper's; "" where it does not).

    Returns
    -------
    DataFrame
        Every printed number with `published precision ours ours_low ours_high comparable why_not agrees note`.
        `agrees`: the printed number lies in our interval, widened by its precision; None where it cannot be asked.

    Raises
    ------
    ValueError
        A column is missing, a number has no counterpart in the paper or occurs twice.
    """
    absent = [name for name in (*KEY, "value") if name not in ours]
    if absent:
        raise ValueError(f"our numbers lack {absent}; their columns are {list(ours.columns)}")
    ours = ours.reindex(columns=[*KEY, "value", "low", "high", "source", "definition"])
    ours = ours.fillna({"source": "", "definition": ""}).astype(dict.fromkeys(("value", "low", "high"), float))
    frame = _numbers().rename(columns={"value": "published"})
    strange = pd.MultiIndex.from_frame(ours[list(KEY)]).difference(pd.MultiIndex.from_frame(frame[list(KEY)]))
    if len(strange):
        raise ValueError(f"{len(strange)} of our numbers have no cell in the paper, e.g. {strange[0]}: see numbers()")
    if ours.duplicated(list(KEY)).any():
        twice = ours.loc[ours.duplicated(list(KEY)), list(KEY)].iloc[0].tolist()
        raise ValueError(f"our numbers hold {twice} twice: one number per cell")
    names = {"value": "ours", "low": "ours_low", "high": "ours_high"}
    frame = frame.merge(ours.rename(columns=names), on=list(KEY), how="left")
    frame["why_not"] = [_why_not(row) for row in frame.itertuples()]
    frame["comparable"] = frame["why_not"] == ""
    frame["agrees"] = [_agrees(row) for row in frame.itertuples()]
    kept = (*KEY, "metric", "published", "precision", *names.values(), "comparable", "why_not", "agrees", "note")
    return frame[list(kept)]


def _why_not(row) -> str:
    """Reasons why a pair may not be compared, joined; "" if it may."""
    missing = not np.isfinite(row.ours)
    reasons = {
        "lost from the text": row.origin == "lost",
        "copied value": row.origin == "copied",
        "not computed": missing,
        f"other cohort: {row.source or 'unnamed'}": not missing and row.source != row.cohort,
        f"other definition: {row.definition}": not missing and row.definition != "",
    }
    return "; ".join(reason for reason, holds in reasons.items() if holds)


def _agrees(row) -> bool | None:
    if not row.comparable or not np.isfinite(row.ours_low + row.ours_high):
        return None
    return bool(row.ours_low - row.precision <= row.published <= row.ours_high + row.precision)


# ---------------------------------------------------------------------- the printed gaps against chance
def subgroup_shares(attribute: str) -> pd.Series:
    """Share of each subgroup of "sex", "age_group" or "race" among CheXpert's patients, from Table 2."""
    table = paper_table("2", "value")
    if attribute == "race":
        counts = table.loc["All"].drop("All")
    else:
        part = {"sex": 0, "age_group": 1}[attribute]
        people = table["All"].drop("All")
        counts = people.groupby(people.index.str.split(", ").str[part].str.lower()).sum()
    return counts / counts.sum()


def expected_counts(task: str, scale: float = 1.0) -> tuple[int, int]:
    """Positives and negatives of a finding in the paper's test split, expected from `LABEL_COUNTS` times `scale`."""
    positive, negative = LABEL_COUNTS[task]
    return tuple(round(n * TEST_SHARE * scale) for n in (positive, negative + NO_FINDING))


def rate_at_equal_errors(auroc: float) -> float:
    """TPR = 1 - FPR at the threshold where sensitivity equals specificity, of two normal scores with this AUROC."""
    return float(norm.cdf(norm.ppf(auroc) / np.sqrt(2)))


def null_gaps(
    n_positive: float, n_negative: float, shares: Sequence[float], tpr: float, fpr: float, *,
    estimator: str = "bootstrap_mean", empty: tuple[float, float] = (1.0, 0.0), design_effect: float = 1.0,
    n_draws: int = 400, n_inner: int = 100, seed: int = 0,
) -> np.ndarray:  # fmt: skip
    """EODD (mean) and EOP as the paper computes them, in a world in which all subgroups have the same two rates.

    Parameters
    ----------
    n_positive, n_negative : float
        Images with and without the finding.
    shares : sequence of float
        Shares of the subgroups among both; they sum to 1.
    tpr, fpr : float
        The rates that everybody has, in [0, 1].
    estimator : {"bootstrap_mean", "plug_in"}
        Mean over resamples of max - min, as printed in Table 5; or max - min itself.
    empty : (float, float)
        TPR of a subgroup without positives, FPR of one without negatives: (1, 0) for chest, (0, 0) for brain.
    design_effect : float
        Variance inflation by several images of one patient; divides the numbers of images.
    n_draws, n_inner, seed : int
        Worlds, resamples in each of them, and their seed.

    Returns
    -------
    array (n_draws, 2)
        EODD and EOP of every world. `audit.gaps.noise_band` makes a band of them.

    Raises
    ------
    ValueError
        Unknown estimator.
    """
    if estimator not in ("bootstrap_mean", "plug_in"):
        raise ValueError(f"unknown estimator {estimator!r}; choose 'bootstrap_mean' or 'plug_in'")
    n_images = round((n_positive + n_negative) / design_effect)
    prevalence = n_positive / (n_positive + n_negative)
    label, decision = np.array([[1 - prevalence], [prevalence]]), np.array([[1 - fpr, fpr], [1 - tpr, tpr]])
    chance = np.asarray(shares, dtype=float)[:, None, None] * label * decision  # (group, label, decision)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(n_images, chance.ravel() / chance.sum(), n_draws)  # (draws, cells)
    if estimator == "plug_in":
        return _gaps_of_counts(drawn.reshape(-1, *chance.shape), empty)
    again = rng.multinomial(n_images, drawn[:, None] / drawn.sum(axis=1)[:, None, None], (n_draws, n_inner))
    return _gaps_of_counts(again.reshape(n_draws, n_inner, *chance.shape), empty).mean(axis=1)


def _gaps_of_counts(counts: np.ndarray, empty: tuple[float, float]) -> np.ndarray:
    """EODD and EOP (..., 2) from counts (..., group, label, decision)."""
    n = counts.sum(axis=-1)
    with np.errstate(invalid="ignore"):
        rates = np.where(n > 0, counts[..., 1] / n, np.array(empty)[::-1])  # (..., group, label)
    fpr_gap, tpr_gap = np.moveaxis(np.ptp(rates, axis=-2), -1, 0)
    return np.stack([(tpr_gap + fpr_gap) / 2, tpr_gap], axis=-1)


def null_dice_gaps(
    sizes: Sequence[int], mean: float, sd: float, *, estimator="bootstrap_mean", n_draws=400, n_inner=200, seed=0
) -> np.ndarray:
    """SER and Delta Dice as the paper computes them, in a world in which all subgroups have the same Dice.

    Parameters
    ----------
    sizes : sequence of int
        Patients of each subgroup.
    mean, sd : float
        Mean and standard deviation of the patients' Dice; the means of subgroups are taken as normal.
    estimator, n_draws, n_inner, seed
        As in `null_gaps`.

    Returns
    -------
    array (n_draws, 2)
        SER and Delta Dice of every world.
    """
    error, rng = sd / np.sqrt(np.asarray(sizes)), np.random.default_rng(seed)
    group_dice = mean + error * rng.standard_normal((n_draws, 1, len(sizes)))
    if estimator == "bootstrap_mean":
        group_dice = group_dice + error * rng.standard_normal((n_draws, n_inner, len(sizes)))
    ser = (1 - group_dice.min(axis=-1)) / (1 - group_dice.max(axis=-1))
    return np.stack([ser, np.ptp(group_dice, axis=-1)], axis=-1).mean(axis=1)
