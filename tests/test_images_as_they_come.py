"""Images, volumes and sheets as they come: read as they are meant, or refused by the file's name."""

import gzip
import io
import struct
import tracemalloc
import zipfile
import zlib

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_data_scripts import (
    CSV,
    archives,
    common,
    convert,
    covid_cxr,
    covid_files,
    films,
    lgg_files,
    png,
    tcga_lgg,
    tif,
    write_files,
)
from test_data_scripts_paper import (
    FOLDERS,
    SIZE,
    SLICES,
    chexpert,
    demographics,
    exam_volumes,
    nifti,
    ucsf_pdgm,
    write_chexpert,
    write_ucsf,
)
from test_data_scripts_paper import entry as chexpert_entry

from fairrecon_core.cohort.folder import write_cohort
from fairrecon_core.degrade import degradation
from fairrecon_core.learn.loop import pairs
from fairrecon_core.learn.rows import images_of, learning_rows, with_mirrored
from fairrecon_core.predict.quality import film_mask, measure

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 255, (8, 12), dtype=np.uint8)


def file_of(image: Image.Image, form="TIFF", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def claims(width, height) -> bytes:
    """A PNG of a few bytes that claims any size."""
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def nifti_claim(shape) -> bytes:
    """The header of a NIfTI volume of any size, and a few bytes of it."""
    nibabel = pytest.importorskip("nibabel")
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.float32)
    header["dim"][: len(shape) + 1] = [len(shape), *shape]
    header["magic"], header["vox_offset"] = b"n+1", 352
    return gzip.compress(header.binaryblock + bytes(604))


# ---------------------------------------------------------------- films
@pytest.mark.parametrize(
    ("values", "dtype"),
    [([-1000, 0, 1000], np.int32), ([0, 65536, 131072], np.int32), ([0, 0.5, 1], np.float32),
      ([-2, 500, 1002], np.float32),
     ([0, 2**24 + 1, 2**25 + 2], np.int32)],
)  # fmt: skip
def test_a_film_of_any_type_is_scaled_by_its_own_range(values, dtype):
    pixels = films.decode(tif(np.array([values], dtype)), "x.tif")
    np.testing.assert_allclose(films.to_unit(pixels, "image"), [[0, 0.5, 1]], atol=1e-6)


def test_a_16_bit_film_with_a_cameras_orientation_is_turned():
    deep = GREY.astype(np.uint16) * 200
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    for form in ("PNG", "TIFF"):
        turned = films.decode(file_of(Image.fromarray(deep), form, exif=exif), "x")
        assert turned.dtype == np.uint16 and np.array_equal(turned, np.rot90(deep, -1)), form


@pytest.mark.parametrize("mode", ["1", "P", "LA", "RGBA", "CMYK", "I;16B", "I;16"])
def test_other_modes_become_the_grey_values_that_they_show(mode):
    deep = mode.startswith("I")
    film = (
        Image.fromarray(GREY).convert(mode)
        if not deep
        else Image.fromarray(GREY.astype((mode.endswith("B") and ">u2") or "<u2"))
    )
    form = "JPEG" if mode == "CMYK" else "PNG" if mode in ("LA", "P", "RGBA") else "TIFF"
    pixels = films.decode(file_of(film, form), "x")
    assert np.array_equal(
        pixels, GREY if deep else np.asarray(Image.open(io.BytesIO(file_of(film, form))).convert("L"))
    )


BAD_FILMS = {
    "two pages": (lambda: file_of(Image.fromarray(GREY), save_all=True, append_images=[Image.fromarray(GREY)]),
                         "2 pages"),
    "NaN": (lambda: tif(np.array([[0, np.nan]], np.float32)), "1 pixels that are NaN or infinite"),
    "infinite": (lambda: tif(np.array([[0, np.inf]], np.float32)), "1 pixels that are NaN or infinite"),
    "a GIF": (lambda: file_of(Image.fromarray(GREY), "GIF"), "truncated or no image"),
    "a claim of a gigabyte": (lambda: claims(2**15, 2**15), "truncated or no image"),
    "a claim of many pixels": (lambda: claims(9000, 9000), "claims 9000 x 9000 pixels"),
    "a claim of more than a file can hold": (lambda: claims(2000, 2000), "claims 2000 x 2000 pixels"),
    "no width": (lambda: claims(0, 10), "truncated or no image"),
    "nothing": (lambda: b"", "truncated or no image"),
    "half a PNG": (lambda: png(GREY)[:60], "truncated or no image"),
    "half a TIFF": (lambda: tif(GREY)[:60], "truncated or no image"),
    "text": (lambda: b"<html>404 not found</html>" * 20, "truncated or no image"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_FILMS)
def test_a_film_that_is_none_is_refused_by_name_and_takes_no_memory(name):
    make, words = BAD_FILMS[name]
    data = make()
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=words) as error:
            films.decode(data, "images/x.png")
        assert tracemalloc.get_traced_memory()[1] < 2**28
    finally:
        tracemalloc.stop()
    assert "images/x.png" in str(error.value) and "\n" not in str(error.value)


