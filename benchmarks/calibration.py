"""Does the audit keep its promises? Simulations with known truth; the table is kept in results/calibration/.

Every row is one acceptance test: what was claimed, how many simulations, the figure found, the range it should be in.
All randomness is seeded. Score-level tests run the package's own control arms through the package's own inference.

    python benchmarks/calibration.py [--quick] [--only NAME ...] [--out FOLDER] [--json FILE]
"""

import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import kstest, norm

sys.path.insert(0, str(Path(__file__).parent))
from report import Report, parser
from wald import cluster_robust_did

from fairrecon_core.audit import metrics
from fairrecon_core.audit.bootstrap import percentile_interval
from fairrecon_core.audit.engine import Stratum, cell_sums, group_totals, patient_weights, resample, weighted_auroc
from fairrecon_core.audit.groups import resample_means
from fairrecon_core.audit.inference import (
    Contrast,
    change_interval,
    contrast,
    dispersion,
    group_range,
    minimal_detectable_effect,
    null_means,
    range_interval,
    verdicts,
)
from fairrecon_core.audit.multiplicity import benjamini_hochberg, holm, omnibus_test, step_down_max_t, swap_test
from fairrecon_lab.paper.evaluation import post_hoc_p_value
from fairrecon_lab.simulate.control_scores import placebo, planted

RACE = np.array([0.0031, 0.1221, 0.0544, 0.0152, 0.1696, 0.6356])  # shares of the paper's Table 2
RACE = RACE / RACE.sum()
SEX = np.array([0.55, 0.45])
TPR, FPR = 0.78, 0.15
PATIENTS = 3000  # of a score-level trial
ROWS: list[dict] = []


def note(test, claim, setting, n, value, low, high) -> None:
    """Keep one row; `low` and `high` may be None."""
    holds = (low is None or value >= low) and (high is None or value <= high)
    ROWS.append({"test": test, "claim": claim, "setting": setting, "n_simulations": n, "value": float(value),
                 "low": low, "high": high, "holds": bool(holds)})  # fmt: skip
    print(
        f"{test:<6} {claim:<52} {setting:<44} {value:>10.4g}  [{low}, {high}] {'' if holds else 'MISSED'}", flush=True
    )


def readings(rng, n_patients, images, shares, gap=0.0, drop=0.0, planted=0.0, noise=0.3):
    """Positives read twice: patient, group and decisions (2, rows). Half of the variance is the patient's.

    TPR is .78, lower by up to `gap` in the last group; the arm is the baseline's score with noise, its TPR lower by
    `drop` in all groups and by `planted` more in the last one. Images per patient: 1 + Poisson(images - 1).
    """
    group = rng.choice(len(shares), n_patients, p=shares)
    patient = np.repeat(np.arange(n_patients), 1 + rng.poisson(images - 1, n_patients))
    half = np.sqrt(0.5)
    score = half * (rng.normal(size=n_patients)[patient] + rng.normal(size=len(patient)))
    moved = score + noise * half * (rng.normal(size=n_patients)[patient] + rng.normal(size=len(patient)))
    group = group[patient]
    before = TPR - gap * group / max(len(shares) - 1, 1)
    after = before - drop - planted * (group == len(shares) - 1)
    return patient, group, np.stack([score < norm.ppf(before), moved / np.hypot(1, noise) < norm.ppf(after)])


def rate(decisions, rows=None) -> Stratum:
    return Stratum("rate", decisions, np.ones(decisions.shape[1], bool) if rows is None else rows)


def one_did(rng, shares=SEX, n_boot=999, reference=0, **arguments):
    patient, group, decisions = readings(rng, shares=shares, **arguments)
    (result,) = resample_means(patient, group, [rate(decisions)], [len(shares)], n_boot=n_boot,
                               seed=int(rng.integers(2**31)), reference=reference)  # fmt: skip
    return contrast(result, "did")


# A: point metrics against independent implementations


