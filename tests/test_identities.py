"""Exact identities between rows, and the packed training path against plain Hugging Face forwards.

Scores s_i are gradients of completions' log-probabilities, taken one by one from an ordinary forward pass.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from maths_batches import MAX_TOKENS, batch_of, complete, loss_and_gradient, make_group, ragged_groups
from onedial.core.algorithm import Algorithm
from onedial.core.algorithm_table import ALGORITHMS
from onedial.core.batch import Batch, Counts
from onedial.core.maths.dispersion import weight
from onedial.core.maths.loss import policy_loss
from onedial.core.settings import Run
from onedial.training.trainer.policy import Policy
from onedial.training.trainer.step import update

TEMPERATURE = 0.8


def _plain_model(folder: Path, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()


def _plain_logps(model: Any, batch: Batch, temperature: float = 1.0) -> Tensor:
    """(T,) by one unpadded forward pass per completion, its prompt in front: no packing, no sharing, no chunks."""
    return _plain_scores(model, batch, temperature)[0]


def _plain_scores(model: Any, batch: Batch, temperature: float) -> tuple[Tensor, Tensor]:
    """(T,) log-probabilities and entropies, as `_plain_logps`."""
    pieces, entropies = [], []
    for row in range(batch.num_rollouts):
        group = int(batch.group[row])
        prompt = batch.prompt_tokens[batch.prompt_offsets[group] : batch.prompt_offsets[group + 1]]
        tokens = batch.tokens[batch.offsets[row] : batch.offsets[row + 1]]
        logits = model(torch.cat([prompt, tokens])[None]).logits[0, len(prompt) - 1 : -1] / temperature
        pieces.append(logits.log_softmax(-1).gather(1, tokens[:, None]).squeeze(1))
        entropies.append(torch.distributions.Categorical(logits=logits).entropy())
    return torch.cat(pieces), torch.cat(entropies)


def _flat_gradient(value: Tensor, model: nn.Module, *, keep: bool = True) -> Tensor:
    gradients = torch.autograd.grad(value, list(model.parameters()), retain_graph=keep)
    return torch.cat([gradient.flatten() for gradient in gradients])


def _relative_error(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


class _Step:
    """One group of five rewards, 1 0 0 1 0, on a real model: its logps, scores and the gradient of any row."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        group = make_group([1.0, 0.0, 0.0, 1.0, 0.0], lengths=[3, 5, 1, 6, 2], seed=4)
        self.batch = batch_of(ALGORITHMS["naive_grpo"], [group])
        self.reward = torch.tensor(group.rewards)
        self.group = group
        self.logp = _plain_logps(model, self.batch)
        self.scores = torch.stack([_flat_gradient(part.sum(), model) for part in self.logp.split(self.lengths)])
        self.sigma = (2 * 3) ** 0.5 / 5

    @property
    def lengths(self) -> list[int]:
        return self.batch.lengths.tolist()

    def difference(self, scores: Tensor) -> Tensor:
        """s̄₊ − s̄₋."""
        return scores[self.reward == 1].mean(0) - scores[self.reward == 0].mean(0)

    def ascent(self, row: Algorithm) -> Tensor:
        """Minus the gradient of the row's loss, on-policy."""
        batch = batch_of(row, [self.group])
        loss = policy_loss(row, batch.annotate(logp=self.logp), Counts.of(batch)).loss
        return -_flat_gradient(loss, self.model)


@pytest.fixture(scope="module")
def step(tiny_model: Path) -> _Step:
    return _Step(_plain_model(tiny_model, torch.float64))


def _row(name: str, **cells: Any) -> Algorithm:
    return complete(replace(ALGORITHMS[name], name="row", **{"eps": 1e-12, **cells}))


@pytest.mark.parametrize("dial", [0.0, 0.5, 1.0, 2.0])
def test_gradient_is_sigma_times_the_difference_of_class_scores(step: _Step, dial: float) -> None:
    """g = σ̂^(2−α)(s̄₊ − s̄₋): Dr. GRPO has σ̂², GRPO σ̂. Oracle: scores of each completion, to 1e-5."""
    got = step.ascent(_row("naive_grpo", dial=dial, aggregate="sequence_sum"))
    assert _relative_error(got, step.sigma ** (2 - dial) * step.difference(step.scores)) < 1e-5


def test_grpo_as_published_has_length_normalised_scores(step: _Step) -> None:
    """Oracle: the same identity with scores divided by |o_i|, as sequence_mean does."""
    scores = step.scores / torch.tensor(step.lengths)[:, None]
    assert _relative_error(step.ascent(_row("naive_grpo")), step.sigma * step.difference(scores)) < 1e-5


