"""A run directory on disk with the columns of our own log, for the tests of the page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl

HOSTILE = (
    "<script>document.documentElement.dataset.broken = 'yes'</script><img src=x onerror=\"document.documentElement"
    '.dataset.broken = 1"></script><!-- --><h1>Bold</h1> \x1b[31mred\x1b[0m \u202eesrever ]]> & &lt; \u2028 \x00 \ud83d'
)


def write_run(folder: Path, *, iterations: int = 5, prompts: int = 24, size: int = 8, hostile: bool = False) -> Path:
    """Writes rollouts/*.parquet, metrics.jsonl and eval.jsonl; answers are right with a rate that rises."""
    rng = np.random.default_rng(3)
    rates = rng.beta(0.6, 0.8, prompts)
    (folder / "rollouts").mkdir(parents=True)
    lines = []
    for step in range(1, iterations + 1):
        rows = []
        for prompt, rate in enumerate(np.clip(rates + 0.04 * step, 0, 1)):
            right = rng.random(size) < rate
            spread = right.std()
            for index, ok in enumerate(right):
                text = HOSTILE.encode("utf-8", "replace").decode() if hostile else f"Let me see… {prompt * 7}"
                rows.append(
                    {
                        "schema_version": 1,
                        "iteration": step,
                        "split": "train",
                        "group_id": f"{step:06d}-p{prompt}",
                        "prompt_id": f"p{prompt}",
                        "source": "arithmetic",
                        "level": "1",
                        "prompt": text if hostile else f"What is {prompt} times 7?",
                        "answer": str(prompt * 7),
                        "rollout_index": index,
                        "policy_version": step,
                        "completion": f"{text} The answer is {prompt * 7 if ok else prompt + index}.",
                        "finish_reason": "stop",
                        "prompt_tokens": 20,
                        "completion_tokens": int(20 + 30 * rng.random() + 10 * (not ok)),
                        "outcome": "correct" if ok else "wrong",
                        "correct": bool(ok),
                        "reward": float(ok),
                        "shaped_reward": float(ok),
                        "advantage": float((ok - right.mean()) / spread) if spread else None,
                        "parsed_answer": str(prompt * 7 if ok else prompt + index),
                        "detail": "",
                        "reward_parts": "{}",
                        "fate": "trained" if spread else "silent",
                    }
                )
        frame = pl.DataFrame(rows, schema_overrides={"advantage": pl.Float64})
        frame.write_parquet(folder / "rollouts" / f"{step:06d}.parquet")
        share = frame.get_column("correct").mean()
        lines.append(
            {"iteration": step, "reward_mean": share, "correct_share": share, "entropy": 1 / step, "generate_s": 2.5,
             "update_s": 1.0, "mixed_share": 0.6, "silent_right_share": 0.1 + 0.02 * step, "silent_wrong_share": 0.2,
             "grad_norm": 0.3}
        )  # fmt: skip
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"iteration": 6, "trunc', "utf-8")
    (folder / "eval.jsonl").write_text(
        '{"iteration": 0, "accuracy": 0.3}\n{"iteration": 5, "accuracy": 0.45}\n', "utf-8"
    )
    return folder
