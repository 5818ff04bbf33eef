"""The steps of a cohort: what is computed once, what is computed again, and what is refused."""

import dataclasses
import json
import pathlib

import numpy as np
import pandas as pd
import pytest
import torch

from fairrecon_core.cohort.folder import amend_info, write_cohort
from fairrecon_core.cohort.pixels import as_float
from fairrecon_core.degrade import degradation
from fairrecon_core.degrade.cached import CachedDegradation
from fairrecon_core.learn.rows import learning_rows
from fairrecon_core.learn.weights import read_safetensors
from fairrecon_core.predict.classifier import Classifier
from fairrecon_core.predict.segmenter import Segmenter
from fairrecon_core.predict.training import train_reader
from fairrecon_core.reconstruct import Reconstructor, controls, register
from fairrecon_core.reconstruct.controls import CONTROLS
from fairrecon_core.settings import load_settings
from fairrecon_core.steps import weight_files as weights_step
from fairrecon_core.steps.folder import Run
from fairrecon_core.steps.pipeline import open_cohort, open_cohorts
from fairrecon_core.steps.setup import Setup, product_folder
from fairrecon_lab.analysis.short_forms import card_facts, card_figures, compared
from fairrecon_lab.analysis.thresholds import chosen_thresholds
from fairrecon_lab.simulate import SIMULATOR_VERSION, TASKS, simulate

SMALL = {"image_size": 32, "mri_levels": [4], "mri_audit_level": 4, "width": 2, "epochs": 1, "reader_epochs": 1,
         "segmenter_width": 2, "level_subset": 4, "train": True}  # fmt: skip


