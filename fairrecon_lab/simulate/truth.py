"""What an audit of a simulated cohort should find: exact rates of a reference reader, Monte Carlo for any other.

The reference reader of a chest finding scores `conspicuity * severity + sigma * noise`; of a brain task
`conspicuity * aggressiveness + sigma * noise`. Its true and false positive rates are sums over the declared
population of normal or normal-plus-exponential tails: nothing is estimated. Recorded labels, some missed
(probability f) and some invented (q), change the rates that an audit sees; with prevalence p in a cell,

    TPR' = [p (1 - f) TPR + (1 - p) q FPR] / [p (1 - f) + (1 - p) q],    FPR' alike with f and 1 - q.

A trained network has no such formula. `true_gap_by_monte_carlo` scores a large fresh cohort once.

Conventions: rates in [0, 1]; positive means score > threshold; a gap is the group's rate minus the rate of all others.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import log_ndtr, ndtr, ndtri

from fairrecon_lab.simulate import causal
from fairrecon_lab.simulate.causal import Bias, patient_table
from fairrecon_lab.simulate.chest import FINDINGS, SEVERITY_FLOOR, SEVERITY_SCALE
from fairrecon_lab.simulate.drawing import simulate


@dataclass(frozen=True)
class ReferenceReader:
    """Scores of the reference reader on a table, and its exact rates.

    Attributes
    ----------
    scores : ndarray, shape (n,)
        One per row of the table.
    rates : DataFrame, index = subgroup
        prevalence, tpr, fpr against the truth; prevalence_recorded, tpr_recorded, fpr_recorded against recorded labels.
    """

    scores: NDArray[np.float64]
    rates: pd.DataFrame


def reference_reader(
    table: pd.DataFrame,
    task: str,
    sigma: float = 0.5,
    threshold: float = 0.8,
    *,
    by: str | None = None,
    age_cut: float | None = None,
    noise_seed: int = 0,
) -> ReferenceReader:
    """Read a table of `patient_table` with the reference reader, and say exactly how well it reads.

    Parameters
    ----------
    table : DataFrame
        From `patient_table`, whole or a selection of rows; it remembers the model that made it.
    task : str
        A finding with a severity of its own (not lung_opacity, a union), or tumour_grade, tumour_type.
    sigma : float
        Standard deviation of the reader's noise, above 0, in units of severity or aggressiveness.
    threshold : float
        Positive above it.
    by : {"sex", "age_group", "race"}, optional
        Attribute of the subgroups; default the one that the bias is about.
    age_cut : float, optional
        Years; young is below. Default: the paper's.
    noise_seed : int
        Of the reader's noise.

    Raises
    ------
    ValueError
        A table made elsewhere or with `do`, an unknown task or attribute, a sigma that is not positive.
    """
    if "simulated" not in table.attrs:
        raise ValueError("this table does not know its model: take one from patient_table(...)")
    made = table.attrs["simulated"]
    if made["do"]:
        raise ValueError(f"rates describe the declared population, and this table was made with do={made['do']}")
    name, bias = made["name"], Bias(**made["bias"])
    rates = reference_rates(name, task, sigma, threshold, bias=bias, race=made["race"], by=by, age_cut=age_cut)
    noise = ndtri(causal.uniforms(made["seed"], name, "reader", (int(table.index.max()) + 1, 1), noise_seed)[:, 0])
    signal = table["x_aggressiveness" if name == "brain" else f"x_severity_{task}"]
    return ReferenceReader((table.x_conspicuity * signal).to_numpy() + sigma * noise[table.index], rates)


def reference_rates(
    name: str,
    task: str,
    sigma: float = 0.5,
    threshold: float = 0.8,
    *,
    bias: str | float | Bias = "realistic",
    attribute: str = "sex",
    race: str = "paper",
    by: str | None = None,
    age_cut: float | None = None,
) -> pd.DataFrame:
    """Exact rates of the reference reader in every subgroup, without a table.

    Parameters
    ----------
    name, bias, attribute, race
        The model, as in `patient_table`.
    task, sigma, threshold, by, age_cut
        As in `reference_reader`.

    Returns
    -------
    rates : DataFrame
        As `ReferenceReader.rates`.

    Raises
    ------
    ValueError
        An unknown task, attribute or cohort, a sigma that is not positive.
    """
    bias = causal.as_bias(bias, attribute)
    causal.known(task, FINDINGS if name == "chest" else causal.TASKS["brain"], "task of the reference reader")
    if not sigma > 0:
        raise ValueError(f"sigma must be above 0, got {sigma!r}")
    cells = causal.population(name, race)
    conspicuity = np.exp(-causal.CONSPICUITY_SLOPE * bias.conspicuity * causal.disadvantaged(cells, name, bias))
    rates = _brain_rates if name == "brain" else _chest_rates
    p, tpr, fpr = rates(cells, task, sigma, threshold, conspicuity, bias, race)
    missed, invented = causal.label_errors(cells, name, bias)
    kept, added = p * (1 - missed), (1 - p) * invented  # recorded as positive: rightly, wrongly
    lost, clear = p * missed, (1 - p) * (1 - invented)
    joint = pd.DataFrame(
        {
            "positive": p, "negative": 1 - p, "hit": p * tpr, "alarm": (1 - p) * fpr,
            "positive_r": kept + added, "negative_r": lost + clear,
            "hit_r": kept * tpr + added * fpr, "alarm_r": lost * tpr + clear * fpr,
        }
    ).mul(cells.weight, axis=0)  # fmt: skip
    sums = joint.groupby(causal.subgroup(cells, by or bias.attribute, name, age_cut)).sum()
    result = {}
    for suffix, end in (("", ""), ("_recorded", "_r")):
        positive, negative = sums["positive" + end], sums["negative" + end]
        result["prevalence" + suffix] = positive / (positive + negative)
        result["tpr" + suffix] = sums["hit" + end] / positive
        result["fpr" + suffix] = sums["alarm" + end] / negative
    return pd.DataFrame(result).rename_axis("subgroup")


def _chest_rates(cells, task, sigma, threshold, conspicuity, bias, race):
    """Prevalence, TPR, FPR per cell. Severity is floor + scale * Exp(1), so the score is normal plus exponential."""
    p = causal.probability(cells, task, bias.prevalence, "chest", race)
    above = (threshold - conspicuity * SEVERITY_FLOOR[task]) / sigma  # threshold over the mildest case, in sigma
    rate = sigma / (conspicuity * SEVERITY_SCALE[task])  # of the exponential, per sigma
    return p, ndtr(-above) + np.exp(rate**2 / 2 - rate * above + log_ndtr(above - rate)), ndtr(-threshold / sigma)


def _brain_rates(cells, task, sigma, threshold, conspicuity, bias, race):
    """Prevalence, TPR, FPR per cell: mixtures over the kinds, each with normal aggressiveness of variance 1."""
    glioblastoma = causal.probability(cells, "glioblastoma", bias.prevalence, "brain", race)
    others = sum(patients for _, _, patients, _ in causal.KINDS[1:])
    totals = np.zeros((2, 2, len(cells)))  # [label, (share, read as positive)]
    for j, (kind, grade, patients, mean) in enumerate(causal.KINDS):
        share = glioblastoma if j == 0 else (1 - glioblastoma) * patients / others
        above = ndtr((conspicuity * mean - threshold) / np.sqrt(conspicuity**2 + sigma**2))
        totals[int(kind == "glioblastoma" if task == "tumour_type" else grade == 4)] += share, share * above
    return totals[1, 0], totals[1, 1] / totals[1, 0], totals[0, 1] / totals[0, 0]


def true_gap_by_monte_carlo(
    score: Callable[[NDArray[np.float32]], NDArray],
    name: str,
    task: str,
    threshold: float,
    *,
    n_patients: int = 2000,
    seed: int = 1_000_003,
    size: int = 128,
    bias: str | float | Bias = "realistic",
    attribute: str = "sex",
    race: str = "paper",
    by: str | None = None,
    age_cut: float | None = None,
    labels: str = "true",
    batch_size: int = 64,
    n_jobs: int = 1,
) -> pd.DataFrame:
    """Rates of any reader in every subgroup, and their gaps, on a large fresh cohort; memory is constant in its size.

    Parameters
    ----------
    score : callable
        Images, float32 (n, H, W) in [0, 1], to n scores: degradation, reconstruction and network in one.
    name, task, bias, attribute, race, size
        As in `simulate`; one image per patient.
    threshold : float
        Positive above it, the same for everybody.
    n_patients, seed : int
        Choose a seed that the reader was not trained on.
    by, age_cut
        As in `reference_reader`.
    labels : {"true", "recorded"}
    batch_size : int
        Images per call of `score`.
    n_jobs : int
        Processes that draw images.

    Returns
    -------
    gaps : DataFrame, index = subgroup
        n_positive, n_negative, tpr, tpr_se, fpr, fpr_se and, against everybody else, tpr_gap, tpr_gap_se, fpr_gap,
        fpr_gap_se. Standard errors are binomial; a rate without anybody behind it is NaN.

    Raises
    ------
    ValueError
        An unknown task or kind of labels, or whatever `simulate` refuses.
    """
    causal.known(labels, ("true", "recorded"), "labels")
    causal.known(task, causal.TASKS[name], "task")
    bias = causal.as_bias(bias, attribute)
    model = {"seed": seed, "bias": bias, "race": race}
    table = patient_table(name, n_patients, **model)
    items = simulate(name, n_patients, size=size, n_slices=1, n_jobs=n_jobs, **model)
    scores, batch = [], []
    for image, *_ in items:
        batch.append(image)
        if len(batch) == batch_size:
            scores, batch = [*scores, np.asarray(score(np.stack(batch)))], []
    if batch:
        scores.append(np.asarray(score(np.stack(batch))))
    decision = np.concatenate(scores).ravel() > threshold
    truth = table[f"{'true' if labels == 'true' else 'y'}_{task}"].to_numpy() == 1
    return _gaps(truth, decision, causal.subgroup(table, by or bias.attribute, name, age_cut))


def _gaps(truth: NDArray, decision: NDArray, groups: NDArray) -> pd.DataFrame:
    """Rates per subgroup, against everybody else, with binomial standard errors."""
    rows = {}
    for group in np.unique(groups):
        row = {"n_positive": int(truth[groups == group].sum()), "n_negative": int((~truth[groups == group]).sum())}
        for rate, label in (("tpr", truth), ("fpr", ~truth)):
            inside, outside = decision[label & (groups == group)], decision[label & (groups != group)]
            (value, se), (other, other_se) = _rate(inside), _rate(outside)
            row |= {rate: value, f"{rate}_se": se}
            row |= {f"{rate}_gap": value - other, f"{rate}_gap_se": np.hypot(se, other_se)}
        rows[group] = row
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("subgroup")


def _rate(decision: NDArray) -> tuple[float, float]:
    """Share of positives and its binomial standard error; NaN when nobody is there."""
    if not len(decision):
        return np.nan, np.nan
    share = float(decision.mean())
    return share, np.sqrt(share * (1 - share) / len(decision))
