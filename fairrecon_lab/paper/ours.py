"""A run's numbers on the papers' cells: each table of the run gives its share; what has not been made is missing.

The cohort gives Tables 1 and 2, image quality the PSNR and LPIPS of 3 and 4 and all of 6 and 7, predictions the AUROCs
and Table 5, overlaps the Dice, the audit the follow-up's Tables 1 to 3. As in the papers a brain patient's score is the
median over the slices, Dice is averaged over the slices and then over the patients, and Tables 5 to 7 are the published
evaluation (`evaluation`). The interval beside Table 5 is that of the plain gap, from notebook 10.
"""

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import pandas as pd

from fairrecon_core.audit.engine import patient_codes, patient_weights
from fairrecon_core.audit.metrics import dice
from fairrecon_lab import plots
from fairrecon_lab.bootstrap import patient_bootstrap, weighted_auroc
from fairrecon_lab.paper.evaluation import published_audit, published_psnr_gap, published_segmentation
from fairrecon_lab.paper.numbers import COUNTED, numbers
from fairrecon_lab.paper.percent import percent_table
from fairrecon_lab.paper.recipe import PARTS, unlike_papers

PAPER = {"mri": "UCSF-PDGM", "xray": "CheXpert"}
REAL = {"ucsf_pdgm": "UCSF-PDGM", "chexpert": "CheXpert"}
COLUMNS = ["table", "row", "column", "value", "low", "high", "source", "definition"]
ARMS = ("clean", "unet", "pix2pix", "sde")  # the papers'
ATTRIBUTES = {"mri": ("sex", "age_group"), "xray": ("sex", "age_group", "race")}
TABLES = ("quality", "predictions", "overlap", "audit")
FOLLOW_UP_ROWS = {"Young": "≤ 58", "Old": "> 58", "young": "≤ 62", "old": "> 62"}  # of Tables F6 and F5


class Ours:
    """One run's numbers in the papers' tables.

    Parameters
    ----------
    run : Run
    """

    def __init__(self, run):
        self.settings = run.settings
        self.cohorts = {name: run.cohort(name) for name in run.settings.cohorts if run.has(name)}
        self.tables = {name: run.read(name) for name in TABLES if run.has(name)}
        self.level = {"mri": run.settings.mri_audit_level, "xray": run.settings.xray_audit_level}
        self.n_boot = min(run.settings.n_boot, 200)

    def rows_of(self, table: str, cohort) -> pd.DataFrame:
        """Rows of one cohort in a table of this run; empty where there are none."""
        return self.tables[table].query("cohort == @cohort.name") if table in self.tables else pd.DataFrame()

    def tested(self, cohort) -> pd.DataFrame:
        """Rows of the cohort that are evaluated."""
        return cohort.table[(cohort.table["split"] == "test") | (self.settings.n_folds > 1)]

    def audited(self, frame: pd.DataFrame, cohort) -> pd.DataFrame:
        """Those rows of a table that are clean or of the audited level."""
        return frame[frame["arm"].eq("clean") | frame["level"].eq(self.level[cohort.modality])]

    @property
    def evaluated(self) -> list:
        """Cohorts that have predictions."""
        return [cohort for cohort in self.cohorts.values() if len(self.rows_of("predictions", cohort))]

    @cached_property
    def numbers(self) -> pd.DataFrame:
        """All of this run's numbers, columns `COLUMNS` and `unlike`: what `numbers.compare` takes."""
        parts = [part for cohort in self.cohorts.values() for part in self._of_cohort(cohort)]
        parts += list(follow_up(self))
        found = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=COLUMNS)
        return found.assign(unlike=self._unlike(found))

    def _unlike(self, found: pd.DataFrame) -> list[str]:
        """How the making of each number differs from the papers', reasons joined by "; "; of their cohorts only."""
        by_source = {source(cohort): cohort for cohort in self.cohorts.values() if source(cohort) in REAL.values()}
        reasons = {name: unlike_papers(self.settings, cohort) for name, cohort in by_source.items()}
        cells = found.merge(numbers()[["table", "row", "column", "arm", "level", "metric"]], how="left")
        told = []
        for row in cells.itertuples():
            known = [reasons.get(name, {}) for name in row.source.split(", ")]
            lines = [line for one in known for part in _parts(row.arm, row.metric) for line in one.get(part, [])]
            if row.level in self.level.values():  # at the audited level every image is tested
                lines = [line for line in lines if not line.startswith("level_subset ")]
            told.append("; ".join(dict.fromkeys(lines)))
        return told

    def _of_cohort(self, cohort) -> Iterator[pd.DataFrame]:
        yield from count_people(cohort)
        if len(self.rows_of("predictions", cohort)):
            yield place(aurocs(self, cohort), cohort)
        for table, columns in (("quality", ["psnr_db", "lpips"]), ("overlap", ["dice"])):
            if len(self.rows_of(table, cohort)):
                yield place(means(self, cohort, table, columns), cohort)
        for attribute in recorded(cohort):
            for table, compute in (("predictions", table_five), ("overlap", dice_gaps), ("quality", psnr_gaps)):
                if len(self.rows_of(table, cohort)):
                    yield place(compute(self, cohort, attribute), cohort)

    @cached_property
    def scores(self) -> dict[str, pd.DataFrame]:
        """Predictions on tested rows by cohort; of MRI one row per patient (the median), under its first image."""
        return {cohort.name: self._scores(cohort) for cohort in self.evaluated}

    def _scores(self, cohort) -> pd.DataFrame:
        scores = self.rows_of("predictions", cohort).query("arm in @ARMS")
        scores = scores.merge(self.tested(cohort)[["image_id", "patient_id"]], on="image_id")
        if cohort.modality == "mri":
            scores["image_id"] = scores.groupby("patient_id")["image_id"].transform("first")
        keys = ["image_id", "patient_id", "arm", "level", "task"]
        return scores.groupby(keys, as_index=False)["score"].median()


