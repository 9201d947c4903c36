"""Reward functions of TRL's and verl's signatures, taken as they are. Oracles: what the function was given and gave."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from onedial.core.errors import ConfigError
from onedial.core.types import Prompt, Verdict
from onedial.core.user_code import load_object
from onedial.training.verify.rewards import STATE, Reward, check_reward
from onedial.training.verify.verdict import judge, make_verdict, read_fields

CHAT = Prompt(
    messages=({"role": "user", "content": "2+2"},),
    answer="4",
    source="set",
    meta={"columns": {"answer": "4", "data_source": "gsm", "extra_info": {"index": 7}}},
)
TEXT = Prompt("2+2", answer="4", meta={"columns": {"answer": "4"}})


def verdict(reward: Reward, prompt: Prompt = CHAT, completion: str = "4", ids: tuple[int, ...] = (5, 6)) -> Verdict:
    return make_verdict(judge(reward, prompt, completion, ids))


def test_trl_function_gets_what_trl_gives() -> None:
    """Names and shapes of TRL's GRPOTrainer: lists of one, message lists for chat, columns as lists, state, loggers."""
    seen: dict[str, Any] = {}

    def reward(prompts, completions, completion_ids, **kwargs):  # type: ignore[no-untyped-def]
        seen.update(kwargs, prompts=prompts, completions=completions, completion_ids=completion_ids)
        kwargs["log_metric"]("near", 0.25)
        kwargs["log_metric"]("far", math.inf)
        kwargs["log_extra"]("parsed", ["four"])
        return [1.0]

    STATE.global_step = 3
    result = verdict(Reward((reward,)))
    assert seen["prompts"] == [[{"role": "user", "content": "2+2"}]]
    assert seen["completions"] == [[{"role": "assistant", "content": "4"}]]
    assert seen["completion_ids"] == [[5, 6]]
    assert seen["answer"] == ["4"] and seen["extra_info"] == [{"index": 7}]
    assert seen["trainer_state"].global_step == 3
    assert (result.reward, result.outcome, result.parts, result.detail) == (
        1.0,
        "correct",
        {"near": 0.25},
        "far=inf; parsed=four",
    )
    verdict(Reward((reward,)), TEXT)
    assert seen["prompts"] == ["2+2"] and seen["completions"] == ["4"]


def test_trl_function_without_kwargs_gets_only_what_it_names() -> None:
    def reward(completions: list[str], answer: list[str]) -> list[float]:
        return [float(c == a) for c, a in zip(completions, answer, strict=True)]

    assert verdict(Reward((reward,)), TEXT).outcome == "correct"
    assert verdict(Reward((reward,)), TEXT, "5").outcome == "wrong"


def test_async_functions_are_awaited() -> None:
    async def trl(completions, **kwargs):  # type: ignore[no-untyped-def]
        return [0.5 for _ in completions]

    async def simple(prompt: Any, completion: str) -> bool:
        return completion == prompt.answer

    assert verdict(Reward((trl,))).reward == 0.5
    assert verdict(Reward((simple,))).outcome == "correct"


@pytest.mark.parametrize(
    ("given", "detail"),
    [
        ([None], "reward gave no reward (None): not judged"),
        ([math.nan], "reward returned reward nan: not a finite number"),
        ([-math.inf], "reward returned reward -inf: not a finite number"),
        (["1"], "reward returned reward '1': not a finite number"),
        ([[1.0]], "reward returned reward [1.0]: not a finite number"),
        ([10**400], "not a finite number"),
        ([1.0, 0.0], "reward raised ValueError: returned 2 rewards for 1 completion"),
        ([], "reward raised ValueError: returned 0 rewards for 1 completion"),
        (1.0, "reward raised TypeError: returned 1.0; a reward function of TRL's kind returns a list"),
        ("1", "reward raised TypeError: returned '1'"),
    ],
)
def test_what_is_not_a_reward_is_an_error_with_its_value(given: Any, detail: str) -> None:
    def reward(prompts, completions, **kwargs):  # type: ignore[no-untyped-def]
        return given

    result = verdict(Reward((reward,)))
    assert result.outcome == "error" and not result.usable and result.reward == 0.0
    assert detail in result.detail


