"""The schema that every log is read into: one line per rollout, or one line per prompt for rate tables.

A reader returns a `Log`. Its `frame` always has every column of `ROLLOUT_COLUMNS` (or `RATE_COLUMNS`), null where
the log has no value, so that every column always exists; `missing` says why a column is null.
`coverage` says in plain English what a log cannot show; a figure that needs it is withheld with that reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import polars as pl

from onedial.core.tables.read_errors import Broken

Kind = Literal["rollouts", "rates"]
GroupIdentity = Literal["given", "inferred from the prompt text", "inferred from the order of the rows", "none"]

# group_id and prompt_id are keys for equality only: strings where the log has them, 64-bit hashes or whole numbers
# otherwise (a hash of ten million prompts is a tenth of the memory of their text).
ROLLOUT_COLUMNS: Mapping[str, pl.DataType] = {
    "split": pl.String(),  # "train" | "eval"; null = the log does not say
    "iteration": pl.Int64(),  # round of rollouts (the trainer's own step number)
    "prompt_id": pl.String(),  # or an integer type: the same prompt has the same id in every iteration
    "group_id": pl.String(),  # or an integer type: rollouts of one prompt in one iteration; unique in the log
    "rollout_index": pl.Int64(),  # number of the rollout in its group
    "prompt": pl.String(),
    "completion": pl.String(),
    "answer": pl.String(),  # reference answer
    "parsed_answer": pl.String(),  # what the verifier extracted from the completion
    "outcome": pl.String(),  # correct | wrong | unparseable | timeout | error; null = unknown
    "outcome_reward": pl.Float64(),  # before shaping; null for timeout and error
    "shaped_reward": pl.Float64(),  # the reward that trained, where it differs from or was logged beside the outcome
    "correct": pl.Boolean(),  # as the log says; never guessed from a reward (see onedial.analysis.logs.grouping.Scale)
    "prompt_tokens": pl.Int64(),
    "completion_tokens": pl.Int64(),
    "completion_chars": pl.Int64(),
    "truncated": pl.Boolean(),  # the length limit ended it
    "finish_reason": pl.String(),
    "mean_logp": pl.Float64(),  # nats per completion token, the sampler's
    "entropy": pl.Float64(),  # nats per completion token
    "advantage": pl.Float64(),
    "policy_version": pl.Int64(),
    "source": pl.String(),  # task or dataset
    "level": pl.String(),
    "status": pl.String(),  # onedial only: trained | silent | carried | unusable | masked | left | evaluated
}

RATE_COLUMNS: Mapping[str, pl.DataType] = {
    "prompt_id": pl.String(),  # or an integer type
    "iteration": pl.Int64(),  # null in a table made once
    "prompt": pl.String(),
    "answer": pl.String(),
    "rate": pl.Float64(),  # share of right rollouts, in [0, 1]
    "k": pl.Int64(),  # right rollouts; null when n is unknown
    "n": pl.Int64(),  # rollouts judged; null when neither given nor inferred
    "source": pl.String(),
    "level": pl.String(),
}

EVALUATION_FORMATS = ("verifiers", "lm-eval", "evalplus", "humaneval", "sample-lists")
REWARD_PART = "reward_"  # prefix of reward component columns, f64, any number of them
KEYS = ("prompt_id", "group_id")


@dataclass(frozen=True)
class Coverage:
    """Which part of the run this log contains.

    survivors_only       True: silent groups were dropped before logging; None: the format allows it and the rows
                         cannot show which
    last_batch_only      True: only the last batch of each logging interval was written
    evaluation_mixed_in  True: evaluation rows stand among training rows (or overwrote them) without a mark
    group_identity       how rows were put into groups
    reward_is            what `outcome_reward` is, in words
    notes                every limit and assumption, plain English, most important first
    """

    survivors_only: bool | None = False
    last_batch_only: bool = False
    evaluation_mixed_in: bool | None = False
    group_identity: GroupIdentity = "given"
    reward_is: str = ""
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values under the field names."""
        return {
            "survivors_only": self.survivors_only,
            "last_batch_only": self.last_batch_only,
            "evaluation_mixed_in": self.evaluation_mixed_in,
            "group_identity": self.group_identity,
            "reward_is": self.reward_is,
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Log:
    """A rollout log or a rate table of any trainer.

    kind        "rollouts": `frame` has ROLLOUT_COLUMNS and reward_<component> columns;
                "rates": `frame` has RATE_COLUMNS
    frame       lazy; collect it with engine="streaming"
    format      name of the reader, e.g. "trl"
    missing     column → why the log cannot supply it (the column is all null)
    broken      the first broken places (at most `MAX_BROKEN`); `broken_lines` counts all of them
    ignored     columns of the source that were not read
    right       reward at which a rollout is right and `wrong` its opposite, where the format defines them;
                None = see onedial.analysis.logs.grouping.find_scale
    evaluation  only rows marked as evaluation are left
    """

    kind: Kind
    frame: pl.LazyFrame
    format: str
    coverage: Coverage = Coverage()
    missing: Mapping[str, str] = field(default_factory=dict)
    broken: tuple[Broken, ...] = ()
    broken_lines: int = 0
    files: tuple[Path, ...] = ()
    ignored: tuple[str, ...] = ()
    right: float | None = None
    wrong: float | None = None
    evaluation: bool = False

    @property
    def is_evaluation(self) -> bool:
        """Whether these are samples of a benchmark or of an evaluation, which no trainer learns from."""
        return self.evaluation or self.format in EVALUATION_FORMATS

    @property
    def notes(self) -> tuple[str, ...]:
        """What the log can and cannot show, as sentences: what its kind implies, then what its reader found."""
        general = []
        if self.coverage.survivors_only is None:
            general.append("This format may have dropped silent groups before logging; the rows cannot show it.")
        if self.kind == "rates":
            general.append("One solve rate per row: which prompts are solved how often, but no answers and no lengths.")
        elif self.coverage.group_identity == "given":
            general.append("Groups are named by the log.")
        return (*general, *self.coverage.notes)

    @property
    def components(self) -> tuple[str, ...]:
        """Names of the reward component columns in `frame`, prefix included."""
        return tuple(name for name in self.frame.collect_schema().names() if name.startswith(REWARD_PART))

    def has(self, *columns: str) -> bool:
        """Whether the log supplies every one of these columns (a supplied column may still hold nulls)."""
        return not any(column in self.missing for column in columns)

    def why_missing(self, *columns: str) -> str:
        """Reason for the first of these columns that the log does not supply; empty when it supplies all."""
        return next((self.missing[column] for column in columns if column in self.missing), "")


def cast_to_schema(frame: pl.LazyFrame, columns: Mapping[str, pl.DataType]) -> pl.LazyFrame:
    """Casts `frame` to exactly `columns` (nulls where absent) and its reward components, in schema order.

    Keys keep an integer type when they have one; every other column is cast.
    """
    have = frame.collect_schema()
    exprs: list[pl.Expr] = []
    for name, dtype in columns.items():
        if name not in have:
            exprs.append(pl.lit(None, dtype=dtype).alias(name))
        elif (name in KEYS and have[name].is_integer()) or have[name] == dtype:
            exprs.append(pl.col(name))
        else:
            exprs.append(pl.col(name).cast(dtype, strict=False))
    parts = [pl.col(name).cast(pl.Float64, strict=False) for name in have if name.startswith(REWARD_PART)]
    return frame.select(*exprs, *parts)
