"""When a run evaluates. Oracle: the iterations that the settings name, one by one."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from onedial.training.trainer import periodic_evaluation
from onedial.training.trainer.periodic_evaluation import evaluate_when_due


class Result:
    """An evaluation whose accuracy is the number of evaluations made."""

    samples = 4

    def __init__(self, value: int) -> None:
        self.avg = SimpleNamespace(value=float(value))

    def to_json(self) -> dict[str, Any]:
        return {"avg": self.avg.value}


@pytest.mark.parametrize(
    "every, prompts, done, due",
    [(2, 5, [], [0, 2, 4, 5]), (0, 5, [], [0, 5]), (2, 0, [], []), (1, 5, [0, 1, 2], [3, 4, 5]), (9, 5, [5], [0])],
)
def test_evaluations_are_made_when_due_and_once(
    every: int, prompts: int, done: list[int], due: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first of five iterations, after the last, every so many; none that eval.jsonl holds already."""
    path, asked = tmp_path / "eval.jsonl", []
    path.write_text("".join(json.dumps({"iteration": n}) + "\n" for n in done))
    monkeypatch.setattr(periodic_evaluation, "generate_groups", lambda *_, **given: asked.append(given["samples"]))
    monkeypatch.setattr(periodic_evaluation, "evaluate_groups", lambda groups, temperature: Result(len(asked)))
    run = SimpleNamespace(
        directory=tmp_path, eval_every=every, eval_prompts=prompts, eval_samples=4, seed=0,
        temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=8,
    )  # fmt: skip
    models = SimpleNamespace(engine=None, text=None)
    view = SimpleNamespace(note=lambda text: None, progress=None)
    task = SimpleNamespace(heldout=lambda count, seed: [None] * count)
    made = []
    for iteration in range(6):
        trainer = SimpleNamespace(
            run=run, iteration=iteration, finished=iteration == 5, models=models, verifiers=None, task=task, view=view
        )
        if evaluate_when_due(trainer) is not None:  # type: ignore[arg-type]
            made.append(iteration)
    assert made == due and asked == [4] * len(due)
    assert [json.loads(line)["iteration"] for line in path.read_text().splitlines()] == [*done, *due]
