# %% [markdown]
# # 9. Fairness metrics by hand
# - **You will** compute EOP and EODD of eight people with a pencil's worth of code; see one reader become fair and unfair by moving a
#   threshold; find out which EODD the paper printed; watch six groups without any difference grow a gap; meet an empty group
# - **Time** 10 s to run, about 45 min to work through, **memory** 300 MB (tutorial); **needs** nothing; **makes** nothing
# - **In the paper** Sec. 2.2, Table 5

# %% tags=["parameters"]
profile = "tutorial"  # smoke | tutorial | lgg | covid_cxr | nih | paper
overrides = {}  # for example {"seed": 1}

# %%
import numpy as np
import pandas as pd

from fairrecon_lab import plots
from fairrecon_core.steps.folder import begin

settings, run = begin(profile, overrides)

# %% [markdown]
# This notebook needs no image and none of those before it. Read it right after notebook 01 if true and false positive rates are new to
# you: from notebook 07 on they are used.
#
# ## Eight people
# A reader looks at eight images and gives each a score between 0 and 1 for "this patient has the finding". `truth` is what the record
# says. The decision is 1 where the score reaches the threshold. The people are invented.

# %%
people = pd.DataFrame(
    {
        "name": ["Ada", "Bea", "Cleo", "Dora", "Emil", "Finn", "Gus", "Hans"],
        "sex": ["female"] * 4 + ["male"] * 4,
        "truth": [1, 1, 0, 0, 1, 1, 0, 0],
        "score": [0.9, 0.4, 0.45, 0.2, 0.8, 0.7, 0.3, 0.1],
    }
)
people["decision"] = (people["score"] >= 0.5).astype(int)
people

# %% [markdown]
# Two rates describe a reader in a group $g$. The true positive rate (TPR) is the share of the sick who are found, the false positive
# rate (FPR) the share of the healthy who are sent home worried:
#
# $$\mathrm{TPR}_g = P(\hat Y = 1 \mid Y = 1, A = g), \qquad \mathrm{FPR}_g = P(\hat Y = 1 \mid Y = 0, A = g)$$

# %%
by_hand = people.pivot_table(index="sex", columns="truth", values="decision", aggfunc="mean")
by_hand = by_hand.rename(columns={1: "tpr", 0: "fpr"})
by_hand

# %% [markdown]
# Bea is the whole story: one of two sick women is missed, no sick man is. **Equal opportunity** (EOP) is the gap in TPR; **equalised
# odds** (EODD) looks at both gaps, in TPR and in FPR. The text of the paper says "for all y"; two readings of that are in use:
#
# $$\mathrm{EOP} = \max_g \mathrm{TPR}_g - \min_g \mathrm{TPR}_g$$
#
# $$\mathrm{EODD}_{\text{mean}} = \tfrac12(\text{TPR gap} + \text{FPR gap}), \qquad \mathrm{EODD}_{\max} = \max(\text{TPR gap}, \text{FPR gap})$$

# %%
tpr_gap = by_hand["tpr"].max() - by_hand["tpr"].min()
fpr_gap = by_hand["fpr"].max() - by_hand["fpr"].min()
print(f"EOP {tpr_gap:.2f}   EODD, mean {(tpr_gap + fpr_gap) / 2:.2f}   EODD, max {max(tpr_gap, fpr_gap):.2f}")

# %% [markdown]
# The core computes the same, and counts whom each rate rests on. Two patients carry each of these rates: "weak" is an understatement.

# %%
from fairrecon_lab.auditing.by_hand import eodd, eop, group_rates

columns = people["truth"], people["decision"], people["sex"]
assert eop(*columns) == tpr_gap
assert eodd(*columns) == (tpr_gap + fpr_gap) / 2 and eodd(*columns, agg="max") == max(tpr_gap, fpr_gap)
group_rates(*columns)

# %% [markdown]
# ## The threshold decides
# A gap belongs to a decision, not to a score. Here are 4 000 simulated patients, read by a reader whose rates are known exactly; in
# women the finding shows more faintly (`bias="injected"`, notebook 01). Lines are the exact rates, dots the sample's.

