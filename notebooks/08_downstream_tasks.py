# %% [markdown]
# # 8. Downstream tasks: what readers still see
# - **You will** meet frozen readers, how they were trained and how well they read clean images; run them over every arm and level; choose
#   thresholds in four ways; draw performance against noise for every task; count flips and shifts that an AUROC hides; see where a
#   reader looks, and for which class
# - **Time** 2.1 min to run, about 60 min to work through, **memory** 1250 MB (tutorial); **needs** 01, and 04 to 06 for the images; **makes** predictions, overlap, thresholds
# - **In the paper** Sec. 3.2 "Prediction", 3.3; Fig. 4, 5, 7, 8, 15-17; AUROC and Dice of Tab. 3 and 4

# %% tags=["parameters"]
profile = "tutorial"  # smoke | tutorial | lgg | covid_cxr | nih | paper
overrides = {}  # for example {"seed": 1}

# %%
import numpy as np
import pandas as pd
import torch
from IPython.display import display

from fairrecon_core.steps.folder import begin
from fairrecon_core.steps.pipeline import open_cohorts
from fairrecon_lab import plots
from fairrecon_lab.analysis import downstream, downstream_figures, estimates
from fairrecon_lab.analysis.support import cannot_fill

settings, run = begin(profile, overrides, needs=["cohort"])
every = open_cohorts(run)

# %% [markdown]
# Only cohorts with something to read take part: a task with both labels among the patients who train, or masks. What is not the lesson,
# such as the drawing of a table or the loop over arms, lies in `fairrecon_lab.analysis` and is imported where it is first used.
#
# Under every figure stands where the images come from and who read them. The paper's text names a ResNet-50; its code used a ResNet-18 for
# the brain and a DenseNet for the chest. Ours is a setting, `backbone`. What ships is a ResNet-18 of half the width, because all readers
# together have to fit into 20 MB; its AUROCs are those of a small network, and nothing here depends on its being a large one. What a small
# cohort cannot fill is left out, a line each.

# %%
steps_of = {name: steps for name, steps in every.items() if steps.readings.tasks() or steps.cohort.masks is not None}
first, *_, last = [*steps_of.values(), *steps_of.values()]
BOOT = {"n_boot": min(settings.n_boot, 2000), "seed": settings.seed}
classified = [name for name, steps in steps_of.items() if steps.readings.tasks()]  # cohorts with classifiers
for name, steps in steps_of.items():
    print("\n".join(f"{name}: {line}" for line in cannot_fill(steps)) or f"{name}: fills everything")


def note(steps):
    """What stands below a figure: data and readers."""
    text, segmenter = f"; classifiers {settings.backbone}", steps.readings.weights.untrained.get("segmenter")
    if segmenter is not None:
        beside = f" beside one on {segmenter.encoder}" if segmenter.encoder else ""
        text += f", segmenter U-Net of width {segmenter.width}{beside}"
    return estimates.whose(steps.cohort) + text


# %% [markdown]
# ## The readers, and how they were trained
# A reader learns on **clean** images of the training patients and is then frozen. It never sees a degraded image, nor which arm it
# reads. Brain: grade and type by one network each, the whole tumour by a U-Net. Chest: one network for all findings. A missing label
# adds nothing to the loss, a rare positive weighs more. The first line makes the weights, or finds that they are shipped or current; each
# weights file carries a card that names the command behind it.

# %%
from fairrecon_core.steps.weight_files import card_of

readers, cards = {}, {}
for name, steps in steps_of.items():
    steps.readings.weights.make_all()
    readers[name] = steps.readings.readers()
    cards |= {(name, reader): card_of(steps.readings.weights.path(reader)) for reader in readers[name]}

# %%
facts = pd.DataFrame(cards).T.rename_axis(["cohort", "reader"])
facts["weights (M)"] = [sum(w.numel() for w in readers[c][r].net.parameters()) / 1e6 for c, r in facts.index]
shown = ["reader", "backbone", "weights (M)", "trained_on", "command"]
facts.reindex(columns=shown[1:]).fillna({"backbone": "U-Net", "trained_on": "this run", "command": "train: true"})

# %% [markdown]
# **What to look for:** where is the lowest square (validation loss)? If the squares turn up while the line (training loss) goes on falling, a
# network learns its patients by heart from there on. If the lowest square is the last, it could have learned for longer. The weights
# that are kept are those of the lowest square, wherever that is; the line below the figure says where it was.

