"""What a black border costs: networks that learned with borders beside some that did not, on films of any shape.

    python benchmarks/borders.py covid-chestxray-dataset --epochs 2 --json FILE

Most films are no squares; `--fit pad` puts black beside the short side. Both networks start from the shipped weights,
which never saw a border, and learn from the same patients: one from padded films, one from the same films squeezed.
Both are tested on padded films of other patients. PSNR in dB: of the whole square, inside the film, and on the border.
"""

import argparse
import contextlib
import io
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "data_scripts")]

import covid_cxr

from fairrecon_core.degrade import degradation
from fairrecon_core.predict.quality import film_mask, psnr_db
from fairrecon_core.reconstruct import reconstructor
from fairrecon_core.reconstruct.training import train_reconstructor

SHIPPED = ROOT / "fairrecon_core" / "weights" / "chest-unet.safetensors"
LEVELS, LEVEL = [100_000, 10_000, 3_000], 10_000


def cohort_of(source: Path, folder: Path, fit: str, size: int):
    """The radiographs of `source` as a cohort in `folder`, fitted to squares of `size` pixels by `fit`."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return covid_cxr.main([str(source), str(folder / fit), "--fit", fit, "--size", str(size), "--folds", "3"])


def trained(cohort, folder: Path, epochs: int):
    """The shipped U-Net after some `epochs` on the training patients of `cohort`; 0 leaves it as it is."""
    network = reconstructor("unet", "xray", width=16, learning_rate=1e-3, decay=True)
    network.load(SHIPPED)
    if epochs:
        where = {"folder": folder / "state", "cache": folder / "cache", "start": SHIPPED, "mirror": True}
        train_reconstructor(network, cohort, degradation("xray"), LEVELS, epochs=epochs, progress=False, **where)
    return network


def measured(images, clean) -> dict:
    """Mean PSNR of padded images: whole, inside the film, on the border (of films that have one)."""
    inside, found = film_mask(clean), []
    for image, truth, film in zip(np.asarray(images), clean, inside):
        border = psnr_db(image[~film], truth[~film]) if (~film).sum() > 50 else np.nan
        found.append({"whole": psnr_db(image, truth), "inside": psnr_db(image[film], truth[film]), "border": border})
    return pd.DataFrame(found).replace(np.inf, np.nan).mean().round(2).to_dict()


def main() -> None:
    """Convert, train, measure, print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("source", type=Path, help="clone of covid-chestxray-dataset")
    options.add_argument("--epochs", type=int, default=2)
    options.add_argument("--size", type=int, default=128)
    options.add_argument("--images", type=int, default=60, help="test films that are measured")
    options.add_argument("--json", type=Path)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        cohorts = {fit: cohort_of(given.source, place, fit, given.size) for fit in ("pad", "squeeze")}
        rows = cohorts["pad"].select("test", "reconstruction", 0)[: given.images]
        clean, names = cohorts["pad"].images_at(rows), list(cohorts["pad"].table["image_id"].iloc[rows])
        degraded = degradation("xray")(torch.from_numpy(clean), LEVEL, names, seed=1)
        found = {"degraded": measured(degraded, clean)}
        for arm, fit, epochs in (("shipped", "pad", 0), ("without borders", "squeeze", given.epochs),
                                 ("with borders", "pad", given.epochs)):  # fmt: skip
            network = trained(cohorts[fit], place / arm, epochs)
            found[arm] = measured(network(degraded, LEVEL, image_ids=names), clean)
        bordered = int((~film_mask(clean)).any(axis=(1, 2)).sum())
    print(f"{len(rows)} films of {given.size} px, {bordered} with a border; level {LEVEL:,}; {given.epochs} epochs")
    print(pd.DataFrame(found).T.to_string())
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
