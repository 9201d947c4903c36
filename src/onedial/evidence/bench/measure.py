"""The figures: which there are and how each is measured.

Both sides are measured alternately: ceiling, ours, the other, ceiling, ours, the other … The first turn of each is not
counted.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from onedial.core.errors import ConfigError, suggest
from onedial.core.system import available_cores, find_version
from onedial.evidence.bench.busy import run_beside_busy_process
from onedial.evidence.bench.figure import Figure
from onedial.evidence.bench.flops import count_weights, decode_flops, update_flops
from onedial.evidence.bench.machine import Ceiling, measure_in_turn
from onedial.evidence.bench.ours import Generation, Update, open_policy
from onedial.evidence.bench.peer_process import Worker, WorkerFailed
from onedial.evidence.bench.peer_transformers import TransformersGeneration
from onedial.evidence.bench.workload import GENERATE, LONG, MODES, STEP, Conditions, Workload, rows_per_pass
from onedial.training.cores import set_threads
from onedial.training.trainer.cpu import prepare_process, trim_memory_beyond

# sub-command → its figures
FIGURES: dict[str, tuple[str, ...]] = {
    "generate": ("generate_vs_transformers", "generate_vs_vllm", "decode_ceiling_share"),
    "update": ("update_ceiling_share",),
    "busy": ("generate_beside_busy",),
    "step": (*(f"step_vs_trl_{mode}" for mode in MODES), "step_vs_trl_long_prompt"),
    "memory": ("step_memory_vs_trl",),
}
CEILING = "GEMM ceiling"
Note = Callable[[str], None]


def select_figures(command: str, wanted: str) -> list[str]:
    """The figures of a sub-command (or of `all`), or those named in a comma-separated list.

    Raises ConfigError for a name that is not among them.
    """
    names = [name for part, figures in FIGURES.items() if command in (part, "all") for name in figures]
    chosen = [name.strip() for name in wanted.split(",") if name.strip()]
    for name in chosen:
        if name not in names:
            allowed = ", ".join(names)
            raise ConfigError(
                f"--figures {name!r}: not a figure of {command}{suggest(name, names)}; there are {allowed}"
            )
    return [name for name in names if name in chosen] if chosen else names


def measure(conditions: Conditions, names: Sequence[str], note: Note) -> Iterator[Figure]:
    """Measures the figures named, in order, and yields each as soon as it is known.

    If another library is absent or fails, its figure is left unmeasured, with the reason.
    """
    prepare_process(conditions.threads)
    for name, take in _IN_PROCESS.items():
        if name in names:
            note(name)
            yield take(conditions)
            gc.collect()
            trim_memory_beyond(0)
    modes = [mode for mode in MODES if f"step_vs_trl_{mode}" in names]
    if modes:
        note(", ".join(f"step_vs_trl_{mode}" for mode in modes))
        yield from steps_vs_trl(conditions, STEP, {mode: f"step_vs_trl_{mode}" for mode in modes})
    if "step_vs_trl_long_prompt" in names:
        note("step_vs_trl_long_prompt")
        yield from steps_vs_trl(conditions, LONG, {"all_mixed": "step_vs_trl_long_prompt"})
    if "step_memory_vs_trl" in names:
        note("step_memory_vs_trl")
        yield step_memory_vs_trl(conditions)


def generate_vs_transformers(conditions: Conditions) -> Figure:
    """Generation of the whole workload against `generate`, both in this process."""
    workload = GENERATE.fitted(conditions.context)
    ours = Generation(conditions, workload, open_policy(conditions, workload).model)
    peer = TransformersGeneration(conditions, workload)
    series = measure_in_turn([Ceiling(conditions), ours.tokens_per_s, peer.tokens_per_s], conditions.repeats)
    return _figure("generate_vs_transformers", "tokens/s", _named("transformers"), workload, series)


def generate_vs_vllm(conditions: Conditions) -> Figure:
    """Generation of the whole workload against vLLM in a process of its own."""
    workload = GENERATE.fitted(conditions.context)
    blank = Figure("generate_vs_vllm", "tokens/s", _named("vllm"), str(workload))
    if (reason := _absent("vllm")) is not None:
        return _unmeasured(blank, reason)
    ours = Generation(conditions, workload, open_policy(conditions, workload).model)
    try:
        with Worker("vllm", conditions, workload) as peer:
            theirs = partial(_tokens_per_s, peer, workload)
            series = measure_in_turn([Ceiling(conditions), ours.tokens_per_s, theirs], conditions.repeats)
    except WorkerFailed as error:
        return _unmeasured(blank, str(error))
    return _figure(blank.figure, blank.unit, blank.other_name, workload, series)


def _tokens_per_s(worker: Worker, workload: Workload) -> float:
    return workload.tokens / worker.ask("generate").seconds


def decode_ceiling_share(conditions: Conditions) -> Figure:
    """Required arithmetic per second of decode steps with all rows active, divided by that of a matrix product."""
    workload = GENERATE.fitted(conditions.context)
    policy = open_policy(conditions, workload)
    ours = Generation(conditions, workload, policy.model)
    flops = decode_flops(count_weights(policy.model), workload.rows)
    steps = min(conditions.decode_steps, conditions.context - workload.prompt_tokens - 5)
    series = measure_in_turn(
        [Ceiling(conditions), lambda: flops / ours.decode_seconds(steps) / 1e9], conditions.repeats
    )
    work = f"{workload.rows} rows after {workload.prompt_tokens} prompt tokens, {steps} steps, sampling included"
    return _share("decode_ceiling_share", work, series)


def update_ceiling_share(conditions: Conditions) -> Figure:
    """Required arithmetic per second of an update whose groups are all mixed, divided by that of a matrix product; the
    optimizer's time counts."""
    workload = STEP.fitted(conditions.context)
    policy = open_policy(conditions, workload)
    ours = Update(conditions, workload, policy)
    batch = ours.batch
    flops = update_flops(count_weights(policy.model), len(batch.prompt_tokens), len(batch.tokens))
    series = measure_in_turn([Ceiling(conditions), lambda: flops / ours.seconds() / 1e9], conditions.repeats)
    return _share("update_ceiling_share", f"{workload}, all groups mixed, optimizer step included", series)


