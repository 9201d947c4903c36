"""Schulman's estimators of KL(π‖π_ref) from samples of π, with l = log π_ref − log π per token."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

LOG_RATIO_BOUND = 20.0  # without it one token can make the loss infinite; e^20 is far beyond any useful ratio


def k1(log_ratio: Tensor) -> Tensor:
    """−l. Unbiased value; as a loss term its expected gradient on π's samples is 0."""
    return -log_ratio


def k2(log_ratio: Tensor) -> Tensor:
    """l²/2. Biased value; its gradient is that of KL(π‖π_ref)."""
    return log_ratio.square() / 2


def k3(log_ratio: Tensor) -> Tensor:
    """e^l − l − 1 ≥ 0. Unbiased value; its gradient is that of the reverse KL(π_ref‖π)."""
    return log_ratio.exp() - log_ratio - 1


ESTIMATORS: dict[str, Callable[[Tensor], Tensor]] = {"k1": k1, "k2": k2, "k3": k3}


def kl(estimator: str, logp: Tensor, ref_logp: Tensor) -> Tensor:
    """(T,) per-token estimate in nats; `estimator` is k1, k2 or k3. The log-ratio is clamped at ±20."""
    return ESTIMATORS[estimator]((ref_logp - logp).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND))
