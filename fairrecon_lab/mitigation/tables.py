"""The tables of the study: what each skew did, and what each method repaired of it, against its twin.

`skew.csv` holds, for each skew against its control, the audit's rows with the counterfactual truth beside them;
`mitigation.csv` each method and lambda against its twin, per subgroup, with the twin against the network before it.
Intervals are 95 %, over patients and training seeds. "Repaired" is the fall of the size of the gap that the skew added.
"""

from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd

from fairrecon_core.settings import project_folder
from fairrecon_lab.mitigation.compare import audited, by_group, counterfactual_truth, effects, quantities, same_patients
from fairrecon_lab.mitigation.methods import METHODS
from fairrecon_lab.mitigation.plan import SEXES, Study
from fairrecon_lab.mitigation.registered import CONTROL, REPAIRED
from fairrecon_lab.mitigation.skew import Skew

MISSING = Skew("no finding in women", missing="true_pleural_effusion")
EFFECT = ("delta", "low", "high")
GROUPS = {"sex": SEXES, "age_group": ("young", "old")}


def skew_table(study: Study, skews: Iterable[Skew], control: Skew = CONTROL) -> tuple[pd.DataFrame, ...]:
    """What each skew changed against the control that has the same size and half of each group.

    Parameters
    ----------
    study : Study
    skews : iterable of Skew
        Those of age are compared by age, all others by sex.
    control : Skew

    Returns
    -------
    effects, audit, seeds : DataFrame
        `skew`, rows of `compare.effects` with `truth`, `truth_low`, `truth_high` for gaps by sex, `seed_sd` (of the
        gap's change over the training seeds); rows of the audit table; and the change of each gap by training seed,
        with `truth` where it is by sex.
    """
    cuts = study.cuts
    arm = lambda skew: study.read_all(skew.name, lambda seed: study.network(skew, seed))
    base, found, audits, each_seed = arm(control), [], [], []
    for skew in skews:
        read, groups = arm(skew), GROUPS[skew.attribute]
        parts = [_grouped(study, part[part["recorded"]], cuts, skew.attribute) for part in (read, base)]
        measured = quantities(parts[0])
        table, what = effects(*parts, groups, study.recipe.n_boot), {"skew": skew.name, "attribute": skew.attribute,
                                                                     "share": skew.share, "way": skew.way}  # fmt: skip
        seeds = pd.DataFrame({"train_seed": study.recipe.seeds} | {q: _gaps(*parts, groups, q) for q in measured})
        if skew.attribute == "sex":
            each = [[_grouped(study, part[part["as_sex"] == sex], cuts) for sex in SEXES] for part in (read, base)]
            truth = counterfactual_truth(*each[0], *each[1], n_boot=study.recipe.n_boot)
            seeds = seeds.assign(**{f"truth_{q}": _same(each[0], q) - _same(each[1], q) for q in measured})
            truth = truth.assign(subgroup="gap").rename(columns={k: f"truth_{k}" for k in ("low", "high", "n")})
            table = table.merge(truth.rename(columns={"value": "truth"}), on=["quantity", "subgroup"], how="left")
        table["seed_sd"] = [_seed_sd(*parts, groups, *key) for key in zip(table["quantity"], table["subgroup"])]
        found.append(table.assign(**what))
        each_seed.append(seeds.assign(**what))
        both = pd.concat([part[part["recorded"]] for part in (read, base)])
        audits.append(audited(both, _cohort(study), cuts, skew.attribute, baseline=control.name, arms=[skew.name],
                              n_boot=study.recipe.n_boot).assign(skew=skew.name))  # fmt: skip
    return tuple(pd.concat(parts, ignore_index=True) for parts in (found, audits, each_seed))


