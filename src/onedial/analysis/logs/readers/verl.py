"""verl: {rollout_data_dir}/{step}.jsonl with input, output, gts, score, step and, depending on the trainer, acc … or
uid.

Legacy trainer: there is no group id; `score` includes an overlong penalty if there is one, and `acc` is the outcome if
the reward function returns it. V1 trainer: uid = {uid}_{rollout}_{output}; there is no `acc`, and groups removed by the
filter are missing. Validation dumps have the same form.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from onedial.analysis.logs.columns import FILE, cast_boolean, cast_number, cast_text, hash_columns, read_raw
from onedial.analysis.logs.formats import Format, Sample
from onedial.analysis.logs.reader_options import Options
from onedial.analysis.logs.readers.common import (
    column_per_file,
    find_split,
    find_step,
    make_log,
    require,
)
from onedial.analysis.logs.readers.group_order import order_groups
from onedial.analysis.logs.readers.reward_choice import apply_outcome, find_component
from onedial.analysis.logs.schema import REWARD_PART, Coverage, GroupIdentity, Log
from onedial.core.tables.read_errors import ReadErrors

TEXTS = ("input", "output", "gts", "uid", "acc", "data_source", "pred", "request_id", "finish_reason")
KNOWN = (*TEXTS, "score", "step", "reward")
UID = r"^(.*)_(\d+)_(\d+)$"


def detect(sample: Sample) -> bool:
    return sample.has("input", "output", "score") and bool(sample.columns & {"gts", "step", "uid", "request_id"})


def read(samples: Sequence[Sample], options: Options, errors: ReadErrors) -> Log:
    extras = _numeric_extras(samples)
    present = set().union(*(sample.columns for sample in samples))
    texts = TEXTS if options.text else [name for name in TEXTS if name not in ("output", "gts", "pred", "request_id")]
    wanted: dict[str, pl.DataType] = {name: pl.String() for name in texts if name in present}
    wanted |= {name: pl.Float64() for name in ("score", "step", *extras) if name in present}
    raw = read_raw(samples, wanted, ("score", "input"), errors, hashed=() if options.text else ("input",))
    have = require(raw, "verl's log", samples, "input", "score")
    v1 = "uid" in have
    by_file = {sample.name: find_step(sample.file.name) for sample in samples}
    steps = [pl.col("step").cast(pl.Int64, strict=False)] if "step" in have else []
    raw = raw.with_columns(
        cast_text("input", have["input"]) if options.text else pl.col("input"),
        __step=pl.coalesce(*steps, column_per_file(samples, by_file, pl.Int64())),
        __split=column_per_file(samples, {s.name: find_split(s.place.parent) for s in samples}, pl.String()),
    )
    raw = raw.with_columns(prompt_id=hash_columns("input") if options.text else pl.col("input"))
    notes: list[str] = []
    raw, identity = _with_groups(raw, v1, notes)
    score = cast_number("score", have["score"])
    chosen = options.outcome
    if chosen is not None:
        chosen = find_component(chosen, [*extras, *(name for name in ("score", "acc") if name in have)])
    reward, reward_is = _outcome(raw, have, score, notes, chosen)
    columns = {
        "split": pl.col("__split"),
        "iteration": pl.col("__step"),
        "prompt_id": pl.col("prompt_id"),
        "group_id": pl.col("__group"),
        **reward,
        **{REWARD_PART + name: cast_number(name, have[name]) for name in extras if name in have},
    }
    if v1:
        columns["rollout_index"] = pl.col("uid").str.extract(UID, 2).cast(pl.Int64, strict=False)
    if options.text:
        columns["prompt"] = pl.col("input")
    if "output" in have:
        columns["completion"] = pl.col("output")
        columns["completion_chars"] = pl.col("output").cast(pl.String).str.len_chars().cast(pl.Int64)
    renamed = {"answer": "gts", "parsed_answer": "pred", "source": "data_source", "finish_reason": "finish_reason"}
    columns |= {ours: pl.col(theirs).cast(pl.String) for ours, theirs in renamed.items() if theirs in have}
    log = make_log(
        "verl",
        "verl",
        raw.select(**columns),
        samples=samples,
        coverage=Coverage(
            survivors_only=None,
            evaluation_mixed_in=None if not any(find_split(s.place.parent) for s in samples) else False,
            group_identity=identity,
            reward_is=reward_is,
            notes=tuple(notes),
        ),
        ignored=present - set(wanted),
        why=dict.fromkeys(
            ("completion_tokens", "prompt_tokens", "truncated"), "verl's dump holds text, no token counts"
        ),
    )
    return log if chosen in ("score", "acc") else apply_outcome(log, options)


def _numeric_extras(samples: Sequence[Sample]) -> list[str]:
    """The number fields that a reward function returned beside its score."""
    names = dict.fromkeys(
        name for sample in samples for name in sorted(sample.columns) if name not in KNOWN and "." not in name
    )
    return [
        name
        for name in names
        if any(sample.values(name) for sample in samples)
        and all(isinstance(value, int | float) for sample in samples for value in sample.values(name))
    ]


def _with_groups(raw: pl.LazyFrame, v1: bool, notes: list[str]) -> tuple[pl.LazyFrame, GroupIdentity]:
    """Adds `__group`; for V1 also reduces the frame to one row per rollout (its last output)."""
    if not v1:
        groups = order_groups(raw, "step")
        notes.append(groups.note)
        return groups.frame.with_columns(
            __group=hash_columns("__split", "__step", "__block", "prompt_id")
        ), groups.identity
    uid, parent = pl.col("uid"), pl.col(FILE).str.replace(r"[^/\\]*$", "")
    raw = raw.with_columns(
        __uid=pl.coalesce(uid.str.extract(UID, 1), uid),
        __part=pl.coalesce(uid.str.extract(UID, 3).cast(pl.Int64, strict=False), pl.lit(0)),
        __folder=parent,
    ).with_columns(__group=hash_columns("__folder", "__step", "__uid"))
    if raw.select(pl.col("__part").max()).collect(engine="streaming").item():
        notes.append(
            "Rollouts with several outputs (turns) are one row: the last output's score stands for the rollout."
        )
        rollout = pl.struct("__group", uid.str.extract(UID, 2))
        raw = raw.filter(pl.col("__part") == pl.col("__part").max().over(rollout))
    notes.append(
        "With verl's group filter on, evicted groups are not in the dump; `acc` is not dumped by this trainer version."
    )
    return raw, "given"


def _outcome(
    raw: pl.LazyFrame, have: pl.Schema, score: pl.Expr, notes: list[str], chosen: str | None
) -> tuple[dict[str, pl.Expr], str]:
    """Reward columns: as `chosen`, else `acc` if every scored row has a usable one, else `score`."""
    if "acc" in have and chosen != "score":
        acc = cast_number("acc", have["acc"])
        gaps = raw.select((acc.is_null() & score.is_not_null()).sum()).collect(engine="streaming").item()
        if not gaps or chosen == "acc":
            notes.append(
                "`acc` is the outcome; `score`, which may include shaping such as a length penalty, is kept beside it."
            )
            return {"outcome_reward": acc, "shaped_reward": score, "correct": cast_boolean("acc", have["acc"])}, "acc"
        notes.append(f"`acc` is missing in {gaps:,} scored rows, so `score` is taken as the outcome.")
    notes.append(
        "`score` is taken as the outcome. If the run shaped its reward (an overlong penalty, for one), score includes "
        "it, and silent groups are undercounted."
    )
    return {"outcome_reward": score}, "score (any shaping included)"


FORMAT = Format(
    name="verl",
    title="verl rollout dump",
    where="ROLLOUT_DATA_DIR/*.jsonl",
    shows="scores, text, groups by uid (V1) or prompt",
    cannot="token counts, truncation; groups that a filter evicted; shaping apart from the outcome without acc",
    detect=detect,
    read=read,
    options=("outcome",),
)
