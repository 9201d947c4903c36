"""`onedial reproduce`: measures a published claim again, or lists the claims with their verdicts."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from onedial.cli.terminal import Terminal
from onedial.core.errors import ConfigError
from onedial.core.paths import expand_path, write_atomically

if TYPE_CHECKING:
    from onedial.evidence.claim import Json

HELP = """
  onedial reproduce --list                the claims, and their results
  onedial reproduce identity --quick      a small version, about a minute
  onedial reproduce identity              all of it; it can be stopped, and a second start continues
  onedial reproduce silent-rates --data FOLDER

A verdict (holds, in part, not here) is computed from the figures each time; none is stored."""

MARKS = {True: "+", False: "x", None: "?"}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.usage = "onedial reproduce NAME [--quick] [options] | --list [--json]"
    parser.add_argument("name", nargs="?", metavar="NAME", help="a claim of --list")
    parser.add_argument("--list", action="store_true", help="all claims, with the verdicts of the committed results")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--quick", action="store_true", help="a small version of the same steps; it proves nothing")
    parser.add_argument("--model", metavar="X", help="'smollm2', a folder, or a Hugging Face name [smollm2]")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder with public tables, for claims about one")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads; 0 takes one per core [0]")
    parser.add_argument(
        "--work", type=Path, metavar="DIR", help="where finished units of work are kept [runs/reproduce]"
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="also write the result as JSON")


def run(args: argparse.Namespace) -> int:
    _check_together(args)
    if args.list:
        return _print_list(as_json=args.json)
    from onedial.evidence.catalog import describe_claim, get_claim
    from onedial.evidence.claim import Setup
    from onedial.evidence.reproduction import reproduce

    claim = get_claim(args.name)
    ignored = [option for option in ("data", "model") if getattr(args, option) and option not in claim.uses]
    if ignored:
        raise ConfigError(f"--{ignored[0]}: the claim {claim.name} does not use it; leave it out")
    if args.output is not None and not args.output.parent.is_dir():
        raise ConfigError(f"--output {args.output}: no folder {args.output.parent}")
    setup = Setup(
        work=expand_path(args.work or Path("runs/reproduce"), "--work"),
        quick=args.quick,
        model=args.model or "smollm2",
        data=args.data,
        threads=args.threads or 0,
        note=lambda text: print(f"{text} …", file=sys.stderr, flush=True),
    )
    result = reproduce(claim, setup)
    if args.output is not None:
        write_atomically(args.output, json.dumps(result, indent=1, allow_nan=False) + "\n")
    known = describe_claim(claim, result) | {"file": None if args.output is None else str(args.output)}
    if args.json:
        print(json.dumps(known, indent=1, ensure_ascii=False))
    else:
        show_claim(Terminal.on_stdout(), known, quick=args.quick, missing=result["missing"])
    return 0


def _check_together(args: argparse.Namespace) -> None:
    """Raises ConfigError for options that exclude each other."""
    if args.list == (args.name is not None):
        raise ConfigError("reproduce: give the NAME of a claim, or --list")
    given = [name for name in ("quick", "model", "data", "threads", "work", "output") if getattr(args, name)]
    if args.list and given:
        raise ConfigError(f"reproduce: --list measures nothing, so --{given[0]} would be ignored; leave it out")
    if (args.threads or 0) < 0:
        raise ConfigError(f"--threads {args.threads}: must be at least 0")


def _print_list(*, as_json: bool) -> int:
    from onedial.evidence.catalog import describe_claim, get_claim, list_claims, read_result

    known = [describe_claim(get_claim(name), read_result(name)) for name in list_claims()]
    if as_json:
        print(json.dumps(known, indent=1, ensure_ascii=False))
        return 0
    terminal = Terminal.on_stdout()
    terminal.table(("claim", "verdict", "trains", "seeds", ""), [_list_line(one) for one in known], left=5)
    terminal.write()
    terminal.command("onedial reproduce NAME --quick", "what it says, who says it, what its figures show")
    return 0


def _list_line(known: Json) -> tuple[str, ...]:
    verdict = known["verdict"] or "no result yet"
    note = "" if known["verdict"] else f"costs about {known['minutes']:g} min"
    return known["name"], verdict, "yes" if known["trains"] else "no", str(len(known["seeds"]) or "–"), note


def show_claim(terminal: Terminal, known: Json, *, quick: bool, missing: dict[str, str]) -> None:
    """Prints the claim, each check with its result, and the verdict."""
    terminal.write(f"{known['name']}: {known['claim']}", style="bold", indent=0)
    terminal.write(f"Source: {known['source']}", style="dim", indent=0)
    terminal.write()
    for check in known["checks"]:
        terminal.write(f"{check['statement']}: {check['got']}", mark=f"{MARKS[check['held']]} ")
    for unit, reason in missing.items():
        terminal.write(f"{unit} was left out: {reason}", style="dim", mark="? ")
    terminal.write()
    small = " of the small version, which proves nothing" if quick else ""
    terminal.write(f"verdict{small}: {known['verdict']}", style="bold", indent=0)
