"""Degradation: what a faster scan, or fewer photons, does to a clean image.

Training, evaluation and widgets degrade through one object, made by `degradation("mri")` or
`degradation("xray")`. Conventions: images are float32 (B, H, W), or (H, W), in [0, 1], square; `level` is
the strength (acceleration R, or photons per detector bin), and the identity level (1, or infinity) changes
no bit. Noise belongs to the image: it follows from `(seed, image_id, level)`, whatever the batch.
"""

import hashlib
import importlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from fairrecon_core.settings import suggest


@dataclass(frozen=True)
class Measurement:
    """What the scanner recorded: k-space and its mask (MRI), or a sinogram (X-ray).

    Fields that do not apply are None. At the identity level nothing is measured and all are None.
    """

    level: float
    kspace: Tensor | None = None  # complex (B, H, W), centred, zero where not sampled
    mask: Tensor | None = None  # bool (H, W), True where sampled
    sinogram: Tensor | None = None  # (B, detector, view), line integrals as recorded

    def at(self, rows) -> "Measurement":
        """The part of some images: an index drops the batch axis; a slice or a list of indices keeps it."""
        pick = lambda values: None if values is None else values[rows]
        return replace(self, kspace=pick(self.kspace), sinogram=pick(self.sinogram))

    def cpu(self) -> "Measurement":
        """The same, on the CPU."""
        here = lambda values: None if values is None else values.cpu()
        return replace(self, kspace=here(self.kspace), mask=here(self.mask), sinogram=here(self.sinogram))


class Degradation:
    """Base of all degradations; a new one sets the four names below and writes `_measure`.

    Attributes
    ----------
    name : str
        Key in the registry.
    modality : {"mri", "xray"}
    identity_level : float
        Level at which the image is left as it is.
    """

    name: str = ""
    modality: str = ""
    identity_level: float = 1.0

    def measure(self, images, level: float, image_ids: str | Sequence, seed: int = 0) -> tuple[Tensor, Measurement]:
        """Degrade images and keep what was recorded of them.

        Parameters
        ----------
        images : Tensor or ndarray, float, shape (B, N, N) or (N, N)
            Clean images in [0, 1].
        level : float
            Acceleration R or photon count; `identity_level` bypasses the operator.
        image_ids : sequence of B names, or one name for a single image
            Noise of an image depends on its name, `level` and `seed` only.
        seed : int

        Returns
        -------
        degraded : Tensor, float32, shaped as `images`
            In [0, 1].
        measurement : Measurement
            Batched as `images` is.

        Raises
        ------
        ValueError
            Images that are not square, finite and in [0, 1]; an impossible level; not one name per image.
        """
        batch, ids = self._checked(images, level, image_ids)
        if level == self.identity_level:
            degraded, measurement = batch.clone(), Measurement(float(level))
        else:
            degraded, measurement = self._measure(batch, float(level), ids, int(seed))
        return (degraded[0], measurement.at(0)) if np.ndim(images) == 2 else (degraded, measurement)

    def __call__(self, images, level: float, image_ids: str | Sequence, seed: int = 0) -> Tensor:
        """`measure` without the measurement, to the last bit."""
        batch, ids = self._checked(images, level, image_ids)
        same = level == self.identity_level
        degraded = batch.clone() if same else self._degrade(batch, float(level), ids, int(seed))
        return degraded[0] if np.ndim(images) == 2 else degraded

    def check_level(self, level: float, size: int) -> None:
        """Raise a ValueError that names the way out if `level` is impossible for images of `size` pixels."""

    def _measure(self, images: Tensor, level: float, image_ids: list[str], seed: int) -> tuple[Tensor, Measurement]:
        """Degrade a checked float32 batch (B, N, N) at a level other than the identity."""
        raise NotImplementedError

    def _degrade(self, images: Tensor, level: float, image_ids: list[str], seed: int) -> Tensor:
        """The first part of `_measure`; override where it costs less alone."""
        return self._measure(images, level, image_ids, seed)[0]

    def _checked(self, images, level: float, image_ids: str | Sequence) -> tuple[Tensor, list[str]]:
        batch, ids = check_images(images).float(), _as_names(image_ids)
        batch = batch[None] if batch.ndim == 2 else batch
        if len(ids) != len(batch):
            raise ValueError(f"need one image_id per image: got {len(ids)} for {len(batch)} images")
        if level != self.identity_level:
            self.check_level(level, batch.shape[-1])
        return batch, ids