def steps_in(folder, n_patients=20, **overrides):
    """The steps of a tiny brain cohort in `folder`."""
    settings = load_settings("smoke", **(SMALL | overrides))
    if not (folder / "cohorts" / "brain" / "cohort.json").exists():
        items = simulate("brain", n_patients, seed=3, size=32, n_slices=1)
        split = (0.6, 0.15, 0.25)
        write_cohort(folder / "cohorts" / "brain", items, name="brain", seed=3, split=split, tasks=TASKS["brain"],
                     extra={"simulator_version": SIMULATOR_VERSION}, n_folds=overrides.get("n_folds", 1))  # fmt: skip
    return open_cohort(Run(folder, settings), "brain")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Steps whose networks have been trained in place."""
    made = steps_in(tmp_path_factory.mktemp("steps"))
    made.weights.make_all("unet")
    made.readings.weights.make_all()
    made.images.get("unet", 4)
    return made


def test_images_of_an_arm_are_what_its_reconstructor_gives(trained):
    images, rows = trained.images.get("unet", 4)
    clean, ids = trained.cohort.images_at(rows), trained.setup.names_of(rows)
    degraded = as_float(trained.images.get("degraded", 4)[0])
    expected = trained.weights.load("unet")(degraded, 4, image_ids=ids, seed=trained.setup.run.settings.seed)
    assert np.abs(as_float(images) - expected.numpy()).max() < 1e-5
    direct = trained.setup.degradation(clean, 4, ids, seed=trained.setup.run.settings.seed)
    assert np.abs(degraded - direct.numpy()).max() <= 0.5 / 65535 + 1e-6


def test_what_is_there_is_kept_and_what_it_was_made_from_decides(trained, tmp_path):
    path = product_folder(trained.setup, "unet") / "4" / "test.npy"
    before = path.stat().st_mtime_ns
    trained.images.get("unet", 4)
    assert path.stat().st_mtime_ns == before
    other = steps_in(trained.setup.run.folder, seed=9)  # another seed of the noise
    other.images.get("degraded", 4)
    assert (product_folder(trained.setup, "degraded") / "4" / "test.npy").stat().st_mtime_ns > before
    trained.images.get("degraded", 4)


def test_training_in_place_is_recorded_and_not_repeated(trained):
    card = trained.weights.card("unet")
    assert card["epochs"] == 1 and card["seed"] == 0 and len(card["losses"]["validation"]) == 1
    assert not list(product_folder(trained.setup, "unet").glob("training-*/state.safetensors")), (
        "the state goes when training is done"
    )
    path = trained.weights.make("unet")
    before = path.stat().st_mtime_ns
    assert trained.weights.make("unet") == path == trained.weights.path("unet") and path.stat().st_mtime_ns == before


def test_asking_for_images_never_starts_a_training(tmp_path):
    untrained = steps_in(tmp_path)
    for ask in (lambda: untrained.images.get("pix2pix", 4), lambda: untrained.quality.measure("pix2pix")):
        with pytest.raises(FileNotFoundError, match=r"weights of pix2pix for brain are not current \(not made yet\)"):
            ask()
    with pytest.raises(FileNotFoundError, match=r"reader grade for brain .*readings.weights.make_all"):
        untrained.readings.read("clean")
    assert not list(tmp_path.rglob("*.safetensors"))


def test_quality_has_one_row_per_image_and_agrees_with_the_images(trained):
    table = trained.quality.measure("degraded")
    assert len(table) == len(trained.setup.rows(4)) and (table["arm"] == "degraded").all()
    images, rows = trained.images.get("degraded", 4)
    error = ((as_float(images) - trained.cohort.images_at(rows)) ** 2).mean(axis=(1, 2))
    order = table.set_index("image_id").loc[trained.setup.names_of(rows), "psnr_db"]
    assert np.allclose(order, -10 * np.log10(error), atol=1e-3)


def test_arms_are_compared_image_by_image(trained):
    table = compared(trained, ["degraded", "unet"], "ssim")
    assert list(table.columns) == ["level", "image_id", "degraded", "unet", "patient_id"]
    one = table.iloc[1]
    rows = trained.quality.measure("unet").set_index("image_id")
    assert one["unet"] == rows.loc[one["image_id"], "ssim"]
    people = trained.cohort.table.set_index("image_id")["patient_id"]
    assert (table["patient_id"] == people[table["image_id"]].to_numpy()).all()
    assert set(table["image_id"]) == set(trained.setup.names_of(trained.setup.shared_rows()))


def test_model_cards_stand_side_by_side(trained):
    facts = card_facts({"brain": trained}, "unet")
    assert facts.loc["epochs", "brain"] == "1" and "losses" not in facts.index
    assert card_figures({"brain": trained}, "unet").empty, "trained in this run: nothing was measured"
    tutorial = open_cohort(Run(trained.setup.run.folder, load_settings("tutorial")), "brain")
    tutorial.weights.card = lambda arm: {"arm": arm, "test": {"unet, 8": {"psnr_db": 29.5}}}
    assert card_figures({"brain": tutorial}, "unet").loc[("brain", "unet, 8"), "psnr_db"] == 29.5


def test_the_published_sampler_takes_all_steps_whatever_the_others_take(tmp_path):
    few = {"sde_steps": 8}
    assert steps_in(tmp_path, **few).weights.network("sde").n_steps == 8
    assert steps_in(tmp_path, sampler="euler", **few).weights.network("sde").n_steps is None


def test_clean_scores_do_not_depend_on_the_arms_beside_them(trained, tmp_path):
    alone = trained.readings.read("clean")["predictions"]
    for arm in ("degraded", "placebo"):
        trained.readings.read(arm)
    (trained.setup.run.folder / "tables" / "predictions").rename(tmp_path / "aside")
    again = trained.readings.read("clean")["predictions"]
    pd.testing.assert_frame_equal(alone, again)
    assert set(trained.setup.names_of(trained.setup.rows(1, 0, "validation"))) < set(alone["image_id"]), (
        "thresholds need them"
    )


def test_thresholds_come_from_clean_validation_images(trained):
    predictions = pd.concat([trained.readings.read(arm)["predictions"] for arm in ("clean", "degraded")])
    table = chosen_thresholds(trained.cohort, predictions)
    assert set(table["arm"]) == {"clean"} and (table["chosen_on"] == "validation, clean").all()
    assert (table["n"] == len(trained.setup.rows(1, 0, "validation"))).all()
    per_arm = chosen_thresholds(trained.cohort, predictions, "test_per_arm")
    assert set(per_arm["arm"]) == {"clean", "degraded"} and (per_arm["chosen_on"] == "test, own arm").all()


def test_no_shipped_weights_is_said_with_the_way_out(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"brain-unet.*32 px.*set train: true"):
        steps_in(tmp_path, train=False).weights.load("unet")


def test_training_can_start_from_the_shipped_weights(tmp_path, trained):
    started = steps_in(tmp_path, start_from="shipped", arms=["unet"], width=16)
    shipped = weights_step.SHIPPED / "brain-unet.safetensors"
    before, after = read_safetensors(shipped)[0], read_safetensors(started.weights.make("unet"))[0]
    moved = [float((after[key] - before[key]).float().abs().max()) for key in before]
    assert 0 < max(moved) < 0.2  # an epoch of a few batches does not go far from where it began
    assert (
        started.weights.card("unet")["start_from"] == "shipped"
        and trained.weights.card("unet")["start_from"] == "random"
    )
    other = steps_in(tmp_path / "b", width=16)
    other.weights.make("unet")
    assert started.weights.card("unet")["stamp"] != other.weights.card("unet")["stamp"]


def test_generative_networks_may_have_epochs_of_their_own(tmp_path):
    made = steps_in(tmp_path, generative_epochs=2)
    for arm in ("unet", "pix2pix", "sde"):
        made.weights.make(arm)
    assert [made.weights.card(arm)["epochs"] for arm in ("unet", "pix2pix", "sde")] == [1, 2, 2]


def test_a_start_that_does_not_fit_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(ValueError, match="brain-unet.safetensors has width 16, this run needs 2"):
        steps_in(tmp_path, start_from="shipped").weights.make("unet")
    with pytest.raises(ValueError, match="start_from is 'random', 'shipped' or 'imagenet', got 'scratch'"):
        steps_in(tmp_path, start_from="scratch").weights.make("unet")


def test_shipped_weights_of_another_simulator_are_refused_by_name(tmp_path, trained, monkeypatch):
    monkeypatch.setattr(weights_step, "SHIPPED", tmp_path)
    network = trained.weights.network("unet")
    network.load(trained.weights.path("unet"))
    network.save(tmp_path / "brain-unet.safetensors", simulator_version="0")
    other = steps_in(trained.setup.run.folder, train=False)
    facts = {"images": np.zeros((1, 128, 128)), "info": trained.cohort.info, "name": "brain", "modality": "mri"}
    other.setup.cohort = type("Cohort128", (), facts)()
    with pytest.raises(ValueError, match=r"brain-unet\.safetensors was trained on simulator version '0'"):
        other.weights.path("unet")


def test_truncated_weights_are_refused_by_name(trained, tmp_path):
    path = tmp_path / "brain-unet.safetensors"
    path.write_bytes(trained.weights.path("unet").read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"brain-unet\.safetensors is corrupt or truncated"):
        trained.weights.network("unet").load(path)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("ask", ["path", "card", "losses"])
def test_an_arm_without_weights_says_so(trained, ask, train):
    steps = steps_in(trained.setup.run.folder, train=train)
    assert steps.weights.make("tv") is None
    with pytest.raises(ValueError, match="tv has no weights: it is tuned when it is loaded"):
        getattr(steps.weights, ask)("tv")
    with pytest.raises(ValueError, match="tv has no weights"):
        steps.weights.made_from("tv")


def test_a_reader_with_nothing_to_learn_from_names_what_is_missing(trained, tmp_path):
    class Blind(Segmenter):
        def training_targets(self, cohort, rows):
            return rows[:0], cohort.masks_at(rows[:0])

    with pytest.raises(ValueError, match="no train image with a mask: a segmenter cannot learn"):
        train_reader(Blind(width=2), trained.cohort, folder=tmp_path)
    nobody = Classifier(["grade"], "resnet18_half")
    cohort = dataclasses.replace(trained.cohort, table=trained.cohort.table.assign(y_grade=np.nan))
    with pytest.raises(ValueError, match=r"no train image with a label of \['grade'\]: a classifier cannot learn"):
        train_reader(nobody, cohort, folder=tmp_path)


def test_a_segmenter_with_nobody_held_out_learns_from_all_and_keeps_the_last_weights(trained, tmp_path, monkeypatch):
    seen, cohort = [], trained.cohort

    class Watched(Segmenter):
        def _loss(self, batch):
            seen.append(set(batch.names))
            return super()._loss(batch)

    names = cohort.table["image_id"].to_numpy()
    learn, choose = (set(names[learning_rows(cohort, split, "prediction")]) for split in ("train", "validation"))
    options = {"epochs": 2, "progress": False, "accelerator": "cpu", "precision": "32-true"}
    train_reader(Watched(width=2), cohort, folder=tmp_path / "held", **options)
    assert choose <= set().union(*seen), "to choose the best epoch"
    seen.clear()
    reader = Watched(width=2, held_out=False)
    losses = train_reader(reader, cohort, folder=tmp_path / "all", **options)
    assert set().union(*seen) == learn | choose and losses["validation"].tolist() == [2.0, 1.0]
    state, _ = read_safetensors(tmp_path / "all" / "state.safetensors")
    name, value = next(iter(reader.net.state_dict().items()))
    assert torch.equal(state[f"last.net.{name}"], value) and torch.equal(state[f"best.net.{name}"], value)


def test_a_segmenter_learns_from_crops_and_is_chosen_on_whole_images(trained, tmp_path):
    seen, cohort = [], trained.cohort
    side = cohort.images.shape[-1]

    class Watched(Segmenter):
        def losses(self, batch):
            seen.append(batch.images.shape[-2:])
            return super().losses(batch)

        def validation_loss(self, batch):
            assert batch.images.shape[-1] == side
            return super().validation_loss(batch)

    options = {"epochs": 1, "progress": False, "accelerator": "cpu", "precision": "32-true"}
    train_reader(Watched(width=2, crop=16), cohort, folder=tmp_path, augment=True, **options)
    assert side > 16 and set(seen) == {(16, 16)}


def test_an_unknown_arm_lists_the_known_ones(trained):
    with pytest.raises(ValueError, match=r"unknown arm 'unett', did you mean 'unet'.*known arms: degraded, tv"):
        trained.images.get("unett", 4)


def test_an_unknown_arm_is_refused_before_any_work(tmp_path):
    with pytest.raises(ValueError, match="unknown arm 'unett', did you mean 'unet'"):
        open_cohorts(Run(tmp_path, load_settings("tutorial", arms=["unet_dc", "unett"])))
    assert list(open_cohorts(Run(tmp_path, load_settings("tutorial", arms=["unet_dc"])))) == ["brain", "chest"]


def test_a_converted_cohort_of_another_size_is_refused_before_any_work(trained, tmp_path):
    run = Run(tmp_path, dataclasses.replace(trained.setup.run.settings, cohort_folder="data", image_size=64))
    (tmp_path / "cohorts").mkdir()
    (tmp_path / "cohorts" / trained.name).symlink_to(trained.cohort.folder)
    side = trained.cohort.images.shape[-1]
    with pytest.raises(
        ValueError, match=rf"images of {side} px, image_size is 64: .*--size 64, or .*image_size={side}"
    ):
        open_cohorts(run)
    Setup(Run(tmp_path, dataclasses.replace(run.settings, image_size=side)), trained.name)


def test_a_network_of_one_level_is_found_by_a_whole_number_too(tmp_path):
    weights = steps_in(tmp_path, one_level_each=True).weights
    assert json.dumps(weights.made_from("unet", level=4)) == json.dumps(weights.made_from("unet", level=4.0))
    assert weights.made_from("unet", level=8) != weights.made_from("unet", level=4.0)


def test_nothing_learns_from_the_shipped_example_and_the_way_out_is_said(tmp_path):
    example = open_cohort(Run(tmp_path, load_settings("smoke")), "brain")
    for learn in (lambda: example.weights.make("unet"), example.readings.weights.make_all):
        with pytest.raises(ValueError, match="no train images .* run notebook 01 first"):
            learn()


def test_a_learners_reconstructor_of_a_few_lines_goes_through(trained):
    @register
    class Halfway(Reconstructor):
        name = "halfway_to_its_mean"

        def restore(self, degraded, level, image_ids, seed, sample, measurement):
            return (degraded + degraded.mean(dim=(1, 2), keepdim=True)) / 2

    table = trained.quality.measure("halfway_to_its_mean")
    assert len(table) == len(trained.setup.rows(4)) and table["psnr_db"].between(3, 60).all()
    assert "halfway_to_its_mean" in set(trained.setup.run.read("quality", cohort="brain")["arm"])


def test_data_consistency_is_an_arm_by_its_name(trained):
    assert trained.weights.load("unet_dc").name == "unet_dc"
    plain, consistent = (trained.quality.measure(arm)["psnr_db"].mean() for arm in ("unet", "unet_dc"))
    assert consistent > plain - 0.05, "what was measured cannot make a smooth error much worse"


def test_folds_are_read_out_of_fold(tmp_path):
    folded = steps_in(tmp_path, n_folds=3, reader_epochs=1)
    table = folded.quality.measure("degraded")
    assert sorted(table["image_id"]) == sorted(folded.cohort.table["image_id"]), "each image once, as its own test fold"
    fold_of = folded.cohort.table.set_index("image_id")["fold"]
    assert (table.set_index("image_id")["fold"] == fold_of.loc[table["image_id"]].to_numpy()).all()


def test_every_arm_that_is_read_is_known(trained):
    left_out = trained.images.controls_left_out
    controls_read = [arm for arm in CONTROLS if arm not in left_out]
    assert trained.arms_read() == ["clean", "degraded", "tv", "nlm", "unet", "pix2pix", "sde", *controls_read]


def test_a_control_that_a_cohort_cannot_fill_is_left_out_with_its_reason(tmp_path):
    def steps_of_people(folder, sexes, grades):
        rows = [{"image_id": f"i{k}", "patient_id": f"p{k}", "modality": "mri", "sex": sex, "age_years": 50.0,
                 "race": "white", "y_tumour_grade": grade, "split": "test"}
                for k, (sex, grade) in enumerate(zip(sexes, grades))]  # fmt: skip
        items = [(np.full((32, 32), 0.5, np.float32), row) for row in rows]
        write_cohort(folder / "cohorts" / "brain", items, name="brain", seed=1, tasks=["tumour_grade"])
        return steps_in(folder)

    n = 60
    whole = steps_of_people(tmp_path / "a", ["female", "male"] * n, [1, 1, 0, 0] * (n // 2))
    assert whole.images.controls_left_out == {} and whole.arms_read()[-2:] == list(CONTROLS)
    men = steps_of_people(tmp_path / "b", ["male"] * n, [1, 0] * (n // 2))
    assert men.images.controls_left_out == {
        "planted": "cannot plant: 0 images of 'female', 0 of them without tumour_grade"
    }
    ill = steps_of_people(tmp_path / "c", ["female"] * n, [1] * n)
    assert "no task with positive and negative labels" in ill.images.controls_left_out["planted"]
    alone = steps_of_people(tmp_path / "d", ["female", "male"], [1, 0])
    assert set(alone.images.controls_left_out) == set(CONTROLS)
    assert "nobody among 2 images to exchange with" in alone.images.controls_left_out["placebo"]
    assert alone.arms_read()[-1] == "sde"


def test_a_slice_of_one_grey_value_is_not_chosen_to_be_shown(tmp_path):
    steps = steps_in(tmp_path)
    shown = steps.setup.shared_rows()
    flat = steps.setup.names_of(shown[:1])
    amend_info(steps.cohort, one_grey_value=flat)
    again = steps_in(tmp_path)
    assert again.setup.shared_rows().tolist() == shown[1:].tolist()
    assert again.setup.rows(4).tolist() == steps.setup.rows(4).tolist(), "it is read and measured like the others"


# ---------------------------------------------------------------------- controls
def people(n=4000, seed=0):
    """A table with two tasks and two attributes."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {"image_id": [f"i{k}" for k in range(n)], "sex": rng.choice(["female", "male"], n), "age_group": "old",
         "race": rng.choice(["white", "black"], n, p=[0.8, 0.2]), "y_a": rng.integers(0, 2, n).astype(float),
         "y_b": np.where(rng.random(n) < 0.1, np.nan, rng.integers(0, 2, n))}
    )  # fmt: skip