# %%
losses = {f"{name}, {reader}": pd.DataFrame(card["losses"]) for (name, reader), card in cards.items()}
by_epoch = {title: frame for title, frame in losses.items() if "epoch" in frame}
display(
    run.figure(
        downstream_figures.losses_figure(by_epoch, f"{plots.origin(first.cohort)}; classifiers {settings.backbone}"),
        "08_losses",
    )
    if by_epoch
    else "no reader learned by epochs"
)

# %%
for title, table in by_epoch.items():
    best = int(table["validation"].to_numpy().argmin())
    turned = "then it turned up" if best < len(table) - 1 else "the last: longer training might still help"
    print(f"{title}: lowest validation loss in epoch {best + 1} of {len(table)}; {turned}")

# %% [markdown]
# A reader on frozen ImageNet features (`backbone: efficientnet_lite0`, for cohorts of few patients) has no epochs: its head is a logistic
# regression, and what it chose is the strength of its ridge, by folds in which no patient is on both sides. Its log loss there, classes
# weighed alike, is .69 for a coin; a *penalty* (scikit-learn's C) at the small end says that nothing could be learned.

# %%
heads = {title: frame for title, frame in losses.items() if "penalty" in frame}
pd.concat(heads, names=["reader"]).droplevel(1) if heads else "no reader on frozen features here"

# %% [markdown]
# ## One score by hand
# A classifier's output is a *logit*, log odds; the score is what makes a probability of it, $1 / (1 + e^{-\mathrm{logit}})$. Scores of a
# network that weighs rare positives up are not calibrated: .5 means nothing in particular, and thresholds are chosen below.

# %%
from fairrecon_core.predict.classifier import Classifier

reader = next(iter(readers[first.name].values()))
image = first.cohort.image(first.setup.rows(first.audit_level)[0])
with torch.inference_mode():
    by_hand = reader.net(torch.tensor(image)[None, None].to(reader.device))[0].sigmoid().cpu().numpy()
if isinstance(reader, Classifier):
    assert np.allclose(by_hand, reader.scores(image[None])[0], atol=1e-6)
    print({task: round(float(score), 3) for task, score in zip(reader.tasks, by_hand)})

# %% [markdown]
# ## Every reader over every arm
# One call per arm: images in batches, scores and pixel counts out, no image kept in memory. `clean` is read on validation images too, for
# the thresholds. Two are control arms: in `placebo` patients swap images with their likes, which adds exactly nothing to a gap; in
# `planted` some women with a finding show the image of a woman without it, which adds a harm of known size. Then the **whole** tables are read back, so that an arm that
# you added is in everything below.

# %%
predictions, overlap = {}, {}
for name, steps in steps_of.items():
    tables = {}
    for arm in steps.arms_read():
        tables = steps.readings.read(arm)
    for table, into in (("predictions", predictions), ("overlap", overlap)):
        into |= {name: run.read(table, cohort=name)} if table in tables else {}
    print(f"{name}: {', '.join(tables)}")

# %%
rows = pd.concat([*predictions.values(), *overlap.values()])
counts = {"task": "nunique", "image_id": "nunique", "score": "mean"} if predictions else {"image_id": "nunique"}
rows.groupby(["cohort", "arm"], sort=False).agg(counts).round(3)

# %% [markdown]
# Who is left, from what was recorded to what is audited below; the report shows the same.

# %%
from fairrecon_core.cohort.folder import funnel

read = {name: rows.loc[(rows["cohort"] == name) & (rows["arm"] != "clean"), "image_id"].unique() for name in steps_of}
left = {name: funnel(steps_of[name].cohort, ids) for name, ids in read.items()}
run.note("people", left)
pd.concat({name: pd.DataFrame(steps).set_index("step") for name, steps in left.items()}, names=["cohort"])

# %% [markdown]
# A reader's scores on `clean` do not depend on which arms run beside it. Proof on a few images, by reading them once more:

# %%
for name in classified[:1]:
    steps, classifiers = steps_of[name], [reader for reader in readers[name].values() if isinstance(reader, Classifier)]
    reader, few = classifiers[0], steps.setup.rows(steps.audit_level)[:3]
    stored = predictions[name].query("arm == 'clean' and fold == 0 and task == @reader.tasks[0]").set_index("image_id")
    again = reader.scores(steps.cohort.images_at(few))[:, 0]
    assert np.allclose(again, stored.loc[steps.setup.names_of(few), "score"], atol=1e-5)

