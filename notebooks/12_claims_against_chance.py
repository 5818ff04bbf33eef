# %% [markdown]
# # 12. The claims against chance
# - **You will** see which printed gaps are no larger than equal rates would print; tell the change that a test split could have shown;
#   understand what a median change in per cent is when nothing changed, and when change has no direction; weigh the claims of both papers one by one
# - **Time** 20 s to run, about 50 min to work through, **memory** 450 MB (tutorial); **needs** nothing, and shows more if 01, 07, 08 and 10 have run; **makes** nothing
# - **In the paper** Tab. 5, Fig. 10-13, 19-21; of the follow-up (arXiv 2604.10904) Tab. 1-4, Fig. 3-5, 16-20
#
# A number in a table is an answer to the question "what did these patients show?" The question of this notebook comes before it: **what would the
# same table show if there was nothing to see?** We do not need the papers' data for that. Sizes of groups, baselines and performance are
# printed, and the rest is counting.

# %% tags=["parameters"]
profile = "tutorial"  # smoke | tutorial | lgg | covid_cxr | nih | paper
overrides = {}  # for example {"seed": 1}

# %%
import numpy as np
import pandas as pd
from IPython.display import Markdown, display

from fairrecon_core.steps.folder import begin
from fairrecon_lab.paper import chance, pictures, seed_claims
from fairrecon_lab.paper.numbers import as_markdown, paper_table

settings, run = begin(profile, overrides)
pd.set_option("display.max_rows", 70, "display.max_colwidth", 400)

# %% [markdown]
# ## The printed gaps against chance
# A largest-minus-smallest gap is never negative, and it grows as groups become smaller. So: what would the paper have printed if **all groups had the
# same rates**? Everybody gets the TPR and FPR that the printed AUROC implies at sensitivity = specificity. The shares of the groups come from
# Table 2. The number of positives comes from CheXpert's public label counts (checked against the file itself, see `chance.py`; how they
# spread over the test split is a guess, so the slider below also halves and doubles them). Then we draw decisions, resample images, and
# average the gaps, exactly as the paper does. First by hand, for one finding and two groups:

# %%
rng = np.random.default_rng(settings.seed)
positives, _ = chance.expected_counts("fracture")
share = chance.subgroup_shares("sex")["female"]
women, men = round(positives * share), round(positives * (1 - share))
tpr = chance.rate_at_equal_errors(0.757)  # of everybody
gap = np.abs(rng.binomial(women, tpr, 4000) / women - rng.binomial(men, tpr, 4000) / men)
print(f"fracture: {women} women, {men} men with one; both have TPR {tpr:.3f}; the gap is {gap.mean():.3f} on average")

# %% [markdown]
# The core does the same for any number of groups, also for EODD, and for the mean over resamples that Table 5 prints:

# %%
two = chance.null_gaps(positives, positives, [share, 1 - share], tpr, 1 - tpr, estimator="plug_in", n_draws=4000)
assert abs(two[:, 1].mean() - gap.mean()) < 4 * gap.std() / np.sqrt(2000)

# %% [markdown]
# Now every finding, by race: the grey bar is where 95 % of the worlds without any difference put the printed gap. The black square is the print on
# clean images. (The text below the slider says what to look for.)

# %%
against_chance = pictures.against_chance
run.figure(against_chance(), "12_race_against_chance")

# %% tags=["widget"]
from fairrecon_lab.widgets import slider_image

slider_image(
    against_chance, attribute=("race", "sex", "age_group"), metric=("eop", "eodd"), label_counts=[0.5, 1.0, 2.0],
    design_effect=[1.0, 1.5, 2.0], start={"label_counts": 1.0},
)  # fmt: skip

# %% [markdown]
# **What to look for:** the order of the findings. Where Table 5c prints a large gap there are few positives, and equal rates would print a large gap as
# well. Several images of one patient make the band wider still (the slider's design effect). All attributes in one table:

# %%
equal_rates = seed_claims.equal_rates_table()
equal_rates

