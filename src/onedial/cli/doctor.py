"""`onedial doctor`: what is here, what a run will use of it, and why."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from onedial.cli.terminal import Terminal

if TYPE_CHECKING:
    from onedial.evidence.doctor.fact import MachineFact

HELP = """
  onedial doctor          cores, memory, disk, extras and their conflicts, screen,
                          device, type, engine, sandbox
  onedial doctor --json   the same as JSON

Every line is measured or asked for: files are written, the sandbox is tried, torch
is asked for devices. Exit code 1 if something will not work as it is installed."""

EXIT_PROBLEM = 1


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print a list of what was found as JSON")


def run(args: argparse.Namespace) -> int:
    facts = find_facts()
    if args.json:
        print(json.dumps([asdict(fact) for fact in facts], indent=1, ensure_ascii=False))
    else:
        show_facts(Terminal.on_stdout(), facts)
    return EXIT_PROBLEM if any(fact.problem for fact in facts) else 0


def find_facts() -> list[MachineFact]:
    """Everything that the command tells, in its order."""
    from onedial.evidence.doctor.device_facts import find_devices
    from onedial.evidence.doctor.machine_facts import find_machine, find_screen
    from onedial.evidence.doctor.package_facts import find_packages

    return [*find_machine(), *find_packages(), *find_screen(), *find_devices()]


def show_facts(terminal: Terminal, facts: Sequence[MachineFact]) -> None:
    """One table, its areas apart; a problem is marked."""
    rows: list[tuple[str, str, str]] = []
    for area in dict.fromkeys(fact.area for fact in facts):
        rows += [("", "", "")] if rows else []
        rows += [
            (fact.name, fact.found, f"problem: {fact.follows}" if fact.problem else fact.follows)
            for fact in facts
            if fact.area == area
        ]
    styles = {f"problem: {fact.follows}": "bold red" for fact in facts if fact.problem}
    terminal.table(("", "found", "what follows"), rows, left=3, gap=2, styles=styles)