class Arms:
    """Figures of the networks of one mitigation: skewed, control, twins and methods, at two thresholds.

    Parameters
    ----------
    study : Study
    skew, control : Skew
        Whose network is mitigated, and which has no bias of this kind.
    share : float, optional
        As in `Study.tuned`.
    """

    def __init__(self, study: Study, skew: Skew, control: Skew = CONTROL, share: float | None = None):
        self.study, self.skew, self.control = study, skew, control
        self.share = study.recipe.tune_share if share is None else share

    def figures(self, name: str, weight: float = 0.0, own: bool = False) -> tuple[dict, tuple[dict, dict]]:
        """Figures of an arm, `compare.by_group` on the patients as they are, and on all of them as women and as men.

        Parameters
        ----------
        name : str
            "control", "skewed", "twin" or a method.
        weight : float
            lambda of a method.
        own : bool
            At the threshold of the arm's own validation images, in place of the control network's.
        """
        study, skew = self.study, {"control": self.control, "skewed": self.skew}.get(name)
        if skew is not None:
            arm, net = skew.name, lambda seed: study.network(skew, seed)
        else:
            arm = f"{self.skew.name}, {name} {weight:g}, {self.share:g}"
            net = lambda seed: study.tuned(self.skew, seed, name, weight, self.share)
        read = study.read_all(arm, net)
        cuts = {seed: study.cut_of(arm, seed, net) for seed in study.recipe.seeds} if own else study.cuts
        women, men = (_grouped(study, read[read["as_sex"] == sex], cuts) for sex in SEXES)
        return _grouped(study, read[read["recorded"]], cuts), (women, men)


def mitigation_table(arms: Arms, chosen: dict[str, Iterable[float]], say: Callable[[str], object] = print):
    """What each method changed against its twin, and the twin against the network before.

    Parameters
    ----------
    arms : Arms
    chosen : dict
        Name of a method in `methods.METHODS` to the lambdas that are tried.
    say : callable
        Gets the name of each method.

    Returns
    -------
    DataFrame
        `method`, `weight`, `share`, `published`, `threshold` ("control": chosen on validation images of the control
        network; "own": of each arm, of the twin, too), `n_seeds`, and two kinds of rows.

        Those of `compare.effects`, on the patients as they are: `value`, `other` (the twin; for the twin the skewed
        network; for new thresholds alone the skewed network at the control's), `delta`, `low`, `high`; `since`,
        `since_low`, `since_high` against the skewed network; `skewed` and `control`, the figure before and without
        the skew.

        `subgroup` "bias", of the same patients as women and as men: `value`, the gap less the control network's, and
        `other`, the twin's, each with `_low` and `_high`; `delta`, `low`, `high` their difference; `half`, `half_low`,
        `half_high`: the bias less half of the twin's, which keeps the sign of the twin's where less than half was
        removed; `over`, with `_low` and `_high`, the bias and half of the twin's, which has the sign of the twin's
        unless more than one and a half of it was removed; `skewed`, the bias before.
    """
    n_boot, without, rows = arms.study.recipe.n_boot, arms.figures("control"), []
    skewed, twin = ({own: arms.figures(name, own=own) for own in (False, True)} for name in ("skewed", "twin"))
    before = effects(skewed[False][0], without[0], SEXES, n_boot)[["quantity", "subgroup", "value", "other"]]
    before = before.rename(columns={"value": "skewed", "other": "control"})
    wanted = [("twin", 0.0, own) for own in (False, True)]
    for name, weights in chosen.items():  # new thresholds alone are the skewed network's images at its own
        wanted += [(name, w, own) for w in weights for own in (False, True) if METHODS[name].term or own]
    for name, weight, own in wanted:
        say(f"{name}, lambda {weight:g}, threshold {'own' if own else 'control'}")
        trained = name != "twin" and METHODS[name].term is not None
        arm = arms.figures(name, weight, own) if trained else twin[own] if name == "twin" else skewed[own]
        base = twin[own] if trained else skewed[own and name == "twin"]
        since = effects(arm[0], skewed[False][0], SEXES, n_boot)[["delta", "low", "high"]]
        table = effects(arm[0], base[0], SEXES, n_boot).join(
            since.set_axis(["since", "since_low", "since_high"], axis=1)
        )
        table = pd.concat([table.merge(before, on=["quantity", "subgroup"]),
                           _bias(arm[1], base[1], without[1], skewed[own][1], n_boot)])  # fmt: skip
        rows.append(table.assign(method=name, weight=weight, published=name in METHODS and METHODS[name].published,
                                 threshold="own" if own else "control"))  # fmt: skip
    return pd.concat(rows, ignore_index=True).assign(share=arms.share, n_seeds=len(arms.study.recipe.seeds))


def _bias(arm, base, without, skewed, n_boot: int) -> pd.DataFrame:
    """Rows "bias" of `mitigation_table`; arms on the same patients as women and as men."""
    of = lambda *parts: same_patients(parts, n_boot=n_boot)
    table = of((1, arm), (-1, base)).rename(columns={"value": "delta"})
    sums = {"value": of((1, arm), (-1, without)), "half": of((1, arm), (-0.5, base), (-0.5, without)),
            "over": of((1, arm), (0.5, base), (-1.5, without)), "other": of((1, base), (-1, without))}  # fmt: skip
    for name, figures in sums.items():
        table[_with_ends(name)] = figures[["value", "low", "high"]]
    table["skewed"] = of((1, skewed), (-1, without))["value"]
    return table.assign(subgroup="bias")


