"""The step that measures image quality: rows of the table `quality`, made when missing or out of date."""

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from fairrecon_core.cohort.pixels import as_float
from fairrecon_core.predict import quality
from fairrecon_core.steps.images import ArmImages
from fairrecon_core.steps.stamps import Stamp, digest, stamp


class Quality:
    """How good the images of the arms of a cohort are.

    Parameters
    ----------
    images : ArmImages
    """

    stream: Any = None  # a `Stream`, where images are not kept

    def __init__(self, images: ArmImages):
        self.images, self.setup = images, images.setup

    def measure(self, *arms: str) -> pd.DataFrame:
        """Rows of the table `quality` of some arms, all levels, folds, training seeds and samples.

        Computed where missing or out of date; faster for several arms at once than for one after the other.
        """
        run, name, arms = self.setup.run, self.setup.cohort.name, tuple(dict.fromkeys(arms))
        if self.setup.is_excerpt:
            return pd.concat([run.read("quality", cohort=name, arm=arm) for arm in arms], ignore_index=True)
        frames = []
        for level in self.setup.levels:
            measured = self.stream.quality if self.stream else self._measured
            compute = lambda numbers, level=level, of=measured: of([arms[k] for k in numbers], level)
            frames.append(run.make_parts("quality", compute, [self.piece(arm, level) for arm in arms]))
            for arm in arms if self.stream else ():
                self.stream.forget("quality", arm, level)
        return pd.concat(frames, ignore_index=True)

    def piece(self, arm: str, level: float) -> tuple[Stamp, dict]:
        """What the quality of an arm at a level is made from, and the part of the table that it is."""
        made = stamp("fairrecon_core.steps.quality") | images_stamp(self.images, arm, level, self.setup.variants(arm))
        return made, {"cohort": self.setup.cohort.name, "arm": arm, "level": float(level)}

    def _measured(self, arms: list[str], level: float) -> list[pd.DataFrame]:
        """Quality of some arms at a level, chunk by chunk, a frame each."""
        setup = self.setup
        found: dict[str, list[pd.DataFrame]] = {arm: [] for arm in arms}
        for fold in setup.folds:
            which = [(arm, v) for arm in arms for v in setup.variants(arm) if v["fold"] == fold]
            stacks, rows = [self.images.get(arm, level, **v)[0] for arm, v in which], setup.rows(level, fold)
            for part in setup.chunks(rows):
                images = [as_float(stack[part]) for stack in stacks]
                for (arm, _), table in zip(which, self.frames(which, level, rows[part], images)):
                    found[arm].append(table)
        return [pd.concat(parts) for parts in found.values()]

    def frames(self, which: Sequence[tuple[str, dict]], level: float, rows, images: list) -> list[pd.DataFrame]:
        """Rows of the table, for each (arm, variant) in `which`, of its `images` (b, H, W) in [0, 1].

        `which`, `level` and `rows` as in `ArmImages.made`.
        """
        cohort, names = self.setup.cohort, self.setup.names_of(rows)
        clean, inside = cohort.images_at(rows), quality.head_mask if cohort.modality == "mri" else quality.film_mask
        measured = quality.measure_arms(images, clean, foreground=inside(clean), device=self.setup.device)
        keys = [{"cohort": cohort.name, "arm": arm, "level": float(level)} | variant for arm, variant in which]
        return [table.assign(image_id=names, **key) for key, table in zip(keys, measured)]


def images_stamp(images: ArmImages, arm: str, level: float, variants: Iterable[dict], split: str = "test") -> Stamp:
    """What depends on an arm's images depends on this: their code, so that a change of it can be named, and the rest.

    Parameters
    ----------
    images : ArmImages
    arm : str
    level : float
    variants : iterable of dict
        fold, train_seed and sample, as from `Setup.variants`.
    split : {"test", "validation"}
    """
    made: Stamp = {}
    for variant in variants:
        of_images = images.made_from(arm, level, images.setup.rows(level, variant["fold"], split, arm), **variant)
        made |= {key: value for key, value in of_images.items() if key.startswith("the code of ")}
        made[f"images {split} {'-'.join(map(str, variant.values()))}"] = digest(of_images)
    return made
