"""MRI degradation: our masks and zero-filled images beside the usual formulations, CPU time on one thread.

Compared with: a mask built sample by sample in Python, as published code does for every image; the textbook chain of
centred transforms that moves the data four times; and a true radial acquisition (finufft, if installed) reconstructed
by conjugate gradients. Methods alternate in one process; figures are medians, ratios come from the same run.

    python benchmarks/degrade_mri.py [--json FILE]
"""

import importlib.util
import os

for library in ("OMP", "MKL", "OPENBLAS"):
    os.environ[f"{library}_NUM_THREADS"] = "1"

import math
import sys
import time
from statistics import median

import numpy as np
import torch
from report import Report, parser
from skimage.data import camera, shepp_logan_phantom
from skimage.transform import resize

from fairrecon_core.degrade import mri

SIZE, IDS = 256, range(64)


def alternate(jobs: dict, rounds: int = 15, repeat: dict | None = None) -> dict[str, float]:
    """Median CPU time in ms of each job, taken in turns so that a busy machine treats all alike.

    `repeat` runs a short job several times in its turn, so that it is as warm as the long ones.
    """
    repeat = repeat or {}
    times = {name: [] for name in jobs}
    for _ in range(rounds + 1):
        for name, job in jobs.items():
            start = time.process_time()
            for _ in range(repeat.get(name, 1)):
                job()
            times[name].append(1000 * (time.process_time() - start) / repeat.get(name, 1))
    return {name: median(values[1:]) for name, values in times.items()}  # the first round warms up


def mask_by_loop(size: int, n_half_spokes: int) -> np.ndarray:
    """Published procedure: half-lines from the centre, one sample at a time, coordinates cut to integers."""
    mask = np.zeros((size, size), dtype=np.float32)
    for angle in np.linspace(0, 2 * np.pi, n_half_spokes, endpoint=False):
        for radius in range(size // 2):
            column, row = int(size // 2 + radius * np.cos(angle)), int(size // 2 + radius * np.sin(angle))
            if 0 <= column < size and 0 <= row < size:
                mask[row, column] = 1
    return mask


def four_shifts(images: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Textbook chain on complex images: shift, transform, shift, mask, and back."""
    kspace = torch.fft.fftshift(torch.fft.fft2(torch.fft.ifftshift(images, (-2, -1)), norm="ortho"), (-2, -1))
    image = torch.fft.ifft2(torch.fft.ifftshift(kspace * mask, (-2, -1)), norm="ortho")
    return torch.fft.fftshift(image, (-2, -1)).abs()


def masks(report: Report) -> None:
    """Building one mask, and asking for it again, against the loop."""
    for acceleration, n_half_spokes in ((4, 140), (8, 60), (16, 32)):
        for order in ("published", "golden"):
            count = mri.spokes_for(SIZE, acceleration, order)
            times = alternate(
                {
                    "loop": lambda n=n_half_spokes: mask_by_loop(SIZE, n),
                    "built": lambda n=count, o=order: mri._cached_mask.__wrapped__(SIZE, n, o),
                    "again": lambda n=count, o=order: mri.radial_mask(SIZE, n, o),
                },
                repeat={"built": 20, "again": 20},
            )
            head = f"{order} mask, R = {acceleration}"
            report.row(f"{head}: build", times["built"], "ms")
            report.row(
                f"{head}: loop / build",
                times["loop"] / times["built"],
                "x",
                ">= 30",
                times["loop"] >= 30 * times["built"],
            )
            report.row(f"{head}: loop / every further image", times["loop"] / times["again"], "x")
    same = np.array_equal(mask_by_loop(SIZE, 60) > 0, mri.radial_mask(SIZE, 60, "published").numpy())
    report.row("published mask equals the loop's", same, "", "== 1", same)


def chain(report: Report) -> None:
    """Zero-filled images of a batch, checks included, against the four-shift chain."""
    for size in (128, 256):
        for batch in (1, 16, 64):
            images = torch.rand(batch, size, size, generator=torch.Generator().manual_seed(0))
            for mode, order in (("physical", "golden"), ("published", "published")):
                mask = mri.radial_mask(size, mri.spokes_for(size, 8, order), order)
                subject = mri.RadialMRI(mode)
                jobs = {
                    "ours": lambda s=subject, x=images, n=batch: s(x, 8, IDS[:n]),
                    "textbook": lambda x=images, m=mask: four_shifts(x.to(torch.complex64), m),
                    "measure": lambda s=subject, x=images, n=batch: s.measure(x, 8, IDS[:n]),
                }
                times = alternate(jobs)
                head = f"{mode}, {size} px, batch {batch}"
                report.row(f"{head}: ours", times["ours"] / batch, "ms/image")
                report.row(f"{head}: textbook / ours", times["textbook"] / times["ours"], "x")
                report.row(f"{head}: ours with its k-space", times["measure"] / batch, "ms/image")
                error = float((jobs["ours"]() - jobs["textbook"]().clamp(0, 1)).abs().max())
                report.row(f"{head}: largest difference", error, "", "<= 1e-6", error <= 1e-6)


def true_spokes(report: Report) -> None:
    """What rounding spokes to the grid costs, and how long the honest way takes."""
    if importlib.util.find_spec("finufft") is None:
        print("true radial sampling: skipped, needs finufft")
        return
    from fairrecon_lab.analysis import nufft

    y, x = np.indices((SIZE, SIZE)) - SIZE // 2
    scenes = {
        "head phantom": resize(shepp_logan_phantom(), (SIZE, SIZE), anti_aliasing=True),
        "camera": resize(camera() / 255, (SIZE, SIZE), anti_aliasing=True) * (np.hypot(x, y) < 0.45 * SIZE),
    }
    for name, image in scenes.items():
        image = np.clip(image, 0, 1).astype(np.float32)
        psnr_db = lambda shown, truth=image: -10 * math.log10(np.mean((np.clip(np.abs(shown), 0, 1) - truth) ** 2))
        for acceleration in (4, 8, 16):
            positions = nufft.spoke_positions(SIZE, mri.spokes_for(SIZE, acceleration))
            start = time.process_time()
            samples = nufft.sample(image, positions)
            sampled = time.process_time()
            fitted = nufft.least_squares(samples, positions, SIZE, iterations=10)
            head = f"{name}, R = {acceleration}"
            report.row(f"{head}: grid mask", psnr_db(mri.undersample(image, acceleration).numpy()), "dB")
            report.row(f"{head}: true spokes, conjugate gradients", psnr_db(fitted), "dB")
            report.row(
                f"{head}: true spokes, ramp weights", psnr_db(nufft.ramp_adjoint(samples, positions, SIZE)), "dB"
            )
            report.row(f"{head}: sampling", 1000 * (sampled - start), "ms")
            report.row(f"{head}: fitting", 1000 * (time.process_time() - sampled), "ms")


if __name__ == "__main__":
    arguments = parser(__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    report = Report("degrade_mri")
    masks(report)
    chain(report)
    true_spokes(report)
    sys.exit(not report.finish(arguments.json))
