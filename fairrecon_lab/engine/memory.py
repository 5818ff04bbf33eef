"""How much memory the processes take that a notebook starts."""

import re
import threading
import time
from pathlib import Path

import psutil


class PeakMemory:
    """Watches the processes that a notebook starts; `peak` is the largest sum of their memory, in bytes."""

    def __init__(self):
        self.peak, self._stop = 0, threading.Event()

    def __enter__(self):
        self._before = {child.pid for child in psutil.Process().children()}
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception):
        self._stop.set()
        self._thread.join()

    def _watch(self):
        while not self._stop.wait(0.2):
            kernels = [child for child in psutil.Process().children() if child.pid not in self._before]
            theirs = [child for kernel in kernels for child in _quietly(kernel.children, []) if _is_its_own(child)]
            self.peak = max(self.peak, sum(map(_high_water, kernels + theirs)))


def _is_its_own(process) -> bool:
    """Not a child that was born this second and still shares its parent's memory, on its way to another program."""
    return time.time() - _quietly(process.create_time, 0) > 1


def _high_water(process) -> int:
    """Peak resident bytes of a process (Linux), or what it has now."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) * 1024
    except (OSError, TypeError):
        return _quietly(lambda: process.memory_info().rss, 0)


def _quietly(function, otherwise):
    try:
        return function()
    except psutil.Error:
        return otherwise
