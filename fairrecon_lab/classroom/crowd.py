"""The null in the crowd: thirty audits of arms that changed nothing, and one that did, pooled by the teacher.

When nothing happened a p-value is uniform: of thirty students one or two find p < .05. Who looks only at these finds
bias where there is none; the class as a whole sees what chance looks like, and the one case that stands out.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from fairrecon_lab.simulate.control_scores import placebo, planted

N_PATIENTS, PREVALENCE, THRESHOLD = 6000, 0.4, 0.5
# Donors come from the same patients, which makes the change vary less than its formula says, by a factor of
# sqrt(1 - share / 2): with a tenth swapped the p-values are uniform to within what a class could see.
SHARE_SWAPPED, SHARE_HARMED = 0.1, 0.25


def audit(seed: int, harmed: bool = False) -> dict:
    """One student's audit: did the gap in TPR between women and men change from clean to the arm?

    Parameters
    ----------
    seed : int
        Decides patients, scores and the arm.
    harmed : bool
        Whether the arm flips a share of the women's hits (planted), or swaps scores among alikes (placebo).

    Returns
    -------
    dict
        `delta` (change of the gap, women minus men), `p` (two-sided), `n_women` and `n_men` who are ill.
    """
    cohort, clean = _patients(seed)
    if harmed:
        arm = planted(clean, cohort, "sex", "female", thresholds=THRESHOLD, share=SHARE_HARMED, seed=seed)
    else:
        arm = placebo(clean, cohort, "sex", share=SHARE_SWAPPED, seed=seed)
    ill = cohort["y_finding"].to_numpy() == 1
    change = (arm["score"] >= THRESHOLD).to_numpy().astype(float) - (clean["score"] >= THRESHOLD).to_numpy()
    women, men = (change[ill & (cohort["sex"] == sex).to_numpy()] for sex in ("female", "male"))
    delta = women.mean() - men.mean()
    error = np.sqrt(women.var(ddof=1) / women.size + men.var(ddof=1) / men.size)
    p = 2 * stats.norm.sf(abs(delta) / error)
    return {"delta": float(delta), "p": float(p), "n_women": women.size, "n_men": men.size}


def _patients(seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A cohort with one finding, and the scores of a fair reader on its clean images."""
    generator = np.random.default_rng([seed, 10])
    names = [f"p{i:05d}" for i in range(N_PATIENTS)]
    ill = generator.random(N_PATIENTS) < PREVALENCE
    sex = np.where(generator.random(N_PATIENTS) < 0.5, "female", "male")
    score = 1 / (1 + np.exp(-(1.5 * ill - 0.75 + generator.standard_normal(N_PATIENTS))))
    cohort = pd.DataFrame({"image_id": names, "sex": sex, "y_finding": ill.astype(int)})
    return cohort, pd.DataFrame({"image_id": names, "task": "finding", "arm": "clean", "score": score})


def write_audit(seed: int, student: str, salt: int, path: str | Path = "my_audit.json") -> dict:
    """The cell of notebook 10: audit, write the small file for the teacher, and show it."""
    harmed = (salt + sum(map(int, str(seed)))) % 2 == 1
    found = {"student": student} | audit(seed, harmed)
    Path(path).write_text(json.dumps(found), encoding="utf-8")
    return found


def pooled(files: list[Path]) -> pd.DataFrame:
    """The students' small files as a table, smallest p first.

    Raises
    ------
    ValueError
        No file, or one that is not an audit; the message names it.
    """
    rows = []
    for path in files:
        try:
            row = json.loads(Path(path).read_text("utf-8"))
            rows.append({name: row[name] for name in ("student", "delta", "p")})
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{path} is not a student's audit: it should hold student, delta and p") from None
    if not rows:
        raise ValueError("no my_audit.json was handed in: look for them in the students' folders")
    return pd.DataFrame(rows).sort_values("p", ignore_index=True)


def said(table: pd.DataFrame, alpha: float = 0.05) -> dict:
    """What the pooled p-values say.

    Parameters
    ----------
    table : DataFrame
        `student p`, from `pooled`.
    alpha : float
        Level of the whole class.

    Returns
    -------
    dict
        `n_below` alpha and how many `expected` if nothing happened, `stands_out` (students below alpha / n),
        `ks_p` of all others against the uniform law, and the chance of at least one false alarm in the family.
    """
    n = len(table)
    out = table["p"] < alpha / n
    others = table.loc[~out, "p"]
    return {
        "n_below": int((table["p"] < alpha).sum()),
        "expected": alpha * n,
        "range_by_chance": [int(stats.binom.ppf(q, n, alpha)) for q in (0.025, 0.975)],
        "stands_out": table.loc[out, "student"].tolist(),
        "ks_p": float(stats.kstest(others, "uniform").pvalue) if len(others) else float("nan"),
        "chance_of_a_false_alarm": 1 - (1 - alpha) ** n,
    }


def histogram(table: pd.DataFrame, alpha: float = 0.05):
    """Histogram of the pooled p-values against the uniform law; who stands out is named.

    Parameters
    ----------
    table : DataFrame
        From `pooled`.
    alpha : float
        As in `said`.
    """
    from fairrecon_lab import plots

    figure, ax = plots.canvas(6, 3.2)
    ax.hist(table["p"], bins=np.linspace(0, 1, 11), color="#BFBFBF", edgecolor="white")
    ax.axhline(len(table) / 10, color="black", linestyle="--", label="if nothing happened")
    names = said(table, alpha)["stands_out"]
    ax.set(
        xlabel="p-value of a student's audit", ylabel="Students", title=f"Stands out: {', '.join(names) or 'nobody'}"
    )
    ax.legend(frameon=False)
    return figure
