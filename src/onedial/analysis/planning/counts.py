"""The input of the planner: right answers and tries of every prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onedial.core.errors import DataError

Array = NDArray[np.float64]

MOST_TRIES = 1e8  # beyond any log; a column with larger numbers counts something else


@dataclass(frozen=True)
class PromptCounts:
    """Right answers per prompt: `k` right of `n` judged rollouts in `groups` groups, all (N,).

    tokens         mean completion tokens of a rollout of the prompt, or None where lengths are unknown
    survivors_only unanimous groups were dropped before logging
    history        (prompt number, iteration, k, n) per visit, or None; lets old evidence be discounted
    notes          what limits these counts, in words
    Raises DataError where a count is impossible.
    """

    ids: tuple[str, ...]
    k: Array
    n: Array
    groups: Array
    tokens: Array | None = None
    survivors_only: bool = False
    history: tuple[NDArray[np.int64], NDArray[np.int64], Array, Array] | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not len(self.ids):
            raise DataError("no prompt has counts: the planner needs right answers and tries per prompt")
        wrong = ~((self.n > 0) & (self.k >= 0) & (self.k <= self.n))
        if wrong.any():
            bad = int(np.argmax(wrong))
            raise DataError(
                f"prompt {self.ids[bad]!r}: {self.k[bad]:g} right of {self.n[bad]:g} tries; needs 0 ≤ right ≤ tries "
                "and at least one try"
            )
        check_tries(self.ids, self.n)


def check_tries(ids: Sequence[str], tries: ArrayLike) -> None:
    """Raises DataError, naming the prompt, for a number of tries that no log can hold. NaN means unknown and is
    allowed."""
    n = np.asarray(tries, dtype=np.float64)
    if (n > MOST_TRIES).any():
        bad = int(np.nanargmax(n))
        raise DataError(
            f"prompt {ids[bad]!r}: {n[bad]:g} tries; at most {MOST_TRIES:g} are believed. Is the column with the "
            "number of tries the right one? Name it with --map n=COLUMN"
        )
