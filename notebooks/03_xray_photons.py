# %% [markdown]
# # 3. X-ray: what fewer photons do
# - **You will** build a sinogram and a low-dose image by hand; rebuild Fig. 3; see that the published blur owes little to photons; see why noise knows body size, and how one line of code makes it forget; put the bow-tie where it belongs
# - **Time** 15 s to run, about 45 min to work through, **memory** 900 MB (tutorial); **needs** 01; **makes** nothing
# - **In the paper** Sec. 2.1, Fig. 3

# %% tags=["parameters"]
profile = "tutorial"  # smoke | tutorial | lgg | covid_cxr | nih | paper
overrides = {}  # for example {"seed": 1}

# %%
import math

import numpy as np
import pandas as pd
import torch

from fairrecon_lab import plots
from fairrecon_core.steps.folder import begin

settings, run = begin(profile, overrides, needs=["cohort"])

# %% [markdown]
# We work on one chest film of the test split. A profile without X-ray borrows a simulated one: this notebook only looks
# at physics.

# %%
from fairrecon_lab.simulate import simulate

cohort = next((run.cohort(name) for name in settings.cohorts if run.cohort(name).modality == "xray"), None)
if cohort is None:
    image, _ = next(iter(simulate("chest", 1, seed=settings.seed, size=settings.image_size)))[:2]
    note = "simulated"
else:
    image = cohort.image(cohort.select("test")[0])
    note = "" if settings.cohort_folder else "simulated"
size = len(image)
clean = torch.from_numpy(np.array(image))[None]  # a batch of one, (1, N, N)
photon_counts = [100_000, 10_000, 3_000]


def psnr_db(shown, truth=image):
    """Peak signal-to-noise ratio in dB for images in [0, 1]."""
    return float(-10 * np.log10(np.mean((np.asarray(shown) - np.asarray(truth)) ** 2)))


# %% [markdown]
# ## A sinogram by hand
# The paper treats a film as if it were a slice through the body, and sends rays through it from all sides. For one view,
# rotate the image and add up its columns: each sum is what one ray meets on its way. Before that we put the image into
# a frame so wide that no corner leaves it; the axis of rotation is the middle of the frame.

# %%
from scipy.ndimage import rotate

