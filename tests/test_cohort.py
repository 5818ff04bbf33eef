"""The contract of a cohort: patients stay together, pixels survive the disk, and a broken cohort is refused by name."""

import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import tracemalloc
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from test_tools import tool

from fairrecon_core.cohort.folder import (
    amend_info,
    assign_age_groups,
    assign_folds,
    assign_roles,
    assign_splits,
    funnel,
    load_cohort,
    write_cohort,
)
from fairrecon_core.cohort.splits import split_of_fold

SIZE = 16


def make_row(i, patient=None, modality="xray", **more):
    patient = i // 2 if patient is None else patient  # two images each
    row = {"image_id": f"image{i:03}", "patient_id": f"patient{patient:03}", "modality": modality}
    row |= {
        "sex": ("female", "male")[patient % 2],
        "age_years": 20.0 + patient % 60,
        "race": ("white", "black", None)[patient % 3],
    }
    return row | {"y_edema": float(i % 2), "x_view": "ap"} | more


def make_image(i, size=SIZE):
    return np.random.default_rng(i).random((size, size)).astype(np.float32)


def make_items(n=40, masks=False, modality="xray", stop=None, **more):
    for i in range(n):
        if i == stop:
            raise KeyboardInterrupt
        image = make_image(i)
        row = make_row(i, modality=modality, **more)
        yield (image, row, image > 0.5) if masks else (image, row)


def write(folder, items=None, **options):
    items = make_items() if items is None else items
    return write_cohort(folder, items, **({"name": "chest", "seed": 1, "chunk": 8} | options))


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def one(**changes):
    """A cohort of three images, the second of which is changed."""
    for i in range(3):
        yield make_image(i), make_row(i, patient=i) | (changes if i == 1 else {})


IDS = [f"p{i}" for i in range(1000)]


# laws of the splits


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_patient_is_in_two_splits_folds_or_roles(tmp_path, seed):
    for options in ({"roles": (0.7, 0.3)}, {"n_folds": 5, "roles": (0.5, 0.5)}):
        table = write(tmp_path, seed=seed, **options).table
        assert (table.groupby("patient_id")[["split", "role", "fold", "sex", "age_group", "race"]].nunique() == 1).all(
            axis=None
        )


def test_a_split_depends_on_seed_and_patients_only():
    splits = assign_splits(IDS, seed=1)
    shuffled = np.random.default_rng(0).permutation(IDS + IDS[:100])
    pd.testing.assert_series_equal(splits, assign_splits(shuffled, seed=1))
    assert (splits != assign_splits(IDS, seed=2)).any()


def test_the_split_is_the_same_on_every_machine():
    assert assign_splits([f"p{i}" for i in range(10)], seed=1).tolist() == FROZEN


FROZEN = ["test", "train", "train", "train", "train", "train", "test", "train", "validation", "train"]


@pytest.mark.parametrize("n", [3, 10, 99, 501, 4000])
def test_shares_are_exact_and_no_split_is_empty(n):
    counts = Counter(assign_splits(range(n), seed=1))
    for split, share in {"train": 0.7, "validation": 0.1, "test": 0.2}.items():
        assert counts[split] >= 1 and abs(counts[split] - share * n) <= (1 if n > 9 else 1.2)


def test_the_split_ignores_the_traits():
    splits = assign_splits(IDS, seed=1)
    odd = np.array([int(patient[1:]) % 2 for patient in splits.index])
    share = odd[splits == "test"].mean()
    assert abs(share - 0.5) < 4 * 0.5 / math.sqrt((splits == "test").sum())


def test_different_seeds_split_independently():
    one_, other = (assign_splits(IDS, seed=seed) == "test" for seed in (1, 2))
    expected = 1000 * 0.2 * 0.2
    assert abs((one_ & other).sum() - expected) < 4 * math.sqrt(expected * 0.64)


def test_roles_share_out_each_split_and_leave_the_test_patients_both():
    splits = assign_splits(IDS, seed=1)
    roles = assign_roles(splits, seed=1)
    assert Counter(roles[splits == "train"]) == {"reconstruction": 490, "prediction": 210}
    assert Counter(roles[splits == "validation"]) == {"reconstruction": 70, "prediction": 30}
    assert set(roles[splits == "test"]) == {"both"}
    assert set(assign_roles(splits, seed=1, shares=None)) == {"both"}


