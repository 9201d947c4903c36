"""Settings of a training process: the number of CPU threads, and how the C library keeps freed memory."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from pathlib import Path

from onedial.training.cores import set_threads

# malloc.h of the GNU C library
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3


def prepare_process(threads: int) -> None:
    """Sets `threads` CPU threads for torch (0: one per free core) and keeps freed memory for the next pass."""
    set_threads(threads)
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Makes the C library keep freed memory instead of returning it to the system.

    Otherwise the large tensors of every pass are mapped again, and the system clears each page of a new mapping, which
    takes a fifth of an update's time on a CPU. The peak of memory does not change. Does nothing if the C library is not
    glibc.
    """
    if _glibc():
        library = ctypes.CDLL(None)
        library.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        library.mallopt(_MMAP_THRESHOLD, 2**30)


def trim_memory_beyond(limit: int) -> bool:
    """Returns freed memory to the system if the process holds more than `limit` bytes. Returns whether it did so.

    Batches differ in size and leave gaps that the next ones do not fit into, so the memory that is kept grows slowly
    over a run.
    """
    if not _glibc() or read_process_bytes() <= limit:
        return False
    ctypes.CDLL(None).malloc_trim(0)
    return True


def read_process_bytes() -> int:
    """Returns the resident memory of this process now, in bytes (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _glibc() -> bool:
    return sys.platform == "linux" and platform.libc_ver()[0] == "glibc"
