"""The sentences of docs/experiments.md about allocators, computed again from the committed runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

ROOT = Path(__file__).parents[1]
RUNS: list[dict[str, Any]] = json.loads((ROOT / "benchmarks" / "allocators.json").read_text())["runs"]
TEXT = (
    (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8").partition("## Fewer tokens")[2].partition("\n## ")[0]
)
PLAIN = " ".join(TEXT.split())


def find_run(arm: str, seed: int) -> dict[str, Any]:
    (run,) = (run for run in RUNS if (run["arm"], run["seed"]) == (arm, seed))
    return run


def tokens_to(arm: str, seed: int, target: float) -> int | None:
    return next((point["tokens"] for point in find_run(arm, seed)["points"] if point["avg"] >= target), None)


def test_the_table_is_that_of_the_runs() -> None:
    for seed in (0, 1, 2):
        early = [tokens_to(arm, seed, 0.75) for arm in ("dynamic", "adaptive")]
        late = [tokens_to(arm, seed, 0.80) for arm in ("dynamic", "adaptive")]
        last = find_run("adaptive", seed)["points"][-1]["tokens"]
        cells = [f"{value:,}" if value else f"not within {last:,}" for value in (*early, *late)]
        assert early[0] and early[1]
        assert (
            "| ".join(
                [f"| {seed} ", *(f"{c} " for c in (*cells[:2], f"{early[0] / early[1]:.2f}", *cells[2:])), ""]
            ).rstrip()
            in TEXT
        )


def test_the_ratio_and_its_interval() -> None:
    """Oracle: scipy's Student interval of the mean of the logarithms."""
    ratios = [tokens_to("dynamic", seed, 0.75) / tokens_to("adaptive", seed, 0.75) for seed in (0, 1, 2)]  # type: ignore[operator]
    logs = np.log(ratios)
    low, high = np.exp(stats.t.interval(0.95, 2, loc=logs.mean(), scale=stats.sem(logs)))
    told = f"generates {np.exp(logs.mean()):.2f} times the tokens (95 % over three pairs: {low:.2f} to {high:.2f})"
    assert told in PLAIN


def test_shares_and_ends() -> None:
    for arm, pattern in (
        ("dynamic", r"(\d+) to (\d+) % of its tokens were silent"),
        ("adaptive", r"silent, (\d+) to (\d+) %"),
    ):
        shares = [100 * find_run(arm, seed)["silent_token_share"] for seed in (0, 1, 2)]
        found = re.search(pattern, PLAIN)
        assert found and [round(min(shares)), round(max(shares))] == [int(found[1]), int(found[2])], arm
        ends = [round(100 * find_run(arm, seed)["points"][-1]["avg"]) for seed in (0, 1, 2)]
        assert f"at {ends[0]}, {ends[1]} and {ends[2]} %" in PLAIN, arm


def test_what_was_tried_before() -> None:
    many = [point["avg"] for point in find_run("adaptive, 1,024 candidates", 0)["points"]]
    assert [round(100 * value) for value in (many[3], many[4], max(many))] == [67, 53, 78] and min(many[4:]) > 0.53
    posterior = [point["avg"] for point in find_run("posterior, adaptive, 1,024 candidates", 0)["points"]]
    assert round(100 * max(posterior)) == 72 and round(100 * posterior[-1]) == 53
    some = find_run("adaptive, 48 candidates", 0)["points"][-1]
    assert round(100 * some["avg"]) == 74 and round(some["tokens"], -3) == 20_000
