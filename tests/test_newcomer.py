"""The table of CONTRIBUTING, walked as a newcomer would: a toy arm, cohort, mask, loss and metric, and the steps."""

import os
import re
import shutil
import subprocess
import sys

import pytest

ARM = '''
from fairrecon_core.reconstruct import Reconstructor, register


@register
class Brighter(Reconstructor):
    """The degraded image, a little brighter."""

    name = "brighter"

    def restore(self, degraded, level, image_ids, seed, sample, measurement):
        return degraded * 1.1
'''
COHORT = """
import numpy as np

from fairrecon_core.cohort.folder import write_cohort


def items():
    for k in range(40):
        image = np.random.default_rng(k).random((32, 32), dtype=np.float32) * (0.5 + 0.4 * (k % 2))
        row = {"image_id": f"i{k}", "patient_id": f"p{k}", "modality": "mri", "sex": ("female", "male")[k // 2 % 2]}
        yield image, row | {"age_years": 40 + k, "race": "unknown", "y_bright": float(k % 2)}


def write(folder):
    return write_cohort(folder, items(), name="toys", seed=1, split=(0.5, 0.2, 0.3))
"""
STEPS = """
import sys
from pathlib import Path

import my_arm, my_cohort
from fairrecon_core.audit import audit_change
from fairrecon_core.settings import load_settings
from fairrecon_core.steps.folder import Run
from fairrecon_core.steps.pipeline import open_cohorts

settings = load_settings("toys")
run = Run(Path(sys.argv[1]), settings)
my_cohort.write(run.folder / "cohorts" / "toys")
steps = open_cohorts(run)["toys"]
for arm in ("unet", "brighter"):
    steps.weights.make_all(arm)
steps.readings.weights.make_all()
quality = steps.quality.measure("degraded", "unet", "brighter")
for arm in steps.arms_read(extra=()):
    steps.readings.read(arm)
print("columns", *quality.columns)
print("arms", *sorted(set(run.read("predictions")["arm"])))
table = audit_change(quality, steps.cohort.table, "sex", baseline_arm="degraded", n_boot=200, min_support=2)
print("measures", *sorted(set(table["metric"])))
"""
PROFILE = """
cohorts: [toys]
image_size: 32
mri_levels: [4]
mri_audit_level: 4
train: true
width: 2
epochs: 1
reader_epochs: 1
mri_order: thirds
arms: [unet, brighter]
classical: [degraded]
"""


def edit(path, old, new):
    text = path.read_text()
    assert text.count(old) >= 1, f"{path.name} holds no {old!r}: the table of CONTRIBUTING leads astray"
    path.write_text(text.replace(old, new, 1))


@pytest.mark.series
def test_each_change_touches_the_files_that_the_table_names(root, tmp_path):
    for package in ("fairrecon_core", "fairrecon_lab"):
        shutil.copytree(root / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "notebooks" / "profiles").mkdir(parents=True)
    (tmp_path / "notebooks" / "profiles" / "toys.yml").write_text(PROFILE)
    for name, text in {"my_arm": ARM, "my_cohort": COHORT, "do": STEPS}.items():
        (tmp_path / f"{name}.py").write_text(text)
    core = tmp_path / "fairrecon_core"
    edit(
        core / "degrade/mri.py",
        '    "golden": lambda',
        '    "thirds": lambda n: np.pi / n * (np.arange(n) + 1 / 3),\n    "golden": lambda',
    )
    edit(core / "reconstruct/unet.py", 'yield "net", F.mse_loss', 'yield "net", 2 * F.mse_loss')
    add_image_metric(core)
    environment = dict(os.environ, PYTHONPATH=str(tmp_path), FAIRRECON_HOME=str(tmp_path), OMP_NUM_THREADS="1")
    command = [sys.executable, "do.py", str(tmp_path / "run")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    said = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line}
    assert said["arms"] == ["brighter", "clean", "degraded", "unet"]
    assert "largest_error" in said["columns"] and "largest_error" in said["measures"]


def add_image_metric(core):
    """The largest error of a pixel: a row in the table of metrics, and its formula."""
    row = '    "largest_error": Metric("largest error", "largest_error", 3, "lower", of_images=True, low=0, high=1),\n'
    edit(core / "measures.py", '    "tpr": Metric(', row + '    "tpr": Metric(')
    formula = '    "largest_error": lambda image, truth, mask: np.abs(image - truth).max(),\n'
    edit(core / "predict/quality.py", '    "ssim": lambda', formula + '    "ssim": lambda')


def test_the_table_names_files_that_exist_and_three_at_most(root):
    text = (root / "CONTRIBUTING.md").read_text()
    rows = [line.split("|")[2:4] for line in text.splitlines() if line.startswith("| ") and "---" not in line][1:]
    assert len(rows) == 7
    for read, touch in rows:
        files = [name for name in re.findall(r"`([^`]+)`", read + touch) if "/" in name]
        assert len(set(re.findall(r"`([^`]+/[^`]+)`", read))) <= 3 and files
        for name in files:
            assert (root / name).exists() or "yours" in name or "NN" in name or name.startswith("python "), name
