"""The audit in one call: what it reports, what it refuses, what it finds in tables with known truth."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from fairrecon_core import tables
from fairrecon_core.audit import audit_change, choose_threshold
from fairrecon_core.audit.change import COLUMNS
from fairrecon_core.audit.matching import match
from fairrecon_core.audit.rows import DESCRIPTIVE, VERDICTS
from fairrecon_lab.auditing import by_hand
from fairrecon_lab.auditing import command as cli
from fairrecon_lab.auditing.summary import signed_cells, summary
from fairrecon_lab.paper.evaluation import published_audit
from fairrecon_lab.simulate import control_scores as controls

BOOT = 400


def two_tables(n: int = 1800, seed: int = 0, images_per_patient: int = 2):
    """Clean, placebo and planted arms (women miss 30 % of their hits) of two tasks, and their cohort."""
    rng = np.random.default_rng(seed)
    n_patients = n // images_per_patient
    patient = np.repeat(np.arange(n_patients), images_per_patient)
    sex, race = (
        rng.choice(["female", "male"], n_patients)[patient],
        rng.choice(list("abc"), n_patients, p=[0.6, 0.38, 0.02]),
    )
    ids = [f"i{i:04d}" for i in range(n)]
    cohort = pd.DataFrame({"image_id": ids, "patient_id": patient, "sex": sex, "race": race[patient]})
    cohort["split"] = np.where(patient < n_patients // 3, "validation", "test")
    parts = []
    for task, prevalence in (("edema", 0.4), ("fracture", 0.2)):
        truth = (rng.random(n) < prevalence).astype(float)
        cohort[f"y_{task}"] = truth
        score = 1 / (1 + np.exp(-(2 * truth - 1 - 0.4 * (sex == "female") * truth + rng.normal(size=n))))
        parts.append(pd.DataFrame({"image_id": ids, "arm": "clean", "level": 1.0, "task": task, "score": score}))
    clean = pd.concat(parts, ignore_index=True)
    placebo = controls.placebo(clean, cohort, "sex", share=0.1).assign(level=8.0)
    planted = controls.planted(clean, cohort, "sex", "female", thresholds=cuts(clean, cohort), share=0.3)
    return pd.concat([clean, placebo, planted.assign(level=8.0)], ignore_index=True), cohort


def cuts(clean, cohort) -> dict:
    """Thresholds on validation images, by hand."""
    merged = clean.merge(cohort, on="image_id").query("split == 'validation'")
    return {task: choose_threshold(rows["score"], rows[f"y_{task}"]) for task, rows in merged.groupby("task")}


@pytest.fixture(scope="module")
def tables_of_two():
    return two_tables()


@pytest.fixture(scope="module")
def audited(tables_of_two):
    return audit_change(*tables_of_two, "sex", n_boot=BOOT, seed=1)


def cell(table, **where):
    for name, value in where.items():
        table = table[table[name] == value]
    assert len(table) == 1, f"{len(table)} rows for {where}"
    return table.iloc[0]


# ---------------------------------------------------------------- what it reports
def test_the_table_keeps_the_schema_and_every_row_ends_in_a_verdict(audited):
    assert tuple(audited.columns) == COLUMNS == tuple(tables.SCHEMAS["audit"].columns)
    tables.check("audit", audited)
    assert set(audited["verdict"]) <= {*VERDICTS, DESCRIPTIVE}
    assert set(audited.loc[audited["estimator"] == "double_corrected", "verdict"]) == {DESCRIPTIVE}
    assert audited[["value", "delta"]].notna().all().all()


def test_figures_equal_the_plain_metrics_of_the_test_images(tables_of_two, audited):
    predictions, cohort = tables_of_two
    cut = cuts(predictions[predictions["arm"] == "clean"], cohort)["edema"]
    test = cohort[cohort["split"] == "test"].set_index("image_id")
    wide = predictions[predictions["task"] == "edema"].pivot(index="image_id", columns="arm", values="score")
    wide = wide.loc[test.index]
    rates = {arm: by_hand.group_rates(test["y_edema"], wide[arm] >= cut, test["sex"]) for arm in wide}
    for metric in ("tpr", "fpr"):
        gap = {arm: rate.loc["female", metric] - rate.loc["male", metric] for arm, rate in rates.items()}
        other = "male" if (audited["reference"] == "male").any() else "female"
        sign = 1 if other == "male" else -1
        gap = {arm: sign * value for arm, value in gap.items()}
        reference = cell(audited, arm="planted", task="edema", metric=metric, reference=other)
        assert reference["value"] == pytest.approx(gap["planted"], abs=1e-9)
        assert reference["baseline"] == pytest.approx(gap["clean"], abs=1e-9)
        assert reference["delta"] == pytest.approx(gap["planted"] - gap["clean"], abs=1e-9)
        within = cell(audited, arm="planted", task="edema", metric=metric, subgroup="female", reference="")
        assert within["value"] == pytest.approx(rates["planted"].loc["female", metric])
    arguments = (test["y_edema"], wide["planted"] >= cut, test["sex"])
    assert cell(audited, arm="planted", task="edema", metric="eodd")["value"] == pytest.approx(by_hand.eodd(*arguments))
    eop = cell(audited, arm="planted", task="edema", metric="eop", estimator="plug_in")
    assert eop["value"] == pytest.approx(by_hand.eop(*arguments))
    assert eop["baseline"] == pytest.approx(by_hand.eop(test["y_edema"], wide["clean"] >= cut, test["sex"]))
    auroc = cell(audited, arm="planted", task="edema", metric="auroc_gap", estimator="plug_in")
    assert auroc["value"] == pytest.approx(by_hand.auroc_gap(test["y_edema"], wide["planted"], test["sex"]))
    calibration = cell(audited, arm="planted", task="edema", metric="calibration_gap", estimator="plug_in")
    assert calibration["value"] == pytest.approx(by_hand.calibration_gap(test["y_edema"], wide["planted"], test["sex"]))
    flips = by_hand.flip_rate(wide["planted"] >= cut, wide["clean"] >= cut, test["sex"])
    row = cell(audited, arm="planted", task="edema", metric="flip_rate", subgroup="female", reference="")
    assert row["value"] == pytest.approx(flips["female"])
    shift = by_hand.logit_shift(wide["planted"], wide["clean"], test["y_edema"], test["sex"])
    row = cell(audited, arm="planted", task="edema", metric="logit_shift", label="1", subgroup="female", reference="")
    assert row["value"] == pytest.approx(shift.loc["female", 1])


def test_planted_bias_is_found_covered_and_signed_while_placebo_is_not(audited):
    rates = signed_cells(audited)[signed_cells(audited)["metric"] == "tpr"]
    sign = 1 if (rates["subgroup"] == "male").all() else -1
    for task in ("edema", "fracture"):
        planted = cell(rates, arm="planted", task=task)
        before = cell(audited, arm="planted", task=task, metric="tpr", subgroup="female", reference="")["baseline"]
        truth = -sign * controls.planted_change(before, 0.3)
        assert planted["verdict"] == "changed" and planted["p_adjusted"] < 0.05
        assert planted["delta_ci_low"] < truth < planted["delta_ci_high"]
        assert cell(rates, arm="placebo", task=task)["verdict"] in ("equivalent", "undetermined")
    untouched = audited[(audited["arm"] == "planted") & (audited["metric"] == "fpr") & (audited["reference"] == "")]
    tested = untouched[untouched["estimator"] == "plug_in"]
    assert (untouched["delta"] == 0).all() and (tested["p_value"] == 1).all()


def test_max_min_rows_carry_a_noise_band_and_adjusted_p_is_never_below_raw(audited):
    gaps = audited[audited["metric"].isin(["eop", "eodd", "fpr_gap", "auroc_gap", "calibration_gap"])]
    assert (gaps["band_low"] >= 0).all() and (gaps["band_high"] > gaps["band_low"]).all()
    assert ((gaps["ci_low"] <= gaps["value"]) & (gaps["value"] <= gaps["ci_high"])).all()
    adjusted = audited.dropna(subset=["p_adjusted"])
    assert (adjusted["p_adjusted"] >= adjusted["p_value"] - 2 / BOOT).all()
    assert cell(audited, arm="planted", task="edema", metric="eop", estimator="plug_in")["verdict"] == "changed"


def test_neither_the_order_of_rows_nor_other_tasks_change_a_figure(tables_of_two, audited):
    predictions, cohort = tables_of_two
    rng = np.random.default_rng(0)
    shuffled = predictions.iloc[rng.permutation(len(predictions))]
    again = audit_change(shuffled, cohort.iloc[rng.permutation(len(cohort))], "sex", n_boot=BOOT, seed=1)
    pd.testing.assert_frame_equal(again, audited)
    alone = audit_change(predictions[predictions["task"] == "edema"], cohort, "sex", n_boot=BOOT, seed=1)
    both = audited[audited["task"] == "edema"].reset_index(drop=True)
    columns = ["value", "ci_low", "delta", "delta_ci_low", "p_value", "mde"]
    signed = (both["subgroup"] != "").to_numpy()
    pd.testing.assert_frame_equal(alone[columns][signed], both[columns][signed])


def test_a_retuned_threshold_hides_a_drift_of_all_scores_that_a_frozen_one_shows(tables_of_two):
    predictions, cohort = tables_of_two
    clean = predictions[predictions["arm"] == "clean"]
    drifted = controls.blurred(clean, shift=-0.6, noise=0.0, arm="drifted")
    both = pd.concat([clean, drifted])
    change = {
        policy: audit_change(both, cohort, "sex", metrics=["rates"], n_boot=BOOT, thresholds=policy)
        for policy in ("validation_frozen", "validation_per_arm", "test_per_arm", "test_frozen")
    }
    within = {policy: table[(table["reference"] == "") & (table["subgroup"] != "")] for policy, table in change.items()}
    assert (within["validation_frozen"]["delta"] < -0.02).all() and (within["test_frozen"]["delta"] < -0.02).all()
    for policy in ("validation_per_arm", "test_per_arm"):
        assert within[policy]["delta"].abs().max() < 1e-9
        assert set(change[policy]["threshold_policy"]) == {policy}
        assert set(signed_cells(change[policy])["verdict"]) == {"equivalent"}


def test_thresholds_as_numbers_or_a_table_give_the_same_as_the_policy(tables_of_two, audited):
    predictions, cohort = tables_of_two
    numbers = cuts(predictions[predictions["arm"] == "clean"], cohort)
    frame = pd.DataFrame(
        [
            {"task": t, "arm": a, "value": v, "policy": "mine"}
            for t, v in numbers.items()
            for a in ("clean", "placebo", "planted")
        ]
    )
    for given, policy in ((numbers, "given"), (frame, "mine")):
        table = audit_change(predictions, cohort, "sex", metrics=["rates"], n_boot=BOOT, seed=1, thresholds=given)
        expected = audited[audited["metric"] == "tpr"]["delta"].to_numpy()
        assert np.array_equal(table[table["metric"] == "tpr"]["delta"].to_numpy(), expected)
        assert set(table["threshold_policy"]) == {policy}


# ---------------------------------------------------------------- subgroups
def test_a_small_subgroup_is_a_named_row_and_not_a_number(tables_of_two):
    table = audit_change(*tables_of_two, "race", n_boot=BOOT, metrics=["rates"])
    small = table[(table["subgroup"] == "c") & (table["metric"] == "tpr") & (table["task"] == "fracture")]
    assert len(small) and (small["verdict"] == "not_estimable").all() and small["value"].isna().all()
    assert (small["smallest_group"] < 10).all()
    assert cell(table, arm="planted", task="fracture", metric="eop", estimator="plug_in")["value"] >= 0
    tables.check("audit", table)


def test_declared_subgroups_without_images_and_unknown_values_are_named(tables_of_two):
    predictions, cohort = tables_of_two
    cohort = cohort.assign(sex=pd.Categorical(cohort["sex"], categories=["female", "male", "other"]))
    cohort.loc[cohort.index[-200:], "sex"] = np.nan
    table = audit_change(predictions, cohort, "sex", n_boot=BOOT, metrics=["rates"])
    empty = table[table["subgroup"] == "other"]
    assert len(empty) and (empty["verdict"] == "not_estimable").all() and (empty["smallest_group"] == 0).all()
    assert "200 of 1200 images have no known sex" in table.attrs["notes"][0]
    assert table[table["subgroup"] == "male"]["value"].notna().all()


def test_intersections_and_every_kind_of_reference(tables_of_two):
    predictions, cohort = tables_of_two
    both = audit_change(predictions, cohort, ["sex", "race"], n_boot=BOOT, metrics=["rates"], min_support=5)
    assert set(both["attribute"]) == {"sex & race"} and "female & a" in set(both["subgroup"]) | set(both["reference"])
    named = audit_change(predictions, cohort, "sex", n_boot=BOOT, metrics=["rates"], reference="female")
    assert set(signed_cells(named)["subgroup"]) == {"male"}
    rest = audit_change(predictions, cohort, "race", n_boot=BOOT, metrics=["rates"], reference="rest")
    assert set(signed_cells(rest)["subgroup"]) == {"a", "b", "c"}
    one = cell(named, arm="planted", task="edema", metric="tpr", reference="female")
    two = audit_change(predictions, cohort, "sex", n_boot=BOOT, metrics=["rates"], reference="rest")
    assert (
        cell(two, arm="planted", task="edema", metric="tpr", subgroup="male", reference="rest")["delta"] == one["delta"]
    )


def test_an_arm_that_is_the_baseline_again_is_equivalent_everywhere(tables_of_two):
    predictions, cohort = tables_of_two
    clean = predictions[predictions["arm"] == "clean"]
    table = audit_change(
        pd.concat([clean, clean.assign(arm="copy")]), cohort, "race", n_boot=BOOT, metrics=["rates", "auroc"]
    )
    estimable = table[table["verdict"] != "not_estimable"]
    figures = estimable[estimable["estimator"] == "plug_in"]
    assert (figures["delta"] == 0).all() and (estimable["p_value"].dropna() > 0.99).all()
    assert (signed_cells(estimable)["verdict"] != "changed").all()


# ---------------------------------------------------------------- other tables, folds, samples
def test_overlap_rows_give_dice_and_ser():
    rng = np.random.default_rng(0)
    n = 240
    cohort = pd.DataFrame({"image_id": [f"s{i}" for i in range(n)], "patient_id": np.arange(n) // 2})
    cohort["sex"] = np.where(np.arange(n) // 2 % 2, "male", "female")
    dice, parts = np.clip(rng.normal(0.75, 0.08, n), 0, 1), []
    for arm, loss in (("clean", 0.0), ("unet", 0.1 * (cohort["sex"] == "female"))):
        actual = predicted = np.full(n, 1000)
        overlap = np.round((dice - loss) * 1000).astype(int)
        parts.append(cohort[["image_id"]].assign(arm=arm, intersection=overlap, predicted=predicted, actual=actual))
    for part in parts:
        part.loc[5, ["intersection", "predicted", "actual"]] = 0  # both masks empty: they agree
    table = audit_change(pd.concat(parts), cohort, "sex", n_boot=BOOT)
    assert set(table["task"]) == {"segmentation"} and set(table["threshold_policy"]) == {""}
    signed = signed_cells(table)
    for metric, keep in (
        ("dice", np.ones(n, bool)),
        ("dice_published", np.arange(n) != 5),
    ):
        one = cell(signed, metric=metric)
        assert abs(one["delta"]) == pytest.approx(0.1, abs=3e-3) and one["verdict"] == "changed"
        values = np.where(np.arange(n) == 5, 1.0, parts[1]["intersection"] / 1000)[keep]
        people, patients = cohort["sex"][keep], cohort["patient_id"][keep]
        ser = cell(table, metric=metric.replace("dice", "ser"))
        assert ser["value"] == pytest.approx(by_hand.ser(values, people, patient_id=patients), rel=1e-6)
        assert ser["ci_low"] > 1 and ser["delta_ci_low"] < ser["delta"] < ser["delta_ci_high"]
        assert ser["unit"] == "ratio"
        gap = cell(table, metric=f"delta_{metric}", estimator="plug_in")
        assert gap["value"] == pytest.approx(by_hand.delta_dice(values, people, patient_id=patients), abs=1e-9)
    tables.check("audit", table)


def test_an_invented_tumour_costs_dice_and_is_counted():
    """300 pixels in every healthy slice of women: by the published convention nothing happened."""
    rng, n = np.random.default_rng(2), 400
    cohort = pd.DataFrame({"image_id": [f"s{i}" for i in range(n)], "patient_id": np.arange(n) // 4})
    cohort["sex"] = np.where(np.arange(n) // 4 % 2, "male", "female")
    actual = np.where(rng.random(n) < 0.5, 400, 0)
    hit = np.where(actual > 0, 320, 0)
    invented = np.where((actual == 0) & (cohort["sex"] == "female"), 300, 0)
    rows = [cohort[["image_id"]].assign(arm=arm, intersection=hit, predicted=actual + extra, actual=actual)
            for arm, extra in (("clean", 0), ("sde", invented))]  # fmt: skip
    table = audit_change(pd.concat(rows), cohort, "sex", n_boot=BOOT, reference="male")
    found = signed_cells(table).set_index("metric")
    healthy = (actual == 0)[cohort["sex"] == "female"]
    shares = healthy.reshape(-1, 4).mean(axis=1)  # of each woman's slices
    assert found.loc["dice", "delta"] == pytest.approx(-shares.mean(), abs=1e-9)
    assert found.loc["false_positive_slices", "delta"] == 1 and found.loc["lost_volume", "delta"] == 0
    assert found.loc["invented_volume", "delta"] == pytest.approx(shares.mean() * 300 / 400, abs=1e-9)
    assert set(found.loc[["dice", "false_positive_slices", "invented_volume"], "verdict"]) == {"changed"}
    assert found.loc["dice_published", "verdict"] == "equivalent" and found.loc["dice", "role"] == "primary"


def test_quality_rows_give_the_psnr_gap_in_db_against_a_clean_image_of_equal_quality_for_all():
    rng = np.random.default_rng(0)
    n = 200
    cohort = pd.DataFrame({"image_id": [f"s{i}" for i in range(n)], "sex": np.tile(["female", "male"], n // 2)})
    psnr = 30 + rng.normal(size=n) + 2 * (cohort["sex"] == "male")
    quality = pd.concat([
        cohort[["image_id"]].assign(arm="clean", level=1.0, psnr_db=np.inf, ssim=1.0),
        cohort[["image_id"]].assign(arm="unet", level=8.0, psnr_db=psnr, ssim=0.9),
    ])  # fmt: skip
    table = audit_change(quality, cohort, "sex", n_boot=BOOT)
    gap = cell(table, metric="psnr_db_gap", estimator="plug_in")
    assert gap["value"] == pytest.approx(by_hand.psnr_gap(psnr, cohort["sex"])) and gap["baseline"] == 0
    assert gap["verdict"] == "changed" and gap["unit"] == "dB"
    assert set(signed_cells(table[table["metric"] == "ssim"])["verdict"]) == {"equivalent"}
    assert "every image counts as its own patient" in table.attrs["notes"][0]


def test_several_samples_are_averaged_and_their_choice_widens_the_interval(tables_of_two):
    predictions, cohort = tables_of_two
    clean = predictions[(predictions["arm"] == "clean") & (predictions["task"] == "edema")]
    samples = [controls.blurred(clean, noise=1.0, seed=s, arm="sde").assign(sample=s, level=8.0) for s in range(4)]
    both = pd.concat([clean.assign(sample=0), *samples])
    table = audit_change(both, cohort, "sex", n_boot=BOOT, metrics=["rates"], thresholds=0.5)
    one = [
        cell(
            audit_change(
                pd.concat([clean.assign(sample=0), sample.assign(sample=0)]), cohort, "sex",
                n_boot=BOOT, metrics=["rates"], thresholds=0.5,
            ).query("reference != ''"), metric="tpr",
        )["delta"]
        for sample in samples
    ]  # fmt: skip
    signed = cell(table[table["reference"] != ""], metric="tpr", estimator="plug_in")
    nested = cell(table[table["reference"] != ""], metric="tpr", estimator="nested")
    assert nested["role"] == "primary" and signed["role"] == "exploratory" and len(signed_cells(table)) == 2
    assert nested["delta_ci_high"] - nested["delta"] > signed["delta_ci_high"] - signed["delta"]
    assert signed["delta"] == pytest.approx(np.mean(one)) == pytest.approx(nested["delta"])
    assert nested["mde"] > signed["mde"]


def test_the_degraded_image_as_baseline_compares_level_by_level(tables_of_two):
    predictions, cohort = tables_of_two
    clean = predictions[predictions["arm"] == "clean"]
    parts = [clean]
    for level in (4.0, 8.0):
        parts.append(controls.blurred(clean, noise=level / 8, arm="degraded").assign(level=level))
        parts.append(controls.blurred(clean, noise=level / 16, seed=1, arm="unet").assign(level=level))
    table = audit_change(
        pd.concat(parts), cohort, "sex", baseline_arm="degraded", arms=["unet"], n_boot=BOOT, metrics=["rates"]
    )
    assert set(table["level"]) == {4.0, 8.0} and set(table["arm"]) == {"unet"}
    at_four = audit_change(
        pd.concat(parts[1:3]), cohort, "sex", baseline_arm="degraded", thresholds=0.5, n_boot=BOOT, metrics=["rates"]
    )
    matched = match(pd.concat(parts), cohort, baseline_arm="degraded", arms=["unet"], thresholds=0.5)
    assert matched.conditions[matched.baseline_of[matched.conditions.index(("unet", 4.0))]] == ("degraded", 4.0)
    assert len(at_four) == len(table) / 2


def test_every_fold_is_tested_on_its_own_patients_with_its_own_threshold():
    predictions, cohort = two_tables(900)
    cohort = cohort.assign(fold=cohort["patient_id"] % 3, split="train")
    clean = predictions[(predictions["arm"] == "clean") & (predictions["task"] == "edema")]
    copies = [clean.assign(fold=fold, arm=arm) for fold in range(3) for arm in ("clean", "unet")]
    matched = match(pd.concat(copies), cohort)
    assert len(matched.images) == 900
    truth = cohort.set_index("image_id")["y_edema"]
    for fold in range(3):
        valid = cohort[cohort["fold"] == (fold + 1) % 3]["image_id"]
        score = clean.set_index("image_id")["score"]
        cut = choose_threshold(score[valid], truth[valid])
        own = (matched.images["fold"] == fold).to_numpy()
        expected = score[matched.images["image_id"][own]].to_numpy() >= cut
        assert np.array_equal(matched.decision["edema"][0, own], expected)


def test_images_that_an_arm_lacks_are_left_out_in_pairs_and_said_so(tables_of_two):
    predictions, cohort = tables_of_two
    lost = set(cohort["image_id"].iloc[-100:])
    fewer = predictions[(predictions["arm"] == "clean") | ~predictions["image_id"].isin(lost)]
    fewer = fewer[fewer["arm"] != "planted"]
    table = audit_change(fewer, cohort, "sex", n_boot=BOOT, metrics=["rates"])
    assert "placebo at level 8 has no result for 100 of the baseline's 1200 images" in table.attrs["notes"][0]
    whole = audit_change(
        predictions[~predictions["image_id"].isin(lost)], cohort, "sex", n_boot=BOOT, metrics=["rates"]
    )
    where = {"arm": "placebo", "task": "edema", "metric": "eodd"}
    assert cell(table, **where)["delta"] == pytest.approx(cell(whole, **where)["delta"])


def test_baseline_rows_do_not_depend_on_the_arm(audited):
    """The published table printed the reconstruction's values as its baseline."""
    base = audited[audited["subgroup"] != ""].pivot_table(
        index=["task", "metric", "label", "subgroup", "reference"], columns="arm", values="baseline"
    )
    assert np.allclose(base["placebo"], base["planted"])
    values = audited[audited["metric"] == "tpr"]
    assert not np.allclose(values["baseline"], values["value"])


