"""Findings as one HTML file that needs nothing else: style, script and data inside, no network, small hand-made SVG.

Text of a log is hostile until shown otherwise (models write HTML, scripts, terminal escapes, right-to-left overrides).
It enters the page in a JSON block in which `<`, `>` and `&` are escaped, reaches the screen through `textContent`
only, and the content security policy allows no script or style but the two whose hashes it names.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from onedial import __version__
from onedial.analysis.findings import Evidence, Finding, Plot, collect, findings_of
from onedial.analysis.findings.evidence import texts_of
from onedial.analysis.findings.finding import plain
from onedial.analysis.logs.schema import Log
from onedial.analysis.page.samples import sample_groups
from onedial.core.errors import DataError
from onedial.core.text_safety import escape_control

FOOTER = f"onedial {__version__}. Intervals are 95 %. This file is complete: it loads nothing from anywhere."
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
    log: Log,
    findings: Sequence[Finding] | None = None,
    *,
    evidence: Evidence | None = None,
    title: str = "",
    curves: Sequence[Plot] = (),
    notes: Sequence[str] = (),
) -> Path:
    """Write the page of a log to `path` and give it back. What is not given (`evidence`, `findings`) is computed.

    Raises DataError when the file cannot be written or the log is empty.
    """
    evidence = evidence or collect(log)
    found = list(findings) if findings is not None else findings_of(evidence)
    return _write(Path(path), page_data(evidence, found, title=title, curves=curves, notes=notes))


def write_curves(path: Path | str, *, title: str, curves: Sequence[Plot], notes: Sequence[str]) -> Path:
    """Write the page of a run that generated nothing: curves and notes, no groups. Raises DataError as `write_html`."""
    data = {
        "title": title, "subtitle": "trained on a data set", "facts": [], "notes": list(notes), "findings": [],
        "curves": [plain(curve) for curve in curves], "groups": [], "groups_note": "", "prompts": {},
        "length_unit": "tokens", "footer": FOOTER,
    }  # fmt: skip
    return _write(Path(path), data)


def _write(target: Path, data: Mapping[str, Any]) -> Path:
    text = render(data)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DataError(f"{target}: cannot write the page ({error.strerror}); choose another place with -o") from error
    return target


def page_data(
    evidence: Evidence,
    findings: Sequence[Finding],
    *,
    title: str = "",
    curves: Sequence[Plot] = (),
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Everything the page shows, as JSON values."""
    log = evidence.log
    groups, groups_note = sample_groups(evidence)
    name = title or (log.files[0].name if log.files else "Rollout log")
    return {
        "title": name,
        "subtitle": _subtitle(evidence),
        "facts": [plain(fact) for fact in facts_of(evidence, findings)],
        "notes": [*notes, *_notes(evidence)],
        "findings": [plain(finding) for finding in findings],
        "curves": [plain(curve) for curve in curves],
        "groups": groups,
        "groups_note": groups_note,
        "prompts": _prompt_texts(evidence, findings),
        "length_unit": evidence.length_unit,
        "footer": FOOTER,
    }


def facts_of(evidence: Evidence, findings: Sequence[Finding]) -> list[Fact]:
    """The figures at the head of the page."""
    by_name = {finding.name: finding for finding in findings}
    prompts = len(evidence.prompts)
    facts = [Fact("Prompts", float(prompts))]
    if evidence.log.kind == "rollouts":
        rollouts = int(evidence.groups.get_column("size").sum())
        sizes = sorted(evidence.shared.get_column("n").unique().to_list())
        note = f"of {sizes[0]} to {sizes[-1]}" if len(sizes) > 1 else f"of {sizes[0]}" if sizes else ""
        facts = [
            Fact("Rollouts", float(rollouts), note=f"{prompts:,} prompts"),
            Fact("Groups", float(len(evidence.groups)), note=note),
        ]
    if evidence.judged:
        k, n = (int(evidence.counts.get_column(column).sum()) for column in ("k", "n"))
        facts.append(Fact("Right", k / n if n else None, "share", "of judged rollouts"))
    for key, label in (("silent_share", "Silent groups"), ("silent_tokens", "Silent tokens"), ("sigma", "Mean σ̂")):
        finding = by_name.get(key)
        if finding is not None and not finding.withheld:
            facts.append(Fact(label, finding.value, finding.unit if finding.unit == "share" else ""))
    expected = by_name.get("expected_silence")
    if evidence.log.kind == "rates" and expected is not None and not expected.withheld:
        facts.append(Fact("Silent at G = 8", expected.value, "share", "expected"))
    return facts


def render(data: Mapping[str, Any]) -> str:
    """The HTML text of `page_data`."""
    folder = files("onedial.analysis.page")
    style, script = ((folder / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{_title(str(data['title']))}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f'<script type="application/json" id="data">{_json(data)}</script>\n'
        "<noscript>This page draws its plots with the script inside it; allow scripts for this file.</noscript>\n"
        f"<script>{script}</script>\n</body>\n</html>\n"
    )


def _json(data: Mapping[str, Any]) -> str:
    text = json.dumps(_escape_all(data), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _escape_all(value: Any) -> Any:
    if isinstance(value, str):
        return escape_control(value)
    if isinstance(value, Mapping):
        return {escape_control(str(key)): _escape_all(item) for key, item in value.items()}
    return [_escape_all(item) for item in value] if isinstance(value, list | tuple) else value


def _title(text: str) -> str:
    text = escape_control(text).replace("\n", " ")
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _subtitle(evidence: Evidence) -> str:
    log = evidence.log
    files_read = f" · {len(log.files)} files" if len(log.files) > 1 else ""
    return f"format: {log.format}{files_read} · right answers: {evidence.marks.rule}"


def _notes(evidence: Evidence) -> list[str]:
    log = evidence.log
    notes = list(log.coverage.notes)
    if log.coverage.reward_is:
        notes.append(f"Outcome reward: {log.coverage.reward_is}.")
    if evidence.evaluation_rows:
        notes.append(f"{evidence.evaluation_rows:,} evaluation rows were set aside.")
    if log.broken_lines:
        first = log.broken[0] if log.broken else None
        where = f" (first: {first.file}, line {first.line}: {first.reason})" if first else ""
        notes.append(f"{log.broken_lines:,} broken lines were left out{where}.")
    return notes


def _prompt_texts(evidence: Evidence, findings: Sequence[Finding]) -> dict[str, dict[str, Any]]:
    """Text and counts of the prompts that a click can list."""
    keys = list(dict.fromkeys(key for f in findings for plot in f.plots for part in plot.members for key in part))
    keys = keys[:MOST_LISTED]
    text = texts_of(evidence.log, keys, limit=240)
    rows = evidence.prompts.filter(evidence.prompts.get_column("prompt_id").is_in(keys)).select("prompt_id", "k", "n")
    return {key: {"k": k, "n": n, "text": text.get(key, "")} for key, k, n in rows.iter_rows()}
