"""A plan for a terminal of 80 columns: the decision first, then what it rests on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from onedial.analysis.findings.finding import percent
from onedial.analysis.planning.backtest import HeldOut
from onedial.analysis.planning.by_rate import WHY, tries_by_rate
from onedial.analysis.planning.planner import BudgetPlan

WIDTH = 80
FATES = {
    "fund": "in this pass",
    "revisit": "unsure; some get a second look",
    "wait": "would split, but others teach more",
    "drop": "hardly ever split",
}
UTILITY = (
    "Utility is what rollouts are expected to teach: (tries − 1) · p(1 − p) for a prompt of solve rate p, with "
    "diminishing returns. rho sets how fast they diminish: it is the strength of one prompt's gradient against the "
    "noise of one rollout. No log tells it, so the plan is shown for a tenth and for ten times of it."
)
UNCONFIRMED = "No training run has confirmed this figure; it is arithmetic under rho and the fitted solve rates."
OUTSIDE = (
    "What was seen lies outside what was expected. The prompts may have been chosen by these very tries (those "
    "never or always solved left out, say), or the tries are not alike: take the shares above with caution."
)


def print_plan(console: Console, plan: BudgetPlan, check: HeldOut | None, written: Sequence[str]) -> None:
    """Print everything, at most `WIDTH` columns wide; paths of written files in one line each."""
    for block in _blocks(plan, check):
        console.print(block, width=min(WIDTH, console.width))
    for path in written:
        console.print(Text(f"wrote {path}"), soft_wrap=True)


def decide(plan: BudgetPlan) -> str:
    """The decision in a few sentences."""
    funded, prompts = plan.fate.count("fund"), len(plan.tries)
    if not funded:
        return (
            f"Fund none of the {prompts:,} prompts: {plan.fate.count('drop'):,} of them hardly ever split, at any "
            "group size tried. Bring prompts that this policy solves sometimes."
        )
    passes = f" in each of {plan.passes:,} passes" if plan.passes > 1 else ""
    return (
        f"Use G = {plan.group_size} on {funded:,} of {prompts:,} prompts{passes}, drop "
        f"{plan.fate.count('drop'):,}; expect {percent(plan.silent_fixed[0])} silent groups instead of "
        f"{percent(plan.silent_uniform[0])} at uniform G = {plan.uniform.group_size}. {_cost(plan)} {UNCONFIRMED}"
    )


def _cost(plan: BudgetPlan) -> str:
    """What the utility of uniform groups costs under the plan, in the direction in which the range is given."""
    low, high = plan.saving_range
    if low > 0 or high <= 0:
        ends = sorted((abs(low), abs(high)))
        span = f"{_range((ends[0], ends[1]))}"
    else:
        span = f"from {percent(-low, 1)} more to {percent(high, 1)} fewer"
    span += " over a hundredfold range of rho"
    if plan.saving > 0:
        return (
            f"If rho = {plan.rho:g}, the expected utility of uniform groups takes {percent(plan.saving, 1)} fewer "
            f"{plan.unit} ({span})."
        )
    return (
        f"If rho = {plan.rho:g}, uniform groups are the better buy: their expected utility takes "
        f"{percent(-plan.saving, 1)} more {plan.unit} under this plan, second looks included ({span})."
    )


def _blocks(plan: BudgetPlan, check: HeldOut | None) -> Iterator[RenderableType]:
    yield Text(decide(plan))
    yield Text("\nWays to spend a pass", style="bold")
    yield _choices(plan)
    yield Text(_left_over(plan))
    yield Text("\nPrompts", style="bold")
    yield _fates(plan)
    yield Text("\nTries by solve rate, per prompt and pass", style="bold")
    yield _bands(plan)
    yield Text(WHY)
    if "fund" in plan.fate:
        yield Text("\nIf rho were another", style="bold")
        yield _rhos(plan)
        yield Text(UTILITY)
    yield Text("\nExpected silent groups (95 % intervals)", style="bold")
    yield _silence(plan)
    yield from _check(check)
    for note in plan.notes:
        yield Text("\nNote: " + note)
    yield Text("\nPlan again after each pass: rates move as the policy learns.")


def _left_over(plan: BudgetPlan) -> str:
    """What happens to the part of a pass's budget that buys no group of the plan."""
    left = f"{percent(1 - plan.fixed.cost / plan.per_pass)} of the budget is left"
    if plan.audit_prompts:
        return f"{left} for second looks at {plan.audit_prompts:,} prompts."
    return f"{left}: {'too little for a second look' if 'revisit' in plan.fate else 'no prompt needs a second look'}."


