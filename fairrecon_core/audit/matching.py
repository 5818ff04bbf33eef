"""From two tables to arrays: match results with the cohort, check them, and pair every arm with its baseline.

Conventions: a *condition* is one (arm, level); values lie in arrays (conditions, images), NaN where there is no result;
several samples and training seeds of one image are averaged (of decisions: the share that is positive). Tables of any
size are read by column as codes, one task at a time: nothing is copied whole. What texts and numbers mean:
`thresholds.py`.
"""

import re
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from fairrecon_core.audit import metrics
from fairrecon_core.audit.engine import compressed, patient_weights, text_codes
from fairrecon_core.audit.thresholds import at, cuts_of, labels_of, numbers, people_of, policy_of, quality_of
from fairrecon_core.measures import image_metrics

DEFAULTS = {"cohort": "cohort", "level": 1.0, "fold": 0, "train_seed": 0, "sample": 0}  # of absent key columns
QUALITY = image_metrics()
PARTIAL = {"dice_published", "false_positive_slices", "lost_volume"}  # some slices have none by definition
OVERLAP = ("intersection", "predicted", "actual")
SPLITS = ("train", "validation", "test", "unused")
SPLIT_WORDS = {**dict.fromkeys(("val", "valid", "dev", "development", "tune", "tuning"), "validation"),
               **dict.fromkeys(("testing", "holdout", "hold-out", "held-out", "tst"), "test"),
               "training": "train", "trn": "train"}  # fmt: skip


@dataclass
class Matched:
    """Results on the audited images of one cohort.

    cohort : its name. images : DataFrame, the audited rows of the cohort table, in its order.
    conditions : list of (arm, level). baseline_of : int array, the condition each is compared with; a baseline itself.
    truth : {task: (images,)}, 0, 1 or NaN. score, decision : {task: (conditions, images)}; the latter in [0, 1].
    measure : {name: (conditions, images)} of overlap or quality tables, such as "dice".
    per_seed : {task or measure: (replicates, conditions, images)}, where an arm has several samples or training seeds.
    fold : (images,), from 0, whose network made the results. cut_draws : {task: (draws, conditions, folds)} thresholds
    from resampled validation patients. policy : of the thresholds, "" without. notes : what the reader must know.
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
    fold: np.ndarray = field(default_factory=lambda: np.zeros(0, int))
    cut_draws: dict = field(default_factory=dict)
    policy: str = ""
    notes: list = field(default_factory=list)


def match(
    predictions, cohort, *, baseline_arm="clean", arms=None, thresholds=None, rule="sens_spec", split="test",
    threshold_draws=200, seed=0, measures=QUALITY,
) -> Matched:  # fmt: skip
    """Match a predictions, overlap or quality table with its cohort.

    Parameters
    ----------
    predictions, cohort : DataFrame
    baseline_arm, arms, thresholds, rule, split, threshold_draws, seed
        As in `change.audit_change`. With no `baseline_arm`, None, every arm stands alone.
    measures : sequence of str
        Columns of numbers that are results, where there is no score and no overlap.

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
    several = len(np.unique(keys.replicate)) > 1
    if "score" in predictions:
        keys.resample_validation(cohort, 0 if several else threshold_draws, seed)
        _add_scores(matched, keys, predictions, cohort, thresholds, rule, baseline_arm)
    elif set(OVERLAP) <= set(predictions.columns):
        counts = [numbers(predictions, name) for name in OVERLAP]
        for name, values in metrics.overlap_measures(*counts).items():
            _add_measure(matched, keys, name, values)
    elif set(measures) & set(predictions.columns):
        for name in measures:
            if name in predictions and predictions[name].notna().any():
                _add_measure(matched, keys, name, quality_of(predictions, name, keys.notes))
    else:
        raise ValueError(
            f"nothing to audit in columns {list(predictions.columns)}: need 'score' and 'task' (decisions), "
            f"{', '.join(OVERLAP)} (segmentation) or one of {', '.join(QUALITY)} (image quality)"
        )
    if baseline_arm is not None:
        _check_pairs(matched, baseline_arm)
    return matched


