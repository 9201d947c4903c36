"""What is believed of each prompt's solve rate after the tries it got.

The prior is shared by all prompts and fitted to them (empirical Bayes): `core.maths.mixing.smoothed`, chosen because it
predicted held-out halves of real rollouts best or within 0.01 nats of the best. A prompt's posterior is its
likelihood times that prior on a grid of solve rates; for export it is matched by a Beta(a, b).

The likelihood is binomial even when sampling stopped because of what was seen, e.g. at the first success: stopping
rules cancel in a posterior (they bias k/n, for which `inverse_sampling_rate` corrects). They do not cancel when
unanimous groups were thrown away before logging; then each group counts given that it was mixed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onedial.core.errors import DataError
from onedial.core.maths import dispersion
from onedial.core.maths.mixing import (
    Cells,
    Mixing,
    beta_with_ends,
    cells_of,
    em,
    log_likelihood,
    npmle,
    posterior,
    predictive_score,
    smoothed,
)

Array = NDArray[np.float64]

DISCOUNTS = (1.0, 0.9, 0.8, 0.65, 0.5, 0.35, 0.2)
FEWEST_REVISITED = 30  # prompts seen twice or more before a discount is fitted


@dataclass(frozen=True)
class PromptCounts:
    """Right answers per prompt: `k` right of `n` judged rollouts in `groups` groups, all (N,).

    tokens         mean completion tokens of a rollout of the prompt, or None where lengths are unknown
    survivors_only unanimous groups were dropped before logging
    history        (prompt number, iteration, k, n) per visit, or None; lets old evidence be discounted
    notes          what limits these counts, in words
    """

    ids: tuple[str, ...]
    k: Array
    n: Array
    groups: Array
    tokens: Array | None = None
    survivors_only: bool = False
    history: tuple[NDArray[np.int64], NDArray[np.int64], Array, Array] | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not len(self.ids):
            raise DataError("no prompt has counts: the planner needs right answers and tries per prompt")
        if (self.n <= 0).any() or (self.k < 0).any() or (self.k > self.n).any():
            bad = int(np.argmax((self.n <= 0) | (self.k < 0) | (self.k > self.n)))
            raise DataError(
                f"prompt {self.ids[bad]!r}: {self.k[bad]:g} right of {self.n[bad]:g} tries; needs 0 ≤ right ≤ tries "
                "and at least one try"
            )


@dataclass(frozen=True)
class Beliefs:
    """The fitted prior and every prompt's posterior, by cell of equal counts.

    `belief` (C, J) is the posterior of each cell on `prior.points`; `number` (N,) is each prompt's cell; `discount`
    is the factor by which a visit lost weight with each later one (1 = none).
    """

    counts: PromptCounts
    cells: Cells
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

    def silent(self, size: int, *, new_prompts: bool = True, seed: int = 0) -> tuple[float, tuple[float, float]]:
        """Expected silent share of one group of `size` per prompt, and a 95 % prediction interval.

        The interval is for the share that will be seen: with `new_prompts` over as many other prompts of the same
        kind, else over these prompts again. It holds the uncertainty of the prior (bootstrap over prompts), the luck
        of the groups, and, for sizes beyond the tries logged, the spread between the nonparametric and the Beta fit.
        """
        silent = dispersion.silent_probability(self.prior.points, size)
        beyond = bool(size > np.median(self.cells.n[self.number]))
        per_cell = self.belief @ silent
        total = self.cells.num_prompts
        value = float(self.cells.count @ per_cell / total)
        spread = np.asarray(self.replicates(seed, refit=beyond) @ silent, dtype=np.float64)
        estimate = float(np.std(spread))
        if new_prompts:
            luck = value * (1 - value) / total
        else:
            luck = float(self.cells.count @ (per_cell * (1 - per_cell))) / total**2
            within = float(self.cells.count @ (per_cell - value) ** 2) / total**2
            estimate = float(np.sqrt(max(estimate**2 - within, 0.0)))
        half = 1.959963984540054 * float(np.sqrt(estimate**2 + luck))
        values = [value]
        if beyond and not self.counts.survivors_only:
            values += [float(silent @ other.mass) for other in self.others]
        return value, (max(0.0, min(values) - half), min(1.0, max(values) + half))

    def replicates(self, seed: int, replicates: int = 60, *, refit: bool = False) -> Array:
        """Priors refitted to prompts drawn with replacement, (R, J); a third as many with `refit`.

        Without `refit` each starts from the fitted prior, which is enough for what the tries determine; its tails,
        which decide larger groups, move only when the Beta is fitted afresh.
        """
        rng = np.random.default_rng(seed)
        share = self.cells.count / self.cells.count.sum()
        counts = rng.multinomial(round(self.cells.num_prompts), share, size=replicates).astype(np.float64)
        if refit or self.counts.survivors_only:
            chosen = counts[: max(2, replicates // 3)]
            return np.stack([_fit(_with(self.cells, row), self.counts.survivors_only).mass for row in chosen])
        log = log_likelihood(self.cells, self.prior.points)
        kernel = np.exp(log - log.max(axis=1, keepdims=True))
        start = 0.95 * self.prior.mass + 0.05 / self.prior.mass.size
        return em(kernel, counts, start[None], 20)


def believe(counts: PromptCounts) -> Beliefs:
    """Fit the prior to all prompts and give each its posterior.

    Visits in different iterations count less the older they are, by the factor that best predicts each prompt's
    latest visit from the earlier ones (1 when fewer than 30 prompts were visited twice).
    """
    discount = 1.0 if counts.survivors_only else best_discount(counts)
    k, n = (counts.k, counts.n) if discount == 1.0 else discounted(counts, discount)
    cells, number = cells_of(k, n, counts.groups if counts.survivors_only else None)
    prior = _fit(cells, counts.survivors_only)
    belief = posterior(cells, prior, survivors_only=counts.survivors_only)
    others = () if counts.survivors_only else (npmle(cells), beta_with_ends(cells))
    return Beliefs(counts, cells, number, prior, belief, discount, others)


def best_discount(counts: PromptCounts) -> float:
    """The factor of `DISCOUNTS` under which earlier visits predict the latest best; 1.0 without enough history."""
    if counts.history is None:
        return 1.0
    prompt, iteration, k, n = counts.history
    age = _age(prompt, iteration)
    latest = age == 0
    revisited = np.zeros(len(counts.ids), dtype=bool)
    revisited[prompt[~latest]] = True
    if revisited.sum() < FEWEST_REVISITED:
        return 1.0
    last_k, last_n = (_sum_by(prompt[latest], x[latest], len(counts.ids))[revisited] for x in (k, n))
    scores = []
    for factor in DISCOUNTS:
        weight = np.where(latest, 0.0, factor ** (age - 1.0))
        k1, n1 = (_quarters(_sum_by(prompt, weight * x, len(counts.ids)))[revisited] for x in (k, n))
        n1 = np.maximum(n1, 0.25)
        k1 = np.minimum(k1, n1)
        prior = smoothed(cells_of(k1, n1)[0])
        each = np.ones(len(k1))
        scores.append(predictive_score(Cells(k1, n1, each, each), last_k, last_n, prior))
    return DISCOUNTS[int(np.argmax(scores))]


def discounted(counts: PromptCounts, factor: float) -> tuple[Array, Array]:
    """(k, n) of each prompt with each visit weighed by factor^(number of later visits), to quarters."""
    assert counts.history is not None
    prompt, iteration, k, n = counts.history
    weight = factor ** _age(prompt, iteration).astype(np.float64)
    kd, nd = (_quarters(_sum_by(prompt, weight * x, len(counts.ids))) for x in (k, n))
    nd = np.maximum(nd, 0.25)
    return np.minimum(kd, nd), nd


def inverse_sampling_rate(k: ArrayLike, n: ArrayLike) -> Array:
    """Unbiased solve rate when sampling stopped at the k-th success, at try n: (k−1)/(n−1) (Haldane 1945).

    k/n is biased upwards: stopping at the first success gives E[1/n] = −p·ln p/q, .256 for p = .1. NaN for k < 2, where
    no unbiased estimate other than [n = 1] exists.
    """
    k, n = np.asarray(k, dtype=np.float64), np.asarray(n, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(k >= 2, (k - 1) / (n - 1), np.nan))


def _fit(cells: Cells, survivors_only: bool) -> Mixing:
    return smoothed(cells, survivors_only=survivors_only)


def _with(cells: Cells, count: Array) -> Cells:
    return Cells(cells.k, cells.n, count, cells.groups)


def _age(prompt: NDArray[np.int64], iteration: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each visit, how many later visits the same prompt had."""
    order = np.lexsort((iteration, prompt))
    ordered = prompt[order]
    last = np.searchsorted(ordered, ordered, side="right") - 1
    age = np.empty(len(prompt), dtype=np.int64)
    age[order] = last - np.arange(len(prompt))
    return age


def _sum_by(index: NDArray[np.int64], values: Array, size: int) -> Array:
    return np.bincount(index, weights=values, minlength=size).astype(np.float64)


def _quarters(values: Array) -> Array:
    """Rounded to quarters, so that discounted counts fall into few cells."""
    return np.asarray(np.round(4 * values) / 4)
