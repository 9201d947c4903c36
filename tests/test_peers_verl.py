"""Equality with verl's own functions (verl.trainer.ppo.core_algos): advantages, losses, aggregation, KL values."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from maths_batches import MAX_TOKENS, batch_of, complete, loss_and_gradient, make_batch, make_group, ragged_groups
from onedial.core.algorithm import Algorithm
from onedial.core.algorithm_table import ALGORITHMS
from onedial.core.batch import Batch, Counts
from onedial.core.maths.advantage import advantages
from onedial.core.maths.kl import kl
from test_conformance import assert_verdicts_committed

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    core = pytest.importorskip("verl.trainer.ppo.core_algos", reason="verl is not installed")
    ActorConfig = pytest.importorskip("verl.workers.config").ActorConfig

pytestmark = [pytest.mark.filterwarnings("ignore::FutureWarning"), pytest.mark.filterwarnings("ignore::UserWarning")]

AGGREGATES = {
    "token-mean": {"aggregate": "token_mean"},
    "seq-mean-token-mean": {"aggregate": "sequence_mean"},
    "seq-mean-token-sum": {"aggregate": "sequence_sum"},
    "seq-mean-token-sum-norm": {"aggregate": "fixed_length", "length_budget": MAX_TOKENS},
}


def _padded(batch: Batch, values: Tensor) -> Tensor:
    """(T,) → (B, MAX_TOKENS), zeros behind."""
    result = torch.zeros(batch.num_rollouts, MAX_TOKENS, dtype=values.dtype)
    result[_filled(batch)] = values
    return result


def _filled(batch: Batch) -> Tensor:
    return torch.arange(MAX_TOKENS) < batch.lengths[:, None]


def _mask(batch: Batch) -> Tensor:
    return (_filled(batch) & batch.rollout_mask[:, None]).float()


def _config(row: Algorithm, **more: Any) -> Any:
    return ActorConfig(
        strategy="fsdp", rollout_n=8, use_dynamic_bsz=True, clip_ratio=0.2, clip_ratio_low=row.clip_low,
        clip_ratio_high=row.clip_high, clip_ratio_c=row.clip_dual or 1e9, **more,
    )  # fmt: skip


def _compare(row: Algorithm, batch: Batch, function: Any, mode: str, weights: Tensor | None = None) -> None:
    """Loss and gradient of verl's function and of `policy_loss`, to 1e-5."""
    loss, (gradient,) = loss_and_gradient(row, [batch], Counts.of(batch))
    logp = batch["logp"].clone().requires_grad_()
    verl_loss, _ = function(
        old_log_prob=_padded(batch, batch["old_logp"]),
        log_prob=_padded(batch, logp),
        advantages=batch["advantage"].float()[:, None].expand(-1, MAX_TOKENS),
        response_mask=_mask(batch),
        loss_agg_mode=mode,
        config=_config(row),
        rollout_is_weights=weights,
    )
    (verl_gradient,) = torch.autograd.grad(verl_loss, logp)
    assert loss == pytest.approx(float(verl_loss.detach()), rel=1e-5, abs=1e-6)
    torch.testing.assert_close(gradient, verl_gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("scaled", [True, False])
def test_group_advantages(scaled: bool) -> None:
    """Oracle: verl's compute_grpo_outcome_advantage on ragged groups of 2 … 9 (of one it makes A = r, a known
    difference: ours is 0, which is what a group that has nothing to compare teaches)."""
    row = ALGORITHMS["verl_grpo" if scaled else "verl_dr_grpo"]
    batch = make_batch(row)
    rewards = torch.tensor([reward for group in ragged_groups(0) for reward in group.rewards])
    token_rewards = torch.zeros(batch.num_rollouts, MAX_TOKENS)
    token_rewards[:, 0] = rewards
    theirs, _ = core.compute_grpo_outcome_advantage(
        token_rewards, torch.ones_like(token_rewards), batch.group.numpy(), 1e-6, scaled
    )
    several = torch.bincount(batch.group)[batch.group] > 1
    torch.testing.assert_close(batch["advantage"].float()[several], theirs[several, 0], rtol=1e-5, atol=1e-6)
    assert float(batch["advantage"][~several]) == 0.0


def test_leave_one_out_advantages() -> None:
    """Oracle: verl's compute_rloo_outcome_advantage on ragged groups of 2 … 9."""
    rewards = torch.tensor([reward for group in ragged_groups(3) for reward in group.rewards])
    group = torch.tensor([g for g, one in enumerate(ragged_groups(3)) for _ in one.rewards])
    theirs, _ = core.compute_rloo_outcome_advantage(rewards[:, None].clone(), torch.ones(len(group), 1), group.numpy())
    several = torch.bincount(group)[group] > 1
    ours = advantages(ALGORITHMS["rloo"], rewards, group)
    torch.testing.assert_close(ours.float()[several], theirs[several, 0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", AGGREGATES)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dual", [None, 1.3])
def test_clipped_loss(mode: str, masked: bool, dual: float | None) -> None:
    """C10 too: a masked row is in no denominator of verl's local aggregation, nor of ours.

    Oracle: verl's compute_policy_loss_vanilla with agg_loss; clip 0.2/0.28, with and without an active dual clip.
    """
    row = replace(
        ALGORITHMS["verl_grpo"], name="row", clip_high=0.28, clip_dual=dual, overlong="mask" if masked else "none",
        **AGGREGATES[mode],
    )  # fmt: skip
    batch = make_batch(row)
    assert bool(batch.rollout_mask.all()) != masked
    _compare(row, batch, core.compute_policy_loss_vanilla, mode)


def test_clipped_loss_with_rollout_weights() -> None:
    """Oracle: verl's rollout_is_weights, given the token weights min(π_old/π_engine, 1.1) from their definition."""
    row = replace(ALGORITHMS["verl_grpo"], name="row", sampler_correction="truncate", correction_cap=1.1)
    batch = make_batch(row)
    weights = _padded(batch, (batch["old_logp"] - batch["engine_logp"]).exp().clamp(max=1.1))
    _compare(row, batch, core.compute_policy_loss_vanilla, "token-mean", weights)


@pytest.mark.parametrize("clip", [(3e-4, 4e-4), (0.1, 0.1)])
def test_sequence_ratio_loss(clip: tuple[float, float]) -> None:
    """Oracle: verl's compute_policy_loss_gspo; its token-level form has the same value and gradient as ours."""
    row = replace(ALGORITHMS["gspo"], name="row", clip_low=clip[0], clip_high=clip[1])
    _compare(row, make_batch(row), core.compute_policy_loss_gspo, "seq-mean-token-mean")


@pytest.mark.parametrize("mode", AGGREGATES)
def test_aggregation_alone(mode: str) -> None:
    """Oracle: verl's agg_loss of −A on-policy, where the token loss is −A exactly."""
    row = complete(replace(ALGORITHMS["naive_grpo"], name="row", **AGGREGATES[mode]))  # type: ignore[arg-type]
    batch = batch_of(row, [make_group([1.0, 0.0, 0.0]), make_group([1.0, 0.0], position=1)])
    batch = batch.annotate(logp=torch.zeros(len(batch.tokens)))
    loss, _ = loss_and_gradient(row, [batch], Counts.of(batch))
    matrix = -batch["advantage"].float()[:, None].expand(-1, MAX_TOKENS)
    assert loss == pytest.approx(float(core.agg_loss(matrix, _mask(batch), mode)), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("name", ["k1", "k2", "k3"])
def test_kl_values(name: str) -> None:
    """Oracle: verl's kl_penalty."""
    batch = make_batch(ALGORITHMS["grpo"])
    theirs = core.kl_penalty(batch["logp"], batch["ref_logp"], name)
    torch.testing.assert_close(kl(name, batch["logp"], batch["ref_logp"]), theirs, rtol=1e-5, atol=1e-6)


def test_the_conformance_verdicts_on_the_page_are_todays() -> None:
    """Oracle: the suite run on the verl that is installed, against the committed verdicts."""
    assert_verdicts_committed("verl")
