"""OASIS-1 and the tuberculosis films of Shenzhen and Montgomery: the documented layout, drawn, converted."""

import sys
import tarfile
from pathlib import Path

import fake_downloads
import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data_scripts"))

import oasis1
import shenzhen


def convert(script, *arguments):
    return script.main([str(argument) for argument in arguments])


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


# OASIS-1


@pytest.fixture(scope="module")
def discs(tmp_path_factory):
    return fake_downloads.write_oasis(tmp_path_factory.mktemp("oasis") / "OASIS-1")


def test_oasis_by_hand(discs, tmp_path, capsys):
    cohort = convert(oasis1, discs, tmp_path / "out", "--size", 208)
    table = cohort.table
    assert len(table) == 7 * 5 and table["patient_id"].nunique() == 6 and cohort.tasks == ["dementia"]
    assert table["x_rescan"].sum() == 5 and (table.groupby("patient_id")["split"].nunique() == 1).all()
    labels = table.drop_duplicates("x_exam").set_index("x_exam")["y_dementia"]
    assert np.isnan(labels["OAS1_0001_MR1"]) and labels[["OAS1_0002_MR1", "OAS1_0004_MR1"]].tolist() == [0, 1]
    people = fake_downloads.patient_table("brain", 6, seed=1)
    row = table.set_index("image_id").loc["OAS1_0002_MR1_090"]
    assert (row.sex, row.age_years, row.race) == (people.sex[1], people.age_years[1], "unknown")
    patient = fake_downloads.BrainPatient((1, fake_downloads.STREAMS.index("image"), 1),
                                          1.0 if row.sex == "male" else -1.0, 0.0)  # fmt: skip
    drawn = fake_downloads.render(patient, 176, 1, 10.0, fake_downloads.SEQUENCES["T1"], tumour=False).images[0]
    seen = cohort.image(row.row)[16:192, 16:192]  # 208 x 176, padded to a square
    assert np.abs(seen - drawn / drawn.max()).max() < 2e-3, "the face on top, the patient's right on the left"
    printed = capsys.readouterr().out
    assert "5 second scans" not in printed and "1 second scans stay with their people" in printed
    assert "patients: 6 of 416, partial" in printed and cohort.info["complete"] is False


def test_discs_as_downloaded_give_the_same_cohort(discs, tmp_path):
    packed = tmp_path / "packed"
    packed.mkdir()
    for disc in ("disc1", "disc2"):
        with tarfile.open(packed / f"oasis_cross-sectional_{disc}.tar.gz", "w:gz", compresslevel=1) as archive:
            archive.add(discs / disc, disc)
    (packed / "oasis_cross-sectional.csv").write_bytes((discs / "oasis_cross-sectional.csv").read_bytes())
    options = ("--size", 32, "--slices", 90, 90, "--scale", "volume-percentile")
    from_folder = convert(oasis1, discs, tmp_path / "a", *options)
    from_tars = convert(oasis1, packed, tmp_path / "b", *options)
    one, other = (cohort.table.sort_values("image_id") for cohort in (from_folder, from_tars))
    pd.testing.assert_frame_equal(*(t.drop(columns="row").reset_index(drop=True) for t in (one, other)))
    assert (from_folder.images_at(one["row"]) == from_tars.images_at(other["row"])).all()


def test_what_is_wrong_with_oasis_is_named(discs, tmp_path):
    with pytest.raises(ValueError, match="has 176 slices, asked for 190: choose --slices below"):
        convert(oasis1, discs, tmp_path / "out", "--slices", 180, 190)
    text = (discs / "oasis_cross-sectional.csv").read_text()
    for old, new, message in (("OAS1_0001_MR1", "OAS1_1", r"the ID should look like OAS1_0001_MR1"),
                              ("OAS1_0002_MR1", "OAS1_0001_MR1", r"holds OAS1_0001_MR1 twice"),
                              (",0.5,", ",5,", r"unknown code '5' in column 'CDR'")):  # fmt: skip
        (tmp_path / "table.csv").write_text(text.replace(old, new))
        with pytest.raises(ValueError, match=message):
            convert(oasis1, discs, tmp_path / "out", "--table", tmp_path / "table.csv")
    broken = tmp_path / "broken" / "OAS1_0001_MR1/PROCESSED/MPRAGE/T88_111"
    broken.mkdir(parents=True)
    for path in (discs / "disc1/OAS1_0001_MR1/PROCESSED/MPRAGE/T88_111").glob("*masked_gfc*"):
        data = path.read_bytes()
        (broken / path.name).write_bytes(data if path.suffix == ".hdr" else data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"masked_gfc.img is truncated or no Analyze volume"):
        convert(oasis1, tmp_path / "broken", tmp_path / "out", "--table", discs / "oasis_cross-sectional.csv")


