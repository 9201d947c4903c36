"""A task written by the user: a live object or "file.py:name", with `prompt(rng)` and `verify(prompt, completion)`."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from onedial.core.errors import ConfigError
from onedial.core.types import Prompt
from onedial.core.user_code import load_object
from onedial.training.tasks.task import HELD_OUT, EndlessSource
from onedial.training.verify.rewards import settle_path
from onedial.training.verify.verdict import PromptLike


@dataclass(frozen=True)
class UserTask:
    """Wraps a user's object; checks its name and the type of its prompts."""

    task: Any
    name: str

    def prompt(self, rng: Random) -> Prompt:
        """The task's prompt. Raises ConfigError when it is not a `Prompt` or says nothing."""
        prompt = self.task.prompt(rng)
        if not isinstance(prompt, Prompt):
            raise ConfigError(f"task {self.name!r}: prompt(rng) returned {type(prompt).__name__}; must be a Prompt")
        if not prompt.plain.strip():
            raise ConfigError(f"task {self.name!r}: prompt(rng) returned an empty prompt")
        return prompt

    def verify(self, prompt: Prompt, completion: str) -> Any:
        """The task's verdict, as it is."""
        return self.task.verify(prompt, completion)


@dataclass(frozen=True)
class TaskVerifier:
    """`task.verify` as a verifier. If a spec with options is given instead of an object, it is opened again in the
    worker."""

    task: Any
    name: str
    in_process: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    executes_text: bool = False

    @property
    def user_code(self) -> tuple[str, ...]:
        """The spec that a worker loads; empty for a live object."""
        return (self.task,) if isinstance(self.task, str) else ()

    def judge(self, prompt: PromptLike, completion: str, token_ids: Sequence[int] = ()) -> object:
        """Returns what the task's `verify` returns."""
        return build_task(self.task, self.options).verify(prompt, completion)


def build_task(spec: Any, options: dict[str, Any]) -> Any:
    """Returns the task object: an object as it is, or an instance of a class, made with the options.

    Raises ConfigError naming the method or option that is missing, before anything is called.
    """
    found = load_object(spec) if isinstance(spec, str) else spec
    label = spec if isinstance(spec, str) else getattr(found, "__name__", type(found).__name__)
    for method in ("prompt", "verify"):
        if not callable(getattr(found, method, None)):
            raise ConfigError(
                f"task {label}: has no method {method}(); a task needs prompt(rng) and verify(prompt, completion)"
            )
    if not isinstance(found, type):
        if options:
            raise ConfigError(f"task {spec!r} is an object, not a class: it takes no options ({', '.join(options)})")
        return found
    allowed = inspect.signature(found).parameters
    unknown = [option for option in options if option not in allowed]
    if unknown:
        raise ConfigError(f"task {spec!r} takes no option {unknown[0]!r}; allowed: {', '.join(allowed) or 'none'}")
    try:
        return found(**options)
    except Exception as error:  # any error of the user's class is reported as theirs
        raise ConfigError(f"task {spec!r} could not be made: {type(error).__name__}: {error}") from error


def open_user_task(spec: Any, *, held_out: float = HELD_OUT, **options: Any) -> EndlessSource:
    """Opens the source of a user's task. Raises ConfigError naming the method that is missing."""
    task = build_task(spec, options)
    name = str(getattr(task, "name", type(task).__name__.lower()))
    in_process = bool(getattr(task, "in_process", False))
    named = isinstance(spec, str)  # then workers load the file themselves: it may not be importable by name there
    executes = bool(getattr(task, "executes_text", False))
    verifier = TaskVerifier(settle_path(spec) if named else task, name, in_process, options if named else {}, executes)
    demonstrate = getattr(task, "demonstrate", None)
    return EndlessSource(UserTask(task, name), verifier, held_out, demonstrate=demonstrate)
