# %% [markdown]
# # 4. U-Net, and the classical arms it must beat
# - **You will** compute a convolution and a skip connection by hand; see why squared error draws the mean of what is
#   possible; tune two filters that learn nothing; put measured samples back; train a small network here; judge the
#   U-Net against the best filter, by patients
# - **Time** 1.7 min to run, about 55 min to work through, **memory** 1400 MB (tutorial); **needs** 01; **makes** reconstructions and quality: degraded,
#   classical arms, U-Net
# - **In the paper** Sec. 3.2

# %% tags=["parameters"]
profile = "tutorial"  # smoke | tutorial | lgg | covid_cxr | nih | paper
overrides = {}  # for example {"seed": 1}

# %%
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from fairrecon_lab import plots
from fairrecon_core.cohort.pixels import as_float
from fairrecon_core.steps.pipeline import open_cohorts
from fairrecon_lab.analysis.short_forms import card_facts, card_figures, compared
from fairrecon_core.steps.folder import begin

settings, run = begin(profile, overrides, needs=["cohort"])
every = open_cohorts(run)

# %% [markdown]
# The *steps* of a cohort are what a run does with it, piece by piece: its set-up, the weights of its networks, the
# images of each arm, their quality, and what the readers say. The set-up knows how images are degraded, at which
# levels, and which test images each level is tested on: the audited level on all of them, the others on a random part,
# which is enough for a curve. Every notebook from here on works with these steps.

# %%
facts = [
    {"cohort": name, "level": f"{level:,.0f}", "test images": len(steps.setup.rows(level)), "audited": level == steps.audit_level}
    for name, steps in every.items() for level in steps.levels
]  # fmt: skip
pd.DataFrame(facts).set_index(["cohort", "level"])

# %% [markdown]
# What a cohort is too small for is said now, before anything is trained: findings that no reader can learn in every
# fold, control arms (notebook 08) with nobody to exchange images with, traits without two groups. The rest of the
# series leaves these out.

# %%
from fairrecon_lab.analysis.support import cannot_fill

for name, steps in every.items():
    print("\n".join(f"{name}: {line}" for line in cannot_fill(steps)) or f"{name} fills everything")

# %% [markdown]
# The step that makes weights is called by name. For the simulated cohorts the U-Net's weights are shipped, and there is
# nothing to do; with `train: true` it is trained here, unless it has been, and nothing that decides it has changed.

# %%
for steps in every.values():
    steps.weights.make_all("unet")

# %% [markdown]
# Each cohort lends one test image, of a row that all levels have. Where it comes from is written under every picture.


# %%
first = next(iter(every.values()))
row = first.setup.shared_rows()[0]
level = first.audit_level
image, image_id = first.cohort.image(row), first.setup.names_of([row])[0]
degraded = first.setup.degradation(image, level, image_id, seed=settings.seed).numpy()

# %% [markdown]
# How much is lost? *Peak signal-to-noise ratio* counts how many decibels the mean squared error lies below the largest
# possible signal, here 1. Ten decibels more are a tenth of the error.

# %%
from fairrecon_core.predict.quality import psnr_db

by_hand = -10 * np.log10(np.mean((degraded.astype(float) - image) ** 2))
assert np.isclose(psnr_db(degraded, image), by_hand)
plots.error_row(
    image, [degraded], [f"level {level:,.0f}\n{psnr_db(degraded, image):.1f} dB"], note=plots.origin(first.cohort)
)

# %% [markdown]
# ## A convolution by hand
# A convolution slides a small table of weights over the image and adds up: every output pixel sees the 3 x 3 pixels
# around it. This one answers where the image gets brighter to the right. A network does not get such tables, it finds
# them.

# %%
kernel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 8
size = len(degraded)
padded = np.pad(degraded, 1)
by_hand = sum(kernel[i, j] * padded[i : i + size, j : j + size] for i in range(3) for j in range(3))

