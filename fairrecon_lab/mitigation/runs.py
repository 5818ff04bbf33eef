"""What a skew did in a run of any cohort: its networks beside those of a sibling run that trained on half of the group.

Both runs have the same test patients, degraded by the same noise, so that differences are paired. Where the truth is
not known (real patients), the audit is all there is.
"""

from collections.abc import Mapping

import pandas as pd

from fairrecon_core.audit import audit_change
from fairrecon_core.settings import load_settings
from fairrecon_core.steps.folder import Run, run_folder
from fairrecon_lab.mitigation.trainers import skew_of


def even_of(text: str) -> str:
    """The setting `training_skew` of the sibling run: as many patients, half of them of the same group."""
    return f"{skew_of(text).group}-0.5"


def beside_even(run: Run, profile: str, overrides: Mapping) -> pd.DataFrame:
    """The audit of the skewed networks' PSNR against the evenly trained ones, by the attribute of the skew.

    Parameters
    ----------
    run : Run
        With `training_skew`, and table `quality`.
    profile : str
    overrides : mapping
        Those of the run.

    Returns
    -------
    DataFrame
        Rows of the audit table, arm by arm that learns; level is the audited one. Empty, and a line says how to make
        the sibling, where one of both has no table `quality`.
    """
    skew = skew_of(run.settings.training_skew)
    even = {**overrides, "training_skew": even_of(skew.name)}
    folder, rows = run_folder(profile, even), []
    if folder == run.folder or not all((part / "tables" / "quality").is_dir() for part in (run.folder, folder)):
        options = " ".join(f"-p {name}={value}" for name, value in even.items())
        print(f"nothing to compare with: python3 run.py {profile} {options} makes the sibling")
        return pd.DataFrame()
    other = Run(folder, load_settings(profile, **even))
    for name in run.settings.cohorts:
        cohort = run.cohort(name)
        level = run.settings.audit_level(cohort.modality)
        for arm in run.settings.arms:
            parts = [one.read("quality", cohort=name, arm=arm, level=level).assign(arm=label)
                     for one, label in ((run, skew.name), (other, even["training_skew"]))]  # fmt: skip
            both = pd.concat(parts)[["image_id", "arm", "fold", "train_seed", "psnr_db"]]
            found = audit_change(both, cohort.table, skew.attribute, baseline_arm=even["training_skew"],
                                 arms=[skew.name], n_boot=run.settings.n_boot)  # fmt: skip
            rows.append(found.assign(cohort=name, network=arm))
    return pd.concat(rows, ignore_index=True)
