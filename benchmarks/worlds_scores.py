"""Sections C8 to C11 of the calibration, and whole families of scores with the package's own control arms."""

import numpy as np
import pandas as pd
from scipy.stats import norm
from worlds_engine import FPR, PATIENTS, RACE, SEX, TPR, note, one_did, rate, readings

from fairrecon_core.audit import metrics
from fairrecon_core.audit.engine import Stratum
from fairrecon_core.audit.groups import resample_means
from fairrecon_core.audit.inference import (
    Contrast,
    contrast,
    dispersion,
    group_range,
    minimal_detectable_effect,
    null_draws,
)
from fairrecon_core.audit.multiplicity import omnibus_test, step_down_max_t, swap_test
from fairrecon_lab.simulate.control_scores import placebo, planted


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
        (result,) = resample_means(patient, group, [rate(decisions)], [6], n_boot=200, seed=seed)
        sd = dispersion(result)[0, 0]
        plain[seed] = group_range(result.value)[0, 0]
        null = group_range(null_draws(result))
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


SECTIONS = {"C8": psnr_gaps, "C9": corrected_gaps, "C10": power, "C11": swaps, "unchanged": score_null,
            "planted": score_planted}  # fmt: skip
