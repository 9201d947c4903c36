"""Paths that a user types, and small files that a user names."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from onedial.core.errors import ConfigError
from onedial.core.field_rules import show_value

LARGEST_TEXT = 4 << 20
"""Bytes of the largest settings file or plan that is read."""


def expand_path(text: str | Path, setting: str) -> Path:
    """The path with `~` and `~user` expanded. Raises ConfigError naming the setting for a path that is not possible."""
    try:
        path = Path(text).expanduser()
        path.stat()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return path
    except (OSError, RuntimeError, ValueError) as error:  # too long, no such user, NUL
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"{setting}={show_value(str(text))}: not a path ({why}); choose another") from error
    return path


def make_absolute(text: str) -> str:
    """The absolute path of what exists under a relative one; any other text unchanged."""
    try:
        path = Path(text).expanduser()
        return str(path.absolute()) if path.exists() else text
    except (OSError, RuntimeError, ValueError):  # no path
        return text


def cache_dir() -> Path:
    """Where fetched models are kept: $ONEDIAL_CACHE, else ~/.cache/onedial."""
    return Path(os.environ.get("ONEDIAL_CACHE") or "~/.cache/onedial").expanduser()


def open_at_once(path: str, flags: int) -> int:
    """The `opener` of `open` that does not wait for whoever writes into a pipe or reads from it."""
    return os.open(path, flags | os.O_NONBLOCK, 0o666)


@contextlib.contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """A file opened to read its bytes. Raises OSError for a pipe or a device, which might never end, too."""
    with open(path, "rb", opener=open_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "is a pipe or a device, not a file", str(path))
        yield file


def read_regular(path: Path) -> str:
    """The text of a file, with bytes that are not UTF-8 replaced. Raises OSError as `open_regular` does."""
    with open_regular(path) as file:
        return file.read().decode("utf-8", errors="replace")


def read_small_text(path: Path, *, largest: int = LARGEST_TEXT) -> str:
    """The text of a file that a user wrote.

    Raises ConfigError if it is missing, unreadable, larger than `largest` bytes, or not UTF-8.
    """
    path = expand_path(path, "file")
    try:
        with open_regular(path) as file:
            content = file.read(largest + 1)
        if len(content) > largest:
            raise ConfigError(f"{path}: is larger than {largest >> 20} MB; is it the file you meant?")
        return content.decode("utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: cannot be read: not UTF-8 text (byte {error.start})") from error


def write_atomically(path: Path, text: str) -> None:
    """Replaces a file by one rename after the new text is on disk: a reader sees either the old text or the new one."""
    aside = path.with_name(f".{path.name}.part")
    with open(aside, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)


def flush_to_disk(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
