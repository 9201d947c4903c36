"""Run directories for the tests of the page, written by the product's own writers.

`write_run` simulates answers and hands them to `write_rollouts`, `append_json` and `Evaluation.to_json`, so that a
change of what a run writes reaches the tests of what reads it. `trained_run` in conftest.py is a real training run.
"""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import torch

from onedial.core.run_log import TrainingSignal, append_json, write_rollouts
from onedial.core.types import Completion, Group, Prompt, Rollout, Verdict
from onedial.training.evaluation import evaluate_groups
from onedial.training.trainer.metrics import measure_groups, measure_rollouts

HOSTILE = (
    "<script>document.documentElement.dataset.broken = 'yes'</script><img src=x onerror=\"document.documentElement"
    '.dataset.broken = 1"></script><!-- --><h1>Bold</h1> \x1b[31mred\x1b[0m \u202eesrever ]]> & &lt; \u2028 \x00 \ud83d'
)
# a parquet file holds UTF-8, which has no lone surrogates
WRITABLE = HOSTILE.encode("utf-8", "replace").decode()


def write_run(
    folder: Path, *, iterations: int = 5, prompts: int = 24, size: int = 8, hostile: bool = False, levels: int = 1
) -> Path:
    """Writes rollouts/*.parquet, metrics.jsonl and eval.jsonl; answers are right with a rate that rises.

    The metrics end in a line cut off by a kill, and begin with an evaluation before the first iteration.
    """
    rng = Random(3)
    rates = [rng.betavariate(0.6, 0.8) for _ in range(prompts)]
    folder.mkdir(parents=True, exist_ok=True)
    for step in range(iterations + 1):
        groups = [
            _group(rng, number, rate + 0.04 * step, step, size=size, hostile=hostile, levels=levels)
            for number, rate in enumerate(rates)
        ]
        if step in (0, iterations // 2, iterations):
            evaluation = evaluate_groups(groups, temperature=1.0)
            append_json(folder / "eval.jsonl", {"iteration": step, **evaluation.to_json()})
        if step:
            write_rollouts(folder, step, groups, {g.id: "trained" for g in groups}, _signals(groups))
            append_json(folder / "metrics.jsonl", _metrics(step, groups))
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"iteration": 6, "trunc')
    return folder


def _group(rng: Random, number: int, rate: float, step: int, *, size: int, hostile: bool, levels: int) -> Group:
    text = WRITABLE if hostile else f"Let me see… {number * 7}"
    question = f"{WRITABLE} {number}" if hostile else f"What is {number} times 7?"
    prompt = Prompt(text=question, answer=number * 7, source="arithmetic", meta={"level": 1 + number % levels})
    rollouts = []
    for index in range(size):
        good = rng.random() < rate
        answer = str(number * 7 if good else number + index)
        tokens = int(20 + 30 * rng.random() + 10 * (not good))
        completion = Completion((7,) * tokens, (-1 / max(step, 1),) * tokens, "stop", step, f"{text} It is {answer}.")
        outcome = "correct" if good else "wrong"
        rollouts.append(Rollout(index, completion, Verdict(float(good), correct=good, answer=answer, outcome=outcome)))
    return Group(prompt, tuple(rollouts), iteration=step, position=step * 1000 + number, prompt_tokens=(1,) * 20)


def _signals(groups: list[Group]) -> dict[tuple[str, int], TrainingSignal]:
    signals = {}
    for group in groups:
        rewards = torch.tensor(group.rewards, dtype=torch.double)
        centred = rewards - rewards.mean()
        scale = rewards.std(correction=0) if group.mixed else torch.ones(())
        for rollout, advantage in zip(group.rollouts, (centred / scale).tolist(), strict=True):
            signals[group.id, rollout.index] = TrainingSignal(rollout.verdict.reward, advantage)
    return signals


def _metrics(step: int, groups: list[Group]) -> dict[str, Any]:
    figures = {**measure_groups(groups), **measure_rollouts(groups)}
    return {"iteration": step, **figures, "groups_generated": len(groups), "generate_s": 2.5, "update_s": 1.0}
