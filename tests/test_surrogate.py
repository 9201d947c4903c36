"""The token losses: ratios, clips, dual clip, importance weights, and the three KL estimators."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from onedial.core.algorithm_table import ALGORITHMS
from onedial.core.maths.kl import ESTIMATORS, LOG_RATIO_BOUND, kl
from onedial.core.maths.surrogate import clipped_loss, clipped_tokens, correction_weight, log_ratio

ROW = replace(ALGORITHMS["naive_grpo"], name="row", clip_low=0.2, clip_high=0.28)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.0, 2.0, -2.0, -2.0),
        (1.2, 2.0, -2.4, -2.0),
        (1.5, 2.0, -2.56, 0.0),  # above 1.28: held at −1.28·2, no gradient
        (0.5, 2.0, -1.0, -2.0),  # a fallen ratio of a good answer is pulled back up
        (1.5, -2.0, 3.0, 2.0),  # a risen ratio of a bad answer is pulled down
        (0.5, -2.0, 1.6, 0.0),  # below 0.8: held at 0.8·2
        (1.5, 0.0, 0.0, 0.0),
    ],
)
def test_clip_by_hand(ratio: float, advantage: float, loss: float, slope: float) -> None:
    """Oracle: PPO's Eq. 7 by hand, bounds 0.8 and 1.28; value and derivative."""
    rho = torch.tensor([ratio], requires_grad=True)
    value = clipped_loss(rho, torch.tensor([advantage]), ROW)
    (gradient,) = torch.autograd.grad(value.sum(), rho)
    assert float(value.detach()) == pytest.approx(loss, abs=1e-6)
    assert float(gradient) == pytest.approx(slope, abs=1e-6)
    low, high = clipped_tokens(rho.detach(), torch.tensor([advantage]), ROW)
    assert bool(low | high) == (slope == 0.0 and advantage != 0.0)


@pytest.mark.parametrize(("ratio", "loss", "slope"), [(2.9, 5.8, 2.0), (3.5, 6.0, 0.0), (0.5, 1.6, 0.0)])
def test_dual_clip_by_hand(ratio: float, loss: float, slope: float) -> None:
    """Oracle: Eq. 5 of arXiv:1912.09729 by hand with c = 3 and A = −2; good answers are left alone."""
    rho = torch.tensor([ratio], requires_grad=True)
    row = replace(ROW, clip_dual=3.0)
    value = clipped_loss(rho, torch.tensor([-2.0]), row)
    (gradient,) = torch.autograd.grad(value.sum(), rho)
    assert float(value.detach()) == pytest.approx(loss, abs=1e-6)
    assert float(gradient) == pytest.approx(slope, abs=1e-6)
    good = torch.tensor([2.0])
    torch.testing.assert_close(clipped_loss(rho, good, row), clipped_loss(rho, good, ROW))


def test_sequence_ratio_is_of_the_mean_not_of_the_sum() -> None:
    """C12: one ratio per sequence, exp of the mean of the token log-ratios (GSPO's Eq. 7), not of their sum.

    Oracle: by hand: differences (0.3, 0.1) and (−0.6) give means 0.2 and −0.6, where sums would give 0.4.
    """
    logp, row = torch.tensor([0.3, 0.1, -0.6]), torch.tensor([0, 0, 1])
    values = log_ratio("sequence", logp, torch.zeros(3), row, 2)
    assert values.tolist() == pytest.approx([0.2, 0.2, -0.6], abs=1e-7)
    assert log_ratio("token", logp, torch.zeros(3), row, 2).tolist() == logp.tolist()


def test_sequence_ratio_has_the_gradient_of_the_mean() -> None:
    """Oracle: ∂ mean / ∂ token = 1/|o|, summed here over the |o| tokens that hold it: 1 each."""
    logp = torch.zeros(3, requires_grad=True)
    values = log_ratio("sequence", logp, torch.zeros(3), torch.tensor([0, 0, 1]), 2)
    assert torch.autograd.grad(values[0], logp, retain_graph=True)[0].tolist() == [0.5, 0.5, 0.0]
    assert torch.autograd.grad(values.sum(), logp)[0].tolist() == [1.0, 1.0, 1.0]


