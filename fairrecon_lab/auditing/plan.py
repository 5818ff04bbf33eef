"""Before the scores are read: what will an audit of one model be able to tell, and which margins are declared?

    python3 run.py plan --prevalence .1 --groups 900,300,60 --effect .05 --margin .05 --images-per-patient 2 --icc .3

For every subgroup but the largest: the power to call a true gap of `effect` in TPR (and FPR) *different*, adjusted over
the whole family of claims as the audit does; the chance that a gap of 0 is called *equivalent*; and the patients that
the subgroup would need for either. The law is normal, with the standard error that the audit will print: clusters by
the design effect 1 + (images with the label - 1) x ICC, two pseudo-patients, Student's t, max-T over correlated cells.
"""

import argparse
import dataclasses
import json
import sys

import numpy as np
import pandas as pd
from scipy.stats import norm, t

from fairrecon_lab.auditing.run import write_whole

N_DRAWS = 20_000  # of the largest of the family's statistics
MOST = 10_000_000  # patients asked for


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is planned.

    groups : dict of name to patients. effect, margin : of a rate. prevalence : share with the label, of patients where
    `shared`, else of images. images : per patient. icc : correlation of two decisions of one patient with one label.
    sensitivity, specificity : of the model. n_tasks : tasks audited together.
    """

    groups: dict
    effect: float = 0.05
    margin: float = 0.05
    prevalence: float = 0.5
    images: float = 1
    icc: float = 0.0
    sensitivity: float = 0.8
    specificity: float = 0.8
    alpha: float = 0.05
    n_tasks: int = 1
    shared: bool = True
    min_support: int = 10

    def rate(self, metric: str) -> float:
        """The rate of all subgroups, TPR or FPR."""
        return self.sensitivity if metric == "tpr" else 1 - self.specificity

    def with_label(self, metric: str, n_patients) -> tuple[np.ndarray, np.ndarray, float]:
        """Of `n_patients`: patients with an image of the label that `metric` needs, such images, the design effect."""
        share = self.prevalence if metric == "tpr" else 1 - self.prevalence
        patients = n_patients * (share if self.shared else 1 - (1 - share) ** self.images)
        more = self.images - 1 if self.shared else (self.images - 1) * share  # further images of the same label
        return patients, n_patients * share * self.images, 1 + more * self.icc


def plan_table(plan: Plan, power: float = 0.8) -> pd.DataFrame:
    """What the audit will be able to tell, one row per subgroup and rate.

    Parameters
    ----------
    plan : Plan
    power : float
        Wanted chance, for the patients needed.

    Returns
    -------
    table : DataFrame
        `metric subgroup reference n_patients patients_with_label se power chance_equivalent patients_for_power
        patients_for_equivalent`; the last two count the subgroup's patients, at the reference's size; infinite where
        the reference is too small, or the wanted chance cannot be had.

    Raises
    ------
    ValueError
        As in `check`.
    """
    check(plan)
    names, sizes = list(plan.groups), np.array(list(plan.groups.values()), dtype=float)
    r = int(sizes.argmax())
    cut = critical_value(plan, sizes, r)
    rows = []
    for metric in ("tpr", "fpr"):
        for g in range(len(names)):
            if g == r:
                continue
            chances = lambda n, metric=metric: _chances(plan, metric, n, sizes[r], cut)
            se, hit, equal = chances(sizes[g])
            rows.append({
                "metric": metric, "subgroup": names[g], "reference": names[r], "n_patients": int(sizes[g]),
                "patients_with_label": float(plan.with_label(metric, sizes[g])[0]), "se": se, "power": hit,
                "chance_equivalent": equal, "patients_for_power": _needed(chances, 1, power),
                "patients_for_equivalent": _needed(chances, 2, power),
            })  # fmt: skip
    return pd.DataFrame(rows)


def check(plan: Plan) -> None:
    """Refuse, with a ValueError that names the value, a `plan` that cannot be."""
    shares = ("effect", "margin", "prevalence", "sensitivity", "specificity", "alpha")
    for name in shares:
        if not 0 < getattr(plan, name) < 1:
            raise ValueError(f"{name} is a share between 0 and 1, got {getattr(plan, name):g}: 5 % is 0.05")
    if not 0 <= plan.icc <= 1 or plan.images < 1 or plan.n_tasks < 1:
        raise ValueError(f"need 0 <= icc <= 1, an image a patient and a task, got icc {plan.icc:g}, "
                         f"images {plan.images:g}, tasks {plan.n_tasks}")  # fmt: skip
    if len(plan.groups) < 2 or min(plan.groups.values()) < 2:
        raise ValueError(f"need two subgroups or more, of two patients or more, got {plan.groups}")
    if plan.effect >= min(plan.sensitivity, plan.specificity):
        raise ValueError(f"an effect of {plan.effect:g} is more than the sensitivity or specificity itself")


def _spread(plan: Plan, metric: str, n_patients, rate: float) -> tuple:
    """Variance of a rate, the audit's estimate of it, and its degrees of freedom; arrays as `n_patients`."""
    patients, images, effect = plan.with_label(metric, n_patients)
    rows = np.maximum(images, 1e-9) / effect
    smoothed = (rate * rows + 1) / (rows + 2)
    own = rate * (1 - rate) / rows
    return own, np.maximum(own, smoothed * (1 - smoothed) / (rows + 2)), np.maximum(patients - 1, 1)


