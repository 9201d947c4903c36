"""The options by which `inspect`, `report` and `plan` read a log: one definition, one meaning."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from onedial.core.errors import ConfigError

if TYPE_CHECKING:
    from onedial.analysis import Analysis
    from onedial.analysis.logs import Log

T = TypeVar("T")
GROUP_SIZE = 8  # at which a table of solve rates is read, unless --group-size says otherwise


def add_log_options(parser: argparse.ArgumentParser) -> None:
    """Adds --format, --map, --outcome, --tries and --split."""
    add = parser.add_argument_group("reading the log").add_argument
    add("--format", metavar="F", help="read as this format instead of detecting it (onedial inspect --formats)")
    add(
        "--map",
        action="append",
        default=[],
        metavar="OURS=THEIRS",
        help="name your columns: prompt=question,correct=ok",
    )
    add("--outcome", metavar="NAME", help="the reward component that says right or wrong, or: total")
    add("--tries", type=int, metavar="N", help="rollouts behind each solve rate, where the table does not say")
    add("--split", choices=("train", "eval", "all"), help="rows to look at [train where there are any]")


def add_group_size(parser: argparse.ArgumentParser) -> None:
    """Adds --group-size."""
    parser.add_argument(
        "--group-size",
        type=int,
        metavar="G",
        help=f"size of the groups whose silence, σ̂ and weights are expected from the tries [{GROUP_SIZE}]",
    )


def check_group_size(size: int | None, analysis: Analysis | None = None) -> None:
    """Raises ConfigError for a group size below 2, or beyond the tries in an analyzed log."""
    if size is None:
        return
    if size < 2:
        raise ConfigError(f"--group-size {size}: must be at least 2")
    if analysis is None or analysis.is_empty or analysis.tables.visits.is_empty():
        return
    from onedial.analysis.findings.expected import select_visits

    if select_visits(analysis.tables, size) is None:
        median = int(analysis.tables.visits.get_column("n").median() or 0)  # type: ignore[arg-type]
        raise ConfigError(
            f"--group-size {size}: most prompts have fewer tries (median {median}); give at most {median}"
        )


def add_price_options(parser: argparse.ArgumentParser) -> None:
    """Adds --price and --seconds."""
    add = parser.add_argument_group("what silent groups cost").add_argument
    add("--price", type=float, metavar="P", help="money per million completion tokens")
    add("--seconds", type=float, metavar="S", help="seconds spent generating [a run's own, where it logged them]")


SHORT_NAMES = {"reward": "outcome_reward"}


def parse_map(words: Sequence[str]) -> dict[str, str]:
    """`--map a=b,c=d` (repeatable) as a dict; `reward` is short for `outcome_reward`.

    Raises ConfigError for a pair without `=`, and for two columns under one name.
    """
    pairs: dict[str, str] = {}
    for word in words:
        parts = word.split(",") if all("=" in part for part in word.split(",")) else [word]
        for part in parts:
            ours, equals, theirs = part.partition("=")
            if not equals or not ours.strip() or not theirs.strip():
                raise ConfigError(f"--map {word}: write OURS=THEIRS, for example --map prompt=question,correct=is_ok")
            name = SHORT_NAMES.get(ours.strip(), ours.strip())
            if pairs.get(name, theirs.strip()) != theirs.strip():
                raise ConfigError(
                    f"--map {name}={theirs.strip()}: {name} is mapped to {pairs[name]!r} already; name one column"
                )
            pairs[name] = theirs.strip()
    return pairs


def check_positive(args: argparse.Namespace, *names: str) -> None:
    """Raises ConfigError for an option that is given and not a finite number above 0."""
    for name in names:
        value = getattr(args, name)
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise ConfigError(f"--{name} {value}: must be a finite number greater than 0")


def check_costs(args: argparse.Namespace, analysis: Analysis) -> None:
    """Raises ConfigError for --price or --seconds if the log does not show what silent groups cost."""
    for name in ("price", "seconds"):
        value = getattr(args, name, None)
        if value is not None and (reason := analysis.figures["withheld"].get("tokens_silent")):
            raise ConfigError(f"--{name} {value:g}: what silent groups cost is not known: {reason}")


def with_analysis(args: argparse.Namespace, path: Path, then: Callable[[Analysis], T], *, text: bool = True) -> T:
    """Reads the log at `path` as `args` say, analyzes it, and returns the result of `then` on the analysis.

    `then` must take everything it needs from the analysis: a damaged file is noticed only when its columns are read,
    and then everything is repeated without its damaged parts. `text=False` does not read prompts and completions.
    """
    from onedial.analysis.logs import with_log
    from onedial.analysis.page.curves import generation_seconds
    from onedial.analysis.result import analyze
    from onedial.cli.terminal import show_reading

    check_positive(args, "tries")
    options = {name: getattr(args, name, None) for name in ("price", "seconds")}
    check_positive(args, *(name for name, value in options.items() if value is not None))
    if options["seconds"] is None and os.path.isdir(path):
        options["seconds"] = generation_seconds(path)
    ks = getattr(args, "at_k", None) or ()
    size = getattr(args, "group_size", None) or GROUP_SIZE

    def look(log: Log) -> T:
        analysis = analyze(log, split=args.split, group_size=size, ks=ks, **options)
        check_costs(args, analysis)
        return then(analysis)

    follows = getattr(args, "follow", False)
    with contextlib.nullcontext() if follows else show_reading(path):
        return with_log(
            look,
            path,
            args.format,
            columns=parse_map(args.map),
            outcome=args.outcome,
            tries=args.tries,
            text=text,
        )
