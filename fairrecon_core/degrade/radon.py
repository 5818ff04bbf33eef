"""Parallel-beam Radon transform, its adjoint and filtered back-projection, as three matrix products.

A projection is made by shearing the image until the rays stand upright and adding its rows. In the Fourier transform
of a row a shear by y * slope is a phase ramp, so "shear and add" is one small matrix product per frequency:

    pixels of a row -> frequencies -> (shear and add) slopes -> detector bins

The square has mirror symmetries. Once the image is split into parts even and odd in column and row, the phases become
real cosines and sines, and the views at a, -a, 90 - a and 90 + a degrees share them: an eighth of the tables, no FFT.

Conventions: images are (B, N, N), sinograms (B, T, A) = (detector, view); views are uniform on [0, 180) degrees;
lengths are in pixels, with the axis of rotation on pixel N // 2 and on bin T // 2, as in scikit-image. Projections
are limited to the detector's Nyquist frequency, half a cycle per bin, so they hold no aliases. Everything is linear
and differentiable.
Source: Kak and Slaney, Principles of Computerized Tomographic Imaging, ch. 3 (ramp filter); the factoring is our own.
"""

import functools
import math

import torch
from torch import Tensor

from fairrecon_core.degrade import check_choice

CHUNK = 16  # images at a time: fewer make thin matrix products, more leave the cache
WINDOWS = ("ramp", "hann")
LARGE = 2**23  # numbers in a table: above, the ramp filter is applied by itself and not merged into a second table
FOLD = [[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]  # even and odd parts from mirror images


def radon(images: Tensor, n_views: int | None = None, n_detectors: int | None = None) -> Tensor:
    """Line integrals along parallel rays, in pixel units.

    Parameters
    ----------
    images : Tensor, float32 or float64, shape (B, N, N) or (N, N)
        N odd or even, at least 2. What lies outside the image is zero.
    n_views : int, optional
        Views A, uniform on [0, 180) degrees; default N. Multiples of 4 are fastest.
    n_detectors : int, optional
        Bins T, one pixel wide; default ceil(sqrt(2) * N), which sees the whole square.

    Returns
    -------
    sinogram : Tensor, shape (B, T, A) or (T, A)
        Can fall slightly below zero beside sharp edges, because it is limited to the detector's Nyquist frequency.

    Raises
    ------
    ValueError
        If the images are not square floats.
    """
    if images.ndim not in (2, 3) or images.shape[-1] != images.shape[-2] or images.numel() == 0:
        raise ValueError(f"images are square, (B, N, N) or (N, N), got {tuple(images.shape)}: pad or crop first")
    size = images.shape[-1]
    n_detectors = n_detectors or math.ceil(math.sqrt(2) * size)
    beam = _beam(size, n_views or size, n_detectors, _float(images), images.device)
    return _apply(images, beam.project, beam.backproject)


def backproject(sinogram: Tensor, size: int) -> Tensor:
    """Exact transpose of `radon`: smear each view (B, T, A) along its rays and add, to images (B, size, size).

    Raises
    ------
    ValueError
        If `sinogram` is not (B, T, A) or (T, A), or not of floats.
    """
    if sinogram.ndim not in (2, 3) or sinogram.numel() == 0:
        raise ValueError(f"a sinogram is (B, T, A) or (T, A), got {tuple(sinogram.shape)}")
    beam = _beam(size, sinogram.shape[-1], sinogram.shape[-2], _float(sinogram), sinogram.device)
    return _apply(sinogram, beam.backproject, beam.project)


def fbp(sinogram: Tensor, size: int, window: str = "ramp") -> Tensor:
    """Filtered back-projection: the inverse of `radon` up to its band limit.

    Parameters
    ----------
    sinogram : Tensor, shape (B, T, A) or (T, A)
        Line integrals in pixel units; views uniform on [0, 180) degrees.
    size : int
        Side of the image in pixels.
    window : {"ramp", "hann"}
        The ramp |f|, or |f| (1 + cos 2 pi f) / 2, which trades sharpness for noise.

    Returns
    -------
    images : Tensor, shape (B, size, size) or (size, size)

    Raises
    ------
    ValueError
        If `window` is unknown or `sinogram` not of floats.
    """
    (n_detectors, n_views), kind = sinogram.shape[-2:], _float(sinogram)
    check_choice("window", window, WINDOWS)
    beam = _beam(size, n_views, n_detectors, kind, sinogram.device)
    if beam.bins[0].numel() <= LARGE:
        return _apply(sinogram, lambda p: beam.backproject(p, window), lambda x: beam.project(x, window))
    at = torch.arange(n_detectors)
    table = _ramp(n_detectors, window)[(at[:, None] - at).abs()] * (math.pi / n_views)
    table = table.to(sinogram)  # (T, T), symmetric, so its own transpose
    return _apply(sinogram, lambda p: beam.backproject(table @ p), lambda x: table @ beam.project(x))


def _ramp(n: int, window: str) -> Tensor:
    """Filter at lags 0 ... n - 1: the ramp, sampled in space so that it has no offset (Kak and Slaney, eq. 3.61)."""
    lag = torch.arange(-1, n + 1, dtype=torch.float64)
    kernel = torch.where(lag % 2 == 0, 0.0, -1 / (math.pi * lag) ** 2)
    kernel[1] = 0.25
    if window == "hann":  # a factor (1 + cos 2 pi f) / 2 is a weighting of neighbours by 1/4, 1/2, 1/4
        kernel[1:-1] = kernel[1:-1] / 2 + (kernel[:-2] + kernel[2:]) / 4
    return kernel[1:-1]


class _Linear(torch.autograd.Function):
    """A linear map, chunk by chunk, whose gradient is its transpose."""

    @staticmethod
    def forward(ctx, values, forward, transpose):
        ctx.maps = forward, transpose
        return torch.cat([forward(_widened(part))[: len(part)] for part in values.split(CHUNK)])

    @staticmethod
    def backward(ctx, gradient):
        forward, transpose = ctx.maps
        return _Linear.apply(gradient, transpose, forward), None, None


def _apply(values: Tensor, forward, transpose) -> Tensor:
    batch = values if values.ndim == 3 else values[None]
    result = _Linear.apply(batch, forward, transpose)
    return result if values.ndim == 3 else result[0]


def _widened(batch: Tensor) -> Tensor:
    """At least 4 images: below, matrix libraries add in another order, and the last bit depends on the batch size."""
    return batch if len(batch) >= 4 else torch.cat([batch, batch.new_zeros(4 - len(batch), *batch.shape[1:])])


def _float(values: Tensor):
    if values.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"need float32 or float64, got {values.dtype}: call .float() first")
    return values.dtype


