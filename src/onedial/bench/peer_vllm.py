"""vLLM's `LLM.generate` on the same model, prompts, group size, lengths and type, in a process of its own."""

from __future__ import annotations

import os

import torch

from onedial.bench.machine import seconds_of
from onedial.bench.peer_process import Exchange
from onedial.bench.workload import Settings, Shape, prompt_ids
from onedial.training.models import load_tokenizer


def serve(settings: Settings, shape: Shape, exchange: Exchange) -> None:
    """Generates the whole shape on request; the answer is the seconds it took."""
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")  # GB; ample for the shape, and no warning about the default
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # same process: nothing between clock and engine
    from vllm import LLM, SamplingParams

    prompts = [{"prompt_token_ids": ids} for ids in prompt_ids(load_tokenizer(settings.model), shape)]
    # on an accelerator our model lies beside it, and vLLM would take nine tenths for itself
    share = {"gpu_memory_utilization": 0.4} if settings.device != "cpu" else {}
    engine = LLM(
        model=settings.model,
        dtype=settings.dtype,
        max_model_len=min(settings.context, max(512, shape.prompt_tokens + shape.completion_tokens)),
        max_num_seqs=shape.rows,
        disable_log_stats=True,
        **share,
    )
    sampling = SamplingParams(
        n=shape.group_size, temperature=1.0, top_p=1.0, max_tokens=shape.completion_tokens, ignore_eos=True
    )
    written: list[int] = []

    def generate() -> None:
        outputs = engine.generate(prompts, sampling, use_tqdm=False)
        written[:] = [len(row.token_ids) for output in outputs for row in output.outputs]

    request = exchange(None)
    while request is not None:
        took = seconds_of(generate, torch.device(settings.device))
        assert sum(written) == shape.tokens, f"vLLM wrote {sum(written)} tokens of {shape.tokens}"
        request = exchange(took)
