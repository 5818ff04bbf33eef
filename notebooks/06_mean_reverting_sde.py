# %% [markdown]
# # 6. The mean-reverting SDE: one image out of many
# - **You will** diffuse a residual to noise, one pixel first; walk back by hand where the exact answer is
#   known; replace 100 network calls by 10; find out what the published loss teaches; watch a reconstruction appear;
#   draw several samples, and read their mean and their spread
# - **Time** 2.5 min to run, about 70 min to work through, **memory** 1200 MB (tutorial); **needs** 01; **makes** reconstructions and quality: SDE
# - **In the paper** Sec. 3.2

# %% tags=["parameters"]
profile = "tutorial"  # smoke | tutorial | lgg | covid_cxr | nih | paper
overrides = {}  # for example {"seed": 1}

# %%
import time

import numpy as np
import pandas as pd
import torch

from fairrecon_lab import plots
from fairrecon_core.cohort.pixels import as_float
from fairrecon_core.steps.pipeline import open_cohorts
from fairrecon_lab.analysis.short_forms import card_facts, card_figures, compared
from fairrecon_core.predict.quality import lpips_distances, psnr_db
from fairrecon_core.steps.folder import begin

settings, run = begin(profile, overrides, needs=["cohort"])
every = open_cohorts(run)
first, last = next(iter(every.values())), list(every.values())[-1]
FILTERS = [arm for arm in settings.classical if arm != "degraded"]
ARMS = ["degraded", *FILTERS, *(arm for arm in ("unet", "pix2pix") if arm in settings.arms), "sde"]

# %% [markdown]
# Notebook 04 drew the mean of what is possible, notebook 05 one possibility that looks right. The third network is
# built to draw *any* possibility, each as often as it is true. What the measurement leaves open then shows in the
# difference between its samples.

# %% [markdown]
# ## One pixel first
# Everything below happens to one pixel before it happens to an image. Call *residual* what the degraded image (mu) lacks
# there: z = x − mu. Let the measurement leave two stories open: the pixel is 0.15 too bright (chance 0.4, give or take
# 0.03), or 0.10 too dark (chance 0.6, give or take 0.04).

# %%
rng = np.random.default_rng(settings.seed)
chance, middle, spread = np.array([0.4, 0.6]), np.array([-0.15, 0.10]), np.array([0.03, 0.04])


def true_residuals(n):
    """Residuals as they are in truth."""
    story = rng.choice(2, n, p=chance)
    return middle[story] + spread[story] * rng.standard_normal(n)


# %% [markdown]
# **What to look for:** the dashed line is the mean, the answer of notebook 04. It lies between the heaps, where the truth
# hardly ever is. We want a machine that draws from *both* heaps, each as often as it is true.

# %%
truth, bins = true_residuals(200_000), np.linspace(-0.3, 0.3, 61)
figure, ax = plots.canvas(6, 2.6)
plots.distributions(ax, {"truth": truth}, {"truth": {"color": plots.colour_of("clean")}}, bins=bins, stat="density")
ax.axvline(truth.mean(), color=plots.colour_of("unet"), linestyle="--", label=f"mean {truth.mean():+.3f}")
ax.set(xlabel="Residual z (simulated pixel)", ylabel="Density")
ax.legend(frameon=False, fontsize=9)
near_the_mean = np.mean(abs(truth - truth.mean()) < 0.02)
assert near_the_mean < 0.03, "the mean should lie where the truth is not"
print(f"within 0.02 of the mean: {near_the_mean:.1%} of all true residuals")
figure

# %% [markdown]
# ## Forward: a residual that is forgotten
# Let z decay towards zero in T = 100 small steps, and add a little normal noise (epsilon) at each. The pixel then drifts
# to mu, not to nothing: a *mean-reverting* stochastic differential equation, SDE. After t steps
#
# $$z_t = \alpha_t\, z_0 + \sigma_t\, \varepsilon, \qquad \sigma_t = \lambda \sqrt{1 - \alpha_t^2}$$
#
# Alpha is the share of the residual that is left; it falls from 1 to 0.005. Sigma is the noise that has come in; it
# rises from 0 to lambda = 10/255, four per cent of the grey scale. By hand: rates theta along a cosine, and the time
# step such that alpha ends at 0.005. The core has the same schedule:

# %%
from fairrecon_core.reconstruct.sde import SCHEDULE, walk_back

