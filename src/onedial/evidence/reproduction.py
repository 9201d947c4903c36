"""Measures a claim unit by unit. A finished unit is on disk at once, and a second start continues after it."""

from __future__ import annotations

import json
import platform
import time
from datetime import date
from pathlib import Path

from onedial.core.errors import ConfigError, RunDirError
from onedial.core.paths import write_atomically
from onedial.core.system import available_cores, find_version, name_cpu
from onedial.evidence.claim import Claim, Json, NotAtHand, Setup
from onedial.evidence.finished_work import read_own_text, read_record, write_record

PACKAGES = ("onedial", "numpy", "torch", "transformers")


def reproduce(claim: Claim, setup: Setup) -> Json:
    """Measures every unit of a claim that is not on disk yet, and returns the result.

    The result holds the results of the units, why others are missing, settings, seeds, machine and versions. Raises
    RunDirError if the work folder holds units with other settings.
    """
    folder = setup.locate_folder(claim.name)
    settings: Json = {"quick": setup.quick, **claim.settings}
    if "model" in claim.uses:
        settings |= {"model": setup.model, "task": _task_name(setup)}
    _open_folder(folder, settings)
    measured: dict[str, Json] = {}
    missing: dict[str, str] = {}
    units = claim.units(setup)
    for number, unit in enumerate(units, 1):
        path = folder / f"{unit}.json"
        finished = read_record(path, ("seconds",), setup.note)
        if finished is not None:
            measured[unit] = finished
            continue
        setup.note(f"{claim.name}: {unit} ({number} of {len(units)})")
        started = time.perf_counter()
        try:
            measured[unit] = claim.measure(setup, unit) | {"seconds": round(time.perf_counter() - started, 2)}
        except NotAtHand as reason:
            missing[unit] = str(reason)
            continue
        write_record(path, measured[unit])
    if not measured:
        raise ConfigError(f"{claim.name}: nothing could be measured: {next(iter(missing.values()))}")
    return {
        "claim": claim.name,
        "settings": settings,
        "seeds": [] if setup.quick else list(claim.seeds),
        "machine": describe_machine(setup.threads),
        "missing": missing,
        "measured": measured,
        "figures": claim.figures(measured),
    }


def describe_machine(threads: int) -> Json:
    """Returns the processor, the threads, the date and the versions of what computes."""
    versions = {name: found for name in PACKAGES if (found := find_version(name)) is not None}
    return {
        "date": date.today().isoformat(),
        "processor": name_cpu(),
        "threads": threads or available_cores(),
        "python": platform.python_version(),
        **versions,
    }


def _task_name(setup: Setup) -> str:
    return setup.task if isinstance(setup.task, str) else str(getattr(setup.task, "name", type(setup.task).__name__))


def _open_folder(folder: Path, settings: Json) -> None:
    """Makes the folder, or checks that its contents were measured under the same settings."""
    header = folder / "settings.txt"
    wanted = json.dumps(settings, sort_keys=True)
    folder.mkdir(parents=True, exist_ok=True)
    found = read_own_text(header)
    if found is None:
        write_atomically(header, wanted)
    elif not _is_json(found):
        raise RunDirError(
            f"{header}: damaged; if the units beside it were measured with {wanted}, delete this file to keep them; "
            "if not, choose another place with --work"
        )
    elif found != wanted:
        raise RunDirError(
            f"{folder} holds units of other settings ({found}, now {wanted}); delete it or choose another place with "
            "--work"
        )


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