# %%
from fairrecon_lab.simulate import patient_table, reference_rates, reference_reader

patients = patient_table("chest", 4000, seed=settings.seed, bias="injected")
latent = reference_reader(patients, "pleural_effusion").scores
score = 1 / (1 + np.exp(-3 * (latent - 0.8)))  # any increasing map to [0, 1] will do
truth, sex = patients["true_pleural_effusion"].to_numpy(), patients["sex"].to_numpy()


# %%
def exact_rates(threshold):
    """TPR and FPR of both sexes in the whole simulated population, from the closed form."""
    cut = 0.8 + np.log(threshold / (1 - threshold)) / 3
    return reference_rates("chest", "pleural_effusion", threshold=cut, bias="injected")


grid = np.linspace(0.02, 0.98, 25)
curves = {t: exact_rates(t) for t in grid}


def show_threshold(threshold=0.5):
    """Rates of both sexes over all thresholds, and the gaps at one."""
    figure, ax = plots.canvas(7, 3)
    sample = group_rates(truth, score >= threshold, sex)
    for name, line in (("female", "-"), ("male", "--")):
        for rate, colour in (("tpr", "#000000"), ("fpr", "#117733")):
            ax.plot(grid, [curves[t].loc[name, rate] for t in grid], line, color=colour, label=f"{rate.upper()} {name}")
            ax.plot(threshold, sample.loc[name, rate], "o" if name == "female" else "s", color=colour)
    ax.axvline(threshold, color="#8C8C8C", linewidth=0.8)
    values = [eop(truth, score >= threshold, sex), eodd(truth, score >= threshold, sex)]
    ax.set(xlabel="Threshold", ylabel="Rate", ylim=(-0.03, 1.03))
    ax.set_title(f"threshold {threshold:g}: EOP {values[0]:.3f}, EODD {values[1]:.3f} (simulated)", fontsize=10)
    ax.legend(fontsize=8, frameon=False)
    return figure


run.figure(show_threshold(), "09_threshold")

# %% tags=["widget"]
from fairrecon_lab.widgets import slider_image

slider_image(
    show_threshold, threshold=[0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95], start={"threshold": 0.5}
)

# %% [markdown]
# **What to look for:** at both ends the gap vanishes, because everybody is treated alike: all flagged, or none. A gap of zero is no
# compliment by itself. The dots keep close to the lines: 4 000 patients are enough here.
#
# Who chooses the threshold? The paper takes the point where sensitivity and specificity are closest. Other rules serve other purposes,
# and give other gaps for the very same scores:

# %%
from fairrecon_core.audit.thresholds import RULES, choose_threshold

for rule in RULES:
    cut = choose_threshold(score, truth, rule)
    tpr = group_rates(truth, score >= cut, sex)["tpr"]
    print(f"{rule:15} threshold {cut:.2f}   EODD {eodd(truth, score >= cut, sex):.3f}   "
          f"TPR female {tpr['female']:.2f}, male {tpr['male']:.2f}")  # fmt: skip

# %% [markdown]
# And *where* it is chosen matters as much. Let a reconstruction make every image a little paler, so that all scores fall. Chosen anew
# for the pale images, on the test labels as the published code does, the threshold falls too, and no decision changes. Kept as it was,
# which is what happens in a clinic, patients are lost:

# %%
pale = 1 / (1 + np.exp(-(np.log(score / (1 - score)) - 0.5)))
cut = choose_threshold(score, truth)
for name, threshold in (("chosen anew", choose_threshold(pale, truth)), ("kept", cut)):
    change = group_rates(truth, pale >= threshold, sex)["tpr"] - group_rates(truth, score >= cut, sex)["tpr"]
    print(f"threshold {name:12} change of TPR: female {change['female']:+.3f}, male {change['male']:+.3f}")

# %% [markdown]
# ## Which EODD is in the paper?
# The 160 pairs (EODD, EOP) of Table 5, in thousandths: for each finding the pair of baseline, U-Net, Pix2Pix, SDE. If EODD were the
# larger gap it could never be smaller than EOP. If it is the mean it can never be smaller than half of EOP.

