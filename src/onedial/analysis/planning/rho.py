"""What is known of ρ: a prompt's own signal divided by the noise of one rollout (`dispersion.utility`).

Verdicts do not determine it. A run with `--probe` measures it: halves of a group give the signal ‖δ‖² and the noise V
of its scores, and ρ = ‖δ‖²/V. That is an upper bound, because prompts share part of their gradients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from onedial.core.errors import DataError

UNKNOWN_FROM, UNKNOWN_TO = 0.005, 5.0
LEAST, MOST = 1e-9, 1e9  # of a ρ that is given


@dataclass(frozen=True)
class Rho:
    """The value that a plan uses, and the range over which it is shown.

    source  "given" (as an option; shown from a tenth to ten times of it), "measured" (on `groups` probed groups of a
            run; [low, high] is its 95 % interval, and a tenth of the value is shown too), or "unknown" (the middle of
            the range on the log scale)
    """

    value: float
    low: float
    high: float
    source: Literal["given", "measured", "unknown"]
    groups: int = 0

    @property
    def shown(self) -> tuple[float, ...]:
        """The values at which a plan is made, ascending; `value` among them."""
        if self.source == "given":
            return (self.low, self.value, self.high)
        if self.source == "measured":
            return tuple(sorted({self.value / 10, self.low, self.value, self.high}))
        steps = np.geomspace(self.low, self.high, 4)
        return tuple(sorted({*(float(f"{step:.3g}") for step in steps), self.value}))


UNKNOWN = Rho(float(f"{np.sqrt(UNKNOWN_FROM * UNKNOWN_TO):.2g}"), UNKNOWN_FROM, UNKNOWN_TO, "unknown")


def assume_rho(value: float) -> Rho:
    """ρ as the user gives it. Raises DataError for one that no gradients have."""
    if not LEAST <= value <= MOST:
        raise DataError(f"--rho {value:g}: must lie in [{LEAST:g}, {MOST:g}]; leave it out where it is not known")
    return Rho(value, value / 10, value * 10, "given")
