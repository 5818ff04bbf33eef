"""The tables that flow between notebooks: six schemas, checked on every read and every write.

Conventions: a table is a folder of Parquet files,
`<run>/tables/<table>/<cohort>__<arm>__<level>[__<column>-<value>].parquet`; who writes a file replaces that file and
no other. `KEY` names an image's result. The undefined is NaN in a value and nowhere in a key; `clean` carries the
identity level (acceleration 1, or infinitely many photons), because a NaN key would vanish in a groupby. Equal frames
make equal bytes. Labels and sensitive attributes live only in the table `cohort`, beside its images (see `cohort.py`).
"""

import os
import platform
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from fairrecon_core.columns import (
    DEFAULTS,
    VOCABULARY,
    Column,
    Schema,
    check_frame,
    check_key,
    pairs_text,
    value_text,
)
from fairrecon_core.measures import METRICS, image_metrics
from fairrecon_core.settings import suggest

KEY = ("cohort", "image_id", "arm", "level", "fold", "train_seed", "sample")
PARTS = ("cohort", "arm", "level")  # what every file name starts with

_TEXT, _NOTE = Column("text"), Column("text", blank=True)
_COUNT = Column("int", low=0)
_VALUE = Column("float", blank=True)  # an audit's figure: NaN where undefined, infinite where a ratio or a power is
_RATE = Column("float", low=0, high=1, blank=True)
_LABEL = Column("float", values=(0.0, 1.0), blank=True)
_KEY_COLUMNS = {"cohort": _TEXT, "image_id": _TEXT, "arm": _TEXT, "level": Column("float", low=1),
                "fold": _COUNT, "train_seed": _COUNT, "sample": _COUNT}  # fmt: skip
_THRESHOLD_KEY = ("cohort", "task", "arm", "level", "fold", "train_seed", "policy")
_AUDIT_KEY = ("cohort", "baseline_arm", "arm", "level", "task", "attribute", "metric", "label", "subgroup", "reference",
              "estimator", "threshold_policy")  # fmt: skip

SCHEMAS = {
    "cohort": Schema(
        columns={
            "image_id": _TEXT,
            "patient_id": _TEXT,
            "row": _COUNT,
            "modality": Column("text", values=VOCABULARY["modality"]),
            "split": Column("text", values=VOCABULARY["split"]),
            "role": Column("text", values=VOCABULARY["role"]),
            "fold": _COUNT,
            "sex": Column("text", values=VOCABULARY["sex"]),
            "age_years": Column("float", low=0, high=120, blank=True),
            "age_group": Column("text", values=VOCABULARY["age_group"]),
            "race": Column("text", values=VOCABULARY["race"]),
        },
        key=("image_id",),
        notebook="01",
        prefixes={"y_": _LABEL, "true_": _LABEL, "x_": Column("any", blank=True)},
    ),
    "quality": Schema(
        columns=_KEY_COLUMNS
        | {
            name: Column("float", low=METRICS[name].low, high=METRICS[name].high, blank=True)
            for name in image_metrics()
        },
        key=KEY,
        notebook="07",
    ),
    "predictions": Schema(
        columns=_KEY_COLUMNS | {"task": _TEXT, "score": Column("float", low=0, high=1)},
        key=(*KEY, "task"),
        notebook="08",
    ),
    "overlap": Schema(
        columns=_KEY_COLUMNS | {"intersection": _COUNT, "predicted": _COUNT, "actual": _COUNT},  # pixels
        key=KEY,
        notebook="08",
    ),
    "thresholds": Schema(
        columns={name: _KEY_COLUMNS.get(name, _TEXT) for name in _THRESHOLD_KEY}
        | {"value": Column("float", blank=True), "n": _COUNT, "chosen_on": _TEXT},
        key=_THRESHOLD_KEY,
        notebook="08",
    ),
    "audit": Schema(
        columns={"cohort": _TEXT, "baseline_arm": _TEXT, "arm": _TEXT, "level": _KEY_COLUMNS["level"], "task": _TEXT}
        | {
            "attribute": _TEXT,
            "metric": _TEXT,
            "label": _NOTE,
            "subgroup": _NOTE,
            "reference": _NOTE,
            "estimator": _TEXT,
            "role": _NOTE,
        }
        | dict.fromkeys(("value", "ci_low", "ci_high", "baseline", "delta", "delta_ci_low", "delta_ci_high"), _VALUE)
        | {"p_value": _RATE, "p_adjusted": _RATE, "family": _NOTE, "margin": _VALUE, "verdict": _NOTE}
        | {"band_low": _VALUE, "band_high": _VALUE, "mde": _VALUE, "unit": _NOTE, "n_patients": _COUNT}
        | {"smallest_group": _COUNT, "n_boot": _COUNT, "threshold_policy": _NOTE},
        key=_AUDIT_KEY,
        notebook="10",
    ),
}


