"""The classifiers: one network with one output per task.

Source: ResNet-50 of He et al. 2016 from torchvision, its first convolution averaged to one channel; the published code
in fact used a ResNet-18 and a DenseNet, so the backbone is a setting.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairrecon_core.cohort.folder import Cohort
from fairrecon_core.learn.weights import load_weights, read_card
from fairrecon_core.predict.readers import Labelled, Reader, check_labels

LABEL_POLICIES = {"ignore": None, "zeros": 0.0, "ones": 1.0}
BACKBONES = ("resnet18_half", "resnet18", "resnet50", "xrv_densenet")


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
    learning_rate, weight_decay, decay, device
        Of Adam; whether its rate falls to 0 along a cosine; of inference.
    size : int
        Pixels on a side that the network sees, to which an image is resized; 0: as it comes.
    """

    kind = "classifier"
    tasks: list[str]

    def __init__(self, tasks: Sequence[str], backbone="resnet50", *, positive_weight=None, label_policy="ignore",
                 imagenet=False, learning_rate=1e-4, weight_decay=0.0, decay=True, size=0, device="cpu"):  # fmt: skip
        if backbone not in BACKBONES or label_policy not in LABEL_POLICIES:
            raise ValueError(f"{backbone=} or {label_policy=} unknown: {BACKBONES}, {tuple(LABEL_POLICIES)}")
        self.tasks, self.backbone, self.label_policy = list(tasks), backbone, label_policy
        self.imagenet, self.started_from, self.size = imagenet, "random", size
        self.positive_weight = torch.as_tensor(positive_weight or [1.0] * len(self.tasks), dtype=torch.float32)
        card = {"tasks": self.tasks, "backbone": backbone} | ({"size": size} if size else {})
        super().__init__(learning_rate, device, decay=decay, weight_decay=weight_decay, **card)

    def build(self) -> None:
        """The backbone with one input channel and one output per task."""
        self.net = self._densenet() if self.backbone == "xrv_densenet" else self._resnet()

    def _imagenet(self, make: Callable[..., Any]) -> nn.Module | None:
        """torchvision's network with ImageNet weights, if they are asked for and can be had."""
        try:
            net = make(weights="IMAGENET1K_V1") if self.imagenet else None
            self.started_from = "ImageNet" if net else self.started_from
            return net
        except OSError as error:
            warnings.warn(f"no ImageNet weights ({error}): starting from random ones", stacklevel=4)
            return None

    def _densenet(self) -> nn.Module:
        from torchvision import models

        net = XRVDenseNet(len(self.tasks))
        if (start := self._imagenet(models.densenet121)) is not None:
            found = {k[9:]: v for k, v in start.state_dict().items() if k.startswith("features.")}
            found["conv0.weight"] = found["conv0.weight"].mean(dim=1, keepdim=True)
            net.net.features.load_state_dict(found)
        return net

    def _resnet(self) -> nn.Module:
        from torchvision import models

        half = self.backbone == "resnet18_half"
        make: Callable[..., Any] = _half_resnet18 if half else getattr(models, self.backbone)
        net: Any = (None if half else self._imagenet(make)) or make()
        first = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
        first.weight.data = net.conv1.weight.data.mean(dim=1, keepdim=True)
        net.conv1, net.fc = first, nn.Linear(net.fc.in_features, len(self.tasks))
        return net

    def training_targets(self, cohort: Cohort, rows) -> tuple[np.ndarray, np.ndarray]:
        """Rows with a label, and the labels (n, tasks) as recorded: columns `y_<task>` of the cohort."""
        labels = cohort.table[[f"y_{task}" for task in self.tasks]].to_numpy(np.float32)[rows]
        known = ~np.isnan(labels).all(axis=1)
        return rows[known], labels[known]

    def prepare(self, targets: np.ndarray) -> None:
        """Weigh the positive cases of each task by how rare they are among the `targets`."""
        self.positive_weight = self.positive_weight.new_tensor(positive_weights(targets))

    def start_from(self, path) -> None:
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
        """The loss of `losses`, without gradients."""
        return self._loss(batch)

    def _loss(self, batch: Labelled) -> Tensor:
        target, fill = batch.targets, LABEL_POLICIES[self.label_policy]
        known = ~target.isnan() if fill is None else torch.ones_like(target, dtype=torch.bool)
        target = target.nan_to_num(fill or 0.0)
        weight = self.positive_weight.to(target.device)
        loss = F.binary_cross_entropy_with_logits(
            self._answer(batch.images), target, pos_weight=weight, reduction="none"
        )
        return (loss * known).sum() / known.sum().clamp(min=1)

    def _answer(self, images: Tensor) -> Tensor:
        """Logits for images (B, 1, H, W), resized to `size`."""
        if self.size and self.size != images.shape[-1]:
            size = (self.size, self.size)
            images = F.interpolate(images, size=size, mode="bilinear", antialias=True, align_corners=False)
        return self.net(images)

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
