"""`onedial plan`: which prompts deserve rollouts, how many each, and what that saves."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from onedial.cli.log_options import add_log_options, with_analysis

HELP = """Group size, tries and weight per prompt for a budget, from a log or a table of solve rates.

The first lines are the decision; the rest says why, and what the log cannot tell.
Example: onedial plan runs/x --budget 100000 --export onedial:plan.json
"""

WIDTH = 80
OUTSIDE = (
    "Note: what was seen lies outside what was expected. The prompts may have been chosen by these very tries (those "
    "never or always solved left out, say), or the tries are not alike: take the shares above with caution."
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `onedial plan`."""
    parser.add_argument("log", help="rollout log (file or folder, any known format) or table of solve rates")
    parser.add_argument("--budget", type=float, required=True, metavar="N", help="what may be spent, in --unit")
    parser.add_argument("--unit", choices=("rollouts", "tokens"), default="rollouts", help="default: rollouts")
    parser.add_argument("--group-size", type=int, default=8, metavar="G", help="uniform groups to compare with (8)")
    parser.add_argument("--fixed-size", type=int, metavar="G", help="plan with this group size instead of choosing one")
    parser.add_argument("--rho", type=float, default=0.05, help="a prompt's signal over a rollout's noise (0.05)")
    parser.add_argument("--audit", type=float, default=0.1, help="share of the budget for second looks (0.1)")
    parser.add_argument("--survivors-only", action="store_true", help="silent groups were dropped before logging")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--export",
        action="append",
        default=[],
        metavar="KIND:PATH",
        help="onedial:PATH (.json): own tries per prompt, for `onedial train --plan PATH`; trl:PATH (.jsonl, which "
        "`onedial train --task PATH` reads too, or .parquet), verl:PATH (.parquet): the funded prompts; table:PATH "
        "(.csv, .jsonl, .parquet): belief, tries, weight and fate of every prompt id; may be repeated",
    )
    add_log_options(parser)


def run(args: argparse.Namespace) -> int:
    """Plan, print, export."""
    from onedial.analysis.findings.prompt_counts import prompt_counts, prompt_rows
    from onedial.analysis.planning.backtest import held_out
    from onedial.analysis.planning.export import export, parse_target
    from onedial.analysis.planning.planner import plan

    targets = [parse_target(text) for text in args.export]  # a wrong target is told before the work
    tables = with_analysis(args, Path(args.log), lambda analysis: analysis.tables)
    counts = prompt_counts(tables, survivors_only=True if args.survivors_only else None)
    made = plan(
        counts,
        args.budget,
        unit=args.unit,
        group_size=args.group_size,
        fixed_size=args.fixed_size,
        rho=args.rho,
        audit=args.audit,
    )
    check = held_out(counts, made.per_pass, made.group_size, unit=args.unit, rho=args.rho)
    texts = prompt_rows(tables.log, counts.ids) if targets else None
    written = [str(export(made, texts, kind, path)) for kind, path in targets if texts is not None]
    print(json.dumps(as_json(made, written, check), indent=2) if args.json else as_text(made, written, check))
    return 0


