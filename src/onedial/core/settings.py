"""`Run`: everything a training run was told, frozen and checked, from TOML and the command line.

Precedence: defaults < TOML file < command line. `[task]` holds the task's name and options, `[algorithm]` the
row's name and any cells that differ from it:

    model = "smollm2"
    [task]
    name = "arithmetic"
    levels = "add1,mul1"
    [algorithm]
    row = "dapo"
    clip_high = 0.3

On the command line the same are `--task arithmetic --task.levels add1,mul1 --algorithm.clip_high 0.3`.
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.exceptions import ParseError

from onedial import __version__
from onedial.core.algorithm import Algorithm
from onedial.core.algorithm_table import ALGORITHMS, get_algorithm
from onedial.core.errors import ConfigError, nearest


def _cell(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Run:
    """One training run. Every field has a unit and a reason in its help text (`onedial train --help`)."""

    model: str = _cell("smollm2", "'smollm2' (fetched once), a folder, or a Hugging Face name")
    task: Any = _cell("arithmetic", "task name, data file, or a task object")
    task_options: Mapping[str, Any] = field(default_factory=dict, metadata={"help": "options of the task"})
    algorithm: Algorithm = field(default=ALGORITHMS["dapo"], metadata={"help": "row of the table"})
    data: str = _cell("", "demonstrations or pairs (a file, or a run's directory) for rows that train on them")
    out: str = _cell("", "run directory (default: the first free of runs/ROW-TASK-sSEED, …-2, …)")
    seed: int = _cell(0, "seed of everything random")
    iterations: int = _cell(100, "rounds of rollouts and updates")
    prompts_per_iteration: int = _cell(8, "groups trained on per iteration")
    group_size: int = _cell(8, "rollouts per prompt; a row may fix its own")
    plan: str = _cell("", "plan file of onedial plan --export onedial:FILE: prompts, and rollouts of each")
    max_new_tokens: int = _cell(256, "longest completion, tokens")
    temperature: float = _cell(1.0, "sampling temperature; the policy trained is the one at this temperature")
    top_p: float = _cell(1.0, "nucleus mass kept when sampling; 1 keeps all")
    top_k: int = _cell(0, "likeliest tokens kept when sampling; 0 keeps all")
    max_rows: int = _cell(64, "completions written at a time by the engine")
    refill_limit: float = _cell(6.0, "with refill: prompts tried per iteration, at most this times the batch")
    on_exhausted: str = _cell("train", "refill limit reached: train (smaller batch), carry (skip update), stop")
    lr: float = _cell(1e-5, "peak learning rate of AdamW")
    critic: str = _cell("model", "rows with a critic: model (a second model) or head (a layer on the policy, detached)")
    critic_lr: float = _cell(0.0, "peak learning rate of the critic; 0 takes ten times lr for a model, 1e-3 for a head")
    schedule: str = _cell("constant", "learning rate after warm-up: constant, linear (to 0) or cosine (to 0)")
    warmup: int = _cell(0, "iterations over which the learning rate rises linearly")
    weight_decay: float = _cell(0.0, "AdamW's decoupled decay")
    beta1: float = _cell(0.9, "AdamW's first moment decay")
    beta2: float = _cell(0.99, "AdamW's second moment decay; 0.99 suits runs of 10 to 1000 steps")
    grad_clip: float = _cell(1.0, "largest gradient norm; 0 switches clipping off")
    micro_batch_tokens: int = _cell(0, "tokens per forward and backward pass; 0 plans it from memory_gb")
    memory_gb: float = _cell(0.0, "memory to plan micro-batches for, GB; 0 takes three quarters of the machine's")
    activation_checkpointing: bool = _cell(False, "recompute activations in backward: less memory, about 1/3 more time")
    lora_rank: int = _cell(0, "train LoRA adapters of this rank instead of all weights; 0 trains all")
    lora_alpha: float = _cell(0.0, "LoRA scale numerator; 0 means twice the rank")
    lora_targets: str = _cell("all-linear", "modules to adapt, comma-separated, or all-linear")
    device: str = _cell("auto", "auto, cpu, cuda, cuda:1 …")
    dtype: str = _cell("auto", "compute type: auto (bfloat16 where the machine has it), bfloat16, float32")
    threads: int = _cell(0, "CPU threads for torch; 0 takes one per core")
    eval_prompts: int = _cell(100, "held-out prompts per evaluation; 0 switches evaluation off")
    eval_samples: int = _cell(4, "completions per held-out prompt")
    eval_every: int = _cell(0, "iterations between evaluations; 0 evaluates before and after only")
    checkpoint_every: int = _cell(10, "iterations between checkpoints; rollouts are saved every iteration")
    keep_checkpoints: int = _cell(1, "checkpoints kept; the newest are")
    verifier_workers: int = _cell(2, "processes that judge completions")
    verifier_timeout_s: float = _cell(10.0, "seconds after which a verifier is killed")
    verifier_memory_mb: int = _cell(2048, "memory a verifier may take beyond its start")
    unsafe_verifiers: bool = _cell(False, "judge without a sandbox: verifiers get your environment, files and network")
    track: str = _cell("", "also log to: tensorboard, wandb, trackio (comma-separated)")

    def __post_init__(self) -> None:
        for name in PLAIN_FIELDS:
            value = getattr(self, name)
            if not _has_kind(value, RUN_FIELDS[name].type):
                raise ConfigError(f"{name}={value!r}: must be {_KINDS[str(RUN_FIELDS[name].type)]}")
        for name, fine, allowed in _CHECKS:
            value = getattr(self, name)
            if not fine(value):
                raise ConfigError(f"{name}={value!r}: {allowed}")
        # a row that fixes its group size wins, so that 2-GRPO is 2-GRPO whatever the run's default
        if self.algorithm.group_size is not None:
            object.__setattr__(self, "group_size", self.algorithm.group_size)
        elif self.group_size == 1 and self.algorithm.baseline in ("group_mean", "leave_one_out"):
            raise ConfigError(
                f"group_size=1: baseline={self.algorithm.baseline!r} compares rollouts of one prompt, so a group of "
                "one teaches nothing; set group_size ≥ 2 or use algorithm 'reinforce'"
            )
        if self.data and self.algorithm.generates:
            raise ConfigError(
                f"data={self.data!r}: algorithm {self.algorithm.name!r} trains on what the model writes; prompts come "
                "from task=FILE, and data is for rows with source 'dataset' or 'pairs' (sft, dpo)"
            )
        if self.plan and (self.algorithm.group_size is not None or not self.algorithm.generates):
            why = "fixes it" if self.algorithm.generates else "samples nothing"
            raise ConfigError(
                f"plan={self.plan!r}: a plan gives each prompt its own number of rollouts, and algorithm "
                f"{self.algorithm.name!r} {why}; use another row, or no plan"
            )
        if self.algorithm.aggregate == "fixed_length" and self.algorithm.length_budget is None:
            object.__setattr__(self, "algorithm", replace(self.algorithm, length_budget=self.max_new_tokens))
        if self.algorithm.critic_warmup >= self.iterations:
            raise ConfigError(
                f"algorithm.critic_warmup={self.algorithm.critic_warmup}: must be less than iterations="
                f"{self.iterations}, because in those iterations only the critic learns; lower it, or raise iterations"
            )
        if self.algorithm.overlong_buffer > self.max_new_tokens:
            raise ConfigError(
                f"algorithm.overlong_buffer={self.algorithm.overlong_buffer}: must not exceed "
                f"max_new_tokens={self.max_new_tokens}"
            )

    @property
    def task_name(self) -> str:
        """Short name of the task for folders and headings."""
        name = self.task if isinstance(self.task, str) else getattr(self.task, "name", type(self.task).__name__)
        return Path(str(name)).stem.replace(":", "-")

    @property
    def directory(self) -> Path:
        """Where the run lies; without `out` a name made of row, task and seed."""
        return Path(self.out or f"runs/{self.algorithm.name}-{self.task_name}-s{self.seed}")

    def placed(self) -> Run:
        """The run with its directory settled: without `out` the first name that is free, so that repeating is safe."""
        if self.out:
            return self
        names = [self.directory, *(self.directory.with_name(f"{self.directory.name}-{n}") for n in range(2, 10_000))]
        return replace(self, out=str(next(name for name in names if not name.exists())))


def _positive(allowed: str = "must be positive") -> tuple[Any, str]:
    return (lambda value: value > 0), allowed


def _least(least: float) -> tuple[Any, str]:
    return (lambda value: value >= least), f"must be at least {least:g}"


def _among(*allowed: str) -> tuple[Any, str]:
    return (lambda value: value in allowed), f"must be one of {', '.join(allowed)}"


_CHECKS: list[tuple[str, Any, str]] = [
    ("iterations", *_least(1)),
    ("prompts_per_iteration", *_least(1)),
    ("group_size", *_least(1)),
    ("max_new_tokens", *_least(1)),
    ("temperature", *_positive("must be positive; training at temperature 0 has no gradient")),
    ("top_p", lambda value: 0 < value <= 1, "must lie in (0, 1]; 1 switches the filter off"),
    ("top_k", *_least(0)),
    ("max_rows", *_least(1)),
    ("refill_limit", *_least(1)),
    ("on_exhausted", *_among("train", "carry", "stop")),
    ("lr", *_positive()),
    ("critic", *_among("model", "head")),
    ("critic_lr", *_least(0)),
    ("schedule", *_among("constant", "linear", "cosine")),
    ("warmup", *_least(0)),
    ("weight_decay", *_least(0)),
    ("beta1", lambda value: 0 <= value < 1, "must lie in [0, 1); 0.9 is usual"),
    ("beta2", lambda value: 0 <= value < 1, "must lie in [0, 1); 0.99 is usual here"),
    ("grad_clip", *_least(0)),
    ("micro_batch_tokens", *_least(0)),
    ("memory_gb", *_least(0)),
    ("lora_rank", *_least(0)),
    ("lora_alpha", *_least(0)),
    ("dtype", *_among("auto", "bfloat16", "float32")),
    ("threads", *_least(0)),
    ("eval_prompts", *_least(0)),
    ("eval_samples", *_least(1)),
    ("eval_every", *_least(0)),
    ("checkpoint_every", *_least(1)),
    ("keep_checkpoints", *_least(1)),
    ("verifier_workers", *_least(1)),
    ("verifier_timeout_s", *_positive()),
    ("verifier_memory_mb", *_least(64)),
]

_KINDS = {"int": "int", "float": "float (a finite number)", "bool": "bool (true or false)", "str": "str (text)"}


def _has_kind(value: Any, kind: Any) -> bool:
    """Whether a value is of a field's type; numbers must be finite."""
    if kind in ("int", "float"):
        right = int if kind == "int" else (int, float)
        return isinstance(value, right) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, {"bool": bool, "str": str}.get(kind, object))


