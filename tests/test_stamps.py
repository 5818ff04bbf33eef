"""What is stale and what is not: an edit of the code remakes exactly what depends on it, and one line says why."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fairrecon_core.reconstruct import Reconstructor
from fairrecon_core.steps import stamps
from fairrecon_core.steps.stamps import code_of, imports_in, module_code, parameters, parsed_text, stamp, why

STEPS = """
import sys
from pathlib import Path

from fairrecon_core.cohort.folder import write_cohort
from fairrecon_core.settings import load_settings
from fairrecon_core.steps.folder import Run
from fairrecon_core.steps.pipeline import open_cohorts
from fairrecon_lab.simulate import SIMULATOR_VERSION, TASKS, simulate
import own_arm

small = dict(image_size=32, mri_levels=[4], mri_audit_level=4, xray_levels=[10000], width=2, segmenter_width=2)
short = dict(epochs=1, reader_epochs=1, level_subset=4, train=True)
settings = load_settings("smoke", **small, **short, classical=["degraded"], arms=["unet", "unet_dc", "pix2pix", "mine"])
run = Run(Path(sys.argv[1]), settings)
for name, n in (("brain", 12), ("chest", 12)):
    folder = run.folder / "cohorts" / name
    if not folder.exists():
        write_cohort(folder, simulate(name, n, seed=3, size=32), name=name, seed=3, split=(0.5, 0.25, 0.25),
                     tasks=TASKS[name], extra={"simulator_version": SIMULATOR_VERSION})
for name, steps in open_cohorts(run).items():
    for arm in ("unet", "pix2pix"):
        steps.weights.make_all(arm)
    steps.readings.weights.make_all()
    for arm in ("degraded", "unet", "pix2pix", "mine", *(["unet_dc"] if name == "brain" else [])):
        steps.quality.measure(arm)
        steps.readings.read(arm)
