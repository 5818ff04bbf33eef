"""Inference of the audit: laws, hand arithmetic, independent implementations, and short calibrations with fixed seeds.

The long calibrations (1 000 simulations and more) are in `benchmarks/calibration.py`.
"""

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy.stats import kstest, norm, ttest_1samp
from scipy.stats import t as student
from statsmodels.stats.multitest import multipletests
from wald import cluster_robust_did

from fairrecon_core.audit.engine import Stratum
from fairrecon_core.audit.groups import resample_aurocs, resample_means
from fairrecon_core.audit.inference import (
    Contrast,
    change_interval,
    contrast,
    dispersion,
    expanded,
    group_range,
    minimal_detectable_effect,
    noise_band,
    null_draws,
    range_interval,
    verdicts,
)
from fairrecon_core.audit.multiplicity import (
    benjamini_hochberg,
    holm,
    nested,
    omnibus_test,
    step_down_max_t,
    swap_test,
)
from fairrecon_lab.bootstrap import patient_bootstrap, percentile_interval, se_from_flips, weighted_auroc


def readings(rng, n_patients=300, images=3, gap=0.0, drop=0.0, planted=0.0, shares=(0.55, 0.45), noise=0.3):
    """Decisions on positives: TPR .78, `gap` lower in the last group, `drop` lower in the arm, there by `planted` more.

    Images of a patient share half of the variance, and the arm's scores are the baseline's with noise of sd `noise`.
    Returns patient (rows,), group (rows,), decisions (2, rows), stratum.
    """
    patient = np.repeat(np.arange(n_patients), images)
    group = rng.choice(len(shares), n_patients, p=shares)[patient]
    shared, own = rng.normal(size=n_patients)[patient], rng.normal(size=len(patient))
    score = np.sqrt(0.5) * shared + np.sqrt(0.5) * own
    moved = score + noise * np.sqrt(0.5) * (rng.normal(size=n_patients)[patient] + rng.normal(size=len(patient)))
    last = group == len(shares) - 1
    before, after = 0.78 - gap * last, 0.78 - gap * last - drop - planted * last
    decisions = np.stack([score < norm.ppf(before), moved / np.sqrt(1 + noise**2) < norm.ppf(after)])
    return patient, group, decisions, Stratum("tpr", decisions, np.ones(len(patient), dtype=bool))


def did_of(rng, n_boot=200, **arguments):
    patient, group, _, stratum = readings(rng, **arguments)
    seed = int(rng.integers(2**31))
    (result,) = resample_means(patient, group, [stratum], [2], n_boot=n_boot, seed=seed, reference=0)
    return contrast(result, "did")


# laws and hand arithmetic


def test_did_by_hand():
    #                    group a: 2/4 -> 3/4          group b: 3/4 -> 2/4
    decisions = np.array([[1, 1, 0, 0, 1, 1, 1, 0], [1, 1, 1, 0, 1, 1, 0, 0]])
    stratum = Stratum("tpr", decisions, np.ones(8))
    (result,) = resample_means(np.arange(8), [0] * 4 + [1] * 4, [stratum], [2], n_boot=50, min_support=4, reference=0)
    assert contrast(result, "level").estimate[0].tolist() == [[0.5, 0.75], [0.75, 0.5]]
    assert contrast(result, "gap").estimate[0, :, 1].tolist() == [0.25, -0.25]
    assert contrast(result, "change").estimate[0, 0].tolist() == [0.25, -0.25]
    assert contrast(result, "did").estimate[0, 0, 1] == -0.5
    assert np.isnan(contrast(result, "did").estimate[0, 0, 0])


def test_all_tasks_and_attributes_share_their_resamples_however_the_calls_are_split():
    rng = np.random.default_rng(1)
    patient, group, _, stratum = readings(rng, 60)
    other = rng.integers(0, 3, len(patient))
    both = resample_means(patient, np.stack([group, other], 1), [stratum, stratum], [2, 3], n_boot=40, seed=3)
    (alone,) = resample_means(patient, other, [stratum], [3], n_boot=40, seed=3)
    assert np.array_equal(both[1].resamples[:, :1], alone.resamples, equal_nan=True)


def test_the_reference_is_the_largest_group_or_the_rest():
    rng = np.random.default_rng(2)
    patient, group, decisions, stratum = readings(rng, 200, shares=(0.2, 0.5, 0.3))
    (largest,) = resample_means(patient, group, [stratum], [3], n_boot=20)
    assert largest.reference == 1
    (rest,) = resample_means(patient, group, [stratum], [3], n_boot=20, reference="rest")
    for g in range(3):
        expected = decisions[:, group == g].mean(1) - decisions[:, group != g].mean(1)
        assert contrast(rest, "gap").estimate[0, :, g] == pytest.approx(expected)
    with pytest.raises(ValueError, match="unknown reference 'white'"):
        resample_means(patient, group, [stratum], [3], reference="white")


