"""Every printed statistic of the follow-up beside its law: `python -m fairrecon_lab.paper.against_chance`.

The command draws all laws anew (about two minutes on one core) and writes `against_chance.csv` beside this file. That
table is what `claims`, the notebook and the report read. One row per statistic and law:

- `table`, `row`, `column`: the printed number, as in `published.csv`; `statistic`: what it is.
- `law`: "equal rates" (all subgroups alike), "no change", "no direction" (`unchanged`), "sampling" (the same scores
  read twice with as much noise as the flips imply), or "no change, findings in pairs" (every two findings move as one).
- `printed`; `expected low high`: median and central 95 % of the law; `share`: of the law's worlds at least as far out
  as the print, on the print's side; `error`: its Monte Carlo standard error; `n_draws`: worlds.

Laws are fitted to the printed absolute medians (Table 2): they hold as much noise as the print can hold.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.stats import norm

from fairrecon_lab.paper.chance import (
    BRAIN_DICE,
    BRAIN_NEGATIVES,
    BRAIN_SIZES,
    DICE_SPREAD,
    LABEL_COUNTS,
    clean_auroc,
    expected_counts,
    null_dice_gaps,
    rate_at_equal_errors,
)
from fairrecon_lab.paper.flagged import flagged_cells, monte_carlo_error
from fairrecon_lab.paper.numbers import changes, numbers, paper_table
from fairrecon_lab.paper.unchanged import (
    ATTRIBUTES,
    DICE_REPEAT,
    DICE_SD,
    Cell,
    Law,
    cells,
    eodd_pairs,
    fitted_law,
    medians,
    null_changes,
)

COLUMNS = [
    "table",
    "row",
    "column",
    "statistic",
    "law",
    "printed",
    "expected",
    "low",
    "high",
    "share",
    "error",
    "n_draws",
]
NAMES = {"sex": "Sex", "age_group": "Age", "race": "Race"}
MODELS = ("U-Net", "GAN", "SDE")
PAIRED = "no change, findings in pairs"


def result(where: tuple, statistic: str, law: str, printed: float, drawn, precision: float = 0.0) -> dict:
    """One row: a printed number beside draws of its law.

    Parameters
    ----------
    where : (table, row, column)
    statistic, law : str
    printed : float
    drawn : array (n_draws,)
    precision : float
        Rounding of the print: worlds that would print the same count as at least as far out.
    """
    drawn = np.asarray(drawn, dtype=float)
    low, middle, high = np.quantile(drawn, [0.025, 0.5, 0.975])
    above = printed >= middle
    share = np.mean(drawn >= printed - precision) if above else np.mean(drawn <= printed + precision)
    values = [
        *where,
        statistic,
        law,
        printed,
        middle,
        low,
        high,
        share,
        monte_carlo_error(share, len(drawn)),
        len(drawn),
    ]
    return dict(zip(COLUMNS, values))


# ---------------------------------------------------------------------- Table 1: baselines
def baselines(n_draws: int) -> Iterator[dict]:
    """Table 1: what equal rates would print as the mean EODD over all tasks, and as SER."""
    printed, rng = paper_table("F1", "value"), np.random.default_rng(1)
    for attribute, name in NAMES.items():
        tasks = [task for _, task in cells([attribute]) if attribute == "sex" or task not in BRAIN_NEGATIVES]
        one = Law((0.0,))
        drawn = [eodd_pairs(Cell.of(attribute, task), one, n_draws, rng, spread=(0, 0))[:, 0] for task in tasks]
        value = printed.loc["Classification", f"{name} mean"]
        where = ("F1", "Classification", f"{name} mean")
        yield result(where, f"mean EODD of {len(tasks)} tasks", "equal rates", value, np.mean(drawn, axis=0), 0.005)
    for attribute, sizes in BRAIN_SIZES.items():
        draws = [
            null_dice_gaps(sizes, BRAIN_DICE, sd, estimator="plug_in", n_draws=n_draws)[:, 0] for sd in DICE_SPREAD
        ]
        where = ("F1", "Segmentation", NAMES[attribute])
        yield result(where, "SER", "equal rates", printed.loc[where[1:]], np.concatenate(draws), 0.005)


# ---------------------------------------------------------------------- Tables 2 and 3: changes in per cent
@cache
def laws() -> dict[str, Law]:
    """The two laws of three arms, fitted to the absolute medians of Table 2."""
    targets = list(paper_table("F2", "value").loc["Absolute Median"])
    return {"no change": fitted_law(targets), "no direction": fitted_law(targets, shift=True)}


def percent_changes(n_draws: int) -> Iterator[dict]:
    """Tables 2 and 3: medians of changes in per cent, by model and by attribute and mitigation."""
    two, three = paper_table("F2", "value"), paper_table("F3", "value")
    for law_name, law in laws().items():
        drawn = null_changes(law, n_draws, seed=2)
        for k, model in enumerate(MODELS):
            where = ("F2", "Median", model)
            yield result(where, "median change (%)", law_name, two.loc[where[1:]], medians(drawn, arm=k), 0.005)
        for row in three.index:
            for attribute, name in NAMES.items():
                where = ("F3", row, name)
                value = three.loc[row, name]
                yield result(where, "median change (%)", law_name, value, medians(drawn, attribute), 0.05)


def correlated_findings(n_draws: int) -> Iterator[dict]:
    """Table 3, sex: the band where findings go in pairs that move together, so that only every second one counts."""
    drawn = null_changes(laws()["no change"], n_draws, attributes=("sex",), seed=9)
    half = {key: drawn[key] for key in list(drawn)[::2]}
    printed = paper_table("F3", "value").loc["Standard", "Sex"]
    yield result(("F3", "Standard", "Sex"), "median change (%)", PAIRED, printed, medians(half, "sex"), 0.05)


def models_apart(n_draws: int) -> Iterator[dict]:
    """Table 2: the range of three absolute medians, where the models are alike."""
    targets = paper_table("F2", "value").loc["Absolute Median"]
    shift = laws()["no direction"].shift
    for name, law in (("no change", fitted_law([targets.mean()] * 3)), ("no direction", Law((0.05,) * 3, shift))):
        drawn = null_changes(law, n_draws, seed=3)
        apart = np.ptp([medians(drawn, arm=k, absolute=True) for k in range(3)], axis=0)
        where = ("F2", "Absolute Median", "largest less smallest")
        yield result(where, "range of median |change| (%)", name, np.ptp(targets), apart, 0.1)


def mitigation(n_draws: int) -> Iterator[dict]:
    """Table 3: how far the sex median falls, where mitigation does nothing but train the networks anew."""
    three = paper_table("F3", "value")["Sex"]
    for name, law in laws().items():
        law = Law(law.flips * 2, law.shift)  # the standard arms, then the mitigated ones
        drawn = null_changes(law, n_draws, attributes=("sex",), seed=4)
        before, after = ({key: value[:, part] for key, value in drawn.items()} for part in (slice(3), slice(3, 6)))
        fall = medians(before, "sex") - medians(after, "sex")
        for row in ("Reweighted", "EODD"):
            where = ("F3", f"Standard less {row}", "Sex")
            yield result(where, "fall of the median (points)", name, three["Standard"] - three[row], fall, 0.05)


def seed_table(n_draws: int) -> Iterator[dict]:
    """The seed's Table 5 by the follow-up's summary: EODD and SER, copied baselines left out, bootstrap means."""
    table = changes().query("metric in ('eodd', 'ser') and not copied")
    percent = 100 * table["change"] / table["baseline"]
    targets = [percent[table["arm"] == arm].abs().median() for arm in ("unet", "pix2pix", "sde")]
    printed = percent.groupby(table["attribute"]).median()
    for name, shift in (("no change", False), ("no direction", True)):
        law = fitted_law(targets, shift=shift, estimator="bootstrap_mean")
        drawn = null_changes(law, n_draws, estimator="bootstrap_mean", seed=5)
        for attribute in ATTRIBUTES:
            where = ("5", "median over EODD and SER", NAMES[attribute])
            yield result(where, "median change (%)", name, printed[attribute], medians(drawn, attribute))
            for k, arm in enumerate(("unet", "pix2pix", "sde")):
                where = ("5", f"median over EODD and SER, {MODELS[k]}", NAMES[attribute])
                one = percent[(table["arm"] == arm) & (table["attribute"] == attribute)].median()
                yield result(where, "median change (%)", name, one, medians(drawn, attribute, k))


# ---------------------------------------------------------------------- the three counts
def counts(n_draws: int) -> Iterator[dict]:
    """8, 12 and 0 of 36 cells: what the published test flags at these sizes."""
    said = numbers("FT").query("metric == 'cells'").set_index(["row", "attribute"])["value"]
    rows = {"flagged": "cells called significant", "up": "of these up"}
    for name, law in laws().items():
        for attribute in ATTRIBUTES:
            drawn = flagged_cells(law, attribute, n_draws, seed=6)
            for column, row in rows.items():
                if (row, attribute) in said.index:
                    where = ("FT", row, NAMES[attribute])
                    yield result(where, "cells of 36", name, said[row, attribute], drawn[column])


# ---------------------------------------------------------------------- Table 4 and "performance stays stable"
def score_correlation(flips: float, rate: float) -> float:
    """Correlation of two normal scores whose decisions, positive with chance `rate`, differ in a share `flips`."""
    common = norm.ppf((np.arange(4000) + 0.5) / 4000)  # what both scores share, in equal steps of probability
    both = lambda r: np.mean(norm.cdf((norm.ppf(rate) + np.sqrt(r) * common) / np.sqrt(1 - r)) ** 2)
    return float(brentq(lambda r: 2 * (rate - both(r)) - flips, 0, 1 - 1e-6))


def auroc_error(auroc: float, n_positive: float, n_negative: float) -> float:
    """Standard error of an AUROC (Hanley and McNeil 1982)."""
    q1, q2 = auroc / (2 - auroc), 2 * auroc**2 / (1 + auroc)
    spread = (n_positive - 1) * (q1 - auroc**2) + (n_negative - 1) * (q2 - auroc**2)
    return float(np.sqrt((auroc * (1 - auroc) + spread) / (n_positive * n_negative)))


def change_error(task: str) -> float:
    """Standard error of the change of a task's AUROC (or Dice) on the same patients, at the fitted share of flips.

    The correlation of two AUROCs is taken as that of the scores.
    """
    if task == "segmentation":
        return float(DICE_SD * np.sqrt(2 * (1 - DICE_REPEAT) / 101))
    auroc, negative = clean_auroc()[task], BRAIN_NEGATIVES.get(task)
    sizes = (101 - negative, negative) if negative else expected_counts(task)
    repeat = score_correlation(np.mean(laws()["no change"].flips), rate_at_equal_errors(auroc))
    return auroc_error(auroc, *sizes) * np.sqrt(2 * (1 - repeat))


def mean_change_error(brain: bool, percent: bool = False) -> float:
    """Standard error of the mean change over the tasks of one arm, as if all tasks moved together (an upper bound)."""
    tasks = [*BRAIN_NEGATIVES, "segmentation"] if brain else list(LABEL_COUNTS)
    level = clean_auroc().to_dict() | {"segmentation": BRAIN_DICE}
    return float(np.mean([change_error(task) * (100 / level[task] if percent else 1) for task in tasks]))


def downstream(n_draws: int) -> Iterator[dict]:
    """Table 4: the mean change of AUROC and Dice in per cent over three arms, where nothing changed."""
    rng, four = np.random.default_rng(7), paper_table("F4", "value")
    for column in four.columns:
        drawn = rng.standard_normal((n_draws, 3)).mean(axis=1) * mean_change_error("UCSF" in column, percent=True)
        where = ("F4", "Down.", column)
        yield result(where, "mean change (%)", "sampling", four.loc["Down.", column], drawn, 0.005)


def stability(n_draws: int) -> Iterator[dict]:
    """Mean AUROC of the chest, and each brain task, behind a reconstruction less on clean images."""
    rng, average = np.random.default_rng(8), numbers("4").query("task == 'average'")
    clean = average.query("arm == 'clean'")["slides"].astype(float).iloc[0]
    for row in average.query("arm != 'clean' and level == 10000").itertuples():
        drawn, where = rng.standard_normal(n_draws) * mean_change_error(brain=False), ("4", row.row, row.column)
        yield result(where, "change of the mean AUROC", "sampling", float(row.slides) - clean, drawn, 0.001)
    brain, tasks = paper_table("F8", "value"), {"Dice": "segmentation", "Tumor Type AUROC": "tumour_type"}
    for name, task in (tasks | {"Tumor Grade AUROC": "tumour_grade"}).items():
        drop = round(brain.loc[f"16, {name}", "U-Net"] - brain.loc[f"16, {name}", "Baseline"], 2)
        drawn, where = rng.standard_normal(n_draws) * change_error(task), ("F8", f"16, {name}", "U-Net")
        yield result(where, f"change of {name}", "sampling", drop, drawn, 0.01)


PARTS = {  # what is measured, and the share of the asked number of worlds that it gets
    baselines: 1.0,
    percent_changes: 1.0,
    correlated_findings: 1.0,
    models_apart: 1.0,
    mitigation: 1.0,
    seed_table: 0.25,
    counts: 0.12,
    downstream: 1.0,
    stability: 1.0,
}


def measure(n_draws: int = 2500) -> pd.DataFrame:
    """All rows of `against_chance.csv`, from `n_draws` worlds; the costly laws get fewer (`PARTS`)."""
    return pd.DataFrame([row for part, share in PARTS.items() for row in part(round(n_draws * share))], columns=COLUMNS)


def against_chance() -> pd.DataFrame:
    """The shipped table, as `measure` made it."""
    with files("fairrecon_lab.paper").joinpath("against_chance.csv").open(encoding="utf-8") as text:
        return pd.read_csv(text, dtype={"table": str})


def main(arguments: list[str] | None = None) -> int:
    """Draw all laws and write the table; `arguments` are those of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=2500, help="worlds of each cheap law")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("against_chance.csv"), help="file")
    asked = parser.parse_args(arguments)
    start = time.perf_counter()
    table = measure(asked.draws)
    table.to_csv(asked.out, index=False, float_format="%.5g")
    print(table.to_string(float_format="%.3g"))
    print(f"{time.perf_counter() - start:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
