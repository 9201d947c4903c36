"""`onedial explain`: a page on which GRPO, Dr. GRPO and DAPO can be tried by hand."""

from __future__ import annotations

import argparse
from pathlib import Path

from onedial.cli.page_option import add_page_option

HELP = """
  onedial explain -o explain.html

The page works without a network and without a model: answer lengths under each
aggregation, the exponent of the standard deviation, the clip window, pairs beside
DPO, and one real group under every row of the algorithm table."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `onedial explain`."""
    add_page_option(parser, "where to write [explain.html]", default=Path("explain.html"))


def run(args: argparse.Namespace) -> int:
    """Writes the page and prints its path."""
    from onedial.evidence.explainer import write_explainer

    print(f"page: {write_explainer(args.output)}")
    return 0