def test_of_two_groups_the_rest_is_the_other_one():
    patient, group, _, stratum = readings(np.random.default_rng(3), 100)
    (one,) = resample_means(patient, group, [stratum], [2], n_boot=100, reference=0)
    (rest,) = resample_means(patient, group, [stratum], [2], n_boot=100, reference="rest")
    one, rest = contrast(one), contrast(rest)
    assert rest.estimate[..., 1] == pytest.approx(one.estimate[..., 1])
    assert rest.estimate[..., 0] == pytest.approx(-one.estimate[..., 1])
    assert rest.p_value()[..., 0] == pytest.approx(one.p_value()[..., 1])


def test_a_group_with_few_patients_is_unknown_and_changes_nothing_else():
    rng = np.random.default_rng(4)
    patient, group, _, stratum = readings(rng, 150)
    few = np.where(patient < 9, 2, group)
    (with_few,) = resample_means(patient, few, [stratum], [3], n_boot=100, min_support=10)
    (without,) = resample_means(patient, np.where(few == 2, -1, few), [stratum], [2], n_boot=100)
    assert np.isnan(with_few.value[..., 2]).all() and with_few.n_patients[0, 2] == 9
    assert np.array_equal(with_few.value[..., :2], without.value)
    assert np.array_equal(range_interval(with_few).high, range_interval(without).high)
    assert verdicts(contrast(with_few), 0.05)[0, 0, 2] == ""


def test_many_images_of_few_patients_are_no_support():
    stratum = Stratum("tpr", np.ones((2, 40)), np.ones(40))
    patient = np.r_[np.zeros(20, int), np.arange(1, 21)]
    (result,) = resample_means(patient, np.repeat([0, 1], 20), [stratum], [2], n_boot=20)
    assert result.n_rows[0].tolist() == [20, 20] and result.n_patients[0].tolist() == [1, 20]
    assert np.isnan(result.value[0, 0, 0]) and result.value[0, 0, 1] == 1


def test_an_arm_equal_to_the_baseline_is_equivalent_only_with_enough_patients():
    named = []
    for n_patients in (24, 2000):
        patient, group, decisions, _ = readings(np.random.default_rng(5), n_patients)
        same = Stratum("tpr", decisions[[0, 0]], np.ones(len(patient)))
        (result,) = resample_means(patient, group, [same], [2], n_boot=500, reference=0, min_support=2)
        question = contrast(result)
        assert question.estimate[0, 0, 1] == 0 and question.p_value()[0, 0, 1] == 1
        named.append(verdicts(question, 0.05)[0, 0, 1])
    assert named == ["undetermined", "equivalent"]


def test_the_four_verdicts():
    deviations = np.tile(np.linspace(-0.02, 0.02, 999, dtype=np.float32)[:, None, None, None], (1, 1, 1, 5))
    estimate = np.array([[[0.2, 0.03, 0.0, 0.045, np.nan]]])
    deviations[..., 3] *= 4
    question = Contrast("did", estimate, deviations, np.full((1, 1, 5), 0.01), np.full((1, 1, 5), 100))
    expected = ["changed", "changed_within_margin", "equivalent", "undetermined", ""]
    assert verdicts(question, margin=0.05)[0, 0].tolist() == expected
    assert verdicts(question, margin=0.05, p_value=np.ones((1, 1, 5)))[0, 0, 0] == "undetermined"
    with pytest.raises(ValueError, match="margin is positive"):
        verdicts(question, margin=0)


def test_interval_and_p_value_say_the_same():
    rng = np.random.default_rng(6)
    for planted in (0.0, 0.1, 0.2):
        patient, group, _, stratum = readings(rng, 200, planted=planted, shares=(0.4, 0.3, 0.3))
        (result,) = resample_means(patient, group, [stratum], [3], n_boot=999)
        question = contrast(result)
        low, high = question.interval(0.05)
        known = np.isfinite(question.estimate)
        assert (((low > 0) | (high < 0)) == (question.p_value() <= 0.05))[known].all()


