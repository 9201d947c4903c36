"""`onedial allocators`: the table of allocators, or one row of it in full."""

from __future__ import annotations

import argparse
import json

from rich.console import Console
from rich.table import Table
from rich.text import Text

from onedial.core.allocator_table import ALLOCATORS, AllocatorRow, get_allocator
from onedial.core.field_rules import get_default, get_rules

HELP = """
  onedial allocators            the table: which prompts are sampled, and how often
  onedial allocators adaptive   every option of a row: its value and its meaning
  onedial allocators --json     all options of all rows

For a run: onedial train posterior --allocator adaptive --allocator.rho 0.2"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("row", nargs="?", metavar="NAME", help="show this row in full")
    parser.add_argument("--json", action="store_true", help="print all options as JSON, a list of rows")


def run(args: argparse.Namespace) -> int:
    rows = [get_allocator(args.row)] if args.row else list(ALLOCATORS.values())
    if args.json:
        print(json.dumps([describe_allocator(row) for row in rows], indent=1, ensure_ascii=False))
        return 0
    console = Console(highlight=False)
    if args.row:
        show_allocator(console, rows[0])
    else:
        show_allocators(console, rows)
    return 0


def describe_allocator(row: AllocatorRow) -> dict[str, object]:
    """A row as plain values."""
    return {"name": row.name, "rule": row.rule, "paper": row.paper, "options": row.options()}


def show_allocators(console: Console, rows: list[AllocatorRow]) -> None:
    """Shows what each row does, and where it is from."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    table.add_column("allocator", no_wrap=True)
    table.add_column("who is sampled, and how often")
    table.add_column("from")
    for row in rows:
        table.add_row(Text(row.name, "bold"), row.rule, row.paper)
    console.print(table)
    console.print(
        "\np, q: a prompt's solve rate and 1 − p · n: its rollouts · onedial allocators NAME shows its options."
    )


def show_allocator(console: Console, row: AllocatorRow) -> None:
    """Shows the options of a row with their values; what differs from the option's own default is bold."""
    console.print(Text.assemble((row.name, "bold"), "  ", row.rule))
    console.print(row.paper, style="dim")
    if not row.uses:
        console.print("\nIt has no options.")
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    table.add_column("option", no_wrap=True)
    table.add_column("value", no_wrap=True)
    table.add_column("meaning")
    rules = get_rules(AllocatorRow)
    for name, value in row.options().items():
        own = value != get_default(AllocatorRow, name)
        shown = "–" if value == "" else str(value)
        table.add_row(Text(name, "bold" if own else ""), shown, rules[name].help)
    console.print()
    console.print(table)
