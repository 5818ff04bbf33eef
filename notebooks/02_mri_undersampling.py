# %% [markdown]
# # 2. MRI: what undersampling does
# - **You will** see why fewer spokes make streaks; tell three meanings of "acceleration" apart; see what the published code samples instead; say which structures fade first; put measured samples back into a reconstruction
# - **Time** 15 s to run, about 40 min to work through, **memory** 900 MB (tutorial); **needs** 01; **makes** nothing
# - **In the paper** Sec. 2.1, Fig. 2

# %% tags=["parameters"]
profile = "tutorial"  # smoke | tutorial | lgg | covid_cxr | nih | paper
overrides = {}  # for example {"seed": 1}

# %%
import numpy as np
import pandas as pd
import torch

from fairrecon_lab import plots
from fairrecon_core.steps.folder import begin

settings, run = begin(profile, overrides, needs=["cohort"])

# %% [markdown]
# We work on one slice: of the MRI cohort, the test image with the largest tumour. A profile without MRI (a chest
# cohort alone) borrows a simulated slice, because this notebook only looks at physics.

# %%
from fairrecon_lab.simulate import simulate

cohort = next((run.cohort(name) for name in settings.cohorts if run.cohort(name).modality == "mri"), None)
if cohort is None or cohort.masks is None:
    image, _, tumour = next(iter(simulate("brain", 1, seed=settings.seed, size=settings.image_size)))
    note = "simulated"
else:
    rows = cohort.select("test", with_pixels=True)  # the shipped example holds a few images
    largest = rows[cohort.masks_at(rows).sum(axis=(1, 2)).argmax()]
    image, tumour = cohort.image(largest), cohort.mask(largest)
    note = "" if settings.cohort_folder else "simulated"
size = len(image)
print(f"{size} x {size} pixels, intensities {image.min():.2f} to {image.max():.2f}, tumour of {tumour.sum()} pixels")

# %% [markdown]
# ## k-space by hand
# An MRI scanner does not record pixels. It records how much of each wave the object contains: its Fourier transform,
# called *k-space*. We put the slowest wave (the mean) in the middle, and scale so that energy is kept. The two shifts
# only say where position zero and frequency zero lie: at pixel N/2.

# %%
by_hand = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image), norm="ortho"))
assert np.isclose((abs(by_hand) ** 2).sum(), (image**2).sum(), rtol=1e-4), "energy is kept"

# %% [markdown]
# The core does the same:

# %%
from fairrecon_core.degrade.mri import to_image, to_kspace

clean = torch.from_numpy(image)
kspace = to_kspace(clean)
assert np.allclose(kspace, by_hand, atol=1e-4)

# %% [markdown]
# Keep only the middle, and the image is smooth; keep only the rest, and edges remain. **What to look for:** nearly all
# of the energy sits in the small middle. That is why an image survives the loss of most samples.

# %%
frequency = torch.arange(size) - size / 2
middle = torch.hypot(frequency[:, None], frequency[None, :]) < size / 16
smooth, edges = to_image(kspace * middle).real, to_image(kspace * ~middle).real
spectrum = torch.log10(kspace.abs() + 1e-4)
plots.image_row(
    [image, (spectrum - spectrum.min()) / (spectrum.max() - spectrum.min()), smooth, 0.5 + edges],
    ["image", "k-space (log magnitude)", "middle alone", "the rest alone (+ 0.5)"],
    note=note,
)

# %%
share = float((kspace * middle).abs().square().sum() / kspace.abs().square().sum())
print(f"{100 * float(middle.float().mean()):.1f} % of the samples hold {100 * share:.1f} % of the energy")

# %% [markdown]
# ## Eight spokes by hand
# Measuring takes time: one *spoke*, a straight line through the middle, per excitation. A scan is faster with fewer
# spokes. In the golden order each spoke is turned by 111.246 degrees (180 divided by the golden ratio) against the one
# before, which fills the gaps evenly however early one stops. A computer has samples on a grid, so we mark the grid
# point nearest to each point of the spoke, in half steps so that no gap is left.

# %%
golden_angle = np.pi * (np.sqrt(5) - 1) / 2
marked = torch.zeros(64, 64, dtype=torch.bool)
for spoke in range(8):
    for radius in np.arange(-31, 31.5, 0.5):
        row, column = radius * np.sin(spoke * golden_angle), radius * np.cos(spoke * golden_angle)
        marked[32 + round(row), 32 + round(column)] = True

# %% [markdown]
# The core does the same in one go:

# %%
from fairrecon_core.degrade.mri import radial_mask

