"""The structural causal model of the simulated cohorts: who has what, and what is written down about it.

    attributes (sex, age, race) --anatomy------> image        knobs of `Bias`, one per arrow:
            |      |      |-----prevalence----> findings ----> image
            |      |      |-----acquisition---> view, dose --> image
            |      |-------conspicuity--------> how strongly a finding shows in the image
            |--------------label--------------> recorded label (a finding is missed more often)
    hidden causes (cardiac, infection, acuity, trauma) -> findings, view

Every table is computed column by column from three streams of random numbers (attributes, exogenous,
labels) that never read one another: a person with another sex has the same luck. Row i of a stream is the
same for every number of rows, so patient i depends on (seed, i) only. A prevalence is held at its marginal
whatever the knobs are: intercepts are solved against the declared population, a finite table of sex, race
and age in years with exact weights, so probabilities are sums over it and never estimates.

Race has no simulated anatomy, on purpose: nobody knows what in a radiograph encodes race (Gichoya 2022,
doi:10.1016/S2589-7500(22)00063-2), so drawing it would be made up. It acts on prevalence, acquisition,
conspicuity and labels only.

Sources: paper Tables 1 and 2; kinds of glioma, their age and sex slopes and the age bands of the brain
cohort: public metadata of UCSF-PDGM (doi:10.7937/tcia.bdgf-8v37); prevalence of findings: Irvin 2019, from
memory; everything marked "stylised" is a plausible guess.
"""

import dataclasses
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from fairrecon_core.settings import suggest
from fairrecon_lab.simulate.chest import FINDINGS, SEVERITY_FLOOR, SEVERITY_SCALE
from fairrecon_lab.simulate.population import AGES, VALUES, known, population, standard_age, subgroup

PREVALENCE_FLOOR = 0.08  # rarer findings are raised to this, so that a small cohort has positives
NODES = {  # share, slope on age and sex (male +1, female -1), loadings on the four hidden causes; slopes stylised
    "enlarged_cardiomediastinum": (0.048, 0.25, 0.00, (0.5, 0.0, 0.1, 0.1)),
    "cardiomegaly": (0.123, 0.25, -0.05, (0.7, 0.0, 0.1, 0.0)),
    "lung_lesion": (0.037, 0.10, 0.00, (0.0, 0.1, 0.0, 0.0)),
    "edema": (0.261, 0.20, 0.00, (0.7, 0.1, 0.3, 0.0)),
    "consolidation": (0.068, 0.05, 0.05, (0.1, 0.7, 0.2, 0.0)),
    "pneumonia": (0.024, 0.00, 0.05, (0.0, 0.7, 0.1, 0.0)),
    "atelectasis": (0.156, 0.10, 0.05, (0.2, 0.2, 0.4, 0.2)),
    "pneumothorax": (0.092, -0.25, 0.10, (0.0, 0.0, 0.3, 0.5)),
    "pleural_effusion": (0.403, 0.20, 0.00, (0.5, 0.3, 0.3, 0.2)),
    "pleural_other": (0.013, 0.15, 0.05, (0.1, 0.2, 0.0, 0.2)),
    "fracture": (0.039, 0.25, 0.10, (0.0, 0.0, 0.0, 0.6)),
    "support_devices": (0.564, 0.05, 0.05, (0.2, 0.1, 0.7, 0.2)),
    "ap_view": (0.80, 0.25, 0.00, (0.0, 0.0, 0.6, 0.0)),
    "glioblastoma": (374 / 501, 1.04, 0.04, ()),  # probit slopes fitted to the UCSF-PDGM table
}
RACE_SLOPE = {"cardiomegaly": {"black": 0.15}, "edema": {"black": 0.10}}  # stylised
OPACITY_PARTS = ("edema", "consolidation", "pneumonia", "lung_lesion", "atelectasis")  # CheXpert's hierarchy
KINDS = (  # kind, WHO grade, patients of UCSF-PDGM, mean aggressiveness (the dial for how hard grading is)
    ("glioblastoma", 4, 374, 0.90),
    ("astrocytoma", 4, 28, 0.50),
    ("astrocytoma", 3, 41, -0.25),
    ("astrocytoma", 2, 45, -1.00),
    ("oligodendroglioma", 3, 2, -0.25),
    ("oligodendroglioma", 2, 11, -1.00),
)
TASKS = {
    "brain": ("tumour_grade", "tumour_type"),
    "chest": (*FINDINGS[:2], "lung_opacity", *FINDINGS[2:]),
}
CONSPICUITY_SLOPE = 0.5  # log of what is left of a finding, per unit of the knob
ACQUISITION_SLOPE = 0.25  # log of what is left of exposure or SNR, per unit of the knob (stylised)
LABEL_ERRORS = {"brain": (0.02, 0.02), "chest": (0.08, 0.015)}  # missed, invented; for everybody (stylised)
LABEL_SLOPE = 0.35  # added to the miss rate per unit of the knob
KNOBS = ("anatomy", "prevalence", "acquisition", "conspicuity", "label")
KNOB_RANGE = (0.0, 2.0)
STREAMS = ("attributes", "exogenous", "labels", "image", "reader")
DISADVANTAGED = {  # who is under-diagnosed in Seyyed-Kalantari 2021, doi:10.1038/s41591-021-01595-0
    "sex": ("female",),
    "age_group": ("young",),
    "race": ("black", "native_american", "pacific_islander"),
}


