"""Groups to read: a few of each kind, with prompt, answers, verdicts and advantages, in bounded size."""

from __future__ import annotations

from typing import Any

import polars as pl

from onedial.analysis.findings.log_tables import LogTables

PER_KIND = {"mixed": 24, "right": 12, "wrong": 16, "other": 6, "empty": 2}
MOST_ROLLOUTS = 12  # of a group whose texts are shown
MOST_MARKS = 64  # of a group that are shown as marks
TEXT_BYTES = 450_000  # of completions on the page, shared by all rollouts shown
LONGEST = 6_000  # characters of one completion

ROLES = {"correct": "right", "wrong": "wrong", "unparseable": "wrong", "timeout": "other", "error": "other"}
COLUMNS = (
    "iteration", "prompt", "completion", "answer", "parsed_answer", "outcome", "outcome_reward", "shaped_reward",
    "correct", "completion_tokens", "completion_chars", "truncated", "advantage", "status", "source", "level",
)  # fmt: skip


def sample_groups(tables: LogTables) -> tuple[list[dict[str, Any]], str]:
    """Groups for the page as JSON values, newest iterations first, and a sentence on how they were chosen."""
    log = tables.log
    if log.kind == "rates" or not log.has("completion") and not log.has("prompt"):
        return [], ""
    chosen = _choose(tables)
    ids = chosen.get_column("group_id").to_list()
    key = pl.col("group_id").cast(pl.String)
    rows = (
        log.frame.with_columns(key.alias("group_id"))
        .filter(pl.col("group_id").is_in(ids))
        .with_columns(pl.col("completion").str.slice(0, LONGEST + 1), pl.col("prompt").str.slice(0, LONGEST + 1))
        .select("group_id", "rollout_index", *COLUMNS)
        .collect(engine="streaming")
        .sort("group_id", "rollout_index", maintain_order=True)
    )
    parts = {part.get_column("group_id")[0]: part for part in rows.partition_by("group_id")}
    share = TEXT_BYTES // max(1, sum(min(MOST_ROLLOUTS, len(part)) for part in parts.values()))
    length = "completion_tokens" if tables.length_unit == "tokens" else "completion_chars"
    order = [row for row in chosen.iter_rows(named=True) if row["group_id"] in parts]
    groups = [_group(row, parts[row["group_id"]], max(400, share), tables, length) for row in order]
    note = f"{len(groups)} of {len(tables.groups):,} groups, chosen by a fixed hash within each kind, newest first."
    return groups, note


def _choose(tables: LogTables) -> pl.DataFrame:
    """Some groups of each kind, spread over the log by a hash that does not change between calls."""
    parts = [
        tables.groups.filter(pl.col("kind") == kind)
        .sort(pl.col("group_id").hash(11), "group_id")
        .head(number)
        .select("group_id", "prompt_id", "kind", "iteration")
        for kind, number in PER_KIND.items()
    ]
    return pl.concat(parts).sort(["iteration", "group_id"], descending=[True, False], nulls_last=True)


def _group(row: dict[str, Any], rollouts: pl.DataFrame, room: int, tables: LogTables, length: str) -> dict[str, Any]:
    shown = _shown(rollouts)
    first = rollouts.row(0, named=True)
    return {
        "id": row["group_id"],
        "prompt_id": row["prompt_id"],
        "kind": row["kind"],
        "iteration": first["iteration"],
        "source": first["source"] or "",
        "level": first["level"] or "",
        "prompt": _cut(first["prompt"], LONGEST) or "",
        "answer": _cut(first["answer"], 400),
        "size": len(rollouts),
        "hidden": len(rollouts) - len(shown),
        "marks": [_role(r, tables) for r in rollouts.head(MOST_MARKS).iter_rows(named=True)],
        "rollouts": [_rollout(r, room, tables, length) for r in shown.iter_rows(named=True)],
    }


def _shown(rollouts: pl.DataFrame) -> pl.DataFrame:
    """The first rollouts in order, and always one with the lowest and one with the highest reward."""
    reward = pl.col("outcome_reward")
    ends = ((reward == reward.min()) | (reward == reward.max())).fill_null(False) & reward.is_first_distinct()
    order = rollouts.with_row_index("__row").sort(ends, descending=True, maintain_order=True)
    return order.head(MOST_ROLLOUTS).sort("__row").drop("__row")


def _rollout(row: dict[str, Any], room: int, tables: LogTables, length: str) -> dict[str, Any]:
    return {
        "outcome": row["outcome"] or _outcome(row, tables),
        "role": _role(row, tables),
        "reward": _number(row["outcome_reward"]),
        "shaped": _number(row["shaped_reward"]),
        "advantage": _number(row["advantage"]),
        "parsed": _cut(row["parsed_answer"], 200),
        "length": row[length],
        "cut": bool(row["truncated"]),
        "status": row["status"] or "",
        "text": _cut(row["completion"], room),
    }


def _role(row: dict[str, Any], tables: LogTables) -> str:
    """How a rollout is marked: "right", "wrong" or "other"."""
    return ROLES.get(row["outcome"] or _outcome(row, tables), "other")


def _outcome(row: dict[str, Any], tables: LogTables) -> str:
    """A word for a rollout whose log names no outcome."""
    if row["correct"] is not None:
        return "correct" if row["correct"] else "wrong"
    reward, right, wrong = row["outcome_reward"], tables.marks.right, tables.marks.wrong
    if reward is None or not tables.marks.exact:
        return "not judged" if reward is None else "graded"
    return "correct" if right is not None and reward >= right else "wrong" if reward == wrong else "partly right"


def _number(value: float | None) -> float | None:
    return None if value is None or value != value or abs(value) == float("inf") else round(float(value), 6)


def _cut(text: str | None, limit: int) -> str | None:
    if text is None or len(text) <= limit:
        return text
    return text[: limit * 2 // 3] + " … [cut] … " + text[-limit // 3 :]
