"""The values that flow through onedial: prompts, completions, verdicts, rollouts, groups.

This module does not import torch, so that verifier workers start in milliseconds; tensors begin in
`onedial.core.batch`. A group may have any size ≥ 1.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Outcome = Literal["correct", "wrong", "unparseable", "timeout", "error"]
OUTCOMES: tuple[Outcome, ...] = ("correct", "wrong", "unparseable", "timeout", "error")
FinishReason = Literal["stop", "length"]
Message = Mapping[str, str]


@dataclass(frozen=True)
class Prompt:
    """One problem: what the policy reads and what the verifier needs.

    Give either plain `text` or chat `messages` ([{"role", "content"}, …]). `id` is a hash of the content, so that
    splits have no content in common and a prompt keeps its history if a file is reordered.
    """

    text: str = ""
    messages: tuple[Message, ...] = ()
    answer: Any = None
    source: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """16 hex digits of the SHA-256 of what the policy reads and the reference answer."""
        content = [self.text, [dict(message) for message in self.messages], self.answer]
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]

    @property
    def plain(self) -> str:
        """The prompt as text for logs and verifiers: `text`, or the contents of the messages, one per line."""
        return self.text or "\n".join(str(message["content"]) for message in self.messages)


@dataclass(frozen=True)
class Completion:
    """Tokens that the policy wrote, including the end-of-sequence token if it stopped by itself.

    `logps` are the engine's, in nats, of the distribution that was sampled from (temperature, top-p and top-k applied).
    `unfiltered_logps` are those before top-p and top-k, at the same temperature; empty if neither was used.
    `policy_version` is the number of optimizer steps made before.
    """

    token_ids: tuple[int, ...]
    logps: tuple[float, ...]
    finish_reason: FinishReason
    policy_version: int = 0
    text: str = ""
    unfiltered_logps: tuple[float, ...] = ()

    @property
    def policy_logps(self) -> tuple[float, ...]:
        """Log-probabilities under the policy itself, which training compares with: before top-p and top-k."""
        return self.unfiltered_logps or self.logps

    @property
    def truncated(self) -> bool:
        """Whether the length limit ended it, and not the policy."""
        return self.finish_reason == "length"


@dataclass(frozen=True)
class Verdict:
    """What a verifier says about one completion.

    `reward` is the outcome reward, before any shaping. `answer` is what was parsed. A `timeout` or `error` has no
    reward that may train (`usable` is False): it is removed from its group before any statistic is computed. `parts`
    names reward components, for logs.
    """

    reward: float
    correct: bool | None = None
    answer: str | None = None
    outcome: Outcome = "wrong"
    detail: str = ""
    parts: Mapping[str, float] = field(default_factory=dict)

    @property
    def usable(self) -> bool:
        """Whether the verdict judges the answer (True) or only says that judging failed (False)."""
        return self.outcome not in ("timeout", "error")


@dataclass(frozen=True)
class Rollout:
    """One completion of a prompt with its verdict; `index` numbers the rollouts of that prompt and iteration."""

    index: int
    completion: Completion
    verdict: Verdict


@dataclass(frozen=True)
class Group:
    """The rollouts of one prompt drawn once, any number ≥ 1, including unusable ones.

    `position` is the position of the prompt in the task's stream, unique within a run: a prompt drawn again makes
    another group.
    """

    prompt: Prompt
    rollouts: tuple[Rollout, ...]
    iteration: int = 0
    position: int = 0
    prompt_tokens: tuple[int, ...] = ()

    @property
    def id(self) -> str:
        """Unique within a run."""
        return f"{self.position:08d}-{self.prompt.id}"

    @property
    def usable(self) -> tuple[Rollout, ...]:
        """The rollouts whose verdict may enter a statistic."""
        return tuple(rollout for rollout in self.rollouts if rollout.verdict.usable)

    @property
    def rewards(self) -> list[float]:
        """Outcome rewards of the usable rollouts."""
        return [rollout.verdict.reward for rollout in self.usable]

    @property
    def mixed(self) -> bool:
        """Whether the outcome rewards differ: max ≠ min, never `std ≠ 0`, which rounding can produce."""
        rewards = self.rewards
        return bool(rewards) and max(rewards) != min(rewards)

    @property
    def num_tokens(self) -> int:
        """Completion tokens of all rollouts."""
        return sum(len(rollout.completion.token_ids) for rollout in self.rollouts)
