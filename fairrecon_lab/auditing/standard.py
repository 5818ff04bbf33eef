"""One table or two, long or wide, with names of their own, as the two tables that the audit takes.

The results: `image_id task score` (or measures), with arms where there are several. The cohort: `image_id patient_id`,
split, attributes and labels `y_<task>`, a row an image. Derived tables know the rows of their file (`attrs["row_of"]`),
so that a message about any of them names file and row.
"""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from fairrecon_core.audit.engine import text_codes
from fairrecon_core.audit.matching import OVERLAP, QUALITY
from fairrecon_core.audit.thresholds import at
from fairrecon_core.measures import METRICS, UNITS
from fairrecon_lab.auditing.columns import (
    KEYS,
    LABEL_NAME,
    OPTIONS,
    attributes,
    find,
    listed,
    marked,
    named,
    only_labels,
    plain,
    task_name,
    wide,
)
from fairrecon_lab.auditing.reading import number_column
from fairrecon_lab.auditing.values import labels, scores

ROLES = ("image_id", "patient_id", "split", "arm", "task", "score", "label")
NO_PATIENT = ("NO PATIENTS KNOWN: every image counts as a patient of its own. Where patients have several images, all "
              "intervals are too narrow: say --patient COLUMN")  # fmt: skip


@dataclass
class Standard:
    """What the audit takes.

    scores, measures : results with scores, results with numbers of images; None without. cohort : the people.
    attributes : of every audit, the columns that are crossed. shown : name of a role -> column of the file, where they
    differ. notes : what was assumed, the recognised columns first.
    """

    cohort: pd.DataFrame
    attributes: list[list[str]]
    scores: pd.DataFrame | None = None
    measures: pd.DataFrame | None = None
    shown: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def standard(results: pd.DataFrame, people: pd.DataFrame | None, options) -> Standard:
    """The audit's two tables from one or two files.

    Parameters
    ----------
    results : DataFrame
        Of `reading.read_outside`: scores, and people if there is no second table.
    people : DataFrame or None
        The second table.
    options : Namespace
        Of `options.parse`.

    Returns
    -------
    Standard

    Raises
    ------
    ValueError
        What is meant cannot be told, or a value is none of its kind; the message says what was found and the way out.
    """
    frames = [results] if people is None else [results, people]
    out = Standard(pd.DataFrame(), attributes(frames, options.attribute))
    out.notes += [note for frame in frames for note in frame.attrs["notes"]]
    frames = [_renamed(frame, roles, out) for frame, roles in zip(frames, _roles(frames, out.attributes, options))]
    out.notes[:0] = _read(frames, out.shown)
    odd = next((name for names in out.attributes for name in names if name in ("score", "label")), None)
    if odd is not None:
        raise ValueError(f"column {out.shown.get(odd, odd)!r} is the {odd}, no attribute: name a column such as sex")
    results, people = frames[0], frames[-1]
    if people is results:
        results = people = _with_images(results, out.notes)
    else:
        results, people = _joined(results, people, out.notes)
    longer = people is results or {"task", "label"} <= set(people.columns)
    out.cohort = _one_row_an_image(people) if longer else people
    wanted = dict.fromkeys(["patient_id", "split", *(name for names in out.attributes for name in names)])
    for name in wanted:
        source = people if name in people else results
        if name not in out.cohort and name in source:
            out.cohort = _assigned(out.cohort, name, source, source[name])
    if "patient_id" not in out.cohort:
        out.cohort = out.cohort.assign(patient_id=out.cohort["image_id"])
        out.notes.append(NO_PATIENT)
    _add_results(out, results, people, options)
    return out