as_batch = torch.from_numpy(degraded)[None, None]  # (images, channels, rows, columns)
weights = torch.from_numpy(kernel.astype(np.float32))[None, None]
assert np.allclose(by_hand, F.conv2d(as_batch, weights, padding=1)[0, 0], atol=1e-6)

# %% [markdown]
# ## Down, and the skip
# Nine pixels cannot know a streak that crosses the whole image. So the U-Net halves the image (of four neighbours the
# largest stays) and looks again, four times: at the bottom one step covers 16 pixels. **What to look for:** what is
# left there says where things are, and no longer what their edges were. That is what the *skip connections* carry
# across: each level on the way up sees its twin on the way down.

# %%
pooled = {n: F.max_pool2d(as_batch, n).repeat_interleave(n, -1).repeat_interleave(n, -2)[0, 0] for n in (2, 4, 16)}
plots.image_row(
    [degraded, *pooled.values()],
    ["as it comes in", *(f"halved to 1/{n}" for n in pooled)],
    note=plots.origin(first.cohort),
)

# %% [markdown]
# A U-Net with a single step down, computed by hand from its own layers: two convolutions, down, two more, up,
# **skip**, two more, out.

# %%
from fairrecon_core.learn.body import UNet
from fairrecon_core.reconstruct.unet import UNetReconstructor


def twice(block, features):
    """Two convolutions, negative values set to zero after each."""
    return F.relu(block.second(F.relu(block.first(features))))


torch.manual_seed(settings.seed)
small = UNet(in_channels=1, width=4, depth=1).requires_grad_(False)
top = twice(small.down[0], as_batch)  # (1, 4, N, N)
bottom = twice(small.down[1], F.max_pool2d(top, 2))  # (1, 8, N/2, N/2)
risen = small.rise[0](bottom)  # (1, 4, N, N)
by_hand = small.out(twice(small.up[0], torch.cat([top, risen], dim=1)))  # the skip: `top` beside `risen`
assert torch.allclose(by_hand, small(as_batch), atol=1e-6)

# %% [markdown]
# The network of this run, drawn. Read it from the upper left, where the image comes in, to the upper right. At each box two convolutions as above.

# %%
run.figure(plots.unet_figure(settings.image_size, settings.width), "04_drawing")

# %% [markdown]
# The paper's network has four steps and 64 feature maps at the top, doubling at each step down: 31 million weights.
# Ours is narrower, so that it ships and runs on a laptop; `width: 64` in a profile makes it the paper's.

# %%
with torch.device("meta"):  # counts weights without making them
    counts = {width: sum(p.numel() for p in UNet(width=width).parameters()) for width in (8, settings.width, 64)}
assert 31.0e6 < counts[64] < 31.1e6
{f"width {width}": f"{n / 1e6:.2f} million weights" for width, n in counts.items()}

# %% [markdown]
# ## It starts as the identity
# The published network has to draw the whole image anew. Ours predicts what to *add* to the degraded image, and its
# last layer starts at zero. So before the first step of training it returns its input, bit by bit: it can only get
# better from there. It is also told the level, as a second channel, so that one network covers all levels of a
# modality.

# %%
untrained = UNetReconstructor(first.cohort.modality, width=4)
assert np.array_equal(untrained(degraded, level, image_ids=image_id), degraded)

# %% [markdown]
# ## Why squared error draws the mean
# Training lowers the mean squared error. Suppose the measurement says "there is a small bright disc", and leaves nine
# places open. Which single image has the smallest expected error? Try one of the nine, their mean, and their median.

# %%
rows_, columns = np.mgrid[:48, :48]
places = [(12 * i, 12 * j) for i in (1, 2, 3) for j in (1, 2, 3)]
possible = np.stack([(np.hypot(rows_ - i, columns - j) <= 4).astype(float) for i, j in places])
guesses = {"one of the nine": possible[4], "their mean": possible.mean(0), "their median": np.median(possible, axis=0)}
risk = pd.DataFrame(
    {
        name: {"squared error": ((guess - possible) ** 2).mean(), "absolute error": abs(guess - possible).mean()}
        for name, guess in guesses.items()
    }
).T
plots.image_row(
    [2 * guesses[name] if name == "their mean" else guesses[name] for name in guesses],
    [f"{name}: {risk['squared error'][name]:.4f}" for name in guesses],
    note="simulated discs, with their expected squared error; the mean is shown at twice its brightness",
)

