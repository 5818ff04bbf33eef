"""The training loop: seeded, resumable, and its best weights are what its table says."""

import numpy as np
import pytest
import torch
from torch import nn

from fairrecon_core.degrade import degradation
from fairrecon_core.learn.loop import Images, Trainable, _validate, batches, fit, pairs, precision_of
from fairrecon_core.learn.threads import side_by_side
from fairrecon_core.learn.weights import load_weights, read_safetensors, save_weights
from fairrecon_core.reconstruct.unet import UNetReconstructor

LEVELS = (2, 4)


def images(n, seed):
    blobs = np.random.default_rng(seed).random((n, 4, 4)).repeat(4, axis=1).repeat(4, axis=2)
    return Images(blobs.astype(np.float32), [f"i{seed}-{k}" for k in range(n)])


@pytest.fixture
def data():
    return images(12, 1), images(6, 2), degradation("mri")


class Killed(Exception):
    """Stands in for a SIGKILL at the end of an epoch."""


def small(seed=0):
    torch.manual_seed(seed)
    return UNetReconstructor(width=2, learning_rate=3e-3)


def weights(module):
    return torch.cat([value.flatten() for value in module.state_dict().values()])


def test_a_killed_training_ends_with_the_same_weights_as_an_undisturbed_one(data, tmp_path, monkeypatch):
    options = {"epochs": 5, "seed": 3, "progress": False, "accelerator": "cpu"}
    draw = pairs(*data, LEVELS, batch_size=4, seed=3, flips=True)
    undisturbed = small()
    losses = fit(undisturbed, draw, **options)
    killed = small()
    rate = killed.rate
    monkeypatch.setattr(
        killed, "rate", lambda epoch, epochs: (_ for _ in ()).throw(Killed) if epoch == 3 else rate(epoch, epochs)
    )
    with pytest.raises(Killed):
        fit(killed, draw, folder=tmp_path, **options)
    resumed = small(seed=99)
    again = fit(resumed, draw, folder=tmp_path, **options)
    assert torch.equal(weights(undisturbed.net), weights(resumed.net))
    assert again.drop(columns="seconds").equals(losses.drop(columns="seconds")) and len(losses) == 5


def test_the_best_weights_reproduce_the_validation_loss_of_their_epoch(data):
    from lightning_fabric import Fabric

    recipe = small()
    recipe.rate = lambda epoch, epochs: [1, 1, 60][epoch]  # the last epoch throws the weights away
    losses = fit(recipe, pairs(*data, LEVELS, batch_size=4), epochs=3, progress=False, accelerator="cpu")
    assert losses["validation"].idxmin() < 2
    value = _validate(Fabric(accelerator="cpu"), recipe, batches(data[1], data[2], LEVELS, 4))
    assert value == pytest.approx(losses["validation"].min(), rel=1e-6)


def test_learning_beats_the_degraded_image(data):
    torch.manual_seed(0)
    train, validation, mri = data
    degraded = np.mean([float(((b.degraded - b.clean) ** 2).mean()) for b in batches(validation, mri, [4], 6)])
    recipe = UNetReconstructor(width=4, learning_rate=3e-3)
    losses = fit(recipe, pairs(train, validation, mri, [4], batch_size=4), epochs=40, progress=False, accelerator="cpu")
    assert losses["validation"].min() < 0.8 * degraded


def test_training_stops_when_patience_is_spent(data):
    recipe = small()
    recipe.rate = lambda epoch, epochs: 0.0
    losses = fit(recipe, pairs(*data, LEVELS, batch_size=4), epochs=50, patience=2, progress=False, accelerator="cpu")
    assert len(losses) == 3


def test_batches_have_one_level_each_new_noise_per_epoch_and_fixed_validation(data):
    train, _, mri = data
    drawn = [list(batches(train, mri, LEVELS, 5, seed=1, epoch=epoch)) for epoch in (0, 0, 1)]
    assert [b.names for b in drawn[0]] == [b.names for b in drawn[1]] != [b.names for b in drawn[2]]
    assert sorted(name for b in drawn[0] for name in b.names) == sorted(train.names)
    assert {b.level for epoch in drawn for b in epoch} <= set(map(float, LEVELS))
    fixed = list(batches(train, mri, LEVELS, 5))
    assert {level: sum(len(b.names) for b in fixed if b.level == level) for level in LEVELS} == {2: 6, 4: 6}
    shares = [list(batches(train, mri, LEVELS, 5, seed=1, epoch=0, rank=(r, 2))) for r in (0, 1)]
    assert sorted(n for share in shares for b in share for n in b.names) == sorted(train.names)


