"""How much less old visits of a prompt count than new ones, if solve rates change during a log."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onedial.analysis.planning.counts import PromptCounts
from onedial.core.maths.mixing import Tally, fit_prior, predictive_score, tally_counts

Array = NDArray[np.float64]

DISCOUNTS = (1.0, 0.9, 0.8, 0.65, 0.5, 0.35, 0.2)
FEWEST_REVISITED = 30  # prompts seen twice or more before a discount is fitted


def find_discount(counts: PromptCounts) -> float:
    """The factor of `DISCOUNTS` under which earlier visits best predict the latest ones; 1.0 without enough history.

    The visit before the latest has weight 1, the one before it `factor`, then `factor`², and so on.
    """
    if counts.history is None:
        return 1.0
    prompt, iteration, k, n = counts.history
    age = _later_visits(prompt, iteration)
    latest = age == 0
    revisited = np.zeros(len(counts.ids), dtype=bool)
    revisited[prompt[~latest]] = True
    if revisited.sum() < FEWEST_REVISITED:
        return 1.0
    last_k, last_n = (_sum_by(prompt[latest], x[latest], len(counts.ids))[revisited] for x in (k, n))
    scores = []
    for factor in DISCOUNTS:
        weight = np.where(latest, 0.0, factor ** (age - 1.0))
        k1, n1 = (values[revisited] for values in _weighted_counts(counts, weight))
        each = np.ones(len(k1))
        scores.append(predictive_score(Tally(k1, n1, each, each), last_k, last_n, fit_prior(tally_counts(k1, n1)[0])))
    return DISCOUNTS[int(np.argmax(scores))]


def discount_visits(counts: PromptCounts, factor: float) -> tuple[Array, Array]:
    """(k, n) of each prompt with each visit weighted by factor^(number of later visits), rounded to quarters."""
    assert counts.history is not None
    prompt, iteration, _, _ = counts.history
    return _weighted_counts(counts, factor ** _later_visits(prompt, iteration).astype(np.float64))


def _weighted_counts(counts: PromptCounts, weight: Array) -> tuple[Array, Array]:
    """Weighted sums of each prompt's visits, to quarters, so that there are few distinct counts."""
    assert counts.history is not None
    prompt, _, k, n = counts.history
    total_k, total_n = (np.round(4 * _sum_by(prompt, weight * x, len(counts.ids))) / 4 for x in (k, n))
    total_n = np.maximum(total_n, 0.25)
    return np.minimum(total_k, total_n), total_n


def _later_visits(prompt: NDArray[np.int64], iteration: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each visit, how many later visits the same prompt had."""
    order = np.lexsort((iteration, prompt))
    ordered = prompt[order]
    last = np.searchsorted(ordered, ordered, side="right") - 1
    later = np.empty(len(prompt), dtype=np.int64)
    later[order] = last - np.arange(len(prompt))
    return later


def _sum_by(index: NDArray[np.int64], values: Array, size: int) -> Array:
    return np.bincount(index, weights=values, minlength=size).astype(np.float64)