def _roles(frames, attributes, options) -> list[dict[str, str]]:
    """Role -> column, for each file."""
    out: list[dict[str, str]] = [{} for _ in frames]
    measures = {plain(name) for name, _, _ in options.value}
    for role in ROLES:
        asked = getattr(options, OPTIONS.get(role, role)) if role != "split" else None
        asked = (asked[0] if len(asked) == 1 else None) if isinstance(asked, list) else asked
        if role in ("score", "label") and len(options.score) > 1:
            continue
        holds = [_holds(frame, asked) for frame in frames] if asked else [True]
        if asked and not any(holds) and role == "task":
            continue  # a name
        if asked and not any(holds):
            named(frames[0 if role in ("score", "arm") else -1], asked, f"--{OPTIONS.get(role, role)}")
        for frame, found in zip(frames, out):
            mine = [*found.values(), *(name for names in attributes for name in names if name not in ROLES)]
            mine += [name for name in frame.columns if plain(name) in measures or name in (*KEYS, *QUALITY)]
            mine += OVERLAP if set(OVERLAP) <= set(frame.columns) else ()
            column = (named(frame, asked, role) if _holds(frame, asked) else None) if asked else find(frame, role, mine)
            if column is not None:
                found[role] = column
    return out


def _holds(frame: pd.DataFrame, asked: str) -> bool:
    return any(asked == name or plain(asked) == plain(name) for name in frame.columns)


def _renamed(frame: pd.DataFrame, roles: dict[str, str], out: Standard) -> pd.DataFrame:
    """The columns under the names of their roles; one of that name which is something else steps aside."""
    aside = {role: f"{role} (not used)" for role, column in roles.items() if column != role and role in frame}
    out.shown |= {role: column for role, column in roles.items() if column != role}
    new = frame.rename(columns=aside | {column: role for role, column in roles.items()})
    new.attrs = dict(frame.attrs)
    out.attributes = [[next((role for role, column in roles.items() if column == name), name) for name in names]
                      for names in out.attributes]  # fmt: skip
    return new


def _read(frames, shown: dict[str, str]) -> list[str]:
    """Which column was read as what, if any is not called so."""
    if not shown:
        return []
    words = {"image_id": "image", "patient_id": "patient"}
    return ["columns read: " + ", ".join(f"{words.get(role, role)} = {column!r}" for role, column in shown.items())]


def _with_images(frame: pd.DataFrame, notes: list) -> pd.DataFrame:
    """The only table, with an image id: where it has none, rows are images, or patients are."""
    if "image_id" in frame:
        return frame
    file, several = frame.attrs["file"], [name for name in ("task", "arm", *KEYS) if name in frame]
    if not several:
        notes.append(f"{file} has no image id: every row is an image (--id COLUMN)")
        return _with_attrs(frame.assign(image_id=[f"row {i + 2}" for i in range(len(frame))]), frame)
    if "patient_id" in frame and not frame.duplicated(["patient_id", *several]).any():
        notes.append(f"{file} has no image id: every patient has one image (--id COLUMN)")
        return _with_attrs(frame.assign(image_id=frame["patient_id"]), frame)
    raise ValueError(f"{file} has columns {listed(several)}, so an image may have several rows, and no column for the "
                     f"image: say --id COLUMN; its columns are {listed(frame.columns)}")  # fmt: skip


def _with_attrs(frame: pd.DataFrame, old: pd.DataFrame, rows=None) -> pd.DataFrame:
    """A derived frame with the file of the old one, and with its rows where they are others."""
    frame.attrs = {name: value for name, value in old.attrs.items() if name in ("file", "notes", "row_of")}
    if rows is not None:
        before = old.attrs.get("row_of", int)
        frame.attrs["row_of"] = lambda row: before(rows[row])
    return frame


def _one_row_an_image(frame: pd.DataFrame) -> pd.DataFrame:
    """Ids of the images of a table, in the order of their first rows."""
    codes, _ = text_codes(frame["image_id"])
    if (codes < 0).any():
        n, where = int((codes < 0).sum()), at(frame, "results", int(np.argmax(codes < 0)))
        raise ValueError(f"{n} rows have no image id, the first is {where}: fill it")
    rows = np.flatnonzero(~pd.Series(codes).duplicated())
    return _with_attrs(frame[["image_id"]].iloc[rows].reset_index(drop=True), frame, rows)


