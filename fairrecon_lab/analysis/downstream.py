"""What readers still see: the numbers of notebook 08.

Conventions: `predictions` and `overlap` hold rows of these tables for one cohort, `cohort` is the core's `Cohort`. A
unit is what an AUROC counts: a patient of the brain (the median over slices), unless the label differs from slice to
slice; a film of the chest. `options` are `n_boot` and `seed`.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from fairrecon_core.audit.engine import patient_codes
from fairrecon_core.audit.groups import resample_aurocs
from fairrecon_core.audit.inference import contrast
from fairrecon_core.audit.metrics import logit
from fairrecon_lab.analysis.estimates import in_order, interval_text, mean_of, patients_of, place_of
from fairrecon_lab.analysis.patients import dice_table, patient_scores

FEW = 10  # positives or negatives below which a point is drawn hollow
INFORMATIVE = 0.6  # AUROC on clean images that the whole interval has to exceed
CLEAN = ["task", "kind", "label", "with", "without", "value", "low", "high", "informative"]
SHIFTS = ("flip rate", "logit shift, with", "logit shift, without")


# ---------------------------------------------------------------------- readings of units
def on_test_images(table: pd.DataFrame, cohort, folds: Iterable[int]) -> pd.DataFrame:
    """Rows of a `table` on test images of the `cohort`, each in that of the `folds` that never trained on it."""
    names = cohort.table["image_id"].astype(str)
    ids = [(fold, name) for fold in folds for name in names.iloc[cohort.select("test", "prediction", fold)]]
    return table[pd.MultiIndex.from_frame(table[["fold", "image_id"]]).isin(ids)]


def unit_scores(predictions: pd.DataFrame, cohort) -> pd.DataFrame:
    """One score per unit, arm, level and task, means over samples and training seeds.

    Parameters
    ----------
    predictions : DataFrame
        On test images.
    cohort : Cohort

    Returns
    -------
    DataFrame
        `unit patient_id arm level task score`.
    """
    patients, parts = patients_of(cohort.table), []
    for task, rows in predictions.groupby("task", sort=False):
        if per_patient(cohort, task):
            parts.append(patient_scores(rows, patients, "median").assign(unit=lambda rows: rows["patient_id"]))
        else:
            whose = patients.reindex(rows["image_id"]).to_numpy()
            parts.append(rows.assign(unit=rows["image_id"], patient_id=whose))
    table = pd.concat(parts) if parts else predictions.assign(unit="", patient_id="")
    keys = ["unit", "patient_id", "arm", "level", "task"]
    return table.groupby(keys, as_index=False)["score"].mean()


def per_patient(cohort, task: str) -> bool:
    """Whether the unit of a `task` is a patient: in a `cohort` of MRI, where all slices of a patient have one label."""
    column = f"y_{task}"
    if cohort.modality != "mri" or column not in cohort.table:
        return cohort.modality == "mri"
    return bool((cohort.table.groupby("patient_id")[column].nunique() <= 1).all())


def labels_of(cohort, task: str, units, kind: str = "y") -> np.ndarray:
    """Recorded (`kind` "y") or true ("true") labels of a `task` for `units` of a `cohort`; NaN where nobody knows."""
    index, column = "patient_id" if per_patient(cohort, task) else "image_id", f"{kind}_{task}"
    if column not in cohort.table:
        return np.full(len(units), np.nan)
    return cohort.table.drop_duplicates(index).set_index(index)[column].reindex(units).to_numpy(float)


# ---------------------------------------------------------------------- AUROC
def aurocs(units: pd.DataFrame, cohort, task: str, level: float, arms, *, kind: str = "y", **options):
    """AUROC of `clean` and of every arm at one level, on the same units, drawn again together.

    Parameters
    ----------
    units : DataFrame
        From `unit_scores`.
    cohort : Cohort
    task : str
    level : float
    arms : sequence of str
        Their order; others follow.
    kind : {"y", "true"}
        Against recorded or true labels.
    **options
        `n_boot` and `seed`.

    Returns
    -------
    arms : list of str
        `clean` first.
    result
        Of `resample_aurocs`, or None with fewer than two patients on a side.
    n_positive, n_negative : int
        Patients with and without.
    """
    here = units[(units["task"] == task) & ((units["arm"] == "clean") | (units["level"] == level))]
    wide = here.pivot(index="unit", columns="arm", values="score")
    wide = wide.loc[here.loc[here["arm"] != "clean", "unit"].unique()].dropna(axis=1)  # what was read at this level
    wide = wide[in_order(list(wide), ["clean", *arms])]
    truth = labels_of(cohort, task, wide.index, kind)
    whose = here.drop_duplicates("unit").set_index("unit")["patient_id"].reindex(wide.index)
    patient, ids = patient_codes(whose)
    known, n = ~np.isnan(truth), [len(set(patient[truth == value])) for value in (1, 0)]
    if min(n) < 2:
        return list(wide), None, *n
    scores, group = wide[known].T.to_numpy(), np.zeros(known.sum(), int)  # (arms, units); one group
    options = options | {"min_support": 2, "n_patients": len(ids), "reference": 0}
    return list(wide), resample_aurocs(patient[known], group, scores, truth[known], 1, **options), *n


def clean_aurocs(units: pd.DataFrame, cohort, tasks: Sequence[str], level: float, **options) -> pd.DataFrame:
    """AUROC on clean images against recorded and true labels.

    Parameters
    ----------
    units, cohort, level
        As in `aurocs`.
    tasks : sequence of str
    **options
        `n_boot` and `seed`.

    Returns
    -------
    DataFrame
        `task kind label with without value low high informative`; NaN where it cannot be estimated. A control is easy
        and of no clinical use; a reader whose interval reaches below `INFORMATIVE` says nothing about bias.
    """
    rows = []
    for task in tasks:
        for kind, label in (("y", "recorded"), ("true", "true")):
            _, result, n_positive, n_negative = aurocs(units, cohort, task, level, [], kind=kind, **options)
            row = {"task": task, "kind": "control" if task in cohort.info.get("control_tasks", ()) else "clinical"}
            row |= {"label": label, "with": n_positive, "without": n_negative, "informative": False}
            if result is not None:
                low, high = contrast(result, "level").interval()
                row |= {"value": result.value[0, 0, 0], "low": max(low[0, 0, 0], 0), "high": min(high[0, 0, 0], 1)}
                row["informative"] = bool(low[0, 0, 0] > INFORMATIVE)
            rows.append(row)
    return pd.DataFrame(rows, columns=CLEAN)


CURVE = ["arm", "level", "value", "low", "high", "delta", "delta_low", "delta_high", "with", "without", "hollow"]


def task_curve(units: pd.DataFrame, cohort, task: str, levels, arms, **options) -> pd.DataFrame:
    """AUROC of one task for every arm and level, clean on the same units beside it, with the paired change from clean.

    Parameters
    ----------
    units, cohort, task, arms
        As in `aurocs`.
    levels : sequence of float
    **options
        `n_boot` and `seed`.

    Returns
    -------
    DataFrame
        Columns `CURVE` and `task`; `hollow` where fewer than ten patients have, or lack, the finding.
    """
    rows: list[dict] = []
    for level in levels:
        found, result, n_positive, n_negative = aurocs(units, cohort, task, level, arms, **options)
        if result is None:
            rows += [{"arm": arm, "level": level, "value": np.nan, "hollow": True} for arm in found]
            continue
        support = {"with": n_positive, "without": n_negative, "hollow": min(n_positive, n_negative) < FEW}
        rows += [{"arm": arm, "level": level} | row | support for arm, row in zip(found, _values_and_changes(result))]
    return pd.DataFrame(rows, columns=CURVE).assign(task=task)


def _values_and_changes(result) -> list[dict]:
    """Per arm: AUROC, its interval, and the change from the first arm (that of the first arm itself is 0)."""
    low, high = (part[0, :, 0] for part in contrast(result, "level").interval())  # (arms,)
    change = contrast(result, "change")
    moved = [np.r_[0.0, part[0, :, 0].clip(-1, 1)] for part in (change.estimate, *change.interval())]
    columns = [result.value[0, :, 0], low.clip(min=0), high.clip(max=1), *moved]
    return [dict(zip(CURVE[2:8], row)) for row in zip(*columns)]


def average_curve(units: pd.DataFrame, cohort, tasks, levels, arms, **options) -> pd.DataFrame:
    """Mean AUROC over the tasks that can be estimated, from their joint resamples: they share their patients.

    Parameters
    ----------
    units, cohort, arms
        As in `aurocs`.
    tasks : sequence of str
    levels : sequence of float
    **options
        `n_boot` and `seed`.

    Returns
    -------
    DataFrame
        `arm level value low high tasks`, the last their number.
    """
    rows: list[dict] = []
    for level in levels:
        found = [aurocs(units, cohort, task, level, arms, **options)[:2] for task in tasks]
        known = [(names, contrast(result, "level")) for names, result in found if result is not None]
        if not known:
            continue
        value = np.mean([each.estimate[0, :, 0] for _, each in known], axis=0)
        draws = np.array([each.deviations[:, 0, :, 0] for _, each in known])  # (tasks, resamples, arms)
        draws = np.nanmean(np.where(np.isfinite(draws), draws, np.nan), axis=0)  # a resample may miss a finding
        half = np.quantile(np.abs(draws), 0.95, axis=0)
        frame = {"arm": known[0][0], "level": level, "value": value, "tasks": len(known)}
        frame |= {"low": (value - half).clip(min=0), "high": (value + half).clip(max=1)}
        rows += pd.DataFrame(frame).to_dict("records")
    return pd.DataFrame(rows, columns=["arm", "level", "value", "low", "high", "tasks"])


# ---------------------------------------------------------------------- Dice
def dice_rules(overlap: pd.DataFrame, patients: pd.Series, **options) -> pd.DataFrame:
    """Mean Dice per slice and per volume under both rules for pairs of empty masks, from `overlap` rows of one arm."""
    rows = []
    for per, unit in (("image", "slice"), ("patient", "volume")):
        for empty, rule in ((np.nan, "left out"), (1.0, "count as right")):
            dice = dice_table(overlap, patients, per, empty)
            found = mean_of(dice["dice"], dice["patient_id"], **options)
            text = interval_text(found["value"], found["low"], found["high"])
            rows.append({"Dice per": unit, "empty pairs": rule, "clean": text, "patients": found["patients"]})
    return pd.DataFrame(rows)


def dice_curve(overlap: pd.DataFrame, patients: pd.Series, levels, **options) -> pd.DataFrame:
    """Mean Dice per slice from `overlap` for every arm and level of `levels`, clean on the same slices beside it."""
    table, rows = dice_table(overlap, patients).assign(image=overlap["image_id"]), []
    clean = table[table["arm"] == "clean"]
    for level in levels:
        here = table[(table["level"] == level) & (table["arm"] != "clean")]
        part = pd.concat([clean[clean["image"].isin(here["image"])], here])
        for arm, of_arm in part.groupby("arm", sort=False):
            rows.append({"arm": arm, "level": level} | mean_of(of_arm["dice"], of_arm["patient_id"], **options))
    return pd.DataFrame(rows)


# ---------------------------------------------------------------------- decisions
def decisions(predictions, cohort, cuts: pd.DataFrame, task: str, arm: str, level: float) -> pd.DataFrame:
    """Scores and decisions of clean and of one arm on the same test images.

    Parameters
    ----------
    predictions : DataFrame
        On test images.
    cohort : Cohort
    cuts : DataFrame
        Rows of the table `thresholds` under one policy; each fold has its own.
    task, arm : str
    level : float

    Returns
    -------
    DataFrame
        Indexed by image: `fold before after cut patient truth moved` (in logits) `flipped`.
    """
    table = predictions[predictions["task"] == task]
    cut = cuts[cuts["task"] == task].groupby("fold")["value"].first()
    score = lambda rows: rows.groupby(["fold", "image_id"])["score"].mean()
    after = score(table[(table["arm"] == arm) & (table["level"] == level)])
    both = pd.DataFrame({"before": score(table[table["arm"] == "clean"]), "after": after}).dropna().reset_index("fold")
    people = cohort.table.set_index("image_id").loc[both.index]
    both = both.assign(cut=both["fold"].map(cut), patient=people["patient_id"], truth=people[f"y_{task}"])
    both["moved"] = logit(both["after"]) - logit(both["before"])
    both["flipped"] = (both["after"] >= both["cut"]) != (both["before"] >= both["cut"])
    return both[both["cut"].notna()]


def flips_and_shifts(both: pd.DataFrame, **options) -> list[dict]:
    """Flip rate, and logit shift of patients with and without the finding, from `decisions`: a row for each measure."""
    with_it, without = (both["moved"].where(both["truth"] == value) for value in (1, 0))
    measures = zip(SHIFTS, (both["flipped"].astype(float), with_it, without)) if len(both) else []
    return [{"measure": name} | mean_of(values, both["patient"], **options) for name, values in measures]


def all_shifts(predictions, cohort, cuts: pd.DataFrame, *, tasks, level: float, **options) -> pd.DataFrame:
    """`flips_and_shifts` of every task and arm of a level, controls included.

    Parameters
    ----------
    predictions, cohort, cuts, level
        As in `decisions`.
    tasks : sequence of str
    **options
        `n_boot` and `seed`.
    """
    rows = []
    for task in tasks:
        for arm in [arm for arm in predictions["arm"].unique() if arm != "clean"]:
            both = decisions(predictions, cohort, cuts, task, arm, level)
            rows += [{"task": task, "arm": arm} | row for row in flips_and_shifts(both, **options)]
    return pd.DataFrame(rows, columns=["task", "arm", "measure", "value", "low", "high", "patients"])


# ---------------------------------------------------------------------- tables in the paper's form
def paper_rows(frames: dict[str, pd.DataFrame], printed: dict, setup) -> pd.DataFrame:
    """Value and interval per task and arm at the audited level, in brackets what the paper prints.

    Parameters
    ----------
    frames : dict of task to DataFrame
        From `task_curve`, `average_curve` ("average") and `dice_curve` ("segmentation").
    printed : dict
        From `estimates.printed_in_paper`.
    setup : Setup
        Of the cohort.
    """
    cells: dict[str, dict] = {}
    for task, frame in frames.items():
        metric = "dice" if task == "segmentation" else "auroc"
        for row in frame[frame["level"] == setup.audit_level].itertuples():
            level = setup.degradation.identity_level if row.arm == "clean" else row.level
            theirs = printed.get((setup.cohort.modality, level, task, metric, row.arm), "")
            text = interval_text(row.value, row.low, row.high, extra=theirs)
            cells.setdefault("Dice" if metric == "dice" else task, {})[row.arm] = text
    return pd.DataFrame(cells).T.fillna("-")


def changes_table(curves: dict[str, pd.DataFrame], level: float) -> pd.DataFrame:
    """Paired changes from clean at one `level`, as text, tasks down and arms across; `curves` from `task_curve`."""
    rows = []
    for task, frame in curves.items():
        for row in frame[(frame["level"] == level) & (frame["arm"] != "clean")].itertuples():
            text = interval_text(row.delta, row.delta_low, row.delta_high)
            rows.append({"task": task, "arm": row.arm, "change": text})
    return pd.DataFrame(rows, columns=["task", "arm", "change"]).pivot(index="task", columns="arm", values="change")


# ---------------------------------------------------------------------- images chosen by a rule
def task_to_show(steps) -> str:
    """Of the tasks that the readers of a cohort's `steps` know, the one that `planted` harms; else the first."""
    tasks = steps.readings.tasks()
    planted = "" if "planted" in steps.images.controls_left_out else steps.images.planted_task()
    return planted if planted in tasks else tasks[0]


def median_slice(overlap: pd.DataFrame, setup) -> int:
    """Row of the slice whose clean Dice is the median among those with a tumour, if `setup` has pictures of them."""
    rows = setup.pictured(setup.audit_level)
    table = overlap.query("arm == 'clean' and fold == 0").set_index("image_id").reindex(setup.names_of(rows))
    dice = 2 * table["intersection"] / (table["predicted"] + table["actual"])
    return int(rows[place_of(dice.where(table["actual"] > 0))])


def median_positive(predictions: pd.DataFrame, setup, task: str) -> int:
    """Row of the audited image with the median clean score for a `task`, among the positives if there are any.

    `setup` is the cohort's; only images that it has pictures of are looked at.
    """
    rows = setup.pictured(setup.audit_level)
    table = predictions.query("arm == 'clean' and fold == 0 and task == @task").set_index("image_id")["score"]
    score = table[~table.index.duplicated()].reindex(setup.names_of(rows)).to_numpy()
    positive = (setup.cohort.table[f"y_{task}"].iloc[rows] == 1).to_numpy()
    return int(rows[place_of(np.where(positive, score, np.nan) if positive.any() else score)])
