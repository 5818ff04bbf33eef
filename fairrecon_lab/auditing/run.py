"""One run of the door: tables read, made standard, audited, told."""

import functools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pandas as pd

from fairrecon_core.audit.change import audit_change
from fairrecon_core.audit.engine import text_codes
from fairrecon_core.audit.matching import OVERLAP
from fairrecon_core.audit.thresholds import RULES, choose_threshold
from fairrecon_lab.auditing.columns import listed, plain
from fairrecon_lab.auditing.masks import measured
from fairrecon_lab.auditing.reading import of_split, people, read_outside
from fairrecon_lab.auditing.single import audit_single
from fairrecon_lab.auditing.standard import Standard, standard
from fairrecon_lab.auditing.summary import glance, summary
from fairrecon_lab.auditing.values import groups

JSON_VERSION = 1
NOT_MEASURES = {"image_id", "arm", "level", "fold", "train_seed", "sample", "cohort"}
BASELINE = "clean"  # arm that others are compared with, where it is there and none is named


@dataclass
class Found:
    """What a run found.

    rates : DataFrame, of `audit_single`, a row a cell. changes : DataFrame of `audit_change`, None with one arm.
    tables : the standard tables. who : a line on how many people this is about. text : what the screen shows.
    steps : attribute -> who is left after each step, of `reading.people`. shared : what scores, or measures without
    them, were audited with: arms, thresholds, rule, split, seed and min_support.
    """

    rates: pd.DataFrame
    changes: pd.DataFrame | None
    tables: Standard
    who: str
    text: str = ""
    notes: list[str] = field(default_factory=list)
    steps: dict[str, pd.DataFrame] = field(default_factory=dict)
    shared: dict = field(default_factory=dict)


def run(options) -> Found:
    """Read the tables, audit every attribute, and put it in words.

    Parameters
    ----------
    options : Namespace
        Of `options.parse`.

    Returns
    -------
    Found

    Raises
    ------
    ValueError
        The tables do not fit; the message says where and what to do.
    """
    if options.rule not in RULES:
        raise ValueError(f"unknown rule {options.rule!r} (--rule); choose one of {', '.join(RULES)}")
    return audited(_tables(options), options)


def audited(tables: Standard, options) -> Found:
    """Audit every attribute of tables that are read.

    Parameters
    ----------
    tables : Standard
        With clean groups, of `grouped`.
    options : Namespace
        Of `options.parse`; errors as in `run`.
    """
    arms, baseline = _arms(tables, options)
    rates, changes, kinds = [], [], [tables.scores, tables.measures]
    kinds = [results for results in kinds if results is not None]
    cuts = functools.cache(lambda kind: _cuts(kinds[kind], tables, baseline, options))  # once changes were audited
    for names in tables.attributes:
        attribute = names if len(names) > 1 else names[0]
        for kind in range(len(kinds)):
            one, two = _audited(kinds[kind], tables, attribute, arms, baseline, functools.partial(cuts, kind), options)
            rates.append(one)
            changes += [two] if two is not None else []
    steps = _steps(kinds[0], tables, arms, baseline, options)
    who, shared = _who(next(iter(steps.values())), options), {"arms": arms, "thresholds": cuts(0), **_shared(options)}
    found = Found(_stacked(rates), _stacked(changes) if changes else None, tables, who, steps=steps, shared=shared)
    every = [note for table in (found.rates, found.changes) if table is not None for note in table.attrs["notes"]]
    found.notes = list(dict.fromkeys([*tables.notes, *every]))
    found.text = _text(found)
    return found


def _tables(options) -> Standard:
    """The standard tables with clean groups."""
    if options.masks:
        results, cohort = measured(*options.masks), options.results and read_outside(options.results)
        if cohort is None:
            raise ValueError(f"masks in {options.masks[0]} have no people: give a table with image and attribute, too")
        options.value = [*options.value, *(value for value in MASKED if value[0] in results)]
        results.attrs["notes"].append(f"margins within which a distance does not matter are guesses: {GUESSED}")
        tables = standard(results, cohort, options)
    else:
        first = read_outside(options.results)
        tables = standard(first, read_outside(options.cohort) if options.cohort else None, options)
    return grouped(tables, options)


def grouped(tables: Standard, options) -> Standard:
    """The `tables` with clean groups, numbers in bins; ValueError if `options` has bins of what is not audited."""
    bins = {}
    for name, edges in options.bins:
        hits = {column for names in tables.attributes for column in names if plain(column) == plain(name)}
        if not hits:
            raise ValueError(f"--bins {name}: no such attribute is audited; audited are {listed(_columns(tables))}")
        bins |= dict.fromkeys(hits, edges)
    for name in _columns(tables):
        new = groups(tables.cohort, name, bins, dict(options.map), tables.notes)
        attrs = tables.cohort.attrs
        tables.cohort = tables.cohort.assign(**{name: new})
        tables.cohort.attrs = attrs
    return tables


def _columns(tables: Standard) -> list[str]:
    return list(dict.fromkeys(name for names in tables.attributes for name in names))


