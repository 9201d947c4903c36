"""Reward functions in the signatures of other trainers, or plain ones, used without changes.

Three signatures are known:
    trl     f(prompts, completions, completion_ids, **columns, trainer_state, log_extra, log_metric) -> list of rewards
    verl    compute_score(data_source, solution_str, ground_truth, extra_info=None) -> float | dict with "score"
    simple  f(prompt, completion) -> float | bool | Verdict
Each completion is judged by itself: batch functions get lists of one. Sync and async functions both work.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from onedial.core.errors import ConfigError, suggest
from onedial.core.user_code import load_object
from onedial.training.verify.verdict import Fields, PromptLike, make_failure, read_fields, to_finite

Function = Callable[..., Any]
STATE = SimpleNamespace(global_step=0)  # TRL's `trainer_state`, as far as a reward may need it
STYLES = ("auto", "trl", "verl", "simple")
BUILT_IN = {"wer": "onedial.training.verify.transcripts:wer", "wgpo": "onedial.training.verify.transcripts:wgpo"}
"""Reward functions by name: the factory that makes each from its options."""
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_PROVIDED = frozenset({"prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric"})


@dataclass(frozen=True)
class Reward:
    """A verifier made of one or more reward functions, summed with weights.

    functions: callables, "file.py:function" / "package.module:function", or a name of `BUILT_IN` with its options,
    "wgpo(tau=0.5)". correct_at: the total from which a completion counts as correct; by default the total when every
    function with a positive weight that gives a reward gives 1, and penalties give 0.
    """

    functions: tuple[str | Function, ...]
    weights: tuple[float, ...] = ()
    style: str = "auto"
    correct_at: float | None = None
    in_process: bool = False

    def __post_init__(self) -> None:
        places = tuple(settle_path(part) if isinstance(part, str) else part for part in self.functions)
        object.__setattr__(self, "functions", places)

    @property
    def name(self) -> str:
        """The functions' names, joined by +."""
        return "+".join(get_name(function) for function in self.functions)

    @property
    def user_code(self) -> tuple[str, ...] | None:
        """Specs of the user's objects that a worker loads (live ones count without a name); None without any."""
        own = [function for function in self.functions if not _is_built_in(function)]
        return tuple(function for function in own if isinstance(function, str)) if own else None

    @property
    def executes_text(self) -> bool:
        """Whether a function declares (`executes_text = True`) that it runs what the model writes."""
        return any(getattr(load_reward(function), "executes_text", False) for function in self.functions)

    def judge(self, prompt: PromptLike, completion: str, token_ids: Sequence[int] = ()) -> Fields:
        """Returns the weighted sum of the rewards; `error` when a function fails or all decline (None)."""
        weights = self.weights or (1.0,) * len(self.functions)
        total = 0.0
        parts: dict[str, float] = {}
        judged: list[Fields] = []
        full_marks: list[float] = []
        for function, weight in zip(self.functions, weights, strict=True):
            fields = self._call_function(function, prompt, completion, token_ids)
            if fields is None:
                continue
            if fields["outcome"] in ("timeout", "error"):
                return fields
            judged.append(fields)
            full_marks += [weight] if weight > 0 else []
            total += weight * fields["reward"]
            parts |= fields["parts"] | ({get_name(function): fields["reward"]} if len(weights) > 1 else {})
        if not judged:
            return make_failure("error", f"{self.name} gave no reward (None): not judged")
        detail = "; ".join(fields["detail"] for fields in judged if fields["detail"])
        if len(self.functions) == 1 and self.correct_at is None and weights == (1.0,):
            return {**judged[0], "parts": parts}
        answer = next((fields["answer"] for fields in judged if fields["answer"] is not None), None)
        # penalties alone say nothing about the answer, so they make none correct
        correct = bool(full_marks) and total >= sum(full_marks) if self.correct_at is None else total >= self.correct_at
        outcome = "correct" if correct else "wrong"
        return {
            "reward": total,
            "correct": correct,
            "answer": answer,
            "outcome": outcome,
            "detail": detail,
            "parts": parts,
        }

    def _call_function(
        self, function: str | Function, prompt: PromptLike, completion: str, token_ids: Sequence[int]
    ) -> Fields | None:
        call = load_reward(function)
        style = detect_style(call) if self.style == "auto" else self.style
        raw, extra = _CALLS[style](call, prompt, completion, token_ids)
        if raw is None:
            return None
        fields = read_fields(raw, get_name(function))
        return fields if fields["outcome"] == "error" else {**fields, **_add_extras(fields, extra)}


