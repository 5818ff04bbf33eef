# %% [markdown]
# # 7. Image quality: what is measured, what is perceived, and for whom
# - **You will** compute PSNR, SSIM, NMSE and LPIPS by hand; see errors that PSNR cannot tell apart; see why a perfect sampler loses exactly
#   3.01 dB; compare every arm at every level, yours among them; redo Tables 6 and 7 with decibels and patients
# - **Time** 40 s to run, about 60 min to work through, **memory** 1050 MB (tutorial); **needs** 01, and 04 to 06 for the images; **makes** quality, its audit
# - **In the paper** Sec. 3.3, Fig. 4 and 5; PSNR and LPIPS of Tab. 3 and 4; Tab. 6 and 7

# %% tags=["parameters"]
profile = "tutorial"  # smoke | tutorial | lgg | covid_cxr | nih | paper
overrides = {}  # for example {"seed": 1}

# %%
import numpy as np
import pandas as pd
from IPython.display import display

from fairrecon_core.cohort.pixels import as_float
from fairrecon_core.steps.folder import begin
from fairrecon_core.steps.pipeline import open_cohorts
from fairrecon_lab.analysis.short_forms import subgroup_attributes
from fairrecon_lab import plots

settings, run = begin(profile, overrides, needs=["cohort"])
steps_of = open_cohorts(run)
first = next(iter(steps_of.values()))

# %% [markdown]
# The last part compares women and men, young and old. If a *gap between subgroups* is new to you, read the first half of notebook 09
# before; it needs nothing.
#
# What is not the lesson, such as the drawing of a table or the loop over arms, lies in `fairrecon_lab.analysis` and is imported where it is
# first used. One helper stays here: the images of an arm at a noise level, in [0, 1], beside the rows of the cohort that they show.


# %%
from fairrecon_lab.analysis import estimates, quality_figures
from fairrecon_lab.analysis import quality as by_arm


def images_of(steps, arm, level):
    """Images (n, H, W) of an arm at a level, and the rows of the cohort they belong to."""
    stored, rows = steps.images.get(arm, level)
    return as_float(stored), rows


# %% [markdown]
# Every mean below is a mean over patients with a 95 % interval from the same number of resamples and the same seed.

# %%
BOOT = {"n_boot": min(settings.n_boot, 2000), "seed": settings.seed}
GROUP = {"n_boot": settings.n_boot, "min_support": settings.min_support, "seed": settings.seed}

# %% [markdown]
# ## Four numbers by hand
# One clean image and its degraded version, and the error between them. PSNR counts decibels of mean squared error below the largest
# possible signal, 1; NMSE divides by the energy of the image instead:
#
# $$\mathrm{PSNR} = -10 \log_{10} \frac{1}{n} \sum_i (\hat x_i - x_i)^2, \qquad \mathrm{NMSE} = \frac{\sum_i (\hat x_i - x_i)^2}{\sum_i x_i^2}$$

# %%
level = first.audit_level
row = first.setup.shared_rows()[0]
clean = first.cohort.image(row).astype(float)
images, rows = images_of(first, "degraded", level)
degraded = images[list(rows).index(row)].astype(float)
error = degraded - clean
by_hand = {"psnr_db": -10 * np.log10(np.mean(error**2)), "nmse": (error**2).sum() / (clean**2).sum()}

# %% [markdown]
# SSIM slides a Gaussian window over both images and compares local mean, local contrast and local correlation. The constants keep it
# finite where there is nothing. There are several SSIMs in circulation; this is that of Wang et al. 2004, a border of 5 pixels left out.

# %%
from scipy.ndimage import gaussian_filter

local = lambda values: gaussian_filter(values, 1.5, truncate=3.5)
mean_a, mean_b = local(degraded), local(clean)
var_a, var_b = local(degraded**2) - mean_a**2, local(clean**2) - mean_b**2
together = local(degraded * clean) - mean_a * mean_b
alike = (2 * mean_a * mean_b + 0.01**2) / (mean_a**2 + mean_b**2 + 0.01**2)
alike = alike * (2 * together + 0.03**2) / (var_a + var_b + 0.03**2)
by_hand["ssim"] = alike[5:-5, 5:-5].mean()

