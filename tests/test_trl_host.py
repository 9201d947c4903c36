"""onedial inside TRL's trainer. Oracles: TRL's own trainer where conventions agree, our loss where they do not."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import host_rewards
from maths_batches import MAX_TOKENS, batch_of, make_group
from onedial.core.algorithm import Algorithm
from onedial.core.algorithm_table import ALGORITHMS
from onedial.core.batch import Counts
from onedial.core.errors import ConfigError
from onedial.core.maths.loss import policy_loss
from onedial.core.types import Group

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    trl = pytest.importorskip("trl", reason="TRL is not installed")
    GRPOConfig, GRPOTrainer = trl.GRPOConfig, trl.GRPOTrainer
    from onedial.integrations import trl_host
    from onedial.integrations.trl_host import DialGRPOTrainer, PooledReward, row_advantages, trl_settings

pytestmark = pytest.mark.filterwarnings("ignore")

SIZE = 4
# one mixed group, one all wrong, one all right, one with a completion that could not be judged
REWARDS = [[1.0, 0.0, 0.0, 1.0], [0.0] * 4, [1.0] * 4, [1.0, float("nan"), 0.0, 0.0]]
LENGTHS = [[3, 5, MAX_TOKENS, 1], [2, 4, 3, MAX_TOKENS], [6, 2, 7, 9], [4, 8, 5, 2]]
EOS = 0


def groups_of(rewards: list[list[float]]) -> list[Group]:
    made = []
    for position, (values, lengths) in enumerate(zip(rewards, LENGTHS, strict=True)):
        outcomes = ["error" if value != value else "correct" if value > 0 else "wrong" for value in values]
        clean = [0.0 if value != value else value for value in values]
        group = make_group(
            clean,
            position=position,
            lengths=lengths,
            outcomes=outcomes,  # type: ignore[arg-type]
            prompt_tokens=range(40, 43 + position),
        )
        rollouts = []
        for rollout in group.rollouts:
            ids = rollout.completion.token_ids
            ids = ids if rollout.completion.truncated else (*ids[:-1], EOS)
            rollouts.append(replace(rollout, completion=replace(rollout.completion, token_ids=ids)))
        made.append(replace(group, rollouts=tuple(rollouts)))
    return made


def make_trainer(
    kind: Callable[..., Any], model: Path, folder: Path, rewards: list[list[float]], settings: dict[str, Any]
) -> Any:
    """A trainer whose completions and rewards are fixed."""
    from datasets import Dataset

    groups = groups_of(rewards)
    flat = [value for values in rewards for value in values]
    args = GRPOConfig(**{
        "output_dir": str(folder), "num_generations": SIZE, "per_device_train_batch_size": 16,
        "max_completion_length": MAX_TOKENS, "report_to": [], "use_cpu": True, "bf16": False, "seed": 1,
        "gradient_checkpointing": False, "disable_dropout": True, "steps_per_generation": 1, "learning_rate": 0.1,
        "max_steps": 2, "lr_scheduler_type": "constant", "save_strategy": "no", "optim": "sgd",
        "logging_strategy": "no", **settings,
    })  # fmt: skip
    made = kind(
        model=str(model), args=args, train_dataset=Dataset.from_dict({"prompt": ["x"] * 8}),
        reward_funcs=lambda completions, **_: [None if value != value else value for value in flat],
    )  # fmt: skip
    made.current_gradient_accumulation_steps = 1

    def fixed(prompts: list[Any]) -> tuple[Any, ...]:
        prompt_ids = [list(group.prompt_tokens) for group in groups for _ in group.rollouts]
        completion_ids = [list(rollout.completion.token_ids) for group in groups for rollout in group.rollouts]
        return prompt_ids, completion_ids, None, ["" for _ in flat], None, {}, None, None

    made._generate = fixed
    made.model.train()
    return made


@pytest.fixture()
def rows_computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many completions each pass with a gradient computed."""
    seen: list[int] = []
    compute = GRPOTrainer._get_per_token_logps_and_entropies

    def count(self: Any, model: Any, input_ids: Tensor, *args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled():
            seen.append(len(input_ids))
        return compute(self, model, input_ids, *args, **kwargs)

    monkeypatch.setattr(GRPOTrainer, "_get_per_token_logps_and_entropies", count)
    return seen


def gradient(trainer: Any) -> tuple[float, Tensor, dict[str, Any]]:
    inputs = trainer._generate_and_score_completions([{"prompt": "x"} for _ in range(16)])
    trainer.model.zero_grad()
    loss = trainer._compute_loss(trainer.model, inputs)
    loss.backward()
    return float(loss.detach()), torch.cat([w.grad.flatten() for w in trainer.model.parameters()]), inputs


def our_gradient(row: Algorithm, trainer: Any, rewards: list[list[float]]) -> tuple[float, Tensor]:
    """Our packing, advantages and loss on log-probabilities of TRL's own forward pass."""
    groups = [group for group in groups_of(rewards) if row.keep == "all" or group.mixed]
    batch = batch_of(row, groups)
    rows = [(group.prompt_tokens, rollout.completion.token_ids) for group in groups for rollout in group.rollouts
            if rollout.verdict.usable]  # fmt: skip
    logps = []
    for prompt, completion in rows:
        ids = torch.tensor([[*prompt, *completion]])
        logits = trainer.model(ids).logits[0, len(prompt) - 1 : -1].float()
        logps.append(logits.log_softmax(-1).gather(1, torch.tensor(completion)[:, None])[:, 0])
    trainer.model.zero_grad()
    loss = policy_loss(row, batch.annotate(logp=torch.cat(logps)), Counts.of(batch)).loss
    loss.backward()
    return float(loss.detach()), torch.cat([w.grad.flatten() for w in trainer.model.parameters()])


PRESETS = {"trl_dapo": "group", "trl_grpo": "group", "trl_dr_grpo": "none", "trl_gspo": "group"}


@pytest.mark.parametrize("name", PRESETS)
def test_two_steps_of_training_equal_plain_trl_where_conventions_agree(
    name: str, tiny_model: Path, tmp_path: Path, rows_computed: list[int]
) -> None:
    """Oracle: the weights of TRL's own trainer after two optimizer steps; silent groups, nothing unusable."""
    rewards = [*REWARDS[:3], [1.0, 0.0, 0.0, 0.0]]
    row = ALGORITHMS[name]
    own = make_trainer(
        lambda **words: DialGRPOTrainer(row=row, **words), tiny_model, tmp_path, rewards, trl_settings(row)
    )
    own.train()
    assert rows_computed == [8, 8], "the two silent groups were computed"
    settings = {**trl_settings(row), "scale_rewards": PRESETS[name]}
    plain = make_trainer(GRPOTrainer, tiny_model, tmp_path, rewards, settings)
    before = [weight.detach().clone() for weight in plain.model.parameters()]
    plain.train()
    assert rows_computed[2:] == [16, 16]
    moved = 0.0
    for old, theirs, ours in zip(before, plain.model.parameters(), own.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
        moved = max(moved, float((theirs - old).detach().abs().max()))
    assert moved > 1e-3


@pytest.mark.parametrize("name", ["grpo", "naive_grpo", "dr_grpo", "rloo", "reinforce", "gspo"])
@pytest.mark.parametrize("keep", ["all", "mixed"])
def test_the_gradient_is_the_rows_own_with_silent_and_unusable_completions(
    name: str, keep: str, tiny_model: Path, tmp_path: Path
) -> None:
    """Oracle: our packing and loss, where an unusable completion has no part in any statistic or count."""
    row = replace(ALGORITHMS[name], keep=keep, kl_coef=0.0, updates_per_iteration=1)
    if row.aggregate == "fixed_length":
        row = replace(row, length_budget=MAX_TOKENS)
    trainer = make_trainer(
        lambda **words: DialGRPOTrainer(row=row, **words), tiny_model, tmp_path, REWARDS, trl_settings(row)
    )
    loss, theirs, _ = gradient(trainer)
    our_loss, ours = our_gradient(row, trainer, REWARDS)
    if row.ratio_level != "none":  # else our loss is −A·log π and TRL's −A·π/π_old, with the same gradient
        assert loss == pytest.approx(our_loss, rel=1e-5, abs=1e-6)
    assert float(ours.norm()) > 1e-3
    assert float((ours - theirs).norm()) <= 1e-5 * float(ours.norm())


def test_rows_with_a_kl_term_compute_every_completion(
    tiny_model: Path, tmp_path: Path, rows_computed: list[int]
) -> None:
    row = ALGORITHMS["grpo"]
    trainer = make_trainer(
        lambda **words: DialGRPOTrainer(row=row, **words), tiny_model, tmp_path, REWARDS, trl_settings(row)
    )
    gradient(trainer)
    assert row.kl_coef > 0 and rows_computed == [16]


def test_a_batch_without_any_signal_leaves_the_weights_alone(
    tiny_model: Path, tmp_path: Path, rows_computed: list[int]
) -> None:
    row = ALGORITHMS["dr_grpo"]
    silent = [[1.0] * 4, [0.0] * 4, [1.0] * 4, [float("nan")] * 4]
    trainer = make_trainer(
        lambda **words: DialGRPOTrainer(row=row, **words), tiny_model, tmp_path, silent, trl_settings(row)
    )
    loss, grads, _ = gradient(trainer)
    assert loss == 0.0 and not grads.any() and rows_computed == [1]


def test_advantages_leave_out_what_was_not_judged() -> None:
    nan = float("nan")
    rewards = torch.tensor([[1.0, nan], [nan, nan], [0.0, 1.0], [nan, 0.0]])
    row = replace(ALGORITHMS["dr_grpo"], keep="all")
    advantage, kept = row_advantages(row, rewards, torch.tensor([1.0, 0.5]), 4)
    # totals 1, -, 0.5, 0 with mean 0.5
    torch.testing.assert_close(advantage, torch.tensor([0.5, 0.0, 0.0, -0.5], dtype=torch.float64))
    assert kept.tolist() == [True, False, True, True]


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"aggregate": "group_token_mean"}, "aggregate='group_token_mean'"),
        ({"positive_nll": 0.1}, "positive_nll"),
        ({"entropy_coef": 0.1}, "entropy_coef"),
        ({"reward": "signed"}, "reward='signed'"),
        ({"overlong": "mask_and_penalty"}, "overlong='mask_and_penalty'"),
        (
            {"listwise": "reverse", "clip_low": None, "clip_high": None, "aggregate": "sequence_sum"},
            "listwise='reverse'",
        ),
        ({"clip_high": 0.5, "clip_low": 0.2, "clip_dual": 1.2}, "dual clip below 1"),
    ],
)
def test_a_row_that_trl_cannot_express_is_refused(cells: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match="cannot train inside TRL"):
        trl_settings(replace(ALGORITHMS["naive_grpo"], **cells))
    with pytest.raises(ConfigError) as caught:
        trl_settings(replace(ALGORITHMS["naive_grpo"], **cells))
    assert message in str(caught.value)


