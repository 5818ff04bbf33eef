"""What an audit leaves behind so that another can check it: hashes, choices, versions, tables and page; and the check.

    fairrecon audit scores.csv people.csv --declared plan.json --evidence audit-2026
    fairrecon verify audit-2026

`evidence.json` holds the SHA-256 and place of every input, the command and every choice that it made, the versions, and
the SHA-256 of the files beside it. Verifying reads all of them, does the audit again with the choices on the inputs,
and compares byte by byte; what differs is named. Tables have fixed formats: nine digits, "\n", UTF-8. Whoever holds the
folder can replace all of it: a hash of `evidence.json` kept elsewhere, as `keep` prints it, rules that out.
"""

import argparse
import hashlib
import json
import os
import platform
import sys
from pathlib import Path

import pandas as pd

from fairrecon_core.measures import UNITS, margin_of
from fairrecon_lab.auditing import page, run
from fairrecon_lab.auditing import page_sections as sections
from fairrecon_lab.auditing.options import parse

VERSION = 1
RECORD = "evidence.json"
INPUTS = ("results", "cohort", "masks", "declared")
DIGITS = "%.9g"
ALPHA = 0.05  # of `fairrecon audit`


def keep(found: run.Found, options, argv: list[str]) -> str:
    """Write the evidence of a run into a folder.

    Parameters
    ----------
    found : run.Found
    options : Namespace
        Of `options.parse`; `evidence` is the folder.
    argv : list of str
        The command line they come from.

    Returns
    -------
    said : str
        A line with the hash of the record.

    Raises
    ------
    ValueError
        The folder holds something else.
    """
    folder = Path(options.evidence)
    if folder.is_dir() and not (folder / RECORD).exists() and any(folder.iterdir()):
        raise ValueError(f"--evidence {folder}: the folder has other files in it, and no {RECORD}: name a new one")
    files = written(found, options)
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        run.write_whole(folder / name, data)
    for name in {"changes.csv"} - set(files):  # of an earlier run with more arms
        (folder / name).unlink(missing_ok=True)
    record = {
        "version": VERSION, "command": argv, "choices": choices_of(options), "versions": versions(),
        "inputs": [_input(role, path, folder) for role, path in _inputs(options)],
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    }  # fmt: skip
    data = (json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
    run.write_whole(folder / RECORD, data)
    return f"Evidence kept in {folder}; SHA-256 of its {RECORD}: {hashlib.sha256(data).hexdigest()}"


def written(found: run.Found, options) -> dict[str, bytes]:
    """Name -> bytes of what a run gives: tables, summary, page; of `found` with the `options`."""
    tables = {"rates.csv": found.rates, "changes.csv": found.changes}
    files = {name: table.to_csv(index=False, float_format=DIGITS, lineterminator="\n").encode()
             for name, table in tables.items() if table is not None}  # fmt: skip
    return files | {"summary.txt": found.text.encode(), "report.html": page.page(found, options).encode()}


def choices_of(options) -> dict:
    """Every choice of the `options` but where files lie and go, as JSON has it."""
    kept = {name: value for name, value in vars(options).items() if name not in (*INPUTS, *sections.OUTPUTS)}
    return json.loads(json.dumps(kept))


def versions() -> dict[str, str]:
    """Of what the numbers and the page rest on."""
    return run.versions() | {"python": platform.python_version()}


def verify(folder: str | Path, inputs: str | Path | None = None) -> list[str]:
    """Do the audit again and compare.

    Parameters
    ----------
    folder : path
        Of `keep`.
    inputs : path, optional
        Where the input files are, under the names they had; default: where they were.

    Returns
    -------
    differences : list of str
        What differs, a line each; empty if nothing does.

    Raises
    ------
    ValueError
        The folder has no readable record.
    """
    folder = Path(folder)
    record = _read(folder)
    said = [f"{name}: {record['versions'].get(name, 'none')} recorded, {here} here"
            for name, here in versions().items() if record["versions"].get(name) != here]  # fmt: skip
    said = [f"version of {line}" for line in said]
    said += _changed_choices(record)
    said += _changed_files(folder, record)
    places: dict[str, list[Path]] = {}
    for one in record["inputs"]:
        path = Path(inputs) / Path(one["path"]).name if inputs else folder / one["path"]
        path = Path(os.path.normpath(path))
        places.setdefault(one["role"], []).append(path)
        if not path.exists():
            said.append(f"input {path} is not there: say --inputs FOLDER")
        elif digest(path) != one["sha256"]:
            said.append(f"input {path} has changed: its SHA-256 was {one['sha256']}, and is {digest(path)}")
    missing = [path for paths in places.values() for path in paths if not path.exists()]
    return said if missing else said + _recomputed(folder, record, places)


def _changed_choices(record: dict) -> list[str]:
    """Where the recorded choices are not those that the recorded command makes."""
    try:
        asked = choices_of(parse(list(record["command"])))
    except SystemExit:
        return ["the recorded command cannot be read"]
    return [f"choice {name}: {record['choices'].get(name)!r} recorded, the recorded command says {asked.get(name)!r}"
            for name in sorted(asked.keys() | record["choices"].keys())
            if record["choices"].get(name) != asked.get(name)]  # fmt: skip


def _changed_files(folder: Path, record: dict) -> list[str]:
    """Files of the folder that are not those recorded, or not recorded."""
    said = []
    for name, sha in record["files"].items():
        path = folder / name
        if not path.is_file():
            said.append(f"{path} is not there")
        elif digest(path) != sha:
            said.append(f"{path} has changed since it was recorded")
    return said


def _recomputed(folder: Path, record: dict, places: dict) -> list[str]:
    """Differences of the files from those that the choices give on the inputs."""
    options = argparse.Namespace(**record["choices"])
    for role in INPUTS:
        paths = [str(path) for path in places.get(role, [])]
        setattr(options, role, paths if role == "masks" and paths else paths[0] if paths else None)
    for name in sections.OUTPUTS:
        if name not in INPUTS:
            setattr(options, name, None)
    try:
        if options.declared:
            refuse_undeclared(options)
        files = written(run.run(options), options)
    except (ValueError, OSError, AttributeError, TypeError, KeyError) as error:
        return [f"the audit cannot be done again: {run.with_files(error, options)}"]
    said = []
    for name in sorted(files.keys() | record["files"].keys()):
        path = folder / name
        if name not in files:
            said.append(f"{path}: this audit gives no such file")
        elif not path.is_file():
            said += [] if name in record["files"] else [f"{path} is not there, and the audit gives it"]
        elif (data := path.read_bytes()) != files[name]:
            said.append(f"{path} is not what the audit gives: {first_difference(data, files[name], name)}")
    return said


def first_difference(kept: bytes, made: bytes, name: str) -> str:
    """Where two files differ first: row, column and values of a table called `name`, else the line.

    Parameters
    ----------
    kept, made : bytes
        As recorded, and as made anew.
    """
    old, new = (data.decode("utf-8", errors="replace").split("\n") for data in (kept, made))
    row = next((i for i, (a, b) in enumerate(zip(old, new)) if a != b), min(len(old), len(new)))
    if row >= min(len(old), len(new)):
        return f"{len(old)} lines recorded, {len(new)} now"
    if not name.endswith(".csv") or row == 0:
        place = next(
            (i for i, (a, b) in enumerate(zip(old[row], new[row])) if a != b), min(len(old[row]), len(new[row]))
        )
        cut = lambda text: text[max(place - 15, 0) : place + 25]
        return f"line {row + 1}, {cut(old[row])!r} recorded, {cut(new[row])!r} now"
    head, cells, others = (pd.Series(_cells(line)) for line in (new[0], old[row], new[row]))
    if len(cells) != len(others):
        return f"row {row + 1} has {len(cells)} cells, not {len(others)}"
    column = int((cells != others).to_numpy().argmax())
    n = sum(a != b for a, b in zip(old, new))
    return f"row {row + 1}, column {head[column]!r}: {cells[column]} recorded, {others[column]} now ({n} rows differ)"


def _cells(line: str) -> list[str]:
    import csv

    return next(csv.reader([line]), [])


def refuse_undeclared(options) -> None:
    """Refuse an audit whose margins, level or support are not those declared before.

    Parameters
    ----------
    options : Namespace
        Of `options.parse`; `declared` is a file of `fairrecon plan --out`.

    Raises
    ------
    ValueError
        In one line: what differs, or the file is none of those.
    """
    try:
        plan = json.loads(Path(options.declared).read_text(encoding="utf-8"))
        margins = {str(name): float(value) for name, value in plan["margins"].items()}
        declared = {"alpha": float(plan["alpha"]), "min_support": int(plan["min_support"])}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"--declared {options.declared} is no file of 'fairrecon plan --out' ({error})") from None
    own = {name: margin for name, _, margin in options.value if margin is not None}
    asked = (
        {"rate": options.margin} | {name: margin_of(name, options.margin) for name in margins if name in UNITS} | own
    )
    said = [f"margin of {name} {margins[name]:g}, not {asked[name]:g}"
            for name in margins if name in asked and margins[name] != asked[name]]  # fmt: skip
    said += [f"a margin of {name} {margins[name]:g}, and here is none" for name in margins if name not in asked]
    said += [f"no margin of {name}, and here is {own[name]:g}" for name in own if name not in margins]
    here = {"alpha": ALPHA, "min_support": options.min_support}
    said += [f"{name} {value:g}, not {here[name]:g}" for name, value in declared.items() if value != here[name]]
    if said:
        raise ValueError(f"--declared {options.declared} says {'; '.join(said)}: audit with what was declared, or drop "
                         "--declared and say that this was not planned")  # fmt: skip