def test_a_type_without_a_full_scale_is_refused_where_the_full_scale_is_asked_for():
    for values in (np.array([[-5, 70_000]], np.int32), np.array([[0, 0.5]], np.float32)):
        with pytest.raises(ValueError, match=r"x.tif has pixels of type .* use --scale image"):
            films.to_unit(films.decode(tif(values), "x.tif"), "fixed", "x.tif")


def test_one_hot_pixel_leaves_a_slice_bright_when_the_volume_decides():
    slices = [RNG.integers(50, 100, (32, 32)).astype(np.uint8) for _ in range(8)]
    slices[0][3, 3] = 255
    high = films.high_of(slices)
    assert 90 <= high <= 110 and films.high_of([np.zeros((3, 3))]) == 0
    assert films.to_unit_percentile(slices[0], high).mean() > 0.6 > 2 * films.to_unit(slices[0], "image").mean()


def test_networks_learn_from_films_with_the_borders_that_they_are_tested_on(tmp_path):
    row = {"modality": "xray", "sex": "female", "age_years": 50.0, "race": "white"}
    films_ = [films.to_square(RNG.uniform(0.2, 1, (24, 12)).astype(np.float32), 32, "pad") for _ in range(24)]
    items = [(film, row | {"image_id": f"i{k}", "patient_id": f"p{k}"}) for k, film in enumerate(films_)]
    cohort = write_cohort(tmp_path, items, name="padded", seed=1, n_folds=3)
    inside = np.zeros((32, 32), bool)
    inside[:, 8:24] = True
    train = images_of(cohort, learning_rows(cohort, "train", "reconstruction"))
    for images in (train, with_mirrored(train)):
        for batch in pairs(images, images, degradation("xray"), [3000], batch_size=4)(0):
            assert (film_mask(batch.clean[:, 0]) == inside).all() and batch.degraded[:, 0].numpy()[:, ~inside].max() > 0
    tested = cohort.images_at(cohort.select("test", "prediction"))
    assert (film_mask(tested) == inside).all()


# ---------------------------------------------------------------- masks
SHAPE = np.zeros((16, 16), bool)
SHAPE[2:5, 3:7] = True
MASKS = {
    "0 and 255": (SHAPE * np.uint8(255), None), "0 and 1": (SHAPE.astype(np.uint8), None),
    "noise around 0 and 255": (np.where(SHAPE, 250, 2).astype(np.uint8), None),
    "16 bits": (SHAPE * np.uint16(65535), None), "float": (SHAPE.astype(np.float32), None),
    "soft float": (np.where(SHAPE, 0.9, 0.2).astype(np.float32), None),
    "three equal channels": (np.repeat((SHAPE * np.uint8(255))[..., None], 3, axis=2), None),
    "empty": (np.zeros((16, 16), np.uint8), None),
    "labels 1 and 2": (SHAPE * np.uint8(2), "mask with values 0 to 2"),
    "half grey": (SHAPE * np.uint8(128), "mask with values 0 to 128"),
    "negative": (-SHAPE.astype(np.int32), "mask with values -1 to 0"),
    "colours": (np.stack([SHAPE * np.uint8(255), *2 * [np.zeros((16, 16), np.uint8)]], axis=2),
                         "whose channels differ"),
    "another size": (np.pad(SHAPE, 2) * np.uint8(255), r"has \(16, 16\) pixels, its mask .*_mask.tif \(20, 20\)"),
    "another aspect": ((SHAPE * np.uint8(255))[::2], r"has \(16, 16\) pixels, its mask .*_mask.tif \(8, 16\)"),
    "NaN": (np.where(SHAPE, np.nan, 0).astype(np.float32), "NaN or infinite"),
}  # fmt: skip


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_is_read_at_half_of_its_full_scale_or_refused_by_name(name, tmp_path):
    mask, words = MASKS[name]
    files = {key: data for key, data in lgg_files(n_slices=2).items() if "A61B" not in key or key.endswith(".csv")}
    target = next(key for key in files if key.endswith("_2_mask.tif"))
    source = write_files(tmp_path / "x", files | {target: tif(mask)})
    if words:
        with pytest.raises(ValueError, match=words) as error:
            convert(tcga_lgg, source, tmp_path / "out", "--size", 16)
        assert target.rpartition("_mask")[0] in str(error.value)
    else:
        cohort = convert(tcga_lgg, source, tmp_path / "out", "--size", 16)
        row = int(np.flatnonzero(cohort.table["image_id"] == "TCGA_CS_0001_002")[0])
        assert np.array_equal(cohort.mask(row), SHAPE & (mask.any() if name == "empty" else True))


