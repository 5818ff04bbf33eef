"""A segmenter's networks for few patients: a U-Net, and beside it one whose way down was trained on ImageNet.

Conventions: as in `predict.imagenet`, but for the side, which stays. The normalisation of the way down keeps ImageNet's
statistics; all else learns. Source: U-Nets with trained encoders after Iglovikov and Shvets 2018 (arXiv:1801.05746).
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairrecon_core.learn.body import Block, UNet
from fairrecon_core.predict.imagenet import as_in_imagenet, frozen_trunk

KEPT = (16, 24, 40, 112, 320)  # feature maps at 1/2, 1/4, 1/8, 1/16 and 1/32 of the side
RISEN = (96, 64, 48, 32, 12)  # of the way up; the last joins the image itself


class TwoUNets(nn.Module):
    """Images (B, 1, H, W) in [0, 1] to logits (B, 2, H, W): of `unet`, and of the other one (`frozen_trunk`)."""

    def __init__(self, unet: UNet):
        super().__init__()
        self.unet, self.trunk = unet, copy.deepcopy(frozen_trunk()).requires_grad_(True)
        del self.trunk._conv_head, self.trunk._bn1, self.trunk._fc  # what comes after the last features
        widths = zip((KEPT[-1], *RISEN), (*reversed(KEPT[:-1]), 1), RISEN)
        self.rise = nn.ModuleList(Block(below + skip, width, norm=True) for below, skip, width in widths)
        self.out = nn.Conv2d(RISEN[-1], 1, 1)

    def train(self, mode: bool = True) -> "TwoUNets":
        """Train or not, but for the normalisation of the way down."""
        super().train(mode)
        self.trunk.eval()
        return self

    def forward(self, image: Tensor) -> Tensor:
        """An `image` as the class says, sides as for a `UNet` and at least 32, to its two logits."""
        trunk, kept = self.trunk, [image]
        features = trunk._swish(trunk._bn0(trunk._conv_stem(as_in_imagenet(image))))
        for block in trunk._blocks:
            before, features = features, block(features)
            if features.shape[-1] < before.shape[-1]:
                kept.append(before)
        for rise in self.rise:
            skip = kept.pop()
            features = rise(torch.cat([F.interpolate(features, size=skip.shape[-2:]), skip], dim=1))
        return torch.cat([self.unet(image), self.out(features)], dim=1)