# %% [markdown]
# LPIPS asks a network that was trained on photographs. Its features are scaled to length one at every pixel; the squared difference is
# weighed per channel by weights fitted to what people called similar, averaged over pixels, and added over five layers.

# %%
import torch

from fairrecon_core.predict.quality import lpips_network

network = lpips_network()
views = [torch.tensor(part, dtype=torch.float32).expand(1, 3, -1, -1) * 2 - 1 for part in (degraded, clean)]
unit = lambda layer: layer / layer.norm(dim=1, keepdim=True).clamp(min=1e-10)
with torch.inference_mode():
    features = [network.features(view) for view in views]
    by_hand["lpips"] = float(sum(head((unit(a) - unit(b)) ** 2).mean() for head, a, b in zip(network.heads, *features)))

# %% [markdown]
# The core measures all four, every arm clipped in the same way and nothing rescaled. (The published code stretched whole batches to
# [0, 1] before it took PSNR, so a bright pixel in one patient changed the PSNR of the next; its column "nrmse" is a plain MSE.)

# %%
from fairrecon_core.predict.quality import measure

measured = measure(degraded[None], clean[None]).iloc[0]
for name, value in by_hand.items():
    assert np.isclose(value, measured[name], rtol=2e-4, atol=1e-6), (name, value, measured[name])
measured[list(by_hand)].to_frame(f"by hand and by the core, {first.name}").round(4).T

# %% [markdown]
# ## What PSNR does not see
# PSNR knows how large an error is, not what it looks like. Take five errors that a radiologist would never confuse, and scale each until
# the PSNR is the same: a brighter image, grain, blur, a half that is shifted by a little, and a *lesion that is gone*. The last one is
# scaled by nothing: erasing it costs so little that its PSNR is higher than that of the others.

# %%
rng = np.random.default_rng(settings.seed)
grain = rng.standard_normal(clean.shape)
upper = np.arange(clean.shape[1]) < clean.shape[1] // 2
patterns = {"brighter": np.ones_like(clean), "grain": grain, "blur": gaussian_filter(clean, 3) - clean}
patterns["half shifted"] = np.where(upper, np.roll(clean, 2, axis=0), clean) - clean

# %% [markdown]
# How much of a pattern gives exactly 26 dB? The PSNR falls as the amount grows, so a root finder can look for it. The sum is clipped to
# [0, 1], as every image is before it is measured.

# %%
from scipy.optimize import brentq

from fairrecon_core.predict.quality import psnr_db

TARGET_DB = 26.0


def scaled(pattern):
    """The clean image plus as much of the pattern as makes the PSNR equal to the target."""
    with_it = lambda amount: np.clip(clean + amount * pattern, 0, 1)
    return with_it(brentq(lambda amount: psnr_db(with_it(amount), clean) - TARGET_DB, 1e-6, 50))


# %% [markdown]
# The lesion: where the cohort has masks it is the tumour, otherwise a disc of the image stands in for it; both are filled from around. All
# five images stand in one row, each with its error below.

# %%
erased = by_arm.erased(clean, by_arm.lesion_or_disc(first.cohort, row))
shown = {name: scaled(pattern) for name, pattern in patterns.items()} | {"lesion erased": erased}
table = measure(np.stack(list(shown.values())), np.stack([clean] * len(shown))).set_axis(list(shown))
titles = [f"{r.Index}\n{r.psnr_db:.1f} dB, LPIPS {r.lpips:.2f}" for r in table.itertuples()]
figure = plots.error_row(clean, list(shown.values()), titles, note=plots.origin(first.cohort))
estimates.show_images(run, figure, "07_same_psnr", first.cohort)
assert np.ptp(table["psnr_db"].iloc[:-1]) < 0.01

# %%
four = table.drop(index="lesion erased")
print(f"SSIM is lowest for {four['ssim'].idxmin()!r}, LPIPS is highest for {four['lpips'].idxmax()!r}")
for column in ("psnr_db", "ssim"):
    assert table.loc["lesion erased", column] > four[column].max(), f"{column} should mind the lesion least of all"
