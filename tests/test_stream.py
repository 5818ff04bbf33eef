"""A run that keeps no images but for pictures: its tables are those of a run that keeps them all, byte for byte."""

import numpy as np
import pandas as pd
import pytest
import torch
from test_steps import steps_in

from fairrecon_core.cohort.pixels import as_uint16
from fairrecon_core.reconstruct import Reconstructor, register
from fairrecon_core.steps import stream as stream_step
from fairrecon_core.steps import weights as weights_step
from fairrecon_lab.engine.graph import steps_of

GIVEN = {"mri_levels": [4, 8], "level_subset": 4, "inference_batch": 3, "n_folds": 3, "train_seeds": [0, 1],
         "samples": 2, "classical": ["degraded", "grainy_of_tests"], "arms": ["unet"], "tasks": ["tumour_grade"],
         "threshold_policy": "validation_per_arm"}  # fmt: skip
KEPT = 2


@register
class Grainy(Reconstructor):
    """An arm without weights that is another in every sample."""

    name, stochastic = "grainy_of_tests", True

    def restore(self, degraded, level, image_ids, seed, sample, measurement):
        return degraded * (0.9 - 0.1 * torch.tensor(sample)[:, None, None])


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A run that keeps its images, all done; while these tests run, trainings leave the first weights as they are."""

    def instead(network, *given, seed=0, **options):
        torch.manual_seed(seed)
        network.build()
        network.ready()
        return pd.DataFrame({"validation": [0.0]})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights_step, "train_reconstructor", instead)
        patch.setattr(weights_step, "train_reader", instead)
        patch.setattr(stream_step, "SHARD", 8)  # two chunks of three
        steps = steps_in(tmp_path_factory.mktemp("stored"), 24, **GIVEN)
        as_notebooks(steps)
        yield steps


@pytest.fixture
def streaming(stored, tmp_path):
    """The same run, nothing of it done, that keeps few images."""
    return steps_in(tmp_path, 24, **GIVEN, keep_images=KEPT)


def as_notebooks(steps):
    """What notebooks 04 to 08 ask of a cohort."""
    steps.weights.make_all("unet")
    steps.quality.measure("degraded", "unet")
    steps.quality.measure(*steps.setup.arms())
    steps.readings.weights.make_all()
    for arm in steps.arms_read():
        steps.readings.read(arm)


def tables_of(steps):
    """Every file of the tables, stamps too."""
    folder = steps.setup.run.folder
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted((folder / "tables").rglob("*.*"))}


def files_in(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_tables_stamps_and_kept_pixels_are_those_of_a_run_that_keeps_all(stored, streaming):
    assert len(streaming.stream.shards(4)) == 2 and len(streaming.stream.shards(8)) == 1
    as_notebooks(streaming)
    assert tables_of(stored) == tables_of(streaming) and len(tables_of(stored)) > 20
    folder = streaming.setup.run.folder
    assert not files_in(folder / "stream"), "tables hold the rows"
    assert not list(folder.glob("reconstructions/*/*/*/*/*.npy")), "nobody has asked for a picture"
    assert {"degraded", "unet", "grainy_of_tests", "clean", "placebo"} <= set(streaming.arms_read())
    for arm in streaming.arms_read():
        pixels, rows = streaming.images.get(arm, 4, fold=1)
        whole, every = stored.images.get(arm, 4, fold=1)
        assert len(rows) == KEPT and np.array_equal(pixels, whole[np.isin(every, rows)]), arm
        assert np.array_equal(streaming.images.get(arm, 8, fold=1)[1], rows), "the same images at every level"
    assert set(streaming.setup.shared_rows()) <= set(streaming.images.get("unet", 8)[1])
    parts, which = [], {"fold": 1, "train_seed": 1}
    for images, names, masks in streaming.images.batches("unet", 4, **which):
        assert len(images) == len(names) == len(masks) <= 3
        parts.append(as_uint16(images))
    assert np.array_equal(np.concatenate(parts), stored.images.get("unet", 4, **which)[0])


def test_steps_of_workers_give_the_same_and_a_killed_one_loses_one_shard(stored, streaming, monkeypatch):
    made_pass, done = stream_step.Stream._pass, []

    def dies_at_the_sixth(self, level, pieces):
        if len(done) == 5:
            done.append(None)
            raise KeyboardInterrupt
        made_pass(self, level, pieces)
        done.append((level, pieces[0].fold, pieces[0].split, pieces[0].shard))

    monkeypatch.setattr(stream_step.Stream, "_pass", dies_at_the_sixth)
    with pytest.raises(KeyboardInterrupt):
        for step in steps_of({"brain": streaming}):
            step.do({"brain": streaming})
    assert len(files_in(streaming.setup.run.folder / "stream")) > 5
    again = steps_in(streaming.setup.run.folder, 24, **GIVEN, keep_images=KEPT)
    for step in steps_of({"brain": again}):
        step.do({"brain": again})
    passes = [which for which in done if which]
    shards = {(level, fold, split, k) for level in (1, 4, 8) for fold in range(3) for split in ("test", "validation")
              for k in range(len(again.stream.shards(level, fold, split)))
              if (level, split) != (8, "validation")}  # fmt: skip
    assert len(passes) == len(set(passes)) and set(passes) == shards
    assert tables_of(stored) == tables_of(again)
    for step in steps_of({"brain": again}):
        step.do({"brain": again})
    assert len(done) == len(passes) + 1, "a second time finds all done"


def test_a_reader_that_changes_costs_the_readings_alone(streaming, monkeypatch):
    as_notebooks(streaming)
    other = steps_in(streaming.setup.run.folder, 24, **GIVEN | {"segmenter_width": 4}, keep_images=KEPT)
    tables = []
    made_pass = stream_step.Stream._pass
    monkeypatch.setattr(
        stream_step.Stream, "_pass", lambda *given: tables.extend(p.table for p in given[2]) or made_pass(*given)
    )
    as_notebooks(other)
    assert set(tables) == {"predictions", "overlap"}


def test_arms_that_filter_may_have_a_stated_subset_of_the_images(stored, tmp_path):
    few = steps_in(tmp_path, 24, **GIVEN, keep_images=KEPT, classical_subset=3)
    as_notebooks(few)
    whole = len(stored.setup.rows(4, 1))
    for arm, n in (("grainy_of_tests", 3), ("unet", whole), ("degraded", whole)):
        expected = stored.setup.run.read("predictions", arm=arm, level=4).query("fold == 1")
        table = few.setup.run.read("predictions", arm=arm, level=4).query("fold == 1")
        test = table[table["image_id"].isin(few.setup.names_of(few.setup.rows(4, 1)))]
        assert test["image_id"].nunique() == n and set(table.columns) == set(expected.columns)
        pd.testing.assert_frame_equal(
            table.reset_index(drop=True),
            expected[expected["image_id"].isin(table["image_id"])].reset_index(drop=True),
        )
        measured = few.setup.run.read("quality", arm=arm, level=4)
        measured = measured.query("fold == 1 and sample == 0 and train_seed == 0")
        assert len(measured) == n
    pictures = {arm: few.images.get(arm, 4, fold=1)[1].tolist() for arm in ("grainy_of_tests", "unet", "clean")}
    assert pictures["unet"] == pictures["clean"] == pictures["grainy_of_tests"]
    with pytest.raises(ValueError, match="no classical_subset then"):
        steps_in(stored.setup.run.folder, 24, **GIVEN, classical_subset=3)