n_views = 4 * math.ceil(size / 4)
n_detectors = math.ceil(math.sqrt(2) * size)
frame = np.zeros((2 * n_detectors + 1, 2 * n_detectors + 1), dtype=np.float32)
corner = n_detectors - size // 2
frame[corner : corner + size, corner : corner + size] = image
seen = slice(n_detectors - n_detectors // 2, n_detectors - n_detectors // 2 + n_detectors)
angles = [0, 20, 45, 90, 135]
by_hand = np.stack([rotate(frame, -angle, reshape=False, order=1).sum(axis=0)[seen] for angle in angles], axis=1)

# %% [markdown]
# The core has no loop: it shears rows instead of turning the image, by phase ramps in their Fourier transform, and needs
# three matrix products for all views at once. It agrees with our loop up to the way one reads between pixels.

# %%
from fairrecon_core.degrade.radon import fbp, radon

sinogram = radon(clean, n_views=180)[0]
ours, hand = sinogram[:, angles].numpy(), by_hand
difference = np.linalg.norm(ours - hand) / np.linalg.norm(hand)
print(f"relative difference {100 * difference:.2f} %")
assert ours.shape == hand.shape and difference < 0.02

# %% [markdown]
# **What to look for:** every bright spot draws a sine, hence the name. Each view holds the whole mass of the image.

# %%
sinogram = radon(clean, n_views)
back = fbp(sinogram, size)[0]
assert np.allclose(sinogram[0].sum(0), image.sum(), rtol=0.01)
figure, axes = plots.canvas(8, 3.1, 1, 3)
plots.draw_image(axes[0], image, "film")
plots.draw_image(axes[1], sinogram[0], "sinogram: bin down, view across", limits=(0, float(sinogram.max())))
plots.draw_image(axes[2], back, f"filtered back-projection, {psnr_db(back):.1f} dB")
figure.supxlabel(note, x=0.01, ha="left", fontsize=8)
figure

# %% [markdown]
# Back-projection smears each view back along its rays; the *ramp* filter before it undoes the blur of smearing. The
# *Hann* window damps what the ramp lifts most, the finest detail, and with it the noise:

# %%
{window: f"{psnr_db(fbp(sinogram, size, window)[0]):.1f} dB without any noise" for window in ("ramp", "hann")}

# %% [markdown]
# ## Photons by hand
# A film knows no centimetres, so we state a convention: it is 35 cm wide, and white attenuates like water, 0.2 per cm.
# A ray that meets the line integral
#
# $$p = \int \mu \, ds, \qquad \lambda = N_0 \, b \, e^{-p}, \qquad n \sim \mathrm{Poisson}(\lambda), \qquad \hat p = \ln \frac{N_0 \, b}{n}$$
#
# lets on average λ of N₀ photons through. b is the bow-tie filter, coming below; dividing by it afterwards is the
# calibration that every scanner does. Then back-project, and convert back to the grey scale of the film.

# %%
from fairrecon_core.degrade.xray import bowtie, line_integrals, poisson
from fairrecon_lab.analysis.short_forms import low_dose

pixel_cm, mu = 35 / size, 0.2
p = radon(clean, n_views) * pixel_cm * mu
passed = bowtie(p.shape[1], pixel_cm, radius_cm=35 / 2, edge_transmission=0.05)[:, None]
photons = 10_000 * passed * torch.exp(-p)
print(f"p up to {p.max():.1f}: of 10 000 photons {photons.min():.0f} to {photons.max():.0f} arrive")

# %% [markdown]
# Noise belongs to the image: its generator follows from seed, image and level, so that batch size and order change
# nothing. `poisson` draws from Poisson's law exactly, but faster than torch does.

# %%
from fairrecon_core.degrade import noise_generator

counts = poisson(photons, [noise_generator(settings.seed, "film", 10_000)])
recorded = torch.log(10_000 * passed / counts.clamp(min=1))
by_hand = (fbp(recorded, size, "hann") / (pixel_cm * mu)).clamp(0, 1)

exposure = low_dose(clean, 10_000, image_ids=["film"], seed=settings.seed)
assert torch.allclose(p, line_integrals(clean), atol=1e-5)
assert torch.equal(exposure.sinogram, recorded) and torch.allclose(exposure.image, by_hand, atol=1e-6)
print(f"{100 * float(exposure.starved):.2f} % of the readings had less than one photon")

# %% [markdown]
# Is it Poisson? Repeat one view many times. The law says: the variance of the counts is their mean, and the logarithm has
# variance 1/λ (a little more when λ is small, because a logarithm bends).

# %%
view = photons[:, :, :1].expand(400, -1, -1)
repeats = poisson(view, [noise_generator(0, str(i), 10_000) for i in range(400)])
ratio = float((repeats.var(0) / repeats.mean(0)).mean())
log_ratio = float((torch.log(repeats.clamp(min=1)).var(0) * view[0]).mean())
print(f"variance of counts / mean: {ratio:.3f}, variance of the logarithm times λ: {log_ratio:.3f}")
assert abs(ratio - 1) < 0.05 and 0.95 < log_ratio < 1.2

# %% [markdown]
# A reading of no photon has no logarithm, so readings below one photon are raised to one. Where few photons arrive this
# *biases* the line integral, and no averaging takes the bias away. How much follows from Poisson's law alone:

# %%
from scipy.stats import poisson as poisson_law

mean_counts = np.array([0.5, 1, 2, 5, 10, 20, 100])
n = np.arange(500)
bias = [float((poisson_law.pmf(n, lam) * np.log(lam / np.maximum(n, 1))).sum()) for lam in mean_counts]
pd.DataFrame({"photons that arrive (mean)": mean_counts, "bias of the line integral": np.round(bias, 3)})

# %% [markdown]
# Below one photon the body looks thinner than it is; above two a little thicker, by about half of 1/λ, because a
# logarithm bends. From 20 photons on the bias is below 0.03. `exposure.starved` tells which share of the readings was
# raised; use the physical mode where it is near zero.

# %%
assert bias[0] < -0.7 and abs(np.array(bias)[mean_counts >= 20]).max() < 0.03
print({f"{count:,} photons": f"{100 * float(one.starved):.2f} % raised" for count, one in zip(
    photon_counts, low_dose(clean, photon_counts, image_ids=["film"], seed=settings.seed))})  # fmt: skip

# %% [markdown]
# ## The paper's Fig. 3, rebuilt
# Three doses, as in the paper, from one sinogram. Infinitely many photons return the film bit by bit; none is an error.

# %%
exposures = low_dose(clean, photon_counts, image_ids=["film"], seed=settings.seed)
assert torch.equal(low_dose(clean, math.inf, image_ids=["film"]).image, clean)
try:
    low_dose(clean, 0, image_ids=["film"])
except ValueError as error:
    print("as it should:", error)

# %% [markdown]
# **What to look for:** grain that gets coarser where the body is thick, and streaks along the thickest paths, from side to
# side below the heart. The PSNR falls with every step.

# %%
titles = [f"{count:,} photons\n{psnr_db(e.image[0]):.1f} dB" for count, e in zip(photon_counts, exposures)]
run.figure(plots.error_row(image, [e.image[0] for e in exposures], titles, note=note), "03_fig3")

# %% [markdown]
# **Not all of this is noise.** The published window, Hann, blurs even where no photon is missing. `window="ramp"` keeps
# the detail, and all of the noise. How far does each get without noise, and what do the photons add?

# %%
sharp = low_dose(clean, photon_counts, image_ids=["film"], seed=settings.seed, window="ramp")
by_window = {"hann": exposures, "ramp": sharp}
without_noise = {
    window: psnr_db((fbp(p, size, window)[0] / (pixel_cm * mu)).clamp(0, 1)) for window in by_window
}  # fmt: skip
blur_share = {
    window: [10 ** ((psnr_db(e.image[0]) - without_noise[window]) / 10) for e in found]
    for window, found in by_window.items()
}  # of the squared error: what is there without noise, over all
rows = [
    {"window": window, "photons": count, "PSNR (dB)": round(psnr_db(e.image[0]), 1),
     "without noise (dB)": round(without_noise[window], 1), "blur's share of the squared error": round(share, 2)}
    for window, found in by_window.items() for count, e, share in zip(photon_counts, found, blur_share[window])
]  # fmt: skip
pd.DataFrame(rows)

# %%
assert without_noise["ramp"] > without_noise["hann"] + 3  # Hann alone costs decibels
assert blur_share["hann"][0] == max(blur_share["hann"]) > 0.3  # most where photons abound
print(f"with Hann, {blur_share['hann'][0]:.0%} of the error at {photon_counts[0]:,} photons is blur, not noise")

# %% [markdown]
# ## As published
# The code behind the paper does something else. Its "bow-tie" is a V over the *views* (1 at 0 degrees, 0.05 at 90, 1 at
# 180), it multiplies line integrals where a filter multiplies photons, and it is never undone. Counts are the line
# integrals themselves, scaled so that the largest *of this image* is the photon count: no exponential, no logarithm.
# Here it is with scikit-image, as the authors did it, without any noise:

# %%
from skimage.transform import iradon
from skimage.transform import radon as skimage_radon

theta = np.linspace(0, 180, n_views, endpoint=False)
arm = np.linspace(0.05, 1, n_views // 2)
v_shape = np.concatenate([arm[::-1], arm])
weighted = skimage_radon(image, theta, circle=False) * v_shape
smeared = iradon(weighted, theta, filter_name="hann", circle=False, output_size=size)
smeared = (smeared - smeared.min()) / (smeared.max() - smeared.min())

# %%
from fairrecon_core.degrade.xray import published_image, published_sinogram

noise_free = published_image(published_sinogram(clean), size, eight_bit=False)[0]
assert np.abs(noise_free.numpy() - smeared).max() < 1e-3
print(f"V shape alone, not one photon missing: {psnr_db(noise_free):.1f} dB")

# %% [markdown]
# Views near 90 degrees count a twentieth. They are the ones that see edges lying across the film: diaphragm, ribs.
# **What to look for:** the published image is smeared in one direction, whatever the dose; most of its error is the same
# in all three columns.

# %%
published = low_dose(clean, photon_counts, "published", image_ids=["film"], seed=settings.seed)
shown = [noise_free, *(e.image[0] for e in published)]
titles = ["no noise at all", *(f"{count:,} photons" for count in photon_counts)]
titles = [f"{title}\n{psnr_db(one):.1f} dB" for title, one in zip(titles, shown)]
run.figure(plots.error_row(image, shown, titles, note=note), "03_published")

# %% [markdown]
# And a third way: a chest film *is* a projection already. Fewer photons then mean grain on the film, from pixel to pixel
# independent, and neither sinogram nor back-projection. We call that mode `radiograph`.

# %%
modes = ("physical", "published", "radiograph")
by_mode = {
    mode: low_dose(clean, photon_counts, mode, image_ids=["film"], seed=settings.seed) for mode in modes
}  # one list of exposures per mode
table = {mode: [psnr_db(e.image[0]) for e in found] for mode, found in by_mode.items()}
pd.DataFrame(table, index=pd.Index(photon_counts, name="photons")).round(1)

# %% [markdown]
# **What to look for:** from 100 000 to 3 000 photons the physical and the radiograph mode lose many decibels. The
# published mode hardly moves: a network trained on it learns to undo a known blur, not to deal with few photons.

# %%
drop = {mode: values[0] - values[-1] for mode, values in table.items()}
assert drop["physical"] > 3 and drop["radiograph"] > 8 and abs(drop["published"]) < 2
middle = [by_mode[mode][1].image[0] for mode in modes]
titles = [f"{mode}\n{psnr_db(one):.1f} dB" for mode, one in zip(modes, middle)]
run.figure(plots.error_row(image, middle, titles, note=f"{note} 10 000 photons".strip()), "03_modes")

# %% [markdown]
# Is the blur really directional? Compare how strongly the image changes from row to row and from column to column.

# %%
edges_kept = {}
for mode in ("physical", "published"):
    one = by_mode[mode][0].image[0].numpy()
    contrast = one.std() / image.std()  # published images are stretched: compare at equal contrast
    edges_kept[mode] = [
        (np.diff(one, axis=axis) * np.diff(image, axis=axis)).sum() / (np.diff(image, axis=axis) ** 2).sum() / contrast
        for axis in (0, 1)
    ]
print(pd.DataFrame(edges_kept, index=["across the film (row to row)", "up the film (column to column)"]).round(2))
assert edges_kept["published"][0] < 0.7 * edges_kept["published"][1]

# %% [markdown]
# ## Body size and noise
# Through 10 cm more of water come e² = 7.4 times fewer photons: noise in the line integral grows with the *exponential*
# of the path. If body size differs between subgroups, so does noise, and nobody decided that. The published code scales
# each sinogram to its own maximum, which is as if every patient's tube were turned up until the thickest path gave the
# same reading. We test both on cylinders, 64 pixels, twelve exposures each: noise in the middle, as a multiple of that
# of the narrowest cylinder. **What to look for:** the physical points follow the exponential, and end a little above it,
# because a logarithm of few photons is noisier than 1/λ.


# %%
def noise_in_the_middle(width_cm, mode, size=64, n=12, photon_count=10_000):
    """Standard deviation over exposures, in the middle of a cylinder of water on a 35 cm field."""
    at = (torch.arange(size) - size // 2) * 35 / size
    cylinder = 0.8 * (torch.hypot(at[:, None], at[None, :]) <= width_cm / 2).float()
    names = [f"{width_cm} cm, {i}" for i in range(n)]
    exposed = low_dose(cylinder.expand(n, -1, -1), photon_count, mode, image_ids=names, edge_transmission=1.0).image
    return float(exposed[:, size // 2 - 5 : size // 2 + 6, size // 2 - 5 : size // 2 + 6].std(0).mean())


widths_cm = [14, 18, 22, 26, 30]
noise = {mode: [noise_in_the_middle(width, mode) for width in widths_cm] for mode in ("physical", "published")}

# %%
figure, ax = plots.canvas(5.5, 3.2)
for mode, style in (("physical", "-"), ("published", "--")):
    grown = np.array(noise[mode]) / noise[mode][0]
    ax.plot(widths_cm, grown, style, marker="o", color=plots.colour_of("degraded"), label=mode)
theory = np.exp(0.8 * 0.2 * (np.array(widths_cm) - widths_cm[0]) / 2)
ax.plot(widths_cm, theory, ":", color=plots.colour_of("clean"), label="root of exp(extra path)")
ax.set(xlabel="Width of the cylinder (cm)", ylabel="Noise, narrowest = 1", yscale="log")
ax.set_yticks([1, 2, 3, 4], ["1", "2", "3", "4"])
ax.minorticks_off()
ax.legend(title="simulated cylinders", frameon=False)
run.figure(figure, "03_body_size")

# %%
growth = {mode: values[-1] / values[0] for mode, values in noise.items()}
print({mode: f"{value:.1f} times the noise at {widths_cm[-1]} cm" for mode, value in growth.items()})
assert growth["physical"] > 1.3 * growth["published"]

# %% [markdown]
# The published noise grows too, but only in proportion to the path: relative to the signal it is the same for every body.
# A subgroup effect of dose on wide patients is thus removed before the study begins. Bear in mind what a film cannot
# tell: each was scaled to [0, 1] when it was stored, so even our physical mode sees only what is left of body size.
#
# ## The bow-tie, where it belongs
# A body is thin at its edge, so a scanner puts a filter into the beam that is thick there: shaped like a bow-tie, along
# the *detector*. Patients get less dose and the detector even light. A filter made for a cylinder evens it out completely.

# %%
radius_cm = 13
at = (torch.arange(size) - size // 2) * pixel_cm
from_axis = torch.hypot(at[:, None], at[None, :])
cylinder = ((radius_cm - from_axis) / pixel_cm + 0.5).clamp(0, 1)[None]  # its edge pixels are partly filled
through = torch.exp(-line_integrals(cylinder))[0, :, 0]
made_for_it = bowtie(len(through), pixel_cm, radius_cm, edge_transmission=math.exp(-2 * mu * radius_cm))
t_cm = (np.arange(len(through)) - len(through) // 2) * pixel_cm
inside = abs(t_cm) < 0.9 * radius_cm
spread = float((made_for_it * through)[inside].std() / (made_for_it * through)[inside].mean())
print(f"behind the cylinder, with its bow-tie, the light varies by {100 * spread:.1f} %")
assert spread < 0.05

# %%
figure, ax = plots.canvas(5.5, 3.2)
ax.plot(t_cm, 10_000 * through, "-", color=plots.colour_of("degraded"), label="cylinder alone")
ax.plot(t_cm, 10_000 * made_for_it, ":", color=plots.colour_of("clean"), label="bow-tie alone")
ax.plot(t_cm, 10_000 * made_for_it * through, "-", color=plots.colour_of("clean"), label="both")
ax.set(xlabel="Position on the detector (cm)", ylabel="Photons per detector bin", yscale="log", ylim=(5, 2e4))
ax.legend(frameon=False, title="simulated", loc="lower center", ncols=3)
figure

# %% [markdown]
# ## Turn the knobs
# One function draws everything; the sliders only wrap it. `edge transmission` is what the bow-tie lets through at the edge
# of the field: 1 is no filter; `window` counts in the physical mode. **What to look for:** in the published mode nearly
# nothing happens; in the physical mode a stronger bow-tie adds noise at the sides and leaves the middle alone, and the
# ramp is sharper at many photons and grainier at few.

# %%
from fairrecon_core.degrade import degradation


def show_low_dose(image, photon_count=10_000, edge_transmission=0.05, mode="physical", window="hann"):
    """Film, degraded film and error at one setting."""
    xray = degradation("xray", mode=mode, edge_transmission=edge_transmission, window=window)
    shown = xray(image, photon_count, image_ids="film", seed=settings.seed)
    figure, axes = plots.canvas(9, 3.2, 1, 3)
    plots.draw_image(axes[0], image, "film")
    plots.draw_image(axes[1], shown, f"{mode}, {photon_count:,} photons, {psnr_db(shown, image):.1f} dB")
    plots.draw_difference(axes[2], np.asarray(shown) - np.asarray(image), "error", limit=0.3)
    figure.supxlabel(note, x=0.01, ha="left", fontsize=8)
    return figure


show_low_dose(image, photon_count=10_000)

# %% tags=["widget"]
from fairrecon_lab.widgets import slider_image

slider_image(
    show_low_dose,
    image=image,
    photon_count=[1_000_000, 100_000, 30_000, 10_000, 3_000, 1_000],
    edge_transmission=[1.0, 0.3, 0.1, 0.05, 0.01],
    mode=modes,
    window=["hann", "ramp"],
    start={"photon_count": 10_000, "edge_transmission": 0.05},
)

# %% [markdown]
# The same, drawn beforehand: this slider also moves on a published page, where no kernel answers.

# %%
show_low_dose(image, photon_count=100_000)

# %% tags=["widget"]
from fairrecon_lab.widgets import frames_slider

frames_slider(
    show_low_dose,
    "photon_count",
    [100_000, 30_000, 10_000, 3_000, 1_000],
    alt="Film, noisy image and error at one photon count",
    image=image,
)

# %% [markdown]
# ## Check your understanding
# **1.** In the radiograph mode the error is noise alone. By how many decibels does the PSNR fall when the photons are cut
# from 100 000 to 25 000? Predict from the variance 1/λ, then call
# `low_dose(clean, 25_000, "radiograph", image_ids=["film"], seed=settings.seed).image[0]`. Why does `"physical"` fall by
# less?

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
fall = {}
for mode in ("radiograph", "physical"):
    quarter = low_dose(clean, 25_000, mode, image_ids=["film"], seed=settings.seed).image[0]
    fall[mode] = table[mode][0] - psnr_db(quarter)
print(f"radiograph {fall['radiograph']:.1f} dB: four times the variance, 10 log10(4) = 6.0;")
print(f"physical {fall['physical']:.1f} dB: the Hann blur is part of its error, and stays as it was")
assert abs(fall["radiograph"] - 10 * np.log10(4)) < 0.6 and fall["physical"] < fall["radiograph"]

# %% [markdown]
# **2.** Halve all intensities of the film: a body half as dense. What happens to the noise in the sinogram, relative to
# the line integrals, in the published mode, and why is it not what an X-ray tube would do?

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
relative_noise = []
for dense in (clean, clean / 2):
    line = published_sinogram(dense)[0]
    noisy = low_dose(dense, 10_000, "published", image_ids=["film"], seed=settings.seed).sinogram[0]
    strong = line > line.max() / 4
    relative_noise.append(float(((noisy - line) / line)[strong].std()))
print(f"relative noise {relative_noise[0]:.4f} and {relative_noise[1]:.4f}: each image is scaled to its own maximum")
assert abs(relative_noise[0] / relative_noise[1] - 1) < 0.02

# %% [markdown]
# **3.** A reader detects fluid by the horizontal line it draws. Which mode hurts it most, and would more photons help?
#
# <details><summary>One answer</summary>
#
# The published mode: horizontal edges lie in the views near 90 degrees, which it turns down to a twentieth. More photons
# do not help, because the loss is not noise. It is the same for every image, so a network can learn to undo much of it:
# what looks like robustness to low dose may be skill at a fixed filter.
#
# </details>

# %% [markdown]
# **Against Fig. 3.** Same: the three photon counts, views as many as pixels, Hann back-projection. Different: our default
# counts photons behind the body and takes a logarithm; the bow-tie lies along the detector and is divided out; the
# published chain is one argument away (its files also pass through JPEG, ours do not). The paper's cohort is CheXpert;
# unless you run a real profile, these images are simulated, and the centimetres are a stated convention in any case.
# ## Takeaways
# - A sinogram is rotate-and-add; a low-dose image is exp, Poisson, log and back-projection, six lines in all.
# - With fewer photons the physical image loses decibels at every step, grain first, then streaks.
# - The published image is decided by a fixed blur across the film; its photon count hardly matters.
# - Noise grows with the exponential of the path, so it knows body size; scaling each image to its own maximum hides that.
# - A bow-tie shapes photons along the detector, evens out a round body, and is divided out again.
