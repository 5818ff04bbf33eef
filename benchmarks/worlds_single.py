"""Worlds for one model alone: do its gaps at the null, its intervals, its bounds and its plan keep their promises?

The truth of each figure is that of a huge sample of the same law, made once, with scikit-learn and statsmodels-free
formulas of its own: nothing is shared with the audit.
"""

import functools

import numpy as np
import pandas as pd
from scipy.special import expit, logit
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from worlds_tables import LESS, SENSITIVITY, Readers, World, groups_of, heavy_tail

from fairrecon_lab.auditing.bounds import bounds_unrecorded
from fairrecon_lab.auditing.plan import Plan, plan_table
from fairrecon_lab.auditing.search import search_subgroups
from fairrecon_lab.auditing.single import audit_single

DIFFERENT = ("different", "different_within_margin")
COVER = (0.93, 0.97)
SHOWN = ("tpr", "fpr", "ppv", "accuracy", "auroc", "auprc", "brier", "calibration", "calibration_intercept",
         "calibration_slope", "score_shift")  # fmt: skip


@functools.cache
def truths(prevalence: float) -> dict:
    """What each measure is of patients without number, all subgroups alike."""
    rng = np.random.default_rng(1)
    readers = Readers(rng, np.zeros(1_000_000, int), np.ones(1_000_000, int), icc=0.0, prevalence=prevalence)
    score, truth = readers.scores("x")["score"].to_numpy(), readers.truth["finding"]
    x = logit(score)
    intercept = 0.0
    for _ in range(30):
        p = expit(x + intercept)
        intercept += (truth - p).sum() / (p * (1 - p)).sum()
    fit = LogisticRegression(C=np.inf, tol=1e-8).fit(x[:, None], truth)
    called = score >= 0.5
    return {
        ("tpr", "1"): called[truth].mean(), ("fpr", "0"): called[~truth].mean(), ("ppv", ""): truth[called].mean(),
        ("accuracy", ""): (called == truth).mean(), ("auroc", ""): roc_auc_score(truth, score),
        ("auprc", ""): average_precision_score(truth, score), ("brier", ""): ((score - truth) ** 2).mean(),
        ("calibration", ""): (score - truth).mean(), ("calibration_intercept", ""): intercept,
        ("calibration_slope", ""): fit.coef_[0, 0], ("score_shift", "1"): x[truth].mean(),
        ("score_shift", "0"): x[~truth].mean(),
    }  # fmt: skip


def alike(rng, seed, n_boot, sizes=(300, 300), images=None, icc=0.5, prevalence=0.5, least=10, **chosen):
    """All subgroups are read by the same law: flags, and coverage of every measure and gap."""
    group = groups_of(*sizes)
    count = np.ones(len(group), int) if images is None else images(rng, len(group))
    readers = Readers(rng, group, count, icc=icc, prevalence=prevalence)
    table = audit_single(readers.scores("model"), readers.cohort(), "sex", thresholds=0.5, n_boot=n_boot, seed=seed,
                         min_support=least, **chosen)  # fmt: skip
    return figures(table, truths(prevalence))


