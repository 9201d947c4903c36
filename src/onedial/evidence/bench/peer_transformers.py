"""transformers' `generate` on the same model, prompts, group size, lengths and type."""

from __future__ import annotations

from typing import Any

import torch

from onedial.evidence.bench.machine import time_seconds
from onedial.evidence.bench.workload import Conditions, Workload, make_prompt_ids
from onedial.training.models import load_causal_lm, load_tokenizer


class TransformersGeneration:
    """`generate` with fused attention; no token ends a row, so every row has its full length."""

    def __init__(self, conditions: Conditions, workload: Workload) -> None:
        self.workload, self.device = workload, torch.device(conditions.device)
        model: Any = load_causal_lm(conditions.model, dtype=getattr(torch, conditions.dtype))
        model.set_attn_implementation("sdpa")
        self.model = model.to(self.device).eval()
        # without an end-of-sequence token nothing is checked or suppressed: the cheapest way to forced lengths
        self.model.generation_config.eos_token_id = None
        self.prompts = torch.tensor(make_prompt_ids(load_tokenizer(conditions.model), workload), device=self.device)

    @torch.inference_mode()
    def tokens_per_s(self) -> float:
        """Completion tokens a second, prompts included in the time."""
        took = time_seconds(self._generate, self.device)
        assert self.written.shape == (self.workload.rows, self.workload.prompt_tokens + self.workload.completion_tokens)
        return self.workload.tokens / took

    def _generate(self) -> None:
        self.written = self.model.generate(
            self.prompts,
            attention_mask=torch.ones_like(self.prompts),
            num_return_sequences=self.workload.group_size,
            min_new_tokens=self.workload.completion_tokens,
            max_new_tokens=self.workload.completion_tokens,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            pad_token_id=0,
        )
