"""verifiers (before v1): results.jsonl beside metadata.json, and prime-rl's older {train,eval}_rollouts.jsonl.

A group is the rollouts of one example_id (older files: id) in one file. Metrics are in `metrics` or, in older versions,
among the top-level numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from onedial.analysis.logs.formats import Format, Sample
from onedial.analysis.logs.reader_options import Options
from onedial.analysis.logs.readers.common import find_split, find_step, format_count, make_log
from onedial.analysis.logs.readers.messages import flatten_text, get_assistant_text, hash_content
from onedial.analysis.logs.readers.reward_choice import apply_outcome
from onedial.analysis.logs.readers.rows import as_float, iterate_objects, read_number
from onedial.analysis.logs.schema import REWARD_PART, Coverage, Log
from onedial.analysis.logs.store import store_records
from onedial.core.tables.read_errors import ReadErrors

KNOWN = {
    "example_id", "id", "prompt", "completion", "answer", "info", "reward", "task", "error", "timing", "is_completed",
    "is_truncated", "metrics", "stop_condition", "token_usage", "tool_defs", "error_chain", "long_error_chain",
    "generation_ms", "scoring_ms", "total_ms", "trajectory", "env_name", "advantage", "sampling_args", "state",
    "num_turns", "turns", "rollout_id", "trajectory_id", "group_id",
}  # fmt: skip
MAX_PROMISED = 10**12  # beyond, metadata.json is damaged
LENGTHS = {"prompt_tokens", "completion_tokens", "input_tokens", "output_tokens", "total_tokens"}


def detect(sample: Sample) -> bool:
    if not sample.has("prompt", "completion", "reward"):
        return False
    return sample.has("example_id") or sample.has("id", "generation_ms") or sample.has("id", "task", "answer")


def read(samples: Sequence[Sample], options: Options, errors: ReadErrors) -> Log:
    counts = {"errors": 0, "rows": 0, "inferred": 0}
    frame = store_records(_rows(samples, options, errors, counts))
    notes = _promises(samples, counts["rows"])
    if counts["errors"]:
        notes.append(
            f"{format_count(counts['errors'], 'rollout')} ended in an error: counted, and kept out of every share and "
            "mean. The log gives them a reward of 0, which judges nothing."
        )
    if len(samples) > 1:
        notes.append(f"{len(samples)} result files were read; groups never span two files.")
    log = make_log(
        "verifiers",
        "verifiers' results file",
        frame,
        samples=samples,
        coverage=Coverage(
            group_identity="inferred from the prompt text" if counts["inferred"] else "given",
            reward_is="reward, the weighted sum that the rubric gave",
            notes=tuple(notes),
        ),
        why={"correct": "the results file holds rewards, not a verdict", "policy_version": "the file does not name it"},
    )
    return apply_outcome(log, options)


def _rows(
    samples: Sequence[Sample], options: Options, errors: ReadErrors, counts: dict[str, int]
) -> Iterator[dict[str, Any]]:
    numbered = {sample.file for sample in samples if _ids_repeat(sample)}
    for sample, line, record in iterate_objects(samples, errors):
        if "reward" not in record and "example_id" not in record:
            errors.add(sample.file, line, "none of the fields reward, example_id")
            continue
        counts["rows"] += 1
        prompt = record.get("prompt")
        example = record.get("example_id")
        if example is None and sample.file in numbered:
            example = record.get("id")
        if example is None:
            counts["inferred"] += 1
            example = hash_content([prompt, record.get("answer")])
        env = record.get("env_name") or record.get("task") or ""
        reward = as_float(record.get("reward"))
        if reward is None and record.get("reward") is not None:
            errors.add(sample.file, line, f"reward is {str(record['reward'])[:40]!r}, not a number; left empty")
        row: dict[str, Any] = {
            "split": find_split(sample.place) or "eval",
            "iteration": find_step(sample.place.parent),
            "prompt_id": f"{env}/{example}",
            "group_id": f"{sample.name}/{env}/{example}",
            "answer": flatten_text(record.get("answer")) if record.get("answer") not in (None, "") else None,
            "source": env or None,
            "outcome_reward": reward,
            "finish_reason": record.get("stop_condition"),
            "advantage": read_number(record.get("advantage")),
            **_lengths(record),
            **_parts(record),
        }
        if isinstance(record.get("is_truncated"), bool):
            row["truncated"] = record["is_truncated"]
        if record.get("error"):
            counts["errors"] += 1
            text = json.dumps(record["error"], default=str).lower()
            row |= {"outcome": "timeout" if "timeout" in text else "error", "outcome_reward": None}
        completion = get_assistant_text(record.get("completion"))
        row["completion_chars"] = None if completion is None else len(completion)
        if options.text:
            row |= {"prompt": flatten_text(prompt), "completion": completion}
        yield row


def _ids_repeat(sample: Sample) -> bool:
    """Whether the `id` of an old file repeats: then it identifies examples. If every row has its own, the prompt
    identifies them."""
    if sample.has("example_id") or not sample.has("id"):
        return False
    seen: set[str] = set()
    for _, _, record in iterate_objects([sample], ReadErrors()):
        own = hash_content(record.get("id"))
        if own in seen:
            return True
        seen.add(own)
    return False


def _lengths(record: dict[str, Any]) -> dict[str, Any]:
    usage = record.get("token_usage")
    if isinstance(usage, dict):
        return {
            "completion_tokens": read_number(usage.get("output_tokens")),
            "prompt_tokens": read_number(usage.get("input_tokens")),
        }
    flat = {**_dict(record.get("metrics")), **record}
    return {
        name: read_number(flat[name])
        for name in ("completion_tokens", "prompt_tokens")
        if read_number(flat.get(name)) is not None
    }


def _parts(record: dict[str, Any]) -> dict[str, float | None]:
    """Metrics as reward components: the `metrics` object, or the top-level numbers of older files."""
    metrics = _dict(record.get("metrics")) or {name: value for name, value in record.items() if name not in KNOWN}
    return {
        REWARD_PART + name: read_number(value)
        for name, value in metrics.items()
        if read_number(value) is not None and name not in LENGTHS
    }


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _promises(samples: Sequence[Sample], rows: int) -> list[str]:
    """Whether metadata.json announces more rollouts than there are."""
    promised = 0
    for sample in samples:
        metadata = Path(sample.file).parent / "metadata.json"
        if not metadata.is_file():
            return []
        try:
            values = json.loads(metadata.read_text(encoding="utf-8", errors="replace"))
            promised += int(values["num_examples"]) * int(values["rollouts_per_example"])
        except (ValueError, KeyError, TypeError, OverflowError, OSError):
            return []
    if rows < promised < MAX_PROMISED:
        return [
            f"metadata.json promises {promised:,} rollouts and the file holds {rows:,}: the evaluation did not finish."
        ]
    return []


FORMAT = Format(
    name="verifiers",
    title="verifiers results",
    where="outputs/evals/…/results.jsonl (+ metadata.json)",
    shows="rewards, metrics, errors, truncation where logged, groups by example_id",
    cannot="token counts in older files; advantages",
    detect=detect,
    read=read,
    options=("outcome",),
)
