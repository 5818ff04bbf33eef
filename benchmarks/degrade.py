"""X-ray degradation beside scikit-image, ASTRA and deepinv: CPU time per image on one thread, accuracy, peak memory.

All methods run in one process and take turns; a figure is the median of the turns. Accuracy is against the exact line
integrals of the (modified) Shepp-Logan phantom, memory of a process of its own. ASTRA (`astra-toolbox`) and deepinv are
needed for their rows only. The GPU part runs where there is one.
"""

import importlib
import math
import os
import statistics
import subprocess
import sys
import time

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"

import numpy as np
import torch
from report import Report, parser
from skimage.transform import iradon
from skimage.transform import radon as skimage_radon

from fairrecon_core.degrade.radon import CHUNK, fbp, radon
from fairrecon_core.degrade.xray import poisson
from fairrecon_lab.analysis.short_forms import low_dose

DOSES = [100_000, 10_000, 3_000]
# density, half axes, centre (right, up), rotation in degrees (Toft's contrast)
SHEPP_LOGAN = [
    (1, 0.69, 0.92, 0, 0, 0), (-0.8, 0.6624, 0.874, 0, -0.0184, 0), (-0.2, 0.11, 0.31, 0.22, 0, -18),
    (-0.2, 0.16, 0.41, -0.22, 0, 18), (0.1, 0.21, 0.25, 0, 0.35, 0), (0.1, 0.046, 0.046, 0, 0.1, 0),
    (0.1, 0.046, 0.046, 0, -0.1, 0), (0.1, 0.046, 0.023, -0.08, -0.605, 0), (0.1, 0.023, 0.023, 0, -0.606, 0),
    (0.1, 0.023, 0.046, 0.06, -0.605, 0),
]  # fmt: skip


