"""The causal model of the simulated cohorts: exact nulls, declared marginals, and rates known in advance."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from fairrecon_core.cohort.folder import write_cohort
from fairrecon_lab.simulate import (
    TASKS,
    Bias,
    as_bias,
    causal,
    chest,
    counterfactual,
    patient_table,
    population,
    reference_rates,
    reference_reader,
    simulate,
    true_gap_by_monte_carlo,
)
from fairrecon_lab.simulate.population import TABLE_1, TABLE_2

COHORTS = ("brain", "chest")
SIZE = 32


def by_id(items):
    return {row["image_id"]: (image, row, mask) for image, row, mask in items}


def same(a, b):
    """Whether two items are equal to the last bit."""
    masks = (a[2] is None and b[2] is None) or np.array_equal(a[2], b[2])
    return a[0].tobytes() == b[0].tobytes() and a[1] == b[1] and masks


# ------------------------------------------------------------------ a patient is a function of (seed, number)
@pytest.mark.parametrize("name", COHORTS)
def test_a_patient_does_not_depend_on_number_selection_or_order(name):
    few = by_id(simulate(name, 6, size=SIZE))
    several = by_id(simulate(name, 40, size=SIZE, patients=[5, 0, 3, 39]))
    shared = set(few) & set(several)
    assert {few[key][1]["patient_id"] for key in shared} == {f"{name}-{i:06d}" for i in (0, 3, 5)}
    assert all(same(few[key], several[key]) for key in shared)


def test_several_processes_give_the_same_bytes_in_the_same_order():
    for name in COHORTS:  # one test, so that the processes start once
        alone, together = (list(simulate(name, 20, size=SIZE, n_jobs=n_jobs)) for n_jobs in (1, 2))
        assert all(same(a, b) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize("name", COHORTS)
def test_a_longer_table_begins_with_the_shorter(name):
    pd.testing.assert_frame_equal(patient_table(name, 7), patient_table(name, 5000).head(7))


@pytest.mark.parametrize("name", COHORTS)
def test_another_seed_is_another_cohort(name):
    a, b = (patient_table(name, 500, seed=seed) for seed in (1, 2))
    assert np.corrcoef(a.age_years, b.age_years)[0, 1] < 0.2
    assert not np.array_equal(next(simulate(name, 1, 1, SIZE))[0], next(simulate(name, 1, 2, SIZE))[0])


def test_images_are_drawn_one_at_a_time(monkeypatch):
    drawn = []
    monkeypatch.setattr(chest, "render", lambda patient, size: drawn.append(1) or chest.ChestImage(0, 0, {}))
    items = simulate("chest", 100_000)
    next(items), next(items)
    assert len(drawn) == 2


@pytest.mark.parametrize("name", COHORTS)
def test_items_fit_a_cohort_folder(name, tmp_path):
    cohort = write_cohort(tmp_path, simulate(name, 5, size=SIZE), name=name, seed=1)
    assert len(cohort) == (10 if name == "brain" else 5)
    assert set(cohort.tasks) == set(TASKS[name])
    assert set(cohort.table.race) <= set(causal.VALUES["race"]) | {"unknown"}


# ------------------------------------------------------------------ what a knob moves, and what it leaves alone
@pytest.mark.parametrize("name", COHORTS)
@pytest.mark.parametrize("change", [{"sex": "female"}, {"sex": "male"}, {"age_years": 25}, {"age_years": 85}])
def test_at_null_sex_and_age_change_neither_pixel_nor_label(name, change):
    for i in range(3):
        before, after = (counterfactual(name, i, size=SIZE, bias="null", **do) for do in ({}, change))
        assert before[0].tobytes() == after[0].tobytes()
        assert {k: v for k, v in after[1].items() if k not in change} == {
            k: v for k, v in before[1].items() if k not in change
        }


@pytest.mark.parametrize("name", COHORTS)
def test_beyond_null_sex_and_age_show(name):
    images = [counterfactual(name, 0, size=64, **do)[0] for do in ({"sex": "female"}, {"sex": "male"})]
    older = counterfactual(name, 0, size=64, sex="male", age_years=90)[0]
    assert np.abs(images[0] - images[1]).mean() > 0.003
    assert np.abs(older - images[1]).mean() > 0.003


def test_race_has_no_anatomy():
    bias = Bias(anatomy=2, prevalence=0)
    images = [counterfactual("chest", 4, size=SIZE, bias=bias, race=race)[0] for race in ("black", "white", "asian")]
    assert images[0].tobytes() == images[1].tobytes() == images[2].tobytes()


@pytest.mark.parametrize("name", COHORTS)
def test_the_streams_do_not_read_one_another(name):
    null = patient_table(name, 2000, bias="null")
    recorded = [column for column in null if column.startswith("y_")]
    label = patient_table(name, 2000, bias=Bias(0, 0, 0, label=1))
    pd.testing.assert_frame_equal(label.drop(columns=recorded), null.drop(columns=recorded))
    assert (label[recorded[0]] != null[recorded[0]]).any()
    faint = patient_table(name, 2000, bias=Bias(0, 0, 0, conspicuity=1))
    pd.testing.assert_frame_equal(faint.drop(columns="x_conspicuity"), null.drop(columns="x_conspicuity"))
    assert faint.x_conspicuity.groupby(faint.sex).first().to_dict() == {"female": np.exp(-0.5), "male": 1.0}
    dose = "x_snr" if name == "brain" else "x_exposure"
    dim = patient_table(name, 2000, bias=Bias(0, 0, 1)).groupby("sex")[dose].mean()
    assert dim["female"] / dim["male"] == pytest.approx(np.exp(-0.25))


def test_setting_a_severity_sets_what_follows_from_it_and_nothing_else():
    severity = {f"severity_{part}": 0.0 for part in causal.OPACITY_PARTS}
    free, healthy = patient_table("chest", 3000), patient_table("chest", 3000, do=severity)
    assert not healthy.true_lung_opacity.any() and free.true_lung_opacity.mean() > 0.4
    parts = [f"true_{part}" for part in causal.OPACITY_PARTS]
    assert (free.true_lung_opacity == free[parts].max(axis=1)).all()
    assert 0 < healthy.y_edema.mean() < 0.03, "an absent finding is still recorded now and then"
    assert (free.true_cardiomegaly == healthy.true_cardiomegaly).all()


def test_a_later_visit_keeps_the_person_and_the_findings():
    first, later = (patient_table("chest", 400, visit=visit) for visit in (0, 1))
    fixed = [c for c in first if c.startswith("true_") or c in ("patient_id", "sex", "race", "age_years", "x_exposure")]
    pd.testing.assert_frame_equal(first[fixed], later[fixed])
    assert (first.x_view != later.x_view).any()
    assert (first.x_severity_edema != later.x_severity_edema)[first.true_edema == 1].all()
    rows = [row for _, row, _ in simulate("chest", 2, size=SIZE, images_per_patient=2)]
    assert [row["image_id"] for row in rows] == [f"chest-00000{i}-{k}" for i in (0, 1) for k in (0, 1)]


# ------------------------------------------------------------------ marginals
def test_the_tables_have_the_printed_totals():
    assert sum(TABLE_1.values()) == 501
    assert [sum(v for k, v in TABLE_1.items() if sex in k) for sex in ("male", "female")] == [299, 202]
    assert sum(v for k, v in TABLE_1.items() if "old" in k) == 254
    assert sum(v for k, v in TABLE_1.items() if "young" in k) == 247, "printed as 147, a misprint"
    assert {k: sum(v) for k, v in TABLE_2.items()} == {
        ("female", "old"): 11804, ("female", "young"): 13732, ("male", "old"): 15590, ("male", "young"): 15684,
    }  # fmt: skip
    assert [sum(column) for column in zip(*TABLE_2.values())] == [176, 6936, 3093, 861, 9634, 36110]
    assert sum(map(sum, TABLE_2.values())) == 56810


@pytest.mark.parametrize("name", COHORTS)
def test_the_population_has_the_papers_shares(name):
    cells = population(name)
    band = causal.subgroup(cells, "age_group", name)
    shares = cells.groupby([cells.sex, band]).weight.sum()
    table = TABLE_1 if name == "brain" else {k: sum(v) for k, v in TABLE_2.items()}
    for key, count in table.items():
        assert shares[key] == pytest.approx(count / sum(table.values()), rel=1e-12)
    assert cells.weight.sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("name, race", [("brain", "paper"), ("chest", "paper"), ("chest", "balanced")])
def test_fifty_thousand_patients_follow_the_population(name, race):
    table, cells = patient_table(name, 50_000, race=race), population(name, race)
    keys = [table.sex, table.race, causal.subgroup(table, "age_group", name)]
    expected = cells.groupby([cells.sex, cells.race, causal.subgroup(cells, "age_group", name)]).weight.sum() * 50_000
    counts = table.groupby(keys).size().reindex(expected.index, fill_value=0)
    assert stats.chisquare(counts, expected).pvalue > 1e-3
    ages = cells.groupby("age_years").weight.sum() * 50_000
    common = ages[ages > 20]
    seen = table.age_years.value_counts().reindex(common.index, fill_value=0)
    assert stats.chisquare(seen * common.sum() / seen.sum(), common).pvalue > 1e-3


def test_balanced_races_are_equal_in_number():
    shares = population("chest", "balanced").groupby("race").weight.sum()
    np.testing.assert_allclose(shares, 1 / 6, rtol=1e-12)


@pytest.mark.parametrize("race", ["paper", "balanced"])
@pytest.mark.parametrize("knob", [0.0, 0.5, 1.0, 2.0])
def test_a_prevalence_stays_whatever_the_knob(knob, race):
    cells = population("chest", race)
    for finding in chest.FINDINGS:
        expected = max(causal.NODES[finding][0], 0.08)
        assert cells.weight @ causal.probability(cells, finding, knob, "chest", race) == pytest.approx(
            expected, abs=1e-9
        )
    if race == "paper":
        cells = population("brain")
        assert cells.weight @ causal.probability(cells, "glioblastoma", knob, "brain") == pytest.approx(374 / 501)


@pytest.mark.parametrize("name", COHORTS)
def test_the_sample_has_the_declared_prevalence(name):
    for knob in (0.0, 2.0):
        table = patient_table(name, 40_000, bias=Bias(prevalence=knob))
        for task in TASKS[name]:
            if task in ("lung_opacity", "tumour_grade"):
                continue  # no share of their own
            expected = 374 / 501 if task == "tumour_type" else max(causal.NODES[task][0], 0.08)
            error = np.sqrt(expected * (1 - expected) / 40_000)
            assert abs(table[f"true_{task}"].mean() - expected) < 4 * error, (task, knob)


def test_the_kinds_of_glioma_are_those_of_the_public_table():
    table = patient_table("brain", 50_000, bias="null")
    counts = table.groupby(["x_kind", "x_grade"]).size()
    expected = pd.Series({(kind, grade): n for kind, grade, n, _ in causal.KINDS}).reindex(counts.index) * 50_000 / 501
    assert stats.chisquare(counts, expected).pvalue > 1e-3
    assert ((table.true_tumour_grade == 1) >= (table.true_tumour_type == 1)).all(), "a glioblastoma has grade 4"


def test_the_gap_in_prevalence_grows_with_the_knob():
    def old_minus_young(knob):
        rates = reference_rates("chest", "cardiomegaly", bias=Bias(prevalence=knob), by="age_group")
        return rates.prevalence["old"] - rates.prevalence["young"]

    gaps = [old_minus_young(knob) for knob in (0, 0.5, 1, 1.5, 2)]
    assert gaps[0] == pytest.approx(0, abs=1e-12) and np.all(np.diff(gaps) > 0.01)


# ------------------------------------------------------------------ truth
def empirical(table, decision, task, groups, prefix):
    """Rates in the order of `reference_rates`' columns, and how many stand behind each."""
    label = table[f"{prefix}_{task}"].to_numpy() == 1
    rows, counts = [], []
    for group in np.unique(groups):
        inside = groups == group
        parts = (label[inside], decision[inside & label], decision[inside & ~label])
        rows.append([part.mean() for part in parts])
        counts.append([len(part) for part in parts])
    return np.array(rows), np.array(counts)


