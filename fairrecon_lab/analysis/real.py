"""What real images say: which cells an audit could decide, how many patients the others would take, and what leaks.

Conventions: `cells` are signed rows of audit tables (`audit.signed_cells`), `clean` the table of
`downstream.clean_aurocs`. A cell is *decided* if it changed or is equivalent; a task is *informative* if the whole
interval of its reader's AUROC on clean images is above `downstream.INFORMATIVE`.
Source: two one-sided tests as in Schuirmann 1987.
"""

from collections.abc import Iterable, Sequence
from types import SimpleNamespace

import numpy as np
import pandas as pd
from scipy.stats import norm

from fairrecon_core.predict.imagenet import ImageNetReader
from fairrecon_core.reconstruct.controls import CONTROLS
from fairrecon_core.settings import Settings, project_folder
from fairrecon_core.steps.features import clean_features
from fairrecon_lab.analysis import downstream
from fairrecon_lab.analysis.estimates import mean_of

CHANGED = ("changed", "changed_within_margin")
ATTRIBUTES = {"sex": "female", "age_group": "old"}  # column, and the value that a reader looks for
POWER = 0.8


def own_arms(settings: Settings) -> set[str]:
    """Arms of a run that its results speak of: those of its settings, and no arm that only a lesson made."""
    return {"clean", *settings.classical, *settings.arms, *CONTROLS}


def informative_tasks(clean: pd.DataFrame) -> list[str]:
    """Tasks whose reader is above chance beyond doubt, controls among them."""
    return list(clean[(clean["label"] == "recorded") & clean["informative"]]["task"])


def patients_needed(n_patients, mde, margin: float, alpha: float = 0.05):
    """Patients with whom a cell without any change ends as equivalent with power .8.

    Parameters
    ----------
    n_patients, mde : array-like
        Of the cell: its patients, and its minimal detectable effect (two-sided, power .8), which holds its standard
        error; that falls with the root of the number of patients.
    margin : float
    alpha : float
        Of the two-sided test behind `mde`, and of the interval that has to lie within the margin.
    """
    error = np.asarray(mde, dtype=float) / (norm.ppf(1 - alpha / 2) + norm.ppf(POWER))
    both = norm.ppf(1 - alpha / 2) + norm.ppf((1 + POWER) / 2)  # both ends have to be inside
    return np.ceil(np.asarray(n_patients) * (both * error / margin) ** 2)


def verdict_shares(cells: pd.DataFrame, tasks: Iterable[str]) -> pd.DataFrame:
    """How the audit of each arm ended, over the cells of informative tasks.

    Parameters
    ----------
    cells : DataFrame
    tasks : iterable of str
        The informative ones; `segmentation` and `quality` are cells of their own and always count.

    Returns
    -------
    DataFrame
        By cohort, baseline arm, attribute and arm: `cells changed equivalent undetermined not_estimable decided` (a
        share of the estimable ones), and the medians of `mde` (of rates) and of `needed` (patients, of the
        undetermined).
    """
    kept = cells[cells["task"].isin({*tasks, "segmentation", "quality"})]
    rows = []
    for key, part in kept.groupby(["cohort", "baseline_arm", "attribute", "arm"], sort=False):
        verdict = part["verdict"]
        known = part[verdict != "not_estimable"]
        counts = {"cells": len(part), "changed": int(verdict.isin(CHANGED).sum())}
        counts |= {name: int((verdict == name).sum()) for name in ("equivalent", "undetermined", "not_estimable")}
        decided = (counts["changed"] + counts["equivalent"]) / len(known) if len(known) else np.nan
        rates, open_cells = known[known["unit"] == "rate"], known[known["verdict"] == "undetermined"]
        needed = patients_needed(open_cells["n_patients"], open_cells["mde"], open_cells["margin"])
        medians = {"mde": rates["mde"].median(), "needed": np.nanmedian(needed) if len(needed) else np.nan}
        rows.append(
            dict(zip(("cohort", "baseline_arm", "attribute", "arm"), key)) | counts | {"decided": decided} | medians
        )
    return pd.DataFrame(rows)


def open_cells(cells: pd.DataFrame, tasks: Iterable[str], attribute: str, arms: Iterable[str]) -> pd.DataFrame:
    """The cells of informative `tasks` by one `attribute` and some `arms`, and how many patients each would take.

    `needed` are patients for a verdict of equivalence, were there no change; NaN where the cell is decided.
    """
    kept = cells[cells["task"].isin({*tasks, "segmentation"}) & cells["arm"].isin(list(arms))]
    kept = kept[(kept["attribute"] == attribute) & (kept["verdict"] != "not_estimable")]
    needed = patients_needed(kept["n_patients"], kept["mde"], kept["margin"])
    shown = ["arm", "task", "metric", "label", "subgroup", "baseline", "delta", "delta_ci_low", "delta_ci_high"]
    shown += ["p_adjusted", "margin", "verdict", "n_patients"]
    return kept[shown].assign(needed=np.where(kept["verdict"] == "undetermined", needed, np.nan))