# %% [markdown]
# Three different answers. **Race** is what equal rates would print, but for fracture. **Age** is far beyond chance: those gaps are real. (A gap says
# nothing yet about its cause: older patients look different and are ill more often.) **Sex** is about half noise, and clearly more than
# noise for some findings, pneumothorax first.
#
# ### The brain tables
# A hundred test patients, about 60 men and 40 women. Suppose that everybody's Dice came from one distribution (mean .72; its spread, .20 to .25, is
# assumed), and that every group had the same error rates in the tumour tasks:

# %%
brain = chance.brain_rows()
brain.round(3)

# %% [markdown]
# Segmentation: every printed SER and Delta Dice lies where equal groups would put it. So the paper's "minimal" change of Dice bias is the change of a
# quantity that these data cannot tell from zero in the first place. Of the tumour tasks only type by age stands out.
#
# ## How small an effect could the paper have found?
# The change of a TPR gap has a standard error that follows from two things: the number of positives, and how many decisions flip from one arm to the
# other. With 5 to 10 % flips and a design effect of 1.3 for several images of a patient, the next table has the smallest effect that one two-sided
# test at .05, without any adjustment, finds with power .8. The first number is for 5 % flips, the second for 10 %.

# %%
CONTRASTS = {"sex": ("female", "male")} | {f"{name} - White": (name, "White") for name in ("Black", "NH/PI", "AI/AN")}
both = lambda task, pair: " / ".join(f"{chance.detectable(task, *pair, flips):.3f}" for flips in (0.05, 0.10))
mde = pd.DataFrame({name: {task: both(task, pair) for task in chance.LABEL_COUNTS} for name, pair in CONTRASTS.items()})
mde.insert(0, "positives", [chance.expected_counts(task)[0] for task in mde.index])
mde.sort_values("positives", ascending=False)

# %% [markdown]
# The same for sex as a picture, with the changes that Table 5a prints. A mark to the left of the grey bar is a change too small for this test split
# to see. For the brain we can do the same sum with its hundred patients.

# %%
run.figure(pictures.detectable_changes(), "12_detectable")

# %%
from fairrecon_lab.bootstrap import se_from_flips
from fairrecon_core.audit.inference import minimal_detectable_effect

by_sex = seed_claims.detectable_by_sex()
sizes = chance.BRAIN_SIZES.values()
ucsf = max(minimal_detectable_effect(se_from_flips(0.1, 0.8 * n, 0.8 * m), n_group=0.8 * n) for n, m in sizes)
print(
    f"beyond the smallest detectable: {by_sex['beyond'].sum()} of {len(by_sex)}, {sorted(set(by_sex[by_sex['beyond']]['task']))}"
)
print(f"brain, 10 % flips: about {ucsf:.2f} for the TPR gap, {2 * ucsf:.2f} for the FPR gap with its 20 negatives")

# %% [markdown]
# For the small findings and the small groups the test split could show nothing but a landslide, and for the brain tasks the last line says how
# large a change had to be. The table is on the safe side: a change that is carried by the flips that happen anyway is found more often. "No significant
# change" for race is a statement about 35 American Indian test patients, not about fairness.
#
# ## Figure 11, from Table 5
# Fig. 11 of the seed averages |change| over tasks. Table 5 lets us redo it, with the signs beside it and without the eight copied tumour baselines.

# %%
folded = seed_claims.folded_changes()
folded.round(3)

# %% [markdown]
# The average of absolute values is positive whatever happens (notebook 10 shows how positive for pure noise). The share of positive signs needs care as
# well: where the gap on clean images is near zero, as for sex, any real movement can only push it up; where it is large, as for age, movement goes
# both ways. "More prominent for sex" is at least partly that geometry. The authors' slides show which cells were coloured at p < .05: count
# them, beside what chance alone would colour in 72 cells.

# %%
seed_claims.coloured_cells()

