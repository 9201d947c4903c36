r"""Reads answers from completions: the last number, the last word, `\boxed{…}`, `#### answer`.

Numbers are exact (`Fraction`), so 0.1 is one tenth and 1,000 is a thousand. All functions are pure, accept any text,
and return None if there is no answer.
"""

from __future__ import annotations

import re
from fractions import Fraction

MAX_DIGITS = 400  # a longer run of digits is degenerate text, not an answer; also bounds the arithmetic

_UNSIGNED = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
_NUMBER = rf"(?:{_UNSIGNED})(?:[eE][-+]?[0-9]{{1,2}}(?![0-9A-Za-z]))?(?:/[0-9]+(?![0-9.]))?"
_IN_TEXT = re.compile(rf"(?<![0-9A-Za-z_.])(?:{_NUMBER})")
_WHOLE = re.compile(rf"[-−+]?(?:{_NUMBER})")
_BARE = re.compile(rf"\s*({_WHOLE.pattern})\s*\.?\s*")
_SIGN = re.compile(r"(?:^|[^0-9A-Za-z_)\]}])[-−][$€£]?$")  # not after an operand: 7-5 ends in 5
_WORD = re.compile(r"\w+(?:['’-]\w+)*")


def last_number(text: str) -> Fraction | None:
    """Returns the last number in the text, exactly; reads commas, decimals, fractions, exponents and signs.

    A minus directly before the digits is a sign unless an operand stands before it: "= -5" is −5, "7-5" ends in 5.
    """
    matches = list(_IN_TEXT.finditer(text))
    if not matches:
        return None
    found = matches[-1]
    value = parse_number(found.group())
    negative = _SIGN.search(text[max(0, found.start() - 3) : found.start()]) is not None
    return -value if negative and value is not None else value


def bare_number(text: str) -> Fraction | None:
    """Returns the number if the whole text is one, ignoring white space and a final period; else None."""
    match = _BARE.fullmatch(text)
    return parse_number(match.group(1)) if match else None


def closing_number(text: str) -> Fraction | None:
    """Returns the number at the end of the text, ignoring white space and periods after it; else None.

    "The sum is 12." ends with 12; "12 is the sum" does not, and neither does "12 apples".
    """
    trimmed = text.rstrip(" \t\r\n.")
    matches = list(_IN_TEXT.finditer(trimmed))
    return last_number(trimmed) if matches and matches[-1].end() == len(trimmed) else None


def parse_number(text: str) -> Fraction | None:
    """Returns the exact value of "-1,234.5", "3/4", "1e3"; None for anything else, and for a division by zero."""
    if len(text) > MAX_DIGITS or _WHOLE.fullmatch(text.strip()) is None:
        return None
    text = text.strip().replace(",", "").replace("−", "-")
    try:
        numerator, _, denominator = text.partition("/")
        return Fraction(numerator) / Fraction(denominator or 1)
    except (ValueError, ZeroDivisionError):
        return None


def show_number(value: Fraction) -> str:
    """Formats a number as its shortest exact text: "5", "0.25", "1/3"."""
    if value.denominator == 1:
        return str(value.numerator)
    decimal = f"{float(value):.12g}"
    return decimal if "e" not in decimal and Fraction(decimal) == value else str(value)


def last_word(text: str) -> str | None:
    """Returns the last word (letters, digits, inner hyphens and apostrophes), without punctuation."""
    words = _WORD.findall(text)
    return words[-1] if words else None


def boxed(text: str) -> str | None:
    r"""Returns the contents of the last `\boxed{…}` or `\fbox{…}`, braces balanced; None where none is closed."""
    start = max(text.rfind(r"\boxed"), text.rfind(r"\fbox"))
    if start < 0:
        return None
    opening = re.compile(r"\\(?:boxed|fbox)\s*").match(text, start)
    if opening is None:
        return None
    rest = text[opening.end() :]
    if not rest.startswith("{"):  # TeX allows \boxed 5: one token is the argument
        return rest[:1] or None
    depth = 0
    for position, character in enumerate(rest):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return rest[1:position].strip()
    return None


def after_hashes(text: str) -> str | None:
    """Returns the text after the last `####` up to the end of the line: GSM8K marks its answers this way."""
    _, mark, tail = text.rpartition("####")
    answer = tail.strip().split("\n")[0].strip()
    return answer if mark and answer else None
