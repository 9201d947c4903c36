"""Training end to end on the tiny model: it learns, resumes bit for bit, and nothing paid for is lost."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from onedial.core.algorithm_table import ALGORITHMS
from onedial.core.batch import Batch
from onedial.core.errors import CheckpointError, ConfigError, EngineError, RunDirError
from onedial.core.maths.loss import contributes
from onedial.core.run_log import read_json_lines
from onedial.core.settings import Run
from onedial.training.rollout.torch_engine import TorchEngine
from onedial.training.trainer import checkpoint, loop
from onedial.training.trainer import step as step_module
from onedial.training.trainer.device import pick_device
from onedial.training.trainer.live_view import View
from onedial.training.trainer.loop import train
from onedial.training.trainer.metrics import METRICS
from onedial.training.trainer.policy import Policy
from onedial.training.trainer.step import learning_rate, update
from test_identities import _plain_logps
from train_tasks import Broken, HalfImpossible, Impossible


@pytest.fixture
def run(small_run: Run) -> Run:
    return small_run


def weights(directory: str | Path) -> dict[str, torch.Tensor]:
    newest = checkpoint.find_latest(Path(directory))
    assert newest is not None
    resume = newest / "resume"
    files = sorted(resume.glob("*.safetensors"))
    return {f"{file.stem}/{name}": value for file in files for name, value in load_file(file).items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def untimed(directory: str | Path) -> list[dict[str, Any]]:
    clock = {"time_s", "generate_s", "verify_s", "update_s", "tokens_per_s", "memory_gb"}
    records = read_json_lines(Path(directory) / "metrics.jsonl")
    return [{key: value for key, value in record.items() if key not in clock} for record in records]


def rollouts(directory: str | Path) -> pl.DataFrame:
    return pl.read_parquet(Path(directory) / "rollouts" / "*.parquet").sort("group_id", "rollout_index")


def test_the_reward_rises_and_everything_is_logged(run: Run) -> None:
    """The tiny model learns a one-token task; the log holds every rollout and every documented metric."""
    started = time.perf_counter()
    result = train(replace(run, iterations=25, lr=5e-3, eval_prompts=20, eval_samples=4, checkpoint_every=25))
    spent = time.perf_counter() - started
    assert result.before is not None and result.after is not None
    assert result.after.avg.value > result.before.avg.low + 0.25
    records = read_json_lines(result.directory / "metrics.jsonl")
    assert len(records) == 25 and all(set(record) == set(METRICS) for record in records)
    assert sum(record["time_s"] for record in records) < result.train_s < spent, "iterations and checkpoints"
    frame = rollouts(result.directory)
    assert len(frame) == sum(record["rollouts_generated"] for record in records)
    assert frame["completion_tokens"].sum() == sum(record["tokens_generated"] for record in records)
    assert set(frame["status"].unique()) <= {"trained", "silent", "carried"}
    # the log's own rewards give the logged shares: max == min per group, in plain Python
    for record in records[:5]:
        groups: dict[str, list[float]] = {}
        for row in frame.filter(pl.col("iteration") == record["iteration"]).iter_rows(named=True):
            groups.setdefault(row["group_id"], []).append(row["reward"])
        mixed = sum(max(rewards) != min(rewards) for rewards in groups.values())
        assert record["mixed_share"] == pytest.approx(mixed / len(groups))
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = checkpoint.find_latest(result.directory)
    model = AutoModelForCausalLM.from_pretrained(folder)
    stored = load_file(folder / "resume" / "masters.safetensors")
    assert all(torch.equal(weight, stored[name]) for name, weight in model.named_parameters())
    assert AutoTokenizer.from_pretrained(folder).eos_token == "<|end|>"


@pytest.mark.parametrize("row", ["mixed_grpo", "dapo", "grpo", "gspo", "reinforce", "ppo", "vapo"])
def test_a_run_repeats_and_resumes_bit_for_bit(run: Run, row: str, tmp_path: Path) -> None:
    """Invariance: two runs agree in every bit; so does one whose later half is done again after a stop."""
    warmup = min(1, ALGORITHMS[row].critic_warmup)
    run = replace(run, algorithm=replace(ALGORITHMS[row], critic_warmup=warmup), iterations=4)
    train(run)
    again = replace(run, out=str(tmp_path / "again"))
    train(again)
    assert same(weights(run.out), weights(again.out))
    assert untimed(run.out) == untimed(again.out)
    half = replace(run, out=str(tmp_path / "half"), iterations=4)
    train(replace(half, iterations=2))
    with (tmp_path / "half" / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 3, "cut off by a ki')
    train(half, resume=True)
    assert same(weights(run.out), weights(half.out))
    assert untimed(run.out) == untimed(half.out)
    assert rollouts(run.out).equals(rollouts(half.out))


def refuse_to_generate(self: Any, request: Any) -> None:
    raise AssertionError("generated again")


def test_paid_rollouts_are_not_generated_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after the rollouts of an iteration were written: resuming reads them, and ends in the same weights."""
    run = replace(run, keep_checkpoints=2)  # so that deleting the last leaves what a kill in iteration 4 would
    train(run)
    finished, wanted = weights(run.out), rollouts(run.out)
    shutil.rmtree(checkpoint.checkpoint_path(Path(run.out), 4))
    monkeypatch.setattr(TorchEngine, "submit", refuse_to_generate)
    train(run, resume=True)
    assert same(weights(run.out), finished)
    assert rollouts(run.out).equals(wanted)


