"""GAE, value loss and what is said of a critic: hand values, limits, verl's own code, finite differences."""

from __future__ import annotations

import warnings
from dataclasses import replace
from random import Random

import pytest
import torch
from torch import Tensor

from maths_batches import batch_of, loss_and_gradient, make_batch, make_group
from onedial.core.algorithm import Algorithm
from onedial.core.algorithm_table import ALGORITHMS
from onedial.core.batch import Batch, Counts, compute_offsets
from onedial.core.maths.gae import (
    calibration_error,
    compute_gae,
    explained_variance,
    gae,
    policy_lambda,
    token_rewards,
    value_loss,
    whiten,
)
from onedial.core.maths.loss import contributes
from onedial.training.trainer.advantages import add_gae

PPO, VAPO = ALGORITHMS["ppo"], ALGORITHMS["vapo"]
BARE = replace(PPO, name="bare", kl_coef=0.0, kl_in="loss", whiten=False, value_clip=None)


def _double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.double)


def test_gae_by_hand() -> None:
    """Oracle: by hand. γ = ½, λ = ½, rewards 0, 0, 1 and values ½, 1, ½: δ = 0, −¾, ½; A = −5/32, −5/8, ½.
    A row of one token beside it: A = r − V = 2 − ½."""
    rewards, values = _double(0, 0, 1, 2), _double(0.5, 1, 0.5, 0.5)
    offsets = torch.tensor([0, 3, 4])
    expected = _double(-5 / 32, -5 / 8, 0.5, 1.5)
    torch.testing.assert_close(gae(rewards, values, offsets, 0.5, 0.5), expected)
    # a λ of its own for each row: 0 gives δ alone, 1 the discounted outcome less V
    own = gae(rewards, values, offsets, 0.5, _double(0.0, 1.0))
    torch.testing.assert_close(own, _double(0, -0.75, 0.5, 1.5))


