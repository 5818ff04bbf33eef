# %% [markdown]
# # 11. The paper against ours, and the paper against chance
# - **You will** read all seven tables of the paper beside this run's numbers, and know which may be compared; see which printed gaps are no larger
#   than equal rates would print; prove from the print alone how EODD was averaged; weigh the paper's claims one by one; turn one evaluation
#   choice at a time
# - **Time** 35 s, **memory** 1000 MB (tutorial); **needs** nothing, and shows more if 01, 07, 08 and 10 have run; **makes** nothing
# - **In the paper** Tab. 1-7, Fig. 2-21

# %% tags=["parameters"]
profile = "tutorial"  # smoke | tutorial | lgg | covid_cxr | nih | paper
overrides = {}  # for example {"seed": 1}

# %%
import numpy as np
import pandas as pd
from IPython.display import Markdown, display

from fairrecon_lab import plots
from fairrecon_lab.paper import numbers as published
from fairrecon_core.steps.folder import begin

settings, run = begin(profile, overrides)
pd.set_option("display.max_rows", 70, "display.max_colwidth", 120)

# %% [markdown]
# ## 638 printed numbers
# `published.csv` beside the core holds every number of Tables 1 to 7, each read twice in the paper's text. A few have to be doubted. Start with the
# first table, by hand: patients by sex and age.

# %%
rows = {"Young": (155, 92, 147), "Old": (144, 110, 254)}  # male, female, total as printed
for name, (male, female, total) in rows.items():
    print(f"{name}: {male} + {female} = {male + female}, printed {total}")

# %% [markdown]
# The first total is a misprint: 247, not 147, makes 501 with the 254 below. The core has the same numbers, as printed, with a note:

# %%
numbers = published.numbers()
table_one = published.paper_table("1", "value")
assert table_one.loc[["Young", "Old"]].to_numpy(int).tolist() == [list(row) for row in rows.values()]
overview = numbers.assign(doubtful=numbers["note"] != "").groupby("table")
pd.concat(
    [overview.size().rename("cells"), overview["doubtful"].sum(), pd.crosstab(numbers["table"], numbers["origin"])],
    axis=1,
)

# %% [markdown]
# Why a print is doubted, and how often. *Lost*, *slides*, *figure*: the text that we have lost Table 3's last column; the authors' slides and figures give
# all but two of its numbers. *Copied*: the published code fills the tumour baselines of Table 5 from the U-Net's column, so these eight are no
# baselines, and one of the U-Net's cells is coloured as significantly worse than its own copy.

# %%
doubts = numbers[numbers["note"] != ""].assign(note=numbers["note"].str.replace(r"^printed Atal.*?; ", "", regex=True))
doubts["note"] = doubts["note"].str.replace(
    r"label displaced.*", "photon count or metric label displaced in the text", regex=True
)
doubts.groupby(["table", "note"], sort=False).size().rename("cells").reset_index()

# %% [markdown]
# ## This run's numbers
# Each table of the run gives its share: the cohort Tables 1 and 2, image quality the PSNR and LPIPS of 3 and 4 and all of 6 and 7, predictions the AUROCs and
# Table 5, overlaps the Dice. What has not been made is missing, not guessed. Our names (arm, level, task, metric) find the paper's cells:

# %%
PAPER = {"mri": "UCSF-PDGM", "xray": "CheXpert"}
REAL = {"ucsf_pdgm": "UCSF-PDGM", "chexpert": "CheXpert"}
COLUMNS = ["table", "row", "column", "value", "low", "high", "source", "definition"]
cohorts = {name: run.cohort(name) for name in settings.cohorts if run.has(name)}
tables = {name: run.read(name) for name in ("quality", "predictions", "overlap", "audit") if run.has(name)}
parts = []


def rows_of(table, cohort):
    """Rows of one cohort in a table of this run; empty where there are none."""
    return tables[table].query("cohort == @cohort.name") if table in tables else pd.DataFrame()


def source(cohort):
    """Name of the data, as the paper would call it."""
    return "simulated" if "simulator_version" in cohort.info else REAL.get(cohort.name, cohort.name)


def place(frame, cohort, definition=""):
    """Put our rows on the paper's cells; what the paper has no cell for is left out."""
    on = ["cohort", *(name for name in ("level", "arm", "task", "attribute", "metric") if name in frame)]
    frame = frame.assign(cohort=PAPER[cohort.modality], source=source(cohort), definition=definition)
    return frame.merge(numbers[["table", "row", "column", *on]], on=on).reindex(columns=COLUMNS)


def tested(cohort):
    """Rows of the cohort that are evaluated."""
    return cohort.table[(cohort.table["split"] == "test") | (settings.n_folds > 1)]


# %%
def count_people(cohort):
    """Tables 1 and 2: patients by sex, age group and, for chest, race."""
    people = cohort.table.drop_duplicates("patient_id").query("sex != 'unknown' and age_group != 'unknown'")
    sex, age = people["sex"].str.capitalize(), people["age_group"].str.capitalize()
    row, column, table = age, sex, "1"
    if cohort.modality == "xray":
        row, column, table = sex + ", " + age, people["race"].map(plots.RACE_LABELS), "2"
        row, column = row[column != "unknown"], column[column != "unknown"]
    counts = pd.crosstab(row.rename("row"), column.rename("column"), margins=True, margins_name="All")
    frame = counts.stack().rename("value").reset_index().assign(table=table, low=np.nan, high=np.nan)
    missing = "no training patients" if (cohort.table["split"] == "train").sum() == 0 else ""
    return frame.assign(source=source(cohort), definition=missing)


parts += [count_people(cohort) for cohort in cohorts.values()]

# %% [markdown]
# Means and AUROCs with their 95 % interval over patients. As in the paper, a brain patient's score is the median over the slices, and Dice is averaged over the
# slices and then over the patients.

# %%
from functools import cache

from fairrecon_core.audit.engine import patient_codes, patient_weights, weighted_auroc
from fairrecon_core.audit.inference import patient_bootstrap
from fairrecon_core.audit.metrics import dice

N_BOOT = min(settings.n_boot, 200)
ARMS = ("clean", "unet", "pix2pix", "sde")  # the paper's


@cache
def patient_scores(name):
    """Predictions on tested rows; of MRI one row per patient (the median), named after the patient's first image."""
    cohort = cohorts[name]
    scores = rows_of("predictions", cohort).query("arm in @ARMS")
    scores = scores.merge(tested(cohort)[["image_id", "patient_id"]], on="image_id")
    if cohort.modality == "mri":
        scores["image_id"] = scores.groupby("patient_id")["image_id"].transform("first")
    keys = ["image_id", "patient_id", "arm", "level", "task"]
    return scores.groupby(keys, as_index=False)["score"].median()