@pytest.mark.parametrize("attribute", ["sex", "age_group"])
@pytest.mark.parametrize("name, task, threshold", [("chest", "edema", 0.8), ("brain", "tumour_grade", 0.0)])
@pytest.mark.parametrize("conspicuity, label", [(0, 0), (1, 0), (0, 1), (2, 2)])
def test_the_closed_form_is_what_a_large_cohort_shows(name, task, threshold, attribute, conspicuity, label):
    bias = Bias(conspicuity=conspicuity, label=label, attribute=attribute)
    table = patient_table(name, 60_000, seed=3, bias=bias)
    reader = reference_reader(table, task, 0.5, threshold)
    groups = causal.subgroup(table, attribute, name)
    for prefix, suffix in (("true", ""), ("y", "_recorded")):
        seen, n = empirical(table, reader.scores > threshold, task, groups, prefix)
        exact = reader.rates[[f"{column}{suffix}" for column in ("prevalence", "tpr", "fpr")]].to_numpy()
        assert np.abs((seen - exact) / np.sqrt(exact * (1 - exact) / n)).max() < 4


def test_the_closed_form_is_the_integral_over_severity():
    rates = reference_rates("chest", "pneumothorax", 0.4, 0.7, bias=Bias(0, 0, 0, conspicuity=1.3))
    u = (np.arange(200_000) + 0.5) / 200_000
    severity = chest.SEVERITY_FLOOR["pneumothorax"] - chest.SEVERITY_SCALE["pneumothorax"] * np.log1p(-u)
    for group, left in (("male", 1.0), ("female", np.exp(-0.65))):
        assert rates.tpr[group] == pytest.approx(stats.norm.sf((0.7 - left * severity) / 0.4).mean(), abs=1e-5)
        assert rates.fpr[group] == pytest.approx(stats.norm.sf(0.7 / 0.4), abs=1e-12)


