"""The law of a *change* of a gap when nothing changed, and when change has no direction: worlds without data.

Both papers subtract a gap on clean images from the gap behind a reconstruction. Here such pairs are drawn at the sizes
of the papers' test splits and at their printed baselines, under two laws:

- *no change*: every subgroup keeps its rates. Some decisions flip, as many up as down. Clean and arm are then
  exchangeable, so that the median change in per cent is 0: a band about 0 is all that chance can give.
- *no direction*: the scores of every subgroup also move a little, at random and with mean 0. The papers' models change
  something, but help or harm nobody on purpose. A small gap then grows, because there is more room above than below.

How it is drawn: clean decisions have the true rates; each decision flips with probability `flips`, in part together for
all arms (they see the same degraded image). The true spread of a subgroup's rates is the one whose bootstrap mean is
the printed baseline of Table 5 (0 where equal rates print more). Rows are independent, and so are findings: correlated
findings make every band wider. Cells: attribute and task, 40 of classifiers and 2 of the segmenter.

Axes: D worlds, G subgroups, label (0, 1), arms. Source of sizes and rates: `chance`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.stats import norm

from fairrecon_lab.paper.chance import (
    BRAIN_DICE,
    BRAIN_NEGATIVES,
    BRAIN_SIZES,
    LABEL_COUNTS,
    clean_auroc,
    expected_counts,
    gaps_of_counts,
    null_dice_gaps,
    rate_at_equal_errors,
    subgroup_shares,
)
from fairrecon_lab.paper.numbers import numbers

ATTRIBUTES = ("sex", "age_group", "race")
SPREADS = np.array([0, 0.005, 0.01, 0.02, 0.04, 0.07, 0.1, 0.15, 0.2, 0.3, 0.45, 0.6])  # of true rates, tried
DICE_SD, DICE_REPEAT = 0.22, 0.95  # over patients, and the correlation of one patient's Dice in two arms: guesses
EDGE = 1e-3  # no true rate is nearer to 0 or 1


@dataclass(frozen=True)
class Law:
    """How decisions behind a reconstruction differ from those on clean images.

    Parameters
    ----------
    flips : tuple of float
        Share of decisions that differ from the clean one, one per arm, in [0, .3]; no rate moves by it.
    shift : float
        Standard deviation of the random movement of a subgroup's scores, in standard deviations of the score.
    shared : float
        Share of flips and movements that all arms have in common, in [0, 1].
    design_effect : float
        Divides the numbers of chest images: several images of one patient are not as many witnesses.
    """

    flips: tuple[float, ...] = (0.1, 0.1, 0.1)
    shift: float = 0.0
    shared: float = 0.5
    design_effect: float = 1.0


@dataclass(frozen=True)
class Cell:
    """Sizes of one attribute and task: images with and without the label, shares of subgroups, rates, empty strata."""

    attribute: str
    task: str
    n: tuple[float, float]  # without, with the label
    shares: tuple[float, ...]
    rates: tuple[float, float]  # FPR, TPR of all together
    empty: tuple[float, float]  # what the published code takes for them in an empty subgroup

    @classmethod
    def of(cls, attribute: str, task: str, design_effect: float = 1.0) -> "Cell":
        """The cell of a finding on CheXpert's test split, or of a tumour task on UCSF-PDGM's."""
        rate = rate_at_equal_errors(clean_auroc()[task])
        if task in BRAIN_NEGATIVES:
            sizes, negative = np.array(BRAIN_SIZES[attribute]), BRAIN_NEGATIVES[task]
            n, shares, empty = (negative, sizes.sum() - negative), sizes / sizes.sum(), (0.0, 0.0)
        else:
            positive, negative = expected_counts(task, 1 / design_effect)
            n, shares, empty = (negative, positive), subgroup_shares(attribute), (0.0, 1.0)
        return cls(attribute, task, n, tuple(shares), (1 - rate, rate), empty)


def cells(attributes: Iterable[str] = ATTRIBUTES) -> list[tuple[str, str]]:
    """Attribute and task of the papers' classifiers: 12 findings, and two tumour tasks where the attribute is known."""
    tasks = {name: [*LABEL_COUNTS, *(BRAIN_NEGATIVES if name in BRAIN_SIZES else ())] for name in attributes}
    return [(name, task) for name in tasks for task in tasks[name]]


