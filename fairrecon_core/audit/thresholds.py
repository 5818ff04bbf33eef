"""Thresholds: from scores to decisions; and what texts and numbers in a table of results mean.

Conventions: a decision is 1 where score >= threshold. A threshold is chosen among the observed scores, each tie as a
whole. Ids and names are text without blanks at their ends, whatever the type of their column; messages name
`frame.attrs["file"]` where it is there. Where a threshold is chosen decides what a change means, so every result
carries the name of its policy:

`validation_frozen`    on validation images of the baseline arm, then used for every arm: what happens when a
                       reconstruction is dropped into a running clinic (default).
`validation_per_arm`   on validation images of each arm: what happens after retuning, which hides a drift of scores.
`test_per_arm`         on the test labels of each arm: what the published code does.
`test_frozen`          on the test labels of the baseline, then used for every arm: where nothing else is at hand.
Source: the published rule is the point of the ROC curve where sensitivity and specificity are closest.
"""

import numpy as np
import pandas as pd

from fairrecon_core.audit.engine import text_codes
from fairrecon_core.audit.metrics import UNKNOWN, probabilities, smoothed

# What "not recorded" is called, whatever the case. All else is a group: NA may be Native American, None a form's word.
UNKNOWN_WORDS = frozenset((
    "", "unknown", "unk", "n/a", "#n/a", "<na>", "nan", "nat", "null", "missing", "blank", "(blank)", "?", "-", "--",
    "not reported", "not recorded", "not known", "not available", "not stated", "not specified", "not provided",
    "not applicable", "not disclosed", "unspecified", "unreported", "undisclosed", "undetermined", "refused",
    "declined", "patient refused", "prefer not to say", "decline to answer", "declined to answer",
))  # fmt: skip
UNKNOWN_CODES = frozenset(("-1", "-9", "-99", "-999", "-9999", "999", "9999"))  # of a group; an id may be one of these
LABEL_WORDS = {"true": 1, "false": 0, "yes": 1, "no": 0, "y": 1, "n": 0, "positive": 1, "negative": 0,
               "present": 1, "absent": 0, "pos": 1, "neg": 0, "t": 1, "f": 0}  # fmt: skip
PSNR_CAP_DB = 100.0  # of identical images too: an error below a step of 16 bits is none
RANGE = dict.fromkeys(("nmse", "lpips", "psnr_db", "psnr_foreground_db", "intersection", "predicted", "actual"),
                      (0, np.inf)) | {"ssim": (-1, 1)}  # fmt: skip
FEW = 2000  # validation images: among more, cuts hardly jump
POLICIES = ("validation_frozen", "validation_per_arm", "test_per_arm", "test_frozen")
RULES = {  # cost from TPR, FPR and prevalence p; the smallest wins, the highest threshold on ties
    "sens_spec": lambda tpr, fpr, p: np.abs((1 - fpr) - tpr),
    "youden": lambda tpr, fpr, p: fpr - tpr,
    "f1": lambda tpr, fpr, p: -2 * p * tpr / (p * tpr + (1 - p) * fpr + p),
    "specificity_90": lambda tpr, fpr, p: np.where(fpr <= 0.1 + 1e-12, -tpr, np.inf),
}


def choose_threshold(scores, truth, rule: str = "sens_spec") -> float:
    """Choose the cut that serves a rule best on these images.

    Parameters
    ----------
    scores : array-like, shape (n,)
        Probabilities in [0, 1].
    truth : array-like, shape (n,)
        Recorded labels 0 and 1; NaN is left out.
    rule : {"sens_spec", "youden", "f1", "specificity_90"}
        Sensitivity closest to specificity (published); largest TPR - FPR; largest F1; largest TPR at an FPR of at
        most 10 %.

    Returns
    -------
    threshold : float
        One of the scores, or just above the largest of them; NaN where one of the labels does not occur.

    Raises
    ------
    ValueError
        If the rule is unknown, lengths differ, or a score is NaN or outside [0, 1].

    Examples
    --------
    >>> choose_threshold([0.1, 0.4, 0.6, 0.9], [0, 0, 1, 1])
    0.6
    """
    if rule not in RULES:
        raise ValueError(f"unknown rule {rule!r}; choose one of {sorted(RULES)}")
    threshold, tpr, fpr, prevalence = roc_points(scores, truth)
    if not threshold.size:
        return np.nan
    return float(threshold[np.argmin(RULES[rule](tpr, fpr, prevalence))])