# %% [markdown]
# The published test picks its side after seeing the sign and resamples images, so its size is not .05 but depends on the baseline gap: timid at a gap
# of 0 and for six groups, liberal at a clear gap. If nothing had changed by age, and its test had the size of .10 to .14 that we measure at gaps
# as clear as those, 7 to 10 of 72 cells would be coloured; 22 are. By sex 1 to 2 would, and 16 are: some of them are probably real. Which, no adjusted test can say: with 1 000 resamples the smallest p, .001, cannot pass the first step of Holm's rule (.05 / 216).
#
# ## A change in per cent
# The follow-up summarises the same predictions in one sentence: reconstruction raises bias by sex by 24 % (the median over tasks and models), and
# mitigation brings this down to 10.6 and 7.56 %. The statistic is 100 (arm - clean) / clean, with EODD or SER as the gap, and then the median over
# cells. Two thoughts come to mind at once. A gap is never negative, so noise can only raise a small one. And a division by a small
# number gives a large number. Is +24 % what noise alone would print?
#
# ### The tempting argument, and what is wrong with it
# Take a true signed gap of .02 and noise of the same size on the arm. The arm's gap |.02 + noise| is on average larger than .02. That is correct,
# and it is not our case: the print on *clean* images has noise of the same kind. By hand, with noise on both sides:

# %%
noise = rng.normal(0, 0.02, (2, 100_000))
arm_only, clean, arm = np.abs(0.02 + noise[0]), np.abs(0.02 + noise[0]), np.abs(0.02 + noise[1])
tempting, fair = np.mean(100 * (arm_only - 0.02) / 0.02), np.median(100 * (arm - clean) / clean)
print(f"noise on the arm alone: {tempting:+.0f} % on average; noise on both: median {fair:+.1f} %")
assert tempting > 10 and abs(fair) < 2

# %% [markdown]
# Where nothing changed, clean and arm are two readings of the same thing. We may exchange them, and that turns every change around. So the *median*
# change is zero, whatever the size of the gap. (The mean is not zero: it is large and positive, because a small clean gap sometimes happens to
# divide. That is the reason to use a median, and the follow-up does.) What is left of the objection is the width: how far from zero can the
# median lie by chance?
#
# ### Two laws
# `unchanged.py` draws such pairs at CheXpert's and UCSF-PDGM's sizes and at the printed baselines. Under **no change** every subgroup keeps its rates,
# while decisions flip up and down alike. Under **no direction** the scores of every subgroup also move a little, at random, with mean 0:
# the network does change something, but aims at nobody. Both laws are fitted to the printed median *absolute* changes (Table 2: 14.6, 11.8,
# 11.5 %), so they hold as much noise as the print can hold. The table was made by one command, `python -m fairrecon_lab.paper.against_chance`.

# %%
from fairrecon_lab.paper.against_chance import against_chance as measured

laws = measured()
percent = laws[laws["table"].isin(["F2", "F3"]) & (laws["statistic"] == "median change (%)")]
run.figure(pictures.printed_on_laws(percent), "12_laws")

# %%
sex = percent.query("row == 'Standard' and column == 'Sex'").set_index("law")
assert sex.loc["no change", "high"] < sex.loc["no change", "printed"] < sex.loc["no direction", "high"]
sex[["printed", "low", "expected", "high"]].round(1)

# %% [markdown]
# **What to look for:** the diamonds against the grey bars, and then against the hatched ones. "Standard: Sex" lies outside of the grey bar: +24 % is
# *not* what we get when nothing changes. But it lies well inside the hatched one. If reconstruction moves the scores of every group a little, without
# any direction, then a gap near zero (sex) grows, a large one (age) does not, and the median for sex is +17 % with a band from 0 to +57 %. The
# pattern of the whole table, sex up, age still, race a little up, is the pattern of changes without direction. Is sex special beyond that?
# By Table 3 there is no sign of it. By the seed's Table 5, with its less noisy estimator, there is:

# %%
tails = ["row", "column", "law", "printed", "expected", "low", "high", "share", "error", "n_draws"]
laws[(laws["table"] == "5") | (laws["statistic"] == "fall of the median (points)")][tails].round(3)

