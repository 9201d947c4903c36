"""Trains rows of the table on arithmetic with the default model, and writes the curves of the README's table.

    python benchmarks/rows.py --out runs/rows               # all rows, about 25 minutes on two CPU cores
    python benchmarks/rows.py --out runs/rows rloo gspo     # these

A row with a file of its own under examples/ trains by that. The others take examples/arithmetic.toml as it stands, 128
completions an iteration, 10 iterations; demonstrations, of which an iteration has eight, 40; pairs 20, after a warm-up
of four whose rollouts they are made of. Every command is printed as a user would type it. Runs that are finished are
read and not repeated, those that were stopped go on. Of a finished row the logs stay; its weights, two to four GB, are
deleted.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

from onedial.core.algorithm import Algorithm
from onedial.core.algorithm_table import ALGORITHMS, get_algorithm
from onedial.core.run_log import read_json_lines
from onedial.core.settings_file import read_settings

EXAMPLES = Path(__file__).parents[1] / "examples"
LESSON = ("--config", str(EXAMPLES / "arithmetic.toml"))
COMPLETIONS = 128


def commands(row: Algorithm, out: Path) -> list[list[str]]:
    """The words after `onedial` of the row's training, its run last; a row that needs another run has that before."""
    own = EXAMPLES / f"{row.name}.toml"
    train = ["train", row.name]
    if own.is_file():
        settings = ["--config", str(own)]
    elif row.source == "pairs":
        warm = ["train", "mixed_grpo", *LESSON, *_words(iterations=4, prompts_per_iteration=16, eval_every=0), "--out"]
        return [
            [*warm, str(out / "warm")],
            [*train, "--from", str(out / "warm"), *_words(iterations=20, prompts_per_iteration=16, lr=1e-5)]
            + _words(eval_every=10, **{"algorithm.preference_beta": 0.5}, out=out / row.name),
        ]
    elif row.source == "dataset":
        settings = [*LESSON]
    else:
        settings = [*LESSON, *_words(iterations=10, eval_every=5, checkpoint_every=10)]
        if row.group_size is not None:
            settings += _words(prompts_per_iteration=COMPLETIONS // row.group_size)
    return [[*train, *settings, "--out", str(out / row.name)]]


def _words(**settings: object) -> list[str]:
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


def finished(run: Path) -> bool:
    """Whether the run has been evaluated after its last iteration."""
    evaluations = read_json_lines(run / "eval.jsonl") if (run / "run.toml").is_file() else []
    return bool(evaluations) and evaluations[-1]["iteration"] == read_settings(run / "run.toml")["iterations"]


def foreseen(metrics: list[dict[str, Any]]) -> float:
    """Median explained variance of the run's later half; one iteration's is of few prompts and varies widely."""
    return median(record["explained_variance"] for record in metrics[len(metrics) // 2 :])


def line(row: Algorithm, run: Path) -> str:
    """One line of the table: the curve, and what it cost."""
    evaluations, metrics = (read_json_lines(run / name) for name in ("eval.jsonl", "metrics.jsonl"))
    curve = " → ".join(f"{100 * e['avg']['value']:.0f}" for e in evaluations)
    cells = [
        f"`{row.name}`",
        ", ".join(str(e["iteration"]) for e in evaluations),
        f"{curve} %",
        f"{sum(m['time_s'] for m in metrics):.0f} s",
        f"{max(m['memory_gb'] for m in metrics):.1f} GB",
        f"{foreseen(metrics):.2f}" if row.needs_critic else "",
    ]
    return f"| {' | '.join(cells)} |"


def train(row: Algorithm, out: Path) -> None:
    """The row's commands, printed and run; then the weights that they left are deleted."""
    runs = []
    for words in commands(row, out):
        runs.append(Path(words[-1]))
        if not finished(runs[-1]):
            words = ["train", "--resume", words[-1]] if (runs[-1] / "run.toml").is_file() else words
            print("onedial", *words, flush=True)
            subprocess.run([sys.executable, "-m", "onedial.cli.main", *words], check=True)
    for run in runs:
        shutil.rmtree(run / "checkpoints")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help="rows to train (default: all)")
    parser.add_argument("--out", type=Path, default=Path("runs/rows"), help="directory of the runs")
    args = parser.parse_args()
    rows = [get_algorithm(name) for name in args.rows or ALGORITHMS]
    for row in rows:
        if not finished(args.out / row.name):
            train(row, args.out)
    print("\n| row | after iterations | held-out avg@4 | training | peak | explained variance, later half |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        print(line(row, args.out / row.name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
