"""A verifier that does harm, for the tests of the worker pool. Imports nothing heavy: workers load it often."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def hostile(prompt: Any, completion: str) -> Any:
    """Does what the completion says."""
    what, _, rest = completion.partition(" ")
    return _HOSTILE[what](rest)


def _fork_and_return(_: str) -> float:
    return 0.0 if os.fork() == 0 else 1.0


def _fork_and_exit(_: str) -> float:
    if os.fork() == 0:
        time.sleep(60)
    os._exit(1)


def _leave_a_child(seconds: str) -> float:
    """Starts a child in the group, and one that left it for a session of its own; then hangs."""
    subprocess.Popen(["sleep", seconds])
    subprocess.Popen(["sleep", seconds], start_new_session=True)
    time.sleep(60)
    return 1.0


def _ignore_sigterm(_: str) -> float:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(60)
    return 1.0


_HOSTILE = {
    "right": lambda _: True,
    "half": lambda _: 0.5,
    "hang": lambda _: time.sleep(60),
    "raise": lambda _: 1 / 0,
    "file": lambda _: Path("/no/such/file").read_text(),
    "sysexit": lambda _: sys.exit(0),
    "exit": lambda _: os._exit(3),
    "segfault": lambda _: os.kill(os.getpid(), signal.SIGSEGV),
    "memory": lambda _: len(bytearray(3 * 2**30)),
    "nan": lambda _: float("nan"),
    "inf": lambda _: float("inf"),
    "string": lambda _: "1.0",
    "none": lambda _: None,
    "print": lambda _: print("x" * 1_000_000) or 1.0,
    "fork": _fork_and_return,
    "forkexit": _fork_and_exit,
    "children": _leave_a_child,
    "sigterm": _ignore_sigterm,
}
