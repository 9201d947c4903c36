"""Facts about the machine that need no package: processor, memory, disk, terminal, browser."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
import webbrowser
from collections.abc import Iterator
from pathlib import Path

from onedial import __version__
from onedial.core.paths import cache_dir
from onedial.core.system import MEMORY_SHARE, available_cores, find_machine_memory, name_cpu
from onedial.evidence.doctor.fact import MachineFact, format_gb

AREA = "machine"
LOW_DISK = (
    5e9  # bytes; a checkpoint of the default model is about 1.9 GB, and an older one stays until the next is whole
)


def find_machine() -> Iterator[MachineFact]:
    """The system, its cores and memory, and where runs and models are written."""
    supported = sys.platform in ("linux", "darwin")
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    yield MachineFact(AREA, "system", system, "" if supported else "made for Linux; macOS runs it too", not supported)
    yield MachineFact(AREA, "onedial", f"{__version__} in {Path(__file__).parents[2]}")
    cores, all_cores = available_cores(), os.cpu_count() or 1
    of_all = f" of {all_cores}" if cores != all_cores else ""
    yield MachineFact(AREA, "cores", f"{cores}{of_all}: {name_cpu()}", f"threads=0 takes {cores} threads for torch")
    if (quota := read_cpu_quota()) is not None and quota < cores:
        yield MachineFact(
            AREA, "quota", f"{quota:g} cores' time for this container", f"--threads {max(1, int(quota))} is faster"
        )
    memory = find_machine_memory()
    plan = f"a CPU run plans with {MEMORY_SHARE:.0%}, {format_gb(MEMORY_SHARE * memory)}; memory_gb sets another budget"
    yield MachineFact(AREA, "memory", format_gb(memory) + _free_memory(), plan)
    yield find_disk("runs", Path.cwd(), "a run is written below the current directory; --out chooses another")
    yield find_disk("models", cache_dir(), f"{_kept(cache_dir())}; ONEDIAL_CACHE chooses another folder")


def read_cpu_quota(file: Path = Path("/sys/fs/cgroup/cpu.max")) -> float | None:
    """Cores' worth of time that the control group of this process gets; None without a limit."""
    try:
        quota, period = file.read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError):  # no such file, or "max"
        return None


def _free_memory() -> str:
    info = Path("/proc/meminfo")
    lines = info.read_text().splitlines() if info.exists() else []
    free = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return f", {format_gb(free[0])} free" if free else ""


def _kept(folder: Path) -> str:
    """The models in the cache."""
    names = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    return f"fetched models: {', '.join(names) or 'none yet'}"


def find_disk(name: str, folder: Path, follows: str) -> MachineFact:
    """Whether a file can be written into a folder (or the folder that it would be made in), and the room there."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"x")
    except OSError as error:
        return MachineFact(AREA, name, f"{folder}: {error.strerror}", "nothing can be written there", True)
    free = shutil.disk_usage(there).free
    low = free < LOW_DISK
    return MachineFact(
        AREA, name, f"{folder}: {format_gb(free)} free", "little room for checkpoints" if low else follows, low
    )


def find_screen() -> Iterator[MachineFact]:
    """What tables and pages are shown on."""
    size, encoding = shutil.get_terminal_size(), (sys.stdout.encoding or "ascii").lower()
    kind = f"{size.columns} columns, {encoding}" if sys.stdout.isatty() else f"a pipe or a file, {encoding}"
    plain = "" if encoding.replace("-", "").startswith("utf") else "marks are drawn in ASCII"
    yield MachineFact("screen", "terminal", kind, plain)
    try:
        found, follows = (
            getattr(webbrowser.get(), "name", "") or "the system's own",
            "opens the pages of report and explain",
        )
    except webbrowser.Error:
        found, follows = "none", "pages are single files: open them on another machine"
    yield MachineFact("screen", "browser", found, follows)
