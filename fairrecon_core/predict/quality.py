"""Image quality of one image against its clean original: PSNR, SSIM, NMSE, LPIPS.

Conventions: images are (n, H, W) in [0, 1]; every arm is clipped to [0, 1] in the same way and nothing is rescaled, so
a figure never depends on the batch or on the other images. PSNR is in dB with a data range of 1, and once more over the
foreground alone, because an image's share of background moves the first; of equal images it is infinite, and the audit
caps it for all arms. SSIM is that of Wang et al. 2004 (Gaussian window, sigma 1.5). LPIPS uses AlexNet (Zhang et al.
2018): the heads are those of the lpips package, the trunk is packaged here in half precision, so nothing is downloaded
and no weights are random. An image whose clean original has one grey value has no structure that could be kept: all
its measures are NaN, for every arm alike.
"""

import importlib.util
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.ndimage import binary_dilation
from skimage.metrics import structural_similarity
from torch import Tensor, nn

from fairrecon_core.learn.devices import fitting
from fairrecon_core.learn.threads import equal_chunks, side_by_side
from fairrecon_core.learn.weights import read_safetensors
from fairrecon_core.measures import image_metrics

TRUNK = Path(__file__).parents[1] / "weights" / "lpips-alexnet-trunk.safetensors"
CHUNK = 4  # images that LPIPS always takes at a time
SMALLEST = 31  # pixels on a side that AlexNet's layers leave something of
WANG = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}


def measure(images, clean, *, foreground=None, with_lpips: bool = True) -> pd.DataFrame:
    """Quality of each image against its clean original.

    Parameters
    ----------
    images, clean : arrays or Tensors, shape (n, H, W)
        `clean` in [0, 1]; `images` are clipped to it.
    foreground : array of bool, shape (n, H, W), optional
        Where `psnr_foreground_db` is taken; NaN without it.
    with_lpips : bool
        LPIPS costs most of the time; NaN without it.

    Returns
    -------
    DataFrame
        One row per image: psnr_db (infinite if equal), ssim, nmse, lpips, psnr_foreground_db; NaN where the clean image
        has one grey value.

    Raises
    ------
    ValueError
        Shapes differ, a value is not finite, images do not lie in [0, 1], or are too small for LPIPS.
    """
    return measure_arms([images], clean, foreground=foreground, with_lpips=with_lpips)[0]


def measure_arms(
    arms: Sequence, clean, *, foreground=None, with_lpips: bool = True, device: str = "cpu"
) -> list[pd.DataFrame]:
    """`measure` for several arms of the same images: the clean ones go through LPIPS's network only once.

    Parameters
    ----------
    arms : sequence of arrays or Tensors, each of shape (n, H, W)
    clean, foreground, with_lpips
        As in `measure`.
    device : str
        Where LPIPS's network runs.

    Returns
    -------
    list of DataFrame
        One per arm.

    Raises
    ------
    ValueError
        As in `measure`.
    """
    clean, *arms = (np.asarray(images, dtype=np.float32) for images in (clean, *arms))
    for images in arms:
        if images.shape != clean.shape or images.ndim != 3:
            raise ValueError(f"images and clean are both (n, H, W), got {images.shape} and {clean.shape}")
        if not (np.isfinite(images).all() and np.isfinite(clean).all()):
            raise ValueError("an image holds NaN or infinity: look at the reconstructor before measuring")
        _check_scale(images, clean)
    if with_lpips and min(clean.shape[1:]) < SMALLEST:
        raise ValueError(f"LPIPS needs images of {SMALLEST} pixels, got {clean.shape[1:]}: take larger ones, or "
                         "with_lpips=False")  # fmt: skip
    n, arms = len(clean), [images.clip(0, 1) for images in arms]
    masks = np.full(n, None) if foreground is None else np.asarray(foreground, dtype=bool)
    far = lpips_of(arms, clean, device) if with_lpips and n else np.full((len(arms), n), np.nan)

    def part(row: int) -> list[dict]:
        truth, mask = clean[row], masks[row]
        return [{name: float(formula(images[row], truth, mask)) for name, formula in FORMULAS.items()}
                | {"lpips": float(distances[row])} for images, distances in zip(arms, far)]  # fmt: skip

    parts = side_by_side(part, range(n))
    found = [[of_arms[k] for of_arms in parts] for k in range(len(arms))]
    flat = np.ptp(clean.reshape(n, -1), axis=1) == 0 if n else np.zeros(0, bool)
    frames = [pd.DataFrame(rows, columns=list(image_metrics())) for rows in found]
    for frame in frames:
        frame.loc[flat] = np.nan
    return frames


