"""The steps of a run on many workers, with Dask: scheduling, retries, the dashboard and job submission are theirs.

Workers talk to one another through the run's folder alone, which all of them see. A worker that dies loses the step it
was at, which another one does again; a second start does again nothing that is done.
"""

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

from fairrecon_core.settings import load_settings, project_folder
from fairrecon_core.steps.folder import run_folder
from fairrecon_lab.engine.graph import Step, opened, steps_of
from fairrecon_lab.engine.lock import held

RETRIES = 10  # how often a step is begun again after a worker died at it
SHARED = ("FAIRRECON_RUNS", "FAIRRECON_HOME", "PYTHONPATH", "OMP_NUM_THREADS")  # what workers must have as we have it


class StepError(ValueError):
    """A step failed; the text says which, and what was left undone."""


def run_steps(profile: str, overrides: dict, where: str) -> dict[str, float]:
    """Do all steps of a run whose cohorts are there; seconds by step.

    Parameters
    ----------
    profile : str
    overrides : dict
    where : str
        `local:N` workers on this machine, one for each GPU if there are some; `slurm` or `slurm:N` jobs, as Dask's own
        `jobqueue.yaml` describes them; `tcp://host:port` of a scheduler that runs already.

    Raises
    ------
    StepError
        A step failed; those that do not need it are done.
    ValueError
        Dask is not installed; the message says how.
    """
    settings = load_settings(profile, **overrides)
    given = repr(sorted(overrides.items()))
    steps = steps_of(opened(profile, given))
    with held(run_folder(settings.profile, overrides), f"run {settings.profile}"), client_of(where) as client:
        return _done(client, steps, profile, given)


def _done(client: Any, steps: list[Step], profile: str, given: str) -> dict[str, float]:
    from distributed import as_completed

    environment = {name: os.environ[name] for name in SHARED if name in os.environ}
    environment["FAIRRECON_HOME"] = str(project_folder().resolve())
    futures: dict[str, Any] = {}
    for step in steps:
        before = [futures[name] for name in step.needs]
        futures[step.name] = client.submit(
            work, step, profile, given, environment, *before, key=step.name, retries=0, pure=False
        )
    names, seconds, failed = {future.key: name for name, future in futures.items()}, {}, {}
    for number, future in enumerate(as_completed(futures.values()), start=1):
        name = names[future.key]
        if future.status == "finished":
            seconds[name] = future.result()
            print(f"[{number}/{len(steps)}] {name}: {seconds[name]:.1f} s", flush=True)
        else:
            failed[name] = future.exception()
    if failed:
        first = next(iter(failed))
        raise StepError(f"{first}: {failed[first]}"[:600] + f" ({len(failed)} of {len(steps)} steps are not done)")
    return seconds


def work(step: Step, profile: str, given: str, environment: dict, *before: float) -> float:
    """Do a step in a worker's process; seconds. `before` are those of the steps that it waits for."""
    os.environ.update(environment)
    began = time.time()
    step.do(opened(profile, given))
    return time.time() - began


@contextlib.contextmanager
def client_of(where: str) -> Iterator[Any]:
    """A Dask client for `where`, as in `run_steps`; workers that were started for it end with the block.

    Parameters
    ----------
    where : str

    Raises
    ------
    ValueError
        Another place, or Dask is not installed.
    """
    try:
        import dask
        from distributed import Client, LocalCluster
    except ImportError:
        raise ValueError("--on needs Dask: pip install 'fairrecon[cluster]'") from None
    dask.config.set({"distributed.scheduler.allowed-failures": RETRIES, "distributed.worker.daemon": False})
    kind, _, number = where.partition(":")
    if where.startswith("tcp://"):
        with Client(where) as client:
            yield client
        return
    if kind not in ("local", "slurm") or (number and not number.isdigit()):
        raise ValueError(f"--on takes local:N, slurm, slurm:N or tcp://host:port, got {where!r}")
    n = int(number or 1)
    cluster: Any
    if kind == "local":
        cluster = LocalCluster(n_workers=0, threads_per_worker=1, processes=True, dashboard_address=":0")
        cluster.scale(n)
    else:
        from dask_jobqueue import SLURMCluster

        cluster = SLURMCluster(python=sys.executable, **_jobs())
        cluster.scale(jobs=n)
    with cluster, Client(cluster) as client:
        print(f"{n} workers, dashboard {client.dashboard_link}", flush=True)
        client.register_plugin(_plugin())
        yield client


def _jobs() -> dict:
    """What a job is, where Dask's `jobqueue.yaml` does not say: one core, one process, 16 GB; ours to say: paths."""
    import dask

    ours = {"cores": 1, "processes": 1, "memory": "16GB"}
    said = dask.config.get("jobqueue.slurm", {})
    exports = [f"export {name}={os.environ[name]!r}" for name in SHARED if name in os.environ]
    return {key: said.get(key) or value for key, value in ours.items()} | {"job_script_prologue": exports}


def _plugin() -> Any:
    """What a worker does when it starts: takes a GPU of its own, if this machine has some."""
    from distributed import WorkerPlugin

    class OneGPU(WorkerPlugin):
        name = "one-gpu"

        def setup(self, worker: Any) -> None:
            import torch

            n = torch.cuda.device_count()
            if n > 1 and "CUDA_VISIBLE_DEVICES" not in os.environ and str(worker.name).isdigit():
                torch.cuda.set_device(int(worker.name) % n)

    return OneGPU()
