"""The tables of the study: what each skew did, and what each method repaired of it, against its twin.

`skew.csv` holds, for each skew against its control, the audit's rows with the counterfactual truth beside them;
`mitigation.csv` each method and lambda against its twin, per subgroup, with the twin against the network before it.
Intervals are 95 %, over patients and training seeds. "Repaired" is the fall of the size of the gap that the skew added.
"""

from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd

from fairrecon_core.settings import project_folder
from fairrecon_lab.mitigation.compare import audited, by_group, counterfactual_truth, effects
from fairrecon_lab.mitigation.plan import CONTROL, METHODS, SEXES, Study
from fairrecon_lab.mitigation.skew import Skew

MISSING = Skew("no finding in women", missing="true_pleural_effusion")
TIED = Skew("finding in men alone, in all", missing="true_pleural_effusion", tied=True)
GROUPS = {"sex": SEXES, "age_group": ("young", "old")}


def skew_table(study: Study, skews: Iterable[Skew], control: Skew = CONTROL) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What each skew changed against the control that has the same size and half of each group.

    Parameters
    ----------
    study : Study
    skews : iterable of Skew
        Those of age are compared by age, all others by sex.
    control : Skew

    Returns
    -------
    effects, audit : DataFrame
        `skew`, rows of `compare.effects` with `truth`, `truth_low`, `truth_high` for gaps by sex, `seed_sd` (of the
        gap's change over the training seeds); and rows of the audit table.
    """
    cuts = study.cuts
    arm = lambda skew: study.read_all(skew.name, lambda seed: study.network(skew, seed))
    base, found, audits = arm(control), [], []
    for skew in skews:
        read, groups = arm(skew), GROUPS[skew.attribute]
        parts = [_grouped(study, part[part["recorded"]], cuts, skew.attribute) for part in (read, base)]
        table = effects(*parts, groups, study.recipe.n_boot)
        if skew.attribute == "sex":
            each = [[_grouped(study, part[part["as_sex"] == sex], cuts) for sex in SEXES] for part in (read, base)]
            truth = counterfactual_truth(each[0][0], each[0][1], each[1][0], each[1][1], n_boot=study.recipe.n_boot)
            truth = truth.assign(subgroup="gap").rename(columns={k: f"truth_{k}" for k in ("low", "high", "n")})
            table = table.merge(truth.rename(columns={"value": "truth"}), on=["quantity", "subgroup"], how="left")
        table["seed_sd"] = [_seed_sd(*parts, groups, *key) for key in zip(table["quantity"], table["subgroup"])]
        found.append(table.assign(skew=skew.name, attribute=skew.attribute, share=skew.share, way=skew.way))
        both = pd.concat([part[part["recorded"]] for part in (read, base)])
        audits.append(audited(both, _cohort(study), cuts, skew.attribute, baseline=control.name, arms=[skew.name],
                              n_boot=study.recipe.n_boot).assign(skew=skew.name))  # fmt: skip
    return pd.concat(found, ignore_index=True), pd.concat(audits, ignore_index=True)


def mitigation_table(study: Study, chosen: dict[str, Iterable[float]], skew: Skew = MISSING,
                     control: Skew = CONTROL, say: Callable[[str], object] = print) -> pd.DataFrame:  # fmt: skip
    """What each method changed against its twin, and the twin against the network before.

    Parameters
    ----------
    study : Study
    chosen : dict
        Name of a method in `plan.METHODS` to the lambdas that are tried.
    skew, control : Skew
        Whose network is mitigated, and which has no bias of this kind.
    say : callable
        Gets the name of each method.

    Returns
    -------
    DataFrame
        `method`, `weight`, `published`, and the rows of `compare.effects`: `value`, `other` (the twin; for the twin the
        skewed network), `delta`, `low`, `high`; `threshold`, "control" or "own": chosen on validation images of the
        control network, or of each arm (of the twin, too); `skewed` and `control`, the figure before and without the
        skew, at the control's threshold; `n_seeds`.
    """
    seeds, n_boot = study.recipe.seeds, study.recipe.n_boot
    nets = {skew.name: lambda seed: study.network(skew, seed), control.name: lambda seed: study.network(control, seed),
            "twin": lambda seed: study.tuned(skew, seed, "twin", 0.0)}  # fmt: skip

    def figures_of(name: str, own: bool) -> dict:
        """Of an arm at the control network's threshold, or at its own."""
        read = study.read_all(name, nets[name])
        cuts = {seed: study.cut_of(name, seed, nets[name]) for seed in seeds} if own else study.cuts
        return _grouped(study, read[read["recorded"]], cuts)

    skewed, rows = figures_of(skew.name, False), []
    for own in (False, True):
        base, what = figures_of("twin", own), {"threshold": "own" if own else "control"}
        rows.append(effects(base, skewed, SEXES, n_boot).assign(method="twin", weight=0.0, published=False, **what))
        for name, weights in chosen.items():
            if METHODS[name].term is None:  # the skewed network's own images at a threshold of its own
                table = effects(figures_of(skew.name, True), skewed, SEXES, n_boot)
                rows += [table.assign(method=name, weight=0.0, published=False, **what)] if own else []
                continue
            for weight in weights:
                say(f"{name}, lambda {weight:g}, threshold {what['threshold']}")
                arm = f"{name} {weight:g}"
                nets[arm] = lambda seed, name=name, weight=weight: study.tuned(skew, seed, name, weight)
                table = effects(figures_of(arm, own), base, SEXES, n_boot)
                rows.append(table.assign(method=name, weight=weight, published=METHODS[name].published, **what))
    without = figures_of(control.name, False)
    before = effects(skewed, without, SEXES, n_boot)[["quantity", "subgroup", "value", "other"]]
    before = before.rename(columns={"value": "skewed", "other": "control"})
    table = pd.concat(rows, ignore_index=True).merge(before, on=["quantity", "subgroup"], how="left")
    return table.assign(n_seeds=len(seeds))


def repaired(mitigated: pd.DataFrame) -> pd.DataFrame:
    """Share of the bias by sex that each method removed of what its twin left, and its price.

    Parameters
    ----------
    mitigated : DataFrame
        From `mitigation_table`.

    Returns
    -------
    DataFrame
        method, weight, threshold, published; `bias` and `bias_before`: the TPR gap of the method and of its twin less
        the control's; `removed` (NaN where the twin left
        no bias), `fall`, `fall_low`, `fall_high` of the size of the TPR gap against the twin; worst subgroup's change
        of TPR and FPR, and of PSNR in dB.
    """
    rows = []
    for (name, weight, threshold), part in mitigated.groupby(["method", "weight", "threshold"], sort=False):
        figure = part.set_index(["quantity", "subgroup"])
        gap, size = figure.loc[("tpr", "gap")], figure.loc[("tpr", "size of gap")]
        bias, twin_bias = gap["value"] - gap["control"], gap["other"] - gap["control"]
        worst = {q: figure.loc[[(q, sex) for sex in SEXES], "delta"] for q in ("tpr", "fpr", "psnr_db")}
        rows.append({
            "method": name, "weight": weight, "threshold": threshold, "published": bool(part["published"].iloc[0]),
            "bias": bias, "bias_before": twin_bias,
            "removed": 1 - abs(bias) / abs(twin_bias) if abs(twin_bias) > 1e-9 else np.nan,
            "fall": -size["delta"], "fall_low": -size["high"], "fall_high": -size["low"],
            "worst_tpr": worst["tpr"].min(), "worst_fpr": worst["fpr"].max(), "worst_psnr_db": worst["psnr_db"].min(),
        })  # fmt: skip
    return pd.DataFrame(rows)


def kept(name: str) -> pd.DataFrame:
    """Table `name` of results/mitigation/, as `tools/mitigation.py` wrote it; FileNotFoundError if it did not."""
    path = project_folder() / "results" / "mitigation" / f"{name}.csv"
    if not path.exists():
        raise FileNotFoundError(f"no {path.name} in results/mitigation: python tools/mitigation.py makes it")
    return pd.read_csv(path)


def _cohort(study: Study) -> pd.DataFrame:
    """The cohort as the audit takes it: true labels, since the reader was not what was changed."""
    task = study.recipe.task
    return study.cohort.assign(**{f"y_{task}": study.cohort[f"true_{task}"]})


def _grouped(study: Study, read: pd.DataFrame, cuts: dict, attribute: str = "sex") -> dict:
    return by_group(read, _cohort(study), cuts, attribute, study.recipe.task)


def _seed_sd(one: dict, other: dict, groups, quantity: str, subgroup: str) -> float:
    """Standard deviation over training seeds of what changed; NaN with one seed, and where it is no signed figure."""
    if quantity == "eodd" or subgroup == "size of gap" or len(one["tpr"]) < 2:
        return np.nan
    means = lambda part, group: np.nanmean(np.where(part["group"] == group, part[quantity], np.nan), axis=1)
    of = lambda part: means(part, groups[0]) - means(part, groups[1]) if subgroup == "gap" else means(part, subgroup)
    return float(np.std(of(one) - of(other), ddof=1))