def test_a_loss_that_is_not_finite_stops_with_advice(data):
    class Broken(UNetReconstructor):
        name = "broken"

        def losses(self, batch):
            yield "net", self.predict(batch.degraded, batch.level).mean() * float("nan")

    with pytest.raises(RuntimeError, match="loss of 'net' is nan: lower the learning rate"):
        fit(Broken(width=2), pairs(*data, LEVELS), epochs=1, progress=False, accelerator="cpu")


def test_running_out_of_gpu_memory_says_what_to_lower(data):
    class Greedy(UNetReconstructor):
        name = "greedy"

        def losses(self, batch):
            raise torch.cuda.OutOfMemoryError("out of memory")
            yield

    with pytest.raises(RuntimeError, match="lower batch_size, width or image_size"):
        fit(Greedy(width=2), pairs(*data, LEVELS), epochs=1, progress=False, accelerator="cpu")


def test_nothing_to_train_on_is_refused(data):
    empty = Images(np.zeros((0, 16, 16), np.float32), [])
    with pytest.raises(ValueError, match="nothing to train on"):
        pairs(empty, data[1], data[2], LEVELS)
    with pytest.raises(ValueError, match="nothing to train on"):
        pairs(*data, ())
    with pytest.raises(ValueError, match="at least one epoch"):
        fit(Trainable(), pairs(*data, LEVELS), epochs=0)


def test_stored_integers_become_intensities():
    stored = Images(np.full((1, 4, 4), 65535, np.uint16), ["a"])
    assert stored.at([0])[0].eq(1).all() and Images(np.full((1, 4, 4), 51, np.uint8), ["a"]).at([0])[0].allclose(
        torch.tensor(0.2)
    )


def test_weights_keep_half_precision_and_their_card(tmp_path):
    module, other = nn.Linear(3, 2), nn.Linear(3, 2)
    save_weights(tmp_path / "w.safetensors", module, {"arm": "unet", "seed": 3})
    card = load_weights(tmp_path / "w.safetensors", other, arm="unet")
    assert card == {"arm": "unet", "seed": 3} and torch.equal(other.weight, module.weight.half().float())


def test_weights_that_do_not_fit_are_refused_by_name(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(path, nn.Linear(3, 2), {"arm": "unet"})
    with pytest.raises(ValueError, match=r"w.safetensors was made for another network"):
        load_weights(path, nn.Linear(4, 2))
    with pytest.raises(ValueError, match=r"w.safetensors has arm 'unet', this run needs 'sde'"):
        load_weights(path, nn.Linear(3, 2), arm="sde")
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match=r"w.safetensors is corrupt or truncated"):
        read_safetensors(path)
    with pytest.raises(FileNotFoundError, match="no weights at"):
        read_safetensors(tmp_path / "none.safetensors")


def test_a_state_of_another_network_is_refused(data, tmp_path):
    fit(small(), pairs(*data, LEVELS), epochs=1, progress=False, accelerator="cpu", folder=tmp_path)
    with pytest.raises(ValueError, match="belongs to other modules"):
        fit(
            UNetReconstructor(width=3),
            pairs(*data, LEVELS),
            epochs=2,
            progress=False,
            accelerator="cpu",
            folder=tmp_path,
        )


def test_side_by_side_keeps_the_order_the_errors_and_the_number_of_threads():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert side_by_side(lambda part: part**2, list(range(50))) == [part**2 for part in range(50)]
        assert side_by_side(lambda part: torch.get_num_threads(), list(range(9))) == [1] * 9
        with pytest.raises(ZeroDivisionError):
            side_by_side(lambda part: 1 / part, [1, 0, 2])
        assert side_by_side(str, []) == [] and torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_auto_precision_asks_the_processor(monkeypatch):
    for name in ("avx512_bf16", "amx_tile"):
        monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda: False, raising=False)
    assert precision_of("cpu") == "32-true"
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    assert precision_of("cpu") == "bf16-mixed"
