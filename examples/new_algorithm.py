"""A new algorithm: change one cell of a row, or put a function in it.

    python examples/new_algorithm.py

The baseline here is the median of the group instead of its mean: with 0/1 rewards the majority then gets advantage 0,
and only the minority of a group teaches. Rewards of groups of one size come as (N, G), baselines go back as (N, 1).
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch

import onedial


def median(rewards: torch.Tensor) -> torch.Tensor:
    """(N, G) → (N, 1): the lower of the two middle rewards where G is even."""
    return rewards.median(dim=1, keepdim=True).values


MINE = replace(onedial.ALGORITHMS["dr_grpo"], name="median_grpo", baseline=median)


def main() -> None:
    """Trains with the new row."""
    parser = argparse.ArgumentParser(description="train with a median baseline")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--iterations", type=int, default=30)
    parser.add_argument("--out", default="", help="run directory")
    args = parser.parse_args()
    result = onedial.train(
        onedial.Run(
            model=args.model,
            task="arithmetic",
            algorithm=MINE,
            iterations=args.iterations,
            out=args.out,
            max_new_tokens=10,
            eval_prompts=50,
        )
    )
    if result.before and result.after:
        print(f"held-out accuracy {result.before.avg.value:.1%} → {result.after.avg.value:.1%} ({result.directory})")


if __name__ == "__main__":
    main()
