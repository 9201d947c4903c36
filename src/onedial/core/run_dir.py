"""The run directory: one run each, one process at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from onedial.core.errors import RunDirError

# what a run leaves that ended before it began
BEFORE_A_RUN = (".lock", "manifest.jsonl", "plan.json", ".run.toml.part")


@contextmanager
def lock_run_dir(directory: Path, *, resume: bool) -> Iterator[Path]:
    """Holds a run directory, new or to be resumed, against other processes.

    Raises RunDirError when it holds another run (new), no run (resume), or is in use.
    """
    exists = (directory / "run.toml").exists()
    if resume and not exists:
        raise RunDirError(f"{directory}: no run to resume here (run.toml is missing)")
    if not resume and exists:
        raise RunDirError(
            f"{directory} already holds a run; go on with it by: onedial train --resume {directory}, "
            "or choose another place with --out"
        )
    if not resume and not _free(directory):
        raise RunDirError(f"{directory} exists and is not an empty folder; choose another place with --out")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = os.open(directory / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
    except OSError as error:
        raise RunDirError(f"{directory}: cannot be written: {error.strerror}") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunDirError(f"{directory} is in use by another onedial process; wait for it or stop it") from error
        yield directory
    finally:
        os.close(lock)


def _free(directory: Path) -> bool:
    """Whether a run may begin here; files of BEFORE_A_RUN do not count."""
    try:
        if not directory.exists():
            return True
        return directory.is_dir() and all(path.name in BEFORE_A_RUN for path in directory.iterdir())
    except OSError as error:
        raise RunDirError(f"{directory}: cannot be read: {error.strerror}; choose another place with --out") from error