T, scale = 100, 10 / 255
fall = np.cos((np.arange(T + 3) / (T + 2) + 0.008) / 1.008 * np.pi / 2) ** 2
theta = 1 - fall[1:-1] / fall[0]  # of steps 0 ... T; the first is not walked
dt = -np.log(0.005) / theta[1:].sum()
alpha = np.exp(-dt * np.concatenate([[0], np.cumsum(theta[1:])]))
sigma = scale * np.sqrt(1 - alpha**2)
assert np.allclose(alpha, SCHEDULE.alpha) and np.allclose(sigma, SCHEDULE.sigma)

# %% [markdown]
# Do many small steps really end where the formula says? Walk 20 000 residuals of 0.3 forward.

# %%
z = np.full(20_000, 0.3)
for t in range(1, 61):
    drift = theta[t] * dt
    z = z - drift * z + scale * np.sqrt(2 * drift) * rng.standard_normal(len(z))
print(f"after 60 steps: mean {z.mean():.4f} (formula {0.3 * alpha[60]:.4f}), spread {z.std():.4f} ({sigma[60]:.4f})")
assert abs(z.mean() - 0.3 * alpha[60]) < 0.01 and abs(z.std() / sigma[60] - 1) < 0.04

# %% [markdown]
# **What to look for:** the two heaps move together and blur. At t = 100 they are one heap around zero, and nobody can
# tell any more which story a pixel came from. So the way back may start there *without knowing the clean image*.

# %%
heaps = {f"t = {t}": alpha[t] * truth + sigma[t] * rng.standard_normal(len(truth)) for t in (0, 40, 60, 100)}
lines = [{"color": plots.colour_of("sde"), "linestyle": line} for line in (":", "-.", "--", "-")]
figure, ax = plots.canvas(6, 2.6)
plots.distributions(ax, heaps, dict(zip(heaps, lines)), bins=bins, stat="density")
ax.set(xlabel="Residual z (simulated pixel)", ylabel="Density")
ax.legend(frameon=False, fontsize=9)
figure

# %% [markdown]
# The same on an image, each pixel a residual of its own. At the end it is the degraded image with faint grain, and all
# that it lacked has gone.

# %%
row = last.setup.shared_rows()[0]
clean, name = last.cohort.image(row), last.setup.names_of([row])[0]
mu = last.setup.degradation(clean, last.audit_level, name, seed=settings.seed).numpy()
times = (0, 20, 40, 60, 100)
noised = [mu + alpha[t] * (clean - mu) + sigma[t] * rng.standard_normal(clean.shape) for t in times]
titles = [f"t = {t}, {alpha[t]:.0%} left" if t else "t = 0, clean" for t in times]
plots.image_row([*noised, mu], [*titles, "degraded"], note=plots.origin(last.cohort), height=2.2)

# %% [markdown]
# ## Back, first idea: what to expect
# To walk back one needs one thing only: for a noisy z at time t, the residual that is to be *expected*. For images a
# network will estimate it. For our pixel Bayes' rule gives it exactly: how well does z fit each story, and what is to be
# expected within that story?


# %%
def expected(z, t):
    """Expected residual z_0 for each noisy z at time t, exactly."""
    variance = alpha[t] ** 2 * spread**2 + sigma[t] ** 2
    away = z[:, None] - alpha[t] * middle
    story = chance / np.sqrt(variance) * np.exp(-(away**2) / variance / 2)
    story /= story.sum(axis=1, keepdims=True)
    return (story * (middle + alpha[t] * spread**2 / variance * away)).sum(axis=1)


# %% [markdown]
# **What to look for:** with little noise (t = 20) the expectation is nearly z itself. At t = 60 the curve bends: z still says
# which of the two stories it is, and little else. At t = 100 the curve is flat at the mean: the noisy pixel says nothing.

# %%
figure, ax = plots.canvas(6, 2.8)
grid = np.linspace(-0.2, 0.2, 201)
for t, line in ((20, ":"), (60, "--"), (100, "-")):
    ax.plot(grid, expected(grid, t), line, color=plots.colour_of("sde"), label=f"t = {t}")
