"""Draws the README's picture of a run: `python docs/make_figures.py RUN docs/images/run.png`."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from onedial.core.run_log import read_json_lines

BLUE, GREEN, RED, GREY = "#1f6fb2", "#3a9a5c", "#c8553d", "#8a8f98"


def draw(run: Path, target: Path) -> None:
    """Accuracy, kinds of groups, and completions, over iterations, from the run's own logs."""
    metrics, evaluations = read_json_lines(run / "metrics.jsonl"), read_json_lines(run / "eval.jsonl")
    steps = [record["iteration"] for record in metrics]
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 10})
    figure, (accuracy, groups, length) = plt.subplots(1, 3, figsize=(11, 3.1), constrained_layout=True)

    accuracy.plot(steps, [100 * r["correct_share"] for r in metrics], color=GREY, lw=1, label="sampled while training")
    held = [(e["iteration"], *(100 * e["avg"][key] for key in ("value", "low", "high"))) for e in evaluations]
    x, value, low, high = zip(*held, strict=True)
    errors = [[v - a for v, a in zip(value, low, strict=True)], [b - v for v, b in zip(value, high, strict=True)]]
    samples = evaluations[0]["samples"]
    accuracy.errorbar(x, value, errors, color=BLUE, marker="o", capsize=3, label=f"held out, avg@{samples}, 95 %")
    accuracy.set(title="Accuracy", xlabel="iteration", ylabel="correct, %", ylim=(0, 100))
    accuracy.legend(frameon=False, fontsize=8, loc="lower right")

    shares = [("mixed_share", "mixed: teaches", BLUE), ("all_correct_share", "all right: silent", GREEN),
              ("all_wrong_share", "all wrong: silent", RED)]  # fmt: skip
    stacked = [[100 * r[key] for r in metrics] for key, _, _ in shares]
    groups.stackplot(steps, stacked, labels=[s[1] for s in shares], colors=[s[2] for s in shares], alpha=0.85, lw=0)
    groups.set(title="Groups generated", xlabel="iteration", ylabel="share, %", ylim=(0, 100), xlim=(1, steps[-1]))
    groups.legend(frameon=True, framealpha=0.85, fontsize=8, loc="lower left")

    length.plot(steps, [r["length_mean"] for r in metrics], color=BLUE, label="mean length, tokens")
    length.set(title="Completions", xlabel="iteration", ylabel="tokens", ylim=(0, None))
    cut = length.twinx()
    cut.plot(steps, [100 * r["truncated_share"] for r in metrics], color=RED, lw=1.2)
    cut.set_ylabel("cut off by the limit, %", color=RED)
    cut.set_ylim(0, 100)
    cut.spines["right"].set_visible(True)
    length.legend(frameon=False, fontsize=8, loc="center right")

    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=130)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
