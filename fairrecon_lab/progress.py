"""The bar of the series: how much is done and, where all of it has run here before, how long the rest will take."""

import math
import re
from pathlib import Path

from tqdm.auto import tqdm


class Progress:
    """One bar for the whole series, in expected seconds, scaled by how fast this machine has been so far.

    The time left is shown only where each notebook's share was measured in a run of the same settings: shares that are
    stated in a notebook hold for the tutorial, and other settings shift them by more than they are.

    Parameters
    ----------
    notebooks : list of Path
    record : dict
        What earlier runs cost, as in `run.json`.
    """

    FORM = "{desc} {percentage:3.0f}% |{bar:24}| {elapsed} gone"
    WARM = 0.05  # of the work has to be done before the time left is a measurement

    def __init__(self, notebooks: list[Path], record: dict):
        self.expected = {path: _expected_seconds(path, record) for path in notebooks}
        self.measured = all(path.stem in record["notebooks"] for path in notebooks)
        self.done = 0.0

    def __enter__(self):
        total = math.ceil(sum(self.expected.values()))
        self.bar = tqdm(total=total, bar_format=self.FORM, mininterval=0.5, smoothing=0)  # the mean speed, not the last
        return self

    def __exit__(self, kind, *rest):
        if kind is None:
            self.bar.update(self.bar.total - self.bar.n)
        self.bar.close()

    def notebook(self, path: Path):
        """Start of one notebook; use as a context, so that its share is complete at the end."""
        self.path, self.shown = path, 0.0
        self.bar.set_description(path.stem)
        return self._Share(self)

    class _Share:
        def __init__(self, progress):
            self.progress = progress

        def __enter__(self):
            return self

        def __exit__(self, kind, *rest):
            if kind is None:
                self.progress.tick(0, 1)

    def tick(self, cell: int, n_cells: int) -> None:
        """A cell is done."""
        share = self.expected[self.path] * (cell + 1) / n_cells
        self.bar.update(max(0.0, share - self.shown))
        self.shown = max(share, self.shown)
        if self.measured and self.bar.n > self.WARM * self.bar.total:
            self.bar.bar_format = self.FORM + ", about {remaining} left"

    def say(self, text: str) -> None:
        """One line, `text`, above the bar."""
        if text:
            self.bar.write(text)

    def skip(self, path: Path, why: str = "nothing changed, kept") -> None:
        """A notebook that is not run, and `why`: its time leaves the total."""
        self.bar.total = max(self.bar.total - self.expected[path], 1)
        self.bar.write(f"{path.stem}: {why}")


def _expected_seconds(path: Path, record: dict) -> float:
    """From the last run, otherwise from the notebook's own `**Time**` line, otherwise a minute."""
    if entry := record["notebooks"].get(path.stem):
        return entry["wall_s"]
    stated = re.search(r"\*\*Time\*\*\s+([\d.]+)\s+(min|s)", path.read_text(encoding="utf-8"))
    return float(stated[1]) * (60 if stated[2] == "min" else 1) if stated else 60.0
