"""One model alone: figures against fairlearn, scikit-learn, statsmodels and fairmedfm; rows agree with themselves."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from fairlearn.metrics import MetricFrame, false_positive_rate, true_positive_rate
from scipy.special import logit
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, average_precision_score, brier_score_loss, precision_score, roc_auc_score

from fairrecon_core.audit.engine import Stratum
from fairrecon_core.audit.groups import resample_means
from fairrecon_lab.auditing import linearised
from fairrecon_lab.auditing.single import ASKED, SINGLE_COLUMNS, audit_single

DIFFERENT = ("different", "different_within_margin")


def tables(seed=21, n=240, cut=160):
    """One image a patient; in each subgroup a score of 0 and of 1, so that bins over the range are those of [0, 1]."""
    rng = np.random.default_rng(seed)
    sex = np.where(np.arange(n) < cut, "f", "m")
    truth = rng.integers(0, 2, n)
    score = np.round(np.clip(rng.normal(0.35 + 0.3 * truth, 0.22), 0, 1), 2)
    score[[0, cut]], score[[1, cut + 1]] = 0.0, 1.0
    score[score == 0.5] = 0.51  # others call a score above, and not at, the threshold
    cohort = pd.DataFrame({"image_id": range(n), "sex": sex, "y_t": truth})
    return pd.DataFrame({"image_id": range(n), "task": "t", "score": score}), cohort


def value(table, metric, subgroup, reference="", label=None):
    rows = table[table["metric"].eq(metric) & table["subgroup"].eq(subgroup) & table["reference"].eq(reference)]
    rows = rows if label is None else rows[rows["label"].eq(label)]
    assert len(rows) == 1
    return rows["value"].iloc[0]


@pytest.fixture(scope="module")
def audited():
    predictions, cohort = tables()
    return audit_single(predictions, cohort, "sex", thresholds=0.5, n_boot=200)


def test_cells_equal_those_of_fairlearn_and_scikit_learn(audited):
    predictions, cohort = tables()
    score, truth = predictions["score"].to_numpy(), cohort["y_t"].to_numpy()
    decided = {"tpr": true_positive_rate, "fpr": false_positive_rate, "ppv": precision_score,
               "accuracy": accuracy_score}  # fmt: skip
    frame = MetricFrame(metrics=decided, y_true=truth, y_pred=score >= 0.5, sensitive_features=cohort["sex"])
    scored = {"auroc": roc_auc_score, "auprc": average_precision_score, "brier": brier_score_loss}
    for group in "fm":
        own = (cohort["sex"] == group).to_numpy()
        for metric in decided:
            assert value(audited, metric, group) == pytest.approx(frame.by_group.loc[group, metric], abs=1e-12)
        for metric, function in scored.items():
            assert value(audited, metric, group) == pytest.approx(function(truth[own], score[own]), abs=1e-12)
        mean_truth, mean_score = calibration_curve(truth[own], score[own], n_bins=10)
        n = np.histogram(np.ceil(score[own] * 10 - 1e-9).clip(1) - 1, np.arange(11))[0]
        by_hand = np.average(np.abs(mean_truth - mean_score), weights=n[n > 0])
        assert value(audited, "ece", group) == pytest.approx(by_hand, abs=1e-12)
    for metric in ("tpr", "fpr", "ppv", "accuracy"):
        gap = frame.difference(method="between_groups")[metric]
        assert abs(value(audited, metric, "m", "f")) == pytest.approx(gap, abs=1e-12)
    assert value(audited, "eop", "") == pytest.approx(frame.difference()["tpr"], abs=1e-12)


def test_recalibration_equals_statsmodels_and_scikit_learn(audited):
    predictions, cohort = tables()
    x = logit(np.clip(predictions["score"], 1e-6, 1 - 1e-6)).to_numpy()
    for group in "fm":
        own = (cohort["sex"] == group).to_numpy()
        truth = cohort.loc[own, "y_t"].to_numpy()
        slope = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(x[own, None], truth).coef_[0, 0]
        fit = sm.GLM(truth, np.ones(own.sum()), family=sm.families.Binomial(), offset=x[own]).fit()
        assert value(audited, "calibration_slope", group) == pytest.approx(slope, abs=1e-5)
        assert value(audited, "calibration_intercept", group) == pytest.approx(fit.params[0], abs=1e-8)


def test_cells_equal_those_of_fairmedfm(audited):
    # fairmedfm 0.4.2 from PyPI: evaluate(truth, score, sex).by_group of `tables()`
    recorded = {
        "f": (0.852868, 0.7625, 0.098437, 0.708861, 0.814815),
        "m": (0.77467, 0.7125, 0.073625, 0.790698, 0.621622),
    }
    for group, (auroc, accuracy, ece, tpr, tnr) in recorded.items():
        found = [value(audited, name, group) for name in ("auroc", "accuracy", "ece", "tpr", "fpr")]
        assert found == pytest.approx([auroc, accuracy, ece, tpr, 1 - tnr], abs=1e-6)


MEASURES = {
    "auroc": lambda score, truth: linearised.area_under_roc(score, truth, np.zeros(len(score), int)),
    "auprc": linearised.average_precision,
    "intercept": lambda score, truth: linearised.recalibration(score, truth, free_slope=False),
    "slope": lambda score, truth: linearised.recalibration(score, truth, free_slope=True),
}


@pytest.mark.parametrize("name", MEASURES)
def test_values_of_rows_are_influences(name):
    """A row written twice moves the measure as its value says, to second order; their mean is the measure."""
    rng = np.random.default_rng(3)
    truth = (rng.random(400) < 0.4) * 1.0
    score = np.round(1 / (1 + np.exp(-rng.normal(truth - 0.5, 1))), 2)  # ties
    values = MEASURES[name](score, truth)
    moves, claimed = [], []
    for i in rng.choice(400, 40, replace=False):
        rows = np.append(np.arange(400), i)
        moves.append(MEASURES[name](score[rows], truth[rows]).mean() - values.mean())
        claimed.append((values[i] - values.mean()) / 401)
    assert np.corrcoef(moves, claimed)[0, 1] > 0.99 and np.polyfit(claimed, moves, 1)[0] == pytest.approx(1, abs=0.06)


def test_measures_that_do_not_exist_are_nan():
    score, ones = np.array([0.2, 0.4, 0.6, 0.8]), np.ones(4)
    assert all(np.isnan(function(score, ones)).all() for name, function in MEASURES.items() if name != "auprc")
    assert np.isnan(linearised.average_precision(score, np.zeros(4))).all()
    assert np.isnan(linearised.recalibration(score, np.array([0, 0, 1, 1.0]), free_slope=True)).all()  # separated
    assert np.isnan(linearised.recalibration(np.full(4, 0.3), np.array([0, 1, 1, 1.0]), free_slope=True)).all()


def test_ece_of_a_calibrated_score_is_chance_and_debiased_it_is_about_none():
    rng, found = np.random.default_rng(4), []
    for _ in range(200):
        score = rng.random(150)
        plain, debiased, chance = linearised.calibration_errors(score, (rng.random(150) < score) * 1.0, np.arange(150))
        found.append((plain, debiased, chance.mean(), plain > np.quantile(chance, 0.975)))
    plain, debiased, chance, above = np.mean(found, axis=0)
    assert plain > 0.06 and plain == pytest.approx(chance, abs=0.006) and abs(debiased) < 0.012 and above < 0.07
    assert linearised.calibration_errors(np.full(100, 0.9), np.zeros(100), np.arange(100))[:2] == pytest.approx(
        (0.9, 0.9)
    )


def clustered(rng, sizes=(60, 60, 40), gap=0.0):
    """Two images a patient, scores of the patient's own; the last subgroup's positives lower by `gap` on the logit."""
    group = np.repeat(np.arange(len(sizes)), sizes)
    patient = np.repeat(np.arange(len(group)), 2)
    g = group[patient]
    truth = rng.integers(0, 2, len(patient))
    own = rng.normal(size=len(group))[patient] + rng.normal(size=len(patient))
    score = 1 / (1 + np.exp(-(own + 2 * truth - 1 - gap * truth * (g == len(sizes) - 1))))
    cohort = pd.DataFrame({"image_id": np.arange(len(g)), "patient_id": patient, "sex": np.array(list("abc"))[g],
                           "y_t": truth})  # fmt: skip
    return pd.DataFrame({"image_id": cohort["image_id"], "task": "t", "score": score}), cohort


@pytest.mark.parametrize("reference", ["largest", "b", "rest", "all-pairs"])
@pytest.mark.parametrize("adjust", ["max_t", "bh", "none"])
def test_rows_agree_with_themselves(reference, adjust):
    predictions, cohort = clustered(np.random.default_rng(5), gap=1.5)
    table = audit_single(predictions, cohort, "sex", thresholds=0.5, n_boot=300, reference=reference, adjust=adjust)
    assert list(table.columns) == list(SINGLE_COLUMNS)
    signed = table[table["reference"].ne("") & table["p_value"].notna()]
    assert len(signed[signed["metric"].eq("tpr")]) == {"largest": 2, "b": 2, "rest": 3, "all-pairs": 3}[reference]
    plain = table[table["p_value"].notna() & table["estimator"].eq("plug_in")]
    outside = (plain["ci_low"] > 0) | (plain["ci_high"] < 0)
    assert (outside == (plain["p_value"] <= 0.05)).all()
    assert (plain["p_adjusted"] >= plain["p_value"] - 1e-12).all()
    assert (plain["verdict"].isin(DIFFERENT) == (plain["p_adjusted"] <= 0.05)).all()
    within = (plain["ci_low"] > -plain["margin"]) & (plain["ci_high"] < plain["margin"])
    assert (plain["verdict"].isin(["equivalent", "different_within_margin"]) <= within).all()
    assert signed["verdict"].isin(DIFFERENT).any()
    own = table[table["reference"].eq("") & table["subgroup"].ne("")]
    assert own["p_value"].isna().all() and set(own["verdict"]) <= {"", "descriptive", "not_estimable"}
    claims = table[table["role"].eq("primary")]
    assert set(claims["metric"]) == {"tpr", "fpr"} and claims["family"].nunique() == 1


def test_the_order_of_rows_and_the_other_subgroups_name_change_nothing():
    predictions, cohort = clustered(np.random.default_rng(6))
    once = audit_single(predictions, cohort, "sex", thresholds=0.5, n_boot=200, seed=1)
    again = audit_single(predictions.sample(frac=1, random_state=0), cohort.sample(frac=1, random_state=1), "sex",
                         thresholds=0.5, n_boot=200, seed=1)  # fmt: skip
    numbers = once.select_dtypes("number").columns
    assert np.allclose(once[numbers], again[numbers], equal_nan=True, atol=1e-6)


def test_too_few_are_not_estimable_and_counted():
    predictions, cohort = clustered(np.random.default_rng(7), sizes=(60, 60, 4))
    table = audit_single(predictions, cohort, "sex", thresholds=0.5, n_boot=200)
    lost = table[table["subgroup"].eq("c")]
    assert lost["value"].isna().all() and set(lost["verdict"]) == {"not_estimable"}
    assert lost["smallest_group"].between(1, 4).all()


def test_every_arm_stands_alone_and_defaults_are_said():
    predictions, cohort = clustered(np.random.default_rng(8))
    both = pd.concat([predictions.assign(arm="x"), predictions.assign(arm="y", score=predictions["score"] ** 2)])
    table = audit_single(both, cohort, "sex", n_boot=200)
    alone = audit_single(predictions, cohort, "sex", n_boot=200)
    pick = lambda frame: frame[frame["metric"].eq("auroc") & frame["reference"].eq("")].iloc[:3]["value"].to_numpy()
    assert np.allclose(pick(table[table["arm"].eq("x")]), pick(alone))
    assert np.allclose(pick(table[table["arm"].eq("y")]), pick(alone))  # ranks are the same
    assert any("thresholds are 0.5" in note for note in alone.attrs["notes"])
    assert any("10 bins of equal width" in note for note in alone.attrs["notes"])


def test_thresholds_from_validation_images_widen_the_rates():
    predictions, cohort = clustered(np.random.default_rng(9), sizes=(150, 150, 100))
    split = np.where(cohort["patient_id"] % 4 == 0, "val", "test")
    chosen = audit_single(predictions, cohort.assign(split=split), "sex", n_boot=300, metrics=["rates"])
    assert set(chosen.loc[chosen["metric"].eq("tpr"), "threshold_policy"]) == {"validation_frozen"}
    assert any("count the choice of thresholds" in note for note in chosen.attrs["notes"])


def test_measures_of_images_have_margins_of_their_own():
    rng = np.random.default_rng(10)
    cohort = pd.DataFrame({"image_id": range(300), "patient_id": np.arange(300) // 2, "sex": ["a", "a", "b"] * 100})
    results = pd.DataFrame({"image_id": range(300), "dice": rng.beta(8, 2, 300), "hd95": rng.gamma(2, 2, 300)})
    table = audit_single(results, cohort, "sex", n_boot=300, margin={"dice": 0.1})
    by_patient = results["dice"].groupby([cohort["sex"], cohort["patient_id"]]).mean().groupby("sex").mean()
    assert value(table, "dice", "a") == pytest.approx(
        np.average(results["dice"][cohort["sex"] == "a"], weights=_weights(cohort, "a")), abs=1e-12
    )
    assert abs(by_patient["a"] - value(table, "dice", "a")) < 0.02
    assert set(table.loc[table["role"].eq("primary"), "metric"]) == {"dice"}
    assert table.loc[table["metric"].eq("hd95"), "margin"].isna().all()
    assert not table.loc[table["metric"].eq("hd95"), "verdict"].eq("equivalent").any()
    assert any("no margin for hd95" in note for note in table.attrs["notes"])


def _weights(cohort, name):
    """1 / images of the patient, of the images of a subgroup."""
    n = cohort.groupby("patient_id")["image_id"].transform("size")
    return 1 / n[cohort["sex"] == name]


@pytest.mark.parametrize(
    "change, words",
    [
        ({"metrics": ["auroq"]}, "unknown metric 'auroq'"),
        ({"reference": "z"}, "no reference subgroup 'z'"),
        ({"adjust": "fdr"}, "adjust"),
        ({"n_boot": 10}, "100 resamples"),
        ({"arms": ["other"]}, "no results of arm 'other'"),
        ({"thresholds": 50}, "is not in"),
    ],
)
def test_wrong_choices_are_named(change, words):
    predictions, cohort = tables()
    with pytest.raises(ValueError, match=words):
        audit_single(predictions, cohort, "sex", **change)


def test_equally_many_rows_leave_the_standard_error_and_uneven_ones_widen_it():
    rng = np.random.default_rng(11)
    for images, grows in ((np.full(60, 3), False), (np.r_[np.full(56, 1), np.full(4, 40)], True)):
        patient = np.repeat(np.arange(60), images)
        stratum = Stratum("tpr", (rng.random((1, len(patient))) < 0.8) * 1.0, np.ones(len(patient)))
        codes = patient % 2
        (plain,) = resample_means(patient, codes, [stratum], [2], n_boot=16)
        wide = linearised.for_uneven_patients(plain, stratum, patient, codes)
        for kind in ("level", "gap"):
            assert np.all((wide.se[kind] > plain.se[kind] * 1.01) == grows) or kind == "gap"
            assert np.all((wide.df[kind] < plain.df[kind] - 5) == grows) or kind == "gap"
        assert np.allclose(wide.se["level"], plain.se["level"]) != grows


def test_all_metrics_have_a_row(audited):
    assert len(ASKED) == 9
    expected = {"tpr", "fpr", "ppv", "accuracy", "auroc", "auprc", "brier", "calibration", "calibration_intercept",
                "calibration_slope", "ece", "ece_debiased", "score_shift"}  # fmt: skip
    assert expected <= set(audited.loc[audited["subgroup"].ne(""), "metric"])
