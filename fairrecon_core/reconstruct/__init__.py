"""Reconstructors: what makes an image out of too few spokes or photons.

A reconstructor is a class with a `name`, a `fit` and a `__call__`, decorated with `@register`; the contract tests run
over the registry, so a newcomer is tested unasked. It is called as
`reconstructor(degraded, level, image_ids=..., seed=0, sample=0, measurement=None)` with float32 images (B, H, W) or
(H, W) in [0, 1] and returns images of the same shape and range. Randomness, if any, follows from
`(seed, image_id, level, sample)`. A simple one ignores the keywords.
"""

import importlib
from collections.abc import Sequence
from typing import TypeVar

import pandas as pd
import torch
from torch import Tensor

from fairrecon_core.degrade import Degrades, Measurement
from fairrecon_core.learn.loop import Images
from fairrecon_core.learn.threads import equal_chunks
from fairrecon_core.settings import Settings, suggest

DEGRADED = "degraded"  # the arm that all others begin with
REGISTRY: dict[str, type["Reconstructor"]] = {}
# built in: the module is imported when its reconstructor is first asked for
HOMES = {
    "degraded": "classical",
    "tv": "classical",
    "nlm": "classical",
    "unet": "unet",
    "pix2pix": "pix2pix",
    "sde": "sde",
}


class Reconstructor:
    """Base of all reconstructors: checks what comes in, clips what goes out, and works in chunks of a fixed size.

    Parameters
    ----------
    modality : {"mri", "xray"}

    Notes
    -----
    A new one overrides `restore` (and `fit`, if it learns), or `__call__` itself. What else there is to know of an arm
    stands in these attributes of its class, and nowhere else:

    name : the arm. label, colour, marker, line : how it is shown; a change of these makes no work stale.
    reconstructs : whether it makes anything of the degraded image.
    stochastic : whether `sample` matters. learns : whether it has weights on disk, as a `NetworkReconstructor`.
    needs_measurement : whether it is called with what the scanner recorded.
    at_inference : parameters that do not matter to its weights.
    n_tuning : how many validation images `fit` gets, if that is all that it looks at.
    device, inference_batch : where a network computes, and how many images at a time; a run sets them on the object.
    """

    name = ""
    label, colour, marker, line = "", "#56B4E9", "P", "-"
    reconstructs, stochastic, learns, needs_measurement = True, False, False, False
    at_inference: tuple[str, ...] = ()
    n_tuning: int | None = None
    device, inference_batch = "cpu", 32

    @classmethod
    def options(cls, settings: Settings, modality: str) -> dict:
        """Options of the class that the `settings` of a run decide for a `modality`: none."""
        return {}

    def __init__(self, modality: str = "mri"):
        if modality not in ("mri", "xray"):
            raise ValueError(f"modality is 'mri' or 'xray', got {modality!r}")
        self.modality = modality

    def fit(
        self,
        train: Images,
        validation: Images,
        degradation: Degrades,
        levels: Sequence[float],
        *,
        seed: int = 0,
        **options,
    ) -> pd.DataFrame:
        """Learn, or tune, on clean images that are degraded as they are drawn; the table of losses, empty by default.

        Parameters
        ----------
        train, validation : Images
        degradation : Degradation, or what is called like one
        levels : sequence of float
            One fit may cover several; a list of one is the paper's setting.
        seed : int
        **options
            Of `learn.loop.fit`, for a network.
        """
        return pd.DataFrame()

    def restore(
        self,
        degraded: Tensor,
        level: float,
        image_ids: list[str],
        seed: int,
        sample: Sequence[int],
        measurement: Measurement | None,
    ) -> Tensor:
        """Images (B, H, W) for degraded images (B, H, W), one name and sample each; to be overridden."""
        raise NotImplementedError

    @torch.inference_mode()
    def __call__(
        self,
        degraded,
        level: float,
        *,
        image_ids: str | Sequence[str],
        seed: int = 0,
        sample: int | Sequence[int] = 0,
        measurement: Measurement | None = None,
    ) -> Tensor:
        """Reconstruct.

        Parameters
        ----------
        degraded : Tensor or array, float, shape (B, H, W) or (H, W)
            In [0, 1].
        level : float
            The level at which it was degraded.
        image_ids : sequence of B names, or one name for a single image
        seed, sample : int
            With the name and level they decide the noise of a stochastic reconstructor. `sample` may be one per image.
        measurement : Measurement, optional
            What the scanner recorded, for those that use it.

        Returns
        -------
        Tensor, float32, shaped as `degraded`
            In [0, 1], on the CPU.

        Raises
        ------
        ValueError
            Images of another shape than (B, H, W) or (H, W), not finite or not in [0, 1]; not one name, or another
            number of samples, per image.
        """
        batch, alone = as_batch(degraded), torch.as_tensor(degraded).ndim == 2
        names = [image_ids] if isinstance(image_ids, str) else [str(name) for name in image_ids]
        if len(names) != len(batch):
            raise ValueError(f"need one image_id per image: got {len(names)} for {len(batch)} images")
        draws = list(sample) if isinstance(sample, Sequence) else [sample] * len(batch)
        if len(draws) != len(batch):
            raise ValueError(f"need one sample for all images or one for each: got {len(draws)} for {len(batch)}")
        if measurement is not None and alone:
            measurement = measurement.at(None)

        def part(rows: list[int]) -> Tensor:
            measured = None if measurement is None else measurement.at(rows)
            which = [draws[row] for row in rows]
            return self.restore(batch[rows], float(level), [names[row] for row in rows], seed, which, measured)

        done = self.work(part, equal_chunks(len(batch), self.chunk(len(batch))))
        images = torch.cat(done)[: len(batch)].float().cpu().clamp(0, 1)
        return images[0] if alone else images

    def work(self, part, chunks: list) -> list[Tensor]:
        """`part(chunk)` of every chunk, in order."""
        return [part(chunk) for chunk in chunks]

    def chunk(self, n: int) -> int:
        """How many of `n` images `restore` gets at a time: one."""
        return 1


