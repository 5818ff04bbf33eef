"""The frozen readers: classifiers and a segmenter, trained on clean images and run over every arm.

Conventions: images are (n, H, W) in [0, 1]; a score is a probability; a label is 0, 1 or NaN (missing or uncertain). A
reader never sees which arm it reads, so its scores on `clean` are the same whatever runs beside it. Rows go to the
tables `predictions` (key, task, score) and `overlap` (key, pixels of mask and prediction); Dice follows from these.
Source: paper Sec. 3.2 "Prediction"; ResNet-50 of He et al. 2016 from torchvision, its first convolution averaged to one
channel; the published code in fact used a ResNet-18 and a DenseNet, so the backbone is a setting.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairrecon_core.cohort.folder import Cohort
from fairrecon_core.learn.loop import Images, Recipe, fit
from fairrecon_core.learn.threads import equal_chunks, side_by_side
from fairrecon_core.learn.weights import load_weights, read_card, save_weights
from fairrecon_core.reconstruct.unet import UNet, cosine

LABEL_POLICIES = {"ignore": None, "zeros": 0.0, "ones": 1.0}
BACKBONES = ("resnet18_half", "resnet18", "resnet50", "xrv_densenet")


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
    augment=False,
) -> Callable:  # fmt: skip
    """What a reader learns from: `draw(epoch, rank)` for `training.fit`.

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

    Raises
    ------
    ValueError
        Numbers of images and targets differ, there are none, or a label is not 0, 1 or NaN.
    """
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
                pixels, target = augmented(pixels, target, generator)
            yield Labelled(pixels, target, names)

    return draw


def augmented(images: Tensor, targets: Tensor, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Each image turned by up to 15 degrees, zoomed by up to 15 %, shifted by up to 5 %, and of another exposure.

    Parameters
    ----------
    images : Tensor, shape (B, 1, H, W)
        In [0, 1]. What comes in from outside the image is 0.
    targets : Tensor
        Masks (B, 1, H, W), which move with their images; anything else is returned as it is.
    generator : numpy Generator

    Returns
    -------
    images, targets : Tensor
        Shaped as they came; images in [0, 1], masks 0 or 1.
    """
    n = len(images)
    angle, zoom = np.deg2rad(generator.uniform(-15, 15, n)), np.exp(generator.uniform(-0.15, 0.15, n))
    shift, gamma = generator.uniform(-0.1, 0.1, (n, 2)), np.exp(generator.uniform(-0.3, 0.3, n))  # of [-1, 1]: 5 %
    turned = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], axis=1).reshape(n, 2, 2)
    matrix = torch.from_numpy(np.concatenate([turned / zoom[:, None, None], shift[..., None]], axis=2)).float()
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
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


