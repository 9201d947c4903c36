"""The belief on solve rates. Oracles: integrals by scipy, conjugate limits, simulated prompts, a recorded table."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import expit
from scipy.stats import norm

from onedial.core.maths.expectation import effective_tries, posterior_baseline
from onedial.core.maths.logit_normal import rate_moments, update_logit
from onedial.core.types import Prompt
from onedial.training.budget.belief import OWN_STD, Belief
from onedial.training.budget.calibration import Calibration
from onedial.training.budget.features import Described, count_carries, describe_prompt, prior_std


@pytest.mark.parametrize("mean, variance", [(0.0, 1.0), (-3.0, 4.0), (2.0, 0.04), (-6.0, 9.0)])
def test_moments_are_the_integrals(mean: float, variance: float) -> None:
    """Oracle: scipy's adaptive quadrature."""
    density = norm(mean, variance**0.5).pdf
    reach = (mean - 10 * variance**0.5, mean + 10 * variance**0.5)
    first = quad(lambda x: expit(x) * density(x), *reach, points=[mean])[0]
    second = quad(lambda x: expit(x) ** 2 * density(x), *reach, points=[mean])[0]
    found = rate_moments(mean, variance)
    assert float(found.mean) == pytest.approx(first, abs=1e-4)
    assert float(found.variance) == pytest.approx(second - first**2, abs=1e-4)
    assert float(found.spread) == pytest.approx(first - second, abs=1e-4)


@pytest.mark.parametrize("solved, tries", [(0, 1), (1, 1), (0, 16), (16, 16), (3, 8), (400, 1000), (0.5, 2.5)])
@pytest.mark.parametrize("mean, variance", [(0.0, 3.0), (-4.0, 2.0), (3.0, 0.5)])
def test_an_update_is_the_exact_posterior(mean: float, variance: float, solved: float, tries: float) -> None:
    """Oracle: the posterior on a fine grid, for any number of rollouts."""
    x = np.linspace(mean - 12 * variance**0.5, mean + 12 * variance**0.5, 200_001)
    log_density = -0.5 * (x - mean) ** 2 / variance + solved * x - tries * np.logaddexp(0, x)
    mass = np.exp(log_density - log_density.max())
    mass /= mass.sum()
    center = x @ mass
    found = update_logit(mean, variance, solved, tries)
    assert found[0] == pytest.approx(center, abs=2e-3)
    assert found[1] == pytest.approx((x - center) ** 2 @ mass, rel=2e-2)


def test_a_baseline_of_a_belief_lies_between_leave_one_out_and_the_belief() -> None:
    """Hand values: (ν·m + others)/(ν + n − 1); the limits are RLOO and the belief alone."""
    rewards = [1.0, 0.0, 1.0]
    assert posterior_baseline(rewards, 0.25, 2.0).tolist() == [0.375, 0.625, 0.375]
    assert posterior_baseline(rewards, 0.25, 0.0).tolist() == [0.5, 1.0, 0.5]
    assert posterior_baseline(rewards, 0.25, 1e12) == pytest.approx([0.25] * 3)
    assert posterior_baseline([1.0], 0.5, 4.0).tolist() == [0.5], "a lone correct rollout teaches by 1/2"
    assert posterior_baseline([1.0], 0.5, 0.0).tolist() == [1.0]


def test_effective_tries_is_the_inverse_variance_of_the_gradient() -> None:
    """Oracle: 200,000 drawn groups. The variance of Σ(r − b)·(noise of unit size)/n is E(r − b)²/n = pq/m."""
    rng = np.random.default_rng(0)
    for tries, strength in ((1, 3), (4, 2), (8, 1)):
        rates = rng.beta(strength / 2, strength / 2, 200_000)
        rewards = (rng.random((tries, len(rates))) < rates).astype(float)
        baseline = (strength * 0.5 + rewards.sum(0) - rewards) / (strength + tries - 1)
        spread = (rates * (1 - rates)).mean()
        found = ((rewards - baseline) ** 2).mean() / tries
        assert found == pytest.approx(spread / float(effective_tries(tries, strength)), rel=0.02)
    assert effective_tries([0, 1, 8], 0).tolist() == [0, 0, 7]


def test_features_tell_levels_sizes_and_carries() -> None:
    assert [count_carries(pair) for pair in ([27, 35], [97, 35], [5, 5], [12, 30], [999, 1], [50, 50])] == [
        1,
        2,
        1,
        0,
        3,
        1,
    ]
    prompt = Prompt("What is 27 + 98?", source="arithmetic", meta={"level": "add2"})
    features = describe_prompt(prompt).features
    assert features["level=add2"] == features["source=arithmetic"] == features["bias"] == 1.0
    assert features["carries"] == features["carries of add2"] == 2.0 and features["numbers"] == 0.0
    assert features["largest"] == pytest.approx(np.log10(99) - 1) and features["operator=+"] == 1.0
    embedded = describe_prompt(prompt, lambda prompt: [3.0, 4.0]).features
    assert embedded["embedding 1"] == pytest.approx(4 / 2**0.5) and embedded["bias"] == 1.0


