"""What a run takes of a disk, and whether its cohorts can be learned from: said, or refused, before it starts."""

import json
import platform
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from fairrecon_core.cohort.folder import Cohort, load_cohort
from fairrecon_core.learn.rows import learning_rows
from fairrecon_core.reconstruct import DEGRADED, arm_class
from fairrecon_core.settings import Settings, project_folder, suggest
from fairrecon_core.steps.folder import write_json
from fairrecon_core.steps.stamps import digest

ROW = 40  # bytes of a row of a table on disk, compressed
STARTS = "steps.json"  # in a run's folder
SIMULATED = {"brain": "mri", "chest": "xray"}


def real_cohorts(settings: Settings) -> Iterator[Cohort]:
    """The converted cohorts of a profile that are there; notebook 01 says how to make the others."""
    for name in settings.cohorts if settings.cohort_folder else ():
        if (folder := project_folder() / settings.cohort_folder / name / "cohort.json").exists():
            yield load_cohort(folder.parent)


def check(settings: Settings) -> None:
    """Look at the converted cohorts of the `settings` before anything is trained.

    Raises
    ------
    ValueError
        Images of another size than `image_size`, a fold with nobody to learn from, or a task that no cohort has.
    """
    tasks: list[str] = []
    for cohort in real_cohorts(settings):
        tasks += cohort.tasks
        if (size := cohort.images.shape[-1]) != settings.image_size:
            raise ValueError(f"cohort {cohort.name!r} has {size} px, not {settings.image_size}: set image_size: {size}")
        for fold in range(int(cohort.info["n_folds"])) if settings.train else ():
            for split in ("train", "validation"):
                for role in ("reconstruction", "prediction"):
                    learning_rows(cohort, split, role, fold)
    for task in settings.tasks if tasks else ():
        if task not in tasks:
            raise ValueError(f"no cohort has the task {task!r}{suggest(task, tasks)}; there are {', '.join(tasks)}")


def counts(settings: Settings) -> dict[str, dict]:
    """Images by cohort of the `settings`: modality, size, and the numbers to learn from, to validate and to test.

    Parameters
    ----------
    settings : Settings
    """
    found = {}
    for cohort in real_cohorts(settings):
        part = lambda split, role, cohort=cohort: len(cohort.select(split, role))
        found[cohort.name] = {
            "modality": cohort.modality, "size": cohort.images.shape[-1], "train": part("train", "reconstruction"),
            "validation": part("validation", "reconstruction"), "test": part("test", "prediction"),
            "read_train": part("train", "prediction"), "folds": int(cohort.info["n_folds"]), "tasks": len(cohort.tasks),
            "masks": cohort.masks is not None,
        }  # fmt: skip
    for name, modality in () if settings.cohort_folder else SIMULATED.items():
        if name in settings.cohorts:
            n = settings.brain_patients * settings.brain_slices if name == "brain" else settings.chest_patients
            shares = {"train": 0.7 if settings.train else 0, "validation": 0.1, "test": 0.2}
            found[name] = {"modality": modality, "size": settings.image_size, "folds": settings.n_folds, "tasks": 12}
            found[name] |= {split: int(n * share) for split, share in shares.items()}
            found[name] |= {"read_train": found[name]["train"], "masks": modality == "mri"}
    return found


def shown(settings: Settings, of: Mapping, level: float, arm: str = DEGRADED) -> int:
    """Test images of a cohort, `of` as in `counts`, that the `settings` use at a `level` of an `arm`."""
    whole, kind = of["test"] * (of["folds"] if of["folds"] > 1 else 1), arm_class(arm)
    n = whole if level == settings.audit_level(of["modality"]) else min(whole, settings.level_subset * of["folds"])
    limited = settings.classical_subset and kind.reconstructs and not kind.learns
    return min(n, settings.classical_subset * of["folds"]) if limited else n


