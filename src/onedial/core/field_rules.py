"""A dataclass field with its help text and its check in one place: `setting(1e-5, "peak learning rate", above=0)`.

`check_fields` checks every such field of an object by its type annotation and its rule; `convert` turns the text of a
command line or a value of a TOML file into the field's type. Both raise ConfigError naming field, value and remedy.
"""

from __future__ import annotations

import math
import types
import typing
import unicodedata
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import cache
from typing import Any

from onedial.core.errors import ConfigError, suggest

LARGEST_INT = 2**31 - 1  # where a field does not say another bound
LARGEST_FLOAT = 1e9
NAMES = {int: "int", float: "float (a finite number)", bool: "bool (true or false)", str: "str (text)"}
BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True)
class Rule:
    """What a field means and allows.

    at_least, at_most    closed ends of the range; above, below: open ends
    choices              the allowed words; a field of type `Callable` takes a function, too
    note                 what is usual or why, shown with the error
    resumable            whether a resumed run may change it
    saved                whether files hold it; otherwise it is for the command line alone
    """

    help: str
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    note: str = ""
    resumable: bool = False
    saved: bool = True

    def problem(self, value: Any) -> str:
        """Returns what is wrong with a value of the right type, or an empty text."""
        if isinstance(value, str):
            return self._problem_of_text(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return self._problem_of_number(value)
        return ""

    def _problem_of_text(self, text: str) -> str:
        if self.choices and text not in self.choices:
            return f"must be one of {', '.join(self.choices)}{suggest(text, self.choices)}{self._note}"
        if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in text):
            return "must be text without control characters"
        return ""

    def _problem_of_number(self, number: float) -> str:
        low = self.at_least if self.above is None else self.above
        high = self.at_most if self.below is None else self.below
        if low is not None and (number < low or (self.above is not None and number == low)):
            return self.range + self._note
        if high is not None and (number > high or (self.below is not None and number == high)):
            return self.range + self._note
        largest = LARGEST_INT if isinstance(number, int) else LARGEST_FLOAT
        return f"must be at most {largest:g}" if high is None and number > largest else ""

    @property
    def range(self) -> str:
        """The allowed range in words."""
        low = self.at_least if self.above is None else self.above
        high = self.at_most if self.below is None else self.below
        if low is not None and high is not None:
            left, right = "[" if self.above is None else "(", "]" if self.below is None else ")"
            return f"must lie in {left}{low:g}, {high:g}{right}"
        if self.above is not None:
            return "must be positive" if self.above == 0 else f"must exceed {self.above:g}"
        return f"must be at least {low:g}" if low is not None else f"must be at most {high:g}"

    @property
    def _note(self) -> str:
        return f"; {self.note}" if self.note else ""


def setting(default: Any = MISSING, help: str = "", **rule: Any) -> Any:
    """A dataclass field with a `Rule`; without a default, the field must be given."""
    return field(default=default, metadata={"rule": Rule(help, **rule)})


def get_rules(owner: type) -> dict[str, Rule]:
    """The rules of a dataclass by field name, in the order of its fields."""
    return {part.name: part.metadata["rule"] for part in fields(owner) if "rule" in part.metadata}


def get_default(owner: type, name: str) -> Any:
    """The default of a field; None where it must be given."""
    part: Field[Any] = owner.__dataclass_fields__[name]  # type: ignore[attr-defined]
    return None if part.default is MISSING else part.default


def check_fields(owner: Any, prefix: str = "") -> None:
    """Checks type and rule of every field made by `setting`.

    Raises ConfigError for the first wrong field, with `prefix` before its name.
    """
    for name, rule in get_rules(type(owner)).items():
        value = getattr(owner, name)
        kinds = get_kinds(type(owner), name)  # type: ignore[arg-type]  # a class is hashable
        problem = _type_problem(value, kinds) or rule.problem(value)
        if problem:
            raise ConfigError(f"{prefix}{name}={show_value(value)}: {problem}")


def show_value(value: Any) -> str:
    """The value for a message: its repr, shortened where it is long."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python prints
        text = "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:60]} … ({len(text)} characters)"


@cache
def get_kinds(owner: Any, name: str) -> tuple[Any, ...]:
    """The types that a field takes: ('float | None') → (float, NoneType). Empty where it takes anything."""
    hint = typing.get_type_hints(owner)[name]
    if hint is Any:
        return ()
    union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    return typing.get_args(hint) if union else (hint,)


def _type_problem(value: Any, kinds: tuple[Any, ...]) -> str:
    if not kinds or any(_is_kind(value, kind) for kind in kinds):
        return ""
    return "must be " + " or ".join(NAMES.get(kind, "a function") for kind in kinds if kind is not type(None))


def _is_kind(value: Any, kind: Any) -> bool:
    if kind is Callable:
        return callable(value)
    if kind in (int, float) and isinstance(value, bool):
        return False
    if kind is float:
        return isinstance(value, int) or isinstance(value, float) and math.isfinite(value)
    return isinstance(value, kind)


def convert(owner: type, name: str, value: Any, *, where: str = "") -> Any:
    """The value in the type of the field, from a TOML value or from the text of a command line.

    Raises ConfigError naming `where`, the field and the types that it takes.
    """
    kinds = get_kinds(owner, name)
    if not kinds:
        return value
    if value is None or (isinstance(value, str) and value.lower() == "none" and type(None) in kinds):
        return None
    for kind in (bool, int, float, str):
        if kind in kinds and (converted := _converted(kind, value)) is not None:
            return converted
    names = " or ".join(kind.__name__ for kind in kinds if kind in NAMES)
    raise ConfigError(f"{where}{name}={show_value(value)}: must be {names}")


def _converted(kind: type, value: Any) -> Any:
    """The value as `kind`, or None if it is not one."""
    if kind is bool:
        return value if isinstance(value, bool) else BOOLEANS.get(str(value).lower())
    if isinstance(value, bool):
        return None
    if kind is str:
        return value if isinstance(value, str) else None
    return _number(kind, value)


def _number(kind: type, value: Any) -> Any:
    if kind is int and isinstance(value, int):
        return value
    try:
        if kind is int and isinstance(value, str) and value.strip().lstrip("+-").isdecimal():
            return int(value)  # not through a float, which rounds beyond 2⁵³
        number = float(value)
        return number if kind is float else int(number) if number == int(number) else None
    except (TypeError, ValueError, OverflowError):
        return None