@dataclass(frozen=True)
class Bias:
    """How strongly each mechanism depends on the attributes; 0 switches it off, 1 is the usual size.

    Attributes
    ----------
    anatomy, prevalence : float, 0 to 2
        Effect of sex and age on the body; of sex, age and race on who has what.
    acquisition, conspicuity, label : float, 0 to 2
        Less exposure (or SNR), fainter findings, more missed labels for the disadvantaged group;
        `acquisition` also makes AP views more frequent with age.
    attribute : {"sex", "age_group", "race"}
    group : tuple of str, or str
        Whom the last three put at a disadvantage; default `DISADVANTAGED[attribute]`. Another group reverses the sign.

    Raises
    ------
    ValueError
        A knob outside 0 to 2, an unknown attribute or group.
    """

    anatomy: float = 1.0
    prevalence: float = 1.0
    acquisition: float = 1.0
    conspicuity: float = 0.0
    label: float = 0.0
    attribute: str = "sex"
    group: tuple[str, ...] | str = ()

    def __post_init__(self):
        low, high = KNOB_RANGE
        for knob in KNOBS:
            if not low <= getattr(self, knob) <= high:
                raise ValueError(f"bias {knob}={getattr(self, knob)!r} is outside {low:g} to {high:g}")
        known(self.attribute, VALUES, "attribute")
        group = (self.group,) if isinstance(self.group, str) else tuple(self.group)
        for value in group:
            known(value, VALUES[self.attribute], self.attribute)
        object.__setattr__(self, "group", group or DISADVANTAGED[self.attribute])


PRESETS = {
    "null": {"anatomy": 0.0, "prevalence": 0.0, "acquisition": 0.0},  # attributes change nothing at all
    "realistic": {},  # what differs between groups anyway
    "injected": {"conspicuity": 1.0},  # and findings that show less in one group
}


def as_bias(bias: "str | float | Bias" = "realistic", attribute: str = "sex") -> Bias:
    """A `Bias` from its short name.

    Parameters
    ----------
    bias : str, float or Bias
        "null" (attributes change nothing), "realistic", "injected" (realistic plus 1), or a number k, also as text:
        realistic plus k of injected conspicuity. Not all knobs at once: they can cancel. A `Bias` is returned as it is.
    attribute : {"sex", "age_group", "race"}
        Whom it is about; ignored when `bias` is a `Bias`.

    Raises
    ------
    ValueError
        An unknown preset (with the nearest known name), or what `Bias` refuses.
    """
    if isinstance(bias, Bias):
        return bias
    if bias in tuple(PRESETS):
        return Bias(**PRESETS[bias], attribute=attribute)
    try:
        size = float(bias)
    except (TypeError, ValueError):
        raise ValueError(
            f"unknown bias {bias!r}{suggest(bias, PRESETS)}; choose one of {', '.join(PRESETS)}, or a number 0 to 2"
        ) from None
    return Bias(conspicuity=size, attribute=attribute)


def disadvantaged(frame: pd.DataFrame, name: str, bias: Bias) -> NDArray[np.float64]:
    """1 for each row that belongs to the group which `bias` puts at a disadvantage, else 0."""
    return np.isin(subgroup(frame, bias.attribute, name), bias.group).astype(float)


def shift(frame: pd.DataFrame, node: str, name: str) -> NDArray[np.float64]:
    """What a row's attributes add to the probit of a node, at knob 1."""
    _, age, sex, _ = NODES[node]
    by_race = frame.race.map(RACE_SLOPE.get(node, {})).fillna(0.0).to_numpy(dtype=float)
    return age * standard_age(frame.age_years, name) + sex * np.where(frame.sex == "male", 1.0, -1.0) + by_race


@lru_cache
def intercept(node: str, knob: float, name: str, race: str) -> float:
    """The probit intercept that keeps a node's share of the declared population, whatever the knob."""
    share = NODES[node][0] if node in ("ap_view", "glioblastoma") else max(NODES[node][0], PREVALENCE_FLOOR)
    cells = population(name, race)
    lean = knob * shift(cells, node, name)
    return brentq(lambda start: float(cells.weight @ ndtr(start + lean)) - share, -8, 8, xtol=1e-12)


