"""What training data do to a reconstructor, what fine-tuning repays, what T1 does not tell of T2.

    python tools/mitigation.py [--recipe registered|brain|full|smoke] [--parts skew mitigation translation]

`registered` is the study whose choices stand in results/mitigation/REGISTERED.md, `brain` its question asked of brains,
where the finding is a large tumour; `full` is the first at the size that was designed, many hours on two cores. Every
step is kept in runs/mitigation/<recipe>/ with a stamp of its recipe and code,
so that a run that was stopped goes on where it was; `--skews` and `--methods` choose among what `--list` prints. Writes
skew.csv, audit.csv, seeds.csv, mitigation.csv, repaired.csv, translation.csv, translation_audit.csv, answers.csv,
run.json, README.md and the figures into results/mitigation/; of brains, and for another `--arm` than the U-Net, under
names that end in it. Simulated patients.
"""

import argparse
import dataclasses
import json
import shlex
import sys
import time
from pathlib import Path

import pandas as pd
import torch

from fairrecon_core.settings import project_folder, suggest
from fairrecon_core.steps.folder import commit, write_json
from fairrecon_lab.mitigation import figures, plan, registered, summary, tables, translation
from fairrecon_lab.mitigation.methods import METHODS
from fairrecon_lab.mitigation.skew import skews

OUT = project_folder() / "results" / "mitigation"
PARTS = ("skew", "mitigation", "translation")
TABLES = ("skew", "audit", "seeds", "mitigation", "repaired", "translation", "translation_audit")


def said(line: str) -> None:
    """Print a `line` with the time."""
    print(time.strftime("%H:%M:%S"), line, flush=True)


def chosen(asked, known, what: str) -> list[str]:
    """What was `asked` for, each one `known`; ValueError for another, with the nearest."""
    for name in asked:
        if name not in known:
            raise ValueError(f"unknown {what} {name!r}{suggest(name, known)}; there are {', '.join(known)}")
    return list(asked)


def recipe_of(asked: argparse.Namespace) -> plan.Recipe:
    """The recipe of skew and mitigation that was `asked` for."""
    recipe = dataclasses.replace(plan.RECIPES[asked.recipe], arm=asked.arm)
    asked_for = {"seeds": tuple(asked.seeds), "n_test": asked.patients}
    return dataclasses.replace(recipe, **{name: value for name, value in asked_for.items() if value})


def variant_of(asked: argparse.Namespace) -> str:
    """What the names of the tables that were `asked` for end in: the brain, or an arm other than the U-Net."""
    return ("_brain" if asked.recipe == "brain" else "") + ("" if asked.arm == "unet" else f"_{asked.arm}")


def make(asked: argparse.Namespace, folder: Path, keep=lambda name, table: None) -> dict:
    """All tables that were `asked` for, with the steps in `folder`, by the names of their files.

    Parameters
    ----------
    asked : Namespace
        As the command line gives it.
    folder : Path
    keep : callable
        Gets the name and the rows of a table whenever there are more of them, so that a run that is stopped leaves what
        it has.
    """
    study, found = plan.Study(recipe_of(asked), folder, said), {}

    def keeping(**made: pd.DataFrame) -> None:
        found.update(made)
        for name in made:
            keep(name, found[name])

    known = {skew.name: skew for skew in skews(finding=f"true_{study.recipe.task}")}
    skew = known[registered.PRIMARY.name]
    if "mitigation" in asked.parts:
        several = registered.WEIGHTS if asked.recipe == "registered" else METHODS
        methods = chosen(asked.methods or several, METHODS, "method")
        if study.recipe.arm != "sde":  # these hold a form of the SDE
            methods = [name for name in methods if METHODS[name].estimate == "one_step"]
        weights = {name: registered.WEIGHTS.get(name, METHODS[name].weights) for name in methods}
        if asked.weights:  # new thresholds have no lambda
            weights |= {name: asked.weights for name in methods if METHODS[name].term}
        parts, arms = [], tables.Arms(study, skew)
        for name in weights:  # method by method; what is made is only read again
            parts.append(tables.mitigation_table(arms, {name: weights[name]}, say=said))
            keeping(**_mitigated(parts))
        if registered.METHOD in weights and asked.arm == "unet":  # the same where women have the finding as it comes
            arms = tables.Arms(study, skew, share=-1.0)
            parts.append(tables.mitigation_table(arms, {registered.METHOD: [registered.WEIGHT]}, say=said))
            keeping(**_mitigated(parts))
    if "skew" in asked.parts:
        everything, parts = [name for name in known if name != registered.CONTROL.name], []
        several = {"registered": registered.SKEWS, "brain": registered.BRAIN_SKEWS}.get(asked.recipe, everything)
        for name in chosen(asked.skews or several, known, "skew"):
            parts.append(tables.skew_table(study, [known[name]]))
            keeping(**dict(zip(("skew", "audit", "seeds"), map(_joined, zip(*parts)))))
    if "translation" in asked.parts:
        steps = translation.Translation(translation.RECIPES[asked.recipe], folder, said)
        read, n_boot = steps.readings(), steps.recipe.n_boot
        keeping(translation=translation.translation_table(read, n_boot),
                translation_audit=translation.translation_audit(read, steps.pool("test"), n_boot))  # fmt: skip
    return found


