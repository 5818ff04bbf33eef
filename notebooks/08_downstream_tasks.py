# %% [markdown]
# # 8. Downstream tasks: what readers still see
# - **You will** meet frozen readers, how they were trained and how well they read clean images; run them over every arm and level; choose
#   thresholds in four ways; draw performance against noise for every task; count flips and shifts that an AUROC hides; see where a
#   reader looks, and for which class
# - **Time** 2.1 min, **memory** 1250 MB (tutorial); **needs** 01, and 04 to 06 for the images; **makes** predictions, overlap, thresholds
# - **In the paper** Sec. 3.2 "Prediction", 3.3; Fig. 4, 5, 7, 8, 15-17; AUROC and Dice of Tab. 3 and 4

# %% tags=["parameters"]
profile = "tutorial"  # smoke | tutorial | lgg | covid_cxr | nih | paper
overrides = {}  # for example {"seed": 1}

# %%
import numpy as np
import pandas as pd
import torch
from IPython.display import display

from fairrecon_lab import plots
from fairrecon_core.cohort.pixels import as_float
from fairrecon_core.steps.pipeline import open_cohorts
from fairrecon_core.steps.thresholds import chosen_thresholds
from fairrecon_core.steps.weights import card_of
from fairrecon_core.predict.classifier import Classifier
from fairrecon_core.predict.segmenter import Segmenter
from fairrecon_core.steps.folder import begin

settings, run = begin(profile, overrides, needs=["cohort"])
steps_of = {
    name: steps for name, steps in open_cohorts(run).items() if steps.readings.tasks() or steps.cohort.masks is not None
}
first, last = (list(steps_of.values())[i] for i in (0, -1))
N_BOOT = min(settings.n_boot, 2000)


# %% [markdown]
# Under every figure stands where the images come from and who read them. The paper's text names a ResNet-50; its code used a ResNet-18 for
# the brain and a DenseNet for the chest. Ours is a setting, `backbone`. What ships is a ResNet-18 of half the width, because all readers
# together have to fit into 20 MB; its AUROCs are those of a small network, and nothing here depends on its being a large one.


# %%
def origin(steps):
    """Simulated, or the name of the real cohort."""
    return "simulated" if "simulator_version" in steps.cohort.info else f"real: {steps.name}"


def note(steps):
    """What stands below a figure: data and readers."""
    segmenter = "" if steps.cohort.masks is None else f", segmenter U-Net of width {settings.segmenter_width}"
    return f"{origin(steps)}, {steps.name}; classifiers {settings.backbone}{segmenter}"


def captioned(figure, steps, extra=""):
    """The figure with its note."""
    figure.supxlabel(note(steps) + (f"; {extra}" if extra else ""), fontsize=8, color="#595959")
    return figure


def show_images(figure, name, steps):
    """Show a figure of images; save it only if nobody real is in it."""
    display(run.figure(figure, name) if origin(steps) == "simulated" else figure)


# %% [markdown]
# ## The readers, and how they were trained
# A reader learns on **clean** images of the training patients and is then frozen. It never sees a degraded image, nor which arm it
# reads. Brain: grade and type by one network each, the whole tumour by a U-Net. Chest: one network for all findings. A missing label
# adds nothing to the loss, a rare positive weighs more. Where weights were shipped, the card names the command that made them.

# %%
for steps in steps_of.values():
    steps.readings.weights.make_all()  # shipped, or trained here
readers = {name: steps.readings.readers() for name, steps in steps_of.items()}
cards = {
    (name, reader): card_of(steps_of[name].readings.weights.path(reader))
    for name in readers
    for reader in readers[name]
}
facts = [
    {"cohort": name, "reader": reader, "network": card.get("backbone", "U-Net"), "weights (M)": sum(p.numel() for p in readers[name][reader].net.parameters()) / 1e6,
     "answers": len(card.get("tasks", ["mask"])), "trained on": card.get("trained_on", "training split of this run"), "command": card.get("command", "train: true")}
    for (name, reader), card in cards.items()
]  # fmt: skip
pd.DataFrame(facts).set_index(["cohort", "reader"]).round(2)

# %% [markdown]
# **What to look for:** the validation loss (squares) stops falling while the training loss (line) goes on: from there on a network learns
# its patients by heart. The weights kept are those of the lowest square.

# %%
figure, axes = plots.canvas(2.6 * len(cards) + 1, 2.6, 1, len(cards), squeeze=False)
for ax, ((name, reader), card) in zip(axes[0], cards.items()):
    losses = pd.DataFrame(card["losses"])
    ax.plot(losses["epoch"], losses["train_net"], "-", color="#8C8C8C", label="training")
    ax.plot(losses["epoch"], losses["validation"], "s", color="#000000", markersize=4, label="validation")
    ax.set_title(f"{name}, {reader}", fontsize=10)
    ax.set_xlabel("Epoch", fontsize=9)
axes[0, 0].set_ylabel("Loss", fontsize=9)
axes[0, 0].legend(frameon=False, fontsize=8)
figure.supxlabel(
    note(first) if len(steps_of) == 1 else f"{origin(first)}; classifiers {settings.backbone}",
    fontsize=8,
    color="#595959",
)
run.figure(figure, "08_losses")

# %% [markdown]
# ## One score by hand
# A classifier's output is a *logit*, log odds; the score is what makes a probability of it. Scores of a network that weighs rare positives
# up are not calibrated: .5 means nothing in particular, and thresholds are chosen below.

# %%
reader = next(reader for reader in readers[first.name].values())
image = first.cohort.image(first.setup.rows(first.audit_level)[0])
with torch.inference_mode():
    logits = reader.net(torch.from_numpy(np.array(image))[None, None])[0].numpy()
by_hand = 1 / (1 + np.exp(-logits))
if isinstance(reader, Classifier):
    assert np.allclose(by_hand, reader.scores(image[None])[0], atol=1e-6)
    print({task: round(float(score), 3) for task, score in zip(reader.tasks, by_hand)})