ax.axhline(truth.mean(), color=plots.colour_of("unet"), linewidth=0.8)
assert abs(expected(grid, 20) - grid / alpha[20]).max() < 0.03 < 0.2 < np.ptp(expected(grid, 60))
assert np.ptp(expected(grid, 100)) < 0.03, "from pure noise nothing can be told but the mean"
ax.set(xlabel="Noisy residual z (simulated pixel)", ylabel="Expected residual")
ax.legend(frameon=False, fontsize=9)
figure

# %% [markdown]
# ## Back, second idea: the score
# The forward step shrank z and added noise. One step back stretches z again, and would by itself carry the noise along.
# What takes the noise out is a pull towards values that are more frequent at that time. It is called the *score*, and
# follows from the expectation:
#
# $$\mathrm{score} = \frac{\alpha_t\, E(z_0 \mid z) - z}{\sigma_t^2}$$
#
# The published way back (*Euler*) takes all hundred steps: stretch, pull, and a little fresh noise, so that different
# walks end in different places.

# %%
n = 10_000
start, noises = scale * rng.standard_normal(n), rng.standard_normal((T, n))
z = start
for t in range(T, 0, -1):
    drift = theta[t] * dt
    score = (alpha[t] * expected(z, t) - z) / sigma[t] ** 2
    z = z + drift * z + 2 * scale**2 * drift * score + scale * np.sqrt(2 * drift) * noises[T - t]

numbers = iter(noises)
assert np.allclose(z, walk_back(expected, start, lambda: next(numbers), SCHEDULE, "euler"))

# %% [markdown]
# ## How close is it? The Wasserstein distance
# We started from pure noise; did z end as the truth does? Compare two sets of numbers by sorting both and taking the mean
# distance between partners: how far each would have to be carried to turn one set into the other. On three numbers:

# %%
from scipy.stats import wasserstein_distance

some, others = [6, 1, 2], [3, 2, 4]
by_hand = np.mean([abs(1 - 2), abs(2 - 3), abs(6 - 4)])  # sorted: 1 2 6 and 2 3 4
assert np.isclose(by_hand, wasserstein_distance(some, others))
print(f"Euler, 100 calls: {1000 * wasserstein_distance(z, truth):.1f} thousandths of the grey scale from the truth")
print(f"the mean alone: {1000 * wasserstein_distance([truth.mean()], truth):.1f} thousandths")

# %% [markdown]
# ## Ten calls in place of a hundred
# Each step costs a call of the network: 4.5 million for the 45 000 chest films of the paper. But z / lambda is a standard
# diffusion, for which better integrators are known. `ode2` has no noise on its way: it follows an equation that moves the
# heaps in the same way, solves its simple part exactly, and extrapolates the rest from the last two calls.
# **What to look for:** smooth paths where Euler's tremble, and the same two heaps at the end.


# %%
def recorded(sampler, n_steps, n=60):
    """The way back of `n` residuals: times, and z at each of them."""
    trail = []

    def watched(z, t):
        trail.append((t, z))
        return expected(z, t)

    end = walk_back(watched, start[:n], lambda: rng.standard_normal(n), SCHEDULE, sampler, n_steps)
    return [t for t, _ in trail] + [0], np.array([z for _, z in trail] + [end])


figure, axes = plots.canvas(10, 3.2, 1, 3, sharey=True)
ends = {"truth": truth}
for ax, (sampler, calls) in zip(axes, (("euler", 100), ("ode2", 10))):
    ax.plot(*recorded(sampler, calls), color=plots.colour_of("sde"), linewidth=0.6, alpha=0.5)
    ax.invert_xaxis()
    ax.set(xlabel="t", title=f"{sampler}, {calls} calls")
    drawn_noise = lambda: rng.standard_normal(n)
    ends[f"{sampler}, {calls}"] = walk_back(expected, start, drawn_noise, SCHEDULE, sampler, calls)
looks = [{"color": plots.colour_of("clean")}, *({"color": plots.colour_of("sde"), "linestyle": line} for line in ":-")]
plots.distributions(axes[2], ends, dict(zip(ends, looks)), bins=bins, stat="density", y=True)
axes[2].axhline(truth.mean(), color=plots.colour_of("unet"), linestyle="--", label="the mean")
axes[2].set(xlabel="Density", title="where they end", xlim=(0, 13))
axes[2].legend(frameon=False, fontsize=9, loc="upper right")
axes[0].set_ylabel("Residual z (simulated pixel)")
run.figure(figure, "06_toy")

