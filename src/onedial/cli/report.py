"""`onedial report`: one HTML file on a run or a log."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from onedial.cli.log_options import (
    add_group_size,
    add_log_options,
    add_price_options,
    check_group_size,
    with_analysis,
)
from onedial.cli.page_option import add_page_option
from onedial.core.text_safety import say

if TYPE_CHECKING:
    from onedial.analysis import Analysis

HELP = """
Works on onedial's own runs and on any rollout log or table of solve rates.
Example: onedial report runs/x --open
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `onedial report`."""
    parser.add_argument("run", help="run directory, rollout log or table of solve rates")
    add_page_option(parser, "default: RUN/report.html, or NAME.report.html here")
    parser.add_argument("--open", action="store_true", help="show it in the browser")
    add_group_size(parser)
    add_log_options(parser)
    add_price_options(parser)


def run(args: argparse.Namespace) -> int:
    """Read, find, write."""
    from onedial.analysis import logs
    from onedial.analysis.page import write_curves, write_html
    from onedial.analysis.page.curves import plot_run

    check_group_size(args.group_size)
    source = Path(args.run)
    target, title = args.output or choose_output(source), source.resolve().name
    curves, notes = plot_run(source) if source.is_dir() else ([], [])
    if why := logs.without_rollouts(source):
        path = write_curves(target, title=title, curves=curves, notes=[why, *notes])
        say(f"{why}\nwrote {path}: its curves")
        return 0

    def write(analysis: Analysis) -> Path:
        check_group_size(args.group_size, analysis)
        return write_html(target, analysis, title=title, curves=curves, notes=notes)

    path = with_analysis(args, source, write)
    say(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")
    if args.open:
        import webbrowser

        webbrowser.open(path.resolve().as_uri())
    return 0


def choose_output(source: Path) -> Path:
    """The path of the page: inside a run directory; otherwise in the current folder."""
    own = source.is_dir() and (source / "metrics.jsonl").is_file()
    return source / "report.html" if own else Path(f"{source.resolve().name}.report.html")
