"""Logs in every format, generated from a plain list of rollouts, and the figures of that list by dict loops.

The writers below follow the trainers' own writers field by field; onedial's run folder is written by onedial's own
writers, and nothing else here uses onedial.
"""

from __future__ import annotations

import json
import math
import random
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


@dataclass(frozen=True)
class Row:
    """One rollout as the oracle knows it; reward None = unusable."""

    iteration: int
    prompt: int
    index: int
    reward: float | None
    tokens: int
    error: bool = False

    @property
    def text(self) -> str:
        return f"Prompt number {self.prompt}: what is {self.prompt} + 1?"

    @property
    def completion(self) -> str:
        return f"answer {self.iteration}-{self.prompt}-{self.index} " + "x" * (self.tokens % 17)


def rollouts(
    seed: int = 0, *, iterations: int = 3, prompts: int = 7, ragged: bool = True, errors: bool = False
) -> list[Row]:
    """Groups of 1 to 6 rollouts (of 4 when not ragged): all right, all wrong and mixed ones, with lengths."""
    rng = random.Random(f"logs/{seed}")
    rows = []
    for iteration in range(1, iterations + 1):
        for prompt in range(prompts):
            rate = rng.choice([0.0, 0.0, 0.4, 0.7, 1.0])
            size = rng.randint(1, 6) if ragged else 4
            for index in range(size):
                error = errors and rng.random() < 0.15
                reward = None if error else float(rng.random() < rate)
                rows.append(Row(iteration, prompt, index, reward, rng.randint(3, 60), error))
    return rows


def expected(
    rows: Iterable[Row],
    key: Callable[[Row], Hashable] | None = None,
    *,
    prompt: Callable[[Row], Hashable] = lambda row: row.prompt,
) -> dict[str, Any]:
    """The key figures by dict loops over the rows; `prompt` is what the format names prompts by."""
    groups: dict[Hashable, list[Row]] = defaultdict(list)
    rows = list(rows)
    for row in rows:
        groups[key(row) if key else (row.iteration, row.prompt)].append(row)
    usable = {name: [row.reward for row in group if row.reward is not None] for name, group in groups.items()}
    sharing = {name: rewards for name, rewards in usable.items() if len(rewards) > 1}
    silent = {name: rewards for name, rewards in sharing.items() if max(rewards) == min(rewards)}
    right = [name for name, rewards in silent.items() if rewards[0] == 1.0]
    wrong = [name for name, rewards in silent.items() if rewards[0] == 0.0]
    rewards = [row.reward for row in rows if row.reward is not None]
    sizes: dict[str, int] = defaultdict(int)
    for group in groups.values():
        sizes[str(len(group))] += 1
    base = len(sharing)
    return {
        "rollouts": len(rows),
        "groups": len(groups),
        "group_sizes": dict(sizes),
        "groups_of_one": sum(len(values) < 2 for values in usable.values()),
        "mean_reward": sum(rewards) / len(rewards),
        "mixed_share": (base - len(silent)) / base,
        "all_correct_share": len(right) / base,
        "all_wrong_share": len(wrong) / base,
        "silent_other_share": (len(silent) - len(right) - len(wrong)) / base,
        "tokens_generated": sum(row.tokens for row in rows),
        "tokens_silent": sum(row.tokens for name in silent for row in groups[name]),
        "pass_at_k": passes(
            [(prompt(groups[name][0]), len(v), int(sum(x == 1.0 for x in v))) for name, v in usable.items() if v]
        ),
        "unusable": sum(row.reward is None for row in rows),
    }


def passes(counts: list[tuple[Hashable, int, int]]) -> dict[str, float]:
    """pass@k of (prompt, n, c) by the product form 1 − Π (1 − k/i), i = n−c+1 … n (Chen et al. 2021), not by binomials:
    averaged over the groups of each prompt, then over prompts."""
    top = max(n for _, n, _ in counts)
    ks = {2**i for i in range(20) if 2**i <= top} | {k for k in (1, 10, 100) if k <= top}
    if len({n for _, n, _ in counts}) == 1:
        ks.add(top)
    out = {}
    for k in sorted(ks):
        values: dict[Hashable, list[float]] = defaultdict(list)
        for prompt, n, c in counts:
            if n >= k:
                passed = 1.0 if n - c < k else 1.0 - math.prod(1.0 - k / i for i in range(n - c + 1, n + 1))
                values[prompt].append(passed)
        out[str(k)] = sum(sum(v) / len(v) for v in values.values()) / len(values)
    return out


