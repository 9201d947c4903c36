"""Rewards to advantages: conventions of every library, ragged groups, and the traps peers fell into."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from onedial.core.algorithm import Algorithm
from onedial.core.algorithm_table import ALGORITHMS
from onedial.core.maths.advantage import advantages, overlong_penalty

GRPO = ALGORITHMS["naive_grpo"]
EXACT = replace(GRPO, name="exact", eps=1e-12)


def _advantages(row: Algorithm, *groups: list[float]) -> list[list[float]]:
    """Advantages of several groups of rewards, given in one batch, as lists again."""
    rewards = torch.tensor([reward for group in groups for reward in group], dtype=torch.double)
    number = torch.tensor([g for g, group in enumerate(groups) for _ in group])
    return [part.tolist() for part in advantages(row, rewards, number).split([len(group) for group in groups])]


def test_hand_values_of_each_dial() -> None:
    """Oracle: by hand for [1, 0, 0, 0]: mean ¼, σ̂ = √3/4; A = (r − ¼)/σ̂^α."""
    sigma = 3**0.5 / 4
    for dial in (0.0, 0.5, 1.0, 2.0):
        ((first, second, *_),) = _advantages(replace(EXACT, dial=dial), [1.0, 0.0, 0.0, 0.0])
        assert first == pytest.approx(0.75 / sigma**dial, rel=1e-9)
        assert second == pytest.approx(-0.25 / sigma**dial, rel=1e-9)


def test_eps_joins_sigma() -> None:
    """Oracle: by hand for [1, 0] with eps 0.5: A = ±½/(½ + ½)."""
    assert _advantages(replace(GRPO, eps=0.5), [1.0, 0.0]) == [[0.5, -0.5]]


def test_pairs_have_advantage_plus_and_minus_one() -> None:
    """C13: a pair gives ±1 with the population std and ±0.707 with ddof=1 (torch's default, TRL and verl).

    Oracle: by hand, σ̂ of {0, 1} is ½, its Bessel-corrected value 1/√2.
    """
    assert _advantages(EXACT, [1.0, 0.0])[0] == pytest.approx([1.0, -1.0], rel=1e-9)
    assert _advantages(replace(EXACT, ddof=1), [0.0, 1.0])[0] == pytest.approx([-(0.5**0.5), 0.5**0.5], rel=1e-9)
    # the gap between two rewards never matters, only their order
    assert _advantages(EXACT, [0.3, 0.1])[0] == pytest.approx([1.0, -1.0], rel=1e-9)


@pytest.mark.parametrize("size", [2, 3, 8, 64])
def test_std_conventions_differ_by_a_constant(size: int) -> None:
    """C13: ddof=1 scales every advantage by √((G−1)/G), nothing else. Oracle: the algebra of Bessel's correction."""
    rewards = [1.0] + [0.0] * (size - 1)
    population, sample = (_advantages(replace(EXACT, ddof=ddof), rewards)[0] for ddof in (0, 1))
    assert sample == pytest.approx([value * ((size - 1) / size) ** 0.5 for value in population], rel=1e-9)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=9), min_size=1, max_size=9))
def test_leave_one_out_is_a_scaled_group_mean(groups: list[list[int]]) -> None:
    """Oracle: r − mean of others = G/(G−1) · (r − mean), for every ragged batch; a group of one gives 0."""
    plain = replace(EXACT, dial=0.0)
    rewards = [[r / 4 for r in group] for group in groups]
    loo = _advantages(replace(plain, baseline="leave_one_out"), *rewards)
    mean = _advantages(plain, *rewards)
    for group, a, b in zip(groups, loo, mean, strict=True):
        size = len(group)
        factor = size / (size - 1) if size > 1 else 0.0
        assert a == pytest.approx([factor * value for value in b], abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=9), min_size=1, max_size=9), st.integers(0, 99))
def test_ragged_groups_do_not_touch_each_other(groups: list[list[int]], seed: int) -> None:
    """Oracle: every group alone gives what it gives in any company, in any order of rows."""
    rewards = torch.tensor([float(r) for group in groups for r in group])
    number = torch.tensor([g for g, group in enumerate(groups) for _ in group])
    order = torch.randperm(len(rewards), generator=torch.Generator().manual_seed(seed))
    together = torch.empty_like(rewards, dtype=torch.double)
    together[order] = advantages(GRPO, rewards[order], number[order])
    alone = [value for group in groups for value in _advantages(GRPO, [float(r) for r in group])[0]]
    assert together.tolist() == pytest.approx(alone, abs=1e-12)


