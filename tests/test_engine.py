"""The torch engine: what it writes, its log-probabilities, and that the company a row keeps changes nothing."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from onedial.core.errors import DataError
from onedial.training.lm.attention import use_packed_attention
from onedial.training.rollout.engine import Finished, Request, Sampling, derive_seed
from onedial.training.rollout.sampling import _block_size, filter_scores, sample
from onedial.training.rollout.torch_engine import TorchEngine
from test_lm import CONFIGS, model_of, packed_logps, ragged_batch


@pytest.fixture(scope="module")
def model() -> Any:
    model = model_of(CONFIGS["llama"])
    use_packed_attention(model)
    return model


def requests(count: int, rows: int, sampling: Sampling) -> list[Request]:
    batch = ragged_batch([(3 + 2 * g, [1]) for g in range(count)], seed=5)
    return [
        Request(
            g,
            batch.prompt_tokens[batch.prompt_offsets[g] : batch.prompt_offsets[g + 1]].tolist(),
            tuple(derive_seed(0, g, index) for index in range(rows + g % 3)),
            sampling,
        )
        for g in range(count)
    ]


def by_row(finished: list[Finished]) -> dict[tuple[Any, int], Any]:
    assert len({(row.key, row.index) for row in finished}) == len(finished)
    return {(row.key, row.index): row.completion for row in finished}


def test_rows_do_not_depend_on_their_company(model: Any) -> None:
    """Invariance: 3, 7 or 64 places, any subset of requests: the same tokens, logps to 1e-4 (peers' batch drift)."""
    sampling = Sampling(max_new_tokens=20)
    stops = tuple(range(8))  # a row stops about every twelfth token: constant coming and going
    everything = by_row(TorchEngine(model, stops, max_rows=64).generate(requests(9, 4, sampling)))
    assert len(everything) == sum(len(request.seeds) for request in requests(9, 4, sampling))
    assert {completion.finish_reason for completion in everything.values()} == {"stop", "length"}
    for places, subset in ((3, slice(0, 9)), (7, slice(0, 9)), (5, slice(4, 7)), (1, slice(8, 9))):
        some = by_row(TorchEngine(model, stops, max_rows=places).generate(requests(9, 4, sampling)[subset]))
        for key, completion in some.items():
            assert completion.token_ids == everything[key].token_ids
            torch.testing.assert_close(completion.logps, everything[key].logps, atol=1e-4, rtol=0)


def test_engine_logps_are_the_trainers(model: Any) -> None:
    """Invariance: sampler's logps = training forward's at the sampling temperature, fp32, to 1e-4 (TRL 4159)."""
    sampling = Sampling(temperature=0.6, max_new_tokens=12)
    asked = requests(5, 3, sampling)
    written = by_row(TorchEngine(model, (1, 2), max_rows=6).generate(asked))
    batch = ragged_batch(
        [(len(r.prompt_tokens), [len(written[r.key, i].token_ids) for i in range(len(r.seeds))]) for r in asked]
    )
    rows = [written[request.key, index] for request in asked for index in range(len(request.seeds))]
    from dataclasses import replace

    batch = replace(
        batch,
        prompt_tokens=torch.tensor([token for request in asked for token in request.prompt_tokens]),
        tokens=torch.tensor([token for completion in rows for token in completion.token_ids]),
    )
    logp, _ = packed_logps(model, batch, temperature=0.6)
    engine = torch.tensor([value for completion in rows for value in completion.logps])
    torch.testing.assert_close(logp.detach(), engine, atol=1e-4, rtol=0)


def test_every_stop_id_ends_a_row_and_belongs_to_it(model: Any) -> None:
    """Named bug: only one EOS id honoured (TRL 7039). The stop token is the last of a stopped row, and nowhere else."""
    stops = (3, 50, 90)
    rows = by_row(TorchEngine(model, stops, max_rows=16).generate(requests(8, 8, Sampling(max_new_tokens=30))))
    seen = Counter(completion.token_ids[-1] for completion in rows.values() if completion.finish_reason == "stop")
    assert set(seen) == set(stops)
    for completion in rows.values():
        assert not set(completion.token_ids[:-1]) & set(stops)
        assert len(completion.logps) == len(completion.token_ids) <= 30
        assert (completion.finish_reason == "length") == (completion.token_ids[-1] not in stops)


def test_a_stop_at_the_limit_is_a_stop(model: Any) -> None:
    """Edge: every token is a stop id, so each row has one token and stopped by itself."""
    rows = TorchEngine(model, tuple(range(97))).generate(requests(2, 2, Sampling(max_new_tokens=1)))
    assert {(row.completion.finish_reason, len(row.completion.token_ids)) for row in rows} == {("stop", 1)}


def test_greedy_takes_the_likeliest(model: Any) -> None:
    """Other library: temperature 0 repeats transformers' greedy generate."""
    asked = requests(4, 1, Sampling(temperature=0, max_new_tokens=15))
    written = by_row(TorchEngine(model, (0,)).generate(asked))
    plain = model_of(CONFIGS["llama"])
    plain.set_attn_implementation("sdpa")  # the engine and this model share a config object
    plain.generation_config.eos_token_id = 0
    for request in asked:
        prompt = torch.tensor([request.prompt_tokens])
        out = plain.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=15, do_sample=False, pad_token_id=0
        )
        assert out[0, prompt.shape[1] :].tolist() == list(written[request.key, 0].token_ids)


