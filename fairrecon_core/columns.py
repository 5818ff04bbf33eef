"""What a column of a table may hold: types, ranges, vocabularies, and the checks that hold a frame against them.

Conventions: a check returns the stored form or raises a ValueError that names the table, the column, the value, its row
and the way out. Which tables there are stands in `tables.py`.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from fairrecon_core.settings import suggest

DEFAULTS = {"fold": 0, "train_seed": 0, "sample": 0}  # of key columns; `tables.with_defaults` fills them

VOCABULARY = {
    "modality": ("mri", "xray"),
    "split": ("train", "validation", "test", "unused"),  # unused: thinned out of the training split by `skew`
    "role": ("reconstruction", "prediction", "both"),
    "sex": ("female", "male", "unknown"),
    "age_group": ("young", "old", "unknown"),
    "race": ("white", "asian", "black", "native_american", "pacific_islander", "other", "unknown"),
}


@dataclass(frozen=True)
class Column:
    """Type and range of one column.

    Parameters
    ----------
    kind : {"text", "int", "float", "any"}
        Stored as text, int64, float64, or (any) as text or a number.
    low, high : float
        Smallest and largest value allowed. Infinity in `high` or `low` allows infinite values.
    blank : bool
        Whether a value may be absent: NaN in a number, "" in a text.
    values : tuple
        The vocabulary; empty where any value will do.
    """

    kind: str
    low: float = -math.inf
    high: float = math.inf
    blank: bool = False
    values: tuple = ()


@dataclass(frozen=True)
class Schema:
    """Columns of one table, its key, and the notebook that makes it.

    Parameters
    ----------
    columns : dict of str to Column
        Every one is required.
    key : tuple of str
        Columns that together name a row: never empty, never repeated.
    notebook : str
        Number of the notebook that makes the table.
    prefixes : dict of str to Column
        Further columns allowed by the start of their name.
    """

    columns: dict
    key: tuple
    notebook: str
    prefixes: dict = field(default_factory=dict)


def check_frame(name: str, schema: Schema, frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of a frame as table `name` stores them, columns in the order of `schema`; ValueError as in `check`."""
    _check_columns(name, schema, frame)
    order = [*schema.columns, *(column for column in frame.columns if column not in schema.columns)]
    columns = {column: _as_column(name, column, rule_of(schema, column), frame[column]) for column in order}
    checked = pd.DataFrame({column: values.array for column, values in columns.items()})
    check_key(name, schema, checked)
    return checked


def check_key(name: str, schema: Schema, frame: pd.DataFrame, hint: str = "") -> None:
    """Refuse, with a ValueError that `hint` opens, a frame of table `name` that repeats the key of `schema`."""
    varies = [column for column in schema.key if frame[column].nunique() > 1]  # the others cost as much memory
    repeated = frame.duplicated(varies or list(schema.key))
    if repeated.any():
        first = frame.loc[int(np.argmax(repeated)), list(schema.key)]
        raise ValueError(f"{hint}{name} repeats the key {pairs_text(first.items())}")


def rule_of(schema: Schema, column: str) -> Column | None:
    """Rule of a column, by its name or its prefix; None if the schema has no such column."""
    if column in schema.columns:
        return schema.columns[column]
    return next((rule for prefix, rule in schema.prefixes.items() if str(column).startswith(prefix)), None)


def check_word(column: str, value: str, values: tuple | None = None) -> None:
    """Refuse a value outside the vocabulary with a ValueError that suggests the nearest word (of a race: its typo)."""
    values = VOCABULARY[column] if values is None else values
    if value not in values:
        known = ", ".join(map(value_text, values))
        word = str(value).lower()
        near = suggest(word, (v for v in map(str, values) if column != "race" or v[:1] == word[:1]))
        raise ValueError(f"{column} {value!r} is not in the vocabulary{near}; known: {known}")


