"""A task makes prompts and judges completions; a source gives every task the same interface for the trainer.

Seeds are paths, `Random(f"{task}/{split}/{seed}/{position}")`, never sums: with seed + index, datasets with neighboring
seeds share all items but one. Splits have no content in common: a hash of what the policy reads decides the split of a
prompt, independently of seed and file order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Literal, Protocol

from onedial.core.errors import ConfigError, DataError, OnedialError
from onedial.core.text_safety import escape_control
from onedial.core.time_limit import limit_time
from onedial.core.types import Prompt, Verdict
from onedial.training.verify.verdict import Verifier, judge, make_verdict

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")
HELD_OUT = 0.2  # share of the content that is held out, where a task has no split of its own
DRAW_LIMIT_S = 15.0  # of one draw, all redraws included
_DRAW_REMEDY = "load data when the task is made, not when a prompt is drawn"
_MAX_REDRAWS = 10_000


class Task(Protocol):
    """The smallest task: an endless stream of prompts and a verifier.

    `prompt` must take all its randomness from `rng`. `verify` runs in killable worker processes. A task may also have
    `demonstrate(prompt) -> str`, which writes a correct completion: `onedial train sft` then needs no data.
    """

    @property
    def name(self) -> str: ...
    def prompt(self, rng: Random) -> Prompt: ...
    def verify(self, prompt: Prompt, completion: str) -> Verdict: ...


Demonstrate = Callable[[Prompt], str] | None


class TaskSource(Protocol):
    """The interface of every task for the trainer and the evaluation."""

    @property
    def name(self) -> str: ...
    @property
    def verifier(self) -> Verifier: ...
    @property
    def notes(self) -> tuple[str, ...]: ...
    @property
    def demonstrate(self) -> Demonstrate:
        """Writes a correct completion of a prompt; None where the task cannot."""
        ...

    def draw(self, split: Split, seed: int | str, position: int) -> Prompt:
        """The prompt at a data position: a pure function of its arguments, so that resuming needs only the position."""
        ...

    def heldout(self, n: int, seed: int | str = 0) -> list[Prompt]:
        """Up to n distinct prompts of the test split; fewer where the task has fewer."""
        ...

    def size(self, split: Split) -> int | None:
        """Prompts in the split; None when the task is endless."""
        ...


def split_key(prompt: Prompt) -> str:
    """Returns the text that decides the split: `meta["split_key"]`, else everything the policy reads.

    Equivalent prompts share a `split_key`. The answer is left out, so that a question with two answers cannot be in
    both splits.
    """
    given = prompt.meta.get("split_key")
    return str(given) if given is not None else json.dumps([prompt.text, [dict(m) for m in prompt.messages]])


def assign_split(prompt: Prompt, held_out: float = HELD_OUT) -> Split:
    """Returns the split of a prompt's content: a share `held_out` of all contents is "test", at any seed."""
    key = f"split/{split_key(prompt)}".encode(errors="surrogatepass")  # `check_text` names broken text
    digest = hashlib.sha256(key).digest()
    return "test" if int.from_bytes(digest[:8], "big") < held_out * 2**64 else "train"


def verify(source: TaskSource, prompt: Prompt, completion: str, token_ids: Sequence[int] = ()) -> Verdict:
    """Judges one completion in this process; for many completions or untrusted verifiers use `VerifierPool`."""
    return make_verdict(judge(source.verifier, prompt, completion, token_ids))