# %%
def aurocs(cohort):
    """AUROC of every arm, level and task, and their average over the tasks, with intervals."""
    scores = patient_scores(cohort.name)
    patient, ids = patient_codes(scores["patient_id"])
    weights = np.concatenate(list(patient_weights(len(ids), N_BOOT, settings.seed)))
    labels = cohort.table.set_index("image_id")
    rows, drawn = [], {}
    for (arm, level, task), part in scores.groupby(["arm", "level", "task"]):
        truth = labels.loc[part["image_id"], f"y_{task}"].to_numpy()
        known = ~np.isnan(truth)
        if len(np.unique(truth[known])) == 2:
            who, score = patient[part.index[known]], part["score"].to_numpy()[known]
            draws = np.append(weighted_auroc(score, truth[known]), weighted_auroc(score, truth[known], weights[:, who]))
            drawn.setdefault((arm, level), []).append(draws)
            rows.append([arm, level, task, draws])
    rows += [[*key, "average", np.mean(draws, axis=0)] for key, draws in drawn.items() if cohort.modality == "xray"]
    frame = pd.DataFrame(rows, columns=["arm", "level", "task", "draws"]).assign(metric="auroc")
    value, half = frame["draws"].str[0], 1.96 * frame["draws"].map(lambda draws: np.std(draws[1:]))
    return frame.assign(value=value, low=value - half, high=value + half)


# %%
def means_of(cohort, table, columns):
    """Mean of quality or overlap columns of every arm and level over the tested images, with intervals."""
    frame = rows_of(table, cohort).merge(tested(cohort)[["image_id", "patient_id"]], on="image_id")
    if table == "overlap":
        frame["dice"] = dice(frame["intersection"], frame["predicted"], frame["actual"])
    rows = []
    for (arm, level), part in frame.groupby(["arm", "level"]):
        for column in columns if table == "overlap" or arm != "clean" else ():
            per = "patient" if cohort.modality == "mri" else "row"
            found = patient_bootstrap(part[column], part["patient_id"], n_boot=N_BOOT, seed=settings.seed, per=per)
            task = "segmentation" if column == "dice" else "quality"
            rows.append([arm, level, task, column, found.value, found.low, found.high])
    return pd.DataFrame(rows, columns=["arm", "level", "task", "metric", "value", "low", "high"])


for cohort in cohorts.values():
    if len(rows_of("predictions", cohort)):
        parts.append(place(aurocs(cohort), cohort))
    if len(rows_of("quality", cohort)):
        parts.append(place(means_of(cohort, "quality", ["psnr_db", "lpips"]), cohort))
    if len(rows_of("overlap", cohort)):
        parts.append(place(means_of(cohort, "overlap", ["dice"]), cohort))

# %% [markdown]
# Tables 5 to 7 as the paper computes them: the mean over resamples of the largest gap, thresholds on the test labels, empty subgroups at 1 (chest) or 0 (brain). The
# interval beside Table 5 is that of the *plain* gap, from notebook 10: where our value lies outside of it, that is the estimator's bias.

# %%
from fairrecon_lab.paper.evaluation import published_audit, published_psnr_gap, published_segmentation

ATTRIBUTES = {"mri": ("sex", "age_group"), "xray": ("sex", "age_group", "race")}
LEVEL = {"mri": settings.mri_audit_level, "xray": settings.xray_audit_level}


def with_intervals(frame, cohort, attribute):
    """Levels of the arms, and the intervals that notebook 10 has saved for these gaps."""
    identity = {"mri": 1.0, "xray": np.inf}[cohort.modality]
    level = np.where(frame["arm"] == "clean", identity, LEVEL[cohort.modality])
    frame = frame.assign(attribute=attribute, level=level, low=np.nan, high=np.nan)
    if "audit" not in tables:
        return frame
    saved = tables["audit"].query("baseline_arm == 'clean' and subgroup == '' and estimator == 'plug_in'")
    saved = saved.query("attribute == @attribute and cohort == @cohort.name and level == @LEVEL[@cohort.modality]")
    on = ["arm", "task", "metric"]
    saved = saved.drop_duplicates(on).rename(columns={"ci_low": "low", "ci_high": "high"})[[*on, "low", "high"]]
    return frame.drop(columns=["low", "high"]).merge(saved, on=on, how="left")


def table_five(cohort, attribute):
    """EODD and EOP of every arm and task, the published way."""
    scores, rows = patient_scores(cohort.name), tested(cohort)
    scores = scores[scores["arm"].eq("clean") | scores["level"].eq(LEVEL[cohort.modality])]
    empty = 0.0 if cohort.modality == "mri" else 1.0
    if not any(rows[f"y_{task}"].nunique() == 2 for task in scores["task"].unique()):
        return pd.DataFrame(
            columns=["arm", "level", "task", "attribute", "metric", "value"]
        )  # a smoke run may lack a label
    frame = published_audit(scores, rows, attribute, n_boot=N_BOOT, empty_tpr=empty, seed=settings.seed)
    return with_intervals(frame, cohort, attribute)


# %%
def patient_means(frame, cohort, column):
    """One row per patient of MRI or image of X-ray at the audited level, one column per arm."""
    frame = frame[frame["arm"].eq("clean") | frame["level"].eq(LEVEL[cohort.modality])]
    unit = "patient_id" if cohort.modality == "mri" else "image_id"
    frame = frame.merge(tested(cohort)[["image_id", "patient_id"]], on="image_id")
    return frame.pivot_table(index=unit, columns="arm", values=column, aggfunc="mean").dropna(), unit


def dice_gaps(cohort, attribute):
    """SER and Delta Dice of every arm."""
    frame = rows_of("overlap", cohort).copy()
    frame["dice"] = dice(frame["intersection"], frame["predicted"], frame["actual"])
    wide, unit = patient_means(frame, cohort, "dice")
    group = cohort.table.drop_duplicates(unit).set_index(unit).loc[wide.index, attribute]
    known = (group != "unknown").to_numpy()
    gaps = published_segmentation(
        {arm: wide[arm][known] for arm in wide}, group[known], n_boot=N_BOOT, seed=settings.seed
    )
    return with_intervals(gaps.assign(task="segmentation"), cohort, attribute)


