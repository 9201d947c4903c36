"""Each file under examples/ runs as it stands, on a tiny random model.

Oracles: the run directory that it leaves, a median worked out by hand, and the gradient of an unsplit batch.
"""

from __future__ import annotations

import importlib.util
import json
import os
import runpy
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import pytest
import torch

import onedial
from onedial.core.settings_file import make_run, merge, read_settings
from onedial.training.tasks import open_task, verify

EXAMPLES = Path(__file__).parents[1] / "examples"


def run_example(monkeypatch: pytest.MonkeyPatch, name: str, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", [name, *words])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def loaded(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def metrics(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", ["new_algorithm.py", "new_task.py", "custom_reward.py"])
def test_example_trains(
    name: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    run_example(monkeypatch, name, "--model", str(tiny_model), "--iterations", "1", "--out", str(out))
    assert [record["iteration"] for record in metrics(out)] == [1]
    assert (out / "checkpoints" / "iteration_000001" / "model.safetensors").is_file()
    evaluations = [json.loads(line) for line in (out / "eval.jsonl").read_text().splitlines()]
    assert [record["iteration"] for record in evaluations] == [0, 1]
    assert all(record["unusable"] == 0 for record in evaluations), "a verifier failed"
    assert str(out) in capsys.readouterr().out


def test_all_examples_are_tested() -> None:
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    assert names == {"new_algorithm", "new_task", "custom_reward", "own_loop", "own_allocator", "own_functions"}


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.stem)
def test_settings_files_are_whole_runs(path: Path) -> None:
    """Oracle: the checks of `Run`, and that naming the file's own row on the command line, as its heading says, keeps
    the cells that the file sets."""
    settings = read_settings(path)
    named = merge(settings, {"algorithm": {"row": settings["algorithm"]["row"]}})
    assert make_run(named) == make_run(settings)
    assert make_run(settings).algorithm.name == settings["algorithm"]["row"]


def test_the_median_baseline_by_hand() -> None:
    row = loaded("new_algorithm").MINE
    from onedial.core.maths.advantage import advantages

    # two groups: 0 0 1 (median 0) and 1 1 0 (median 1); dr_grpo's dial 0 divides by nothing
    rewards = torch.tensor([0.0, 0, 1, 1, 1, 0], dtype=torch.double)
    found = advantages(row, rewards, torch.tensor([0, 0, 0, 1, 1, 1]))
    assert found.tolist() == [0, 0, 1, 0, 0, -1]