def _assigned(cohort: pd.DataFrame, name: str, source: pd.DataFrame, values: pd.Series) -> pd.DataFrame:
    """The cohort with a column that stands, with the same value for all rows of an image, in another table."""
    image, images = text_codes(source["image_id"])
    codes, words = text_codes(values)
    known = np.flatnonzero((codes >= 0) & (image >= 0))
    first = np.full(len(images) + 1, -1)
    first[image[known[::-1]]] = known[::-1]
    odd = known[codes[known] != codes[first[image[known]]]]
    if odd.size:
        row, other = int(odd[0]), int(first[image[odd[0]]])
        where = at(source, "results", row, str(values.name or name))
        there, again = words[codes[row]], f"{words[codes[other]]!r} in row {source.attrs.get('row_of', int)(other) + 2}"
        raise ValueError(
            f"{where}: image {images[image[row]]!r} has {there!r} there and {again}: one image has one value"
        )
    mine, here = text_codes(cohort["image_id"])
    place = pd.Index(images).get_indexer(here)
    row = first[place[mine]]
    row = np.where((place[mine] < 0) | (mine < 0), -1, row)
    told = pd.Categorical.from_codes(np.where(row >= 0, codes[row], -1), words)
    return _with_attrs(cohort.assign(**{name: told}), cohort)


