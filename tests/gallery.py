"""Every figure function of the tutorial, drawn from the shipped example run, with few resamples: how it looks is asked.

python tests/gallery.py FOLDER [NAME ...]     saves the pictures, as wide as a notebook shows them
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fairrecon_core.steps.folder import begin
from fairrecon_lab import plots
from fairrecon_lab.analysis import (
    downstream,
    downstream_figures,
    estimates,
    fairness,
    fairness_figures,
    quality_figures,
    real,
    real_figures,
)
from fairrecon_lab.analysis import quality as by_arm
from fairrecon_lab.analysis.thresholds import chosen_thresholds
from fairrecon_lab.auditing.summary import signed_cells
from fairrecon_lab.paper import against_chance, board, ours, percent, pictures, stability
from fairrecon_lab.paper.evaluation import published_audit
from fairrecon_lab.plots.legible import JUPYTER_DPI

BOOT = {"n_boot": 20, "seed": 1}
ARMS = ["degraded", "tv", "nlm", "unet", "pix2pix", "sde"]
REFERENCE = {"sex": "male", "age_group": "old", "race": "white"}


class Example:
    """The shipped example run, its tables read once."""

    def __init__(self):
        self.settings, self.run = begin("tutorial", {"n_boot": 50})
        self.cohorts = {name: self.run.cohort(name) for name in self.settings.cohorts}
        self.whose = {name: estimates.patients_of(cohort.table) for name, cohort in self.cohorts.items()}
        self.note = "resnet18_half readers, simulated"

    def rows(self, table: str, name: str) -> pd.DataFrame:
        """All rows of a table for one cohort."""
        return self.run.read(table, cohort=name)

    def level(self, name: str) -> float:
        return self.settings.audit_level(self.cohorts[name].modality)

    def levels(self, name: str) -> list[float]:
        return list(self.settings.mri_levels if name == "brain" else self.settings.xray_levels)

    def audits(self) -> dict[tuple, pd.DataFrame]:
        """Audits against clean images by cohort and attribute, as notebook 10 saves them."""
        table = self.run.read("audit").query("baseline_arm == 'clean' and task not in ('segmentation', 'quality')")
        table = table[table["attribute"] != "age_group"]  # as wide as sex, and takes as long to draw
        table = table[~table["metric"].isin(["ser", "delta_dice", "dice", "psnr_db", "lpips", "psnr_foreground_db"])]
        return dict(iter(table.groupby(["cohort", "attribute"], sort=False)))


def quality_gallery(example: Example) -> Iterator[tuple[str, Figure]]:
    """Notebook 07."""
    for name, cohort in example.cohorts.items():
        rows = example.rows("quality", name)
        means = {
            metric: estimates.means_by_level(rows, metric, example.whose[name], arms=ARMS, **BOOT)
            for metric in quality_figures.MEASURES
        }
        yield f"07_curves_{name}", quality_figures.quality_curves(means, cohort)
        yield f"07_perception_{name}", quality_figures.perception_distortion(means, cohort)
        audit = example.run.read("audit").query("baseline_arm == 'degraded' and cohort == @name")
        here, level = rows[rows["level"] == example.level(name)], example.level(name)
        for attribute in [name for name in fairness.known_attributes(cohort.table) if name != "age_group"]:
            cells = signed_cells(audit[audit["attribute"] == attribute])
            for metric in ("psnr_db",) if name == "brain" else ("psnr_db", "lpips"):
                options = {"n_boot": 20, "min_support": 10, "seed": 1, "metric": metric}
                found = by_arm.subgroup_table(here, cohort.table, attribute, ARMS, **options)
                figure = quality_figures.subgroup_figure(found, cells, metric, cohort, level)
                yield f"07_subgroups_{name}_{attribute}_{metric}", figure
    rng = np.random.default_rng(1)
    truth, patients = rng.random((6, 32, 32)), [f"p{k}" for k in range(6)]
    samples = truth + 0.1 * rng.standard_normal((4, *truth.shape))
    gains = by_arm.sample_gains(samples, truth, patients)
    yield "07_samples", quality_figures.samples_figure(gains, 4, "sde", example.cohorts["brain"], 8.0)


def image_gallery(example: Example) -> Iterator[tuple[str, Figure]]:
    """Figures of images, with titles as long as notebooks give them."""
    cohort, heat = example.cohorts["chest"], np.random.default_rng(1).random((4, 4))
    clean, note = cohort.image(int(cohort.pixel_rows[0])), "simulated, chest, Photons per detector bin 10,000"
    titles = [f"{arm}, 28.4 dB" for arm in ARMS]
    yield "07_row", plots.error_row(clean, [clean] * 6, titles, note=note, height=1.9)
    long = ["brighter", "grain", "blur", "half shifted", "lesion erased"]
    yield "07_same_psnr", plots.error_row(clean, [clean] * 5, [f"{t}\n26.0 dB, LPIPS 0.22" for t in long], note=note)
    yield "00_three_images", plots.image_row([clean] * 3, ["clean", "degraded, R = 8", "reconstructed"])
    outlined = [f"{arm}\nDice 0.93" for arm in ["clean", *ARMS]]
    yield "08_fig_4", plots.image_row([clean] * 8, ["truth", *outlined], note=note, height=1.9)
    images = dict.fromkeys(["clean", *ARMS], clean)
    lines = {task: ([heat] * 7, [0.43] * 7) for task in ("pleural_effusion", "atelectasis")}
    yield "08_fig_5", downstream_figures.heat_figure(images, lines, note)
    heads, two = ["pleural effusion 0.43"] * 2, {"clean": clean, "sde": clean}
    yield "08_look_at", downstream_figures.beside_clean(two, [heat] * 2, ["clean", "sde, 10,000"], heads, note)
    stages = dict.fromkeys(("cohort", "degrade", "reconstruct", "predict", "audit"), "who is in the data\nnotebook 01")
    yield "04_drawing", plots.unet_figure(128, 16)
    yield "00_pipe", plots.pipe_figure(stages, "Every stage reads the files of the one before.")


def reader_gallery(example: Example) -> Iterator[tuple[str, Figure]]:
    """Notebook 08."""
    losses = pd.DataFrame({"epoch": range(5), "train_net": [5, 4, 3, 2, 1.0], "validation": [5, 4, 3.5, 3, 3.2]})
    yield (
        "08_losses",
        downstream_figures.losses_figure(dict.fromkeys(("brain, grade", "brain, type", "c"), losses), "n"),
    )
    for name, cohort in example.cohorts.items():
        rows = example.rows("predictions", name)
        units = downstream.unit_scores(downstream.on_test_images(rows, cohort, [0]), cohort)
        tasks, level, levels = list(rows["task"].unique()), example.level(name), example.levels(name)
        yield (
            f"08_clean_{name}",
            downstream_figures.clean_figure(
                downstream.clean_aurocs(units, cohort, tasks, level, **BOOT), f"simulated, {name}"
            ),
        )
        given = {"levels": levels, "arms": ARMS, **BOOT}
        curves = {task: downstream.task_curve(units, cohort, task, **given) for task in tasks}
        panels = [(f"AUROC, {estimates.spoken(task)}", curves[task]) for task in tasks[:2]]
        if name == "chest":
            panels = [("mean AUROC (12, 12, 12 findings)", downstream.average_curve(units, cohort, tasks, **given))]
            findings = {task: curves[task] for task in tasks if task != "support_devices"}
            yield "08_findings_chest", downstream_figures.findings_figure(findings, "xray", "simulated, chest")
        else:
            overlap = downstream.on_test_images(example.rows("overlap", name), cohort, [0])
            panels += [("Dice per slice", downstream.dice_curve(overlap, example.whose[name], levels, **BOOT))]
        quality = example.rows("quality", name)
        panels += [("PSNR (dB)", estimates.means_by_level(quality, "psnr_db", example.whose[name], **BOOT))]
        yield f"08_noise_{name}", downstream_figures.noise_figure(panels, ARMS, cohort.modality, f"simulated, {name}")
        per_arm, frozen = (chosen_thresholds(cohort, rows, p) for p in ("test_per_arm", "validation_frozen"))
        yield f"08_thresholds_{name}", downstream_figures.threshold_figure(per_arm, frozen, ARMS, "simulated")
        tested = downstream.on_test_images(rows, cohort, [0])
        shifts = downstream.all_shifts(tested, cohort, frozen, tasks=tasks, level=level, **BOOT)
        yield f"08_shifts_{name}", downstream_figures.shift_figure(shifts, ARMS, f"simulated, {name}")


def fairness_gallery(example: Example) -> Iterator[tuple[str, Figure]]:
    """Notebook 10."""
    audits, note = example.audits(), example.note
    scores = {name: example.rows("predictions", name) for name in example.cohorts}
    scores = {n: rows[rows["arm"].eq("clean") | rows["level"].eq(example.level(n))] for n, rows in scores.items()}
    published = {}
    for name, attribute in audits:
        tested = fairness.audited(example.cohorts[name].table)
        options = {"n_boot": 10, "empty_tpr": 0.0 if name == "brain" else 1.0, "seed": 1}
        published[name, attribute] = published_audit(scores[name], tested, attribute, **options)
    for (name, attribute), audit in audits.items():
        rows = audit.query("estimator == 'plug_in'")
        table = fairness_figures.table_five(published[name, attribute], rows, "eodd", f"{name}, by {attribute}; {note}")
        yield f"10_table_5_{name}_{attribute}", table
        for metric in ("tpr", "logit_shift"):
            figure = fairness_figures.change_by_task(audit, metric, REFERENCE[attribute], f"{name}; {note}")
            yield f"10_change_{name}_{attribute}_{metric}", figure
        bands = fairness_figures.gaps_and_bands(audit, "eop", f"by {attribute}; {name}; {note}")
        yield f"10_bands_{name}_{attribute}", bands
    rng, folded = np.random.default_rng(1), []
    for (name, attribute), audit in audits.items():
        for arm in fairness_figures.arm_order(audit["arm"]):
            for metric in ("EODD", "EOP"):
                folded.append([name, attribute, arm, metric, *rng.uniform(0.02, 0.15, 2)])
    folded = pd.DataFrame(folded, columns=["cohort", "attribute", "arm", "metric", "observed", "noise"])
    yield "10_fig_11", fairness_figures.folded_figure(folded, note)
    dice = example.run.read("audit").query("cohort == 'brain' and task == 'segmentation'")
    segmented = dict(iter(dice.groupby("attribute", sort=False)))
    yield "10_fig_21", fairness_figures.overlap_changes(segmented, "read from masks, simulated")
    yield "10_fig_20", fairness_figures.standard_errors(published, note)
    known = {"value": [0.01, -0.2, 0.0], "delta": [0.01, -0.2, 0.0], "delta_ci_low": [-0.04, -0.26, -0.05]}
    known |= {"delta_ci_high": [0.05, -0.15, 0.05], "band_low": -0.05, "band_high": 0.05}
    known |= {"verdict": ["equivalent", "changed", "undetermined"]}
    worlds = pd.DataFrame(known, index=["null", "injected", "label bias only"])
    yield "10_known_truth", fairness_figures.known_truth(worlds, [0, -0.19, 0], 0.05)


def paper_gallery(example: Example) -> Iterator[tuple[str, Figure]]:
    """Notebooks 11, 12 and 14."""
    for attribute in ("race", "sex"):
        yield f"12_against_chance_{attribute}", pictures.against_chance(attribute)
    yield "11_mean_not_maximum", pictures.mean_not_maximum()
    yield "12_detectable", pictures.detectable_changes()
    mine = ours.Ours(example.run)
    people = board.stand_in(seed=1, n_patients=300)
    live = board.live(*people, 1.0, example.settings)
    whole = board.whole_board(mine, live)
    for topic in pictures.TOPICS:
        yield f"11_switchboard_{topic}", pictures.switchboard(whole, "simulated", topic)
    laws = against_chance.against_chance()
    laws = laws[laws["table"].isin(["F2", "F3"]) & (laws["statistic"] == "median change (%)")]
    yield "12_laws", pictures.printed_on_laws(laws)
    yield "12_ssim", pictures.quality_and_task(stability.noise_panels(mine), "this run")
    table = percent.percent_table(mine.tables["audit"]).query("arm in ('unet', 'pix2pix', 'sde')")
    for name, cohort in example.cohorts.items():
        rows, recorded = table[table["cohort"] == name], ours.recorded(cohort)
        yield f"12_change_{name}", pictures.changes_by_task(rows, recorded, f"{name}, this run, 95 %")
        parts = {attribute: rows[rows["attribute"] == attribute] for attribute in recorded}
        bands = dict.fromkeys(parts, (-5.0, 5.0))
        yield f"12_percent_{name}", pictures.percent_histograms(parts, bands, f"{name}, this run")
    verdicts = real.kept_results("verdicts").query("attribute == 'sex' and baseline_arm == 'clean'")
    note = "real patients, out of fold; intervals by patient"
    yield "14_verdicts", real_figures.verdicts_figure(verdicts, f"by sex; {note}")
    yield "14_leakage", real_figures.leakage_figure(real.kept_results("leakage"), "sex", note)


GALLERIES = (quality_gallery, image_gallery, reader_gallery, fairness_gallery, paper_gallery)


def save(folder: Path, names: list[str]) -> None:
    """Write the figures, all or those that begin with one of `names`, as a notebook shows them at 1 000 pixels."""
    from fairrecon_lab.plots.legible import flaws

    folder.mkdir(exist_ok=True, parents=True)
    example = Example()
    for gallery in GALLERIES:
        for name, figure in gallery(example):
            if not names or name.startswith(tuple(names)):
                width = min(1000, JUPYTER_DPI * figure.get_figwidth())
                print(name, figure.get_size_inches(), *flaws(figure)[:8], sep="\n   ")
                figure.savefig(folder / f"{name}.png", dpi=width / figure.get_figwidth())


if __name__ == "__main__":
    asked = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    asked.add_argument("folder", type=Path)
    asked.add_argument("names", nargs="*", help="beginnings of the figures' names; all if left out")
    save(**vars(asked.parse_args()))
