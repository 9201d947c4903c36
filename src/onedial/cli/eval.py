"""`onedial eval`: held-out accuracy of a model, a folder or a run."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from onedial.cli.train import add_setting, add_trust_flag
from onedial.core.safe_console import SafeConsole
from onedial.core.settings_file import merge
from onedial.core.text_safety import say
from onedial.core.user_code import Trust

if TYPE_CHECKING:
    from onedial.core.maths.estimators import Estimate
    from onedial.training.evaluation import Evaluation

HELP = """
  onedial eval smollm2 --task arithmetic
  onedial eval ./my-model --task data.jsonl --temperature 0
  onedial eval runs/mixed_grpo-arithmetic-s0 --samples 16

MODEL is 'smollm2', a folder, a Hugging Face name, or a run directory: then its newest
checkpoint, with the run's task and sampling as defaults. --task.OPTION sets an option of the task."""

DOTTED = ("task",)
# flag → setting of the run it stands for
FLAGS = {
    "task": "task",
    "prompts": "eval_prompts",
    "samples": "eval_samples",
    "max_new_tokens": "max_new_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "seed": "seed",
    "max_rows": "max_rows",
    "device": "device",
    "dtype": "dtype",
    "threads": "threads",
    "verifier_workers": "verifier_workers",
    "verifier_timeout_s": "verifier_timeout_s",
    "verifier_memory_mb": "verifier_memory_mb",
    "unsafe_verifiers": "unsafe_verifiers",
    "trust_remote_code": "trust_remote_code",
}
HELP_TEXTS = {
    "prompts": "held-out prompts",
    "temperature": "sampling temperature; 0 decodes greedily, one completion per prompt",
}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="name, folder, or run directory")
    for flag, name in FLAGS.items():
        add_setting(parser, name, flag, HELP_TEXTS.get(flag, ""))
    add_trust_flag(parser)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--save", type=Path, metavar="FILE", help="parquet file for the completions with verdicts")


def run(args: argparse.Namespace) -> int:
    from onedial.training.models import check_hub_name

    check_hub_name(args.model)
    from onedial.training.trainer.evaluate import make_eval_spec, run_evaluation

    given = merge({name: getattr(args, flag) for flag, name in FLAGS.items() if flag in args}, args.dotted)
    plan = make_eval_spec(args.model, given, trust=Trust(everything=args.trust_config, named=given))
    with ProgressBar() as bar:
        evaluation = run_evaluation(plan, save=args.save, progress=bar.show, note=bar.note)
    if args.json:
        record = {"model": args.model, "weights": plan.weights, "task": plan.run.task_name, "seed": plan.run.seed}
        print(json.dumps({**record, **evaluation.to_json()}, indent=1))
        return 0
    print_evaluation(SafeConsole(highlight=False), f"{args.model} on {plan.run.task_name}", evaluation)
    if args.save:
        say(f"completions: {args.save}")
    return 0


class ProgressBar:
    """A progress bar on a terminal, on stderr; nothing anywhere else."""

    def __init__(self) -> None:
        console = SafeConsole(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("loading", total=None)

    def __enter__(self) -> ProgressBar:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def note(self, text: str) -> None:
        """Prints one line above the bar, on stderr."""
        self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def show(self, stage: str, done: int, total: int) -> None:
        """Takes the engine's progress."""
        self._bar.update(self._task, description=stage, completed=done, total=total)


def print_evaluation(console: Console, title: str, found: Evaluation) -> None:
    """The figures with their 95 % intervals over prompts."""
    how = "greedy" if found.temperature == 0 else f"temperature {found.temperature:g}"
    heading = f"{title}: {found.prompts} prompts × {found.samples} completions, {how}\n"
    console.print(heading, markup=False, soft_wrap=True)
    table = Table(box=None, padding=(0, 3, 0, 0), pad_edge=False, header_style="bold")
    for heading in ("", "share", "95 % interval", "prompts"):
        table.add_column(heading, justify="left" if not heading else "right", no_wrap=True)
    table.add_row(f"avg@{found.samples}", *_format_estimate(found.avg), style="bold")
    for name, shares in (("pass", found.pass_at), ("maj", found.maj_at)):
        for k, estimate in shares.items():
            if k > 1:  # both are avg at k = 1
                table.add_row(f"{name}@{k}", *_format_estimate(estimate))
    if len(found.levels) > 1:
        table.add_section()
        for level, estimate in found.levels.items():
            table.add_row(Text(f"  {level}"), *_format_estimate(estimate))
    console.print(table)
    if len({estimate.num_prompts for estimate in found.pass_at.values()}) > 1:
        console.print("\nEach k is over the prompts with at least k judged completions, so the prompts differ.")
    facts: dict[str, Any] = {
        "mean reward": f"{found.reward_mean:.3f}",
        "mean length": f"{found.length_mean:.1f} tokens",
        "truncated": f"{found.truncated_share:.1%}",
        "not judged": str(found.unusable),
    }
    console.print("\n" + " · ".join(f"{name} {value}" for name, value in facts.items()))


def _format_estimate(estimate: Estimate) -> tuple[str, str, str]:
    interval = f"{estimate.low:.1%} … {estimate.high:.1%}"
    return f"{estimate.value:.1%}", interval, str(estimate.num_prompts)