def test_a_role_in_one_split_does_not_depend_on_the_other_patients():
    splits = assign_splits(IDS, seed=1)
    whole, part = assign_roles(splits, seed=1), assign_roles(splits[splits != "train"], seed=1)
    pd.testing.assert_series_equal(whole[part.index], part)


def test_folds_are_equal_and_cover_everyone_once(tmp_path):
    folds = assign_folds(IDS[:23], seed=1, n_folds=5)
    assert sorted(Counter(folds).values()) == [4, 4, 5, 5, 5]
    cohort = write(tmp_path, n_folds=5)
    tested = [cohort.table["patient_id"][cohort.select("test", fold=fold)].unique() for fold in range(5)]
    assert sorted(np.concatenate(tested)) == sorted(cohort.table["patient_id"].unique())


def test_every_fold_keeps_its_three_splits_apart(tmp_path):
    cohort = write(tmp_path, n_folds=5, roles=(0.5, 0.5))
    for fold in range(5):
        parts = [
            set(cohort.table["patient_id"][cohort.select(split, fold=fold)])
            for split in ("train", "validation", "test")
        ]
        assert sum(map(len, parts)) == len(set.union(*parts)) == 20
        assert min(map(len, parts)) == 4
    assert (cohort.splits(0) == cohort.table["split"]).all()
    assert set(cohort.select("test", "prediction", fold=2)) == set(cohort.select("test", fold=2))


@pytest.mark.parametrize(("n_patients", "n_folds", "train"), [(75, 3, 37), (20, 5, 12), (40, 10, 32)])
def test_validation_is_a_quarter_of_who_is_not_tested_and_at_most_a_fold(n_patients, n_folds, train):
    folds = assign_folds(IDS[:n_patients], seed=1, n_folds=n_folds)
    for fold in range(n_folds):
        splits = split_of_fold(folds, fold, n_folds, seed=1)
        assert set(splits.index[splits == "test"]) == set(folds.index[folds == fold])
        assert set(folds[splits == "validation"]) == {(fold + 1) % n_folds}
        assert (splits == "train").sum() == train
        shuffled = folds.sample(frac=1, random_state=3)
        pd.testing.assert_series_equal(split_of_fold(shuffled, fold, n_folds, seed=1).reindex(folds.index), splits)


def test_the_rows_own_split_is_kept_and_can_be_computed_before_the_images(tmp_path):
    splits = assign_splits([make_row(i)["patient_id"] for i in range(40)], seed=7)
    wanted = {patient for patient, split in splits.items() if split != "train"}
    items = [(image, row | {"split": splits[row["patient_id"]]}) for image, row in make_items()]
    whole, part = (
        write(tmp_path / "a", items),
        write(tmp_path / "b", [i for i in items if i[1]["patient_id"] in wanted]),
    )
    assert (whole.table["split"] == whole.table["patient_id"].map(splits)).all()
    kept = whole.table[whole.table["patient_id"].isin(wanted)]
    assert (
        part.table[["image_id", "split", "role"]].values.tolist() == kept[["image_id", "split", "role"]].values.tolist()
    )


def test_skew_thins_one_subgroup_of_the_training_split_by_patient(tmp_path):
    even, skewed = write(tmp_path / "a"), write(tmp_path / "b", skew={"sex": ("female", 0.5)})
    changed = even.table["split"] != skewed.table["split"]
    assert set(skewed.table["split"][changed]) == {"unused"} and set(even.table["split"][changed]) == {"train"}
    assert set(even.table["sex"][changed]) == {"female"}
    women = even.describe().loc[("sex", "female"), "train"]
    assert skewed.describe().loc[("sex", "female"), "train"] == round(women / 2)
    assert not set(skewed.select("train")) & set(skewed.select("unused"))
    assert (skewed.table.groupby("patient_id")["split"].nunique() == 1).all()


def test_skew_0_and_1_take_all_and_nothing(tmp_path):
    table = write(tmp_path / "a", skew={"age_group": ("old", 0.0)}).table
    assert not ((table["split"] == "train") & (table["age_group"] == "old")).any()
    pd.testing.assert_frame_equal(write(tmp_path / "b", skew={"sex": ("male", 1.0)}).table, write(tmp_path / "c").table)


# age groups


