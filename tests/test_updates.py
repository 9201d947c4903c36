"""Updates against plain Hugging Face forwards: later mini-batches and epochs, stale rollouts, KL in the reward."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from maths_batches import MAX_TOKENS, make_group
from onedial.core.algorithm import Algorithm
from onedial.core.algorithm_table import ALGORITHMS
from onedial.core.batch import Batch
from onedial.core.errors import ConfigError, DivergenceError
from onedial.core.run_log import TrainingSignal, read_groups, rollout_path, write_rollouts
from onedial.core.settings import Run
from onedial.core.types import Group, Prompt, Rollout, Verdict
from onedial.training.rollout.engine import Request, Sampling
from onedial.training.rollout.torch_engine import TorchEngine
from onedial.training.trainer import checkpoint
from onedial.training.trainer import step as step_module
from onedial.training.trainer.advantages import add_advantages, compute_advantages
from onedial.training.trainer.critic import Critic
from onedial.training.trainer.live_view import View
from onedial.training.trainer.loop import train
from onedial.training.trainer.packing import pack, split_minibatches
from onedial.training.trainer.policy import Policy
from onedial.training.trainer.step import Updated, update
from test_identities import _flat_gradient, _plain_logps, _plain_model, _relative_error
from test_train import run

__all__ = ["run"]  # the fixture of the training tests

SGD = 0.3  # the rate of the plain steps below: large enough that the policy moves


def silent(*_: Any) -> None:
    """Progress that nobody watches."""


def mixed_groups() -> list[Group]:
    rewards = ([1.0, 0.0, 0.0], [0.0, 1.0], [1.0, 1.0, 0.0, 0.0], [0.0, 1.0, 1.0])
    return [make_group(r, position=p, prompt_tokens=range(5, 8 + p), seed=6) for p, r in enumerate(rewards)]


def small_run(model: Path, row: Algorithm, **settings: Any) -> Run:
    defaults: dict[str, Any] = {
        "model": str(model), "algorithm": row, "device": "cpu", "dtype": "float32", "micro_batch_tokens": 40,
        "max_new_tokens": MAX_TOKENS, "iterations": 10, "grad_clip": 0.0,
    }  # fmt: skip
    return Run(**{**defaults, **settings})


class PlainSteps:
    """Takes the place of the optimizer: keeps each step's gradient, then moves the weights by plain descent."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.gradients: list[Tensor] = []

    def __call__(self, lr: float) -> float:
        parameters = list(self.policy.model.parameters())
        self.gradients.append(torch.cat([weight.grad.flatten() for weight in parameters if weight.grad is not None]))
        move(parameters, self.gradients[-1])
        for weight in parameters:
            weight.grad = None
        return float(len(self.gradients))  # a norm that tells the steps apart


@torch.no_grad()
def move(parameters: list[Any], gradient: Tensor) -> None:
    for weight, part in zip(parameters, gradient.split([w.numel() for w in parameters]), strict=True):
        weight -= SGD * part.view_as(weight)


def plain_loss(logp: Tensor, old: Tensor, batch: Batch, *, sequence: bool, low: float, high: float) -> Tensor:
    """Clipped surrogate written out: token mean, or with a ratio of each sequence the mean over sequences."""
    total = torch.zeros(())
    for number, (start, stop) in enumerate(zip(batch.offsets[:-1].tolist(), batch.offsets[1:].tolist(), strict=True)):
        difference, advantage = (logp - old)[start:stop], batch["advantage"][number].float()
        ratio = (difference.mean().expand(stop - start) if sequence else difference).exp()
        terms = torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)
        total = total - (terms.mean() / batch.num_rollouts if sequence else terms.sum() / len(batch.tokens))
    return total


