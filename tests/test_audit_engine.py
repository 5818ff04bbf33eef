"""The resampling engine: weights, sums by matrix product, AUROC."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from fairrecon_core.audit import engine
from fairrecon_core.audit.engine import (
    Stratum,
    cell_sums,
    group_totals,
    means,
    observed,
    patient_codes,
    patient_signs,
    patient_weights,
    placements,
    resample,
)
from fairrecon_lab.bootstrap import weighted_auroc


@pytest.fixture
def table():
    """Ninety rows of thirty patients: sex is the patient's, age group varies within patients, some of it unknown."""
    rng = np.random.default_rng(5)
    patient = rng.permutation(np.repeat(np.arange(30), 3))
    codes = np.stack([(np.arange(30) % 3 == 0)[patient].astype(int), rng.integers(-1, 2, 90)], axis=1)
    truth = rng.integers(0, 2, 90)
    decisions = rng.integers(0, 2, (3, 90))
    return patient, codes, [Stratum("tpr", decisions, truth == 1), Stratum("fpr", decisions, truth == 0)]


def test_every_resample_has_as_many_patients_as_the_data():
    weights = np.concatenate(list(patient_weights(37, 100, seed=1)))
    assert weights.shape == (100, 37) and (weights.sum(axis=1) == 37).all()


def test_weights_have_mean_one_and_multinomial_variance():
    weights = np.concatenate(list(patient_weights(500, 2000, seed=2))).astype(float)
    assert weights.mean() == 1
    assert weights.var() == pytest.approx(1 - 1 / 500, rel=0.01)
    # two patients compete for places: correlation -1 / (P - 1), seen in the variance of a half's total
    assert weights[:, :250].sum(axis=1).var() == pytest.approx(500 * 0.25, rel=0.1)


def test_weights_depend_on_the_seed_and_not_on_the_chunk():
    whole = np.concatenate(list(patient_weights(50, 70, seed=3)))
    chunked = np.concatenate(list(patient_weights(50, 70, seed=3, chunk=16)))
    assert np.array_equal(whole, chunked)
    assert np.array_equal(whole[:33], np.concatenate(list(patient_weights(50, 33, seed=3))))
    assert not np.array_equal(whole, np.concatenate(list(patient_weights(50, 70, seed=4))))


def test_signs_are_fair_and_reproducible():
    signs = np.concatenate(list(patient_signs(40, 1000, seed=1)))
    assert signs.shape == (1000, 40) and set(np.unique(signs)) == {-1, 1}
    assert abs(signs.mean()) < 4 / np.sqrt(signs.size)
    assert np.array_equal(signs[:100], np.concatenate(list(patient_signs(40, 100, seed=1))))


@pytest.mark.parametrize("attribute", [0, 1])
def test_product_counts_equal_rows_resampled_one_by_one(table, attribute):
    patient, codes, strata = table
    cells = cell_sums(patient, codes, strata)
    totals = np.concatenate(
        [group_totals(chunk, cells.codes[:, attribute], 2) for chunk in resample(cells, 40, seed=6)]
    )
    for weights, by_group in zip(np.concatenate(list(patient_weights(30, 40, seed=6))), totals):
        rows = np.repeat(np.arange(90), weights[patient])  # each patient's rows as often as the patient was drawn
        for g in range(2):
            in_group = rows[codes[rows, attribute] == g]
            for s, stratum in enumerate(strata):
                chosen = in_group[stratum.weight[in_group]]
                expected = [len(chosen), *stratum.values[:, chosen].sum(axis=1)]
                assert by_group[g, s].tolist() == expected


def test_cells_are_the_intersections_and_their_sums_add_up(table):
    patient, codes, strata = table
    cells = cell_sums(patient, codes, strata)
    assert {tuple(code) for code in cells.codes} == {tuple(code) for code in codes}
    assert observed(cells)[0, :, 0, 0].sum() == strata[0].weight.sum()
    old_women = (cells.codes == [0, 1]).all(axis=1)
    rows = (codes == [0, 1]).all(axis=1) & strata[1].weight
    assert observed(cells)[0, old_women, 1, 2] == strata[1].values[1, rows].sum()


def test_an_unknown_group_is_resampled_but_counted_nowhere(table):
    patient, codes, strata = table
    cells = cell_sums(patient, codes, strata)
    by_age = group_totals(observed(cells), cells.codes[:, 1], 2)
    assert by_age[..., 0].sum() == (codes[:, 1] >= 0).sum()


def test_row_order_changes_nothing(table):
    patient, codes, strata = table
    order = np.random.default_rng(0).permutation(90)
    shuffled = [Stratum(s.name, s.values[:, order], s.weight[order]) for s in strata]
    one, other = (next(resample(cell_sums(*arguments), 20, seed=1)) for arguments in
                  ((patient, codes, strata), (patient[order], codes[order], shuffled)))  # fmt: skip
    assert np.array_equal(one, other)


def test_counts_are_exact_in_float32_and_real_values_are_kept_in_float64(table):
    patient, codes, strata = table
    assert cell_sums(patient, codes, strata).sums.dtype == np.float32
    psnr = Stratum("psnr", np.linspace(20, 40, 180).reshape(2, 90), np.ones(90), rate=False)
    assert cell_sums(patient, codes, [psnr]).sums.dtype == np.float64
    large = Stratum("large", np.full((1, 90), 2**20), np.ones(90))
    assert cell_sums(patient, codes, [large]).sums.dtype == np.float64


