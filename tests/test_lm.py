"""Packed attention, memory, fused decoding and the head, against Hugging Face's own unpacked forward pass."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from onedial.core.batch import Batch, compute_offsets
from onedial.core.errors import DataError
from onedial.training.lm import head
from onedial.training.lm.attention import (
    PrefixLayout,
    causal_attention,
    make_additive,
    mask_own_past,
    use_layout,
    use_packed_attention,
)
from onedial.training.lm.cpu_attention import Prefix, product_attention
from onedial.training.lm.decoder import (
    FusedDecoder,
    PlainDecoder,
    compute_hidden_states,
    get_head,
    lay_together,
    make_decoder,
)
from onedial.training.lm.head import token_logps
from onedial.training.lm.kv_cache import DecodeLayout, KVCache, PrefillLayout, partial_attention
from onedial.training.lm.llama_blocks import gated_unit, patch_llama_blocks, project_jointly, rms_norm, rotate_heads
from onedial.training.lm.packed_linear import can_pack

SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
CONFIGS = {
    "llama": LlamaConfig(**SIZES),
    "llama_untied_head_dim": LlamaConfig(**SIZES, head_dim=16, tie_word_embeddings=False),
    "mistral": MistralConfig(**SIZES, sliding_window=None),
    "qwen2": Qwen2Config(**SIZES, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SIZES, head_dim=8),
}


def model_of(config: Any) -> Any:
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=torch.float32).eval()
    with torch.no_grad():  # biases and norms away from their initial 0 and 1, so that a forgotten one shows
        for name, weight in model.named_parameters():
            if weight.dim() == 1:
                weight.add_(torch.randn_like(weight) * 0.2)
            else:
                weight.mul_(3.0 if "embed" not in name else 1.0)
    return model


def ragged_batch(groups: list[tuple[int, list[int]]], vocabulary: int = 97, seed: int = 0) -> Batch:
    """Groups as (prompt length, completion lengths) with random tokens."""
    rng = torch.Generator().manual_seed(seed)

    def tokens(n: int) -> Tensor:
        return torch.randint(0, vocabulary, (n,), generator=rng)

    lengths = torch.tensor([length for _, rows in groups for length in rows])
    rows = len(lengths)
    ones = torch.ones(rows, dtype=torch.bool)
    return Batch(
        prompt_tokens=tokens(sum(prompt for prompt, _ in groups)),
        prompt_offsets=compute_offsets(torch.tensor([prompt for prompt, _ in groups])),
        tokens=tokens(int(lengths.sum())),
        offsets=compute_offsets(lengths),
        group=torch.tensor([g for g, (_, rows) in enumerate(groups) for _ in rows]),
        group_ids=tuple(str(g) for g in range(len(groups))),
        annotations={
            "advantage": torch.linspace(-1, 1, rows),
            "positive": ones,
            "rollout_mask": ones,
            "group_tokens": torch.ones(rows, dtype=torch.long),
        },
    )


GROUPS = [(5, [3, 1, 7]), (11, [4]), (2, [2, 2, 6, 1, 5])]


def plain_logps(model: Any, batch: Batch, temperature: float = 1.0) -> Tensor:
    """Oracle: each row alone through the ordinary model, prompt and completion together."""
    model.set_attn_implementation("eager")
    pieces = []
    for row in range(batch.num_rollouts):
        group = int(batch.group[row])
        prompt = batch.prompt_tokens[batch.prompt_offsets[group] : batch.prompt_offsets[group + 1]]
        written = batch.tokens[batch.offsets[row] : batch.offsets[row + 1]]
        logits = model(input_ids=torch.cat([prompt, written])[None]).logits[0].float() / temperature
        pieces.append(logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(1, written[:, None]).squeeze(1))
    return torch.cat(pieces)


def packed_logps(model: Any, batch: Batch, temperature: float = 1.0) -> tuple[Tensor, PrefixLayout]:
    use_packed_attention(model)
    layout = PrefixLayout(batch)
    hidden = compute_hidden_states(model, layout.tokens, layout)
    layer = get_head(model)
    return token_logps(
        hidden[layout.predictors], layer.weight, batch.tokens, bias=layer.bias, temperature=temperature
    ), layout


@pytest.mark.parametrize("name", CONFIGS)
def test_packed_logps_and_gradients_equal_unpacked(name: str) -> None:
    """Other library: shared prompts change neither a log-probability nor a gradient, at any temperature."""
    model, batch = model_of(CONFIGS[name]), ragged_batch(GROUPS)
    weights = torch.randn(len(batch.tokens), generator=torch.Generator().manual_seed(3))
    expected = plain_logps(model, batch, 0.7)
    (expected * weights).sum().backward()
    gradients = {key: weight.grad.clone() for key, weight in model.named_parameters()}
    model.zero_grad()
    logp, _ = packed_logps(model, batch, 0.7)
    (logp * weights).sum().backward()
    torch.testing.assert_close(logp, expected, atol=1e-5, rtol=1e-5)
    for key, weight in model.named_parameters():
        scale = float(gradients[key].abs().max())
        torch.testing.assert_close(weight.grad, gradients[key], atol=1e-5 * max(scale, 1e-3), rtol=1e-4)


@pytest.mark.parametrize("name", CONFIGS)
def test_frugal_blocks_equal_the_librarys(name: str) -> None:
    """Other library: norms and gated units that recompute give transformers' logps and gradients."""
    batch, results = ragged_batch(GROUPS), []
    for frugal in (False, True):
        model = model_of(CONFIGS[name])
        if frugal:
            patch_llama_blocks(model)
            assert any("forward" in vars(module) for module in model.modules()), "nothing was replaced"
        logp, _ = packed_logps(model, batch)
        (logp * torch.linspace(-1, 1, len(logp))).sum().backward()
        results.append((logp.detach(), [weight.grad for weight in model.parameters()]))
    torch.testing.assert_close(results[0][0], results[1][0], atol=1e-5, rtol=1e-5)
    for plain, ours in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(plain, ours, atol=1e-5 * max(1.0, float(plain.abs().max())), rtol=1e-4)