table[["psnr_db", "ssim", "nmse", "lpips"]].round(3)

# %% [markdown]
# **What to look for:** one PSNR, four values of SSIM and of LPIPS: the line above says which of the four errors each of them minds most. PSNR
# and SSIM put the erased lesion first of all five, as if it were the best picture. That is why the paper, and notebook 08, ask readers as
# well: image quality is about all pixels, and disease is about few of them.
#
# ## Why a perfect sampler loses 3.01 dB
# A U-Net trained on squared error aims at the *mean* of all images that fit the measurement. A diffusion model draws *one* of them. Let the
# truth be $x \sim N(0, 1)$ and the measurement $y = x + \text{noise}$ with variance 1. The truth, given $y$, has mean $y/2$ and variance 1/2.
# A perfect sampler draws from exactly that law, independently of the truth:
#
# $$E(\bar x - x)^2 = v, \qquad E(\hat x - x)^2 = v + v = 2v, \qquad 10 \log_{10} 2 = 3.01\ \mathrm{dB}, \qquad E(\hat x_N - x)^2 = \left(1 + \tfrac1N\right) v$$
#
# where $\hat x_N$ is the mean of $N$ draws. Drawn a million times:

# %%
truth = rng.standard_normal(1_000_000)
y = truth + rng.standard_normal(truth.size)
draws = y / 2 + np.sqrt(0.5) * rng.standard_normal((8, truth.size), dtype=np.float32)
toy = pd.DataFrame({"samples averaged": [1, 2, 4, 8]})
errors = np.array([np.mean((draws[:n].mean(0) - truth) ** 2) for n in toy["samples averaged"]])
toy["loss (dB)"] = 10 * np.log10(errors / np.mean((y / 2 - truth) ** 2))
toy["10 log10(1 + 1/N)"] = 10 * np.log10(1 + 1 / toy["samples averaged"])
assert np.allclose(toy["loss (dB)"], toy["10 log10(1 + 1/N)"], atol=0.02)
toy.round(2)

# %% [markdown]
# The mean pays in another currency: it is too smooth. Half of the truth's variance is missing from it, and it looks like no image that
# exists. The draw has all of it. No estimator can have both the smallest error and the right statistics (Blau and Michaeli 2018).

# %%
variances = {"truth": truth.var(), "posterior mean": np.var(y / 2), "one draw": draws[0].var()}
assert abs(variances["one draw"] - 1) < 0.01 and abs(variances["posterior mean"] - 0.5) < 0.01
pd.Series(variances, name="variance").round(2).to_frame()

# %% [markdown]
# Now the arm that samples. A few test images get four samples each. If it drew perfectly, averaging two would gain 1.25 dB, and four
# 2.04 dB. A gain below that says the samples differ too little for how wrong they are: the model is surer than it should be, or wrong in
# the same way every time.

# %%
N_SAMPLES = 4
samplers = [arm for arm in first.setup.arms() if not arm.endswith("_dc") and first.weights.network(arm).stochastic]
n_few = 4 if settings.profile == "smoke" else 12
start, few = (part[:n_few] for part in images_of(first, "degraded", level))
one_call = {"image_ids": first.setup.names_of(few), "seed": settings.seed}
samples = np.zeros((0, *start.shape))
if samplers:
    restore = first.weights.load(samplers[0])
    samples = np.stack([np.asarray(restore(start, level, sample=k, **one_call)) for k in range(N_SAMPLES)])

# %% [markdown]
# The dashed curve is the perfect sampler of the formula. Where no arm of a run samples, it stands alone.

# %%
who = first.cohort.table["patient_id"].iloc[few]
gains = by_arm.sample_gains(samples, first.cohort.images_at(few), who)
name = samplers[0] if samplers else f"none of {first.setup.arms()}"
print(f"sampler: {name}; {len(few)} images; spread {samples.std(axis=0).mean() if samplers else np.nan:.4f}")
figure = quality_figures.samples_figure(gains, N_SAMPLES, name, first.cohort, level)
run.figure(figure, "07_samples")

