"""Fine-tune a reconstructor with a fairness term, or as its twin: the same images, order and steps, gradient cut.

`FineTune` wraps any network of the core. A hook on its network catches what the network gave, so that one forward pass
serves the reconstructor's own loss and the term. The images are those of the U-Net and of Pix2Pix; of the SDE the
one-step estimate of the clean image, for times in the first half, where it is one. The frozen reader looks at them.
The last epoch's weights are kept, not the best: a method and its twin must have taken the same number of steps.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairrecon_core.learn.loop import Batch, Images, Trainable, fit, pairs
from fairrecon_core.predict.classifier import Classifier
from fairrecon_core.reconstruct.network import NetworkReconstructor
from fairrecon_lab.mitigation.groups import balancing_weights, joint_codes, subgroup_codes
from fairrecon_lab.mitigation.terms import Seen, Term

ESTIMATES = ("one_step", "published")


class Eye(nn.Module):
    """A frozen classifier with gradients to its images: logits and features of chosen tasks.

    Parameters
    ----------
    reader : Classifier
        Its last layer is called `fc`.
    tasks : sequence of str
        Of the reader's.
    size : int, optional
        Images are enlarged to this side first, which is what the reader learned on.
    """

    def __init__(self, reader: Classifier, tasks: Sequence[str], size: int | None = None):
        super().__init__()
        self.net, self.size = reader.net.eval().requires_grad_(False), size
        self.tasks, self.columns = list(tasks), [reader.tasks.index(task) for task in tasks]
        self.n_features = self.net.fc.in_features

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 1, H, W) to logits (B, tasks) and features (B, F)."""
        caught: list[Tensor] = []
        handle = self.net.fc.register_forward_pre_hook(lambda module, inputs: caught.append(inputs[0]))
        try:
            logits = self.net(enlarged(images, self.size))
        finally:
            handle.remove()
        return logits[:, self.columns], caught[0]

    def train(self, mode: bool = True):
        """Stays in evaluation mode whatever `mode` is: its running means are frozen, too."""
        return super().train(False)


def enlarged(images: Tensor, size: int | None) -> Tensor:
    """Images (B, 1, H, W) enlarged bilinearly to a side of `size`; None leaves them."""
    if size is None or images.shape[-1] == size:
        return images
    return F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)


