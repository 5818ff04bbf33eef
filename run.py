#!/usr/bin/env python3
"""The two commands of this repository. Nothing needs to be installed first but Python 3.11 or newer.

    python3 run.py [profile] [--only 04 07] [--from 05] [-p key=value ...]    run the notebook series
    python3 run.py [profile] --plan N                                         its cost with N workers; starts nothing
    python3 run.py [profile] --on local:N | slurm:N | tcp://HOST:PORT         steps on workers (Dask), then the series
    python3 run.py test [pytest options]                                      run the tests
    python3 run.py lab                                                        open the notebooks in JupyterLab
    python3 run.py book [profile]                                             build the series as an offline web site
    python3 run.py slides | sheet [profile] [--only 02]                       decks, or printable sheets without code
    python3 run.py audit SCORES.csv [PEOPLE.csv]                              audit your own model's predictions
    python3 run.py verify DIR                                                 do an audit again and compare
    python3 run.py class --students 30 --seed 7 --out class/                  a set of notebooks for each student
    python3 run.py grade class/                                               grade what comes back, offline

The first call makes `.venv` and installs `requirements.lock` into it, unless an environment that has all of it is
active (conda, Binder). `--torch cpu` as the first option takes torch's smaller CPU build from its own index.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
EXE = ".exe" if os.name == "nt" else ""
OLDEST = (3, 11)
# threads share two memory arenas; blocks up to 32 MB, which networks ask for and give back all the time, stay with the
# process, a tenth faster than getting each one from the system again
MEMORY = {"MALLOC_ARENA_MAX": "2", "MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**27)}


def main(argv):
    """Prepare the environment, then hand everything over to the package."""
    if sys.version_info < OLDEST:
        have = ".".join(map(str, sys.version_info[:3]))
        sys.exit("fairrecon needs Python 3.11 or newer, this is %s: try python3.12 run.py" % have)
    torch_build = ""
    if argv[:1] == ["--torch"]:
        torch_build, argv = (argv[1] if len(argv) > 1 else ""), argv[2:]
        if torch_build not in ("cpu", "auto"):
            sys.exit("--torch takes cpu or auto, got %r" % torch_build)
    python = interpreter(torch_build)
    path = str(python.parent) + os.pathsep + os.environ.get("PATH", "")
    first = os.pathsep.join(
        filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])
    )  # this clone's code, not another's
    environment = dict(MEMORY, **os.environ | {"PATH": path, "FAIRRECON_HOME": str(ROOT), "PYTHONPATH": first})
    if VENV in python.parents:  # ours: containers often forbid bytecode, and each process compiles torch anew, seconds
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
    # file names on the command line stay the caller's, but -P: no module is taken from the caller's folder
    return subprocess.call([str(python), "-P", "-m", "fairrecon_lab.cli", *argv], env=environment)


def interpreter(torch_build=""):
    """The Python to use: the active environment's if it is complete, otherwise that of `.venv`, made when needed."""
    active = os.environ.get("CONDA_PREFIX") or sys.prefix != sys.base_prefix
    in_venv = Path(sys.prefix).resolve() == VENV.resolve()
    if active and not in_venv and not missing():
        return Path(sys.executable)
    python = BIN / ("python" + EXE)
    stamp = VENV / "installed.txt"  # "<digest> <torch build>": a later call without --torch keeps the build
    found, _, build = stamp.read_text().partition(" ") if stamp.exists() else ("", "", "")
    build = torch_build or build
    if found != digest(build) or not python.exists():
        install(python, build)
        stamp.write_text(digest(build) + " " + build)
    return python


def missing():
    """Packages of pyproject.toml that the running interpreter lacks; the versions are the environment's business."""
    from importlib.metadata import PackageNotFoundError, version

    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    blocks = [text.split("\n%s = [" % name, 1)[1].split("\n]", 1)[0] for name in ("dependencies", "all")]
    lacking = []
    for name in [*re.findall(r'^\s*"([A-Za-z0-9_.-]+)', "\n".join(blocks), re.M), "pytest", "fairrecon"]:
        try:
            version(name)
        except PackageNotFoundError:
            lacking.append(name)
    if lacking:
        print("the active environment lacks %s: using .venv instead" % ", ".join(lacking), flush=True)
    return lacking


def digest(torch_build):
    """Content of everything that decides what is installed."""
    parts = [(ROOT / name).read_bytes() for name in ("requirements.lock", "pyproject.toml")]
    return hashlib.sha256(b"".join(parts) + torch_build.encode() + sys.version.encode()).hexdigest()


def install(python, torch_build):
    """Make `.venv` and install the locked packages: with uv, which is put into it, or with pip if uv cannot be had."""
    if not os.access(str(ROOT), os.W_OK):
        sys.exit(
            "%s cannot be written, so no .venv can be made there: activate an environment that has the packages of "
            "requirements.lock, or copy the clone; FAIRRECON_RUNS names a folder for results" % ROOT
        )
    print("preparing .venv (once; about 6 GB with torch's CUDA build, 2 GB with --torch cpu)", flush=True)
    if not python.exists() or not healthy(python):
        shutil.rmtree(str(VENV), ignore_errors=True)
        run([sys.executable, "-m", "venv", str(VENV)])
    pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    with_uv = subprocess.call(pip + ["uv"], cwd=str(ROOT), env=into_venv()) == 0
    if with_uv:
        pip = [str(BIN / ("uv" + EXE)), "pip", "install", "--quiet", "--python", str(python)]
    elif torch_build:
        print("uv could not be installed, --torch is ignored", flush=True)
    lock = ROOT / "requirements.lock"
    with tempfile.TemporaryDirectory() as folder:
        if torch_build and with_uv:
            pins = [line for line in lock.read_text().splitlines() if re.match(r"(torch|torchvision)==", line)]
            run(pip + ["--torch-backend", torch_build] + [pin.split(" ")[0] for pin in pins])
            if torch_build == "cpu":
                lock = without_cuda(lock, Path(folder) / "requirements.lock")
        run(pip + ["--require-hashes", "-r", str(lock)])
    run(pip + ["--no-deps", "--no-build-isolation", "-e", str(ROOT)])


def into_venv():
    """The environment without what would make pip or uv install elsewhere than into .venv."""
    elsewhere = {
        "PIP_TARGET",
        "PIP_PREFIX",
        "PIP_ROOT",
        "PIP_USER",
        "PYTHONHOME",
        "UV_TARGET",
        "UV_PREFIX",
        "UV_SYSTEM_PYTHON",
    }
    return dict({name: value for name, value in os.environ.items() if name not in elsewhere}, PIP_USER="0")


def healthy(python):
    """Whether an existing .venv still answers, which it does not after its Python was removed or upgraded."""
    try:
        return subprocess.call([str(python), "-c", "import pip"], cwd=str(ROOT), stderr=subprocess.DEVNULL) == 0
    except OSError:
        return False


def without_cuda(lock, target):
    """The lock without torch and the CUDA packages that only its GPU build needs."""
    blocks = re.split(r"\n(?=[A-Za-z0-9])", lock.read_text())
    gpu = re.compile(r"(torch|torchvision|triton|cuda-[a-z-]+|nvidia-[a-z0-9-]+)==")
    target.write_text("\n".join(block for block in blocks if not gpu.match(block)) + "\n")
    return target


def run(command):
    """Run one step and stop with its name if it fails."""
    if subprocess.call(command, cwd=str(ROOT), env=into_venv()) != 0:
        sys.exit("this step failed: " + " ".join(command))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