def _random_rows(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([3, 0, 7, 1, 0, 12, 2, 0])
    total = int(lengths.sum())
    rewards, values = (torch.randn(total, generator=generator, dtype=torch.double) for _ in range(2))
    return rewards, values, compute_offsets(lengths)


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_limits_of_lambda(gamma: float) -> None:
    """Oracle: λ = 1 is the discounted return less V, λ = 0 the one-step error, both in plain Python; empty rows too."""
    rewards, values, offsets = _random_rows(0)
    one, zero = gae(rewards, values, offsets, gamma, 1.0), gae(rewards, values, offsets, gamma, 0.0)
    for start, stop in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        for t in range(start, stop):
            to_come = sum(gamma ** (k - t) * float(rewards[k]) for k in range(t, stop))
            following = float(values[t + 1]) if t + 1 < stop else 0.0
            assert float(one[t]) == pytest.approx(to_come - float(values[t]))
            assert float(zero[t]) == pytest.approx(float(rewards[t]) + gamma * following - float(values[t]))


def test_nothing_at_all() -> None:
    """Oracle: no rows, or rows without tokens, give no numbers and no error."""
    empty = torch.zeros(0, dtype=torch.double)
    for offsets in (torch.tensor([0]), torch.tensor([0, 0, 0])):
        outcome = torch.ones(len(offsets) - 1, dtype=torch.double)
        assert token_rewards(outcome, offsets).tolist() == []
        mask = torch.zeros(0, dtype=torch.bool)
        judged = compute_gae(PPO, empty, empty, offsets=offsets, mask=mask)
        assert judged.advantage.tolist() == judged.returns.tolist() == []
    assert calibration_error(empty, empty).isnan()


def test_reward_lies_on_the_last_token() -> None:
    """Oracle: by hand: the outcome on each row's last token, KL on every token; a row without tokens gets nothing."""
    outcome, offsets = _double(1, 5, -1), torch.tensor([0, 2, 2, 3])
    assert token_rewards(outcome, offsets).tolist() == [0, 1, -1]
    assert token_rewards(outcome, offsets, _double(0.25, 0.5, 0.25)).tolist() == [-0.25, 0.5, -1.25]


def test_lambda_by_length() -> None:
    """Oracle: VAPO's formula by hand at α = 0.05: 0 up to 20 tokens (where it would be negative), ½ at 40, 0.98 at
    1000; the weights Σ_k λ^k of the errors add up to α·l."""
    lengths = torch.tensor([0, 1, 10, 20, 40, 1000])
    lam = policy_lambda(VAPO, lengths)
    assert lam.tolist() == pytest.approx([0, 0, 0, 0, 0.5, 0.98])
    assert float(1 / (1 - lam[5])) == pytest.approx(0.05 * 1000)
    assert policy_lambda(PPO, lengths).tolist() == [0.95] * 6


def test_gae_decouples_policy_and_critic() -> None:
    """Oracle: the definitions: policy λ in A, critic λ in R, λ = 1 in R while warming up; whitening leaves R alone."""
    rewards, values, offsets = _random_rows(1)
    mask = torch.ones(len(values), dtype=torch.bool)
    row = replace(BARE, lambda_policy=0.3, lambda_critic=0.7, gamma=0.9)
    cold = compute_gae(row, rewards, values, offsets=offsets, mask=mask)
    warm = compute_gae(row, rewards, values, offsets=offsets, mask=mask, warming=True)
    torch.testing.assert_close(cold.advantage, gae(rewards, values, offsets, 0.9, 0.3))
    torch.testing.assert_close(cold.returns, gae(rewards, values, offsets, 0.9, 0.7) + values)
    torch.testing.assert_close(warm.returns, gae(rewards, values, offsets, 0.9, 1.0) + values)
    torch.testing.assert_close(warm.outcome, warm.returns)
    white = compute_gae(replace(row, whiten=True), rewards, values, offsets=offsets, mask=mask)
    torch.testing.assert_close(white.returns, cold.returns)
    torch.testing.assert_close(white.advantage.std(), _double(1)[0], rtol=1e-6, atol=0)
    assert abs(float(white.advantage.mean())) < 1e-12


def test_whitening_looks_at_the_mask_alone() -> None:
    """Oracle: by hand: 1 and 3 have mean 2 and sample variance 2; the masked 100 has no part in that. Equal values
    become 0."""
    mask = torch.tensor([True, True, False])
    assert whiten(_double(1, 3, 100), mask).tolist() == pytest.approx([-(2**-0.5), 2**-0.5, 98 / 2**0.5])
    assert whiten(_double(4, 4, 4), mask).tolist() == [0, 0, 0]
    assert whiten(_double(4, 4, 4), ~mask).tolist() == [0, 0, 0]


def _padded(flat: Tensor, offsets: Tensor) -> Tensor:
    rows = [flat[a:b] for a, b in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def _core() -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("verl.trainer.ppo.core_algos", reason="verl is not installed")


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.99, 0.9), (1.0, 1.0), (1.0, 0.0)])
def test_verl_gae(gamma: float, lam: float) -> None:
    """Oracle: verl's compute_gae_advantage_return (which whitens) on ragged rows, to 1e-5."""
    rewards, values, offsets = (part.float() for part in _random_rows(3))
    offsets = compute_offsets(torch.tensor([3, 7, 1, 12, 2]))  # verl has no rows without tokens
    mask = _padded(torch.ones_like(values), offsets)
    advantage, returns = _core().compute_gae_advantage_return(  # type: ignore[attr-defined]
        _padded(rewards, offsets), _padded(values, offsets), mask, gamma, lam
    )
    row = replace(PPO, name="row", gamma=gamma, lambda_policy=lam, lambda_critic=lam)
    ours = compute_gae(row, rewards, values, offsets=offsets, mask=torch.ones(len(values), dtype=torch.bool))
    filled = mask.bool()
    torch.testing.assert_close(ours.advantage.float(), advantage[filled], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.returns.float(), returns[filled], rtol=1e-5, atol=1e-5)


def _value_case(seed: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    old, drift, returns = (torch.randn(25, generator=generator) for _ in range(3))
    return old + 0.5 * drift, old, returns


@pytest.mark.parametrize("clip", [0.2, 0.7])
def test_verl_value_loss(clip: float) -> None:
    """Oracle: verl's compute_value_loss and its gradient, token mean over ragged rows, to 1e-5."""
    values, old, returns = _value_case()
    offsets = compute_offsets(torch.tensor([3, 7, 1, 12, 2]))
    ours, theirs = (values.clone().requires_grad_() for _ in range(2))
    weights = torch.full_like(values, 1 / len(values))
    loss = value_loss(ours, old, returns, weights, clip)
    expected, _ = _core().compute_value_loss(  # type: ignore[attr-defined]
        _padded(theirs, offsets), _padded(returns, offsets), _padded(old, offsets),
        _padded(torch.ones_like(values), offsets), clip,
    )  # fmt: skip
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        torch.autograd.grad(loss, ours)[0], torch.autograd.grad(expected, theirs)[0], rtol=1e-5, atol=1e-7
    )


