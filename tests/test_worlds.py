"""The worlds of `benchmarks/calibration.py`: is the truth that they claim the truth of the tables they make?

The tables are caught on their way into the audit, many are put together, and rates of this large sample are compared
with the closed form. Tolerances are five standard errors of the sample.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import calibration
import worlds_null
import worlds_planted
import worlds_tables as wt


class Caught(Exception):
    """Stops a trial where the audit would begin."""


@pytest.fixture
def tables(monkeypatch):
    """Function: world and number of trials -> results of all trials beside the cohort, one row per result."""

    def catch(name: str, n: int) -> pd.DataFrame:
        kept = []

        def stop(predictions, cohort, **_):
            kept.append(predictions.merge(cohort, on="image_id", suffixes=("", "_cohort")).assign(trial=len(kept)))
            raise Caught

        for module in (worlds_null, worlds_planted):
            monkeypatch.setattr(module, "audit_change", stop)
        for i in range(n):
            with pytest.raises(Caught):
                calibration.WORLDS[name].trial(np.random.default_rng([5, i]), i, 100)
        return pd.concat(kept, ignore_index=True)

    return catch


def rates(table: pd.DataFrame, label: int, cut: float = 0.5, task: str = "finding") -> pd.DataFrame:
    """Share of positive decisions by group (rows) and arm (columns)."""
    chosen = table[(table["task"] == task) & (table[f"y_{task}"] == label)]
    return (chosen["score"] >= cut).groupby([chosen["sex"], chosen["arm"]]).mean().unstack()


@pytest.mark.parametrize("name", ["two_groups", "many_images", "noise_band", "small_six", "arms_and_tasks"])
def test_null_worlds_have_the_same_rates_in_every_arm_and_group(tables, name):
    table = tables(name, 40)
    task = table["task"].iloc[0]
    for label, rate in ((1, wt.SENSITIVITY), (0, 1 - wt.SPECIFICITY)):
        found = rates(table, label, task=task)
        chosen = table[(table["task"] == task) & (table[f"y_{task}"] == label) & (table["arm"] == "clean")]
        patients = chosen.groupby(["sex", "trial", "patient_id"]).size()
        share = patients.groupby("sex").apply(lambda n: (n**2).sum() / n.sum() ** 2)  # no more than 1 / clusters
        assert (np.abs(found.sub(rate)).max(axis=1) < 5 * np.sqrt(rate * (1 - rate) * share)).all()


def test_sizes_of_groups_and_clusters(tables):
    six = tables("six_groups", 1).drop_duplicates("image_id")["sex"].value_counts()
    assert six.to_dict() == {"a": 5200, "b": 1600, "c": 800, "d": 300, "e": 80, "f": 20}
    band = tables("noise_band", 1).drop_duplicates("image_id").groupby(["sex", "patient_id"]).size()
    assert set(band["a"]) == {10} and set(band["b"]) == {1} and (len(band["a"]), len(band["b"])) == (300, 60)
    images = wt.heavy_tail(np.random.default_rng(0), 200_000)
    assert (images.min(), images.max()) == (1, 40)
    for k in (1, 2, 5, 20):  # Pareto, rounded down: P(more than k) = (k + 1) ** -1.2
        assert np.mean(images > k) == pytest.approx((k + 1) ** -1.2, abs=5 * 0.5 / np.sqrt(200_000))


@pytest.mark.parametrize("icc", [0.0, 0.5])
def test_residuals_have_variance_one_and_the_stated_icc(icc):
    readers = wt.Readers(np.random.default_rng(1), np.zeros(40_000, int), np.full(40_000, 2), icc=icc)
    pairs = readers.residual["finding"].reshape(-1, 2)
    assert pairs.var() == pytest.approx(1, abs=0.02)
    assert np.mean(pairs[:, 0] * pairs[:, 1]) == pytest.approx(icc, abs=0.03)


@pytest.mark.parametrize("name", ["seeds_2", "folds"])
def test_networks_favour_groups_by_chance_and_not_on_average(tables, name):
    table = tables(name, 150)
    network = "train_seed" if name == "seeds_2" else "fold"
    positive = table[(table["y_finding"] == 1) & (table["arm"] == "arm")]
    each = (positive["score"] >= 0.5).groupby([positive["trial"], positive[network], positive["sex"]]).mean().unstack()
    spread = 0.4 if name == "seeds_2" else 0.15
    for group in ("a", "b"):
        assert each[group].mean() == pytest.approx(wt.SENSITIVITY, abs=5 * each[group].std() / np.sqrt(len(each)))
    own = norm.ppf(wt.SENSITIVITY)
    draws = norm.cdf(own * np.hypot(1, spread) + spread * np.random.default_rng(2).normal(size=200_000))
    size = positive.groupby(["trial", network, "sex"]).size().mean()
    expected = np.sqrt(draws.var() + wt.SENSITIVITY * (1 - wt.SENSITIVITY) / size)
    assert each["b"].std() == pytest.approx(expected, rel=0.2)


def test_offsets_move_the_pooled_auroc_and_not_that_of_a_fold(tables):
    table = tables("fold_offsets", 30)
    truth = norm.cdf(sum(np.abs(wt.Readers.cuts())) / np.sqrt(2))
    score = lambda rows: roc_auc_score(rows["y_finding"], rows["score"])
    for arm in ("clean", "arm"):
        for fold in range(3):
            rows = table[(table["arm"] == arm) & (table["fold"] == fold)]
            assert score(rows) == pytest.approx(truth, abs=0.025)
    assert score(table[table["arm"] == "arm"]) < truth - 0.04


def test_threshold_world_truth_is_that_of_a_huge_sample(tables):
    table = tables("threshold_frozen", 30)
    cut = worlds_null.population_cut()
    clean = table[table["arm"] == "clean"]
    decided = clean["score"] >= 1 / (1 + np.exp(-cut))
    balance = decided[clean["y_finding"] == 1].mean() - (~decided[clean["y_finding"] == 0]).mean()
    assert abs(balance) < 5 * np.sqrt(2 * 0.25 / (len(clean) / 2))
    found = rates(table, 1, 1 / (1 + np.exp(-cut)))
    own = worlds_null.SIGNALS[1, 0] - cut
    expected = norm.cdf(own + worlds_null.SHIFT) - norm.cdf(own)
    assert found.loc["b", "arm"] - found.loc["b", "clean"] == pytest.approx(expected, abs=0.02)
    assert found.loc["a", "arm"] - found.loc["a", "clean"] == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize(
    "name, change", [("tpr_loss_60", -0.30), ("tpr_loss_300", -0.12), ("at_the_margin", -0.05), ("turned", 0.2)]
)
def test_planted_changes_of_a_true_positive_rate(tables, name, change):
    n = {"at_the_margin": 6, "tpr_loss_60": 150}.get(name, 40)
    table = tables(name, n)
    found = rates(table, 1, task=table["task"].iloc[0])
    moved = found["arm"] - found["clean"]
    positives = n * {"tpr_loss_60": 30, "at_the_margin": 1000}.get(name, 150)
    assert moved["b"] - moved["a"] == pytest.approx(change, abs=5 * np.sqrt(0.5 / positives))


def test_flips_without_harm(tables):
    table = tables("flips", 60)
    for label in (0, 1):
        found = rates(table, label)
        assert (np.abs(found["arm"] - found["clean"]) < 0.03).all()
    wide = table.pivot_table(index=["trial", "image_id", "sex"], columns="arm", values="score") >= 0.5
    flips = (wide["arm"] != wide["clean"]).groupby("sex").mean()
    assert flips["b"] > flips["a"] + 0.05


def test_auroc_loss_is_the_closed_form(tables):
    table = tables("auroc_loss", 40)
    apart = sum(np.abs(wt.Readers.cuts())) / np.sqrt(2)
    for group, arm, z in (("b", "clean", apart), ("b", "arm", apart - 0.6 / np.sqrt(2)), ("a", "arm", apart)):
        rows = table[(table["sex"] == group) & (table["arm"] == arm)]
        assert roc_auc_score(rows["y_finding"], rows["score"]) == pytest.approx(norm.cdf(z), abs=0.015)


def test_segmentation_worlds(tables):
    loss = tables("dice_loss", 20)
    dice = 2 * loss["intersection"] / (loss["predicted"] + loss["actual"])
    mean = dice.groupby([loss["sex"], loss["arm"]]).mean().unstack()
    assert mean.loc["b", "arm"] - mean.loc["b", "clean"] == pytest.approx(-0.05, abs=0.003)
    assert mean.loc["a", "arm"] - mean.loc["a", "clean"] == pytest.approx(0, abs=0.003)
    painted = tables("hallucinated", 2)
    healthy = painted[painted["actual"] == 0]
    pixels = healthy.groupby(["sex", "arm"])["predicted"].unique().map(list).to_dict()
    assert pixels == {("a", "clean"): [0], ("a", "arm"): [0], ("b", "clean"): [0], ("b", "arm"): [300]}


@pytest.mark.parametrize("name", ["mde_shift", "mde_flips"])
def test_the_detectable_change_is_what_is_planted(tables, monkeypatch, name):
    monkeypatch.setattr(worlds_planted, "_printed_mde", lambda *_: 0.1)
    found = rates(tables(name, 60), 1)
    assert found.loc["b", "arm"] - found.loc["b", "clean"] == pytest.approx(-0.1, abs=0.02)
    assert found.loc["a", "arm"] - found.loc["a", "clean"] == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize(
    "name, shift, least, most",
    [("power_correlated", 0.7, 0.5, 1), ("power_independent", 0.7, -0.05, 0.05), ("power_small", 1.2, -0.05, 0.05)],
)
def test_power_worlds_lose_true_positives_in_every_second_group(tables, name, shift, least, most):
    table = tables(name, 90)
    found = rates(table, 1, task="t1")
    before, after = norm.ppf(wt.SENSITIVITY), (norm.ppf(wt.SENSITIVITY) - shift) / np.hypot(1, 0.4)
    assert found.loc["b", "arm"] == pytest.approx(norm.cdf(after), abs=0.05)
    assert found.loc["a", "arm"] == pytest.approx(norm.cdf(before / np.hypot(1, 0.4)), abs=0.03)
    clean = table[(table["arm"] == "clean")].pivot_table(index=["trial", "image_id"], columns="task", values="score")
    assert least <= clean["t1"].corr(clean["t2"]) <= most


def test_holm_by_hand_is_the_worked_example():
    # .01 * 4, .02 * 3, .03 * 2, .04 * 1, each no less than the one before
    assert worlds_planted.holm_by_hand(np.array([0.04, 0.01, 0.03, 0.02])) == pytest.approx([0.06, 0.04, 0.06, 0.06])


def test_monte_carlo_error():
    assert calibration.monte_carlo([0, 1, 1, 0, None]) == pytest.approx((0.5, 0.25, 4))
    assert calibration.monte_carlo([0.25, 0.75]) == pytest.approx((0.5, 0.25, 2))
    value, error, n = calibration.monte_carlo([0.0] * 98)
    assert (value, n) == (0, 98) and error == pytest.approx(np.sqrt(0.01 * 0.99 / 98))  # not certainty
    assert np.isnan(calibration.monte_carlo([None])[0])


def test_goals_leave_two_monte_carlo_errors_and_exact_goals_none():
    assert calibration.reached(0.065, 0.01, (None, 0.065)) == "yes"
    assert calibration.reached(0.084, 0.01, (None, 0.065)) == "within error"
    assert calibration.reached(0.086, 0.01, (None, 0.065)) == "NO"
    assert calibration.reached(0.001, 0.01, (None, 0.0)) == "NO"
    assert calibration.reached(0.92, 0.004, (0.93, 0.97)) == "NO"
    assert calibration.reached(np.nan, np.nan, (0.93, 0.97)) == "not counted"
    assert calibration.reached(0.5, 0.1, None) == ""


def row(**columns) -> dict:
    plain = {"delta": 0.1, "delta_ci_low": 0.05, "delta_ci_high": 0.15, "margin": 0.05, "verdict": "changed"}
    return plain | {"p_value": 0.01, "role": "primary", "estimator": "plug_in"} | columns


def test_a_row_that_denies_its_interval_is_seen():
    agree = [row(), row(delta=0, delta_ci_low=-0.02, delta_ci_high=0.02, p_value=1.0, verdict="equivalent")]
    assert wt.contradictions(pd.DataFrame(agree)) == 0
    assert wt.contradictions(pd.DataFrame([*agree, row(delta_ci_low=-0.05)])) == 1
    assert wt.contradictions(pd.DataFrame([*agree, row(delta=0.04, verdict="equivalent")])) == 1
    assert wt.contradictions(pd.DataFrame([*agree, row(p_value=0.2, verdict="undetermined")])) == 1  # 0 is outside


def test_flags_and_coverage_count_what_could_be_estimated():
    lost = row(delta=np.nan, delta_ci_low=np.nan, delta_ci_high=np.nan, verdict="not_estimable")
    both = pd.DataFrame([row(), row(delta_ci_low=-0.1, verdict="undetermined"), lost])
    assert wt.flagged(both) == 1 and wt.covers(both, 0.0) == 0.5
    assert np.isnan(wt.flagged(pd.DataFrame([lost]))) and np.isnan(wt.covers(pd.DataFrame([lost]), 0.0))


def test_flips_within_a_group_are_no_false_flag():
    flip = row(metric="flip_rate", subgroup="a", reference="", estimator="plug_in")
    quiet = flip | {"metric": "tpr", "verdict": "undetermined", "delta_ci_low": -0.1}
    assert wt.null_figures(pd.DataFrame([flip, quiet]))["flagged: any row, also exploratory"] == 0
    assert wt.null_figures(pd.DataFrame([flip | {"reference": "b"}, quiet]))["flagged: any row, also exploratory"] == 1


def test_audits_do_not_depend_on_how_a_run_is_cut(tmp_path):
    file, once, again = str(tmp_path / "figures.json"), {}, {}
    calibration.simulate("turned", 6, 100, once, lambda: None)
    calibration.simulate("turned", 2, 100, again, lambda: calibration.write_json(file, again))
    later = calibration.read_json(file)
    calibration.simulate("turned", 6, 100, later, lambda: None)
    assert later["turned"]["n"] == 6 and later["turned"]["figures"] == once["turned"]["figures"]
    assert len(calibration.table_of(later)) == 3


def test_figures_of_another_audit_are_not_continued(monkeypatch):
    state = {}
    calibration.simulate("fold_missing", 2, 100, state, lambda: None)
    calibration.simulate("fold_missing", 3, 100, state, lambda: None)
    assert state["fold_missing"]["n"] == 3
    state["fold_missing"]["figures"] = {"a figure of before": [1.0] * 3}
    calibration.simulate("fold_missing", 3, 100, state, lambda: None)
    assert "a figure of before" in state["fold_missing"]["figures"]  # the same source: kept
    monkeypatch.setattr(calibration, "fingerprint", lambda name: "another")
    calibration.simulate("fold_missing", 3, 100, state, lambda: None)
    assert list(state["fold_missing"]["figures"]) == ["refused, and the fold is named"]


def test_a_run_of_some_worlds_keeps_the_rows_of_the_others(tmp_path, monkeypatch, capsys):
    file = tmp_path / "new" / "worlds.csv"
    run = lambda *options: (monkeypatch.setattr(sys, "argv", ["calibration", *map(str, options)]), calibration.main())
    run("--world", "random_table", "fold_missing", "--reps", 1, "--n-boot", 100, "--into", file)
    before = file.read_text().splitlines()
    edited = [line.replace("random_table,", "a world of before,", 1) for line in before]
    edited[1] = edited[1].replace(",1,100,", ",1,100.0,")  # kept as it is, to the last digit
    assert edited[1] != before[1]
    file.write_text("\n".join(edited) + "\n")
    run("--world", "fold_missing", "--reps", 2, "--n-boot", 100, "--out", file.parent)
    after = file.read_text().splitlines()
    assert [line for line in edited if not line.startswith("fold_missing")] == [
        line for line in after if not line.startswith("fold_missing")
    ]
    row = pd.read_csv(file).set_index("world").loc["fold_missing"]
    assert (row["n"], row["found"], file.with_name("worlds.csv.part").exists()) == (2, 1.0, False)
    file.write_text("another,table\n1,2\n")
    with pytest.raises(SystemExit, match="another, table"):
        run("--world", "fold_missing", "--reps", 1, "--n-boot", 100, "--into", file)


def test_a_cut_run_has_written_the_worlds_before(tmp_path, monkeypatch):
    file, plain = tmp_path / "worlds.csv", calibration.simulate

    def cut(name, *rest):
        if name == "random_table":
            raise KeyboardInterrupt
        plain(name, *rest)

    monkeypatch.setattr(calibration, "simulate", cut)
    names = ["fold_missing", "random_table"]
    monkeypatch.setattr(sys, "argv", ["calibration", "--world", *names, "--reps", "1", "--into", str(file)])
    with pytest.raises(KeyboardInterrupt):
        calibration.main()
    assert list(pd.read_csv(file)["world"]) == ["fold_missing"]


def test_the_source_of_a_world_is_its_own_and_that_of_what_it_audits(monkeypatch):
    alone, paired = calibration.fingerprint("single_two"), calibration.fingerprint("turned")
    calibration.fingerprint.cache_clear()
    plain = Path.read_bytes
    changed = lambda file: plain(file) + b"#" * (file.name == "single.py" and file.parent.name == "auditing")
    monkeypatch.setattr(Path, "read_bytes", changed)
    assert calibration.fingerprint("single_two") != alone and calibration.fingerprint("turned") == paired
    calibration.fingerprint.cache_clear()


def test_a_thousand_random_tables_have_more_than_ten_thousand_rows():
    found = calibration.trials("random_table", 0, 12, 100)
    assert np.mean(found["rows of the table"]) > 10 and len(set(found["rows of the table"])) > 2


def test_every_world_has_a_sentence_and_goals_that_are_counted():
    assert len({world.words for world in calibration.WORLDS.values()}) == len(calibration.WORLDS) >= 24
    for world in calibration.WORLDS.values():
        assert any(goal is not None for goal in world.goals.values())
