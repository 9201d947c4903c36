"""A busy machine: work measured while another process keeps one core at full load."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_LOOP = "print(flush=True)\nwhile True: pass"


def run_beside_busy_process(work: Callable[[], T]) -> T:
    """Returns what `work` returns, called while one other process loops; the process has ended on return."""
    command = [sys.executable, "-S", "-c", _LOOP]
    # Ctrl-C reaches it too, and what it would say of that is nobody's concern
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as other:
        try:
            assert other.stdout is not None
            other.stdout.readline()  # it has started
            return work()
        finally:
            other.kill()
