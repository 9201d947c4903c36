"""Findings on logs. Oracles: counting in plain Python over the rows, hand values, simulations with a known truth."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from findings_logs import all_findings, rate_log, rollout_log, simulated
from onedial.analysis import analyze
from onedial.analysis.findings import Finding, collect, silent_row
from onedial.analysis.findings.intervals import discoveries
from onedial.analysis.findings.replay import CoefficientCells, coefficient, replay_rows
from onedial.analysis.logs.schema import Coverage, Log
from onedial.core.errors import DataError

DATA = Path(__file__).parents[1].parent / "shared" / "data"


def by_name(log: Log, **options: Any) -> dict[str, Finding]:
    return {finding.name: finding for finding in all_findings(log, **options)}


def plain_groups(log: Log) -> dict[str, list[dict[str, Any]]]:
    """Rows by group, in plain Python: the independent way."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in log.frame.collect().iter_rows(named=True):
        groups[row["group_id"]].append(row)
    return groups


@pytest.fixture(scope="module")
def log() -> Log:
    return simulated(np.random.default_rng(1).beta(0.6, 0.9, 80), iterations=4, growth=0.04)


@pytest.fixture(scope="module")
def found(log: Log) -> dict[str, Finding]:
    return by_name(log, price=2.0, seconds=100.0)


def test_silent_share_and_tokens_are_the_plain_count(log: Log, found: dict[str, Finding]) -> None:
    groups = plain_groups(log)
    rewards = {key: [row["outcome_reward"] for row in rows] for key, rows in groups.items()}
    silent = {key for key, values in rewards.items() if min(values) == max(values)}
    right = sum(values[0] == 1.0 for key, values in rewards.items() if key in silent)
    assert found["silent_share"].value == pytest.approx(len(silent) / len(groups), abs=1e-12)
    bars = found["silent_share"].plots[0]
    assert bars.series[bars.x.index("all correct")].y[bars.x.index("all correct")] == pytest.approx(right / len(groups))
    tokens = {key: sum(row["completion_tokens"] for row in rows) for key, rows in groups.items()}
    share = sum(tokens[key] for key in silent) / sum(tokens.values())
    assert found["silent_tokens"].value == pytest.approx(share, abs=1e-12)
    money, time = found["silent_tokens"].tables[0].rows[1:]
    assert money[2] == pytest.approx(2e-6 * sum(tokens[key] for key in silent))
    assert time[2] == pytest.approx(100 * share)


def test_mean_sigma_is_numpy_std_per_group(log: Log, found: dict[str, Finding]) -> None:
    sigmas = [np.std([row["outcome_reward"] for row in rows]) for rows in plain_groups(log).values()]
    assert found["sigma"].value == pytest.approx(float(np.mean(sigmas)), abs=1e-12)


def test_shaping_leak_is_the_plain_count(log: Log, found: dict[str, Finding]) -> None:
    leaks = sum(
        len({row["outcome_reward"] for row in rows}) == 1 and len({row["shaped_reward"] for row in rows}) > 1
        for rows in plain_groups(log).values()
    )
    assert leaks > 0
    assert found["shaping_leak"].value == pytest.approx(leaks / len(plain_groups(log)), abs=1e-12)


def test_length_truncation_and_duplicates_are_the_plain_counts(log: Log, found: dict[str, Finding]) -> None:
    groups = plain_groups(log).values()
    mixed = [rows for rows in groups if len({row["correct"] for row in rows}) == 2]
    means = [
        [np.mean([row["completion_tokens"] for row in rows if row["correct"] == side]) for side in (False, True)]
        for rows in mixed
    ]
    wrong, right = np.sum(means, axis=0)
    assert found["length_bias"].value == pytest.approx(wrong / right, rel=1e-12)
    rows = [row for group in groups for row in group]
    assert found["truncation"].value == pytest.approx(sum(row["truncated"] for row in rows) / len(rows))
    repeats = sum(len(group) - len({row["completion"] for row in group}) for group in groups)
    assert found["duplicate_answers"].value == pytest.approx(repeats / len(rows))


