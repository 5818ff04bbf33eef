"""A degradation with a memory: each image is degraded once per level, and training reads it back ever after.

Degrading costs about a third of a training step on a CPU. Cached images have the same noise in every epoch, which
a network of this size does not notice when there are thousands of them; mirrored copies are images of their own.
On disk: `<level>.npy` (uint16) and `<level>-known.npy` (bool), in the order of the names.
"""

import contextlib
import hashlib
import os
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from fairrecon_core.cohort.pixels import as_float, as_uint16
from fairrecon_core.degrade import Degradation


class CachedDegradation:
    """Wraps a `Degradation`; called in the same way, but `seed` counts only the first time an image is seen.

    Parameters
    ----------
    degradation : Degradation
    names : sequence of str
        All `image_id` that will be asked for.
    size : int
        Height and width of the images.
    folder : path
        Where they are kept; one folder serves several trainings on the same images, also at once.
    seed : int
        Of the noise.
    made_from : mapping
        A stamp of what the degraded images depend on besides, such as the code: another one, another folder.
    """

    def __init__(
        self,
        degradation: Degradation,
        names,
        size: int,
        folder: str | Path,
        seed: int = 0,
        made_from: dict | None = None,
    ):
        self.degradation, self.seed, self.size = degradation, seed, size
        self.row_of = {str(name): k for k, name in enumerate(names)}
        plain = {key: value for key, value in vars(degradation).items() if isinstance(value, str | int | float | tuple)}
        what = (type(degradation).__name__, sorted(plain.items()), list(self.row_of), size, seed, made_from)
        key = hashlib.sha256(repr(what).encode()).hexdigest()[:16]
        self.folder = Path(folder) / key
        self.folder.mkdir(parents=True, exist_ok=True)
        self.levels: dict[float, tuple[np.ndarray, np.ndarray]] = {}

    def __call__(self, images, level: float, image_ids, seed: int = 0) -> Tensor:
        """Degraded images (B, H, W); KeyError for a name that was not announced."""
        stored, known = self.levels.get(level) or self._open(level)
        rows = np.array([self.row_of[str(name)] for name in image_ids])
        new = np.flatnonzero(~known[rows])
        if len(new):
            names = [str(image_ids[k]) for k in new]
            degraded = self.degradation(torch.as_tensor(images)[new], level, names, seed=self.seed)
            stored[rows[new]] = as_uint16(degraded)
            known[rows[new]] = True
        return torch.from_numpy(as_float(stored[rows]))

    def _open(self, level: float) -> tuple[np.ndarray, np.ndarray]:
        """The two files of a level, made when missing."""
        pair = []
        for end, dtype, shape in (("", np.uint16, (self.size, self.size)), ("-known", np.bool_, ())):
            path = self.folder / f"{level:g}{end}.npy"
            if not path.exists():  # made beside it and linked: another training may be making the same
                part = path.with_name(f"{path.name}.{os.getpid()}.part")
                open_memmap(part, mode="w+", dtype=dtype, shape=(len(self.row_of), *shape)).flush()
                with contextlib.suppress(FileExistsError):
                    os.link(part, path)
                part.unlink()
            pair.append(open_memmap(path, mode="r+"))
        self.levels[level] = (pair[0], pair[1])
        return self.levels[level]