def _add_extras(fields: Fields, extra: dict[str, Any]) -> Fields:
    """Adds logged metrics to the parts and logged columns to the detail."""
    read = {name: to_finite(value) for name, value in extra.get("metrics", {}).items()}
    metrics = {name: value for name, value in read.items() if value is not None}
    others = {name: value for name, value in extra.get("metrics", {}).items() if name not in metrics}
    notes = [f"{name}={value}" for name, value in (others | extra.get("columns", {})).items()]
    return {"parts": {**fields["parts"], **metrics}, "detail": "; ".join(filter(None, [fields["detail"], *notes]))}


def _call_trl(call: Function, prompt: PromptLike, completion: str, ids: Sequence[int]) -> tuple[Any, dict[str, Any]]:
    metrics: dict[str, Any] = {}
    columns: dict[str, Any] = {}
    given: dict[str, Any] = {name: [value] for name, value in get_columns(prompt).items()}
    given |= {
        "prompts": [[dict(m) for m in prompt.messages] if prompt.messages else prompt.text],
        "completions": [[{"role": "assistant", "content": completion}] if prompt.messages else completion],
        "completion_ids": [list(ids)],
        "trainer_state": STATE,
        "log_metric": metrics.__setitem__,
        "log_extra": lambda name, values: columns.__setitem__(name, values[0] if len(values) else None),
    }
    parameters = inspect.signature(call).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        given = {name: value for name, value in given.items() if name in parameters}
    rewards = _finish(call(**given))
    if isinstance(rewards, (str, dict)) or not isinstance(rewards, Sequence) and "__len__" not in dir(rewards):
        raise TypeError(f"returned {rewards!r:.80}; a reward function of TRL's kind returns a list, one per completion")
    if len(rewards) != 1:
        raise ValueError(f"returned {len(rewards)} rewards for 1 completion")
    return rewards[0], {"metrics": metrics, "columns": columns}


def _call_verl(call: Function, prompt: PromptLike, completion: str, ids: Sequence[int]) -> tuple[Any, dict[str, Any]]:
    columns = get_columns(prompt)
    given = {
        "data_source": columns.get("data_source", prompt.source),
        "solution_str": completion,
        "ground_truth": prompt.answer,
        "extra_info": columns.get("extra_info"),
    }
    parameters = inspect.signature(call).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        given = {name: value for name, value in given.items() if name in parameters}
    result = _finish(call(**given))
    if not isinstance(result, dict):
        return result, {}
    if "score" not in result:
        raise KeyError(f"a dict without 'score'; it has: {', '.join(map(str, result))}")
    others = {name: to_finite(value) for name, value in result.items() if name not in ("score", "acc", "pred")}
    numbers = {name: value for name, value in others.items() if value is not None}
    fields: Fields = {"reward": result["score"], "answer": result.get("pred"), "parts": numbers}
    if "acc" in result:
        fields["correct"] = bool(result["acc"])
    return fields, {}


def _call_simple(call: Function, prompt: PromptLike, completion: str, ids: Sequence[int]) -> tuple[Any, dict[str, Any]]:
    return _finish(call(prompt, completion)), {}


_CALLS = {"trl": _call_trl, "verl": _call_verl, "simple": _call_simple}


def _finish(result: Any) -> Any:
    """Runs a coroutine and returns its value; returns anything else unchanged."""
    if not inspect.isawaitable(result):
        return result
    import asyncio  # imported here because it doubles the start-up time of a worker

    return asyncio.run(_await(result))


