"""A reward that a random model meets about half the time; free of torch, for verifier workers."""

from __future__ import annotations

from onedial.core.types import Prompt


def early(prompt: Prompt, completion: str) -> bool:
    """Whether the first character stands early in the alphabet."""
    return completion[:1] != "" and ord(completion[0]) < 100
