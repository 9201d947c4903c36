"""The critic as it trains: what it reads, that it disturbs nothing, that it learns, warms up, stops and goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from onedial.core.algorithm_table import ALGORITHMS
from onedial.core.batch import Batch
from onedial.core.errors import CheckpointError, ConfigError
from onedial.core.maths.gae import explained_variance
from onedial.core.run_log import read_json_lines
from onedial.core.settings import Run
from onedial.training.lm.attention import PrefixLayout
from onedial.training.trainer import checkpoint
from onedial.training.trainer.critic import Critic, critic_rate
from onedial.training.trainer.loop import train
from onedial.training.trainer.policy import Policy
from test_lm import GROUPS, ragged_batch
from test_train import batches_of, rollouts, run, same, untimed, weights

__all__ = ["run"]  # the fixture of the training tests


def _critic(run: Run, **changes: Any) -> tuple[Critic, Policy]:
    """A critic whose head is no longer 0, so that its values say something."""
    run = replace(run, **{"algorithm": ALGORITHMS["ppo"], **changes})
    policy = Policy(run, run.model)
    critic = Critic(run, policy, run.model)
    with torch.no_grad():
        critic.head.weight.normal_(generator=torch.Generator().manual_seed(0))
        critic.head.bias.fill_(0.25)
    return critic, policy


def _batch() -> Batch:
    batch = ragged_batch(GROUPS, vocabulary=250)
    generator = torch.Generator().manual_seed(4)
    value, noise = (torch.randn(len(batch.tokens), generator=generator) for _ in range(2))
    return batch.annotate(value=value, returns=value + noise)


def test_a_critic_without_rollouts_to_learn_from_makes_no_step(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    critic, _ = _critic(run)
    monkeypatch.setattr(critic.weights, "step", lambda lr: pytest.fail("a step without a gradient"))
    nothing = torch.zeros(0, dtype=torch.long)
    assert critic.learn(_batch(), [nothing, nothing], 1e-3, lambda *_: None) == 0.0


@pytest.mark.parametrize("kind", ["model", "head"])
def test_values_stand_where_tokens_are_chosen(run: Run, kind: str) -> None:
    """Oracle: each row alone through the ordinary model: the head on the last hidden state before every token."""
    from transformers import AutoModelForCausalLM

    critic, _ = _critic(run, critic=kind)
    batch = _batch()
    plain = AutoModelForCausalLM.from_pretrained(run.model).get_decoder()
    expected = []
    for row, group in enumerate(batch.group.tolist()):
        prompt = batch.prompt_tokens[batch.prompt_offsets[group] : batch.prompt_offsets[group + 1]]
        tokens = batch.tokens[batch.offsets[row] : batch.offsets[row + 1]]
        with torch.no_grad():
            hidden = plain(torch.cat([prompt, tokens])[None]).last_hidden_state[0, len(prompt) - 1 : -1]
            expected.append(critic.head(hidden).squeeze(1))
    torch.testing.assert_close(critic.values(batch), torch.cat(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["model", "head"])
def test_micro_batches_change_no_step_of_the_critic(run: Run, kind: str) -> None:
    """Invariance: one pass or a pass per row gives the same loss and, before Adam, the same gradients."""
    results = []
    row = replace(ALGORITHMS["vapo"], updates_per_iteration=1)
    for budget in (10_000, 1):
        critic, policy = _critic(run, critic=kind, micro_batch_tokens=budget, algorithm=row, iterations=99)
        gradients: list[torch.Tensor] = []

        def step(lr: float, critic: Critic = critic, gradients: list[torch.Tensor] = gradients) -> float:
            gradients.extend(master.grad.clone() for master in critic.weights.masters if master.grad is not None)
            return 0.0

        critic.weights.step = step  # type: ignore[method-assign]
        batch = _batch()
        batch = batch.annotate(rollout_mask=torch.arange(batch.num_rollouts) != 2)
        loss = critic.learn(batch, [torch.arange(batch.num_rollouts)], 1e-3, lambda *_: None)
        assert all(weight.grad is None for weight in policy.weights.parameters), "the critic never moves the policy"
        results.append((loss, gradients))
    (whole, ours), (split, theirs) = results
    assert split == pytest.approx(whole, rel=1e-5) and len(ours) == len(theirs) == (2 if kind == "head" else len(ours))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-5 * max(1.0, float(one.abs().max())))
    # by hand: the mean of ½(V − R)² over the tokens that are not masked
    critic, _ = _critic(run, critic=kind)
    mask = batch.mask
    by_hand = 0.5 * (critic.values(batch) - batch["returns"])[mask].square().mean()
    assert whole == pytest.approx(float(by_hand), rel=1e-4)


@pytest.mark.parametrize(("kind", "lr"), [("model", 1e-3), ("head", 0.03)])
def test_a_critic_learns_what_can_be_known(run: Run, kind: str, lr: float) -> None:
    """Oracle: returns that are 1 after an even token and 0 after an odd one; on tokens it never saw in that order, a
    critic explains most of their variance, and one that has not learned nothing."""

    def batch(seed: int) -> Batch:
        made = ragged_batch([(2, [5] * 8), (3, [4] * 8)], vocabulary=8, seed=seed)
        before = PrefixLayout(made)
        seen = before.tokens[before.predictors]
        return made.annotate(value=torch.zeros(len(made.tokens)), returns=(seen % 2 == 0).float())

    run = replace(run, algorithm=replace(ALGORITHMS["vapo"], updates_per_iteration=1), iterations=99, critic=kind)
    critic = Critic(run, Policy(run, run.model), run.model)
    fresh = batch(1000)
    assert float(explained_variance(critic.values(fresh), fresh["returns"])) == 0.0
    everything = [torch.arange(16)]
    losses = [critic.learn(batch(seed), everything, lr, lambda *_: None) for seed in range(1, 31)]
    assert losses[-1] < 0.3 * losses[0]
    assert float(explained_variance(critic.values(fresh), fresh["returns"])) > 0.7


def test_the_reward_rises_with_a_critic(run: Run) -> None:
    """The tiny model learns its one-token task from advantages of a critic; nothing trains while that warms up."""
    row = replace(ALGORITHMS["ppo"], critic_warmup=2, kl_coef=0.0, kl_in="loss")
    run = replace(run, algorithm=row, iterations=18, prompts_per_iteration=6, lr=5e-3, checkpoint_every=30)
    result = train(replace(run, critic_lr=1e-3, eval_prompts=20, eval_samples=4))
    assert result.before is not None and result.after is not None
    assert result.after.avg.value > result.before.avg.low + 0.25
    records = read_json_lines(result.directory / "metrics.jsonl")
    assert all(record["value_loss"] > 0 and record["value_calibration"] >= 0 for record in records)
    assert [record["tokens_trained"] > 0 for record in records[:3]] == [False, False, True]


def test_only_the_critic_learns_while_it_warms_up(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """During two iterations of warm-up the policy is the start to the bit, and the critic takes its first step.

    Oracle: with a head of 0 every value is 0 and every return is the rollout's reward R, so the gradient of the mean of
    ½(V − R)² is −Σ R h / T with h the hidden state before the token, and AdamW's first step is lr·sign(Σ R h).
    """
    from transformers import AutoModelForCausalLM

    row = replace(ALGORITHMS["vapo"], critic_warmup=2, updates_per_iteration=1)
    run = replace(run, grad_clip=0.0)
    start, seen = Policy(replace(run, algorithm=row), run.model), batches_of(monkeypatch)
    train(replace(run, algorithm=row, iterations=3, checkpoint_every=1, keep_checkpoints=3))
    batch, total = seen[0], torch.zeros(1)
    plain = AutoModelForCausalLM.from_pretrained(run.model).get_decoder()
    for number, group in enumerate(batch.group.tolist()):
        prompt = batch.prompt_tokens[batch.prompt_offsets[group] : batch.prompt_offsets[group + 1]]
        tokens = batch.tokens[batch.offsets[number] : batch.offsets[number + 1]]
        with torch.no_grad():
            hidden = plain(torch.cat([prompt, tokens])[None]).last_hidden_state[0, len(prompt) - 1 : -1]
        total = total + batch["reward"][number].float() * hidden.sum(0)
    stored = load_file(checkpoint.checkpoint_path(Path(run.out), 1) / "resume" / "critic_masters.safetensors")
    clear = total.abs() > 1e-3 * total.abs().max()
    expected = critic_rate(run, run.lr) * total.sign()
    assert batch["reward"].any() and clear.sum() > 50
    torch.testing.assert_close(stored["head.weight"].squeeze(0)[clear], expected[clear], rtol=0.01, atol=0)
    assert float(stored["head.bias"]) == pytest.approx(critic_rate(run, run.lr), rel=0.01)
    for iteration, moved in ((1, False), (2, False), (3, True)):
        resume = checkpoint.checkpoint_path(Path(run.out), iteration) / "resume"
        stored = load_file(resume / "masters.safetensors")
        named = zip(start.weights.names, start.weights.masters, strict=True)
        assert all(torch.equal(stored[name], master) for name, master in named) != moved
    records = read_json_lines(Path(run.out) / "metrics.jsonl")
    assert [record["step"] for record in records] == [0, 0, 1]
    assert [record["tokens_trained"] > 0 for record in records] == [False, False, True]


@pytest.mark.parametrize(
    "changes", [{"critic": "head", "group_size": 1}, {"lora_rank": 2}, {"dtype": "bfloat16"}], ids=str
)
def test_every_kind_of_critic_resumes_bit_for_bit(run: Run, changes: dict[str, Any], tmp_path: Path) -> None:
    """Invariance: stopped after one of two iterations and resumed equals never stopped: weights, metrics, log."""
    run = replace(run, algorithm=ALGORITHMS["ppo"], iterations=2, checkpoint_every=1, **changes)
    train(run)
    half = replace(run, out=str(tmp_path / "half"))
    train(replace(half, iterations=1))
    train(half, resume=True)
    stored = weights(run.out)
    assert ("critic_masters/weight" if run.critic == "head" else "critic_masters/head.weight") in stored
    assert same(stored, weights(half.out))
    assert untimed(run.out) == untimed(half.out)
    assert rollouts(run.out).equals(rollouts(half.out))


def test_a_checkpoint_without_its_critic_is_refused(run: Run) -> None:
    """Oracle: a critic that cannot be found is an error that names the checkpoint, not a critic that starts anew."""
    run = replace(run, algorithm=ALGORITHMS["ppo"], iterations=2, checkpoint_every=1)
    train(replace(run, iterations=1))
    (checkpoint.checkpoint_path(Path(run.out), 1) / "resume" / "critic_masters.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"iteration_000001/resume/critic_masters.safetensors: cannot be read"):
        train(run, resume=True)
    with pytest.raises(CheckpointError, match=r"iteration_000001: not a whole checkpoint"):
        train(replace(run, check_files=False), resume=True)


def test_settings_of_the_critic() -> None:
    """Hand values: ten times lr for a model, 1e-3 for a head, what is asked for otherwise; all follow the schedule."""
    base = Run(lr=1e-5)
    assert critic_rate(base, 1e-5) == pytest.approx(1e-4)
    assert critic_rate(base, 0.5e-5) == pytest.approx(5e-5)
    assert critic_rate(replace(base, critic="head"), 0.5e-5) == pytest.approx(5e-4)
    assert critic_rate(replace(base, critic_lr=3e-4), 1e-5) == pytest.approx(3e-4)
    with pytest.raises(ConfigError, match=r"critic_warmup=50: must be less than iterations=40"):
        Run(algorithm=ALGORITHMS["vapo"], iterations=40)
    with pytest.raises(ConfigError, match=r"critic='mode'.*model, head"):
        Run(critic="mode")
    assert Run(algorithm=ALGORITHMS["ppo"], group_size=1).group_size == 1
