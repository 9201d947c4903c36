"""onedial inside TRL: a row of the algorithm table as GRPOTrainer's loss, verifiers in killable workers as its reward.

    from trl import GRPOConfig
    from onedial import ALGORITHMS
    from onedial.integrations.trl_host import DialGRPOTrainer, PooledReward, trl_settings

    row = ALGORITHMS["dr_grpo"]
    args = GRPOConfig(output_dir="out", **trl_settings(row))
    trainer = DialGRPOTrainer(row=row, model=…, reward_funcs=PooledReward(my_reward), args=args, train_dataset=…)

Written against TRL 1.16, of which it overrides three methods; the tests hold it against TRL's own trainer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from onedial.core.algorithm import Algorithm
from onedial.core.errors import ConfigError, MissingExtra
from onedial.core.maths.advantage import advantages
from onedial.core.types import Prompt
from onedial.training.verify.pool import VerifierPool
from onedial.training.verify.rewards import Reward

try:
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import Dataset, GRPOTrainer  # type: ignore[attr-defined, unused-ignore]
except ImportError as error:
    raise MissingExtra("trl", "trl", "onedial.integrations.trl_host runs inside TRL's trainer") from error

Trainer: Any = GRPOTrainer
Config: Any = GRPOConfig
Table: Any = Dataset

LOSS_TYPES = {
    "sequence_mean": "grpo",
    "token_mean": "dapo",
    "fixed_length": "dr_grpo",
    "sequence_sum": "luspo",
}
"""Our `aggregate` → TRL's `loss_type` with the same token weights."""
MEANS_OVER_ROWS = ("grpo", "dr_grpo", "luspo")
"""Loss types that divide by the number of completions; `dapo` divides by a count of tokens."""
NO_CLIP = 1e9
COUNTED = "counted_share"
"""Our entry in TRL's batches: the share of a generation batch's completions that the loss's divisor counts."""


def trl_settings(row: Algorithm) -> dict[str, Any]:
    """Returns the settings of `GRPOConfig` under which TRL's loss equals the row's, given the row's advantages.

    Raises ConfigError for a row whose loss TRL cannot express, naming the cells that prevent it.
    """
    if obstacles := _obstacles(row):
        raise ConfigError(f"row {row.name!r} cannot train inside TRL: {'; '.join(obstacles)}")
    settings: dict[str, Any] = {
        "loss_type": LOSS_TYPES[row.aggregate],
        "scale_rewards": "none",
        "importance_sampling_level": "sequence" if row.ratio_level == "sequence" else "token",
        "epsilon": NO_CLIP if row.clip_low is None else row.clip_low,
        "epsilon_high": NO_CLIP if row.clip_high is None else row.clip_high,
        "beta": row.kl_coef,
        "use_bias_correction_kl": False,  # the published k3 term, without the ratio that TRL multiplies it by
        "num_iterations": row.epochs_per_iteration,
        "mask_truncated_completions": row.masks_truncated,
    }
    if row.clip_dual is not None:
        settings["delta"] = row.clip_dual
    if row.group_size is not None:
        settings["num_generations"] = row.group_size
    return settings


def _obstacles(row: Algorithm) -> list[str]:
    """The cells of a row that have no counterpart in TRL's loss."""
    checks = {
        f"source={row.source!r} (only rollouts of the policy)": row.source != "policy",
        "baseline='critic' (TRL has no critic)": row.baseline == "critic",
        "baseline='posterior' (TRL has no allocator that expects rewards)": row.needs_belief,
        f"aggregate={row.aggregate!r} (TRL has {', '.join(LOSS_TYPES)})": row.aggregate not in LOSS_TYPES,
        "kl_in='reward'": row.kl_in == "reward" and row.kl_coef > 0,
        f"kl_estimator={row.kl_estimator!r} (TRL has k3)": row.kl_coef > 0 and row.kl_estimator != "k3",
        "keep='mixed' with a KL term (TRL adds the KL of every completion)": row.keep == "mixed" and row.kl_coef > 0,
        "positive_nll": row.positive_nll > 0,
        "entropy_coef (set TRL's own)": row.entropy_coef > 0,
        f"listwise={row.listwise!r}": row.listwise != "none",
        f"reward={row.reward!r} (give TRL a reward function for it)": row.reward != "task",
        f"overlong={row.overlong!r} (give TRL a reward function for it)": row.penalizes_length,
        "sampler_correction (set TRL's vllm_importance_sampling_correction)": row.sampler_correction != "none",
        "dual clip below 1 + clip_high": (row.clip_dual or math.inf) < 1 + (row.clip_high or 0.0),
    }
    return [text for text, hit in checks.items() if hit]


