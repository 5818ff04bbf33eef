"""What the papers' texts print, what their code does, what the profile `paper` does and why; and how a run differs.

`settings.csv` lies beside this file and is meant to be read, one row per choice:

- `part`: people, data, degradation, reconstructors, readers, evaluation.
- `name`: where the choice is made here. A setting (`width`), an option of a network (`recipes.unet.epochs`, perhaps by
  modality), or an entry of a converted cohort's `cohort.json` (`chexpert:findings`); empty where it is no option.
- `printed`, `code`, `ours`: a value where `name` is given, as YAML, else words; empty where nothing is said.

Source: both papers' text; the released code as read (neither is copied here).
"""

from functools import cache
from importlib.resources import files

import pandas as pd
import yaml

from fairrecon_core.settings import Settings

PARTS = (
    "people",
    "data",
    "degradation",
    "reconstructors",
    "readers",
)  # that a number depends on
OTHERWISE = {  # where an option of a network is not given: the setting that decides
    "recipes.classifier.epochs": "reader_epochs",
    "recipes.segmenter.epochs": "reader_epochs",
}
CELLWISE = ("mri_levels", "xray_levels")  # each cell of the papers names its own level
ABSENT = object()


@cache
def _choices() -> pd.DataFrame:
    text = files("fairrecon_lab.paper").joinpath("settings.csv")
    with text.open(encoding="utf-8") as stream:
        return pd.read_csv(stream, dtype=str, keep_default_na=False)


def choices(part: str | None = None) -> pd.DataFrame:
    """The table of choices, all or those of one `part`; `value_of` reads what a name stands for."""
    return _choices() if part is None else _choices().query("part == @part").reset_index(drop=True)


def value_of(settings: Settings, name: str, modality: str):
    """The value of a setting or of an option of a network in a run; `ABSENT` where the settings have no such thing.

    Parameters
    ----------
    settings : Settings
    name : str
        Of a row of `choices`, without ":".
    modality : {"mri", "xray"}
        A value by modality is that of this one.
    """
    first, *rest = name.split(".")
    found = getattr(settings, first, ABSENT)
    for key in rest:
        if isinstance(found, dict):
            found = found.get(key, ABSENT)
    found = _of_modality(found, modality)
    if found is ABSENT and rest:
        leaf = OTHERWISE.get(name, rest[1])
        generative = leaf == "epochs" and rest[0] != "unet" and getattr(settings, "generative_epochs", 0)
        found = generative or getattr(settings, leaf, ABSENT)
    return found


def unlike_papers(settings: Settings, cohort) -> dict[str, list[str]]:
    """How a run on one of the papers' cohorts differs from both text and code, one line per reason.

    Parameters
    ----------
    settings : Settings
    cohort : Cohort
        Its `cohort.json` says whether it is complete, and with which options it was converted.

    Returns
    -------
    dict
        By part: lines such as "width 4 (paper: 64)". A choice of which neither text nor code says anything is held
        against ours; one that this version has no setting for is left out.
    """
    found: dict[str, list[str]] = {part: [] for part in PARTS}
    found["people"] += _unlike_people(cohort)
    size = int(cohort.images.shape[-1])
    for row in choices().query("name != '' and part in @PARTS and name not in @CELLWISE").itertuples():
        where, colon, key = row.name.partition(":")
        if colon and where != cohort.name:
            continue
        here = cohort.info.get(key, "not stated") if colon else value_of(settings, row.name, cohort.modality)
        here = size if row.name == "image_size" else here
        said = [_said(text, cohort.modality) for text in (row.printed, row.code)]
        said = [value for value in said if value is not ABSENT] or [_said(row.ours, cohort.modality)]
        if here is ABSENT or row.name.endswith({"mri": ".xray", "xray": ".mri"}[cohort.modality]):
            continue
        if row.name.startswith({"mri": "xray_", "xray": ("mri_", "recipes.segmenter.")}[cohort.modality]):
            continue
        if said != [ABSENT] and not any(_same(here, value) for value in said):
            paper = " or ".join(dict.fromkeys(map(_text, said)))
            found[row.part].append(f"{row.name.rpartition(':')[2]} {_text(here)} (paper: {paper})")
    return found


def _unlike_people(cohort) -> list[str]:
    complete = cohort.info.get("complete")
    if complete is None:
        return ["completeness of the cohort not stated: convert it again"]
    lacking = [line for line in cohort.info.get("checked", []) if not line.endswith(", complete")]
    return [] if complete else [f"cohort not complete ({' and '.join(lacking)})"]


def _said(text: str, modality: str):
    """What a cell of the table says for a modality; `ABSENT` for nothing."""
    return _of_modality(yaml.safe_load(text), modality) if text else ABSENT


def _of_modality(value, modality: str):
    return value.get(modality, ABSENT) if isinstance(value, dict) and {"mri", "xray"} & value.keys() else value


def _same(one, other) -> bool:
    one, other = (list(value) if isinstance(value, tuple | list) else value for value in (one, other))
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _text(value) -> str:
    values = value if isinstance(value, tuple | list) else [value]
    return ", ".join(
        f"{one:g}" if isinstance(one, int | float) and not isinstance(one, bool) else str(one) for one in values
    )
