"""Forward passes without gradients for generation: for any model unchanged, and a fused one for the Llama family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onedial.core.errors import DataError
from onedial.training.lm.attention import Layout, use_layout
from onedial.training.lm.packed_linear import Product, can_pack


class Head(Product):
    """Output projection: logits = scale · (hidden @ weightᵀ + bias)."""

    def __init__(self, weight: Tensor, bias: Tensor | None, scale: float) -> None:
        super().__init__(weight, bias)
        self.scale = scale

    def logits(self, hidden: Tensor) -> Tensor:
        """(n, d) → (n, V), in the model's type."""
        logits = self(hidden)
        return logits if self.scale == 1.0 else logits * self.scale


def get_base_model(model: nn.Module) -> nn.Module:
    """Returns the Hugging Face model inside a LoRA wrapper, or the model itself."""
    inner = getattr(model, "get_base_model", None)
    return inner() if inner is not None else model


def get_head_size(config: Any) -> int:
    """Returns the head size D, from a Hugging Face configuration."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def get_head(model: nn.Module) -> Head:
    """Returns the output projection of a causal LM, including its scalar logit scaling.

    Raises DataError for models that cap their logits (soft-capping).
    """
    base: Any = get_base_model(model)
    config, layer = base.config, base.get_output_embeddings()
    if getattr(config, "final_logit_softcapping", None):
        raise DataError(f"{type(base).__name__} caps its logits (final_logit_softcapping), which is not supported yet")
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    return Head(layer.weight, getattr(layer, "bias", None), scale)


def compute_hidden_states(model: nn.Module, tokens: Tensor, layout: Layout) -> Tensor:
    """(T,) packed tokens → (T, d) final hidden states of any Hugging Face causal LM, attending as `layout` says."""
    decoder: Any = get_base_model(model)
    with use_layout(layout):
        output = decoder.get_decoder()(
            input_ids=tokens.unsqueeze(0), position_ids=layout.positions.unsqueeze(0), use_cache=False
        )
    hidden: Tensor = output.last_hidden_state[0]
    return hidden


class Decoder(Protocol):
    """What the engine needs from a model."""

    num_layers: int
    head: Head

    def load(self, model: nn.Module) -> None:
        """Uses the model's present weights."""
        ...

    def hidden(self, tokens: Tensor, layout: Layout) -> Tensor:
        """(T,) → (T, d)."""
        ...

    def prepare(self, steps: int) -> None:
        """Prepares for about `steps` decode steps with the present weights; `load` and `rest` undo it."""
        ...

    def rest(self) -> None:
        """Frees what `prepare` allocated."""
        ...


class PlainDecoder:
    """Runs the Hugging Face model itself: every architecture, no copy of the weights."""

    def __init__(self, model: nn.Module) -> None:
        self.load(model)

    def load(self, model: nn.Module) -> None:
        self.model = model
        self.head = get_head(model)
        self.num_layers = int(get_base_model(model).config.num_hidden_layers)  # type: ignore[union-attr, arg-type]

    def hidden(self, tokens: Tensor, layout: Layout) -> Tensor:
        return compute_hidden_states(self.model, tokens, layout)

    def prepare(self, steps: int) -> None:
        """Does nothing: the weights are those of the model."""

    def rest(self) -> None:
        """Does nothing."""


FUSED_TYPES = ("llama", "mistral", "qwen2", "qwen3")
PACK_STEPS = 16  # decode steps from which packing the weights saves time
PACK_BYTES = 2**31  # of weights, at most: packing copies them


@dataclass
class _Layer:
    """One block with its projections joined: query, key and value; gate and up."""

    norm_in: Tensor
    qkv: Product
    norm_query: Tensor | None
    norm_key: Tensor | None
    out: Product
    norm_mlp: Tensor
    gate_up: Product
    down: Product