# %% [markdown]
# So "the SDE has the lower PSNR" is no evidence that it invents things. In the paper's Table 4 it lies 1.6, 3.4 and 2.1 dB below the U-Net; up
# to 3.01 dB are the price of sampling. PSNR of one sample and of a mean are two different questions.
#
# ## Every arm, every level
# One call per arm reconstructs what is missing and measures it; what exists and is current is read back. Then we read the **whole** table:
# an arm of yours that wrote its rows (notebook 13 shows how) is in every figure from here on, without a change to this notebook.

# %%
quality, arms_of = {}, {}
for name, steps in steps_of.items():
    steps.quality.measure(*steps.setup.arms())
    quality[name] = run.read("quality", cohort=name)
    arms_of[name] = list(dict.fromkeys([*steps.setup.arms(), *quality[name]["arm"]]))
long = pd.concat(quality.values()).groupby(["cohort", "arm", "level"], sort=False)
long["psnr_db"].agg(["size", "mean"]).round(2).unstack()

# %% [markdown]
# The mean of an arm is a mean over *patients*: first each patient's own mean, then the mean of those. Its 95 % interval draws patients
# again, with all their images. Only the audited level has the whole test split; the others have a random part of it.

# %%
whose = {name: estimates.patients_of(steps.cohort.table) for name, steps in steps_of.items()}
means = {name: {} for name in steps_of}
for name, table in quality.items():
    for metric in dict.fromkeys([*quality_figures.MEASURES, *by_arm.measures_by_subgroup(steps_of[name].cohort)]):
        means[name][metric] = estimates.means_by_level(table, metric, whose[name], arms=arms_of[name], **BOOT)

# %%
for name, steps in steps_of.items():
    figure = quality_figures.quality_curves(means[name], steps.cohort)
    display(run.figure(figure, f"07_curves_{name}"))

# %% [markdown]
# **What to look for:** every network must stand above `degraded`, and above the best classical arm (triangles on their side), or it has not earned its
# complexity. All arms of a level see the same images, so differences between arms are surer than the intervals of single arms suggest:

# %%
audited = {name: table[table["level"] == steps_of[name].audit_level] for name, table in quality.items()}
reference = "unet" if "unet" in settings.arms else settings.arms[0]
paired = {}
for name, table in audited.items():
    paired[name, steps_of[name].audit_level] = by_arm.paired_psnr(table, whose[name], arms_of[name], reference, **BOOT)
pd.concat(paired, names=["cohort", "level"]).droplevel(2)

# %% [markdown]
# ## The rows PSNR and LPIPS of Tables 3 and 4
# In the paper's form, with intervals. In brackets what the paper prints for its own data: another cohort, other sizes and other
# networks, so the order of the arms may be compared and the figures may not. `psnr_foreground_db` leaves out what is not the patient:
# the black around a head, or the border that made a film square (`--fit pad`), on which an arm can win or lose without any merit.

# %%
printed = estimates.printed_in_paper("psnr_db", "lpips")
for name, steps in steps_of.items():
    table = by_arm.table_rows(means[name], printed, steps.cohort.modality)
    display(table.style.set_caption(f"{estimates.whose(steps.cohort)}; 95 % interval; in brackets the paper"))

# %% [markdown]
# ## Perception against distortion
# One point per arm and level, joined from little to much noise. Good is the lower right. Where two arms cannot be ordered, one further right
# and the other further down, they sit on the trade-off of the toy above.

# %%
for name, steps in steps_of.items():
    figure = quality_figures.perception_distortion(means[name], steps.cohort)
    display(run.figure(figure, f"07_perception_{name}"))

# %% [markdown]
# ## Figs. 4 and 5: rows chosen by a rule
# The published pictures were taken from a short list sorted by how little they vary; the difference maps were stretched image by image
# under a colour bar that says 0 to 1. Ours follow a rule that is stated before looking: at each level the image whose **degraded**
# version has the *median* PSNR. No reconstructor has a say in it. Errors share one range.