def repaired(mitigated: pd.DataFrame) -> pd.DataFrame:
    """What each method removed of the bias in the odds that its twin left, and its price.

    Parameters
    ----------
    mitigated : DataFrame
        From `mitigation_table`.

    Returns
    -------
    DataFrame
        method, weight, share, threshold, published; `bias` (mean of the gaps in TPR and FPR, of the same patients as
        women and as men) and `twin_bias`, with intervals (`_low`, `_high`); `removed`: share of the twin's bias (NaN
        where its interval holds 0: of nothing no share can go); `change`: bias less the twin's, its sign turned so that
        a repair is positive; `half` likewise: above 0 where more than half was removed, if the twin left a bias;
        `over`: above 0 where what is left beyond 0 is less than half of it, so that both say that less than half is
        left; then
        what the worst-off subgroup paid against the twin, `worst_tpr`, `worst_fpr`, `worst_psnr_db`.
    """
    rows = []
    for key, part in mitigated.groupby(["method", "weight", "share", "threshold", "published"], sort=False):
        figure = part.set_index(["quantity", "subgroup"])
        bias = figure.loc[(REPAIRED, "bias")]
        turn = -1.0 if bias["other"] > 0 else 1.0  # a bias against women is negative, and its repair raises the gap
        row = dict(zip(("method", "weight", "share", "threshold", "published"), key))
        row |= {"bias": bias["value"], "bias_low": bias["value_low"], "bias_high": bias["value_high"],
                "twin_bias": bias["other"],
                "twin_bias_low": bias["other_low"], "twin_bias_high": bias["other_high"],
                "removed": 1 - bias["value"] / bias["other"] if _is_there(bias) else np.nan}  # fmt: skip
        signs = (("change", EFFECT, turn), ("half", _with_ends("half"), turn), ("over", _with_ends("over"), -turn))
        for name, columns, sign in signs:
            value, low, high = (sign * bias[column] for column in columns)
            row |= {name: value, f"{name}_low": min(low, high), f"{name}_high": max(low, high)}
        for quantity, worse in (("tpr", "idxmin"), ("fpr", "idxmax"), ("psnr_db", "idxmin")):
            paid = figure.loc[[(quantity, sex) for sex in SEXES]]
            paid = paid.loc[getattr(paid["delta"], worse)()]
            row |= {f"worst_{quantity}{end}": paid[column] for end, column in zip(("", "_low", "_high"), EFFECT)}
        rows.append(row)
    return pd.DataFrame(rows)


def _with_ends(name: str) -> list[str]:
    return [name, f"{name}_low", f"{name}_high"]


def _is_there(bias: pd.Series) -> bool:
    """Whether the interval of the twin's bias leaves out 0."""
    return bool(bias["other_low"] > 0 or bias["other_high"] < 0)


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


def _means_of(part: dict, quantity: str, group: str | None = None) -> np.ndarray:
    """Mean of a quantity by training seed, of a subgroup or of all."""
    inside = True if group is None else part["group"] == group
    return np.nanmean(np.where(inside, part[quantity], np.nan), axis=1)


def _gaps(one: dict, other: dict, groups, quantity: str) -> np.ndarray:
    """Change of a gap by training seed, of patients as they are."""
    gap = lambda part: _means_of(part, quantity, groups[0]) - _means_of(part, quantity, groups[1])
    return gap(one) - gap(other)


def _same(pair, quantity: str) -> np.ndarray:
    """Gap of the same patients as women and as men, by training seed."""
    return _means_of(pair[0], quantity) - _means_of(pair[1], quantity)


def _seed_sd(one: dict, other: dict, groups, quantity: str, subgroup: str) -> float:
    """Standard deviation over training seeds of what changed; NaN with one seed, and where it is no signed figure."""
    if quantity == "eodd" or subgroup == "size of gap" or len(one["tpr"]) < 2:
        return np.nan
    change = (_gaps(one, other, groups, quantity) if subgroup == "gap"
              else _means_of(one, quantity, subgroup) - _means_of(other, quantity, subgroup))  # fmt: skip
    return float(np.std(change, ddof=1))
