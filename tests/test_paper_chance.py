"""The laws of a change when nothing changed, against brute force; claims and verdicts against their own table."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import multivariate_normal, norm

from fairrecon_core.audit import audit_change
from fairrecon_core.audit.inference import minimal_detectable_effect
from fairrecon_lab.auditing.by_hand import auroc, eodd
from fairrecon_lab.paper import against_chance as measured
from fairrecon_lab.paper import chance, claims, flagged, percent, seed_claims, unchanged
from fairrecon_lab.paper.evaluation import published_classification
from fairrecon_lab.paper.numbers import as_markdown, changes, numbers

NO_CHANGE = unchanged.Law((0.1, 0.1, 0.1))
NO_DIRECTION = unchanged.Law((0.05, 0.05, 0.05), shift=0.07)


def small(shares=(0.6, 0.4), n=(300, 80), rates=(0.25, 0.75), empty=(0.0, 1.0)):
    return unchanged.Cell("sex", "edema", n, shares, rates, empty)


# ---------------------------------------------------------------------- the law, by brute force
def test_pairs_keep_the_rates_and_flip_as_asked():
    cell, rng = small(n=(30_000, 20_000)), np.random.default_rng(0)
    law = unchanged.Law((0.02, 0.1))
    n, pairs = unchanged.draw_pairs(cell, law, 60, rng, spread=(0, 0))
    assert (pairs.sum(axis=(-2, -1)) == n).all()
    for asked, one in zip(law.flips, pairs):
        differ = (one[..., 0, 1] + one[..., 1, 0]).sum() / n.sum()
        assert differ == pytest.approx(asked, abs=0.002)
        for rate in (one[..., 1, :].sum(axis=-1), one[..., :, 1].sum(axis=-1)):  # clean, arm
            assert rate.sum(axis=(0, 1)) / n.sum(axis=(0, 1)) == pytest.approx(cell.rates, abs=0.004)


def brute_force(law, cell, spread, n_worlds, seed):
    """EODD on clean images and behind one arm: patients one by one, their decisions flipped one by one."""
    rng, out = np.random.default_rng(seed), []
    for _ in range(n_worlds):
        rates = np.empty((2, len(cell.shares)))  # label, group
        for label in (0, 1):
            order = rng.permutation(np.linspace(-0.5, 0.5, len(cell.shares)))
            rates[label] = cell.rates[label] + spread[label] * order
        truth = np.repeat([0, 1], cell.n)
        group = rng.choice(len(cell.shares), len(truth), p=cell.shares)
        rate = rates[truth, group]
        clean = rng.random(len(truth)) < rate
        keep = 1 - law.flips[0] / (2 * cell.rates[1] * (1 - cell.rates[1]))  # else: decided anew
        arm = np.where(rng.random(len(truth)) < keep, clean, rng.random(len(truth)) < rate)
        out.append([gap_of_odds(truth, decision, group) for decision in (clean, arm)])
    return np.array(out)


def gap_of_odds(truth, decision, group):
    """Mean over labels of the largest minus the smallest rate of a group, those without such patients aside."""
    place = 2 * group + truth
    with np.errstate(invalid="ignore"):
        rates = np.bincount(place, decision) / np.bincount(place)
    by_label = np.append(rates, [np.nan] * (len(rates) % 2)).reshape(-1, 2)
    return float((np.nanmax(by_label, axis=0) - np.nanmin(by_label, axis=0)).mean())


@pytest.mark.parametrize("shares", [(0.6, 0.4), (0.7, 0.2, 0.1)])
def test_the_law_of_no_change_is_that_of_patients_flipped_one_by_one(shares):
    cell, spread, law = small(shares), (0.1, 0.15), unchanged.Law((0.12,))
    theirs = brute_force(law, cell, spread, 900, seed=1)
    ours = unchanged.eodd_pairs(cell, law, 4000, np.random.default_rng(2), spread=spread)
    change = [values[:, 1] - values[:, 0] for values in (ours, theirs)]
    error = theirs.std(axis=0) / np.sqrt(900)
    assert (np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) < 4 * error).all()
    assert change[0].std() == pytest.approx(change[1].std(), rel=0.12)
    assert np.corrcoef(ours.T)[0, 1] == pytest.approx(np.corrcoef(theirs.T)[0, 1], abs=0.09)


def test_without_flips_and_shift_nothing_changes():
    drawn = unchanged.null_changes(unchanged.Law((0.0, 0.0)), 20, attributes=("sex",))
    for (_, task), values in drawn.items():
        if task != "segmentation":  # the same patient's Dice is never quite the same
            assert (values[np.isfinite(values)] == 0).all()


def test_clean_and_arm_can_be_exchanged_so_that_the_median_change_is_zero():
    drawn = unchanged.null_changes(NO_CHANGE, 700, seed=3)
    for attribute in unchanged.ATTRIBUTES:
        median = unchanged.medians(drawn, attribute)
        assert abs(np.median(median)) < 4 * 1.25 * median.std() / np.sqrt(len(median))
        assert 0.4 < np.mean(median > 0) < 0.6


def test_changes_without_direction_raise_small_gaps_alone():
    drawn = unchanged.null_changes(NO_DIRECTION, 600, seed=4)
    middle = {attribute: np.median(unchanged.medians(drawn, attribute)) for attribute in unchanged.ATTRIBUTES}
    assert middle["sex"] > 8 and abs(middle["age_group"]) < 1 and 1 < middle["race"] < middle["sex"]


def test_the_true_spread_gives_the_printed_baseline_back():
    rng = np.random.default_rng(5)
    for attribute, task in (("age_group", "fracture"), ("sex", "pneumothorax"), ("race", "consolidation")):
        cell = unchanged.Cell.of(attribute, task)
        drawn = unchanged.eodd_pairs(cell, unchanged.Law((0.0,)), 600, rng, "bootstrap_mean")[:, 0]
        printed = changes().query("attribute == @attribute and task == @task and metric == 'eodd'")["baseline"].iloc[0]
        assert drawn.mean() == pytest.approx(printed, rel=0.1)
    assert unchanged.true_spread("race", "pneumonia") == (0.0, 0.0)  # equal rates print more


def test_the_fitted_law_reaches_the_printed_absolute_medians():
    law = unchanged.fitted_law([11.8, 11.8, 11.8], n_draws=150)
    again = unchanged.medians(unchanged.null_changes(law, 300, seed=9), absolute=True)
    assert np.median(again) == pytest.approx(11.8, rel=0.08)
    assert 0.1 < law.flips[0] < 0.25 and law.shift == 0
    assert unchanged.fitted_law([12.6] * 3, shift=True, n_draws=100).shift == pytest.approx(0.07, abs=0.02)


def test_an_unknown_estimator_is_refused():
    with pytest.raises(ValueError, match="unknown estimator 'median'"):
        unchanged.eodd_pairs(small(), NO_CHANGE, 5, np.random.default_rng(0), "median", spread=(0, 0))


# ---------------------------------------------------------------------- the published test
def test_the_p_values_are_those_of_the_published_evaluation():
    rng = np.random.default_rng(6)
    truth, group = (rng.random(900) < 0.3).astype(float), rng.choice(3, 900, p=[0.6, 0.3, 0.1])
    clean = (rng.random(900) < np.where(truth == 1, 0.8, 0.2)).astype(float)
    arm = np.where(rng.random(900) < 0.15, (rng.random(900) < 0.4).astype(float), clean)
    scores, cuts = {"clean": clean, "x": arm}, {"clean": 0.5, "x": 0.5}
    theirs = published_classification(truth, scores, group, thresholds=cuts, n_boot=2000).query("metric == 'eodd'")
    index = tuple(column.astype(int) for column in (group, truth, clean, arm))
    pairs = np.zeros((1, 3, 2, 2, 2), dtype=int)
    np.add.at(pairs[0], index, 1)
    change, p_value = flagged.published_p_values(pairs, (0.0, 1.0), 2000, rng)
    row = theirs[theirs["arm"] == "x"].iloc[0]
    assert change[0] == pytest.approx(row["delta"])
    assert p_value[0] == pytest.approx(row["p_value"], abs=4 * np.sqrt(0.5 / 2000))


def test_the_published_test_flags_more_where_the_gap_is_clear():
    count = {name: flagged.flagged_cells(NO_CHANGE, name, 25, 120)["flagged"].mean() for name in ("sex", "age_group")}
    some = flagged.flagged_cells(NO_DIRECTION, "sex", 25, 120)
    assert count["sex"] < count["age_group"] < 8 < some["flagged"].mean()
    assert (some["up"] <= some["flagged"]).all()


def test_a_share_of_no_world_still_has_an_error():
    assert flagged.monte_carlo_error(0.5, 100) == pytest.approx(0.05)
    assert 0 < flagged.monte_carlo_error(0.0, 400) == pytest.approx(1 / 400, rel=0.01)
    row = measured.result(("F3", "x", "y"), "count", "no change", 9, [0, 1, 2, 9])
    assert (row["share"], row["expected"]) == (0.25, 1.5) and row["error"] == pytest.approx(np.sqrt(0.25 * 0.75 / 4))
    assert measured.result(("F3", "x", "y"), "count", "no change", 0, [0, 1, 2, 9])["share"] == 0.25


# ---------------------------------------------------------------------- AUROC
def test_the_correlation_of_scores_gives_the_flips_back():
    for flips, rate in ((0.05, 0.8), (0.2, 0.7)):
        r, cut = measured.score_correlation(flips, rate), norm.ppf(rate)
        both = multivariate_normal([0, 0], [[1, r], [r, 1]]).cdf([cut, cut])
        assert 2 * (rate - both) == pytest.approx(flips, abs=1e-3)


def test_the_error_of_an_auroc_change_is_that_of_drawn_scores():
    rng, n, values = np.random.default_rng(7), (60, 40), []
    truth, r = np.repeat([1, 0], n), 0.8
    for _ in range(400):
        common = rng.normal(size=100) * np.sqrt(r)
        score = [norm.cdf(common + rng.normal(size=100) * np.sqrt(1 - r) + 1.2 * truth) for _ in range(2)]
        values.append([auroc(truth, one) for one in score])
    values = np.array(values)
    assert measured.auroc_error(values.mean(), *n) == pytest.approx(values.std(), rel=0.1)
    change = measured.auroc_error(values.mean(), *n) * np.sqrt(2 * (1 - r))
    assert change == pytest.approx(np.diff(values).std(), rel=0.15)


def test_the_smallest_detectable_effect_is_written_out():
    n, shares = chance.expected_counts("edema")[0], chance.subgroup_shares("sex")
    error = np.sqrt(0.1 * 1.3 * (1 / (n * shares["female"]) + 1 / (n * shares["male"])))
    least = minimal_detectable_effect(error, n_group=n * shares["female"] / 1.3)  # its own flips add to the error
    assert chance.detectable("edema", "female", "male", 0.1) == pytest.approx(least) and least > 2.80 * error
    assert chance.detectable("edema", "AI/AN", "White", 0.1) > 5 * chance.detectable("edema", "female", "male", 0.1)


def test_merged_races_are_four():
    merged = chance.subgroup_shares("merged_race")
    assert len(merged) == 4 and merged.sum() == pytest.approx(1)
    assert merged["Other"] == pytest.approx((176 + 861 + 9634) / 56_810)


# ---------------------------------------------------------------------- per cent, on a run's own decisions
def world(seed=0, n=1200, shift=0.0):
    """Predictions of clean and two arms for one task, and who is who."""
    rng = np.random.default_rng(seed)
    people = pd.DataFrame({"image_id": [f"i{i}" for i in range(n)], "patient_id": [f"p{i}" for i in range(n)]})
    people["sex"], people["y_edema"] = rng.choice(["female", "male"], n), (rng.random(n) < 0.4).astype(float)
    people["split"] = np.where(np.arange(n) % 3 == 0, "validation", "test")
    latent = rng.normal(size=n) + 1.5 * people["y_edema"]
    scores = {"clean": latent}
    for arm in ("unet", "sde"):
        scores[arm] = latent + rng.normal(0, 0.6, n) + shift * (people["sex"] == "female")
    rows = [
        people[["image_id"]].assign(arm=arm, task="edema", score=norm.cdf(values)) for arm, values in scores.items()
    ]
    return pd.concat(rows, ignore_index=True).assign(cohort="w", level=1.0), people


def test_per_cent_by_hand():
    assert percent.percent_change([0.3, 0.1], [0.2, 0.2]) == pytest.approx([50, -50])
    odd = percent.percent_change([0.1, 0.0], [0.0, 0.0])
    assert np.isinf(odd[0]) and np.isnan(odd[1])
    table = pd.DataFrame({"attribute": ["sex"] * 3, "percent": [-10.0, 20.0, 50.0]})
    assert percent.percent_summary(table).loc["sex"].to_list() == [3, 20, 20]


def test_observed_changes_are_those_of_the_audit():
    predictions, people = world(shift=0.5)
    null = percent.null_percent(predictions, people, "sex", ["unet", "sde"], n_draws=50)
    audit = audit_change(predictions, people, "sex", n_boot=100)
    table = percent.percent_table(audit).set_index("arm")
    assert list(null.observed["arm"]) == ["unet", "sde"] and null.draws.shape == (50, 2)
    for row in null.observed.itertuples():
        assert row.value == pytest.approx(table.loc[row.arm, "value"])
        assert row.percent == pytest.approx(table.loc[row.arm, "percent"])


def test_the_null_of_a_run_centres_on_zero_and_sees_a_planted_change():
    inside = 0
    for seed in range(12):
        null = percent.null_percent(*world(seed), "sex", ["unet", "sde"], n_draws=300, at_baseline=False)
        low, middle, high = null.band("unet")
        assert low < 0 < high and abs(middle) < 0.35 * (high - low)
        inside += low <= null.observed.query("arm == 'unet'")["percent"].item() <= high
    assert inside >= 10
    far = percent.null_percent(*world(3, shift=1.2), "sex", ["unet", "sde"], n_draws=300)
    assert far.observed["percent"].min() > far.band()[2]


def test_two_races_are_merged_and_no_other():
    races = ["white", "native_american", "pacific_islander", "other", "unknown"]
    merged = percent.merge_races(pd.DataFrame({"race": races}))["race"]
    assert merged.to_list() == ["white", "other", "other", "other", "unknown"]


# ---------------------------------------------------------------------- the claims
def test_eodd_is_not_proportional_to_the_sum_of_covariances():
    """The follow-up's proof, refuted by counting: two readers with the same sum, one four times as unfair."""
    a = np.repeat([1, 0, 1, 0], [50, 50, 10, 90])  # group 1 holds half of the ill, a tenth of the healthy
    y = np.repeat([1, 1, 0, 0], [50, 50, 10, 90])
    covariances = lambda f: sum(np.cov(a[y == k], f[y == k], ddof=0)[0, 1] for k in (1, 0))
    unfair = np.concatenate([np.tile([1, 1, 1, 0, 0], 10), np.arange(50) < 12, np.zeros(10), np.ones(90)]).astype(float)
    fair = np.concatenate([np.ones(50), np.ones(50), np.zeros(10), np.zeros(90)])
    assert covariances(unfair) == pytest.approx(covariances(fair), abs=1e-12) == 0
    assert eodd(y, unfair, a.astype(str)) == pytest.approx((0.36 + 1) / 2) and eodd(y, fair, a.astype(str)) == 0
    assert claims.opposite_gaps() == (pytest.approx(0.68), 0.0)


