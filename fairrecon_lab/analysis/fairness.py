"""Did reconstruction add bias: the numbers of notebook 10, beside the audit itself.

Conventions: `predictions` and `overlap` hold rows of these tables for one cohort, clean and at the audited level;
`audits` maps (cohort, attribute) to audit tables. `seed` decides everything random.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from fairrecon_core.audit import choose_threshold
from fairrecon_core.audit.matching import Matched
from fairrecon_core.audit.metrics import dice, intersect, logit
from fairrecon_core.reconstruct.controls import planted_change
from fairrecon_lab.analysis.confounders import adjusted
from fairrecon_lab.auditing.summary import signed_cells
from fairrecon_lab.simulate import Bias, control_scores, patient_table, reference_rates, reference_reader

UNREAD = ("lung_opacity", "support_devices")  # unions, which have no severity to read
CONFOUNDERS = ("x_tumour_pixels", "mask_pixels", "x_site", "x_coc_cluster", "x_view", "x_exposure")


def known_attributes(table: pd.DataFrame, n_folds: int = 1) -> list[str]:
    """Attributes of which at least two subgroups occur among the audited images of a cohort's `table`."""
    part = audited(table, n_folds)
    return [name for name in ("sex", "age_group", "race") if len(set(part[name]) - {"unknown"}) > 1]


def audited(table: pd.DataFrame, n_folds: int = 1) -> pd.DataFrame:
    """Rows of the audited images: the test split, or all of them with folds."""
    return table if n_folds > 1 else table[table["split"] == "test"]


# ---------------------------------------------------------------------- the stand-in for readers
def probability_of(latent) -> np.ndarray:
    """The reference reader's evidence as a probability."""
    return 1 / (1 + np.exp(-3 * (np.asarray(latent) - 0.8)))


def reference_scores(name: str, table: pd.DataFrame, bias: Mapping, race_shares: str, seed: int) -> pd.DataFrame:
    """Clean scores of the reference reader for every image of a simulated cohort.

    Parameters
    ----------
    name : {"brain", "chest"}
    table : DataFrame
        The cohort's.
    bias : mapping
        `cohort.info["bias"]`: the world that the patients were drawn from.
    race_shares : str
        The setting of that name.
    seed : int
    """
    n_patients = 1 + int(table["patient_id"].str[-6:].astype(int).max())
    people = patient_table(name, n_patients, seed=seed, bias=Bias(**bias), race=race_shares)
    parts = []
    for task in [column[2:] for column in table if column.startswith("y_") and column[2:] not in UNREAD]:
        score = pd.Series(probability_of(reference_reader(people, task).scores), index=people["patient_id"])
        parts.append(table[["image_id"]].assign(task=task, score=score[table["patient_id"]].to_numpy()))
    return pd.concat(parts, ignore_index=True).assign(arm="clean", level=np.inf if name == "chest" else 1.0)


def with_controls(clean: pd.DataFrame, table: pd.DataFrame, level: float, seed: int) -> pd.DataFrame:
    """Clean scores and three control arms made of them at a `level`; cuts come from validation images of `table`."""
    validation = clean.merge(table[table["split"] == "validation"], on="image_id")
    cuts = {task: choose_threshold(rows["score"], rows[f"y_{task}"]) for task, rows in validation.groupby("task")}
    cuts = {task: 0.5 if np.isnan(cut) else cut for task, cut in cuts.items()}  # a small cohort: nobody has it
    arms = [
        control_scores.placebo(clean, table, ["sex", "age_group", "race"], share=0.15, seed=seed),
        control_scores.planted(clean, table, "sex", "female", thresholds=cuts, share=0.2, seed=seed),
        control_scores.blurred(clean, shift=-0.3, noise=0.7, seed=seed),
    ]
    return pd.concat([clean, *(arm.assign(level=level) for arm in arms)], ignore_index=True)


def drawn_overlaps(cohort, level: float, seed: int) -> pd.DataFrame:
    """Overlap counts with a Dice near .72, where no segmenter has read: clean and three controls.

    `placebo` is noise for all; in `planted` women lose .05, in `blurred_reader` everybody does.

    Parameters
    ----------
    cohort : Cohort
        Tumours have the sizes of its masks, where all of these are there.
    level : float
        Of the controls.
    seed : int
    """
    rng, table = np.random.default_rng(seed), cohort.table
    drawn = rng.integers(200, 600, len(table))
    whole = cohort.masks is not None and len(cohort.pixel_rows) == len(table)
    actual = cohort.masks_at(table["row"].to_numpy()).sum((1, 2)) if whole else drawn
    rng = np.random.default_rng(seed) if whole else rng
    who = pd.factorize(table["patient_id"])[0]
    values = rng.normal(0.72, 0.12, who.max() + 1)[who] + rng.normal(0, 0.05, len(table))
    female = (table["sex"] == "female").to_numpy()
    noise = rng.normal(0, 0.03, len(table))
    arms = {"clean": 0.0, "placebo": noise, "planted": -0.05 * female, "blurred_reader": -0.05}
    parts, named = [], [name for name in ("image_id", "fold") if name in table]
    for arm, change in arms.items():
        shared = np.round(np.clip(values + change, 0, 1) * actual).astype(int)
        counts = {"intersection": shared, "predicted": actual, "actual": actual}
        parts.append(table[named].assign(arm=arm, level=1.0 if arm == "clean" else level, **counts))
    return pd.concat(parts, ignore_index=True)


