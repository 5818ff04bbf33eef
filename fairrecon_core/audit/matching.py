"""From two tables to arrays: match results with the cohort, check them, and pair every arm with its baseline.

Conventions: a *condition* is one (arm, level); values lie in arrays (conditions, images), NaN where there is no result;
several samples and training seeds of one image are averaged (of decisions: the share that is positive). Tables of any
size are read by column as codes, one task at a time: nothing is copied whole.
"""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from fairrecon_core.audit import metrics
from fairrecon_core.audit.thresholds import POLICIES, choose_threshold

DEFAULTS = {"cohort": "cohort", "level": 1.0, "fold": 0, "train_seed": 0, "sample": 0}  # of absent key columns
QUALITY = ("psnr_db", "ssim", "nmse", "lpips", "psnr_foreground_db")
OVERLAP = ("intersection", "predicted", "actual")


@dataclass
class Matched:
    """Results on the audited images of one cohort.

    cohort : its name. images : DataFrame, the audited rows of the cohort table, in its order.
    conditions : list of (arm, level). baseline_of : int array, the condition each is compared with; a baseline itself.
    truth : {task: (images,)}, 0, 1 or NaN. score, decision : {task: (conditions, images)}; the latter in [0, 1].
    measure : {name: (conditions, images)} of overlap or quality tables, such as "dice".
    per_seed : {task: (replicates, conditions, images)} decisions, where an arm has several samples or training seeds.
    policy : name of the threshold policy, "" without thresholds. notes : what the reader must know.
    """

    cohort: str
    images: pd.DataFrame
    conditions: list
    baseline_of: np.ndarray
    truth: dict = field(default_factory=dict)
    score: dict = field(default_factory=dict)
    decision: dict = field(default_factory=dict)
    measure: dict = field(default_factory=dict)
    per_seed: dict = field(default_factory=dict)
    policy: str = ""
    notes: list = field(default_factory=list)


def match(predictions, cohort, *, baseline_arm="clean", arms=None, thresholds=None, rule="sens_spec", split="test"):
    """Match a predictions, overlap or quality table with its cohort.

    Parameters
    ----------
    predictions, cohort : DataFrame
    baseline_arm, arms, thresholds, rule, split
        As in `change.audit_change`.

    Returns
    -------
    Matched

    Raises
    ------
    ValueError
        For everything that would make a silent wrong number: see `change.audit_change`.
    """
    keys = _Keys.of(predictions, cohort, split)
    matched = _pair(keys, cohort, baseline_arm, arms)
    if "score" in predictions:
        _add_scores(matched, keys, predictions, cohort, thresholds, rule)
    elif set(OVERLAP) <= set(predictions.columns):
        matched.measure["dice"] = keys.dense(metrics.dice(*[predictions[name] for name in OVERLAP]), matched)
    elif set(QUALITY) & set(predictions.columns):
        for name in QUALITY:
            if name in predictions and predictions[name].notna().any():
                matched.measure[name] = keys.dense(predictions[name].to_numpy(float), matched)
    else:
        raise ValueError(
            f"nothing to audit in columns {list(predictions.columns)}: need 'score' and 'task' (decisions), "
            f"{', '.join(OVERLAP)} (segmentation) or one of {', '.join(QUALITY)} (image quality)"
        )
    return matched


