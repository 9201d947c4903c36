"""Signal and noise of group gradients, from two halves of each group.

A rollout's score is s_i = ∇log π(y_i|x), with class means that differ by δ_x and variance V (its trace) inside a class.
The slope of scores on rewards in a set of m rollouts, β̂ = Cov(r, s)/Var(r), is s̄₊ − s̄₋ where rewards are 0 or 1, and
E‖β̂‖² = ‖δ‖² + V/(mσ̂²). Slopes of two disjoint halves have independent noise, so

    E⟨β̂_A, β̂_B⟩ = ‖δ‖²           E‖β̂_A − β̂_B‖² = V·(1/(m_A σ̂_A²) + 1/(m_B σ̂_B²))

given the rewards, whatever the halves were chosen by. Their ratio ρ = ‖δ‖²/V is the prompt's signal over the noise of
one rollout (`dispersion.utility`); ‖δ‖² bounds from above the part of it that the prompt shares with no other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class HalfSplit:
    """What one group's halves say: ⟨β̂_A, β̂_B⟩, ‖β̂_A‖², ‖β̂_B‖², and `noise` = 1/(m_A σ̂_A²) + 1/(m_B σ̂_B²)."""

    product: float
    squares: tuple[float, float]
    noise: float

    @property
    def cosine(self) -> float:
        """Cosine of the halves' slopes; 0 where one of them is 0."""
        norms = float(np.sqrt(self.squares[0] * self.squares[1]))
        return self.product / norms if norms > 0 else 0.0


@dataclass(frozen=True)
class SignalNoise:
    """‖δ‖², V and ρ = ‖δ‖²/V over `groups` groups; ρ is not below 0."""

    signal: float
    noise: float
    rho: float
    groups: int


def split_rewards(rewards: Sequence[float]) -> tuple[list[int], list[int]] | None:
    """The indices of two halves, dealt alternately in the order of the rewards, so that both are mixed if possible.

    None if one of them has equal rewards only: with 0 and 1, if there are fewer than two of either.
    """
    order = sorted(range(len(rewards)), key=lambda index: (rewards[index], index))
    halves = order[::2], order[1::2]
    if any(len({rewards[index] for index in half}) < 2 for half in halves):
        return None
    return sorted(halves[0]), sorted(halves[1])


def noise_factor(rewards: Sequence[float]) -> float:
    """Returns 1/(mσ̂²) of a set of m rewards that are not all equal; σ̂ is the population's."""
    return 1.0 / (len(rewards) * float(np.var(rewards)))


def estimate_signal(splits: Sequence[HalfSplit]) -> SignalNoise | None:
    """The pooled estimates over groups; None without groups, or if no halves differ.

    ‖δ‖² is the mean product weighted by 1/noise², which is the precision of a group if noise dominates.
    """
    if not splits:
        return None
    products = np.array([split.product for split in splits])
    factors = np.array([split.noise for split in splits])
    distances = np.array([sum(split.squares) - 2 * split.product for split in splits])
    noise = float(distances.sum() / factors.sum())
    if noise <= 0:
        return None
    signal = float(np.average(products, weights=factors**-2))
    return SignalNoise(signal, noise, max(0.0, signal / noise), len(splits))


def read_half_split(line: Mapping[str, Any]) -> HalfSplit | None:
    """The halves of one line of `probe.jsonl`, to be pooled by `estimate_signal`; None if it has none."""
    if line["half_product"] is None:
        return None
    first, second = line["half_squares"]
    return HalfSplit(line["half_product"], (first, second), line["half_noise"])