def as_batch(images) -> Tensor:
    """Images as float32 (B, H, W).

    Raises
    ------
    ValueError
        Another number of axes (say, colour channels), an empty axis, values not finite or not in [0, 1].
    """
    images = torch.as_tensor(images, dtype=torch.float32)
    batch = images[None] if images.ndim == 2 else images
    if batch.ndim != 3 or 0 in batch.shape:
        shape = tuple(images.shape)
        raise ValueError(f"images are (B, H, W) or (H, W) with one channel, got {shape}: drop the channel axis")
    low, high = (float(value) for value in batch.aminmax())
    if not (low >= 0 and high <= 1):  # also catches NaN
        raise ValueError(f"intensities run from {low:g} to {high:g}: a reconstructor takes finite images in [0, 1]")
    return batch


Kind = TypeVar("Kind", bound=type[Reconstructor])


def register(kind: Kind) -> Kind:
    """Class decorator: make the reconstructor `kind` known under its `name`.

    Raises
    ------
    ValueError
        It has no name, or another class has it.
    """
    if not getattr(kind, "name", ""):
        raise ValueError(f"{kind.__name__} needs a name, such as name = 'mine'")
    taken = REGISTRY.get(kind.name)
    if kind.name in HOMES and kind.__module__ != f"{__name__}.{HOMES[kind.name]}":
        raise ValueError(f"the name {kind.name!r} is built in: choose another for {kind.__qualname__}")
    if taken and (taken.__module__, taken.__qualname__) != (kind.__module__, kind.__qualname__):
        raise ValueError(f"the name {kind.name!r} is taken by {taken.__qualname__}: choose another")
    REGISTRY[kind.name] = kind
    return kind


def reconstructor(name: str, modality: str = "mri", **options):
    """Make a reconstructor by name.

    Parameters
    ----------
    name : str
        An arm: degraded, tv, nlm, unet, pix2pix, sde, or one added with `register`; with `_dc`, and data consistency.
    modality : {"mri", "xray"}
    **options
        Of the class, such as `width=16`.

    Raises
    ------
    ValueError
        Unknown arm; the message lists the known ones.
    """
    made = arm_class(name)(modality=modality, **options)
    return consistency_class()(made) if is_consistent(name) else made


def arm_class(name: str) -> type[Reconstructor]:
    """Class of an arm, without its `_dc`; ValueError for an unknown one, the message lists those that are known."""
    base = base_arm(name)
    if base not in names():
        raise ValueError(f"unknown arm {name!r}{suggest(name, names())}; known arms: {', '.join(names())}")
    if base in HOMES:
        importlib.import_module(f"{__name__}.{HOMES[base]}")
    return REGISTRY[base]


def base_arm(name: str) -> str:
    """The arm whose weights `name` uses: `unet` for `unet_dc`."""
    return name.removesuffix("_dc") if is_consistent(name) else name


def is_consistent(name: str) -> bool:
    """Whether `name` is an arm with data consistency, such as `unet_dc`."""
    return name.endswith("_dc") and name not in names()


def consistency_class() -> type:
    """`consistency.DataConsistent`; imported when asked for, so that the other arms do not depend on it."""
    return importlib.import_module(f"{__name__}.consistency").DataConsistent


def names() -> list[str]:
    """Names of all arms that can be made, built in or registered."""
    return list(dict.fromkeys([*HOMES, *REGISTRY]))
