"""Plans the tokens of a micro-batch from a memory budget and the model's shape.

The plan is made from the configuration alone, before anything is loaded, so the same machine always gets the same plan.
The memory of one token is estimated from the linear layers: each keeps its input for backward, and the next layer keeps
its output.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from onedial.core.settings import Run
from onedial.core.system import MEMORY_SHARE
from onedial.training.lm.cpu_attention import KEPT_KEYS
from onedial.training.lm.decoder import get_head_size
from onedial.training.lm.head import CHUNK_BYTES, KEPT_BYTES
from onedial.training.models import load_config, load_errors
from onedial.training.trainer.device import find_memory, pick_device, pick_dtype

BASE_BYTES = int(0.45e9)  # Python, torch and transformers themselves
LARGEST = {"cpu": 1024, "cuda": 16384}  # tokens beyond which a pass is no faster, and only larger
STEP = 64


@dataclass(frozen=True)
class Shape:
    """The sizes that a model's memory depends on."""

    weights: int
    layers: int
    hidden: int
    vocabulary: int
    heads: int
    kv_size: int  # key heads × head size
    linear_width: int  # Σ (inputs + outputs) of all linear layers but the output projection


def read_shape(path: str | Path, *, trust_remote_code: bool = False) -> Shape:
    """Returns the shape of a causal LM from its configuration; reads no weights.

    Raises DataError where the configuration is not that of a model.
    """
    config = load_config(path, trust_remote_code=trust_remote_code)
    with load_errors(path, "configuration"):
        return _shape_from(config, trust_remote_code=trust_remote_code)


def _shape_from(config: Any, *, trust_remote_code: bool) -> Shape:
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    text = config.get_text_config()
    head = model.get_output_embeddings()
    linear = [module for module in model.modules() if isinstance(module, nn.Linear) and module is not head]
    heads = int(text.num_attention_heads)
    return Shape(
        weights=sum(weight.numel() for weight in model.parameters()),
        layers=int(text.num_hidden_layers),
        hidden=int(text.hidden_size),
        vocabulary=int(text.vocab_size),
        heads=heads,
        kv_size=int(getattr(text, "num_key_value_heads", None) or heads) * get_head_size(text),
        linear_width=sum(layer.in_features + layer.out_features for layer in linear),
    )


def token_bytes(shape: Shape, element: int, checkpointing: bool) -> int:
    """Returns the bytes that one token keeps for backward: linear layers, norms, attention probabilities."""
    blocks = shape.linear_width * element + shape.layers * 2 * shape.hidden * element
    blocks += shape.layers * shape.heads * KEPT_KEYS * element
    if not checkpointing:
        return blocks
    return blocks // shape.layers + shape.layers * shape.hidden * element


def resident_bytes(run: Run, shape: Shape, element: int) -> int:
    """Returns the bytes of a run that do not depend on the micro-batch.

    These are the compute weights, and of the trained weights the fp32 masters, gradients and two moments.
    """
    lora = run.lora_rank * shape.linear_width
    trained = lora if run.lora_rank else shape.weights
    masters = 0 if element == 4 or run.lora_rank else 4 * trained
    own = element * (shape.weights + lora) + masters + 12 * trained
    models = 1 + (run.algorithm.needs_critic and run.critic == "model")
    reference = element * shape.weights if run.algorithm.needs_reference else 0
    return BASE_BYTES + models * own + reference


def generation_bytes(run: Run, shape: Shape, element: int) -> int:
    """Returns the bytes of generation: keys and values of all sequences, and a few copies of their logits."""
    memory = run.max_rows * run.max_new_tokens * shape.layers * 2 * shape.kv_size * element
    return memory + run.max_rows * shape.vocabulary * 12


def head_bytes(shape: Shape, trained: bool) -> int:
    """Returns the bytes of the output projection: chunks, what is kept for backward, the gradient of its weight."""
    return 3 * CHUNK_BYTES + KEPT_BYTES + (6 * shape.vocabulary * shape.hidden if trained else 0)


@dataclass(frozen=True)
class MemoryPlan:
    """The resolved run, with `micro_batch_tokens`; the bytes it is expected to use, and a note for the user."""

    run: Run
    expected: int
    note: str


def plan_memory(run: Run, path: str | Path, *, micro_batch_tokens: int | None = None) -> MemoryPlan:
    """Plans `micro_batch_tokens`, unless the run sets it or the argument `micro_batch_tokens` gives the value of a
    resumed run."""
    device = pick_device(run.device)
    shape = read_shape(path, trust_remote_code=run.trust_remote_code)
    element = pick_dtype(run.dtype, device).itemsize
    budget = run.memory_gb * 1e9 or MEMORY_SHARE * find_memory(device)
    resident = resident_bytes(run, shape, element)
    per_token = token_bytes(shape, element, run.activation_checkpointing)
    head = head_bytes(shape, trained=not run.lora_rank)
    room = int(budget) - resident - head
    most = LARGEST.get(device.type, LARGEST["cpu"])
    tokens = run.micro_batch_tokens or micro_batch_tokens or max(STEP, min(most, room // per_token // STEP * STEP))
    expected = resident + max(generation_bytes(run, shape, element), head + tokens * per_token)
    note = f"micro-batches of {tokens} tokens: about {expected / 1e9:.1f} GB of {budget / 1e9:.1f} GB"
    if expected > budget:
        note += "; to need less: activation_checkpointing, lora_rank, a smaller max_rows, or a larger memory_gb"
    return MemoryPlan(run.resolved(micro_batch_tokens=tokens), expected, note)
