"""What all tests share. One thread a process: two test processes with one thread each beat one with two."""

import os
import sys
from pathlib import Path

for library in ("OMP", "MKL", "OPENBLAS"):
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")
os.environ["MPLBACKEND"] = "agg"
os.environ.pop("FAIRRECON_TRACE", None)

import pytest  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "benchmarks"))  # independent implementations that tests and benchmarks share


@pytest.fixture(scope="session")
def root() -> Path:
    """The clone."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data and golden values beside the clone; a test that needs them is skipped elsewhere."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs the folder shared/ beside the clone (real data, golden values)")
    return folder


@pytest.fixture(autouse=True)
def _environment_as_before():
    """Tests need no order: what one would leave in our part of the environment, the next one would meet."""
    ours = lambda: {name: value for name, value in os.environ.items() if name.startswith("FAIRRECON_")}
    before = ours()
    yield
    now = ours()
    for name in now:
        del os.environ[name]
    os.environ.update(before)
    assert now == before, f"this test changed the environment: {now}"