# %% [markdown]
# ## Every reader over every arm
# One call per arm: images in batches, scores and pixel counts out, no image kept in memory. `clean` is read on validation images too, for
# the thresholds. `placebo` and `planted` are the control arms: patients who swap images with their likes, and women whose findings are
# replaced by images without; what they add to a gap is zero, and known. Then the **whole** tables are read back, so that an arm that
# you added is in everything below.

# %%
predictions, overlap = {}, {}
for name, steps in steps_of.items():
    for arm in steps.arms_read():
        steps.readings.read(arm)
    tables = {"predictions": predictions} if steps.readings.tasks() else {}
    for table, into in (tables | ({"overlap": overlap} if steps.cohort.masks is not None else {})).items():
        into[name] = run.read(table, cohort=name)
    if name not in overlap:
        print(f"{name} has no masks: nothing to segment")
    if name not in predictions:
        print(f"{name} has no task with both labels in training: nothing to classify")
pd.concat(predictions.values()).groupby(["cohort", "arm"], sort=False).agg(
    {"task": "nunique", "image_id": "nunique", "score": "mean"}
).round(3)

# %% [markdown]
# A reader's scores on `clean` do not depend on which arms run beside it. Proof on a few images, by reading them once more:

# %%
name, steps = next(iter(predictions)), steps_of[next(iter(predictions))]
reader = next(reader for reader in readers[name].values() if isinstance(reader, Classifier))
few = steps.setup.rows(steps.audit_level)[:3]
again = reader.scores(steps.cohort.images_at(few))[:, 0]
stored = (
    predictions[name].query("arm == 'clean' and fold == 0 and task == @reader.tasks[0]").set_index("image_id")["score"]
)
assert np.allclose(again, stored[steps.setup.names_of(few)], atol=1e-5)

# %% [markdown]
# ## AUROC by hand
# The chance that a random positive gets a higher score than a random negative, ties counted half. Compare all pairs. The unit matters: a
# brain has several slices, and its patient's score is the **median** over them (the published rule); a chest film stands for itself.
# With folds every image is read by the readers that never trained on its patient, and all folds are pooled.

# %%
from fairrecon_core.predict.patients import patient_scores


def on_test_images(name, table):
    """Rows on test images, each as the fold sees it that never trained on its patient."""
    steps = steps_of[name]
    ids = [
        (fold, i)
        for fold in steps.setup.folds
        for i in steps.setup.names_of(steps.cohort.select("test", "prediction", fold))
    ]
    return table[pd.MultiIndex.from_frame(table[["fold", "image_id"]]).isin(ids)]


def unit_scores(name):
    """Scores on test images: one row per unit (patient or film), arm, level and task."""
    table, people = on_test_images(name, predictions[name]), steps_of[name].cohort.table.set_index("image_id")
    if steps_of[name].cohort.modality == "mri":
        table = patient_scores(table, people["patient_id"], "median").assign(unit=lambda rows: rows["patient_id"])
    else:
        table = table.assign(
            unit=table["image_id"], patient_id=people["patient_id"].reindex(table["image_id"]).to_numpy()
        )
    keys = ["unit", "patient_id", "arm", "level", "task"]
    return table.groupby(keys, as_index=False)["score"].mean()  # over samples and training seeds


# %% [markdown]
# Labels lie in the cohort, recorded ones as `y_...` and, where patients are simulated, true ones as `true_...`.


# %%
def labels(name, task, units, kind="y"):
    """Recorded (`y`) or true (`true`) labels of some units; NaN where unknown, or where nobody knows the truth."""
    table = steps_of[name].cohort.table
    index = "patient_id" if steps_of[name].cohort.modality == "mri" else "image_id"
    column = f"{kind}_{task}"
    if column not in table:
        return np.full(len(units), np.nan)
    return table.drop_duplicates(index).set_index(index)[column].reindex(units).to_numpy(float)


units = {name: unit_scores(name) for name in predictions}

# %%
from sklearn.metrics import roc_auc_score

from fairrecon_core.audit.metrics import auroc

task = reader.tasks[0]
here = units[name].query("arm == 'clean' and task == @task")
truth, score = labels(name, task, here["unit"]), here["score"].to_numpy()
positive, negative = score[truth == 1], score[truth == 0]
if len(positive) and len(negative):
    above = (positive[:, None] > negative).mean() + (positive[:, None] == negative).mean() / 2
    known = ~np.isnan(truth)
    assert np.isclose(above, auroc(truth, score)) and np.isclose(above, roc_auc_score(truth[known], score[known]))
    print(f"{task}: {len(positive)} x {len(negative)} pairs, AUROC {above:.3f}")
else:
    print(f"{task}: {len(positive)} positives, {len(negative)} negatives: not estimable, and not scored")

# %% [markdown]
# Its interval comes from *placement values*: each positive's share of negatives below it, and each negative's share of positives above.
# Their patients are drawn again, jointly for all arms, so that differences between arms are paired (DeLong's variance is the same
# idea without resampling). One function serves all figures below: one level, all arms, `clean` on the same images beside them.

# %%
from fairrecon_core.audit.engine import patient_codes
from fairrecon_core.audit.groups import resample_aurocs
from fairrecon_core.audit.inference import contrast


def aurocs(name, task, level, kind="y"):
    """AUROC of `clean` and of every arm at one level, on the same units: (arms, result or None, positives, negatives)."""
    table = units[name]
    here = table[(table["task"] == task) & ((table["arm"] == "clean") | (table["level"] == level))]
    wide = here.pivot(index="unit", columns="arm", values="score")
    wide = wide.loc[here.loc[here["arm"] != "clean", "unit"].unique()].dropna(axis=1)  # what was read at this level
    arms = [arm for arm in dict.fromkeys(["clean", *steps_of[name].arms_read(), *wide]) if arm in wide]
    wide = wide[arms]
    truth = labels(name, task, wide.index, kind)
    who = here.drop_duplicates("unit").set_index("unit")["patient_id"].reindex(wide.index)
    patient, ids = patient_codes(who)
    known = ~np.isnan(truth)
    n = [len(set(patient[truth == value])) for value in (1, 0)]
    if min(n) < 2:
        return arms, None, *n
    options = {"n_boot": N_BOOT, "seed": settings.seed, "min_support": 2, "n_patients": len(ids), "reference": 0}
    result = resample_aurocs(
        patient[known], np.zeros(known.sum(), int), wide[known].T.to_numpy(), truth[known], 1, **options
    )
    return arms, result, *n