def test_age_groups_by_hand():
    ages = [57.9, 58, 58.1, np.nan]
    assert assign_age_groups(ages, 58).tolist() == ["young", "old", "old", "unknown"]
    assert assign_age_groups(ages, 58, at_cut_is_young=True).tolist() == ["young", "young", "old", "unknown"]


def test_the_default_cut_is_the_median_over_patients_not_images(tmp_path):
    ages = {0: 30.0, 1: 40.0, 2: 70.0, 3: np.nan}
    patients = [0, 1, 2, 2, 2, 2, 3]
    items = [(make_image(i), make_row(i, patient, age_years=ages[patient])) for i, patient in enumerate(patients)]
    cohort = write(tmp_path, items)
    assert cohort.info["age_cut_years"] == 40
    assert cohort.table["age_group"].tolist() == ["young", "old", "old", "old", "old", "old", "unknown"]


def test_the_cut_can_be_given_and_is_stored(tmp_path):
    cohort = write(tmp_path, age_cut_years=25, age_cut_is_young=True)
    assert cohort.info["age_cut_years"] == 25 and cohort.info["age_cut_is_young"]
    assert (cohort.table["age_group"] == np.where(cohort.table["age_years"] <= 25, "young", "old")).all()
    assert write(tmp_path, age_cut_years=0).info["age_cut_years"] == 29.5


def test_a_patient_who_grows_older_stays_in_one_age_group(tmp_path):
    items = [(make_image(i), make_row(i, patient=0, age_years=age)) for i, age in enumerate([np.nan, 70, 50])]
    assert write(tmp_path, items, age_cut_years=60).table["age_group"].tolist() == ["young"] * 3


def test_without_any_age_everybody_is_unknown(tmp_path):
    cohort = write(tmp_path, make_items(age_years=None))
    assert set(cohort.table["age_group"]) == {"unknown"} and cohort.info["age_cut_years"] is None


# what is missing, and what contradicts itself


@pytest.mark.parametrize("missing", [None, np.nan, "", pd.NA, "unknown"])
def test_a_missing_attribute_is_unknown_and_counted(tmp_path, missing):
    cohort = write(tmp_path, make_items(4, sex=missing, race=missing))
    assert set(cohort.table["sex"]) == set(cohort.table["race"]) == {"unknown"}
    assert cohort.describe().loc[("sex", "unknown"), "patients"] == 2


def test_what_is_known_of_a_patient_holds_for_all_images(tmp_path):
    items = [(make_image(i), make_row(i, patient=0, sex=sex)) for i, sex in enumerate([None, "male", None])]
    cohort = write(tmp_path, items)
    assert cohort.table["sex"].tolist() == ["male"] * 3 and cohort.info["n_traits_filled"] == 2


