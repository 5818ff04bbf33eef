"""Conversion scripts: downloads are read safely and as published, blemishes are reported, a second start finishes."""

import io
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "data_scripts"
DATA = ROOT / "../shared/data"
sys.path.insert(0, str(SCRIPTS))

import archives  # noqa: E402
import common  # noqa: E402
import covid_cxr  # noqa: E402
import films  # noqa: E402
import nih_cxr14  # noqa: E402
import tcga_lgg  # noqa: E402

real = pytest.mark.skipif(not DATA.exists(), reason="the real data (../shared/data) are not here")
FILES = {"a/one.txt": b"1", "a/b/two.txt": b"22" * 500, "three.txt": b"333"}


def png(pixels) -> bytes:
    """A PNG file of an array."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def tif(pixels) -> bytes:
    """A TIFF file of an array."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "TIFF")
    return file.getvalue()


def write_files(folder, files):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def write_zip(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def write_tar(path, files, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def convert(script, *arguments):
    return script.main([str(argument) for argument in arguments])


# reading a download


@pytest.mark.parametrize("form", ["folder", "zip", "tar", "tar.gz", "folder of archives"])
def test_every_form_of_a_download_gives_the_same_files(tmp_path, form):
    path = tmp_path / "download"
    if form in ("folder", "folder of archives"):
        write_files(path, FILES)
    elif form == "zip":
        write_zip(path, FILES)
    else:
        write_tar(path, FILES, "w:gz" if form == "tar.gz" else "w")
    prefix = ""
    if form == "folder of archives":
        path, prefix = tmp_path / "download", "part.tar.gz/"
        (tmp_path / "kept").mkdir()
        write_tar(tmp_path / "kept" / "part.tar.gz", FILES, "w:gz")
        path = tmp_path / "kept"
    source = archives.Source(path)
    assert {name: source.read(prefix + name) for name in FILES} == FILES
    assert sorted(source.names) == sorted(prefix + name for name in FILES)
    assert source.find("TWO.txt") == prefix + "a/b/two.txt"


@pytest.mark.parametrize("name", ["../evil.txt", "a/../../evil.txt", "/etc/evil.txt", "..\\evil.txt", "C:\\evil.txt"])
@pytest.mark.parametrize("write", [write_zip, write_tar])
def test_an_archive_with_a_path_that_climbs_out_is_refused_by_name(tmp_path, name, write):
    (tmp_path / "in").mkdir()
    archive = write(tmp_path / "in" / "bad.zip", FILES | {name: b"evil"})
    for path in (archive, archive.parent):
        with pytest.raises(ValueError, match=rf"bad.zip holds {re.escape(repr(name))}.*climbs out"):
            archives.Source(path)
    assert not list(tmp_path.rglob("evil*"))


def test_links_in_a_tar_are_not_followed(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        link = tarfile.TarInfo("data.csv")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(FileNotFoundError, match="no data.csv"):
        archives.Source(tmp_path / "x.tar").find("data.csv")


def test_a_folder_behind_a_link_is_read_once_and_hidden_folders_never(tmp_path):
    write_files(tmp_path / "disk", {"images/1.png": b"1"})
    write_files(tmp_path / "x", {"data.csv": b"a", ".git/data.csv": b"b"})
    (tmp_path / "x" / "images").symlink_to(tmp_path / "disk" / "images")
    (tmp_path / "x" / "loop").symlink_to(tmp_path / "x")
    assert sorted(archives.Source(tmp_path / "x").names) == ["data.csv", "images/1.png"]


@pytest.mark.parametrize("write", [write_zip, lambda path, files: write_tar(path, files, "w:gz")])
def test_half_an_archive_is_refused(tmp_path, write):
    path = write(tmp_path / "x.zip", {f"{i}.bin": np.random.default_rng(i).bytes(3000) for i in range(9)})
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(ValueError, match="x.zip is not a whole zip or tar archive.*download it again"):
        archives.Source(path)


def test_a_damaged_member_is_refused_by_name(tmp_path):
    path = write_zip(tmp_path / "x.zip", {"film.png": np.random.default_rng(0).bytes(3000)})
    spoilt = bytearray(path.read_bytes())
    spoilt[1500] ^= 1
    path.write_bytes(spoilt)
    with pytest.raises(ValueError, match="film.png in .* cannot be read .*fetch it again"):
        archives.Source(path).read("film.png")


def test_a_member_too_large_for_a_film_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "LARGEST", 100)
    for path in (write_zip(tmp_path / "x.zip", FILES), write_tar(tmp_path / "x.tar", FILES),
                 write_files(tmp_path / "x", FILES)):  # fmt: skip
        source = archives.Source(path)
        assert source.read("three.txt") == b"333"
        with pytest.raises(ValueError, match=r"two.txt in .*1,000 bytes are more than a film"):
            source.read("a/b/two.txt")


def test_a_table_is_found_wherever_it_is_and_two_that_differ_are_refused(tmp_path):
    write_files(tmp_path, {"x/data.csv": b"a", "y/z/data.csv": b"a", "__MACOSX/data.csv": b"b", "x/._data.csv": b"b"})
    assert archives.Source(tmp_path).find("data.csv") == "x/data.csv"
    write_files(tmp_path, {"data.csv": b"c"})
    with pytest.raises(ValueError, match=r"holds data.csv and x/data.csv, which differ"):
        archives.Source(tmp_path).find("data.csv")
    with pytest.raises(FileNotFoundError, match=r"no valid.csv in .*as downloaded"):
        archives.Source(tmp_path).find("valid.csv")
    with pytest.raises(FileNotFoundError, match="nothing at .*nowhere"):
        archives.Source(tmp_path / "nowhere")


def test_a_compressed_tar_is_read_in_the_order_it_is_stored(tmp_path):
    names = [f"{i}.bin" for i in (3, 10, 1, 2)]
    files = {name: name.encode() * 9 for name in names}
    assert archives.Source(write_tar(tmp_path / "x.tgz", files, "w:gz")).ordered(dict(zip(files, files))) == names
    source = archives.Source(write_tar(tmp_path / "x.tar", files))
    assert source.ordered(dict(zip(files, files))) == ["1.bin", "2.bin", "3.bin", "10.bin"]
    source = archives.Source(tmp_path / "x.tgz")
    source.prefetch(["2.bin", "3.bin"])
    assert [source.read(name) for name in ("2.bin", "3.bin", "1.bin")] == [
        files[n] for n in ("2.bin", "3.bin", "1.bin")
    ]


# pixels


def test_scaling_by_hand():
    film = np.array([[50, 100], [150, 250]], np.uint8)
    np.testing.assert_allclose(films.to_unit(film, "image"), [[0, 0.25], [0.5, 1]])
    np.testing.assert_allclose(films.to_unit(film, "fixed"), film / 255, rtol=1e-6)
    np.testing.assert_allclose(films.to_unit(film.astype(np.uint16) * 257, "fixed"), film / 255, rtol=1e-6)
    assert (films.to_unit(np.full((2, 2), 7, np.uint8), "image") == 0).all()


def test_twelve_bits_in_a_file_of_sixteen_are_not_black():
    film = np.array([[0, 1024], [2048, 4095]], np.uint16)
    with pytest.raises(ValueError, match=r"a.png has 16-bit pixels of at most 4095, as a film of 12 bits.*--bits 12"):
        films.to_unit(film, "fixed", "a.png")
    np.testing.assert_allclose(films.to_unit(film, "fixed", "a.png", 12), film / 4095, rtol=1e-6)
    np.testing.assert_allclose(films.to_unit(film, "fixed", "a.png", 16), film / 65535, rtol=1e-6)
    with pytest.raises(ValueError, match="pixels up to 4095, more than --bits 10 allows"):
        films.to_unit(film, "fixed", "a.png", 10)
    assert films.to_unit(film, "image").max() == 1


def test_an_image_of_the_right_size_is_not_touched():
    film = np.random.default_rng(0).random((16, 16), dtype=np.float32)
    for fit in ("squeeze", "pad"):
        assert (films.to_square(film, 16, fit) == film).all()


def test_padding_keeps_proportions_and_squeezing_fills_the_square():
    film = np.ones((8, 16), np.float32)
    assert (films.to_square(film, 8, "squeeze") == 1).all()
    padded = films.to_square(film, 8, "pad")
    assert (padded[2:6] == 1).all() and (padded[[0, 1, 6, 7]] == 0).all()
    assert films.to_square(film.T, 33, "pad").shape == (33, 33)


@pytest.mark.parametrize("shape", [(240, 240), (23, 50), (300, 211)])
def test_resizing_agrees_with_the_published_resize(shape):
    """Bilinear with antialiasing, as in torchvision, which the published loaders call."""
    torch = pytest.importorskip("torch")
    film = np.random.default_rng(0).random(shape, dtype=np.float32)
    other = torch.nn.functional.interpolate(torch.from_numpy(film)[None, None], size=(64, 64), mode="bilinear",
                                            antialias=True, align_corners=False)[0, 0].numpy()  # fmt: skip
    np.testing.assert_allclose(films.to_square(film, 64, "squeeze"), other, atol=2e-6)


def test_a_mask_keeps_its_place_and_its_area():
    mask = np.zeros((240, 240), bool)
    mask[60:120, 90:150] = True
    small = films.mask_to_square(mask, 64, "squeeze")
    assert small.mean() == pytest.approx(mask.mean(), rel=0.05) and small[16:32, 24:40].all()
    assert (films.mask_to_square(mask, 240, "pad") == mask).all()


def test_other_kinds_of_files_become_grey():
    film = np.arange(64, dtype=np.uint8).reshape(8, 8) * 3
    colour = np.repeat(film[..., None], 4, axis=2)
    colour[..., 3] = 255
    assert (films.decode(png(colour), "x.png") == film).all()
    deep = film.astype(np.uint16) * 300
    assert (films.decode(png(deep), "x.png") == deep).all()


@pytest.mark.parametrize("make", [png, tif])
def test_a_truncated_image_is_refused_by_name(make):
    data = make(np.random.default_rng(0).integers(0, 255, (32, 32), dtype=np.uint8))
    for length in (0, 10, len(data) // 2):
        with pytest.raises(ValueError, match=r"films/x is truncated or no image .*fetch that file again"):
            films.decode(data[:length], "films/x")


# the LGG set, in the layout of its publisher

CSV = """Patient,COCCluster,histological_type,neoplasm_histologic_grade,gender,age_at_initial_pathologic,race,ethnicity
TCGA_CS_0001,2,1,1,2,43,3,2
TCGA_DU_0002,1,3,2,1,60,2,1
TCGA_HT_0003,1,2,2,1,31,,
TCGA_HT_A61B,1,,,,,,
"""


def lgg_files(n_slices=4, size=16, csv=CSV):
    """A small kaggle_3m: channel 1 holds what counts; slice 2 of every patient has a tumour."""
    files, rng = {"kaggle_3m/data.csv": csv.encode()}, np.random.default_rng(0)
    for case in ("TCGA_CS_0001_19990101", "TCGA_DU_0002_20000202", "TCGA_HT_0003_20010303", "TCGA_HT_A61B_20020404"):
        for i in range(1, n_slices + 1):
            film = rng.integers(0, 200, (size, size, 3), dtype=np.uint8)
            mask = np.zeros((size, size), np.uint8)
            mask[2:5, 3:7] = 255 * (i == 2)
            files[f"kaggle_3m/{case}/{case}_{i}.tif"] = tif(film)
            files[f"kaggle_3m/{case}/{case}_{i}_mask.tif"] = tif(mask)
    return files


def test_lgg_by_hand(tmp_path, capsys):
    files = lgg_files()
    cohort = convert(tcga_lgg, write_zip(tmp_path / "x.zip", files), tmp_path / "out", "--size", 16)
    table = cohort.table.set_index("image_id")
    row = table.loc["TCGA_DU_0002_002"]
    assert (row.patient_id, row.sex, row.race, row.age_years) == ("TCGA_DU_0002", "female", "black", 60)
    assert (row.x_site, row.x_slice, row.x_tumour, row.x_tumour_pixels) == ("DU", 2, 1, 12)
    assert (row.y_tumour_grade, row.y_astrocytoma, row.y_oligodendroglioma, row.x_ethnicity) == (1, 0, 1, "hispanic")
    film = films.decode(files["kaggle_3m/TCGA_DU_0002_20000202/TCGA_DU_0002_20000202_2.tif"], "")[..., 1].astype(float)
    expected = (film - film.min()) / (film.max() - film.min())
    np.testing.assert_allclose(cohort.image(row.row), expected, atol=1e-5)
    assert (row.y_tumour_on_slice, table.loc["TCGA_DU_0002_001"].y_tumour_on_slice) == (1, 0)
    assert (row.y_large_tumour, row.y_tumour_left) == (0, 1) and cohort.info["control_tasks"] == ["tumour_left"]
    assert cohort.mask(row.row).sum() == 12 and cohort.mask(row.row)[2:5, 3:7].all()
    assert not cohort.masks_at(table[table.x_slice != 2].row.to_numpy()).any()
    blank = table.loc["TCGA_HT_A61B_001"]
    assert (blank.sex, blank.race, blank.age_group) == ("unknown", "unknown", "unknown")
    assert np.isnan([blank.age_years, blank.y_tumour_grade, blank.y_astrocytoma]).all()
    printed = capsys.readouterr().out
    assert "TCGA_HT_A61B: blank in data.csv" in printed and "patients: 4 of 110, partial" in printed
    assert "blank in data.csv" in cohort.info["notes"][0] and cohort.info["licence"].startswith("CC BY-NC-SA")


@pytest.mark.parametrize(("columns", "rows", "large", "left"), [
    ((0, 100), 200, 1, 1), ((156, 256), 200, 1, 0), ((78, 178), 200, 1, None),
    ((0, 10), 100, 0, 1), ((0, 0), 0, 0, None),
])  # fmt: skip
def test_size_and_side_of_a_tumour_by_hand(columns, rows, large, left):
    mask = np.zeros((256, 256), bool)
    mask[:rows, slice(*columns)] = True
    found = tcga_lgg.tumour_labels([np.zeros_like(mask), mask])
    assert found == {"y_large_tumour": large, "y_tumour_left": left}


def test_exam_dates_do_not_enter_the_cohort(tmp_path):
    convert(tcga_lgg, write_zip(tmp_path / "x.zip", lgg_files()), tmp_path / "out", "--size", 16)
    for path in (tmp_path / "out").iterdir():
        assert b"1999" not in path.read_bytes()[:2000] or path.suffix == ".npy", path
    table = pd.read_parquet(tmp_path / "out" / "cohort.parquet").to_csv()
    assert not re.search(r"19990101|20000202", table)


def test_folder_zip_and_tar_give_the_same_cohort(tmp_path):
    files = lgg_files()
    twice = files | {f"lgg-mri-segmentation/{name}": data for name, data in files.items()}  # as in Kaggle's zip
    sources = [write_files(tmp_path / "x", files), write_zip(tmp_path / "x.zip", twice),
               write_tar(tmp_path / "x.tgz", files, "w:gz"), write_tar(tmp_path / "x.tar", files)]  # fmt: skip
    outs = [tmp_path / f"out{i}" for i in range(len(sources))]
    for source, out in zip(sources, outs):
        convert(tcga_lgg, source, out, "--size", 16)
    assert all(contents(out) == contents(outs[0]) for out in outs[1:])


def test_two_exams_of_a_patient_stay_one_patient(tmp_path):
    files = lgg_files(n_slices=1)
    again = {name.replace("19990101", "19991231"): data for name, data in files.items() if "19990101" in name}
    table = convert(tcga_lgg, write_zip(tmp_path / "x.zip", files | again), tmp_path / "out", "--size", 16).table
    assert table["image_id"][table["patient_id"] == "TCGA_CS_0001"].tolist() == [
        "TCGA_CS_0001a_001",
        "TCGA_CS_0001b_001",
    ]
    assert table["patient_id"].nunique() == 4


def test_idh1_is_read_from_the_table_or_from_another(tmp_path):
    lines = CSV.splitlines()
    inside = "\n".join([lines[0] + ",IDH1", lines[1] + ",WT", lines[2] + ",Mutant", lines[3] + ",", lines[4] + ","])
    wanted = {"TCGA_CS_0001": 0, "TCGA_DU_0002": 1, "TCGA_HT_0003": np.nan, "TCGA_HT_A61B": np.nan}
    (tmp_path / "idh.csv").write_text("Patient,IDH1\nTCGA-CS-0001,0\nTCGA-DU-0002,1\n")
    for csv, more in ((inside, []), (CSV, ["--idh1", tmp_path / "idh.csv"])):
        archive = write_zip(tmp_path / "x.zip", lgg_files(1, csv=csv))
        table = convert(tcga_lgg, archive, tmp_path / "out", "--size", 16, *more).table
        assert table.set_index("patient_id")["y_idh1"].equals(pd.Series(wanted)[table["patient_id"]].astype(float))


@pytest.mark.parametrize(
    ("csv", "message"),
    [
        (
            CSV.replace(",1,1,2,43", ",1,1,9,43"),
            r"TCGA_CS_0001 in .*data.csv: unknown code '9' in column 'gender'.*SEX",
        ),
        (CSV.replace(",1,1,2,43", ",7,1,2,43"), r"unknown code '7' in column 'histological_type'"),
        (CSV.replace("43", "old"), r"'old' in column 'age_at_initial_pathologic' is no number"),
        (CSV.replace("gender", "sex"), r"data.csv has no column 'gender'; it has Patient, .*sex"),
        (CSV.replace("TCGA_HT_A61B", "TCGA_HT_ZZZZ"), r"data.csv has no row for TCGA_HT_A61B"),
        ("", r"data.csv is not a whole CSV table"),
    ],
)
def test_a_table_with_something_odd_is_refused_by_name(tmp_path, csv, message):
    with pytest.raises(ValueError, match=message):
        convert(tcga_lgg, write_zip(tmp_path / "x.zip", lgg_files(1, csv=csv)), tmp_path / "out", "--size", 16)


def test_a_slice_without_a_mask_is_refused_by_name(tmp_path):
    files = lgg_files()
    del files["kaggle_3m/TCGA_DU_0002_20000202/TCGA_DU_0002_20000202_3_mask.tif"]
    with pytest.raises(FileNotFoundError, match=r"TCGA_DU_0002_20000202_3.tif has no mask beside it"):
        convert(tcga_lgg, write_zip(tmp_path / "x.zip", files), tmp_path / "out")
    del files["kaggle_3m/data.csv"]
    with pytest.raises(FileNotFoundError, match=r"no data.csv in .*x.zip"):
        convert(tcga_lgg, write_zip(tmp_path / "x.zip", files), tmp_path / "out")


# going on after a stop


def nih_files(n=300, size=16, **changes):
    """A small ChestX-ray14: 3 images a patient."""
    rng = np.random.default_rng(0)
    header = ("Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
              "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]")  # fmt: skip
    lines, files = [header], {}
    for i in range(n):
        name = f"{i // 3 + 1:08}_{i % 3:03}.png"
        finding = ("No Finding", "Effusion|Mass", "Hernia")[i % 3]
        row = [
            name,
            finding,
            i % 3,
            i // 3 + 1,
            40 + i // 3 % 40,
            "FM"[i // 3 % 2],
            ("PA", "AP")[i % 2],
            8,
            8,
            0.1,
            0.1,
        ]
        lines.append(",".join(map(str, changes.get(name, row))))
        files[f"images/{name}"] = png(rng.integers(0, 255, (size, size), dtype=np.uint8))
    return files | {"Data_Entry_2017_v2020.csv": "\n".join(lines).encode()}


@pytest.mark.parametrize("script", [nih_cxr14, tcga_lgg])
def test_a_second_start_finishes_what_the_first_began(tmp_path, monkeypatch, script):
    files = nih_files() if script is nih_cxr14 else lgg_files(n_slices=75)
    source = write_zip(tmp_path / "x.zip", files)
    convert(script, source, tmp_path / "whole", "--size", 12)
    calls = []

    unit = script.to_unit

    def stopping(*asked):
        calls.append(1)
        if len(calls) == 281:
            raise KeyboardInterrupt
        return unit(*asked)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(script, "to_unit", stopping)
        convert(script, source, tmp_path / "out", "--size", 12)
    assert not (tmp_path / "out" / "cohort.json").exists()
    calls.clear()
    monkeypatch.setattr(script, "to_unit", lambda *asked: calls.append(1) or unit(*asked))
    convert(script, source, tmp_path / "out", "--size", 12)
    assert len(calls) == 300 - 256, "what was there should not be read again"
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


HOLD = """
import sys
from pathlib import Path
from fairrecon_lab.engine.lock import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_conversions_into_one_folder_the_second_is_told_of_the_first(tmp_path):
    source, out = write_zip(tmp_path / "x.zip", lgg_files(n_slices=12)), tmp_path / "out"
    convert(tcga_lgg, source, tmp_path / "alone", "--size", 12)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, out], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=SCRIPTS.parent
    ) as first:
        assert first.stdout.readline() == b"held\n"
        command = [sys.executable, SCRIPTS / "tcga_lgg.py", source, out, "--size", "12"]
        second = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert second.returncode == 1 and len(second.stderr.strip().splitlines()) == 1
        assert f"the cohort in {out} is in use by process {first.pid} on " in second.stderr
        first.communicate()
    convert(tcga_lgg, source, out, "--size", 12)
    assert contents(out) == contents(tmp_path / "alone"), "and once the first is gone it works, and leaves no lock"


@pytest.mark.parametrize("write", [write_files, write_zip, lambda path, files: write_tar(path, files, "w:gz")])
def test_the_number_of_workers_changes_no_byte(tmp_path, write):
    (tmp_path / "x").mkdir()
    source = write(tmp_path / "x" if write is write_files else tmp_path / "x" / "x.archive", lgg_files(n_slices=12))
    for n_workers in (1, 2, 5):
        convert(tcga_lgg, source, tmp_path / f"out{n_workers}", "--size", 12, "--workers", n_workers)
    assert contents(tmp_path / "out1") == contents(tmp_path / "out2") == contents(tmp_path / "out5")
    with pytest.raises(ValueError, match="and a worker"):
        convert(tcga_lgg, source, tmp_path / "none", "--workers", 0)


def test_nothing_is_read_ahead_before_the_first_image_is_asked_for():
    read = []
    items = ((lambda i=i: read.append(i) or i, f"row {i}") for i in range(40))
    images = common.ahead(items, 3)
    skipped = [next(images)[1] for _ in range(20)]
    assert skipped == [f"row {i}" for i in range(20)] and not read
    assert [image() for image, _ in images] == list(range(20, 40))
    assert sorted(read) == list(range(20, 40))


def test_other_options_start_afresh(tmp_path, monkeypatch):
    source = write_files(tmp_path / "x", nih_files())
    broken = source / "images" / "00000099_001.png"
    kept = broken.read_bytes()
    broken.write_bytes(kept[:60])
    with pytest.raises(ValueError, match=r"00000099_001.png is truncated or no image"):
        convert(nih_cxr14, source, tmp_path / "out", "--size", 12)
    broken.write_bytes(kept)
    convert(nih_cxr14, source, tmp_path / "out", "--size", 12, "--scale", "fixed")
    convert(nih_cxr14, source, tmp_path / "whole", "--size", 12, "--scale", "fixed")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_the_command_line_says_what_is_wrong_and_goes_on_when_it_is_mended(tmp_path):
    source = write_files(tmp_path / "x", nih_files())
    broken = source / "images" / "00000099_001.png"
    kept = broken.read_bytes()
    broken.write_bytes(kept[:60])
    command = [sys.executable, SCRIPTS / "nih_cxr14.py", source, tmp_path / "out", "--size", "12"]
    first = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert first.returncode == 1 and "Traceback" not in first.stderr
    assert "00000099_001.png is truncated" in first.stderr and "the same command goes on" in first.stderr
    broken.write_bytes(kept)
    second = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert second.returncode == 0 and "images: 300 of 112120, partial" in second.stdout
    convert(nih_cxr14, source, tmp_path / "whole", "--size", 12)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


# ChestX-ray14


def test_nih_by_hand(tmp_path):
    row = ["00000002_000.png", "Effusion|Pleural_Thickening", 4, 2, 71, "M", "AP", 8, 8, 0.1, 0.1]
    source = write_files(tmp_path / "x", nih_files(9, **{"00000002_000.png": row}))
    table = convert(nih_cxr14, source, tmp_path / "out", "--size", 12).table.set_index("image_id")
    entry = table.loc["00000002_000"]
    assert (entry.patient_id, entry.sex, entry.age_years, entry.x_view, entry.x_follow_up) == (
        "00000002",
        "male",
        71,
        "ap",
        4,
    )
    positive = {column for column in table if column.startswith("y_") and entry[column] == 1}
    findings = {"y_pleural_effusion", "y_pleural_thickening", "y_any_finding"}
    assert positive == findings | {"y_view_ap"} and table.filter(like="y_").shape[1] == 14 + 2
    healthy = table.filter(like="y_").loc["00000001_000"]
    assert (healthy.drop("y_view_ap") == 0).all()  # No Finding
    assert healthy["y_view_ap"] == (table.loc["00000001_000", "x_view"] == "ap")
    assert (table["race"] == "unknown").all()


@pytest.mark.parametrize(("text", "years"), [("058Y", 58), ("58", 58), ("006M", 0.5), ("073D", 0.2), ("", None)])
def test_ages_in_every_spelling(text, years):
    assert nih_cxr14.read_age(text, "x") == (years if years is None else pytest.approx(years, rel=1e-3))


def test_an_age_above_120_is_unknown_and_counted(tmp_path, capsys):
    rows = {f"00000001_00{i}.png": [f"00000001_00{i}.png", "Mass", 0, 1, age, "M", "AP", 8, 8, 0.1, 0.1]
            for i, age in enumerate((414, 121, "60"))}  # fmt: skip
    table = convert(nih_cxr14, write_files(tmp_path / "x", nih_files(9, **rows)), tmp_path / "out", "--size", 12).table
    assert np.isnan(table["age_years"][:2]).all() and table["age_years"][2] == 60
    assert "2 ages above 120 years became unknown" in capsys.readouterr().out


@pytest.mark.parametrize(("column", "value", "message"), [
    (1, "Mass|Goitre", r"unknown code 'Goitre' in column 'Finding Labels'.*FINDINGS"),
    (5, "X", r"unknown code 'X' in column 'Patient Gender'"),
    (4, "old", r"'old' in column 'Patient Age' is no age"),
    (6, "LL", r"unknown code 'LL' in column 'View Position'"),
])  # fmt: skip
def test_an_unknown_code_is_refused_by_name(tmp_path, column, value, message):
    row = ["00000002_000.png", "Mass", 0, 2, 71, "M", "AP", 8, 8, 0.1, 0.1]
    row[column] = value
    source = write_files(tmp_path / "x", nih_files(9, **{"00000002_000.png": row}))
    with pytest.raises(ValueError, match=message):
        convert(nih_cxr14, source, tmp_path / "out", "--size", 12)


def test_the_twelve_archives_are_read_as_they_are(tmp_path):
    files = nih_files(60)
    table = {"Data_Entry_2017_v2020.csv": files.pop("Data_Entry_2017_v2020.csv")}
    folder, plain = write_files(tmp_path / "box", table), write_files(tmp_path / "plain", files | table)
    names = sorted(files)
    for i in range(3):
        write_tar(folder / f"images_00{i + 1}.tar.gz", {n: files[n] for n in names[20 * i : 20 * i + 20]}, "w:gz")
    convert(nih_cxr14, folder, tmp_path / "out", "--size", 12)
    convert(nih_cxr14, plain, tmp_path / "other", "--size", 12)
    assert contents(tmp_path / "out") == contents(tmp_path / "other")


# the COVID collection


@pytest.mark.parametrize(("finding", "one", "zero", "unrecorded"), [
    ("Pneumonia/Viral/COVID-19", "pneumonia viral_pneumonia covid_19", "bacterial_pneumonia sars ards", ""),
    ("COVID-19, ARDS", "pneumonia viral_pneumonia covid_19 ards", "bacterial_pneumonia tuberculosis", ""),
    ("Pneumonia/Viral", "pneumonia viral_pneumonia", "bacterial_pneumonia klebsiella", "covid_19 sars influenza_h1n1"),
    ("Pneumonia", "pneumonia", "tuberculosis ards", "viral_pneumonia covid_19 bacterial_pneumonia klebsiella"),
    ("Pneumonia/Bacterial/Staphylococcus/MRSA", "pneumonia bacterial_pneumonia staphylococcus mrsa", "covid_19", ""),
    ("ARDS", "ards", "tuberculosis", "pneumonia covid_19 klebsiella"),
    ("No Finding", "", "pneumonia covid_19 ards tuberculosis", ""),
    ("todo", "", "", "pneumonia covid_19 ards tuberculosis"),
])  # fmt: skip
def test_labels_of_a_finding_by_hand(finding, one, zero, unrecorded):
    labels = covid_cxr.labels_of(finding, "x")
    for names, value in ((one, 1), (zero, 0), (unrecorded, None)):
        assert {name: labels[name] for name in names.split()} == dict.fromkeys(names.split(), value)
    assert sum(value == 1 for value in labels.values()) == len(one.split())


def covid_files(**changes):
    """A small clone: two patients share a file, a lateral view and a CT are in between."""
    lines = ["patientid,offset,sex,age,finding,view,modality,date,location,folder,filename,url,license,clinical_notes"]
    rows = {
        "a.png": "2,0,M,54,Pneumonia/Viral/COVID-19,PA,X-ray,2020,Oslo,images,a.png,https://www.eurorad.org/1,CC BY,me",
        "b.png": "2,3,M,54,Pneumonia/Viral/COVID-19,AP Supine,X-ray,2020,Oslo,images,b.png,https://x.org/1,CC BY,me",
        "c.png": "10,,,,No Finding,AP,X-ray,2020,Oslo,images,c.png,https://x.org/1,,me",
        "d.png": "10,,,,No Finding,L,X-ray,2020,Oslo,images,d.png,https://x.org/1,,me",
        "e.png": "11,,F,20,todo,Axial,CT,2020,Oslo,images,e.png,https://x.org/1,,me",
        "f.png": "12,,F,33,Pneumonia/Lipoid,PA,X-ray,2020,Oslo,images,f.png,https://x.org/1,,me",
    } | changes  # fmt: skip
    lines += [*rows.values(), rows["b.png"].replace("2,3,M", "30,3,M", 1)]
    film = np.arange(600, dtype=np.uint16).reshape(20, 30)
    return {"metadata.csv": "\n".join(lines).encode()} | {
        f"images/{name}": png((film % 251).astype(np.uint8)) for name in rows
    }


def test_covid_by_hand(tmp_path, capsys):
    source = write_files(tmp_path / "x", covid_files())
    cohort = convert(covid_cxr, source, tmp_path / "out", "--size", 16, "--min-patients", 1, "--fit", "pad")
    table = cohort.table.set_index("image_id")
    assert table.index.tolist() == ["a.png", "b.png", "c.png", "f.png"]
    assert table["patient_id"].tolist() == ["2", "2", "10", "12"]
    assert table["x_view"].tolist() == ["pa", "ap_supine", "ap", "pa"]
    assert table["x_license"].tolist() == ["CC BY", "CC BY", "", ""] and table["x_source"].iloc[0] == "www.eurorad.org"
    assert table.loc["c.png", "sex"] == "unknown" and np.isnan(table.loc["c.png", "age_years"])
    assert set(cohort.tasks) == {
        "pneumonia",
        "covid_19",
        "lipoid_pneumonia",
        "view_ap",
    }  # viral is the same as covid_19 here
    assert table["y_view_ap"].tolist() == [0, 1, 1, 0] and cohort.info["control_tasks"] == ["view_ap"]
    assert (cohort.images[:, 0] == 0).all() and cohort.images[:, 8].any()  # black above, as the film is wide
    printed = capsys.readouterr().out
    assert "1 files listed under two patients: 1 pairs of patients merged" in printed
    assert "images: 4 of 4, complete" in printed
    text = cohort.table.to_csv()
    assert "Oslo" not in text and not {"x_date", "x_location", "x_clinical_notes"} & set(table.columns)


def test_a_cohort_without_a_task_is_still_a_cohort(tmp_path, capsys):
    cohort = convert(covid_cxr, write_files(tmp_path / "x", covid_files()), tmp_path / "out", "--size", 16)
    assert cohort.tasks == [] and "no task" in capsys.readouterr().out


@pytest.mark.parametrize(("row", "message"), [
    ("13,,F,33,Pneumonia/Viral/Rabies,PA,X-ray,2020,Oslo,images,f.png,u,,n", r"f.png in .*: unknown code 'Rabies'"),
    ("13,,X,33,Pneumonia,PA,X-ray,2020,Oslo,images,f.png,u,,n", r"unknown code 'X' in column 'sex'"),
    ("13,,F,old,Pneumonia,PA,X-ray,2020,Oslo,images,f.png,u,,n", r"'old' in column 'age' is no number"),
])  # fmt: skip
def test_an_unknown_finding_or_sex_is_refused_by_name(tmp_path, row, message):
    source = write_files(tmp_path / "x", covid_files(**{"f.png": row}))
    with pytest.raises(ValueError, match=message):
        convert(covid_cxr, source, tmp_path / "out", "--size", 16, "--min-patients", 1)


def test_an_unknown_view_only_filters_so_its_rows_are_left_out_and_counted(tmp_path, capsys):
    odd = {
        f"{view}.png": f"13,,F,33,Pneumonia,{view},X-ray,2020,Oslo,images,{view}.png,u,,n" for view in ("Oblique", "?")
    }
    plain = convert(covid_cxr, write_files(tmp_path / "y", covid_files()), tmp_path / "plain", "--size", 16)
    cohort = convert(covid_cxr, write_files(tmp_path / "x", covid_files(**odd)), tmp_path / "out", "--size", 16)
    pd.testing.assert_frame_equal(cohort.table, plain.table)
    assert "2 of them have a view that VIEWS and OTHER_VIEWS in covid_cxr.py do not know: " in capsys.readouterr().out
    steps = [{row["step"]: row["images"] for row in one.info["funnel"]} for one in (plain, cohort)]
    assert steps[1]["recorded in metadata.csv"] == steps[0]["recorded in metadata.csv"] + 2
    assert steps[1]["with image"] == steps[0]["with image"] == len(cohort)


# the real material


@real
def test_real_lgg(tmp_path, capsys):
    archive = DATA / "tcga_lgg" / "lgg-mri-segmentation.zip"
    cohort = convert(tcga_lgg, archive, tmp_path, "--size", 64, "--patients", 5, "--folds", 3)
    table = cohort.table
    assert table["patient_id"].nunique() == 5 and set(table["x_site"]) == {"CS"}
    assert cohort.masks.any(axis=(1, 2)).astype(int).tolist() == table["x_tumour"].tolist()
    inside = np.mean([cohort.image(i)[cohort.mask(i)].mean() for i in np.flatnonzero(table["x_tumour"])])
    assert inside > cohort.images_at(slice(None)).mean() + 0.1, "FLAIR is bright in the tumour"
    assert "TCGA_HT_A61B: blank in data.csv" in capsys.readouterr().out


@real
def test_real_lgg_table_has_codes_we_know_and_one_blank_row():
    source = archives.Source(DATA / "tcga_lgg" / "lgg-mri-segmentation.zip")
    patients, notes = tcga_lgg.read_patients(source, None)
    table = pd.DataFrame(patients.values())
    assert len(table) == 75 and sum("blank in data.csv;" in note for note in notes) == 1
    assert table["sex"].value_counts().to_dict() == {"female": 38, "male": 36}
    assert table["y_tumour_grade"].value_counts().to_dict() == {1: 39, 0: 35}
    assert table["race"].value_counts().to_dict() == {"white": 66, "black": 7}
    assert len(tcga_lgg.list_slices(source)) == 1510


@real
def test_real_nih(tmp_path):
    cohort = convert(nih_cxr14, DATA / "nih_cxr14", tmp_path, "--size", 64, "--patients", 20)
    entries, _ = nih_cxr14.read_entries(archives.Source(DATA / "nih_cxr14"))
    assert (len(entries), entries["patient_id"].nunique()) == (1000, 264)
    film = np.asarray(Image.open(DATA / "nih_cxr14" / "images" / (cohort.table["image_id"][7] + ".png")), dtype=float)
    expected = (film - film.min()) / (film.max() - film.min())
    np.testing.assert_allclose(cohort.image(7), expected, atol=0.5 / 255 + 1e-6)


@real
def test_real_covid_blemishes(tmp_path, capsys):
    cohort = convert(covid_cxr, DATA / "covid_cxr", tmp_path, "--size", 32, "--patients", 30, "--min-patients", 3)
    assert cohort.table["patient_id"].nunique() == 30
    films, n_listed, notes = covid_cxr.read_films(archives.Source(DATA / "covid_cxr"))
    assert (len(films), n_listed, films["patient_id"].nunique()) == (303, 303, 170)
    assert "4 files listed under two patients: 2 pairs of patients merged, one row kept" in notes
    assert "in 307 rows of the table 104 ages and 13 sexes are missing" in notes
    tasks = covid_cxr.frequent_tasks(films, 10)
    assert tasks == ["pneumonia", "viral_pneumonia", "bacterial_pneumonia", "covid_19", "pneumocystis", "view_ap"]