@pytest.mark.parametrize("change", [{"micro_batch_tokens": 40}, {"activation_checkpointing": True}, {"max_rows": 3}])
def test_how_the_work_is_cut_changes_nothing(run: Run, change: dict[str, Any], tmp_path: Path) -> None:
    """Invariance: micro-batches, recomputation and engine places leave the weights within fp32 rounding."""
    whole = replace(run, iterations=2, algorithm=ALGORITHMS["naive_grpo"])
    train(whole)
    cut = replace(whole, out=str(tmp_path / "cut"), **change)
    train(cut)
    assert rollouts(whole.out)["token_ids"].to_list() == rollouts(cut.out)["token_ids"].to_list()
    first, second = (
        load_file(checkpoint.find_latest(Path(r.out)) / "resume" / "masters.safetensors") for r in (whole, cut)
    )
    # Adam divides by the gradient's own size, so where that is nearly 0 rounding shows: rarely, and far below lr = 1e-3
    differences = torch.cat([(first[name] - second[name]).abs().flatten() for name in first])
    assert float(differences.mean()) < 1e-7 and float(differences.max()) < 1e-4


def captured_gradient(run: Run, batch: Any, keep_all_rows: bool, monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    policy = Policy(run, run.model)
    gradients: list[torch.Tensor] = []

    def step(lr: float) -> float:
        gradients.extend(
            torch.zeros_like(master) if master.grad is None else master.grad.clone()
            for master in policy.weights.masters
        )
        return 0.0

    monkeypatch.setattr(policy, "step", step)
    if keep_all_rows:
        monkeypatch.setattr(step_module, "contributes", lambda row, part: torch.ones_like(part.rollout_mask))
    reference = policy.frozen_copy() if run.algorithm.needs_reference else None
    update(policy, reference, batch, 1, lambda *_: None)
    monkeypatch.undo()
    return gradients


SKIPPING = [name for name, row in ALGORITHMS.items() if row.updates_per_iteration == 1 and row.source != "pairs"]


@pytest.mark.parametrize("name", SKIPPING)
def test_silent_rows_are_skipped_exactly_where_they_teach_nothing(
    run: Run, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Identity: the gradient with silent rows computed equals the one with them skipped, for every row of the table."""
    from test_lm import ragged_batch

    row = replace(ALGORITHMS[name], critic_warmup=0)
    run = replace(run, algorithm=row, group_size=max(4, row.pass_k + 1)).resolved()
    batch = ragged_batch([(5, [3, 1, 4, 2]), (7, [4, 4, 1, 2]), (3, [2, 2, 3, 3])], vocabulary=250)
    advantage = batch["advantage"].clone()
    advantage[4:8] = 0.0  # the second group is unanimous
    batch = batch.annotate(advantage=advantage, positive=torch.zeros_like(batch["positive"]))
    if row.needs_critic:
        batch = batch.annotate(
            token_advantage=advantage[batch.rollout_of_token] * torch.linspace(0.5, 1.5, len(batch.tokens))
        )
    skipped = captured_gradient(run, batch, False, monkeypatch)
    computed = captured_gradient(run, batch, True, monkeypatch)
    assert bool(contributes(row, batch).all()) == row.kl_in_loss, "KL in the loss pulls on silent groups too"
    assert any(float(gradient.abs().max()) > 0 for gradient in skipped)
    for ours, full in zip(skipped, computed, strict=True):
        torch.testing.assert_close(ours, full, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_lora_trains_its_adapters_only(run: Run, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the first step makes of the adapters; they are saved as peft loads them, and resuming works.

    Oracle: the gradient of −Σ A log π / T through peft's own model of the untouched base, and AdamW's first step,
    −lr·g/(|g| + 1e-8). B starts at 0, so A has no gradient and stays; a base that moved would change log π.
    """
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    run = replace(run, lora_rank=2, dtype=dtype, iterations=1, checkpoint_every=1, grad_clip=0.0)
    seen = batches_of(monkeypatch)
    train(run)
    folder = checkpoint.find_latest(Path(run.out))
    assert folder is not None and len(seen) == 1
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(run.model), folder, is_trainable=True)
    first, second = ({n: w for n, w in loaded.named_parameters() if f"lora_{half}" in n} for half in "AB")
    moved = [weight.detach().clone() for weight in second.values()]
    with torch.no_grad():
        for weight in second.values():
            weight.zero_()
    batch = seen[0]
    per_token = batch["advantage"][batch.rollout_of_token]
    loss = -(per_token * _plain_logps(loaded, batch)).sum() / len(batch.tokens)
    gradients = torch.autograd.grad(loss, [*first.values(), *second.values()])
    assert not any(gradient.any() for gradient in gradients[: len(first)])
    for got, gradient in zip(moved, gradients[len(first) :], strict=True):
        clear = gradient.abs() > (1e-6 if dtype == "float32" else 0.2 * gradient.abs().max())
        assert clear.any()
        expected = -run.lr * gradient / (gradient.abs() + 1e-8)
        torch.testing.assert_close(got[clear], expected[clear], rtol=0.02, atol=0)
    assert all("lora" in name for name in load_file(folder / "resume" / "masters.safetensors"))
    train(replace(run, iterations=2), resume=True)
    assert len(read_json_lines(Path(run.out) / "metrics.jsonl")) == 2


def batches_of(monkeypatch: pytest.MonkeyPatch) -> list[Batch]:
    """The batches that the training loop hands to `update`, as they come."""
    seen: list[Batch] = []

    def spy(policy: Policy, reference: Any, batch: Batch, *words: Any, **options: Any) -> Any:
        seen.append(batch)
        return update(policy, reference, batch, *words, **options)

    monkeypatch.setattr(loop, "update", spy)
    return seen


def test_bf16_gathers_fp32_gradients(run: Run) -> None:
    """Identity: masters start at the file's own precision, and compute weights are the masters rounded."""
    policy = Policy(replace(run, dtype="bfloat16"), run.model)
    exact = load_file(Path(run.model) / "model.safetensors")
    by_name = dict(zip(policy.weights.names, policy.weights.masters, strict=True))
    assert all(torch.equal(by_name[name], exact[name]) for name in by_name)
    train(replace(run, dtype="bfloat16", iterations=2))
    stored = load_file(checkpoint.find_latest(Path(run.out)) / "resume" / "masters.safetensors")
    moved = load_file(checkpoint.find_latest(Path(run.out)) / "model.safetensors")
    for name, master in stored.items():
        assert master.dtype == torch.float32
        assert torch.equal(moved[name], master.bfloat16())


def test_learning_rate_schedules() -> None:
    """Hand values: warm-up 2 of 10, then constant, straight down to 0 after the last, or half a cosine."""
    base = Run(iterations=10, warmup=2, lr=1.0)
    assert [learning_rate(base, i) for i in (1, 2, 3, 10)] == [0.5, 1.0, 1.0, 1.0]
    linear = replace(base, schedule="linear")
    assert [learning_rate(linear, i) for i in (2, 3, 7, 10)] == pytest.approx([1.0, 1.0, 0.5, 0.125])
    cosine = replace(base, schedule="cosine")
    assert [learning_rate(cosine, i) for i in (3, 7)] == pytest.approx([1.0, 0.5])


def test_a_directory_holds_one_run(run: Run) -> None:
    """A second run does not overwrite the first; a finished one says how to go on; a missing one is named."""
    short = replace(run, iterations=1)
    train(short)
    before = sorted(path.name for path in Path(run.out).iterdir())
    with pytest.raises(RunDirError, match="already holds a run"):
        train(short)
    with pytest.raises(RunDirError, match=r"all 1 iterations are done; .* --iterations N"):
        train(short, resume=True)
    with pytest.raises(RunDirError, match="no run to resume"):
        train(replace(run, out=run.out + "-none"), resume=True)
    assert sorted(path.name for path in Path(run.out).iterdir()) == before


def test_repeating_a_command_makes_another_run(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --out, a second run of the same settings finds a place of its own and the same result."""
    monkeypatch.chdir(tmp_path)
    unplaced = replace(run, out="", iterations=1)
    first, second = train(unplaced), train(unplaced)
    assert [str(result.directory) for result in (first, second)] == [
        "runs/mixed_grpo-early-s0",
        "runs/mixed_grpo-early-s0-2",
    ]
    assert same(weights(first.directory), weights(second.directory))


def test_a_full_disk_loses_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """No space for the second checkpoint: one clear error, the first stays whole, and resuming ends as if unharmed."""
    reference = replace(run, out=run.out + "-whole")
    train(reference)
    usage = shutil.disk_usage(".")
    calls = iter([usage, usage._replace(free=10)])
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda path: next(calls))
    with pytest.raises(CheckpointError, match=r"could not be written .*iteration_000002 is untouched.*--resume"):
        train(run)
    monkeypatch.undo()
    assert not list((Path(run.out) / "checkpoints").glob(".*"))
    train(run, resume=True)
    assert same(weights(run.out), weights(reference.out))


def test_a_write_that_fails_half_way_loses_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fills while weights are written: the half-written folder is gone, the earlier checkpoint whole."""
    real, count = checkpoint.save_file, iter(range(100))

    def failing(tensors: Any, path: Path, **options: Any) -> None:
        real(tensors, path, **options)
        if next(count) == 4:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", failing)
    with pytest.raises(CheckpointError, match="No space left"):
        train(run)
    assert [path.name for path in (Path(run.out) / "checkpoints").iterdir()] == ["iteration_000002"]
    assert weights(run.out)


def test_broken_verifiers_never_become_rewards(run: Run) -> None:
    """Raised and timed-out judgements leave their groups, are counted by kind, and training goes on."""
    train(replace(run, task=Broken(), iterations=1, verifier_timeout_s=0.5, verifier_workers=2, refill_limit=2.0))
    frame = rollouts(run.out)
    failed = frame.filter(pl.col("outcome").is_in(["error", "timeout"]))
    assert set(failed["outcome"]) == {"error", "timeout"} and failed["reward"].null_count() == len(failed)
    assert set(failed["status"]) == {"unusable"}
    assert "judge fell over" in failed.filter(pl.col("outcome") == "error")["detail"][0]
    record = read_json_lines(Path(run.out) / "metrics.jsonl")[0]
    assert record["unusable_share"] == pytest.approx(len(failed) / len(frame))
    usable = frame.filter(~pl.col("outcome").is_in(["error", "timeout"]))
    assert record["reward_mean"] == pytest.approx(usable["reward"].mean())


def test_exhaustion_policies(run: Run) -> None:
    """Refilling is bounded, and 'train' makes no step without signal."""
    run = replace(run, task=Impossible(), iterations=2, refill_limit=2.0)
    start = Policy(run, run.model)
    train(run)
    records = read_json_lines(Path(run.out) / "metrics.jsonl")
    assert [record["groups_generated"] for record in records] == [6, 6]
    assert [record["exhausted"] for record in records] == [1, 1] and records[-1]["step"] == 0
    assert records[0]["all_wrong_share"] == 1.0 and records[0]["trained_share"] == 0.0
    stored = load_file(checkpoint.find_latest(Path(run.out)) / "resume" / "masters.safetensors")
    assert all(
        torch.equal(stored[name], master)
        for name, master in zip(start.weights.names, start.weights.masters, strict=True)
    )


def test_stopping_when_exhausted_keeps_the_rollouts(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """B1: "stop" writes the groups it generated before it raises. A resume reads them, does not generate them again,
    and with on_exhausted="train" ends bit for bit as a run that had that setting from the start."""
    run = replace(run, task=HalfImpossible(), iterations=2, refill_limit=1.0)
    whole = replace(run, out=run.out + "-whole")
    train(whole)
    stopping = replace(run, on_exhausted="stop")
    with pytest.raises(EngineError, match=r"3 prompts gave [12] mixed groups of the 3 wanted .*--resume .*train"):
        train(stopping)
    frame = rollouts(run.out)
    assert len(frame) == 12 and set(frame["iteration"]) == {1} and set(frame["status"]) == {"carried", "silent"}
    expected = rollouts(whole.out).filter(pl.col("iteration") == 1)
    assert frame["token_ids"].to_list() == expected["token_ids"].to_list()

    submit = TorchEngine.submit
    monkeypatch.setattr(TorchEngine, "submit", refuse_to_generate)
    with pytest.raises(EngineError, match="3 prompts gave"):
        train(stopping, resume=True)
    assert rollouts(run.out).equals(frame)
    generated: list[Any] = []
    monkeypatch.setattr(TorchEngine, "submit", lambda self, request: generated.append(request) or submit(self, request))
    train(run, resume=True)
    assert len(generated) == 3, "the second iteration alone"
    assert same(weights(run.out), weights(whole.out)) and rollouts(run.out).equals(rollouts(whole.out))


def test_views_and_metrics_agree(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal there is one line per iteration and a line per note, under 80 columns."""
    train(replace(run, iterations=2), view=View("test", 2, plain=True))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if "/2" in line] == ["1/2", "2/2"]
    assert all(len(line) <= 80 for line in lines)
    json.dumps(read_json_lines(Path(run.out) / "metrics.jsonl"))


def test_the_log_shapes_silent_groups_too(run: Run) -> None:
    """Hand value: DAPO's shaped reward of every usable rollout is ±1 + penalty(length)."""
    row = replace(ALGORITHMS["dapo"], overlong_buffer=3)
    train(replace(run, algorithm=row, iterations=2))
    frame = rollouts(run.out)
    assert set(frame["status"]) >= {"trained", "silent"}
    for reward, shaped, length in frame.select("reward", "shaped_reward", "completion_tokens").iter_rows():
        assert shaped == pytest.approx((1 if reward else -1) + min(0.0, (6 - 3 - length) / 3))


@pytest.mark.parametrize("device", ["meta", "gpu", "cuda:99", "cpu:x"])
def test_a_device_that_cannot_train_is_one_message(device: str, run: Run) -> None:
    with pytest.raises(ConfigError, match=f"device='{device}': .*; use auto, cpu or cuda"):
        train(replace(run, device=device))
    assert not (Path(run.out) / "run.toml").exists()


def test_a_device_is_refused_with_the_first_line_of_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="device='abacus': Expected one of cpu, cuda, .* device type.*; use auto"):
        pick_device("abacus")

    def fail(name: str) -> None:
        raise RuntimeError("no such device\nException raised from c10/core/Device.cpp:12")

    monkeypatch.setattr(torch, "device", fail)
    with pytest.raises(ConfigError, match="device='cuda:9': no such device; use auto, cpu or cuda$"):
        pick_device("cuda:9")