# %% [markdown]
# **What to look for:** the mean wins under squared error, and it is an image that nobody has: nine faint discs. Under
# absolute error (L1) the median wins, which has no disc at all. A network trained with either is not careless when it
# blurs a lesion: it was asked to. The sharp guess costs exactly twice the mean's error, which is 3.01 dB; notebook 07
# comes back to this figure.

# %%
assert risk["squared error"].idxmin() == "their mean" and risk["absolute error"].idxmin() == "their median"
ratio = risk["squared error"]["one of the nine"] / risk["squared error"]["their mean"]
assert np.isclose(ratio, 2)
print(f"{ratio:.3f} times the error: {10 * np.log10(ratio):.2f} dB")

# %% [markdown]
# ## Filters to beat
# A network that does not beat a filter of 2004 has not earned its complexity; the paper compares with none. *Total
# variation* looks for an image close to the degraded one whose neighbouring pixels differ little in sum, *non-local
# means* averages patches that look alike. Each has one number, how strongly it smooths. Choosing it on test images
# would be cheating: we take validation images.

# %%
from fairrecon_core.learn.loop import Images


def validation_images(steps, n=24):
    """The validation images that tune a filter; an excerpt without any borrows test images."""
    rows = steps.cohort.select("validation", "reconstruction", with_pixels=True)
    rows = (rows if len(rows) else steps.setup.rows(steps.audit_level))[:n]
    return Images(steps.cohort.images_at(rows), steps.setup.names_of(rows))


# %% [markdown]
# By hand for total variation, and the core's answer; then what the core has tried for the filters that we use below.

# %%
from skimage.restoration import denoise_tv_chambolle

from fairrecon_core.reconstruct import reconstructor

held_out = validation_images(first)
spoilt = first.setup.degradation(held_out.pixels, level, held_out.names, seed=settings.seed).numpy()
tv = reconstructor("tv", first.cohort.modality)
mse = {s: np.mean([(denoise_tv_chambolle(x, s) - y) ** 2 for x, y in zip(spoilt, held_out.pixels)]) for s in tv.grid}

tuning = tv.fit(held_out, held_out, first.setup.degradation, [level], seed=settings.seed)
assert np.allclose(tuning["mse"], list(mse.values()), rtol=1e-3)
assert tv.strengths[level] == min(mse, key=mse.get)

# %%
figure, axes = plots.canvas(4.4 * len(every), 3.2, 1, len(every), squeeze=False)
for ax, steps in zip(axes[0], every.values()):
    for name in ("tv", "nlm"):
        tried = steps.weights.load(name).tried.query("level == @steps.audit_level")
        ax.plot(tried["strength"], -10 * np.log10(tried["mse"]), label=name, **plots.arm_style(name))
    ax.set(xscale="log", xlabel="Strength of the filter", ylabel="PSNR of the mean error (dB)")
    n_tuning = tried["n_images"].iloc[0]
    ax.set_title(f"{steps.name}, level {steps.audit_level:,.0f}, n = {n_tuning} validation images", fontsize=9)
    ax.legend(frameon=False, fontsize=9, title=plots.origin(steps.cohort), title_fontsize=9)
run.figure(figure, "04_tuning")

# %% [markdown]
# **What to look for:** an optimum between "does nothing" at the left and "smears everything" at the right. Noise of
# few photons leaves a filter something to gain. Streaks of undersampling are not noise: there the best filter hardly
# does anything.
#
# ## Data consistency by hand
# MRI measures part of k-space, and a reconstruction must not contradict what was measured. So transform the proposed
# image, put the measured samples back, and transform again. This works after *any* reconstructor; an arm called
# `unet_dc` has it built in. A profile without MRI borrows a simulated slice and lets total variation propose.

