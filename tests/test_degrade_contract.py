"""What every degradation promises, run over the registry: a newcomer is tested unasked."""

import importlib.util
import math

import numpy as np
import pytest
import torch

from fairrecon_core import degrade
from fairrecon_core.degrade import Degradation, Measurement, check_images, degradation, noise_generator

LEVEL = {"mri": 8, "xray": 10_000}  # by modality
SIZE = 32
EXACT = {"rtol": 0, "atol": 0}


def built_in(name: str) -> bool:
    return importlib.util.find_spec(f"fairrecon_core.degrade.{name}") is not None


def variants():
    """Every registered degradation as made by default, and the built-in ones in their named modes."""
    options = {
        "mri": [{}, {"mode": "published"}, {"noise": 0.05}],
        "xray": [
            {},
            {"mode": "published"},
            {"mode": "radiograph"},
            {"bowtie_axis": "view", "flat_field": "none"},
            {"counts": "linear", "stretch": "per_image"},
        ],
    }
    for name in degrade.names():
        for option in options.get(name, [{}]):
            marks = [] if name not in degrade.BUILT_IN or built_in(name) else pytest.mark.skip(f"no {name} module")
            yield pytest.param((name, option), marks=marks, id="-".join([name, *map(str, option.values())]))


@pytest.fixture(params=list(variants()))
def subject(request) -> tuple[Degradation, float]:
    name, option = request.param
    made = degradation(name, **option)
    return made, LEVEL[made.modality]


@pytest.fixture
def images() -> torch.Tensor:
    """Five smooth blobs, float32 (5, 32, 32) in [0, 1]."""
    grid = torch.linspace(-1, 1, SIZE)
    radius = torch.hypot(grid[:, None], grid[None, :])
    return torch.stack([(1 - radius * scale).clamp(0, 1) for scale in (1.0, 1.2, 1.4, 1.6, 1.8)])


NAMES = ["a", "b", "c", "d", "e"]


def test_identity_level_changes_no_bit(subject, images):
    made, _ = subject
    degraded, measurement = made.measure(images, made.identity_level, NAMES)
    assert torch.equal(degraded, images) and torch.equal(made(images, made.identity_level, NAMES), images)
    assert measurement == Measurement(made.identity_level)
    degraded[:] = 0
    assert images.max() > 0, "the caller's images must not be shared"


def test_degraded_is_float32_in_the_unit_range_and_keeps_its_shape(subject, images):
    made, level = subject
    degraded = made(images.double().numpy(), level, NAMES)
    assert degraded.dtype == torch.float32 and degraded.shape == images.shape
    assert degraded.min() >= 0 and degraded.max() <= 1
    assert not torch.equal(degraded, images)


def test_calling_is_measuring_without_the_measurement(subject, images):
    made, level = subject
    assert torch.equal(made(images, level, NAMES, seed=3), made.measure(images, level, NAMES, seed=3)[0])


def test_batch_size_and_order_change_no_byte(subject, images):
    made, level = subject
    whole = made(images, level, NAMES, seed=1)
    alone = torch.stack([made(images[i], level, NAMES[i], seed=1) for i in range(5)])
    backwards = made(images.flip(0), level, NAMES[::-1], seed=1).flip(0)
    assert torch.equal(whole, alone)
    assert torch.equal(whole, backwards)


class Degraded(torch.utils.data.Dataset):
    """One degraded image at a time, as a training loop asks for them."""

    def __init__(self, made, images, level):
        self.made, self.images, self.level = made, images, level

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.made(self.images[i], self.level, NAMES[i], seed=1)


def test_worker_processes_change_no_byte(subject, images):
    made, level = subject
    loader = torch.utils.data.DataLoader(Degraded(made, images, level), batch_size=2, num_workers=2)
    assert torch.equal(torch.cat(list(loader)), made(images, level, NAMES, seed=1))


def test_noise_follows_name_seed_and_level(subject, images):
    made, level = subject
    same = made(images, level, NAMES, seed=1)
    renamed = made(images, level, [*NAMES[:4], "other"], seed=1)
    assert torch.equal(same[:4], renamed[:4])
    noisy = not torch.equal(same[4], renamed[4])
    assert noisy != torch.equal(same, made(images, level, NAMES, seed=2)), "name and seed matter together or not at all"


def test_measurement_of_one_image_is_its_row_of_the_batch(subject, images):
    made, level = subject
    _, batch = made.measure(images, level, NAMES)
    _, single = made.measure(images[2], level, NAMES[2])
    assert batch.level == level
    assert batch.kspace is None or batch.sinogram is None, "a scan has one kind of raw data"
    assert (batch.kspace is None) == (batch.mask is None) == (made.modality != "mri")
    for field in ("kspace", "sinogram"):
        one, all_of_them = getattr(single, field), getattr(batch, field)
        assert one is None or (len(all_of_them) == 5 and torch.equal(one, all_of_them[2]))
    assert batch.at([0, 1]).mask is batch.mask, "the mask belongs to the scan, not to an image"