def lines(path: Path, objects: Iterable[Any]) -> Path:
    """One JSON value a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(value) + "\n" for value in objects), encoding="utf-8")
    return path


def parquet(path: Path, columns: dict[str, Any]) -> Path:
    """A parquet file by pyarrow."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def by_iteration(rows: list[Row]) -> dict[int, list[Row]]:
    out: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        out[row.iteration].append(row)
    return out


def trl(folder: Path, rows: list[Row], *, second: bool = False) -> Path:
    """GRPOTrainer.log: completions/completions_{step:05d}.parquet."""
    for step, part in by_iteration(rows).items():
        columns: dict[str, Any] = {
            "step": [step] * len(part),
            "prompt": [row.text for row in part],
            "completion": [row.completion for row in part],
            "accuracy_reward": pa.array([row.reward for row in part], pa.float64()),
        }
        if second:
            columns["format_reward"] = [0.5 * (row.index % 2) for row in part]
        columns["advantage"] = [0.25 for _ in part]
        parquet(folder / "completions" / f"completions_{step:05d}.parquet", columns)
    return folder


def verl_legacy(folder: Path, rows: list[Row], *, acc: bool = False) -> Path:
    """RayPPOTrainer._write_generations: {step}.jsonl."""
    for step, part in by_iteration(rows).items():
        objects = []
        for row in part:
            entry = {
                "input": row.text,
                "output": row.completion,
                "gts": str(row.prompt + 1),
                "score": row.reward,
                "step": step,
            }
            if acc:
                entry |= {"score": (row.reward or 0.0) - 0.01 * row.tokens, "acc": bool(row.reward)}
            objects.append(entry)
        lines(folder / f"{step}.jsonl", objects)
    return folder


def verl_v1(folder: Path, rows: list[Row]) -> Path:
    """The V1 trainer: uid = {uuid}_{rollout}_{output}."""
    for step, part in by_iteration(rows).items():
        lines(
            folder / f"{step}.jsonl",
            (
                {
                    "input": row.text,
                    "output": row.completion,
                    "gts": None,
                    "score": row.reward,
                    "step": step,
                    "uid": f"5e_{step}-4f{row.prompt}_{row.index}_0",
                }
                for row in part
            ),
        )
    return folder


def episode(row: Row, *, kind: str = "train") -> dict[str, Any]:
    """verifiers v1 Episode.to_record(): the reward is 0.5 · (2·reward) + 0.25 · 0, and a null reward."""
    prompt, scaffold = 5, 2
    trace = {
        "version": 1,
        "id": f"t{row.iteration}{row.prompt}{row.index}",
        "task": {"type": "T", "data": {"idx": row.prompt, "prompt": row.text}},
        "agent": {"name": "agent", "trainable": True, "config": {}},
        "nodes": [
            {
                "message": {"role": "user", "content": row.text},
                "sampled": False,
                "token_ids": [1] * prompt,
                "mask": [False] * prompt,
            },
            {
                "parent": 0,
                "message": {"role": "assistant", "content": row.completion},
                "sampled": True,
                "token_ids": [2] * (scaffold + row.tokens),
                "mask": [False] * scaffold + [True] * row.tokens,
                "logprobs": [-0.5] * row.tokens,
                "advantages": [0.1] * row.tokens,
            },
        ],
        "rewards": {
            "solved": {"score": 2 * (row.reward or 0.0), "weight": 0.5},
            "extra": {"score": 0.0, "weight": 0.25},
            "later": None,
        },
        "metrics": {"turns": 1.0},
        "is_completed": True,
        "ok": not row.error,
        "stop_condition": "max_turns" if row.tokens > 50 else "done",
        "errors": [{"type": "ProviderError", "message": "boom"}] if row.error else [],
    }
    return {
        "id": f"e{row.iteration}{row.prompt}{row.index}",
        "env": {"id": "gsm8k", "name": "gsm8k"},
        "task": trace["task"],
        "group": {"id": f"g{row.iteration}-{row.prompt}"},
        "run": {
            "type": "train",
            "id": "r",
            "work": {"type": kind, "step": row.iteration, "policy": {"start": 3, "end": 4}},
        },
        "ok": not row.error,
        "errors": trace["errors"],
        "traces": [trace],
    }