# ---------------------------------------------------------------- what it refuses
def spoil(tables_of_two, which: str):
    predictions, cohort = (frame.copy() for frame in tables_of_two)
    if which == "nan":
        predictions.loc[predictions.index[-1], "score"] = np.nan
    elif which == "logits":
        predictions.loc[predictions["arm"] == "planted", "score"] *= 5
    elif which == "stranger":
        predictions.loc[3, "image_id"] = "nobody"
    elif which == "twice":
        predictions = pd.concat([predictions, predictions.iloc[[7]]])
    elif which == "cohort twice":
        cohort = pd.concat([cohort, cohort.iloc[[7]]])
    elif which == "one value":
        cohort["sex"] = "female"
    elif which == "label":
        cohort = cohort.drop(columns="y_edema")
    elif which == "label two":
        cohort.loc[0, "y_edema"] = 2
    elif which == "level":
        predictions.loc[0, "level"] = np.nan
    elif which == "patient":
        cohort["patient_id"] = cohort["patient_id"].astype(float).where(cohort.index != 1700)
    elif which == "cohorts":
        predictions["cohort"] = np.where(predictions["task"] == "edema", "brain", "chest")
    elif which == "empty":
        predictions = predictions.iloc[:0]
    elif which == "no score":
        predictions = predictions.drop(columns="score")
    elif which == "no arm":
        predictions = predictions.drop(columns="arm")
    elif which == "alone":
        predictions = predictions[predictions["arm"] == "clean"]
    return predictions, cohort


