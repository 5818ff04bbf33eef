"""Which column is what: common names, whatever case, blanks, hyphens and underscores; long tables and wide ones.

A name is compared by its letters and digits alone. Names of a role stand in tiers: the first tier that has one column
decides, and two columns of one tier are refused, with the option that tells them apart.
"""

import re

import numpy as np
import pandas as pd

from fairrecon_core.audit.engine import text_codes
from fairrecon_core.audit.matching import OVERLAP, SPLIT_WORDS, SPLITS
from fairrecon_core.audit.thresholds import LABEL_WORDS, UNKNOWN_WORDS

KEYS = ("level", "fold", "train_seed", "sample", "cohort")  # of a result; these names alone
UNCERTAIN = frozenset(("-1", "-1.0", "uncertain", "equivocal", "indeterminate"))
NAMES = {
    "image_id": (
        "imageid",
        "image img imgid imagename imageindex imagefile imagepath dicom dicomid dicompath sopinstanceuid scanid",
        "sliceid filename file filepath path scan slice",
        "studyid examid studyinstanceuid accession accessionnumber id uid",
    ),
    "patient_id": ("patientid patient", "subjectid subject pid ptid participantid participant mrn personid person",
                   "caseid case subj subjid"),
    "arm": ("arm", "model modelname reconstruction recon reconstructor algorithm method"),
    "task": ("task", "finding findings disease pathology labelname classname taskname condition"),
    "score": ("score", "prob probs proba probability yprob yproba yscore predprob predproba predictedprobability",
              "pred preds prediction yhat ypred output outputs confidence risk riskscore modelscore logit logits"),
    "label": ("label labels", "target targets ytrue truth groundtruth gt", "y class diagnosis outcome finding disease "
              "pathology condition groundtruthlabel"),
    "split": ("split", "subset partition set fold dataset phase"),
}  # fmt: skip
OPTIONS = {"image_id": "id", "patient_id": "patient", "split": "split"}  # options that are not called as the role
HINT = re.compile(  # what a name says of its values, in brackets at its end: Pneumonia (Y/N), Age (years)
    r"\s*[(\[]\s*(?:y(?:es)?\s*[/|,]\s*no?|[01]\s*[/|,-]\s*[01]|[mf]\s*/\s*[mf]|t(?:rue)?\s*/\s*f(?:alse)?|years?|yrs?|y|%"
    r"|binary|bool(?:ean)?)\s*[)\]]\s*$",
    re.IGNORECASE,
)
LABELS = frozenset(("0", "1", "0.0", "1.0", *LABEL_WORDS, *UNCERTAIN))
SEX = ("sex", "gender", "patientsex", "patientgender", "biologicalsex")
_SCORE = "score|probability|proba|probs|prob|prediction|preds|pred|logits|logit"
_LABEL = "label|target|truth|true|groundtruth|ground_truth|gt"
SCORE_NAME = re.compile(rf"(?:y_)?(?:{_SCORE})_(?P<a>.+)|(?P<b>.+)_(?:{_SCORE})")
LABEL_NAME = re.compile(rf"(?:y_true|y|{_LABEL})_(?P<a>.+)|(?P<b>.+)_(?:y_true|y|{_LABEL})")


def plain(name: str) -> str:
    """The letters and digits of a `name`, in small letters, without a `HINT`."""
    return "".join(letter for letter in HINT.sub("", str(name)).casefold() if letter.isalnum())


def listed(names) -> str:
    """Some `names` for a message, at most 20."""
    names = [str(name) for name in names]
    return ", ".join(map(repr, names[:20])) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def named(frame: pd.DataFrame, asked: str, option: str) -> str:
    """The column of a table that was asked for.

    Parameters
    ----------
    frame : DataFrame
    asked : str
        Its name; letters and digits are enough.
    option : str
        With which it was asked for.

    Raises
    ------
    ValueError
        There is none, or several.
    """
    if asked in frame:
        return asked
    hits = [name for name in frame.columns if plain(name) == plain(asked) and plain(asked)]
    if len(hits) != 1:
        why = f"columns {listed(hits)} are alike" if hits else f"has no column {asked!r}"
        raise ValueError(f"{frame.attrs['file']} {why} ({option}); its columns are {listed(frame.columns)}")
    return hits[0]


