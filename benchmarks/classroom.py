"""A hundred simulated classes: are thirty placebo p-values uniform, and does the planted student stand out?

python benchmarks/classroom.py [classes]
"""

import sys

import numpy as np
from scipy.stats import kstest

from fairrecon_lab.classroom import crowd


def main(n_classes: int = 100, n_students: int = 30) -> None:
    """Print in how many classes Kolmogorov-Smirnov passes at .05, and in how many the planted student is found."""
    passed = found = 0
    for number in range(n_classes):
        seeds = 2 + np.random.default_rng([number, n_students]).choice(10_000, n_students + 1, replace=False)
        values = [crowd.audit(int(seed))["p"] for seed in seeds[:-1]]
        passed += kstest(values, "uniform").pvalue > 0.05
        found += crowd.audit(int(seeds[-1]), harmed=True)["p"] < min(0.05 / (n_students + 1), *values)
    print(f"uniform in {passed} of {n_classes} classes, planted student found in {found}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