# %% [markdown]
# The core has two more. `posterior` takes the expectation for the truth at each step, which with few steps spreads the
# samples too little. `sde2` is `ode2` with fresh noise. Distance to the truth, x 1000 (samples of this size cannot do
# better than about 1), by the number of calls:


# %%
def distance(denoise, sampler, n_steps, n=20_000):
    """Wasserstein distance x 1000 between the sampler's end points and the truth."""
    z = walk_back(denoise, scale * rng.standard_normal(n), lambda: rng.standard_normal(n), SCHEDULE, sampler, n_steps)
    return 1000 * wasserstein_distance(z, truth)


calls = (100, 20, 10, 5)
table = {
    s: {c: distance(expected, s, c) for c in calls if s != "euler" or c == 100}
    for s in ("euler", "posterior", "ode2", "sde2")
}
assert table["ode2"][10] < table["euler"][100] + 3 and table["posterior"][10] > 3 * table["ode2"][10]
pd.DataFrame(table).rename_axis("calls").round(1)

# %% [markdown]
# ## Aside: what the published loss teaches
# You may skip this at first reading; nothing below needs it. Our network learns the noise by squared error; its optimum is the expected residual, as above. The published loss
# compares the *Euler step* with the exact one instead. Its best noise is therefore not the true one: it makes up for
# Euler's error. Put both steps equal, and solve for the noise that the network has to answer:

# %%
t = 70
z_0 = true_residuals(1000)
noise = rng.standard_normal(1000)
z_t = alpha[t] * z_0 + sigma[t] * noise
on_z, on_z_0, _ = SCHEDULE.posterior(t, t - 1)  # the exact step, given z_0
exact_step, drift = on_z * z_t + on_z_0 * z_0, theta[t] * dt
answer = (z_t + drift * z_t - exact_step) * sigma[t] / (2 * scale**2 * drift)

a, b, _ = SCHEDULE.published_epsilon(t)
assert np.allclose(answer, a * noise + b * z_t / sigma[t])
print(f"at t = {t} it learns {a:.4f} x the noise {b:+.4f} x z / sigma")

# %% [markdown]
# A few per cent, but always in the same direction. With Euler they cancel its error. With a fast sampler, which has no
# such error, they are a bias. Since a and b are known, they can be taken out again, so networks with published weights
# can be sampled fast as well:

# %%
from fairrecon_core.reconstruct.sde import true_epsilon


def learned(z, t, corrected):
    """What the published loss makes of the exact denoiser, with or without the correction."""
    a, b, _ = SCHEDULE.published_epsilon(t)
    answer = a * (z - alpha[t] * expected(z, t)) / sigma[t] + b * z / sigma[t]
    answer = true_epsilon(answer, z, t, SCHEDULE) if corrected else answer
    return (z - sigma[t] * answer) / alpha[t]


table = {
    "published, as it is": lambda z, t: learned(z, t, corrected=False),
    "published, corrected": lambda z, t: learned(z, t, corrected=True),
    "unbiased": expected,
}
table = pd.DataFrame({key: {c: distance(denoise, "ode2", c) for c in (20, 10)} for key, denoise in table.items()})
assert (table["published, as it is"] > 1.5 * table["published, corrected"]).all()
table.rename_axis("calls of ode2").round(1)

# %% [markdown]
# (The published loss is also an absolute error, whose optimum is a median; that cannot be taken out.)
#
# ## One sample, and the mean of many
# One draw cannot be as near to the truth as the mean is. Notebook 07 shows why: one sample of a perfect sampler has
# *twice* the squared error of the best guess, the mean of m samples 1 + 1/m times. Is ours perfect, if the expectation
# is? A second small problem, with a measurement: x is normal around 0.5 with spread 0.2, mu is x plus noise of 0.1.

# %%
x = 0.5 + 0.2 * rng.standard_normal(20_000)
measured = x + 0.1 * rng.standard_normal(len(x))
best, open_ = 0.5 + 0.8 * (measured - 0.5), 0.2**2 * 0.1**2 / (0.2**2 + 0.1**2)  # mean and variance given mu


def denoise(z, t):
    """Expected residual given z and the measurement, exactly."""
    ahead = alpha[t] * open_ / (alpha[t] ** 2 * open_ + sigma[t] ** 2)
    return best - measured + ahead * (z - alpha[t] * (best - measured))


