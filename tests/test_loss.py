"""The one loss: every row of the table, with and without its optional terms, against invariances and hand values."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
import torch

from maths_batches import (
    MAX_TOKENS,
    batch_of,
    complete,
    loss_and_gradient,
    make_batch,
    make_group,
    ragged_groups,
    variants,
    with_logps,
)
from onedial.core.algorithm import Algorithm
from onedial.core.algorithm_table import ALGORITHMS
from onedial.core.batch import Batch, Counts
from onedial.core.errors import ConfigError
from onedial.core.maths.loss import contributes, policy_loss

VARIANTS = variants()
every_variant = pytest.mark.parametrize("row", VARIANTS, ids=lambda row: row.name)


def _rows_of(whole: Batch, parts: list[list[int]], gradients: list[torch.Tensor]) -> torch.Tensor:
    """Token gradients of the parts, back in the order of the whole batch."""
    result = torch.zeros(len(whole.tokens))
    for rows, gradient in zip(parts, gradients, strict=True):
        index = [place for row in rows for place in range(int(whole.offsets[row]), int(whole.offsets[row + 1]))]
        result[index] += gradient
    return result


def _random_parts(row: Algorithm, batch: Batch, random: Random) -> list[list[int]]:
    """A random order of the rows cut in one to nine parts: groups are cut in the middle and mixed up, but pairs."""
    units = [[number] for number in range(batch.num_rollouts)]
    if row.needs_whole_groups:
        units = [(batch.group == number).nonzero().flatten().tolist() for number in range(len(batch.group_ids))]
    random.shuffle(units)
    cuts = sorted(random.sample(range(1, len(units)), random.randint(0, 8)))
    return [sum(units[start:stop], []) for start, stop in zip([0, *cuts], [*cuts, len(units)], strict=True)]


@every_variant
def test_any_split_and_any_order_of_a_step_give_the_same(row: Algorithm) -> None:
    """C9: micro-batch and packing invariance with ragged groups of 1 … 9.

    Oracle: the step as one batch; loss and every token's gradient must be its sum over any parts.
    """
    whole = make_batch(row)
    assert sorted(torch.bincount(whole.group).tolist()) == ([2] * 9 if row.source == "pairs" else list(range(1, 10)))
    counts = Counts.of(whole)
    loss, (gradient,) = loss_and_gradient(row, [whole], counts)
    assert gradient.abs().max() > 0
    random = Random(7)
    for _ in range(3):
        parts = _random_parts(row, whole, random)
        batches = [whole.select(rows) for rows in parts]
        # counts of a step may be taken from its parts only where no group is cut; always from the whole
        part_loss, part_gradients = loss_and_gradient(row, batches, counts)
        assert part_loss == pytest.approx(loss, abs=1e-5)
        together = _rows_of(whole, parts, part_gradients)
        torch.testing.assert_close(together, gradient, atol=1e-8, rtol=1e-5)


@every_variant
def test_counts_of_the_parts_are_those_of_the_whole(row: Algorithm) -> None:
    """Oracle: counting is additive, and a group that is cut counts once."""
    whole = make_batch(row)
    parts = [whole.select(rows) for rows in _random_parts(row, whole, Random(1))]
    assert Counts.of(*parts) == Counts.of(whole)


@every_variant
def test_missing_old_logps_mean_that_the_policy_has_not_moved(row: Algorithm) -> None:
    """Oracle: old_logp equal to logp; the ratio is then 1, with the gradient of log π."""
    batch = make_batch(row)
    counts = Counts.of(batch)
    loss, (gradient,) = loss_and_gradient(row, [batch.annotate(old_logp=None)], counts)
    same_loss, (same_gradient,) = loss_and_gradient(row, [batch.annotate(old_logp=batch["logp"])], counts)
    assert loss == same_loss
    assert torch.equal(gradient, same_gradient)


@every_variant
def test_rows_that_do_not_contribute_have_gradient_exactly_zero(row: Algorithm) -> None:
    """Silent and masked rows: bitwise 0, so leaving them out changes neither the gradient nor a denominator.

    Oracle: the gradient computed with them in; the counts stay those of the whole step.
    """
    batch = make_batch(row)
    counts = Counts.of(batch)
    live = contributes(row, batch)
    _, (gradient,) = loss_and_gradient(row, [batch], counts)
    assert not gradient[~live[batch.rollout_of_token]].any()
    rows = live.nonzero().squeeze(1)
    loss_live, (gradient_live,) = loss_and_gradient(row, [batch.select(rows)], counts)
    loss, _ = loss_and_gradient(row, [batch], counts)
    assert loss_live == pytest.approx(loss, abs=1e-6)
    assert torch.equal(gradient_live, gradient[live[batch.rollout_of_token]])
    silent = torch.isin(batch.group, torch.tensor([0, 4]))  # the unanimous groups of `ragged_groups`
    # what is no group statistic pulls on unanimous groups too, and so does a penalty that differs inside them
    if row.baseline not in ("none", "posterior", "critic") and not row.penalizes_length and row.listwise == "none":
        masked = ~batch.rollout_mask
        pulled = torch.full_like(silent, row.kl_in_loss) | (batch["positive"] if row.positive_nll else False)
        assert torch.equal(live[silent], (pulled & ~masked)[silent])


@pytest.mark.parametrize("name", ["grpo", "dapo", "gspo"])
@pytest.mark.parametrize("cells", [{"kl_coef": 0.04}, {"positive_nll": 0.1, "kl_coef": 0.0}], ids=str)
def test_kl_and_positive_likelihood_pull_on_silent_groups(name: str, cells: dict[str, float]) -> None:
    """C2: with KL in the loss a unanimous group has the KL's gradient and nothing else, a documented property
    (`kl_in_loss`); positive-example likelihood pulls on the all-right ones.

    Oracle: the same term computed by hand from its formula and the row's weight.
    """
    row = replace(ALGORITHMS[name], name="row", aggregate="sequence_mean", **cells)  # type: ignore[arg-type]
    silent = with_logps(batch_of(row, [make_group([1.0, 1.0], lengths=[2, 4])]), 0)
    assert contributes(row, silent).all()
    _, (gradient,) = loss_and_gradient(row, [silent], Counts.of(silent))
    if row.kl_in_loss:
        weight = torch.tensor([1 / 4] * 2 + [1 / 8] * 4)  # 1/(2 sequences · tokens)
        expected = 0.04 * weight * (1 - (silent["ref_logp"] - silent["logp"]).exp())  # ∂ k3/∂ log π
    else:
        expected = torch.full((6,), -0.1 / 6)
    torch.testing.assert_close(gradient, expected, atol=1e-8, rtol=1e-5)


# One step of known content: group a has rewards 1, 0 with 1 and 3 tokens, group b 1, 0, 0 with 2, 2, 4 tokens.
# dial 0: A = ½, −½ | ⅔, −⅓, −⅓. On-policy the loss is −Σ_t w_t A. B = 5, N = 2, T = 12, T_a = 4, T_b = 8, L = 12.
ABSOLUTE = {
    # all rows weigh 1/5 · A
    "sequence_mean": 0.0,
    # (1·½ − 3·½ + 2·⅔ − 2·⅓ − 4·⅓)/12 = (−1 − ⅔)/12
    "token_mean": (1 + 2 / 3) / 12,
    # ½·(−1/4) + ½·(−⅔/8)
    "group_token_mean": (1 / 4 + (2 / 3) / 8) / 2,
    "fixed_length": (1 + 2 / 3) / (5 * 12),
    "sequence_sum": (1 + 2 / 3) / 5,
}


def _known_step(row: Algorithm) -> Batch:
    groups = [
        make_group([1.0, 0.0], lengths=[1, 3], position=0),
        make_group([1.0, 0.0, 0.0], lengths=[2, 2, 4], position=1),
    ]
    return with_logps(batch_of(row, groups), 0)


@pytest.mark.parametrize("aggregate", ABSOLUTE)
def test_absolute_value_of_each_aggregate(aggregate: str) -> None:
    """C9: one absolute value per aggregate, which no invariance can replace. Oracle: arithmetic by hand, above."""
    cells = {"dial": 0.0, "aggregate": aggregate, "length_budget": 12 if aggregate == "fixed_length" else None}
    row = replace(ALGORITHMS["naive_grpo"], name="row", **cells)  # type: ignore[arg-type]
    batch = _known_step(row).annotate(old_logp=None)
    loss, (gradient,) = loss_and_gradient(row, [batch], Counts.of(batch))
    assert loss == pytest.approx(ABSOLUTE[aggregate], abs=1e-7)
    # the first token is alone in its row, with A = ½
    weight = {"sequence_mean": 1 / 5, "token_mean": 1 / 12, "group_token_mean": 1 / 8, "fixed_length": 1 / 60}
    assert float(gradient[0]) == pytest.approx(-0.5 * weight.get(aggregate, 1 / 5), rel=1e-6)


def test_absolute_value_off_policy_with_every_term() -> None:
    """Oracle: by hand for one pair of one-token answers, A = ±1: ρ = 2 (clipped to 1.2) and ½ (held at 0.8);
    importance weights 1 and capped 1.5; KL k2 with l = 1; likelihood of the right answer −3."""
    row = Algorithm(
        "row", eps=1e-9, clip_low=0.2, clip_high=0.2, kl_coef=0.1, kl_estimator="k2", positive_nll=0.5,
        sampler_correction="truncate", correction_cap=1.5,
    )  # fmt: skip
    batch = batch_of(row, [make_group([1.0, 0.0], lengths=[1, 1])])
    log2 = torch.tensor(2.0).log()
    logp = torch.tensor([-3.0, -2.0])
    batch = batch.annotate(
        logp=logp,
        old_logp=logp + torch.stack([-log2, log2]),
        engine_logp=logp + torch.stack([-log2, torch.tensor(-1.0)]),
        ref_logp=logp + 1.0,
    )
    surrogate = (-1.2 * 1.0 + 0.8 * 1.5) / 2
    expected = surrogate + 0.1 * 0.5 + 0.5 * 3.0
    loss, _ = loss_and_gradient(row, [batch], Counts.of(batch))
    assert loss == pytest.approx(expected, rel=1e-5)


def test_dead_groups_and_the_denominator() -> None:
    """C1: under keep='mixed' silent groups are not in the step, so they are in no denominator; under the presets
    that follow other libraries (keep='all') they are.

    Oracle: by hand: adding as many silent tokens and rows as live ones halves the loss and the gradient.
    """
    mixed, dead = make_group([1.0, 0.0], lengths=[2, 3]), make_group([0.0, 0.0], lengths=[2, 3], position=1)
    for name in ("dapo", "trl_dapo", "trl_grpo", "verl_grpo", "trl_dr_grpo"):
        row = complete(ALGORITHMS[name])
        kept = [group for group in (mixed, dead) if row.keep == "all" or group.mixed]
        assert len(kept) == (1 if name == "dapo" else 2)
        alone, together = (with_logps(batch_of(row, groups), 0) for groups in ([mixed], kept))
        alone = alone.annotate(old_logp=None, logp=together["logp"][:5])
        together = together.annotate(old_logp=None)
        loss, (gradient,) = loss_and_gradient(row, [alone], Counts.of(alone))
        other_loss, (other,) = loss_and_gradient(row, [together], Counts.of(together))
        share = 1.0 if name == "dapo" else 0.5
        assert other_loss == pytest.approx(share * loss, abs=1e-7)
        torch.testing.assert_close(other[:5], share * gradient)


@pytest.mark.parametrize("aggregate", ABSOLUTE)
def test_masked_sequences_are_in_no_denominator(aggregate: str) -> None:
    """C10: a truncated completion under overlong='mask' leaves the loss and every count, in any aggregate.

    Oracle: the batch without that row, with the same advantages.
    """
    cells = {"overlong": "mask", "aggregate": aggregate, "length_budget": 12 if aggregate == "fixed_length" else None}
    row = replace(ALGORITHMS["naive_grpo"], name="row", **cells)  # type: ignore[arg-type]
    groups = [make_group([1.0, 0.0, 0.0], lengths=[3, MAX_TOKENS, 5]), make_group([1.0, 0.0], position=1)]
    batch = with_logps(batch_of(row, groups), 0)
    kept = batch.rollout_mask.nonzero().squeeze(1)
    assert not batch.rollout_mask[1] and len(kept) >= 3
    without = batch.select(kept)
    assert Counts.of(batch) == Counts.of(without)
    loss, (gradient,) = loss_and_gradient(row, [batch], Counts.of(batch))
    other_loss, (other,) = loss_and_gradient(row, [without], Counts.of(without))
    assert loss == pytest.approx(other_loss, rel=1e-6)
    torch.testing.assert_close(gradient[batch.mask], other)
    assert not gradient[~batch.mask].any()


def test_extreme_ratios_of_silent_and_masked_rows_leave_no_nan() -> None:
    """Oracle: a row with weight 0 or advantage 0 adds exactly 0, however far the policy has moved on it."""
    row = replace(ALGORITHMS["naive_grpo"], name="row", overlong="mask")
    groups = [make_group([0.0, 0.0], lengths=[1, 1]), make_group([1.0, 0.0], lengths=[MAX_TOKENS, 1], position=1)]
    batch = with_logps(batch_of(row, groups), 0)
    far = batch["logp"].clone()
    far[:-1] += 200.0  # ρ = e^200 is inf in fp32; the last token is the only live row
    loss, (gradient,) = loss_and_gradient(row, [batch.annotate(old_logp=batch["logp"], logp=far)], Counts.of(batch))
    assert torch.isfinite(gradient).all() and not gradient[:-1].any()
    assert loss == pytest.approx(1 / 3, rel=1e-5)  # three sequences count, one of them has A = −1 and ρ = 1


def test_sums_add_up_over_micro_batches() -> None:
    """Oracle: sums over the whole batch, whose entries are recomputed from their definitions."""
    row = replace(ALGORITHMS["grpo"], name="row")
    batch = make_batch(row)
    counts = Counts.of(batch)
    whole = policy_loss(row, batch, counts).sums
    parts = [policy_loss(row, part, counts).sums for part in batch.split(4)]
    for name, value in whole.items():
        assert sum(part[name] for part in parts) == pytest.approx(value, rel=1e-5, abs=1e-5)
    ratio = (batch["logp"] - batch["old_logp"]).exp()
    advantage = batch["advantage"][batch.rollout_of_token]
    log = batch["ref_logp"] - batch["logp"]
    assert whole["tokens"] == len(batch.tokens)
    assert whole["ratio"] == pytest.approx(float(ratio.sum()), rel=1e-6)
    assert whole["clip_low"] == float(((ratio < 0.8) & (advantage < 0)).sum()) > 0
    assert whole["clip_high"] == float(((ratio > 1.2) & (advantage > 0)).sum()) > 0
    assert whole["kl"] == pytest.approx(float((log.exp() - log - 1).sum()), rel=1e-5)


def test_missing_log_probabilities_are_named() -> None:
    """Oracle: the documented errors name the field and who needs it."""
    batch = make_batch(ALGORITHMS["grpo"])
    counts = Counts.of(batch)
    tis = replace(ALGORITHMS["naive_grpo"], name="tis", sampler_correction="truncate")
    for row, missing in ((ALGORITHMS["grpo"], "ref_logp"), (ALGORITHMS["grpo"], "logp"), (tis, "engine_logp")):
        with pytest.raises(ValueError, match=rf"batch\['{missing}'\] is missing"):
            policy_loss(row, batch.annotate(**{missing: None}), counts)
    with pytest.raises(ConfigError, match="set length_budget"):
        policy_loss(ALGORITHMS["dr_grpo"], batch, counts)


def test_rows_without_tokens_and_groups_of_one_are_harmless() -> None:
    """Oracle: an empty completion adds no token, and a group of one no gradient under a group baseline."""
    row = ALGORITHMS["naive_grpo"]
    groups = [make_group([1.0], lengths=[3]), make_group([1.0, 0.0, 0.0], lengths=[2, 0, 1], position=1)]
    batch = with_logps(batch_of(row, groups), 0, drift=0.0)
    loss, (gradient,) = loss_and_gradient(row, [batch], Counts.of(batch))
    assert loss == loss and torch.isfinite(gradient).all()
    assert not gradient[:3].any() and gradient[3:].all()


def test_dead_rows_do_not_depend_on_the_batch_they_are_in() -> None:
    """Oracle: the same ragged groups with and without the silent ones, given the counts of the first."""
    row = ALGORITHMS["verl_grpo"]
    groups = ragged_groups(2)
    batch = with_logps(batch_of(row, groups), 2)
    mixed = [number for number, group in enumerate(groups) if group.mixed]
    rows = [row_number for row_number in range(batch.num_rollouts) if int(batch.group[row_number]) in mixed]
    counts = Counts.of(batch)
    loss, _ = loss_and_gradient(row, [batch], counts)
    live_loss, _ = loss_and_gradient(row, [batch.select(rows)], counts)
    assert live_loss == pytest.approx(loss, abs=1e-6)
