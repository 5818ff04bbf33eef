"""Undersampled MRI: sampling k-space along spokes, and the zero-filled image.

Conventions: images are real (..., N, N) in [0, 1], N even; k-space is complex with zero frequency at
(N // 2, N // 2); transforms are orthonormal, so energy is kept. One coil, no phase. Acceleration R = N / full
spokes is the scan-time ratio to a Cartesian scan; the share of grid samples hit is reported beside it.
Source: paper Sec. 2.1 "MRI"; radial sampling as in doi:10.1002/jmri.28187. `published` names what the
published code does instead: half-spokes at uniform angles whose coordinates are cut, not rounded.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from fairrecon_core.degrade import Degradation, Measurement, check_choice, noise_generator, register

GOLDEN_ANGLE = math.pi * (math.sqrt(5) - 1) / 2  # radians between successive full spokes, 111.246 degrees
SPOKE_ANGLES: dict[str, Callable[[int], np.ndarray]] = {  # number of full spokes -> angle of each, radians, (S,)
    "golden": lambda n_spokes: GOLDEN_ANGLE * np.arange(n_spokes),
    "uniform": lambda n_spokes: np.pi / n_spokes * np.arange(n_spokes),
}
PUBLISHED = "published"  # the order of the released code, of half-spokes
MODES = ("physical", "published")
PARTS = ("magnitude", "real")
# at 256 px, as configured; 24 never reached the paper
PUBLISHED_HALF_SPOKES: dict[float, int] = {4: 140, 8: 60, 16: 32, 24: 22}
PLANE = (-2, -1)


def to_kspace(images: Tensor) -> Tensor:
    """Centred orthonormal Fourier transform of images (..., N, N), real or complex."""
    centred = lambda image: torch.fft.fftshift(torch.fft.fft2(torch.fft.ifftshift(image, PLANE), norm="ortho"), PLANE)
    return _one_by_one(centred, images)


def to_image(kspace: Tensor) -> Tensor:
    """Inverse of `to_kspace`: complex images (..., N, N)."""
    centred = lambda plane: torch.fft.fftshift(torch.fft.ifft2(torch.fft.ifftshift(plane, PLANE), norm="ortho"), PLANE)
    return _one_by_one(centred, kspace)


def _one_by_one(transform: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Transform images (..., N, N) singly on the CPU: they stay in the cache, and the batch changes no bit."""
    if images.ndim == 2 or images.device.type != "cpu":
        return transform(images)
    done = torch.stack([transform(image) for image in images.reshape(-1, *images.shape[-2:])])
    return done.reshape(images.shape)


def orders() -> tuple[str, ...]:
    """Names of all sampling orders: those of `SPOKE_ANGLES`, and the published one."""
    return (*SPOKE_ANGLES, PUBLISHED)


def radial_mask(size: int, n_spokes: int, order: str = "golden") -> Tensor:
    """Mark the k-space samples that lie on straight spokes through the centre.

    Parameters
    ----------
    size : int
        Matrix size N in samples, even.
    n_spokes : int
        Number of spokes. A spoke is a full diameter: it samples +k and -k. For "published" the number of
        half-spokes (two make a diameter when it is even).
    order : {"golden", "uniform", "published"}
        Angle between successive spokes: 111.246 degrees, or 180 / n_spokes; "published" is 360 / n_spokes
        between half-spokes, with whole-sample steps and coordinates cut to integers, as in the published code.

    Returns
    -------
    mask : Tensor, bool, shape (N, N)
        True where sampled. Point-symmetric unless "published", so the image of a real object stays real.

    Raises
    ------
    ValueError
        If `size` is odd, `n_spokes` is below 1 or `order` is unknown.

    Examples
    --------
    >>> mask = radial_mask(256, n_spokes=64)
    >>> mask.shape, round(achieved_acceleration(mask), 2)
    (torch.Size([256, 256]), 4.0)
    """
    check_choice("order", order, orders())
    if size < 2 or size % 2 or n_spokes < 1 or n_spokes % 1:
        raise ValueError(
            f"need an even size and whole spokes, at least one, got {size=}, {n_spokes=}: pad or crop the images"
        )
    return _cached_mask(int(size), int(n_spokes), order).clone()


@lru_cache(maxsize=64)
def _cached_mask(size: int, n_spokes: int, order: str) -> Tensor:
    """`radial_mask` without checks, built once per geometry; not to be written to."""
    centre, mask = size // 2, np.zeros(size * size, dtype=bool)
    if order == PUBLISHED:
        angle = np.linspace(0, 2 * np.pi, n_spokes, endpoint=False)[:, None]  # (S, 1)
        row, column = ((centre + np.arange(centre) * along(angle)).astype(int) for along in (np.sin, np.cos))
        mask[row * size + column] = True
        return torch.from_numpy(mask.reshape(size, size))
    angle = SPOKE_ANGLES[order](n_spokes)[:, None]  # (S, 1)
    # Half-sample steps leave no gap on diagonal spokes; the range stops short of the unpaired edge.
    radius = np.arange(size - 1) / 2 * (1 + 1e-9)  # samples, (N - 1,); ties go outwards, on every machine
    row, column = (np.rint(radius * along(angle)).astype(int) for along in (np.sin, np.cos))
    middle, offset = centre * size + centre, row * size + column
    mask[middle + offset] = mask[middle - offset] = True  # both halves of each spoke
    return torch.from_numpy(mask.reshape(size, size))


