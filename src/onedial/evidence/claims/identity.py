"""The identity: a group's gradient is σ̂^(2−α)·(s̄₊ − s̄₋), measured group by group on a real language model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import nnls

from onedial.core.algorithm import Algorithm
from onedial.core.algorithm_table import ALGORITHMS
from onedial.evidence.claim import Check, Claim, Json, Setup, check_range, list_seed_units, parse_seed
from onedial.evidence.statistics import Array, bootstrap_interval, correlate, explained_share

if TYPE_CHECKING:
    from torch import Tensor

    from onedial.core.batch import Batch
    from onedial.core.types import Group
    from onedial.evidence.lesson import Lesson

SIZE, PROMPTS, SEEDS = 8, 16, (0, 1, 2)
DIALS = (0.0, 0.5, 1.0, 2.0)
EXACT_GROUPS = 2  # of each seed: every α by its own backward pass
PUBLISHED = 0.92  # the correlation that a review of arXiv:2607.00152 reports


def make_dial_row(dial: float) -> Algorithm:
    """Returns GRPO without KL and without length normalizer, at α = `dial`: scores are those of whole sequences."""
    return replace(ALGORITHMS["naive_grpo"], name="row", dial=dial, aggregate="sequence_sum", eps=1e-12)


def _measure(setup: Setup, unit: str) -> Json:
    """Gradient norms of every group of one seed, before a policy moves and after an iteration of four updates."""
    from onedial.evidence.lesson import Lesson, vector_norm

    lesson = Lesson(setup, replace(make_dial_row(1.0), updates_per_iteration=4))
    groups = lesson.sample(4 if setup.quick else PROMPTS, SIZE, parse_seed(unit))
    mixed = [group for group in groups if group.mixed]
    batches = [lesson.batch(make_dial_row(0.0), [group]) for group in mixed]
    measured: Json = {
        "correct": [sum(bool(rollout.verdict.correct) for rollout in group.usable) for group in groups],
        "size": [len(group.usable) for group in groups],
        "mixed": [int(group.mixed) for group in groups],
        "difference_norm": [],
        "errors": {f"{dial:g}": [] for dial in DIALS},
    }
    for number, batch in enumerate(batches):
        difference = _take_difference(lesson, batch)
        measured["difference_norm"].append(vector_norm(difference))
        if number < EXACT_GROUPS:
            sigma = float(batch["reward"].std(correction=0))
            for dial in DIALS:
                error = _compare(lesson, lesson.batch(make_dial_row(dial), [mixed[number]]), dial, sigma, difference)
                measured["errors"][f"{dial:g}"].append(error)
    return measured | _measure_clipped(lesson, groups, batches)


def _take_difference(lesson: Lesson, batch: Batch) -> Tensor:
    """s̄₊ − s̄₋ by one backward pass of its own, from log-probabilities alone: no advantage, no loss of a row."""
    import torch

    from onedial.training.lm.attention import use_layout
    from onedial.training.trainer.gradients import flatten

    logp, layout = lesson.policy.logps(batch)
    right = batch["reward"] == batch["reward"].max()
    weight = torch.where(right, 1 / right.sum(), -1 / (~right).sum())[batch.rollout_of_token]
    with use_layout(layout):
        return flatten(torch.autograd.grad((weight * logp).sum(), lesson.policy.weights.parameters))


def _compare(lesson: Lesson, batch: Batch, dial: float, sigma: float, difference: Tensor) -> float:
    """‖g − σ̂^(2−α)(s̄₊ − s̄₋)‖/‖g‖ with g from the product's own loss."""
    from onedial.evidence.lesson import vector_norm
    from onedial.training.trainer.gradients import flatten, take_gradient

    got = take_gradient(lesson.policy, make_dial_row(dial), batch, lesson.policy.weights.parameters, flatten)
    size = vector_norm(got)
    got -= sigma ** (2 - dial) * difference
    return vector_norm(got) / size


def _measure_clipped(lesson: Lesson, groups: list[Group], batches: list[Batch]) -> Json:
    """Norms at α = 0 after one iteration of four updates on these groups, where the clip stops some tokens.

    The clip looks at the sign of the advantage alone, so the norm at any α is that at 0 over σ̂^α.
    """
    from onedial.core.maths.surrogate import clipped_tokens
    from onedial.evidence.lesson import vector_norm
    from onedial.training.trainer.gradients import flatten, take_gradient
    from onedial.training.trainer.policy import evaluate_logps
    from onedial.training.trainer.step import update

    policy, row = lesson.policy, make_dial_row(0.0)
    old = [evaluate_logps(policy, batch) for batch in batches]
    update(policy, None, lesson.batch(lesson.run.algorithm, groups), 1, lambda *progress: None)
    norms, stopped, tokens = [], 0, 0
    for batch, before in zip(batches, old, strict=True):
        batch = batch.annotate(old_logp=before)
        norms.append(vector_norm(take_gradient(policy, row, batch, policy.weights.parameters, flatten)))
        ratio = (evaluate_logps(policy, batch) - before).exp()
        low, high = clipped_tokens(ratio, batch["advantage"][batch.rollout_of_token], row)
        stopped, tokens = stopped + int((low | high).sum()), tokens + len(ratio)
    return {"clipped_norm": norms, "clipped_share": stopped / max(tokens, 1)}


