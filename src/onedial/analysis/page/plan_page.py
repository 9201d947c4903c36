"""The page of a plan: tries by solve rate, what it would save over ρ, and the silence to expect, as plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from onedial.analysis.findings.finding import Plot, Series
from onedial.analysis.page.page import write_curves
from onedial.analysis.planning.by_rate import WHY, tries_by_rate
from onedial.analysis.planning.planner import BudgetPlan

HEADINGS = {"notes": "The plan", "curves": "What it rests on"}


def write_plan(path: Path, plan: BudgetPlan, *, title: str, text: Sequence[str]) -> Path:
    """Writes the page and returns its path; `text` are the plan's sentences. Raises DataError as `write_html`."""
    subtitle = f"plan of {plan.budget:,.0f} {plan.unit} over {len(plan.tries):,} prompts"
    return write_curves(
        path, title=title, curves=plot_plan(plan), notes=[*text, *plan.notes], subtitle=subtitle, headings=HEADINGS
    )


def plot_plan(plan: BudgetPlan) -> list[Plot]:
    """Tries by solve rate; saving and best group size over ρ; expected silent shares."""
    return [_tries(plan), *_over_rho(plan), _silence(plan)]


def _tries(plan: BudgetPlan) -> Plot:
    bands = tries_by_rate(plan)
    series = (
        Series("own tries", tuple(band.own for band in bands), "plain"),
        Series(f"planned G = {plan.group_size}", tuple(band.fixed for band in bands), "alt"),
        Series("rule 1/(pq)", tuple(band.inverse for band in bands), "ghost"),
    )
    return Plot(
        "bars",
        "Tries by solve rate",
        "believed solve rate, per cent",
        "mean rollouts per prompt and pass",
        tuple(f"{100 * band.low:.0f}–{100 * band.high:.0f}" for band in bands),
        series,
        unit="number",
        note=WHY,
    )


def _over_rho(plan: BudgetPlan) -> tuple[Plot, Plot]:
    under = plan.under_rho
    x = tuple(each.rho for each in under)
    spans = [each.saving_interval for each in under if each.saving_interval is not None]
    low, high = (tuple(span[i] for span in spans) for i in (0, 1))  # all of them or none
    saving = Series("saving", tuple(each.saving for each in under), "plain", low, high)
    sizes = Series("group size", tuple(float(each.group_size) for each in under), "plain")
    label = "ρ, a prompt's signal over the noise of one rollout"
    band = "band: 95 % interval over prompts at that ρ; " if spans else ""
    note = f"ρ is {plan.rho.source}; this plan takes {plan.rho.value:.3g}"
    return (
        Plot(
            "line",
            "What would be saved at the utility of uniform groups",
            label,
            f"share of the {plan.unit}, below 0 where it costs more",
            x,
            (saving,),
            log_x=True,
            note=f"{note}; {band}no training run has confirmed it",
        ),
        Plot("line", "Best group size", label, "answers in a group", x, (sizes,), unit="number", log_x=True, note=note),
    )


def _silence(plan: BudgetPlan) -> Plot:
    shares = (plan.silent_uniform, plan.silent_fixed)
    low, high = (tuple(interval[i] for _, interval in shares) for i in (0, 1))
    return Plot(
        "bars",
        "Silent groups to expect",
        "way to spend the budget",
        "share of groups",
        (f"uniform G = {plan.uniform.group_size}", f"planned G = {plan.group_size}"),
        (Series("silent", tuple(value for value, _ in shares), "plain", low, high),),
        note="whiskers: 95 % prediction intervals",
    )
