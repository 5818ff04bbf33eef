# %% [markdown]
# # 13. Your turn: a new reconstructor, a new cohort
# - **You will** add a reconstructor of your own in fifteen lines and see it beside the others; add a cohort in twenty and train a reader on
#   it; audit both without touching the core
# - **Time** 40 s to run, about 35 min to work through, **memory** 1250 MB (tutorial); **needs** 01; **makes** an arm `linear` and a cohort `phantoms`
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

from fairrecon_core.steps.folder import Run, begin
from fairrecon_core.steps.pipeline import open_cohort
from fairrecon_lab import plots

settings, run = begin(profile, overrides, needs=["cohort"])
steps = open_cohort(run, settings.cohorts[-1])
level = steps.audit_level

# %% [markdown]
# ## A reconstructor by hand
# The simplest thing that learns: every pixel of the result is a weighted sum of the 5 x 5 degraded pixels around it. The 25 weights are
# those with the least squared error on clean images that we degrade ourselves. `unfold` writes the neighbours of each pixel into a column,
# and least squares finds the weights. First by hand, on one image:

# %%
import torch.nn.functional as F

row = int(steps.setup.shared_rows()[0])
clean, name = torch.from_numpy(steps.cohort.image(row)), steps.setup.names_of([row])[0]
degraded = steps.setup.degradation(clean, level, name, seed=settings.seed)
neighbours = F.unfold(degraded[None, None], 5, padding=2)[0]  # (25, pixels)
weights = torch.linalg.lstsq(neighbours.T, clean.reshape(-1, 1)).solution[:, 0]
by_hand = (weights @ neighbours).reshape(clean.shape)
assert ((by_hand - clean) ** 2).mean() < ((degraded - clean) ** 2).mean(), "leaving it alone is one of the choices"

# %% [markdown]
# That was learned and judged on the same image, which is cheating. As a class it learns from other patients. A reconstructor needs a
# `name`, perhaps a `fit`, and `restore`; the base class checks what comes in and clips what goes out. `@register` makes it known. Whatever
# else there is to know of an arm stands on its class too: `stochastic = True` if it draws samples, `colour` and `marker` for its look in
# figures. Here is all of it:

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
            seen = seen.transpose(1, 2).reshape(-1, 25)  # (images x pixels, 25)
            self.weights[level] = torch.linalg.lstsq(seen, clean.reshape(-1, 1)).solution[:, 0]

    def restore(self, degraded, level, image_ids, seed, sample, measurement):
        """Weighted sums of neighbours, (B, H, W) to (B, H, W)."""
        return (self.weights[level] @ F.unfold(degraded[:, None], 5, padding=2)).view_as(degraded)


# %% [markdown]
# The class and the lines by hand must agree: learned from the one image above, it restores that image as we did. Do this with yours, too:
# a reconstructor that is right on one image that you can follow by hand is the best start for one that is trained on thousands.
#
# A network is a class as well. It derives from `NetworkReconstructor`, says what its modules and its loss are, and the training loop, the
# weights on disk and the resuming after a stop come with it; `fairrecon_core/reconstruct/unet.py` is the shortest example.

# %%
from fairrecon_core.learn.loop import Images

alone = Images(clean[None].numpy(), ["one"])
mine = Linear(steps.cohort.modality)
mine.fit(alone, alone, lambda images, *_, **__: degraded[None], [level])
assert torch.allclose(mine(degraded, level, image_ids="one"), by_hand.clamp(0, 1), atol=1e-4)

# %% [markdown]
# That is all. The steps of notebooks 04 to 08 now fit it, keep its images, measure and read them, as they do for the others. Every image,
# figure and score carries a stamp of what it was made from, your class among it: **edit the class, run the cells again**, and everything
# that came from it is made anew, with one line that says why. A change of its colour or of a comment makes nothing anew.
#
# The shipped example, if that is all there is, has too few images to read a new arm; then `linear` waits for your own run of notebook 01.

# %%
new = [] if steps.setup.is_excerpt else ["linear"]
arms = ["degraded", "tv", *new, *[arm for arm in settings.arms if arm == "unet"]]
quality = steps.quality.measure(*arms)
quality[quality["level"] == level].groupby("arm", sort=False)[["psnr_db", "ssim", "lpips"]].mean().round(3)

# %% [markdown]
# **What to look for** in the pictures: noise is gone, and so are the finest edges. A linear filter cannot tell them apart. Compare its error
# map with that of the U-Net: the filter errs along every edge, the network errs where there was too little to go by.


