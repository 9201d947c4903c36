"""Converts the return value of a verifier to a verdict.

A reward that is not a finite number is never used: the verdict becomes an `error` that names the verifier and the
value, is excluded from its group, and is counted. Everything here works on plain dicts and imports no torch, so that it
also runs inside workers; only `make_verdict` makes the `Verdict`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from onedial.core.types import Verdict

Fields = dict[str, Any]
OUTCOMES = ("correct", "wrong", "unparseable", "timeout", "error")
_FIELDS = ("reward", "correct", "answer", "outcome", "detail", "parts")


class PromptLike(Protocol):
    """The part of a prompt that a verifier may read: `onedial.Prompt` in the trainer, a light copy in a worker."""

    @property
    def text(self) -> str: ...
    @property
    def messages(self) -> Sequence[Mapping[str, str]]: ...
    @property
    def answer(self) -> Any: ...
    @property
    def source(self) -> str: ...
    @property
    def meta(self) -> Mapping[str, Any]: ...
    @property
    def plain(self) -> str: ...


class Verifier(Protocol):
    """Judges one completion of one prompt.

    `judge` returns a number, a bool, a `Verdict`, or a dict of verdict fields; `read_fields` says how each is read.
    `in_process` marks verifiers that are cheap and trusted enough to run inside the trainer.
    """

    @property
    def name(self) -> str: ...
    @property
    def in_process(self) -> bool: ...
    def judge(self, prompt: PromptLike, completion: str, token_ids: Sequence[int] = ()) -> object: ...


def read_fields(raw: object, name: str) -> Fields:
    """Returns the verdict fields for what verifier `name` returned.

    bool → correct or wrong; number → that reward, correct when it is ≥ 1 (the top of a 0/1 scale); None → `error`
    (the verifier declined to judge); dict or object with verdict fields → those fields. A reward that is not a
    finite number, and an outcome that does not exist, become an `error` naming verifier and value.
    """
    if raw is None:
        return make_failure("error", f"{name} gave no reward (None): not judged")
    if isinstance(raw, Mapping):
        return _check_fields(dict(raw), name)
    if "reward" in dir(raw):
        return _check_fields({field: getattr(raw, field) for field in _FIELDS if field in dir(raw)}, name)
    return _check_fields({"reward": raw}, name)


def make_failure(outcome: str, detail: str) -> Fields:
    """Returns the fields of a verdict without a judgment: `timeout` or `error`, with the reason."""
    return {
        "reward": 0.0,
        "correct": None,
        "answer": None,
        "outcome": outcome,
        "detail": _as_utf8(detail),
        "parts": {},
    }


def describe_error(error: BaseException, name: str) -> Fields:
    """Returns the fields of the verdict for a verifier that raised."""
    text = " ".join(str(error).split())
    return make_failure("error", f"{name} raised {type(error).__name__}{': ' + text[:300] if text else ''}")


def make_verdict(fields: Fields) -> Verdict:
    """Returns the `Verdict` of checked fields."""
    from onedial.core.types import Verdict

    return Verdict(**fields)


def judge(verifier: Verifier, prompt: PromptLike, completion: str, token_ids: Sequence[int] = ()) -> Fields:
    """Judges one completion; an exception of the verifier becomes an `error`, never a reward."""
    try:
        return read_fields(verifier.judge(prompt, completion, token_ids), verifier.name)
    except Exception as error:  # an error of a verifier must not stop the run
        return describe_error(error, verifier.name)


def _check_fields(raw: Fields, name: str) -> Fields:
    outcome = raw.get("outcome")
    if outcome in ("timeout", "error"):
        return make_failure(str(outcome), str(raw.get("detail", "")))
    if outcome is not None and outcome not in OUTCOMES:
        return make_failure("error", f"{name} returned outcome {outcome!r}; allowed: {', '.join(OUTCOMES)}")
    value = raw.get("reward")
    reward = to_finite(value)
    if reward is None:
        return make_failure("error", f"{name} returned reward {_shorten(value)}: not a finite number")
    parts = {str(key): to_finite(part) for key, part in dict(raw.get("parts") or {}).items()}
    bad = [key for key, part in parts.items() if part is None]
    if bad:
        return make_failure(
            "error", f"{name} returned part {bad[0]}={_shorten(raw['parts'][bad[0]])}: not a finite number"
        )
    correct = raw.get("correct")
    # a Verdict built from a reward alone keeps the class's defaults (correct None, outcome wrong): derive both
    if correct is None and outcome in (None, "wrong"):
        correct = reward >= 1.0
        outcome = "correct" if correct else "wrong"
    elif outcome is None:
        outcome = "correct" if correct else "wrong"
    answer = raw.get("answer")
    return {
        "reward": reward,
        "correct": None if correct is None else bool(correct),
        "answer": None if answer is None else _as_utf8(str(answer)),
        "outcome": outcome,
        "detail": _as_utf8(str(raw.get("detail") or "")),
        "parts": parts,
    }


def to_finite(value: object) -> float | None:
    """Returns a number as a finite float, or None. Strings are not numbers, even when they look like one."""
    if type(value).__module__.split(".")[0] in ("numpy", "torch"):  # their scalars are not all numbers.Real
        try:
            value = value.item()  # type: ignore[attr-defined]
        except (AttributeError, ValueError, RuntimeError):  # more than one element
            return None
    if not isinstance(value, Real):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _as_utf8(text: str) -> str:
    """The text with lone surrogates replaced by question marks: files and terminals reject them."""
    return text.encode(errors="replace").decode()


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
