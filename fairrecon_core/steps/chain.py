"""The chain of one cohort in one run: degrade, reconstruct, measure, read.

`Chain` is the glue between the notebooks and the core. `image_chain` holds its first half, down to image quality; here
the frozen readers look at the images, and their thresholds are chosen.

    chain = Chain(run, "chest")
    images, rows = chain.images("unet", 10_000)      # (n, H, W), and the rows of the cohort they belong to
"""

from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from fairrecon_core.audit import choose_threshold
from fairrecon_core.predict.readers import Classifier, Reader, Segmenter, read_arm
from fairrecon_core.reconstruct import check_arm
from fairrecon_core.steps import recipes
from fairrecon_core.steps.folder import Run, content_hash
from fairrecon_core.steps.image_chain import CONTROLS, WEIGHTS, ImageChain, as_float, card_of

__all__ = ["CONTROLS", "WEIGHTS", "Chain", "arms_with", "as_float", "card_facts", "card_figures", "card_of", "chains"]


class Chain(ImageChain):
    """One cohort of a run, with its degradation, levels, reconstructors and readers.

    Parameters
    ----------
    run : Run
    cohort : str
        Name of a cohort of the run, or of the shipped example run.
    """

    def readers(self, fold: int = 0) -> dict[str, Reader]:
        """The frozen readers of a fold by name, loaded from shipped weights or trained in place.

        Brain tasks are learned one by one, chest findings together; a segmenter where the cohort has masks.
        """
        key = ("readers", fold)
        if key not in self._made:
            self._made[key] = {}
            for name, reader in self.blank_readers(fold).items():
                reader.load(self.reader_weights(name, fold))
                self._made[key][name] = reader
        return self._made[key]

    def blank_readers(self, fold: int = 0) -> dict[str, Reader]:
        """The readers of `fold` without weights."""
        options = {"backbone": self.settings.backbone, "learning_rate": recipes.READER_RATE}
        tasks = self.tasks(fold)
        if self.modality == "xray":
            made: dict[str, Reader] = {"findings": Classifier(tasks, **options)}
        else:
            made = {task.removeprefix("tumour_"): Classifier([task], **options) for task in tasks}
        if self.cohort.masks is not None:
            made["segmenter"] = Segmenter(width=self.settings.segmenter_width)
        return made

    def tasks(self, fold: int = 0) -> list[str]:
        """Tasks of the readers: those with positive and negative cases to learn from in every fold.

        Shipped readers know their own tasks.
        """
        wanted = [task for task in self.cohort.tasks if task in (self.settings.tasks or self.cohort.tasks)]
        if not self.settings.train:
            return wanted
        kept = []
        for task in wanted:
            label = self.cohort.table[f"y_{task}"].to_numpy(dtype=float)
            seen = [label[recipes.learning_rows(self.cohort, "train", "prediction", k)] for k in self.folds]
            if all((part == 1).any() and (part == 0).any() for part in seen):
                kept.append(task)
        return kept

    def reader_weights(self, name: str, fold: int = 0) -> Path:
        """File with a reader's weights: trained in place when `train` is set, otherwise shipped.

        Parameters
        ----------
        name : str
            Key of `readers`.
        fold : int
        """
        if not self.settings.train:
            return self._shipped(f"{self.name}-{name}.safetensors")
        s, folder = self.settings, self.place(f"reader-{name}", fold)
        reader, start = self.blank_readers(fold)[name], self._start(name, "grade")
        wants = [reader.settings, s.reader_epochs, s.precision, recipes.READER_RATE, start, s.augment]
        wants += [self.cohort.info["content_hash"], fold]
        stamp, path = content_hash(wants), folder / "weights.safetensors"
        if not (path.exists() and card_of(path).get("stamp") == stamp):
            options = {"folder": folder / f"training-{stamp[:8]}", "fold": fold, "epochs": s.reader_epochs}
            options |= {"precision": s.precision, "start": start, "augment": s.augment}
            losses = recipes.train_reader(reader, self.cohort, **options)
            facts = {"start_from": s.start_from, "losses": losses.to_dict("list")}
            reader.save(path, stamp=stamp, epochs=s.reader_epochs, **facts)
        self._finished(path, folder)
        return path

    def read(self, arm: str) -> dict[str, pd.DataFrame]:
        """Rows of the tables `predictions` and, with a segmenter, `overlap` of an arm; computed when stale.

        `clean` is read on test and validation images, the others on test images (and on validation images under the
        threshold policy `validation_per_arm`).

        Parameters
        ----------
        arm : str
            `clean`, an arm with images, or a control.
        """
        wanted = ["predictions"] * bool(self.tasks()) + ["overlap"] * (self.cohort.masks is not None)
        if self.is_excerpt:
            return {table: self.run.read(table, cohort=self.name, arm=arm) for table in wanted}
        frames: dict[str, list] = {table: [] for table in wanted}
        for level in self.levels_of(arm):
            both: list = []

            def compute(table, arm=arm, level=level, both=both):
                both or both.append(self._read(arm, level))
                return both[0][table]

            inputs = [*self._read_stamps(arm, level), self.settings.threshold_policy]
            key = {"cohort": self.name, "arm": arm, "level": float(level)}
            for table in wanted:
                frames[table].append(self.run.make(table, lambda table=table: compute(table), inputs=inputs, **key))
        return {table: pd.concat(parts, ignore_index=True) for table, parts in frames.items()}

    def levels_of(self, arm: str) -> list[float]:
        """Levels at which an arm is read: `clean` at the identity, controls at the audited one, others at all."""
        if arm == "clean":
            return [self.degradation.identity_level]
        return [self.audit_level] if arm in CONTROLS else list(self.levels)

    def _parts(self, arm: str, level: float) -> Iterator[tuple[str, dict]]:
        """(split, variant) of everything that is read of an arm at a level."""
        for variant in self.variants(arm):
            yield "test", variant
            per_arm = self.settings.threshold_policy == "validation_per_arm" and level == self.audit_level
            if arm == "clean" or (per_arm and arm not in CONTROLS):
                yield "validation", variant

    def _read_stamps(self, arm: str, level: float) -> list:
        stamps: list = [self.reader_weights(name, fold) for fold in self.folds for name in self.blank_readers(fold)]
        if arm == "clean" or arm in CONTROLS:
            return [*stamps, self.cohort.info["content_hash"], self.settings.control_share]
        return stamps + [
            self._image_stamp(arm, level, self.rows(level, v["fold"], split), **v)
            for split, v in self._parts(arm, level)
        ]

    def _read(self, arm: str, level: float) -> dict[str, pd.DataFrame]:
        found = []
        for split, variant in self._parts(arm, level):
            readers = self.readers(variant["fold"]).values()
            classifiers = [reader for reader in readers if isinstance(reader, Classifier)]
            segmenter = next((reader for reader in readers if isinstance(reader, Segmenter)), None)
            batches = self.batches(arm, level, split=split, **variant)
            key = {"cohort": self.name, "arm": arm, "level": float(level)} | variant
            found.append(read_arm(batches, classifiers, segmenter, **key))
        return {table: pd.concat(parts) for table, parts in zip(("predictions", "overlap"), zip(*found))}

    def thresholds(self, predictions: pd.DataFrame, policy: str = "validation_frozen") -> pd.DataFrame:
        """Rows of the table `thresholds` under one policy, the frozen ones from `clean`.

        Parameters
        ----------
        predictions : DataFrame
            Table `predictions` of all arms, validation rows of `clean` included.
        policy : str
            One of `audit.thresholds.POLICIES`.

        Returns
        -------
        DataFrame
            `value` is NaN where the source lacks a positive or a negative case.
        """
        split, scope = policy.split("_", 1)
        rows = []
        sources = predictions[predictions["arm"] == "clean"] if scope == "frozen" else predictions
        keys = ["task", "arm", "level", "fold", "train_seed"]
        for fold, of_fold in sources.groupby("fold"):
            chosen = set(self.names_of(self.cohort.select(split, "prediction", int(fold))))
            of_fold = of_fold[of_fold["image_id"].isin(chosen)]
            for key, part in of_fold.groupby(keys, observed=True):
                truth = (
                    self.cohort.table.set_index("image_id")[f"y_{key[0]}"]
                    .reindex(part["image_id"])
                    .to_numpy(dtype=float)
                )
                known = ~np.isnan(truth)
                value = choose_threshold(part["score"].to_numpy()[known], truth[known]) if known.any() else np.nan
                rows.append(dict(zip(keys, key)) | {"value": value, "n": int(known.sum())})
        return pd.DataFrame(rows).assign(
            cohort=self.name, policy=policy, chosen_on=f"{split}, {'clean' if scope == 'frozen' else 'own arm'}"
        )

    @cached_property
    def attributes(self) -> list[str]:
        """Attributes of which at least two subgroups are known in this cohort."""
        known = lambda column: set(self.cohort.table[column]) - {"unknown"}
        return [column for column in ("sex", "age_group", "race") if len(known(column)) > 1]


