"""The steps of a run on many workers, with Dask: scheduling, retries, the dashboard and job submission are theirs.

Workers talk to one another through the run's folder alone, which all of them see. A worker that dies loses the step it
was at, which another one does again; a second start does again nothing that is done. Tables are those of a run without
Dask, byte for byte, where both run on as many threads (OMP_NUM_THREADS): trainings add in another order otherwise.
"""

import json
import os
import platform
import time
import uuid
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from fairrecon_core.settings import load_settings
from fairrecon_core.steps.folder import run_folder
from fairrecon_core.steps.stamps import digest, module_digests
from fairrecon_lab.engine.graph import Step, opened, steps_of
from fairrecon_lab.engine.lock import held, now
from fairrecon_lab.engine.room import remember_start
from fairrecon_lab.engine.workers import Watch, client_of, surroundings

LOOK = 5.0  # seconds between two looks at the workers
FIRST = {"train": 2, "reader": 2, "images": 1}  # what others wait for comes before what nobody waits for


class StepError(ValueError):
    """A step failed; the text says which, and what was left undone."""


@dataclass(frozen=True)
class Order:
    """What a worker must know to do a step as it would be done here.

    Parameters
    ----------
    profile, overrides : str
        Of the run; overrides as JSON.
    folder : str
        The run's folder, which the worker must see.
    environment : dict
    code : str
        Digest of our code, which must be the worker's.
    start : str
        Unlike that of any other start: a worker may live longer than one.
    """

    profile: str
    overrides: str
    folder: str
    environment: dict
    code: str
    start: str


def run_steps(profile: str, overrides: dict, where: str) -> dict[str, float]:
    """Do all steps of a run whose cohorts are there; seconds by step. The run keeps them (`remember_start`).

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
        A step failed, or the scheduler is gone; steps that do not need it are done, and a second start goes on.
    NoWorkersError
        Nobody can work.
    ValueError
        Dask is not installed; the message says how.
    """
    order = order_of(profile, overrides)
    steps = steps_of(opened(order.profile, order.overrides, order.start))
    folder, seconds = Path(order.folder), dict[str, float]()
    logs = folder / "jobs"
    with held(folder, f"run {folder.name}"):
        start, began = {"started": now(), "on": where, "steps": len(steps)}, time.monotonic()
        with client_of(where, logs) as client:
            try:
                do_steps(client, steps, order, Watch(client, where, logs), seconds)
            finally:
                remember_start(folder, start | {"wall_s": time.monotonic() - began, "seconds": seconds})
    return seconds


def order_of(profile: str, overrides: dict) -> Order:
    """What a worker must know of a run of this profile, begun now."""
    settings = load_settings(profile, **overrides)
    if str(profile).endswith(".yml"):  # a worker works in another folder
        profile = str(Path(profile).resolve())
    folder = run_folder(settings.profile, overrides).resolve()
    return Order(profile, json.dumps(overrides), str(folder), surroundings(), our_code(), uuid.uuid4().hex[:8])


def do_steps(client: Any, steps: list[Step], order: Order, watch: Watch, seconds: dict[str, float]) -> None:
    """Hand steps to Dask, each after those that it needs, and wait for them.

    Parameters
    ----------
    client : distributed.Client
    steps : list of Step
    order : Order
    watch : Watch
        Looks after the workers meanwhile.
    seconds : dict
        Gets those of each step that is done.

    Raises
    ------
    StepError
        As in `run_steps`.
    """
    from distributed import CancelledError, wait

    futures: dict[str, Any] = {}
    for step in steps:
        before = [futures[name] for name in step.needs]
        futures[step.name] = client.submit(
            work, step, order, *before, key=f"{step.name} {order.start}", retries=0, pure=False,
            priority=FIRST.get(step.kind, 0),
        )  # fmt: skip
    names, pending = {future.key: name for name, future in futures.items()}, set(futures.values())
    failed: dict[str, BaseException] = {}
    looked = time.monotonic()
    try:
        while pending:
            if time.monotonic() - looked > LOOK:
                watch.look()
                looked = time.monotonic()
            try:
                ended, pending = wait(pending, timeout=LOOK, return_when="FIRST_COMPLETED")
            except TimeoutError:
                continue
            for future in sorted(ended, key=lambda future: future.key):
                name = names[future.key]
                if future.status in ("cancelled", "lost"):
                    raise CancelledError
                if future.status == "finished":
                    seconds[name] = future.result()
                    print(f"[{len(seconds)}/{len(steps)}] {name}: {seconds[name]:.1f} s", flush=True)
                else:
                    failed[name] = future.exception()
    except (CancelledError, OSError):  # OSError: it went while it was asked; that of a step comes as a value
        done = f"{len(seconds)} of {len(steps)} steps"
        raise StepError(f"the scheduler is gone, after {done}: start again, nothing that is done is lost") from None
    if failed:
        first = next(name for name in futures if name in failed)  # the one that others fell with
        raise StepError(f"{first}: {failed[first]}"[:600] + f" ({len(failed)} of {len(steps)} steps are not done)")


def work(step: Step, order: Order, *before: float) -> float:
    """Do a step in a worker's process; seconds.

    Parameters
    ----------
    step : Step
    order : Order
    *before : float
        Seconds of the steps that it waits for.

    Raises
    ------
    ValueError
        The worker does not see the run's folder, or runs other code.
    """
    began = time.time()
    os.environ.update(order.environment)
    if not Path(order.folder).is_dir():
        raise ValueError(
            f"{platform.node()} does not see {order.folder}: workers need the run's folder under that name"
        )
    if our_code() != order.code:
        raise ValueError(f"the worker on {platform.node()} runs other code: start it in the same clone")
    step.do(opened(order.profile, order.overrides, order.start))
    return time.time() - began


@cache
def our_code() -> str:
    """Digest of all code of ours that may decide a result."""
    return digest(module_digests())