def test_expansion_never_narrows_and_reaches_the_standard_error():
    rng = np.random.default_rng(7)
    draws = rng.normal(0, 0.1, (4000, 3)).astype(np.float32)
    draws[:, 2] = 0  # no decision flipped in any patient
    out = expanded(draws, np.array([0.05, 0.2, 0.3]), np.array([1e6] * 3))
    assert np.array_equal(out[:, 0], draws[:, 0])
    assert out[:, 1].std() == pytest.approx(0.2, rel=0.03) and out[:, 2].std() == pytest.approx(0.3, rel=0.05)


def test_a_group_that_vanishes_from_a_resample_counts_against_the_claim():
    draws = np.array([0.1, -0.1, np.nan, 0.1], dtype=np.float32)[:, None, None, None]
    out = expanded(draws, np.full((1, 1, 1), 0.1), np.full((1, 1, 1), 50))
    assert np.isinf(out[2]).all() and np.isfinite(out[[0, 1, 3]]).all()


# independent implementations


@pytest.mark.parametrize("correction", ["statsmodels", None])
def test_wald_equals_clustered_ols(correction):
    rng = np.random.default_rng(8)
    patient, group, decisions, _ = readings(rng, 150, planted=0.1, shares=(0.5, 0.3, 0.2))
    group = np.where(rng.random(len(group)) < 0.05, rng.integers(0, 3, len(group)), group)  # varies in patients
    difference = decisions[1].astype(float) - decisions[0]
    design = pd.get_dummies(group).to_numpy(dtype=float, copy=True)
    design[:, 0] = 1
    oracle = sm.OLS(difference, design).fit(
        cov_type="cluster", cov_kwds={"groups": patient, "use_correction": correction == "statsmodels"}
    )
    did, se = cluster_robust_did(difference, group, patient, correction=correction)
    assert did[1:] == pytest.approx(oracle.params[1:], abs=1e-12)
    assert se[1:] == pytest.approx(oracle.bse[1:], rel=1e-6)


def test_standard_errors_of_all_contrasts_equal_clustered_ols_for_large_groups():
    patient, group, decisions, stratum = readings(np.random.default_rng(9), 3000, planted=0.05)
    (result,) = resample_means(patient, group, [stratum], [2], n_boot=10, reference=0)
    design = np.stack([np.ones(len(group)), group], axis=1)
    for kind, outcome in (("gap", decisions[1]), ("did", decisions[1].astype(float) - decisions[0])):
        fit = sm.OLS(outcome.astype(float), design).fit(cov_type="cluster", cov_kwds={"groups": patient})
        assert contrast(result, kind).se[0, -1, 1] == pytest.approx(fit.bse[1], rel=0.01)  # two pseudo-patients in 3000


def test_bootstrap_spread_equals_the_cluster_robust_standard_error():
    patient, group, decisions, stratum = readings(np.random.default_rng(10), 1000, gap=0.1)
    (result,) = resample_means(patient, group, [stratum], [2], n_boot=4000, reference=0)
    for kind in ("gap", "did"):
        outcome = decisions[0].astype(float) if kind == "gap" else decisions[1].astype(float) - decisions[0]
        _, se = cluster_robust_did(outcome, group, patient)
        draws = result.resamples - result.resamples[..., :1]
        draws = draws[:, 0, 0, 1] if kind == "gap" else draws[:, 0, 1, 1] - draws[:, 0, 0, 1]
        assert draws.std() == pytest.approx(se[1], rel=0.05)


def test_clustering_matters_with_several_images_and_only_then():
    ratios = []
    for images in (3, 1):
        patient, group, decisions, _ = readings(np.random.default_rng(11), 3000 // images, images)
        by_patient = cluster_robust_did(decisions[0], group, patient)[1][1]
        by_image = cluster_robust_did(decisions[0], group, np.arange(len(patient)))[1][1]
        ratios.append(by_patient / by_image)
    assert ratios[0] >= 1.2 and ratios[1] == pytest.approx(1, abs=0.05)


def test_holm_and_benjamini_hochberg_equal_statsmodels():
    p = np.random.default_rng(12).beta(0.5, 3, 40)
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])
    assert benjamini_hochberg(p) == pytest.approx(multipletests(p, method="fdr_bh")[1])
    with_gaps = np.insert(p, [0, 20], np.nan).reshape(6, 7)
    assert (
        np.isnan(holm(with_gaps)).sum() == 2 and np.nanmax(np.abs(np.delete(holm(with_gaps), [0, 21]) - holm(p))) == 0
    )