# %%
from fairrecon_core.degrade import degradation
from fairrecon_core.degrade.mri import data_consistency, to_image, to_kspace
from fairrecon_lab.simulate import simulate

mri = next((steps for steps in every.values() if steps.cohort.modality == "mri"), None)
if mri is None:
    slice_ = next(iter(simulate("brain", 1, seed=settings.seed, size=settings.image_size)))[0]
    zero_filled, measurement = degradation("mri").measure(slice_, 8, "slice", settings.seed)
    proposed = reconstructor("tv", "mri", strength=0.01)(zero_filled, 8, image_ids="slice")
else:
    slice_row = mri.setup.shared_rows()[0]
    slice_, slice_id = mri.cohort.image(slice_row), mri.setup.names_of([slice_row])[0]
    zero_filled, measurement = mri.setup.degradation.measure(slice_, mri.audit_level, slice_id, settings.seed)
    proposed = mri.weights.load("unet")(zero_filled, mri.audit_level, image_ids=slice_id)

# %%
by_hand = to_image(torch.where(measurement.mask, measurement.kspace, to_kspace(proposed)))
assert torch.allclose(
    by_hand, data_consistency(proposed.to(by_hand.dtype), measurement.kspace, measurement.mask), atol=1e-6
)

# %% [markdown]
# One thing more is known: the image is real, so its k-space is point-symmetric and a measured sample fixes its mirror
# as well. The core uses that when the image that it gets is real.

# %%
consistent = data_consistency(proposed, measurement.kspace, measurement.mask).clamp(0, 1)
shown = {"degraded": zero_filled, "proposed": proposed, "data-consistent": consistent}
note = plots.origin(mri.cohort) if mri else "simulated"
plots.error_row(
    slice_, list(shown.values()), [f"{k}\n{psnr_db(v, slice_):.1f} dB" for k, v in shown.items()], note=note
)

# %% [markdown]
# ## Train one, here
# Now the whole thing small enough to watch: four feature maps instead of 64, a few dozen validation images to learn
# from (the test images stay unseen), a dozen more to check on. Every epoch draws new noise. The weights that are kept
# are those with the lowest error on images that the network did *not* learn from.

# %%
pool = validation_images(first, n=48)
n_learn = 2 * len(pool) // 3
learn, check = (Images(pool.pixels[part], pool.names[part]) for part in (slice(n_learn), slice(n_learn, None)))
tiny = UNetReconstructor(first.cohort.modality, width=4, learning_rate=3e-3, decay=True)
losses = tiny.fit(
    learn,
    check,
    first.setup.degradation,
    [level],
    seed=settings.seed,
    batch_size=4,
    epochs=10,
    accelerator="cpu",
    progress=False,
)
assert losses["validation"].min() <= losses["validation"][0], "the kept weights are never worse than the first"

# %%
from fairrecon_core.predict.quality import measure_arms

unseen = Images(check.pixels, check.names)
spoilt = first.setup.degradation(unseen.pixels, level, unseen.names, seed=settings.seed)
restored = tiny(spoilt, level, image_ids=unseen.names)
measured = measure_arms([spoilt, restored], unseen.pixels, with_lpips=False)  # NaN for an image of one grey value
before, after = (table["psnr_db"].mean() for table in measured)
print(
    f"{len(learn)} images, {losses['seconds'].sum():.0f} s, {sum(p.numel() for p in tiny.net.parameters()):,} weights"
)
print(f"{len(unseen)} images that it did not learn from: degraded {before:.2f} dB, tiny U-Net {after:.2f} dB")

# %% [markdown]
# That was a lesson, not a result. The networks of this series learned from thousands of patients of the same
# simulator, drawn with *other seeds* than the ones you test on. Their model card says how:

# %%
pd.set_option("display.max_colwidth", 90)
card_facts(every, "unet")

# %% [markdown]
# What the weights reached on test images when they were made, with their own number of images (nothing, if they were
# trained in this run):

# %%
card_figures(every, "unet")