def as_text(made: Any, written: list[str], check: Any = None) -> str:
    """The plan for a terminal of 80 columns, decision first."""
    from onedial.analysis.findings.finding import percent

    n = len(made.tries)
    fate = {name: made.fate.count(name) for name in ("fund", "revisit", "wait", "drop")}
    silent, old = made.silent_fixed, made.silent_uniform
    passes = f" in each of {made.passes} passes" if made.passes > 1 else ""
    lines = [
        f"Use G = {made.group_size} on {fate['fund']:,} of {n:,} prompts{passes}, drop {fate['drop']:,};",
        f"expect {percent(silent[0])} silent groups instead of {percent(old[0])} at uniform G = "
        f"{made.uniform.group_size}.",
        f"The same learning costs {percent(abs(made.saving))} {'less' if made.saving >= 0 else 'more'}"
        + (f" (95 %: {_range(made.saving_interval)})." if made.saving_interval else "."),
        "",
        f"{'':22}{'groups':>9}{'rollouts':>11}{'silent':>9}{'mixed groups':>14}{'utility':>11}",
    ]
    for label, choice in (
        (f"uniform G = {made.uniform.group_size}", made.uniform),
        (f"planned G = {made.group_size}", made.fixed),
        ("planned, own G each", made.adaptive),
    ):
        lines.append(
            f"{label:22}{choice.prompts:>9,.0f}{choice.rollouts:>11,.0f}{percent(choice.silent_share):>9}"
            f"{choice.mixed_groups:>14,.0f}{choice.utility:>11,.0f}"
        )
    low, high = made.sizes_over_rho
    lines += [
        f"  per pass; {percent(1 - (made.fixed.cost / made.per_pass))} of the budget is kept for second looks at "
        f"{made.audit_prompts:,} prompts",
        "",
        f"prompts   {fate['fund']:,} fund · {fate['revisit']:,} revisit (unsure) · {fate['wait']:,} wait · "
        f"{fate['drop']:,} drop",
        f"silent    uniform {percent(old[0])} (95 %: {_range(old[1])}), planned {percent(silent[0])} "
        f"({_range(silent[1])})",
        "mixed     " + _columns([f"G={g} {percent(share)}" for g, share in made.mixed_by_size.items() if g in _SHOWN]),
        f"G*        {low} to {high} as rho goes from {4 * made.rho:g} down to {made.rho / 4:g}"
        if low != high
        else f"G*        {low} for rho from {4 * made.rho:g} down to {made.rho / 4:g}",
    ]
    if check is not None:
        lines += [
            f"check     a plan from half of the tries, held against the other half, G = {check.group_size}:",
            *(
                f"          {name} {percent(value)} silent expected (95 %: {_range(interval)}), {percent(seen, 1)} seen"
                for name, (value, interval, seen) in (("uniform", check.uniform), ("planned", check.planned))
            ),
        ]
        if not check.kept:
            lines += ["", *_wrap(OUTSIDE)]
    for note in made.notes:
        lines += ["", *_wrap("Note: " + note)]
    lines += ["", *_wrap("Plan again after each pass: rates move as the policy learns.")]
    lines += [f"wrote {path}" for path in written]
    return "\n".join(lines)


def as_json(made: Any, written: list[str], check: Any = None) -> dict[str, Any]:
    """The plan as JSON values; per-prompt rows are in the exports."""
    from onedial.analysis.findings.finding import plain

    fate = {name: made.fate.count(name) for name in ("fund", "revisit", "wait", "drop")}
    value: dict[str, Any] = {
        "unit": made.unit,
        "budget": made.budget,
        "budget_per_pass": made.per_pass,
        "passes": made.passes,
        "rho": made.rho,
        "group_size": made.group_size,
        "group_size_over_rho": made.sizes_over_rho,
        "prompts": fate,
        "audit_prompts": made.audit_prompts,
        "uniform": made.uniform,
        "fixed": made.fixed,
        "adaptive": made.adaptive,
        "saving": made.saving,
        "saving_interval": made.saving_interval,
        "expected_silent_uniform": made.silent_uniform[0],
        "expected_silent_uniform_interval": made.silent_uniform[1],
        "expected_silent_planned": made.silent_fixed[0],
        "expected_silent_planned_interval": made.silent_fixed[1],
        "mixed_probability_by_size": made.mixed_by_size,
        "mean_solve_rate": float(made.beliefs.mean().mean()),
        "discount_per_visit": made.beliefs.discount,
        "held_out": check,
        "notes": made.notes,
        "written": written,
    }
    result: dict[str, Any] = plain(value)
    return result


_SHOWN = (2, 4, 8, 16, 32, 64)


def _range(interval: tuple[float, float] | None) -> str:
    if interval is None:
        return "unknown"
    return f"{100 * interval[0]:.1f}–{100 * interval[1]:.1f} %"


def _columns(items: list[str]) -> str:
    return "  ".join(items)


def _wrap(text: str) -> list[str]:
    import textwrap

    return textwrap.wrap(text, WIDTH)
