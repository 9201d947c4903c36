"""TRL's GRPOTrainer, driven through its public API on the same model, prompts, group size, lengths and type.

The conditions favor TRL: no reference model, no activation checkpointing, no logging, no saving, the whole step in one
pass if it fits, the fused optimizer. Time is measured from the beginning of its step to its end.
"""

from __future__ import annotations

import tempfile
import time
from typing import Any

import torch

from onedial.evidence.bench.machine import synchronize
from onedial.evidence.bench.peer_process import Exchange
from onedial.evidence.bench.workload import Conditions, Workload, choose_reward, make_prompt_texts, rows_per_pass
from onedial.training.models import load_tokenizer

MAX_STEPS = 1000


def serve(conditions: Conditions, workload: Workload, exchange: Exchange) -> None:
    """Trains step by step on request: between two steps the callback waits for the next mode."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl.trainer.grpo_trainer import GRPOTrainer

    device = torch.device(conditions.device)
    mode: list[str | None] = [None]

    def reward(completion_ids: list[list[int]], **_: Any) -> list[float | None]:
        wanted = mode[0]
        assert wanted is not None
        lengths = [len(ids) for ids in completion_ids]
        assert lengths == [workload.completion_tokens] * workload.rows, f"TRL wrote completions of {lengths} tokens"
        places = (divmod(row, workload.group_size) for row in range(workload.rows))
        return [choose_reward(wanted, prompt, index, workload.prompts) for prompt, index in places]

    class Clock(TrainerCallback):  # type: ignore[misc, unused-ignore]
        started = 0.0

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            mode[0] = exchange(None)
            if mode[0] is None:
                raise BrokenPipeError

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            synchronize(device)
            self.started = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            synchronize(device)
            mode[0] = exchange(time.perf_counter() - self.started)
            if mode[0] is None:
                control.should_training_stop = True

    texts = make_prompt_texts(load_tokenizer(conditions.model), workload)
    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model=conditions.model,
            reward_funcs=reward,
            args=_config(conditions, workload, folder),
            train_dataset=Dataset.from_dict({"prompt": texts * MAX_STEPS}),
            callbacks=[Clock()],
        )
        trainer.train()


def _config(conditions: Conditions, workload: Workload, folder: str) -> Any:
    from trl.trainer.grpo_config import GRPOConfig

    rows = rows_per_pass(workload, conditions.peer_rows)
    return GRPOConfig(
        output_dir=folder,
        model_init_kwargs={"dtype": "float32", "attn_implementation": "sdpa"},
        bf16=conditions.dtype == "bfloat16",
        use_cpu=conditions.device == "cpu",
        loss_type="dapo",
        beta=0.0,
        epsilon_high=0.28,
        num_generations=workload.group_size,
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=workload.rows // rows,
        max_completion_length=workload.completion_tokens,
        generation_kwargs={"min_new_tokens": workload.completion_tokens},
        temperature=1.0,
        shuffle_dataset=False,
        gradient_checkpointing=False,
        learning_rate=1e-6,
        max_steps=MAX_STEPS,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