def test_settings_that_are_not_the_rows_are_refused(tmp_path: Path) -> None:
    row = ALGORITHMS["dr_grpo"]
    args = GRPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False)
    with pytest.raises(ConfigError, match="loss_type='dapo' .the row's: 'dr_grpo'"):
        DialGRPOTrainer(row=row, model="x", args=args)
    with pytest.raises(ConfigError, match="needs args="):
        DialGRPOTrainer(row=row, model="x")
    args = GRPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, **trl_settings(row))
    with pytest.raises(ConfigError, match="length_budget=7"):
        trl_host.check_settings(replace(row, length_budget=7), args)


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_every_row_is_expressed_or_refused_with_a_reason(name: str, tmp_path: Path) -> None:
    row = ALGORITHMS[name]
    try:
        settings = trl_settings(row)
    except ConfigError as error:
        assert "cannot train inside TRL" in str(error)
    else:
        GRPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, **settings)


# -- rewards -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pooled() -> Iterator[PooledReward]:
    reward = PooledReward(host_rewards.judge, workers=2, timeout_s=2.0)
    yield reward
    reward.close()


def test_a_failing_verifier_gives_none_and_never_zero(pooled: PooledReward) -> None:
    metrics: dict[str, float] = {}
    texts = ["4", "5", "hang", "die", "raise", "decline", "4"]
    rewards = pooled(
        prompts=["What is 2 + 2?"] * 7, completions=texts, completion_ids=[[1]] * 7, answer=["4"] * 7,
        log_metric=metrics.__setitem__, trainer_state=None,
    )  # fmt: skip
    assert rewards == [1.0, 0.0, None, None, None, None, 1.0]
    assert metrics == {"verifier/failed": 4 / 7}
    assert pooled.__name__ == "judge"


def test_chat_prompts_and_completions(pooled: PooledReward) -> None:
    prompt = [{"role": "user", "content": "What is 2 + 2?"}]
    completions = [[{"role": "assistant", "content": text}] for text in ("4", "5")]
    verl = PooledReward(host_rewards.compute_score, timeout_s=10.0, answer="solution")
    try:
        assert verl([prompt] * 2, completions, solution=["4", "4"]) == [1.0, 0.0]
    finally:
        verl.close()
