"""transformers' `generate` on the same model, prompts, group size, lengths and type."""

from __future__ import annotations

from typing import Any

import torch

from onedial.bench.machine import seconds_of
from onedial.bench.workload import Settings, Shape, prompt_ids
from onedial.training.models import load_causal_lm, load_tokenizer


class TransformersGeneration:
    """`generate` with fused attention; no token ends a row, so that every row has its full length."""

    def __init__(self, settings: Settings, shape: Shape) -> None:
        self.shape, self.device = shape, torch.device(settings.device)
        model: Any = load_causal_lm(settings.model, dtype=getattr(torch, settings.dtype))
        model.set_attn_implementation("sdpa")
        self.model = model.to(self.device).eval()
        # without an end-of-sequence token nothing is checked or suppressed: the cheapest way to forced lengths
        self.model.generation_config.eos_token_id = None
        self.prompts = torch.tensor(prompt_ids(load_tokenizer(settings.model), shape), device=self.device)

    @torch.inference_mode()
    def tokens_per_s(self) -> float:
        """Completion tokens a second, prompts included in the time."""
        took = seconds_of(self._generate, self.device)
        assert self.written.shape == (self.shape.rows, self.shape.prompt_tokens + self.shape.completion_tokens)
        return self.shape.tokens / took

    def _generate(self) -> None:
        self.written = self.model.generate(
            self.prompts,
            attention_mask=torch.ones_like(self.prompts),
            num_return_sequences=self.shape.group_size,
            min_new_tokens=self.shape.completion_tokens,
            max_new_tokens=self.shape.completion_tokens,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            pad_token_id=0,
        )
