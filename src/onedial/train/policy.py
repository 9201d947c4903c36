"""The model that is trained: compute weights, fp32 master weights where compute is bf16, and the optimiser."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from onedial.batch import Batch
from onedial.config import Run
from onedial.errors import ConfigError
from onedial.lm.attention import PrefixLayout, use_packed_attention, using
from onedial.lm.decoder import head_of, hidden_states
from onedial.lm.frugal import make_frugal
from onedial.lm.head import token_logps
from onedial.models import load_causal_lm


def pick_device(name: str) -> torch.device:
    """The device asked for; auto takes CUDA where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device={name!r}: {str(error).splitlines()[0]}; use auto, cpu or cuda") from error
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The compute type asked for; auto takes bfloat16 where the machine multiplies it in hardware."""
    if name != "auto":
        return torch.bfloat16 if name == "bfloat16" else torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else torch.float32


class Policy:
    """A causal LM with what training needs around it.

    `model` computes (in bf16 or fp32); `masters` are the fp32 weights the optimiser moves: copies of the trainable
    parameters, or, when compute is fp32, the parameters themselves. `temperature` is the sampling temperature, at
    which every log-probability is taken.
    """

    def __init__(self, run: Run, model_path: str | Path) -> None:
        self.run = run
        self.device = pick_device(run.device)
        self.dtype = pick_dtype(run.dtype, self.device)
        self.temperature = run.temperature
        exact: Any = load_causal_lm(model_path, dtype=torch.float32)
        masters = {} if run.lora_rank else {name: weight.detach().clone() for name, weight in exact.named_parameters()}
        self.model = _prepared(exact.to(self.dtype), run).to(self.device)
        self.parameters = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.names = [name for name, weight in self.model.named_parameters() if weight.requires_grad]
        self.masters: list[Tensor] = []
        self._rounded: list[tuple[Tensor, Tensor]] = []  # (compute weight, its master)
        self._touched: set[int] = set()
        for name, weight in self.model.named_parameters():
            if not weight.requires_grad:
                continue
            if weight.dtype == torch.float32:
                self.masters.append(weight)
            else:
                self.masters.append(self._attach(weight, masters.get(name, weight)))
        self.optimiser = torch.optim.AdamW(
            self.masters, lr=run.lr, betas=(run.beta1, run.beta2), weight_decay=run.weight_decay, fused=True
        )

    def _attach(self, weight: Tensor, exact: Tensor) -> Tensor:
        """The fp32 master of a bf16 weight; gradients go to the master as they arise and are added up there."""
        master = exact.detach().to(self.device, torch.float32)
        master.grad = torch.zeros_like(master)

        def gather(weight: Tensor) -> None:
            assert master.grad is not None and weight.grad is not None
            if id(master) in self._touched:
                master.grad.add_(weight.grad)
            else:  # the first gradient of a step overwrites: no pass to set the buffer to zero
                master.grad.copy_(weight.grad)
                self._touched.add(id(master))
            weight.grad = None

        weight.register_post_accumulate_grad_hook(gather)
        self._rounded.append((weight, master))
        return master

    def logps(self, batch: Batch, *, reference: nn.Module | None = None) -> tuple[Tensor, PrefixLayout]:
        """(T,) log-probabilities of the batch's completion tokens, and the layout to hold during backward."""
        model = reference if reference is not None else self.model
        layout = PrefixLayout(batch)
        hidden = hidden_states(model, layout.tokens, layout)
        head = head_of(model)
        chosen = hidden.index_select(0, layout.predictors)
        logp = token_logps(chosen, head.weight, batch.tokens, bias=head.bias, temperature=self.temperature / head.scale)
        return logp, layout

    def backward(self, loss: Tensor, layout: PrefixLayout) -> None:
        """Adds the gradient of a micro-batch's loss."""
        with using(layout):  # checkpointed blocks run forward again
            loss.backward()

    def step(self, lr: float) -> float:
        """One optimiser step from the gathered gradients; returns their norm before clipping."""
        for _, master in self._rounded:
            if id(master) not in self._touched and master.grad is not None:
                master.grad.zero_()
        self._touched.clear()
        norm = torch.nn.utils.clip_grad_norm_(self.masters, self.run.grad_clip or float("inf"))
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        self.optimiser.step()
        for weight in self.parameters:
            weight.grad = None
        self.publish()
        return float(norm)

    @torch.no_grad()
    def publish(self) -> None:
        """Rounds the master weights into the compute weights."""
        if self._rounded:
            weights, masters = zip(*self._rounded, strict=True)
            torch._foreach_copy_(list(weights), list(masters))

    def frozen_copy(self) -> nn.Module:
        """A reference model with the present weights."""
        copied: nn.Module = copy.deepcopy(self.model)
        for weight in copied.parameters():
            weight.requires_grad_(False)
        return copied


def _prepared(model: Any, run: Run) -> Any:
    """Packed attention, no dropout (the policy that samples is the policy that trains), LoRA where asked for."""
    use_packed_attention(model)
    make_frugal(model)
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
    torch.manual_seed(run.seed)  # the adapters' random initialisation
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise ConfigError(f"lora_targets={run.lora_targets!r}: {error}") from error