def test_auroc_per_group_equals_the_exact_one_and_its_bootstrap():
    rng = np.random.default_rng(13)
    patient = np.repeat(np.arange(300), 2)
    truth, group = rng.integers(0, 2, 600), (np.arange(300) % 2)[patient]
    scores = np.round(rng.normal(truth, 1.2, (2, 600)) + rng.normal(size=300)[patient], 1)
    result = resample_aurocs(patient, group, scores, truth, 2, n_boot=500, reference=0)
    for g in range(2):
        rows = group == g
        assert result.value[0, :, g] == pytest.approx([weighted_auroc(arm[rows], truth[rows]) for arm in scores])
    question = contrast(result)
    rows_of = [np.flatnonzero(patient == p) for p in range(300)]
    exact = []
    for _ in range(300):
        rows = np.concatenate([rows_of[p] for p in rng.integers(0, 300, 300)])
        four = [
            [weighted_auroc(arm[r], truth[r]) for r in (rows[group[rows] == 0], rows[group[rows] == 1])]
            for arm in scores
        ]
        exact.append(four[1][1] - four[1][0] - four[0][1] + four[0][0])
    assert question.se[0, 0, 1] == pytest.approx(np.std(exact), rel=0.12)
    assert question.deviations[:, 0, 0, 1].std() == pytest.approx(np.std(exact), rel=0.12)


def test_an_auroc_without_one_label_in_a_group_is_unknown():
    rng = np.random.default_rng(14)
    truth, group = rng.integers(0, 2, 100), np.repeat([0, 1], 50)
    truth[group == 1] = 0
    result = resample_aurocs(np.arange(100), group, rng.random((2, 100)), truth, 2, n_boot=20)
    assert np.isfinite(result.value[0, :, 0]).all() and np.isnan(result.value[0, :, 1]).all()
    with pytest.raises(ValueError, match="no reference 'rest'"):
        resample_aurocs(np.arange(100), group, rng.random((2, 100)), truth, 2, reference="rest")


# simple intervals


def test_patient_bootstrap_knows_that_images_of_a_patient_are_not_independent():
    rng = np.random.default_rng(15)
    patient = np.repeat(np.arange(400), 4)
    values = rng.normal(size=400)[patient] + 0.1 * rng.normal(size=1600)
    clustered = patient_bootstrap(values, patient, n_boot=2000)
    assert clustered.se == pytest.approx(1 / np.sqrt(400), rel=0.1)
    assert patient_bootstrap(values, np.arange(1600), n_boot=2000).se < 0.6 * clustered.se
    paired = patient_bootstrap(values + 0.1, patient, baseline=values, n_boot=500)
    assert paired.value == pytest.approx(0.1) and paired.se < 1e-6


def test_a_misspelt_statistic_is_refused_and_a_function_is_taken():
    with pytest.raises(ValueError, match="statistic is 'mean', 'median' or a function, got 'meen'"):
        patient_bootstrap([1.0, 2.0], ["a", "b"], statistic="meen")
    assert patient_bootstrap([1.0, 2.0, 6.0], list("abc"), statistic="median", n_boot=20).value == 2
    assert patient_bootstrap([1.0, 2.0, 6.0], list("abc"), statistic=np.ptp, n_boot=20).value == 5


def test_patient_bootstrap_weighs_rows_or_patients_and_drops_the_undefined():
    values, patient = [1.0, 1.0, 1.0, 3.0, np.nan], ["a", "a", "a", "b", "b"]
    assert patient_bootstrap(values, patient, n_boot=50).value == 1.5
    assert patient_bootstrap(values, patient, n_boot=50, per="patient").value == 2
    assert patient_bootstrap(values, patient, "median", n_boot=50).value == 1
    assert patient_bootstrap(values, patient, np.max, n_boot=50).high == 3
    alone = patient_bootstrap([1.0, 2.0], ["a", "a"], n_boot=50)
    assert alone.value == 1.5 and np.isnan(alone.low) and alone.n_patients == 1
    assert np.isnan(patient_bootstrap([np.nan], ["a"]).value)
    with pytest.raises(ValueError, match="2 values but 1 patient ids"):
        patient_bootstrap([1.0, 2.0], ["a"])


def test_mean_by_product_equals_mean_by_repeating_rows():
    rng = np.random.default_rng(16)
    values, patient = rng.normal(size=60), rng.integers(0, 20, 60)
    by_product = patient_bootstrap(values, patient, n_boot=100, seed=4)
    by_rows = patient_bootstrap(values, patient, np.mean, n_boot=100, seed=4)
    assert by_product == pytest.approx(by_rows)


# max-min gaps


