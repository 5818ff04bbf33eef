"""Does the audit keep its promises in worlds of known truth? The table is kept in results/calibration/.

    python benchmarks/calibration.py [--reps 1000] [--world NAME ...] [--n-boot N] [--json FILE] [--into TABLE.csv]
    python benchmarks/calibration.py --sections [NAME ...] [--quick] [--out FOLDER]

Worlds (`worlds_null.py`, `worlds_planted.py`, `worlds_single.py`) call the audit as a user does and share no code with
it. Each figure has its Monte Carlo error; a goal is missed where the figure is out of its range by over two of them.
`--json` is written after every 50 audits, and a later run goes on from there unless audit or worlds have changed since.
`--into` is written after every world; worlds of the table that are not run keep their rows. `--out` is its folder.
Sections (`worlds_engine.py`, `worlds_scores.py`) try the parts of the audit one by one.
"""

import argparse
import functools
import hashlib
import io
import json
import subprocess
import sys
import time
import warnings
import zlib
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parent))
import worlds_null
import worlds_planted
import worlds_single

import fairrecon_core.audit
import fairrecon_lab.auditing

MODULES = (worlds_null, worlds_planted, worlds_single)
WORLDS = {world.name: world for module in MODULES for world in module.WORLDS}
ALONE = ("single", "linearised", "bounds", "plan", "search")  # what worlds_single audits with, besides the core
CHUNK = 50


@functools.cache  # of the source that is running, also where it is edited meanwhile
def fingerprint(name: str) -> str:
    """Of the source of a world and what it audits: figures of two different audits must not be put together."""
    module = next(part for part in MODULES if WORLDS[name] in part.WORLDS)
    files = [Path(__file__).with_name("worlds_tables.py"), Path(module.__file__)]
    files += sorted(Path(fairrecon_core.audit.__file__).parent.glob("*.py"))
    if module is worlds_single:
        files += [Path(fairrecon_lab.auditing.__file__).with_name(f"{part}.py") for part in ALONE]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def trials(name: str, first: int, last: int, n_boot: int) -> dict[str, list[float]]:
    """Figures of audits `first` to `last - 1` of one world; the seeds depend on the world and the number alone."""
    warnings.simplefilter("ignore")
    found: dict[str, list[float]] = {}
    for i in range(first, last):
        rng = np.random.default_rng([zlib.crc32(name.encode()), i])
        for key, value in WORLDS[name].trial(rng, i, n_boot).items():
            found.setdefault(key, []).append(None if np.isnan(value) else round(float(value), 6))
    return found


def simulate(name: str, reps: int, n_boot: int | None, state: dict, save, pool=None) -> None:
    """Bring one world to `reps` audits; what `state` holds of it already is kept."""
    n_boot = n_boot or WORLDS[name].n_boot
    source = fingerprint(name)
    kept = state.get(name, {})
    if (kept.get("n_boot"), kept.get("source")) != (n_boot, source):
        kept = {"n_boot": n_boot, "source": source, "n": 0, "seconds": 0.0, "figures": {}}
    starts = range(kept["n"], reps, CHUNK)
    asked = [(name, first, min(first + CHUNK, reps), n_boot) for first in starts]
    results = pool.map(trials, *zip(*asked)) if pool and asked else (trials(*each) for each in asked)
    begin = time.perf_counter()
    for (_, _, last, _), found in zip(asked, results):
        for key, values in found.items():
            kept["figures"].setdefault(key, []).extend(values)
        kept["n"] = last
        kept["seconds"] = round(kept["seconds"] + time.perf_counter() - begin, 1)
        begin = time.perf_counter()
        state[name] = kept
        save()


def monte_carlo(values) -> tuple[float, float, int]:
    """Mean, its Monte Carlo error and the number of audits that count; of shares of 0 and 1 the binomial error.

    An audit is the unit: the cells of one audit are not independent. Where all audits agree, the error is that of one
    audit more that does not (the rule of succession), not zero.
    """
    known = np.array([value for value in values if value is not None], float)
    n = len(known)
    if not n:
        return np.nan, np.nan, 0
    if ((known == 0) | (known == 1)).all():
        smoothed = known.mean() if 0 < known.mean() < 1 else (known.sum() + 1) / (n + 2)
        return float(known.mean()), float(np.sqrt(smoothed * (1 - smoothed) / n)), n
    return float(known.mean()), float(known.std(ddof=min(1, n - 1)) / np.sqrt(n)), n


