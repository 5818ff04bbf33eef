"""Skewed training sets, what is measured of them, translation, and the steps of the study."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from test_tools import tool

from fairrecon_lab.mitigation import (
    compare,
    figures,
    instruments,
    measure,
    methods,
    plan,
    registered,
    summary,
    tables,
    translation,
    worlds,
)
from fairrecon_lab.mitigation.skew import Skew, skews, training_rows, tuning_rows
from fairrecon_lab.simulate import patient_table, simulate
from fairrecon_lab.simulate.brain import TISSUES, BrainPatient, render, signal
from fairrecon_lab.simulate.contrasts import SEQUENCES, render_contrasts


@pytest.fixture(scope="module")
def people():
    """200 patients with two images each; findings are as frequent in both sexes."""
    rng = np.random.default_rng(1)
    who = pd.DataFrame({"patient_id": [f"p{k:03}" for k in range(200)], "sex": rng.choice(["female", "male"], 200),
                        "age_group": rng.choice(["young", "old"], 200), "ill": rng.integers(0, 2, 200)})  # fmt: skip
    table = pd.concat([who, who], ignore_index=True)
    return table.assign(image_id=[f"i{k}" for k in range(len(table))])


# who trains


@pytest.mark.parametrize("share", [0, 0.25, 0.5, 0.75, 1])
@pytest.mark.parametrize(("attribute", "group"), [("sex", "female"), ("age_group", "young")])
def test_a_skew_sets_the_share_of_patients_and_keeps_their_number(people, share, attribute, group):
    chosen = people.iloc[training_rows(people, Skew("s", attribute, group, share), 60, seed=3)]
    assert len(chosen) == 120 and chosen["patient_id"].nunique() == 60
    assert (chosen.drop_duplicates("patient_id")[attribute] == group).sum() == 60 * share


def test_a_missing_finding_is_never_seen_in_that_sex_and_the_others_stay_the_same(people):
    control = people.iloc[training_rows(people, Skew("c"), 60, seed=3)]
    gone = people.iloc[training_rows(people, Skew("m", missing="ill"), 60, seed=3)]
    assert control.query("sex == 'female'")["ill"].any() and not gone.query("sex == 'female'")["ill"].any()
    assert len(gone) == len(control) and (gone["sex"] == "female").sum() == 60
    assert set(gone.query("sex == 'male'")["image_id"]) == set(control.query("sex == 'male'")["image_id"])
    tied = people.iloc[training_rows(people, Skew("t", missing="ill", tied=True), 60, seed=3)]
    assert (tied["ill"] == (tied["sex"] == "male")).all()


def test_the_published_way_draws_images_so_most_minority_patients_are_still_seen_and_the_set_shrinks(people):
    rows = training_rows(people, Skew("p", share=0.25, way="published"), 60, seed=3)
    chosen = people.iloc[rows]
    women = chosen[chosen["sex"] == "female"]
    assert len(chosen) == 60 + 15 and len(women) == 15, "a quarter of the women's 60 images, all of the men's"
    assert women["patient_id"].nunique() > 60 * 0.25 / 2, "more patients than a quarter"
    by_patient = people.iloc[training_rows(people, Skew("q", share=0.25), 60, seed=3)]
    assert len(by_patient) == 120


def test_too_few_patients_are_refused_with_their_number(people):
    n = (people.drop_duplicates("patient_id")["sex"] == "female").sum()
    with pytest.raises(ValueError, match=f"'all' needs 150 patients of female, there are {n}"):
        training_rows(people, Skew("all", share=1.0), 150)
    with pytest.raises(ValueError, match="share is 0 to 1"):
        Skew("much", share=1.5)
    assert len({skew.name for skew in skews()}) == len(skews())


def test_a_second_drawing_of_the_control_has_other_patients_of_the_same_kinds(people):
    first, again = (people.iloc[training_rows(people, Skew("c", redraw=k), 60, seed=3)] for k in (0, 1))
    assert (first["sex"] == "female").sum() == (again["sex"] == "female").sum() == 60
    shared = len(set(first["patient_id"]) & set(again["patient_id"]))
    assert shared < 40, "60 of 200 drawn twice share 18 on average"


@pytest.mark.parametrize("share", [0.0, 0.1, None])
def test_who_fine_tunes_is_half_of_each_sex_and_the_finding_is_as_rare_in_women_as_asked(people, share):
    table = people.drop_duplicates("patient_id").rename(columns={"ill": "true_t"}).reset_index(drop=True)
    chosen = table.iloc[tuning_rows(table, "t", 60, share, seed=2)]
    women, men = (chosen[chosen["sex"] == sex] for sex in ("female", "male"))
    assert len(women) == len(men) == 30 and chosen["patient_id"].is_unique
    if share is not None:
        assert women["true_t"].sum() == round(share * 30)
        other = table.iloc[tuning_rows(table, "t", 60, None, seed=2)]
        assert set(men["patient_id"]) == set(other.query("sex == 'male'")["patient_id"]), "men are as they were"
    assert 5 < men["true_t"].sum() < 25
    with pytest.raises(ValueError, match="fine-tuning needs 100 patients of the others, there are"):
        tuning_rows(table.query("sex == 'female' or patient_id < 'p050'"), "t", 200, None)


# what is measured


def test_lesion_contrast_is_one_when_kept_half_when_halved_and_nan_without_a_lesion():
    rng = np.random.default_rng(0)
    without, lesion = rng.random((3, 8, 8)), rng.random((3, 8, 8))
    lesion[2] = 0
    images = without + lesion * np.array([1, 0.5, 1])[:, None, None]
    left = measure.lesion_contrast(images, without + lesion, without)
    assert left[:2] == pytest.approx([1, 0.5]) and np.isnan(left[2])


def world(harm_women, n=400, n_seeds=3, seed=0, of_seed=0.0):
    """Readings of two arms: scores of ill women fall by `harm_women` in one of them, and nothing else differs.

    `of_seed` is the standard deviation of what each training does to all women by itself.
    """
    rng = np.random.default_rng(seed)
    cohort = pd.DataFrame({"image_id": [f"i{k}" for k in range(n)], "patient_id": [f"p{k}" for k in range(n)],
                           "sex": rng.choice(["female", "male"], n), "y_t": rng.integers(0, 2, n)})  # fmt: skip
    base = 0.45 + 0.25 * cohort["y_t"] + rng.normal(0, 0.15, n)
    arms, women = {}, cohort["sex"] == "female"
    for arm, harm in (("control", 0.0), ("skewed", harm_women)):
        frames = []
        for s in range(n_seeds):
            own = rng.normal(0, of_seed) * women
            score = (base - harm * (women & (cohort["y_t"] == 1)) + own + rng.normal(0, 0.05, n)).clip(0, 1)
            read = {"arm": arm, "train_seed": s, "task": "t", "score": score, "contrast": 1.0}
            frames.append(cohort[["image_id"]].assign(**read, psnr_db=30 + rng.normal(0, 0.1, n)))
        arms[arm] = pd.concat(frames)
    return arms, cohort


def compared(arms, cohort):
    parts = [compare.by_group(arms[name], cohort, dict.fromkeys(range(3), 0.5)) for name in ("skewed", "control")]
    return compare.effects(*parts, ("female", "male"), n_boot=200).set_index(["quantity", "subgroup"])


def test_a_harm_to_ill_women_is_found_where_it_is_and_nowhere_else():
    arms, cohort = world(harm_women=0.2)
    found = compared(arms, cohort)
    assert found.loc[("tpr", "gap"), "high"] < 0 and found.loc[("eodd", "gap"), "low"] > 0
    for key in (("fpr", "gap"), ("tpr", "male"), ("psnr_db", "gap")):
        assert found.loc[key, "low"] <= 0 <= found.loc[key, "high"], key
    by_hand = arms["skewed"].merge(cohort).query("sex == 'female' and y_t == 1")["score"].ge(0.5).mean()
    assert found.loc[("tpr", "female"), "value"] == pytest.approx(by_hand)


@pytest.mark.parametrize("of_seed", [0.0, 0.1])
def test_intervals_of_a_change_that_is_not_there_cover_zero_as_often_as_they_say(of_seed):
    """60 worlds without harm; in some, each training does something of its own. Binomial error of the share: 3 %."""
    covers = []
    for seed in range(60):
        row = compared(*world(0.0, n=150, seed=seed, of_seed=of_seed)).loc[("tpr", "gap")]
        covers.append(row["low"] <= 0 <= row["high"])
    assert np.mean(covers) >= 0.95 - 2 * np.sqrt(0.95 * 0.05 / 60)


def test_the_counterfactual_truth_is_the_mean_of_paired_differences():
    rng = np.random.default_rng(2)
    make = lambda shift: {q: rng.normal(shift, 1e-3, (3, 50)) for q in compare.QUANTITIES}
    truth = compare.counterfactual_truth(make(-0.3), make(-0.1), make(0.0), make(0.1), n_boot=200)
    assert truth["value"].to_numpy() == pytest.approx([-0.1] * 6, abs=1e-3), "of each quantity, and the odds"
    assert (truth["low"] < truth["value"]).all() and (truth["n"] == 50).all()


def test_half_of_a_twins_bias_is_where_the_sum_of_gaps_is_zero():
    """Control has no gap, the twin -.4: a method that leaves -.2 removed half, one that leaves -.3 less."""
    rng = np.random.default_rng(3)
    arm = lambda gap: [{q: rng.normal(part, 1e-3, (4, 60)) for q in compare.QUANTITIES} for part in (gap, 0.0)]
    control, twin = arm(0.0), arm(-0.4)
    for left, sign in ((-0.2, 0), (-0.3, -1), (-0.1, 1)):
        half = compare.same_patients([(1, arm(left)), (-0.5, twin), (-0.5, control)], n_boot=200)
        assert half["value"].to_numpy() == pytest.approx([sign * 0.1] * 6, abs=2e-3)
    assert (half["seed_sd"] < 1e-3).all() and (half["n"] == 60).all()


# contrasts


def test_the_spin_echo_is_the_inversion_recovery_without_an_inversion_time():
    for tissue, (t1, t2, density) in TISSUES.items():
        for sequence in SEQUENCES.values():
            echo = density * (1 - np.exp(-sequence.tr_ms / t1)) * np.exp(-sequence.te_ms / t2)
            assert signal(tissue, sequence) == pytest.approx(echo)
    assert signal("csf", SEQUENCES["t1"]) < signal("grey", SEQUENCES["t1"]) < signal("white", SEQUENCES["t1"])
    assert signal("csf", SEQUENCES["t2"]) > signal("grey", SEQUENCES["t2"]) > signal("white", SEQUENCES["t2"])


@pytest.fixture(scope="module")
def patient():
    return BrainPatient((1, 3, 2), aggressiveness=1.6)  # with much oedema


def test_a_silent_part_leaves_no_bit_on_t1_and_shows_on_t2(patient):
    whole, dry = (render_contrasts(patient, 64, oedema=oedema) for oedema in (True, False))
    assert whole.images["t1"].tobytes() == dry.images["t1"].tobytes()
    difference = whole.images["t2"] - dry.images["t2"]
    assert whole.silent.sum() > 30 and difference[whole.silent].mean() > 0.1
    assert abs(difference[~whole.mask].mean()) < 0.01 and not (whole.silent & dry.mask).any()
    loud = render_contrasts(patient, 64, silent="")
    assert not loud.silent.any() and (loud.images["t1"] != whole.images["t1"]).any()


def test_the_noise_of_contrasts_is_not_shared(patient):
    """Smooth tissue cancels in differences of neighbours; what is left is mostly noise, and must not be the same."""
    noisy = dataclasses.replace(patient, snr=2.0)
    made = render_contrasts(noisy, 64).images
    middle = [np.diff(made[kind][24:40, 20:44], axis=1).ravel() for kind in ("t1", "t2")]
    assert abs(np.corrcoef(middle)[0, 1]) < 0.25
    with pytest.raises(ValueError, match="unknown contrast \\['flair'\\]"):
        render_contrasts(patient, 64, ("flair",))


def test_flair_is_as_frozen_to_the_sixth_digit_and_drawing_contrasts_does_not_touch_it(patient):
    """Four patients against three random sums of all their pixels, measured before contrasts came."""
    weights = np.random.default_rng(0).standard_normal((3, 64 * 64))
    draw = lambda: [render(BrainPatient((1, 3, k), aggressiveness=0.5 * k), 64, 1).images[0] for k in range(4)]
    before = draw()
    render_contrasts(patient, 64)
    assert [image.tobytes() for image in draw()] == [image.tobytes() for image in before]
    sums = weights @ np.stack(before).reshape(4, -1).astype(float).T
    assert sums.ravel() == pytest.approx(DIGEST, abs=2e-4)


DIGEST = [-14.3056, -17.6604, -18.1348, -16.0201, 1.9263, -15.2434, -5.9878, -6.3859, -7.2078, 0.229, -8.9299, -1.4101]


# the steps


def test_translation_sees_what_was_drawn_and_what_was_not():
    found, table = translation.draw(6, 302, 64)
    pool = found | {"table": table}
    perfect, blind = translation.read(found["t2"], pool), translation.read(found["dry"], pool)
    seen = perfect["silent_share"].notna()
    assert seen.any() and perfect.loc[seen, "silent_share"].to_numpy() == pytest.approx(1, abs=1e-6)
    assert blind.loc[seen, "silent_share"].to_numpy() == pytest.approx(0, abs=1e-6)
    assert (blind.loc[seen, "error_silent"] < -0.05).all() and perfect["error_rest"].abs().max() < 1e-6
    both = pd.concat([perfect.assign(train_seed=0), blind.assign(train_seed=1)])
    summed = translation.translation_table(both, n_boot=100).set_index(["quantity", "subgroup"])
    assert summed.loc[("silent_share", "all"), "value"] == pytest.approx(0.5, abs=1e-6)


@pytest.fixture(scope="module")
def made(root, tmp_path_factory):
    """The tables of the smallest recipe, twice in one folder; what was said each time, and which tables were kept."""
    command, said, folder = tool(root, "mitigation"), [], tmp_path_factory.mktemp("study")
    command.said = said.append
    asked = {"recipe": "smoke", "arm": "unet", "parts": command.PARTS, "weights": [registered.WEIGHT]}
    asked |= {"seeds": [], "patients": 0}
    asked |= {"skews": [registered.PRIMARY.name, "women 0%", "women 100%", registered.AGAIN.name]}
    asked |= {"methods": [registered.METHOD, "eodd, published sex code", "threshold"]}
    kept = []
    first = command.make(type("Asked", (), asked), folder, lambda name, table: kept.append((name, len(table))))
    n_steps = len(said)
    return first, command.make(type("Asked", (), asked), folder), said[:n_steps], said[n_steps:], kept, folder


def test_the_studys_network_starts_as_the_identity_and_normalises():
    network, image = instruments.blank_network("unet", 4, 1e-3), torch.rand(2, 1, 32, 32)
    assert torch.equal(network.predict(image, 40.0), image)
    assert any(isinstance(module, torch.nn.GroupNorm) for module in network.net.modules())
    assert network.learning_rate == 1e-3 and instruments.blank_network("pix2pix", 4, 1e-3).name == "pix2pix"


def test_a_taught_reader_tells_what_it_was_taught_and_is_the_same_again():
    rng = np.random.default_rng(1)
    truth, images = rng.integers(0, 2, 80), rng.uniform(0, 0.3, (80, 32, 32)).astype(np.float32)
    images[truth == 1, 8:24, 8:24] += 0.6
    read = []
    for _ in range(2):
        reader = instruments.teach_reader(images[20:], truth[20:], "spot", 4, **plan.ON_CPU)
        read.append(reader.scores(images[:20])[:, 0])
    assert read[0][truth[:20] == 1].min() > read[0][truth[:20] == 0].max()
    assert np.array_equal(*read)


def test_who_trains_is_seen_under_several_noises_and_a_reader_of_this_world_is_made_once(tmp_path):
    said: list[str] = []
    recipe = dataclasses.replace(plan.RECIPES["smoke"], n_reader=20, reader_epochs=1, reader_size=32, n_noises=3)
    study = plan.Study(recipe, tmp_path, said.append)
    pool, names = study.pool("tune"), list(study.pool("tune").table["image_id"])[:8]
    assert pool.degraded.shape == (3, *pool.clean.shape) and len(study.pool("validation").degraded) == 1
    stored = study._stored("tune")
    drawn = [stored(None, 40.0, names, seed=seed).numpy() for seed in (1, 1, 2)]
    assert np.array_equal(drawn[0], drawn[1]) and not np.array_equal(drawn[0], drawn[2])
    which = [[np.array_equal(image, pool.degraded[k, row]) for k in range(3)] for row, image in enumerate(drawn[0])]
    assert np.sum(which, axis=1).tolist() == [1] * 8 and len(set(np.argmax(which, axis=1))) > 1
    scores = study.scores(pool.clean[:4])
    assert np.array_equal(plan.Study(recipe, tmp_path, said.append).scores(pool.clean[:4]), scores)
    assert said.count("teach the reader") == 1


@pytest.fixture(scope="module")
def brains(tmp_path_factory):
    """The smallest study of brains whose finding is a large tumour, and its tables for the primary skew."""
    recipe = dataclasses.replace(plan.RECIPES["smoke"], task="large_tumour", level=8.0, n_reader=24, reader_epochs=1,
                                 reader_size=32)  # fmt: skip
    study = plan.Study(recipe, tmp_path_factory.mktemp("brains"))
    skew = next(skew for skew in skews(finding="true_large_tumour") if skew.name == registered.PRIMARY.name)
    return study, tables.skew_table(study, [skew])


def test_a_brain_is_the_same_patient_as_woman_and_man_and_without_the_tumour(brains):
    women, men = (brains[0].pool("test", sex) for sex in ("female", "male"))
    assert np.array_equal(women.table["x_tumour_mm2"], men.table["x_tumour_mm2"]), "measured in the head of neither"
    large = women.table["true_large_tumour"] == 1
    assert (women.table["x_tumour_mm2"][large] >= worlds.LARGE_MM2).all() and 0.3 < large.mean() < 0.7
    sizes = women.masks.sum(axis=(1, 2))
    seen = sizes * (212 / brains[0].recipe.size) ** 2  # mm2 in a woman's head, which is smaller
    assert seen[large].mean() > 1.5 * seen[~large].mean() and seen.mean() < women.table["x_tumour_mm2"].mean()
    assert men.masks.sum() > women.masks.sum()
    assert np.array_equal(women.without[~large], women.clean[~large])
    changed = np.abs(women.clean - women.without) > 0.05
    assert (changed[large] & women.masks[large]).sum() > 0.6 * women.masks[large].sum()
    recorded = brains[0].cohort
    assert len(recorded) == len(large) and set(recorded["sex"]) == {"female", "male"}
    row = patient_table("brain", 1, seed=7).to_dict("records")[0]
    ours = render(worlds.brain_patient(row, 0, 7), 64, 1).images[0]
    assert np.array_equal(ours, next(simulate("brain", 1, 7, 64, n_slices=1))[0]), "the brain of the series"


def test_brains_bring_dice_by_a_segmenter_of_their_world_into_every_table(brains):
    study, (effects, audit, seeds) = brains
    read = study.read("women 50%", 0, None, "test", "female")
    masks, marked = study.pool("test", "female").masks, study.segmenter.masks(study.pool("test", "female").clean)
    by_hand = [2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in zip(masks, marked)]
    clean = measure.overlaps(marked, masks)
    assert clean["dice"] == pytest.approx(by_hand) and read["actual"].tolist() == masks.sum(axis=(1, 2)).tolist()
    assert {"tpr", "fpr", "dice", "psnr_db", "contrast"} <= set(effects["quantity"])
    assert np.isfinite(effects.query("quantity == 'dice' and subgroup == 'gap'")["truth"]).all()
    assert {"dice", "tpr", "psnr_db"} <= set(audit["metric"]) and "truth_dice" in seeds
    assert len(figures.skew_figure(effects, "simulated").axes) == 5
    assert "dice" in summary.changes(effects)["quantity"].tolist()


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"task": "edema"}, "unknown task 'edema'; there are pleural_effusion, large_tumour"),
        ({"task": "large_tumour"}, "no reader of large_tumour is shipped: give n_reader"),
    ],
)
def test_a_recipe_of_no_world_or_without_a_reader_is_refused(asked, says):
    with pytest.raises(ValueError, match=says):
        dataclasses.replace(plan.RECIPES["smoke"], **asked)


def test_a_method_looks_at_the_finding_of_its_own_world():
    people = methods.of_task(methods.METHODS["reweighting by finding"], "large_tumour")
    assert people == {"weights_by": ("sex", "y_large_tumour")}
    assert methods.of_task(methods.METHODS["reweighting, published ages"], "x") == {"ages": "published"}


@pytest.mark.parametrize(("recipe", "arm", "ends"), [("registered", "unet", ""), ("registered", "sde", "_sde"),
                         ("brain", "unet", "_brain"), ("brain", "pix2pix", "_brain_pix2pix")])  # fmt: skip
def test_tables_of_other_networks_and_of_brains_have_names_of_their_own(root, recipe, arm, ends):
    assert tool(root, "mitigation").variant_of(SimpleNamespace(recipe=recipe, arm=arm)) == ends


def test_a_recorded_command_can_be_pasted_and_names_no_folder(root):
    words = ["--runs", "/x/y", "--parts", "skew", "--skews", "women 0%", "--out", "/z"]
    assert tool(root, "mitigation").command_of(words) == "python tools/mitigation.py --parts skew --skews 'women 0%'"


def test_the_command_makes_its_steps_once_and_its_tables_again_the_same(made):
    first, again, steps, later, kept, _ = made
    assert any(line.startswith("train") for line in steps)
    assert not [line for line in later if line.startswith(("train", "draw", "fine-tune", "read"))]
    for name, table in first.items():
        pd.testing.assert_frame_equal(table, again[name])
        lengths = [n for found, n in kept if found == name]
        assert lengths == sorted(lengths) and lengths[-1] == len(table), "a stopped run leaves the rows it has"


def test_the_tables_hold_what_they_should(made):
    first = made[0]
    assert set(first["mitigation"]["method"]) == {"twin", registered.METHOD, "eodd, published sex code", "threshold"}
    assert set(first["mitigation"]["share"]) == {0.05, -1.0}
    skew = first["skew"].query("quantity == 'tpr' and subgroup == 'gap'").iloc[0]
    assert np.isfinite([skew["delta"], skew["truth"]]).all() and np.isnan(skew["seed_sd"]), "one seed has no spread"
    assert {"tpr", "fpr", "psnr_db"} <= set(first["audit"]["metric"])
    assert first["seeds"]["truth_tpr"].tolist() == pytest.approx(
        first["skew"].query("quantity == 'tpr' and subgroup == 'gap'")["truth"].tolist()
    )
    assert set(first["translation"]["subgroup"]) == {"all", "female", "male", "gap"}
    assert {"t1"} == set(first["translation_audit"]["baseline_arm"])
    steps = translation.Translation(translation.RECIPES["smoke"], made[5])
    table = translation.translation_audit(steps.readings(), steps.pool("test"), 100, min_support=2)
    gap = table.query("reference in ['male', 'female'] and metric == 'psnr_db'").iloc[0]
    of_sex = first["translation"].query("quantity == 'psnr_db'").set_index("subgroup")["value"]
    by_hand = (of_sex["female"] - of_sex["male"]) * (1 if gap["reference"] == "male" else -1)
    assert gap["value"] == pytest.approx(by_hand, abs=1e-4), "by hand and by the audit"
    levels = first["mitigation"].query("quantity in ['tpr', 'fpr'] and subgroup in ['female', 'male']")
    assert levels.groupby(["method", "weight", "share", "threshold"]).size().eq(4).all(), "rates of each sex, always"


def test_a_form_without_a_gradient_is_its_twin_in_every_row_and_a_method_is_not(made):
    of = lambda name: made[0]["mitigation"].query("method == @name and share > 0")
    assert of("eodd, published sex code")["delta"].eq(0).all()
    assert of(registered.METHOD)["delta"].ne(0).any()


def test_what_a_method_repaired_is_counted_from_the_bias_of_its_twin(made):
    table, rows = made[0]["mitigation"], made[0]["repaired"]
    assert len(rows) == table.groupby(["method", "weight", "share", "threshold"]).ngroups == 11
    bias = table.query("method == @registered.METHOD and threshold == 'own' and share > 0 and subgroup == 'bias'")
    bias, row = (
        bias.set_index("quantity").loc["odds"],
        rows.query("method == @registered.METHOD and threshold == 'own'").iloc[0],
    )
    assert bias["delta"] == pytest.approx(bias["value"] - bias["other"])
    assert bias["half"] == pytest.approx(bias["value"] - bias["other"] / 2)
    assert bias["over"] == pytest.approx(bias["value"] + bias["other"] / 2)
    turn = -1 if bias["skewed"] > 0 else 1
    assert row["half"] == pytest.approx(turn * bias["half"]) and row["over"] == pytest.approx(-turn * bias["over"])
    assert row["over_low"] <= row["over"] <= row["over_high"]
    assert abs(row["change"]) == pytest.approx(abs(bias["delta"])) and row["change_low"] <= row["change_high"]


BIAS = ("bias", "bias_low", "bias_high")


@pytest.mark.parametrize(
    ("twin", "over", "answer", "removes"),
    [
        ((-0.3, -0.4, -0.2), (0.1, 0.05, 0.15), "yes", "yes"),
        ((-0.05, -0.3, 0.2), (0.1, 0.05, 0.15), "undetermined", "undetermined"),
        ((-0.3, -0.4, -0.2), (-0.1, -0.15, -0.05), "no", "yes"),
        ((-0.3, -0.4, -0.2), (0.02, -0.05, 0.09), "undetermined", "yes"),
    ],
)
def test_something_is_removed_only_of_a_bias_that_is_there(twin, over, answer, removes):
    """The method closes the gap by .25; in the second world nobody knows of one, in the third it goes past 0."""
    row = {"method": registered.METHOD, "weight": registered.WEIGHT, "share": 0.05, "published": False,
           "threshold": registered.THRESHOLD, "change": 0.25, "change_low": 0.2, "change_high": 0.3,
           "half": 0.1, "half_low": 0.05, "half_high": 0.15}  # fmt: skip
    row |= dict(zip(("over", "over_low", "over_high"), over))
    row |= dict(zip(("twin_bias", "twin_bias_low", "twin_bias_high"), twin)) | dict.fromkeys(BIAS, 0.0)
    row |= {f"worst_{name}{end}": 0.0 for name in ("psnr_db", "fpr") for end in ("", "_low", "_high")}
    said = registered.answers({"repaired": pd.DataFrame([row])}).set_index("question")["answer"]
    assert said["the twin leaves a bias in the odds"] == removes
    half = f"{registered.METHOD} ({registered.WEIGHT:g}) leaves less than half of that, on either side of 0"
    assert said[half] == answer and said["it removes bias that its twin leaves"] == removes
    assert said["it removes more than half of that, what lies beyond 0 aside"] == removes
    assert said["it raises the signed gap in the odds above its twin's, bias or not"] == "yes"


def test_the_registered_questions_are_answered_from_the_tables_and_told_on_the_page(made, brains):
    answers = registered.answers(made[0])
    assert {"primary", "secondary"} == set(answers["kind"]) and (answers["kind"] == "primary").sum() >= 2
    assert answers["question"].is_unique
    published = answers[answers["question"].str.startswith("eodd, published sex code")]
    assert published["answer"].tolist() == ["yes"] and published["figure"].tolist() == [0]
    page = summary.page(made[0], answers, {}, {})
    for question in answers["question"]:
        assert question in page
    assert "Pix2Pix" not in page and "Brains" not in page
    brain = dict(zip(("skew", "audit", "seeds"), brains[1]))
    whole = summary.page(made[0], answers, brain, {"pix2pix": made[0]["repaired"]})
    at = made[0]["repaired"].query("method == 'twin' and threshold == @registered.THRESHOLD").iloc[0]
    assert f"Before fine-tuning its odds bias was {at['twin_bias']:.3f}" in whole, "of the network that is fine-tuned"
    gap = brain["skew"].query("quantity == 'dice' and subgroup == 'gap'").iloc[0]
    assert "## Brains, and large tumours" in whole and f"| dice | {gap['delta']:.3f} [" in whole
    assert f"| {gap['truth']:.3f} [" in whole
    assert "## Registered and not run" in page and "- reweighting, published ages" in page
    assert "- women 0%\n" not in page


@pytest.mark.parametrize(("each", "says"), [([-1.0, -1.1, -0.9], "no, it falls"), ([1.0, 1.1, 0.9], "yes"),
                                            ([1.0, -1.1, 0.9], "undetermined")])  # fmt: skip
def test_a_slope_over_the_shares_is_one_line_per_seed_with_students_interval(each, says):
    shares = [0.0, 0.25, 0.75, 1.0]
    seeds = pd.DataFrame([{"skew": f"women {share:.0%}", "attribute": "sex", "way": "patients", "share": share,
                           "train_seed": k, "truth_psnr_db": slope * (share - 0.5), "truth_tpr": 0.0}
                          for k, slope in enumerate(each) for share in shares])  # fmt: skip
    row = registered.answers({"seeds": seeds}).iloc[0]
    half = 4.302653 * np.std(each, ddof=1) / np.sqrt(3)  # Student's t, two degrees of freedom
    assert row["figure"] == pytest.approx(np.mean(each)) and row["answer"] == says
    assert row["high"] - row["figure"] == pytest.approx(half, rel=1e-5)


@pytest.mark.parametrize(
    ("skewed", "twin", "left", "says"),
    [(-0.2, -0.15, -0.05, 0.10), (0.2, 0.15, 0.05, 0.10), (0.02, -0.10, -0.12, -0.02), (-0.02, 0.10, 0.12, -0.02)],
)
def test_a_repair_is_less_of_the_bias_that_the_twin_left_whatever_there_was_before(skewed, twin, left, says):
    ends = lambda name, value: {name: value, f"{name}_low": value - 0.01, f"{name}_high": value + 0.01}
    bias = {"quantity": registered.REPAIRED, "subgroup": "bias", "skewed": skewed, "delta": left - twin,
            "low": left - twin - 0.01, "high": left - twin + 0.01, **ends("value", left), **ends("other", twin),
            **ends("half", left - twin / 2), **ends("over", left + twin / 2)}  # fmt: skip
    paid = [{"quantity": q, "subgroup": sex, "delta": 0.0, "low": -0.01, "high": 0.01}
            for q in ("tpr", "fpr", "psnr_db") for sex in plan.SEXES]  # fmt: skip
    key = {"method": "m", "weight": 1.0, "share": 0.05, "threshold": registered.THRESHOLD, "published": False}
    found = tables.repaired(pd.DataFrame([bias, *paid]).assign(**key))
    row = found.iloc[0]
    assert row["change"] == pytest.approx(says) and row["change_low"] < row["change"] < row["change_high"]
    assert row["removed"] == pytest.approx(1 - left / twin)
    told = summary.costs(found).iloc[0]
    assert told["odds bias left"].startswith(f"{left:.3f} [") and told["repair of the odds gap"].startswith(
        f"{says:.3f}"
    )
    unseen = summary.costs(found.assign(twin_bias_low=-1.0, twin_bias_high=1.0)).iloc[0]
    assert unseen["repair of the odds gap"] == "", "of a bias that was not shown none can be repaired"


def test_what_cannot_repair_is_hollow_and_every_figure_names_its_methods(made):
    table = made[0]["mitigation"].query("share > 0")
    figure = figures.pareto_figure(table, "simulated")
    lines = {bars.get_label(): bars[0].get_markerfacecolor() for ax in figure.axes for bars in ax.containers}
    assert lines["twin"] == lines["eodd, published sex code"] == "none" and lines[registered.METHOD] != "none"
    names = [label.get_text() for label in figures.levels_figure(table, "simulated").axes[0].get_yticklabels()]
    own = f"{registered.METHOD}, {registered.WEIGHT:g} (own threshold)"
    assert names[:3] == ["without the skew", "with the skew", "twin"] and own in names
    assert "threshold" in names
    assert len(figures.skew_figure(made[0]["skew"], "simulated").axes) == 4


def test_the_dose_figure_shows_every_seed_and_what_training_again_changes(made):
    skew, seeds = made[0]["skew"], made[0]["seeds"]
    both = [pd.concat([part, part.assign(way="published")]) for part in (skew, seeds)]
    figure = figures.dose_figure(*both, "simulated")
    labels = figure.axes[-1].get_legend_handles_labels()[1]
    assert labels == ["training again", "sex, by patients", "sex, by images (published)"]
    dots = [line for line in figure.axes[0].lines if line.get_marker() == "."]
    assert [len(line.get_xdata()) for line in dots] == [2, 2], "two shares, one seed"


def test_seeds_and_arm_of_a_call_change_nothing_else_of_its_recipe(root):
    asked = SimpleNamespace(recipe="registered", arm="sde", seeds=[20, 21], patients=500)
    whole = SimpleNamespace(recipe="full", arm="unet", seeds=[], patients=0)
    recipe_of = tool(root, "mitigation").recipe_of
    assert recipe_of(asked) == dataclasses.replace(plan.RECIPES["registered"], arm="sde", seeds=(20, 21), n_test=500)
    assert recipe_of(whole) == plan.RECIPES["full"]


def test_every_method_and_skew_of_the_study_has_a_name_and_the_recipes_differ_in_size_alone():
    assert {name for name, method in methods.METHODS.items() if method.published} == {
        "reweighting, published ages", "eodd, published sex code", "eodd, published sde form",
        "adversarial, published signs"}  # fmt: skip
    known = skews()
    assert {registered.PRIMARY, registered.CONTROL, registered.AGAIN} <= set(known)
    assert set(registered.SKEWS) <= {skew.name for skew in known} and set(registered.WEIGHTS) <= set(methods.METHODS)
    small, large = (dataclasses.asdict(plan.RECIPES[name]) for name in ("registered", "full"))
    sizes = {"width", "epochs", "n_train", "n_pool", "n_tune", "n_tune_pool", "n_validation", "n_test", "tune_epochs"}
    assert {key for key in small if small[key] != large[key]} <= sizes | {"seeds", "n_boot"}
