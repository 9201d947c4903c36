"""Settings as TOML: a configuration that a user writes, and the `run.toml` of a run.

Precedence: defaults < TOML file < command line. `[task]` holds the task's name and options, `[algorithm]` the row's
name and any cells that differ from it:

    model = "smollm2"
    [task]
    name = "arithmetic"
    levels = "add1,mul1"
    [algorithm]
    row = "mixed_grpo"
    clip_high = 0.3
    [allocator]
    name = "adaptive"
    rho = 0.2

The same on the command line: `--task arithmetic --task.levels add1,mul1 --algorithm.clip-high 0.3 --allocator adaptive
--allocator.rho 0.2`.

`run.toml` holds every setting as it was asked for, so `--config run.toml` repeats the run, here or elsewhere, and other
settings can be changed. Its table `[resolved]` records the values computed from them; only `--resume` reads it.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from onedial import __version__
from onedial.core.algorithm import Algorithm
from onedial.core.algorithm_table import ALGORITHMS, get_algorithm
from onedial.core.allocator_table import AllocatorRow, change_allocator, get_allocator
from onedial.core.errors import ConfigError, RunDirError, suggest
from onedial.core.field_rules import convert, show_value
from onedial.core.manifest import record_file
from onedial.core.paths import make_absolute, read_small_text, write_atomically
from onedial.core.settings import PLAIN_FIELDS, RESUMABLE, RUN_RULES, Run
from onedial.core.tables.file_kinds import kind_of_name
from onedial.core.user_code import Trust, check_trust, find_reference, load_object

CELLS = tuple(cell.name for cell in fields(Algorithm))
# cells of run.toml files and configurations written before they were renamed
RENAMED = {
    "level": "ratio_level",
    "importance": "sampler_correction",
    "importance_level": "correction_level",
    "importance_cap": "correction_cap",
    "importance_floor": "correction_floor",
}
RESOLVED = "resolved"
NO_TRUST = Trust()
HEADS = {"task": "name", "algorithm": "row", "allocator": "name"}
"""The key of a table that names what its other keys belong to."""
UNNAMED = "<a {kind} of the program that started the run, {name}>"
"""What stands in run.toml for a live object that no file can name."""


def make_run(settings: Mapping[str, Any], *, where: str = "") -> Run:
    """A checked `Run` from nested settings in the form of the TOML file.

    Strings are converted to a field's type. Raises ConfigError naming `where`, the key and the nearest allowed one.
    """
    check_keys(settings, where)
    values: dict[str, Any] = {}
    for key, value in settings.items():
        if key == "task":
            values |= _read_task(value, where)
        elif key == "algorithm":
            values["algorithm"] = _read_algorithm(value, where)
        elif key == "allocator":
            values["allocator"] = _read_allocator(value, where)
        else:
            values[key] = convert(Run, key, value, where=where)
    return Run(**values)


def check_keys(settings: Mapping[str, Any], where: str) -> None:
    """Raises ConfigError naming `where`, the key and the nearest one, for a setting or cell that does not exist."""
    allowed = [*PLAIN_FIELDS, "algorithm", "allocator"]
    for key in settings:
        if key not in allowed:
            raise ConfigError(f"{where}unknown setting {key!r}{suggest(key, allowed)} (onedial train --help lists all)")
    row = settings.get("algorithm")
    for key in row if isinstance(row, Mapping) else ():
        if key not in CELLS and key != "row":
            hint = f"; it is called {RENAMED[key]!r} now" if key in RENAMED else suggest(key, CELLS)
            raise ConfigError(f"{where}unknown cell algorithm.{key}{hint} (onedial algorithms ROW shows all)")


def _read_task(value: Any, where: str) -> dict[str, Any]:
    """The fields `task` and `task_options` from a name, a live task, or a table with `name` and options."""
    options = dict(value) if isinstance(value, Mapping) else {"name": value}
    task = options.pop("name", Run.task)
    if isinstance(task, str | int | float | list) and (not isinstance(task, str) or not task):
        raise ConfigError(f"{where}task={show_value(task)}: must be a name, a data file or 'file.py:Task'")
    _refuse_unnamed(task, f"{where}task", "the same task")
    return {"task": task, "task_options": options}


def _read_algorithm(value: Any, where: str) -> Algorithm:
    if isinstance(value, str | Algorithm):
        return get_algorithm(value) if isinstance(value, str) else value
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{where}algorithm={show_value(value)}: must be the name of a row, or a table with row and cells"
        )
    cells = dict(value)
    row = get_algorithm(str(cells.pop("row", Run.algorithm.name)))
    _refuse_unnamed(cells.get("baseline"), f"{where}algorithm.baseline", "the same row")
    changed = {key: convert(Algorithm, key, cell, where=f"{where}algorithm.") for key, cell in cells.items()}
    if isinstance(baseline := changed.get("baseline"), str) and ":" in baseline:
        changed["baseline"] = _baseline_function(baseline, where)
    return replace(row, **changed)


def _read_allocator(value: Any, where: str) -> AllocatorRow:
    """The allocator from a name, a row, or a table with `name` and options."""
    if isinstance(value, AllocatorRow):
        return value
    options = dict(value) if isinstance(value, Mapping) else {"name": value}
    row = get_allocator(str(options.pop("name", Run.allocator.name)))
    if row.is_own and not callable(load_object(row.name)):
        raise ConfigError(f"{where}allocator={row.name!r}: is no class or function that makes an allocator")
    known = {
        key: convert(AllocatorRow, key, option, where=f"{where}allocator.") if key in row.uses else option
        for key, option in options.items()
    }
    return change_allocator(row, known)


def _baseline_function(spec: str, where: str) -> Any:
    function = load_object(spec)
    if not callable(function):
        raise ConfigError(f"{where}algorithm.baseline={spec!r}: is not a function of rewards (N, G) → (N, 1)")
    return function


def _refuse_unnamed(value: Any, what: str, remedy: str) -> None:
    """Refuses the placeholder that `to_toml` writes for live objects of a program, and says how to continue."""
    if isinstance(value, str) and value.startswith("<a ") and value.endswith(">"):
        raise ConfigError(
            f"{what} is {value}; no file can name it: resume from that program with {remedy}, "
            "onedial.train(run, resume=True)"
        )


def read_settings(path: Path, *, trust: Trust = NO_TRUST, only: Collection[str] | None = None) -> dict[str, Any]:
    """The settings of a TOML file as plain values, without resolved values; only the names in `only`, if given.

    Raises ConfigError naming file and line if the file is missing or broken, or if it names an object that `trust` does
    not allow or a setting that only the command line may give.
    """
    settings = _parse(path)
    settings.pop(RESOLVED, None)
    for name, rule in RUN_RULES.items():
        if not rule.saved and name in settings:
            flag = "--" + name.replace("_", "-")
            raise ConfigError(f"{path}: {name} is not allowed in a file; give {flag} on the command line")
    settings = {name: value for name, value in settings.items() if only is None or name in only}
    check_trust(settings, path, trust)
    return settings


def read_run_settings(
    directory: Path, *, trust: Trust = NO_TRUST, only: Collection[str] | None = None
) -> dict[str, Any]:
    """The settings of the run in a directory, as `read_settings` returns them. Raises ConfigError if there is none."""
    path = directory / "run.toml"
    if not path.is_file():
        raise ConfigError(f"{directory}: no run here (run.toml is missing); name the directory of a onedial run")
    return read_settings(path, trust=trust, only=only)


def read_resolved(directory: Path) -> dict[str, Any]:
    """What a run resolved: `micro_batch_tokens`, `group_size`, `length_budget`. Empty where nothing was recorded."""
    recorded = _parse(directory / "run.toml").get(RESOLVED, {})
    if not isinstance(recorded, dict) or not all(_is_count(value) for value in recorded.values()):
        raise RunDirError(f"{directory / 'run.toml'}: [resolved] must hold whole numbers; restore the file")
    return recorded


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _parse(path: Path) -> dict[str, Any]:
    text = read_small_text(path)
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        why = str(error) or type(error).__name__
        line = re.search(r"at line (\d+)", why)
        place = f"{path}:{line[1]}" if line else str(path)
        raise ConfigError(f"{place}: not valid TOML: {why}") from error


def write_run(asked: Run, resolved: Run) -> None:
    """Writes `run.toml` into the run directory, atomically: what was asked for, and what it was resolved to."""
    text = to_toml(asked, resolved)
    record_file(resolved.directory, "run.toml", text.encode())
    write_atomically(resolved.directory / "run.toml", text)


def to_toml(asked: Run, resolved: Run | None = None) -> str:
    """A run as TOML text: every setting and every cell of the row, so that the file alone repeats the run.

    `out` is left out: a run directory may be moved, and a repeated run needs its own. Paths of models and data that
    exist are absolute. A function or a live task is written as "file.py:name" or "package.module:name" if a file can
    name it.
    """
    import tomlkit

    document = tomlkit.document()
    document.add(tomlkit.comment(f"onedial {__version__}; repeat the run with: onedial train --config THIS_FILE"))
    for name, value in settings_to_plain(asked).items():
        document[name] = value
    if resolved is not None:
        table = tomlkit.table()
        table.comment("what this machine made of the settings; read by --resume alone")
        row = resolved.algorithm
        counts = {
            "group_size": resolved.group_size,
            "length_budget": row.length_budget,
            "micro_batch_tokens": resolved.micro_batch_tokens,
        }
        for name, count in counts.items():
            if count:
                table[name] = count
        document[RESOLVED] = table
    return tomlkit.dumps(document)


def settings_to_plain(run: Run) -> dict[str, Any]:
    """The run as nested plain values, in the form of the TOML file."""
    saved = [name for name, rule in RUN_RULES.items() if rule.saved and name not in ("task", "out")]
    values: dict[str, Any] = {name: getattr(run, name) for name in saved}
    task = run.task if isinstance(run.task, str) else UNNAMED.format(kind="task", name=run.task_name)
    values["task"] = {"name": task, **{key: _plain(value) for key, value in run.task_options.items()}}
    _make_paths_absolute(values)
    cells = {key: "none" if value is None else value for key, value in run.algorithm.cells().items()}
    if callable(run.algorithm.baseline):
        name = str(cells["baseline"])
        cells["baseline"] = find_reference(run.algorithm.baseline) or UNNAMED.format(kind="function", name=name)
    row = ALGORITHMS.get(run.algorithm.name)
    values["algorithm"] = {"row": row.name, **cells} if row else cells
    if run.allocator.name != "row":
        values["allocator"] = {"name": run.allocator.name, **run.allocator.options()}
    return values


def _make_paths_absolute(settings: dict[str, Any]) -> None:
    """Makes the paths of a model and of data absolute where they exist: a run may be resumed in another folder."""
    task = settings.get("task")
    own = task if isinstance(task, dict) else {}
    for table, names in ((settings, ("model", "data")), (own, ("name", "path", "test_path"))):
        for name in names:
            value = table.get(name)
            named = value == Run.model or name == "name" and kind_of_name(Path(str(value))) is None
            if isinstance(value, str) and value and not named:
                table[name] = make_absolute(value)


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if callable(value):
        name = str(getattr(value, "__name__", type(value).__name__))
        return find_reference(value) or UNNAMED.format(kind="function", name=name)
    return value if isinstance(value, str | int | float | bool) else str(value)


def check_unchanged(run: Run, directory: Path) -> None:
    """Raises ConfigError if a run to be resumed differs from the one in its directory in settings that must not
    change."""
    stored, given = _parse(directory / "run.toml"), settings_to_plain(run)
    _make_paths_absolute(stored)  # those of earlier versions are as they were typed
    # a cell that the run's version did not have yet has no value that could have changed
    known = stored.get("algorithm", {})
    given["algorithm"] = {cell: value for cell, value in given["algorithm"].items() if cell in known}
    changed = [name for name in given if name not in RESUMABLE and name in stored and stored[name] != given[name]]
    if changed:
        raise ConfigError(
            f"{directory}: resuming continues the run as it was; {', '.join(changed)} cannot change. "
            f"What can: {', '.join(RESUMABLE)}"
        )


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Later settings replace earlier ones.

    The tables `task`, `algorithm` and `allocator` are merged key by key; a new name discards the earlier keys.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            head = HEADS.get(key)
            if head is None:
                merged[key] = value
                continue
            new = dict(value) if isinstance(value, Mapping) else {head: value}
            old = merged.get(key, {})
            merged[key] = new if head in new and new[head] != old.get(head) else {**old, **new}
    return merged
