"""Worlds in which nothing changed between subgroups: how often does the audit say that something did?"""

from functools import partial

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.stats import norm
from worlds_tables import (
    COVER,
    FLAGGED,
    LESS,
    NULL_GOALS,
    WITHIN,
    Readers,
    World,
    claims,
    contradictions,
    covers,
    flagged,
    groups_of,
    heavy_tail,
    null_figures,
    shift_for,
    within_subgroups,
)

from fairrecon_core.audit.change import audit_change

NOISE = 0.5


def exchangeable(rng, seed, n_boot, sizes=(300, 300), images=None, tasks=("finding",), arms=("arm",), metrics=None):
    """Every arm reads with the same law as the baseline."""
    group = groups_of(*sizes)
    count = np.ones(len(group), int) if images is None else images(rng, len(group))
    readers = Readers(rng, group, count, tasks=tasks)
    tables = [readers.scores("clean"), *(readers.scores(arm, noise=NOISE) for arm in arms)]
    chosen = {} if metrics is None else {"metrics": metrics}
    table = audit_change(pd.concat(tables), readers.cohort(), thresholds=0.5, n_boot=n_boot, seed=seed, **chosen)
    return null_figures(table)


def seeds(rng, seed, n_boot, n_seeds, spread=0.4):
    """Networks of several training seeds, each of which favours one subgroup by chance."""
    readers = Readers(rng, groups_of(300, 300), np.ones(600, int))
    signal = np.where(readers.truth["finding"], *readers.cuts())
    tables = []
    for k in range(n_seeds):
        tables.append(readers.scores("clean", train_seed=k))
        favour = spread * rng.normal(size=2)[readers.g]
        # the mean of Phi(s + favour) over networks is Phi(s / sqrt(1 + spread^2)): stretched, it is Phi(signal)
        tables.append(readers.scores("arm", signal=signal * np.hypot(1, spread) + favour, noise=NOISE, train_seed=k))
    table = audit_change(
        pd.concat(tables), readers.cohort(), thresholds=0.5, n_boot=n_boot, seed=seed, metrics=("rates",)
    )
    figures = null_figures(table)
    nested = table[(table["estimator"] == "nested") & (table["reference"] != "")]
    return figures | {
        "flagged: a nested row (unadjusted p)": float((nested["p_value"] <= 0.05).mean()) if len(nested) else np.nan,
        "coverage: nested rows": covers(nested, 0.0),
    }


def folds(rng, seed, n_boot, spread=0.15):
    """One network per fold, each of which favours one subgroup by chance."""
    readers = Readers(rng, groups_of(900, 900), np.ones(1800, int))
    fold = np.arange(1800) % 3
    signal = np.where(readers.truth["finding"], *readers.cuts())
    favour = spread * rng.normal(size=(3, 2))[fold, readers.g]
    arm = readers.scores("arm", signal=signal * np.hypot(1, spread) + favour, noise=NOISE, fold=fold)
    tables = pd.concat([readers.scores("clean", fold=fold), arm])
    table = audit_change(
        tables, readers.cohort(fold=fold), thresholds=0.5, n_boot=n_boot, seed=seed, metrics=("rates",)
    )
    return null_figures(table)


def fold_offsets(rng, seed, n_boot):
    """Networks of three folds whose scores differ by an offset in the arm; within each fold nothing changed."""
    readers = Readers(rng, groups_of(300, 300), np.ones(600, int))
    fold = np.arange(600) % 3
    arm = readers.scores("arm", noise=NOISE, shift=np.array([-1.0, 0.0, 1.0])[fold], fold=fold)
    tables = pd.concat([readers.scores("clean", fold=fold), arm])
    table = audit_change(
        tables, readers.cohort(fold=fold), thresholds=0.5, n_boot=n_boot, seed=seed, metrics=("auroc",)
    )
    rows = within_subgroups(table)
    truth = norm.cdf(sum(np.abs(readers.cuts())) / np.sqrt(2))
    held = (rows["ci_low"] <= truth) & (truth <= rows["ci_high"])
    return {
        "flagged: AUROC in a subgroup": flagged(rows),
        "coverage: AUROC of a fold": float(held.mean()),
        "flagged: any claimed cell": flagged(claims(table)),
        "coverage: change in a subgroup": covers(rows, 0.0),
    }


