"""Drawing the patients of a cohort: rows of the causal model become images.

The image of patient i follows from (seed, i) and the patient's own row: not from the other patients, the order, or the
number of processes. `simulate` yields what `write_cohort` takes; `counterfactual` draws one patient again.
"""

import itertools
from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from numpy.typing import NDArray

from fairrecon_lab.simulate import brain, chest
from fairrecon_lab.simulate.causal import STREAMS, Bias, as_bias, patient_table
from fairrecon_lab.simulate.population import standard_age

CHUNK = 16  # patients per task of a worker process

Item = tuple[NDArray[np.float32], dict, NDArray[np.bool_] | None]


def simulate(
    name: str,
    n_patients: int,
    seed: int = 1,
    size: int = 128,
    bias: str | float | Bias = "realistic",
    attribute: str = "sex",
    race: str = "paper",
    n_slices: int = 2,
    images_per_patient: int = 1,
    patients: Iterable[int] | None = None,
    n_jobs: int = 1,
    do: dict | None = None,
) -> Iterator[Item]:
    """Simulate a cohort, one image at a time.

    Parameters
    ----------
    name : {"brain", "chest"}
    n_patients : int
        Of the whole cohort, at least 1.
    seed : int
        Patient i depends on (seed, i) only: not on n_patients, patients, n_jobs or the order.
    size : int
        Pixels along an edge: even, at least 32.
    bias : str, float or Bias
        A preset ("null", "realistic", "injected"), an amount of injected conspicuity on top of "realistic", or
        all knobs.
    attribute : {"sex", "age_group", "race"}
        Whom the bias is about; ignored when `bias` is a `Bias`.
    race : {"paper", "balanced"}
        Shares of the race groups.
    n_slices : int
        Slices per patient (brain).
    images_per_patient : int
        Radiographs per patient (chest): later ones differ in severity, view and recorded label.
    patients : iterable of int, optional
        Only these, in this order; default all. So a split can be drawn without the others.
    n_jobs : int
        Processes; the bytes are the same for any number.
    do : dict, optional
        As in `patient_table`: the same cohort in another world.

    Yields
    ------
    image : ndarray, float32, shape (size, size), in [0, 1]
    row : dict
        A row of `patient_table`, with image_id and (brain) x_slice.
    mask : ndarray of bool, shape (size, size), or None
        The tumour (brain).

    Raises
    ------
    ValueError
        At the call, not at the first image: bad size, counts, indices, or whatever `patient_table` refuses.

    Examples
    --------
    >>> image, row, mask = next(simulate("brain", n_patients=10, size=64))
    >>> image.shape, row["image_id"], bool(mask.any())
    ((64, 64), 'brain-000000-0', True)
    """
    if size < 32 or size % 2:
        raise ValueError(f"size must be even and at least 32 pixels, got {size}")
    if min(n_slices, images_per_patient, n_jobs) < 1:
        raise ValueError(f"need at least 1: {n_slices=}, {images_per_patient=}, {n_jobs=}")
    bias = as_bias(bias, attribute)
    visits = range(images_per_patient if name == "chest" else 1)
    tables = [patient_table(name, n_patients, seed=seed, bias=bias, race=race, visit=v, do=do) for v in visits]
    chosen = list(range(n_patients) if patients is None else patients)
    outside = [i for i in chosen if not 0 <= i < n_patients]
    if outside:
        raise ValueError(f"patient {outside[0]} is not among the {n_patients} of the cohort (0 to {n_patients - 1})")
    tasks = ([table.loc[chosen[k : k + CHUNK]] for table in tables] for k in range(0, len(chosen), CHUNK))
    arguments = (name, seed, bias.anatomy, size, n_slices)
    if n_jobs == 1:
        return (item for tables in tasks for item in _draw_patients(tables, *arguments))
    return _in_processes(tasks, arguments, n_jobs)


def counterfactual(
    name: str, i: int, seed: int = 1, size: int = 128, bias="realistic", n_slices: int = 1, **do
) -> Item:
    """Patient i again, with something about them set: the same luck in everything else.

    Parameters
    ----------
    name, seed, size, bias
        As in `simulate`, also `attribute` and `race_shares` among the keywords.
    i : int
        Patient number, from 0.
    n_slices : int
        More than one shows the same first slice as a cohort with as many.
    **do
        Nodes to set: `sex="female"`, `age_years=30`, `race="black"`, `severity_edema=2.0`, `view="PA"`,
        `aggressiveness=2.0` and so on. None: the patient as they are.

    Returns
    -------
    image, row, mask
        As `simulate` yields them; for the brain the first slice.

    Examples
    --------
    >>> image, row, _ = counterfactual("chest", 3, size=64, sex="female", age_years=30)
    >>> row["sex"], row["age_years"]
    ('female', 30)
    """
    attribute, race = do.pop("attribute", "sex"), do.pop("race_shares", "paper")
    return next(simulate(name, i + 1, seed, size, bias, attribute, race, n_slices, patients=[i], do=do))


def _draw_patients(tables: list[pd.DataFrame], name, seed, anatomy, size, n_slices) -> Iterator[Item]:
    """Items of some patients; `tables` has one frame per visit, all with the same rows."""
    for i, *visits in zip(tables[0].index, *(table.to_dict("records") for table in tables)):
        for visit, row in enumerate(visits):
            key = (seed, STREAMS.index("image"), int(i))
            sex = anatomy * (1.0 if row["sex"] == "male" else -1.0)
            age = anatomy * float(standard_age(row["age_years"], name))
            if name == "brain":
                yield from _draw_brain(row, key, sex, age, size, n_slices)
            else:
                yield _draw_chest(row, key, sex, age, size, visit)


def _draw_brain(row: dict, key, sex: float, age: float, size: int, n_slices: int) -> Iterator[Item]:
    patient = brain.BrainPatient(
        key, sex, age, row["x_aggressiveness"], row["x_kind"], row["x_conspicuity"], row["x_snr"]
    )
    slices = brain.render(patient, size, n_slices)
    for s in range(n_slices):
        named = {"image_id": f"{row['patient_id']}-{s}"} | row | {"x_slice": s}
        yield slices.images[s], named, slices.masks[s]


def _draw_chest(row: dict, key, sex: float, age: float, size: int, visit: int) -> Item:
    severity = {finding: row[f"x_severity_{finding}"] for finding in chest.FINDINGS}
    acquired = (row["x_view"], row["x_exposure"], row["x_conspicuity"])
    patient = chest.ChestPatient(key, severity, sex, age, *acquired, visit=visit)
    return chest.render(patient, size).image, {"image_id": f"{row['patient_id']}-{visit}"} | row, None


def _draw_list(tables, *arguments) -> list[Item]:
    return list(_draw_patients(tables, *arguments))


def _in_processes(tasks, arguments, n_jobs: int) -> Iterator[Item]:
    """The same items in the same order from several processes; faster than one reader, so few wait in memory."""
    results = Parallel(n_jobs=n_jobs, return_as="generator")(delayed(_draw_list)(task, *arguments) for task in tasks)
    return itertools.chain.from_iterable(results)
