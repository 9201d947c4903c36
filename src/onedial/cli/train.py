"""`onedial train`: train a model, or resume a run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from onedial.core.algorithm_table import get_algorithm
from onedial.core.errors import ConfigError, RunDirError
from onedial.core.field_rules import get_default, get_kinds
from onedial.core.paths import expand_path
from onedial.core.settings import PLAIN_FIELDS, RESUMABLE, RUN_RULES, Run
from onedial.core.settings_file import check_keys, make_run, merge, read_run_settings, read_settings, to_toml
from onedial.core.text_safety import say
from onedial.core.user_code import Trust

HELP = """
  onedial train mixed_grpo --task arithmetic --iterations 30
  onedial train grpo --model ./my-model --task data.jsonl --lr 1e-6
  onedial train --config run.toml --seed 1
  onedial train sft --data demonstrations.jsonl --eval-prompts 0
  onedial train dpo --from runs/mixed_grpo-arithmetic-s0     learns from what that run wrote
  onedial train --resume runs/mixed_grpo-arithmetic-s0

ROW is a row of the table (onedial algorithms). The TOML file may hold any setting below too.
--task.OPTION sets an option of the task, --algorithm.CELL a cell of the row,
--allocator.OPTION an option of the allocator (onedial allocators)."""

DOTTED = ("task", "algorithm", "allocator")
NAMED = (*PLAIN_FIELDS, "allocator")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.usage = "onedial train [ROW] [--config FILE] [--SETTING VALUE …] | --resume DIR"
    parser.add_argument("row", nargs="?", metavar="ROW", help="row of the algorithm table")
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file with settings")
    parser.add_argument("--resume", type=Path, metavar="DIR", help="continue the run in this directory")
    parser.add_argument(
        "--from",
        dest="past",
        type=Path,
        metavar="RUN",
        help="for dpo and sft: data = that run's rollouts, model = its newest checkpoint, task, lengths, sampling and "
        "evaluation as they were there",
    )
    parser.add_argument("--dry-run", action="store_true", help="check the settings, print them all as TOML, and stop")
    add_trust_flag(parser)
    settings = parser.add_argument_group("settings")
    for name in PLAIN_FIELDS:
        add_setting(settings, name, name)
    settings.add_argument(
        "--allocator",
        metavar="NAME",
        default=argparse.SUPPRESS,
        help="who is sampled, and how often: a row of onedial allocators, or file.py:name [row: as the algorithm says]",
    )


def add_trust_flag(parser: argparse.ArgumentParser) -> None:
    """Adds `--trust-config` to a command that reads settings from files."""
    parser.add_argument(
        "--trust-config",
        action="store_true",
        help="load the Python objects (tasks, rewards, baselines, allocators) that --config or a run's run.toml names, "
        "wherever they lie; without it, those of files under this directory and those named on the command line",
    )


def add_setting(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup, name: str, flag: str, help: str = ""
) -> None:
    """Adds the flag of a setting of `Run`, with its help and its default."""
    rule, default = RUN_RULES[name], get_default(Run, name)
    text = (help or rule.help).replace("%", "%%")
    shown = "" if default is False or default in ("", None) else f" [{default}]"
    option: dict[str, Any] = {"help": text + shown, "default": argparse.SUPPRESS}
    if get_kinds(Run, name) == (bool,):
        option |= {"nargs": "?", "const": "true", "metavar": "true"} if rule.saved else {"action": "store_true"}
    else:
        option["metavar"] = "X"
    parser.add_argument(f"--{flag.replace('_', '-')}", **option)


def run(args: argparse.Namespace) -> int:
    given = merge({name: getattr(args, name) for name in NAMED if name in args}, args.dotted)
    return start(
        args.row, args.config, args.resume, given, past=args.past, trust_config=args.trust_config, dry_run=args.dry_run
    )


def start(
    row: str | None,
    config: Path | None,
    resume: Path | None,
    given: dict[str, Any],
    *,
    past: Path | None = None,
    trust_config: bool = False,
    dry_run: bool = False,
) -> int:
    """Trains with settings from file and command line, or resumes, and prints the accuracy before and after.

    With `dry_run` only the settings are checked and printed.
    """
    trust = Trust(everything=trust_config, named=given)
    if resume is not None:
        others = {"ROW": row, "config": config, "from": past}
        settings = _resumed(resume, given, [name for name, value in others.items() if value is not None], trust)
    else:
        settings = _configured(row, config, past, given, trust)
    if dry_run:
        print(to_toml(settings))
        return 0
    from onedial.core.run_log import read_json_lines
    from onedial.training.models import check_hub_name

    check_hub_name(settings.model)
    from onedial.training.trainer.loop import train

    result = train(settings, resume=resume is not None)
    say(f"run: {result.directory}   (onedial report {result.directory} shows it)")
    evaluations = read_json_lines(result.directory / "eval.jsonl")
    if evaluations:
        before, after = evaluations[0], evaluations[-1]
        say(
            f"held-out avg@{after['samples']}: {before['avg']['value']:.1%} → {after['avg']['value']:.1%} "
            f"in {result.train_s:.0f} s of training ({result.directory})"
        )
    return 0


def _configured(row: str | None, config: Path | None, past: Path | None, given: dict[str, Any], trust: Trust) -> Run:
    """The run that results from an earlier run, a file, a row and the command line, in this order."""
    layers = [inherit_settings(past, trust=trust)] if past else []
    if config is not None:
        layers.append(read_settings(config, trust=trust))
        # before it is merged with the command line, whose mistakes name no file
        check_keys(layers[-1], f"{config}: ")
    if row is not None:
        layers.append({"algorithm": {"row": get_algorithm(row).name}})
    made = make_run(merge(*layers, given), where=f"{config}: " if config and not given else "")
    fixed = made.algorithm.group_size
    if "group_size" in given and fixed not in (None, made.group_size):
        raise ConfigError(
            f"--group-size {given['group_size']}: algorithm {made.algorithm.name!r} fixes groups of {fixed}; leave it "
            f"out, or change the row: --algorithm.group-size {given['group_size']}"
        )
    return made


def inherit_settings(past: Path, *, trust: Trust) -> dict[str, Any]:
    """The settings that a run takes over from an earlier one: its rollouts, its newest model, and how it was
    evaluated."""
    past = expand_path(past, "--from")
    if not (past / "run.toml").is_file():
        raise ConfigError(f"{past}: no run here (run.toml is missing); name the directory of a onedial run")
    from onedial.training.trainer.evaluate import OF_THE_RUN
    from onedial.training.trainer.past_rollouts import find_newest_model

    return read_run_settings(past, trust=trust, only=OF_THE_RUN) | {"data": str(past), "model": find_newest_model(past)}


def _resumed(directory: Path, given: dict[str, Any], others: list[str], trust: Trust) -> Run:
    """The run in a directory, with the settings that a resumed run may change."""
    forbidden = [name for name in given if name not in RESUMABLE] + others
    if forbidden:
        raise ConfigError(
            f"--resume continues the run as it was; {', '.join(forbidden)} cannot change. "
            f"What can: {', '.join(RESUMABLE)}"
        )
    directory = expand_path(directory, "--resume")
    path = directory / "run.toml"
    if not path.is_file():
        raise RunDirError(f"{directory}: no run to resume here (run.toml is missing); start one without --resume")
    stored = read_settings(path, trust=trust)
    return make_run(merge(stored, given, {"out": str(directory)}), where=f"{path}: ")
