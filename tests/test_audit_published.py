"""The published evaluation, number for number, against plain pandas loops written after its description."""

import numpy as np
import pandas as pd
import pytest

from fairrecon_lab.paper import evaluation as published
from fairrecon_lab.paper.evaluation import published_audit, published_classification, published_segmentation


def predictions(n: int = 240, seed: int = 0) -> pd.DataFrame:
    """A random CSV as the published code reads it: one row per image, a column per arm; some subgroups are tiny."""
    rng = np.random.default_rng(seed)
    race = rng.choice(["white", "asian", "black", "other"], n, p=[0.7, 0.2, 0.08, 0.02])
    label = (rng.random(n) < 0.25).astype(float)
    clean = 1 / (1 + np.exp(-(1.5 * label - 1 + rng.normal(size=n))))
    frame = pd.DataFrame({"race": race, "label": label, "clean": clean})
    for arm, noise in (("unet", 0.3), ("sde", 0.6)):
        logit = np.log(clean / (1 - clean)) + noise * rng.normal(size=n) - 0.2 * (race == "black")
        frame[arm] = 1 / (1 + np.exp(-logit))
    return frame


# ---------------------------------------------------------------- the slow way, in pandas
def slow_threshold(frame, arm):
    best = None
    for cut in sorted(frame[arm].unique(), reverse=True):
        sensitivity = (frame.loc[frame.label == 1, arm] >= cut).mean()
        specificity = (frame.loc[frame.label == 0, arm] < cut).mean()
        if best is None or abs(specificity - sensitivity) < best[0] - 1e-12:
            best = abs(specificity - sensitivity), cut
    return best[1]


def slow_gaps(frame, arm, cut, races, empty_tpr, empty_fpr, agg="mean"):
    tprs, fprs = [], []
    for race in races:
        group = frame[frame.race == race]
        positive, negative = group[group.label == 1], group[group.label == 0]
        tprs.append((positive[arm] >= cut).mean() if len(positive) else empty_tpr)
        fprs.append((negative[arm] >= cut).mean() if len(negative) else empty_fpr)
    tpr_gap, fpr_gap = max(tprs) - min(tprs), max(fprs) - min(fprs)
    return {"eodd": (tpr_gap + fpr_gap) / 2 if agg == "mean" else max(tpr_gap, fpr_gap), "eop": tpr_gap}


def slow_audit(frame, arms, resamples, empty_tpr=1.0, empty_fpr=0.0, agg="mean"):
    races, rows = sorted(frame.race.unique()), []
    cuts = {arm: slow_threshold(frame, arm) for arm in ["clean", *arms]}
    for arm in arms:
        observed = {a: slow_gaps(frame, a, cuts[a], races, empty_tpr, empty_fpr, agg) for a in ("clean", arm)}
        drawn = [
            {a: slow_gaps(frame.iloc[r], a, cuts[a], races, empty_tpr, empty_fpr, agg) for a in ("clean", arm)}
            for r in resamples
        ]
        for metric in ("eodd", "eop"):
            base, values = (np.array([d[a][metric] for d in drawn]) for a in ("clean", arm))
            delta, change = observed[arm][metric] - observed["clean"][metric], values - base
            side = change <= 0 if delta >= 0 else change >= 0
            rows.append((arm, metric, values.mean(), base.mean(), delta, change.mean(), values.std(), side.mean()))
    columns = ["arm", "metric", "value", "baseline", "delta", "delta_bootstrap_mean", "standard_error", "p_value"]
    return pd.DataFrame(rows, columns=columns)


@pytest.mark.parametrize("empty_tpr, agg", [(1.0, "mean"), (0.0, "mean"), (1.0, "max")])
def test_classification_equals_a_pandas_loop_number_for_number(empty_tpr, agg):
    frame = predictions()
    resamples = list(published.row_resamples(len(frame), 15, seed=5))
    ours = published_classification(
        frame.label, {arm: frame[arm] for arm in ("unet", "clean", "sde")}, frame.race,
        empty_tpr=empty_tpr, agg=agg, resamples=resamples,
    )  # fmt: skip
    theirs = slow_audit(frame, ["unet", "sde"], resamples, empty_tpr, agg=agg)
    ours = ours[ours["arm"] != "clean"].reset_index(drop=True)
    pd.testing.assert_frame_equal(ours[theirs.columns], theirs, check_exact=False, rtol=1e-13, atol=1e-15)
    assert ours["n_boot"].eq(15).all()


