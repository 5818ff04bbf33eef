"""Do women gain more PSNR than men because of who they are, or of what their images look like? Writes small tables.

    python data_scripts/tcga_lgg.py ARCHIVE data/tcga_lgg_256 --size 256 --folds 3
    python tools/womens_gain.py lgg --wide data/tcga_lgg_256     # brains: also the same head drawn smaller
    python tools/womens_gain.py covid_cxr                        # films

`results/<profile>/sex_psnr.csv`: the difference (female less male) in gain over the degraded image, at equal covariates
and between matched patients, per arm, whole image and head or film, of the run and of the shipped networks, which never
saw a patient of the cohort. `results/<profile>/size_psnr.csv`: the gain on the same anatomy, real and simulated, drawn
smaller.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from fairrecon_core.cohort.folder import load_cohort
from fairrecon_core.predict import quality
from fairrecon_core.reconstruct import arm_class, consistency_class
from fairrecon_core.settings import load_settings, project_folder
from fairrecon_core.steps.folder import begin
from fairrecon_core.steps.pipeline import open_cohort
from fairrecon_core.steps.setup import degradation_of
from fairrecon_core.steps.weight_files import SHIPPED, SIMULATED
from fairrecon_lab.analysis import mechanism, real
from fairrecon_lab.cli import key_value
from fairrecon_lab.simulate import simulate

MATCHED = {
    "mri": {"head size": ["head_share"], "head size, slice": ["head_share", "place"], "degraded PSNR": ["baseline"]},
    "xray": {"brightness, contrast": ["brightness", "contrast"], "degraded PSNR": ["baseline"]},
}
SHARES = (1.0, 0.95, 0.9)
OPTIONS = {"n_boot": 2000, "seed": 1}


def shipped_networks(modality: str, arms) -> dict:
    """The networks that ship, trained on simulated patients, ready to be called, by arm; U-Net also as `unet_dc`."""
    settings, nets = load_settings("tutorial"), {}
    for arm in arms:
        nets[arm] = arm_class(arm)(modality=modality, **arm_class(arm).options(settings, modality))
        nets[arm].load(SHIPPED / f"{SIMULATED[modality]}-{arm}.safetensors")
    if modality == "mri" and "unet" in nets:
        nets["unet_dc"] = consistency_class()(nets["unet"])
    return nets


def restored(nets: dict, degradation, level: float, clean: np.ndarray, ids: list[str], seed: int = 1) -> dict:
    """Images by arm, `degraded` first, of clean images (n, H, W)."""
    degraded, measurement = degradation.measure(clean, level, ids, seed)
    made = {"degraded": np.asarray(degraded)}
    for arm, network in nets.items():
        given = {"image_ids": ids, "seed": seed, "sample": 0}
        made[arm] = np.asarray(
            network(degraded, level, **given, measurement=measurement if network.needs_measurement else None)
        )
    return made


def zero_shot(cohort, nets: dict, degradation, level: float, rows=None, chunk: int = 32) -> pd.DataFrame:
    """Rows of the table `quality` of networks that never saw a patient of the cohort, for some or all of its images."""
    rows = np.arange(len(cohort)) if rows is None else np.asarray(rows)
    parts, inside = [], mechanism.INSIDE[cohort.modality][1]
    for start in range(0, len(rows), chunk):
        part = rows[start : start + chunk]
        clean, ids = cohort.images_at(part), list(cohort.table["image_id"].iloc[part])
        for arm, images in restored(nets, degradation, level, clean, ids).items():
            found = quality.measure(images, clean, foreground=inside(clean), with_lpips=False)
            parts.append(found.assign(arm=arm, image_id=ids))
    return pd.concat(parts, ignore_index=True)


def differences(table: pd.DataFrame, facts: pd.DataFrame, weights: str) -> pd.DataFrame:
    """All estimates of the women's gain less the men's from rows of the table `quality`."""
    parts, modality = [], mechanism.modality_of(facts)
    for region, metric in {"whole image": "psnr_db", mechanism.INSIDE[modality][0]: "psnr_foreground_db"}.items():
        if table[metric].isna().all():  # films that fill their image have no other inside
            continue
        gain = mechanism.gains(table, metric)
        parts.append(mechanism.at_equal(gain, facts).assign(region=region, method="regression"))
        for arm, of_arm in gain.groupby("arm", sort=False):
            known = facts.join(of_arm.set_index("image_id")["baseline"])
            for step, names in MATCHED[modality].items():
                found = mechanism.matched_difference(of_arm.drop(columns="baseline"), known, names, **OPTIONS)
                row = {"arm": arm, "held_equal": step, "subgroup": "female", "value": found["value"]}
                row |= {"ci_low": found["low"], "ci_high": found["high"], "n_patients": 2 * found["pairs"]}
                parts.append(pd.DataFrame([row | {"region": region, "method": "matched pairs"}]))
    return pd.concat(parts, ignore_index=True).assign(weights=weights)


def middle_slices(cohort) -> np.ndarray:
    """Row of the middle slice of every patient."""
    groups = cohort.table.reset_index(drop=True).groupby("patient_id").indices.values()
    return np.sort([rows[len(rows) // 2] for rows in groups])


def by_size_trained(wide, steps, size: int) -> pd.DataFrame:
    """`mechanism.gain_by_size` on the middle slices of a cohort of large images, by the run's networks, out of fold."""
    rows, level, degradation = middle_slices(wide), steps.audit_level, steps.setup.degradation
    whose = wide.table["patient_id"].to_numpy()[rows]
    fold = steps.cohort.table.drop_duplicates("patient_id").set_index("patient_id")["fold"][whose].to_numpy()
    arms = [arm for arm in steps.setup.arms() if arm.startswith("unet")]

    def restore(clean: np.ndarray, ids: list[str]) -> dict:
        made: dict[str, np.ndarray] = {}
        for k in steps.setup.folds:
            nets, here = {arm: steps.weights.load(arm, k) for arm in arms}, np.flatnonzero(fold == k)
            for arm, images in restored(nets, degradation, level, clean[here], [ids[i] for i in here]).items():
                made.setdefault(arm, np.zeros_like(clean))[here] = images
        return made

    options = {"size": size, "shares": SHARES, "measure": quality.measure, **OPTIONS}
    found = mechanism.gain_by_size(wide.images_at(rows), whose, restore, **options)
    return found.assign(brains="real", weights="trained")