"""
OWN_ARM = '''
import helper
from fairrecon_core.reconstruct import Reconstructor, register


@register
class Mine(Reconstructor):
    """Everywhere the same."""

    name, colour = "mine", "#123456"

    def restore(self, degraded, level, image_ids, seed, sample, measurement):
        # a grey image
        return degraded * 0 + helper.grey()
'''
HELPER = "VALUE = 0.0\n\n\ndef grey():\n    return VALUE\n"


@pytest.fixture(scope="module")
def clone(tmp_path_factory, root):
    """A copy of both packages with an arm of a reader's own, and a run whose steps have been done."""
    folder = tmp_path_factory.mktemp("clone")
    for package in stamps.PACKAGES:
        shutil.copytree(root / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(root / "notebooks" / "profiles", folder / "notebooks" / "profiles")
    (folder / "own_arm.py").write_text(OWN_ARM)
    (folder / "helper.py").write_text(HELPER)
    (folder / "steps.py").write_text(STEPS)
    do_steps(folder)
    return folder


def do_steps(folder):
    """Do all steps of the run, and return what was said."""
    environment = dict(os.environ, PYTHONPATH=str(folder), FAIRRECON_HOME=str(folder), OMP_NUM_THREADS="1")
    command = [sys.executable, "steps.py", str(folder / "run")]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def products(folder):
    """When each product was made: weights, images, cached training images, tables."""
    kept = (".npy", ".parquet", ".safetensors")
    files = (path for path in (folder / "run").rglob("*") if path.suffix in kept and "cohorts" not in path.parts)
    return {path.relative_to(folder / "run").as_posix(): path.stat().st_mtime_ns for path in files}


def remade(folder, edits):
    """Edit files of the clone and do the steps again: what was made anew, and what was said. The edits are undone."""
    before, originals = products(folder), {name: (folder / name).read_text() for name in edits}
    try:
        for name, (old, new) in edits.items():
            assert old in originals[name], f"{name} holds no {old!r}"
            (folder / name).write_text(originals[name].replace(old, new, 1))
        said = do_steps(folder)
        after = products(folder)
        return {name for name in after if after[name] != before.get(name)}, said
    finally:
        for name, text in originals.items():
            (folder / name).write_text(text)


def arms_in(names):
    """Cohort and arm, or reader, of products."""
    found = set()
    for name in names:
        parts = Path(name).stem.split("__") if name.startswith("tables") else name.split("/")[1:3]
        found.add((parts[0].split("-")[0], parts[1] if not name.startswith("cached") else "cached"))
    return found


@pytest.mark.series
def test_an_edited_loss_remakes_its_network_and_what_comes_of_it(clone):
    loss = ('yield "net", F.mse_loss(', 'yield "net", 1.5 * F.mse_loss(')
    names, said = remade(clone, {"fairrecon_core/reconstruct/unet.py": loss})
    assert arms_in(names) == {("brain", "unet"), ("brain", "unet_dc"), ("chest", "unet")}
    kinds = {name.split("/")[0] + Path(name).suffix for name in names}
    assert kinds == {"reconstructions.safetensors", "reconstructions.npy", "tables.parquet"}
    assert "made anew: weights of unet for brain: the code of reconstruct/unet.py changed" in said.splitlines()


@pytest.mark.series
def test_an_edited_mask_remakes_all_of_mri_and_nothing_of_x_ray(clone):
    do_steps(clone)
    mask = ("middle, offset = centre * size + centre", "middle, offset = 1 + centre * size + centre - 1 + 0 * size")
    names, said = remade(clone, {"fairrecon_core/degrade/mri.py": mask})
    changed = {"unet", "unet_dc", "pix2pix", "mine", "degraded", "cached"}
    assert arms_in(names) == {("brain", arm) for arm in changed}, "training and test images, weights, tables; no reader"
    assert "the code of degrade/mri.py changed" in said


@pytest.mark.series
def test_an_edited_arm_of_ones_own_remakes_its_images_and_tables(clone):
    do_steps(clone)
    own = {("brain", "mine"), ("chest", "mine")}
    names, said = remade(clone, {"own_arm.py": ("degraded * 0 + helper", "degraded * 0 + 1 - helper")})
    assert arms_in(names) == own
    assert "images of mine for brain at 4: the code of Mine.restore changed" in said
    image = np.load(clone / "run" / "reconstructions" / "brain" / "mine" / "0-0" / "4" / "test.npy")
    assert (image == 65535).all(), "the new arm's images, not those of the old one"
    do_steps(clone)
    assert arms_in(remade(clone, {"helper.py": ("VALUE = 0.0", "VALUE = 0.5")})[0]) == own, "what it calls counts"


@pytest.mark.series
def test_words_and_colours_remake_nothing(clone):
    do_steps(clone)
    unet = ("U-Net with mean squared error and Adam", "A U-Net with squared error and Adam")
    plots = (
        "fairrecon_lab/plots.py" if (clone / "fairrecon_lab/plots.py").exists() else "fairrecon_lab/plots/__init__.py"
    )
    edits = {
        "fairrecon_core/reconstruct/unet.py": unet,
        "fairrecon_core/reconstruct/pix2pix.py": ("#E69F00", "#E69F01"),
        "fairrecon_core/degrade/mri.py": ("import math\n", "import math  # of angles\n"),
        "own_arm.py": ("# a grey image", "# black or white"),
        plots: ("import", "COLOUR_OF_THE_DAY = 1\nimport"),
    }
    edits["own_arm.py"] = ("#123456", "#654321")
    assert remade(clone, edits)[0] == set()


# ---------------------------------------------------------------------- the parts
def test_comments_docstrings_and_looks_are_no_code():
    text = 'class A:\n    """One."""\n    name, colour = "a", "red"\n    def f(self):\n        return 1\n'
    other = '# new\nclass A:\n    """Two."""\n    name, colour = "a", "blue"\n\n    def f(self):\n'
    other += '        """One."""\n        return 1\n'
    assert parsed_text(text) == parsed_text(other)
    assert parsed_text(text) != parsed_text(text.replace("return 1", "return 2"))
    assert parsed_text('x = 1\ny = "text"\n') != parsed_text('x = 1\ny = "other"\n')


def test_code_is_followed_through_imports_but_not_into_what_enters_by_value():
    of_unet = set(module_code("fairrecon_core.reconstruct.unet"))
    assert "the code of learn/loop.py" in of_unet and "the code of cohort/pixels.py" in of_unet
    assert not {"the code of settings.py", "the code of cohort/folder.py", "the code of reconstruct/sde.py"} & of_unet
    assert "the code of degrade/mri.py" not in of_unet, "an X-ray network does not depend on it"
    assert not any("plots" in name for name in module_code("fairrecon_lab.simulate"))
    assert imports_in("from . import b\nfrom .c import d", "fairrecon_core.audit.x") <= {
        f"fairrecon_core.audit{end}" for end in ("", ".b", ".c", ".d")
    }


def scale():
    return 2.0


FACTOR = 3.0


class Base(Reconstructor):
    name = "base"

    def restore(self, degraded, level, image_ids, seed, sample, measurement):
        return degraded * FACTOR * scale()


class Child(Base):
    strength = 0.5


def test_a_class_counts_with_its_bases_its_constants_and_what_it_calls(monkeypatch):
    first = code_of(Child)
    assert {"the code of Base.restore", "the code of scale", "the code of Child", "the code of Base"} <= set(first)
    assert "the code of reconstruct/__init__.py" in first, "the base class that is ours"
    assert code_of(Child) == first == code_of(Child())
    monkeypatch.setattr(Child, "strength", 0.6)
    assert why(first, code_of(Child)) == "the code of Child changed"
    monkeypatch.undo()
    monkeypatch.setitem(globals(), "FACTOR", 4.0)
    assert why(first, code_of(Child)) == "the code of Base.restore changed"
    monkeypatch.undo()
    monkeypatch.setitem(globals(), "scale", lambda: 3.0)
    assert why(first, code_of(Child))
    monkeypatch.undo()
    monkeypatch.setattr(Child, "colour", "#ffffff", raising=False)
    assert code_of(Child) == first, "how an arm is shown does not count"


def test_a_stamp_does_not_depend_on_the_process():
    code = "from tests.test_stamps import Child\nfrom fairrecon_core.steps.stamps import code_of, digest\n"
    command, root = [sys.executable, "-c", code + "print(digest(code_of(Child)))"], Path(__file__).resolve().parents[1]

    def in_a_process(seed):
        environment = dict(os.environ, PYTHONHASHSEED=seed, PYTHONPATH=str(root))
        return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True).stdout

    runs = [in_a_process(seed) for seed in ("1", "2")]
    assert runs[0] == runs[1]