def chains(run: Run) -> dict[str, Chain]:
    """One chain for every cohort of a run's settings.

    Raises
    ------
    ValueError
        The settings name an arm that is neither built in nor registered; better now than after an hour of work.
    """
    for arm in (*run.settings.classical, *run.settings.arms):
        check_arm(arm.removesuffix("_dc"))
    return {name: Chain(run, name) for name in run.settings.cohorts}


def card_facts(every: dict[str, Chain], arm: str) -> pd.DataFrame:
    """What the model cards of an arm say of its training, one column per cohort."""
    long = ("losses", "test", "stamp")
    cards = {name: chain.card(arm) for name, chain in every.items()}
    return pd.DataFrame(
        {name: {key: str(value) for key, value in card.items() if key not in long} for name, card in cards.items()}
    ).fillna("")


def card_figures(every: dict[str, Chain], arm: str) -> pd.DataFrame:
    """What an arm's weights reached on test images when they were made; empty if they were trained in this run."""
    figures = {name: pd.DataFrame(chain.card(arm).get("test", {})).T for name, chain in every.items()}
    return pd.concat(figures, names=["cohort", "arm and level"])


def arms_with(chain: Chain, extra: Iterable[str] = CONTROLS) -> list[str]:
    """Every arm that is read: clean, all with images, and the controls."""
    return ["clean", *chain.arms(), *extra]