def gigabytes(settings: Settings, sizes: Mapping | None = None) -> dict[str, float]:
    """What a run puts on disk, in GB: cohorts, remembered training images, reconstructions, tables, rows of shards.

    Parameters
    ----------
    settings : Settings
        With `keep_images` only so many reconstructions of an arm and level stay, and the rows of shards lie beside the
        tables until these hold them.
    sizes : mapping, optional
        Images by cohort, as from `counts`; those of the cohorts that are there if left out.
    """
    total = {"cohorts": 0.0, "training images": 0.0, "reconstructions": 0.0, "tables": 0.0, "rows of shards": 0.0}
    n_kept = settings.keep_images
    for of in (counts(settings) if sizes is None else sizes).values():
        pixels, levels = of["size"] ** 2, settings.levels(of["modality"])
        everybody = of["train"] + of["validation"] + of["test"]
        total["cohorts"] += 0 if settings.cohort_folder else everybody * pixels * (3 if of["modality"] == "mri" else 1)
        remembered = (2 if settings.mirror else 1) * of["train"] + min(
            settings.n_validation or of["validation"], of["validation"]
        )
        total["training images"] += (
            0 if settings.new_noise or not settings.train else (remembered * of["folds"] * len(levels) * pixels * 2)
        )
        arms = [*settings.classical, *(arm for arm in settings.arms for _ in settings.train_seeds)]
        of_each = [shown(settings, of, level, arm) for arm in arms for level in levels]
        images, kept = sum(of_each), [min(n, n_kept * of["folds"]) if n_kept else n for n in of_each]
        total["reconstructions"] += sum(kept) * pixels * 2
        total["tables"] += images * (of["tasks"] + 2) * ROW
    total["rows of shards"] = total["tables"] if n_kept else 0.0
    return {name: value / 1e9 for name, value in total.items()}


def room(settings: Settings, out: Path) -> str:
    """One line on what a run with these `settings` needs of the disk at `out`.

    Raises
    ------
    ValueError
        It does not fit; the line says what would help.
    """
    parts = gigabytes(settings)
    there = sum(file.stat().st_size for file in out.rglob("*") if file.is_file() and not file.is_symlink()) / 1e9
    needed, free = max(0.0, sum(parts.values()) - there), shutil.disk_usage(out).free / 1e9
    said = ", ".join(f"{name} {value:.1f}" for name, value in parts.items() if value >= 0.05)
    line = f"disk: about {sum(parts.values()):.1f} GB" + (f" ({said})" if said else "")
    if needed > free:
        raise ValueError(f"{line}, but {free:.1f} GB are free at {out}: set FAIRRECON_RUNS to a larger disk, lower "
                         "level_subset, keep_images: 64 an arm, or take new_noise: true, which remembers no training "
                         "images")  # fmt: skip
    return line


def remember(out: Path, settings: Settings, n_steps: int, hours: float) -> None:
    """Keep what `--plan` measured for a run with these `settings`: hours of one worker for `n_steps`, here."""
    out.mkdir(parents=True, exist_ok=True)
    said = {"settings": digest(asdict(settings)), "steps": n_steps, "hours": hours, "machine": platform.node()}
    write_json(out / "plan.json", said)


def hours(settings: Settings, out: Path) -> str:
    """One line on how long a run with these `settings` in `out` takes, as `--plan` measured it; "" if nothing is known.

    Measuring takes minutes for slow networks, so a run does not do it itself.
    """
    try:
        said = json.loads((out / "plan.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        said = {}
    if said.get("settings") == digest(asdict(settings)):
        return (f"time: about {said['hours']:.1f} hours of one worker from the start ({said['steps']} steps, measured "
                f"on {said['machine']})")  # fmt: skip
    return "time: not measured; --plan does it first" if settings.cohort_folder else ""


def starts_of(out: Path) -> list[dict]:
    """Every start of the steps of the run in `out` on workers, the first first, as `remember_start` kept it."""
    path = out / STARTS
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def remember_start(out: Path, start: dict) -> None:
    """Keep what a start of the steps took: `started`, `on`, `steps` there are, `wall_s`, `seconds` of each that ended.

    Each start counts for itself: a later one finds done what an earlier one did.
    """
    whole = {name: round(value, 1) for name, value in start["seconds"].items()}
    write_json(out / STARTS, [*starts_of(out), start | {"wall_s": round(start["wall_s"], 1), "seconds": whole}])
