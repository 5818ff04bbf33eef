"""Put the small tables and charts of a finished run into results/<profile>/, and print what README shows.

    python tools/results.py lgg
    python tools/results.py lgg -p train_seeds=[0,1,2] -p arms=[unet,unet_dc] --into lgg_seeds   # with overrides

Means with 95 % patient-bootstrap intervals, the audit's signed cells, charts without pixels of patients, and run.json
with the command, commit, settings, time and memory of every step.
"""

import argparse
import json
import shlex
import shutil
import sys

import numpy as np
import pandas as pd

from fairrecon_core.cohort.folder import load_cohort
from fairrecon_core.settings import project_folder
from fairrecon_core.steps.folder import begin
from fairrecon_lab.analysis import real
from fairrecon_lab.analysis.patients import dice_table
from fairrecon_lab.auditing.by_hand import auroc
from fairrecon_lab.auditing.summary import signed_cells
from fairrecon_lab.cli import key_value

N_BOOT = 1000
AUDIT_COLUMNS = ["cohort", "baseline_arm", "arm", "level", "task", "attribute", "subgroup", "reference", "metric",
                 "estimator", "role", "baseline", "delta", "delta_ci_low", "delta_ci_high", "p_adjusted", "verdict",
                 "mde", "n_patients", "smallest_group"]  # fmt: skip
CHARTS = ("10_table_5_sex", "10_fig_12_sex", "10_fig_13_sex", "10_fig_21", "10_fig_11")  # no pixels in any of them


def interval(values: np.ndarray, patient: np.ndarray) -> tuple[float, float, float]:
    """Mean over images and its interval, resampling patients."""
    codes, ids = pd.factorize(patient)
    known = np.isfinite(values)
    total, count = (np.bincount(codes[known], part, len(ids)) for part in (values[known], None))
    draws = np.random.default_rng(1).multinomial(len(ids), np.full(len(ids), 1 / len(ids)), N_BOOT)
    low, high = np.quantile((draws @ total) / (draws @ count), [0.025, 0.975])
    return total.sum() / count.sum(), low, high


def auroc_interval(truth, score, patient) -> tuple[float, float, float]:
    """AUROC and its interval, resampling patients."""
    codes, ids = pd.factorize(patient)
    members = [np.flatnonzero(codes == k) for k in range(len(ids))]
    rng, found = np.random.default_rng(1), []
    for _ in range(200):
        rows = np.concatenate([members[k] for k in rng.integers(0, len(ids), len(ids))])
        found.append(auroc(truth[rows], score[rows]) if len(np.unique(truth[rows])) == 2 else np.nan)
    return auroc(truth, score), *np.nanquantile(found, [0.025, 0.975])


def _of(table: pd.DataFrame, arms: set[str]) -> pd.DataFrame:
    """Rows of some arms."""
    return table[table["arm"].isin(arms)]


