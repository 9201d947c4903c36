"""The change over a run. Oracles: a count by hand over ragged iterations, closed forms of runs, size and power."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from findings_logs import rollout_log
from onedial.analysis.findings import collect, drift
from onedial.analysis.logs.schema import ROLLOUT_COLUMNS, Coverage, Log, cast_to_schema


def run_of(rng: np.random.Generator, rates: np.ndarray, gain: float, *, steps: int = 9, size: int = 4) -> Log:
    """Every prompt once in each of `steps` iterations, its rate going from p to p + gain·(1 − p) on a straight line."""
    prompts = len(rates)
    part = np.repeat(np.arange(steps) / (steps - 1), prompts)
    rate = np.tile(rates, steps)
    right = rng.random((steps * prompts, size)) < (rate + gain * part * (1 - rate))[:, None]
    frame = pl.DataFrame({
        "iteration": np.repeat(np.arange(steps), prompts * size) + 1,
        "prompt_id": np.repeat(np.tile(np.arange(prompts), steps), size),
        "group_id": np.repeat(np.arange(steps * prompts), size),
        "outcome_reward": right.ravel().astype(float),
    })  # fmt: skip
    missing = {name: f"these rows have no {name}" for name in ROLLOUT_COLUMNS if name not in frame.columns}
    coverage = Coverage(survivors_only=False)
    return Log("rollouts", cast_to_schema(frame.lazy(), ROLLOUT_COLUMNS), "test", missing=missing, coverage=coverage)


def true_change(gain: float, *, steps: int = 9, size: int = 4) -> float:
    """E[p_t^size] over the last third minus the first, for p uniform at the start."""
    p = (np.arange(4000) + 0.5) / 4000
    each = [float(((p + gain * t / (steps - 1) * (1 - p)) ** size).mean()) for t in range(steps)]
    return float(np.mean(each[-(steps // 3) :]) - np.mean(each[: steps // 3]))


def found_in(log: Log) -> tuple[float, tuple[float, float]]:
    finding = drift(collect(log))
    assert finding.value is not None and finding.interval is not None
    return finding.value, finding.interval


def test_the_count_by_hand_over_iterations_of_unequal_size() -> None:
    # thirds of the seven iterations 10, 20, …, 70 are 10–30, 40–50, 60–70; groups count alike, not iterations
    right = {10: [1], 20: [0, 0], 30: [0], 40: [1, 1, 1], 50: [1], 60: [1, 0, 1], 70: [0, 1]}
    rows: list[dict[str, Any]] = []
    for step, groups in right.items():
        for number, all_right in enumerate(groups):
            key = {"iteration": step, "prompt_id": f"p{number}", "group_id": f"{step}-{number}"}
            rows += [{**key, "outcome_reward": 1.0}, {**key, "outcome_reward": float(all_right)}]
    rng = np.random.default_rng(0)
    shuffled = [rows[i] for i in rng.permutation(len(rows))]
    for log in (rollout_log(rows, coverage=Coverage()), rollout_log(shuffled, coverage=Coverage())):
        finding = drift(collect(log))
        assert finding.value == pytest.approx(3 / 5 - 1 / 4)
        assert "25 % in the first third to 60 % in the last" in finding.headline


@pytest.mark.parametrize(("gain", "draws"), [(0.0, 60), (0.6, 60)])
def test_the_interval_holds_the_change_and_tells_it_from_none(gain: float, draws: int) -> None:
    """Simulation, 40 prompts: size without a change, power with one, coverage and bias in both."""
    truth, held, apart, values = true_change(gain), 0, 0, []
    for seed in range(draws):
        rng = np.random.default_rng(seed)
        value, (low, high) = found_in(run_of(rng, rng.random(40), gain))
        held += low <= truth <= high
        apart += not low <= 0 <= high
        values.append(value)
    assert held >= 0.85 * draws  # fewer than 51 of 60 has a chance below one in a thousand at 95 %
    assert np.mean(values) == pytest.approx(truth, abs=4 * np.std(values) / draws**0.5)
    assert apart <= 0.15 * draws if gain == 0 else apart >= 0.9 * draws
    if gain:
        assert truth > 0.15, "a change worth finding"


def test_a_run_backwards_has_the_opposite_change() -> None:
    rng = np.random.default_rng(4)
    log = run_of(rng, rng.random(40), 0.4)
    back = log.frame.with_columns(iteration=10 - pl.col("iteration"))
    value, (low, high) = found_in(log)
    again, (less, more) = found_in(Log("rollouts", back, "test", missing=log.missing, coverage=log.coverage))
    assert again == pytest.approx(-value) and (less, more) == pytest.approx((-high, -low), abs=0.01)


def test_few_iterations_have_no_change() -> None:
    rng = np.random.default_rng(5)
    assert "fewer than three" in drift(collect(run_of(rng, rng.random(20), 0.2, steps=2))).withheld