# %%
def chosen(steps, arm, level, which="median"):
    """Place, among the images of a level, of an arm's worst, median or best PSNR; and the row of the cohort."""
    images, rows = images_of(steps, arm, level)
    psnr = [psnr_db(image, steps.cohort.image(row)) for image, row in zip(images, rows)]
    place = estimates.place_of(psnr, which)
    return place, rows[place]


# %%
def arms_in_a_row(steps, level):
    """Clean image, every arm, and its error, of the median image of one level."""
    place, row = chosen(steps, "degraded", level)
    clean, arms = steps.cohort.image(row), steps.setup.arms()
    images = [images_of(steps, arm, level)[0][place] for arm in arms]
    titles = [f"{arm}, {psnr_db(image, clean):.1f} dB" for arm, image in zip(arms, images)]
    note = f"{estimates.whose(steps.cohort, level)}, image with the median PSNR of `degraded`"
    return plots.error_row(clean, images, titles, note=note, height=1.9)


# %%
for name, steps in steps_of.items():
    for level in steps.levels:
        figure = arms_in_a_row(steps, level)
        estimates.show_images(run, figure, f"07_row_{name}_{level:g}", steps.cohort)

# %% [markdown]
# **What to look for:** errors of a smooth method follow every edge; errors of a sampler look like texture. Now look at those that the rule
# left out: choose an arm and see its worst, median and best image.


# %%
def look_at(cohort, arm, level="audited", which="worst"):
    """Clean, degraded, one arm, and its error, for an image chosen by the arm's own PSNR."""
    steps = steps_of[cohort]
    level = {"audited": steps.audit_level, "least noise": steps.levels[0], "most noise": steps.levels[-1]}[level]
    place, row = chosen(steps, arm, level, which)
    clean, arms = steps.cohort.image(row), list(dict.fromkeys(["degraded", arm]))
    images = np.stack([images_of(steps, name, level)[0][place] for name in arms])
    marks = measure(images, np.stack([clean] * len(arms)))
    titles = [f"{a}\n{m.psnr_db:.1f} dB, LPIPS {m.lpips:.3f}" for a, m in zip(arms, marks.itertuples())]
    note = f"{plots.origin(steps.cohort)}, {which} of {arm} at {level:,.0f}"
    return plots.error_row(clean, list(images), titles, note=note)


look_at(first.name, first.setup.arms()[-1])

# %% tags=["widget"]
from fairrecon_lab.widgets import slider_image

LEVELS, CHOICES = ("audited", "least noise", "most noise"), ("worst", "median", "best")
slider_image(look_at, cohort=tuple(steps_of), arm=tuple(first.setup.arms()), level=LEVELS, which=CHOICES)

# %% [markdown]
# ## Tables 6 and 7: quality by subgroup, as published
# The paper takes the subgroup with the highest mean PSNR and the one with the lowest, prints the difference in **per cent** of the lowest,
# and tests it with the pair held fixed after it was picked, one-sided. For the brain the unit is the patient (median over slices), for
# the chest the image.

# %%
units, as_printed = {}, {}
once = {"n_boot": min(settings.n_boot, 1000), "seed": settings.seed}
for name, steps in steps_of.items():
    people = steps.cohort.table
    units[name] = {arm: by_arm.paper_units(audited[name], people, arm, steps.cohort.modality) for arm in arms_of[name]}
    as_printed[name] = by_arm.published_gaps(units[name], subgroup_attributes(steps.cohort), **once)
asked = [(name, attribute) for name in steps_of for attribute in subgroup_attributes(steps_of[name].cohort)]
print(f"cohorts without an attribute of two known groups: {', '.join(set(steps_of) - dict(asked).keys()) or 'none'}")
pd.concat(as_printed, names=["cohort"]).round(3)

# %% [markdown]
# One cell of this table by hand. The core's function must find the same per cent, and the two groups that it compares are the
# best and the worst of all, whichever those are in these data:

# %%
for name, attribute in asked[:1]:
    arm = arms_of[name][0]
    people = units[name][arm].query(f"{attribute} != 'unknown'")
    mean = people.groupby(attribute)["psnr_db"].mean()
    theirs = as_printed[name].loc[(attribute, arm)]
    assert np.isclose(100 * (mean.max() / mean.min() - 1), theirs["percent"]) and theirs["best"] == mean.idxmax()

# %% [markdown]
# Three things are wrong with it. A decibel is a logarithm, and per cent of a logarithm depend on where its zero is (exercise 2). The largest
# of several gaps is positive whatever happens. And a test of a pair that was picked because it looked large is no test. How often
# does it cry wolf? Hand out the recorded groups to patients **at random**, so that nothing can be there, and count p < .05. Beside it
# the omnibus test of the core, which asks of all subgroups at once whether any differs, two-sided, by patient:

# %%
n_worlds, alarms = 20 if settings.profile == "smoke" else 100, {}
worlds = {"n_worlds": n_worlds, "min_support": settings.min_support, "seed": settings.seed}
for name, attribute in asked:
    alarms[name, attribute] = by_arm.false_alarms(units[name][arms_of[name][-1]], attribute, **worlds)
alarms = pd.DataFrame(alarms, index=["published test", "omnibus by patient"]).T
alarms.rename_axis(["cohort", "attribute"]) if asked else "no groups to hand out"

# %% [markdown]
# **What to look for:** which column is near .05, where a test belongs? A pair that was picked out of many looks different by
# itself, and the more subgroups there are, the more. Several images of a patient, counted as independent, make it worse still.
# So "p = 0" in Table 7 says less than it seems to.
#
# ## Tables 6 and 7, done right
# In decibels, by patient, with intervals. `gap` is the max-min gap between subgroups large enough to have a mean; `noise` is the gap
# below which 97.5 % fall when all are alike; `p any` is the omnibus test. And then the question that matters for fairness: did the
# *reconstructor* widen the gap, or did it inherit it from the degraded image? `audit_change` answers with `degraded` as baseline.

# %%
from fairrecon_core.audit import audit_change
from fairrecon_lab.auditing.summary import signed_cells

KEYS = ["cohort", "image_id", "arm", "level", "fold", "train_seed", "sample"]
WANTED = {"sex": "male", "age_group": "old", "race": "white"}
audits = {}


def reference_of(people, attribute):
    """The subgroup that the others are compared with: the usual one, or the largest where nobody belongs to it."""
    return WANTED[attribute] if WANTED[attribute] in set(people[attribute]) else "largest"


# %%
for name, attribute in asked:
    cohort = steps_of[name].cohort
    rows, people = audited[name][[*KEYS, *by_arm.measures_by_subgroup(cohort)]], cohort.table
    against = {"baseline_arm": "degraded", "reference": reference_of(people, attribute)}
    audits[name, attribute] = audit_change(rows, people, attribute, **against, **GROUP)
    run.save("audit", audits[name, attribute], cohort=name, attribute=attribute, task="quality")

# %% [markdown]
# The audit asks about changes; its rows join those of notebook 10 in the run's table, under a task of their own. The gaps themselves, with
# their test and the noise band, come from means over subgroups. By hand for the largest group: the
# mean of its patients, each of them with the mean of all images. Groups of fewer patients than `min_support` have no mean.

# %%
tests = {}
for name, attribute in audits:
    people = steps_of[name].cohort.table
    tests[name, attribute] = by_arm.subgroup_table(audited[name], people, attribute, arms_of[name], **GROUP)

# %%
for name, attribute in asked[:1]:
    found, people = tests[name, attribute], steps_of[name].cohort.table[["image_id", "patient_id", attribute]]
    largest = int(np.argmax(found.result.n_patients[0]))
    here = audited[name].merge(people, on="image_id")
    here = here[(here["arm"] == found.arms[0]) & (here[attribute] == found.groups[largest])]
    by_hand = here.groupby("patient_id")["psnr_db"].mean()
    enough = by_hand.count() >= settings.min_support
    assert np.isclose(by_hand.mean() if enough else np.nan, found.result.value[0, 0, largest], equal_nan=True)

