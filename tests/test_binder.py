"""What mybinder.org will do with this repository, as far as that can be known without docker and without conda.

repo2docker's own parser reads the files and says what it would build; `postBuild` runs in an environment of its own
that borrows the packages of this one; `start` is started. What stays unproved is conda's solution of the environment.
"""

import importlib.util
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.skipif(os.name == "nt", reason="bash scripts")


@pytest.fixture(scope="module")
def links(root):
    """The module binder/links.py."""
    spec = importlib.util.spec_from_file_location("links", root / "binder" / "links.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def plan(root, tmp_path_factory):
    """The Dockerfile that repo2docker would build from the environment files of this repository."""
    if importlib.util.find_spec("repo2docker") is None:
        reason = "needs jupyter-repo2docker: install the extra 'test'"
        (pytest.fail if os.environ.get("FAIRRECON_CI") == "1" else pytest.skip)(reason)
    folder = tmp_path_factory.mktemp("binder")
    shutil.copytree(root / "binder", folder / "binder")
    shutil.copy(root / "environment.yml", folder)
    return dry_run(folder)


def dry_run(folder):
    """What repo2docker says about a folder; docker is never called."""
    command = [
        sys.executable,
        "-m",
        "repo2docker",
        "--no-build",
        "--debug",
        "--user-id=1000",
        "--user-name=jovyan",
        ".",
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout + done.stderr


# ---------------------------------------------------------------------------------------------------- what is built


def test_repo2docker_takes_the_environment_of_the_binder_folder(plan):
    assert "Building conda environment for python=3.12" in plan
    assert re.search(r'env update -p \$\{NB_PYTHON_PREFIX\} --file "binder/environment.yml"', plan)
    assert "requirements" not in plan, "a second list of packages would be installed"


def test_repo2docker_runs_post_build_and_enters_through_start(plan):
    assert "RUN ./binder/postBuild" in plan
    assert 'R2D_ENTRYPOINT="${REPO_DIR}/binder/start"' in plan


def test_packages_come_before_the_repository_so_that_a_changed_notebook_costs_no_new_environment(plan):
    assert plan.index("env update -p") < plan.index("COPY --chown=1000:1000 src/ ${REPO_DIR}/")


def test_without_the_binder_folder_another_python_would_be_built(root, tmp_path, plan):
    (tmp_path / "binder").mkdir()
    shutil.copy(root / "environment.yml", tmp_path)  # this is the trap: an empty binder folder hides it
    assert "Building conda environment for python=3.12" not in dry_run(tmp_path)


def test_the_environment_pins_no_build_and_takes_the_small_torch(root):
    specs = yaml.safe_load((root / "binder" / "environment.yml").read_text())["dependencies"]
    assert all(isinstance(spec, str) and spec.count("=") <= 2 for spec in specs), (
        "ranges, no build strings, no pip part"
    )
    names = {re.match(r"[a-z0-9-]+", spec)[0] for spec in specs}
    assert "pytorch-cpu" in names and "pytorch" not in names
    exact = [spec for spec in specs if re.search(r"[^<>]==?[\d]", spec) and not spec.startswith("python=")]
    assert not exact, f"an exact pin rots: {exact}"


# ---------------------------------------------------------------------------------------------------- postBuild, start


def alone() -> dict[str, str]:
    """This process's environment without PYTHONPATH, which would find the package of this clone first."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


@pytest.fixture(scope="module")
def built(root, tmp_path_factory):
    """(folder, prefix, log): postBuild in a copy of the clone, with an environment that borrows this one's packages."""
    folder, prefix = (tmp_path_factory.mktemp(name) for name in ("clone", "prefix"))
    kept = (
        "binder",
        "book",
        "fairrecon_core",
        "fairrecon_lab",
        "notebooks",
        "tools",
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "NOTICE",
    )
    for name in kept:
        source = root / name
        ignore = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
        shutil.copytree(source, folder / name, ignore=ignore) if source.is_dir() else shutil.copy(source, folder)
    (folder / "notebooks" / "02_mri_undersampling.ipynb").unlink()  # what postBuild has to write again
    venv.create(prefix)  # pip and setuptools are borrowed too
    borrowed = {path for path in sys.path if path.endswith("site-packages")}
    own = next((prefix / "lib").glob("python*/site-packages"))
    (own / "borrowed.pth").write_text("\n".join(sorted(borrowed)))
    environment = dict(alone(), NB_PYTHON_PREFIX=str(prefix), PIP_NO_INDEX="1", PYTHONNOUSERSITE="1")
    environment["PATH"] = f"{prefix / 'bin'}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        ["binder/postBuild"], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return folder, prefix, done.stdout


def test_post_build_installs_the_package_of_the_clone_without_the_network(built):
    folder, prefix, _ = built
    ask = "import fairrecon_core; print(fairrecon_core.__file__)"
    answer = subprocess.run(
        [prefix / "bin" / "python", "-c", ask], cwd=prefix, env=alone(), capture_output=True, text=True, check=True
    )
    assert Path(answer.stdout.strip()).is_relative_to(folder)


def test_post_build_writes_the_notebooks_again(built, root):
    folder, _, log = built
    assert "wrote 02_mri_undersampling.ipynb" in log
    name = "notebooks/02_mri_undersampling.ipynb"
    assert json.loads((folder / name).read_text())["cells"]


def test_post_build_keeps_news_from_covering_the_notebook(built):
    settings = json.loads((built[1] / "share/jupyter/lab/settings/overrides.json").read_text())
    assert settings["@jupyterlab/apputils-extension:notification"]["fetchNews"] == "false"
    voila = json.loads((built[1] / "etc/jupyter/voila.json").read_text())
    assert voila["VoilaConfiguration"]["extension_denylist"] == ["jupyterlab-jupytext"], "it breaks in Voila"


def test_start_gives_one_thread_and_the_memory_settings_of_run_py_and_hands_over(root):
    clean = {k: v for k, v in os.environ.items() if "_NUM_THREADS" not in k and not k.startswith("MALLOC_")}
    done = subprocess.run([root / "binder" / "start", "env"], env=clean, capture_output=True, text=True, check=True)
    memory = {f"{name}={value}" for name, value in runpy.run_path(root / "run.py")["MEMORY"].items()}
    wanted = {"OMP_NUM_THREADS=1", "MKL_NUM_THREADS=1", "OPENBLAS_NUM_THREADS=1", *memory}
    assert wanted <= set(done.stdout.splitlines()) and "MALLOC_ARENA_MAX=2" in memory
    failing = subprocess.run([root / "binder" / "start", "false"], check=False)
    assert failing.returncode == 1, "the exit status is that of the command"


# ---------------------------------------------------------------------------------------------------- links


def test_links_name_the_host_the_branch_and_the_notebook(links):
    at = "https://mybinder.org/v2/"
    opened = links.launch("02_mri_undersampling", "https://github.com/owner/repo")
    assert opened == at + "gh/owner/repo/main?urlpath=lab/tree/notebooks/02_mri_undersampling.ipynb"
    tagged = links.launch("explorer", "https://gitlab.com/group/sub/repo", ref="v1/2")
    assert tagged == at + "gl/group%2Fsub%2Frepo/v1%2F2?urlpath=voila/render/notebooks/explorer.ipynb"
    elsewhere = links.launch("00_start_here", "https://example.org/r")
    assert elsewhere.startswith(at + "git/https%3A%2F%2Fexample.org%2Fr/main?urlpath=lab/tree/")


def test_the_repository_is_named_in_one_place_and_its_absence_says_where(links, tmp_path, capsys):
    project = tmp_path / "pyproject.toml"
    project.write_text('[project]\nname = "x"\n')
    with pytest.raises(LookupError, match=r"\[project.urls\]"):
        links.repository(project)
    project.write_text('[project]\nname = "x"\n[project.urls]\nRepository = "https://github.com/a/b.git"\n')
    assert links.repository(project) == "https://github.com/a/b"


def test_every_notebook_gets_a_line(links, root, capsys):
    assert links.main(["--repository", "https://github.com/a/b", "--ref", "v1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("[![Open on Binder]")
    linked = {re.search(r"notebooks/(.+)\.ipynb", line)[1] for line in lines[1:]}
    assert linked == {path.stem for path in (root / "notebooks").glob("*.ipynb")}
