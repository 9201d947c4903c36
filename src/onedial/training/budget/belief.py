"""The belief about each prompt's solve rate while the policy trains.

The logit of prompt x is ℓ_x = w·f(x) + β_x: w are weights of features that prompts share (`features`), jointly
Gaussian; β_x is the prompt's own difficulty, N(0, OWN_STD²) until the prompt is sampled. k of n correct give the exact
posterior moments of ℓ_x, and the change is passed on to w and β_x in proportion to their covariance with ℓ_x, as in a
Kalman filter (assumed-density filtering; for a logit, the extended Kalman filter). If the policy improves on a level,
the belief therefore changes for all prompts of the level, sampled or not, and what was learned about a prompt's own
difficulty stays valid.

For a prompt that was sampled, the variance of its logit is stored, which includes both w and β_x: their covariance is
not stored for each prompt, and without it the evidence about the prompt would count for less than it should. Later
visits of the prompt change w in proportion to what was still unknown about its logit.

The policy changes, so knowledge becomes outdated: each iteration moves every variance back towards its prior by a share
`drift`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onedial.core.maths.logit_normal import RateMoments, rate_moments, update_logit
from onedial.training.budget.features import Described, prior_std

Array = NDArray[np.float64]
OWN_STD = 2.0  # of β_x, in logits; on a recorded run of the default model 1 to 2 predict about equally well
MOST_FEATURES = 256  # names that come later are left out: w has a full covariance
MOST_SAMPLED = 200_000  # prompts with an offset of their own; the one longest unsampled is forgotten first


@dataclass(frozen=True)
class Own:
    """What is known about a sampled prompt after `iteration`: the mean of β_x, and the variance of its logit."""

    offset: float
    variance: float
    iteration: int


@dataclass(frozen=True)
class Prediction:
    """The logits of some prompts, each N(mean, variance), and the moments of their solve rates; all (N,)."""

    mean: Array
    variance: Array
    rate: RateMoments

    def draw(self, rng: np.random.Generator) -> Array:
        """One solve rate of each prompt from its own belief (Thompson sampling)."""
        logits = self.mean + np.sqrt(self.variance) * rng.standard_normal(len(self.mean))
        return np.asarray(1.0 / (1.0 + np.exp(-logits)))

    def draw_spread(self, rng: np.random.Generator, explore: float) -> Array:
        """E[p(1 − p)] of each prompt after a share `explore` of the variance of its logit was drawn at random; 1 is
        Thompson sampling."""
        drawn = explore * self.variance
        logits = self.mean + np.sqrt(drawn) * rng.standard_normal(len(self.mean))
        return rate_moments(logits, self.variance - drawn).spread


@dataclass
class Belief:
    """A Gaussian belief on the logit of every prompt's solve rate; `drift` is the share forgotten per iteration."""

    drift: float = 0.02
    iteration: int = 0
    _names: dict[str, int] = field(default_factory=dict, repr=False)
    _mean: Array = field(default_factory=lambda: np.zeros(0), repr=False)
    _covariance: Array = field(default_factory=lambda: np.zeros((0, 0)), repr=False)
    _own: dict[str, Own] = field(default_factory=dict, repr=False)

    def advance(self, iteration: int) -> None:
        """Increases the uncertainty of the shared weights up to `iteration`; that of single prompts is increased when
        they are read."""
        kept = (1.0 - self.drift) ** max(0, iteration - self.iteration)
        prior = np.diag([prior_std(name) ** 2 for name in self._names])
        self._covariance = kept * self._covariance + (1.0 - kept) * prior
        self.iteration = max(iteration, self.iteration)

    def predict(self, prompts: Sequence[Described]) -> Prediction:
        """What is believed about prompts, sampled before or not."""
        rows = self._rows(prompts)
        shared = np.einsum("nf,fg,ng->n", rows, self._covariance, rows, optimize=True)
        mean, variance = rows @ self._mean, shared + OWN_STD**2
        for index, prompt in enumerate(prompts):
            own = self._own.get(prompt.id)
            if own is not None:
                kept = (1.0 - self.drift) ** max(0, self.iteration - own.iteration)
                mean[index] += own.offset
                variance[index] = kept * own.variance + (1.0 - kept) * variance[index]
        return Prediction(mean, variance, rate_moments(mean, variance))

    def observe(self, prompt: Described, solved: float, tries: float) -> None:
        """Updates the belief with `solved` of `tries` rollouts of a prompt; why there are that many tries does not
        matter."""
        if tries <= 0:
            return
        before = self.predict([prompt])
        mean, variance = float(before.mean[0]), float(before.variance[0])
        row = self._rows([prompt])[0]
        # of a fresh prompt Cov(w, ℓ) is S·f; of a known one the part of it that was still unknown
        shared = self._covariance @ row
        covariance = shared * (variance / (float(row @ shared) + OWN_STD**2))
        new_mean, new_variance = update_logit(mean, variance, solved, tries)
        moved, shrunk = (new_mean - mean) / variance, (variance - new_variance) / variance**2
        self._mean = self._mean + covariance * moved
        self._covariance = self._covariance - shrunk * np.outer(covariance, covariance)
        self._own.pop(prompt.id, None)
        self._own[prompt.id] = Own(new_mean - float(row @ self._mean), new_variance, self.iteration)
        if len(self._own) > MOST_SAMPLED:
            del self._own[next(iter(self._own))]

    def observe_all(self, counts: Iterable[tuple[Described, float, float]]) -> None:
        """Updates the belief with (prompt, solved, tries), in order: a prior from data known before training."""
        for prompt, solved, tries in counts:
            self.observe(prompt, solved, tries)

    def state(self) -> dict[str, Any]:
        """JSON values that `restore` takes; numbers keep every bit."""
        own = {name: [one.offset, one.variance, one.iteration] for name, one in self._own.items()}
        return {
            "iteration": self.iteration,
            "names": list(self._names),
            "mean": self._mean.tolist(),
            "covariance": self._covariance.tolist(),
            "own": own,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes a saved state."""
        self.iteration = int(state["iteration"])
        self._names = {name: index for index, name in enumerate(state["names"])}
        count = len(self._names)
        self._mean = np.array(state["mean"], dtype=np.float64).reshape(count)
        self._covariance = np.array(state["covariance"], dtype=np.float64).reshape(count, count)
        self._own = {name: Own(*values) for name, values in state["own"].items()}

    def _rows(self, prompts: Sequence[Described]) -> Array:
        """(N, F) features of prompts; a new feature name is added with its prior."""
        new = dict.fromkeys(name for prompt in prompts for name in prompt.features if name not in self._names)
        for name in list(new)[: MOST_FEATURES - len(self._names)]:
            self._names[name] = len(self._names)
            self._mean = np.append(self._mean, 0.0)
            self._covariance = np.pad(self._covariance, (0, 1))
            self._covariance[-1, -1] = prior_std(name) ** 2
        rows = np.zeros((len(prompts), len(self._names)))
        for row, prompt in zip(rows, prompts, strict=True):
            for name, value in prompt.features.items():
                if name in self._names:
                    row[self._names[name]] = value
        return rows