def test_drift_is_last_third_minus_first(found: dict[str, Finding], log: Log) -> None:
    sides: dict[int, list[bool]] = {0: [], 2: []}
    for rows in plain_groups(log).values():
        third = (rows[0]["iteration"] - 1) * 3 // 4  # iterations 1, 2 | 3 | 4
        if third in sides:
            sides[third].append(all(row["correct"] for row in rows))
    assert found["drift"].value == pytest.approx(np.mean(sides[2]) - np.mean(sides[0]), abs=1e-12)
    interval = found["drift"].interval
    assert interval is not None and interval[0] < found["drift"].value < interval[1]  # type: ignore[operator]


def test_never_and_always_solved(found: dict[str, Finding], log: Log) -> None:
    verdicts: dict[str, list[bool]] = defaultdict(list)
    for row in log.frame.collect().iter_rows(named=True):
        verdicts[row["prompt_id"]].append(row["correct"])
    assert found["never_solved"].value == pytest.approx(np.mean([not any(v) for v in verdicts.values()]))
    assert found["always_solved"].value == pytest.approx(np.mean([all(v) for v in verdicts.values()]))


def test_every_finding_explains_itself_and_is_json(found: dict[str, Finding]) -> None:
    assert len(found) == 15
    for finding in found.values():
        assert finding.definition and finding.why and finding.headline
        assert finding.withheld or finding.value is not None
        assert not finding.what_to_do.startswith("Nothing")
        json.dumps(finding.to_json(), allow_nan=False)
        for plot in finding.plots:
            assert plot.title and plot.x_label and plot.y_label
            assert all(len(series.y) == len(plot.x) for series in plot.series)
            assert not plot.members or len(plot.members) == len(plot.x)


def test_constant_neither_right_nor_wrong() -> None:
    rows = [
        {"prompt_id": f"p{g}", "group_id": f"g{g}", "outcome_reward": reward}
        for g, rewards in enumerate([[0.3, 0.3], [1.0, 1.0], [0.0, 0.0], [0.0, 1.0], [0.95] * 8])
        for reward in rewards
    ]
    finding = by_name(rollout_log(rows))["silent_share"]
    kinds = finding.plots[0]
    shares = {name: kinds.series[i].y[i] for i, name in enumerate(kinds.x)}
    # hand count; .95 eight times has a floating-point std above 0, and is silent all the same
    assert shares == pytest.approx({"mixed": 0.2, "all correct": 0.2, "all wrong": 0.2, "other": 0.4})


def test_unusable_rollouts_leave_their_group() -> None:
    verdicts = [("correct", 1.0), ("timeout", None), ("error", None), ("correct", 1.0), ("wrong", float("nan"))]
    rows = [
        {"prompt_id": "p", "group_id": "g", "outcome": outcome, "outcome_reward": reward}
        for outcome, reward in verdicts
    ]
    rows += [{"prompt_id": "q", "group_id": "h", "outcome": "wrong", "outcome_reward": 0.0}] * 2
    found = by_name(rollout_log(rows))
    assert found["unusable_share"].value == pytest.approx(3 / 7)
    assert found["silent_share"].value == 1.0  # two rights are unanimous, whatever timed out beside them


def test_survivors_only_withholds_what_it_cannot_show() -> None:
    found = by_name(simulated([0.3, 0.5, 0.7] * 20, survivors=True))
    for name in ("silent_share", "silent_tokens", "solve_rates", "expected_silence", "never_solved", "sigma", "drift"):
        assert found[name].withheld and found[name].value is None
    assert "survived" in found["silent_share"].withheld
    assert found["truncation"].value is not None  # a share of what is there can be given
    assert [bool(f.withheld) for f in all_findings(simulated([0.5] * 9, survivors=True))] == sorted(
        bool(f.withheld) for f in found.values()
    )


def test_rates_have_no_groups() -> None:
    found = by_name(rate_log([0, 4, 8], [8, 8, 8]))
    assert found["silent_share"].withheld and found["solve_rates"].value is not None


def test_rates_without_counts_are_withheld() -> None:
    log = rate_log([1, 2], [2, 2])
    log = Log("rates", log.frame.with_columns(k=None, n=None), "rates")
    # the published extreme weight is taken at the rates as they stand and needs no number of tries
    assert [finding.name for finding in all_findings(log) if not finding.withheld] == ["extreme_weight"]