def _parts(arm: str, metric: str) -> list[str]:
    """Parts of the recipe that a number depends on."""
    if metric in COUNTED:
        return ["people"]
    without = ["readers"] if metric in ("psnr_db", "lpips") else []
    without += ["degradation", "reconstructors"] if arm == "clean" else []
    return [part for part in PARTS if part not in without]


def source(cohort) -> str:
    """Name of the data, as the papers would call it."""
    return "simulated" if "simulator_version" in cohort.info else REAL.get(cohort.name, cohort.name)


def recorded(cohort) -> list[str]:
    """Attributes with at least two known subgroups; a real cohort may lack the race."""
    return [a for a in ATTRIBUTES[cohort.modality] if len(set(cohort.table[a]) - {"unknown"}) > 1]


def place(frame: pd.DataFrame, cohort, definition: str = "") -> pd.DataFrame:
    """Put rows of a `cohort` on the papers' cells; what they have no cell for is left out.

    `frame` has the columns `value low high` and those of `arm level task attribute metric` that name its cells;
    `definition` says how the quantity differs from the papers'.
    """
    on = ["cohort", *(name for name in ("level", "arm", "task", "attribute", "metric") if name in frame)]
    frame = frame.assign(cohort=PAPER[cohort.modality], source=source(cohort), definition=definition)
    cells = numbers().query("table not in ('FS', 'FA', 'F1')")[["table", "row", "column", *on]]
    return frame.merge(cells, on=on).reindex(columns=COLUMNS)


# ---------------------------------------------------------------------- people
def count_people(cohort) -> list[pd.DataFrame]:
    """Tables 1 and 2, and the follow-up's 6 and 5: patients by sex, age group and, for chest, race."""
    people = cohort.table.drop_duplicates("patient_id").query("sex != 'unknown' and age_group != 'unknown'")
    sex, age = people["sex"].str.capitalize(), people["age_group"].str.capitalize()
    row, column, table = age, sex, "1"
    if cohort.modality == "xray":
        row, column, table = sex + ", " + age, people["race"].map(plots.RACE_LABELS), "2"
        row, column = row[column != "unknown"], column[column != "unknown"]
    counts = pd.crosstab(row.rename("row"), column.rename("column"), margins=True, margins_name="All")
    frame = counts.stack().rename("value").reset_index().assign(table=table, low=np.nan, high=np.nan)
    missing = "no training patients" if (cohort.table["split"] == "train").sum() == 0 else ""
    frame = frame.assign(source=source(cohort), definition=missing)
    again = frame.assign(table={"1": "F6", "2": "F5"}[table], row=frame["row"].map(_follow_up_row))
    return [frame, again]


