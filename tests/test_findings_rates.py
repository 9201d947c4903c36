"""The distribution of solve rates behind counts. Oracles: known mixtures, EM fixed points, real rollouts split."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from findings_logs import all_findings, rate_log, simulated
from onedial.analysis.findings import collect, expected_silence, solve_rates
from onedial.core.maths import dispersion
from onedial.core.maths.likelihood_region import likelihood_region
from onedial.core.maths.mixing import beta_with_ends, fit_prior, npmle, posterior, tally_counts

DATA = Path(__file__).parents[1].parent / "shared" / "data"


def test_npmle_recovers_silence_at_other_sizes_of_a_known_mixture() -> None:
    # oracle: truth of 20 % at 0, 30 % at .15, 30 % at .6, 20 % at 1, from 12 tries of 3,000 prompts
    rng = np.random.default_rng(2)
    points, mass = np.array([0.0, 0.15, 0.6, 1.0]), np.array([0.2, 0.3, 0.3, 0.2])
    k = rng.binomial(12, rng.choice(points, 3000, p=mass))
    cells, _ = tally_counts(k, np.full(3000, 12))
    fitted = npmle(cells)
    region = likelihood_region(cells)
    for size in (2, 4, 8, 12):
        truth = float(dispersion.expected_silent_share(points, size, mass=mass))
        silent = dispersion.silent_probability(fitted.points, size)
        low, high = region.interval(dispersion.silent_probability(region.points, size))
        assert low <= truth <= high
        naive = float(dispersion.expected_silent_share(k / 12, size))  # histogram of k/n
        assert abs(silent @ fitted.mass - truth) < abs(naive - truth) or size == 12


def test_npmle_is_a_fixed_point_whose_posterior_averages_to_it() -> None:
    rng = np.random.default_rng(0)
    cells, _ = tally_counts(rng.binomial(8, rng.beta(0.5, 0.5, 500)), np.full(500, 8))
    fitted = npmle(cells, iterations=3000)
    average = cells.count @ posterior(cells, fitted) / 500
    assert average == pytest.approx(fitted.mass, abs=2e-5)
    # mean rate is identified by the data alone
    assert fitted.mean == pytest.approx(float((cells.k * cells.count).sum() / (8 * 500)), abs=2e-5)


def test_posterior_under_a_beta_is_the_conjugate_one() -> None:
    # oracle: Beta(a + k, b + n − k), with the fitted Beta itself; grid error below 1e-3
    rng = np.random.default_rng(1)
    cells, _ = tally_counts(rng.binomial(20, rng.beta(2, 3, 4000)), np.full(4000, 20))
    fitted = beta_with_ends(cells)
    mean, second = fitted.mean, float(fitted.points**2 @ fitted.mass)
    weight = mean * (1 - mean) / (second - mean**2) - 1
    a, b = mean * weight, (1 - mean) * weight
    assert (a, b) == (pytest.approx(2, rel=0.15), pytest.approx(3, rel=0.15))
    conjugate = (a + cells.k) / (a + b + 20)
    assert posterior(cells, fitted) @ fitted.points == pytest.approx(conjugate, abs=3e-3)


def test_survivors_only_needs_the_truncated_likelihood() -> None:
    # oracle: simulation. Rates Beta(1.2, 2); groups of 6, one per prompt, unanimous ones dropped
    rng = np.random.default_rng(7)
    rates = rng.beta(1.2, 2.0, 20_000)
    k = rng.binomial(6, rates)
    k = k[(k > 0) & (k < 6)]
    truth = float(dispersion.expected_silent_share(rates, 6))
    cells, _ = tally_counts(k, np.full(len(k), 6))
    corrected = beta_with_ends(cells, survivors_only=True)
    silent = dispersion.silent_probability(corrected.points, 6)
    assert float(corrected.mass @ silent) == pytest.approx(truth, abs=0.05)
    naive = float(npmle(cells).mass @ silent)
    assert abs(naive - truth) > 0.15  # what ignoring the dropping would say: far too few
    assert corrected.mean == pytest.approx(1.2 / 3.2, abs=0.03)


def test_smoothed_prior_is_near_the_better_of_both_on_held_out_halves() -> None:
    # oracle: the other half of the same real rollouts; margins of the measurement that chose it
    path = DATA / "deepscaler_solve_rate128.jsonl"
    if not path.is_file():
        pytest.skip("shared/data/deepscaler_solve_rate128.jsonl is not here")
    from onedial.core.maths.mixing import Tally, predictive_score

    total = np.array([json.loads(line)["n_correct"] for line in path.read_text(encoding="utf-8").splitlines()])
    rng = np.random.default_rng(0)
    for prompts, n in [(1000, 8), (29_724, 16)]:
        right = rng.choice(total, prompts, replace=False)
        first = rng.hypergeometric(right, 128 - right, n)
        second = rng.hypergeometric(right - first, 128 - right - (n - first), n)
        cells, _ = tally_counts(first, np.full(prompts, n))
        each = Tally(first.astype(float), np.full(prompts, float(n)), np.ones(prompts), np.ones(prompts))
        scores = [
            predictive_score(each, second.astype(float), each.n, prior)
            for prior in (fit_prior(cells), npmle(cells), beta_with_ends(cells))
        ]
        assert scores[0] > max(scores) - 0.01


Rates = Callable[[np.random.Generator, int], np.ndarray]
TRUTHS: dict[str, Rates] = {
    # 15 % never, 20 % always, the rest spread; two-sided; hard
    "ends": lambda rng, m: np.select(
        [(part := rng.random(m)) < 0.15, part < 0.35], [np.zeros(m), np.ones(m)], rng.beta(0.8, 0.8, m)
    ),
    "two sided": lambda rng, m: rng.beta(0.4, 0.8, m),
    "hard": lambda rng, m: rng.beta(0.3, 3.0, m),
}


def in_bars(rates: np.ndarray) -> np.ndarray:
    """Share of the rates in each bar of the page, counted one by one."""
    inner = (0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.98)
    number = [0 if p <= 0.02 else sum(p >= edge for edge in inner) for p in rates]
    return np.bincount(number, minlength=12) / len(rates)


def finding_coverage(truth: Rates, prompts: int, tries: int, draws: int, *, group_size: int) -> dict[str, float]:
    """How often the intervals of the two findings, printed in one log each, hold the truth; bars: all but one of 12."""
    many = truth(np.random.default_rng(99), 100_000)
    bars, hits = in_bars(many), {"mean": 0, "bars": 0, "silence": 0, "table": 0}
    for seed in range(draws):
        rng = np.random.default_rng(seed)
        k = rng.binomial(tries, truth(rng, prompts))
        tables = collect(rate_log(k, np.full(prompts, tries)), group_size=group_size)
        rates, silence = solve_rates(tables), expected_silence(tables)
        for finding in (rates, silence):
            assert finding.interval is not None and finding.value is not None
            assert finding.interval[0] <= finding.value <= finding.interval[1]
        series = rates.plots[0].series[0]
        low, high, shown = (np.array(column, dtype=float) for column in (series.low, series.high, series.y))
        assert (low <= shown).all() and (shown <= high).all() and shown.sum() == pytest.approx(1.0)
        hits["mean"] += rates.interval[0] <= many.mean() <= rates.interval[1]  # type: ignore[index]
        hits["bars"] += int(((low <= bars + 1e-3) & (bars - 1e-3 <= high)).sum() >= 11)
        want = float(dispersion.silent_probability(many, group_size).mean())
        hits["silence"] += silence.interval[0] <= want <= silence.interval[1]  # type: ignore[index]
        rows = {row[0]: row for row in silence.tables[0].rows}
        assert [rows[g][5] == "yes" for g in (2, 4, 8, 16, 32, 64)] == [g <= tries for g in (2, 4, 8, 16, 32, 64)]
        want = float(dispersion.silent_probability(many, 64).mean())
        hits["table"] += rows[64][2] <= want <= rows[64][3]
    return {name: hit / draws for name, hit in hits.items()}


def test_the_findings_of_a_rate_table_cover_what_is_true() -> None:
    # simulation where a bootstrap of one fit held the share of bars in 67 % and the silent share at G = 64 in 15 %
    found = finding_coverage(TRUTHS["ends"], 400, 4, 20, group_size=16)
    assert min(found.values()) >= 0.8, found  # 19 of 20 wanted; fewer than 16 has a chance of one in four hundred


@pytest.mark.slow
@pytest.mark.parametrize(("prompts", "tries", "group_size"), [(200, 8, 8), (1000, 4, 8), (300, 64, 16)])
def test_the_findings_cover_at_their_level(prompts: int, tries: int, group_size: int) -> None:
    """Simulation of the nominal 95 %, 80 draws of each truth; ranges of what the tries do not determine cover more."""
    found = [finding_coverage(truth, prompts, tries, 80, group_size=group_size) for truth in TRUTHS.values()]
    for name in found[0]:
        each = [hits[name] for hits in found]
        assert min(each) >= 0.86 and np.mean(each) >= 0.91, (name, found)
        if name == "mean":
            assert np.mean(each) <= 0.99, found


def test_what_the_tries_do_not_determine_is_a_range() -> None:
    k = np.random.default_rng(1).binomial(4, TRUTHS["two sided"](np.random.default_rng(0), 500))
    silence = expected_silence(collect(rate_log(k, np.full(500, 4)), group_size=32))
    assert silence.headline.startswith("4 tries per prompt do not determine the silent share at G = 32: it may be ")
    assert silence.interval is not None and silence.interval[1] - silence.interval[0] > 0.25


def test_expected_silence_is_the_observed_share_where_tries_are_alike() -> None:
    # oracle: independent rollouts at fixed rates, 12 logs; the observed share must lie in the interval of the expected
    hits = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        log = simulated(rng.beta(0.5, 0.7, 150), size=6, iterations=3, text=False, seed=seed)
        found = {finding.name: finding for finding in all_findings(log)}
        expected, observed = found["expected_silence"], found["silent_share"].value
        assert expected.interval is not None and observed is not None
        hits += expected.interval[0] <= observed <= expected.interval[1]
        assert "if all tries of a prompt were alike" in expected.headline
        assert "mean solve rate alone" in expected.headline
    assert hits == 12, "the same rollouts, so the luck of the groups is shared"


def test_moving_rates_show_as_more_silence_than_alike_tries_give() -> None:
    # oracle: every prompt passes from never to always solved, so that groups are silent and pooled tries are even
    log = simulated(np.full(200, -0.2), size=6, iterations=8, growth=0.2, text=False)
    found = {finding.name: finding for finding in all_findings(log)}
    interval = found["expected_silence"].interval
    assert interval is not None and found["silent_share"].value > interval[1] + 0.1  # type: ignore[operator]


def test_many_prompts_cost_no_more_than_few() -> None:
    # oracle: cells are bounded by the counts, not by the prompts
    k = np.random.default_rng(0).binomial(8, 0.3, 200_000)
    cells, number = tally_counts(k, np.full(k.size, 8))
    assert len(cells.k) == 9 and (cells.k[number] == k).all() and cells.num_prompts == k.size
