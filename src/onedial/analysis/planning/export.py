"""A plan as files: for our own trainer, a TRL dataset (which `onedial train --task PATH` also reads), a verl parquet,
or a table.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl

from onedial.analysis.planning.planner import BudgetPlan
from onedial.core.errors import DataError, suggest
from onedial.core.plan_file import PLAN_VERSION

KINDS = {
    "onedial": (".json",),
    "trl": (".jsonl", ".parquet"),
    "verl": (".parquet",),
    "table": (".csv", ".jsonl", ".parquet"),
}


def parse_target(text: str) -> tuple[str, Path]:
    """`"trl:next.jsonl"` → ("trl", Path("next.jsonl")). Raises DataError for an unknown kind or ending."""
    kind, _, path = text.partition(":")
    if kind not in KINDS or not path:
        kinds = ", ".join(KINDS)
        raise DataError(f"--export {text!r}: must be KIND:PATH with KIND one of {kinds}{suggest(kind, KINDS)}")
    if Path(path).suffix not in KINDS[kind]:
        raise DataError(f"--export {text!r}: the file of {kind} must end in {' or '.join(KINDS[kind])}")
    return kind, Path(path)


def check_targets(log: Path, targets: Sequence[Path]) -> None:
    """Raises DataError for a target that is the log itself, or a file in the log's folder that exists already."""
    for target in targets:
        place = target.resolve()
        if place == log.resolve() or (place.exists() and log.resolve() in place.parents):
            raise DataError(f"--export {target}: would overwrite the log at {log}; choose another place")


def export(plan: BudgetPlan, prompts: pl.DataFrame, kind: str, path: Path) -> Path:
    """Writes the plan to a file; `prompts` has prompt_id (text), prompt, answer and source per prompt.

    trl, verl  the funded prompts, one record each, with tries, weight and the believed solve rate; these trainers take
               one group size, `plan.group_size`
    table      every prompt by its id (`tabulate_plan`); needs no texts
    onedial    the ids of the funded prompts, each with its own tries, and separately those for a second look; with
               texts where they are known, and without weights, which its trainer would not use

    Raises DataError when no prompt is funded, when trl or verl need texts that are not known, or when the file cannot
    be written.
    """
    tries = plan.adaptive_tries if kind == "onedial" else plan.tries
    if kind != "table" and not tries.any():
        raise DataError(
            f"--export {kind}:{path}: no prompt is funded; only table:PATH, with every prompt, would say more"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        {"onedial": _onedial, "trl": _trl, "verl": _verl, "table": _table}[kind](plan, prompts, path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error})") from error
    return path


def tabulate_plan(plan: BudgetPlan) -> pl.DataFrame:
    """One row per prompt: its belief and what is planned for it."""
    a, b = plan.beliefs.beta()
    return pl.DataFrame(
        {
            "prompt_id": plan.beliefs.counts.ids,
            "a": a,
            "b": b,
            "n": plan.beliefs.counts.n,
            "solve_rate": plan.beliefs.mean(),
            "mixed_probability": plan.beliefs.mixed(plan.group_size),
            "tries": plan.tries,
            "adaptive_tries": plan.adaptive_tries,
            "weight": plan.weight,
            "decision": plan.decision,
        }
    )


def _onedial(plan: BudgetPlan, prompts: pl.DataFrame, path: Path) -> None:
    rows = tabulate_plan(plan).join(
        prompts.select("prompt_id", "prompt"), on="prompt_id", how="left", maintain_order="left"
    )
    asked = rows.filter(pl.col("adaptive_tries") > 0).select("prompt_id", "prompt", tries="adaptive_tries")
    unsure = rows.filter((pl.col("adaptive_tries") == 0) & (pl.col("decision") == "revisit")).select(
        "prompt_id", "prompt"
    )
    value = {
        "onedial_plan": PLAN_VERSION,
        "group_size": plan.group_size,
        "audit_prompts": min(plan.audit_prompts, len(unsure)),
        "prompts": asked.to_dicts(),
        "revisit": unsure.to_dicts(),
    }
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _table(plan: BudgetPlan, prompts: pl.DataFrame, path: Path) -> None:
    _write(tabulate_plan(plan), path)


def _trl(plan: BudgetPlan, prompts: pl.DataFrame, path: Path) -> None:
    rows = _funded(plan, prompts).select(
        "prompt", "answer", "source", "prompt_id", "tries", "adaptive_tries", "weight", "solve_rate"
    )
    _write(rows, path)


def _write(rows: pl.DataFrame, path: Path) -> None:
    writers: dict[str, Callable[[Path], object]] = {
        ".parquet": rows.write_parquet,
        ".jsonl": rows.write_ndjson,
        ".csv": rows.write_csv,
    }
    writers[path.suffix](path)


def _verl(plan: BudgetPlan, prompts: pl.DataFrame, path: Path) -> None:
    rows = _funded(plan, prompts).with_row_index("index")
    extra = pl.struct(
        pl.lit("train").alias("split"), "index", "prompt_id", "tries", "adaptive_tries", "weight", "solve_rate"
    )
    message = pl.struct(pl.lit("user").alias("role"), pl.col("prompt").alias("content"))
    rows.select(
        pl.col("source").fill_null("").alias("data_source"),
        pl.concat_list(message).alias("prompt"),
        pl.col("source").fill_null("").alias("ability"),
        pl.struct(pl.lit("rule").alias("style"), pl.col("answer").alias("ground_truth")).alias("reward_model"),
        extra.alias("extra_info"),
    ).write_parquet(path)


def _funded(plan: BudgetPlan, prompts: pl.DataFrame) -> pl.DataFrame:
    """The funded prompts with their texts, in the order of the plan."""
    funded = tabulate_plan(plan).filter(pl.col("decision") == "fund")
    rows = funded.join(prompts, on="prompt_id", how="left", maintain_order="left")
    absent = rows.get_column("prompt").null_count()
    if absent:
        raise DataError(
            f"the log holds no text for {absent:,} of {len(rows):,} planned prompts, so no dataset can be written; "
            "export table:PATH.csv (by prompt id), or plan from a log with prompts"
        )
    return rows
