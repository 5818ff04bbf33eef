# %% [markdown]
# # 0. Start here: the question in one picture
# - **You will** see the whole chain on one patient; read the same patient three times; ask the question of the series in numbers
# - **Time** 15 s to run, about 25 min to work through, **memory** 900 MB (tutorial); **needs** nothing; **makes** nothing
# - **In the paper** Sec. 1 and 2, Fig. 1

# %% tags=["parameters"]
profile = "tutorial"  # smoke | tutorial | lgg | covid_cxr | nih | paper
overrides = {}  # for example {"seed": 1}

# %%
import numpy as np

from fairrecon_lab import plots
from fairrecon_core.steps.folder import begin

settings, run = begin(profile, overrides)

# %% [markdown]
# A scanner that measures less is faster (MRI) or gentler (X-ray), and its images are worse. A **reconstructor**
# repairs them, and somebody, or some network, then reads the repaired image. Repairs are made of what is
# common. Are they equally good for women and men, for the young and the old, for every recorded race?
#
# The series follows the image through five stages. Each arrow is a module of `fairrecon_core` and one or more notebooks.

# %%
pipe = plots.pipe_figure(
    {
        "cohort": "who is in the data\nnotebook 01",
        "degrade": "fewer spokes,\nfewer photons\n02, 03",
        "reconstruct": "U-Net, Pix2Pix, SDE\nand classical arms\n04 to 07",
        "predict": "frozen readers:\nclassify, segment\n08",
        "audit": "did the gaps between\nsubgroups change?\n09 to 11",
    },
    note="Every stage reads the files of the one before. Each choice in which the published code differs "
    "from its text is a named option.",
)
run.figure(pipe, "00_pipe")

# %% [markdown]
# The numbers follow the image. People who have never met a fairness metric do better in another order: **who** is in the data, **what**
# would be unfair, and only then the images.
#
# | if you | read | and leave for later |
# |---|---|---|
# | are new to fairness metrics | 00, 01, **09**, then 02 to 08 and 10 | 11 to 16 |
# | know metrics, new to imaging | 00 to 08, 10 | 09, 11 to 16 |
# | have one afternoon | 00, 02, 09, 10 | all others |
# | want the papers checked | 00, 09, 10, 11, 12, 14 | 04 to 08 |
# | bring a reconstructor or a cohort | 00, 09, 10, 13 | all others |
#
# [Notebook 09](09_fairness_by_hand.ipynb) needs nothing but eight invented people; every notebook says at its top which ones it builds on.
#
# ## One patient, three images
# Below is a simulated patient with a glioma, in a FLAIR image. Simulated: a computer drew this brain from an atlas
# and a seed, so we know exactly where the tumour is and nobody's privacy is at stake (notebook 01 tells how).

# %%
from fairrecon_lab.simulate import simulate

size = settings.image_size
patients = list(simulate("brain", n_patients=40, seed=settings.seed, size=size, n_slices=1))

# %% [markdown]
# The MRI scanner measures the image's Fourier transform along straight lines, the *spokes*. Eight times fewer spokes
# than pixels along an edge is an eightfold acceleration, R = 8. What it did not measure counts as zero.

# %%
from fairrecon_core.degrade import degradation

mri = degradation("mri")


def degrade(image, row):
    """The patient's image as an eightfold faster scan gives it."""
    return mri(image, 8, row["image_id"], seed=settings.seed).numpy()


# %% [markdown]
# Until notebook 04 has networks, a classical method stands in as reconstructor: total variation keeps edges and
# removes small wiggles. Streaks are wiggles, and so are small lesions.

# %%
from skimage.restoration import denoise_tv_chambolle


def reconstruct(degraded, strength=0.04):
    """Total variation: the larger the strength, the fewer wiggles survive."""
    return denoise_tv_chambolle(degraded, weight=strength).astype(np.float32)


# %% [markdown]
# ## Reading it
# The simplest reader there is: how much brighter is the tumour than the brain around it? Real readers come in
# notebook 08. This one fits into three lines, and like them it was fixed before it saw any repaired image.

# %%
from scipy.ndimage import binary_dilation


def contrast(image, tumour):
    """Mean inside the outline minus the mean of a rim around it, in units of the grey scale."""
    rim = binary_dilation(tumour, iterations=4) & ~binary_dilation(tumour, iterations=1)
    return float(image[tumour].mean() - image[rim].mean())


# %% [markdown]
# Forty patients, each read three times. Which of them do we look at? A picture chosen because it suits the story proves
# nothing, so we choose by a rule and say how typical it is: of those whose contrast falls at both steps, the one with
# the middle loss.

# %%
readings = []
for image_, row_, tumour_ in patients:
    spoilt = degrade(image_, row_)
    readings.append([contrast(shown, tumour_) for shown in (image_, spoilt, reconstruct(spoilt))])
