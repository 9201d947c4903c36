"""Endless exact arithmetic, from one-digit sums to three numbers with a product."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from onedial.core.errors import ConfigError, suggest
from onedial.core.types import Prompt, Verdict
from onedial.training.tasks.task import HELD_OUT, EndlessSource
from onedial.training.verify.verdict import judge, make_verdict
from onedial.training.verify.verifiers import MATCHES, Number

DEFAULT_LEVELS = ("add1", "mul1", "add2")
WORDING = "What is {expression}? Answer with the number only."

# (expression, value, key): the key is equal for prompts that ask the same, 3 + 5 and 5 + 3, so that they share a split
Problem = tuple[str, int, str]


def _sum(rng: Random, digits: int, terms: int = 2) -> Problem:
    numbers = [_number(rng, digits) for _ in range(terms)]
    return " + ".join(map(str, numbers)), sum(numbers), "+".join(map(str, sorted(numbers)))


def _difference(rng: Random, digits: int) -> Problem:
    low, high = sorted((_number(rng, digits), _number(rng, digits)))
    return f"{high} - {low}", high - low, f"{high}-{low}"


def _product(rng: Random, digits: int, other: int) -> Problem:
    a, b = _number(rng, digits), _number(rng, other)
    low, high = sorted((a, b))
    return f"{a} * {b}", a * b, f"{low}*{high}"


def _mixed(rng: Random) -> Problem:
    a, b, c = rng.randint(10, 99), rng.randint(2, 9), rng.randint(2, 9)
    low, high = sorted((b, c))
    sign = rng.choice("+-")
    value = a + b * c if sign == "+" else a - b * c
    return f"{a} {sign} {b} * {c}", value, f"{a}{sign}{low}*{high}"


def _number(rng: Random, digits: int) -> int:
    """Returns a random number of exactly `digits` digits; one digit includes 0."""
    return rng.randint(0 if digits == 1 else 10 ** (digits - 1), 10**digits - 1)


LEVELS: dict[str, Callable[[Random], Problem]] = {
    "add1": lambda rng: _sum(rng, 1),
    "mul1": lambda rng: _product(rng, 1, 1),
    "add2": lambda rng: _sum(rng, 2),
    "sub1": lambda rng: _difference(rng, 1),
    "sub2": lambda rng: _difference(rng, 2),
    "add3": lambda rng: _sum(rng, 3),
    "mul2x1": lambda rng: _product(rng, 2, 1),
    "sum3": lambda rng: _sum(rng, 2, terms=3),
    "mixed3": _mixed,
    "mul2": lambda rng: _product(rng, 2, 2),
}


@dataclass(frozen=True)
class Arithmetic:
    """Problems of some levels; each level is equally likely (a level listed twice has double its share)."""

    levels: tuple[str, ...] = DEFAULT_LEVELS
    match: str = "end"
    wording: str = WORDING
    name: str = "arithmetic"

    def __post_init__(self) -> None:
        if not self.levels:
            raise ConfigError(f"arithmetic levels: none given; allowed: {', '.join(LEVELS)}")
        for level in self.levels:
            if level not in LEVELS:
                hint = suggest(level, LEVELS)
                raise ConfigError(f"arithmetic levels: {level!r} is unknown{hint}; allowed: {', '.join(LEVELS)}")
        if self.match not in MATCHES:
            hint = suggest(self.match, MATCHES)
            raise ConfigError(f"arithmetic match={self.match!r}: must be one of {', '.join(MATCHES)}{hint}")
        if "{expression}" not in self.wording:
            raise ConfigError(f"arithmetic wording={self.wording!r}: must contain {{expression}}")

    def prompt(self, rng: Random) -> Prompt:
        """One user message; the answer is an int."""
        level = rng.choice(self.levels)
        expression, value, key = LEVELS[level](rng)
        content = self.wording.replace("{expression}", expression)
        meta = {"level": level, "split_key": f"{level}/{key}"}
        return Prompt(messages=({"role": "user", "content": content},), answer=value, source=self.name, meta=meta)

    def verify(self, prompt: Prompt, completion: str) -> Verdict:
        """See `Number`."""
        return make_verdict(judge(self.verifier, prompt, completion))

    def demonstrate(self, prompt: Prompt) -> str:
        """Returns the number alone, as the prompt asks; it is correct with every `match`."""
        return str(prompt.answer)

    @property
    def verifier(self) -> Number:
        """The verifier of this task."""
        return Number(self.match)


def arithmetic(
    *,
    levels: str | Sequence[str] = DEFAULT_LEVELS,
    match: str = "end",
    wording: str = WORDING,
    held_out: float = HELD_OUT,
) -> EndlessSource:
    """Endless arithmetic. levels: names of `LEVELS`; match: where the answer must stand, as `Number` says."""
    names = [name.strip() for name in levels.split(",")] if isinstance(levels, str) else list(levels)
    chosen = tuple(name for name in names if name)
    task = Arithmetic(chosen, match=match, wording=wording)
    return EndlessSource(task, task.verifier, held_out, demonstrate=task.demonstrate)