def _joined(results: pd.DataFrame, people: pd.DataFrame, notes: list) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables with an image id; a table of patients becomes one of images."""
    for frame, what in ((results, "results"), (people, "cohort")):
        if "image_id" not in frame and not ("patient_id" in results and "patient_id" in people):
            lack = "results lack ['image_id']; their" if what == "results" else "cohort lacks 'image_id'; its"
            raise ValueError(f"the {lack} columns are {list(frame.columns)}: say --id COLUMN")
    if "image_id" not in results:
        several = [name for name in ("task", "arm", *KEYS) if name in results]
        twice = np.flatnonzero(results.duplicated(["patient_id", *several]))
        if twice.size:
            raise ValueError(f"{at(results, 'results', twice[0])}: this patient has several rows and the table no "
                             "column for the image: say --id COLUMN")  # fmt: skip
        results = _with_attrs(results.assign(image_id=results["patient_id"]), results)
        notes.append(f"{results.attrs['file']} has no image id: every patient has one image (--id COLUMN)")
        if "image_id" in people:
            raise ValueError(f"{people.attrs['file']} has a column for the image and {results.attrs['file']} has none: "
                             "say --id COLUMN")  # fmt: skip
    return results, people if "image_id" in people else _of_patients(results, people, notes)


def _of_patients(results: pd.DataFrame, people: pd.DataFrame, notes: list) -> pd.DataFrame:
    """A table with a row a patient as one with a row an image."""
    codes, known = text_codes(people["patient_id"])
    twice = np.flatnonzero(pd.Series(codes).duplicated())
    if twice.size or (codes < 0).any():
        row = int(twice[0]) if twice.size else int(np.argmax(codes < 0))
        why = f"patient {known[codes[row]]!r} occurs twice" if codes[row] >= 0 else "this patient has no id"
        raise ValueError(
            f"{at(people, 'cohort', row)}: {why}, and the table has no column for the image: say --id COLUMN"
        )
    images = _assigned(_one_row_an_image(results), "patient_id", results, results["patient_id"])
    mine, names = text_codes(images["patient_id"])
    place = pd.Index(known[codes]).get_indexer([*names, ""])[mine]
    if (place < 0).any():
        row = int(np.argmax(place < 0))
        raise ValueError(f"{at(images, 'results', row)}: patient {str(images['patient_id'].iloc[row])!r} is not in "
                         f"{people.attrs['file']}: drop or add that patient")  # fmt: skip
    notes.append(f"{people.attrs['file']} has a row a patient: joined by patient")
    whole = people.drop(columns="patient_id").iloc[place].reset_index(drop=True)
    return _with_attrs(pd.concat([images, whole], axis=1), people, place)


def _add_results(out: Standard, results: pd.DataFrame, people: pd.DataFrame, options) -> None:
    """Scores with their labels, and measures."""
    source = {"results": results, "people": people}
    keys = [name for name in ("image_id", "arm", *KEYS) if name in results]
    if "score" in results:
        out.scores = results[[*keys, *(["task"] if "task" in results else []), "score"]]
        out.scores = _with_attrs(out.scores.assign(score=scores(results, "score", options.logits, out.notes)), results)
        _add_labels(out, source, options)
    else:
        pairs = _pairs(results, people, options, out)
        if pairs:
            _melt(out, source, pairs, keys, options)
    names = [named(results, name, "--value") for name, _, _ in options.value]
    options.value = [(column, *_unit_and_margin(column, *rest)) for column, (_, *rest) in zip(names, options.value)]
    more = (*QUALITY, "dice", *OVERLAP) if out.scores is None else ()
    names += [name for name in more if name in results and name not in names]
    if names:
        out.measures = results[keys].assign(**{name: number_column(results, name) for name in names})
        out.measures = _with_attrs(out.measures, results)
    if out.scores is None and out.measures is None:
        raise ValueError(f"nothing to audit in columns {list(results.columns)}: say --score COLUMN and --label COLUMN, "
                         "or --value NAME:unit:margin for a number of each image; a table with a column for each arm "
                         "is put into rows, for example by pandas' melt('image_id', var_name='arm', value_name='score')"
                         ".assign(task='edema')")  # fmt: skip


def _unit_and_margin(name: str, unit: str, margin: float | None) -> tuple[str, float]:
    """What was given for a measure, or is known of it or of its unit."""
    known = METRICS[name].unit if name in METRICS else unit
    if margin is None and (known not in UNITS or UNITS[known].margin is None):
        raise ValueError(f"what difference in {name!r} does not matter? Say --value {name}:unit:margin, such as "
                         "seconds:s:2")  # fmt: skip
    return unit or known, UNITS[known].margin if margin is None else margin


def _add_labels(out: Standard, source: dict, options) -> None:
    """Labels of a long table: beside the scores, in the cohort's y_<task>, or in a long table of labels."""
    results, people = source["results"], source["people"]
    if "task" not in results:
        name = _only_task(out, source, options)
        out.scores = _with_attrs(out.scores.assign(task=pd.Categorical([name] * len(results))), results)
    codes, tasks = text_codes(out.scores["task"])
    there = marked(people, LABEL_NAME)
    own = {plain(name): name for name in people.columns}
    for t, task in enumerate(tasks):
        exact = f"y_{task}" if f"y_{task}" in people else None
        if exact is None and "label" not in results and "label" not in people:
            hits = there.get(plain(task)) or [own[name] for name in (plain(task),) if name in own]
            exact = hits[0] if len(hits) == 1 else None
        if exact is not None and not options.label:
            told = pd.Series(labels(people, exact, options.uncertain, out.notes))
            out.cohort = _placed(out, f"y_{task}", people, told, exact)
            continue
        home = next((frame for frame in (results, people) if "label" in frame), None)
        if home is None:
            raise ValueError(f"the cohort has no labels 'y_{task}'; its columns are {list(people.columns)}: "
                             "say --label COLUMN")  # fmt: skip
        here = codes if home is results else text_codes(home["task"])[0] if "task" in home else np.full(len(home), t)
        names = tasks if home is results or "task" not in home else text_codes(home["task"])[1]
        rows = np.flatnonzero((here >= 0) & (np.append(names, "")[here] == task))
        part = _with_attrs(home[["image_id", "label"]].iloc[rows].reset_index(drop=True), home, rows)
        told = pd.Series(labels(part, "label", options.uncertain, out.notes))
        out.cohort = _placed(out, f"y_{task}", part, told, "label")
    if options.label and not any("label" in frame for frame in source.values()):
        raise ValueError(f"--label '{options.label[0]}' is no column")


def _only_task(out: Standard, source: dict, options) -> str:
    """Name of the task of a table of scores that names none."""
    results, people = source["results"], source["people"]
    if options.task:
        return options.task
    if any("label" in frame for frame in (results, people)):
        return task_name(out.shown.get("label", "label"))
    there = marked(people, LABEL_NAME)
    if len(there) == 1 and len(next(iter(there.values()))) == 1:
        return task_name(next(iter(there.values()))[0])
    if not there:
        return _only_labels(out, results, people, options)
    found = [name for names in there.values() for name in names]
    raise ValueError(
        f"the results lack 'task', and there are labels {listed(found)}: say --label COLUMN, or --task COLUMN"
    )


