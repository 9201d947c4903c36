"""Measures how often each printed 95 % interval holds the truth: `python tools/intervals.py`, about an hour on a core.

Every case draws data from a known truth, reads them as the product does, and compares each interval that comes out
with the value that it is an interval of: a closed form, or the figure of a hundred times as many prompts. The table
goes into docs/decisions/intervals.md; `tests/test_intervals_simulated.py` runs the cases with fewer draws.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.stats import beta, betabinom, binom

from onedial.analysis import analyze
from onedial.analysis.findings import algorithm_weights, collect
from onedial.analysis.findings.difficulty_groups import bin_prompts
from onedial.analysis.findings.finding import Plot, Series
from onedial.analysis.logs.schema import RATE_COLUMNS, ROLLOUT_COLUMNS, Coverage, Log, cast_to_schema
from onedial.analysis.page.curves import add_smoothed_lines
from onedial.analysis.page.group_intervals import add_group_intervals
from onedial.analysis.planning import planner
from onedial.analysis.planning.assumption import compute_saving
from onedial.analysis.planning.backtest import backtest_plan
from onedial.analysis.planning.counts import PromptCounts
from onedial.analysis.planning.strata import Strata
from onedial.core.maths.dispersion import silent_probability
from onedial.core.types import Completion, Group, Prompt, Rollout, Verdict
from onedial.training.evaluation import evaluate_groups

Array = NDArray[np.float64]
Rates = Callable[[np.random.Generator, int], Array]
Interval = tuple[float, float]
Draw = Iterator[tuple[str, Interval, float]]
"""Intervals of one draw: the figure's name, the interval, the truth."""

PAGE = Path(__file__).parents[1] / "docs" / "decisions" / "intervals.md"
START, END = "<!-- coverage: begin -->\n", "<!-- coverage: end -->\n"
MANY = 100  # times the prompts of a draw that stand for the truth

TRUTHS: dict[str, Rates] = {
    "spread": lambda rng, n: rng.beta(0.5, 0.8, n),
    "ends": lambda rng, n: np.where((part := rng.random(n)) < 0.15, 0.0, np.where(part < 0.35, 1.0, rng.random(n))),
    "alike": lambda rng, n: np.full(n, 0.3),
    "hard": lambda rng, n: rng.beta(0.3, 3.0, n),
}


# Logs


def rollout_log(
    rng: np.random.Generator, rates: Array, *, graded: bool = False, longer: float = 1.3, growth: float = 0.04
) -> Log:
    """A log of six iterations in which each prompt is visited one to three times, groups of six rollouts.

    Rates rise by `growth` an iteration; lengths have long tails and are `longer` times as long where an answer is
    wrong; some answers are cut, repeated, or not judged. Some rewards are partial with `graded`.
    """
    visits = rng.integers(1, 4, len(rates))
    prompt = np.repeat(np.arange(len(rates)), visits)
    place = np.arange(len(prompt)) - np.repeat(np.cumsum(visits) - visits, visits)
    step = (rng.integers(0, 6, len(rates))[prompt] + 2 * place) % 6
    group, n = np.repeat(np.arange(len(prompt)), 6), 6 * len(prompt)
    rate = np.clip(rates[prompt] + growth * step * (rates[prompt] > 0), 0, 1)[group]
    right = rng.random(n) < rate
    scale = np.exp(0.6 * rng.standard_normal(len(rates)))[prompt][group]
    length = np.ceil(200 * scale * np.exp(0.6 * rng.standard_normal(n)) * np.where(right, 1.0, longer))
    lost = rng.random(n) < 0.02
    reward = right + (0.5 * (~right & (rng.random(n) < 0.2)) if graded else 0.0)
    frame = pl.DataFrame({
        "split": pl.Series(["train"]).new_from_index(0, n),
        "iteration": step[group] + 1,
        "prompt_id": prompt[group],
        "group_id": group,
        "rollout_index": np.tile(np.arange(6), len(prompt)),
        "outcome": np.where(lost, "timeout", np.where(right, "correct", "wrong")),
        "outcome_reward": reward,
        "shaped_reward": reward - 0.1 * (length > 700),
        "correct": right,
        "completion_tokens": length,
        "truncated": length > 900,
        "completion": np.where(rng.random(n) < 0.3, "the same", np.arange(n).astype(str)),
    })  # fmt: skip
    judged = pl.col("outcome") != "timeout"
    frame = frame.with_columns(pl.when(judged).then(pl.col("outcome_reward", "shaped_reward", "correct")))
    if graded:
        frame = frame.drop("correct")
    missing = {name: f"these rows have no {name}" for name in ROLLOUT_COLUMNS if name not in frame.columns}
    coverage = Coverage(survivors_only=False)
    return Log("rollouts", cast_to_schema(frame.lazy(), ROLLOUT_COLUMNS), "test", missing=missing, coverage=coverage)


