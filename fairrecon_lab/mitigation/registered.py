"""What was fixed before the study's first full run (results/mitigation/REGISTERED.md), and what its tables answer.

Every question has its rule here, so that README, notebooks and tests read one answer. Positive figures of repair mean
less bias. An answer is "yes", "no", or "undetermined" where an interval holds both; it is never chosen after the fact.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy.stats import t as student

from fairrecon_lab.mitigation.skew import Skew

FINDING = "true_pleural_effusion"
CONTROL = Skew("women 50%")  # half of each sex, findings as they come
PRIMARY = Skew("finding in men alone, in all", missing=FINDING, tied=True)
AGAIN = Skew("women 50%, drawn again", redraw=1)
METHOD, WEIGHT, THRESHOLD = "consistency, cells alike", 1e-4, "own"
REPAIRED = "odds"  # mean of the gaps in TPR and FPR, with their signs
SKEWS = (  # in the order of their running: a run that the clock stops lacks the last
    PRIMARY.name, AGAIN.name, "women 0%", "women 100%", "no finding in women", "women 0%, as published", "young 0%",
    "young 100%", "women 25%", "women 75%", "women 25%, as published", "young 25%", "young 75%")  # fmt: skip
BRAIN_SKEWS = (PRIMARY.name, AGAIN.name, "no finding in women", "no finding in men")  # of large tumours, in this order
WEIGHTS = {  # lambdas by method, in the order of their running
    METHOD: (WEIGHT,), "threshold": (0.0,), "consistency": (3e-5,), "eodd": (3e-3, 1e-3),
    "reweighting by finding": (1.0,), "reweighting": (1.0,), "group_dro": (1.0,), "adversarial": (0.01,),
    "adversarial, published signs": (0.01,), "eodd, published sex code": (3e-3,),
    "reweighting, published ages": (1.0,)}  # fmt: skip


def answers(found: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The registered questions with their answers.

    Parameters
    ----------
    found : mapping
        Tables by name: skew, audit, seeds, repaired; a question whose table is absent, or lacks its row, is left out.

    Returns
    -------
    DataFrame
        question, figure, low, high, answer; `figure` is what the rule looks at. `kind`: "primary" or "secondary".
    """
    rows: list[dict] = []
    if "audit" in found and "skew" in found:
        rows += _bias(found["audit"], found["skew"])
    if "seeds" in found:
        rows += _slopes(found["seeds"])
    if "repaired" in found:
        rows += _repairs(found["repaired"])
    return pd.DataFrame(rows, columns=["kind", "question", "figure", "low", "high", "answer"])


def _told(kind: str, question: str, figure, low, high, answer: str) -> dict:
    return {"kind": kind, "question": question, "figure": figure, "low": low, "high": high, "answer": answer}


def _bias(audit: pd.DataFrame, skew: pd.DataFrame) -> list[dict]:
    """Does the audit find the bias, does its interval cover the truth, and does it find none where there is none?"""
    rows = []
    nested = audit.query("metric == 'tpr' and role == 'primary' and reference == 'male'").set_index("arm")
    truth = skew.query("quantity == 'tpr' and subgroup == 'gap'").set_index("skew")["truth"]
    for name in (PRIMARY.name, AGAIN.name):
        if name not in nested.index:
            continue
        row = nested.loc[name]
        ends = row["delta"], row["delta_ci_low"], row["delta_ci_high"]
        changed = str(row["verdict"]).startswith("changed")
        if name == PRIMARY.name:
            answer = "yes" if changed else str(row["verdict"])  # undetermined, or equivalent
            rows.append(_told("primary", "the audit finds that the skew changed the TPR gap", *ends, answer))
            inside = ends[1] <= truth[name] <= ends[2]
            rows.append(_told("secondary", "its interval covers the counterfactual truth", truth[name], *ends[1:],
                              _yes(inside)))  # fmt: skip
        else:
            rows.append(_told("secondary", "other patients of the control's kind change no TPR gap", *ends,
                              _yes(not changed)))  # fmt: skip
    return rows


