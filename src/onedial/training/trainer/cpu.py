"""What a process that computes sets once: threads, and how the C library keeps memory."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from pathlib import Path

import torch

from onedial.core.system import available_cores

# malloc.h of the GNU C library
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3


def prepare_process(threads: int) -> None:
    """`threads` CPU threads for torch (0: one per core), and freed memory kept for the next pass."""
    torch.set_num_threads(threads or available_cores())
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Lets the C library keep what is freed instead of giving it back to the system.

    The tensors of a pass are large enough to be mapped anew each time, and the system clears every page of a new
    mapping: a fifth of an update's time on a CPU. The peak of memory stays what it was. Does nothing where the C
    library is another one.
    """
    if _glibc():
        library = ctypes.CDLL(None)
        library.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        library.mallopt(_MMAP_THRESHOLD, 2**30)


def give_back_beyond(limit: int) -> bool:
    """Gives freed memory back once the process holds more than `limit` bytes; whether it did.

    Batches of ever other sizes leave holes that the next ones do not fit, so what is kept grows slowly over a run.
    """
    if not _glibc() or held_bytes() <= limit:
        return False
    ctypes.CDLL(None).malloc_trim(0)
    return True


def held_bytes() -> int:
    """Memory that the process holds now (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _glibc() -> bool:
    return sys.platform == "linux" and platform.libc_ver()[0] == "glibc"