def test_evaluation_rows_are_set_aside() -> None:
    row = {"prompt_id": "p", "group_id": "g", "outcome_reward": 1.0, "split": "train"}
    rows = [row, row | {"outcome_reward": 0.0}, row | {"split": "eval", "group_id": "e"}]
    analysis = analyze(rollout_log(rows))
    assert analysis.splits == {"eval": 1, "train": 2} and len(analysis.tables.groups) == 1
    assert "1 evaluation rows are set aside" in " ".join(analysis.log.coverage.notes)
    assert analyze(rollout_log(rows), split="all").figures["groups"] == 2


def test_empty_log_is_one_clear_error() -> None:
    log = rollout_log([{"prompt_id": "p", "group_id": "g", "outcome_reward": 1.0}])
    empty = Log("rollouts", log.frame.filter(False), "test")
    with pytest.raises(DataError, match="holds no rollout"):
        collect(empty)
    assert analyze(empty).findings == () and analyze(empty).figures["rollouts"] == 0


def test_graded_rewards_withhold_solve_rates() -> None:
    rows = [{"prompt_id": "p", "group_id": "g", "outcome_reward": float(r)} for r in (-3, 0.2, 5, 7)]
    found = by_name(rollout_log(rows, coverage=Coverage()))
    assert found["solve_rates"].withheld and found["silent_share"].value == 0.0


def answered(prompts: int, planted: set[int], agree: float, seed: int = 0) -> Log:
    """Half the prompts are solved half the time, half never; a wrong answer is its prompt's slip with chance `agree`,
    else one of a thousand; the planted prompts' answers are all one."""
    rng = np.random.default_rng(seed)
    rows = []
    for prompt in range(prompts):
        for index in range(12):
            right = prompt % 2 == 0 and index % 2 == 0
            slip = prompt in planted or rng.random() < agree
            said = "7" if right else "42" if slip else str(1000 + rng.integers(1000))
            rows.append(
                {"prompt_id": f"p{prompt}", "group_id": f"g{prompt}", "outcome_reward": float(right), "answer": "7",
                 "parsed_answer": said, "prompt": f"prompt {prompt}"}
            )  # fmt: skip
    return rollout_log(rows)


def test_suspicious_finds_planted_wrong_labels() -> None:
    finding = by_name(answered(100, {3, 11}, 0.1))["suspicious_prompts"]
    assert {row[0] for row in finding.tables[0].rows} == {"p3", "p11"}  # planted; scattered errors are not named
    assert finding.value == 2.0 and "0.2 of them would by chance" in finding.headline


def test_errors_in_one_voice_are_not_taken_for_wrong_labels() -> None:
    """Invariance: where all wrong answers agree, on confirmed prompts too, agreement says nothing."""
    for agree in (0.85, 1.0):
        assert by_name(answered(200, set(), agree))["suspicious_prompts"].value == 0.0
    finding = by_name(answered(30, {3, 11}, 0.1))["suspicious_prompts"]
    assert finding.value == 0.0 and "only 15 prompts" in finding.headline


def test_false_discoveries_are_as_many_as_said() -> None:
    """Simulation: 40 of 400 hypotheses are real; of those named, a tenth at most is not. Four p-values by hand."""
    assert list(discoveries(np.array([0.03, 0.9, 0.001, 0.04]), 0.1)) == [True, False, True, True]
    assert list(discoveries(np.array([0.03, 0.9, 0.001, 0.04]), 0.1, tried=10)) == [False, False, True, False]
    rng, false, named = np.random.default_rng(0), 0.0, 0
    for _ in range(200):
        chances = rng.random(400)
        chances[:40] *= 1e-4
        found = discoveries(chances, 0.1)
        named += int(found[:40].sum())
        false += found[40:].sum() / max(1, found.sum())
    assert false / 200 <= 0.1 and named >= 0.99 * 8000


