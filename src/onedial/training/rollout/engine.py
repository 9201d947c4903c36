"""The interface of an engine that generates: submit requests, poll for finished completions, load weights."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from onedial.core.types import Completion


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. temperature 0 is greedy; top_p 1 and top_k 0 turn the filters off."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 256


@dataclass(frozen=True)
class Request:
    """A request for completions of one prompt, one per seed. Each of them carries the `key` of the request."""

    key: Any
    prompt_tokens: Sequence[int]
    seeds: tuple[int, ...]
    sampling: Sampling


@dataclass(frozen=True)
class Finished:
    """A finished completion, with the request's key and the index of its seed in the request."""

    key: Any
    index: int
    completion: Completion


class Engine(Protocol):
    """Generates completions. `version` is the number of optimizer steps made before the weights in use."""

    version: int

    def submit(self, request: Request) -> None:
        """Queues a request; raises DataError when the prompt leaves no room in the context."""
        ...

    def poll(self) -> list[Finished]:
        """Does a small part of the work and returns what finished; empty if nothing did."""
        ...

    @property
    def pending(self) -> int:
        """Completions requested and not yet returned."""
        ...

    def load_weights(self, model: Any, version: int) -> None:
        """Uses the model's present weights; completions in progress continue with them."""
        ...


def derive_seed(*path: object) -> int:
    """A 64-bit seed from a path such as (run seed, purpose, iteration, prompt id, rollout index)."""
    text = "/".join(str(part) for part in path)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
