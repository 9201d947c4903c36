"""CPU threads for the cores that other processes leave free.

Torch's threads wait for each other by spinning, thousands of times a token. On a core that another process wants too, a
waiting thread uses up its turns, and the others wait for it: beside one busy process on two cores, two threads generate
more slowly than one. The number of threads changes no bit of a run: each number is computed by one thread, in the same
order (`tests/test_cores.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from onedial.core.system import available_cores, read_busy_seconds

INTERVAL_S = 0.5
FREE = 0.3  # a core of which others use less than this counts as free
MEMORY = 0.5  # weight of earlier intervals in the running mean of what others use


@dataclass
class CoreShare:
    """Keeps the number of torch's threads at the cores that other processes leave free, between 1 and `cores`.

    `clock`, `own` and `busy` return seconds: the time, this process's CPU time, and the CPU time of all processes on
    these cores (None where the system does not tell; then all cores are taken).
    """

    cores: int
    clock: Callable[[], float] = time.monotonic
    own: Callable[[], float] = time.process_time
    busy: Callable[[], float | None] = read_busy_seconds
    _at: float = float("-inf")
    _used: float | None = None  # by others, since the machine started
    _others: float = 0.0  # cores that others use

    def update(self) -> None:
        """Looks at what others use, at most every `INTERVAL_S`, and sets the number of threads."""
        now = self.clock()
        if now - self._at < INTERVAL_S:
            return
        busy = self.busy()
        used = None if busy is None else busy - self.own()
        if used is not None and self._used is not None:
            others = max(0.0, used - self._used) / (now - self._at)
            self._others = MEMORY * self._others + (1 - MEMORY) * others
            wanted = min(self.cores, max(1, int(self.cores - self._others + FREE)))
            if wanted != torch.get_num_threads():
                torch.set_num_threads(wanted)
        self._at, self._used = now, used


_share: CoreShare | None = None


def set_threads(threads: int) -> None:
    """Sets the number of torch's CPU threads; with 0 one per core, fewer while others use them (`share_cores`)."""
    global _share
    torch.set_num_threads(threads or available_cores())
    _share = None if threads else CoreShare(available_cores())


def share_cores() -> None:
    """Adapts the number of threads to the free cores, where it was left open. To be called between pieces of work."""
    if _share is not None:
        _share.update()
