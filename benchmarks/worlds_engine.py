"""The parts of the audit against independent implementations, and the calibration of its inference (sections A to C7).

Every row is one acceptance test: what was claimed, how many simulations, the figure found, the range it should be in.
These sections know the inside of the audit; the worlds of `worlds_null.py` and `worlds_planted.py` do not.
"""

import numpy as np
from scipy.stats import kstest, norm
from wald import cluster_robust_did

from fairrecon_core.audit.engine import Stratum, cell_sums, group_totals, patient_weights, resample
from fairrecon_core.audit.groups import resample_means
from fairrecon_core.audit.inference import change_interval, contrast, group_range, range_interval, verdicts
from fairrecon_core.audit.multiplicity import benjamini_hochberg, holm, step_down_max_t
from fairrecon_lab.auditing import by_hand
from fairrecon_lab.bootstrap import percentile_interval, weighted_auroc
from fairrecon_lab.paper.evaluation import post_hoc_p_value

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
        ours = {agg: by_hand.eodd(truth, decision, name, agg=agg) for agg in ("max", "mean")}
        ours["eop"] = by_hand.eop(truth, decision, name)
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
        ser = by_hand.ser(dice, name)
        order += ser < 1 or abs(ser - by_hand.ser(dice[::-1], name[::-1])) > 1e-12
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


SECTIONS = {"A": point_metrics, "B": engine, "C1": null_p_values, "C2": published_test, "C3": injected,
            "C4": gap_intervals, "C6": equivalence, "C7": families}  # fmt: skip
