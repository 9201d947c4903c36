"""`onedial inspect LOG --follow`: what is new in a log while another program writes it."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from onedial.cli.log_options import with_analysis
from onedial.cli.terminal import Terminal, format_span
from onedial.core.errors import ConfigError, DataError
from onedial.core.text_safety import escape_control

if TYPE_CHECKING:
    from onedial.analysis.findings import Finding
    from onedial.analysis.follower import Follower, IterationSummary, News
EXIT_NO_SIGNAL = 3
OWN_OPTIONS = ("every", "idle", "stop_after")
SHARE_OF_TIME = 0.2  # spent reading at most, so that a large log is read less often


def add_follow_options(parser: argparse.ArgumentParser) -> None:
    """Adds --follow, --every, --idle and --stop-after."""
    add = parser.add_argument_group("a log that still grows").add_argument
    add("--follow", action="store_true", help="print what is new whenever the log has grown, until Ctrl-C")
    add("--every", type=float, metavar="SECONDS", help="how often to look [10]")
    add("--idle", type=float, metavar="SECONDS", help="end when the log has not grown for so long [never]")
    add(
        "--stop-after",
        type=int,
        metavar="K",
        help=f"end with exit code {EXIT_NO_SIGNAL} when K iterations in a row had no mixed group",
    )


def check_follow_options(args: argparse.Namespace) -> None:
    """Raises ConfigError for options that need --follow, or that it does not take."""
    if not args.follow:
        for name in OWN_OPTIONS:
            if getattr(args, name) is not None:
                raise ConfigError(f"--{name.replace('_', '-')} needs --follow")
        return
    for flag in ("output", "findings", "at_k", "group_size"):
        if getattr(args, flag):
            name = f"--{flag.replace('_', '-')}"
            raise ConfigError(f"{name} does not apply to --follow; run inspect again without --follow for it")
    for name in OWN_OPTIONS:
        value = getattr(args, name)
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise ConfigError(f"--{name.replace('_', '-')} {value}: must be greater than 0")
    if args.format:
        from onedial.analysis.logs.detect import get_format

        get_format(args.format)


def follow(args: argparse.Namespace) -> int:
    """Prints what is new until the log has not changed for --idle seconds (0), or gave no signal for --stop-after
    iterations."""
    from onedial.analysis.follower import Follower

    show = _print_json if args.json else _Screen(Terminal.on_stdout()).show
    follower, every = Follower(), args.every or 10.0
    seen, grown, pause, waiting = None, time.monotonic(), every, ""
    while True:
        stamp = read_stamp(args.log)
        rested = stamp == seen and args.idle is not None and time.monotonic() - grown >= args.idle
        if stamp != seen or rested:
            started = time.monotonic()
            grown = started if stamp != seen else grown
            seen = stamp
            news, waiting = _read(args, follower, rested, waiting)
            if news is not None:
                show(news)
                if args.stop_after and news.without_signal >= args.stop_after:
                    return _end_without_signal(args, news)
            pause = max(every, (time.monotonic() - started) / SHARE_OF_TIME)
        if rested:
            return 0
        time.sleep(min(pause, args.idle or pause))


def read_stamp(path: Path) -> tuple[int, int, int]:
    """(files, bytes, latest change in nanoseconds) at a path; zeros if nothing exists yet."""
    files = [path] if path.is_file() else path.rglob("*") if path.is_dir() else []
    found = []
    for file in files:
        try:
            state = file.stat()
        except OSError:  # gone between the listing and now
            continue
        found.append((state.st_size, state.st_mtime_ns))
    return len(found), sum(size for size, _ in found), max((changed for _, changed in found), default=0)


def _read(args: argparse.Namespace, follower: Follower, ended: bool, waiting: str) -> tuple[News | None, str]:
    """(what is new, what is missing), or (None, why nothing can be read yet); a reason is printed once."""
    news, why = None, ""
    try:
        news = with_analysis(args, args.log, lambda analysis: follower.compare(analysis, ended=ended), text=False)
        if not news.has_iterations:
            why = f"{args.log}: names no iteration with a group of 2 rollouts or more, so only findings are reported"
    except (DataError, FileNotFoundError) as error:
        why = f"waiting for a log at {args.log}: {error}"
    if why not in ("", waiting):
        print(escape_control(why), file=sys.stderr, flush=True)
    return news, why


def _end_without_signal(args: argparse.Namespace, news: News) -> int:
    print(
        f"{args.log}: no mixed group in the last {news.without_signal} iterations; no answer there was better than "
        "another of its group, so nothing was learned from them (--stop-after)",
        file=sys.stderr,
    )
    return EXIT_NO_SIGNAL


def _print_json(news: News) -> None:
    """One JSON object per line."""
    for iteration in news.iterations:
        print(json.dumps(iteration.to_json(), allow_nan=False))
    for finding in news.findings:
        about = finding.to_json()
        print(json.dumps({"event": "finding", **{name: about[name] for name in FIELDS}}, allow_nan=False))
    sys.stdout.flush()


FIELDS = ("name", "title", "value", "interval", "unit", "headline", "what_to_do", "importance")
COLUMNS = ("iteration", "groups", "mixed", "right", "wrong", "other", "reward", "silent tokens")
WIDTHS = (9, 8, 8, 8, 8, 8, 8, 15)


class _Screen:
    """A line per iteration under one heading, and a paragraph per finding."""

    def __init__(self, terminal: Terminal) -> None:
        self.terminal = terminal
        self.headed = False

    def show(self, news: News) -> None:
        """Prints what is new."""
        for iteration in news.iterations:
            if not self.headed:
                self._line(COLUMNS, style="dim")
                self.headed = True
            self._line(_format_summary(iteration))
        for finding in news.findings:
            self._tell(finding)
        sys.stdout.flush()

    def _line(self, cells: tuple[str, ...], style: str = "") -> None:
        text = "".join(cell.rjust(width) for cell, width in zip(cells, WIDTHS, strict=True))
        self.terminal.write(text, style=style, indent=0)

    def _tell(self, finding: Finding) -> None:
        interval = f" (95 %: {format_span(finding.interval)} %)" if finding.unit == "share" else ""
        self.terminal.write(f"{finding.title}. {finding.headline}{interval}", mark="! ", indent=0)
        self.terminal.write(finding.what_to_do, mark="→ ")
        self.headed = False


def _format_summary(summary: IterationSummary) -> tuple[str, ...]:
    return (
        str(summary.iteration),
        str(summary.groups),
        *(f"{100 * summary.kinds[kind] / summary.groups:.0f} %" for kind in ("mixed", "right", "wrong", "other")),
        "–" if summary.reward is None else f"{summary.reward:.3f}",
        "–" if summary.silent_tokens is None else f"{100 * summary.silent_tokens:.0f} %",
    )
