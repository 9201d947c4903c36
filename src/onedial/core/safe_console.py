"""Output to the terminal without control characters other than those of the terminal library itself.

Task names, prompts, verifiers' messages, file names and settings may come from anywhere. They are escaped at the place
where text reaches the terminal, so that no caller can forget it.
"""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from onedial.core.text_safety import escape_control


class SafeConsole(Console):
    """rich's console; rich makes colors and cursor moves itself, and every other text is escaped."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yields the segments of a renderable; segments of nested renderables pass through here as well."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(escape_control(segment.text), segment.style)