def prime_rl(folder: Path, rows: list[Row]) -> Path:
    """FileMonitor.log_episodes: rollouts/step_N/{train,eval}/{all,effective}/traces.jsonl."""
    for step, part in by_iteration(rows).items():
        base = folder / "rollouts" / f"step_{step}"
        lines(base / "train" / "all" / "traces.jsonl", (episode(row) for row in part))
        lines(base / "train" / "effective" / "traces.jsonl", (episode(row) for row in part[::2]))
        lines(base / "eval" / "all" / "traces.jsonl", (episode(row, kind="eval") for row in part[:2]))
    return folder


def verifiers(folder: Path, rows: list[Row], *, promised: int | None = None) -> Path:
    """vf-eval: results.jsonl and metadata.json (one round: iterations become more rollouts of other examples)."""
    objects = []
    for row in rows:
        entry: dict[str, Any] = {
            "example_id": row.iteration * 1000 + row.prompt,
            "prompt": [{"role": "user", "content": row.text}],
            "completion": [{"role": "assistant", "content": row.completion}],
            "task": "default",
            "reward": row.reward if row.reward is not None else 0.0,
            "timing": {},
            "is_completed": True,
            "is_truncated": row.tokens > 50,
            "metrics": {"correct_answer": row.reward, "num_turns": 1.0},
            "token_usage": {"input_tokens": 7.0, "output_tokens": float(row.tokens)},
        }
        if row.error:
            entry["error"] = {"error": "ModelError", "error_chain_repr": "ModelError()"}
        objects.append(entry)
    lines(folder / "results.jsonl", objects)
    (folder / "metadata.json").write_text(
        json.dumps({"env_id": "e", "num_examples": promised or len(rows), "rollouts_per_example": 1})
    )
    return folder


def open_instruct(folder: Path, rows: list[Row], *, full: float = 10.0) -> Path:
    """open_instruct.rl_utils._save_rollouts."""
    lines(folder / "run_metadata.jsonl", [{"run_name": "run", "git_commit": "x", "model_name": "m", "timestamp": "t"}])
    lines(
        folder / "run_rollouts_000000.jsonl",
        (
            {
                "step": row.iteration,
                "sample_idx": i,
                "prompt_idx": row.prompt,
                "prompt_tokens": [row.prompt, 1, 2],
                "response_tokens": list(range(row.tokens)),
                "reward": full * (row.reward or 0.0),
                "advantage": 0.5,
                "finish_reason": "length" if row.tokens > 50 else "stop",
                "dataset": "gsm8k",
                "ground_truth": [1, 2],
                "request_info": {"num_calls": 0},
                "logprobs": [-0.25] * row.tokens,
            }
            for i, row in enumerate(rows)
        ),
    )
    return folder


def tinker(folder: Path, rows: list[Row]) -> Path:
    """tinker_cookbook.rl.rollout_logging."""
    for step, part in by_iteration(rows).items():
        lines(
            folder / f"iteration_{step:06d}" / "train_rollout_summaries.jsonl",
            (
                {
                    "schema_version": 1,
                    "split": "train",
                    "iteration": step,
                    "group_idx": row.prompt,
                    "traj_idx": row.index,
                    "tags": ["math"],
                    "sampling_client_step": step,
                    "total_reward": row.reward,
                    "final_reward": 0.0,
                    "trajectory_metrics": {"format": 1.0},
                    "steps": [
                        {"step_idx": 0, "ob_len": 9, "ac_len": row.tokens - 1, "reward": 0.0, "episode_done": False},
                        {"step_idx": 1, "ob_len": 12, "ac_len": 1, "reward": row.reward, "episode_done": True},
                    ],
                    "final_ob_len": 20,
                }
                for row in part
            ),
        )
    return folder