def probability(frame: pd.DataFrame, node: str, knob: float, name: str, race: str = "paper") -> NDArray[np.float64]:
    """P(node is present | sex, age, race) of each row: exact, with the hidden causes averaged out."""
    return ndtr(intercept(node, knob, name, race) + knob * shift(frame, node, name))


def label_errors(frame: pd.DataFrame, name: str, bias: Bias) -> tuple[NDArray[np.float64], float]:
    """Probability that a present finding is not recorded (per row), and that an absent one is."""
    missed, invented = LABEL_ERRORS[name]
    return missed + LABEL_SLOPE * bias.label * disadvantaged(frame, name, bias), invented


def uniforms(seed: int, name: str, stream: str, shape: tuple[int, int], visit: int = 0) -> NDArray[np.float64]:
    """Numbers in (0, 1), shape (n, k). Row i is the same whatever n is; streams are independent of one another."""
    path = (list(AGES).index(name), STREAMS.index(stream), visit)
    key = np.random.SeedSequence(seed, spawn_key=path)
    return np.random.Generator(np.random.PCG64(key)).random(shape) + 2.0**-54


def patient_table(
    name: str,
    n_patients: int,
    *,
    seed: int = 1,
    bias: str | float | Bias = "realistic",
    attribute: str = "sex",
    race: str = "paper",
    visit: int = 0,
    do: dict | None = None,
) -> pd.DataFrame:
    """Everything about `n_patients` simulated patients except their images.

    Parameters
    ----------
    name : {"brain", "chest"}
    n_patients : int
        At least 1. Patient i is the same in a table of any length.
    seed : int
        Not negative.
    bias, attribute
        As in `as_bias`.
    race : {"paper", "balanced"}
        As in `population`.
    visit : int
        0, or a later visit of the same people: same findings; severity, view and recorded label are drawn anew.
    do : dict, optional
        Nodes set from outside for everybody, such as `{"sex": "female", "age_years": 30}` or
        `{"severity_edema": 0.0, "view": "PA"}`; what lies downstream follows, all luck stays.

    Returns
    -------
    table : DataFrame, one row per patient, index = patient number
        patient_id, modality, sex, age_years (whole years), race, `true_<task>` and recorded `y_<task>` (0 or 1), and
        covariates: x_conspicuity; chest: x_view, x_exposure, x_severity_<finding> (0 when absent);
        brain: x_kind, x_grade, x_aggressiveness, x_snr.

    Raises
    ------
    ValueError
        No patients, a negative seed, an unknown name, value or node; a disadvantaged group that nobody belongs to.
    """
    bias, do = as_bias(bias, attribute), do or {}
    if n_patients < 1 or seed < 0 or visit < 0:
        raise ValueError(f"need at least one patient, seed and visit from 0, got {n_patients=}, {seed=}, {visit=}")
    cells = population(name, race)
    for node, value in do.items():
        known(node, SETTABLE[name], "node to set")
        if node in VALUES:
            known(value, VALUES[node], node)
    if not disadvantaged(cells, name, bias).any():
        raise ValueError(f"nobody in {name!r} ({race} race shares) has {bias.attribute} {' or '.join(bias.group)}")
    luck = uniforms(seed, name, "attributes", (n_patients, 1))[:, 0]
    cell = np.minimum(np.searchsorted(np.cumsum(cells.weight), luck, side="right"), len(cells) - 1)
    table = cells.iloc[cell].drop(columns="weight").reset_index(drop=True)
    table = table.assign(**{node: value for node, value in do.items() if node in table})
    if name == "brain":  # a glioma is imaged once: later visits differ in the recorded labels only
        columns, truth = _brain_columns(table, bias, race, seed, do)
    else:
        columns, truth = _chest_columns(table, bias, race, seed, visit, do)
    recorded = _record(table, truth, name, bias, seed, visit)
    if name == "chest":
        for labels in (truth, recorded):
            labels["lung_opacity"] = np.any([labels[part] for part in OPACITY_PARTS], axis=0)
    table.insert(0, "patient_id", [f"{name}-{i:06d}" for i in range(n_patients)])
    table.insert(1, "modality", {"brain": "mri", "chest": "xray"}[name])
    fading = CONSPICUITY_SLOPE * bias.conspicuity * disadvantaged(table, name, bias)
    columns["x_conspicuity"] = _set(do, "conspicuity", np.exp(-fading))
    labels = {f"y_{task}": recorded[task] for task in TASKS[name]}
    labels |= {f"true_{task}": truth[task] for task in TASKS[name]}
    table = pd.concat([table, pd.DataFrame(labels).astype(np.int8), pd.DataFrame(columns)], axis=1)
    table.attrs["simulated"] = {"name": name, "race": race, "seed": seed, "do": do, "bias": dataclasses.asdict(bias)}
    return table


