"""open-instruct: {run}_rollouts_000000.jsonl with token lists; groups that were dropped before training are absent."""

from __future__ import annotations

import re
from collections.abc import Sequence

import polars as pl

from onedial.analysis.logs.columns import cast_number, hash_columns, read_raw
from onedial.analysis.logs.formats import Format, Sample
from onedial.analysis.logs.reader_options import Options
from onedial.analysis.logs.readers.common import column_per_file, make_log, require
from onedial.analysis.logs.schema import Coverage, Log
from onedial.core.tables.read_errors import ReadErrors

FULL_REWARD = 10.0
WANTED: dict[str, pl.DataType] = {
    "step": pl.Float64(),
    "sample_idx": pl.Float64(),
    "prompt_idx": pl.Float64(),
    "prompt_tokens": pl.List(pl.Int64()),
    "response_tokens": pl.List(pl.Int64()),
    "reward": pl.Float64(),
    "advantage": pl.Float64(),
    "finish_reason": pl.String(),
    "dataset": pl.String(),
    "ground_truth": pl.String(),
    "logprobs": pl.List(pl.Float64()),
}


def detect(sample: Sample) -> bool:
    return sample.has("prompt_tokens", "response_tokens", "reward") and bool(
        sample.columns & {"prompt_idx", "sample_idx"}
    )


def read(samples: Sequence[Sample], options: Options, errors: ReadErrors) -> Log:
    present = set().union(*(sample.columns for sample in samples))
    raw = read_raw(samples, {n: t for n, t in WANTED.items() if n in present}, ("reward", "response_tokens"), errors)
    have = require(raw, "open-instruct's log", samples, "reward", "prompt_tokens", "response_tokens")
    runs = {s.name: str(s.file.parent / re.sub(r"_rollouts_\d+\..*$", "", s.file.name)) for s in samples}
    given = "prompt_idx" in have
    raw = raw.with_columns(
        __run=column_per_file(samples, runs, pl.String()),
        prompt_id=hash_columns("prompt_tokens"),
    )
    within = ["__run", *(["step"] if "step" in have else []), "prompt_idx" if given else "prompt_id"]
    columns = {
        "split": pl.lit("train"),
        "prompt_id": pl.col("prompt_id"),
        "group_id": hash_columns(*within),
        "outcome_reward": cast_number("reward", have["reward"]),
        "prompt_tokens": pl.col("prompt_tokens").list.len().cast(pl.Int64),
        "completion_tokens": pl.col("response_tokens").list.len().cast(pl.Int64),
    }
    if "step" in have:
        columns["iteration"] = pl.col("step").cast(pl.Int64, strict=False)
    renamed = {
        "advantage": "advantage",
        "finish_reason": "finish_reason",
        "source": "dataset",
        "answer": "ground_truth",
    }
    columns |= {ours: pl.col(theirs) for ours, theirs in renamed.items() if theirs in have}
    if "finish_reason" in have:
        columns["truncated"] = pl.col("finish_reason") != "stop"
    if "logprobs" in have:
        columns["mean_logp"] = pl.col("logprobs").list.mean()
    frame = raw.select(**columns)
    top = frame.select(pl.col("outcome_reward").max()).collect(engine="streaming").item()
    return make_log(
        "open-instruct",
        "open-instruct",
        frame,
        samples=samples,
        coverage=Coverage(
            survivors_only=None,
            group_identity="given" if given else "inferred from the prompt text",
            reward_is="the verifier's reward (10 is a right answer by default), any format reward included",
            notes=("By default open-instruct drops groups whose rewards are all equal before it writes this log.",),
        ),
        why={
            **dict.fromkeys(("prompt", "completion", "completion_chars"), "the log holds token ids, not text"),
            "correct": "the log holds rewards, not a verdict",
        },
        ignored=present - set(WANTED),
        right=FULL_REWARD if top == FULL_REWARD else None,
    )


FORMAT = Format(
    name="open-instruct",
    title="open-instruct rollouts",
    where="{run}_rollouts_*.jsonl",
    shows="rewards, advantages, token counts, log-probabilities of the groups that trained",
    cannot="dropped groups (silent shares, pass@k), text",
    detect=detect,
    read=read,
)