# %%
def compare(arm="linear", nth=0):
    """Clean, degraded and one arm's image of the nth test patient, with errors on one scale."""
    row = int(steps.setup.shared_rows()[nth])
    truth, name = steps.cohort.image(row), steps.setup.names_of([row])[0]
    degraded = steps.setup.degradation(truth, level, name, seed=settings.seed)
    restored = steps.weights.load(arm)(degraded, level, image_ids=name, seed=settings.seed)
    return plots.error_row(truth, [degraded, restored], ["degraded", arm], note=plots.origin(steps.cohort))


compare("linear", 0)

# %% tags=["widget"]
from fairrecon_lab.widgets import slider_image

slider_image(
    compare, arm=tuple(dict.fromkeys(["linear", *arms[1:]])), nth=list(range(min(8, len(steps.setup.shared_rows()))))
)

# %% [markdown]
# ## Audited like everybody else
# The frozen readers of notebook 08 read the new arm, and the audit asks of each finding whether the gap between the sexes changed. Nothing
# in it knows what a linear filter is: it sees two scores for each image, one for clean and one for the arm, and who the patient was.
#
# Before you trust what it says of *your* arm, ask three things. Were the test patients kept away from everything that was trained or tuned?
# Are there enough of them, in the smallest group, for the change that would matter to you (the last line of the summary tells)? And is
# the margin one that you would have named before you saw the numbers?

# %%
from fairrecon_core.audit import audit_change
from fairrecon_lab.auditing.summary import summary

from fairrecon_lab.analysis.short_forms import subgroup_attributes

can_audit = bool(steps.readings.tasks()) and "sex" in subgroup_attributes(steps.cohort)
if can_audit:
    steps.readings.weights.make_all()
    scores = pd.concat([steps.readings.read(arm)["predictions"] for arm in ("clean", "degraded", *new)])
    scores = scores[scores["arm"].eq("clean") | scores["level"].eq(level)]
shared = {"metrics": ["rates"], "n_boot": min(settings.n_boot, 2000), "seed": settings.seed}
limits = {"min_support": settings.min_support, "margin": settings.margin}
if can_audit:
    table = audit_change(scores, steps.cohort.table, "sex", reference="male", **shared, **limits)
print(
    summary(table, max_rows=4)
    if can_audit
    else f"{steps.name} has no reader of a finding, or one sex: nothing to audit"
)

# %% [markdown]
# ## A cohort of your own
# A cohort is whatever yields `(image, row)`, or `(image, row, mask)`. Here are phantoms: discs of random size, half of them with a small
# bright spot. In the `old` the spot is smaller. Nothing else differs between anybody, so whatever the audit finds about age comes
# from what degradation and filtering do to small spots. A row names the image and its patient, says what is recorded of them, and holds
# the labels as `y_<task>`; what is not known is said to be unknown, never guessed.

# %%
N, SIDE = (600, 32) if profile != "smoke" else (200, 32)


def disc(rng, old, spot):
    """A disc, perhaps with a bright spot, which is smaller in the old."""
    y, x = np.mgrid[:SIDE, :SIDE]
    radius, (cy, cx), half = rng.uniform(9, 13), rng.integers(12, 20, 2), 1 if old else 2
    image = 0.4 * ((y - 16) ** 2 + (x - 16) ** 2 < radius**2) + rng.normal(0, 0.02, (SIDE, SIDE))
    return (image + 0.45 * spot * ((np.abs(y - cy) < half) & (np.abs(x - cx) < half))).clip(0, 1)


# %% [markdown]
# One generator walks through the people. Age and spot are drawn, then the image, and the row says what is known of it. Memory does not
# grow with the number of images, so the same lines serve for six hundred phantoms and for two hundred thousand films.


# %%
def phantoms(seed=0):
    """Yield images with the table row that describes each."""
    rng = np.random.default_rng(seed)
    for n in range(N):
        old, spot = rng.random() < 0.5, rng.random() < 0.5
        who = {"image_id": f"phantom-{n:04d}", "patient_id": f"p{n:04d}", "modality": "mri", "race": "unknown"}
        yield disc(rng, old, spot), who | {"sex": "unknown", "age_years": 75.0 if old else 35.0, "y_spot": float(spot)}


# %% [markdown]
# `write_cohort` splits by patient, so that no one is both learned from and tested, checks every row and writes the files; a conversion that
# was stopped goes on where it was. A run of its own gets the settings it needs: `train: true`
# trains a small reader, here in seconds, on what the core has never seen.

# %%
from fairrecon_core.cohort.folder import write_cohort

small = {"image_size": SIDE, "mri_levels": (4.0,), "mri_audit_level": 4.0, "mri_mode": "physical", "n_folds": 1}
trained = {"train": True, "reader_epochs": 8, "precision": "auto", "tasks": (), "cohort_folder": ""}
what = {"cohorts": ("phantoms",), "arms": ("linear",), "classical": ("degraded", "tv")}
own = Run(run.folder / "your_turn", dataclasses.replace(settings, **small, **trained, **what), within=run.folder)
splits = {"split": (0.4, 0.15, 0.45), "age_cut_years": 50}
write_cohort(own.folder / "cohorts" / "phantoms", phantoms(), name="phantoms", seed=1, **splits).describe()