def test_verdicts_leave_room_for_the_monte_carlo_error():
    assert claims.verdict_of(0.20, 0.01) == "consistent with chance"
    assert claims.verdict_of(0.001, 0.001) == "not consistent with chance"
    assert claims.verdict_of(0.03, 0.01) == "cannot be told" == claims.verdict_of(0.02, 0.01)


def test_every_claim_has_both_sides_a_verdict_and_a_number():
    table = claims.claims()
    assert (table[claims.COLUMNS] != "").all(axis=None) and table["claim"].is_unique and len(table) == 11
    assert set(table["verdict"]) <= set(claims.VERDICTS)
    assert table["number"].str.contains(r"\d").all()
    assert sum(claims.summary_counts().values()) == len(table) == len(claims.sentences())
    verdict = table.set_index("claim")["verdict"]
    assert verdict.filter(like="+24 %").item() == "not consistent with chance"
    assert verdict.filter(like="SDE and GAN").item() == "consistent with chance"
    assert verdict.filter(like="covariances").item() == "refuted"


def test_claims_are_written_as_a_table_that_wraps():
    lines = as_markdown(claims.claims()).splitlines()
    assert lines[0] == "| claim | printed in | evidence for | evidence against | verdict | number |"
    assert {line.count(" | ") for line in lines} == {5} and len(lines) == 2 + 11


