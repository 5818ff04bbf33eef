"""A run's numbers on the papers' cells, the switchboard and the pictures, on the shipped example run."""

import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score

from fairrecon_core.settings import project_folder
from fairrecon_core.steps.folder import begin
from fairrecon_lab.paper import against_chance as measured
from fairrecon_lab.paper import board, numbers, ours, percent, pictures, stability
from fairrecon_lab.paper.switches import TEXT_SWITCHES, _aggregate, _Evaluation, switch_evaluation


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The tutorial, opened where nothing has run: everything comes from the shipped example."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAIRRECON_RUNS", str(tmp_path_factory.mktemp("runs")))
        return begin("tutorial")[1]


@pytest.fixture(scope="module")
def mine(run):
    return ours.Ours(run)


@pytest.fixture(scope="module")
def compared(mine):
    return numbers.compare(mine.numbers)


def cell(compared, *key):
    return compared.set_index(list(numbers.KEY)).loc[key, "ours"]


# ---------------------------------------------------------------------- numbers
def test_people_are_counted(mine, compared):
    people = mine.cohorts["brain"].table.drop_duplicates("patient_id")
    women = ((people["sex"] == "female") & (people["age_group"] == "old")).sum()
    assert cell(compared, "1", "Old", "Female") == women == cell(compared, "F6", "> 58", "Female")
    chest = mine.cohorts["chest"].table.drop_duplicates("patient_id")
    black = ((chest["sex"] == "male") & (chest["age_group"] == "young") & (chest["race"] == "black")).sum()
    assert cell(compared, "2", "Male, Young", "Black") == black == cell(compared, "F5", "Male, ≤ 62", "Black")


def test_an_auroc_is_that_of_scikit_learn(mine, compared):
    chest = mine.cohorts["chest"]
    scores = mine.tables["predictions"].query(
        "cohort == 'chest' and arm == 'unet' and task == 'edema' and level == 10000"
    )
    rows = chest.table[chest.table["split"] == "test"].merge(scores, on="image_id").dropna(subset=["y_edema"])
    expected = roc_auc_score(rows["y_edema"], rows["score"])
    assert cell(compared, "4", "10000, Edema AUROC", "U-Net") == pytest.approx(expected, abs=1e-6)
    assert cell(compared, "F7", "10000, Edema AUROC", "U-Net") == pytest.approx(expected, abs=1e-6)


def test_nothing_of_simulated_patients_may_be_compared(compared):
    assert compared["ours"].notna().sum() > 800 and not compared["comparable"].any()
    assert compared.loc[compared["ours"].notna(), "why_not"].str.contains("simulated|copied").all()
    shown = numbers.side_by_side(compared, "F3")
    assert shown.loc["Reweighted", "Sex"] == "10.6 | -" and shown.loc["Standard", "Sex"].startswith("24.1 | ")
    assert numbers.side_by_side(compared, "F4").loc["PSNR", "EODD Chex"] == "-0.64"


def test_medians_in_per_cent_follow_from_the_saved_audit(mine, compared):
    audit = mine.tables["audit"].query("baseline_arm == 'clean' and estimator == 'plug_in' and subgroup == ''")
    rows = audit.query("metric in ('eodd', 'ser') and arm in ('unet', 'pix2pix', 'sde')").dropna(subset=["value"])
    change = 100 * (rows["value"] / rows["baseline"] - 1)
    assert cell(compared, "F3", "Standard", "Age") == pytest.approx(change[rows["attribute"] == "age_group"].median())
    assert cell(compared, "F2", "Absolute Median", "SDE") == pytest.approx(change[rows["arm"] == "sde"].abs().median())


# ---------------------------------------------------------------------- stability
def test_the_change_of_the_mean_auroc_is_that_of_the_means(mine):
    table = stability.performance_changes(mine).set_index(["cohort", "measure", "arm"])
    chest = mine.cohorts["chest"]
    scores = mine.audited(mine.rows_of("predictions", chest), chest)
    rows = chest.table[chest.table["split"] == "test"].merge(scores, on="image_id")
    level = {}
    for (arm, task), part in rows.groupby(["arm", "task"]):
        part = part.dropna(subset=[f"y_{task}"])
        level.setdefault(arm, []).append(roc_auc_score(part[f"y_{task}"], part["score"]))
    change = np.mean(level["degraded"]) - np.mean(level["clean"])
    row = table.loc[("chest", "mean AUROC", "degraded")]
    assert row["change"] == pytest.approx(change, abs=1e-6) and row["low"] < row["change"] < row["high"]
    assert table.loc[("brain", "Dice", "degraded"), "verdict"] == "changed"
    assert {"equivalent", "undetermined", "changed", "changed within margin"} >= set(table["verdict"])


