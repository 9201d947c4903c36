"""Whether the belief is correct: believed against observed solve rates, on prompts that the belief did not choose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

BINS = 10


@dataclass
class Calibration:
    """Sums over audited prompts by tenth of the believed solve rate: believed, observed (mean of the group), prompts.

    Only prompts drawn uniformly may be included: among prompts that a belief chose, overrated ones are too frequent.
    """

    bins: list[list[float]] = field(default_factory=lambda: [[0.0, 0.0, 0.0] for _ in range(BINS)])

    def add(self, believed: float, observed: float) -> None:
        """Takes one audited prompt into account."""
        own = self.bins[min(BINS - 1, int(believed * BINS))]
        own[0] += believed
        own[1] += observed
        own[2] += 1

    @property
    def prompts(self) -> int:
        """Audited prompts so far."""
        return int(sum(count for _, _, count in self.bins))

    @property
    def error(self) -> float | None:
        """Expected calibration error: mean over prompts of the gap |believed − observed| of their tenth; None before
        the first audit.

        With n prompts in a bin, chance alone gives a gap of about √(2pq/(πn)).
        """
        total = self.prompts
        return sum(abs(believed - observed) for believed, observed, _ in self.bins) / total if total else None

    def means(self) -> list[list[float] | None]:
        """Per tenth: mean believed, mean observed and number of prompts; None where there were none."""
        return [[b / n, o / n, n] if n else None for b, o, n in self.bins]

    def state(self) -> list[list[float]]:
        """JSON values that `restore` takes."""
        return [list(own) for own in self.bins]

    def restore(self, state: Mapping[str, Any] | list[list[float]]) -> None:
        """Takes a saved state."""
        self.bins = [[float(value) for value in own] for own in state]
