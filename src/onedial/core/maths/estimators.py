"""Estimates of the accuracy of a policy from n judged samples per prompt: pass@k, maj@k and intervals.

A prompt has n samples of which c are correct. pass@k and maj@k are expectations over a draw of k of the n *without*
replacement, which makes them unbiased for k fresh samples. (A bootstrap *with* replacement is not: one correct sample
of four would give pass@4 = 1 - (3/4)^4 = 0.684 although the four samples include a correct one.)
An estimate over prompts treats each prompt as one observation: samples of one prompt are not independent.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import NormalDist, fmean, variance

from scipy.special import gammaincinv, ndtr, stdtrit

from onedial.core.errors import DataError
from onedial.core.maths.dispersion import subset_share


@dataclass(frozen=True)
class Estimate:
    """A mean over `num_prompts` prompts with an interval that contains the true mean at the stated level."""

    value: float
    low: float
    high: float
    num_prompts: int


def pass_at_k(n: int, c: int, k: int) -> float:
    """Chance that k of n samples include a correct one: 1 - C(n-c, k) / C(n, k) (arXiv:2107.03374, eq. 1).

    DataError unless 1 ≤ k ≤ n and 0 ≤ c ≤ n: with fewer samples than k there is no unbiased estimate.
    """
    _check_draw(n, k)
    if not 0 <= c <= n:
        raise DataError(f"c={c} correct samples: must lie in 0 … n={n}")
    return 1.0 - float(subset_share(n - c, n, k))


def maj_at_k(answers: Sequence[Hashable | None], correct: Sequence[bool], k: int) -> float:
    """Expected correctness of a majority vote among k of the n samples, exact, ties sharing credit equally.

    `answers` are the parsed answers in canonical form (equal answers vote together), None for an unparseable one,
    which does not vote; a draw in which nobody votes scores 0. An answer that was judged both ways counts with
    its share of correct verdicts.

    For each winning number of votes t, the draws are counted by a generating function: a loser brings
    Σ_{u<t} C(c,u)·x^u, a tied winner C(c,t)·x^t·y, and the credited winner C(c,t)·x^t times its credit; the power of
    x is the number of samples drawn, that of y the number of others that tie. Integers throughout, so no rounding.
    """
    n = len(answers)
    if len(correct) != n:
        raise DataError(f"maj@{k}: {n} answers but {len(correct)} verdicts; give one verdict per answer")
    _check_draw(n, k)
    right: dict[Hashable, int] = defaultdict(int)
    for answer, good in zip(answers, correct, strict=True):
        right[answer] += bool(good)
    votes = Counter(answer for answer in answers if answer is not None)
    classes = [(count, Fraction(right[answer], count)) for answer, count in votes.items()]
    silent = n - sum(votes.values())
    most = max(votes.values(), default=0)
    credit = sum((_vote_credit(classes, silent, k, winning) for winning in range(1, min(k, most) + 1)), Fraction(0))
    return float(credit / math.comb(n, k))


def _vote_credit(classes: Sequence[tuple[int, Fraction]], silent: int, k: int, winning: int) -> Fraction:
    """Σ over draws of k whose winners have `winning` votes, of the mean credit of the winners."""
    # (samples drawn, tied others) -> number of draws, without and with a credited winner
    plain: dict[tuple[int, int], int] = {(u, 0): math.comb(silent, u) for u in range(min(silent, k) + 1)}
    credited: dict[tuple[int, int], Fraction] = {}
    for count, credit in classes:
        ways = [math.comb(count, u) for u in range(min(count, winning) + 1)]
        next_plain: dict[tuple[int, int], int] = defaultdict(int)
        next_credited: dict[tuple[int, int], Fraction] = defaultdict(Fraction)
        for u, number in enumerate(ways):
            tie = int(u == winning)
            for (drawn, tied), total in plain.items():
                if drawn + u > k:
                    continue
                next_plain[drawn + u, tied + tie] += number * total
                if tie and credit:
                    next_credited[drawn + u, tied] += number * total * credit
            for (drawn, tied), part in credited.items():
                if drawn + u <= k:
                    next_credited[drawn + u, tied + tie] += number * part
        plain, credited = next_plain, next_credited
    return sum((part / (tied + 1) for (drawn, tied), part in credited.items() if drawn == k), Fraction(0))


def wilson_interval(successes: float, total: float, *, level: float = 0.95) -> tuple[float, float]:
    """Score interval of a proportion of independent trials (Wilson 1927); (0, 1) when there are no trials.

    `total` need not be whole: it may be an effective number of trials. The bound is exactly 0 (or 1) where no (or
    every) trial succeeded. Raises DataError unless 0 ≤ successes ≤ total.
    """
    _check_level(level)
    if not 0 <= successes <= total:
        raise DataError(f"successes={successes}: must lie in 0 … total={total}")
    if total == 0:
        return 0.0, 1.0
    return score_interval(successes / total, total, normal_quantile(level))


def mean_interval(values: Sequence[float], *, level: float = 0.95) -> Estimate:
    """Mean over prompts of any quantity, with Student's t interval; without bounds for a single prompt."""
    _check_level(level)
    n, mean = len(values), _mean(values)
    if n == 1:
        return Estimate(mean, -math.inf, math.inf, 1)
    reach = t_quantile(n - 1, level) * math.sqrt(variance(values, mean) / n)
    return Estimate(mean, mean - reach, mean + reach, n)