def test_numbers_of_other_libraries_are_numbers() -> None:
    import numpy as np
    import torch

    for value in (np.float32(1), np.int64(1), np.bool_(True), torch.tensor(1.0), torch.tensor([1.0]), np.array(1.0)):
        assert read_fields(value, "f")["reward"] == 1.0
    for value in (np.float32("nan"), torch.tensor([1.0, 2.0]), np.array([1.0, 0.0]), object(), b"1", 1j):
        assert read_fields(value, "f")["outcome"] == "error"


def test_verl_compute_score_as_it_is() -> None:
    """verl's parquet schema by its own names; acc decides correctness, other numbers are parts."""
    seen: dict[str, Any] = {}

    def compute_score(data_source, solution_str, ground_truth, extra_info=None):  # type: ignore[no-untyped-def]
        seen.update(data_source=data_source, extra_info=extra_info)
        right = solution_str == ground_truth
        return {"score": 1.0 if right else -1.0, "acc": right, "pred": solution_str, "overlong": 0.5}

    right, wrong = verdict(Reward((compute_score,))), verdict(Reward((compute_score,)), completion="5")
    assert seen == {"data_source": "gsm", "extra_info": {"index": 7}}
    assert (right.reward, right.correct, right.answer, right.parts) == (1.0, True, "4", {"overlong": 0.5})
    assert (wrong.reward, wrong.outcome, wrong.answer) == (-1.0, "wrong", "5")
    assert verdict(Reward((lambda data_source, solution_str, ground_truth: 0.5,))).reward == 0.5
    nan = verdict(Reward((lambda solution_str, ground_truth: {"score": float("nan")},)))
    assert nan.outcome == "error" and "reward nan" in nan.detail
    assert "a dict without 'score'; it has: value" in verdict(Reward((lambda solution_str: {"value": 1},))).detail


def test_weighted_sum_of_several_functions() -> None:
    """Hand value: 2·1 + 0.5·0.5 = 2.25; correct from the full mark 2.5 on, or from correct_at."""

    def right(completions, **kwargs):  # type: ignore[no-untyped-def]
        return [1.0]

    def half(completions, **kwargs):  # type: ignore[no-untyped-def]
        return [0.5]

    def declines(completions, **kwargs):  # type: ignore[no-untyped-def]
        return [None]

    both = verdict(Reward((right, half), (2.0, 0.5)))
    assert (both.reward, both.correct, both.parts) == (2.25, False, {"right": 1.0, "half": 0.5})
    assert verdict(Reward((right, half), (2.0, 0.5), correct_at=2.0)).correct
    declined = verdict(Reward((right, declines)))
    assert (declined.reward, declined.correct, declined.outcome) == (1.0, True, "correct")
    assert verdict(Reward((declines, declines))).outcome == "error"
    broken = verdict(Reward((right, lambda prompt, completion: math.nan)))
    assert broken.outcome == "error" and "<lambda> returned reward nan" in broken.detail


def test_who_declines_does_not_make_a_right_answer_wrong() -> None:
    """Hand values. The full mark is that of the functions that judged; penalties lower the total, never the mark."""

    def gives(value: float | None) -> Any:
        return lambda prompt, completion: value

    for values, weights, reward, correct in (
        ((1.0, None), (1.0, 1.0), 1.0, True),
        ((None, 1.0), (3.0, 0.5), 0.5, True),
        ((0.5, None), (1.0, 1.0), 0.5, False),
        ((1.0, None, 1.0), (0.1, 0.2, 0.3), 0.4, True),
        ((1.0, 0.0), (1.0, -0.5), 1.0, True),
        ((1.0, 1.0), (1.0, -0.5), 0.5, False),
        ((0.5, 0.0), (1.0, -0.5), 0.5, False),
        ((None, 0.0), (1.0, -0.5), 0.0, False),
        ((None, 1.0), (1.0, -0.5), -0.5, False),
        ((0.0, 1.0), (1.0, 0.0), 0.0, False),
    ):
        found = verdict(Reward(tuple(map(gives, values)), weights))
        assert (found.reward, found.correct) == (pytest.approx(reward), correct), (values, weights)
        assert found.outcome == ("correct" if correct else "wrong")
    assert verdict(Reward((gives(1.0), gives(None)), (2.0, 1.0), correct_at=2.5)).correct is False
    assert verdict(Reward((gives(1.0), gives(None)), (2.0, 1.0), correct_at=2.0)).correct is True