def has_results(predictions, cohort, baseline_arm="clean", arms=None, split="test") -> np.ndarray:
    """Which images of the cohort have a result, one asked for, baseline and arm: (3, n); arguments as in `match`."""
    keys = _Keys.of(predictions, cohort, split)
    matched, kept = _pair(keys, cohort, baseline_arm, arms), np.zeros((3, len(cohort)), bool)
    arm = np.isin(keys.condition, [i for i, base in enumerate(matched.baseline_of) if base not in (-1, i)])
    for row, results in enumerate((keys.role >= 0, keys.role == 1, (keys.role == 1) & arm)):
        kept[row, keys.image[results]] = True
    kept[2] &= matched.images.attrs["column"] >= 0
    return kept


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
    patient: np.ndarray | None = None  # of every result, among the validation patients
    validation_weights: np.ndarray | None = None  # (draws, validation patients)

    def resample_validation(self, cohort: pd.DataFrame, n_draws: int, seed: int) -> None:
        """How often each validation patient counts in each of the draws of thresholds."""
        if n_draws and (self.role == 2).any():
            who = text_codes(cohort["patient_id" if "patient_id" in cohort else "image_id"])[0][self.image]
            known = np.unique(who[self.role == 2])
            self.patient = np.searchsorted(known, who).clip(max=len(known) - 1)
            self.validation_weights = np.concatenate(list(patient_weights(len(known), n_draws, seed + 1)))

    @classmethod
    def of(cls, predictions: pd.DataFrame, cohort: pd.DataFrame, split: str) -> "_Keys":
        _check_columns(predictions, cohort)
        columns = {name: codes_of(predictions, name) for name in ("arm", *DEFAULTS)}
        if len(columns["cohort"][1]) > 1:
            raise ValueError(f"results of several cohorts, {list(columns['cohort'][1])}: audit them one by one")
        image = _image_positions(predictions, cohort)
        notes, (arm, arms), (level, levels) = list[str](), columns["arm"], columns["level"]
        condition, pairs = compressed(arm * np.int32(len(levels)) + level)
        conditions = [(str(arms[pair // len(levels)]), float(levels[pair % len(levels)])) for pair in pairs]
        order = sorted(range(len(pairs)), key=conditions.__getitem__)  # the order of rows must not show
        conditions, condition = [conditions[i] for i in order], np.argsort(order)[condition]
        fold, seed = (_whole(columns[name][1])[columns[name][0]] for name in ("fold", "train_seed"))
        role = _roles(predictions, cohort, image, columns["fold"], split, notes)
        replicate = columns["train_seed"][0] * np.int64(len(columns["sample"][1])) + columns["sample"][0]
        keys = cls(str(columns["cohort"][1][0]), image, condition.astype(np.int32), fold, seed, replicate,
                   role, conditions, notes)  # fmt: skip
        keys._refuse_duplicates(predictions)
        return keys

    def _refuse_duplicates(self, predictions: pd.DataFrame) -> None:
        """One row per key and task; an image may be tested in one fold and validate another."""
        task = codes_of(predictions, "task")[0] if "task" in predictions else np.zeros(len(self.image), np.int32)
        parts = [task, self.condition, self.fold, self.replicate, self.image]
        key = np.ravel_multi_index([part.astype(np.int64) for part in parts], [int(part.max()) + 1 for part in parts])
        twice = np.flatnonzero(pd.Series(key).duplicated())
        if twice.size:
            row = predictions.iloc[twice[0]]
            shown = {name: row[name] for name in ("image_id", "arm", "level", "task") if name in predictions}
            found = f"{twice.size} rows occur twice, e.g. {shown} ({at(predictions, 'results', twice[0])})"
            raise ValueError(f"{found}: drop them, or number them in 'sample'")

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

    def by_replicate(self, values: np.ndarray, matched: Matched, rows: np.ndarray) -> np.ndarray:
        """`dense` of every sample and training seed apart, (replicates, conditions, audited images)."""
        of_rows = self.replicate[rows]
        return np.stack([self.dense(values, matched, rows[of_rows == r]) for r in np.unique(of_rows)])


def _check_columns(predictions: pd.DataFrame, cohort: pd.DataFrame) -> None:
    for frame, what in ((predictions, "results"), (cohort, "cohort")):
        if not frame.columns.is_unique:
            raise ValueError(f"the {what} have column {frame.columns[frame.columns.duplicated()][0]!r} twice: drop one")
    absent = [name for name in ("image_id", "arm") if name not in predictions]
    if absent:
        wide = "; put a table with a column an arm into rows, by pandas' melt" if "image_id" in predictions else ""
        raise ValueError(f"the results lack {absent}; their columns are {list(predictions.columns)}{wide}")
    if not len(predictions):
        raise ValueError("the results have no rows: nothing to audit")
    if "image_id" not in cohort:
        raise ValueError(f"the cohort lacks 'image_id'; its columns are {list(cohort.columns)}")


def codes_of(frame: pd.DataFrame, name: str, what: str = "results") -> tuple[np.ndarray, np.ndarray]:
    """A key column as codes and its distinct values, levels as numbers; an absent one has its default everywhere.

    Parameters
    ----------
    frame : DataFrame
    name : str
        One of its columns.
    what : str
        What the frame is called in messages.

    Raises
    ------
    ValueError
        A row is empty there, or a level is no number.
    """
    if name not in frame:
        return np.zeros(len(frame), np.int32), np.array([DEFAULTS[name]])
    if name == "level":
        codes, names = pd.factorize(numbers(frame, name))
    else:
        codes, names = text_codes(frame[name])
    if (codes < 0).any():
        way_out = "the identity level is 1, or inf photons" if name == "level" else "fill it"
        n, where = int((codes < 0).sum()), at(frame, what, int(np.argmax(codes < 0)))
        raise ValueError(f"{n} rows have no {name!r}, the first is {where}: {way_out}")
    codes, used = compressed(codes)
    return codes, np.asarray(names)[used]


def _whole(names: np.ndarray) -> np.ndarray:
    """Names of folds or seeds as whole numbers: their own where all are, otherwise 0, 1, 2 ..."""
    whole = all(re.fullmatch(r"[+-]?\d{1,15}", str(name)) for name in names)
    return np.array([int(name) for name in names]) if whole else np.arange(len(names))


def _image_positions(predictions: pd.DataFrame, cohort: pd.DataFrame) -> np.ndarray:
    """Row of the cohort of every result."""
    home, known = codes_of(cohort, "image_id", "cohort")
    twice = np.flatnonzero(pd.Series(home).duplicated())
    if twice.size:
        where = at(cohort, "cohort", twice[0])
        raise ValueError(f"{twice.size} images occur twice in the cohort, e.g. {known[home[twice[0]]]!r} ({where})")
    codes, names = codes_of(predictions, "image_id")
    rows = pd.Index(known[home]).get_indexer(names)
    if (rows < 0).any():
        lost = names[rows < 0][0]
        near = next((name for name in known if name.lstrip("0") == lost.lstrip("0")), known[0])
        why = "zeros were lost, keep ids as text" if near.lstrip("0") == lost.lstrip("0") else "drop or add them"
        where = at(predictions, "results", int(np.argmax(rows[codes] < 0)))
        raise ValueError(f"{int((rows < 0).sum())} image ids of the results are not in the cohort, e.g. {lost!r} "
                         f"({where}); its ids look like {near!r}: {why}")  # fmt: skip
    return rows[codes].astype(np.int32)


def _roles(predictions, cohort: pd.DataFrame, image, fold, split: str, notes: list) -> np.ndarray:
    """What a result is for, 0, 1 or 2: by folds if the cohort has several, else by its split, else all are audited."""
    home, folds = codes_of(cohort, "fold", "cohort")
    if len(folds) > 1:
        return _roles_by_fold("fold" in predictions, image, fold, home, folds)
    if "split" in cohort:
        return _roles_by_split(cohort, image, split, notes)
    if split != "test":
        raise ValueError(f"no split {split!r}: the cohort has no column 'split', only {list(cohort.columns)}")
    return np.ones(len(image), np.int8)


def _roles_by_fold(named: bool, image, fold, home, folds) -> np.ndarray:
    """As a result's fold sees its image: its own fold is test, the next validation (see `cohort/splits.py`)."""
    natural = lambda name: [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
    order = sorted(folds, key=natural)
    if not named:
        raise ValueError(
            f"the cohort has folds {', '.join(order)}, the results no column 'fold': add it (the fold whose network "
            "made the result); if each image has one result, made out of its fold, take 'fold' out of the cohort"
        )
    (codes, names), strange = fold, [name for name in fold[1] if name not in order]
    if strange:
        raise ValueError(f"results of fold {strange[0]!r}; the cohort has folds {', '.join(order)}: number both alike")
    seen, own = np.array([order.index(name) for name in names])[codes], np.array([order.index(name) for name in folds])
    own = own[home][image]
    return np.select([own == seen, own == (seen + 1) % len(order)], [1, 2], 0).astype(np.int8)


def _roles_by_split(cohort, image, split: str, notes: list) -> np.ndarray:
    """The asked split is test, validation what is called so, in any case."""
    codes, words = codes_of(cohort, "split", "cohort")
    names = np.array([SPLIT_WORDS.get(word.lower(), word.lower()) for word in words])
    wanted, named = SPLIT_WORDS.get(split.lower(), split.lower()), names[codes[image]]
    if not (named == wanted).any():
        raise ValueError(f"no results on images of split {split!r}; there are {sorted(words)}: pass split=...")
    strange = [word for word, name in zip(words, names) if name not in (*SPLITS, wanted)]
    if strange and wanted in SPLITS:
        where = at(cohort, "cohort", int(np.argmax(codes == list(words).index(strange[0]))), "split")
        raise ValueError(f"split {strange[0]!r} of the cohort ({where}) is none of "
                         f"{', '.join((*SPLITS, *SPLIT_WORDS))}; there are {sorted(words)}: rename it")  # fmt: skip
    renamed = [f"{word!r} as {name}" for word, name in zip(words, names) if word != name]
    notes += [f"splits: {', '.join(renamed)}"] if renamed else []
    return np.select([named == wanted, named == "validation"], [1, 2], 0).astype(np.int8)


def _pair(keys: _Keys, cohort: pd.DataFrame, baseline_arm: str | None, arms) -> Matched:
    """The audited images, and the baseline of every condition."""
    known = sorted({arm for arm, _ in keys.conditions})
    others = [arm for arm in known if arm != baseline_arm]
    wanted = others if arms is None else [arms] if isinstance(arms, str) else list(arms)
    strange = [arm for arm in [baseline_arm or known[0], *wanted] if arm not in known]
    if strange:
        raise ValueError(f"no results of arm {strange[0]!r}; there are {known}")
    if not [arm for arm in wanted if arm != baseline_arm]:
        raise ValueError(f"only the baseline {baseline_arm!r} is there: nothing to compare")
    levels = {level: i for i, (arm, level) in enumerate(keys.conditions) if arm == baseline_arm}
    baseline_of = np.full(len(keys.conditions), -1)
    for i, (arm, level) in enumerate(keys.conditions):
        if arm == baseline_arm or (baseline_arm is None and arm in wanted):
            baseline_of[i] = i
        elif arm in wanted and (len(levels) == 1 or level in levels):
            baseline_of[i] = next(iter(levels.values())) if len(levels) == 1 else levels[level]
        elif arm in wanted:
            keys.notes.append(f"{arm} at level {level:g} has no baseline {baseline_arm!r} at that level: left out")
    used = (baseline_of == np.arange(len(baseline_of)))[keys.condition] & (keys.role == 1)
    rows = np.unique(keys.image[used])
    meant = np.unique(keys.image[keys.role == 1])
    if (n := len(meant) - len(rows)) and baseline_arm is not None:
        keys.notes.append(f"{n} of {len(meant)} images have no result of the baseline {baseline_arm!r}: not audited")
    images = people_of(cohort.iloc[rows].reset_index(drop=True), cohort, rows, keys.notes)
    column = np.full(len(cohort), -1)
    column[rows] = np.arange(len(rows))
    images.attrs = {"column": column}
    made, fold = keys.role == 1, np.zeros(len(images), int)
    at = column[keys.image[made]]
    fold[at[at >= 0]] = np.unique(keys.fold[made], return_inverse=True)[1][at >= 0]
    return Matched(keys.name, images, keys.conditions, baseline_of, notes=keys.notes, fold=fold)


def _check_pairs(matched: Matched, baseline_arm: str) -> None:
    """Say which results have no partner; ValueError if no image has results of an arm and of its baseline."""
    every = [*matched.score.values(), *matched.measure.values()]
    present, pairs = np.logical_or.reduce([~np.isnan(values) for values in every]), 0
    for i, (arm, level) in enumerate(matched.conditions):
        baseline = matched.baseline_of[i]
        if baseline not in (-1, i):
            both = present[i] & present[baseline]
            pairs += int(both.sum())
            for name in set(matched.measure) - PARTIAL:
                values = matched.measure[name]
                n = int((np.isnan(values[[i, baseline]]).any(axis=0) & both).sum())
                if n:
                    matched.notes.append(f"{arm} at level {level:g}: {n} images have no {name} and are left out of it")
    if not pairs:
        there = ", ".join(f"{arm} at level {level:g}" for arm, level in matched.conditions)
        raise ValueError(f"no image has results of an arm and of its baseline {baseline_arm!r}; there are {there}")


def _add_scores(matched: Matched, keys: _Keys, predictions, cohort, thresholds, rule, baseline_arm) -> None:
    """Scores and decisions of every task."""
    score = numbers(predictions, "score")
    _check_scores(score, keys)
    if "task" not in predictions:
        raise ValueError("the results lack 'task': add a column with the name of the question, labels in y_<task>")
    task_codes, tasks = codes_of(predictions, "task")
    absent = [task for task in tasks if f"y_{task}" not in cohort]
    if absent:
        raise ValueError(f"the cohort has no labels 'y_{absent[0]}'; its columns are {list(cohort.columns)}")
    matched.policy, thresholds = policy_of(thresholds, keys.role, baseline_arm, matched.notes)
    several = len(np.unique(keys.replicate)) > 1
    for t in np.argsort(tasks.astype(str)):
        task, rows = str(tasks[t]), np.flatnonzero(task_codes == t)
        truth = labels_of(cohort, task, matched.notes)
        cut = cuts_of(thresholds, task, keys, rows, score[rows], truth[keys.image[rows]], matched, rule)
        made = np.full(len(score), np.nan)
        made[rows] = np.where(np.isnan(cut), np.nan, score[rows] >= cut)
        audited = rows[keys.role[rows] == 1]
        matched.truth[task] = truth[matched.images.attrs["column"] >= 0]
        matched.score[task] = keys.dense(score, matched, audited)
        matched.decision[task] = keys.dense(made, matched, audited)
        if several:
            matched.per_seed[task] = keys.by_replicate(made, matched, audited)


def _add_measure(matched: Matched, keys: _Keys, name: str, values: np.ndarray) -> None:
    """A measure of every image, and of every replicate where there are several."""
    matched.measure[name] = keys.dense(values, matched)
    if len(np.unique(keys.replicate)) > 1:
        matched.per_seed[name] = keys.by_replicate(values, matched, np.flatnonzero(keys.role == 1))


def _check_scores(score: np.ndarray, keys: _Keys) -> None:
    """Refuse undefined scores and values that are no probabilities, naming the arm."""
    for i, (arm, level) in enumerate(keys.conditions):
        try:
            metrics.probabilities(score[keys.condition == i], f"score of arm {arm} at level {level:g}")
        except ValueError as error:
            raise ValueError(str(error)) from None
