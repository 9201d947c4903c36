"""Tasks and splits. Oracles: exact arithmetic by Python's own evaluator, content hashes, other libraries."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onedial.core.errors import ConfigError, DataError
from onedial.core.types import Prompt, Verdict
from onedial.training.tasks import EndlessSource, TaskSource, assign_split, last_word, open_task, verify
from onedial.training.tasks.arithmetic import LEVELS
from onedial.training.tasks.countdown import CountdownVerifier, evaluate_expression, find_expression
from onedial.training.verify.pool import VerifierPool
from onedial.training.verify.verdict import judge

SOURCE = str(Path(__file__).parents[1] / "src")


@dataclass(frozen=True)
class Reverse:
    """The ten-line task of the README."""

    name: str = "reverse"
    length: int = 6

    def prompt(self, rng: Random) -> Prompt:
        word = "".join(rng.choices("abcdefgh", k=self.length))
        return Prompt(f"Reverse: {word}", answer=word[::-1])

    def verify(self, prompt: Prompt, completion: str) -> Verdict:
        got = last_word(completion)
        return Verdict(float(got == prompt.answer), answer=got)


def sources() -> dict[str, TaskSource]:
    found: dict[str, TaskSource] = {
        "arithmetic": open_task("arithmetic"),
        "arithmetic/all": open_task("arithmetic", levels=list(LEVELS)),
        "countdown": open_task("countdown"),
        "user": open_task(Reverse()),
    }
    return found


@pytest.mark.parametrize("name", ["arithmetic", "arithmetic/all", "countdown", "user"])
def test_draw_is_stateless_and_repeats(name: str) -> None:
    """Invariance: same path, same prompt, in any order of asking and in a source opened anew."""
    first, second = sources()[name], sources()[name]
    forward = [first.draw("train", 7, position) for position in range(40)]
    backward = [second.draw("train", 7, position) for position in reversed(range(40))]
    assert [prompt.id for prompt in forward] == [prompt.id for prompt in reversed(backward)]
    assert len({prompt.id for prompt in forward}) > 20
    assert forward[0].id != first.draw("train", 8, 0).id
    assert first.size("train") is None
    assert all("level" in prompt.meta and prompt.source for prompt in forward)


@pytest.mark.parametrize("name", ["arithmetic/all", "countdown", "user"])
def test_neighbouring_seeds_are_not_shifted_copies(name: str) -> None:
    """The trap of seed + index: stream s + 1 would be stream s, one position on. Oracle: chance."""
    source = sources()[name]
    streams = [[source.draw("train", seed, position).id for position in range(60)] for seed in (1, 2)]
    shifted = sum(a == b for a, b in zip(streams[0][1:], streams[1], strict=False))
    assert shifted <= 3


def test_draw_is_the_same_in_another_process() -> None:
    """Oracle: a fresh interpreter with another hash seed."""
    code = (
        "from onedial.training.tasks import open_task\n"
        "source = open_task('arithmetic')\n"
        "print(*[source.draw('train', 1, position).id for position in range(9)])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": SOURCE, "PYTHONHASHSEED": "5"},
        capture_output=True,
        text=True,
        check=True,
    )
    source = open_task("arithmetic")
    assert ran.stdout.split() == [source.draw("train", 1, position).id for position in range(9)]


@pytest.mark.parametrize("name", ["arithmetic", "arithmetic/all", "countdown", "user"])
@pytest.mark.parametrize(("train_seed", "test_seed"), [(0, 0), (0, 1), (1, 2), (3, 100)])
def test_splits_share_no_content_at_any_seed_pair(name: str, train_seed: int, test_seed: int) -> None:
    source = sources()[name]
    train = {source.draw("train", train_seed, position).plain for position in range(400)}
    test = {prompt.plain for prompt in source.heldout(100, test_seed)}
    assert len(test) == 100
    assert not train & test


def test_commuted_problems_share_a_split() -> None:
    task = open_task("arithmetic", levels="add1,mul1,add2")
    assert isinstance(task, EndlessSource)
    splits: dict[Any, set[str]] = {}
    for index in range(4000):
        prompt = task.task.prompt(Random(index))
        a, operator, b = str(prompt.messages[0]["content"]).split("?")[0].split()[-3:]
        splits.setdefault((operator, *sorted((int(a), int(b))), prompt.meta["level"]), set()).add(assign_split(prompt))
    assert all(len(found) == 1 for found in splits.values())
    assert {"train", "test"} == set().union(*splits.values())


@pytest.mark.parametrize("level", ["add1", "mul1"])
def test_small_levels_hold_out_about_a_fifth(level: str) -> None:
    """Hand count: all 100 one-digit problems exist, and 15 to 30 of them are held out."""
    task = open_task("arithmetic", levels=level)
    assert isinstance(task, EndlessSource)
    prompts = {prompt.plain: prompt for prompt in (task.task.prompt(Random(index)) for index in range(3000))}
    counts = Counter(assign_split(prompt) for prompt in prompts.values())
    assert len(prompts) == 100
    assert 15 <= counts["test"] <= 30
    assert len(task.heldout(1000)) == counts["test"]  # asked for more than there are: all there are, each once


@pytest.mark.parametrize("level", LEVELS)
def test_arithmetic_is_exact(level: str) -> None:
    """Oracle: Python evaluates the expression that the policy reads."""
    source = open_task("arithmetic", levels=level)
    for position in range(50):
        prompt = source.draw("train", 0, position)
        expression = prompt.plain.removeprefix("What is ").partition("?")[0]
        assert prompt.answer == eval(expression)
        assert prompt.meta["level"] == level
        assert verify(source, prompt, f"{prompt.answer}").outcome == "correct"
        assert verify(source, prompt, f"{prompt.answer + 1}").outcome == "wrong"
        assert verify(source, prompt, f"It is {prompt.answer}").outcome == "correct"
        assert verify(source, prompt, f"{prompt.answer} is it").outcome == "wrong"


def test_levels_are_mixed_evenly_and_the_match_is_an_option() -> None:
    source = open_task("arithmetic", match="last")
    counts = Counter(source.draw("train", 0, position).meta["level"] for position in range(900))
    assert set(counts) == {"add1", "mul1", "add2"} and min(counts.values()) > 240  # 300 expected, 4 sd = 57
    prompt = source.draw("train", 0, 0)
    assert verify(source, prompt, f"{prompt.answer} is it").outcome == "correct"
    bare = open_task("arithmetic", match="bare")
    assert verify(bare, prompt, f"It is {prompt.answer}").outcome == "wrong"
    assert verify(bare, prompt, f"{prompt.answer}.").outcome == "correct"


def test_ten_line_task_in_workers_and_from_a_file(tmp_path: Path) -> None:
    """The public sketch works as is: live, by file, and judged in worker processes."""
    file = tmp_path / "reverse.py"
    file.write_text(
        "from dataclasses import dataclass\nimport onedial\nfrom onedial.training.tasks import last_word\n\n"
        "@dataclass(frozen=True)\nclass Reverse:\n    name: str = 'reverse'\n    length: int = 6\n"
        "    def prompt(self, rng):\n        word = ''.join(rng.choices('abcdefgh', k=self.length))\n"
        "        return onedial.Prompt(f'Reverse: {word}', answer=word[::-1])\n"
        "    def verify(self, prompt, completion):\n        got = last_word(completion)\n"
        "        return onedial.Verdict(float(got == prompt.answer), answer=got)\n"
    )
    live, loaded = open_task(Reverse(length=4)), open_task(f"{file}:Reverse", length=4)
    assert [live.draw("test", 0, p).id for p in range(5)] == [loaded.draw("test", 0, p).id for p in range(5)]
    prompt = live.draw("train", 0, 0)
    for source in (live, loaded):
        with VerifierPool(source.verifier, workers=1, timeout_s=20) as pool:
            pool.submit("right", prompt, f"It is {prompt.answer}.")
            pool.submit("wrong", prompt, "dunno")
            results = dict(pool.drain(60))
        assert (results["right"].outcome, results["right"].answer) == ("correct", prompt.answer)
        assert (results["wrong"].outcome, results["wrong"].answer, results["wrong"].reward) == ("wrong", "dunno", 0.0)


class _NoVerify:
    def prompt(self, rng: Random) -> Prompt:
        return Prompt("x")


class _Same(Reverse):
    def prompt(self, rng: Random) -> Prompt:
        return Prompt("always the same")


class _Empty(Reverse):
    def prompt(self, rng: Random) -> Prompt:
        return Prompt("  ")


@pytest.mark.parametrize(
    ("open_it", "message"),
    [
        (lambda: open_task("arithmetik"), "task 'arithmetik' is unknown; did you mean 'arithmetic'"),
        (lambda: open_task("arithmetic", level="add1"), "unknown option 'level'; did you mean 'levels'"),
        (lambda: open_task("arithmetic", levels="add1,ad2"), "levels: 'ad2' is unknown; did you mean 'add2'"),
        (lambda: open_task("arithmetic", levels=""), "levels: none given"),
        (lambda: open_task("arithmetic", match="bear"), "must be one of bare, end, last; did you mean 'bare'"),
        (lambda: open_task("arithmetic", held_out=1.5), r"held_out=1.5: must lie in \(0, 1\)"),
        (lambda: open_task("arithmetic", wording="Add!"), "must contain {expression}"),
        (lambda: open_task("arithmetic").draw("dev", 0, 0), "split 'dev': must be one of train, test"),  # type: ignore[arg-type]
        (lambda: open_task("countdown", counts="3,x"), "counts='3,x': must be whole numbers"),
        (lambda: open_task("countdown", counts=(1,)), "each from 2 to 8"),
        (lambda: open_task("countdown", max_number="1.5"), "max_number='1.5' must be a whole number"),
        (lambda: open_task("jsonl"), "path is missing"),
        (lambda: open_task("reasoning_gym"), "option 'dataset' is missing"),
        (lambda: open_task(_NoVerify()), r"_NoVerify: has no method verify\(\)"),
        (lambda: open_task(Reverse, size=3), "takes no option 'size'; allowed: name, length"),
        (lambda: open_task(Reverse(), length=3), "is an object, not a class"),
        (lambda: open_task(_Same(), held_out=0.01).draw("test", 0, 0), "prompts drawn and none belongs to the test"),
        (lambda: open_task(_Empty()).draw("test", 0, 0), "returned an empty prompt"),
        (lambda: open_task("nothing.py:Task"), "nothing.py: no such file"),
        (lambda: open_task("arithmetic", reward_weights="1"), "'reward_weights' needs 'reward'"),
        (lambda: open_task("arithmetic", reward="math:sqrt"), r"sqrt\(x\): must take \(prompt, completion\)"),
        (lambda: open_task("arithmetic", reward="math:pow", reward_weights="a"), "must be numbers"),
    ],
)
def test_mistakes_get_one_clear_message(open_it: Any, message: str) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        open_it()


def test_a_reward_function_replaces_the_task_s_own_judge() -> None:
    def shorter(prompt: Any, completion: str) -> float:
        return 1.0 / len(completion)

    source = open_task("arithmetic", reward=shorter)
    assert verify(source, source.draw("train", 0, 0), "1234").reward == 0.25
    both = open_task("arithmetic", reward=[shorter, shorter], reward_weights="1,3", correct_at="0.5")
    result = verify(both, both.draw("train", 0, 0), "1234")
    assert (result.reward, result.correct) == (1.0, True)


# Countdown


@given(
    st.recursive(
        st.integers(0, 99).map(str),
        lambda x: st.tuples(x, st.sampled_from("+-*/"), x).map("({0[0]} {0[1]} {0[2]})".format),
        max_leaves=6,
    )
)
def test_evaluator_agrees_with_python_s_own(expression: str) -> None:
    """Oracle: Python's eval over Fractions."""
    import re

    exact = re.sub(r"\d+", lambda match: f"Fraction({match.group()})", expression)
    try:
        expected = eval(exact)
    except ZeroDivisionError:
        with pytest.raises(ValueError, match="division by zero"):
            evaluate_expression(expression)
        return
    value, numbers = evaluate_expression(expression)
    assert value == expected
    assert sorted(numbers) == sorted(int(n) for n in re.findall(r"\d+", expression))