def critical_value(plan: Plan, sizes, r: int) -> float:
    """Beyond which the largest of the family's statistics falls with chance alpha were all subgroups alike.

    `sizes` are the patients of the subgroups of `plan`, `r` is the number of the reference.
    """
    rng, largest = np.random.default_rng(0), np.zeros(N_DRAWS)
    for metric in ("tpr", "fpr"):
        variance = _spread(plan, metric, np.asarray(sizes, dtype=float), plan.rate(metric))[0]
        estimable = plan.with_label(metric, np.asarray(sizes, dtype=float))[0] >= plan.min_support
        for _ in range(plan.n_tasks):
            means = rng.standard_normal((N_DRAWS, len(variance))) * np.sqrt(variance)
            gaps = np.abs(means - means[:, [r]]) / np.sqrt(variance + variance[r])
            gaps = np.delete(gaps, r, axis=1)[:, np.delete(estimable, r)]
            largest = np.maximum(largest, gaps.max(axis=1, initial=0))
    return float(np.quantile(largest, 1 - plan.alpha))


def _chances(plan: Plan, metric: str, n, n_reference, cut: float) -> tuple[float, float, float]:
    """Standard error at no gap, power at the planned gap, chance of *equivalent* at no gap."""
    if min(plan.with_label(metric, n)[0], plan.with_label(metric, n_reference)[0]) < plan.min_support:
        return np.nan, 0.0, 0.0
    rate = plan.rate(metric)
    moved = rate - plan.effect if metric == "tpr" else rate + plan.effect
    other = _spread(plan, metric, n_reference, rate)
    found = []
    for own in (_spread(plan, metric, n, moved), _spread(plan, metric, n, rate)):
        a, b = own[1], other[1]
        df = (a + b) ** 2 / (a**2 / own[2] + b**2 / other[2])
        found.append((np.sqrt(own[0] + other[0]), np.sqrt(a + b) * t.ppf(0.975, df) / norm.ppf(0.975)))
    (true, printed), (true_0, printed_0) = found
    power = norm.sf((cut * printed - plan.effect) / true) + norm.cdf((-cut * printed - plan.effect) / true)
    room = plan.margin - norm.ppf(1 - plan.alpha / 2) * printed_0
    return float(printed_0), float(power), float(max(0.0, 2 * norm.cdf(room / true_0) - 1))


def _needed(chances, which: int, wanted: float) -> float:
    """Fewest patients of the subgroup with which a chance is at least `wanted`; infinity if none will do."""
    low, high = 2, MOST
    if chances(high)[which] < wanted:
        return np.inf
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if chances(middle)[which] >= wanted else (middle, high)
    return float(high)


def declared(plan: Plan) -> dict:
    """What `plan` declares before the scores are read, as it is written to a file."""
    return {
        "version": 1,
        "margins": {"rate": plan.margin},
        "alpha": plan.alpha,
        "min_support": plan.min_support,
        "primary": "rates",
        "plan": dataclasses.asdict(plan),
    }


