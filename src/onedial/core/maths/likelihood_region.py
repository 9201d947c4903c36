"""Intervals for quantities of a distribution of solve rates, also where the tries do not determine them.

k right of n tries determine E[h(p)] if h is a polynomial of degree at most n: the mean, the variance, the silent share
of groups of G ≤ n. They determine nothing else: many distributions give the same counts but other silent shares at G >
n, or other shares of prompts between two rates. A bootstrap of one fitted distribution does not see that. Here the
interval is the profile-likelihood one: every value that some distribution attains whose log-likelihood is within
χ²(0.95)/2 of the maximum. With more prompts it becomes narrower if the tries determine the figure; otherwise it stops
at the bounds of what is possible.

χ² has one degree of freedom, and two at the low end of a convex h such as the silent share. The reason: of all
distributions with one mean, the point mass has the least E[h], so near it a lower E[h] contradicts both the observed
mean and the observed spread, and χ²₁ is too small (for prompts that are all equally hard it covers 83 to 88 % instead
of 95). `docs/decisions/intervals.md` has the simulated coverage.

The maximizations are convex; each step solves the quadratic approximation of the log-likelihood by nonnegative least
squares (Wang 2007, the constrained Newton method) with the constraint as a heavily weighted row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import nnls
from scipy.special import chdtri

from onedial.core.maths.mixing import Tally, grid, log_likelihood

Array = NDArray[np.float64]

LEVELS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64)
MOST_ENTRIES = 70  # distinct counts beyond which tries are thinned out to `LEVELS`
_EXACT = 1e6  # tries up to which drawing without replacement differs from drawing with it
_HEAVY = 1e3
_STEPS = 12
_PIVOTS = 60  # exchanges per point that NNLS may need; its own limit of 3 is too few for tens of thousands of prompts


@dataclass(frozen=True)
class LikelihoodRegion:
    """The distributions of p on `points` (J,) that the counts do not rule out at the 95 % level.

    `kernel` (C, J) is the likelihood of each entry of counts, scaled to at most 1, `share` (C,) its share of the
    prompts, `prompts` their number, `mass` (J,) the nonparametric maximum-likelihood distribution and `top` its mean
    log-likelihood per prompt.
    """

    points: Array
    kernel: Array
    share: Array
    prompts: float
    mass: Array
    top: float

    def interval(self, values: ArrayLike, given: ArrayLike = 1.0) -> tuple[float, float]:
        """95 % interval of E[h(p)·w(p)] / E[w(p)] with `values` h and `given` w ≥ 0 on the points, (J,) each.

        With w = 1 this is the mean of h over prompts; with w the likelihood of some counts, the mean of h over the
        prompts that showed these counts. The coverage is 95 % or more whether or not the tries determine it.
        """
        h = np.broadcast_to(np.asarray(values, dtype=np.float64), self.points.shape)
        w = np.broadcast_to(np.asarray(given, dtype=np.float64), self.points.shape)
        w = w / w.max()
        base = self.mass if w @ self.mass > 1e-9 else np.ones_like(self.mass)
        best = float((h * w) @ base / (w @ base))
        reached = h[w > 0]
        low, high = (_degrees(sign * h, self.points) for sign in (1, -1))
        return self._end(h, w, best, float(reached.min()), low), self._end(h, w, best, float(reached.max()), high)

    def _end(self, h: Array, w: Array, best: float, far: float, degrees: int) -> float:
        """The value nearest `far` that is within the region: where the root of the loss reaches its limit.

        That root is nearly linear in the value if the tries determine it, so a guarded secant needs few steps.
        """
        limit = float(np.sqrt(chdtri(degrees, 0.05) / (2 * self.prompts)))
        inside, outside, below, above = 0.0, 1.0, 0.0, np.inf
        for _ in range(_STEPS):
            part = 0.5 if above > 8 * limit else float(np.clip((limit - below) / (above - below), 0.15, 0.85))
            middle = inside + part * (outside - inside)
            loss = self.top - self._profile(w * (h - (best + middle * (far - best))))
            root = float(np.sqrt(max(loss, 0.0)))
            if root <= limit:
                inside, below = middle, root
            else:
                outside, above = middle, root
            if above - limit < 0.02 * limit or outside - inside < 1e-3:
                break
        return best + outside * (far - best)

    def _profile(self, row: Array) -> float:
        """The largest mean log-likelihood among distributions with row·mass = 0."""
        row = row / np.abs(row).max()
        excess = float(row @ self.mass)
        far = int(np.argmin(row) if excess > 0 else np.argmax(row))
        part = excess / (excess - row[far]) if excess else 0.0
        start = (1 - part) * self.mass
        start[far] += part
        return _climb(self.kernel, self.share, start, row)[1]


def _degrees(h: Array, points: Array) -> int:
    """Degrees of freedom of the likelihood ratio at the low end: 2 where h (J,) is convex and not linear, else 1."""
    bend = np.diff(np.diff(h) / np.diff(points))
    slack = 1e-9 * float(np.ptp(h))
    return 2 if bend.min(initial=0.0) >= -slack and bend.max(initial=0.0) > slack else 1


def likelihood_region(tally: Tally, points: Array | None = None) -> LikelihoodRegion:
    """The region of the counts in `tally`, on `points` or on a grid that is fine enough for the tries."""
    thin = _thin_out(tally)
    points = grid(float(thin.n.max())) if points is None else points
    log = log_likelihood(thin, points)
    kernel = np.exp(log - log.max(axis=1, keepdims=True))
    share = thin.count / thin.count.sum()
    mass, top = _climb(kernel, share, np.full(points.size, 1.0 / points.size), None, steps=60)
    return LikelihoodRegion(points, kernel, share, thin.num_prompts, mass, top)


def _climb(kernel: Array, share: Array, mass: Array, row: Array | None, *, steps: int = 12) -> tuple[Array, float]:
    """Maximize share·log(kernel @ mass) over distributions, with row·mass = 0 if given, from a feasible `mass`."""
    weight = np.sqrt(share)
    fixed = [np.ones_like(mass)] if row is None else [np.ones_like(mass), row]
    target = np.concatenate([2 * weight, [_HEAVY], np.zeros(len(fixed) - 1)])
    value = _mean_log(kernel @ mass, share)
    for _ in range(steps):
        scaled = kernel * (weight / (kernel @ mass))[:, None]
        found, _ = nnls(np.vstack([scaled, _HEAVY * np.stack(fixed)]), target, maxiter=_PIVOTS * len(mass))
        move = found / found.sum() - mass
        step, new = 1.0, _mean_log(kernel @ (mass + move), share)
        while new <= value and step > 1e-4:
            step /= 2
            new = _mean_log(kernel @ (mass + step * move), share)
        if new <= value:
            break
        mass, gain, value = mass + step * move, new - value, new
        if gain < 1e-6:
            break
    return mass, value


def _mean_log(density: Array, share: Array) -> float:
    return float(share @ np.log(np.maximum(density, 1e-300)))


def _thin_out(tally: Tally) -> Tally:
    """A tally with fewer distinct counts: the expected counts in a random subset of each prompt's tries.

    A subset of independent tries is binomial with the same rate, so the likelihood stays correct; some precision is
    lost, and so is what only tries beyond the largest of `LEVELS` would determine.
    """
    if len(tally.k) <= MOST_ENTRIES:
        return tally
    from scipy.stats import binom, hypergeom  # takes longer to load than the rest of the package

    whole = np.maximum(np.floor(tally.n), 1.0)
    right = np.clip(np.round(tally.k * whole / tally.n), 0, whole)
    level = np.array(LEVELS)[np.searchsorted(LEVELS, whole, side="right") - 1]
    k, n, count = [], [], []
    for size in np.unique(level):
        mine = level == size
        hits = np.arange(size + 1)[:, None]
        few = np.minimum(whole[mine], _EXACT)
        chance = np.where(
            whole[mine] <= _EXACT,
            hypergeom.pmf(hits, few, np.minimum(right[mine], few), size),
            binom.pmf(hits, size, right[mine] / whole[mine]),
        )
        k.append(hits[:, 0].astype(np.float64))
        n.append(np.full(size + 1, float(size)))
        count.append(chance @ tally.count[mine])
    total = np.concatenate(count)
    seen = total > 0
    return Tally(np.concatenate(k)[seen], np.concatenate(n)[seen], total[seen], np.ones(int(seen.sum())))