@dataclass
class _Keys:
    """Every row of the results as numbers: which image, condition, fold, replicate, and whether it is for the audit."""

    name: str
    image: np.ndarray
    condition: np.ndarray
    fold: np.ndarray
    seed: np.ndarray
    replicate: np.ndarray
    role: np.ndarray  # 0 other, 1 test, 2 validation
    conditions: list
    notes: list

    @classmethod
    def of(cls, predictions: pd.DataFrame, cohort: pd.DataFrame, split: str) -> "_Keys":
        _check_columns(predictions, cohort)
        columns = {name: _codes(predictions, name) for name in ("arm", *DEFAULTS)}
        if len(columns["cohort"][1]) > 1:
            raise ValueError(f"results of several cohorts, {list(columns['cohort'][1])}: audit them one by one")
        image = _image_positions(predictions, cohort)
        (arm, arms), (level, levels) = columns["arm"], columns["level"]
        condition, pairs = _compressed(arm * np.int32(len(levels)) + level)
        conditions = [(str(arms[pair // len(levels)]), float(levels[pair % len(levels)])) for pair in pairs]
        order = sorted(range(len(pairs)), key=conditions.__getitem__)  # the order of rows must not show
        conditions, condition = [conditions[i] for i in order], np.argsort(order)[condition]
        fold, seed = (columns[name][1].astype(int)[columns[name][0]] for name in ("fold", "train_seed"))
        replicate = columns["train_seed"][0] * np.int64(len(columns["sample"][1])) + columns["sample"][0]
        keys = cls(str(columns["cohort"][1][0]), image, condition.astype(np.int32), fold, seed, replicate,
                   _roles(cohort, image, fold, split), conditions, [])  # fmt: skip
        keys._refuse_duplicates(predictions)
        return keys

    def _refuse_duplicates(self, predictions: pd.DataFrame) -> None:
        """One row per key and task; an image may be tested in one fold and validate another."""
        task = _codes(predictions, "task")[0] if "task" in predictions else np.zeros(len(self.image), np.int32)
        parts = [task, self.condition, self.fold, self.replicate, self.image]
        key = np.ravel_multi_index([part.astype(np.int64) for part in parts], [int(part.max()) + 1 for part in parts])
        twice = np.flatnonzero(pd.Series(key).duplicated())
        if twice.size:
            row = predictions.iloc[twice[0]]
            shown = {name: row[name] for name in ("image_id", "arm", "level", "task") if name in predictions}
            raise ValueError(f"{twice.size} rows occur twice, e.g. {shown}: drop them, or number them in 'sample'")

    def dense(self, values: np.ndarray, matched: Matched, rows: np.ndarray | None = None) -> np.ndarray:
        """Mean over samples and seeds, shape (conditions, audited images); NaN where there is none."""
        rows = np.flatnonzero(self.role == 1) if rows is None else rows
        at = matched.images.attrs["column"][self.image[rows]]
        rows, at = rows[at >= 0], at[at >= 0]
        shape = (len(self.conditions), len(matched.images))
        flat = self.condition[rows].astype(np.int64) * shape[1] + at
        total = np.bincount(flat, values[rows], minlength=shape[0] * shape[1])
        n = np.bincount(flat, minlength=shape[0] * shape[1])
        with np.errstate(invalid="ignore", divide="ignore"):
            return (total / n).reshape(shape)


def _check_columns(predictions: pd.DataFrame, cohort: pd.DataFrame) -> None:
    absent = [name for name in ("image_id", "arm") if name not in predictions]
    if absent:
        raise ValueError(f"the results lack {absent}; their columns are {list(predictions.columns)}")
    if not len(predictions):
        raise ValueError("the results have no rows: nothing to audit")
    if "image_id" not in cohort:
        raise ValueError(f"the cohort lacks 'image_id'; its columns are {list(cohort.columns)}")
    twice = cohort["image_id"].duplicated()
    if twice.any():
        raise ValueError(
            f"{int(twice.sum())} images occur twice in the cohort, e.g. {cohort['image_id'][twice].iloc[0]!r}"
        )


def _codes(frame: pd.DataFrame, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A key column as codes and its distinct values; an absent one has its default everywhere."""
    if name not in frame:
        return np.zeros(len(frame), np.int32), np.array([DEFAULTS[name]])
    column = frame[name]
    if isinstance(column.dtype, pd.CategoricalDtype):
        codes, names = column.cat.codes.to_numpy(), column.cat.categories.to_numpy()
    else:
        codes, names = pd.factorize(column)
    if (codes < 0).any():
        way_out = "the identity level is 1, or inf photons" if name == "level" else "fill it"
        raise ValueError(f"{int((codes < 0).sum())} rows have no {name!r}: {way_out}")
    codes, used = _compressed(codes)
    return codes, np.asarray(names)[used]


def _compressed(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Small non-negative integers renumbered without holes, and those that occur; faster than sorting them."""
    used = np.flatnonzero(np.bincount(codes))
    place = np.zeros(used.max() + 1, np.int32)
    place[used] = np.arange(len(used))
    return place[codes], used


def _image_positions(predictions: pd.DataFrame, cohort: pd.DataFrame) -> np.ndarray:
    """Row of the cohort of every result."""
    codes, names = _codes(predictions, "image_id")
    rows = pd.Index(cohort["image_id"]).get_indexer(names)
    if (rows < 0).any():
        lost = names[rows < 0]
        raise ValueError(
            f"{len(lost)} image ids of the results are not in the cohort, e.g. {lost[0]!r}: drop or add them"
        )
    return rows[codes].astype(np.int32)


def _roles(cohort: pd.DataFrame, image: np.ndarray, fold: np.ndarray, split: str) -> np.ndarray:
    """What a result is for, as its fold sees its image: own fold is test, the next validation (see `cohort.py`)."""
    n_folds = int(cohort["fold"].max()) + 1 if "fold" in cohort else 1
    if n_folds > 1:
        home = cohort["fold"].to_numpy(int)[image]
        return np.select([home == fold, home == (fold + 1) % n_folds], [1, 2], 0).astype(np.int8)
    if "split" not in cohort:
        return np.ones(len(image), np.int8)
    named = cohort["split"].to_numpy(str)[image]
    if not (named == split).any():
        raise ValueError(f"no results on images of split {split!r}; there are {sorted(set(named))}: pass split=...")
    return np.select([named == split, named == "validation"], [1, 2], 0).astype(np.int8)


def _pair(keys: _Keys, cohort: pd.DataFrame, baseline_arm: str, arms) -> Matched:
    """The audited images, and the baseline of every condition."""
    known = sorted({arm for arm, _ in keys.conditions})
    others = [arm for arm in known if arm != baseline_arm]
    wanted = others if arms is None else [arms] if isinstance(arms, str) else list(arms)
    strange = [arm for arm in [baseline_arm, *wanted] if arm not in known]
    if strange:
        raise ValueError(f"no results of arm {strange[0]!r}; there are {known}")
    if not [arm for arm in wanted if arm != baseline_arm]:
        raise ValueError(f"only the baseline {baseline_arm!r} is there: nothing to compare")
    levels = {level: i for i, (arm, level) in enumerate(keys.conditions) if arm == baseline_arm}
    baseline_of = np.full(len(keys.conditions), -1)
    for i, (arm, level) in enumerate(keys.conditions):
        if arm == baseline_arm:
            baseline_of[i] = i
        elif arm in wanted and (len(levels) == 1 or level in levels):
            baseline_of[i] = next(iter(levels.values())) if len(levels) == 1 else levels[level]
        elif arm in wanted:
            keys.notes.append(f"{arm} at level {level:g} has no baseline {baseline_arm!r} at that level: left out")
    used = np.isin(keys.condition, list(levels.values())) & (keys.role == 1)
    rows = np.unique(keys.image[used])
    images = cohort.iloc[rows].reset_index(drop=True)
    if "patient_id" not in images:
        images = images.assign(patient_id=images["image_id"])
        keys.notes.append("no patient_id in the cohort: every image counts as its own patient")
    if images["patient_id"].isna().any():
        raise ValueError(f"{int(images['patient_id'].isna().sum())} images have no patient_id: fill or drop them")
    column = np.full(len(cohort), -1)
    column[rows] = np.arange(len(rows))
    images.attrs = {"column": column}
    return Matched(keys.name, images, keys.conditions, baseline_of, notes=keys.notes)


def _add_scores(matched: Matched, keys: _Keys, predictions, cohort, thresholds, rule) -> None:
    """Scores and decisions of every task."""
    score = predictions["score"].to_numpy(float)
    _check_scores(score, keys)
    if "task" not in predictions:
        raise ValueError("the results lack 'task': add a column with the name of the question, labels in y_<task>")
    task_codes, tasks = _codes(predictions, "task")
    absent = [task for task in tasks if f"y_{task}" not in cohort]
    if absent:
        raise ValueError(f"the cohort has no labels 'y_{absent[0]}'; its columns are {list(cohort.columns)}")
    matched.policy, thresholds = _policy(thresholds, keys, matched.notes)
    several = len(np.unique(keys.replicate)) > 1
    for t in np.argsort(tasks.astype(str)):
        task, rows = str(tasks[t]), np.flatnonzero(task_codes == t)
        truth = _labels(cohort, task)
        cut = _cuts(thresholds, task, keys, rows, score[rows], truth[keys.image[rows]], matched, rule)
        made = np.full(len(score), np.nan)
        made[rows] = np.where(np.isnan(cut), np.nan, score[rows] >= cut)
        audited = rows[keys.role[rows] == 1]
        matched.truth[task] = truth[matched.images.attrs["column"] >= 0]
        matched.score[task] = keys.dense(score, matched, audited)
        matched.decision[task] = keys.dense(made, matched, audited)
        if several:
            parts = [audited[keys.replicate[audited] == r] for r in np.unique(keys.replicate[audited])]
            matched.per_seed[task] = np.stack([keys.dense(made, matched, part) for part in parts])


def _check_scores(score: np.ndarray, keys: _Keys) -> None:
    """Refuse undefined scores and values that are no probabilities, naming the arm."""
    for i, (arm, level) in enumerate(keys.conditions):
        try:
            metrics.probabilities(score[keys.condition == i], f"score of arm {arm} at level {level:g}")
        except ValueError as error:
            raise ValueError(str(error)) from None


def _labels(cohort: pd.DataFrame, task: str) -> np.ndarray:
    truth = cohort[f"y_{task}"].to_numpy(dtype=float, na_value=np.nan)
    odd = ~np.isin(truth, (0, 1)) & ~np.isnan(truth)
    if odd.any():
        raise ValueError(f"labels y_{task} should be 0, 1 or empty, found {float(truth[odd][0])}")
    return truth


def _policy(thresholds, keys: _Keys, notes: list) -> tuple[str, object]:
    """Name of the policy, and the policy or the given numbers."""
    if thresholds is None:
        thresholds = "validation_frozen" if (keys.role == 2).any() else "test_frozen"
        if thresholds == "test_frozen":
            notes.append(
                "no validation images: thresholds chosen on the baseline's test images, then kept for all arms"
            )
    if isinstance(thresholds, str):
        if thresholds not in POLICIES:
            raise ValueError(f"unknown threshold policy {thresholds!r}; choose one of {list(POLICIES)} or give numbers")
        if thresholds.startswith("validation") and not (keys.role == 2).any():
            raise ValueError(f"{thresholds!r} needs results on validation images: add them, or choose 'test_frozen'")
        return thresholds, thresholds
    if isinstance(thresholds, pd.DataFrame) and "policy" in thresholds:
        policies = thresholds["policy"].unique()
        if len(policies) > 1:
            raise ValueError(f"thresholds of several policies, {list(policies)}: select one")
        return str(policies[0]), thresholds
    return "given", thresholds


def _cuts(thresholds, task, keys: _Keys, rows, score, truth, matched: Matched, rule) -> np.ndarray:
    """Threshold of every result of one task, NaN where none can be chosen."""
    if isinstance(thresholds, str):
        return _chosen_cuts(thresholds, task, keys, rows, score, truth, matched, rule)
    if isinstance(thresholds, pd.DataFrame):
        return _tabled_cuts(thresholds, task, keys, rows)
    if np.isscalar(thresholds):
        return np.full(len(rows), float(thresholds))
    if task not in thresholds:
        raise ValueError(f"no threshold for task {task!r}; there are {sorted(thresholds)}")
    return np.full(len(rows), float(thresholds[task]))


def _chosen_cuts(policy, task, keys: _Keys, rows, score, truth, matched: Matched, rule) -> np.ndarray:
    role = 2 if policy.startswith("validation") else 1
    condition, fold, seed = keys.condition[rows], keys.fold[rows], keys.seed[rows]
    source = np.arange(len(keys.conditions))
    if policy.endswith("frozen"):  # on clean images if there are any, else on each condition's own baseline
        clean = [i for i, (arm, _) in enumerate(keys.conditions) if arm == "clean"]
        own = np.where(matched.baseline_of < 0, source, matched.baseline_of)
        source = np.full(len(source), clean[0]) if clean else own
    cut = np.full(len(rows), np.nan)
    seeds = seed if not policy.endswith("frozen") else np.zeros_like(seed)
    for c, f, s in np.unique(np.stack([source[condition], fold, seeds]), axis=1).T:
        usable = (condition == c) & (fold == f) & (keys.role[rows] == role) & ((seeds == s) | policy.endswith("frozen"))
        here = (source[condition] == c) & (fold == f) & (seeds == s)
        cut[here] = choose_threshold(score[usable], truth[usable], rule)
    if np.isnan(cut).any():
        split = "validation" if role == 2 else "test"
        matched.notes.append(f"{task}: no threshold, the {split} images of the source arm lack one of the labels")
    return cut


def _tabled_cuts(table: pd.DataFrame, task: str, keys: _Keys, rows) -> np.ndarray:
    """Thresholds from a table with `task value` and any of `arm level fold train_seed`."""
    table = table[table["task"] == task]
    on = [name for name in ("arm", "level", "fold", "train_seed") if name in table]
    arm, level = (np.array(part, dtype=object) for part in zip(*keys.conditions))
    condition = keys.condition[rows]
    parts = {"arm": arm[condition], "level": level[condition], "fold": keys.fold[rows], "train_seed": keys.seed[rows]}
    if not on:
        return np.full(len(rows), table["value"].iloc[0] if len(table) == 1 else np.nan)
    wanted = pd.DataFrame({name: parts[name] for name in on})
    if table.duplicated(on).any():
        raise ValueError(f"the thresholds of task {task!r} name several values for one {', '.join(on)}")
    found = wanted.merge(table[[*on, "value"]].astype({"level": object} if "level" in on else {}), on=on, how="left")
    if found["value"].isna().all():
        raise ValueError(f"the thresholds of task {task!r} have no value for the {', '.join(on)} of the results")
    return found["value"].to_numpy(float)
