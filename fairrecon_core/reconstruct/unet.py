"""The U-Net, the paper's plain reconstructor.

It knows the level by a constant second channel, and predicts what to add to the degraded image. `published=True` is
the network of the released code: it knows no level and predicts the image itself.
Source: Ronneberger et al. 2015 (arXiv:1505.04597); paper Sec. 3.2.
"""

from collections.abc import Iterator
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairrecon_core.learn.body import UNet, cosine
from fairrecon_core.learn.loop import Batch
from fairrecon_core.reconstruct import register
from fairrecon_core.reconstruct.network import NetworkReconstructor, with_level
from fairrecon_core.settings import Settings


@register
class UNetReconstructor(NetworkReconstructor):
    """U-Net with mean squared error and Adam at 1e-4, as in the paper.

    Parameters
    ----------
    modality, width, device
        As in `NetworkReconstructor`.
    learning_rate : float
        Of Adam.
    published : bool
        The network of the released code: no level channel, predicts the image itself, sigmoid output for X-ray.
    decay : bool
        Let the learning rate fall to 0 along a cosine, which a short training needs.
    """

    name, label, colour, marker = "unet", "U-Net", "#0072B2", "o"
    short_training: ClassVar = {"learning_rate": 1e-3, "decay": True}

    @classmethod
    def options(cls, settings: Settings, modality: str) -> dict:
        """As for all networks; in the published mode the small network of the released code."""
        published = {"published": True, "width": settings.published_width}
        return super().options(settings, modality) | (published if settings.mode(modality) == "published" else {})

    def __init__(self, modality="mri", width=16, device="cpu", learning_rate=1e-4, published=False, decay=False):
        super().__init__(modality, width, device, published=published)
        self.learning_rate, self.published, self.decay = learning_rate, published, decay
        self.build()

    def build(self) -> None:
        """One U-Net; ours starts as the identity because its last layer starts at zero."""
        self.net = UNet(in_channels=1 if self.published else 2, width=self.width)
        if not self.published:
            for value in self.net.out.parameters():
                nn.init.zeros_(value)

    def modules(self) -> dict[str, nn.Module]:
        """The network."""
        return {"net": self.net}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Adam."""
        return {"net": torch.optim.Adam(self.net.parameters(), lr=self.learning_rate)}

    def rate(self, epoch: int, epochs: int) -> float:
        """1, or half a cosine from 1 towards 0 with `decay`."""
        return cosine(epoch, epochs) if self.decay else 1.0

    def predict(self, degraded: Tensor, level: float) -> Tensor:
        """(B, 1, H, W) to (B, 1, H, W), with gradients, not clipped."""
        if self.published:
            image = self.net(degraded)
            return torch.sigmoid(image) if self.modality == "xray" else image
        return degraded + self.net(with_level(degraded, self.modality, level))

    def losses(self, batch: Batch) -> Iterator[tuple[str, Tensor]]:
        """Mean squared error."""
        yield "net", F.mse_loss(self.predict(batch.degraded, batch.level), batch.clean)

    def validation_loss(self, batch: Batch) -> Tensor:
        """Mean squared error."""
        return F.mse_loss(self.predict(batch.degraded, batch.level), batch.clean)

    def restore(self, degraded, level, image_ids, seed, sample, measurement) -> Tensor:
        """The network's image."""
        return self.predict(degraded[:, None].to(self.device), level)[:, 0]