def test_why_names_what_changed():
    old = stamp(settings={"epochs": 8}, level=4.0, rows=list(range(50)))
    assert why(None, old) == "not made yet" and why(old, old) == ""
    assert why(old, stamp(settings={"epochs": 9}, level=4.0, rows=list(range(50)))) == "setting epochs is 9, it was 8"
    assert why(old, stamp(settings={"epochs": 8}, level=4.0, rows=list(range(51)))) == "rows changed"
    assert why(old, stamp(settings={"epochs": 8}, level=4.0)) == "rows no longer counts"
    assert why(stamp(a=1, b=1, c=1, d=1), stamp(a=2, b=2, c=2, d=2)).endswith("c is 2, it was 1; and 1 more")


def test_where_it_computes_does_not_count():
    class Thing:
        def __init__(self, device, width):
            self.device, self.width = device, width

    assert parameters(Thing("cpu", 2)) == parameters(Thing("cuda", 2)) != parameters(Thing("cpu", 3))


def test_code_that_was_edited_after_it_was_loaded_is_refused(tmp_path, monkeypatch):
    package = tmp_path / "fairrecon_core"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "edited.py").write_text("x = 1\n")
    monkeypatch.setattr(stamps, "ROOT", tmp_path)
    monkeypatch.setitem(sys.modules, "fairrecon_core.edited", object())
    first = stamps.parsed_digest("fairrecon_core.edited")
    (package / "edited.py").write_text("x = 1  # the same\n")
    assert stamps.parsed_digest("fairrecon_core.edited") == first
    (package / "edited.py").write_text("x = 2\n")
    with pytest.raises(RuntimeError, match=r"edited\.py was edited after it was loaded here: restart the kernel"):
        stamps.parsed_digest("fairrecon_core.edited")