# ---------------------------------------------------------------- volumes
FLAIR, LABELS = exam_volumes(0)
LPS = np.diag([-1.0, -1, 1, 1])


def with_first(tmp_path, kind, data):
    source = write_ucsf(tmp_path / "x")
    (source / f"{FOLDERS[0]}_nifti" / f"{FOLDERS[0]}_{kind}.nii.gz").write_bytes(data)
    return source


def test_another_order_of_storage_is_the_same_mask(tmp_path):
    plain = convert(ucsf_pdgm, write_ucsf(tmp_path / "y"), tmp_path / "plain", *SLICES)
    last = LPS.copy()  # the x axis stored backwards, and the affine says so
    last[0] = [1, 0, 0, -(SIZE - 1)]
    turned = with_first(tmp_path, "tumor_segmentation", nifti(LABELS[::-1], last))
    cohort = convert(ucsf_pdgm, turned, tmp_path / "out", *SLICES)
    assert np.array_equal(cohort.masks, plain.masks) and plain.masks.any()


def moved(**change):
    affine = LPS.copy()
    for place, value in change.values():
        affine[place] = value
    return affine


VOLUMES = {
    "a lost orientation": ("tumor_segmentation", lambda: nifti(LABELS, np.eye(4)), "lies elsewhere in space"),
    "a shift": ("tumor_segmentation", lambda: nifti(LABELS, moved(x=((0, 3), 7.0))), "lies elsewhere in space"),
    "larger voxels": ("tumor_segmentation", lambda: nifti(LABELS, moved(z=((2, 2), 1.5))), "lies elsewhere in space"),
    "another size": ("tumor_segmentation", lambda: nifti(LABELS[:-1]), "its segmentation"),
    "a label of 7": ("tumor_segmentation", lambda: nifti(LABELS * 7), "holds label 7"),
    "labels between": ("tumor_segmentation", lambda: nifti(LABELS * np.float32(0.5)), "holds label 0.5"),
    "four dimensions": ("FLAIR", lambda: nifti(np.stack([FLAIR] * 2, axis=3)), "should be a single volume"),
    "a gigabyte in a kilobyte": ("FLAIR", lambda: nifti_claim((1024, 1024, 256)), "claims 1024 x 1024 x 256 voxels"),
    "negative dimensions": ("FLAIR", lambda: nifti_claim((-5, 4, 4)), "truncated or no NIfTI volume"),
    "no gzip": ("FLAIR", lambda: gzip.decompress(nifti(FLAIR)), "truncated or no NIfTI volume"),
    "half a gzip": ("FLAIR", lambda: nifti(FLAIR)[:200], "truncated or no NIfTI volume"),
    "no NIfTI": ("FLAIR", lambda: gzip.compress(b"x" * 2000), "truncated or no NIfTI volume"),
    "NaN": ("FLAIR", lambda: nifti(np.where(FLAIR < 9, np.nan, FLAIR).astype(np.float32)), "is not finite"),
}  # fmt: skip