def test_dr_grpo_as_published_divides_by_its_budget(step: _Step) -> None:
    """Oracle: σ̂²(s̄₊ − s̄₋)/L with L = MAX_TOKENS."""
    expected = step.sigma**2 * step.difference(step.scores) / MAX_TOKENS
    assert _relative_error(step.ascent(_row("dr_grpo")), expected) < 1e-5


def test_dapo_as_published_divides_by_the_mean_length(step: _Step) -> None:
    """Oracle: σ̂(s̄₊ − s̄₋)·G/Σ|o_i|; rewards of ±1 leave it as it is. Without the length penalty, with which rewards
    are not two values any more."""
    expected = step.sigma * step.difference(step.scores) * 5 / sum(step.lengths)
    for row in (_row("dapo", overlong="none"), _row("mixed_grpo")):
        assert _relative_error(step.ascent(row), expected) < 1e-5


def test_ddof_one_scales_the_gradient(step: _Step) -> None:
    """Oracle: a factor √((G−1)/G) and nothing else."""
    expected = step.ascent(_row("naive_grpo")) * (4 / 5) ** 0.5
    assert _relative_error(step.ascent(_row("naive_grpo", ddof=1)), expected) < 1e-5


def test_rloo_is_a_scaled_group_mean(step: _Step) -> None:
    """Oracle: G/(G−1) × the gradient of REINFORCE with the group's mean as baseline."""
    reinforce = step.ascent(_row("reinforce", baseline="group_mean"))
    assert _relative_error(step.ascent(_row("rloo")), 5 / 4 * reinforce) < 1e-5


def test_a_ratio_on_policy_is_the_log_probability(step: _Step) -> None:
    """Oracle: ∇ρ = ∇log π at ρ = 1, so GRPO's surrogate without σ̂ is REINFORCE with group mean."""
    surrogate = step.ascent(_row("naive_grpo", dial=0.0, aggregate="sequence_sum"))
    assert _relative_error(surrogate, step.ascent(_row("reinforce", baseline="group_mean"))) < 1e-5


def test_gspo_is_grpo_on_policy(step: _Step) -> None:
    """Oracle: GRPO's gradient; a sequence ratio of the mean log-ratio gives each sequence its mean token score."""
    assert _relative_error(step.ascent(_row("gspo")), step.ascent(_row("naive_grpo"))) < 1e-5


def test_constants_in_the_reward_cancel(step: _Step) -> None:
    """Oracle: rewards 3 and 1 instead of 1 and 0: GRPO unchanged, Dr. GRPO twice."""
    shifted = _Step.__new__(_Step)
    shifted.__dict__.update(step.__dict__)
    shifted.group = make_group([3.0, 1.0, 1.0, 3.0, 1.0], lengths=step.lengths, seed=4)
    assert _relative_error(shifted.ascent(_row("naive_grpo")), step.ascent(_row("naive_grpo"))) < 1e-5
    assert _relative_error(shifted.ascent(_row("dr_grpo")), 2 * step.ascent(_row("dr_grpo"))) < 1e-5


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("dial", [0.0, 1.0, 2.0])
def test_expected_gradient_is_a_weight_times_the_gradient_of_the_solve_rate(size: int, dial: float) -> None:
    """E[g] = W_{G,α}(p)·∇p at finite G. Oracle: every one of 4^G groups with its probability, and `dispersion.weight`;
    G = 2 and 3 with α = 1 have the constant W = 1 and √2, by hand."""
    logits = torch.tensor([0.3, -1.0, 0.8, -0.2], dtype=torch.double, requires_grad=True)
    logp = logits.log_softmax(0)
    right = (0, 3)
    draws = list(itertools.product(range(4), repeat=size))
    groups = [
        make_group([float(token in right) for token in draw], lengths=[1] * size, position=number)
        for number, draw in enumerate(draws)
    ]
    row = _row("naive_grpo", dial=dial, aggregate="sequence_sum")
    tokens = torch.tensor(draws).flatten()
    batch = batch_of(row, groups).annotate(logp=logp.detach()[tokens])
    _, (gradient,) = loss_and_gradient(row, [batch], Counts(len(tokens), size, len(draws)))
    probability = logp.detach()[torch.tensor(draws)].sum(1).exp().repeat_interleave(size)
    (expected_ascent,) = torch.autograd.grad((-gradient * probability * logp[tokens]).sum(), logits, retain_graph=True)
    rate = logp.exp()[list(right)].sum()
    (rate_gradient,) = torch.autograd.grad(rate, logits)
    w = float(weight(float(rate.detach()), size, alpha=dial))
    torch.testing.assert_close(expected_ascent, w * rate_gradient, rtol=1e-5, atol=1e-7)
    if dial == 1.0 and size < 4:
        assert w == pytest.approx({2: 1.0, 3: 2**0.5}[size], rel=1e-9)