@cache
def true_spread(attribute: str, task: str, n_draws: int = 300, seed: int = 0) -> tuple[float, float]:
    """Range of the true FPRs and TPRs whose published estimate is, on average, the printed baseline of Table 5.

    Parameters
    ----------
    attribute, task : str
        "merged_race" has no printed baseline of its own and takes that of "race" as the true spread.
    n_draws, seed : int
        Worlds behind each of `SPREADS`; their seed.

    Returns
    -------
    (float, float)
        0 where equal rates print as much or more: then the print holds no evidence of a spread.
    """
    cell, rng = Cell.of(attribute, task), np.random.default_rng(seed)
    printed = numbers("5").query("arm == 'clean' and attribute == @attribute.replace('merged_', '') and task == @task")
    eodd, eop = printed.set_index("metric")["value"][["eodd", "eop"]]
    means = []
    for spread in SPREADS:
        n, rates = _sizes(cell, n_draws, rng), _true_rates(cell, (spread, spread), n_draws, rng)
        drawn = bootstrap_means(n, rng.binomial(n, rates), cell.empty, rng)
        means.append(drawn.mean(axis=0))
    means = np.maximum.accumulate(means)  # EODD, EOP; EODD is the mean of the two gaps
    fpr = np.interp(2 * eodd - eop, 2 * means[:, 0] - means[:, 1], SPREADS)
    return float(fpr), float(np.interp(eop, means[:, 1], SPREADS))


def _sizes(cell: Cell, n_draws: int, rng) -> np.ndarray:
    """Images of every subgroup (D, G, label)."""
    return np.stack([rng.multinomial(round(n), cell.shares, n_draws) for n in cell.n], axis=-1)


def _true_rates(cell: Cell, spread, n_draws: int, rng) -> np.ndarray:
    """True rates (D, G, label): evenly spaced over `spread` about the rates of all, in a random order of subgroups."""
    places = np.tile(np.linspace(-0.5, 0.5, len(cell.shares)), (n_draws, 1))
    order = np.stack([rng.permuted(places, axis=1) for _ in cell.rates], axis=-1)
    return np.clip(np.array(cell.rates) + np.array(spread) * order, EDGE, 1 - EDGE)


def bootstrap_means(n: np.ndarray, positive: np.ndarray, empty, rng, n_inner: int = 40) -> np.ndarray:
    """Mean EODD and EOP (D, 2) over resamples of images.

    Parameters
    ----------
    n, positive : int array, shape (D, G, label)
        Images and positive decisions.
    empty : (float, float)
        FPR and TPR of a subgroup without images.
    rng : numpy Generator
    n_inner : int
        Resamples.
    """
    total = n.sum(axis=1, keepdims=True)
    drawn = [
        rng.multinomial(total[..., k], np.moveaxis(n / np.maximum(total, 1), 1, -1)[:, None, k], (len(n), n_inner))
        for k in (0, 1)
    ]
    again = np.stack(drawn, axis=-1)  # (D, inner, G, label)
    called = rng.binomial(again, (positive / np.maximum(n, 1))[:, None])
    return gaps_of_counts(again, called, empty).mean(axis=1)


