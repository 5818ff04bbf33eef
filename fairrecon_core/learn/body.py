"""The U-Net that reconstructors and the segmenter share, and the fall of the learning rate.

Conventions: networks take and give (B, C, H, W); sides are multiples of 16 at four levels.
Source: Ronneberger et al. 2015 (arXiv:1505.04597); paper Sec. 3.2; widths 64 to 1024 in the released code.
"""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class UNet(nn.Module):
    """Down `depth` times by 2 and up again, with a bridge at every level; two 3x3 convolutions each time.

    Parameters
    ----------
    in_channels, out_channels : int
    width : int
        Feature maps of the first level; they double at each level down. 64 is the paper's (31 M parameters).
    depth : int
        Levels below the first; sides must be multiples of 2 ** depth.
    norm : bool
        Normalise after each convolution (in groups of channels); the paper's U-Net does not.
    dropout : float
        Share of the deepest features that is dropped in training.
    embedding : int
        Length of a vector that conditions every block (a diffusion time); 0 for none.
    """

    def __init__(self, in_channels=1, out_channels=1, width=64, depth=4, norm=False, dropout=0.0, embedding=0):
        super().__init__()
        if width < 1 or depth < 1:
            raise ValueError(f"need width and depth of at least 1, got {width=}, {depth=}")
        widths = [width * 2**level for level in range(depth + 1)]
        options = {"norm": norm, "embedding": embedding}
        self.depth = depth
        self.down = nn.ModuleList(Block(a, b, **options) for a, b in zip([in_channels, *widths], widths))
        self.rise = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in itertools.pairwise(widths))
        self.up = nn.ModuleList(Block(2 * a, a, **options) for a in widths[:-1])
        self.out = nn.Conv2d(width, out_channels, 1)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, image: Tensor, condition: Tensor | None = None) -> Tensor:
        """An `image` (B, in_channels, H, W), perhaps with a condition (B, embedding), to (B, out_channels, H, W).

        ValueError for sides that cannot be halved `depth` times.
        """
        step = 2**self.depth
        if image.shape[-1] % step or image.shape[-2] % step:
            raise ValueError(f"this U-Net takes sides that are multiples of {step}, got {tuple(image.shape[-2:])}")
        kept = []
        for level, block in enumerate(self.down):
            image = block(image if level == 0 else F.max_pool2d(image, 2), condition)
            kept.append(image)
        image = self.dropout(kept.pop())
        for level in reversed(range(self.depth)):
            image = self.up[level](torch.cat([kept[level], self.rise[level](image)], dim=1), condition)
        return self.out(image)


class Block(nn.Module):
    """Two 3x3 convolutions of `a` feature maps to `b` with ReLU; a condition scales and shifts what is between."""

    def __init__(self, a: int, b: int, norm: bool, embedding: int = 0):
        super().__init__()
        self.first, self.second = nn.Conv2d(a, b, 3, padding=1), nn.Conv2d(b, b, 3, padding=1)
        groups = math.gcd(8, b)
        self.norms = nn.ModuleList(nn.GroupNorm(groups, b) if norm else nn.Identity() for _ in range(2))
        self.shift = nn.Linear(embedding, 2 * b) if embedding else None

    def forward(self, image: Tensor, condition: Tensor | None = None) -> Tensor:
        """An `image` (B, a, H, W), perhaps with a condition (B, embedding), to (B, b, H, W)."""
        image = self.norms[0](self.first(image))
        if self.shift is not None:
            scale, shift = self.shift(condition)[:, :, None, None].chunk(2, dim=1)
            image = image * (1 + scale) + shift
        return F.relu(self.norms[1](self.second(F.relu(image))))


def cosine(epoch: int, epochs: int) -> float:
    """Half a cosine from 1 in the first epoch towards 0 after the last."""
    return 0.5 * (1 + math.cos(math.pi * epoch / epochs))