def psnr_gaps(cohort, attribute):
    """Tables 6 and 7: largest PSNR gap in per cent, and its published p-value."""
    wide, unit = patient_means(rows_of("quality", cohort).query("arm != 'clean'"), cohort, "psnr_db")
    group = cohort.table.drop_duplicates(unit).set_index(unit).loc[wide.index, attribute]
    rows = []
    for arm in wide:
        gap = published_psnr_gap(
            wide[arm][group != "unknown"], group[group != "unknown"], n_boot=N_BOOT, seed=settings.seed
        )
        rows += [[arm, "psnr_gap_percent", gap["percent"]], [arm, "p_value", gap["p_value"]]]
    frame = pd.DataFrame(rows, columns=["arm", "metric", "value"])
    return frame.assign(attribute=attribute, level=LEVEL[cohort.modality], low=np.nan, high=np.nan)


# %% [markdown]
# Now every attribute that at least two known subgroups make comparable; a real cohort may lack the race, or the masks.

# %%
for cohort in cohorts.values():
    recorded = [a for a in ATTRIBUTES[cohort.modality] if len(set(cohort.table[a]) - {"unknown"}) > 1]
    for attribute in recorded:
        for table, compute in (("predictions", table_five), ("overlap", dice_gaps), ("quality", psnr_gaps)):
            if len(rows_of(table, cohort)):
                parts.append(place(compute(cohort, attribute), cohort))

# %% [markdown]
# ## Side by side
# Printed on the left of each cell, ours on the right, a dash where this run has nothing (without a bar: nothing in the whole table). On simulated patients the pairs are **not** comparable: they show
# the form of the paper's result, and that the whole chain reaches it. The last line counts what may be compared, and why the rest may not.

# %%
ours = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=COLUMNS)
compared = published.compare(ours)


def side_by_side(table):
    """One table in the paper's form, "printed | ours"."""
    rows = compared[compared["table"] == table].merge(numbers[["table", "row", "column", "printed", "metric"]])
    digits = (
        rows["printed"]
        .str.partition(".")[2]
        .str.len()
        .where(rows["printed"] != "", 2)
        .where(rows["metric"] != "p_value", 3)
    )
    mine = [" | -" if np.isnan(value) else f" | {value:.{d}f}" for value, d in zip(rows["ours"], digits)]
    rows["both"] = rows["printed"].replace("", "lost") + (mine if rows["ours"].notna().any() else "")
    wide = rows.pivot(index="row", columns="column", values="both")
    return wide.reindex(index=rows["row"].unique(), columns=rows["column"].unique()).fillna("")


reasons = compared["why_not"].str.split(";").str[0].replace("", "comparable").value_counts()
print(f"{compared['ours'].notna().sum()} of {len(compared)} numbers have a counterpart in this run")
reasons.rename("cells").to_frame()

# %%
for table in ("1", "2", "3"):
    display(Markdown(f"**Table {table}**: printed | ours"), side_by_side(table))

# %%
for table in ("4", "6", "7"):
    display(Markdown(f"**Table {table}**: printed | ours"), side_by_side(table))

# %%
for table, name in (("5a", "sex"), ("5b", "age"), ("5c", "race")):
    display(Markdown(f"**Table 5, {name}**: printed | ours, both as bootstrap means"), side_by_side(table))

# %% [markdown]
# ## Sixteen result figures and their counterparts
# Each has a notebook that redraws it, with intervals, one axis per quantity and a noise band where it shows a gap. (Fig. 1 is the pipe of
# notebook 00; 6, 9, 14 and 18 are legends.) The last column names the pictures that this run has drawn.

# %%
from fairrecon_core.settings import project_folder

lines = ["| Fig. | what it shows | counterpart | pictures of this run |", "|---|---|---|---|"]
for figure, (shows, number, name) in published.FIGURES.items():
    pages = sorted((project_folder() / "notebooks").glob(f"{number}_*.ipynb"))
    link = f"[notebook {number}]({pages[0].name})" if pages else f"notebook {number}"
    drawn = sorted(path.stem for path in (run.folder / "figures").glob(f"{name}*.png"))
    lines.append(f"| {figure} | {shows} | {link} | {', '.join(drawn) or '-'} |")
display(Markdown("\n".join(lines)))

# %% [markdown]
# ## The printed gaps against chance
# A largest-minus-smallest gap is never negative, and grows as groups shrink. So: what would the paper have printed if **all groups had the same rates**?
# Everybody gets the TPR and FPR that the printed AUROC implies at sensitivity = specificity; group shares come from Table 2; the number of
# positives from CheXpert's public label counts (from memory, so the slider also halves and doubles them). Then: draw decisions, resample
# images, average the gaps, exactly as the paper does. First by hand, for one finding and two groups:

# %%
rng = np.random.default_rng(settings.seed)
positives, _ = published.expected_counts("fracture")
share = published.subgroup_shares("sex")["female"]
women, men = round(positives * share), round(positives * (1 - share))
tpr = published.rate_at_equal_errors(0.757)  # of everybody
gap = np.abs(rng.binomial(women, tpr, 4000) / women - rng.binomial(men, tpr, 4000) / men)
print(
    f"fracture: {women} women and {men} men with one; both have TPR {tpr:.3f}; the gap is {gap.mean():.3f} on average"
)

# %% [markdown]
# The core does the same for any number of groups, also for EODD, and for the mean over resamples that Table 5 prints:

# %%
two = published.null_gaps(positives, positives, [share, 1 - share], tpr, 1 - tpr, estimator="plug_in", n_draws=4000)
assert abs(two[:, 1].mean() - gap.mean()) < 4 * gap.std() / np.sqrt(2000)

# %%
from fairrecon_core.audit.gaps import noise_band

clean = numbers[(numbers["table"] == "4") & (numbers["arm"] == "clean") & (numbers["slides"] != "")].drop_duplicates(
    "task"
)
AUROC = clean.set_index("task")["slides"].astype(float)


@cache
def null_of(attribute, task, label_counts, design_effect):
    """EODD and EOP of 200 worlds in which all subgroups have the rates that the printed AUROC implies."""
    rate, n = published.rate_at_equal_errors(AUROC[task]), published.expected_counts(task, label_counts)
    shares = published.subgroup_shares(attribute)
    return published.null_gaps(*n, shares, rate, 1 - rate, design_effect=design_effect, n_draws=200, n_inner=60)


def chance_rows(attribute="race", metric="eop", label_counts=1.0, design_effect=1.0):
    """Printed gaps of every finding, and the band that equal rates would give."""
    part = numbers[
        numbers["table"].str.startswith("5") & (numbers["attribute"] == attribute) & (numbers["metric"] == metric)
    ]
    wide, rows = part.pivot(index="task", columns="arm", values="value"), []
    for task in published.LABEL_COUNTS:
        band = noise_band(null_of(attribute, task, label_counts, design_effect)[:, ("eodd", "eop").index(metric)])
        rows.append([task, published.expected_counts(task, label_counts)[0], *band, *wide.loc[task, list(ARMS)]])
    return pd.DataFrame(rows, columns=["task", "positives", "expected", "low", "high", *ARMS])


