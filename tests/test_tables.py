"""The contract of the tables between notebooks: what is written comes back, and what breaks the contract is refused."""

import itertools
import math
import re

import numpy as np
import pandas as pd
import pytest

from fairrecon_core.tables import (
    KEY,
    SCHEMAS,
    VOCABULARY,
    check,
    read_parquet,
    read_table,
    table_path,
    with_defaults,
    write_parquet,
    write_table,
)


def predictions(arm="unet", level=8.0, n=3, tasks=("edema", "fracture"), cohort="chest", seed=0):
    images = [f"image{i}" for i in range(n)]
    frame = pd.DataFrame(list(itertools.product(images, tasks)), columns=["image_id", "task"])
    frame["score"] = np.random.default_rng(seed).random(len(frame))
    return with_defaults("predictions", frame.assign(cohort=cohort, arm=arm, level=level))


def example(name):
    """One valid row of any table."""
    value = {"text": "a", "int": 1, "float": 1.0, "any": 1.0}
    columns = SCHEMAS[name].columns
    return pd.DataFrame(
        {column: [rule.values[0] if rule.values else value[rule.kind]] for column, rule in columns.items()}
    )


NAMES = list(SCHEMAS)
IN_FOLDER = [name for name in NAMES if name != "cohort"]


# laws


@pytest.mark.parametrize("name", NAMES)
def test_checking_twice_changes_nothing(name):
    once = check(name, example(name))
    pd.testing.assert_frame_equal(check(name, once), once)
    assert list(once.columns) == list(SCHEMAS[name].columns)


@pytest.mark.parametrize("name", IN_FOLDER)
def test_what_is_written_comes_back(tmp_path, name):
    write_table(tmp_path, name, example(name))
    pd.testing.assert_frame_equal(read_table(tmp_path, name), check(name, example(name)))


