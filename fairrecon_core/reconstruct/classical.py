"""The arms to beat: the degraded image itself, total variation, and non-local means, tuned on validation images.

A network that does not clearly beat these has not earned its complexity. The one setting of each, how strongly it
smooths, is chosen per level by the mean squared error on validation images, before any test image is seen.
Source: scikit-image's `denoise_tv_chambolle` (Chambolle 2004) and `denoise_nl_means` (Buades et al. 2005).
"""

import numpy as np
import pandas as pd
import torch
from skimage.restoration import denoise_nl_means, denoise_tv_chambolle
from torch import Tensor

from fairrecon_core.learn.loop import batches
from fairrecon_core.learn.threads import side_by_side
from fairrecon_core.reconstruct import Reconstructor, register


@register
class Degraded(Reconstructor):
    """The degraded image as it is: what a reader sees when nothing is reconstructed."""

    name, label, colour, marker, line = "degraded", "degraded", "#707070", "x", "-"
    reconstructs = False

    def restore(self, degraded, level, image_ids, seed, sample, measurement) -> Tensor:
        """The same images."""
        return degraded


class Tuned(Reconstructor):
    """A filter with one strength, chosen per level on validation images.

    Parameters
    ----------
    modality : {"mri", "xray"}
    strength : float, optional
        Fixed by hand; otherwise `fit` chooses it.

    Attributes
    ----------
    strengths : dict
        Level to chosen strength.
    tried : DataFrame
        What the last `fit` returned.
    """

    n_tuning = 24
    grid: tuple[float, ...] = ()

    def __init__(self, modality: str = "mri", strength: float | None = None):
        super().__init__(modality)
        self.fixed, self.strengths, self.tried = strength, dict[float, float](), pd.DataFrame()

    def filter(self, image: np.ndarray, strength: float) -> np.ndarray:
        """One image (H, W) after the filter; to be overridden."""
        raise NotImplementedError

    def fit(self, train, validation, degradation, levels, *, seed: int = 0, **options) -> pd.DataFrame:
        """Choose the strength for every level in `levels` on `validation`, degraded by `degradation` with `seed`.

        `train` is not used. Returns the table of level, strength, mean squared error and number of images.
        """
        rows = []
        for level in levels:
            for batch in batches(validation, degradation, [level], len(validation), seed=seed):
                clean, degraded = batch.clean[:, 0].numpy(), list(batch.degraded[:, 0].numpy())
            for strength in self.grid:
                restored = np.stack(self.work(lambda image: self.filter(image, strength).clip(0, 1), degraded))  # noqa: B023
                mse = float(((restored - clean) ** 2).mean())
                rows.append({"level": float(level), "strength": strength, "mse": mse, "n_images": len(clean)})
        self.tried = pd.DataFrame(rows)
        best = self.tried.loc[self.tried.groupby("level")["mse"].idxmin()]
        self.strengths = dict(zip(best["level"], best["strength"]))
        return self.tried

    def restore(self, degraded, level, image_ids, seed, sample, measurement) -> Tensor:
        """Filter each image of `degraded` with the strength of its `level`.

        `image_ids`, `seed`, `sample` and `measurement` play no part.

        Raises
        ------
        ValueError
            The level is not among those tuned and no strength was given.
        """
        strength = self.strengths.get(level, self.fixed)
        if strength is None:
            known = ", ".join(f"{value:g}" for value in self.strengths) or "none"
            raise ValueError(
                f"{self.name} is not tuned for level {level:g} (tuned: {known}): call fit, or give a strength"
            )
        return torch.from_numpy(
            np.stack([self.filter(image.numpy(), strength) for image in degraded]).astype(np.float32)
        )


@register
class TotalVariation(Tuned):
    """Total variation: keeps edges, removes small wiggles, small lesions among them."""

    name, label, colour, marker, line = "tv", "total variation", "#6633CC", "<", "--"
    grid = (0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16)

    def filter(self, image: np.ndarray, strength: float) -> np.ndarray:
        """Chambolle's projection with weight `strength`."""
        return denoise_tv_chambolle(image, weight=strength)


@register
class NonLocalMeans(Tuned):
    """Non-local means: averages patches that look alike."""

    name, label, colour, marker, line = "nlm", "non-local means", "#7B4B2A", ">", ":"
    grid = (0.005, 0.01, 0.02, 0.04, 0.06, 0.1)

    def filter(self, image: np.ndarray, strength: float) -> np.ndarray:
        """Patches of 5 pixels within 6; `strength` is the decay in units of the grey scale."""
        return denoise_nl_means(image, patch_size=5, patch_distance=6, h=strength, fast_mode=True)

    def work(self, part, chunks) -> list:
        """Images side by side on the CPU's threads: compiled code, where total variation would wait for Python."""
        return side_by_side(part, chunks)
