"""One process at a time writes a folder: a lock that says who has it, and that dies with its holder.

The lock is a file that its holder touches every few seconds. A lock that nobody has touched for a minute, by the clock
of the disk itself, or whose process is gone from this machine, belongs to nobody and is taken over.
"""

import contextlib
import datetime
import json
import os
import platform
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

NAME = ".in-use.json"
BEAT, DEAD = 5.0, 60.0  # seconds between two touches, and without one until a holder counts as gone


class InUseError(OSError):
    """Another process has the folder; the text says which."""


@contextlib.contextmanager
def held(folder: Path, what: str = "this run") -> Iterator[None]:
    """Hold a folder while the block runs; it is made when missing.

    Parameters
    ----------
    folder : Path
    what : str
        For the message.

    Raises
    ------
    InUseError
        Another living process has it; the message says its process id, machine and since when.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock, mine = folder / NAME, {"pid": os.getpid(), "host": platform.node(), "since": now(), "started": _started()}
    _take(lock, mine, what)
    stop = threading.Event()
    beat = threading.Thread(target=_keep, args=(lock, mine, stop), daemon=True)
    beat.start()
    try:
        yield
    finally:
        stop.set()
        beat.join()
        if _read(lock) == mine:
            lock.unlink(missing_ok=True)


def _take(lock: Path, mine: dict, what: str) -> None:
    """Put our name into the lock, unless somebody who lives has it; of two that try at once one succeeds."""
    part = lock.with_name(f"{lock.name}.{mine['host']}-{mine['pid']}-{threading.get_ident()}")
    part.write_text(json.dumps(mine), encoding="utf-8")
    try:
        for _ in range(40):
            if _named(part, lock):
                return
            other = _read(lock) or {}
            if _lives(lock, other, part):
                who = f"process {other.get('pid', '?')} on {other.get('host', '?')} since {other.get('since', '?')}"
                raise InUseError(f"{what} is in use by {who}: wait for it, or end it ({lock})")
            _bury(lock, part)
        raise InUseError(f"{what} is wanted by several processes at once: start it again ({lock})")
    finally:
        part.unlink(missing_ok=True)


def _named(part: Path, lock: Path) -> bool:
    """Give `part` a second name, if nothing has that name: the test and set that every disk has."""
    try:
        os.link(part, lock)
    except FileExistsError:
        return False
    except OSError:  # a disk without hard links
        try:
            with lock.open("x", encoding="utf-8") as stream:
                stream.write(part.read_text(encoding="utf-8"))
        except FileExistsError:
            return False
    return True


def _bury(lock: Path, part: Path) -> None:
    """Take away the lock of somebody who is gone; one process at a time does so, and looks once more before."""
    grave = lock.with_name(f"{lock.name}.taking-over")
    if not _named(part, grave):
        if not _lives(grave, {}, part):
            grave.unlink(missing_ok=True)
        time.sleep(0.05)
        return
    try:
        if not _lives(lock, _read(lock) or {}, part):
            lock.unlink(missing_ok=True)
    finally:
        grave.unlink(missing_ok=True)


def _lives(lock: Path, other: dict, fresh: Path) -> bool:
    """Whether the holder of a lock lives; `fresh` was written just now, so that one clock measures both."""
    try:
        os.utime(fresh)
        silent = fresh.stat().st_mtime - lock.stat().st_mtime
    except FileNotFoundError:
        return False
    if other.get("host") == platform.node():
        with contextlib.suppress(psutil.Error):
            return abs(psutil.Process(other["pid"]).create_time() - other["started"]) < 1 and silent < DEAD
        return False
    return silent < DEAD


def _keep(lock: Path, mine: dict, stop: threading.Event) -> None:
    """Touch the lock until told to stop; leave it alone once it is somebody else's."""
    while not stop.wait(BEAT):
        if _read(lock) != mine:
            return
        with contextlib.suppress(OSError):
            os.utime(lock)


def _read(lock: Path) -> dict | None:
    try:
        return json.loads(lock.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _started() -> float:
    return psutil.Process().create_time()


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.datetime.fromtimestamp(time.time(), datetime.UTC).isoformat(timespec="seconds")
