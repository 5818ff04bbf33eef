"""Make the shipped example run, results/tutorial/, from a finished run of the tutorial profile.

    python3 run.py && python tools/example.py --check

It holds the run's tables and an excerpt of each cohort (all rows of the table, the pixels of a few test patients), so
that any notebook can be opened alone. At most 10 MB. `--check` then opens each of them alone in an empty run folder,
with nothing but the example to read (8 minutes).
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from fairrecon_core.cohort.conversion import HEADER_BYTES, pixel_digests, write_header
from fairrecon_core.cohort.folder import Cohort, _write_info, content_hash, load_cohort
from fairrecon_core.reconstruct.controls import CONTROLS
from fairrecon_core.settings import project_folder
from fairrecon_core.steps.folder import begin
from fairrecon_core.tables import write_parquet

N_IMAGES = 20
TABLES = ("quality", "predictions", "overlap", "thresholds", "audit")
LIMIT_MB = 10


def write_excerpt(cohort: Cohort, folder: str | Path, rows: Iterable[int]) -> Cohort:
    """Copy a cohort with its whole table but the pixels of a few rows, as a small example to ship.

    Parameters
    ----------
    cohort : Cohort
    folder : path
        Folder of the excerpt; made if absent.
    rows : iterable of int
        Rows whose images and masks are kept; at least one.

    Returns
    -------
    Cohort
        Other rows have their table row, but `image` refuses them.

    Raises
    ------
    ValueError
        If there are no rows.
    """
    folder, rows = Path(folder), np.unique(np.fromiter(rows, dtype=np.int64))
    if not len(rows):
        raise ValueError("an excerpt needs the pixels of at least one row")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cohort.json").unlink(missing_ok=True)
    stacks = {"images.npy": cohort.images[cohort._places(rows)]}
    if cohort.masks is not None:
        stacks["masks.npy"] = cohort.masks[cohort._places(rows)]
    for name, stack in stacks.items():
        (folder / name).write_bytes(bytes(HEADER_BYTES) + stack.tobytes())
        write_header(folder / name, stack.dtype, stack.shape)
    write_parquet(folder / "cohort.parquet", "cohort", cohort.table)
    info = cohort.info | {"pixel_rows": rows.tolist(), "excerpt_of": cohort.info["content_hash"]}
    _write_info(folder, info | {"content_hash": content_hash(cohort.table, pixel_digests(*stacks.values()))})
    return load_cohort(folder)


def make(source: Path, target: Path) -> float:
    """Copy tables and write excerpts; the size in MB."""
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    record = json.loads((source / "run.json").read_text())
    arms = {"clean", *record["settings"]["classical"], *record["settings"]["arms"], *CONTROLS}  # none of notebook 13's
    for folder in sorted((source / "cohorts").iterdir()):
        cohort = load_cohort(folder)
        test, validation = cohort.select("test"), cohort.select("validation")
        chosen = np.sort(np.concatenate([test[:N_IMAGES], validation[: N_IMAGES // 2]]))
        write_excerpt(cohort, part / "cohorts" / folder.name, chosen)
    for table in TABLES:
        (part / "tables" / table).mkdir(parents=True)
        for file in sorted((source / "tables" / table).glob("*.parquet")):
            if set(pd.read_parquet(file, columns=["arm"])["arm"]) <= arms:
                shutil.copy(file, part / "tables" / table / file.name)
    (part / "run.json").write_text(json.dumps(record, indent=1) + "\n")
    size = sum(file.stat().st_size for file in part.rglob("*") if file.is_file()) / 1e6
    if size > LIMIT_MB:
        raise SystemExit(f"the example run would take {size:.1f} MB, the limit is {LIMIT_MB}")
    shutil.rmtree(target, ignore_errors=True)
    part.rename(target)
    return size


def alone() -> list[str]:
    """Run every notebook but 01, which makes cohorts, in an empty run folder of its own; what went wrong."""
    failures = []
    for notebook in sorted((project_folder() / "notebooks").glob("[0-9]*.ipynb")):
        if notebook.name.startswith("01"):
            continue
        with tempfile.TemporaryDirectory() as empty:
            command = [sys.executable, "-m", "fairrecon_lab.cli", "tutorial", "--only", notebook.name[:2]]
            made = subprocess.run(
                command,
                cwd=project_folder(),
                env=os.environ | {"FAIRRECON_RUNS": empty},
                capture_output=True,
                text=True,
            )
        print(f"{notebook.stem}: {'runs alone' if made.returncode == 0 else 'FAILED'}", flush=True)
        failures += [made.stderr[-2000:]] if made.returncode else []
    return failures


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--check", action="store_true", help="open every notebook alone afterwards")
    given = options.parse_args()
    _, run = begin("tutorial")
    print(f"{make(run.folder, project_folder() / 'results' / 'tutorial'):.1f} MB in results/tutorial")
    if given.check and (failures := alone()):
        sys.exit("\n\n".join(failures))