# %% [markdown]
# The number of patients of each subgroup stands above its table; the published way is the last column. Where best and worst changed places, the
# gap has lost its direction: its interval is then wide on both sides of 0 although the groups did move. The figure below has the sign.

# %%
for (name, attribute), found in tests.items():
    table = by_arm.gap_table(found, audits[name, attribute], as_printed[name].loc[attribute])
    sizes = ", ".join(f"{group} (n = {n})" for group, n in zip(found.groups, found.result.n_patients[0]))
    title = f"{name}, {plots.origin(steps_of[name].cohort)}, {attribute}: {sizes}"
    display(table.style.format(precision=3, na_rep="").set_caption(title))

# %% [markdown]
# The same as a picture. Left: mean PSNR of every subgroup. Right: what the arm added to the difference to the reference subgroup, with the
# noise band in grey and the margin of half a decibel dotted. The shape of a point is its verdict: changed, equivalent or undetermined. A
# subgroup below the minimum support has no mean and no row. A slider may ask for another attribute or measure, so the figure is a function.


# %%
def by_subgroup(cohort, attribute, metric="psnr_db"):
    """Subgroup means of every arm, and the change of the signed gap against `degraded`."""
    steps, cells = steps_of[cohort], signed_cells(audits[cohort, attribute])
    options = GROUP | BOOT | {"metric": metric}
    found = by_arm.subgroup_table(audited[cohort], steps.cohort.table, attribute, arms_of[cohort], **options)
    return quality_figures.subgroup_figure(found, cells, metric, steps.cohort, steps.audit_level)


for name, attribute in audits:
    display(run.figure(by_subgroup(name, attribute), f"07_subgroups_{name}_{attribute}"))

# %% [markdown]
# Choose another measure: LPIPS, or PSNR inside the head (or film) alone. The background of a brain image is black in every arm and
# easy; who has the smaller head has more of it, and gets a higher PSNR for no merit of the reconstruction.

# %%
last = steps_of[list(steps_of)[-1]]
measures, attributes = tuple(by_arm.measures_by_subgroup(last.cohort)), tuple(subgroup_attributes(last.cohort))
by_subgroup(last.name, attributes[0], "lpips") if attributes else f"{last.name}: no groups to compare"

# %% tags=["widget"]
slider_image(by_subgroup, cohort=last.name, attribute=attributes, metric=measures) if attributes else None

# %% [markdown]
# **What to look for:** an arm can widen a gap, and it can close one (left of zero, where the group named first was ahead). A gap that is
# there in `degraded` already was there before any network: a wider body lets fewer photons through (notebook 03), a larger ventricle has more
# edges. Whether an arm *adds* to it is on the right. A gap in decibels is not yet harm; whether readers suffer is asked in notebooks 08
# and 10.

# %% [markdown]
# ## The same network on people it never met
# All shipped networks learned on simulated patients. `results/` keeps what they gain on real ones whom nobody trained on (PSNR
# over the degraded image in dB; `unet_dc`: the U-Net with data consistency, which puts the measured samples back). **What to look for:** the order
# of the arms. What was measured is the same for every patient, so an arm that keeps to it loses least among strangers; an arm that draws
# from memory draws other people. A network that wins on its own kind of patient need not win on yours.

# %%
from fairrecon_lab.analysis.real import kept_results

strangers = kept_results("zero_shot")
strangers.pivot_table(index="arm", columns="profile", values="value").round(2)

# %% [markdown]
# ## Check your understanding
# **1.** A sampler is too sure of itself: its samples spread around the right mean, but only half as far as they should. How many decibels
# does one sample cost against the mean? Does PSNR call it better or worse than an honest sampler? Predict from the formula above, then try
# it with normal numbers: a truth and a sample around the same mean, with spread 1 and 1/2.

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
draw = np.random.default_rng(settings.seed)
truth_, honest, too_sure = (
    draw.standard_normal(100_000),
    draw.standard_normal(100_000),
    draw.standard_normal(100_000) / 2,
)
cost = {
    name: 10 * np.log10(((sample - truth_) ** 2).mean() / (truth_**2).mean())
    for name, sample in {"honest": honest, "too sure": too_sure}.items()
}
print({name: f"{value:.2f} dB" for name, value in cost.items()}, f"by the formula: {10 * np.log10(1 + 1 / 4):.2f} dB")
assert abs(cost["too sure"] - 10 * np.log10(1.25)) < 0.1 < cost["honest"] - cost["too sure"], (
    "PSNR rewards false certainty"
)