# %%
def against_chance(attribute="race", metric="eop", label_counts=1.0, design_effect=1.0):
    """Printed gaps on clean images and after reconstruction, on the grey band of equal rates."""
    rows = chance_rows(attribute, metric, label_counts, design_effect).sort_values("expected")
    figure, ax = plots.canvas(9, 4.4)
    y = np.arange(len(rows))
    ax.barh(y, rows["high"] - rows["low"], left=rows["low"], height=0.66, color="#DDDDDD", label="equal rates, 95 %")
    ax.plot(rows["expected"], y, "|", color="#595959", markersize=13, label="equal rates, mean")
    for arm in ("unet", "pix2pix", "sde"):
        style = plots.arm_style(arm)
        ax.plot(rows[arm], y, style["marker"], color=style["color"], markersize=4.5, markerfacecolor="none", label=arm)
    ax.plot(rows["clean"], y, "s", color="#000000", markersize=5.5, label="printed, clean")
    ax.set_yticks(
        y,
        [f"{task.replace('_', ' ')} (about {n:,} positives)" for task, n in zip(rows["task"], rows["positives"])],
        fontsize=8,
    )
    ax.set_xlim(left=0)
    beyond = int((rows["clean"] > rows["high"]).sum())
    ax.set_xlabel(
        f"{metric.upper()} by {attribute.replace('_', ' ')}, Table 5; {beyond} of {len(rows)} clean gaps beyond the band",
        fontsize=9,
    )
    ax.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


run.figure(against_chance(), "11_race_against_chance")

# %% tags=["widget"]
from fairrecon_lab.widgets import slider_image

slider_image(
    against_chance, attribute=("race", "sex", "age_group"), metric=("eop", "eodd"), label_counts=[0.5, 1.0, 2.0],
    design_effect=[1.0, 1.5, 2.0], start={"label_counts": 1.0},
)  # fmt: skip

# %% [markdown]
# **What to look for:** the order of the findings. Where Table 5c prints a large gap, there are few positives, and equal rates would print a large gap as well.
# Several images of one patient make the band wider still (the slider's design effect). All attributes in one table:

# %%
from scipy.stats import spearmanr

chance = {(a, m): chance_rows(a, m) for a in ("sex", "age_group", "race") for m in ("eodd", "eop")}
verdict = pd.DataFrame(
    {
        key: {
            "printed, mean": rows["clean"].mean(),
            "equal rates, mean": rows["expected"].mean(),
            "beyond the band": f"{(rows['clean'] > rows['high']).sum()} of {len(rows)}",
            "rank correlation": spearmanr(rows["expected"], rows["clean"]).statistic,
        }
        for key, rows in chance.items()
    }
).T
verdict

# %% [markdown]
# Three different answers. **Race** is what equal rates would print, but for fracture. **Age** is far beyond chance: those gaps are real (a
# gap says nothing yet about its cause: older patients look different and are ill more often). **Sex** is about half noise, and
# clearly more than noise for some findings, pneumothorax first.
#
# ### The brain tables
# A hundred test patients, about 60 men and 40 women. If everybody's Dice came from one distribution (mean .72; its spread, .20 to .25, is
# assumed), and every group had the same error rates in the tumour tasks:

# %%
SIZES = {"sex": (60, 41), "age_group": (50, 51)}
NEGATIVES = {"tumour_grade": 20, "tumour_type": 25}  # of 101, from the prevalence in the whole cohort
five = numbers[numbers["table"].str.startswith("5")]
rows = []
for attribute, sizes in SIZES.items():
    for metric, k in (("ser", 0), ("delta_dice", 1)):
        bands = np.array([noise_band(published.null_dice_gaps(sizes, 0.72, sd)[:, k]) for sd in (0.20, 0.25)])
        rows.append([attribute, "segmentation", metric, *bands.mean(axis=0)])
    for task, negative in NEGATIVES.items():
        rate = published.rate_at_equal_errors({"tumour_grade": 0.733, "tumour_type": 0.788}[task])
        gaps = published.null_gaps(101 - negative, negative, np.array(sizes) / 101, rate, 1 - rate, empty=(0.0, 0.0))
        rows += [[attribute, task, metric, *noise_band(gaps[:, k])] for k, metric in enumerate(("eodd", "eop"))]
brain = pd.DataFrame(rows, columns=["attribute", "task", "metric", "equal groups", "low", "high"])
wide = five.pivot_table(index=["attribute", "task", "metric"], columns="arm", values="value")[
    ["clean", "unet", "pix2pix", "sde"]
]
brain = brain.merge(wide.reset_index())
brain["any beyond"] = (brain[["clean", "unet", "pix2pix", "sde"]].max(axis=1) > brain["high"]).map(
    {True: "yes", False: "-"}
)
brain.round(3)

# %% [markdown]
# Segmentation: every printed SER and Delta Dice lies where equal groups would put it. So the paper's "minimal" change of Dice bias is the change of a
# quantity that these data cannot tell from zero in the first place. Of the tumour tasks only type by age stands out.

# %% [markdown]
# ## What the print proves: EODD is a mean
# The paper's formula asks for equality "for all y", and it speaks of the worst case; the usual reading is the *larger* of the TPR gap and the FPR
# gap. But EOP is the TPR gap. The larger of two can never be below one of them:

# %%
pairs = five[five["metric"].isin(["eodd", "eop"])].pivot(
    index=["attribute", "task", "arm"], columns="metric", values="value"
)
below = pairs["eodd"] < pairs["eop"]
implied = 2 * pairs["eodd"] - pairs["eop"]  # the FPR gap, if EODD is the mean
print(f"EODD below EOP: {below.sum()} of {len(pairs)} pairs {below.groupby('attribute').sum().to_dict()}")
print(f"implied FPR gap: from {implied.min():.3f} to {implied.max():.3f}, never below 0 or above 1")
assert below.sum() == 68 and implied.between(0, 1).all()

# %%
figure, ax = plots.canvas(5.6, 4.6)
x = np.array([0, 0.8])
ax.fill_between(x, 0, x / 2, color="#E3E3E3", linewidth=0)
ax.plot(x, x, color="#D55E00", linewidth=1)
ax.text(0.45, 0.13, "impossible for a mean", fontsize=8, color="#595959")
ax.text(0.565, 0.515, "below the orange line:\nimpossible for a maximum", fontsize=8, color="#D55E00")
for attribute, marker in (("sex", "o"), ("age_group", "^"), ("race", "x")):
    here = pairs.loc[attribute]
    ax.plot(
        here["eop"],
        here["eodd"],
        marker,
        color="#000000",
        markersize=4,
        markerfacecolor="none",
        label=attribute.replace("_", " "),
    )