@pytest.mark.parametrize(
    "which, message",
    [
        ("nan", "1 of 3600 values of 'score of arm planted at level 8' are NaN"),
        ("logits", r"'score of arm planted at level 8' should be a probability in \[0, 1\]"),
        ("stranger", "1 image ids of the results are not in the cohort, e.g. 'nobody'"),
        ("twice", "1 rows occur twice, e.g. .*i0007"),
        ("cohort twice", "1 images occur twice in the cohort, e.g. 'i0007'"),
        ("one value", r"attribute 'sex' has 1 subgroup\(s\) \['female'\]"),
        ("label", "the cohort has no labels 'y_edema'"),
        ("label two", "labels y_edema should be 0, 1 or empty, found 2.0"),
        ("level", "1 rows have no 'level'"),
        ("patient", "1 images have no patient_id"),
        ("cohorts", "several cohorts, .*brain.*chest"),
        ("empty", "no rows"),
        ("no score", "nothing to audit in columns"),
        ("no arm", r"lack \['arm'\]"),
        ("alone", "only the baseline 'clean' is there"),
    ],
)
def test_a_table_that_would_give_silent_numbers_is_refused(tables_of_two, which, message):
    with pytest.raises(ValueError, match=message):
        audit_change(*spoil(tables_of_two, which), "sex", n_boot=100)


