"""Worlds with a planted harm: is it found, with the right sign, as often as promised?"""

from functools import partial

import numpy as np
import pandas as pd
from scipy.stats import norm
from worlds_tables import (
    COVER,
    FLAGGED,
    SENSITIVITY,
    Readers,
    World,
    claims,
    contradictions,
    covers,
    groups_of,
    overlaps,
    shift_for,
)

from fairrecon_core.audit.change import audit_change

NOISE = 0.3


def found(cells: pd.DataFrame, sign: int, truth: float) -> dict:
    """Power, a wrong sign among what was flagged, and coverage, of the cells that hold the harm."""
    hit = cells["verdict"].isin(FLAGGED)
    right = hit & (np.sign(cells["delta"]) == sign)
    return {"power": float(right.any()), "wrong sign": float((hit & ~right).any()), "coverage": covers(cells, truth)}


def tpr_loss(rng, seed, n_boot, small, change):
    """True positives of the second group are lost."""
    readers = Readers(rng, groups_of(600, small), np.ones(600 + small, int))
    harmed = (readers.g == 1) & readers.truth["finding"]
    arm = readers.scores("arm", noise=NOISE, shift=shift_for(SENSITIVITY, change) * harmed)
    tables = pd.concat([readers.scores("clean"), arm])
    table = audit_change(tables, readers.cohort(), thresholds=0.5, n_boot=n_boot, seed=seed, metrics=("rates",))
    cells = claims(table)
    return found(cells[cells["metric"] == "tpr"], -1, change) | {"a row denies its interval": contradictions(table)}


def auroc_loss(rng, seed, n_boot, small, shift):
    """Scores of the second group's images with the finding fall."""
    readers = Readers(rng, groups_of(600, small), np.ones(600 + small, int))
    harmed = (readers.g == 1) & readers.truth["finding"]
    tables = pd.concat([readers.scores("clean"), readers.scores("arm", noise=NOISE, shift=shift * harmed)])
    table = audit_change(tables, readers.cohort(), thresholds=0.5, n_boot=n_boot, seed=seed, metrics=("auroc",))
    apart = sum(np.abs(readers.cuts())) / np.sqrt(2)
    truth = float(norm.cdf(apart + shift / np.sqrt(2)) - norm.cdf(apart))
    cells = claims(table)
    return found(cells[cells["metric"] == "auroc"], -1, truth)


