"""The planner of micro-batches, against what a forward pass really keeps and against sums by hand."""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from onedial.core.algorithm_table import ALGORITHMS
from onedial.core.settings import Run
from onedial.core.settings_file import make_run
from onedial.training.lm.attention import PrefixLayout, use_packed_attention
from onedial.training.lm.cpu_attention import KEPT_KEYS
from onedial.training.lm.decoder import compute_hidden_states
from onedial.training.lm.llama_blocks import patch_llama_blocks
from onedial.training.trainer.cpu import keep_freed_memory, read_process_bytes, trim_memory_beyond
from onedial.training.trainer.memory_plan import (
    Shape,
    generation_bytes,
    head_bytes,
    plan_memory,
    read_shape,
    resident_bytes,
    token_bytes,
)
from test_lm import CONFIGS, ragged_batch


@pytest.mark.parametrize("name", CONFIGS)
def test_a_tokens_bytes_are_what_a_forward_pass_keeps(name: str, tmp_path: Path) -> None:
    """Oracle: the storages that autograd really saves, but weights and layout, per token of a long pass; the estimate
    is never far below."""
    config = CONFIGS[name]
    config.save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_config(config)
    use_packed_attention(model)
    patch_llama_blocks(model)
    layout = PrefixLayout(ragged_batch([(60, [60, 60, 60])]))
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if tensor.is_floating_point() and storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        hidden = compute_hidden_states(model, layout.tokens, layout)
    measured = sum(kept.values()) / len(layout.tokens)
    assert hidden.requires_grad
    shape = read_shape(tmp_path)
    # the attention of this pass has 120 keys, the estimate those of the longest kept
    assert 0.8 * measured < token_bytes(shape, 4, checkpointing=False) < 2.0 * measured
    assert token_bytes(shape, 4, checkpointing=True) < token_bytes(shape, 4, checkpointing=False) / 2


def test_resident_memory_by_hand(tiny_model: Path) -> None:
    """By hand: bf16 weights 2, masters 4, gradients 4, moments 8 bytes each; in fp32 there are no masters beside."""
    shape = read_shape(tiny_model)
    run = Run(model=str(tiny_model), algorithm=ALGORITHMS["dapo"])
    assert resident_bytes(run, shape, 2) - 18 * shape.weights == resident_bytes(run, shape, 4) - 16 * shape.weights
    with_reference = replace(run, algorithm=ALGORITHMS["grpo"])
    assert resident_bytes(with_reference, shape, 2) - resident_bytes(run, shape, 2) == 2 * shape.weights
    with_critic = replace(run, algorithm=ALGORITHMS["ppo"])
    assert resident_bytes(with_critic, shape, 2) - resident_bytes(with_reference, shape, 2) == 18 * shape.weights


SHAPE = Shape(weights=1000, layers=3, hidden=10, vocabulary=50, heads=4, kv_size=6, linear_width=70)


def test_bytes_of_a_made_up_shape_by_hand(tiny_model: Path) -> None:
    run = Run(model=str(tiny_model), algorithm=ALGORITHMS["dapo"], max_rows=5, max_new_tokens=7)
    none = replace(SHAPE, weights=0, linear_width=0)
    base = resident_bytes(run, none, 4)
    assert resident_bytes(run, SHAPE, 4) - base == (4 + 12) * 1000  # weights; gradients and two moments
    assert resident_bytes(run, SHAPE, 2) - base == (2 + 4 + 12) * 1000  # fp32 masters beside them
    lora = replace(run, lora_rank=2)  # 2 · 70 numbers of adapters, the only ones trained
    for element in (2, 4):
        assert resident_bytes(lora, SHAPE, element) - base == element * (1000 + 140) + 12 * 140
    assert generation_bytes(run, SHAPE, 2) == 5 * 7 * 3 * 2 * 6 * 2 + 5 * 50 * 12
    assert head_bytes(SHAPE, trained=True) - head_bytes(SHAPE, trained=False) == 6 * 50 * 10
    # one token: inputs and outputs of linear layers, two norms and the kept attention of each layer
    layer = 70 * 2 + 3 * 2 * 10 * 2 + 3 * 4 * KEPT_KEYS * 2
    assert token_bytes(SHAPE, 2, checkpointing=False) == layer
    assert token_bytes(SHAPE, 2, checkpointing=True) == layer // 3 + 3 * 10 * 2


def test_a_critic_that_is_a_head_costs_no_second_model(tiny_model: Path) -> None:
    run = Run(model=str(tiny_model), algorithm=ALGORITHMS["ppo"])
    shape = replace(SHAPE, weights=10**6)
    two, one = (resident_bytes(replace(run, critic=critic), shape, 4) for critic in ("model", "head"))
    assert two - one == 16 * 10**6


def test_a_smaller_budget_makes_smaller_passes(tiny_model: Path) -> None:
    """Property: passes shrink with the budget; the plan keeps to it, and says so where it cannot."""
    base = make_run({"model": str(tiny_model), "dtype": "float32"})
    shape = read_shape(tiny_model)
    fixed = resident_bytes(base, shape, 4) + head_bytes(shape, trained=True)
    middle = (fixed + 300 * token_bytes(shape, 4, checkpointing=False)) / 1e9
    sizes = []
    for budget in (2.0, middle, 0.1):
        plan = plan_memory(replace(base, memory_gb=budget), tiny_model)
        sizes.append(plan.run.micro_batch_tokens)
        assert f"micro-batches of {sizes[-1]} tokens" in plan.note
        assert ("activation_checkpointing" in plan.note) == (budget == 0.1) == (plan.expected > budget * 1e9)
    assert sizes == [1024, 256, 64]  # 300 fit, rounded down to whole steps of 64
    by_hand = plan_memory(make_run({"model": str(tiny_model), "micro_batch_tokens": 77}), tiny_model)
    assert by_hand.run.micro_batch_tokens == 77


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps memory its own way")
def test_holes_are_given_back_beyond_the_plan() -> None:
    """Oracle: the system's own count. Every second of many blocks is freed: the holes stay until the limit is met."""
    keep_freed_memory()
    size, count = 4 << 20, 100
    blocks = [torch.ones(size // 4) for _ in range(count)]
    full = read_process_bytes()
    del blocks[::2]
    assert read_process_bytes() > full - 8 * size, "freed memory is kept for the next pass"
    assert not trim_memory_beyond(2 * full) and read_process_bytes() > full - 8 * size
    assert trim_memory_beyond(full // 2)
    assert read_process_bytes() < full - count // 2 * size * 0.9
    assert all(bool((block == 1).all()) for block in blocks)
