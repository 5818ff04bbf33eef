"""The paper's two data sets: UCSF-PDGM's real table, and fixtures in the true layout and formats for the images."""

import gzip
import io
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "../shared/data/ucsf_pdgm/UCSF-PDGM-metadata_v2.csv"
sys.path.insert(0, str(ROOT / "data_scripts"))

import chexpert  # noqa: E402
import ucsf_pdgm  # noqa: E402

real = pytest.mark.skipif(not TABLE.exists(), reason="the real table (../shared/data/ucsf_pdgm) is not here")
SIZE, DEPTH = 24, 10


def convert(script, *arguments):
    return script.main([str(argument) for argument in arguments])


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


# the real table of UCSF-PDGM


@real
def test_the_real_table_gives_the_papers_table_1(capsys):
    table = convert(ucsf_pdgm, TABLE.parent, "--tables-only")
    assert table["exams"].tolist() == [155, 92, 144, 110, 501] == table["paper"].tolist()
    printed = capsys.readouterr().out
    assert "the median is 59" in printed and "misprint for 155 + 92 = 247" in printed


@real
def test_six_of_the_real_exams_are_follow_ups_and_agree_with_their_patients():
    exams = ucsf_pdgm.read_exams(None, TABLE)
    assert exams["patient_id"].nunique() == 495 and exams["x_follow_up"].sum() == 6
    pairs = exams[exams["patient_id"].isin(exams.loc[exams["x_follow_up"] == 1, "patient_id"])]
    assert len(pairs) == 12
    assert (pairs.groupby("patient_id")[["sex", "age_years", "x_grade", "x_diagnosis", "x_idh"]].nunique() == 1).all(
        None
    )


@real
def test_no_other_two_real_exams_look_like_one_patient():
    table = pd.read_csv(TABLE)
    traits = ["Sex", "Age at MRI", "WHO CNS Grade", "OS", "MGMT index", "IDH"]
    table["patient"] = [ucsf_pdgm.exam_of(name)[0] for name in table["ID"]]
    twins = table[table.duplicated(traits, keep=False) & (table["OS"] > 0)].groupby(traits)["patient"].nunique()
    assert len(twins) == 6 and (twins == 1).all()


@real
def test_labels_of_the_real_table():
    exams = ucsf_pdgm.read_exams(None, TABLE)
    assert exams["y_tumour_grade"].sum() == 402 and exams["y_tumour_type"].sum() == 374
    assert not exams[["sex", "age_years", "y_tumour_grade", "y_tumour_type"]].isna().any(axis=None)
    assert (exams.loc[exams["y_tumour_type"] == 1, "x_idh"] == "wildtype").all()


# UCSF-PDGM's images

HEADER = "ID,Sex,Age at MRI,WHO CNS Grade,Final pathologic diagnosis (WHO 2021),IDH"
ROWS = (
    'UCSF-PDGM-004,M,66,4,"Glioblastoma, IDH-wildtype",wildtype',
    'UCSF-PDGM-429,F,58,4,"Glioblastoma, IDH-wildtype",wildtype',
    'UCSF-PDGM-138,F,58,4,"Glioblastoma, IDH-wildtype",wildtype',
    'UCSF-PDGM-010,M,30,2,"Astrocytoma, IDH-mutant",IDH1 p.R132H',
)
FOLDERS = ("UCSF-PDGM-0004", "UCSF-PDGM-0429", "UCSF-PDGM-0138", "UCSF-PDGM-0010")
SLICES = ("--slices", 3, 6, "--size", SIZE)


def nifti(volume, affine=None) -> bytes:
    """A .nii.gz file, by default in the orientation of UCSF-PDGM: x to the left, y to the back, z up."""
    nibabel = pytest.importorskip("nibabel")
    image = nibabel.Nifti1Image(volume, np.diag([-1, -1, 1, 1]) if affine is None else affine)
    return gzip.compress(image.to_bytes(), mtime=0)


def exam_volumes(seed):
    """FLAIR (int16) and segmentation (uint8) of one exam, (x, y, z); labels 1, 2 and 4 in slice 4."""
    flair = np.random.default_rng(seed).integers(0, 900, (SIZE, SIZE, DEPTH)).astype(np.int16)
    labels = np.zeros(flair.shape, np.uint8)
    for i, label in enumerate((1, 2, 4)):
        labels[4 + i, 7:9, 4] = label
    return flair, labels


