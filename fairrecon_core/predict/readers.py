"""What the frozen readers share: how they learn from labelled images, and how they are kept and asked.

Conventions: images are (n, H, W) in [0, 1]; a score is a probability; a label is 0, 1 or NaN (missing or uncertain). A
reader never sees which arm it reads, so its scores on `clean` are the same whatever runs beside it.
Source: paper Sec. 3.2 "Prediction".
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairrecon_core.cohort.folder import Cohort
from fairrecon_core.learn.body import cosine
from fairrecon_core.learn.devices import fitting
from fairrecon_core.learn.loop import Images, Trainable, fit
from fairrecon_core.learn.threads import equal_chunks, side_by_side
from fairrecon_core.learn.weights import load_weights, save_weights


@dataclass(frozen=True)
class Labelled:
    """Images (B, 1, H, W), their targets (labels (B, tasks) with NaN, or masks (B, 1, H, W)), and their names."""

    images: Tensor
    targets: Tensor
    names: list

    def to(self, device) -> "Labelled":
        """The same batch on a device."""
        return Labelled(self.images.to(device), self.targets.to(device), self.names)


def labelled(
    train: Images, train_targets, validation: Images, validation_targets, *, batch_size=16, seed=0, flips=False,
    augment=False, crop=0,
) -> Callable:  # fmt: skip
    """What a reader learns from: `draw(epoch, rank)` for `learn.loop.fit`.

    Parameters
    ----------
    train, validation : Images
    train_targets, validation_targets : array
        Labels (n, tasks) in {0, 1, NaN}, or masks (n, H, W) of bool; row i belongs to image i.
    batch_size, seed : int
    flips : bool
        Mirror half of the training images, and their masks, left to right.
    augment : bool
        Turn, zoom, shift and re-expose every training image (`augmented`): few patients go further.
    crop : int
        Side of the square, drawn anew each time, that is cut out of an augmented image; 0 for the whole image.

    Raises
    ------
    ValueError
        Numbers of images and targets differ, there are none, or a label is not 0, 1 or NaN; a `crop` without `augment`.
    """
    if crop and not augment:
        raise ValueError(f"a crop of {crop} px is cut out of augmented images: set augment: true, or no crop")
    data = {}
    for what, images, targets in (("train", train, train_targets), ("validation", validation, validation_targets)):
        targets = np.asarray(targets)
        if len(images) != len(targets) or not len(images):
            raise ValueError(f"{what}: {len(images)} images and {len(targets)} targets, need as many and at least one")
        data[what] = (images, targets if targets.dtype == bool else check_labels(targets))

    def draw(epoch: int | None, rank: tuple[int, int] = (0, 1)) -> Iterator[Labelled]:
        images, targets = data["validation" if epoch is None else "train"]
        rows, mirrored = np.arange(len(images)), np.zeros(len(images), dtype=bool)
        if epoch is not None:
            generator = np.random.default_rng([seed, epoch])
            rows, mirrored = generator.permutation(rows), flips & (generator.random(len(rows)) < 0.5)
        for start in range(rank[0] * batch_size, len(rows), rank[1] * batch_size):
            chosen = rows[start : start + batch_size]
            pixels, names = images.at(chosen)
            target = torch.from_numpy(targets[chosen].astype(np.float32))
            turn = torch.from_numpy(mirrored[chosen])[:, None, None]
            pixels = torch.where(turn, pixels.flip(-1), pixels)
            pixels = pixels[:, None]
            if target.ndim == 3:
                target = torch.where(turn, target.flip(-1), target)[:, None]
            if augment and epoch is not None:
                pixels, target = augmented(pixels, target, generator, crop)
            yield Labelled(pixels, target, names)

    return draw


def augmented(images: Tensor, targets: Tensor, generator: np.random.Generator, crop: int = 0) -> tuple[Tensor, Tensor]:
    """Each image turned by up to 15 degrees, zoomed by up to 15 %, shifted by up to 5 %, and of another exposure.

    Parameters
    ----------
    images : Tensor, shape (B, 1, H, W)
        In [0, 1]. What comes in from outside the image is 0.
    targets : Tensor
        Masks (B, 1, H, W), which move with their images; anything else is returned as it is.
    crop : int
        Side in px of a square anywhere in the image that is left of it; 0: all is. ValueError where it is larger.
    generator : numpy Generator

    Returns
    -------
    images, targets : Tensor
        Shaped as they came, or cropped; images in [0, 1], masks 0 or 1.
    """
    n, sides = len(images), images.shape[-2:]
    if crop > min(sides):
        raise ValueError(f"a crop of {crop} px does not fit into images of {sides[0]} x {sides[1]} px")
    angle, zoom = np.deg2rad(generator.uniform(-15, 15, n)), np.exp(generator.uniform(-0.15, 0.15, n))
    shift, gamma = generator.uniform(-0.1, 0.1, (n, 2)), np.exp(generator.uniform(-0.3, 0.3, n))  # of [-1, 1]: 5 %
    turned = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], axis=1).reshape(n, 2, 2)
    turned = turned / zoom[:, None, None]
    if crop:
        kept = crop / np.array(sides[::-1])
        turned, shift = turned * kept, shift + generator.uniform(-1, 1, (n, 2)) * (1 - kept)
    matrix = torch.from_numpy(np.concatenate([turned, shift[..., None]], axis=2)).float()
    grid = F.affine_grid(matrix, [n, 1, *((crop, crop) if crop else sides)], align_corners=False)
    images = F.grid_sample(images, grid, align_corners=False).clamp(0, 1)
    if targets.ndim == 4:
        targets = F.grid_sample(targets, grid, mode="nearest", align_corners=False)
    return images ** torch.from_numpy(gamma).float()[:, None, None, None], targets


def check_labels(labels) -> np.ndarray:
    """Labels as float32 (n, tasks); ValueError for a value other than 0, 1 and NaN."""
    labels = np.asarray(labels, dtype=np.float32)
    labels = labels[:, None] if labels.ndim == 1 else labels
    odd = ~(np.isnan(labels) | (labels == 0) | (labels == 1))
    if odd.any():
        raise ValueError(f"labels are 0, 1 or empty (NaN), found {labels[odd][0]:g}: map uncertain codes first")
    return labels


class Reader(Trainable[Labelled]):
    """What classifier and segmenter share: fitting, saving, loading, and reading two images at a time on the CPU."""

    kind = ""
    batch_size = 16  # in training
    inference_batch = 32  # on a GPU
    tasks: Sequence[str] = ()  # whose labels it learns; none for one that learns masks
    crop = 0  # side of the square that is cut out of each augmented training image; 0: none is
    held_out = True  # whether validation patients are kept from learning, to choose the best epoch
    net: nn.Module

    def __init__(self, learning_rate: float, device: str, *, decay: bool = True, weight_decay: float = 0.0, **card):
        self.learning_rate, self.device, self.settings = learning_rate, device, card
        self.decay, self.weight_decay = decay, weight_decay
        self.build()

    def build(self) -> None:
        """Make `net` with weights from torch's random state (and ImageNet's where they can be had)."""
        raise NotImplementedError

    def training_targets(self, cohort: Cohort, rows) -> tuple[np.ndarray, np.ndarray]:
        """Those of `rows` of a `cohort` that have a target, and their targets: labels (n, tasks) or masks (n, H, W)."""
        raise NotImplementedError

    def prepare(self, targets: np.ndarray) -> None:
        """Look at all training targets before it learns; nothing by default."""

    def modules(self) -> dict[str, nn.Module]:
        """The network."""
        return {"net": self.net}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Adam."""
        rate, decay = self.learning_rate, self.weight_decay
        return {"net": torch.optim.Adam(self.net.parameters(), lr=rate, weight_decay=decay)}

    def rate(self, epoch: int, epochs: int) -> float:
        """Half a cosine from 1 towards 0 with `decay`, else 1."""
        return cosine(epoch, epochs) if self.decay else 1.0

    def fit(self, draw: Callable, *, seed: int = 0, start=None, **options) -> pd.DataFrame:
        """Train on batches of `labelled` with `learn.loop.fit` (`options`); the table of losses. Best weights stay.

        `start`: a file of the same kind of reader whose weights it begins with, in place of random ones.
        """
        torch.manual_seed(seed)
        self.build()
        if start is not None:
            self.start_from(start)
        losses = fit(self, draw, seed=seed, **options)
        self.ready()
        return losses

    def start_from(self, path) -> None:
        """Take first weights from a file that `save` wrote."""
        load_weights(path, self.net, reader=self.kind, **self.settings)

    def ready(self) -> None:
        """Freeze the network and move it to the device of inference; channels last is a third faster on a CPU."""
        self.net.eval().requires_grad_(False).to(self.device).to(memory_format=torch.channels_last)

    def save(self, path, **card) -> None:
        """Write float16 weights with their model card."""
        save_weights(path, self.net, {"reader": self.kind} | self.settings | card)

    def load(self, path, **expected) -> dict:
        """Read weights that `save` wrote and return their card; refuses those of another reader."""
        self.build()
        card = load_weights(path, self.net, reader=self.kind, **self.settings, **expected)
        self.ready()
        return card

    def outputs(self, images) -> Tensor:
        """Logits for images (n, H, W): always two at a time on the CPU, so that the batch changes no byte."""
        images = torch.as_tensor(np.asarray(images), dtype=torch.float32)[:, None]
        if self.device == "cpu":
            pairs = [images[rows] for rows in equal_chunks(len(images), 2)]
            return torch.cat(side_by_side(self._logits, pairs))[: len(images)]
        return torch.cat(fitting(self._logits, images.split(self.inference_batch), f"reader {self.kind}"))

    def _answer(self, images: Tensor) -> Tensor:
        """The network's logits for images (B, 1, H, W), as they come."""
        return self.net(images)

    @torch.inference_mode()
    def _logits(self, images: Tensor) -> Tensor:
        return self._answer(images.to(self.device)).float().cpu()
