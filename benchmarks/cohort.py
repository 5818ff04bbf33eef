"""How fast cohorts and tables are written and read, and whether memory stays put as a cohort grows.

`python benchmarks/cohort.py [--json FILE] [--images N]`. Images per second of CPU time, writing as floats that are
checked and hashed; beside them what people do otherwise: `numpy.save` of everything at once (no check, all in memory)
and a folder of PNG files. Memory is the peak of a fresh process above what its imports take (Linux only).
"""

import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from report import Report, parser
from scipy.ndimage import gaussian_filter

from fairrecon_core.cohort.folder import load_cohort, write_cohort
from fairrecon_core.tables import read_table, with_defaults, write_table

BATCH = 64


def items(n_images: int, size: int, modality: str):
    """Smooth random images and their rows, 4 images a patient; from a pool, so that making them costs nothing."""
    pool = gaussian_filter(np.random.default_rng(0).random((16, size, size), dtype=np.float32), (0, 2, 2))
    for i in range(n_images):
        row = {"image_id": f"i{i:06}", "patient_id": f"p{i // 4:06}", "modality": modality, "sex": "female"}
        row |= {"age_years": 40.0 + i % 7, "race": "white"} | {f"y_task{k}": float((i + k) % 2) for k in range(12)}
        yield pool[i % 16], row


def seconds(action) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    action()
    return time.process_time() - start


def throughput(report: Report, folder: Path, size: int, modality: str, n_images: int) -> None:
    """Rows of one image size: writing, opening, reading in batches and at random, and the peers."""
    name = f"{modality}, {size} px"
    written = seconds(lambda: write_cohort(folder, items(n_images, size, modality), name="bench", seed=1))
    report.row(f"write, {name}", n_images / written, "images/s", ">= 1000", n_images / written >= 1000)
    report.row(f"open, {name}, {n_images} images", 1e3 * seconds(lambda: load_cohort(folder)), "ms")
    cohort = load_cohort(folder)
    rows = np.random.default_rng(1).permutation(n_images)
    for order, picked in (("first, in order,", np.arange(n_images)), ("again, at random,", rows)):
        spent = seconds(
            lambda picked=picked: [cohort.images_at(picked[i : i + BATCH]) for i in range(0, n_images, BATCH)]
        )
        report.row(
            f"read {order} by {BATCH}, {name}", n_images / spent, "images/s", ">= 1000", n_images / spent >= 1000
        )
    spent = seconds(
        lambda: np.save(folder / "peer.npy", np.stack([image for image, _ in items(n_images, size, modality)]))
    )
    report.row(f"peer: numpy.save of all as float32, {name}", n_images / spent, "images/s")
    if modality == "xray":
        png(report, folder, name, cohort)


def png(report: Report, folder: Path, name: str, cohort) -> None:
    """The same images as a folder of PNG files."""
    paths = [folder / f"{i}.png" for i in range(min(len(cohort), 500))]
    spent = seconds(lambda: [Image.fromarray(cohort.images[i]).save(path) for i, path in enumerate(paths)])
    report.row(f"peer: write PNG files, {name}", len(paths) / spent, "images/s")
    spent = seconds(lambda: [np.asarray(Image.open(path), dtype=np.float32) / 255 for path in paths])
    report.row(f"peer: read PNG files, {name}", len(paths) / spent, "images/s")


def peak_mb(n_images: int, results) -> None:
    """Peak memory of writing a 256-pixel cohort above that of the imports (MB)."""
    before = high_water_kb()
    with tempfile.TemporaryDirectory() as folder:
        write_cohort(folder, items(n_images, 256, "xray"), name="bench", seed=1)
    results.put((high_water_kb() - before) / 1024)


def high_water_kb() -> int:
    """Peak resident memory of this process (KB). Not `getrusage`: that counts the parent's memory in."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0])


def memory(report: Report, n_images: int) -> None:
    """Peak memory at 1x and 4x the images, each in a fresh process."""
    context, peaks = multiprocessing.get_context("spawn"), []
    for factor in (1, 4):
        results = context.Queue()
        process = context.Process(target=peak_mb, args=(factor * n_images, results))
        process.start()
        peaks.append(results.get())
        process.join()
        report.row(f"memory to write {factor * n_images} images of 256 px", peaks[-1], "MB")
    growth = 1024 * (peaks[1] - peaks[0]) / (3 * n_images)
    report.row("memory per further image (64 KB of pixels on disk)", growth, "KB", "<= 6.4", growth <= 6.4)


def tables(report: Report, folder: Path, n_rows: int = 540_000) -> None:
    """One arm at paper size: 45 000 images, 12 findings."""
    frame = pd.DataFrame({"image_id": [f"image{i // 12:06}" for i in range(n_rows)]})
    frame["task"], frame["score"] = [f"task{i % 12}" for i in range(n_rows)], np.random.default_rng(0).random(n_rows)
    frame = with_defaults("predictions", frame.assign(cohort="chest", arm="unet", level=10_000))
    spent = seconds(lambda: write_table(folder, "predictions", frame))
    report.row(f"check and write {n_rows} predictions", spent, "s", "<= 5", spent <= 5)
    spent = seconds(lambda: read_table(folder, "predictions", arm="unet", level=10_000))
    report.row(f"read and check {n_rows} predictions", spent, "s", "<= 5", spent <= 5)
    size = next((folder / "tables" / "predictions").iterdir()).stat().st_size
    report.row("size on disk", size / n_rows, "bytes/row")


def main() -> int:
    """Run everything; 1 if a stated goal was missed."""
    options = parser(__doc__)
    options.add_argument("--images", type=int, default=2000, help="images per cohort (default 2000)")
    arguments = options.parse_args()
    report = Report("cohort")
    for modality, size in (("xray", 128), ("xray", 256), ("mri", 128), ("mri", 256)):
        with tempfile.TemporaryDirectory() as folder:
            throughput(report, Path(folder), size, modality, arguments.images)
    memory(report, arguments.images)
    with tempfile.TemporaryDirectory() as folder:
        tables(report, Path(folder))
    return 0 if report.finish(arguments.json) else 1


if __name__ == "__main__":
    sys.exit(main())