def test_frugal_gradients_are_the_derivatives() -> None:
    """Identity: finite differences, in double; the norm's fp32 inside bounds how close."""
    rng = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.double).requires_grad_()

    torch.autograd.gradcheck(gated_unit, (drawn(3, 16),))
    torch.autograd.gradcheck(gated_unit, (drawn(3, 16), drawn(5, 8)))
    angles = torch.rand(3, 1, 2, generator=rng, dtype=torch.double).repeat(1, 1, 2)
    torch.autograd.gradcheck(lambda values: rotate_heads(values, angles.cos(), angles.sin()), (drawn(3, 2, 4),))
    for bias in (False, True):
        layers: list[torch.nn.Module] = [torch.nn.Linear(8, size, bias=bias, dtype=torch.double) for size in (6, 2)]
        weights = [weight for layer in layers for weight in layer.parameters()]
        rows = drawn(3, 8)
        torch.testing.assert_close(project_jointly(rows, layers), torch.cat([layer(rows) for layer in layers], dim=-1))
        torch.autograd.gradcheck(lambda rows, *_, layers=layers: project_jointly(rows, layers), (rows, *weights))
    hidden = drawn(3, 8)
    weight = torch.rand(8, generator=rng, dtype=torch.double).requires_grad_()
    pull = torch.randn(3, 8, generator=rng, dtype=torch.double)
    ours = torch.autograd.grad((rms_norm(hidden, weight, 1e-5) * pull).sum(), (hidden, weight))
    plain = hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + 1e-5) * weight
    for got, wanted in zip(ours, torch.autograd.grad((plain * pull).sum(), (hidden, weight)), strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-6, rtol=1e-5)


