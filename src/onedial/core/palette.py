"""Kinds of groups, shown the same way everywhere: one label, one glyph and one color each, for terminal and page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class KindStyle:
    """How one kind of group is shown. `glyph` distinguishes kinds without color.

    terminal     a color name of rich
    light, dark  CSS colors of the page, on a light and on a dark background
    """

    label: str
    glyph: str
    terminal: str
    light: str
    dark: str


GROUP_KINDS: Mapping[str, KindStyle] = {
    "mixed": KindStyle("mixed", "█", "blue", "#2f6bd8", "#6fa3ff"),
    "right": KindStyle("all correct", "▓", "green", "#0a8f68", "#3ccb9b"),
    "wrong": KindStyle("all wrong", "▒", "red", "#d1590a", "#ff9a4d"),
    "other": KindStyle("other", "░", "bright_black", "#8b93a1", "#8d97a8"),
}
"""`other`: all rewards equal, and neither right nor wrong."""
