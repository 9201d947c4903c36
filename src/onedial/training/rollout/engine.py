"""What training asks of anything that generates: submit requests, poll for finished rows, load weights."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from onedial.core.types import Completion


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. temperature 0 is greedy; top_p 1 and top_k 0 switch the filters off."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 256


@dataclass(frozen=True)
class Request:
    """Completions wanted of one prompt: one row per seed. `key` comes back with each of them."""

    key: Any
    prompt_tokens: Sequence[int]
    seeds: tuple[int, ...]
    sampling: Sampling


@dataclass(frozen=True)
class Finished:
    """A completed row: the request's key, the row's index among the request's seeds, and what was written."""

    key: Any
    index: int
    completion: Completion


class Engine(Protocol):
    """Writes completions. `version` is the number of optimiser steps behind the weights in use."""

    version: int

    def submit(self, request: Request) -> None:
        """Queues a request; raises DataError when the prompt leaves no room in the context."""
        ...

    def poll(self) -> list[Finished]:
        """Does a little work and returns what finished; empty when nothing did."""
        ...

    @property
    def pending(self) -> int:
        """Rows submitted and not yet returned."""
        ...

    def load_weights(self, model: Any, version: int) -> None:
        """Takes the model's present weights; rows under way go on with them."""
        ...


def seed_of(*path: object) -> int:
    """A 64-bit seed from a path such as (run seed, purpose, iteration, prompt id, rollout index)."""
    text = "/".join(str(part) for part in path)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
