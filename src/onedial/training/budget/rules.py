"""Published rules of allocation, as pure functions of a belief; the noise-aware rule is in `noise_aware`.

Each follows its paper's rule for prompts and tries. Where a paper estimates solve rates in its own way (Beta counts, a
Gaussian process on embeddings), this project's belief is used instead, so that a comparison compares the rules only.
"""

from __future__ import annotations

import heapq

import numpy as np

from onedial.training.budget.noise_aware import choose_noise_aware
from onedial.training.budget.scene import Array, Counts, Decision, Rule, Scene


def choose_nearest(scene: Scene) -> Decision:
    """MoPPS (arXiv:2507.04632, Eq. 8): the prompts whose drawn solve rate is nearest to the target, a group of each."""
    order = np.argsort(np.abs(scene.drawn - scene.row.target), kind="stable")
    tries = np.zeros(len(order), dtype=np.int64)
    tries[order[: round(scene.budget / scene.group_size)]] = scene.group_size
    return Decision(tries)


def choose_single(scene: Scene) -> Decision:
    """SPO (arXiv:2509.13232, §3.3): one rollout each of prompts drawn without replacement, by √(p(1 − p)) + ε."""
    mean = scene.predicted.rate.mean
    weight = np.sqrt(mean * (1.0 - mean)) + scene.row.exploration
    tries = np.zeros(len(mean), dtype=np.int64)
    count = min(round(scene.budget), len(mean))
    tries[scene.rng.choice(len(mean), size=count, replace=False, p=weight / weight.sum())] = 1
    return Decision(tries)


def choose_least_variance(scene: Scene) -> Decision:
    """VIP (arXiv:2602.01601): min Σ pq/(n − 1) for the given prompts, least ≤ n ≤ most, so that n − 1 ∝ √(pq).

    Integer and exact: the next rollout goes where it lowers the sum most, by pq/((n − 1)n).
    """
    least, most, spread = scene.row.least, scene.row.most, scene.predicted.rate.spread
    tries = np.full(len(spread), max(2, least), dtype=np.int64)
    left = round(scene.budget) - int(tries.sum())
    gains = [(-float(s) / (n * (n - 1)), i) for i, (s, n) in enumerate(zip(spread, tries.tolist(), strict=True))]
    heapq.heapify(gains)
    while left > 0 and gains:
        _, i = heapq.heappop(gains)
        if tries[i] >= most:
            continue
        tries[i] += 1
        left -= 1
        n = int(tries[i])
        heapq.heappush(gains, (-float(spread[i]) / (n * (n - 1)), i))
    return Decision(tries)


def choose_by_fidelity(scene: Scene) -> Decision:
    """arXiv:2607.00152: a fidelity of 1 − ε needs G ≥ 1/(8εpq), so tries ∝ 1/(pq), between least and most.

    ε is the smallest that the budget allows. pq is the belief's mean of p(1 − p).
    """
    return Decision(scale_to_budget(1.0 / np.maximum(scene.predicted.rate.spread, 1e-6), scene))


def scale_to_budget(wanted: Array, scene: Scene) -> Counts:
    """Tries in proportion to `wanted`, between the row's least and most, that add up to the budget if possible."""
    least, most = scene.row.least, scene.row.most
    low, high = 0.0, float(most / wanted.min())
    for _ in range(60):
        middle = (low + high) / 2
        if np.clip(middle * wanted, least, most).sum() > scene.budget:
            high = middle
        else:
            low = middle
    exact = np.clip(low * wanted, least, most)
    tries = np.floor(exact).astype(np.int64)
    left = int(round(min(scene.budget, float(exact.sum())))) - int(tries.sum())
    order = np.argsort(tries - exact, kind="stable")
    tries[order[: max(0, left)]] += 1
    return np.asarray(np.minimum(tries, most))


RULES: dict[str, Rule] = {
    "mopps": choose_nearest,
    "spo": choose_single,
    "vip": choose_least_variance,
    "paper": choose_by_fidelity,
    "adaptive": choose_noise_aware,
}
IN_TURN = ("vip", "paper")
"""Rules that choose tries only: their prompts are the next of the stream, so that every group checks the belief."""