SETTABLE = {
    "brain": ("sex", "age_years", "race", "conspicuity", "kind", "aggressiveness", "snr"),
    "chest": ("sex", "age_years", "race", "conspicuity", "view", "exposure", *(f"severity_{f}" for f in FINDINGS)),
}


def _set(do: dict, node: str, values: NDArray) -> NDArray:
    """The node's own values, or the one it is set to."""
    return np.full(len(values), do[node]) if node in do else values


def _brain_columns(table: pd.DataFrame, bias: Bias, race: str, seed: int, do: dict) -> tuple[dict, dict]:
    """Kind, grade, aggressiveness and SNR of each patient; and the two true labels."""
    luck = uniforms(seed, "brain", "exogenous", (len(table), 3))
    is_glioblastoma = luck[:, 0] < probability(table, "glioblastoma", bias.prevalence, "brain", race)
    others = np.cumsum([patients for _, _, patients, _ in KINDS[1:]])
    which = np.where(is_glioblastoma, 0, 1 + np.searchsorted(others, luck[:, 1] * others[-1]))
    if "kind" in do:  # the first row of that kind
        kinds = [kind for kind, *_ in KINDS]
        which = np.full(len(table), kinds.index(known(do["kind"], kinds, "kind")))
    kind, grade, _, mean = (np.array(column)[which] for column in zip(*KINDS))
    aggressiveness = _set(do, "aggressiveness", mean + ndtri(luck[:, 2]))
    snr = _set(do, "snr", 26.0 * _dose(table, "brain", bias))
    columns = {"x_kind": kind, "x_grade": grade, "x_aggressiveness": aggressiveness, "x_snr": snr}
    return columns, {"tumour_grade": grade == 4, "tumour_type": kind == "glioblastoma"}


def _chest_columns(table: pd.DataFrame, bias: Bias, race: str, seed: int, visit: int, do: dict) -> tuple[dict, dict]:
    """View, exposure and severities of each patient; and the true findings."""
    luck = uniforms(seed, "chest", "exogenous", (len(table), 5 + 2 * len(FINDINGS)))
    hidden, own, course = ndtri(luck[:, :4]), ndtri(luck[:, 4 : 5 + len(FINDINGS)]), luck[:, 5 + len(FINDINGS) :]
    if visit:
        again = uniforms(seed, "chest", "exogenous", (len(table), 1 + len(FINDINGS)), visit)
        own[:, 0], course = ndtri(again[:, 0]), again[:, 1:]
    columns, truth = {}, {}
    ap = _present(table, "ap_view", bias.acquisition, race, hidden, own[:, 0])
    columns["x_view"] = _set(do, "view", np.where(ap, "AP", "PA"))
    columns["x_exposure"] = _set(do, "exposure", _dose(table, "chest", bias))
    for j, finding in enumerate(FINDINGS):
        present = _present(table, finding, bias.prevalence, race, hidden, own[:, 1 + j])
        severity = SEVERITY_FLOOR[finding] - SEVERITY_SCALE[finding] * np.log(course[:, j])
        severity = _set(do, f"severity_{finding}", np.where(present, severity, 0.0))
        columns[f"x_severity_{finding}"], truth[finding] = severity, severity > 0
    return columns, truth


def _present(table, node: str, knob: float, race: str, hidden: NDArray, own: NDArray) -> NDArray[np.bool_]:
    """Probit model of one node; hidden causes and own luck add to unit variance, so `probability` is exact."""
    loadings = np.array(NODES[node][3])
    luck = hidden @ loadings + np.sqrt(1 - loadings @ loadings) * own
    return intercept(node, knob, "chest", race) + knob * shift(table, node, "chest") + luck > 0


def _dose(table: pd.DataFrame, name: str, bias: Bias) -> NDArray[np.float64]:
    """What is left of exposure or SNR for the disadvantaged group."""
    return np.exp(-ACQUISITION_SLOPE * bias.acquisition * disadvantaged(table, name, bias))


def _record(table: pd.DataFrame, truth: dict, name: str, bias: Bias, seed: int, visit: int) -> dict:
    """Recorded labels: the truth, missed or invented now and then."""
    missed, invented = label_errors(table, name, bias)
    luck = uniforms(seed, name, "labels", (len(table), len(truth)), visit)
    flips = zip(truth.items(), luck.T)
    return {task: np.where(present, u > missed, u < invented) for (task, present), u in flips}