def test_replayed_coefficients_are_numpy_advantages() -> None:
    # oracle: the gradient of a two-class score, (1/n) Σ A_i s_i with s = ±½, computed from each row's own advantages
    from onedial.core.algorithm_table import ALGORITHMS

    for label, cells in replay_rows().items():
        name = label.split(", ")[0]
        for k, n in [(1, 8), (4, 8), (3, 5), (0, 4), (6, 6)]:
            rewards = np.array([1.0] * k + [0.0] * (n - k))
            dial, loo, ddof = cells
            if name in ALGORITHMS:
                row = ALGORITHMS[name]
                dial, loo, ddof = row.dial, row.baseline == "leave_one_out", row.ddof
            base = (rewards.sum() - rewards) / (n - 1) if loo else rewards.mean()
            spread = rewards.std(ddof=ddof)
            advantage = (rewards - base) / (spread**dial if spread else 1.0)
            expected = float((advantage * (rewards - 0.5)).mean())
            assert float(coefficient(np.array(float(k)), np.array(float(n)), cells)) == pytest.approx(
                expected, abs=1e-12
            )


def test_weights_sum_to_one_and_the_dial_data_reproduce_the_shown_bars(found: dict[str, Finding]) -> None:
    finding = found["algorithm_weights"]
    for row in finding.tables[0].rows:
        if "low" not in str(row[0]) and "high" not in str(row[0]):
            assert sum(row[1:]) == pytest.approx(1.0)  # type: ignore[arg-type]
    plot = finding.plots[0]
    counts, sigma = np.array(plot.extra["counts"]), np.array(plot.extra["sigma"])
    replay = counts @ sigma  # α = 1
    assert replay / replay.sum() == pytest.approx(plot.series[0].y, abs=2e-4)  # σ̂ is kept to three digits


def test_coefficient_hand_values() -> None:
    assert float(coefficient(np.array(2.0), np.array(4.0), CoefficientCells(0.0))) == pytest.approx(0.25)
    assert float(coefficient(np.array(1.0), np.array(4.0), CoefficientCells(2.0))) == 1.0


def test_silent_row_on_real_rates_is_plain_python() -> None:
    """The computation of Big-Math's published row, on the solve rates at hand."""
    path = DATA / "deepscaler_solve_rate128.jsonl"
    if not path.is_file():
        pytest.skip("shared/data/deepscaler_solve_rate128.jsonl is not here")
    rates = [json.loads(line)["n_correct"] / 128 for line in path.read_text(encoding="utf-8").splitlines()]
    row = silent_row(np.array(rates))
    for size in (4, 8, 16, 32, 64):
        total = 0.0
        for rate in rates:
            total += rate**size + (1 - rate) ** size
        assert row[size] == pytest.approx(total / len(rates), rel=1e-12)


def test_big_math_published_row_where_the_table_is_at_hand() -> None:
    """Published: 59, 44, 32, 23, 17 per cent at G = 4 … 64 over 215,608 prompts."""
    path = DATA / "bigmath_rates.parquet"
    if not path.is_file():
        pytest.skip("the whole of open-r1/Big-Math-RL-Verified-Processed is not here (bigmath_rates.parquet)")
    import polars as pl

    rates = pl.read_parquet(path).get_column("llama8b_solve_rate").drop_nulls().to_numpy()
    assert [round(100 * share) for share in silent_row(rates).values()] == [59, 44, 32, 23, 17]


def test_advice_says_no_more_than_was_computed() -> None:
    """A rise whose interval holds 0 gives no advice; a kind that is half of the silent groups is not most of them."""
    unsure = by_name(simulated([0.2, 0.5, 0.8] * 2, iterations=4, growth=0.05, seed=3))["drift"]
    assert unsure.interval is not None and unsure.interval[0] <= 0 and not unsure.what_to_do
    rows = [
        {"prompt_id": f"p{g}", "group_id": f"g{g}", "outcome_reward": float(g % 2)} for g in range(20) for _ in range(3)
    ]
    assert by_name(rollout_log(rows))["silent_share"].what_to_do.startswith("Many silent groups are all wrong")
    assert by_name(rollout_log(rows[3:]))["silent_share"].what_to_do.startswith("Most silent groups are all correct")