def _check_scale(images: np.ndarray, clean: np.ndarray) -> None:
    """Refuse grey values as files hold them: of clean images beyond [0, 1], of an arm beyond any overshoot."""
    for name, values, low, high in (("clean images", clean, -1e-3, 1 + 1e-3), ("images", images, -10, 10)):
        if values.size and (values.min() < low or values.max() > high):
            raise ValueError(f"{name} span [{values.min():g}, {values.max():g}], not [0, 1]: divide 8 bits by 255")


def psnr_db(image, clean) -> float:
    """Peak signal-to-noise ratio in dB for a data range of 1; infinite for equal images, NaN for none."""
    if np.size(clean) == 0:
        return np.nan
    error = float(np.mean((np.asarray(image, dtype=float) - np.asarray(clean, dtype=float)) ** 2))
    return np.inf if error == 0 else -10 * np.log10(error)


def _energy(values: np.ndarray) -> float:
    return (values**2).sum(dtype=float)


FORMULAS: dict[str, Callable] = {  # of an image and its clean original, (H, W), and where the head is, or None
    "psnr_db": lambda image, truth, mask: psnr_db(image, truth),
    "ssim": lambda image, truth, mask: structural_similarity(truth, image, **WANG),
    "nmse": lambda image, truth, mask: (
        ((image - truth) ** 2).sum(dtype=float) / ((truth**2).sum(dtype=float) or np.nan)
    ),
    "psnr_foreground_db": lambda image, truth, mask: np.nan if mask is None else psnr_db(image[mask], truth[mask]),
}  # LPIPS is taken of several images at a time


def head_mask(clean, threshold: float = 0.05, margin: int = 2) -> np.ndarray:
    """Foreground of MR images (n, H, W): brighter than `threshold`, grown by `margin` pixels."""
    return np.stack([binary_dilation(image > threshold, iterations=margin) for image in np.asarray(clean)])


def film_mask(clean) -> np.ndarray:
    """Foreground of X-rays (n, H, W): the rectangle that holds all that is not black; the border of a film is not."""
    lit = np.asarray(clean) > 0
    reached = lambda line: np.logical_or.accumulate(line, axis=1)
    within = lambda line: reached(line) & reached(line[:, ::-1])[:, ::-1]
    return within(lit.any(axis=2))[:, :, None] & within(lit.any(axis=1))[:, None, :]


def lpips_distances(images, clean) -> np.ndarray:
    """LPIPS (AlexNet) of each of the images (n, H, W) in [0, 1] from its clean original, shape (n,)."""
    return lpips_of([np.asarray(images)], np.asarray(clean))[0] if len(images) else np.empty(0)


def lpips_of(arms: Sequence[np.ndarray], clean: np.ndarray, device: str = "cpu") -> np.ndarray:
    """LPIPS of several `arms`, each (n, H, W), from the `clean` images, shape (arms, n); computed on a `device`."""
    lpips_network(device)  # made once, before threads ask for it
    work = lambda rows: _distances([images[rows] for images in arms], clean[rows], device)
    if device != "cpu":
        return np.concatenate(fitting(work, [list(range(len(clean)))], "LPIPS"), axis=1)
    return np.concatenate(side_by_side(work, equal_chunks(len(clean), CHUNK)), axis=1)[:, : len(clean)]