def phantom(size: int, centre: float, fine: int = 8) -> np.ndarray:
    """Area-averaged picture (size, size) whose middle lies at pixel `centre`."""
    at = (np.arange(size * fine) + 0.5) / fine - 0.5 - centre
    right, up = np.meshgrid(at / (size // 2 - 1), -at / (size // 2 - 1))
    image = np.zeros((size * fine,) * 2, np.float32)
    for density, a, b, x, y, turn in SHEPP_LOGAN:
        c, s = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        u, v = right - x, up - y
        image += density * (((u * c + v * s) / a) ** 2 + ((v * c - u * s) / b) ** 2 <= 1)
    return image.reshape(size, fine, size, fine).mean((1, 3))


def exact_sinogram(size: int, bins: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """Line integrals in pixels at detector positions `bins` (from the axis), angles in radians."""
    radius, total = size // 2 - 1, 0
    for density, a, b, x, y, turn in SHEPP_LOGAN:
        gamma = theta - math.radians(turn)
        reach2 = (a * np.cos(gamma)) ** 2 + (b * np.sin(gamma)) ** 2
        offset = bins[:, None] / radius - x * np.cos(theta) - y * np.sin(theta)
        total = total + 2 * density * a * b * radius / reach2 * np.sqrt(np.maximum(reach2 - offset**2, 0))
    return total


def ours(size, n_views, images):
    return lambda: fbp(radon(images, n_views), size)


def scikit_image(size, n_views, images):
    theta = np.arange(n_views) * 180 / n_views
    back = lambda sinogram: iradon(sinogram, theta, circle=False, output_size=size)
    return lambda: [back(skimage_radon(image, theta, circle=False)) for image in images.numpy()]


def astra_toolbox(size, n_views, images):
    astra = importlib.import_module("astra")
    n_detectors = math.ceil(math.sqrt(2) * size)
    rays = astra.create_proj_geom("parallel", 1.0, n_detectors, np.arange(n_views) * np.pi / n_views)
    volume = astra.create_vol_geom(size, size)
    projector = astra.create_projector("linear", rays, volume)

    def one(image):
        sinogram_id, _ = astra.create_sino(image, projector)
        image_id = astra.data2d.create("-vol", volume)
        how = astra.astra_dict("FBP")
        how |= {"ProjectorId": projector, "ProjectionDataId": sinogram_id, "ReconstructionDataId": image_id}
        how["option"] = {"FilterType": "ram-lak"}
        algorithm = astra.algorithm.create(how)
        astra.algorithm.run(algorithm)
        found = astra.data2d.get(image_id)
        astra.algorithm.delete(algorithm)
        astra.data2d.delete([sinogram_id, image_id])
        return found

    return lambda: [one(image) for image in images.numpy()]


def deep_inverse(size, n_views, images):
    deepinv = importlib.import_module("deepinv")
    theta = torch.arange(n_views) * 180 / n_views
    physics = deepinv.physics.Tomography(theta, img_width=size, circle=False, normalize=False)
    return lambda: physics.fbp(physics.A(images[:, None]))


PEERS = {"scikit-image": scikit_image, "ASTRA": astra_toolbox, "deepinv": deep_inverse}


def take_turns(methods: dict, turns: int) -> dict:
    """Median CPU time in ms per image; `methods` maps a name to (function, images per call)."""
    spent = {name: [] for name in methods}
    for turn in range(turns + 1):  # the first warms up
        for name, (method, n) in methods.items():
            start = time.process_time()
            method()
            spent[name] += [(time.process_time() - start) / n * 1e3] if turn else []
    return {name: statistics.median(times) for name, times in spent.items()}


def beside_peers(report, size, n_views, batch, turns, goals):
    images = torch.rand(batch, size, size)
    methods = {"ours": (ours(size, n_views, images), batch)}
    for name in goals:
        try:
            few = images[: 2 if name == "deepinv" else 1]
            methods[name] = (PEERS[name](size, n_views, few), len(few))
        except ImportError as error:
            print(f"skipped {name}: {error}")
    spent = take_turns(methods, turns)
    report.row(f"radon + FBP, {size} px, {n_views} views: ours, batch {batch}", spent["ours"], "ms/image")
    for name in list(methods)[1:]:
        least, aim = goals[name]
        ratio = spent[name] / spent["ours"]
        report.row(f"  {name} takes", spent[name], "ms/image")
        report.row(f"  {name} / ours", ratio, "x", f">= {least} (aim {aim})", ratio >= least)


def low_dose_chain(report, size=256, batch=32, turns=5):
    images, names = torch.rand(batch, size, size), [str(i) for i in range(batch)]
    theta, rng = np.arange(size) * 180 / size, np.random.default_rng(0)
    arm = np.linspace(0.05, 1, size // 2)
    profile = np.concatenate([arm[::-1], arm])

    def published_script():
        sinogram = skimage_radon(images[0].numpy(), theta, circle=False) * profile
        peak = sinogram.max()
        noisy = rng.poisson(sinogram / peak * 10_000) / 10_000 * peak
        image = iradon(noisy, theta, filter_name="hann", circle=False)
        return (image - image.min()) / (image.max() - image.min())

    chain = lambda count, **more: lambda: low_dose(images, count, image_ids=names, **more)
    four = lambda: low_dose(images[:4], 10_000, "published", image_ids=names[:4])
    spent = take_turns(
        {
            "script": (published_script, 1),
            "one, exact": (chain(10_000), batch),
            "one, fast": (chain(10_000, sampler="fast"), batch),
            "three, exact": (chain(DOSES), batch),
            "three, fast": (chain(DOSES, sampler="fast"), batch),
            "published mode": (four, 4),
            "batch of 8": (lambda: low_dose(images[:8], 10_000, image_ids=names[:8]), 8),
        },
        turns,
    )
    report.row(f"low-dose chain, {size} px: scikit-image script, one dose", spent["script"], "ms/image")
    for name, doses, least, aim in (("one, exact", 1, 40, 75), ("one, fast", 1, None, None),
                                    ("three, exact", 3, 52, 80), ("three, fast", 3, 75, 110)):  # fmt: skip
        ratio = doses * spent["script"] / spent[name]
        report.row(f"  ours, {name} Poisson", spent[name], "ms/image")
        goal = (f">= {least} (aim {aim})", ratio >= least) if least else ()
        report.row(f"  {'three scripts' if doses == 3 else 'script'} / ours, {name}", ratio, "x", *goal)
    report.row("  ours, one dose, in batches of 8", spent["batch of 8"], "ms/image")
    report.row("  ours, published mode (scikit-image's own taps)", spent["published mode"], "ms/image")
    hours = spent["one, exact"] * 224_316 / 3.6e6
    report.row("  224 316 images, one dose, one core, without decoding", hours, "hours")


def samplers(report, n=93_000, turns=9):
    mean, generator = torch.full((1, n), 500.0), torch.Generator().manual_seed(0)
    ways = {name: (lambda name=name: poisson(mean, [generator], name), 1) for name in ("exact", "fast")}
    spent = take_turns(ways | {"torch": (lambda: torch.poisson(mean, generator), 1)}, turns)
    for name, value in spent.items():
        report.row(f"Poisson, 93 000 bins of mean 500: {name}", value, "ms")


def accuracy(report, size=256):
    theta = np.arange(size) * 180 / size
    n_detectors = math.ceil(math.sqrt(2) * size)
    at = np.arange(size) - size // 2
    inside = np.hypot(at[:, None], at) <= size // 2 - 1
    image = phantom(size, size // 2)
    exact = exact_sinogram(size, np.arange(n_detectors) - n_detectors // 2, np.deg2rad(theta))
    relative = lambda found: np.linalg.norm(found - exact) / np.linalg.norm(exact)
    rms = lambda found, truth=image: math.sqrt(((found - truth)[inside] ** 2).mean())
    there, theirs = radon(torch.from_numpy(image)), skimage_radon(image, theta, circle=False)
    report.row("sinogram, relative error: ours", relative(there.numpy()))
    report.row("sinogram, relative error: scikit-image", relative(theirs))
    error, peer = rms(fbp(there, size).numpy()), rms(iradon(theirs, theta, circle=False, output_size=size))
    report.row("there and back, error in the disc: ours", error)
    report.row("there and back, error in the disc: scikit-image", peer)
    report.row("  ours / scikit-image", error / peer, "", "<= 0.62 (aim 0.45)", error <= 0.62 * peer)
    measured = torch.from_numpy(exact).float()
    report.row("FBP of the exact sinogram (it holds aliases): ours", rms(fbp(measured, size).numpy()))
    report.row(" ... scikit-image", rms(iradon(exact, theta, circle=False, output_size=size)))
    for name in ("ASTRA", "deepinv"):  # their axis lies between the middle pixels
        shifted = phantom(size, (size - 1) / 2)
        try:
            found = PEERS[name](size, size, torch.from_numpy(shifted)[None])()
            report.row(
                f"there and back, error in the disc: {name}", rms(np.asarray(found[0]).reshape(size, size), shifted)
            )
        except ImportError as error:
            print(f"skipped {name}: {error}")


# VmHWM and not ru_maxrss: a child process inherits the latter from its parent
PROBE = """
import re, sys, torch
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
torch.set_num_threads(1); torch.set_grad_enabled(False)
sys.path.insert(0, {folder!r})
before = peak()
import degrade
imported = peak()
degrade.{maker}({size}, {n_views}, torch.rand({batch}, {size}, {size}))()
print(before, imported, peak())
"""


def memory(report):
    if not os.path.exists("/proc/self/status"):
        print("peak memory is read from /proc, which this system lacks: its rows are left out")
        return
    for maker, size, n_views, batch, limit in (
        ("ours", 256, 256, 8, 700), ("ours", 512, 804, 4, 1000), ("scikit_image", 512, 804, 1, None),
        ("astra_toolbox", 512, 804, 1, None), ("deep_inverse", 256, 256, 2, None),
    ):  # fmt: skip
        folder = os.path.dirname(os.path.abspath(__file__))
        code = PROBE.format(folder=folder, maker=maker, size=size, n_views=n_views, batch=batch)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        if done.returncode:
            print(f"skipped memory of {maker}: {done.stderr.strip().splitlines()[-1]}")
            continue
        torch_alone, imported, whole = map(float, done.stdout.split())
        name = f"peak memory, {size} px, {n_views} views, batch {batch}: {maker}"
        report.row(f"{name}, beyond the imports", whole - imported, "MB")
        if limit:  # torch's CPU build takes 250 MB when imported, a CUDA build more than twice that
            cpu_build = 250 + whole - torch_alone
            report.row(
                "  whole process with torch's CPU build (250 MB)", cpu_build, "MB", f"< {limit}", cpu_build < limit
            )
            report.row(f"  whole process here (importing torch alone: {torch_alone:.0f} MB)", whole, "MB")


def gpu(report, size=256, batch=256, turns=20):
    if not torch.cuda.is_available():
        print("no GPU here: its rows are left out")
        return
    images = torch.rand(batch, size, size, device="cuda")
    names = [str(i) for i in range(batch)]
    chain, operator = (lambda: low_dose(images, 10_000, image_ids=names)), ours(size, size, images)
    for name, work in (("low-dose chain, one dose", chain), ("radon + FBP", operator)):
        work()
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(turns):
            work()
        torch.cuda.synchronize()
        rate = turns * batch / (time.perf_counter() - start)
        report.row(f"GPU, {name}, {size} px: images per second", rate, "1/s")
        traffic = 4 * (2 * size**2 + 2 * size * math.ceil(math.sqrt(2) * size))  # image and sinogram, in and out
        copy = torch.empty(1 << 28, device="cuda")
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(10):
            copy.clone()
        torch.cuda.synchronize()
        bandwidth = 10 * 2 * copy.numel() * 4 / (time.perf_counter() - begin)
        report.row("  share of the limit that memory bandwidth sets", rate * traffic / bandwidth * 100, "%")


def main():
    options = parser(__doc__).parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    report = Report("degrade")
    print(f"chunks of {CHUNK} images, torch {torch.__version__}, one thread")
    accuracy(report)
    memory(report)
    beside_peers(report, 256, 256, 32, 5, {"scikit-image": (50, 75), "ASTRA": (18, 27), "deepinv": (80, 115)})
    low_dose_chain(report)
    samplers(report)
    beside_peers(report, 512, 804, 16, 2, {"scikit-image": (80, 110), "ASTRA": (25, 35)})
    gpu(report)
    return 0 if report.finish(options.json) else 1


if __name__ == "__main__":
    sys.exit(main())