def performance(run, cohort, level: float) -> pd.DataFrame:
    """One row per arm and quantity at the audited level: value, low, high, n of images and patients."""
    patients, name = cohort.table.set_index("image_id")["patient_id"], cohort.name
    rows = []

    def add(arm, quantity, triple, images):
        people = patients.reindex(images).nunique()
        rows.append([name, arm, level, quantity, *np.round(triple, 4), len(images), people])

    own = real.own_arms(run.settings)
    quality = _of(run.read("quality", cohort=name, level=level), own)
    base = quality[quality["arm"] == "degraded"].set_index("image_id")["psnr_db"]
    for arm, part in quality.groupby("arm", sort=False):
        who = patients[part["image_id"]].to_numpy()
        for column in ("psnr_db", "ssim", "lpips"):
            add(arm, column, interval(part[column].to_numpy(), who), part["image_id"])
        gain = part["psnr_db"].to_numpy() - base[part["image_id"]].to_numpy()
        add(arm, "psnr_db less degraded", interval(gain, who), part["image_id"])
    empty = pd.DataFrame(columns=["arm", "task"])
    predictions = _of(run.read("predictions", cohort=name), own) if run.has("predictions") else empty
    read = cohort.masks is not None and (run.folder / "tables" / "overlap").exists()  # not the example's
    overlap = _of(run.read("overlap", cohort=name), own) if read else None
    by_image = cohort.table.set_index("image_id")
    splits = {fold: cohort.splits(fold) for fold in range(cohort.info["n_folds"])}

    def tested(table):
        rows = by_image["row"][table["image_id"]]
        return np.array([splits[fold].iloc[row] == "test" for fold, row in zip(table["fold"], rows)])

    for (arm, task), part in predictions.groupby(["arm", "task"], sort=False):
        part = part[(part["level"] == level) | (arm == "clean")]
        part = part[tested(part)]
        truth = by_image[f"y_{task}"].reindex(part["image_id"]).to_numpy(float)
        known = np.isfinite(truth)
        if len(np.unique(truth[known])) == 2:
            who = patients[part["image_id"]].to_numpy()[known]
            triple = auroc_interval(truth[known], part["score"].to_numpy()[known], who)
            add(arm, f"auroc {task}", triple, part["image_id"][known])
    if overlap is not None:
        for arm, part in overlap.groupby("arm", sort=False):
            part = part[(part["level"] == level) | (arm == "clean")]
            part = part[tested(part)]
            for per in ("image", "patient"):
                table = dice_table(part, patients, per)
                triple = interval(table["dice"].to_numpy(), table["patient_id"].to_numpy())
                add(arm, f"dice per {per}", triple, part["image_id"])
    columns = ["cohort", "arm", "level", "quantity", "value", "low", "high", "n_images", "n_patients"]
    return pd.DataFrame(rows, columns=columns)


def main(argv: list[str] | None = None) -> int:
    """Write the results of a run; returns the exit status."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("profile", nargs="?", default="lgg")
    options.add_argument("-p", dest="settings", action="append", default=[], metavar="KEY=VALUE", help="as for run.py")
    options.add_argument("--into", metavar="NAME", help="folder in results/ (the profile's name)")
    asked = options.parse_args(argv)
    overrides = dict(map(key_value, asked.settings))
    settings, run = begin(asked.profile, overrides)
    out = project_folder() / "results" / (asked.into or asked.profile)
    out.mkdir(parents=True, exist_ok=True)
    tables = []
    for name in settings.cohorts:
        cohort = load_cohort(run.folder / "cohorts" / name)
        tables.append(performance(run, cohort, settings.audit_level(cohort.modality)))
    found = pd.concat(tables)
    found.to_csv(out / "performance.csv", index=False)
    audit = signed_cells(run.read("audit"))
    own = real.own_arms(settings)
    audit = audit[audit["arm"].isin(own) & audit["baseline_arm"].isin(own)]
    audit[AUDIT_COLUMNS].round(4).to_csv(out / "audit.csv", index=False)
    for chart in CHARTS:
        # drawn overlaps stand in where there are no masks
        drawn = chart == "10_fig_21" and not (run.folder / "tables" / "overlap").exists()
        if not drawn and (run.folder / "figures" / f"{chart}.png").exists():
            shutil.copy(run.folder / "figures" / f"{chart}.png", out / f"{chart}.png")
    record = json.loads((run.folder / "run.json").read_text())
    given = "".join(f" -p {shlex.quote(text)}" for text in asked.settings)
    record = {"command": f"python3 run.py {asked.profile}{given}"} | record
    (out / "run.json").write_text(json.dumps(record, indent=1, default=str) + "\n")
    text = [f"{v:.3f} [{lo:.3f}, {hi:.3f}]" for v, lo, hi in zip(found["value"], found["low"], found["high"])]
    wide = found.assign(text=text).pivot_table(
        index=["cohort", "arm"], columns="quantity", values="text", aggfunc="first", sort=False
    )
    print(wide.T.to_string())
    by = ["cohort", "baseline_arm", "arm", "attribute", "metric"]  # each measure apart
    read = audit[audit["metric"].isin(["tpr", "fpr", "auroc", "dice", "psnr_db"])]
    print(read.groupby(by, sort=False)["verdict"].value_counts().unstack(fill_value=0).to_string())
    return 0


if __name__ == "__main__":
    sys.exit(main())
