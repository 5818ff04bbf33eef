"""A contact sheet of a finished run: the test images on which its arms disagree most, each arm beside the clean image.

    python tools/contact_sheet.py lgg [--images 12] [--arms unet pix2pix sde] [--out FILE]

Disagreement of an image is the largest root mean square difference between two learning arms (where only one learns,
between any two that reconstruct), at the audited level.
One row an image: clean, degraded, the arms, and where two arms differ most. At most one image a patient. The sheet is
written into the run's folder (`contact_<cohort>.png`) and holds pictures of patients: it stays out of results/ and of
the repository.
"""

import argparse
import itertools
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from fairrecon_core.cohort.pixels import as_float
from fairrecon_core.reconstruct import arm_class
from fairrecon_core.steps.folder import begin
from fairrecon_core.steps.pipeline import open_cohort
from fairrecon_lab.cli import key_value
from fairrecon_lab.plots.pictures import draw_difference, draw_image


def disagreement(stacks: dict[str, np.ndarray]) -> tuple[np.ndarray, list[tuple[str, str]], np.ndarray]:
    """Which two of several arms differ most, and by how much.

    Parameters
    ----------
    stacks : dict of arrays (n, H, W)
        At least two arms.

    Returns
    -------
    size : array (n,)
        Root mean square difference of the pair that differs most.
    pairs : list of (str, str)
    which : int array (n,)
        The pair of each image.

    Raises
    ------
    ValueError
        Fewer than two arms.
    """
    pairs = list(itertools.combinations(stacks, 2))
    if not pairs:
        raise ValueError(f"arms disagree in pairs, got {', '.join(stacks) or 'none'}")
    sizes = np.stack([
        [np.sqrt(np.mean(np.square(as_float(one).astype(np.float64) - as_float(other)))) for one, other in zip(*two)]
        for two in ([stacks[a], stacks[b]] for a, b in pairs)
    ])  # fmt: skip
    return sizes.max(axis=0), pairs, sizes.argmax(axis=0)


def most(size: np.ndarray, patient: np.ndarray, n: int) -> np.ndarray:
    """Positions of the `n` largest of `size`, at most one of each `patient`, the largest first."""
    order = np.argsort(-size, kind="stable")
    _, first = np.unique(patient[order], return_index=True)
    return order[np.sort(first)][:n]


def sheet(steps, arms: list[str], n_images: int) -> tuple[Figure, list[str]]:
    """The figure of one cohort, and a line on each of its rows."""
    level, fold_rows, parts = steps.audit_level, [], {arm: [] for arm in ("clean", "degraded", *arms)}
    for fold in steps.setup.folds:
        for arm, part in parts.items():
            images, rows = steps.images.get(arm, level, fold=fold)
            part.append(as_float(images))
        fold_rows.append(rows)
    stacks, rows = {arm: np.concatenate(part) for arm, part in parts.items()}, np.concatenate(fold_rows)
    table = steps.cohort.table.iloc[rows].reset_index(drop=True)
    size, pairs, which = disagreement({arm: stacks[arm] for arm in arms})
    chosen, lines = most(size, table["patient_id"].to_numpy(), n_images), []
    figure = Figure(figsize=(1.7 * (len(stacks) + 1), 1.85 * len(chosen) + 0.4), layout="constrained")
    axes = figure.subplots(len(chosen), len(stacks) + 1, squeeze=False)
    for k, (line, at) in enumerate(zip(axes, chosen)):
        for ax, (arm, stack) in zip(line, stacks.items()):
            draw_image(ax, stack[at], "" if k else arm)
        one, other = pairs[which[at]]
        draw_difference(line[-1], stacks[one][at] - stacks[other][at], f"{one} minus {other}\n")
        line[-1].title.set_fontsize(7)
        name = table["image_id"][at]
        line[0].set_ylabel(name if len(name) < 30 else f"{name[:13]} ... {name[-13:]}", fontsize=7)
        lines.append(f"{name}: {one} and {other} differ by {size[at]:.3f} (root mean square)")
    return figure, lines


def arms_of(steps) -> list[str]:
    """Arms that may disagree: those that learn, or, where only one does, all that reconstruct."""
    learns = [arm for arm in steps.setup.arms() if arm_class(arm).learns]
    return learns if len(learns) > 1 else [arm for arm in steps.setup.arms() if arm_class(arm).reconstructs]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("profile")
    options.add_argument("--images", type=int, default=12, help="rows of the sheet (12)")
    options.add_argument("--arms", nargs="+", help="arms that may disagree (all that learn, or reconstruct)")
    options.add_argument("--cohorts", nargs="+", help="cohorts of the run (all)")
    options.add_argument("--out", type=Path, help="folder (the run's)")
    options.add_argument("-p", action="append", default=[], metavar="KEY=VALUE", help="as of run.py")
    arguments = options.parse_args()
    overrides = dict(map(key_value, arguments.p))
    _, run = begin(arguments.profile, overrides)
    for name in arguments.cohorts or run.settings.cohorts:
        steps = open_cohort(run, name)
        arms = arguments.arms or arms_of(steps)
        figure, lines = sheet(steps, arms, arguments.images)
        path = (arguments.out or run.folder) / f"contact_{name}.png"
        figure.savefig(path, dpi=110)
        print("\n".join([*lines, f"{len(lines)} images in {path}"]))


if __name__ == "__main__":
    main()