def test_two_prompts_of_one_level_share_what_is_learned_of_it() -> None:
    """Oracle: Kalman by hand: a shared part of variance s and an own part of variance o share a change s : o."""
    belief = Belief(drift=0.0)
    seen, fresh, other = (
        Described(name, {f"level={level}": 1.0}) for name, level in (("a", "x"), ("b", "x"), ("c", "y"))
    )
    before = belief.predict([seen, fresh, other])
    shared, own = prior_std("level=x") ** 2, OWN_STD**2
    assert before.variance == pytest.approx([shared + own] * 3)
    belief.observe(seen, 8, 8)
    after = belief.predict([seen, fresh, other])
    mean, variance = update_logit(0.0, shared + own, 8, 8)
    assert after.mean == pytest.approx([mean, mean * shared / (shared + own), 0.0])
    assert after.variance[0] == pytest.approx(variance)
    shrunk = (shared + own - variance) / (shared + own) ** 2
    assert after.variance[1] == pytest.approx(shared - shrunk * shared**2 + own)
    assert after.variance[2] == before.variance[2]


def test_rollouts_one_by_one_are_rollouts_at_once() -> None:
    """Invariance, up to the projection on a Gaussian after each: how the rollouts were cut hardly matters."""
    at_once, one_by_one = Belief(drift=0.0), Belief(drift=0.0)
    prompt = Described("a", {"bias": 1.0})
    at_once.observe(prompt, 5, 12)
    for hit in (1, 0, 0, 1, 0, 1, 0, 0, 1, 0, 1, 0):
        one_by_one.observe(prompt, hit, 1)
    first, second = (float(belief.predict([prompt]).rate.mean[0]) for belief in (at_once, one_by_one))
    assert first == pytest.approx(second, abs=0.015) and 0.35 < first < 0.5


def test_what_is_known_fades_towards_the_prior() -> None:
    belief = Belief(drift=0.1)
    prompt, fresh = Described("a", {"bias": 1.0}), Described("b", {"bias": 1.0})
    prior = belief.predict([prompt]).variance[0]
    belief.observe(prompt, 10, 20)
    shared = float(belief.predict([fresh]).variance[0]) - OWN_STD**2
    variances = [float(belief.predict([prompt]).variance[0])]
    for iteration in (1, 2, 200):
        belief.advance(iteration)
        variances.append(float(belief.predict([prompt]).variance[0]))
    assert variances == sorted(variances) and variances[0] < 0.4
    faded = 0.9 * shared + 0.1 * prior_std("bias") ** 2 + OWN_STD**2
    assert variances[1] == pytest.approx(0.9 * variances[0] + 0.1 * faded)
    assert variances[-1] == pytest.approx(prior, rel=1e-4)


def test_the_state_keeps_every_bit() -> None:
    rng = np.random.default_rng(1)
    prompts = [describe_prompt(Prompt(f"{a} + {b}", meta={"level": "x"})) for a, b in rng.integers(1, 99, (40, 2))]
    first = Belief()
    for t, prompt in enumerate(prompts):
        first.advance(t // 4)
        first.observe(prompt, int(rng.integers(0, 5)), 4)
    second = Belief()
    second.restore(json.loads(json.dumps(first.state())))
    for belief in (first, second):
        belief.advance(30)
        belief.observe(prompts[0], 1, 3)
    a, b = first.predict(prompts), second.predict(prompts)
    assert np.array_equal(a.mean, b.mean) and np.array_equal(a.variance, b.variance)


def test_fresh_prompts_are_predicted_and_the_prediction_is_calibrated() -> None:
    """Oracle: simulated prompts of three levels, harder with larger numbers, and a policy that learns."""
    rng = np.random.default_rng(2)
    belief, calibration, gaps = Belief(), Calibration(), []
    for iteration in range(1, 41):
        belief.advance(iteration)
        numbers = rng.integers(1, 99, (24, 2))
        prompts = [Prompt(f"{a} + {b}", meta={"level": f"level {a % 3}"}) for a, b in numbers.tolist()]
        logits = 2.0 - 0.04 * numbers.max(1) - numbers[:, 0] % 3 + 0.05 * iteration + 0.7 * rng.standard_normal(24)
        described = [describe_prompt(prompt) for prompt in prompts]
        predicted = belief.predict(described).rate.mean
        for prompt, mean, logit in zip(described, predicted, logits, strict=True):
            solved = int(rng.binomial(4, expit(logit)))
            calibration.add(float(mean), solved / 4)
            belief.observe(prompt, solved, 4)
            gaps.append((mean - expit(logit)) ** 2 if iteration > 10 else 0.0)
    assert calibration.prompts == 960 and calibration.error is not None and calibration.error < 0.05
    assert np.sum(gaps) / 720 < 0.03, "own difficulty leaves about 0.02; without the level it would be 0.06"


def test_calibration_is_the_mean_gap_of_tenths() -> None:
    """Hand value: believed .25 twice with .5 and 0 observed (no gap), .95 once with .55 observed."""
    calibration = Calibration()
    for believed, observed in ((0.25, 0.5), (0.25, 0.0), (0.95, 0.55)):
        calibration.add(believed, observed)
    assert calibration.error == pytest.approx(0.4 / 3)
    assert calibration.means()[2] == [0.25, 0.25, 2] and calibration.means()[0] is None
    again = Calibration()
    again.restore(json.loads(json.dumps(calibration.state())))
    assert again.error == calibration.error and Calibration().error is None