def test_percentile_interval_of_a_gap_never_covers_zero_and_the_simultaneous_one_does():
    rng = np.random.default_rng(17)
    patient, group, _, stratum = readings(rng, 400)
    (result,) = resample_means(patient, group, [stratum], [2], n_boot=1000)
    low, _ = percentile_interval(group_range(result.resamples))
    assert (low > 0).all()
    assert (range_interval(result).low == 0).all()


@pytest.mark.parametrize(
    ("shares", "gap"), [((0.5, 0.5), 0.0), ((0.5, 0.5), 0.02), ((0.3, 0.2, 0.2, 0.15, 0.1, 0.05), 0.1)]
)
def test_simultaneous_interval_covers_the_gap(shares, gap):
    rng, covered = np.random.default_rng(18), []
    for seed in range(120):
        patient, group, _, stratum = readings(rng, 500, images=2, gap=gap, shares=shares)
        (result,) = resample_means(patient, group, [stratum], [len(shares)], n_boot=300, seed=seed)
        interval = range_interval(result)
        covered.append(interval.low[0, 0] <= gap <= interval.high[0, 0])
    assert np.mean(covered) >= 0.91  # .95 minus two standard errors


def test_joint_bounds_are_wider_than_single_ones_and_hold_the_gap():
    rng = np.random.default_rng(19)
    patient, group, _, stratum = readings(rng, 300, gap=0.1)
    other = Stratum("fpr", rng.random((2, len(patient))) < 0.2, np.ones(len(patient)))
    (result,) = resample_means(patient, group, [stratum, other], [2], n_boot=500)
    single, joint = range_interval(result), range_interval(result, together=[(0, 1)])
    assert (joint.high > single.high).all() and (joint.low <= single.low).all()
    assert ((joint.low <= joint.value) & (joint.value <= joint.high)).all()


def test_change_of_a_clear_gap_is_the_did_and_of_no_gap_is_symmetric():
    rng = np.random.default_rng(20)
    patient, group, _, stratum = readings(rng, 1500, gap=0.3, planted=0.1)
    (result,) = resample_means(patient, group, [stratum], [2], n_boot=500, reference=1)
    clear, did = change_interval(result), contrast(result)
    assert clear.value[0, 0] == pytest.approx(did.estimate[0, 0, 0])
    assert clear.low[0, 0] > 0  # a gap of .3 grew by .1
    patient, group, _, stratum = readings(rng, 1500)
    (result,) = resample_means(patient, group, [stratum], [2], n_boot=500)
    folded = change_interval(result)
    assert folded.low[0, 0] == pytest.approx(-folded.high[0, 0])


def test_noise_band_is_the_gap_of_groups_that_do_not_differ():
    rng, shares = np.random.default_rng(21), (0.5, 0.25, 0.15, 0.1)
    seen, expected, inside = [], [], []
    for seed in range(60):
        patient, group, _, stratum = readings(rng, 400, shares=shares)
        (result,) = resample_means(patient, group, [stratum], [4], n_boot=200, seed=seed)
        band = noise_band(group_range(null_draws(result)))
        seen.append(group_range(result.value)[0, 0])
        expected.append(band.value[0, 0])
        inside.append(band.low[0, 0] <= seen[-1] <= band.high[0, 0])
    assert np.mean(seen) == pytest.approx(np.mean(expected), abs=3 * np.std(seen) / np.sqrt(60))
    assert np.mean(inside) >= 0.85


def test_noise_of_a_group_is_that_of_its_own_patients():
    """Ten images a patient beside one: the same number of images is a third of the information."""
    rng = np.random.default_rng(22)
    patient = np.concatenate([np.repeat(np.arange(60), 10), 60 + np.arange(600)])
    group = np.repeat([0, 1], 600)
    own = rng.normal(size=660)[patient] * 0.9 + rng.normal(size=1200) * np.sqrt(1 - 0.81)
    (result,) = resample_means(
        patient, group, [Stratum("tpr", np.stack([own > 0, own > 0]), group >= 0)], [2], n_boot=4000
    )
    draws = null_draws(result, 4000)[:, 0, 0]
    assert np.nanmean(draws, axis=0) == pytest.approx(np.repeat((own > 0).mean(), 2), abs=0.005)
    spread = draws.std(axis=0)
    assert spread[0] == pytest.approx(result.se["level"][0, 0, 0], rel=0.1)
    assert spread[1] == pytest.approx(np.sqrt(0.25 / 600), rel=0.1) and spread[0] > 2 * spread[1]