def check(name: str, frame: pd.DataFrame) -> pd.DataFrame:
    """Hold a frame against the schema of its table.

    Parameters
    ----------
    name : str
        Name of the table, one of `SCHEMAS`.
    frame : DataFrame
        One row per row of the table; the index is ignored.

    Returns
    -------
    DataFrame
        The same rows in the same order, columns in the schema's order and of the stored type.

    Raises
    ------
    ValueError
        A column is missing or not of the schema, a value has the wrong type, range or vocabulary, a key is empty
        or repeated. The message names the table, the column, the value and the way out.
    """
    return check_frame(name, schema_of(name), frame)


def with_defaults(name: str, frame: pd.DataFrame) -> pd.DataFrame:
    """Add absent columns that have an obvious value: 0 for fold, train_seed, sample; NaN or "" where a blank may stand.

    Parameters
    ----------
    name : str
        Name of the table, one of `SCHEMAS`.
    frame : DataFrame
        Left as it is.

    Returns
    -------
    DataFrame
        A copy. Blanks of text columns that may be blank (None, NaN) become "".
    """
    schema, frame = schema_of(name), frame.copy()
    for column, rule in schema.columns.items():
        if column not in frame and column in DEFAULTS:
            frame[column] = DEFAULTS[column]
        elif column not in frame and rule.blank:
            frame[column] = "" if rule.kind == "text" else np.nan
        elif rule.blank and rule.kind == "text":
            frame[column] = frame[column].astype(object).where(frame[column].notna(), "")
    return frame


def write_table(folder: str | Path, name: str, frame: pd.DataFrame, **parts) -> list[Path]:
    """Write the rows of a table, one file per cohort, arm and level; replace those files and no others.

    Parameters
    ----------
    folder : path
        Folder of the run; the files go to `<folder>/tables/<name>/`.
    name : str
        Name of the table, one of `SCHEMAS` but "cohort" (see `cohort.write_cohort`).
    frame : DataFrame
        At least one row.
    **parts
        Columns with the one value they have in `frame`, for example `arm="unet"`; an absent column is filled with it.
        A column other than cohort, arm and level is added to the file name, so that several writers can share
        an arm: `task="edema"` writes `..__task-edema.parquet`.

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    ValueError
        The frame breaks the schema or is empty, a part is not what the frame holds, or a name does not suit a file.
    """
    frame = frame.assign(**{column: value for column, value in parts.items() if column not in frame})
    frame = check(name, frame)
    if name == "cohort":
        raise ValueError("a cohort table lies beside its images: write it with cohort.write_cohort")
    if frame.empty:
        raise ValueError(f"no rows for table {name!r}: nothing to write")
    for column, value in parts.items():
        if column not in schema_of(name).key:
            raise ValueError(f"{column!r} is not in the key of {name}; parts are {', '.join(schema_of(name).key)}")
        if not (frame[column] == value).all():
            found = sorted({value_text(other) for other in frame[column].unique()} - {value_text(value)})
            raise ValueError(f"{name} for {column} {value!r} also holds rows of {column} {found[0]}: write them apart")
    written = []
    for values, rows in frame.groupby(list(PARTS), sort=True):
        path = table_path(folder, name, **parts | dict(zip(PARTS, values)))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_parquet(path, name, rows, checked=True)
        written.append(path)
    return written


def read_table(folder: str | Path, name: str, **where) -> pd.DataFrame:
    """Read the rows of a table that agree with `where`.

    Parameters
    ----------
    folder : path
        Folder of the run.
    name : str
        Name of the table, one of `SCHEMAS` but "cohort" (see `cohort.load_cohort`).
    **where
        Wanted values of columns, one or a list each: `arm=["clean", "unet"], level=8`.

    Returns
    -------
    DataFrame
        Rows in the order of the file names, then as written; checked.

    Raises
    ------
    FileNotFoundError
        Nothing is there, or nothing for one of the values asked for; the message names the notebook that makes it.
    ValueError
        A file is damaged, breaks the schema, is not what its name says, or two files hold the same row.
    """
    schema = schema_of(name)
    if name == "cohort":
        raise ValueError("a cohort table lies beside its images: read it with cohort.load_cohort(folder).table")
    for column in where:
        if column not in schema.columns:
            raise ValueError(f"{name} has no column {column!r}{suggest(column, schema.columns)}")
    where = {column: _as_list(value) for column, value in where.items()}
    files = sorted((Path(folder) / "tables" / name).glob("*.parquet"))
    frames = [_read_part(path, name) for path in files if _may_hold(path, where)]
    if not frames:
        raise FileNotFoundError(_nothing(name, where, files))
    hint = "two files hold the same row, delete one: " if len(frames) > 1 else ""
    whole, frames = pd.concat(frames, ignore_index=True), []  # the parts are as large as the whole
    check_key(name, schema, whole, hint)
    return _filter(whole, name, where, files)


def unfinished(path: Path) -> Path:
    """Where a file is written before it is renamed to `path`: a name that no other process has, on any machine."""
    return path.with_name(f"{path.name}.{platform.node()}-{os.getpid()}.part")


