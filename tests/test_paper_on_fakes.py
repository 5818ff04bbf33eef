"""The paper's two downloads, format-true and drawn, through the converters, and the `paper` profile reduced on them."""

import json
import os
import re
import subprocess
import sys
import time
import zipfile
from dataclasses import fields
from pathlib import Path

import fake_downloads
import numpy as np
import pandas as pd
import pytest
import slurm_here
import yaml
from filelock import FileLock

from fairrecon_core.settings import Settings, load_settings
from fairrecon_core.steps.folder import Run
from fairrecon_lab.paper import numbers as published
from fairrecon_lab.paper.ours import Ours

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "data_scripts"))

import chexpert  # noqa: E402
import ucsf_pdgm  # noqa: E402

SIZE = 64
SMALLEST = {  # what a test can afford, by the pattern of a setting's name, also within `recipes`
    r"image_size|size": SIZE,
    r".*epochs": 1,
    r".*width": 4,
    r"backbone": "resnet18_half",
    r"start_from": "random",
    r"imagenet": False,
    r"mri_levels": [8],
    r"xray_levels": [10000],
    r"level_subset": 8,
    r"n_boot": 200,
    r"min_support": 2,
    r"sampler": "ode2",
    r"sde_steps": 4,
}


def smaller(given: dict) -> dict:
    """The given settings as `SMALLEST` has them; those that it does not name are left out, `recipes` keep them."""
    found = {}
    for name, value in given.items():
        small = next((small for pattern, small in SMALLEST.items() if re.fullmatch(pattern, name)), None)
        if small is not None:
            found[name] = small
        elif name == "recipes":
            found[name] = {network: smaller(options) for network, options in value.items()}
    return found


def reduced(cohorts: Path) -> dict:
    """Overrides that make the `paper` profile small, whatever it says; `cohorts` holds the converted data."""
    said = yaml.safe_load((ROOT / "notebooks/profiles/paper.yml").read_text(encoding="utf-8"))
    usual = {field.name: field.default for field in fields(Settings) if field.name != "published_width"}
    small = smaller(usual | said) | {"cohort_folder": str(cohorts)}
    small["recipes"]["classifier"]["backbone"] = {"mri": "efficientnet_lite0", "xray": "resnet18_half"}  # both kinds
    return small


def convert(script, *arguments):
    return script.main([str(argument) for argument in arguments])


def contents(folder: Path) -> dict:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


# the fakes themselves


def test_the_fake_table_has_the_real_columns_and_only_words_of_the_real_one(tmp_path, shared):
    real = pd.read_csv(shared / "data/ucsf_pdgm/UCSF-PDGM-metadata_v2.csv", dtype=str, keep_default_na=False)
    folder = fake_downloads.write_ucsf(tmp_path / "x", 60, draw=False)
    fake = pd.read_csv(folder / "UCSF-PDGM-metadata_v2.csv", dtype=str, keep_default_na=False)
    assert list(fake) == list(real) and len(fake) == 61
    for column in ("Sex", "WHO CNS Grade", "Final pathologic diagnosis (WHO 2021)", "MGMT status", "1p/19q", "IDH",
                   "EOR", "1-dead 0-alive", "Biopsy prior to imaging", "BraTS21 Segmentation Cohort"):  # fmt: skip
        assert set(fake[column]) <= set(real[column]), column
    assert set(fake["ID"].str.len()) == {len("UCSF-PDGM-004")} and set(fake["ID"][-2:]) <= set(real["ID"])


def test_fakes_are_the_same_at_every_call(tmp_path):
    for name in ("a", "b"):
        fake_downloads.write_ucsf(tmp_path / name / "ucsf", 2, step=40)
        fake_downloads.write_chexpert(tmp_path / name / "chexpert", 12)
    one, other = (
        {
            path.relative_to(tmp_path / name): path.read_bytes()
            for path in (tmp_path / name).rglob("*.*")
            if path.is_file()
        }
        for name in ("a", "b")
    )
    differing = [str(path) for path in one if one[path] != other[path]]
    assert one.keys() == other.keys() and all(path.endswith(".xlsx") for path in differing)  # a sheet holds its date


# every layout through its converter


@pytest.fixture(scope="module")
def ucsf(tmp_path_factory):
    """One UCSF-PDGM download with three sequences, each patient drawn in three slices."""
    folder = tmp_path_factory.mktemp("ucsf") / "PKG-UCSF-PDGM"
    return fake_downloads.write_ucsf(folder, 4, step=40, sequences=("FLAIR", "T1", "T2"))


SLICES = ("--slices", 94, 96, "--size", SIZE)