@torch.inference_mode()
def _distances(arms: list, clean, device: str) -> np.ndarray:
    """LPIPS of several arms, shape (arms, n), of one chunk (n, H, W)."""
    network = lpips_network(device)
    as_float32 = lambda part: torch.from_numpy(np.array(part, dtype=np.float32)).to(device)
    as_rgb = lambda part: as_float32(part)[:, None].expand(-1, 3, -1, -1) * 2 - 1
    truth = network.features(as_rgb(clean))
    found = [network.distance(network.features(as_rgb(part)), truth).cpu().numpy() for part in arms]
    return np.stack(found).astype(float)


class LPIPS(nn.Module):
    """LPIPS with AlexNet, version 0.1: how far apart two images look to a network that was trained on photographs.

    Written out because importing the lpips package imports torchvision and, with it, torch's compiler: 6 s and 150 MB
    in every notebook that measures an image. A test holds it against the package.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self):
        super().__init__()
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188])[None, :, None, None])
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450])[None, :, None, None])
        self.layers = nn.ModuleList(
            [
                nn.Conv2d(3, 64, 11, stride=4, padding=2),
                nn.Sequential(nn.MaxPool2d(3, 2), nn.Conv2d(64, 192, 5, padding=2)),
                nn.Sequential(nn.MaxPool2d(3, 2), nn.Conv2d(192, 384, 3, padding=1)),
                nn.Conv2d(384, 256, 3, padding=1),
                nn.Conv2d(256, 256, 3, padding=1),
            ]
        )
        self.heads = nn.ModuleList(nn.Conv2d(n, 1, 1, bias=False) for n in (64, 192, 384, 256, 256))

    def features(self, images: Tensor) -> list[Tensor]:
        """What the five layers answer to RGB images (B, 3, H, W) in [-1, 1]."""
        found = [(images - self.shift) / self.scale]
        for layer in self.layers:
            found.append(layer(found[-1]).relu())
        return found[1:]

    def forward(self, images: Tensor, others: Tensor) -> Tensor:
        """Distances, shape (B,), of RGB images from others, both (B, 3, H, W) in [-1, 1]."""
        return self.distance(self.features(images), self.features(others))

    def distance(self, features: list[Tensor], others: list[Tensor]) -> Tensor:
        """Distances, shape (B,), from `features` of images and of others."""
        total: Tensor | int = 0
        for head, *pair in zip(self.heads, features, others):
            first, second = (layer / (layer.square().sum(1, keepdim=True).sqrt() + 1e-10) for layer in pair)
            total = total + head((first - second).square()).mean((1, 2, 3))
        return torch.as_tensor(total)


@cache
def lpips_network(device: str = "cpu") -> LPIPS:
    """LPIPS on a `device`, with the linear heads of the lpips package and the trunk that is packaged here.

    Raises
    ------
    FileNotFoundError, ValueError
        The packaged trunk is missing or damaged; there is never a fallback to random weights.
    ModuleNotFoundError
        The lpips package is not installed.
    """
    trunk, _ = read_safetensors(TRUNK)
    package = importlib.util.find_spec("lpips")  # found, not imported
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("LPIPS needs the weights in the package lpips: pip install lpips")
    home = Path(package.submodule_search_locations[0])
    heads = torch.load(home / "weights" / "v0.1" / "alex.pth", "cpu", weights_only=True)
    network = LPIPS().eval().requires_grad_(False)
    convolutions = [layer for layer in network.layers.modules() if isinstance(layer, nn.Conv2d)]
    for number, layer in zip((0, 3, 6, 8, 10), convolutions):
        layer.load_state_dict({key: trunk.pop(f"features.{number}.{key}").float() for key in ("weight", "bias")})
    for k, head in enumerate(network.heads):
        head.load_state_dict({"weight": heads.pop(f"lin{k}.model.1.weight")})
    if trunk or heads:
        raise ValueError(f"weights of LPIPS that AlexNet lacks: {', '.join([*trunk, *heads])}")
    return network.to(device).to(memory_format=torch.channels_last)
