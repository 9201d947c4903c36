"""The belief about each prompt's solve rate, given the tries it had.

All prompts share one prior, which is fitted to them (empirical Bayes): `core.maths.mixing.fit_prior`, chosen because it
predicted held-out halves of real rollouts best or within 0.01 nats of the best. The posterior of a prompt is its
likelihood times that prior on a grid of solve rates; for export it is approximated by a Beta(a, b) with the same mean
and variance.

The likelihood is binomial even if sampling stopped because of its results, for example at the first success: stopping
rules cancel in a posterior. They do not cancel if silent groups were removed before logging; then each group is counted
given that it was mixed.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from onedial.analysis.planning.counts import PromptCounts
from onedial.analysis.planning.discount import discount_visits, find_discount
from onedial.core.maths import dispersion
from onedial.core.maths.estimators import normal_quantile
from onedial.core.maths.likelihood_region import LikelihoodRegion, likelihood_region
from onedial.core.maths.mixing import (
    Mixing,
    Tally,
    beta_with_ends,
    em,
    fit_prior,
    log_likelihood,
    npmle,
    posterior,
    tally_counts,
)

Array = NDArray[np.float64]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Beliefs:
    """The fitted prior and every prompt's posterior, by entry of the tally of counts.

    `belief` (C, J) is the posterior of each entry on `prior.points`; `number` (N,) is each prompt's entry; `discount`
    is the factor by which a visit lost weight with each later one (1 = none); `others` are the nonparametric and the
    Beta fit, between which the prior lies.
    """

    counts: PromptCounts
    tally: Tally
    number: NDArray[np.int64]
    prior: Mixing
    belief: Array
    discount: float = 1.0
    others: tuple[Mixing, ...] = field(default=(), repr=False)

    def mean(self) -> Array:
        """E[p] of each prompt, (N,)."""
        return np.asarray((self.belief @ self.prior.points)[self.number])

    def mixed(self, size: int) -> Array:
        """P(a group of `size` is mixed) of each prompt, (N,): expectation over the posterior, not at its mean."""
        return np.asarray((self.belief @ dispersion.mixed_probability(self.prior.points, size))[self.number])

    def beta(self) -> tuple[Array, Array]:
        """(a, b) of the Beta with each posterior's mean and variance, (N,) each."""
        p = self.prior.points
        mean = self.belief @ p
        variance = np.maximum(self.belief @ p**2 - mean**2, 1e-12)
        # a posterior wholly on 0 or 1 keeps a finite weight, so that it can be revised
        mean = np.clip(mean, 1e-6, 1 - 1e-6)
        weight = np.clip(mean * (1 - mean) / variance - 1, 0.02, 1e6)
        return np.asarray((mean * weight)[self.number]), np.asarray(((1 - mean) * weight)[self.number])

    @cached_property
    def region(self) -> LikelihoodRegion:
        """The distributions of solve rates that the counts do not rule out."""
        return likelihood_region(self.tally, self.prior.points)

    def silent(self, size: int, *, new_prompts: bool = True, seed: int = 0) -> tuple[float, Interval]:
        """Expected silent share of one group of `size` per prompt, and a 95 % prediction interval.

        The interval is for the share that will be observed: with `new_prompts` over as many other prompts of the same
        kind, else over these prompts again. It adds the random variation of those groups to the uncertainty of the
        expectation. For sizes beyond the logged tries the latter is mostly a range of possible values.
        """
        silent = dispersion.silent_probability(self.prior.points, size)
        per_entry = self.belief @ silent
        total = self.tally.num_prompts
        value = float(self.tally.count @ per_entry / total)
        low, high = self._expected(silent, value, seed)
        if new_prompts:
            luck = value * (1 - value) / total
        else:
            # these prompts are given, not drawn: what differs between them is no uncertainty
            luck = float(self.tally.count @ (per_entry * (1 - per_entry) - (per_entry - value) ** 2)) / total**2
        return value, _widen(value, low, high, luck)

    def predict_silent(self, chosen: NDArray[np.bool_], size: int, *, seed: int = 0) -> tuple[float, Interval]:
        """The same for one group of `size` of each prompt in `chosen` (N,), which were chosen by their counts."""
        if not chosen.any():
            return float("nan"), (0.0, 1.0)
        funded = np.bincount(self.number[chosen], minlength=len(self.tally.k)) / chosen.sum()
        silent = dispersion.silent_probability(self.prior.points, size)
        per_entry = self.belief @ silent
        value = float(funded @ per_entry)
        if self.counts.survivors_only:
            found = [float(funded @ self.posterior_under(mass) @ silent) for mass in self.replicates(seed, 20)]
            low, high = min(value, *found), max(value, *found)
        else:
            # the likelihood of the funded prompts' counts, each scaled by its density under the prior
            given = np.divide(
                funded @ self.belief, self.prior.mass, out=np.zeros_like(silent), where=self.prior.mass > 0
            )
            low, high = self.region.interval(silent, given)
        luck = float(funded @ (per_entry * (1 - per_entry))) / float(chosen.sum())
        return value, _widen(value, min(low, value), max(high, value), luck)

    def posterior_under(self, mass: Array) -> Array:
        """The posterior of each entry (C, J) under another prior with `mass` (J,)."""
        return posterior(self.tally, replace(self.prior, mass=mass), survivors_only=self.counts.survivors_only)

    def replicates(self, seed: int, replicates: int = 60) -> Array:
        """Priors refitted to prompts drawn with replacement, (R, J)."""
        rng = np.random.default_rng(seed)
        share = self.tally.count / self.tally.count.sum()
        counts = rng.multinomial(round(self.tally.num_prompts), share, size=replicates).astype(np.float64)
        if self.counts.survivors_only:
            return np.stack([fit_prior(replace(self.tally, count=row), survivors_only=True).mass for row in counts])
        log = log_likelihood(self.tally, self.prior.points)
        kernel = np.exp(log - log.max(axis=1, keepdims=True))
        start = 0.95 * self.prior.mass + 0.05 / self.prior.mass.size
        return em(kernel, counts, start[None], 20)

    def _expected(self, values: Array, value: float, seed: int) -> Interval:
        """95 % interval of the expectation of `values` over prompts of this kind."""
        if self.counts.survivors_only:
            half = normal_quantile() * float(np.std(self.replicates(seed, 20) @ values))
            return value - half, value + half
        low, high = self.region.interval(values)
        return min(low, value), max(high, value)


def believe(counts: PromptCounts) -> Beliefs:
    """Fits the prior to all prompts and computes the posterior of each.

    Visits in different iterations count less the older they are, by the factor that best predicts each prompt's latest
    visit from the earlier ones (1 if fewer than 30 prompts were visited twice).
    """
    discount = 1.0 if counts.survivors_only else find_discount(counts)
    k, n = (counts.k, counts.n) if discount == 1.0 else discount_visits(counts, discount)
    tally, number = tally_counts(k, n, counts.groups if counts.survivors_only else None)
    prior = fit_prior(tally, survivors_only=counts.survivors_only)
    belief = posterior(tally, prior, survivors_only=counts.survivors_only)
    others = () if counts.survivors_only else (npmle(tally), beta_with_ends(tally))
    return Beliefs(counts, tally, number, prior, belief, discount, others)


def _widen(value: float, low: float, high: float, variance: float) -> Interval:
    """The interval (low, high) of an expectation `value`, widened by independent random variation of that
    `variance`."""
    luck = normal_quantile() ** 2 * variance
    below, above = (float(np.sqrt(max((value - end) ** 2 + luck, 0.0))) for end in (low, high))
    return max(0.0, value - below), min(1.0, value + above)