class DialGRPOTrainer(Trainer):  # type: ignore[misc]
    """GRPOTrainer with the advantages of one row, over usable completions, computing only completions with a gradient.

    A completion that every reward function declined (None) is removed from its group before any statistic is computed;
    with keep='mixed', so are groups whose rewards all agree. What is removed does not count in the loss's divisor, as
    in the definition of the row. A completion with advantage 0 is left out of the forward and backward passes if that
    is exact: no KL, entropy bonus, router loss or entropy quantile, and training mode. TRL's metrics of entropy and
    clipping are then over the completions computed.

    The refill of a row is not done: TRL samples each batch once.
    """

    def __init__(self, *, row: Algorithm, **arguments: Any) -> None:
        """`row` and GRPOTrainer's arguments by name; `args` must hold `trl_settings(row)`.

        Raises ConfigError where `args` say something else than the row.
        """
        self.row = row
        self._rewards: Tensor | None = None
        check_settings(row, arguments.get("args"))
        super().__init__(**arguments)
        on_policy = self.args.gradient_accumulation_steps % (self.args.steps_per_generation * self.num_iterations) == 0
        if row.ratio_level == "none" and not on_policy:
            raise ConfigError(
                f"row {row.name!r} has no ratio, so every batch of rollouts allows one update: set "
                "steps_per_generation=gradient_accumulation_steps and num_iterations=1"
            )

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Tensor:
        self._rewards = super()._calculate_rewards(*args, **kwargs)
        return self._rewards

    def _generate_and_score_completions(self, inputs: list[Any]) -> dict[str, Any]:
        out: dict[str, Any] = super()._generate_and_score_completions(inputs)
        assert self._rewards is not None
        size = self.num_generations if self.model.training else self.num_generations_eval
        advantage, kept = row_advantages(self.row, self._rewards, self.reward_weights, size)
        here = len(inputs)
        mine = slice(self.accelerator.process_index * here, (self.accelerator.process_index + 1) * here)
        out["advantages"] = advantage[mine].to(out["advantages"])
        mask = out["completion_mask"] = out["completion_mask"] * kept[mine, None].to(out["completion_mask"])
        tokens = mask * out["tool_mask"] if "tool_mask" in out else mask
        out["num_items_in_batch"] = self.accelerator.gather(tokens.sum()).sum()
        out[COUNTED] = self.accelerator.gather(mask.any(1).double()).mean()
        return out

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        total, counted = len(inputs["advantages"]), inputs[COUNTED]
        live = inputs["advantages"].nonzero().flatten()
        if len(live) < total and not self._silent_rows_count():
            # at least one row everywhere: gradients and metrics are gathered over processes
            inputs = select_rows(inputs, live if len(live) else live.new_zeros(1), total)
        loss: Tensor = super()._compute_loss(model, inputs)
        if self.loss_type not in MEANS_OVER_ROWS:
            return loss
        scaled: Tensor = loss * (len(inputs["advantages"]) / total / counted.clamp(min=1 / total)).to(loss)
        return scaled

    def _silent_rows_count(self) -> bool:
        """Whether a completion with advantage 0 changes the loss, its gradient or an evaluation."""
        return bool(
            not self.model.training
            or self.beta != 0.0
            or self._entropy_bonus_enabled
            or self.aux_loss_enabled
            or self.top_entropy_quantile < 1.0
        )


def check_settings(row: Algorithm, args: Any) -> None:
    """Raises ConfigError naming every setting of a `GRPOConfig` that differs from `trl_settings(row)`."""
    wanted = trl_settings(row)
    if args is None:
        raise ConfigError("DialGRPOTrainer needs args=GRPOConfig(…, **trl_settings(row))")
    wrong = [
        f"{name}={getattr(args, name)!r} (the row's: {value!r})"
        for name, value in wanted.items()
        if getattr(args, name) != value
    ]
    if wrong:
        raise ConfigError(f"args are not those of row {row.name!r}: {', '.join(wrong)}; use **trl_settings(row)")
    if row.aggregate == "fixed_length" and row.length_budget not in (None, args.max_completion_length):
        raise ConfigError(
            f"row {row.name!r} divides by length_budget={row.length_budget}, TRL by "
            f"max_completion_length={args.max_completion_length}; make them equal"
        )


