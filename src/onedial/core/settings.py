"""`Run`: the settings of a training run, frozen and checked.

Every field is defined here once, with its default, its help text and its allowed values. `onedial.core.settings_file`
reads and writes runs as TOML. A `Run` holds what was asked for; `Run.resolved` fills in what depends on other settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from onedial.core.algorithm import Algorithm
from onedial.core.algorithm_table import ALGORITHMS
from onedial.core.allocator_rules import apply_allocator, choose_allocator, find_allocator_contradictions
from onedial.core.allocator_table import ALLOCATORS, AllocatorRow
from onedial.core.errors import ConfigError
from onedial.core.field_rules import check_fields, get_rules, setting, show_value
from onedial.core.paths import expand_path

LARGEST_RATE = 1e3  # of learning: beyond it, float32 weights overflow after some steps
LARGEST_SEED = 2**63 - 1  # of a TOML integer


@dataclass(frozen=True)
class Run:
    """One training run. Every field has a unit and a reason in its help text (`onedial train --help`)."""

    model: str = setting("smollm2", "'smollm2' (fetched once), a folder, or a Hugging Face name")
    task: Any = setting("arithmetic", "task name, data file, or a task object")
    task_options: Mapping[str, Any] = field(default_factory=dict)
    algorithm: Algorithm = ALGORITHMS["mixed_grpo"]
    allocator: AllocatorRow = ALLOCATORS["row"]
    data: str = setting("", "demonstrations or pairs (a file, or a run's directory) for rows that train on them")
    out: str = setting("", "run directory (default: the first free of runs/ROW-TASK-sSEED, …-2, …)")
    seed: int = setting(0, "seed of everything random", at_least=-LARGEST_SEED, at_most=LARGEST_SEED)
    iterations: int = setting(100, "iterations: rollouts, then an update", at_least=1, resumable=True)
    max_generated_tokens: int = setting(
        0,
        "the run ends after the iteration in which its rollouts reach this many completion tokens; 0 sets no limit",
        at_least=0,
        at_most=LARGEST_SEED,
        resumable=True,
    )
    prompts_per_iteration: int = setting(8, "groups trained on per iteration", at_least=1)
    group_size: int = setting(8, "rollouts per prompt; a row may fix its own", at_least=1)
    plan: str = setting("", "plan file of onedial plan --export onedial:FILE: prompts, and rollouts of each")
    max_new_tokens: int = setting(256, "longest completion, tokens", at_least=1)
    temperature: float = setting(
        1.0,
        "sampling temperature; the policy trained is the one at this temperature",
        at_least=1e-6,
        at_most=1e6,
        note="training at temperature 0 has no gradient",
    )
    top_p: float = setting(
        1.0, "nucleus mass kept when sampling; 1 keeps all", above=0, at_most=1, note="1 switches the filter off"
    )
    top_k: int = setting(0, "most likely tokens kept when sampling; 0 keeps all", at_least=0)
    max_rows: int = setting(64, "completions written at a time by the engine", at_least=1)
    refill_limit: float = setting(
        6.0, "with refill: prompts tried per iteration, at most this times the batch", at_least=1, resumable=True
    )
    on_exhausted: str = setting(
        "train",
        "refill limit reached: train (smaller batch), carry (skip update), stop",
        choices=("train", "carry", "stop"),
        resumable=True,
    )
    lr: float = setting(1e-5, "peak learning rate of AdamW", above=0, at_most=LARGEST_RATE, note="1e-5 is usual")
    critic: str = setting(
        "model",
        "rows with a critic: model (a second model) or head (a layer on the policy, detached)",
        choices=("model", "head"),
    )
    critic_lr: float = setting(
        0.0,
        "peak learning rate of the critic; 0 takes ten times lr for a model, 1e-3 for a head",
        at_least=0,
        at_most=LARGEST_RATE,
    )
    schedule: str = setting(
        "constant",
        "learning rate after warm-up: constant, linear (to 0) or cosine (to 0)",
        choices=("constant", "linear", "cosine"),
    )
    warmup: int = setting(0, "iterations over which the learning rate rises linearly", at_least=0)
    weight_decay: float = setting(0.0, "AdamW's decoupled decay", at_least=0, at_most=LARGEST_RATE)
    beta1: float = setting(0.9, "AdamW's first moment decay", at_least=0, below=1, note="0.9 is usual")
    beta2: float = setting(
        0.99,
        "AdamW's second moment decay; 0.99 suits runs of 10 to 1000 steps",
        at_least=0,
        below=1,
        note="0.99 is usual here",
    )
    grad_clip: float = setting(1.0, "largest gradient norm; 0 switches clipping off", at_least=0)
    micro_batch_tokens: int = setting(0, "tokens per forward and backward pass; 0 plans it from memory_gb", at_least=0)
    memory_gb: float = setting(
        0.0, "memory to plan micro-batches for, GB; 0 takes three quarters of the machine's", at_least=0, at_most=1e6
    )
    activation_checkpointing: bool = setting(
        False, "recompute activations in backward: less memory, about 1/3 more time"
    )
    lora_rank: int = setting(0, "train LoRA adapters of this rank instead of all weights; 0 trains all", at_least=0)
    lora_alpha: float = setting(0.0, "LoRA scale numerator; 0 means twice the rank", at_least=0)
    lora_targets: str = setting("all-linear", "modules to adapt, comma-separated, or all-linear")
    device: str = setting("auto", "auto, cpu, cuda, cuda:1 …")
    dtype: str = setting(
        "auto",
        "compute type: auto (bfloat16 where the machine has it), bfloat16, float32",
        choices=("auto", "bfloat16", "float32"),
    )
    threads: int = setting(
        0,
        "CPU threads for torch; 0 takes one per free core",
        at_least=0,
        at_most=4096,
        resumable=True,
    )
    eval_prompts: int = setting(100, "held-out prompts per evaluation; 0 switches evaluation off", at_least=0)
    eval_samples: int = setting(4, "completions per held-out prompt", at_least=1)
    eval_every: int = setting(
        0, "iterations between evaluations; 0 evaluates before and after only", at_least=0, resumable=True
    )
    checkpoint_every: int = setting(
        10, "iterations between checkpoints; rollouts are saved every iteration", at_least=1, resumable=True
    )
    keep_checkpoints: int = setting(1, "number of newest checkpoints to keep", at_least=1, resumable=True)
    probe: bool = setting(
        False,
        "every tenth iteration: gradient norms of groups, agreement of their halves, ρ; under a tenth of the time",
    )
    verifier_workers: int = setting(2, "processes that judge completions", at_least=1, at_most=1024)
    verifier_timeout_s: float = setting(10.0, "seconds after which a verifier is killed", above=0, at_most=1e6)
    verifier_memory_mb: int = setting(2048, "memory a verifier may take beyond its start", at_least=64)
    unsafe_verifiers: bool = setting(
        False,
        "judge without a sandbox: verifiers get your environment, files and network",
        resumable=True,
        saved=False,
    )
    check_files: bool = setting(
        True,
        "when resuming: compare every file that is read with its recorded size and hash",
        resumable=True,
        saved=False,
    )
    track: str = setting("", "also log to: tensorboard, wandb, trackio (comma-separated)", resumable=True)
    trust_remote_code: bool = setting(
        False, "run the Python code that comes with a model; look at it first", resumable=True, saved=False
    )

    def __post_init__(self) -> None:
        if not isinstance(self.algorithm, Algorithm):
            raise ConfigError(
                f"algorithm={show_value(self.algorithm)}: must be a row, as in onedial.ALGORITHMS['dapo'] (rows: "
                f"{', '.join(ALGORITHMS)})"
            )
        if not isinstance(self.allocator, AllocatorRow):
            raise ConfigError(
                f"allocator={show_value(self.allocator)}: must be a row, as in onedial.ALLOCATORS['adaptive'] (rows: "
                f"{', '.join(ALLOCATORS)})"
            )
        if not isinstance(self.task_options, Mapping):
            raise ConfigError(f"task_options={show_value(self.task_options)}: must be a mapping of options of the task")
        check_fields(self)
        for reason in find_run_contradictions(self):
            raise ConfigError(reason)
        apply_allocator(self.algorithm, self.allocator)

    def resolved(self, *, micro_batch_tokens: int | None = None) -> Run:
        """A copy in which everything that depends on other settings is filled in, as the trainer uses it.

        If the row fixes a group size, it is used (2-GRPO has groups of two, whatever the default of the run). The
        length budget of `fixed_length` is max_new_tokens unless the row sets one. `micro_batch_tokens` comes from the
        memory plan. An allocator named by the run replaces the row's refill.
        """
        row = apply_allocator(self.algorithm, self.allocator)
        if row.aggregate == "fixed_length" and row.length_budget is None:
            row = replace(row, length_budget=self.max_new_tokens)
        return replace(
            self,
            algorithm=row,
            allocator=choose_allocator(row, self.allocator),
            group_size=row.group_size or self.group_size,
            micro_batch_tokens=self.micro_batch_tokens if micro_batch_tokens is None else micro_batch_tokens,
        )

    @property
    def task_name(self) -> str:
        """Short name of the task for folders and headings."""
        name = self.task if isinstance(self.task, str) else getattr(self.task, "name", type(self.task).__name__)
        return Path(str(name)).stem.replace(":", "-")

    @property
    def directory(self) -> Path:
        """The run directory; without `out` a name made of row, task and seed."""
        if self.out:
            return expand_path(self.out, "out")
        return Path(f"runs/{self.algorithm.name}-{self.task_name}-s{self.seed}")

    def with_free_directory(self) -> Run:
        """The run with `out` set: without one, the first name that is free, so that a command can be repeated."""
        if self.out:
            return self
        names = [self.directory, *(self.directory.with_name(f"{self.directory.name}-{n}") for n in range(2, 10_000))]
        return replace(self, out=str(next(name for name in names if not name.exists())))


def find_run_contradictions(run: Run) -> list[str]:
    """Reasons why the settings of a run cannot be combined; empty for a valid run."""
    row = run.algorithm
    group_size = row.group_size or run.group_size
    why = "fixes it" if row.generates else "samples nothing"
    rules = [
        (
            group_size == 1 and row.baseline in ("group_mean", "leave_one_out"),
            f"group_size=1: baseline={row.baseline!r} compares rollouts of one prompt, so a group of "
            "one teaches nothing; set group_size ≥ 2 or use algorithm 'reinforce'",
        ),
        (
            row.pass_k >= group_size > 1,
            f"group_size={group_size}: algorithm.pass_k={row.pass_k} compares sets of {row.pass_k} rollouts with and "
            "without one; raise group_size above pass_k",
        ),
        (
            bool(run.data) and row.generates,
            f"data={run.data!r}: algorithm {row.name!r} trains on what the model writes; prompts come "
            "from task=FILE, and data is for rows with source 'dataset' or 'pairs' (sft, dpo)",
        ),
        (
            bool(run.plan) and (row.group_size is not None or not row.generates),
            f"plan={run.plan!r}: a plan gives each prompt its own number of rollouts, and algorithm "
            f"{row.name!r} {why}; use another row, or no plan",
        ),
        (
            row.critic_warmup >= run.iterations,
            f"algorithm.critic_warmup={row.critic_warmup}: must be less than iterations={run.iterations}, because in "
            "those iterations only the critic learns; lower it, or raise iterations",
        ),
        (
            run.max_generated_tokens > 0 and not row.generates,
            f"max_generated_tokens={run.max_generated_tokens}: algorithm {row.name!r} generates nothing; "
            "set iterations instead",
        ),
        (
            run.max_generated_tokens > 0 and run.schedule != "constant",
            f"max_generated_tokens={run.max_generated_tokens}: schedule={run.schedule!r} falls to 0 at the last of "
            "iterations, which such a run does not reach; use schedule='constant'",
        ),
        (
            run.probe and not row.generates,
            f"probe=true: algorithm {row.name!r} has no groups of its own completions to probe; leave it out",
        ),
        (
            row.overlong_buffer > run.max_new_tokens,
            f"algorithm.overlong_buffer={row.overlong_buffer}: must not exceed max_new_tokens={run.max_new_tokens}",
        ),
    ]
    rules += find_allocator_contradictions(row, run.allocator, plan=run.plan, group_size=group_size)
    return [reason for broken, reason in rules if broken]


RUN_RULES = get_rules(Run)
"""The rule of every field that a command line or a file can set by its name."""
PLAIN_FIELDS = tuple(RUN_RULES)
RESUMABLE = tuple(name for name, rule in RUN_RULES.items() if rule.resumable)
"""What a resumed run may change."""
assert set(PLAIN_FIELDS) | {"task_options", "algorithm", "allocator"} == {part.name for part in fields(Run)}
