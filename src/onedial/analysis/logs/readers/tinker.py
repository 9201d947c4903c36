"""tinker-cookbook: iteration_000012/train_rollout_summaries.jsonl, one trajectory per line, without text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from onedial.analysis.logs.formats import Format, Sample
from onedial.analysis.logs.reader_options import Options
from onedial.analysis.logs.readers.common import make_log
from onedial.analysis.logs.readers.reward_choice import apply_outcome
from onedial.analysis.logs.readers.rows import as_float, as_list, iterate_objects, read_number
from onedial.analysis.logs.schema import REWARD_PART, Coverage, Log
from onedial.analysis.logs.store import store_records
from onedial.core.tables.read_errors import ReadErrors


def detect(sample: Sample) -> bool:
    return sample.has("group_idx", "traj_idx", "total_reward")


def read(samples: Sequence[Sample], options: Options, errors: ReadErrors) -> Log:
    log = make_log(
        "tinker",
        "tinker's rollout summary",
        store_records(_rows(samples, errors)),
        samples=samples,
        coverage=Coverage(
            survivors_only=None,
            reward_is="total_reward, any format term included",
            notes=(
                "The log holds no text and no prompt identity: a prompt cannot be followed from one iteration to the "
                "next, and no per-prompt solve rate or plan can be made from it.",
            ),
        ),
        why={
            **dict.fromkeys(("prompt", "completion", "completion_chars", "answer"), "tinker's summaries hold no text"),
            "prompt_id": "tinker's summaries number the groups of one iteration and do not name the prompt",
            "truncated": "tinker's summaries do not say why an answer ended",
        },
    )
    return apply_outcome(log, options)


def _rows(samples: Sequence[Sample], errors: ReadErrors) -> Iterator[dict[str, Any]]:
    for sample, line, record in iterate_objects(samples, errors):
        if "group_idx" not in record or "total_reward" not in record:
            errors.add(sample.file, line, "none of the fields group_idx, total_reward")
            continue
        steps = [step for step in as_list(record.get("steps")) if isinstance(step, dict)]
        metrics = record.get("trajectory_metrics") if isinstance(record.get("trajectory_metrics"), dict) else {}
        split, tags = str(record.get("split") or ""), record.get("tags")
        row: dict[str, Any] = {
            "split": "train" if split.startswith("train") else "eval" if split else None,
            "iteration": record.get("iteration"),
            "group_id": f"{sample.name}/{split}/{record.get('iteration')}/{record['group_idx']}",
            "rollout_index": record.get("traj_idx"),
            "outcome_reward": as_float(record.get("total_reward")),
            "policy_version": record.get("sampling_client_step"),
            "source": str(tags[0]) if isinstance(tags, list) and tags else None,
        }
        if steps and all(read_number(step.get("ac_len")) is not None for step in steps):
            row["completion_tokens"] = sum(step["ac_len"] for step in steps)
            row["prompt_tokens"] = read_number(steps[0].get("ob_len"))
        for name, value in (metrics or {}).items():
            if as_float(value) is not None:
                row[REWARD_PART + str(name)] = as_float(value)
        if (metrics or {}).get("correct") in (0, 1):
            row["correct"] = bool((metrics or {})["correct"])
        yield row


FORMAT = Format(
    name="tinker",
    title="tinker rollout summaries",
    where="iteration_*/*_rollout_summaries.jsonl",
    shows="groups, rewards, metrics, lengths",
    cannot="text, prompt identity across iterations, truncation",
    detect=detect,
    read=read,
    options=("outcome",),
)