@pytest.mark.parametrize("name", VOLUMES)
def test_a_volume_that_could_be_read_two_ways_is_refused_by_name(name, tmp_path):
    kind, make, words = VOLUMES[name]
    with pytest.raises(ValueError, match=words) as error:
        convert(ucsf_pdgm, with_first(tmp_path, kind, make()), tmp_path / "out", *SLICES)
    assert FOLDERS[0] in str(error.value) and "\n" not in str(error.value)


def test_a_volume_of_one_time_point_is_a_volume(tmp_path):
    plain = convert(ucsf_pdgm, write_ucsf(tmp_path / "y"), tmp_path / "plain", *SLICES)
    cohort = convert(ucsf_pdgm, with_first(tmp_path, "FLAIR", nifti(FLAIR[..., None])), tmp_path / "out", *SLICES)
    assert np.array_equal(cohort.images, plain.images)


def test_a_member_of_an_archive_that_claims_what_it_cannot_hold_is_refused(tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("film.png", b"1" * 50)
    data = bytearray(path.read_bytes())
    place = data.index(b"PK\x01\x02") + 24
    data[place : place + 4] = struct.pack("<I", 2**27)
    path.write_bytes(data)
    with pytest.raises(ValueError, match="134,217,728 bytes are more than a film can have"):
        archives.Source(path).read("film.png")


# ---------------------------------------------------------------- sheets and joins
def idh1(tmp_path, text):
    (tmp_path / "idh1.csv").write_text("Patient,IDH1\n" + text)
    return "--idh1", tmp_path / "idh1.csv"


def lgg(tmp_path, *options, csv=CSV):
    return convert(
        tcga_lgg, write_files(tmp_path / "x", lgg_files(2, csv=csv)), tmp_path / "out", "--size", 16, *options
    )


def test_samples_barcodes_name_their_patients(tmp_path, capsys):
    cohort = lgg(tmp_path, *idh1(tmp_path, "TCGA-CS-0001-01,1\nTCGA-DU-0002-01A-11D,0\ntcga-ht-0003-01,1\n"))
    known = cohort.table.dropna(subset="y_idh1").groupby("patient_id")["y_idh1"].first()
    assert known.to_dict() == {"TCGA_CS_0001": 1, "TCGA_DU_0002": 0, "TCGA_HT_0003": 1}
    assert "idh1.csv: 3 of 4 patients have a row there" in capsys.readouterr().out


SHEETS = {
    "contradictory rows": (lambda path: lgg(path, *idh1(path, "TCGA-CS-0001,1\nTCGA-DU-0002,0\nTCGA-CS-0001,0\n")),
                           "idh1.csv has rows of 'TCGA_CS_0001' that contradict each other: IDH1 '1' and '0'"),
    "other people": (lambda path: lgg(path, *idh1(path, "P1,1\nP2,0\n")), "only 0 of 4 patients have a row there"),
    "too few people": (lambda path: lgg(path, *idh1(path, "TCGA-CS-0001,1\n")),
                         "only 1 of 4 patients have a row there"),
    "a patient twice": (lambda path: lgg(path, csv=CSV + "TCGA_CS_0001,2,1,1,1,43,3,2\n"), "gender '2' and '1'"),
    "a comma too many": (lambda path: lgg(path, csv=CSV.replace("43,3,2", "43,3,2,")),
                         "row 2 has 9 fields, the header 8"),
    "a column twice": (lambda path: lgg(path, csv=CSV.replace("ethnicity", "race")), "names column 'race' twice"),
    "an unknown sex": (lambda path: lgg(path, csv=CSV.replace("1,1,2,43", "1,1,9,43")),
                         "unknown code '9' in column 'gender'"),
    "a sheet of others": (lambda path: sheet(path, {900 + i: "White" for i in range(9)}),
                         "only 0 of 8 patients have a row"),
    "a name for a number": (lambda path: sheet(path, {"Smith": "White"}),
                         "'Smith' in column 'PATIENT' should look like patient00001"),
    "an age cut of NaN": (lambda path: lgg(path, "--age-cut", "nan"), "2"),
}  # fmt: skip


def sheet(path, races):
    table = demographics(races={1: "White"} | dict.fromkeys(range(2, len(races) + 1)))
    table = pd.DataFrame({"PATIENT": [str(name) for name in races], "PRIMARY_RACE": list(races.values())})
    return convert(chexpert, write_chexpert(path / "x", sheet=table), path / "out", "--size", 8)


@pytest.mark.parametrize("name", SHEETS)
def test_a_sheet_that_does_not_fit_is_refused_with_file_and_value(name, tmp_path):
    call, words = SHEETS[name]
    with pytest.raises((ValueError, SystemExit)) as error:
        call(tmp_path)
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("form", ["patient{:05}", "patient{}", "{}", "{}.0", "PATIENT{:05} "])
def test_the_sheet_of_races_is_joined_whatever_became_of_the_zeros(form, tmp_path):
    races = demographics()["PRIMARY_RACE"]
    table = pd.DataFrame({"PATIENT": [form.format(i) for i in range(1, 8)], "PRIMARY_RACE": races})
    cohort = convert(chexpert, write_chexpert(tmp_path / "x", sheet=table), tmp_path / "out", "--size", 8)
    plain = convert(chexpert, write_chexpert(tmp_path / "y"), tmp_path / "plain", "--size", 8)
    pd.testing.assert_frame_equal(cohort.table, plain.table)
    assert (cohort.table["race"] != "unknown").sum() == 6


def test_every_step_of_a_conversion_counts_people(tmp_path):
    lines = [chexpert_entry(i, Edema="1.0") for i in range(1, 7)] + [chexpert_entry(7, view="view2_lateral")]
    source = write_chexpert(tmp_path / "x", lines)
    (source / "CheXpert-v1.0-small/train/patient00006/study1/view1_frontal.jpg").unlink()
    info = convert(chexpert, source, tmp_path / "out", "--size", 8).info
    assert [(row["step"], row["patients"], row["images"]) for row in info["funnel"]] == [
        ("recorded in train.csv and valid.csv", 8, 8), ("frontal", 7, 7), ("with image", 6, 6), ("in the cohort", 6, 6),
        ("with a label", 5, 5), ("of these with a known sex", 5, 5), ("of these with a known age_group", 5, 5),
        ("of these with a known race", 5, 5),
    ]  # fmt: skip


# ---------------------------------------------------------------- slices of one grey value
def test_slices_of_one_grey_value_are_named_and_kept(tmp_path, capsys):
    files = lgg_files(n_slices=3)
    blank = next(key for key in files if key.endswith("0001_19990101_3.tif"))
    cohort = convert(tcga_lgg, write_files(tmp_path / "x", files | {blank: tif(np.zeros((16, 16, 3), np.uint8))}),
                     tmp_path / "out", "--size", 16)  # fmt: skip
    assert cohort.info["one_grey_value"] == ["TCGA_CS_0001_003"] and len(cohort) == 12
    assert (
        "1 images have one grey value (no image quality is measured there): TCGA_CS_0001_003" in capsys.readouterr().out
    )


def test_no_quality_is_measured_where_the_original_has_one_grey_value():
    clean = RNG.random((3, 32, 32), dtype=np.float32)
    clean[1], clean[2] = 0, 0.5
    for arm in (clean, clean * 0.9):
        table = measure(arm, clean)
        assert table.loc[1:].isna().all(axis=None) and table.loc[0, ["psnr_db", "ssim", "nmse", "lpips"]].notna().all()


@pytest.mark.parametrize(("images", "clean", "words"), [
    (np.full((1, 32, 32), 200.0), np.eye(32)[None] * 255, r"clean images span \[0, 255\]"),
    (np.full((1, 32, 32), 200.0), np.eye(32)[None], r"images span \[200, 200\]"),
    (np.full((1, 32, 32), -40.0), np.eye(32)[None], r"images span \[-40, -40\]"),
    (np.eye(24)[None], np.eye(24)[None], "LPIPS needs images of 31 pixels"),
])  # fmt: skip
def test_images_that_are_not_in_the_unit_range_or_too_small_are_refused(images, clean, words):
    with pytest.raises(ValueError, match=words):
        measure(images, clean)


def test_a_script_ends_with_one_line_and_no_traceback(tmp_path, monkeypatch):
    source = write_files(tmp_path / "x", covid_files() | {"images/a.png": b"nothing"})
    monkeypatch.setattr(
        "sys.argv", ["covid_cxr.py", str(source), str(tmp_path / "out"), "--size", "8", "--workers", "1"]
    )
    with pytest.raises(SystemExit, match="images/a.png is truncated or no image"):
        common.run(covid_cxr.main)
