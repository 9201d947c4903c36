"""Opening a task by name, by file, or as a live object."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from onedial.errors import ConfigError, nearest
from onedial.tasks.arithmetic import arithmetic
from onedial.tasks.task import TaskSource

TASKS: dict[str, Callable[..., TaskSource]] = {
    "arithmetic": arithmetic,
}


def open_task(spec: str | object, **options: Any) -> TaskSource:
    """The source of a task.

    spec: a name in `TASKS`. options: that task's keyword options.
    Raises ConfigError for an unknown task or option, DataError for data that cannot be used.
    """
    if not isinstance(spec, str):
        raise ConfigError("live tasks: not yet")
    if spec not in TASKS:
        raise ConfigError(f"task {spec!r} is unknown{nearest(spec, TASKS)}; allowed: {', '.join(sorted(TASKS))}")
    factory = TASKS[spec]
    allowed = inspect.signature(factory).parameters
    for option in options:
        if option not in allowed:
            hint = nearest(option, allowed)
            raise ConfigError(f"task {spec!r}: unknown option {option!r}{hint}; allowed: {', '.join(allowed)}")
    return factory(**options)