ax.set(xlabel="EOP as printed", ylabel="EODD as printed", xlim=(0, 0.78), ylim=(0, 0.55))
ax.legend(fontsize=8, frameon=False, loc="upper left")
run.figure(figure, "11_mean_not_maximum")

# %% [markdown]
# **What to look for:** 68 points under the orange line (two of them by a rounding step of .001), none in the grey triangle. It holds for bootstrap means too,
# as it holds in every single resample. So EODD in Table 5 is the mean of two gaps; the two may come from different pairs of groups.
#
# ## How small an effect could the paper have found?
# The change of a TPR gap has a standard error that follows from the number of positives and from how many decisions flip. With 5 to 10 % flips and a design
# effect of 1.3 for several images a patient, the smallest effect found with power .8 by one two-sided test at .05, without any adjustment:

# %%
from fairrecon_core.audit.inference import minimal_detectable_effect, se_from_flips

SHARES = {**published.subgroup_shares("race"), **published.subgroup_shares("sex")}


def detectable(task, group, reference, flips):
    """Smallest change of the TPR gap between two groups that the paper's test split could have shown."""
    n = published.expected_counts(task)[0]
    return minimal_detectable_effect(se_from_flips(flips, n * SHARES[group], n * SHARES[reference], design_effect=1.3))


CONTRASTS = {
    "sex": ("female", "male"),
    "Black - White": ("Black", "White"),
    "NH/PI - White": ("NH/PI", "White"),
    "AI/AN - White": ("AI/AN", "White"),
}
mde = pd.DataFrame(
    {
        name: {
            task: f"{detectable(task, *groups, 0.05):.3f} / {detectable(task, *groups, 0.10):.3f}"
            for task in published.LABEL_COUNTS
        }
        for name, groups in CONTRASTS.items()
    }
)
mde.insert(0, "positives", [published.expected_counts(task)[0] for task in mde.index])
mde.sort_values("positives", ascending=False)

# %%
change = published.changes().query("not copied")
by_sex = change.query("attribute == 'sex' and metric == 'eop'")
tasks = mde.sort_values("positives").index
figure, ax = plots.canvas(9, 4.2)
y = np.arange(len(tasks))
low, high = ([detectable(task, "female", "male", flips) for task in tasks] for flips in (0.05, 0.10))
ax.barh(y, np.subtract(high, low), left=low, height=0.62, color="#DDDDDD", label="smallest detectable, 5 to 10 % flips")
for arm in ("unet", "pix2pix", "sde"):
    style, size = plots.arm_style(arm), by_sex[by_sex["arm"] == arm].set_index("task")["change"].abs()
    ax.plot(size[tasks], y, style["marker"], color=style["color"], markersize=5, label=arm)
ax.set_yticks(
    y, [f"{task.replace('_', ' ')} ({n:,})" for task, n in zip(tasks, mde.loc[tasks, "positives"])], fontsize=8
)
ax.set_xlabel(
    "|change of EOP by sex|, Table 5a, and the smallest effect that the test split could have shown", fontsize=9
)
ax.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
run.figure(figure, "11_detectable")

# %%
beyond = [row.task for row in by_sex.itertuples() if abs(row.change) > detectable(row.task, "female", "male", 0.05)]
ucsf = minimal_detectable_effect([se_from_flips(0.1, 0.8 * n, 0.8 * m) for n, m in SIZES.values()]).max()
print(f"printed changes by sex beyond the smallest detectable: {len(beyond)} of {len(by_sex)}, {sorted(set(beyond))}")
print(f"brain, 10 % flips: about {ucsf:.2f} for the TPR gap, {2 * ucsf:.2f} for the FPR gap with its 20 negatives")

# %% [markdown]
# For the small findings and the small groups the test split could show nothing but a landslide, and the brain tasks nothing at all. "No significant change"
# for race is a statement about 35 American Indian test patients, not about fairness.
#
# ## Figure 11, from Table 5
# Fig. 11 averages |change| over tasks. Table 5 lets us redo it, with the signs kept beside it. Eight copied tumour baselines are left out; they would
# count as changes of exactly 0 for the U-Net.

# %%
summary = change[change["metric"].isin(["eodd", "eop"])].groupby(["attribute", "metric", "arm"], sort=False)["change"]
folded = pd.DataFrame({
    "mean |change|": summary.agg(lambda values: values.abs().mean()), "mean change": summary.mean(),
    "share worse": summary.agg(lambda values: (values > 0).mean()),
}).round(3)  # fmt: skip
folded.loc[["sex", "age_group", "race"]]

# %% [markdown]
# The average of absolute values is positive whatever happens (notebook 10 shows how positive for pure noise). The share of positive signs is another artefact:
# where the baseline gap is near zero, as for sex, noise can only push it up; where it is large, as for age, it cannot. "More prominent
# for sex" is at least partly that geometry.
#
# The authors' slides show which cells were coloured at p < .05: count them, beside what chance alone would colour in 72 cells.

# %%
coloured = change[change["metric"].isin(["eodd", "eop"]) & change["task"].isin(published.LABEL_COUNTS)]
counts = pd.crosstab(coloured["attribute"], coloured["colour"].replace("", "none"))[["worse", "better", "none"]]
counts = counts.loc[["sex", "age_group", "race"]]
counts["test's true size"] = ["about .02", ".10 to .14", "about .014"]  # measured by simulation, where nothing changed
counts["by chance"] = ["1 to 2", "7 to 10", "1"]
counts

# %% [markdown]
# The published test picks its side after seeing the sign and resamples images, so its size is not .05 but depends on the baseline gap: timid at a gap of
# 0 and for six groups, liberal at a clear gap. Of age's 22 coloured cells 7 to 10 are expected by chance; sex's 16 probably hold
# some real changes. Which, no adjusted test can say: with 1 000 resamples the smallest p, .001, cannot pass the first step of Holm's rule (.05 / 216).
#
# ## Per cent of decibels
# Tables 6 and 7 give PSNR gaps in per cent of a logarithm. In dB, and as a ratio of squared errors:

# %%
gaps = numbers[numbers["metric"] == "psnr_gap_percent"][["cohort", "attribute", "level", "arm", "value"]]
level = numbers[(numbers["metric"] == "psnr_db")][["cohort", "level", "arm", "value"]].rename(
    columns={"value": "psnr_db"}
)
gaps = gaps.merge(level, on=["cohort", "level", "arm"])
gaps["gap_db"] = gaps["value"] / 100 * gaps["psnr_db"]
gaps["error ratio"] = 10 ** (gaps["gap_db"] / 10)
largest = gaps.loc[gaps["value"].idxmax()]
print(
    f"largest: {largest['value']} % of {largest['psnr_db']} dB is {largest['gap_db']:.2f} dB, {largest['error ratio'] - 1:.0%} more squared error"
)
assert (gaps["value"] > 2).sum() == 3, "the text says that all remain below 2 %"
gaps.round(2)

# %% [markdown]
# ## The claims, one by one
# What the paper says, what in its own numbers speaks for it, what against, and where to see it. Numbers in this table are computed from the printed ones; what this run adds
# stands in the last rows.


# %%
def printed(table, **where):
    """Printed values of one table, selected by column."""
    rows = published.numbers(table)
    for column, value in where.items():
        rows = rows[rows[column].isin(np.atleast_1d(value))]
    return rows


def auroc_drop():
    """Rank correlation of a finding's clean AUROC with its loss at 3 000 photons, averaged over the arms."""
    rows = printed("4", metric="auroc", level=3000).query("task != 'average'").groupby("task")["value"].mean()
    base = printed("4", metric="auroc", arm="clean").query("task != 'average'").groupby("task")["value"].first()
    return spearmanr(base, base - rows[base.index])


lpips = printed("4", metric="lpips").pivot(index="level", columns="arm", values="value")
psnr = printed("4", metric="psnr_db").pivot(index="level", columns="arm", values="value")
stable = printed("4", task="average").groupby("arm")["value"].agg(["min", "max"])
trend = auroc_drop()
mean_change = folded["mean |change|"].groupby(["metric", "arm"]).mean()["eodd"]
worse = folded["share worse"].groupby("attribute").mean()
dice_change = change.query("metric == 'delta_dice'")["change"]
race = change.query("attribute == 'race'").pivot_table(index="task", columns=["arm", "metric"], values="change")
bias = race.abs().T.groupby("metric").max().T["eop"].nlargest(3)

# %%
CLAIMS = [
    ("Task performance stays stable while PSNR drops drastically (Fig. 7, 8)",
     f"mean AUROC stays within {stable['min'].min()}-{stable['max'].max()}; chest PSNR falls by {psnr.loc[100000, 'unet'] - psnr.loc[3000, 'unet']:.1f} dB (U-Net)",
     "no degraded arm, so robustness to *reconstruction* is not told from robustness to degradation; 101 brain patients; the published X-ray input hardly changes with photon count", "03, 08"),
    ("Findings with a low baseline AUROC lose more",
     f"rank correlation {trend.statistic:.2f} (p = {trend.pvalue:.3f}, 12 findings)", "losses are .00-.04, printed to two decimals", "08"),
    ("The U-Net outperforms the others on chest", "highest PSNR at all three levels",
     f"a posterior *sample* has 3 dB less PSNR than the mean by mathematics: the SDE's deficit of {min(psnr['unet'] - psnr['sde']):.1f}-{max(psnr['unet'] - psnr['sde']):.1f} dB is expected; its mean AUROC is equal or higher", "06, 07"),
    ("The SDE has the lowest LPIPS, so it is closest to the truth", "brain at R = 8: .016 (slides) below .022 and .030",
     f"chest: Pix2Pix is as low or lower at {int((lpips['pix2pix'] <= lpips['sde']).sum())} of 3 levels; only the SDE's output was rescaled per image", "07"),
    ("The additional bias is small, or minor", "most printed changes are a few hundredths",
     f"never tested: no margin, no interval; {len(by_sex) - len(beyond)} of {len(by_sex)} printed changes by sex are below what could be detected", "10, above"),
    ("Additional bias is more prominent for sex, and falls for age", f"sex: {worse['sex']:.0%} of the changes are positive, age: {worse['age_group']:.0%}; 16 and 22 of 72 cells coloured",
     "folding at a small baseline gap makes noise look positive; the test's size is .02 (sex) to .14 (age); no multiplicity control", "10"),
]  # fmt: skip

# %% [markdown]
# The second half: race, the arms, segmentation, image quality, and what was cited as method.

# %%
CLAIMS += [
    ("Race has the largest bias, and high variability", "largest gaps of Table 5",
     f"equal rates would print a mean EOP of {verdict.loc[('race', 'eop'), 'equal rates, mean']:.3f}, printed is {verdict.loc[('race', 'eop'), 'printed, mean']:.3f}; rank correlation {verdict.loc[('race', 'eop'), 'rank correlation']:.2f}; only fracture stands out", "above"),
    ("The SDE adds the least bias, the U-Net the most (Fig. 11)", "mean absolute change of EODD: " + ", ".join(f"{arm} {value:.3f}" for arm, value in mean_change.items()),
     "one training, one sample; retraining alone moves such averages by about .02; averages of absolute values measure noise too", "06, 10"),
    ("Consolidation, pleural other and pneumonia shift most (by race)", "change of EODD, U-Net: " + ", ".join(f"{task.replace('_', ' ')} {race.loc[task, ('unet', 'eodd')]:+.2f}" for task in ("consolidation", "pleural_other", "pneumonia")),
     "in EOP " + ", ".join(f"{task.replace('_', ' ')} ({value:.2f})" for task, value in bias.items()) + " shift most; AI/AN have 2 to 8 positives in most of these, so one flipped decision moves the gap by .1 or more; none is significant", "above"),
    ("Bias changes do not correlate with baseline performance or fairness", "no clear order in Table 5", "absence of a pattern in noise is no finding; no interval is given", "10"),
    ("Reconstruction adds no variance (Fig. 19, 20)", "standard errors nearly equal",
     "they come from the same images; in the tumour rows they were copied; what decides is the error of the paired difference", "10"),
    ("Segmentation is largely unaffected (Fig. 10, 21)", f"Delta Dice changes by at most {dice_change.abs().max():.3f}",
     "the gaps themselves are what equal groups would show at 101 patients", "above, 10"),
    ("Subgroup PSNR gaps remain below 2 %", f"{int((gaps['value'] < 2).sum())} of {len(gaps)} do",
     f"{', '.join(f'{value} %' for value in gaps.loc[gaps['value'] > 2, 'value'])} do not; {largest['gap_db']:.1f} dB is {largest['error ratio'] - 1:.0%} more error; the test picks its groups after looking, p is printed as 0", "07, above"),
    ("Skewed training sets and translation gave no correlation", "none: no number is published", "cannot be judged", "-"),
    ("Golden-angle sampling, low-dose simulation with a bow-tie, ResNet-50", "cited",
     "the released code has a fixed uniform mask, a bow-tie along the angle, no Beer-Lambert law, a ResNet-18 and a DenseNet", "02, 03, 08"),
]  # fmt: skip

