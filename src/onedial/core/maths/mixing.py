"""The distribution of solve rates behind counts of right answers.

Prompt x is solved with an unknown probability p_x; its log shows k right of n. The histogram of k/n is the
distribution of p blurred by binomial noise: with n = 8, 29 % of the prompts of p = ½ show k/n outside [3/8, 5/8].
The blur is undone by maximum likelihood over all distributions of p on [0, 1] (Kiefer & Wolfowitz 1956; Laird 1978),
on a grid that has 0 and 1 as points, or over a Beta distribution with extra mass at 0 and 1.

Everything works on a tally: the distinct (k, n) with the number of prompts of each, so that a million prompts cost
no more than a few hundred.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import betainc, betaln, xlogy

from onedial.core.maths.dispersion import mixed_probability

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Tally:
    """Distinct counts: `k` right of `n` judged, observed for `count` prompts (any real number ≥ 0, so that the
    bootstrap can reweight them); `groups` is the number of groups that the n rollouts came from. All of shape (C,)."""

    k: Array
    n: Array
    count: Array
    groups: Array

    @property
    def num_prompts(self) -> float:
        """Prompts in the tally."""
        return float(self.count.sum())


@dataclass(frozen=True)
class Mixing:
    """A distribution of solve rates: `mass` (sums to 1) on `points` ascending from 0 to 1, both (J,)."""

    points: Array
    mass: Array

    @property
    def mean(self) -> float:
        """E[p]."""
        return float(self.points @ self.mass)


def tally_counts(k: ArrayLike, n: ArrayLike, groups: ArrayLike | None = None) -> tuple[Tally, NDArray[np.int64]]:
    """The tally of per-prompt counts (all (N,)), and the number of each prompt's entry in it (N,)."""
    k, n = np.asarray(k, dtype=np.float64), np.asarray(n, dtype=np.float64)
    g = np.ones_like(n) if groups is None else np.asarray(groups, dtype=np.float64)
    rows, inverse, count = np.unique(np.stack([k, n, g], axis=1), axis=0, return_inverse=True, return_counts=True)
    tally = Tally(rows[:, 0].copy(), rows[:, 1].copy(), count.astype(np.float64), rows[:, 2].copy())
    return tally, inverse.reshape(-1).astype(np.int64)


def grid(most_tries: float) -> Array:
    """0, 1 and points between, evenly spaced on the arcsine scale, where binomial noise is the same everywhere.

    The step is about a quarter of the standard deviation of k/n at the largest n.
    """
    steps = int(np.clip(4 * np.pi * np.sqrt(max(most_tries, 1.0)), 80, 400)) // 2 * 2
    return np.asarray(np.sin(np.pi / 2 * np.arange(steps + 1) / steps) ** 2)


def log_likelihood(tally: Tally, points: Array, *, survivors_only: bool = False) -> Array:
    """log P(entry | p) up to a constant per entry, (C, J).

    The binomial likelihood also holds if sampling stopped because of its results (at the first success, for example):
    the stopping rule is a constant factor. It does not hold if silent groups were dropped before logging:
    `survivors_only` divides by P(mixed | p, G)^groups, with G = n/groups.
    """
    value = np.asarray(xlogy(tally.k[:, None], points) + xlogy((tally.n - tally.k)[:, None], 1.0 - points))
    if not survivors_only:
        return value
    mixed = mixed_probability(points, (tally.n / tally.groups)[:, None])
    with np.errstate(divide="ignore", invalid="ignore"):
        value = value - tally.groups[:, None] * np.log(mixed)
    # at p = 0 and 1 no group survives: the log has no information on those prompts
    return np.asarray(np.where(mixed > 0, value, -np.inf))


