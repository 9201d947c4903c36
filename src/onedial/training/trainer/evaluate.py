"""`evaluate`: the accuracy of a model on held-out prompts, whether it comes from a hub, a folder or a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onedial.core.errors import ConfigError, RunDirError, suggest
from onedial.core.manifest import FOLDER_MANIFEST, check_folder
from onedial.core.run_log import save_evaluated
from onedial.core.settings import Run
from onedial.core.settings_file import NO_TRUST, make_run, merge, read_settings
from onedial.core.user_code import Trust
from onedial.training.evaluation import Evaluation, evaluate_groups, generate_groups
from onedial.training.lm.attention import use_packed_attention
from onedial.training.lm.text import Text
from onedial.training.models import load_causal_lm, load_errors, load_tokenizer, resolve
from onedial.training.rollout.collector import Progress
from onedial.training.rollout.engine import Sampling, derive_seed
from onedial.training.tasks import open_task
from onedial.training.trainer import checkpoint
from onedial.training.trainer.cpu import prepare_process
from onedial.training.trainer.device import pick_device, pick_dtype
from onedial.training.trainer.open_run import open_engine
from onedial.training.verify.pool import VerifierPool

# Settings of a run that its evaluation shares, so that `onedial eval RUN` repeats what the run measured.
OF_THE_RUN = (
    "task", "seed", "max_new_tokens", "temperature", "top_p", "top_k", "max_rows", "dtype", "eval_prompts",
    "eval_samples", "verifier_workers", "verifier_timeout_s", "verifier_memory_mb",
)  # fmt: skip
SETTINGS = (*OF_THE_RUN, "device", "threads", "unsafe_verifiers", "trust_remote_code")


@dataclass(frozen=True)
class EvalSpec:
    """What to evaluate: `run` holds the settings (those for training are not used), `weights` the place of the model.

    If `weights` is a folder of LoRA adapters, `base` is the model that they belong to.
    """

    run: Run
    weights: str
    base: str | None
    greedy: bool

    @property
    def sampling(self) -> Sampling:
        """How completions are drawn."""
        run = self.run
        return Sampling(0.0 if self.greedy else run.temperature, run.top_p, run.top_k, run.max_new_tokens)


def evaluate(
    model: str | Path,
    task: Any = None,
    *,
    prompts: int | None = None,
    samples: int | None = None,
    save: str | Path | None = None,
    trust_config: bool = False,
    progress: Progress = lambda stage, done, total: None,
    **settings: Any,
) -> Evaluation:
    """avg@k, pass@k and maj@k of a model on held-out prompts, each with an interval over prompts.

    model: a name, a folder, or a run directory: then its newest checkpoint, with the run's task and sampling as
    defaults. task: as for `Run` (None: the run's, or arithmetic). prompts, samples: how many, and completions of each
    (100 and 4). settings: those in `SETTINGS` and `task_options`; temperature 0 decodes greedily, one completion per
    prompt. save: parquet file for the completions with their verdicts. trust_config: load the Python objects that the
    run's file names, wherever they are. Raises UserError for a mistake that the user can fix.
    """
    options = dict(settings.pop("task_options", {}))
    given = {key: value for key, value in settings.items() if value is not None}
    if task is not None:
        given["task"] = {"name": task, **options}
    elif options:
        given["task"] = options
    for name, value in (("eval_prompts", prompts), ("eval_samples", samples)):
        if value is not None:
            given[name] = value
    trust = Trust(everything=trust_config, named=given)
    spec = make_eval_spec(model, given, trust=trust)
    return run_evaluation(spec, save=None if save is None else Path(save), progress=progress)


def make_eval_spec(model: str | Path, given: Mapping[str, Any], *, trust: Trust = NO_TRUST) -> EvalSpec:
    """The evaluation that the settings ask for. If `model` is a run's directory, the run's settings are the defaults.

    Raises ConfigError for an unknown or impossible setting, RunDirError for a run without a checkpoint.
    """
    for name in given:
        if name not in SETTINGS:
            raise ConfigError(f"unknown setting {name!r}{suggest(name, SETTINGS)}; allowed: {', '.join(SETTINGS)}")
    stored, weights = _settings_of_run(Path(model), trust), str(model)
    if stored and (Path(model) / "run.toml").is_file():
        newest = checkpoint.find_latest(Path(model))
        if newest is None:
            raise RunDirError(f"{model}: this run has no checkpoint yet; evaluate the model it started from instead")
        weights = str(newest)
    base = str(stored["model"]) if stored and (Path(weights) / "adapter_config.json").is_file() else None
    shared = {name: value for name, value in stored.items() if name in OF_THE_RUN}
    merged = merge(shared, given)
    greedy = _is_zero(merged.get("temperature"))
    if greedy:
        merged["temperature"] = 1.0
        if "eval_samples" in given and str(given["eval_samples"]) != "1":
            raise ConfigError(
                f"samples={given['eval_samples']}: at temperature 0 all completions of a prompt are the same; "
                "leave samples out, or set a temperature"
            )
        merged["eval_samples"] = 1
    run = make_run({**merged, "model": weights})
    if run.eval_prompts < 1:
        raise ConfigError(f"prompts={run.eval_prompts}: must be at least 1")
    return EvalSpec(run, weights, base, greedy)


def _settings_of_run(place: Path, trust: Trust) -> dict[str, Any]:
    """What run.toml says, for a run's directory or one of its checkpoints; empty for anything else."""
    folders = [place, *([place.parent.parent] if place.parent.name == "checkpoints" else [])]
    files = [folder / "run.toml" for folder in folders if (folder / "run.toml").is_file()]
    return read_settings(files[0], trust=trust, only=(*OF_THE_RUN, "model")) if files else {}


def _is_zero(value: Any) -> bool:
    try:
        return float(value) == 0.0
    except (TypeError, ValueError):
        return False


def _check_save(save: Path) -> None:
    if not save.parent.is_dir():
        raise ConfigError(f"save={str(save)!r}: no such folder {save.parent}; make it first")
    if save.suffix != ".parquet":
        raise ConfigError(f"save={str(save)!r}: must end in .parquet")
    if save.exists() and (save.resolve().parent.parent / "run.toml").is_file():
        raise ConfigError(f"save={str(save)!r}: would overwrite rollouts of a run; choose another place")


def run_evaluation(
    spec: EvalSpec, *, save: Path | None, progress: Progress, note: Callable[[str], None] = lambda text: None
) -> Evaluation:
    """Loads the model, generates, judges and averages. The same seed gives the same completions.

    note: receives one line that says in which sandbox verifiers run.
    """
    run = spec.run
    if save is not None:
        _check_save(save)
    prepare_process(run.threads)
    task = open_task(run.task, **run.task_options)
    prompts = task.heldout(run.eval_prompts, run.seed)
    model, tokenizer = _load(spec)
    judge = VerifierPool(
        task.verifier,
        run.verifier_workers,
        run.verifier_timeout_s,
        run.verifier_memory_mb,
        unsafe=run.unsafe_verifiers,
        hidden=(Path(spec.weights),),
    )
    note(judge.note)
    with judge:
        groups = generate_groups(
            open_engine(run, model, tokenizer),
            Text(tokenizer),
            judge,
            prompts,
            samples=run.eval_samples,
            sampling=spec.sampling,
            seed=derive_seed(run.seed, "eval"),
            progress=progress,
        )
    if save is not None:
        save_evaluated(save, groups)
    return evaluate_groups(groups, spec.sampling.temperature)


def _load(spec: EvalSpec) -> tuple[Any, Any]:
    """Model and tokenizer on the device, ready for the engine; adapters are not merged into the base model, as in
    training.

    Raises CheckpointError for a damaged checkpoint of a run.
    """
    device = pick_device(spec.run.device)
    dtype = pick_dtype(spec.run.dtype, device)
    if (Path(spec.weights) / FOLDER_MANIFEST).is_file():
        check_folder(Path(spec.weights))
    place = resolve(spec.base or spec.weights)
    trusted = spec.run.trust_remote_code
    tokenizer = load_tokenizer(spec.weights if spec.base else place, trust_remote_code=trusted)
    model: Any = load_causal_lm(place, dtype=dtype, trust_remote_code=trusted)
    use_packed_attention(model)
    if spec.base:
        from peft import PeftModel

        with load_errors(spec.weights, "LoRA adapter"):
            model = PeftModel.from_pretrained(model, spec.weights)
    return model.to(device).eval(), tokenizer