# %%
losses = {f"{name}, {plots.origin(steps.cohort)}": steps.weights.losses("unet") for name, steps in every.items()}
run.figure(plots.training_curves(losses, "unet", "Mean squared error", log=True), "04_training")

# %% [markdown]
# **What to look for:** whether the validation curve has levelled off, and whether it has parted from the training
# curve (it would, if the network learned its images by heart).
#
# **To train it yourself** set `train: true`. Notebook 01 then also draws the training patients, and the step above
# trains the network, for `epochs` passes, on a GPU if there is one. The weights go to the run's folder with a stamp of
# everything that decides them, the code among it: nothing is trained twice, a training that was stopped goes on, and if
# you edit the loss, the network is trained again and one line says why. A short recipe for one network on two cores, in a run of its own that leaves the shipped weights alone:
#
# `python3 run.py tutorial --only 01 04 -p train=true -p cohorts=chest -p chest_patients=2000 -p epochs=3 -p arms=unet`
#
# ## All arms, all levels
# One call makes the images of an arm at every level and measures them against the clean ones, or finds that this has
# been done; notebook 07 reads the same rows, and explains what else they hold. The measurement decides the noise of an
# image, so every arm starts from the same degraded image.

# %%
FILTERS = [arm for arm in settings.classical if arm != "degraded"]
ARMS = ["degraded", *FILTERS, "unet", *(["unet_dc"] if "unet_dc" in settings.arms else [])]


psnr = {name: compared(steps, ARMS) for name, steps in every.items()}
pd.concat({name: table.groupby("level")[ARMS].mean() for name, table in psnr.items()}, names=["cohort"]).round(2)

# %% [markdown]
# Means alone do not say how sure they are. Two slices of one patient are alike, so the *patients* are drawn again and
# again, with all their slices, and each time the arms are compared on the same images. By hand, then with the core:

# %%
from fairrecon_lab.bootstrap import patient_bootstrap

table = psnr[first.name].query("level == @level").dropna()  # an image of one grey value has no PSNR
gain = (table["unet"] - table["degraded"]).groupby(table["patient_id"]).agg(["sum", "size"]).to_numpy()
drawn = np.random.default_rng(settings.seed).integers(len(gain), size=(2000, len(gain)))
again = gain[drawn].sum(axis=1)  # (resamples, 2): total gain and number of images
low, high = np.quantile(again[:, 0] / again[:, 1], [0.025, 0.975])

core = patient_bootstrap(
    table["unet"], table["patient_id"], baseline=table["degraded"], n_boot=2000, seed=settings.seed
)
assert np.isclose(core.value, gain[:, 0].sum() / gain[:, 1].sum())
assert abs(low - core.low) < 0.3 * (high - low) and abs(high - core.high) < 0.3 * (high - low)
print(f"U-Net minus degraded: {core.value:+.2f} dB [{core.low:+.2f}, {core.high:+.2f}], {core.n_patients} patients")

# %% [markdown]
# The question of this notebook, for each cohort and level: what does the U-Net gain over the degraded image, over the
# better of the two filters, and (MRI, audited level) what does putting measured samples back add?


# %%
def best_filter(steps):
    """The filter with the highest mean PSNR at the audited level."""
    return psnr[steps.name].query("level == @steps.audit_level")[FILTERS or ["degraded"]].mean().idxmax()


def compared(steps, arm, base):
    """Rows of the table below: mean difference in dB, with its interval by patients."""
    for level, part in psnr[steps.name].groupby("level"):
        found = patient_bootstrap(part[arm], part["patient_id"], baseline=part[base], n_boot=2000, seed=settings.seed)
        interval = f"{found.value:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"
        yield {
            "cohort": steps.name,
            "level": level,
            f"{arm} minus": base,
            "dB [95 %]": interval,
            "patients": found.n_patients,
        }


lines = [
    line
    for steps in every.values()
    for base in ("degraded", best_filter(steps))
    for line in compared(steps, "unet", base)
]
pd.DataFrame(lines).set_index(["cohort", "unet minus", "level"])

