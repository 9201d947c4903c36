"""Answers to reasoning-gym's questions are read, not executed. Every dataset that evaluates answers is attacked.

Oracles: a file that an executed answer would have made; the library's own scores of honest answers without the guard.
"""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest

from onedial.core.types import Prompt
from onedial.training.tasks import gym, open_task, verify
from onedial.training.tasks.gym_answers import AnswerRefused, check_formula, guard_library, read_literal
from onedial.training.verify.pool import VerifierPool

pytest.importorskip("reasoning_gym")
EVALUATING = ("spiral_matrix", "n_queens", "binary_matrix", "string_insertion")
SYMPY = ("countdown", "puzzle24", "simple_integration", "intermediate_integration", "polynomial_multiplication")


@pytest.fixture
def unguarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library as it comes: it executes answers."""
    guard_library()
    for name, module in list(sys.modules.items()):
        if name.startswith("reasoning_gym") and "eval" in vars(module):
            monkeypatch.delitem(vars(module), "eval")
    from sympy.parsing import sympy_parser

    monkeypatch.setattr(sympy_parser, "eval_expr", lambda code, local, names: eval(code, names, local))
    monkeypatch.setattr(gym, "guard_library", lambda: None)


def question(name: str) -> tuple[Any, Prompt]:
    source = open_task("reasoning_gym", dataset=name)
    return source, source.draw("train", 0, 0)


def touching(file: Path) -> str:
    return f"__import__('pathlib').Path({str(file)!r}).touch()"


@pytest.mark.parametrize("name", [*EVALUATING, *SYMPY])
def test_the_library_executes_answers(name: str, tmp_path: Path, unguarded: None) -> None:
    """What the guard is for; when the library stops doing this, guard and sandbox's refusal can go."""
    source, prompt = question(name)
    verify(source, prompt, f"<answer>{touching(tmp_path / 'pwned')}</answer>")
    assert (tmp_path / "pwned").exists()


@pytest.mark.parametrize("name", [*EVALUATING, *SYMPY])
def test_no_answer_is_executed(name: str, tmp_path: Path) -> None:
    """In this very process, without any sandbox around it."""
    source, prompt = question(name)
    code = touching(tmp_path / "pwned")
    for attack in (
        code,
        f"[{code}]",
        f"[x for x in [{code}]]",
        f"(lambda: {code})()",
        f"sqrt({code})",
        f"sqrt({code!r})",
    ):
        verdict = verify(source, prompt, f"<answer>{attack}</answer>")
        assert verdict.usable and not verdict.correct and verdict.reward <= 0.05
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("name", EVALUATING)
def test_no_answer_rewards_itself(name: str, request: pytest.FixtureRequest) -> None:
    """Through the scorer's variables, which hold the right answer; the library alone gives part of the reward."""
    source, prompt = question(name)
    frame = "__import__('sys')._getframe(0).f_back"
    board = "valid_solutions[0]" if name == "n_queens" else "oracle_answer"
    rows = f"[row.split(' ') for row in {board}.split('\\n')]"
    shape = {"spiral_matrix": "oracle_answer.split()", "string_insertion": "list(oracle_answer)"}.get(name, rows)
    for attack in (shape, f"{frame}.f_locals['entry']['answer'].split()", "self", "entry"):
        assert verify(source, prompt, f"<answer>{attack}</answer>").reward == 0.0
    request.getfixturevalue("unguarded")
    assert verify(source, prompt, f"<answer>{shape}</answer>").reward > 0.0


@pytest.mark.parametrize("name", ["spiral_matrix", "puzzle24"])
def test_in_the_worker_an_executed_answer_reaches_nothing(name: str, tmp_path: Path) -> None:
    """The guard is gone; the sandbox alone stands between the answer and the machine."""
    from onedial.training.tasks.gym import GymVerifier

    source, prompt = question(name)
    with VerifierPool(_Unguarded(), workers=1, timeout_s=60) as pool:
        if pool.sandbox is None or pool.sandbox.level not in ("namespace", "landlock"):
            pytest.skip("no sandbox on this machine")
        pool.submit(0, prompt, f"<answer>{touching(tmp_path / 'pwned')}</answer>")
        ((_, verdict),) = pool.drain(120)
    assert isinstance(source.verifier, GymVerifier) and verdict.usable and not verdict.correct
    assert not (tmp_path / "pwned").exists()


