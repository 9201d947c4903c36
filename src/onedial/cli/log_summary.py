"""The summary that `onedial inspect` prints: every line is a view of one `Analysis`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onedial.analysis.findings.finding import percent_parts
from onedial.analysis.logs import ALIASES, FORMATS
from onedial.analysis.logs.readers.common import format_count
from onedial.cli.rate_text import print_rate_figures
from onedial.cli.terminal import Bar, Terminal, format_span

if TYPE_CHECKING:
    from onedial.analysis import Analysis
    from onedial.analysis.findings import Finding

FINDINGS_SHOWN, BROKEN_SHOWN = 6, 5
KIND_SHARES = {
    "mixed": "mixed_share",
    "right": "all_correct_share",
    "wrong": "all_wrong_share",
    "other": "silent_other_share",
}

Figures = Mapping[str, Any]


def print_summary(terminal: Terminal, path: Path, analysis: Analysis) -> None:
    """Prints what the log is and can show, shares, figures, findings, what is withheld, broken places, and what to do
    next."""
    figures = analysis.figures
    terminal.write(str(path), style="bold", indent=0)
    terminal.write(describe_log(figures), indent=0)
    _print_coverage(terminal, figures)
    _print_shares(terminal, figures)
    _print_figures(terminal, figures)
    _print_by_tries(terminal, figures)
    if figures["kind"] == "rates":
        print_rate_figures(terminal, figures)
    _print_findings(terminal, analysis.findings)
    _print_withheld(terminal, figures["withheld"])
    _print_broken(terminal, figures)
    _print_next(terminal, path, figures)


def describe_log(figures: Figures) -> str:
    """Format, prompts, rollouts and groups in one line."""
    name, rates = figures["format"], figures["kind"] == "rates"
    form = FORMATS.get(name) or FORMATS.get(ALIASES.get(name, ""))
    words = [form.title if form else name]
    prompts = [] if figures["prompts"] is None else [format_count(figures["prompts"], "prompt")]
    words += prompts if rates else []
    if figures["rollouts"] is not None:
        words.append(format_count(figures["rollouts"], "rollout"))
    if not rates:
        if figures["groups"] is not None:
            sizes = [int(size) for size in figures["group_sizes"] or {}]
            span = f" of {sizes[0]}" if len(sizes) == 1 else f" of {min(sizes)} to {max(sizes)}" if sizes else ""
            words.append(format_count(figures["groups"], "group") + span)
        words += prompts
    return " · ".join(words)


def _print_coverage(terminal: Terminal, figures: Figures) -> None:
    coverage = figures["coverage"]
    terminal.head("What this log can show")
    notes = []
    if coverage["survivors_only"] is None:
        notes.append("This format may have dropped silent groups before logging; the rows cannot show it.")
    if figures["kind"] == "rates":
        notes.append("One solve rate per row: which prompts are solved how often, but no answers and no lengths.")
    elif coverage["group_identity"] == "given":
        notes.append("Groups are named by the log.")
    for note in [*notes, *coverage["notes"]]:
        terminal.write(note, mark="· ")


def _print_shares(terminal: Terminal, figures: Figures) -> None:
    """The kinds of groups: those of the log, or those expected of groups drawn from the tries of a rate table."""
    if figures["kind"] == "rates":
        shares = figures.get("expected_groups")
        if shares is None:
            return
        intervals, size = shares["intervals"], shares["size"]
        terminal.head(f"Groups of {size} as these solve rates would give them")
    else:
        shares, intervals = figures, figures.get("share_intervals", {})
        if not figures["groups_in_shares"] or figures["mixed_share"] is None:
            return
        terminal.head(f"Groups by their rewards ({figures['groups_in_shares']:,})")
    kinds = [kind for kind, name in KIND_SHARES.items() if shares.get(name) or (kind != "other" and name in shares)]
    values = [shares[KIND_SHARES[kind]] for kind in kinds]
    shown = percent_parts(values, 1)[1]
    terminal.bars(
        [
            Bar(kind, share, text, intervals.get(KIND_SHARES[kind]))
            for kind, share, text in zip(kinds, values, shown, strict=True)
        ]
    )
    if ones := figures["groups_of_one"]:
        verb = "has" if ones == 1 else "have"
        terminal.write(
            f"{format_count(ones, 'more group')} {verb} fewer than two usable rollouts: no share counts them."
        )


def _print_figures(terminal: Terminal, figures: Figures) -> None:
    terminal.head("Figures")
    mean, rates = figures["mean_reward"], figures["kind"] == "rates"
    if mean is not None:
        interval = figures.get("mean_reward_interval")
        span = f" (95 %: {format_span(interval, scale=1, digits=3)})" if interval else ""
        name = "mean solve rate" if rates else "mean reward"
        terminal.write(f"{name} {mean:.3f}{span}; reward: {figures['coverage']['reward_is']}")
    shaped = (figures.get("on_shaped_reward") or {}).get("silent_share")
    if shaped is not None and abs(shaped - figures["silent_share"]) > 1e-9:
        terminal.write(f"by the reward that trained (shaped), {100 * shaped:.1f} % of groups are silent")
    if tokens := figures.get("tokens_generated"):
        silent = figures["tokens_silent"]
        more = f", {silent:,} of them in silent groups" if silent is not None else ""
        terminal.write(f"{tokens:,} completion tokens{more}")
    if figures["unusable"]:
        count = figures["unusable"]
        if rates:
            what = f"{format_count(count, 'row')} {'holds' if count == 1 else 'hold'} no rate"
        else:
            verb = "is" if count == 1 else "are"
            what = f"{format_count(count, 'rollout')} {verb} unusable (timeout, error, or no reward)"
        terminal.write(f"{what}: in no figure above")
    if figures.get("rollouts_without_group"):
        terminal.write(f"{figures['rollouts_without_group']:,} rollouts name no prompt or group: they are in no group")
    if not rates and mean is not None:
        terminal.write(f"right: {figures['right_means']}")


def _print_by_tries(terminal: Terminal, figures: Figures) -> None:
    """pass@k and the expected silent share, side by side: both are about a number of tries."""
    passes = figures.get("pass_at_k") or {}
    # beyond the tries what a fitted distribution of rates gives, with the range that the tries allow
    silent = (figures.get("deconvolved_silent_share") or {}) | (figures.get("expected_silent_share") or {})
    plug_in = figures.get("plug_in_silent_share") or {}
    sizes = sorted({*map(int, passes), *map(int, silent), *map(int, plug_in)})
    if not sizes:
        return
    terminal.head("Means over prompts, by the number of tries (a group's size, or k)")
    of_pass = figures.get("pass_at_k_intervals", {})
    of_silent = figures.get("deconvolved_silent_intervals", {}) | figures.get("expected_silent_intervals", {})
    rows = [
        (
            f"{size:,}",
            *_format_share(passes.get(str(size)), of_pass.get(str(size))),
            *_format_share(silent.get(str(size)), of_silent.get(str(size))),
            *([_format_share(plug_in.get(str(size)), None)[0]] if plug_in else []),
        )
        for size in sizes
    ]
    heads = ("tries", "pass@k", "95 %", "silent groups expected", "95 %")
    terminal.table((*heads, "plug-in") if plug_in else heads, rows, left=0)
    if plug_in:
        terminal.write("plug-in: p̂^G + (1 − p̂)^G at the observed rates, which is too high if tries are few")


def _format_share(value: float | None, interval: Sequence[float] | None) -> tuple[str, str]:
    return ("", "") if value is None else (f"{100 * value:.1f} %", format_span(interval))


def _print_findings(terminal: Terminal, findings: Sequence[Finding]) -> None:
    shown = [finding for finding in findings if not finding.withheld]
    if not shown:
        return
    terminal.head("Findings, the biggest first")
    for number, finding in enumerate(shown[:FINDINGS_SHOWN], start=1):
        terminal.write(finding.title, style="bold", mark=f"{number}. ")
        terminal.write(finding.headline, indent=5)
        if finding.what_to_do:
            terminal.write(finding.what_to_do, indent=5, mark="→ ")
    if len(shown) > FINDINGS_SHOWN:
        terminal.write(f"{len(shown) - FINDINGS_SHOWN} more, with plots, in the page: -o report.html")


def _print_withheld(terminal: Terminal, reasons: Mapping[str, str]) -> None:
    if not reasons:
        return
    terminal.head("Withheld, because the log cannot support it")
    by_reason: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        if name == "silent_other_share" and "silent_share" not in reasons:
            continue  # a third kind that a table of rates cannot have
        by_reason.setdefault(reason, []).append(name.replace("_", " ").replace("pass at k", "pass@k"))
    for reason, names in by_reason.items():
        terminal.write(f"{', '.join(names)}: {reason}", mark="· ")


def _print_broken(terminal: Terminal, figures: Figures) -> None:
    count = figures["broken_lines"]
    if not count:
        return
    terminal.head(f"{count:,} broken {'place' if count == 1 else 'places'}, counted and left out")
    for place in figures["broken"][:BROKEN_SHOWN]:
        where = place["file"] + (f":{place['line']}" if place["line"] else "")
        terminal.write(f"{where}: {place['reason']}", mark="· ")
    if count > BROKEN_SHOWN:
        terminal.write(f"and {count - BROKEN_SHOWN:,} more; --json lists the first {len(figures['broken'])}")


def _print_next(terminal: Terminal, path: Path, figures: Figures) -> None:
    terminal.head("Next")
    name = shlex.quote(str(path))
    if figures["format"] == "onedial":
        terminal.command(f"onedial report {name}", "the plots and curves, and prompts to read")
    else:
        terminal.command(f"onedial inspect {name} -o report.html", "the plots, and prompts to read")
    if figures["prompts"] and not figures["coverage"]["survivors_only"]:
        terminal.command(f"onedial plan {name} --budget N", "group sizes and prompts for the next run")
