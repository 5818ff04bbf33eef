"""The U-Net, the paper's plain reconstructor, and the body that Pix2Pix and the diffusion model share.

Conventions: networks take and give (B, C, H, W); sides are multiples of 16 at four levels. One network covers several
levels: a constant second channel tells it which, and it predicts what to add to the degraded image. `published=True` is
the network of the released code: it knows no level and predicts the image itself.
Source: Ronneberger et al. 2015 (arXiv:1505.04597); paper Sec. 3.2; widths 64 to 1024 in the released code.
"""

import itertools
import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairrecon_core.learn.loop import Batch, Recipe, fit, pairs
from fairrecon_core.learn.threads import side_by_side
from fairrecon_core.learn.weights import load_weights, save_weights
from fairrecon_core.reconstruct import Reconstructor, register


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
        self.down = nn.ModuleList(_Block(a, b, **options) for a, b in zip([in_channels, *widths], widths))
        self.rise = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in itertools.pairwise(widths))
        self.up = nn.ModuleList(_Block(2 * a, a, **options) for a in widths[:-1])
        self.out = nn.Conv2d(width, out_channels, 1)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, image: Tensor, condition: Tensor | None = None) -> Tensor:
        """Image (B, in_channels, H, W), perhaps with a condition (B, embedding), to (B, out_channels, H, W).

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


class _Block(nn.Module):
    """Two convolutions with ReLU; a condition scales and shifts the features between them."""

    def __init__(self, a: int, b: int, norm: bool, embedding: int):
        super().__init__()
        self.first, self.second = nn.Conv2d(a, b, 3, padding=1), nn.Conv2d(b, b, 3, padding=1)
        groups = math.gcd(8, b)
        self.norms = nn.ModuleList(nn.GroupNorm(groups, b) if norm else nn.Identity() for _ in range(2))
        self.shift = nn.Linear(embedding, 2 * b) if embedding else None

    def forward(self, image: Tensor, condition: Tensor | None = None) -> Tensor:
        image = self.norms[0](self.first(image))
        if self.shift is not None:
            scale, shift = self.shift(condition)[:, :, None, None].chunk(2, dim=1)
            image = image * (1 + scale) + shift
        return F.relu(self.norms[1](self.second(F.relu(image))))


def level_code(modality: str, level: float) -> float:
    """A level as a number of about 0 to 1 that grows with the noise: R = 16 and 1 000 photons give 1."""
    return math.log2(level) / 4 if modality == "mri" else max(0.0, 6 - math.log10(level)) / 3


def with_level(image: Tensor, modality: str, level: float) -> Tensor:
    """Append the level to (B, C, H, W) as a constant channel."""
    return torch.cat([image, torch.full_like(image[:, :1], level_code(modality, level))], dim=1)


def cosine(epoch: int, epochs: int) -> float:
    """Half a cosine from 1 in the first epoch towards 0 after the last."""
    return 0.5 * (1 + math.cos(math.pi * epoch / epochs))


class NetworkReconstructor(Reconstructor):
    """What the three networks share: device, fitting, saving, loading. A subclass is also a `Recipe`.

    Parameters
    ----------
    modality : {"mri", "xray"}
    width : int
        Feature maps of the first level.
    device : str
        Where inference runs.
    """

    saved = "net"  # attribute with the module that inference needs

    def __init__(self, modality: str = "mri", width: int = 16, device: str = "cpu", **options):
        super().__init__(modality)
        self.width, self.device, self.options = width, device, options

    def fit(
        self,
        train,
        validation,
        degradation,
        levels,
        *,
        seed: int = 0,
        batch_size: int = 8,
        flips: bool = False,
        start=None,
        **options,
    ):
        """Train with `training.fit`; the table of losses. The best weights stay in the network.

        Parameters
        ----------
        train, validation, degradation, levels, batch_size, flips
            As in `training.pairs`.
        seed : int
            Of the first weights and of everything random in training.
        start : path, optional
            Weights of the same network to start from, in place of random ones.
        **options
            Of `training.fit`: epochs, patience, folder, accelerator, ...
        """
        torch.manual_seed(seed)
        self.build()
        if start is not None:
            self.warm(start)
        draw = pairs(train, validation, degradation, levels, batch_size=batch_size, seed=seed, flips=flips)
        losses = fit(self, draw, seed=seed, **options)
        self.ready()
        return losses

    def build(self) -> None:
        """Make the modules anew, with weights from torch's random state."""
        raise NotImplementedError

    def ready(self) -> None:
        """Freeze the network and move it to the device of inference; channels last is a quarter faster on a CPU."""
        network = getattr(self, self.saved).eval().requires_grad_(False)
        network.to(self.device, memory_format=torch.channels_last)

    def warm(self, path) -> None:
        """Take first weights from a file that `save` wrote."""
        load_weights(path, getattr(self, self.saved), **self.card())

    def card(self) -> dict:
        """What a weights file must say to fit this reconstructor."""
        return {"arm": self.name, "modality": self.modality, "width": self.width, **self.options}

    def save(self, path, **card) -> None:
        """Write float16 weights with their model card."""
        save_weights(path, getattr(self, self.saved), self.card() | card)

    def load(self, path, **expected) -> dict:
        """Read weights that `save` wrote and return their card; refuses those of another arm, modality or width."""
        self.build()
        card = load_weights(path, getattr(self, self.saved), **self.card(), **expected)
        self.ready()
        return card

    def work(self, part, chunks: list) -> list[Tensor]:
        """Chunks side by side on the CPU's threads; one after the other on a GPU."""
        return side_by_side(part, chunks) if self.device == "cpu" else super().work(part, chunks)

    def chunk(self, n: int) -> int:
        """Always two images at a time on the CPU, a tenth faster than one; up to 32 on a GPU."""
        return 2 if self.device == "cpu" else min(n, 32)


@register
class UNetReconstructor(Recipe, NetworkReconstructor):
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

    name = "unet"

    def __init__(self, modality="mri", width=16, device="cpu", learning_rate=1e-4, published=False, decay=False):
        super().__init__(modality, width, device, published=published)
        self.learning_rate, self.published, self.decay = learning_rate, published, decay
        self.build()

    def build(self) -> None:
        """One U-Net; ours starts as the identity because its last layer starts at zero."""
        self.net = UNet(in_channels=1 if self.published else 2, width=self.width)
        if not self.published:
            nn.init.zeros_(self.net.out.weight)
            nn.init.zeros_(self.net.out.bias)

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
