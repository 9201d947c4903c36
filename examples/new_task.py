"""A new task in ten lines: an object that makes prompts and judges completions.

    python examples/new_task.py
    onedial train mixed_grpo --task examples/new_task.py:Reverse --task.length 3

All randomness comes from `rng`, so that a prompt depends on its place in the run alone. Prompts for training and for
evaluation are kept apart by their content.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from random import Random

import onedial


@dataclass(frozen=True)
class Reverse:
    """Spell a word backwards."""

    name: str = "reverse"
    length: int = 4
    in_process: bool = True  # this check is quick and safe; without this line it runs in processes that can be killed

    def prompt(self, rng: Random) -> onedial.Prompt:
        """A random word."""
        word = "".join(rng.choices("abcdefgh", k=self.length))
        return onedial.Prompt(messages=({"role": "user", "content": f"Reverse: {word}"},), answer=word[::-1])

    def verify(self, prompt: onedial.Prompt, completion: str) -> onedial.Verdict:
        """Right when the last word is the answer; part of the reward for letters in the right place."""
        got = onedial.last_word(completion) or ""
        places = sum(a == b for a, b in zip(got, prompt.answer, strict=False)) / self.length
        right = got == prompt.answer
        return onedial.Verdict(1.0 if right else 0.5 * places, correct=right, answer=got)


def main() -> None:
    """Trains on the new task."""
    parser = argparse.ArgumentParser(description="train on a task of one's own")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--iterations", type=int, default=30)
    parser.add_argument("--out", default="", help="run directory")
    args = parser.parse_args()
    run = onedial.Run(
        model=args.model, task=Reverse(), iterations=args.iterations, out=args.out, max_new_tokens=12, eval_prompts=50
    )
    result = onedial.train(run)
    if result.before and result.after:
        print(f"mean reward {result.before.reward_mean:.3f} → {result.after.reward_mean:.3f} ({result.directory})")


if __name__ == "__main__":
    main()