def npmle(tally: Tally, *, survivors_only: bool = False, start: Mixing | None = None, iterations: int = 400) -> Mixing:
    """Nonparametric maximum likelihood of the distribution of p, by EM on the grid.

    Its share of silent groups at any G ≤ n is the observed one, smoothed; beyond n it extrapolates.
    """
    points = grid(float(tally.n.max())) if start is None else start.points
    kernel = _kernel(tally, points, survivors_only)
    mass = np.full((1, points.size), 1.0 / points.size) if start is None else start.mass[None]
    return Mixing(points, em(kernel, tally.count[None], mass, iterations)[0])


def em(kernel: Array, counts: Array, mass: Array, iterations: int) -> Array:
    """EM for R mixtures at once: `kernel` (C, J), `counts` (R, C), `mass` (R, J) → (R, J)."""
    share = counts / counts.sum(axis=1, keepdims=True)
    mass = np.repeat(mass, share.shape[0], axis=0) if mass.shape[0] == 1 else mass
    for _ in range(iterations):
        density = mass @ kernel.T
        mass = mass * ((share / np.maximum(density, 1e-300)) @ kernel)
        mass = mass / mass.sum(axis=1, keepdims=True)
    return mass


def beta_with_ends(tally: Tally, *, survivors_only: bool = False) -> Mixing:
    """Maximum likelihood of w₀·[p = 0] + w₁·[p = 1] + (1 − w₀ − w₁)·Beta(a, b), on the grid.

    With `survivors_only` the weights of the ends are 0, because a prompt that is never or always solved leaves no
    trace. The likelihood of a entry is then that of its groups given that they were mixed, and the fit describes all
    prompts.
    """
    points = grid(float(tally.n.max()))
    kernel = _log_scale(tally)

    def loss(theta: Array) -> float:
        a, b = np.exp(theta[:2])
        if survivors_only:
            return -float(tally.count @ _truncated(tally, points, _beta_mass(points, a, b)))
        ends = np.exp([*theta[2:], 0.0]) / np.exp([*theta[2:], 0.0]).sum()
        inner = ends[2] * np.exp(betaln(tally.k + a, tally.n - tally.k + b) - betaln(a, b) - kernel)
        outer = ends[0] * (tally.k == 0) + ends[1] * (tally.k == tally.n)
        return -float(tally.count @ np.log(np.maximum(inner + outer, 1e-300)))

    start = np.array([0.0, 0.0]) if survivors_only else np.array([0.0, 0.0, -2.0, -2.0])
    bounds = [(-4.0, 5.0)] * 2 + [(-12.0, 6.0)] * (0 if survivors_only else 2)
    theta = _simplex(loss, start, bounds)
    mass = _beta_mass(points, *np.exp(theta[:2]))
    if not survivors_only:
        ends = np.exp([*theta[2:], 0.0]) / np.exp([*theta[2:], 0.0]).sum()
        mass = ends[2] * mass
        mass[0] += ends[0]
        mass[-1] += ends[1]
    return Mixing(points, mass / mass.sum())


def fit_prior(tally: Tally, *, steps: int = 10, survivors_only: bool = False) -> Mixing:
    """The prior for planning: the Beta with ends, moved `steps` EM steps towards the nonparametric fit.

    Compared with the plain NPMLE, the Beta with ends, and mixtures of both, it predicted held-out halves of real
    rollouts within 0.01 nats per prompt of the best in nearly every case: the full NPMLE overfits below about a
    thousand prompts or with three or four tries, and the Beta underfits tens of thousands of prompts. Logs that hold
    survivors only get the Beta alone.
    """
    fitted = beta_with_ends(tally, survivors_only=survivors_only)
    if survivors_only:
        return fitted
    start = Mixing(fitted.points, 0.95 * fitted.mass + 0.05 / fitted.mass.size)
    return npmle(tally, start=start, iterations=steps)


