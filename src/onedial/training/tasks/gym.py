"""reasoning-gym's generators with seeds of our own, and split by content.

The library seeds item i of a dataset with `seed + i`. Two datasets with neighboring seeds, as its own training examples
use for train and validation, therefore share all items but one. Here every prompt has its own seed, drawn from the
task's seed path, and the prompt's content decides its split.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Any

from onedial.core.errors import ConfigError, MissingExtra, suggest
from onedial.core.types import Prompt, Verdict
from onedial.training.tasks.gym_answers import AnswerRefused, guard_library
from onedial.training.tasks.task import HELD_OUT, EndlessSource
from onedial.training.verify.verdict import Fields, PromptLike, judge, make_verdict
from onedial.training.verify.verifiers import find_tagged, make_unparseable

WORDING = "{question}\nGive the final answer between <answer> and </answer>."
Generator = tuple[str, str]  # name and options, the latter as JSON: hashable, picklable, printable


@dataclass(frozen=True)
class GymVerifier:
    """The library's `score_answer` as the reward (0 to 1); correct when it is 1."""

    name: str = "reasoning_gym"
    in_process: bool = False
    executes_text: bool = True  # some of the library's scorers evaluate the answer as Python

    def judge(self, prompt: PromptLike, completion: str, token_ids: Sequence[int] = ()) -> Fields:
        """The text in `<answer>` counts, or the whole completion if there is none; `unparseable` if that is empty."""
        answer = find_tagged(completion) if "</answer>" in completion else completion.strip()
        if not answer:
            return make_unparseable("no answer")
        name, options = prompt.meta["generator"]
        scorer = _open_scorer(name, options)
        try:
            score = scorer.score_answer(answer=answer, entry=prompt.meta["entry"])
        except AnswerRefused as error:
            return make_unparseable(str(error))
        return {"reward": score, "correct": score >= 1.0, "answer": answer}


@dataclass(frozen=True)
class Gym:
    """Some of reasoning-gym's generators, each equally likely; a prompt's level is its generator."""

    generators: tuple[Generator, ...]
    wording: str = WORDING

    @property
    def name(self) -> str:
        """The generators and their options (where given), so that seed paths differ."""
        parts = (name if options == "{}" else f"{name}{options}" for name, options in self.generators)
        return f"reasoning_gym/{'+'.join(parts)}"

    def prompt(self, rng: Random) -> Prompt:
        """Returns the only item of a dataset that is created with a seed of its own."""
        name, options = rng.choice(self.generators)
        entry = dict(_create_dataset(name, options, rng.getrandbits(31))[0])
        content = self.wording.replace("{question}", entry["question"])
        return Prompt(
            messages=({"role": "user", "content": content},),
            answer=entry["answer"],
            source=f"reasoning_gym/{name}",
            meta={
                "level": name,
                "split_key": f"{name}/{entry['question']}",
                "entry": entry,
                "generator": (name, options),
            },
        )

    def verify(self, prompt: Prompt, completion: str) -> Verdict:
        """See `GymVerifier`."""
        return make_verdict(judge(GymVerifier(), prompt, completion))


@lru_cache(maxsize=64)
def _open_scorer(name: str, options: str) -> Any:
    scorer = _create_dataset(name, options, 0)
    guard_library()
    return scorer


def _create_dataset(name: str, options: str, seed: int) -> Any:
    return _import_library().create_dataset(name, seed=seed, size=1, **json.loads(options))


def _import_library() -> Any:
    try:
        import reasoning_gym
    except ImportError:
        raise MissingExtra("reasoning-gym", "reasoning-gym", "task 'reasoning_gym'") from None
    return reasoning_gym


def reasoning_gym(
    *,
    dataset: str | Sequence[str],
    config: Mapping[str, Any] | str | None = None,
    wording: str = WORDING,
    held_out: float = HELD_OUT,
) -> EndlessSource:
    """Endless prompts of one or more of reasoning-gym's datasets ("chain_sum" or "chain_sum,leg_counting").

    config: the dataset's options, as a mapping or as JSON; with several datasets, options by dataset's name.
    """
    _import_library()
    names = [name.strip() for name in dataset.split(",")] if isinstance(dataset, str) else list(dataset)
    if "{question}" not in wording:
        raise ConfigError(f"reasoning_gym wording={wording!r}: must contain {{question}}")
    try:
        options = json.loads(config) if isinstance(config, str) else dict(config or {})
    except ValueError as error:
        raise ConfigError(f"reasoning_gym config={config!r}: not valid JSON: {error}") from None
    if len(names) == 1:
        options = {names[0]: options}
    for name in options:
        if name not in names:
            raise ConfigError(f"reasoning_gym config: {name!r} is not one of the datasets ({', '.join(names)})")
    generators = tuple(_check_generator(name, dict(options.get(name, {}))) for name in names)
    return EndlessSource(Gym(generators, wording), GymVerifier(), held_out)


def _check_generator(name: str, options: dict[str, Any]) -> Generator:
    """Returns the generator. Raises ConfigError with the library's reason where it cannot be made."""
    from reasoning_gym.factory import DATASETS

    if name == "composite":
        raise ConfigError("reasoning_gym dataset 'composite': name its parts instead, dataset='chain_sum,leg_counting'")
    if name not in DATASETS:
        hint = suggest(name, DATASETS)
        raise ConfigError(f"reasoning_gym dataset {name!r} is unknown{hint}; it has {len(DATASETS)} of them")
    for reserved in ("seed", "size"):
        if reserved in options:
            raise ConfigError(f"reasoning_gym config: {reserved!r} is set by onedial, prompt by prompt; leave it out")
    text = json.dumps(options, sort_keys=True)
    try:
        _create_dataset(name, text, 0)
    except (TypeError, AssertionError, ValueError) as error:
        raise ConfigError(f"reasoning_gym dataset {name!r} refuses config {text}: {error}") from error
    return name, text