RUN_FIELDS = {cell.name: cell for cell in fields(Run)}
PLAIN_FIELDS = [name for name in RUN_FIELDS if name not in ("task_options", "algorithm")]
_ROW_FIELDS = {cell.name: cell for cell in fields(Algorithm)}
# cells of run.toml files and configurations written before they were renamed
RENAMED = {
    "level": "ratio_level",
    "importance": "sampler_correction",
    "importance_level": "correction_level",
    "importance_cap": "correction_cap",
    "importance_floor": "correction_floor",
}


def make_run(settings: Mapping[str, Any], *, where: str = "") -> Run:
    """A checked `Run` from nested settings as they stand in TOML.

    Strings are converted to a field's type. Raises ConfigError naming `where`, the key and the nearest allowed one.
    """
    check_keys(settings, where)
    values: dict[str, Any] = {}
    for key, value in settings.items():
        if key == "task" and isinstance(value, Mapping):
            options = dict(value)
            values["task"] = options.pop("name", RUN_FIELDS["task"].default)
            values["task_options"] = options
        elif key == "algorithm":
            values["algorithm"] = _row(value, where)
        else:
            values[key] = _convert(key, value, Run, where)
    return Run(**values)


def check_keys(settings: Mapping[str, Any], where: str) -> None:
    """Raises ConfigError naming `where`, the key and the nearest one, for a setting or cell that does not exist."""
    allowed = [*PLAIN_FIELDS, "algorithm"]
    for key in settings:
        if key not in allowed:
            raise ConfigError(f"{where}unknown setting {key!r}{nearest(key, allowed)} (onedial train --help lists all)")
    row = settings.get("algorithm")
    for key in row if isinstance(row, Mapping) else ():
        if key not in _ROW_FIELDS and key != "row":
            hint = f"; it is called {RENAMED[key]!r} now" if key in RENAMED else nearest(key, _ROW_FIELDS)
            raise ConfigError(f"{where}unknown cell algorithm.{key}{hint}")