def spokes_for(size: int, acceleration: float, order: str = "golden") -> int:
    """Number of spokes of one acceleration: N / R, rounded; "published": the configured half-spokes times N / 256.

    Raises
    ------
    ValueError
        If R is not between 2 and N, or has no published count. R = 1 has no mask: the operator is bypassed,
        because spokes reach at most the disc, 78.5 % of the samples.
    """
    if not 2 <= acceleration <= size:
        raise ValueError(f"acceleration is 1 (fully sampled) or from 2 to the size {size}, got {acceleration!r}")
    if check_choice("order", order, orders()) != PUBLISHED:
        return round(size / acceleration)
    if acceleration not in PUBLISHED_HALF_SPOKES:
        known = ", ".join(map(str, PUBLISHED_HALF_SPOKES))
        raise ValueError(f"no published spoke count for acceleration {acceleration:g}; there are: {known}")
    return 2 * round(PUBLISHED_HALF_SPOKES[acceleration] * size / 512)  # even, so that halves stay in pairs


def achieved_acceleration(mask: Tensor) -> float:
    """Grid samples per sampled one: what the mask really saves on the grid."""
    return mask.numel() / int(mask.sum())


def acquire(
    images: Tensor, mask: Tensor, noise: float = 0.0, generators: Sequence[torch.Generator] | None = None
) -> Tensor:
    """Sampled k-space of images.

    Parameters
    ----------
    images : Tensor, shape (B, N, N)
    mask : Tensor, bool, shape (N, N)
    noise : float
        Standard deviation of the Gaussian noise in the real and in the imaginary part of each sample; the
        transform is orthonormal, so a fully sampled image has the same noise per pixel, in image intensity.
    generators : B generators, needed with noise
        One per image, see `noise_generator`.

    Returns
    -------
    kspace : Tensor, complex, shape (B, N, N)
        Centred; zero where `mask` is False.

    Raises
    ------
    ValueError
        Noise without generators.
    """
    kspace = to_kspace(images)
    if noise:
        if generators is None:
            raise ValueError(f"noise {noise:g} needs generators, one per image: see noise_generator")
        draws = [torch.randn(*kspace.shape[1:], 2, generator=generator) for generator in generators]
        kspace = kspace + noise * torch.view_as_complex(torch.stack(draws)).to(kspace.device)
    return kspace * mask


def zero_filled(kspace: Tensor, part: str = "magnitude") -> Tensor:
    """Image of k-space whose absent samples are 0; `part` "real" takes |real part| instead of the magnitude."""
    return _shown(to_image(kspace), part)


def undersample(
    images: Tensor,
    acceleration: float,
    mode: str = "physical",
    order: str = "golden",
    noise: float = 0.0,
    part: str = "magnitude",
    image_ids: str | Sequence | None = None,
    seed: int = 0,
) -> Tensor:
    """Zero-filled images of an accelerated radial scan.

    Parameters
    ----------
    images : Tensor or ndarray, shape (B, N, N) or (N, N)
        In [0, 1], N even.
    acceleration : float
        R, from 2 to N; 1 returns the images bit by bit.
    image_ids : one name per image
        Needed with noise: noise depends on the name, `acceleration` and `seed` only.
    mode, order, noise, part
        As in `RadialMRI`, which this calls.

    Returns
    -------
    degraded : Tensor, float32, shaped as `images`
        In [0, 1].

    Raises
    ------
    ValueError
        Images not square, even, finite, in [0, 1]; R between 1 and 2 or above N; noise without names.
    """
    if image_ids is None:
        if noise:
            raise ValueError("noise belongs to an image: give image_ids, one name per image")
        image_ids = range(1 if np.ndim(images) == 2 else len(images))
    return RadialMRI(mode, order, noise, part)(images, acceleration, image_ids, seed)


