"""Checks of `loss` where the policy has moved, and of its KL term. The oracle is the formula, token by token."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from onedial.integrations.conformance.check import ConformanceCheck, Measured, match
from onedial.integrations.conformance.judged import Judged, Rows
from onedial.integrations.conformance.loss_checks import make_rows, with_ratios

CLOSE = 1e-5
CLIP = {"clip_low": 0.2, "clip_high": 0.28}
LOGS = (-1.0, -0.2, 0.3, 1.0)  # log π_ref − log π of four tokens


def _per_weight(trainer: Judged, rows: Rows, **settings: Any) -> tuple[float, Tensor]:
    """Value and (B, L) gradient in units of the weight that every token of rows of one length has."""
    _, on_policy = trainer.loss(rows.on_policy(), **settings)
    weight = float(-(on_policy / rows.advantages[:, None]).mean())
    value, gradient = trainer.loss(rows, **settings)
    return value / weight, gradient / weight


def _both(value: float, gradient: Tensor) -> Tensor:
    return torch.cat([torch.tensor([value], dtype=torch.double), gradient.flatten()])


def _clip(trainer: Judged) -> Measured:
    """By hand, clip to [0.8, 1.28]: A = 1 loses its gradient at 1.5, A = −1 at 0.5; values −3.88 and 4.4."""
    rows = with_ratios([[0.5, 1.0, 1.1, 1.5]] * 2, (1.0, -1.0))
    got = _both(*_per_weight(trainer, rows, **CLIP))
    gradient = torch.tensor([[-0.5, -1.0, -1.1, 0.0], [0.0, 1.0, 1.1, 1.5]])
    return match(got, {"": _both(-3.88 + 4.4, gradient)}, tolerance=CLOSE)


def _dual_clip(trainer: Judged) -> Measured:
    """By hand, c = 3: the loss of A = −1 at ratio 5 is 3, without gradient; A = 1 is clipped as ever."""
    rows = with_ratios([[0.5, 1.0, 2.0, 5.0]] * 2, (1.0, -1.0))
    got = _both(*_per_weight(trainer, rows, **CLIP, clip_dual=3.0))
    gradient = torch.tensor([[-0.5, -1.0, 0.0, 0.0], [0.0, 1.0, 2.0, 0.0]])
    return match(got, {"": _both(-4.06 + 6.8, gradient)}, tolerance=CLOSE)


def _extreme_ratio(trainer: Judged) -> Measured:
    """Ratios of e^±100 that the clip stops, and one whose advantage is 0: finite, and no gradient there."""
    rows = make_rows([2, 2, 2], (1.0, -1.0, 0.0))
    far = torch.tensor([[-100.0, 0.0], [100.0, 0.0], [-100.0, 0.0]])
    value, gradient = trainer.loss(replace(rows, old_logp=rows.logp + far))
    largest = float(gradient[:, 0].abs().max())
    return Measured(largest if math.isfinite(value) else math.nan, CLOSE)


def _sequence_ratio(trainer: Judged) -> Measured:
    """Every token of a row has −w·A·exp(mean of the row's log-ratios): means −0.1 and 0.05."""
    logs = torch.tensor([[0.1, -0.3, -0.1, -0.1], [0.1, 0.2, 0.0, -0.1]])
    rows = make_rows([4, 4], (1.0, -1.0))
    moved = replace(rows, old_logp=rows.logp - logs)
    _, got = _per_weight(trainer, moved, ratio_level="sequence", **CLIP)
    wanted = torch.tensor([[-math.exp(-0.1)], [math.exp(0.05)]], dtype=torch.double).expand(2, 4)
    return match(got, {"": wanted}, tolerance=CLOSE)


def _kl(trainer: Judged) -> Measured:
    """With A = 0 and ratios of 1 the KL term is alone: k3 = e^l − l − 1 with gradient 1 − e^l, coefficient ½."""
    rows = make_rows([4, 4], (1.0, 1.0))
    _, on_policy = trainer.loss(rows)
    logs = torch.tensor([LOGS, LOGS[::-1]])
    silent = replace(rows, advantages=torch.zeros(2))
    value, gradient = trainer.loss(silent, kl_coef=0.5, ref_logp=rows.logp + logs)
    unit = -float(on_policy.mean()) * 0.5
    ell = logs.double()
    k3, k2 = float((ell.exp() - ell - 1).sum()), float((ell**2 / 2).sum())
    conventions = {
        "k3 times the ratio: its gradient is that of KL(π‖π_ref)": _both(k3, -ell),
        "k2 = l²/2: its gradient is that of KL(π‖π_ref)": _both(k2, -ell),
    }
    return match(_both(value / unit, gradient / unit), {"": _both(k3, 1 - ell.exp())}, conventions, tolerance=CLOSE)


def _check(name: str, says: str, measure: Any, seen: str = "") -> ConformanceCheck:
    return ConformanceCheck(name, "loss", says, measure, seen)


RATIO_CHECKS = (
    _check("clip", "min(ρA, clip(ρ)·A): no gradient beyond the bound of its side, all of it on the other", _clip),
    _check("dual-clip", "With A < 0 the loss is at most c·|A|", _dual_clip),
    _check("extreme-ratio", "Ratios of e^±100 that the clip stops leave loss and gradient finite", _extreme_ratio),
    _check(
        "sequence-ratio", "The ratio of a sequence is exp of the mean, not of the sum, of its log-ratios",
        _sequence_ratio, "huggingface/trl#5814",
    ),
    _check(
        "kl", "The KL term is k3 = e^l − l − 1 ≥ 0 with gradient 1 − e^l, on silent rows too", _kl,
        "huggingface/trl#5588",
    ),
)  # fmt: skip
"""In the order in which they are shown."""