def test_checkpointed_blocks_attend_in_backward() -> None:
    """Invariance: recomputing activations changes no gradient."""
    batch, gradients = ragged_batch(GROUPS), []
    for checkpointing in (False, True):
        model = model_of(CONFIGS["llama"])
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            model.train()
        logp, layout = packed_logps(model, batch)
        with use_layout(layout):
            logp.sum().backward()
        gradients.append([weight.grad for weight in model.parameters()])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, again)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("decoder_type", [PlainDecoder, FusedDecoder])
def test_decoding_equals_the_training_forward(name: str, decoder_type: Any) -> None:
    """Invariance: prefill and token-by-token decoding give the training path's log-probabilities."""
    model, batch = model_of(CONFIGS[name]), ragged_batch(GROUPS)
    expected, _ = packed_logps(model, batch)
    decoder = decoder_type(model)
    prompt_lengths = batch.prompt_offsets[1:] - batch.prompt_offsets[:-1]
    # slots in an order of their own, with a gap, as after retirements
    slots = torch.tensor([3, 0, 2])
    with torch.inference_mode():
        memory = KVCache(decoder.num_layers)
        layout = PrefillLayout(memory, batch.prompt_offsets, slots, 4)
        last = decoder.hidden(batch.prompt_tokens, layout)[batch.prompt_offsets[1:] - 1]
        decode = DecodeLayout(memory)
        by_slot = torch.ones(4, dtype=torch.long)
        by_slot[slots] = prompt_lengths
        decode.set_sequences(slots[batch.group], by_slot, torch.float32)
        logits, got = decoder.head.logits(last)[batch.group], []
        for step in range(int(batch.lengths.max())):
            newest = batch.tokens[(batch.offsets[:-1] + step).clamp(max=len(batch.tokens) - 1)]
            got.append(logits.log_softmax(-1).gather(1, newest[:, None]).squeeze(1))
            decode.advance(torch.full((batch.num_rollouts,), step))
            logits = decoder.head.logits(decoder.hidden(newest, decode))
    table = torch.stack(got, dim=1)
    flat = torch.cat([table[row, : int(length)] for row, length in enumerate(batch.lengths)])
    torch.testing.assert_close(flat, expected.detach(), atol=1e-4, rtol=1e-4)


def test_fused_decoder_covers_the_family_and_only_it() -> None:
    """Hand value: the fast path is taken for the Llama family, the plain one elsewhere."""
    assert all(isinstance(make_decoder(model_of(config)), FusedDecoder) for config in CONFIGS.values())
    other = model_of(LlamaConfig(**SIZES, hidden_act="gelu"))
    assert isinstance(make_decoder(other), PlainDecoder)


def test_fused_decoder_merges_lora() -> None:
    """Invariance: with adapters the fast path equals the plain path that applies them layer by layer."""
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(model_of(CONFIGS["qwen2"]), LoraConfig(r=4, target_modules="all-linear")).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.3)
    use_packed_attention(model.get_base_model())
    batch = ragged_batch(GROUPS)
    hidden = []
    with torch.inference_mode():
        for decoder in (PlainDecoder(model), FusedDecoder(model)):
            layout = PrefillLayout(KVCache(3), batch.prompt_offsets, torch.arange(3), 3)
            hidden.append(decoder.hidden(batch.prompt_tokens, layout))
    torch.testing.assert_close(hidden[0], hidden[1], atol=1e-4, rtol=1e-4)


