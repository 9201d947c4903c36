"""`onedial bench`: what is counted as necessary arithmetic, which way ratios point, what is timed and what is not.

Oracles: hand counts on the tiny model, hand-made series, the engine's own token counter, and the table of figures.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from onedial.cli import main as cli
from onedial.core.algorithm_table import ALGORITHMS
from onedial.core.errors import ConfigError
from onedial.core.maths.loss import contributes
from onedial.evidence.bench import machine, measure, ours
from onedial.evidence.bench.busy import run_beside_busy_process
from onedial.evidence.bench.figure import Figure, Point
from onedial.evidence.bench.flops import WeightCounts, count_weights, decode_flops, update_flops
from onedial.evidence.bench.peer_process import Reply, Worker, WorkerFailed
from onedial.evidence.bench.result_page import format_number, format_page, text_lines
from onedial.evidence.bench.scaling import AXES, workload_at
from onedial.evidence.bench.workload import (
    GENERATE,
    LONG,
    STEP,
    Conditions,
    Workload,
    choose_reward,
    make_prompt_ids,
    make_prompt_texts,
    rows_per_pass,
)
from onedial.training.models import load_causal_lm, load_tokenizer

SMALL = Workload(4, 4, 20, 6)
NAMES = [
    "generate_vs_transformers",
    "generate_vs_vllm",
    "decode_ceiling_share",
    "update_ceiling_share",
    "generate_beside_busy",
    "step_vs_trl_all_mixed",
    "step_vs_trl_quarter_mixed",
    "step_vs_trl_silent",
    "step_vs_trl_long_prompt",
    "step_memory_vs_trl",
]
KEYS = {"figure", "ours", "other", "other_name", "unit", "ratio"}


@pytest.fixture()
def settings(tiny_model: Path) -> Conditions:
    threads = torch.get_num_threads()
    return Conditions(str(tiny_model), "cpu", "float32", threads, 256, repeats=1, gemm_size=64, decode_steps=4)


# -- arithmetic ----------------------------------------------------------------------------------


def test_weights_of_the_tiny_model_by_hand(tiny_model: Path) -> None:
    # a block: q 64·64, k and v 32·64, o 64·64, gate, up and down 128·64, two norms; then the last norm
    block = 64 * 64 + 2 * 32 * 64 + 64 * 64 + 3 * 128 * 64 + 2 * 64
    model = load_causal_lm(tiny_model, torch.float32)
    assert count_weights(model) == WeightCounts(body=2 * block + 64, head=258 * 64)


def test_a_tied_head_counts_as_head_only() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes: dict[str, Any] = {
        "vocab_size": 10, "hidden_size": 8, "intermediate_size": 4, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 2,
    }  # fmt: skip
    tied, untied = (LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=tie)) for tie in (True, False))
    assert count_weights(tied) == count_weights(untied) == WeightCounts(4 * 64 + 3 * 32 + 3 * 8, 80)


def test_flops_by_hand() -> None:
    weights = WeightCounts(body=1000, head=10)
    assert decode_flops(weights, rows=3) == 2 * 1010 * 3
    # 7 prompt tokens meet the body only, 5 completion tokens the head as well
    assert update_flops(weights, prompt_tokens=7, completion_tokens=5) == 6 * (1000 * 12 + 10 * 5)


def test_the_ceiling_is_two_n_cubed_over_its_time(settings: Conditions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "time_seconds", lambda work, device: 0.25)
    assert machine.Ceiling(settings)() == pytest.approx(2 * 64**3 / 0.25 / 1e9)


# -- figures -------------------------------------------------------------------------------------


def test_the_figures_are_those_of_the_table() -> None:
    assert measure.select_figures("all", "") == NAMES
    assert measure.select_figures("step", "step_vs_trl_silent, step_vs_trl_all_mixed") == [NAMES[5], NAMES[7]]
    with pytest.raises(ConfigError, match="did you mean 'step_vs_trl_silent'"):
        measure.select_figures("step", "step_vs_trl_silence")
    with pytest.raises(ConfigError, match="not a figure of update"):
        measure.select_figures("update", "decode_ceiling_share")


@pytest.mark.parametrize(
    ("unit", "own", "other", "ratio", "span"),
    [
        ("tokens/s", (100.0, 400.0, 200.0), (50.0, 100.0, 40.0), 200 / 50, (2.0, 5.0)),
        ("GFLOP/s", (100.0,), (400.0,), 0.25, (0.25, 0.25)),
        ("s", (2.0, 1.0, 4.0), (8.0, 9.0, 10.0), 9 / 2, (2.5, 9.0)),
        ("GB", (3.0,), (12.0,), 4.0, (4.0, 4.0)),
    ],
)
def test_a_ratio_above_one_means_ours_is_better(unit: str, own: Any, other: Any, ratio: float, span: Any) -> None:
    record = Figure("f", unit, "peer", "work", own, other).to_json()
    assert record["ratio"] == ratio  # of the medians
    assert (record["ratio_min"], record["ratio_max"]) == span  # of the turns
    assert (record["ours_min"], record["ours_max"]) == (min(own), max(own))
    assert record["repeats"] == len(own)


def test_what_was_not_measured_says_why() -> None:
    record = Figure("generate_vs_vllm", "tokens/s", "vLLM", "work", reason="vllm is not installed").to_json()
    assert record["ratio"] is record["ours"] is record["other"] is None
    assert record["reason"] == "vllm is not installed"


def test_sides_take_turns_and_the_first_turn_is_not_counted() -> None:
    order: list[str] = []

    def runner(name: str) -> Any:
        return lambda: order.append(name) or float(len(order))

    series = machine.measure_in_turn([runner("ceiling"), runner("ours"), runner("peer")], 2)
    assert order == ["ceiling", "ours", "peer"] * 3
    assert series == [[4.0, 7.0], [5.0, 8.0], [6.0, 9.0]]


def test_tables_fit_a_terminal_and_the_page_holds_every_figure() -> None:
    figures = [
        Figure(NAMES[0], "tokens/s", "transformers 5.23.0", str(GENERATE), (1234.5, 1250.0), (300.0, 310.0)),
        Figure(NAMES[1], "tokens/s", "vLLM", str(GENERATE), reason="vllm is not installed " * 9),
        Figure(NAMES[6], "s", "TRL 1.16.0", f"{STEP}, quarter mixed", (2.0,), (26.0,)),
        Figure(NAMES[3], "GFLOP/s", measure.CEILING, str(STEP), (434.0,), (868.0,)),
    ]
    points = [Point("curve_generate_rows", 1024, 500.0, "work")]
    conditions = {"processor": "some processor " * 8, "threads": 2}
    lines = list(text_lines(figures, points, conditions))
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    page = format_page(figures, points, conditions)
    for figure in figures:
        assert figure.figure in text and f"`{figure.figure}`" in page
    for expected in ("13.00×", "50.0 %", "not measured", "2,000"):  # 26 s / 2 s, 434 / 868, 1e6 µs / 500 tokens
        assert expected in text and expected in page
    assert [format_number(value) for value in (1234.5, 12.34, 1.234, 0.1234)] == ["1,234", "12.3", "1.23", "0.123"]


def test_the_busy_process_loops_while_the_work_runs_and_not_after(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **kw: started.append(start(*args, **kw)) or started[-1])
    before, spent = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime, 0.0
    for seconds in (0.5, 2.0, 8.0):  # a crowded machine gives it little
        run_beside_busy_process(lambda seconds=seconds: time.sleep(seconds))
        spent = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
        if spent > 0.2:
            break
    assert spent > 0.2  # starting Python takes far less
    with pytest.raises(ZeroDivisionError):
        run_beside_busy_process(lambda: 1 // 0)
    assert [process.returncode for process in started] == [-9] * len(started)


# -- the work ------------------------------------------------------------------------------------


def test_shapes_are_those_of_the_table_and_fit_the_context() -> None:
    assert (GENERATE.rows, GENERATE.tokens) == (64, 4096) and STEP.tokens == LONG.tokens == 64 * 24
    assert LONG.prompt_tokens == 400
    assert LONG.fitted(256) == Workload(8, 8, 232, 24) and LONG.fitted(8192) == LONG


def test_trl_takes_fewer_long_rows_at_once() -> None:
    # 64 rows of 75 tokens hold 4,800, eleven of 424; the passes of a step are equal
    assert rows_per_pass(STEP, 64) == 64 and rows_per_pass(STEP, 63) == 32 and rows_per_pass(STEP, 1000) == 64
    assert rows_per_pass(LONG, 64) == 8 and rows_per_pass(LONG, 1) == 1


def test_rewards_make_the_groups_wanted() -> None:
    def mixed(mode: str) -> int:
        groups = [{choose_reward(mode, prompt, index, 8) for index in range(8)} for prompt in range(8)]
        return sum(len(rewards) == 2 for rewards in groups)

    assert [mixed(mode) for mode in ("all_mixed", "quarter_mixed", "silent")] == [8, 2, 0]


def test_prompts_are_distinct_and_of_the_length_wanted(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(tiny_model)
    ids = make_prompt_ids(tokenizer, STEP)
    assert [len(prompt) for prompt in ids] == [51] * 8 and len(set(map(tuple, ids))) == 8
    assert [tokenizer(text).input_ids for text in make_prompt_texts(tokenizer, STEP)] == ids


def test_generation_writes_every_token(settings: Conditions) -> None:
    work = ours.Generation(settings, SMALL, ours.open_policy(settings, SMALL).model)
    assert work.seconds() > 0
    assert work.engine.tokens_generated == SMALL.tokens


def test_decoding_times_full_steps_only(settings: Conditions, monkeypatch: pytest.MonkeyPatch) -> None:
    generation = ours.Generation(settings, SMALL, ours.open_policy(settings, SMALL).model)
    engine, timed = generation.engine, []

    def clock(work: Any, device: torch.device) -> float:
        before = engine.tokens_generated
        work()
        timed.append(engine.tokens_generated - before)
        assert engine.pending == SMALL.rows, "a row ended inside the timed steps"
        return 8.0

    monkeypatch.setattr(ours, "time_seconds", clock)
    assert generation.decode_seconds(steps=4) == 2.0
    assert timed == [4 * SMALL.rows] and engine.pending == 0


def test_the_update_computes_every_row(settings: Conditions) -> None:
    batch = ours.make_mixed_batch(settings, SMALL)
    assert contributes(ALGORITHMS["dapo"], batch).all()
    assert (len(batch.prompt_tokens), len(batch.tokens)) == (4 * 20, 4 * 4 * 6)


def test_steps_train_on_mixed_groups_only(settings: Conditions, monkeypatch: pytest.MonkeyPatch) -> None:
    stepper = ours.Stepper(settings, SMALL)
    trained: list[tuple[int, int]] = []
    genuine = ours.update

    def watched(policy: Any, reference: Any, batch: Any, iteration: int, progress: Any) -> Any:
        updated = genuine(policy, reference, batch, iteration, progress)
        trained.append((len(batch.group_ids), updated.tokens_trained))
        return updated

    monkeypatch.setattr(ours, "update", watched)
    for mode in ("all_mixed", "quarter_mixed", "silent"):
        assert stepper.step(mode) > 0
    assert trained == [(4, 96), (1, 24), (0, 0)]
    assert stepper.engine.tokens_generated == 3 * SMALL.tokens  # silent groups are generated all the same
    assert stepper.steps == stepper.engine.version == 2


def test_curves_vary_one_quantity() -> None:
    for axis, (values, _) in AXES.items():
        for value in values:
            shape = workload_at(axis, value, "generate")
            got = {"rows": shape.rows, "group_size": shape.group_size, "prompt": shape.prompt_tokens,
                   "completion": shape.completion_tokens}  # fmt: skip
            assert got[axis] == value
            assert shape.rows == 64 or axis == "rows"
    bounds = {axis: (min(values), max(values)) for axis, (values, _) in AXES.items()}
    assert bounds == {"rows": (1, 256), "group_size": (2, 64), "prompt": (32, 2048), "completion": (16, 1024)}


# -- the command ---------------------------------------------------------------------------------


def bench(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    threads = torch.get_num_threads()
    assert cli.main(["bench", *words, "--quick", "--threads", str(threads), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_generate_from_the_command_line(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = bench(capsys, "generate", "--model", str(tiny_model), "--repeats", "2", "--dtype", "float32")
    assert [record["figure"] for record in records] == NAMES[:3]
    for record in records:
        assert record.keys() >= KEYS | {"ours_min", "ours_max", "ratio_min", "ratio_max", "conditions"}
        if record["ratio"] is None:
            assert record["figure"] == "generate_vs_vllm" and record["reason"]
            continue
        assert record["ratio"] == pytest.approx(record["ours"] / record["other"])
        assert record["ours_min"] <= record["ours"] <= record["ours_max"]
        assert record["conditions"]["threads"] == torch.get_num_threads()
    assert records[2]["other_name"] == "GEMM ceiling" and records[2]["unit"] == "GFLOP/s"


def test_update_with_curves_and_a_page(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "performance.md"
    records = bench(
        capsys, "update", "--model", str(tiny_model), "--repeats", "1", "--dtype", "float32", "--curves",
        "--write", str(page),
    )  # fmt: skip
    assert records[0]["figure"] == "update_ceiling_share" and records[0]["ratio"] > 0
    assert {record["figure"] for record in records[1:]} == {f"curve_update_{axis}" for axis in AXES}
    for record in records[1:]:
        assert record["us_per_token"] == pytest.approx(1e6 / record["ours"]) and record["ratio"] is None
    assert "`update_ceiling_share`" in page.read_text() and "| update, group size |" in page.read_text()


def test_an_interrupted_measurement_loses_nothing(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = Figure(NAMES[5], "s", "TRL 1.16.0", str(STEP), (2.0, 2.0), (26.0, 26.0))

    def interrupted(*_: Any) -> Iterator[Figure]:
        yield first
        raise KeyboardInterrupt

    monkeypatch.setattr(measure, "measure", interrupted)
    page = tmp_path / "page.md"
    words = ["bench", "step", "--model", str(tiny_model), "--quick", "--write", str(page)]
    cli.main(words)
    assert "13.00×" in capsys.readouterr().out
    assert "13.00×" in page.read_text() and "interrupted" in page.read_text()
    assert "interrupted" not in format_page([first], [], {})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--repeats", "0"], "--repeats 0: must be from 1 to"),
        (["--peer-rows", "0"], "--peer-rows 0: must be from 1 to"),
        (["--figures", "generate"], "not a figure of step"),
        (["--write", "nowhere/page.md"], "no folder nowhere"),
    ],
)
def test_mistakes_are_one_message(
    words: list[str], message: str, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bench", "step", "--model", str(tiny_model), *words]) == 2
    assert message in capsys.readouterr().err


def test_a_process_that_fails_says_why(settings: Conditions, tmp_path: Path) -> None:
    from dataclasses import replace

    broken = replace(settings, model=str(tmp_path / "no-such-model"))
    with (
        pytest.raises(WorkerFailed, match=r"ours could not be measured: \w+Error: .*no-such-model") as caught,
        Worker("ours", broken, SMALL),
    ):
        pass
    assert caught.value.name == "ours"


@pytest.mark.parametrize("wait", [0.0, 0.3])
def test_processes_of_a_measurement_are_silent_about_ctrl_c(wait: float) -> None:
    """On a terminal it reaches all of them. Oracle: what this one says itself is all that is said."""
    script = (
        "import os, signal, time, types\n"
        "from onedial.evidence.bench.busy import run_beside_busy_process\n"
        "from onedial.evidence.bench.peer_process import Worker\n"
        "def interrupt():\n"
        f"    time.sleep({wait}); os.killpg(0, signal.SIGINT); time.sleep(60)\n"
        "def work():\n"
        "    Worker('ours', types.SimpleNamespace(threads=1, device='cpu'), None); interrupt()\n"
        "if __name__ == '__main__':\n"
        "    try:\n"
        "        run_beside_busy_process(work)\n"
        "    except KeyboardInterrupt:\n"
        "        print('stopped')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, start_new_session=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "stopped\n", "")


def test_a_failing_peer_leaves_its_figures_unmeasured(settings: Conditions, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def __init__(self, name: str, settings: Conditions, shape: Workload) -> None:
            self.name = name

        def __enter__(self) -> Broken:
            if self.name == "trl":
                raise WorkerFailed("trl", "no memory")
            return self

        def ask(self, mode: str) -> Reply:
            return Reply(1.0, 10**9)

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(measure, "Worker", Broken)
    monkeypatch.setattr(measure, "_absent", lambda package: None)
    figures = list(measure.measure(settings, NAMES[5:], lambda text: None))
    assert [figure.figure for figure in figures] == NAMES[5:]
    assert {figure.reason for figure in figures} == {"trl could not be measured: no memory"}


@pytest.mark.slow
def test_steps_and_memory_against_trl(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("trl", reason="TRL is not installed")
    for command, names in (("step", NAMES[5:9]), ("memory", NAMES[9:])):
        records = bench(capsys, command, "--model", str(tiny_model), "--repeats", "1", "--peer-rows", "32")
        assert [record["figure"] for record in records] == names
        for record in records:
            assert record["reason"] is None and record["ratio"] == pytest.approx(record["other"] / record["ours"])
