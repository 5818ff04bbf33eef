"""The segmenter: a U-Net for the whole tumour, alone or beside one whose way down was trained on ImageNet."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fairrecon_core.cohort.folder import Cohort
from fairrecon_core.learn.body import UNet
from fairrecon_core.learn.weights import load_weights
from fairrecon_core.predict.encoder import TwoUNets
from fairrecon_core.predict.imagenet import BACKBONE
from fairrecon_core.predict.readers import Labelled, Reader


class Segmenter(Reader):
    """U-Net for the whole tumour, Dice and cross-entropy on logits.

    Parameters
    ----------
    width : int
        Feature maps of the first level.
    threshold : float
        Probability from which a pixel is tumour. Where probabilities are true, half of the Dice that can be reached
        gives the highest Dice (Lipton et al. 2014, arXiv:1402.1892).
    learning_rate, decay, device
        Of Adam; whether it falls; of inference.
    held_out : bool
        Keep validation patients to choose the best epoch. False, for few patients: learn from them, too, and keep the
        last epoch's weights; nothing else of a segmenter is chosen on them.
    crop : int
        Side in px of the square that is cut out of each augmented training image, a multiple of 16; 0 for all of it.
    encoder : str
        "efficientnet_lite0": `TwoUNets`, which learn apart; a pixel has the mean of their probabilities. "": a U-Net.
    """

    kind = "segmenter"
    batch_size = 8

    def __init__(self, width: int = 16, *, threshold=0.5, learning_rate=1e-3, decay=True, device: str = "cpu",
                 held_out: bool = True, encoder: str = "", crop: int = 0):  # fmt: skip
        if encoder not in ("", BACKBONE):
            raise ValueError(f"recipes: encoder of segmenter is {BACKBONE!r}, or '' for none, got {encoder!r}")
        self.width, self.threshold, self.held_out, self.encoder, self.crop = width, threshold, held_out, encoder, crop
        card: dict[str, Any] = {"width": width} | ({"encoder": encoder} if encoder else {})
        super().__init__(learning_rate, device, decay=decay, **card)

    def build(self) -> None:
        """One U-Net with normalisation, or two networks."""
        self.unet = UNet(1, 1, self.width, norm=True)
        self.net = TwoUNets(self.unet) if self.encoder else self.unet

    def start_from(self, path) -> None:
        """Take first weights of the U-Net from a file that `save` wrote, without an encoder."""
        load_weights(path, self.unet, reader=self.kind, width=self.width)

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Adam; the network beside the U-Net learns at half the rate."""
        own = dict.fromkeys(self.unet.parameters())
        other = [weight for weight in self.net.parameters() if weight not in own]
        groups: list[dict[str, Any]] = [{"params": list(own)}, {"params": other, "lr": self.learning_rate / 2}]
        return {"net": torch.optim.Adam(groups[: 1 + bool(other)], lr=self.learning_rate)}

    def training_targets(self, cohort: Cohort, rows) -> tuple[np.ndarray, np.ndarray]:
        """All rows, and their masks; ValueError for a cohort without masks."""
        return rows, cohort.masks_at(rows)

    def losses(self, batch: Labelled) -> Iterator[tuple[str, Tensor]]:
        """Half soft Dice over the batch, half cross-entropy; of two networks the mean."""
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
        probability, truth, pixels = logits.sigmoid(), batch.targets.expand_as(logits), (0, 2, 3)
        overlap = (probability * truth).sum(pixels)
        soft_dice = (2 * overlap + 1) / (probability.sum(pixels) + truth.sum(pixels) + 1)
        return (1 - soft_dice.mean() + F.binary_cross_entropy_with_logits(logits, truth)) / 2

    def masks(self, images) -> np.ndarray:
        """Predicted masks of bool (n, H, W) for images (n, H, W)."""
        return (self.outputs(images).sigmoid().mean(dim=1) >= self.threshold).numpy()
