# %% [markdown]
# # 5. Pix2Pix: a judge of patches
# - **You will** work out by hand how much of an image the judge sees; play the game between judge and generator on a
#   small problem; see which answer an L1 weight of 100 and of 1000 buys; read two training curves that measure
#   each other; ask how much detail the images have, and how much of it is true
# - **Time** 45 s to run, about 50 min to work through, **memory** 1000 MB (tutorial); **needs** 01; **makes** reconstructions and quality: Pix2Pix
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
from fairrecon_core.predict.quality import psnr_db
from fairrecon_core.steps.folder import begin

settings, run = begin(profile, overrides, needs=["cohort"])
every = open_cohorts(run)
first, last = next(iter(every.values())), list(every.values())[-1]
FILTERS = [arm for arm in settings.classical if arm != "degraded"]
ARMS = ["degraded", *FILTERS, *(["unet"] if "unet" in settings.arms else []), "pix2pix"]

# %% [markdown]
# Notebook 04 ended with a complaint: squared error asks for the mean of everything that is possible, and the mean is
# blurred. Pix2Pix adds a second network, the *judge*, that is shown clean and generated images and learns to tell them
# apart. The generator is paid for fooling it. A blurred image is easily told from a clean one, so blur becomes
# expensive.


# %%
# %% [markdown]
# ## How much does the judge see?
# It does not judge the image as a whole. It is five convolutions of 4 x 4 with strides 2, 2, 2, 1, 1, and each number
# at its end answers for one patch. How large is that patch? Go backwards: one number sees 4 pixels of the layer below;
# if those lie a stride apart, the patch grows by the stride for each further one.

# %%
LAYERS = [(4, 2), (4, 2), (4, 2), (4, 1), (4, 1)]  # kernel, stride


def patch_side(layers):
    """Pixels, in one direction, that one output depends on."""
    side = 1
    for kernel, stride in reversed(layers):
        side = (side - 1) * stride + kernel
    return side


print("from the end to the start:", [patch_side(LAYERS[k:]) for k in range(5, -1, -1)])
assert patch_side(LAYERS) == 70

# %% [markdown]
# Does the core's judge agree? The gradient of one answer is zero wherever it does not look.

# %%
from fairrecon_core.reconstruct.pix2pix import PatchGAN

torch.manual_seed(settings.seed)
judge = PatchGAN(in_channels=1, width=4).eval()


def looked_at(size, i, j):
    """Pixels of a size x size image that decide the judge's answer (i, j)."""
    image = torch.randn(1, 1, size, size, requires_grad=True)
    judge(image)[0, 0, i, j].backward()
    return image.grad[0, 0].numpy() != 0


