# %% [markdown]
# # 14. What real images say, and what they cannot
# - **You will** see which questions a reader can answer on the real cohorts at hand; count what an audit could decide there, and how many
#   patients the rest would take; follow one finding, that women gain more PSNR than men, as far as it goes, and meet its opposite; see sex and age leak out of images
#   when they are reconstructed
# - **Time** 20 s to run, about 15 min to work through, **memory** 600 MB (tutorial); **needs** nothing: it reads `results/`; **makes** nothing
# - **In the paper** Sec. 3.4 and its limitations

# %% tags=["parameters"]
profile = "tutorial"  # smoke | tutorial | lgg | covid_cxr | nih | paper
overrides = {}  # for example {"seed": 1}

# %%
import numpy as np

from fairrecon_core.steps.folder import begin
from fairrecon_lab.analysis import real, real_figures

settings, run = begin(profile, overrides)
NOTE = "real patients, out of fold; intervals by patient"

# %% [markdown]
# ## Which questions can be asked
# With a few dozen patients a network that learns from scratch learns nothing: the grade of a glioma was read with an AUROC of .44. A network
# that was trained on a million photographs, stays as it is, and gets a logistic regression on top (`backbone: efficientnet_lite0`) reads
# what is there to be read. Every AUROC below is out of fold: nobody was tested by a head that had learned from them. A *control* is an easy
# question of no clinical use; it says that the chain works. A task is *informative* if its whole interval is above .6.
#
# What to look for: how few clinical questions survive. A reader at chance has no bias to lose, and its gaps are noise about noise.

# %%
readers = real.kept_results("readers")
readers.query("value.notna()").drop(columns="label").round(3)

# %% [markdown]
# ## What the audit could decide
# Only cells of informative tasks count, and Dice where there are masks. Green, striped: the change is provably smaller than the margin (.05 of a rate,
# .02 of an AUROC). Red, crossed: it changed. Grey: these patients cannot tell. Beside `placebo`, whose images are untouched in two cases out of
# three, any arm that changes every image moves every score a little, and the interval of a difference of differences is wide.

# %%
verdicts = real.kept_results("verdicts")
by_sex = verdicts.query("attribute == 'sex' and baseline_arm == 'clean'")
run.figure(real_figures.verdicts_figure(by_sex, f"by sex; {NOTE}"), "14_verdicts")

# %% [markdown]
# *needed* is the number of patients with whom half of the undetermined cells would end as equivalent, with power .8, had nothing changed:
# the error falls with the root of the number. *mde* is the change of a rate that had to be there to be found.

# %%
shown = [
    "profile",
    "arm",
    "cells",
    "changed",
    "equivalent",
    "undetermined",
    "not_estimable",
    "decided",
    "mde",
    "needed",
]
by_sex[shown].round(2)

# %% [markdown]
# For the U-Net, cell by cell:

# %%
cells = real.kept_results("cells")
cells.drop(columns=["baseline", "p_adjusted"]).round(3)

# %% [markdown]
# ## Women gain more PSNR than men. Is it sex?
# In TCGA-LGG every network gives women more decibels over the degraded image than men, far beyond chance. A finding like that has to survive
# a question: what else differs between these women and men? Women's heads fill less of the image (45 against 50 %). So: hold equal, one after the other,
# the size of the head, the place of the slice, the site, the grey values. `trained` are the networks of the run, `shipped` those that learned
# on simulated brains and never saw any of these patients.

# %%
everywhere = real.kept_results("sex_psnr")
sex = everywhere.query("profile == 'lgg' and method == 'regression' and region == 'whole image'")
wide = sex.pivot_table(index="held_equal", columns=["weights", "arm"], values="value", sort=False)
wide.round(2)

# %% [markdown]
# The estimate with its interval, for the U-Net, in the whole image and inside the head. Matching pairs of women and men with heads of the same
# size asks the same without a straight line:

# %%
asked = "profile == 'lgg' and arm == 'unet' and held_equal in ('nothing', 'head size', 'all of these')"
sex = everywhere.query(asked)
sex[["weights", "region", "method", "held_equal", "value", "ci_low", "ci_high", "n_patients"]].round(2)

# %% [markdown]
# A regression only compares different people. An experiment changes one thing: draw the *same* brain a tenth smaller, real or simulated, and
# degrade and reconstruct it again. `delta` is the change of the gain against the full size, paired.

# %%
size = real.kept_results("size_psnr")
size[["brains", "arm", "share", "value", "delta", "delta_low", "delta_high", "patients"]].round(2)

# %%
whole = sex.query("region == 'whole image' and method == 'regression'").set_index(["weights", "held_equal"])["value"]
smaller = size.query("arm == 'unet' and brains == 'real' and share == 0.95").set_index("weights")["delta"]
for weights in smaller.index:
    gain = [f"{whole[weights, equal]:.2f} dB at equal {equal}" for equal in ("nothing", "head size", "all of these")]
    print(
        f"{weights}: women gain more by {', '.join(gain)}; the same head a twentieth smaller: {smaller[weights]:+.2f} dB"
    )

