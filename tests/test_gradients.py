"""Gradients of single groups, their sketch, and what two halves of a group say of signal and noise.

Oracles: autograd on separate unpadded forwards, exact inner products, and a simulation whose ρ is known.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from maths_batches import MAX_TOKENS, batch_of, make_group, ragged_groups
from onedial.core.algorithm_table import ALGORITHMS
from onedial.core.batch import Counts
from onedial.core.maths.half_split import HalfSplit, estimate_signal, noise_factor, split_rewards
from onedial.core.maths.loss import policy_loss
from onedial.core.settings import Run
from onedial.training.trainer.gradients import GradientSketch, choose_parameters, flatten, group_batches, take_gradient
from onedial.training.trainer.policy import Policy

SLOPE = replace(ALGORITHMS["reinforce"], name="slope", baseline="group_mean", dial=2.0, eps=1e-12)


@pytest.fixture(scope="module")
def policy(tiny_model: Path) -> Policy:
    run = Run(
        model=str(tiny_model), algorithm=ALGORITHMS["naive_grpo"], device="cpu", dtype="float32", threads=1,
        micro_batch_tokens=24, max_new_tokens=MAX_TOKENS,
    )  # fmt: skip
    return Policy(run, tiny_model)


# --- gradients of groups -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["naive_grpo", "dapo", "rloo", "gspo", "lpo"])
def test_the_gradient_of_a_group_is_that_of_plain_forwards(policy: Policy, tiny_model: Path, name: str) -> None:
    """Oracle: autograd through Hugging Face's own forward of one sequence at a time, to 1e-5; micro-batches of 24
    tokens cut the larger groups."""
    from test_identities import _plain_logps, _plain_model

    row, plain = ALGORITHMS[name], _plain_model(tiny_model, torch.float32)
    batch = batch_of(row, ragged_groups(3))
    whole = policy.weights.parameters
    names = dict(zip(policy.weights.names, whole, strict=True))
    for group in group_batches(batch)[2:5]:
        if not bool((group["advantage"] != 0).any()):
            continue
        got = take_gradient(policy, row, group, whole, flatten)
        logp = _plain_logps(plain, group)
        loss = policy_loss(row, group.annotate(logp=logp), Counts.of(group)).loss
        parts = torch.autograd.grad(loss, [dict(plain.named_parameters())[key] for key in names])
        wanted = -torch.cat([part.flatten() for part in parts])
        assert float((got - wanted).norm() / wanted.norm()) < 1e-5


def test_the_gradients_of_training_are_left_alone(policy: Policy) -> None:
    batch = batch_of(ALGORITHMS["naive_grpo"], [make_group([1.0, 0.0, 1.0])])
    take_gradient(policy, ALGORITHMS["naive_grpo"], batch, policy.weights.parameters, flatten)
    assert all(weight.grad is None for weight in policy.weights.parameters)


def test_a_probe_looks_at_matrices_of_every_fourth_block() -> None:
    """Oracle: names counted by hand; ten blocks, of which 1, 5 and 9, and only what has two dimensions."""
    module = nn.Module()
    module.layers = nn.ModuleList(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)) for _ in range(10))
    module.embedding = nn.Embedding(3, 2)
    model = nn.Module()
    model.base = module
    chosen = {id(weight) for weight in choose_parameters(model)}
    names = [name for name, weight in model.named_parameters() if id(weight) in chosen]
    assert names == [f"base.layers.{number}.0.weight" for number in (1, 5, 9)]
    assert len(choose_parameters(nn.Linear(2, 2))) == 2


# --- sketch ------------------------------------------------------------------------------------------------------


def test_inner_products_of_sketches_are_unbiased() -> None:
    """Oracle: exact inner products. Over 4,000 seeds the mean lies within four standard errors, and the spread of one
    is what random signs give: Var ≈ (‖x‖²‖y‖² + ⟨x, y⟩²)/size at most."""
    generator = torch.Generator().manual_seed(1)
    x = [torch.randn(7, 5, generator=generator), torch.randn(30, generator=generator)]
    y = [a + 0.5 * torch.randn(a.shape, generator=generator) for a in x]
    flat_x, flat_y = flatten(x), flatten(y)
    exact = float(flat_x @ flat_y)
    got = np.array(
        [float(sketch(x) @ sketch(y)) for sketch in (GradientSketch(x, size=11, seed=seed) for seed in range(4000))]
    )
    bound = (float(flat_x @ flat_x) * float(flat_y @ flat_y) + exact**2) / 11
    assert abs(got.mean() - exact) < 4 * got.std() / 4000**0.5
    assert 0.2 * bound < got.var() < 1.5 * bound


def test_a_sketch_is_linear_and_the_same_for_a_seed() -> None:
    x, y = [torch.randn(9, 9)], [torch.randn(9, 9)]
    sketch = GradientSketch(x, size=17, seed=3)
    torch.testing.assert_close(sketch([2 * x[0] + y[0]]), 2 * sketch(x) + sketch(y))
    assert torch.equal(sketch(x), GradientSketch(x, size=17, seed=3)(x))
    assert not torch.equal(sketch(x), GradientSketch(x, size=17, seed=4)(x))


# --- halves ------------------------------------------------------------------------------------------------------


def test_halves_are_disjoint_and_mixed_where_they_can_be() -> None:
    assert split_rewards([1, 0, 0, 1, 0, 0]) == ([0, 1, 4], [2, 3, 5])
    assert split_rewards([1.0, 0.0, 0.0, 0.0]) is None, "one correct rollout cannot be in both"
    assert split_rewards([1.0, 0.0]) is None and split_rewards([]) is None
    halves = split_rewards([0.1, 0.7, 0.3, 0.9, 0.5])
    assert halves is not None and sorted(halves[0] + halves[1]) == [0, 1, 2, 3, 4]


def test_noise_factor_by_hand() -> None:
    """Four rewards with one 1: σ̂² = 3/16, so 1/(4·3/16) = 4/3; the means of 1 and of 3 scores: 1/1 + 1/3."""
    assert noise_factor([1, 0, 0, 0]) == pytest.approx(4 / 3)
    assert noise_factor([2, 0, 0, 0]) == pytest.approx(1 / 3), "rewards twice as far apart: half the slope"


@pytest.mark.parametrize("rho", [0.02, 0.2, 2.0])
def test_the_estimate_recovers_a_known_ratio(rho: float) -> None:
    """Oracle: scores drawn with ‖δ‖² = ρ and V = 1 in 60 dimensions, 3,000 groups of 8 with rates between 0.2 and 0.8;
    ρ, ‖δ‖² and V come out within 10 %."""
    random = np.random.default_rng(7)
    dimensions, splits = 60, []
    for _ in range(3000):
        direction = random.normal(size=dimensions)
        delta = direction / np.linalg.norm(direction) * rho**0.5
        rewards = (random.random(8) < random.uniform(0.2, 0.8)).astype(float)
        halves = split_rewards(rewards.tolist())
        if halves is None:
            continue
        scores = rewards[:, None] * delta + random.normal(size=(8, dimensions)) / dimensions**0.5
        slopes = []
        for half in halves:
            centered = rewards[half] - rewards[half].mean()
            slopes.append(centered @ scores[half] / (centered @ centered))
        noise = sum(noise_factor(rewards[half].tolist()) for half in halves)
        splits.append(HalfSplit(slopes[0] @ slopes[1], (slopes[0] @ slopes[0], slopes[1] @ slopes[1]), noise))
    found = estimate_signal(splits)
    assert found is not None and found.groups == len(splits)
    assert found.noise == pytest.approx(1.0, rel=0.05)
    assert found.rho == pytest.approx(rho, rel=0.1, abs=0.006)


def test_no_groups_give_no_estimate() -> None:
    assert estimate_signal([]) is None
    assert estimate_signal([HalfSplit(1.0, (1.0, 1.0), 1.0)]) is None, "equal halves: no noise to divide by"


def test_the_slope_of_scores_is_a_row(policy: Policy) -> None:
    """What the probe takes of a half is Cov(r, s)/Var(r). Oracle: scores one by one, with graded rewards."""
    group = make_group([0.0, 1.0, 0.25, 0.75], seed=2)
    batch = batch_of(SLOPE, [group])
    got = take_gradient(policy, SLOPE, batch, policy.weights.parameters, flatten)
    scores = []
    for number in range(4):
        one = batch.select([number])
        logp, _ = policy.logps(one)
        scores.append(flatten(torch.autograd.grad(logp.sum(), policy.weights.parameters)))
    rewards = torch.tensor(group.rewards)
    centered = rewards - rewards.mean()
    wanted = (centered[:, None] * torch.stack(scores)).sum(0) / (centered @ centered)
    assert float((got - wanted).norm() / wanted.norm()) < 1e-4
