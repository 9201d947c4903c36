"""A finding: one figure with its interval, what it means, and the plots and tables that show it.

Findings hold plain values only (numbers, strings, tuples), so the terminal, JSON and the page show the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import wraps
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

Value = str | int | float | bool | None
PlotKind = Literal["bars", "stack", "line", "dial"]
Source = TypeVar("Source")
P = ParamSpec("P")


@dataclass(frozen=True)
class Series:
    """One set of values over a plot's x axis, with an interval if there is one. `role` chooses the color: right | wrong
    | mixed | other | plain | alt | ghost."""

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
class Spec:
    """What a finding measures in any log: a stable snake_case name, a title, the unit of its figure ("share", "tokens",
    "ratio", …), the definition of the figure, and why it matters."""

    name: str
    title: str
    unit: str
    definition: str
    why: str


@dataclass(frozen=True)
class Measurement:
    """The figure of one log.

    interval    95 %, or None where none can be given; `value` lies in it
    headline    one sentence with the figure in it
    advice      what to do about it; empty where there is nothing to do
    importance  0–1, by which findings are ordered: how much of the run the figure puts at stake
    """

    value: float
    headline: str
    interval: tuple[float, float] | None = None
    advice: str = ""
    method: str = ""
    importance: float = 0.0
    plots: tuple[Plot, ...] = ()
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True)
class Finding:
    """A `Spec` with the `Measurement` of one log, or the reason why there is none (`withheld`; `value` is None)."""

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
        return {each.name: plain(getattr(self, each.name)) for each in fields(self)}


def measures(
    spec: Spec,
) -> Callable[[Callable[Concatenate[Source, P], Measurement | str]], Callable[Concatenate[Source, P], Finding]]:
    """Makes a finding of a function that returns a measurement, or the reason why the log supports none."""

    def make(measure: Callable[Concatenate[Source, P], Measurement | str]) -> Callable[Concatenate[Source, P], Finding]:
        @wraps(measure)
        def find(source: Source, /, *args: P.args, **kwargs: P.kwargs) -> Finding:
            return _finding(spec, measure(source, *args, **kwargs))

        return find

    return make


def _finding(spec: Spec, found: Measurement | str) -> Finding:
    same = {each.name: getattr(spec, each.name) for each in fields(spec)}
    if isinstance(found, str):
        return Finding(**same, value=None, headline=f"Withheld: {found}", what_to_do="", withheld=found)
    own = {each.name: getattr(found, each.name) for each in fields(found) if each.name != "advice"}
    return Finding(**same, **own, what_to_do=found.advice)


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
    """`0.1234` → "12 %"; a share that would round to 0 or 100 without being exactly that keeps one digit more."""
    if 0 < share < 0.005 or 0.995 < share < 1:
        digits = max(digits, 1 if 0.0005 <= share <= 0.9995 else 2)
    return f"{100 * share:.{digits}f} %"


def percent_parts(parts: Sequence[float], digits: int = 0) -> tuple[str, tuple[str, ...]]:
    """The sum of some shares and the shares themselves, rounded so that the parts shown add up to the sum shown.

    Every part is rounded down; the remaining units go to the parts with the largest remainders.
    """
    whole = sum(parts)
    small = [value for value in (whole, *parts) if value > 0]
    digits = max([digits, *(1 for value in small if value < 0.005)])
    scale = 10.0 ** (2 + digits)
    exact = [round(scale * part, 6) for part in parts]
    units = [math.floor(value) for value in exact]
    missing = round(scale * whole) - sum(units)
    for index in sorted(range(len(parts)), key=lambda i: units[i] - exact[i])[:missing]:
        units[index] += 1
    shown = [f"{100 * number / scale:.{digits}f} %" for number in (round(scale * whole), *units)]
    return shown[0], tuple(shown[1:])