def by_size(wide, nets: dict, degradation, level: float, size: int, n_simulated: int) -> pd.DataFrame:
    """`mechanism.gain_by_size` on the middle slices of a cohort of large images, and on simulated brains."""
    rows = middle_slices(wide)
    drawn = [image for image, *_ in simulate("brain", n_simulated, seed=77, size=2 * size, n_slices=1)]
    images = {"real": wide.images_at(rows), "simulated": np.stack(drawn)}
    who = {"real": wide.table["patient_id"].to_numpy()[rows], "simulated": [f"s{k}" for k in range(len(drawn))]}
    options = {"size": size, "shares": SHARES, "measure": quality.measure, **OPTIONS}
    restore = lambda clean, ids: restored(nets, degradation, level, clean, ids)
    parts = [mechanism.gain_by_size(images[k], who[k], restore, **options).assign(brains=k) for k in images]
    return pd.concat(parts, ignore_index=True).assign(weights="shipped")


def main(argv: list[str] | None = None) -> int:
    """Write both tables and print what they say; returns the exit status."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("profile", nargs="?", default="lgg")
    options.add_argument("-p", dest="settings", action="append", default=[], metavar="KEY=VALUE", help="as for run.py")
    options.add_argument("--wide", type=Path, help="the cohort at twice the pixels, for the test of head size")
    options.add_argument("--simulated", type=int, default=75, metavar="N", help="simulated brains (75)")
    asked = options.parse_args(argv)
    overrides = dict(map(key_value, asked.settings))
    settings, run = begin(asked.profile, overrides, needs=["cohort"])
    name = settings.cohorts[0]
    cohort = run.cohort(name)
    modality, level = cohort.modality, settings.audit_level(cohort.modality)
    if asked.wide and modality != "mri":
        options.error("--wide draws heads smaller; these are films")
    degradation, nets = degradation_of(settings, modality), shipped_networks(modality, ["unet"])
    facts = mechanism.covariates(cohort)
    tables = {"shipped": zero_shot(cohort, nets, degradation, level)}
    if (run.folder / "tables" / "quality").exists():
        found = run.read("quality", cohort=name, level=level)
        tables["trained"] = found[found["arm"].isin(real.own_arms(settings))]
    out = project_folder() / "results" / asked.profile
    found = pd.concat([differences(table, facts, weights) for weights, table in tables.items()])
    found.round(4).to_csv(out / "sex_psnr.csv", index=False)
    print(found[found["held_equal"].isin(["nothing", "head size", "all of these"])].round(3).to_string(index=False))
    if asked.wide:
        wide = load_cohort(asked.wide)
        sizes = by_size(wide, nets, degradation, level, settings.image_size, asked.simulated)
        if "trained" in tables:
            sizes = pd.concat([by_size_trained(wide, open_cohort(run, name), settings.image_size), sizes])
        sizes.round(4).to_csv(out / "size_psnr.csv", index=False)
        print(sizes.round(3).to_string(index=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