def _row(value: Any, where: str) -> Algorithm:
    if isinstance(value, str | Algorithm):
        return get_algorithm(value) if isinstance(value, str) else value
    cells = dict(value)
    row = get_algorithm(str(cells.pop("row", "dapo")))
    return replace(row, **{key: _convert(key, cell, Algorithm, where) for key, cell in cells.items()})


def _convert(key: str, value: Any, owner: type, where: str) -> Any:
    """The value in the field's type; TOML numbers and command-line strings both arrive here."""
    hint = typing.get_type_hints(owner)[key]
    kinds = [kind for kind in typing.get_args(hint) if isinstance(kind, type)] if _is_union(hint) else [hint]
    if hint is Any:
        return value
    if value is None or (isinstance(value, str) and value.lower() == "none" and type(None) in kinds):
        return None
    for kind in (bool, int, float, str):
        if kind in kinds:
            converted = _as(kind, value)
            if converted is not None:
                return converted
    names = " or ".join(kind.__name__ for kind in kinds if kind is not type(None))
    raise ConfigError(f"{where}{key}={value!r}: must be {names}")


def _is_union(hint: Any) -> bool:
    return isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union


def _as(kind: type, value: Any) -> Any:
    if kind is bool:
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        return value if isinstance(value, bool) else words.get(str(value).lower())
    if isinstance(value, bool):
        return None
    if kind is str:
        return str(value) if isinstance(value, str) else None
    if kind is int and isinstance(value, int):
        return value
    try:
        if kind is int and isinstance(value, str) and value.strip().lstrip("+-").isdecimal():
            return int(value)  # not through a float, which rounds beyond 2⁵³
        number = float(value)
        return number if kind is float else int(number) if number == int(number) else None
    except (TypeError, ValueError, OverflowError):
        return None


