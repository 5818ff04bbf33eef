"""The explorer: what it shows is what the core computes, and every control changes it."""

import base64
import dataclasses
import json
import math
import re
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from fairrecon_core.cohort.folder import write_cohort
from fairrecon_core.degrade import degradation
from fairrecon_core.predict.quality import psnr_db
from fairrecon_core.settings import load_settings
from fairrecon_core.steps.folder import Run
from fairrecon_lab.explorer import Choice, explorer, scenes, still
from fairrecon_lab.explorer.page import grey, mark, number, strip
from fairrecon_lab.explorer.scenes import matched_score
from fairrecon_lab.simulate import counterfactual


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run in which nothing has been made yet."""
    folder = tmp_path_factory.mktemp("run")
    return Run(folder, load_settings("smoke"), example=folder / "nothing")


@pytest.fixture(scope="module")
def by_name(run):
    return {scene.name: scene for scene in scenes(run)}


@pytest.fixture
def choice(by_name):
    scene = by_name["chest"]
    patient = next(iter(scene.patients("pleural_effusion").values()))
    return Choice(patient, 10_000, "physical", "tv", "pleural_effusion")


# laws


def test_a_matched_filter_gives_0_without_1_with_and_half_in_between():
    without, with_it = np.zeros((4, 4)), np.eye(4)
    assert [matched_score(image, without, with_it) for image in (without, with_it, with_it / 2)] == [0, 1, 0.5]
    assert matched_score(np.full((4, 4), -1.0), without, with_it) == 0, "cut to [0, 1]"
    assert math.isnan(matched_score(without, without, without)), "nothing to look for"


def test_the_identity_level_changes_nothing(by_name):
    for scene in by_name.values():
        first = next(iter(scene.patients(scene.tasks[0]).values()))
        view = scene.see(Choice(first, scene.levels[0], "physical", "tv", scene.tasks[0]))
        assert all(np.array_equal(image, view.images["clean"]) for image in view.images.values())
        assert set(view.psnr_db.values()) == {math.inf} and len(set(view.scores.values())) == 1


def test_a_view_is_what_the_core_computes(by_name, choice, run):
    view, s = by_name["chest"].see(choice), run.settings
    clean, row, _ = counterfactual("chest", choice.patient, s.seed, s.image_size)
    degraded = degradation("xray")(clean, 10_000, row["image_id"], s.seed)
    assert np.array_equal(view.images["clean"], clean) and np.array_equal(view.images["degraded"], degraded)
    assert view.psnr_db["tv"] == pytest.approx(psnr_db(view.images["tv"], clean))
    assert view.psnr_db["tv"] > view.psnr_db["degraded"], "a tuned filter helps"


def test_a_finding_that_is_there_scores_1_clean_and_one_that_is_not_scores_0(by_name, choice):
    scene = by_name["chest"]
    seen = {}
    for patient in list(scene.patients("pleural_effusion").values())[:12]:
        view = scene.see(dataclasses.replace(choice, patient=patient))
        seen.setdefault(view.truth, set()).add(round(view.scores["clean"], 6))
    assert seen == {"present": {1.0}, "absent": {0.0}}


def test_an_injected_bias_takes_contrast_from_women_and_not_from_men(by_name, choice):
    scene, score = by_name["chest"], {"female": [], "male": []}
    for patient in scene.patients("pleural_effusion").values():
        worlds = [(("sex", sex), ("age_years", 60)) for sex in score]
        views = [
            scene.see(dataclasses.replace(choice, patient=patient, world="fainter in women", do=do)) for do in worlds
        ]
        if all(view.truth == "present" for view in views):
            for sex, view in zip(score, views):
                score[sex].append(view.scores["clean"])
    assert len(score["male"]) > 3 and max(score["female"]) < 0.9 < min(score["male"])


def test_in_a_world_without_differences_another_sex_and_age_move_no_score(by_name, choice):
    views = [
        by_name["chest"].see(dataclasses.replace(choice, world="no difference", do=(("sex", sex), ("age_years", age))))
        for sex, age in (("female", 30), ("male", 80))
    ]
    assert views[0].scores == views[1].scores and views[0].person != views[1].person


def test_networks_without_weights_are_not_offered_and_nothing_is_trained(by_name, run):
    assert all(scene.arms(mode) == ["tv", "nlm"] for scene in by_name.values() for mode in scene.modes)
    assert not (run.folder / "reconstructions").exists()


# the page


def test_every_control_changes_what_is_shown(run):
    box = explorer(run)
    for kind, column in box.columns.items():
        for name in ("arm", "sex", "age_years", "world", "patient", "mode", "task", "level"):
            control, before = column.controls[name], column.shown.value
            values = [option[1] if isinstance(option, tuple) else option for option in control.options]
            control.value = next(value for value in reversed(values) if value != control.value)
            assert column.shown.value != before or name == "world", f"{kind}: {name} changes nothing"
        assert column.status.value and column.shown.value.count("<img") == 4


def test_pictures_and_scores_are_put_into_words(run):
    column = explorer(run).columns["xray"]
    assert column.shown.value.count('alt="') == 4 and 'role="img" aria-label="' in column.shown.value
    assert "dB" in column.status.value and "Score for pleural effusion" in column.status.value


def test_what_cannot_be_shown_says_so_and_keeps_the_picture(run, monkeypatch):
    column = explorer(run).columns["mri"]
    before = column.shown.value

    def refuse(choice):
        raise ValueError("no such level")

    monkeypatch.setattr(column.scene, "see", refuse)
    with pytest.raises(ValueError, match="no such level"):
        column.controls["level"].value = column.scene.levels[0]
    assert column.shown.value == before and "could not be shown (no such level)" in column.status.value


def test_scores_are_drawn_where_they_belong_and_unknown_ones_are_not_drawn(by_name, choice):
    view = by_name["chest"].see(choice)
    half = dataclasses.replace(view, scores={"clean": 0.5, "degraded": math.nan}, threshold=math.nan)
    drawn = strip({"somebody": half}, "tv", math.nan)
    assert mark("clean", 220, 18) in drawn and drawn.count("<rect") == 1, "0.5 is the middle of 440"
    assert "M" in drawn and "somebody: clean 0.50" in drawn
    assert number(math.nan) == "\N{EN DASH}" and number(-0.25, "+.2f") == "\N{MINUS SIGN}0.25"


def test_the_notebook_is_in_step_with_its_source(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / "tools"))
    from pairs import paired

    source = root / "notebooks" / "explorer.py"
    assert source.with_suffix(".ipynb").read_text(encoding="utf-8") == paired(source)


# drawn beforehand


@pytest.fixture(scope="module")
def drawn_page(run, tmp_path_factory):
    return still.write_still(run, tmp_path_factory.mktemp("still") / "explorer.html")


def test_every_state_of_the_drawn_page_is_there_and_asks_for_nothing(drawn_page):
    text = drawn_page.read_text(encoding="utf-8")
    columns = [json.loads(facts) for facts in re.findall(r'<script type="application/json">(.*?)</script>', text)]
    assert len(columns) == 2 and not re.search(r"(src|href)=[\"']?(https?:)?//|@import|url\(", text)
    for facts, controls in zip(columns, text.split("<section")[1:]):
        sizes = [controls[: controls.index("status")].count("<option")]
        assert sizes[0] > 10 and set(facts["states"]) == set(facts["said"])
        used = {int(i) for state in facts["states"].values() for i in re.findall(r'src="@(\d+)"', state)}
        assert used == set(range(len(facts["images"])))
        assert len(set(facts["images"])) == len(facts["images"]), "a shared picture is stored once"


def test_a_drawn_state_is_what_the_live_explorer_shows(by_name):
    scene = by_name["chest"]
    options = still.choices(scene)
    truths = [scene.see(Choice(number, 10_000, "physical", "tv", still.question(scene))).truth
              for _, number in options["patient"]]  # fmt: skip
    assert truths == ["present", "present", "absent", "absent"]
    value = {name: values[-1][1] for name, values in options.items()}
    page, said = still.drawn(scene, value)
    assert "as recorded: " in page and page.count("<img") == 4 and "Patient" in said
    first = still.drawn(scene, {name: values[0][1] for name, values in options.items()})[0]
    assert "as recorded: " not in first and first != page


def test_grey_pictures_are_kept_without_loss():
    image = np.random.default_rng(0).random((16, 16))
    address = still.smaller(grey(image))
    pixels = np.asarray(Image.open(BytesIO(base64.b64decode(address.split(",")[1]))).convert("L"))
    assert address.startswith("data:image/webp") and np.array_equal(pixels, np.round(image * 255).astype(np.uint8))


# a cohort that is not simulated


def test_a_real_cohort_is_shown_as_recorded_and_cannot_be_given_other_attributes(tmp_path):
    rng, items = np.random.default_rng(0), []
    for i in range(30):
        row = {"image_id": f"i{i}", "patient_id": f"p{i}", "modality": "mri", "race": "unknown"}
        row |= {"sex": ("female", "male")[i % 2], "age_years": 40 + i, "y_tumour_grade": float(i % 3 == 0)}
        items.append((rng.random((32, 32), dtype=np.float32), row))
    write_cohort(tmp_path / "cohorts" / "mine", items, name="mine", seed=1)
    made = Run(tmp_path, load_settings("smoke", cohorts=["mine"], image_size=32), example=tmp_path / "nothing")
    scene = next(scene for scene in scenes(made) if scene.name == "mine")
    patient = next(iter(scene.patients("tumour_grade").values()))
    view = scene.see(Choice(patient, 8, "physical", "tv", scene.tasks[0], scene.worlds[0]))
    assert scene.title == "MRI: mine, real" and scene.attributes == {} and scene.reader == "no trained reader"
    assert np.array_equal(view.images["clean"], scene.cohort.image(patient))
    assert all(math.isnan(score) for score in view.scores.values())
    column = explorer(made).columns["mri"]
    column.controls["cohort"].value = "mine"
    assert column.controls["sex"].disabled and "MRI: mine, real" in column.heading.value
    assert "\N{EN DASH}" in column.shown.value, "a score that is not known is a dash"
