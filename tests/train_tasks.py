"""Tasks for the training tests; free of torch, so that verifier workers start at once."""

from __future__ import annotations

import time
from dataclasses import dataclass
from random import Random

from onedial.core.types import Prompt, Verdict


@dataclass(frozen=True)
class Early:
    """Right when the completion's first character stands early in the alphabet: learnable by a random model."""

    name: str = "early"

    def prompt(self, rng: Random) -> Prompt:
        return Prompt(text=f"word {rng.randrange(10_000)}:", answer="a")

    def verify(self, prompt: Prompt, completion: str) -> Verdict:
        good = completion[:1] != "" and ord(completion[0]) < 80
        return Verdict(float(good), correct=good, answer=completion[:1], outcome="correct" if good else "wrong")


@dataclass(frozen=True)
class Broken(Early):
    """Raises on some completions and hangs on others."""

    name: str = "broken"

    def verify(self, prompt: Prompt, completion: str) -> Verdict:
        if completion[:1] < "4":
            raise RuntimeError("judge fell over")
        if completion[:1] > "÷":
            time.sleep(60)
        return super().verify(prompt, completion)


@dataclass(frozen=True)
class Impossible(Early):
    """Nothing is ever right."""

    name: str = "impossible"

    def verify(self, prompt: Prompt, completion: str) -> Verdict:
        return Verdict(0.0, correct=False, outcome="wrong")


def early(completions: list[str], **columns: object) -> list[float]:
    """`Early` as a reward function in TRL's style, for prompts that come from a file."""
    return [float(text[:1] != "" and ord(text[0]) < 80) for text in completions]


@dataclass(frozen=True)
class HalfImpossible(Early):
    """Nothing is ever right on prompts with an odd number: their groups are silent."""

    name: str = "half_impossible"

    def verify(self, prompt: Prompt, completion: str) -> Verdict:
        odd = int(prompt.plain.split()[1].rstrip(":")) % 2 == 1
        return Verdict(0.0, correct=False, outcome="wrong") if odd else super().verify(prompt, completion)
