"""How our cost per token changes as one quantity of the work grows and the others stay the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from statistics import median

from onedial.evidence.bench.figure import Point
from onedial.evidence.bench.measure import Note
from onedial.evidence.bench.ours import Generation, Update, open_policy
from onedial.evidence.bench.workload import Conditions, Workload
from onedial.training.trainer.cpu import trim_memory_beyond
from onedial.training.trainer.policy import Policy

# quantity → (its values, the values of a quick look); each starts from the workload below
AXES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "rows": ((1, 4, 16, 64, 256), (1, 8)),
    "group_size": ((2, 4, 8, 16, 32, 64), (2, 8)),
    "prompt": ((32, 128, 512, 2048), (32, 64)),
    "completion": ((16, 64, 256, 1024), (16, 32)),
}
POINT_REPEATS = 2
SLOW = 10.0  # seconds; a first turn that takes longer counts, since what it warms up no longer matters


def workload_at(axis: str, value: int, work: str) -> Workload:
    """The workload of a point: rows in groups of 8, group sizes at 64 rows, prompts at 8 × 8.

    Completions are also those of 8 × 8 rows; for an update those of 2 × 8, because it costs three times the arithmetic,
    and its cost per token hardly depends on the number of rows.
    """
    rows = Workload(8, 8, 51, 24)
    if axis == "rows":
        return replace(rows, prompts=max(1, value // 8), group_size=min(8, value))
    if axis == "group_size":
        return replace(rows, prompts=max(1, 64 // value), group_size=value)
    if axis == "prompt":
        return replace(rows, prompt_tokens=value)
    return replace(rows, completion_tokens=value, prompts=2 if work == "update" else 8)


def select_curves(conditions: Conditions, command: str, *, quick: bool, note: Note) -> Iterator[Point]:
    """The curves of `generate`, of `update`, or of both; points beyond the model's context are left out."""
    for work in ("generate", "update"):
        if command in (work, "all"):
            yield from _curve(conditions, work, quick=quick, note=note)


def _curve(conditions: Conditions, work: str, *, quick: bool, note: Note) -> Iterator[Point]:
    policy = open_policy(conditions, workload_at("rows", 64, work))
    for axis, (values, few) in AXES.items():
        note(f"curve {work}_{axis}")
        for value in few if quick else values:
            workload = workload_at(axis, value, work)
            alone = work == "update" and workload.group_size == 1  # a group of one is never mixed: nothing to compute
            if workload.fitted(conditions.context) == workload and not alone:
                yield Point(f"curve_{work}_{axis}", value, _speed(conditions, work, workload, policy), str(workload))


def _speed(conditions: Conditions, work: str, workload: Workload, policy: Policy) -> float:
    """Tokens a second: written ones for generation, for an update prompts (once per group) and completions."""
    if work == "generate":
        generation = Generation(conditions, workload, policy.model)
        tokens, seconds = workload.tokens, generation.seconds
    else:
        batch = Update(conditions, workload, policy)
        tokens, seconds = len(batch.batch.prompt_tokens) + len(batch.batch.tokens), batch.seconds
    first = seconds()
    speed = tokens / (first if first > SLOW else median(seconds() for _ in range(POINT_REPEATS)))
    trim_memory_beyond(0)  # a large point leaves much that the next one does not need
    return speed