draw = lambda: measured + walk_back(denoise, scale * rng.standard_normal(len(x)), None, SCHEDULE, "ode2", 20)
samples = np.stack([draw() for _ in range(8)])
excess = {m: ((samples[:m].mean(axis=0) - x) ** 2).mean() / open_ for m in (1, 2, 4, 8)}
assert np.allclose(list(excess.values()), [1 + 1 / m for m in excess], rtol=0.04)
pd.DataFrame(
    {
        "found": excess,
        "1 + 1/m": {m: 1 + 1 / m for m in excess},
        "dB lost": {m: 10 * np.log10(v) for m, v in excess.items()},
    }
).round(3)

# %% [markdown]
# Three decibels lost, and nothing is wrong with the sampler. Keep it in mind for the comparison with U-Net below.
#
# ## The network
# It sees z, mu and the level, and is told t; a U-Net again. What samples is a running mean of its weights over
# training (the published code keeps such a mean too, and then samples with the other weights).

# %%
for steps in every.values():
    steps.weights.make_all("sde")  # shipped, or trained here
pd.set_option("display.max_colwidth", 90)
card_facts(every, "sde")

# %% [markdown]
# What the weights reached on test images when they were made, with their own number of images (nothing, if they were
# trained in this run):

# %%
card_figures(every, "sde")

# %%
losses = {f"{name_}, {plots.origin(steps.cohort)}": steps.weights.losses("sde") for name_, steps in every.items()}
run.figure(plots.training_curves(losses, "sde", "Loss (about 1 at the start)"), "06_training")

# %% [markdown]
# The loss does not go to zero, and should not: what the measurement leaves open cannot be predicted, however long one
# trains.
#
# ## Watch an image appear
# The same walk, now on an image and with the network. At every call we note the noisy image and the network's current
# expectation.

# %%
from fairrecon_core.degrade import noise_generator


@torch.inference_mode()
def watch(steps, row, sampler, n_steps, sample=0):
    """Way back for one test image: the end, and a list of (t, noisy image, expected image)."""
    network, level, name = steps.weights.load("sde"), steps.audit_level, steps.setup.names_of([row])[0]
    mu = steps.setup.degradation(steps.cohort.image(row), level, name, seed=settings.seed)[None, None].to(
        network.device
    )
    generator = noise_generator(settings.seed, name, level, sample, stream="sde")
    noise, trail = lambda: torch.randn(mu.shape, generator=generator).to(network.device), []

    def denoise(z, t):
        z_0 = network.denoise(z, t, mu, level)
        trail.append((t, (mu + z)[0, 0].cpu().numpy(), (mu + z_0)[0, 0].cpu().numpy()))
        return z_0

    z = walk_back(denoise, network.schedule.scale * noise(), noise, network.schedule, sampler, n_steps)
    return (mu + z)[0, 0].clamp(0, 1).cpu().numpy(), trail


network = last.weights.load("sde")
end, _ = watch(last, row, network.sampler, network.n_steps)
assert np.allclose(end, network(mu, last.audit_level, image_ids=name, seed=settings.seed), atol=1e-5)

# %%
walks = {key: watch(steps, steps.setup.shared_rows()[0], "ode2", 10) for key, steps in every.items()}


def show_step(cohort=last.name, call=1):
    """One call of the way back: noisy image, expected image, and the clean one."""
    steps = every[cohort]
    end, trail = walks[cohort]
    t, noisy, guess = trail[call - 1]
    clean = steps.cohort.image(steps.setup.shared_rows()[0])
    titles = [
        f"noisy, t = {t}",
        f"expected, {psnr_db(guess.clip(0, 1), clean):.1f} dB",
        f"the end, {psnr_db(end, clean):.1f} dB",
        "clean",
    ]
    return plots.image_row([noisy, guess, end, clean], titles, note=plots.origin(steps.cohort), height=2.4)


run.figure(show_step(last.name, 1), "06_first_call")

# %% tags=["widget"]
from fairrecon_lab.widgets import slider_image

slider_image(show_step, cohort=tuple(every), call=list(range(1, 11)), start={"cohort": last.name})

# %% [markdown]
# **What to look for:** the very first expectation is smooth: from pure noise the best guess is the mean, what a U-Net
# would draw. Step by step it commits itself to one version and sharpens. Its PSNR is best at the *beginning*, when it
# has not yet committed itself.
#
# ## Ten calls or a hundred
# The published sampler and ours, the same weights. Here on one image each; `benchmarks/sde.py` measures it on 64. The
# setting `sde_steps` chooses the calls of this run.

