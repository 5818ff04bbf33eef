"""What mitigation adds to the loss of a reconstructor: one *term* per method, each right, and each as published.

A term is called with a `Seen` and gives a number whose gradient reaches the reconstructor through `Seen.image`,
`Seen.logits` or `Seen.features`; a *twin* is the same training with that gradient cut. Terms that compare subgroups
remember recent batches, because a batch of eight holds no rate of a subgroup. None divides by its own running mean:
that would make weight and size of the gap irrelevant, as they are in the released code.
Conventions: B images, T tasks, A attributes; groups are codes from 0, -1 unknown; truth is 0, 1 or NaN.
Source: Sagawa et al. 2020 (group DRO); Adeli et al. 2021 (adversary); the follow-up arXiv:2604.10904 and its code.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

SHARPNESS = 40.0  # of the smooth maximum over subgroups: off by less than log(groups) / 40
SIGNS = ("right", "published")


@dataclass(frozen=True)
class Seen:
    """One batch as a term sees it.

    image, clean : (B, 1, H, W), reconstructed (with gradient) and clean. logits, features : (B, T), (B, F) of the
    frozen reader on `image`, with gradient; None where the term does not read. clean_logits : (B, T), of `clean`; None
    where the term does not compare.
    truth : (B, T). groups : (B, A) subgroup of each attribute. weight : (B,) of `groups.balancing_weights`.
    """

    image: Tensor
    clean: Tensor
    truth: Tensor
    groups: Tensor
    weight: Tensor
    logits: Tensor | None = None
    features: Tensor | None = None
    clean_logits: Tensor | None = None

    def squared_error(self) -> Tensor:
        """Mean squared error of each image, (B,)."""
        return ((self.image - self.clean) ** 2).mean(dim=(1, 2, 3))


class Term:
    """Base of all: a name, whether the frozen reader must look, also at the clean image (`compares`), and a call."""

    name = ""
    reads = True
    compares = False

    def __call__(self, seen: Seen) -> Tensor:
        """The term's value for one batch, a scalar."""
        raise NotImplementedError


class Reweighting(Term):
    """Images of rare joint subgroups count more: mean of (weight - 1) times squared error, added to the plain loss."""

    name, reads = "reweighting", False

    def __call__(self, seen: Seen) -> Tensor:
        """What weighing `seen` images adds to their mean squared error."""
        return ((seen.weight - 1) * seen.squared_error()).mean()


class PixelDRO(Term):
    """Group DRO on pixels: the subgroup with the largest squared error weighs most.

    Parameters
    ----------
    step : float
        How fast weights follow: they grow with exp(step x error relative to the mean error).
    """

    name, reads = "group_dro", False

    def __init__(self, step: float = 0.1):
        self.worst = _Worst(step)

    def __call__(self, seen: Seen) -> Tensor:
        """Weighted mean over the subgroups of the first attribute of `seen` images."""
        return self.worst(seen.squared_error(), seen.groups[:, 0])


class Consistency(Term):
    """Task consistency f(R(y)) ~ f(x): the reader should say of the reconstruction what it says of the clean image.

    Squared difference of logits; cells are subgroups of the first attribute times the label of the first task, and the
    worst cell weighs most. It asks for neutrality, not for equal rates: nobody gains by making others worse.

    Parameters
    ----------
    step : float
        As in `PixelDRO`; 0: all cells weigh alike.
    """

    name, compares = "consistency", True

    def __init__(self, step: float = 0.1):
        self.worst = _Worst(step)

    def __call__(self, seen: Seen) -> Tensor:
        """Weighted mean over the cells of `seen` images."""
        difference = ((seen.logits - seen.clean_logits) ** 2).mean(dim=1)
        label, group = seen.truth[:, 0], seen.groups[:, 0]
        known = ~label.isnan() & (group >= 0)
        return self.worst(difference, torch.where(known, 2 * group + label.nan_to_num(0).long(), -1))