# %% [markdown]
# `share` is the part of the worlds that lie at least as far out as the print, and `error` is its Monte Carlo error. The lower rows are about
# mitigation. Train the same networks anew, without any mitigation: how far does the median for sex fall by chance? Under the second law, which is the one
# that fits, by as much as 16.5 points in about one world of nine. The rows of the three models (Table 2) differ no more than three equal models would.
#
# One limit of all these bands: findings are drawn independently of each other. Real findings are correlated, which makes every band wider. If findings
# went in pairs that move as one, +24 % would lie at the edge of the grey bar (-19 to +24). So this statistic alone is a weak witness. The seed's
# Table 5 is a stronger one (+23.5 %, where no change gives -9 to +10), and so are the counts that follow.
#
# ## 8, 12 and 0 of 36
# The follow-up counts significant changes among 12 findings and 3 models: 8 by sex, all of them up, 12 by age, 0 by race. We ran the published test, one
# side picked after looking, in worlds of both laws:

# %%
laws[laws["table"] == "FT"][tails].round(3)

# %% [markdown]
# Under no change the test flags 0 to 5 cells by sex, 0 to 7 by age and 0 to 2 by race. So 8 and 12 are more than chance: **something does change**. Under
# changes without direction it flags 5 to 19, 8 to 24 and 0 to 6. So the counts do not say in which direction, and "0 by race" says nothing: with
# six groups, some of them tiny, this test can hardly flag anything.
#
# ## EODD and the covariance: five lines
# The appendix of the follow-up proves that EODD is proportional to the sum of two covariances between attribute and score, one among the ill and one
# among the healthy, so that its loss makes both small. Each gap *is* proportional to its own covariance, but with its own factor,
# 1 / var(A | y), and the signs may differ. A counterexample: half of the ill and a tenth of the healthy belong to group 1.

# %%
tpr_gap, fpr_gap = 0.36, -1.0  # group 1 minus group 0
var_ill, var_healthy = 0.5 * 0.5, 0.1 * 0.9
eodd = (abs(tpr_gap) + abs(fpr_gap)) / 2
covariances = var_ill * tpr_gap + var_healthy * fpr_gap
assert eodd > 0.6 and abs(covariances) < 1e-12, "as unfair as can be, and the sum of covariances is zero"

# %% [markdown]
# ## "Performance stays stable although PSNR falls"
# Two things are missing in this claim. First an interval: "no change was seen" and "a change was excluded" are different findings. Second the
# degraded image itself. If the reader does as well on the degraded image, then the task is easy, and no reconstruction has preserved anything. In
# this run we have both. *Equivalent* means that the whole 95 % interval lies within .02.

# %%
from fairrecon_lab.paper.ours import Ours, recorded
from fairrecon_lab.paper.stability import noise_panels, performance_changes

ours = Ours(run)
performance_changes(ours).round(3)

# %% [markdown]
# Compare the rows of `degraded` with the others: the difference is what the reconstruction has won or lost. With a hundred brain patients most rows are
# undetermined, and so would the papers' be. Their own losses on CheXpert (-.010, -.014 and -.005 in the mean AUROC at 10 000 photons) are
# small, and two of the three are beyond the noise of the test split.
#
# ## The follow-up's figures on this run
# Figures 18 and 19 show SSIM instead of PSNR beside the task. The paper lays both on one picture with two axes, scaled to look alike; here each has
# its own. (If the run has no reconstructions at several levels, nothing is drawn. A mean over findings has no interval where a small sample of images
# may lack one of the findings.)

# %%
if panels := noise_panels(ours):
    display(run.figure(pictures.quality_and_task(panels, "this run"), "12_ssim"))

# %% [markdown]
# Next the histogram of changes in per cent (Figures 3 and 20). The hatched stripe is where the median would lie if nothing had changed. For a run of
# our own we need no printed sizes: `null_percent` gives every subgroup patients of *all* subgroups, with all their arms (the audit's null machinery),
# and keeps the distances between the subgroups on clean images. So clean and arm share their decisions exactly as they do in the run.

# %%
from fairrecon_lab.paper.percent import merge_races, null_percent, percent_summary, percent_table

