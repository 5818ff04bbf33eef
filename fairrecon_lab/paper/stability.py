"""Is performance stable? The change of AUROC and Dice from clean images, with intervals, for every arm of a run.

The papers read reconstructions only. A run reads the degraded images too: what degradation alone does to a task says
how much of "stable" is the merit of a reconstruction. A change is *equivalent* where its whole 95 % interval lies
within the margin; *undetermined* is not *stable*.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from fairrecon_core.audit.engine import patient_codes, patient_weights
from fairrecon_core.audit.metrics import dice
from fairrecon_lab.bootstrap import patient_bootstrap, weighted_auroc
from fairrecon_lab.paper.ours import Ours, aurocs, means

ARMS = ("degraded", "unet", "pix2pix", "sde")
MARGIN = 0.02  # of a mean AUROC or Dice; ours, neither paper has one


def performance_changes(ours: Ours, margin: float = MARGIN) -> pd.DataFrame:
    """Change of the mean AUROC (over the tasks) and of Dice from clean, by cohort and arm, at the audited level.

    Parameters
    ----------
    ours : Ours
    margin : float
        Changes within +- margin count as none.

    Returns
    -------
    DataFrame
        `cohort measure arm clean change low high verdict`; empty where the run has no predictions.
    """
    rows = [row for cohort in ours.evaluated for row in (*_auroc_rows(ours, cohort), *_dice_rows(ours, cohort))]
    frame = pd.DataFrame(rows, columns=["cohort", "measure", "arm", "clean", "change", "low", "high"])
    inside = (frame["low"] > -margin) & (frame["high"] < margin)
    apart = (frame["low"] > 0) | (frame["high"] < 0)
    words = np.select(
        [inside & apart, inside, apart], ["changed within margin", "equivalent", "changed"], "undetermined"
    )
    return frame.assign(verdict=words)


def _auroc_rows(ours: Ours, cohort):
    """Rows of the mean AUROC, clean and arm on the same resamples of patients."""
    scores = ours.audited(ours.rows_of("predictions", cohort), cohort).query("arm == 'clean' or arm in @ARMS")
    rows = ours.tested(cohort).set_index("image_id")
    scores = scores[scores["image_id"].isin(rows.index)].groupby(["arm", "task", "image_id"])["score"].mean()
    patient, ids = patient_codes(rows["patient_id"])
    weights = np.concatenate([np.ones((1, len(ids))), *patient_weights(len(ids), ours.n_boot, ours.settings.seed)])
    drawn: dict = {}
    for (arm, task), part in scores.groupby(level=["arm", "task"]):
        part = part.droplevel(["arm", "task"]).reindex(rows.index)
        truth = rows[f"y_{task}"].to_numpy(float)
        known = ~np.isnan(truth) & part.notna().to_numpy()
        if len(np.unique(truth[known])) == 2:
            drawn.setdefault(arm, []).append(weighted_auroc(part[known], truth[known], weights[:, patient[known]]))
    level = {arm: np.mean(values, axis=0) for arm, values in drawn.items()}
    for arm in [name for name in ARMS if name in level and "clean" in level]:
        change = level[arm] - level["clean"]
        half = 1.96 * change[1:].std()
        yield [cohort.name, "mean AUROC", arm, level["clean"][0], change[0], change[0] - half, change[0] + half]


def _dice_rows(ours: Ours, cohort):
    """Rows of the mean Dice over patients, clean and arm on the same patients."""
    frame = ours.rows_of("overlap", cohort)
    if not len(frame):
        return
    frame = ours.audited(frame, cohort)
    frame = frame.assign(dice=dice(frame["intersection"], frame["predicted"], frame["actual"]))
    frame = frame.merge(ours.tested(cohort)[["image_id", "patient_id"]], on="image_id")
    wide = frame.pivot_table(index=["patient_id", "image_id"], columns="arm", values="dice").dropna()
    who, options = wide.index.get_level_values(0), {"n_boot": ours.n_boot, "seed": ours.settings.seed, "per": "patient"}
    for arm in [name for name in ARMS if name in wide and "clean" in wide]:
        found = patient_bootstrap(wide[arm].to_numpy(), who, baseline=wide["clean"].to_numpy(), **options)
        yield [cohort.name, "Dice", arm, wide["clean"].mean(), found.value, found.low, found.high]


def noise_panels(ours: Ours) -> Mapping[str, tuple]:
    """What `pictures.quality_and_task` draws of a run, `ours`: SSIM, and mean AUROC (chest), Dice and AUROC (brain)."""
    panels = {}
    for cohort in ours.evaluated:
        ssim = means(ours, cohort, "quality", ["ssim"]) if len(ours.rows_of("quality", cohort)) else pd.DataFrame()
        if ssim.empty:
            continue
        ssim, found = ssim.query("arm in ('unet', 'pix2pix', 'sde')"), aurocs(ours, cohort).query("arm != 'clean'")
        wanted = ["average"] if cohort.modality == "xray" else ["tumour_grade", "tumour_type"]
        for task in [name for name in wanted if name in set(found["task"])]:
            title = {"average": "chest, mean of findings"}.get(task, task.replace("_", " "))
            panels[title] = (cohort.modality, ssim, found[found["task"] == task], "AUROC")
        if len(ours.rows_of("overlap", cohort)):
            found = means(ours, cohort, "overlap", ["dice"]).query("arm in ('unet', 'pix2pix', 'sde')")
            panels["tumour outline"] = (cohort.modality, ssim, found, "Dice")
    return panels