class EqualOdds(Term):
    """EODD constraint: squared range over subgroups of soft TPR and soft FPR, mean over tasks and attributes.

    A rate is that of the last `memory` images, its gradient that of the batch. Cells without anybody are skipped: a
    rate of nobody is not 0. One subgroup alone has no range, so a constant attribute gives exactly 0 and no gradient.

    Parameters
    ----------
    cuts : Tensor, shape (T,)
        The reader's thresholds as logits, chosen before and kept.
    temperature : float
        Of the soft decision sigmoid((logit - cut) / temperature).
    memory : int
        Images that are remembered. Few: a rate that is a mean over many steps answers late, and the constraint then
        drives past equality and on.
    """

    name = "eodd"

    def __init__(self, cuts: Tensor, temperature: float = 0.5, memory: int = 64):
        self.cuts, self.temperature = cuts, temperature
        self.bank = _Bank(memory)

    def __call__(self, seen: Seen) -> Tensor:
        """The constraint on `seen` images and those that are remembered."""
        soft = torch.sigmoid((seen.logits - self.cuts) / self.temperature)
        past = self.bank.with_new(soft.detach(), seen.truth, seen.groups)
        cells = []
        for attribute in range(seen.groups.shape[1]):
            for task in range(soft.shape[1]):
                for label in (1, 0):
                    rates = self._rates(seen, soft, past, attribute, task, label)
                    if len(rates) > 1:
                        cells.append(smooth_range(torch.stack(rates)) ** 2)
        return torch.stack(cells).mean() if cells else 0 * soft.sum()

    @staticmethod
    def _rates(seen: Seen, soft: Tensor, past: list[Tensor], attribute: int, task: int, label: int) -> list[Tensor]:
        """Rates of the subgroups that are there."""
        all_soft, all_truth, all_groups = past
        rates = []
        for group in all_groups[:, attribute].unique().tolist():
            remembered = (all_groups[:, attribute] == group) & (all_truth[:, task] == label)
            if group < 0 or not remembered.any():
                continue
            rate = all_soft[remembered, task].mean()
            here = (seen.groups[:, attribute] == group) & (seen.truth[:, task] == label)
            if here.any():
                now = soft[here, task].mean()
                rate = rate + now - now.detach()
            rates.append(rate)
        return rates


class Adversarial(Term):
    """The reader's features should not tell who somebody is: squared correlation of a predictor with the attributes.

    The predictor takes `inner` steps that *raise* the squared correlation, then the reconstructor *lowers* it.

    Parameters
    ----------
    n_features : int
        Of the reader.
    n_groups : sequence of int
        Subgroups of each attribute; every attribute is predicted.
    inner : int
        Steps of the predictor per batch.
    signs : {"right", "published"}
        "published": both signs reversed (the predictor lowers, the reconstructor raises), one step, and the first
        attribute alone.
    learning_rate : float
        Of the predictor's Adam.
    memory : int
        Images on which predictor and correlation are computed, the batch among them.
    seed : int
        Of the predictor's first weights.
    """

    name = "adversarial"

    def __init__(self, n_features: int, n_groups, inner: int = 3, signs: str = "right", learning_rate: float = 3e-3,
                 memory: int = 256, seed: int = 0):  # fmt: skip
        if signs not in SIGNS:
            raise ValueError(f"unknown signs {signs!r}; choose one of {SIGNS}")
        self.sign = 1.0 if signs == "right" else -1.0
        self.n_groups = list(n_groups)[: None if signs == "right" else 1]
        self.inner = inner if signs == "right" else 1
        outputs = sum(max(1, n - 1) for n in self.n_groups)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.predictor = nn.Sequential(nn.Linear(n_features, 32), nn.ReLU(), nn.Linear(32, outputs))
        self.optimizer = torch.optim.Adam(self.predictor.parameters(), lr=learning_rate)
        self.bank = _Bank(memory)

    def __call__(self, seen: Seen) -> Tensor:
        """Let the predictor step on `seen` images, then give what the reconstructor lowers."""
        target = self._targets(seen.groups)
        features, targets = self.bank.with_new(seen.features.detach(), target)
        with torch.enable_grad():
            for _ in range(self.inner):
                loss = -self.sign * squared_correlation(self.predictor(features), targets)
                self.optimizer.zero_grad(set_to_none=True)
                if loss.requires_grad:
                    loss.backward()
                    self.optimizer.step()
        past = features[: len(features) - len(target)]
        together = torch.cat([past, seen.features])  # the gradient is the batch's
        for value in self.predictor.parameters():
            value.requires_grad_(False)
        value = self.sign * squared_correlation(self.predictor(together), targets)
        for weight in self.predictor.parameters():
            weight.requires_grad_(True)
        return value

    def _targets(self, groups: Tensor) -> Tensor:
        """One column per subgroup but the last of each attribute, NaN where unknown."""
        columns = []
        for attribute, n in enumerate(self.n_groups):
            code = groups[:, attribute]
            hot = torch.stack([(code == k).float() for k in range(max(1, n - 1))], dim=1)
            columns.append(torch.where((code < 0)[:, None], torch.nan, hot))
        return torch.cat(columns, dim=1)