def test_float_unanimity_gives_exactly_zero_in_all_589_cases() -> None:
    """C4: equal rewards of 0.05 … 0.95, G = 2 … 32, have no advantage at all, by either centring baseline.

    Oracle: the definition; dividing what rounding leaves of r − mean by σ̂ ≈ 0 gives numbers of any size.
    """
    for baseline in ("group_mean", "leave_one_out"):
        for dial in (0.0, 1.0, 2.0):
            row = replace(EXACT, baseline=baseline, dial=dial)
            groups = [[step * 0.05] * size for step in range(1, 20) for size in range(2, 33)]
            assert {value for group in _advantages(row, *groups) for value in group} == {0.0}


def test_lone_success_keeps_its_advantage_under_leave_one_out() -> None:
    """C5: σ̂ is the whole group's, never that of the others, which is 0 for the lone success and for its like
    [0, 0.95 ×7], where peers reached −2075.

    Oracle: by hand, r − mean of others is 1 and −⅓, σ̂ = √3/4; and |A| ≤ G/(G−1) · √(G−1) for any rewards.
    """
    row = replace(EXACT, baseline="leave_one_out")
    (lone,) = _advantages(row, [1.0, 0.0, 0.0, 0.0])
    assert lone == pytest.approx([value * 4 / 3**0.5 for value in (1, -1 / 3, -1 / 3, -1 / 3)], rel=1e-9)
    (near,) = _advantages(row, [0.0] + [0.95] * 7)
    assert max(abs(value) for value in near) == pytest.approx(8 / 7 * 7**0.5, rel=1e-9)


def test_silence_is_judged_in_the_group_under_batch_scaling() -> None:
    """C3: with scale_over='batch' a unanimous group is silent although the batch has a spread, and σ̂ is the batch's.

    Oracle: by hand: rewards 1,1 | 1,0 have σ̂ = √3/4 over all four, and the second group's mean is ½.
    """
    row = replace(EXACT, scale_over="batch")
    silent, mixed = _advantages(row, [1.0, 1.0], [1.0, 0.0])
    assert silent == [0.0, 0.0]
    assert mixed == pytest.approx([0.5 / (3**0.5 / 4), -0.5 / (3**0.5 / 4)], rel=1e-9)


def test_callable_baseline_is_called_once_per_size_and_keeps_row_order() -> None:
    """Oracle: the group mean written as a person's (N, G) function gives what the built-in one gives."""
    calls: list[tuple[int, ...]] = []

    def mean(rewards: torch.Tensor) -> torch.Tensor:
        calls.append(tuple(rewards.shape))
        return rewards.mean(1, keepdim=True)

    rewards = torch.tensor([1.0, 0.0, 3.0, 0.0, 1.0, 5.0, 0.0, 0.0])
    number = torch.tensor([1, 0, 2, 1, 0, 3, 3, 3])  # sizes 2, 2, 1, 3, rows interleaved
    row = replace(EXACT, dial=0.0)
    custom = advantages(replace(row, baseline=mean), rewards, number)
    torch.testing.assert_close(custom, advantages(row, rewards, number))
    assert sorted(calls) == [(1, 1), (1, 3), (2, 2)]


def test_no_baseline_leaves_the_reward() -> None:
    """Oracle: REINFORCE without baseline: A = r."""
    assert _advantages(ALGORITHMS["reinforce"], [1.0, 0.0], [1.0]) == [[1.0, 0.0], [1.0]]


def test_negative_rewards_keep_their_order() -> None:
    """C13: a group of negative mean does not turn its signs around, as dividing by the mean would.

    Oracle: shifting all rewards changes no centred advantage.
    """
    assert _advantages(EXACT, [-1.0, -3.0])[0] == pytest.approx(_advantages(EXACT, [3.0, 1.0])[0], rel=1e-12)


def test_overlong_penalty_by_hand() -> None:
    """Oracle: DAPO's Eq. 13 with its own numbers, L = 20480 and a buffer of 4096: 0, 0, −¼, −1, and −1 beyond."""
    lengths = torch.tensor([1, 16384, 17408, 20480, 30000])
    assert overlong_penalty(lengths, 20480, 4096).tolist() == [0.0, 0.0, -0.25, -1.0, -1.0]
