"""The output of the analysis commands: paragraphs, tables and bars of at most 100 columns, drawn by rich.

It is colored on a terminal, plain in a pipe, and ASCII if the stream allows no more. Everything printed may contain
text of a log or a model, so control characters are escaped here.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from onedial.core.palette import GROUP_KINDS
from onedial.core.text_safety import escape_control

WIDTH, MOST, LEAST = 80, 100, 40
BAR = 24  # columns of a whole bar
ASCII = {"·": "-", "–": "-", "—": "-", "→": "->", "σ̂": "sigma", "α": "alpha", "≥": ">=", "×": "x", "−": "-", "½": "1/2"}
ASCII |= {"σ": "sigma", "²": "^2"}
ASCII |= {style.glyph: mark for style, mark in zip(GROUP_KINDS.values(), "#+o.", strict=True)}

Interval = Sequence[float] | None


def show_reading(path: Path) -> AbstractContextManager[object]:
    """A moving line on stderr while a folder is read, erased at the end; nothing where stderr is no terminal."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal or not path.is_dir():
        return nullcontext()
    return console.status(Text(f"reading {escape_control(str(path))}"))


@dataclass(frozen=True)
class Bar:
    """One kind of group: its name in `GROUP_KINDS`, its share, the share as text, and a 95 % interval or None."""

    kind: str
    share: float
    shown: str
    interval: Interval = None


@dataclass(frozen=True)
class Terminal:
    """Prints on one console; `unicode` says whether the stream can hold more than ASCII."""

    console: Console
    unicode: bool = True

    @classmethod
    def on_stdout(cls) -> Terminal:
        """The terminal, or the pipe, that stdout is."""
        console = Console(highlight=False, markup=False, emoji=False)
        console.width = max(LEAST, min(MOST, console.width) if sys.stdout.isatty() else WIDTH)
        utf8 = (sys.stdout.encoding or "ascii").lower().replace("-", "").startswith("utf")
        return cls(console, utf8)

    def clean(self, text: str) -> str:
        """`text` on one line, without control characters, in characters that the stream can hold."""
        text = escape_control(text.replace("\n", " "))
        if self.unicode:
            return text
        for mark, plain in ASCII.items():
            text = text.replace(mark, plain)
        return text.encode("ascii", "replace").decode()

    def write(self, text: str = "", *, style: str = "", indent: int = 2, mark: str = "") -> None:
        """One paragraph, wrapped; its further lines hang behind `mark` (a bullet, a number, an arrow)."""
        body: RenderableType = Text(self.clean(text), style=style, overflow="fold")
        if mark:
            hanging = Table.grid(padding=0)
            hanging.add_row(Text(self.clean(mark), style=style), body)
            body = hanging
        self._show(Padding(body, (0, 0, 0, indent)))

    def head(self, text: str) -> None:
        """A section title after a blank line."""
        self.write()
        self.write(text, style="bold", indent=0)

    def command(self, text: str, why: str) -> None:
        """A command to copy: never wrapped, its purpose beside it or, where it is long, below it."""
        text = self.clean(text)
        fits = len(text) + len(why) + 5 <= self.console.width
        self.console.print(Text("  " + text + (f"   {why}" if fits else "")), soft_wrap=True)
        if not fits:
            self.write(why, indent=6)

    def table(
        self,
        columns: Sequence[str],
        rows: Sequence[Sequence[str]],
        *,
        left: int = 1,
        gap: int = 3,
        styles: Mapping[str, str] | None = None,
    ) -> None:
        """A table without lines, its columns `gap` apart; the first `left` are aligned left, numbers to the right.

        `styles` gives cells of these texts a style.
        """
        known = styles or {}
        table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="dim", show_header=any(columns))
        for number, name in enumerate(columns):
            table.add_column(self.clean(name), justify="left" if number < left else "right", overflow="fold")
        for row in rows:
            table.add_row(*(Text(self.clean(cell), style=known.get(cell, "")) for cell in row))
        self._show(Padding(table, (0, 0, 0, 2)))

    def bars(self, bars: Sequence[Bar]) -> None:
        """Shares by kind of group, each with its bar and its 95 % interval."""
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column()
        table.add_column(width=BAR)
        table.add_column(justify="right", no_wrap=True)
        table.add_column("95 %" if any(bar.interval for bar in bars) else "", justify="right", no_wrap=True)
        for bar in bars:
            style = GROUP_KINDS[bar.kind]
            drawn = Text(self.clean(style.glyph * round(BAR * bar.share)), style=style.terminal)
            table.add_row(style.label, drawn, bar.shown, self.clean(format_span(bar.interval)))
        self._show(Padding(table, (0, 0, 0, 2)))

    def _show(self, what: RenderableType) -> None:
        with self.console.capture() as captured:
            self.console.print(what)
        for line in captured.get().splitlines():
            self.console.file.write(line.rstrip() + "\n")


def format_span(interval: Interval, *, scale: float = 100.0, digits: int = 1) -> str:
    """`(0.41, 0.5)` → "41.0 – 50.0"; "" for None."""
    return "" if interval is None else f"{scale * interval[0]:.{digits}f} – {scale * interval[1]:.{digits}f}"
