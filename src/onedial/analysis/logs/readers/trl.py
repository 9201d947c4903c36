"""TRL (GRPOTrainer, RLOOTrainer): output_dir/completions/completions_00010.parquet.

One file per logging step: step, prompt, completion, a column per reward function, extras, advantage. The trainer keeps
rows in a queue that holds one generation batch. Therefore a file holds the last batch only, a batch that trains for
several logged steps is in several files, and an evaluation at the same step overwrites the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from onedial.analysis.logs.columns import FILE, cast_number, cast_text, hash_columns, read_raw
from onedial.analysis.logs.formats import Format, Sample
from onedial.analysis.logs.reader_options import Options
from onedial.analysis.logs.readers.common import find_split, format_count, join_names, make_log, require
from onedial.analysis.logs.readers.group_order import OrderedGroups, order_groups
from onedial.analysis.logs.readers.reward_choice import choose_component
from onedial.analysis.logs.schema import REWARD_PART, Coverage, Log
from onedial.core.errors import DataError
from onedial.core.tables.read_errors import ReadErrors

KNOWN = ("step", "prompt", "completion", "advantage", "advantages", "image", "images", "__index_level_0__")
MIN_OVERLAP = 2


def detect(sample: Sample) -> bool:
    if not sample.has("prompt", "completion") or not (sample.columns & {"advantage", "advantages"}):
        return False
    return sample.kind in ("parquet", "arrow", "csv") and bool(find_components(sample)) and sample.has("step")


def find_components(sample: Sample) -> list[str]:
    """The columns of the reward functions: numbers, with names that are not TRL's own (numeric extras look the
    same)."""
    return [
        name
        for name, dtype in sample.schema.items()
        if name not in KNOWN and (dtype.is_numeric() or dtype == pl.Boolean or dtype == pl.Null)
    ]


def read(samples: Sequence[Sample], options: Options, errors: ReadErrors) -> Log:
    parts = list(dict.fromkeys(name for sample in samples for name in find_components(sample)))
    columns = dict.fromkeys(("step", "prompt", "completion", "advantage", "advantages", *parts), pl.String())
    raw = read_raw(samples, columns, ("prompt",), errors)
    have = require(raw, "TRL's log", samples, "prompt", "completion", "step")
    if not parts:
        raise DataError(f"{samples[0].file}: TRL's log has a number column per reward function, and here there is none")
    raw, repeated = drop_repeats(raw, samples, columns)
    outcome, reward_is = choose_component(parts, options)
    credit = [name for name in ("advantage", "advantages") if name in have]
    total = pl.sum_horizontal(cast_number(name, have[name]) for name in parts)  # nulls (a reward of None) count as 0
    none = pl.all_horizontal(pl.col(name).is_null() for name in parts)
    total = pl.when(~none).then(total)
    texts = raw.with_columns(cast_text("prompt", have["prompt"]), cast_text("completion", have["completion"]))
    groups = order_groups(texts.with_columns(prompt_id=hash_columns("prompt")), "file")
    frame = groups.frame.select(
        iteration=pl.col("step").cast(pl.Int64, strict=False),
        prompt_id=pl.col("prompt_id"),
        group_id=hash_columns(FILE, "step", "__block", "prompt_id"),
        completion_chars=pl.col("completion").cast(pl.String).str.len_chars().cast(pl.Int64),
        outcome_reward=cast_number(outcome, have[outcome]) if outcome else total,
        **({"advantage": pl.coalesce(cast_number(n, have[n]) for n in credit)} if credit else {}),
        **({"shaped_reward": total} if outcome and len(parts) > 1 else {}),
        **({"prompt": pl.col("prompt"), "completion": pl.col("completion")} if options.text else {}),
        **({REWARD_PART + n: cast_number(n, have[n]) for n in parts} if len(parts) > 1 else {}),
    )
    return make_log(
        "trl",
        "TRL",
        frame,
        samples=samples,
        coverage=_coverage(parts, reward_is, repeated, samples, groups),
        ignored={name for sample in samples for name in sample.columns} - set(columns),
        why=dict.fromkeys(("completion_tokens", "prompt_tokens", "truncated", "finish_reason"), NO_LENGTHS),
    )


NO_LENGTHS = "TRL logs no token counts and no finish reasons, only text"


def _coverage(
    parts: Sequence[str], reward_is: str, repeated: int, samples: Sequence[Sample], groups: OrderedGroups
) -> Coverage:
    notes = [
        "Only the last generation batch of each logging interval is in the log: shares describe that sample of the "
        "run, and totals such as tokens are not the run's.",
        groups.note,
        "An evaluation at a logged step overwrites that step's file, without a mark: some rows may be evaluation.",
    ]
    if len(parts) > 1:
        notes.append(
            f"Several number columns were found ({join_names(parts)}). Outcome: {reward_is}. "
            "Choose another with --outcome NAME, or --outcome total for the sum."
        )
    if repeated:
        notes.append(
            f"{format_count(repeated, 'row')} stood in an earlier file already (the same batch logged again) and "
            f"{'is' if repeated == 1 else 'are'} counted once."
        )
    evaluation: bool | None = None
    if any(find_split(sample.place.name) == "eval" for sample in samples):
        evaluation = True
    return Coverage(
        last_batch_only=True,
        evaluation_mixed_in=evaluation,
        group_identity=groups.identity,
        reward_is=reward_is,
        notes=tuple(notes),
    )


def drop_repeats(
    raw: pl.LazyFrame, samples: Sequence[Sample], columns: Mapping[str, pl.DataType]
) -> tuple[pl.LazyFrame, int]:
    """Removes rows that repeat an earlier file of the same folder; returns the other rows and the number removed.

    The queue is first in, first out, so a repeat is the end of one file at the beginning of the next, in the same order
    and equal in every column but `step`. Anything less is kept, because short answers also repeat by chance.
    """
    cut: dict[str, int] = {}
    before: dict[Path, list[int]] = {}
    for sample in samples:
        own = read_raw([sample], columns, (), ReadErrors())
        rows = own.select(pl.exclude(FILE, "step")).collect()
        hashes = rows.hash_rows(seed=1).to_list() if rows.height else []
        prompts = rows.select(cast_text("prompt", rows.schema["prompt"])).to_series().to_list() if rows.height else []
        folder = sample.file.parent
        overlap = measure_overlap(before.get(folder, []), hashes, prompts)
        if overlap:
            cut[sample.name] = overlap
        before[folder] = hashes
    if not cut:
        return raw, 0
    limit = pl.col(FILE).replace_strict(cut, default=0, return_dtype=pl.Int64)
    kept = raw.with_columns(__row=pl.int_range(pl.len()).over(FILE)).filter(pl.col("__row") >= limit).drop("__row")
    return kept, sum(cut.values())


def measure_overlap(before: list[int], now: list[int], prompts: list[str]) -> int:
    """The number of first rows of `now` that are the last rows of `before`, cut at whole groups; 0 if nothing is
    proved."""
    for size in range(min(len(before), len(now)), MIN_OVERLAP - 1, -1):
        if before[len(before) - size :] == now[:size] and (size == len(now) or prompts[size] != prompts[size - 1]):
            return size
    return 0


FORMAT = Format(
    name="trl",
    title="TRL completions",
    where="OUTPUT_DIR/completions/completions_*.parquet",
    shows="rewards per function, advantages, text",
    cannot="token counts, truncation, reward weights; batches between logging steps; evaluation is unmarked",
    detect=detect,
    read=read,
    options=("outcome",),
)
