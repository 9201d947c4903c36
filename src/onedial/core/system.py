"""Differences between operating systems, each behind one function: cores, processes, names and versions."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path

MEMORY_SHARE = 0.75
"""The share of the machine's memory that a run plans with, where `memory_gb` gives no budget."""


def available_cores() -> int:
    """Returns the number of CPU cores that this process may use.

    Where the system has no affinity masks (macOS), all cores of the machine.
    """
    return len(_list_cores())


def _list_cores() -> set[int]:
    affinity = getattr(os, "sched_getaffinity", None)
    return affinity(0) if affinity is not None else set(range(os.cpu_count() or 1))


def read_busy_seconds() -> float | None:
    """Returns the CPU seconds that all processes have used, since the machine started, on the cores that this process
    may use; None where the system does not tell (it is not Linux)."""
    try:
        cores, ticks = _list_cores(), 0
        lines = Path("/proc/stat").read_text(encoding="ascii").splitlines()
        for name, *values in (line.split() for line in lines if re.match(r"cpu\d", line)):
            if int(name.removeprefix("cpu")) in cores:
                user, nice, system, _idle, _waiting, interrupts, softirq, stolen = map(int, values[:8])
                ticks += user + nice + system + interrupts + softirq + stolen
        return ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        return None


def find_machine_memory() -> int:
    """Returns the machine's memory in bytes or, if lower, the limit of this process's control group."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no such limit, or "max"
        return total


def exit_status(process: subprocess.Popen[bytes]) -> int | None:
    """Returns a child's exit status (negative: the signal that ended it), or None while it runs.

    Where the system allows (`os.waitid`; on macOS from Python 3.13), the child is not reaped: its process number, and
    with it the number of its process group, cannot be given to another process before the group has been killed.
    """
    wait = getattr(os, "waitid", None)
    if wait is None or process.returncode is not None:
        return process.poll()
    ended = wait(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if ended is None:
        return None
    return int(ended.si_status) if ended.si_code == os.CLD_EXITED else -int(ended.si_status)


def name_cpu() -> str:
    """Returns the name of the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def find_version(package: str) -> str | None:
    """Returns the installed version of a package, or of its build for CPUs; None where there is none."""
    for name in (package, f"{package}-cpu"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None