def find(frame: pd.DataFrame, role: str, taken=()) -> str | None:
    """The column of a table that has a role, None if there is none.

    Parameters
    ----------
    frame : DataFrame
        Of `reading.read_outside`.
    role : str
        One of `NAMES`.
    taken : sequence of str
        Columns that are something else.

    Raises
    ------
    ValueError
        Two columns could be it.
    """
    if role in frame and role not in taken:
        return role
    for rank, tier in enumerate(NAMES[role]):
        hits = [name for name in frame.columns if name not in taken and plain(name) in tier.split()]
        hits = [name for name in hits if _fits(frame[name], role, rank)]
        if len(hits) > 1:
            what, option = role.removesuffix("_id"), OPTIONS.get(role, role)
            way_out = "rename one" if role == "split" else f"say --{option} '{hits[0]}'"
            raise ValueError(f"{frame.attrs['file']}: columns {listed(hits)} could all be the {what}: {way_out}")
        if hits:
            return hits[0]
    return None


def _fits(values: pd.Series, role: str, rank: int) -> bool:
    """Whether a column with a doubtful name has what its role has."""
    if role == "split":
        return rank == 0 or set(_words(values)) <= {*SPLITS, *SPLIT_WORDS}
    if role == "task":
        return rank == 0 or not (is_labels(values) or is_numbers(values))
    if role == "label":
        return rank < 2 or is_labels(values)
    return role != "score" or rank == 0 or is_numbers(values)


def _words(values: pd.Series) -> list[str]:
    return [name.lower() for name in text_codes(values)[1]]


def is_labels(values: pd.Series, share: float = 1.0) -> bool:
    """Whether all of the `values`, or a `share` of them, are labels, or words for none."""
    codes, names = text_codes(values)
    words, counts = [name.lower() for name in names], np.bincount(codes[codes >= 0], minlength=len(names))
    good = np.array([word in LABELS for word in words], bool)
    fits = good | np.array([word in UNKNOWN_WORDS for word in words], bool)
    return bool(good.any() and counts[fits].sum() >= share * counts.sum())


def only_labels(frame: pd.DataFrame, taken=()) -> list[str]:
    """Columns of a `frame` that hold labels, whatever they are called; else those that nearly do.

    Parameters
    ----------
    frame : DataFrame
    taken : collection of str
        Columns that are something else.
    """
    free = [name for name in frame.columns if name not in taken and plain(name) not in SEX]
    return [name for name in free if is_labels(frame[name])] or [name for name in free if is_labels(frame[name], 0.9)]


def attributes(frames: list[pd.DataFrame], asked: list[list[str]]) -> list[list[str]]:
    """The attributes' columns as the files write them.

    Parameters
    ----------
    frames : list of DataFrame
    asked : list of list of str
        Of every audit, the columns that are crossed; without any, sex.

    Raises
    ------
    ValueError
        There is no such column, or several, or it names people.
    """
    asked, columns = asked or [["sex"]], [name for frame in frames for name in frame.columns]
    own = {plain(name): name for name in reversed(columns)}
    sexes = [own[name] for name in SEX if name in own]
    alike = lambda name: own.get(plain(name)) or (sexes[0] if sexes and plain(name) in SEX else name)
    for text in (text for names in asked for text in names if text not in columns):
        for frame in frames:
            hits = [name for name in frame.columns if plain(name) == plain(text)]
            if len(hits) > 1:
                raise ValueError(f"{frame.attrs['file']}: columns {listed(hits)} could all be {text!r}: say "
                                 f"--attribute '{hits[0]}'")  # fmt: skip
    found = [[name if name in columns else alike(name) for name in names] for names in asked]
    absent = [name for names in found for name in names if name not in columns]
    if absent:
        raise ValueError(f"the cohort has no attribute {absent}; its columns are {list(frames[-1].columns)}: "
                         "say --attribute COLUMN")  # fmt: skip
    people = {word for tier in NAMES["patient_id"] for word in tier.split()}
    odd = next((name for names in found for name in names if plain(name) in people), None)
    if odd is not None:
        raise ValueError(f"column {odd!r} names people, no groups: --attribute names a column such as sex")
    return found