def generate_beside_busy(conditions: Conditions) -> Figure:
    """Generation of the whole workload while one process keeps a core busy, compared with a quiet machine.

    As in training, where nobody sets the number of threads: one per core that others leave free.
    """
    set_threads(0 if conditions.threads == available_cores() else conditions.threads)
    workload = GENERATE.fitted(conditions.context)
    ours = Generation(conditions, workload, open_policy(conditions, workload).model)
    beside = partial(run_beside_busy_process, ours.tokens_per_s)
    series = measure_in_turn([Ceiling(conditions), beside, ours.tokens_per_s], conditions.repeats)
    return _figure("generate_beside_busy", "tokens/s", "ours on a quiet machine", workload, series)


_IN_PROCESS: dict[str, Callable[[Conditions], Figure]] = {
    "generate_vs_transformers": generate_vs_transformers,
    "generate_vs_vllm": generate_vs_vllm,
    "decode_ceiling_share": decode_ceiling_share,
    "update_ceiling_share": update_ceiling_share,
    "generate_beside_busy": generate_beside_busy,
}


def steps_vs_trl(conditions: Conditions, workload: Workload, names: dict[str, str]) -> list[Figure]:
    """Whole steps (generation, verdicts, update) against TRL's, for each mode; both stay in memory throughout."""
    workload = workload.fitted(conditions.context)
    passes = workload.rows // rows_per_pass(workload, conditions.peer_rows)
    split = f", TRL in {passes} passes" if passes > 1 else ""
    work = {mode: f"{workload}, {mode.replace('_', ' ')}{split}" for mode in names}
    blanks = [Figure(name, "s", _named("trl"), work[mode]) for mode, name in names.items()]
    if (reason := _absent("trl")) is not None:
        return [_unmeasured(blank, reason) for blank in blanks]
    ceiling = Ceiling(conditions)
    try:
        with Worker("ours", conditions, workload) as ours, Worker("trl", conditions, workload) as peer:
            runners: list[Callable[[], float]] = []
            for mode in names:
                runners += [ceiling, partial(_step, ours, mode), partial(_step, peer, mode)]
            # one turn of warm-up is enough for all modes: the work of each is part of the first one's
            for runner in runners[:3]:
                runner()
            series = measure_in_turn(runners, conditions.repeats, warm=False)
    except WorkerFailed as error:
        if error.name == "ours":
            raise
        return [_unmeasured(blank, str(error)) for blank in blanks]
    triples = [series[start : start + 3] for start in range(0, len(series), 3)]
    return [
        Figure(blank.figure, blank.unit, blank.other_name, blank.workload, tuple(own), tuple(other), tuple(gemm))
        for blank, (gemm, own, other) in zip(blanks, triples, strict=True)
    ]


def _step(worker: Worker, mode: str) -> float:
    return worker.ask(mode).seconds


def step_memory_vs_trl(conditions: Conditions) -> Figure:
    """Peak memory of a process that makes two all-mixed steps, including loading, against TRL's."""
    workload = STEP.fitted(conditions.context)
    blank = Figure("step_memory_vs_trl", "GB", _named("trl"), f"{workload}, all mixed, two steps")
    if (reason := _absent("trl")) is not None:
        return _unmeasured(blank, reason)
    peaks: dict[str, list[float]] = {"ours": [], "trl": []}
    try:
        for _ in range(max(1, conditions.repeats // 3)):  # memory hardly varies
            for name, values in peaks.items():
                with Worker(name, conditions, workload) as worker:
                    worker.ask("all_mixed")
                    values.append(worker.ask("all_mixed").peak_bytes / 1e9)
    except WorkerFailed as error:
        if error.name == "ours":
            raise
        return _unmeasured(blank, str(error))
    return Figure(blank.figure, "GB", blank.other_name, blank.workload, tuple(peaks["ours"]), tuple(peaks["trl"]))


def _figure(name: str, unit: str, other_name: str, workload: Workload, series: list[list[float]]) -> Figure:
    gemm, own, other = map(tuple, series)
    return Figure(name, unit, other_name, str(workload), own, other, gemm)


def _share(name: str, work: str, series: list[list[float]]) -> Figure:
    gemm, own = map(tuple, series)
    return Figure(name, "GFLOP/s", CEILING, work, own, gemm, gemm)


def _unmeasured(blank: Figure, reason: str) -> Figure:
    return Figure(blank.figure, blank.unit, blank.other_name, blank.workload, reason=reason)


def _named(package: str) -> str:
    titles = {"transformers": "transformers", "trl": "TRL", "vllm": "vLLM"}
    found = find_version(package)
    return f"{titles[package]} {found}" if found else titles[package]


def _absent(package: str) -> str | None:
    from importlib.util import find_spec

    return None if find_spec(package) else f"{package} is not installed (pip install 'onedial[{package}]')"
