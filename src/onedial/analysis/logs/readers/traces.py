"""verifiers v1 and prime-rl: traces.jsonl, one episode per line (older versions: one trace per line).

The reward is not stored: it is Σ score · weight over the rewards that were computed. prime-rl writes
rollouts/step_N/{train,eval}/{all,effective}/traces.jsonl; `all` is read, and `effective` only where `all` is absent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from onedial.analysis.logs.formats import Format, Sample
from onedial.analysis.logs.reader_options import Options
from onedial.analysis.logs.readers.common import find_split, find_step, format_count, make_log
from onedial.analysis.logs.readers.messages import flatten_text, get_message_text, hash_content
from onedial.analysis.logs.readers.reward_choice import apply_outcome
from onedial.analysis.logs.readers.rows import as_float, as_list, iterate_objects, read_number, read_numbers
from onedial.analysis.logs.schema import REWARD_PART, Coverage, Log
from onedial.analysis.logs.store import store_records
from onedial.core.tables.read_errors import ReadErrors

LIMITS = ("max_turns", "max_input_tokens", "max_output_tokens", "max_total_tokens", "context_length")


def detect(sample: Sample) -> bool:
    return sample.has("task", "traces") or (sample.has("task", "nodes") and sample.has("rewards"))


def read(samples: Sequence[Sample], options: Options, errors: ReadErrors) -> Log:
    chosen, notes, only_effective = choose_samples(samples)
    counts = {"helpers": 0, "errors": 0}
    frame = store_records(_rows(chosen, options, errors, counts))
    if counts["helpers"]:
        notes.append(f"{format_count(counts['helpers'], 'trace')} of agents that do not train were left out.")
    if counts["errors"]:
        notes.append(
            f"{format_count(counts['errors'], 'rollout')} ended in an error or a timeout: counted, and kept out of "
            "every share and mean, since its reward judges nothing."
        )
    prime = any("rollouts" in sample.place.parts for sample in chosen)
    log = make_log(
        "prime-rl" if prime else "verifiers-v1",
        "the trace",
        frame,
        samples=chosen,
        coverage=Coverage(
            survivors_only=None if only_effective else False,
            group_identity="given",
            reward_is="the sum of score × weight over the rewards that were computed",
            notes=tuple(notes),
        ),
        why={"entropy": "traces hold no entropies", "correct": "traces hold rewards, not a verdict"},
    )
    return apply_outcome(log, options)


def choose_samples(samples: Sequence[Sample]) -> tuple[list[Sample], list[str], bool]:
    """prime-rl's `all` files if the split has any, else its `effective` files; notes; and whether only survivors of a
    filter are left."""
    has_all = {find_split(s.place.parent.parent) for s in samples if s.place.parent.name == "all"}
    dropped = [
        s for s in samples if s.place.parent.name == "effective" and find_split(s.place.parent.parent) in has_all
    ]
    kept = [s for s in samples if s not in dropped]
    only = any(s.place.parent.name == "effective" and find_split(s.place.parent.parent) == "train" for s in kept)
    notes = []
    if dropped:
        notes.append("`all` was read, which holds every rollout; `effective` repeats a part of it and was left out.")
    if only:
        notes.append(
            "Only `effective` was found: rollouts with errors, and any that a filter dropped, are missing. Shares of "
            "silent groups need `all`."
        )
    return kept, notes, only


def _rows(
    samples: Sequence[Sample], options: Options, errors: ReadErrors, counts: dict[str, int]
) -> Iterator[dict[str, Any]]:
    for sample, line, record in iterate_objects(samples, errors):
        if not isinstance(record.get("task"), dict) or not isinstance(record.get("traces", record.get("nodes")), list):
            errors.add(sample.file, line, "no episode: the fields task and traces (or nodes) are missing")
            continue
        place = _place(sample, record)
        traces = record.get("traces", [record])
        traces = [trace for trace in traces if isinstance(trace, dict)]
        mine = [trace for trace in traces if _agent(trace).get("trainable", True) is not False]
        counts["helpers"] += len(traces) - len(mine)
        if not traces:  # the episode failed before an agent began
            counts["errors"] += 1
            yield {**place, "group_id": place["group_id"], "outcome": _failure(record)}
        names = {hash_content(_agent(trace).get("name")) for trace in mine}
        for trace in mine:
            row = _row(trace, options)
            if row.get("outcome") in ("error", "timeout"):
                counts["errors"] += 1
            suffix = f"/{_agent(trace).get('name')}" if len(names) > 1 else ""
            yield {**place, **row, "group_id": place["group_id"] + suffix}


def _agent(trace: dict[str, Any]) -> dict[str, Any]:
    agent = trace.get("agent")
    return agent if isinstance(agent, dict) else {}


def _place(sample: Sample, record: dict[str, Any]) -> dict[str, Any]:
    """Split, iteration, prompt and group of an episode."""
    task, run = record["task"], record.get("run") if isinstance(record.get("run"), dict) else {}
    data = task.get("data") if isinstance(task.get("data"), dict) else task
    work = (run or {}).get("work") if isinstance((run or {}).get("work"), dict) else {}
    env = record.get("env") if isinstance(record.get("env"), dict) else {}
    name = (env or {}).get("name") or (env or {}).get("id") or record.get("env_name")
    identity = task.get("key") or task.get("hash") or data.get("idx")
    prompt = data.get("prompt", data.get("question"))
    identity = hash_content(prompt if identity is None else identity)
    split = (work or {}).get("type") or record.get("kind") or (run or {}).get("type") or find_split(sample.place)
    step = (work or {}).get("step", record.get("eval_step", find_step(sample.place)))
    group = record.get("group")
    group_id = group.get("id") if isinstance(group, dict) else record.get("group_id", group)
    policy = (work or {}).get("policy")
    return {
        "split": {"train": "train", "eval": "eval"}.get(
            str(split), "eval" if "rollouts" not in sample.place.parts else None
        ),
        "iteration": step if isinstance(step, int) else find_step(sample.place),
        "prompt_id": f"{name}/{identity}" if name else identity,
        "group_id": str(group_id) if group_id else f"{Path(sample.name).parent}/{name}/{identity}",
        "source": name,
        "answer": _text(data.get("answer")),
        "policy_version": policy.get("start") if isinstance(policy, dict) else record.get("policy_version"),
    }


def _text(value: Any) -> str | None:
    return None if value is None else flatten_text(value) if isinstance(value, str | list | dict) else str(value)


def _failure(record: dict[str, Any]) -> str:
    errors = record.get("errors") or [record.get("error")]
    last = errors[-1] if isinstance(errors, list) and errors else errors
    text = f"{last.get('type', '')} {last.get('message', '')}" if isinstance(last, dict) else str(last)
    return "timeout" if "timeout" in text.lower().replace(" ", "") else "error"


def _row(trace: dict[str, Any], options: Options) -> dict[str, Any]:
    """One trace as a row: reward and its parts, lengths, how it ended."""
    rewards = trace.get("rewards") if isinstance(trace.get("rewards"), dict) else {}
    parts = {name: value for name, value in (rewards or {}).items() if value is not None}
    values = {name: read_reward(value) for name, value in parts.items()}
    known = [value for value in values.values() if value is not None]
    failed = trace.get("ok") is False or ("ok" not in trace and bool(trace.get("errors") or trace.get("error")))
    row: dict[str, Any] = {REWARD_PART + name: value for name, value in values.items()} if len(values) > 1 else {}
    row |= _lengths(trace)
    if failed:
        row["outcome"] = _failure(trace)
    elif known:
        row["outcome_reward"] = sum(known)
    elif as_float(trace.get("reward")) is not None:
        row["outcome_reward"] = as_float(trace["reward"])
    if options.text:
        row |= _texts(trace)
    return row


def read_reward(reward: Any) -> float | None:
    """score · weight of one named reward (a bare number has weight 1)."""
    if isinstance(reward, dict):
        score, weight = as_float(reward.get("score")), as_float(reward.get("weight", 1.0))
        return None if score is None else score * (1.0 if weight is None else weight)
    return as_float(reward)


def _nodes(trace: dict[str, Any]) -> list[dict[str, Any]]:
    nodes = trace.get("nodes")
    return [node for node in nodes if isinstance(node, dict)] if isinstance(nodes, list) else []


def _lengths(trace: dict[str, Any]) -> dict[str, Any]:
    """Sampled tokens by the masks of the nodes (each node once, even if several branches share it), else by the
    reported usage."""
    nodes = _nodes(trace)
    masks = [node["mask"] for node in nodes if isinstance(node.get("mask"), list) and node["mask"]]
    calls = [call for call in as_list(trace.get("calls")) if isinstance(call, dict)]
    used = [call["usage"] for call in calls if isinstance(call.get("usage"), dict)]
    row: dict[str, Any] = {}
    if masks:
        row["completion_tokens"] = sum(sum(bool(bit) for bit in mask) for mask in masks)
        first = next((i for i, node in enumerate(nodes) if any(as_list(node.get("mask")))), len(nodes))
        row["prompt_tokens"] = sum(len(as_list(node.get("mask"))) for node in nodes[:first])
        if first < len(nodes):
            row["prompt_tokens"] += next(i for i, bit in enumerate(nodes[first]["mask"]) if bit)
    elif used:
        row["completion_tokens"] = sum(read_number(usage.get("completion_tokens")) or 0 for usage in used)
        row["prompt_tokens"] = read_number(used[0].get("prompt_tokens", used[0].get("input_tokens")))
    logps = [value for node in nodes for value in read_numbers(node.get("logprobs"))]
    credit = [value for node in nodes for value in read_numbers(node.get("advantages"))]
    if logps:
        row["mean_logp"] = sum(logps) / len(logps)
    if credit:
        row["advantage"] = sum(credit) / len(credit)
    last = next((call.get("finish_reason") for call in reversed(calls) if not call.get("error")), None)
    row["finish_reason"] = trace.get("stop_condition") or last
    row["truncated"] = trace.get("stop_condition") in LIMITS or last == "length"
    return row


def _texts(trace: dict[str, Any]) -> dict[str, Any]:
    nodes = _nodes(trace)
    first = next((i for i, node in enumerate(nodes) if node.get("sampled")), len(nodes))
    prompt = [get_message_text(node["message"]) for node in nodes[:first] if isinstance(node.get("message"), dict)]
    said = [get_message_text(n["message"]) for n in nodes if n.get("sampled") and isinstance(n.get("message"), dict)]
    completion = "\n".join(said)
    return {"prompt": "\n".join(prompt), "completion": completion, "completion_chars": len(completion)}


FORMAT = Format(
    name="traces",
    title="verifiers v1 / prime-rl traces",
    where="…/traces.jsonl, rollouts/step_N/{train,eval}/all/traces.jsonl",
    shows="weighted rewards and their parts, exact token counts, advantages, errors, groups",
    cannot="entropy; with `effective` files alone, what was filtered out",
    detect=detect,
    read=read,
    options=("outcome",),
)
