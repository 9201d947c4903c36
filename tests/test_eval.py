"""`onedial eval` and `onedial.evaluate` on a tiny random model.

Oracles: figures computed anew from the saved completions by counting subsets, transformers' own greedy decoding, and
the evaluation that training wrote of the same weights.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

import onedial
from onedial.cli import main as cli
from onedial.core.errors import DataError

SMALL = ["--max_new_tokens", "3", "--dtype", "float32", "--threads", "1"]


@pytest.fixture(scope="module")
def task_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward that a random model earns about half of the time: does a completion hold an even number of bytes?"""
    folder = tmp_path_factory.mktemp("task")
    path = folder / "parity.py"
    path.write_text(
        "import onedial\n"
        "class Parity:\n"
        "    name, in_process = 'parity', True\n"
        "    def prompt(self, rng):\n"
        "        n = rng.randint(0, 10**6)\n"
        "        meta = {'level': 'even' if n % 2 == 0 else 'odd'}\n"
        "        return onedial.Prompt(f'Say {n}', answer='0', meta=meta)\n"
        "    def verify(self, prompt, completion):\n"
        "        said = str(sum(completion.encode()) % 3)\n"
        "        return onedial.Verdict(float(said == '0'), correct=said == '0', answer=said)\n"
    )
    return path