# %% [markdown]
# **2.** Somebody stores the same images in [0, 2] and keeps 1 as the reference level of PSNR, another uses 255 levels. Every PSNR moves by a
# constant. What happens to a gap in dB, and to the same gap in per cent? Try it with four patients: two of group a with 30 and 31 dB,
# two of group b with 29 and 30 dB; the 255 levels add $10 \log_{10} 255^2$ dB to each.

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
from fairrecon_lab.auditing.by_hand import psnr_gap

in_db = lambda values: values[:2].mean() - values[2:].mean()
in_percent = lambda values: 100 * in_db(values) / values[2:].mean()
values = np.array([30.0, 31.0, 29.0, 30.0])
moved = values + 10 * np.log10(255**2)  # the same errors, another reference
print(f"{in_db(values):.2f} and {in_db(moved):.2f} dB; {in_percent(values):.2f} and {in_percent(moved):.2f} %")
assert np.isclose(psnr_gap(moved, ["a", "a", "b", "b"]), in_db(moved)), "the core's gap is this one"
assert np.isclose(in_db(values), in_db(moved)) and in_percent(values) > 2 * in_percent(moved)

# %% [markdown]
# **3.** Blur the degraded images: a Gaussian of one pixel, `gaussian_filter(image, 1)`, on 16 of them. Where does the result lie in the plane of
# perception and distortion: further right than `degraded`, further down, both, or neither? `measure(images, truths)` of above takes a
# stack of images and a stack of clean ones. (Notebook 13 shows how such a filter becomes an arm of its own, with a curve in every figure.)

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
before, part = (some[:16] for some in images_of(last, "degraded", last.audit_level))
after = np.stack([gaussian_filter(image, 1) for image in before])
truths = last.cohort.images_at(part)
marks = pd.DataFrame({"degraded": measure(before, truths).mean(), "blur": measure(after, truths).mean()})
print(marks.loc[["psnr_db", "lpips"]].round(3))
right, down = marks.loc["psnr_db"].diff().iloc[1] > 0, marks.loc["lpips"].diff().iloc[1] < 0
print(
    f"the blur lies {'further right' if right else 'not further right'}, {'further down' if down else 'not further down'}"
)
assert np.isfinite(marks.loc[["psnr_db", "lpips"]]).all(axis=None)

# %% [markdown]
# **4.** A method is 2 dB better than another in mean PSNR. Name two reasons why the worse one may be preferable.
#
# <details><summary>Possible answer</summary>
# It may sample where the other averages (3.01 dB, and texture, for nothing lost). It may err where nobody looks (background) while
# the other erases lesions. It may be equally good for all subgroups. None of these is in a mean over pixels.
# </details>
#
# **Against Tables 3, 4, 6, 7 and Figs. 4, 5.** Same: PSNR with range 1, LPIPS with AlexNet, levels, arms. Different: nothing is rescaled before
# measuring; means are over patients with intervals; classical arms are there to be beaten; gaps are in decibels, with the
# degraded image as baseline, one test for all subgroups and a noise band; pictures follow a rule. The text of the paper
# says that gaps "remain below 2 %"; its own tables hold 2.21, 2.78 and 2.63.
# ## Takeaways
# - PSNR, NMSE, SSIM and LPIPS are a few lines each, and the core agrees with them on a real image.
# - At one PSNR errors can look like anything; an erased lesion costs next to nothing.
# - One perfect sample costs 3.01 dB against the mean, the mean costs realism; N samples lose 10 log10(1 + 1/N).
# - Arms are compared on the same images, with intervals by patient; any arm with rows in the table is in the figures.
# - Per cent of decibels and a test of the widest pair mislead; the question is what an arm adds to the gap of the degraded image.
