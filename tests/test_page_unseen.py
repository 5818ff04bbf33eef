"""What the page says of those who are not recorded, and of subgroups that nobody named, is what the tables say."""

import json

import numpy as np
import pandas as pd
import pytest

from fairrecon_lab.auditing import page_unseen
from fairrecon_lab.auditing.bounds import bounds_unrecorded
from fairrecon_lab.auditing.command import main
from fairrecon_lab.auditing.page import AuditReport
from fairrecon_lab.auditing.search import search_subgroups

N = 1200


def tables(lost_sex=0.0, lost_label=0.0, seed=2):
    """Old women with the finding are missed; by sex alone and by age alone the gap is half as wide."""
    rng = np.random.default_rng(seed)
    female, old, ill = (rng.random(N) < 0.5 for _ in range(3))
    logit = -1.2 + 3 * ill - 2.4 * (female & old & ill) + rng.normal(size=N)
    cohort = pd.DataFrame({"image_id": [f"i{k}" for k in range(N)], "patient_id": [f"p{k}" for k in range(N)],
                           "sex": np.where(female, "female", "male"), "age_group": np.where(old, "old", "young"),
                           "y_edema": np.where(rng.random(N) < lost_label, np.nan, ill)})  # fmt: skip
    cohort.loc[rng.random(N) < lost_sex, "sex"] = "unknown"
    scores = cohort[["image_id"]].assign(task="edema", score=1 / (1 + np.exp(-logit)))
    return scores, cohort


@pytest.fixture(scope="module")
def report():
    scores, cohort = tables(lost_sex=0.1, lost_label=0.05)
    return scores, cohort, AuditReport.of(scores, cohort, ["sex", "age_group"], n_boot=200)


def test_bounds_on_the_page_are_those_of_the_tables(report):
    scores, cohort, made = report
    own = bounds_unrecorded(scores, cohort, "sex", metrics=("tpr", "fpr"))
    pd.testing.assert_frame_equal(made.unrecorded.query("attribute == 'sex'").reset_index(drop=True), own)
    section = made._contents["unseen"]["bounds"]
    gaps = made.unrecorded[made.unrecorded["reference"] != ""]
    sure = int(gaps["verdict"].isin(["different", "different_within_margin"]).sum())
    assert (
        f"Of the {len(gaps)} gaps" in section["text"][0]
        and page_unseen._count(sure) + " beyond chance" in section["text"][0]
    )
    assert f"sex: {int((cohort['sex'] == 'unknown').sum())} patients" in section["text"][0]
    (forest,) = section["forests"]
    assert len(forest["strips"]) == len(gaps) and 'class="possible"' in forest["strips"][0]["svg"]
    widest = gaps[gaps["verdict"].eq("different")].nlargest(1, "value").iloc[0]
    shown = forest["strips"][0]["value"].replace("−", "-").split(" to ")
    assert widest["value"] > gaps["value"].abs().nlargest(2).iloc[1] and widest["low"] < widest["value"]
    assert [float(text) for text in shown] == [round(widest["low"], 3), round(widest["high"], 3)]


def test_json_beside_a_page_has_both_tables(report, tmp_path):
    scores, cohort, made = report
    scores.to_csv(tmp_path / "scores.csv", index=False)
    cohort.to_csv(tmp_path / "people.csv", index=False)
    files = [str(tmp_path / name) for name in ("scores.csv", "people.csv")]
    where = ["--report", str(tmp_path / "page.html"), "--json", str(tmp_path / "all.json")]
    choices = ["--attribute", "sex", "--attribute", "age_group", "--n-boot", "200"]
    assert main([*files, *choices, *where]) == 0
    found = json.loads((tmp_path / "all.json").read_text(), parse_constant=lambda word: pytest.fail(word))
    for name, table in (("bounds", made.unrecorded), ("search", made.search)):
        there = pd.DataFrame(found[name])
        assert len(there) == len(table) > 0 and list(there) == list(table)
        for column in ("value", "p_adjusted" if name == "search" else "low"):
            assert np.allclose(there[column].astype(float), table[column].astype(float), equal_nan=True)


def test_where_everybody_is_recorded_the_page_says_so():
    section = AuditReport.of(*tables(), "sex", n_boot=200)._contents["unseen"]["bounds"]
    assert section["table"] is None and "every attribute and every label" in section["text"][0]


def test_the_subgroup_that_nobody_named_is_named_and_alpha_is_shared(report):
    scores, cohort, made = report
    found = made.search
    assert found["n_searches"].eq(2).all() and found["metric"].nunique() == 2
    worst = found.iloc[0]
    assert set(worst["subgroup"].split(" & ")) == {"sex = female", "age_group = old"} and worst["flagged"]
    alone = search_subgroups(scores, cohort, ["sex", "age_group"], metric="tpr", alpha=0.05 / 2, min_support=20,
                             n_boot=2000, bins=page_unseen.MOST_NAMES)  # fmt: skip
    both = found.query("metric == 'tpr'").merge(alone, on="subgroup", suffixes=("", "_alone"))
    np.testing.assert_allclose(both["p_adjusted"], np.minimum(2 * both["p_adjusted_alone"], 1))
    np.testing.assert_allclose(both["bound"], both["bound_alone"])
    text = " ".join(made._contents["unseen"]["search"]["text"])
    assert (
        "sex = female and age_group = old" in text
        and page_unseen._count(found["flagged"].sum()) + " served worse" in text
    )


def test_one_attribute_has_no_intersections_and_the_page_says_how_to_have_some():
    section = AuditReport.of(*tables(), "sex", n_boot=200)._contents["unseen"]["search"]
    assert section["table"] is None and "--attribute" in section["text"][0]


def test_measures_of_images_are_searched_and_not_bounded():
    scores, cohort = tables()
    measured = scores[["image_id"]].assign(dice=np.clip(scores["score"], 0, 1))
    contents = AuditReport.of(measured, cohort, ["sex", "age_group"], n_boot=200)._contents["unseen"]
    found = contents["search"]["table"]
    assert contents["bounds"]["table"] is None and set(found["metric"]) == {"dice"}
    assert set(found["task"]) == {"segmentation"}


def test_a_notebook_gets_the_page_without_its_long_tables(report, tmp_path):
    *_, made = report
    whole = made.save(tmp_path / "page.html").read_text(encoding="utf-8")
    brief = made._repr_html_()
    assert 'id="table"' in whole and "id=&quot;table&quot;" not in brief and "id=&quot;unrecorded&quot;" in brief
    assert len(brief) < len(whole)