def test_a_patient_with_two_sexes_is_refused_or_unknown_as_asked(tmp_path):
    items = [(make_image(i), make_row(i, patient=i // 2, sex=("male", "female", "male")[i])) for i in range(3)]
    with pytest.raises(ValueError, match="patient 'patient000' has sex 'male' and 'female'.*conflicts='unknown'"):
        write(tmp_path, items)
    assert write(tmp_path, items, conflicts="unknown").table["sex"].tolist() == ["unknown", "unknown", "male"]


def test_labels_not_given_are_not_recorded(tmp_path):
    items = [(make_image(0), make_row(0)), (make_image(1), make_row(1) | {"y_gout": 1, "y_edema": None})]
    table = write(tmp_path, items).table
    assert np.isnan(table["y_gout"][0]) and table["y_gout"][1] == 1 and np.isnan(table["y_edema"][1])


def test_declared_tasks_get_a_column_and_others_are_refused(tmp_path):
    table = write(tmp_path, tasks=["edema", "gout"]).table
    assert table["y_gout"].isna().all() and table["y_edema"].notna().all()
    refused(
        tmp_path, r"image 'image000': task 'edema' is not .* did you mean 'oedema'\?", make_items(), tasks=["oedema"]
    )


# pixels


@pytest.mark.parametrize(("modality", "bits"), [("xray", 8), ("mri", 16)])
def test_pixels_survive_within_half_a_step_and_then_for_good(tmp_path, modality, bits):
    cohort = write(tmp_path / "a", make_items(modality=modality))
    images = np.stack([make_image(i) for i in range(40)])
    assert cohort.images.dtype == f"uint{bits}" and cohort.images_at(range(40)).dtype == np.float32
    assert np.abs(cohort.images_at(slice(None)) - images).max() <= 0.501 / (2**bits - 1)
    again = write(tmp_path / "b", [(cohort.image(i), make_row(i, modality=modality)) for i in range(40)])
    assert (again.images == cohort.images).all()


def test_row_i_of_the_table_is_image_i(tmp_path):
    cohort = write(tmp_path, make_items(masks=True, modality="mri"))
    assert (cohort.table["row"] == np.arange(40)).all() and len(cohort) == 40
    rows = np.array([31, 4, 4])
    for picked, row in zip(cohort.images_at(rows), rows):
        assert (picked == cohort.image(row)).all()
        assert (cohort.mask(row) == (make_image(row) > 0.5)).all()
    assert cohort.masks_at(rows).shape == (3, SIZE, SIZE) and cohort.masks_at(rows).dtype == bool


def test_full_range_reaches_both_ends(tmp_path):
    ends = np.zeros((SIZE, SIZE))
    ends[0] = 1
    cohort = write(tmp_path, [(ends, make_row(0))])
    assert cohort.image(0).min() == 0 and cohort.image(0).max() == 1


def test_stored_bytes_are_taken_as_they_are(tmp_path):
    film = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert (write(tmp_path, [(film, make_row(0))]).images[0] == film).all()


def test_the_files_are_ordinary_npy_files_mapped_not_read(tmp_path):
    cohort = write(tmp_path, make_items(masks=True))
    assert isinstance(cohort.images, np.memmap) and not cohort.images.flags.writeable
    assert (np.load(tmp_path / "images.npy") == cohort.images).all()
    assert np.load(tmp_path / "masks.npy").dtype == bool


def test_a_cohort_without_masks_says_so(tmp_path):
    with pytest.raises(ValueError, match=r"has no masks: write it with items \(image, row, mask\)"):
        write(tmp_path).mask(0)


def test_an_excerpt_keeps_the_table_and_some_pixels(root, tmp_path):
    write_excerpt = tool(root, "example").write_excerpt
    whole = write(tmp_path / "whole", make_items(masks=True))
    part = write_excerpt(whole, tmp_path / "part", [31, 4, 4, 17])
    pd.testing.assert_frame_equal(part.table, whole.table)
    assert part.pixel_rows.tolist() == [4, 17, 31] and whole.pixel_rows.tolist() == list(range(40))
    assert (part.images_at([31, 4]) == whole.images_at([31, 4])).all() and (part.mask(17) == whole.mask(17)).all()
    assert part.image(17).shape == (SIZE, SIZE)
    chosen = part.select("train", with_pixels=True)
    assert set(chosen) == set(part.select("train")) & {4, 17, 31} and list(chosen) == sorted(chosen)
    assert (whole.select("train", with_pixels=True) == whole.select("train")).all()
    for rows in (5, [4, 5], 39, slice(None)):
        with pytest.raises(
            LookupError, match="image 'image0(05|39|00)' is not in this excerpt.*3 of 40.*run notebook 01"
        ):
            part.images_at(rows)
    load_cohort(tmp_path / "part", verify=True)
    again = write_excerpt(part, tmp_path / "again", [31])
    assert (again.image(31) == whole.image(31)).all()
    with pytest.raises(ValueError, match="at least one row"):
        write_excerpt(whole, tmp_path / "none", [])


# selecting and counting


def test_select_gives_the_rows_of_a_mask(tmp_path):
    cohort = write(tmp_path, roles=(0.7, 0.3))
    table = cohort.table
    assert cohort.select().tolist() == list(range(40))
    assert cohort.select("train").tolist() == table.index[table["split"] == "train"].tolist()
    both = (table["split"] == "train") & (table["role"] == "prediction")
    assert cohort.select("train", "prediction").tolist() == table.index[both].tolist()
    assert cohort.select("test", "prediction").tolist() == cohort.select("test", "reconstruction").tolist()
    assert cohort.select(split="test", role="both").tolist() == cohort.select("test").tolist()


def test_select_refuses_what_does_not_exist(tmp_path):
    cohort = write(tmp_path)
    for arguments, message in (
        ({"split": "tests"}, r"split 'tests' .* did you mean 'test'\?"),
        ({"role": "predict"}, r"role 'predict' .* did you mean 'prediction'\?"),
        ({"fold": 1}, "has 1 folds.*no fold 1"),
    ):
        with pytest.raises(ValueError, match=message):
            cohort.select(**arguments)


def test_describe_counts_by_hand(tmp_path):
    rows = [
        (0, "female", "train"),
        (0, "female", "train"),
        (1, "male", "test"),
        (2, None, "test"),
        (3, "female", "test"),
    ]
    items = [(make_image(i), make_row(i, p, sex=sex, split=split)) for i, (p, sex, split) in enumerate(rows)]
    counts = write(tmp_path, items).describe()
    columns = ["patients", "images", "train", "validation", "test"]
    assert counts.loc[("all", "all"), columns].tolist() == [4, 5, 1, 0, 3]
    assert counts.loc[("sex", "female"), columns].tolist() == [2, 3, 1, 0, 1]
    assert counts.loc["sex"].index.tolist() == ["female", "male", "unknown"]
    assert counts.loc["sex", "patients"].sum() == counts.loc["race", "patients"].sum() == 4


# determinism and resuming


def test_equal_items_make_equal_files_whatever_the_chunk(tmp_path):
    for folder, chunk in (("a", 1), ("b", 7), ("c", 1000)):
        write(tmp_path / folder, make_items(masks=True), chunk=chunk)
    assert contents(tmp_path / "a") == contents(tmp_path / "b") == contents(tmp_path / "c")
    assert set(contents(tmp_path / "a")) == {"cohort.json", "cohort.parquet", "images.npy", "masks.npy"}


@pytest.mark.parametrize("masks", [False, True])
def test_a_resumed_conversion_is_byte_identical(tmp_path, masks):
    write(tmp_path / "whole", make_items(masks=masks))
    for stop in (0, 3, 8, 9, 39):
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "cut", make_items(masks=masks, stop=stop))
        with pytest.raises(FileNotFoundError, match="run notebook 01"):
            load_cohort(tmp_path / "cut")
    write(tmp_path / "cut", make_items(masks=masks))
    assert contents(tmp_path / "whole") == contents(tmp_path / "cut")


def test_resuming_does_not_decode_what_is_there(tmp_path):
    calls = []

    def lazy(stop=None):
        for i in range(40):
            if i == stop:
                raise KeyboardInterrupt
            yield (lambda i=i: calls.append(i) or make_image(i)), make_row(i)

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, lazy(stop=20))
    assert calls == list(range(20))
    write(tmp_path, lazy())
    assert calls == list(range(20)) + list(range(16, 40))  # chunks of 8: two were finished


@pytest.mark.parametrize("damage", ["images.npy.part", "masks.npy.part", "rows.jsonl.part"])
@pytest.mark.parametrize("lost", [1, 100, 10**6, -50])
def test_a_torn_part_file_is_mended(tmp_path, damage, lost):
    """A stop in the middle of a write: bytes are missing at the end, or (negative) pixels came without their line."""
    write(tmp_path / "whole", make_items(masks=True))
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "cut", make_items(masks=True, stop=30))
    path = tmp_path / "cut" / damage
    whole = path.read_bytes()
    path.write_bytes(
        whole + bytes(-lost) if lost < 0 and damage != "rows.jsonl.part" else whole[: max(0, len(whole) - abs(lost))]
    )
    write(tmp_path / "cut", make_items(masks=True))
    assert contents(tmp_path / "whole") == contents(tmp_path / "cut")


