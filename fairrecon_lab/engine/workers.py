"""Dask's workers for a run: processes on this machine, jobs of a Slurm cluster, or whoever serves a scheduler.

What Dask leaves to us: a worker does one step at a time, with all cores that are its own; it may grow beyond what it
was given (images are mapped from the disk, and the pages of a file are no reason to end it; a job's memory is Slurm's
to watch); and a job that was ended, or never began to work, is asked for again.
"""

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fairrecon_core.settings import project_folder

RETRIES = 10  # how often a step is begun again after a worker died at it
CONNECT = 10.0  # seconds that a scheduler has to answer, also after it was lost
IN_VAIN = 5  # jobs that end one after the other before they work, until we give up
SHARED = ("FAIRRECON_RUNS", "FAIRRECON_HOME", "PYTHONPATH")  # what workers must have as we have it
OF_JOBS = ("OMP_NUM_THREADS", "MALLOC_ARENA_MAX", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")  # before Python
WALLTIME = "1-00:00:00"
OF_WORKERS = {  # Dask's own settings, for its workers and for the scheduler that runs here
    "distributed.worker.daemon": False,
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
}
OF_SCHEDULER = {"distributed.scheduler.allowed-failures": RETRIES}


class NoWorkersError(ValueError):
    """Nobody can work for this run; the text says why, and where to look."""


@contextlib.contextmanager
def client_of(where: str, logs: Path | None = None) -> Iterator[Any]:
    """A Dask client for `where`, as in `run_steps`; workers that were started for it end with the block.

    Parameters
    ----------
    where : str
    logs : Path, optional
        Folder for what the jobs of a cluster print.

    Raises
    ------
    ValueError
        Another place, or Dask is not installed.
    NoWorkersError
        No scheduler answers there, or Slurm refuses such jobs.
    """
    kind, _, number = where.partition(":")
    remote = where.startswith("tcp://")
    if not remote and (kind not in ("local", "slurm") or (number and not (number.isdigit() and int(number)))):
        raise ValueError(f"--on takes local:N, slurm, slurm:N or tcp://host:port, got {where!r}")
    try:
        import dask
        from distributed import Client
    except ImportError:
        raise ValueError("--on needs Dask: pip install 'fairrecon[cluster]'") from None
    dask.config.set(OF_WORKERS | OF_SCHEDULER)
    if remote:
        try:
            client = Client(where, timeout=CONNECT)
        except (OSError, ValueError) as error:
            raise NoWorkersError(f"no scheduler answers at {where}: start `dask scheduler` there ({error})") from None
        with client:
            client.register_plugin(_plugin())
            yield client
        return
    n = n_workers(where)
    cluster = _local(n) if kind == "local" else _slurm(n, logs)
    with cluster, Client(cluster) as client:
        print(f"{n} workers, dashboard {client.dashboard_link}", flush=True)
        client.register_plugin(_plugin())
        yield client


def n_workers(where: str) -> int:
    """How many workers `where` asks for: N of `local:N` and `slurm:N`; 1 where it does not say."""
    kind, _, number = where.partition(":")
    return int(number) if kind in ("local", "slurm") and number.isdigit() else 1


def _local(n: int) -> Any:
    from distributed import LocalCluster

    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // n))
    cluster = LocalCluster(
        n_workers=0, threads_per_worker=1, processes=True, dashboard_address=":0", memory_limit=0,
        env={f"{library}_NUM_THREADS": threads for library in ("OMP", "MKL", "OPENBLAS")},
    )  # fmt: skip
    cluster.scale(n)
    return cluster


def _slurm(n: int, logs: Path | None) -> Any:
    from dask_jobqueue import SLURMCluster

    if shutil.which("sbatch") is None:
        raise NoWorkersError("--on slurm needs sbatch: start this on a machine of the cluster that may submit jobs")
    cluster = SLURMCluster(**job(logs))
    try:
        _accepted(cluster.job_script())
    except NoWorkersError:
        cluster.close()
        raise
    cluster.scale(jobs=n)
    return cluster


def job(logs: Path | None = None) -> dict:
    """What a Slurm job is: as Dask's `jobqueue.yaml` says, else 1 core, 16 GB, a day; one step at a time in any case.

    Parameters
    ----------
    logs : Path, optional
        Folder for what jobs print, where `jobqueue.yaml` names none.
    """
    import dask

    said = {**dask.config.collect().get("jobqueue", {}).get("slurm", {})}  # the user's, without Dask's own defaults
    said = {key.replace("_", "-"): value for key, value in said.items() if value is not None}
    cores = int(said.get("job-cpu") or said.get("cores") or 1)
    here = {name: os.environ[name] for name in (*SHARED, *OF_JOBS) if name in os.environ}
    here |= {f"DASK_{key.upper().replace('.', '__')}": str(value) for key, value in OF_WORKERS.items()}
    threads = {f"{library}_NUM_THREADS": str(cores) for library in ("OMP", "MKL", "OPENBLAS")}
    return {
        "cores": 1,  # of Dask: steps at a time
        "processes": 1,
        "job_cpu": cores,
        "memory": said.get("memory", "16GB"),
        "walltime": said.get("walltime", WALLTIME),
        "python": said.get("python", sys.executable),
        "log_directory": str(said.get("log-directory") or logs or tempfile.gettempdir()),
        "job_script_prologue": [
            *said.get("job-script-prologue", []),
            *(f"export {name}={shlex.quote(value)}" for name, value in (threads | here).items()),
        ],
        "worker_extra_args": [*said.get("worker-extra-args", []), "--memory-limit", "0"],
        "scheduler_options": {"dashboard_address": ":0", **said.get("scheduler-options", {})},
    }


def _accepted(script: str) -> None:
    """Ask Slurm whether it would take such a job; NoWorkersError with its answer otherwise."""
    with tempfile.NamedTemporaryFile("w", suffix=".sh") as file:
        file.write(script)
        file.flush()
        asked = subprocess.run(["sbatch", "--test-only", file.name], capture_output=True, text=True, check=False)
    if asked.returncode:
        lines = asked.stderr.strip().splitlines() or ["no answer"]
        raise NoWorkersError(
            f"Slurm takes no such job ({lines[-1]}): mend jobqueue.slurm in ~/.config/dask/jobqueue.yaml"
        )


class Watch:
    """Looks after the workers while steps run: replaces lost jobs, and says so where nobody works.

    Parameters
    ----------
    client : distributed.Client
        Of `client_of`.
    where : str
        As there.
    logs : Path
    """

    def __init__(self, client: Any, where: str, logs: Path):
        self.client, self.where, self.logs = client, where, logs
        self._seen = time.monotonic()  # when somebody worked
        self._arrived: set[str] = set()  # names of workers that came
        self._jobs: dict[Any, str] = {}  # by name, those that were there when we last looked
        self._in_vain = 0

    def look(self) -> None:
        """Look once.

        Raises
        ------
        NoWorkersError
            Jobs end again and again before they work.
        """
        here = {str(worker["name"]) for worker in self.client.scheduler_info(n_workers=-1)["workers"].values()}
        if here:
            self._seen = time.monotonic()
        elif time.monotonic() - self._seen > 60:
            self._seen = time.monotonic()
            hint = {"slurm": f"see `squeue --me`, and {self.logs}", "tcp": f"start `dask worker {self.where}`"}
            print(f"no worker since a minute: {hint.get(self.where.partition(':')[0], 'see above')}", flush=True)
        if self.where.startswith("slurm"):
            self._replace(here)

    def _replace(self, here: set[str]) -> None:
        """Ask again for jobs that Dask has given up, and for those that left Slurm's queue before they worked."""
        cluster = self.client.cluster
        if here - self._arrived:
            self._arrived |= here
            self._in_vain = 0
        awaited = {name: job.job_id for name, job in cluster.workers.items() if str(name) not in self._arrived}
        queued = _queued() if awaited else None
        for name, number in awaited.items():
            if number and queued is not None and str(number) not in queued:
                self._in_vain += 1
                cluster.workers.pop(name, None)
        now = {name: job.job_id for name, job in cluster.workers.items()}
        for name, number in self._jobs.items():
            if now.get(name) != number:  # Dask may have put another in its place since
                self._arrived.discard(str(name))
                print(f"job {number} is gone: another one is asked for", flush=True)
        if self._in_vain >= IN_VAIN:
            raise NoWorkersError(f"{self._in_vain} jobs ended before they worked: see {self.logs}")
        self._jobs = now
        cluster.scale(jobs=len(cluster.worker_spec))  # starts what is in its specification and nowhere else


def _queued() -> set[str] | None:
    """Numbers of our jobs that wait or run; None where Slurm does not answer just now."""
    asked = subprocess.run(["squeue", "--me", "--noheader", "--format=%i"], capture_output=True, text=True, check=False)
    return None if asked.returncode else set(asked.stdout.split())


def _plugin() -> Any:
    """What a worker does when it starts: takes a GPU of its own, if this machine has some."""
    from distributed import WorkerPlugin

    class OneGPU(WorkerPlugin):
        name = "one-gpu"

        def setup(self, worker: Any) -> None:
            own_gpu(worker.name)

    return OneGPU()


def own_gpu(name: object) -> None:
    """Let this process see one GPU alone, by the number in its worker's `name`, unless somebody has chosen already."""
    import torch

    number = re.search(r"\d+$", str(name))
    n = torch.cuda.device_count()  # asks the driver, and leaves the choice open
    if n > 1 and number and "CUDA_VISIBLE_DEVICES" not in os.environ:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(int(number[0]) % n)


def surroundings() -> dict[str, str]:
    """The environment that a step must find as we have it, with folders that hold from any other one."""
    found = {name: os.environ[name] for name in SHARED if name in os.environ}
    if "FAIRRECON_RUNS" in found:
        found["FAIRRECON_RUNS"] = str(Path(found["FAIRRECON_RUNS"]).resolve())
    return found | {"FAIRRECON_HOME": str(project_folder().resolve())}