def test_label_noise_by_hand():
    rates = reference_rates("chest", "edema", bias=Bias(0, 0, 0, label=1)).loc["female"]
    p, missed, invented = 0.261, 0.08 + 0.35, 0.015
    hits = p * (1 - missed) * rates.tpr + (1 - p) * invented * rates.fpr
    assert rates.tpr_recorded == pytest.approx(hits / (p * (1 - missed) + (1 - p) * invented))
    alarms = p * missed * rates.tpr + (1 - p) * (1 - invented) * rates.fpr
    assert rates.fpr_recorded == pytest.approx(alarms / (p * missed + (1 - p) * (1 - invented)))


def test_label_bias_feigns_a_gap_where_there_is_none():
    rates = reference_rates("chest", "edema", bias=Bias(0, 0, 0, label=1))
    assert rates.tpr["female"] == pytest.approx(rates.tpr["male"], abs=1e-12)
    assert rates.fpr["female"] == pytest.approx(rates.fpr["male"], abs=1e-12)
    assert rates.fpr_recorded["female"] - rates.fpr_recorded["male"] > 0.03


@pytest.mark.parametrize("name, task", [("chest", "edema"), ("brain", "tumour_type")])
def test_the_gap_grows_with_conspicuity_and_turns_with_its_target(name, task):
    def gap(size, group):
        rates = reference_rates(name, task, 0.5, 0.8, bias=Bias(0, 0, 0, conspicuity=size, group=group))
        return rates.tpr["female"] - rates.tpr["male"]

    sizes = (0.0, 0.5, 1.0, 2.0)
    gaps = [gap(size, "female") for size in sizes]
    assert gaps[0] == 0 and np.all(np.diff(gaps) < 0)
    np.testing.assert_allclose(gaps, [-gap(size, "male") for size in sizes], atol=1e-12)


