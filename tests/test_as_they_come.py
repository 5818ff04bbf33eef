"""Files as they come: the same people however a table is written, and what could be read two ways refused in a line."""

import gzip
import io
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairrecon_core.audit import audit_change
from fairrecon_core.audit.matching import match
from fairrecon_core.audit.thresholds import UNKNOWN_WORDS, as_groups
from fairrecon_lab.auditing import command
from fairrecon_lab.auditing.reading import people, read_outside
from fairrecon_lab.cli import number_or_yaml

N, BOOT = 120, 100
FEW = settings(max_examples=12, deadline=None, derandomize=True)


def two_tables(n=N):
    """Two arms of one task; the U-Net misses the findings of women; every second image is of the same patient."""
    rng = np.random.default_rng(3)
    ids = [f"img{i:04d}" for i in range(n)]
    sex = np.where(np.arange(n) // 2 % 2, "male", "female")
    truth = rng.random(n) < 0.5
    clean = (0.3 * rng.random(n) + 0.5 * truth).round(4)
    unet = np.where((sex == "female") & truth, clean - 0.5, clean).round(4).clip(0)
    cohort = pd.DataFrame({"image_id": ids, "patient_id": [f"p{i // 2:03d}" for i in range(n)], "sex": sex})
    cohort["y_edema"] = truth.astype(int)
    parts = [pd.DataFrame({"image_id": ids, "arm": arm, "task": "edema", "score": score})
             for arm, score in (("clean", clean), ("unet", unet))]  # fmt: skip
    return pd.concat(parts, ignore_index=True), cohort


P, C = two_tables()
QUALITY = P[["image_id", "arm"]].assign(psnr_db=np.where(P["arm"] == "unet", 31.5, 30.0) + P["score"])


def audit(predictions, cohort, **options):
    options = {"thresholds": 0.5, "n_boot": BOOT} | options
    return audit_change(predictions, cohort, "sex", **options).drop(columns="attribute")


def run(folder, predictions, cohort, *options, capsys):
    """The shell command in this process: status, what it printed, what it complained of."""
    paths = []
    for name, table in (("p.csv", predictions), ("c.csv", cohort)):
        path = folder / name
        data = table.to_csv(index=False) if isinstance(table, pd.DataFrame) else table
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        paths.append(str(path))
    try:
        status = command.main([*paths, "--n-boot", str(BOOT), *map(str, options)])
    except SystemExit as stop:  # argparse
        status = stop.code
    said = capsys.readouterr()
    return status, said.out, said.err


def number(table, metric="tpr"):
    row = table[(table["metric"] == metric) & (table["reference"] != "")]
    return row["delta"].iloc[0], row["subgroup"].iloc[0], row["n_patients"].iloc[0]


# ---------------------------------------------------------------- laws: how a table is written changes no number
@FEW
@given(st.randoms(use_true_random=False))
def test_the_order_of_rows_and_columns_changes_no_number(random):
    def shuffled(frame):
        rows, columns = list(range(len(frame))), list(frame.columns)
        random.shuffle(rows)
        random.shuffle(columns)
        return frame.iloc[rows][columns]

    pd.testing.assert_frame_equal(audit(shuffled(P), shuffled(C)), audit(P, C))


@FEW
@given(st.permutations(["a", "B", "07", "7", "NA", "None", "Māori", "0", "ß", "x y"]))
def test_new_names_of_groups_change_no_number(names):
    new = dict(zip(("female", "male"), names))
    table, plain = audit(P, C.assign(sex=C["sex"].map(new))), audit(P, C)
    one, other = (t[t["metric"] == "tpr"].set_index(["subgroup", "reference"])["delta"] for t in (table, plain))
    for (subgroup, reference), delta in other.items():
        key = (new.get(subgroup, ""), new.get(reference, ""))
        flipped = one.get(key, -one.get(key[::-1], np.nan))
        assert flipped == pytest.approx(delta, abs=1e-12)


@FEW
@given(st.sampled_from(["{}", "{:03d}", " {}", "{} ", "{:07d}", "A{}", "{}.10", "1.{:02d}"]))
def test_the_spelling_of_ids_changes_no_number(form):
    new = {name: form.format(i) for i, name in enumerate(C["image_id"])}
    people_ = {name: form.format(i) for i, name in enumerate(C["patient_id"].unique())}
    cohort = C.assign(image_id=C["image_id"].map(new), patient_id=C["patient_id"].map(people_))
    assert number(audit(P.assign(image_id=P["image_id"].map(new)), cohort)) == number(audit(P, C))


CASTS = {
    "category": lambda values: values.astype("category"),
    "object": lambda values: values.astype(object),
    "string": lambda values: values.astype("string"),
    "arrow": lambda values: values.astype("string[pyarrow]"),
}


@pytest.mark.parametrize("cast", CASTS.values(), ids=CASTS)
def test_the_type_of_a_text_column_changes_no_number(cast):
    texts = lambda frame: frame.assign(**{name: cast(frame[name]) for name in frame if frame[name].dtype == "str"})
    pd.testing.assert_frame_equal(audit(texts(P), texts(C)), audit(P, C))


@pytest.mark.parametrize("kind", ["Int64", "Float64", "boolean", "object", "str", "category", "float32"])
def test_the_type_of_a_column_of_numbers_changes_no_number(kind):
    labels = C["y_edema"].astype(bool if kind == "boolean" else "int64").astype(kind)
    scores = P["score"].astype(kind if kind in ("Float64", "object", "str", "category") else "float64")
    pd.testing.assert_frame_equal(audit(P.assign(score=scores), C.assign(y_edema=labels)), audit(P, C))


def test_numbers_as_ids_are_the_same_people_as_their_texts():
    image, patient = P["image_id"].str[3:].astype(int), C["patient_id"].str[1:].astype(float)
    cohort = C.assign(image_id=C["image_id"].str[3:].astype(int).astype(str), patient_id=patient)
    assert number(audit(P.assign(image_id=image), cohort)) == number(audit(P, C))


ENCODINGS = {
    "utf-8": lambda text: text.encode(), "with a mark": lambda text: text.encode("utf-8-sig"),
    "utf-16": lambda text: text.encode("utf-16"), "utf-16 without a mark": lambda text: text.encode("utf-16-le"),
    "utf-32": lambda text: text.encode("utf-32"), "cp1252": lambda text: text.encode("cp1252"),
    "gzip": lambda text: gzip.compress(text.encode()), "semicolons": lambda text: text.replace(",", ";").encode(),
    "tabs": lambda text: text.replace(",", "\t").encode(), "CRLF": lambda text: text.replace("\n", "\r\n").encode(),
    "CR": lambda text: text.replace("\n", "\r").encode(),
    "quotes": lambda text: text.replace("0,", '"0",').encode(),
    "blank lines": lambda text: ("\n\n" + text.replace("\n", "\n\n")).encode(),
    "decimal commas": lambda text: text.replace(",", ";").replace("0.", "0,").encode(),
    "blanks around": lambda text: text.replace(",", " , ").encode(),
}  # fmt: skip


@pytest.mark.parametrize("encode", ENCODINGS.values(), ids=ENCODINGS)
def test_the_encoding_of_a_file_changes_no_number(encode, tmp_path, capsys):
    names = C.assign(sex=C["sex"].map({"female": "für", "male": "man"}))
    plain = run(tmp_path, P, names, capsys=capsys)
    status, out, _ = run(tmp_path, encode(P.to_csv(index=False)), encode(names.to_csv(index=False)), capsys=capsys)
    body = lambda text: [line for line in text.splitlines() if not line.startswith("Note: ")]
    assert status == 0 == plain[0] and body(out) == body(plain[1])


# ---------------------------------------------------------------- right numbers where there was a wrong one
def test_leading_zeros_keep_patients_apart(tmp_path, capsys):
    patients = ["7", "07", "007", "0007"] * (N // 4)
    cohort = C.assign(patient_id=[f"{'0' * (i % 3)}{1 + i // 3}" for i in range(N)])
    assert len(set(patients)) == 4
    status, out, _ = run(tmp_path, P, cohort, capsys=capsys)
    assert status == 0 and out.startswith(f"Audited {N} of {N} patients, {N} of {N} images of c.csv")


def test_a_group_called_na_is_a_group_and_said(tmp_path, capsys):
    status, out, _ = run(tmp_path, P, C.replace({"sex": {"female": "NA", "male": "None"}}), capsys=capsys)
    assert status == 0 and "None" in out and f"sex: 'NA' ({N // 2}), 'None' ({N // 2}) is a group" in out
    status, _, err = run(tmp_path, P, C.replace({"sex": {"female": "NA"}}), "--map", "NA=unknown", capsys=capsys)
    assert status == 2 and "attribute 'sex' has 1 subgroup(s) ['male']" in err


@pytest.mark.parametrize("word", ["Unknown", "unk", "not reported", "N/A", "999", " ", "NaN", "prefer not to say"])
def test_words_for_unknown_are_in_no_subgroup_and_counted(word, tmp_path, capsys):
    cohort = C.assign(sex=np.where(np.arange(N) < 40, word, C["sex"]))
    status, out, _ = run(tmp_path, P, cohort, capsys=capsys)
    assert status == 0 and out.startswith(f"Audited 40 of 60 patients, 80 of {N} images")
    assert f"40 of {N} images have no known sex" in out
    assert not word.strip() or f"sex: {word!r} (40) read as unknown" in out


def test_spellings_of_a_group_are_one_and_an_initial_is_offered(tmp_path, capsys):
    sex = C["sex"].to_numpy(object).copy()
    sex[sex == "female"] = ["female", "Female", "female ", " FEMALE"] * (N // 8)
    status, out, _ = run(tmp_path, P, C.assign(sex=sex), capsys=capsys)
    assert status == 0 and "read as other spellings of a group" in out
    said = [line for line in out.splitlines() if "read as other spellings" not in line]
    assert said[1:] == run(tmp_path, P, C, capsys=capsys)[1].splitlines()[1:]
    sex = np.where(np.arange(N) % 8 < 1, "F", C["sex"])
    assert (
        "'F' may mean 'female': two groups unless --map F=female"
        in run(tmp_path, P, C.assign(sex=sex), capsys=capsys)[1]
    )
    mapped = run(tmp_path, P, C.assign(sex=sex), "--map", "F=female", capsys=capsys)[1]
    assert mapped == run(tmp_path, P, C, capsys=capsys)[1]


def test_folds_count_from_one_or_are_texts():
    fold = np.arange(N) // 2 % 5
    copies = [P.assign(fold=k) for k in range(5)]
    plain = audit(pd.concat(copies), C.assign(fold=fold), thresholds=None)
    for name in ("{0}", "fold{0}", " {0}"):
        new = lambda k, name=name: name.format(k + 1)
        table = audit(pd.concat([copy.assign(fold=new(k)) for k, copy in enumerate(copies)]),
                      C.assign(fold=[new(k) for k in fold]), thresholds=None)  # fmt: skip
        pd.testing.assert_frame_equal(table, plain)
    assert len(match(pd.concat(copies), C.assign(fold=fold)).images) == N


def test_words_for_splits_are_read_and_said(tmp_path, capsys):
    split = np.array(["train", "Val", "TEST", "test"])[np.arange(N) // 2 % 4]
    status, out, _ = run(tmp_path, P, C.assign(split=split), capsys=capsys)
    assert status == 0 and out.startswith("Audited 30 of 60 patients") and "'Val' as validation" in out
    plain = C.assign(split=[{"Val": "validation"}.get(word, word.lower()) for word in split])
    pd.testing.assert_frame_equal(audit(P, C.assign(split=split), thresholds=None), audit(P, plain, thresholds=None))


def test_labels_as_words_are_labels(tmp_path, capsys):
    out = run(tmp_path, P, C.assign(y_edema=np.where(C["y_edema"] == 1, "Y", "N")), capsys=capsys)[1]
    assert "y_edema: 'N' read as 0, 'Y' read as 1" in out
    for words in (("no", "yes"), ("False", "TRUE"), ("negative", "Positive"), ("0.0", "1.0")):
        table = run(tmp_path, P, C.assign(y_edema=[words[label] for label in C["y_edema"]]), capsys=capsys)
        assert table[0] == 0 and table[1].splitlines()[:20] == run(tmp_path, P, C, capsys=capsys)[1].splitlines()[:20]


def test_identical_images_of_one_arm_do_not_touch_another(tmp_path, capsys):
    clean = QUALITY[QUALITY["arm"] == "clean"]
    others = pd.concat([clean.assign(arm="degraded"), QUALITY[QUALITY["arm"] == "unet"]])
    plain = audit(others, C, baseline_arm="degraded")
    both = audit(pd.concat([others, clean.assign(psnr_db=np.inf)]), C, baseline_arm="degraded")
    one, other = (t[(t["arm"] == "unet") & (t["reference"] != "")].iloc[0] for t in (plain, both))
    assert (one["delta"], one["n_patients"]) == (other["delta"], other["n_patients"])
    status, out, _ = run(
        tmp_path, pd.concat([others, clean.assign(psnr_db=np.inf)]), C, "--baseline", "degraded", capsys=capsys
    )
    assert status == 0 and f"identical images have a psnr_db of 100, the cap for every arm: {N} results" in out


def test_measures_that_are_undefined_for_some_images_are_counted():
    half = QUALITY.assign(
        nmse=np.where(QUALITY["image_id"].isin(C["image_id"][:8]) & (QUALITY["arm"] == "unet"), np.inf, 0.1)
    )
    notes = audit(half, C).attrs["notes"]
    assert "unet at level 1: 8 images have no nmse and are left out of it" in notes
    assert "8 results have an infinite nmse (a blank original): left out, with the same image of every arm" in notes


def test_thresholds_are_chosen_on_the_baseline_that_the_note_names():
    shifted = P[P["arm"] == "clean"].assign(arm="degraded", score=lambda frame: frame["score"] * 0.5)
    both = pd.concat([P, shifted])
    with_clean = audit(both, C, baseline_arm="degraded", arms=["unet"], thresholds="test_frozen")
    without = audit(both[both["arm"] != "clean"], C, baseline_arm="degraded", arms=["unet"], thresholds="test_frozen")
    pd.testing.assert_frame_equal(with_clean, without)
    table = audit_change(both, C, "sex", baseline_arm="degraded", n_boot=BOOT)
    assert any("thresholds chosen on the test images of degraded" in note for note in table.attrs["notes"])


def test_patients_of_two_sexes_are_said(tmp_path, capsys):
    sex = np.where(np.arange(N) % 2, "female", "male")
    assert "60 patients have more than one sex" in run(tmp_path, P, C.assign(sex=sex), capsys=capsys)[1]


def test_the_funnel_counts_people_at_every_step():
    split, sex = np.where(np.arange(N) < 20, "train", "test"), C["sex"].where(np.arange(N) >= 30, "n/a")
    label = C["y_edema"].astype(float).where(np.arange(N) < 118)
    cohort, results = C.assign(split=split, sex=sex, y_edema=label), P[~P["image_id"].isin(C["image_id"][110:114])]
    results = results[(results["arm"] == "clean") | ~results["image_id"].isin(C["image_id"][100:102])]
    steps = people(results, cohort, ["sex"])["sex"]
    assert steps["images"].tolist() == [120, 116, 96, 94, 92, 82]
    assert steps["patients"].tolist() == [60, 58, 48, 47, 46, 41]


def test_counting_people_does_not_grow_with_the_square_of_the_images():
    n = 60_000
    ids = pd.Series([f"i{k:06d}" for k in range(n)])
    results = pd.DataFrame({"image_id": ids[: n - 1000], "task": "edema", "score": 0.5})
    cohort = pd.DataFrame({"image_id": ids, "patient_id": ids, "sex": ["female", "male"] * (n // 2), "y_edema": 1})
    start = time.process_time()
    steps = people(results, cohort, ["sex"], baseline_arm=None)["sex"]
    assert time.process_time() - start < 20  # about 320 s where every text is compared with every other
    assert steps["images"].tolist() == [n, n - 1000, n - 1000, n - 1000]


def test_the_table_is_written_before_a_console_that_lacks_a_character_is_asked(tmp_path):
    for name, table in (("p.csv", P), ("c.csv", C.replace({"sex": {"female": "Māori"}}))):
        table.to_csv(tmp_path / name, index=False)
    line = [
        sys.executable,
        "-m",
        "fairrecon_lab.auditing.command",
        "p.csv",
        "c.csv",
        "--n-boot",
        "1e2",
        "--out",
        "x.csv",
    ]
    home = os.environ | {
        "PYTHONIOENCODING": "cp1252",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(command.__file__).parents[1]),
    }
    done = subprocess.run(line, cwd=tmp_path, env=home, capture_output=True, check=False)
    assert done.returncode == 0 and b"M?ori" in done.stdout and "Māori" in (tmp_path / "x.csv").read_text("utf-8")


def test_no_module_of_the_callers_folder_is_executed(tmp_path, root):
    (tmp_path / "fairrecon_core").mkdir()
    for name in ("fairrecon_core/__init__.py", "random.py", "statistics.py", "yaml.py", "tempfile.py"):
        (tmp_path / name).write_text("raise SystemExit('the code of the caller')\n")
    for name, table in (("p.csv", P), ("c.csv", C)):
        table.to_csv(tmp_path / name, index=False)
    own = f"import sys; sys.path[:0] = [{str(root)!r}]; import run; sys.path.pop(0)"
    code = own + "; run.interpreter = lambda build='': run.Path(sys.executable)"
    code += "; sys.exit(run.main(['audit', 'p.csv', 'c.csv', '--n-boot', '100']))"
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.startswith("Audited 60 of 60"), done.stderr


@pytest.mark.parametrize(("text", "value"), [("1e4", 10_000), ("010", 10), ("7", 7), ("1e-3", 0.001), ("2.5e1", 25),
                                             ("0.5", 0.5), ("[4, 8]", [4, 8]), ("true", True)])  # fmt: skip
def test_numbers_are_read_as_typed(text, value):
    assert number_or_yaml(text) == value and type(number_or_yaml(text)) is type(value)


def test_arms_may_come_before_the_tables(tmp_path, capsys):
    plain = run(tmp_path, P, C, capsys=capsys)[1]
    assert command.main(["--arms", "unet", str(tmp_path / "p.csv"), str(tmp_path / "c.csv"), "--n-boot", "100"]) == 0
    assert capsys.readouterr().out == plain


# ---------------------------------------------------------------- what is refused: one line with the way out
TEXT, COHORT = P.to_csv(index=False), C.to_csv(index=False)
LINES = TEXT.splitlines()


def changed(frame, row, **values):
    frame = frame.astype(object)
    for name, value in values.items():
        frame.loc[row, name] = value
    return frame


def with_line(text, row, line):
    lines = text.splitlines()
    lines[row - 1] = line
    return "\n".join(lines)


two_levels = pd.concat(
    [P[P["arm"] == "clean"].assign(level=level) for level in (1, 2)] + [P[P["arm"] == "unet"].assign(level=8)]
)
OVERLAP = P[["image_id", "arm"]].assign(intersection=5, predicted=10, actual=10)

FAULTS = {  # name: (predictions, cohort, options, words of the line)
    "text in a score": (changed(P, 3, score="high"), C, (), "p.csv row 5, column 'score': 'high' is no number"),
    "a unit in a score": (changed(P, 3, score="0.5%"), C, (), "p.csv row 5, column 'score': '0.5%'"),
    "an empty score": (changed(P, 3, score=""), C, (), "1 of 120 values of 'score of arm clean"),
    "a score of 1.5": (changed(P, 3, score=1.5), C, (), "should be a probability in [0, 1], found"),
    "scores in percent": (P.assign(score=P["score"] * 100), C, (), "should be a probability"),
    "an infinite score": (changed(P, 3, score="inf"), C, (), "should be a probability"),
    "ambiguous commas": (P.assign(score="1,234"), C, (), "p.csv row 2, column 'score': '1,234' may be a decimal or"),
    "points and commas": (changed(P.assign(score=P["score"].astype(str)), 4, score="0,5"), C, (),
                         "p.csv row 6, column 'score'"),
    "a threshold of 50": (P, C, ("--thresholds", 50), "threshold 50 is not in [0, 1]"),
    "a threshold of -.1": (P, C, ("--thresholds=-.1",), "threshold -0.1 is not in [0, 1]"),
    "a threshold of NaN": (P, C, ("--thresholds", "nan"), "threshold nan is not in [0, 1]"),
    "an infinite threshold": (P, C, ("--thresholds", "inf"), "threshold inf is not in [0, 1]"),
    "an unknown policy": (P, C, ("--thresholds", "best"), "unknown threshold policy 'best'"),
    "a wide table": (P.pivot(index="image_id", columns="arm", values="score").reset_index(), C, (), "melt('image_id'"),
    "no task column": (P.drop(columns="task"), C.assign(y_fracture=0), (), "the results lack 'task'"),
    "no image_id": (P.rename(columns={"image_id": "thing"}), C, (), "the results lack ['image_id']"),
    "no image_id in the cohort": (P, C.drop(columns="image_id"), (), "the cohort lacks 'image_id'"),
    "no attribute": (P, C.drop(columns="sex"), (), "the cohort has no attribute ['sex']"),
    "no label column": (P, C.drop(columns="y_edema"), (), "the cohort has no labels 'y_edema'"),
    "a label of 2": (P, changed(C, 5, y_edema=2), (), "c.csv row 7, column 'y_edema'"),
    "a label of -2": (P, changed(C, 5, y_edema=-2), (), "found -2.0 (c.csv row 7"),
    "a label as maybe": (P, changed(C, 5, y_edema="maybe"), (), "found 'maybe' (c.csv row 7, column 'y_edema')"),
    "an image twice": (P, pd.concat([C, C.iloc[:1]]), (),
                         "1 images occur twice in the cohort, e.g. 'img0000' (c.csv row 122)"),
    "a result twice": (pd.concat([P, P.iloc[:1]]), C, (), "1 rows occur twice, e.g."),
    "a stranger": (changed(P, 3, image_id="nobody"), C, (), "'nobody' (p.csv row 5)"),
    "lost zeros": (P.assign(image_id=P["image_id"].str[3:].astype(int)),
                   C.assign(image_id=C["image_id"].str[3:]), (), "zeros were lost, keep ids as text"),
    "an empty image_id": (changed(P, 3, image_id=""), C, (), "1 rows have no 'image_id', the first is p.csv row 5"),
    "an empty arm": (changed(P, 3, arm=" "), C, (), "1 rows have no 'arm', the first is p.csv row 5"),
    "an empty patient_id": (P, changed(C, 5, patient_id=""), (), "1 images have no patient_id, e.g. c.csv row 7"),
    "patients called unknown": (P, C.assign(patient_id=np.where(np.arange(N) < 9, "Unknown", C["patient_id"])), (),
                                "9 images have no patient_id, e.g. c.csv row 2"),
    "an empty level": (changed(P.assign(level=1), 3, level=""), C, (), "1 rows have no 'level'"),
    "a level as text": (changed(P.assign(level=1), 3, level="low"), C, (), "p.csv row 5, column 'level': 'low'"),
    "arms on other images": (pd.concat([P[P["arm"] == "clean"].iloc[:60], P[P["arm"] == "unet"].iloc[60:]]), C, (),
                             "no image has results of an arm and of its baseline 'clean'"),
    "baseline at other levels": (two_levels, C, (), "no image has results of an arm and of its baseline"),
    "an arm that is not there": (P, C, ("--arms", "tv"), "no results of arm 'tv'; there are ['clean', 'unet']"),
    "a baseline that is not there": (P, C, ("--baseline", "tv"), "no results of arm 'tv'"),
    "one group": (P, C.assign(sex="female"), (), "attribute 'sex' has 1 subgroup(s)"),
    "an age as a word": (P, changed(C.assign(age=np.arange(N) % 61), 5, age="old"), ("--attribute", "age"),
                         "c.csv row 7, column 'age': 'old' is no number, as most others are"),
    "people as groups": (P, C, ("--attribute", "image_id"), "column 'image_id' has 120 values"),
    "a reference that is not there": (P, C, ("--reference", "men"), "no reference subgroup 'men'"),
    "folds that results lack": (P, C.assign(fold=np.arange(N) % 3), (), "the cohort has folds 0, 1, 2, the results no"),
    "a fold the cohort lacks": (P.assign(fold=7), C.assign(fold=np.arange(N) % 3), (),
                         "results of fold '7'; the cohort has"),
    "folds blank for some": (P.assign(fold=0), C.assign(fold=np.where(np.arange(N) < 9, "", "1")), (),
                             "9 rows have no 'fold', the first is c.csv row 2"),
    "a split that is none": (P, C.assign(split=np.where(np.arange(N) < 9, "elsewhere", "test")), (),
                         "split 'elsewhere' of the"),
    "splits blank for some": (P, C.assign(split=np.where(np.arange(N) < 9, "", "test")), (), "9 rows have no 'split'"),
    "a split without a column": (P, C, ("--split", "val"), "no split 'val': the cohort has no column 'split'"),
    "no test split": (P, C.assign(split="train"), (), "no results on images of split 'test'; there are ['train']"),
    "SSIM in percent": (QUALITY.rename(columns={"psnr_db": "ssim"}), C, (), "p.csv row 2, column 'ssim'"),
    "negative PSNR": (QUALITY.assign(psnr_db=-43.3), C, (), "column 'psnr_db': -43.3 is not in [0, inf]"),
    "negative LPIPS": (QUALITY.rename(columns={"psnr_db": "lpips"}).assign(lpips=-1), C, (),
                         "column 'lpips': -1 is not in"),
    "an impossible overlap": (OVERLAP.assign(intersection=11), C, (),
                         "an intersection is larger than one of its masks"),
    "a negative area": (OVERLAP.assign(actual=-10), C, (), "p.csv row 2, column 'actual': -10"),
    "nothing to audit": (P.drop(columns=["score", "task"]), C, (), "nothing to audit in columns"),
    "a margin of 5": (P, C, ("--margin", 5), "five percentage points are 0.05"),
    "half a resample": (P, C, ("--min-support", 1.5), "'1.5' is no whole number"),
    "too few resamples": (P, C, ("--n-boot", 10), "at least 100 resamples"),
    "a map without an equals sign": (P, C, ("--map", "female"), "--map takes OLD=NEW, got 'female'"),
    "a comma too many": (P, "\n".join(line + "," if i else line for i, line in enumerate(COHORT.splitlines())), (),
                         "c.csv row 2 has 5 fields, the header 4"),
    "a row cut short": (with_line(TEXT, 9, LINES[8].rpartition(",")[0]), C, (),
                         "p.csv row 9 has 3 fields, the header 4"),
    "two columns of a name": (P, COHORT.replace("y_edema", "sex", 1), (),
                         "c.csv row 1 names column 'sex' twice (columns 3, 4)"),
    "names that differ in blanks": (TEXT.replace("task", " arm", 1), C, (), "p.csv row 1 names column 'arm' twice"),
    "an open quote": (with_line(TEXT, 9, '"' + LINES[8]), C, (), "p.csv row 9 opens a quote that is not closed"),
    "bytes of no encoding": (TEXT.encode().replace(b"unet", b"un\x81t", 1), C, (), "p.csv row 122 holds byte 81"),
    "half a UTF-16 character": (TEXT.encode("utf-16")[:-1], C, (), "is no utf-16"),
    "an image for a table": (b"\x89PNG\r\n\x1a\n" + bytes(500), C, (), "p.csv holds zero bytes: it is no text"),
    "a spreadsheet": (b"PK\x03\x04" + bytes(500), C, (),
                         "p.csv is a spreadsheet or a zip archive: save the sheet as CSV"),
    "an empty file": ("", C, (), "p.csv is empty"),
    "a header alone": (LINES[0], C, (), "p.csv has a header and no rows"),
    "half a gzip": (gzip.compress(TEXT.encode())[:500], C, (), "p.csv is truncated or damaged"),
    "a gzip with a wrong sum": (gzip.compress(TEXT.encode())[:-8] + bytes(8), C, (), "p.csv is truncated or damaged"),
    "half a Parquet file": (b"PAR1" + bytes(100), C, (), "p.csv is no whole Parquet file"),
    "several cohorts": (P.assign(cohort=np.where(np.arange(2 * N) % 2, "a", "b")), C, (),
                         "results of several cohorts, ['a', 'b']"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_table_is_refused_in_one_line_with_its_file(name, tmp_path, capsys):
    predictions, cohort, options, words = FAULTS[name]
    status, out, err = run(tmp_path, predictions, cohort, *options, capsys=capsys)
    line = err.strip().splitlines()[-1]
    assert status == 2 and out == "" and words in line and "error: " in line and len(line) < 700
    assert "usage:" in err or err.count("\n") == 1
    assert "p.csv" in line or "c.csv" in line or "argument --" in line


def test_a_file_that_is_not_there_is_named(tmp_path, capsys):
    assert command.main([str(tmp_path / "none.csv"), str(tmp_path / "c.csv")]) == 2
    assert "none.csv" in capsys.readouterr().err


def test_frames_with_a_column_twice_are_refused():
    with pytest.raises(ValueError, match="the cohort have column 'sex' twice|the cohort has column 'sex' twice"):
        audit(P, pd.concat([C, C[["sex"]]], axis=1))


@settings(max_examples=int(os.environ.get("FAIRRECON_FUZZ", 400)), deadline=None, derandomize=True)  # 2 000 were tried
@given(st.data())
def test_random_faulty_tables_give_our_error_or_an_audit(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("fuzz")
    try:
        for name, text in (("p.csv", TEXT), ("c.csv", COHORT)):
            (folder / name).write_bytes(spoilt(data, text))
        assert command.main(
            [str(folder / "p.csv"), str(folder / "c.csv"), "--n-boot", "100", "--thresholds", ".5"]
        ) in (0, 2)
    finally:
        shutil.rmtree(folder)


def spoilt(data, text: str) -> bytes:
    """A table with up to three faults: cells, rows, columns, delimiters, encodings, bytes."""
    rows = [line.split(",") for line in text.splitlines()]
    for _ in range(data.draw(st.integers(0, 3))):
        row, column = data.draw(st.integers(0, len(rows) - 1)), data.draw(st.integers(0, 3))
        cell = st.sampled_from(
            ["", " ", "NA", "nan", "inf", "-1", "1e309", "0,5", "1,5", '"', "'", "é", "\0", "999", "1;2", "\t"]
        )
        match data.draw(st.sampled_from(["cell", "drop", "twice", "swap", "header", "column"])):
            case "cell":
                rows[row][column % len(rows[row])] = data.draw(cell | st.text(max_size=5))
            case "drop":
                del rows[row]
            case "twice":
                rows.insert(row, list(rows[row]))
            case "swap":
                rows[row].reverse()
            case "header":
                rows[0][column % len(rows[0])] = data.draw(
                    st.sampled_from(["sex", "fold", "split", "level", "arm", "", "sample"])
                )
            case "column":
                rows = [[*line, data.draw(cell) if i < 3 else "1"] for i, line in enumerate(rows)]
    mark = data.draw(st.sampled_from([",", ",", ",", ";", "\t"]))
    raw = "\n".join(mark.join(line) for line in rows).encode(
        data.draw(st.sampled_from(["utf-8", "utf-8", "utf-16"])), "replace"
    )
    cut = data.draw(st.integers(0, 20))
    return (
        raw[: len(raw) - cut]
        if cut < 5
        else gzip.compress(raw)[: data.draw(st.sampled_from([None, 100]))]
        if cut < 8
        else raw
    )


def test_texts_of_parquet_are_categories_of_texts_and_numbers_stay_numbers(tmp_path):
    ids = pd.Series(["007", "7", " 07 ", None, "", "7"])
    frame = pd.DataFrame({"a": ids, "b": ids.astype("category"), "c": pd.array(ids, dtype="string"), "n": range(6),
                          "x": [0.5] * 6, "z": [True] * 6, "k": pd.Categorical([3, 1, 3, 1, 3, 1])})  # fmt: skip
    frame.to_parquet(tmp_path / "ids.parquet")
    found = read_outside(tmp_path / "ids.parquet")
    for name in "abc":
        assert isinstance(found[name].dtype, pd.CategoricalDtype)
        assert found[name].astype(object).where(found[name].notna(), None).tolist() == [
            "007",
            "7",
            "07",
            None,
            None,
            "7",
        ]
    assert [found[name].dtype.kind for name in "nxz"] == ["i", "f", "b"] and found["k"].tolist() == [3, 1, 3, 1, 3, 1]


def test_parquet_keeps_ids_and_names(tmp_path):
    for frame, name in ((P, "p.parquet"), (C.assign(patient_id=C["patient_id"].astype("category")), "c.parquet")):
        frame.to_parquet(tmp_path / name)
    pd.testing.assert_frame_equal(
        audit(read_outside(tmp_path / "p.parquet"), read_outside(tmp_path / "c.parquet")), audit(P, C)
    )
    half = io.BytesIO()
    P.to_parquet(half)
    (tmp_path / "half.parquet").write_bytes(half.getvalue()[:-100])
    with pytest.raises(ValueError, match="half.parquet is no whole Parquet file"):
        read_outside(tmp_path / "half.parquet")


def test_every_word_for_unknown_is_missing_and_every_other_is_a_group():
    values = pd.Series([*UNKNOWN_WORDS, "NA", "None", "white", "0", "U"], name="race")
    groups, notes = as_groups(values)
    assert groups.dropna().tolist() == ["NA", "None", "white", "0", "U"] and len(notes) == 2
