"""Smooth random fields in three dimensions, and the trilinear look-up they share with the atlas.

A field is read from one periodic tile of band-limited Gaussian noise, made once from a fixed seed. A patient
owns a random rotation and shift of that tile, so a field costs one look-up per point, is a function of the place
in mm (whatever the pixel size), and is the same for every slice that passes through that place. Given the tile,
patients are independent and identically distributed. A slice at a generic angle never meets the same part of the
tile twice, so the period does not show.
"""

from functools import lru_cache

import numpy as np

TILE_SIZE = 64  # samples per period, a power of two
TILE_LENGTH = 3.5  # correlation length of the tile in samples: correlation exp(-r^2 / (2 length^2))
TILE_CHANNELS = 4  # independent fields per tile


def trilinear(volume: np.ndarray, points) -> np.ndarray:
    """Read a volume between its samples.

    Parameters
    ----------
    volume : ndarray, float32, shape (X, Y, Z, C), contiguous
    points : three float32 arrays, shape (n,)
        Index coordinates, each at least 0 and below its size minus 1.

    Returns
    -------
    ndarray, float32, shape (C, n), contiguous
    """
    n_y, n_z, n_channels = volume.shape[1:]
    rows = volume.reshape(-1, n_channels)
    (i, u), (j, v), (k, w) = (split(axis) for axis in points)
    corner = (i * n_y + j) * n_z + k
    u, v, w = (np.repeat(part, n_channels).reshape(-1, n_channels) for part in (u, v, w))  # full size: much faster

    def mix(low, high, part):  # low + part (high - low), in the memory of `high`
        high -= low
        high *= part
        high += low
        return high

    def along_z(offset):
        return mix(np.take(rows, corner + offset, axis=0), np.take(rows, corner + (offset + 1), axis=0), w)

    near, far = (mix(along_z(offset), along_z(offset + n_z), v) for offset in (0, n_y * n_z))
    return np.ascontiguousarray(mix(near, far, u).T)


def sigmoid(x):
    """1 / (1 + exp(-x)) without overflow."""
    return 1 / (1 + np.exp(np.clip(-x, -30, 30)))


def split(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Integer part (int64) and fraction (float32) of non-negative values."""
    whole = values.astype(np.int64)
    return whole, values - whole.astype(np.float32)


@lru_cache(maxsize=1)
def tile() -> np.ndarray:
    """Periodic noise, float32 (64 + 1,) * 3 + (4,), unit variance; the first layer is repeated at the end."""
    noise = np.random.default_rng(20240229).standard_normal((TILE_CHANNELS, *(TILE_SIZE,) * 3), dtype=np.float32)
    k2 = np.fft.fftfreq(TILE_SIZE) ** 2  # (cycles per sample)^2
    k2 = k2[:, None, None] + k2[:, None] + k2[: TILE_SIZE // 2 + 1]
    spectrum = np.fft.rfftn(noise, axes=(1, 2, 3)) * np.exp(-((np.pi * TILE_LENGTH) ** 2) * k2)
    noise = np.fft.irfftn(spectrum, s=(TILE_SIZE,) * 3, axes=(1, 2, 3))
    noise = np.moveaxis(noise / noise.std(axis=(1, 2, 3), keepdims=True), 0, -1)
    return np.ascontiguousarray(np.pad(noise, [(0, 1)] * 3 + [(0, 0)], mode="wrap").astype(np.float32))


class Field:
    """Four independent unit-variance Gaussian fields of one correlation length.

    Parameters
    ----------
    rng : numpy.random.Generator
        Gives the place and direction of this field in the tile (12 normal and 3 uniform draws).
    length_mm : float
        Correlation length: the correlation at distance r is exp(-r^2 / (2 length_mm^2)).
    """

    def __init__(self, rng: np.random.Generator, length_mm: float):
        rotation = np.linalg.qr(rng.standard_normal((3, 3)))[0]
        self.matrix = [[np.float32(a) for a in row] for row in rotation * TILE_LENGTH / length_mm]
        self.shift = [np.float32(a) for a in rng.uniform(0, TILE_SIZE, 3)]

    def __call__(self, points) -> np.ndarray:
        """Values at points (three float32 arrays of mm, shape (n,)): float32 (4, n)."""
        x, y, z = points
        samples = []
        for (a, b, c), shift in zip(self.matrix, self.shift):
            sample = a * x + b * y + c * z + shift
            samples.append(sample - TILE_SIZE * np.floor(sample * (1 / TILE_SIZE)))
        return trilinear(tile(), [np.minimum(sample, np.float32(TILE_SIZE - 1e-3)) for sample in samples])
