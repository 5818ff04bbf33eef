"""The door: one model in any table. However it is written the numbers are the same, and what is wrong is said."""

import json

import numpy as np
import pandas as pd
import pytest

from fairrecon_lab.auditing import command, options
from fairrecon_lab.auditing.columns import find, task_name, wide
from fairrecon_lab.auditing.masks import compared
from fairrecon_lab.auditing.reading import read_outside

N, BOOT = 160, 100


def one_table():
    """Scores of one model for two findings of 160 images of 80 patients, with people."""
    rng = np.random.default_rng(11)
    patient = np.arange(N) // 2
    frame = pd.DataFrame({"image_id": [f"img{i:04d}" for i in range(N)], "patient_id": [f"p{p:03d}" for p in patient]})
    frame["sex"] = np.where(patient % 2, "male", "female")
    frame["age"] = rng.integers(20, 90, N // 2)[patient]
    for name in ("edema", "fracture"):
        truth = rng.random(N) < 0.5
        frame[f"y_{name}"] = truth.astype(int)
        frame[f"{name}_score"] = (0.5 * rng.random(N) + 0.3 * truth + 0.1 * (patient % 2) * truth).round(4)
    return frame


W = one_table()
PEOPLE = ["image_id", "patient_id", "sex", "age"]
ONE = W[[*PEOPLE, "edema_score", "y_edema"]].rename(columns={"edema_score": "score", "y_edema": "label"})
LONG = pd.concat([W[PEOPLE].assign(task=name, score=W[f"{name}_score"], label=W[f"y_{name}"])
                  for name in ("edema", "fracture")], ignore_index=True)  # fmt: skip
SCORES, COHORT = LONG[["image_id", "task", "score"]], W[[*PEOPLE, "y_edema", "y_fracture"]]


def run(folder, *tables, capsys, arguments=()):
    """Status, what the command printed, what it complained of."""
    paths = []
    for name, table in zip(("a.csv", "b.csv"), tables):
        data = table.to_csv(index=False) if isinstance(table, pd.DataFrame) else table
        (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)
        paths.append(str(folder / name))
    try:
        status = command.main([*paths, "--n-boot", str(BOOT), *map(str, arguments)])
    except SystemExit as stop:  # argparse
        status = stop.code
    said = capsys.readouterr()
    return status, said.out, said.err


def rows(folder, *tables, capsys, arguments=()):
    """The rates of a run as a frame, its notes as one text."""
    status, out, err = run(folder, *tables, capsys=capsys, arguments=[*arguments, "--json", "-"])
    assert status == 0, err
    found = json.loads(out)
    return pd.DataFrame(found["rates"]), " ".join(found["notes"])


def figures(table):
    """What must not depend on how a table is written."""
    names = ["task", "metric", "label", "subgroup", "reference", "estimator"]
    return table.set_index(names)[["value", "ci_low", "ci_high", "p_adjusted", "n_patients"]].sort_index()


# ---------------------------------------------------------------- the same numbers however it is written
def marked(score, label, table=W):
    """The wide table with other names of columns."""
    names = {f"{task}_score": score.format(task) for task in ("edema", "fracture")}
    return table.rename(columns=names | {f"y_{task}": label.format(task) for task in ("edema", "fracture")})


FORMS = {
    "long": (LONG,),
    "two tables": (SCORES, COHORT),
    "labels beside the scores": (LONG[["image_id", "task", "score", "label"]], W[PEOPLE]),
    "a row a patient": (LONG[["image_id", "patient_id", "task", "score", "label"]],
                        W[["patient_id", "sex", "age"]].drop_duplicates()),
    "patients beside the scores": (LONG[["image_id", "patient_id", "task", "score"]],
                                   COHORT.drop(columns="patient_id")),
    "wide": (W,),
    "wide, other words": (marked("prob_{}", "{} label"),),
    "wide, labels of a plain name": (marked("{}-probability", "{}"),),
    "wide, scores of a plain name": (marked("{}", "{}_true"),),
    "wide scores, wide labels of the same names": (
        marked("{}", "y_{}")[["image_id", "edema", "fracture"]],
        marked("score_{}", "{}")[[*PEOPLE, "edema", "fracture"]]),
    "labels as a long table": (SCORES, LONG.drop(columns="score")),
    "other names": (LONG.rename(columns={"image_id": "Image Index", "patient_id": "Patient ID", "sex": "Gender",
                                         "task": "Finding", "score": "y_prob", "label": "Ground Truth"}),),
    "spelt otherwise": (LONG.rename(columns={"image_id": "IMAGE-ID", "patient_id": "patientid", "score": " Score ",
                                             "label": "Target", "task": "disease"}),),
    "labels as words": (LONG.assign(label=np.where(LONG["label"] == 1, "Y", "N")),),
    "labels pos and neg": (LONG.assign(label=np.where(LONG["label"] == 1, "pos", "neg")),),
    "other rows": (LONG.sample(frac=1, random_state=1),),
    "a split, all of it holdout": (LONG.assign(split="Holdout"),),
    "an arm that is one": (LONG.assign(model="densenet"),),
}  # fmt: skip


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    from fairrecon_lab.auditing.single import audit_single

    cohort, scores = COHORT.assign(age=COHORT["age"] // 30), SCORES
    return figures(audit_single(scores, cohort, "sex", n_boot=BOOT))


@pytest.mark.parametrize("form", FORMS)
def test_the_form_of_a_table_changes_no_number(form, plain, tmp_path, capsys):
    found, notes = rows(tmp_path, *FORMS[form], capsys=capsys)
    pd.testing.assert_frame_equal(figures(found), plain, check_dtype=False, rtol=1e-9)
    assert form not in ("wide", "other names") or ("findings" in notes or "image = 'Image Index'" in notes)


def test_logits_are_the_same_scores(tmp_path, capsys, plain):
    logit = np.log(LONG["score"].clip(1e-9) / (1 - LONG["score"]))
    found, notes = rows(tmp_path, LONG.assign(score=logit), capsys=capsys, arguments=["--logits"])
    pd.testing.assert_frame_equal(figures(found), plain, check_dtype=False, rtol=1e-6)
    assert "logits, 1 / (1 + exp(-x)) taken first" in notes


def test_names_that_nobody_knows_are_told_by_options(tmp_path, capsys, plain):
    same = lambda told: pd.testing.assert_frame_equal(
        figures(rows(tmp_path, odd, capsys=capsys, arguments=told)[0]), plain, check_dtype=False, rtol=1e-9
    )
    odd = LONG.rename(columns={"image_id": "a", "patient_id": "b", "task": "c", "score": "d", "label": "e"})
    same(["--id", "a", "--patient", "b", "--task", "c", "--score", "d", "--label", "e"])
    names = {"edema_score": "one", "fracture_score": "two", "y_edema": "edema", "y_fracture": "fracture"}
    odd = W.rename(columns=names)
    same(["--score", "one", "two", "--label", "edema", "fracture"])


# ---------------------------------------------------------------- what is assumed is said, and right
def test_uncertain_labels_follow_the_policy_and_are_said(tmp_path, capsys):
    doubt = ONE.assign(label=np.where(np.arange(N) < 20, -1, ONE["label"]))
    for policy, same, word in (("missing", "", "missing"), ("positive", 1, "1"), ("negative", 0, "0")):
        label = np.where(np.arange(N) < 20, same, ONE["label"].astype(object))
        found, notes = rows(tmp_path, doubt, capsys=capsys, arguments=["--uncertain", policy])
        expected, _ = rows(tmp_path, ONE.assign(label=label), capsys=capsys)
        pd.testing.assert_frame_equal(figures(found), figures(expected))
        assert f"20 of 160 labels are uncertain, '-1': read as {word}" in notes


def test_ages_are_cut_at_tertiles_of_patients_or_at_given_edges(tmp_path, capsys):
    found, notes = rows(tmp_path, ONE, capsys=capsys, arguments=["--attribute", "age"])
    ages = ONE.drop_duplicates("patient_id")["age"]
    names = list(dict.fromkeys(found["subgroup"][found["subgroup"] != ""]))
    assert len(names) == 3 and "tertiles of patients" in notes
    low, high = (int(next(name for name in names if name.startswith(mark)).lstrip("<>=")) for mark in ("<", ">="))
    shares = [np.mean(ages < low), np.mean((ages >= low) & (ages < high)), np.mean(ages >= high)]
    assert max(abs(share - 1 / 3) for share in shares) < 0.06
    found, notes = rows(tmp_path, ONE, capsys=capsys, arguments=["--attribute", "age", "--bins", "age=40,60"])
    n = found[(found["metric"] == "brier") & (found["reference"] == "") & (found["subgroup"] != "")]
    expected = {"<40": (ages < 40).sum(), "40 to <60": ((ages >= 40) & (ages < 60)).sum(), ">=60": (ages >= 60).sum()}
    assert n.set_index("subgroup")["n_patients"].to_dict() == expected and "age is cut at 40 and 60" in notes


@pytest.mark.parametrize("age", ["{:03d}Y", "{} years", "{}", "{}.0"])
def test_ages_may_be_written_as_dicom_writes_them(age, tmp_path, capsys):
    told = ["--attribute", "age", "--bins", "age=50"]
    written = ONE.assign(age=[age.format(value) for value in ONE["age"]])
    one, other = (rows(tmp_path, table, capsys=capsys, arguments=told)[0] for table in (written, ONE))
    pd.testing.assert_frame_equal(figures(one), figures(other))


def test_few_codes_stay_groups_and_bins_none_keeps_more(tmp_path, capsys):
    coded = ONE.assign(site=np.arange(N) // 2 % 4, room=np.arange(N) // 2 % 10)
    found, _ = rows(tmp_path, coded, capsys=capsys, arguments=["--attribute", "site"])
    assert set(found["subgroup"]) == {"", "0", "1", "2", "3"}
    found, notes = rows(tmp_path, coded, capsys=capsys, arguments=["--attribute", "room"])
    assert len(set(found["subgroup"])) == 4 and "room has 10 values" in notes
    found, _ = rows(tmp_path, coded, capsys=capsys,
                    arguments=["--attribute", "room", "--bins", "room=none", "--min-support", 5])  # fmt: skip
    assert set(found["subgroup"]) == {"", *map(str, range(10))}


def test_several_attributes_crossed_ones_and_all_pairs(tmp_path, capsys):
    told = ["--attribute", "sex", "age", "--cross", "sex,age", "--bins", "age=50", "--min-support", 3]
    found, _ = rows(tmp_path, ONE, capsys=capsys, arguments=told)
    assert set(found["attribute"]) == {"sex", "age", "sex & age"}
    assert "female & <50" in set(found["subgroup"])
    told = ["--attribute", "age", "--reference", "all-pairs"]
    found, _ = rows(tmp_path, ONE, capsys=capsys, arguments=told)
    pairs = found[(found["metric"] == "tpr") & (found["reference"] != "")]
    assert len({frozenset(pair) for pair in zip(pairs["subgroup"], pairs["reference"])}) == 3


def test_without_patients_it_says_so_at_the_top_and_without_ids_rows_are_images(tmp_path, capsys):
    status, out, _ = run(tmp_path, ONE.drop(columns=["patient_id", "image_id"]), capsys=capsys)
    assert status == 0 and out.splitlines()[1].startswith("NO PATIENTS KNOWN") and f"{N} of {N} patients" in out
    assert "every row is an image" in out
    status, out, _ = run(tmp_path, ONE, capsys=capsys)
    assert "NO PATIENTS" not in out and f"{N // 2} of {N // 2} patients" in out


def test_a_hurried_file_is_answered_and_what_was_taken_is_said(tmp_path, capsys):
    hurried = ONE.rename(
        columns={"patient_id": "Patient ID", "age": "Age (years)", "sex": "Gender", "score": "edema prob"}
    )
    hurried["Edema (Y/N)"] = np.where(hurried.pop("label") == 1, "Y", "N")
    table, text = rows(tmp_path, hurried, capsys=capsys, arguments=["--attribute", "sex", "age"])
    plain, _ = rows(tmp_path, ONE, capsys=capsys, arguments=["--attribute", "sex", "age"])
    np.testing.assert_array_equal(table["value"], plain["value"])
    assert set(table["task"]) == {"Edema"}
    assert "label 'Edema (Y/N)'" in text and set(table["attribute"]) == {"Gender", "Age (years)"}


def test_the_only_labels_are_the_label_whatever_they_are_called(tmp_path, capsys):
    table, text = rows(tmp_path, OWN, capsys=capsys)
    plain, _ = rows(tmp_path, ONE, capsys=capsys)
    np.testing.assert_array_equal(table["value"], plain["value"])
    assert set(table["task"]) == {"edema"}
    assert "label = 'edema', the only column of labels" in text


def test_splits_are_understood_or_refused(tmp_path, capsys):
    split = np.where(np.arange(N) // 2 < 30, "Dev", np.where(np.arange(N) // 2 < 40, "Training", "hold-out"))
    status, out, _ = run(tmp_path, ONE.assign(split=split), capsys=capsys)
    assert status == 0 and out.startswith("Audited 40 of 80 patients") and "'Dev' as validation" in out
    status, _, err = run(tmp_path, ONE.assign(split=np.where(np.arange(N) < 9, "extra", split)), capsys=capsys)
    assert status == 2 and "'extra'" in err and "row 2" in err and "there are" in err and "validation" in err


def test_empty_scores_of_a_wide_table_are_counted(tmp_path, capsys):
    holes = W.assign(edema_score=W["edema_score"].where(np.arange(N) >= 7))
    _, notes = rows(tmp_path, holes, capsys=capsys)
    assert "edema_score: 7 of 160 scores are empty" in notes


# ---------------------------------------------------------------- measures and masks
def test_any_numbers_of_images_are_measures_with_their_units(tmp_path, capsys):
    rng = np.random.default_rng(2)
    seconds = rng.gamma(4, 2, N) + 4 * (W["sex"] == "male")
    table = W[PEOPLE].assign(Seconds=seconds, hd95=rng.gamma(3, 1, N))
    told = ["--value", "seconds:s:2", "hd95:mm:1.5"]
    found, _ = rows(tmp_path, table, capsys=capsys, arguments=told)
    own = found[(found["metric"] == "Seconds") & (found["reference"] == "")].set_index("subgroup")
    by_patient = table.groupby(["sex", "patient_id"])["Seconds"].mean().groupby("sex").mean()
    assert own.loc["male", "value"] == pytest.approx(by_patient["male"]) and set(own["unit"]) == {"s"}
    gap = found[(found["metric"] == "Seconds") & (found["reference"] != "")].iloc[0]
    assert gap["verdict"] == "different" and gap["margin"] == 2
    assert set(found["unit"]) == {"s", "mm"}


def test_measures_of_two_arms_are_compared(tmp_path, capsys):
    rng = np.random.default_rng(2)
    base = W[PEOPLE].assign(arm="clean", error=rng.gamma(4, 1, N))
    slow = base.assign(arm="fast", error=base["error"] + 3 * (W["sex"] == "male") + 0.1 * rng.random(N))
    status, out, err = run(tmp_path, pd.concat([base, slow]), capsys=capsys,
                           arguments=["--value", "error:mm:1", "--out", tmp_path / "t.csv"])  # fmt: skip
    assert status == 0, err
    changes = pd.read_csv(tmp_path / "t.csv").query("metric == 'error' and reference == reference and subgroup != ''")
    assert len(changes) == 1 and abs(changes["delta"].iloc[0]) == pytest.approx(3, abs=0.1)
    assert changes["unit"].iloc[0] == "mm" and changes["verdict"].iloc[0] == "changed"
    assert "error" in pd.read_csv(tmp_path / "t_rates.csv")["metric"].to_numpy() and "mm" in out


def test_surface_distances_are_those_of_two_squares():
    one, two = np.zeros((2, 40, 40), bool)
    one[10:20, 10:20], two[10:20, 13:23] = True, True
    found = compared(one, two)
    assert found["dice"] == pytest.approx(2 * 70 / 200) and found["hd95"] == pytest.approx(3)
    rolled = lambda mask: [np.roll(mask, step, axis) for step in (1, -1) for axis in (0, 1)]
    edge = lambda mask: np.argwhere(mask & ~np.logical_and.reduce(rolled(mask)))
    apart = np.sqrt(((edge(one)[:, None] - edge(two)[None]) ** 2).sum(-1))
    assert found["surface"] == pytest.approx(np.concatenate([apart.min(0), apart.min(1)]).mean())
    scaled = compared(one, two, spacing=(0.5, 2.0))
    apart = np.sqrt((((edge(one)[:, None] - edge(two)[None]) * [0.5, 2.0]) ** 2).sum(-1))
    assert scaled["surface"] == pytest.approx(np.concatenate([apart.min(0), apart.min(1)]).mean())
    empty = np.zeros_like(one)
    assert compared(empty, empty)["dice"] == 1 and np.isnan(compared(empty, empty)["hd95"])
    assert compared(one, empty)["dice"] == 0 and np.isnan(compared(one, empty)["hd95"])


def masks(folder, kind, n=40):
    """Predicted and true squares of n images; those of men are shifted."""
    for name in ("predicted", "true"):
        (folder / name).mkdir()
    for i in range(n):
        for name, shift in (("predicted", 2 * (i // 2 % 2)), ("true", 0)):
            mask = np.zeros((24, 24), np.uint8)
            mask[6:14, 6 + shift : 14 + shift] = 255
            if kind == "png":
                from PIL import Image

                Image.fromarray(mask).save(folder / name / f"im{i}.png")
            else:
                nibabel = pytest.importorskip("nibabel")
                affine = np.diag([0.5, 0.5, 2, 1])
                nibabel.save(nibabel.Nifti1Image(mask[..., None], affine), folder / name / f"im{i}.nii.gz")
    sex = np.where(np.arange(n) // 2 % 2, "male", "female")
    return pd.DataFrame({"image": [f"im{i}" for i in range(n)], "pid": np.arange(n) // 2, "sex": sex})


@pytest.mark.parametrize("kind, unit, shift", [("png", "px", 2), ("nifti", "mm", 1)])
def test_masks_in_two_folders_are_measured_and_audited(kind, unit, shift, tmp_path, capsys):
    pytest.importorskip("PIL")
    people = masks(tmp_path, kind)
    told = ["--masks", tmp_path / "predicted", tmp_path / "true"]
    found, notes = rows(tmp_path, people, capsys=capsys, arguments=told)
    own = found[found["reference"] == ""].set_index(["metric", "subgroup"])["value"]
    assert own["dice", "female"] == pytest.approx(1) and own["dice", "male"] == pytest.approx(2 * 48 / 128)
    assert own[f"hd95_{unit}", "male"] == pytest.approx(shift) and f"distances in {unit}" in notes


# ---------------------------------------------------------------- the screen, files, JSON
def test_the_screen_leads_with_rates_and_is_one_screen(tmp_path, capsys):
    status, out, _ = run(tmp_path, W, capsys=capsys, arguments=["--attribute", "sex", "age", "--cross", "sex,age"])
    lines = out.splitlines()
    assert status == 0 and len(lines) <= 45 and max(map(len, lines[:30])) <= 250
    assert lines[0].startswith("Audited 80 of 80 patients") and "rates by" in lines[2] and "TPR" in lines[3]
    assert any(line.startswith("Gaps of tpr and fpr") for line in lines)


def test_two_arms_have_their_changes_after_the_rates_at_the_same_thresholds(tmp_path, capsys):
    arms = pd.concat([ONE.assign(arm="clean"), ONE.assign(arm="unet", score=ONE["score"] * 0.8)])
    status, out, err = run(tmp_path, arms, capsys=capsys, arguments=["--out", tmp_path / "t.csv"])
    assert status == 0, err
    assert (
        out.index("rates by sex") < out.index("Gaps of") < out.index("Audit of 'cohort' by sex: unet@1 against clean")
    )
    change, rates = pd.read_csv(tmp_path / "t.csv"), pd.read_csv(tmp_path / "t_rates.csv")
    for arm, column in (("clean", "baseline"), ("unet", "value")):
        one = change.query("metric == 'tpr' and reference != reference and arm == 'unet' and subgroup == subgroup")
        two = rates.query(f"metric == 'tpr' and reference != reference and arm == '{arm}' and subgroup == subgroup")
        pairs = one.set_index("subgroup")[column], two.set_index("subgroup")["value"]
        pd.testing.assert_series_equal(*pairs, check_names=False, rtol=1e-9)


def test_json_has_everything_and_no_nan(tmp_path, capsys):
    target = tmp_path / "out.json"
    status, out, _ = run(tmp_path, ONE, capsys=capsys, arguments=["--json", target])
    found = json.loads(target.read_text(), parse_constant=lambda word: pytest.fail(word))
    assert status == 0 and "JSON written to" in out
    assert {"version", "packages", "audited", "choices", "columns", "notes", "rates", "changes"} <= set(found)
    assert found["choices"]["n_boot"] == BOOT and found["changes"] == []
    assert found["bounds"] == found["search"] == []


def test_the_words_of_the_options_are_those_of_the_core():
    from fairrecon_core.audit.thresholds import POLICIES, RULES

    assert options.POLICIES.split(", ") == list(POLICIES) and options.RULES.split(", ") == list(RULES)


# ---------------------------------------------------------------- names
@pytest.mark.parametrize("name, task", [("y_edema", "edema"), ("Pleural Effusion Label", "Pleural_Effusion"),
                                        ("edema", "edema"), ("label", "finding"), ("y_true", "finding"),
                                        ("gt_mass", "mass")])  # fmt: skip
def test_the_task_is_the_name_without_its_mark(name, task):
    assert task_name(name) == task


def test_a_doubtful_name_needs_the_values_of_its_role(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("id,disease,finding,prob\n1,0,edema,0.5\n2,1,mass,0.25\n")
    frame = read_outside(path)
    assert find(frame, "label") == "disease" and find(frame, "task") == "finding" and find(frame, "score") == "prob"
    assert wide(frame, frame, ["id", "prob"]) == ({}, [])


# ---------------------------------------------------------------- what is refused: one line with the way out
def changed(frame, row, **values):
    frame = frame.astype(object)
    for name, value in values.items():
        frame.loc[row, name] = value
    return frame


OWN = ONE.drop(columns="label").assign(edema=ONE["label"])  # the label is called as the finding
TWICE = pd.concat([ONE, ONE.iloc[[3]]], ignore_index=True)
TWO_MINDS = pd.concat(
    [LONG.assign(arm="a"), changed(LONG, 5, label=1 - LONG["label"][5]).assign(arm="b")], ignore_index=True
)
FAULTS = {  # name: (tables, options, words of the line)
    "a score of 1.5": ((changed(ONE, 4, score=1.5),), (), "a.csv row 6, column 'score': 1.5 should be a probability"),
    "logits": ((ONE.assign(score=ONE["score"] * 8 - 4),), (), "say --logits"),
    "probabilities as logits": ((ONE,), ("--logits",), "look like probabilities: leave --logits out"),
    "an infinite logit": ((changed(ONE.assign(score=ONE["score"] * 8 - 4), 3, score="inf"),), ("--logits",),
                          "a.csv row 5, column 'score': inf is no logit"),
    "percents": ((ONE.assign(score=ONE["score"] * 100),), (), "divide percents by 100"),
    "a wide score of 1.5": ((changed(W, 4, fracture_score=1.5),), (), "a.csv row 6, column 'fracture_score': 1.5"),
    "a word in a wide score": ((changed(W, 4, edema_score="high"),), (), "a.csv row 6, column 'edema_score': 'high'"),
    "a comma that may be two things": ((W.assign(edema_score='1,234'),), (), "a.csv row 2, column 'edema_score'"),
    "empty scores": ((ONE.assign(score=""),), (), "column 'score' is empty"),
    "an empty score": ((changed(ONE, 4, score=""),), (), "1 of 160 values of"),
    "a label of 2": ((changed(ONE, 4, label=2),), (), "a.csv row 6"),
    "a wide label of 2": ((changed(W, 4, y_edema=2),), (), "a.csv row 6, column 'y_edema'"),
    "a label as maybe": ((changed(ONE, 4, label="maybe"),), (), "found 'maybe' (a.csv row 6"),
    "scores as labels": ((ONE.assign(label=ONE["score"]),), (), "should be 0, 1 or empty"),
    "a label in two minds": ((TWO_MINDS,), (), "one image has one value"),
    "an image of two sexes": ((changed(LONG, 5, sex="female" if LONG["sex"][5] == "male" else "male"),), (),
                              "image 'img0005' has"),
    "an image of two patients": ((changed(LONG, 5, patient_id="p070"),), (), "image 'img0005' has"),
    "a row twice": ((TWICE,), (), "a.csv row 162"),
    "an empty image id": ((changed(ONE, 4, image_id=""),), (), "a.csv row 6"),
    "an empty patient": ((changed(ONE, 4, patient_id=""),), (), "no patient_id, e.g. a.csv row 6"),
    "a long table without ids": ((LONG.drop(columns="image_id"),), (), "say --id COLUMN"),
    "two columns of images": ((ONE.rename(columns={"image_id": "image"}).assign(dicom="x"),), (),
                              "columns 'image', 'dicom' could all be the image: say --id"),
    "two columns of patients": ((ONE.rename(columns={"patient_id": "pid"}).assign(subject=1),), (), "say --patient"),
    "two columns of scores": ((ONE.rename(columns={"score": "prob"}).assign(probability=0.5),), (), "say --score"),
    "two labels": ((ONE.rename(columns={"label": "target"}).assign(truth=1),), (), "say --label"),
    "two wide scores of a finding": ((W.assign(edema_prob=0.5),), (), "could all be the score of 'edema'"),
    "two wide labels of a finding": ((W.rename(columns={"y_edema": "edema_label"}).assign(edema_true=1),), (),
                                     "could all be the label of 'edema'"),
    "scores without labels": ((W.drop(columns=["y_edema", "y_fracture"]),), (), "no labels for them"),
    "a score without a label": ((ONE.drop(columns="label"),), (), "say --label COLUMN"),
    "labels without scores": ((W[[*PEOPLE, "y_edema"]],), (), "nothing to audit in columns"),
    "one score, two findings": ((W[[*PEOPLE, "y_edema", "y_fracture"]].assign(score=0.5),), (),
                                "the results lack 'task'"),
    "a column that is not there": ((ONE,), ("--score", "logit9"), "a.csv has no column 'logit9' (--score)"),
    "a patient column that is not there": ((ONE,), ("--patient", "mrn"), "a.csv has no column 'mrn' (--patient)"),
    "an attribute that is not there": ((ONE,), ("--attribute", "race"), "no attribute ['race']; its columns are"),
    "a score more than labels": ((W,), ("--score", "edema_score", "fracture_score", "--label", "y_edema"),
                                 "--score names 2 columns, --label 1"),
    "names of people as groups": ((ONE,), ("--attribute", "patient_id"), "column 'patient_id'"),
    "one group": ((ONE.assign(sex="female"),), (), "attribute 'sex' has 1 subgroup(s)"),
    "an age as a word": ((changed(ONE, 4, age="old"),), ("--attribute", "age"), "a.csv row 6, column 'age': 'old'"),
    "bins of words": ((ONE,), ("--bins", "sex=1,2"), "is no number"),
    "bins of another column": ((ONE,), ("--bins", "age=40"), "--bins age: no such attribute is audited"),
    "falling bins": ((ONE,), ("--bins", "age=60,40"), "is not COLUMN=EDGES with rising numbers"),
    "bins of nothing": ((ONE,), ("--bins", "age="), "is not COLUMN=EDGES"),
    "a split word": ((ONE.assign(split="outside"),), (), "there are ['outside']"),
    "an unknown rule": ((ONE,), ("--rule", "best"), "unknown rule 'best'"),
    "an unknown reference": ((ONE,), ("--reference", "men"), "no reference subgroup 'men'"),
    "arms of a table without": ((ONE,), ("--arms", "unet"), "the results have no arms"),
    "a baseline that is not there": ((ONE.assign(arm="a"),), ("--baseline", "b"), "no results of arm 'b'"),
    "a measure that is not there": ((ONE,), ("--value", "seconds:s:2"), "has no column 'seconds' (--value)"),
    "a measure of words": ((ONE.assign(seconds="slow"),), ("--value", "seconds:s:2"), "a.csv row 2, column 'seconds'"),
    "a measure without a margin": ((W[PEOPLE].assign(seconds=1.5),), ("--value", "seconds"),
                                   "--value seconds:unit:margin"),
    "a margin as a word": ((ONE,), ("--value", "seconds:s:some"), "is not NAME:unit:margin"),
    "masks that are not there": ((W[PEOPLE],), ("--masks", "nowhere", "neither"), "no folder nowhere"),
    "two tables of one patient": ((LONG[["image_id", "patient_id", "task", "score", "label"]],
                                   W[["patient_id", "sex"]]), (), "b.csv row 3: patient 'p000' occurs twice"),
    "a patient that is not there": ((LONG[["image_id", "patient_id", "task", "score", "label"]],
                                     W[["patient_id", "sex"]].drop_duplicates().iloc[1:]), (),
                                    "a.csv row 2: patient 'p000' is not in b.csv"),
    "no images in the second": ((SCORES, COHORT.drop(columns="image_id")), (), "the cohort lacks 'image_id'"),
    "a stranger": ((changed(SCORES, 3, image_id="nobody"), COHORT), (), "'nobody' (a.csv row 5)"),
    "two findings without a mark": ((OWN.assign(fracture=1),), (), "'edema', 'fracture' could all be"),
    "a 2 in the only labels": ((changed(OWN, 7, edema=2),), (), "found 2.0 (a.csv row 9, column 'edema')"),
    "a maybe in the only labels": ((changed(OWN, 7, edema="maybe"),), (), "found 'maybe' (a.csv row 9"),
    "a sum at the end": ((changed(OWN, 160, image_id="Total", patient_id="", edema=71),), (), "a.csv row 162"),
    "the score as an attribute": ((OWN,), ("--attribute", "score"), "column 'score' is the score, no attribute"),
    "a patient as an attribute": ((OWN.rename(columns={"patient_id": "Subject"}),), ("--attribute", "subject"),
                                  "column 'Subject' names people"),
    "two ages": ((ONE.assign(**{"Age (y)": 1, "AGE": 2}).drop(columns="age"),), ("--attribute", "age"),
                 "columns 'Age (y)', 'AGE' could all be 'age'"),
    "an age below zero": ((changed(ONE, 4, age=-3),), ("--attribute", "age"), "a.csv row 6, column 'age': -3 is no"),
    "a title": (("Export of May,,,\nimage_id,sex,score,label\n1,f,.5,1\n",), (), "row 1 names 1 of 4 columns"),
    "JSON": (('[{"image_id": 1, "score": 0.5}]\n',), (), "a.csv is JSON"),
    "a header twice": (("image_id,sex,sex,score,label\n1,f,m,.5,1\n",), (), "names column 'sex' twice"),
    "half a spreadsheet": ((b"PK\x03\x04" + bytes(90),), (), "a.csv is a spreadsheet or a zip archive"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_table_is_refused_in_one_line_with_the_way_out(name, tmp_path, capsys):
    tables, told, words = FAULTS[name]
    status, out, err = run(tmp_path, *tables, capsys=capsys, arguments=told)
    line = err.strip().splitlines()[-1]
    assert status == 2 and out == "" and words in line and "error: " in line and len(line) < 800, err
    assert "Traceback" not in err and ("usage:" in err or err.count("\n") == 1)
    assert any(where in line for where in ("a.csv", "b.csv", "argument --", "folder nowhere"))


@pytest.mark.parametrize("fault, words", [
    ("lone", "has no partner"), ("shape", "resample one to the other"), ("values", "a mask has two, 0 and another"),
    ("damaged", "cannot be read"), ("mixed", "im0.nii.gz and im0.png"), ("stranger", "not in the cohort"),
])  # fmt: skip
def test_faulty_masks_are_refused_with_their_file(fault, words, tmp_path, capsys):
    from PIL import Image

    people = masks(tmp_path, "png", n=4)
    first = tmp_path / "predicted" / "im0.png"
    if fault == "lone":
        first.unlink()
    elif fault == "shape":
        Image.fromarray(np.zeros((9, 9), np.uint8)).save(first)
    elif fault == "values":
        Image.fromarray(np.arange(24 * 24).reshape(24, 24).astype(np.uint8)).save(first)
    elif fault == "damaged":
        first.write_bytes(first.read_bytes()[:40])
    elif fault == "mixed":
        (tmp_path / "predicted" / "im0.nii.gz").write_bytes(b"")
    else:
        people = people.iloc[1:]
    told = ["--masks", tmp_path / "predicted", tmp_path / "true"]
    status, out, err = run(tmp_path, people, capsys=capsys, arguments=told)
    assert status == 2 and out == "" and words in err and err.count("\n") == 1 and "im0" in err, err
