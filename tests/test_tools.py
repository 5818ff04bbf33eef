"""What maintainers run: every tool starts, and training ahead of the notebooks makes what they then find."""

import importlib.util
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from test_steps import steps_in

from fairrecon_core.reconstruct import names

TOOLS = ("book", "contact_sheet", "example", "legible", "mitigation", "pairs", "pretrain", "real_images", "results")
TOOLS += ("shipped", "slides", "switchboard", "trained_switches", "womens_gain")


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


def test_a_contact_sheet_shows_the_largest_disagreements_one_a_patient(root, tmp_path):
    contact = tool(root, "contact_sheet")
    rng = np.random.default_rng(0)
    base = rng.random((5, 4, 4), dtype=np.float32) / 2
    far = base.copy()
    far[[1, 2, 4]] += np.float32([0.1, 0.3, 0.2])[:, None, None]
    size, pairs, which = contact.disagreement({"a": base, "b": base, "c": far})
    assert np.allclose(size, [0, 0.1, 0.3, 0, 0.2], atol=1e-6) and pairs[which[2]] in (("a", "c"), ("b", "c"))
    assert contact.most(size, np.array(["p", "q", "r", "s", "r"]), 2).tolist() == [2, 1]  # r is shown once
    with pytest.raises(ValueError, match="in pairs"):
        contact.disagreement({"a": base})
    steps = steps_in(tmp_path, arms=[], classical=["degraded", "tv", "nlm"])
    assert contact.arms_of(steps) == ["tv", "nlm"]  # none learns, so all that reconstruct may disagree
    figure, lines = contact.sheet(steps, ["tv", "nlm"], 3)
    assert (
        len(lines) == 3
        and len(figure.axes) == 3 * 5
        and figure.axes[3].get_title() == "nlm"
        and "tv and nlm differ by" in lines[0]
    )
    assert float(lines[0].split("by ")[1][:5]) >= float(lines[2].split("by ")[1][:5]) > 0


@pytest.mark.parametrize(("size", "inside"), [("film_share", "film"), ("head_share", "head")])
def test_womens_gain_asks_of_films_and_of_brains_what_each_can_differ_in(root, size, inside):
    gains, rng, n = tool(root, "womens_gain"), np.random.default_rng(5), 60
    ids, female = [f"i{k}" for k in range(n)], np.arange(n) % 2 == 0
    facts = pd.DataFrame({"patient_id": ids, "sex": np.where(female, "female", "male")}, index=ids)
    looks = ["brightness", "contrast", "detail", size]
    facts[looks], facts["place"] = rng.normal(0.5, 0.05, (n, 4)), rng.random(n)
    table = pd.DataFrame({"image_id": ids * 2, "arm": ["degraded"] * n + ["unet"] * n})
    table["psnr_db"] = np.concatenate([np.full(n, 20.0), 24.0 + 0.5 * female]) + rng.normal(0, 0.1, 2 * n)
    found = gains.differences(table.assign(psnr_foreground_db=table["psnr_db"]), facts, "trained")
    assert set(found["region"]) == {"whole image", inside}
    asked = found.loc[found["method"] == "matched pairs", "held_equal"]
    assert ("brightness, contrast" in set(asked)) == (inside == "film") == ("head size" not in set(asked))
    assert found["value"].sub(0.5).abs().max() < 0.15, "nothing that is held equal takes it away"
    filled = gains.differences(table.assign(psnr_foreground_db=np.nan), facts, "trained")
    assert set(filled["region"]) == {"whole image"}, "films that fill their image have no other inside"