def _arms(tables: Standard, options) -> tuple[list[str] | None, str | None]:
    """The arms to audit (None: there is no such column), and the baseline if there is something to compare with it."""
    frame = tables.scores if tables.scores is not None else tables.measures
    if "arm" not in frame:
        if options.arms or options.baseline:
            raise ValueError(
                "the results have no arms (--arm COLUMN), so nothing to compare: leave --arms and --baseline out"
            )
        return None, None
    known = list(text_codes(frame["arm"])[1])
    strange = [arm for arm in (*(options.arms or ()), *filter(None, [options.baseline])) if arm not in known]
    if strange:
        raise ValueError(f"no results of arm {strange[0]!r}; there are {known}")
    baseline = options.baseline or (BASELINE if BASELINE in known else None)
    arms = known if options.arms is None else [*dict.fromkeys([*filter(None, [baseline]), *options.arms])]
    if baseline is None and len(arms) > 1:
        tables.notes.append(f"arms {listed(arms)}: each for itself; --baseline ARM adds what changed between them")
    return arms, baseline if len(arms) > 1 else None


def _shared(options) -> dict:
    return {"min_support": options.min_support, "rule": options.rule, "split": options.split, "seed": options.seed}


def _cuts(results, tables, baseline, options) -> pd.DataFrame | str | float | None:
    """Thresholds of the rates: as asked for, or with a `baseline` those of the changes."""
    if baseline is None:
        return _thresholds(options.thresholds)
    return _frozen(results, tables.cohort, baseline, options, tables.notes)