# %%
lines = []
for key, steps in every.items():
    for row_ in steps.setup.shared_rows()[:1]:
        clean_ = steps.cohort.image(row_)
        for sampler, calls in dict.fromkeys((("euler", 100), ("ode2", 10), ("ode2", settings.sde_steps or 10))):
            began = time.process_time()
            end, _ = watch(steps, row_, sampler, calls)
            cost = time.process_time() - began
            lines.append(
                [
                    key,
                    f"{sampler}, {calls} calls",
                    psnr_db(end, clean_),
                    lpips_distances(end[None], clean_[None])[0],
                    cost,
                ]
            )
table = pd.DataFrame(lines, columns=["cohort", "sampler", "PSNR (dB)", "LPIPS", "CPU seconds"])
table.groupby(["cohort", "sampler"]).mean().round(3)

# %% [markdown]
# ## Several samples of one patient
# Eight ways back from eight different noises. **What to look for:** where the *spread* is bright, the samples
# disagree: that is where the measurement left the answer open, and where the mean is blurred. Compare it with the
# actual error beside it.


# %%
def eight(steps):
    """Eight samples of one test image, in one call: (8, H, W)."""
    row, level = steps.setup.shared_rows()[0], steps.audit_level
    image, name = steps.cohort.image(row), steps.setup.names_of([row])[0]
    degraded = steps.setup.degradation(image[None], level, [name], seed=settings.seed)
    return image, steps.weights.load("sde").samples(degraded, level, 8, image_ids=[name], seed=settings.seed)[
        :, 0
    ].numpy()


drawn = {key: eight(steps) for key, steps in every.items()}


def show_samples(cohort):
    """Clean, two samples, the mean of eight, their spread, and the error of the mean."""
    image, samples = drawn[cohort]
    mean, spread, error = samples.mean(0), samples.std(0, ddof=1), abs(samples.mean(0) - image)
    top = float(np.quantile(error, 0.995))
    figure, axes = plots.canvas(8.4, 6, 2, 3)
    axes = axes.ravel()
    pictures = [image, samples[0], samples[1], mean]
    titles = [
        "clean",
        *(f"{k}, {psnr_db(x, image):.1f} dB" for k, x in zip(("a sample", "another", "mean of 8"), pictures[1:])),
    ]
    for ax, picture, title in zip(axes, pictures, titles):
        plots.draw_image(ax, picture, title)
    plots.draw_image(axes[4], spread, f"spread (0 to {top:.2g})", limits=(0, top), cmap="magma")
    plots.draw_image(axes[5], error, f"error of the mean (0 to {top:.2g})", limits=(0, top), cmap="magma")
    figure.supxlabel(plots.origin(every[cohort].setup.cohort), x=0.01, ha="left", fontsize=8)
    return figure


run.figure(show_samples(first.name), f"06_samples_{first.name}")

# %%
run.figure(show_samples(last.name), f"06_samples_{last.name}")

# %% [markdown]
# Is the spread honest? For a perfect sampler the mean of m samples errs, on average, by the spread squared times (1 +
# 1/m). The last column is the actual error over that one: 1 is honest, above 1 the network is surer than it should be.
# One image, so take it as a hint.

# %%
lines = {}
for key, (image, samples) in drawn.items():
    gain = {
        f"mean of {m}": np.mean([psnr_db(s.mean(0), image) for s in samples.reshape(-1, m, *image.shape)])
        for m in (1, 2, 4, 8)
    }
    honest = ((samples.mean(0) - image) ** 2).mean() / (samples.var(0, ddof=1).mean() * (1 + 1 / 8))
    lines[key] = {f"{k} (dB)": round(v, 2) for k, v in gain.items()} | {"error / spread": round(honest, 2)}
    assert ((samples.mean(0) - image) ** 2).mean() <= ((samples - image) ** 2).mean(), (
        "averaging never costs on average"
    )
pd.DataFrame(lines).T

