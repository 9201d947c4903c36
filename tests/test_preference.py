"""The loss of pairs against its formula and TRL's, and what a group of two in GRPO has in common with it."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from maths_batches import batch_of, complete, loss_and_gradient, make_group, with_logps
from onedial.core.algorithm import Algorithm
from onedial.core.algorithm_table import ALGORITHMS
from onedial.core.batch import Batch, Counts
from onedial.core.maths.loss import contributes, policy_loss
from onedial.core.maths.preference import pair_margins
from onedial.training.trainer.packing import make_micro_batches

DPO = ALGORITHMS["dpo"]
REINFORCE = ALGORITHMS["reinforce"]


def pairs(count: int = 4, row: Algorithm = DPO, seed: int = 0) -> Batch:
    """Pairs of uneven lengths; in every second one the rejected row comes first."""
    groups = [make_group([1.0, 0.0] if n % 2 else [0.0, 1.0], position=n, seed=seed) for n in range(count)]
    return with_logps(batch_of(row, groups), seed)


def sequence(values: Tensor, batch: Batch) -> Tensor:
    """(B,) sums by a plain loop."""
    return torch.stack([part.sum() for part in values.split(batch.lengths.tolist())])


def by_hand(batch: Batch) -> tuple[list[float], list[float]]:
    """(Δ of the chosen, Δ of the rejected) of each pair, in Python."""
    ratio = sequence(batch["logp"] - batch["ref_logp"], batch).tolist()
    chosen, rejected = [0.0] * len(batch.group_ids), [0.0] * len(batch.group_ids)
    for row, (group, positive) in enumerate(zip(batch.group.tolist(), batch["positive"].tolist(), strict=True)):
        (chosen if positive else rejected)[group] = ratio[row]
    return chosen, rejected


def test_loss_by_hand() -> None:
    """Oracle: one pair of one-token answers, log-ratios ½ and −¼, β = 2: log(1 + e^−1.5); margins by a plain loop."""
    row = replace(DPO, preference_beta=2.0)
    batch = batch_of(row, [make_group([1.0, 0.0], lengths=[1, 1])])
    batch = batch.annotate(logp=torch.tensor([-1.0, -2.0]), ref_logp=torch.tensor([-1.5, -1.75]))
    result = policy_loss(row, batch, Counts.of(batch))
    assert float(result.loss) == pytest.approx(math.log1p(math.exp(-1.5)), rel=1e-6)
    found = {name: result.sums[name] for name in ("pairs", "pair_right", "margin", "chosen_logp", "rejected_logp")}
    assert found == pytest.approx({"pairs": 1, "pair_right": 1, "margin": 1.5, "chosen_logp": -1, "rejected_logp": -2})
    many = pairs(6)
    chosen, rejected = by_hand(many)
    margins = pair_margins(many["logp"], many["ref_logp"], many)
    assert margins.tolist() == pytest.approx([c - r for c, r in zip(chosen, rejected, strict=True)], abs=1e-5)
    losses = [math.log1p(math.exp(-0.1 * (c - r))) for c, r in zip(chosen, rejected, strict=True)]
    assert float(policy_loss(DPO, many, Counts.of(many)).loss) == pytest.approx(sum(losses) / 6, rel=1e-5)


@pytest.mark.parametrize("beta", [0.1, 0.5, 3.0])
def test_gradient_is_that_of_advantages_that_the_sigmoid_scales(beta: float) -> None:
    """Oracle: `policy_loss` of REINFORCE with the fixed advantages ±β·σ(−β·m), made here in plain Python. REINFORCE
    divides by the 2N rows of the step, DPO by its N pairs."""
    batch = pairs(5)
    chosen, rejected = by_hand(batch)
    pull = [beta / (1 + math.exp(beta * (c - r))) for c, r in zip(chosen, rejected, strict=True)]
    assert max(pull) / min(pull) > 1.05, "the pairs must differ"
    sign = torch.where(batch["positive"], 1.0, -1.0)
    as_advantages = batch.annotate(advantage=sign * torch.tensor(pull)[batch.group])
    _, (ours,) = loss_and_gradient(replace(DPO, preference_beta=beta), [batch], Counts.of(batch))
    _, (theirs,) = loss_and_gradient(REINFORCE, [as_advantages], Counts.of(batch))
    torch.testing.assert_close(ours, 2 * theirs, rtol=1e-5, atol=1e-8)


def test_gradient_by_finite_differences() -> None:
    """Oracle: central differences of the loss, one token at a time."""
    batch = pairs(2, seed=3)
    counts = Counts.of(batch)
    _, (gradient,) = loss_and_gradient(DPO, [batch], counts)
    for token in range(len(batch["logp"])):
        ends = []
        for step in (0.05, -0.05):
            moved = batch["logp"].clone()
            moved[token] += step
            ends.append(float(policy_loss(DPO, batch.annotate(logp=moved), counts).loss))
        assert (ends[0] - ends[1]) / 0.1 == pytest.approx(float(gradient[token]), abs=1e-4)


# --- a group of two in GRPO, and DPO -------------------------------------------------------------------------


def pairwise_difference(batch: Batch, *, normalised: bool) -> Tensor:
    """(T,) gradient of Σ over pairs of log π(y⁺) − log π(y⁻), each divided by its length where asked for."""
    sign = torch.where(batch["positive"], 1.0, -1.0)
    scale = 1.0 / batch.lengths if normalised else torch.ones(batch.num_rollouts)
    return (sign * scale)[batch.rollout_of_token]


@pytest.mark.parametrize(("dial", "constant"), [(1.0, 0.5), (0.0, 0.25), (2.0, 1.0)])
def test_grpo_on_two_is_a_scaled_pairwise_difference(dial: float, constant: float) -> None:
    """Oracle: −c·∇(log π⁺ − log π⁻) with c = ½^(2−dial), by hand; with the row's own 1/|o| in the published row, and
    with sequence sums. The mean is over the groups of the step."""
    for aggregate, normalised in (("sequence_mean", True), ("sequence_sum", False)):
        row = replace(ALGORITHMS["two_grpo"], dial=dial, aggregate=aggregate, eps=1e-12)
        batch = pairs(3, row).annotate(old_logp=None)
        _, (gradient,) = loss_and_gradient(row, [batch], Counts.of(batch))
        expected = -constant * pairwise_difference(batch, normalised=normalised) / 3
        torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-8)


def test_where_the_likeness_with_dpo_ends() -> None:
    """The same pairs while the policy learns to tell them apart: GRPO's gradient over the pairwise difference is one
    constant, DPO's is β·σ(−β·m). GRPO does not see the reference, DPO does.

    Oracle: both ratios by hand, at margins from −20 to 20 nats.
    """
    grpo = replace(ALGORITHMS["two_grpo"], aggregate="sequence_sum", eps=1e-12)
    ratios: dict[str, list[float]] = {"grpo": [], "dpo": []}
    margins = [-20.0, -2.0, 0.0, 2.0, 20.0]
    for margin in margins:
        batch = pairs(1, grpo)
        first = int(batch.offsets[int(batch["positive"].nonzero())])
        reference = batch["logp"].clone()
        reference[first] -= margin  # the policy has raised the chosen answer by so much
        batch = batch.annotate(ref_logp=reference, old_logp=None)
        difference = pairwise_difference(batch, normalised=False)
        for name, row in (("grpo", grpo), ("dpo", DPO)):
            _, (gradient,) = loss_and_gradient(row, [batch], Counts.of(batch))
            ratio = -gradient / difference
            torch.testing.assert_close(ratio, ratio[0].expand_as(ratio), rtol=1e-4, atol=1e-7)
            ratios[name].append(float(ratio[0]))
    assert ratios["grpo"] == pytest.approx([0.5] * 5, rel=1e-5)
    assert ratios["dpo"] == pytest.approx([0.1 / (1 + math.exp(0.1 * m)) for m in margins], rel=1e-4)
    assert ratios["dpo"][2] == pytest.approx(0.05) and ratios["dpo"][0] > 7 * ratios["dpo"][-1]


# --- splitting -------------------------------------------------------------------------------------------------


def test_a_pair_is_never_cut() -> None:
    """Oracle: every group of every micro-batch has two rows, even where one token would be too much, and the loss is
    that of the whole; a pair that is cut nevertheless is refused."""
    batch = pairs(5)
    counts = Counts.of(batch)
    loss, _ = loss_and_gradient(DPO, [batch], counts)
    for limit in (1, 20, 60):
        parts = make_micro_batches(batch, limit, whole_groups=True)
        assert len(parts) > 1 and all(
            torch.bincount(part.group).tolist() == [2] * len(part.group_ids) for part in parts
        )
        assert loss_and_gradient(DPO, parts, counts)[0] == pytest.approx(loss, rel=1e-5)
    assert any(1 in torch.bincount(part.group).tolist() for part in make_micro_batches(batch, 1))
    with pytest.raises(ValueError, match="one chosen and one rejected rollout"):
        policy_loss(DPO, batch.select([0, 1, 2]), counts)
    both_right = batch.annotate(positive=torch.ones_like(batch["positive"]))
    with pytest.raises(ValueError, match="one chosen and one rejected rollout"):
        policy_loss(DPO, both_right, counts)
    assert contributes(DPO, batch).all()


# --- other libraries -------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("beta", [0.1, 0.7])
def test_trl_dpo_loss(tiny_model: Any, tmp_path: Any, beta: float) -> None:
    """Oracle: TRL's DPOTrainer, its own collator, reference and loss run unchanged; loss and whole gradient to 1e-5."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trl = pytest.importorskip("trl", reason="TRL is not installed")
    from datasets import Dataset

    texts = [("2 + 2 =", " 4", " 5 or so"), ("say a", "a", "bcd"), ("The sky is", " blue", " green, I think")]
    data = Dataset.from_dict(
        {key: [text[n] for text in texts] for n, key in enumerate(("prompt", "chosen", "rejected"))}
    )
    args = trl.DPOConfig(
        output_dir=str(tmp_path), beta=beta, per_device_train_batch_size=3, report_to=[], use_cpu=True, bf16=False,
        gradient_checkpointing=False, disable_dropout=True,
    )  # fmt: skip
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        for weight in reference.parameters():
            weight += 0.05 * torch.randn(weight.shape, generator=generator)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    trainer = trl.DPOTrainer(
        model=model, ref_model=reference, args=args, train_dataset=data, processing_class=tokenizer
    )
    inputs = trainer.data_collator([trainer.train_dataset[n] for n in range(3)])
    trainer.model.zero_grad()
    theirs = trainer.compute_loss(trainer.model, inputs)
    theirs.backward()
    expected = torch.cat([weight.grad.flatten() for weight in trainer.model.parameters()])

    groups = []
    for n, (prompt, *completions) in enumerate(texts):
        blank = make_group([1.0, 0.0], position=n, prompt_tokens=tokenizer(prompt).input_ids)
        written = [(*tokenizer(text).input_ids, tokenizer.eos_token_id) for text in completions]
        rollouts = tuple(
            replace(r, completion=replace(r.completion, token_ids=tokens, logps=()))
            for r, tokens in zip(blank.rollouts, written, strict=True)
        )
        groups.append(replace(blank, rollouts=rollouts))
    batch = batch_of(DPO, groups)
    assert batch.get("engine_logp") is None
    model.zero_grad()
    with torch.no_grad():
        ref_logp = _plain_logps(reference, batch)
    batch = batch.annotate(logp=_plain_logps(model, batch), ref_logp=ref_logp)
    loss = policy_loss(replace(DPO, preference_beta=beta), batch, Counts.of(batch)).loss
    loss.backward()
    gradient = torch.cat([weight.grad.flatten() for weight in model.parameters()])
    assert float(loss) == pytest.approx(float(theirs), rel=1e-5)
    assert abs(float(loss) - math.log(2)) > 1e-3, "the reference must differ from the policy"
    assert float((gradient - expected).norm() / expected.norm()) < 1e-5


