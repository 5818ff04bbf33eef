# %% [markdown]
# # 1. Who is in the data?
# - **You will** rebuild the paper's Tables 1 and 2; make the two simulated cohorts that every later notebook uses; turn one cause at a time and see what moves; meet a gap that exists only in the labels
# - **Time** 30 s to run, about 45 min to work through, **memory** 400 MB (tutorial); **needs** nothing; **makes** the cohorts
# - **In the paper** Sec. 3.1, Tab. 1 and 2
#
# A fairness audit compares groups of people, so the first question is who they are, how many, and what
# was written down about them. The images here are simulated: nobody was scanned, and that is the point.
# Of a simulated patient we know what is true, and we can ask what the same patient would have looked
# like with another age or sex. No real cohort can answer that.

# %% tags=["parameters"]
profile = "tutorial"  # smoke | tutorial | lgg | covid_cxr | nih | paper
overrides = {}  # for example {"seed": 1}

# %%
import numpy as np
import pandas as pd

from fairrecon_core.steps.folder import begin

settings, run = begin(profile, overrides)

# %% [markdown]
# ## A cohort is a table and images
# One row is one patient: attributes (sex, age, race), what is true of them (`true_...`), what was
# recorded (`y_...`), and how the image was taken (`x_...`). Six chest patients:

# %%
from fairrecon_lab.simulate import patient_table

chest = patient_table("chest", 20_000, seed=settings.seed)
shown = ["sex", "age_years", "race", "true_edema", "y_edema", "x_severity_edema", "x_view", "x_exposure"]
chest[shown].head(6).round(2)

# %% [markdown]
# ## Table 1 of the paper: sex and age of the brain patients
# The simulator draws from a *declared population*: a finite table of sex, race and age in years with
# exact shares. Times 501 patients, and split at 58 years, it is the paper's Table 1.

# %%
from fairrecon_lab.simulate import population

brain_people = population("brain")
band = np.where(brain_people.age_years <= 58, "young", "old")
table_1 = (501 * brain_people.groupby([band, "sex"]).weight.sum()).round().astype(int).unstack()
table_1[["male", "female"]].loc[["young", "old"]].assign(both=table_1.sum(axis=1))

# %% [markdown]
# The paper prints 147 for all young patients. 155 + 92 is 247, and only 247 makes 501 with the old:

# %%
assert table_1.to_numpy().sum() == 501 and table_1.loc["young"].sum() == 247

# %% [markdown]
# ## Table 2: sex, age and race of the chest patients

# %%
from fairrecon_lab.plots import RACE_LABELS

chest_people = population("chest")
group = chest_people.sex + ", " + np.where(chest_people.age_years <= 62, "young", "old")
table_2 = 56_810 * chest_people.groupby([group, "race"]).weight.sum().unstack()
table_2.round().astype(int).rename(columns=RACE_LABELS)

# %% [markdown]
# **What to look for:** the smallest column. A share of 0.3 % is 176 people in the paper, about 35 of
# them in its test split. How many will be in ours?

# %%
test_patients = 0.2 * settings.chest_patients
expected = (test_patients * chest_people.groupby("race").weight.sum()).sort_values().rename(index=RACE_LABELS)
expected.round(1).to_frame(f"expected among {test_patients:.0f} test patients")

# %% [markdown]
# Two or three people cannot support a rate. An audit that prints one anyway reports noise; ours says
# "not estimable" (notebook 10). `race_shares: balanced` makes six equal groups, for learning.
#
# ## Drawing a patient by hand
# One number between 0 and 1 picks a row of the population, as a pointer dropped on a line that is cut
# into pieces as long as the shares.

# %%
from fairrecon_lab.simulate.causal import uniforms

luck = uniforms(settings.seed, "chest", "attributes", (20_000, 1))[:, 0]
by_hand = chest_people.iloc[np.searchsorted(np.cumsum(chest_people.weight), luck)]

# %% [markdown]
# The core drew the same people. Patient 5 is the same in a cohort of 6 and of 20 000:

# %%
for column in ("sex", "race", "age_years"):
    assert (by_hand[column].to_numpy() == chest[column].to_numpy()).all()
assert patient_table("chest", 6, seed=settings.seed).equals(chest.head(6))

# %% [markdown]
# ## The causal graph
# Attributes can act on an image through five doors, and each has a knob in `Bias`. *Anatomy*: an older
# heart is larger. *Prevalence*: the old are ill more often. *Acquisition*: less exposure, another view.
# *Conspicuity*: the same disease shows less. *Label*: it is written down less often. A sixth arrow is
# missing on purpose: race has no anatomy here, because nobody knows what in a radiograph encodes it.