class ParallelBeam:
    """One geometry with its tables; `project` and `backproject` are exact transposes of each other.

    Attributes
    ----------
    rows : tables (low, M / 2)
        From pixels of a row to its frequencies. Even and odd pixels apart: N - k differs from k by the sign of the odd.
    shear : tables (K, S, M)
        Phase ramps: shear by each slope, add the rows.
    bins : tables (S, T / 2, K)
        From frequencies along the row to bins of the detector, which is coarser by the cosine of the angle.

    Each is a pair, cosine for what is even and sine for what is odd: `along` the sheared row, `across` from row to row,
    or on either `side` of the detector's middle.
    """

    def __init__(self, size: int, n_views: int, n_detectors: int, dtype=torch.float32, device="cpu"):
        if size < 2 or n_views < 1 or n_detectors < 1:
            raise ValueError(f"need at least 2 pixels, 1 view and 1 bin, got {size=}, {n_views=}, {n_detectors=}")
        self.size, self.n_views, self.n_detectors = size, n_views, n_detectors
        self.like = {"dtype": dtype, "device": device}
        steps, slope, kind = distinct_angles(n_views)
        slopes = torch.tan(steps * math.pi / n_views)  # (S,) in [0, 1]
        # K = N + 1 frequencies; the upper half runs backwards, so that N - k stands beside k
        self.low = size // 2 + 1
        order = torch.cat([torch.arange(self.low), size - torch.arange(size + 1 - self.low)])
        frequency = order.double() / (2 * size)  # cycles per pixel
        self._make_tables(slopes, frequency)
        self._filtered: dict[str, list[Tensor]] = {}
        self._make_places(slope, kind, len(steps))
        self.fold = torch.tensor(FOLD, **self.like)

    def _make_tables(self, slopes: Tensor, frequency: Tensor) -> None:
        pixel = torch.arange(self.size // 2 + 1, dtype=torch.float64)  # from the centre, (M,)
        bins = torch.arange(self.n_detectors // 2 + 1, dtype=torch.float64)  # from the axis, (J,)
        cosine = 1 / torch.sqrt(1 + slopes**2)  # a pixel along the row is so many bins along the detector
        low = frequency[: self.low]
        self.rows = [[_waves(odd, low, pixel[start::2], self.like) for start in (0, 1)] for odd in (0, 1)]
        self.shear = [_waves(odd, frequency, slopes[:, None] * pixel, self.like) for odd in (0, 1)]
        step = 1 / (2 * self.size * cosine)[:, None]  # cycles per bin from one frequency to the next, (S, 1)
        passed = ((0.5 - 2 * self.size * frequency * step) / step + 0.5).clamp(0, 1)  # up to the Nyquist frequency
        mirrored = torch.where((frequency == 0) | (frequency == 0.5), 1.0, 2.0)
        weight = passed * step * mirrored  # (S, K)
        self.bins = [_waves(odd, 1 / cosine, bins[:, None] * frequency, self.like, weight) for odd in (0, 1)]
        for table in self.bins:  # waves repeat after 2 N pixels; what lies beyond the sheared square is zero
            table[bins / cosine[:, None] > self.size] = 0

    def _make_places(self, slope: Tensor, kind: Tensor, n_slopes: int) -> None:
        """Where each pixel, and each bin of each view, sits among the folded values, and the other way round."""
        half, n_bins, device = self.size // 2 + 1, self.n_detectors // 2 + 1, self.like["device"]
        row = (torch.arange(self.size) - self.size // 2)[:, None].expand(self.size, self.size)
        self.image_shape = (2, 2, half, half, 2)  # (v < 0, y < 0, |v|, |y|, orientation)
        pixels = [
            _ravel((v < 0, y < 0, v.abs(), y.abs(), orientation), self.image_shape).flatten()
            for orientation, (v, y) in enumerate([(row.T, row), (row, row.T)])
        ]
        bins = (torch.arange(self.n_detectors) - self.n_detectors // 2)[:, None]
        mirrored = (bins < 0) ^ (kind > 0)
        self.sinogram_shape = (2, 2, n_slopes, n_bins, 2)  # (t < 0, view -a, slope, |t|, orientation)
        views = _ravel((mirrored, kind % 2, slope, bins.abs(), kind // 2), self.sinogram_shape).flatten()
        self.pixels, self.views = [place.to(device) for place in pixels], views.to(device)
        self.folded_shape = half, n_slopes, n_bins
        self.from_image = _inverse(torch.cat(pixels), self.image_shape, self.size**2).to(device)
        self.from_sinogram = _inverse(views, self.sinogram_shape, views.numel()).to(device)

    def filtered(self, window: str | None) -> list[Tensor]:
        """`bins`, and if a window is named with the ramp filter merged into them."""
        if window is None:
            return self.bins
        if window not in self._filtered:
            at = torch.arange(self.n_detectors // 2 + 1)
            kernel = _ramp(2 * len(at), window) * (math.pi / self.n_views)
            near, far = kernel[(at[:, None] - at).abs()], kernel[at[:, None] + at]
            near[0], far[0] = near[0] / 2, far[0] / 2  # the middle bin is its own mirror image
            self._filtered[window] = [
                torch.stack([fold.T.to(bins) @ table for table in bins])
                for fold, bins in zip((near + far, near - far), self.bins)
            ]
        return self._filtered[window]

    def project(self, images: Tensor, window: str | None = None) -> Tensor:
        """Sinograms of one chunk of images.

        Parameters
        ----------
        images : Tensor, shape (B, N, N)
        window : {None, "ramp", "hann"}
            A name filters the views: the transpose of filtered back-projection.

        Returns
        -------
        sinograms : Tensor, shape (B, T, A)
        """
        bins = self.filtered(window)
        n, (half, n_slopes, n_bins), rest = len(images), self.folded_shape, self.size + 1 - self.low
        parts = (self.fold @ as_rows(images).index_select(0, self.from_image).view(4, -1)).view(4, half, -1)
        summed = images.new_empty(2, n_slopes, self.size + 1, 2, 2 * n)  # (side, S, K, across, orientation and image)
        waves = images.new_empty(self.size + 1, half, 2, 2 * n)  # (K, M, along, ...)
        for across in (0, 1):
            for along in (0, 1):
                part = parts[2 * along + across]
                even, odd = ((self.rows[along][start] @ part[start::2]).view(self.low, half, -1) for start in (0, 1))
                torch.add(even, odd, out=waves[: self.low, :, along])
                even, odd = (odd, even) if along else (even, odd)
                torch.sub(even[:rest], odd[:rest], out=waves[self.low :, :, along])
            sheared = torch.bmm(self.shear[across], waves.flatten(2)).unflatten(2, (2, -1)).transpose(0, 1)
            for along in (0, 1):
                summed[along ^ across, :, :, across] = sheared[:, :, along]
        even, odd = (torch.bmm(bins[side], summed[side].flatten(2)).unflatten(2, (2, -1)) for side in (0, 1))
        views = images.new_empty(2, 2, n_slopes, n_bins, 2 * n)
        for other, sign in ((0, 1), (1, -1)):
            torch.add(even[:, :, 0], even[:, :, 1], alpha=sign, out=views[0, other])
            torch.sub(odd[:, :, 0], odd[:, :, 1], alpha=sign, out=views[1, other])
        views = torch.stack([views[0] + views[1], views[0] - views[1]])
        return views.view(-1, n).index_select(0, self.views).T.reshape(n, self.n_detectors, self.n_views)

    def backproject(self, sinograms: Tensor, window: str | None = None) -> Tensor:
        """Transpose of `project`: the views of one chunk smeared along their rays and added.

        Parameters
        ----------
        sinograms : Tensor, shape (B, T, A)
        window : {None, "ramp", "hann"}
            A name filters the views first and divides by their density: filtered back-projection.

        Returns
        -------
        images : Tensor, shape (B, N, N)
        """
        bins = self.filtered(window)
        n, (half, n_slopes, n_bins), rest = len(sinograms), self.folded_shape, self.size + 1 - self.low
        views = as_rows(sinograms).index_select(0, self.from_sinogram).view(2, 2, n_slopes, n_bins, 2 * n)
        even, odd = views[0] + views[1], views[0] - views[1]
        sides = sinograms.new_empty(2, n_slopes, n_bins, 2, 2 * n)
        torch.add(even[0], even[1], out=sides[0, :, :, 0])
        torch.sub(even[0], even[1], out=sides[0, :, :, 1])
        torch.add(odd[1], odd[0], out=sides[1, :, :, 0])
        torch.sub(odd[1], odd[0], out=sides[1, :, :, 1])
        summed = sinograms.new_empty(2, self.size + 1, n_slopes, 2, 2 * n)  # (across, K, S, along, ...)
        for side in (0, 1):
            spread = torch.bmm(bins[side].transpose(1, 2), sides[side].flatten(2)).unflatten(2, (2, -1))
            for across in (0, 1):
                summed[across, :, :, side ^ across] = spread[:, :, across].transpose(0, 1)
        parts = sinograms.new_empty(4, half, half * 2 * n)
        for across in (0, 1):
            waves = torch.bmm(self.shear[across].transpose(1, 2), summed[across].flatten(2)).unflatten(2, (2, -1))
            for along in (0, 1):
                low, high = waves[: self.low, :, along], waves[self.low :, :, along]
                plus, minus = low.clone(), low.clone()
                plus[:rest] += high
                minus[:rest] -= high
                even, odd = (minus, plus) if along else (plus, minus)
                part = parts[2 * along + across]
                torch.mm(self.rows[along][0].T, even.flatten(1), out=part[0::2])
                torch.mm(self.rows[along][1].T, odd.flatten(1), out=part[1::2])
        image = (self.fold.T @ parts.view(4, -1)).view(-1, n)
        image = image.index_select(0, self.pixels[0]).add_(image.index_select(0, self.pixels[1]))
        return image.T.reshape(n, self.size, self.size)


def distinct_angles(n_views: int) -> tuple[Tensor, Tensor, Tensor]:
    """Angles a of [0, 45] degrees that occur (S,), in views; and for each view (A,) its number there and its kind.

    Kind 0 is the view at a, 1 at 180 - a degrees (rays sheared along columns), 2 at 90 - a, 3 at 90 + a (along rows).
    """
    view = torch.arange(n_views, dtype=torch.float64)
    kind = torch.tensor([0, 2, 3, 1])[torch.ceil(4 * view / n_views - 1).clamp(0, 3).long()]
    turn = torch.stack([view, n_views - view, n_views / 2 - view, view - n_views / 2])
    steps, slope = torch.unique(turn.gather(0, kind[None])[0], return_inverse=True)
    return steps, slope, kind


def _waves(odd, factor, other, like, weight=None):
    """cos (or sin, if odd) of 2 pi factor[i] * other, stacked over i, made in double precision piece by piece."""
    table = torch.empty(len(factor), *other.shape, **like)
    for i, value in enumerate(factor):
        turns = value * other
        wave = (2 * math.pi * (turns - turns.round())).to(table)
        wave = wave.sin_() if odd else wave.cos_()
        table[i] = wave if weight is None else wave * weight[i].to(table)
    return table


@functools.lru_cache(maxsize=3)  # 41 MB of tables for 256 pixels and views, 514 MB for 512 and 804
def _beam(size: int, n_views: int, n_detectors: int, dtype, device) -> ParallelBeam:
    return ParallelBeam(size, n_views, n_detectors, dtype, device)


def _ravel(index, shape):
    flat = 0
    for i, n in zip(index, shape):
        flat = flat * n + i
    return flat


def _inverse(places: Tensor, shape: tuple, n: int) -> Tensor:
    """For each folded value its number 0 ... n - 1 among the plain ones, or n where there is none."""
    inverse = torch.full((math.prod(shape),), n)
    inverse[places] = torch.arange(len(places)) % n
    return inverse


def as_rows(stack: Tensor) -> Tensor:
    """(B, n, m) -> (n * m + 1, B), with a last row of zeros."""
    rows = stack.new_zeros(stack[0].numel() + 1, len(stack))
    rows[:-1] = stack.flatten(1).T
    return rows