def test_corrected_dispersion_is_unbiased_where_the_plain_one_is_not():
    rng, plain, corrected = np.random.default_rng(23), [], []
    for _ in range(150):
        patient, group, _, stratum = readings(rng, 200, images=2, shares=(0.4, 0.3, 0.2, 0.1))
        (result,) = resample_means(patient, group, [stratum], [4], n_boot=1)
        sd = dispersion(result)[0, 0]
        corrected.append(sd * abs(sd))
        plain.append(np.nanvar(result.value[0, 0], ddof=1))
    assert abs(np.mean(corrected)) < 2.5 * np.std(corrected) / np.sqrt(150)
    assert np.mean(plain) > 5 * np.std(corrected) / np.sqrt(150)


# calibration in short


def test_p_values_are_uniform_when_nothing_changed_and_detect_when_it_did():
    rng = np.random.default_rng(24)
    null = np.array([did_of(rng, n_boot=499, gap=0.15, drop=0.05).p_value()[0, 0, 1] for _ in range(400)])
    assert kstest(null, "uniform").pvalue > 0.01
    assert np.mean(null <= 0.05) == pytest.approx(0.05, abs=0.033)  # three standard errors
    changed = np.array([did_of(rng, planted=0.2).p_value()[0, 0, 1] for _ in range(30)])
    assert np.mean(changed <= 0.05) > 0.9


def test_an_injected_change_is_estimated_and_covered():
    rng, estimates, covered = np.random.default_rng(25), [], []
    for _ in range(300):
        question = did_of(rng, planted=0.05)
        low, high = (bound[0, 0, 1] for bound in question.interval())
        estimates.append(question.estimate[0, 0, 1])
        covered.append(low <= -0.05 <= high)
    assert np.mean(estimates) == pytest.approx(-0.05, abs=3 * np.std(estimates) / np.sqrt(300))
    assert 0.91 <= np.mean(covered) <= 0.985


def test_equivalence_is_not_declared_at_the_margin_and_is_declared_well_inside():
    rng = np.random.default_rng(26)
    at_margin = [verdicts(did_of(rng, n_patients=600, planted=0.05), 0.05)[0, 0, 1] for _ in range(150)]
    inside = [verdicts(did_of(rng, n_patients=1500), 0.05)[0, 0, 1] for _ in range(30)]
    assert np.mean(np.isin(at_margin, ["equivalent", "changed_within_margin"])) <= 0.10
    assert np.mean(np.array(inside) == "equivalent") > 0.8


def test_simulated_power_at_the_minimal_detectable_effect_is_as_planned():
    rng = np.random.default_rng(27)
    flips = np.mean([np.mean(d[0] != d[1]) for d in (readings(rng)[2] for _ in range(5))])
    effect = minimal_detectable_effect(np.mean([did_of(rng, n_boot=2).se[0, 0, 1] for _ in range(20)]))
    found = [did_of(rng, planted=effect).p_value()[0, 0, 1] <= 0.05 for _ in range(200)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.085)
    assert 0.04 < flips < 0.2
    assert minimal_detectable_effect(1.0) == pytest.approx(2.80, abs=0.005)
    own_flips = minimal_detectable_effect(0.03, n_group=100)
    assert own_flips == pytest.approx(2.8016 * np.sqrt(0.03**2 + own_flips * (1 - own_flips) / 100), rel=1e-4)
    assert minimal_detectable_effect(0.03, n_group=1e12) == pytest.approx(minimal_detectable_effect(0.03))
    assert se_from_flips(0.1, 400, 100, 1.3) == pytest.approx(np.sqrt(0.13 * (1 / 400 + 1 / 100)))


def test_max_t_controls_the_family_and_is_never_below_the_plain_p_value():
    rng, any_found = np.random.default_rng(28), []
    correlation = 0.5 + 0.5 * np.eye(36)
    root = np.linalg.cholesky(correlation)
    se, df = np.ones((1, 1, 36)), np.full((1, 1, 36), 1e6)
    draws = (rng.normal(size=(1000, 36)) @ root.T).astype(np.float32)[:, None, None]
    for _ in range(400):
        question = Contrast("did", (root @ rng.normal(size=36))[None, None], draws, se, df)
        (adjusted,) = step_down_max_t([question])
        any_found.append(adjusted.min() <= 0.05)
    assert (adjusted >= question.p_value() - 1e-12).all()
    assert np.mean(any_found) == pytest.approx(0.05, abs=0.033)


