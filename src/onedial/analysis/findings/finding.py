"""What a finding is: one figure with its interval, what it means, and what to draw of it.

Findings hold plain values only (numbers, strings, tuples), so that the terminal, JSON and the page show the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Value = str | int | float | bool | None
PlotKind = Literal["bars", "stack", "line", "dial"]


@dataclass(frozen=True)
class Series:
    """One set of values over a plot's x, with an interval where there is one. `role` picks its colour:
    right | wrong | mixed | other | plain | alt | ghost."""

    name: str
    y: tuple[float | None, ...]
    role: str = "plain"
    low: tuple[float | None, ...] = ()
    high: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class Plot:
    """A drawing: `x` are category names (bars, stack) or numbers (line). `unit` "share" prints per cent.

    members  for each x, keys of prompts (of `Prompts` on the page) behind that bar, at most a few dozen
    extra    what a special kind needs; "dial" has {"sigma": …, "counts": …} to weigh groups by σ̂^(2−α) for any α
    """

    kind: PlotKind
    title: str
    x_label: str
    y_label: str
    x: tuple[str | float, ...]
    series: tuple[Series, ...]
    unit: str = "share"
    members: tuple[tuple[str, ...], ...] = ()
    note: str = ""
    log_x: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """Rows under headers; numbers stay numbers. `units` per column as in `Finding`, "" for plain ones, or no units."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]
    units: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finding:
    """One figure a log supports, or the reason why it does not (`withheld`; then `value` is None).

    name        snake_case, stable
    unit        "share" (0–1), "tokens", "nats", "ratio", …
    interval    95 %, or None where none can be given
    headline    one sentence with the figure in it
    importance  0–1, by which findings are ordered: how much of the run the figure puts at stake
    """

    name: str
    title: str
    value: float | None
    unit: str
    headline: str
    definition: str
    why: str
    what_to_do: str
    interval: tuple[float, float] | None = None
    method: str = ""
    withheld: str = ""
    importance: float = 0.0
    plots: tuple[Plot, ...] = ()
    tables: tuple[Table, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; not-a-number becomes null."""
        return {name: plain(getattr(self, name)) for name in self.__dataclass_fields__}


def withheld(name: str, title: str, unit: str, reason: str, *, definition: str, why: str) -> Finding:
    """The finding that says why there is no figure."""
    return Finding(
        name=name,
        title=title,
        value=None,
        unit=unit,
        headline=f"Withheld: {reason}",
        definition=definition,
        why=why,
        what_to_do="",
        withheld=reason,
    )


def plain(value: Any) -> Any:
    """`value` as JSON types: dataclasses by field, tuples as lists, NaN and infinity as null."""
    if hasattr(value, "__dataclass_fields__"):
        return {name: plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "item"):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def percent(share: float, digits: int = 0) -> str:
    """`0.1234` → "12 %"; a share that would round to 0 or 100 without being it keeps a digit."""
    if 0 < share < 0.005 or 0.995 < share < 1:
        digits = max(digits, 1 if 0.0005 <= share <= 0.9995 else 2)
    return f"{100 * share:.{digits}f} %"
