"""The printed gaps against chance: what would have been printed had all subgroups had the same rates.

A largest-minus-smallest gap is never negative and grows as subgroups shrink. Here it is drawn from worlds without any
disparity, at the sizes of the papers' test splits. Nothing needs data: rates follow from the printed AUROC, shares of
subgroups from the printed tables, numbers of positives from CheXpert's public label counts.

Source of `LABEL_COUNTS`: CheXpert-v1.0's train.csv (223 414 images). The twelve numbers of positives, of images without
finding, and the missing labels were checked against the counts of that file in a public notebook
(github.com/kulsoom-abdullah/chexpert_multiclass_multilabel, rendered_notebooks/EDA). Explicit negatives were checked
for five findings; for the others they are what is left beside the positives and the uncertain labels. A guess: the test
split has a fifth of everything, and findings are spread evenly over the subgroups.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
import pandas as pd
from scipy.stats import norm

from fairrecon_core.audit.inference import minimal_detectable_effect, noise_band
from fairrecon_lab.bootstrap import se_from_flips
from fairrecon_lab.paper.numbers import numbers, paper_table

TEST_SHARE = 0.2 * 56_810 / 65_240  # of CheXpert's images: test split, race known
NO_FINDING = 22_381  # images of CheXpert's training table without any finding: negatives of every finding
LABEL_COUNTS = {  # images with the finding, and explicitly without it
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
BRAIN_SIZES = {"sex": (60, 41), "age_group": (50, 51)}  # of the 101 test patients, from the shares of all 501
BRAIN_NEGATIVES = {"tumour_grade": 20, "tumour_type": 25}  # of 101, from the prevalence among all 501
BRAIN_AUROC = {"tumour_grade": 0.733, "tumour_type": 0.788}  # on the slides
BRAIN_DICE = 0.72
DICE_SPREAD = (0.20, 0.25)  # standard deviation over patients: a guess, no print has it
ARMS = ("clean", "unet", "pix2pix", "sde")
MERGED = ("AI/AN", "NH/PI")  # counted as Other in Figs 16 and 17 of the follow-up


def subgroup_shares(attribute: str) -> pd.Series:
    """Share of each subgroup among CheXpert's patients (Table 2).

    `attribute` is "sex", "age_group", "race" or "merged_race".
    """
    table = paper_table("2", "value")
    if attribute in ("race", "merged_race"):
        counts = table.loc["All"].drop("All")
        if attribute == "merged_race":
            counts = counts.groupby(np.where(counts.index.isin(MERGED), "Other", counts.index)).sum()
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
        EODD and EOP of every world. `audit.inference.noise_band` makes a band of them.

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
    if estimator == "bootstrap_mean":
        drawn = rng.multinomial(n_images, drawn[:, None] / drawn.sum(axis=1)[:, None, None], (n_draws, n_inner))
    counts = drawn.reshape(*drawn.shape[:-1], *chance.shape)  # (..., group, label, decision)
    gaps = gaps_of_counts(counts.sum(axis=-1), counts[..., 1], empty[::-1])
    return gaps if estimator == "plug_in" else gaps.mean(axis=1)


def gaps_of_counts(n: np.ndarray, positive: np.ndarray, empty: tuple[float, float]) -> np.ndarray:
    """EODD (mean) and EOP (..., 2) from images and positive decisions (..., subgroup, label).

    `empty` is the FPR and the TPR of a subgroup without images.
    """
    rates = np.where(n > 0, positive / np.maximum(n, 1), np.array(empty))
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


# ---------------------------------------------------------------------- beside the printed tables
def clean_auroc() -> pd.Series:
    """AUROC of each finding and tumour task on clean images, with the decimals of the slides."""
    four = numbers("4")
    clean = four[(four["arm"] == "clean") & (four["slides"] != "")].drop_duplicates("task").set_index("task")
    return pd.concat([clean["slides"].astype(float).drop("average", errors="ignore"), pd.Series(BRAIN_AUROC)])


@cache
def _equal_rates(attribute: str, task: str, label_counts: float, design_effect: float) -> np.ndarray:
    """EODD and EOP of 200 worlds in which all subgroups have the rates that the printed AUROC implies."""
    rate, n = rate_at_equal_errors(clean_auroc()[task]), expected_counts(task, label_counts)
    shares = subgroup_shares(attribute)
    return null_gaps(*n, shares, rate, 1 - rate, design_effect=design_effect, n_draws=200, n_inner=60)


def chance_rows(attribute="race", metric="eop", label_counts=1.0, design_effect=1.0) -> pd.DataFrame:
    """Table 5's gaps of every finding beside the band that equal rates would print.

    Parameters
    ----------
    attribute, metric : str
        "sex", "age_group" or "race"; "eodd" or "eop".
    label_counts, design_effect : float
        Factor on the numbers of labels; as in `null_gaps`.

    Returns
    -------
    DataFrame
        One row per finding: `task positives expected low high clean unet pix2pix sde`.
    """
    five = numbers("5")
    part = five[(five["attribute"] == attribute) & (five["metric"] == metric)]
    wide, rows = part.pivot(index="task", columns="arm", values="value"), []
    for task in LABEL_COUNTS:
        drawn = _equal_rates(attribute, task, label_counts, design_effect)[:, ("eodd", "eop").index(metric)]
        rows.append([task, expected_counts(task, label_counts)[0], *noise_band(drawn)[:3], *wide.loc[task, list(ARMS)]])
    return pd.DataFrame(rows, columns=["task", "positives", "expected", "low", "high", *ARMS])


def brain_rows() -> pd.DataFrame:
    """Table 5's gaps of the brain tasks beside the band of equal groups; `any beyond` says whether one lies above."""
    rows = []
    for attribute, sizes in BRAIN_SIZES.items():
        dice = [null_dice_gaps(sizes, BRAIN_DICE, sd) for sd in DICE_SPREAD]
        for k, metric in enumerate(("ser", "delta_dice")):
            band = np.mean([noise_band(one[:, k])[:3] for one in dice], axis=0)
            rows.append([attribute, "segmentation", metric, *band])
        for task, negative in BRAIN_NEGATIVES.items():
            rate, shares = rate_at_equal_errors(BRAIN_AUROC[task]), np.array(sizes) / sum(sizes)
            gaps = null_gaps(sum(sizes) - negative, negative, shares, rate, 1 - rate, empty=(0.0, 0.0))
            rows += [[attribute, task, metric, *noise_band(gaps[:, k])[:3]] for k, metric in enumerate(("eodd", "eop"))]
    brain = pd.DataFrame(rows, columns=["attribute", "task", "metric", "equal groups", "low", "high"])
    wide = numbers("5").pivot_table(index=["attribute", "task", "metric"], columns="arm", values="value")[list(ARMS)]
    brain = brain.merge(wide.reset_index())
    beyond = brain[list(ARMS)].max(axis=1) > brain["high"]
    return brain.assign(**{"any beyond": beyond.map({True: "yes", False: "-"})})


def detectable(task: str, group: str, reference: str, flips: float, design_effect: float = 1.3) -> float:
    """Smallest change of the TPR gap between two subgroups that the chest test split could show with power .8.

    `task` is a finding, `group` and `reference` are subgroups of sex or race, `flips` is the share of decisions that
    differ, and `design_effect` stands for several images of one patient.
    """
    shares = {**subgroup_shares("race"), **subgroup_shares("sex")}
    n = expected_counts(task)[0]
    error = se_from_flips(flips, n * shares[group], n * shares[reference], design_effect=design_effect)
    return float(minimal_detectable_effect(error, n_group=n * shares[group] / design_effect))