MODELS = [arm for arm in pictures.MODELS if arm in settings.arms]
table = percent_table(ours.tables["audit"]).query("arm in @MODELS") if "audit" in ours.tables else pd.DataFrame()
table = table if len(table) else pd.DataFrame(columns=["cohort", "attribute", "task", "arm", "metric", "percent"])
percent_summary(table, ["attribute", "arm"]).round(1)

# %%
chest = [cohort for cohort in ours.evaluated if cohort.modality == "xray" and len(table)]
options = {"seed": settings.seed, "min_support": settings.min_support}
laws_here, of_chest = {}, {}
for cohort in chest:
    scores = ours.audited(ours.rows_of("predictions", cohort), cohort)
    for attribute in recorded(cohort):
        laws_here[attribute] = null_percent(scores, cohort.table, attribute, MODELS, **options)
        of_chest[attribute] = laws_here[attribute].observed

# %%
bands = {name: tuple(law.band()[[0, 2]]) for name, law in laws_here.items()}
if of_chest:
    display(run.figure(pictures.percent_histograms(of_chest, bands, "chest, this run"), "12_percent"))
by_model = {name: {arm: law.band(arm).round(1) for arm in MODELS} for name, law in laws_here.items()}
pd.DataFrame(by_model).rename_axis("median (%) if nothing changed: low, middle, high")

# %% [markdown]
# **What to look for:** how wide the stripes are: a median inside its stripe is what chance prints. The numbers of
# this run are about simulated patients, unless you have given it real ones.
#
# Figures 4 and 5 show the change of each task and model, before and after mitigation. This run has the first half. The intervals are those of
# notebook 10: over patients, and valid at a gap of zero, where the bootstrap of a gap is not.

# %%
for cohort in ours.evaluated if "delta" in table else []:
    rows = table[table["cohort"] == cohort.name]
    picture = pictures.changes_by_task(rows, recorded(cohort), f"{cohort.name}, this run, 95 %")
    display(run.figure(picture, f"12_change_{'chest' if cohort.modality == 'xray' else 'brain'}"))

# %% [markdown]
# In Figures 16 and 17 the follow-up counts the two smallest races as "other". With larger groups the gap itself becomes smaller and its change becomes
# visible, which is a statement about numbers and not about people: a gap between a mixture and the rest is another question.

# %%
merged = {}
for cohort in [one for one in chest if "race" in of_chest]:
    law = null_percent(scores, merge_races(cohort.table), "race", MODELS, **options)
    merged = {"six groups": of_chest["race"], "four groups": law.observed}
    bands = {"six groups": bands["race"], "four groups": tuple(law.band()[[0, 2]])}
    display(run.figure(pictures.percent_histograms(merged, bands, "chest by race, this run"), "12_merged"))
pd.DataFrame({name: rows["baseline"].describe()[["mean", "max"]] for name, rows in merged.items()}).round(3)

# %% [markdown]
# The same cells one by one (Figure 17), six groups beside four. The audit is run again on the merged column, with its intervals. They become shorter
# (the line below the figure says by how much) and remain long: "high variability by race" is first of all a matter of numbers.

# %%
from fairrecon_core.audit import audit_change

again = options | {"arms": MODELS, "metrics": ["rates"], "n_boot": 1000}
for cohort in [one for one in chest if "race" in of_chest]:
    audit = audit_change(scores, merge_races(cohort.table), "race", **again)
    six = table[(table["cohort"] == cohort.name) & (table["attribute"] == "race")]
    both = pd.concat([six, percent_table(audit).assign(attribute="merged_race")])
    picture = pictures.changes_by_task(both, ["race", "merged_race"], "chest, this run, 95 %")
    display(run.figure(picture, "12_merged_change"))
    length = (both["delta_ci_high"] - both["delta_ci_low"]).groupby(both["attribute"]).median()
    for attribute, name in (("race", "six groups"), ("merged_race", "four")):
        print(
            f"{name}: median length of an interval {length.get(attribute, float('nan')):.3f} (nan: none has the support)"
        )

# %% [markdown]
# Figures 11 and 12, the sweep of lambda, print no values, only ends of axes. One fact helps: EODD by race is .22 to .32 there, and .07 in Table 1.