def _only_labels(out: Standard, results: pd.DataFrame, people: pd.DataFrame, options) -> str:
    """The one column of labels, whatever it is called; refused where there is none, or several."""
    taken = {*ROLES, *KEYS, *OVERLAP, *(name for names in out.attributes for name in names)}
    taken |= {named(results, name, "--value") for name, _, _ in options.value}
    found = only_labels(people, taken)
    if len(found) != 1:
        which = f"; {listed(found)} could all be" if found else ""
        raise ValueError(f"no labels for the scores of {results.attrs['file']}{which}; columns are "
                         f"{list(people.columns)}: say --label COLUMN")  # fmt: skip
    out.notes.insert(0, f"label = {found[0]!r}, the only column of labels (--label COLUMN for another)")
    return task_name(found[0])


def _placed(out: Standard, column: str, source: pd.DataFrame, told: pd.Series, shown: str) -> pd.DataFrame:
    """The cohort with labels that stand in another table, or in itself."""
    if source is out.cohort:
        return _with_attrs(out.cohort.assign(**{column: told.to_numpy()}), out.cohort)
    cohort = _assigned(out.cohort, column, source, told.rename(shown))
    return _with_attrs(cohort.assign(**{column: pd.to_numeric(cohort[column].astype(object), errors="coerce")}), cohort)


def _pairs(results: pd.DataFrame, people: pd.DataFrame, options, out: Standard) -> dict[str, tuple[str, str]]:
    """Task -> columns of score and label of a wide table."""
    if options.score:
        if len(options.score) != len(options.label):
            n = f"--score names {len(options.score)} columns, --label {len(options.label)}"
            raise ValueError(f"{n}: one label a score")
        pairs = {}
        for score, label in zip(options.score, options.label):
            column = named(people, label, "--label")
            pairs[task_name(column)] = (named(results, score, "--score"), column)
        return pairs
    taken = [*ROLES, *KEYS, *QUALITY, *(name for names in out.attributes for name in names)]
    taken += [named(results, name, "--value") for name, _, _ in options.value]
    pairs, alone = wide(results, people, taken)
    if alone and not pairs:
        raise ValueError(f"{results.attrs['file']} has scores {listed(alone)}, and no labels for them in "
                         f"{people.attrs['file']}; its columns are {listed(people.columns)}: say --label")  # fmt: skip
    if alone:
        out.notes.append(f"no labels for {listed(alone)}: not audited")
    if pairs:
        several = list(pairs.items())[:4]
        shown = ", ".join(f"{task}: score {score!r}, label {label!r}" for task, (score, label) in several)
        out.notes.insert(
            0, f"{len(pairs)} finding{'s' * (len(pairs) > 1)}, a column each; {shown}" + " ..." * (len(pairs) > 4)
        )
    return pairs


def _melt(out: Standard, source: dict, pairs: dict, keys: list[str], options) -> None:
    """A wide table in rows; an empty score is a result that is not there, and counted."""
    results, people, parts = source["results"], source["people"], []
    for task, (score, label) in pairs.items():
        told = pd.Series(labels(people, label, options.uncertain, out.notes))
        out.cohort = _placed(out, f"y_{task}", people, told, label)
        value = scores(results, score, options.logits, out.notes)
        rows = np.flatnonzero(~np.isnan(value))
        if len(rows) < len(value):
            out.notes.append(f"{score}: {len(value) - len(rows)} of {len(value)} scores are empty, those images are "
                             f"not audited for {task}")  # fmt: skip
        parts.append((task, rows, value[rows]))
    rows = np.concatenate([rows for _, rows, _ in parts])
    code = np.repeat(np.arange(len(parts)), [len(rows) for _, rows, _ in parts])
    frame = results[keys].iloc[rows].reset_index(drop=True)
    frame = frame.assign(task=pd.Categorical.from_codes(code, list(pairs)), score=np.concatenate([p[2] for p in parts]))
    out.scores = _with_attrs(frame, results, rows)