def _slopes(seeds: pd.DataFrame) -> list[dict]:
    """Change of the same patients' gap from no woman to women alone: a line through the shares, seed by seed."""
    rows, doses = [], seeds.query("attribute == 'sex' and way == 'patients'")
    doses = doses[~doses["skew"].str.contains("finding|again")]
    if doses["share"].nunique() < 2:
        return rows
    for quantity, unit in (("psnr_db", "PSNR, dB"), ("tpr", "TPR")):
        each = [_line(part["share"], part[f"truth_{quantity}"]) for _, part in doses.groupby("train_seed")]
        value, low, high = t_interval(each)
        answer = "undetermined" if not low > 0 and not high < 0 else "yes" if low > 0 else "no, it falls"
        rows.append(_told("secondary", f"the gap rises with the share of women ({unit})", value, low, high, answer))
    return rows


def _line(share, change) -> float:
    """Slope of a line through (1/2, 0), where the control lies, of least squares."""
    x = np.asarray(share, dtype=float) - 0.5
    return float((x * np.asarray(change)).sum() / (x**2).sum())


def t_interval(each) -> tuple[float, float, float]:
    """Mean of figures of independent training seeds and its 95 % interval by Student's t; NaN with one seed."""
    each = np.asarray(each, dtype=float)
    if len(each) < 2:
        return float(each.mean()), np.nan, np.nan
    half = student.ppf(0.975, len(each) - 1) * each.std(ddof=1) / np.sqrt(len(each))
    return float(each.mean()), float(each.mean() - half), float(each.mean() + half)


def _repairs(repaired: pd.DataFrame) -> list[dict]:
    """What the twin, the registered method and the published forms did to the bias."""
    rows, at = [], repaired[repaired["threshold"] == THRESHOLD]
    share = at["share"].iloc[0]  # the table begins with the fine-tuning that was registered
    at = at[at["share"] == share].set_index(["method", "weight"])
    triple = lambda row, name: (row[name], row[f"{name}_low"], row[f"{name}_high"])
    if ("twin", 0.0) in at.index:
        change = triple(at.loc[("twin", 0.0)], "change")
        rows.append(_told("secondary", "the twin removes none of the bias", *change, _none(*change)))
    if (METHOD, WEIGHT) in at.index:
        row = at.loc[(METHOD, WEIGHT)]
        change, half, over, left = (triple(row, name) for name in ("change", "half", "over", "twin_bias"))
        there = left[1] > 0 or left[2] < 0
        rows.append(_told("secondary", "the twin leaves a bias in the odds", *left, "yes" if there else "undetermined"))
        rows.append(_told("primary", f"{METHOD} ({WEIGHT:g}) leaves less than half of that, on either side of 0",
                          *triple(row, "bias"), _less_than_half(half, over) if there else "undetermined"))  # fmt: skip
        for words, figures in (("it removes bias that its twin leaves", change),
                               ("it removes more than half of that, what lies beyond 0 aside", half)):  # fmt: skip
            rows.append(_told("secondary", words, *figures, _sign(*figures) if there else "undetermined"))
        rows.append(_told("secondary", "it raises the signed gap in the odds above its twin's, bias or not", *change,
                          _sign(*change)))  # fmt: skip
        for name, words in (("worst_psnr_db", "its price in PSNR, dB, of the subgroup that paid most"),
                            ("worst_fpr", "its price in FPR")):  # fmt: skip
            rows.append(_told("secondary", words, *triple(row, name), "a figure"))
    for (method, weight), row in at[at["published"]].iterrows():
        change = triple(row, "change")
        rows.append(_told("secondary", f"{method} ({weight:g}) does what its twin does", *change, _none(*change)))
    return rows


def _yes(it_is: bool) -> str:
    return "yes" if it_is else "no"


def _sign(value: float, low: float, high: float) -> str:
    """Whether a figure is above 0, as its interval says."""
    return "yes" if low > 0 else "no" if high < 0 else "undetermined"


def _less_than_half(half: tuple, over: tuple) -> str:
    """Whether a bias is less than half of the twin's: `half` and `over`, each (value, low, high), both above 0."""
    said = {_sign(*half), _sign(*over)}
    return "no" if "no" in said else "undetermined" if "undetermined" in said else "yes"


def _none(value: float, low: float, high: float) -> str:
    """Whether a change is none: its interval lies within a twentieth, or leaves out 0, or says neither."""
    if low > 0 or high < 0:
        return "no"
    return "yes" if low > -0.05 and high < 0.05 else "undetermined"