@pytest.mark.parametrize("name, task", [("chest", "pleural_effusion"), ("brain", "tumour_grade")])
def test_monte_carlo_finds_the_reference_readers_rates(name, task):
    n, bias = 200, Bias(conspicuity=2)
    table = patient_table(name, n, seed=7, bias=bias)
    reader = reference_reader(table, task, 0.5, 0.8)
    waiting = iter(reader.scores)
    found = true_gap_by_monte_carlo(
        lambda images: [next(waiting) for _ in images], name, task, 0.8, n_patients=n, seed=7, size=SIZE, bias=bias
    )
    assert found.n_positive.sum() + found.n_negative.sum() == n
    for rate in ("tpr", "fpr"):
        exact = reader.rates[rate]
        assert (np.abs(found[rate] - exact) < 4 * np.sqrt(exact * (1 - exact) / found.n_negative.clip(upper=20))).all()
    assert found.tpr_gap["female"] == pytest.approx(found.tpr["female"] - found.tpr["male"])
    assert found.tpr_gap_se["male"] == pytest.approx(np.hypot(found.tpr_se["male"], found.tpr_se["female"]))


# ------------------------------------------------------------------ bad input
@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: simulate("chest", 0), "at least one patient"),
        (lambda: simulate("brain", 5, seed=-1), "seed"),
        (lambda: simulate("chest", 5, size=30), "at least 32"),
        (lambda: simulate("chest", 5, size=65), "even"),
        (lambda: simulate("knee", 5), "choose one of brain, chest"),
        (lambda: simulate("chest", 5, bias="realstic"), "did you mean 'realistic'"),
        (lambda: simulate("chest", 5, bias=2.5), "outside 0 to 2"),
        (lambda: simulate("chest", 5, bias="3"), "outside 0 to 2"),
        (lambda: simulate("chest", 5, bias=float("nan")), "outside 0 to 2"),
        (lambda: simulate("chest", 5, bias=None), "unknown bias None"),
        (lambda: Bias(label=-0.1), "label=-0.1"),
        (lambda: Bias(attribute="age"), "choose one of sex, age_group, race"),
        (lambda: Bias(group="women"), "choose one of female, male"),
        (lambda: simulate("chest", 5, patients=[1, 5]), "patient 5"),
        (lambda: simulate("chest", 5, race="equal"), "choose one of paper, balanced"),
        (lambda: simulate("brain", 5, attribute="race"), "nobody in 'brain'"),
        (lambda: simulate("brain", 5, n_slices=0), "n_slices=0"),
        (lambda: counterfactual("chest", 0, gender="female"), "unknown node to set 'gender'"),
        (lambda: counterfactual("chest", 0, sex="f"), "choose one of female, male"),
        (lambda: counterfactual("chest", 0, severity_oedema=1), "did you mean 'severity_edema'"),
        (lambda: reference_rates("chest", "effusion"), "did you mean 'pleural_effusion'"),
        (lambda: reference_rates("chest", "lung_opacity"), "unknown task"),
        (lambda: reference_rates("chest", "edema", 0.0), "sigma"),
        (lambda: reference_reader(pd.DataFrame({"a": [1]}), "edema"), "patient_table"),
        (lambda: reference_reader(patient_table("chest", 3, do={"sex": "male"}), "edema"), "do="),
        (lambda: true_gap_by_monte_carlo(len, "chest", "edema", 0.5, labels="seen"), "true, recorded"),
    ],
)
def test_bad_input_is_refused_with_the_way_out(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_presets_and_numbers():
    assert as_bias("null") == Bias(0, 0, 0, 0, 0)
    assert as_bias("injected") == as_bias(1) == as_bias("1") == Bias(1, 1, 1, 1, 0)
    assert as_bias(0) == as_bias("realistic") == Bias()
    assert as_bias("0.5", "race") == Bias(conspicuity=0.5, attribute="race")
    assert Bias(group="male").group == ("male",)