def evaluate_cli(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert cli.main(["eval", *words, *SMALL, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def mean_over_subsets(rows: list[Any], k: int, value: Any) -> float:
    """The mean of `value` over all subsets of k rows."""
    values = [value(subset) for subset in itertools.combinations(rows, k)]
    return sum(values) / len(values)


def majority(subset: tuple[tuple[str, bool], ...]) -> float:
    votes = Counter(answer for answer, _ in subset)
    winners = [answer for answer, count in votes.items() if count == max(votes.values())]
    return sum(answer == "0" for answer in winners) / len(winners)


def test_figures_are_those_of_the_saved_completions(
    tiny_model: Path, task_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save = tmp_path / "rollouts.parquet"
    words = ["--task", f"{task_file}:Parity", "--prompts", "12", "--samples", "5", "--save", str(save)]
    found = evaluate_cli(capsys, str(tiny_model), *words)
    table = pl.read_parquet(save)
    assert len(table) == 60 and table["split"].unique().to_list() == ["test"]
    groups: dict[str, list[tuple[str, bool]]] = defaultdict(list)
    levels: dict[str, list[float]] = defaultdict(list)
    for row in table.iter_rows(named=True):
        said = str(sum(row["completion"].encode()) % 3)  # judged anew
        groups[row["group_id"]].append((said, said == "0"))
        levels[row["level"]].append(float(said == "0"))
    assert len(groups) == 12

    def over_prompts(k: int, value: Any) -> float:
        return sum(mean_over_subsets(rows, k, value) for rows in groups.values()) / len(groups)

    assert 0 < found["avg"]["value"] < 1, "the task must tell completions apart"
    assert found["avg"]["value"] == pytest.approx(table["correct"].mean())
    for k in (1, 2, 4):
        assert found["pass_at"][str(k)]["value"] == pytest.approx(over_prompts(k, lambda s: any(ok for _, ok in s)))
        assert found["maj_at"][str(k)]["value"] == pytest.approx(over_prompts(k, majority))
    assert set(found["pass_at"]) == {"1", "2", "4"}
    assert {name: value["value"] for name, value in found["levels"].items()} == pytest.approx(
        {name: sum(values) / len(values) for name, values in levels.items()}
    )
    assert found["length_mean"] == pytest.approx(table["completion_tokens"].mean())
    assert found["truncated_share"] == pytest.approx((table["finish_reason"] == "length").mean())
    assert found["reward_mean"] == pytest.approx(table["reward"].mean())
    assert (found["prompts"], found["samples"], found["unusable"]) == (12, 5, 0)


def test_the_seed_decides_everything(tiny_model: Path, tmp_path: Path) -> None:
    def completions(seed: int, max_rows: int) -> list[tuple[str, tuple[int, ...]]]:
        save = tmp_path / "x.parquet"
        settings = {"max_new_tokens": 6, "dtype": "float32", "threads": 1, "seed": seed, "max_rows": max_rows}
        onedial.evaluate(tiny_model, prompts=5, samples=3, save=save, **settings)
        table = pl.read_parquet(save).sort("group_id", "rollout_index")
        return list(zip(table["prompt"], map(tuple, table["token_ids"]), strict=True))

    first = completions(1, 64)
    assert completions(1, 64) == first
    assert completions(1, 4) == first, "a completion must not depend on what is written beside it"
    assert completions(2, 64) != first


def test_greedy_is_what_transformers_decodes(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    save = tmp_path / "x.parquet"
    found = onedial.evaluate(
        tiny_model, prompts=3, temperature=0, max_new_tokens=8, dtype="float32", threads=1, save=save
    )
    assert (found.samples, found.temperature) == (1, 0.0)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    for row in pl.read_parquet(save).iter_rows(named=True):
        message = [{"role": "user", "content": row["prompt"]}]
        tokens = torch.tensor([tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=False)])
        out = model.generate(tokens, attention_mask=torch.ones_like(tokens), do_sample=False, max_new_tokens=8)
        assert row["token_ids"] == out[0, tokens.shape[1] :].tolist()


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_a_run_is_evaluated_as_it_evaluated_itself(
    lora_rank: int, tiny_model: Path, task_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: the last line that training wrote to eval.jsonl, from the same weights in memory."""
    out = tmp_path / "run"
    run = onedial.Run(
        model=str(tiny_model), task=f"{task_file}:Parity", out=str(out), iterations=2, prompts_per_iteration=2,
        group_size=4, max_new_tokens=3, eval_prompts=6, eval_samples=3, dtype="float32", threads=1, lr=1e-2,
        lora_rank=lora_rank, seed=3,
    )  # fmt: skip
    onedial.train(run)
    written = [json.loads(line) for line in (out / "eval.jsonl").read_text().splitlines()]
    assert {key: value for key, value in written[0].items() if key != "iteration"} != {
        key: value for key, value in written[1].items() if key != "iteration"
    }, "training must have changed the figures, or this test shows nothing"
    assert cli.main(["eval", str(out), "--json", "--threads", "1", "--trust-config"]) == 0
    output = capsys.readouterr().out
    found = json.loads(output[output.index("{\n") :])
    for key, value in written[-1].items():
        if key != "iteration":
            assert found[key] == value, key
    # a checkpoint's own folder finds the run's settings too
    again = onedial.evaluate(out / "checkpoints" / "iteration_000002", threads=1, trust_config=True)
    assert again.to_json()["avg"] == written[-1]["avg"]


def test_the_printed_page_fits_80_columns(
    tiny_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tiny_model.parent)
    assert cli.main(["eval", tiny_model.name, "--prompts", "4", "--samples", "2", *SMALL]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    for word in ("avg@2", "pass@2", "95 % interval", "mean length", "truncated", "not judged 0"):
        assert word in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--samples", "3", "--temperature", "0"], "at temperature 0 all completions of a prompt are the same"),
        (["--samples", "none"], "eval_samples='none': must be int"),
        (["--task", "arithmetik"], "did you mean 'arithmetic'"),
        (["--task.levelz", "add1"], "did you mean 'levels'"),
        (["--sample", "3"], "did you mean '--samples'"),
        (["--prompts", "0"], "must be at least 1"),
        (["--save", "/nowhere/x.parquet"], "no such folder /nowhere"),
        (["--save", "run.toml"], "must end in .parquet"),
        (["--device", "tpu9"], "device='tpu9'"),
        (["--max_new_tokens", "1000"], "exceeds the model's context of 256"),
    ],
)
def test_a_mistake_is_one_message(
    words: list[str], said: str, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["eval", str(tiny_model), "--prompts", "2", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and said in captured.err and "Traceback" not in captured.err


def test_a_run_without_checkpoint_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.toml").write_text('model = "smollm2"\n')
    assert cli.main(["eval", str(tmp_path)]) == 2
    assert "has no checkpoint yet" in capsys.readouterr().err


def test_a_verifier_that_always_fails_is_no_accuracy_of_zero(tiny_model: Path) -> None:
    class Broken:
        name, in_process = "broken", True

        def prompt(self, rng: Any) -> onedial.Prompt:
            return onedial.Prompt(f"Say {rng.random()}")

        def verify(self, prompt: onedial.Prompt, completion: str) -> float:
            raise KeyError("gone")

    with pytest.raises(DataError, match="none of 4 completions could be judged; the first verdict: error, .*KeyError"):
        onedial.evaluate(tiny_model, Broken(), prompts=2, samples=2, max_new_tokens=2, threads=1)
