"""How fast real data become cohorts, and whether memory stays put as the images grow in number.

`python benchmarks/conversion.py [--json FILE] [--data FOLDER]`. Reading, decoding, scaling, checking, hashing and
writing, in one process: images per second of CPU time (goals), and of wall time. TCGA-LGG is read from its zip as it
lies in FOLDER and from a copy compressed like Kaggle's; ChestX-ray14 from a folder of 64-pixel PNG files. Beside them
the floor: decoding the same files with Pillow and doing nothing. Where FOLDER is absent, made-up files of the same
form are read. Memory is the peak of a fresh process above what its imports take, at 1x and 4x the images (Linux
only).
"""

import contextlib
import importlib
import io
import multiprocessing
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image
from report import Report, parser

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "data_scripts"))

import nih_cxr14
import tcga_lgg

N_PATIENTS = 25  # of TCGA-LGG, about 500 slices


def encoded(pixels, form: str) -> bytes:
    """An image file of an array."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def make_lgg(path: Path, n_patients: int, n_slices: int = 20, size: int = 256) -> Path:
    """A zip in the layout of TCGA-LGG, smooth films with a square tumour."""
    ramp = np.add.outer(np.arange(size), np.arange(size)) % 251
    header = ",".join(tcga_lgg.COLUMNS)
    lines = [f"TCGA_CS_{i:04},1,1,1,40,3,2,1" for i in range(n_patients)]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("kaggle_3m/data.csv", "\n".join([header, *lines]))
        for i in range(n_patients):
            case = f"TCGA_CS_{i:04}_19990101"
            for k in range(1, n_slices + 1):
                film = np.repeat(((ramp + 3 * k + i) % 251).astype(np.uint8)[..., None], 3, axis=2)
                mask = np.zeros((size, size), np.uint8)
                mask[size // 4 : size // 3, size // 4 : size // 3] = 255
                archive.writestr(f"kaggle_3m/{case}/{case}_{k}.tif", encoded(film, "TIFF"))
                archive.writestr(f"kaggle_3m/{case}/{case}_{k}_mask.tif", encoded(mask, "TIFF"))
    return path


def make_nih(folder: Path, n_images: int, size: int = 64) -> Path:
    """A folder in the layout of ChestX-ray14, noise of 64 pixels a side, four images a patient."""
    (folder / "images").mkdir(parents=True)
    rng, lines = np.random.default_rng(0), [",".join([*nih_cxr14.COLUMNS, "Patient Gender"])]
    pool = [encoded(rng.integers(0, 255, (size, size), dtype=np.uint8), "PNG") for _ in range(16)]
    for i in range(n_images):
        name = f"{i // 4 + 1:08}_{i % 4:03}.png"
        (folder / "images" / name).write_bytes(pool[i % 16])
        lines.append(f"{name},Effusion|Mass,{i // 4 + 1},{40 + i % 7},PA,F")
    (folder / "Data_Entry_2017_v2020.csv").write_text("\n".join(lines))
    return folder


def converted(script, source: Path, *options) -> tuple[int, float, float]:
    """Number of images, CPU seconds and wall seconds of one conversion without its words."""
    silence = io.StringIO()
    with (
        tempfile.TemporaryDirectory() as out,
        contextlib.redirect_stdout(silence),
        contextlib.redirect_stderr(silence),
    ):
        cpu, wall = time.process_time(), time.perf_counter()
        cohort = script.main([str(source), out, *map(str, options)])
        return len(cohort), time.process_time() - cpu, time.perf_counter() - wall


def throughput(report: Report, name: str, script, source: Path, goal: float, *options) -> None:
    """Rows of one conversion."""
    n_images, cpu, wall = converted(script, source, *options)
    goal_text = f">= {goal:g}" if goal else ""
    report.row(f"{name}, CPU time", n_images / cpu, "images/s", goal_text, n_images / cpu >= goal if goal else None)
    report.row(f"{name}, wall time", n_images / wall, "images/s")


def repacked(archive: Path, out: Path) -> Path:
    """The first patients of the LGG zip, compressed like Kaggle's."""
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        cases = sorted({name.split("/")[1] for name in old.namelist() if name.endswith(".tif")})[:N_PATIENTS]
        for name in old.namelist():
            if name.endswith(".csv") or name.split("/")[1] in cases:
                new.writestr(name, old.read(name))
    return out


