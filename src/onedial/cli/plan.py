"""`onedial plan`: which prompts deserve rollouts, how many each, and what that saves."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onedial.cli.log_options import add_log_options, with_analysis
from onedial.cli.page_option import add_page_option

if TYPE_CHECKING:
    from onedial.analysis.planning.backtest import HeldOut
    from onedial.analysis.planning.planner import BudgetPlan

HELP = """
The first lines are the decision; the rest says why, and what the log cannot show.
How tries trade against prompts depends on rho, the strength of one prompt's
gradient against the noise of one rollout. A run with --probe measures it;
where it is not known, the plan is shown for rho from 0.005 to 5.
Example: onedial plan runs/x --budget 100000 --export onedial:plan.json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `onedial plan`."""
    parser.add_argument("log", help="rollout log (file or folder, any known format) or table of solve rates")
    parser.add_argument("--budget", type=float, required=True, metavar="N", help="what may be spent, in --unit")
    parser.add_argument("--unit", choices=("rollouts", "tokens"), default="rollouts", help="default: rollouts")
    parser.add_argument("--group-size", type=int, default=8, metavar="G", help="uniform groups to compare with (8)")
    parser.add_argument("--fixed-size", type=int, metavar="G", help="plan with this group size instead of choosing one")
    parser.add_argument(
        "--rho",
        type=float,
        metavar="R",
        help="a prompt's signal over a rollout's noise (measured where the log is a run with --probe, else unknown)",
    )
    parser.add_argument("--audit", type=float, default=0.1, help="share of the budget for second looks (0.1)")
    parser.add_argument("--survivors-only", action="store_true", help="silent groups were dropped before logging")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_page_option(parser, "write a page with the plots to this .html file")
    parser.add_argument(
        "--export",
        action="append",
        default=[],
        metavar="KIND:PATH",
        help="onedial:PATH (.json): own tries per prompt, for `onedial train --plan PATH`; trl:PATH (.jsonl, which "
        "`onedial train --task PATH` reads too, or .parquet), verl:PATH (.parquet): the funded prompts; table:PATH "
        "(.csv, .jsonl, .parquet): belief, tries, weight and decision of every prompt id; may be repeated",
    )
    add_log_options(parser)


def run(args: argparse.Namespace) -> int:
    """Plan, print, export."""
    from onedial.analysis.findings.measured_rho import read_measured_rho
    from onedial.analysis.findings.prompt_counts import collect_prompt_counts, read_prompt_rows
    from onedial.analysis.planning.backtest import backtest_plan
    from onedial.analysis.planning.export import check_targets, export, parse_target
    from onedial.analysis.planning.planner import plan
    from onedial.analysis.planning.rho import UNKNOWN, assume_rho
    from onedial.cli.plan_text import print_plan
    from onedial.core.safe_console import SafeConsole

    targets = [parse_target(text) for text in args.export]  # a wrong target is told before the work
    check_targets(Path(args.log), [path for _, path in targets])
    rho = read_measured_rho(Path(args.log)) or UNKNOWN if args.rho is None else assume_rho(args.rho)
    tables = with_analysis(args, Path(args.log), lambda analysis: analysis.tables)
    counts = collect_prompt_counts(tables, survivors_only=True if args.survivors_only else None)
    made = plan(
        counts,
        args.budget,
        unit=args.unit,
        group_size=args.group_size,
        fixed_size=args.fixed_size,
        rho=rho,
        audit=args.audit,
    )
    check = backtest_plan(counts, made.per_pass, made.group_size, unit=args.unit, rho=rho)
    texts = read_prompt_rows(tables.log, counts.ids) if targets else None
    written = [str(export(made, texts, kind, path)) for kind, path in targets if texts is not None]
    if args.output is not None:
        from onedial.analysis.page.plan_page import write_plan
        from onedial.cli.plan_text import describe_decision

        written.append(
            str(write_plan(args.output, made, title=Path(args.log).resolve().name, text=[describe_decision(made)]))
        )
    if args.json:
        print(json.dumps(plan_to_json(made, check, written), indent=2))
    else:
        print_plan(SafeConsole(highlight=False), made, check, written)
    return 0


def plan_to_json(made: BudgetPlan, check: HeldOut | None, written: list[str]) -> dict[str, Any]:
    """The plan as JSON values; the exports hold every prompt."""
    from onedial.analysis.findings.finding import plain
    from onedial.analysis.planning.by_rate import tries_by_rate

    decisions = {name: made.decision.count(name) for name in ("fund", "revisit", "wait", "drop")}
    value: dict[str, Any] = {
        "unit": made.unit,
        "budget": made.budget,
        "budget_per_pass": made.per_pass,
        "passes": made.passes,
        "rho": made.rho.value,
        "rho_range": (made.rho.low, made.rho.high),
        "rho_source": made.rho.source,
        "rho_groups": made.rho.groups,
        "group_size": made.group_size,
        "prompts": decisions,
        "audit_prompts": made.audit_prompts,
        "uniform": made.uniform,
        "fixed": made.fixed,
        "adaptive": made.adaptive,
        "inverse_variance_rule": made.inverse,
        "saving": made.saving,
        "saving_range_over_rho": made.saving_range,
        "under_rho": made.under_rho,
        "tries_by_solve_rate": tries_by_rate(made),
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
