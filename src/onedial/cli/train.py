"""`onedial train`: train a model, or go on with a run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from onedial.core.algorithm_table import get_algorithm
from onedial.core.errors import ConfigError, RunDirError
from onedial.core.settings import PLAIN_FIELDS, RUN_FIELDS, Run, check_keys, default_of, make_run, merge, read_toml

HELP = """Train a model with verifiable rewards, or resume a run

  onedial train dapo --task arithmetic --iterations 30
  onedial train grpo --model ./my-model --task data.jsonl --lr 1e-6
  onedial train --config run.toml --seed 1
  onedial train sft --data demonstrations.jsonl --eval_prompts 0
  onedial train dpo --from runs/dapo-arithmetic-s0     learns from what that run wrote
  onedial train --resume runs/dapo-arithmetic-s0

ROW is a row of the table (onedial algorithms). Any setting below can stand in the TOML file too.
--task.OPTION sets an option of the task, --algorithm.CELL a cell of the row."""

DOTTED = ("task", "algorithm")
RESUMABLE = (
    "iterations", "checkpoint_every", "keep_checkpoints", "eval_every", "threads", "track", "on_exhausted",
    "refill_limit",
)  # fmt: skip


def configure(parser: argparse.ArgumentParser) -> None:
    parser.usage = "onedial train [ROW] [--config FILE] [--SETTING VALUE …] | --resume DIR"
    parser.add_argument("row", nargs="?", metavar="ROW", help="row of the algorithm table")
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file with settings")
    parser.add_argument("--resume", type=Path, metavar="DIR", help="go on with the run in this directory")
    parser.add_argument(
        "--from",
        dest="past",
        type=Path,
        metavar="RUN",
        help="for dpo and sft: data = that run's rollouts, model = its newest checkpoint, task, lengths, sampling and "
        "evaluation as they were there",
    )
    settings = parser.add_argument_group("settings")
    for name in PLAIN_FIELDS:
        text = str(RUN_FIELDS[name].metadata["help"]).replace("%", "%%")
        default = default_of(name)
        shown = f" [{default}]" if default not in ("", None) else ""
        given_alone: dict[str, Any] = {"nargs": "?", "const": True} if default is False else {}
        settings.add_argument(f"--{name}", metavar="X", help=text + shown, default=argparse.SUPPRESS, **given_alone)


def run(args: argparse.Namespace) -> int:
    given = {name: getattr(args, name) for name in PLAIN_FIELDS if name in args}
    return start(args.row, args.config, args.resume, merge(given, args.dotted), past=args.past)


def start(
    row: str | None, config: Path | None, resume: Path | None, given: dict[str, Any], past: Path | None = None
) -> int:
    """Trains with settings from file and command line, or resumes, and prints what was learned."""
    if resume is not None:
        settings = _resumed(resume, row, config, given | ({"from": past} if past else {}))
    else:
        layers = [settings_from(past)] if past else []
        if config:
            layers.append(read_toml(config))
            # before it is merged with the command line, whose mistakes name no file
            check_keys(layers[-1], f"{config}: ")
        if row is not None:
            layers.append({"algorithm": {"row": get_algorithm(row).name}})
        settings = make_run(merge(*layers, given), where=f"{config}: " if config and not given else "")
    from onedial.core.run_log import read_json_lines
    from onedial.training.trainer.loop import train

    result = train(settings, resume=resume is not None)
    print(f"run: {result.directory}   (onedial report {result.directory} shows it)")
    evaluations = read_json_lines(result.directory / "eval.jsonl")
    if evaluations:
        before, after = evaluations[0], evaluations[-1]
        print(
            f"held-out avg@{after['samples']}: {before['avg']['value']:.1%} → {after['avg']['value']:.1%} "
            f"in {result.train_s:.0f} s of training ({result.directory})"
        )
    return 0


def settings_from(past: Path) -> dict[str, Any]:
    """What a run takes over from an earlier one: its rollouts, its newest model, and how it was measured."""
    from onedial.training.trainer.evaluate import OF_THE_RUN
    from onedial.training.trainer.past_rollouts import newest_model, run_of

    run_of(past)  # a clear error where there is no run
    earlier = read_toml(past / "run.toml")
    kept = {name: earlier[name] for name in OF_THE_RUN if name in earlier}
    return kept | {"data": str(past), "model": newest_model(past)}


def _resumed(directory: Path, row: str | None, config: Path | None, given: dict[str, Any]) -> Run:
    forbidden = (
        [name for name in given if name not in RESUMABLE] + (["ROW"] if row else []) + (["config"] if config else [])
    )
    if forbidden:
        raise ConfigError(
            f"--resume goes on with the run as it was; {', '.join(forbidden)} cannot change. "
            f"What can: {', '.join(RESUMABLE)}"
        )
    path = directory / "run.toml"
    if not path.is_file():
        raise RunDirError(f"{directory}: no run to resume here (run.toml is missing); start one without --resume")
    return make_run(merge(read_toml(path), given, {"out": str(directory)}), where=f"{path}: ")
