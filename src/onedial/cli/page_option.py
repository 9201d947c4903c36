"""The option -o of the commands that write a page."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_page_option(parser: argparse.ArgumentParser, text: str, default: Path | None = None) -> None:
    """Adds -o, --output with this help text."""
    parser.add_argument("-o", "--output", type=_parse_page, default=default, metavar="FILE", help=text)


def _parse_page(text: str) -> Path:
    """A name that ends in .html, so that no log, table or run is ever replaced by a page."""
    if Path(text).suffix != ".html":
        raise argparse.ArgumentTypeError(f"{text!r}: must end in .html, so that no log is overwritten")
    return Path(text)
