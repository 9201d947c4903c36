"""What every test file may use. Nothing here needs the network, except `smollm2` on a machine that never fetched it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Before transformers is imported: a test that reaches for a hub is a mistake, and should fail at once.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Small tensors: a second thread would only spin. Tests that train the real model ask torch for more themselves.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Of several test processes each gets a core of its own: threads of two that wait for one another would only spin.
if (worker := os.environ.get("PYTEST_XDIST_WORKER", "")) and hasattr(os, "sched_setaffinity"):
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from onedial.core.settings import Run

# The default suite draws the same examples every time, so that it never turns red by luck. FUZZ=5000 draws as many at
# random in the tests that set no number of their own, and prints what reproduces a failure. No example has a deadline:
# on a busy machine any may be slow.
FUZZ = int(os.environ.get("FUZZ", "0"))
settings.register_profile("same", derandomize=True, deadline=None, database=None)
settings.register_profile("wide", max_examples=FUZZ or 100, print_blob=True, deadline=None, database=None)
settings.load_profile("wide" if FUZZ else "same")

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the checkout; tests that want it are skipped where it is absent."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}")
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random two-layer Llama of 64 dimensions and a byte tokenizer; built in well under a second."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny_model")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {token: index for index, token in enumerate(["<|end|>", "<|turn|>", *alphabet])}
    backend = Tokenizer(models.BPE(vocab=words, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>", pad_token="<|end|>")
    tokenizer.chat_template = (
        "{% for message in messages %}<|turn|>{{ message.role }}\n{{ message.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(words),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            eos_token_id=0,
            pad_token_id=0,
            bos_token_id=None,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The real default model, fetched into the user's cache if it is not there. Only for slow tests."""
    from onedial.training.models import resolve

    return Path(resolve("smollm2"))


@pytest.fixture
def small_run(tiny_model: Path, tmp_path: Path) -> Run:
    """Four iterations of the tiny model in float32 with checkpoints; tests replace what they are about."""
    return tiny_run(tiny_model, tmp_path / "run")


def tiny_run(model: Path, out: Path, **settings: Any) -> Run:
    """Settings of a run of the tiny model that takes seconds."""
    from onedial.core.algorithm_table import ALGORITHMS
    from onedial.core.settings import Run
    from train_tasks import Early

    return Run(**{
        "model": str(model), "task": Early(), "algorithm": ALGORITHMS["mixed_grpo"], "out": str(out),
        "iterations": 4, "prompts_per_iteration": 3, "group_size": 4, "max_new_tokens": 6, "lr": 1e-3,
        "dtype": "float32", "threads": 1, "micro_batch_tokens": 2048, "eval_prompts": 0, "checkpoint_every": 2,
        "verifier_workers": 1, **settings,
    })  # fmt: skip


@pytest.fixture(scope="session")
def trained_run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory written by training itself: 16 iterations of the tiny model with evaluations; three seconds.

    Tests copy it before they change anything in it.
    """
    from onedial.training.trainer.loop import train

    settings = tiny_run(
        tiny_model,
        tmp_path_factory.mktemp("trained") / "early-mixed",
        iterations=16,
        prompts_per_iteration=8,
        group_size=8,
        lr=5e-3,
        eval_prompts=20,
        eval_samples=8,
        eval_every=4,
        checkpoint_every=16,
    )
    return train(settings).directory