def test_joined_weights_are_views_of_the_models_own() -> None:
    """Identity: laid together, the fused decoder reads the parameters themselves; apart, it copies the same values."""
    model = model_of(CONFIGS["llama"])
    apart = FusedDecoder(model)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    lay_together(model)
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())
    together = FusedDecoder(model)
    for copied, viewed in zip(apart.layers, together.layers, strict=True):
        assert torch.equal(copied.qkv.weight, viewed.qkv.weight)
        assert torch.equal(copied.gate_up.weight, viewed.gate_up.weight)
    with torch.no_grad():
        model.model.layers[1].self_attn.k_proj.weight.fill_(0.25)
        model.model.layers[1].mlp.up_proj.weight.fill_(0.5)
    heads, kv_heads, size = together.heads, together.kv_heads, together.head_size
    assert bool((together.layers[1].qkv.weight[heads * size : (heads + kv_heads) * size] == 0.25).all())
    assert bool((together.layers[1].gate_up.weight[SIZES["intermediate_size"] :] == 0.5).all())
    assert not bool((apart.layers[1].qkv.weight == 0.25).any())


@pytest.mark.skipif(not can_pack(torch.zeros(1, dtype=torch.bfloat16)), reason="this CPU has no bfloat16 products")
def test_packed_weights_change_no_bit() -> None:
    """Invariance: generation with packed weights is that with plain ones, until the weights move and after."""
    model = model_of(CONFIGS["llama"]).bfloat16()
    results = []
    for steps in (1, 40):
        decoder = FusedDecoder(model)
        decoder.prepare(steps)
        assert (decoder.head._packed is not None) == (steps == 40)
        layout = PrefixLayout(ragged_batch([(4, [3])]))
        with torch.inference_mode():
            results.append(decoder.head.logits(decoder.hidden(layout.tokens, layout)))
    assert torch.equal(results[0], results[1])
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.5)
    decoder.load(model)
    assert decoder.head._packed is None
    decoder.prepare(40)
    decoder.rest()
    assert all(product._packed is None for product in decoder._products())


def test_sliding_window_and_soft_capping_are_refused_by_name() -> None:
    """A window shorter than the sequence would be silently ignored otherwise."""
    model = model_of(MistralConfig(**SIZES, sliding_window=8))
    with pytest.raises(DataError, match="sliding_window=8 with a sequence of 15"):
        packed_logps(model, ragged_batch([(5, [10])]))
    logp, _ = packed_logps(model, ragged_batch([(5, [3])]))  # inside the window nothing is lost
    assert logp.shape == (3,)
    model.config.final_logit_softcapping = 30.0
    with pytest.raises(DataError, match="final_logit_softcapping"):
        get_head(model)