assert torch.equal(marked, radial_mask(64, n_spokes=8))
masks = [radial_mask(64, n) for n in (1, 2, 3, 8)]
plots.image_row(masks, ["1 spoke", "2 spokes", "3 spokes", "8 spokes"], note="golden order, 64 x 64 samples")

# %% [markdown]
# ## Why streaks
# What was not measured counts as zero; transforming back gives the *zero-filled* image. Do it by hand:

# %%
from fairrecon_core.degrade.mri import spokes_for, undersample

mask = radial_mask(size, spokes_for(size, acceleration=8))
zero_filled = to_image(kspace * mask).abs().clamp(0, 1)
assert torch.allclose(zero_filled, undersample(image, acceleration=8), atol=1e-6)

# %% [markdown]
# The core skips the four shifts and half of k-space, and agrees to the sixth decimal. To see where streaks come from,
# degrade a single bright pixel: every object is a sum of such pixels, and each of them gets this halo.
# **What to look for:** one spoke turns the pixel into a line at right angles to itself. With many spokes the lines
# cancel everywhere but at the pixel; with few they do not, and what is left are streaks.

# %%
point = torch.zeros(size, size)
point[size // 2, size // 2] = 1
halos = [undersample(point, size / n) for n in (1, 8, 32)]
titles = ["one pixel, 1 spoke", "8 spokes", "32 spokes"]
plots.image_row([halo / halo.max() for halo in halos], titles, limits=(0, 0.3), note="the pixel itself is clipped")

# %% [markdown]
# ## The paper's Fig. 2, rebuilt
# Acceleration R is the image size over the number of full spokes: a Cartesian scan needs one line per pixel row.
# Level 1 means "not undersampled" and returns the image bit by bit; between 1 and 2 there is no radial mask.


# %%
def psnr_db(shown, truth=image):
    """Peak signal-to-noise ratio in dB for images in [0, 1]."""
    return float(-10 * np.log10(np.mean((np.asarray(shown) - np.asarray(truth)) ** 2)))


assert torch.equal(undersample(image, 1), clean)
try:
    undersample(image, 1.5)
except ValueError as error:
    print("as it should:", error)

# %% [markdown]
# **What to look for:** streaks in the dark, blur in the brain, and red furrows in the error maps: narrow dark grooves
# fill up first. The titles give the PSNR, the usual measure of error: lower is worse.

# %%
levels = [4, 8, 16]
degraded = [undersample(image, R) for R in levels]
titles = [f"R = {R}, {psnr_db(shown):.1f} dB" for R, shown in zip(levels, degraded)]
run.figure(plots.error_row(image, degraded, titles, note=note), "02_fig2")

# %% [markdown]
# ## Three meanings of one word
# "Eight times fewer" has three meanings, and papers seldom say which one they mean:
#
# - `scan_time`: rows of a Cartesian scan over full spokes. This is our R.
# - `pixels`: grid samples over samples hit. Spokes overlap in the middle, so it is not quite the same.
# - `nyquist`: spokes needed to leave no gap wider than one sample at the edge, over spokes there are.

# %%
from fairrecon_lab.analysis.short_forms import sampling_ratios

orders = ("golden", "uniform", "published")
ratios = {(order, R): sampling_ratios(256, R, order) for order in orders for R in levels}
pd.DataFrame(ratios).T.rename_axis(["order, 256 px", "R asked for"]).round(2)

# %% [markdown]
# ## As published
# The last three rows are the published code's masks. The paper cites golden-angle sampling; its code draws *half*-spokes
# at equal angles. Their counts, 140, 60 and 32 for R = 4, 8 and 16, hit close to one sample in R at 240 pixels and were
# kept at 256. And it cuts coordinates to integers where it should round, so most samples lack their mirror at -k. A real
# object has a mirrored k-space: the zero-filled image of the physical mask is real, that of the published one complex.

# %%
published_mask = radial_mask(size, spokes_for(size, 8, "published"), "published")
for name, these in {"physical": mask, "published": published_mask}.items():
    inner = these[1:, 1:]  # the first row and column have no mirror on the grid
    paired = (inner & inner.flip(0, 1)).sum() / inner.sum()
    image_of_mask = to_image(kspace * these)
    imaginary = image_of_mask.imag.square().sum() / image_of_mask.abs().square().sum()
    print(f"{name:10} samples with their mirror {100 * paired:5.1f} %, imaginary energy {100 * imaginary:.2f} %")

# %% [markdown]
# What does one do with a complex image? The published training code takes its magnitude, the published evaluation
# code the absolute value of its real part. The networks were tested on inputs that they had never been trained on. We
# keep all three as named choices. **What to look for:** the last error map is weaker, without any better scan; and the
# two published inputs differ most in the dark around the head, where the magnitude keeps what the real part drops.

# %%
as_built = {
    "physical": undersample(image, 8),
    "published, training": undersample(image, 8, mode="published", part="magnitude"),
    "published, evaluation": undersample(image, 8, mode="published", part="real"),
}
titles = [f"{name}\n{psnr_db(shown):.1f} dB" for name, shown in as_built.items()]
run.figure(plots.error_row(image, list(as_built.values()), titles, note=note), "02_modes")

# %%
training, evaluation = as_built["published, training"], as_built["published, evaluation"]
print(f"training input against evaluation input: {psnr_db(training, evaluation):.1f} dB apart")
figure, ax = plots.canvas(3.2, 3.4)
plots.draw_difference(ax, training - evaluation, "training minus evaluation")
figure.supxlabel(note, x=0.01, ha="left", fontsize=8)
figure

# %% [markdown]
# ## What fades first
# Put bright discs of several sizes, each 0.2 above its surroundings, into the slice. Degrade with and without the disc:
# what is left of the 0.2 inside the disc? The middle of k-space, where large things live, is sampled well at every R.
# **What to look for:** every curve rises with the diameter. At R = 16 a small lesion keeps only a fraction of its
# contrast, a large one most of it. Speed is paid for by small things.

# %%
row, column = np.argwhere(tumour).mean(axis=0)
distance = np.hypot(*(np.indices(image.shape) - np.array([row, column])[:, None, None]))


def contrast_kept(diameter, acceleration, order="golden", height=0.2):
    """Share of a disc's contrast (diameter in pixels) that is left inside it."""
    disc = distance <= diameter / 2
    background = 0.25 + 0.5 * clean  # room for the disc on the grey scale
    with_disc = undersample(background + height * torch.from_numpy(disc), acceleration, order=order)
    return float((with_disc - undersample(background, acceleration, order=order))[disc].mean()) / height


# %%
diameters = [1, 2, 3, 4, 6, 8, 12, 16, 24]
figure, ax = plots.canvas(5.5, 3.2)
for R, style in zip(levels, ("-", "--", ":")):
    kept = [contrast_kept(diameter, R) for diameter in diameters]
    ax.plot(diameters, kept, style, marker="o", color=plots.colour_of("degraded"), label=f"R = {R}")
ax.set(xlabel="Diameter of the disc (pixels)", ylabel="Contrast kept", ylim=(0, 1.05), xscale="log")
ax.set_xticks(diameters, diameters)
ax.minorticks_off()
ax.legend(title=note or None, frameon=False)
run.figure(figure, "02_contrast")

# %% [markdown]
# ## Data consistency by hand
# A reconstructor may invent. What it may not do is contradict the measurement: transform its image, put the measured
# samples back, transform back. Here a plain blur plays the reconstructor.

# %%
from scipy.ndimage import gaussian_filter

guess = torch.from_numpy(gaussian_filter(degraded[1].numpy(), 0.8))
measured = kspace * mask
put_back = torch.where(mask, measured, to_kspace(guess))
consistent = to_image(put_back).real

# %% [markdown]
# The core's step is differentiable, so it can sit inside a network. It is a projection: doing it twice changes nothing,
# and an image that fits the data stays as it is.

# %%
from fairrecon_core.degrade.mri import data_consistency

assert torch.allclose(consistent, data_consistency(guess, measured, mask), atol=1e-6)
assert torch.allclose(data_consistency(consistent, measured, mask), consistent, atol=1e-6)
print(f"blurred {psnr_db(guess):.2f} dB, with its samples put back {psnr_db(consistent):.2f} dB")

# %% [markdown]
# ## Aside: what rounding to the grid leaves out
# True spokes run between grid points. With the optional package `finufft` we can measure there and fit an image to those
# samples by conjugate gradients. **What to look for:** the two stay within a decibel or two of each other. What fades is
# decided by the number of spokes, not by the rounding, so the series stays with the grid.

# %%
try:
    from fairrecon_lab.analysis import nufft
except ImportError as missing:
    print(f"skipped: {missing}")
else:
    for R, on_the_grid in zip(levels, degraded):
        positions = nufft.spoke_positions(size, spokes_for(size, R))
        between = abs(nufft.least_squares(nufft.sample(image, positions), positions, size))
        print(f"R = {R:2}: grid {psnr_db(on_the_grid):.2f} dB, true spokes {psnr_db(between):.2f} dB")

# %% [markdown]
# ## Turn the knobs
# One function draws the mask, the image and its error; the sliders only wrap it. The object below is what training and
# evaluation use too, made by name: there is one forward model. **What to look for:** golden and uniform look alike once
# all spokes are in; the published mask has fewer samples than its R promises.

# %%
from fairrecon_core.degrade import degradation


def show_undersampled(image, acceleration=8, order="golden", mode="physical"):
    """Mask, degraded image and error at one setting."""
    mri = degradation("mri", mode=mode, order=order)
    shown, scan = mri.measure(image, acceleration, image_ids="shown")
    pixels = scan.mask.numel() / int(scan.mask.sum())
    figure, axes = plots.canvas(9, 3.2, 1, 3)
    plots.draw_image(axes[0], scan.mask, f"asked for R = {acceleration}, 1 in {pixels:.1f} hit")
    plots.draw_image(axes[1], shown, f"{mri.order}, {psnr_db(shown, image):.1f} dB")
    plots.draw_difference(axes[2], shown - torch.as_tensor(image), "error", limit=0.3)
    figure.supxlabel(note, x=0.01, ha="left", fontsize=8)
    return figure


show_undersampled(image, acceleration=8)

# %% tags=["widget"]
from fairrecon_lab.widgets import slider_image

slider_image(
    show_undersampled,
    image=image,
    acceleration=[4, 8, 16, 24],
    order=("golden", "uniform"),
    mode=("physical", "published"),
    start={"acceleration": 8},
)

# %% [markdown]
# The same, drawn beforehand: this slider also moves on a published page, where no kernel answers.

# %%
show_undersampled(image, acceleration=4)

# %% tags=["widget"]
from fairrecon_lab.widgets import frames_slider

frames_slider(
    show_undersampled,
    "acceleration",
    [4, 6, 8, 12, 16, 24],
    alt="Mask, image and error at one acceleration",
    image=image,
)

# %% [markdown]
# ## Check your understanding
# **1.** At which of these accelerations does a disc of 3 pixels lose a third of its contrast or more: 2, 4, 8, 16?
# Predict, then run.

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
kept = {R: contrast_kept(3, R) for R in (2, 4, 8, 16)}
print({R: round(share, 2) for R, share in kept.items()}, "at or above R =", min(R for R in kept if kept[R] < 2 / 3))
assert kept[2] > kept[8] > kept[16], "contrast falls as acceleration rises"

# %% [markdown]
# **2.** Give every k-space sample the same noise. Does the zero-filled image at R = 8 show more noise per pixel than at
# R = 2, or less? `undersample(nothing, 8, noise=0.05, image_ids="empty")` adds noise of that size to every sample of an
# image of zeros; its mean is a measure. Think of how many noisy samples each pixel is summed from: one in
# `sampling_ratios(size, 8)["pixels"]`.

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
nothing = np.zeros((size, size), dtype=np.float32)
noise = {R: float(undersample(nothing, R, noise=0.05, image_ids="empty").mean()) for R in (2, 8)}
expected = np.sqrt(sampling_ratios(size, 8)["pixels"] / sampling_ratios(size, 2)["pixels"])
print(
    f"R = 2: {noise[2]:.4f}, R = 8: {noise[8]:.4f}; ratio {noise[2] / noise[8]:.2f}, root of the samples' ratio {expected:.2f}"
)
assert np.isclose(noise[2] / noise[8], expected, rtol=0.05), (
    "fewer noisy samples, less noise: the price is streaks and blur"
)

# %% [markdown]
# **3.** Two subgroups have tumours of the same contrast but different typical size. What does the same acceleration do to a
# reader that thresholds contrast?
#
# <details><summary>One answer</summary>
#
# It loses more of the subgroup with the smaller tumours: the degradation is the same for everyone, the harm is not.
# No network has been involved yet. That is why the audit compares each arm with the *degraded* images as well as the
# clean ones (notebook 10).
#
# </details>

# %% [markdown]
# **Against Fig. 2.** Same: radial masks at R = 4, 8 and 16, magnitude images, no noise, one coil without phase. Different:
# golden order and rounded, mirrored spokes (the published masks are one argument away), and the achieved ratio is
# printed beside R. The paper's cohort is real FLAIR; unless you run a real profile, these images are simulated.
# ## Takeaways
# - A spoke turns a pixel into a line; too few lines do not cancel, and every pixel of the image carries such streaks.
# - Scan time, samples hit and Nyquist give three numbers for one mask; we ask by scan time and print the others.
# - The published masks are half-spokes with cut coordinates; their images are complex, and training and evaluation resolved that differently.
# - Small structures fade first: the edge of k-space, where they live, is sampled most thinly.
# - Data consistency puts the measured samples back: a projection that no reconstructor need be without.