def test_pixels_spoilt_while_stopped_are_written_again(tmp_path):
    write(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "cut", make_items(stop=30))
    path = tmp_path / "cut" / "images.npy.part"
    spoilt = bytearray(path.read_bytes())
    spoilt[128 + 5 * SIZE * SIZE] ^= 1
    path.write_bytes(spoilt)
    write(tmp_path / "cut")
    assert contents(tmp_path / "whole") == contents(tmp_path / "cut")


def test_other_items_than_last_time_are_not_mixed_in(tmp_path):
    write(tmp_path / "whole", make_items(n=20))
    for kind, options in (({"age_years": 50.0}, {}), ({}, {"seed": 2}), ({}, {"extra": {"simulator_version": "0"}})):
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "cut", make_items(stop=30, **kind), **options)
        write(tmp_path / "cut", make_items(n=20))
        assert contents(tmp_path / "whole") == contents(tmp_path / "cut")


def test_a_killed_conversion_is_resumed(tmp_path):
    """SIGKILL in another process, in the middle of a chunk."""
    script = """
        import os, signal, sys
        sys.path.insert(0, sys.argv[1])
        from test_cohort import make_items, write
        from pathlib import Path
        def items():
            for i, item in enumerate(make_items(masks=True)):
                if i == 21:
                    os.kill(os.getpid(), signal.SIGKILL)
                yield item
        write(Path(sys.argv[2]), items())
    """
    tests = os.path.dirname(__file__)
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(script), tests, tmp_path / "cut"], check=False)
    assert result.returncode == -signal.SIGKILL
    with pytest.raises(FileNotFoundError, match=r"unfinished \(16 images so far\).* again to continue"):
        load_cohort(tmp_path / "cut")
    write(tmp_path / "cut", make_items(masks=True))
    write(tmp_path / "whole", make_items(masks=True))
    assert contents(tmp_path / "whole") == contents(tmp_path / "cut")