def test_placebo_shows_somebody_of_the_same_groups_and_labels():
    table = people()
    donors = controls.placebo_donors(table, share=0.5, seed=1)
    alike = ["sex", "age_group", "race", "y_a", "y_b"]
    pd.testing.assert_frame_equal(table[alike], table.iloc[donors][alike].reset_index(drop=True))
    assert 0.4 < (donors != np.arange(len(table))).mean() < 0.52
    shuffled = table.sample(frac=1, random_state=0)
    again = controls.placebo_donors(shuffled.reset_index(drop=True), share=0.5, seed=1)
    names = lambda t, d: dict(zip(t["image_id"], t["image_id"].to_numpy()[d]))
    assert names(table, donors) == names(shuffled.reset_index(drop=True), again), "order of rows plays no part"


def test_planted_takes_hits_from_one_subgroup_at_the_declared_rate():
    table, share = people(20_000), 0.3
    donors = controls.planted_donors(table, "a", share=share, seed=1)
    moved = donors != np.arange(len(table))
    assert set(table["sex"][moved]) == {"female"} and (table["y_a"][moved] == 1).all()
    assert (table["y_a"].to_numpy()[donors[moved]] == 0).all() and (
        table["sex"].to_numpy()[donors] == table["sex"]
    ).all()
    rng = np.random.default_rng(0)
    called = rng.random(len(table)) < np.where(table["y_a"] == 1, 0.8, 0.1)  # a reader with TPR .8 and FPR .1
    women = (table["sex"] == "female") & (table["y_a"] == 1)
    change = called[donors][women].mean() - called[women].mean()
    assert abs(change - controls.planted_change(0.8, 0.1, share)) < 0.02
    men = ~(table["sex"] == "female")
    assert (called[donors][men] == called[men]).all()