@pytest.mark.parametrize(
    "choice, message",
    [
        ({"baseline_arm": "cleam"}, "no results of arm 'cleam'"),
        ({"arms": ["tv"]}, "no results of arm 'tv'; there are"),
        ({"thresholds": "validation"}, "unknown threshold policy 'validation'"),
        ({"thresholds": {"edema": 0.5}}, "no threshold for task 'fracture'"),
        ({"metrics": ["eopp"]}, "unknown metric 'eopp'"),
        ({"agg": "sum"}, "unknown agg 'sum'"),
        ({"adjust": "bonferroni"}, "unknown adjust"),
        ({"reference": "men"}, "no reference subgroup 'men'"),
        ({"n_boot": 10}, "at least 100 resamples"),
        ({"split": "elsewhere"}, "no results on images of split 'elsewhere'"),
        ({"margin": 0}, "margin is positive"),
    ],
)
def test_an_unknown_choice_is_named(tables_of_two, choice, message):
    with pytest.raises(ValueError, match=message):
        audit_change(*tables_of_two, "sex", **{"n_boot": 100} | choice)


def test_a_task_with_one_label_only_is_named_and_the_others_go_on(tables_of_two):
    predictions, cohort = tables_of_two
    table = audit_change(predictions, cohort.assign(y_fracture=0.0), "sex", n_boot=BOOT)
    lost = table[(table["task"] == "fracture") & (table["metric"] == "tpr")]
    assert (lost["verdict"] == "not_estimable").all() and lost["value"].isna().all()
    assert any("fracture: no threshold" in note for note in table.attrs["notes"])
    assert (table[(table["task"] == "edema") & (table["metric"] == "tpr")]["verdict"] != "not_estimable").all()