@pytest.mark.parametrize("name", IN_FOLDER)
def test_equal_frames_make_equal_bytes(tmp_path, name):
    first, second = (write_table(tmp_path / part, name, example(name))[0] for part in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_bytes_do_not_depend_on_the_index_the_column_order_or_the_way_a_type_is_spelt(tmp_path):
    frame = predictions()
    twisted = frame[frame.columns[::-1]].set_axis(range(90, 90 + len(frame)))
    twisted = twisted.assign(arm=twisted["arm"].astype("category"), task=twisted["task"].astype(object))
    twisted = twisted.assign(level=8, fold=twisted["fold"].astype("int32"))
    paths = [write_table(tmp_path / str(i), "predictions", each)[0] for i, each in enumerate([frame, twisted])]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_two_levels_share_a_file_only_if_they_are_equal():
    levels = {
        1.0,
        8.0,
        math.inf,
        1e15,
        1e16,
        1e300,
        np.nextafter(8, 9),
        *(10 ** np.random.default_rng(0).uniform(0, 20, 99)),
    }
    names = {table_path("run", "quality", cohort="brain", arm="unet", level=level).name for level in levels}
    assert len(names) == len(levels)
    assert all(re.fullmatch(r"brain__unet__[a-z0-9.+-]+\.parquet", name) for name in names)


def test_level_names_are_plain():
    names = [
        table_path("r", "quality", cohort="c", arm="a", level=level).stem
        for level in (8, 8.0, np.int64(8), 1e4, math.inf, 2.5)
    ]
    assert [name.split("__")[2] for name in names] == ["8", "8", "8", "10000", "inf", "2.5"]


def test_a_float_level_survives_the_file(tmp_path):
    for level in (1, 4.0, 2.5, 100_000, math.inf):
        write_table(tmp_path, "predictions", predictions(level=level))
    for level in (1, 4.0, 2.5, 100_000, math.inf):
        assert read_table(tmp_path, "predictions", level=level)["level"].unique().tolist() == [level]


def test_a_write_replaces_its_own_file_and_no_other(tmp_path):
    (other,) = write_table(tmp_path, "predictions", predictions(arm="sde"))
    before = other.read_bytes()
    write_table(tmp_path, "predictions", predictions(seed=1))
    write_table(tmp_path, "predictions", predictions(seed=2))
    assert other.read_bytes() == before
    pd.testing.assert_frame_equal(
        read_table(tmp_path, "predictions", arm="unet"), check("predictions", predictions(seed=2))
    )
    assert not list(tmp_path.rglob("*.part"))


def test_a_frame_of_several_arms_and_levels_becomes_one_file_each(tmp_path):
    parts = [predictions("clean", math.inf), predictions("unet", 1e4), predictions("unet", 3e3)]
    paths = write_table(tmp_path, "predictions", pd.concat(parts))
    names = ["chest__clean__inf", "chest__unet__10000", "chest__unet__3000"]
    assert sorted(path.stem for path in paths) == names
    assert len(read_table(tmp_path, "predictions")) == sum(map(len, parts))


def test_filters_select_what_a_mask_would(tmp_path):
    parts = [
        predictions("clean", 1),
        predictions("unet", 8),
        predictions("unet", 16),
        predictions("unet", 8, cohort="brain"),
    ]
    write_table(tmp_path, "predictions", pd.concat(parts))
    whole = read_table(tmp_path, "predictions")
    got = read_table(tmp_path, "predictions", cohort="chest", arm=["clean", "unet"], level=[1, 8], task="edema")
    wanted = whole[(whole.cohort == "chest") & whole.arm.isin(["clean", "unet"]) & whole.level.isin([1, 8])]
    pd.testing.assert_frame_equal(got, wanted[wanted.task == "edema"].reset_index(drop=True))


def test_a_filter_by_file_name_opens_no_other_file(tmp_path):
    write_table(tmp_path, "predictions", predictions("unet"))
    (broken,) = write_table(tmp_path, "predictions", predictions("sde"))
    broken.write_bytes(b"")
    assert len(read_table(tmp_path, "predictions", arm="unet")) == 6


def test_writers_that_share_an_arm_keep_to_their_part(tmp_path):
    frame = predictions()
    for task in ("edema", "fracture"):
        (path,) = write_table(tmp_path, "predictions", frame[frame.task == task], task=task)
        assert path.stem == f"chest__unet__8__task-{task}"
    assert len(read_table(tmp_path, "predictions")) == len(frame)
    assert len(read_table(tmp_path, "predictions", task="edema")) == len(frame) / 2


def test_defaults_fill_only_what_has_an_obvious_value():
    bare = predictions().drop(columns=["fold", "train_seed", "sample"])
    filled = with_defaults("predictions", bare)
    assert (filled[["fold", "train_seed", "sample"]] == 0).all(axis=None)
    assert "fold" not in bare
    with pytest.raises(ValueError, match="lacks column 'arm'"):
        check("predictions", with_defaults("predictions", bare.drop(columns="arm")))


def test_defaults_fill_what_an_audit_leaves_undefined():
    needed = [name for name, rule in SCHEMAS["audit"].columns.items() if not rule.blank]
    row = check("audit", with_defaults("audit", example("audit")[needed].assign(subgroup=None)))
    assert row.loc[0, ["subgroup", "reference", "verdict"]].tolist() == ["", "", ""]
    assert row.loc[0, ["value", "ci_low", "p_value"]].isna().all()


def test_a_part_fills_an_absent_column(tmp_path):
    write_table(tmp_path, "predictions", predictions().drop(columns=["arm", "level"]), arm="unet", level=8)
    assert read_table(tmp_path, "predictions")["arm"].unique().tolist() == ["unet"]


def test_undefined_values_stay_undefined(tmp_path):
    frame = with_defaults("quality", pd.DataFrame({"image_id": ["a"], "ssim": [np.nan], "psnr_db": [math.inf]}))
    write_table(tmp_path, "quality", frame, cohort="brain", arm="clean", level=1)
    row = read_table(tmp_path, "quality").iloc[0]
    assert np.isnan(row["ssim"]) and np.isnan(row["lpips"]) and row["psnr_db"] == math.inf


# refusals


def refused(message, **columns):
    with pytest.raises(ValueError, match=message):
        check("predictions", predictions().assign(**columns))


@pytest.mark.parametrize("column", KEY)
def test_a_nan_or_empty_key_is_refused(column):
    refused(f"empty '{column}' in row 0", **{column: np.nan})
    refused(f"empty '{column}' in row 0", **{column: None})
    if column in ("cohort", "image_id", "arm"):
        refused(f"empty '{column}' in row 2", **{column: ["a", "b", "", "d", "e", "f"]})


def test_a_repeated_key_is_refused_by_name():
    refused("repeats the key .*image_id 'image0'.*task 'edema'", image_id="image0", task="edema")


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_column_is_refused_by_name(name):
    for column in SCHEMAS[name].columns:
        with pytest.raises(ValueError, match=f"{name} lacks column '{column}'"):
            check(name, example(name).drop(columns=column))


def test_an_unknown_column_is_refused_with_the_nearest_name():
    refused(r"no column 'scores', did you mean 'score'\?", scores=1.0)
    with pytest.raises(ValueError, match="further columns start with y_, true_, x_"):
        check("cohort", example("cohort").assign(z_view="ap"))


def test_the_cohort_table_takes_labels_truths_and_covariates():
    extra = {"y_edema": np.nan, "true_edema": 1, "x_view": "ap", "x_exposure": 0.3}
    checked = check("cohort", example("cohort").assign(**extra))
    assert list(checked.columns[-4:]) == list(extra)


@pytest.mark.parametrize("label", [2, -1, 0.5, math.inf, "yes"])
def test_a_label_other_than_0_1_nan_is_refused(label):
    with pytest.raises(ValueError, match="cohort.y_edema"):
        check("cohort", example("cohort").assign(y_edema=label))


def test_wrong_types_and_ranges_are_refused():
    refused("score should hold numbers", score="high")
    refused("image_id should hold texts", image_id=range(6))
    refused("fold should hold whole numbers", fold=0.5)
    refused("fold should hold numbers", fold=True)
    refused(r"score is 1.5 in row 3, should be in \[0, 1\]", score=[0, 0, 0, 1.5, 0, 0])
    refused("empty 'score'", score=np.nan)
    refused(r"level is 0.5 in row 0", level=0.5)
    refused(r"fold is -1 in row 0", fold=-1)


@pytest.mark.parametrize("column", list(VOCABULARY))
def test_a_value_outside_the_vocabulary_is_refused_with_the_nearest_word(column):
    word = VOCABULARY[column][0]
    with pytest.raises(ValueError, match=rf"{column} '{word.upper()}x' .* did you mean '{word}'\?"):
        check("cohort", example("cohort").assign(**{column: word.upper() + "x"}))


def test_an_empty_frame_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="nothing to write"):
        write_table(tmp_path, "predictions", predictions()[:0])