def kept_results(name: str) -> pd.DataFrame:
    """Table `name` of the results that lie in the repository, all profiles, with a column `profile` in front.

    Raises
    ------
    FileNotFoundError
        No profile has such a table.
    """
    files = sorted((project_folder() / "results").glob(f"*/{name}.csv"))
    if not files:
        raise FileNotFoundError(f"no results/*/{name}.csv: tools/real_images.py makes it from a finished run")
    return pd.concat([pd.read_csv(path).assign(profile=path.parent.name) for path in files]).pipe(
        lambda table: table[["profile", *(column for column in table if column != "profile")]]
    )


# ---------------------------------------------------------------------- what leaks
def attribute_scores(steps, arms: Sequence[str], attributes: Sequence[str] = ("sex", "age_group")) -> pd.DataFrame:
    """How strongly sex and age are read from the images of each arm, by heads that learned on clean images.

    Parameters
    ----------
    steps : CohortSteps
    arms : sequence of str
        `clean` among them.
    attributes : sequence of str

    Returns
    -------
    DataFrame
        Rows like those of `predictions` at the audited level, the value of `ATTRIBUTES` as `task`; every patient is
        read by a head that never saw them.
    """
    cohort, features, rows = labelled_cohort(steps.cohort, attributes), clean_features(steps.setup), []
    tasks, level = [ATTRIBUTES[name] for name in attributes], steps.audit_level
    labels = cohort.table[[f"y_{task}" for task in tasks]].to_numpy(float)
    patients = cohort.table["patient_id"].to_numpy()
    for fold in steps.setup.folds:
        learned = steps.cohort.select("train", "prediction", fold)
        reader = ImageNetReader(tasks)
        reader.learn(features[learned], labels[learned], patients[learned])
        for arm in arms:
            at = steps.setup.degradation.identity_level if arm == "clean" else level
            seen, shown = steps.readings.features(arm, at, fold=fold)
            columns = {"task": np.tile(tasks, len(shown)), "score": reader.scores_of(seen).ravel()}
            names = np.repeat(steps.setup.names_of(shown), len(tasks))
            rows.append(pd.DataFrame({"image_id": names, "arm": arm, "level": float(at), "fold": fold} | columns))
    return pd.concat(rows, ignore_index=True).assign(train_seed=0, sample=0)


def labelled_cohort(cohort, attributes: Sequence[str]) -> SimpleNamespace:
    """A cohort whose sensitive attributes are labels `y_<value>`: 1, 0, or NaN where they are unknown."""
    table = cohort.table
    labels = {
        f"y_{ATTRIBUTES[name]}": (table[name] == ATTRIBUTES[name]).astype(float).where(table[name] != "unknown")
        for name in attributes
    }
    return SimpleNamespace(table=table.assign(**labels), modality=cohort.modality, info={}, name=cohort.name)


def leakage(scores: pd.DataFrame, cohort, level: float, attributes=("sex", "age_group"), **options) -> pd.DataFrame:
    """Can the attribute be read as well from an arm as from clean images, and whose reading moves?

    Parameters
    ----------
    scores : DataFrame
        From `attribute_scores`.
    cohort : Cohort
    level : float
    attributes : sequence of str
    **options
        `n_boot` and `seed`.

    Returns
    -------
    DataFrame
        By attribute and arm: AUROC (`value low high`) and its paired change from clean (`delta delta_low delta_high`);
        and by subgroup the share of patients whose reading changes sides of .5 (`flips`, with `flips_low` and
        `flips_high`).
    """
    named, rows = labelled_cohort(cohort, attributes), []
    units, arms = downstream.unit_scores(scores, named), list(scores["arm"].unique())
    for attribute in attributes:
        task = ATTRIBUTES[attribute]
        curve = downstream.task_curve(units, named, task, [level], arms, **options).set_index("arm")
        wide = units[units["task"] == task].pivot(index=["unit", "patient_id"], columns="arm", values="score")
        who = wide.index.get_level_values("patient_id")
        group = named.table.drop_duplicates("patient_id").set_index("patient_id")[attribute].reindex(who).to_numpy()
        for arm in (arm for arm in arms if arm != "clean"):
            moved = ((wide[arm] >= 0.5) != (wide["clean"] >= 0.5)).to_numpy(float)
            for subgroup in sorted(set(group) - {"unknown"}):
                found = mean_of(moved[group == subgroup], who[group == subgroup], **options)
                row = {"attribute": attribute, "arm": arm, "subgroup": subgroup, "patients": found["patients"]}
                row |= curve.loc[arm, ["value", "low", "high", "delta", "delta_low", "delta_high"]].to_dict()
                row |= {"clean": curve.loc["clean", "value"], "flips": found["value"]}
                rows.append(row | {"flips_low": found["low"], "flips_high": found["high"]})
    return pd.DataFrame(rows)
