"""`onedial inspect`: what a rollout log, or a table of solve rates, says about the compute that produced it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onedial.cli.follow import add_follow_options, check_follow_options, follow
from onedial.cli.log_options import (
    add_group_size,
    add_log_options,
    add_price_options,
    check_group_size,
    with_analysis,
)
from onedial.cli.page_option import add_page_option
from onedial.core.errors import ConfigError

if TYPE_CHECKING:
    from onedial.analysis import Analysis

HELP = """
  onedial inspect runs/x                         an onedial run
  onedial inspect outputs/completions            TRL; verl, prime-rl, verifiers, open-instruct … alike
  onedial inspect samples.csv --map prompt=question,correct=is_ok
  onedial inspect runs/x --json                  the key figures as JSON, nothing else
  onedial inspect runs/x -o report.html          one page with plots, which needs no network
  onedial inspect outputs --follow               a growing log: a line per iteration, findings as they become clear
  onedial inspect --formats                      every format, what it shows and what it cannot

The format is detected. Broken lines are counted and located; figures that a log cannot support are withheld, and the
reason is given."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.usage = "onedial inspect LOG [--format F] [--json] [-o report.html] | --formats"
    parser.add_argument("log", nargs="?", type=Path, metavar="LOG", help="a log file, or the folder that holds it")
    parser.add_argument("--formats", action="store_true", help="list the formats and stop")
    parser.add_argument("--json", action="store_true", help="print only JSON: the key figures")
    parser.add_argument("--findings", action="store_true", help="with --json: every finding too")
    add_page_option(parser, "write the page with plots to this .html file")
    add_group_size(parser)
    parser.add_argument(
        "--at-k",
        type=parse_whole_numbers,
        metavar="K[,K...]",
        help="pass@k at these k too, besides 1, 2, 4 … and 1, 10, 100",
    )
    add_follow_options(parser)
    add_log_options(parser)
    add_price_options(parser)


def parse_whole_numbers(text: str) -> tuple[int, ...]:
    """`"5,20"` as numbers; raises ArgumentTypeError unless all are whole and at least 1."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) >= 1 for word in words):
        raise argparse.ArgumentTypeError(f"{text!r}: must be whole numbers of at least 1, as in --at-k 5,20")
    return tuple(map(int, words))


def run(args: argparse.Namespace) -> int:
    if args.formats:
        ignored = sorted(name for name, value in vars(args).items() if value and name not in ("formats", "json"))
        if ignored:
            raise ConfigError(f"--formats lists the formats and reads no log; leave out: {', '.join(ignored)}")
        _print_formats(json_only=args.json)
        return 0
    if args.log is None:
        raise ConfigError(
            "inspect needs a log: onedial inspect PATH (a file or a folder); --formats lists what it reads"
        )
    if args.findings and not args.json:
        raise ConfigError("--findings adds every finding to --json; the summary and the page (-o) show them anyway")
    check_group_size(args.group_size)
    check_follow_options(args)
    if args.follow:
        return follow(args)
    inspect(args)
    return 0


def inspect(args: argparse.Namespace) -> None:
    """Reads, measures and prints, and writes the page if one is asked for."""
    needs_text = bool(args.output or args.findings or not args.json)
    analysis, written = with_analysis(args, args.log, lambda analysis: _measure(analysis, args), text=needs_text)
    figures = {"log": str(args.log), **analysis.figures}
    if args.json:
        if args.findings:
            figures["findings"] = [finding.to_json() for finding in analysis.findings]
        print(json.dumps(_json_safe(figures), indent=2, allow_nan=False))
    else:
        from onedial.cli.log_summary import print_summary
        from onedial.cli.terminal import Terminal

        print_summary(Terminal.on_stdout(), args.log, analysis)
    if args.output:
        print(f"\nPage: {written}", file=sys.stderr if args.json else sys.stdout)


def _measure(analysis: Analysis, args: argparse.Namespace) -> tuple[Analysis, Path | None]:
    """The analysis, with everything computed that will be shown, and the page."""
    check_inspect_options(analysis, args)
    if args.findings or not args.json:
        _ = analysis.findings
    _ = analysis.figures
    if not args.output:
        return analysis, None
    from onedial.analysis.page import write_html

    return analysis, write_html(args.output, analysis, title=Path(args.log).resolve().name)


def check_inspect_options(analysis: Analysis, args: argparse.Namespace) -> None:
    """Raises ConfigError for a group size or a k beyond the tries that the log holds."""
    check_group_size(args.group_size, analysis)
    if analysis.is_empty or analysis.tables.visits.is_empty():
        return
    most = int(analysis.tables.visits.get_column("n").max())  # type: ignore[arg-type]
    if args.at_k and max(args.at_k) > most:
        raise ConfigError(f"--at-k {max(args.at_k)}: no prompt has so many tries at once; the most is {most}")


def _json_safe(value: Any) -> Any:
    """NaN and infinities as null."""
    if isinstance(value, Mapping):
        return {str(key): _json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_safe(item) for item in value]
    if isinstance(value, float) and value not in (float("inf"), float("-inf")) and value == value:
        return value
    return None if isinstance(value, float) else value


def _print_formats(*, json_only: bool) -> None:
    from onedial.analysis.logs import FORMATS
    from onedial.analysis.logs.detect import NO_LOG

    if json_only:
        fields = ("name", "title", "where", "shows", "cannot")
        print(json.dumps([{field: getattr(form, field) for field in fields} for form in FORMATS.values()], indent=2))
        return
    from onedial.cli.terminal import Terminal

    terminal = Terminal.on_stdout()
    for form in FORMATS.values():
        terminal.write(form.name, style="bold", indent=0)
        terminal.write(f"{form.title}: {form.where}")
        terminal.write(f"shows: {form.shows}")
        terminal.write(f"cannot: {form.cannot}")
    terminal.write("openrlhf", style="bold", indent=0)
    terminal.write(NO_LOG["openrlhf"] + ".")
    terminal.write(
        "Files may be compressed (.gz .zst .bz2), and folders may nest. Name a format with --format.", indent=0
    )