class Degrades(Protocol):
    """What is called like a `Degradation`: one, or a `CachedDegradation`."""

    def __call__(self, images, level: float, image_ids: list[str], seed: int = 0) -> Tensor:
        """As `Degradation.__call__`."""


REGISTRY: dict[str, type[Degradation]] = {}
BUILT_IN = ("mri", "xray")  # modules of this package, imported when first asked for


def register(kind: type[Degradation]) -> type[Degradation]:
    """Class decorator: make a degradation known under its `name`; ValueError if that is taken or missing."""
    if not kind.name or kind.modality not in ("mri", "xray"):
        raise ValueError(f"{kind.__name__} needs a name and a modality ('mri' or 'xray')")
    home = f"{__name__}.{kind.name}" if kind.name in BUILT_IN else kind.__module__
    holder = REGISTRY.get(kind.name, kind)
    if (holder.__module__, holder.__qualname__) != (home, kind.__qualname__):
        raise ValueError(f"degradation {kind.name!r} is taken: choose another name for {kind.__qualname__}")
    REGISTRY[kind.name] = kind
    return kind


def degradation(name: str, **options) -> Degradation:
    """Make a degradation by name.

    Parameters
    ----------
    name : str
        "mri", "xray", or one added with `register`.
    **options
        Passed to the class, for example `mode="published"`; see `mri.RadialMRI` and `xray`.

    Raises
    ------
    ValueError
        Unknown name, with the nearest known one.
    """
    check_choice("degradation", name, names())
    if name in BUILT_IN:
        importlib.import_module(f"{__name__}.{name}")
    return REGISTRY[name](**options)


def names() -> list[str]:
    """Names of all degradations that can be made."""
    return sorted({*BUILT_IN, *REGISTRY})


def noise_generator(
    seed: int, image_id: str, level: float, sample: int = 0, *, stream: str = "degrade", device: str = "cpu"
) -> torch.Generator:
    """Random numbers of one image: the only source of noise in the package.

    The state is a hash of the arguments, so batch size, order and number of workers change nothing. `stream`
    keeps users apart (a sampler that restores the image must not meet the noise that spoilt it). torch keeps 32
    bits of the hash on the CPU: of 100 000 images about one pair shares its noise. On another `device` the
    numbers differ but not their distribution.
    """
    key = "\x1f".join([stream, str(int(seed)), str(image_id), float(level).hex(), str(int(sample))])
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little") >> 1)


def check_images(images) -> Tensor:
    """Images as a float tensor (..., N, N), refused unless square, finite and in [0, 1].

    Raises
    ------
    ValueError
        Names the value found and the way out.
    """
    if not isinstance(images, Tensor):
        images = torch.from_numpy(np.array(images))  # a copy: the source may be a read-only memory map
    if not images.is_floating_point():
        raise ValueError(f"images are real floats in [0, 1], got {images.dtype}: convert (uint8: divide by 255)")
    if images.ndim not in (2, 3) or images.shape[-1] != images.shape[-2] or images.numel() == 0:
        raise ValueError(f"images are square, (B, N, N) or (N, N), got {tuple(images.shape)}: pad or crop first")
    low, high = (float(value) for value in images.detach().aminmax())
    if low != low or high != high:
        raise ValueError(f"{int(images.isnan().sum())} pixels are NaN: fill or drop them first")
    if low < 0 or high > 1:
        raise ValueError(f"intensities run from {low:g} to {high:g}: scale each image to [0, 1] first")
    return images


def check_choice(name: str, value: str, choices: Sequence[str]) -> str:
    """`value` if it is one of `choices`; else a ValueError that suggests the nearest."""
    if value not in choices:
        raise ValueError(f"unknown {name} {value!r}{suggest(value, choices)}; choose one of {', '.join(choices)}")
    return value


def _as_names(image_ids: str | Sequence) -> list[str]:
    return [str(name) for name in np.atleast_1d(np.asarray(image_ids, dtype=object))]
