"""The row type and the table: sound rows stand, contradictory ones are refused with the reason."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
import torch

from onedial.core.algorithm import Algorithm
from onedial.core.algorithm_rules import find_contradictions
from onedial.core.algorithm_table import ALGORITHMS, get_algorithm
from onedial.core.errors import ConfigError
from onedial.core.field_rules import get_rules

CHOICES = {name: rule.choices for name, rule in get_rules(Algorithm).items() if rule.choices}
CRITIC: dict[str, Any] = {"baseline": "critic", "dial": 0.0}
DEMONSTRATIONS = ALGORITHMS["sft"].cells() | {"name": "mine"}
PAIRS = ALGORITHMS["dpo"].cells() | {"name": "mine"}

# Settings that break exactly one rule of `contradictions`, with a word of the reason it must give.
CONTRADICTORY: list[tuple[dict[str, Any], str]] = [
    ({"ratio_level": "none", "clip_low": 0.2, "clip_high": 0.2}, "ratio_level='none' has no ratio"),
    ({"clip_low": 0.2}, "set both or neither"),
    ({"clip_high": 0.2}, "set both or neither"),
    ({"ratio_level": "sequence", "clip_dual": 3.0}, "it needs ratio_level='token'"),
    ({"ratio_level": "none", "clip_dual": 3.0}, "it needs ratio_level='token'"),
    ({"ratio_level": "none", "updates_per_iteration": 2}, "needs a ratio"),
    ({"baseline": "none"}, "set dial=0"),
    ({"scale_over": "batch", "dial": 0.0}, "dial=0 does not divide"),
    ({"refill": True}, "set keep='mixed'"),
    ({"keep": "mixed", "group_size": 1, "baseline": "none", "dial": 0.0}, "drops every group of one"),
    ({"group_size": 1}, "leaves nothing to learn"),
    ({"group_size": 1, "baseline": "leave_one_out"}, "leaves nothing to learn"),
    ({"pass_k": 4}, "set baseline='leave_one_out' and dial=0"),
    ({"pass_k": 4, "baseline": "leave_one_out", "dial": 0.0, "group_size": 4}, "set group_size > pass_k"),
    ({"listwise": "forward"}, "set aggregate='sequence_sum'"),
    ({"listwise": "forward", "aggregate": "sequence_sum", "baseline": "leave_one_out"}, "set baseline='group_mean'"),
    ({"listwise": "forward", "aggregate": "sequence_sum", "overlong": "mask"}, "out of the list"),
    ({"correction_floor": 2.0}, "must be below correction_cap=2"),
    ({"overlong_buffer": 4}, "overlong='penalty' and 'mask_and_penalty' only"),
    ({"overlong": "mask", "overlong_buffer": 4}, "overlong='penalty' and 'mask_and_penalty' only"),
    ({"length_budget": 100}, "aggregate='fixed_length' only"),
    ({"baseline": "critic"}, "a critic's advantages know no group"),
    ({"whiten": True, "gamma": 0.9}, "gamma, whiten speaks of a critic"),
    ({"baseline": "critic", "dial": 0.0, "lambda_length": 0.05, "lambda_policy": 0.9}, "lambda_policy has no say"),
    ({**CRITIC, "source": "reference", "reward": "correct"}, "set source='policy'"),
    ({"preference_beta": 0.1}, "set both or neither"),
    ({**PAIRS, "preference_beta": 0.0}, "set both or neither"),
    ({**DEMONSTRATIONS, "reward": "task"}, "source='dataset' has no verdicts"),
    ({"reward": "one"}, "it is for source='dataset'"),
    ({**DEMONSTRATIONS, "group_size": None}, "gives groups of 1"),
    ({**PAIRS, "group_size": 3}, "gives groups of 2"),
    ({**DEMONSTRATIONS, "ratio_level": "token"}, "knows no sampler's probabilities"),
    ({**DEMONSTRATIONS, "sampler_correction": "truncate"}, "knows no sampler's probabilities"),
    ({**PAIRS, "aggregate": "token_mean", "kl_coef": 0.1}, "set kl_coef=0, aggregate='sequence_sum'"),
]

OUT_OF_RANGE: list[tuple[str, Any]] = [
    ("dial", -0.1),
    ("dial", 4.1),
    ("dial", float("nan")),
    ("ddof", 2),
    ("eps", 0.0),
    ("clip_low", 0.0),
    ("clip_low", 1.0),
    ("clip_high", 0.0),
    ("clip_dual", 1.0),
    ("length_budget", 0),
    ("kl_coef", -1e-9),
    ("pass_k", 0),
    ("entropy_coef", -0.1),
    ("overlong_buffer", -1),
    ("updates_per_iteration", 0),
    ("group_size", 0),
    ("positive_nll", -0.1),
    ("correction_cap", 0.0),
    ("correction_floor", -0.1),
    ("gamma", 0.0),
    ("gamma", 1.1),
    ("lambda_policy", 1.1),
    ("lambda_length", -0.1),
    ("lambda_critic", -0.1),
    ("value_clip", 0.0),
    ("critic_warmup", -1),
    ("preference_beta", -0.1),
]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_row_is_sound(name: str) -> None:
    """Oracle: the rules of `contradictions`, and a paper or release, or a page of this project."""
    row = ALGORITHMS[name]
    assert find_contradictions(row) == []
    assert row.name == name == get_algorithm(name).name
    assert any(word in row.paper for word in ("Eq.", "§", "Table", "TRL 1", "verl 0", "arXiv", "docs/")), row.paper


def test_table_holds_what_the_papers_say() -> None:
    """Oracle: the papers' own statements, copied by hand from each equation."""
    grpo, dr, gspo = (ALGORITHMS[name] for name in ("grpo", "dr_grpo", "gspo"))
    assert (grpo.dial, grpo.kl_coef, grpo.kl_estimator, grpo.aggregate) == (1.0, 0.04, "k3", "sequence_mean")
    assert (dr.dial, dr.kl_coef, dr.aggregate) == (0.0, 0.0, "fixed_length")
    assert (gspo.ratio_level, gspo.clip_low, gspo.clip_high) == ("sequence", 3e-4, 4e-4)
    ppo, vapo = ALGORITHMS["ppo"], ALGORITHMS["vapo"]
    assert (ppo.clip_low, ppo.clip_high, ppo.gamma, ppo.lambda_policy, ppo.value_clip) == (0.2, 0.2, 1.0, 0.95, 0.2)
    assert (ppo.kl_in, ppo.kl_estimator, ppo.needs_critic) == ("reward", "k1", True)
    assert (vapo.lambda_length, vapo.lambda_critic, vapo.critic_warmup, vapo.positive_nll) == (0.05, 1.0, 50, 0.1)
    assert (vapo.clip_low, vapo.clip_high, vapo.aggregate, vapo.kl_coef) == (0.2, 0.28, "token_mean", 0.0)
    assert ALGORITHMS["two_grpo"].group_size == 2
    assert ALGORITHMS["rloo"].baseline == "leave_one_out" and ALGORITHMS["rloo"].ratio_level == "none"


