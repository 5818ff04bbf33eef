"""Data consistency: any MRI reconstructor with the measured k-space put back. Its name is the arm's with `_dc`."""

import pandas as pd
from torch import Tensor

from fairrecon_core.degrade import mri
from fairrecon_core.reconstruct import Reconstructor


class DataConsistent(Reconstructor):
    """Any MRI reconstructor with the measured k-space put back, so that it cannot contradict the scanner.

    Parameters
    ----------
    inner : Reconstructor
        Its name gets `_dc` appended.
    """

    def __init__(self, inner: Reconstructor):
        if inner.modality != "mri":
            raise ValueError("data consistency needs a measured k-space: it is for modality 'mri' only")
        super().__init__("mri")
        self.needs_measurement = True
        self.inner, self.name, self.stochastic = inner, f"{inner.name}_dc", inner.stochastic

    def fit(self, *arguments, **options) -> pd.DataFrame:
        """Fit what is inside."""
        return self.inner.fit(*arguments, **options)

    def chunk(self, n: int) -> int:
        """All images at a time: what is inside cuts them up as it likes."""
        return n

    def restore(self, degraded, level, image_ids, seed, sample, measurement) -> Tensor:
        """Reconstruct, then replace what was measured; ValueError without a measurement."""
        if measurement is None:
            raise ValueError(f"{self.name} needs measurement=: take it from degradation.measure(...)")
        images = self.inner(degraded, level, image_ids=image_ids, seed=seed, sample=sample, measurement=measurement)
        if measurement.kspace is None:  # level 1: everything was measured
            return images
        return mri.data_consistency(images, measurement.kspace, measurement.mask)