# %% [markdown]
# The same steps as for any other cohort. The reader is trained by its own step, called by name; it learns on clean training phantoms.

# %%
own_steps = open_cohort(own, "phantoms")
own_steps.readings.weights.make_all()
table = own_steps.cohort.table.query("y_spot == 1")
rows = [int(table.loc[table["age_group"] == group, "row"].iloc[0]) for group in ("young", "old")]
shown, ids = np.stack([own_steps.cohort.image(row) for row in rows]), own_steps.setup.names_of(rows)
reduced = own_steps.setup.degradation(shown, 4.0, ids)
titles = ["young, clean", "R = 4", "old, clean", "R = 4"]
plots.image_row([shown[0], reduced[0], shown[1], reduced[1]], titles, note="simulated phantoms")

# %% [markdown]
# ## Audit it
# **What to look for:** the reader finds small and large spots on clean images. After undersampling the small ones drown first, so the TPR
# of the old falls further, and the audit says by how much. The harm is nobody's intention: the mask is the same for everybody, the
# filter too. It is the *spots* that differ, and the mask meets them differently.

# %%
readings = pd.concat([own_steps.readings.read(arm)["predictions"] for arm in ("clean", "degraded", "tv", "linear")])
options = {"reference": "young", "metrics": ["rates"], "n_boot": 2000, "min_support": 5, "seed": 1}
audit = audit_change(readings, own_steps.cohort.table, "age_group", **options)
signed = audit.query("metric == 'tpr' and subgroup == 'old' and reference == 'young'")
signed[["arm", "baseline", "value", "delta", "delta_ci_low", "delta_ci_high", "verdict"]].round(3)

# %%
figure, ax = plots.canvas(7, 2.6)
labels = [f"{row.arm} (n = {row.smallest_group})" for row in signed.itertuples()]
effect = signed[["delta", "delta_ci_low", "delta_ci_high"]].to_numpy().T
plots.forest(ax, labels, *effect, verdicts=list(signed["verdict"]))
ax.set_xlabel("Change of the TPR gap, old − young, against clean (simulated phantoms)", fontsize=9)
run.figure(figure, "13_phantoms")

# %% [markdown]
# ## Check your understanding
# **1.** What does the registry do with a second class of the name `unet`? Predict, then run: `register` is a function that takes a class.

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
message = ""
try:
    register(type("Mine", (Reconstructor,), {"name": "unet"}))
except ValueError as problem:
    message = str(problem)
print(message)
assert "built in" in message, "names of built-in arms cannot be taken"

# %% [markdown]
# **2.** Write a reconstructor that returns the mean of the degraded image and the linear one. Does its squared error lie between theirs?
# `own_steps.weights.load("linear")` is the fitted filter; call it as `linear(images, level, image_ids=ids)`.

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
linear = own_steps.weights.load("linear")


class Halfway(Reconstructor):
    """The mean of two images."""

    name = "halfway"

    def restore(self, degraded, level, image_ids, seed, sample, measurement):
        return (degraded + linear(degraded, level, image_ids=image_ids)) / 2


distance = lambda images: float(((images - torch.from_numpy(shown)) ** 2).mean())
ends = [distance(reduced), distance(linear(reduced, 4.0, image_ids=ids))]
middle = distance(Halfway("mri")(reduced, 4.0, image_ids=ids))
print([round(value, 5) for value in ends], round(middle, 5))
assert middle <= max(ends) + 1e-9, "squared error is convex: never worse than the worse, often better than both"

# %% [markdown]
# **3.** A row without `patient_id`, or with a race outside the vocabulary: what does `write_cohort` do with it, and why not guess?

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
(image, row), refusals = next(phantoms()), []
nameless = {key: value for key, value in row.items() if key != "patient_id"}
for wrong in (nameless, row | {"race": "martian"}):
    try:
        write_cohort(own.folder / "cohorts" / "refused", [(image, wrong)], name="refused", seed=1)
    except (ValueError, KeyError) as problem:
        refusals.append(str(problem))
print("\n".join(refusals))
assert "did you mean" not in refusals[1], "a guess at somebody's race is no spelling correction"
assert len(refusals) == 2, "a guessed group would end up in an audit"

# %% [markdown]
# **Against the paper.** It has no part like this: its pipeline is tied to two data sets. Here the same audit takes whatever you bring.
# ## Takeaways
# - a class with a name, a `fit` and a `restore` is an arm: measured, read and audited with the rest
# - a generator of images and rows is a cohort; a reader for it trains in seconds and is then frozen
# - the audit needed no change for either, and found the harm to the small spots that we built in