def test_max_t_over_several_contrasts_is_max_t_over_all_their_cells():
    rng = np.random.default_rng(29)
    draws, estimate = rng.normal(size=(500, 1, 1, 6)).astype(np.float32), rng.normal(size=(1, 1, 6)) * 2
    estimate[0, 0, 4] = np.nan
    one = np.ones((1, 1, 6))
    whole = step_down_max_t([Contrast("did", estimate, draws, one, one)])[0]
    parts = step_down_max_t([Contrast("did", estimate[..., i], draws[..., i], one[..., i], one[..., i])
                             for i in (slice(0, 2), slice(2, 6))])  # fmt: skip
    assert np.array_equal(np.concatenate(parts, axis=-1), whole, equal_nan=True) and np.isnan(whole[0, 0, 4])
    with pytest.raises(ValueError, match="a family shares its resamples"):
        step_down_max_t([Contrast("did", estimate, draws[:n], one, one) for n in (100, 500)])


def test_the_swap_test_is_exact_and_finds_a_change_in_one_of_six_groups():
    rng, shares = np.random.default_rng(30), (0.3, 0.2, 0.15, 0.15, 0.1, 0.1)
    null, changed = [], []
    for seed in range(250):
        patient, group, _, stratum = readings(rng, 150, images=2, shares=shares)
        null.append(swap_test(patient, group, [stratum], 6, n_draws=199, seed=seed).p_value[0, 0])
    for seed in range(20):
        patient, group, _, stratum = readings(rng, 900, planted=0.2, shares=shares)
        changed.append(swap_test(patient, group, [stratum], 6, n_draws=199, seed=seed).p_value[0, 0])
    assert np.mean(np.array(null) <= 0.05) == pytest.approx(0.05, abs=0.042)
    assert np.mean(np.array(changed) <= 0.05) > 0.9


def test_of_two_groups_the_swap_statistic_is_the_squared_studentised_did():
    patient, group, decisions, stratum = readings(np.random.default_rng(31), 4000, planted=0.1)
    unbounded = stratum._replace(rate=False)  # no pseudo-patients
    did, se = cluster_robust_did(decisions[1].astype(float) - decisions[0], group, patient)
    assert swap_test(patient, group, [unbounded], 2, n_draws=16).statistic[0, 0] == pytest.approx((did[1] / se[1]) ** 2)
    swapped = unbounded._replace(values=decisions[::-1])
    forth, back = (swap_test(patient, group, [s], 2, n_draws=64) for s in (unbounded, swapped))
    assert forth.statistic == pytest.approx(back.statistic) and np.array_equal(forth.p_value, back.p_value)


def test_one_group_has_no_gap_and_no_omnibus_test():
    patient, group, _, stratum = readings(np.random.default_rng(32), 60)
    (result,) = resample_means(patient, group * 0, [stratum], [1], n_boot=20)
    assert np.isnan(swap_test(patient, group * 0, [stratum], 1, n_draws=16).p_value).all()
    assert np.isnan(omnibus_test(contrast(result, "change")).p_value).all()
    assert all(np.isnan(array).all() for array in range_interval(result)[:3])
    assert all(np.isnan(array).all() for array in change_interval(result))
    assert np.isnan(dispersion(result)).all() and np.isnan(contrast(result).estimate).all()


def test_omnibus_of_levels_has_its_size_where_picking_the_extreme_pair_has_not():
    rng, p, picked = np.random.default_rng(33), [], []
    for seed in range(200):
        patient = np.repeat(np.arange(240), 3)
        group = rng.choice(6, 240, p=(0.25, 0.2, 0.2, 0.15, 0.1, 0.1))[patient]
        psnr = 30 + rng.normal(size=240)[patient] + 0.5 * rng.normal(size=720)
        stratum = Stratum("psnr", psnr[None], np.ones(720), rate=False)
        (result,) = resample_means(patient, group, [stratum], [6], n_boot=199, seed=seed)
        p.append(omnibus_test(contrast(result, "level")).p_value[0, 0])
        value, draws = result.value[0, 0], result.resamples[:, 0, 0]
        picked.append(np.mean(draws[:, value.argmax()] - draws[:, value.argmin()] <= 0))
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=0.046)
    assert np.mean(np.array(picked) <= 0.05) > 0.3
    with pytest.raises(ValueError, match="takes 'level' or 'change', not 'did'"):
        omnibus_test(contrast(result, "level").__class__("did", value, draws, value, value))