def _follow_up_row(name: str) -> str:
    """A row of Table 1 or 2 as the follow-up names it: by the age itself."""
    sex, comma, age = name.rpartition(", ")
    return f"{sex}, {FOLLOW_UP_ROWS[age.lower()]}" if comma else FOLLOW_UP_ROWS.get(age, age)


# ---------------------------------------------------------------------- performance and quality
def aurocs(ours: Ours, cohort) -> pd.DataFrame:
    """AUROC of every arm, level and task, and their average over the findings, with intervals over patients.

    Parameters
    ----------
    ours : Ours
    cohort : Cohort
    """
    scores = ours.scores[cohort.name]
    patient, ids = patient_codes(scores["patient_id"])
    weights = np.concatenate(list(patient_weights(len(ids), ours.n_boot, ours.settings.seed)))
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


def means(ours: Ours, cohort, table: str, columns: list[str]) -> pd.DataFrame:
    """Mean of quality or overlap columns of every arm and level over the tested images, with intervals over patients.

    Parameters
    ----------
    ours : Ours
    cohort : Cohort
    table : {"quality", "overlap"}
    columns : list of str
        "dice" of an overlap table; of a quality table those it has.
    """
    frame = ours.rows_of(table, cohort).merge(ours.tested(cohort)[["image_id", "patient_id"]], on="image_id")
    if table == "overlap":
        frame["dice"] = dice(frame["intersection"], frame["predicted"], frame["actual"])
    rows, per = [], "patient" if cohort.modality == "mri" else "row"
    for (arm, level), part in frame.groupby(["arm", "level"]):
        for column in columns if table == "overlap" or arm != "clean" else ():
            found = patient_bootstrap(
                part[column], part["patient_id"], n_boot=ours.n_boot, seed=ours.settings.seed, per=per
            )
            task = "segmentation" if column == "dice" else "quality"
            rows.append([arm, level, task, column, found.value, found.low, found.high])
    return pd.DataFrame(rows, columns=["arm", "level", "task", "metric", "value", "low", "high"])


# ---------------------------------------------------------------------- gaps, the published way
def table_five(ours: Ours, cohort, attribute: str) -> pd.DataFrame:
    """EODD and EOP by `attribute` of every arm and task of a `cohort`, the published way; empty without both labels."""
    scores, rows = ours.audited(ours.scores[cohort.name], cohort), ours.tested(cohort)
    empty = 0.0 if cohort.modality == "mri" else 1.0
    if not any(rows[f"y_{task}"].nunique() == 2 for task in scores["task"].unique()):  # a smoke run may lack a label
        return pd.DataFrame(columns=["arm", "level", "task", "attribute", "metric", "value", "low", "high"])
    frame = published_audit(scores, rows, attribute, n_boot=ours.n_boot, empty_tpr=empty, seed=ours.settings.seed)
    return _with_intervals(ours, frame, cohort, attribute)


def _with_intervals(ours: Ours, frame: pd.DataFrame, cohort, attribute: str) -> pd.DataFrame:
    """Levels of the arms, and the intervals that notebook 10 has saved for these gaps."""
    identity, level = {"mri": 1.0, "xray": np.inf}[cohort.modality], ours.level[cohort.modality]
    level = np.where(frame["arm"] == "clean", identity, level)
    frame = frame.assign(attribute=attribute, level=level, low=np.nan, high=np.nan)
    if "audit" not in ours.tables:
        return frame
    saved = ours.audited(ours.rows_of("audit", cohort), cohort).query("attribute == @attribute")
    saved = saved.query("baseline_arm == 'clean' and subgroup == '' and estimator == 'plug_in'")
    on = ["arm", "task", "metric"]
    saved = saved.drop_duplicates(on).rename(columns={"ci_low": "low", "ci_high": "high"})[[*on, "low", "high"]]
    return frame.drop(columns=["low", "high"]).merge(saved, on=on, how="left")