class People:
    """What terms need to know of each image, by its name.

    Parameters
    ----------
    table : DataFrame
        `image_id`, the attributes and the labels `y_<task>`.
    tasks, attributes : sequence of str
    weights_by : sequence of str
        Attributes whose joint cells give the weights of `terms.Reweighting`; `age_years` among them is binned.
    ages, sex_code : str
        As in `groups.joint_codes` and `groups.subgroup_codes`; "published" is a named wrong choice.

    Raises
    ------
    ValueError
        An attribute with a single value, unless its code is the published one: nothing would be mitigated.
    """

    def __init__(self, table: pd.DataFrame, tasks, attributes=("sex",), weights_by=("sex", "age_years"),
                 ages="binned", sex_code="recorded"):  # fmt: skip
        self.row_of = {str(name): k for k, name in enumerate(table["image_id"])}
        self.groups = subgroup_codes(table, attributes, sex_code)
        self.n_groups = [int(codes.max()) + 1 for codes in self.groups.T]
        for attribute, codes in zip(attributes, self.groups.T):
            if len(set(codes[codes >= 0])) < 2 and not (attribute == "sex" and sex_code == "published"):
                raise ValueError(f"attribute {attribute!r} has one value here: no term can act on it")
        self.weight = balancing_weights(joint_codes(table, weights_by, ages))
        self.truth = table[[f"y_{task}" for task in tasks]].to_numpy(np.float32)

    def of(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Truth, groups and weight of the images called `names`."""
        rows = [self.row_of[str(name)] for name in names]
        as_float = lambda values: torch.as_tensor(values[rows], dtype=torch.float32)
        return {"truth": as_float(self.truth), "groups": torch.as_tensor(self.groups[rows]),
                "weight": as_float(self.weight)}  # fmt: skip


class FineTune(Trainable[Batch]):
    """A reconstructor's own training plus `weight` times a term.

    Parameters
    ----------
    reconstructor : NetworkReconstructor
        With weights; it is changed in place.
    term : Term, optional
        None is a twin that does not even compute it.
    people : People
    weight : float
        lambda.
    eye : Eye, optional
        Needed by a term that reads.
    twin : bool
        Cut the term's gradient.
    estimate : {"one_step", "published"}
        Of an SDE: the network's estimate of the clean image, or the published choice, the best state one step earlier,
        which is made of the noised state and the clean image alone and carries no gradient.

    Raises
    ------
    ValueError
        An unknown estimate, or a term that reads without an eye.
    """

    def __init__(self, reconstructor: NetworkReconstructor, term: Term | None, people: People, *, weight: float = 1.0,
                 eye: Eye | None = None, twin: bool = False, estimate: str = "one_step"):  # fmt: skip
        if estimate not in ESTIMATES:
            raise ValueError(f"unknown estimate {estimate!r}; choose one of {ESTIMATES}")
        if term is not None and term.reads and eye is None:
            raise ValueError(f"the term {term.name!r} needs a frozen reader: give an Eye")
        self._reconstructor, self._term, self._people, self._eye = reconstructor, term, people, eye
        self._weight, self._twin, self._estimate, self._steps = weight, twin, estimate, 0
        self._said: dict[str, Tensor] = {}  # of the reader, on clean images
        self.values: list[float] = []  # of the term, one per batch

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._reconstructor, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, nn.Module) and not name.startswith("_"):  # the loop wraps the reconstructor's modules
            setattr(self._reconstructor, name, value)
        else:
            super().__setattr__(name, value)

    def modules(self) -> dict[str, nn.Module]:
        """Those of the reconstructor."""
        return self._reconstructor.modules()

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Those of the reconstructor."""
        return self._reconstructor.optimizers()

    def rate(self, epoch: int, epochs: int) -> float:
        """That of the reconstructor."""
        return self._reconstructor.rate(epoch, epochs)

    def after_step(self) -> None:
        """That of the reconstructor; and count."""
        self._reconstructor.after_step()
        self._steps += 1

    def validation_loss(self, batch: Batch) -> Tensor:
        """Falls with every step, so that the last epoch's weights are kept."""
        return torch.tensor(1.0 / (1 + self._steps))

    def losses(self, batch: Batch) -> Iterator[tuple[str, Tensor]]:
        """The reconstructor's losses of a `batch`, that of its network with the term."""
        caught: list[tuple] = []
        keep = lambda module, inputs, output: caught.append((inputs, output))
        handle = self._reconstructor.net.register_forward_hook(keep)
        try:
            for name, loss in self._reconstructor.losses(batch):
                if name == "net" and self._term is not None:
                    value = self.term(batch, *caught[0])
                    self.values.append(float(value.detach()))
                    loss = loss + self._weight * (value.detach() if self._twin else value)
                yield name, loss
        finally:
            handle.remove()

    def term(self, batch: Batch, inputs: tuple, output: Tensor) -> Tensor:
        """Value of the term for a `batch`, from what went into the network, `inputs`, and its `output`."""
        image, rows = self._image(batch, inputs, output)
        known = {key: value[rows] for key, value in self._people.of(batch.names).items()}
        clean = batch.clean[rows]
        if not self._term.reads:
            return self._term(Seen(image[rows], clean, **known))
        logits, features = self._eye(image[rows])
        answers = self._answers([batch.names[int(row)] for row in rows], clean) if self._term.compares else None
        return self._term(Seen(image[rows], clean, logits=logits, features=features, clean_logits=answers,
                               **known))  # fmt: skip

    def _answers(self, names: Sequence[str], clean: Tensor) -> Tensor:
        """What the reader says of the `clean` images called `names`; each is read once."""
        new = [k for k, name in enumerate(names) if name not in self._said]
        if new:
            with torch.no_grad():
                self._said |= {names[k]: logits for k, logits in zip(new, self._eye(clean[new])[0])}
        return torch.stack([self._said[name] for name in names])

    def _image(self, batch: Batch, inputs: tuple, output: Tensor) -> tuple[Tensor, Tensor]:
        """Estimates of the clean images (B, 1, H, W), and which of them count."""
        arm, every = self._reconstructor, torch.arange(len(batch.clean))
        if not hasattr(arm, "schedule"):
            return (output if getattr(arm, "published", False) else batch.degraded + output), every
        t = inputs[3]
        alpha, sigma = arm._at(arm.schedule.alpha, t), arm._at(arm.schedule.sigma, t)
        skip, gain, into = arm._scales(alpha, sigma)
        z = inputs[0].detach() / into
        if self._estimate == "published":
            return batch.degraded + self._best_state_before(batch, z, t), every
        early = torch.nonzero(t <= arm.schedule.steps // 2)[:, 0]
        return batch.degraded + skip * z + gain * output, early if len(early) else every[:1]

    def _best_state_before(self, batch: Batch, z: Tensor, t: Tensor) -> Tensor:
        """Mean of the exact state at t - 1, given the state at t and the clean image: no network in it."""
        schedule, z_0 = self._reconstructor.schedule, batch.clean - batch.degraded
        weights = torch.tensor([schedule.posterior(int(k), int(k) - 1)[:2] if k > 1 else (0.0, 1.0) for k in t])
        weights = weights.float()[:, :, None, None, None]
        return weights[:, 0] * z + weights[:, 1] * z_0


def fine_tune(reconstructor, term, images: Images, people: People, degradation, level: float, *, weight=1.0, eye=None,
              twin=False, estimate="one_step", epochs=3, batch_size=8, seed=0, **options) -> pd.DataFrame:  # fmt: skip
    """Fine-tune in place, and make the reconstructor ready to use.

    Parameters
    ----------
    reconstructor, term, people, weight, eye, twin, estimate
        As in `FineTune`.
    images : Images
        Of patients that neither trained the reconstructor nor are tested.
    degradation, level
        As in `learn.loop.pairs`.
    epochs, batch_size, seed : int
        Order and noise follow from (seed, epoch) alone: a method and its twin see the same.
    **options
        Of `learn.loop.fit`.

    Returns
    -------
    DataFrame
        One row per epoch, as from `fit`, and the term's mean value, `term`.
    """
    for module in reconstructor.modules().values():
        module.requires_grad_(True)
    if hasattr(reconstructor, "average"):
        reconstructor.average.requires_grad_(False)
    recipe = FineTune(reconstructor, term, people, weight=weight, eye=eye, twin=twin, estimate=estimate)
    one = Images(images.pixels[:1], images.names[:1])  # validation is not used: see `validation_loss`
    draw = pairs(images, one, degradation, [level], batch_size=batch_size, seed=seed)
    losses = fit(recipe, draw, epochs=epochs, seed=seed, **{"progress": False, "precision": "32-true"} | options)
    reconstructor.ready()
    means = [np.mean(part) for part in np.array_split(recipe.values, len(losses))] if recipe.values else np.nan
    return losses.assign(term=means)


def term_gradient(recipe: FineTune, batch: Batch) -> float:
    """Norm of the gradient of the recipe's term alone with respect to the reconstructor's network, for one batch.

    0 exactly where no path leads from the term to the network. `recipe` and `batch` are as in training.
    """
    net, caught = recipe._reconstructor.net, []
    handle = net.register_forward_hook(lambda module, inputs, output: caught.append((inputs, output)))
    for name, _ in recipe._reconstructor.losses(batch):
        if name == "net":
            break
    handle.remove()
    value = recipe.term(batch, *caught[0])
    parameters = [weight for weight in net.parameters() if weight.requires_grad]
    if not value.requires_grad:
        return 0.0
    found = torch.autograd.grad(value, parameters, allow_unused=True)
    return float(sum((part**2).sum() for part in found if part is not None) ** 0.5)
