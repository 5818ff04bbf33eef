"""What a cohort is too small for: said before the first training, so that nobody waits hours for an empty figure."""

from pathlib import Path

from fairrecon_core.cohort.splits import TRAITS
from fairrecon_core.reconstruct import base_arm
from fairrecon_core.settings import Settings
from fairrecon_core.tables import read_parquet

TAUGHT = {"04": "unet", "05": "pix2pix", "06": "sde"}  # the network that a notebook is about, and makes


def cannot_fill(steps) -> list[str]:
    """What a cohort leaves out of a run, a line each; empty where it fills everything. Nothing is trained for it.

    Readers need both labels in every fold that trains them, control arms somebody to exchange images with, a gap two
    groups.

    Parameters
    ----------
    steps : CohortSteps
    """
    cohort, settings = steps.cohort, steps.setup.run.settings
    read = steps.readings.tasks()
    unread = [task for task in settings.tasks or cohort.tasks if task in cohort.tasks and task not in read]
    lines = [f"no reader of {task}: in a fold, nobody who trains has it, or everybody" for task in unread]
    lines += [f"no arm {arm}: {reason}" for arm, reason in steps.images.controls_left_out.items()]
    tested = cohort.table if cohort.info["n_folds"] > 1 else cohort.table[cohort.table["split"] == "test"]
    people = tested.drop_duplicates("patient_id")
    for trait in TRAITS:
        sizes = people.loc[people[trait] != "unknown", trait].value_counts()
        large = sizes[sizes >= settings.min_support]
        if len(sizes) < 2:
            lines.append(f"no audit by {trait}: {len(sizes)} groups known of {len(people)} patients tested")
        elif len(large) < 2:
            counts = ", ".join(f"{name} {n}" for name, n in sizes.items())
            lines.append(f"no verdict by {trait}: fewer than two groups of {settings.min_support} patients ({counts})")
    return lines


def left_out(number: str, folder: Path, settings: Settings) -> str:
    """Why a notebook has nothing to show in a run, "" if it has.

    The notebook of a network needs that network among the arms: it would train it in all folds, for nobody. The audit
    of readers needs readers and two sexes.

    Parameters
    ----------
    number : str
        Of the notebook, such as "10".
    folder : Path
        The run's; real cohorts lie there, and what their readers said if notebook 08 has been there.
    settings : Settings
    """
    if number in TAUGHT and TAUGHT[number] not in map(base_arm, settings.arms):
        arms = [*settings.arms, TAUGHT[number]]
        return f"{TAUGHT[number]} is not among the arms of this run: -p 'arms=[{', '.join(arms)}]' makes it one"
    for name in settings.cohorts if number == "10" and settings.cohort_folder else ():
        table = folder / "cohorts" / name / "cohort.parquet"
        sexes = set(read_parquet(table, "cohort")["sex"]) - {"unknown"} if table.exists() else {"female", "male"}
        if len(sexes) < 2:
            return f"{name} has one sex, {', '.join(sexes) or 'unknown'}: there is no gap to audit"
        read = {kind: any((folder / "tables" / kind).glob(f"{name}__*")) for kind in ("overlap", "predictions")}
        if read["overlap"] and not read["predictions"]:
            return f"{name} is too small for a reader that classifies (notebook 08): there are no scores to audit"
    return ""