def read_toml(path: Path) -> dict[str, Any]:
    """The settings of a TOML file as plain values.

    Raises ConfigError naming file and line when it is missing or broken.
    """
    try:
        return tomlkit.parse(path.read_text(encoding="utf-8")).unwrap()
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    except ParseError as error:
        raise ConfigError(f"{path}:{error.line}: not valid TOML: {error}") from error


def write_toml(run: Run, path: Path) -> None:
    """Writes the whole run, every field and every cell of the row, so that the file alone repeats it."""
    path.write_text(f"# onedial {__version__}\n{to_toml(run)}", encoding="utf-8")


def to_toml(run: Run) -> str:
    """The run as TOML text; a live task or baseline is written by name."""
    document = tomlkit.document()
    for name in PLAIN_FIELDS:
        if name != "task":
            document[name] = getattr(run, name)
    task = run.task if isinstance(run.task, str) else run.task_name
    document["task"] = {"name": task, **{key: _plain(value) for key, value in run.task_options.items()}}
    row = ALGORITHMS.get(run.algorithm.name)
    cells = {key: "none" if value is None else value for key, value in run.algorithm.cells().items()}
    document["algorithm"] = {"row": row.name, **cells} if row else cells
    return tomlkit.dumps(document)


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool | list) else str(value)


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Later settings over earlier ones; `task` and `algorithm` tables merge key by key, a new name starts afresh."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            head = {"task": "name", "algorithm": "row"}.get(key)
            if head is None:
                merged[key] = value
                continue
            new = dict(value) if isinstance(value, Mapping) else {head: value}
            old = merged.get(key, {})
            merged[key] = new if head in new and new[head] != old.get(head) else {**old, **new}
    return merged


def default_of(name: str) -> Any:
    """The default of a field, for help texts."""
    cell = RUN_FIELDS[name]
    return cell.default if cell.default is not MISSING else None