def reached(value: float, error: float, goal) -> str:
    """Whether a figure reached its goal: "yes", "within error" (out by at most two Monte Carlo errors) or "NO"."""
    if goal is None:
        return ""
    if np.isnan(value):
        return "not counted"
    out = max(0.0 if goal[0] is None else goal[0] - value, 0.0 if goal[1] is None else value - goal[1])
    if out <= 1e-12:
        return "yes"
    exact = goal == (None, 0.0) or goal[0] == 1.0  # never and always leave no room
    return "within error" if out <= 2 * error and not exact else "NO"


def table_of(state: dict) -> pd.DataFrame:
    """One row per world and figure."""
    rows = []
    for name, world in WORLDS.items():
        kept = state.get(name)
        for figure, values in (kept["figures"] if kept else {}).items():
            value, error, n = monte_carlo(values)
            goal = world.goals.get(figure)
            low, high = goal if goal else (None, None)
            rows.append({"world": name, "words": world.words, "figure": figure, "low": low, "high": high,
                         "found": value, "error": error, "n": n, "n_boot": kept["n_boot"],
                         "source": kept.get("source", ""),
                         "reached": reached(value, error, goal)})  # fmt: skip
    return pd.DataFrame(rows)


def show(table: pd.DataFrame) -> None:
    """Print the table: a line for each world, one for each figure."""
    for _, part in table.groupby("world", sort=False):
        first = part.iloc[0]
        print(f"\n{first['world']}: {first['words']}  ({first['n_boot']} resamples)")
        for row in part.itertuples():
            low, high = ("" if pd.isna(bound) else f"{bound:g}" for bound in (row.low, row.high))
            goal = f"{low or 0} to {high or 1}" if low or high else "informs"
            print(f"  {row.figure:<50} {goal:<14} {row.found:7.3f} +- {row.error:.3f}  n {row.n:<5} {row.reached}")


def write_json(path: str, state: dict) -> None:
    """Write table and raw figures at once, or not at all."""
    part = Path(path + ".part")
    rows = table_of(state).astype(object)
    table = rows.where(rows.notna(), None).to_dict("records")
    part.write_text(json.dumps({"table": table, "worlds": state}) + "\n", encoding="utf-8")
    part.replace(path)


def write_into(path: Path, table: pd.DataFrame) -> None:
    """Put the rows of a `table` into the CSV at `path`, at once; worlds that it lacks keep the rows they have there."""
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    table.to_csv(text, index=False, float_format="%.6g")
    new = pd.read_csv(io.StringIO(text.getvalue()), dtype=str, keep_default_na=False)
    if path.exists():  # as text, so that no digit of what is kept moves
        before = pd.read_csv(path, dtype=str, keep_default_na=False)
        if list(before) != list(new):
            raise SystemExit(f"{path} has the columns {', '.join(before)}, not {', '.join(new)}: name another file")
        new = pd.concat([before[~before["world"].isin(new["world"])], new])
    place = {name: i for i, name in enumerate(WORLDS)}
    new = new.sort_values("world", key=lambda names: names.map(lambda name: place.get(name, -1)), kind="stable")
    new.to_csv(part, index=False)
    part.replace(path)


def read_json(path: str | None) -> dict:
    """What an earlier run left."""
    if not path or not Path(path).is_file():
        return {}
    return json.loads(Path(path).read_text(encoding="utf-8"))["worlds"]


def run_worlds(arguments) -> None:
    state = read_json(arguments.json)
    save = (lambda: write_json(arguments.json, state)) if arguments.json else lambda: None
    into = arguments.into or (arguments.out and arguments.out / "worlds.csv")
    pool = ProcessPoolExecutor(arguments.jobs) if arguments.jobs > 1 else None
    for name in arguments.world or WORLDS:
        simulate(name, arguments.reps, arguments.n_boot, state, save, pool)
        show(table_of({name: state[name]}))
        print(f"  {state[name]['seconds']:.0f} s", flush=True)
        if into:
            write_into(into, table_of({name: state[name]}))
    table = table_of({name: state[name] for name in arguments.world or WORLDS})
    missed = table[table["reached"] == "NO"]
    print(f"\n{len(table)} figures, {len(missed)} goals missed in {missed['world'].nunique()} worlds")


