"""The input of a rule of allocation: the candidates of an iteration, and what is believed about each.

The candidates are the next positions of the task's stream of prompts. Each position of a run is looked at once, so
every sampled prompt has its own position in the data, and a resumed run needs only the number of the iteration.

How many there are decides how one-sided a batch becomes. Prompts of one kind are believed alike, so the best of a
thousand are all of one kind, and a small model that trains on one kind at a time forgets the others (measured:
docs/allocators.md). `adaptive` therefore chooses among a few; the published rules look at many, as their papers do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onedial.core.allocator_table import AllocatorRow
from onedial.training.budget.belief import Prediction
from onedial.training.budget.features import Described

Array = NDArray[np.float64]
Counts = NDArray[np.int64]

MOST_CANDIDATES = 4096
FEW_PER_PROMPT, MANY_PER_PROMPT = 3, 128


@dataclass(frozen=True)
class Candidates:
    """The source of the prompts of an iteration: `size` positions of the stream, and the prompt at each."""

    size: int
    describe: Callable[[int], Described]

    def positions(self, iteration: int) -> range:
        """The positions of an iteration (counted from 1); no other iteration has them."""
        return range((iteration - 1) * self.size, iteration * self.size)


def count_candidates(row: AllocatorRow, prompts: int, data_size: int | None) -> int:
    """Candidates per iteration: as the row says, else 3 for each of `prompts` (adaptive), a whole dataset, or 128 each.

    At least `prompts`, and at most the size of the dataset.
    """
    many = data_size and min(data_size, MOST_CANDIDATES) or MANY_PER_PROMPT * prompts
    wanted = row.candidates or (FEW_PER_PROMPT * prompts if row.name == "adaptive" else many)
    return max(1, min(max(wanted, prompts), data_size or wanted + prompts))


@dataclass(frozen=True)
class Scene:
    """What is known before a round. Arrays are (N,), one entry per candidate.

    budget      rollouts to spend in this round, in rollouts of mean cost
    prompts, group_size   those of the run: `prompts` × `group_size` is an iteration's budget
    predicted   the belief before the round
    drawn       a solve rate of each candidate, drawn from its belief
    value       effective tries that earlier rounds of the iteration gave
    cost        of one rollout, in rollouts of mean cost
    """

    row: AllocatorRow
    budget: float
    prompts: int
    group_size: int
    predicted: Prediction
    drawn: Array
    value: Array
    cost: Array
    rng: np.random.Generator


@dataclass(frozen=True)
class Decision:
    """The number of rollouts of each candidate (N,) and, if prompts were drawn at random, the probability of each
    (N,)."""

    tries: Counts
    inclusion: Array | None = None


Rule = Callable[[Scene], Decision]
