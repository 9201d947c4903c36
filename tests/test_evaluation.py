"""Oracles: enumeration of every draw, hand values, simulated coverage, scipy."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Hashable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from onedial.core.errors import DataError
from onedial.core.maths.estimators import (
    by_level,
    maj_at_k,
    mean_interval,
    pass_at_k,
    share_interval,
    wilson_interval,
)

SAMPLES = st.lists(st.sampled_from(["a", "b", "c", "d", None]), min_size=1, max_size=7)


def vote(answers: Sequence[Hashable | None], right: Hashable) -> float:
    """Majority vote by definition: the winners share the credit equally, nobody voting scores 0."""
    votes = Counter(answer for answer in answers if answer is not None)
    winners = [answer for answer, count in votes.items() if count == max(votes.values())]
    return winners.count(right) / len(winners) if winners else 0.0


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_pass_at_k_equals_the_share_of_draws_that_hold_a_correct_sample(n: int) -> None:
    for c, k in itertools.product(range(n + 1), range(1, n + 1)):
        draws = [any(draw) for draw in itertools.combinations([True] * c + [False] * (n - c), k)]
        assert pass_at_k(n, c, k) == pytest.approx(sum(draws) / len(draws), abs=1e-12)


def test_pass_at_k_of_many_samples_does_not_overflow() -> None:
    # hand value: k = 1 is the plain share, also where C(n, k) is beyond any float
    assert pass_at_k(100_000, 30_000, 1) == pytest.approx(0.3, abs=1e-12)
    assert pass_at_k(5000, 1, 2500) == pytest.approx(0.5, abs=1e-9)


def test_pass_at_4_of_one_correct_in_four_is_one() -> None:
    """verl pull 7240: resampling with replacement gives 1 - (3/4)^4 = 0.684 for samples that do hold a correct one."""
    with_replacement = [max(draw) for draw in itertools.product([1.0, 0.0, 0.0, 0.0], repeat=4)]
    assert sum(with_replacement) / len(with_replacement) == pytest.approx(0.684, abs=1e-3)  # the bug, for the record
    assert pass_at_k(4, 1, 4) == 1.0


@given(SAMPLES, st.data())
def test_maj_at_k_equals_enumeration_of_every_draw(answers: list[str | None], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(answers)))
    expected = [vote(draw, "a") for draw in itertools.combinations(answers, k)]
    got = maj_at_k(answers, [answer == "a" for answer in answers], k)
    assert got == pytest.approx(sum(expected) / len(expected), abs=1e-12)


def test_maj_at_k_shares_a_tie_whatever_comes_first() -> None:
    """Peers give a tie to the first answer seen, so that the order of samples changes the score."""
    for answers in itertools.permutations(["7", "7", "8", "8"]):
        assert maj_at_k(answers, [answer == "7" for answer in answers], 4) == 0.5


@pytest.mark.parametrize(
    ("answers", "correct", "expected"),
    [
        (["7", "8", "9"], [True, False, False], 1 / 3),  # a three-way tie
        (["7", None, None, None], [True, False, False, False], 1.0),  # the unparseable do not vote
        ([None, None], [False, False], 0.0),  # nobody votes
        (["7", "7", "8"], [True, False, False], 0.5),  # the winner was judged both ways
    ],
)
def test_maj_at_n_hand_values(answers: list[str | None], correct: list[bool], expected: float) -> None:
    assert maj_at_k(answers, correct, len(answers)) == pytest.approx(expected, abs=1e-12)


def test_maj_at_1_is_avg_when_every_sample_votes() -> None:
    answers = ["a"] * 5 + ["b"] * 9 + ["c"] * 2
    assert maj_at_k(answers, [a == "a" for a in answers], 1) == pytest.approx(5 / 16, abs=1e-12)


@pytest.mark.parametrize("k", [0, 5])
def test_fewer_samples_than_k_is_an_error(k: int) -> None:
    for call in (
        lambda: pass_at_k(4, 1, k),
        lambda: maj_at_k(["a"] * 4, [True] * 4, k),
    ):
        with pytest.raises(DataError, match=rf"k={k}: must lie in 1 … n=4"):
            call()


def test_more_correct_than_samples_is_an_error() -> None:
    with pytest.raises(DataError, match="c=5"):
        pass_at_k(4, 5, 2)


def test_a_verdict_per_answer_is_required() -> None:
    with pytest.raises(DataError, match="2 answers but 1 verdicts"):
        maj_at_k(["a", "b"], [True], 1)


@pytest.mark.parametrize(("successes", "total"), [(0, 10), (3, 10), (10, 10), (250, 1000)])
def test_wilson_interval_equals_scipy(successes: int, total: int) -> None:
    oracle = stats.binomtest(successes, total).proportion_ci(0.9, method="wilson")
    assert wilson_interval(successes, total, level=0.9) == pytest.approx((oracle.low, oracle.high), abs=1e-9)


def test_wilson_interval_without_trials_says_nothing() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_intervals_of_a_few_prompts_use_students_quantile() -> None:
    # oracle: scipy's score interval solved for t instead of z: |mean − p| = t·√(p(1−p)/trials) at both ends
    values = [1.0, 0.5, 0.25, 1.0, 0.75]
    mean, spread = 0.7, stats.tvar(values)
    trials, quantile = 5 * mean * (1 - mean) / spread, stats.t.ppf(0.975, 4)
    estimate = share_interval(values)
    for end in (estimate.low, estimate.high):
        assert abs(mean - end) == pytest.approx(quantile * math.sqrt(end * (1 - end) / trials), rel=1e-9)


def test_mean_interval_equals_scipy() -> None:
    values = [0.1, 2.0, -1.5, 0.7, 3.3]
    oracle = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    estimate = mean_interval(values)
    assert (estimate.low, estimate.high) == pytest.approx((oracle.low, oracle.high), abs=1e-9)
    assert mean_interval([0.4]).high == math.inf  # one prompt bounds nothing


def test_share_interval_of_unanimous_prompts_has_width() -> None:
    assert mean_interval([1.0] * 30).low == 1.0  # why a t interval will not do for shares
    estimate = share_interval([1.0] * 30)
    assert estimate.high == 1.0
    assert 0.8 < estimate.low < 0.95


@pytest.mark.parametrize(("a", "b"), [(0.4, 0.4), (2.0, 0.3), (5.0, 5.0)])
def test_share_interval_covers_the_true_mean(a: float, b: float) -> None:
    """Simulation: 40 prompts of unequal difficulty, 4 samples each, which are not independent."""
    rng = random.Random(f"coverage/{a}/{b}")
    hits = 0
    for _ in range(1000):
        solve_rates = [rng.betavariate(a, b) for _ in range(40)]
        values = [sum(rng.random() < rate for _ in range(4)) / 4 for rate in solve_rates]
        estimate = share_interval(values)
        hits += estimate.low <= a / (a + b) <= estimate.high
    assert 0.93 <= hits / 1000 <= 0.98


def test_by_level_splits_prompts() -> None:
    parts = by_level(["easy", "hard", "easy"], [1.0, 0.0, 0.5])
    assert list(parts) == ["easy", "hard"]
    assert (parts["easy"].value, parts["easy"].num_prompts) == (0.75, 2)
    assert (parts["hard"].value, parts["hard"].low, parts["hard"].high) == (0.0, 0.0, 1.0)


def test_shares_outside_0_to_1_are_refused() -> None:
    with pytest.raises(DataError, match="mean_interval"):
        share_interval([0.5, 1.5])


@pytest.mark.parametrize("judged", [8, 4])
def test_pass_at_k_over_fewer_prompts_is_said(judged: int) -> None:
    """Hand-made groups of 8 and of `judged` usable completions; prompts of 4 have no pass@8."""
    from io import StringIO

    from rich.console import Console

    from onedial.cli.eval import print_evaluation
    from onedial.core.types import Completion, Group, Prompt, Rollout, Verdict
    from onedial.training.evaluation import evaluate_groups

    done = Completion((5,), (-0.1,), "stop")
    good, lost = Verdict(1.0, correct=True), Verdict(None, outcome="timeout")
    groups = []
    for number, usable in enumerate((8, judged)):
        verdicts = [good] * usable + [lost] * (8 - usable)
        rollouts = tuple(Rollout(i, done, verdict) for i, verdict in enumerate(verdicts))
        groups.append(Group(Prompt(f"p{number}", "text"), rollouts, 0, number))
    out = StringIO()
    print_evaluation(Console(file=out, width=80), "model on task", evaluate_groups(groups, 1.0))
    assert ("at least k judged completions" in out.getvalue()) == (judged == 4)
