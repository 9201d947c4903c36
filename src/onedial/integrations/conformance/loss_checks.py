"""Checks of `loss`: how tokens are weighed, what masked tokens do, and how a step is split.

A check that depends on no weights reads them off the gradient where every ratio is 1: there it is −w·A.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from onedial.integrations.conformance.check import ConformanceCheck, Measured, distance, match, worst
from onedial.integrations.conformance.judged import Judged, NotApplicable, Rows

BUDGET = 8  # the constant length of fixed_length; longer than any row and than the padded width
AGGREGATES = ("token_mean", "sequence_mean", "fixed_length", "sequence_sum")
CLOSE = 1e-5
PULL = (1.0, -1.0, 0.5, -0.5)


def make_rows(lengths: Sequence[int], advantages: Sequence[float], *, width: int = 0, drift: float = 0.0) -> Rows:
    """Rows of these lengths, padded on the right, whose old log-probabilities are `drift` nats or so away."""
    make = torch.Generator().manual_seed(len(lengths))
    shape = (len(lengths), width or max(lengths))
    logp = -0.1 - 2 * torch.rand(shape, generator=make)
    old = logp + drift * torch.randn(shape, generator=make)
    mask = torch.arange(shape[1]) < torch.tensor(lengths)[:, None]
    return Rows(logp, old, mask, torch.tensor(advantages, dtype=torch.float32))


def with_ratios(ratios: Sequence[Sequence[float]], advantages: Sequence[float]) -> Rows:
    """Rows of one length whose ratios π/π_old are these."""
    rows = make_rows([len(ratios[0])] * len(ratios), advantages)
    return replace(rows, old_logp=rows.logp - torch.tensor(ratios).log())


def of_aggregate(name: str) -> dict[str, Any]:
    """The settings that ask for one way of weighing tokens."""
    return {"aggregate": name} | ({"length_budget": BUDGET} if name == "fixed_length" else {})


def for_each_aggregate(trainer: Judged, measure: Callable[..., Measured]) -> Measured:
    """The worst over every way of weighing that the trainer offers, or its only one."""
    if not trainer.takes("loss", "aggregate"):
        return measure(trainer)
    results = {}
    for name in AGGREGATES:
        try:
            results[name] = measure(trainer, **of_aggregate(name))
        except NotApplicable:
            continue
    return worst(results) if results else measure(trainer)


def token_weights_by_name(mask: Tensor) -> dict[str, Tensor]:
    """(B, L) weight of each live token under each name, by its definition."""
    live = mask.double()
    lengths, count = live.sum(1, keepdim=True), len(mask)
    return {
        "token_mean": live / live.sum(),
        "sequence_mean": live / lengths / count,
        "fixed_length": live / (count * BUDGET),
        "sequence_sum": live / count,
    }


def _weights(trainer: Judged) -> Measured:
    rows = make_rows([3, 5, 2, 6], PULL)
    _, got = trainer.loss(rows)
    pull = -rows.advantages[:, None].double()
    known = token_weights_by_name(rows.mask) | {"token_sum": rows.mask.double()}
    known["length of the padded batch"] = known["fixed_length"] * BUDGET / rows.mask.shape[1]
    return match(got, {name: weights * pull for name, weights in known.items()}, tolerance=CLOSE)


def _weights_of(name: str) -> Callable[[Judged], Measured]:
    def measure(trainer: Judged) -> Measured:
        rows = make_rows([3, 5, 2, 6], PULL)
        _, got = trainer.loss(rows, **of_aggregate(name))
        wanted = -rows.advantages[:, None] * token_weights_by_name(rows.mask)[name]
        padded = {"divides by the length of the padded batch": wanted * BUDGET / rows.mask.shape[1]}
        return match(got, {"": wanted}, padded if name == "fixed_length" else {}, tolerance=CLOSE)

    return measure


def _value(trainer: Judged) -> Measured:
    """The gradient is −w·A per token, so the value −Σ w·A is its sum."""
    rows = make_rows([3, 5, 2, 6], (1.0, -0.5, 0.25, 0.5))
    value, gradient = trainer.loss(rows)
    likelihood = {"−A·log π: the value differs, the gradient does not": (gradient * rows.logp).sum()}
    return match(torch.tensor(value), {"": gradient.sum()}, likelihood, tolerance=CLOSE)


def _micro_batches(trainer: Judged) -> Measured:
    def measure(trainer: Judged, **settings: Any) -> Measured:
        rows = make_rows([3, 5, 2, 6], PULL, drift=0.1)
        told = trainer.takes("loss", "step")
        parts = [rows.select(slice(0, 2)), rows.select(slice(2, 4))]
        step = {"step": rows.step(len(parts))} if told else {}
        _, whole = trainer.loss(rows, **settings, **({"step": rows.step()} if told else {}))
        split = torch.cat([trainer.loss(part, **settings, **step)[1] for part in parts])
        right = {"": whole} if told else {"": whole, "the mean over micro-batches": whole * len(parts)}
        return match(split, right, tolerance=CLOSE)

    return for_each_aggregate(trainer, measure)


def _masked_rows(trainer: Judged) -> Measured:
    def measure(trainer: Judged, **settings: Any) -> Measured:
        rows = make_rows([3, 5, 2, 6], PULL)
        mask = rows.mask.clone()
        mask[3] = False
        _, got = trainer.loss(replace(rows, mask=mask), **settings)
        _, without = trainer.loss(rows.select([0, 1, 2]), **settings)
        wanted = torch.cat([without, torch.zeros_like(got[:1])])
        return match(got, {"": wanted}, {"they stay in the count of sequences": wanted * 3 / 4}, tolerance=CLOSE)

    return for_each_aggregate(trainer, measure)


def _all_masked(trainer: Judged) -> Measured:
    def measure(trainer: Judged, **settings: Any) -> Measured:
        rows = make_rows([3, 5], (1.0, -1.0))
        step = {"step": rows.step(parts=2)} if trainer.takes("loss", "step") else {}
        value, gradient = trainer.loss(replace(rows, mask=torch.zeros_like(rows.mask)), **settings, **step)
        return Measured(abs(value) + float(gradient.abs().sum()), 0.0)

    return for_each_aggregate(trainer, measure)


def _refilled(rows: Rows, values: Callable[[Tensor], Tensor], more: int = 0) -> Rows:
    """The rows with `more` further columns, and with other numbers in place of every masked log-probability."""
    mask = torch.nn.functional.pad(rows.mask, (0, more))
    logp, old = (torch.nn.functional.pad(each, (0, more)) for each in (rows.logp, rows.old_logp))
    return Rows(torch.where(mask, logp, values(logp)), torch.where(mask, old, values(old)), mask, rows.advantages)


def _padding(trainer: Judged) -> Measured:
    def measure(trainer: Judged, **settings: Any) -> Measured:
        rows, make = make_rows([3, 5, 2, 6], PULL, drift=0.1), torch.Generator().manual_seed(3)
        refilled = _refilled(rows, lambda each: -5 * torch.rand(each.shape, generator=make), 2)
        return _differs(trainer, rows, refilled, settings)

    return for_each_aggregate(trainer, measure)


def _padding_nan(trainer: Judged) -> Measured:
    def measure(trainer: Judged, **settings: Any) -> Measured:
        rows = make_rows([3, 5, 2, 6], PULL, drift=0.1)
        results = {}
        for name, value in (("NaN", math.nan), ("−inf", -math.inf)):
            refilled = _refilled(rows, partial(torch.full_like, fill_value=value))
            results[name] = _differs(trainer, rows, refilled, settings)
        return worst(results)

    return for_each_aggregate(trainer, measure)


def _differs(trainer: Judged, rows: Rows, refilled: Rows, settings: dict[str, Any]) -> Measured:
    """How far value and gradient move, and the gradient that masked tokens get."""
    value, gradient = trainer.loss(rows, **settings)
    other, moved = trainer.loss(refilled, **settings)
    wanted = torch.zeros_like(moved)
    wanted[:, : gradient.shape[1]] = gradient
    deviation = distance(moved, wanted) + abs(other - value)
    return Measured(deviation, CLOSE)


def _silent_rows(trainer: Judged) -> Measured:
    """Two live rows and two of advantage 0, all of one length: the published formula halves the live gradient."""
    rows = make_rows([4] * 4, (1.0, 0.0, -1.0, 0.0), drift=0.05)
    _, got = trainer.loss(rows)
    _, alone = trainer.loss(rows.select([0, 2]))
    wanted = torch.zeros_like(got)
    wanted[[0, 2]] = alone / 2
    conventions = {"silent rows leave the divisor": 2 * wanted}
    return match(got, {"they stay in the divisor, as published": wanted}, conventions, tolerance=CLOSE)


def _check(name: str, says: str, measure: Callable[[Judged], Measured], seen: str = "") -> ConformanceCheck:
    return ConformanceCheck(name, "loss", says, measure, seen)


LOSS_CHECKS = (
    _check("weights", "By default: with every ratio at 1 the gradient is −w·A, with weights w known by name", _weights),
    _check("token-mean", "w = 1/T over the T live tokens of the step", _weights_of("token_mean")),
    _check("sequence-mean", "w = 1/(B·|o|): mean over sequences of means over tokens", _weights_of("sequence_mean")),
    _check("fixed-length", "w = 1/(B·L) for a constant L, however long the batch", _weights_of("fixed_length")),
    _check("sequence-sum", "w = 1/B", _weights_of("sequence_sum")),
    _check("value", "With every ratio at 1 the value is −Σ w·A", _value),
    _check(
        "micro-batches", "A step in two micro-batches of unequal lengths has the gradient of one pass", _micro_batches,
        "huggingface/trl#5619, huggingface/trl#6024, verl-project/verl#5625, verl-project/verl#7321, "
        "verl-project/verl#3741, modelscope/ms-swift#10117",
    ),
    _check(
        "masked-rows", "A completion that is masked as a whole is in no divisor", _masked_rows, "huggingface/trl#6369"
    ),
    _check("all-masked", "A micro-batch without a live token has loss 0 and gradient 0, not NaN", _all_masked),
    _check("padding", "Masked tokens have no influence, and more padding has none", _padding),
    _check("padding-nan", "The same where masked log-probabilities are NaN or −inf", _padding_nan),
    _check(
        "silent-rows", "Rows of advantage 0 have no gradient", _silent_rows,
        "huggingface/trl#6367, huggingface/trl#6365",
    ),
)  # fmt: skip
"""In the order in which they are shown."""