def figures(table: pd.DataFrame, truth: dict) -> dict:
    """Flags at the null, coverage by metric, and rows that deny themselves."""
    signed = table[table["reference"].ne("") & table["ci_low"].notna()]
    widest = table[table["subgroup"].eq("") & table["estimator"].eq("plug_in") & table["ci_low"].notna()]
    level = table[table["subgroup"].ne("") & table["reference"].eq("") & table["ci_low"].notna()]
    claims, found = signed[signed["role"].eq("primary")], {}
    families = signed.groupby("family")["verdict"].apply(lambda verdict: verdict.isin(DIFFERENT).any())
    found["flagged: any claimed gap"] = float(claims["verdict"].isin(DIFFERENT).any()) if len(claims) else np.nan
    found["flagged: a family of gaps, any metric"] = float(families.mean()) if len(families) else np.nan
    found["flagged: a max-min gap"] = float((widest["p_value"] <= 0.05).mean()) if len(widest) else np.nan
    omnibus = table.loc[table["estimator"].eq("omnibus"), "p_value"].dropna()
    found["flagged: an omnibus test"] = float((omnibus <= 0.05).mean()) if len(omnibus) else np.nan
    found["above the band of noise"] = float((widest["value"] > widest["band_high"]).mean()) if len(widest) else np.nan
    for metric in SHOWN:
        own = level[level["metric"].eq(metric)]
        target = [truth[metric, label] for label in own["label"]]
        inside = (own["ci_low"] <= target) & (target <= own["ci_high"])
        found[f"coverage: {metric}"] = float(inside.mean()) if len(own) else np.nan
        gap = signed[signed["metric"].eq(metric)]
        inside = (gap["ci_low"] <= 0) & (gap["ci_high"] >= 0)
        found[f"coverage: gap of {metric}"] = float(inside.mean()) if len(gap) else np.nan
    p, low, high, margin = (table[name] for name in ("p_value", "ci_low", "ci_high", "margin"))
    plain = table[table["estimator"].eq("plug_in")].index
    apart = low.notna() & p.notna() & (p.le(0.05) != ((low > 0) | (high < 0)))
    denies = table["verdict"].isin(DIFFERENT) & (low <= 0) & (high >= 0)
    outside = table["verdict"].isin(("equivalent", "different_within_margin")) & ~((low > -margin) & (high < margin))
    found["a row denies its interval"] = float((apart | denies | outside)[plain].any())
    return found


GOALS = {
    "flagged: any claimed gap": LESS,
    "flagged: a family of gaps, any metric": LESS,
    "flagged: a max-min gap": LESS,
    "flagged: an omnibus test": LESS,
    "above the band of noise": None,
    "a row denies its interval": (None, 0.0),
    **{f"coverage: {metric}": COVER for metric in SHOWN},
    **{f"coverage: gap of {metric}": COVER for metric in SHOWN},
}


def single(name: str, words: str, **arguments) -> World:
    return World(name, words, functools.partial(alike, **arguments), GOALS)


# Who and what is missing, after the results are known: every rule may look at subgroup, finding and decision.
# A rule gives the chance that a patient's subgroup, and that an image's label, was not recorded.
ATTRIBUTE_LOST = {
    "by chance": lambda b, ill, right: 0.1 + 0 * b,
    "only of b": lambda b, ill, right: 0.25 * b,
    "only of a": lambda b, ill, right: 0.25 * ~b,
    "of b where wrong": lambda b, ill, right: 0.8 * (b & ~right),
    "of b where right": lambda b, ill, right: 0.3 * (b & right),
    "of b missed": lambda b, ill, right: 1.0 * (b & ill & ~right),
    "of b falsely called": lambda b, ill, right: 1.0 * (b & ~ill & ~right),
    "of a where wrong, of b where right": lambda b, ill, right: 0.4 * np.where(b, right, ~right),
    "of a where right, of b where wrong": lambda b, ill, right: 0.4 * np.where(b, ~right, right),
    "of all who are wrong": lambda b, ill, right: 1.0 * ~right,
}
LABEL_LOST = {
    "by chance": lambda b, ill, right: 0.1 + 0 * b,
    "only of b": lambda b, ill, right: 0.25 * b,
    "of the ill": lambda b, ill, right: 0.25 * ill,
    "of the well": lambda b, ill, right: 0.25 * ~ill,
    "of b missed": lambda b, ill, right: 1.0 * (b & ill & ~right),
    "of b found": lambda b, ill, right: 0.3 * (b & ill & right),
    "of b falsely called": lambda b, ill, right: 1.0 * (b & ~ill & ~right),
    "of a missed": lambda b, ill, right: 1.0 * (~b & ill & ~right),
    "where wrong": lambda b, ill, right: 1.0 * ~right,
    "of a where wrong, of b where right": lambda b, ill, right: 0.4 * np.where(b, right, ~right),
}


