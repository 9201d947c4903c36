"""A data file and a reward function with TRL's signature, as they are.

    python examples/custom_reward.py
    onedial train mixed_grpo --task examples/capitals.jsonl --task.reward examples/custom_reward.py:short_and_right

A reward function takes lists (prompts, completions, and every column of the file that it names) and returns a list of
numbers. It runs in processes that are killed when they hang; if it raises, that is recorded and is no reward of 0.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import onedial

DATA = Path(__file__).with_name("capitals.jsonl")


def short_and_right(completions: list[Any], answer: list[str], **columns: Any) -> list[float]:
    """1 for the bare name; less, the longer the text around it; 0 without the name."""
    rewards = []
    for completion, name in zip(completions, answer, strict=True):
        text = completion[0]["content"].strip().rstrip(".")
        rewards.append(len(name) / len(text) if name in text else 0.0)
    return rewards


def main() -> None:
    """Trains with the reward function."""
    parser = argparse.ArgumentParser(description="train with a reward function of one's own")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--out", default="", help="run directory")
    args = parser.parse_args()
    run = onedial.Run(
        model=args.model,
        task=str(DATA),
        task_options={"reward": short_and_right},
        iterations=args.iterations,
        out=args.out,
        max_new_tokens=16,
        eval_prompts=10,
    )
    result = onedial.train(run)
    if result.before and result.after:
        print(f"mean reward {result.before.reward_mean:.3f} → {result.after.reward_mean:.3f} ({result.directory})")


if __name__ == "__main__":
    main()
