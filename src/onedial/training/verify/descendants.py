"""Finds, adopts and kills the descendants of a process. Linux only; elsewhere process groups are used."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from pathlib import Path

_ROUNDS = 10
_PR_SET_CHILD_SUBREAPER = 36


def kill_descendants(pid: int) -> None:
    """Sends SIGKILL to every living process below `pid`, repeatedly: orphans of killed processes may become its
    children."""
    for _ in range(_ROUNDS):
        living = list_descendants(pid)
        for descendant in living:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(descendant, signal.SIGKILL)
        if not living:
            break


def list_descendants(pid: int) -> list[int]:
    """Living processes below `pid`, from /proc; empty where that is missing."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        parent = waiting.pop()
        with contextlib.suppress(OSError):  # it may end while it is looked at
            for thread in os.listdir(f"/proc/{parent}/task"):
                waiting += map(int, Path(f"/proc/{parent}/task/{thread}/children").read_text().split())
        if parent != pid and not _is_zombie(parent):
            found.append(parent)
    return found


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("Z", "X")
    except OSError:
        return True


def adopt_orphans() -> None:
    """Makes daemonized grandchildren stay below this process, where `kill_descendants` finds them (Linux only)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
