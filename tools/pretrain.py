"""Train networks of a profile ahead of its notebooks, which then find them: several of these may run side by side.

    python tools/pretrain.py lgg tcga_lgg --fold 0                   everything of one fold
    python tools/pretrain.py lgg tcga_lgg --fold 1 --only unet sde
    python tools/pretrain.py lgg tcga_lgg --fold 2 --only sde --images     and the arm's test images

Notebook 01 must have run, so that the cohort is there. A killed training goes on where it was.
"""

import argparse

from fairrecon_core.steps.folder import begin
from fairrecon_core.steps.pipeline import CohortSteps, open_cohort


def pretrain(steps: CohortSteps, fold: int = 0, only=(), images: bool = False) -> None:
    """Make the weights of one fold of a cohort, and its arms' test images if asked; `only` some arms or readers."""
    wanted = lambda name: not only or name in only
    for arm in filter(wanted, steps.setup.run.settings.arms):
        for which in steps.weights.trainings(arm):
            if which["fold"] == fold:
                print(steps.weights.make(arm, **which), flush=True)
    for reader in filter(wanted, steps.readings.weights.blank()):
        print(steps.readings.weights.make(reader, fold), flush=True)
    for arm in filter(wanted, steps.setup.arms() if images else ()):
        for level in steps.levels:
            for variant in steps.setup.variants(arm):
                if variant["fold"] == fold:
                    print(arm, level, len(steps.images.get(arm, level, **variant)[1]), "images", flush=True)


def main(argv: list[str] | None = None) -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile")
    parser.add_argument("cohort")
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=[], help="arms and readers; all by default")
    parser.add_argument("--images", action="store_true", help="also reconstruct the test images of the arms")
    given = parser.parse_args(argv)
    pretrain(open_cohort(begin(given.profile)[1], given.cohort), given.fold, given.only, given.images)


if __name__ == "__main__":
    main()
