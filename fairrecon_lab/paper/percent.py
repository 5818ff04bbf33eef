"""Change in per cent, as the follow-up has it: 100 (arm - clean) / clean of a gap, then the median over cells.

A cell is a task, an attribute and an arm; the gap is EODD of a classifier or SER of the segmenter. The median hides the
sign of what divides: a gap of .02 that grows by .005 counts as much as one of .40 that grows by .10. Beside it stands
the law of the same median where nothing changed: `null_percent` gives every subgroup patients of all subgroups
(`audit.inference.null_draws`), with all their arms, so that clean and arm keep the decisions that they share.

The laws at the papers' own sizes are in `unchanged`; they need no data.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from fairrecon_core.audit.engine import Stratum, patient_codes
from fairrecon_core.audit.groups import resample_means
from fairrecon_core.audit.inference import group_range, null_draws
from fairrecon_core.audit.matching import match
from fairrecon_core.audit.metrics import UNKNOWN, intersect

METRICS = ("eodd", "ser")
MERGED = {"native_american": "other", "pacific_islander": "other"}  # Figs 16 and 17 of the follow-up


def percent_table(audit: pd.DataFrame, metrics=METRICS) -> pd.DataFrame:
    """Changes of plain gaps from clean in an audit table.

    Parameters
    ----------
    audit : DataFrame
        Of `audit_change`, or what notebook 10 has saved.
    metrics : sequence of str

    Returns
    -------
    DataFrame
        `cohort attribute task arm metric baseline value delta delta_ci_low delta_ci_high percent`, one row per cell
        that can be estimated.
    """
    rows = audit.query("baseline_arm == 'clean' and subgroup == '' and estimator == 'plug_in' and metric in @metrics")
    keep = ["cohort", "attribute", "task", "arm", "metric", "baseline", "value"]
    keep += [name for name in ("delta", "delta_ci_low", "delta_ci_high") if name in rows]
    rows = rows.dropna(subset=["baseline", "value"]).drop_duplicates(keep[:5])[keep]
    return rows.assign(percent=percent_change(rows["value"], rows["baseline"])).reset_index(drop=True)


def percent_change(value, baseline) -> np.ndarray:
    """100 (value - baseline) / baseline; infinite over a baseline of 0, NaN where both are 0."""
    value, baseline = np.asarray(value, dtype=float), np.asarray(baseline, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        return 100 * (value - baseline) / baseline


def percent_summary(table: pd.DataFrame, by="attribute") -> pd.DataFrame:
    """Number of cells, median and median absolute change (%) of a `percent_table`, by one or several columns."""
    groups = table.groupby(by, sort=False)["percent"]
    absolute = groups.agg(lambda values: values.abs().median())
    return pd.DataFrame({"cells": groups.size(), "median": groups.median(), "absolute median": absolute})


@dataclass(frozen=True)
class NullPercent:
    """EODD of every task and arm, and its changes where nothing changed.

    observed : DataFrame `task arm baseline value percent`. draws : array (n_draws, rows of `observed`), in per cent.
    """

    observed: pd.DataFrame
    draws: np.ndarray

    def band(self, arm: str | None = None) -> np.ndarray:
        """Low, median and high of the median over the tasks, of one arm or of all."""
        chosen = self.draws[:, (self.observed["arm"] == arm) | (arm is None)]
        return np.nanquantile(np.nanmedian(chosen, axis=1), [0.025, 0.5, 0.975])


def null_percent(
    predictions: pd.DataFrame, cohort: pd.DataFrame, attribute: str, arms, *, at_baseline: bool = True,
    n_draws: int = 400, seed: int = 0, min_support: int = 10,
) -> NullPercent:  # fmt: skip
    """The law of the change in per cent of EODD, from a run's own decisions.

    Parameters
    ----------
    predictions, cohort : DataFrame
        As in `audit_change` (its thresholds too), of one level.
    attribute : str
        Column of the cohort.
    arms : sequence of str
        Without the baseline, `clean`.
    at_baseline : bool
        The subgroups keep the distances that they have on clean images; otherwise all are alike.
    n_draws, seed, min_support : int
        Resamples, their seed, and the patients that a subgroup needs.
    """
    matched = match(predictions, cohort, baseline_arm="clean", arms=list(arms), thresholds=None)
    column = intersect(matched.images, attribute)[1]
    known = (column != UNKNOWN).to_numpy()
    patient, group = patient_codes(matched.images["patient_id"][known])[0], pd.factorize(column[known], sort=True)[0]
    names = [arm for arm, _ in matched.conditions]
    order = [names.index("clean"), *(names.index(arm) for arm in arms if arm in names)]
    strata = [_stratum(matched, task, label, order, known) for task in matched.truth for label in (1, 0)]
    n_groups = int(group.max()) + 1
    options = {"n_boot": n_draws, "seed": seed, "min_support": min_support}
    (result,) = resample_means(patient, group, strata, [n_groups], **options)
    drawn = null_draws(result, n_draws)
    rates = _rates(strata, group, n_groups) + 0 * drawn[0]  # NaN below the minimum support
    if at_baseline:
        drawn = drawn + (rates[:, :1] - drawn[:, :, :1].mean(axis=0))
    here, null = (_eodd(values) for values in (rates[None], drawn))
    frame = pd.DataFrame([(task, names[k]) for task in matched.truth for k in order[1:]], columns=["task", "arm"])
    frame = frame.assign(baseline=np.repeat(here[0, :, 0], len(order) - 1), value=here[0, :, 1:].ravel())
    frame = frame.assign(percent=percent_change(frame["value"], frame["baseline"]))
    return NullPercent(frame, percent_change(null[..., 1:], null[..., :1]).reshape(n_draws, -1))


def _stratum(matched, task: str, label: int, order: list[int], known: np.ndarray) -> Stratum:
    """Decisions (arms, rows) of one task where the truth is `label`."""
    decision = matched.decision[task][order][:, known]
    return Stratum(f"{task} {label}", decision, (matched.truth[task][known] == label) & ~np.isnan(decision).any(axis=0))


def _rates(strata, group: np.ndarray, n_groups: int) -> np.ndarray:
    """Mean decision (strata, arms, groups)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        sums = [
            [np.bincount(group, np.where(one.weight, values, 0), n_groups) for values in one.values] for one in strata
        ]
        sizes = [np.bincount(group, one.weight, n_groups) for one in strata]
        return np.array(sums) / np.array(sizes)[:, None]


def _eodd(rates: np.ndarray) -> np.ndarray:
    """EODD (worlds, tasks, arms) from rates (worlds, strata, arms, groups)."""
    gaps = group_range(rates)
    return gaps.reshape(len(gaps), -1, 2, gaps.shape[-1]).mean(axis=2)


def merge_races(cohort: pd.DataFrame) -> pd.DataFrame:
    """The table of a cohort with its two smallest races counted as `other`, as in the follow-up's Figs 16 and 17."""
    return cohort.assign(race=cohort["race"].replace(MERGED))
