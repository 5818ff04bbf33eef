"""What the profile `paper` costs at its own size: seconds an image of each kind of work, rows, MB, hours on GPUs.

Units are measured in the run, in the paper's settings, on a few images of noise; hours are units times numbers of
images. Without a GPU they are CPU seconds of one core (`time.process_time`, so other work on the machine is not
counted), nothing about a GPU is measured, and hours on GPUs are printed only for a stated `--gpu-speedup`, as assumed.
Where torchxrayvision is not installed, torchvision's DenseNet-121 with one input channel stands in; it has its layers.

    python benchmarks/paper_size.py [--images 2] [--size 256] [--cohort chexpert] [--gpu-speedup N] [--json FILE]
    python benchmarks/paper_size.py --rows [--scale 0.25 1]      the tables' path at that size, see paper_rows.py
"""

import importlib.util
import os
import sys
import time
import types
from pathlib import Path

import pandas as pd
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from report import Report, parser

from fairrecon_core.reconstruct import arm_class
from fairrecon_core.settings import Settings, load_settings
from fairrecon_lab.engine import plan
from fairrecon_lab.engine.room import gigabytes

SIZES = {  # images: 224 316 films, 70/10/20, then 70/30; 501 scans of 71 slices, 70/10/20
    "ucsf_pdgm": {"modality": "mri", "size": 256, "train": 24_850, "validation": 3_550, "test": 7_171,
                  "read_train": 24_850, "folds": 1, "tasks": 2, "masks": True},
    "chexpert": {"modality": "xray", "size": 256, "train": 109_900, "validation": 15_700, "test": 45_000,
                 "read_train": 47_100, "folds": 1, "tasks": 12, "masks": False},
}  # fmt: skip
GPUS = (1, 8)
GOAL_HOURS = 24


def stand_in() -> None:
    """Let `xrv_densenet` be torchvision's DenseNet-121 where torchxrayvision is not installed, and say so."""
    if importlib.util.find_spec("torchxrayvision"):
        return
    from torchvision import models

    def densenet(num_classes: int, in_channels: int, weights) -> nn.Module:
        net = models.densenet121(num_classes=num_classes)
        net.features.conv0 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        return net

    made = types.ModuleType("torchxrayvision")
    made.models = types.SimpleNamespace(DenseNet=densenet)  # type: ignore[attr-defined]
    sys.modules["torchxrayvision"] = made
    print("xrv_densenet: torchvision's DenseNet-121 stands in, torchxrayvision is not installed")


def on_gpu(kind: str, what: str) -> bool:
    """Whether a GPU does a kind of work: networks and LPIPS; filters, and the other measures, are the CPU's."""
    if kind == "images":
        return what == "degraded" or arm_class(what).learns  # degrading: in the physical modes
    return kind != "other quality"


def rows_of(settings: Settings, sizes: dict) -> dict[str, int]:
    """Rows of the tables of quality and predictions, clean images and controls included."""
    found = {"quality": 0, "predictions": 0, "overlap": 0}
    for of in sizes.values():
        arms, levels = (*settings.classical, *settings.arms), settings.levels(of["modality"])
        images = sum(plan.shown(settings, of, level, arm) for arm in arms for level in levels)
        read = images + 3 * of["test"] + of["validation"]  # clean and two controls; clean validation images
        found["quality"] += images
        found["predictions"] += read * of["tasks"]
        found["overlap"] += read if of["modality"] == "mri" else 0
    return found


def hours(report: Report, table: pd.DataFrame, speedup: float, cores: int, measured_on_gpu: bool) -> None:
    """Hours of everything in `table` on one core, or on GPUs with so many `cores` beside each."""
    gpu = pd.Series([on_gpu(kind, what) for kind, what in zip(table["kind"], table["what"])], index=table.index)
    on, beside = table.loc[gpu, "hours"].sum(), table.loc[~gpu, "hours"].sum()
    if not measured_on_gpu:
        report.row("everything, on one core", on + beside, "h")
        report.row("of it: what stays the CPU's (filters, SSIM)", beside, "h")
        if not speedup:
            print(
                "hours on GPUs: NOT MEASURED, there is no GPU here (--gpu-speedup N prints them for an assumed speed)"
            )
            return
        print(f"ASSUMED, not measured: a GPU does networks, LPIPS and degradation {speedup:g} times as fast as a core")
    for n in GPUS:
        total = (on / (1 if measured_on_gpu else speedup) + beside / cores) / n
        said = "" if measured_on_gpu else ", assumed"
        goal = {"goal": f"< {GOAL_HOURS}", "holds": total < GOAL_HOURS} if n == 1 and measured_on_gpu else {}
        report.row(f"everything, {n} GPU{'s' * (n > 1)} with {cores} cores each{said}", total, "h", **goal)


def main() -> int:
    """Measure units, print the table and the totals; 1 if a stated goal was missed."""
    options = parser(__doc__.split("\n")[0])
    options.add_argument("--images", type=int, default=2, help="images that each kind of work is timed on")
    options.add_argument("--size", type=int, default=0, help="pixels on a side, in place of the paper's 256")
    options.add_argument("--cohort", nargs="+", default=list(SIZES), choices=list(SIZES))
    assumed = "ASSUME that a GPU is N times as fast as a core; nothing is assumed if left out"
    options.add_argument("--gpu-speedup", type=float, default=0, metavar="N", help=assumed)
    options.add_argument("--cores", type=int, default=os.cpu_count(), help="CPU cores beside each GPU")
    options.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="settings in place of the paper's")
    options.add_argument("--rows", action="store_true", help="the tables' path at that size, in place of the units")
    options.add_argument("--scale", nargs="+", type=float, default=[0.25, 1.0], help="with --rows: shares of the films")
    given = options.parse_args()
    report = Report("paper_size")
    if given.rows:
        from paper_rows import measure

        measure(report, given.scale)
        return 0 if report.finish(given.json) else 1
    stand_in()
    torch.manual_seed(1)
    settings = load_settings("paper", **dict(pair.split("=", 1) for pair in given.set))
    sizes = {name: SIZES[name] | ({"size": given.size} if given.size else {}) for name in given.cohort}
    is_gpu = torch.cuda.is_available()
    plan.FEW, plan.clock = given.images, time.perf_counter if is_gpu else time.process_time
    table = plan.costs(settings, sizes)
    device = torch.cuda.get_device_name() if is_gpu else "one CPU core"
    print(f"seconds an image, {next(iter(sizes.values()))['size']} px, measured on {given.images} images on {device}")
    units = table.groupby(["cohort", "kind", "what"], sort=False).agg(
        unit=("unit_s", "mean"), images=("images", "sum"), hours=("hours", "sum")
    )
    for (cohort, kind, what), row in units.iterrows():
        if kind not in ("reading", "LPIPS", "other quality") or what == "degraded":  # the same for every arm
            report.row(f"{cohort}: {kind}{'' if kind in ('reading', 'LPIPS', 'other quality') else ' ' + what}",
                       row["unit"], "s/image")  # fmt: skip
    for kind, part in table.groupby("kind", sort=False):
        report.row(f"{kind}: {part['images'].sum():,} images", part["hours"].sum(), "h here")
    for name, n in rows_of(settings, sizes).items():
        report.row(f"rows of {name}", n / 1e6, "million")
    for name, size in gigabytes(settings, sizes).items():
        report.row(f"disk: {name}", size * 1000, "MB")
    hours(report, table, given.gpu_speedup, given.cores, is_gpu)
    return 0 if report.finish(given.json) else 1


if __name__ == "__main__":
    sys.exit(main())