# ---------------------------------------------------------------------- pairs of clean and arm
def draw_pairs(cell: Cell, law: Law, n_draws: int, rng, spread=None) -> tuple[np.ndarray, np.ndarray]:
    """Joint counts of clean decision and arm decision.

    Parameters
    ----------
    cell : Cell
    law : Law
    n_draws : int
    rng : numpy Generator
    spread : (float, float), optional
        Of the true FPRs and TPRs; that of the print by default.

    Returns
    -------
    n : int array, shape (D, G, label)
    pairs : int array, shape (arms, D, G, label, 2, 2)
        Images by clean decision (0, 1) and arm decision (0, 1).
    """
    spread = true_spread(cell.attribute, cell.task) if spread is None else spread
    n, rates = _sizes(cell, n_draws, rng), _true_rates(cell, spread, n_draws, rng)
    variance = 2 * cell.rates[1] * (1 - cell.rates[1])  # 2 p (1 - p), the share that would differ by pure chance
    alike = np.clip(1 - np.array(law.flips) / variance, 0, 1)  # correlation of clean and arm decision
    common = alike.max() ** law.shared
    called = rng.binomial(n, rates)
    clean = np.stack([n - called, called], axis=-1)  # (D, G, label, clean decision)
    seen_rates = _moved(rates, law.shift * np.sqrt(law.shared), rng)
    called = rng.binomial(clean, _call_again(rates, seen_rates, common))
    seen = np.stack([clean - called, called], axis=-1)  # (D, G, label, clean decision, decision on degraded)
    pairs = []
    for correlation in alike:
        new = _moved(seen_rates, law.shift * np.sqrt(1 - law.shared), rng)
        again = _call_again(seen_rates, new, correlation / common if common else 0.0)
        called = rng.binomial(seen, again[..., None, :]).sum(axis=-1)
        pairs.append(np.stack([clean - called, called], axis=-1))
    return n, np.stack(pairs)


def _moved(rates: np.ndarray, shift: float, rng) -> np.ndarray:
    """Rates after every subgroup's scores moved by a normal amount, the same for both labels."""
    if not shift:
        return rates
    return np.clip(norm.cdf(norm.ppf(rates) + shift * rng.standard_normal((*rates.shape[:-1], 1))), EDGE, 1 - EDGE)


def _call_again(old: np.ndarray, new: np.ndarray, correlation: float) -> np.ndarray:
    """Chance of a positive decision after a negative and a positive one (..., 2): rates old and new, correlated."""
    bound = correlation * np.sqrt(old * (1 - old) * new * (1 - new))
    return np.clip(np.stack([new - bound / (1 - old), new + bound / old], axis=-1), 0, 1)


def eodd_pairs(cell: Cell, law: Law, n_draws: int, rng, estimator: str = "plug_in", spread=None) -> np.ndarray:
    """EODD on clean images and behind every arm (D, 1 + arms), as `estimator` ("plug_in", "bootstrap_mean") has it.

    `cell`, `law`, `n_draws`, `rng` and `spread` are those of `draw_pairs`. ValueError for an unknown estimator.
    """
    if estimator not in ("plug_in", "bootstrap_mean"):
        raise ValueError(f"unknown estimator {estimator!r}; choose 'bootstrap_mean' or 'plug_in'")
    n, pairs = draw_pairs(cell, law, n_draws, rng, spread)
    counts = [pairs[0].sum(axis=-1)[..., 1], *(pair.sum(axis=-2)[..., 1] for pair in pairs)]
    if estimator == "plug_in":
        return np.stack([gaps_of_counts(n, one, cell.empty)[..., 0] for one in counts], axis=-1)
    return np.stack([bootstrap_means(n, one, cell.empty, rng)[..., 0] for one in counts], axis=-1)


