"""A Slurm of one node, without systemd, for a test: Debian's slurm-wlm and munge, all in one folder, on loopback.

    python tests/slurm_here.py FOLDER [CPUS]        starts it and says what to export; ends with Ctrl-C

Nothing outside the folder is written, and no service of the machine is used: keys, sockets, ports and logs are its own.
"""

import contextlib
import os
import platform
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

NEEDED = ("slurmctld", "slurmd", "sbatch", "squeue", "munged", "munge")
ALSO = ("/usr/sbin", "/usr/local/sbin")  # where Debian puts daemons, which a user's PATH may lack
CONF = """
ClusterName=here
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=16000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> list[str]:
    """The programs of `NEEDED` that this machine lacks."""
    return [name for name in NEEDED if _program(name) is None]


@contextlib.contextmanager
def one_node(folder: Path, cpus: int = 2) -> Iterator[dict[str, str]]:
    """A Slurm of one node while the block runs; yields the environment in which `sbatch` finds it.

    Parameters
    ----------
    folder : Path
        Made when missing; a short path, because a socket lies in it.
    cpus : int
        Jobs of one core that run at the same time, whatever the machine has.

    Raises
    ------
    RuntimeError
        It does not come up within a minute; the message holds the end of the logs.
    """
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    folder.chmod(0o711)
    host, user = platform.node().split(".")[0], subprocess.check_output(["id", "-un"], text=True).strip()
    conf = CONF.format(folder=folder, host=host, user=user, cpus=cpus, ports=_free_ports(2))
    (folder / "slurm.conf").write_text(conf, encoding="utf-8")
    (folder / "munge.key").write_bytes(secrets.token_bytes(1024))
    (folder / "munge.key").chmod(0o400)
    path = os.pathsep.join([os.environ["PATH"], *ALSO])
    environment = dict(os.environ, SLURM_CONF=str(folder / "slurm.conf"), PATH=path)
    files = {"socket": "munge.socket", "key-file": "munge.key", "pid-file": "munge.pid", "log-file": "munge.log",
             "seed-file": "munge.seed"}  # fmt: skip
    daemons = [
        ["munged", "--foreground", "--force", *(f"--{name}={folder / file}" for name, file in files.items())],
        ["slurmctld", "-D"],
        ["slurmd", "-D", "-N", host],
    ]
    running: list[subprocess.Popen] = []
    try:
        for command in daemons:
            with (folder / f"{command[0]}.out").open("w") as log:
                started = subprocess.Popen(
                    [_program(command[0]), *command[1:]], env=environment, stdout=log, stderr=log, cwd=folder
                )
            running.append(started)
            if command[0] == "munged":
                _wait(lambda: (folder / "munge.socket").exists(), folder, running)
        idle = ["sinfo", "--noheader", "--format=%T"]
        _wait(lambda: subprocess.run(idle, env=environment, capture_output=True).stdout == b"idle\n", folder, running)
        yield environment
    finally:
        if len(running) == len(daemons):
            _end_jobs(environment)
        for process in reversed(running):
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()


def jobs(environment: dict[str, str]) -> list[int]:
    """Numbers of the jobs that run."""
    said = subprocess.run(["squeue", "--noheader", "--states=R", "--format=%i"], env=environment, capture_output=True)
    return sorted(map(int, said.stdout.split()))


def _end_jobs(environment: dict[str, str]) -> None:
    for number in jobs(environment):
        subprocess.run(["scancel", str(number)], env=environment, capture_output=True)
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline and jobs(environment):
        time.sleep(0.2)


def _wait(ready, folder: Path, running: list[subprocess.Popen]) -> None:
    deadline = time.monotonic() + 60
    while not ready():
        if time.monotonic() > deadline or any(process.poll() is not None for process in running):
            logs = {path.name: path.read_text()[-800:] for path in folder.glob("*.out")}
            raise RuntimeError(f"Slurm does not come up: {logs}")
        time.sleep(0.1)


def _program(name: str) -> str | None:
    return shutil.which(name) or next((found for place in ALSO if (found := shutil.which(name, path=place))), None)


def _free_ports(n: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


if __name__ == "__main__":
    with one_node(Path(sys.argv[1]).resolve(), int(sys.argv[2]) if len(sys.argv) > 2 else 2) as made:
        print(f"export SLURM_CONF={made['SLURM_CONF']}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(60)
