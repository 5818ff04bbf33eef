"""One training loop for every network of the series, on lightning-fabric (imported only when something is trained).

The loop is visible on purpose: what a batch is, in which order losses step, when the best weights are kept. What
differs between networks is a `Trainable`: its modules, optimizers and losses. Everything random follows from
(seed, epoch), so a training that was killed goes on at its last finished epoch and ends, on the CPU, with the same
weights. Devices, precision, several GPUs and nodes are the library's part.
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from fairrecon_core.cohort.pixels import as_float
from fairrecon_core.degrade import Degrades
from fairrecon_core.learn.weights import read_safetensors, write_safetensors

Drawn = TypeVar("Drawn")  # what a network learns from at a time: `Batch`, or another with `names` and `to(device)`


@dataclass(frozen=True)
class Images:
    """Clean images of one split and their names.

    Parameters
    ----------
    pixels : array, shape (n, H, W)
        float32 in [0, 1], or as stored (uint8, uint16); may be a memory map.
    names : sequence of str
        One `image_id` per image.
    """

    pixels: np.ndarray
    names: list

    def __len__(self) -> int:
        """Number of images."""
        return len(self.names)

    def at(self, rows) -> tuple[Tensor, list[str]]:
        """Images `rows` as float32 (B, H, W) in [0, 1], and their names."""
        return torch.from_numpy(as_float(self.pixels[rows])), [str(self.names[row]) for row in rows]


@dataclass(frozen=True)
class Batch:
    """Degraded and clean images, both (B, 1, H, W), their level and names."""

    degraded: Tensor
    clean: Tensor
    level: float
    names: list

    def to(self, device) -> "Batch":
        """The same batch on a device."""
        return Batch(self.degraded.to(device), self.clean.to(device), self.level, self.names)


class Trainable(Generic[Drawn]):
    """What one network wants from the loop. Override `modules`, `optimizers`, `losses` and `validation_loss`."""

    def modules(self) -> dict[str, nn.Module]:
        """Modules to train and to save, by the name of the attribute that holds each."""
        raise NotImplementedError

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Named optimizers over the parameters of `modules`."""
        raise NotImplementedError

    def losses(self, batch: Drawn) -> Iterator[tuple[str, Tensor]]:
        """Yield (optimizer, loss) one after the other; a later loss is computed after the earlier one has stepped."""
        raise NotImplementedError

    def validation_loss(self, batch: Drawn) -> Tensor:
        """Mean loss of a batch, without gradients; the best weights are those where it is lowest."""
        raise NotImplementedError

    def after_step(self) -> None:
        """Called after every batch, for a running mean of the weights."""

    def rate(self, epoch: int, epochs: int) -> float:
        """Factor on the learning rates in `epoch` of `epochs`; 1 is constant."""
        return 1.0


def batches(
    images: Images,
    degradation: Degrades,
    levels,
    batch_size: int,
    *,
    seed: int = 0,
    epoch: int | None = None,
    flips: bool = False,
    rank: tuple[int, int] = (0, 1),
) -> Iterator[Batch]:
    """Pairs of degraded and clean images; each batch has one level.

    Parameters
    ----------
    images : Images
    degradation : Degradation, or what is called like one
    levels : sequence of float
        In training each batch draws one; in validation image i has level i modulo their number.
    batch_size : int
    seed : int
    epoch : int or None
        Training: order, levels, flips and noise follow from (seed, epoch). None: validation, always the same.
    flips : bool
        Mirror half of the images left to right before they are degraded (training only).
    rank : (int, int)
        Which process of how many.

    Yields
    ------
    Batch
    """
    if epoch is None:
        pieces = [(level, np.arange(k, len(images), len(levels))) for k, level in enumerate(levels)]
        plan = [(level, rows[b : b + batch_size]) for level, rows in pieces for b in range(0, len(rows), batch_size)]
    else:
        generator = np.random.default_rng([seed, epoch])
        order, mirrored = generator.permutation(len(images)), generator.random(len(images)) < 0.5
        groups = [order[b : b + batch_size] for b in range(0, len(order), batch_size)]
        plan = list(zip(generator.choice(np.asarray(levels, dtype=float), len(groups)), groups))
    for level, rows in plan[rank[0] :: rank[1]]:
        clean, names = images.at(rows)
        if flips and epoch is not None:
            turned = torch.from_numpy(mirrored[rows])
            clean = torch.where(turned[:, None, None], clean.flip(-1), clean)
        noise_seed = seed if epoch is None else (epoch + 1) * 100_003 + seed  # new noise in every epoch
        degraded = degradation(clean, float(level), names, seed=noise_seed)
        yield Batch(degraded[:, None], clean[:, None], float(level), names)