def write_parquet(path: str | Path, name: str, frame: pd.DataFrame, *, checked: bool = False) -> None:
    """Check `frame` (unless `checked`) and write it to one file under a `.part` name that is then renamed.

    Raises
    ------
    ValueError
        If the frame breaks the schema of table `name`.
    """
    path = Path(path)
    frame = frame if checked else check(name, frame)
    table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata({"fairrecon_table": name})
    part = unfinished(path)
    pq.write_table(table, part, compression="zstd", write_page_checksum=True)
    part.replace(path)


def read_parquet(path: str | Path, name: str) -> pd.DataFrame:
    """Read and check one file.

    Parameters
    ----------
    path : path
        A Parquet file.
    name : str
        Name of the table that it should hold, one of `SCHEMAS`.

    Returns
    -------
    DataFrame

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is truncated or damaged (pages carry checksums), belongs to another table, or breaks the schema.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no {name} at {path}: run notebook {schema_of(name).notebook}")
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read(use_threads=False)
    except (pa.ArrowException, OSError) as error:
        way_out = f"delete it and run notebook {schema_of(name).notebook} again"
        raise ValueError(f"{path} is damaged or truncated ({str(error).splitlines()[0]}): {way_out}") from error
    held = (table.schema.metadata or {}).get(b"fairrecon_table", name.encode()).decode()
    if held != name:
        raise ValueError(f"{path} holds a table of {held}, not of {name}")
    try:
        return check(name, table.replace_schema_metadata(None).to_pandas())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def table_path(folder: str | Path, name: str, *, cohort: str, arm: str, level: float, **parts) -> Path:
    """Path of one file of a table: the same values always give the same name, 8 and 8.0 too.

    Raises
    ------
    ValueError
        If a text does not suit a file name on every system (lower case letters, digits, single `_`, `-`, `.`).
    """
    pieces = [_file_text("cohort", cohort), _file_text("arm", arm), _file_text("level", level)]
    pieces += [f"{column}-{_file_text(column, parts[column])}" for column in sorted(parts)]
    return Path(folder) / "tables" / name / ("__".join(pieces) + ".parquet")


def schema_of(name: str) -> Schema:
    """Schema of the table `name`; ValueError with the nearest name if there is none."""
    if name not in SCHEMAS:
        raise ValueError(f"unknown table {name!r}{suggest(name, SCHEMAS)}; tables are {', '.join(SCHEMAS)}")
    return SCHEMAS[name]


def _read_part(path, name):
    frame = read_parquet(path, name)
    for column, text in _name_parts(path).items():
        if [value_text(value) for value in frame[column].unique()] != [text]:
            raise ValueError(f"{path} holds rows of another {column} than its name says: delete it and run "
                             f"notebook {schema_of(name).notebook} again")  # fmt: skip
    return frame


def _name_parts(path):
    """The columns and value texts that a file name states."""
    pieces = path.stem.split("__")
    further = [piece.partition("-") for piece in pieces[len(PARTS) :]]
    if len(pieces) < len(PARTS) or not all(value for _, _, value in further):
        raise ValueError(f"{path} is not named <cohort>__<arm>__<level>[__<column>-<value>].parquet: take it away")
    return dict(zip(PARTS, pieces)) | {column: value for column, _, value in further}


def _may_hold(path, where):
    stated = _name_parts(path)
    return all(stated[column] in map(value_text, wanted) for column, wanted in where.items() if column in stated)


def _filter(frame, name, where, files):
    for column, wanted in where.items():
        frame = frame[frame[column].isin(wanted)]
    if frame.empty:
        raise FileNotFoundError(_nothing(name, where, files))
    for column, wanted in where.items():
        absent = [value for value in wanted if not (frame[column] == value).any()]
        if absent:
            others = {other: values for other, values in where.items() if other != column and len(values) == 1}
            raise FileNotFoundError(_nothing(name, {column: absent[:1]} | others, files))
    return frame.reset_index(drop=True)


def _nothing(name, where, files):
    """`no predictions for arm 'tv': run notebook 08`, with what is there."""
    asked = pairs_text((column, wanted[0] if len(wanted) == 1 else wanted) for column, wanted in where.items())
    arms = sorted({_name_parts(path)["arm"] for path in files})
    there = f" (there are {', '.join(arms)})" if arms else ""
    return f"no {name}{' for ' + asked if asked else ''}{there}: run notebook {schema_of(name).notebook}"


def _as_list(value):
    return list(value) if isinstance(value, list | tuple | set | np.ndarray | pd.Series) else [value]


def _file_text(column, value) -> str:
    text = value_text(value)
    if not re.fullmatch(r"[a-z0-9.]+(?:[_+-][a-z0-9.]+)*", text) or text.startswith(".") or text.endswith("."):
        raise ValueError(f"{column} {value!r} does not suit a file name: "
                         "use lower case letters and digits, joined by single _ or -")  # fmt: skip
    return text
