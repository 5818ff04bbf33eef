"""Train networks of a profile ahead of its notebooks, which then find them: several of these may run side by side.

    python tools/pretrain.py lgg tcga_lgg --fold 0                   everything of one fold
    python tools/pretrain.py lgg tcga_lgg --fold 1 --only unet sde
    python tools/pretrain.py lgg tcga_lgg --fold 2 --only sde --images     and the arm's test images

Notebook 01 must have run, so that the cohort is there. A killed training goes on where it was.
"""

import argparse

from fairrecon_core.steps.chain import Chain
from fairrecon_core.steps.folder import begin
from fairrecon_core.steps.recipes import RECIPES

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile")
    parser.add_argument("cohort")
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=[], help="arms and readers; all by default")
    parser.add_argument("--images", action="store_true", help="also reconstruct the test images of the arms")
    given = parser.parse_args()
    settings, run = begin(given.profile)
    chain = Chain(run, given.cohort)
    for arm in settings.arms:
        for train_seed in settings.train_seeds:
            if arm in RECIPES and (not given.only or arm in given.only):
                print(chain.weights(arm, given.fold, train_seed), flush=True)
    for reader in chain.blank_readers(given.fold):
        if not given.only or reader in given.only:
            print(chain.reader_weights(reader, given.fold), flush=True)
    for arm in chain.arms() if given.images else ():
        for level in chain.levels if not given.only or arm in given.only else ():
            for variant in chain.variants(arm, level):
                if variant["fold"] == given.fold:
                    print(arm, level, len(chain.images(arm, level, **variant)[1]), "images", flush=True)
