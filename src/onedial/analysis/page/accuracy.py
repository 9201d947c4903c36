"""Held-out accuracy of an onedial run: `eval.jsonl` as plots of avg@k, pass@k and maj@k with 95 % bands.

A record is what `Evaluation.to_json` gives: `avg` is {value, low, high, prompts}; `pass_at` and `maj_at` hold one of
these per k, and `levels` one per difficulty level.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from onedial.analysis.findings.finding import Plot, Series
from onedial.analysis.page.run_records import read_run_records, to_finite_number

MOST_LEVELS = 6
LEVEL_ROLES = ("plain", "alt", "third", "fourth", "fifth", "sixth")
SECTION = {"section": "heldout"}  # where the page puts these plots
BAND = "band: 95 % interval over the held-out prompts"


class Share(NamedTuple):
    """An accuracy with its 95 % interval."""

    value: float
    low: float
    high: float


def plot_heldout(folder: Path) -> tuple[list[Plot], list[str]]:
    """The plots of a run's evaluations, and notes on records that could not be used. Both empty without any."""
    records, notes = read_run_records(folder / "eval.jsonl")
    usable = [record for record in records if read_share(record.get("avg")) is not None]
    if lost := len(records) - len(usable):
        notes.append(f"eval.jsonl: {lost:,} record{'s' * (lost > 1)} left out that hold no accuracy (avg).")
    if not usable:
        return [], notes
    unjudged = sum(int(to_finite_number(record.get("unusable")) or 0) for record in usable)
    if unjudged:
        notes.append(f"{unjudged:,} held-out completions got no verdict; they are in no accuracy.")
    plots = [_over_iterations(usable), _over_k(usable), _by_level(usable)]
    return [plot for plot in plots if plot is not None], notes


def read_share(value: Any) -> Share | None:
    """The accuracy in {value, low, high}; None unless it lies in [0, 1] and inside its own interval."""
    if not isinstance(value, Mapping):
        return None
    numbers = [to_finite_number(value.get(name)) for name in ("value", "low", "high")]
    if any(number is None or not 0 <= number <= 1 for number in numbers):
        return None
    mean, low, high = (float(number) for number in numbers if number is not None)
    slack = 1e-9  # the value and its bounds are computed by different sums
    return Share(mean, min(low, mean), max(high, mean)) if low - slack <= mean <= high + slack else None


def _over_iterations(records: Sequence[Mapping[str, Any]]) -> Plot:
    """avg@k over the iterations, with pass@k and maj@k at the largest k that every evaluation has."""
    samples = {int(to_finite_number(record.get("samples")) or 0) for record in records}
    name = f"avg@{samples.pop()}" if len(samples) == 1 else "avg"
    series = [_series(name, "plain", [read_share(record.get("avg")) for record in records])]
    for field, word, role in (("pass_at", "pass", "alt"), ("maj_at", "maj", "third")):
        common = [k for k in _ks(records, field) if all(_at(record, field, k) for record in records)]
        if common and common[-1] > 1:
            shares = [_at(record, field, common[-1]) for record in records]
            series.append(_series(f"{word}@{common[-1]}", role, shares))
    x = tuple(record["iteration"] for record in records)
    return Plot("line", "Held-out accuracy", "iteration", "accuracy", x, tuple(series), note=BAND, extra=SECTION)


def _over_k(records: Sequence[Mapping[str, Any]]) -> Plot | None:
    """pass@k and maj@k over k, of the first and of the last evaluation; None if there is only one k."""
    ends = [records[-1]] if len(records) == 1 else [records[0], records[-1]]
    ks = sorted({k for field in ("pass_at", "maj_at") for k in _ks(ends, field)})
    if len(ks) < 2:
        return None
    series = []
    for field, word, role in (("pass_at", "pass@k", "alt"), ("maj_at", "maj@k", "third")):
        for record in ends:
            shares = [_at(record, field, k) for k in ks]
            if any(shares):
                name = f"{word}, iteration {record['iteration']:g}"
                series.append(_series(name, role if record is ends[-1] else f"{role}-first", shares))
    title = "Held-out pass@k and maj@k by the number of samples"
    x = tuple(float(k) for k in ks)
    return Plot("line", title, "samples k", "accuracy", x, tuple(series), log_x=True, note=BAND, extra=SECTION)


def _by_level(records: Sequence[Mapping[str, Any]]) -> Plot | None:
    """avg@k by difficulty level over the iterations; None with fewer than two levels."""
    names = list(dict.fromkeys(str(name) for record in records for name in _mapping(record, "levels")))
    if len(names) < 2:
        return None
    shown = names[:MOST_LEVELS]
    series = tuple(
        _series(f"level {name}", role, [read_share(_mapping(record, "levels").get(name)) for record in records])
        for name, role in zip(shown, LEVEL_ROLES, strict=False)
    )
    more = f"; {len(names) - len(shown)} more levels are not drawn" if len(names) > len(shown) else ""
    x = tuple(record["iteration"] for record in records)
    return Plot(
        "line", "Held-out accuracy by level", "iteration", "accuracy", x, series, note=BAND + more, extra=SECTION
    )


def _mapping(record: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    found = record.get(field)
    return found if isinstance(found, Mapping) else {}


def _ks(records: Sequence[Mapping[str, Any]], field: str) -> list[int]:
    names = {name for record in records for name in _mapping(record, field)}
    return sorted(int(name) for name in names if name.isascii() and name.isdigit() and len(name) < 10)


def _at(record: Mapping[str, Any], field: str, k: int) -> Share | None:
    return read_share(_mapping(record, field).get(str(k)))


def _series(name: str, role: str, shares: Sequence[Share | None]) -> Series:
    columns = [tuple(None if share is None else share[i] for share in shares) for i in range(3)]
    return Series(name, columns[0], role, columns[1], columns[2])