@pytest.mark.parametrize("arm", ["My U-Net", "../unet", "a__b", "", "un/et", ".unet", "unet.", "UNET", "a:b"])
def test_a_name_that_does_not_suit_a_file_is_refused(tmp_path, arm):
    with pytest.raises(ValueError, match="arm"):
        write_table(tmp_path, "predictions", predictions().assign(arm=arm))
    assert not list(tmp_path.rglob("*.parquet"))


def test_a_part_that_is_not_what_the_frame_holds_is_refused(tmp_path):
    with pytest.raises(ValueError, match="level 8 also holds rows of level 16"):
        write_table(tmp_path, "predictions", pd.concat([predictions(), predictions(level=16)]), level=8)
    with pytest.raises(ValueError, match="'score' is not in the key"):
        write_table(tmp_path, "predictions", predictions().assign(score=0.5), score=0.5)


def test_a_missing_table_says_which_notebook_makes_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^no predictions: run notebook 08$"):
        read_table(tmp_path, "predictions")
    write_table(tmp_path, "predictions", predictions())
    with pytest.raises(FileNotFoundError, match=r"^no predictions for arm 'tv' \(there are unet\): run notebook 08$"):
        read_table(tmp_path, "predictions", arm="tv")
    with pytest.raises(FileNotFoundError, match=r"^no predictions for arm 'tv'"):
        read_table(tmp_path, "predictions", arm=["unet", "tv"])
    with pytest.raises(FileNotFoundError, match=r"^no predictions for arm 'unet', level 16"):
        read_table(tmp_path, "predictions", arm="unet", level=16)
    with pytest.raises(FileNotFoundError, match=r"^no predictions for task 'gout'"):
        read_table(tmp_path, "predictions", task=["edema", "gout"])
    with pytest.raises(FileNotFoundError, match=r"^no quality .*run notebook 07"):
        read_parquet(tmp_path / "x.parquet", "quality")


