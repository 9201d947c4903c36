"""The entropy bonus: entropies from the chunked head, their gradient, and the term of the loss."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from maths_batches import batch_of, loss_and_gradient, make_batch, make_group, with_logps
from onedial.core.algorithm_table import ALGORITHMS
from onedial.core.batch import Counts
from onedial.core.maths.aggregate import token_weights
from onedial.core.maths.loss import contributes, policy_loss
from onedial.core.settings import Run
from onedial.training.lm import head
from onedial.training.lm.entropy import token_entropies
from onedial.training.trainer.policy import Policy


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("chunks", [1, 3])
def test_the_chunked_head_gives_entropies_and_their_gradient(
    temperature: float, chunks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: torch.distributions on the whole table of logits, and autograd through it."""
    generator = torch.Generator().manual_seed(0)
    hidden, weight, bias, of_logp, of_entropy = (
        torch.randn(*shape, generator=generator) for shape in ((40, 8), (30, 8), (30,), (40,), (40,))
    )
    targets = torch.randint(30, (40,), generator=generator)
    monkeypatch.setattr(head, "CHUNK_BYTES", 4 * 30 * (40 // chunks + 1))
    inputs = [value.requires_grad_() for value in (hidden, weight, bias)]
    logp, entropy = token_entropies(hidden, weight, targets, bias=bias, temperature=temperature)
    ours = torch.autograd.grad((logp * of_logp + entropy * of_entropy).sum(), inputs)
    table = torch.distributions.Categorical(logits=(hidden @ weight.T + bias) / temperature)
    torch.testing.assert_close(entropy, table.entropy())
    torch.testing.assert_close(logp, table.log_prob(targets))
    wanted = torch.autograd.grad((table.log_prob(targets) * of_logp + table.entropy() * of_entropy).sum(), inputs)
    for got, want in zip(ours, wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_a_policy_s_entropies_are_those_of_its_logits(tiny_model: Path) -> None:
    """Oracle: Hugging Face's own logits of each whole sequence."""
    from transformers import AutoModelForCausalLM

    row = replace(ALGORITHMS["naive_grpo"], name="row", entropy_coef=0.01)
    policy = Policy(Run(model=str(tiny_model), algorithm=row, dtype="float32", temperature=0.8), tiny_model)
    batch = batch_of(row, [make_group([1.0, 0.0], lengths=[3, 5])])
    with torch.no_grad():
        logp, entropy, _ = policy.logps_with_entropy(batch)
        plain = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
        for rollout in range(2):
            tokens = batch.tokens[batch.offsets[rollout] : batch.offsets[rollout + 1]]
            logits = plain(torch.cat([batch.prompt_tokens, tokens])[None]).logits[0, len(batch.prompt_tokens) - 1 : -1]
            table = torch.distributions.Categorical(logits=logits / 0.8)
            place = slice(int(batch.offsets[rollout]), int(batch.offsets[rollout + 1]))
            torch.testing.assert_close(entropy[place], table.entropy(), rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(logp[place], table.log_prob(tokens), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["naive_grpo", "dapo", "lpo", "sft"])
def test_the_bonus_is_weighed_like_the_other_terms(name: str) -> None:
    """Oracle: by hand, loss − 0.01·Σ w·H and gradient −0.01·w with respect to each H; silent groups have it too."""
    plain = ALGORITHMS[name]
    row = replace(plain, name="row", entropy_coef=0.01)
    batch = make_batch(row)
    entropy = torch.rand(len(batch.tokens), generator=torch.Generator().manual_seed(1)).requires_grad_()
    counts = Counts.of(batch)
    weights = token_weights(row, batch, counts)
    loss = policy_loss(row, batch.annotate(entropy=entropy), counts).loss
    without, _ = loss_and_gradient(plain, [batch], counts)
    assert float(loss.detach()) == pytest.approx(without - 0.01 * float((weights * entropy).sum().detach()), rel=1e-5)
    torch.testing.assert_close(torch.autograd.grad(loss, entropy)[0], -0.01 * weights)
    silent = with_logps(batch_of(row, [make_group([0.0, 0.0])]), 0)
    assert contributes(row, silent).all()
