"""Countdown: reach a target from given numbers with + - * /. Endless, solvable by construction; or read from a file."""

from __future__ import annotations

import ast
import operator
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any

from onedial.core.errors import ConfigError, DataError
from onedial.core.types import Prompt, Verdict
from onedial.training.tasks.data_files import make_finite, read_rows, split_files
from onedial.training.tasks.task import HELD_OUT, EndlessSource, TaskSource
from onedial.training.verify.answer import boxed, show_number
from onedial.training.verify.verdict import Fields, PromptLike, judge, make_verdict
from onedial.training.verify.verifiers import grade, make_unparseable

WORDING = (
    "Using the numbers {numbers}, write an expression that equals {target}. Use + - * / and parentheses, and each "
    "number exactly once. End with the expression in <answer> </answer>, for example <answer>(1 + 2) / 3</answer>."
)
_MAX_LENGTH = 200  # characters of an expression; bounds parsing, depth and the size of every value
_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def evaluate_expression(expression: str) -> tuple[Fraction, list[int]]:
    """Returns the exact value and the numbers used, of integers, + - * / and parentheses; executes nothing.

    Raises ValueError for anything else, too long an expression, or a division by zero.
    """
    if len(expression) > _MAX_LENGTH:
        raise ValueError(f"longer than {_MAX_LENGTH} characters")
    numbers: list[int] = []

    def value(node: ast.expr) -> Fraction:
        if isinstance(node, ast.Constant) and type(node.value) is int:
            numbers.append(node.value)
            return Fraction(node.value)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -value(node.operand)
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            return _OPERATORS[type(node.op)](value(node.left), value(node.right))
        raise ValueError("only integers, + - * / and parentheses are allowed")

    if re.fullmatch(r"[0-9+\-*/()\s]+", expression) is None:
        raise ValueError("only integers, + - * / and parentheses are allowed")
    try:
        return value(ast.parse(" ".join(expression.split()), mode="eval").body), numbers
    except (SyntaxError, RecursionError, MemoryError):
        raise ValueError("not an expression") from None
    except ZeroDivisionError:
        raise ValueError("division by zero") from None


@dataclass(frozen=True)
class CountdownVerifier:
    r"""Correct if the expression equals the target and uses the given numbers.

    The expression is that of the last `<answer>`, else of the last `\boxed`, else the last line; "= target" after it is
    ignored. use_all: each number exactly once; otherwise at most once.
    """

    use_all: bool = True
    name: str = "countdown"
    in_process: bool = True

    def judge(self, prompt: PromptLike, completion: str, token_ids: Sequence[int] = ()) -> Fields:
        """`unparseable` when there is no expression to read."""
        target, given = Fraction(prompt.answer["target"]), Counter(prompt.answer["numbers"])
        expression = find_expression(completion)
        try:
            value, numbers = evaluate_expression(expression)
        except ValueError as error:
            return make_unparseable(f"{expression[:40]!r}: {error}")
        used = Counter(numbers)
        allowed = used == given if self.use_all else used <= given
        detail = "" if allowed else f"uses {sorted(numbers)} of {sorted(given.elements())}"
        if allowed and value != target:
            detail = f"equals {show_number(value)}, not {show_number(target)}"
        return grade(allowed and value == target, expression, detail=detail)


def find_expression(completion: str) -> str:
    """The expression a completion ends with, with operator signs normalized; "" when there is none."""
    tags = _TAG.findall(completion)
    lines = [line for line in completion.strip().splitlines() if line.strip()]
    text = tags[-1] if tags else boxed(completion) or (lines[-1] if lines else "")
    for written, plain in (("×", "*"), ("\\times", "*"), ("\\cdot", "*"), ("÷", "/"), ("−", "-"), ("–", "-")):
        text = text.replace(written, plain)
    return text.split("=")[0].strip()