def _table(*headings: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="right" if i else "left", no_wrap=True)
    return table


def _choices(plan: BudgetPlan) -> Table:
    table = _table("", "groups", "rollouts", "silent", "mixed groups", "utility")
    for label, choice in (
        (f"uniform G = {plan.uniform.group_size}", plan.uniform),
        (f"planned G = {plan.group_size}", plan.fixed),
        ("planned, own G each", plan.adaptive),
    ):
        table.add_row(
            label,
            f"{choice.prompts:,.0f}",
            f"{choice.rollouts:,.0f}",
            _share(choice.silent_share),
            f"{choice.mixed_groups:,.0f}",
            f"{choice.utility:,.0f}",
        )
    return table


def _fates(plan: BudgetPlan) -> Table:
    table = _table("", "prompts", "")
    table.columns[2].justify = "left"
    for fate, meaning in FATES.items():
        table.add_row(fate, f"{plan.fate.count(fate):,}", meaning)
    return table


def _bands(plan: BudgetPlan) -> Table:
    table = _table("solve rate", "prompts", "mixed", f"G = {plan.group_size}", "own G", "rule 1/(pq)")
    for band in tries_by_rate(plan):
        table.add_row(
            f"{100 * band.low:.0f}–{100 * band.high:.0f} %",
            f"{band.prompts:,}",
            percent(band.mixed),
            *(f"{tries:.1f}" for tries in (band.fixed, band.own, band.inverse)),
        )
    return table


def _rhos(plan: BudgetPlan) -> Table:
    table = _table("rho", "G", "prompts", "saving", "95 %, over prompts")
    for under in plan.under_rho:
        table.add_row(
            f"{under.rho:g}",
            str(under.group_size),
            f"{under.prompts:,.0f}",
            percent(under.saving, 1),
            _range(under.saving_interval),
        )
    return table


def _silence(plan: BudgetPlan) -> Table:
    table = _table("", "expected", "95 %")
    for name, size, (value, interval) in (
        ("uniform", plan.uniform.group_size, plan.silent_uniform),
        ("planned", plan.group_size, plan.silent_fixed),
    ):
        if not math.isnan(value):
            table.add_row(f"{name} G = {size}", percent(value, 1), _range(interval))
    return table


def _check(check: HeldOut | None) -> Iterator[RenderableType]:
    if check is None:
        return
    yield Text(f"\nCheck: a plan from half of the tries, compared with the other half, G = {check.group_size}", "bold")
    table = _table("", "prompts", "expected", "95 %", "seen")
    lines = [("all", check.prompts, check.uniform), ("planned", check.funded, check.planned)]
    if check.again is not None:
        lines.append(("silent in the first half", check.silent_before, check.again))
    for name, prompts, (value, interval, seen) in lines:
        table.add_row(name, f"{prompts:,}", percent(value, 1), _range(interval), percent(seen, 1))
    yield table
    chosen = f"The half-plan chose {percent(check.share_funded)} of the prompts"
    if check.selective:
        yield Text(f"{chosen}; the tries of the other half played no part in that.")
    else:
        yield Text(
            f"{chosen}: nearly every prompt fits the budget, so this tests the expected share, not the choice of "
            "prompts. A smaller --budget would."
        )
    if not check.kept:
        yield Text(OUTSIDE)


def _share(value: float) -> str:
    return "–" if math.isnan(value) else percent(value)


def _range(interval: tuple[float, float]) -> str:
    return f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f} %"
