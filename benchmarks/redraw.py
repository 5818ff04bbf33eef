"""How long a slider takes: from a new value to a new picture, in CPU seconds of the kernel.

    python benchmarks/redraw.py [--json FILE]

The browser adds 0.1 to 0.2 s. Goals: below 0.3 s at 128 px, 0.6 s at 256 px. The explorer is timed as it is without
trained weights, at 128 px, each view seen for the first time.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import torch
from report import Report

from fairrecon_core.degrade import degradation
from fairrecon_core.settings import load_settings
from fairrecon_core.steps.folder import Run
from fairrecon_lab.explorer import explorer
from fairrecon_lab.plots import canvas, draw_difference, draw_image
from fairrecon_lab.simulate import simulate
from fairrecon_lab.widgets import slider_image


def redraw(control, rounds: int = 2) -> float:
    """Median CPU seconds of setting a control to each of its values, the first round left out."""
    values = [option[1] if isinstance(option, tuple) else option for option in control.options]
    seconds = []
    for turn in range(rounds + 1):
        for value in values:
            began = time.process_time()
            control.value = value
            if turn:
                seconds.append(time.process_time() - began)
    return statistics.median(seconds)


def degraded_slider(modality: str, size: int):
    """Image, degraded image and error behind a slider, as notebooks 02 and 03 have it."""
    image = next(iter(simulate("brain" if modality == "mri" else "chest", 1, size=size)))[0]
    how = degradation(modality)

    def draw(level):
        shown = how(image, level, "shown")
        figure, axes = canvas(9, 3.2, 1, 3)
        draw_image(axes[0], image, "clean")
        draw_image(axes[1], shown, "degraded")
        draw_difference(axes[2], shown - torch.as_tensor(image), "error", limit=0.3)
        return figure

    return slider_image(draw, level=[4, 8, 16] if modality == "mri" else [100_000, 10_000, 3_000]).controls["level"]


def main():
    """Time every slider and report."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--json", default="", help="write the figures to this file")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    report = Report("redraw")
    for modality in ("mri", "xray"):
        for size, goal in ((128, 0.3), (256, 0.6)):
            seconds = redraw(degraded_slider(modality, size))
            report.row(f"{modality} slider, {size} px", seconds, "s", goal=f"<= {goal}", holds=seconds <= goal)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder), load_settings("tutorial", seed=1))
        run.example = run.folder / "nothing"
        for modality, column in explorer(run).columns.items():
            redraw(column.controls["level"], rounds=1)  # tunes the classical arm, once per level
            seconds = first_views(column)
            report.row(f"explorer {modality}, 128 px", seconds, "s", goal="<= 0.3", holds=seconds <= 0.3)
    report.finish(chosen.json)


def first_views(column) -> float:
    """Median CPU seconds of showing another patient for the first time."""
    seconds = []
    for _, patient in list(column.controls["patient"].options)[1:9]:
        began = time.process_time()
        column.controls["patient"].value = patient
        seconds.append(time.process_time() - began)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
