"""Opening a task by name, by file, or as a live object."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from onedial.core.errors import ConfigError, suggest
from onedial.training.tasks.arithmetic import arithmetic
from onedial.training.tasks.countdown import countdown
from onedial.training.tasks.data_files import SUFFIXES, has_data_suffix, keep_answered
from onedial.training.tasks.datasets import gsm8k, jsonl, math
from onedial.training.tasks.gym import reasoning_gym
from onedial.training.tasks.task import EndlessSource, FiniteSource, Split, TaskSource
from onedial.training.tasks.user_task import open_user_task
from onedial.training.verify.rewards import Reward, check_reward

TASKS: dict[str, Callable[..., EndlessSource | FiniteSource | TaskSource]] = {
    "arithmetic": arithmetic,
    "countdown": countdown,
    "gsm8k": gsm8k,
    "jsonl": jsonl,
    "math": math,
    "reasoning_gym": reasoning_gym,
}
_REWARD_OPTIONS = ("reward", "reward_weights", "reward_style", "correct_at")


def open_task(spec: str | object, **options: Any) -> TaskSource:
    """Opens a task: prompts by position, held-out prompts, and the verifier.

    spec: a name in `TASKS`; a data file ("prompts.jsonl", short for jsonl with that path); "file.py:Task" or
    "package.module:Task"; or a live object with `prompt(rng)` and `verify(prompt, completion)`.
    options: the task's own; and for every task `reward` (one or more reward functions, live or as specs, that judge
    instead of the task), `reward_weights`, `reward_style` (auto, trl, verl, simple), `correct_at`.
    Raises ConfigError for an unknown task or option, DataError for data that cannot be used.
    """
    reward_options = {name: options.pop(name) for name in _REWARD_OPTIONS if name in options}
    source = _open(spec, options)
    if not reward_options:
        return keep_answered(source) if isinstance(source, FiniteSource) else source
    if "reward" not in reward_options:
        raise ConfigError(f"option {next(iter(reward_options))!r} needs 'reward', the function that judges")
    return _with_reward(source, **reward_options)


def _open(spec: str | object, options: dict[str, Any]) -> TaskSource:
    if not isinstance(spec, str):
        return open_user_task(spec, **options)
    if spec in TASKS:
        return _call(spec, TASKS[spec], options)
    if has_data_suffix(spec):
        return _call("jsonl", jsonl, {"path": spec, **options})
    if ":" in spec:
        return open_user_task(spec, **options)
    raise ConfigError(
        f"task {spec!r} is unknown{suggest(spec, TASKS)}; allowed: {', '.join(sorted(TASKS))}, a data file "
        f"({', '.join(SUFFIXES)}), or 'file.py:Task'"
    )


def _call(name: str, factory: Callable[..., TaskSource], options: Mapping[str, Any]) -> TaskSource:
    """Calls the factory with checked options; converts text from a command line to the type of each option."""
    allowed = inspect.signature(factory).parameters
    for option in options:
        if option not in allowed:
            hint = suggest(option, allowed)
            raise ConfigError(f"task {name!r}: unknown option {option!r}{hint}; allowed: {', '.join(allowed)}")
    missing = [key for key, p in allowed.items() if p.default is p.empty and key not in options]
    if missing:
        raise ConfigError(f"task {name!r}: option {missing[0]!r} is missing")
    return factory(**{key: _typed(name, key, value, allowed[key]) for key, value in options.items()})


def _typed(task: str, option: str, value: Any, parameter: inspect.Parameter) -> Any:
    kinds = str(parameter.annotation).split(" | ")
    kind = next((kind for kind in ("bool", "int", "float") if kind in kinds), None)
    if kind is None or value is None:
        return value
    try:
        return _READ[kind](value)
    except (ValueError, TypeError, KeyError):
        article = {"bool": "true or false", "int": "a whole number", "float": "a number"}[kind]
        raise ConfigError(f"task {task!r}: {option}={value!r} must be {article}") from None


def _read_bool(value: Any) -> bool:
    return value if isinstance(value, bool) else {"true": True, "false": False}[str(value).lower()]


def _read_int(value: Any) -> int:
    if isinstance(value, bool) or isinstance(value, float) and not value.is_integer():
        raise ValueError
    return int(value)


_READ: dict[str, Callable[[Any], Any]] = {"bool": _read_bool, "int": _read_int, "float": float}


def _with_reward(
    source: TaskSource,
    reward: Any,
    reward_weights: Sequence[float] | str | None = None,
    reward_style: str = "auto",
    correct_at: float | None = None,
) -> TaskSource:
    # commas between functions, not those between the options of one
    functions = re.split(r",(?![^()]*\))", reward) if isinstance(reward, str) else reward
    functions = tuple(functions) if isinstance(functions, Sequence) else (functions,)
    weights = reward_weights.split(",") if isinstance(reward_weights, str) else reward_weights or ()
    try:
        numbers = tuple(float(weight) for weight in weights)
    except (TypeError, ValueError):
        raise ConfigError(f"reward_weights={reward_weights!r}: must be numbers, one per reward function") from None
    names = tuple(f.strip() if isinstance(f, str) else f for f in functions)
    verifier = Reward(names, numbers, reward_style, None if correct_at is None else float(correct_at))
    assert isinstance(source, (EndlessSource, FiniteSource))
    check_reward(verifier, list_columns(source))
    return dataclasses.replace(source, verifier=verifier)


def list_columns(source: TaskSource) -> list[str]:
    """Returns the names of the columns that reward functions get, from the first prompt."""
    split: Split = "test" if source.size("train") == 0 else "train"
    prompt = source.draw(split, 0, 0)
    return list(prompt.meta.get("columns") or {"answer": None})
