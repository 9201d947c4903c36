"""What is known about a prompt before anything is sampled, as named numbers that prompts share.

A belief about solve rates learns one weight per name, so that a prompt that was never sampled is predicted from others
that were. The features are level and source, the length of the text, the numbers in it, and the embedding that a caller
may supply.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from onedial.core.types import Prompt

Features = Mapping[str, float]
Embed = Callable[[Prompt], Sequence[float]]


@dataclass(frozen=True)
class Described:
    """A prompt as a belief sees it: its id, and its features by name."""

    id: str
    features: Features


# Standard deviation of a weight before anything is known, in logits, by the first word of the feature's name.
PRIOR_STD = {"bias": 2.0, "level": 1.5, "source": 1.0, "operator": 0.5, "embedding": 1.0}
USUAL_STD = 0.7
_NUMBER = re.compile(r"\d{1,15}")
_OPERATORS = re.compile(r"[-+*/×÷−^%=]")
_USUAL_LENGTH = 100  # characters; lengths and sizes are measured in powers around usual values, to be of order 1


def describe_prompt(prompt: Prompt, embed: Embed | None = None) -> Described:
    """The id and the features of a prompt; a feature that is absent counts 0.

    The features: bias; level=…, source=…, operator=… (1 where it holds); length (log of characters); of the numbers in
    the text: their count, the largest and the smallest (log₁₀), the columns that carry when they are added, and of
    two or more numbers the last three once more for each level; embedding 0 … d − 1 scaled by 1/√d, where `embed` gives
    a vector.
    """
    features = text_features(str(prompt.meta.get("level", "all")), prompt.source, prompt.plain)
    if embed is not None:
        vector = [float(value) for value in embed(prompt)]
        scale = 1.0 / math.sqrt(max(1, len(vector)))
        features = {**features, **{f"embedding {i}": scale * value for i, value in enumerate(vector)}}
    return Described(prompt.id, features)


def prior_std(name: str) -> float:
    """Standard deviation of a feature's weight before anything is known, in logits."""
    return PRIOR_STD.get(re.split("[= ]", name, maxsplit=1)[0], USUAL_STD)


@lru_cache(maxsize=1 << 16)
def text_features(level: str, source: str, text: str) -> Features:
    """The features of a prompt's level, source and text, as `describe_prompt` lists them."""
    features = {"bias": 1.0, f"level={level}": 1.0, f"source={source}": 1.0}
    features["length"] = math.log((len(text) + 1) / _USUAL_LENGTH)
    features |= {f"operator={sign}": 1.0 for sign in sorted(set(_OPERATORS.findall(text)))}
    numbers = [int(digits) for digits in _NUMBER.findall(text)]
    if numbers:
        sizes = {
            "numbers": math.log2(len(numbers)) - 1.0,
            "largest": math.log10(1 + max(numbers)) - 1.0,
            "smallest": math.log10(1 + min(numbers)) - 1.0,
            "carries": float(count_carries(numbers[:8])),
        }
        features |= sizes
        if len(numbers) > 1:
            features |= {f"{name} of {level}": value for name, value in sizes.items() if name != "numbers"}
    return features


def count_carries(numbers: Sequence[int]) -> int:
    """Columns that carry when the numbers are added by hand: 1 for 27 + 35, 2 for 97 + 35."""
    carry = columns = 0
    while carry or any(numbers):
        carry = (sum(number % 10 for number in numbers) + carry) // 10
        columns += carry > 0
        numbers = [number // 10 for number in numbers]
        if not any(numbers):
            break
    return columns