def squared_correlation(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean over columns of the squared correlation (Pearson) of `predicted` with `target`, both (n, K).

    `target` may be NaN, such rows take no part in their column. Constant columns are left out; 0 if no column varies.
    """
    found = []
    for k in range(target.shape[1]):
        known = ~target[:, k].isnan()
        a, b = predicted[known, k], target[known, k]
        if len(b) < 3 or b.min() == b.max():
            continue
        a, b = a - a.mean(), b - b.mean()
        found.append((a * b).sum() ** 2 / ((a**2).sum() * (b**2).sum() + 1e-12))
    return torch.stack(found).mean() if found else 0 * predicted.sum()


def smooth_range(values: Tensor) -> Tensor:
    """Smooth maximum less smooth minimum of a vector: 0 exactly when all are equal."""
    shift = math.log(len(values))
    highest = (torch.logsumexp(SHARPNESS * values, 0) - shift) / SHARPNESS
    return highest + (torch.logsumexp(-SHARPNESS * values, 0) - shift) / SHARPNESS


class _Worst:
    """Group DRO's weights: they grow where the running mean of the loss is large relative to the others."""

    def __init__(self, step: float):
        self.step, self.level, self.weight = step, {}, {}

    def __call__(self, loss: Tensor, codes: Tensor) -> Tensor:
        groups = [int(code) for code in codes.unique() if code >= 0]
        means = {group: loss[codes == group].mean() for group in groups}
        for group, mean in means.items():
            old = self.level.get(group, float(mean.detach()))
            self.level[group] = 0.9 * old + 0.1 * float(mean.detach())
            self.weight.setdefault(group, 1.0)
        middle = sum(self.level.values()) / max(1, len(self.level)) or 1.0
        grown = {group: w * math.exp(self.step * (self.level[group] / middle - 1)) for group, w in self.weight.items()}
        total = sum(grown.values())
        self.weight = {group: len(grown) * w / total for group, w in grown.items()}  # mean 1 over the groups
        if not means:
            return 0 * loss.sum()
        return sum(self.weight[group] * mean for group, mean in means.items()) / len(means)


class _Bank:
    """The last `size` rows of several tensors."""

    def __init__(self, size: int):
        self.size, self.rows = size, None

    def with_new(self, *new: Tensor) -> list[Tensor]:
        """The remembered rows with `new` ones at their end; the batch is always in whole."""
        new = tuple(part.detach() for part in new)
        old = [part[:0] for part in new] if self.rows is None else self.rows
        keep = max(self.size, len(new[0]))
        self.rows = [torch.cat([a, b])[-keep:] for a, b in zip(old, new)]
        return self.rows