# ---------------------------------------------------------------------- beside the audit
def planted_check(cells: pd.DataFrame, task: str, share: float, hits_become_misses: bool) -> dict | None:
    """Known and found change of the women's TPR in the arm `planted`; None where it cannot be estimated.

    Parameters
    ----------
    cells : DataFrame
        An audit table by sex.
    task : str
        The task that is harmed.
    share : float
        Of the images that are exchanged.
    hits_become_misses : bool
        Whether an exchanged patient is missed for sure, as with made scores, or read as somebody without the finding.
    """
    cells = cells[(cells["arm"] == "planted") & (cells["subgroup"] == "female") & (cells["task"] == task)]
    found = signed_cells(cells).query("metric == 'tpr'")
    if not len(found) or found["verdict"].iloc[0] == "not_estimable":
        return None
    rates = cells[cells["reference"] == ""].set_index("metric")["baseline"]
    known = planted_change(rates["tpr"], 0.0 if hits_become_misses else rates["fpr"], share)
    shown = ["task", "delta", "delta_ci_low", "delta_ci_high", "verdict"]
    return found.iloc[0][shown].to_dict() | {"known": known}


def flagged_both_ways(audits: Mapping, published: Mapping) -> pd.DataFrame:
    """How many EODD and EOP cells the published test and our verdicts flag, by cohort, attribute and arm."""
    rows = []
    for key, theirs in published.items():
        ours = audits[key].query("estimator == 'plug_in' and metric in ('eodd', 'eop')")
        for arm in ours["arm"].unique():
            flagged = theirs[theirs["arm"] == arm]["p_value"] < 0.05
            changed = ours[ours["arm"] == arm]["verdict"].isin(["changed", "changed_within_margin"])
            rows.append([*key, arm, len(flagged), flagged.sum(), changed.sum()])
    return pd.DataFrame(rows, columns=["cohort", "attribute", "arm", "cells", "published p < .05", "changed (ours)"])


def gaps_of(truth: np.ndarray, decision: np.ndarray, group: np.ndarray, n_groups: int) -> np.ndarray:
    """EODD (mean) and EOP from counts, shape (2,); groups without cases are left out.

    `truth` is 0 or 1, `decision` in [0, 1], `group` a code below `n_groups`; all (images,).
    """
    key, size = group * 2 + truth, 2 * n_groups
    n, hits = (np.bincount(key, weights, minlength=size).reshape(-1, 2) for weights in (None, decision))
    with np.errstate(invalid="ignore", divide="ignore"):
        rates = hits / n  # (groups, 2): FPR and TPR
    fpr, tpr = np.nanmax(rates, axis=0) - np.nanmin(rates, axis=0)
    return np.array([(tpr + fpr) / 2, tpr])


def folded_changes(
    pairs: Matched, attribute: str, task: str, arm: str, *, n_swaps: int = 40, seed: int = 0
) -> np.ndarray:
    """|change| of EODD and EOP: as observed, and on average when clean and arm are swapped at random within patients.

    Parameters
    ----------
    pairs : Matched
        Decisions of all arms on the same images.
    attribute, task, arm : str
    n_swaps, seed : int

    Returns
    -------
    ndarray, shape (2, 2)
        Rows: observed, swapped. NaN where only one label occurs.
    """
    condition = [name for name, _ in pairs.conditions].index(arm)
    truth, clean, other = pairs.truth[task], *pairs.decision[task][[pairs.baseline_of[condition], condition]]
    keep = ~np.isnan(truth + clean + other) & (intersect(pairs.images, attribute)[1] != "unknown").to_numpy()
    if np.unique(truth[keep]).size < 2:
        return np.full((2, 2), np.nan)
    truth, clean, other, people = truth[keep].astype(int), clean[keep], other[keep], pairs.images[keep]
    (group, names), patient = pd.factorize(people[attribute]), pd.factorize(people["patient_id"])[0]
    rng, sizes = np.random.default_rng(seed), []
    for swap in range(n_swaps + 1):
        flip = (rng.random(patient.max() + 1) < 0.5)[patient] & (swap > 0)
        a, b = np.where(flip, other, clean), np.where(flip, clean, other)
        sizes.append(np.abs(gaps_of(truth, b, group, len(names)) - gaps_of(truth, a, group, len(names))))
    return np.stack([sizes[0], np.mean(sizes[1:], axis=0)])


