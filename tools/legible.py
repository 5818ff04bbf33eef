"""Ask every figure of a run whether it can be read: run its notebooks again, and print what is wrong.

    python tools/legible.py [profile] [--only 03 06] [--asked]

A figure is taken as a page of 1 000 pixels shows it: no text on text, none cut off or below 7 points, no legend on top
of data (`fairrecon_lab.plots.legible`). `--asked` runs nothing and reads what an earlier run noted.
"""

import argparse
import json
import os
import sys

from fairrecon_core.settings import load_settings
from fairrecon_core.steps.folder import run_folder
from fairrecon_lab.plots.watched import unreadable


def main(argv: list[str] | None = None) -> int:
    """Run the notebooks and print their figures' flaws; 1 if there are any."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("profile", nargs="?", default="tutorial")
    options.add_argument("--only", nargs="+", metavar="NN", default=[], help="only these notebooks")
    options.add_argument("--asked", action="store_true", help="read what a run with FAIRRECON_LEGIBLE=1 noted")
    chosen = options.parse_args(argv)
    try:
        folder = run_folder(load_settings(chosen.profile).profile, {})
        if not chosen.asked:
            from fairrecon_lab.runner import run_series

            os.environ["FAIRRECON_LEGIBLE"] = "1"
            run_series(chosen.profile, only=chosen.only, again=True)
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        if chosen.only:
            wanted = tuple(number.zfill(2) for number in chosen.only)
            kept = {name: entry for name, entry in record["notebooks"].items() if name.startswith(wanted)}
            record = record | {"notebooks": kept}
        found = unreadable(record)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    n = sum(len(entry["legible"]) for entry in record["notebooks"].values())
    print("\n".join([*found, f"{n} figures of {len(record['notebooks'])} notebooks, {len(found)} flaws"]))
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