@pytest.mark.parametrize("kept", [0, 1 << 30])
@pytest.mark.parametrize("rows", [1, 5, 1000])
def test_chunks_of_the_head_change_nothing(rows: int, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other library: chunked log-softmax and its kept or recomputed backward equal torch's, at any chunk size."""
    monkeypatch.setattr(head, "KEPT_BYTES", kept)
    rng = torch.Generator().manual_seed(0)
    hidden = torch.randn(23, 16, generator=rng, dtype=torch.double).requires_grad_()
    weight = torch.randn(31, 16, generator=rng, dtype=torch.double).requires_grad_()
    bias = torch.randn(31, generator=rng, dtype=torch.double).requires_grad_()
    targets = torch.randint(0, 31, (23,), generator=rng)
    pull = torch.randn(23, generator=rng)
    expected = ((hidden @ weight.t() + bias) / 1.3).log_softmax(-1)[torch.arange(23), targets]
    wanted = torch.autograd.grad((expected * pull).sum(), (hidden, weight, bias))
    monkeypatch.setattr(head, "count_chunk_tokens", lambda vocabulary: rows)
    logp = token_logps(hidden, weight, targets, bias=bias, temperature=1.3)
    got = torch.autograd.grad((logp * pull).sum(), (hidden, weight, bias))
    torch.testing.assert_close(logp.double(), expected, atol=1e-6, rtol=1e-6)
    for ours, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_partial_attentions_merge_exactly() -> None:
    """Identity: attention over two parts of the keys, merged by log-normalisers, is attention over all."""
    rng = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 3, n, 8, generator=rng) for n in (4, 9, 9))
    whole = torch.nn.functional.scaled_dot_product_attention(query, key, value, scale=0.3)
    first, a = partial_attention(query, key[:, :, :5], value[:, :, :5], None, 0.3)
    second, b = partial_attention(query, key[:, :, 5:], value[:, :, 5:], None, 0.3)
    merged = torch.lerp(second, first, torch.sigmoid(a - b).unsqueeze(-1))
    torch.testing.assert_close(merged, whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kept", [0, 1000])
@pytest.mark.parametrize(("length", "earlier"), [(5, 0), (7, 4), (70, 9)])
def test_product_attention_equals_torchs(length: int, earlier: int, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Output and gradients against torch's own attention in doubles: blocks of queries, pieces of rows, prompts shared
    by rows, and probabilities kept for backward or made again."""
    monkeypatch.setattr("onedial.training.lm.cpu_attention.KEPT_KEYS", kept)
    monkeypatch.setattr("onedial.training.lm.cpu_attention.PIECE", 2 * 4 * length * (earlier + length))
    monkeypatch.setattr("onedial.training.lm.attention.BLOCK", 32)
    torch.manual_seed(0)
    count, heads, kv_heads, size = 5, 4, 2, 8
    group = torch.tensor([0, 0, 1, 2, 2])
    query = torch.randn(count, length, heads, size, requires_grad=True)
    key, value = (torch.randn(count, length, kv_heads, size, requires_grad=True) for _ in range(2))
    prompt_key, prompt_value = (torch.randn(3, kv_heads, earlier, size, requires_grad=True) for _ in range(2))
    sees_prompt = torch.arange(earlier) < torch.tensor([2, 3, 4])[group][:, None]
    allowed = torch.cat(
        [sees_prompt[:, None].expand(-1, length, -1), mask_own_past(length, query.device).expand(count, -1, -1)], dim=2
    )
    prefix = Prefix(prompt_key, prompt_value, group) if earlier else None
    ours = causal_attention(query, key, value, allowed, 0.3, prefix)

    leaves = [query, key, value, prompt_key, prompt_value]
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    whole_key, whole_value = (
        torch.cat([exact[3 + i][group], exact[1 + i].transpose(1, 2)], dim=2).repeat_interleave(heads // kv_heads, 1)
        for i in range(2)
    )
    theirs = F.scaled_dot_product_attention(
        exact[0].transpose(1, 2), whole_key, whole_value, allowed[:, None], scale=0.3
    ).transpose(1, 2)
    pull = torch.randn_like(ours)
    ours.backward(pull)
    theirs.backward(pull.double())

    torch.testing.assert_close(ours.double(), theirs, atol=1e-6, rtol=1e-5)
    for mine, other in zip(leaves[: 5 if earlier else 3], exact, strict=False):
        assert mine.grad is not None and other.grad is not None
        torch.testing.assert_close(mine.grad.double(), other.grad, atol=1e-5, rtol=1e-5)


def test_product_attention_in_bfloat16_is_as_exact_as_torchs() -> None:
    """Against doubles, the error of output and gradients is no larger than that of torch's fused kernel."""
    torch.manual_seed(1)
    shape = (6, 2, 40, 16)
    parts = [torch.randn(shape) for _ in range(3)]
    pull = torch.randn(shape)
    bias = make_additive(mask_own_past(40, torch.device("cpu")), torch.float32)

    def run(function: Any, dtype: torch.dtype) -> list[torch.Tensor]:
        leaves = [part.bfloat16().to(dtype).requires_grad_() for part in parts]
        out = function(*leaves)
        out.backward(pull.bfloat16().to(dtype))
        return [out.detach().double(), *(leaf.grad.double() for leaf in leaves)]

    exact = run(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), torch.float64)
    fused = run(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), torch.bfloat16)
    ours = run(lambda q, k, v: product_attention(q, k, v, None, bias, 0.25), torch.bfloat16)
    for truth, theirs, mine in zip(exact, fused, ours, strict=True):
        assert (mine - truth).norm() < 1.25 * (theirs - truth).norm()