@pytest.mark.parametrize("share", [-0.1, 1.2])
def test_a_share_is_a_share(share):
    with pytest.raises(ValueError, match=r"share is in \[0, 1\]"):
        controls.placebo_donors(people(10), share=share)


def test_planting_needs_a_task_and_somebody_without_it():
    table = people(50).assign(y_a=1.0)
    with pytest.raises(ValueError, match="no task 'c'; there are"):
        controls.planted_donors(table, "c")
    with pytest.raises(ValueError, match="0 of them without a"):
        controls.planted_donors(table, "a", share=1.0)


# ---------------------------------------------------------------------- remembering
def test_two_trainings_that_begin_at_once_share_what_is_remembered(tmp_path, monkeypatch):
    image, names = np.random.default_rng(0).random((2, 32, 32), dtype=np.float32), ["a", "b"]
    one, two = (CachedDegradation(degradation("xray"), names, 32, tmp_path, seed=5) for _ in range(2))
    found, exists = [], pathlib.Path.exists

    def late(path):  # while `one` looks whether the file is there, `two` makes it, looks at an image, and is done
        there = exists(path)
        if not found and not there:
            found.append(0)
            found[0] = two(image[:1], 3000, ["a"])
        return there

    monkeypatch.setattr(pathlib.Path, "exists", late)
    assert torch.equal(one(image, 3000, names)[0], found[0][0])
    assert bool(two.levels[3000][1][1]), "what one has degraded, the other finds"
    assert not list(tmp_path.rglob("*.part"))