# %% [markdown]
# ## AUROC by hand
# The chance that a random positive gets a higher score than a random negative, ties counted half. Compare all pairs. Two people are ill
# (scores .9 and .4), three are not (.6, .4, .3): the first wins three times, the second once and a half of three:

# %%
from sklearn.metrics import roc_auc_score

from fairrecon_lab.auditing.by_hand import auroc

by_hand = (3 + (0 + 1 / 2 + 1)) / (2 * 3)
ill, scores = np.array([1, 1, 0, 0, 0]), np.array([0.9, 0.4, 0.6, 0.4, 0.3])
assert by_hand == auroc(ill, scores) == roc_auc_score(ill, scores) == 0.75

# %% [markdown]
# Now the patients. The unit matters: a
# brain has several slices, and its patient's score is the **median** over them (the published rule), unless the question differs from
# slice to slice, as "is there a tumour on it"; a chest film stands for itself.
# With folds every image is read by the readers that never trained on its patient, and all folds are pooled.
#
# Labels lie in the cohort, recorded ones as `y_...` and, where patients are simulated, true ones as `true_...`.

# %%
tested = {
    n: downstream.on_test_images(rows, steps_of[n].cohort, steps_of[n].setup.folds) for n, rows in predictions.items()
}
units = {n: downstream.unit_scores(rows, steps_of[n].cohort) for n, rows in tested.items()}
task, truth, score = "no task", np.empty(0), np.empty(0)
for name in classified[:1]:
    task = downstream.task_to_show(steps_of[name])
    here = units[name].query("arm == 'clean' and task == @task")
    truth, score = downstream.labels_of(steps_of[name].cohort, task, here["unit"]), here["score"].to_numpy()

# %%
positive, negative, known = score[truth == 1], score[truth == 0], ~np.isnan(truth)
if len(positive) and len(negative):
    above = (positive[:, None] > negative).mean() + (positive[:, None] == negative).mean() / 2
    assert np.isclose(above, auroc(truth, score)) and np.isclose(above, roc_auc_score(truth[known], score[known]))
    print(f"{task}: {len(positive)} x {len(negative)} pairs, AUROC {above:.3f}")
else:
    print(f"{task}: {len(positive)} positives, {len(negative)} negatives: not estimable, and not scored")

# %% [markdown]
# Its interval comes from *placement values*: each positive's share of negatives below it, and each negative's share of positives above.
# Their patients are drawn again, jointly for all arms, so that differences between arms are paired (DeLong's variance is the same
# idea without resampling). One function, `downstream.aurocs`, serves all figures below: one level, all arms, `clean` on the same images
# beside them.
#
# ## Clean images: how well do they read?
# Per task, on the whole test split: AUROC against the **recorded** label, and, where the patients are simulated, against the **true** one.
# Recorded labels contain mistakes by design (notebook 01), so part of a reader's "errors" may be the label's.

# %%
clean_table = {}
for name in units:
    steps = steps_of[name]
    tasks = steps.readings.tasks()
    clean_table[name] = downstream.clean_aurocs(units[name], steps.cohort, tasks, steps.audit_level, **BOOT)
    display(run.figure(downstream_figures.clean_figure(clean_table[name], note(steps)), f"08_clean_{name}"))

# %%
recorded = pd.concat(clean_table, names=["cohort"]).query("label == 'recorded'").droplevel(1)
unknown = recorded[recorded["value"].isna()]["task"]
print(f"not estimable (no patient with, or none without): {', '.join(unknown) or 'none'}")

# %% [markdown]
# **Which questions can be asked at all?** A reader that cannot read has no bias to lose: its gaps are noise about noise. The rule: where the
# interval of the clean AUROC reaches .6 or below, the task is shown, called uninformative, and left out of every count of bias. A
# *control* is a question of no clinical use, such as the side from which a film was taken: it says what the reader can see.

# %%
recorded.drop(columns="label").round(3)

# %% [markdown]
# ## Dice, and the rule for empty masks
# Dice is twice the overlap over the sum of both areas. Per *slice* every slice counts alike; per patient *volume* the pixels of all slices
# are pooled first, so large ones count more. Where mask **and** prediction are empty it is 0/0. Rules: leave out (ours, and the
# published one), or count as right. An empty mask with anything predicted is 0 under all of them: a network that paints a tumour into a
# healthy slice is wrong, whatever the rule.

