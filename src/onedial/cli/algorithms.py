"""`onedial algorithms`: the table of algorithms, or one row of it in full."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from onedial.cli.group_rewards import add_group_options, show_groups
from onedial.core.algorithm import Algorithm
from onedial.core.algorithm_table import ALGORITHMS, get_algorithm
from onedial.core.errors import ConfigError
from onedial.core.field_rules import get_rules
from onedial.core.maths.coefficient import describe_coefficient

HELP = """
  onedial algorithms            the table
  onedial algorithms dapo       every cell of a row: its meaning, and where it differs from grpo
  onedial algorithms --json     all cells of all rows
  onedial algorithms --coefficients    source, reward and factor of ∇log π, the rows side by side
  onedial algorithms --rewards 1,0,0,0 --lengths 40,10,20,90    your own group under every row

Any cell can be changed for a run: onedial train dapo --algorithm.clip-high 0.3"""

SHORT = 4  # a narrow terminal cuts the columns of longer cells
COMPARED_WITH = "grpo"
CLIPS = ("clip_low", "clip_high", "clip_dual")
KEPT = {"reference": "frozen", "dataset": "data", "pairs": "pairs"}
COEFFICIENTS = (
    "gradient = Σ over tokens of weight · coefficient · ∇log π · r: reward, in r − r̄ that of its column, "
    "r̄: mean of the group, r̄₋ᵢ: of the others, b̂₋ᵢ: of the others and of what the allocator believed, "
    "σ̂: their std · b₄⁺, b₄⁻: mean of the best reward of four "
    "rollouts of the group, this one among them, or not · w: softmax of r/σ̂ in the group, P: that of log π/π_old · "
    "H: entropy of π at a token · GAE(γ, λ): Σ_k (γλ)^k·δ_{t+k}, δ_t = r_t + γV_{t+1} − V_t, V of a critic · "
    "ρ, s: π/π_old of the token, of the sequence; no gradient where it would leave its range further · "
    "m: log π(o⁺)/π_ref(o⁺) − log π(o⁻)/π_ref(o⁻) · 1[·]: 1 where it holds, else 0 · |o|: tokens of the sequence, "
    "L: the longest allowed, B: sequences, N: groups or pairs of the step · mixed: only groups whose rewards differ"
)
LEGEND = (
    "α: advantage = (reward − baseline) / σ̂^α · best of k: pass@k · ratio: π/π_old per token, per sequence, or none; "
    "listwise: LPO · "
    "clip: distances below/above 1 (/dual clip); with n = 1 it is idle, but on the surplus groups of refill · "
    "group_token: group_token_mean · KL: weight (r: in the reward) · critic λ: of its "
    "advantages, (l): by length · keep: groups trained on; refill = mixed ones only, "
    "replaced until the batch is full; frozen = written by the initial policy; data, pairs = from a dataset · "
    "n: updates per iteration · G: group size, where the row fixes it"
)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("row", nargs="?", metavar="ROW", help="show this row in full")
    parser.add_argument("--json", action="store_true", help="print all cells as JSON, a list of rows")
    parser.add_argument("--coefficients", action="store_true", help="the gradient coefficient of each row")
    add_group_options(parser)


def run(args: argparse.Namespace) -> int:
    rows = [get_algorithm(args.row)] if args.row else list(ALGORITHMS.values())
    if args.lengths and not args.rewards:
        raise ConfigError("--lengths goes with --rewards: give the rewards of these answers too")
    if args.rewards and args.coefficients:
        raise ConfigError("--rewards shows a group, --coefficients the table: give one of them")
    if args.rewards:
        return show_groups(rows, args)
    if args.coefficients:
        return show_coefficients(rows, as_json=args.json)
    if args.json:
        print(json.dumps([row.cells() for row in rows], indent=1))
        return 0
    console = Console(highlight=False)
    if args.row:
        show_row(console, rows[0])
    else:
        show_table(console, rows)
    return 0


def show_table(console: Console, rows: list[Algorithm]) -> None:
    """Shows the main cells of each row, then their papers. What differs from grpo is bold on a terminal."""
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", pad_edge=False)
    table.add_column("row", no_wrap=True)
    main = [select_main_cells(row) for row in rows]
    compared = select_main_cells(ALGORITHMS[COMPARED_WITH])
    for heading in compared:
        short = all(len(cells[heading]) <= SHORT for cells in main)
        table.add_column(heading, no_wrap=short, overflow="ellipsis")
    for row, cells in zip(rows, main, strict=True):
        styled = [Text(value, style="" if value == compared[name] else "bold cyan") for name, value in cells.items()]
        table.add_row(row.name, *styled)
    console.print(table)
    console.print(f"\n{LEGEND}", style="dim")
    papers = Table(box=None, padding=(0, 1, 0, 0), show_header=False, pad_edge=False)
    papers.add_column(no_wrap=True)
    papers.add_column()
    for row in rows:
        papers.add_row(row.name, row.paper)
    console.print("\nPapers and conventions", style="bold")
    console.print(papers)
    console.print("\nonedial algorithms ROW shows every cell of a row.", style="dim")


def show_coefficients(rows: list[Algorithm], *, as_json: bool) -> int:
    """Shows the unified view: one line per row, made from its cells."""
    lines = [asdict(describe_coefficient(row)) for row in rows]
    if as_json:
        print(json.dumps(lines, indent=1, ensure_ascii=False))
        return 0
    console = Console(highlight=False)
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", pad_edge=False)
    for name in lines[0]:
        table.add_column(name, no_wrap=name != "coefficient", overflow="fold")
    for line in lines:
        table.add_row(*map(Text, line.values()))
    console.print(table)
    console.print(f"\n{COEFFICIENTS}", style="dim")
    return 0


def select_main_cells(row: Algorithm) -> dict[str, str]:
    """Returns the cells that distinguish algorithms, short enough for one line of 80 columns."""
    clips = [bound for bound in (row.clip_low, row.clip_high, row.clip_dual) if bound is not None]
    return {
        "baseline": f"best of {row.pass_k}" if row.pass_k > 1 else row.cells()["baseline"] + _lambda(row),
        "α": f"{row.dial:g}",
        "ratio": row.ratio_level if row.listwise == "none" else "listwise",
        "clip": "/".join(_short(bound) for bound in clips) or "–",
        "aggregate": "group_token" if row.aggregate == "group_token_mean" else row.aggregate,
        "KL": "–" if row.kl_coef == 0 else _short(row.kl_coef) + ("" if row.kl_in == "loss" else "r"),
        "keep": KEPT.get(row.source) or ("refill" if row.refill else row.keep),
        "n": str(row.updates_per_iteration),
        "G": "" if row.group_size is None else str(row.group_size),
    }


def _lambda(row: Algorithm) -> str:
    if not row.needs_critic:
        return ""
    return " λ(l)" if row.lambda_length > 0 else f" λ{row.lambda_policy:g}"


def _short(value: float) -> str:
    """Formats a number in as few characters as possible: 0.0003 is 3e-4."""
    return f"{value:g}" if value >= 1e-3 else f"{value:.0e}".replace("e-0", "e-")


def show_row(console: Console, row: Algorithm) -> None:
    """Shows every cell of a row with its meaning and, where it differs, the value of grpo."""
    console.print(Text.assemble((row.name, "bold"), "  ", row.paper))
    console.print()
    meanings, compared = describe_cells(), ALGORITHMS[COMPARED_WITH].cells()
    if row.idle_clip:
        meanings |= {cell: f"{meanings[cell]}; idle here: {row.idle_clip}" for cell in CLIPS if row.cells()[cell]}
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    table.add_column("cell", no_wrap=True)
    table.add_column("value", no_wrap=True)
    table.add_column("meaning")
    for name, value in row.cells().items():
        if name in ("name", "paper"):
            continue
        differs = value != compared[name]
        meaning = Text(meanings[name])
        if differs:
            meaning.append(f" ({COMPARED_WITH}: {_plain(compared[name])})", style="bold cyan")
        table.add_row(Text(name, style="bold" if differs else ""), _plain(value), meaning)
    console.print(table)


def _plain(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def describe_cells() -> dict[str, str]:
    """What each cell means."""
    return {name: rule.help for name, rule in get_rules(Algorithm).items()}
