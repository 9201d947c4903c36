"""The way to the terminal: whatever is printed through here has no control characters but the terminal's own.

Task names, prompts, verifiers' messages, file names and settings may come from anywhere. Escaping stands where text
meets the terminal, so that no caller can forget it.
"""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from onedial.core.text_safety import escape_control


class SafeConsole(Console):
    """rich's console; colors and cursor moves are made by rich itself, and every text between them is escaped."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yields the segments of a renderable; those of nested ones come through here as well."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(escape_control(segment.text), segment.style)
