"""The files of a run: one parquet file of rollouts per iteration, and one JSON line of metrics.

They contain every group, including silent ones. The rollouts of an iteration are on disk before its update begins, so a
killed run does not have to generate them again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from onedial.core.errors import CheckpointError, DataError
from onedial.core.manifest import record_file
from onedial.core.paths import open_at_once, read_regular
from onedial.core.types import Completion, Group, Prompt, Rollout, Verdict

SCHEMA_VERSION = 1
SCHEMA = pa.schema(
    [
        ("schema_version", pa.int32()),
        ("iteration", pa.int32()),
        ("split", pa.string()),
        ("group_id", pa.string()),
        ("prompt_id", pa.string()),
        ("position", pa.int64()),
        ("source", pa.string()),
        ("level", pa.string()),
        ("prompt", pa.string()),
        ("answer", pa.string()),
        ("rollout_index", pa.int32()),
        ("policy_version", pa.int32()),
        ("completion", pa.string()),
        ("token_ids", pa.list_(pa.int32())),
        ("logps", pa.list_(pa.float32())),
        ("finish_reason", pa.string()),
        ("prompt_tokens", pa.int32()),
        ("completion_tokens", pa.int32()),
        ("outcome", pa.string()),
        ("correct", pa.bool_()),
        ("reward", pa.float64()),
        ("shaped_reward", pa.float64()),
        ("advantage", pa.float64()),
        ("parsed_answer", pa.string()),
        ("detail", pa.string()),
        ("reward_parts", pa.string()),
        ("status", pa.string()),
        ("unfiltered_logps", pa.list_(pa.float32())),
        ("believed", pa.float64()),
        ("audit", pa.bool_()),
        ("weight", pa.float64()),
    ]
)


@dataclass(frozen=True)
class TrainingSignal:
    """The shaped reward of a rollout and, if its group trained, its advantage.

    `in_loss` is False if its group trained and the rollout was left out of the loss (overlong="mask"). `weight` is the
    allocator's factor of the advantage.
    """

    shaped_reward: float
    advantage: float | None = None
    in_loss: bool = True
    weight: float | None = None


@dataclass(frozen=True)
class Believed:
    """The solve rate that an allocator believed before the first rollout of a group, and whether the prompt was drawn
    uniformly."""

    solve_rate: float
    audit: bool


def rollout_path(directory: Path, iteration: int) -> Path:
    """The path of the rollouts of an iteration."""
    return directory / "rollouts" / f"{iteration:06d}.parquet"


def write_rollouts(
    directory: Path,
    iteration: int,
    groups: Sequence[Group],
    statuses: Mapping[str, str],
    signals: Mapping[tuple[str, int], TrainingSignal],
    beliefs: Mapping[str, Believed] | None = None,
) -> None:
    """Writes all groups generated in an iteration, atomically: a reader never sees half a file. The hash goes into the
    run's manifest.

    Raises CheckpointError if the disk is full or cannot be written.
    """
    rows = [
        _record(group, rollout, statuses, signals, (beliefs or {}).get(group.id))
        for group in groups
        for rollout in group.rollouts
    ]
    path = rollout_path(directory, iteration)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_records(rows, path, directory)
    except OSError as error:
        raise CheckpointError(
            f"{path}: the rollouts of iteration {iteration} could not be written: {error.strerror or error}. "
            f"Free some space and continue with: onedial train --resume {directory}"
        ) from error


def save_evaluated(path: Path, groups: Sequence[Group]) -> None:
    """Writes the groups of an evaluation in the same columns, as split "test".

    Raises DataError when the file cannot be written.
    """
    statuses = {group.id: "evaluated" for group in groups}
    rows = [_record(group, rollout, statuses, {}) for group in groups for rollout in group.rollouts]
    try:
        _write_records([{**row, "split": "test"} for row in rows], path)
    except OSError as error:
        raise DataError(f"{path}: the rollouts cannot be written: {error.strerror or error}") from error


def _write_records(rows: list[dict[str, Any]], path: Path, recorded_in: Path | None = None) -> None:
    aside = path.with_name(path.name + ".part")
    try:
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), aside, compression="zstd")
        with open(aside, "rb") as file:
            os.fsync(file.fileno())
        if recorded_in is not None:
            record_file(recorded_in, f"{path.parent.name}/{path.name}", aside)
        os.replace(aside, path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise


def _record(
    group: Group,
    rollout: Rollout,
    statuses: Mapping[str, str],
    signals: Mapping[tuple[str, int], TrainingSignal],
    believed: Believed | None = None,
) -> dict[str, Any]:
    completion, verdict, prompt = rollout.completion, rollout.verdict, group.prompt
    own = signals.get((group.id, rollout.index))
    status = statuses.get(group.id, "left")
    if not verdict.usable:
        status = "unusable"
    elif own is not None and not own.in_loss:
        status = "masked"
    elif own is not None and own.advantage == 0 and not group.mixed:
        status = "silent"
    elif status == "trained" and (own is None or own.advantage is None):  # its group trains without it
        status = "left"
    return {
        "schema_version": SCHEMA_VERSION,
        "iteration": group.iteration,
        "split": "train",
        "group_id": group.id,
        "prompt_id": prompt.id,
        "position": group.position,
        "source": prompt.source,
        "level": str(prompt.meta.get("level", "")),
        "prompt": prompt.plain,
        "answer": None if prompt.answer is None else str(prompt.answer),
        "rollout_index": rollout.index,
        "policy_version": completion.policy_version,
        "completion": completion.text,
        "token_ids": completion.token_ids,
        "logps": completion.logps,
        "finish_reason": completion.finish_reason,
        "prompt_tokens": len(group.prompt_tokens),
        "completion_tokens": len(completion.token_ids),
        "outcome": verdict.outcome,
        "correct": verdict.correct,
        "reward": verdict.reward if verdict.usable else None,
        "shaped_reward": own.shaped_reward if own else None,
        "advantage": own.advantage if own else None,
        "parsed_answer": verdict.answer,
        "detail": verdict.detail,
        "reward_parts": json.dumps(dict(verdict.parts)),
        "status": status,
        "unfiltered_logps": completion.unfiltered_logps or None,
        "believed": believed.solve_rate if believed else None,
        "audit": believed.audit if believed else None,
        "weight": own.weight if own else None,
    }


def read_groups(path: Path) -> dict[str, Group]:
    """The groups of a rollouts file by id. Prompt tokens are not restored, and of the prompt only what the file holds.

    Raises DataError if the file cannot be read.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    try:
        for row in pq.read_table(path).to_pylist():
            groups.setdefault(row["group_id"], []).append(row)
        return {name: _group(members) for name, members in groups.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:  # ArrowInvalid is a ValueError
        raise DataError(f"{path}: not a readable rollouts file: {error}; delete it to generate them again") from error


def _group(rows: Sequence[Mapping[str, Any]]) -> Group:
    first = rows[0]
    prompt = Prompt(text=first["prompt"], answer=first["answer"], source=first["source"])
    return Group(prompt, tuple(_rollout(row) for row in rows), first["iteration"], first["position"])


def _rollout(row: Mapping[str, Any]) -> Rollout:
    completion = Completion(
        token_ids=tuple(row["token_ids"]),
        logps=tuple(row["logps"]),
        finish_reason=row["finish_reason"],
        policy_version=row["policy_version"],
        text=row["completion"],
        unfiltered_logps=tuple(row.get("unfiltered_logps") or ()),
    )
    verdict = Verdict(
        reward=0.0 if row["reward"] is None else row["reward"],
        correct=row["correct"],
        answer=row["parsed_answer"],
        outcome=row["outcome"],
        detail=row["detail"],
        parts=json.loads(row["reward_parts"]),
    )
    return Rollout(row["rollout_index"], completion, verdict)


def append_json(path: Path, record: Mapping[str, Any]) -> None:
    """Adds one line to a JSON-lines file of a run and flushes it to disk.

    Raises CheckpointError when the disk is full or cannot be written; a resumed run drops half a line.
    """
    line = json.dumps(record, allow_nan=False) + "\n"
    try:
        with open(path, "a", encoding="utf-8", opener=open_at_once) as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise CheckpointError(
            f"{path}: a line could not be written: {error.strerror or error}. Free some space and continue with: "
            f"onedial train --resume {path.parent}"
        ) from error


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a JSON-lines file; lines that are cut off or hold something else are left out."""
    return scan_json_lines(path)[0]


def scan_json_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The JSON objects of a JSON-lines file in order, and how many of its lines are no JSON object.

    A file that does not exist holds none. Bytes that are not UTF-8 are replaced.
    Raises DataError when the file cannot be read.
    """
    records: list[dict[str, Any]] = []
    broken = 0
    try:
        lines = read_regular(path).split("\n") if path.exists() else []
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    for line in filter(str.strip, lines):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if isinstance(record, dict):
            records.append(record)
        else:
            broken += 1
    return records, broken


def cut_json_lines(path: Path, last_iteration: int) -> None:
    """Drops lines after an iteration, before a resumed run writes them anew."""
    kept = [record for record in read_json_lines(path) if record.get("iteration", 0) <= last_iteration]
    aside = path.with_suffix(".part")
    aside.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
    os.replace(aside, path)
