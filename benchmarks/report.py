"""The common form of a benchmark's result: a readable table, and a JSON list on request.

Every benchmark in this folder runs as ``python benchmarks/<name>.py [--json FILE]``.
"""

import argparse
import json
import os
import platform
from pathlib import Path


class Report:
    """Collects the rows of one benchmark and prints them as a table.

    Parameters
    ----------
    name : str
        Name of the benchmark, as in its file name.
    """

    def __init__(self, name: str):
        self.name = name
        self.rows: list[dict] = []

    def row(self, name: str, value: float, unit: str = "", goal: str = "", holds: bool | None = None) -> None:
        """Add one measured figure; `holds` is None where nothing was promised."""
        holds = None if holds is None else bool(holds)
        self.rows.append({"name": name, "value": float(value), "unit": unit, "goal": goal, "holds": holds})
        mark = {None: "", True: "holds", False: "MISSED"}[holds]
        print(f"{name:<64} {value:>12.5g} {unit:<12} {goal:<16} {mark}", flush=True)

    def finish(self, json_file: str | None = None) -> bool:
        """Write the rows to `json_file` (if any); True when no stated goal was missed."""
        missed = [row["name"] for row in self.rows if row["holds"] is False]
        print(f"{self.name}: {len(self.rows)} figures, {len(missed)} goals missed"
              f" ({platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()})")  # fmt: skip
        if json_file:
            part = Path(json_file).with_name(Path(json_file).name + ".part")
            part.write_text(json.dumps(self.rows, indent=1) + "\n", encoding="utf-8")
            part.replace(json_file)
        return not missed


def parser(description: str) -> argparse.ArgumentParser:
    """An argument parser with the option that all benchmarks share."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--json", metavar="FILE", help="also write the figures as a JSON list")
    return options