def test_prompts_that_do_not_fit_are_refused_by_name(model: Any) -> None:
    engine = TorchEngine(model, (0,), context=32)
    with pytest.raises(DataError, match=r"prompt 'long' has 30 tokens; with max_new_tokens=8 .* context of 32"):
        engine.submit(Request("long", list(range(30)), (1,), Sampling(max_new_tokens=8)))
    with pytest.raises(DataError, match="'none' has no tokens"):
        engine.submit(Request("none", [], (1,), Sampling()))
    engine.submit(Request("a", [1], (1,), Sampling(max_new_tokens=2)))
    with pytest.raises(DataError, match="different sampling settings"):
        engine.submit(Request("b", [1], (1,), Sampling(max_new_tokens=3)))


def test_new_weights_take_effect_and_carry_their_version(model: Any) -> None:
    """After load_weights the engine samples from the new weights, and says so in policy_version."""
    other = model_of(CONFIGS["llama"])
    engine, asked = TorchEngine(other, (0,)), requests(3, 2, Sampling(max_new_tokens=8))
    before = by_row(engine.generate(asked))
    with torch.no_grad():
        other.get_decoder().layers[0].mlp.down_proj.weight.mul_(-1)
    use_packed_attention(other)
    engine.load_weights(other, 7)
    after = by_row(engine.generate(asked))
    fresh = by_row(TorchEngine(other, (0,)).generate(asked))
    assert {key: row.token_ids for key, row in after.items()} == {key: row.token_ids for key, row in fresh.items()}
    assert {row.policy_version for row in after.values()} == {7}
    assert any(after[key].token_ids != before[key].token_ids for key in after)


@pytest.mark.parametrize("vocabulary", [7, 97, 640, 1031])
@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(1.0, 0, 1.0), (0.5, 0, 1.0), (1.0, 5, 1.0), (1.0, 0, 0.6)]
)
def test_sampling_inverts_the_distribution(vocabulary: int, temperature: float, top_k: int, top_p: float) -> None:
    """Identity: stratified uniforms reproduce the probabilities; logps are those of the filtered distribution."""
    logits = torch.randn(1, vocabulary, generator=torch.Generator().manual_seed(vocabulary)) * 2
    draws = 4000
    uniform = (torch.arange(draws, dtype=torch.double) + 0.5) / draws
    tokens, logps, _ = sample(logits.expand(draws, -1), uniform, temperature, top_k, top_p)
    kept = filter_scores(logits / temperature, top_k, top_p)
    expected = kept.softmax(-1)[0]
    frequency = torch.bincount(tokens, minlength=vocabulary).double() / draws
    assert float((frequency - expected).abs().max()) <= 1.01 / draws
    torch.testing.assert_close(logps, kept.log_softmax(-1)[0][tokens], atol=1e-5, rtol=1e-5)
    if top_k:
        assert int((expected > 0).sum()) == min(top_k, vocabulary)


