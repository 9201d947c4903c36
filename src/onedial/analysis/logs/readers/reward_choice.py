"""Which of a log's reward components is the outcome: by the user's choice, else by its name, else their sum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from onedial.analysis.logs.reader_options import Options, list_names
from onedial.analysis.logs.readers.common import find_outcome_component, join_names
from onedial.analysis.logs.schema import REWARD_PART, Log
from onedial.core.errors import DataError, suggest

TOTAL = "total"


def choose_component(parts: Sequence[str], options: Options) -> tuple[str | None, str]:
    """Returns (the component that is the outcome, or None for the sum; what the reward is, in words).

    Raises DataError if the user chose a component that the log does not have.
    """
    chosen = options.outcome
    if chosen is not None and chosen != TOTAL:
        chosen = find_component(chosen, parts, also=(TOTAL,))
        return chosen, f"the reward function {chosen} (chosen)"
    if len(parts) == 1:
        return parts[0], f"the reward function {parts[0]}"
    named = find_outcome_component(parts) if chosen is None else None
    if named:
        return named, f"the reward function {named}, by its name the one that judges correctness"
    return None, f"the plain sum of {join_names(parts)} (the log does not hold the weights)"


def find_component(chosen: str, parts: Sequence[str], *, also: Sequence[str] = ()) -> str:
    """Returns the component that the user named, with or without the prefix `reward_`; DataError when there is none."""
    bare = chosen if chosen in parts else chosen.removeprefix(REWARD_PART)
    if bare in parts:
        return bare
    if not parts:
        raise DataError(f"--outcome {chosen}: this log holds one reward per rollout and no components to choose from")
    near = suggest(chosen, [*parts, *also])
    names = list_names(parts) + "".join(f", or {name} for their sum" for name in also)
    raise DataError(f"--outcome {chosen}: the log has no such reward{near}; it has: {names}")


def apply_outcome(log: Log, options: Options) -> Log:
    """Returns the log with the chosen reward component as outcome; the logged reward stays as `shaped_reward`.

    What the format defines as right, and verdicts of its own, no longer apply: they belong to the logged reward.
    Raises DataError when the log does not have that component.
    """
    if options.outcome is None:
        return log
    name = find_component(options.outcome, [part.removeprefix(REWARD_PART) for part in log.components])
    failed = pl.col("outcome").is_in(["timeout", "error"])
    trained = pl.coalesce("shaped_reward", "outcome_reward") if log.has("shaped_reward") else pl.col("outcome_reward")
    frame = log.frame.with_columns(
        shaped_reward=trained,
        outcome_reward=pl.when(~failed.fill_null(False)).then(pl.col(REWARD_PART + name)),
        outcome=pl.when(failed).then(pl.col("outcome")),
        correct=pl.lit(None, dtype=pl.Boolean),
    )
    missing = {column: why for column, why in log.missing.items() if column != "shaped_reward"}
    missing["correct"] = f"the outcome is {name}, as chosen, and the log's verdict is about its own reward"
    return replace(
        log,
        frame=frame,
        missing=missing,
        coverage=replace(log.coverage, reward_is=f"the reward component {name} (chosen)"),
        right=None,
        wrong=None,
    )
