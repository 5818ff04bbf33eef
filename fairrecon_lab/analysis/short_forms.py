"""Short forms that notebooks use: of a mask, an exposure, a comparison of arms, and what model cards say."""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from fairrecon_core.cohort.folder import Cohort
from fairrecon_core.degrade.mri import PUBLISHED, achieved_acceleration, radial_mask, spokes_for
from fairrecon_core.degrade.xray import Exposure, LowDoseXRay
from fairrecon_core.steps.pipeline import CohortSteps


def low_dose(
    images, photon_count: float | Sequence[float], mode: str = "physical", *, image_ids, seed: int = 0, **options
) -> Exposure | list[Exposure]:
    """Expose images to few photons.

    Parameters
    ----------
    images : Tensor or ndarray, shape (B, N, N)
        Clean images in [0, 1]; N may be odd.
    photon_count : float, or a list
        Photons per detector bin; infinity returns the images themselves. Several counts share one sinogram.
    mode : {"physical", "published", "radiograph"}
    image_ids : sequence of B names
        Noise depends on name, count and `seed` only.
    seed : int
    **options
        See `LowDoseXRay`.

    Returns
    -------
    Exposure, or a list of them where `photon_count` is a list

    Raises
    ------
    ValueError
        Images not square, not finite or outside [0, 1]; a count that is not positive; not one name per image.
    """
    several, counts = not np.isscalar(photon_count), np.atleast_1d(photon_count).tolist()
    exposures = LowDoseXRay(mode, **options).expose(images, counts, image_ids, seed)
    return exposures if several else exposures[0]


def sampling_ratios(size: int, acceleration: float, order: str = "golden") -> dict[str, float]:
    """The three meanings of "acceleration" for one mask, and its number of full spokes.

    Returns
    -------
    dict
        `spokes` (full diameters), `scan_time` (N / spokes), `pixels` (N^2 / sampled) and `nyquist`: the spokes
        needed for neighbours at most one sample apart at the edge, (pi / 2) N, over those there are.
    """
    count = spokes_for(size, acceleration, order)
    spokes = count / 2 if order == PUBLISHED else count
    pixels = achieved_acceleration(radial_mask(size, count, order))
    return {"spokes": spokes, "scan_time": size / spokes, "pixels": pixels, "nyquist": math.pi / 2 * size / spokes}


def compared(steps: CohortSteps, arms: Iterable[str], metric: str = "psnr_db") -> pd.DataFrame:
    """One measure of every test image, side by side for several arms (first training seed, first sample).

    Parameters
    ----------
    steps : CohortSteps
    arms : iterable of str
    metric : str
        Column of the table `quality`.

    Returns
    -------
    DataFrame
        level, image_id, patient_id and one column per arm.
    """
    rows = steps.quality.measure(*arms).drop_duplicates(["arm", "level", "image_id"])
    table = rows.pivot(index=["level", "image_id"], columns="arm", values=metric).reset_index()
    patient = steps.cohort.table.set_index("image_id")["patient_id"]
    return table.assign(patient_id=table["image_id"].map(patient))


def card_facts(cohorts: Mapping[str, CohortSteps], arm: str) -> pd.DataFrame:
    """What the model cards of an arm say of its training, one column per cohort."""
    long = ("losses", "test", "stamp", "made_from")
    cards = {name: steps.weights.card(arm) for name, steps in cohorts.items()}
    return pd.DataFrame(
        {name: {key: str(value) for key, value in card.items() if key not in long} for name, card in cards.items()}
    ).fillna("")


def card_figures(cohorts: Mapping[str, CohortSteps], arm: str) -> pd.DataFrame:
    """What an arm's weights reached on test images when they were made; empty if they were trained in this run."""
    cards = {name: steps.weights.card(arm) for name, steps in cohorts.items()}
    figures = {name: pd.DataFrame(card.get("test", {})).T for name, card in cards.items()}
    return pd.concat(figures, names=["cohort", "arm and level"])


def subgroup_attributes(cohort: Cohort) -> list[str]:
    """Attributes of which at least two subgroups are known in a cohort."""
    known = lambda column: set(cohort.table[column]) - {"unknown"}
    return [column for column in ("sex", "age_group", "race") if len(known(column)) > 1]