def point_metrics(scale):
    from fairlearn.metrics import equal_opportunity_difference, equalized_odds_difference
    from sklearn.metrics import roc_auc_score

    rng, n = np.random.default_rng(1), scale(200)
    worst, order, bounds = {"max": 0.0, "mean": 0.0, "eop": 0.0, "auroc": 0.0, "ser": 0.0}, 0, 0
    for i in range(n):
        k = 2 if i % 2 else 6
        group = np.r_[np.tile(np.arange(k), 4), rng.integers(0, k, 300)]
        truth = np.r_[np.repeat([0, 1], 2 * k), rng.integers(0, 2, 300)]
        decision, name = rng.integers(0, 2, len(truth)), group.astype(str)
        ours = {agg: metrics.eodd(truth, decision, name, agg=agg) for agg in ("max", "mean")}
        ours["eop"] = metrics.eop(truth, decision, name)
        theirs = {agg: equalized_odds_difference(truth, decision, sensitive_features=name, agg=word)
                  for agg, word in (("max", "worst_case"), ("mean", "mean"))}  # fmt: skip
        theirs["eop"] = equal_opportunity_difference(truth, decision, sensitive_features=name)
        worst |= {key: max(worst[key], abs(ours[key] - theirs[key])) for key in theirs}
        bounds += not (ours["eop"] / 2 - 1e-12 <= ours["mean"] <= ours["max"] + 1e-12 <= 2 * ours["mean"] + 1e-9)
        bounds += not (ours["mean"] <= (1 + ours["eop"]) / 2 + 1e-12 and ours["max"] >= ours["eop"] - 1e-12)
        score, weight = rng.integers(0, 20, len(truth)), rng.integers(0, 4, len(truth))
        auroc = weighted_auroc(score, truth, weight)
        worst["auroc"] = max(worst["auroc"], abs(auroc - roc_auc_score(truth, score, sample_weight=weight)))
        dice = rng.random(len(group))
        ser = metrics.ser(dice, name)
        order += ser < 1 or abs(ser - metrics.ser(dice[::-1], name[::-1])) > 1e-12
    for key in ("max", "mean", "eop"):
        note("A1", f"{key}: largest difference from fairlearn", "2 and 6 groups", n, worst[key], None, 1e-12)
    note("A3", "violations of EOP/2 <= mean <= max <= 2 mean", "2 and 6 groups", n, bounds, 0, 0)
    note("A6", "SER below 1 or dependent on order", "2 and 6 groups", n, order, 0, 0)
    note(
        "A7", "weighted AUROC: largest difference from scikit-learn", "ties, weights 0-3", n, worst["auroc"], None, 1e-6
    )


# B: the engine