def main(argv: list[str] | None = None) -> int:
    """`fairrecon plan`: print the table, and write the declared margins with --out; 2 and one line if it cannot be.

    Parameters
    ----------
    argv : list of str, optional
        Arguments; default: the command line's.
    """
    options = _parser().parse_args(argv)
    try:
        plan = Plan(
            _groups(options.groups), options.effect, options.margin, options.prevalence, options.images_per_patient,
            options.icc, options.sensitivity, options.specificity, options.alpha, options.tasks,
            options.label_per == "patient", options.min_support,
        )  # fmt: skip
        table = plan_table(plan, options.power)
        print(words(plan, table, options.power), end="")
        if options.out:
            write_whole(options.out, f"{json.dumps(declared(plan), indent=2)}\n".encode())
            print(f"Margins declared in {options.out}.")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def words(plan: Plan, table: pd.DataFrame, power: float) -> str:
    """The table of a plan in words.

    Parameters
    ----------
    plan : Plan
    table : DataFrame
        Of `plan_table`.
    power : float
        The wanted chance.
    """
    label = "of patients" if plan.shared else "of images"
    lines = [
        f"Planned: {', '.join(f'{name} {n}' for name, n in plan.groups.items())} patients, {plan.images:g} images "
        f"each, ICC {plan.icc:g}, prevalence {plan.prevalence:g} {label}, {plan.n_tasks} task(s),",
        f"sensitivity {plan.sensitivity:g}, specificity {plan.specificity:g}.",
        f"power: chance that a gap of {plan.effect:g} is called different (alpha {plan.alpha:g} over all claims).",
        f"equivalent: chance that a gap of 0 is called equivalent (margin {plan.margin:g}).",
        f"needed: patients of the subgroup for a chance of {power:g}.",
        "",
        f"{'':<5}{'subgroup':<16}{'patients':>9}{'with label':>11}{'SE':>7}{'power':>7}{'needed':>10}"
        f"{'equivalent':>12}{'needed':>10}",
    ]
    for row in table.itertuples():
        if row.patients_with_label < plan.min_support:
            lines.append(f"{row.metric:<5}{row.subgroup:<16}{row.n_patients:>9}{row.patients_with_label:>11.0f}"
                         f"   not estimable: fewer than {plan.min_support} patients")  # fmt: skip
            continue
        found = (row.patients_for_power, row.patients_for_equivalent)
        needed = [f"{n:.0f}" if np.isfinite(n) else "never" for n in found]
        lines.append(f"{row.metric:<5}{row.subgroup:<16}{row.n_patients:>9}{row.patients_with_label:>11.0f}{row.se:>7.3f}"
                     f"{row.power:>7.2f}{needed[0]:>10}{row.chance_equivalent:>12.2f}{needed[1]:>10}")  # fmt: skip
    if np.isinf(table[["patients_for_power", "patients_for_equivalent"]]).any(axis=None):
        lines.append(f"never: {table['reference'].iloc[0]}, with which all are compared, is itself too small.")
    return "\n".join(lines) + "\n"


def _groups(text: str) -> dict:
    """`900,300,60` or `female=900,male=300`: patients by name."""
    found = {}
    for number, part in enumerate(text.split(","), 1):
        name, equals, n = part.rpartition("=")
        if not n.strip().isdecimal() or (equals and not name.strip()):
            raise ValueError(f"--groups takes patients like 900,300,60 or female=900,male=300, got {part!r}")
        found[name.strip() or f"group {number}"] = int(n)
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fairrecon plan", description="What will an audit be able to tell?")
    number = {"type": float, "metavar": "X"}
    parser.add_argument("--groups", required=True, help="patients of each subgroup: 900,300,60 or female=900,male=300")
    parser.add_argument("--effect", default=0.05, **number, help="gap of a rate that should be found (0.05)")
    parser.add_argument("--margin", default=0.05, **number, help="gaps within do not matter (0.05)")
    parser.add_argument("--prevalence", default=0.5, **number, help="share with the finding (0.5)")
    parser.add_argument("--images-per-patient", default=1, **number, help="1")
    parser.add_argument("--icc", default=0.0, **number, help="correlation of two decisions of one patient (0)")
    parser.add_argument("--label-per", default="patient", choices=["patient", "image"],
                        help="whether all images of a patient share the label")  # fmt: skip
    parser.add_argument("--sensitivity", default=0.8, **number, help="0.8")
    parser.add_argument("--specificity", default=0.8, **number, help="0.8")
    parser.add_argument("--tasks", type=int, default=1, help="tasks audited together (1)")
    parser.add_argument("--alpha", default=0.05, **number, help="0.05")
    parser.add_argument("--power", default=0.8, **number, help="wanted chance, for the patients needed (0.8)")
    parser.add_argument("--min-support", type=int, default=10, help="patients a subgroup needs with the label (10)")
    parser.add_argument("--out", metavar="FILE", help="write the declared margins there (.json)")
    return parser