# %%
from fairrecon_lab.analysis.patients import dice_table

overlap = {
    n: downstream.on_test_images(rows, steps_of[n].cohort, steps_of[n].setup.folds) for n, rows in overlap.items()
}
whose = {name: estimates.patients_of(steps.cohort.table) for name, steps in steps_of.items()}
for name, rows in overlap.items():
    clean = rows.query("arm == 'clean'")
    by_hand = 2 * clean["intersection"] / (clean["predicted"] + clean["actual"])
    assert np.allclose(by_hand, dice_table(clean, whose[name])["dice"], equal_nan=True)
    no_mask, nothing = clean["actual"] == 0, clean["predicted"] == 0
    print(
        f"{len(clean)} slices: empty mask {no_mask.sum()}, empty prediction {nothing.sum()}, both {(no_mask & nothing).sum()}"
    )

# %% [markdown]
# Means are over patients, intervals from drawing patients again, here and below:

# %%
rules = {
    name: downstream.dice_rules(rows.query("arm == 'clean'"), whose[name], **BOOT) for name, rows in overlap.items()
}
pd.concat(rules, names=["cohort"]).droplevel(1) if rules else "no cohort with masks"

# %% [markdown]
# ## Figs. 7, 8, 15, 16, 17: performance against noise
# The published figures lay AUROC and PSNR over each other on two axes, so that any two curves can be made to part or to meet. Here every
# quantity has an axis of its own. And `clean` (black) is not a line but a point per level: the readers' performance on the clean images
# **of the same patients**. Where a level has only a part of the test split, clean moves too, and what counts is the distance to it.
#
# The paper's Fig. 8 and the last rows of Table 4 average the AUROC over findings. Tasks share their patients, so the average has to be
# resampled as an average. Findings without a positive in a level's part of the split are left out of it, and their number is stated. Dice
# needs no such care: a mean over patients of their slices, of each arm and of clean on the same slices.

# %%
curves, averages, findings = {}, {}, {}
for name in units:
    steps, tasks = steps_of[name], steps_of[name].readings.tasks()
    given = {"levels": steps.levels, "arms": steps.arms_read(), **BOOT}
    curves[name] = {task: downstream.task_curve(units[name], steps.cohort, task, **given) for task in tasks}
    findings[name] = [task for task in tasks if task != "support_devices"]
    if len(findings[name]) > 2:
        averages[name] = downstream.average_curve(units[name], steps.cohort, findings[name], **given)
dices = {
    name: downstream.dice_curve(rows, whose[name], steps_of[name].levels, **BOOT) for name, rows in overlap.items()
}

# %% [markdown]
# PSNR has its own panel, from notebook 07's table if that has run.

# %%
quality = {}
for name, steps in steps_of.items() if run.has("quality") else ():
    rows = run.read("quality", cohort=name)
    rows = rows[rows["level"].isin(steps.levels)]
    quality[name] = estimates.means_by_level(rows, "psnr_db", whose[name], **BOOT)

# %%
for name, steps in steps_of.items():
    single = [task for task in findings.get(name, []) if name not in averages]
    panels = [(f"AUROC, {estimates.spoken(task)}", curves[name][task]) for task in single]
    if name in averages:
        n = averages[name].groupby("level")["tasks"].first().reindex(steps.levels)
        panels += [(f"mean AUROC ({', '.join(f'{k:.0f}' for k in n)} findings)", averages[name])]
    panels += [
        (label, part[name]) for label, part in (("Dice per slice", dices), ("PSNR (dB)", quality)) if name in part
    ]
    figure = downstream_figures.noise_figure(panels, steps.arms_read(), steps.cohort.modality, note(steps))
    display(run.figure(figure, f"08_noise_{name}"))

# %% [markdown]
# **What to look for:** do PSNR, AUROC and Dice fall together? Whether a finding is there can survive when its outline does not. At which
# level does the best reconstruction leave the black points? Is `degraded` really worse than what a network makes of it, for a *reader*?
# The number of findings in an average is stated per level, least noise first: averages over different findings are not one curve.
#
# Fig. 17, one small panel per finding. Points are hollow where fewer than ten patients have it; a panel is empty where nothing can be
# estimated. Compare how far the hollow ones jump with how far the full ones do.