def test_a_remembered_degradation_is_the_first_one_ever_after(tmp_path):
    images, names = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0)), ["a", "b", "c"]
    direct = degradation("xray")
    remembered = CachedDegradation(direct, names, 32, tmp_path, seed=5)
    first = remembered(images[1:], 3000, names[1:], seed=7)
    assert (first - direct(images[1:], 3000, names[1:], seed=5)).abs().max() < 1e-5
    other = CachedDegradation(direct, names, 32, tmp_path, seed=5)  # another process
    assert torch.equal(other(torch.zeros(2, 32, 32), 3000, ["c", "b"], seed=8), first.flip(0))
    with pytest.raises(KeyError, match="d"):
        remembered(images[:1], 3000, ["d"])


def test_another_degradation_does_not_read_the_same_memory(tmp_path):
    image = torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(0))
    a = CachedDegradation(degradation("xray"), ["a"], 32, tmp_path)(image, 3000, ["a"])
    b = CachedDegradation(degradation("xray", mode="published"), ["a"], 32, tmp_path)(image, 3000, ["a"])
    assert not torch.equal(a, b)


def test_marks_are_plain_json(trained):
    mark = json.loads((product_folder(trained.setup, "unet") / "4" / "test.json").read_text())
    assert mark["rows"] == trained.setup.rows(4).tolist()
    assert mark["stamp"]["level"] == "4.0" and "the code of reconstruct/unet.py" in mark["stamp"]
