"""Two processes on one folder: the second is told who has it, and nobody waits for the dead."""

import json
import os
import platform
import signal
import subprocess
import sys
import time

import pytest

from fairrecon_lab.engine import lock
from fairrecon_lab.engine.lock import NAME, InUseError, held

HOLD = """
import sys, time
from pathlib import Path
from fairrecon_lab.engine.lock import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_process_is_refused_and_told_who_has_the_folder(holder, tmp_path):
    with (
        pytest.raises(InUseError, match=rf"paper is in use by process {holder.pid} on {platform.node()} since 20"),
        held(tmp_path, "paper"),
    ):
        pytest.fail("both have it")
    assert json.loads((tmp_path / NAME).read_text())["pid"] == holder.pid


def test_the_lock_of_a_killed_process_is_taken_over_at_once(holder, tmp_path):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with held(tmp_path):
        assert json.loads((tmp_path / NAME).read_text())["pid"] == os.getpid()
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_a_holder_on_another_machine_counts_as_gone_after_a_minute_of_silence(tmp_path):
    other = {"pid": 1, "host": "elsewhere", "since": "2026-01-01T00:00:00+00:00", "started": 0.0}
    (tmp_path / NAME).write_text(json.dumps(other))
    with pytest.raises(InUseError, match="process 1 on elsewhere since 2026"), held(tmp_path):
        pass
    long_ago = time.time() - lock.DEAD - 5
    os.utime(tmp_path / NAME, (long_ago, long_ago))
    with held(tmp_path):
        assert json.loads((tmp_path / NAME).read_text())["host"] == platform.node()


def test_a_process_id_that_was_given_again_is_not_the_holder(tmp_path):
    before = {"pid": os.getpid(), "host": platform.node(), "since": "2026-01-01T00:00:00+00:00", "started": 1.0}
    (tmp_path / NAME).write_text(json.dumps(before))
    with held(tmp_path):
        pass


def test_the_heart_beats_and_stops_for_a_new_holder(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.02)
    with held(tmp_path):
        os.utime(tmp_path / NAME, (1, 1))
        time.sleep(0.3)
        assert (tmp_path / NAME).stat().st_mtime > 1
        (tmp_path / NAME).write_text('{"pid": 7}')
    assert json.loads((tmp_path / NAME).read_text()) == {"pid": 7}, "a lock that was taken over is not ours to remove"


def test_of_many_that_want_a_dead_lock_at_once_one_gets_it(tmp_path):
    (tmp_path / NAME).write_text('{"pid": 1, "host": "elsewhere"}')
    os.utime(tmp_path / NAME, (1, 1))
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom fairrecon_lab.engine.lock import InUseError, held\n"
        "time.sleep(max(0, float(sys.argv[2]) - time.time()))\n"
        "try:\n    with held(Path(sys.argv[1])):\n        print('mine', flush=True)\n        time.sleep(3)\n"
        "except InUseError:\n    print('not mine')\n"
    )
    at = str(time.time() + 2.5)
    command = [sys.executable, "-c", code, str(tmp_path), at]
    racing = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert sorted(process.communicate()[0] for process in racing) == ["mine\n"] + ["not mine\n"] * 3