def pairs_text(items: Iterable) -> str:
    """Columns and their values in words: `arm 'tv', level 8`."""
    return ", ".join(f"{column} {value!r}" if isinstance(value, str | list) else f"{column} {value_text(value)}"
                     for column, value in items)  # fmt: skip


def value_text(value) -> str:
    """A value as it stands in file names and messages: 8 for 8.0, inf for infinity."""
    if isinstance(value, float | np.floating):
        return str(int(value)) if float(value).is_integer() and abs(float(value)) < 1e15 else repr(float(value))
    return str(value)


def _check_columns(name, schema, frame):
    missing = [column for column in schema.columns if column not in frame]
    if missing:
        hint = "; with_defaults fills it" if set(missing) <= set(DEFAULTS) else ""
        raise ValueError(f"{name} lacks column {', '.join(map(repr, missing))}{hint}")
    extra = [column for column in frame.columns if rule_of(schema, column) is None]
    if extra:
        allowed = f"; further columns start with {', '.join(schema.prefixes)}" if schema.prefixes else ""
        raise ValueError(f"{name} has no column {extra[0]!r}{suggest(extra[0], schema.columns)}{allowed}")
    if not frame.columns.is_unique:
        raise ValueError(f"{name} has column {frame.columns[frame.columns.duplicated()][0]!r} twice")


def _as_column(name, column, rule, values):
    """One column as its stored type, or a ValueError that names the first bad value and its row."""
    values = pd.Series(values.array)
    values = values.astype(object) if isinstance(values.dtype, pd.CategoricalDtype) else values
    blank = values.isna() | (values == "") if _is_text(values) else values.isna()
    if blank.any() and not rule.blank:
        raise ValueError(f"{name} has an empty {column!r} in row {int(np.argmax(blank))}")
    if rule.kind == "text":
        return _as_text(name, column, rule, values)
    if rule.kind == "any" and not pd.api.types.is_numeric_dtype(values):
        known = values.dropna()
        if not known.map(lambda value: isinstance(value, str)).all():
            raise ValueError(f"{name}.{column} should hold texts or numbers, not both")
        return values.astype(object).where(values.notna(), "").astype("str")
    return _as_number(name, column, rule, values)


def _as_text(name, column, rule, values):
    if values.isna().any():
        row = int(np.argmax(values.isna()))
        raise ValueError(f'{name}.{column} is empty in row {row}: write "", or use with_defaults')
    spelt = isinstance(values.dtype, pd.StringDtype) or values.map(lambda value: isinstance(value, str)).all()
    if not spelt:
        raise ValueError(f"{name}.{column} should hold texts, found {values.iloc[0]!r}")
    if rule.values:
        for value in values.unique():
            check_word(column, value, rule.values)
    return values.astype(object).astype("str")


def _as_number(name, column, rule, values):
    if values.isna().all() and _is_text(values):
        values = values.astype(float)  # a column of None
    if not pd.api.types.is_numeric_dtype(values) or (pd.api.types.is_bool_dtype(values) and rule.kind == "int"):
        raise ValueError(f"{name}.{column} should hold numbers, found {values.dropna().iloc[0]!r}")
    if rule.kind == "any":
        return values
    if rule.kind == "int" and not pd.api.types.is_integer_dtype(values):
        raise ValueError(f"{name}.{column} should hold whole numbers (int), found type {values.dtype}")
    values = values.astype("int64" if rule.kind == "int" else "float64")
    known = values[values.notna()]
    bad = known[~known.isin(rule.values)] if rule.values else known[(known < rule.low) | (known > rule.high)]
    if len(bad):
        allowed = (
            f"one of {', '.join(map(value_text, rule.values))}" if rule.values else f"in [{rule.low:g}, {rule.high:g}]"
        )
        raise ValueError(f"{name}.{column} is {value_text(bad.iloc[0])} in row {bad.index[0]}, should be {allowed}")
    return values


def _is_text(values: pd.Series) -> bool:
    return not pd.api.types.is_numeric_dtype(values)