def floor(report: Report, name: str, files: list[bytes]) -> None:
    """Decoding alone."""
    start = time.process_time()
    for data in files:
        Image.open(io.BytesIO(data)).load()
    report.row(f"floor: decode {name}, CPU time", len(files) / (time.process_time() - start), "files/s")


def peak_mb(name, source, options, results) -> None:
    """Peak memory of one conversion by the script `name` above that of the imports (MB)."""
    script = importlib.import_module(name)
    converted(script, source, *options, "--patients", 2)  # what is loaded once
    before = high_water_kb()
    converted(script, source, *options)
    results.put((high_water_kb() - before) / 1024)


def high_water_kb() -> int:
    """Peak resident memory of this process (KB). Not `getrusage`: that counts the parent's memory in."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0])


def memory(report: Report, name: str, script, sources: dict[int, Path], *options) -> None:
    """Peak memory at the numbers of images in `sources`, each in a fresh process, and growth per image."""
    context, peaks = multiprocessing.get_context("spawn"), []
    for n_images, source in sources.items():
        results = context.Queue()
        process = context.Process(target=peak_mb, args=(script.__name__, source, options, results))
        process.start()
        peaks.append(results.get())
        process.join()
        report.row(f"memory, {name}, {n_images} images", peaks[-1], "MB")
    fewer, more = sources
    growth = 1024 * (peaks[1] - peaks[0]) / (more - fewer)
    report.row(f"memory, {name}, per further image", growth, "KB", "<= 6.4", growth <= 6.4)


def speed(report: Report, data: Path, scratch: Path) -> None:
    """Rows of both sources, and of decoding alone."""
    lgg, nih = data / "tcga_lgg" / "lgg-mri-segmentation.zip", data / "nih_cxr14"
    if lgg.exists():
        throughput(report, "tcga_lgg, zip as shared (LZMA)", tcga_lgg, lgg, 150, "--patients", N_PATIENTS)
        deflated = repacked(lgg, scratch / "deflated.zip")
    else:
        deflated = make_lgg(scratch / "deflated.zip", N_PATIENTS)
    throughput(report, "tcga_lgg, zip as Kaggle's (deflate)", tcga_lgg, deflated, 150, "--patients", N_PATIENTS)
    nih = nih if nih.exists() else make_nih(scratch / "nih", 1000)
    throughput(report, "nih_cxr14, 64 px to 64 px", nih_cxr14, nih, 200, "--size", 64)
    throughput(report, "nih_cxr14, 64 px to 256 px", nih_cxr14, nih, 0, "--size", 256)
    floor(report, "64 px PNG", [path.read_bytes() for path in sorted((nih / "images").glob("*.png"))])
    with zipfile.ZipFile(deflated) as archive:
        floor(report, "LGG films and masks", [archive.read(n) for n in archive.namelist() if n.endswith(".tif")])


def main() -> int:
    """Run everything, or one section; 1 if a stated goal was missed."""
    options = parser(__doc__)
    options.add_argument("--data", type=Path, default=ROOT / "../shared/data", help="folder of the real data")
    options.add_argument("--only", choices=("speed", "memory"), help="one section")
    arguments = options.parse_args()
    report = Report("conversion")
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        if arguments.only != "memory":
            speed(report, arguments.data, scratch)
        if arguments.only != "speed":
            sources = {n: make_nih(scratch / f"nih{n}", n) for n in (1500, 6000)}
            memory(report, "nih_cxr14, 256 px", nih_cxr14, sources)
            sources = {20 * n: make_lgg(scratch / f"lgg{n}.zip", n, size=64) for n in (40, 160)}
            memory(report, "tcga_lgg, 256 px", tcga_lgg, sources)
    return 0 if report.finish(arguments.json) else 1


if __name__ == "__main__":
    sys.exit(main())
