"""Make the shipped example run, results/tutorial/, from a finished run of the tutorial profile.

    python3 run.py && python tools/example.py

It holds the run's tables and an excerpt of each cohort (all rows of the table, the pixels of a few test patients), so
that any notebook can be opened alone. At most 10 MB.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from fairrecon_core.chain import CONTROLS
from fairrecon_core.cohort import load_cohort, write_excerpt
from fairrecon_core.run import begin
from fairrecon_core.settings import house

N_IMAGES = 20
TABLES = ("quality", "predictions", "overlap", "thresholds", "audit")
LIMIT_MB = 10


def make(source: Path, target: Path) -> float:
    """Copy tables and write excerpts; the size in MB."""
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    record = json.loads((source / "run.json").read_text())
    arms = {"clean", *record["settings"]["classical"], *record["settings"]["arms"], *CONTROLS}  # none of notebook 12's
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


if __name__ == "__main__":
    _, run = begin("tutorial")
    print(f"{make(run.folder, house() / 'results' / 'tutorial'):.1f} MB in results/tutorial")