def resampled_thresholds(scores, truth, weights, rule: str = "sens_spec") -> np.ndarray:
    """`choose_threshold` of `scores` (1 or draws, n), `truth` (n,) by `rule` in every resample `weights` (draws, n)."""
    keep = ~np.isnan(truth)
    order = np.argsort(-scores[:, keep], axis=1, kind="stable")
    ordered, drawn = (np.take_along_axis(part[:, keep], order, axis=1) for part in (scores, weights))
    counts = [np.cumsum(drawn * (truth[keep] == label)[order], axis=1, dtype=float) for label in (1, 0)]
    totals = [count[:, -1:] for count in counts]
    with np.errstate(invalid="ignore", divide="ignore"):
        tpr, fpr = (np.pad(count / total, ((0, 0), (1, 0))) for count, total in zip(counts, totals))
        cost = RULES[rule](tpr, fpr, totals[0] / (totals[0] + totals[1]))
    cost[np.broadcast_to(np.pad(np.diff(ordered, axis=1) == 0, ((0, 0), (1, 1))), cost.shape)] = np.inf  # within ties
    ordered = np.concatenate([np.nextafter(ordered[:, :1], 2), ordered], axis=1)
    chosen = np.take_along_axis(ordered, np.argmin(cost, axis=1)[:, None], axis=1)
    return np.where((totals[0] > 0) & (totals[1] > 0), chosen, np.nan)[:, 0]