def noise_band(rng, seed, n_boot):
    """Subgroups that are alike, one with ten images a patient: is the gap above the band of noise?"""
    group = groups_of(300, 60)
    readers = Readers(rng, group, np.where(group == 0, 10, 1), icc=0.5)
    tables = pd.concat([readers.scores("clean"), readers.scores("arm", noise=NOISE)])
    table = audit_change(tables, readers.cohort(), thresholds=0.5, n_boot=n_boot, seed=seed, metrics=("rates",))
    gaps = table[(table["subgroup"] == "") & table["metric"].isin(["eop", "fpr_gap"]) & table["band_high"].notna()]
    above = {f"{row.metric} above the band": float(row.value > row.band_high) for row in gaps.itertuples()}
    figures = null_figures(table)
    return {**above, "flagged: any claimed cell": figures["flagged: any claimed cell"],
            "coverage: change of a gap": figures["coverage: change of a gap"]}  # fmt: skip


SIGNALS = np.array([[1.2, -1.0], [1.0, -1.0]])  # of the two groups: with and without the finding
SHIFT = -1.0  # of the second group's images with the finding, in the arm


def population_cut() -> float:
    """Where sensitivity and specificity of the whole population are equal (the baseline arm)."""
    tpr = lambda cut: norm.cdf(SIGNALS[:, 0] - cut).mean()
    specificity = lambda cut: norm.cdf(cut - SIGNALS[:, 1]).mean()
    return float(brentq(lambda cut: tpr(cut) - specificity(cut), -3, 3))


def threshold(rng, seed, n_boot, policy, shift, n_test=300, n_validation=100):
    """The threshold is chosen on few validation patients; the change is that at the population's threshold."""
    n = n_validation // 2
    readers = Readers(rng, groups_of(n_test + n, n_test + n), np.ones(2 * (n_test + n), int))
    split = np.where(np.tile(np.arange(n_test + n), 2) < n, "validation", "test")
    truth = readers.truth["finding"]
    signal = SIGNALS[readers.g, np.where(truth, 0, 1)]
    moved = signal + shift * ((readers.g == 1) & truth)
    tables = pd.concat([readers.scores("clean", signal=signal), readers.scores("arm", signal=moved, noise=NOISE)])
    table = audit_change(
        tables, readers.cohort(split=split), thresholds=policy, n_boot=n_boot, seed=seed, metrics=("rates",)
    )
    figures = null_figures(table)
    if shift == 0:
        return figures
    cut = population_cut()
    true = norm.cdf(SIGNALS[1, 0] + shift - cut) - norm.cdf(SIGNALS[1, 0] - cut)
    second = table[(table["metric"] == "tpr") & (table["subgroup"] == "b")]
    return {
        "coverage: TPR change of a gap": covers(second[second["reference"] != ""], true),
        "coverage: TPR change in the subgroup": covers(second[second["reference"] == ""], true),
        "a row denies its interval": contradictions(table),
    }


def at_the_margin(rng, seed, n_boot, margin=0.05):
    """Twelve tasks whose gap in TPR changed by exactly the margin: is one said to be within?"""
    tasks = tuple(f"task{i:02d}" for i in range(12))
    readers = Readers(rng, groups_of(2000, 2000), np.ones(4000, int), icc=0.0, tasks=tasks)
    moved = readers.scores("arm", noise=0.2)
    lost = (np.tile(readers.g, 12) == 1) & np.concatenate([readers.truth[task] for task in tasks])
    latent = np.log(moved["score"] / (1 - moved["score"])) + shift_for(0.8, -margin) * lost
    moved["score"] = 1 / (1 + np.exp(-latent))
    tables = pd.concat([readers.scores("clean"), moved])
    table = audit_change(
        tables, readers.cohort(), thresholds=0.5, n_boot=n_boot, seed=seed, metrics=("rates",), margin=margin
    )
    tpr = claims(table)
    tpr = tpr[tpr["metric"] == "tpr"]
    return {
        "a task said to be equivalent": float(tpr["verdict"].eq("equivalent").any()),
        "a task said to be within the margin": float(tpr["verdict"].isin(WITHIN).any()),
        "share of tasks said to be within": float(tpr["verdict"].isin(WITHIN).mean()),
    }


