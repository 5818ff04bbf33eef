# %% [markdown]
# # 0. Start here: the question in one picture
# - **You will** see the whole chain on one patient; read the same patient three times; ask the question of the series in numbers
# - **Time** 15 s, **memory** 900 MB (tutorial); **needs** nothing; **makes** nothing
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
# ## One patient, three images
# Below is a simulated patient with a glioma, in a FLAIR image. Simulated: a computer drew this brain from an atlas
# and a seed, so we know exactly where the tumour is and nobody's privacy is at stake (notebook 01 tells how).

# %%
from fairrecon_lab.simulate import simulate

size = settings.image_size
patients = list(simulate("brain", n_patients=40, seed=settings.seed, size=size, n_slices=1))
image, row, tumour = patients[3]
print(f"{row['patient_id']}: {row['sex']}, {row['age_years']:.0f} years, tumour of {tumour.sum()} pixels")

# %% [markdown]
# The MRI scanner measures the image's Fourier transform along straight lines, the *spokes*. Eight times fewer spokes
# than pixels along an edge is an eightfold acceleration, R = 8. What it did not measure counts as zero.

# %%
from fairrecon_core.degrade import degradation

mri = degradation("mri")
degraded = mri(image, 8, row["image_id"], seed=settings.seed).numpy()

# %% [markdown]
# Until notebook 04 has networks, a classical method stands in as reconstructor: total variation keeps edges and
# removes small wiggles. Streaks are wiggles, and so are small lesions.

# %%
from skimage.restoration import denoise_tv_chambolle


def reconstruct(degraded, strength=0.04):
    """Total variation: the larger the strength, the fewer wiggles survive."""
    return denoise_tv_chambolle(degraded, weight=strength).astype(np.float32)


reconstructed = reconstruct(degraded)
names = ["clean", "degraded, R = 8", "reconstructed"]
three = plots.image_row(
    [image, degraded, reconstructed], names, outlines=[tumour] * 3, note="simulated; tumour outlined"
)
run.figure(three, "00_three_images")

# %% [markdown]
# **What to look for:** the streaks fan out from edges, and the reconstruction removes most of them. Did it also
# remove a piece of the tumour's brightness? A reader who looks only at the last image could not tell.

# %% [markdown]
# ## Reading it
# The simplest reader there is: how much brighter is the tumour than the brain around it? Real readers come in
# notebook 08. This one fits into three lines, and like them it was fixed before it saw any repaired image.

# %%
from scipy.ndimage import binary_dilation


def contrast(image, tumour):
    """Mean inside the outline less the mean of a rim around it, in units of the grey scale."""
    rim = binary_dilation(tumour, iterations=4) & ~binary_dilation(tumour, iterations=1)
    return float(image[tumour].mean() - image[rim].mean())


for name, shown in zip(names, (image, degraded, reconstructed)):
    print(f"{name:16} contrast {contrast(shown, tumour):+.3f}")


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
# Now all patients. For each we note how much contrast the chain cost (reconstructed less clean), and average by sex.
# The bars are 95 % intervals from a bootstrap over patients: draw patients again with replacement, many times.

# %%
from fairrecon_core.audit.bootstrap import patient_bootstrap

records = []
for image_, row_, tumour_ in patients:
    repaired = reconstruct(mri(image_, 8, row_["image_id"], seed=settings.seed).numpy())
    records.append((row_["sex"], row_["patient_id"], contrast(repaired, tumour_) - contrast(image_, tumour_)))
sexes, patient_ids, loss = map(np.array, zip(*records))

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
# **What to look for:** two intervals that overlap are not yet an answer. With so few patients the honest word is
# *undetermined*: a difference that would matter is neither shown nor excluded. Notebook 10 does this properly, with
# pairs, many tasks at once, and a margin below which a change would not matter.

# %% [markdown]
# ## Check your understanding
# The chain cost contrast in both groups. Is that alone a fairness problem? Predict what the difference between the
# groups' losses is, and whether its interval contains zero, then run.

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
generator = np.random.default_rng(settings.seed)
women, men = loss[sexes == "female"], loss[sexes == "male"]
draws = [generator.choice(women, women.size).mean() - generator.choice(men, men.size).mean() for _ in range(2000)]
ends = np.quantile(draws, [0.025, 0.975])
print(f"difference {women.mean() - men.mean():+.4f}, 95 % interval {ends[0]:+.4f} to {ends[1]:+.4f}")
assert ends[0] < women.mean() - men.mean() < ends[1], "an interval contains its estimate"

# %% [markdown]
# **Against Fig. 1.** Same: the five stages, clean images degraded on purpose, frozen readers. Different: a stage for
# who is in the data, classical arms to beat, control arms whose truth is known, and intervals on everything.
#
# **What these numbers may not be used for.** They are simulated. They show how an audit works, and nothing about
# any real scanner, network or group of people.
# ## Takeaways
# - The chain is cohort, degrade, reconstruct, predict, audit; each stage is a module and a notebook.
# - The same patient reads differently in the clean, the degraded and the repaired image, and a clean look proves nothing.
# - The question is whether what the chain costs differs between subgroups, and by how much more than chance.
