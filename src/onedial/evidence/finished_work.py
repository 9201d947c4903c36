"""Records of finished work: each is a JSON object in a file of its own, with the hash of its content.

A record that is not as it was written counts as absent, so that its work is done again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path

from onedial.core.errors import RunDirError
from onedial.core.manifest import hash_json
from onedial.core.paths import read_regular, write_atomically
from onedial.evidence.claim import Json

HASH = "blake2b"


def write_record(path: Path, record: Json) -> None:
    """Writes a record atomically. Raises OSError when the disk is full."""
    plain = json.loads(json.dumps(record, allow_nan=False))
    write_atomically(path, json.dumps({**plain, HASH: hash_json(plain)}, indent=1) + "\n")


def read_record(path: Path, keys: Collection[str], note: Callable[[str], None]) -> Json | None:
    """Returns the record of a file; None if there is none, or none with these keys and as it was written.

    `note` receives a sentence about a damaged record. Records of earlier versions have no hash and are used unchecked.
    Raises RunDirError for what stands in the place of the file and cannot be read, such as a folder.
    """
    text = read_own_text(path)
    if text is None:
        return None
    try:
        record = dict(json.loads(text))
        written = record.pop(HASH, None)
        if set(keys) <= record.keys() and written in (None, hash_json(record)):
            return record
    except (ValueError, TypeError, RecursionError):
        pass
    note(f"{path}: the record is damaged and its work is done again")
    return None


def read_own_text(path: Path) -> str | None:
    """Returns the text of a file that onedial wrote, with bytes that are not UTF-8 replaced; None if there is none.

    Raises RunDirError for a folder, a pipe or a file that cannot be read.
    """
    try:
        return read_regular(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        why = error.strerror or error
        raise RunDirError(f"{path}: cannot be read ({why}); move it away, and its work is done again") from error
