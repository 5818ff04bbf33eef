"""Workers of Dask: what a Slurm job is, whose GPU is whose, and a scheduler of somebody's own that is lost."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from test_engine import TINY, cohort_in, tables_of

from fairrecon_core.settings import load_settings
from fairrecon_core.steps.folder import Run, run_folder
from fairrecon_core.steps.pipeline import open_cohorts
from fairrecon_lab.engine import cluster, room, workers
from fairrecon_lab.engine.graph import opened, steps_of


@contextlib.contextmanager
def scheduler(folder):
    """A scheduler on loopback with one worker, as somebody would start them by hand; its address, and its process."""
    folder.mkdir()
    file = folder / "scheduler.json"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": (folder / "log").open("w"), "cwd": folder}
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
    first = subprocess.Popen([*command, "--no-dashboard", "--scheduler-file", str(file)], **quiet)
    command = [sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file", str(file), "--nthreads", "1"]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path), OMP_NUM_THREADS="1")
    second = subprocess.Popen([*command, "--no-dashboard", "--no-nanny"], env=environment, **quiet)
    try:
        while not file.exists():
            assert first.poll() is None, (folder / "log").read_text()
            time.sleep(0.05)
        yield json.loads(file.read_text())["address"], first
    finally:
        for process in (first, second):
            process.kill()
            process.wait()


def test_a_lost_scheduler_and_a_second_start_lose_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FAIRRECON_RUNS", str(tmp_path / "runs"))
    folder = run_folder("smoke", TINY)
    cohort_in(folder)
    with scheduler(tmp_path / "first") as (address, process):

        def kill_it():
            while not list(folder.glob("reconstructions/brain/unet/*/*/weights.safetensors")):
                time.sleep(0.02)
            process.kill()

        killer = threading.Thread(target=kill_it, daemon=True)
        killer.start()
        with pytest.raises(cluster.StepError, match=r"the scheduler is gone, after \d+ of \d+ steps: start again"):
            cluster.run_steps("smoke", TINY, address)
        killer.join()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("weights.safetensors")}
    assert before and not (folder / ".in-use.json").exists()
    with scheduler(tmp_path / "second") as (address, _):
        seconds = cluster.run_steps("smoke", TINY, address)
        again = cluster.run_steps("smoke", TINY, address)  # a worker lives longer than a run
    n = len(steps_of(opened("smoke", json.dumps(TINY))))
    assert len(seconds) == n == len(again)
    cut, whole, idle = room.starts_of(folder)
    assert 0 < len(cut["seconds"]) < n == cut["steps"] and cut["wall_s"] > 0, "a start that was cut short counts, too"
    assert whole["seconds"] == pytest.approx(seconds, abs=0.051) and whole["seconds"].keys() == idle["seconds"].keys()
    assert [start["on"][:6] for start in (cut, whole, idle)] == ["tcp://"] * 3 and cut["started"] <= whole["started"]
    assert all(path.stat().st_mtime_ns == when for path, when in before.items()), "what is done is not done again"
    assert not list(folder.rglob("state.safetensors")), "the state of a training cut short goes once it is done"
    on_worker = tables_of(folder)
    alone = tmp_path / "alone"
    cohort_in(alone)
    every = open_cohorts(Run(alone, load_settings("smoke", **TINY)))
    for step in steps_of(every):
        step.do(every)
    expected = tables_of(alone)
    assert on_worker.keys() == expected.keys() and all(
        on_worker[name].equals(table) for name, table in expected.items()
    )


@pytest.mark.parametrize("status", ["finished", "error", "lost"])
def test_a_scheduler_that_goes_while_it_is_asked_ends_in_the_same_line(status, monkeypatch):
    from distributed.comm import CommClosedError

    def gone(*_):
        raise CommClosedError("Connection reset by peer")

    class Future(SimpleNamespace):
        __hash__ = object.__hash__

    client = SimpleNamespace(submit=lambda *_, key, **__: Future(key=key, status=status, result=gone, exception=gone))
    monkeypatch.setattr("distributed.wait", lambda futures, **_: (futures, set()))
    step, order = SimpleNamespace(name="images", needs=[], kind="images"), SimpleNamespace(start="now")
    with pytest.raises(cluster.StepError, match="the scheduler is gone, after 0 of 1 steps: start again"):
        cluster.do_steps(client, [step], order, SimpleNamespace(look=list), {})


def test_where_nobody_answers_one_line_says_so(monkeypatch):
    monkeypatch.setattr(workers, "CONNECT", 0.5)
    with (
        pytest.raises(workers.NoWorkersError, match=r"no scheduler answers at tcp://127\.0\.0\.1:9: start `dask sched"),
        workers.client_of("tcp://127.0.0.1:9"),
    ):
        pass


def test_slurm_where_there_is_none_is_refused_at_once(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(workers.NoWorkersError, match="--on slurm needs sbatch"), workers.client_of("slurm:2"):
        pass


def test_what_jobqueue_yaml_says_of_a_job_is_kept_and_one_step_runs_at_a_time(tmp_path, monkeypatch):
    import dask
    from dask_jobqueue import SLURMCluster

    def script():
        options = {name: value for name, value in workers.job(tmp_path / "logs").items() if name != "scheduler_options"}
        return SLURMCluster.job_cls("tcp://x:1", name="0", **options).job_script().splitlines()

    monkeypatch.setenv("FAIRRECON_RUNS", "/a b/c")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(dask.config, "collect", dict)
    plain = script()
    assert {"#SBATCH --cpus-per-task=1", "#SBATCH -t 1-00:00:00", "#SBATCH --mem=15G"} <= set(plain)
    assert "export FAIRRECON_RUNS='/a b/c'" in plain and f"#SBATCH -o {tmp_path}/logs/dask-worker-%J.out" in plain
    said = {"cores": 8, "processes": 4, "memory": "48GB", "walltime": "2:00:00", "account": None}
    said["job-script-prologue"] = ["module load cuda"]
    monkeypatch.setattr(dask.config, "collect", lambda: {"jobqueue": {"slurm": said}})
    told = script()
    assert {"#SBATCH --cpus-per-task=8", "#SBATCH -t 2:00:00", "module load cuda"} <= set(told)
    assert "export OMP_NUM_THREADS=8" in told and "export DASK_DISTRIBUTED__WORKER__MEMORY__TERMINATE=False" in told
    (command,) = [line for line in told if "dask_worker" in line]
    assert "--nthreads 1 " in command and "--nworkers" not in command and command.endswith("--memory-limit 0")


@pytest.mark.parametrize(
    ("n", "name", "chosen"), [(4, 5, "1"), (4, "SLURMCluster-6", "2"), (1, 0, None), (4, "x", None)]
)
def test_each_worker_sees_a_gpu_of_its_own(monkeypatch, n, name, chosen):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: n)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    workers.own_gpu(name)
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == chosen


class Cluster:
    """A cluster of jobs, as far as `Watch` looks at it."""

    def __init__(self, **jobs):
        self.workers = {name: SimpleNamespace(job_id=number) for name, number in jobs.items()}
        self.worker_spec, self.status, self.asked = dict(self.workers), SimpleNamespace(name="running"), 0

    def scale(self, jobs):
        for name in self.worker_spec:
            if name not in self.workers:
                self.asked += 1
                self.workers[name] = SimpleNamespace(job_id=str(100 + self.asked))


def watched(monkeypatch, tmp_path, at_work, queued, **jobs):
    """A watch over jobs, of which the workers `at_work` serve; `queued` are the jobs that Slurm has."""
    info = {"workers": {f"tcp://{name}": {"name": name} for name in at_work}}
    client = SimpleNamespace(cluster=Cluster(**jobs), scheduler_info=lambda n_workers: info)
    monkeypatch.setattr(workers, "_queued", lambda: queued)
    return workers.Watch(client, "slurm:2", tmp_path), client.cluster


def test_a_job_that_is_neither_at_work_nor_in_the_queue_is_asked_for_again(monkeypatch, tmp_path, capsys):
    watch, jobs = watched(monkeypatch, tmp_path, ["a"], {"1", "2", "3"}, a="1", b="2", c="3")
    watch.look()
    assert jobs.asked == 0
    monkeypatch.setattr(workers, "_queued", lambda: {"2"})  # 3 left the queue; Dask gives up 1
    del jobs.workers["a"]
    watch.look()
    assert jobs.asked == 2 and jobs.workers["b"].job_id == "2" and len(jobs.workers) == 3
    said = [f"job {number} is gone: another one is asked for" for number in (1, 3)]
    assert capsys.readouterr().out.splitlines() == said
    watch, jobs = watched(monkeypatch, tmp_path, ["a"], None, a="1", b="2")
    watch.look()
    assert jobs.asked == 0, "where Slurm does not answer nobody is counted as gone"


def test_jobs_that_end_before_they_work_are_not_asked_for_for_ever(monkeypatch, tmp_path):
    watch, jobs = watched(monkeypatch, tmp_path, [], set(), a="1")
    with pytest.raises(
        workers.NoWorkersError, match=f"{workers.IN_VAIN} jobs ended before they worked: see {tmp_path}"
    ):
        for _ in range(workers.IN_VAIN + 1):
            watch.look()
    assert jobs.asked == workers.IN_VAIN - 1