# %%
from matplotlib.patches import FancyArrowPatch

from fairrecon_lab.plots import canvas
from fairrecon_lab.simulate import Bias, as_bias

NODES = {"attributes": (0.6, 2.15), "hidden causes": (0.6, 0.5), "body": (3.1, 3.4), "view, dose": (3.1, 2.15),
         "disease": (3.1, 0.9), "image": (5.5, 2.15), "recorded label": (5.5, 0.3), "reader": (7.5, 2.15), "audit": (7.5, 0.3)}  # fmt: skip
ARROWS = [("attributes", "body", "anatomy"), ("attributes", "view, dose", "acquisition"), ("attributes", "disease", "prevalence"),
          ("disease", "image", "conspicuity"), ("disease", "recorded label", "label"), ("hidden causes", "disease", ""),
          ("hidden causes", "view, dose", ""), ("body", "image", ""), ("view, dose", "image", ""), ("image", "reader", ""),
          ("reader", "audit", ""), ("recorded label", "audit", "")]  # fmt: skip


def causal_graph(bias):
    """Arrows as wide as their knobs: black when the knob is open, dotted grey when it is shut."""
    figure, ax = canvas(8.6, 3.6)
    boxes = {name: ax.text(*place, name, ha="center", va="center", fontsize=10, zorder=3,
                           bbox={"boxstyle": "round", "fc": "#F4F6F8", "ec": "#595959"}) for name, place in NODES.items()}  # fmt: skip
    for start, end, knob in ARROWS:
        size = getattr(bias, knob) if knob else None
        colour, line, width = ("#8C8C8C", ":" if knob else "-", 1.2) if not size else ("#000000", "-", 1.2 + 1.5 * size)
        arrow = FancyArrowPatch(NODES[start], NODES[end], patchA=boxes[start].get_bbox_patch(), patchB=boxes[end].get_bbox_patch(),
                                shrinkA=6, shrinkB=6, arrowstyle="-|>", mutation_scale=12, color=colour, linestyle=line, linewidth=width)  # fmt: skip
        ax.add_patch(arrow)
        middle = np.mean([NODES[start], NODES[end]], axis=0)
        if knob:
            white = {"fc": "white", "ec": "none", "pad": 1}
            ax.text(*middle, f"{knob} {size:g}", ha="center", va="center", fontsize=9, bbox=white)
    who = f"{' or '.join(bias.group)} at a disadvantage"
    ax.set(xlim=(-0.5, 8.2), ylim=(0, 3.8))
    ax.set_title(f"Knobs of the simulated cohorts ({who})", fontsize=10)
    ax.axis("off")
    return figure


run.figure(causal_graph(as_bias(settings.bias, settings.bias_attribute)), "causal_graph")

# %% [markdown]
# Three presets: `null` shuts every knob, `realistic` opens the first three, and `injected` adds faint
# findings in one group. Conspicuity and label act for one group only, so they work where the disease does.
#
# ## Making the cohorts of this run
# Patients are split 70/10/20 before any image exists, so only the splits that are needed get drawn.
# A profile with a real cohort (`cohort_folder`) links to it instead. `training_skew` decides who trains the reconstructors, and
# whom else they never see: `female-0.25`, say. Those left out are tested like everybody.

# %%
import dataclasses

from fairrecon_core.cohort.folder import assign_splits, load_cohort, write_cohort
from fairrecon_core.settings import project_folder
from fairrecon_core.steps.setup import Setup
from fairrecon_lab.engine.lock import held
from fairrecon_lab.mitigation.trainers import leave_out
from fairrecon_lab.simulate import SIMULATOR_VERSION, TASKS, simulate


assert settings.train or not settings.training_skew, (
    "shipped weights have seen everybody: training_skew needs -p train=true"
)


