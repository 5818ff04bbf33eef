"""The steps of a run as a graph: what each makes, and which others come before it.

A step is named by what it makes and can be done by any process that sees the run's folder: its product carries a stamp
and is put in place by a rename. So a step that is done twice costs a look, and one that was cut off is done again.
"""

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass

from fairrecon_core.reconstruct import DEGRADED, arm_class, base_arm, controls
from fairrecon_core.settings import load_settings
from fairrecon_core.steps.folder import Run, run_folder
from fairrecon_core.steps.pipeline import CohortSteps, open_cohorts

SHARDS = 4  # that a step streams: each is kept when it is done, and what they share is looked up once


@dataclass(frozen=True)
class Step:
    """One piece of a run's work: its kind, cohort, arm or reader, which one of these, and the names of what it needs.

    Kinds: train (weights of an arm), reader (weights of a reader), images (of an arm at a level), stream (all rows of
    some shards of images that are not kept), quality and read (rows of tables, of an arm at all levels).
    """

    kind: str
    cohort: str
    what: str
    which: tuple[tuple[str, float | None], ...] = ()
    needs: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Its name, unlike any other's in the run."""
        which = " ".join(f"{key}={value:g}" for key, value in self.which if value is not None)
        return f"{self.kind} {self.cohort} {self.what} {which}".strip()

    def do(self, every: dict[str, CohortSteps]) -> None:
        """Do it with the steps of `every` cohort, unless its product is current."""
        steps, which = every[self.cohort], dict(self.which)
        if self.kind == "train":
            steps.weights.make(self.what, **which)
        elif self.kind == "reader":
            steps.readings.weights.make(self.what, **which)
        elif self.kind == "images":
            steps.images.get(self.what, **which)
        elif self.kind == "stream":
            _stream(steps, **which)
        elif self.kind == "quality":
            steps.quality.measure(self.what)
        else:
            steps.readings.read(self.what)


def steps_of(every: dict[str, CohortSteps]) -> list[Step]:
    """All steps of a run's cohorts, each after those that it needs."""
    return [step for steps in every.values() for step in _of_cohort(steps)]


def _of_cohort(steps: CohortSteps) -> Iterator[Step]:
    setup, name = steps.setup, steps.name
    readers = [Step("reader", name, reader, (("fold", fold),)) for fold in setup.folds
               for reader in steps.readings.weights.untrained]  # fmt: skip
    if setup.run.settings.train:
        yield from readers
        for arm in dict.fromkeys(base_arm(arm) for arm in setup.arms()):
            for which in steps.weights.trainings(arm):
                yield Step("train", name, arm, tuple(which.items()))
    if steps.stream:
        yield from _streamed(steps)
        return
    read_after = tuple(reader.name for reader in readers if setup.run.settings.train)
    for arm in sorted(setup.arms(), key=lambda arm: arm != DEGRADED):
        images = [step for level in setup.levels for step in _images(steps, arm, level)]
        yield from images
        names = tuple(step.name for step in images)
        yield Step("quality", name, arm, needs=names)
        yield Step("read", name, arm, needs=(*names, *read_after))
    for arm in steps.arms_read():
        if arm in controls.NOT_RECONSTRUCTED:
            yield Step("read", name, arm, needs=read_after)


def _streamed(steps: CohortSteps) -> Iterator[Step]:
    """The steps of a run that keeps no images: shards of every level, after all trainings; then each arm's tables."""
    setup, name = steps.setup, steps.name
    trained: tuple[str, ...] = ()
    if setup.run.settings.train:
        readers = [("reader", r, {"fold": fold}) for fold in setup.folds for r in steps.readings.weights.untrained]
        arms = dict.fromkeys(base_arm(arm) for arm in setup.arms())
        networks = [("train", arm, which) for arm in arms for which in steps.weights.trainings(arm)]
        trained = tuple(Step(kind, name, what, tuple(w.items())).name for kind, what, w in [*readers, *networks])
    shards: dict[float, tuple[str, ...]] = {}
    for level in (setup.degradation.identity_level, *setup.levels):
        n = steps.stream.n_shards(arms_at(steps, level), level) if steps.stream else 0
        of_level = [
            Step("stream", name, "shards", (("level", level), ("first", k)), trained) for k in range(0, n, SHARDS)
        ]
        shards[level] = tuple(step.name for step in of_level)
        yield from of_level
    for arm in steps.arms_read():
        needs = tuple(step for level in setup.levels_of(arm) for step in shards[level])
        if arm in setup.arms():
            yield Step("quality", name, arm, needs=needs)
        yield Step("read", name, arm, needs=needs)


def arms_at(steps: CohortSteps, level: float) -> list[str]:
    """Arms that a run reads at a level."""
    return [arm for arm in steps.arms_read() if level in steps.setup.levels_of(arm)]


def _stream(steps: CohortSteps, level: float, first: int) -> None:
    """Make the rows of the `SHARDS` from the first on, of every arm that is read at a level."""
    if steps.stream is None:
        raise ValueError(f"images of {steps.name} are kept: nothing to stream (keep_images)")
    steps.stream.make(arms_at(steps, level), level, range(int(first), int(first) + SHARDS))


def _images(steps: CohortSteps, arm: str, level: float) -> Iterator[Step]:
    """The steps that make an arm's images at a level: one for each fold, training seed and sample."""
    setup, settings = steps.setup, steps.setup.run.settings
    for variant in setup.variants(arm):
        needs = []
        if arm_class(arm).reconstructs and DEGRADED in setup.arms():
            first = {"level": level, "fold": variant["fold"], "train_seed": 0, "sample": 0}
            needs.append(Step("images", steps.name, DEGRADED, tuple(first.items())).name)
        if arm_class(arm).learns and settings.train:
            whose = {"fold": variant["fold"], "train_seed": variant["train_seed"]}
            whose["level"] = level if settings.one_level_each else None
            needs.append(Step("train", steps.name, base_arm(arm), tuple(whose.items())).name)
        yield Step("images", steps.name, arm, tuple({"level": level, **variant}.items()), tuple(needs))


@functools.lru_cache(maxsize=1)
def opened(profile: str, overrides: str, start: str = "") -> dict[str, CohortSteps]:
    """The cohorts of a run, opened once in a process for each `start`; `overrides` as JSON."""
    given = json.loads(overrides)
    settings = load_settings(profile, **given)
    return open_cohorts(Run(run_folder(settings.profile, given), settings))