def test_simple_function_and_verdict() -> None:
    assert verdict(Reward((lambda prompt, completion: completion == prompt.answer,))).outcome == "correct"
    given = Verdict(0.7, correct=True, answer="x", outcome="correct", parts={"style": 0.7})
    assert verdict(Reward((lambda prompt, completion: given,))) == given
    timeout = verdict(Reward((lambda prompt, completion: Verdict(0.0, outcome="timeout", detail="slow judge"),)))
    assert (timeout.outcome, timeout.detail) == ("timeout", "slow judge")
    bad = verdict(Reward((lambda prompt, completion: Verdict(1.0, outcome="maybe"),)))  # type: ignore[arg-type]
    assert bad.outcome == "error" and "outcome 'maybe'; allowed: correct, wrong" in bad.detail
    part = verdict(Reward((lambda prompt, completion: Verdict(1.0, parts={"style": math.nan}),)))
    assert part.outcome == "error" and "part style=nan" in part.detail


def test_signatures_are_checked_before_work() -> None:
    def needs(completions, solution, **kwargs):  # type: ignore[no-untyped-def]
        return [1.0]

    with pytest.raises(
        ConfigError, match=r"needs needs the column 'solution'; did you mean 'solutions'\?; the data has"
    ):
        check_reward(Reward((needs,)), ["prompt", "solutions"])
    check_reward(Reward((needs,)), ["solution"])
    with pytest.raises(ConfigError, match=r"<lambda>\(a, b, c\): must take \(prompt, completion\)"):
        check_reward(Reward((lambda a, b, c: 1.0,)), [])
    with pytest.raises(ConfigError, match="2 reward weights for 1 reward functions"):
        check_reward(Reward((needs,), (1.0, 2.0)), ["solution"])
    with pytest.raises(ConfigError, match="reward style 'tlr': must be one of auto, trl"):
        check_reward(Reward((needs,), style="tlr"), ["solution"])


def test_specs_name_what_is_missing(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def reward(prompt, completion):\n    return 1.0\nvalue = 3\n")
    assert verdict(Reward((f"{file}:reward",))).reward == 1.0
    assert load_object("math:sqrt")(4) == 2
    for spec, message in {
        f"{file}:rewad": "has no 'rewad'; did you mean 'reward'",
        f"{tmp_path}/none.py:reward": "none.py: no such file",
        "reward": "must be 'file.py:name' or 'package.module:name'",
        "no_such_module:f": "no_such_module could not be loaded: ModuleNotFoundError",
    }.items():
        with pytest.raises(ConfigError, match=message):
            load_object(spec)
    with pytest.raises(ConfigError, match="is not callable"):
        check_reward(Reward((f"{file}:value",)), [])
    broken = tmp_path / "broken.py"
    broken.write_text("def f(:\n")
    with pytest.raises(ConfigError, match="broken.py could not be loaded: SyntaxError"):
        load_object(f"{broken}:f")


def test_matches_what_trl_itself_computes() -> None:
    """Oracle: TRL's own reward functions called in TRL's way, on a batch; ours calls them one completion at a time."""
    rewards = pytest.importorskip("trl.rewards")
    completions = ["<think>a</think>b", "b", "<think>a</think><think>b</think>"]
    batch = rewards.think_format_reward([[{"role": "assistant", "content": text}] for text in completions])
    ours = [verdict(Reward((rewards.think_format_reward,)), completion=text).reward for text in completions]
    assert ours == batch and len(set(batch)) == 2


def test_matches_what_verl_itself_computes() -> None:
    """Oracle: verl's own GSM8K score, called directly."""
    score = pytest.importorskip("verl.utils.reward_score.gsm8k")
    prompt = Prompt("q", answer="72", meta={"columns": {"data_source": "openai/gsm8k"}})
    for completion in ("#### 72", "#### 71", "72"):
        ours = verdict(
            Reward((lambda solution_str, ground_truth: score.compute_score(solution_str, ground_truth),)),
            prompt,
            completion,
        )
        assert ours.reward == score.compute_score(completion, "72")


def test_objects_that_look_like_nothing_are_errors() -> None:
    assert read_fields(SimpleNamespace(score=1), "f")["outcome"] == "error"
    assert read_fields({"score": 1}, "f")["outcome"] == "error"