@pytest.mark.parametrize(("cells", "reason"), CONTRADICTORY, ids=lambda value: str(value))
def test_contradictory_rows_are_refused_with_the_reason(cells: dict[str, Any], reason: str) -> None:
    """Oracle: one hand-made row per rule; the message names the row and the remedy."""
    with pytest.raises(ConfigError, match="'mine'") as caught:
        Algorithm(**{"name": "mine", **cells})
    assert reason in str(caught.value)


def test_every_rule_is_exercised() -> None:
    """Oracle: the rules themselves; each reason is given by one of the hand-made rows, unchecked rows included."""
    given = set()
    for cells, _ in CONTRADICTORY:
        row = object.__new__(Algorithm)  # a row that was never checked, so that all its reasons can be asked for
        for name, value in {**Algorithm("mine").cells(), **cells}.items():
            object.__setattr__(row, name, value)
        given.update(reason.split(" ")[0] + reason[-25:] for reason in find_contradictions(row))
    assert len(given) == 29  # 27 rules; that of a group of one names its baseline, that of a source its size


@pytest.mark.parametrize("cell", CHOICES)
def test_unknown_cell_value_shows_the_nearest(cell: str) -> None:
    """Oracle: an allowed value with one letter too many is the nearest match to itself."""
    value = max(CHOICES[cell], key=len)
    with pytest.raises(ConfigError) as caught:
        Algorithm("mine", **{cell: value + "x"})  # type: ignore[arg-type]
    message = str(caught.value)
    assert f"algorithm.{cell}={value + 'x'!r}" in message and f"did you mean {value!r}?" in message
    assert all(choice in message for choice in CHOICES[cell])


@pytest.mark.parametrize(("cell", "value"), OUT_OF_RANGE)
def test_numbers_out_of_range_are_refused(cell: str, value: Any) -> None:
    """Oracle: a value just outside the documented range of each numeric cell."""
    with pytest.raises(ConfigError, match=f"algorithm.{cell}="):
        Algorithm("mine", **{cell: value})


@pytest.mark.parametrize(
    "cells",
    [{"dial": 0.0}, {"dial": 4.0}, {"ddof": 1}, {"clip_low": 0.999, "clip_high": 9.0}, {"clip_dual": 1.001}],
    ids=str,
)
def test_edges_of_the_ranges_are_allowed(cells: dict[str, Any]) -> None:
    """Oracle: the documented closed ends of the ranges."""
    assert Algorithm("mine", **cells).name == "mine"


def test_empty_name_is_refused() -> None:
    """Oracle: the documented rule."""
    with pytest.raises(ConfigError, match="name is empty"):
        Algorithm("")


def test_replace_with_a_callable_baseline() -> None:
    """Oracle: the cell keeps the function itself, and its name stands for it in plain values."""

    def best_of_group(rewards: torch.Tensor) -> torch.Tensor:
        return rewards.amax(1, keepdim=True)

    row = replace(ALGORITHMS["dr_grpo"], name="best", baseline=best_of_group)
    assert row.baseline is best_of_group
    assert row.cells()["baseline"] == "best_of_group"
    assert ALGORITHMS["dr_grpo"].baseline == "group_mean"


def test_replace_checks_again() -> None:
    """Oracle: `replace` makes a new row, so a contradiction made by it is refused too."""
    with pytest.raises(ConfigError, match="set both or neither"):
        replace(ALGORITHMS["grpo"], clip_high=None)
    with pytest.raises(FrozenInstanceError):
        ALGORITHMS["grpo"].dial = 0.0  # type: ignore[misc]


def test_unknown_row_shows_the_nearest() -> None:
    """Oracle: 'drgrpo' is one character from 'dr_grpo'."""
    with pytest.raises(ConfigError, match="did you mean 'dr_grpo'") as caught:
        get_algorithm("drgrpo")
    assert "two_grpo" in str(caught.value)


def test_when_a_reference_takes_part() -> None:
    """Oracle: the definitions: any KL needs the reference, only KL in the loss gives every token a gradient."""
    off = ALGORITHMS["naive_grpo"]
    in_loss, in_reward = ALGORITHMS["grpo"], replace(ALGORITHMS["grpo"], kl_in="reward")
    assert [row.needs_reference for row in (off, in_loss, in_reward)] == [False, True, True]
    assert [row.kl_in_loss for row in (off, in_loss, in_reward)] == [False, True, False]