def test_ucsf_in_every_layout_gives_the_same_cohort(ucsf, tmp_path):
    cohort = convert(ucsf_pdgm, ucsf, tmp_path / "folder", *SLICES)
    assert len(cohort) == 5 * 3 and cohort.table["patient_id"].nunique() == 4 and cohort.table["x_follow_up"].sum() == 3
    assert cohort.table["x_tumour"].all() and cohort.info["complete"] is False
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for path in ucsf.rglob("*.*"):
            archive.write(path, f"archive (3)/{path.relative_to(ucsf).as_posix()}")
    convert(ucsf_pdgm, tmp_path / "x.zip", tmp_path / "zip", *SLICES)
    named = tmp_path / "v5"
    names = {"0138_nifti": "0429_FU003d_nifti"}
    for path in ucsf.rglob("*.nii.gz"):
        place = named / path.parent.name.replace("0138_nifti", names["0138_nifti"])
        place.mkdir(parents=True, exist_ok=True)
        (place / path.name.replace("PDGM-0138", "PDGM-0429_FU003d")).hardlink_to(path)
    table = fake_downloads.write_ucsf(tmp_path / "table", 4, version="v5", draw=False) / "UCSF-PDGM-metadata_v5.csv"
    convert(ucsf_pdgm, named, tmp_path / "by_table", *SLICES, "--metadata", table)
    assert contents(tmp_path / "folder") == contents(tmp_path / "zip") == contents(tmp_path / "by_table")


def test_flair_is_read_though_t1_and_t2_lie_beside_it(ucsf, tmp_path):
    import nibabel

    cohort = convert(ucsf_pdgm, ucsf, tmp_path / "out", "--slices", 95, 95, "--size", 240)
    row = cohort.table.set_index("image_id").loc["UCSF-PDGM-0004_095", "row"]
    films = {}
    for kind in ("FLAIR", "T1", "T2"):
        volume = nibabel.load(ucsf / f"UCSF-PDGM-0004_nifti/UCSF-PDGM-0004_{kind}.nii.gz").get_fdata()
        assert volume.shape == (240, 240, 155)
        films[kind] = volume[:, :, 95].T / volume[:, :, 95].max()
    near = {kind: float(np.abs(cohort.image(row) - film).max()) for kind, film in films.items()}
    assert near["FLAIR"] < 1e-4 < 0.2 < min(near["T1"], near["T2"])


@pytest.mark.parametrize("layout", [name for name in fake_downloads.LAYOUTS if name != "small"])
def test_chexpert_in_every_layout_gives_the_same_cohort(layout, tmp_path):
    small = convert(chexpert, fake_downloads.write_chexpert(tmp_path / "x", 24), tmp_path / "a", "--size", SIZE)
    assert len(small.tasks) == 12 and small.table["patient_id"].nunique() == 24
    other = fake_downloads.write_chexpert(tmp_path / "y", 24, layout=layout)
    convert(chexpert, other, tmp_path / "b", "--size", SIZE)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_what_chexpert_holds_is_in_the_fakes(tmp_path, capsys):
    source = fake_downloads.write_chexpert(tmp_path / "x", 60)
    table = convert(chexpert, source, tmp_path / "out", "--size", SIZE, "--views", "all").table
    assert set(table["x_view"]) == {"ap", "pa", "lateral"} and (table["sex"] == "unknown").sum() == 1
    assert {"white", "unknown"} <= set(table["race"]) and table["age_years"].isna().any()
    assert table.filter(like="y_").isna().any().all(), "every finding is asked of some films only"
    assert "1 images with age 0" in capsys.readouterr().out


# the whole profile


def the_series(home: Path, runs: str, root: Path, *options: str, **environment) -> subprocess.Popen:
    """The reduced `paper` profile on the converted fakes in `home`, under way; results in `home` / `runs`."""
    given = [part for name, value in reduced(home / "data").items() for part in ("-p", f"{name}={json.dumps(value)}")]
    command = [sys.executable, "-m", "fairrecon_lab.cli", "paper", *given, *options]
    here = {"FAIRRECON_RUNS": str(home / runs), "FAIRRECON_HOME": str(root), "FAIRRECON_DRAWN": ""}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=root, env={**os.environ, **environment, **here}, **pipes)


@pytest.fixture(scope="session")
def paper_run(tmp_path_factory, root):
    """The `paper` profile on the fakes, as a reader would run it: from the downloads' folders to the report.

    Made once, whichever of pytest's processes asks first.
    """
    base = tmp_path_factory.getbasetemp()
    home = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "paper"
    with FileLock(f"{home}.lock"):
        if not (home / "done").exists():
            ucsf = fake_downloads.write_ucsf(home / "ucsf", 24, step=40)
            films = fake_downloads.write_chexpert(home / "chexpert", 120)
            slices = ("--size", SIZE, "--slices", 94, 95, "--mask", "published")
            convert(ucsf_pdgm, ucsf, home / "data/ucsf_pdgm", *slices)
            convert(chexpert, films, home / "data/chexpert", "--size", SIZE, "--unknown-race", "drop")
            series = the_series(home, "runs", root)
            errors = series.communicate()[1]
            assert series.returncode == 0, errors[-4000:]
            (home / "done").touch()
    (folder,) = (home / "runs").glob("paper*")
    return folder


