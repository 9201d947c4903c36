"""The figures: which there are, how each is taken, and what their pieces have to do with one another.

Sides are measured in turn: ceiling, ours, the other, ceiling, ours, the other … A first turn of each is not counted.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from onedial.bench.figure import Figure
from onedial.bench.flops import decode_flops, update_flops, weights_of
from onedial.bench.machine import Ceiling, interleaved, version
from onedial.bench.ours import Generation, Update, open_policy
from onedial.bench.peer_process import Worker, WorkerFailed
from onedial.bench.peer_transformers import TransformersGeneration
from onedial.bench.workload import GENERATE, LONG, MODES, STEP, Settings, Shape, rows_per_pass
from onedial.core.errors import ConfigError, nearest
from onedial.training.trainer.cpu import give_back_beyond, prepare_process

# sub-command → its figures
FIGURES: dict[str, tuple[str, ...]] = {
    "generate": ("generate_vs_transformers", "generate_vs_vllm", "decode_ceiling_share"),
    "update": ("update_ceiling_share",),
    "step": (*(f"step_vs_trl_{mode}" for mode in MODES), "step_vs_trl_long_prompt"),
    "memory": ("step_memory_vs_trl",),
}
CEILING = "GEMM ceiling"
Note = Callable[[str], None]


def figures_of(command: str, wanted: str) -> list[str]:
    """The figures of a sub-command (or of `all`), or those of them named in a comma-separated list.

    Raises ConfigError for a name that is not among them.
    """
    names = [name for part, figures in FIGURES.items() if command in (part, "all") for name in figures]
    chosen = [name.strip() for name in wanted.split(",") if name.strip()]
    for name in chosen:
        if name not in names:
            allowed = ", ".join(names)
            raise ConfigError(
                f"--figures {name!r}: not a figure of {command}{nearest(name, names)}; there are {allowed}"
            )
    return [name for name in names if name in chosen] if chosen else names


def measure(settings: Settings, names: Sequence[str], note: Note) -> Iterator[Figure]:
    """The figures named, in order, each as soon as it is there.

    A peer that is absent or fails leaves its figure unmeasured, with the reason.
    """
    prepare_process(settings.threads)
    for name, take in _IN_PROCESS.items():
        if name in names:
            note(name)
            yield take(settings)
            gc.collect()
            give_back_beyond(0)
    modes = [mode for mode in MODES if f"step_vs_trl_{mode}" in names]
    if modes:
        note(", ".join(f"step_vs_trl_{mode}" for mode in modes))
        yield from steps_vs_trl(settings, STEP, {mode: f"step_vs_trl_{mode}" for mode in modes})
    if "step_vs_trl_long_prompt" in names:
        note("step_vs_trl_long_prompt")
        yield from steps_vs_trl(settings, LONG, {"all_mixed": "step_vs_trl_long_prompt"})
    if "step_memory_vs_trl" in names:
        note("step_memory_vs_trl")
        yield step_memory_vs_trl(settings)


def generate_vs_transformers(settings: Settings) -> Figure:
    """Generation of the whole shape against `generate`, both in this process."""
    shape = GENERATE.fitted(settings.context)
    ours = Generation(settings, shape, open_policy(settings, shape).model)
    peer = TransformersGeneration(settings, shape)
    series = interleaved([Ceiling(settings), ours.tokens_per_s, peer.tokens_per_s], settings.repeats)
    return _figure("generate_vs_transformers", "tokens/s", _named("transformers"), shape, series)


def generate_vs_vllm(settings: Settings) -> Figure:
    """Generation of the whole shape against vLLM in a process of its own."""
    shape = GENERATE.fitted(settings.context)
    blank = Figure("generate_vs_vllm", "tokens/s", _named("vllm"), str(shape))
    if (reason := _absent("vllm")) is not None:
        return _unmeasured(blank, reason)
    ours = Generation(settings, shape, open_policy(settings, shape).model)
    try:
        with Worker("vllm", settings, shape) as peer:
            theirs = partial(_tokens_per_s, peer, shape)
            series = interleaved([Ceiling(settings), ours.tokens_per_s, theirs], settings.repeats)
    except WorkerFailed as error:
        return _unmeasured(blank, str(error))
    return _figure(blank.figure, blank.unit, blank.other_name, shape, series)


def _tokens_per_s(worker: Worker, shape: Shape) -> float:
    return shape.tokens / worker.ask("generate").seconds


def decode_ceiling_share(settings: Settings) -> Figure:
    """Necessary arithmetic of decode steps with all rows under way, over the GEMM's."""
    shape = GENERATE.fitted(settings.context)
    policy = open_policy(settings, shape)
    ours = Generation(settings, shape, policy.model)
    flops = decode_flops(weights_of(policy.model), shape.rows)
    steps = min(settings.decode_steps, settings.context - shape.prompt_tokens - 5)
    series = interleaved([Ceiling(settings), lambda: flops / ours.decode_seconds(steps) / 1e9], settings.repeats)
    work = f"{shape.rows} rows after {shape.prompt_tokens} prompt tokens, {steps} steps, sampling included"
    return _share("decode_ceiling_share", work, series)


