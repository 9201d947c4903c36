"""A measured figure: two series measured alternately, their medians, ranges and the ratio."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Any

HIGHER_IS_BETTER = {"tokens/s": True, "GFLOP/s": True, "s": False, "GB": False}


@dataclass(frozen=True)
class Figure:
    """Our measurements and the other side's; `ours[i]` and `other[i]` were measured in the same turn. A ratio > 1 means
    that ours is better.

    Without `other` nothing was measured, and `reason` says why. `ceiling` holds the machine's GFLOP/s in each turn.
    """

    figure: str
    unit: str
    other_name: str
    workload: str
    ours: tuple[float, ...] = ()
    other: tuple[float, ...] = ()
    ceiling: tuple[float, ...] = ()
    reason: str = ""

    @property
    def measured(self) -> bool:
        """Whether there is a ratio."""
        return bool(self.ours and self.other)

    @property
    def ratio(self) -> float | None:
        """Of the medians."""
        return self._ratio(median(self.ours), median(self.other)) if self.measured else None

    @property
    def ratios(self) -> list[float]:
        """Of every turn."""
        return [self._ratio(own, other) for own, other in zip(self.ours, self.other, strict=True)]

    def _ratio(self, own: float, other: float) -> float:
        return own / other if HIGHER_IS_BETTER[self.unit] else other / own

    def to_json(self) -> dict[str, Any]:
        """One object of `onedial bench --json`; what was not measured is null."""
        value: dict[str, Any] = {
            "figure": self.figure,
            "ours": median(self.ours) if self.ours else None,
            "other": median(self.other) if self.other else None,
            "other_name": self.other_name,
            "unit": self.unit,
            "ratio": self.ratio,
        }
        for name, series in (("ours", self.ours), ("other", self.other), ("ratio", self.ratios)):
            value[f"{name}_min"] = min(series) if series else None
            value[f"{name}_max"] = max(series) if series else None
        value["ceiling_gflops"] = median(self.ceiling) if self.ceiling else None
        return value | {"repeats": len(self.ours), "workload": self.workload, "reason": self.reason or None}


@dataclass(frozen=True)
class Point:
    """A point of a scaling curve, ours only: `tokens_per_s` where the curve's quantity is `at`."""

    curve: str
    at: int
    tokens_per_s: float
    workload: str

    @property
    def us_per_token(self) -> float:
        """Microseconds per token."""
        return 1e6 / self.tokens_per_s

    def to_json(self) -> dict[str, Any]:
        """One object of `onedial bench --json`."""
        return {
            "figure": self.curve,
            "at": self.at,
            "ours": self.tokens_per_s,
            "other": None,
            "other_name": None,
            "unit": "tokens/s",
            "ratio": None,
            "us_per_token": self.us_per_token,
            "workload": self.workload,
        }