class FusedDecoder:
    """The Llama family (Llama, SmolLM, Mistral, Qwen2, Qwen3) with joined projections; equal to the plain path."""

    def __init__(self, model: nn.Module) -> None:
        self.load(model)

    @staticmethod
    def supports(model: nn.Module) -> bool:
        """Whether this architecture and its options are covered."""
        config: Any = get_base_model(model).config
        plain_mlp = not getattr(config, "mlp_bias", False) and config.hidden_act == "silu"
        window = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
        return config.model_type in FUSED_TYPES and plain_mlp and not window

    @torch.no_grad()
    def load(self, model: nn.Module) -> None:
        base: Any = get_base_model(model)
        config, inner = base.config, base.get_decoder()
        self.num_layers = int(config.num_hidden_layers)
        self.kv_heads = int(config.num_key_value_heads)
        self.head_size = get_head_size(config)
        self.heads = int(config.num_attention_heads)
        self.eps = float(config.rms_norm_eps)
        self.embedding = effective_weight(inner.embed_tokens)
        self.norm = inner.norm.weight.detach()
        self.rotary = inner.rotary_emb
        head = get_head(model)
        self.head = Head(head.weight.detach(), None if head.bias is None else head.bias.detach(), head.scale)
        self.layers = [_fuse(block) for block in inner.layers]

    def hidden(self, tokens: Tensor, layout: Layout) -> Tensor:
        hidden = F.embedding(tokens, self.embedding)
        cos, sin = self.rotary(hidden.unsqueeze(0), layout.positions.unsqueeze(0))
        cos, sin = cos[0].unsqueeze(1), sin[0].unsqueeze(1)  # (T, 1, D)
        sizes = [self.heads, self.kv_heads, self.kv_heads]
        scale = self.head_size**-0.5
        for index, layer in enumerate(self.layers):
            normed = F.rms_norm(hidden, hidden.shape[-1:], layer.norm_in, self.eps)
            joined = layer.qkv(normed).view(len(tokens), -1, self.head_size)
            query, key, value = joined.split(sizes, dim=1)
            if layer.norm_query is not None and layer.norm_key is not None:
                query = F.rms_norm(query, query.shape[-1:], layer.norm_query, self.eps)
                key = F.rms_norm(key, key.shape[-1:], layer.norm_key, self.eps)
                rotated = rotate(torch.cat([query, key], dim=1), cos, sin)
            else:
                rotated = rotate(joined[:, : self.heads + self.kv_heads], cos, sin)
            query, key = rotated[:, : self.heads], rotated[:, self.heads :]
            attended = layout.attend(index, query, key, value, scale)
            hidden = layer.out(attended.flatten(1)).add_(hidden)
            normed = F.rms_norm(hidden, hidden.shape[-1:], layer.norm_mlp, self.eps)
            gate, up = layer.gate_up(normed).chunk(2, dim=-1)
            hidden = layer.down(F.silu(gate).mul_(up)).add_(hidden)
        return F.rms_norm(hidden, hidden.shape[-1:], self.norm, self.eps)

    def _products(self) -> list[Product]:
        blocks = [product for layer in self.layers for product in (layer.qkv, layer.out, layer.gate_up, layer.down)]
        return [*blocks, self.head]

    @torch.no_grad()
    def prepare(self, steps: int) -> None:
        products = self._products()
        size = sum(product.weight.numel() * product.weight.element_size() for product in products)
        if steps < PACK_STEPS or size > PACK_BYTES or not can_pack(self.head.weight):
            return
        for product in products:
            product.pack()

    def rest(self) -> None:
        for product in self._products():
            product.unpack()


def rotate(values: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding (arXiv:2104.09864) in Hugging Face's convention: both halves of a head share an angle."""
    first, second = values.chunk(2, dim=-1)
    sin = sin[..., : first.shape[-1]]
    rotated = values * cos
    rotated_first, rotated_second = rotated.chunk(2, dim=-1)
    rotated_first.addcmul_(second, sin, value=-1)
    rotated_second.addcmul_(first, sin)
    return rotated


def effective_weight(module: nn.Module) -> Tensor:
    """Returns a linear layer's weight with any LoRA adapters merged in."""
    if isinstance(module, nn.Linear | nn.Embedding):
        return module.weight.detach()
    tuner: Any = module  # a peft layer: base weight plus the active adapters' low-rank products
    weight: Tensor = tuner.get_base_layer().weight.detach()
    for adapter in tuner.active_adapters:
        weight = weight + tuner.get_delta_weight(adapter).to(weight.dtype)
    return weight


def _bias(module: nn.Module) -> Tensor | None:
    layer: Any = module if isinstance(module, nn.Linear) else module.get_base_layer()  # type: ignore[operator]
    return None if layer.bias is None else layer.bias.detach()


def _fuse(block: Any) -> _Layer:
    attention, mlp = block.self_attn, block.mlp
    projections = [attention.q_proj, attention.k_proj, attention.v_proj]
    biases = [bias for bias in map(_bias, projections) if bias is not None]
    norm_query, norm_key = getattr(attention, "q_norm", None), getattr(attention, "k_norm", None)
    return _Layer(
        norm_in=block.input_layernorm.weight.detach(),
        qkv=Product(
            join_weights([effective_weight(part) for part in projections]), torch.cat(biases) if biases else None
        ),
        norm_query=None if norm_query is None else norm_query.weight.detach(),
        norm_key=None if norm_key is None else norm_key.weight.detach(),
        out=Product(effective_weight(attention.o_proj), _bias(attention.o_proj)),
        norm_mlp=block.post_attention_layernorm.weight.detach(),
        gate_up=Product(join_weights([effective_weight(mlp.gate_proj), effective_weight(mlp.up_proj)])),
        down=Product(effective_weight(mlp.down_proj)),
    )


def join_weights(weights: list[Tensor]) -> Tensor:
    """The weights concatenated: a view if they are contiguous in memory (see `lay_together`), else a copy."""
    first, place = weights[0], weights[0].storage_offset()
    for weight in weights:
        same = weight.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        if not (same and weight.is_contiguous() and weight.storage_offset() == place):
            return torch.cat(weights)
        place += weight.numel()
    outputs = sum(weight.shape[0] for weight in weights)
    return first.as_strided((outputs, *first.shape[1:]), first.stride(), first.storage_offset())


@torch.no_grad()
def lay_together(model: nn.Module) -> None:
    """Moves the weights that the fused decoder joins next to each other in memory, so that it needs no copy of them.

    The parameters keep their names and values. Other models, and layers with adapters, are not changed.
    """
    if not FusedDecoder.supports(model):
        return
    base: Any = get_base_model(model)
    for block in base.get_decoder().layers:
        attention, mlp = block.self_attn, block.mlp
        for parts in ([attention.q_proj, attention.k_proj, attention.v_proj], [mlp.gate_proj, mlp.up_proj]):
            if not all(isinstance(part, nn.Linear) for part in parts):
                continue
            whole = torch.cat([part.weight for part in parts])
            for part, weights in zip(parts, whole.split([len(part.weight) for part in parts]), strict=True):
                part.weight.data = weights


def make_decoder(model: nn.Module) -> Decoder:
    """Returns the fused decoder where it supports the architecture, else the model itself."""
    return FusedDecoder(model) if FusedDecoder.supports(model) else PlainDecoder(model)