@pytest.mark.parametrize(("level", "updates", "epochs"), [("token", 2, 1), ("token", 1, 3), ("sequence", 2, 2)])
def test_later_minibatches_and_epochs_have_the_gradient_of_plain_forwards(
    tiny_model: Path, level: str, updates: int, epochs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Off-policy steps (PPO's K epochs, GRPO's μ, several mini-batches): every step's gradient, loss and figures.

    Oracle: the surrogate written out over Hugging Face's own forward per sequence, with the policy before the first
    step as old one; plain descent on both sides. S1, S7, S12, S13, S17.
    """
    sequence = level == "sequence"
    low, high = (0.5, 1.0) if sequence else (0.2, 0.28)
    row = replace(
        ALGORITHMS["naive_grpo"], name="row", ratio_level=level, clip_low=low, clip_high=high, eps=1e-12,
        aggregate="sequence_mean" if sequence else "token_mean", updates_per_iteration=updates,
        epochs_per_iteration=epochs,
    )  # fmt: skip
    policy, plain = Policy(small_run(tiny_model, row), tiny_model), _plain_model(tiny_model, torch.float32)
    batch = add_advantages(row, pack(mixed_groups()), max_new_tokens=MAX_TOKENS)
    steps = PlainSteps(policy)
    monkeypatch.setattr(policy, "step", steps)
    updated = update(policy, None, batch, 1, silent)
    assert updated.steps == len(steps.gradients) == updates * epochs

    with torch.no_grad():
        start = _plain_logps(plain, batch)
    losses, sums, drift = [], {"nll": 0.0, "mismatch": 0.0, "tokens": 0}, 0.0
    for got, part in zip(steps.gradients, parts_of(policy.run, batch), strict=True):
        minibatch, old = batch.select(part), start[batch.token_index(part)]
        logp = _plain_logps(plain, minibatch)
        loss = plain_loss(logp, old, minibatch, sequence=sequence, low=low, high=high)
        expected = _flat_gradient(loss, plain, keep=False)
        assert _relative_error(got, expected) < 2e-4
        losses.append(float(loss.detach()))
        engine = minibatch["engine_logp"]
        sums["nll"] -= float(logp.detach().sum())
        sums["mismatch"] += float(((old - engine).exp() - (old - engine) - 1).clamp(max=1e6).sum())
        sums["tokens"] += len(logp)
        drift = max(drift, float((logp.detach() - old).abs().max()))
        move(list(plain.parameters()), expected)
    assert drift > 0.1, "the policy must have moved, else nothing here is off-policy"
    assert updated.loss == pytest.approx(sum(losses) / len(losses), rel=1e-3, abs=1e-5)
    assert updated.grad_norm == pytest.approx(sum(range(1, len(losses) + 1)) / len(losses))
    assert updated.mean("nll") == pytest.approx(sums["nll"] / sums["tokens"], rel=1e-4)
    assert updated.mean("mismatch") == pytest.approx(sums["mismatch"] / sums["tokens"], rel=1e-3)
    assert updated.tokens_trained == len(batch.tokens)


def parts_of(run: Run, batch: Batch) -> list[Tensor]:
    """The rollouts of each mini-batch of iteration 1, epoch by epoch."""
    from onedial.training.trainer.step import _minibatch_seed

    row = run.algorithm
    seeds = [_minibatch_seed(run, 1, epoch) for epoch in range(row.epochs_per_iteration)]
    assert len(set(seeds)) == len(seeds)
    return [part for seed in seeds for part in split_minibatches(batch, row.updates_per_iteration, seed)]


def test_loss_is_averaged_over_the_steps_made(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """B15. Oracle: one mixed and one silent group in two mini-batches: the loss is that of the mixed one alone."""
    row = replace(ALGORITHMS["naive_grpo"], name="row", updates_per_iteration=2, aggregate="token_mean", dial=0.0)
    policy = Policy(small_run(tiny_model, row), tiny_model)
    monkeypatch.setattr(policy, "step", lambda lr: 1.0)
    mixed, unanimous = make_group([1.0, 0.0], lengths=[2, 6]), make_group([1.0, 1.0], position=1)
    both = add_advantages(row, pack([mixed, unanimous]), max_new_tokens=MAX_TOKENS)
    alone = add_advantages(row, pack([mixed]), max_new_tokens=MAX_TOKENS)
    two, one = update(policy, None, both, 1, silent), update(policy, None, alone, 1, silent)
    assert (two.steps, two.minibatches, one.steps, one.minibatches) == (1, 2, 1, 1)
    # on-policy every ratio is 1: −(2·½ − 6·½)/8 tokens
    assert two.loss == pytest.approx(one.loss, rel=1e-4) and one.loss == pytest.approx(0.25, rel=1e-4)


@pytest.mark.parametrize("name", ["gspo", "dapo"])
@pytest.mark.parametrize("filters", [{"top_p": 0.9}, {"top_k": 5}, {}])
def test_an_unmoved_policy_has_ratio_one_on_stale_rollouts(
    tiny_model: Path, name: str, filters: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B3, C12 (TRL 6789): rollouts sampled under top-p or top-k and carried over. Oracle: nothing moved, so the ratio
    is 1, no token is clipped, and sampler and trainer do not differ; after the log was written and read, too."""
    row = ALGORITHMS[name]
    policy = Policy(small_run(tiny_model, replace(row, updates_per_iteration=1), temperature=0.8), tiny_model)
    engine = TorchEngine(policy.model, (0,), max_rows=8)
    engine.load_weights(policy.model, 0)
    sampling = Sampling(temperature=0.8, max_new_tokens=MAX_TOKENS, **filters)
    written = engine.generate([Request(n, range(5, 9 + n), tuple(range(8)), sampling) for n in range(2)])
    groups = [
        Group(
            Prompt(f"p{n}"),
            tuple(
                Rollout(done.index, done.completion, Verdict(float(done.index % 2), correct=done.index % 2 == 1))
                for done in sorted(written, key=lambda done: done.index)
                if done.key == n
            ),
            1,
            n,
            tuple(range(5, 9 + n)),
        )
        for n in range(2)
    ]
    write_rollouts(tmp_path, 1, groups, {}, {})
    logged = read_groups(rollout_path(tmp_path, 1))
    groups = [replace(logged[group.id], prompt=group.prompt, prompt_tokens=group.prompt_tokens) for group in groups]
    filtered = [r.completion.logps != r.completion.policy_logps for group in groups for r in group.rollouts]
    assert any(filtered) == bool(filters)
    batch = add_advantages(row, pack(groups, version=1), max_new_tokens=MAX_TOKENS)
    assert batch["stale"].all()
    monkeypatch.setattr(policy, "step", lambda lr: 1.0)
    updated: Updated = update(policy, None, batch, 1, silent)
    assert updated.mean("ratio") == pytest.approx(1.0, abs=1e-4)
    assert (updated.sums["clip_low"], updated.sums["clip_high"]) == (0, 0)
    assert updated.mean("mismatch") == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("name", ["rloo", "ppo"])
def test_kl_in_the_reward_is_paid_for_staying(tiny_model: Path, name: str) -> None:
    """S2. Oracle: Hugging Face's own forwards of policy and reference: reward − coef·Σ(log π − log π_ref), k1."""
    row = replace(ALGORITHMS[name], name="row", kl_coef=0.3, kl_in="reward", kl_estimator="k1")
    run = small_run(tiny_model, row)
    policy, plain = Policy(run, tiny_model), _plain_model(tiny_model, torch.float32)
    reference, plain_reference = policy.frozen_copy(), _plain_model(tiny_model, torch.float32)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for ours, theirs in zip(reference.parameters(), plain_reference.parameters(), strict=True):
            noise = 0.05 * torch.randn(ours.shape, generator=generator)
            ours += noise
            theirs += noise
    critic = Critic(run, policy, tiny_model) if row.needs_critic else None
    batch, _ = compute_advantages(pack(mixed_groups()), policy, reference, critic, iteration=1)
    with torch.no_grad():
        gap = _plain_logps(plain, batch) - _plain_logps(plain_reference, batch)
    sums = torch.stack([part.sum() for part in gap.split(batch.lengths.tolist())])
    assert sums.abs().max() > 0.1
    expected = batch["reward"].float() - 0.3 * sums
    torch.testing.assert_close(batch["shaped_reward"].float(), expected, rtol=1e-3, atol=1e-3)


def test_a_reference_for_the_loss_is_not_in_the_reward(tiny_model: Path) -> None:
    """Oracle: the advantages of the same row without a reference. A frozen copy needs no memory for gradients."""
    run = small_run(tiny_model, ALGORITHMS["grpo"])
    policy = Policy(run, tiny_model)
    reference = policy.frozen_copy()
    assert not any(weight.requires_grad for weight in reference.parameters())
    assert all(weight.requires_grad for weight in policy.model.parameters())
    with torch.no_grad():
        next(iter(reference.parameters())).add_(0.1)
    for name, value in compute_advantages(pack(mixed_groups()), policy, None, None, iteration=1)[0].annotations.items():
        given = compute_advantages(pack(mixed_groups()), policy, reference, None, iteration=1)[0][name]
        assert torch.equal(given, value), name


def test_on_policy_each_piece_is_computed_once(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: by hand. One mini-batch needs no old log-probabilities: as many forwards as micro-batches. Two need them
    first, so each rollout is computed twice. A group longer than a micro-batch is cut between its rollouts."""
    forwards: list[int] = []
    for updates, times in ((1, 1), (2, 2)):
        row = replace(ALGORITHMS["naive_grpo"], name="row", updates_per_iteration=updates)
        policy = Policy(small_run(tiny_model, row, micro_batch_tokens=16), tiny_model)
        logps = policy.logps
        monkeypatch.setattr(
            policy, "logps", lambda b, logps=logps, **o: forwards.append(b.num_rollouts) or logps(b, **o)
        )
        monkeypatch.setattr(policy, "step", lambda lr: 1.0)
        group = make_group([1.0, 0.0, 1.0, 0.0], lengths=[6, 6, 6, 6], prompt_tokens=range(5, 9))
        other = make_group([1.0, 0.0], lengths=[2, 2], position=1, prompt_tokens=range(5, 9))
        batch = add_advantages(row, pack([group, other]), max_new_tokens=MAX_TOKENS)
        told: list[tuple[str, int, int]] = []
        update(policy, None, batch, 1, lambda *stage, told=told: told.append(stage))
        assert sum(forwards) == 6 * times and max(forwards) == 2, "4 + 2·6 tokens fit into 16"
        assert len(forwards) == 3 * times
        total = 3 if updates == 1 else max(done for _, done, _ in told) + 1
        assert [stage for stage, _, _ in told] == ["update"] * 3 and {t for _, _, t in told} <= {total, 2, 4}
        assert updates > 1 or told == [("update", 0, 3), ("update", 1, 3), ("update", 2, 3)]
        forwards.clear()


def test_progress_of_the_critic_counts_the_pieces_of_all_parts(tiny_model: Path) -> None:
    run = small_run(tiny_model, replace(ALGORITHMS["ppo"], name="row"), micro_batch_tokens=16)
    policy = Policy(run, tiny_model)
    critic = Critic(run, policy, tiny_model)
    groups = [make_group([1.0, 0.0, 1.0], lengths=[6, 6, 6], position=p, prompt_tokens=range(5, 9)) for p in range(3)]
    batch, _ = compute_advantages(pack(groups), policy, None, critic, iteration=1)
    parts = [(batch.group == number).nonzero().squeeze(1) for number in range(3)]
    told: list[tuple[str, int, int]] = []
    critic.learn(batch, parts, 1e-3, lambda *stage: told.append(stage))
    assert told == [("critic", done, 6) for done in range(6)], "two pieces of each of three parts"


@pytest.mark.parametrize(
    ("kind", "critic_lr", "peak"), [("model", 0.0, 1e-2), ("head", 0.0, 1e-3), ("model", 0.05, 0.05)]
)
def test_the_critic_steps_at_its_own_rate(
    tiny_model: Path, kind: str, critic_lr: float, peak: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S3. Oracle: by hand: ten times lr, or 1e-3 for a head, or what was set; half of it in the first of two
    warm-up iterations, while the policy steps at half of lr."""
    run = small_run(tiny_model, ALGORITHMS["ppo"], lr=1e-3, warmup=2, critic=kind, critic_lr=critic_lr)
    policy = Policy(run, tiny_model)
    critic = Critic(run, policy, tiny_model)
    rates: dict[str, list[float]] = {"policy": [], "critic": []}
    monkeypatch.setattr(policy, "step", lambda lr: rates["policy"].append(lr) or 1.0)
    monkeypatch.setattr(critic.weights, "step", lambda lr: rates["critic"].append(lr) or 1.0)
    batch, _ = compute_advantages(pack(mixed_groups()), policy, None, critic, iteration=1)
    update(policy, None, batch, 1, silent, critic=critic)
    assert rates["policy"] == pytest.approx([5e-4] * 4) and rates["critic"] == pytest.approx([peak / 2] * 4)


@pytest.mark.parametrize(("name", "what"), [("gspo", "the loss is nan"), ("dapo", "diverged")])
def test_a_diverged_run_stops_before_the_step(run: Run, name: str, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: a learning rate no model survives, from the second iteration on: one clear error; the checkpoint
    before it is whole and finite, and the mini-batch is on disk."""
    from safetensors.torch import load_file

    monkeypatch.setattr(step_module, "learning_rate", lambda run, iteration: 1e-3 if iteration == 1 else 1e30)
    run = replace(run, algorithm=ALGORITHMS[name], checkpoint_every=1 if name == "gspo" else 3)
    with pytest.raises(DivergenceError, match=what):
        train(replace(run, iterations=1))
        train(run, resume=True)
    newest = checkpoint.find_latest(Path(run.out))
    assert newest is not None and newest.name == "iteration_000001"
    stored = load_file(newest / "resume" / "masters.safetensors")
    assert all(torch.isfinite(weight).all() for weight in stored.values())
    if name == "gspo":
        saved = load_file(Path(run.out) / "diverged" / "000002.safetensors")
        assert len(saved["tokens"]) == int(saved["offsets"][-1]) > 0 and "advantage" in saved


def test_fewer_groups_than_minibatches_is_said_once(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: four mini-batches asked of three groups, over two iterations: one note."""
    row = replace(ALGORITHMS["naive_grpo"], name="row", updates_per_iteration=4)
    train(replace(run, algorithm=row, iterations=2), view=View("x", 2, plain=True))
    assert capsys.readouterr().out.count("updates_per_iteration=4, but an iteration had only 3 groups") == 1


@pytest.mark.parametrize(
    ("cells", "word"),
    [({"refill": True, "keep": "mixed"}, "refill"), ({"epochs_per_iteration": 2}, "epochs_per_iteration")],
)
def test_rows_without_a_ratio_take_no_old_rollouts(cells: dict[str, Any], word: str) -> None:
    """B6, C17: what an earlier policy wrote needs a ratio. Oracle: the contradiction is named."""
    with pytest.raises(ConfigError, match=f"{word} .*needs a ratio"):
        replace(ALGORITHMS["rloo"], name="row", **cells)


def test_a_zero_advantage_in_a_mixed_group_is_not_silent(tmp_path: Path) -> None:
    """S19. Oracle: rewards 0, ½, 1: the middle one has advantage 0 and trained all the same."""
    import polars as pl

    group = make_group([0.0, 0.5, 1.0])
    signals = {(group.id, n): TrainingSignal(r, r - 0.5) for n, r in enumerate([0.0, 0.5, 1.0])}
    write_rollouts(tmp_path, 1, [group], {group.id: "trained"}, signals)
    assert pl.read_parquet(rollout_path(tmp_path, 1))["status"].to_list() == ["trained"] * 3