def engine(scale):
    import statsmodels.api as sm

    weights = np.concatenate(list(patient_weights(1000, scale(4000), seed=1))).astype(float)
    note("B2", "weights: rows that do not sum to P", "P 1000", len(weights), (weights.sum(axis=1) != 1000).sum(), 0, 0)
    note("B2", "weights: variance / (1 - 1/P)", "P 1000", len(weights), weights.var() / (1 - 1 / 1000), 0.99, 1.01)
    rng = np.random.default_rng(2)
    wrong, compared = 0, 0
    for seed in range(scale(40)):
        patient, group, decisions = readings(rng, 60, 3, RACE[2:] / RACE[2:].sum())
        age = rng.integers(0, 2, len(patient))  # varies within patients
        cells = cell_sums(patient, np.stack([group, age], 1), [rate(decisions)])
        totals = np.concatenate(list(resample(cells, 8, seed)))
        for weight, total in zip(np.concatenate(list(patient_weights(cells.n_patients, 8, seed))), totals):
            rows = np.repeat(np.arange(len(patient)), weight[patient])
            for column, codes, n_groups in ((0, group, 4), (1, age, 2)):
                by_group = group_totals(total[None], cells.codes[:, column], n_groups)[0, :, 0]
                for g in range(n_groups):
                    chosen = rows[codes[rows] == g]
                    wrong += by_group[g].tolist() != [len(chosen), *decisions[:, chosen].sum(axis=1)]
                    compared += 1
    note("B1", "counts that differ from explicit resampling", "age varies within patients", compared, wrong, 0, 0)
    ratio, ols, clustering = [], 0.0, {3: [], 1: []}
    for seed in range(scale(20)):
        patient, group, decisions = readings(rng, 1000, 3, SEX, gap=0.1)
        (result,) = resample_means(patient, group, [rate(decisions)], [2], n_boot=4000, seed=seed, reference=0)
        difference = decisions[1].astype(float) - decisions[0]
        _, se = cluster_robust_did(decisions[0], group, patient)
        draws = result.resamples[:, 0, 0]
        ratio.append((draws[:, 1] - draws[:, 0]).std() / se[1])
        design = np.stack([np.ones(len(group)), group], 1)
        fit = sm.OLS(difference, design).fit(cov_type="cluster", cov_kwds={"groups": patient})
        _, same = cluster_robust_did(difference, group, patient, correction="statsmodels")
        ols = max(ols, abs(same[1] / fit.bse[1] - 1))
        for images in clustering:
            patient, group, decisions = readings(rng, 3000 // images, images, SEX)
            both = [cluster_robust_did(decisions[0], group, who)[1][1] for who in (patient, np.arange(len(patient)))]
            clustering[images].append(both[0] / both[1])
    note("B3", "bootstrap SD of a TPR gap / Wald SE", "P 1000, B 4000, mean", len(ratio), np.mean(ratio), 0.95, 1.05)
    note("B4", "Wald SE: largest relative difference from OLS", "statsmodels, clustered", len(ratio), ols, None, 1e-6)
    note("B6", "cluster SE / image SE, 3 images, ICC .5", "3000 images", len(ratio), np.mean(clustering[3]), 1.2, None)
    note("B6", "cluster SE / image SE, 1 image", "3000 images", len(ratio), np.mean(clustering[1]), 0.95, 1.05)


# C: calibration of the inference


def null_p_values(scale):
    settings = {"gap 0": {}, "gap .15": {"gap": 0.15}, "gap .15, all drop by .05": {"gap": 0.15, "drop": 0.05},
                "40 patients, 1 image": {"n_patients": 40, "images": 1, "shares": np.array([0.6, 0.4])}}  # fmt: skip
    for name, arguments in settings.items():
        rng, n = np.random.default_rng(3), scale(1000)
        questions = [one_did(rng, **({"n_patients": 800, "images": 3} | arguments)) for _ in range(n)]
        p = np.array([question.p_value()[0, 0, 1] for question in questions])
        small = name.startswith("40")
        note(
            "C1",
            "signed DiD, nothing changed: size at .05",
            name,
            n,
            np.mean(p <= 0.05),
            None if small else 0.035,
            0.065,
        )
        if not small:
            note("C1", "p-values uniform: Kolmogorov-Smirnov p", name, n, kstest(p, "uniform").pvalue, 0.01, None)


def published_test(scale):
    """Demonstrations: the published test, and a percentile interval, fail."""
    rng, n = np.random.default_rng(4), scale(1000)
    p, covered = [], 0
    for _ in range(n):
        patient, group, decisions = readings(rng, 800, 3, SEX, gap=0.15)
        key = group * 4 + decisions[0] * 2 + decisions[1]
        counts = np.bincount(key, minlength=8)
        drawn = rng.multinomial(counts.sum(), counts / counts.sum(), 1000).reshape(-1, 2, 2, 2)
        both = np.concatenate([counts.reshape(1, 2, 2, 2), drawn]).astype(float)
        size = both.sum(axis=(2, 3))
        gaps = np.stack(
            [np.ptp(both[:, :, 1].sum(axis=2) / size, axis=1), np.ptp(both[..., 1].sum(axis=2) / size, axis=1)]
        )
        change = gaps[1] - gaps[0]
        p.append(post_hoc_p_value(change[0], change[1:]))
    note(
        "C2",
        "published test (rows, side chosen after): size",
        "gap .15, 3 images",
        n,
        np.mean(np.array(p) < 0.05),
        0.11,
        0.17,
    )
    for seed in range(scale(200)):
        patient, group, decisions = readings(rng, 800, 3, SEX)
        (result,) = resample_means(patient, group, [rate(decisions)], [2], n_boot=999, seed=seed)
        covered += percentile_interval(group_range(result.resamples[:, 0, 0]))[0] <= 0
    note(
        "C5",
        "percentile interval of a max-min gap: coverage",
        "no gap, 2 groups",
        scale(200),
        covered / scale(200),
        0,
        0,
    )


def injected(scale):
    rng, n = np.random.default_rng(5), scale(1000)
    estimate, covered = np.empty(n), np.empty(n)
    for i in range(n):
        question = one_did(rng, n_patients=800, images=3, planted=0.05)
        low, high = (bound[0, 0, 1] for bound in question.interval())
        estimate[i], covered[i] = question.estimate[0, 0, 1], low <= -0.05 <= high
    note("C3", "injected change of -.05: mean estimate", "800 patients, 3 images", n, estimate.mean(), -0.053, -0.047)
    note("C3", "injected change of -.05: coverage of 95 %", "800 patients, 3 images", n, covered.mean(), 0.93, 0.97)


def gap_intervals(scale):
    for shares, kind in ((SEX, "2 groups"), (RACE, "6 groups, race shares")):
        for gap in (0.0, 0.02, 0.10):
            rng, n = np.random.default_rng(6), scale(200)
            covered, positive, changes = 0, 0, 0
            for seed in range(n):
                patient, group, decisions = readings(rng, 1600, 2, shares, gap=gap)
                (result,) = resample_means(patient, group, [rate(decisions)], [len(shares)], n_boot=499, seed=seed)
                interval, change = range_interval(result), change_interval(result)
                known = ~np.isnan(result.value[0, 0])
                truth = np.ptp((TPR - gap * np.arange(len(shares)) / (len(shares) - 1))[known])
                covered += interval.low[0, 0] <= truth <= interval.high[0, 0]
                positive += interval.low[0, 0] > 0
                changes += change.low[0, 0] <= 0 <= change.high[0, 0]
            setting = f"{kind}, gap {gap:g}, 1 600 patients"
            note("C4", "simultaneous interval of a gap: coverage", setting, n, covered / n, 0.93, None)
            note("C4", "interval of the gap's change (none): coverage", setting, n, changes / n, 0.93, None)
            if gap == 0:
                note("C4", "its lower bound is above 0", setting, n, positive / n, None, 0.065)


def equivalence(scale):
    rng, n = np.random.default_rng(7), scale(200)
    for margin, planted_change, low, high in ((0.02, 0.02, None, 0.075), (0.02, 0.0, 0.8, None)):
        within = ["equivalent", "changed_within_margin"]
        declared = [verdicts(one_did(rng, n_patients=3000, images=3, planted=planted_change), margin)[0, 0, 1] in within
                    for _ in range(n)]  # fmt: skip
        claim = (
            "declared within the margin although changed by it"
            if planted_change
            else "declared within, nothing changed"
        )
        note("C6", claim, f"3 000 patients, margin {margin:g}", n, np.mean(declared), low, high)


def families(scale):
    rng, n = np.random.default_rng(8), scale(200)
    found = {"max-T": [], "Holm": [], "BH": [], "unadjusted": []}
    power, false = {key: [] for key in found}, []
    for seed in range(n):
        group, trait = (rng.random(2000) < 0.45).astype(int), rng.normal(size=(2000, 1))
        latent = 0.5 * trait + 0.6 * rng.normal(size=(2000, 12))
        base = latent < 0.6
        arms = [latent + 0.35 * rng.normal(size=latent.shape) < 0.67 for _ in range(3)]
        for effect in (False, True):
            arm = np.stack(arms)
            if effect:
                arm[..., :3] &= ~((rng.random((3, 2000, 3)) < 0.05) & (group == 1)[:, None])
            strata = [rate(np.concatenate([base[None], arm])[..., task]) for task in range(12)]
            (result,) = resample_means(
                np.arange(2000), group, strata, [2], n_boot=999, seed=seed, reference=0
            )  # Holm needs p < .05 / 36
            question = contrast(result)
            p = question.p_value()
            values = {
                "max-T": step_down_max_t([question])[0],
                "Holm": holm(p),
                "BH": benjamini_hochberg(p),
                "unadjusted": p,
            }
            for key, value in values.items():
                hit = value[..., 1] <= (0.1 if key == "BH" else 0.05)
                (power if effect else found)[key].append(hit[:3].mean() if effect else hit.any())
                if effect and key == "BH":
                    false.append(hit[3:].sum() / max(hit.sum(), 1))
    setting = "12 tasks x 3 arms, correlated"
    note("C7", "max-T: any false claim in a family", setting, n, np.mean(found["max-T"]), None, 0.07)
    note("C7", "Holm: any false claim in a family", setting, n, np.mean(found["Holm"]), None, 0.07)
    note("C7", "unadjusted: any false claim in a family", setting, n, np.mean(found["unadjusted"]), 0.5, None)
    for key in found:
        note("C7", f"{key}: mean power, 9 effects of about -.04", setting, n, np.mean(power[key]), None, None)
    note("C7", "BH at .10: false discoveries", setting, n, np.mean(false), None, 0.12)


def psnr_gaps(scale):
    rng, n = np.random.default_rng(9), scale(500)
    shares, p, picked = np.array([0.25, 0.2, 0.2, 0.15, 0.1, 0.1]), [], []
    for seed in range(n):
        patient = np.repeat(np.arange(300), 3)
        group = rng.choice(6, 300, p=shares)[patient]
        psnr = 30 + rng.normal(size=300)[patient] + 0.5 * rng.normal(size=900)
        stratum = Stratum("psnr_db", psnr[None], np.ones(900), rate=False)
        (result,) = resample_means(patient, group, [stratum], [6], n_boot=499, seed=seed)
        p.append(omnibus_test(contrast(result, "level")).p_value[0, 0])
        value = result.value[0, 0]
        rows = rng.integers(0, 900, (200, 900))  # the published way: images, extremes fixed
        drawn = [
            np.nanmean(np.where(group[rows] == g, psnr[rows], np.nan), axis=1) for g in (value.argmax(), value.argmin())
        ]
        picked.append(np.mean(drawn[0] <= drawn[1]))
    note(
        "C8",
        "omnibus test of a PSNR gap: size",
        "6 groups, 300 patients, 3 images",
        n,
        np.mean(np.array(p) <= 0.05),
        0.03,
        0.07,
    )
    note("C8", "published test of a PSNR gap: size", "the same", n, np.mean(np.array(picked) < 0.05), 0.5, None)


def corrected_gaps(scale):
    rng, n = np.random.default_rng(10), scale(400)
    square, excess, plain = np.empty(n), np.empty(n), np.empty(n)
    for seed in range(n):
        patient, group, decisions = readings(rng, 1600, 1, RACE)
        (result,) = resample_means(patient, group, [rate(decisions)], [6], n_boot=1, seed=seed)
        sd = dispersion(result)[0, 0]
        plain[seed] = group_range(result.value)[0, 0]
        null = group_range(null_means(patient, group, [rate(decisions)], 6, n_draws=200, seed=seed))
        square[seed], excess[seed] = sd * abs(sd), plain[seed] - null[:, 0, 0].mean()
    setting = "6 groups, no gap, 1 600 positives"
    note(
        "C9", "double-corrected variance: mean / its SE", setting, n, square.mean() / (square.std() / np.sqrt(n)), -2, 2
    )
    note("C9", "gap minus the gap of noise: mean", setting, n, excess.mean(), -0.01, 0.01)
    note("C9", "plain gap: mean (what a reader would see)", setting, n, plain.mean(), None, None)


def power(scale):
    """A shift of the scores, whose flips partly replace those of the noise: between the two forms of the effect."""
    rng, n = np.random.default_rng(11), scale(1000)
    for n_patients, images, own_flips in ((800, 3, False), (300, 1, False), (300, 1, True)):
        se = np.mean([one_did(rng, n_boot=2, n_patients=n_patients, images=images).se[0, 0, 1] for _ in range(50)])
        n_group = n_patients * images * SEX[1] if own_flips else None
        effect = minimal_detectable_effect(se, n_group=n_group)
        questions = (one_did(rng, n_boot=499, n_patients=n_patients, images=images, planted=effect) for _ in range(n))
        found = [question.p_value()[0, 0, 1] <= 0.05 for question in questions]
        setting = f"{n_patients} patients, {images} images, shifted by {effect:.3f}"
        claim = "power at the effect that pays for its own flips" if own_flips else "power at 2.80 SE (.80 promised)"
        low, high = (0.75, None) if own_flips else (0.75, 0.85)
        note("C10", claim, setting, n, np.mean(found), low, high)


def swaps(scale):
    for shares, arguments, name in ((SEX, {}, "2 groups"), (RACE, {}, "6 groups, race shares"),
                                    (SEX, {"gap": 0.15, "drop": 0.05}, "2 groups, gap .15, all drop by .05"),
                                    (RACE, {"drop": 0.05}, "6 groups, all drop by .05")):  # fmt: skip
        exact, p = "drop" not in arguments, []
        rng, n = np.random.default_rng(12), scale(2000 if exact else 1000)
        for seed in range(n):
            patient, group, decisions = readings(rng, 800, 3, shares, **arguments)
            p.append(swap_test(patient, group, [rate(decisions)], len(shares), n_draws=199, seed=seed).p_value[0, 0])
        note("C11", "swap test: size" + ("" if exact else " (not exact here)"), name, n, np.mean(np.array(p) <= 0.05),
             0.035 if exact else 0.03, 0.065 if exact else 0.07)  # fmt: skip


# Score level: the package's control arms, 3 000 test patients. A batch of trials is one table, for speed.


def score_table(rng, prevalences, n_trials, gap=0.06):
    """One image a patient; scores of a reader whose TPR is lower by `gap` in the second sex; cohort, predictions."""
    n = n_trials * PATIENTS
    cohort = pd.DataFrame(
        {"image_id": np.arange(n), "female": rng.random(n) < SEX[1], "race": rng.choice(6, n, p=RACE)}
    )
    cohort["sex"] = np.where(cohort["female"], "female", "male")
    trial = cohort["image_id"] // PATIENTS
    cohort["cell"] = (trial * 12 + cohort["female"] * 6 + cohort["race"]).astype(str)  # subgroup within its trial
    parts = []
    for task, prevalence in prevalences.items():
        truth = rng.random(n) < prevalence
        cut = np.where(truth, norm.ppf(TPR - gap * cohort["female"]), norm.ppf(FPR))
        score = 1 / (1 + np.exp(-(cut - rng.normal(size=n))))
        cohort[f"y_{task}"] = truth.astype(float)
        parts.append(pd.DataFrame({"image_id": cohort["image_id"], "task": task, "score": score}))
    return cohort, pd.concat(parts, ignore_index=True)


def noisy_arm(rng, cohort, predictions, noise=0.3, gap=0.06):
    """Other scores of the same law: the latent z becomes (z + noise) / sqrt(1 + noise^2), so nothing changed."""
    tasks = predictions["task"].unique()
    female = np.tile(cohort["female"].to_numpy(), len(tasks))
    truth = np.concatenate([cohort[f"y_{task}"] for task in tasks]) == 1
    cut = np.where(truth, norm.ppf(TPR - gap * female), norm.ppf(FPR))
    latent = cut - metrics.logit(predictions["score"].to_numpy())
    latent = (latent + noise * rng.normal(size=len(latent))) / np.hypot(1, noise)
    return predictions.assign(score=1 / (1 + np.exp(-(cut - latent))))


def trials(rng, n, prevalences, make_arms, batch=25):
    """Yield (seed, groups (patients, 2), strata TPR and FPR of each task) of n trials of PATIENTS patients."""
    for first in range(0, n, batch):
        size = min(batch, n - first)
        cohort, clean = score_table(rng, prevalences, size)
        arms = [clean, *make_arms(cohort, clean, first)]
        shape = (len(prevalences), size, PATIENTS)
        decisions = np.stack([arm["score"].to_numpy().reshape(shape) >= 0.5 for arm in arms])
        truth = np.stack([cohort[f"y_{task}"] for task in prevalences]).reshape(shape)
        codes = cohort[["female", "race"]].to_numpy(dtype=int).reshape(size, PATIENTS, 2)
        for i in range(size):
            strata = [
                rate(decisions[:, task, i], truth[task, i] == label) for task in range(len(truth)) for label in (1, 0)
            ]
            yield first + i, codes[i], strata


def score_null(scale):
    """Null and placebo: how often is a family, or a cell, flagged?"""
    rng, n = np.random.default_rng(13), scale(1000)
    family = {(arm, name): [] for arm in ("null", "placebo") for name in ("sex", "race")}
    cells = {key: [0, 0] for key in family}
    make_arms = lambda cohort, clean, seed: [noisy_arm(rng, cohort, clean),
                                             placebo(clean, cohort, "cell", share=0.2, seed=seed)]  # fmt: skip
    for seed, codes, strata in trials(rng, n, {"common": 0.40, "less": 0.16, "rare": 0.08}, make_arms):
        results = resample_means(np.arange(PATIENTS), codes, strata, [2, 6], n_boot=499, seed=seed)
        for name, result in zip(("sex", "race"), results):
            question = contrast(result)
            p = question.p_value()
            for a, arm in enumerate(("null", "placebo")):
                fields = (question.estimate, question.deviations, question.se, question.df)
                one = Contrast("did", *(array[..., a : a + 1, :] for array in fields))
                family[arm, name].append(np.nanmin(step_down_max_t([one])[0]) <= 0.05)
                cells[arm, name][0] += (p[:, a] <= 0.05).sum()
                cells[arm, name][1] += np.isfinite(p[:, a]).sum()
    for (arm, name), flagged in family.items():
        setting = f"{arm}, {name}, 3 tasks x TPR and FPR"
        note("score", "families flagged (max-T)", setting, n, np.mean(flagged), None, 0.065)
        hits, total = cells[arm, name]
        note("score", "cells flagged, unadjusted", setting, total, hits / total, None, 0.065)


def score_planted(scale):
    """A planted change of .10: found and covered; the minimal detectable effect against simulated power."""
    for prevalence in (0.40, 0.16, 0.08):
        rng, n, own = np.random.default_rng(14), scale(1000), TPR - 0.06
        base = [question.se[0, 0, 1] for question in planted_questions(rng, 50, prevalence, 0.0, n_boot=2)]
        plain = float(minimal_detectable_effect(np.mean(base)))
        n_group = PATIENTS * prevalence * SEX[1]
        effect = 0.10 if prevalence == 0.40 else float(minimal_detectable_effect(np.mean(base), n_group=n_group))
        found, covered, estimates = [], [], []
        for question in planted_questions(rng, n, prevalence, effect / own):
            low, high = (bound[0, 0, 1] for bound in question.interval())
            found.append(question.p_value()[0, 0, 1] <= 0.05)
            covered.append(low <= -effect <= high)
            estimates.append(question.estimate[0, 0, 1])
        setting = f"3 000 patients, prevalence {prevalence:.2f}, TPR -{effect:.3f}"
        if prevalence == 0.40:
            note("score", "planted change: power", setting, n, np.mean(found), 0.9, None)
        else:
            note("score", "planted MDE (power .80 promised): power", setting, n, np.mean(found), 0.75, 0.85)
            note("score", "MDE without the effect's own flips (2.80 SE)", setting, n, plain, None, None)
            weak = [
                question.p_value()[0, 0, 1] <= 0.05
                for question in planted_questions(rng, n // 2, prevalence, plain / own)
            ]
            note("score", "  its true power", setting, n // 2, np.mean(weak), None, None)
        note("score", "planted change: coverage of 95 %", setting, n, np.mean(covered), 0.93, 0.97)
        note("score", "planted change: mean estimate + effect", setting, n, np.mean(estimates) + effect, -0.005, 0.005)


def planted_questions(rng, n, prevalence, share, n_boot=499):
    """DiD of n noisy arms in which a share of the females' true positives is flipped besides."""

    def make_arms(cohort, clean, seed):
        arm = noisy_arm(rng, cohort, clean)
        return [planted(arm, cohort, "sex", "female", thresholds=0.5, share=share, seed=seed) if share else arm]

    for seed, codes, strata in trials(rng, n, {"task": prevalence}, make_arms):
        (result,) = resample_means(
            np.arange(PATIENTS), codes[:, 0], strata[:1], [2], n_boot=n_boot, seed=seed, reference=0
        )
        yield contrast(result)


SECTIONS = {"A": point_metrics, "B": engine, "C1": null_p_values, "C2": published_test, "C3": injected,
            "C4": gap_intervals, "C6": equivalence, "C7": families, "C8": psnr_gaps, "C9": corrected_gaps, "C10": power,
            "C11": swaps, "unchanged": score_null, "planted": score_planted}  # fmt: skip

README = """# Calibration of the audit

Does the inference keep its promises where the truth is known? One row of `calibration.csv` is one acceptance test.
All data are simulated. `low` and `high` bound the figure that was promised; empty: nothing was, the row informs.

- Command: `python benchmarks/calibration.py{options} --out results/calibration` (in parts with `--only`)
- Commit: {commit}
- Seeds: fixed in the source, one for each section
- CPU time: {seconds:.0f} s on one core; {n} rows, {missed} missed

What a miss means: 2.80 SE promises too much power where the effect is large beside the flips that were there before
(few positives). `minimal_detectable_effect(se, n_group=...)` adds the flips that the effect itself needs: right for
planted flips, on the safe side for shifted scores.
"""


def write(folder: Path, options: str) -> None:
    """Put the table and how it was made into `folder`; sections that were not run keep their rows."""
    folder.mkdir(parents=True, exist_ok=True)
    table, file = pd.DataFrame(ROWS), folder / "calibration.csv"
    if file.exists():
        before = pd.read_csv(file)
        table = pd.concat(
            [before[~before["section"].isin(table["section"])], table.astype({"low": float, "high": float})]
        )
    order = {name: i for i, name in enumerate(SECTIONS)}
    table = table.sort_values("section", key=lambda column: column.map(order), kind="stable")
    table.to_csv(file, index=False, float_format="%.6g")
    root = Path(__file__).resolve().parents[1]
    asked = subprocess.run(["git", "-C", str(root), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    text = README.format(options=options, commit=asked.stdout.strip() or "unknown", n=len(table),
                         seconds=table.groupby("section")["section_cpu_s"].first().sum(),
                         missed=int((~table["holds"].astype(bool)).sum()))  # fmt: skip
    (folder / "README.md").write_text(text, encoding="utf-8")


def main() -> None:
    options = parser(__doc__.split("\n")[0])
    options.add_argument("--quick", action="store_true", help="a fifth of the simulations (wider scatter)")
    options.add_argument("--only", nargs="+", choices=list(SECTIONS), help="only these sections")
    options.add_argument("--out", type=Path, help="folder for calibration.csv and README.md")
    arguments = options.parse_args()
    scale = lambda n: max(n // 5, 10) if arguments.quick else n
    warnings.simplefilter("ignore", RuntimeWarning)
    start = time.process_time()
    for name in arguments.only or SECTIONS:
        before, first = time.process_time(), len(ROWS)
        SECTIONS[name](scale)
        spent = round(time.process_time() - before, 1)
        print(f"  {name}: {spent} s CPU", flush=True)
        ROWS[first:] = [{"section": name} | row | {"section_cpu_s": spent} for row in ROWS[first:]]
        if arguments.out:
            write(arguments.out, " --quick" if arguments.quick else "")
    seconds = time.process_time() - start
    report = Report("calibration")
    for row in ROWS:
        goal = f"[{row['low']}, {row['high']}]" if row["low"] is not None or row["high"] is not None else ""
        report.row(
            f"{row['test']}: {row['claim']}, {row['setting']}", row["value"], "", goal, row["holds"] if goal else None
        )
    report.row("CPU time", seconds, "s")
    report.finish(arguments.json)


if __name__ == "__main__":
    main()