def _audited(
    results, tables, attribute, arms, baseline, cuts: Callable, options
) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Rates and gaps of every arm, and changes from the baseline."""
    shared = {**_shared(options), "margin": options.margin, "n_boot": options.n_boot, "adjust": options.adjust}
    two, named = None, {}
    if results is tables.measures:
        shared["margin"] = {"rate": options.margin} | {name: margin for name, _, margin in options.value}
        if not set(OVERLAP) <= set(results.columns):
            named["metrics"] = [name for name in results if name not in NOT_MEASURES]
    if baseline is not None:
        pairs = options.reference == "all-pairs"
        two = audit_change(
            results, tables.cohort, attribute, baseline_arm=baseline, arms=[arm for arm in arms if arm != baseline],
            reference="largest" if pairs else options.reference, thresholds=_thresholds(options.thresholds), **named,
            **shared,
        )  # fmt: skip
        two = _with_units(two, options)
        two.attrs["notes"] += ["changes are those against the largest subgroup, gaps those of all pairs"] * pairs
    one = audit_single(results, tables.cohort, attribute, arms=arms, reference=options.reference, thresholds=cuts(),
                       **named, **shared)  # fmt: skip
    return _with_units(one, options), two


def _frozen(results, cohort, baseline: str, options, notes: list) -> pd.DataFrame | str | float | None:
    """The thresholds at which changes are audited, chosen on the baseline, so that the rates speak of the same."""
    asked = _thresholds(options.thresholds)
    several = any("fold" in frame and len(text_codes(frame["fold"])[1]) > 1 for frame in (results, cohort))
    arm, known = text_codes(results["arm"])
    of_base = np.flatnonzero(known[arm] == baseline)
    levels = results["level"].iloc[of_base].nunique() if "level" in results else 1
    if "score" not in results or several or levels > 1 or asked not in (None, "validation_frozen", "test_frozen"):
        return asked
    names = {split: of_split(cohort, split) for split in ("validation", options.split)}
    mine, known = text_codes(cohort["image_id"])
    code, images = text_codes(results["image_id"].iloc[of_base])
    position = pd.Series(np.arange(len(mine)), index=known[mine]).reindex(images).to_numpy()[code].astype(int)
    validated = names["validation"] is not None and names["validation"][position].any() and asked != "test_frozen"
    source = names["validation"] if validated else names[options.split]
    kept = np.ones(len(position), bool) if source is None else source[position]
    task, tasks = text_codes(results["task"].iloc[of_base])
    score, policy = results["score"].to_numpy(float)[of_base], "validation_frozen" if validated else "test_frozen"
    value = [choose_threshold(score[rows], cohort[f"y_{name}"].to_numpy(float)[position[rows]], options.rule)
             for t, name in enumerate(tasks) for rows in [np.flatnonzero((task == t) & kept)]]  # fmt: skip
    notes.append(f"rates and gaps of every arm are at the thresholds of {baseline!r} ({policy}), as the changes; their "
                 "intervals hold for these thresholds")  # fmt: skip
    return pd.DataFrame({"task": tasks, "value": value, "policy": policy})


def _with_units(table: pd.DataFrame, options) -> pd.DataFrame:
    """The table with the units that were given for measures."""
    units = {name: unit for name, unit, _ in options.value if unit}
    own = table["metric"].str.removesuffix("_gap").map(units)
    return table.assign(unit=own.where(own.notna(), table["unit"]))


def _steps(results, tables, arms, baseline, options) -> dict[str, pd.DataFrame]:
    others = None if arms is None else [arm for arm in arms if arm != baseline]
    return people(results, tables.cohort, tables.attributes, baseline_arm=baseline, arms=others, split=options.split)


def _who(steps: pd.DataFrame, options) -> str:
    """How many people and images are audited, and where the others went."""
    first, last = steps.iloc[0], steps.iloc[-1]
    counts = ", ".join(f"{row.patients} {row.step}" for row in steps.itertuples())
    file, patients = Path(options.cohort or options.results).name, f"{last.patients} of {first.patients} patients"
    return f"Audited {patients}, {last.images} of {first.images} images of {file}: {counts}"


def _stacked(tables: list[pd.DataFrame]) -> pd.DataFrame:
    notes = [table.attrs.pop("notes", []) for table in tables]
    whole = tables[0] if len(tables) == 1 else pd.concat(tables, ignore_index=True)
    whole.attrs["notes"] = list(dict.fromkeys(note for said in notes for note in said))
    return whole


def _text(found: Found) -> str:
    """One screen: who, rates, gaps, changes, and what was assumed."""
    loud = [note for note in found.notes if note.startswith("NO PATIENTS")]
    lines = [found.who, *loud, "", *glance(found.rates, room=18 if found.changes is not None else 30)]
    text = "\n".join(lines) + "\n"
    told = [] if found.changes is None else found.changes.attrs["notes"]
    notes = [note for note in found.notes if note not in (*loud, *told)]
    if found.changes is not None:
        text += "\n" + summary(found.changes)
    return text + "".join(f"Note: {note}.\n" for note in notes)


def files(found: Found, path: str | None) -> list[tuple[pd.DataFrame, Path]]:
    """Which table goes to which file: changes to `path`, where there are any, and the rates of `found` beside them."""
    if not path:
        return []
    target = Path(path)
    if found.changes is None:
        return [(found.rates, target)]
    beside = target.with_name(f"{target.stem}_rates{target.suffix}")
    return [(found.changes, target), *([(found.rates, beside)] if len(found.rates) else [])]


def write(table: pd.DataFrame, path: Path) -> str:
    """Write a `table` as CSV or Parquet, by the ending of `path`; returns a line that says so."""
    whole = table.to_parquet(None, index=False) if path.suffix == ".parquet" else table.to_csv(index=False).encode()
    write_whole(path, whole)
    return f"{len(table)} rows written to {path}"


def write_whole(path: str | Path, data: bytes) -> Path:
    """Write `data` to `path`: it is there whole, or not at all. What is no file, such as /dev/null, is written to."""
    path = Path(path)
    part = path if path.exists() and not path.is_file() else path.with_name(f"{path.name}.part")
    part.write_bytes(data)
    if part != path:
        part.replace(path)
    return path


def as_json(found: Found, options, *, bounds: pd.DataFrame | None = None, search: pd.DataFrame | None = None) -> str:
    """Everything of a run for machines: tables as lists of rows, undefined numbers as null.

    Parameters
    ----------
    found : Found
    options : Namespace
    bounds, search : DataFrame, optional
        For the unrecorded and of subgroups that nobody named, where the page has made them.
    """
    records = lambda table: [] if table is None else [
        {name: _plain(value) for name, value in row.items()} for row in table.to_dict("records")]  # fmt: skip
    whole = {"version": JSON_VERSION, "packages": versions(), "audited": found.who,
             "choices": {name: _plain(value) for name, value in sorted(vars(options).items())},
             "columns": found.tables.shown, "notes": found.notes, "rates": records(found.rates),
             "changes": records(found.changes), "bounds": records(bounds), "search": records(search)}  # fmt: skip
    return json.dumps(whole, ensure_ascii=False, allow_nan=False, indent=1)


def _plain(value):
    """A value as JSON has it."""
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("inf" if value > 0 else "-inf")
    return value


def versions() -> dict[str, str]:
    """Of the packages that numbers rest on."""
    out = {}
    for name in ("fairrecon", "numpy", "scipy", "pandas", "pyarrow"):
        try:
            out[name] = version(name)
        except PackageNotFoundError:
            out[name] = "unknown"
    return out


def with_files(error: Exception, options) -> str:
    """The `error` in one line that names a file of the `options`, and columns as they are called there."""
    text = " ".join(str(error).split()).replace("pass split=...", "say --split NAME") or type(error).__name__
    names = [Path(name).name for name in (options.results, options.cohort, *(options.masks or ())) if name]
    return text if any(name in text for name in names) else f"{text} ({', '.join(names)})"


def _thresholds(text: str | None) -> str | float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


GUESSED = "2 for hd95, 1 for the surface, in mm or pixels; --value hd95_mm:mm:3 for another"
MASKED = (("dice", "dice", None), ("hd95_mm", "mm", 2.0), ("surface_mm", "mm", 1.0), ("hd95_px", "px", 2.0),
          ("surface_px", "px", 1.0))  # fmt: skip