# %%
lines = ["| the paper says | for it | against it | see |", "|---|---|---|---|"]
lines += [f"| {claim} | {pro} | {contra or '-'} | {where} |" for claim, pro, contra, where in CLAIMS]
if "audit" in tables:
    saved = tables["audit"].query(
        "baseline_arm == 'clean' and reference != '' and estimator == 'plug_in' and metric in ('tpr', 'fpr')"
    )
    for (name, attribute), part in saved.groupby(["cohort", "attribute"]):
        count = part["verdict"].value_counts()
        told = ", ".join(f"{n} {verdict.replace('_', ' ')}" for verdict, n in count.items())
        lines.append(f"| *this run, {name}*: did the TPR or FPR gap by {attribute.replace('_', ' ')} change? | {told} | "
                     f"*undetermined* is not *unchanged* | 10 |")  # fmt: skip
display(Markdown("\n".join(lines)))

# %% [markdown]
# **What to look for:** not that the paper is wrong. Most of its claims are modest. But "small", "no trend" and "not significant" were read off noise whose size was
# never shown, so they could not have come out otherwise. What stands: age gaps of the chest reader, and changes by sex in a few findings.

# %% [markdown]
# ## The switchboard
# Text, published code and right practice differ in a dozen choices. One row per choice, everything else fixed: its effect, published minus recommended,
# and whether a conclusion moves (PSNR: by more than .5 dB; a gap: its interval leaves 0). Choices of degradation (mask, magnitude, and the X-ray's bow-tie axis,
# counts, flat field and stretch) need networks, if only the frozen readers, so they are measured once, offline, into
# `results/switchboard/switchboard.csv`. Their effects do not add up: each X-ray choice stands alone, and once more with the others as published. A choice that costs ten decibels alone
# can win some back beside the others, because two wrongs partly cancel: a filter along the views harms less where counts are linear anyway. So a published
# number cannot be explained by naming one deviation, and mending one deviation alone may make the images worse. The effect of |real part| is exactly zero behind our mask,
# which is symmetric about the centre, and not behind the published one. The
# evaluation choices need scores only, so they are measured here, live.

# %%
SWITCHBOARD = [
    "choice",
    "setting",
    "published",
    "recommended",
    "quantity",
    "cohort",
    "effect",
    "low",
    "high",
    "moves_a_conclusion",
    "note",
]


def read_switchboard():
    """Rows measured offline, or none."""
    path = project_folder() / "results" / "switchboard" / "switchboard.csv"
    if not path.exists():
        print("no switchboard.csv yet: only the rows measured here are shown")
        return pd.DataFrame(columns=SWITCHBOARD)
    rows = pd.read_csv(path)[SWITCHBOARD].assign(measured="offline")
    moves = rows["moves_a_conclusion"].astype(str).str.lower().isin(["true", "yes", "1"])
    return rows.assign(moves_a_conclusion=moves)


# %% [markdown]
# Scores: this run's, if notebook 08 has made them. If not, a **reference reader** of *simulated* patients stands in (notebook 10): it looks at the simulated
# severity itself, through noise. Each patient has two images. `placebo` is read with fresh noise alone; for `planted` findings in women are fainter. No
# network was involved.

# %%
from fairrecon_lab.simulate import Bias, patient_table, reference_reader

TASKS = ["pleural_effusion", "edema", "atelectasis", "cardiomegaly"]


def stand_in(n_patients=3000):
    """Predictions and cohort of a reference reader: clean, fresh noise, and findings in women made fainter."""
    rng = np.random.default_rng(settings.seed)
    before, after = (
        patient_table("chest", n_patients, seed=settings.seed, bias=Bias(conspicuity=c)) for c in (0.0, 0.8)
    )
    people = before[["patient_id", "sex", "race", *(f"y_{task}" for task in TASKS)]].copy()
    people["split"] = np.where(np.arange(n_patients) % 3 == 0, "validation", "test")
    people = pd.concat(
        [people.assign(image_id=people["patient_id"] + view) for view in ("-1", "-2")], ignore_index=True
    )
    rows = []
    for task in TASKS:
        for arm, patients, noise in (("clean", before, 0), ("placebo", before, 1), ("planted", after, 2)):
            latent = np.tile(reference_reader(patients, task, noise_seed=noise).scores, 2) + rng.normal(
                0, 0.2, len(people)
            )
            rows.append(people[["image_id"]].assign(arm=arm, task=task, score=1 / (1 + np.exp(-3 * (latent - 0.8)))))
    return pd.concat(rows, ignore_index=True).assign(cohort="stand-in", level=1.0), people


def scored(cohort):
    """Predictions of the audited level, and the cohort."""
    scores = rows_of("predictions", cohort)
    return scores[scores["arm"].eq("clean") | scores["level"].eq(LEVEL[cohort.modality])], cohort.table


# %%
from fairrecon_lab.paper.switches import switch_evaluation

evaluated = [cohort for cohort in cohorts.values() if len(rows_of("predictions", cohort))]


def switches_of(scores, people, empty_tpr, **options):
    """The evaluation switches of one cohort, by sex and, where it is recorded, by race."""
    found = []
    for attribute in ("sex", "race") if people["race"].nunique() > 1 else ("sex",):
        try:
            found.append(switch_evaluation(
                scores, people, attribute, empty_tpr=empty_tpr, n_boot=min(settings.n_boot, 400),
                min_support=settings.min_support, alpha=settings.alpha, seed=settings.seed, **options,
            ))  # fmt: skip
        except ValueError as error:  # a smoke run has too few patients
            print(f"{attribute}: {error}")
    return found


inputs = [(*scored(cohort), 0.0 if cohort.modality == "mri" else 1.0) for cohort in evaluated]
live = [frame for one in inputs for frame in switches_of(*one)]
if not live:
    inputs = [(*stand_in(), 1.0)]
    live = switches_of(*inputs[0])
live = pd.concat(live, ignore_index=True)

# %% [markdown]
# "Everything else fixed" can also mean: everything else *as published*. Beside tests without adjustment and with a side chosen afterwards, a
# choice decides more often which cells are called changed. By sex:

# %%
crossed = switches_of(*inputs[-1], others="published")[:1]
frames = [live[live["cohort"] == live["cohort"].iloc[-1]].groupby("choice", sort=False).first()]
frames += [frame.set_index("choice") for frame in crossed]
both = pd.concat(frames, axis=1, keys=["others recommended", "others published"][: len(frames)])
both.loc[:, (slice(None), ["effect", "low", "high", "note"])].round(3)