# %%
table_5 = {
    "sex": """30 47 27 44 23 35 41 70  24 40 27 46 26 35 26 44  11 11 12 5 21 10 11 6  24 33 29 43 50 81 34 52
        7 7 13 14 18 23 9 8  23 39 28 38 38 46 17 20  17 23 22 33 34 43 21 32  17 10 30 22 40 24 14 10
        43 68 46 84 48 81 36 45  15 16 29 25 41 36 24 21  40 60 56 89 58 94 56 96  46 61 55 86 64 114 56 83
        251 81 251 81 290 89 291 86  153 96 153 96 137 94 139 113""",
    "age": """229 197 219 188 210 172 227 189  127 81 120 69 127 79 136 84  157 92 148 86 148 83 156 85
        262 191 244 159 236 173 255 180  122 68 119 64 120 68 113 55  115 70 113 76 113 69 119 78
        232 190 250 218 222 203 241 198  161 97 158 93 156 95 162 92  57 19 55 15 48 21 56 26
        83 50 79 44 80 44 89 49  224 166 247 214 211 185 235 193  325 282 314 276 320 284 307 271
        211 148 211 148 181 90 198 113  419 415 419 415 238 202 278 281""",
    "race": """284 347 297 348 282 349 304 360  205 182 185 174 160 165 204 180  148 135 164 126 155 119 170 141
        360 495 382 481 307 390 373 496  136 120 147 125 151 129 122 125  200 263 278 403 263 387 199 262
        226 291 309 384 223 274 253 305  204 212 221 213 215 209 224 229  217 259 222 269 238 267 206 263
        97 75 110 103 96 87 94 85  252 309 297 314 254 305 265 355  479 738 440 586 479 740 491 731""",
}
pairs = {name: np.array(text.split(), dtype=int).reshape(-1, 2) for name, text in table_5.items()}
printed, opportunity = np.concatenate(list(pairs.values())).T

# %%
print(f"{len(printed)} pairs")
print(f"EODD smaller than EOP, impossible for the larger gap: {(printed < opportunity).sum()}")
print(f"EODD smaller than EOP / 2, impossible for the mean:   {(2 * printed < opportunity - 2).sum()}")
assert (printed < opportunity).sum() == 68  # two of them by one thousandth, which rounding can do

# %% [markdown]
# So the paper printed the **mean**. fairlearn's default is the larger gap, R's yardstick has it too, MEDFAIR and FairMedFM print one
# minus the mean. Numbers of different papers are comparable only after this question.

# %%
figure, ax = plots.canvas(4.2, 4)
for (name, values), marker in zip(pairs.items(), "os^"):
    ax.plot(values[:, 1] / 1000, values[:, 0] / 1000, "k" + marker, markersize=4, label=name, markerfacecolor="none")
x = np.array([0, 0.75])
ax.plot(x, x, color="#000000", linewidth=0.8, label="EODD = EOP")
ax.plot(x, x / 2, color="#000000", linewidth=0.8, linestyle=":", label="EODD = EOP / 2")
ax.set(xlabel="EOP, Table 5 of the paper", ylabel="EODD, Table 5 of the paper")
ax.legend(fontsize=8, frameon=False)
run.figure(figure, "09_table_5")

# %% [markdown]
# ## Six groups are never equal
# "In cases with more than two subgroups, we report the worst case", says the paper: the largest gap between any two. Give six groups
# exactly the same TPR of .75, draw 1 600 sick patients in the shares of its Table 2, and look at the largest gap. Do it 1 000 times.

# %%
shares = np.array([36110, 9634, 6936, 3093, 861, 176]) / 56810  # White, Other, Asian, Black, NH/PI, AI/AN
rng = np.random.default_rng(settings.seed)


def gaps_of_equals(n_sick, shares, tpr=0.75, n_times=1000):
    """Largest gap in TPR between groups that do not differ, `n_times` over."""
    n = np.maximum(rng.multinomial(n_sick, shares, n_times), 1)
    rates = rng.binomial(n, tpr) / n
    return rates.max(axis=1) - rates.min(axis=1)


