"""What the page of a log shows, as JSON values, and the page as a file (`render` makes the HTML)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onedial import __version__
from onedial.analysis.findings import Finding, LogTables, Plot
from onedial.analysis.findings.finding import percent, plain
from onedial.analysis.findings.log_tables import read_prompt_texts
from onedial.analysis.logs.readers.common import format_count
from onedial.analysis.page.curves import add_smoothed_lines
from onedial.analysis.page.group_intervals import add_group_intervals
from onedial.analysis.page.render import render
from onedial.analysis.page.samples import sample_groups
from onedial.analysis.result import Analysis
from onedial.core.errors import DataError
from onedial.core.palette import GROUP_KINDS
from onedial.core.paths import write_atomically

FOOTER = f"onedial {__version__}. Intervals are 95 %. This file is complete: it loads nothing from anywhere."
KINDS = {kind: style.label for kind, style in GROUP_KINDS.items()} | {"one": "single", "empty": "not judged"}
MOST_LISTED = 1500  # prompts whose text is kept for the lists behind bars


@dataclass(frozen=True)
class Fact:
    """One number of the head of the page; `unit` as in `Finding`."""

    label: str
    value: float | None
    unit: str = ""
    note: str = ""


def write_html(
    path: Path | str,
    analysis: Analysis,
    *,
    title: str = "",
    curves: Sequence[Plot] = (),
    notes: Sequence[str] = (),
) -> Path:
    """Writes the page of an analysis to `path` and returns the path.

    Raises DataError if the file cannot be written or the log is empty.
    """
    return _write(Path(path), make_page_data(analysis, title=title, curves=curves, notes=notes))


def write_curves(
    path: Path | str,
    *,
    title: str,
    curves: Sequence[Plot],
    notes: Sequence[str],
    subtitle: str = "trained on a dataset",
    headings: Mapping[str, str] | None = None,
) -> Path:
    """Writes a page of curves and notes without groups (for a run that generated nothing, or a comparison of runs).

    headings: replaces the words above the "notes" and the "curves". Raises DataError as `write_html` does.
    """
    data = {
        "title": title, "subtitle": subtitle, "facts": [plain(fact) for fact in make_heldout_facts(curves)],
        "notes": list(notes), "findings": [], **_curve_sections(curves), "groups": [], "groups_note": "", "prompts": {},
        "kinds": KINDS, "length_unit": "tokens", "footer": FOOTER, "headings": dict(headings or {}),
    }  # fmt: skip
    return _write(Path(path), data)


def _write(target: Path, data: Mapping[str, Any]) -> Path:
    text = render(data)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, text)
    except OSError as error:
        raise DataError(f"{target}: cannot write the page ({error.strerror}); choose another place with -o") from error
    return target


def make_page_data(
    analysis: Analysis,
    *,
    title: str = "",
    curves: Sequence[Plot] = (),
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Everything the page shows, as JSON values."""
    tables, findings = analysis.tables, analysis.findings
    log = tables.log
    groups, groups_note = sample_groups(tables)
    name = title or (log.files[0].name if log.files else "Rollout log")
    return {
        "title": name,
        "subtitle": _subtitle(tables),
        "facts": [plain(fact) for fact in [*make_heldout_facts(curves), *make_facts(tables, findings)]],
        "notes": [*notes, *_notes(tables)],
        "findings": [_finding_data(finding, bool(curves)) for finding in findings],
        **_curve_sections([add_group_intervals(plot, tables) for plot in curves]),
        "groups": groups,
        "groups_note": groups_note,
        "prompts": _prompt_texts(tables, findings),
        "kinds": KINDS,
        "length_unit": tables.length_unit,
        "footer": FOOTER,
        "headings": {},
    }


def make_heldout_facts(curves: Sequence[Plot]) -> list[Fact]:
    """avg@k of the last evaluation, and its value at the first."""
    plot = next((plot for plot in curves if plot.extra.get("section") == "heldout"), None)
    if plot is None:
        return []
    scores = plot.series[0]
    before = (
        f"{percent(scores.y[0])} at iteration {plot.x[0]:g}" if len(scores.y) > 1 and scores.y[0] is not None else ""
    )
    return [Fact(f"Held-out {scores.name}", scores.y[-1], "share", before)]


