"""Spends rollouts where they give the most signal over noise per token: the rule of the `adaptive` allocator.

The gradient of prompt x points along ∇p_x with a signal proportional to σ² = pq; m effective tries average out its
noise. A sum of prompt gradients with the best weights has a squared cosine with the whole gradient that increases with

    Σ_x U_x(m_x),   U_x(m) = m·σ_x² / (1 + ρ·m·σ_x²),   best weight w_x ∝ m_x / (1 + ρ·m_x·σ_x²),

where ρ is the signal of one rollout divided by its noise: with small ρ every rollout counts the same, with large ρ
further rollouts of the same prompt add nothing. Each prompt gets the tries that maximize U_x(m(n)) − λ·cost·n, with the
price λ at which the budget is spent.

σ_x² is E[pq] under a belief of which a share `explore` of the variance was drawn at random (Thompson sampling), never
pq at the mean rate. So a prompt wrongly believed to be hopeless is tried again now and then, which a choice by the mean
would never do. The rest of the variance is averaged: among hundreds of new prompts a full draw would mostly select the
most extreme draws, and these prompts are no nearer to 1/2 than others.
"""

from __future__ import annotations

import numpy as np

from onedial.core.maths.expectation import effective_tries
from onedial.training.budget.scene import Array, Counts, Decision, Scene

_HALVINGS = 50


def learning_value(tries: Array, spread: Array, rho: float) -> Array:
    """U(m) = m·σ²/(1 + ρ·m·σ²) of m effective tries at σ² = `spread`. Shapes broadcast."""
    return np.asarray(tries * spread / (1.0 + rho * tries * spread))


def prompt_weight(tries: Array, spread: Array, rho: float) -> Array:
    """w ∝ m/(1 + ρ·m·σ²): the weight of a prompt's mean gradient after m effective tries. Shapes broadcast."""
    return np.asarray(tries / (1.0 + rho * tries * spread))


def choose_noise_aware(scene: Scene) -> Decision:
    """The prompts and tries with the largest Σ U within the budget, or prompts drawn with known probabilities."""
    if scene.row.unbiased:
        return _draw_by_chance(scene)
    return Decision(spend(_gains(scene), scene.cost, scene.budget))


def _gains(scene: Scene) -> Array:
    """(N, most + 1) what 0 … most further tries add to U at the drawn spread; −∞ between 0 and `least`."""
    row, spread = scene.row, scene.predicted.draw_spread(scene.rng, scene.row.explore)[:, None]
    tries = np.arange(row.most + 1, dtype=np.float64)[None, :]
    further = effective_tries(tries, scene.predicted.rate.strength[:, None])
    before = scene.value[:, None]
    gains = learning_value(before + further, spread, row.rho) - learning_value(before, spread, row.rho)
    gains[:, 1 : row.least] = -np.inf
    return np.asarray(gains)


def spend(gains: Array, cost: Array, budget: float) -> Counts:
    """(N,) tries n maximizing Σ gains[x, n_x] at a total cost of at most `budget`, by the price λ of a rollout.

    `gains` (N, most + 1) by number of tries, `cost` (N,) of one try. At a given price every prompt takes the number
    that is best for it. The lowest price that the budget allows is found by bisection, and the rest is spent where it
    gains most.
    """
    steps = np.arange(gains.shape[1], dtype=np.float64)[None, :] * cost[:, None]

    def taken(price: float) -> Counts:
        return np.asarray(np.argmax(gains - price * steps, axis=1))

    def price_of(tries: Counts) -> float:
        return float((tries * cost).sum())

    if price_of(taken(0.0)) <= budget:
        return taken(0.0)
    low, high = 0.0, float((gains[:, 1:].max(axis=1) / cost).max()) + 1e-9
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if price_of(taken(middle)) > budget else (low, middle)
    return _spend_rest(gains, cost, taken(high), budget)


def _spend_rest(gains: Array, cost: Array, tries: Counts, budget: float) -> Counts:
    """Spends the rest of the budget: repeatedly makes the affordable change that gains most."""
    numbers = np.arange(gains.shape[1])[None, :]
    while True:
        left = budget - float((tries * cost).sum())
        further = (numbers - tries[:, None]) * cost[:, None]
        more = gains - gains[np.arange(len(cost)), tries][:, None]
        more = np.where((further > 0) & (further <= left + 1e-9), more, 0.0)
        x, n = np.unravel_index(int(np.argmax(more)), more.shape)
        if more[x, n] <= 0:
            return tries
        tries[x] = n


def _draw_by_chance(scene: Scene) -> Decision:
    """A group each of `prompts` prompts, drawn with probability at least `floor` of uniform sampling's, else ∝ √U."""
    row, rate = scene.row, scene.predicted.rate
    worth = learning_value(effective_tries(float(scene.group_size), rate.strength), rate.spread, row.rho)
    count = min(scene.prompts, len(worth))
    inclusion = inclusion_probabilities(np.sqrt(worth), count, row.floor)
    funded = systematic_sample(inclusion, float(scene.rng.random()), scene.rng.permutation(len(worth)))
    tries = np.zeros(len(worth), dtype=np.int64)
    tries[funded] = min(scene.group_size, row.most)
    return Decision(tries, inclusion)


def inclusion_probabilities(worth: Array, count: int, floor: float) -> Array:
    """(N,) probabilities that add up to `count`: `floor`·count/N for all, the rest in proportion to `worth`, at most 1.

    Proportional to the standard deviation of a prompt's gradient they give the least variance (Neyman).
    """
    size = len(worth)
    if count >= size:
        return np.ones(size)
    share = worth / worth.sum() if worth.sum() > 0 else np.full(size, 1.0 / size)
    wanted = count * (floor / size + (1.0 - floor) * share)
    fixed = np.zeros(size, dtype=bool)
    while (over := ~fixed & (wanted >= 1.0)).any():
        fixed |= over
        free = ~fixed
        wanted = np.where(fixed, 1.0, wanted * (count - fixed.sum()) / wanted[free].sum())
    return np.asarray(wanted)


def systematic_sample(inclusion: Array, start: float, order: Counts) -> Counts:
    """Indices drawn with exactly these probabilities (Madow 1949), as many as they add up to.

    The cumulative sums of the probabilities, in a random `order`, are cut at start, start + 1, …; `start` is uniform
    in [0, 1).
    """
    ends = np.cumsum(inclusion[order])
    ends[-1] = round(float(ends[-1]))
    cuts = np.arange(start, ends[-1], 1.0)
    return np.asarray(np.sort(order[np.searchsorted(ends, cuts, side="right")]))
