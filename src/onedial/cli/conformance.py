"""`onedial conformance`: known bugs and identities as checks of a trainer's advantage and loss functions."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from onedial import __version__
from onedial.cli.terminal import Terminal
from onedial.core.system import find_version

if TYPE_CHECKING:
    from onedial.integrations.conformance.check import Judgement

HELP = """
  onedial conformance --trainer trl          the TRL that is installed here
  onedial conformance --trainer my.py:Mine   functions of yours

The object has `advantages(rewards, groups)`, `loss(logp, old_logp, mask, advantages)`
or both; docs/conformance.md says what they get. Verdicts:

  passed       the function is right, to the deviation shown
  convention   another choice in wide use, which is named
  failed       neither; the deviation is shown, nan where the answer is not a number
  n/a          the trainer has no such function or setting

Exit code 1 if a check failed."""

EXIT_FAILED = 1
WORDS = {
    "passed": "passed",
    "convention": "by another convention",
    "failed": "failed",
    "not applicable": "not applicable",
}
STYLES = {"passed": "green", "convention": "yellow", "failed": "bold red", "n/a": "dim"}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trainer", required=True, metavar="NAME", help="onedial, trl, verl, or an object file.py:name or module:name"
    )
    parser.add_argument("--json", action="store_true", help="print the verdicts as JSON")


def run(args: argparse.Namespace) -> int:
    from onedial.integrations.conformance.suite import run_suite

    trainer, judgements = run_suite(args.trainer)
    if args.json:
        print(json.dumps(describe_judgements(trainer.name, trainer.version, judgements), indent=1, ensure_ascii=False))
    else:
        show_judgements(Terminal.on_stdout(), f"{trainer.name} {trainer.version}".strip(), judgements)
    return EXIT_FAILED if any(each.verdict == "failed" for each in judgements) else 0


def describe_judgements(name: str, version: str, judgements: Sequence[Judgement]) -> dict[str, Any]:
    """The verdicts and the versions they hold for, as plain values."""
    return {
        "trainer": name,
        "version": version,
        "onedial": __version__,
        "torch": find_version("torch"),
        "checks": [asdict(each) for each in judgements],
    }


def show_judgements(terminal: Terminal, title: str, judgements: Sequence[Judgement]) -> None:
    """One table for each of the two functions, a line for each check, and below it what was found."""
    terminal.write(title, style="bold", indent=0)
    for function in dict.fromkeys(each.function for each in judgements):
        terminal.head(function)
        rows: list[tuple[str, str, str, str]] = []
        for each in judgements:
            if each.function == function:
                rows.append((each.check, each.says, _short(each.verdict), format_deviation(each)))
                rows += [("", f"→ {each.note}", "", "")] if each.note else []
        terminal.table(("check", "what it says", "verdict", "measured"), rows, left=3, gap=2, styles=STYLES)
    terminal.write()
    terminal.write(count_verdicts([each.verdict for each in judgements]), style="bold", indent=0)
    terminal.write("measured: largest difference from the right answer or the convention, relative to it", indent=0)


def count_verdicts(verdicts: Sequence[str]) -> str:
    """`26 passed, 3 by another convention, 2 failed`: what there is none of is left out."""
    counts = Counter(verdicts)
    return ", ".join(f"{counts[verdict]} {words}" for verdict, words in WORDS.items() if counts[verdict])


def format_deviation(judgement: Judgement) -> str:
    """The measured deviation: 0, a power of ten, nan where it is no number, nothing where nothing was measured."""
    if judgement.measured is None:
        return "" if judgement.tolerance is None else "nan"
    return "0" if judgement.measured == 0 else f"{judgement.measured:.0e}"


def _short(verdict: str) -> str:
    return "n/a" if verdict == "not applicable" else verdict
