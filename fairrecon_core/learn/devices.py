"""Where networks compute: the device that a run asks for, and batches that fit into its memory."""

from collections.abc import Callable, Sequence

import torch


def device_of(choice: str) -> str:
    """The device for a setting `choice` of auto, cpu, cuda or mps; "auto" is cuda where there is one, else cpu.

    ValueError for another choice, and for a device that is not there.
    """
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if choice != "auto" and not there.get(choice):
        known = ", ".join(["auto", *(name for name, found in there.items() if found)])
        raise ValueError(f"no device {choice!r} here: set device to one of {known}")
    return choice if choice != "auto" else "cuda" if there["cuda"] else "cpu"


def fitting(work: Callable, chunks: Sequence, what: str) -> list:
    """`work(chunk)` of every chunk, in order; chunks are halved from where the GPU runs out of memory.

    Parameters
    ----------
    work : callable
    chunks : sequence
        Of lists or tensors.
    what : str
        Who works, for the line that says so, and for the RuntimeError if a single image does not fit.
    """
    done, most = [], max((len(chunk) for chunk in chunks), default=1)
    for chunk in chunks:
        while len(chunk):
            try:
                done.append(work(chunk[:most]))
                chunk = chunk[most:]
            except torch.OutOfMemoryError:
                if most == 1:
                    raise RuntimeError(f"{what}: the GPU has no memory for one image: set device: cpu") from None
                most = (min(most, len(chunk)) + 1) // 2
                torch.cuda.empty_cache()
                print(f"{what}: out of GPU memory, {most} images at a time from here on (inference_batch)")
    return done
