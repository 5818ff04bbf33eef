"""Simulated classes: are thirty placebo p-values uniform, and does the planted student stand out?

    python benchmarks/classroom.py [--classes 200] [--students 30] [--json FILE]

Each class has its own seeds, drawn as for a real class. Goals, per 100 classes: the pooled p-values of the placebo
students pass Kolmogorov-Smirnov at .05 in 95, and the planted student is found in 90. An exactly uniform law passes in
95 of 100 on average, so a goal counts as missed only where the rate lies more than two Monte Carlo errors below it.
"""

import math
import sys

import numpy as np
import pandas as pd
from report import Report, parser
from scipy.stats import kstest

from fairrecon_lab.classroom import crowd

ALPHA = 0.05


def one_class(number: int, n_students: int) -> dict[str, bool]:
    """What a teacher sees in one class: `n_students` placebo audits and one planted.

    Parameters
    ----------
    number : int
        Of the class; decides every student's seed.
    n_students : int
        Placebo students.

    Returns
    -------
    dict
        `uniform` (their p-values pass), `found` (the planted student is named), `alone` (and nobody else is), `any`
        (at least one placebo student has p < alpha, which whoever reports the smallest p-value would call bias).
    """
    seeds = 2 + np.random.default_rng([number, n_students]).choice(10_000, n_students + 1, replace=False)
    values = [crowd.audit(int(seed))["p"] for seed in seeds[:-1]]
    planted = crowd.audit(int(seeds[-1]), harmed=True)["p"]
    table = pd.DataFrame({"student": [*map(str, range(n_students)), "planted"], "p": [*values, planted]})
    named = crowd.said(table, ALPHA)["stands_out"]
    return {
        "uniform": kstest(values, "uniform").pvalue > ALPHA,
        "found": "planted" in named,
        "alone": named == ["planted"],
        "any": min(values) < ALPHA,
    }


def main() -> int:
    """Measure and report; 0 when no goal is missed."""
    options = parser(__doc__.split("\n", maxsplit=1)[0])
    options.add_argument("--classes", type=int, default=200)
    options.add_argument("--students", type=int, default=30)
    given = options.parse_args()
    seen = []
    for number in range(given.classes):
        seen.append(one_class(number, given.students))
        if (number + 1) % 50 == 0:
            print(f"{number + 1} classes: {pd.DataFrame(seen).sum().to_dict()}", flush=True)
    classes = pd.DataFrame(seen)
    report = Report("classroom")
    family = 1 - (1 - ALPHA) ** given.students
    told = {
        "uniform": ("placebo p-values pass Kolmogorov-Smirnov at .05", 0.95),
        "found": ("planted student found", 0.90),
        "alone": ("planted student found, and nobody else named", None),
        "any": (f"a placebo student below .05 (independent and exact: {family:.3f})", None),
    }
    for name, (words, goal) in told.items():
        rate = classes[name].mean()
        error = math.sqrt(max(rate * (1 - rate), 1 / given.classes) / given.classes)
        holds = None if goal is None else rate >= goal - 2 * error
        report.row(words, rate, "of classes", f">= {goal}" if goal else "", holds)
        report.row("  Monte Carlo error", error, "of classes")
    report.row("classes", given.classes)
    return int(not report.finish(given.json))


if __name__ == "__main__":
    sys.exit(main())