def test_the_resamples_of_a_seed_are_the_documented_ones():
    frame = predictions()
    scores = {arm: frame[arm] for arm in ("clean", "unet")}
    by_seed = published_classification(frame.label, scores, frame.race, n_boot=40, seed=9)
    rng = np.random.default_rng(9)
    given = [rng.integers(0, len(frame), len(frame)) for _ in range(40)]
    pd.testing.assert_frame_equal(by_seed, published_classification(frame.label, scores, frame.race, resamples=given))


def test_segmentation_equals_a_pandas_loop_number_for_number():
    rng = np.random.default_rng(3)
    frame = pd.DataFrame({"sex": rng.choice(["F", "M"], 60), "clean": rng.beta(6, 3, 60), "sde": rng.beta(5, 3, 60)})
    resamples = list(published.row_resamples(60, 80, seed=1))

    def slow(sample, arm):
        means = [sample.loc[sample.sex == sex, arm].mean() for sex in ("F", "M")]
        return {"ser": (1 - min(means)) / (1 - max(means)), "delta_dice": max(means) - min(means)}

    ours = published_segmentation({"clean": frame.clean, "sde": frame.sde}, frame.sex, resamples=resamples)
    for metric in ("ser", "delta_dice"):
        base, values = (np.array([slow(frame.iloc[r], arm)[metric] for r in resamples]) for arm in ("clean", "sde"))
        delta = slow(frame, "sde")[metric] - slow(frame, "clean")[metric]
        row = ours[(ours.arm == "sde") & (ours.metric == metric)].iloc[0]
        assert row["value"] == pytest.approx(values.mean(), rel=1e-12)
        assert row["baseline"] == pytest.approx(base.mean(), rel=1e-12)
        assert row["delta"] == pytest.approx(delta, rel=1e-12)
        assert row["p_value"] == np.mean(values - base <= 0 if delta >= 0 else values - base >= 0)


def test_plug_in_differs_from_the_bootstrap_mean_only_in_the_estimate():
    frame = predictions()
    arguments = (frame.label, {"clean": frame.clean, "unet": frame.unet}, frame.race)
    mean, plug = (published_classification(*arguments, n_boot=50, estimator=e) for e in published.ESTIMATORS)
    pd.testing.assert_series_equal(mean["p_value"], plug["p_value"])
    assert (plug["value"] - plug["baseline"])[2:].tolist() == pytest.approx(plug["delta"][2:].tolist())
    assert set(mean["estimator"]) == {"published_bootstrap_mean"}


def test_bootstrap_means_of_a_gap_are_larger_than_the_gap_of_groups_that_do_not_differ():
    rng = np.random.default_rng(0)
    excess = []
    for seed in range(20):
        label, score = (rng.random(300) < 0.5).astype(float), rng.random(300)
        race = rng.choice(list("abcd"), 300)
        values = [
            published_classification(
                label, {"clean": score}, race, thresholds={"clean": 0.5}, n_boot=100, seed=seed, estimator=e
            )["value"].iloc[1]
            for e in published.ESTIMATORS
        ]
        excess.append(values[0] - values[1])
    assert np.mean(excess) > 0.02


def test_two_sided_p_values_are_twice_the_smaller_tail():
    assert published.post_hoc_p_value(0.1, np.array([-1.0, 1, 2, 3])) == 0.25
    assert published.post_hoc_p_value(-0.1, np.array([-1.0, 1, 2, 3])) == 0.75
    assert published._two_sided_p_value(0.1, np.array([-1.0, 1, 2, 3])) == 0.5


def test_an_empty_stratum_is_one_in_chest_and_zero_in_brain_and_may_be_left_out():
    truth, score = [1, 0, 1, 0, 0], [0.9, 0.1, 0.2, 0.8, 0.1]
    race = ["a", "a", "b", "b", "c"]  # c has no positives; TPR is 1 in a and 0 in b

    def eop(value, only):
        keep = np.isin(race, only)
        table = published_classification(
            np.array(truth)[keep], {"clean": np.array(score)[keep]}, np.array(race)[keep],
            thresholds={"clean": 0.5}, empty_tpr=value, estimator="plug_in", resamples=[np.arange(keep.sum())],
        )  # fmt: skip
        return table.set_index("metric").loc["eop", "value"]

    assert eop(1.0, ["a", "c"]) == 0 and eop(0.0, ["a", "c"]) == 1
    assert eop(1.0, ["b", "c"]) == 1 and eop(np.nan, ["a", "b", "c"]) == 1