@pytest.mark.filterwarnings("ignore")
def test_trl_sft_loss(tiny_model: Any, tmp_path: Any) -> None:
    """Oracle: TRL's SFTTrainer on prompt–completion text, which averages over the completion tokens of the batch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trl = pytest.importorskip("trl", reason="TRL is not installed")
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    texts = [("2 + 2 =", " 4"), ("say a", "abcdefg"), ("The sky is", " blue")]
    data = Dataset.from_dict({key: [text[n] for text in texts] for n, key in enumerate(("prompt", "completion"))})
    args = trl.SFTConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=3, report_to=[], use_cpu=True, bf16=False,
        gradient_checkpointing=False,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    trainer = trl.SFTTrainer(model=model, args=args, train_dataset=data, processing_class=tokenizer)
    inputs = trainer.data_collator([trainer.train_dataset[n] for n in range(3)])
    theirs = trainer.compute_loss(trainer.model, inputs)

    groups = []
    for n, (prompt, text) in enumerate(texts):
        blank = make_group([1.0], position=n, prompt_tokens=tokenizer(prompt).input_ids)
        tokens = (*tokenizer(text).input_ids, tokenizer.eos_token_id)
        rollouts = tuple(
            replace(r, completion=replace(r.completion, token_ids=tokens, logps=())) for r in blank.rollouts
        )
        groups.append(replace(blank, rollouts=rollouts))
    row = replace(ALGORITHMS["sft"], aggregate="token_mean")
    batch = batch_of(row, groups)
    batch = batch.annotate(logp=_plain_logps(model, batch))
    result = policy_loss(row, batch, Counts.of(batch))
    assert float(result.loss.detach()) == pytest.approx(float(theirs.detach()), rel=1e-5)
    assert result.sums["nll"] / result.sums["tokens"] == pytest.approx(float(theirs.detach()), rel=1e-5)
    # the published row gives each sequence the same weight: the mean of the sequences' means
    own = ALGORITHMS["sft"]
    means = [float(-part.mean()) for part in batch["logp"].detach().split(batch.lengths.tolist())]
    assert float(policy_loss(own, batch, Counts.of(batch)).loss) == pytest.approx(sum(means) / 3, rel=1e-5)


def _plain_logps(model: Any, batch: Batch) -> Tensor:
    """(T,) by one unpadded forward pass per completion."""
    pieces = []
    for row in range(batch.num_rollouts):
        group = int(batch.group[row])
        prompt = batch.prompt_tokens[batch.prompt_offsets[group] : batch.prompt_offsets[group + 1]]
        tokens = batch.tokens[batch.offsets[row] : batch.offsets[row + 1]]
        logits = model(torch.cat([prompt, tokens])[None]).logits[0, len(prompt) - 1 : -1]
        pieces.append(logits.log_softmax(-1).gather(1, tokens[:, None]).squeeze(1))
    return torch.cat(pieces)


# --- rewards of the rows -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rft", "online_rft"])
def test_rft_imitates_what_is_correct_and_nothing_else(name: str) -> None:
    """Oracle: DeepSeekMath's Table 10, coefficient 1[correct], also where a wrong answer's reward is −1, by hand."""
    row = complete(ALGORITHMS[name])
    batch = batch_of(row, [make_group([1.0, -1.0, -1.0], lengths=[2, 3, 4])])
    assert batch["advantage"].tolist() == [1.0, 0.0, 0.0]
    batch = with_logps(batch, 0)
    _, (gradient,) = loss_and_gradient(row, [batch], Counts.of(batch))
    torch.testing.assert_close(gradient, torch.tensor([-1 / 6] * 2 + [0.0] * 7))