# %% [markdown]
# **What to look for:** two answers, in the two lines above. A twentieth is what parts the heads of women from those of men here. If head size were the cause,
# the last number of a line would be about as large as the first, and the second would be about zero. For which networks could that be so?
# For the *trained* ones head size, the first suspect, explains little of the finding. Neither does site, nor the place of the slice, nor brightness.
#
# What is left at equal looks, as far as we can measure looks, was found in a small cohort that nobody drew at random. It may be how women and men were scanned, at which age, with which coil, or hair and scalp. It is a difference in image quality, and no reader
# here was shown to suffer from it.
#
# ## And elsewhere?
# If women gained more because they are women, they would on films, too. The same rows of the audit, the U-Net against the degraded image, in
# every cohort; *baseline* is how much better women's degraded images were:

# %%
audits = real.kept_results("audit").query(
    "arm == 'unet' and baseline_arm == 'degraded' and task == 'quality' and attribute == 'sex'"
)
elsewhere = audits.query("metric == 'psnr_db' and profile in ('lgg', 'nih', 'covid_cxr')").set_index("profile")
two = elsewhere.loc[["lgg", "covid_cxr"]]
assert (two["verdict"] == "changed").all() and two["delta"].prod() < 0, "two findings, of opposite sign"
elsewhere[["baseline", "delta", "delta_ci_low", "delta_ci_high", "verdict", "n_patients"]].round(2)

# %% [markdown]
# On covid-chestxray they gain *less*. Hold equal what a film can differ in: how much of the image it fills, the view, brightness and contrast, detail.
# (Here all images count alike and patients are resampled; the audit takes the ten folds as ten networks. The two differ a little.)

# %%
films = everywhere.query(
    "profile == 'covid_cxr' and arm == 'unet' and weights == 'trained' and region == 'whole image'"
)
by_step = films.query("method == 'regression'").set_index("held_equal")
equal = by_step.loc["and brightness and contrast"]
assert abs(equal["value"]) < abs(by_step.loc["nothing", "value"]) / 2 and equal["ci_low"] < 0 < equal["ci_high"]
films[["method", "held_equal", "value", "ci_low", "ci_high", "n_patients"]].round(2)

# %% [markdown]
# **What to look for:** the value before and after brightness and contrast are equal. More than half of the difference goes with them, and what is
# left could be nothing. Two cohorts gave a *changed* each, with opposite signs, so neither is a law about women. An audit that had seen only one of
# the two would have a story to tell.
#
# ## What leaks
# Whether somebody is a woman can be read off a chest film with an AUROC near .9, which no reader was asked to do. Is it as legible after
# reconstruction? And when a smooth image is read, which way do the errors go?

# %%
leaks = real.kept_results("leakage")
run.figure(real_figures.leakage_figure(leaks, "sex", NOTE), "14_leakage_sex")

# %% [markdown]
# **What to look for:** can sex be read off the clean images at all (the dotted line)? If not, there is nothing to lose. Then the filters (`nlm`, `tv`) on the NIH films:
# of women and men, who is read the other way more often? Smoothing moves all scores in one direction. A reader that was frozen on clean
# films meets films of another texture, and its ranking may survive where its threshold does not: compare left and right, for the filters and for the U-Net.
#
# ## Networks that never saw a real patient
# The shipped networks learned on simulated people. Gain in PSNR over the degraded image on real ones, in dB:

# %%
zero = real.kept_results("zero_shot")
zero.pivot_table(index="arm", columns="profile", values="value").round(2)

# %% [markdown]
# ## Check your understanding
# A cell of 100 patients has a minimal detectable effect of .28, and a margin of .05. How many patients would make it equivalent? First guess
# whether it is nearer to 300 or to 3 000. Two facts help. A minimal detectable effect is 1.96 + .84 = 2.8 standard errors. And for *equivalent*,
# with power .8 where nothing changed, 1.96 + 1.28 standard errors have to fit into the margin.

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
error = 0.28 / (1.96 + 0.84)  # the standard error behind the effect: .1
needed = 100 * ((1.96 + 1.28) * error / 0.05) ** 2  # it falls with the root of the number
assert np.isclose(needed, real.patients_needed([100], [0.28], 0.05)[0], rtol=0.01) and needed > 3000

# %% [markdown]
# **Against the paper.** Same: small real cohorts, frozen readers, gaps by sex and age. Different: a reader at chance is left out of every count;
# a cell that cannot be decided says so, and says how many patients it would take; and a difference between women and men is not called a
# difference of sex before head size and site have been looked at, and another cohort.
# ## Takeaways
# - With a few dozen patients only easy questions are read well; readers at chance say nothing about bias.
# - Most cells of a small cohort are undetermined, and the number of patients that would decide them can be computed.
# - Women gained more PSNR in one cohort and less in another. In the first, head size, the obvious cause, explains little of it once the same head
#   is drawn smaller; in the second, brightness and contrast explain most: test, do not guess.
# - Reconstruction changes what a frozen reader takes sex and age to be, and more for one sex than for the other.