def share_interval(values: Sequence[float], *, level: float = 0.95) -> Estimate:
    """Mean over prompts of shares in [0, 1] (accuracies, pass@k), with a score interval that stays in [0, 1].

    The number of trials in Wilson's formula is the number of independent trials that would have the variance observed
    between prompts, m·(1-m) / (s²/n) (Kish's effective sample size; Dean and Pagano 2015). If that variance is 0
    because all prompts agree, it is at least one trial per prompt: thirty prompts all right do not prove 100 %.
    Student's quantile with n - 1 degrees allows for the variance being an estimate.
    """
    _check_level(level)
    if any(not 0 <= value <= 1 for value in values):
        raise DataError("share_interval: every value must lie in [0, 1]; use mean_interval for other quantities")
    n, mean = len(values), _mean(values)
    if n == 1:
        return Estimate(mean, 0.0, 1.0, 1)
    spread = variance(values, mean)
    trials = n * mean * (1 - mean) / spread if spread > 0 and 0 < mean < 1 else float(n)
    low, high = score_interval(mean, trials, t_quantile(n - 1, level))
    return Estimate(mean, low, high, n)


def mean_known(values: Iterable[float | None]) -> float | None:
    """Mean of the values that are not None; None without any."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def by_level(levels: Sequence[str], values: Sequence[float], *, level: float = 0.95) -> Mapping[str, Estimate]:
    """`share_interval` of each difficulty level, in the order of their names."""
    if len(levels) != len(values):
        raise DataError(f"{len(levels)} levels but {len(values)} values; give one level per prompt")
    parts: dict[str, list[float]] = defaultdict(list)
    for name, value in zip(levels, values, strict=True):
        parts[name].append(value)
    return {name: share_interval(parts[name], level=level) for name in sorted(parts)}


def score_interval(share: float, trials: float, quantile: float) -> tuple[float, float]:
    """Wilson's interval of `share` seen in `trials` (any number > 0), at a quantile of the normal or of Student's t.

    If at most two trials differ from the rest (three of more than fifty), Wilson's bound on their side is too near: a
    share of 0.2/n is covered in 82 % only. There the bound of a Poisson number is used, as in the modification of
    Brown, Cai and DasGupta (2001, section 4.1.1).
    """
    squared = quantile * quantile / trials
    center = (share + squared / 2) / (1 + squared)
    reach = quantile * math.sqrt(share * (1 - share) / trials + squared / (4 * trials)) / (1 + squared)
    # at the ends the algebra gives exactly 0 and 1, floating point nearly
    low = 0.0 if share <= 0 else max(0.0, min(center - reach, _rare_end(share, trials, quantile)))
    high = 1.0 if share >= 1 else min(1.0, max(center + reach, 1 - _rare_end(1 - share, trials, quantile)))
    return low, high


def _rare_end(share: float, trials: float, quantile: float) -> float:
    """The lower bound of a share of a few in many trials; 1 if they are not few."""
    if share * trials > (3 if trials > 50 else 2) * (1 + 1e-9):
        return 1.0
    return float(gammaincinv(share * trials, 2 * ndtr(-quantile))) / trials


def normal_quantile(level: float = 0.95) -> float:
    """z of a two-sided interval: 1.96 at 95 %."""
    return NormalDist().inv_cdf((1 + level) / 2)


def t_quantile(degrees: float, level: float = 0.95) -> float:
    """Student's quantile of a two-sided interval."""
    return float(stdtrit(degrees, (1 + level) / 2))


def _mean(values: Sequence[float]) -> float:
    if len(values) == 0:
        raise DataError("no values: an interval needs at least one prompt")
    return fmean(values)


def _check_draw(n: int, k: int) -> None:
    if not 1 <= k <= n:
        raise DataError(f"k={k}: must lie in 1 … n={n}, the samples of each prompt; draw more samples or lower k")


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise DataError(f"level={level}: must lie in (0, 1); 0.95 is usual")
