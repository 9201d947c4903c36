"""vLLM's `LLM.generate` on the same model, prompts, group size, lengths and type, in a process of its own."""

from __future__ import annotations

import os

import torch

from onedial.evidence.bench.machine import time_seconds
from onedial.evidence.bench.peer_process import Exchange
from onedial.evidence.bench.workload import Conditions, Workload, make_prompt_ids
from onedial.training.models import load_tokenizer


def serve(conditions: Conditions, workload: Workload, exchange: Exchange) -> None:
    """Generates the whole workload on request; the answer is the seconds it took."""
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")  # GB; ample for the workload, and no warning about the default
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # same process: nothing between clock and engine
    from vllm import LLM, SamplingParams

    prompts = [{"prompt_token_ids": ids} for ids in make_prompt_ids(load_tokenizer(conditions.model), workload)]
    # on an accelerator our model lies beside it, and vLLM would take nine tenths for itself
    share = {"gpu_memory_utilization": 0.4} if conditions.device != "cpu" else {}
    engine = LLM(
        model=conditions.model,
        dtype=conditions.dtype,
        max_model_len=min(conditions.context, max(512, workload.prompt_tokens + workload.completion_tokens)),
        max_num_seqs=workload.rows,
        disable_log_stats=True,
        **share,
    )
    sampling = SamplingParams(
        n=workload.group_size, temperature=1.0, top_p=1.0, max_tokens=workload.completion_tokens, ignore_eos=True
    )
    written: list[int] = []

    def generate() -> None:
        outputs = engine.generate(prompts, sampling, use_tqdm=False)
        written[:] = [len(row.token_ids) for output in outputs for row in output.outputs]

    request = exchange(None)
    while request is not None:
        took = time_seconds(generate, torch.device(conditions.device))
        assert sum(written) == workload.tokens, f"vLLM wrote {sum(written)} tokens of {workload.tokens}"
        request = exchange(took)