def test_verl_policy_loss_with_token_advantages() -> None:
    """Oracle: verl's compute_policy_loss_vanilla, token mean, given our token advantages: loss and gradient to 1e-5."""
    core = _core()
    config = pytest.importorskip("verl.workers.config").ActorConfig(
        strategy="fsdp", rollout_n=8, use_dynamic_bsz=True, clip_ratio=0.2, clip_ratio_low=0.2, clip_ratio_high=0.2,
        clip_ratio_c=1e9,
    )  # fmt: skip
    batch = make_batch(PPO)
    loss, (gradient,) = loss_and_gradient(PPO, [batch], Counts.of(batch))
    logp = batch["logp"].clone().requires_grad_()
    expected, _ = core.compute_policy_loss_vanilla(  # type: ignore[attr-defined]
        old_log_prob=_padded(batch["old_logp"], batch.offsets),
        log_prob=_padded(logp, batch.offsets),
        advantages=_padded(batch["token_advantage"], batch.offsets),
        response_mask=_padded(torch.ones_like(logp), batch.offsets),
        loss_agg_mode="token-mean",
        config=config,
    )
    assert loss == pytest.approx(float(expected.detach()), rel=1e-5, abs=1e-6)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, logp)[0], rtol=1e-5, atol=1e-7)


# What TRL 1.12's PPOTrainer made of `_waves`: TRL 1.13 dropped it, so its own lines were run once and are not at hand.
TRL_RETURNS = _double(
    0.830477, 0.8607802, 0.9245325, 0.9791813, 0.9547066, 0.9935711, 0.0724449, 0.0609089, 0.0522639, 0.0809724, 0.0,
    0.9219037, 0.9641054, 1.0,
)  # fmt: skip
TRL_ADVANTAGES = _double(
    0.2204782, 0.5888506, 0.1938613, 0.999432, 0.0730724, 1.1852824, -1.7023991, -0.4306373, -1.8287094, -0.3322064,
    -0.2204973, 1.2534726,
)  # fmt: skip
TRL_POLICY_LOSS, TRL_VALUE_LOSS = 0.0635924, 0.2546342
TRL_POLICY_GRADIENT = _double(
    -0.0125199, -0.0394746, 0.0, 0.0, -0.0057754, -0.0665276, 0.1195356, 0.048347, 0.2141808, 0.0249257, 0.0255774, 0.0
)
TRL_VALUE_GRADIENT = _double(
    0.0, 0.0, 0.0113316, -0.0398827, -0.0291916, -0.0894448, 0.0, -0.0131368, 0.0652832, 0.02934, 0.0999803, 0.0011863,
    -0.0798146, -0.0460647,
)  # fmt: skip


def _waves(frequency: float, *keep: int) -> Tensor:
    """The first `keep` numbers of each row of six of sin(frequency·k), k = 1, 2, …"""
    rows = torch.sin(frequency * torch.arange(1, 19, dtype=torch.double)).reshape(3, 6)
    return torch.cat([row[:number] for row, number in zip(rows, keep, strict=True)])