# ---------------------------------------------------------------------- the switchboard
def test_three_eodds_by_hand():
    rates = np.array([[[0.9, 0.6, 0.7]], [[0.3, 0.2, 0.6]]])[None, None]  # TPR, FPR of three groups: (1, 1, 2, 1, 3)
    assert _aggregate(rates, "mean").item() == pytest.approx((0.3 + 0.4) / 2)
    assert _aggregate(rates, "max").item() == pytest.approx(0.4)
    assert _aggregate(rates, "pair_sum").item() == pytest.approx(0.5)  # .3 + .1, .2 + .3, .1 + .4
    assert np.isnan(_aggregate(np.full((1, 1, 2, 1, 2), np.nan), "pair_sum")).all()


@pytest.fixture(scope="module")
def stand_in():
    return board.stand_in(seed=1, n_patients=900)


def test_the_texts_are_switched_too(stand_in):
    table = switch_evaluation(*stand_in, "sex", switches=TEXT_SWITCHES, n_boot=200).set_index("choice")
    assert list(table.index) == list(TEXT_SWITCHES)
    assert table.loc["EODD (follow-up, main text)", "effect"] < 0, "the larger of two is not below their mean"
    assert table.loc["EODD (follow-up, appendix)", "effect"] < table.loc["EODD (follow-up, main text)", "effect"]
    assert table["effect"].notna().all()


def test_a_one_sided_test_sees_one_side(stand_in):
    evaluation = _Evaluation.of(*stand_in, "sex", "clean", (1.0, 10, 300, 0.05, 0))
    keep = np.ones(len(evaluation.patient), bool)
    choices = {"unit": "patients", "threshold_policy": "validation_frozen", "estimator": "plug_in", "empty": "left_out"}
    choices |= {"adjust": "none", "eodd": "mean"}
    one, two, picked = (
        evaluation.run(choices | {"side": side}, keep) for side in ("one_sided", "two_sided", "post_hoc")
    )
    worse = one.p_value < 0.5
    assert worse.any() and (~worse).any()
    assert one.p_value[worse] == pytest.approx(two.p_value[worse] / 2, abs=0.1)
    assert one.p_value[worse] == pytest.approx(picked.p_value[worse], abs=1e-9), "picked after looking: the same side"
    assert (picked.p_value[~worse] < 0.5).all() and (one.call >= 0).all()


def test_the_board_has_offline_rows_and_live_ones(mine):
    live, given = board.live_or_stand_in(mine)
    assert set(live["cohort"]) == {"brain", "chest"} and live["effect"].notna().all()
    whole = board.whole_board(mine, [live])
    assert set(whole["measured"]) == {"offline", "here"} and set(whole.columns) == {*board.COLUMNS, "measured"}
    assert (project_folder() / "results" / "switchboard" / "switchboard.csv").exists()
    both = board.crossed(live, given, mine.settings)
    assert both.columns.get_level_values(0).unique().to_list() == ["others recommended", "others published"]
    assert all(isinstance(pictures.switchboard(whole, "simulated", topic), Figure) for topic in pictures.TOPICS)


# ---------------------------------------------------------------------- pictures
def overlaps(figure):
    """Tick labels of one axis that lie over each other."""
    figure.canvas.draw()
    found = []
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            boxes = [label.get_window_extent() for label in axis.get_ticklabels() if label.get_text()]
            turned = any(label.get_rotation() for label in axis.get_ticklabels())
            found += [] if turned else [(a, b) for a, b in itertools.pairwise(boxes) if a.overlaps(b)]
    return found


def test_pictures_have_their_panels_and_no_labels_over_each_other(mine):
    table = percent.percent_table(mine.tables["audit"]).query("arm in ('unet', 'pix2pix', 'sde')")
    chest = table[table["cohort"] == "chest"]
    laws = measured.against_chance().query("table in ('F2', 'F3') and statistic == 'median change (%)'")
    by_attribute = dict(list(chest.groupby("attribute")))
    drawn = {
        "laws": (pictures.printed_on_laws(laws), 1),
        "histograms": (pictures.percent_histograms(by_attribute, {"sex": (-10, 10)}), 3),
        "changes": (pictures.changes_by_task(chest, ["sex", "age_group", "race"]), 3),
        "noise": (pictures.quality_and_task(stability.noise_panels(mine)), 8),
        "chance": (pictures.against_chance("sex", "eodd"), 1),
        "mean": (pictures.mean_not_maximum(), 1),
        "detectable": (pictures.detectable_changes(), 1),
    }
    for name, (figure, panels) in drawn.items():
        assert len(figure.axes) == panels, name
        assert not overlaps(figure), name


def test_a_picture_of_an_empty_run_is_empty():
    empty = pd.DataFrame({"percent": [np.nan]})
    assert len(pictures.percent_histograms({"sex": empty}).axes) == 1
