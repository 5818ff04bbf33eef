"""Tables as other people write them: CSV (also .gz) and Parquet, every cell as text first, and who is in them.

Conventions: what can be read in one way only is read (UTF-8, UTF-16 with its mark, else Windows-1252; comma, semicolon,
tab or bar; decimal commas); what could be read in two ways is a ValueError that names file, row, column and the way
out. Row 1 of a file is its header. Cells lose blanks at their ends. `frame.attrs`: `file`, and `notes` of what was
assumed.
"""

import codecs
import csv
import gzip
import io
import re
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from fairrecon_core.audit.engine import text_codes
from fairrecon_core.audit.matching import OVERLAP, QUALITY, SPLIT_WORDS, has_results
from fairrecon_core.audit.metrics import intersect
from fairrecon_core.audit.thresholds import as_groups, at, is_word, numbers

LARGEST = 2**32  # bytes of a table, unpacked
MOST_ROWS = 10**8
DELIMITERS = ",;\t|"
MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
         codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}  # fmt: skip
NUMBERS = ("level", "score", *QUALITY, *OVERLAP)  # columns of numbers in a table of results
DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+(e[+-]?\d+)?", re.IGNORECASE)
THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")


def read_outside(path: str | Path) -> pd.DataFrame:
    """Read a table of results or a cohort table that somebody else wrote.

    Parameters
    ----------
    path : path
        CSV, also gzipped, with any of the usual delimiters and encodings; or Parquet.

    Returns
    -------
    DataFrame
        Columns as text (categories), but for `NUMBERS`, which are float64; what is no text in a Parquet file keeps its
        type.

    Raises
    ------
    ValueError
        The file is damaged, empty, ambiguous, or has a column twice; a row is longer or shorter than the header; a
        number is none. The message names the file, and where it can the row, the column and the value.
    FileNotFoundError
        There is no such file.
    """
    path, notes = Path(path), []
    if not path.is_file():
        what = f"{path} is a folder" if path.is_dir() else f"no file {path}"
        raise FileNotFoundError(f"{what}: give the path of a CSV or Parquet file")
    data = _unpacked(path)
    if data[:4] == b"PAR1":
        frame = _read_parquet(data, path)
    elif data[:2] == b"PK" or data[:4] == b"\xd0\xcf\x11\xe0":
        raise ValueError(f"{path} is a spreadsheet or a zip archive: save the sheet as CSV (UTF-8)")
    elif re.match(rb"\s*(\[\s*[\[{]|{\s*\")", data):
        raise ValueError(f"{path} is JSON: write the table as CSV (UTF-8) or Parquet")
    else:
        frame = _read_csv(_as_utf8(data, path, notes), path, notes)
    frame.attrs = {"file": path.name, "notes": notes}
    for name in set(NUMBERS) & set(frame.columns):
        frame[name] = number_column(frame, name)
    return frame


def number_column(frame: pd.DataFrame, name: str) -> np.ndarray:
    """The column `name` of a `frame` as float64, NaN where empty, decimal commas as points; ValueError as above."""
    return numbers(_with_points(frame, name), name)


def text_table(data: bytes, name: str, columns: tuple[str, ...] = ()) -> tuple[pd.DataFrame, list[str]]:
    """A CSV table as texts, "" where empty, and what was assumed.

    Parameters
    ----------
    data : bytes
        The whole file.
    name : str
        Its name, for messages.
    columns : tuple of str
        Some that it should have, which tell the delimiter where several would do.

    Raises
    ------
    ValueError
        As in `read_outside`.
    """
    notes: list[str] = []
    if not data.strip():
        raise ValueError(f"{name} is empty: a table has a header and rows")
    frame = _read_csv(_as_utf8(data, Path(name), notes), Path(name), notes, columns)
    return frame.astype(object).fillna(""), notes


