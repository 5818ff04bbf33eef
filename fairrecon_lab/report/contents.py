"""What a run holds, as far as a report needs it: record, tables, people, and figures per arm with their intervals."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from fairrecon_core.audit import metrics
from fairrecon_core.audit.engine import patient_codes
from fairrecon_core.audit.groups import resample_aurocs
from fairrecon_core.audit.inference import contrast
from fairrecon_core.cohort.folder import Cohort, funnel
from fairrecon_core.measures import image_metrics
from fairrecon_core.tables import SCHEMAS, read_parquet, read_table
from fairrecon_lab.auditing.summary import claims, signed_cells
from fairrecon_lab.bootstrap import patient_bootstrap

N_BOOT = 1000  # resamples behind the intervals of this page
CONTROLS = {
    "placebo": "control: no bias added",
    "planted": "control: known bias added",
    "blurred_reader": "control: a worse reader, aimed at nobody",
}
QUALITY = tuple(name for name in image_metrics() if name != "psnr_foreground_db")  # a second PSNR would be too wide
CONDITION = ("cohort", "arm", "level")


class Contents:
    """Everything that a page shows of one run.

    Parameters
    ----------
    folder : path
        The run, with `run.json`. A table that is damaged is left out and named in `problems`.
    with_images : bool
        Whether figures may be shown although not every cohort is known to be simulated.

    Raises
    ------
    FileNotFoundError
        There is no `run.json`.
    """

    def __init__(self, folder: str | Path, with_images: bool = False):
        self.folder, self.problems = Path(folder), []
        self.with_images = with_images
        path = self.folder / "run.json"
        if not path.exists():
            raise FileNotFoundError(f"no run.json in {self.folder}: run the series first")
        self.record = json.loads(path.read_text(encoding="utf-8"))
        self.profile, self.settings = self.record["profile"], self.record.get("settings", {})
        found = (path.parent for path in sorted(self.folder.glob("cohorts/*/cohort.json")))
        self.cohorts = {part.name: cohort for part in found if (cohort := self._try(part.name, _cohort, part))}
        names = [name for name in SCHEMAS if any((self.folder / "tables" / name).glob("*.parquet"))]
        tables = {name: self._try(f"table {name}", read_table, self.folder, name) for name in names}
        self.tables = {name: table for name, table in tables.items() if table is not None}
        self.cells, self.claims = pd.DataFrame(), pd.DataFrame()
        if "audit" in self.tables:  # of readers; notebook 07 audits decibels as well
            self.tables["audit"] = self.tables["audit"].query("task != 'quality'")
            self.cells, self.claims = (pick(self.tables["audit"]) for pick in (signed_cells, claims))
        self.quality = pd.DataFrame(self._quality())
        self.readers = pd.DataFrame([*self._aurocs(), *self._dice()])

    def _try(self, what: str, read, *arguments):
        try:
            return read(*arguments)
        except (ValueError, KeyError, OSError) as error:
            self.problems.append(f"{what}: {error}")
            return None

    # ------------------------------------------------------------------ facts
    @property
    def simulated(self) -> list[str]:
        """Names of the cohorts that the simulator drew."""
        return [name for name, cohort in self.cohorts.items() if "simulator_version" in cohort.info]

    @property
    def shows_images(self) -> bool:
        """Whether figures may be shown: on request, or if every cohort of folders and tables is known as simulated.

        A cohort that cannot be read, or that only a table names, counts as real.
        """
        named = {path.name for path in self.folder.glob("cohorts/*") if path.is_dir()}
        named |= {str(name) for table in self.tables.values() for name in table["cohort"].unique()}
        return self.with_images or (bool(named) and named <= set(self.simulated))

    @property
    def arms(self) -> list[str]:
        """Arms of every table: `clean`, `degraded`, the reconstructors of the settings, others, controls."""
        seen = {arm for table in self.tables.values() for arm in table["arm"].unique()}
        order = ["clean", "degraded", *self.settings.get("arms", [])]
        return sorted(seen, key=lambda arm: (arm in CONTROLS, order.index(arm) if arm in order else len(order), arm))

    def conditions(self) -> list[tuple[str, str]]:
        """Pairs of cohort and arm that any table knows, in the order of `arms`."""
        pairs = {pair for table in self.tables.values()
                 for pair in table[["cohort", "arm"]].drop_duplicates().itertuples(index=False, name=None)}  # fmt: skip
        arms = self.arms
        return sorted(pairs, key=lambda pair: (pair[0], arms.index(pair[1])))

    def modality(self, cohort: str) -> str:
        """`mri`, `xray`, or empty if this run lacks the cohort."""
        return self.cohorts[cohort].modality if cohort in self.cohorts else ""

    def audited_level(self, cohort: str) -> float | None:
        """The level on which a cohort is audited, by the settings."""
        return self.settings.get(f"{self.modality(cohort)}_audit_level")

    def funnel(self, cohort: str) -> list[dict]:
        """Who of a cohort is left at every step; who is audited is in it once readers have read an arm."""
        read = [table for name, table in self.tables.items() if name in ("predictions", "overlap")]
        ids = [table.loc[(table["cohort"] == cohort) & (table["arm"] != "clean"), "image_id"] for table in read]
        return funnel(self.cohorts[cohort], pd.concat(ids).unique() if ids else None)

    def at_audit(self, frame: pd.DataFrame, cohort: str, arm: str) -> pd.DataFrame:
        """Rows of one arm at the audited level (of `clean`: at its own)."""
        if frame.empty:
            return frame
        level = self.audited_level(cohort)
        mine = (frame["cohort"] == cohort) & (frame["arm"] == arm)
        return frame[mine & ((frame["level"] == level) | (arm == "clean") | (level is None))]

    def level_text(self, cohort: str, level: float) -> str:
        """A level with its unit, such as "R = 8"."""
        if not math.isfinite(level) or level == 1:
            return "undegraded"
        return {"mri": f"R = {level:g}", "xray": f"{level:,.0f} photons"}.get(self.modality(cohort), f"level {level:g}")

    # ------------------------------------------------------------------ figures from the tables
    def _tested(self, name: str, *more: str) -> Iterator[tuple[dict, pd.DataFrame]]:
        """Results on test images, one condition (and `more`) at a time, beside the people's columns."""
        for cohort, rows in self.tables[name].groupby("cohort") if name in self.tables else ():
            if cohort not in self.cohorts:
                self.problems.append(f"{name} of {cohort}: this run has no cohort of that name, so nobody is counted")
                continue
            people = self.cohorts[cohort].table.rename(columns={"fold": "home"})
            people = people[["image_id", "patient_id", "split", "home", *(c for c in people if c.startswith("y_"))]]
            rows = rows.merge(people, on="image_id")
            folded = self.cohorts[cohort].info["n_folds"] > 1
            rows = rows[rows["fold"] == rows["home"] if folded else rows["split"] == "test"]
            for key, part in rows.groupby([*CONDITION, *more]):
                yield dict(zip((*CONDITION, *more), key)), part

    def _quality(self) -> Iterator[dict]:
        """Each measure with its interval, per condition but `clean`; seeds and samples are averaged within images."""
        for key, part in self._tested("quality"):
            if key["arm"] != "clean":
                images = part.groupby("image_id").agg({"patient_id": "first"} | dict.fromkeys(QUALITY, "mean"))
                patients = images["patient_id"]
                values = {name: patient_bootstrap(images[name], patients, n_boot=N_BOOT)[:3] for name in QUALITY}
                yield key | {"n": patients.nunique()} | values

    def _aurocs(self) -> Iterator[dict]:
        """AUROC per condition and task; scores of several seeds or samples are averaged within images."""
        for key, part in self._tested("predictions", "task"):
            columns = {"patient_id": "first", f"y_{key['task']}": "first", "score": "mean"}
            images = part.groupby("image_id").agg(columns).set_axis(["patient_id", "truth", "score"], axis=1).dropna()
            positive = images.loc[images["truth"] == 1, "patient_id"].nunique()
            yield key | {"measure": "AUROC", "n": images["patient_id"].nunique(), "positive": positive,
                         "value": auroc_interval(images["truth"], images["score"], images["patient_id"])}  # fmt: skip

    def _dice(self) -> Iterator[dict]:
        """Mean Dice of the patients' volumes per condition."""
        for key, part in self._tested("overlap"):
            volumes = part.groupby(["patient_id", "train_seed", "sample"], as_index=False)[
                ["intersection", "predicted", "actual"]
            ].sum()
            dice = metrics.dice(volumes["intersection"], volumes["predicted"], volumes["actual"])
            interval = patient_bootstrap(dice, volumes["patient_id"], n_boot=N_BOOT, per="patient")
            n = {"n": interval.n_patients, "positive": volumes.loc[volumes["actual"] > 0, "patient_id"].nunique()}
            yield key | {"task": "segmentation", "measure": "Dice", "value": interval[:3]} | n


