"""Equality with TRL's GRPOTrainer: its own advantages, masks, importance ratios, loss and gradient.

What is TRL's: `_generate_and_score_completions` (rewards to advantages, truncation masks, importance ratios,
reference logps, token counts) and `_compute_loss`, both run unchanged on a real trainer. What is ours: the
completions are fixed instead of sampled (`_generate` is replaced), and old logps are moved off the policy by a
known amount where a test wants ratios other than 1.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from maths_batches import MAX_TOKENS, batch_of, make_group
from onedial.core.algorithm import Algorithm
from onedial.core.algorithm_table import ALGORITHMS
from onedial.core.batch import Batch, Counts
from onedial.core.maths.loss import policy_loss
from test_conformance import assert_verdicts_committed

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    trl = pytest.importorskip("trl", reason="TRL is not installed")
    GRPOConfig, GRPOTrainer = trl.GRPOConfig, trl.GRPOTrainer

pytestmark = pytest.mark.filterwarnings("ignore")

SIZE = 4
REWARDS = [[1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0], [0.5, 0.0, 1.0, 0.25]]
LENGTHS = [[3, 5, MAX_TOKENS, 1], [2, 4, 3, MAX_TOKENS], [6, 2, 7, 9]]
EOS = 0


def _groups() -> list[Any]:
    """Three groups of four, one silent, two truncated completions; the others end with the end-of-sequence token."""
    groups = []
    for position, (rewards, lengths) in enumerate(zip(REWARDS, LENGTHS, strict=True)):
        group = make_group(rewards, position=position, lengths=lengths, prompt_tokens=range(40, 43 + position))
        rollouts = []
        for rollout in group.rollouts:
            tokens = rollout.completion.token_ids
            if not rollout.completion.truncated:
                tokens = (*tokens[:-1], EOS)
            rollouts.append(replace(rollout, completion=replace(rollout.completion, token_ids=tokens)))
        groups.append(replace(group, rollouts=tuple(rollouts)))
    return groups


@pytest.fixture(scope="module")
def trainer(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A GRPOTrainer on the tiny model with a reference, whose completions and rewards are the groups' above."""
    from datasets import Dataset

    args = GRPOConfig(
        output_dir=str(tmp_path_factory.mktemp("trl")), num_generations=SIZE, per_device_train_batch_size=12,
        max_completion_length=MAX_TOKENS, beta=0.05, report_to=[], use_cpu=True, bf16=False,
        gradient_checkpointing=False, disable_dropout=True, steps_per_generation=1,
    )  # fmt: skip
    rows = [rollout for group in _groups() for rollout in group.rollouts]

    def reward(completions: list[Any], **_: Any) -> list[float]:
        return [rollout.verdict.reward for rollout in rows]

    made = GRPOTrainer(
        model=str(tiny_model), reward_funcs=reward, args=args, train_dataset=Dataset.from_dict({"prompt": ["x"] * 3})
    )
    made.current_gradient_accumulation_steps = 1
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weights in made.ref_model.parameters():
            weights += 0.03 * torch.randn(weights.shape, generator=generator)

    def fixed(prompts: list[Any]) -> tuple[Any, ...]:
        prompt_ids = [list(group.prompt_tokens) for group in _groups() for _ in group.rollouts]
        completion_ids = [list(rollout.completion.token_ids) for rollout in rows]
        logps = [list(rollout.completion.logps) for rollout in rows] if made.use_vllm else None
        return prompt_ids, completion_ids, None, ["" for _ in rows], logps, {}, None, None

    made._generate = fixed
    return made


