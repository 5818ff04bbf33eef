"""How many cells the published test calls significant, in worlds that follow a law of `unchanged`.

The released test resamples images, takes the change of EODD in every resample, and counts those on the other side of 0
than the observed change: p < .05 is one-sided with the side picked after looking. The follow-up counts 8, 12 and 0 of
36 cells (12 findings, 3 models) for sex, age and race. Here the same test runs on the same number of cells at the same
sizes.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from fairrecon_lab.paper.chance import gaps_of_counts
from fairrecon_lab.paper.unchanged import Cell, Law, cells, draw_pairs

ALPHA = 0.05


def eodd_change(pairs: np.ndarray, empty: tuple[float, float]) -> np.ndarray:
    """EODD behind an arm less EODD on clean images, from joint counts (..., subgroup, label, clean, arm)."""
    n = pairs.sum(axis=(-2, -1))
    clean, arm = pairs.sum(axis=-1)[..., 1], pairs.sum(axis=-2)[..., 1]
    return gaps_of_counts(n, arm, empty)[..., 0] - gaps_of_counts(n, clean, empty)[..., 0]


def published_p_values(pairs: np.ndarray, empty: tuple[float, float], n_boot: int, rng) -> tuple:
    """Observed changes and their published p-values.

    Parameters
    ----------
    pairs : int array, shape (D, subgroup, label, clean, arm)
        Joint counts of decisions.
    empty : (float, float)
        FPR and TPR of a subgroup without images.
    n_boot : int
        Resamples of images; the papers take 1000.
    rng : numpy Generator

    Returns
    -------
    change, p_value : arrays (D,)
    """
    flat = pairs.reshape(len(pairs), -1)
    total = flat.sum(axis=1)
    drawn = rng.multinomial(total[:, None], (flat / total[:, None])[:, None], (len(flat), n_boot))
    change, again = eodd_change(pairs, empty), eodd_change(drawn.reshape(-1, n_boot, *pairs.shape[1:]), empty)
    other_side = np.where(change[:, None] >= 0, again <= 0, again >= 0)
    return change, other_side.mean(axis=1)


def flagged_cells(law: Law, attribute: str, n_draws: int = 100, n_boot: int = 300, seed: int = 0) -> pd.DataFrame:
    """Cells of CheXpert that the published test flags, one row per world.

    Parameters
    ----------
    law : Law
        Of `unchanged`; its number of arms times 12 findings are tested.
    attribute : str
        "sex", "age_group", "race" or "merged_race".
    n_draws, n_boot, seed : int
        Worlds; resamples in each; the seed.

    Returns
    -------
    DataFrame
        Columns `flagged` and `up`, numbers of cells.
    """
    rng, found = np.random.default_rng(seed), np.zeros((n_draws, 2), dtype=int)
    for _, task in cells([attribute.replace("merged_", "")]):
        if not task.startswith("tumour"):
            cell = Cell.of(attribute, task, law.design_effect)
            for pairs in draw_pairs(cell, law, n_draws, rng)[1]:
                change, p_value = published_p_values(pairs, cell.empty, n_boot, rng)
                found += np.stack([p_value < ALPHA, (p_value < ALPHA) & (change > 0)], axis=1)
    return pd.DataFrame(found, columns=["flagged", "up"])


def chance_of(count: int, drawn: Sequence[int]) -> tuple[float, float]:
    """Share of worlds on the outer side of `count` as seen from their median, and its Monte Carlo standard error."""
    drawn = np.asarray(drawn)
    share = np.mean(drawn >= count) if count >= np.median(drawn) else np.mean(drawn <= count)
    return float(share), monte_carlo_error(share, len(drawn))


def monte_carlo_error(share: float, n_draws: int) -> float:
    """Standard error of a share of `n_draws` worlds; of none or of all, that of a share of one world."""
    share = np.clip(share, 1 / (n_draws + 1), n_draws / (n_draws + 1))
    return float(np.sqrt(share * (1 - share) / n_draws))