# %%
for name in averages:
    shown = {task: curves[name][task] for task in findings[name]}
    figure = downstream_figures.findings_figure(shown, steps_of[name].cohort.modality, note(steps_of[name]))
    display(run.figure(figure, f"08_findings_{name}"))

# %% [markdown]
# ## AUROC and Dice rows of Tables 3 and 4
# At the audited level, on the whole test split: value and 95 % interval, in brackets what the paper prints for its own patients and networks. A
# dash: not estimable. Below it the **paired change** from clean, which the paper does not give: most intervals of the table above
# overlap, because they hold the same patients; the change is known much better.

# %%
printed = estimates.printed_in_paper("auroc", "dice")
for name, steps in steps_of.items():
    frames = curves.get(name, {}) | ({"average": averages[name]} if name in averages else {})
    frames |= {"segmentation": dices[name]} if name in dices else {}
    table = downstream.paper_rows(frames, printed, steps.setup)
    caption = f"{note(steps)}; {plots.AXIS[steps.cohort.modality]} {steps.audit_level:,.0f}; 95 % interval; in brackets the paper"
    display(table.style.set_caption(caption))

# %%
changes = {name: downstream.changes_table(frames, steps_of[name].audit_level) for name, frames in curves.items()}
pd.concat(changes, names=["cohort"]) if changes else "no cohort with classifiers"

# %% [markdown]
# ## Four ways to choose a threshold
# A score becomes a decision at a cut where sensitivity equals specificity. On which images? On validation images of `clean`, then kept
# for all arms (`validation_frozen`, default): a reconstruction is dropped into a running clinic. On validation images of each arm: the clinic
# retunes. On the **test labels** of each arm (published): nobody could do that. On the test labels of clean: no validation images left.

# %%
from fairrecon_core.audit.thresholds import POLICIES
from fairrecon_lab.analysis.thresholds import chosen_thresholds

thresholds = {}
for name, policy in [(cohort, policy) for cohort in predictions for policy in POLICIES]:
    frame = chosen_thresholds(steps_of[name].cohort, predictions[name], policy)
    if len(frame):
        run.save("thresholds", frame, cohort=name, policy=policy)
        thresholds[name, policy] = frame
counts = {"arm": "nunique", "task": "nunique", "value": "count", "n": "median"}
chosen = (
    pd.concat(thresholds.values()) if thresholds else pd.DataFrame(columns=["cohort", "policy", "chosen_on", *counts])
)
chosen.groupby(["cohort", "policy", "chosen_on"], sort=False).agg(counts)

# %% [markdown]
# Validation images of the other arms are read only when the setting `threshold_policy` is `validation_per_arm`; otherwise that policy has
# rows of `clean` alone. **What to look for** in the figure: how far the published cut wanders from arm to arm. It follows the scores, so a
# reader who became less sure of everything keeps its sensitivity, and the drift is gone from the results.

# %%
for name in predictions:
    steps, per_arm = steps_of[name], thresholds[name, "test_per_arm"]
    per_arm = per_arm[per_arm["level"].isin([steps.audit_level, steps.setup.degradation.identity_level])]
    frozen = thresholds[name, "validation_frozen"]
    figure = downstream_figures.threshold_figure(per_arm, frozen, steps.setup.arms(), note(steps))
    display(run.figure(figure, f"08_thresholds_{name}"))

# %% [markdown]
# ## Flips and shifts: what an AUROC does not show
# AUROC looks at order only. If every score falls by half, it stays, and the clinic misses half of its patients. Two figures need no
# order: the **flip rate**, the share of decisions that differ from those on the clean image (no labels needed), and the **logit
# shift**, by how much patients with, and without, the finding moved. `decisions` pairs clean and one arm image by image; by hand for one
# task, then by the core:

# %%
from fairrecon_lab.auditing.by_hand import flip_rate, logit_shift

one = pd.DataFrame(columns=["patient", "truth", "before", "after", "cut", "moved", "flipped"])
for name in classified[-1:]:
    steps, task = steps_of[name], downstream.task_to_show(steps_of[name])
    cuts, arm = thresholds[name, "validation_frozen"], steps.setup.arms()[-1]
    one = downstream.decisions(tested[name], steps.cohort, cuts, task, arm, steps.audit_level).assign(everybody="all")
one[["patient", "truth", "before", "after", "cut", "moved", "flipped"]].head(3).round(3)

