# %% [markdown]
# # 12. Your turn: a new reconstructor, a new cohort
# - **You will** add a reconstructor of your own in fifteen lines and see it beside the others; add a cohort in twenty and train a reader on
#   it; audit both without touching the core
# - **Time** 40 s, **memory** 1250 MB (tutorial); **needs** 01; **makes** an arm `linear` and a cohort `phantoms`
# - **In the paper** -
#
# Everything so far went through three doors: a *reconstructor* turns a degraded image into a better one, a *cohort* is images with one
# table row each, and an *audit* compares arms on the same patients. All three are open. This notebook goes through each of them once
# with something new. Replace the new thing by yours and run it again.

# %% tags=["parameters"]
profile = "tutorial"  # smoke | tutorial | lgg | covid_cxr | nih | paper
overrides = {}  # for example {"seed": 1}

# %%
import dataclasses

import numpy as np
import pandas as pd
import torch

from fairrecon_lab import plots
from fairrecon_core.cohort.pixels import as_float
from fairrecon_core.steps.pipeline import open_cohort
from fairrecon_core.steps.folder import Run, begin

settings, run = begin(profile, overrides, needs=["cohort"])
steps = open_cohort(run, settings.cohorts[-1])
origin = "simulated" if "simulator_version" in steps.cohort.info else f"real: {steps.name}"

# %% [markdown]
# ## A reconstructor by hand
# The simplest thing that learns: every pixel of the result is a weighted sum of the 5 x 5 degraded pixels around it. The 25 weights are
# those with the least squared error on clean images that we degrade ourselves. First by hand, on one image:

# %%
import torch.nn.functional as F

row = int(steps.setup.rows(steps.audit_level)[0])
clean = torch.from_numpy(steps.cohort.image(row))
degraded = steps.setup.degradation(clean, steps.audit_level, steps.setup.names_of([row])[0], seed=settings.seed)
neighbours = F.unfold(degraded[None, None], 5, padding=2)[0]  # (25, pixels)
weights = torch.linalg.lstsq(neighbours.T, clean.reshape(-1, 1)).solution[:, 0]
by_hand = (weights @ neighbours).reshape(clean.shape)

error = lambda image: float(((image - clean) ** 2).mean())
assert error(by_hand) < error(degraded), "leaving the image alone is one of the choices, so the best cannot be worse"

# %% [markdown]
# That was learned and judged on the same image, which is cheating. As a class it learns from other patients. A reconstructor needs a
# `name`, perhaps a `fit`, and `restore`; the base class checks what comes in and clips what goes out. `@register` makes it known.

# %%
from fairrecon_core.reconstruct import Reconstructor, register


@register
class Linear(Reconstructor):
    """The 5 x 5 linear filter with the least squared error, one per level."""

    name = "linear"

    def fit(self, train, validation, degradation, levels, *, seed=0, **options):
        """Learn the 25 weights of every level from up to 24 clean images."""
        self.weights, images = {}, train if len(train) else validation
        clean, names = images.at(range(min(24, len(images))))
        for level in levels:
            seen = F.unfold(degradation(clean, level, names, seed=seed)[:, None], 5, padding=2)
            seen = seen.transpose(1, 2).reshape(-1, 25)
            self.weights[level] = torch.linalg.lstsq(seen, clean.reshape(-1, 1)).solution[:, 0]

    def restore(self, degraded, level, image_ids, seed, sample, measurement):
        """Weighted sums of neighbours, (B, H, W) to (B, H, W)."""
        return (self.weights[level] @ F.unfold(degraded[:, None], 5, padding=2)).view_as(degraded)


# %% [markdown]
# That is all. The steps of notebooks 04 to 08 now fit it, keep its images, measure and read them, as they do for the others.
# If you edit the class and run the cells again, everything that came from it is made again, and a line says so.
# **What to look for:** noise is gone, and so are the finest edges. A linear filter cannot tell them apart.