# %%
paper_table("FA")

# %% [markdown]
# ## The claims, one by one
# First the follow-up. Each claim has a verdict: *consistent with chance*, *not consistent with chance*, *cannot be told*, or *refuted* where one
# counterexample decides. "Not consistent" does not say that the claim is right, only that the number is not noise: read the columns for and against.

# %%
from fairrecon_lab.paper.claims import claims, summary_counts

print(summary_counts())
Markdown(as_markdown(claims()))

# %% [markdown]
# Now the seed: what it says, what in its own numbers speaks for it, what against, and where to see it. All numbers are computed from the printed ones.

# %%
Markdown(as_markdown(seed_claims.seed_claims()))

# %% [markdown]
# And this run: did the TPR or FPR gap change? *Undetermined* is not *unchanged*.

# %%
seed_claims.verdicts_of_run(ours.tables["audit"]) if "audit" in ours.tables else "no audit yet (notebook 10)"

# %% [markdown]
# **What to look for:** not that the papers are wrong. Most of their claims are modest. But "small", "no trend" and "not significant" were read off
# noise whose size was never shown, so they could not have come out otherwise. What stands: age gaps of the chest reader, changes by sex in a
# few findings, and that reconstruction does change gaps. What does not stand: that it harms one sex, and that mitigation helps.
#
# ## Check your understanding
# **1.** A seventh group joins, with as many patients as AI/AN. All groups have equal rates. What happens to the printed EOP of fracture? Predict, then
# run: `chance.null_gaps`, as at the beginning, takes the shares of as many groups as you give it.

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
six = chance.subgroup_shares("race")
seven = np.append(six, six["AI/AN"]) / (1 + six["AI/AN"])
n, rate = chance.expected_counts("fracture"), chance.rate_at_equal_errors(chance.clean_auroc()["fracture"])
null = lambda shares: chance.null_gaps(*n, shares, rate, 1 - rate, n_draws=200, n_inner=60)[:, 1].mean()
expected = [null(six), null(seven)]
print(f"equal rates, six groups: {expected[0]:.3f}; seven: {expected[1]:.3f}")
assert expected[1] > expected[0], "a maximum over more noise is larger, and nobody is treated worse"

# %% [markdown]
# **2.** (With `minimal_detectable_effect` and `se_from_flips`, as for the brain above.) How many test patients would the brain study need to detect a change of .05 in the TPR gap by sex, with 10 % flips? Pooling all 501 cases by
# cross-validation is free. Is it enough?

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
effect = lambda n: minimal_detectable_effect(se_from_flips(0.1, 0.8 * n * 0.6, 0.8 * n * 0.4))
needed = 101 * (effect(101) / 0.05) ** 2
print(f"detectable with 101: {effect(101):.2f}, with 501: {effect(501):.2f}; for .05 about {needed:,.0f} patients")
assert needed > 501 > 101, "five times the patients, and still short"

# %% [markdown]
# **3.** A gap of .40 and a gap of .02 both move by a random amount of about .04, up or down. Which of the two has a positive median change in per cent? Predict,
# then run.

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
move = rng.normal(0, 0.04, 100_000)
change = {gap: np.median(100 * (np.abs(gap + move) - gap) / gap) for gap in (0.40, 0.02)}
print({gap: f"{value:+.1f} %" for gap, value in change.items()})
assert abs(change[0.40]) < 1 < change[0.02], "only a gap that can change its sign is folded"

# %% [markdown]
# **Against the papers.** Same: their statistics, their test, their sizes. Different: a printed gap is shown beside the gap that equal rates would print; a
# claim of "no change" beside the change that could have been seen; a median in per cent beside its law; and every claim has a verdict with a number.
# ## Takeaways
# - the race column is what equal rates would print, sex is about half noise, age is real; all Dice gaps are within chance
# - for small findings and groups the test split could show nothing but a landslide
# - a median change in per cent is zero when nothing changed, and positive for small gaps when change has no direction: +24 % is not the first and looks like the second
# - most claims are modest, and most could not have come out otherwise at these group sizes
