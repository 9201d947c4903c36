r"""Mathematical equality of answers, by math-verify. Runs only in worker processes, because sympy may not terminate.

math-verify's own time limits are switched off. They are SIGALRM handlers: outside the main thread they raise, inside it
they turn "took too long" into "wrong", which has given other libraries silent zeros and endless hangs. The pool's limit
on the whole process replaces them, and gives `timeout`, which is not `wrong`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from onedial.training.verify.answer import after_hashes, boxed, parse_number, show_number
from onedial.training.verify.verdict import Fields, PromptLike
from onedial.training.verify.verifiers import grade, make_unparseable

_SPACE = re.compile(r"(?<![0-9])\s+|\s+(?![0-9])")  # not between digits: 3 4 is not 34
_TAIL = 4000  # characters read when nothing is boxed: the answer is at the end, and extraction is superlinear


@dataclass(frozen=True)
class Math:
    r"""Correct if the completion's answer equals the reference mathematically.

    The content of the last `\boxed{…}` counts; without one, the text after the last `####`, or what math-verify
    extracts from the end of the completion. A completion with nothing to parse is `unparseable`.
    """

    name: str = "math"
    in_process: bool = False

    def judge(self, prompt: PromptLike, completion: str, token_ids: Sequence[int] = ()) -> Fields:
        """`unparseable` if nothing in the completion is mathematics."""
        reference = str(prompt.answer)
        written = boxed(completion) or after_hashes(completion)
        if written is not None and _strip_spacing(written) == _strip_spacing(reference):
            return grade(True, written)
        a, b = parse_number(written or ""), parse_number(reference)
        if a is not None and b is not None:  # two plain numbers need no computer algebra
            return grade(a == b, show_number(a))
        gold = _parse_reference(reference)
        try:
            found = _parse(f"${written}$" if written is not None else completion[-_TAIL:])
        except Exception as error:  # sympy raises of every kind on what a model can write: the policy's fault
            return make_unparseable(f"{type(error).__name__} while parsing")
        if not found:
            return make_unparseable("no mathematical answer in the completion")
        return grade(_equal(gold, found), written if written is not None else str(found[-1]))


def _strip_spacing(text: str) -> str:
    """Text with spacing and size commands removed, for literal equality."""
    for command in ("\\left", "\\right", "\\!", "\\,", "\\ ", "$"):
        text = text.replace(command, " ")
    text = _SPACE.sub("", text).strip()
    return text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").rstrip(".")


@lru_cache(maxsize=4096)
def _parse_reference(answer: str) -> Any:
    """The parsed reference, cached, because a whole group uses the same one. Raises ValueError if it cannot be read."""
    inner = boxed(answer) or answer.strip().strip("$")
    gold = _parse(f"${inner}$")
    if not gold:
        raise ValueError(f"reference answer {answer!r:.80} cannot be parsed")
    return gold


def _parse(text: str) -> Any:
    from math_verify import parse

    _silence_warnings()
    return parse(text, parsing_timeout=None, raise_on_error=True)


def _equal(gold: Any, found: Any) -> bool:
    from math_verify import verify

    return bool(verify(gold, found, timeout_seconds=None, raise_on_error=True))


@lru_cache(maxsize=1)
def _silence_warnings() -> None:
    """math-verify warns at each use that its time limit is off; that is on purpose here."""
    logging.getLogger("math_verify").setLevel(logging.ERROR)