def test_top_p_keeps_the_smallest_sufficient_set() -> None:
    """Hand value: of (.5, .3, .15, .05), top_p .8 keeps two, .81 three, .5 one (TRL 6789: renormalised logps)."""
    scores = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    for top_p, kept in ((0.8 - 1e-6, 2), (0.81, 3), (0.5 - 1e-6, 1), (0.99, 4)):
        assert int((filter_scores(scores, 0, top_p) > -torch.inf).sum()) == kept
    token, logp, unfiltered = sample(scores, torch.tensor([0.7]), 1.0, 0, 0.79)
    assert token.item() == 1 and logp.item() == pytest.approx(torch.tensor(0.3 / 0.8).log().item(), abs=1e-6)


def test_uniform_of_one_never_picks_an_impossible_token() -> None:
    """Edge: the largest uniform below 1 lands on the last token with mass, though zeros follow it."""
    logits = torch.full((1, 1024), -torch.inf)
    logits[0, [3, 700]] = 0.0
    token, *_ = sample(logits, torch.tensor([1.0 - 2**-53], dtype=torch.double), 1.0, 0, 1.0)
    assert token.item() == 700


def test_seeds_are_paths_not_sums() -> None:
    """Neighbouring paths share nothing, and a path is the same in every process (hand value: BLAKE2b of "a/1")."""
    assert derive_seed("a", 1) == 0xC01606FD5B9D7FB2
    assert derive_seed(0, "rollout", 1) != derive_seed(1, "rollout", 0)
    assert len({derive_seed(run, index) for run in range(50) for index in range(50)}) == 2500


def test_top_p_looks_at_each_row_for_itself() -> None:
    """S8. Oracle: sorting: a peaked row beside a flat one of 4,096 tokens, which needs more than the 1,024 largest."""
    flat = 0.1 * torch.randn(4096, generator=torch.Generator().manual_seed(0))
    peaked = flat.clone()
    peaked[7] = 20.0
    scores = torch.stack([peaked, flat])
    kept = filter_scores(scores, 0, 0.9) > -torch.inf
    for row, keeps in zip(scores, kept, strict=True):
        ordered, places = row.softmax(0).sort(descending=True)
        wanted = places[: int((ordered.cumsum(0) < 0.9).sum()) + 1]
        assert set(keeps.nonzero().flatten().tolist()) == set(wanted.tolist())
    assert int(kept[0].sum()) == 1 and int(kept[1].sum()) > 1024


def test_greedy_logps_are_normalized() -> None:
    """S20. Oracle: log_softmax at temperature 1 of the likeliest token, the first of equals."""
    logits = torch.tensor([[1.0, 3.0, 3.0, -2.0], [0.5, 0.25, 0.0, 0.0]])
    token, logp, unfiltered = sample(logits, torch.zeros(2), 0.0, 3, 0.5)
    assert token.tolist() == [1, 0] and unfiltered is None
    torch.testing.assert_close(logp, logits.log_softmax(-1)[[0, 1], [1, 0]])


@pytest.mark.parametrize(
    ("vocabulary", "block"), [(1024, 512), (513, 171), (511, 511), (512, 512), (37, 37), (31, 0), (257, 257), (521, 0)]
)
def test_blocks_divide_the_vocabulary(vocabulary: int, block: int) -> None:
    """Oracle: by hand: the largest divisor of at most 512; none of fewer than 32."""
    assert _block_size(vocabulary) == block
