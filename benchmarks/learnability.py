"""Can a small network learn the simulated chest findings, and are none of them trivial?

Trains a network of about 120 000 weights on simulated radiographs with recorded (noisy) labels and prints the AUROC of
each finding on fresh patients, against recorded labels and against the true disease. Sex, age group and view are
learnt beside them, to know which shortcuts an image offers. One thread, about ten minutes.
"""

import time

import numpy as np
import torch
from report import Report, parser
from sklearn.metrics import roc_auc_score
from torch import nn

from fairrecon_lab.simulate import simulate
from fairrecon_lab.simulate.causal import TASKS

COARSE = ("pleural_effusion", "edema", "cardiomegaly", "consolidation")
FINE = ("lung_lesion", "pleural_other", "fracture", "pneumonia")
OF_THE_PAPER = tuple(task for task in TASKS["chest"] if task != "support_devices")
ATTRIBUTES = ("sex", "age", "view")


def cohort(n_images: int, seed: int, size: int, shrink: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Images uint8 (n, size / shrink, size / shrink); columns y_<task> and true_<task>, the attributes among them."""
    images, rows = np.empty((n_images, size // shrink, size // shrink), np.uint8), []
    for i, (image, row, _) in enumerate(simulate("chest", n_images, seed=seed, size=size)):
        binned = image.reshape(size // shrink, shrink, size // shrink, shrink).mean((1, 3))
        images[i] = np.round(255 * binned)
        rows.append(row)
    columns = {key: np.array([row[key] for row in rows]) for key in rows[0] if key.startswith(("y_", "true_"))}
    for key, values in (
        ("sex", [row["sex"] == "male" for row in rows]),
        ("age", [row["age_years"] >= 62 for row in rows]),
        ("view", [row["x_view"] == "AP" for row in rows]),
    ):
        columns[f"y_{key}"] = columns[f"true_{key}"] = np.array(values)
    return images, columns


def network(n_outputs: int) -> nn.Module:
    """Five convolutions; mean and maximum over the image feed one linear layer."""

    def block(n_in: int, n_out: int, stride: int = 1) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(n_in, n_out, 3, stride, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU(inplace=True)
        )

    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            pool = nn.MaxPool2d(2)
            self.features = nn.Sequential(
                block(1, 16, stride=2), block(16, 24), pool, block(24, 48), pool, block(48, 80), pool, block(80, 96)
            )
            self.head = nn.Linear(2 * 96, n_outputs)

        def forward(self, images):
            features = self.features(images)
            return self.head(torch.cat([features.mean((2, 3)), features.amax((2, 3))], dim=1))

    return Reader()


def as_input(images: np.ndarray) -> torch.Tensor:
    """uint8 (n, H, W) to float32 (n, 1, H, W), roughly standardised."""
    return (torch.from_numpy(images).float()[:, None] / 255 - 0.5) / 0.25


def train(images: np.ndarray, labels: np.ndarray, epochs: int, seed: int) -> nn.Module:
    """Fit the network with small shifts and grey-scale changes as augmentation."""
    torch.manual_seed(seed)
    model, batch = network(labels.shape[1]), 32
    x, y = as_input(images), torch.from_numpy(labels).float()
    prevalence = y.mean(0).clamp(0.01, 0.99)
    loss_of = nn.BCEWithLogitsLoss(pos_weight=((1 - prevalence) / prevalence).sqrt())
    steps = epochs * (len(x) // batch)
    optimiser = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
    model.train()
    for _ in range(epochs):
        for chosen in torch.randperm(len(x))[: len(x) // batch * batch].view(-1, batch):
            shift = torch.randint(-x.shape[-1] // 32, x.shape[-1] // 32 + 1, (2,)).tolist()
            inputs = torch.roll(x[chosen], shift, dims=(2, 3))
            inputs = inputs * (1 + 0.1 * torch.randn(batch, 1, 1, 1)) + 0.1 * torch.randn(batch, 1, 1, 1)
            optimiser.zero_grad()
            loss_of(model(inputs), y[chosen]).backward()
            optimiser.step()
            schedule.step()
    return model.eval()


@torch.no_grad()
def scores(model: nn.Module, images: np.ndarray) -> np.ndarray:
    """Logits (n, outputs)."""
    return np.concatenate([model(as_input(part)).numpy() for part in np.array_split(images, -(-len(images) // 250))])


def standard_error(auroc: float, n_positive: int, n_negative: int) -> float:
    """Of an AUROC, after Hanley and McNeil (doi:10.1148/radiology.143.1.7063747)."""
    both_positive, both_negative = auroc / (2 - auroc), 2 * auroc**2 / (1 + auroc)
    variance = auroc * (1 - auroc) + (n_positive - 1) * (both_positive - auroc**2)
    variance += (n_negative - 1) * (both_negative - auroc**2)
    return float(np.sqrt(variance / (n_positive * n_negative)))


def main() -> None:
    options = parser(__doc__.splitlines()[0])
    options.add_argument("--train", type=int, default=3000, help="training images")
    options.add_argument("--test", type=int, default=3000, help="test images")
    options.add_argument("--size", type=int, default=128)
    options.add_argument("--shrink", type=int, default=1, help="bin images by this factor (a quick look: 2)")
    options.add_argument("--epochs", type=int, default=22)
    options.add_argument("--seed", type=int, default=1)
    args = options.parse_args()
    torch.set_num_threads(1)

    report, names = Report("learnability"), (*TASKS["chest"], *ATTRIBUTES)
    started = time.process_time()
    images, columns = cohort(args.train, args.seed, args.size, args.shrink)
    test_images, test = cohort(args.test, args.seed + 1, args.size, args.shrink)
    report.row("simulation", time.process_time() - started, "CPU s")
    started = time.process_time()
    model = train(images, np.stack([columns[f"y_{name}"] for name in names], axis=1), args.epochs, args.seed)
    report.row("weights of the network", sum(p.numel() for p in model.parameters()))
    report.row("training", time.process_time() - started, "CPU s")

    logit = scores(model, test_images)
    recorded = {name: roc_auc_score(test[f"y_{name}"], logit[:, k]) for k, name in enumerate(names)}
    true = {name: roc_auc_score(test[f"true_{name}"], logit[:, k]) for k, name in enumerate(names)}
    for name in names:
        report.row(f"{name}, recorded label", recorded[name], "AUROC")
        n_sick = int(test[f"true_{name}"].sum())
        error = standard_error(true[name], n_sick, args.test - n_sick)
        goal = ("<= 0.97", true[name] <= 0.97) if name in OF_THE_PAPER else ()
        report.row(f"{name}, true (n = {n_sick}, SE {error:.3f})", true[name], "AUROC", *goal)
    within = sum(0.72 <= recorded[name] <= 0.95 for name in OF_THE_PAPER)
    report.row("findings of the paper within .72 to .95, recorded label", within, "of 12", ">= 10", within >= 10)
    gap = np.mean([true[name] for name in COARSE]) - np.mean([true[name] for name in FINE])
    report.row("coarse findings above fine ones, true disease", gap, "AUROC", "> 0", gap > 0)
    margin = min(true[name] for name in COARSE) - max(true[name] for name in FINE)
    report.row("least coarse above best fine, true disease", margin, "AUROC", "> 0", margin > 0)
    report.finish(args.json)


if __name__ == "__main__":
    main()