def test_fractional_weights_give_the_mean_of_patient_means():
    patient = np.array([0, 0, 0, 1])
    dice = Stratum("dice", np.array([[0.2, 0.4, 0.6, 0.8]]), np.array([1 / 3, 1 / 3, 1 / 3, 1]), rate=False)
    cells = cell_sums(patient, np.zeros(4, int), [dice])
    assert means(group_totals(observed(cells), cells.codes[:, 0], 1)).item() == pytest.approx((0.4 + 0.8) / 2)


def test_memory_does_not_grow_with_the_number_of_resamples(table, monkeypatch):
    sizes = [max(len(chunk) for chunk in resample(cell_sums(*table), n_boot)) for n_boot in (1000, 3000)]
    assert sizes[0] == sizes[1] < 1000
    monkeypatch.setattr(engine, "CHUNK_ELEMENTS", 10_000)
    assert len(next(patient_weights(1000, 100))) == 16


def test_patients_are_numbered_by_id_and_a_missing_id_is_refused():
    codes, ids = patient_codes(["b", "a", "b"])
    assert codes.tolist() == [1, 0, 1] and ids.tolist() == ["a", "b"]
    with pytest.raises(ValueError, match="1 rows lack a patient id"):
        patient_codes(["a", None])


@pytest.mark.parametrize(
    ("stratum", "message"),
    [
        (Stratum("tpr", np.array([[1, np.nan]]), np.array([1, 1])), "averages undefined values"),
        (Stratum("tpr", np.array([[1, 0]]), np.array([1, -1])), "negative or undefined weights"),
        (Stratum("tpr", np.array([1, 0]), np.array([1, 1])), "expected values"),
    ],
)
def test_bad_input_is_refused_by_name(stratum, message):
    with pytest.raises(ValueError, match=f"'tpr'.*{message}|'tpr': {message}"):
        cell_sums(np.array([0, 1]), np.array([0, 0]), [stratum])


def test_undefined_values_without_weight_are_ignored():
    cells = cell_sums([0, 1], [0, 0], [Stratum("tpr", np.array([[1, np.nan]]), np.array([1, 0]))])
    assert means(observed(cells)).item() == 1


def test_weighted_auroc_with_ties_equals_scikit_learn():
    rng = np.random.default_rng(7)
    truth = rng.integers(0, 2, 300)
    scores = np.round(rng.normal(truth, 1.5), 1)  # many ties, within and across the classes
    weights = rng.integers(0, 4, (20, 300))
    expected = [roc_auc_score(truth, scores, sample_weight=row) for row in weights]
    assert weighted_auroc(scores, truth, weights) == pytest.approx(expected, abs=1e-12)
    assert weighted_auroc(scores, truth) == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)


def test_weighted_auroc_is_the_auroc_of_repeated_rows():
    rng = np.random.default_rng(8)
    truth, scores = np.tile([0, 1], 20), rng.integers(0, 10, 40)
    weight = rng.integers(0, 3, 40)
    rows = np.repeat(np.arange(40), weight)
    assert weighted_auroc(scores, truth, weight) == pytest.approx(roc_auc_score(truth[rows], scores[rows]))


def test_auroc_of_one_class_is_unknown_and_undefined_scores_are_refused():
    assert np.isnan(weighted_auroc([0.1, 0.2], [1, 1]))
    assert np.isnan(placements([0.1, 0.2], [1, 1])).all()
    with pytest.raises(ValueError, match="1 of 2 scores are undefined"):
        weighted_auroc([0.1, np.nan], [0, 1])


def test_placements_by_hand():
    #            truth  1    1    0    0      the first positive beats one negative and ties with the other
    assert placements([0.5, 0.9, 0.5, 0.1], [1, 1, 0, 0]).tolist() == [0.75, 1.0, 0.75, 1.0]


def test_placements_reproduce_the_bootstrap_of_the_exact_auroc():
    rng = np.random.default_rng(9)
    patient = np.repeat(np.arange(200), 2)
    truth = rng.integers(0, 2, 400)
    scores = np.round(rng.normal(truth, 1.2) + rng.normal(size=200)[patient], 1)
    weights = np.concatenate(list(patient_weights(200, 1000, seed=1))).astype(float)[:, patient]
    exact, share, auroc = (
        weighted_auroc(scores, truth, weights),
        placements(scores, truth),
        weighted_auroc(scores, truth),
    )
    linear = -auroc + sum((weights * keep) @ share / (weights @ keep) for keep in (truth == 1, truth == 0))
    assert np.corrcoef(exact, linear)[0, 1] > 0.99
    assert linear.std() == pytest.approx(exact.std(), rel=0.02)


def test_bags_of_patients_keep_sums_and_spread():
    rng = np.random.default_rng(12)
    patient, group = np.arange(6000), np.where(np.arange(6000) < 40, 1, 0)  # one subgroup of 40 patients
    cells = cell_sums(patient, group, [Stratum("rate", (rng.random((1, 6000)) < 0.3) * 1.0, np.ones(6000))])
    bags = engine.in_bags(cells, many=5000, bags=1500)
    assert (bags.n_patients, len(bags.patient)) == (1500, 1500 + 40) or len(bags.patient) < 1540
    assert np.array_equal(engine.observed(bags), engine.observed(cells))
    assert engine.in_bags(cells, many=6000) is cells
    spread = []
    for one in (cells, bags):
        totals = np.concatenate(list(engine.resample(one, 1500, seed=1)))[:, :, 0]
        spread.append((totals[..., 1] / totals[..., 0]).std(axis=0))
    assert spread[1] == pytest.approx(spread[0], rel=0.12)