readings = np.array(readings)  # (patients, 3): clean, degraded, reconstructed
falls = np.flatnonzero((np.diff(readings, axis=1) < 0).all(axis=1))
by_loss = falls[np.argsort(readings[falls, 0] - readings[falls, 2])]
image, row, tumour = patients[by_loss[len(by_loss) // 2]]
print(f"contrast falls at both steps in {len(falls)} of {len(patients)} patients; the one in the middle of these is")
print(f"{row['patient_id']}: {row['sex']}, {row['age_years']:.0f} years, tumour of {tumour.sum()} pixels")

# %%
degraded = degrade(image, row)
reconstructed = reconstruct(degraded)
names = ["clean", "degraded, R = 8", "reconstructed"]
three = plots.image_row(
    [image, degraded, reconstructed], names, outlines=[tumour] * 3, note="simulated; tumour outlined"
)
run.figure(three, "00_three_images")

# %% [markdown]
# **What to look for:** the streaks fan out from edges, and the reconstruction removes most of them. Did it also
# remove a piece of the tumour's brightness? A reader who looks only at the last image could not tell.

# %%
steps = [contrast(shown, tumour) for shown in (image, degraded, reconstructed)]
for name, value in zip(names, steps):
    print(f"{name:16} contrast {value:+.3f}")
assert steps[0] > steps[1] > steps[2], "this patient was chosen because the contrast falls"


# %% [markdown]
# Move the strength of the repair. A stronger repair looks cleaner and reads worse.


# %%
def show_repair(strength=0.04):
    """The repaired image and its error, with what the reader reads."""
    repaired = reconstruct(degraded, strength)
    title = f"strength {strength:g}: contrast {contrast(repaired, tumour):+.3f}"
    return plots.error_row(image, [degraded, repaired], ["degraded", title])


show_repair()

# %% tags=["widget"]
from fairrecon_lab.widgets import slider_image

slider_image(show_repair, strength=[0.01, 0.02, 0.04, 0.08, 0.16], start={"strength": 0.04})

# %% [markdown]
# ## The question, in numbers
# Now all patients. For each we note how the chain changed the contrast (reconstructed minus clean; below zero is a loss),
# and average by sex.
# The bars are 95 % intervals from a bootstrap over patients: draw patients again with replacement, many times.

# %%
from fairrecon_lab.bootstrap import patient_bootstrap

sexes, patient_ids = (np.array([row_[column] for _, row_, _ in patients]) for column in ("sex", "patient_id"))
loss = readings[:, 2] - readings[:, 0]

# %%
figure, ax = plots.canvas(5.2, 2.2)
labels, results = [], []
for sex in ("female", "male"):
    chosen = sexes == sex
    results.append(patient_bootstrap(loss[chosen], patient_ids[chosen], n_boot=settings.n_boot, seed=settings.seed))
    labels.append(f"{sex} (n = {chosen.sum()})")
value, low, high = (np.array([getattr(result, part) for result in results]) for part in ("value", "low", "high"))
plots.forest(ax, labels, value, low, high)
ax.set_xlabel("Change of tumour contrast (simulated)")
run.figure(figure, "00_question")

# %% [markdown]
# **What to look for:** two intervals that overlap are not yet an answer, nor are two that do not: only an interval of the
# *difference* is. While that is wide the honest word is *undetermined*: a difference that would matter is neither shown nor excluded. Notebook 10 does this properly, with
# pairs, many tasks at once, and a margin below which a change would not matter.

# %% [markdown]
# ## Check your understanding
# **1.** The forest above shows one interval for each group. Predict the difference between the two means (women minus men),
# and whether its interval contains zero. Then draw patients of each group again, 2000 times, as above.

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
generator = np.random.default_rng(settings.seed)
women, men = loss[sexes == "female"], loss[sexes == "male"]
draws = [generator.choice(women, women.size).mean() - generator.choice(men, men.size).mean() for _ in range(2000)]
ends = np.quantile(draws, [0.025, 0.975])
print(f"difference {women.mean() - men.mean():+.4f}, 95 % interval {ends[0]:+.4f} to {ends[1]:+.4f}")
print("the interval", "contains zero: undetermined" if ends[0] < 0 < ends[1] else "lies on one side of zero")
assert ends[0] < women.mean() - men.mean() < ends[1], "an interval contains its estimate"

# %% [markdown]
# **2.** The chain changes the contrast in every group. Is that alone a fairness problem?
#
# <details><summary>One answer</summary>
#
# Not of *fairness*: a loss that is the same for everybody is a problem of safety. It becomes one of fairness when it falls
# on one group more than on another, and when the difference is large enough to change what happens to patients. Both
# have to be asked: equal can also mean equally bad.
#
# </details>
#
# **Against Fig. 1.** Same: the five stages, clean images degraded on purpose, frozen readers. Different: a stage for
# who is in the data, classical arms to beat, control arms whose truth is known, and intervals on everything.
#
# **What these numbers may not be used for.** They are simulated. They show how an audit works, and nothing about
# any real scanner, network or group of people.
# ## Takeaways
# - The chain is cohort, degrade, reconstruct, predict, audit; each stage is a module and a notebook.
# - The same patient reads differently in the clean, the degraded and the repaired image, and a clean look proves nothing.
# - The question is whether what the chain costs differs between subgroups, and by how much more than chance.