def row_advantages(row: Algorithm, rewards: Tensor, weights: Tensor, group_size: int) -> tuple[Tensor, Tensor]:
    """(B, functions) rewards, NaN if a function declined → (B,) advantages, and (B,) whether each completion is kept.

    Neighboring completions form groups of `group_size`. A completion that every function declined is not kept.
    """
    usable = ~rewards.isnan().all(1)
    reward = (rewards * weights.to(rewards)).nansum(1).double()
    group = torch.arange(len(reward), device=reward.device) // group_size
    kept = usable
    if row.keep == "mixed":
        low, high = (torch.where(usable, reward, end).view(-1, group_size) for end in (math.inf, -math.inf))
        kept = usable & (high.amax(1) > low.amin(1)).repeat_interleave(group_size)
    advantage = torch.zeros_like(reward)
    if kept.any():
        _, index = group[kept].unique(return_inverse=True)
        advantage[kept] = advantages(row, reward[kept], index)
    return advantage, kept


def select_rows(inputs: Mapping[str, Any], keep: Tensor, total: int) -> dict[str, Any]:
    """A batch of `total` completions reduced to those of `keep`, without the columns that only others needed.

    Batches with images are returned whole: their tensors are not one entry per completion.
    """
    if any(name in inputs for name in ("pixel_values", "image_grid_thw", "num_images")):
        return dict(inputs)
    prompt_width, width = inputs["prompt_ids"].shape[1], inputs["completion_ids"].shape[1]
    chosen = {
        name: value[keep] if isinstance(value, Tensor) and value.dim() and len(value) == total else value
        for name, value in inputs.items()
    }
    first = prompt_width - int(chosen["prompt_mask"].sum(1).max())
    last = max(1, int(chosen["completion_mask"].sum(1).max()))
    for name, value in chosen.items():
        if not isinstance(value, Tensor) or value.dim() != 2:
            continue
        if name.startswith("prompt_"):
            chosen[name] = value[:, first:]
        elif name.endswith("token_type_ids"):
            chosen[name] = value[:, first : prompt_width + last]
        elif value.shape[1] == width:
            chosen[name] = value[:, :last]
    return chosen


class PooledReward:
    """A TRL reward function whose judging runs in killable, sandboxed worker processes.

    A completion whose verifier raised, hung or died is unscorable: it gets None, never 0, and TRL leaves it out of its
    group's baseline. `log_metric` gets the share of such completions as `verifier/failed`.
    """

    def __init__(
        self,
        verifier: Any,
        *,
        workers: int = 2,
        timeout_s: float = 10.0,
        memory_mb: int = 2048,
        unsafe: bool = False,
        answer: str = "answer",
        hidden: Sequence[Path] = (),
    ) -> None:
        """`verifier`: an onedial verifier, or a reward function of TRL's, verl's or the plain kind, or its place
        ("file.py:function").

        `answer` is the dataset's column with the reference answer; reward functions get every column.
        timeout_s is per completion, memory_mb per worker; unsafe runs without a sandbox.
        """
        judge: Any = verifier if hasattr(verifier, "judge") else Reward((verifier,))
        self.__name__ = judge.name
        self._answer = answer
        self._pool = VerifierPool(judge, workers, timeout_s, memory_mb, unsafe=unsafe, hidden=hidden)

    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[Any], completion_ids: Any = None, **columns: Any
    ) -> list[float | None]:
        """One reward per completion, in order; None where judging failed."""
        log_metric, state = columns.pop("log_metric", None), columns.pop("trainer_state", None)
        self._pool.step = getattr(state, "global_step", 0)
        lists = {name: each for name, each in columns.items() if isinstance(each, list) and name != "environments"}
        ids = completion_ids or [()] * len(prompts)
        for index, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            row = {name: values[index] for name, values in lists.items()}
            self._pool.submit(index, self._make_prompt(prompt, row), _get_text(completion), ids[index])
        verdicts = dict(self._pool.drain())
        if log_metric is not None:
            log_metric("verifier/failed", sum(not v.usable for v in verdicts.values()) / max(1, len(verdicts)))
        return [verdicts[index].reward if verdicts[index].usable else None for index in range(len(prompts))]

    def _make_prompt(self, prompt: Any, row: dict[str, Any]) -> Prompt:
        answer, meta = row.get(self._answer), {"columns": row}
        if isinstance(prompt, str):
            return Prompt(text=prompt, answer=answer, meta=meta)
        return Prompt(messages=tuple(dict(message) for message in prompt), answer=answer, meta=meta)

    def close(self) -> None:
        """Ends the workers."""
        self._pool.close()


def _get_text(completion: Any) -> str:
    """A completion as TRL gives it: text, or chat messages."""
    return completion if isinstance(completion, str) else "".join(str(each["content"]) for each in completion)