def _joined(parts) -> pd.DataFrame:
    return pd.concat(list(parts), ignore_index=True)


def _mitigated(parts: list[pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """`mitigation` of several calls, each twin once, and `repaired`."""
    key = ["quantity", "subgroup", "method", "weight", "share", "threshold"]
    table = _joined(parts).drop_duplicates(key, ignore_index=True)
    return {"mitigation": table, "repaired": tables.repaired(table)}


def draw(out: Path, found: dict) -> None:
    """The figures of the study, as PNG."""
    note, drawn = summary.note(found), {}
    if "skew" in found:
        by_sex = found["skew"].query("attribute == 'sex' and way == 'patients'")
        drawn["skew"] = figures.skew_figure(by_sex, note)
        if found["skew"].query("~skew.str.contains('finding|again')")["share"].nunique() > 1:
            drawn["dose"] = figures.dose_figure(found["skew"], found["seeds"], note)
    if "mitigation" in found:
        first = found["mitigation"].query("share == share.iloc[0]")
        drawn |= {
            "pareto": figures.pareto_figure(first, note),
            "levels": figures.levels_figure(first, note.split("; bars")[0]),
        }
    for name, figure in drawn.items():
        figure.savefig(out / f"{name}.png", dpi=110, bbox_inches="tight")


def command_of(words: list[str]) -> str:
    """The command of a call with these arguments, without its folders, which mean nothing on another machine."""
    before = ["", *words]
    kept = [word for word, last in zip(words, before) if not {word, last} & {"--runs", "--out"}]
    return shlex.join(["python", "tools/mitigation.py", *kept])


def told(out: Path, write) -> None:
    """Write what the tables in `out` answer: answers by `write`, figures, and README.md of them all."""
    there = lambda variant: {name: pd.read_csv(file) for name in TABLES
                             if (file := out / f"{name}{variant}.csv").exists()}  # fmt: skip
    found, brain = there(""), there("_brain")
    if "skew" in brain:
        write("answers_brain", registered.answers(brain))
        by_sex = brain["skew"].query("attribute == 'sex' and way == 'patients'")
        figure = figures.skew_figure(by_sex, summary.note(brain), figures.OF_BRAINS)
        figure.savefig(out / "skew_brain.png", dpi=110, bbox_inches="tight")
    if found:
        answers = registered.answers(found)
        write("answers", answers)
        draw(out, found)
        of_arms = {arm: there(f"_{arm}") for arm in summary.NETWORKS}
        beside = {arm: of_arm["repaired"] for arm, of_arm in of_arms.items() if "repaired" in of_arm}
        (out / "README.md").write_text(summary.page(found, answers, brain, beside), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", choices=plan.RECIPES, default="registered")
    parser.add_argument("--arm", choices=("unet", "pix2pix", "sde"), default="unet", help="of skew and mitigation")
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="all of them by default; of brains the skews")
    parser.add_argument("--skews", nargs="+", default=[], help="names of skews")
    parser.add_argument("--methods", nargs="+", default=[], help="names of methods")
    parser.add_argument("--weights", nargs="+", type=float, default=[], help="lambdas, in place of each method's own")
    parser.add_argument("--seeds", nargs="+", type=int, default=[], help="training seeds, in place of the recipe's")
    parser.add_argument("--patients", type=int, default=0, help="test patients, in place of the recipe's")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the tables")
    parser.add_argument("--runs", type=Path, default=project_folder() / "runs", help="folder of the steps")
    parser.add_argument("--list", action="store_true", help="print what there is, and stop")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.list:
        print("skews:", *(skew.name for skew in skews()), "methods:", *METHODS, sep="\n  ")
        sys.exit()
    asked.parts = asked.parts or (PARTS if asked.recipe in translation.RECIPES else PARTS[:1])
    if "translation" in asked.parts and asked.recipe not in translation.RECIPES:
        parser.error(f"the recipe {asked.recipe!r} has no translation: --parts skew mitigation")
    asked.out.mkdir(parents=True, exist_ok=True)
    began, variant = time.time(), variant_of(asked)
    write = lambda name, table: table.round(5).to_csv(asked.out / f"{name}.csv", index=False)
    folder = asked.recipe if asked.arm == "unet" else f"{asked.recipe}_{asked.arm}"
    make(asked, asked.runs / "mitigation" / folder,
         lambda name, table: write(name + variant, table))  # fmt: skip
    path = asked.out / f"run{variant}.json"
    record = json.loads(path.read_text()) if path.exists() else {}
    for part in asked.parts:  # each part tells by which call it was made
        recipe = translation.RECIPES[asked.recipe] if part == "translation" else recipe_of(asked)
        record[part] = {"command": command_of(sys.argv[1:]), "commit": commit(),
                        "recipe": dataclasses.asdict(recipe), "python": sys.version.split()[0],
                        "torch": torch.__version__, "last_call_s": round(time.time() - began)}  # fmt: skip
    write_json(path, record)
    told(asked.out, write)