def slices(rng, n_patients=200, each=5, share=0.4) -> tuple[pd.DataFrame, np.ndarray]:
    """A cohort of slices of which a share holds a tumour."""
    readers = Readers(rng, groups_of(n_patients // 2, n_patients // 2), np.full(n_patients, each), prevalence=share)
    return readers.cohort().drop(columns="y_finding"), readers.truth["finding"]


def dice_loss(rng, seed, n_boot, change=-0.05):
    """Tumours of the second group are segmented worse; healthy slices stay empty."""
    cohort, tumour = slices(rng, share=1.0)
    harmed = cohort["sex"].eq("b").to_numpy()
    patient = cohort["patient_id"].to_numpy()
    clean = overlaps(rng, patient, tumour, 0.7, 0.08, "clean")
    moved = change * harmed + 0.05 * rng.normal(size=len(harmed))
    pixels = np.where(tumour, np.clip(clean["intersection"] + np.round(400 * moved), 0, 400), 0).astype(int)
    arm = clean.assign(arm="arm", intersection=pixels)
    table = audit_change(pd.concat([clean, arm]), cohort, n_boot=n_boot, seed=seed)
    cells = claims(table)
    return found(cells[cells["metric"] == "dice"], -1, change) | {"a row denies its interval": contradictions(table)}


def hallucinated(rng, seed, n_boot, pixels=300):
    """The arm paints a tumour into every healthy slice of the second group."""
    cohort, tumour = slices(rng)
    clean = overlaps(rng, cohort["patient_id"].to_numpy(), tumour, 0.7, 0.08, "clean")
    painted = cohort["sex"].eq("b").to_numpy() & ~tumour
    arm = clean.assign(arm="arm", predicted=np.where(painted, pixels, clean["predicted"]))
    table = audit_change(pd.concat([clean, arm]), cohort, n_boot=n_boot, seed=seed)
    cells = claims(table)
    harm = cells[cells["subgroup"].eq("b") & cells["verdict"].eq("changed")]
    dice = table[table["metric"].isin(["dice", "delta_dice", "ser"])]
    return {"the harm is found": float(len(harm) > 0),
            "Dice and its gaps all said to be equivalent": float(dice["verdict"].eq("equivalent").all())}  # fmt: skip


def holm_by_hand(p: np.ndarray) -> np.ndarray:
    """Holm's adjusted p-values: the i-th smallest of m times m - i + 1, made monotone."""
    order = np.argsort(p)
    stepped = np.maximum.accumulate(np.minimum(p[order] * np.arange(len(p), 0, -1), 1))
    adjusted = np.empty(len(p))
    adjusted[order] = stepped
    return adjusted


def adjusted_power(rng, seed, n_boot, shared, sizes, shift):
    """Six small groups, four tasks that share some of their residual; three groups lose: max-T beside Holm."""
    tasks = ("t1", "t2", "t3", "t4")
    readers = Readers(rng, groups_of(*sizes), np.ones(sum(sizes), int), icc=0.0, tasks=tasks)
    readers.truth = {task: np.ones(sum(sizes), bool) for task in tasks}
    trait = readers.residuals()
    common = readers.residuals()
    moves = [np.sqrt(shared) * common + np.sqrt(1 - shared) * readers.residuals() for _ in tasks]
    for task in tasks:
        readers.residual[task] = np.sqrt(shared) * trait + np.sqrt(1 - shared) * readers.residuals()
    arm = readers.scores("arm", shift=shift * (readers.g % 2 == 1))
    latent = np.log(arm["score"] / (1 - arm["score"]))
    arm["score"] = 1 / (1 + np.exp(-(latent + 0.4 * np.concatenate(moves))))
    tables = pd.concat([readers.scores("clean"), arm])
    table = audit_change(tables, readers.cohort(), thresholds=0.5, n_boot=n_boot, seed=seed, metrics=("rates",))
    cells = claims(table)
    cells = cells[cells["p_value"].notna() & (cells["metric"] == "tpr")]
    harmed = cells["subgroup"].isin(["b", "d", "f"]).to_numpy()
    ours = (cells["p_adjusted"].to_numpy() <= 0.05)[harmed].mean()
    holm = (holm_by_hand(cells["p_value"].to_numpy()) <= 0.05)[harmed].mean()
    return {"power: max-T": ours, "power: Holm": holm, "gain of max-T over Holm": ours - holm}


def detectable(rng, seed, n_boot, own_flips, n=(400, 400)):
    """The effect that the audit prints as detectable with power .80 (mean over ten other audits) is planted."""
    effect = _printed_mde(n, n_boot)
    readers = Readers(rng, groups_of(*n), np.ones(sum(n), int))
    harmed = (readers.g == 1) & readers.truth["finding"]
    if own_flips:
        arm = readers.scores("arm", noise=NOISE)
        lost = harmed & (arm["score"].to_numpy() >= 0.5) & (rng.random(len(harmed)) < effect / SENSITIVITY)
        arm["score"] = np.where(lost, 0.1, arm["score"])
    else:
        arm = readers.scores("arm", noise=NOISE, shift=shift_for(SENSITIVITY, -effect) * harmed)
    tables = pd.concat([readers.scores("clean"), arm])
    table = audit_change(tables, readers.cohort(), thresholds=0.5, n_boot=n_boot, seed=seed, metrics=("rates",))
    cell = claims(table)
    cell = cell[cell["metric"] == "tpr"]
    return {"power at the printed MDE, unadjusted": float((cell["p_value"] <= 0.05).any()),
            "coverage": covers(cell, -effect), "printed MDE": effect}  # fmt: skip


_MDE: dict = {}


def _printed_mde(n, n_boot) -> float:
    if n not in _MDE:
        values = []
        for i in range(10):
            readers = Readers(np.random.default_rng([77, i]), groups_of(*n), np.ones(sum(n), int))
            tables = pd.concat([readers.scores("clean"), readers.scores("arm", noise=NOISE)])
            table = audit_change(tables, readers.cohort(), thresholds=0.5, n_boot=n_boot, seed=i, metrics=("rates",))
            cell = claims(table)
            values.append(cell.loc[cell["metric"] == "tpr", "mde"].iloc[0])
        _MDE[n] = float(np.mean(values))
    return _MDE[n]


def fold_missing(rng, seed, n_boot):
    """Predictions that do not say which fold's network made them, beside a cohort with folds."""
    readers = Readers(rng, groups_of(150, 150), np.ones(300, int))
    tables = pd.concat([readers.scores("clean"), readers.scores("arm", noise=NOISE)])
    try:
        audit_change(tables, readers.cohort(fold=np.arange(300) % 3), thresholds=0.5, n_boot=n_boot, seed=seed)
    except ValueError as error:
        return {"refused, and the fold is named": float("fold" in str(error))}
    return {"refused, and the fold is named": 0.0}


def random_table(rng, seed, n_boot):
    """Any table: 2 to 5 groups of 12 to 250 patients, 1 to 3 images each, any change in any group, every measure."""
    sizes = rng.integers(12, 250, rng.integers(2, 6))
    images = rng.integers(1, 4, sizes.sum())
    readers = Readers(rng, groups_of(*sizes), images, icc=rng.random(), prevalence=rng.uniform(0.15, 0.85))
    before, moved = rng.normal(scale=0.5, size=(2, len(sizes)))
    signal = np.where(readers.truth["finding"], *readers.cuts()) + before[readers.g]
    arm = readers.scores("arm", signal=signal, noise=rng.uniform(0.05, 1), shift=rng.random() * moved[readers.g])
    tables = pd.concat([readers.scores("clean", signal=signal), arm])
    margin = float(rng.choice([0.02, 0.05, 0.15]))
    table = audit_change(tables, readers.cohort(), thresholds=0.5, n_boot=n_boot, seed=seed, margin=margin)
    return {"a row denies its interval": contradictions(table), "rows of the table": float(len(table))}


HARM = {"power": None, "wrong sign": (None, 0.005), "coverage": COVER, "a row denies its interval": (None, 0.0)}
WORLDS = [
    World("tpr_loss_60", "TPR of a group of 60 falls from .80 to .50 beside 600 others",
          partial(tpr_loss, small=60, change=-0.30), HARM | {"power": (0.80, None)}),
    World("tpr_loss_300", "TPR of a group of 300 falls from .80 to .68 beside 600 others",
          partial(tpr_loss, small=300, change=-0.12), HARM | {"power": (0.80, None)}),
    World("dice_loss", "Dice of a group of 100 patients falls by .05 beside 100 others",
          dice_loss, HARM | {"power": (0.95, None)}),
    World("auroc_loss", "Scores of the sick in a group of 300 fall by .6: AUROC .88 becomes .78",
          partial(auroc_loss, small=300, shift=-0.6),
          {"power": (0.80, None), "wrong sign": (None, 0.005), "coverage": COVER}),
    World("hallucinated", "A tumour of 300 pixels in every healthy slice of one group, in no other",
          hallucinated, {"the harm is found": (0.95, None),
                         "Dice and its gaps all said to be equivalent": (None, 0.0)}),
    *(World(name, f"Six groups ({how}), four tasks; three groups lose true positives: max-T beside Holm",
            partial(adjusted_power, shared=shared, sizes=sizes, shift=shift),
            {"power: max-T": None, "power: Holm": None, "gain of max-T over Holm": (least, None)}, 999)
      for name, how, shared, sizes, shift, least in (
          ("power_correlated", "30 to 160 patients, tasks much alike", 0.8, (160, 80, 60, 50, 40, 30), -0.7, 0.0),
          ("power_independent", "30 to 160 patients, unrelated tasks", 0.0, (160, 80, 60, 50, 40, 30), -0.7, -0.03),
          ("power_small", "12 to 100 patients, unrelated tasks", 0.0, (100, 25, 20, 18, 15, 12), -1.2, -0.04))),
    World("mde_shift", "The printed detectable change of a TPR is planted as a shift of the scores: it uses flips that "
          "happen anyway, so it is found more often than the .80 promised at least",
          partial(detectable, own_flips=False),
          {"power at the printed MDE, unadjusted": (0.80, None), "coverage": COVER, "printed MDE": None}),
    World("mde_flips", "The printed detectable change of a TPR is planted as flips of its own",
          partial(detectable, own_flips=True),
          {"power at the printed MDE, unadjusted": (0.75, 0.87), "coverage": COVER, "printed MDE": None}),
    World("random_table", "Any groups, sizes, changes: no row changed with 0 inside, or equivalent beyond its margin",
          random_table, {"a row denies its interval": (None, 0.0), "rows of the table": None}, 299),
    World("fold_missing", "Predictions without a fold beside a cohort with folds are refused",
          fold_missing, {"refused, and the fold is named": (1.0, None)}, 199),
]  # fmt: skip