# %% [markdown]
# The number of calls decides this too, and here is a trap. Over 16 validation images of each cohort, and over 64 for
# the PSNR of a single sample (`benchmarks/sde_calls.py`):
#
# | calls | brain: PSNR | brain: error / spread | chest: PSNR | chest: error / spread |
# |---|---|---|---|---|
# | 5 | 27.0 dB | 1.69 | 31.1 dB | 1.29 |
# | 8 | 26.6 dB | 1.36 | 30.4 dB | 0.96 |
# | 10 | 26.5 dB | 1.30 | 30.4 dB | 0.93 |
# | 20 | 26.4 dB | 1.28 | 30.2 dB | 0.87 |
#
# Fewer calls look *better*: long steps stay near the mean, and PSNR rewards the mean. But the samples then differ too
# little from each other, and their spread promises more than they keep. A leaderboard by PSNR would choose five. We
# chose eight, on validation images: almost as honest as twenty, LPIPS no worse, and a fifth cheaper than ten.
#
# ## All test images
# One sample each, as in the paper; the settings `samples` and `sde_steps` say how many, and with how many calls. This
# takes most of this notebook's time.

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
for name_, table in psnr.items():
    table = table[table["level"] == every[name_].setup.audit_level]
    best = table[FILTERS or ["degraded"]].mean().idxmax()
    for base in dict.fromkeys(["degraded", best, *(arm for arm in ("unet", "pix2pix") if arm in ARMS)]):
        lines.append(
            [name_, base, difference(table["sde"], table[base], table["patient_id"]), table["patient_id"].nunique()]
        )
pd.DataFrame(lines, columns=["cohort", "SDE minus", "dB at the audited level [95 %]", "patients"]).set_index("cohort")

# %% [markdown]
# And LPIPS. **What to look for:** a sample gets its grain back, which LPIPS rewards where the clean image has grain;
# where it has little, a sample's own grain counts against it.

# %%
lines = []
for key, steps in every.items():
    shown = [arm for arm in ARMS if arm not in FILTERS]
    far = compared(steps, shown, "lpips").query("level == @steps.audit_level")
    means = {arm: f"{far[arm].mean():.3f}" for arm in shown}
    apart = {f"sde minus {arm}": difference(far["sde"], far[arm], far["patient_id"]) for arm in shown[:-1]}
    lines.append({"cohort": key, "n": len(far)} | means | apart)
pd.DataFrame(lines).set_index("cohort")


# %%
def show_arms(cohort):
    """One test image in all arms that are not filters, with error maps."""
    steps, found = every[cohort], {}
    row = steps.setup.shared_rows()[0]
    shown = ["clean", *(arm for arm in ARMS if arm not in FILTERS)]
    for arm in shown:
        images, rows = steps.images.get(arm, steps.audit_level)
        found[arm] = as_float(images[np.searchsorted(rows, row)])
    titles = [f"{arm}, {steps.audit_level:,.0f}\n{psnr_db(found[arm], found['clean']):.1f} dB" for arm in shown[1:]]
    return plots.error_row(found["clean"], [found[arm] for arm in shown[1:]], titles, note=plots.origin(steps.cohort))


run.figure(show_arms(first.name), f"06_arms_{first.name}")

# %%
run.figure(show_arms(last.name), f"06_arms_{last.name}")

# %% [markdown]
# **What to look for:** does the sample have the grain of the clean image, and more red and blue in its error map than the
# U-Net? Such grain is right in kind, not in every place.
#
# ## As published: stretched to [0, 1]
# Before the paper measures or reads an image of its diffusion model, it stretches each to [0, 1] by its own darkest
# and brightest pixel. The images of the other two networks are left as they are. What does that alone do to the PSNR?

# %%
for key, steps in every.items():
    images, rows = steps.images.get("sde", steps.audit_level)
    images = as_float(images)
    low, high = images.min(axis=(1, 2), keepdims=True), images.max(axis=(1, 2), keepdims=True)
    stretched = (images - low) / np.maximum(high - low, 1e-6)
    plain = psnr[key].query("level == @steps.audit_level").set_index("image_id").loc[steps.setup.names_of(rows)]
    after = np.array([psnr_db(x, steps.cohort.image(r)) for x, r in zip(stretched, rows)])
    print(f"{key}: stretching changes the PSNR by {difference(after, plain['sde'], plain['patient_id'])} dB")

# %% [markdown]
# ## The same network on people it never met
# A sampler draws what images of its training patients look like. So what does the shipped SDE, which learned on simulated
# patients, make of *real* ones? Gain in PSNR over the degraded image (dB, 95 % interval by patient), beside the U-Net:
# where it is near or below zero, the detail that it drew was not that patient's.