def test_a_finished_cohort_stays_until_the_new_one_is_complete(tmp_path):
    old = write(tmp_path, make_items(n=10, masks=True))
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, make_items(stop=30), seed=2)
    assert load_cohort(tmp_path, verify=True).info == old.info
    assert len(write(tmp_path, seed=2)) == 40
    assert not (tmp_path / "masks.npy").exists()


def test_memory_does_not_grow_with_the_images(tmp_path):
    """What Python holds at most while it writes 100 or 400 images of 64 KiB on disk, in chunks of 16."""
    peaks = []
    for n in (100, 400):
        tracemalloc.start()
        write(tmp_path / str(n), ((make_image(i, 256), make_row(i)) for i in range(n)), chunk=16)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 0.1 * 300 * 256 * 256, f"peaks {peaks} bytes"


def test_the_content_hash_tells_cohorts_apart(tmp_path):
    same, other_pixels, other_split = write(tmp_path / "a"), make_items(), write(tmp_path / "c", seed=2)
    changed = [(image.round(1), row) for image, row in other_pixels]
    hashes = {cohort.info["content_hash"] for cohort in (same, write(tmp_path / "b", changed), other_split)}
    assert len(hashes) == 3


def test_what_extra_holds_is_stored(tmp_path):
    info = write(tmp_path, extra={"simulator_version": "7"}).info
    assert info == json.loads((tmp_path / "cohort.json").read_text())
    assert (info["simulator_version"], info["name"], info["seed"], info["counts"]["images"]) == ("7", "chest", 1, 40)


# refusals while writing


def refused(tmp_path, message, items, **options):
    with pytest.raises(ValueError, match=message):
        write(tmp_path, items, **options)


def test_a_leaking_patient_is_refused_by_name(tmp_path):
    items = [(make_image(i), make_row(i, patient=0, split=split)) for i, split in enumerate(["train", "test"])]
    refused(tmp_path, r"patient 'patient000' is in two splits, 'train' and 'test' \(image 'image001'\)", items)


def test_a_word_outside_the_vocabulary_is_refused_with_the_nearest(tmp_path):
    nearest = {("sex", "Female"): "female", ("race", "Asian"): "asian", ("modality", "x-ray"): "xray"}
    nearest |= {("split", "testing"): "test", ("role", "predict"): "prediction"}
    for (key, value), word in nearest.items():
        message = rf"image 'image001': {key} '{value}' is not .* did you mean '{word}'\?"
        refused(tmp_path, message, one(**{key: value}))


@pytest.mark.parametrize("label", [2, 0.5, -1, math.inf])
def test_a_label_other_than_0_1_nan_is_refused(tmp_path, label):
    refused(tmp_path, r"image 'image001': y_edema is .*0, 1 or NaN", one(y_edema=label))
    refused(tmp_path, r"image 'image001': true_edema is .*0, 1 or NaN", one(true_edema=label))


@pytest.mark.parametrize("age", [-1, 121, math.inf, "old"])
def test_an_impossible_age_is_refused(tmp_path, age):
    refused(tmp_path, "image 'image001': .*(age_years|could not convert)", one(age_years=age))