PATH_ROWS = [
    _row("grpo"),
    _row("dapo", updates_per_iteration=1),
    _row("mixed_grpo"),
    _row("dr_grpo"),
    _row("rloo"),
    _row("gspo", updates_per_iteration=1),
    _row("verl_grpo", overlong="mask"),
    _row("naive_grpo", positive_nll=0.1, aggregate="group_token_mean"),
    _row("naive_grpo", sampler_correction="truncate", correction_cap=1.5),
    _row("naive_grpo", entropy_coef=0.1),
    _row("lpo"),
    _row("lpo", listwise="reverse", entropy_coef=0.1, kl_coef=0.1),
    _row("pass_at_k", ratio_level="token", clip_low=0.2, clip_high=0.2),
    _row("sign_grpo"),
]


@pytest.mark.parametrize("number", range(len(PATH_ROWS)))
def test_update_has_the_gradient_of_plain_forwards(tiny_model: Path, number: int, monkeypatch: Any) -> None:
    """The product's whole update (old rows dropped, micro-batches of 40 tokens, prompts shared, chunked vocabulary,
    reference, stale rows) has the gradient of one whole batch of separate unpadded forwards.

    Oracle: Hugging Face's own eager forward per sequence, to 1e-5 of the gradient's norm, in fp32.
    """
    row = PATH_ROWS[number]
    run = Run(
        model=str(tiny_model), algorithm=row, device="cpu", dtype="float32", temperature=TEMPERATURE,
        micro_batch_tokens=40, max_new_tokens=MAX_TOKENS,
    )  # fmt: skip
    policy = Policy(run, tiny_model)
    plain, plain_reference = (_plain_model(tiny_model, torch.float32) for _ in range(2))
    reference = policy.frozen_copy()
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        for weights in zip(reference.parameters(), plain_reference.parameters(), strict=True):
            noise = 0.02 * torch.randn(weights[0].shape, generator=generator)
            for values in weights:
                values += noise
    groups = ragged_groups(5)
    groups[1:4] = [
        replace(g, rollouts=tuple(replace(r, completion=replace(r.completion, policy_version=0)) for r in g.rollouts))
        for g in groups[1:4]
    ]
    fresh = [
        replace(g, rollouts=tuple(replace(r, completion=replace(r.completion, policy_version=1)) for r in g.rollouts))
        for g in groups[4:]
    ]
    batch = batch_of(row, groups[1:4] + fresh, version=1)
    with torch.no_grad():  # an engine close to the policy, as engines are
        near = _plain_logps(plain, batch, TEMPERATURE)
    batch = batch.annotate(engine_logp=near + 0.2 * torch.randn(len(near), generator=generator))
    assert batch["stale"].any() and not batch["stale"].all()

    monkeypatch.setattr(policy, "step", lambda lr: 0.0)  # keep the gradients to look at
    updated = update(policy, reference, batch, 1, lambda *progress: None)
    got = torch.cat([values.grad.flatten() for values in policy.model.parameters() if values.grad is not None])

    logp, entropy = _plain_scores(plain, batch, TEMPERATURE)
    old = torch.where(batch["stale"][batch.rollout_of_token], batch["engine_logp"], logp.detach())
    with torch.no_grad():
        ref_logp = _plain_logps(plain_reference, batch, TEMPERATURE)
    scored = batch.annotate(logp=logp, entropy=entropy, old_logp=old, ref_logp=ref_logp)
    loss = policy_loss(row, scored, Counts.of(batch)).loss
    expected = _flat_gradient(loss, plain, keep=False)
    assert updated.loss == pytest.approx(float(loss.detach()), rel=1e-4, abs=1e-6)
    assert _relative_error(got, expected) < 1e-5


@pytest.mark.slow
def test_identity_on_a_real_language_model(smollm2: Path) -> None:
    """Dr. GRPO = σ̂²(s̄₊ − s̄₋), GRPO = σ̂(s̄₊ − s̄₋), RLOO = G/(G−1)·Dr. GRPO and GSPO = GRPO on SmolLM2-135M.

    Oracle: scores of each completion by plain forwards in fp32, to 1e-5 of the gradient's norm.
    """
    real = _Step(_plain_model(smollm2, torch.float32))
    difference = real.difference(real.scores)
    dr = real.ascent(_row("naive_grpo", dial=0.0, aggregate="sequence_sum"))
    assert _relative_error(dr, real.sigma**2 * difference) < 1e-5
    grpo = real.ascent(_row("naive_grpo", aggregate="sequence_sum"))
    assert _relative_error(grpo, real.sigma * difference) < 1e-5
    assert _relative_error(real.ascent(_row("rloo")), 5 / 4 * dr) < 1e-5
    assert _relative_error(real.ascent(_row("gspo")), real.ascent(_row("naive_grpo"))) < 1e-5
