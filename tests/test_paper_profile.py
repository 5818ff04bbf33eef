"""The profile `paper` says what the paper's settings are: here each value is followed to the thing that it names."""

import sys
import types

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from fairrecon_core.cohort.folder import write_cohort
from fairrecon_core.learn.recipes import OF_TRAINING
from fairrecon_core.reconstruct import sde
from fairrecon_core.settings import load_settings, project_folder
from fairrecon_core.steps import weights as weights_step
from fairrecon_core.steps.folder import Run
from fairrecon_core.steps.pipeline import open_cohort, open_cohorts

PAPER = yaml.safe_load((project_folder() / "notebooks" / "profiles" / "paper.yml").read_text(encoding="utf-8"))
TASKS = {
    "ucsf_pdgm": ["tumour_grade", "tumour_type"],
    "chexpert": [*(task for task in PAPER["tasks"] if not task.startswith("tumour")), "support_devices"],
}
MODALITY = {"ucsf_pdgm": "mri", "chexpert": "xray"}
NARROW = {"width": 2, "segmenter_width": 2, "image_size": 32}  # what is not the paper's here


def cohort_in(folder, name, n=40, size=32):
    """A cohort with the columns of a real one and noise in place of images."""
    generator, mri = np.random.default_rng(1), MODALITY[name] == "mri"
    people = {"sex": ("female", "male"), "race": ("white", "black")}

    def items():
        for k in range(n):
            row = {"image_id": f"{name}-{k}", "patient_id": f"p{k}", "modality": MODALITY[name], "age_years": 40.0 + k}
            row |= {trait: values[k % 2] for trait, values in people.items()}
            row |= {f"y_{task}": float((k // 2 + j) % 2) for j, task in enumerate(TASKS[name])}
            image = generator.random((size, size)).astype(np.float32)
            yield (image, row, image > 0.5) if mri else (image, row)

    write_cohort(folder, items(), name=name, seed=1, tasks=TASKS[name], split=(0.5, 0.25, 0.25))


class FakeDenseNet(nn.Module):
    """What torchxrayvision's DenseNet looks like from outside."""

    def __init__(self, num_classes, in_channels, weights):
        super().__init__()
        self.features = nn.Sequential()
        self.features.add_module("conv0", nn.Conv2d(in_channels, 4, 3, bias=False))
        self.classifier = nn.Linear(4, num_classes)


class WithImageNet(nn.Module):
    """What torchvision's DenseNet-121 looks like from outside."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential()
        self.features.add_module("conv0", nn.Conv2d(3, 4, 3, bias=False))
        self.classifier = nn.Linear(4, 1000)


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A run folder with both cohorts."""
    folder = tmp_path_factory.mktemp("paper")
    for name in MODALITY:
        cohort_in(folder / "cohorts" / name, name)
    return folder


@pytest.fixture
def started(monkeypatch):
    """The names of weights that readers asked torchvision for."""
    from torchvision import models

    asked, resnet50 = [], models.resnet50

    def resnet(weights=None):
        asked.append(("resnet50", weights))
        return resnet50()

    def densenet(weights=None):
        asked.append(("densenet121", weights))
        return WithImageNet()

    monkeypatch.setattr(models, "resnet50", resnet)
    monkeypatch.setattr(models, "densenet121", densenet)
    fake = types.SimpleNamespace(models=types.SimpleNamespace(DenseNet=FakeDenseNet))
    monkeypatch.setitem(sys.modules, "torchxrayvision", fake)
    return asked


@pytest.fixture
def paper(house, started):
    """The steps of both cohorts under the paper's settings."""
    run = Run(house, load_settings("paper", **NARROW))
    return {name: open_cohort(run, name) for name in MODALITY}


@pytest.fixture
def trainings(monkeypatch):
    """What trainings are asked for, in place of them: (network or reader, levels, options)."""
    asked = []

    class Asked(Exception):
        pass

    def reconstructor(network, cohort, degradation, levels, **options):
        asked.append((network, levels, options))
        raise Asked

    def reader(network, cohort, **options):
        asked.append((network, None, options))
        raise Asked

    monkeypatch.setattr(weights_step, "train_reconstructor", reconstructor)
    monkeypatch.setattr(weights_step, "train_reader", reader)

    def ask(make, *given, **which):
        with pytest.raises(Asked):
            make(*given, **which)
        return asked[-1]

    return ask


def expected(network, name):
    """Options that the profile names for a network on a cohort."""
    found = {}
    for option, value in PAPER["recipes"][network].items():
        if isinstance(value, dict):
            if MODALITY[name] in value:
                found[option] = value[MODALITY[name]]
        else:
            found[option] = value
    return found


PAIRS = [(network, name) for network in PAPER["recipes"] for name in MODALITY]


@pytest.mark.parametrize("network, name", [pair for pair in PAIRS if pair != ("segmenter", "chexpert")])  # no masks
def test_every_option_of_a_recipe_reaches_its_network_or_its_training(paper, trainings, network, name):
    steps = paper[name]
    if network in ("classifier", "segmenter"):
        made = {"classifier": {"mri": "grade", "xray": "findings"}[MODALITY[name]], "segmenter": "segmenter"}[network]
        trained, _, options = trainings(steps.readings.weights.make, made)
    else:
        trained, _, options = trainings(steps.weights.make, network)
    wanted = expected(network, name)
    assert wanted, "the profile says something of it"
    for option, value in wanted.items():
        here = options[option] if option in OF_TRAINING else getattr(trained, HOME.get(option, option))
        assert here == value and type(here) in (type(value), float), (option, here, value)
    if "learning_rate" in wanted:
        for optimizer in trained.optimizers().values():
            assert {group["lr"] for group in optimizer.param_groups} == {wanted["learning_rate"]}
            assert {group["weight_decay"] for group in optimizer.param_groups} == {wanted.get("weight_decay", 0)}
    if "decay" in wanted:
        assert [trained.rate(epoch, 10) for epoch in (0, 9)] == [1.0, 1.0]


HOME = {"average": "averaging"}  # options whose attribute has another name


def test_what_holds_for_all_networks_reaches_their_trainings(paper, trainings):
    for name, steps in paper.items():
        _, levels, options = trainings(steps.weights.make, "unet", level=steps.levels[0])
        assert levels == (steps.levels[0],), "one network a level"
        assert options["cache"] is None, "new noise in every epoch"
        assert not options["mirror"] and options["n_validation"] == 0 == PAPER["n_validation"]
        assert options["precision"] == PAPER["precision"] and options["start"] is None
        made = steps.weights.trainings("unet")
        assert [which["level"] for which in made] == list(steps.levels)
        assert len({steps.weights._folder("unet", **which) for which in made}) == 3
        assert len({str(steps.weights.made_from("unet", **which)) for which in made}) == 3
        reader = {"mri": "type", "xray": "findings"}[MODALITY[name]]
        assert not trainings(steps.readings.weights.make, reader)[2]["mirror"]


def test_settings_of_the_run_reach_what_they_name(paper, started):
    settings = load_settings("paper")
    assert settings.width == settings.segmenter_width == PAPER["width"] == 64
    brain, chest = paper["ucsf_pdgm"], paper["chexpert"]
    assert brain.weights.network("unet").width == NARROW["width"] == brain.weights.network("sde").width
    assert brain.weights.network("sde").sampler == PAPER["sampler"] == "euler"
    assert brain.weights.network("sde").n_steps is None and sde.SCHEDULE.steps == 100
    started.clear()
    grade, findings = brain.readings.weights.blank()["grade"], chest.readings.weights.blank()["findings"]
    assert started == [("resnet50", "IMAGENET1K_V1")] * 2 + [("densenet121", "IMAGENET1K_V1")]
    assert grade.started_from == findings.started_from == "ImageNet"
    assert brain.readings.weights.blank()["segmenter"].width == NARROW["segmenter_width"]
    assert chest.readings.tasks() == [task for task in TASKS["chexpert"] if task != "support_devices"]
    assert len(chest.readings.tasks()) == 12 and brain.readings.tasks() == TASKS["ucsf_pdgm"]
    rows = [len(brain.setup.rows(level)) for level in brain.levels]
    assert len(set(rows)) == 1, "every level has all test images"
    assert (settings.n_boot, settings.image_size, settings.age_cut_years) == (1000, 256, 0)
    assert (settings.keep_images, settings.classical_subset) == (64, 2000), "see test_stream.py for what they do"
    assert settings.train and settings.cohorts == tuple(MODALITY) and settings.cohort_folder == "data"


def test_every_line_of_the_profile_is_followed_here():
    """A setting that joins the profile has to join a test as well."""
    followed = {"recipes", "one_level_each", "new_noise", "mirror", "n_validation", "precision", "start_from", "width",
                "segmenter_width", "sampler", "tasks", "level_subset", "n_boot", "image_size", "age_cut_years", "train",
                "cohorts", "cohort_folder", "keep_images", "classical_subset"}  # fmt: skip
    assert set(PAPER) == followed


def test_the_chest_reader_sees_224_pixels(paper):
    seen, reader = [], paper["chexpert"].readings.weights.blank()["findings"]
    reader.net.register_forward_pre_hook(lambda module, given: seen.append(tuple(given[0].shape)))
    reader.net.eval()
    assert reader.outputs(np.zeros((2, 32, 32), np.float32)).shape == (2, 12) and seen == [(2, 1, 224, 224)]


def test_without_a_running_mean_the_network_itself_samples(paper):
    network = paper["ucsf_pdgm"].weights.network("sde")
    with torch.no_grad():
        for value in network.net.parameters():
            value.normal_()
    network.after_step()
    assert all(torch.equal(a, b) for a, b in zip(network.average.parameters(), network.net.parameters()))


def test_new_noise_is_new_in_every_epoch_and_nothing_is_mirrored(house, paper):
    from fairrecon_core.reconstruct.training import train_reconstructor

    steps, drawn = paper["chexpert"], []

    class Watcher:
        def fit(self, train, validation, degradation, levels, *, seed, flips, folder, **options):
            drawn.append((train, validation, degradation, flips))

    train_reconstructor(Watcher(), steps.cohort, steps.setup.degradation, [3000.0], folder=house, n_validation=0)
    train, validation, degradation, flips = drawn[0]
    assert degradation is steps.setup.degradation and not flips and len(validation) == 10
    first, second = (degradation(train.at([0])[0], 3000.0, ["a"], seed=seed) for seed in (1, 2))
    assert not torch.equal(first, second)


def test_an_option_that_is_not_there_is_refused_with_the_nearest(house, paper):
    def ask(recipes):
        run = Run(house, load_settings("paper", **NARROW, recipes=recipes))
        return open_cohort(run, "ucsf_pdgm").weights.network("unet")

    assert ask({"unet": {"epochs": 3}}).learning_rate == 1e-3, "an override changes what it names alone"
    with pytest.raises(ValueError, match="recipes: unet has no option 'learning_rat', did you mean 'learning_rate'"):
        ask({"unet": {"learning_rat": 1.0}})
    with pytest.raises(ValueError, match=r"learning_rate of unet takes a number, got '1e-3' \(write 1.0e-3"):
        ask({"unet": {"learning_rate": "1e-3"}})
    with pytest.raises(ValueError, match="unknown arm 'unett', did you mean 'unet'"):
        open_cohorts(Run(house, load_settings("paper", **NARROW, recipes={"unett": {}})))


def test_the_width_of_the_published_mode_is_refused_where_it_does_nothing():
    with pytest.raises(ValueError, match="published_width is of the published modes: set width, or mri_mode"):
        load_settings("paper", published_width=64)
    assert load_settings("paper", published_width=64, xray_mode="published").published_width == 64