# %%
for steps in every.values():
    if steps.cohort.modality != "mri":
        continue
    images, rows = steps.images.get("unet", steps.audit_level)
    clean, ids = steps.cohort.images_at(rows), steps.setup.names_of(rows)
    _, taken = steps.setup.degradation.measure(clean, steps.audit_level, ids, settings.seed)
    put_back = data_consistency(torch.from_numpy(as_float(images)), taken.kspace, taken.mask).clamp(0, 1)
    plain = psnr[steps.name].query("level == @steps.audit_level").set_index("image_id")["unet"].loc[ids]
    with_dc = [psnr_db(x, y) for x, y in zip(put_back, clean)]
    found = patient_bootstrap(with_dc, steps.cohort.table["patient_id"].to_numpy()[rows], baseline=plain, n_boot=2000)
    print(
        f"{steps.name}: data consistency adds {found.value:+.2f} dB [{found.low:+.2f}, {found.high:+.2f}] to the U-Net"
    )


# %%
def psnr_curves():
    """PSNR against level, all arms, 95 % intervals over patients."""
    figure, axes = plots.canvas(4.6 * len(every), 3.4, 1, len(every), squeeze=False)
    for ax, steps in zip(axes[0], every.values()):
        for k, arm in enumerate(ARMS):
            places = [level * 1.04 ** (k - len(ARMS) / 2) for level in steps.levels]  # side by side
            found = [
                patient_bootstrap(part[arm], part["patient_id"], n_boot=1000, seed=settings.seed)
                for part in (psnr[steps.name].query("level == @level") for level in steps.levels)
            ]
            plots.error_bars(ax, places, *zip(*[(f.value, f.low, f.high) for f in found]), arm)
        plots.level_axis(ax, steps.cohort.modality, steps.levels)
        n = psnr[steps.name].query("level == @steps.audit_level")["patient_id"].nunique()
        ax.set(ylabel="PSNR (dB)", title=f"{steps.name}, {plots.origin(steps.cohort)}, n = {n} at the audited level")
        ax.title.set_fontsize(9)
        ax.legend(frameon=False, fontsize=8)
    return figure


run.figure(psnr_curves(), "04_psnr")

# %% [markdown]
# **What to look for:** how far the U-Net (blue circles) lies above the others, and whether that grows to the right, where
# there is more to invent.
#
# ## Look at them
# All images of a row share one grey scale, all errors one range. **What to look for:** the filters leave streaks, or
# smear them; the U-Net takes them away, and with them the faintest detail: its error map has edges in it.


# %%
def at(steps, arm, level, row):
    """One image of an arm."""
    images, rows = steps.images.get(arm, level)
    return as_float(images[np.searchsorted(rows, row)])


looked_at = {
    (name, level, row): {arm: at(steps, arm, level, row) for arm in ["clean", *ARMS]}
    for name, steps in every.items() for level in steps.levels for row in steps.setup.shared_rows()[:4]
}  # fmt: skip


def show_arms(cohort=first.name, noise="audited", patient=1):
    """One test image in all arms, with error maps; `noise`: lowest, audited or highest level."""
    steps = every[cohort]
    level = {"lowest": steps.levels[0], "audited": steps.audit_level, "highest": steps.levels[-1]}[noise]
    rows = steps.setup.shared_rows()
    found = looked_at[cohort, level, rows[min(patient, len(rows)) - 1]]
    titles = [f"{arm}, {level:,.0f}\n{psnr_db(found[arm], found['clean']):.1f} dB" for arm in ARMS]
    return plots.error_row(found["clean"], [found[arm] for arm in ARMS], titles, note=plots.origin(steps.cohort))


last = list(every)[-1]
run.figure(show_arms(first.name), f"04_arms_{first.name}")

# %%
run.figure(show_arms(last), f"04_arms_{last}")

# %% tags=["widget"]
from fairrecon_lab.widgets import slider_image

slider_image(
    show_arms, cohort=tuple(every), noise=("audited", "lowest", "highest"), patient=[1, 2, 3, 4]
)  # an image of the four that were kept above