def make_cohort(name):
    """Draw the patients of the wanted splits and write them, split and age cut included."""
    model = {"seed": settings.seed, "race": settings.race_shares}
    by_race = settings.bias_attribute == "race" and name == "brain" and settings.race_shares == "paper"
    model["bias"] = as_bias(settings.bias, "sex" if by_race else settings.bias_attribute)  # brain: race not recorded
    n_patients = {"brain": settings.brain_patients, "chest": settings.chest_patients}[name]
    everybody = patient_table(name, n_patients, **model)
    splits = assign_splits(everybody.patient_id, settings.seed)[everybody.patient_id]
    wanted = {*settings.splits, *(["train"] if settings.train else [])}
    chosen = np.flatnonzero(splits.isin(wanted) | (settings.n_folds > 1))  # folds need everybody
    shape = {"size": settings.image_size, "n_slices": settings.brain_slices}
    items = simulate(name, n_patients, patients=chosen, **shape, **model)
    with held(run.folder / "cohorts" / name, f"cohort {name!r}"):  # two kernels that write it would spoil it
        made = write_cohort(
            run.folder / "cohorts" / name,
            ((image, row | {"split": splits[row["patient_id"]]}, mask) for image, row, mask in items),
            name=name, seed=settings.seed, age_cut_years=settings.age_cut_years or everybody.age_years.median(),
            n_images=len(chosen) * (settings.brain_slices if name == "brain" else 1),
            n_folds=settings.n_folds, tasks=TASKS[name], extra={"simulator_version": SIMULATOR_VERSION, "bias": dataclasses.asdict(model["bias"])},
        )  # fmt: skip
        if not settings.training_skew:
            return made
        print(leave_out(made.folder, settings.training_skew))
        return load_cohort(made.folder)


# %%
def link_cohort(name):
    """Put a converted real cohort into the run: a link, not a copy."""
    place, source = run.folder / "cohorts" / name, project_folder() / settings.cohort_folder / name
    if not (source / "cohort.json").exists():
        raise FileNotFoundError(
            f"no cohort {name!r} in {settings.cohort_folder!r}: convert it with data_scripts/{name}.py"
        )
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.exists() and not settings.training_skew:
        place.symlink_to(source.resolve(), target_is_directory=True)
    if settings.training_skew:
        print(leave_out(place, settings.training_skew, source))
    return Setup(run, name).cohort  # refused if its images are not of the size that is asked for


# %% [markdown]
# Drawing is most of this notebook's time: about 10 ms an image.

# %%
make = link_cohort if settings.cohort_folder else make_cohort
cohorts = {name: make(name) for name in settings.cohorts}
for name in cohorts:
    run.wrote(run.folder / "cohorts" / name)
pd.concat({name: cohort.describe() for name, cohort in cohorts.items()}, names=["cohort"])

# %% [markdown]
# ## Contact sheets
# **What to look for:** ventricles and sulci widen with age; the yellow line is the exact outline of the
# tumour and its oedema. In the chest: breasts, the shape of the heart, catheters, fluid in a corner.

# %%
from fairrecon_lab.plots import image_row


def contact_sheet(cohort, n=6):
    """The first `n` images of different patients, with who they are."""
    rows = cohort.table.drop_duplicates("patient_id").head(n)
    ages = rows.age_years.map("{:.0f} y".format).replace("nan y", "age unknown")
    titles = [f"{sex}, {age}" if sex != "unknown" else age for sex, age in zip(rows.sex, ages)]
    outlines = None if cohort.masks is None else cohort.masks_at(rows.row.to_numpy())
    origin = "simulated" if "simulator_version" in cohort.info else f"real: {cohort.name}"
    return image_row(cohort.images_at(rows.row.to_numpy()), titles, outlines=outlines, note=origin, height=2.2)


run.figure(contact_sheet(cohorts[settings.cohorts[0]]), "contact_sheet_first")

# %%
run.figure(contact_sheet(cohorts[settings.cohorts[-1]]), "contact_sheet_last")

# %% [markdown]
# ## The same patient, once more
# Every patient has three streams of luck (attributes, body and disease, labels) that never read one
# another. So we can change an attribute and keep all else: a *counterfactual*. First the proof that
# nothing leaks. At `null` another sex and age must not move a single bit:

# %%
from fairrecon_lab.simulate import counterfactual

women = chest.head(500).query("sex == 'female' and true_pleural_effusion == 1")
patient = int(women.x_severity_pleural_effusion.idxmax())
as_is = counterfactual("chest", patient, settings.seed, 64, bias="null")[0]
changed = counterfactual("chest", patient, settings.seed, 64, bias="null", sex="male", age_years=85)[0]
assert as_is.tobytes() == changed.tobytes()

# %% [markdown]
# With `realistic` knobs it does move. **What to look for:** the brain at 85, the chest of a man.

# %%
WORLDS = [{"sex": sex, "age_years": age} for sex in ("female", "male") for age in (25, 55, 85)]


def strip(name, patient, bias="realistic", size=128):
    """One patient in six worlds that differ in sex and age only."""
    images = [counterfactual(name, patient, settings.seed, size, bias, **world)[0] for world in WORLDS]
    titles = [f"{world['sex']}, {world['age_years']} y" for world in WORLDS]
    return image_row(images, titles, note="simulated", height=2.2)


