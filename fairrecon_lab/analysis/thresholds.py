"""The table of thresholds that is shown: from scores of the readers, on the images that a policy allows."""

import numpy as np
import pandas as pd

from fairrecon_core.audit import choose_threshold
from fairrecon_core.cohort.folder import Cohort


def chosen_thresholds(cohort: Cohort, predictions: pd.DataFrame, policy: str = "validation_frozen") -> pd.DataFrame:
    """Rows of the table `thresholds` under one policy, the frozen ones from `clean`.

    Parameters
    ----------
    cohort : Cohort
    predictions : DataFrame
        Table `predictions` of all arms, validation rows of `clean` included.
    policy : str
        One of `audit.thresholds.POLICIES`.

    Returns
    -------
    DataFrame
        `value` is NaN where the source lacks a positive or a negative case.
    """
    split, scope = policy.split("_", 1)
    frozen = scope == "frozen"
    sources = predictions[predictions["arm"] == "clean"] if frozen else predictions
    rows = []
    for fold, of_fold in sources.groupby("fold"):
        chosen = set(cohort.table["image_id"].iloc[cohort.select(split, "prediction", int(fold), with_pixels=False)])
        of_fold = of_fold[of_fold["image_id"].isin(chosen)]
        for key, part in of_fold.groupby(["task", "arm", "level", "fold", "train_seed"], observed=True):
            rows.append(_chosen(cohort, dict(zip(("task", "arm", "level", "fold", "train_seed"), key)), part))
    chosen_on = f"{split}, {'clean' if frozen else 'own arm'}"
    return pd.DataFrame(rows).assign(cohort=cohort.name, policy=policy, chosen_on=chosen_on)


def _chosen(cohort: Cohort, key: dict, part: pd.DataFrame) -> dict:
    """The threshold of one task, arm, level, fold and training seed."""
    labels = cohort.table.set_index("image_id")[f"y_{key['task']}"]
    truth = labels.reindex(part["image_id"]).to_numpy(dtype=float)
    known = ~np.isnan(truth)
    value = choose_threshold(part["score"].to_numpy()[known], truth[known]) if known.any() else np.nan
    return key | {"value": value, "n": int(known.sum())}