def _figures(measured: Mapping[str, Json]) -> Json:
    columns = {name: np.concatenate([np.asarray(unit[name], float) for unit in measured.values()]) for name in (
        "correct", "size", "mixed", "difference_norm", "clipped_norm")}  # fmt: skip
    right, size, mixed = columns["correct"], columns["size"], columns["mixed"].astype(bool)
    sigma = np.sqrt(right * (size - right)) / size
    errors = {
        dial: max((error for unit in measured.values() for error in unit["errors"][dial]), default=None)
        for dial in (f"{dial:g}" for dial in DIALS)
    }
    norms = {}
    for dial in (0.0, 1.0, 2.0):
        before, after = np.zeros(len(sigma)), np.zeros(len(sigma))
        before[mixed] = sigma[mixed] ** (2 - dial) * columns["difference_norm"]
        after[mixed] = columns["clipped_norm"] / sigma[mixed] ** dial
        norms[f"{dial:g}"] = {
            "mixed": _correlation(sigma[mixed], before[mixed]),
            "all": _correlation(sigma, before),
            "mixed_clipped": _correlation(sigma[mixed], after[mixed]),
            "all_clipped": _correlation(sigma, after),
        }
    return {
        "groups": len(sigma),
        "mixed_groups": int(mixed.sum()),
        "largest_error": errors,
        "pearson": norms,
        "clipped_share": float(np.mean([unit["clipped_share"] for unit in measured.values()])),
        "norm_law": fit_norm_law(sigma[mixed], size[mixed], columns["difference_norm"]),
    }


def _correlation(sigma: Array, norm: Array) -> Json:
    value = correlate(sigma, norm)
    if len(sigma) < 3 or not math.isfinite(value):
        return {"value": None, "low": None, "high": None}
    low, high = bootstrap_interval(correlate, sigma, norm)
    return {"value": value, "low": low, "high": high}


def fit_norm_law(sigma: Array, size: Array, norm: Array) -> Json:
    """Returns ‖δ‖² and V of E‖s̄₊ − s̄₋‖² = ‖δ‖² + V/(Gσ̂²) by least squares ≥ 0, their ratio ρ, and R² of the fit.

    `norm` is ‖s̄₊ − s̄₋‖ of each group. Each group is weighted by σ̂⁴, that is on the scale of Dr. GRPO's gradient.
    """
    design = np.stack([sigma**4, sigma**2 / size], axis=1)
    target = sigma**4 * norm**2
    (signal, noise), _ = nnls(design, target)
    return {
        "signal": float(signal),
        "noise": float(noise),
        "rho": float(signal / noise) if noise > 0 else None,
        "r_squared": explained_share(target, design @ np.array([signal, noise])),
    }


def _checks(figures: Json) -> list[Check]:
    errors = [error for error in figures["largest_error"].values() if error is not None]
    worst = max(errors) if len(errors) == len(DIALS) else None
    grpo, dr_grpo = figures["pearson"]["1"], figures["pearson"]["0"]

    def correlated(what: str, found: Json) -> Check:
        if found["value"] is None:
            return Check(what, "not measured", None)
        got = f"{found['value']:.2f} (95 %: {found['low']:.2f} to {found['high']:.2f})"
        return Check(what, got, found["value"] > PUBLISHED)

    over = f"σ̂ and ‖g‖ correlate above {PUBLISHED}"
    return [
        check_range("g = σ̂^(2−α)(s̄₊ − s̄₋) to 1e-5 of its norm, α = 0, ½, 1, 2", worst, 0, 1e-5, "{:.1e}"),
        correlated(f"GRPO, mixed groups: {over}", grpo["mixed"]),
        correlated(f"GRPO, mixed groups, after the clip: {over}", grpo["mixed_clipped"]),
        correlated(f"GRPO, all groups: {over}", grpo["all"]),
        correlated(f"GRPO, all groups, after the clip: {over}", grpo["all_clipped"]),
        correlated(f"Dr. GRPO, mixed groups: {over}", dr_grpo["mixed"]),
    ]


CLAIM = Claim(
    name="identity",
    claim="The disagreement of a group is exactly the size of its update: σ̂ and the gradient norm correlate above "
    "0.92, before and after clipping",
    source="arXiv:2607.00152, the group-standard-deviation identity; the correlation is from a machine-written review",
    trains=False,
    minutes=8,
    units=list_seed_units(SEEDS),
    measure=_measure,
    figures=_figures,
    checks=_checks,
    seeds=SEEDS,
)
