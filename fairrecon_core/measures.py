"""The one table of metrics: what each is called, its unit, how it is printed, and which direction is better.

Quality, tables, audit, report and plots read it. A new metric of images is a row here and a formula in
`predict/quality.py`; a new metric of readings is a row here and a formula in `audit/metrics.py`.
"""

import math
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """One metric.

    Parameters
    ----------
    label : str
        As it is printed.
    unit : str
        Key of `UNITS`, or a word of its own, for a number on a scale of 0 to 1.
    decimals : int
        With which it is printed.
    better : {"higher", "lower", ""}
        Which direction is better; "" for neither.
    of_images : bool
        Whether it is measured on an image against its clean original: a column of the table `quality`.
    low, high : float
        What a table may hold.
    gap : str
        Name of its max-min gap between subgroups; `<name>_gap` if left out.
    """

    label: str
    unit: str
    decimals: int = 3
    better: str = ""
    of_images: bool = False
    low: float = -math.inf
    high: float = math.inf
    gap: str = ""


@dataclass(frozen=True)
class Unit:
    """A unit: `decimals` of its numbers, and the `margin` within which a change does not matter, with a `reason`.

    A margin of None is the one that the caller of the audit gives for numbers on a scale of 0 to 1.
    """

    decimals: int = 3
    margin: float | None = None
    reason: str = "a guess: one in twenty patients"


UNITS = {
    "rate": Unit(),
    "probability": Unit(3, 0.02, "a guess: two patients in a hundred, of a mean over all patients"),
    "auroc": Unit(3, 0.02, "a guess: about the step between two generations of a network"),
    "auprc": Unit(3, 0.02, "a guess: as of an AUROC"),
    "brier": Unit(3, 0.01, "a guess: half of what an error of .1 adds to a sure score"),
    "slope": Unit(2, 0.2, "a guess: scores up to a fifth too extreme, or too flat, pass as calibrated"),
    "dice": Unit(3, 0.05, "a guess: about what two readers of one tumour differ by"),
    "volume": Unit(3, 0.05, "a guess: a twentieth of a tumour"),
    "flips": Unit(3, 0.02, "a guess: two decisions in a hundred"),
    "ssim": Unit(3, 0.01, "a guess: reconstructions of one generation differ by as much"),
    "nmse": Unit(4, 0.005, "a guess: half a percent of the image's energy"),
    "lpips": Unit(3, 0.01, "a guess: a tenth of what separates a blurred image from a sharp one"),
    "dB": Unit(2, 0.5, "a guess: about what the eye tells apart side by side"),
    "logit": Unit(2, 0.25, "a guess: it moves a probability of .5 by .06"),
    "ratio": Unit(2, 0.1, "a guess: a tenth of the smaller error"),
}
FINITE = sys.float_info.max
METRICS = {
    "psnr_db": Metric("PSNR (dB)", "dB", 2, "higher", of_images=True),  # infinite where nothing changed
    "ssim": Metric("SSIM", "ssim", 3, "higher", of_images=True, low=-1, high=1),
    "nmse": Metric("NMSE", "nmse", 4, "lower", of_images=True, low=0, high=FINITE),
    "lpips": Metric("LPIPS", "lpips", 3, "lower", of_images=True, low=0, high=FINITE),
    "psnr_foreground_db": Metric("PSNR inside head or film (dB)", "dB", 2, "higher", of_images=True),
    "tpr": Metric("true positive rate", "rate", better="higher", low=0, high=1, gap="eop"),
    "fpr": Metric("false positive rate", "rate", better="lower", low=0, high=1),
    "flip_rate": Metric("share of flipped decisions", "flips", better="lower", low=0, high=1),
    "flip_harmful": Metric("share of decisions flipped to wrong", "flips", better="lower", low=0, high=1),
    "flip_helpful": Metric("share of decisions flipped to right", "flips", better="higher", low=0, high=1),
    "calibration": Metric("calibration gap", "probability", low=-1, high=1),
    "logit_shift": Metric("shift of the score (logit)", "logit", 2),
    "auroc": Metric("AUROC", "auroc", better="higher", low=0, high=1),
    "ppv": Metric("positive predictive value", "rate", better="higher", low=0, high=1),
    "accuracy": Metric("accuracy", "rate", better="higher", low=0, high=1),
    "auprc": Metric("AUPRC", "auprc", better="higher", low=0, high=1),
    "brier": Metric("Brier score", "brier", better="lower", low=0, high=1),
    "ece": Metric("expected calibration error", "probability", better="lower", low=0, high=1),
    "ece_debiased": Metric("expected calibration error, debiased", "probability", better="lower", low=-1, high=1),
    "calibration_intercept": Metric("calibration intercept (logit)", "logit", 2),
    "calibration_slope": Metric("calibration slope", "slope", 2),
    "score_shift": Metric("mean score (logit)", "logit", 2),
    "dice": Metric("Dice", "dice", better="higher", low=0, high=1, gap="delta_dice"),
    "dice_published": Metric(
        "Dice, empty pairs left out", "dice", better="higher", low=0, high=1, gap="delta_dice_published"
    ),
    "false_positive_slices": Metric("slices with an invented tumour", "rate", better="lower", low=0, high=1),
    "lost_volume": Metric("share of the tumour lost", "volume", better="lower", low=0, high=1),
    "invented_volume": Metric("volume invented, in mean tumours", "volume", better="lower", low=0),
    "eop": Metric("equal opportunity gap", "rate", better="lower", low=0, high=1),
    "eodd": Metric("equalised odds gap", "rate", better="lower", low=0, high=1),
    "delta_dice": Metric("Dice gap", "dice", better="lower", low=0, high=1),
    "delta_dice_published": Metric("Dice gap, empty pairs left out", "dice", better="lower", low=0, high=1),
    "ser": Metric("skewed error ratio", "ratio", 2, "lower", low=1),
    "ser_published": Metric("skewed error ratio, empty pairs left out", "ratio", 2, "lower", low=1),
}


def image_metrics() -> tuple[str, ...]:
    """Names of the metrics of images, the columns of the table `quality`."""
    return tuple(name for name, metric in METRICS.items() if metric.of_images)


def unit_of(name: str) -> str:
    """Unit of a metric; the name itself, if it is not in the table."""
    return METRICS[name].unit if name in METRICS else name


def label_of(name: str) -> str:
    """A metric as it is printed; its name as words, if it is not in the table."""
    return METRICS[name].label if name in METRICS else name.replace("_", " ")


def decimals_of(unit: str) -> int:
    """Decimals of numbers of a unit."""
    return UNITS.get(unit, Unit()).decimals


def gap_of(name: str) -> str:
    """Name of the max-min gap of a metric."""
    return (METRICS[name].gap if name in METRICS else "") or f"{name}_gap"


def margin_of(unit: str, given: float | dict) -> float:
    """Within which a change in a unit does not matter: what the caller gives for it, or the unit's own."""
    own = UNITS.get(unit, Unit()).margin
    if isinstance(given, dict):
        return given.get(unit, 0.05 if own is None else own)
    return given if own is None else own
