"""Pix2Pix: a U-Net that a discriminator pushes towards images that look clean, patch by patch.

The generator is the series' U-Net with normalisation and dropout in the deepest features; the discriminator sees the
degraded image beside a clean or generated one and judges overlapping 70x70 patches. Loss: vanilla GAN plus `l1_weight`
times L1. The best weights are those with the lowest L1 on validation images, which a GAN alone would not tell.
Source: Isola et al. 2017 (arXiv:1611.07004), L1 weight 100; paper Sec. 3.2, whose published runs used 1000.
"""

from collections.abc import Iterator
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairrecon_core.learn.body import UNet
from fairrecon_core.learn.loop import Batch
from fairrecon_core.reconstruct import register
from fairrecon_core.reconstruct.network import NetworkReconstructor, with_level


class PatchGAN(nn.Sequential):
    """The 70x70 discriminator: five 4x4 convolutions, strides 2, 2, 2, 1, 1; logits (B, 1, H / 8 - 2, W / 8 - 2).

    Parameters
    ----------
    in_channels : int
    width : int
        Feature maps of the first layer; 64 in the source.
    """

    def __init__(self, in_channels: int = 2, width: int = 64):
        widths, strides = [in_channels, width, 2 * width, 4 * width, 8 * width], [2, 2, 2, 1]
        layers: list[nn.Module] = []
        for k, stride in enumerate(strides):
            layers += [nn.Conv2d(widths[k], widths[k + 1], 4, stride, 1, bias=k == 0)]
            layers += [nn.BatchNorm2d(widths[k + 1])] if k else []
            layers += [nn.LeakyReLU(0.2)]
        super().__init__(*layers, nn.Conv2d(widths[-1], 1, 4, 1, 1))


@register
class Pix2PixReconstructor(NetworkReconstructor):
    """Conditional GAN with L1, Adam at 2e-4 with beta1 = 0.5, the rate constant and then falling to 0 linearly.

    Parameters
    ----------
    modality, width, device
        As in `NetworkReconstructor`.
    learning_rate : float
        Of both networks.
    l1_weight : float
        Of the L1 term against the adversarial term: 100, or the 1000 of the published runs.
    """

    name, label, colour, marker = "pix2pix", "Pix2Pix", "#E69F00", "^"
    generative = True
    short_training: ClassVar = {"learning_rate": 5e-4}

    def __init__(self, modality="mri", width=16, device="cpu", learning_rate=2e-4, l1_weight=100.0):
        super().__init__(modality, width, device)
        self.learning_rate, self.l1_weight = learning_rate, l1_weight
        self.build()

    def build(self) -> None:
        """Generator and discriminator; the discriminator sees degraded, candidate and level."""
        self.net = UNet(in_channels=2, width=self.width, norm=True, dropout=0.5)
        for value in self.net.out.parameters():
            nn.init.zeros_(value)
        self.judge = PatchGAN(in_channels=3, width=self.width)

    def modules(self) -> dict[str, nn.Module]:
        """The generator `net` and the discriminator `judge`."""
        return {"net": self.net, "judge": self.judge}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Adam for each."""
        options = {"lr": self.learning_rate, "betas": (0.5, 0.999)}
        return {name: torch.optim.Adam(module.parameters(), **options) for name, module in self.modules().items()}

    def rate(self, epoch: int, epochs: int) -> float:
        """1 in the first half of the epochs, then falling linearly towards 0."""
        return min(1.0, 2 * (epochs - epoch) / epochs)

    def predict(self, degraded: Tensor, level: float) -> Tensor:
        """(B, 1, H, W) to (B, 1, H, W), with gradients, not clipped."""
        return degraded + self.net(with_level(degraded, self.modality, level))

    def losses(self, batch: Batch) -> Iterator[tuple[str, Tensor]]:
        """The discriminator steps first, then the generator against the discriminator that has stepped."""
        seen = with_level(batch.degraded, self.modality, batch.level)
        generated = self.predict(batch.degraded, batch.level)
        real = self.judge(torch.cat([seen, batch.clean], dim=1))
        fake = self.judge(torch.cat([seen, generated.detach()], dim=1))
        yield "judge", (_against(real, 1.0) + _against(fake, 0.0)) / 2
        fooled = self.judge(torch.cat([seen, generated], dim=1))
        yield "net", _against(fooled, 1.0) + self.l1_weight * F.l1_loss(generated, batch.clean)

    def validation_loss(self, batch: Batch) -> Tensor:
        """L1."""
        return F.l1_loss(self.predict(batch.degraded, batch.level), batch.clean)

    def restore(self, degraded, level, image_ids, seed, sample, measurement) -> Tensor:
        """The generator's image; dropout is off."""
        return self.predict(degraded[:, None].to(self.device), level)[:, 0]


def _against(logits: Tensor, target: float) -> Tensor:
    """Vanilla GAN loss: cross-entropy of the patches' logits against one target."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))