def test_a_csv_of_the_bare_minimum_is_enough(tables_of_two):
    predictions, cohort = tables_of_two
    bare = predictions[["image_id", "arm", "task", "score"]]
    table = audit_change(bare, cohort[["image_id", "sex", "y_edema", "y_fracture"]], "sex", n_boot=BOOT)
    assert set(table["threshold_policy"]) == {"test_frozen", ""} and set(table["level"]) == {1.0}
    assert len(table.attrs["notes"]) == 4  # patients, validation images, one network, thresholds held fixed


# ---------------------------------------------------------------- published beside recommended, words, shell
def test_published_and_recommended_share_the_plug_in_gap(tables_of_two):
    predictions, cohort = tables_of_two
    test = cohort[cohort["split"] == "test"]
    theirs = published_audit(
        predictions[predictions["image_id"].isin(test["image_id"])], test, "sex", n_boot=50, estimator="plug_in"
    )
    ours = audit_change(predictions, cohort, "sex", n_boot=BOOT, metrics=["rates"], thresholds="test_per_arm")
    for task in ("edema", "fracture"):
        for metric in ("eop", "eodd"):
            where = {"arm": "planted", "task": task, "metric": metric}
            published = cell(theirs, **where)
            recommended = cell(ours[ours["estimator"] == "plug_in"], **where)
            assert recommended["value"] == pytest.approx(published["value"], abs=1e-9)
            assert recommended["delta"] == pytest.approx(published["delta"], abs=1e-9)