# %% [markdown]
# ## Clean images: how well do they read?
# Per task, on the whole test split: AUROC against the **recorded** label, and, where the patients are simulated, against the **true** one.
# Recorded labels contain mistakes by design (notebook 01), so the second is mostly higher: part of a reader's "errors" are the label's.

# %%
clean_rows = []
for name, steps in steps_of.items():
    for task in steps.readings.tasks() if name in units else []:
        for kind in ("y", "true"):
            arms, result, n_positive, n_negative = aurocs(name, task, steps.audit_level, kind)
            row = {
                "cohort": name,
                "task": task,
                "label": {"y": "recorded", "true": "true"}[kind],
                "with": n_positive,
                "without": n_negative,
            }
            row |= dict.fromkeys(("value", "low", "high"), np.nan)
            if result is not None:
                low, high = contrast(result, "level").interval()
                row |= {"value": result.value[0, 0, 0], "low": max(low[0, 0, 0], 0), "high": min(high[0, 0, 0], 1)}
            clean_rows.append(row)
clean_table = pd.DataFrame(clean_rows, columns=["cohort", "task", "label", "with", "without", "value", "low", "high"])
unknown = clean_table[(clean_table["label"] == "recorded") & clean_table["value"].isna()]
print(f"not estimable (no patient with, or none without): {', '.join(unknown['task']) or 'none'}")


# %%
def clean_performance(name):
    """Forest of clean AUROCs: recorded labels filled, true labels hollow."""
    rows = clean_table[clean_table["cohort"] == name]
    tasks = list(rows["task"].unique())
    figure, ax = plots.canvas(6.5, 1.1 + 0.3 * len(tasks))
    y, look = np.arange(len(tasks))[::-1], {"fmt": "s", "color": "#000000", "markersize": 5, "capsize": 2}
    for kind, aside, face in (("recorded", 0.13, "#000000"), ("true", -0.13, "white")):
        part = rows[rows["label"] == kind].set_index("task").loc[tasks]
        if part["value"].notna().any():
            bars = [part["value"] - part["low"], part["high"] - part["value"]]
            ax.errorbar(part["value"], y + aside, xerr=bars, **look, markerfacecolor=face, label=f"{kind} label")
    n = rows[rows["label"] == "recorded"].set_index("task")
    names = [f"{t.replace('_', ' ')} ({n['with'][t]} with, {n['without'][t]} without)" for t in tasks]
    ax.set_yticks(y, names, fontsize=8)
    ax.axvline(0.5, color="#595959", linewidth=0.8, linestyle=":")
    ax.set_xlabel("AUROC on clean images", fontsize=9)
    ax.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return captioned(figure, steps_of[name])


for name in units:
    display(run.figure(clean_performance(name), f"08_clean_{name}"))

# %% [markdown]
# ## Dice, and the rule for empty masks
# Dice is twice the overlap over the sum of both areas. Per *slice* every slice counts alike; per patient *volume* the pixels of all slices
# are pooled first, so large ones count more. Where mask **and** prediction are empty it is 0/0. Rules: leave out (ours, and the
# published one), or count as right. An empty mask with anything predicted is 0 under all of them.

# %%
from fairrecon_core.predict.patients import dice_table

if overlap:
    name, steps = next(iter(overlap)), steps_of[next(iter(overlap))]
    patients = steps.cohort.table.set_index("image_id")["patient_id"]
    overlap = {name: on_test_images(name, table) for name, table in overlap.items()}
    clean = overlap[name].query("arm == 'clean'")
    by_hand = 2 * clean["intersection"] / (clean["predicted"] + clean["actual"])
    assert np.allclose(by_hand, dice_table(clean, patients)["dice"], equal_nan=True)
    no_mask, nothing = clean["actual"] == 0, clean["predicted"] == 0
    print(
        f"{len(clean)} slices: empty mask {no_mask.sum()}, empty prediction {nothing.sum()}, both {(no_mask & nothing).sum()}"
    )

# %% [markdown]
# Means are over patients, intervals from drawing patients again, here and below:

# %%
from fairrecon_core.audit.inference import patient_bootstrap


def mean_of(values, patients, n_boot=N_BOOT):
    """Mean of patients' means with its interval."""
    found = patient_bootstrap(values, patients, n_boot=n_boot, seed=settings.seed, per="patient")
    return {"value": found.value, "low": found.low, "high": found.high, "patients": found.n_patients}


def cell(value, low, high, extra=""):
    """One number with its interval, or a dash."""
    return "-" if np.isnan(value) else f"{value:.3f} [{low:.3f}, {high:.3f}]" + (f" ({extra})" if extra else "")


table = []
for name in overlap:
    patients = steps_of[name].cohort.table.set_index("image_id")["patient_id"]
    for per in ("image", "patient"):
        for rule, empty in (("left out", np.nan), ("count as right", 1.0)):
            dice = dice_table(overlap[name].query("arm == 'clean'"), patients, per, empty)
            found = mean_of(dice["dice"], dice["patient_id"])
            row = {"cohort": name, "Dice per": {"image": "slice", "patient": "volume"}[per], "empty pairs": rule}
            table.append(
                row | {"clean": cell(found["value"], found["low"], found["high"]), "patients": found["patients"]}
            )
pd.DataFrame(table)

# %% [markdown]
# ## Figs. 7, 8, 15, 16, 17: performance against noise
# The published figures lay AUROC and PSNR over each other on two axes, so that any two curves can be made to part or to meet. Here every
# quantity has an axis of its own. And `clean` (black) is not a line but a point per level: the readers' performance on the clean images
# **of the same patients**. Where a level has only a part of the test split, clean moves too, and what counts is the distance to it.