six = gaps_of_equals(1600, shares)
two = gaps_of_equals(1600, np.array([0.55, 0.45]))
print(f"largest gap between equals: six groups {six.mean():.3f} on average, two groups {two.mean():.3f}")
assert six.mean() > 5 * two.mean()


# %%
def show_gaps(n_sick=1600):
    """How large the gap between equals is, for two and for six groups."""
    figure, ax = plots.canvas(6.5, 2.6)
    kinds = (
        ("two groups (55 %, 45 %)", np.array([0.55, 0.45]), "#117733"),
        ("six groups (Table 2)", shares, "#595959"),
    )
    for label, chosen, colour in kinds:
        values = gaps_of_equals(n_sick, chosen)
        samples = {f"{label}: mean {values.mean():.3f}": values}
        plots.distributions(
            ax, samples, {title: {"color": colour, "fill": True} for title in samples}, bins=np.linspace(0, 1, 60)
        )
    ax.set(xlabel="Largest TPR gap although nobody differs (simulated)", ylabel="Times in 1 000")
    ax.set_title(f"{n_sick:,} patients with the finding", fontsize=10)
    ax.legend(fontsize=8, frameon=False)
    return figure


run.figure(show_gaps(), "09_equals")

# %% tags=["widget"]
slider_image(show_gaps, n_sick=[200, 400, 800, 1600, 3200, 9000, 18000], start={"n_sick": 1600})

# %% [markdown]
# **What to look for:** the smallest group has five sick patients in 1 600, and it alone stretches the gap. More data help slowly. A
# maximum over noisy numbers is not an estimate of the largest difference; notebook 10 puts a **noise band** beside each such gap.
#
# ## A group with nobody in it
# What is the TPR of a group without a single sick patient? The published code says 1 for chest and 0 for brain, fairlearn says 0, and
# each invents a gap out of nothing. We say we do not know, and go on without that group.

# %%
lonely = pd.DataFrame(
    {
        "truth": [1] * 40 + [0] * 40 + [0] * 6,
        "decision": [1] * 30 + [0] * 10 + [0] * 40 + [0] * 6,
        "race": ["a", "b"] * 40 + ["c"] * 6,
    }
)
print(f"ours: EOP {eop(lonely['truth'], lonely['decision'], lonely['race']):.3f}")
group_rates(lonely["truth"], lonely["decision"], lonely["race"])

# %%
try:
    from fairlearn.metrics import equal_opportunity_difference, equalized_odds_difference
except ImportError:
    print("fairlearn is not installed here: pip install fairlearn to run this comparison")
else:
    theirs = equal_opportunity_difference(lonely["truth"], lonely["decision"], sensitive_features=lonely["race"])
    print(f"fairlearn: EOP {theirs:.3f}, because it takes the TPR of c as 0")
    for ours, name in (("mean", "mean"), ("max", "worst_case")):  # where no group is empty, both agree
        other = equalized_odds_difference(*columns[:2], sensitive_features=columns[2], agg=name)
        assert abs(other - eodd(*columns, agg=ours)) < 1e-12

# %% [markdown]
# ## Segmentation and image quality
# For masks the paper compares Dice overlaps: their difference, and the ratio of what is missing to 1 (skewed error ratio, SER). A
# group's Dice is the mean of its patients, and a patient's the mean of their slices.
#
# $$\Delta\mathrm{Dice} = \max_g \mathrm{Dice}_g - \min_g \mathrm{Dice}_g, \qquad
# \mathrm{SER} = \frac{\max_g (1 - \mathrm{Dice}_g)}{\min_g (1 - \mathrm{Dice}_g)}$$

# %%
from fairrecon_lab.auditing.by_hand import delta_dice, psnr_gap, ser

slices = pd.DataFrame(
    {
        "patient": ["p", "p", "q", "r", "s"],
        "sex": ["female", "female", "female", "male", "male"],
        "dice": [0.6, 0.8, 0.9, 0.7, 0.7],
    }
)
patient_dice = slices.groupby(["sex", "patient"])["dice"].mean().groupby("sex").mean()
print(patient_dice.round(3).to_dict())
arguments = {"patient_id": slices["patient"]}
assert np.isclose(delta_dice(slices["dice"], slices["sex"], **arguments), 0.8 - 0.7)
assert np.isclose(ser(slices["dice"], slices["sex"], **arguments), (1 - 0.7) / (1 - 0.8))

