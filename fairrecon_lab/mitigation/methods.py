"""The methods of mitigation that the study compares, by name, the released code's wrong choices among them."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from fairrecon_lab.mitigation.finetune import Eye, People
from fairrecon_lab.mitigation.terms import Adversarial, Consistency, EqualOdds, PixelDRO, Reweighting, Term


@dataclass(frozen=True)
class Method:
    """A way of mitigating: its term, the lambdas to try, and the named wrong choices that it may hold.

    term : callable (eye, cuts, people) to Term; None for the method that trains nothing. published : whether it holds a
    choice of the released code. people : options of `finetune.People`. estimate : as in `finetune.FineTune`.
    """

    term: Callable[[Eye, torch.Tensor, People], Term] | None
    weights: tuple[float, ...]
    published: bool = False
    people: dict[str, Any] = dataclasses.field(default_factory=dict)
    estimate: str = "one_step"


LABEL = "y_"  # stands for the column of the finding as recorded: `of_task`
ODDS, CONSISTENT = (1e-3, 3e-3), (3e-5, 1e-4, 3e-4)  # lambdas; a squared error here is about 1e-2, a logit's about 5


def _eodd(eye: Eye, cuts: torch.Tensor, people: People) -> Term:
    return EqualOdds(cuts)


def _adversary(signs: str) -> Callable[[Eye, torch.Tensor, People], Term]:
    return lambda eye, cuts, people: Adversarial(eye.n_features, people.n_groups, signs=signs)


def of_task(method: Method, task: str) -> dict[str, Any]:
    """Options of `finetune.People` of a `method` for a `task`: the finding's column in place of `LABEL`."""
    named = lambda value: tuple(f"y_{task}" if name == LABEL else name for name in value)
    return {key: named(value) if isinstance(value, tuple) else value for key, value in method.people.items()}


METHODS = {
    "consistency": Method(lambda *_: Consistency(), CONSISTENT),
    "consistency, cells alike": Method(lambda *_: Consistency(step=0), CONSISTENT),
    "eodd": Method(_eodd, ODDS),
    "group_dro": Method(lambda *_: PixelDRO(), (1.0,)),
    "reweighting": Method(lambda *_: Reweighting(), (1.0,)),
    "reweighting by finding": Method(lambda *_: Reweighting(), (1.0,), people={"weights_by": ("sex", LABEL)}),
    "adversarial": Method(_adversary("right"), (1e-3, 1e-2), people={"attributes": ("sex", "age_years")}),
    "threshold": Method(None, (0.0,)),
    "reweighting, published ages": Method(lambda *_: Reweighting(), (1.0,), True, {"ages": "published"}),
    "eodd, published sex code": Method(_eodd, ODDS[-1:], True, {"sex_code": "published"}),
    "eodd, published sde form": Method(_eodd, ODDS[-1:], True, estimate="published"),
    "adversarial, published signs": Method(_adversary("published"), (1e-3,), True),
}
