"""Advantages that ascend pass@k, against every subset and every outcome written out."""

from __future__ import annotations

import itertools
from random import Random

import pytest
import torch

from maths_batches import batch_of, make_group
from onedial.core.algorithm_table import ALGORITHMS
from onedial.core.maths.advantage import advantages
from onedial.core.maths.best_of_k import best_of_k_advantages


def by_enumeration(rewards: list[float], i: int, k: int) -> float:
    """k·(mean over the sets of k with rollout i of their best reward − the same over the sets without it)."""
    sets = list(itertools.combinations(range(len(rewards)), k))
    best = {members: max(rewards[m] for m in members) for members in sets}
    have, lack = ([best[members] for members in sets if (i in members) == with_i] for with_i in (True, False))
    return k * (sum(have) / len(have) - sum(lack) / len(lack))


@pytest.mark.parametrize("size", range(2, 8))
@pytest.mark.parametrize("values", [(0.0, 1.0), (0.0, 0.25, 0.5, 1.0)], ids=["binary", "graded"])
def test_each_advantage_is_the_mean_over_all_subsets(size: int, values: tuple[float, ...]) -> None:
    """Oracle: every subset of k of the group."""
    random = Random(size)
    for k in range(1, size):
        rewards = [random.choice(values) for _ in range(size)]
        got = best_of_k_advantages(torch.tensor(rewards, dtype=torch.double), torch.zeros(size, dtype=torch.long), k)
        assert got.tolist() == pytest.approx([by_enumeration(rewards, i, k) for i in range(size)], abs=1e-12)


def test_by_hand() -> None:
    """Oracle: 1, 0, 0 and k = 2. With the right one every pair has it, without it none: 2·(1 − 0). A wrong one is in a
    pair with the right one half of the time, and the pair without it always has it: 2·(½ − 1)."""
    row = ALGORITHMS["pass_at_k"]
    group = make_group([1.0, 0.0, 0.0])
    rewards = batch_of(row, [group])["reward"]
    assert best_of_k_advantages(rewards, torch.zeros(3, dtype=torch.long), 2).tolist() == [2.0, -1.0, -1.0]


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_expected_gradient_is_that_of_pass_at_k(k: int) -> None:
    """Oracle: d/dp [1 − (1 − p)^k] = k·(1 − p)^(k − 1), and all 2^4 outcomes of a group with their probabilities; the
    score of a right answer is 1/p, that of a wrong one −1/(1 − p)."""
    p, size, gradient = 0.3, 4, 0.0
    for outcome in itertools.product((1.0, 0.0), repeat=size):
        rewards = torch.tensor(outcome, dtype=torch.double)
        found = best_of_k_advantages(rewards, torch.zeros(size, dtype=torch.long), k)
        score = rewards / p - (1 - rewards) / (1 - p)
        chance = p ** sum(outcome) * (1 - p) ** (size - sum(outcome))
        gradient += chance * float((found * score).mean())
    assert gradient == pytest.approx(k * (1 - p) ** (k - 1), abs=1e-12)


def test_ragged_groups_and_silent_ones() -> None:
    """Oracle: each group alone; k = 1 is RLOO; groups that agree, and groups of one, have exactly 0; a group of two
    takes k = 1."""
    rewards = torch.tensor([1.0, 0, 1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.1, 1, 0, 0, 0.3], dtype=torch.double)
    group = torch.tensor([0, 0, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3, 3, 4])
    got = advantages(ALGORITHMS["pass_at_k"], rewards, group)
    assert got[:2].tolist() == [1.0, -1.0] and not got[2:10].any() and float(got[13]) == 0
    assert got[10:13].tolist() == pytest.approx([by_enumeration([1.0, 0, 0], i, 2) for i in range(3)])
    loo = advantages(ALGORITHMS["rloo"], rewards, group)
    torch.testing.assert_close(best_of_k_advantages(rewards, group, 1), loo)
