"""Statistics of paired runs: curves over tokens, paired differences with intervals, tokens to reach a target."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from onedial.core.maths.estimators import Estimate, mean_interval, mean_known
from onedial.evidence.claim import Json

GRID = 13  # points of a mean curve


@dataclass(frozen=True)
class Difference:
    """A quantity of one arm minus that of another, paired by seed, with its interval at `level`."""

    arm: str
    against: str
    estimate: Estimate
    level: float

    @property
    def told_apart(self) -> bool:
        """Whether the interval does not contain 0."""
        return self.estimate.low > 0 or self.estimate.high < 0


def list_arms(records: Sequence[Json]) -> list[str]:
    """Returns the names of the arms in the order of their first record."""
    return list(dict.fromkeys(record["arm"] for record in records))


def index_seeds(records: Sequence[Json], arm: str) -> dict[int, Json]:
    """Returns an arm's records by seed."""
    return {record["seed"]: record for record in records if record["arm"] == arm}


def final_accuracy(record: Json) -> float:
    """Returns avg@k of the last evaluation."""
    return float(record["curve"][-1]["avg"])


def generated_tokens(record: Json) -> float:
    """Returns the number of tokens in all rollouts of a run."""
    return float(sum(record["series"]["tokens_generated"]))


def pair_difference(
    records: Sequence[Json], arm: str, against: str, quantity: Callable[[Json], float], *, level: float = 0.95
) -> Difference:
    """Returns the mean difference over the seeds that both arms have, with Student's t interval.

    With one seed the interval is infinite. Raises ValueError when they share none.
    """
    one, other = index_seeds(records, arm), index_seeds(records, against)
    shared = sorted(one.keys() & other.keys())
    if not shared:
        raise ValueError(f"{arm} and {against} share no seed")
    values = [quantity(one[seed]) - quantity(other[seed]) for seed in shared]
    return Difference(arm, against, mean_interval(values, level=level), level)


def compare_with_first(records: Sequence[Json], quantity: Callable[[Json], float]) -> list[Difference]:
    """Returns each further arm's difference from the first; the intervals hold jointly at 95 % (Bonferroni)."""
    first, *others = list_arms(records)
    level = 1 - 0.05 / max(1, len(others))
    return [pair_difference(records, arm, first, quantity, level=level) for arm in others]


def pair_ratio(
    records: Sequence[Json], arm: str, against: str, quantity: Callable[[Json], float | None], *, level: float = 0.95
) -> Estimate | None:
    """Returns the geometric mean over seeds of a quantity's ratio, with the interval of its logarithm.

    None if a run of a shared seed has no such quantity (a target that was never reached), or one that is not > 0.
    """
    one, other = index_seeds(records, arm), index_seeds(records, against)
    pairs = [(quantity(one[seed]), quantity(other[seed])) for seed in sorted(one.keys() & other.keys())]
    if not pairs or any(not a or not b for a, b in pairs):
        return None
    logs = mean_interval([math.log(a / b) for a, b in pairs if a and b], level=level)
    return Estimate(math.exp(logs.value), math.exp(logs.low), math.exp(min(logs.high, 700.0)), logs.num_prompts)


def cost_to_reach(record: Json, target: float, unit: str = "tokens") -> float | None:
    """Returns the tokens (or rollouts, seconds, iterations as `unit` "iteration") at which avg@k first reaches a
    target, by linear interpolation between evaluations; None if it never does."""
    points = [(point[unit], point["avg"]) for point in record["curve"]]
    if points and points[0][1] >= target:
        return float(points[0][0])
    for (left, low), (right, high) in zip(points, points[1:], strict=False):
        if low < target <= high:
            return float(left + (target - low) / (high - low) * (right - left))
    return None


def mean_curve(records: Sequence[Json], arm: str, grid: Sequence[float]) -> list[Estimate | None]:
    """Returns avg@k of an arm over tokens: the mean over seeds at each point of the grid, by linear interpolation
    between evaluations, with a t interval over seeds; None beyond the last evaluation of a run."""
    curves = [
        ([point["tokens"] for point in record["curve"]], [point["avg"] for point in record["curve"]])
        for record in index_seeds(records, arm).values()
    ]
    found: list[Estimate | None] = []
    for tokens in grid:
        inside = all(x[-1] >= tokens for x, _ in curves)
        found.append(mean_interval([float(np.interp(tokens, x, y)) for x, y in curves]) if inside else None)
    return found


def token_grid(records: Sequence[Json]) -> list[float]:
    """Returns points from 0 to the tokens that every run has spent."""
    last = min(record["curve"][-1]["tokens"] for record in records)
    return [float(x) for x in np.linspace(0, last, GRID)]


def mean_series(record: Json, key: str, part: slice = slice(None)) -> float | None:
    """Returns the mean of a metric over some iterations of a run; None where it was never measured."""
    return mean_known(record["series"][key][part])


def finite_or_none(value: float) -> float | None:
    """Returns a number as JSON can hold it: None for an infinite bound."""
    return value if math.isfinite(value) else None


def plain_estimate(found: Estimate) -> Json:
    """Returns an estimate as JSON values: value, low, high; a bound that is infinite (one seed) is null."""
    return {"value": found.value, "low": finite_or_none(found.low), "high": finite_or_none(found.high)}


def show_points(share: float) -> str:
    """Returns a difference of shares in points with its sign: −0.012 is "−1.2"."""
    return f"{100 * share:+.1f}".replace("-", "−")


def show_interval(found: Json) -> str:
    """Returns a difference (`arm_summary.plain_difference`) in points, with its interval where it has one."""
    if found["low"] is None:
        return f"{show_points(found['value'])} points, one seed has no interval"
    return f"{show_points(found['value'])} points ({show_points(found['low'])} to {show_points(found['high'])})"