def rate_log(rng: np.random.Generator, rates: Array, tries: int) -> Log:
    """A table of solve rates of three epochs."""
    rates = np.clip(rates[:, None] + 0.05 * np.arange(3) * (rates[:, None] > 0), 0, 1).ravel()
    k, prompt = rng.binomial(tries, rates), np.arange(len(rates)) // 3
    frame = pl.DataFrame({"prompt_id": prompt, "iteration": np.arange(len(rates)) % 3 + 1, "k": k, "rate": k / tries})
    frame = frame.with_columns(n=tries)
    missing = {name: f"this table has no {name}" for name in RATE_COLUMNS if name not in frame.columns}
    return Log("rates", cast_to_schema(frame.lazy(), RATE_COLUMNS), "rates", missing=missing)


def printed(log: Log) -> dict[str, tuple[Any, Interval | None]]:
    """Every figure of a log that is printed with an interval: its value and the interval."""
    analysis = analyze(log)
    figures = analysis.figures
    found = {f"finding {f.name}": (f.value, f.interval) for f in analysis.findings if f.interval is not None}
    found["mean_reward"] = figures["mean_reward"], figures.get("mean_reward_interval")
    pairs = [("", figures, figures.get("share_intervals") or {})]
    pairs += [(f"{name}@", figures[of] or {}, figures.get(spans) or {}) for name, of, spans in (
        ("pass", "pass_at_k", "pass_at_k_intervals"),
        ("expected silent", "expected_silent_share", "expected_silent_intervals"),
    ) if of in figures]  # fmt: skip
    if expected := figures.get("expected_groups"):
        pairs.append((f"groups of {expected['size']}: ", expected, expected["intervals"]))
    found |= {
        f"{prefix}{name}": (values[name], span) for prefix, values, spans in pairs for name, span in spans.items()
    }
    return found


def of_a_log(make: Callable[[np.random.Generator, Array], Log], prompts: int, name: str) -> Callable[[int], Draw]:
    """A case: the printed figures of logs of `prompts` prompts against those of a hundred times as many."""

    @lru_cache(maxsize=1)
    def truth() -> dict[str, tuple[Any, Interval | None]]:
        rng = np.random.default_rng(99)
        return printed(make(rng, TRUTHS[name](rng, MANY * prompts)))

    def draw(seed: int) -> Draw:
        rng = np.random.default_rng(seed)
        for figure, (_, span) in printed(make(rng, TRUTHS[name](rng, prompts))).items():
            if span is not None and figure in truth() and figure != "finding algorithm_weights":
                yield figure, span, float(truth()[figure][0])

    return draw


def of_weights(prompts: int, tries: int) -> Callable[[int], Draw]:
    """A case: the share of GRPO's weight by estimated solve rate, for all prompts sorted as the log sorts its own."""
    j = np.arange(tries + 1)
    coefficient = np.sqrt(j * (tries - j)) / tries * betabinom.pmf(j, tries, 0.5, 0.8)

    def draw(seed: int) -> Draw:
        rng = np.random.default_rng(seed)
        k = rng.binomial(tries, TRUTHS["spread"](rng, prompts))
        frame = pl.DataFrame({"prompt_id": np.arange(prompts), "k": k, "n": tries, "rate": k / tries})
        tables = collect(Log("rates", cast_to_schema(frame.lazy(), RATE_COLUMNS), "rates"), group_size=tries)
        finding, place = algorithm_weights(tables), bin_prompts(tables).get_column("bin").to_numpy()
        cells = dict(zip(tables.counts.get_column("k").to_list(), place, strict=True))
        if len(cells) < tries + 1 or finding.interval is None:
            return
        bins = np.bincount([cells[right] for right in j], weights=coefficient / coefficient.sum(), minlength=10)
        yield "share of the two hardest bins", finding.interval, float(bins[:2].sum())
        low, high = (row[1:] for row in finding.tables[0].rows[-2:])
        for number in (0, 3, 6, 9):
            if bins[number] > 0:
                yield f"share of bin {number}", (float(low[number]), float(high[number])), float(bins[number])  # type: ignore[arg-type]

    return draw