def update_ceiling_share(settings: Settings) -> Figure:
    """Necessary arithmetic of an update whose groups are all mixed, over the GEMM's; the optimiser's time counts."""
    shape = STEP.fitted(settings.context)
    policy = open_policy(settings, shape)
    ours = Update(settings, shape, policy)
    batch = ours.batch
    flops = update_flops(weights_of(policy.model), len(batch.prompt_tokens), len(batch.tokens))
    series = interleaved([Ceiling(settings), lambda: flops / ours.seconds() / 1e9], settings.repeats)
    return _share("update_ceiling_share", f"{shape}, all groups mixed, optimiser step included", series)


_IN_PROCESS: dict[str, Callable[[Settings], Figure]] = {
    "generate_vs_transformers": generate_vs_transformers,
    "generate_vs_vllm": generate_vs_vllm,
    "decode_ceiling_share": decode_ceiling_share,
    "update_ceiling_share": update_ceiling_share,
}


def steps_vs_trl(settings: Settings, shape: Shape, names: dict[str, str]) -> list[Figure]:
    """Whole steps (generation, verdicts, update) against TRL's, for each mode; both stay in memory throughout."""
    shape = shape.fitted(settings.context)
    passes = shape.rows // rows_per_pass(shape, settings.peer_rows)
    split = f", TRL in {passes} passes" if passes > 1 else ""
    work = {mode: f"{shape}, {mode.replace('_', ' ')}{split}" for mode in names}
    blanks = [Figure(name, "s", _named("trl"), work[mode]) for mode, name in names.items()]
    if (reason := _absent("trl")) is not None:
        return [_unmeasured(blank, reason) for blank in blanks]
    ceiling = Ceiling(settings)
    try:
        with Worker("ours", settings, shape) as ours, Worker("trl", settings, shape) as peer:
            runners: list[Callable[[], float]] = []
            for mode in names:
                runners += [ceiling, partial(_step, ours, mode), partial(_step, peer, mode)]
            # one turn of warm-up is enough for all modes: the work of each is part of the first one's
            for runner in runners[:3]:
                runner()
            series = interleaved(runners, settings.repeats, warm=False)
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


def step_memory_vs_trl(settings: Settings) -> Figure:
    """Peak memory of a process that makes two all-mixed steps, loading included, against TRL's."""
    shape = STEP.fitted(settings.context)
    blank = Figure("step_memory_vs_trl", "GB", _named("trl"), f"{shape}, all mixed, two steps")
    if (reason := _absent("trl")) is not None:
        return _unmeasured(blank, reason)
    peaks: dict[str, list[float]] = {"ours": [], "trl": []}
    try:
        for _ in range(max(1, settings.repeats // 3)):  # memory hardly varies
            for name, values in peaks.items():
                with Worker(name, settings, shape) as worker:
                    worker.ask("all_mixed")
                    values.append(worker.ask("all_mixed").peak_bytes / 1e9)
    except WorkerFailed as error:
        if error.name == "ours":
            raise
        return _unmeasured(blank, str(error))
    return Figure(blank.figure, "GB", blank.other_name, blank.workload, tuple(peaks["ours"]), tuple(peaks["trl"]))


def _figure(name: str, unit: str, other_name: str, shape: Shape, series: list[list[float]]) -> Figure:
    gemm, own, other = map(tuple, series)
    return Figure(name, unit, other_name, str(shape), own, other, gemm)


def _share(name: str, work: str, series: list[list[float]]) -> Figure:
    gemm, own = map(tuple, series)
    return Figure(name, "GFLOP/s", CEILING, work, own, gemm, gemm)


def _unmeasured(blank: Figure, reason: str) -> Figure:
    return Figure(blank.figure, blank.unit, blank.other_name, blank.workload, reason=reason)


def _named(package: str) -> str:
    titles = {"transformers": "transformers", "trl": "TRL", "vllm": "vLLM"}
    found = version(package)
    return f"{titles[package]} {found}" if found else titles[package]


def _absent(package: str) -> str | None:
    from importlib.util import find_spec

    return None if find_spec(package) else f"{package} is not installed (pip install 'onedial[{package}]')"