class _Unguarded:
    """GymVerifier without its guard."""

    name, in_process, executes_text = "unguarded", False, True

    def judge(self, prompt: Any, completion: str, token_ids: Any = ()) -> Any:
        gym.guard_library = lambda: None
        return gym.GymVerifier().judge(prompt, completion, token_ids)


@pytest.mark.parametrize("name", [*EVALUATING, *SYMPY])
def test_honest_answers_score_as_before(name: str, request: pytest.FixtureRequest) -> None:
    """Invariance: the right answer, the same as a Python list, a wrong one, and none; with the guard and without."""
    source = open_task("reasoning_gym", dataset=name)
    prompts = [source.draw("train", 1, position) for position in range(6)]

    def scores() -> list[float]:
        answers = ("{0}", "{0!r}", "[[1, 2], [3, 4]]", "2*x + 1", "(1 + 2) * 3 / 4", "not sure", "")
        texts = [text.format(str(prompt.answer)) for prompt in prompts for text in answers]
        rows = [prompt.answer.split("\n") for prompt in prompts if isinstance(prompt.answer, str)]
        lists = [str([row.split() for row in found] if len(found) > 1 else found[0].split()) for found in rows]
        asked = [prompt for prompt in prompts for _ in answers] + prompts[: len(lists)]
        return [verify(source, p, f"<answer>{t}</answer>").reward for p, t in zip(asked, texts + lists, strict=True)]

    guarded = scores()
    request.getfixturevalue("unguarded")
    assert scores() == guarded and len(set(guarded)) > 1


def test_literals_are_read_as_python_reads_them() -> None:
    """Oracle: ast.literal_eval on random nested values; hand values of arithmetic."""
    rng = Random(0)

    def value(depth: int) -> Any:
        kind = rng.randrange(7 if depth else 4)
        if kind < 4:
            return [rng.randint(-99, 99), rng.random(), rng.choice("ab'\\\n"), None][kind]
        items = [value(depth - 1) for _ in range(rng.randrange(4))]
        return [items, tuple(items), {str(n): item for n, item in enumerate(items)}][kind - 4]

    for _ in range(300):
        made = value(3)
        assert read_literal(repr(made)) == made == ast.literal_eval(repr(made))
    assert read_literal("(1 + 2) * 3 // 4 % 5 - -1") == 3
    assert read_literal("0x0f & ~1 | 1 << 4 ^ 2") == 0x0F & ~1 | 1 << 4 ^ 2


@pytest.mark.parametrize(
    "text",
    ["a", "f()", "[].append(1)", "(1).real", "[x for x in [1]]", "lambda: 1", "9**9**9", "1 << 10**9", "'a' * 10**9",
     "[0] * 10**9", "1/0", "x := 1", "f'{1}'", "*[1]", "1 if 1 else 2", "__import__('os')", "(" * 500, "1\x00", "",
     "{**{}}", "1 + 'a'"],
)  # fmt: skip
def test_what_is_no_literal_is_refused(text: str) -> None:
    with pytest.raises(AnswerRefused):
        read_literal(text)


@pytest.mark.parametrize(
    "code",
    ["eval ('1')", "Symbol ('x').func", "(lambda :1 )()", "[x for x in ()]", "lambdify ((),Symbol ('x'))", "S ('x')",
     "__import__ ('os')", "sqrt (Integer (4 ),evaluate =False )", "Symbol ('x')[0 ]", "getattr (1 ,'real')",
     "open ('f')"],
)  # fmt: skip
def test_what_is_no_formula_is_refused(code: str) -> None:
    with pytest.raises(AnswerRefused):
        check_formula(code, {})
    check_formula("sin (Symbol ('y'))+x **Integer (2 )", {"x": json})