@pytest.mark.parametrize("key", ["image_id", "patient_id", "modality", "sex", "age_years", "race"])
def test_a_row_without_a_required_key_is_refused(tmp_path, key):
    row = make_row(0)
    del row[key]
    refused(tmp_path, f"lacks '{key}'", [(make_image(0), row)])


def test_unknown_and_empty_keys_are_refused(tmp_path):
    refused(
        tmp_path, r"image 'image001': unknown key 'age_year' .* did you mean 'age_years'\?.*x_<name>", one(age_year=3)
    )
    refused(tmp_path, "image 'image001': empty 'patient_id'", one(patient_id=None))
    refused(tmp_path, "image nan: empty 'image_id'", one(image_id=np.nan))


def test_a_repeated_image_id_is_refused(tmp_path):
    refused(tmp_path, "image_id 'image000' comes twice", one(image_id="image000"))


def spoilt(image):
    for i in range(3):
        yield (image if i == 1 else make_image(i)), make_row(i)


def test_images_that_are_not_images_are_refused_by_name(tmp_path):
    for value, message in ((np.nan, "not finite: 1 pixels"), (np.inf, "not finite"), (1.01, r"spans \[.*1.01\]"),
                           (-0.01, r"spans \[-0.01,")):  # fmt: skip
        image = make_image(1)
        image[3, 4] = value
        refused(tmp_path, f"image 'image001' (is )?{message}", spoilt(image))
    refused(tmp_path, r"image 'image001' has shape \(8, 8\), should be \(16, 16\)", spoilt(make_image(1, 8)))
    refused(tmp_path, r"image 'image001' has shape \(3, 16, 16\)", spoilt(np.zeros((3, 16, 16))))
    refused(tmp_path, "image 'image001' has pixels of type int64", spoilt(np.zeros((16, 16), int)))


def test_masks_that_do_not_fit_are_refused_by_name(tmp_path):
    good = np.zeros((SIZE, SIZE), bool)
    for mask, message in ((good[:8], "mask of image 'image001' has shape"), (good + 0.5, "other values than 0 and 1"),
                          (None, "image 'image001' has has_masks False")):  # fmt: skip
        items = [(make_image(i), make_row(i), mask if i == 1 else good) for i in range(3)]
        refused(tmp_path, message, items)


def test_two_modalities_in_one_cohort_are_refused(tmp_path):
    refused(tmp_path, "image 'image001' has modality 'mri', the first .* 'xray'", one(modality="mri"))


def test_an_empty_or_short_iterator_is_refused(tmp_path):
    refused(tmp_path, "no items for cohort 'chest'", [])
    refused(tmp_path, "should have 41 images, the items hold 40", make_items(), n_images=41)


def test_impossible_choices_are_refused_before_anything_is_written(tmp_path):
    for options, message in (
        ({"split": (0.7, 0.1, 0.1)}, "sum to 1"),
        ({"roles": (0.9, 0.3)}, "sum to 1"),
        ({"n_folds": 2}, "at least 3"),
        ({"skew": {"sex": ("woman", 0.5)}}, "sex 'woman'"),
        ({"skew": {"sexes": ("female", 0.5)}}, r"did you mean 'sex'\?"),
        ({"skew": {"sex": ("female", 2)}}, r"share in \[0, 1\]"),
        ({"skew": {"sex": ("female", 0.5)}, "n_folds": 5}, "use n_folds=1"),
        ({"conflicts": "ignore"}, "conflicts 'ignore'"),
    ):
        refused(tmp_path / "new", message, make_items(), **options)
        assert not (tmp_path / "new").exists()


def test_more_folds_than_patients_are_refused(tmp_path):
    refused(tmp_path, "5 folds need as many patients, there are 2", make_items(n=4), n_folds=5)


# refusals while reading


def test_no_cohort_names_the_notebook(tmp_path):
    with pytest.raises(FileNotFoundError, match="no cohort 'chest' in .*: run notebook 01"):
        load_cohort(tmp_path / "chest")


