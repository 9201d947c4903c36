"""Text of unknown origin made safe to print: from models, logs, data files and settings of other people.

A terminal executes control characters (colors, cursor moves, the window's title), and direction overrides change the
order in which text is read. Every text passes through `escape_control` once, at the place where it reaches a terminal
or a page.
"""

from __future__ import annotations

import re
import sys
from typing import TextIO

CONTROLS = "\x00-\x08\x0b-\x1f\x7f-\x9f"  # all of C0 and C1 but tab and newline
DIRECTIONS = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
SEPARATORS = "\u2028\u2029"
SURROGATES = "\ud800-\udfff"  # JSON can spell a lone one; no UTF-8 stream can hold it
_UNSAFE = re.compile(f"[{CONTROLS}{DIRECTIONS}{SEPARATORS}{SURROGATES}]")


def escape_control(text: str) -> str:
    r"""Returns `text` with control characters, direction overrides and lone surrogates as escapes (\x1b, \u202e).

    Tab and newline are kept, and `\r\n` becomes a newline. Text that is already escaped does not change.
    """
    return _UNSAFE.sub(_escape, text.replace("\r\n", "\n"))


def escape_line(text: str) -> str:
    r"""Returns `escape_control(text)` on one line: newlines and tabs are escaped too."""
    return escape_control(text).replace("\n", "\\n").replace("\t", "\\t")


def cut_long_words(text: str, longest: int = 200) -> str:
    """Returns `text` with what is longer than `longest` characters without a space cut in the middle."""
    half = longest // 2
    return re.sub(rf"\S{{{longest + 1},}}", lambda word: f"{word[0][:half]}…{word[0][-half:]}", text)


def say(text: str, *, file: TextIO | None = None) -> None:
    """Prints a text, escaped, on stdout or another stream."""
    print(escape_control(text), file=file or sys.stdout)


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
