"""The seed paper's claims: what in its own numbers speaks for each, what against, and the notebook that shows it.

Every number in the sentences is computed from the printed ones (`numbers`) or from equal rates (`chance`). Claims of
the follow-up, with verdicts, are in `claims`.
"""

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from fairrecon_lab.auditing.summary import claims
from fairrecon_lab.paper.chance import LABEL_COUNTS, chance_rows, detectable
from fairrecon_lab.paper.numbers import changes, numbers

TRUE_SIZES = {"sex": ("about .02", "1 to 2"), "age_group": (".10 to .14", "7 to 10"), "race": ("about .014", "1")}
PAIRS = [(attribute, metric) for attribute in ("sex", "age_group", "race") for metric in ("eodd", "eop")]


def printed(table: str, **where) -> pd.DataFrame:
    """Rows of one table, selected by the value (or values) of columns."""
    rows = numbers(table)
    for column, value in where.items():
        rows = rows[rows[column].isin(np.atleast_1d(value))]
    return rows


def equal_rates_table() -> pd.DataFrame:
    """Table 5's clean gaps beside what equal rates would print, one row per attribute and metric."""
    rows = {}
    for attribute, metric in PAIRS:
        found = chance_rows(attribute, metric)
        rows[attribute, metric] = {
            "printed, mean": found["clean"].mean(),
            "equal rates, mean": found["expected"].mean(),
            "beyond the band": f"{(found['clean'] > found['high']).sum()} of {len(found)}",
            "rank correlation": spearmanr(found["expected"], found["clean"]).statistic,
        }
    return pd.DataFrame(rows).T


def folded_changes() -> pd.DataFrame:
    """Fig. 11 from Table 5: mean absolute change over tasks, with the signed mean and the share of positive changes."""
    kept = changes().query("not copied and metric in ('eodd', 'eop')")
    summary = kept.groupby(["attribute", "metric", "arm"], sort=False)["change"]
    absolute, worse = summary.agg(lambda values: values.abs().mean()), summary.agg(lambda values: (values > 0).mean())
    folded = pd.DataFrame({"mean |change|": absolute, "mean change": summary.mean(), "share worse": worse})
    return folded.loc[["sex", "age_group", "race"]]


def coloured_cells() -> pd.DataFrame:
    """Cells of Table 5's findings that the slides colour, beside what the published test colours by chance."""
    kept = changes().query("not copied and metric in ('eodd', 'eop') and task in @LABEL_COUNTS")
    counts = pd.crosstab(kept["attribute"], kept["colour"].replace("", "none"))[["worse", "better", "none"]]
    counts = counts.loc[list(TRUE_SIZES)]
    counts["test's true size"], counts["by chance"] = zip(*TRUE_SIZES.values())
    return counts


def psnr_gaps_in_db() -> pd.DataFrame:
    """Tables 6 and 7 in decibels and as a ratio of squared errors."""
    every = numbers()
    every = every[~every["table"].str.startswith("F")]
    on = ["cohort", "level", "arm"]
    gaps = every[every["metric"] == "psnr_gap_percent"][["cohort", "attribute", "level", "arm", "value"]]
    psnr = every[every["metric"] == "psnr_db"][[*on, "value"]].rename(columns={"value": "psnr_db"})
    gaps = gaps.merge(psnr, on=on)
    gaps["gap_db"] = gaps["value"] / 100 * gaps["psnr_db"]
    gaps["error ratio"] = 10 ** (gaps["gap_db"] / 10)
    return gaps


def detectable_by_sex(flips: float = 0.05) -> pd.DataFrame:
    """Printed changes of EOP by sex beside the smallest that the test split could have shown, at this share of "
    "flips."""
    rows = changes().query("not copied and attribute == 'sex' and metric == 'eop' and task in @LABEL_COUNTS")
    limit = rows["task"].map({task: detectable(task, "female", "male", flips) for task in LABEL_COUNTS})
    return rows.assign(detectable=limit, beyond=rows["change"].abs() > limit)


def auroc_drop():
    """Rank correlation of a finding's clean AUROC with its loss at 3 000 photons, averaged over the arms."""
    rows = printed("4", metric="auroc", level=3000).query("task != 'average'").groupby("task")["value"].mean()
    base = printed("4", metric="auroc", arm="clean").query("task != 'average'").groupby("task")["value"].first()
    return spearmanr(base, base - rows[base.index])


def _on_performance() -> list[tuple]:
    wide = {
        metric: printed("4", metric=metric).pivot(index="level", columns="arm", values="value")
        for metric in ("lpips", "psnr_db")
    }
    lpips, psnr, trend = wide["lpips"], wide["psnr_db"], auroc_drop()
    stable = printed("4", task="average").groupby("arm")["value"].agg(["min", "max"])
    behind = psnr["unet"] - psnr["sde"]
    return [
        ("Task performance stays stable while PSNR drops drastically (Fig. 7, 8)",
         f"mean AUROC stays within {stable['min'].min()}-{stable['max'].max()}; chest PSNR falls by "
         f"{psnr.loc[100000, 'unet'] - psnr.loc[3000, 'unet']:.1f} dB (U-Net)",
         "no degraded arm, so robustness to *reconstruction* is not told from robustness to degradation; 101 brain "
         "patients; the published X-ray input hardly changes with photon count", "03, 08"),
        ("Findings with a low baseline AUROC lose more",
         f"rank correlation {trend.statistic:.2f} (p = {trend.pvalue:.3f}, 12 findings)",
         "losses are .00-.04, printed to two decimals", "08"),
        ("The U-Net outperforms the others on chest", "highest PSNR at all three levels",
         "a posterior *sample* has 3 dB less PSNR than the mean by mathematics: the SDE's deficit of "
         f"{behind.min():.1f}-{behind.max():.1f} dB is expected; its mean AUROC is equal or higher", "06, 07"),
        ("The SDE has the lowest LPIPS, so it is closest to the truth", "brain at R = 8: .016 (slides) below "
        ".022 and .030",
         f"chest: Pix2Pix is as low or lower at {int((lpips['pix2pix'] <= lpips['sde']).sum())} of 3 levels; only the "
         "SDE's output was rescaled per image", "07"),
    ]  # fmt: skip