def test_every_printed_statistic_of_tables_1_to_4_stands_beside_a_law():
    table = measured.against_chance()
    assert list(table.columns) == measured.COLUMNS and (table["error"] > 0).all()
    have = set(table[["table", "row", "column"]].itertuples(index=False, name=None))
    printed = numbers()[numbers()["table"].isin(["F1", "F2", "F3", "F4"])]
    lacking = {tuple(key) for key in printed[["table", "row", "column"]].to_numpy()} - have
    # spreads over tasks have no law; of absolute medians the range has one; PSNR has the slides (`placebo`)
    assert {row for _, row, _ in lacking} == {"Classification", "Absolute Median", "PSNR"}
    assert {column for _, row, column in lacking if row == "Classification"} == {"Sex s.d.", "Age s.d.", "Race s.d."}
    values = printed.set_index(["table", "row", "column"])["value"]
    for row in table.itertuples():
        if (row.table, row.row, row.column) in values.index:
            assert row.printed == pytest.approx(values[row.table, row.row, row.column])


def test_the_shipped_table_is_what_the_command_makes(tmp_path):
    """Drawn again from fewer worlds, the cheap laws agree within their Monte Carlo error."""
    shipped = measured.against_chance().set_index(["table", "row", "column", "law"])
    again = pd.DataFrame([row for part in (measured.baselines, measured.percent_changes) for row in part(300)])
    for row in again.itertuples():
        there = shipped.loc[(row.table, row.row, row.column, row.law)]
        assert abs(row.share - there["share"]) < 4 * np.hypot(row.error, there["error"]) + 0.01
        assert row.expected == pytest.approx(there["expected"], abs=0.25 * (there["high"] - there["low"]))


def test_the_seeds_claims_are_those_of_its_numbers():
    table = seed_claims.seed_claims()
    assert len(table) == 15 and table["claim"].is_unique and (table != "").all(axis=None)
    by_sex = seed_claims.detectable_by_sex()
    assert len(by_sex) == 36 and by_sex["beyond"].sum() == 3
    coloured = seed_claims.coloured_cells()
    assert coloured.loc["sex", ["worse", "better"]].to_list() == [14, 2]
    assert coloured.loc["age_group", ["worse", "better"]].to_list() == [6, 16]
