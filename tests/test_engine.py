"""What a run costs is said before it starts, an override finds what it leaves alone, and steps run on workers."""

import collections
import json
import os
import re
import shutil
import signal

import pandas as pd
import pytest
from test_steps import SMALL

from fairrecon_core.cohort.folder import write_cohort
from fairrecon_core.settings import load_settings
from fairrecon_core.steps import weights as weights_step
from fairrecon_core.steps.folder import Run, run_folder
from fairrecon_core.steps.pipeline import open_cohort, open_cohorts
from fairrecon_lab.engine import room
from fairrecon_lab.engine.graph import steps_of
from fairrecon_lab.simulate import SIMULATOR_VERSION, TASKS, simulate

TINY = SMALL | {"cohorts": ["brain"], "arms": ["unet"], "classical": ["degraded"], "mri_levels": [4, 8]}
TINY |= {"one_level_each": True, "tasks": ["tumour_grade"]}


def cohort_in(folder, n_patients=20):
    items = simulate("brain", n_patients, seed=3, size=32, n_slices=1)
    write_cohort(folder / "cohorts" / "brain", items, name="brain", seed=3, split=(0.6, 0.15, 0.25),
                 tasks=TASKS["brain"], extra={"simulator_version": SIMULATOR_VERSION})  # fmt: skip


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Where runs go; the tiny one has its cohort."""
    monkeypatch.setenv("FAIRRECON_RUNS", str(tmp_path))
    cohort_in(run_folder("smoke", TINY))
    return tmp_path


def tables_of(folder):
    return {path.name: pd.read_parquet(path) for path in sorted((folder / "tables").glob("*/*.parquet"))}


def test_steps_come_after_what_they_need_and_a_second_time_finds_all_done(runs, monkeypatch):
    every = open_cohorts(Run(run_folder("smoke", TINY), load_settings("smoke", **TINY)))
    steps = steps_of(every)
    names = [step.name for step in steps]
    assert len(set(names)) == len(names)
    for number, step in enumerate(steps):
        assert set(step.needs) <= set(names[:number]), step
    kinds = collections.Counter(step.kind for step in steps)
    assert kinds == {
        "reader": 2,
        "train": 2,
        "images": 4,
        "quality": 2,
        "read": len(every["brain"].arms_read()),
    }
    for step in steps:
        step.do(every)

    def again(*given, **options):
        raise AssertionError("made anew")

    for home, name in ((weights_step, "train_reconstructor"), (weights_step, "train_reader")):
        monkeypatch.setattr(home, name, again)
    fresh = open_cohorts(Run(run_folder("smoke", TINY), load_settings("smoke", **TINY)))
    monkeypatch.setattr(type(fresh["brain"].images), "_reconstructed", again)
    monkeypatch.setattr(type(fresh["brain"].readings), "_read", again)
    for step in steps_of(fresh):
        step.do(fresh)


def test_an_override_finds_weights_images_and_tables_that_it_leaves_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FAIRRECON_RUNS", str(tmp_path))
    base = tmp_path / "smoke"
    cohort_in(base)
    first = open_cohort(Run(base, load_settings("smoke", **TINY)), "brain")
    for step in steps_of({"brain": first}):
        step.do({"brain": first})
    trained = []
    learn = weights_step.train_reconstructor
    monkeypatch.setattr(weights_step, "train_reconstructor", lambda *g, **o: trained.append("unet") or learn(*g, **o))
    monkeypatch.setattr(weights_step, "train_reader", lambda *given, **options: trained.append("reader"))
    for override, expected in (({"n_boot": 1000}, []), ({"recipes": {"unet": {"epochs": 2}}}, ["unet", "unet"])):
        settings = load_settings("smoke", **TINY, **override)
        other = run_folder("smoke", override)
        cohort_in(other)
        assert other != base and other.parent == base.parent
        second = open_cohort(Run(other, settings), "brain")
        capsys.readouterr()
        for step in steps_of({"brain": second}):
            step.do({"brain": second})
        assert trained == expected, override
        assert "reconstructions/brain/reader-grade/0-0/weights.safetensors is that of smoke" in capsys.readouterr().out
        same = tables_of(base).keys() == tables_of(other).keys()
        assert same and all(not expected <= ["unet"] or table.equals(tables_of(other)[name])
                            for name, table in tables_of(base).items() if "unet" not in name)  # fmt: skip
        trained.clear()
    weights = "reconstructions/brain/unet/0-0/4/weights.safetensors"
    assert (run_folder("smoke", {"n_boot": 1000}) / weights).samefile(base / weights), "one file, two names"
    images = "reconstructions/brain/unet/0-0/4/test.npy"
    before = (base / images).read_bytes()
    assert (run_folder("smoke", override) / images).read_bytes() != before == (base / images).read_bytes()


def test_the_disk_is_looked_at_first_and_a_run_that_does_not_fit_is_refused(tmp_path, monkeypatch):
    settings = load_settings("tutorial", train=True)
    parts = room.gigabytes(settings)
    brain, chest, pixels = 500 * 2, 4000, 128**2
    assert parts["cohorts"] == pytest.approx((3 * brain + chest) * pixels / 1e9, rel=0.01)
    remembered = sum((1.4 * n + min(128, 0.1 * n)) * 3 for n in (brain, chest)) * pixels * 2 / 1e9
    assert parts["training images"] == pytest.approx(remembered, rel=0.01)
    images = 6 * (0.2 * (brain + chest) + 4 * 64)
    assert parts["reconstructions"] == pytest.approx(images * pixels * 2 / 1e9, rel=0.01)
    assert room.gigabytes(load_settings("tutorial", train=True, new_noise=True))["training images"] == 0
    streamed = room.gigabytes(load_settings("tutorial", train=True, keep_images=32))
    assert streamed["reconstructions"] == pytest.approx(6 * 2 * 3 * 32 * pixels * 2 / 1e9)
    assert streamed["rows of shards"] == streamed["tables"] == parts["tables"] and parts["rows of shards"] == 0
    assert room.room(settings, tmp_path).startswith(f"disk: about {sum(parts.values()):.1f} GB (cohorts 0.1, training")
    usage = type(shutil.disk_usage("/"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**10, 10**10, 10**8))
    with pytest.raises(ValueError, match=r"disk: about .* but 0.1 GB are free at .*: set FAIRRECON_RUNS to a larger"):
        room.room(settings, tmp_path)


def test_a_cohort_that_cannot_be_learned_from_is_refused_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "project_folder", lambda: tmp_path)
    cohort_in(tmp_path)
    given = {"cohort_folder": "cohorts", "cohorts": ["brain"], "image_size": 32}
    room.check(load_settings("smoke", **given))
    with pytest.raises(ValueError, match="cohort 'brain' has 32 px, not 64: set image_size: 32"):
        room.check(load_settings("smoke", **given | {"image_size": 64}))
    with pytest.raises(ValueError, match="no cohort has the task 'tumour_grad', did you mean 'tumour_grade'"):
        room.check(load_settings("smoke", **given, tasks=["tumour_grad"]))
    folder, items = tmp_path / "cohorts" / "brain", simulate("brain", 12, seed=3, size=32, n_slices=1)
    write_cohort(folder, items, name="brain", seed=3, split=(0.5, 0.0, 0.5), tasks=TASKS["brain"])
    with pytest.raises(ValueError, match="cohort 'brain' has no validation images for reconstruction"):
        room.check(load_settings("smoke", **given))


def test_two_workers_one_killed_give_the_tables_of_an_undisturbed_run(runs, tmp_path, monkeypatch):
    from fairrecon_lab.engine import cluster

    folder = run_folder("smoke", TINY)
    seconds, killed = {}, []
    made = cluster.client_of

    class Killing:
        """A client whose first worker is killed when the first steps are under way."""

        def __init__(self, where, logs):
            self.inner = made(where, logs)

        def __enter__(self):
            client = self.inner.__enter__()
            client.wait_for_workers(2)
            pid = next(iter(client.run(os.getpid).values()))
            killed.append(pid)
            submit, count = client.submit, []

            def submitted(*given, **options):
                count.append(1)
                if len(count) == 4:
                    os.kill(pid, signal.SIGKILL)
                return submit(*given, **options)

            client.submit = submitted
            return client

        def __exit__(self, *error):
            return self.inner.__exit__(*error)

    monkeypatch.setattr(cluster, "client_of", Killing)
    seconds = cluster.run_steps("smoke", TINY, "local:2")
    on_workers = tables_of(folder)
    assert killed and len(seconds) == len(steps_of(cluster.opened("smoke", json.dumps(TINY))))
    other = tmp_path / "alone"
    cohort_in(other)
    alone = open_cohort(Run(other, load_settings("smoke", **TINY)), "brain")
    for step in steps_of({"brain": alone}):
        step.do({"brain": alone})
    assert on_workers.keys() == tables_of(other).keys()
    for name, table in tables_of(other).items():
        pd.testing.assert_frame_equal(on_workers[name], table)
    assert not list(folder.rglob("*.part")) and not (folder / ".in-use.json").exists()


def test_another_place_is_refused(runs):
    from fairrecon_lab.engine.workers import client_of

    with (
        pytest.raises(ValueError, match="--on takes local:N, slurm, slurm:N or tcp://host:port, got 'moon'"),
        client_of("moon"),
    ):
        pass


def test_the_plan_is_arithmetic_with_measured_units(runs, monkeypatch):
    from fairrecon_lab.engine import plan

    units = {
        "train": {"unet": (0.5, 3)},
        "reader": {"a": (0.25, 2)},
        "images": {"degraded": 1.0, "unet": 2.0},
        "of every image": {"reading": 3.0, "LPIPS": 0.75, "other quality": 0.25},
    }
    monkeypatch.setattr(plan, "units_of", lambda settings, name, of: units)
    settings = load_settings("smoke", **TINY | {"brain_patients": 100, "level_subset": 5})
    table = plan.costs(settings)
    n_train, n_test, subset = 140, 40, 5
    train = 2 * 2 * n_train * 3 * 0.5  # a network a level, each image and its mirror image, three epochs
    images = (n_test + subset) * (1.0 + 2.0 + 2 * 4.0)
    assert table["hours"].sum() * 3600 == pytest.approx(train + n_train * 2 * 0.25 + images)
    steps = pd.DataFrame({"kind": ["train", "train", "reader", "images"], "hours": [3.0, 2.0, 2.0, 4.0]})
    assert [plan.wall_hours(steps, n) for n in (1, 2, 3)] == [11.0, 8.0, 7.0]
    assert [plan.wall_hours(steps, n, shards=True) for n in (1, 2, 4)] == [11.0, 6.0, 4.0]
    given = TINY | {"brain_patients": 100}
    assert room.hours(load_settings("smoke", **given), run_folder("smoke", given)) == ""
    text = plan.plan("smoke", given, 2)
    assert "hours of one worker" in text and "disk" in text
    said = room.hours(load_settings("smoke", **given), run_folder("smoke", given))
    assert re.fullmatch(r"time: about \d+\.\d hours of one worker from the start \(\d+ steps, measured on .+\)", said)
    other = load_settings("smoke", **given | {"n_boot": 7, "cohort_folder": "data"})
    assert room.hours(other, run_folder("smoke", given)) == "time: not measured; --plan does it first"


@pytest.mark.parametrize(("backbone", "held_out"), [("resnet18_half", True), ("efficientnet_lite0", False)])
def test_every_kind_of_reader_has_a_price_also_one_that_learns_no_network(runs, backbone, held_out):
    from fairrecon_lab.engine import plan

    if backbone == "efficientnet_lite0":
        pytest.importorskip("efficientnet_lite_pytorch")
    recipes = {"segmenter": {"held_out": held_out}}
    settings = load_settings("smoke", **TINY | {"backbone": backbone, "reader_epochs": 2, "recipes": recipes})
    ((name, of),) = room.counts(settings).items()
    assert of["masks"]
    units = plan.units_of(settings, name, of)
    learned = {"imagenet"} if backbone == "efficientnet_lite0" else {"task 0", "task 1"}
    assert set(plan._readers(settings, name, of)) == learned | {"segmenter"}
    assert set(units["reader"]) == (learned - {"imagenet"}) | {"segmenter"}, "a frozen network has nothing to train"
    assert units["reader"]["segmenter"][1] == 2 and units["of every image"]["reading"] > 0


def test_a_segmenter_that_learns_from_crops_is_timed_on_crops(runs, monkeypatch):
    from fairrecon_lab.engine import plan

    shapes = {}
    for crop in (0, 32):
        settings = load_settings("smoke", **TINY | {"augment": True, "recipes": {"segmenter": {"crop": crop}}})
        ((name, of),) = room.counts(settings).items()
        seen = []
        stepped = lambda reader, batch, device, seen=seen: seen.append((reader, batch))
        monkeypatch.setattr(plan, "_step", stepped)
        plan.units_of(settings, name, of)
        seen = [(getattr(network, "kind", ""), batch) for network, batch in seen]
        shapes[crop] = {
            tuple(x.shape[-2:]) for kind, batch in seen if kind == "segmenter" for x in (batch.images, batch.targets)
        }
        others = {tuple(batch.images.shape[-2:]) for kind, batch in seen if kind == "classifier"}
        assert others == {(of["size"], of["size"])}, "classifiers see whole images"
    assert shapes == {0: {(of["size"], of["size"])}, 32: {(32, 32)}}


def test_units_are_measured_for_every_kind_of_work(runs):
    from fairrecon_lab.engine import plan

    settings = load_settings("smoke", **TINY)
    ((name, of),) = room.counts(settings).items()
    units = plan.units_of(settings, name, of)
    assert set(units["train"]) == {"unet"} and set(units["images"]) == {"degraded", "unet"}
    assert (
        all(seconds > 0 for seconds, _ in [*units["train"].values(), *units["reader"].values()])
        and units["of every image"]["reading"] > 0
        and units["of every image"]["LPIPS"] > 0
    )