def folded_table(audits: Mapping, matched: Mapping[str, Matched], seed: int) -> pd.DataFrame:
    """`folded_changes`, averaged over tasks, of every audit and arm: columns `observed` and `noise`."""
    rows = []
    for (name, attribute), frame in audits.items():
        for arm in frame["arm"].unique():
            each = [folded_changes(matched[name], attribute, task, arm, seed=seed) for task in frame["task"].unique()]
            seen, noise = np.nanmean(each, axis=0)
            rows += [[name, attribute, arm, metric, seen[i], noise[i]] for i, metric in enumerate(("EODD", "EOP"))]
    return pd.DataFrame(rows, columns=["cohort", "attribute", "arm", "metric", "observed", "noise"])


# ---------------------------------------------------------------------- confounders
def losses(values: pd.DataFrame, arm: str) -> pd.DataFrame:
    """What an arm lost against clean on each test image: `image_id fold loss`; `values` has a column `value`."""
    wide = values.pivot_table(index=["image_id", "fold"], columns="arm", values="value", sort=False)
    wide = wide.dropna(subset=[arm, "clean"])  # clean is read in other folds too, as a validation image: not there
    return (wide[arm] - wide["clean"]).rename("loss").reset_index()


def dice_values(overlap: pd.DataFrame) -> pd.DataFrame:
    """Rows of the table `overlap` with their Dice as `value`."""
    return overlap.assign(value=dice(overlap["intersection"], overlap["predicted"], overlap["actual"]))


def logit_values(predictions: pd.DataFrame, task: str) -> pd.DataFrame:
    """Rows of one `task` of the table `predictions`, or else of the first, with the logit of their score as `value`."""
    task = task if task in set(predictions["task"]) else predictions["task"].iloc[0]
    rows = predictions[predictions["task"] == task]
    return rows.assign(value=logit(rows["score"].to_numpy()))


def at_equal_confounders(loss: pd.DataFrame, cohort) -> pd.DataFrame:
    """Women's loss less men's, unadjusted and at equal confounders, as far as the `cohort` records any.

    `loss` is the table of `losses`.
    """
    people = cohort.table
    if cohort.masks is not None and len(cohort.pixel_rows) == len(people):
        people = people.assign(mask_pixels=cohort.masks_at(people["row"].to_numpy()).sum(axis=(1, 2)))
    joined = loss.merge(people.drop(columns="fold"), on="image_id")
    kept = [name for name in CONFOUNDERS if name in joined and joined[name].nunique() > 1]
    kept = [name for name in kept if name != "mask_pixels" or "x_tumour_pixels" not in kept]
    row = adjusted(joined["loss"], joined["sex"], joined["patient_id"], joined[kept], reference="male")
    return row.assign(cohort=cohort.name, confounders=", ".join(kept) or "none recorded")


# ---------------------------------------------------------------------- worlds of known truth
def world(bias: Bias, seed: int, task: str, n_patients: int = 12_000) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two readings, `clean` and `arm`, of the same simulated patients, and who they are.

    Parameters
    ----------
    bias : Bias
        What the second reading suffers from; label bias distorts both.
    seed : int
    task : str
    n_patients : int
        Every third is validation, the others are tested.
    """
    before = patient_table("chest", n_patients, seed=seed, bias=Bias(label=bias.label))
    after = patient_table("chest", n_patients, seed=seed, bias=bias)
    fresh = 0 if bias.conspicuity else 1  # the injected reading differs by the findings' conspicuity alone
    latent = {
        "clean": reference_reader(before, task).scores,
        "arm": reference_reader(after, task, noise_seed=fresh).scores,
    }
    people = before[["patient_id", "sex", f"y_{task}"]].assign(image_id=before["patient_id"])
    people["split"] = np.where(np.arange(n_patients) % 3 == 0, "validation", "test")
    images = people[["image_id"]]
    scores = [images.assign(arm=arm, task=task, score=probability_of(values)) for arm, values in latent.items()]
    return pd.concat(scores, ignore_index=True), people


def true_change(bias: Bias, task: str, rate: str = "tpr_recorded") -> float:
    """Added bias (women minus men) of a `rate` of a `task` in the whole population at threshold .8, in closed form."""
    rates = [reference_rates("chest", task, bias=each)[rate] for each in (Bias(label=bias.label), bias)]
    before, after = (each["female"] - each["male"] for each in rates)
    return after - before
