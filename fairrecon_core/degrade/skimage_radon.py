"""scikit-image's Radon transform and filtered back-projection, number for number but fifty times as fast.

The published X-ray degradation used scikit-image (circle=False), whose rays read the image by bilinear interpolation
and whose back-projection reads each view by linear interpolation. Both are fixed sparse matrices. Each is written here
as a weighted sum of gathered rows (`torch.nn.functional.embedding_bag`), the images of a batch side by side in the row;
views at a, 180 - a, 90 - a and 90 + a degrees are the same rays through a mirrored image and share one matrix.

Conventions as in `radon.py`. Tables take 160 MB at 256 pixels and views and grow with the cube of the size, so physics
stays with `radon.py`, which is also more accurate and differentiable.
Source: documentation and behaviour of scikit-image's `radon` and `iradon`.
"""

import functools
import math

import numpy as np
import scipy.sparse
import torch
import torch.nn.functional as F
from torch import Tensor

from fairrecon_core.degrade.radon import as_rows, distinct_angles

CHUNK = 8  # images at a time: 4 mirror images of 8 are 32 numbers, two cache lines


class BilinearBeam:
    """One geometry with its tables, float32 on the CPU.

    Parameters
    ----------
    size : int
        Side N of the image in pixels.
    n_views : int
        Views A, uniform on [0, 180) degrees.
    """

    def __init__(self, size: int, n_views: int):
        self.size, self.n_views, self.n_detectors = size, n_views, math.ceil(math.sqrt(2) * size)
        steps, slope, kind = distinct_angles(n_views)
        self.n_slopes, self.n_bins = len(steps), 2 * (self.n_detectors // 2) + 1  # T, or one more
        half = size // 2
        width = 2 * half + 1  # a frame with a pixel in its middle
        at = torch.arange(width) - half
        y, x = at[:, None].expand(width, width), at[None, :].expand(width, width)
        # Pixel (row, column) of the image under each pixel of its mirror images, by kind of view
        places = []
        for row, column in ((y, x), (y, -x), (-x, -y), (-x, y)):
            inside = (row + half < size) & (column + half < size)
            places.append(torch.where(inside, (row + half) * size + column + half, size * size).flatten())
        self.mirrors = torch.stack(places, 1)  # (frame, 4)
        self.unmirrors = torch.stack([_inverse(place, size * size) * 4 + i for i, place in enumerate(places)])
        bins = torch.arange(self.n_detectors)[:, None]
        self.views = ((slope * self.n_bins + bins) * 4 + kind).flatten()  # of each (bin, view) among the projections
        taps = [_ray_taps(float(step) * math.pi / n_views, width, self.n_bins) for step in steps]
        stacked = scipy.sparse.vstack(taps).tocsr()
        self.rays = [torch.from_numpy(part) for part in (stacked.indices, stacked.indptr[:-1], stacked.data)]
        near, weight = zip(*(_bin_taps(float(step) * math.pi / n_views, at, self.n_detectors) for step in steps))
        index = torch.stack([part + i * self.n_bins for i, part in enumerate(near)], 1).int()  # (frame, S, 2)
        self.smears = [
            index.flatten(),
            torch.arange(len(index)).int() * 2 * len(steps),
            torch.stack(weight, 1).flatten(),
        ]

    def radon(self, images: Tensor) -> Tensor:
        """Sinograms (B, T, A) of images (B, N, N), as by skimage.transform.radon(circle=False)."""
        return torch.cat([self._radon(part) for part in images.split(CHUNK)])

    def iradon_hann(self, sinograms: Tensor) -> Tensor:
        """Images (B, N, N) of sinograms (B, T, A), as by skimage.transform.iradon(filter_name="hann", circle=False)."""
        return torch.cat([self._smear(_hann_filtered(part)) for part in sinograms.split(CHUNK)])

    def _radon(self, images: Tensor) -> Tensor:
        mirrored = as_rows(images).index_select(0, self.mirrors.flatten()).view(len(self.mirrors), -1)
        sums = _weighted_sums(mirrored, *self.rays).view(-1, len(images))
        return sums.index_select(0, self.views).T.reshape(len(images), self.n_detectors, self.n_views)

    def _smear(self, filtered: Tensor) -> Tensor:
        n = len(filtered)
        table = filtered.new_zeros(self.n_slopes * self.n_bins * 4, n)
        table[self.views] = filtered.flatten(1).T
        mirrored = _weighted_sums(table.view(-1, 4 * n), *self.smears).view(-1, n)
        image = torch.as_tensor(sum(mirrored.index_select(0, place) for place in self.unmirrors))
        return image.T.reshape(n, self.size, self.size) * (math.pi / (2 * self.n_views))


@functools.lru_cache(maxsize=2)
def bilinear_beam(size: int, n_views: int) -> BilinearBeam:
    """The tables of one geometry; made once (1 s at 256 pixels and views), then kept."""
    return BilinearBeam(size, n_views)


def _weighted_sums(rows: Tensor, index: Tensor, starts: Tensor, weights: Tensor) -> Tensor:
    # rows must be contiguous: otherwise torch silently takes a path twenty times slower
    return F.embedding_bag(index, rows.contiguous(), starts, mode="sum", per_sample_weights=weights)


def _ray_taps(angle: float, width: int, n_bins: int) -> scipy.sparse.csr_matrix:
    """Bilinear weights (bin, pixel of the frame) of points one pixel apart on each ray."""
    t = (np.arange(n_bins) - n_bins // 2)[:, None]
    along = t.T
    x = t * math.cos(angle) + along * math.sin(angle) + width // 2
    y = along * math.cos(angle) - t * math.sin(angle) + width // 2
    left, top = np.floor(x).astype(np.int32), np.floor(y).astype(np.int32)
    ray = np.broadcast_to(np.arange(n_bins, dtype=np.int32)[:, None], x.shape)
    parts = []
    for column, across in ((left, left + 1 - x), (left + 1, x - left)):
        for row, down in ((top, top + 1 - y), (top + 1, y - top)):
            weight = across * down
            met = (column >= 0) & (column < width) & (row >= 0) & (row < width) & (weight > 1e-7)
            parts.append((weight[met].astype(np.float32), ray[met], (row * width + column)[met]))
    weight, ray, pixel = (np.concatenate(part) for part in zip(*parts))
    return scipy.sparse.coo_matrix((weight, (ray, pixel)), shape=(n_bins, width * width)).tocsr()  # adds what coincides


def _bin_taps(angle: float, at: Tensor, n_detectors: int) -> tuple[Tensor, Tensor]:
    """For each pixel of the frame the two bins beside its shadow, and their linear weights, (frame, 2)."""
    t = (at[None, :].double() * math.cos(angle) - at[:, None].double() * math.sin(angle)).flatten() + n_detectors // 2
    lower = t.floor()
    seen = (lower >= 0) & (lower + 1 < n_detectors)
    lower = torch.where(seen, lower, 0.0)
    weight = torch.stack([lower + 1 - t, t - lower], 1) * seen[:, None]
    return torch.stack([lower, lower + 1], 1).long(), weight.float()


def _hann_filtered(sinograms: Tensor) -> Tensor:
    """scikit-image's Hann-weighted ramp; its window leans by half a frequency step, of which the even part remains."""
    n_detectors = sinograms.shape[1]
    length = max(64, 2 ** math.ceil(math.log2(2 * n_detectors)))
    lag = np.minimum(np.arange(length), length - np.arange(length))
    kernel = np.where(lag % 2 == 1, -1 / (np.pi * np.maximum(lag, 1)) ** 2, 0.0)
    kernel[0] = 0.25
    response = 2 * np.fft.fft(kernel).real * np.fft.fftshift(np.hanning(length))
    response = (response + np.roll(response[::-1], 1)) / 2
    gain = torch.from_numpy(response[: length // 2 + 1]).to(sinograms)
    waves = torch.fft.rfft(sinograms.transpose(1, 2), n=length) * gain
    return torch.fft.irfft(waves, n=length)[..., :n_detectors].transpose(1, 2)


def _inverse(places: Tensor, n: int) -> Tensor:
    """For each pixel 0 ... n - 1 of the image its place in a mirrored frame."""
    inverse = torch.zeros(n + 1, dtype=torch.long)
    inverse[places] = torch.arange(len(places))
    return inverse[:n]