def _curve_sections(curves: Sequence[Plot]) -> dict[str, Any]:
    """The evaluations, which have their own section, and the curves over training."""
    heldout = [plot for plot in curves if plot.extra.get("section") == "heldout"]
    return {
        "heldout": [plain(plot) for plot in heldout],
        "curves": [plain(plot) for plot in curves if plot not in heldout],
    }


def _finding_data(finding: Finding, has_curves: bool) -> dict[str, Any]:
    """The finding as JSON values. A run's curves already show the plots of the finding "drift", so there it has
    none."""
    elsewhere = finding.name == "drift" and has_curves and bool(finding.plots)
    plots = () if elsewhere else tuple(add_smoothed_lines(plot) for plot in finding.plots)
    return {**plain(replace(finding, plots=plots)), "elsewhere": elsewhere}


def make_facts(tables: LogTables, findings: Sequence[Finding]) -> list[Fact]:
    """The figures at the head of the page."""
    by_name = {finding.name: finding for finding in findings}
    rates = tables.log.kind == "rates"
    prompts = (tables.rates if rates else tables.groups).get_column("prompt_id").n_unique()
    facts = [Fact("Prompts", float(prompts))]
    if not rates:
        sizes = sorted(tables.groups.get_column("size").unique().to_list())
        note = f"of {sizes[0]} to {sizes[-1]}" if len(sizes) > 1 else f"of {sizes[0]}" if sizes else ""
        grouped = [Fact("Groups", float(len(tables.groups)), note=note)] if sizes else []
        told = format_count(prompts, "prompt") if sizes else ""
        facts = [Fact("Rollouts", float(tables.totals.rollouts), note=told), *grouped]
    if tables.judged:
        k, n = (int(tables.counts.get_column(column).sum()) for column in ("k", "n"))
        facts.append(Fact("Correct", k / n if n else None, "share", "of judged rollouts"))
    for key, label in (("silent_share", "Silent groups"), ("silent_tokens", "Silent tokens"), ("sigma", "Mean σ̂")):
        finding = by_name.get(key)
        if finding is not None and not finding.withheld:
            facts.append(Fact(label, finding.value, finding.unit if finding.unit == "share" else ""))
    expected = by_name.get("expected_silence")
    if tables.log.kind == "rates" and expected is not None and not expected.withheld:
        facts.append(Fact(f"Silent at G = {tables.group_size}", expected.value, "share", "expected"))
    return facts


def _subtitle(tables: LogTables) -> str:
    log = tables.log
    files_read = f" · {len(log.files)} files" if len(log.files) > 1 else ""
    return f"format: {log.format}{files_read} · right answers: {tables.marks.rule}"


def _notes(tables: LogTables) -> list[str]:
    log = tables.log
    notes = list(log.notes)
    if log.coverage.reward_is:
        notes.append(f"Outcome reward: {log.coverage.reward_is}.")
    if log.broken_lines:
        first = log.broken[0] if log.broken else None
        where = f" (first: {first.file}, line {first.line}: {first.reason})" if first else ""
        notes.append(f"{log.broken_lines:,} broken lines were left out{where}.")
    return notes


def _prompt_texts(tables: LogTables, findings: Sequence[Finding]) -> dict[str, dict[str, Any]]:
    """Text and counts of the prompts that a click can show."""
    keys = list(dict.fromkeys(key for f in findings for plot in f.plots for part in plot.members for key in part))
    keys = keys[:MOST_LISTED]
    text = read_prompt_texts(tables.log, keys, limit=240)
    rows = tables.prompts.filter(tables.prompts.get_column("prompt_id").is_in(keys)).select("prompt_id", "k", "n")
    return {key: {"k": k, "n": n, "text": text.get(key, "")} for key, k, n in rows.iter_rows()}