# %% [markdown]
# The SER of 1.5 and the difference of .1 are one fact twice. At Dice .95 the same difference would be an SER of 3.
#
# Tables 6 and 7 give PSNR gaps in per cent. But a decibel is already a logarithm of a ratio: 2.78 per cent of 28.6 dB is 0.8 dB, and
# that means one group's images have a fifth more squared error.

# %%
psnr, group = [28.6, 29.395], ["a", "b"]
for unit in ("percent", "db", "mse_ratio"):
    print(f"{unit:10} {psnr_gap(psnr, group, unit=unit):.2f}")

# %% [markdown]
# ## Check your understanding
# **1.** Lower the threshold for the eight people until EOP is 0. What does it cost, and whom?

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
lowered = (people["score"] >= 0.4).astype(int)
print(group_rates(people["truth"], lowered, people["sex"])[["tpr", "fpr"]])
assert eop(people["truth"], lowered, people["sex"]) == 0
assert (
    lowered[people["name"] == "Cleo"].item() == 1
)  # a healthy woman is now worried; EODD went from the TPR to the FPR
assert eodd(people["truth"], lowered, people["sex"]) == eodd(*columns)

# %% [markdown]
# **2.** Invent decisions for the eight people whose EODD (mean) is exactly half of their EODD (max), and others where both are equal.

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
half = np.array([1, 0, 0, 0, 1, 1, 0, 0])  # a gap in the TPR only
same = np.array([1, 0, 1, 0, 1, 1, 0, 0])  # the same gap in both
print(
    [
        (eodd(people["truth"], d, people["sex"]), eodd(people["truth"], d, people["sex"], agg="max"))
        for d in (half, same)
    ]
)
assert eodd(people["truth"], half, people["sex"], agg="max") == 2 * eodd(people["truth"], half, people["sex"])
assert eodd(people["truth"], same, people["sex"], agg="max") == eodd(people["truth"], same, people["sex"])

# %% [markdown]
# **3.** How many sick patients does the noise of six groups need before the average gap between equals falls below .05? Guess first.

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
needed = next(
    n for n in (2000, 5000, 10_000, 20_000, 40_000, 80_000) if gaps_of_equals(n, shares, n_times=400).mean() < 0.05
)
print(f"about {needed:,}")
assert needed >= 20_000

# %% [markdown]
# **4.** A colleague writes: "EODD fell from .12 to .08, reconstruction made the reader fairer." Which three questions would you ask?
#
# <details><summary>Possible answers</summary>
# Which EODD, mean or max? At which threshold, chosen on what, and was it chosen again? How large would the gap be by chance at these
# group sizes, and how uncertain is the change? (And a fourth: did anybody's TPR fall? Equal can also mean equally bad.)
# </details>

# %% [markdown]
# **Against Sec. 2.2 and Table 5.** Same: the definitions of EOP, SER and Delta Dice; EODD as the mean, which the printed numbers prove
# although the text reads like a maximum. Different: an empty group is unknown and not 0 or 1; the threshold is chosen on other images
# than those it is judged on; groups are reported with their sizes.
# ## Takeaways
# - EOP is the gap in TPR, EODD adds the gap in FPR; both are a few lines of counting
# - a gap belongs to a threshold: moving it makes the same reader fair or unfair, choosing it anew hides that scores fell
# - Table 5 prints the mean of the two gaps: 68 of its 160 pairs would be impossible otherwise
# - the largest of many gaps is never zero: six equal groups in the paper's shares show about .24 with 1 600 sick patients
#   (such a *max-min* gap has no sign: if two groups swap places it stays as it is. Notebook 10 gives a verdict about its size, another one
#   about each group against a reference, and counts the cells of one *family* together, because who looks at many finds some that changed
#   by chance. In a cohort with *folds* it counts that each fold has a network of its own)
# - a rate of nobody is unknown; a 0 or a 1 in its place is an invented gap
