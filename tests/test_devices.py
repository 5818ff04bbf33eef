"""The device reaches whatever computes; a GPU that is not here is played by torch's fake tensors, or by a recorder."""

import threading

import numpy as np
import pytest
import torch
from test_steps import steps_in
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from fairrecon_core.cohort.pixels import as_float
from fairrecon_core.degrade import degradation
from fairrecon_core.learn.devices import device_of, fitting
from fairrecon_core.learn.loop import Images, fit, pairs
from fairrecon_core.predict import quality
from fairrecon_core.predict.classifier import Classifier
from fairrecon_core.predict.segmenter import Segmenter
from fairrecon_core.reconstruct import reconstructor
from fairrecon_core.reconstruct.unet import UNetReconstructor
from fairrecon_core.steps import setup as setup_step


class OnGPU(TorchFunctionMode):
    """Notes every move to "cuda", by whom it was asked for, and leaves the tensor where it is."""

    def __init__(self):
        super().__init__()
        self.moved = []

    def __torch_function__(self, function, types, arguments=(), options=None):
        options = dict(options or {})
        if function is torch.Tensor.to and any("cuda" in str(value) for value in (*arguments[1:], *options.values())):
            self.moved.append(tuple(arguments[0].shape))
            rest = [value for value in arguments[1:] if isinstance(value, torch.dtype)]
            options = {key: value for key, value in options.items() if key == "memory_format"}
            return function(arguments[0], *rest, **options) if rest or options else arguments[0]
        return function(*arguments, **options)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Steps with trained networks and readers."""
    made = steps_in(tmp_path_factory.mktemp("cpu"), arms=["unet", "pix2pix", "sde"], sde_steps=2)
    for arm in ("unet", "pix2pix", "sde"):
        made.weights.make_all(arm)
    made.readings.weights.make_all()
    return made


def test_the_setting_is_checked_and_auto_takes_a_gpu_where_there_is_one(monkeypatch):
    assert device_of("auto") == ("cuda" if torch.cuda.is_available() else "cpu") and device_of("cpu") == "cpu"
    with pytest.raises(ValueError, match=r"no device 'cdua' here: set device to one of auto, cpu"):
        device_of("cdua")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="no device 'cuda' here"):
        device_of("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_of("auto") == device_of("cuda") == "cuda"


@pytest.mark.parametrize("arm", ["unet", "pix2pix", "sde", "unet_dc"])
def test_every_network_and_all_that_it_is_given_go_to_the_device(trained, monkeypatch, arm):
    monkeypatch.setattr(setup_step, "device_of", lambda choice: "cuda")
    monkeypatch.setattr(setup_step, "_one_ahead", iter)  # what another thread moves, `OnGPU` does not see
    steps = steps_in(trained.setup.run.folder, arms=["unet", "pix2pix", "sde"], sde_steps=2, inference_batch=3)
    with OnGPU() as gpu:
        network = steps.weights.load(arm)
        shapes = {tuple(value.shape) for value in getattr(network, "inner", network).net.parameters()}
        assert shapes <= set(gpu.moved)
        images, rows = steps.images.get(arm, 4)
    assert len(rows) > 3 and {shape for shape in gpu.moved if shape[1:] == (1, 32, 32)} >= {(3, 1, 32, 32)}
    degraded = trained.images.get("degraded", 4)[0]
    here = torch.cat(list(trained.images._reconstructed(arm, 4, rows, degraded, 0, 0, 0)))
    assert np.abs(as_float(images) - here.numpy()).max() < 1e-4, "the same images as on the CPU"


def test_images_are_degraded_on_the_device_unless_as_published(trained, monkeypatch):
    monkeypatch.setattr(setup_step, "device_of", lambda choice: "cuda")
    for mode, moved in (("physical", [(3, 32, 32)]), ("published", [])):
        steps = steps_in(trained.setup.run.folder, mri_mode=mode)
        with OnGPU() as gpu:
            steps.images._measured(4, steps.setup.rows(4)[:3])
        assert gpu.moved == moved


def test_the_next_chunk_is_prepared_while_a_gpu_works_with_one(trained, monkeypatch):
    prepared = [threading.Event() for _ in range(4)]

    def chunks():
        for k, event in enumerate(prepared):
            event.set()
            yield k

    steps, seen = steps_in(trained.setup.run.folder), []
    assert setup_step.ahead(seen, steps.setup.device) is seen, "the CPU has no time to spare"
    for k in setup_step.ahead(chunks(), "cuda"):
        assert k == 3 or prepared[k + 1].wait(20), "the next one was not begun"
        seen.append(k)
    assert seen == [0, 1, 2, 3]
    failing = iter(setup_step.ahead((1 / k for k in (1, 0)), "cuda"))
    assert next(failing) == 1
    with pytest.raises(ZeroDivisionError):
        next(failing)


def test_networks_are_compiled_on_a_gpu_if_that_is_asked_for(trained, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, **options: compiled.append(module))
    for device, asked, n in (("cpu", True, 0), ("cuda", False, 0), ("cuda", True, 4)):
        monkeypatch.setattr(setup_step, "device_of", lambda choice, device=device: device)
        steps = steps_in(trained.setup.run.folder, arms=["unet"], compile=asked)
        with OnGPU():
            networks = [steps.weights.load("unet"), *steps.readings.readers().values()]
        assert len(compiled) == n and compiled == [network.net for network in networks][:n]


def test_readers_and_lpips_go_to_the_device(trained, monkeypatch):
    monkeypatch.setattr(setup_step, "device_of", lambda choice: "cuda")
    steps, asked = steps_in(trained.setup.run.folder, arms=["unet"]), []
    with OnGPU() as gpu:
        steps.images.get("unet", 4)
        readers = steps.readings.readers()
        for reader in readers.values():
            assert {tuple(value.shape) for value in reader.net.parameters()} <= set(gpu.moved)
        gpu.moved.clear()
        steps.readings._read("unet", 4)
    n = len(steps.setup.rows(4))
    assert gpu.moved.count((n, 1, 32, 32)) == len(readers) == 3
    network = quality.lpips_network("cpu")
    monkeypatch.setattr(quality, "lpips_network", lambda device="cpu": asked.append(device) or network)
    with OnGPU() as gpu:
        steps.quality._measured(["unet"], 4)
    assert set(asked) == {"cuda"} and gpu.moved.count((n, 32, 32)) == 2
    quality.lpips_network = asked  # monkeypatch puts it back


def test_lpips_itself_moves_its_weights():
    with OnGPU() as gpu:
        network = quality.lpips_network.__wrapped__("cuda")
    assert {tuple(value.shape) for value in network.parameters()} <= set(gpu.moved)


def test_trainings_are_asked_for_on_the_device(trained, monkeypatch):
    from fairrecon_core.steps import weights as weights_step

    monkeypatch.setattr(setup_step, "device_of", lambda choice: "cuda")
    steps, asked = steps_in(trained.setup.run.folder, arms=["unet"], epochs=3, reader_epochs=3), []

    def instead(*given, **options):
        asked.append(options["accelerator"])
        raise KeyboardInterrupt

    for name in ("train_reconstructor", "train_reader"):
        monkeypatch.setattr(weights_step, name, instead)
    for make in (steps.weights.make_all, lambda arm: steps.readings.weights.make_all()):
        with pytest.raises(KeyboardInterrupt):
            make("unet")
    assert asked == ["cuda", "cuda"]


@pytest.mark.parametrize("what", ["unet", "pix2pix", "sde", "classifier", "segmenter", "lpips"])
def test_nothing_is_left_on_the_cpu_when_a_network_computes_on_a_gpu(what):
    """Fake tensors know their device and refuse, as a GPU would, to mix it with another."""
    readers = {"classifier": lambda: Classifier(["a"], "resnet18", size=64), "segmenter": lambda: Segmenter(2)}
    made = quality.LPIPS() if what == "lpips" else readers[what]() if what in readers else reconstructor(what, width=2)
    made.device = "cuda"
    with FakeTensorMode() as mode:
        network = made if what == "lpips" else getattr(made, getattr(made, "saved", "net"))
        for module in network.eval().requires_grad_(False).modules():
            for held in (module._parameters, module._buffers):
                held |= {key: mode.from_tensor(value).to("cuda") for key, value in held.items() if value is not None}
        images = torch.rand(2, 64, 64)
        if what == "lpips":
            answer = network(*torch.rand(2, 2, 3, 64, 64, device="cuda"))
        elif what in readers:
            answer = made._answer(images[:, None].to("cuda"))
        else:
            answer = made.restore(images, 4.0, ["a", "b"], 0, [0, 0], None)
    assert answer.device.type == "cuda" and len(answer) == 2


def test_a_training_goes_on_with_its_optimizer_where_its_modules_are(tmp_path, monkeypatch):
    import lightning_fabric

    noise = np.random.default_rng(1).random((6, 16, 16)).astype(np.float32)
    images = Images(noise, [f"i{k}" for k in range(6)])
    draw = pairs(images, images, degradation("mri"), [4], batch_size=3)
    options = {"epochs": 1, "folder": tmp_path, "progress": False, "accelerator": "cpu"}
    fit(UNetReconstructor(width=2), draw, **options)
    seen = []

    class Elsewhere:
        """A Fabric on another device, which looks at the optimizers it is given."""

        device, global_rank, world_size = torch.device("meta"), 0, 1

        def __init__(self, **options):
            pass

        def launch(self):
            pass

        def setup_module(self, module):
            return module

        def setup_optimizers(self, optimizer):
            places = {values["exp_avg"].device.type for values in optimizer.state.values()}
            owners = {parameter.device.type for group in optimizer.param_groups for parameter in group["params"]}
            seen.append((len(optimizer.state), places, owners))
            return optimizer

    monkeypatch.setattr(lightning_fabric, "Fabric", Elsewhere)
    with pytest.warns(UserWarning, match="no-op"), pytest.raises((NotImplementedError, RuntimeError)):
        fit(UNetReconstructor(width=2), draw, **options | {"epochs": 2})  # nothing can be computed there
    assert seen == [(46, {"meta"}, {"meta"})]


def test_out_of_memory_halves_the_batch_says_so_and_gives_the_same(capsys):
    tried = []

    def work(chunk):
        tried.append(len(chunk))
        if len(chunk) > 2:
            raise torch.OutOfMemoryError("full")
        return torch.tensor(chunk) * 2

    done = torch.cat(fitting(work, [list(range(8)), list(range(8, 13))], "unet"))
    assert done.tolist() == [2 * k for k in range(13)] and tried == [8, 4, 2, 2, 2, 2, 2, 2, 1]
    said = capsys.readouterr().out
    assert said.count("unet: out of GPU memory") == 2 and "2 images at a time" in said
    with pytest.raises(RuntimeError, match="unet: the GPU has no memory for one image: set device: cpu"):
        fitting(lambda chunk: work([0] * 3), [[1]], "unet")


def test_a_reader_that_runs_out_of_memory_reads_on(monkeypatch, capsys):
    reader = Segmenter(2)
    reader.device, reader.inference_batch = "gpu", 8
    logits = lambda images: (_ for _ in ()).throw(torch.OutOfMemoryError()) if len(images) > 4 else images * 2
    monkeypatch.setattr(reader, "_logits", logits)
    images = np.random.default_rng(0).random((11, 16, 16)).astype(np.float32)
    assert np.array_equal(reader.outputs(images)[:, 0].numpy(), images * 2)
    assert "reader segmenter: out of GPU memory, 4 images at a time" in capsys.readouterr().out