# %%
if len(one):
    by_hand = one["flipped"].groupby(one["patient"]).mean().mean()  # a mean over patients
    decided, who = [one[when] >= one["cut"] for when in ("after", "before")], {"patient_id": one["patient"]}
    assert np.isclose(by_hand, flip_rate(*decided, one["everybody"], **who)["all"])
    shift = logit_shift(one["after"], one["before"], one["truth"], one["everybody"], **who)
    moved = one[one["truth"] == 1].groupby("patient")["moved"].mean().mean()
    assert np.isclose(moved, shift.loc["all", 1], equal_nan=True)
    print(f"{task}: {by_hand:.1%} of decisions flip; with the finding the logit moves by {moved:+.2f}")

# %% [markdown]
# For every task and arm, controls included, each with its interval:

# %%
shifts = {}
for name in predictions:
    steps, cuts = steps_of[name], thresholds[name, "validation_frozen"]
    given = {"tasks": steps.readings.tasks(), "level": steps.audit_level, "n_boot": 500, "seed": settings.seed}
    shifts[name] = downstream.all_shifts(tested[name], steps.cohort, cuts, **given)
    if len(shifts[name]):
        text = f"{note(steps)}; against clean at {steps.audit_level:,.0f}"
        display(run.figure(downstream_figures.shift_figure(shifts[name], steps.arms_read(), text), f"08_shifts_{name}"))
    else:
        print(f"{name}: no threshold could be chosen on its validation images, so there are no decisions to flip")

# %% [markdown]
# **What to look for:** an arm may flip one decision in ten and keep its AUROC. A shift of both groups to the same side is drift: the threshold
# would have to move. Towards each other is loss: the finding fades. `placebo` moves nobody on average, and yet it flips decisions; `planted`
# moves those with the finding it harms.
#
# ## Fig. 4: the outline on every arm
# The patient is chosen by a rule: the slice whose **clean** Dice is the median among those with a tumour. Yellow: the outline that the
# segmenter draws. The first picture has the true one.

# %%
from fairrecon_core.cohort.pixels import as_float


def on_every_arm(steps, row, level):
    """Clean image and that of every arm at a level, of one row of the cohort."""
    images = {"clean": steps.cohort.image(row)}
    for arm in steps.setup.arms():
        stored, rows = steps.images.get(arm, level)
        images |= {arm: as_float(stored[list(rows).index(row)])} if row in rows else {}
    return images


# %%
for name in overlap:
    steps, segmenter = steps_of[name], readers[name]["segmenter"]
    row = downstream.median_slice(overlap[name], steps.setup)
    truth, images = steps.cohort.mask(row), on_every_arm(steps, row, steps.audit_level)
    found = segmenter.masks(np.stack(list(images.values())))
    dice = [2 * (mask & truth).sum() / (mask.sum() + truth.sum()) for mask in found]
    titles = ["truth", *(f"{arm}\nDice {value:.2f}" for arm, value in zip(images, dice))]
    pictures, outlines = [images["clean"], *images.values()], [truth, *found]
    figure = plots.image_row(
        pictures, titles, outlines=outlines, note=estimates.whose(steps.cohort, steps.audit_level), height=1.9
    )
    estimates.show_images(run, figure, f"08_fig_4_{name}", steps.cohort)

# %% [markdown]
# ## Grad-CAM by hand
# Where in the image does a network find evidence for *one* of its outputs? Grad-CAM weighs the feature maps of a layer by the mean gradient
# of that output and cuts off what speaks against it. A network that ends in a mean over pixels and a linear layer needs no
# gradient: the weight of map $k$ for output $c$ is known, and before the cut the map adds up to the logit minus the bias.
#
# $$L_c = \max\Big(0, \sum_k \frac{w_{ck}}{hw} A_k\Big)$$

# %%
from fairrecon_lab.analysis.heat import grad_cam


def block(reader, layer="layer4"):
    """A convolutional block of a classifier: `layer4` is the last of a ResNet."""
    if reader.backbone == "efficientnet_lite0":
        return reader.net.trunk[0]._swish
    return reader.net.net.features if reader.backbone == "xrv_densenet" else getattr(reader.net, layer)


def who_answers(name, task):
    """The classifier that has the task, and the number of its output."""
    reader = next(r for r in readers[name].values() if isinstance(r, Classifier) and task in r.tasks)
    return reader, reader.tasks.index(task)


