"""What a finished run on real images can say: small tables in results/<profile>/, beside those of tools/results.py.

    python tools/real_images.py lgg
    python tools/real_images.py nih --zero-shot unet

`readers.csv`: AUROC on clean images, out of fold, and whether the task is informative. `verdicts.csv`: how the audit of
each arm by sex and age ended over the informative cells, margin .05 for rates and .02 for AUROC, and how many patients
the undetermined ones would take; `cells.csv` has those of the U-Net by sex, one by one. `leakage.csv`: are sex and age
read as well from an arm as from clean images. `zero_shot.csv`: gain in PSNR of the shipped networks, which never saw
such a patient.
"""

import argparse
import sys

import pandas as pd
import womens_gain

from fairrecon_core.audit import audit_change
from fairrecon_core.settings import project_folder
from fairrecon_core.steps.folder import begin
from fairrecon_core.steps.pipeline import open_cohort
from fairrecon_lab.analysis import downstream, fairness, mechanism, real
from fairrecon_lab.analysis.estimates import mean_of, patients_of
from fairrecon_lab.auditing.summary import signed_cells
from fairrecon_lab.cli import key_value

BOOT = {"n_boot": 2000, "seed": 1}
MARGIN = {"rate": 0.05, "probability": 0.05, "auroc": 0.02, "dice": 0.05}
REFERENCE = {"sex": "male", "age_group": "old"}


def audits(run, steps, tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Signed cells by sex and age of predictions and overlaps at the audited level, margins as above."""
    settings, parts = run.settings, []
    for attribute in REFERENCE:
        if attribute not in fairness.known_attributes(steps.cohort.table, settings.n_folds):
            continue
        for rows in tables.values():
            audited = rows["arm"].eq("clean") | rows["level"].eq(steps.audit_level)
            rows = rows[audited & rows["arm"].isin(real.own_arms(settings))].assign(cohort=steps.name)
            options = {"n_boot": settings.n_boot, "min_support": settings.min_support, "seed": settings.seed}
            options |= {"reference": REFERENCE[attribute], "margin": MARGIN}
            found = audit_change(rows, steps.cohort.table, attribute, **options)
            parts.append(signed_cells(found))
    return pd.concat(parts, ignore_index=True)


def zero_shot(steps, arms: list[str], n_images: int) -> pd.DataFrame:
    """Gain over the degraded image of shipped networks on some images of the cohort, evenly spread."""
    cohort, modality = steps.cohort, steps.cohort.modality
    rows = range(0, len(cohort), max(1, len(cohort) // n_images))
    nets = womens_gain.shipped_networks(modality, arms)
    table = womens_gain.zero_shot(cohort, nets, steps.setup.degradation, steps.audit_level, rows)
    gain, whose = mechanism.gains(table), patients_of(cohort.table)
    means = {arm: mean_of(part["gain"], part["image_id"].map(whose), **BOOT) for arm, part in gain.groupby("arm")}
    return pd.DataFrame(means).T.rename_axis("arm").reset_index().assign(cohort=cohort.name, images=len(rows))


def main(argv: list[str] | None = None) -> int:
    """Write the tables and print them; returns the exit status."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("profile")
    options.add_argument("-p", dest="settings", action="append", default=[], metavar="KEY=VALUE", help="as for run.py")
    options.add_argument("--zero-shot", nargs="*", default=["unet", "pix2pix", "sde"], metavar="ARM")
    options.add_argument("--images", type=int, default=200, metavar="N", help="for the zero-shot table (200)")
    asked = options.parse_args(argv)
    overrides = dict(map(key_value, asked.settings))
    settings, run = begin(asked.profile, overrides, needs=["cohort"])
    steps = open_cohort(run, settings.cohorts[0])
    tables = {"predictions": run.read("predictions", cohort=steps.name)}
    if steps.cohort.masks is not None:
        tables["overlap"] = run.read("overlap", cohort=steps.name)
    tested = downstream.on_test_images(tables["predictions"], steps.cohort, steps.setup.folds)
    units = downstream.unit_scores(tested, steps.cohort)
    readers = downstream.clean_aurocs(units, steps.cohort, steps.readings.tasks(), steps.audit_level, **BOOT)
    attributes = [name for name in REFERENCE if steps.cohort.table[name].nunique() > 1]
    scores = real.attribute_scores(steps, ["clean", *steps.setup.arms()], attributes)
    cells, tasks = audits(run, steps, tables), real.informative_tasks(readers)
    found = {
        "readers": readers[readers["label"] == "recorded"],
        "verdicts": real.verdict_shares(cells, tasks),
        "cells": real.open_cells(cells, tasks, "sex", [arm for arm in steps.setup.arms() if arm.startswith("unet")]),
        "leakage": real.leakage(scores, steps.cohort, steps.audit_level, attributes, **BOOT),
    }
    if asked.zero_shot:
        found["zero_shot"] = zero_shot(steps, asked.zero_shot, asked.images)
    out = project_folder() / "results" / asked.profile
    out.mkdir(parents=True, exist_ok=True)
    for name, table in found.items():
        table.round(4).to_csv(out / f"{name}.csv", index=False)
        print(f"\n{name}\n{table.round(3).to_string(index=False)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