def flips(rng, seed, n_boot):
    """Groups that differed before and are read by the same law: more flips near the threshold, no harm."""
    readers = Readers(rng, groups_of(300, 300), np.ones(600, int))
    signal = np.array([[1.6, -1.6], [0.4, -0.4]])[readers.g, np.where(readers.truth["finding"], 0, 1)]
    tables = pd.concat([readers.scores("clean", signal=signal), readers.scores("arm", signal=signal, noise=NOISE)])
    table = audit_change(tables, readers.cohort(), thresholds=0.5, n_boot=n_boot, seed=seed)
    cells = claims(table)
    return {
        "flagged: a flip rate": flagged(cells[cells["metric"].str.contains("flip")]),
        "flagged: TPR and FPR cells": flagged(cells[cells["metric"].isin(["tpr", "fpr"])]),
        "flagged: any claimed cell": flagged(cells),
    }


def omnibus(table: pd.DataFrame, metric: str) -> float:
    """1 where the test "did all subgroups change alike?" of a max-min gap rejects, wherever the table keeps it."""
    rows = table[(table["subgroup"] == "") & table["metric"].str.startswith(metric)]
    own = rows[rows["estimator"].eq("omnibus")]
    if len(own):
        return float(own["p_value"].min() <= 0.05)
    column = next((name for name in ("omnibus_p", "p_omnibus", "omnibus_p_value") if name in table), "p_value")
    known = rows.loc[rows["estimator"] == "plug_in", column].dropna()
    return float(known.min() <= 0.05) if len(known) else np.nan


def small_six(rng, seed, n_boot):
    """Six groups of 12 to 60 patients that change alike."""
    readers = Readers(rng, groups_of(60, 50, 40, 30, 20, 12), np.ones(212, int))
    tables = pd.concat([readers.scores("clean"), readers.scores("arm", noise=NOISE)])
    table = audit_change(
        tables, readers.cohort(), thresholds=0.5, n_boot=n_boot, seed=seed, metrics=("rates",), min_support=5
    )
    figures = null_figures(table)
    return {"omnibus test rejects: TPR": omnibus(table, "eop"), "omnibus test rejects: FPR": omnibus(table, "fpr_gap"),
            "flagged: any claimed cell": figures["flagged: any claimed cell"]}  # fmt: skip


def turned(rng, seed, n_boot):
    """TPR .80 and .70 become .70 and .80: the size of the gap is what it was."""
    readers = Readers(rng, groups_of(300, 300), np.ones(600, int))
    truth = readers.truth["finding"]
    rates = np.array([norm.ppf([0.8, 0.7]), norm.ppf([0.7, 0.8])])
    signal = [np.where(truth, own[readers.g], -0.84) for own in rates]
    tables = pd.concat([readers.scores("clean", signal=signal[0]), readers.scores("arm", signal=signal[1], noise=0.2)])
    table = audit_change(tables, readers.cohort(), thresholds=0.5, n_boot=n_boot, seed=seed, metrics=("rates",))
    gap = table[(table["metric"] == "eop") & (table["estimator"] == "plug_in")]
    return {
        "EOP (max - min) is changed": float(gap["verdict"].isin(FLAGGED).any()),
        "coverage: change of EOP, truth 0": covers(gap, 0.0),
        "a row denies its interval": contradictions(table),
    }


