"""From T1 to T2: the same network translates a contrast, and what it draws where the input shows nothing.

The T1 images do not show oedema at all (`simulate.contrasts`, silent). A patient with oedema and the same patient
without it have the same T1 image, so the network draws the same T2 image for both. What share of the oedema it draws is
what it has learned to expect; on the patient without, all of that is invented.
Conventions: images (n, H, W) in [0, 1]; one slice per patient; intervals as in `compare`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from fairrecon_core.audit import audit_change
from fairrecon_core.audit.engine import patient_weights
from fairrecon_core.learn.loop import Images
from fairrecon_core.predict.quality import measure as image_quality
from fairrecon_core.reconstruct import arm_class, reconstructor
from fairrecon_lab.mitigation.compare import interval
from fairrecon_lab.mitigation.kept import Steps, current
from fairrecon_lab.mitigation.measure import lesion_contrast
from fairrecon_lab.mitigation.worlds import brain_patient
from fairrecon_lab.simulate import patient_table
from fairrecon_lab.simulate.contrasts import render_contrasts

LEVEL = 2.0  # what the network is told; it has one task, so any number does
SEEDS = {"train": 301, "test": 302}
QUANTITIES = ("psnr_db", "silent_share", "error_silent", "error_core", "error_rest")


@dataclass(frozen=True)
class TranslationRecipe:
    """Everything that decides a figure: sizes in patients, side in pixels, the network and its training."""

    size: int = 64
    arm: str = "unet"
    width: int = 8
    epochs: int = 5
    rate: float = 2e-3
    n_train: int = 120
    n_test: int = 100
    batch_size: int = 8
    seeds: tuple[int, ...] = (0, 1, 2)
    n_boot: int = 2000


RECIPES = {
    "smoke": TranslationRecipe(size=32, width=4, epochs=1, n_train=12, n_test=24, seeds=(0,), n_boot=200),
    "tutorial": TranslationRecipe(epochs=4, n_train=80, n_test=40, seeds=(0,), n_boot=400),
    "registered": TranslationRecipe(),
    "full": TranslationRecipe(size=128, width=16, epochs=12, n_train=1200, n_test=800, seeds=(0, 1, 2, 3, 4),
                              n_boot=10_000),
}  # fmt: skip


class Translation(Steps):
    """The steps of one recipe in one folder; parameters as those of `kept.Steps`."""

    def __init__(self, recipe: TranslationRecipe, folder: Path, say: Callable[[str], object] = lambda line: None):
        super().__init__(recipe, folder, say)
        self.pools: dict[str, dict[str, Any]] = {}

    def pool(self, split: str) -> dict[str, Any]:
        """Arrays t1, t2, dry (T2 without oedema), mask, silent, and the `table`, of a `split`; made once."""
        if split not in self.pools:
            recipe, path = self.recipe, self.folder / f"translation-{split}.npz"
            mark = self.mark("pool", "fairrecon_lab.simulate.contrasts", names=("size", f"n_{split}"), split=split)
            if not current(path, mark):
                self.say(f"draw {path.stem}")
                found, table = draw(getattr(recipe, f"n_{split}"), SEEDS[split], recipe.size)
                table.to_parquet(path.with_suffix(".parquet"))
                self.keep(path, mark, lambda part: np.savez(part, **found))
            with np.load(path) as stored:
                arrays = {name: stored[name] for name in stored.files}
            self.pools[split] = arrays | {"table": pd.read_parquet(path.with_suffix(".parquet"))}
        return self.pools[split]

    def network(self, seed: int):
        """The network of a training seed, trained once on T1 and T2 of the training patients.

        Parameters
        ----------
        seed : int
        """
        recipe, path = self.recipe, self.folder / f"translation-{seed}.safetensors"
        options = arm_class(recipe.arm).short_training | {"learning_rate": recipe.rate}
        made = reconstructor(recipe.arm, "mri", width=recipe.width, **options)
        names = [name for name in vars(recipe) if name not in ("seeds", "n_boot", "n_test")]
        mark = self.mark("translation", "fairrecon_core.reconstruct." + recipe.arm, "fairrecon_lab.simulate.contrasts",
                         names=names, seed=seed)  # fmt: skip
        if not current(path, mark):
            self.say(f"train {path.stem}")
            pool = self.pool("train")
            t1 = dict(zip(pool["table"]["image_id"], pool["t1"]))
            images = Images(pool["t2"], list(pool["table"]["image_id"]))
            few = Images(images.pixels[:16], images.names[:16])
            translate = lambda clean, level, ids, seed=0: torch.from_numpy(np.stack([t1[name] for name in ids]))
            made.fit(images, few, translate, [LEVEL], seed=seed, batch_size=recipe.batch_size, epochs=recipe.epochs,
                     progress=False, accelerator="cpu", precision="32-true")  # fmt: skip
            self.keep(path, mark, made.save)
        made.load(path)
        return made

    def readings(self) -> pd.DataFrame:
        """One row per test patient and seed: `QUANTITIES`, sex, size of the silent part in pixels."""
        pool, rows = self.pool("test"), []
        for seed in self.recipe.seeds:
            drawn = self.network(seed)(pool["t1"], LEVEL, image_ids=list(pool["table"]["image_id"])).numpy()
            rows.append(read(drawn, pool).assign(train_seed=seed))
        return pd.concat(rows, ignore_index=True)


def draw(n: int, seed: int, size: int) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """T1 and T2 of `n` patients of the causal model of `seed`, at side `size`, and their table."""
    table = patient_table("brain", n, seed=seed)
    found: dict[str, list] = {"t1": [], "t2": [], "dry": [], "mask": [], "silent": []}
    for i, row in zip(table.index, table.to_dict("records")):
        patient = brain_patient(row, int(i), seed)
        whole, dry = (render_contrasts(patient, size, oedema=oedema) for oedema in (True, False))
        for name, value in (("t1", whole.images["t1"]), ("t2", whole.images["t2"]), ("dry", dry.images["t2"]),
                            ("mask", whole.mask), ("silent", whole.silent)):  # fmt: skip
            found[name].append(value)
    table.insert(0, "image_id", table["patient_id"] + "-t2")
    return {name: np.stack(values) for name, values in found.items()}, table


def read(drawn: np.ndarray, pool: dict) -> pd.DataFrame:
    """What a network drew, patient by patient.

    Parameters
    ----------
    drawn : array, shape (n, H, W)
        T2 images that a network made of T1.
    pool : dict
        From `Translation.pool`.

    Returns
    -------
    DataFrame
        psnr_db; silent_share: what share of the invisible oedema was drawn (0 none, 1 all); error_silent, error_core,
        error_rest: mean of drawn less true over the silent part, the rest of the tumour, the rest of the brain, in grey
        values; `silent` pixels. NaN where a part has fewer than 10 pixels.
    """
    t2, dry, silent, mask = pool["t2"], pool["dry"], pool["silent"], pool["mask"]
    few = silent.sum(axis=(1, 2)) < 10
    parts = {"silent": silent, "core": mask & ~silent, "rest": (t2 > 0) & ~mask}
    table = pd.DataFrame({"patient_id": pool["table"]["patient_id"], "sex": pool["table"]["sex"]})
    table["psnr_db"] = image_quality(drawn, t2, with_lpips=False)["psnr_db"].to_numpy()
    table["silent_share"] = np.where(few, np.nan, lesion_contrast(drawn, t2, dry))
    for name, region in parts.items():
        n = region.sum(axis=(1, 2))
        error = ((drawn - t2) * region).sum(axis=(1, 2)) / np.maximum(n, 1)
        table[f"error_{name}"] = np.where(n < 10, np.nan, error)
    return table.assign(silent=silent.sum(axis=(1, 2)))


def translation_table(read: pd.DataFrame, n_boot: int = 2000, seed: int = 1) -> pd.DataFrame:
    """Means over patients by sex, and the gap between the sexes, with intervals over patients and training seeds.

    Parameters
    ----------
    read : DataFrame
        From `Translation.readings`.
    n_boot, seed : int

    Returns
    -------
    DataFrame
        quantity, subgroup ("all", "female", "male", "gap"), value, low, high, n (patients with the part), n_seeds.
    """
    wide = {q: read.pivot(index="train_seed", columns="patient_id", values=q) for q in QUANTITIES}
    people = read.drop_duplicates("patient_id").set_index("patient_id").loc[wide["psnr_db"].columns]
    n_seeds = len(wide["psnr_db"])
    weights = np.concatenate([np.ones((1, len(people))), *patient_weights(len(people), n_boot, seed)])
    rows = []
    for quantity, values in wide.items():
        drawn = {}
        for group in ("all", "female", "male"):
            known = np.isfinite(values.to_numpy()) & ((people["sex"] == group).to_numpy() | (group == "all"))
            with np.errstate(invalid="ignore", divide="ignore"):
                means = weights @ np.where(known, values, 0).T / (weights @ known.T)
            drawn[group] = means
            rows.append({"quantity": quantity, "subgroup": group, **_told(means),
                         "n": int(known.all(axis=0).sum())})  # fmt: skip
        rows.append({"quantity": quantity, "subgroup": "gap", **_told(drawn["female"] - drawn["male"])})
    return pd.DataFrame(rows).assign(n_seeds=n_seeds)


def translation_audit(read: pd.DataFrame, pool: dict, n_boot: int = 2000, seed: int = 1, min_support: int = 10):
    """The audit of the translated images by sex: PSNR against the true T2, beside the T1 image taken for it.

    Parameters
    ----------
    read : DataFrame
        From `Translation.readings`.
    pool : dict
        Of the test patients, from `Translation.pool`.
    n_boot, seed, min_support : int
        As in `audit_change`.

    Returns
    -------
    DataFrame
        Rows of the audit table; arm "translated", baseline "t1".
    """
    cohort = pool["table"].assign(split="test")
    names = cohort.set_index("patient_id")["image_id"]
    drawn = pd.DataFrame({"image_id": names.loc[read["patient_id"]].to_numpy(), "arm": "translated",
                          "train_seed": read["train_seed"], "psnr_db": read["psnr_db"]})  # fmt: skip
    as_it_is = image_quality(pool["t1"], pool["t2"], with_lpips=False)["psnr_db"].to_numpy()
    shown = pd.DataFrame({"image_id": cohort["image_id"], "arm": "t1", "psnr_db": as_it_is})
    both = pd.concat([drawn, shown.merge(drawn[["train_seed"]].drop_duplicates(), how="cross")])
    return audit_change(both, cohort, "sex", baseline_arm="t1", arms=["translated"], n_boot=n_boot, seed=seed,
                        min_support=min_support)  # fmt: skip


def _told(means: np.ndarray) -> dict[str, float]:
    """Mean over seeds of (resamples, seeds), with its interval."""
    low, high = interval(means.mean(axis=1), means[0])
    return {"value": means[0].mean(), "low": low, "high": high}