def of_lengths(seed: int) -> Draw:
    """A case: the share right of answers shorter than the shortest tenth, which is the same for every length."""
    rng = np.random.default_rng(seed)
    log = rollout_log(rng, np.full(60, 0.4) + 0.2 * rng.standard_normal(60).clip(-1, 1), longer=1.0, growth=0.0)
    for finding in analyze(log).findings:
        for plot in finding.plots if finding.name == "length_bias" else ():
            series = plot.series[0]
            spans = list(zip(series.low, series.high, strict=True))
            for number in (0, len(spans) // 2, len(spans) - 1):
                low, high = spans[number]
                if low is not None and high is not None:
                    yield "share right by length", (low, high), 0.4


# Plans


def counts_of(k: Array, n: int) -> PromptCounts:
    each = np.full(len(k), float(n))
    return PromptCounts(tuple(f"p{i}" for i in range(len(k))), k.astype(np.float64), each, np.ones(len(k)))


def true_saving(a: float, b: float, prompts: int, tries: int, budget: float, rho: float) -> float:
    """The saving with the true prior, Beta(a, b), on a fine grid, and as many prompts of each count as are expected."""
    edges = np.linspace(0, 1, 4001)
    points, mass = (edges[1:] + edges[:-1]) / 2, np.diff(beta.cdf(edges, a, b))
    joint = binom.pmf(np.arange(tries + 1)[:, None], tries, points) * mass
    share, cells = joint.sum(axis=1), np.arange(tries + 1)
    strata = Strata(joint / share[:, None], np.ones(tries + 1), 1000 * prompts * share, cells[:0], cells, points)
    return compute_saving(strata, 1000 * budget, 8, planner.SIZES, rho, planner.AUDIT)


def of_a_plan(a: float, b: float, prompts: int, tries: int) -> Callable[[int], Draw]:
    """A case: what a plan prints, against other prompts of the same kind, new groups of these, and the true saving."""
    savings = lru_cache(lambda rho: true_saving(a, b, prompts, tries, 4.0 * prompts, rho))

    def draw(seed: int) -> Draw:
        rng = np.random.default_rng(seed)
        rates, others = rng.beta(a, b, prompts), rng.beta(a, b, prompts)
        counts = counts_of(rng.binomial(tries, rates), tries)
        made = planner.plan(counts, 4.0 * prompts)
        yield "silent, uniform groups", made.silent_uniform[1], _seen_silent(rng, others, 8)
        chosen = made.tries > 0
        yield "silent, planned groups", made.silent_fixed[1], _seen_silent(rng, rates[chosen], made.group_size)
        for under in made.under_rho:
            if under.saving_interval is not None:
                yield f"saving at rho {under.rho:g}", under.saving_interval, savings(under.rho)
        check = backtest_plan(counts, 4.0 * prompts, 8, unit="rollouts", rho=0.05)
        for name in ("uniform", "planned", "again"):
            if check is not None and (shown := getattr(check, name)) is not None:
                yield f"check, {name}", shown[1], shown[2]

    return draw


def _seen_silent(rng: np.random.Generator, rates: Array, size: int) -> float:
    right = rng.binomial(size, rates)
    return float(((right == 0) | (right == size)).mean())


# Evaluation and curves


def of_an_evaluation(prompts: int, samples: int) -> Callable[[int], Draw]:
    """A case: avg@k, pass@k, maj@k of prompts with three wrong answers each."""

    def evaluate(seed: int, number: int) -> dict[str, Any]:
        rng = np.random.default_rng(seed)
        groups = []
        for place, rate in enumerate(rng.beta(0.7, 0.7, number)):
            said = rng.choice(4, samples, p=[rate, *((1 - rate) * np.array([0.6, 0.3, 0.1]))])
            verdicts = [Verdict(float(s == 0), correct=bool(s == 0), answer=str(s)) for s in said]
            rollouts = tuple(Rollout(i, Completion((5,), (-0.1,), "stop"), v) for i, v in enumerate(verdicts))
            groups.append(Group(Prompt(f"p{place}", "text", meta={"level": str(place % 2)}), rollouts, 0, place))
        made = evaluate_groups(groups, 1.0)
        levels = {f"level {name}": estimate for name, estimate in made.levels.items()}
        at = {f"{name}@{k}": e for name, of in (("pass", made.pass_at), ("maj", made.maj_at)) for k, e in of.items()}
        return {"avg": made.avg, **levels, **at}

    truth = lru_cache(lambda: evaluate(10**6, MANY * prompts))

    def draw(seed: int) -> Draw:
        for name, estimate in evaluate(seed, prompts).items():
            yield name, (estimate.low, estimate.high), truth()[name].value

    return draw


def of_a_curve(seed: int) -> Draw:
    """A case: the bands of a run's smoothed curves at three iterations, of silent groups and of the mean reward."""
    rng, steps, groups = np.random.default_rng(seed), 60, 12
    rates, n = rng.beta(1, 1, (steps, groups)), rng.integers(2, 9, (steps, groups))
    right = rng.binomial(n, rates)
    silent = ((right == 0) | (right == n)).mean(axis=1)
    x = tuple(float(i) for i in range(steps))
    counts = {"counts": [groups] * steps}
    plain = Plot("line", "", "", "", x, (Series("silent", tuple(silent), "plain"),), extra={**counts, "trials": True})
    expected = float(np.mean(silent_probability(np.linspace(0.0005, 0.9995, 1000)[:, None], np.arange(2, 9)[None, :])))
    share = add_smoothed_lines(plain).series[0]
    rewards = Series("reward", tuple(right.sum(axis=1) / n.sum(axis=1)), "plain")
    reward = replace(add_smoothed_lines(replace(plain, series=(rewards,), extra=counts)), unit="share")
    reward = replace(reward, extra={**reward.extra, "sums": "total", "width": steps / 40})
    columns = {"iteration": np.repeat(np.arange(steps), groups), "n": n.ravel(), "total": right.ravel().astype(float)}
    tables = SimpleNamespace(groups=pl.DataFrame(columns))
    band = add_group_intervals(reward, tables).series[0]  # type: ignore[arg-type]
    for place in (0, 30, 59):
        yield "band of a share of groups", (share.low[place] or 0.0, share.high[place] or 0.0), expected
        yield "band of the mean reward", (band.low[place] or 0.0, band.high[place] or 0.0), 0.5


CASES: dict[str, Callable[[int], Draw]] = {
    **{f"log, {name}, 80 prompts": of_a_log(rollout_log, 80, name) for name in TRUTHS},
    "log, spread, 12 prompts": of_a_log(rollout_log, 12, "spread"),
    "log with partial rewards, 40 prompts": of_a_log(lambda r, p: rollout_log(r, p, graded=True), 40, "spread"),
    "rates, spread, 150 prompts": of_a_log(lambda r, p: rate_log(r, p, 16), 150, "spread"),
    "rates, alike, 150 prompts": of_a_log(lambda r, p: rate_log(r, p, 8), 150, "alike"),
    "weights by difficulty, 400 prompts": of_weights(400, 8),
    "share right by length, 60 prompts": of_lengths,
    "plan, 400 prompts, 8 tries": of_a_plan(0.5, 0.8, 400, 8),
    "plan, 400 prompts, 16 tries": of_a_plan(0.4, 0.4, 400, 16),
    "evaluation, 60 prompts": of_an_evaluation(60, 8),
    "curves of a run": of_a_curve,
}


def measure(case: str, draws: int, *, first: int = 0) -> dict[str, tuple[float, float, int]]:
    """Figure → share of the draws in which its interval held the truth, mean width of the interval, draws."""
    hits, widths = defaultdict[str, list[bool]](list), defaultdict[str, list[float]](list)
    for seed in range(first, first + draws):
        for figure, (low, high), truth in CASES[case](seed):
            hits[figure].append(low - 1e-9 <= truth <= high + 1e-9)
            widths[figure].append(high - low)
    return {name: (float(np.mean(held)), float(np.mean(widths[name])), len(held)) for name, held in hits.items()}


def table_of(draws: int, cases: list[str]) -> str:
    error = 100 * (0.0475 / draws) ** 0.5
    lines = [
        f"{draws} draws of each case (half as many of a plan): a standard error of {error:.1f} points at 95 %.\n\n"
    ]
    for case in cases:
        lines.append(f"**{case[0].upper()}{case[1:]}**\n\n| figure | held the truth | mean width |\n|---|---|---|\n")
        found = measure(case, draws // 2 if case.startswith("plan") else draws)
        lines += [
            f"| {name} | {100 * held:.1f} % | {width:.3f} |\n" for name, (held, width, _) in sorted(found.items())
        ]
        lines.append("\n")
        print("".join(lines[-len(found) - 2 :]), flush=True)
    return "".join(lines)


def main() -> None:
    """Writes the table into the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--only", help="cases whose name has this in it; printed, not written")
    words = parser.parse_args()
    table = table_of(words.draws, [name for name in CASES if (words.only or "") in name])
    if not words.only:
        text = PAGE.read_text(encoding="utf-8")
        before, after = text.split(START)[0], text.split(END)[1]
        PAGE.write_text(before + START + table + END + after, encoding="utf-8")


if __name__ == "__main__":
    main()
