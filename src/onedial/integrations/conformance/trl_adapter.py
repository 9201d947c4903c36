"""TRL's own GRPOTrainer for the conformance checks: its advantages, its `_compute_loss`, its defaults beside a setting.

A real trainer on a model of a few weights. Rewards, completions and log-probabilities are given to it instead of being
computed; everything between them and the advantages, and between them and the loss, is TRL's. Written against TRL 1.16.
"""

from __future__ import annotations

import tempfile
import warnings
from typing import Any

import torch
from torch import Tensor

from onedial.integrations.conformance.judged import Step, check_version

LOSS_TYPES = {"token_mean": "dapo", "sequence_mean": "grpo", "fixed_length": "dr_grpo", "sequence_sum": "luspo"}
"""Our `aggregate` → TRL's `loss_type`; dapo is TRL's default."""


class TrlFunctions:
    """GRPOTrainer with loss_type="dapo" and scale_rewards="group", unless a check asks otherwise."""

    notes = {
        "padding-nan": "TRL's own forward gives padding finite values",
        "extreme-ratio": "exp overflows float32 above a log-ratio of 88, and 0·∞ is NaN",
    }

    def __init__(self) -> None:
        """Raises MissingExtra where TRL is not installed, ConfigError for another version than the one written for."""
        self.version = check_version("trl", "1.16")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from onedial.integrations.trl_host import Config, Table, Trainer

            self._folder = tempfile.TemporaryDirectory()
            self._trainer = _make_trainer(Config, Trainer, Table, self._folder.name)

    def advantages(self, rewards: Tensor, groups: Tensor, *, scale: str = "group") -> Tensor:
        """(B,) advantages of neighboring rows; NaN is a reward function's None."""
        trainer, count = self._trainer, len(rewards)
        trainer.num_generations = _group_size(groups)
        trainer.scale_rewards = scale
        trainer._generate = lambda prompts: ([[1]] * count, [[1]] * count, None, [""] * count, None, {}, None, None)
        trainer._calculate_rewards = lambda *_: rewards[:, None].clone()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scored = trainer._generate_and_score_completions([{"prompt": "a"} for _ in range(count)])
        return scored["advantages"]  # type: ignore[no-any-return]

    def loss(
        self,
        logp: Tensor,
        old_logp: Tensor,
        mask: Tensor,
        advantages: Tensor,
        *,
        aggregate: str = "token_mean",
        length_budget: int | None = None,
        step: Step | None = None,
        clip_low: float = 0.2,
        clip_high: float = 0.2,
        clip_dual: float | None = None,
        ratio_level: str = "token",
        kl_coef: float = 0.0,
        ref_logp: Tensor | None = None,
    ) -> Tensor:
        """The loss of one micro-batch on one process, in training mode."""
        trainer, step = self._trainer, step or Step(int(mask.sum()), len(mask), 1)
        trainer.loss_type, trainer.importance_sampling_level = LOSS_TYPES[aggregate], ratio_level
        trainer.epsilon_low, trainer.epsilon_high, trainer.args.delta = clip_low, clip_high, clip_dual
        trainer.beta, trainer.max_completion_length = kl_coef, length_budget or logp.shape[1]
        trainer.current_gradient_accumulation_steps = trainer.args.steps_per_generation = step.parts
        trainer._get_per_token_logps_and_entropies = lambda *_, **__: (logp, torch.zeros_like(logp), None)
        one = torch.ones(len(logp), 1, dtype=torch.long)
        inputs = {
            "prompt_ids": one, "prompt_mask": one, "completion_ids": torch.ones_like(mask, dtype=torch.long),
            "completion_mask": mask.long(), "advantages": advantages, "old_per_token_logps": old_logp,
            "ref_per_token_logps": ref_logp, "num_items_in_batch": torch.tensor(step.tokens),
        }  # fmt: skip
        return trainer._compute_loss(trainer.model, inputs)  # type: ignore[no-any-return]


def _group_size(groups: Tensor) -> int:
    """Rows per group. Raises NotImplementedError for groups that TRL cannot have."""
    _, counts = groups.unique_consecutive(return_counts=True)
    if len(counts.unique()) > 1 or len(counts) != len(groups.unique()):
        raise NotImplementedError("TRL's groups are neighboring rows, num_generations each")
    return int(counts[0])


def _make_trainer(config: Any, trainer: Any, table: Any, folder: str) -> Any:
    """A trainer on a model of two words, which is never run."""
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    sizes: dict[str, Any] = {"hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=2, num_key_value_heads=1, bos_token_id=0, eos_token_id=0, **sizes))
    made = trainer(
        model=model,
        processing_class=PreTrainedTokenizerFast(tokenizer_object=words, eos_token="a", pad_token="a"),
        reward_funcs=lambda **_: [0.0],
        args=config(
            output_dir=folder, num_generations=2, per_device_train_batch_size=2, use_cpu=True, bf16=False,
            gradient_checkpointing=False, report_to=[],
        ),
        train_dataset=table.from_dict({"prompt": ["a"] * 2}),
    )  # fmt: skip
    made.model.train()
    return made