@pytest.mark.series
def test_the_reduced_paper_profile_runs_through_every_notebook(paper_run, root):
    record = json.loads((paper_run / "run.json").read_text(encoding="utf-8"))
    done = {*record["notebooks"], *record["left_out"]}
    assert done == {path.stem for path in (root / "notebooks").glob("[0-9]*.py")}
    assert not record["left_out"], "nothing of the paper is missing"
    page = (paper_run / "report.html").read_text(encoding="utf-8")
    assert "CC BY 4.0" in page and "Stanford University Dataset Research Use Agreement" in page
    assert "data:image/png" not in page, "pictures of patients stay out"


@pytest.mark.series
def test_nothing_of_the_fakes_may_be_compared_with_the_paper(paper_run):
    settings = json.loads((paper_run / "run.json").read_text(encoding="utf-8"))["settings"]
    run = Run(paper_run, load_settings("paper", **{name: settings[name] for name in reduced(paper_run)}))
    compared = published.compare(Ours(run).numbers)
    assert compared["ours"].notna().sum() > 500 and not compared["comparable"].any()
    reasons = published.reasons(compared)["cells"]
    for reason in (
        "cohort not complete (patients: 24 of 495, partial",
        "image_size 64 (paper: 256)",
        "width 4 (paper: 64)",
    ):
        assert reasons[reasons.index.str.startswith(reason)].sum() > 20, reason


@pytest.mark.series
def test_no_picture_of_a_patient_is_among_the_figures(paper_run):
    drawn = {path.stem for path in (paper_run / "figures").glob("*.png")}
    assert drawn and not [name for name in drawn if re.match(r"contact_sheet|0[2-6]_(arms|fig|samples)|08_fig", name)]


# the steps on a cluster


@pytest.fixture
def slurm(tmp_path):
    """The environment of a Slurm of one node, in which two jobs run at a time, and of Dask's settings for it."""
    if lacking := slurm_here.missing():
        reason = f"needs {', '.join(lacking)}: apt-get install slurm-wlm munge"
        (pytest.fail if os.environ.get("FAIRRECON_CI") == "1" else pytest.skip)(reason)
    (tmp_path / "dask").mkdir()
    said = {"queue": "main", "interface": "lo", "memory": "4GB", "local-directory": str(tmp_path / "scratch")}
    soon = {"deploy": {"lost-worker-timeout": "2s"}}
    (tmp_path / "dask/dask.yaml").write_text(yaml.safe_dump({"jobqueue": {"slurm": said}, "distributed": soon}))
    with slurm_here.one_node(tmp_path / "slurm") as environment:
        yield environment | {"DASK_CONFIG": str(tmp_path / "dask")}


READ = ("quality", "predictions", "overlap")  # tables that the steps make


def products(folder: Path, *kinds: str) -> dict[str, Path]:
    """Files below a run's folder of these kinds, by their place."""
    return {str(path.relative_to(folder)): path for kind in kinds for path in sorted(folder.glob(kind))}


@pytest.mark.series
def test_two_slurm_jobs_of_which_one_is_killed_give_the_tables_of_a_local_run(paper_run, slurm, root):
    home, said, killed, ended = paper_run.parents[1], [], None, 0.0
    series = the_series(home, "on_slurm", root, "--on", "slurm:2", "--only", "07", "08", "10", **slurm)
    for line in series.stdout:
        said.append(line)
        if re.match(r"\[\d+/", line):
            ended = time.time()
            if killed is None and len(running := slurm_here.jobs(slurm)) == 2:
                killed = running[0]
                subprocess.run(["scancel", "--signal=KILL", "--full", str(killed)], env=slurm, check=True)
    errors = series.stderr.read()
    assert series.wait() == 0, errors[-4000:]
    assert f"job {killed} is gone: another one is asked for\n" in said
    (folder,) = (home / "on_slurm").glob("paper*")
    tables, local = (products(base, "tables/*/*.parquet") for base in (folder, paper_run))
    local = {name: path for name, path in local.items() if "__linear__" not in name}  # the reader's own of notebook 13
    assert tables.keys() == local.keys() and len(tables) > 100
    assert [name for name in local if tables[name].read_bytes() != local[name].read_bytes()] == []
    by_steps = products(folder, "reconstructions/**/*.safetensors", *(f"tables/{kind}/*" for kind in READ))
    late = [name for name, path in by_steps.items() if path.stat().st_mtime > ended]
    assert len(by_steps) > 60 and not late, "the notebooks find everything current"
    assert not list(folder.rglob("*.part")) and not slurm_here.jobs(slurm)
