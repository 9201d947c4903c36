"""Memory-efficient RMSNorm, SwiGLU, RoPE and joined projections for training models of the Llama family.

Hugging Face's RMSNorm keeps an fp32 copy of its input for backward, and its gated unit keeps silu(gate) and the input
of its last projection; here they are recomputed, which is cheap. Projections of the same input (query, key and value;
gate and up) become one matrix product if their weights are next to each other in memory. Values agree with Hugging
Face's within rounding, and the norm is that of the fused decoder, so that sampler and trainer agree more closely.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onedial.training.lm.attention import get_layout
from onedial.training.lm.decoder import FusedDecoder, join_weights, rotate

ATTENTIONS = ("LlamaAttention", "MistralAttention", "Qwen2Attention", "Qwen3Attention")
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
        normed, grad = (part.to(torch.float32, copy=True) for part in (hidden, grads[0]))  # overwritten below
        scale = torch.rsqrt(normed.square().mean(-1, keepdim=True) + ctx.eps)
        normed.mul_(scale)
        grad_weight = (grad * normed).flatten(0, -2).sum(0)
        grad_normed = grad.mul_(weight)
        along = (grad_normed * normed).mean(-1, keepdim=True)
        grad_hidden = grad_normed.addcmul_(normed, along, value=-1.0).mul_(scale)
        return grad_hidden.to(hidden.dtype), grad_weight.to(weight.dtype), None


class _Projections(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, bias: Tensor | None, *weights: Tensor) -> Tensor:
        ctx.save_for_backward(inputs, *weights)
        return F.linear(inputs, join_weights(list(weights)), bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        inputs, *weights = ctx.saved_tensors
        grad = grads[0].flatten(0, -2)
        grad_inputs = grads[0] @ join_weights(weights) if ctx.needs_input_grad[0] else None
        grad_bias = grad.sum(0) if ctx.needs_input_grad[1] else None
        if not any(ctx.needs_input_grad[2:]):
            return grad_inputs, grad_bias, *(None for _ in weights)
        of_weights = grad.t() @ inputs.flatten(0, -2)
        return grad_inputs, grad_bias, *of_weights.split([len(weight) for weight in weights])


class _GatedUnit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor, down: Tensor | None) -> Tensor:
        ctx.save_for_backward(gate_up, down)
        gate, up = gate_up.chunk(2, dim=-1)
        unit = F.silu(gate) * up
        return unit if down is None else F.linear(unit, down)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gate_up, down = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        grad_gate_up = torch.empty_like(gate_up)
        grad_gate, grad_up = grad_gate_up.chunk(2, dim=-1)
        active = F.silu(gate)
        grad = grads[0] if down is None else grads[0] @ down
        torch.mul(grad, active, out=grad_up)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=grad_gate)
        grad_down = None
        if ctx.needs_input_grad[1]:
            grad_down = grads[0].flatten(0, -2).t() @ active.mul_(up).flatten(0, -2)
        return grad_gate_up, grad_down


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return rotate(values, cos, sin)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return rotate(grads[0], cos, -sin), None, None


def rms_norm(hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    """(…, d) → (…, d): hidden / √(mean(hidden²) + eps) · weight (arXiv:1910.07467, Eq. 4), computed in fp32."""
    out: Tensor = _RmsNorm.apply(hidden, weight, eps)  # type: ignore[no-untyped-call]
    return out


def project_jointly(inputs: Tensor, layers: list[nn.Module]) -> Tensor:
    """(…, d) → (…, Σ outputs): several linear layers of the same input, as one product unless they have adapters."""
    plain = [layer for layer in layers if isinstance(layer, nn.Linear)]
    biases: list[Tensor] = [layer.bias for layer in plain if layer.bias is not None]
    if len(plain) < len(layers) or len(biases) not in (0, len(layers)):
        return torch.cat([layer(inputs) for layer in layers], dim=-1)  # adapters, or only some layers have a bias
    bias = torch.cat(biases) if biases else None
    out: Tensor = _Projections.apply(inputs, bias, *(layer.weight for layer in plain))  # type: ignore[no-untyped-call]
    return out


def gated_unit(gate_up: Tensor, down: Tensor | None = None) -> Tensor:
    """(…, 2m) → (…, m): silu(gate) · up (arXiv:2002.05202, Eq. 6), and with `down` (d, m) its product (…, d)."""
    out: Tensor = _GatedUnit.apply(gate_up, down)  # type: ignore[no-untyped-call]
    return out


def rotate_heads(values: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of (T, h, D) by (T, 1, D) angles whose halves are equal; backward rotates the other way."""
    out: Tensor = _Rotation.apply(values, cos, sin)  # type: ignore[no-untyped-call]
    return out


def _norm_forward(self: Any, hidden_states: Tensor) -> Tensor:
    return rms_norm(hidden_states, self.weight, self.variance_epsilon)


def _gated_forward(self: Any, x: Tensor) -> Tensor:
    gate_up, down = project_jointly(x, [self.gate_proj, self.up_proj]), self.down_proj
    if isinstance(down, nn.Linear) and getattr(down, "bias", None) is None:
        return gated_unit(gate_up, down.weight)
    out: Tensor = down(gated_unit(gate_up))  # a bias or adapters
    return out


def _attention_forward(
    self: Any, hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor], *_: Any, **__: Any
) -> tuple[Tensor, None]:
    heads, kv_heads = self.config.num_attention_heads, self.config.num_key_value_heads
    cos, sin = (part[0].unsqueeze(1) for part in position_embeddings)  # (T, 1, D)
    projected = project_jointly(hidden_states[0], [self.q_proj, self.k_proj, self.v_proj]).unflatten(
        -1, (-1, self.head_dim)
    )
    if hasattr(self, "q_norm"):
        query, key, value = projected.split([heads, kv_heads, kv_heads], dim=1)
        turned = rotate_heads(torch.cat([self.q_norm(query), self.k_norm(key)], dim=1), cos, sin)
    else:
        both, value = projected.split([heads + kv_heads, kv_heads], dim=1)
        turned = rotate_heads(both, cos, sin)
    query, key = turned.split([heads, kv_heads], dim=1)
    attended = get_layout().attend(self.layer_idx, query, key, value, self.scaling)
    return self.o_proj(attended.flatten(1)).unsqueeze(0), None


def patch_llama_blocks(model: nn.Module) -> None:
    """Replaces the forward of the blocks of a Llama-family model with the functions above; ignores other models."""
    config: Any = model.config
    fused = FusedDecoder.supports(model)
    for module in model.modules():
        name = type(module).__name__
        if name in NORMS:
            module.forward = MethodType(_norm_forward, module)
        elif name in GATED and config.hidden_act == "silu":
            module.forward = MethodType(_gated_forward, module)
        elif name in ATTENTIONS and fused:
            module.forward = MethodType(_attention_forward, module)