async def _await(awaitable: Any) -> Any:
    return await awaitable


def get_columns(prompt: PromptLike) -> dict[str, Any]:
    """Returns the columns of the prompt's record in the dataset; at least `answer`."""
    return dict(prompt.meta.get("columns") or {"answer": prompt.answer})


def detect_style(call: Function) -> str:
    """Returns the signature style of a function, by the names of its parameters."""
    parameters = inspect.signature(call).parameters
    if "completions" in parameters:
        return "trl"
    if "solution_str" in parameters:
        return "verl"
    return "simple"


def check_reward(reward: Reward, columns: Sequence[str]) -> None:
    """Loads every function and checks its signature against the columns of the data.

    Raises ConfigError naming the function and what it lacks.
    """
    if reward.style not in STYLES:
        raise ConfigError(f"reward style {reward.style!r}: must be one of {', '.join(STYLES)}")
    if reward.weights and len(reward.weights) != len(reward.functions):
        raise ConfigError(f"{len(reward.weights)} reward weights for {len(reward.functions)} reward functions")
    for function in reward.functions:
        call = load_reward(function)
        style = detect_style(call) if reward.style == "auto" else reward.style
        parameters = inspect.signature(call).parameters.values()
        required = [p.name for p in parameters if p.default is p.empty and p.kind not in _VARIADIC]
        name = get_name(function)
        if style == "simple" and len(required) != 2:
            raise ConfigError(
                f"reward function {name}({', '.join(required)}): must take (prompt, completion), or TRL's "
                "(prompts, completions, **columns), or verl's (data_source, solution_str, ground_truth, extra_info)"
            )
        if style != "trl":
            continue
        for parameter in required:
            if parameter not in _PROVIDED and parameter not in columns:
                raise ConfigError(
                    f"reward function {name} needs the column {parameter!r}{suggest(parameter, columns)}; "
                    f"the data has: {', '.join(columns) or 'none'}"
                )


def get_name(function: str | Function) -> str:
    """Returns the name of a function for messages and logs."""
    if isinstance(function, str):
        return function.rpartition(":")[2]
    return str(getattr(function, "__name__", type(function).__name__))


def settle_path(spec: str) -> str:
    """Returns the spec with the real path of its file, because a worker has another home folder and sees no symbolic
    links."""
    place, _, name = spec.rpartition(":")
    if not place.endswith(".py"):
        return spec
    try:
        return f"{Path(place).expanduser().resolve()}:{name}"
    except (OSError, RuntimeError, ValueError):
        return spec  # loading it says what is wrong


def _is_built_in(function: str | Function) -> bool:
    return isinstance(function, str) and function.partition("(")[0].strip() in BUILT_IN


def load_reward(function: str | Function) -> Function:
    """Returns the callable of a spec. Raises ConfigError when it is not callable."""
    call = _resolve_spec(function) if isinstance(function, str) else function
    if not callable(call):
        raise ConfigError(f"reward function {function!r} is not callable")
    return call


@lru_cache(maxsize=64)
def _resolve_spec(spec: str) -> Any:
    name = spec.partition("(")[0].strip()
    if name not in BUILT_IN and ":" in spec:
        return load_object(spec)
    if name not in BUILT_IN:
        hint = suggest(name, BUILT_IN)
        raise ConfigError(
            f"reward {spec!r} is unknown{hint}; allowed: {', '.join(BUILT_IN)}, 'file.py:name' or 'package.module:name'"
        )
    make = load_object(BUILT_IN[name])
    try:
        call = ast.parse(spec.strip(), mode="eval").body
        options = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords} if isinstance(call, ast.Call) else {}
        inspect.signature(make).bind(**options)
        return make(**options)
    except (SyntaxError, ValueError, TypeError) as error:
        if isinstance(error, ConfigError):
            raise
        takes = ", ".join(str(p) for p in inspect.signature(make).parameters.values())
        raise ConfigError(f"reward {spec!r}: must be {name} or {name}(option=value); it takes: {takes}") from error
