"""The steps of a cohort, in the order of the pipe.

brain = open_cohorts(run)["brain"]
brain.weights.make_all("unet")                  # trained, unless they are shipped or current
images, rows = brain.images.get("unet", 8)      # (n, H, W), and the rows of the cohort they belong to
brain.quality.measure("degraded", "unet")       # rows of the table `quality`
brain.readings.weights.make_all()
brain.readings.read("unet")["predictions"]
"""

from collections.abc import Iterable
from dataclasses import dataclass

from fairrecon_core.cohort.folder import Cohort
from fairrecon_core.predict.classifier import Classifier
from fairrecon_core.predict.imagenet import BACKBONE, frozen_trunk
from fairrecon_core.predict.segmenter import Segmenter
from fairrecon_core.reconstruct import arm_class, controls
from fairrecon_core.steps.folder import Run
from fairrecon_core.steps.images import ArmImages
from fairrecon_core.steps.quality import Quality
from fairrecon_core.steps.readings import Readings
from fairrecon_core.steps.setup import Setup
from fairrecon_core.steps.stream import Stream
from fairrecon_core.steps.weights import Weights


@dataclass(frozen=True)
class CohortSteps:
    """What a run does with one cohort: set-up, weights, images, their quality, their readings."""

    setup: Setup
    weights: Weights
    images: ArmImages
    quality: Quality
    readings: Readings
    stream: Stream | None = None  # where images are not kept

    @property
    def name(self) -> str:
        """Name of the cohort."""
        return self.setup.cohort.name

    @property
    def cohort(self) -> Cohort:
        """The cohort: images, masks, and a table with one row each."""
        return self.setup.cohort

    @property
    def levels(self) -> tuple[float, ...]:
        """Levels at which its images are degraded."""
        return self.setup.levels

    @property
    def audit_level(self) -> float:
        """The level at which fairness is audited."""
        return self.setup.audit_level

    def arms_read(self, extra: Iterable[str] = controls.CONTROLS) -> list[str]:
        """Every arm that is read: clean, all with images, and of `extra` the controls that the cohort can fill."""
        left_out = self.images.controls_left_out
        return ["clean", *self.setup.arms(), *(arm for arm in extra if arm not in left_out)]


def open_cohort(run: Run, name: str) -> CohortSteps:
    """The steps of one cohort of a run, or of the shipped example run."""
    setup = Setup(run, name)
    weights = Weights(setup)
    images = ArmImages(setup, weights)
    quality, readings = Quality(images), Readings(images)
    stream = Stream(images, quality, readings) if setup.run.settings.keep_images else None
    quality.stream = readings.stream = stream
    return CohortSteps(setup, weights, images, quality, readings, stream)


def open_cohorts(run: Run) -> dict[str, CohortSteps]:
    """The steps of every cohort of a run's settings, by name.

    Raises
    ------
    ValueError
        The settings name an arm that is neither built in nor registered; better now than after an hour of work.
    ImportError
        The settings ask for ImageNet features, and their package is missing.
    """
    with_recipes = set(run.settings.recipes) - {Classifier.kind, Segmenter.kind}
    for arm in (*run.settings.classical, *run.settings.arms, *with_recipes):
        arm_class(arm)
    if run.settings.backbone == BACKBONE:
        frozen_trunk()
    return {name: open_cohort(run, name) for name in run.settings.cohorts}