def unrecorded(rng, seed, n_boot, sizes=(300, 150), gap=0.0):
    """Twenty ways to lose the subgroup of patients, or the labels of images, one at a time; two images a patient."""
    readers = Readers(rng, groups_of(*sizes), np.full(sum(sizes), 2), icc=0.3)
    moved = norm.ppf(SENSITIVITY - gap) - norm.ppf(SENSITIVITY)
    predictions = readers.scores("model", shift=moved * ((readers.g == 1) & readers.truth["finding"]))
    b, ill, cohort = readers.g == 1, readers.truth["finding"], readers.cohort()
    right = (predictions["score"].to_numpy() >= 0.5) == ill
    truth = {("tpr", "a", ""): 0.8, ("tpr", "b", ""): 0.8 - gap, ("fpr", "a", ""): 0.2, ("fpr", "b", ""): 0.2,
             ("accuracy", "a", ""): 0.8, ("accuracy", "b", ""): 0.8 - gap / 2, ("tpr", "b", "a"): -gap,
             ("fpr", "b", "a"): 0.0, ("accuracy", "b", "a"): -gap / 2}  # fmt: skip
    found, widths = {}, []
    rules = [("sex", rule, how) for rule, how in ATTRIBUTE_LOST.items()]
    for what, rule, how in rules + [("label", rule, how) for rule, how in LABEL_LOST.items()]:
        chance = how(b, ill, right)
        if what == "sex":  # a patient is asked once: the chance is that of the first image
            lost = (rng.random(sum(sizes)) < chance[::2])[readers.patient]
            seen = cohort.assign(sex=np.where(lost, "", cohort["sex"]))
        else:
            seen = cohort.assign(y_finding=np.where(rng.random(len(b)) < chance, np.nan, cohort["y_finding"]))
        table = bounds_unrecorded(predictions, seen, "sex", thresholds=0.5, reference="a",
                                  metrics=("tpr", "fpr", "accuracy"))  # fmt: skip
        target = [truth[key] for key in table[["metric", "subgroup", "reference"]].itertuples(index=False, name=None)]
        inside = (table["ci_low"] <= target) & (target <= table["ci_high"])
        for kind, own in (("rates", table["reference"].eq("")), ("gaps", table["reference"].ne(""))):
            found[f"{what} lost {rule}: {kind} covered"] = float(inside[own].mean())
        widths.append((table["high"] - table["low"]).mean())
    covered = [value for key, value in found.items() if key.endswith("covered")]
    return found | {"all ways at once": float(np.mean(covered)), "width of what is possible": float(np.mean(widths))}


def planned(rng, seed, n_boot, sizes, images=1, icc=0.0, prevalence=0.5, gap=0.1, margin=0.1):
    """Power and chance of *equivalent* as planned, against audits of tables made by another law of clusters.

    A patient's decisions are one common draw with chance sqrt(icc), else each its own: their correlation is icc. The
    last subgroup's TPR is lower by `gap`; FPRs are alike.
    """
    plan = Plan({f"g{k}": n for k, n in enumerate(sizes)}, effect=gap, margin=margin, prevalence=prevalence,
                images=images, icc=icc)  # fmt: skip
    told = plan_table(plan).set_index(["metric", "subgroup"])
    last = len(sizes) - 1
    patient = np.repeat(np.arange(sum(sizes)), images)
    g, ill = groups_of(*sizes)[patient], (rng.random(sum(sizes)) < prevalence)[patient]
    rate = np.where(ill, 0.8 - gap * (g == last), 0.2)
    common, own = rng.random(sum(sizes))[patient], rng.random(len(patient))
    drawn = np.where(rng.random(len(patient)) < np.sqrt(icc), common, own)
    cohort = pd.DataFrame({"image_id": np.arange(len(g)), "patient_id": patient, "sex": np.array(list("abcdefgh"))[g],
                           "y_t": ill.astype(float)})  # fmt: skip
    results = pd.DataFrame({"image_id": cohort["image_id"], "task": "t", "score": np.where(drawn < rate, 0.9, 0.1)})
    table = audit_single(results, cohort, "sex", thresholds=0.5, n_boot=n_boot, seed=seed, margin=margin,
                         metrics=("rates",), reference="a")  # fmt: skip
    signed = table[table["reference"].ne("")].set_index(["metric", "subgroup"])["verdict"]
    name = "abcdefgh"[last]
    within = float(signed["fpr", name] in ("equivalent", "different_within_margin"))
    return {
        "power, less the planned": float(signed["tpr", name] in DIFFERENT) - told.loc[("tpr", f"g{last}"), "power"],
        "power as planned": told.loc[("tpr", f"g{last}"), "power"],
        "equivalent, less the planned": within - told.loc[("fpr", f"g{last}"), "chance_equivalent"],
        "equivalent as planned": told.loc[("fpr", f"g{last}"), "chance_equivalent"],
    }