def test_psnr_gap_keeps_the_groups_it_picked_and_tests_one_side():
    psnr, sex = np.array([30.0, 31, 33, 34]), ["F", "F", "M", "M"]
    resamples = [np.array([0, 1, 2, 3]), np.array([0, 0, 2, 2]), np.array([1, 1, 3, 3])]
    result = published.published_psnr_gap(psnr, sex, resamples=resamples)
    assert result == {"percent": pytest.approx(100 * 3 / 30.5), "p_value": 0.0, "best": "M", "worst": "F"}


def test_the_psnr_test_calls_pure_noise_significant_most_of_the_time():
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(40):  # six groups, three images a patient, no true difference
        patient_race = np.repeat(rng.choice(list("abcdef"), 60, p=[0.3, 0.2, 0.2, 0.1, 0.1, 0.1]), 3)
        psnr = 30 + np.repeat(rng.normal(size=60), 3) + 0.3 * rng.normal(size=180)
        hits += published.published_psnr_gap(psnr, patient_race, n_boot=100, seed=seed)["p_value"] < 0.05
    assert hits / 40 >= 0.5


def test_a_whole_table_is_the_same_as_its_tasks_one_by_one():
    frame = predictions()
    frame["image_id"] = [f"i{i}" for i in range(len(frame))]
    long = frame.melt(id_vars="image_id", value_vars=["clean", "unet"], var_name="arm", value_name="score")
    cohort = frame[["image_id", "race"]].assign(y_edema=frame.label, y_nothing=0.0)
    cohort.loc[0, "y_edema"] = np.nan
    both = pd.concat([long.assign(task="edema"), long.assign(task="nothing")])
    table = published_audit(both.sample(frac=1, random_state=0), cohort, "race", n_boot=30)
    one = published_classification(cohort.y_edema, {"clean": frame.clean, "unet": frame.unet}, frame.race, n_boot=30)
    assert set(table["task"]) == {"edema"}  # the other has no positives
    columns = ["arm", "metric", "value", "p_value"]
    pd.testing.assert_frame_equal(table[columns], one[columns])


def test_of_several_samples_and_folds_the_first_own_one_is_read():
    frame = predictions(80).assign(image_id=[f"i{i}" for i in range(80)], fold=np.arange(80) % 2)
    cohort = frame[["image_id", "race", "fold"]].assign(y_edema=frame.label)
    long = frame.melt(id_vars=["image_id", "fold"], value_vars=["clean", "unet"], var_name="arm", value_name="score")
    long = long.assign(task="edema", sample=0)
    noise = long.assign(score=0.5)
    several = pd.concat([noise.assign(sample=1), noise.assign(fold=1 - noise["fold"]), long])
    pd.testing.assert_frame_equal(
        published_audit(several, cohort, "race", n_boot=20), published_audit(long, cohort, "race", n_boot=20)
    )


def test_without_both_labels_in_any_task_the_tasks_and_what_they_lack_are_named():
    cohort = pd.DataFrame({"image_id": list("abcd"), "sex": ["female", "male"] * 2, "y_edema": 0.0})
    cohort["y_fracture"] = [1.0, np.nan, 1.0, 1.0]
    cohort["y_pneumonia"] = np.nan
    long = pd.concat(
        [cohort[["image_id"]].assign(arm=arm, task=task, score=0.5)
         for arm in ("clean", "unet") for task in ("edema", "fracture", "pneumonia")]
    )  # fmt: skip
    with pytest.raises(ValueError) as refused:
        published_audit(long, cohort, "sex", n_boot=2)
    for part in ("'edema' has only label 0 (4 images)", "'fracture' has only label 1 (3 images)",
                 "'pneumonia' has no labelled image", "a known sex", "more images"):  # fmt: skip
        assert part in str(refused.value)
    with pytest.raises(ValueError, match="no image_id of the predictions is in the cohort"):
        published_audit(long.assign(image_id="z"), cohort, "sex", n_boot=2)
    both = cohort.assign(y_edema=[0.0, 1.0, 1.0, 0.0])  # one sound task is enough
    assert set(published_audit(long, both, "sex", n_boot=2)["task"]) == {"edema"}


@pytest.mark.parametrize(
    "choice, message",
    [
        ({"estimator": "median"}, "median"),
        ({"side": "left"}, "left"),
        ({"thresholds": "validation"}, "test_per_arm"),
        ({"baseline": "degraded"}, "no baseline arm 'degraded'"),
    ],
)
def test_an_unknown_choice_is_named(choice, message):
    with pytest.raises(ValueError, match=message):
        published_classification([0, 1], {"clean": [0.1, 0.9]}, ["a", "b"], n_boot=2, **choice)
