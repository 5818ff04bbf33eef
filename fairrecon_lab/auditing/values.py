"""What stands in a column: scores as probabilities, labels as 0, 1 or nothing, numbers as groups.

Every refusal names file, row (the header is row 1), column, value and the way out; every assumption is a note.
"""

import itertools
import re

import numpy as np
import pandas as pd

from fairrecon_core.audit.engine import text_codes
from fairrecon_core.audit.thresholds import UNKNOWN_CODES, UNKNOWN_WORDS, as_groups, at, is_word, labels_of
from fairrecon_lab.auditing.columns import UNCERTAIN, listed, plain
from fairrecon_lab.auditing.reading import number_column

FEW = 8  # distinct numbers of an attribute that stay names of groups
MOST_GROUPS = 100  # beyond, a column names people
AGE = re.compile(r"0*(\d{1,3})\s*(?:y|yr|yrs|years?)?", re.IGNORECASE)  # 045Y of DICOM, 45 years
MEANS = {"missing": "missing", "negative": "0", "positive": "1"}  # what a label of -1 is, by policy


def scores(frame: pd.DataFrame, column: str, logits: bool, notes: list) -> np.ndarray:
    """A column of scores as probabilities, NaN where empty.

    Parameters
    ----------
    frame : DataFrame
    column : str
    logits : bool
        Whether they are log odds.
    notes : list of str
        Gets a line if so.

    Raises
    ------
    ValueError
        A score is no number, or none in [0, 1] and not said to be a logit.
    """
    found = number_column(frame, column)
    known = found[~np.isnan(found)]
    if not known.size:
        raise ValueError(f"{frame.attrs['file']}, column {column!r} is empty: no scores to audit")
    inside = (known >= 0) & (known <= 1)
    if logits:
        if np.isinf(known).any():
            row = int(np.argmax(np.isinf(found)))
            raise ValueError(f"{at(frame, 'results', row, column)}: {found[row]:g} is no logit: drop or repair it")
        if inside.all():
            raise ValueError(f"{frame.attrs['file']}, column {column!r}: all scores lie in [0, 1], they look like "
                             "probabilities: leave --logits out")  # fmt: skip
        notes.append(f"{column}: logits, 1 / (1 + exp(-x)) taken first")
        positive = np.exp(-np.abs(found))
        return np.where(found >= 0, 1, positive) / (1 + positive)
    if not inside.all():
        row = int(np.flatnonzero((found < 0) | (found > 1))[0])
        raise ValueError(
            f"{at(frame, 'results', row, column)}: {found[row]:g} should be a probability in [0, 1], found "
            f"{known.min():.4g} to {known.max():.4g} there: say --logits if these are logits; divide percents by 100"
        )
    if np.isin(known, (0, 1)).all():
        notes.append(f"{column}: all scores are 0 or 1, decisions: an AUROC of these is (TPR - FPR + 1) / 2")
    return found


def labels(frame: pd.DataFrame, column: str, uncertain: str, notes: list) -> np.ndarray:
    """A column of labels as 0, 1 or NaN.

    Parameters
    ----------
    frame : DataFrame
    column : str
    uncertain : {"missing", "negative", "positive"}
        What -1 and "uncertain" are.
    notes : list of str
        Gets a line where words were read, and where labels were uncertain.

    Raises
    ------
    ValueError
        Any other value; the message names its row.
    """
    codes, names = text_codes(frame[column])
    doubtful = is_word(names, UNCERTAIN)
    doubtful[-1] = False
    n = int(doubtful[codes].sum())
    if not n:
        return labels_of(frame, "", notes, column)
    means = {"missing": "", "negative": "0", "positive": "1"}[uncertain]
    told = np.array([*(means if word else name for name, word in zip(names, doubtful)), ""], dtype=object)
    plain = pd.DataFrame({column: told[codes]})
    plain.attrs = dict(frame.attrs)
    found = listed(name for name, word in zip(names, doubtful[:-1]) if word)
    other = " (--uncertain positive or negative)" if uncertain == "missing" else ""
    notes.append(f"{column}: {n} of {len(codes)} labels are uncertain, {found}: read as {MEANS[uncertain]}{other}")
    return labels_of(plain, "", notes, column)


