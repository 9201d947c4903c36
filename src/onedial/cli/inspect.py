"""`onedial inspect`: what any rollout log, or table of solve rates, says about the compute that made it."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onedial.analysis.logs.readers.common import count_of
from onedial.cli.log_options import add_log_options, add_price_options, with_analysis
from onedial.core.errors import ConfigError
from onedial.core.text_safety import escape_control

if TYPE_CHECKING:
    from onedial.analysis import Analysis
    from onedial.analysis.findings import Finding
    from onedial.analysis.logs import Log

HELP = """See what a rollout log of any trainer taught, and what its silent groups cost

  onedial inspect runs/x                         an onedial run
  onedial inspect outputs/completions            TRL; verl, prime-rl, verifiers, open-instruct … alike
  onedial inspect samples.csv --map prompt=question,correct=is_ok
  onedial inspect runs/x --json                  the key figures as JSON, nothing else
  onedial inspect runs/x -o report.html          one page with plots, which needs no network
  onedial inspect --formats                      every format, what it shows and what it cannot

The format is detected. Broken lines are counted and located; figures that a log cannot support are withheld, and the
reason is given."""

WIDTH, FINDINGS_SHOWN, BROKEN_SHOWN, BAR = 80, 6, 5, 20
PLAIN = {"·": "-", "–": "-", "—": "-", "→": "->", "σ̂": "sigma", "α": "alpha", "≥": ">=", "×": "x", "−": "-", "½": "1/2"}
SHARE_ROWS = (
    ("mixed_share", "mixed: these teach", "green"),
    ("silent_wrong_share", "all wrong", "red"),
    ("silent_right_share", "all right", "cyan"),
    ("silent_other_share", "all equal, neither", "yellow"),
)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.usage = "onedial inspect LOG [--format F] [--json] [-o report.html] | --formats"
    parser.add_argument("log", nargs="?", type=Path, metavar="LOG", help="a log file, or the folder that holds it")
    parser.add_argument("--formats", action="store_true", help="list the formats and stop")
    parser.add_argument("--json", action="store_true", help="print only JSON: the key figures")
    parser.add_argument("--findings", action="store_true", help="with --json: every finding too")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="write the page with plots to this .html file"
    )
    parser.add_argument(
        "--group-size",
        type=int,
        metavar="G",
        help="training group size at which the expected silent share is told [8]",
    )
    parser.add_argument(
        "--at-k", type=whole_numbers, metavar="K[,K...]", help="pass@k at these k too, besides 1, 2, 4 … and 1, 10, 100"
    )
    add_log_options(parser)
    add_price_options(parser)


def whole_numbers(text: str) -> tuple[int, ...]:
    """`"5,20"` as numbers; raises ArgumentTypeError unless all are whole and at least 1."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) >= 1 for word in words):
        raise argparse.ArgumentTypeError(f"{text!r}: must be whole numbers of at least 1, as in --at-k 5,20")
    return tuple(map(int, words))


def run(args: argparse.Namespace) -> int:
    if args.formats:
        _print_formats(json_only=args.json)
        return 0
    if args.log is None:
        raise ConfigError(
            "inspect needs a log: onedial inspect PATH (a file or a folder); --formats lists what it reads"
        )
    if args.findings and not args.json:
        raise ConfigError("--findings adds every finding to --json; the summary and the page (-o) show them anyway")
    if args.group_size is not None and args.group_size < 2:
        raise ConfigError(f"--group-size {args.group_size}: must be at least 2")
    inspect(args)
    return 0


def inspect(args: argparse.Namespace) -> None:
    """Read, measure, print, and write the page if one is asked for."""
    needs_text = bool(args.output or args.findings or not args.json)
    analysis, written = with_analysis(args, args.log, lambda analysis: _measure(analysis, args), text=needs_text)
    figures = {"log": str(args.log), **analysis.figures}
    if args.json:
        if args.findings:
            figures["findings"] = [finding.to_json() for finding in analysis.findings]
        print(json.dumps(_json_safe(figures), indent=2, allow_nan=False))
    else:
        _Terminal.here().summary(args.log, figures, analysis.findings, analysis.log)
    if args.output:
        print(f"\nPage: {written}", file=sys.stderr if args.json else sys.stdout)


def _measure(analysis: Analysis, args: argparse.Namespace) -> tuple[Analysis, Path | None]:
    """The analysis with everything computed that will be shown, and the page."""
    check_options(analysis, args)
    if args.findings or not args.json:
        _ = analysis.findings
    _ = analysis.figures
    if not args.output:
        return analysis, None
    from onedial.analysis.page import write_html

    return analysis, write_html(args.output, analysis, title=Path(args.log).resolve().name)


