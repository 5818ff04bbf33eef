"""What training data do to a reconstructor, what fine-tuning repays, what T1 does not tell of T2.

    python tools/mitigation.py [--recipe reduced|full|smoke] [--parts skew mitigation translation]

Every step is kept in runs/mitigation/<recipe>/ with a stamp of its recipe and code, so that a run that was stopped goes
on where it was. `full` is the study as designed, hours on two cores; `reduced`, the default, is what the repository
shows; `--skews` and `--methods` choose among what `--list` prints. Writes skew.csv, audit.csv, mitigation.csv,
repaired.csv, translation.csv and run.json into results/mitigation/, for another `--arm` than the U-Net under names
that end in it. Simulated patients.
"""

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path

import torch

from fairrecon_core.settings import project_folder, suggest
from fairrecon_core.steps.folder import commit, write_json
from fairrecon_lab.mitigation import plan, tables, translation
from fairrecon_lab.mitigation.skew import skews

OUT = project_folder() / "results" / "mitigation"
PARTS = ("skew", "mitigation", "translation")
SHOWN = {"skews": ("no finding in women", "women 0%"), "methods": ("consistency", "threshold")}  # of `reduced`


def said(line: str) -> None:
    """Print a `line` with the time."""
    print(time.strftime("%H:%M:%S"), line, flush=True)


def chosen(asked, known, what: str) -> list[str]:
    """What was `asked` for, each one `known`; ValueError for another, with the nearest."""
    for name in asked:
        if name not in known:
            raise ValueError(f"unknown {what} {name!r}{suggest(name, known)}; there are {', '.join(known)}")
    return list(asked)


def make(asked: argparse.Namespace, folder: Path) -> dict:
    """All tables that were `asked` for, with the steps in `folder`, by the names of their files."""
    study, found = plan.Study(dataclasses.replace(plan.RECIPES[asked.recipe], arm=asked.arm), folder, said), {}
    known = {skew.name: skew for skew in skews()}
    names = asked.skews or (SHOWN["skews"] if asked.recipe != "full" else [n for n in known if n != plan.CONTROL.name])
    if "skew" in asked.parts:
        found["skew"], found["audit"] = tables.skew_table(study, [known[n] for n in chosen(names, known, "skew")])
    if "mitigation" in asked.parts:
        several = plan.METHODS if asked.recipe == "full" else SHOWN["methods"]
        methods = chosen(asked.methods or several, plan.METHODS, "method")
        if study.recipe.arm != "sde":  # these hold a form of the SDE
            methods = [name for name in methods if plan.METHODS[name].estimate == "one_step"]
        weights = {name: asked.weights or plan.METHODS[name].weights for name in methods}
        found["mitigation"] = tables.mitigation_table(study, weights, say=said)
        found["repaired"] = tables.repaired(found["mitigation"])
    if "translation" in asked.parts:
        steps = translation.Translation(translation.RECIPES[asked.recipe], folder, said)
        found["translation"] = translation.translation_table(steps.readings(), steps.recipe.n_boot)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", choices=plan.RECIPES, default="reduced")
    parser.add_argument("--arm", choices=("unet", "pix2pix", "sde"), default="unet", help="of skew and mitigation")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--skews", nargs="+", default=[], help="names of skews")
    parser.add_argument("--methods", nargs="+", default=[], help="names of methods")
    parser.add_argument("--weights", nargs="+", type=float, default=[], help="lambdas, in place of each method's own")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the tables")
    parser.add_argument("--runs", type=Path, default=project_folder() / "runs", help="folder of the steps")
    parser.add_argument("--list", action="store_true", help="print what there is, and stop")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.list:
        print("skews:", *(skew.name for skew in skews()), "methods:", *plan.METHODS, sep="\n  ")
        sys.exit()
    asked.out.mkdir(parents=True, exist_ok=True)
    began = time.time()
    suffix = "" if asked.arm == "unet" else f"_{asked.arm}"
    for name, table in make(asked, asked.runs / "mitigation" / (asked.recipe + suffix)).items():
        table.round(5).to_csv(asked.out / f"{name}{suffix}.csv", index=False)
    path = asked.out / f"run{suffix}.json"
    record = json.loads(path.read_text()) if path.exists() else {}
    for part in asked.parts:  # each part tells by which call it was made
        recipe = (translation.RECIPES if part == "translation" else plan.RECIPES)[asked.recipe]
        record[part] = {"command": "python tools/mitigation.py " + " ".join(sys.argv[1:]), "commit": commit(),
                        "recipe": dataclasses.asdict(recipe), "python": sys.version.split()[0],
                        "torch": torch.__version__, "last_call_s": round(time.time() - began)}  # fmt: skip
    write_json(path, record)
