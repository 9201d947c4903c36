"""The run directory: it belongs to one run, and to one process at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from onedial.core.errors import RunDirError

# what a run leaves that ended before it began
BEFORE_A_RUN = (".lock", "manifest.jsonl", "plan.json", ".run.toml.part")


@contextmanager
def lock_run_dir(directory: Path, *, resume: bool) -> Iterator[Path]:
    """Creates a run directory, or reopens one to resume, and locks it for this process.

    Raises RunDirError if it holds another run (for a new run), no run (to resume), cannot be written, or is in use.
    """
    _check_content(directory, resume=resume)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = FileLock(directory / ".lock")
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RunDirError(f"{directory} is in use by another onedial process; wait for it or stop it") from error
    except (OSError, NotImplementedError) as error:  # the latter: a file system without locks
        why = getattr(error, "strerror", None) or error
        raise RunDirError(f"{directory}: cannot be written: {why}; choose another place with --out") from error
    try:
        yield directory
    finally:
        lock.release()


def _check_content(directory: Path, *, resume: bool) -> None:
    try:
        exists = (directory / "run.toml").exists()
        free = exists or _is_free(directory)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise RunDirError(f"{directory}: cannot be read: {why}; choose another place with --out") from error
    if resume and not exists:
        raise RunDirError(f"{directory}: no run to resume here (run.toml is missing)")
    if not resume and exists:
        raise RunDirError(
            f"{directory} already holds a run; continue it with: onedial train --resume {directory}, "
            "or choose another place with --out"
        )
    if not free:
        raise RunDirError(f"{directory} exists and is not an empty folder; choose another place with --out")


def _is_free(directory: Path) -> bool:
    """Whether a run may begin here; files of BEFORE_A_RUN do not count."""
    if not directory.exists():
        return True
    return directory.is_dir() and all(path.name in BEFORE_A_RUN for path in directory.iterdir())