middle = looked_at(128, 7, 7)
assert middle.any(0).sum() == middle.any(1).sum() == 70
assert judge(torch.zeros(1, 1, 128, 128)).shape == (1, 1, 128 // 8 - 2, 128 // 8 - 2)

# %% [markdown]
# **What to look for:** neighbouring patches overlap almost entirely. At 256 pixels, the paper's size, a patch is a
# small part of the image: the judge knows texture, not anatomy. At 128 pixels it is more than half of each side, and
# the word "patch" says less.

# %%
row = last.setup.shared_rows()[0]
image = last.cohort.image(row)
size, n = len(image), len(image) // 8 - 2
patches = [looked_at(size, n // 2, n // 2), looked_at(size, n // 2, n // 2 + 1), looked_at(size, 0, 0)]
plots.image_row(
    [image] * 3,
    ["one answer", "its right neighbour", f"a corner; {n} x {n} in all"],
    outlines=patches,
    note=plots.origin(last.cohort),
)

# %% [markdown]
# ## The game by hand
# An answer is a *logit* s; the judge's belief that the patch is clean is 1 / (1 + exp(-s)). Its loss is the
# cross-entropy: it wants belief 1 for clean images and 0 for generated ones. The generator wants belief 1 for its own.
# A judge who cannot tell says s = 0 to everything, and everybody's loss is log 2, about 0.69: remember that figure for
# the curves below.

# %%
logits = torch.tensor([3.0, 0.0, -5.0])
belief = 1 / (1 + torch.exp(-logits))
by_hand = -torch.log(belief)  # the generator's loss, or the judge's on clean images
assert torch.allclose(by_hand, F.binary_cross_entropy_with_logits(logits, torch.ones(3), reduction="none"))
assert np.isclose(float(by_hand[1]), np.log(2))
{f"s = {s:g}": f"belief {b:.3f}, loss {x:.2f}" for s, b, x in zip(logits, belief, by_hand)}

# %% [markdown]
# Against a fooled judge alone the generator could ignore the measurement, so Pix2Pix adds the absolute error (L1),
# times a weight:
#
# $$\text{loss of the generator} = \text{adversarial loss} + w \cdot \text{L1}$$
#
# The article of 2017 and the released code's default have w = 100. The runs behind the paper were started with
# **1000**. What does that change? Take notebook 04's problem: one small disc, nine possible places. Three answers: one
# of the nine, their mean, their median, which is an empty image. Let the judge be undecided about the first (s = 0)
# and rather sure about the other two, which no clean image looks like (s = -5).

# %%
rows_, columns = np.mgrid[:48, :48]
places = [(12 * i, 12 * j) for i in (1, 2, 3) for j in (1, 2, 3)]
possible = np.stack([(np.hypot(rows_ - i, columns - j) <= 4).astype(float) for i, j in places])
ANSWERS = {"one of the nine": possible[4], "their mean": possible.mean(0), "their median": np.median(possible, axis=0)}
L1 = {name: abs(answer - possible).mean() for name, answer in ANSWERS.items()}


def price(l1_weight, judge_is_sure=5.0):
    """The generator's loss for each answer."""
    adversarial = {name: np.log1p(np.exp(0 if name == "one of the nine" else judge_is_sure)) for name in ANSWERS}
    return {name: adversarial[name] + l1_weight * L1[name] for name in ANSWERS}


def draw_prices(judge_is_sure=5.0):
    """Price of the three answers against the weight of L1; lower is chosen."""
    figure, ax = plots.canvas(6.2, 3.2)
    w = np.geomspace(5, 3000, 200)
    for (name, line), colour in zip(zip(ANSWERS, ("-", "--", ":")), ("#000000", "#595959", "#595959")):
        ax.plot(w, price(w, judge_is_sure)[name], line, color=colour, label=f"{name}, L1 {L1[name]:.3f}")
    for weight in (100, 1000):
        ax.axvline(weight, color="#595959", linewidth=0.8)
        ax.text(weight, ax.get_ylim()[1], f" {weight}", va="top", fontsize=9)
    ax.set(xscale="log", yscale="log", xlabel="Weight of L1", ylabel="Loss of the generator")
    ax.set_title(f"simulated discs; the judge gives impossible images s = -{judge_is_sure:g}", fontsize=9)
    ax.legend(frameon=False, fontsize=9)
    return figure


run.figure(draw_prices(5.0), "05_l1_weight")

# %% tags=["widget"]
from fairrecon_lab.widgets import slider_image

slider_image(draw_prices, judge_is_sure=[0.5, 1.0, 2.0, 5.0, 10.0, 20.0], start={"judge_is_sure": 5.0})

# %% [markdown]
# **What to look for:** the lowest line wins. At 100 the generator draws a disc, in a place that is wrong eight times
# out of nine. At 1000 it draws *no disc*, and the judge's protest is too cheap to matter. Neither is what a reader
# wants: one invents, the other omits. The more certain the judge, the higher the weight at which that tips.

# %%
chosen = {weight: min(price(weight), key=price(weight).get) for weight in (100, 1000)}
assert chosen == {100: "one of the nine", 1000: "their median"}

# %% [markdown]
# ## Two curves that measure each other
# Our generator is the U-Net of notebook 04 with normalisation, and dropout in its deepest features; w is 100. Its
# card, and its training:

# %%
for steps in every.values():
    steps.weights.make_all("pix2pix")  # shipped, or trained here
pd.set_option("display.max_colwidth", 90)
card_facts(every, "pix2pix")

# %% [markdown]
# What the weights reached on test images when they were made, with their own number of images (nothing, if they were
# trained in this run):

# %%
card_figures(every, "pix2pix")

# %%
losses = {f"{name}, {plots.origin(steps.cohort)}": steps.weights.losses("pix2pix") for name, steps in every.items()}
shown = {title: table.drop(columns="train_net") for title, table in losses.items()}  # on another scale: 100 times L1
run.figure(plots.training_curves(shown, "pix2pix", "Validation L1"), "05_training")

# %% [markdown]
# **What to look for:** a judge far below the dotted line tells generated from clean with ease; at the line it has
# given up. Neither curve says whether the images are good, which is why the weights that are kept are those with the
# lowest *validation* L1. The released code prints a "validation loss" too, but it is the loss of the last training
# batch.
#
# How much of the generator's loss is the judge's part? The rest is w times L1, for which we take the validation
# images:

# %%
shares = {}
for name, steps in every.items():
    end, weight = steps.weights.losses("pix2pix").iloc[-1], steps.weights.load("pix2pix").l1_weight
    adversarial = max(end["train_net"] - weight * end["validation"], 0)
    shares[name] = {
        f"w = {w:g}": adversarial / (adversarial + w * end["validation"]) for w in (weight, 1000)
    } | {"L1": end["validation"], "adversarial": adversarial}  # fmt: skip
pd.DataFrame(shares).T.round(3)

# %% [markdown]
# With 1000 in place of 100, and the same images, the judge would have nearly no say: a Pix2Pix in name, an L1 network
# in fact. If the paper finds its Pix2Pix and its U-Net alike, this is one reason.
#
# ## All levels, against the arms that came before
# As in notebook 04: PSNR in dB on the test images, and differences with their interval over patients.

# %%
from fairrecon_lab.bootstrap import patient_bootstrap


psnr = {name: compared(steps, ARMS) for name, steps in every.items()}
pd.concat({name: table.groupby("level")[ARMS].mean() for name, table in psnr.items()}, names=["cohort"]).round(2)


# %%
def difference(values, base, patients):
    """Mean paired difference as text, with its 95 % interval over patients."""
    found = patient_bootstrap(values, patients, baseline=base, n_boot=2000, seed=settings.seed)
    return f"{found.value:+.3g} [{found.low:+.3g}, {found.high:+.3g}]"


lines = []
for name, table in psnr.items():
    table = table[table["level"] == every[name].setup.audit_level]
    best = table[FILTERS or ["degraded"]].mean().idxmax()
    for base in dict.fromkeys(["degraded", best, *(["unet"] if "unet" in ARMS else [])]):
        lines.append(
            [name, base, difference(table["pix2pix"], table[base], table["patient_id"]), table["patient_id"].nunique()]
        )
pd.DataFrame(lines, columns=["cohort", "Pix2Pix minus", "dB at the audited level [95 %]", "patients"]).set_index(
    "cohort"
)

# %% [markdown]
# PSNR counts pixels. LPIPS compares what a network for photographs sees in both images; lower is more alike, and blur
# is punished more than a misplaced texture. It was measured along with PSNR (notebook 07 takes it apart); here on the
# images of the audited level.

# %%
lines = []
for name, steps in every.items():
    shown = [arm for arm in ARMS if arm not in FILTERS]
    far = compared(steps, shown, "lpips").query("level == @steps.audit_level")
    means = {arm: f"{far[arm].mean():.3f}" for arm in shown}
    apart = {f"pix2pix minus {arm}": difference(far["pix2pix"], far[arm], far["patient_id"]) for arm in shown[:-1]}
    lines.append({"cohort": name, "n": len(far)} | means | apart)
pd.DataFrame(lines).set_index("cohort")

# %% [markdown]
# **What to look for:** the two measures may disagree: a higher PSNR for the U-Net, a lower LPIPS for Pix2Pix. That is
# not a contradiction. One asks for the safest image, the other for one that looks right, and no image is best at both
# (notebook 07).
#
# ## Look at them


# %%
def at(steps, arm, level, row):
    """One image of an arm."""
    images, rows = steps.images.get(arm, level)
    return as_float(images[np.searchsorted(rows, row)])


SHOWN = ["clean", *(arm for arm in ARMS if arm not in FILTERS)]
kept = {
    (name, row): {arm: at(steps, arm, steps.audit_level, row) for arm in SHOWN}
    for name, steps in every.items() for row in steps.setup.shared_rows()[:4]
}  # fmt: skip


def show_arms(cohort):
    """The first shared test image in all arms, with error maps."""
    steps = every[cohort]
    found = kept[cohort, steps.setup.shared_rows()[0]]
    titles = [f"{arm}, {steps.audit_level:,.0f}\n{psnr_db(found[arm], found['clean']):.1f} dB" for arm in SHOWN[1:]]
    return plots.error_row(found["clean"], [found[arm] for arm in SHOWN[1:]], titles, note=plots.origin(steps.cohort))


run.figure(show_arms(first.name), f"05_arms_{first.name}")

# %%
run.figure(show_arms(last.name), f"05_arms_{last.name}")

# %% [markdown]
# Where do the last two arms disagree most? A window around that place, enlarged. **What to look for:** edges and grain
# that are in one image and not in the other, and whether the clean image has them.

# %%
from scipy.ndimage import uniform_filter


def zoom(cohort=last.name, patient=1, side=32):
    """A window where the last two arms differ most, in all arms."""
    rows = every[cohort].setup.shared_rows()
    found = kept[cohort, rows[min(patient, len(rows)) - 1]]
    apart = uniform_filter(abs(found[SHOWN[-1]] - found[SHOWN[-2]]), side // 2)
    middle = np.unravel_index(apart.argmax(), apart.shape)
    top, left = (int(np.clip(m - side // 2, 0, len(apart) - side)) for m in middle)
    windows = [found[arm][top : top + side, left : left + side] for arm in SHOWN]
    span = (min(map(np.min, windows)), max(map(np.max, windows)))
    return plots.image_row(
        windows, SHOWN, limits=span, note=f"{plots.origin(every[cohort].setup.cohort)}, {side} x {side} pixels"
    )


run.figure(zoom(last.name), "05_zoom")

# %% tags=["widget"]
slider_image(
    zoom, cohort=tuple(every), patient=[1, 2, 3, 4], side=[16, 24, 32, 48], start={"side": 32, "cohort": last.name}
)

# %% [markdown]
# ## How much detail, and how much of it is true?
# Sort an image's Fourier samples into rings, from coarse to fine. Two questions for each ring: how much energy does
# the arm have there, compared with the clean image (1: as much; 0: blurred away)? And how well do the two agree in
# that ring, from 0 (unrelated) to 1?


# %%
def rings(images):
    """Fourier samples (n, H, W), and the ring of each sample: its distance from the middle in samples."""
    frequency = np.fft.fftfreq(images.shape[-1]) * images.shape[-1]
    return np.fft.fft2(images), np.hypot(frequency[:, None], frequency[None, :]).round().astype(int)


def detail(images, clean):
    """Energy of `images` in units of that of `clean`, and correlation, for each ring."""
    (a, ring), (b, _) = rings(images), rings(clean)
    total = lambda values: np.bincount(ring.ravel(), values.real.sum(0).ravel())[: images.shape[-1] // 2]
    return total(abs(a) ** 2) / total(abs(b) ** 2), total(a * b.conj()) / np.sqrt(
        total(abs(a) ** 2) * total(abs(b) ** 2)
    )


some = last.cohort.images_at(last.setup.rows(last.audit_level)[:4])
energy, agreement = detail(some, some)
assert np.allclose(energy, 1) and np.allclose(agreement, 1)
assert np.allclose(detail(some / 2, some)[0], 1 / 4) and np.allclose(detail(some / 2, some)[1], 1)

# %%
figure, axes = plots.canvas(4.6 * len(every), 5.4, 2, len(every), squeeze=False, sharex=True)
for (above, below), steps in zip(axes.T, every.values()):
    rows = steps.setup.pictured(steps.audit_level)[:64]
    clean = steps.cohort.images_at(rows)
    for arm in SHOWN[1:]:
        energy, agreement = detail(as_float(steps.images.get(arm, steps.audit_level)[0][: len(rows)]), clean)
        fineness = np.arange(len(energy)) / clean.shape[-1]
        style = plots.arm_style(arm) | {"marker": ""}
        above.plot(fineness, energy, label=arm, **style)
        below.plot(fineness, agreement, label=arm, **style)
    above.axhline(1, color=plots.colour_of("clean"), linewidth=0.8)
    above.set(
        yscale="log", ylabel="Energy, clean = 1", title=f"{steps.name}, {plots.origin(steps.cohort)}, n = {len(rows)}"
    )
    below.set(xlabel="Spatial frequency (cycles per pixel)", ylabel="Agreement with clean", ylim=(0, 1.02))
    ticks = [tick for tick in (0.001, 0.01, 0.03, 0.1, 0.3, 1) if tick > above.get_ylim()[0]]
    above.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    above.minorticks_off()
    above.legend(frameon=False, fontsize=9)
run.figure(figure, "05_detail")

# %% [markdown]
# **What to look for:** in the upper row, who reaches 1 at the right: an arm far below it is smooth. In the lower row,
# whether the arm with more energy also *agrees* more. Where energy rises and agreement does not, the added detail has
# the right look and the wrong place. A reader cannot see the difference, and that is the risk of every network that is
# paid for looking real.

# %% [markdown]
# ## The same network on people it never met
# The weights that ship learned on simulated patients. On *real* ones, cohorts that nobody trained on, what is the gain in
# PSNR over the degraded image (dB, 95 % interval by patient)? `tools/real_images.py` measures it and `results/` keeps it.
# Below zero the network does harm: it draws what belongs to simulated people. A judge teaches what images look like, and
# a real film does not look like a simulated one; what the judge adds here was in no measurement.

# %%
from fairrecon_lab.analysis.real import kept_results

zero_shot = kept_results("zero_shot")
zero_shot[zero_shot["arm"].isin(["unet", "pix2pix"])][["profile", "arm", "value", "low", "high", "patients"]].round(2)

# %% [markdown]
# ## Check your understanding
# **1.** Leave one of the three strided layers out. How large are the patches then? And with one more?

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
sides = [patch_side([(4, 2)] * strided + [(4, 1)] * 2) for strided in (2, 3, 4)]
print(f"{sides[0]}, {sides[1]}, {sides[2]} pixels")
assert sides == [34, 70, 142]

# %% [markdown]
# **2.** At which weight of L1 does the small problem tip from "one of the nine" to "nothing at all", if the judge
# gives impossible images s = -5? Solve for the weight at which both cost the same.

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
tips = (np.log1p(np.exp(5)) - np.log(2)) / (L1["one of the nine"] - L1["their median"])
print(f"at {tips:.0f}")
assert np.isclose(price(tips)["one of the nine"], price(tips)["their median"]) and 100 < tips < 1000

# %% [markdown]
# **3.** Make the disc four times as large in area. Does it take a higher or a lower weight to lose it? Think first.

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
gap = {}
for radius in (2.5, 5):
    discs = np.stack([(np.hypot(rows_ - i, columns - j) <= radius).astype(float) for i, j in places])
    gap[radius] = abs(discs[4] - discs).mean() - abs(np.median(discs, axis=0) - discs).mean()
at_weight = {radius: (np.log1p(np.exp(5)) - np.log(2)) / value for radius, value in gap.items()}
print({f"radius {radius}": f"lost above {weight:.0f}" for radius, weight in at_weight.items()})
assert at_weight[5] < at_weight[2.5], "L1 grows with the area in doubt, the judge's verdict here does not"

# %% [markdown]
# <details><summary><b>4.</b> Two networks: one leaves a faint lesion out, one draws it in the wrong place. Which would you rather audit?</summary>
#
# An omitted lesion lowers the rate of hits (TPR) of every reader. An invented one raises false alarms (FPR) as well,
# and a segmenter's Dice may fall in both. An audit that looks at TPR alone would prefer the one that invents: it needs
# both rates, and images to look at.
#
# </details>
#
# **Against Sec. 3.2.** Same: the conditional judge with 70 x 70 patches, the vanilla loss, L1, Adam at 0.5, a rate
# that is constant and then falls linearly. Different: our generator is the series' U-Net and predicts what to add (the
# released one is "unet_128" with a sigmoid); w is 100 where the published runs had 1000; the best weights are chosen
# on validation L1 where the published runs take the last epoch; one network covers the levels. Unless you run a real
# profile, images and training patients are simulated, from one simulator.
# ## Takeaways
# - One answer of the judge looks at 70 x 70 pixels: go backwards through its strides.
# - The judge makes impossible images expensive; one that cannot tell costs everybody log 2.
# - Weight 100 draws a disc that may be wrong, weight 1000 draws none: the weight decides between inventing and
#   omitting.
# - A training curve of either network says little; validation L1 chooses the weights.
# - Energy says how much detail there is, agreement how much of it is true; look at both.