# %% [markdown]
# ## Check your understanding
# **1.** How many pixels does one output pixel of a U-Net with four steps depend on, in one direction? Two 3 x 3
# convolutions add 4 pixels at full size, 8 one step down, and so on, on the way down and up (at the bottom once). That
# sum is nearly right. For the exact number follow the first and the last pixel that output pixel 128 depends on: two
# convolutions move them apart by 2 each, going up pixel i comes from i // 2, going down from 2 i and 2 i + 1. (The
# solution checks the number by the gradient: it is zero where the output does not look.)

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
from unittest.mock import patch

nearly = 1 + 2 * sum(4 * 2**step for step in range(4)) + 4 * 2**4
low = high = 128
for _ in range(4):  # backwards up the right side
    low, high = (low - 2) // 2, (high + 2) // 2
low, high = low - 2, high + 2  # the bottom
for _ in range(4):  # backwards down the left side, towards the input
    low, high = 2 * low - 2, 2 * high + 1 + 2
look = UNet(width=1).double()
for part in look.parameters():
    torch.nn.init.constant_(part, 0.3)  # all positive, so that nothing cancels
source = torch.ones(1, 1, 256, 256, dtype=torch.double, requires_grad=True)
with patch.object(
    F, "max_pool2d", F.avg_pool2d
):  # of equal pixels the largest is only one: its gradient skips the rest
    look(source)[0, 0, 128, 128].backward()
seen = int((source.grad[0, 0].abs().sum(0) > 0).sum())
print(f"nearly {nearly}, exactly {high - low + 1}, measured {seen}: more than a whole image of 128 pixels")
assert seen == high - low + 1

# %% [markdown]
# **2.** The measurement leaves two images open, A with chance 0.7 and B with chance 0.3. How much of B does a perfect
# network show when it was trained with squared error? With absolute error? Predict the two numbers, then search for
# them.

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
share = np.linspace(0, 1, 101)  # of B in the guess, in a pixel where A is 0 and B is 1
squared, absolute = 0.7 * share**2 + 0.3 * (1 - share) ** 2, 0.7 * share + 0.3 * (1 - share)
best = share[[squared.argmin(), absolute.argmin()]]
print(f"squared error shows {best[0]:.0%} of B, absolute error {best[1]:.0%}")
assert np.isclose(best[0], 0.3) and best[1] == 0

# %% [markdown]
# **3.** If B is the rarer anatomy of a smaller subgroup, what does exercise 2 say about fairness?
#
# <details><summary>One answer</summary>
#
# Where the measurement does not decide, the network draws what was common among its training patients; with absolute
# error, only that. Who is rare in training loses most, without anybody having decided so, and PSNR hardly notices.
# Whether it matters for a diagnosis has to be measured downstream, on the patients concerned: notebooks 08 and 10.
#
# </details>

# %% [markdown]
# **Against Sec. 3.2.** Same: four levels, pairs of 3 x 3 convolutions without normalisation, mean squared error, Adam.
# Different: ours is narrower (see `width`), learns what to add, knows the level (the paper trains one network per
# level), and lets its learning rate fall, because its training is short; the paper stops after at most 20 epochs. The
# released X-ray network ends in a sigmoid, which `xray_mode: published` brings back. The paper has no filter to beat, no
# data consistency and no intervals. Unless you run a real profile, these images are simulated, and so were the patients
# that the network learned from: it knows this simulator, nothing else.
# ## Takeaways
# - A convolution adds up 3 x 3 neighbours; a skip connection is a concatenation.
# - Squared error draws the mean of what the measurement leaves open; absolute error the median, which may leave a
#   lesion out.
# - A filter has one strength, chosen on validation images; it is the arm to beat.
# - Data consistency replaces the measured samples in k-space; it works after any reconstructor.
# - A tiny network learns in seconds; the best weights are those for images that it did not learn from.
# - What counts is the gain over the best filter on the same images, with an interval over patients.
