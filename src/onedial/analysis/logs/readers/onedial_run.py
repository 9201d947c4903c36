"""onedial's own run folder: rollouts/000001.parquet …, one row per rollout, silent groups included."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from onedial.analysis.logs.columns import read_raw
from onedial.analysis.logs.formats import Format, Sample
from onedial.analysis.logs.reader_options import Options
from onedial.analysis.logs.readers.common import make_log, require
from onedial.analysis.logs.readers.reward_choice import apply_outcome
from onedial.analysis.logs.schema import REWARD_PART, Coverage, Log
from onedial.core.tables.file_bytes import check_regular
from onedial.core.tables.read_errors import ReadErrors

SAME = (
    "split", "iteration", "group_id", "prompt_id", "rollout_index", "policy_version", "source", "level",
    "prompt", "completion", "answer", "parsed_answer", "outcome", "correct", "shaped_reward", "advantage",
    "prompt_tokens", "completion_tokens", "finish_reason",
)  # fmt: skip
STATUS = ("status", "fate")  # the name of the column, and its former one
TEXT = ("prompt", "completion")
PART_NAME = re.compile(r"[A-Za-z0-9_]{1,100}")


def without_rollouts(folder: Path) -> str:
    """Why an onedial run has no rollouts: it trained on a dataset. Empty for any other folder or file."""
    check_regular(folder)
    path = folder / "run.toml"
    if not path.is_file() or any((folder / "rollouts").glob("*.parquet")):
        return ""
    try:
        row = tomllib.loads(path.read_text(encoding="utf-8"))["algorithm"]
    except (ValueError, KeyError, OSError):  # a ValueError: no TOML, or no UTF-8
        return ""
    if not isinstance(row, dict):
        return ""
    name, source = row.get("name", row.get("row", "")), row.get("source")
    if source not in ("dataset", "pairs"):
        return ""
    what = "pairs" if source == "pairs" else "demonstrations"
    return f"{folder}: {name} trained on {what} and generated no rollouts, so there are no groups to look at"


def detect(sample: Sample) -> bool:
    known = sample.has("group_id", "rollout_index", "outcome", "reward", "policy_version")
    return known and any(sample.has(name) for name in STATUS)


def read(samples: Sequence[Sample], options: Options, errors: ReadErrors) -> Log:
    wanted = dict.fromkeys((*SAME, *STATUS, "reward", "reward_parts", "logps"), pl.String())
    raw = read_raw(samples, wanted, ("reward", "outcome"), errors)
    have = require(raw, "a run of onedial", samples, "reward")
    exprs = [pl.col(name) for name in SAME if name in have and (options.text or name not in TEXT)]
    exprs.append(pl.col("reward").cast(pl.Float64, strict=False).alias("outcome_reward"))
    if "finish_reason" in have:
        exprs.append((pl.col("finish_reason") == "length").alias("truncated"))
    if isinstance(have.get("logps"), pl.List):
        exprs.append(pl.col("logps").list.mean().cast(pl.Float64).alias("mean_logp"))
    if "completion" in have:
        exprs.append(pl.col("completion").cast(pl.String).str.len_chars().cast(pl.Int64).alias("completion_chars"))
    notes = []
    if status := [pl.col(name) for name in STATUS if name in have]:
        exprs.append(pl.coalesce(status).alias("status"))
        notes.append("Every generated rollout is here, silent groups and unused ones included.")
    exprs += _parts(samples)
    log = make_log(
        "onedial",
        "an onedial run",
        raw.select(exprs),
        samples=samples,
        coverage=Coverage(reward_is="the verifier's reward, before shaping", notes=tuple(notes)),
        why={"entropy": "onedial logs entropy per iteration (metrics.jsonl), not per rollout"},
        ignored={"token_ids", "logps", "detail", "schema_version"} & set().union(*(s.columns for s in samples)),
    )
    return apply_outcome(log, options)


def _parts(samples: Sequence[Sample]) -> list[pl.Expr]:
    """One column per name in the sampled `reward_parts` (a JSON object)."""
    names: dict[str, None] = {}
    for text in (value for sample in samples for value in sample.values("reward_parts")):
        try:
            parts = json.loads(text)
        except (TypeError, ValueError, RecursionError):
            continue
        if isinstance(parts, dict):
            names.update(dict.fromkeys(name for name in parts if PART_NAME.fullmatch(name)))
    return [
        pl.col("reward_parts").str.json_path_match(f"$.{name}").cast(pl.Float64, strict=False).alias(REWARD_PART + name)
        for name in names
    ]


FORMAT = Format(
    name="onedial",
    title="onedial run",
    where="RUN/rollouts/*.parquet",
    shows="everything: every rollout generated, silent and unused ones included",
    cannot="per-rollout entropy",
    detect=detect,
    read=read,
    options=("outcome",),
)