# %%
from fairrecon_lab.analysis.real import kept_results

zero_shot = kept_results("zero_shot")
zero_shot[zero_shot["arm"].isin(["unet", "sde"])][["profile", "arm", "value", "low", "high", "patients"]].round(2)

# %% [markdown]
# ## Check your understanding
# **1.** How many samples must be averaged to come within 0.1 dB of the best possible PSNR, if the sampler is perfect?
# Guess, then solve.

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
m = np.arange(1, 200)
needed = int(m[10 * np.log10(1 + 1 / m) < 0.1][0])
print(f"{needed} samples, {10 * needed} network calls with ode2: cheaper to train a network with squared error")
assert needed == 43

# %% [markdown]
# **2.** Take seven times as much noise (lambda = 70/255, as some diffusion models do). Do ten calls of `ode2` still
# suffice in the one-pixel problem? `Schedule(scale=70 / 255)` of the core makes such a schedule; its `alpha` and `sigma`
# have to take the place of ours, because `expected` reads these. Then walk back as above, with
# `walk_back(expected, start, None, schedule, "ode2", 10)`, and take the distance to `truth`.

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
from fairrecon_core.reconstruct.sde import Schedule

far = {}
for noise_scale in (10, 70):
    schedule = Schedule(scale=noise_scale / 255)
    alpha, sigma = schedule.alpha, schedule.sigma  # `expected` reads these
    ends = walk_back(expected, schedule.scale * rng.standard_normal(40_000), None, schedule, "ode2", 10)
    far[noise_scale] = 1000 * wasserstein_distance(ends, truth)
alpha, sigma = SCHEDULE.alpha, SCHEDULE.sigma
print({f"{key}/255": f"{value:.1f}" for key, value in far.items()})
assert far[70] > 2 * far[10]

# %% [markdown]
# <details><summary>Why would one choose little noise, and what would one lose?</summary>
#
# With little noise the walk is short: it starts near the end, so few calls are enough. But noise is also what makes the
# start forget: with too little of it, what is left of the residual at t = 100 is no longer small beside the noise, and the
# walk starts at a place that depends on the clean image, which nobody has. And a network that saw only faint noise has
# little to correct its own errors with on the way.
#
# </details>

# %% [markdown]
# **3.** `ode2` adds no noise on its way. Where does the difference between its samples come from, and what happens
# from a start of zero?

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
zeros = walk_back(expected, np.zeros(5), None, SCHEDULE, "ode2", 10)
print(f"five starts at zero end at {zeros.round(3)}: all of the chance is in the start")
assert np.ptp(zeros) == 0

# %% [markdown]
# <details><summary><b>4.</b> Which image should a reader get: one sample, or the mean of many? And which should be audited?</summary>
#
# The mean has the higher PSNR and is what a U-Net gives in one call. A sample keeps texture that a reader may rely on,
# and may show a lesion in one draw and not in the next. An audit of one sample per patient answers for one draw;
# whether a decision changes from draw to draw is itself worth an audit, by subgroup. Set `samples` above 1 and
# notebooks 07 to 10 treat each draw as a row of its own.
#
# </details>
#
# **Against Sec. 3.2.** Same: T = 100, lambda = 10/255, cosine rates, alpha ending at .005, a U-Net on residual and
# degraded image. Different: squared error of the noise in place of the L1 of a step, so that any sampler may be used;
# `ode2` with few calls in place of Euler with 100 (`sampler: euler` brings it back); averaged weights at inference;
# noise that belongs to seed and image, where the released code draws unseeded; no stretching; one network for all
# levels, narrower than the paper's. Unless you run a real profile, images and training patients are simulated, from
# one simulator.
# ## Takeaways
# - The residual decays and noise grows; after 100 steps the degraded image with faint grain is left, the same start
#   for all.
# - With the exact expectation the way back finds both stories, in their true proportion, where the mean finds neither.
# - A second-order integrator without noise does in 10 calls what Euler does in 100.
# - The published loss teaches a noise that makes up for Euler's error; the correction is known in closed form.
# - Early in the walk the expectation is the blurred mean; then it commits itself to one version.
# - One sample of a perfect sampler costs 3.01 dB against the mean (why: notebook 07); the spread shows what the measurement left open.
