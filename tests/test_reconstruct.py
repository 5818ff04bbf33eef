"""The contract that every reconstructor keeps, built in or registered; and what each one promises on its own."""

import numpy as np
import pytest
import torch
from torch import nn

from fairrecon_core.degrade import degradation
from fairrecon_core.learn.body import UNet
from fairrecon_core.learn.loop import Images
from fairrecon_core.reconstruct import REGISTRY, Reconstructor, names, reconstructor, register
from fairrecon_core.reconstruct.consistency import DataConsistent
from fairrecon_core.reconstruct.pix2pix import PatchGAN, Pix2PixReconstructor
from fairrecon_core.reconstruct.unet import UNetReconstructor

NAMES = ["a", "b", "c"]


def smooth_images(n, seed=0, size=32):
    blobs = np.random.default_rng(seed).random((n, size // 8, size // 8)).repeat(8, axis=1).repeat(8, axis=2)
    return blobs.astype(np.float32)


def made(name, modality="mri"):
    """A reconstructor that is ready to be called: small, and tuned if it wants to be."""
    torch.manual_seed(0)
    arm = reconstructor(name, modality, **({"width": 4} if name in ("unet", "pix2pix", "sde") else {}))
    images = Images(smooth_images(4, seed=9), list("wxyz"))
    if name in ("tv", "nlm"):
        arm.fit(images, images, degradation(modality), [8])
    elif hasattr(arm, "net"):
        network = getattr(arm, arm.saved)
        nn.init.normal_(getattr(network, "body", network).out.weight, std=0.01)
        arm.ready()
    return arm


@pytest.fixture(params=names())
def arm(request):
    return made(request.param)


@pytest.fixture
def degraded():
    return degradation("mri")(smooth_images(3), 8, NAMES)


def test_shape_range_and_type_are_kept(arm, degraded):
    out = arm(degraded, 8, image_ids=NAMES)
    assert out.shape == degraded.shape and out.dtype == torch.float32
    assert torch.isfinite(out).all() and out.min() >= 0 and out.max() <= 1


def test_a_batch_of_one_equals_a_batch_of_many(arm, degraded):
    whole = arm(degraded, 8, image_ids=NAMES)
    for image, name, expected in zip(degraded, NAMES, whole):
        assert torch.equal(arm(image[None], 8, image_ids=[name])[0], expected)
        assert torch.equal(arm(image.numpy(), 8, image_ids=name), expected)


def test_it_repeats_itself_and_leaves_its_input_alone(arm, degraded):
    before = degraded.clone()
    first, second = (arm(degraded, 8, image_ids=NAMES, seed=3) for _ in range(2))
    assert torch.equal(first, second) and torch.equal(degraded, before)


def test_it_takes_a_measurement_without_needing_it(arm, degraded):
    image, measurement = degradation("mri").measure(smooth_images(3), 8, NAMES)
    assert arm(image, 8, image_ids=NAMES, measurement=measurement).shape == image.shape


def test_what_it_cannot_take_is_refused_with_a_way_out(arm, degraded):
    with pytest.raises(ValueError, match="drop the channel axis"):
        arm(degraded[:, None], 8, image_ids=NAMES)
    with pytest.raises(ValueError, match="one image_id per image: got 1 for 3"):
        arm(degraded, 8, image_ids=["a"])
    with pytest.raises(ValueError, match="finite images in"):
        arm(torch.full_like(degraded, float("nan")), 8, image_ids=NAMES)
    with pytest.raises(ValueError, match="finite images in"):
        arm(degraded + 2, 8, image_ids=NAMES)


def test_an_unknown_arm_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown arm 'unett', did you mean 'unet'.*degraded, tv, nlm, unet, pix2pix"):
        reconstructor("unett")
    with pytest.raises(ValueError, match="modality is 'mri' or 'xray'"):
        reconstructor("degraded", "ct")


def test_a_learners_reconstructor_of_a_few_lines_joins_the_registry(degraded):
    @register
    class Halved(Reconstructor):
        name = "halved"

        def restore(self, degraded, level, image_ids, seed, sample, measurement):
            return degraded / 2

    try:
        assert torch.equal(reconstructor("halved")(degraded, 8, image_ids=NAMES), degraded / 2)
        with pytest.raises(ValueError, match="taken"):
            register(type("Other", (Reconstructor,), {"name": "halved"}))
        with pytest.raises(ValueError, match="built in"):
            register(type("Mine", (Reconstructor,), {"name": "unet"}))
        with pytest.raises(ValueError, match="needs a name"):
            register(type("Nameless", (Reconstructor,), {}))
    finally:
        REGISTRY.pop("halved")


def test_degraded_is_the_identity(degraded):
    assert torch.equal(made("degraded")(degraded, 8, image_ids=NAMES), degraded)


@pytest.mark.parametrize("name", ["tv", "nlm"])
def test_a_tuned_filter_beats_the_degraded_image_and_refuses_an_untuned_level(name):
    clean, noisy = smooth_images(4, seed=9), degradation("mri")(smooth_images(4, seed=9), 8, list("wxyz"))
    arm = made(name)
    assert ((arm(noisy, 8, image_ids=list("wxyz")).numpy() - clean) ** 2).mean() < ((noisy.numpy() - clean) ** 2).mean()
    best = arm.tried.loc[arm.tried["mse"].idxmin()]
    assert list(arm.tried["strength"]) == list(arm.grid) and best["strength"] == arm.strengths[8]
    with pytest.raises(ValueError, match=r"not tuned for level 4 \(tuned: 8\)"):
        arm(noisy, 4, image_ids=list("wxyz"))


def test_data_consistency_keeps_what_the_scanner_measured():
    image, measurement = degradation("mri").measure(smooth_images(3), 8, NAMES)
    tv = made("tv")
    consistent = DataConsistent(tv)
    clean = torch.from_numpy(smooth_images(3))
    plain = tv(image, 8, image_ids=NAMES)
    better = consistent(image, 8, image_ids=NAMES, measurement=measurement)
    assert consistent.name == "tv_dc"
    assert ((better - clean) ** 2).mean() < ((plain - clean) ** 2).mean()
    with pytest.raises(ValueError, match="needs measurement="):
        consistent(image, 8, image_ids=NAMES)
    with pytest.raises(ValueError, match="modality 'mri' only"):
        DataConsistent(made("degraded", "xray"))


def test_the_paper_size_networks_have_the_papers_parameter_counts():
    count = lambda module: sum(p.numel() for p in module.parameters())
    assert count(UNet(width=64)) == 31_030_593
    assert count(PatchGAN(2, 64)) == 2_764_609  # as in the source: no bias before a normalisation


def test_a_patch_of_the_discriminator_sees_seventy_pixels():
    judge, image = PatchGAN(1, 2).eval(), torch.zeros(1, 1, 256, 256, requires_grad=True)
    logits = judge(image)
    assert logits.shape == (1, 1, 30, 30)
    logits[0, 0, 14, 14].backward()
    seen = image.grad[0, 0].abs().sum(1).nonzero()
    assert int(seen.max() - seen.min()) + 1 == 70


def test_an_untrained_unet_changes_nothing_and_the_published_one_knows_no_level(degraded):
    assert torch.equal(UNetReconstructor(width=4)(degraded, 8, image_ids=NAMES), degraded)
    torch.manual_seed(0)
    published = UNetReconstructor(width=4, published=True)
    assert torch.equal(published(degraded, 8, image_ids=NAMES), published(degraded, 4, image_ids=NAMES))


def test_the_level_reaches_the_network(degraded):
    arm = made("unet")
    assert not torch.equal(arm(degraded, 8, image_ids=NAMES), arm(degraded, 4, image_ids=NAMES))


def test_sides_that_the_network_cannot_halve_are_refused():
    with pytest.raises(ValueError, match="multiples of 16"):
        UNetReconstructor(width=2)(torch.zeros(1, 40, 40), 8, image_ids=["a"])


def test_the_generator_steps_against_a_discriminator_that_has_stepped():
    torch.manual_seed(0)
    images = Images(smooth_images(4), NAMES + ["d"])
    recipe = Pix2PixReconstructor(width=2)
    losses = recipe.fit(images, images, degradation("mri"), [8], epochs=2, progress=False, accelerator="cpu")
    assert {"train_judge", "train_net", "validation"} <= set(losses.columns) and np.isfinite(losses["train_net"]).all()
    assert [recipe.rate(epoch, 10) for epoch in (0, 5, 9)] == pytest.approx([1.0, 1.0, 0.2])


@pytest.mark.parametrize("name", ["unet", "pix2pix", "sde"])
def test_saved_weights_load_into_an_equal_reconstructor_only(name, tmp_path, degraded):
    arm = made(name)
    arm.save(tmp_path / "w.safetensors", seed=3)
    other = reconstructor(name, width=4)
    assert other.load(tmp_path / "w.safetensors")["seed"] == 3
    assert torch.allclose(other(degraded, 8, image_ids=NAMES), arm(degraded, 8, image_ids=NAMES), atol=1e-3)
    with pytest.raises(ValueError, match="has width 4, this run needs 8"):
        reconstructor(name, width=8).load(tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="has modality 'mri', this run needs 'xray'"):
        reconstructor(name, "xray", width=4).load(tmp_path / "w.safetensors")