# %%
kept, by_formula = {}, False
if classified:
    steps = steps_of[classified[-1]]
    reader, output = who_answers(steps.name, downstream.task_to_show(steps))
    by_formula = reader.backbone.startswith("resnet")
if by_formula:
    image = steps.cohort.image(steps.setup.shared_rows()[0])
    hook = block(reader).register_forward_hook(lambda module, inputs, maps: kept.update(maps=maps[0].cpu()))
    value = reader.outputs(image[None])[0, output]
    hook.remove()

# %%
if by_formula:
    signed = torch.einsum("k,khw->hw", reader.net.fc.weight[output].cpu(), kept["maps"]) / kept["maps"][0].numel()
    bias = reader.net.fc.bias[output].cpu()
    assert np.isclose(signed.sum() + bias, value, atol=1e-4)
    assert np.allclose(signed.clamp(min=0), grad_cam(reader.net, block(reader), image, output), atol=1e-5)
    print(
        f"{tuple(signed.shape)} cells for {image.shape[0]} pixels; logit {value:.2f} = map {signed.sum():.2f} + bias {bias:.2f}"
    )

# %% [markdown]
# So a cell of the map is a part of the logit, and maps of different arms can share one scale. The layer has few cells: a heat map says
# "lower left", not "this pixel"; the colours between cells are interpolated. An earlier layer has more cells, and says less about the class.
# A warm cell may even lie outside the body: a network looks wherever looking has paid in training.
#
# ## Fig. 5: pleural effusion, this time
# The published heat maps are those of output **0**, which in an alphabetical list is atelectasis, while the text speaks of pleural effusion;
# and each map was stretched to its own maximum. Below: the patient whose clean score for pleural effusion is the *median* among those who
# have it recorded. Upper row: the task that is named. Lower row: what the published line of code would have shown. The strongest cell of a
# row gets the full colour; what is weaker on another arm looks weaker.


# %%
def maps_and_scores(name, task, images, layer="layer4"):
    """The reader's heat map and score of a task on each image."""
    reader, output = who_answers(name, task)
    maps = [grad_cam(reader.net, block(reader, layer), image, output) for image in images]
    return maps, reader.scores(np.stack(images))[:, output]


# %%
for name, table in predictions.items():
    steps, asked = steps_of[name], downstream.task_to_show(steps_of[name])
    images = on_every_arm(steps, downstream.median_positive(table, steps.setup, asked), steps.audit_level)
    tasks = [asked, *(task for task in ("atelectasis",) if task in steps.readings.tasks())]
    lines = {task: maps_and_scores(name, task, list(images.values())) for task in tasks}
    figure = downstream_figures.heat_figure(images, lines, f"{note(steps)}; at {steps.audit_level:,.0f}")
    estimates.show_images(run, figure, f"08_fig_5_{name}", steps.cohort)

# %% [markdown]
# **What to look for:** does the warm spot stay where it is on clean, and does the score? A spot that stays while the score falls is a fading
# finding; one that wanders means the reader found something else. One patient is an illustration, not evidence. Choose a task, an arm and a
# level; an earlier layer has smaller cells.


# %%
def restored(steps, row, arm, level):
    """The image of one row of the cohort, degraded at a level and restored by an arm."""
    names, clean = steps.setup.names_of([row]), steps.cohort.image(row)
    degraded, measurement = steps.setup.degradation.measure(clean[None], level, names, settings.seed)
    if arm == "degraded":
        return np.asarray(degraded)[0]
    options = {"image_ids": names, "seed": settings.seed, "measurement": measurement}
    return np.asarray(steps.weights.load(arm)(degraded, level, **options))[0]


# %%
def look_at(task, arm="degraded", level="audited", layer="layer4", cohort=(classified or [last.name])[-1]):
    """Image, heat map and score of one arm beside clean, for the median patient of a task."""
    steps = steps_of[cohort]
    level = {"audited": steps.audit_level, "least noise": steps.levels[0], "most noise": steps.levels[-1]}[level]
    row = downstream.median_positive(predictions[cohort], steps.setup, task)
    images = {"clean": steps.cohort.image(row), arm: restored(steps, row, arm, level)}
    maps, scores = maps_and_scores(cohort, task, list(images.values()), layer)
    heads, titles = [f"{estimates.spoken(task)} {score:.2f}" for score in scores], ["clean", f"{arm}, {level:,.0f}"]
    text = f"{note(steps)}; patient with the median clean score among the positives"
    return downstream_figures.beside_clean(images, maps, titles, heads, text)


