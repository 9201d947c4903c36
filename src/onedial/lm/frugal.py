"""Norms and gated units that keep less for backward, for the Llama family's training forward.

Hugging Face's RMSNorm keeps an fp32 copy of its input, and its gated unit keeps silu(gate) and the product that its
last projection reads; all are cheap to make again. The values are the same within rounding, and the norm is the one
the fused decoder uses, so that sampler and trainer agree more closely.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORMS = ("LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm")
GATED = ("LlamaMLP", "MistralMLP", "Qwen2MLP", "Qwen3MLP")


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        ctx.eps = eps
        return F.rms_norm(hidden, hidden.shape[-1:], weight, eps)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        hidden, weight = ctx.saved_tensors
        exact = hidden.float()
        scale = torch.rsqrt(exact.square().mean(-1, keepdim=True) + ctx.eps)
        normed = exact * scale
        grad = grads[0].float()
        pull = grad * weight.float()
        grad_hidden = scale * (pull - normed * (pull * normed).mean(-1, keepdim=True))
        grad_weight = (grad * normed).flatten(0, -2).sum(0)
        return grad_hidden.to(hidden.dtype), grad_weight.to(weight.dtype), None


class _GatedUnit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, down: Tensor | None) -> Tensor:
        ctx.save_for_backward(gate, up, down)
        unit = F.silu(gate) * up
        return unit if down is None else F.linear(unit, down)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gate, up, down = ctx.saved_tensors
        active = F.silu(gate)
        grad = grads[0] if down is None else grads[0] @ down
        grad_down = None
        if ctx.needs_input_grad[2]:
            grad_down = grads[0].flatten(0, -2).t() @ (active * up).flatten(0, -2)
        return torch.ops.aten.silu_backward(grad * up, gate), grad * active, grad_down


def rms_norm(hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    """(…, d) → (…, d): hidden / √(mean(hidden²) + eps) · weight (arXiv:1910.07467, Eq. 4), computed in fp32."""
    out: Tensor = _RmsNorm.apply(hidden, weight, eps)  # type: ignore[no-untyped-call]
    return out


def gated_unit(gate: Tensor, up: Tensor, down: Tensor | None = None) -> Tensor:
    """(…, m) ×2 → (…, m): silu(gate) · up (arXiv:2002.05202, Eq. 6), and with `down` (d, m) its product (…, d)."""
    out: Tensor = _GatedUnit.apply(gate, up, down)  # type: ignore[no-untyped-call]
    return out


def _norm_forward(self: Any, hidden_states: Tensor) -> Tensor:
    return rms_norm(hidden_states, self.weight, self.variance_epsilon)


def _gated_forward(self: Any, x: Tensor) -> Tensor:
    gate, up, down = self.gate_proj(x), self.up_proj(x), self.down_proj
    if isinstance(down, nn.Linear) and getattr(down, "bias", None) is None:
        return gated_unit(gate, up, down.weight)
    out: Tensor = down(gated_unit(gate, up))  # a bias or adapters
    return out


def make_frugal(model: nn.Module) -> None:
    """Gives the norms and gated units of a Llama-family model their frugal forward; other models stay as they are."""
    config: Any = model.config
    for module in model.modules():
        name = type(module).__name__
        if name in NORMS:
            module.forward = MethodType(_norm_forward, module)
        elif name in GATED and config.hidden_act == "silu":
            module.forward = MethodType(_gated_forward, module)