def ser_pairs(attribute: str, law: Law, n_draws: int, rng) -> np.ndarray:
    """SER of the segmenter on clean images and behind every arm (D, 1 + arms); the true gap is that of the print.

    `attribute` is sex or age_group; `law`, `n_draws` and `rng` are those of `draw_pairs`. Subgroup means are normal.
    """
    sizes = np.array(BRAIN_SIZES[attribute])
    printed = (
        numbers("5").query("attribute == @attribute and metric == 'delta_dice' and arm == 'clean'")["value"].item()
    )
    gaps = [null_dice_gaps(sizes, BRAIN_DICE, DICE_SD)[:, 1].mean(), printed]
    spread = np.sqrt(max(gaps[1] ** 2 - gaps[0] ** 2, 0))  # the noise adds to the true gap in squares, nearly
    error = DICE_SD / np.sqrt(sizes)
    draw = lambda size: rng.standard_normal((n_draws, len(sizes))) * size
    patients, still = draw(error), np.sqrt(DICE_REPEAT)
    means = BRAIN_DICE + spread * np.array([-0.5, 0.5]) + still * patients
    noise = lambda: draw(error * np.sqrt(1 - DICE_REPEAT))
    arms = [means + noise() + draw(law.shift * DICE_SD) for _ in law.flips]
    every = np.stack([means + noise(), *arms], axis=-1)
    return (1 - every.min(axis=1)) / (1 - every.max(axis=1))


def null_changes(
    law: Law, n_draws: int = 400, *, estimator: str = "plug_in", attributes=ATTRIBUTES, seed: int = 0
) -> dict:
    """Changes in per cent of every cell, in worlds that follow `law`.

    Parameters
    ----------
    law : Law
    n_draws, seed : int
        Worlds; their seed.
    estimator : {"plug_in", "bootstrap_mean"}
    attributes : sequence of str

    Returns
    -------
    dict of (attribute, task) to array (n_draws, arms)
        100 (arm - clean) / clean; infinite where the clean gap is 0, NaN where both are.
    """
    rng, drawn = np.random.default_rng(seed), {}
    for attribute, task in cells(attributes):
        cell = Cell.of(attribute, task, law.design_effect)
        drawn[attribute, task] = _percent(eodd_pairs(cell, law, n_draws, rng, estimator))
    for attribute in set(attributes) & set(BRAIN_SIZES):
        drawn[attribute, "segmentation"] = _percent(ser_pairs(attribute, law, n_draws, rng))
    return drawn


def _percent(values: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return 100 * (values[:, 1:] - values[:, :1]) / values[:, :1]


def medians(changes: Mapping, attribute: str | None = None, arm: int | None = None, absolute: bool = False):
    """Median over cells, one per world, as Tables 2 and 3 of the follow-up have it.

    Parameters
    ----------
    changes : dict
        Of `null_changes`.
    attribute, arm : optional
        Only these cells; all by default.
    absolute : bool
        The median of absolute changes.

    Returns
    -------
    array (n_draws,)
    """
    chosen = [value for (name, _), value in changes.items() if attribute in (None, name)]
    values = np.stack(chosen, axis=1)  # (D, cells, arms)
    values = (values if arm is None else values[..., [arm]]).reshape(len(values), -1)
    return np.nanmedian(np.abs(values) if absolute else values, axis=1)


def fitted_law(targets, *, shift: bool = False, estimator: str = "plug_in", n_draws: int = 200, seed: int = 0) -> Law:
    """The law whose median absolute change is the printed one: as much noise as the print can hold.

    Where something did change, part of it is counted as noise here, so a verdict "not consistent" is a careful one.

    Parameters
    ----------
    targets : sequence of float
        Median absolute change (%) of each arm.
    shift : bool
        Fit the law "no direction", with 5 % flips and one `shift` for all arms; otherwise "no change", with the flips
        of each arm.
    estimator : {"plug_in", "bootstrap_mean"}
    n_draws, seed : int
        As in `null_changes`.
    """
    arms, found = len(targets), []
    tried = [0, 0.02, 0.04, 0.06, 0.09, 0.13] if shift else [0.01, 0.03, 0.06, 0.1, 0.15, 0.2, 0.26]
    for value in tried:
        law = Law((0.05,) * arms, shift=value) if shift else Law((value,) * arms)
        found.append(np.median(medians(null_changes(law, n_draws, estimator=estimator, seed=seed), absolute=True)))
    found = np.maximum.accumulate(found)
    if shift:
        return Law((0.05,) * arms, shift=float(np.interp(np.mean(targets), found, tried)))
    return Law(tuple(float(value) for value in np.interp(targets, found, tried)))