shown = {name: downstream.task_to_show(steps_of[name]) for name in classified[-1:]}
for name, task in shown.items():
    display(look_at(task, steps_of[name].setup.arms()[-1]))

# %% tags=["widget"]
from fairrecon_lab.widgets import slider_image

WHERE = {"level": ("audited", "least noise", "most noise"), "layer": ("layer4", "layer3")}
for name, task in shown.items():
    choices = {"task": tuple(steps_of[name].readings.tasks()), "arm": tuple(steps_of[name].setup.arms()), **WHERE}
    display(slider_image(look_at, **choices, start={"task": task}))

# %% [markdown]
# ## Check your understanding
# **1.** A reconstruction makes every logit smaller by 1. What becomes of the AUROC, and what of the sensitivity at the frozen threshold?
# Predict both, then run on made scores: `auroc(truth, score)` is the core's, and 500 patients with and without are enough.

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
rng, truth = np.random.default_rng(settings.seed), np.repeat([1, 0], 500)
before = 1 / (1 + np.exp(-(1.5 * truth - 0.75 + rng.standard_normal(1000))))
after = 1 / (1 + np.exp(-(np.log(before / (1 - before)) - 1)))
sensitivity = [np.mean(score[truth == 1] >= 0.5) for score in (before, after)]
print(
    f"AUROC {auroc(truth, before):.3f}, {auroc(truth, after):.3f}; sensitivity {sensitivity[0]:.2f}, {sensitivity[1]:.2f}"
)
assert np.isclose(auroc(truth, before), auroc(truth, after)) and sensitivity[1] < sensitivity[0] - 0.2

# %% [markdown]
# **2.** A slice without tumour, nothing predicted; another, without tumour, one pixel predicted. What is their Dice under the rules above, and
# what does a mean over slices do if half of all slices are like the first? `dice_table` takes `empty=`.

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
two = pd.DataFrame({"image_id": ["a", "b"], "intersection": [0, 0], "predicted": [0, 1], "actual": [0, 0]})
who = pd.Series({"a": "p", "b": "p"})
left_out, as_right = (dice_table(two, who, empty=empty)["dice"].to_numpy() for empty in (np.nan, 1.0))
print(left_out, as_right)  # left out: the mean is over the others; as right: every healthy slice lifts the mean
assert np.isnan(left_out[0]) and as_right[0] == 1 and left_out[1] == as_right[1] == 0

# %% [markdown]
# **3.** How many patients with a finding does an AUROC of .8 need for an interval of ± .03, with ten times as many without? Use
# Hanley and McNeil: with $q_1 = A/(2-A)$ and $q_2 = 2A^2/(1+A)$ the variance is $[A(1-A) + (n_1-1)(q_1-A^2) + (n_0-1)(q_2-A^2)]/(n_1 n_0)$.

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
area, n1 = 0.8, np.arange(5, 5000)
q1, q2, n0 = area / (2 - area), 2 * area**2 / (1 + area), 10 * n1
variance = (area * (1 - area) + (n1 - 1) * (q1 - area**2) + (n0 - 1) * (q2 - area**2)) / (n1 * n0)
needed = n1[np.argmax(1.96 * np.sqrt(variance) <= 0.03)]
print(f"{needed} patients with the finding")
assert 200 < needed < 400

# %% [markdown]
# **Against Figs. 4, 5, 7, 8, 15-17 and Tables 3, 4.** Same: frozen readers trained on clean images, levels, arms, median over slices for the
# brain. Different: intervals and paired changes; one quantity per axis; clean on the same patients at every level; tasks that cannot be
# estimated are empty; thresholds from validation images; Dice of the *whole* tumour (the published mask leaves out the enhancing
# part), with the rule for empty masks stated; heat maps of the class that is named, on one scale, of a patient chosen by a rule.
# ## Takeaways
# - Readers are small, frozen and trained on clean images; how well they read depends on the task, and on whose label one asks.
# - One call per arm writes predictions and overlap; scores on clean depend on nothing else.
# - Where a threshold is chosen decides what a change means; the published cut follows every drift.
# - PSNR, AUROC and Dice need not fall together; compare with clean on the same patients, paired.
# - Decisions flip and logits drift while the AUROC stands still.
# - A heat map belongs to one class, one layer and one scale: say which.