# %%
def task_curve(name, task):
    """AUROC of one task for every arm and level, clean beside it, with the paired change from clean."""
    steps, rows = steps_of[name], []
    for level in steps.levels:
        arms, result, n_positive, n_negative = aurocs(name, task, level)
        if result is None:
            rows += [{"arm": arm, "level": level, "value": np.nan, "hollow": True} for arm in arms]
            continue
        low, high = (part[0, :, 0] for part in contrast(result, "level").interval())
        change = contrast(result, "change")
        moved = [np.r_[0.0, part[0, :, 0].clip(-1, 1)] for part in (change.estimate, *change.interval())]
        for a, arm in enumerate(arms):
            row = {"arm": arm, "level": level, "value": result.value[0, a, 0]}
            row |= {"low": max(low[a], 0), "high": min(high[a], 1)}
            row |= {"delta": moved[0][a], "delta_low": moved[1][a], "delta_high": moved[2][a]}
            rows.append(row | {"with": n_positive, "without": n_negative, "hollow": min(n_positive, n_negative) < 10})
    columns = ["arm", "level", "value", "low", "high", "delta", "delta_low", "delta_high", "with", "without", "hollow"]
    return pd.DataFrame(rows, columns=columns).assign(task=task)


# %% [markdown]
# The paper's Fig. 8 and the last rows of Table 4 average the AUROC over findings. Tasks share their patients, so the average has to be
# resampled as an average. Findings without a positive in a level's part of the split are left out of it, and their number is stated.


# %%
def average_curve(name, tasks):
    """Mean AUROC over the estimable tasks, arms and levels, from the joint resamples."""
    rows = []
    for level in steps_of[name].levels:
        found = [aurocs(name, task, level)[:2] for task in tasks]
        known = [(arms, contrast(result, "level")) for arms, result in found if result is not None]
        if not known:
            continue
        value = np.mean([each.estimate[0, :, 0] for _, each in known], axis=0)
        draws = np.array([each.deviations[:, 0, :, 0] for _, each in known])  # (tasks, resamples, arms)
        draws = np.nanmean(
            np.where(np.isfinite(draws), draws, np.nan), axis=0
        )  # a finding may be missing from a resample
        half = np.quantile(np.abs(draws), 0.95, axis=0)
        rows += [
            {"arm": arm, "level": level, "value": v, "low": max(v - h, 0), "high": min(v + h, 1), "tasks": len(known)}
            for arm, v, h in zip(known[0][0], value, half)
        ]
    return pd.DataFrame(rows, columns=["arm", "level", "value", "low", "high", "tasks"])


# %% [markdown]
# Dice needs no such care: a mean over patients of their slices, of each arm and of clean on the same slices.


# %%
def dice_curve(name):
    """Mean Dice per slice for every arm and level, clean on the same slices beside it."""
    patients, rows = steps_of[name].cohort.table.set_index("image_id")["patient_id"], []
    table = dice_table(overlap[name], patients).assign(image=overlap[name]["image_id"])
    clean = table[table["arm"] == "clean"]
    for level in steps_of[name].levels:
        here = table[(table["level"] == level) & (table["arm"] != "clean")]
        part = pd.concat([clean[clean["image"].isin(here["image"])], here])
        for arm, of_arm in part.groupby("arm", sort=False):
            rows.append({"arm": arm, "level": level} | mean_of(of_arm["dice"], of_arm["patient_id"]))
    return pd.DataFrame(rows)


curves = {(name, task): task_curve(name, task) for name in units for task in steps_of[name].readings.tasks()}
FINDINGS = {name: [task for task in steps_of[name].readings.tasks() if task != "support_devices"] for name in units}
averages = {name: average_curve(name, FINDINGS[name]) for name in units if len(FINDINGS[name]) > 2}
dices = {name: dice_curve(name) for name in overlap}

# %% [markdown]
# PSNR has its own panel, from notebook 07's table if that has run.

# %%
quality = {}
for name, steps in steps_of.items():
    if not run.has("quality"):
        print("no table of image quality yet: the PSNR panel stays away until notebook 07 has run")
        break
    table = run.read("quality", cohort=name)
    who = table["image_id"].map(steps.cohort.table.set_index("image_id")["patient_id"])
    rows = []
    for (arm, level), part in table.groupby(["arm", "level"], sort=False):
        rows.append({"arm": arm, "level": level} | mean_of(part["psnr_db"], who[part.index]))
    quality[name] = pd.DataFrame(rows)
quality = {name: table[table["level"].isin(steps_of[name].levels)] for name, table in quality.items()}


# %%
def noise_figure(name, panels):
    """Panels side by side, one quantity each: (label, frame). Control arms are left to notebook 10."""
    figure, axes = plots.canvas(3.6 * len(panels) + 1.2, 3.2, 1, len(panels), squeeze=False)
    for ax, (label, frame) in zip(axes[0], panels):
        frame = frame[~frame["arm"].isin(["placebo", "planted"])]
        order = [arm for arm in ["clean", *steps_of[name].setup.arms()] if arm in set(frame["arm"])]
        order += [arm for arm in frame["arm"].unique() if arm not in order]
        frame = frame.sort_values("arm", key=lambda column: column.map(order.index), kind="stable")
        plots.noise_curves(ax, frame, steps_of[name].cohort.modality, label)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside right upper")
    return captioned(figure, steps_of[name])


for name in steps_of:
    psnr = [("PSNR (dB)", quality[name])] if name in quality else []
    tasks = [task for task in FINDINGS.get(name, []) if name not in averages]
    panels = [(f"AUROC, {task.replace('_', ' ')}", curves[name, task]) for task in tasks]
    if name in averages:
        n = averages[name].groupby("level")["tasks"].first().reindex(steps_of[name].levels)
        panels += [(f"mean AUROC ({', '.join(f'{k:.0f}' for k in n)} findings)", averages[name])]
    panels += [("Dice per slice", dices[name])] if name in dices else []
    display(run.figure(noise_figure(name, panels + psnr), f"08_noise_{name}"))

