"""What all reconstructing networks share: their options, device, fitting, saving, loading, and the level they are told.

Conventions: networks take and give (B, C, H, W). One network covers several levels: a constant channel tells it which,
and it predicts what to add to the degraded image.
"""

import math
from typing import ClassVar

import torch
from torch import Tensor

from fairrecon_core.learn.devices import fitting
from fairrecon_core.learn.loop import Batch, Trainable, fit, pairs
from fairrecon_core.learn.threads import side_by_side
from fairrecon_core.learn.weights import load_weights, save_weights
from fairrecon_core.reconstruct import Reconstructor
from fairrecon_core.settings import Settings


def level_code(modality: str, level: float) -> float:
    """A level as a number of about 0 to 1 that grows with the noise: R = 16 and 1 000 photons give 1."""
    return math.log2(level) / 4 if modality == "mri" else max(0.0, 6 - math.log10(level)) / 3


def with_level(image: Tensor, modality: str, level: float) -> Tensor:
    """Append the level to (B, C, H, W) as a constant channel."""
    return torch.cat([image, torch.full_like(image[:, :1], level_code(modality, level))], dim=1)


class NetworkReconstructor(Trainable[Batch], Reconstructor):
    """What the three networks share: options, device, fitting, saving, loading.

    Parameters
    ----------
    modality : {"mri", "xray"}
    width : int
        Feature maps of the first level.
    device : str
        Where inference runs.
    """

    learns = True
    saved = "net"  # attribute with the module that inference needs
    generative = False  # whether it has epochs of its own, `generative_epochs`
    short_training: ClassVar[dict] = {}  # options for some epochs on a CPU; the defaults are the paper's long training

    @classmethod
    def options(cls, settings: Settings, modality: str) -> dict:
        """Options of the class that the settings decide; `modality` may matter to a subclass."""
        return cls.short_training | {"width": settings.width}

    @classmethod
    def recipe(cls, settings: Settings) -> dict:
        """Options of its training, `learn.recipes.OF_TRAINING`, before `recipes` of the settings."""
        epochs = (cls.generative and settings.generative_epochs) or settings.epochs
        return {"epochs": epochs, "batch_size": settings.batch_size, "patience": settings.patience}

    def __init__(self, modality: str = "mri", width: int = 16, device: str = "cpu", **options):
        super().__init__(modality)
        self.width, self.device, self.identity = width, device, options

    def fit(
        self, train, validation, degradation, levels, *, seed: int = 0, batch_size: int = 8, flips: bool = False,
        start=None, **options,
    ):  # fmt: skip
        """Train with `learn.loop.fit`; the table of losses. The best weights stay in the network.

        Parameters
        ----------
        train, validation, degradation, levels, batch_size, flips
            As in `learn.loop.pairs`.
        seed : int
            Of the first weights and of everything random in training.
        start : path, optional
            Weights of the same network to start from, in place of random ones.
        **options
            Of `learn.loop.fit`: epochs, patience, folder, accelerator, ...
        """
        torch.manual_seed(seed)
        self.build()
        if start is not None:
            self.start_from(start)
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

    def start_from(self, path) -> None:
        """Take first weights from a file that `save` wrote."""
        load_weights(path, getattr(self, self.saved), **self.card())

    def card(self) -> dict:
        """What a weights file must say to fit this reconstructor."""
        return {"arm": self.name, "modality": self.modality, "width": self.width, **self.identity}

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
        """Chunks side by side on the CPU's threads; one after the other on a GPU, smaller ones if it is full."""
        return side_by_side(part, chunks) if self.device == "cpu" else fitting(part, chunks, self.name)

    def chunk(self, n: int) -> int:
        """Always two images at a time on the CPU, a tenth faster than one; `inference_batch` on a GPU."""
        return 2 if self.device == "cpu" else min(n, self.inference_batch)
