"""The table of the papers' settings, and what may be compared: only what was made the same way, on the whole cohort."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml

from fairrecon_core.settings import load_settings
from fairrecon_lab.paper import numbers as published
from fairrecon_lab.paper import recipe

NAMED = recipe.choices().query("name != ''")
COHORTS = {"ucsf_pdgm": "mri", "chexpert": "xray"}


def by_modality(value, modality):
    return value.get(modality) if isinstance(value, dict) and {"mri", "xray"} & value.keys() else value


def a_run(modality, column="ours"):
    """Settings and cohort of a run that does what one column of the table says (ours where that says nothing)."""
    settings, info = {"recipes": {}}, {"complete": True, "checked": []}
    for row in NAMED.itertuples():
        value = by_modality(yaml.safe_load(getattr(row, column) or row.ours), modality)
        value = by_modality(yaml.safe_load(row.ours), modality) if value is None else value
        where, colon, key = row.name.partition(":")
        first, *rest = row.name.split(".")
        if colon:
            info |= {key: value} if COHORTS[where] == modality else {}
        elif rest and rest[2:] in ([], [modality]):
            settings["recipes"].setdefault(rest[0], {})[rest[1]] = value
        elif not rest:
            settings[first] = value
    name = {kind: name for name, kind in COHORTS.items()}[modality]
    images = np.zeros((1, settings["image_size"], settings["image_size"]), np.uint8)
    return SimpleNamespace(**settings), SimpleNamespace(name=name, modality=modality, info=info, images=images)


def lines(settings, cohort):
    return [line for part in recipe.unlike_papers(settings, cohort).values() for line in part]


@pytest.mark.parametrize("modality", ["mri", "xray"])
@pytest.mark.parametrize("column", ["printed", "code"])
def test_a_run_that_follows_the_text_or_the_code_may_be_compared(modality, column):
    settings, cohort = a_run(modality, column)
    if modality == "xray":
        settings.xray_mode = "published"  # the printed words are no setting
    assert lines(settings, cohort) == []


@pytest.mark.parametrize("modality", ["mri", "xray"])
def test_each_choice_alone_makes_numbers_incomparable_and_is_named(modality):
    seen = set()
    for row in NAMED.query("part in @recipe.PARTS and name not in @recipe.CELLWISE").itertuples():
        settings, cohort = a_run(modality)
        settings.xray_mode = "published"
        where, colon, key = row.name.partition(":")
        _, *rest = row.name.split(".")
        silent = by_modality(yaml.safe_load(row.ours), modality) is None
        silent |= modality == "xray" and row.name.startswith("recipes.segmenter")  # nothing is segmented there
        if (
            silent
            or (colon and where != cohort.name)
            or {"mri": "xray", "xray": "mri"}[modality] in row.name.replace("_", ".")
        ):
            continue
        if row.name == "image_size":
            cohort.images = np.zeros((1, 64, 64), np.uint8)
        elif colon:
            cohort.info[key] = "another"
        elif rest:
            settings.recipes[rest[0]][rest[1]] = "another"
        else:
            setattr(settings, row.name, "another")
        (line,) = lines(settings, cohort)
        assert line.startswith(row.name.rpartition(":")[2] + " ") and "(paper: " in line
        seen.add(row.part)
    assert seen == set(recipe.PARTS)


def test_an_incomplete_cohort_and_one_that_does_not_say_are_named():
    settings, cohort = a_run("mri", "code")
    cohort.info |= {"complete": False, "checked": ["patients: 6 of 495, partial", "images: 9 of 9, complete"]}
    assert lines(settings, cohort) == ["cohort not complete (patients: 6 of 495, partial)"]
    del cohort.info["complete"]
    assert lines(settings, cohort) == ["completeness of the cohort not stated: convert it again"]


def test_what_the_profile_paper_says_is_what_the_table_says(root):
    """Rows of settings that the profile does not name yet, or that no setting makes, are passed over."""
    profile = yaml.safe_load((root / "notebooks/profiles/paper.yml").read_text(encoding="utf-8"))
    compared = []
    for row in NAMED[~NAMED["name"].str.contains(":")].itertuples():
        found = profile
        for key in row.name.split("."):
            found = found.get(key) if isinstance(found, dict) else found
        wanted = yaml.safe_load(row.ours)
        if found is None:
            continue
        for modality in ("mri", "xray"):
            said = by_modality(found, modality)
            assert said is None or said == by_modality(wanted, modality), row.name
        compared.append(row.name)
    assert {"image_size", "width", "start_from", "recipes.sde.epochs", "recipes.classifier.size.xray"} <= set(compared)
    assert len(compared) > 30


@pytest.mark.parametrize("modality", ["mri", "xray"])
def test_the_profile_with_its_defaults_does_what_the_table_says(modality):
    """Also where the profile is silent; a row without a setting in this version would be seen here."""
    settings = load_settings("paper")
    for row in NAMED[~NAMED["name"].str.contains(":")].itertuples():
        if row.name.endswith({"mri": ".xray", "xray": ".mri"}[modality]):
            continue
        here, wanted = recipe.value_of(settings, row.name, modality), by_modality(yaml.safe_load(row.ours), modality)
        if wanted is None:  # said of the other modality only
            continue
        here = list(here) if isinstance(here, tuple) else here
        assert here == wanted or here == pytest.approx(wanted), row.name


def test_a_run_of_the_profile_on_the_whole_cohorts_differs_from_the_papers_in_one_named_choice():
    settings = load_settings("paper")
    assert [lines(settings, a_run(modality)[1]) for modality in ("mri", "xray")] == [
        [],
        ["xray_mode physical (paper: Radon, bow-tie, Poisson or published)"],
    ]
    assert lines(load_settings("paper", xray_mode="published"), a_run("xray")[1]) == []


def test_every_row_says_what_we_do_and_why_where_the_sources_differ():
    table = recipe.choices()
    assert table["choice"].is_unique and set(table["part"]) == {*recipe.PARTS, "evaluation"}
    assert (table["ours"] != "").all()
    torn = table.query("printed != '' and code != '' and printed != code and name != ''")
    assert len(torn) > 10 and not list(torn.loc[torn["why"] == "", "choice"])


def test_reasons_come_one_line_each_and_a_cell_may_have_several():
    row = {"table": "3", "row": "8, Dice", "column": "U-Net", "value": 0.7, "low": 0.6, "high": 0.8,
           "source": "UCSF-PDGM", "unlike": "width 4 (paper: 64); image_size 64 (paper: 256)"}  # fmt: skip
    table = published.compare(pd.DataFrame([row]))
    assert not table["comparable"].any()
    counts = published.reasons(table)["cells"]
    assert counts["width 4 (paper: 64)"] == counts["image_size 64 (paper: 256)"] == 1 and counts["not computed"] > 600
    assert published.compare(pd.DataFrame([row | {"unlike": ""}]))["comparable"].sum() == 1