def groups(cohort: pd.DataFrame, name: str, bins: dict, renamed: dict, notes: list) -> pd.Series:
    """Clean names of groups of one attribute; numbers in bins.

    Parameters
    ----------
    cohort : DataFrame
        Of images, with `patient_id` where patients are known.
    name : str
        The attribute's column.
    bins : dict
        Column -> edges, or None for values as they are; tertiles by patient where it is not there and has numbers.
    renamed : dict
        Old names, in small letters, and new ones.
    notes : list of str
        Gets what was assumed.

    Raises
    ------
    ValueError
        The column names people, or is to be cut and holds no numbers.
    """
    codes, words = text_codes(cohort[name])
    if name in ("image_id", "patient_id"):
        raise ValueError(f"{cohort.attrs['file']}, column {name!r} has {len(words)} values: it names people, no groups")
    new = np.array([*(renamed.get(word.casefold(), word) for word in words), None], dtype=object)
    values = pd.Series(new[codes], index=cohort.index, name=name)
    edges = bins.get(name, ())
    numbers = _as_numbers(values, wanted=bool(edges), frame=cohort)
    if numbers is not None and plain(name).startswith("age") and (numbers < 0).any():
        row = int(np.argmax(numbers < 0))
        raise ValueError(f"{at(cohort, 'cohort', row, name)}: {numbers[row]:g} is no age: mend it, or say --map "
                         f"'{numbers[row]:g}=unknown'")  # fmt: skip
    if edges is None or numbers is None or (not edges and len(np.unique(numbers[~np.isnan(numbers)])) <= FEW):
        found, said = as_groups(values)
        kept = found.dropna().unique()
        if len(kept) > MOST_GROUPS:
            raise ValueError(f"{cohort.attrs['file']}, column {name!r} has {len(kept)} values, such as {kept[0]!r}: "
                             "make a column of groups first, for example young and old")  # fmt: skip
    else:
        found, said = _binned(values, numbers, edges, cohort)
    notes += said
    if "patient_id" in cohort:
        several = found.groupby(text_codes(cohort["patient_id"])[0]).nunique() > 1
        if several.any():
            notes.append(f"{int(several.sum())} patients have more than one {name}: each image counts where it says")
    return found


def _as_numbers(values: pd.Series, wanted: bool, frame: pd.DataFrame) -> np.ndarray | None:
    """The numbers of an attribute, NaN where unknown; None if it holds names. Ages may be written 045Y, or 90+."""
    codes, words = text_codes(values)
    known = ~is_word(words, UNKNOWN_WORDS | UNKNOWN_CODES)[:-1]
    texts = [re.sub(r"^[<>]=?\s*|\+$", "", word.replace(",", ".")) for word in words]
    texts = [match[1] if (match := AGE.fullmatch(text)) else text for text in texts]
    found = pd.to_numeric(pd.Series([*texts, ""], dtype=object), errors="coerce").to_numpy(float, copy=True)
    found[:-1][~known] = np.nan
    good = np.isfinite(found[:-1])
    if not wanted and good.sum() <= max(0.5 * known.sum(), 1):
        return None
    bad = np.flatnonzero(known & ~good)
    if bad.size:
        row = int(np.argmax(codes == bad[0]))
        raise ValueError(
            f"{at(frame, 'cohort', row, values.name)}: {words[bad[0]]!r} is no number, as most others are: mend it, or "
            f"say --map '{words[bad[0]]}=unknown', or --bins '{values.name}=none' for values as they are"
        )
    return found[codes]


def _binned(values: pd.Series, numbers: np.ndarray, edges, cohort: pd.DataFrame) -> tuple[pd.Series, list[str]]:
    """Bins with their lower edge; default tertiles of the patients' means."""
    name, known = values.name, ~np.isnan(numbers)
    n = len(np.unique(numbers[known]))
    if not edges:
        who = text_codes(cohort["patient_id" if "patient_id" in cohort else "image_id"])[0]
        by_patient = pd.Series(numbers[known]).groupby(who[known]).mean()
        cut = np.unique(np.quantile(by_patient, [1 / 3, 2 / 3], method="higher"))
        edges = [edge for edge in cut if numbers[known].min() < edge]
        said = f"{name} has {n} values: cut at {_and(edges)}, tertiles of patients (--bins {name}=40,60 for others)"
    else:
        said = f"{name} is cut at {_and(edges)}"
    open_ended = sorted({word for word in values.dropna().unique() if re.match(r"[<>]|.*\+$", word)})
    if open_ended:
        said += f"; {listed(open_ended)} read as the number in it"
    if not len(edges):
        raise ValueError(
            f"{cohort.attrs['file']}, column {name!r} cannot be cut into thirds: say --bins '{name}=EDGES'"
        )
    show = [f"{edge:g}" for edge in edges]
    labels_ = [f"<{show[0]}", *(f"{low} to <{high}" for low, high in itertools.pairwise(show)), f">={show[-1]}"]
    code = np.searchsorted(edges, numbers, side="right")
    code[~known] = len(labels_)
    found = pd.Series(np.array([*labels_, None], dtype=object)[code], index=values.index, name=name, dtype=object)
    lost = values[~known].dropna()
    counts = lost[lost != "unknown"].value_counts()
    words = ", ".join(f"{word!r} ({k})" for word, k in counts.items() if word)
    return found, [said, *([f"{name}: {words} read as unknown"] if words else [])]


def _and(numbers) -> str:
    return " and ".join(f"{number:g}" for number in numbers)