def pairs(
    train: Images,
    validation: Images,
    degradation: Degrades,
    levels,
    *,
    batch_size: int = 8,
    seed: int = 0,
    flips: bool = False,
) -> Callable:
    """What a reconstructor learns from: `draw(epoch, rank)` for `fit`, pairs of degraded and clean images.

    Parameters
    ----------
    train, validation : Images
    degradation : Degradation, or what is called like one
    levels : sequence of float
        One network covers them all; a list of one is the paper's setting.
    batch_size, seed, flips
        As in `batches`.

    Raises
    ------
    ValueError
        No images, no level, or an empty batch.
    """
    if not len(train) or not len(validation) or not len(levels) or batch_size < 1:
        raise ValueError(f"nothing to train on: {len(train)=}, {len(validation)=}, {levels=}, {batch_size=}")
    options: dict[str, Any] = {"seed": seed, "flips": flips}

    def draw(epoch: int | None, rank: tuple[int, int] = (0, 1)) -> Iterator[Batch]:
        images = validation if epoch is None else train
        return batches(images, degradation, levels, batch_size, epoch=epoch, rank=rank, **options)

    return draw


def fit(
    recipe: Trainable,
    draw: Callable,
    *,
    epochs: int,
    patience: int = 0,
    seed: int = 0,
    folder: str | Path | None = None,
    accelerator: str = "auto",
    devices: int | str = 1,
    nodes: int = 1,
    precision: str = "auto",
    progress: bool = True,
) -> pd.DataFrame:
    """Train a recipe's modules and leave the best weights in them.

    Parameters
    ----------
    recipe : Trainable
    draw : callable
        `draw(epoch, rank)` yields the batches of an epoch, `draw(None)` those of validation, always the same. A batch
        has `names` and `to(device)`. See `pairs`.
    epochs : int
        At most; fewer with `patience`.
    patience : int
        Stop after so many epochs without a better validation loss; 0: never.
    seed : int
        Of dropout and of what a recipe draws from torch's random state. The modules' first weights are the caller's.
    folder : path, optional
        Where the state after each epoch is kept; a second call with the same folder goes on from there.
    accelerator, devices, nodes
        As in lightning-fabric: "cpu", "cuda", "auto"; a number of devices per node; a number of nodes.
    precision : str
        "auto" is `precision_of` the accelerator; the bar says which it took.
    progress : bool
        Show a bar with loss and time left.

    Returns
    -------
    DataFrame
        One row per epoch: epoch, one mean training loss per optimizer, validation, seconds.

    Raises
    ------
    ValueError
        Less than one epoch, or a state in `folder` that belongs to other modules.
    RuntimeError
        A loss is not finite, or the GPU ran out of memory; the message says what to lower.
    """
    from lightning_fabric import Fabric  # only here: it is heavy

    if epochs < 1:
        raise ValueError(f"need at least one epoch, got {epochs}")
    if accelerator == "auto" and not torch.cuda.is_available():
        accelerator = "cpu"
    if precision == "auto":
        precision = precision_of(accelerator)
    fabric = Fabric(
        accelerator=accelerator,
        devices=devices,
        num_nodes=nodes,
        precision=precision,  # type: ignore[arg-type]  # any text here: Fabric refuses what it does not know
    )
    fabric.launch()
    modules = recipe.modules()
    for module in modules.values():  # channels last: about a fifth faster on a CPU, and what GPUs want
        module.to(fabric.device).to(memory_format=torch.channels_last)
    state = _State(recipe, folder)
    state.resume()  # onto the device where the modules are by now
    for name, module in modules.items():
        if any(value.requires_grad for value in module.parameters()):
            setattr(recipe, name, fabric.setup_module(module))
    optimizers = {name: fabric.setup_optimizers(optimizer) for name, optimizer in state.optimizers.items()}
    bar = tqdm(total=epochs, initial=len(state.rows), disable=not progress or fabric.global_rank > 0, unit="epoch")
    bar.set_description(precision)
    try:
        for epoch in range(len(state.rows), epochs):
            if patience and state.epochs_since_best() >= patience:
                break
            began = time.time()
            torch.manual_seed(int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0]))  # of dropout
            state.set_rates(recipe.rate(epoch, epochs))
            drawn = draw(epoch, (fabric.global_rank, fabric.world_size))
            losses = _one_epoch(fabric, recipe, optimizers, drawn)
            value = _validate(fabric, recipe, draw(None))
            row = {"epoch": epoch, **losses, "validation": value, "seconds": round(time.time() - began, 2)}
            state.end_of_epoch(row, save=fabric.global_rank == 0)
            bar.set_postfix(loss=f"{value:.3g}", best=f"{state.best_loss():.3g}")
            bar.update(1)
    except torch.cuda.OutOfMemoryError:
        advice = "lower batch_size, width or image_size, or use precision='bf16-mixed'"
        raise RuntimeError(f"the GPU ran out of memory: {advice}") from None
    finally:
        bar.close()
        for name, module in modules.items():
            setattr(recipe, name, module.to("cpu"))
    state.restore_best()
    return pd.DataFrame(state.rows)


