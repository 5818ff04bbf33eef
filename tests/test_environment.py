"""The environment files say the same thing, and the set-up script works without the package."""

import importlib
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml


def conda_specs(path):
    return [item for item in yaml.safe_load(path.read_text())["dependencies"] if isinstance(item, str)]


def needed(project):
    """What the series needs: the audit's packages and those of the extra `all`."""
    return [*project["dependencies"], *project["optional-dependencies"]["all"]]


def test_binder_environment_is_the_root_one_less_the_editable_line(root):
    binder = yaml.safe_load((root / "binder/environment.yml").read_text())
    whole = yaml.safe_load((root / "environment.yml").read_text())
    editable = whole["dependencies"].pop()
    assert whole == binder and "-e .[all" in editable["pip"][0]


def test_conda_environment_holds_every_dependency_of_the_package(root):
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    renamed = {"torch": "pytorch-cpu", "matplotlib": "matplotlib-base"}
    wanted = [re.match(r"[A-Za-z0-9_-]+", text)[0] for text in needed(project)]
    have = {re.match(r"[A-Za-z0-9_-]+", spec)[0] for spec in conda_specs(root / "environment.yml")}
    assert {renamed.get(name, name) for name in wanted} <= have


def test_lock_pins_every_dependency_with_hashes_and_names_no_address(root):
    text = (root / "requirements.lock").read_text()
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for requirement in [*needed(project), *extras["lab"], *extras["test"], *extras["imagenet"]]:
        name = re.match(r"[A-Za-z0-9_-]+", requirement)[0].lower()
        assert re.search(rf"^{name}==.*\\\n\s+--hash=sha256:", text, re.M), f"{name} is not pinned with a hash"
    assert "://" not in text and "index-url" not in text


@pytest.mark.skipif(os.name == "nt", reason="bash scripts")
@pytest.mark.parametrize("name", ["binder/postBuild", "binder/start", ".ci/run"])
def test_shell_scripts_are_executable_and_parse(root, name):
    assert os.access(root / name, os.X_OK)
    subprocess.run(["bash", "-n", str(root / name)], check=True)


def test_setup_script_uses_the_standard_library_alone(root):
    imported = re.findall(r"^(?:from|import) ([a-z_]+)", (root / "run.py").read_text(), re.M)
    assert imported and set(imported) <= set(sys.stdlib_module_names)


def test_setup_script_installs_into_its_own_environment_alone(root):
    code = "import run; print(sorted(run.into_venv().items()))"
    asked = {"PIP_USER": "1", "PIP_TARGET": "/elsewhere", "PIP_PREFIX": "/elsewhere", "UV_TARGET": "/elsewhere"}
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=os.environ | asked, capture_output=True, text=True
    )
    assert "('PIP_USER', '0')" in found.stdout and "elsewhere" not in found.stdout


@pytest.mark.parametrize("own", [True, False])
def test_bytecode_is_kept_in_the_clones_own_environment_alone(own, root, monkeypatch):
    monkeypatch.syspath_prepend(root)
    run, seen = importlib.import_module("run"), {}
    monkeypatch.setattr(run, "interpreter", lambda build: (run.BIN if own else Path("/opt/bin")) / "python")
    monkeypatch.setattr(run.subprocess, "call", lambda command, env: seen.update(env))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    run.main([])
    assert ("PYTHONDONTWRITEBYTECODE" in seen) != own and seen["FAIRRECON_HOME"] == str(root)


def test_setup_script_refuses_an_unknown_torch_build(root):
    done = subprocess.run(
        [sys.executable, str(root / "run.py"), "--torch", "gpu"], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0 and "--torch takes cpu or auto" in done.stderr


def test_lock_without_cuda_loses_torch_and_its_gpu_packages_alone(root, tmp_path):
    sys.path.insert(0, str(root))
    try:
        import run as setup
    finally:
        sys.path.remove(str(root))
    lock = root / "requirements.lock"
    slim = setup.without_cuda(lock, tmp_path / "slim.lock").read_text()
    names = re.compile(r"^([A-Za-z0-9_.-]+)==", re.M)
    lost = set(names.findall(lock.read_text())) - set(names.findall(slim))
    assert {"torch", "torchvision", "triton"} <= lost
    assert all(re.match(r"torch|torchvision|triton|cuda-|nvidia-", name) for name in lost)
    assert slim.count("--hash") > 1000


def test_every_requirement_has_the_same_bounds_for_pip_and_for_conda(root):
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    split = re.compile(r"([A-Za-z0-9_-]+)(.*)")
    conda = dict(split.fullmatch(spec).groups() for spec in conda_specs(root / "environment.yml"))
    renamed = {"torch": "pytorch-cpu", "matplotlib": "matplotlib-base"}
    for text in needed(project):
        name, bounds = split.fullmatch(text).groups()
        assert conda[renamed.get(name, name)] == bounds, text


def test_what_may_break_with_its_next_version_has_an_upper_bound_that_the_lock_is_below(root):
    text, lock = (root / "pyproject.toml").read_text(), (root / "requirements.lock").read_text()
    whole = needed(tomllib.loads(text)["project"])
    below = {re.match(r"[A-Za-z0-9_-]+", each)[0]: each.partition("<")[2] for each in whole if "<" in each}
    heavy = {"numpy", "scipy", "pandas", "pyarrow", "torch", "torchvision", "lightning-fabric", "scikit-image",
             "scikit-learn", "ipykernel", "nbclient", "papermill"}  # fmt: skip
    assert heavy <= set(below)
    number = lambda version: [int(part) for part in version.split(".") if part.isdigit()]
    for name, bound in below.items():
        pins = re.findall(rf"^{name}==([0-9.]+)", lock, re.M)
        assert pins and all(number(pin) < number(bound) for pin in pins), name
