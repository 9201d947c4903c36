"""The listwise loss of LPO, against torch's own divergences, hand values and the policy gradient it starts from."""

from __future__ import annotations

from dataclasses import replace
from math import exp, log

import pytest
import torch
from torch.nn.functional import kl_div

from maths_batches import batch_of, loss_and_gradient, make_group, ragged_groups, with_logps
from onedial.core.algorithm import Algorithm
from onedial.core.algorithm_table import ALGORITHMS
from onedial.core.batch import Batch, Counts
from onedial.core.maths.loss import contributes

LPO = ALGORITHMS["lpo"]
REVERSE = replace(LPO, name="reverse", listwise="reverse")


def moved(row: Algorithm) -> Batch:
    return with_logps(batch_of(row, [group for group in ragged_groups(0) if group.mixed]), 0)


def scores(batch: Batch) -> torch.Tensor:
    """(B,) log π/π_old of whole sequences, by a loop."""
    drift = batch["logp"] - batch["old_logp"]
    return torch.stack([drift[a:b].sum() for a, b in zip(batch.offsets[:-1], batch.offsets[1:], strict=True)])


@pytest.mark.parametrize("row", [LPO, REVERSE], ids=lambda row: row.name)
def test_the_loss_is_the_mean_divergence_of_the_groups(row: Algorithm) -> None:
    """Oracle: torch's softmax and kl_div, group by group, from rewards divided by numpy's population std."""
    batch = moved(row)
    values = []
    for number in range(len(batch.group_ids)):
        members = batch.group == number
        rewards = batch["reward"][members]
        policy = scores(batch)[members].double().log_softmax(0)
        target = (rewards / rewards.std(correction=0)).log_softmax(0)
        first, second = (policy, target) if row is LPO else (target, policy)
        values.append(kl_div(first, second, reduction="sum", log_target=True))
    loss, _ = loss_and_gradient(row, [batch], Counts.of(batch))
    assert loss == pytest.approx(float(torch.stack(values).mean()), rel=1e-5)


def test_by_hand_on_policy() -> None:
    """Oracle: rewards 1, 0 and τ = σ̂ = ½: the target is (e², 1)/(e² + 1), the policy (½, ½)."""
    batch = with_logps(batch_of(LPO, [make_group([1.0, 0.0], lengths=[2, 1])]), 0).annotate(old_logp=None)
    w = exp(2) / (exp(2) + 1)
    loss, (gradient,) = loss_and_gradient(LPO, [batch], Counts.of(batch))
    assert loss == pytest.approx(w * log(2 * w) + (1 - w) * log(2 * (1 - w)), rel=1e-5)
    assert gradient.tolist() == pytest.approx([0.5 - w, 0.5 - w, w - 0.5], rel=1e-5)


@pytest.mark.parametrize("dial", [0.0, 1.0])
def test_reverse_on_policy_is_the_group_policy_gradient(dial: float) -> None:
    """Oracle: GRPO (or Dr. GRPO) with sums over sequences, in groups of one size."""
    groups = [make_group([1.0, 0.0, 0.0], position=0), make_group([1.0, 1.0, 0.0], position=1)]
    plain = replace(ALGORITHMS["naive_grpo"], name="plain", dial=dial, aggregate="sequence_sum")
    gradients = []
    for row in (replace(REVERSE, dial=dial), plain):
        batch = with_logps(batch_of(row, groups), 0).annotate(old_logp=None)
        gradients.append(loss_and_gradient(row, [batch], Counts.of(batch))[1][0])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("row", [LPO, REVERSE], ids=lambda row: row.name)
def test_coefficients_sum_to_zero_and_vanish_at_the_target(row: Algorithm) -> None:
    """Oracle: the paper: Σ c = 0 in each group, |c| ≤ 1 (forward), c = 0 where the policy is the target."""
    batch = moved(row)
    _, (gradient,) = loss_and_gradient(row, [batch], Counts.of(batch))
    first = gradient[batch.offsets[:-1]] * len(batch.group_ids)  # every token of a sequence has its coefficient
    sums = torch.zeros(len(batch.group_ids)).index_add(0, batch.group, first)
    assert sums.abs().max() < 1e-5 and first.abs().max() > 0.05
    assert row is not LPO or first.abs().max() <= 1
    shift = (batch["advantage"].float() - scores(batch)) / batch.lengths
    there = batch.annotate(logp=batch["logp"] + shift[batch.rollout_of_token])
    _, (gradient,) = loss_and_gradient(row, [there], Counts.of(batch))
    assert gradient.abs().max() < 1e-6


def test_what_contributes() -> None:
    """Oracle: a rollout with the group's mean reward has advantage 0 but is in the list; a silent group has no gradient
    until the policy has moved."""
    batch = batch_of(LPO, [make_group([1.0, 0.5, 0.0]), make_group([1.0, 1.0], position=1)])
    assert contributes(LPO, batch).tolist() == [True, True, True, False, False]
    assert contributes(LPO, with_logps(batch, 0)).all()