def auroc_interval(truth, score, patient_id) -> tuple[float, float, float]:
    """AUROC with its 95 % interval over patients, ends within [0, 1]; NaN where a class is missing.

    Parameters
    ----------
    truth, score, patient_id : arrays, shape (images,)
        Labels 0 and 1, without gaps; scores; who.
    """
    truth, score = np.asarray(truth), np.asarray(score, dtype=float)
    if len(np.unique(truth)) < 2:
        return (math.nan,) * 3
    patient, _ = patient_codes(np.asarray(patient_id))
    result = resample_aurocs(patient, np.zeros(len(truth), int), score[None], truth, 1, n_boot=N_BOOT, min_support=1)
    level = contrast(result, "level")
    low, high = (float(np.clip(end[0, 0, 0], 0, 1)) for end in level.interval())
    return float(level.estimate[0, 0, 0]), low, high


def changed(cells: pd.DataFrame) -> pd.DataFrame:
    """Signed audit rows that changed, the clearest first."""
    hits = cells[cells["verdict"].isin(["changed", "changed_within_margin"])]
    return hits.sort_values(["p_adjusted", "p_value"])


def _cohort(folder: Path) -> Cohort:
    """A cohort without its pixels."""
    info = json.loads((folder / "cohort.json").read_text(encoding="utf-8"))
    return Cohort(folder, read_parquet(folder / "cohort.parquet", "cohort"), None, None, info)