@pytest.mark.parametrize("name", ["images.npy", "masks.npy", "cohort.parquet", "cohort.json"])
def test_a_truncated_file_is_refused_by_name(tmp_path, name):
    write(tmp_path, make_items(masks=True))
    whole = (tmp_path / name).read_bytes()
    for length in (0, 60, 128, len(whole) - 3):
        (tmp_path / name).write_bytes(whole[:length])
        with pytest.raises(ValueError, match=rf"{name} .*(truncated|damaged).*(delete|run notebook 01)"):
            load_cohort(tmp_path)


@pytest.mark.parametrize("name", ["images.npy", "masks.npy", "cohort.parquet"])
def test_a_missing_file_is_refused_by_name(tmp_path, name):
    write(tmp_path, make_items(masks=True))
    (tmp_path / name).unlink()
    with pytest.raises((ValueError, FileNotFoundError), match=rf"{name}.*run notebook 01"):
        load_cohort(tmp_path)


def test_files_of_two_cohorts_are_not_mixed(tmp_path):
    write(tmp_path / "a")
    write(tmp_path / "b", make_items(n=20))
    for name, message in (
        ("images.npy", "images.npy is truncated or of another cohort"),
        ("cohort.parquet", "does not fit"),
    ):
        mixed = tmp_path / "a" / name
        kept = mixed.read_bytes()
        mixed.write_bytes((tmp_path / "b" / name).read_bytes())
        with pytest.raises(ValueError, match=message):
            load_cohort(tmp_path / "a")
        mixed.write_bytes(kept)
    load_cohort(tmp_path / "a")


def test_a_leak_put_into_a_finished_table_is_refused(tmp_path):
    table = write(tmp_path).table
    table.loc[0, "split"], table.loc[1, "split"] = "test", "train"
    from fairrecon_core.tables import write_parquet

    write_parquet(tmp_path / "cohort.parquet", "cohort", table)
    with pytest.raises(ValueError, match="patient 'patient000' is in two splits, 'test' and 'train'"):
        load_cohort(tmp_path)


def test_a_flipped_pixel_is_found_when_asked(tmp_path):
    write(tmp_path)
    path = tmp_path / "images.npy"
    spoilt = bytearray(path.read_bytes())
    spoilt[5000] ^= 1
    path.write_bytes(spoilt)
    load_cohort(tmp_path)
    with pytest.raises(ValueError, match="content hash differs"):
        load_cohort(tmp_path, verify=True)


def test_the_funnel_counts_people_from_the_record_to_the_audit(tmp_path):
    sexes = ["female", None, "male", None]
    items = [(make_image(i), make_row(i, y_edema=[0, 1, None][i % 3], sex=sexes[i // 2 % 4])) for i in range(40)]
    cohort = write(tmp_path, items, split=(0.2, 0.1, 0.7))
    steps = {row["step"]: (row["patients"], row["images"]) for row in funnel(cohort)}
    labelled = cohort.table["y_edema"].notna()
    assert steps["in the cohort"] == (20, 40) and steps["with a label"] == (20, int(labelled.sum()))
    assert steps["of these with a known sex"] == (10, int((labelled & (cohort.table["sex"] != "unknown")).sum()))
    test = cohort.table[cohort.table["split"] == "test"]
    asked = {row["step"]: row for row in funnel(cohort, test["image_id"].iloc[:-2])}
    seen = test.iloc[:-2][test.iloc[:-2]["y_edema"].notna() & (test.iloc[:-2]["sex"] != "unknown")]
    assert asked["audited by sex"]["patients"] == seen["patient_id"].nunique() > 0
    assert asked["audited by sex"]["images"] == len(seen) and seen["sex"].nunique() == 2
    women = {row["step"]: row for row in funnel(cohort, seen.loc[seen["sex"] == "female", "image_id"])}
    assert women["audited by sex"]["patients"] == 0, "one group is no gap"
    told = amend_info(cohort, funnel=[{"step": "recorded", "patients": 99, "images": 100}])
    assert funnel(told)[0]["patients"] == 99 and told.info["content_hash"] == cohort.info["content_hash"]


def test_ids_are_texts_without_blanks_whatever_their_type(tmp_path):
    rows = [
        make_row(i, patient=0) | {"image_id": name, "patient_id": 7.0} for i, name in enumerate([1, 2.0, " a ", "07"])
    ]
    table = write(tmp_path, [(make_image(i), row) for i, row in enumerate(rows)]).table
    assert table["image_id"].tolist() == ["1", "2", "a", "07"] and set(table["patient_id"]) == {"7"}
