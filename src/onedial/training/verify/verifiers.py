"""Built-in verifiers of text answers. They are frozen, can be pickled, and need no torch: they run in the trainer or in
a worker.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from onedial.training.verify.answer import (
    after_hashes,
    bare_number,
    boxed,
    closing_number,
    last_number,
    parse_number,
    show_number,
)
from onedial.training.verify.verdict import Fields, PromptLike


def grade(correct: bool, answer: str | None, *, detail: str = "") -> Fields:
    """Returns the fields of a 0/1 verdict."""
    outcome = "correct" if correct else "wrong"
    return {"reward": float(correct), "correct": correct, "answer": answer, "outcome": outcome, "detail": detail}


def make_unparseable(detail: str) -> Fields:
    """Returns the fields of a verdict on a completion without an answer: usable, with reward 0."""
    return {"reward": 0.0, "correct": False, "answer": None, "outcome": "unparseable", "detail": detail}


@dataclass(frozen=True)
class Number:
    """Correct when the answer equals the reference number exactly. `match` says where the answer must be:

    bare: the completion *is* the number; end: it ends with the number (a full stop may follow), so that the policy
    has to answer and stop; last: the last number counts, that of `\\boxed{}` or after `####` before any other.
    """

    match: str = "end"
    name: str = "number"
    in_process: bool = True

    def judge(self, prompt: PromptLike, completion: str, token_ids: Sequence[int] = ()) -> Fields:
        """`unparseable` if the completion contains no number."""
        reference = parse_number(str(prompt.answer))
        if reference is None:
            raise ValueError(f"reference answer {prompt.answer!r} is not a number")
        found = MATCHES[self.match](completion)
        if found is not None:
            return grade(found == reference, show_number(found))
        loose = last_number(completion)
        if loose is None:
            return make_unparseable("no number in the completion")
        return grade(False, show_number(loose), detail=f"no number where match={self.match!r} looks")


def _find_marked_number(completion: str) -> Fraction | None:
    for marked in (boxed(completion), after_hashes(completion)):
        if marked is not None and (number := last_number(marked)) is not None:
            return number
    return last_number(completion)


MATCHES: dict[str, Callable[[str], Fraction | None]] = {
    "bare": bare_number,
    "end": closing_number,
    "last": _find_marked_number,
}


@dataclass(frozen=True)
class Exact:
    """Correct when the answer equals the reference text, ignoring case, spacing and a final full stop.

    The answer is the last `\\boxed{}`, the last `<answer>`, what follows `####`; else the completion or its last line.
    """

    name: str = "exact"
    in_process: bool = True

    def judge(self, prompt: PromptLike, completion: str, token_ids: Sequence[int] = ()) -> Fields:
        """`unparseable` when the completion is empty."""
        if prompt.answer is None:
            raise ValueError("the prompt has no reference answer; give an answer column or a reward function")
        if not completion.strip():
            return make_unparseable("the completion is empty")
        marked = boxed(completion) or find_tagged(completion) or after_hashes(completion)
        last_line = completion.strip().splitlines()[-1]
        candidates = [marked] if marked else [completion, last_line]
        correct = _fold_text(str(prompt.answer)) in map(_fold_text, candidates)
        return grade(correct, (marked or last_line).strip())


def find_tagged(text: str, tag: str = "answer") -> str | None:
    """Returns the contents of the last `<answer>…</answer>`; None when there is none."""
    head, end, _ = text.rpartition(f"</{tag}>")
    _, start, inner = head.rpartition(f"<{tag}>")
    return inner.strip() if end and start else None


def _fold_text(text: str) -> str:
    return " ".join(text.split()).rstrip(".").strip().casefold()
