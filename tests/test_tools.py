"""What maintainers run: every tool starts, and training ahead of the notebooks makes what they then find."""

import importlib.util
import subprocess
import sys

import pytest
from test_steps import steps_in

from fairrecon_core.reconstruct import names

TOOLS = ("book", "example", "mitigation", "pairs", "pretrain", "real_images", "results", "shipped", "switchboard")
TOOLS += ("trained_switches", "womens_gain")


def tool(root, name):
    """A tool as a module."""
    spec = importlib.util.spec_from_file_location(f"tool_{name}", root / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_tool_is_listed(root):
    assert sorted(path.stem for path in (root / "tools").glob("*.py")) == list(TOOLS)


@pytest.mark.parametrize("name", TOOLS)
def test_every_tool_starts_and_explains_itself(root, name):
    command = [sys.executable, str(root / "tools" / f"{name}.py"), "--help"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "usage:" in done.stdout, done.stderr


def test_training_ahead_makes_weights_and_images_that_the_steps_then_find(root, tmp_path, capsys):
    steps = steps_in(tmp_path, arms=["unet", "pix2pix"], classical=["degraded"])
    pretrain = tool(root, "pretrain").pretrain
    pretrain(steps, only=["unet", "grade"], images=True)
    said = capsys.readouterr().out
    n_images = len(steps.setup.rows(4))
    assert f"unet 4 {n_images} images" in said.replace("4.0", "4") and "degraded" not in said
    made = {path.parent.parent.name for path in tmp_path.rglob("weights.safetensors")}
    assert made == {"unet", "reader-grade"}
    path = steps.weights.path("unet")
    before = path.stat().st_mtime_ns
    pretrain(steps, only=["unet"])
    assert path.stat().st_mtime_ns == before, "what is current is not trained again"


def test_a_fold_is_trained_alone(root, tmp_path):
    steps = steps_in(tmp_path, arms=["unet"], classical=["degraded"], n_folds=3)
    tool(root, "pretrain").pretrain(steps, fold=1, only=["unet"], images=True)
    folds = {path.relative_to(tmp_path).parts[3] for path in tmp_path.rglob("reconstructions/brain/unet/*/*")}
    assert folds == {"1-0"}


def test_what_shipped_weights_are_made_of_is_known_to_the_registry(root):
    shipped = tool(root, "shipped")
    assert {shipped.role_of(arm) for arm in names()} == {"reconstruction"}
    assert shipped.role_of("grade") == shipped.role_of("segmenter") == "prediction"
    assert set(shipped.readers("chest")) == {"findings"}
    assert set(shipped.readers("brain")) == {"grade", "type", "segmenter"}