run.figure(strip("brain", 3), "counterfactual_brain")

# %%
run.figure(strip("chest", patient), "counterfactual_chest")

# %% [markdown]
# Now one patient with sliders. `conspicuity` is injected against women: with the sex set to female the
# fluid at the lung's foot fades as it grows; with male nothing happens.


# %%
def show_patient(age_years=60, sex="female", conspicuity=0.0, name="chest", patient=patient):
    """Draw one patient as they would be, and what differs from the patient at the sliders' start."""
    start, now = (
        counterfactual(name, patient, settings.seed, settings.image_size, knob, sex=s, age_years=age)[0]
        for knob, s, age in ((0.0, "female", 60), (conspicuity, sex, age_years))
    )
    titles = ["female, 60 y", f"{sex}, {age_years} y, injected {conspicuity:g}", "difference (grey: none)"]
    return image_row([start, now, np.clip(0.5 + now - start, 0, 1)], titles, note="simulated", height=3.2)


show_patient(age_years=60, sex="female", conspicuity=2.0)

# %% tags=["widget"]
from fairrecon_lab.widgets import slider_image

slider_image(
    show_patient, age_years=[20, 30, 40, 50, 60, 70, 80, 90], sex=("female", "male"), conspicuity=[0.0, 0.5, 1.0, 1.5, 2.0],
    name=("chest", "brain"), start={"age_years": 60},
)  # fmt: skip

# %% [markdown]
# ## The trap: a gap that is only in the labels
# Open the label knob alone: nothing about bodies, images or diseases differs between women and men, but
# women's oedema is left out of the report more often. A *reference reader* sees severity plus noise and
# calls "oedema" above a threshold. Its rates by hand, against the truth and against the record:

# %%
label_bias = Bias(anatomy=0, prevalence=0, acquisition=0, label=1)
people = patient_table("chest", 100_000, seed=settings.seed, bias=label_bias)
noise = np.random.default_rng([settings.seed, 1]).standard_normal(len(people))
called = people.x_severity_edema + 0.5 * noise > 0.8


def rates(label):
    """Share called positive among those with the label (TPR) and without it (FPR), per sex."""
    shares = called.groupby([people[label].rename("label"), people.sex]).mean().unstack(0)
    return shares.rename(columns={1: "TPR", 0: "FPR"})[["TPR", "FPR"]]


by_hand = pd.concat({"truth": rates("true_edema"), "record": rates("y_edema")}, axis=1)
by_hand.round(3)

# %% [markdown]
# The core knows these rates without drawing anybody: they are sums over the declared population of a
# normal-plus-exponential tail. With prevalence $p$, miss rate $f$ and false-label rate $q$, the recorded one is
#
# $$\mathrm{FPR}' = \frac{p f\,\mathrm{TPR} + (1-p)(1-q)\,\mathrm{FPR}}{p f + (1-p)(1-q)}$$
#
# A missed case among the "negatives" is rightly called positive, and counted as a false alarm.

# %%
from fairrecon_lab.simulate import reference_rates

exact = reference_rates("chest", "edema", sigma=0.5, threshold=0.8, bias=label_bias)
columns = ["tpr", "fpr", "tpr_recorded", "fpr_recorded"]
assert np.abs(by_hand.to_numpy() - exact[columns].to_numpy()).max() < 0.02
exact[columns].round(3)

# %% [markdown]
# **What to look for:** the truth is level, the record is not. An audit of recorded labels would accuse
# the reader of false alarms in women, and no image would be to blame.

# %%
from fairrecon_lab.plots import error_bars


def draw_trap(n):
    """Gaps (female minus male) that an audit of `n` patients sees, and the exact ones as lines."""
    figure, ax = canvas(6.4, 2.8)
    sample = people.head(n)
    for x, (label, rate, column) in enumerate([("true_edema", 1, "tpr"), ("true_edema", 0, "fpr"),
                                               ("y_edema", 1, "tpr_recorded"), ("y_edema", 0, "fpr_recorded")]):  # fmt: skip
        parts = [called[sample.index][(sample[label] == rate) & (sample.sex == sex)] for sex in ("female", "male")]
        gap = parts[0].mean() - parts[1].mean()
        half = 1.96 * np.sqrt(sum(part.var(ddof=0) / len(part) for part in parts))
        error_bars(ax, [x], [gap], [gap - half], [gap + half], "clean", label="audit, 95 % interval" if x == 0 else "_")
        truth = exact[column]["female"] - exact[column]["male"]
        ax.plot(
            [x - 0.3, x + 0.3],
            [truth, truth],
            color="#595959",
            linewidth=3,
            alpha=0.6,
            label="exact" if x == 0 else "_",
        )
    ax.axhline(0, color="#595959", linewidth=0.8)
    ax.set_xticks(range(4), ["TPR\ntrue labels", "FPR\ntrue labels", "TPR\nrecorded", "FPR\nrecorded"])
    ax.set(ylabel="female minus male", title=f"Label bias alone, simulated, n = {n:,}")
    ax.legend(frameon=False, fontsize=9)
    return figure