def _policy_logps(trainer: Any, model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """(B, L) by TRL's own forward."""
    return _scores(trainer, model, inputs)[0]


def _scores(trainer: Any, model: Any, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """(B, L) log-probabilities and entropies by TRL's own forward."""
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    seen = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
    length = inputs["completion_ids"].shape[1]
    logps, entropies, _ = trainer._get_per_token_logps_and_entropies(model, ids, seen, length, compute_entropy=True)
    return logps, entropies


def _both(trainer: Any, row: Algorithm, monkeypatch: Any, drift: float = 0.3, **settings: Any) -> dict[str, Any]:
    """Advantages, loss and whole-model gradient, by TRL and by onedial, from the same completions."""
    for name, value in settings.items():
        in_args = name in ("delta", "use_bias_correction_kl")
        monkeypatch.setattr(trainer.args if in_args else trainer, name, value)
    trainer.model.train()
    prompts = [{"prompt": "x"} for _ in range(3 * SIZE)]
    inputs = trainer._generate_and_score_completions(prompts)
    filled = torch.arange(MAX_TOKENS) < torch.tensor(LENGTHS).flatten()[:, None]
    with torch.no_grad():
        now = _policy_logps(trainer, trainer.model, inputs)
        if drift:
            generator = torch.Generator().manual_seed(9)
            inputs["old_per_token_logps"] = now + drift * torch.randn(now.shape, generator=generator)
    trainer.model.zero_grad()
    loss = trainer._compute_loss(trainer.model, inputs)
    loss.backward()
    theirs = torch.cat([weight.grad.flatten() for weight in trainer.model.parameters()])

    batch: Batch = batch_of(row, _groups())
    logp, entropy = _scores(trainer, trainer.model, inputs)
    old = inputs.get("old_per_token_logps")
    reference = inputs.get("ref_per_token_logps")
    batch = batch.annotate(
        logp=logp[filled],
        entropy=entropy[filled],
        old_logp=None if old is None else old[filled],
        ref_logp=None if reference is None else reference[filled],
    )
    trainer.model.zero_grad()
    ours = policy_loss(row, batch, Counts.of(batch)).loss
    ours.backward()
    mine = torch.cat([weight.grad.flatten() for weight in trainer.model.parameters()])
    return {
        "inputs": inputs,
        "batch": batch,
        "trl": (float(loss.detach()), theirs),
        "ours": (float(ours.detach()), mine),
    }


def _assert_equal(result: dict[str, Any], factor: float = 1.0) -> None:
    """Advantages to 1e-5; `factor` · TRL's loss and gradient = ours to 1e-5."""
    advantage = result["batch"]["advantage"].float()
    torch.testing.assert_close(advantage, result["inputs"]["advantages"], rtol=1e-5, atol=1e-5)
    (loss, gradient), (our_loss, our_gradient) = result["trl"], result["ours"]
    assert our_loss == pytest.approx(factor * loss, rel=1e-5, abs=1e-6)
    assert float((our_gradient - factor * gradient).norm()) <= 1e-5 * float(our_gradient.norm())


AGGREGATES = {"grpo": "sequence_mean", "bnpo": "token_mean", "dapo": "token_mean", "dr_grpo": "fixed_length"}
SCALES: dict[str, dict[str, Any]] = {"group": {}, "batch": {"scale_over": "batch"}, "none": {"dial": 0.0}}


def _row(loss_type: str = "dapo", scale: str = "group", level: str = "token", **cells: Any) -> Algorithm:
    aggregate = AGGREGATES[loss_type]
    budget = MAX_TOKENS if aggregate == "fixed_length" else None
    return replace(
        ALGORITHMS["trl_dapo"], name="row", aggregate=aggregate, length_budget=budget, ratio_level=level,
        **{**SCALES[scale], **cells},
    )  # fmt: skip


@pytest.mark.parametrize("loss_type", AGGREGATES)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_every_loss_type_scale_and_level(
    trainer: Any, monkeypatch: Any, loss_type: str, scale: str, level: str
) -> None:
    """Oracle: TRL's advantages, loss and gradient, with ratios that the clip bounds on both sides."""
    row = _row(loss_type, scale, level)
    settings = {"loss_type": loss_type, "scale_rewards": scale, "importance_sampling_level": level, "beta": 0.0}
    _assert_equal(_both(trainer, row, monkeypatch, **settings))


@pytest.mark.parametrize("loss_type", AGGREGATES)
def test_on_policy(trainer: Any, monkeypatch: Any, loss_type: str) -> None:
    """Oracle: TRL where it keeps no old logps, as in its default of one update per generation."""
    result = _both(trainer, _row(loss_type), monkeypatch, drift=0.0, loss_type=loss_type, beta=0.0)
    assert "old_per_token_logps" not in result["inputs"]
    _assert_equal(result)


@pytest.mark.parametrize("loss_type", AGGREGATES)
def test_kl_in_the_loss(trainer: Any, monkeypatch: Any, loss_type: str) -> None:
    """C2 too: TRL's silent groups have the KL's gradient as ours have. Oracle: TRL with beta = 0.05 and the published
    k3 term; TRL 1.16's default also multiplies it by the ratio, which no row of the table does."""
    row = _row(loss_type, kl_coef=0.05)
    settings = {"loss_type": loss_type, "beta": 0.05, "use_bias_correction_kl": False}
    _assert_equal(_both(trainer, row, monkeypatch, **settings))


@pytest.mark.parametrize("loss_type", ["bnpo", "dapo"])
def test_entropy_bonus(trainer: Any, monkeypatch: Any, loss_type: str) -> None:
    """Oracle: TRL with entropy_coef, which takes the mean over tokens whatever the loss type; ours weighs the bonus as
    it weighs the loss, so the two agree where that is the mean over tokens."""
    settings = {"loss_type": loss_type, "beta": 0.0, "entropy_coef": 0.05, "_entropy_bonus_enabled": True}
    _assert_equal(_both(trainer, _row(loss_type, entropy_coef=0.05), monkeypatch, **settings))


@pytest.mark.parametrize("delta", [1.3, 2.0])
def test_dual_clip_is_their_delta(trainer: Any, monkeypatch: Any, delta: float) -> None:
    """Oracle: TRL with `delta`, which bounds ρ itself; equal to ours for delta ≥ 1 + clip_high."""
    _assert_equal(_both(trainer, _row(clip_dual=delta), monkeypatch, drift=0.6, delta=delta, beta=0.0))


@pytest.mark.parametrize("loss_type", AGGREGATES)
def test_masked_truncated_completions(trainer: Any, monkeypatch: Any, loss_type: str) -> None:
    """C10: in TRL two masked completions of twelve stay in the sequence counts of grpo and dr_grpo, which ours leave
    (TRL issue 6369); token counts agree. Oracle: TRL, times 12/10 where it counts masked sequences."""
    row = _row(loss_type, overlong="mask")
    factor = 12 / 10 if loss_type in ("grpo", "dr_grpo") else 1.0
    result = _both(trainer, row, monkeypatch, loss_type=loss_type, mask_truncated_completions=True, beta=0.0)
    _assert_equal(result, factor)


@pytest.mark.parametrize("mode", ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"])
def test_importance_correction(trainer: Any, monkeypatch: Any, mode: str) -> None:
    """Oracle: TRL's vLLM importance ratios and the loss that they weigh; its sampler's logps are a little off the
    policy's, and its old logps are the policy's own."""
    level, kind = mode.split("_")
    caps = {"correction_cap": 1.2, "correction_floor": 0.8 if kind == "mask" else 0.0}
    row = _row(sampler_correction=kind, correction_level=level, **caps)
    inputs = trainer._generate_and_score_completions([{"prompt": "x"}] * 12)
    with torch.no_grad():
        now = _policy_logps(trainer, trainer.model, inputs)
    engine = now + 0.15 * torch.randn(now.shape, generator=torch.Generator().manual_seed(2))
    filled = torch.arange(MAX_TOKENS) < torch.tensor(LENGTHS).flatten()[:, None]
    lengths = torch.tensor(LENGTHS).flatten().tolist()
    original = trainer._generate

    def with_engine(prompts: list[Any]) -> tuple[Any, ...]:
        values = list(original(prompts))
        values[4] = [line[:length].tolist() for line, length in zip(engine, lengths, strict=True)]
        return tuple(values)

    for name, value in {
        "_generate": with_engine,
        "use_vllm": True,
        "vllm_importance_sampling_correction": True,
        "vllm_importance_sampling_mode": mode,
        "vllm_importance_sampling_clip_max": 1.2,
        "vllm_importance_sampling_clip_min": 0.8 if kind == "mask" else None,
        "beta": 0.0,
    }.items():
        monkeypatch.setattr(trainer, name, value)
    inputs = trainer._generate_and_score_completions([{"prompt": "x"}] * 12)
    assert len(inputs["importance_sampling_ratio"].unique()) > 2
    trainer.model.zero_grad()
    loss = trainer._compute_loss(trainer.model, inputs)
    loss.backward()
    theirs = torch.cat([weight.grad.flatten() for weight in trainer.model.parameters()])
    batch = batch_of(row, _groups()).annotate(
        logp=_policy_logps(trainer, trainer.model, inputs)[filled],
        old_logp=inputs["old_per_token_logps"][filled],
        engine_logp=engine[filled],
    )
    trainer.model.zero_grad()
    ours = policy_loss(row, batch, Counts.of(batch)).loss
    ours.backward()
    mine = torch.cat([weight.grad.flatten() for weight in trainer.model.parameters()])
    result = {"inputs": inputs, "batch": batch, "trl": (float(loss.detach()), theirs),
              "ours": (float(ours.detach()), mine)}  # fmt: skip
    _assert_equal(result)


def test_presets_are_these_settings() -> None:
    """Oracle: TRL's own defaults, read from GRPOConfig, against the row that claims them."""
    defaults = {name: GRPOConfig.__dataclass_fields__[name].default for name in GRPOConfig.__dataclass_fields__}
    row = ALGORITHMS["trl_dapo"]
    assert (defaults["loss_type"], defaults["scale_rewards"], defaults["beta"]) == ("dapo", "group", 0.0)
    assert (row.clip_low, row.clip_high) == (defaults["epsilon"], defaults["epsilon_high"] or defaults["epsilon"])
    assert (row.aggregate, row.ddof, row.eps, row.ratio_level) == ("token_mean", 1, 1e-4, "token")


def test_the_conformance_verdicts_on_the_page_are_todays() -> None:
    """Oracle: the suite run on the TRL that is installed, against the committed verdicts."""
    assert_verdicts_committed("trl")
