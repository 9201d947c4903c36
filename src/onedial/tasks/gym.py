"""reasoning-gym's generators, re-seeded, and split by content.

The library seeds item i of a data set with `seed + i`. Two data sets with neighbouring seeds, as its own training
examples use for train and validation, therefore share all items but one. Here every prompt has a seed of its own,
drawn from the task's seed path, and the prompt's content decides its split.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Any

from onedial.errors import ConfigError, MissingExtra, nearest
from onedial.tasks.task import HELD_OUT, EndlessSource
from onedial.types import Prompt, Verdict
from onedial.verify.verdict import Fields, PromptLike, judge, verdict_of
from onedial.verify.verifiers import tagged

WORDING = "{question}\nGive the final answer between <answer> and </answer>."


@dataclass(frozen=True)
class GymVerifier:
    """The library's `score_answer` as the reward (0 to 1); correct when it is 1."""

    dataset: str
    config: str = "{}"
    in_process: bool = False

    @property
    def name(self) -> str:
        """With the data set's name."""
        return f"reasoning_gym/{self.dataset}"

    def judge(self, prompt: PromptLike, completion: str, token_ids: Sequence[int] = ()) -> Fields:
        """The text in `<answer>` counts, or the whole completion without one; `unparseable` when that is empty."""
        answer = tagged(completion) if "</answer>" in completion else completion.strip()
        if not answer:
            return {"reward": 0.0, "correct": False, "outcome": "unparseable", "detail": "no answer"}
        score = _scorer(self.dataset, self.config).score_answer(answer=answer, entry=prompt.meta["entry"])
        return {"reward": score, "correct": score >= 1.0, "answer": answer}


@dataclass(frozen=True)
class Gym:
    """One generator of reasoning-gym with its configuration (JSON)."""

    dataset: str
    config: str = "{}"
    wording: str = WORDING

    @property
    def name(self) -> str:
        """With the data set's name, and its configuration where one is given, so that seeds differ."""
        return f"reasoning_gym/{self.dataset}" + (f"/{self.config}" if self.config != "{}" else "")

    def prompt(self, rng: Random) -> Prompt:
        """The only item of a data set made with a seed of its own."""
        entry = dict(_create(self.dataset, self.config, rng.getrandbits(31))[0])
        content = self.wording.replace("{question}", entry["question"])
        meta = {"level": self.dataset, "split_key": f"{self.dataset}/{entry['question']}", "entry": entry}
        return Prompt(
            messages=({"role": "user", "content": content},), answer=entry["answer"], source=self.name, meta=meta
        )

    def verify(self, prompt: Prompt, completion: str) -> Verdict:
        """See `GymVerifier`."""
        return verdict_of(judge(GymVerifier(self.dataset, self.config), prompt, completion))


@lru_cache(maxsize=16)
def _scorer(dataset: str, config: str) -> Any:
    return _create(dataset, config, 0)


def _create(dataset: str, config: str, seed: int) -> Any:
    return _library().create_dataset(dataset, seed=seed, size=1, **json.loads(config))


def _library() -> Any:
    try:
        import reasoning_gym
    except ImportError:
        raise MissingExtra("reasoning-gym", "reasoning-gym", "task 'reasoning_gym'") from None
    return reasoning_gym


def reasoning_gym(
    *,
    dataset: str,
    config: Mapping[str, Any] | str | None = None,
    wording: str = WORDING,
    held_out: float = HELD_OUT,
) -> EndlessSource:
    """Endless prompts of one of reasoning-gym's data sets. config: its options, as a mapping or as JSON."""
    _library()
    from reasoning_gym.factory import DATASETS

    if dataset not in DATASETS:
        hint = nearest(dataset, DATASETS)
        raise ConfigError(f"reasoning_gym dataset {dataset!r} is unknown{hint}; it has {len(DATASETS)} of them")
    if "{question}" not in wording:
        raise ConfigError(f"reasoning_gym wording={wording!r}: must contain {{question}}")
    try:
        options = json.loads(config) if isinstance(config, str) else dict(config or {})
    except ValueError as error:
        raise ConfigError(f"reasoning_gym config={config!r}: not valid JSON: {error}") from None
    text = json.dumps(options, sort_keys=True)
    for reserved in ("seed", "size"):
        if reserved in options:
            raise ConfigError(f"reasoning_gym config: {reserved!r} is set by onedial, prompt by prompt; leave it out")
    try:
        _create(dataset, text, 0)
    except (TypeError, AssertionError, ValueError) as error:
        raise ConfigError(f"reasoning_gym dataset {dataset!r} refuses config {text}: {error}") from error
    return EndlessSource(Gym(dataset, text, wording), GymVerifier(dataset, text), held_out)
