"""NeMo-RL: train_data_step12.jsonl and val_data_step10.jsonl; every value is a list with one element.

There is no group id; the prompt is identified by the tokens before the first trained token. With dynamic sampling,
`rewards` belongs to the batch before filtering and may not match the rows. `filtered_rewards` matches them, and silent
groups are already removed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from onedial.analysis.logs.formats import Format, Sample
from onedial.analysis.logs.reader_options import Options
from onedial.analysis.logs.readers.common import make_log
from onedial.analysis.logs.readers.messages import flatten_text, hash_content
from onedial.analysis.logs.readers.rows import as_float, iterate_objects, read_numbers
from onedial.analysis.logs.schema import Coverage, Log
from onedial.analysis.logs.store import store_records
from onedial.core.tables.read_errors import ReadErrors


def detect(sample: Sample) -> bool:
    return sample.has("content", "rewards") and bool(
        sample.columns & {"token_loss_mask", "input_lengths", "generation_logprobs"} or sample.has("idx")
    )


def read(samples: Sequence[Sample], options: Options, errors: ReadErrors) -> Log:
    counts = {"filtered": 0, "nameless": 0}
    frame = store_records(_rows(samples, options, errors, counts))
    notes = ["Groups are inferred: rows of one step with the same prompt are taken as one group."]
    if counts["filtered"]:
        notes.insert(
            0,
            "Dynamic sampling was on: `rewards` belongs to the batch before filtering and does not match the rows, so "
            "`filtered_rewards` was read; silent groups were dropped before the log was written.",
        )
    if counts["nameless"]:
        notes.append(f"{counts['nameless']:,} rows have neither tokens nor messages to tell the prompt by.")
    return make_log(
        "nemo-rl",
        "NeMo-RL",
        frame,
        samples=samples,
        coverage=Coverage(
            survivors_only=bool(counts["filtered"]),
            group_identity="inferred from the prompt text" if not counts["nameless"] else "none",
            reward_is="filtered_rewards" if counts["filtered"] else "rewards",
            notes=tuple(notes),
        ),
        why=dict.fromkeys(("truncated", "finish_reason"), "NeMo-RL does not log why an answer ended"),
    )


def _one(value: Any) -> Any:
    """The only element of a list; any other value unchanged."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _rows(
    samples: Sequence[Sample], options: Options, errors: ReadErrors, counts: dict[str, int]
) -> Iterator[dict[str, Any]]:
    for sample, line, record in iterate_objects(samples, errors):
        if "content" not in record and "rewards" not in record:
            errors.add(sample.file, line, "none of the fields content, rewards")
            continue
        evaluation = sample.file.name.startswith("val")
        step = re.search(r"step([0-9]{1,18})", sample.file.name)
        filtered = record.get("filtered_rewards") is not None
        counts["filtered"] += filtered
        row: dict[str, Any] = {
            "split": "eval" if evaluation else "train",
            "iteration": int(step.group(1)) if step else None,
            "rollout_index": None,
            "outcome_reward": as_float(_one(record.get("filtered_rewards" if filtered else "rewards"))),
        }
        content = _one(record.get("content"))
        prompt = _tokens(record, row) or _messages(content, row, options)
        if prompt is None:
            counts["nameless"] += 1
        else:
            row["prompt_id"] = prompt
            row["group_id"] = f"{Path(sample.name).parent}/{row['split']}/{row['iteration']}/{prompt}"
        if options.text and isinstance(content, str):
            row["completion"] = content  # the whole conversation; its prompt is not marked in the text
        yield row


def _tokens(record: dict[str, Any], row: dict[str, Any]) -> str | None:
    """The identity of the prompt and the lengths, from the loss mask; None without tokens."""
    tokens, mask = _one(record.get("token_ids")), _one(record.get("token_loss_mask"))
    if not (isinstance(tokens, list) and isinstance(mask, list) and tokens and any(mask)):
        return None
    first = next(i for i, bit in enumerate(mask) if bit)
    row["completion_tokens"], row["prompt_tokens"] = sum(bool(bit) for bit in mask), first
    logps, credit = _one(record.get("generation_logprobs")), _one(record.get("advantages"))
    values = read_numbers(logps)
    if isinstance(logps, list) and len(logps) == len(values) == len(mask):
        row["mean_logp"] = sum(p for p, bit in zip(values, mask, strict=True) if bit) / row["completion_tokens"]
    row["advantage"] = as_float(credit[first] if isinstance(credit, list) and len(credit) > first else credit)
    if as_float(_one(record.get("sample_loss_mask"))) == 0:
        row["status"] = "masked"
    return hashlib.sha256(str(tokens[:first]).encode()).hexdigest()[:16]


def _messages(content: Any, row: dict[str, Any], options: Options) -> str | None:
    """The identity of the prompt, from the messages before the last answer; None if the content is a single text."""
    if not (isinstance(content, list) and content and all(isinstance(item, dict) for item in content)):
        return None
    last = max((i for i, item in enumerate(content) if item.get("role") == "assistant"), default=len(content))
    first = min((i for i, item in enumerate(content) if item.get("role") == "assistant"), default=last)
    said = [item for item in content[first:] if item.get("role") == "assistant"]
    prompt = [{"role": item.get("role"), "content": item.get("content")} for item in content[:first]]
    if options.text:
        row |= {"prompt": flatten_text(prompt), "completion": flatten_text(said)}
    row["completion_chars"] = len(flatten_text(said) or "")
    return hashlib.sha256(hash_content(prompt).encode()).hexdigest()[:16]


FORMAT = Format(
    name="nemo-rl",
    title="NeMo-RL step data",
    where="train_data_step*.jsonl, val_data_step*.jsonl",
    shows="rewards, advantages, token counts, log-probabilities",
    cannot="group ids (inferred), truncation; with dynamic sampling, the silent groups",
    detect=detect,
    read=read,
)