def check_options(analysis: Analysis, args: argparse.Namespace) -> None:
    """Raises ConfigError for a group size or a k beyond the tries that the log holds."""
    if analysis.is_empty or analysis.tables.visits.is_empty():
        return
    from onedial.analysis.findings.expected import visits_of

    if args.group_size is not None and visits_of(analysis.tables, args.group_size) is None:
        median = int(analysis.tables.visits.get_column("n").median() or 0)  # type: ignore[arg-type]
        raise ConfigError(
            f"--group-size {args.group_size}: most prompts have fewer tries (median {median}); give at most {median}"
        )
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
    terminal = _Terminal.here()
    for form in FORMATS.values():
        terminal.line(f"{form.name}", style="bold", indent=0)
        terminal.line(f"{form.title}: {form.where}")
        terminal.line(f"shows: {form.shows}")
        terminal.line(f"cannot: {form.cannot}")
    terminal.line("openrlhf", style="bold", indent=0)
    terminal.line(NO_LOG["openrlhf"] + ".")
    terminal.line(
        "Files may be compressed (.gz .zst .bz2), and folders may nest. Name a format with --format.", indent=0
    )


@dataclass(frozen=True)
class _Terminal:
    """Wrapped lines: colored on a terminal, plain in a pipe. Control characters of a log's text are escaped."""

    console: Any
    width: int
    unicode: bool

    @classmethod
    def here(cls) -> _Terminal:
        from rich.console import Console

        console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
        width = min(100, console.width) if sys.stdout.isatty() else WIDTH
        utf8 = (sys.stdout.encoding or "ascii").lower().replace("-", "").startswith("utf")
        return cls(console, max(40, width), utf8)

    def line(self, text: str = "", *, style: str = "", indent: int = 2, hang: int = 0) -> None:
        """One paragraph, wrapped; `hang` indents its further lines."""
        text = escape_control(text.replace("\n", " "))
        if not self.unicode:
            for mark, plain in PLAIN.items():
                text = text.replace(mark, plain)
            text = text.encode("ascii", "replace").decode()
        pad = " " * indent
        wrapped = textwrap.wrap(
            text, self.width - 1, initial_indent=pad, subsequent_indent=pad + " " * hang, break_on_hyphens=False
        )
        from rich.text import Text

        for part in wrapped or [""]:
            self.console.print(Text(part, style=style), soft_wrap=True)

    def head(self, text: str) -> None:
        """A section title after a blank line."""
        self.line()
        self.line(text, style="bold", indent=0)

    def summary(self, path: Path, figures: Mapping[str, Any], findings: Sequence[Finding], log: Log) -> None:
        """The whole summary."""
        self.line(str(path), style="bold", indent=0)
        self.line(_what(figures), indent=0)
        self._coverage(figures["coverage"], rates=figures["kind"] == "rates")
        self._shares(figures)
        self._numbers(figures)
        self._found(findings)
        self._withheld(figures["withheld"])
        self._broken(figures)
        self._next(path, figures)

    def _coverage(self, coverage: Mapping[str, Any], *, rates: bool) -> None:
        self.head("What this log can tell")
        for note in _coverage_words(coverage, rates=rates):
            self.line("· " + note, hang=2)

    def _shares(self, figures: Mapping[str, Any]) -> None:
        base = figures.get("groups_in_shares")
        if not base or figures.get("mixed_share") is None:
            return
        what = "Prompts by their tries" if figures["kind"] == "rates" else "Groups by what they could teach"
        self.head(f"{what} ({base:,})")
        for name, label, style in SHARE_ROWS:
            share = figures.get(name)
            if share is None or (name == "silent_other_share" and not share):
                continue
            bar = "█" * round(BAR * share)
            self._share_line(label, bar, share, figures["share_intervals"][name], style)
        ones = figures.get("groups_of_one")
        if ones:
            verb = "has" if ones == 1 else "have"
            self.line(f"{count_of(ones, 'more group')} {verb} fewer than two usable rollouts and can teach nothing.")

    def _share_line(self, label: str, bar: str, share: float, interval: Sequence[float] | None, style: str) -> None:
        from rich.text import Text

        mark = bar if self.unicode else "#" * len(bar)
        dash = "–" if self.unicode else "-"
        row = Text(f"  {label:<19} ")
        row.append(f"{mark:<{BAR}}", style=style)
        span = f"  ({100 * interval[0]:.1f} {dash} {100 * interval[1]:.1f})" if interval else ""
        row.append(f" {100 * share:5.1f} %{span}")
        self.console.print(row, soft_wrap=True)

    def _numbers(self, figures: Mapping[str, Any]) -> None:
        self.head("Figures")
        mean, interval = figures.get("mean_reward"), figures.get("mean_reward_interval")
        if mean is not None:
            span = f" ({interval[0]:.3f} – {interval[1]:.3f})" if interval else ""
            name = "mean solve rate" if figures["kind"] == "rates" else "mean reward"
            self.line(f"{name} {mean:.4g}{span}; reward: {figures['coverage']['reward_is']}", hang=2)
        shaped = (figures.get("on_shaped_reward") or {}).get("silent_share")
        if shaped is not None and shaped != figures["silent_share"]:
            self.line(f"by the reward that trained (shaped), {100 * shaped:.1f} % of groups are silent", hang=2)
        passes = figures.get("pass_at_k")
        if passes:
            shown = [f"{k}: {100 * value:.1f} %" for k, value in passes.items() if value is not None]
            self.line("pass@k   " + "   ".join(shown), hang=9)
        expected = figures.get("expected_silent_share")
        if expected:
            shown = [f"{size}: {100 * value:.1f} %" for size, value in expected.items()]
            self.line("expected silent share at group size   " + "   ".join(shown), hang=2)
        tokens, silent = figures.get("tokens_generated"), figures.get("tokens_silent")
        if tokens:
            more = f", {silent:,} of them in silent groups" if silent is not None else ""
            self.line(f"{tokens:,} completion tokens{more}", hang=2)
        if figures.get("unusable"):
            self.line(
                f"{figures['unusable']:,} rollouts are unusable (timeout, error, or no reward): in no figure above",
                hang=2,
            )
        if figures.get("rollouts_without_group"):
            self.line(f"{figures['rollouts_without_group']:,} rollouts name no prompt or group: they stand in no group")
        if figures["kind"] == "rollouts" and figures.get("right_means") and mean is not None:
            self.line(f"right: {figures['right_means']}", hang=2)

    def _found(self, findings: Sequence[Finding]) -> None:
        shown = [finding for finding in findings if not finding.withheld]
        if not shown:
            return
        self.head("Findings, the biggest first")
        for number, finding in enumerate(shown[:FINDINGS_SHOWN], start=1):
            self.line(f"{number}. {finding.title}", style="bold")
            self.line(finding.headline, indent=5)
            if finding.what_to_do:
                self.line("→ " + finding.what_to_do, indent=5, hang=2)
        if len(shown) > FINDINGS_SHOWN:
            self.line(f"{len(shown) - FINDINGS_SHOWN} more, with plots, in the page: -o report.html")

    def _withheld(self, reasons: Mapping[str, str]) -> None:
        if not reasons:
            return
        self.head("Withheld, because the log cannot support it")
        by_reason: dict[str, list[str]] = {}
        for name, reason in reasons.items():
            by_reason.setdefault(reason, []).append(name.replace("_", " ").replace("pass at k", "pass@k"))
        for reason, names in by_reason.items():
            self.line(f"· {', '.join(names)}: {reason}", hang=2)

    def _broken(self, figures: Mapping[str, Any]) -> None:
        if not figures["broken_lines"]:
            return
        count = figures["broken_lines"]
        self.head(f"{count:,} broken {'place' if count == 1 else 'places'}, counted and left out")
        for place in figures["broken"][:BROKEN_SHOWN]:
            where = place["file"] + (f":{place['line']}" if place["line"] else "")
            self.line(f"· {where}: {place['reason']}", hang=2)
        if count > BROKEN_SHOWN:
            self.line(f"and {count - BROKEN_SHOWN:,} more; --json lists the first {len(figures['broken'])}")

    def _next(self, path: Path, figures: Mapping[str, Any]) -> None:
        self.head("Next")
        name = shlex.quote(str(path))
        self._command(f"onedial inspect {name} -o report.html", "the plots, and prompts to read")
        if figures.get("prompts") and not figures["coverage"]["survivors_only"]:
            self._command(f"onedial plan {name} --budget N", "group sizes and prompts for the next run")

    def _command(self, command: str, why: str) -> None:
        """A command to copy: never wrapped, its purpose beside it or, where it is long, below it."""
        from rich.text import Text

        fits = len(command) + len(why) + 5 <= self.width
        self.console.print(Text(f"  {escape_control(command)}" + (f"   {why}" if fits else "")), soft_wrap=True)
        if not fits:
            self.line(why, indent=6)