run.figure(draw_trap(20_000), "label_bias_trap")

# %% [markdown]
# ## Real cohorts beside the simulated ones
# Once `data_scripts/` has converted a real cohort and a profile has used it, it shows up here.

# %%
others = [load_cohort(file.parent) for file in sorted(run.folder.parent.glob("*/cohorts/*/cohort.json"))]
real = {cohort.name: cohort for cohort in others if "simulator_version" not in cohort.info}
print(f"real cohorts found: {', '.join(real) or 'none yet (see data_scripts/)'}")
pd.concat({name: c.describe().patients for name, c in (cohorts | real).items()}, axis=1).fillna(0).astype(int)

# %%
contact_sheet(next(iter(real.values()), cohorts[settings.cohorts[0]]))

# %% [markdown]
# **What gives the simulation away.** Brains have no skull, vessels or flow artefacts, and nuclei stay
# flat. Chests have ribs that are too regular, no text markers, no lateral views, and one idea of each
# finding. Nothing was fitted to patients: a network trained here has learned this simulator. What carries
# over is the method, and whether an audit finds a bias whose size we know.
#
# ## Check your understanding
# **1.** How large must a test split be so that, on average, it holds ten AI/AN patients *with* oedema
# (prevalence 0.26)? Guess the order of magnitude, then run.

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
share = chest_people.weight[chest_people.race == "native_american"].sum()
needed = 10 / (share * 0.261)
print(f"{needed:,.0f} test patients")
assert 10_000 < needed < 15_000, "a fifth of the paper's 56 810 is just about enough"

# %% [markdown]
# **2.** Which single knob lowers the *true* TPR of women's oedema? Predict, then try each: `Bias(0, 0, 0, conspicuity=1)`
# opens one and shuts the others, and `reference_rates("chest", "edema", bias=...).tpr` gives the TPR of both sexes.

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
gaps = {}
for knob in ("anatomy", "prevalence", "acquisition", "conspicuity", "label"):
    off = {"anatomy": 0, "prevalence": 0, "acquisition": 0}
    tpr = reference_rates("chest", "edema", bias=Bias(**(off | {knob: 1}))).tpr
    gaps[knob] = float(tpr["female"] - tpr["male"])
print({knob: round(gap, 3) for knob, gap in gaps.items()})
assert min(gaps, key=gaps.get) == "conspicuity" and abs(gaps["label"]) < 1e-9

# %% [markdown]
# **3.** Reverse the injected bias, so that men are at a disadvantage. What happens to the gap's sign?

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
both = {}
for group in ("female", "male"):
    bias = Bias(0, 0, 0, conspicuity=1, group=group)
    tpr = reference_rates("chest", "edema", bias=bias).tpr
    both[group] = tpr["female"] - tpr["male"]
assert np.isclose(both["female"], -both["male"]), "same size, other sign"

# %% [markdown]
# <details><summary><b>4.</b> Acquisition made no gap in exercise 2. Does less exposure harm nobody?</summary>
# The reference reader sees severity, not pixels, so dose cannot reach it. A network sees pixels. What dose does
# to it has no formula; <code>true_gap_by_monte_carlo</code> measures it on a large fresh cohort.</details>
#
# **Against Tables 1 and 2.** Same: every count, in expectation, with the misprint mended. Different:
# race is not recorded for the brain, as in the paper; findings rarer than 8 % are raised to 8 %, so that
# a small cohort has positives; slopes of disease on age and sex are stylised for the chest and fitted to
# the public metadata of UCSF-PDGM for the brain.
# ## Takeaways
# - Tables 1 and 2 follow from a declared population; its rarest group is too small for any rate.
# - The run now holds a brain and a chest cohort, split by patient, each image reproducible from its seed.
# - Five doors lead from attribute to image and label; with all shut, sex and age change no bit.
# - Label bias alone makes a fair reader look unfair: a recorded gap does not say where it comes from.