# %% [markdown]
# **What to look for:** PSNR, AUROC and Dice do not fall together. Whether a finding is there can survive when its outline does not. At which
# level does the best reconstruction leave the black points? Is `degraded` really worse than what a network makes of it, for a *reader*?
# The number of findings in an average is stated per level, least noise first: averages over different findings are not one curve.


# %%
def findings_figure(name, tasks):
    """Fig. 17: one small panel per finding, hollow where fewer than ten patients have it, empty where it cannot be estimated."""
    columns = min(4, len(tasks))
    figure, axes = plots.canvas(
        11, 2.1 * -(-len(tasks) // columns) + 0.4, -(-len(tasks) // columns), columns, sharey=True, squeeze=False
    )
    for ax in axes.ravel()[len(tasks) :]:
        ax.axis("off")
    for ax, task in zip(axes.ravel(), tasks):
        frame = curves[name, task]
        frame = frame[~frame["arm"].isin(["placebo", "planted"])]
        plots.noise_curves(ax, frame, steps_of[name].cohort.modality, "AUROC")
        ax.tick_params(labelsize=7)
        ax.xaxis.label.set_size(8)
        few = frame.groupby("level")["with"].first().dropna()
        text = f"with: {', '.join(f'{n:.0f}' for n in few[::-1])}" if len(few) else "not estimable"
        ax.set_title(f"{task.replace('_', ' ')}\n{text}", fontsize=8)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside right upper")
    return captioned(figure, steps_of[name])


for name in averages:
    display(run.figure(findings_figure(name, FINDINGS[name]), f"08_findings_{name}"))

# %% [markdown]
# ## AUROC and Dice rows of Tables 3 and 4
# At the audited level, on the whole test split: value and 95 % interval, in brackets what the paper prints for its own patients and networks. A
# dash: not estimable. Below it the **paired change** from clean, which the paper does not give: most intervals of the table above
# overlap, because they hold the same patients; the change is known much better.

# %%
from fairrecon_lab.paper import numbers as published

printed = pd.concat([published.numbers("3"), published.numbers("4")])
printed = printed[printed["metric"].isin(["auroc", "dice"])]
in_paper = {(row.cohort == "CheXpert", row.level, row.task, row.arm): row.printed for row in printed.itertuples()}


def paper_rows(name):
    """AUROC of every task, their mean, and Dice, per arm at the audited level."""
    steps, cells = steps_of[name], {}
    frames = {task: curves[name, task] for task in steps.readings.tasks() if (name, task) in curves}
    frames |= {"average": averages[name]} if name in averages else {}
    frames |= {"segmentation": dices[name]} if name in dices else {}
    for task, frame in frames.items():
        for row in frame[frame["level"] == steps.audit_level].itertuples():
            level = steps.setup.degradation.identity_level if row.arm == "clean" else row.level
            theirs = in_paper.get((steps.cohort.modality == "xray", level, task, row.arm), "")
            text = cell(row.value, row.low, row.high, theirs)
            cells.setdefault(task.replace("segmentation", "Dice"), {})[row.arm] = text
    return pd.DataFrame(cells).T.fillna("-")


for name, steps in steps_of.items():
    display(
        paper_rows(name).style.set_caption(
            f"{note(steps)}; {plots.AXIS[steps.cohort.modality]} {steps.audit_level:,.0f}; 95 % interval; in brackets the paper"
        )
    )

# %%
changes = []
for (name, task), frame in curves.items():
    here = frame[(frame["level"] == steps_of[name].audit_level) & (frame["arm"] != "clean")]
    changes += [
        {"cohort": name, "task": task, "arm": row.arm, "change": cell(row.delta, row.delta_low, row.delta_high)}
        for row in here.itertuples()
    ]
pd.DataFrame(changes, columns=["cohort", "task", "arm", "change"]).pivot(
    index=["cohort", "task"], columns="arm", values="change"
)

# %% [markdown]
# ## Four ways to choose a threshold
# A score becomes a decision at a cut where sensitivity equals specificity. On which images? On validation images of `clean`, then kept
# for all arms (`validation_frozen`, default): a reconstruction is dropped into a running clinic. On validation images of each arm: the clinic
# retunes. On the **test labels** of each arm (published): nobody could do that. On the test labels of clean: no validation images left.

# %%
from fairrecon_core.audit.thresholds import POLICIES

thresholds = {}
for name, table in predictions.items():
    for policy in POLICIES:
        frame = chosen_thresholds(steps_of[name].cohort, table, policy)
        if len(frame):
            run.save("thresholds", frame, cohort=name, policy=policy)
            thresholds[name, policy] = frame
pd.concat(thresholds.values()).groupby(["cohort", "policy", "chosen_on"], sort=False).agg(
    {"arm": "nunique", "task": "nunique", "value": "count", "n": "median"}
)

# %% [markdown]
# Validation images of the other arms are read only when the setting `threshold_policy` is `validation_per_arm`; otherwise that policy has
# rows of `clean` alone. **What to look for** in the figure: how far the published cut wanders from arm to arm. It follows the scores, so a
# reader who became less sure of everything keeps its sensitivity, and the drift is gone from the results.


# %%
def threshold_figure(name):
    """Published cuts per arm and task as logits, beside the frozen one."""
    steps = steps_of[name]
    logit = lambda p: np.log(np.clip(p, 1e-6, 1 - 1e-6) / (1 - np.clip(p, 1e-6, 1 - 1e-6)))
    per_arm, frozen = thresholds[name, "test_per_arm"], thresholds[name, "validation_frozen"]
    per_arm = per_arm[per_arm["level"].isin([steps.audit_level, steps.setup.degradation.identity_level])]
    tasks = list(dict.fromkeys(per_arm["task"]))
    figure, ax = plots.canvas(7.5, 1.2 + 0.3 * len(tasks))
    cut = frozen.groupby("task")["value"].mean().reindex(tasks)
    y, bar = np.arange(len(tasks))[::-1], {"color": "#000000", "markersize": 15, "markeredgewidth": 2}
    ax.plot(logit(cut), y, "|", **bar, label="frozen, validation, clean")
    arms = [
        arm for arm in ["clean", *steps.setup.arms(), *per_arm["arm"].unique()] if arm not in ("placebo", "planted")
    ]
    for a, arm in enumerate(dict.fromkeys(arms)):
        value = per_arm[per_arm["arm"] == arm].groupby("task")["value"].mean().reindex(tasks)
        style = plots.arm_style(arm) | {"linestyle": "", "markersize": 5, "label": f"{arm}, own test labels"}
        ax.plot(logit(value), y + 0.09 * (a - 3), **style)
    ax.set_yticks(y, [task.replace("_", " ") for task in tasks], fontsize=8)
    ax.set_xlabel("Threshold (logit)", fontsize=9)
    ax.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    return captioned(figure, steps)


for name in predictions:
    display(run.figure(threshold_figure(name), f"08_thresholds_{name}"))

# %% [markdown]
# ## Flips and shifts: what an AUROC does not show
# AUROC looks at order only. If every score falls by half, it stays, and the clinic misses half of its patients. Two figures need no
# order: the **flip rate**, the share of decisions that differ from those on the clean image (no labels needed), and the **logit
# shift**, by how much patients with, and without, the finding moved. By hand for one task, then by the core:

# %%
from fairrecon_core.audit.metrics import flip_rate, logit, logit_shift

tested = {name: on_test_images(name, table) for name, table in predictions.items()}


def decisions(name, task, arm):
    """Scores and decisions of clean and one arm at the audited level on the same test images, with patients and labels."""
    steps = steps_of[name]
    table = tested[name][tested[name]["task"] == task]
    cuts = thresholds[name, "validation_frozen"].query("task == @task").groupby("fold")["value"].first()
    score = lambda rows: rows.groupby(["fold", "image_id"])["score"].mean()
    after = score(table[(table["arm"] == arm) & (table["level"] == steps.audit_level)])
    both = pd.DataFrame({"before": score(table[table["arm"] == "clean"]), "after": after}).dropna().reset_index("fold")
    people = steps.cohort.table.set_index("image_id").loc[both.index]
    both = both.assign(
        cut=both["fold"].map(cuts), patient=people["patient_id"], truth=people[f"y_{task}"], everybody="all"
    )
    both["moved"] = logit(both["after"]) - logit(both["before"])
    both["flipped"] = (both["after"] >= both["cut"]) != (both["before"] >= both["cut"])
    return both[both["cut"].notna()]


# %%
name = list(predictions)[-1]
task = steps_of[name].images.planted_task()
one = decisions(name, task, steps_of[name].setup.arms()[-1])
if len(one):
    by_hand = one["flipped"].groupby(one["patient"]).mean().mean()  # a mean over patients
    decided = [one[when] >= one["cut"] for when in ("after", "before")]
    assert np.isclose(by_hand, flip_rate(*decided, one["everybody"], patient_id=one["patient"])["all"])
    with_it = one[one["truth"] == 1]
    moved = with_it["moved"].groupby(with_it["patient"]).mean().mean()
    shift = logit_shift(one["after"], one["before"], one["truth"], one["everybody"], patient_id=one["patient"])
    assert np.isclose(moved, shift.loc["all", 1], equal_nan=True)
    print(f"{task}: {by_hand:.1%} of decisions flip; with the finding the logit moves by {moved:+.2f}")

# %% [markdown]
# For every task and arm, controls included, each with its interval:

# %%
shifts = []
for name, steps in steps_of.items():
    for task in steps.readings.tasks() if name in predictions else []:
        for arm in [arm for arm in predictions[name]["arm"].unique() if arm != "clean"]:
            one = decisions(name, task, arm)
            measures = {"flip rate": one["flipped"].astype(float), "logit shift, with": one["moved"].where(one["truth"] == 1),
                        "logit shift, without": one["moved"].where(one["truth"] == 0)}  # fmt: skip
            for measure, values in measures.items() if len(one) else []:
                key = {"cohort": name, "task": task, "arm": arm, "measure": measure}
                shifts.append(key | mean_of(values, one["patient"], n_boot=500))
shifts = pd.DataFrame(shifts, columns=["cohort", "task", "arm", "measure", "value", "low", "high", "patients"])


# %%
def shift_figure(name):
    """Flip rate and logit shifts per task and arm, with intervals."""
    rows = shifts[shifts["cohort"] == name]
    tasks, measures = list(rows["task"].unique()), list(rows["measure"].unique())
    arms = [arm for arm in dict.fromkeys([*steps_of[name].arms_read(), *rows["arm"]]) if arm in set(rows["arm"])]
    figure, axes = plots.canvas(11.5, 1.4 + 0.5 * len(tasks), 1, len(measures), sharey=True, squeeze=False)
    for ax, measure in zip(axes[0], measures):
        for a, arm in enumerate(arms):
            part = rows[(rows["measure"] == measure) & (rows["arm"] == arm)].set_index("task").reindex(tasks)
            y = np.arange(len(tasks))[::-1] - 0.1 * (a - (len(arms) - 1) / 2)
            style = plots.arm_style(arm) | {"linestyle": "", "markersize": 4, "elinewidth": 0.8, "label": arm}
            ax.errorbar(part["value"], y, xerr=[part["value"] - part["low"], part["high"] - part["value"]], **style)
        ax.axvline(0, color="#000000", linewidth=0.8)
        ax.set_xlabel(measure.capitalize(), fontsize=9)
        ax.locator_params(axis="x", nbins=5)
    axes[0, 0].set_yticks(np.arange(len(tasks))[::-1], [task.replace("_", " ") for task in tasks], fontsize=8)
    axes[0, -1].legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    steps = steps_of[name]
    figure.supxlabel(f"{note(steps)}; against clean at {steps.audit_level:,.0f}", fontsize=8, color="#595959")
    return figure


for name in predictions:
    if (shifts["cohort"] == name).any():
        display(run.figure(shift_figure(name), f"08_shifts_{name}"))
    else:
        print(f"{name}: no threshold could be chosen on its validation images, so there are no decisions to flip")

# %% [markdown]
# **What to look for:** an arm may flip one decision in ten and keep its AUROC. A shift of both groups to the same side is drift: the threshold
# would have to move. Towards each other is loss: the finding fades. `placebo` flips many decisions and moves nobody on average; `planted`
# moves those with the finding it harms.
#
# ## Fig. 4: the outline on every arm
# The patient is chosen by a rule: the slice whose **clean** Dice is the median among those with a tumour. Orange: the outline that the
# segmenter draws. The first picture has the true one.


# %%
def outlines_figure(name):
    """The median slice: truth, then the segmenter's outline on clean and every arm at the audited level."""
    steps = steps_of[name]
    segmenter = next(reader for reader in readers[name].values() if isinstance(reader, Segmenter))
    rows = steps.setup.rows(steps.audit_level)
    table = (
        overlap[name].query("arm == 'clean' and fold == 0").set_index("image_id").reindex(steps.setup.names_of(rows))
    )
    dice = (2 * table["intersection"] / (table["predicted"] + table["actual"])).where(table["actual"] > 0).to_numpy()
    place = np.argsort(dice, kind="stable")[(np.isfinite(dice).sum() - 1) // 2]
    truth, clean = steps.cohort.mask(rows[place]), steps.cohort.image(rows[place])
    images = {"clean": clean} | {
        arm: as_float(steps.images.get(arm, steps.audit_level)[0][place]) for arm in steps.setup.arms()
    }
    found = segmenter.masks(np.stack(list(images.values())))
    overlaps = [2 * (mask & truth).sum() / (mask.sum() + truth.sum()) for mask in found]
    titles = ["truth"] + [f"{arm}\nDice {value:.2f}" for arm, value in zip(images, overlaps)]
    return plots.image_row(
        [clean, *images.values()],
        titles,
        outlines=[truth, *found],
        note=f"{note(steps)}; {plots.AXIS[steps.cohort.modality]} {steps.audit_level:g}",
        height=1.9,
    )


for name in overlap:
    show_images(outlines_figure(name), f"08_fig_4_{name}", steps_of[name])

# %% [markdown]
# ## Grad-CAM by hand
# Where in the image does a network find evidence for *one* of its outputs? Grad-CAM weighs the feature maps of a layer by the mean gradient
# of that output and cuts off what speaks against it. A network that ends in a mean over pixels and a linear layer needs no
# gradient: the weight of map $k$ for output $c$ is known, and before the cut the map adds up to the logit less the bias.
#
# $$L_c = \max\Big(0, \sum_k \frac{w_{ck}}{hw} A_k\Big)$$

# %%
from fairrecon_core.predict.reading import grad_cam


def block(reader, layer="layer4"):
    """A convolutional block of a classifier: `layer4` is the last of a ResNet."""
    return reader.net.net.features if settings.backbone == "xrv_densenet" else getattr(reader.net, layer)


def who_answers(name, task):
    """The classifier that has the task, and the number of its output."""
    reader = next(r for r in readers[name].values() if isinstance(r, Classifier) and task in r.tasks)
    return reader, reader.tasks.index(task)


name = list(predictions)[-1]
reader, output = who_answers(name, steps_of[name].images.planted_task())
image = steps_of[name].cohort.image(steps_of[name].setup.rows(steps_of[name].audit_level)[0])
if settings.backbone.startswith("resnet"):
    kept = {}
    hook = block(reader).register_forward_hook(lambda module, inputs, maps: kept.update(maps=maps[0]))
    value = reader.outputs(image[None])[0, output]
    hook.remove()
    signed = torch.einsum("k,khw->hw", reader.net.fc.weight[output], kept["maps"]) / kept["maps"][0].numel()
    assert np.isclose(signed.sum() + reader.net.fc.bias[output], value, atol=1e-4)
    assert np.allclose(signed.clamp(min=0), grad_cam(reader.net, block(reader), image, output), atol=1e-5)
    print(
        f"{tuple(signed.shape)} cells for {image.shape[0]} pixels; logit {value:.2f} = map {signed.sum():.2f} + bias {reader.net.fc.bias[output]:.2f}"
    )

# %% [markdown]
# So a cell of the map is a part of the logit, and maps of different arms can share one scale. The layer has few cells: a heat map says
# "lower left", not "this pixel"; the colours between cells are interpolated. An earlier layer has more cells, and says less about the class.
#
# ## Fig. 5: pleural effusion, this time
# The published heat maps are those of output **0**, which in an alphabetical list is atelectasis, while the text speaks of pleural effusion;
# and each map was stretched to its own maximum. Below: the patient whose clean score for pleural effusion is the *median* among those who
# have it recorded. Upper row: the task that is named. Lower row: what the published line of code would have shown.


# %%
def median_patient(name, task):
    """Row of the cohort, and place among the images, of the recorded positive with the median clean score."""
    steps = steps_of[name]
    rows = steps.setup.rows(steps.audit_level)
    ids = steps.setup.names_of(rows)
    table = predictions[name].query("arm == 'clean' and fold == 0 and task == @task").set_index("image_id")["score"]
    score = table[~table.index.duplicated()].reindex(ids).to_numpy()
    positive = (steps.cohort.table[f"y_{task}"].iloc[rows] == 1).to_numpy()
    score = np.where(positive, score, np.nan) if positive.any() else score
    place = int(np.argsort(score, kind="stable")[(np.isfinite(score).sum() - 1) // 2])
    return rows[place], place


def shown_images(name, place, level):
    """Clean image and every arm at a level, of one place among the audited images."""
    steps = steps_of[name]
    row = steps.setup.rows(steps.audit_level)[place]
    images = {"clean": steps.cohort.image(row)}
    for arm in steps.setup.arms():
        stored, rows = steps.images.get(arm, level)
        if row in rows:
            images[arm] = as_float(stored[np.flatnonzero(rows == row)[0]])
    return images


# %% [markdown]
# The strongest cell of a row gets the full colour; what is weaker on another arm looks weaker.


# %%
def heat_figure(name, tasks, patient_task):
    """One row per task: the reader's heat map on clean and every arm; one scale per row, in parts of the logit."""
    steps = steps_of[name]
    _, place = median_patient(name, patient_task)
    images = shown_images(name, place, steps.audit_level)
    figure, axes = plots.canvas(1.75 * len(images), 2.15 * len(tasks) + 0.4, len(tasks), len(images), squeeze=False)
    for line, task in zip(axes, tasks):
        reader, output = who_answers(name, task)
        maps = [grad_cam(reader.net, block(reader), image, output) for image in images.values()]
        limit = max(max(heat.max() for heat in maps), 1e-9)
        for ax, (arm, image), heat in zip(line, images.items(), maps):
            score = reader.scores(image[None])[0, output]
            plots.draw_heat(ax, image, heat, f"{arm}\n{task.replace('_', ' ')} {score:.2f}", limit)
            ax.title.set_size(8)
    figure.supxlabel(
        f"{note(steps)}; at {steps.audit_level:,.0f}; full colour: {limit:.2f} of the logit (last row)",
        fontsize=8,
        color="#595959",
    )
    return figure


for name in predictions:
    asked = steps_of[name].images.planted_task()
    tasks = [asked] + [task for task in ("atelectasis",) if task in steps_of[name].readings.tasks()]
    show_images(heat_figure(name, tasks, asked), f"08_fig_5_{name}", steps_of[name])

# %% [markdown]
# **What to look for:** does the warm spot stay where it is on clean, and does the score? A spot that stays while the score falls is a fading
# finding; one that wanders means the reader found something else. One patient is an illustration, not evidence.


# %%
def look_at(task, arm="degraded", level="audited", layer="layer4", cohort=last.name):
    """Image, heat map and score of one arm beside clean, for the median patient of a task."""
    steps = steps_of[cohort]
    level = {"audited": steps.audit_level, "least noise": steps.levels[0], "most noise": steps.levels[-1]}[level]
    row, _ = median_patient(cohort, task)
    names, clean = steps.setup.names_of([row]), steps.cohort.image(row)
    degraded, measurement = steps.setup.degradation.measure(clean[None], level, names, settings.seed)
    options = {"image_ids": names, "seed": settings.seed, "measurement": measurement}
    image = np.asarray(degraded if arm == "degraded" else steps.weights.load(arm)(degraded, level, **options))[0]
    reader, output = who_answers(cohort, task)
    images = {"clean": clean, arm: np.clip(image, 0, 1)}
    maps = [grad_cam(reader.net, block(reader, layer), one, output) for one in images.values()]
    limit = max(max(heat.max() for heat in maps), 1e-9)
    figure, axes = plots.canvas(9.2, 2.9, 1, 4)
    for k, ((label, one), heat) in enumerate(zip(images.items(), maps)):
        plots.draw_image(axes[2 * k], one, f"{label}, {level:,.0f}" if k else label)
        plots.draw_heat(
            axes[2 * k + 1], one, heat, f"{task.replace('_', ' ')} {reader.scores(one[None])[0, output]:.2f}", limit
        )
    figure.supxlabel(
        f"{note(steps)}; patient with the median clean score among the positives", fontsize=8, color="#595959"
    )
    return figure


look_at(last.images.planted_task(), last.setup.arms()[-1])

# %% tags=["widget"]
from fairrecon_lab.widgets import slider_image

slider_image(
    look_at,
    task=tuple(last.readings.tasks()),
    arm=tuple(last.setup.arms()),
    level=("audited", "least noise", "most noise"),
    layer=("layer4", "layer3"),
    start={"task": last.images.planted_task()},
)

# %% [markdown]
# ## Check your understanding
# **1.** A reconstruction makes every logit smaller by 1. What becomes of the AUROC, and what of the sensitivity at the frozen threshold?
# Predict both, then run on one task.

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
rng = np.random.default_rng(settings.seed)
truth = np.repeat([1, 0], 500)
before = 1 / (1 + np.exp(-(1.5 * truth - 0.75 + rng.standard_normal(1000))))
after = 1 / (1 + np.exp(-(np.log(before / (1 - before)) - 1)))
sensitivity = [np.mean(score[truth == 1] >= 0.5) for score in (before, after)]
print(
    f"AUROC {auroc(truth, before):.3f} and {auroc(truth, after):.3f}; sensitivity {sensitivity[0]:.2f} and {sensitivity[1]:.2f}"
)
assert np.isclose(auroc(truth, before), auroc(truth, after)) and sensitivity[1] < sensitivity[0] - 0.2

# %% [markdown]
# **2.** A slice without tumour, nothing predicted; another, without tumour, one pixel predicted. What is their Dice under the rules above, and
# what does a mean over slices do if half of all slices are like the first?

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
area = 0.8
q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
half = lambda n1: (
    1.96 * np.sqrt((area * (1 - area) + (n1 - 1) * (q1 - area**2) + (10 * n1 - 1) * (q2 - area**2)) / (10 * n1**2))
)
needed = next(n1 for n1 in range(5, 5000) if half(n1) <= 0.03)
print(f"{needed} patients with the finding")
assert 200 < needed < 400

# %% [markdown]
# **Against Figs. 4, 5, 7, 8, 15-17 and Tables 3, 4.** Same: frozen readers trained on clean images, levels, arms, median over slices for the
# brain. Different: intervals and paired changes; one quantity per axis; clean on the same patients at every level; tasks that cannot be
# estimated are empty; thresholds from validation images; Dice of the *whole* tumour (the published mask leaves out the enhancing
# part), with the rule for empty masks stated; heat maps of the class that is named, on one scale, of a patient chosen by a rule.
# ## Takeaways
# - Readers are small, frozen and trained on clean images; against true labels most look better than against recorded ones.
# - One call per arm writes predictions and overlap; scores on clean depend on nothing else.
# - Where a threshold is chosen decides what a change means; the published cut follows every drift.
# - PSNR, AUROC and Dice do not fall together; compare with clean on the same patients, paired.
# - Decisions flip and logits drift while the AUROC stands still.
# - A heat map belongs to one class, one layer and one scale: say which.