def _simplex(loss: Callable[[Array], float], start: Array, bounds: list[tuple[float, float]]) -> Array:
    """Minimizer of a function of two or four numbers, by simplex.

    A quasi-Newton method would call threaded linear algebra on 4 × 4 matrices, whose spinning threads cost a hundred
    times the fit on a busy machine. Restarted, since a simplex can collapse early.
    """
    best, value = start, np.inf
    for step in (1.0, -0.7, 0.5, -0.4):
        corners = np.clip(np.vstack([best, best + step * np.eye(len(best))]), *np.array(bounds).T)
        options = {"xatol": 3e-3, "fatol": 1e-2, "maxfev": 500, "initial_simplex": corners}
        found = minimize(loss, best, method="Nelder-Mead", bounds=bounds, options=options)
        best, gain, value = found.x, value - float(found.fun), float(found.fun)
        if gain < 0.05:
            break
    return np.asarray(best, dtype=np.float64)


def posterior(tally: Tally, prior: Mixing, *, survivors_only: bool = False) -> Array:
    """P(p = point | entry) under `prior`, (C, J); rows sum to 1."""
    with np.errstate(divide="ignore"):
        log = log_likelihood(tally, prior.points, survivors_only=survivors_only) + np.log(prior.mass)
    if survivors_only:
        # the prior is over all prompts, and a prompt is in the log only because one of its groups was mixed: the factor
        # P(mixed) of the first group cancels that of selection
        log = log + np.log(np.maximum(mixed_probability(prior.points, (tally.n / tally.groups)[:, None]), 1e-300))
    weight = np.exp(log - log.max(axis=1, keepdims=True))
    return np.asarray(weight / weight.sum(axis=1, keepdims=True))


def predictive_score(first: Tally, second_k: Array, second_n: Array, prior: Mixing) -> float:
    """Mean log-probability of later counts (k₂ of n₂) given the first, in nats per prompt; larger is better."""
    belief = posterior(first, prior)
    later = Tally(second_k, second_n, first.count, first.groups)
    with np.errstate(divide="ignore"):
        log = np.log(np.maximum(belief, 1e-300)) + log_likelihood(later, prior.points)
    top = log.max(axis=1)
    return float(first.count @ (top + np.log(np.exp(log - top[:, None]).sum(axis=1))) / first.num_prompts)


def _kernel(tally: Tally, points: Array, survivors_only: bool) -> Array:
    log = log_likelihood(tally, points, survivors_only=survivors_only)
    return np.asarray(np.exp(log - log.max(axis=1, keepdims=True)))


def _log_scale(tally: Tally) -> Array:
    """A scale for each entry's likelihood, its value at k/n, so that sums over many tries do not underflow."""
    rate = tally.k / tally.n
    return np.asarray(xlogy(tally.k, rate) + xlogy(tally.n - tally.k, 1 - rate))


def _truncated(tally: Tally, points: Array, mass: Array) -> Array:
    """log P(counts | each group was mixed, because only mixed groups were kept) for each entry."""
    log = log_likelihood(tally, points, survivors_only=True)
    mixed = mixed_probability(points, (tally.n / tally.groups)[:, None])
    # prompts enter the log in proportion to mass·mixed; the kernel conditions every group on being mixed
    entering = mass * mixed
    entering = entering / entering.sum(axis=1, keepdims=True)
    top = log.max(axis=1)
    value = (np.exp(log - top[:, None]) * entering).sum(axis=1)
    return np.asarray(np.log(np.maximum(value, 1e-300)) + top)


def _beta_mass(points: Array, a: float, b: float) -> Array:
    """Beta(a, b) on the grid: the probability between the midpoints around each point."""
    edges = np.concatenate([[0.0], (points[1:] + points[:-1]) / 2, [1.0]])
    # the share next to the ends goes to the neighboring inner point: 0 and 1 stay for prompts that are exactly there
    mass = np.diff(betainc(a, b, edges))
    mass[1] += mass[0]
    mass[-2] += mass[-1]
    mass[0] = mass[-1] = 0.0
    return np.asarray(mass)