# %% [markdown]
# Two choices are about images, and also live: the published evaluation takes |real part| where training took the magnitude, and rescales every batch
# by its own minimum and maximum. Both change the PSNR of the very same degraded images:

# %%
from fairrecon_core.degrade.mri import undersample
from fairrecon_core.predict.quality import psnr_db


def image_switches(cohort, n=48, batch=16):
    """PSNR of degraded slices: real part less magnitude, rescaled by batch less as they are."""
    rows = tested(cohort)
    rows = rows[rows["row"].isin(cohort.pixel_rows)].iloc[:n]  # the shipped example holds a few images
    clean = cohort.images_at(rows["row"].to_numpy())
    magnitude, real = (
        undersample(clean, LEVEL["mri"], mode="published", part=part).numpy() for part in ("magnitude", "real")
    )
    batches = [magnitude[i : i + batch] for i in range(0, len(rows), batch)]
    rescaled = np.concatenate([(images - images.min()) / (images.max() - images.min()) for images in batches])
    psnr = lambda images: [psnr_db(image, truth) for image, truth in zip(images, clean)]
    choices = {
        ("magnitude", "part", "real", "magnitude"): real,
        ("normalisation", "rescaling", "min-max", "none"): rescaled,
    }
    out = []
    for names, images in choices.items():
        found = patient_bootstrap(
            psnr(images), rows["patient_id"], baseline=psnr(magnitude), n_boot=N_BOOT, seed=settings.seed
        )
        moves, note = bool(found.low > 0.5 or found.high < -0.5), "moves: beyond .5 dB"
        out.append([*names, "PSNR of degraded slices (dB)", cohort.name, *found[:3], moves, note])
    return pd.DataFrame(out, columns=SWITCHBOARD)


images = [image_switches(cohort) for cohort in cohorts.values() if cohort.modality == "mri"]

# %%
found = [frame.assign(measured="here") for frame in (live, *images) if len(frame)]
board = pd.concat([frame for frame in (read_switchboard(), *found) if len(frame)], ignore_index=True)
board = board.reindex(columns=[*SWITCHBOARD, "measured"])
board.round(3)


# %%
def switchboard_figure(board):
    """One panel per quantity, one row per choice; orange where a conclusion moves."""
    whose = ", ".join(sorted({source(cohort) for cohort in evaluated} or {"simulated"}))
    quantities = list(board["quantity"].unique())
    heights = [1 + (board["quantity"] == quantity).sum() for quantity in quantities]
    figure, axes = plots.canvas(9, 0.5 + 0.36 * sum(heights), len(quantities), 1, squeeze=False, height_ratios=heights)
    for ax, quantity in zip(axes[:, 0], quantities):
        rows = board[board["quantity"] == quantity]
        labels = [f"{row.choice} ({row.cohort}, {row.measured})" for row in rows.itertuples()]
        verdicts = np.where(rows["moves_a_conclusion"].astype(bool), "changed", "undetermined")
        plots.forest(ax, labels, *rows[["effect", "low", "high"]].to_numpy(float).T, verdicts=list(verdicts))
        ax.tick_params(labelsize=8)
        ax.set_title(quantity, fontsize=9, loc="left")
    figure.supxlabel(
        f"published minus recommended, 95 %; orange: a conclusion moves; {whose}",
        fontsize=8,
        color="#595959",
    )
    return figure


run.figure(switchboard_figure(board), "11_switchboard")

# %% [markdown]
# Each label names the cohort and where the row was measured: *offline* rows compare whole images behind two degradations, for the same test patients and
# the same noise seed, and rows measured *here* compare two ways to evaluate the very same scores. The settings of both sides stand in the table above. An
# interval that covers zero does not say that a choice is harmless, only that these patients cannot show its harm; an interval far from zero
# may still leave every verdict as it was, which is why the colour follows the conclusion and not the number.
#
# **What to look for:** the estimator's effect on race is as large as most of what Table 5c calls bias, and it needs no bias at all. Many rows move a number
# and no conclusion; say which of the two you mean. Intervals of shares are rough: a cell is called changed, or not.
#
# ## Check your understanding
# **1.** A seventh group joins, with as many patients as AI/AN. All groups have equal rates. What happens to the printed EOP of fracture? Predict, then run.

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
six = published.subgroup_shares("race")
seven = np.append(six, six["AI/AN"]) / (1 + six["AI/AN"])
n, rate = published.expected_counts("fracture"), published.rate_at_equal_errors(AUROC["fracture"])
expected = [
    published.null_gaps(*n, shares, rate, 1 - rate, n_draws=200, n_inner=60)[:, 1].mean() for shares in (six, seven)
]
print(f"equal rates, six groups: {expected[0]:.3f}; seven: {expected[1]:.3f}")
assert expected[1] > expected[0], "a maximum over more noise is larger, and nobody is treated worse"

# %% [markdown]
# **2.** Which single cell of Table 5 contradicts itself most plainly, using nothing but the print and its colours?

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
odd = published.changes().query("colour != '' and change == 0")
print(odd.to_string(index=False))
assert odd[["task", "arm", "metric"]].to_numpy().tolist() == [["tumour_type", "unet", "eop"]]  # worse than itself

# %% [markdown]
# **3.** How many test patients would the brain study need to detect a change of .05 in the TPR gap by sex, with 10 % flips? Pooling all 501 cases
# by cross-validation is free. Is it enough?

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
effect = lambda n: minimal_detectable_effect(se_from_flips(0.1, 0.8 * n * 0.6, 0.8 * n * 0.4))
needed = 101 * (effect(101) / 0.05) ** 2
print(f"detectable with 101: {effect(101):.2f}, with 501: {effect(501):.2f}; for .05 about {needed:,.0f} patients")
assert needed > 501 > 101, "five times the patients, and still short"

# %% [markdown]
# **Against Tables 1-7.** Same: every printed number, the paper's estimator and its test, as options. Different: a printed gap is shown beside the gap that equal rates
# would print; a claim of "no change" beside the change that could have been seen; copied, lost and doubtful numbers are marked and not compared.
# ## Takeaways
# - numbers of another cohort, another definition or a copied cell cannot be compared, however close they are; the table says which is which
# - the race column is what equal rates would print, sex is about half noise, age is real; all Dice gaps are within chance
# - 68 of 160 pairs have EODD below EOP, so EODD is a mean of two gaps
# - most claims are modest, and most could not have come out otherwise at these group sizes
# - one switch at a time tells which choice moves a number and which moves a conclusion
