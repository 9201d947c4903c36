"""Segment reductions over ragged groups."""

from __future__ import annotations

import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from onedial.core.maths.segments import group_mean, group_size, group_std, group_sum, group_unanimous, num_groups

REWARDS = st.floats(-10, 10, allow_nan=False, width=32)
RAGGED = st.lists(st.lists(REWARDS, min_size=1, max_size=9), min_size=1, max_size=9)


def _flat(groups: list[list[float]], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rewards and group numbers in a shuffled order: rows of a group need not be neighbours."""
    group = torch.tensor([number for number, rewards in enumerate(groups) for _ in rewards])
    values = torch.tensor([reward for rewards in groups for reward in rewards], dtype=torch.double)
    order = torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))
    return values[order], group[order]


@settings(max_examples=60, deadline=None)
@given(RAGGED, st.integers(0, 99))
def test_reductions_equal_the_standard_library(groups: list[list[float]], seed: int) -> None:
    """Oracle: Python's statistics, group by group."""
    values, group = _flat(groups, seed)
    assert num_groups(group) == len(groups)
    assert group_size(group).tolist() == [len(rewards) for rewards in groups]
    assert group_sum(values, group).tolist() == pytest.approx([sum(rewards) for rewards in groups], abs=1e-9)
    assert group_mean(values, group).tolist() == pytest.approx([statistics.fmean(r) for r in groups], abs=1e-9)
    assert group_unanimous(values, group).tolist() == [max(r) == min(r) for r in groups]
    population = [statistics.pstdev(r) for r in groups]
    sample = [statistics.stdev(r) if len(r) > 1 else 0.0 for r in groups]
    assert group_std(values, group, 0).tolist() == pytest.approx(population, rel=1e-9, abs=1e-7)
    assert group_std(values, group, 1).tolist() == pytest.approx(sample, rel=1e-9, abs=1e-7)


@pytest.mark.parametrize(("right", "size"), [(1, 2), (1, 4), (3, 8), (15, 16)])
def test_std_of_binary_rewards(right: int, size: int) -> None:
    """Oracle: the closed form √(k(G−k))/G, and its Bessel-corrected √(k(G−k)/(G(G−1)))."""
    rewards = torch.tensor([1.0] * right + [0.0] * (size - right), dtype=torch.double)
    group = torch.zeros(size, dtype=torch.long)
    product = right * (size - right)
    assert float(group_std(rewards, group)) == pytest.approx(product**0.5 / size, rel=1e-12)
    assert float(group_std(rewards, group, 1)) == pytest.approx((product / (size * (size - 1))) ** 0.5, rel=1e-12)


def test_float_unanimity_of_the_589_cases() -> None:
    """Equal rewards of 0.05 … 0.95 in groups of 2 … 32: unanimous with std exactly 0 in all 589 cases.

    Oracle: the definition. The naive test `std != 0` is wrong in many of them, which is shown, so that the test
    would catch a return to it.
    """
    naive_wrong = 0
    for step in range(1, 20):
        for size in range(2, 33):
            for dtype in (torch.float32, torch.float64):
                rewards = torch.full((size,), step * 0.05, dtype=dtype)
                group = torch.zeros(size, dtype=torch.long)
                assert bool(group_unanimous(rewards, group))
                assert float(group_std(rewards, group, 0)) == 0.0 == float(group_std(rewards, group, 1))
            naive_wrong += float((rewards - rewards.sum() / size).square().mean().sqrt()) != 0.0
    assert naive_wrong > 50


def test_no_rows_and_group_numbers_without_rows() -> None:
    """Oracle: the documented values for nothing: no groups, and 0 for a number that no row has."""
    nothing = torch.zeros(0, dtype=torch.double)
    assert group_sum(nothing, torch.zeros(0, dtype=torch.long)).shape == (0,)
    assert group_std(nothing, torch.zeros(0, dtype=torch.long)).shape == (0,)
    values, group = torch.tensor([1.0, 0.0]), torch.tensor([2, 2])
    assert group_size(group).tolist() == [0, 0, 2]
    assert group_mean(values, group).tolist() == [0.0, 0.0, 0.5]
    assert group_std(values, group).tolist() == [0.0, 0.0, 0.5]
