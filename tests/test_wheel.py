"""The wheel in an empty environment with the audit's few packages: a console command, no torch, quick to start."""

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import venv
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="links to packages")
LIGHT = ("numpy", "scipy", "pandas", "pyarrow", "pyyaml")


def needed(names):
    """Distributions and all that they need, without extras."""
    out, ahead = {}, list(names)
    while ahead:
        name = ahead.pop()
        if name not in out:
            out[name] = distribution(name)
            parts = [text for text in out[name].requires or () if "extra ==" not in text]
            parts = [text for text in parts if ";" not in text]  # other systems and versions
            ahead += [re.match(r"[A-Za-z0-9_.-]+", text)[0] for text in parts]
    return out.values()


@pytest.fixture(scope="module")
def installed(root, tmp_path_factory):
    """Folder of an environment that holds the built wheel and links to `LIGHT`, nothing else."""
    folder = tmp_path_factory.mktemp("wheel")
    source, bare = folder / "source", shutil.ignore_patterns("__pycache__", "*.egg-info")
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(root / name, source)
    for name in ("fairrecon_core", "fairrecon_lab"):
        shutil.copytree(root / name, source / name, ignore=bare)
    build = f"from setuptools import build_meta; print(build_meta.build_wheel({str(folder)!r}))"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True, env=clean())
    wheel = next(folder.glob("*.whl"))
    home = folder / "env"
    venv.create(home, with_pip=True)
    install = ["-m", "pip", "install", "--no-deps", "--no-index", "--disable-pip-version-check", "--quiet", str(wheel)]
    subprocess.run([home / "bin" / "python", *install], check=True, capture_output=True, env=clean())
    packages = next(home.glob("lib/python*/site-packages"))
    for found in needed(LIGHT):
        for first in {file.parts[0] for file in found.files if file.parts[0] not in ("..", "__pycache__")}:
            if not (packages / first).exists():
                (packages / first).symlink_to(Path(found.locate_file(first)).resolve())
    return home


def clean():
    """The environment without paths to this clone's code."""
    dropped = {"PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_PREFIX", "PIP_USER"}
    return {name: value for name, value in os.environ.items() if name not in dropped}


def run(home, *arguments, cwd):
    return subprocess.run(
        [home / "bin" / "fairrecon", *arguments], cwd=cwd, capture_output=True, text=True, env=clean()
    )


def test_the_audit_runs_from_the_wheel_without_torch(installed, tmp_path):
    rng = np.random.default_rng(5)
    truth = rng.random(200) < 0.5
    table = pd.DataFrame({"pid": np.arange(200), "sex": np.where(np.arange(200) % 2, "f", "m"), "truth": truth * 1})
    table.assign(prob=(0.4 * rng.random(200) + 0.5 * truth).round(3)).to_csv(tmp_path / "scores.csv", index=False)
    done = run(installed, "audit", "scores.csv", "--attribute", "sex", "--n-boot", "100", "--json", "-", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rates"]
    assert {row["subgroup"] for row in rows if row["metric"] == "tpr"} >= {"f", "m"}
    heavy = "{'torch', 'matplotlib', 'sklearn', 'yaml'}"
    code = f"import sys; from fairrecon_lab.cli import main; print(main(sys.argv[1:]), {heavy} & set(sys.modules))"
    line = [installed / "bin" / "python", "-c", code, "audit", "scores.csv", "--n-boot", "100"]
    again = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, env=clean())
    assert again.stdout.strip().splitlines()[-1] == "0 set()", again.stderr


def test_help_takes_less_than_two_seconds_of_a_core_and_loads_no_package(installed, tmp_path):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = run(installed, "audit", "--help", cwd=tmp_path)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0 and "--attribute" in done.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2
    code = "import sys; sys.argv = ['fairrecon', 'audit', '--help']; import fairrecon_lab.cli as cli\n" \
           "try: cli.main()\nexcept SystemExit: print({'numpy', 'pandas', 'scipy'} & set(sys.modules))"  # fmt: skip
    told = subprocess.run([installed / "bin" / "python", "-c", code], capture_output=True, text=True, env=clean())
    assert told.stdout.strip().endswith("set()")


def test_the_series_says_what_it_lacks(installed, tmp_path):
    done = run(installed, "smoke", cwd=tmp_path)
    assert done.returncode == 1 and "pip install 'fairrecon[all]'" in done.stderr and "Traceback" not in done.stderr