def test_the_summary_says_what_changed_and_what_could_not_be_told(audited, tables_of_two):
    text = summary(audited)
    assert "placebo@8, planted@8 against clean" in text and "thresholds validation_frozen" in text
    assert "planted@8 edema tpr" in text and "to be found with power .8" in text
    small = summary(audit_change(*tables_of_two, "race", n_boot=BOOT, metrics=["rates"]))
    assert "Not estimable" in small and "c (n = " in small


def shell(*arguments, code: str | None = None):
    command = (
        [sys.executable, "-c", code]
        if code
        else [sys.executable, "-m", "fairrecon_lab.auditing.command", *map(str, arguments)]
    )
    return subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False
    )


def test_the_shell_command_prints_the_summary_and_writes_the_table(tables_of_two, audited, tmp_path):
    for name, frame in zip(("predictions.csv", "cohort.csv"), tables_of_two):
        frame.to_csv(tmp_path / name, index=False)
    done = shell(tmp_path / "predictions.csv", tmp_path / "cohort.csv", "--attribute", "sex", "--n-boot", BOOT,
                 "--seed", 1, "--out", tmp_path / "audit.csv")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Audited 600 of 900 patients, 1200 of 1800 images of cohort.csv: 900 recorded, ")
    assert summary(audited) in done.stdout
    written = pd.read_csv(tmp_path / "audit.csv", keep_default_na=False, na_values=[""])
    assert len(written) == len(audited) and np.allclose(written["delta"], audited["delta"])