@register
class RadialMRI(Degradation):
    """Radial undersampling, the degradation named "mri".

    Parameters
    ----------
    mode : {"physical", "published"}
        "physical" samples full spokes in `order`. "published" does as the published code did: half-spokes at
        uniform angles, cut coordinates (so most samples lack their mirror), counts made for 240 px.
    order : {"golden", "uniform"}
        Spoke order of the physical mode; "published" has its own.
    noise : float
        Standard deviation of complex k-space noise per component, see `acquire`; physical mode only.
    part : {"magnitude", "real"}
        What becomes of the complex image: its magnitude (in the published code: training), or the absolute
        value of its real part (there: evaluation). The same, without noise, for a point-symmetric mask.

    Zero-filled images seldom leave [0, 1] (two pixels in a million of real FLAIR slices); they are clipped.
    """

    name = "mri"
    modality = "mri"
    identity_level = 1.0

    def __init__(self, mode: str = "physical", order: str = "golden", noise: float = 0.0, part: str = "magnitude"):
        check_choice("order", order, tuple(SPOKE_ANGLES))
        self.order = PUBLISHED if check_choice("mode", mode, MODES) == "published" else order
        self.part = check_choice("part", part, PARTS)
        if not 0 <= noise < math.inf or (noise and mode == "published"):
            raise ValueError(f"noise is 0 or, in physical mode, positive; got {noise!r} in {mode} mode")
        self.mode, self.noise = mode, float(noise)

    def check_level(self, level: float, size: int) -> None:
        """Refuse an acceleration without a mask, and an odd image size."""
        radial_mask(size, spokes_for(size, level, self.order), self.order)

    def mask(self, size: int, level: float) -> Tensor:
        """Mask of one acceleration, bool (N, N)."""
        return radial_mask(size, spokes_for(size, level, self.order), self.order)

    def _measure(self, images, level, image_ids, seed):
        mask = self.mask(images.shape[-1], level).to(images.device)
        generators = [noise_generator(seed, name, level) for name in image_ids]
        kspace = acquire(images, mask, self.noise, generators)
        degraded = zero_filled(kspace, self.part) if self.noise else self._degrade(images, level, image_ids, seed)
        return degraded.clamp(0, 1), Measurement(level, kspace=kspace, mask=mask)

    def _degrade(self, images, level, image_ids, seed):
        if self.noise:
            return self._measure(images, level, image_ids, seed)[0]
        mask = self.mask(images.shape[-1], level).to(images.device)
        return _shown(_masked(images, mask, symmetric=self.order != PUBLISHED), self.part).clamp(0, 1)


def _masked(images: Tensor, mask: Tensor, symmetric: bool) -> Tensor:
    """`to_image(to_kspace(images) * mask)` without moving data: the four shifts become one shift of the mask.

    A point-symmetric mask keeps real images real, so half of k-space is enough.
    """
    keep, size = torch.fft.ifftshift(mask), mask.shape[-1]
    if symmetric:
        half = keep[:, : size // 2 + 1]
        return _one_by_one(lambda image: torch.fft.irfft2(torch.fft.rfft2(image) * half, s=(size, size)), images)
    return _one_by_one(lambda image: torch.fft.ifft2(torch.fft.fft2(image) * keep), images)


def data_consistency(images: Tensor, kspace: Tensor, mask: Tensor, strength: float = 1.0) -> Tensor:
    """Put the measured samples back into a reconstruction: a step, or a layer, for reconstructors.

    Parameters
    ----------
    images : Tensor, real or complex, shape (..., N, N)
        What a reconstructor proposes. A real image has a mirrored k-space, so a sample also fixes its mirror
        (and two measured mirrors are averaged); a complex image is corrected at the samples alone.
    kspace : Tensor, complex, shape (..., N, N)
        Measured, centred; values outside `mask` are ignored.
    mask : Tensor, bool, shape (N, N)
    strength : float
        1 replaces what was measured (a projection: twice is once); less trusts noisy samples less.

    Returns
    -------
    Tensor
        Shaped and typed as `images`, not clipped; differentiable in `images` and `kspace`.

    Raises
    ------
    ValueError
        If shapes do not fit or `strength` leaves [0, 1].
    """
    if images.shape[-2:] != mask.shape or kspace.shape != images.shape:
        shapes = f"images {tuple(images.shape)}, kspace {tuple(kspace.shape)}, mask {tuple(mask.shape)}"
        raise ValueError(f"images and kspace need one shape, (..., N, N), and the mask (N, N); got {shapes}")
    if not 0 <= strength <= 1:
        raise ValueError(f"strength is from 0 (ignore the samples) to 1 (replace), got {strength!r}")
    if images.dtype in (torch.float16, torch.bfloat16):  # of mixed-precision training; no Fourier transform has them
        return data_consistency(images.float(), kspace, mask, strength).to(images.dtype)
    measured, times = kspace * mask, mask.to(images.real.dtype)  # times a sample is known: 0, 1 or 2
    if not images.is_complex():
        measured, times = measured + _mirror(measured).conj(), times + _mirror(times)
    proposed = to_kspace(images)
    corrected = proposed + strength * (measured / times.clamp(min=1) - proposed) * (times > 0)
    return to_image(corrected) if images.is_complex() else to_image(corrected).real


def _mirror(kspace: Tensor) -> Tensor:
    """Value at -k for every k; the edge at -N / 2 is its own mirror."""
    return kspace.flip(PLANE).roll((1, 1), PLANE)


def _shown(image: Tensor, part: str) -> Tensor:
    return image.abs() if check_choice("part", part, PARTS) == "magnitude" else image.real.abs()
