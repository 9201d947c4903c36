"""The distribution of solve rates behind counts. Oracles: known mixtures, EM fixed points, real rollouts split."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from findings_logs import all_findings, rate_log, simulated
from onedial.core.maths import dispersion
from onedial.core.maths.mixing import beta_with_ends, bootstrap, cells_of, npmle, posterior, smoothed

DATA = Path(__file__).parents[1].parent / "shared" / "data"


def test_npmle_recovers_silence_at_other_sizes_of_a_known_mixture() -> None:
    # oracle: truth of 20 % at 0, 30 % at .15, 30 % at .6, 20 % at 1, from 12 tries of 3,000 prompts
    rng = np.random.default_rng(2)
    points, mass = np.array([0.0, 0.15, 0.6, 1.0]), np.array([0.2, 0.3, 0.3, 0.2])
    k = rng.binomial(12, rng.choice(points, 3000, p=mass))
    cells, _ = cells_of(k, np.full(3000, 12))
    fitted = npmle(cells)
    masses = bootstrap(cells, fitted)
    for size in (2, 4, 8, 12):
        truth = float(dispersion.expected_silent_share(points, size, mass=mass))
        silent = dispersion.silent_probability(fitted.points, size)
        low, high = np.percentile(masses @ silent, [0.5, 99.5])
        assert low <= truth <= high
        naive = float(dispersion.expected_silent_share(k / 12, size))  # histogram of k/n
        assert abs(silent @ fitted.mass - truth) < abs(naive - truth) or size == 12


def test_npmle_is_a_fixed_point_whose_posterior_averages_to_it() -> None:
    rng = np.random.default_rng(0)
    cells, _ = cells_of(rng.binomial(8, rng.beta(0.5, 0.5, 500)), np.full(500, 8))
    fitted = npmle(cells, iterations=3000)
    average = cells.count @ posterior(cells, fitted) / 500
    assert average == pytest.approx(fitted.mass, abs=2e-5)
    # mean rate is identified by the data alone
    assert fitted.mean == pytest.approx(float((cells.k * cells.count).sum() / (8 * 500)), abs=2e-5)


def test_posterior_under_a_beta_is_the_conjugate_one() -> None:
    # oracle: Beta(a + k, b + n − k), with the fitted Beta itself; grid error below 1e-3
    rng = np.random.default_rng(1)
    cells, _ = cells_of(rng.binomial(20, rng.beta(2, 3, 4000)), np.full(4000, 20))
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
    cells, _ = cells_of(k, np.full(len(k), 6))
    corrected = beta_with_ends(cells, survivors_only=True)
    right, wrong = corrected.silent_split(6)
    assert float(right + wrong) == pytest.approx(truth, abs=0.05)
    naive = float(sum(npmle(cells).silent_split(6)))
    assert abs(naive - truth) > 0.15  # what ignoring the dropping would say: far too few
    assert corrected.mean == pytest.approx(1.2 / 3.2, abs=0.03)


def test_smoothed_prior_is_near_the_better_of_both_on_held_out_halves() -> None:
    # oracle: the other half of the same real rollouts; margins of the measurement that chose it
    path = DATA / "deepscaler_solve_rate128.jsonl"
    if not path.is_file():
        pytest.skip("shared/data/deepscaler_solve_rate128.jsonl is not here")
    from onedial.core.maths.mixing import Cells, predictive_score

    total = np.array([json.loads(line)["n_correct"] for line in path.read_text(encoding="utf-8").splitlines()])
    rng = np.random.default_rng(0)
    for prompts, n in [(1000, 8), (29_724, 16)]:
        right = rng.choice(total, prompts, replace=False)
        first = rng.hypergeometric(right, 128 - right, n)
        second = rng.hypergeometric(right - first, 128 - right - (n - first), n)
        cells, _ = cells_of(first, np.full(prompts, n))
        each = Cells(first.astype(float), np.full(prompts, float(n)), np.ones(prompts), np.ones(prompts))
        scores = [
            predictive_score(each, second.astype(float), each.n, prior)
            for prior in (smoothed(cells), npmle(cells), beta_with_ends(cells))
        ]
        assert scores[0] > max(scores) - 0.01


def test_solve_rate_finding_covers_the_true_share_between() -> None:
    # oracle: known rates; a third of the prompts lies between 2 % and 98 %
    rates = np.concatenate([np.zeros(200), np.ones(200), np.full(200, 0.4)])
    k = np.random.default_rng(3).binomial(16, rates)
    found = {finding.name: finding for finding in all_findings(rate_log(k, np.full(600, 16)))}
    interval = found["solve_rates"].interval
    assert interval is not None and interval[0] <= 1 / 3 <= interval[1]
    assert found["solve_rates"].value == pytest.approx(1 / 3, abs=0.05)


def test_expected_silence_matches_what_a_simulated_log_shows() -> None:
    # oracle: independent rollouts at fixed rates; the observed share must lie in the interval of the expected one
    log = simulated(np.random.default_rng(5).beta(0.5, 0.7, 400), size=6, iterations=3, text=False)
    found = {finding.name: finding for finding in all_findings(log)}
    expected, observed = found["expected_silence"], found["silent_share"].value
    assert expected.interval is not None and observed is not None
    assert expected.interval[0] - 0.01 <= observed <= expected.interval[1] + 0.01
    assert "mean solve rate alone" in expected.headline


def test_many_prompts_cost_no_more_than_few() -> None:
    # oracle: cells are bounded by the counts, not by the prompts
    k = np.random.default_rng(0).binomial(8, 0.3, 200_000)
    cells, number = cells_of(k, np.full(k.size, 8))
    assert len(cells.k) == 9 and (cells.k[number] == k).all() and cells.num_prompts == k.size