# Shenzhen and Montgomery


@pytest.mark.parametrize(("text", "sex", "age", "finding"), [
    ("male 45yrs\nnormal", "male", 45, "normal"),
    ("Female, 33 years\r\nPTB in right upper field.", "female", 33, "PTB in right upper field"),
    ("female  2months\nSTB", "female", 2 / 12, "STB"),
    ("Patient's Sex: F\nPatient's Age: 027Y\nnormal", "female", 27, "normal"),
    ("Patient's Sex: M\nPatient's Age: 004Y\nbilateral miliary nodules", "male", 4, "bilateral miliary nodules"),
    ("Patient's Sex: O\nPatient's Age: 030Y\nnormal", None, 30, None),
    ("", None, None, None),
])  # fmt: skip
def test_readings_in_free_form(text, sex, age, finding):
    found = shenzhen.read_text(text)
    assert found["sex"] == sex and found["age_years"] == (age if age is None else pytest.approx(age))
    assert finding is None or found["x_finding"] == finding


def test_both_sets_become_one_cohort(tmp_path, capsys):
    source = fake_downloads.write_tuberculosis(tmp_path / "x")
    cohort = convert(shenzhen, source, tmp_path / "out", "--size", 32)
    table = cohort.table.set_index("image_id")
    assert len(table) == 12 and table["x_source"].value_counts().to_dict() == {"shenzhen": 6, "montgomery": 6}
    assert (table["y_tuberculosis"] == [int(name[-1]) for name in table.index]).all()
    people = fake_downloads.patient_table("chest", 12, seed=1)
    for i, person in people.iterrows():
        row = table.loc[next(name for name in table.index if f"_{i + 1:04}_" in name)]
        assert (row.sex, row.age_years) == (person.sex, person.age_years)
        assert row.x_finding == ("PTB in the right upper field" if i % 2 else "normal")
    assert "images: 12 of 800, partial" in capsys.readouterr().out


def test_what_cannot_be_read_is_unknown_counted_and_named(tmp_path, capsys):
    source = fake_downloads.write_tuberculosis(tmp_path / "x", 6, montgomery=False)
    readings = source / "ChinaSet_AllFiles/ClinicalReadings"
    (readings / "CHNCXR_0001_0.txt").write_text("adult\nPTB")
    (readings / "CHNCXR_0003_0.txt").unlink()
    film = source / "ChinaSet_AllFiles/CXR_png/CHNCXR_0002_1.png"
    film.write_bytes(film.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"CHNCXR_0002_1.png is truncated or no image"):
        convert(shenzhen, source, tmp_path / "a", "--size", 32)
    cohort = convert(shenzhen, source, tmp_path / "out", "--size", 32, "--skip-broken")
    table = cohort.table.set_index("image_id")
    assert len(table) == 5 and set(table.loc[["CHNCXR_0001_0", "CHNCXR_0003_0"], "sex"]) == {"unknown"}
    printed = capsys.readouterr().out
    assert "sex cannot be read for 2 films: CHNCXR_0001_0, CHNCXR_0003_0" in printed
    assert "1 films have no text" in printed and "images: 5 of 662, partial" in printed
    assert "films whose name and text disagree" in printed
    with pytest.raises(FileNotFoundError, match="no CXR_png"):
        convert(shenzhen, readings, tmp_path / "b")