ONLY_RATES = {"metrics": ("rates",)}
WORLDS = [
    World("two_groups", "Two groups of 300 patients, one image each; nothing changed; all measures",
          exchangeable, NULL_GOALS),
    World("six_groups", "Six groups of 5 200, 1 600, 800, 300, 80 and 20 patients; nothing changed",
          partial(exchangeable, sizes=(5200, 1600, 800, 300, 80, 20), **ONLY_RATES), NULL_GOALS),
    World("many_images", "Two groups of 150 patients with 1 to 40 images each, few with many; nothing changed",
          partial(exchangeable, sizes=(150, 150), images=heavy_tail, **ONLY_RATES), NULL_GOALS),
    World("arms_and_tasks", "Three arms, four tasks, two groups of 300; nothing changed; all measures but AUROC",
          partial(exchangeable, tasks=("t1", "t2", "t3", "t4"), arms=("arm1", "arm2", "arm3"),
                  metrics=("rates", "calibration", "flip_rate", "logit_shift")), NULL_GOALS),
    *(World(f"seeds_{k}", f"{k} networks, each favours a group by chance (sd .4); on average nothing changed",
            partial(seeds, n_seeds=k),
            NULL_GOALS | {"flagged: a nested row (unadjusted p)": LESS, "coverage: nested rows": COVER})
      for k in (2, 3, 5)),
    World("folds", "Three folds, one network each, which favours a group by chance (sd .15); on average no change",
          folds, NULL_GOALS),
    World("fold_offsets", "Three folds whose networks differ by an offset of the score; within folds nothing changed",
          fold_offsets, {"flagged: AUROC in a subgroup": LESS, "coverage: AUROC of a fold": COVER,
                         "flagged: any claimed cell": LESS, "coverage: change in a subgroup": COVER}),
    World("noise_band", "300 patients with 10 images against 60 with 1 (ICC .5), groups alike: gap above 97.5 % band",
          noise_band, {"eop above the band": (None, 0.045), "fpr_gap above the band": (None, 0.045),
                       "flagged: any claimed cell": LESS, "coverage: change of a gap": COVER}),
    World("threshold_frozen", "Threshold from 100 validation patients; a TPR falls; truth at the population's cut",
          partial(threshold, policy="validation_frozen", shift=SHIFT, n_test=1000),
          {"coverage: TPR change of a gap": COVER, "coverage: TPR change in the subgroup": COVER,
           "a row denies its interval": (None, 0.0)}),
    World("threshold_per_arm", "A threshold for each arm from 100 validation patients; nothing changed",
          partial(threshold, policy="validation_per_arm", shift=0.0),
          NULL_GOALS),
    World("whole_table", "Two groups of 300, two arms, two tasks, every measure: any flag in the whole table",
          partial(exchangeable, tasks=("t1", "t2"), arms=("arm1", "arm2")), NULL_GOALS),
    World("at_the_margin", "Twelve tasks whose gap changed by exactly the margin: one said to be equivalent?",
          at_the_margin, {"a task said to be equivalent": None, "a task said to be within the margin": None,
                          "share of tasks said to be within": (None, 0.04)}, 299),  # said task by task, at alpha / 2
    World("flips", "Groups differed before, so one flips more; nobody is read worse than before",
          flips, {"flagged: a flip rate": LESS, "flagged: TPR and FPR cells": LESS, "flagged: any claimed cell": LESS}),
    World("small_six", "Six groups of 12 to 60 patients that change alike: does the test of all groups reject?",
          small_six, {"omnibus test rejects: TPR": LESS, "omnibus test rejects: FPR": LESS,
                      "flagged: any claimed cell": LESS}),
    World("turned", "TPR .80 and .70 become .70 and .80: who is worse off turns round, the size of the gap does not",
          turned, {"EOP (max - min) is changed": LESS, "coverage: change of EOP, truth 0": (0.93, None),
                   "a row denies its interval": (None, 0.0)}),
]  # fmt: skip