def searched(rng, seed, n_boot, loss=0.0):
    """Four traits, all pairs of values; with `loss` one pair reads worse."""
    n = 1500
    readers = Readers(rng, groups_of(1000, 500), np.full(n, 2), icc=0.3)
    more = {"race": rng.choice(list("wxy"), n, p=[0.6, 0.25, 0.15]), "age": rng.normal(60, 15, n).round(),
            "site": rng.choice(["p", "q"], n)}  # fmt: skip
    cohort = readers.cohort(**{name: values[readers.patient] for name, values in more.items()})
    bad = (cohort["sex"] == "b") & (cohort["race"] == "x")
    shift = np.where(bad, np.where(readers.truth["finding"], -loss, loss), 0.0)
    table = search_subgroups(readers.scores("model", shift=shift), cohort, ["sex", "race", "age", "site"],
                             thresholds=0.5, n_boot=n_boot, seed=seed)  # fmt: skip
    found = table[table["flagged"]]
    wrong = found["flagged"].any() if loss == 0 else np.nan
    return {
        "flagged: any subgroup": float(wrong),
        "subgroups compared": float(len(table)),
        "the planted one is found": float(found["subgroup"].eq("sex = b & race = x").any()) if loss else np.nan,
    }


NEAR = {"power, less the planned": (-0.05, 0.05), "equivalent, less the planned": (-0.05, 0.05),
        "power as planned": None, "equivalent as planned": None}  # fmt: skip
KEPT = {
    f"{what} lost {rule}: {kind} covered": (0.95, None)
    for what, rules in (("sex", ATTRIBUTE_LOST), ("label", LABEL_LOST))
    for rule in rules
    for kind in ("rates", "gaps")
} | {"all ways at once": (0.95, None), "width of what is possible": None}

WORLDS = [
    World("plan_two", "a plan for two subgroups, a gap of .1", functools.partial(planned, sizes=(600, 500)), NEAR),
    World("plan_clusters", "a plan for three subgroups, four images a patient, ICC .3",
          functools.partial(planned, sizes=(900, 300, 200), images=4, icc=0.3, gap=0.12), NEAR),
    World("plan_small", "a plan with a subgroup of 60 patients, a finding in one of three",
          functools.partial(planned, sizes=(900, 300, 60), prevalence=0.33, gap=0.25, margin=0.15), NEAR),
    World("search_null", "four traits and their pairs, all read alike: is a subgroup flagged?", searched,
          {"flagged: any subgroup": LESS, "subgroups compared": None}),
    World("search_planted", "one pair of traits reads much worse", functools.partial(searched, loss=0.8),
          {"the planted one is found": (0.8, None), "subgroups compared": None}),
    World("unrecorded", "subgroups or labels missing in 20 ways, two subgroups alike", unrecorded, KEPT),
    World("unrecorded_gap", "the same, with a true gap of .15 in TPR",
          functools.partial(unrecorded, gap=0.15), KEPT),
    single("single_two", "one model, two subgroups of 300 patients read alike, one image each"),
    single("single_uneven", "six uneven subgroups (2600 to 20 patients) read alike",
           sizes=(2600, 800, 400, 150, 60, 20)),
    single("single_clusters", "two subgroups of 200, 1 to 40 images a patient, half of the variance the patient's",
           sizes=(200, 200), images=heavy_tail),
    single("single_small", "three subgroups of 60 patients, 3 images each", sizes=(60, 60, 60),
           images=lambda rng, n: np.full(n, 3)),
    single("single_rare", "two subgroups of 400 and 200 patients, a finding in one of ten", sizes=(400, 200),
           prevalence=0.1),
    single("single_pairs", "four subgroups, every pair compared", sizes=(300, 200, 100, 60), reference="all-pairs"),
    single("single_rest", "four subgroups, each against the rest", sizes=(300, 200, 100, 60), reference="rest"),
]  # fmt: skip