@pytest.mark.parametrize("level", [math.nan, 0, -4, None, "8"])
def test_impossible_levels_are_refused(subject, images, level):
    made, _ = subject
    with pytest.raises((ValueError, TypeError)):
        made(images, level, NAMES)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x: x[:, :16], "square"),
        (lambda x: x[:, None], "square"),
        (lambda x: x[:0], "square"),
        (lambda x: x * 200, r"intensities run from 0 to 1\d\d.*scale"),
        (lambda x: x - 0.5, "-0.5"),
        (lambda x: x.where(x < 1, math.nan).where(x > 0.1, math.nan), "NaN"),
        (lambda x: x.where(x < 0.9, math.inf), "inf"),
        (lambda x: (x * 255).to(torch.uint8), "divide by 255"),
        (lambda x: x.to(torch.complex64), "real"),
    ],
)
def test_bad_images_are_refused_with_the_way_out(subject, images, spoil, message):
    made, level = subject
    for strength in (level, made.identity_level):
        with pytest.raises(ValueError, match=message):
            made(spoil(images), strength, NAMES)


def test_one_name_per_image(subject, images):
    made, level = subject
    with pytest.raises(ValueError, match="got 2 for 5"):
        made(images, level, ["a", "b"])
    with pytest.raises(ValueError, match="got 1 for 5"):
        made(images, level, "abcde")


def test_lists_and_read_only_arrays_are_images():
    array = np.full((4, 4), 0.25)
    array.flags.writeable = False
    assert torch.equal(check_images(array), check_images(array.tolist()))
    assert torch.equal(check_images(array[::-1]), check_images(array))


def test_unknown_degradation_suggests_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'xray'.*mri, xray"):
        degradation("x-ray")


def test_a_registered_newcomer_is_made_by_name_and_held_to_the_contract(images, monkeypatch):
    monkeypatch.setattr(degrade, "REGISTRY", dict(degrade.REGISTRY))

    @degrade.register
    class Dimmer(Degradation):
        name, modality, identity_level = "dimmer", "xray", math.inf

        def _measure(self, images, level, image_ids, seed):
            return images * (1 - 1 / level), Measurement(level)

    assert "dimmer" in degrade.names()
    dimmed = degradation("dimmer")(images, 4, NAMES)
    torch.testing.assert_close(dimmed, images * 0.75)
    assert torch.equal(degradation("dimmer")(images, math.inf, NAMES), images)
    degrade.register(Dimmer)  # a notebook cell may run twice
    for taken in ("dimmer", "mri"):
        with pytest.raises(ValueError, match="taken"):
            degrade.register(type("Other", (Degradation,), {"name": taken, "modality": "mri"}))
    with pytest.raises(ValueError, match="modality"):
        degrade.register(type("Nameless", (Degradation,), {}))


def first_draws(*arguments, **options) -> list[float]:
    return torch.rand(3, generator=noise_generator(*arguments, **options)).tolist()


def test_noise_is_the_same_on_every_machine_and_in_every_process():
    golden = [0.31924885511398315, 0.650748610496521, 0.8865195512771606]
    assert first_draws(1, "a", 4) == pytest.approx(golden, abs=1e-7)
    assert first_draws(1, "a", 4) == first_draws(np.int64(1), np.str_("a"), 4.0) == first_draws(1, "a", np.float32(4))


def test_every_part_of_the_key_changes_the_noise():
    keys = [(1, "a", 4), (2, "a", 4), (1, "b", 4), (1, "a", 8), (1, "a", 4, 1), (11, "a", 4), (1, "1a", 4)]
    draws = [tuple(first_draws(*key)) for key in keys] + [tuple(first_draws(1, "a", 4, stream="sde"))]
    assert len(set(draws)) == len(draws)


def test_noise_of_many_images_looks_independent():
    draws = torch.stack([torch.randn(64, generator=noise_generator(0, f"image-{i}", 8)) for i in range(200)])
    correlation = torch.corrcoef(draws)[~torch.eye(200, dtype=torch.bool)]
    assert abs(float(draws.mean())) < 4 / math.sqrt(draws.numel())
    assert float(correlation.std()) == pytest.approx(1 / 8, rel=0.03)  # 1 / sqrt(64) when independent
    assert float(correlation.abs().max()) < 0.65  # six standard errors
