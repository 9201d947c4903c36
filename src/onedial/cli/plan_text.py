"""A plan as text for a terminal of 80 columns: the decision first, then its reasons."""

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
from onedial.analysis.planning.rho import Rho

WIDTH, BAR = 80, 20
DECISIONS = {
    "fund": "in this pass",
    "revisit": "unsure; some get a second look",
    "wait": "often mixed, but others teach more",
    "drop": "hardly ever mixed",
}
UTILITY = (
    "Utility is what rollouts are assumed to teach: (tries − 1) · p(1 − p) for a prompt of solve rate p, with "
    "diminishing returns, which rho sets. Where noise dominates (small rho), large groups on few prompts pay; where a "
    "prompt's own signal dominates, small groups on many."
)
RHO = "rho, the strength of one prompt's gradient against the noise of one rollout,"
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


def describe_decision(plan: BudgetPlan) -> str:
    """The decision in a few sentences."""
    funded, prompts = plan.decision.count("fund"), len(plan.tries)
    if not funded:
        return (
            f"Fund none of the {prompts:,} prompts: {plan.decision.count('drop'):,} of them are hardly ever mixed, "
            "at any group size tried. Bring prompts that this policy solves sometimes."
        )
    passes = f" in each of {plan.passes:,} passes" if plan.passes > 1 else ""
    return (
        f"Use G = {plan.group_size} on {funded:,} of {prompts:,} prompts{passes}, drop "
        f"{plan.decision.count('drop'):,}; expect {percent(plan.silent_fixed[0])} silent groups instead of "
        f"{percent(plan.silent_uniform[0])} at uniform G = {plan.uniform.group_size}. {_cost(plan)}"
    )


def _cost(plan: BudgetPlan) -> str:
    """The assumption about ρ, and the range of what the plan would cost compared with uniform groups under it."""
    low, high = plan.saving_range
    if low > 0:
        span = f"{_range((low, high))} fewer {plan.unit}"
    elif high <= 0:
        span = f"{_range((-high, -low))} more {plan.unit}"
    else:
        span = f"anything from {percent(-low, 1)} more to {percent(high, 1)} fewer {plan.unit}"
    sizes = [under.group_size for under in plan.under_rho]
    shown = plan.rho.shown
    return (
        f"{_rho(plan.rho)} From rho = {shown[0]:.3g} to {shown[-1]:.3g} the best G goes from {sizes[0]} to "
        f"{sizes[-1]}, and the plan would reach the utility of uniform groups with {span}: arithmetic under this "
        "assumption, confirmed by no training run."
    )


def _rho(rho: Rho) -> str:
    """What is known of ρ."""
    if rho.source == "measured":
        return (
            f"{RHO} was measured on {rho.groups} probed groups of this run: {rho.value:.3g} (95 %: {rho.low:.3g} "
            f"to {rho.high:.3g}), an upper bound, as prompts share part of their gradients."
        )
    if rho.source == "given":
        return f"{RHO} is taken as {rho.value:g}, as given."
    return f"{RHO} is not known (a run with --probe measures it); taken as {rho.value:g}."


def _blocks(plan: BudgetPlan, check: HeldOut | None) -> Iterator[RenderableType]:
    yield Text(describe_decision(plan))
    yield Text("\nWays to spend a pass", style="bold")
    yield _choices(plan)
    yield Text(_left_over(plan))
    yield Text("\nPrompts", style="bold")
    yield _fates(plan)
    yield Text("\nTries by solve rate, per prompt and pass", style="bold")
    yield _bands(plan)
    yield Text(WHY)
    if "fund" in plan.decision:
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
    return (
        f"{left}: {'too little for a second look' if 'revisit' in plan.decision else 'no prompt needs a second look'}."
    )


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
        ("tries by 1/(pq)", plan.inverse),
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
    for decision, meaning in DECISIONS.items():
        table.add_row(decision, f"{plan.decision.count(decision):,}", meaning)
    return table


def _bands(plan: BudgetPlan) -> Table:
    table = _table("solve rate", "prompts", "mixed", f"G = {plan.group_size}", "1/(pq)", "own G", "")
    table.columns[6].justify = "left"
    bands = tries_by_rate(plan)
    most = max(band.own for band in bands) or 1.0
    for band in bands:
        table.add_row(
            f"{100 * band.low:.0f}–{100 * band.high:.0f} %",
            f"{band.prompts:,}",
            percent(band.mixed),
            *(f"{tries:.1f}" for tries in (band.fixed, band.inverse, band.own)),
            "█" * round(BAR * band.own / most),
        )
    return table


def _rhos(plan: BudgetPlan) -> Table:
    known = any(under.saving_interval for under in plan.under_rho)
    table = _table("rho", "G", "prompts", "saving", "95 %, over prompts" if known else "")
    for under in plan.under_rho:
        table.add_row(
            f"{under.rho:.3g}" + (" (plan)" if under.rho == plan.rho.value else ""),
            str(under.group_size),
            f"{under.prompts:,.0f}",
            percent(under.saving, 1),
            "" if under.saving_interval is None else _range(under.saving_interval),
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