def _what(figures: Mapping[str, Any]) -> str:
    """Format, rollouts, groups, prompts in one line."""
    from onedial.analysis.logs import ALIASES, FORMATS

    name = figures["format"]
    form = FORMATS.get(name) or FORMATS.get(ALIASES.get(name, ""))
    words = [form.title if form else name]
    if figures.get("prompts") is not None and figures["kind"] == "rates":
        words.append(count_of(figures["prompts"], "prompt"))
    if figures.get("rollouts") is not None:
        words.append(count_of(figures["rollouts"], "rollout"))
    if figures.get("groups") is not None and figures["kind"] == "rollouts":
        sizes = [int(size) for size in figures.get("group_sizes") or {}]
        span = f" of {sizes[0]}" if len(sizes) == 1 else f" of {min(sizes)} to {max(sizes)}" if sizes else ""
        words.append(count_of(figures["groups"], "group") + span)
    if figures.get("prompts") is not None and figures["kind"] == "rollouts":
        words.append(count_of(figures["prompts"], "prompt"))
    return " · ".join(words)


def _coverage_words(coverage: Mapping[str, Any], *, rates: bool) -> list[str]:
    """The coverage as sentences: the general ones, then the reader's notes."""
    words = []
    if coverage["survivors_only"] is None:
        words.append("This format may have dropped silent groups before logging; the rows cannot tell.")
    if rates:
        words.append("One solve rate per row: which prompts are solved how often, but no answers and no lengths.")
    elif coverage["group_identity"] == "given":
        words.append("Groups are named by the log.")
    notes = list(coverage["notes"])
    return words + notes
