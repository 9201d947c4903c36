"""The tables of `rate_figures` that `onedial inspect` prints for a table of solve rates, after the summary that any log
gets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from onedial.cli.terminal import Terminal, format_span

Figures = Mapping[str, Any]

POINTS_SHOWN = 8  # iterations of a series that are printed
MIDDLE = (
    "at the middle of the band: E[σ̂] as a share of √(p(1 − p)), the group size at which it is 95 %, and the factor W "
    "of ∇p in the expected gradient at α = 1, in these groups and in endless ones"
)
EXTREME = "Share of the weight of prompts solved ≤ 10 % or ≥ 90 % of the time"


def print_rate_figures(terminal: Terminal, figures: Figures) -> None:
    """Weights and σ̂ by solve rate, moments of σ̂, extreme prompts, and the series, as far as each is known."""
    if figures.get("by_solve_rate"):
        _print_bands(terminal, figures["by_solve_rate"])
    if figures.get("sigma_moments"):
        _print_moments(terminal, figures["sigma_moments"], figures["by_solve_rate"]["group_size"])
    if figures.get("extreme_weight"):
        _print_extremes(terminal, figures["extreme_weight"])
    if figures.get("by_iteration"):
        _print_series(terminal, figures["by_iteration"])


def _print_bands(terminal: Terminal, found: Figures) -> None:
    size, bands = found["group_size"], found["bands"]
    terminal.head(f"By solve rate, groups of {size} (shares in per cent)")
    rows = [
        ("prompts", *(_whole(band["prompts"]) for band in bands)),
        ("silent groups", *(_whole(band["silent"]) for band in bands)),
        *((f"weight {_rule(weights, size)}", *map(_whole, weights["shares"])) for weights in found["weights"]),
        ("mean σ̂", *(_short(band["sigma"]) for band in bands)),
        ("σ̂ of its limit *", *(_whole(band["fidelity"]) for band in bands)),
        ("G for 95 % *", *(str(band["size_for_fidelity"]) for band in bands)),
        ("W, α 1 *", *(f"{band['amplification']:.1f}" for band in bands)),
        ("W, endless *", *(f"{band['amplification_limit']:.1f}" for band in bands)),
    ]
    labels = [f"{100 * band['low']:.0f}–{100 * band['high']:.0f}" for band in bands]
    terminal.table(("", *labels), rows, gap=1)
    terminal.write(MIDDLE, mark="* ")
    for weights in found["weights"]:
        names = ", ".join(weights["rows"]) or "no row; right and wrong answers of a group weigh the same"
        terminal.write(f"{_rule(weights, size)}: {names}", mark="· ")
    by_reason: dict[str, list[str]] = {}
    for name, reason in found["left_out"].items():
        by_reason.setdefault(reason, []).append(name)
    left = "; ".join(f"{', '.join(names)} ({reason})" for reason, names in by_reason.items())
    if left:
        terminal.write(f"no such weight: {left}", mark="· ")


def _rule(weights: Figures, size: int) -> str:
    """α, with the group size if it differs from that of the table."""
    own = weights["group_size"]
    return f"α {weights['alpha']:g}" + ("" if own == size else f", G {own}")


def _print_moments(terminal: Terminal, moments: Sequence[Figures], size: int) -> None:
    terminal.head("Mean weight of a group, E[σ̂^(2−α)], silent groups included")
    rows = [
        (
            f"{moment['alpha']:g}",
            f"{moment['value']:.4f}",
            format_span(moment["interval"], scale=1, digits=4),
            f"{moment['limit']:.4f}",
        )
        for moment in moments
    ]
    terminal.table(("α", f"groups of {size}", "95 %", "endless groups, rates taken as exact"), rows)


def _print_extremes(terminal: Terminal, shares: Sequence[Figures]) -> None:
    terminal.head(EXTREME)
    rows = [
        (
            f"{share['alpha']:g}",
            _name_size(share),
            f"{100 * share['plug_in']:.1f} %",
            format_span(share["interval"]),
            "" if share["deconvolved"] is None else f"{100 * share['deconvolved']:.1f} %",
            format_span(share["range"]),
        )
        for share in shares
    ]
    terminal.table(("α", "groups of", "plug-in k/n", "95 %", "deconvolved", "what the tries allow"), rows)


def _name_size(share: Figures) -> str:
    if share["group_size"] is None:
        return "any size" if share["alpha"] == 0 else "endless"
    return str(share["group_size"])


def _print_series(terminal: Terminal, points: Sequence[Figures]) -> None:
    terminal.head(f"By iteration ({len(points)}; every one with --json)")
    most = max(point["prompts"] for point in points)
    points = [point for point in points if 2 * point["prompts"] >= most]
    shown = sorted({round(i * (len(points) - 1) / (POINTS_SHOWN - 1)) for i in range(POINTS_SHOWN)})
    rows = [
        (
            f"{points[i]['iteration']:,}",
            f"{points[i]['prompts']:,}",
            f"{points[i]['rate'][0]:.3f}",
            *_share(points[i]["right"]),
            *_share(points[i]["wrong"]),
            f"{points[i]['sigma'][0]:.3f}",
        )
        for i in shown
    ]
    heads = ("iter", "prompts", "rate", "correct", "95 %", "wrong", "95 %", "σ̂")
    terminal.table(heads, rows, left=0, gap=2)
    terminal.write(
        "rate: share of right answers; correct, wrong, σ̂: expected shares of groups that are all correct or all "
        "wrong, and their mean σ̂"
    )


def _share(found: Sequence[Any]) -> tuple[str, str]:
    value, interval = found
    return f"{100 * value:.1f} %", format_span(interval)


def _whole(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f}"


def _short(value: float | None) -> str:
    """A number below 1 without its leading 0: .38."""
    return "" if value is None else f"{value:.2f}".removeprefix("0")