def test_unknown_tables_and_filters_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"unknown table 'prediction', did you mean 'predictions'\?"):
        read_table(tmp_path, "prediction")
    with pytest.raises(ValueError, match=r"no column 'tasks', did you mean 'task'\?"):
        read_table(tmp_path, "predictions", tasks="edema")
    for call in (
        lambda: read_table(tmp_path, "cohort"),
        lambda: write_table(tmp_path, "cohort", example("cohort"), arm="x"),
    ):
        with pytest.raises(ValueError, match="cohort"):
            call()


def test_a_truncated_file_is_refused_by_name(tmp_path):
    (path,) = write_table(tmp_path, "predictions", predictions())
    whole = path.read_bytes()
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"chest__unet__8.parquet is damaged .*delete it and run notebook 08"):
            read_table(tmp_path, "predictions")


def test_a_flipped_bit_is_refused_or_harmless(tmp_path):
    (path,) = write_table(tmp_path, "predictions", predictions())
    whole, refusals = path.read_bytes(), 0
    for position in range(0, len(whole), 41):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 16]) + whole[position + 1 :])
        try:
            pd.testing.assert_frame_equal(read_table(tmp_path, "predictions"), check("predictions", predictions()))
        except (ValueError, FileNotFoundError):
            refusals += 1
    assert refusals > len(whole) / 41 / 3


def test_a_file_under_a_wrong_name_is_refused(tmp_path):
    (path,) = write_table(tmp_path, "predictions", predictions("unet"))
    path.rename(path.with_name("chest__sde__8.parquet"))
    with pytest.raises(ValueError, match="chest__sde__8.parquet holds rows of another arm"):
        read_table(tmp_path, "predictions")


def test_a_file_that_is_not_named_like_a_table_is_refused(tmp_path):
    (path,) = write_table(tmp_path, "predictions", predictions())
    for name in ("copy.parquet", "chest__unet.parquet", "chest__unet__8__copy.parquet"):
        path = path.rename(path.with_name(name))
        with pytest.raises(ValueError, match=f"{name} is not named <cohort>__<arm>__<level>"):
            read_table(tmp_path, "predictions")


def test_a_file_of_another_table_is_refused(tmp_path):
    write_parquet(tmp_path / "a.parquet", "quality", example("quality"))
    with pytest.raises(ValueError, match="holds a table of quality, not of overlap"):
        read_parquet(tmp_path / "a.parquet", "overlap")


def test_a_row_in_two_files_is_refused(tmp_path):
    frame = predictions(tasks=("edema",))
    write_table(tmp_path, "predictions", frame)
    write_table(tmp_path, "predictions", frame, task="edema")
    with pytest.raises(ValueError, match="two files hold the same row.*image_id 'image0'"):
        read_table(tmp_path, "predictions")


def test_an_interrupted_write_leaves_the_old_table(tmp_path, monkeypatch):
    (path,) = write_table(tmp_path, "predictions", predictions())
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            write_table(tmp_path, "predictions", predictions(seed=1))
    assert path.read_bytes() == before
    assert len(read_table(tmp_path, "predictions")) == 6