def is_numbers(values: pd.Series) -> bool:
    """Whether most of the distinct `values` are numbers."""
    if pd.api.types.is_numeric_dtype(values):
        return True
    names = [name.replace(",", ".") for name in text_codes(values)[1][:1000] if name.lower() not in UNKNOWN_WORDS]
    return bool(names) and pd.to_numeric(pd.Series(names, dtype=object), errors="coerce").notna().mean() > 0.5


def marked(frame: pd.DataFrame, pattern: re.Pattern, taken=()) -> dict[str, list[str]]:
    """Columns whose name says score or label, by the task that it also names.

    Parameters
    ----------
    frame : DataFrame
    pattern : Pattern
        `SCORE_NAME` or `LABEL_NAME`.
    taken : sequence of str
        Columns that are something else.

    Returns
    -------
    dict
        Letters and digits of the task -> columns; in `LABEL_NAME`, y_<task> before all others.
    """
    known, out = {word for tiers in NAMES.values() for tier in tiers for word in tier.split()}, dict[str, list[str]]()
    for name in frame.columns:
        match = pattern.fullmatch(_joined(name).casefold())
        if match and name not in taken and plain(name) not in known:
            out.setdefault(plain(match["a"] or match["b"]), []).append(name)
    if pattern is LABEL_NAME:
        first = {task: [name for name in names if name.startswith("y_")] for task, names in out.items()}
        out = {task: first[task] if len(first[task]) == 1 else names for task, names in out.items()}
    return out


def _joined(name: str) -> str:
    """A name with one underscore for what parts its words."""
    return re.sub(r"[\s.\-:/_]+", "_", HINT.sub("", str(name)).strip())


def task_name(column: str) -> str:
    """The task that a `column` of labels or scores names, as it is written there; "finding" for a general word."""
    known = {word for role in ("label", "score") for tier in NAMES[role] for word in tier.split()}
    if plain(column) in known - {"disease", "pathology", "condition"}:
        return "finding"
    for pattern in (SCORE_NAME, LABEL_NAME):
        match = re.compile(pattern.pattern, re.IGNORECASE).fullmatch(_joined(column))
        if match:
            return match["a"] or match["b"]
    return HINT.sub("", column).strip()


def wide(results: pd.DataFrame, people: pd.DataFrame, taken=()) -> tuple[dict[str, tuple[str, str]], list[str]]:
    """Pairs of columns, a score and a label of one task, in tables with a column for each finding.

    Parameters
    ----------
    results, people : DataFrame
        Of scores and of labels; may be the same table.
    taken : sequence of str
        Columns that are something else.

    Returns
    -------
    pairs : dict
        Task -> (column of `results`, column of `people`).
    alone : list of str
        Columns of scores for which there are no labels.

    Raises
    ------
    ValueError
        Two columns could be the score, or the label, of one task.
    """
    one, pairs, alone = results is people, dict[str, tuple[str, str]](), list[str]()
    scores, labels = marked(results, SCORE_NAME, taken), marked(people, LABEL_NAME, taken)
    own = {plain(name): name for name in people.columns if name not in taken and is_labels(people[name])}
    if not scores:  # the plain name of a finding is the score
        free = [name for name in results.columns if name not in (*taken, *OVERLAP)]
        wanted = {*labels, *(() if one else own)}
        scores = {plain(name): [name] for name in free if plain(name) in wanted and is_numbers(results[name])}
    for task, columns in scores.items():
        hits = labels.get(task) or ([own[task]] if task in own else [])
        hits = [name for name in hits if not one or name not in columns]
        for what, several in (("score", columns), ("label", hits)):
            if len(several) > 1:
                file = (results if what == "score" else people).attrs["file"]
                raise ValueError(f"{file}: columns {listed(several)} could all be the {what} of {task!r}: drop all but "
                                 f"one, or say --score '{columns[0]}' --label '{(hits or ['COLUMN'])[0]}'")  # fmt: skip
        if hits:
            pairs[task_name(hits[0])] = (columns[0], hits[0])
        else:
            alone += columns
    return pairs, alone