def _unpacked(path: Path) -> bytes:
    """The bytes of a file, unpacked if it is gzip, whatever it is called."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        try:
            data, source = bytearray(), gzip.GzipFile(fileobj=file) if packed else file
            while len(data) <= LARGEST and (part := source.read(2**24)):  # read(n) asks for n bytes of memory at once
                data += part
        except (EOFError, zlib.error, OSError) as error:
            raise ValueError(f"{path} is truncated or damaged ({error}): pack it again, or fetch it again") from None
    if len(data) > LARGEST:
        raise ValueError(f"{path} holds more than {LARGEST:,} bytes: cut it into tasks, or use Parquet")
    if not data.strip():
        raise ValueError(f"{path} is empty: a table has a header and rows")
    return bytes(data)


def _read_parquet(data: bytes, path: Path) -> pd.DataFrame:
    try:
        file = pa.parquet.ParquetFile(io.BytesIO(data))
        size = sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
        if file.metadata.num_rows > MOST_ROWS or size > LARGEST:
            raise ValueError(f"it claims {file.metadata.num_rows:,} rows, {size:,} bytes")
        _check_names([str(name) for name in file.schema_arrow.names], path)
        table = file.read(use_threads=False)
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        if str(error).startswith(str(path)):
            raise
        raise ValueError(
            f"{path} is no whole Parquet file ({str(error).splitlines()[0][:200]}): write it again"
        ) from None
    nested = [field.name for field in table.schema if pa.types.is_nested(field.type)]
    if nested:
        raise ValueError(f"{path}, column {nested[0]!r} holds lists or structures: one value a cell is needed")
    words = [i for i, field in enumerate(table.schema) if _is_text(field.type)]
    for i in words:  # each distinct text is one object, and is read once
        table = table.set_column(i, table.schema.field(i).name, table.column(i).dictionary_encode())
    frame = table.replace_schema_metadata(None).to_pandas()
    frame = frame.assign(**{name: _category(frame[name]) for name in (frame.columns[i] for i in words)})
    return frame.rename(columns={name: str(name).strip() for name in frame.columns})


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _as_utf8(data: bytes, path: Path, notes: list) -> bytes:
    """Text as UTF-8, read by its mark, as UTF-8, or as Windows-1252, which is noted."""
    encoding = next((name for mark, name in MARKS.items() if data.startswith(mark)), "utf-8")
    if encoding == "utf-8" and b"\0" in data[:4096]:
        wide = [data[start:4096:2].count(0) for start in (0, 1)]
        if max(wide) < 10 * min(wide) or len(data) % 2:
            raise ValueError(f"{path} holds zero bytes: it is no text; save the table as CSV (UTF-8)")
        encoding = "utf-16-be" if wide[0] > wide[1] else "utf-16-le"
    try:
        text = data.decode(encoding)
        return data if encoding == "utf-8" else text.encode()
    except UnicodeDecodeError as error:
        row, value = data.count(b"\n", 0, error.start) + 1, data[error.start : error.start + 1]
        if encoding != "utf-8":
            raise ValueError(f"{path} row {row} is no {encoding} ({error.reason}): save it as UTF-8") from None
    try:
        text = data.decode("cp1252")
    except UnicodeDecodeError:
        raise ValueError(
            f"{path} row {row} holds byte {value.hex()}, neither UTF-8 nor Windows-1252: save it as UTF-8"
        ) from None
    word = re.search(r"[\w ]*[^\x00-\x7f][\w ]*", text)
    notes.append(f"{path.name} is no UTF-8, read as Windows-1252, for example {word[0].strip()!r}")
    return text.encode()


def _read_csv(data: bytes, path: Path, notes: list, wanted: tuple = ("image_id",)) -> pd.DataFrame:
    """UTF-8 text as a frame of categories of text."""
    data = data.lstrip(b"\r\n")
    head = data[:65536].decode(errors="ignore")
    delimiter = _delimiter(head, path, wanted)
    if not re.search(rb"[\r\n]", data.strip()):
        raise ValueError(f"{path} has a header and no rows")
    names = next(csv.reader(io.StringIO(head, newline=""), delimiter=delimiter))
    shown = _check_names(names, path)
    odd = data.count(b'"') % 2
    if odd:
        row = next(row for row, line in enumerate(data.splitlines(), 1) if line.count(b'"') % 2)
        raise ValueError(f"{path} row {row} opens a quote that is not closed: mend that row")
    bad: list = []
    for threads in (True, False):  # in one thread a bad row is counted
        bad.clear()
        try:
            table = _parse(data, names, delimiter, threads, bad)
            break
        except pa.ArrowInvalid as error:
            problem = error
    else:
        if not bad:
            raise ValueError(f"{path} is no CSV table ({str(problem).splitlines()[0][:200]}): save it as CSV (UTF-8)")
        row = bad[0]
        more = "a comma too many moves columns" if row.actual_columns > row.expected_columns else "it is cut short"
        raise ValueError(
            f"{path} row {row.number} has {row.actual_columns} fields, the header {row.expected_columns} "
            f"({row.text[:80]!r}): {more}; write the table again"
        )
    if not table.num_rows:
        raise ValueError(f"{path} has a header and no rows")
    columns = {
        name: _category(table.column(i).unify_dictionaries().to_pandas()) for i, name in enumerate(shown) if name
    }
    if delimiter != ",":
        notes.append(f"{path.name} is separated by {delimiter!r}")
    return pd.DataFrame(columns)


def _parse(data: bytes, names: list, delimiter: str, threads: bool, bad: list) -> pa.Table:
    def spoilt(row):
        bad.append(row)
        return "error"

    text = pa.dictionary(pa.int32(), pa.string())
    return pa.csv.read_csv(
        pa.BufferReader(data),
        read_options=pa.csv.ReadOptions(use_threads=threads, block_size=2**24),
        parse_options=pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=spoilt),
        convert_options=pa.csv.ConvertOptions(
            column_types=dict.fromkeys(names, text), strings_can_be_null=False, quoted_strings_can_be_null=False
        ),
    )


def _category(column: pd.Series) -> pd.Categorical:
    """A column of text as categories without blanks at their ends; the empty text is missing."""
    codes, names = text_codes(column)
    return pd.Categorical.from_codes(codes, pd.Index(names, dtype=object))  # walked through faster than Arrow's texts


def _delimiter(head: str, path: Path, wanted: tuple) -> str:
    """The delimiter of the header; refused where two would do."""
    line = head.splitlines()[0]
    names = {mark: [name.strip() for name in next(csv.reader([line], delimiter=mark), [])] for mark in DELIMITERS}
    several = [mark for mark, found in names.items() if len(found) > 1]
    chosen = [mark for mark in several if set(wanted) <= set(names[mark])] or several or [","]
    if len(chosen) > 1:
        raise ValueError(f"{path} row 1 could be separated by {' or '.join(map(repr, chosen))}: quote the names")
    return chosen[0]


def _check_names(names: list[str], path: Path) -> list[str]:
    """Column names without blanks; refused if one comes twice."""
    shown = [name.strip() for name in names]
    twice = next((name for i, name in enumerate(shown) if name and name in shown[:i]), None)
    if twice is not None:
        places = ", ".join(str(i + 1) for i, name in enumerate(shown) if name == twice)
        raise ValueError(f"{path} row 1 names column {twice!r} twice (columns {places}): rename or drop one")
    n_named = sum(map(bool, shown))
    if len(names) > 2 and 2 * n_named <= len(names):
        raise ValueError(f"{path} row 1 names {n_named} of {len(names)} columns, {shown[0][:60]!r} first: "
                         "if it is a title, take away what stands above the header")  # fmt: skip
    if len(names) == 1 and not re.fullmatch(r"[\w .\-]{1,100}", shown[0]):
        raise ValueError(f"{path} row 1 names no columns ({shown[0][:60]!r}): save the table as CSV (UTF-8)")
    return shown


def _with_points(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """Decimal commas of a column as points, where all of its commas are that."""
    if not isinstance(frame[column].dtype, pd.CategoricalDtype):
        return frame
    codes, names = text_codes(frame[column])
    commas = [i for i, name in enumerate(names) if "," in name]
    odd = [i for i in commas if not DECIMAL_COMMA.fullmatch(names[i])]
    points = any("." in name for name in names)
    if not commas or (not odd and points):
        odd = commas
    if not odd and all(THOUSANDS.fullmatch(names[i]) for i in commas):
        odd = commas[:1]
    if odd:
        row = int(np.argmax(codes == odd[0]))
        where = at(frame, "results", row, column)
        raise ValueError(f"{where}: {names[odd[0]]!r} may be a decimal or a thousands comma: write it with a point")
    new = [name.replace(",", ".") for name in names]
    if commas:
        frame.attrs["notes"].append(f"{frame.attrs['file']}, column {column!r}: decimal commas read as points")
    return frame[[column]].assign(**{column: pd.Series(np.array([*new, None], dtype=object)[codes])})


def people(predictions, cohort, attributes=("sex",), *, baseline_arm="clean", arms=None, split="test") -> dict:
    """How many patients and images are left at every step from the cohort table to the audit.

    Parameters
    ----------
    predictions, cohort, baseline_arm, arms, split
        As in `change.audit_change`; a `baseline_arm` of None: rates are audited, nothing is compared.
    attributes : sequence of str, or of sequences of str
        Columns that are audited one by one, or crossed.

    Returns
    -------
    dict of DataFrame
        By attribute ("sex and race" where they are crossed). Columns `step patients images`: recorded, with a result,
        asked for (split, or own fold), with baseline and arm, with a label (of a table with scores), with a known
        attribute; the last row is who is audited.
    """
    if baseline_arm is None:
        steps = _steps_alone(predictions, cohort, arms, split)
    else:
        kept = has_results(predictions, cohort, baseline_arm, arms, split)
        steps = {"recorded": np.ones(len(cohort), bool), "with a result": kept[0]}
        steps |= {f"of split {split!r}, or own fold": kept[1], "with baseline and arm": kept[2]}
    patient = text_codes(cohort["patient_id" if "patient_id" in cohort else "image_id"])[0]
    if "task" in predictions:
        tasks = [f"y_{task}" for task in text_codes(predictions["task"])[1]]
        known = [~is_word(names)[codes] for codes, names in (text_codes(cohort[name]) for name in tasks)]
        steps["with a label"] = np.logical_or.reduce(known)
    left, found = np.ones(len(cohort), bool), []
    for step, keep in steps.items():
        left = left & keep
        found.append({"step": step, "patients": len(np.unique(patient[left])), "images": int(left.sum())})
    out = {}
    for names in ([each] if isinstance(each, str) else list(each) for each in attributes):
        groups = pd.DataFrame({name: as_groups(cohort[name])[0] for name in names})
        last, crossed = left & intersect(groups, names)[1].ne("unknown").to_numpy(), " and ".join(names)
        row = {"step": f"with known {crossed}", "patients": len(np.unique(patient[last])), "images": int(last.sum())}
        out[crossed] = pd.DataFrame([*found, row])
    return out


def _steps_alone(predictions, cohort, arms, split) -> dict[str, np.ndarray]:
    """Which images of the cohort have a result of any of the arms, and are of the split asked for."""
    image, names = text_codes(predictions["image_id"])
    if arms is not None:
        arm, known = text_codes(predictions["arm"])
        image = image[np.isin(known, arms)[arm]]
    mine, here = text_codes(cohort["image_id"])
    place, told = pd.Index(here).get_indexer(names[np.unique(image)]), np.zeros(len(here) + 1, bool)
    told[place[place >= 0]] = True  # not np.isin: of texts it compares every one with every other
    steps = {"recorded": np.ones(len(cohort), bool), "with a result": told[mine]}
    folds = "fold" in cohort and len(text_codes(cohort["fold"])[1]) > 1
    asked = None if folds else of_split(cohort, split)
    return steps if asked is None else steps | {f"of split {split!r}": asked}


def of_split(cohort: pd.DataFrame, split: str) -> np.ndarray | None:
    """Which images of a `cohort` are of a `split`, whatever words it is called by; None without such a column."""
    if "split" not in cohort:
        return None
    codes, words = text_codes(cohort["split"])
    wanted, same = split.lower(), [SPLIT_WORDS.get(word.lower(), word.lower()) for word in words]
    return np.array([*(word == SPLIT_WORDS.get(wanted, wanted) for word in same), False])[codes]
