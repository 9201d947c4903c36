"""Groups of logs that name none: against TRL's own `frac_reward_zero_std`, and blocks by hand.

What is TRL's: the trainer, its sampler, its completion files and the share of groups without spread that it logs. The
completions of a tiny random model are noise, and the reward is a coin tied to their length.
"""

from __future__ import annotations

import random
import warnings
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from logs_data import make
from onedial.analysis.logs import Log, read
from onedial.analysis.logs.readers.group_order import infer_group_size, number_blocks
from onedial.analysis.result import analyze

SIZE, PROMPTS, STEPS = 8, 8, 8


def group_sizes(log: Log) -> list[int]:
    sizes = log.frame.group_by("group_id").len().sort("len").collect()
    return [int(size) for size in sizes.get_column("len")]


@pytest.mark.parametrize(
    ("blocks", "size"),
    [
        ([8, 8, 16, 8], 8),  # one prompt drawn twice in a row
        ([8] * 5, 8),
        ([8, 8, 12, 8], None),  # half a group too many: the order does not tell
        ([1, 2, 1, 1, 3], None),  # shuffled
        ([4, 8, 8, 16, 12], None),  # no length is usual enough
        ([], None),
    ],
)
def test_the_group_size_that_blocks_show(blocks: list[int], size: int | None) -> None:
    assert infer_group_size(blocks) == size


def test_blocks_by_hand() -> None:
    assert number_blocks(list("aabbaacc")) == [1, 1, 2, 2, 3, 3, 4, 4]
    assert number_blocks(list("aaaabbcc")) == [1, 1, 2, 2, 3, 3, 4, 4]
    assert number_blocks(list("abab")) == [0, 0, 0, 0]


def drawn_twice(seed: int, *, shuffled: bool = False) -> list[make.Row]:
    """Two steps of 8 groups of 4; prompt 0 stands three times: first, next to itself, and last."""
    rng = random.Random(seed)
    rows = []
    for step in (1, 2):
        for number, prompt in enumerate((0, 0, 1, 2, 3, 4, 5, 0)):
            rate = (0.0, 1.0, 0.5)[number % 3]
            rows += [make.Row(step, prompt, i, float(rng.random() < rate), rng.randint(3, 60)) for i in range(4)]
    if shuffled:
        rng.shuffle(rows)
        rows.sort(key=lambda row: row.iteration)
    return rows


@pytest.mark.parametrize("write", [make.trl, make.verl_legacy, make.swift])
@pytest.mark.parametrize("text", [True, False])
def test_a_prompt_drawn_twice_is_two_groups(write: Any, text: bool, tmp_path: Path) -> None:
    rows = drawn_twice(3)
    log = read(write(tmp_path, rows), text=text)
    assert group_sizes(log) == [4] * 16
    assert log.coverage.group_identity == "inferred from the order of the rows"
    assert any("4 groups would be merged" in note for note in log.coverage.notes), log.coverage.notes
    position = {id(row): index // 4 for index, row in enumerate(rows)}
    oracle = make.expected(rows, key=lambda row: position[id(row)])
    figures = analyze(log).figures
    for name in ("groups", "mixed_share", "all_correct_share", "all_wrong_share"):
        assert figures[name] == oracle[name], name
    assert figures["prompts"] == 6


@pytest.mark.parametrize("write", [make.trl, make.verl_legacy, make.swift])
def test_without_order_the_prompt_decides_and_the_coverage_says_so(write: Any, tmp_path: Path) -> None:
    log = read(write(tmp_path, drawn_twice(3, shuffled=True)))
    assert group_sizes(log) == [4] * 10 + [12] * 2
    assert log.coverage.group_identity == "inferred from the prompt text"
    assert any("same prompt are taken as one group" in note for note in log.coverage.notes)


def test_one_file_out_of_order_does_not_spoil_the_others(tmp_path: Path) -> None:
    make.trl(tmp_path, drawn_twice(3))
    path = tmp_path / "completions" / "completions_00002.parquet"
    pl.read_parquet(path).sample(fraction=1.0, shuffle=True, seed=1).write_parquet(path)
    log = read(tmp_path)
    assert group_sizes(log) in ([4] * 13 + [12], [4] * 8 + [4] * 5 + [12])
    assert any("1 file" in note for note in log.coverage.notes)


@pytest.mark.filterwarnings("ignore")
def test_trl_logs_the_share_of_silent_groups_that_we_find(tiny_model: Path, tmp_path: Path) -> None:
    """Eight steps of GRPOTrainer, many prompts twice in the dataset, against its own `frac_reward_zero_std`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trl = pytest.importorskip("trl", reason="TRL is not installed")
        datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    prompts = [f"{number % 23} + 1 =" for number in range(PROMPTS * STEPS)]

    def parity(completions: list[str], **_: Any) -> list[float]:
        return [float(len(text) % 5 == 0) for text in completions]

    args = trl.GRPOConfig(
        output_dir=str(tmp_path), num_generations=SIZE, per_device_train_batch_size=SIZE * PROMPTS, max_steps=STEPS,
        max_completion_length=2, report_to=[], use_cpu=True, bf16=False, logging_steps=1, log_completions=True,
        num_completions_to_print=0, gradient_checkpointing=False, seed=5, save_strategy="no", disable_tqdm=True,
        learning_rate=0.0,
    )  # fmt: skip
    trainer = trl.GRPOTrainer(
        model=str(tiny_model), reward_funcs=parity, args=args,
        train_dataset=datasets.Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
    )  # fmt: skip
    trainer.train()
    silent = [entry["frac_reward_zero_std"] for entry in trainer.state.log_history if "frac_reward_zero_std" in entry]
    log = read(tmp_path / "completions")
    assert len(silent) == STEPS and group_sizes(log) == [SIZE] * PROMPTS * STEPS
    assert analyze(log).figures["silent_share"] == pytest.approx(sum(silent) / STEPS, abs=1e-9)
    assert 0 < sum(silent) < STEPS, "all groups alike: the comparison says nothing"
    assert any("would be merged" in note for note in log.coverage.notes)