def _on_bias() -> list[tuple]:
    by_sex, folded = detectable_by_sex(), folded_changes()
    worse = folded["share worse"].groupby("attribute").mean()
    below = len(by_sex) - int(by_sex["beyond"].sum())
    mean_change = folded["mean |change|"].groupby(["metric", "arm"]).mean()["eodd"]
    return [
        ("The additional bias is small, or minor", "most printed changes are a few hundredths",
         f"never tested: no margin, no interval; {below} of {len(by_sex)} printed changes by sex are below what "
         f"could be "
         "detected", "10, here"),
        ("Additional bias is more prominent for sex, and falls for age",
         f"sex: {worse['sex']:.0%} of the changes are positive, age: {worse['age_group']:.0%}; 16 and 22 of 72 "
         f"cells coloured",
         "folding at a small baseline gap lets any change look positive; the test's size is .02 (sex) to .14 (age); no "
         "multiplicity control", "10"),
        ("The SDE adds the least bias, the U-Net the most (Fig. 11)",
         "mean absolute change of EODD: " + ", ".join(f"{arm} {value:.3f}" for arm, value in mean_change.items()),
         "one training, one sample; retraining alone moves such averages by about .02; averages of absolute "
         "values measure "
         "noise too", "06, 10"),
        ("Bias changes do not correlate with baseline performance or fairness", "no clear order in Table 5",
         "absence of a pattern in noise is no finding; no interval is given", "10"),
        ("Reconstruction adds no variance (Fig. 19, 20)", "standard errors nearly equal",
         "they come from the same images; in the tumour rows they were copied; what decides is the error of the paired "
         "difference", "10"),
    ]  # fmt: skip


def _on_race() -> list[tuple]:
    means = equal_rates_table().loc[("race", "eop")]
    race = changes().query("not copied and attribute == 'race'")
    race = race.pivot_table(index="task", columns=["arm", "metric"], values="change")
    most = race.abs().T.groupby("metric").max().T["eop"].nlargest(3)
    said = ("consolidation", "pleural_other", "pneumonia")
    largest = ", ".join(f"{task.replace('_', ' ')} ({value:.2f})" for task, value in most.items())
    return [
        ("Race has the largest bias, and high variability", "largest gaps of Table 5",
         f"equal rates would print a mean EOP of {means['equal rates, mean']:.3f}, printed is "
         f"{means['printed, mean']:.3f}; "
         f"rank correlation {means['rank correlation']:.2f}; only fracture stands out", "here"),
        ("Consolidation, pleural other and pneumonia shift most (by race)",
         "change of EODD, U-Net: " + ", ".join(f"{task.replace('_', ' ')} "
         f"{race.loc[task, ('unet', 'eodd')]:+.2f}" for task in said),
         f"in EOP {largest} shift most; AI/AN "
         "have 2 to 8 positives in most of these, so one flipped decision moves the gap by .1 or more; none is "
         "significant",
         "here"),
    ]  # fmt: skip


def _on_the_rest() -> list[tuple]:
    dice_change = changes().query("not copied and metric == 'delta_dice'")["change"]
    gaps = psnr_gaps_in_db()
    largest, above = gaps.loc[gaps["value"].idxmax()], gaps.loc[gaps["value"] > 2, "value"]
    return [
        ("Segmentation is largely unaffected (Fig. 10, 21)", f"Delta Dice changes by at most "
        f"{dice_change.abs().max():.3f}",
         "the gaps themselves are what equal groups would show at 101 patients", "10, here"),
        ("Subgroup PSNR gaps remain below 2 %", f"{int((gaps['value'] < 2).sum())} of {len(gaps)} do",
         f"{', '.join(f'{value} %' for value in above)} do not; {largest['gap_db']:.1f} dB is "
         f"{largest['error ratio'] - 1:.0%} "
         "more error; the test picks its groups after looking, p is printed as 0", "07, 11"),
        ("Skewed training sets and translation gave no correlation",
         "none: no number is published", "cannot be judged", "-"),
        ("Golden-angle sampling, low-dose simulation with a bow-tie, ResNet-50", "cited",
         "the released code has a fixed uniform mask, a bow-tie along the angle, no Beer-Lambert law, a "
         "ResNet-18 and a "
         "DenseNet", "02, 03, 08"),
    ]  # fmt: skip


def seed_claims() -> pd.DataFrame:
    """One row per claim: `claim evidence_for evidence_against see`."""
    rows = [*_on_performance(), *_on_bias(), *_on_race(), *_on_the_rest()]
    return pd.DataFrame(rows, columns=["claim", "evidence_for", "evidence_against", "see"])


def verdicts_of_run(audit: pd.DataFrame) -> pd.DataFrame:
    """How a run's own comparisons of TPR and FPR ended, one row per cohort and attribute, one column per verdict."""
    saved = claims(audit).query("baseline_arm == 'clean' and metric in ('tpr', 'fpr')")
    return pd.crosstab([saved["cohort"], saved["attribute"]], saved["verdict"])
