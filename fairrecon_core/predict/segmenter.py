"""The segmenter: a U-Net for the whole tumour."""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fairrecon_core.cohort.folder import Cohort
from fairrecon_core.learn.body import UNet
from fairrecon_core.predict.readers import Labelled, Reader


class Segmenter(Reader):
    """U-Net for the whole tumour, Dice and cross-entropy on logits.

    Parameters
    ----------
    width : int
        Feature maps of the first level.
    threshold : float
        Probability from which a pixel is tumour.
    learning_rate, decay, device
        Of Adam; whether it falls; of inference.
    held_out : bool
        Keep validation patients to choose the best epoch. False, for few patients: learn from them, too, and keep the
        last epoch's weights; nothing else of a segmenter is chosen on them.
    """

    kind = "segmenter"
    batch_size = 8

    def __init__(self, width: int = 16, *, threshold=0.5, learning_rate=1e-3, decay=True, device: str = "cpu",
                 held_out: bool = True):  # fmt: skip
        self.width, self.threshold, self.held_out = width, threshold, held_out
        super().__init__(learning_rate, device, decay=decay, width=width)

    def build(self) -> None:
        """One U-Net with normalisation."""
        self.net = UNet(1, 1, self.width, norm=True)

    def training_targets(self, cohort: Cohort, rows) -> tuple[np.ndarray, np.ndarray]:
        """All rows, and their masks; ValueError for a cohort without masks."""
        return rows, cohort.masks_at(rows)

    def losses(self, batch: Labelled) -> Iterator[tuple[str, Tensor]]:
        """Half soft Dice over the batch, half cross-entropy."""
        yield "net", self._loss(batch)

    def validation_loss(self, batch: Labelled) -> Tensor:
        """The loss of `losses`; with nobody held out the epochs that are left, so that the last is the best."""
        return self._loss(batch) if self.held_out else torch.tensor(float(self._epochs_left))

    def rate(self, epoch: int, epochs: int) -> float:
        """That of every reader; and count."""
        self._epochs_left = epochs - epoch
        return super().rate(epoch, epochs)

    def _loss(self, batch: Labelled) -> Tensor:
        logits = self.net(batch.images)
        probability = logits.sigmoid()
        overlap = (probability * batch.targets).sum()
        soft_dice = (2 * overlap + 1) / (probability.sum() + batch.targets.sum() + 1)
        return (1 - soft_dice + F.binary_cross_entropy_with_logits(logits, batch.targets)) / 2

    def masks(self, images) -> np.ndarray:
        """Predicted masks of bool (n, H, W) for images (n, H, W)."""
        return (self.outputs(images)[:, 0].sigmoid() >= self.threshold).numpy()