class Reader(Recipe):
    """What classifier and segmenter share: fitting, saving, loading, and reading two images at a time on the CPU."""

    kind = ""
    batch_size = 16  # in training

    def __init__(self, learning_rate: float, device: str, **card):
        self.learning_rate, self.device, self.settings = learning_rate, device, card
        self.build()

    def build(self) -> None:
        """Make `net` with weights from torch's random state (and ImageNet's where they can be had)."""
        raise NotImplementedError

    def lesson(self, cohort: Cohort, rows) -> tuple[np.ndarray, np.ndarray]:
        """Those of `rows` of a cohort from which it can learn, and what it should answer to them."""
        raise NotImplementedError

    def modules(self) -> dict[str, nn.Module]:
        """The network."""
        return {"net": self.net}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Adam."""
        return {"net": torch.optim.Adam(self.net.parameters(), lr=self.learning_rate)}

    def rate(self, epoch: int, epochs: int) -> float:
        """Half a cosine from 1 towards 0."""
        return cosine(epoch, epochs)

    def fit(self, draw: Callable, *, seed: int = 0, start=None, **options) -> pd.DataFrame:
        """Train on batches of `labelled` with `training.fit` (`options`); the table of losses. Best weights stay.

        `start`: a file of the same kind of reader whose weights it begins with, in place of random ones.
        """
        torch.manual_seed(seed)
        self.build()
        if start is not None:
            self.warm(start)
        losses = fit(self, draw, seed=seed, **options)
        self.ready()
        return losses

    def warm(self, path) -> None:
        """Take first weights from a file that `save` wrote."""
        load_weights(path, self.net, reader=self.kind, **self.settings)

    def ready(self) -> None:
        """Freeze the network and move it to the device of inference; channels last is a third faster on a CPU."""
        self.net.eval().requires_grad_(False).to(self.device, memory_format=torch.channels_last)

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
        return torch.cat([self._logits(part) for part in images.split(64)])

    @torch.inference_mode()
    def _logits(self, images: Tensor) -> Tensor:
        return self.net(images.to(self.device)).float().cpu()


class Classifier(Reader):
    """One network with one output per task; missing labels are masked, rare positives weigh more.

    Parameters
    ----------
    tasks : sequence of str
    backbone : {"resnet18_half", "resnet18", "resnet50", "xrv_densenet"}
        resnet18_half has half the channels in its blocks, a fourth of the weights: what `tutorial` ships. xrv_densenet
        is the architecture that the published code used for chest films; it needs torchxrayvision.
    positive_weight : sequence of float, optional
        Weight of the positive cases of each task, see `positive_weights`.
    label_policy : {"ignore", "zeros", "ones"}
        What a missing or uncertain label counts as in training.
    imagenet : bool
        Start from ImageNet weights (torchvision downloads them); `started_from` says what came of it.
    learning_rate, device
        Of Adam; of inference.
    """

    kind = "classifier"

    def __init__(self, tasks: Sequence[str], backbone="resnet50", *, positive_weight=None, label_policy="ignore",
                 imagenet=False, learning_rate=1e-4, device="cpu"):  # fmt: skip
        if backbone not in BACKBONES or label_policy not in LABEL_POLICIES:
            raise ValueError(f"{backbone=} or {label_policy=} unknown: {BACKBONES}, {tuple(LABEL_POLICIES)}")
        self.tasks, self.backbone, self.label_policy = list(tasks), backbone, label_policy
        self.imagenet, self.started_from = imagenet, "random"
        self.positive_weight = torch.as_tensor(positive_weight or [1.0] * len(self.tasks), dtype=torch.float32)
        super().__init__(learning_rate, device, tasks=self.tasks, backbone=backbone)

    def build(self) -> None:
        """The backbone with one input channel and one output per task."""
        self.net = XRVDenseNet(len(self.tasks)) if self.backbone == "xrv_densenet" else self._resnet()

    def _resnet(self) -> nn.Module:
        from torchvision import models

        half = self.backbone == "resnet18_half"
        make, weights = (_half_resnet18 if half else getattr(models, self.backbone)), None
        if self.imagenet and not half:
            try:
                net = make(weights="IMAGENET1K_V1")
                self.started_from = weights = "ImageNet"
            except OSError as error:
                warnings.warn(f"no ImageNet weights ({error}): starting from random ones", stacklevel=3)
        net = net if weights else make()
        first = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
        first.weight.data = net.conv1.weight.data.mean(dim=1, keepdim=True)
        net.conv1, net.fc = first, nn.Linear(net.fc.in_features, len(self.tasks))
        return net

    def lesson(self, cohort: Cohort, rows) -> tuple[np.ndarray, np.ndarray]:
        """Rows with a label, and the labels (n, tasks) as recorded: columns `y_<task>` of the cohort."""
        labels = cohort.table[[f"y_{task}" for task in self.tasks]].to_numpy(np.float32)[rows]
        known = ~np.isnan(labels).all(axis=1)
        return rows[known], labels[known]

    def warm(self, path) -> None:
        """Take first weights from a classifier with this backbone; its last layer only if it has the same tasks."""
        twin = Classifier(read_card(path).get("tasks", self.tasks), self.backbone)
        load_weights(path, twin.net, reader=self.kind, backbone=self.backbone)
        kept = {key: value for key, value in twin.net.state_dict().items() if self._shared(key, twin.tasks)}
        self.net.load_state_dict(kept, strict=False)
        self.started_from = Path(path).name

    def _shared(self, key: str, tasks: list[str]) -> bool:
        return tasks == self.tasks or not key.startswith(("fc.", "net.classifier."))

    def losses(self, batch: Labelled) -> Iterator[tuple[str, Tensor]]:
        """Cross-entropy over the known labels."""
        yield "net", self._loss(batch)

    def validation_loss(self, batch: Labelled) -> Tensor:
        """The same."""
        return self._loss(batch)

    def _loss(self, batch: Labelled) -> Tensor:
        target, fill = batch.targets, LABEL_POLICIES[self.label_policy]
        known = ~target.isnan() if fill is None else torch.ones_like(target, dtype=torch.bool)
        target = target.nan_to_num(fill or 0.0)
        weight = self.positive_weight.to(target.device)
        loss = F.binary_cross_entropy_with_logits(self.net(batch.images), target, pos_weight=weight, reduction="none")
        return (loss * known).sum() / known.sum().clamp(min=1)

    def scores(self, images) -> np.ndarray:
        """Probabilities (n, tasks) for images (n, H, W)."""
        return self.outputs(images).sigmoid().numpy().astype(float)


def _half_resnet18() -> nn.Module:
    """torchvision's ResNet-18 with 32 to 256 channels in its blocks, in place of 64 to 512."""
    from torchvision.models.resnet import BasicBlock, ResNet

    class Half(ResNet):
        def _make_layer(self, block, planes, *rest, **options):
            return super()._make_layer(block, planes // 2, *rest, **options)

    net = Half(BasicBlock, [2, 2, 2, 2])
    net.fc = nn.Linear(256, 1000)
    return net


class XRVDenseNet(nn.Module):
    """TorchXRayVision's DenseNet-121 with its own input scale of -1024 to 1024, and logits out."""

    def __init__(self, n_tasks: int):
        super().__init__()
        try:
            import torchxrayvision
        except ImportError as error:
            raise ImportError("backbone 'xrv_densenet' needs torchxrayvision: pip install torchxrayvision") from error
        self.net = torchxrayvision.models.DenseNet(num_classes=n_tasks, in_channels=1, weights=None)
        self.net.apply_sigmoid = False

    def forward(self, image: Tensor) -> Tensor:
        """(B, 1, H, W) in [0, 1] to logits (B, tasks)."""
        features = F.relu(self.net.features(image * 2048 - 1024))
        return self.net.classifier(F.adaptive_avg_pool2d(features, 1).flatten(1))


def positive_weights(labels, most: float = 10.0) -> list[float]:
    """Negatives per positive of each task, at most `most`; 1 where a task has no known positive."""
    labels = check_labels(labels)
    positive, negative = (labels == 1).sum(axis=0), (labels == 0).sum(axis=0)
    return [float(min(n / p, most)) if p else 1.0 for p, n in zip(positive, negative)]


class Segmenter(Reader):
    """U-Net for the whole tumour, Dice and cross-entropy on logits.

    Parameters
    ----------
    width : int
        Feature maps of the first level.
    threshold : float
        Probability from which a pixel is tumour.
    learning_rate, device
        Of Adam; of inference.
    """

    kind = "segmenter"
    batch_size = 8

    def __init__(self, width: int = 16, *, threshold: float = 0.5, learning_rate: float = 1e-3, device: str = "cpu"):
        self.width, self.threshold = width, threshold
        super().__init__(learning_rate, device, width=width)

    def build(self) -> None:
        """One U-Net with normalisation."""
        self.net = UNet(1, 1, self.width, norm=True)

    def lesson(self, cohort: Cohort, rows) -> tuple[np.ndarray, np.ndarray]:
        """All rows, and their masks; ValueError for a cohort without masks."""
        return rows, cohort.masks_at(rows)

    def losses(self, batch: Labelled) -> Iterator[tuple[str, Tensor]]:
        """Half soft Dice over the batch, half cross-entropy."""
        yield "net", self.validation_loss(batch)

    def validation_loss(self, batch: Labelled) -> Tensor:
        """The same."""
        logits = self.net(batch.images)
        probability = logits.sigmoid()
        overlap = (probability * batch.targets).sum()
        soft_dice = (2 * overlap + 1) / (probability.sum() + batch.targets.sum() + 1)
        return (1 - soft_dice + F.binary_cross_entropy_with_logits(logits, batch.targets)) / 2

    def masks(self, images) -> np.ndarray:
        """Predicted masks of bool (n, H, W) for images (n, H, W)."""
        return (self.outputs(images)[:, 0].sigmoid() >= self.threshold).numpy()


# ---------------------------------------------------------------------- reading the arms
def read_arm(
    batches: Iterable[tuple], classifiers: Iterable[Classifier] = (), segmenter: Segmenter | None = None, **key
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Run frozen readers over one arm, batch after batch, keeping scores but no images.

    Parameters
    ----------
    batches : iterable of (images, image_ids) or (images, image_ids, masks)
        Images (B, H, W) in [0, 1]; masks of bool where a segmenter reads.
    classifiers : iterable of Classifier
    segmenter : Segmenter, optional
    **key
        `cohort`, `arm`, `level`, and `fold`, `train_seed`, `sample` (0 by default).

    Returns
    -------
    predictions, overlap : DataFrame
        Rows of those tables; a frame without rows where nothing was asked for.

    Raises
    ------
    ValueError
        An image holds a value that is not finite.
    """
    key = {"fold": 0, "train_seed": 0, "sample": 0} | key
    predictions, overlaps, classifiers = [], [], list(classifiers)
    for images, image_ids, *masks in batches:
        images = np.asarray(images, dtype=np.float32)
        if not np.isfinite(images).all():
            raise ValueError(
                f"arm {key.get('arm')!r} holds an image that is not finite, among {list(image_ids)[:3]} ..."
            )
        head = {"image_id": list(map(str, image_ids))} | key
        for classifier in classifiers:
            scores = classifier.scores(images)
            predictions += [
                pd.DataFrame(head | {"task": task, "score": scores[:, k]}) for k, task in enumerate(classifier.tasks)
            ]
        if segmenter is not None:
            found, truth = segmenter.masks(images), np.asarray(masks[0], dtype=bool)
            counts = {"intersection": found & truth, "predicted": found, "actual": truth}
            overlaps.append(pd.DataFrame(head | {name: part.sum(axis=(1, 2)) for name, part in counts.items()}))
    columns = ["image_id", *key]
    join = lambda frames, extra: (
        pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns + extra)
    )
    return join(predictions, ["task", "score"]), join(overlaps, ["intersection", "predicted", "actual"])


def grad_cam(network: nn.Module, layer: nn.Module, image, output: int) -> np.ndarray:
    """Where in an image a network finds evidence for one of its outputs.

    Parameters
    ----------
    network : Module
        From (1, 1, H, W) to (1, outputs).
    layer : Module
        Whose features are weighed, usually the last convolutional block.
    image : array, shape (H, W)
    output : int
        Number of the task.

    Returns
    -------
    ndarray, shape (h, w) of the layer, at least 0
        Features weighed by the mean gradient of the output, negative evidence cut off (Selvaraju et al. 2017).
    """
    kept = {}
    hook = layer.register_forward_hook(lambda module, inputs, features: kept.update(features=features))
    try:
        pixels = torch.as_tensor(np.asarray(image), dtype=torch.float32)[None, None].requires_grad_(True)
        logit = network(pixels)[0, output]
        gradient = torch.autograd.grad(logit, kept["features"])[0]
    finally:
        hook.remove()
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    return F.relu((weights * kept["features"]).sum(dim=1))[0].detach().numpy()
