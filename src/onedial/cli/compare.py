"""`onedial compare`: trains rows of the table on the same seeds at equal generated tokens."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onedial.cli.terminal import Terminal
from onedial.cli.train import add_setting, add_trust_flag
from onedial.core.algorithm_table import get_algorithm
from onedial.core.errors import ConfigError
from onedial.core.paths import expand_path, write_atomically
from onedial.core.settings import PLAIN_FIELDS
from onedial.core.settings_file import check_keys, merge, read_settings
from onedial.core.text_safety import say
from onedial.core.user_code import Trust

if TYPE_CHECKING:
    from onedial.core.settings import Run
    from onedial.evidence.arms import Arm

HELP = """
  onedial compare grpo dr_grpo dapo --config examples/arithmetic.toml --max-generated-tokens 60000
  onedial compare grpo dr_grpo --num-seeds 5 --max-generated-tokens 60000 --out runs/dial
  onedial compare naive_grpo --vary algorithm.dial=0,1,2 --max-generated-tokens 60000

Every arm trains once per seed, on the same prompts, until its rollouts have cost the same number of
tokens. It can be stopped at any time: the same command continues it, and a finished run is never repeated. Any setting
of train applies to all arms."""

DOTTED = ("task", "algorithm")
OWN = ("out", "iterations")  # settings that a comparison decides
EVAL_EVERY = 5


def configure(parser: argparse.ArgumentParser) -> None:
    parser.usage = "onedial compare ROW [ROW …] [--vary SETTING=A,B] [--SETTING VALUE …]"
    parser.add_argument("rows", nargs="+", metavar="ROW", help="rows of the algorithm table")
    parser.add_argument(
        "--vary",
        action="append",
        default=[],
        metavar="SETTING=A,B",
        help="a setting or algorithm.CELL of several values",
    )
    parser.add_argument("--num-seeds", type=int, default=3, metavar="N", help="paired seeds, from --seed upwards [3]")
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file with settings of all arms")
    parser.add_argument("--out", type=Path, default=Path("runs/compare"), metavar="DIR", help="folder [runs/compare]")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")
    add_trust_flag(parser)
    settings = parser.add_argument_group("settings of all arms")
    for name in PLAIN_FIELDS:
        if name not in OWN:
            add_setting(settings, name, name)


def run(args: argparse.Namespace) -> int:
    from onedial.evidence.arms import make_arm_run

    arms, base, seeds = _arms(args), _base(args), _seeds(args)
    folder = expand_path(args.out, "--out")
    runs = [(arm, make_arm_run(arm, seed, base, folder)) for seed in seeds for arm in arms]
    _check_runs(runs)
    from onedial.training.models import check_hub_name

    for model in {one.model for _, one in runs}:
        check_hub_name(model)
    from onedial.evidence.arm_summary import summarize
    from onedial.evidence.comparison import write_comparison
    from onedial.evidence.paired_runs import train_arm

    records = []
    for number, (arm, one) in enumerate(runs, 1):
        title = f"{arm.name}, seed {one.seed} ({number} of {len(runs)})"
        records.append(train_arm(one, arm, title=title))
    outcome = {"settings": records[0]["settings"], **summarize(records), "runs": records}
    write_atomically(folder / "comparison.json", json.dumps(outcome, allow_nan=False) + "\n")
    page = write_comparison(folder / "comparison.html", records, title=" · ".join(arm.name for arm in arms))
    if args.json:
        print(json.dumps({key: value for key, value in outcome.items() if key != "runs"}, indent=1))
        return 0
    show_outcome(Terminal.on_stdout(), outcome)
    say(f"wrote {page} and {folder / 'comparison.json'}")
    return 0


def _arms(args: argparse.Namespace) -> list[Arm]:
    from onedial.evidence.arms import cross_arms

    varied = {}
    for word in args.vary:
        name, equals, values = word.partition("=")
        parts = [value.strip() for value in values.split(",") if value.strip()]
        if not equals or not parts:
            raise ConfigError(f"--vary {word}: must be SETTING=A,B, as in --vary lr=1e-5,2e-5")
        varied[name.strip().replace("-", "_")] = parts
    return cross_arms([get_algorithm(row).name for row in args.rows], varied)


def _base(args: argparse.Namespace) -> dict[str, Any]:
    """The settings of all arms: the file's, then the command line's."""
    given = merge({name: getattr(args, name) for name in PLAIN_FIELDS if name in args and name not in OWN}, args.dotted)
    layers = []
    if args.config is not None:
        layers.append(read_settings(args.config, trust=Trust(everything=args.trust_config, named=given)))
        check_keys(layers[0], f"{args.config}: ")
        for name in (*OWN, "seed"):  # of a file that is also used to train one row
            layers[0].pop(name, None)
    base = merge(*layers, given)
    base.setdefault("eval_every", EVAL_EVERY)
    return base


def _seeds(args: argparse.Namespace) -> list[int]:
    if args.num_seeds < 1:
        raise ConfigError(f"--num-seeds {args.num_seeds}: must be at least 1")
    first = int(getattr(args, "seed", 0))
    return list(range(first, first + args.num_seeds))


def _check_runs(runs: list[tuple[Arm, Run]]) -> None:
    """Raises ConfigError for a comparison without a budget or without an evaluation to compare."""
    one = runs[0][1]
    if one.max_generated_tokens == 0:
        raise ConfigError(
            "compare needs --max-generated-tokens N: every arm ends when its rollouts have cost N completion tokens"
        )
    if one.eval_prompts == 0:
        raise ConfigError("compare needs held-out prompts: eval_prompts=0 leaves nothing to compare")


def show_outcome(terminal: Terminal, outcome: dict[str, Any]) -> None:
    """Prints the means of each arm over seeds, then the differences, and which of them the data cannot distinguish from
    0."""
    from onedial.evidence.comparison import describe_difference

    rows = [_arm_line(name, arm) for name, arm in outcome["arms"].items()]
    terminal.table(("arm", "held out", "tokens", "rollouts", "iterations", "seconds", "silent"), rows)
    terminal.write()
    for found in outcome["differences"]:
        terminal.write(describe_difference(found), mark="· ")
    starts = [value for arm in outcome["arms"].values() for value in arm["start"]]
    before = f"{100 * sum(starts) / len(starts):.0f} % before training"
    terminal.write(
        f"Held-out accuracy at the end ({before}), paired by seed; intervals hold jointly at 95 %.", style="dim"
    )


def _arm_line(name: str, arm: dict[str, Any]) -> tuple[str, ...]:
    def mean(key: str) -> float:
        values = [value for value in arm[key] if value is not None]
        return sum(values) / len(values) if values else float("nan")

    counts = (
        f"{mean('tokens'):,.0f}",
        f"{mean('rollouts'):,.0f}",
        f"{mean('iterations'):.0f}",
        f"{mean('seconds'):.0f}",
    )
    return name, f"{100 * mean('accuracy'):.1f} %", *counts, f"{100 * mean('silent_token_share'):.0f} %"
