"""The model that is trained: loading, log-probabilities of tokens, and its weights with their optimizer."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from onedial.core.batch import Batch
from onedial.core.errors import ConfigError
from onedial.core.settings import Run
from onedial.training.lm.attention import PrefixLayout, use_layout, use_packed_attention
from onedial.training.lm.decoder import Head, compute_hidden_states, get_base_model, get_head, lay_together
from onedial.training.lm.entropy import token_entropies
from onedial.training.lm.head import token_logps
from onedial.training.lm.llama_blocks import patch_llama_blocks
from onedial.training.models import load_causal_lm
from onedial.training.trainer.device import pick_device, pick_dtype
from onedial.training.trainer.master_weights import Weights
from onedial.training.trainer.packing import map_micro_batches


class Policy:
    """A causal LM with everything that training needs from it.

    `model` computes (in bf16 or fp32) and `weights` are what the optimizer changes. `temperature` is the sampling
    temperature, at which every log-probability is computed.
    """

    def __init__(self, run: Run, model_path: str | Path) -> None:
        self.run = run
        self.device = pick_device(run.device)
        self.dtype = pick_dtype(run.dtype, self.device)
        self.temperature = run.temperature
        self.model, exact = load_trainable(run, model_path, self.device, self.dtype)
        self._share_embedding_gradient()
        self.weights = Weights(self.model, exact, run)

    def logps(self, batch: Batch, *, reference: nn.Module | None = None) -> tuple[Tensor, PrefixLayout]:
        """(T,) log-probabilities of the batch's completion tokens, and the layout that `backward` needs."""
        hidden, head, layout = self._hidden(batch, reference if reference is not None else self.model)
        logp = token_logps(hidden, head.weight, batch.tokens, bias=head.bias, temperature=self.temperature / head.scale)
        return logp, layout

    def logps_with_entropy(self, batch: Batch) -> tuple[Tensor, Tensor, PrefixLayout]:
        """(T,) log-probabilities as from `logps`, (T,) entropies of the policy at these tokens in nats, the layout."""
        hidden, head, layout = self._hidden(batch, self.model)
        temperature = self.temperature / head.scale
        logp, entropy = token_entropies(hidden, head.weight, batch.tokens, bias=head.bias, temperature=temperature)
        return logp, entropy, layout

    def _hidden(self, batch: Batch, model: nn.Module) -> tuple[Tensor, Head, PrefixLayout]:
        """(T, d) hidden states that predict the completion tokens."""
        layout = PrefixLayout(batch)
        hidden = compute_hidden_states(model, layout.tokens, layout)
        return hidden.index_select(0, layout.predictors), get_head(model), layout

    def _share_embedding_gradient(self) -> None:
        """If output layer and embedding share their weight, the gradient of the few embeddings that were used is added
        to the output layer's in place; otherwise every pass would fill and add a second tensor of the size of the
        vocabulary."""
        base: Any = get_base_model(self.model)
        table = base.get_input_embeddings()
        if table.weight is base.get_output_embeddings().weight and table.weight.requires_grad:
            table.sparse = True

    def backward(self, loss: Tensor, layout: PrefixLayout) -> None:
        """Adds the gradient of a micro-batch's loss."""
        with use_layout(layout):  # checkpointed blocks run forward again
            loss.backward()

    def step(self, lr: float) -> float:
        """One optimizer step from the accumulated gradients; returns their norm before clipping."""
        return self.weights.step(lr)

    def frozen_copy(self) -> nn.Module:
        """A reference model with the present weights."""
        copied: nn.Module = copy.deepcopy(self.model)
        for weight in copied.parameters():
            weight.requires_grad_(False)
        return copied


def evaluate_logps(policy: Policy, batch: Batch, reference: nn.Module | None = None) -> Tensor:
    """(T,) log-probabilities of a whole batch, by the policy or the reference, without gradient; fp32 on the CPU."""
    return map_micro_batches(
        batch,
        policy.run.micro_batch_tokens,
        lambda piece: policy.logps(piece.to(policy.device), reference=reference)[0],
    )


def load_trainable(
    run: Run, path: str | Path, device: torch.device, dtype: torch.dtype
) -> tuple[Any, dict[str, Tensor]]:
    """A causal LM in the form that the run trains, and its weights by name at the precision of the file (none with
    LoRA)."""
    exact: Any = load_causal_lm(path, dtype=torch.float32, trust_remote_code=run.trust_remote_code)
    masters = {} if run.lora_rank else {name: weight.detach().clone() for name, weight in exact.named_parameters()}
    model = _prepared(exact.to(dtype), run).to(device)
    lay_together(model)
    return model, masters


def _prepared(model: Any, run: Run) -> Any:
    """Packed attention, no dropout (sampling and training must use the same policy), LoRA if requested."""
    use_packed_attention(model)
    patch_llama_blocks(model)
    if run.lora_rank:
        model = _with_lora(model, run)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    if run.activation_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.train()  # Hugging Face checkpoints in training mode only
    else:
        model.eval()
    return model


def _with_lora(model: Any, run: Run) -> Any:
    from peft import LoraConfig, get_peft_model

    targets: str | list[str] = run.lora_targets
    if run.lora_targets != "all-linear":
        targets = [name.strip() for name in run.lora_targets.split(",")]
    alpha: Any = run.lora_alpha or 2 * run.lora_rank  # peft divides by the rank, so a fraction is as good as an int
    config = LoraConfig(r=run.lora_rank, lora_alpha=alpha, target_modules=targets, task_type="CAUSAL_LM")
    torch.manual_seed(run.seed)  # the adapters' random initialization
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise ConfigError(f"lora_targets={run.lora_targets!r}: {error}") from error