def test_trl_ppo() -> None:
    """Oracle: TRL's k1 reward, GAE, whitening, value loss and policy loss, and both gradients, to 1e-6: completions of
    6, 4 and 2 tokens of at most 6, scores 1, 0, 1, kl_coef 0.05, γ 0.99, λ 0.95, both clips 0.2.

    TRL pays the reward one position after the last token where there is room and trains a value there; such a row is
    one of ours with a token more, which has no KL and is left out of whitening.
    """
    row = replace(PPO, name="row", kl_coef=0.05, gamma=0.99)
    filled, longer = (6, 4, 2), (6, 5, 3)
    offsets = compute_offsets(torch.tensor(longer))
    tokens = torch.ones(14, dtype=torch.bool)
    tokens[[10, 13]] = False
    kl = torch.where(tokens, 0.5 * (_waves(1.0, *longer) - _waves(2.0, *longer)), 0.0)
    values = 0.5 + 0.4 * _waves(3.0, *longer)
    rewards = token_rewards(_double(1, 0, 1), offsets, row.kl_coef * kl)
    ours = compute_gae(row, rewards, values, offsets=offsets, mask=tokens)
    close = {"rtol": 0.0, "atol": 1e-6}
    torch.testing.assert_close(ours.returns, TRL_RETURNS, **close)
    torch.testing.assert_close(ours.advantage[tokens], TRL_ADVANTAGES, **close)

    moved = (values + 0.5 * _waves(7.0, *longer)).requires_grad_()
    loss = value_loss(moved, values, ours.returns, torch.full_like(values, 1 / 14), 0.2)
    assert float(loss.detach()) == pytest.approx(TRL_VALUE_LOSS, abs=1e-6)
    torch.testing.assert_close(torch.autograd.grad(loss, moved)[0], TRL_VALUE_GRADIENT, **close)

    old = -1 + 0.5 * _waves(1.0, *filled)
    batch = batch_of(row, [make_group([1, 0, 1], lengths=filled)])
    batch = batch.annotate(
        old_logp=old, logp=old + 0.4 * _waves(5.0, *filled), token_advantage=ours.advantage[tokens], value=old
    )
    policy_loss, (gradient,) = loss_and_gradient(row, [batch], Counts.of(batch))
    assert policy_loss == pytest.approx(TRL_POLICY_LOSS, abs=1e-6)
    torch.testing.assert_close(gradient, TRL_POLICY_GRADIENT, **close)


def test_value_gradient_by_finite_differences() -> None:
    """Oracle: (f(v + h) − f(v − h))/2h in double precision at every token, on both sides of the clip."""
    values, old, returns = (part.double() for part in _value_case(8))
    weights = torch.linspace(0.1, 2.0, len(values), dtype=torch.double)
    values.requires_grad_()
    value_loss(values, old, returns, weights, 0.3).backward()  # type: ignore[no-untyped-call]
    for t in range(len(values)):
        step = torch.zeros_like(old)
        step[t] = 1e-6
        with torch.no_grad():
            up, down = (value_loss(values + sign * step, old, returns, weights, 0.3) for sign in (1, -1))
        assert float(values.grad[t]) == pytest.approx(float(up - down) / 2e-6, rel=1e-4, abs=1e-8)  # type: ignore[index]
    assert not values.grad.all(), "the clip stops some gradients"  # type: ignore[union-attr]


def test_clipped_value_loss_by_hand() -> None:
    """Oracle: by hand: V moved from 0 to 1 towards R = 1: ½·max(0, (0.2 − 1)²); away, R = −1: ½·max(4, 1.2²) = 2."""
    one = torch.ones(1)
    assert float(value_loss(one, 0 * one, one, one, 0.2)) == pytest.approx(0.32)
    assert float(value_loss(one, 0 * one, -one, one, 0.2)) == pytest.approx(2.0)
    assert float(value_loss(one, 0 * one, one, one, None)) == 0.0


def test_explained_variance() -> None:
    """Oracle: by hand: 1 for V = R, 0 for a constant, −3 for V = −R; nan where R never varies."""
    came = _double(0, 1, 1, 0)
    assert float(explained_variance(came, came)) == 1.0
    assert float(explained_variance(0 * came + 0.3, came)) == pytest.approx(0.0)
    assert float(explained_variance(-came, came)) == pytest.approx(-3.0)
    assert explained_variance(came, 0 * came).isnan()


def test_calibration() -> None:
    """Oracle: by hand: a constant ½ over outcomes of mean ½ is calibrated, over 1, 1, 1, 0 off by ¼; values 0 and 1
    that are each off by 0.2 are off by 0.2, whatever the order of the tokens."""
    assert float(calibration_error(_double(0.5, 0.5, 0.5, 0.5), _double(0, 1, 1, 0))) == 0.0
    assert float(calibration_error(_double(0.5, 0.5, 0.5, 0.5), _double(1, 1, 1, 0))) == pytest.approx(0.25)
    values, came = _double(*[0.0] * 50, *[1.0] * 50), _double(*[0.2] * 50, *[0.8] * 50)
    assert float(calibration_error(values, came)) == pytest.approx(0.2)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    assert float(calibration_error(values[order], came[order])) == pytest.approx(0.2)
    # ten values, ten bins: the gap of each alone
    alone = torch.arange(10).double()
    assert float(calibration_error(alone, alone.flip(0))) == pytest.approx(5.0)