@dataclass(frozen=True)
class Countdown:
    """Problems with one of these counts of numbers between 1 and `max_number`, and a target between 1 and
    `max_target`."""

    counts: tuple[int, ...] = (3, 4)
    max_number: int = 99
    max_target: int = 100
    use_all: bool = True
    wording: str = WORDING
    name: str = "countdown"

    def __post_init__(self) -> None:
        if not self.counts or min(self.counts) < 2 or max(self.counts) > 8:
            raise ConfigError(f"countdown counts={self.counts}: how many numbers, each from 2 to 8; 3,4 is usual")
        if self.max_number < 2 or self.max_target < 2:
            raise ConfigError(f"countdown max_number={self.max_number}, max_target={self.max_target}: both at least 2")
        if "{numbers}" not in self.wording or "{target}" not in self.wording:
            raise ConfigError(f"countdown wording={self.wording!r}: must contain {{numbers}} and {{target}}")

    def prompt(self, rng: Random) -> Prompt:
        """Combines numbers at random until the value is a valid target, so that a solution always exists."""
        count = rng.choice(self.counts)
        while True:
            numbers = [rng.randint(1, self.max_number) for _ in range(count)]
            target = _combine(rng, numbers)
            if target.denominator == 1 and 1 <= target <= self.max_target:
                break
        rng.shuffle(numbers)
        return _prompt(numbers, int(target), self.wording, self.name)

    def verify(self, prompt: Prompt, completion: str) -> Verdict:
        """See `CountdownVerifier`."""
        return make_verdict(judge(CountdownVerifier(self.use_all), prompt, completion))


def _combine(rng: Random, numbers: Sequence[int]) -> Fraction:
    """The value of a random expression that uses every number once."""
    values = [Fraction(number) for number in numbers]
    while len(values) > 1:
        rng.shuffle(values)
        a, b = values.pop(), values.pop()
        operators: list[type[ast.operator]] = [ast.Add, ast.Sub, ast.Mult] + (
            [ast.Div] if b and (a / b).denominator == 1 else []
        )
        values.append(_OPERATORS[rng.choice(operators)](a, b))
    return values[0]


def _prompt(numbers: Sequence[int], target: int, wording: str, source: str, messages: Any = None) -> Prompt:
    content = wording.replace("{numbers}", str(list(numbers))).replace("{target}", str(target))
    return Prompt(
        messages=tuple(messages or ({"role": "user", "content": content},)),
        answer={"target": int(target), "numbers": [int(number) for number in numbers]},
        source=source,
        meta={"level": f"{len(numbers)} numbers", "split_key": f"{sorted(numbers)}={target}"},
    )


def countdown(
    *,
    path: str | None = None,
    test_path: str | None = None,
    counts: str | Sequence[int] = (3, 4),
    max_number: int = 99,
    max_target: int = 100,
    use_all: bool = True,
    wording: str | None = None,
    held_out: float = HELD_OUT,
) -> TaskSource:
    """Countdown, endless or from a file with columns `nums` (or `numbers`) and `target`.

    counts: how many numbers ("3,4"). wording: for a file, replaces the file's own `prompt` column.
    """
    if path is None and test_path is None:
        try:
            sizes = tuple(int(n) for n in (counts.split(",") if isinstance(counts, str) else counts))
        except ValueError:
            raise ConfigError(f"countdown counts={counts!r}: must be whole numbers, for example '3,4'") from None
        task = Countdown(sizes, max_number, max_target, use_all, wording or WORDING)
        return EndlessSource(task, CountdownVerifier(use_all), held_out)
    files = split_files(path, test_path)
    prompts = {split: [_of_row(row, n, file, wording) for n, row in read_rows(file)] for split, file in files.items()}
    return make_finite(
        f"countdown/{Path(next(iter(files.values()))).stem}", CountdownVerifier(use_all), prompts, held_out=held_out
    )


def _of_row(row: Mapping[str, Any], number: int, file: str, wording: str | None) -> Prompt:
    numbers, target = row.get("nums", row.get("numbers")), row.get("target")
    if not isinstance(numbers, list) or not isinstance(target, int):
        raise DataError(
            f"{file}, row {number}: countdown needs a list 'nums' (or 'numbers') and an integer 'target'; "
            f"the columns are: {', '.join(row)}"
        )
    own = row.get("prompt")
    messages = own if wording is None and isinstance(own, list) else None
    return _prompt(numbers, target, wording or WORDING, "countdown", messages)