def test_the_shell_command_says_what_is_wrong_in_one_line(tables_of_two, tmp_path, capsys):
    predictions, cohort = tables_of_two
    predictions.to_csv(tmp_path / "p.csv", index=False)
    cohort.drop(columns="sex").to_csv(tmp_path / "c.csv", index=False)
    assert cli.main([str(tmp_path / "p.csv"), str(tmp_path / "c.csv")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: the cohort has no attribute ['sex']") and error.count("\n") == 1
    assert cli.main([str(tmp_path / "none.csv"), str(tmp_path / "c.csv")]) == 2


def test_the_audit_loads_without_torch():
    heavy = {"torch", "lightning", "matplotlib"}
    code = f"import sys, fairrecon_lab.auditing.command; print(sorted({heavy} & set(sys.modules)))"
    assert shell(code=code).stdout.strip() == "[]"


def test_a_trained_baseline_is_compared_seed_by_seed():
    """Training moves the baseline's women from seed to seed; the other arm stands still. Whoever averages the baseline
    first sees no spread at all, and calls the choice of its seed certain.
    """
    rng = np.random.default_rng(5)
    n, seeds = 400, range(10, 16)
    sex = np.repeat(["female", "male"], n // 2)
    cohort = pd.DataFrame({"image_id": [f"i{k}" for k in range(n)], "sex": sex})
    moved = rng.normal(0, 1, len(seeds))
    psnr = lambda arm, k: 30 + (moved[k] * (sex == "female") if arm == "trained" else 0) + rng.normal(0, 0.01, n)
    rows = pd.concat([
        pd.DataFrame({"image_id": cohort["image_id"], "arm": arm, "train_seed": seed, "psnr_db": psnr(arm, k)})
        for arm in ("trained", "other") for k, seed in enumerate(seeds)])  # fmt: skip
    table = audit_change(rows, cohort, "sex", baseline_arm="trained", n_boot=BOOT, reference="male")
    nested = cell(table[table["reference"] == "male"], metric="psnr_db", estimator="nested")
    half = 2.570582 * moved.std(ddof=1) / np.sqrt(6)  # Student's t, five degrees of freedom
    assert nested["delta"] == pytest.approx(-moved.mean(), abs=0.01)
    assert nested["delta_ci_high"] - nested["delta"] == pytest.approx(half, rel=0.02)