def _by_unit(ours: Ours, frame: pd.DataFrame, cohort, column: str, attribute: str) -> tuple:
    """One row per patient of MRI or image of X-ray at the audited level, one column per arm; and their subgroups."""
    unit = "patient_id" if cohort.modality == "mri" else "image_id"
    frame = ours.audited(frame, cohort).merge(ours.tested(cohort)[["image_id", "patient_id"]], on="image_id")
    wide = frame.pivot_table(index=unit, columns="arm", values=column, aggfunc="mean").dropna()
    group = cohort.table.drop_duplicates(unit).set_index(unit).loc[wide.index, attribute]
    known = (group != "unknown").to_numpy()
    return wide[known], group[known]


def dice_gaps(ours: Ours, cohort, attribute: str) -> pd.DataFrame:
    """SER and Delta Dice by `attribute` of every arm of a `cohort`, the published way."""
    frame = ours.rows_of("overlap", cohort)
    frame = frame.assign(dice=dice(frame["intersection"], frame["predicted"], frame["actual"]))
    wide, group = _by_unit(ours, frame, cohort, "dice", attribute)
    values = {arm: wide[arm] for arm in wide}
    gaps = published_segmentation(values, group, n_boot=ours.n_boot, seed=ours.settings.seed)
    return _with_intervals(ours, gaps.assign(task="segmentation"), cohort, attribute)


def psnr_gaps(ours: Ours, cohort, attribute: str) -> pd.DataFrame:
    """Tables 6 and 7: largest PSNR gap by `attribute` of a `cohort` in per cent, and its published p-value."""
    frame = ours.rows_of("quality", cohort).query("arm != 'clean'")
    wide, group = _by_unit(ours, frame, cohort, "psnr_db", attribute)
    rows = []
    for arm in wide:
        gap = published_psnr_gap(wide[arm], group, n_boot=ours.n_boot, seed=ours.settings.seed)
        rows += [[arm, "psnr_gap_percent", gap["percent"]], [arm, "p_value", gap["p_value"]]]
    frame = pd.DataFrame(rows, columns=["arm", "metric", "value"])
    return frame.assign(attribute=attribute, level=ours.level[cohort.modality], low=np.nan, high=np.nan)


# ---------------------------------------------------------------------- the follow-up's Tables 1 to 3
def follow_up(ours: Ours) -> Iterator[pd.DataFrame]:
    """Baselines and medians of changes in per cent, from the plain gaps that notebook 10 has saved.

    Parameters
    ----------
    ours : Ours
        Nothing is made where it has no audit.
    """
    if "audit" not in ours.tables:
        return
    table = percent_table(ours.tables["audit"]).query("arm in @ARMS")
    whose = {source(ours.cohorts[name]) for name in table["cohort"].unique() if name in ours.cohorts}
    baseline = table.query("arm == 'unet'")
    names, rows = {"sex": "Sex", "age_group": "Age", "race": "Race"}, []
    for attribute, part in baseline.groupby("attribute"):
        eodd, ser = (part.loc[part["metric"] == metric, "baseline"] for metric in ("eodd", "ser"))
        rows.append(["F1", "Classification", f"{names[attribute]} mean", eodd.mean()])
        rows.append(["F1", "Classification", f"{names[attribute]} s.d.", eodd.std()])
        rows += [["F1", "Segmentation", names[attribute], value] for value in ser]
    for column, arm in (("U-Net", "unet"), ("GAN", "pix2pix"), ("SDE", "sde")):
        change = table.loc[table["arm"] == arm, "percent"]
        rows += [["F2", "Median", column, change.median()], ["F2", "Absolute Median", column, change.abs().median()]]
    for attribute, part in table.groupby("attribute"):
        rows.append(["F3", "Standard", names[attribute], part["percent"].median()])
    yield pd.DataFrame(rows, columns=COLUMNS[:4]).assign(source=", ".join(sorted(whose))).reindex(columns=COLUMNS)