README = """# Calibration of the audit

Does the inference keep its promises where the truth is known? One row of `calibration.csv` is one acceptance test.
All data are simulated. `low` and `high` bound the figure that was promised; empty: nothing was, the row informs.

- Command: `python benchmarks/calibration.py --sections{options} --out results/calibration`
- Commit: {commit}
- Seeds: fixed in the source, one for each section
- CPU time: {seconds:.0f} s on one core; {n} rows, {missed} missed

What a miss means: 2.80 SE promises too much power where the effect is large beside the flips that were there before
(few positives). `minimal_detectable_effect(se, n_group=...)` adds the flips that the effect itself needs: right for
planted flips, on the safe side for shifted scores.

`worlds.csv` is the same question put to the whole audit: each row is one figure of one world, which the column `words`
describes in plain words; `found` with its Monte Carlo `error` over `n` audits stands beside the range that was promised
(`low`, `high`; empty: the figure informs). `source` names the code that was measured: audit and worlds, as a digest.
Made by `python benchmarks/calibration.py --reps 1000 --json FILE --into results/calibration/worlds.csv`, world by
world.
"""


def write_sections(folder: Path, options: str, order: list[str], rows: list[dict]) -> None:
    """Put the table and how it was made into `folder`; sections that were not run keep their rows."""
    folder.mkdir(parents=True, exist_ok=True)
    table, file = pd.DataFrame(rows), folder / "calibration.csv"
    if file.exists():
        before = pd.read_csv(file)
        table = pd.concat(
            [before[~before["section"].isin(table["section"])], table.astype({"low": float, "high": float})]
        )
    table = table.sort_values("section", key=lambda column: column.map(order.index), kind="stable")
    table.to_csv(file, index=False, float_format="%.6g")
    root = Path(__file__).resolve().parents[1]
    asked = subprocess.run(["git", "-C", str(root), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    text = README.format(options=options, commit=asked.stdout.strip() or "unknown", n=len(table),
                         seconds=table.groupby("section")["section_cpu_s"].first().sum(),
                         missed=int((~table["holds"].astype(bool)).sum()))  # fmt: skip
    (folder / "README.md").write_text(text, encoding="utf-8")


def run_sections(arguments) -> None:
    import worlds_engine
    import worlds_scores

    sections = worlds_engine.SECTIONS | worlds_scores.SECTIONS
    unknown = sorted(set(arguments.sections) - set(sections))
    if unknown:
        raise SystemExit(f"no section {', '.join(unknown)}; choose from {', '.join(sections)}")
    scale = lambda n: max(n // 5, 10) if arguments.quick else n
    warnings.simplefilter("ignore", RuntimeWarning)
    rows = worlds_engine.ROWS
    for name in arguments.sections or sections:
        before, first = time.process_time(), len(rows)
        sections[name](scale)
        spent = round(time.process_time() - before, 1)
        print(f"  {name}: {spent} s CPU", flush=True)
        rows[first:] = [{"section": name} | row | {"section_cpu_s": spent} for row in rows[first:]]
        if arguments.out:
            write_sections(arguments.out, " --quick" if arguments.quick else "", list(sections), rows)
    print(f"{len(rows)} figures, {sum(not row['holds'] for row in rows)} goals missed")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--reps", type=int, default=1000, help="audits of each world")
    options.add_argument("--world", nargs="+", choices=list(WORLDS), help="only these worlds")
    options.add_argument("--n-boot", type=int, help="resamples of an audit (default: the world's own)")
    options.add_argument("--jobs", type=int, default=1, help="processes")
    options.add_argument("--json", metavar="FILE", help="keep the figures there, and go on from what it holds")
    options.add_argument("--into", type=Path, metavar="CSV", help="put the worlds that are run into this table")
    options.add_argument("--sections", nargs="*", metavar="NAME", help="try the parts instead; all, or these")
    options.add_argument("--quick", action="store_true", help="sections: a fifth of the simulations")
    options.add_argument("--out", type=Path, help="folder for worlds.csv, or calibration.csv and README.md of sections")
    arguments = options.parse_args()
    if arguments.sections is None:
        run_worlds(arguments)
    else:
        run_sections(arguments)


if __name__ == "__main__":
    main()