def write_ucsf(folder, rows=ROWS, names=FOLDERS, flip=False):
    folder.mkdir()
    (folder / "UCSF-PDGM-metadata_v2.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    for seed, name in enumerate(names):
        place = folder / f"{name}_nifti"
        place.mkdir()
        for ending, volume in zip(("FLAIR", "tumor_segmentation"), exam_volumes(seed)):
            data = nifti(volume[::-1, ::-1], np.eye(4)) if flip else nifti(volume)
            (place / f"{name}_{ending}.nii.gz").write_bytes(data)
        (place / f"{name}_FLAIR_bias.nii.gz").write_bytes(b"not read")
    return folder


def test_ucsf_by_hand(tmp_path, capsys):
    cohort = convert(ucsf_pdgm, write_ucsf(tmp_path / "x"), tmp_path / "out", *SLICES)
    table = cohort.table
    assert len(table) == 4 * 4 and table["patient_id"].nunique() == 3
    assert (cohort.info["age_cut_years"], cohort.info["age_cut_is_young"]) == (58, True)
    row = table.set_index("image_id").loc["UCSF-PDGM-0010_004"]
    assert (row.sex, row.age_years, row.age_group, row.race) == ("male", 30, "young", "unknown")
    assert (row.y_tumour_grade, row.y_tumour_type, row.x_idh, row.x_slice) == (0, 0, "mutated", 4)
    flair, labels = exam_volumes(3)
    film = flair[:, :, 4].T.astype(float)  # x to the left and y to the back: rows are y, columns x
    expected = (film - film.min()) / (film.max() - film.min())
    np.testing.assert_allclose(cohort.image(row.row), expected, atol=1e-5)
    assert (cohort.mask(row.row) == (labels[:, :, 4].T > 0)).all() and row.x_tumour_pixels == 6
    assert table.groupby("x_slice")["x_tumour"].max().to_dict() == {3: 0, 4: 1, 5: 0, 6: 0}
    women = table[table["patient_id"] == "UCSF-PDGM-0429"]
    assert set(women["age_group"]) == {"young"} and women["split"].nunique() == 1 and len(women) == 8
    printed = capsys.readouterr().out
    assert "1 follow-up exams counted with their patients" in printed and "patients: 3 of 495, partial" in printed


def test_the_patients_right_is_on_the_left_whatever_the_file_says(tmp_path):
    one = convert(ucsf_pdgm, write_ucsf(tmp_path / "x"), tmp_path / "a", *SLICES)
    other = convert(ucsf_pdgm, write_ucsf(tmp_path / "y", flip=True), tmp_path / "b", *SLICES)
    assert (one.images[:] == other.images[:]).all() and (one.masks[:] == other.masks[:]).all()


def test_both_spellings_of_a_follow_up_give_the_same_cohort(tmp_path):
    rows = [row.replace("UCSF-PDGM-138", "UCSF-PDGM-0429_FU003d") for row in ROWS]
    names = [name.replace("UCSF-PDGM-0138", "UCSF-PDGM-0429_FU003d") for name in FOLDERS]
    convert(ucsf_pdgm, write_ucsf(tmp_path / "a"), tmp_path / "out", *SLICES)
    for i, (lines, folders) in enumerate([(rows, names), (ROWS, names), (rows, FOLDERS)]):
        convert(ucsf_pdgm, write_ucsf(tmp_path / f"x{i}", lines, folders), tmp_path / f"out{i}", *SLICES)
        assert contents(tmp_path / f"out{i}") == contents(tmp_path / "out")


def test_the_published_mask_leaves_the_enhancing_part_out(tmp_path):
    cohort = convert(ucsf_pdgm, write_ucsf(tmp_path / "x"), tmp_path / "out", *SLICES, "--mask", "published")
    assert cohort.table["x_tumour_pixels"].max() == 4 and cohort.info["mask"] == "published"
    assert cohort.masks[:].sum() == 4 * 4


def test_volume_scaling_keeps_the_slices_of_an_exam_comparable(tmp_path):
    cohort = convert(ucsf_pdgm, write_ucsf(tmp_path / "x"), tmp_path / "out", *SLICES, "--scale", "volume")
    flair = exam_volumes(3)[0].astype(float)
    row = cohort.table.set_index("image_id").loc["UCSF-PDGM-0010_005", "row"]
    expected = (flair[:, :, 5].T - flair.min()) / (flair.max() - flair.min())
    np.testing.assert_allclose(cohort.image(row), expected, atol=1e-5)


def test_a_zip_of_ucsf_is_read_too(tmp_path):
    folder = write_ucsf(tmp_path / "x")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for path in folder.rglob("*.*"):
            archive.write(path, f"PKG/{path.relative_to(folder).as_posix()}")
    convert(ucsf_pdgm, folder, tmp_path / "a", *SLICES)
    convert(ucsf_pdgm, tmp_path / "x.zip", tmp_path / "b", *SLICES)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_an_exam_without_its_segmentation_is_refused_or_left_out(tmp_path, capsys):
    folder = write_ucsf(tmp_path / "x")
    (folder / "UCSF-PDGM-0010_nifti" / "UCSF-PDGM-0010_tumor_segmentation.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"UCSF-PDGM-0010 has no file \*_tumor_seg.*--skip-incomplete"):
        convert(ucsf_pdgm, folder, tmp_path / "out", *SLICES)
    assert len(convert(ucsf_pdgm, folder, tmp_path / "out", *SLICES, "--skip-incomplete")) == 12
    assert "1 exams with one file of two left out: UCSF-PDGM-0010" in capsys.readouterr().out


def test_exams_that_are_not_there_or_not_listed_are_reported(tmp_path, capsys):
    folder = write_ucsf(tmp_path / "x", rows=(*ROWS[:3], ROWS[3].replace("010", "011")))
    assert len(convert(ucsf_pdgm, folder, tmp_path / "out", *SLICES)) == 12
    printed = capsys.readouterr().out
    assert "1 exams of the table are not in the source" in printed
    assert "the table does not list, left out: UCSF-PDGM-0010" in printed


@pytest.mark.parametrize("ending", ["FLAIR", "tumor_segmentation"])
def test_a_truncated_volume_is_refused_by_name_and_mended_goes_on(tmp_path, ending):
    folder = write_ucsf(tmp_path / "x")
    path = folder / "UCSF-PDGM-0138_nifti" / f"UCSF-PDGM-0138_{ending}.nii.gz"
    whole = path.read_bytes()
    for broken in (whole[: len(whole) // 2], gzip.compress(gzip.decompress(whole)[:2000]), b""):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=rf"UCSF-PDGM-0138_{ending}.nii.gz is truncated or no NIfTI volume"):
            convert(ucsf_pdgm, folder, tmp_path / "out", *SLICES)
    path.write_bytes(whole)
    convert(ucsf_pdgm, folder, tmp_path / "out", *SLICES)
    convert(ucsf_pdgm, folder, tmp_path / "other", *SLICES)
    assert contents(tmp_path / "out") == contents(tmp_path / "other")


@pytest.mark.parametrize(("row", "message"), [
    ('UCSF-PDGM-010,M,30,2,"Meningioma",wildtype', r"UCSF-PDGM-010 in .*: unknown code 'Meningioma'.*GLIOBLASTOMA"),
    ('UCSF-PDGM-010,M,30,5,"Astrocytoma, IDH-mutant",x', r"unknown code '5' in column 'WHO CNS Grade'"),
    ('UCSF-PDGM-010,m,30,2,"Astrocytoma, IDH-mutant",x', r"unknown code 'm' in column 'Sex'"),
    ('PDGM-010,M,30,2,"Astrocytoma, IDH-mutant",x', r"the ID should look like UCSF-PDGM-004"),
    ('UCSF-PDGM-0004,M,30,2,"Astrocytoma, IDH-mutant",x', r"holds UCSF-PDGM-0004 twice"),
])  # fmt: skip
def test_an_odd_row_of_the_ucsf_table_is_refused_by_name(tmp_path, row, message):
    with pytest.raises(ValueError, match=message):
        convert(ucsf_pdgm, write_ucsf(tmp_path / "x", rows=(*ROWS[:3], row)), tmp_path / "out", *SLICES)


def test_an_unknown_label_and_too_few_slices_are_refused(tmp_path):
    folder = write_ucsf(tmp_path / "x")
    with pytest.raises(ValueError, match=r"has 10 slices, asked for up to 130: choose --slices"):
        convert(ucsf_pdgm, folder, tmp_path / "out")
    with pytest.raises(ValueError, match="--slices takes a first and a last"):
        convert(ucsf_pdgm, folder, tmp_path / "out", "--slices", 6, 3)
    labels = exam_volumes(0)[1]
    labels[0, 0, 0] = 7
    (folder / "UCSF-PDGM-0004_nifti" / "UCSF-PDGM-0004_tumor_segmentation.nii.gz").write_bytes(nifti(labels))
    with pytest.raises(ValueError, match=r"UCSF-PDGM-0004_tumor_segmentation.nii.gz holds label 7"):
        convert(ucsf_pdgm, folder, tmp_path / "out", *SLICES)


def test_without_nibabel_the_way_out_is_named(tmp_path, monkeypatch):
    folder = write_ucsf(tmp_path / "x")
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(ImportError, match="pip install nibabel"):
        convert(ucsf_pdgm, folder, tmp_path / "out", *SLICES)


# CheXpert

FINDINGS = list(chexpert.FINDINGS)
COLUMNS = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", "No Finding", *FINDINGS]
RACES = {1: "White, non-Hispanic", 2: "Asian", 3: "Black or African American", 4: "Native American, Hispanic",
         5: "Native Hawaiian or Other Pacific Islander", 6: "Other, Hispanic", 7: "Patient Refused"}  # fmt: skip


def entry(patient, study=1, view="view1_frontal", folder="CheXpert-v1.0-small/train", **values):
    """One line of train.csv; blank where nothing is given."""
    line = dict.fromkeys(COLUMNS, "") | {"Sex": ("Female", "Male")[patient % 2], "Age": str(50 + patient % 30)}
    line |= {"Path": f"{folder}/patient{patient:05}/study{study}/{view}.jpg"}
    line |= {"Frontal/Lateral": "Frontal", "AP/PA": "AP"} if "frontal" in view else {"Frontal/Lateral": "Lateral"}
    return line | values


def jpg(seed) -> bytes:
    file = io.BytesIO()
    film = np.random.default_rng(seed).integers(0, 255, (4, 5), dtype=np.uint8)
    Image.fromarray(np.kron(film, np.ones((5, 5), np.uint8))).save(file, "JPEG", quality=95)
    return file.getvalue()


def demographics(column="PRIMARY_RACE", races=RACES):
    patients = [f"patient{patient:05}" for patient in races]
    return pd.DataFrame({"PATIENT": patients, "GENDER": "x", "AGE_AT_CXR": 1, column: list(races.values()),
                         "ETHNICITY": "Hispanic"})  # fmt: skip


def write_chexpert(folder, lines=None, sheet=None, place=lambda path: path):
    lines = [entry(patient, **{"Edema": "1.0"}) for patient in RACES] if lines is None else lines
    top = folder / "CheXpert-v1.0-small"
    top.mkdir(parents=True)
    pd.DataFrame(lines, columns=COLUMNS).to_csv(top / "train.csv", index=False)
    pd.DataFrame([entry(64541, folder="CheXpert-v1.0-small/valid")], columns=COLUMNS).to_csv(
        top / "valid.csv", index=False
    )
    for seed, path in enumerate(
        [*(line["Path"] for line in lines), "CheXpert-v1.0-small/valid/patient64541/study1/view1_frontal.jpg"]
    ):
        target = folder / place(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(jpg(seed))
    (demographics() if sheet is None else sheet).to_csv(folder / "CHEXPERT DEMO.csv", index=False)
    return folder


def test_chexpert_by_hand(tmp_path, capsys):
    cohort = convert(chexpert, write_chexpert(tmp_path / "x"), tmp_path / "out", "--size", 20)
    table = cohort.table.set_index("image_id")
    findings = list(chexpert.FINDINGS.values())
    assert len(table) == 8 and cohort.tasks == findings[:-1] and len(cohort.tasks) == 12, "a device is no finding"
    row = table.loc["patient00002_study1_view1_frontal"]
    assert (row.patient_id, row.sex, row.age_years, row.x_view, row.x_study) == ("patient00002", "female", 52, "ap", 1)
    assert row.y_edema == 1 and np.isnan(row.y_fracture)
    assert (cohort.info["age_cut_years"], cohort.info["age_cut_is_young"]) == (62, True)
    film = np.asarray(Image.open(io.BytesIO(jpg(1))), dtype=float)
    squeezed = np.asarray(Image.fromarray(((film - film.min()) / (film.max() - film.min())).astype(np.float32)).resize(
        (20, 20), Image.Resampling.BILINEAR))  # fmt: skip
    np.testing.assert_allclose(cohort.image(row.row), squeezed, atol=0.5 / 255 + 1e-5)
    printed = capsys.readouterr().out
    assert "white 1 (paper 36110)" in printed and "images: 8 of 191229, partial" in printed


def test_the_six_groups_of_race_and_the_unknown(tmp_path):
    table = convert(chexpert, write_chexpert(tmp_path / "x"), tmp_path / "out", "--size", 20).table
    races = table.set_index("patient_id")["race"]
    assert races.tolist() == [
        "white",
        "asian",
        "black",
        "native_american",
        "pacific_islander",
        "other",
        "unknown",
        "unknown",
    ]
    assert set(chexpert.RACE.values()) == {*chexpert.TABLE_2, "unknown"}
    assert sum(chexpert.TABLE_2.values()) == 56_810


@pytest.mark.parametrize(("policy", "wanted"), [
    ("ignore", [1, 0, None, None]), ("ones", [1, 0, 1, None]), ("zeros", [1, 0, 0, None]),
])  # fmt: skip
def test_uncertain_labels_by_policy(tmp_path, policy, wanted):
    lines = [entry(i + 1, **{"Edema": text}) for i, text in enumerate(("1.0", "0.0", "-1.0", ""))]
    lines += [entry(5), entry(6)]
    source = write_chexpert(tmp_path / "x", lines)
    table = convert(chexpert, source, tmp_path / "out", "--size", 20, "--uncertain", policy).table
    assert table["y_edema"][:4].equals(pd.Series(wanted, dtype=float).rename("y_edema"))
    table = convert(chexpert, source, tmp_path / "out", "--size", 20, "--uncertain", policy, "--blank", "zeros").table
    assert table["y_edema"][3] == 0


def test_no_finding_makes_every_finding_0_but_support_devices(tmp_path):
    lines = [entry(1, **{"No Finding": "1.0", "Support Devices": "1.0"}), entry(2, **{"No Finding": "1.0"}), entry(3)]
    source = write_chexpert(tmp_path / "x", lines)
    table = convert(chexpert, source, tmp_path / "out", "--size", 20, "--findings", "all").table
    findings = [f"y_{task}" for task in chexpert.FINDINGS.values() if task != "support_devices"]
    assert (table.loc[:1, findings] == 0).all(None) and table.loc[2, findings].isna().all()
    assert table["y_support_devices"][0] == 1 and np.isnan(table["y_support_devices"][1])
    twelve = convert(chexpert, source, tmp_path / "twelve", "--size", 20).table
    pd.testing.assert_frame_equal(twelve, table.drop(columns="y_support_devices"))
    assert twelve["x_support_devices"][0] == 1, "a confounder is kept"


def test_laterals_come_in_only_when_asked_for(tmp_path, capsys):
    lines = [entry(1), entry(1, view="view2_lateral"), entry(2), entry(3)]
    source = write_chexpert(tmp_path / "x", lines)
    assert len(convert(chexpert, source, tmp_path / "out", "--size", 20)) == 4
    assert "1 lateral images left out" in capsys.readouterr().out
    table = convert(chexpert, source, tmp_path / "out", "--size", 20, "--views", "all").table
    assert table["x_view"].value_counts().to_dict() == {"ap": 4, "lateral": 1}


def test_splits_and_roles_are_by_patient_in_the_papers_shares(tmp_path):
    lines = [entry(patient, study=study) for patient in range(1, 100) for study in (1, 2)]
    few = ["--min-joined", 0.05]  # the sheet knows seven
    table = convert(chexpert, write_chexpert(tmp_path / "x", lines), tmp_path / "out", "--size", 4, *few).table
    patients = table.drop_duplicates("patient_id")
    assert (table.groupby("patient_id")[["split", "role"]].nunique() == 1).all(None)
    assert patients["split"].value_counts().to_dict() == {"train": 70, "test": 20, "validation": 10}
    assert patients[patients["split"] == "train"]["role"].value_counts().to_dict() == {
        "reconstruction": 49,
        "prediction": 21,
    }


def test_blemishes_of_age_and_sex(tmp_path, capsys):
    lines = [entry(1, Age="0"), entry(2, Age="90"), entry(3, Sex="Unknown")]
    table = convert(chexpert, write_chexpert(tmp_path / "x", lines), tmp_path / "out", "--size", 20).table
    assert np.isnan(table["age_years"][0]) and table["sex"][2] == "unknown"
    assert "1 images with age 0, taken as unknown" in capsys.readouterr().out


def test_the_batches_of_the_full_download_are_read_as_they_are(tmp_path):
    def batch(path):
        return path.replace("CheXpert-v1.0-small/train", "CheXpert-v1.0 batch 2 (train 1)").replace(
            "CheXpert-v1.0-small/valid", "CheXpert-v1.0 batch 1 (validate & csv)/valid")  # fmt: skip

    convert(chexpert, write_chexpert(tmp_path / "x"), tmp_path / "a", "--size", 20)
    convert(chexpert, write_chexpert(tmp_path / "y", place=batch), tmp_path / "b", "--size", 20)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_the_sheet_is_read_from_xlsx_too(tmp_path):
    pytest.importorskip("openpyxl")
    source = write_chexpert(tmp_path / "x")
    by_csv = convert(chexpert, source, tmp_path / "a", "--size", 20).table
    (source / "CHEXPERT DEMO.csv").unlink()
    demographics().to_excel(tmp_path / "CHEXPERT DEMO.xlsx", index=False)
    by_xlsx = convert(chexpert, source, tmp_path / "b", "--size", 20, "--demographics", tmp_path / "CHEXPERT DEMO.xlsx")
    pd.testing.assert_frame_equal(by_csv, by_xlsx.table)


@pytest.mark.parametrize("form", ["csv", "xlsx"])
def test_a_sheet_without_a_race_column_is_refused(tmp_path, form):
    path = tmp_path / f"sheet.{form}"
    sheet = demographics(column="RACE")
    if form == "xlsx":
        pytest.importorskip("openpyxl")
        sheet.to_excel(path, index=False)
    else:
        sheet.to_csv(path, index=False)
    source = write_chexpert(tmp_path / "x")
    with pytest.raises(ValueError, match=r"has no column 'PRIMARY_RACE'; it has PATIENT, GENDER, AGE_AT_CXR, RACE"):
        convert(chexpert, source, tmp_path / "out", "--demographics", path)


def test_a_missing_or_broken_sheet_names_the_way_out(tmp_path, monkeypatch):
    source = write_chexpert(tmp_path / "x")
    (source / "CHEXPERT DEMO.csv").unlink()
    for more in ([], ["--demographics", tmp_path / "nowhere.xlsx"]):
        with pytest.raises(FileNotFoundError, match=r"no .*\.xlsx: get it from Stanford AIMI.*--demographics none"):
            convert(chexpert, source, tmp_path / "out", *more)
    assert set(convert(chexpert, source, tmp_path / "out", "--size", 20, "--demographics", "none").table["race"]) == {
        "unknown"
    }
    (tmp_path / "half.xlsx").write_bytes(b"PK\x03\x04 half")
    with pytest.raises(ValueError, match=r"half.xlsx is not a whole table"):
        convert(chexpert, source, tmp_path / "out", "--demographics", tmp_path / "half.xlsx")
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(ImportError, match=r"pip install openpyxl, or save it as .csv"):
        convert(chexpert, source, tmp_path / "out", "--demographics", tmp_path / "half.xlsx")


def test_unknown_codes_of_chexpert_are_refused_by_name(tmp_path):
    cases = [
        ([entry(1, Edema="2.0")], None, r"patient00001/study1/view1_frontal.jpg: unknown code '2.0' in column 'Edema'"),
        ([entry(1, Sex="F")], None, r"unknown code 'F' in column 'Sex'"),
        ([entry(1), entry(1)], None, r"patient00001/study1/view1_frontal.jpg comes twice"),
        (
            [entry(1)],
            demographics(races={1: "Martian"}),
            r"patient00001 in CHEXPERT DEMO.csv: unknown code 'martian'.*RACE",
        ),
    ]
    for i, (lines, sheet, message) in enumerate(cases):
        with pytest.raises(ValueError, match=message):
            convert(chexpert, write_chexpert(tmp_path / f"x{i}", lines, sheet), tmp_path / "out", "--size", 20)


def test_rows_of_the_sheet_that_disagree_make_a_race_unknown():
    sheet = pd.DataFrame(
        {"PATIENT": ["patient1"] * 2 + ["patient2"] * 2, "PRIMARY_RACE": ["White", "Asian", "White", "Unknown"]}
    )
    assert chexpert.read_races(sheet, "x") == ({"1": "unknown", "2": "white"}, 1)


def test_a_truncated_radiograph_is_refused_by_name(tmp_path):
    source = write_chexpert(tmp_path / "x")
    path = source / "CheXpert-v1.0-small/train/patient00004/study1/view1_frontal.jpg"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"patient00004/study1/view1_frontal.jpg is truncated or no image"):
        convert(chexpert, source, tmp_path / "out", "--size", 20)


def test_broken_radiographs_are_left_out_on_request_counted_and_named(tmp_path, capsys):
    source = write_chexpert(tmp_path / "x")
    whole = convert(chexpert, source, tmp_path / "whole", "--size", 20)
    path = source / "CheXpert-v1.0-small/train/patient00004/study1/view1_frontal.jpg"
    path.write_bytes(path.read_bytes()[:-40])
    cohort = convert(chexpert, source, tmp_path / "out", "--size", 20, "--skip-broken")
    left = [row for row in whole.table["row"] if whole.table["patient_id"][row] != "patient00004"]
    assert (cohort.images[:] == whole.images[left]).all() and len(cohort) == 7
    step = next(step for step in cohort.info["funnel"] if step["step"] == "that can be decoded")
    assert (step["patients"], step["images"]) == (7, 7)
    assert (
        "1 films cannot be decoded and were left out: CheXpert-v1.0-small/train/patient00004" in capsys.readouterr().out
    )
    (source / "CheXpert-v1.0-small/train/patient00003/study1/view1_frontal.jpg").write_bytes(b"")
    many = convert(chexpert, source, tmp_path / "more", "--size", 20, "--skip-broken", "--workers", 3)
    assert len(many) == 6 and not many.info["complete"]


def test_patients_of_unknown_race_are_dropped_on_request(tmp_path, capsys):
    source = write_chexpert(tmp_path / "x")
    table = convert(chexpert, source, tmp_path / "out", "--size", 20, "--unknown-race", "drop").table
    assert len(table) == 6 and "unknown" not in set(table["race"])
    assert "2 patients of unknown race left out" in capsys.readouterr().out
    with pytest.raises(ValueError, match="leaves nobody: give the sheet"):
        convert(chexpert, source, tmp_path / "o", "--demographics", "none", "--unknown-race", "drop")


def test_a_cohort_says_whether_it_is_complete(tmp_path, monkeypatch):
    source = write_chexpert(tmp_path / "x")
    info = convert(chexpert, source, tmp_path / "a", "--size", 20).info
    assert info["complete"] is False and info["checked"] == ["images: 8 of 191229, partial"]
    monkeypatch.setitem(chexpert.EXPECTED, "frontal", {"images": 8})
    assert convert(chexpert, source, tmp_path / "b", "--size", 20, "--unknown-race", "drop").info["complete"] is True
    assert convert(chexpert, source, tmp_path / "c", "--size", 20, "--patients", 3).info["complete"] is False


def test_images_that_are_not_there_are_counted(tmp_path, capsys):
    source = write_chexpert(tmp_path / "x")
    (source / "CheXpert-v1.0-small/train/patient00004/study1/view1_frontal.jpg").unlink()
    assert len(convert(chexpert, source, tmp_path / "out", "--size", 20)) == 7
    assert "1 images of the tables are not in the source" in capsys.readouterr().out