# %%
level = steps.audit_level
arms = ["degraded", "tv", "linear", *[arm for arm in settings.arms if arm == "unet"]]
quality = steps.quality.measure(*(arm for arm in arms if not (steps.setup.is_excerpt and arm == "linear")))
quality[quality["level"] == level].groupby("arm", sort=False)[["psnr_db", "ssim", "lpips"]].mean().round(3)


# %%
def compare(arm="linear", nth=0):
    """Clean, degraded and one arm's image of the nth test patient, with errors on one scale."""
    rows = steps.setup.rows(level)
    truth = steps.cohort.image(int(rows[nth]))
    images = [as_float(steps.images.get(name, level)[0][nth]) for name in ("degraded", arm)]
    return plots.error_row(truth, images, ["degraded", arm], note=origin)


compare("linear", 0)

# %% tags=["widget"]
from fairrecon_lab.widgets import slider_image

slider_image(compare, arm=tuple(arms[1:]), nth=list(range(min(8, len(steps.setup.rows(level))))))

# %% [markdown]
# ## Audited like everybody else
# The frozen readers of notebook 08 read the new arm, and the audit asks of each finding whether the gap between the sexes changed.

# %%
from fairrecon_core.audit import audit_change, summary

scores = pd.concat([steps.readings.read(arm)["predictions"] for arm in ("clean", "degraded")])
if not steps.setup.is_excerpt:
    scores = pd.concat([scores, steps.readings.read("linear")["predictions"]])
scores = scores[scores["arm"].eq("clean") | scores["level"].eq(level)]
table = audit_change(
    scores, steps.cohort.table, "sex", reference="male", metrics=["rates"], n_boot=min(settings.n_boot, 2000),
    min_support=settings.min_support, margin=settings.margin, seed=settings.seed,
)  # fmt: skip
print(summary(table, max_rows=4))

# %% [markdown]
# ## A cohort of your own
# A cohort is whatever yields `(image, row)`, or `(image, row, mask)`. Here are phantoms: discs of random size, half of them with a small
# bright spot. In the `old` the spot is smaller. Nothing else differs between anybody, so whatever the audit finds about age comes
# from what degradation and filtering do to small spots.

# %%
N, SIDE = (600, 32) if profile != "smoke" else (200, 32)