def precision_of(accelerator: str) -> str:
    """What "auto" precision is: bf16-mixed where the GPU, or the processor, has bf16 instructions, else 32-true.

    Emulated, a step in bf16 takes a CPU 25 times as long. Of the `accelerator` only "cpu" matters.
    """
    if accelerator != "cpu":
        return "bf16-mixed" if not torch.cuda.is_available() or torch.cuda.is_bf16_supported(False) else "32-true"
    asked = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    return "bf16-mixed" if any(ask() for ask in asked if ask) else "32-true"


def _one_epoch(fabric, recipe: Trainable, optimizers: dict, drawn: Iterator) -> dict[str, float]:
    """Step through all batches; the mean of each optimizer's loss."""
    for name in recipe.modules():
        getattr(recipe, name).train()
    totals: dict[str, list[float]] = {name: [] for name in optimizers}
    for batch in drawn:
        for name, loss in recipe.losses(batch.to(fabric.device)):
            if not torch.isfinite(loss):
                raise RuntimeError(f"the loss of {name!r} is {loss.item()}: lower the learning rate, check the images")
            optimizers[name].zero_grad(set_to_none=True)
            fabric.backward(loss)
            optimizers[name].step()
            totals[name].append(float(loss.detach()))
        recipe.after_step()
    return {f"train_{name}": float(np.mean(values)) for name, values in totals.items()}


@torch.no_grad()
def _validate(fabric, recipe: Trainable, drawn: Iterator) -> float:
    """Mean validation loss over images, not over batches, so that it does not depend on the batch size."""
    for name in recipe.modules():
        getattr(recipe, name).eval()
    total, n = 0.0, 0
    for batch in drawn:
        total += float(recipe.validation_loss(batch.to(fabric.device))) * len(batch.names)
        n += len(batch.names)
    return total / n


class _State:
    """Everything that a resumed training needs, in one file that is replaced as a whole."""

    def __init__(self, recipe: Trainable, folder: str | Path | None):
        self.modules, self.optimizers = recipe.modules(), recipe.optimizers()
        self.path = Path(folder) / "state.safetensors" if folder else None
        self.base_rates = {name: [g["lr"] for g in o.param_groups] for name, o in self.optimizers.items()}
        self.rows: list[dict] = []
        self.best: dict[str, Tensor] = {}

    def best_loss(self) -> float:
        return min((row["validation"] for row in self.rows), default=math.inf)

    def epochs_since_best(self) -> int:
        losses = [row["validation"] for row in self.rows]
        return len(losses) - 1 - losses.index(min(losses)) if losses else 0

    def set_rates(self, factor: float) -> None:
        for name, optimizer in self.optimizers.items():
            for group, rate in zip(optimizer.param_groups, self.base_rates[name]):
                group["lr"] = rate * factor

    def end_of_epoch(self, row: dict, save: bool) -> None:
        if row["validation"] < self.best_loss() or not self.best:
            self.best = {name: value.clone() for name, value in _tensors(self.modules).items()}
        self.rows.append(row)
        if self.path and save:
            self._save(self.path)

    def restore_best(self) -> None:
        for name, module in self.modules.items():
            module.load_state_dict(_below(self.best, name))

    def _save(self, path: Path) -> None:
        tensors = {f"last.{name}": value for name, value in _tensors(self.modules).items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()}
        for name, optimizer in self.optimizers.items():
            for number, values in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{name}.{number}.{key}": torch.as_tensor(v) for key, v in values.items()}
        write_safetensors(path, tensors, {"rows": json.dumps(self.rows)})

    def resume(self) -> None:
        if not self.path or not self.path.exists():
            return
        tensors, metadata = read_safetensors(self.path)
        try:
            for name, module in self.modules.items():
                module.load_state_dict(_below(tensors, f"last.{name}"))
        except RuntimeError:
            raise ValueError(f"{self.path} belongs to other modules: delete it, or choose another folder") from None
        for name, optimizer in self.optimizers.items():
            found = _below(tensors, f"optimizer.{name}")
            numbers = sorted({int(key.split(".")[0]) for key in found})
            state = {number: _below(found, str(number)) for number in numbers}
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        self.best, self.rows = _below(tensors, "best"), json.loads(metadata["rows"])


def _tensors(modules: dict[str, nn.Module]) -> dict[str, Tensor]:
    """All weights and buffers as `<module>.<name>`, on the CPU."""
    found = {name: module.state_dict() for name, module in modules.items()}
    return {f"{name}.{key}": value.detach().cpu() for name, state in found.items() for key, value in state.items()}


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key[len(prefix) + 1 :]: value for key, value in tensors.items() if key.startswith(prefix + ".")}
