"""Training by a plan. Oracles: dict loops over the task's own order of draws, hand values, a run that never stopped."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from safetensors.torch import load_file

from findings_logs import simulated
from onedial.analysis.findings.prompt_counts import collect_prompt_counts, read_prompt_rows
from onedial.analysis.planning.export import export
from onedial.analysis.planning.planner import plan
from onedial.core.algorithm_table import ALGORITHMS
from onedial.core.errors import ConfigError
from onedial.core.plan_file import PlanFile, read_plan
from onedial.core.settings import Run
from onedial.core.types import Completion, Group, Rollout, Verdict
from onedial.training.budget.allocation import Allocator, Dynamic, Fixed
from onedial.training.budget.planned import follow_plan
from onedial.training.tasks.registry import open_task
from onedial.training.trainer import checkpoint
from onedial.training.trainer.loop import train
from train_tasks import early

TRIES = {"word 1": 2, "word 4": 5, "word 7": 3, "word 12": 4}
REVISIT = ("word 2", "word 5", "word 9")


@pytest.fixture
def words(tmp_path: Path) -> Path:
    path = tmp_path / "words.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"word {i}", "answer": "a"}) + "\n" for i in range(20)))
    return path


def opened(words: Path) -> Any:
    test = words.with_name("test.jsonl")
    test.write_text('{"prompt": "held out", "answer": "a"}\n')
    return open_task(str(words), test_path=str(test))


def ids(task: Any) -> dict[str, str]:
    """Text → id of the training prompts."""
    prompts = [task.draw("train", 0, position) for position in range(task.size("train"))]
    return {prompt.plain: prompt.id for prompt in prompts}


def file_of(task: Any, audits: int = 1) -> PlanFile:
    own = ids(task)
    return PlanFile({own[w]: n for w, n in TRIES.items()}, {}, tuple(own[w] for w in REVISIT), audits, 6)


def test_every_epoch_asks_the_planned_prompts_once_with_their_own_tries(words: Path) -> None:
    """Oracle: the task's own draws of three epochs, filtered by hand; second looks are one of three per epoch."""
    task = opened(words)
    course = follow_plan(file_of(task), task, 0, where="plan.json")
    per_epoch = len(TRIES) + 1
    asks, position = course.next(0, 3 * per_epoch)
    assert [ask.position for ask in asks] == sorted({ask.position for ask in asks}), "no group is asked for twice"
    looks = []
    for epoch in range(3):
        mine = [ask for ask in asks if ask.position // 20 == epoch]
        said = {task.draw("train", 0, ask.position).plain: ask.count for ask in mine}
        extra = {word: count for word, count in said.items() if word not in TRIES}
        assert {word: count for word, count in said.items() if word in TRIES} == TRIES
        assert len(extra) == 1 and set(extra) <= set(REVISIT) and set(extra.values()) == {6}
        looks += extra
    assert position <= 60
    orders = [[task.draw("train", 0, p).plain for p in range(20 * e, 20 * e + 20)] for e in range(2)]
    assert orders[0] != orders[1], "the order is drawn anew each epoch"
    again, _ = follow_plan(file_of(task), task, 0, where="").next(0, 3 * per_epoch)
    assert again == asks
    assert "14 rollouts" not in course.note and "4 prompts and 1 second looks an epoch, 20 rollouts" in course.note


def test_second_looks_are_drawn_anew_each_epoch(words: Path) -> None:
    """Oracle: one of three prompts in each of 12 epochs; all are looked at, and another seed takes another order."""
    task, orders = opened(words), []
    for seed in range(2):
        asks, _ = follow_plan(file_of(task), task, seed, where="").next(0, 12 * (len(TRIES) + 1))
        names = [task.draw("train", seed, ask.position).plain for ask in asks]
        looks = [name for name in names if name not in TRIES]
        assert len(looks) == 12 and set(looks) == set(REVISIT)
        orders.append(looks)
    assert orders[0] != orders[1]


def test_walking_in_steps_is_walking_at_once(words: Path) -> None:
    """Invariance: the position alone carries the walk."""
    task = opened(words)
    course = follow_plan(file_of(task), task, 0, where="")
    whole, end = course.next(0, 23)
    position, parts = 0, []
    for count in (1, 7, 0, 10, 5):
        asks, position = follow_plan(file_of(task), task, 0, where="").next(position, count)
        parts += asks
    assert parts == whole and position == end


@pytest.mark.parametrize("refill", [False, True])
def test_an_allocator_that_was_restored_asks_on_as_if_it_had_not_stopped(refill: bool, words: Path) -> None:
    """Invariance, through JSON; and what trains is what the row keeps: mixed groups only where it refills."""
    task = opened(words)
    course = follow_plan(file_of(task), task, 0, where="")

    def made() -> Any:
        return Dynamic(3, course) if refill else Fixed(3, course)

    first, second = made(), made()
    play(first, task, 4)
    carried = first.surplus if refill else []
    second.restore(json.loads(json.dumps(first.state())), carried)
    ahead, resumed = play(first, task, 4), play(second, task, 4)
    assert ahead == resumed
    sizes = {task.draw("train", 0, group.position).plain: len(group.rollouts) for group in ahead}
    assert all(size == TRIES.get(word, 6) for word, size in sizes.items())
    assert not refill or all(group.mixed for group in ahead)


def play(allocator: Allocator, task: Any, iterations: int) -> list[Group]:
    """The groups that train in some iterations; a group is mixed when its prompt's number is even."""
    trained = []
    for iteration in range(iterations):
        allocator.start(iteration)
        while asks := allocator.ask():
            allocator.answer([answer(task, ask.position, ask.count, iteration) for ask in asks])
        trained += allocator.finish().train
    return trained


def answer(task: Any, position: int, count: int, iteration: int) -> Group:
    prompt = task.draw("train", 0, position)
    even = int(prompt.plain.split()[1]) % 2 == 0
    rewards = [float(even and index == 0) for index in range(count)]
    done = Completion((5,), (-0.1,), "stop")
    rollouts = tuple(Rollout(i, done, Verdict(r, correct=r > 0)) for i, r in enumerate(rewards))
    return Group(prompt, rollouts, iteration, position)


def test_prompts_of_a_foreign_log_are_found_by_their_text(words: Path, tmp_path: Path) -> None:
    """A table that numbers prompts in its own way, and a task that words them: the question tells."""
    task = open_task(str(words), wording="Think. {question}", held_out=0.05)
    own = {
        prompt.meta["split_key"]: prompt.id
        for prompt in (task.draw("train", 0, p) for p in range(task.size("train") or 0))
    }
    named = [text for text in TRIES if text in own]
    file = PlanFile({f"row-{text}": TRIES[text] for text in named}, {f"row-{text}": text for text in named}, (), 0, 8)
    assert follow_plan(file, task, 0, where="").tries == {own[text]: TRIES[text] for text in named}


def test_what_cannot_be_walked_is_refused_with_the_remedy(words: Path, tmp_path: Path) -> None:
    task, path = opened(words), tmp_path / "plan.json"
    with pytest.raises(ConfigError, match=r"makes its prompts as it goes.*trl:next.jsonl.*--task next.jsonl"):
        follow_plan(file_of(task), open_task("arithmetic"), 0, where="plan.json")
    with pytest.raises(ConfigError, match="none of its 1 funded prompts is among the 20 training prompts"):
        follow_plan(PlanFile({"elsewhere": 4}, {}, (), 0, 8), task, 0, where="plan.json")
    good = {"onedial_plan": 1, "group_size": 8, "audit_prompts": 0, "prompts": [], "revisit": []}
    for text, message in [
        ("", "not a plan file"),
        ('{"prompt": "a"}\n{"prompt": "b"}', "not a plan file"),
        ("[]", "not a plan file of version 1"),
        (json.dumps({**good, "onedial_plan": 2}), "version 1"),
        (json.dumps({**good, "prompts": [{"prompt_id": "x"}]}), "tries"),
        (json.dumps({**good, "prompts": [{"prompt_id": "x", "tries": 1}]}), "at least 2"),
        (json.dumps({**good, "prompts": 3}), "--export onedial:plan.json"),
    ]:
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            read_plan(path)
    with pytest.raises(ConfigError, match=r"cannot be read.*--export onedial:plan.json"):
        read_plan(tmp_path / "absent.json")
    for row, message in (("two_grpo", "'two_grpo' fixes it"), ("sft", "'sft' samples nothing")):
        with pytest.raises(ConfigError, match=message):
            Run(plan="plan.json", algorithm=ALGORITHMS[row])


def test_the_exported_plan_holds_the_adaptive_tries(tmp_path: Path) -> None:
    """Oracle: the plan's own arrays; every prompt is funded, to be looked at again, or absent."""
    log = simulated(np.random.default_rng(0).beta(0.6, 0.8, 60))
    counts = collect_prompt_counts(log)
    made = plan(counts, 300)
    file = read_plan(export(made, read_prompt_rows(log, counts.ids), "onedial", tmp_path / "plan.json"))
    tries = dict(zip(counts.ids, map(int, made.adaptive_tries), strict=True))
    assert file.tries == {name: n for name, n in tries.items() if n} and min(file.tries.values()) >= 2
    decisions = dict(zip(counts.ids, made.decision, strict=True))
    assert set(file.revisit) == {name for name, n in tries.items() if not n and decisions[name] == "revisit"}
    assert file.group_size == made.group_size and file.audit_prompts <= made.audit_prompts
    assert set(file.texts) == set(file.tries) | set(file.revisit)


@pytest.mark.parametrize("row", ["grpo", "dapo"])
def test_a_run_by_a_plan_resumes_bit_for_bit_and_samples_what_was_planned(
    row: str, words: Path, tmp_path: Path, tiny_model: Path
) -> None:
    """Invariance: stopped after two iterations and resumed, with the plan file gone, it ends in the same weights."""
    words.with_name("test.jsonl").write_text('{"prompt": "held out", "answer": "a"}\n')
    options = {"test_path": str(words.with_name("test.jsonl")), "reward": early}
    own = ids(open_task(str(words), test_path=options["test_path"]))
    value = {
        "onedial_plan": 1,
        "group_size": 6,
        "audit_prompts": 1,
        "prompts": [{"prompt_id": own[word], "tries": n} for word, n in TRIES.items()],
        "revisit": [{"prompt_id": own[word]} for word in REVISIT],
    }
    (tmp_path / "plan.json").write_text(json.dumps(value))
    run = Run(
        model=str(tiny_model), task=str(words), task_options=options, algorithm=ALGORITHMS[row],
        plan=str(tmp_path / "plan.json"), out=str(tmp_path / "run"), iterations=4, prompts_per_iteration=3,
        group_size=4, max_new_tokens=4, lr=1e-3, dtype="float32", threads=1, eval_prompts=0, checkpoint_every=2,
        verifier_workers=1,
    )  # fmt: skip
    train(run)
    half = replace(run, out=str(tmp_path / "half"))
    train(replace(half, iterations=2))
    (tmp_path / "plan.json").unlink()
    train(half, resume=True)
    first, second = (
        load_file(checkpoint.find_latest(Path(r.out)) / "resume" / "masters.safetensors") for r in (run, half)
    )  # type: ignore[operator]
    assert all(bool((first[key] == second[key]).all()) for key in first)
    table = pl.read_parquet(tmp_path / "run" / "rollouts" / "*.parquet")
    for (_, prompt), group in table.group_by("group_id", "prompt"):
        assert len(group) == TRIES.get(prompt, 6) and (prompt in TRIES or prompt in REVISIT)
    seen = Counter(table.group_by("group_id").agg(pl.col("prompt").first()).get_column("prompt"))
    assert set(TRIES) <= set(seen)