def test_the_run_of_a_row_with_a_function_is_resumed_from_the_command_line(tiny_model: Path, tmp_path: Path) -> None:
    """As a person does it: the example makes the run, `onedial train --resume` goes on with it."""
    out, env = tmp_path / "run", {**os.environ, "OMP_NUM_THREADS": "1"}
    made = [sys.executable, str(EXAMPLES / "new_algorithm.py"), "--model", str(tiny_model), "--iterations", "1"]
    subprocess.run([*made, "--out", str(out)], check=True, env=env, capture_output=True)
    again = [sys.executable, "-m", "onedial", "train", "--resume", str(out), "--iterations", "2", "--trust-config"]
    done = subprocess.run(again, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [record["iteration"] for record in metrics(out)] == [1, 2]


def test_the_reverse_task_by_hand_and_by_name() -> None:
    source = open_task(f"{EXAMPLES / 'new_task.py'}:Reverse", length=3)
    prompt = source.draw("train", 0, 0)
    word = prompt.plain.removeprefix("Reverse: ")
    assert len(word) == 3 and prompt.answer == word[::-1]
    task = loaded("new_task").Reverse(length=3)
    known = onedial.Prompt("Reverse: abc", answer="cba")
    assert task.verify(known, "It is cba").correct
    assert task.verify(known, "It is cbd").reward == pytest.approx(0.5 * 2 / 3)
    assert task.verify(known, "").reward == 0


def test_the_reward_function_by_hand_and_as_the_command_line_names_it() -> None:
    source = open_task(str(EXAMPLES / "capitals.jsonl"), reward=f"{EXAMPLES / 'custom_reward.py'}:short_and_right")
    prompt = source.heldout(1)[0]
    assert verify(source, prompt, f" {prompt.answer}.").reward == 1
    assert verify(source, prompt, "x" * len(prompt.answer) + prompt.answer).reward == 0.5
    assert verify(source, prompt, "no").reward == 0


def test_own_loop_runs(tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run_example(monkeypatch, "own_loop.py", "--model", str(tiny_model), "--iterations", "1")
    assert capsys.readouterr().out.startswith("iteration 1: mean reward ")


def test_own_loop_gradient_ignores_the_split(tiny_model: Path) -> None:
    """Oracle: the same batch in one piece. The loop's logps must also be those that `generate` sampled from."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    example = loaded("own_loop")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    torch.manual_seed(0)
    groups = [example.sample_group(model, tokenizer, Random(i), i) for i in range(2)]
    # rewards that differ: a random model answers nothing right
    groups = [
        replace(group, rollouts=tuple(replace(r, verdict=onedial.Verdict(float(r.index % 3))) for r in group.rollouts))
        for group in groups
    ]
    batch = onedial.add_advantages(example.ROW, onedial.pack(groups), max_new_tokens=example.NEW_TOKENS)
    torch.testing.assert_close(example.completion_logps(model, batch), batch["engine_logp"], atol=1e-4, rtol=0)

    def gradient(micro_batches: int) -> torch.Tensor:
        model.zero_grad()
        example.backward(model, batch, micro_batches)
        return torch.cat([weight.grad.flatten() for weight in model.parameters()])

    whole = gradient(1)
    assert whole.norm() > 1e-3
    torch.testing.assert_close(gradient(5), whole, atol=1e-6, rtol=1e-4)


def test_an_allocator_of_ones_own_is_judged() -> None:
    """Oracle: uniform sampling beside itself needs the same; before anything is solved it is uniform sampling."""
    example = loaded("own_allocator")
    world = replace(example.SMALL, prompts=60, held_out=40, topics=6, dimensions=16)
    fixed, dynamic, rest = example.judge(world, target=0.4, seeds=2)
    assert fixed.ratio == 1.0 and {fixed.reached, dynamic.reached, rest.reached} == {2}
    rested = example.RestSolved(example.RUN, lambda position: onedial.Prompt(str(position)))
    assert [request.position for request in rested.ask()] == list(range(16))


def test_the_library_sketch_of_the_documents(tiny_model: Path, tmp_path: Path) -> None:
    """`train(Run(model=…, task=…, algorithm=replace(row, …)))` with a task object and a task name, defaults else."""

    @dataclass(frozen=True)
    class Reverse:
        name: str = "reverse"
        length: int = 6

        def prompt(self, rng: Random) -> onedial.Prompt:
            word = "".join(rng.choices("abcdefgh", k=self.length))
            return onedial.Prompt(f"Reverse: {word}", answer=word[::-1])

        def verify(self, prompt: onedial.Prompt, completion: str) -> onedial.Verdict:
            got = onedial.last_word(completion)
            return onedial.Verdict(float(got == prompt.answer), answer=got)

    mine = replace(
        onedial.ALGORITHMS["dr_grpo"], name="median_grpo", baseline=lambda r: r.median(dim=1, keepdim=True).values
    )
    small = {"iterations": 1, "max_new_tokens": 4, "eval_prompts": 4, "eval_samples": 2, "prompts_per_iteration": 2}
    for number, task in enumerate(("countdown", Reverse())):
        out = tmp_path / str(number)
        run = onedial.Run(model=str(tiny_model), task=task, algorithm=mine, out=str(out), **small)
        result = onedial.train(run)
        assert result.directory == out and result.after is not None and result.after.prompts == 4
        assert metrics(out)[0]["iteration"] == 1