def roc_points(scores, truth) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Every distinct threshold from high to low with its TPR and FPR, and the prevalence of `truth` 1.

    Empty without both labels; ValueError if `scores` and `truth` differ in shape or a score is no probability.
    """
    scores, truth = probabilities(scores), np.asarray(truth, dtype=float)
    if scores.shape != truth.shape:
        raise ValueError(f"one label per score expected, got {truth.shape} for {scores.shape}")
    scores, truth = scores[~np.isnan(truth)], truth[~np.isnan(truth)]
    n_positive, n_negative = int((truth == 1).sum()), int((truth == 0).sum())
    if not n_positive or not n_negative:
        return np.empty(0), np.empty(0), np.empty(0), np.nan
    order = np.argsort(-scores, kind="stable")
    last_of_tie = np.flatnonzero(np.diff(-scores[order], append=np.inf) != 0)
    true_positive = np.cumsum(truth[order])[last_of_tie]
    false_positive = last_of_tie + 1 - true_positive
    threshold = np.concatenate([[np.nextafter(scores[order[0]], 2)], scores[order][last_of_tie]])
    tpr = np.concatenate([[0], true_positive / n_positive])
    return threshold, tpr, np.concatenate([[0], false_positive / n_negative]), n_positive / (n_positive + n_negative)


def policy_of(thresholds, role, baseline_arm: str | None, notes: list) -> tuple[str, object]:
    """Name of the policy, and the policy or the given numbers.

    Parameters
    ----------
    thresholds
        As in `change.audit_change`.
    role : int array
        What each result is for: 1 test, 2 validation.
    baseline_arm : str or None
        Named in the note; with none, what lacks thresholds is decided at 0.5.
    notes : list of str
        Gets a line where thresholds have to come from test images.

    Raises
    ------
    ValueError
        An unknown policy, one that lacks validation images, several policies, or a number outside [0, 1].
    """
    check_numbers(thresholds)
    if thresholds is None:
        thresholds = "validation_frozen" if (role == 2).any() else "test_frozen" if baseline_arm else 0.5
        if thresholds != "validation_frozen":
            own = f"chosen on the test images of {baseline_arm}, then kept for all arms"
            notes.append(f"no validation images: thresholds {own if baseline_arm else 'are 0.5'}")
    if isinstance(thresholds, str):
        if thresholds not in POLICIES:
            raise ValueError(f"unknown threshold policy {thresholds!r}; choose one of {list(POLICIES)} or give numbers")
        if thresholds.startswith("validation") and not (role == 2).any():
            raise ValueError(f"{thresholds!r} needs results on validation images: add them, or choose 'test_frozen'")
        return thresholds, thresholds
    if isinstance(thresholds, pd.DataFrame) and "policy" in thresholds:
        policies = thresholds["policy"].unique()
        if len(policies) > 1:
            raise ValueError(f"thresholds of several policies, {list(policies)}: select one")
        return str(policies[0]), thresholds
    return "given", thresholds


def check_numbers(thresholds) -> None:
    """Refuse, with a ValueError, thresholds given as numbers (one, by task, or a table's `value`) outside [0, 1].

    In a table NaN stands for a threshold that could not be chosen, and the least number above 1 calls nobody ill.
    """
    if isinstance(thresholds, str | None):
        return
    tabled = isinstance(thresholds, pd.DataFrame)
    numbers = thresholds["value"].dropna() if tabled else getattr(thresholds, "values", lambda: [thresholds])()
    for number in map(float, numbers):
        if not 0 <= number <= 1 + (1e-9 if tabled else 0):
            raise ValueError(f"threshold {number:g} is not in [0, 1]: scores are probabilities, 50 % is 0.5")


def cuts_of(thresholds, task: str, keys, rows, score, truth, matched, rule: str) -> np.ndarray:
    """Threshold of every result of one task, NaN where none can be chosen.

    Parameters
    ----------
    thresholds : str, float, dict or DataFrame
        Of `policy_of`.
    task : str
    keys, matched
        Of `matching`: what each result is, and with which baseline it is compared; gets a note.
    rows : int array, shape (n,)
        The results of this task.
    score, truth : arrays, shape (n,)
    rule : str
        One of `RULES`.

    Raises
    ------
    ValueError
        The given numbers lack this task, or its values contradict each other.
    """
    if isinstance(thresholds, str):
        return _chosen_cuts(thresholds, task, keys, rows, score, truth, matched, rule)
    if isinstance(thresholds, pd.DataFrame):
        return _tabled_cuts(thresholds, task, keys, rows)
    if np.isscalar(thresholds):
        return np.full(len(rows), float(thresholds))  # type: ignore[arg-type]  # isscalar admits complex
    if task not in thresholds:
        raise ValueError(f"no threshold for task {task!r}; there are {sorted(thresholds)}")
    return np.full(len(rows), float(thresholds[task]))


def _chosen_cuts(policy, task, keys, rows, score, truth, matched, rule) -> np.ndarray:
    """Cuts as chosen; those of resampled validation patients are left in `matched.cut_draws`."""
    role = 2 if policy.startswith("validation") else 1
    condition, fold, seed = keys.condition[rows], keys.fold[rows], keys.seed[rows]
    source = np.arange(len(keys.conditions))
    if policy.endswith("frozen"):  # on each condition's own baseline
        source = np.where(matched.baseline_of < 0, source, matched.baseline_of)
    cut, weights = np.full(len(rows), np.nan), keys.validation_weights if role == 2 else None
    if weights is not None:
        draws = matched.cut_draws[task] = np.full((len(weights), len(keys.conditions), matched.fold.max() + 1), np.nan)
    seeds = seed if not policy.endswith("frozen") else np.zeros_like(seed)
    for c, f, s in np.unique(np.stack([source[condition], fold, seeds]), axis=1).T:
        usable = (condition == c) & (fold == f) & (keys.role[rows] == role) & ((seeds == s) | policy.endswith("frozen"))
        here = (source[condition] == c) & (fold == f) & (seeds == s)
        cut[here] = choose_threshold(score[usable], truth[usable], rule)
        if weights is not None and np.isfinite(cut[here]).any():
            who, own = keys.patient[rows[usable]], (score[usable], truth[usable])
            few = policy.endswith("per_arm") and len(who) <= FEW  # cuts that jump apart: one for all arms does not
            drawn = smoothed(*own, weights[:, who], who) if few else (own[0][None], own[1], weights[:, who])
            several = resampled_thresholds(drawn[0], drawn[1], drawn[2], rule)
            several = np.where(np.isnan(several), cut[here][0], several)
            draws[:, source == c, np.searchsorted(np.unique(keys.fold[keys.role == 1]), f)] = several[:, None]
    if np.isnan(cut).any():
        split = "validation" if role == 2 else "test"
        matched.notes.append(f"{task}: no threshold, the {split} images of the source arm lack one of the labels")
    return cut


def _tabled_cuts(table: pd.DataFrame, task: str, keys, rows) -> np.ndarray:
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
    table = table[[*on, "value"]].astype({"level": object} if "level" in on else {})
    found = wanted.merge(table, on=on, how="left", indicator=True)  # a NaN is a threshold that nothing could choose
    if not found["_merge"].eq("both").any():
        raise ValueError(f"the thresholds of task {task!r} have no value for the {', '.join(on)} of the results")
    return found["value"].to_numpy(float)


def at(frame: pd.DataFrame, what: str, row: int, column: str = "") -> str:
    """Where a value is: "p.csv row 4, column 'score'" (row 1: the header; attrs may have `row_of`), or of `what`."""
    file = frame.attrs.get("file")
    place = f"{file} row {frame.attrs.get('row_of', int)(row) + 2}" if file else f"row {row} of the {what}"
    return f"{place}, column {column!r}" if column else place


def is_word(names, words=UNKNOWN_WORDS) -> np.ndarray:
    """Which of the `names` are among `words`, whatever their case; the last entry, True, is for the code -1."""
    return np.array([*(name.lower() in words for name in names), True])


def numbers(frame: pd.DataFrame, column: str, what: str = "results") -> np.ndarray:
    """A column of numbers, of whatever type, as float64, NaN where empty.

    Parameters
    ----------
    frame : DataFrame
    column : str
        Its name also says in which `RANGE` the numbers lie.
    what : str
        What the frame is called in messages.

    Raises
    ------
    ValueError
        A value is no number, or out of range; the message names its place and the way out.
    """
    values = frame[column]
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        found = values.to_numpy(dtype=float, na_value=np.nan)
    else:
        codes, names = text_codes(values)
        found = pd.to_numeric(pd.Series([*names, ""], dtype=object), errors="coerce").to_numpy(float)[codes]
        bad = np.flatnonzero(np.isnan(found) & ~is_word(names)[codes])
        if bad.size:
            value = names[codes[bad[0]]]
            raise ValueError(f"{at(frame, what, bad[0], column)}: {value!r} is no number: write it like 0.25")
    low, high = RANGE.get(column, (-np.inf, np.inf))
    bad = np.flatnonzero((found < low) | (found > high))
    if bad.size:
        raise ValueError(f"{at(frame, what, bad[0], column)}: {found[bad[0]]:g} is not in [{low}, {high}]: divide "
                         "percents by 100, and measure the quality of images in [0, 1]")  # fmt: skip
    return found


def quality_of(predictions: pd.DataFrame, name: str, notes: list) -> np.ndarray:
    """The measure `name`: PSNR up to its cap, an infinite NMSE (of a blank original) NaN; `notes` say so."""
    values = numbers(predictions, name)
    n = int(np.isinf(values).sum())
    if name.startswith("psnr"):
        said = f"identical images have a {name} of {PSNR_CAP_DB:g}, the cap for every arm: {n} results"
    else:
        said = f"{n} results have an infinite {name} (a blank original): left out, with the same image of every arm"
    notes += [said] if n else []
    return np.minimum(values, PSNR_CAP_DB) if name.startswith("psnr") else np.where(np.isinf(values), np.nan, values)


def labels_of(cohort: pd.DataFrame, task: str, notes: list, column: str = "") -> np.ndarray:
    """Labels of a task as 0, 1 or NaN.

    Parameters
    ----------
    cohort : DataFrame
        Has a `column`, by default y_<task>, of numbers or of words such as yes and no.
    task, column : str
    notes : list of str
        Gets a line where words were read.

    Raises
    ------
    ValueError
        Any other value; the message names its row.
    """
    column = column or f"y_{task}"
    codes, names = text_codes(cohort[column])
    meaning = np.array([LABEL_WORDS.get(name.lower(), np.nan) for name in names] + [np.nan])
    whole = pd.to_numeric(pd.Series([*names, ""], dtype=object), errors="coerce").to_numpy(float)
    meaning = np.where(np.isin(whole, (0, 1)), whole, meaning)
    truth = meaning[codes]
    odd = np.flatnonzero(np.isnan(truth) & ~is_word(names, UNKNOWN_WORDS | {"na", "none"})[codes])
    if odd.size:
        value, number = names[codes[odd[0]]], whole[codes[odd[0]]]
        found, where = repr(value) if np.isnan(number) else number, at(cohort, "cohort", odd[0], column)
        raise ValueError(f"labels {column} should be 0, 1 or empty, found {found} ({where})")
    words = [f"{name!r} read as {LABEL_WORDS[name.lower()]}" for name in names if name.lower() in LABEL_WORDS]
    notes += [f"{column}: {', '.join(words)}"] if words else []
    return truth


def people_of(images: pd.DataFrame, cohort: pd.DataFrame, rows, notes: list) -> pd.DataFrame:
    """The audited `images`, which are `rows` of the `cohort`, with ids as text and clean names of groups; adds `notes`.

    ValueError if an image has no id or no patient.
    """
    if "patient_id" not in images:
        images = images.assign(patient_id=images["image_id"])
        notes.append("no patient_id in the cohort: every image counts as its own patient")
    images = images.assign(**{name: _ids(images, name, cohort, rows) for name in ("image_id", "patient_id")})
    for name in images.columns.difference(["image_id", "patient_id", "split", "fold"]):
        wordy = not pd.api.types.is_numeric_dtype(images[name]) or pd.api.types.is_bool_dtype(images[name])
        if not name.startswith(("y_", "true_")) and (wordy or images[name].nunique() <= 20):
            images[name], found = as_groups(images[name])
            notes += found
    return images


def _ids(images: pd.DataFrame, name: str, cohort: pd.DataFrame, rows) -> np.ndarray:
    codes, texts = text_codes(images[name])
    lost = np.flatnonzero(is_word(texts)[codes])
    if lost.size:
        where = at(cohort, "cohort", rows[lost[0]])
        raise ValueError(f"{lost.size} images have no {name}, e.g. {where}: fill or drop")
    return texts[codes]


def as_groups(values: pd.Series) -> tuple[pd.Series, list[str]]:
    """Names of groups as text: spellings that differ in case or blanks are one, words for unknown are missing.

    Parameters
    ----------
    values : Series
        A column of the cohort.

    Returns
    -------
    groups : Series of object; or categories, in the order of the alphabet, where the column declares them
    notes : list of str
        Which words were read as unknown or as one, with counts, and which may mean the same.
    """
    codes, names = text_codes(values)
    counts, column = np.bincount(codes[codes >= 0], minlength=len(names)), values.name
    unknown, best = is_word(names, UNKNOWN_WORDS | UNKNOWN_CODES), dict[str, str]()
    for i in np.lexsort([np.arange(len(names)), -counts]):  # the most frequent spelling of each
        best.setdefault(names[i].casefold(), names[i])
    kept = [None if lost else best[name.casefold()] for name, lost in zip(names, unknown)]
    shown = lambda chosen: ", ".join(f"{names[i]!r} ({counts[i]})" for i in chosen)
    lost = [i for i, new in enumerate(kept) if new is None and names[i] != UNKNOWN and counts[i]]
    merged = [i for i, new in enumerate(kept) if new not in (None, names[i]) and counts[i]]
    doubtful = [i for i, new in enumerate(kept) if new and new.lower() in ("na", "none") and counts[i]]
    notes = [f"{column}: {shown(lost)} read as unknown"] if lost else []
    notes += [f"{column}: {shown(merged)} read as other spellings of a group"] if merged else []
    notes += [f"{column}: {shown(doubtful)} is a group; if it means unknown, empty it"] if doubtful else []
    groups = sorted(set(filter(None, kept)))
    for short in (name for name in groups if len(name) == 1):
        long = [name for name in groups if name != short and name.lower().startswith(short.lower())]
        if len(long) == 1:
            notes.append(f"{column}: {short!r} may mean {long[0]!r}: two groups unless --map {short}={long[0]}")
    found = pd.Series(np.array([*kept, None], dtype=object)[codes], index=values.index, name=column, dtype=object)
    declared = isinstance(values.dtype, pd.CategoricalDtype)
    return found.astype(pd.CategoricalDtype(groups)) if declared else found, notes