@dataclass(frozen=True)
class EndlessSource:
    """Prompts generated on demand; `task.prompt` is redrawn until the content falls into the split asked for."""

    task: Task
    verifier: Verifier
    held_out: float = HELD_OUT
    notes: tuple[str, ...] = ()
    demonstrate: Demonstrate = None

    def __post_init__(self) -> None:
        check_held_out(self.held_out)

    @property
    def name(self) -> str:
        """The task's name, first part of every seed path."""
        return self.task.name

    def draw(self, split: Split, seed: int | str, position: int) -> Prompt:
        """`Random(f"{name}/{split}/{seed}/{position}")`, redrawn from the same stream until the content fits."""
        check_split(split)
        rng = Random(f"{self.name}/{split}/{seed}/{position}")
        where = f"task {self.name!r}, {split} prompt {position} (seed {seed})"
        with limit_time(DRAW_LIMIT_S, f"{where}: prompt(rng) took longer than {DRAW_LIMIT_S:g} s; {_DRAW_REMEDY}"):
            for _ in range(_MAX_REDRAWS):
                prompt = self._ask_task(rng, where)
                if assign_split(prompt, self.held_out) == split:
                    check_text(prompt, where)
                    return add_meta(prompt, self.name)
        raise DataError(
            f"task {self.name!r}: {_MAX_REDRAWS} prompts drawn and none belongs to the {split} split; its prompts may "
            f"be too few to be split (held_out={self.held_out}): make them more varied or change held_out"
        )

    def _ask_task(self, rng: Random, where: str) -> Prompt:
        """Returns a prompt of the task. Raises DataError naming the position when the task raises anything."""
        try:
            return self.task.prompt(rng)
        except OnedialError:
            raise
        except Exception as error:
            text = " ".join(str(error).split())[:300]
            raise DataError(
                f"{where}: prompt(rng) raised {type(error).__name__}{': ' + text if text else ''}"
            ) from error

    def heldout(self, n: int, seed: int | str = 0) -> list[Prompt]:
        """Distinct prompts of the test split; returns fewer after 1000 + 20·n draws."""
        found: dict[str, Prompt] = {}
        for position in range(1000 + 20 * n):
            if len(found) >= n:
                break
            prompt = self.draw("test", seed, position)
            found.setdefault(prompt.id, prompt)
        return list(found.values())

    def size(self, split: Split) -> int | None:
        """None: endless."""
        return None


@dataclass(frozen=True)
class FiniteSource:
    """The prompts of a dataset, in a new random order each epoch."""

    name: str
    verifier: Verifier
    splits: Mapping[str, Sequence[Prompt]]
    notes: tuple[str, ...] = ()
    demonstrate: Demonstrate = None

    def __post_init__(self) -> None:
        for split, prompts in self.splits.items():
            for number, prompt in enumerate(prompts):
                check_text(prompt, str(prompt.meta.get("place") or f"task {self.name!r}, {split} prompt {number}"))

    def draw(self, split: Split, seed: int | str, position: int) -> Prompt:
        """Position p is item p mod n of epoch p // n, in that epoch's order."""
        check_split(split)
        prompts = self.splits[split]
        if not prompts:
            raise DataError(f"task {self.name!r} has no {split} prompts; give a file for that split or set held_out")
        epoch, step = divmod(position, len(prompts))
        return prompts[shuffle_numbers(f"{self.name}/{split}/{seed}/epoch{epoch}", len(prompts))[step]]

    def heldout(self, n: int, seed: int | str = 0) -> list[Prompt]:
        """Distinct prompts of the test split in the order of `draw`, up to n."""
        prompts = self.splits["test"]
        found: dict[str, Prompt] = {}
        for index in shuffle_numbers(f"{self.name}/test/{seed}/epoch0", len(prompts)):
            if len(found) >= n:
                break
            found.setdefault(prompts[index].id, prompts[index])
        return list(found.values())

    def size(self, split: Split) -> int | None:
        """Number of prompts in the split."""
        return len(self.splits[split])


@lru_cache(maxsize=8)
def shuffle_numbers(path: str, length: int) -> tuple[int, ...]:
    """Returns the numbers below `length`, shuffled by a seed path."""
    order = list(range(length))
    Random(path).shuffle(order)
    return tuple(order)


def add_meta(prompt: Prompt, source: str) -> Prompt:
    """Returns the prompt with `source` and `meta["level"]`, added where the task left them out."""
    if prompt.source and "level" in prompt.meta:
        return prompt
    meta = {"level": "all", **prompt.meta}
    return Prompt(prompt.text, prompt.messages, prompt.answer, prompt.source or source, meta)


def check_text(prompt: Prompt, where: str) -> None:
    """Raises DataError if the prompt or its answer cannot be written as UTF-8, because no tokenizer and no file accepts
    it."""
    for name, text in (("prompt", prompt.plain), ("answer", str(prompt.answer)), ("source", prompt.source)):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            broken = escape_control(text[error.start])
            raise DataError(
                f"{where}: the {name} contains an incomplete character (the lone surrogate {broken} at {error.start}); "
                "write the text as UTF-8 again, or remove the record"
            ) from None


def check_split(split: str) -> None:
    """Raises ConfigError unless it is the name of a split."""
    if split not in SPLITS:
        raise ConfigError(f"split {split!r}: must be one of {', '.join(SPLITS)}")


def check_held_out(held_out: float) -> None:
    """Raises ConfigError unless both splits get some content."""
    if not 0 < held_out < 1:
        raise ConfigError(f"held_out={held_out}: must lie in (0, 1); {HELD_OUT} is usual")