def test_seeds_add_their_own_uncertainty():
    one = nested([[0.1]], [0.02])
    assert np.isnan(one.value[0]) and np.isnan(one.p_value[0])  # one network says nothing about others
    same = nested([[0.1], [0.1]], [0.02])
    assert same.spread[0] == 0 and same.high[0] - 0.1 == pytest.approx(1.96 * 0.02, rel=1e-3)
    assert same.p_value[0] == pytest.approx(2 * norm.sf(5), rel=1e-3)
    alone = nested([[0.0], [0.1], [0.2]], [1e-9])
    assert alone.value[0] == pytest.approx(0.1) and alone.spread[0] == pytest.approx(0.1)
    assert alone.high[0] - 0.1 == pytest.approx(student.ppf(0.975, 2) * 0.1 / np.sqrt(3), rel=0.01)
    both, half = nested([[0.0], [0.1], [0.2]], [0.05]), alone.high[0] - 0.1
    assert max(half, 1.96 * 0.05) < both.high[0] - 0.1 < half + 1.96 * 0.05
    folds = nested([[0.0], [0.1], [0.2]])
    assert folds.high[0] - 0.1 == pytest.approx(half, rel=0.01)
    assert folds.p_value[0] == pytest.approx(ttest_1samp([0, 0.1, 0.2], 0).pvalue, rel=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("n_seeds", [2, 3, 5])
def test_nested_intervals_hold_whatever_share_the_seeds_have(share, n_seeds):
    rng, n = np.random.default_rng(30 + n_seeds), 3000
    estimates = rng.normal(size=n) + share * rng.normal(size=(n_seeds, n))
    result = nested(estimates, np.ones(n))
    covered = (result.low <= 0) & (result.high >= 0)
    assert covered.mean() > 0.95 - 3 * np.sqrt(0.05 * 0.95 / n)
    assert (covered == (result.p_value > 0.05)).all()


def test_p_value_of_a_change_of_a_gap_belongs_to_its_interval():
    """Inverted at many levels: 0 leaves the interval exactly where alpha passes the p-value."""
    for seed, options in enumerate([{"planted": 0.1}, {"gap": 0.1, "planted": 0.08}, {"gap": 0.2, "planted": -0.15}]):
        patient, group, _, stratum = readings(np.random.default_rng(seed), 400, shares=(0.5, 0.3, 0.2), **options)
        (result,) = resample_means(patient, group, [stratum], [3], n_boot=400, seed=seed)
        p = change_interval(result).p_value[0, 0]
        for alpha in (p - 0.02, p - 0.004, p + 0.004, p + 0.02):
            if 0 < alpha < 1:
                bounds = change_interval(result, alpha=alpha)
                assert (bounds.low[0, 0] <= 0 <= bounds.high[0, 0]) == (alpha < p)


def test_gaps_that_turn_round_are_no_change_of_the_gap():
    """TPR .8 and .6 become .6 and .8: the signed row changed, the size of the gap did not."""
    decisions = np.zeros((2, 400))
    for arm, rates in enumerate([(160, 120), (120, 160)]):
        for g, n in enumerate(rates):
            decisions[arm, g * 200 : g * 200 + n] = 1
    group = np.repeat([0, 1], 200)
    (result,) = resample_means(
        np.arange(400), group, [Stratum("tpr", decisions, group >= 0)], [2], n_boot=2000, reference=0
    )
    assert contrast(result, "did").p_value()[0, 0, 1] < 0.001
    moved = change_interval(result)
    assert moved.value[0, 0] == pytest.approx(0) and moved.low[0, 0] < 0 < moved.high[0, 0] and moved.p_value[0, 0] == 1


def test_aurocs_are_compared_within_folds():
    """Two folds whose scores differ by an offset: pooled they look worse than either network is."""
    rng = np.random.default_rng(5)
    truth, fold = rng.integers(0, 2, 2000), np.repeat([0, 1], 1000)
    score = truth * 1.5 + rng.normal(size=2000)
    scores, group = np.stack([score, score + 3 * fold]), np.zeros(2000, int)
    apart = resample_aurocs(np.arange(2000), group, scores, truth, 1, n_boot=200, fold=fold)
    pooled = resample_aurocs(np.arange(2000), group, scores, truth, 1, n_boot=200)
    by_hand = [weighted_auroc(score[fold == f], truth[fold == f]) for f in (0, 1)]
    shares = [truth[fold == f].mean() for f in (0, 1)]
    assert apart.value[0, :, 0] == pytest.approx(np.average(by_hand, weights=shares))
    assert pooled.value[0, 1, 0] < apart.value[0, 1, 0] - 0.1
    assert apart.se["change"][0, 0, 0] == pytest.approx(0, abs=1e-9)  # nothing changed within either
    alone = resample_aurocs(np.arange(2000), group, scores, truth, 1, n_boot=200, fold=np.zeros(2000, int))
    assert alone.value == pytest.approx(pooled.value, abs=1e-12)
    assert alone.resamples == pytest.approx(pooled.resamples, abs=1e-6)