@pytest.mark.parametrize("row", [PPO, VAPO, replace(PPO, name="masked", overlong="mask")], ids=lambda row: row.name)
def test_split_and_order_change_no_value_gradient(row: Algorithm) -> None:
    """Oracle: the step as one batch; any parts in any order, with the whole's counts, give each token the same."""
    whole = make_batch(row)
    counts, generator = Counts.of(whole), torch.Generator().manual_seed(3)
    now = whole["value"] + 0.4 * torch.randn(len(whole.tokens), generator=generator)

    def gradient(part: Batch, values: Tensor) -> Tensor:
        values = values.clone().requires_grad_()
        weights = part.mask.float() / counts.tokens
        loss = value_loss(values, part["value"], part["returns"], weights, row.value_clip)
        return torch.autograd.grad(loss, values)[0]

    expected = gradient(whole, now)
    order = list(range(whole.num_rollouts))
    Random(2).shuffle(order)
    for rows in (order[:10], order[10:11], order[11:]):
        index = torch.cat([torch.arange(int(whole.offsets[r]), int(whole.offsets[r + 1])) for r in rows])
        torch.testing.assert_close(gradient(whole.select(rows), now[index]), expected[index], rtol=1e-6, atol=1e-9)
    assert not expected[~whole.mask].any()


def test_gae_annotations_by_hand() -> None:
    """Oracle: by hand with λ = γ = 1 and kl_coef ½: rewards 1 and 0, three and two tokens, KL 0.2 on each, V = ½."""
    row = replace(BARE, name="row", lambda_policy=1.0, lambda_critic=1.0, kl_coef=0.5, kl_in="reward")
    batch = batch_of(row, [make_group([1.0, 0.0], lengths=[3, 2])])
    batch, figures = add_gae(row, batch, torch.full((5,), 0.5), torch.full((5,), 0.2), iteration=1)
    returns = [0.7, 0.8, 0.9, -0.2, -0.1]
    assert batch["returns"].tolist() == pytest.approx(returns)
    assert batch["token_advantage"].tolist() == pytest.approx([value - 0.5 for value in returns])
    assert batch["advantage"].tolist() == pytest.approx([0.3, -0.65])  # the log's: the mean over the row's tokens
    assert batch["shaped_reward"].tolist() == pytest.approx([0.7, -0.2])
    assert figures["explained_variance"] == pytest.approx(0.0)
    assert figures["value_calibration"] == pytest.approx(abs(sum(returns) / 5 - 0.5))


def test_a_row_contributes_while_one_token_does() -> None:
    """Oracle: the definition: advantages that cancel in the row's mean still pull; only all zeros do not."""
    batch = batch_of(BARE, [make_group([0.0, 0.0], lengths=[2, 2])])
    batch = batch.annotate(token_advantage=torch.tensor([1.0, -1.0, 0.0, 0.0]))
    assert contributes(BARE, batch).tolist() == [True, False]
    assert not contributes(VAPO, batch)[1] and contributes(VAPO, batch.annotate(positive=~batch["positive"])).all()


def test_critic_rows_need_no_group() -> None:
    """Oracle: the definition: a group of one has an advantage, r − V; a unanimous group too."""
    batch = batch_of(BARE, [make_group([1.0], lengths=[1]), make_group([0.0, 0.0], lengths=[1, 1], position=1)])
    batch, _ = add_gae(BARE, batch, torch.full((3,), 0.25), None, iteration=1)
    assert batch["advantage"].tolist() == pytest.approx([0.75, -0.25, -0.25])
    assert contributes(BARE, batch).all()


def test_calibration_bins_hold_equally_many() -> None:
    """S14. Oracle: by hand: 20 values in ten bins of two, neighbors exchanged in the outcomes: every bin's means agree.
    A bin that took the next one's first value would not."""
    values = torch.arange(20, dtype=torch.double)
    outcome = values.view(10, 2).flip(1).flatten()
    assert float(calibration_error(values, outcome)) == 0.0
    assert float(calibration_error(values, values + 0.25)) == pytest.approx(0.25)