@pytest.mark.parametrize(
    "text",
    ["__import__('os').system('x')", "9**9", "9//2", "1 if 1 else 2", "1e9", "x", "", "(" * 150 + "1" + ")" * 150]
    + ["(1", "1 2", "0x10", "1_000", "1" * 201, "1/0", "[1]", "1,2", "+1", "044"],
)
def test_evaluator_refuses_everything_else(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  (several reasons, one kind)
        evaluate_expression(text)


def test_countdown_is_solvable() -> None:
    """Oracle: exhaustive search over all orders, operators and shapes."""
    source = open_task("countdown", counts="2,3", max_number=20)
    for position in range(40):
        prompt = source.draw("train", 0, position)
        assert prompt.answer["target"] in reachable(tuple(map(Fraction, prompt.answer["numbers"])))
        assert str(prompt.answer["target"]) in prompt.plain and str(prompt.answer["numbers"]) in prompt.plain


def reachable(numbers: tuple[Fraction, ...]) -> set[Fraction]:
    if len(numbers) == 1:
        return {numbers[0]}
    found: set[Fraction] = set()
    for i, j in product(range(len(numbers)), repeat=2):
        if i != j:
            rest = tuple(n for k, n in enumerate(numbers) if k not in (i, j))
            a, b = numbers[i], numbers[j]
            for value in [a + b, a - b, a * b] + ([a / b] if b else []):
                found |= reachable((value, *rest))
    return found


@pytest.mark.parametrize(
    ("completion", "outcome"),
    [
        ("<answer>(44 + 19) + 35</answer>", "correct"),
        ("think <answer>1</answer> again\n<answer>44+19+35 = 98</answer>", "correct"),
        (r"\boxed{44 + 19 + 35}", "correct"),
        ("44 + 19 + 35 = 98", "correct"),
        ("<answer>98</answer>", "wrong"),
        ("<answer>44 + 44 + 10</answer>", "wrong"),
        ("<answer>44 + 54</answer>", "wrong"),
        ("<answer>44 + 19 - 35</answer>", "wrong"),
        ("<answer>44 + nineteen</answer>", "unparseable"),
        ("", "unparseable"),
    ],
)
def test_countdown_verdicts_by_hand(completion: str, outcome: str) -> None:
    prompt = Prompt("q", answer={"target": 98, "numbers": [44, 19, 35]})
    assert judge(CountdownVerifier(), prompt, completion)["outcome"] == outcome


def test_countdown_may_leave_numbers_out_when_told_so() -> None:
    prompt = Prompt("q", answer={"target": 63, "numbers": [44, 19, 35]})
    assert judge(CountdownVerifier(), prompt, "44+19")["outcome"] == "wrong"
    assert judge(CountdownVerifier(use_all=False), prompt, "44+19")["outcome"] == "correct"
    assert judge(CountdownVerifier(use_all=False), prompt, "44+44-25")["outcome"] == "wrong"
    assert find_expression("2 × 3 ÷ 6 = 1") == "2 * 3 / 6"


# reasoning-gym


def test_reasoning_gym_s_own_seeds_overlap_and_ours_do_not() -> None:
    """The trap: neighbouring seeds share all items but one (seed + index). Oracle: the library itself."""
    library = pytest.importorskip("reasoning_gym")
    naive = [{e["question"] for e in library.create_dataset("chain_sum", seed=seed, size=100)} for seed in (1, 2)]
    assert len(naive[0] & naive[1]) >= 99
    source = open_task("reasoning_gym", dataset="chain_sum")
    train = {source.draw("train", 1, position).plain for position in range(300)}
    test = {prompt.plain for prompt in source.heldout(100, 2)}
    assert len(test) == 100 and not train & test
    assert [source.draw("train", 1, p).id for p in (5, 3)] == [source.draw("train", 1, p).id for p in (5, 3)]


def test_reasoning_gym_scores_with_its_own_function() -> None:
    library = pytest.importorskip("reasoning_gym")
    config = {"min_terms": 2, "max_terms": 2}
    source = open_task("reasoning_gym", dataset="chain_sum", config=config)
    own = library.create_dataset("chain_sum", seed=0, size=1, **config)
    for position in range(5):
        prompt = source.draw("test", 0, position)
        for text in (str(prompt.answer), "no idea", f"{prompt.answer}0"):
            result = verify(source, prompt, f"so <answer>{text}</answer>")
            assert result.reward == own.score_answer(text, prompt.meta["entry"])
            assert result.correct == (result.reward == 1.0)
        assert verify(source, prompt, " ").outcome == "unparseable"
    assert prompt.plain.count("+") + prompt.plain.count("-") >= 1


def test_several_reasoning_gym_data_sets_are_mixed_and_judged_in_workers() -> None:
    pytest.importorskip("reasoning_gym")
    config = {"chain_sum": {"min_terms": 2, "max_terms": 2}}
    source = open_task("reasoning_gym", dataset="chain_sum,leg_counting", config=config)
    prompts = [source.draw("train", 0, position) for position in range(20)]
    assert {prompt.meta["level"] for prompt in prompts} == {"chain_sum", "leg_counting"}
    with VerifierPool(source.verifier, workers=1, timeout_s=30) as pool:
        for index, prompt in enumerate(prompts):
            pool.submit(index, prompt, f"<answer>{prompt.answer}</answer>")
        assert [verdict.outcome for _, verdict in pool.drain(60)] == ["correct"] * 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "composite"}, "name its parts instead"),
        ({"dataset": "chain_sum", "wording": "Go"}, "must contain {question}"),
        ({"dataset": "chain_sum,leg_counting", "config": {"min_terms": 2}}, "'min_terms' is not one of the datasets"),
        ({"dataset": "chainsum"}, "'chainsum' is unknown; did you mean 'chain_sum'"),
        ({"dataset": "chain_sum", "config": "{"}, "not valid JSON"),
        ({"dataset": "chain_sum", "config": {"seed": 1}}, "'seed' is set by onedial"),
        ({"dataset": "chain_sum", "config": {"terms": 1}}, "refuses config"),
        ({"dataset": "chain_sum", "config": {"min_terms": -1}}, "refuses config"),
    ],
)
def test_reasoning_gym_mistakes(options: dict[str, Any], message: str) -> None:
    pytest.importorskip("reasoning_gym")
    with pytest.raises(ConfigError, match=message):
        open_task("reasoning_gym", **options)


def test_sources_are_values() -> None:
    """Identity: replacing nothing changes nothing; the name is part of the seed path."""
    source = open_task(Reverse())
    assert isinstance(source, EndlessSource)
    assert replace(source).draw("train", 0, 0) == source.draw("train", 0, 0)
    assert open_task(Reverse(name="other")).draw("train", 0, 0).answer != source.draw("train", 0, 0).answer
