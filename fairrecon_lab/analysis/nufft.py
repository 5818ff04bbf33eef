"""True radial MRI: samples between the grid points, and images from them. An aside to `mri.py`.

A scanner's spokes do not pass through grid points; `mri.radial_mask` rounds them there. This file measures where
the spokes really are (a non-uniform FFT, from finufft: `pip install fairrecon[nufft]`) and reconstructs by
conjugate gradients, to show what the rounded mask leaves out. NumPy arrays; conventions of `mri.py`.
"""

import numpy as np
from scipy.sparse.linalg import LinearOperator, cg

from fairrecon_core.degrade import check_choice
from fairrecon_core.degrade.mri import GOLDEN_ANGLE

try:
    import finufft
except ImportError as missing:
    raise ImportError("true radial sampling needs finufft: pip install 'fairrecon[nufft]'") from missing

PRECISION = {"eps": 1e-6, "nthreads": 1}  # relative error; one thread, so as not to disturb torch's


def spoke_positions(size: int, n_spokes: int, order: str = "golden", oversampling: int = 2) -> np.ndarray:
    """Where full spokes sample k-space.

    Parameters
    ----------
    order : {"golden", "uniform"}
    oversampling : int
        Samples per grid step along the readout. Scanners take 2 for free; 1 folds the corners in.

    Returns
    -------
    positions : ndarray, shape (2, n_spokes * oversampling * size)
        Row and column frequency in samples, from -N/2 to N/2.
    """
    step = {"golden": GOLDEN_ANGLE, "uniform": np.pi / n_spokes}[check_choice("order", order, ("golden", "uniform"))]
    angle = step * np.arange(n_spokes)[:, None]
    radius = np.arange(-oversampling * size // 2, oversampling * size // 2) / oversampling
    return np.stack([(radius * np.sin(angle)).ravel(), (radius * np.cos(angle)).ravel()])


def sample(image: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """K-space of an image (N, N) at any `positions` (2, M), in samples: complex (M,), scaled as `mri.to_kspace`."""
    row, column = 2 * np.pi / len(image) * positions
    return finufft.nufft2d2(row, column, image.astype(np.complex128), isign=-1, **PRECISION) / len(image)


def adjoint(samples: np.ndarray, positions: np.ndarray, size: int) -> np.ndarray:
    """Adjoint of `sample`: every sample spread back over the image, complex (size, size)."""
    row, column = 2 * np.pi / size * positions
    return finufft.nufft2d1(row, column, samples.astype(np.complex128), (size, size), isign=1, **PRECISION) / size


def ramp_adjoint(samples: np.ndarray, positions: np.ndarray, size: int) -> np.ndarray:
    """One-step image: each sample weighted by the area it stands for, which grows with its radius."""
    density = np.maximum(np.hypot(*positions), 1 / 8)  # the centre shares a disc of radius 1 / 4 sample
    return adjoint(samples * density * np.pi * (size / 2) ** 2 / density.sum(), positions, size)


def least_squares(samples: np.ndarray, positions: np.ndarray, size: int, iterations: int = 20) -> np.ndarray:
    """Image whose `sample` is nearest to the samples, by conjugate gradients on the normal equations.

    Few iterations also hold back the frequencies that no spoke saw, which start and stay near zero.
    """
    normal = lambda flat: adjoint(sample(flat.reshape(size, size), positions), positions, size).ravel()
    operator = LinearOperator((size**2, size**2), matvec=normal, dtype=np.complex128)
    image, _ = cg(operator, adjoint(samples, positions, size).ravel(), rtol=1e-8, maxiter=iterations)
    return image.reshape(size, size)