def nemo(folder: Path, rows: list[Row], *, dynamic: bool = False) -> Path:
    """Logger.log_batched_dict_as_jsonl: every value is a list of one."""
    for step, part in by_iteration(rows).items():
        objects = []
        for i, row in enumerate(part):
            entry: dict[str, Any] = {
                "content": [row.text + row.completion],
                "rewards": [row.reward],
                "input_lengths": [3 + row.tokens],
                "token_ids": [[row.prompt, 7, 8, *range(row.tokens), 0, 0]],
                "token_loss_mask": [[0, 0, 0, *[1] * row.tokens, 0, 0]],
                "sample_loss_mask": [1.0],
                "advantages": [[0.5] * (row.tokens + 5)],
                "generation_logprobs": [[0.0] * 3 + [-0.125] * row.tokens + [0.0] * 2],
                "prev_logprobs": [[0.0] * (row.tokens + 5)],
                "idx": i,
            }
            if dynamic:
                entry |= {"filtered_rewards": [row.reward], "rewards": [part[-1 - i].reward]}
            objects.append(entry)
        lines(folder / f"train_data_step{step}.jsonl", objects)
    return folder


def swift(folder: Path, rows: list[Row], *, twice: bool = False) -> Path:
    """GRPOTrainer.log of ms-swift: a dict of lists per flush."""
    objects = []
    for step, part in by_iteration(rows).items():
        table = {
            "step": [str(step)] * len(part),
            "prompt": [row.text for row in part],
            "completion": [row.completion for row in part],
            "MathAccuracy": [row.reward for row in part],
            "advantages": [0.5 for _ in part],
            "entropy": [0.75 for _ in part],
        }
        objects.append(table)
        if twice:
            objects.append({**table, "step": [str(step + 100)] * len(part)})
    lines(folder / "completions.jsonl", objects)
    return folder


def onedial_run(folder: Path, rows: list[Row]) -> Path:
    """A run folder, rollouts/000001.parquet …, by the writers that training uses."""
    from onedial.core.run_log import TrainingSignal, append_json, write_rollouts

    folder.mkdir(parents=True, exist_ok=True)
    for step, part in by_iteration(rows).items():
        groups = [_group(step, members) for members in by_prompt(part).values()]
        made = {
            (group.id, rollout.index): TrainingSignal(rollout.verdict.reward, 0.0)
            for group in groups
            for rollout in group.usable
        }
        write_rollouts(folder, step, groups, {group.id: "trained" for group in groups}, made)
    append_json(folder / "metrics.jsonl", {"iteration": 1, "reward_mean": 0.5, "correct_share": 0.5})
    (folder / "run.toml").write_text('name = "x"\n')
    return folder


def _group(step: int, rows: list[Row]) -> Any:
    from onedial.core.types import Group, Prompt

    prompt = Prompt(text=rows[0].text, answer=rows[0].prompt + 1, source="arithmetic")
    rollouts = tuple(_rollout(step, row) for row in rows)
    return Group(prompt, rollouts, iteration=step, position=step * 1000 + rows[0].prompt, prompt_tokens=(1,) * 11)


def _rollout(step: int, row: Row) -> Any:
    from onedial.core.types import Completion, Rollout, Verdict

    finish = "length" if row.tokens > 50 else "stop"
    completion = Completion((1,) * row.tokens, (-0.5,) * row.tokens, finish, step, row.completion)
    if row.reward is None:
        return Rollout(row.index, completion, Verdict(0.0, outcome="timeout"))
    parts = {"answer": row.reward}
    outcome = "correct" if row.reward else "wrong"
    return Rollout(row.index, completion, Verdict(row.reward, bool(row.reward), outcome=outcome, parts=parts))


def by_prompt(rows: list[Row]) -> dict[int, list[Row]]:
    """The rows of each prompt, in order."""
    found: dict[int, list[Row]] = {}
    for row in rows:
        found.setdefault(row.prompt, []).append(row)
    return found


def table(rows: list[Row]) -> list[dict[str, Any]]:
    """Plain rows with names that people use."""
    return [
        {
            "step": row.iteration,
            "question_id": f"q{row.prompt}",
            "question": row.text,
            "response": row.completion,
            "is_correct": None if row.reward is None else bool(row.reward),
            "response_tokens": row.tokens,
        }
        for row in rows
    ]
