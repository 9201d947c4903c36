"""Figures as a table for a terminal of 80 columns, and as a page of the documentation."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, groupby
from statistics import median
from typing import Any

from onedial.evidence.bench.figure import Figure, Point

WIDTH = 80
COMMAND = "onedial bench all --write docs/performance.md"


def format_number(value: float) -> str:
    """Three significant digits, without an exponent."""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{digits}f}"


def format_range(series: Sequence[float]) -> str:
    """Smallest to largest."""
    return f"{format_number(min(series))}–{format_number(max(series))}"


def format_ratio(figure: Figure) -> str:
    """A share in per cent, a comparison as a multiple."""
    if figure.ratio is None:
        return "not measured"
    return f"{100 * figure.ratio:.1f} %" if figure.unit == "GFLOP/s" else f"{figure.ratio:.2f}×"


HEADING = f"{'figure':26}{'unit':9}{'ours':>10}{'other':>10}{'ratio':>12}  of"


def text_lines(figures: Iterable[Figure], points: Iterable[Point], conditions: Mapping[str, Any]) -> Iterator[str]:
    """The lines of the result, at most 80 columns wide, each as soon as its figure or point is there."""
    yield from textwrap.wrap(", ".join(f"{key} {value}" for key, value in conditions.items()), WIDTH)
    for place, figure in enumerate(figures):
        yield from ("", HEADING) if place == 0 else ()
        yield from _rows(figure)
    for name, group in groupby(points, key=lambda point: point.curve):
        yield from ("", f"{name:26}{'tokens/s':>10}{'µs/token':>12}")
        for point in group:
            yield f"{point.at:26,}{format_number(point.tokens_per_s):>10}{format_number(point.us_per_token):>12}"


def json_lines(figures: Iterable[Figure], points: Iterable[Point], conditions: Mapping[str, Any]) -> Iterator[str]:
    """A list of JSON objects, each printed as soon as its figure or point is there."""
    before, items = "[", chain[Figure | Point](figures, points)
    for item in items:
        yield before + json.dumps(item.to_json() | {"conditions": dict(conditions)}, ensure_ascii=False)
        before = ","
    yield "]" if before == "," else "[]"


def _rows(figure: Figure) -> list[str]:
    if figure.ratio is None:
        return [f"{figure.figure:26}not measured", *_hang(figure.reason)]
    own, other = format_number(median(figure.ours)), format_number(median(figure.other))
    first = f"{figure.figure:26}{figure.unit:9}{own:>10}{other:>10}{format_ratio(figure):>12}"
    ratios = [100 * value for value in figure.ratios] if figure.unit == "GFLOP/s" else figure.ratios
    ranges = f"ours {format_range(figure.ours)}, other {format_range(figure.other)}, ratio {format_range(ratios)}"
    return [first, *_hang(f"against {figure.other_name}; {ranges}; {figure.workload}")]


def _hang(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="  ")


def format_page(
    figures: Sequence[Figure], points: Sequence[Point], conditions: Mapping[str, Any], *, whole: bool = True
) -> str:
    """`docs/performance.md`; it says so if the measurement ended early."""
    lines = [
        "# Performance",
        "",
        f"Written by `{COMMAND}`; run it on your machine to get your own. Every figure's sides were measured in turn",
        "(the machine's matrix product, ours, the other, and again), after a turn that is not counted. Values are",
        "medians, with the smallest and the largest in brackets; a ratio above 1 means that ours is better.",
        "",
        *(() if whole else ("**The measurement was interrupted; this is what it had so far.**", "")),
        "| condition | |",
        "|---|---|",
        *(f"| {key.replace('_', ' ')} | {value} |" for key, value in conditions.items()),
        "",
        "| figure | ours | other | ratio | work |",
        "|---|---|---|---|---|",
        *map(_page_row, figures),
    ]
    missing = [figure for figure in figures if not figure.measured]
    lines += ["", *(f"Not measured: `{figure.figure}`: {figure.reason}." for figure in missing)] if missing else []
    if points:
        lines += ["", "## Scaling", "", "Ours alone: tokens a second, and what a token costs, as one quantity grows."]
    for name, group in groupby(points, key=lambda point: point.curve):
        axis = name.partition("_")[2].replace("_", ", ", 1).replace("_", " ")
        lines += ["", f"| {axis} | tokens/s | µs per token | work |", "|---|---|---|---|"]
        lines += [
            f"| {p.at:,} | {format_number(p.tokens_per_s)} | {format_number(p.us_per_token)} | {p.workload} |"
            for p in group
        ]
    return "\n".join(lines) + "\n"


def _page_row(figure: Figure) -> str:
    if figure.ratio is None:
        return f"| `{figure.figure}` | – | {figure.other_name} | not measured | {figure.workload} |"
    own = f"{format_number(median(figure.ours))} {figure.unit} ({format_range(figure.ours)})"
    other = f"{figure.other_name}: {format_number(median(figure.other))} {figure.unit} ({format_range(figure.other)})"
    ratios = [100 * value for value in figure.ratios] if figure.unit == "GFLOP/s" else figure.ratios
    return (
        f"| `{figure.figure}` | {own} | {other} | {format_ratio(figure)} ({format_range(ratios)}) | {figure.workload} |"
    )