def digest(path: Path) -> str:
    """SHA-256 of a file; of a folder, of the names and hashes of its files. ValueError for neither, as at `path`."""
    if path.is_dir():
        files = sorted(each for each in path.rglob("*") if each.is_file())
        told = "".join(f"{each.relative_to(path).as_posix()}\t{digest(each)}\n" for each in files)
        return hashlib.sha256(told.encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _inputs(options) -> list[tuple[str, str]]:
    """(role, path) of every file and folder that is read."""
    out = []
    for role in INPUTS:
        value = getattr(options, role)
        out += [(role, path) for path in ([value] if isinstance(value, str) else value or [])]
    return out


def _input(role: str, path: str, folder: Path) -> dict:
    """A file as it is recorded: its place is told from the folder, so that both can move together."""
    try:
        place = Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # another drive
        place = Path(path).resolve().as_posix()
    return {"role": role, "path": place, "sha256": digest(Path(path))}


def _read(folder: Path) -> dict:
    """The record of a folder, with all of its parts."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        version, _ = record["version"], [record[part] for part in ("command", "choices", "versions", "inputs", "files")]
    except FileNotFoundError:
        raise ValueError(f"{folder} has no {RECORD}: name a folder that 'fairrecon audit --evidence' made") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / RECORD} is damaged ({error})") from None
    if version != VERSION:
        raise ValueError(f"{folder / RECORD} is of version {version}, this is {VERSION}")
    return record


def main(argv: list[str] | None = None) -> int:
    """`fairrecon verify DIR`: 0 if all is as recorded, 1 with a line for each difference, 2 if it cannot be checked.

    Parameters
    ----------
    argv : list of str, optional
        Arguments; default: the command line's.
    """
    parser = argparse.ArgumentParser(prog="fairrecon verify", description="Do an audit again, and compare with what "
                                     "'fairrecon audit --evidence DIR' kept.")  # fmt: skip
    parser.add_argument("folder", metavar="DIR")
    parser.add_argument("--inputs", metavar="FOLDER", help="where the input files are now")
    options = parser.parse_args(argv)
    try:
        said = verify(options.folder, options.inputs)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for line in said:
        print(f"differs: {line}")
    if not said:
        record = hashlib.sha256((Path(options.folder) / RECORD).read_bytes()).hexdigest()
        print(f"{options.folder}: inputs, choices, tables and page are as recorded, byte for byte; SHA-256 of its "
              f"{RECORD}: {record}")  # fmt: skip
    return 1 if said else 0


if __name__ == "__main__":
    sys.exit(main())
