"""Python objects that settings name: "file.py:name" or "package.module:name".

A task, a reward function, a baseline or an allocator can be such an object, and importing it runs code. What a person
types on the command line or passes in a program is loaded as it is. What a *file* names (a configuration, the run.toml
of a run) may come from somebody else, so `check_trust` refuses it before anything is imported, unless one of these
holds:

- `--trust-config` was given;
- the same object is named on this command line;
- it is "file.py:name", the file lies under the current directory, and not inside a run directory.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from onedial.core.errors import ConfigError, suggest
from onedial.core.text_safety import escape_line


@dataclass(frozen=True)
class Trust:
    """Which objects that a settings file names may be loaded.

    everything: `--trust-config` was given. named: settings of this command line, whose objects are trusted.
    """

    everything: bool = False
    named: Mapping[str, Any] | None = None

    def allows(self, spec: str) -> bool:
        """Whether the object may be loaded although a file names it."""
        return self.everything or spec in list_named_objects(self.named or {}) or _in_this_project(spec)


def check_trust(settings: Mapping[str, Any], file: Path, trust: Trust) -> None:
    """Checks the objects that the settings of a file name, and prints on stderr those that will be loaded.

    Raises ConfigError for the first one that is not trusted; nothing has been imported then.
    """
    for spec in list_named_objects(settings):
        if not trust.allows(spec):
            raise ConfigError(
                f"{file}: names the Python object {spec!r}, and loading it would run its code; look at it first, then "
                "add --trust-config, or name the object on the command line"
            )
        print(f"onedial: loading {escape_line(spec)}, named in {escape_line(str(file))}", file=sys.stderr)


def list_named_objects(settings: Mapping[str, Any]) -> list[str]:
    """The objects that settings name: the task, its reward functions, the algorithm's baseline, the allocator."""
    task, algorithm, allocator = (settings.get(name) for name in ("task", "algorithm", "allocator"))
    options = task if isinstance(task, Mapping) else {"name": task}
    rewards = options.get("reward", ())
    texts: list[Any] = [options.get("name"), *_split(rewards)]
    if isinstance(algorithm, Mapping):
        texts.append(algorithm.get("baseline"))
    texts.append(allocator.get("name") if isinstance(allocator, Mapping) else allocator)
    return [text.strip() for text in texts if isinstance(text, str) and is_object(text)]


def is_object(text: str) -> bool:
    """Whether a text names an object, and not a built-in reward or another name of ours."""
    return ":" in text.partition("(")[0]


def _split(rewards: Any) -> Iterator[Any]:
    """One or more reward functions: a list, or text with commas between them."""
    for reward in rewards if isinstance(rewards, list | tuple) else [rewards]:
        yield from re.split(r",(?![^()]*\))", reward) if isinstance(reward, str) else []


def _in_this_project(spec: str) -> bool:
    """Whether "file.py:name" lies under the current directory and not in a run directory.

    The home directory and the directories above it are not projects, because they contain everything that a user has
    ever downloaded.
    """
    place, _, _ = spec.rpartition(":")
    try:
        here, file = Path.cwd().resolve(), Path(place).expanduser().resolve()
        home = Path.home().resolve()
        inside = place.endswith(".py") and file.is_relative_to(here) and not home.is_relative_to(here)
        return inside and not any((folder / "run.toml").exists() for folder in _folders_between(file, here))
    except (OSError, RuntimeError, ValueError):
        return False


def _folders_between(file: Path, here: Path) -> Iterator[Path]:
    """The folders that hold the file, up to the current directory."""
    for folder in file.parents:
        yield folder
        if folder == here:
            return


@lru_cache(maxsize=64)
def load_object(spec: str) -> Any:
    """Returns the object named by "file.py:name" or "package.module:name".

    Raises ConfigError naming what is missing, or what the module raised while it was loaded.
    """
    place, _, name = spec.rpartition(":")
    if not place or not name:
        raise ConfigError(f"{spec!r}: must be 'file.py:name' or 'package.module:name'")
    module = _module_of_file(place) if place.endswith(".py") else _module_named(place)
    if name not in vars(module):
        public = [key for key in vars(module) if not key.startswith("_")]
        raise ConfigError(f"{place} has no {name!r}{suggest(name, public)}; it has: {', '.join(public)}")
    return vars(module)[name]


def _module_of_file(place: str) -> ModuleType:
    try:
        path = Path(place).expanduser().resolve()
        found = path.is_file()
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(f"{place}: cannot be read: {error}") from error
    if not found:
        here = "" if Path(place).is_absolute() else f" in {Path.cwd()}; resume a run in the folder it was started in"
        raise ConfigError(f"{place}: no such file{here}")
    # the path is part of the name: two files may share their stem
    name = f"onedial_user_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickling look the module up by name
    return _run(lambda: spec.loader.exec_module(module) or module, place)  # type: ignore[union-attr]


def _module_named(place: str) -> ModuleType:
    return _run(lambda: importlib.import_module(place), place)


def _run(load: Callable[[], ModuleType], place: str) -> ModuleType:
    try:
        return load()
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:  # whatever the user's file raises while loading is theirs to fix
        raise ConfigError(f"{place} could not be loaded: {type(error).__name__}: {error}") from error


def find_reference(function: Any) -> str | None:
    """The text by which a file can name a function of a module or program, for `load_object`; None if there is none.

    A function of a program is named only if the program guards its start (`if __name__ == "__main__":`), because
    loading the function runs the program's file.
    """
    module_name, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    module = sys.modules.get(module_name or "")
    if module is None or not name.isidentifier() or vars(module).get(name) is not function:
        return None
    file = Path(getattr(module, "__file__", None) or "")
    alone = file.suffix == ".py" and "." not in module.__name__ and "site-packages" not in file.parts
    if not alone:
        return None if module.__name__ == "__main__" else f"{module.__name__}:{name}"
    if module.__name__ == "__main__" and not _guards_its_start(file):
        return None
    here = Path.cwd().resolve()
    file = file.resolve()
    return f"{file.relative_to(here) if file.is_relative_to(here) else file}:{name}"


def _guards_its_start(file: Path) -> bool:
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError):
        return False
    return any(isinstance(node, ast.If) and "__name__" in ast.unparse(node.test) for node in tree.body)
