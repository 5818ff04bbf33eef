"""What each evaluation choice of the published code does to scores: one switched at a time, everything else fixed.

`SWITCHES` has the code beside what we recommend, `TEXT_SWITCHES` the code beside what one of the papers' texts says it
does. The choices of the degradation and of the networks need images made anew; `tools/switchboard.py` switches those.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from fairrecon_core.audit.engine import Stratum, cell_sums, group_totals, means, observed, patient_codes, resample
from fairrecon_core.audit.gaps import group_range
from fairrecon_core.audit.inference import Contrast
from fairrecon_core.audit.matching import match
from fairrecon_core.audit.metrics import UNKNOWN, intersect
from fairrecon_core.audit.multiplicity import step_down_max_t

SWITCHES = {  # choice: setting, published, recommended, the quantity that it moves
    "thresholds": ("threshold_policy", "test_per_arm", "validation_frozen", "mean EODD"),
    "estimator": ("estimator", "bootstrap_mean", "plug_in", "mean EODD"),
    "empty strata": ("empty", "one_or_zero", "left_out", "mean EODD"),
    "resampling unit": ("unit", "rows", "patients", "mean standard error of the change of EODD"),
    "test side": ("side", "post_hoc", "two_sided", "share of cells called changed"),
    "multiplicity": ("adjust", "none", "max_t", "share of cells called changed"),
}
TEXT_SWITCHES = {  # choice: setting, what the released code does, what a text says, the quantity that it moves
    "EODD (follow-up, main text)": ("eodd", "mean", "max", "mean EODD"),
    "EODD (follow-up, appendix)": ("eodd", "mean", "pair_sum", "mean EODD"),
    "thresholds (follow-up)": ("threshold_policy", "test_per_arm", "validation_per_arm", "mean EODD"),
    "test side (seed)": ("side", "post_hoc", "one_sided", "share of cells called changed"),
    "test side (follow-up)": ("side", "post_hoc", "two_sided", "share of cells called changed"),
}
PUBLISHED = {"eodd": "mean"} | {setting: published for setting, published, *_ in SWITCHES.values()}
RECOMMENDED = {"eodd": "mean"} | {setting: recommended for setting, _, recommended, _ in SWITCHES.values()}
N_PARTS = 20  # of the delete-a-group jackknife


def switch_evaluation(
    predictions: pd.DataFrame, cohort: pd.DataFrame, attribute="sex", *, switches=SWITCHES, others="recommended",
    baseline_arm="clean", empty_tpr=1.0, n_boot=1000, alpha=0.05, min_support=10, seed=0,
) -> pd.DataFrame:  # fmt: skip
    """What each evaluation choice of the published code changes, one at a time, everything else fixed.

    Parameters
    ----------
    predictions, cohort : DataFrame
        As in `audit.audit_change`, with results on validation images; one level per arm.
    attribute : str
        Column of the cohort.
    switches : dict
        `SWITCHES` or `TEXT_SWITCHES`: of the latter, "recommended" is what the text says.
    others : {"recommended", "published"}
        What all other choices are while one is switched.
    baseline_arm : str
    empty_tpr : float
        What the published code takes for a subgroup without positives: 1 for chest, 0 for brain.
    n_boot, seed : int
        Resamples; their seed.
    alpha : float
        Level at which a cell (task and arm) is called changed.
    min_support : int
        Patients below which the recommended way leaves a subgroup out.

    Returns
    -------
    DataFrame
        One row per switch: `choice setting published recommended quantity cohort effect low high moves_a_conclusion
        note`. `effect` is published minus recommended, its 95 % interval from a jackknife over 20 groups of
        patients; a conclusion moves where a cell is called changed (or its direction) by one and not by the other.

    Raises
    ------
    ValueError
        As `audit.audit_change`, where no cell can be estimated, and for unknown `others`.
    """
    if others not in ("recommended", "published"):
        raise ValueError(f"the others are 'recommended' or 'published', got {others!r}")
    fixed = RECOMMENDED if others == "recommended" else PUBLISHED
    policies = {value for setting, *both, _ in switches.values() if setting == "threshold_policy" for value in both}
    options = (empty_tpr, min_support, n_boot, alpha, seed)
    policies |= {PUBLISHED["threshold_policy"], RECOMMENDED["threshold_policy"]}
    evaluation = _Evaluation.of(predictions, cohort, attribute, baseline_arm, options, sorted(policies))
    if not np.isfinite(evaluation.all_and_parts(fixed)[0].eodd).any():
        way_out = f"lower min_support (is {min_support}) or add patients"
        raise ValueError(f"no cell of {attribute!r} can be estimated: {way_out}")
    rows = []
    for choice, (setting, published, recommended, quantity) in switches.items():
        turned, right = (evaluation.all_and_parts(fixed | {setting: value}) for value in (published, recommended))
        effects = np.array([_quantity(a, quantity) - _quantity(b, quantity) for a, b in zip(turned, right)])
        n = len(effects) - 1
        half = 1.96 * np.sqrt((n - 1) / n * np.sum((effects[1:] - effects[1:].mean()) ** 2))
        moved = int((turned[0].call != right[0].call).sum())
        rows.append({
            "choice": choice, "setting": setting, "published": published, "recommended": recommended,
            "quantity": f"{quantity}, by {attribute}", "cohort": evaluation.cohort, "effect": effects[0],
            "low": effects[0] - half, "high": effects[0] + half, "moves_a_conclusion": moved > 0,
            "note": f"{moved} of {right[0].call.size} cells called differently",
        })  # fmt: skip
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class _Cells:
    """One evaluation of all cells, arrays (tasks, arms): EODD, the standard error of its change, p and the call.

    `call` is the direction of a change with p <= alpha, 0 without.
    """

    eodd: np.ndarray
    se: np.ndarray
    p_value: np.ndarray
    call: np.ndarray


def _quantity(cells: _Cells, quantity: str) -> float:
    if quantity.startswith("share"):
        return float(np.mean(cells.call != 0))
    values = cells.eodd if quantity == "mean EODD" else cells.se
    return float(np.nanmean(values)) if np.isfinite(values).any() else np.nan


@dataclass(frozen=True)
class _Evaluation:
    """Everything that the switches share: rows of the audited images, and their decisions under both policies."""

    cohort: str
    patient: np.ndarray
    group: np.ndarray
    truth: np.ndarray  # (tasks, rows)
    decision: Mapping  # policy to (tasks, arms, rows), the baseline first
    options: tuple  # empty_tpr, min_support, n_boot, alpha, seed
    done: dict = field(default_factory=dict)  # evaluations by their choices

    @classmethod
    def of(cls, predictions, cohort, attribute, baseline_arm, options, policies=SWITCHES["thresholds"][1:3]):
        matched = {
            policy: match(predictions, cohort, baseline_arm=baseline_arm, thresholds=policy) for policy in policies
        }
        one = matched["validation_frozen"]
        arms = [i for i, base in enumerate(one.baseline_of) if base not in (-1, i)]
        baseline = int(one.baseline_of[arms[0]])
        column = intersect(one.images, attribute)[1]
        known = column != UNKNOWN
        both = list(one.truth)
        return cls(
            cohort=one.cohort,
            patient=patient_codes(one.images["patient_id"][known])[0],
            group=pd.factorize(column[known], sort=True)[0],
            truth=np.stack([one.truth[task] for task in both])[:, known],
            decision={
                policy: np.stack([frame.decision[task][[baseline, *arms]] for task in both])[..., known]
                for policy, frame in matched.items()
            },
            options=options,
        )

    def all_and_parts(self, choices: Mapping) -> list[_Cells]:
        """All rows evaluated as `choices` say, then all without each of `N_PARTS` groups of patients."""
        key = tuple(sorted(choices.items()))
        if key not in self.done:
            part = self.patient % N_PARTS
            subsets = [part >= 0, *(part != left for left in range(min(N_PARTS, part.max() + 1)))]
            self.done[key] = [self.run(choices, keep) for keep in subsets]
        return self.done[key]

    def run(self, choices: Mapping, keep: np.ndarray) -> _Cells:
        """Evaluate the rows named by `keep`, bool (rows,), as `choices` say; resamples are the same for all of them."""
        _, _, n_boot, alpha, seed = self.options
        rows = np.flatnonzero(keep)
        unit = self.patient if choices["unit"] == "patients" else np.arange(len(self.patient))
        strata = self._strata(choices["threshold_policy"], rows)
        cells = cell_sums(unit[rows], self.group[rows], strata, n_patients=int(unit.max()) + 1)
        n_groups = int(self.group.max()) + 1
        eodd = lambda totals: self._eodd(group_totals(totals, cells.codes[:, 0], n_groups), choices, rows, strata)
        point = eodd(observed(cells))[0]  # (tasks, arms)
        drawn = np.concatenate([eodd(totals) for totals in resample(cells, n_boot, seed)])  # (n_boot, tasks, arms)
        delta, deviation = point[:, 1:] - point[:, :1], drawn[..., 1:] - drawn[..., :1]
        deviation = np.nan_to_num(deviation - delta)
        se = np.where(np.isfinite(delta), deviation.std(axis=0), np.nan)
        defined = np.where(np.isfinite(point), 1, np.nan)
        mean = np.nanmean(np.where(np.isfinite(point), drawn, 0), axis=0) * defined
        value = (mean if choices["estimator"] == "bootstrap_mean" else point)[:, 1:]
        p_value = _p_values(delta, deviation, se, choices)
        return _Cells(value, se, p_value, np.sign(np.nan_to_num(delta)) * (p_value <= alpha))

    def _strata(self, policy: str, rows: np.ndarray) -> list[Stratum]:
        """TPR and FPR of every task."""
        strata = []
        for truth, decision in zip(self.truth[:, rows], self.decision[policy][..., rows]):
            decided = ~np.isnan(decision).any(axis=0)
            strata += [Stratum(str(label), decision, decided & (truth == label)) for label in (1, 0)]
        return strata

    def _eodd(self, totals: np.ndarray, choices: Mapping, rows: np.ndarray, strata: list[Stratum]) -> np.ndarray:
        """EODD (b, tasks, arms) from sums (b, groups, strata, 1 + arms)."""
        empty_tpr, min_support, *_ = self.options
        rates = means(totals.astype(float))  # (b, groups, strata, arms)
        if choices["empty"] == "one_or_zero":
            fill = np.where(np.arange(len(strata)) % 2 == 0, empty_tpr, 0.0)[:, None]
            absent = np.array([not stratum.weight.any() for stratum in strata])  # in nobody: there is no question
            rates = np.where(np.isnan(rates) & ~absent[:, None], fill, rates)
        else:
            who = self.patient[rows] * totals.shape[1] + self.group[rows]
            for s, stratum in enumerate(strata):
                support = np.bincount(np.unique(who[stratum.weight]) % totals.shape[1], minlength=totals.shape[1])
                rates[:, support < min_support, s] = np.nan
        by_task = np.moveaxis(rates, 1, -1)  # (b, strata, arms, groups)
        return _aggregate(by_task.reshape(len(rates), -1, 2, *by_task.shape[2:]), choices["eodd"])


def _aggregate(rates: np.ndarray, eodd: str) -> np.ndarray:
    """EODD from rates (b, tasks, label, arms, groups): mean or larger of both gaps, or largest sum over one pair."""
    if eodd == "pair_sum":
        first, second = np.triu_indices(rates.shape[-1], 1)
        apart = np.abs(rates[..., first] - rates[..., second]).sum(axis=2)  # (b, tasks, arms, pairs)
        some = ~np.isnan(apart).all(axis=-1)
        return np.where(some, np.nanmax(np.where(some[..., None], apart, 0), axis=-1), np.nan)
    gaps = group_range(rates)
    return gaps.mean(axis=2) if eodd == "mean" else gaps.max(axis=2)


def _p_values(delta: np.ndarray, deviation: np.ndarray, se: np.ndarray, choices: Mapping) -> np.ndarray:
    """P-values (tasks, arms) of "EODD did not change"; NaN where it cannot be estimated.

    Post hoc: the share of resampled changes on the other side of 0 than the observed one. One-sided: of those that
    are not worse.
    """
    if choices["side"] == "one_sided":
        size, tail = delta, -deviation
    else:
        size = np.abs(delta)
        tail = np.abs(deviation) if choices["side"] == "two_sided" else np.maximum(-np.sign(delta) * deviation, 0)
    if choices["adjust"] == "none":
        exceed = (tail >= size).sum(axis=0)
        return np.where(np.isfinite(delta), (1 + exceed) / (1 + len(tail)), np.nan)
    return step_down_max_t([Contrast("change", size, tail, se, np.ones_like(se))])[0]
