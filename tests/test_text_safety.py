"""Text of unknown origin on its way to a terminal: nothing that a terminal would execute gets through."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from onedial.cli.main import main
from onedial.core.text_safety import escape_control, escape_line

HOSTILE = "\x1b]0;title\x07\x1b[31mred\x9b2J\u202eabc\ud800\x00\r"


def test_by_hand() -> None:
    assert escape_control("a\x1b[0m\tb\n\u202ec\ud800\x00\r\n") == "a\\x1b[0m\tb\n\\u202ec\\ud800\\x00\n"
    assert escape_control("naïve – 数学 🙂") == "naïve – 数学 🙂"
    assert escape_line("a\r\nb\tc") == "a\\nb\\tc"


def test_every_character_that_a_terminal_interprets_is_escaped() -> None:
    """Oracle: Unicode's own categories. Cc and Cs leave no trace; the rest of the plane stays as it is, but for the
    marks of writing direction and the two line separators."""
    for code in range(0x10000):
        char = chr(code)
        changed = escape_control(char) != char
        if unicodedata.category(char) in ("Cc", "Cs"):
            assert changed == (char not in "\t\n"), hex(code)
        elif unicodedata.bidirectional(char) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"):
            assert changed, hex(code)
        else:
            assert not changed or char in "\u061c\u200e\u200f\u2028\u2029", hex(code)
    assert escape_control(escape_control(HOSTILE)) == escape_control(HOSTILE)
    escape_control(HOSTILE).encode("utf-8")


@pytest.mark.parametrize(
    "words", [["inspect", "{}"], ["{}"], ["inspect", "x", "--{}"], ["inspect", "x", "--map", "{}"]]
)
def test_an_error_message_executes_nothing(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = HOSTILE.replace("\x00", "").replace("\ud800", "")
    assert main([word.format(name) for word in words]) == 2
    error = capsys.readouterr().err
    assert error and all(char == "\n" or unicodedata.category(char) != "Cc" for char in error)
