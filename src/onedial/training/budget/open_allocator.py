"""Makes the object that a run uses from a row of the table of allocators."""

from __future__ import annotations

from collections.abc import Callable

from onedial.core.allocator_table import AllocatorRow
from onedial.core.errors import ConfigError
from onedial.core.settings import Run
from onedial.core.types import Prompt
from onedial.core.user_code import load_object
from onedial.training.budget.allocation import Allocator, Dynamic, Fixed, PromptSchedule, UniformSchedule
from onedial.training.budget.belief import Belief
from onedial.training.budget.believing import Believing
from onedial.training.budget.features import Embed, describe_prompt
from onedial.training.budget.prior import read_prior
from onedial.training.budget.rules import IN_TURN, RULES
from onedial.training.budget.scene import Candidates, count_candidates
from onedial.training.budget.sequential import Sequential

METHODS = ("start", "ask", "answer", "finish", "state", "restore")
Look = Callable[[int], Prompt]
"""The prompt at a position of the task's stream; a pure function, and looking costs nothing."""


def open_allocator(
    run: Run, schedule: PromptSchedule, look: Look, data_size: int | None, *, embed: Embed | None = None
) -> Allocator:
    """The allocator of a resolved run. `data_size`: prompts of the dataset, None for an endless task.

    `embed` gives the belief a vector for each prompt, in addition to what `features` reads from its text. Raises
    DataError for a prior that cannot be read.
    """
    row, prompts = run.allocator.for_groups(run.group_size), run.prompts_per_iteration
    keep_mixed = run.algorithm.keep == "mixed"
    if row.is_own:
        return open_own(run, look)
    if row.name == "two":
        pairs = max(1, prompts * run.group_size // 2)
        return Fixed(pairs, UniformSchedule(2), keep_mixed=keep_mixed)
    if row.name == "sequential":
        return Sequential(row, prompts, run.seed, keep_mixed)
    if row.believes:
        size = prompts if row.name in IN_TURN else count_candidates(row, prompts, data_size)
        return Believing(
            row,
            RULES[row.name],
            Candidates(size, lambda position: describe_prompt(look(position), embed)),
            prompts,
            run.group_size,
            run.seed,
            keep_mixed,
            run.algorithm.needs_belief,
            belief=open_belief(row),
        )
    if run.algorithm.refill:
        return Dynamic(prompts, schedule, run.refill_limit, run.on_exhausted)
    return Fixed(prompts, schedule, keep_mixed=keep_mixed)


def open_own(run: Run, look: Look) -> Allocator:
    """The user's allocator, made by what the run names, called with the resolved run and `look`.

    Raises ConfigError when it cannot be made, or lacks a method of `Allocator`.
    """
    name = run.allocator.name
    try:
        allocator = load_object(name)(run, look)
    except Exception as error:
        raise ConfigError(
            f"allocator={name!r}: calling it with the run and a function from positions to prompts raised "
            f"{type(error).__name__}: {error}"
        ) from error
    if missing := [method for method in METHODS if not callable(getattr(allocator, method, None))]:
        raise ConfigError(f"allocator={name!r}: what it makes, {type(allocator).__name__}, has no {', '.join(missing)}")
    made: Allocator = allocator
    return made


def open_belief(row: AllocatorRow) -> Belief:
    """The initial belief of a run: from the prior of the row, or without any knowledge."""
    belief = Belief(row.drift)
    if row.prior:
        belief.observe_all(read_prior(row.prior, most_tries=row.prior_tries))
    return belief