def test_importance_weights_by_hand() -> None:
    """Oracle: by hand: token weights 2, ½, 1; sequence products 1, 1, 1; caps and floors applied to those."""
    old = torch.tensor([math.log(2), math.log(0.5), 0.0], requires_grad=True)
    engine, row = torch.zeros(3), torch.tensor([0, 0, 1])

    def weights(kind: str, level: str, cap: float, floor: float = 0.0) -> list[float]:
        caps = {"correction_cap": cap, "correction_floor": floor}
        cells = {"sampler_correction": kind, "correction_level": level, **caps}
        value = correction_weight(replace(ROW, **cells), old, engine, row, 2)  # type: ignore[arg-type]
        assert not value.requires_grad
        return [round(float(number), 6) for number in value]

    assert weights("truncate", "token", 1.5) == [1.5, 0.5, 1.0]
    assert weights("mask", "token", 1.5, 0.6) == [0.0, 0.0, 1.0]
    assert weights("mask", "token", 2.5, 0.4) == [2.0, 0.5, 1.0]
    assert weights("mask", "token", 2.0 + 1e-6, 0.5 - 1e-6) == [2.0, 0.5, 1.0]
    assert weights("mask", "sequence", 1.0, 0.5) == weights("mask", "sequence", 2.0, 1.0) == [1.0] * 3, (
        "bounds inclusive"
    )
    assert weights("truncate", "sequence", 1.5) == [1.0, 1.0, 1.0]
    assert weights("mask", "sequence", 0.5) == [0.0, 0.0, 0.0]


def test_importance_weights_stay_finite() -> None:
    """Oracle: a mismatch of 500 nats either way gives a finite weight, at most the cap."""
    row = replace(ROW, sampler_correction="truncate", correction_cap=2.0)
    old = torch.tensor([500.0, -500.0])
    weight = correction_weight(row, old, torch.zeros(2), torch.tensor([0, 1]), 2)
    assert float(weight[0]) == 2.0 and 0.0 <= float(weight[1]) < 1e-8


def _distributions() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of a policy over five outcomes, with gradient, and the log-probabilities of a reference."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(5, generator=generator, dtype=torch.double).requires_grad_()
    return logits, torch.randn(5, generator=generator, dtype=torch.double).log_softmax(0)


def test_kl_estimators_by_hand() -> None:
    """Oracle: Schulman's formulas at l = log 2: −log 2, (log 2)²/2, 2 − log 2 − 1."""
    logp, ref = torch.tensor([0.0]), torch.tensor([math.log(2)])
    values = {name: float(kl(name, logp, ref)) for name in ESTIMATORS}
    expected = {"k1": -math.log(2), "k2": math.log(2) ** 2 / 2, "k3": 1 - math.log(2)}
    assert values == pytest.approx(expected, rel=1e-6)


def test_kl_values_in_expectation() -> None:
    """Oracle: the exact KL(π‖ref) by summing over five outcomes: k1 and k3 are unbiased, k2 is not."""
    logits, ref = _distributions()
    logp = logits.detach().log_softmax(0)
    exact = float((logp.exp() * (logp - ref)).sum())
    expected = {name: float((logp.exp() * kl(name, logp, ref)).sum()) for name in ESTIMATORS}
    assert expected["k1"] == pytest.approx(exact, rel=1e-12)
    assert expected["k3"] == pytest.approx(exact, rel=1e-12)
    assert expected["k2"] != pytest.approx(exact, rel=1e-2)


def test_kl_gradients_in_expectation() -> None:
    """Oracle: exact enumeration; in the loss E[∇k1] = 0, E[∇k2] = ∇KL(π‖ref), E[∇k3] = ∇KL(ref‖π)."""
    logits, ref = _distributions()

    def gradient(name: str) -> torch.Tensor:
        logp = logits.log_softmax(0)
        # the sampling weights carry no gradient: they stand for the draws that the loss is averaged over
        (value,) = torch.autograd.grad((logp.detach().exp() * kl(name, logp, ref)).sum(), logits)
        return value

    logp = logits.log_softmax(0)
    (of_forward,) = torch.autograd.grad((logp.exp() * (logp - ref)).sum(), logits, retain_graph=True)
    (of_reverse,) = torch.autograd.grad((ref.exp() * (ref - logp)).sum(), logits)
    torch.testing.assert_close(gradient("k1"), torch.zeros(5, dtype=torch.double), atol=1e-12, rtol=0)
    torch.testing.assert_close(gradient("k2"), of_forward, atol=1e-12, rtol=1e-10)
    torch.testing.assert_close(gradient("k3"), of_reverse, atol=1e-12, rtol=1e-10)
    assert not torch.allclose(of_forward, of_reverse, rtol=0.05)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_kl_stays_finite(name: str) -> None:
    """Oracle: log-ratios of ±1000 are bounded at ±20 before anything is exponentiated."""
    values = kl(name, torch.tensor([1000.0, -1000.0]), torch.zeros(2))
    assert LOG_RATIO_BOUND == 20.0
    edge = kl(name, torch.tensor([LOG_RATIO_BOUND, -LOG_RATIO_BOUND]), torch.zeros(2))
    torch.testing.assert_close(values, edge)