def phantoms(seed=0):
    """Yield images with the table row that describes each."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    for n in range(N):
        old, spot = rng.random() < 0.5, rng.random() < 0.5
        radius, (cy, cx) = rng.uniform(9, 13), rng.integers(12, 20, 2)
        image = 0.4 * ((y - 16) ** 2 + (x - 16) ** 2 < radius**2) + rng.normal(0, 0.02, (SIDE, SIDE))
        image += 0.45 * spot * ((np.abs(y - cy) < (1 if old else 2)) & (np.abs(x - cx) < (1 if old else 2)))
        yield image.clip(0, 1), {
            "image_id": f"phantom-{n:04d}", "patient_id": f"p{n:04d}", "modality": "mri", "sex": "unknown",
            "age_years": 75.0 if old else 35.0, "race": "unknown", "y_spot": float(spot),
        }  # fmt: skip


# %% [markdown]
# `write_cohort` splits by patient, checks every row and writes the files. A run of its own gets the settings it needs: `train: true`
# trains a small reader, here in seconds, on what the core has never seen.

# %%
from fairrecon_core.cohort.folder import write_cohort

mine = dataclasses.replace(
    settings, cohorts=("phantoms",), cohort_folder="", train=True, n_folds=1, image_size=SIDE, mri_levels=(4.0,), tasks=(),
    mri_audit_level=4.0, mri_mode="physical", reader_epochs=8, precision="auto", arms=("linear",), classical=("degraded", "tv"),
)  # fmt: skip
own = Run(run.folder / "your_turn", mine, within=run.folder)
write_cohort(
    own.folder / "cohorts" / "phantoms", phantoms(), name="phantoms", seed=1, split=(0.4, 0.15, 0.45), age_cut_years=50
)
own_steps = open_cohort(own, "phantoms")
own_steps.readings.weights.make_all()
own_steps.cohort.describe()

# %%
from fairrecon_lab.plots import image_row

young, old = (
    own_steps.cohort.table.query("age_group == @group and y_spot == 1").row.iloc[0] for group in ("young", "old")
)
shown = [own_steps.cohort.image(int(row)) for row in (young, old)]
ids = own_steps.setup.names_of([young, old])
reduced = own_steps.setup.degradation(np.stack(shown), 4.0, ids)
image_row(
    [shown[0], reduced[0], shown[1], reduced[1]],
    ["young, clean", "R = 4", "old, clean", "R = 4"],
    note="simulated phantoms",
)

# %% [markdown]
# ## Audit it
# **What to look for:** the reader finds small and large spots on clean images. After undersampling the small ones drown first, so the TPR
# of the old falls further, and the audit says by how much.

# %%
readings = pd.concat([own_steps.readings.read(arm)["predictions"] for arm in ("clean", "degraded", "tv", "linear")])
audit = audit_change(
    readings,
    own_steps.cohort.table,
    "age_group",
    reference="young",
    metrics=["rates"],
    n_boot=2000,
    min_support=5,
    seed=1,
)
signed = audit.query("metric == 'tpr' and subgroup == 'old' and reference == 'young'")
signed[["arm", "baseline", "value", "delta", "delta_ci_low", "delta_ci_high", "verdict"]].round(3)

# %%
figure, ax = plots.canvas(7, 2.2)
plots.forest(ax, [f"{r.arm} (n = {r.smallest_group})" for r in signed.itertuples()], signed["delta"].to_numpy(),
             signed["delta_ci_low"].to_numpy(), signed["delta_ci_high"].to_numpy(), verdicts=list(signed["verdict"]))  # fmt: skip
ax.set_xlabel("Change of the TPR gap, old - young, against clean (simulated phantoms)", fontsize=9)
run.figure(figure, "12_phantoms")

# %% [markdown]
# ## Check your understanding
# **1.** What does the registry do with a second class of the name `unet`? Predict, then run.

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
try:
    register(type("Mine", (Reconstructor,), {"name": "unet"}))
    message = ""
except ValueError as problem:
    message = str(problem)
print(message)
assert "built in" in message, "names of built-in arms cannot be taken"

# %% [markdown]
# **2.** Write a reconstructor that returns the mean of the degraded image and the linear one. Does its squared error lie between theirs?

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
linear = own_steps.weights.load("linear")


class Halfway(Reconstructor):
    """The mean of two images."""

    name = "halfway"

    def restore(self, degraded, level, image_ids, seed, sample, measurement):
        return (degraded + linear(degraded, level, image_ids=image_ids)) / 2


truth = torch.from_numpy(np.stack(shown))
distance = lambda images: float(((images - truth) ** 2).mean())
ends = [distance(reduced), distance(linear(reduced, 4.0, image_ids=ids))]
middle = distance(Halfway("mri")(reduced, 4.0, image_ids=ids))
print([round(value, 5) for value in ends], round(middle, 5))
assert middle <= max(ends) + 1e-9, "squared error is convex: never worse than the worse, often better than both"

# %% [markdown]
# **3.** A row without `patient_id`, or with a race outside the vocabulary: what does `write_cohort` do with it, and why not guess?

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
image, row = next(phantoms())
refusals = []
for wrong in ({k: v for k, v in row.items() if k != "patient_id"}, row | {"race": "martian"}):
    try:
        write_cohort(own.folder / "cohorts" / "refused", [(image, wrong)], name="refused", seed=1)
    except (ValueError, KeyError) as problem:
        refusals.append(str(problem))
print("\n".join(refusals))
assert len(refusals) == 2, "a guessed group would end up in an audit"

# %% [markdown]
# ## Takeaways
# - a class with a name, a `fit` and a `restore` is an arm: measured, read and audited with the rest
# - a generator of images and rows is a cohort; a reader for it trains in seconds and is then frozen
# - the audit needed no change for either, and found the harm to the small spots that we built in
