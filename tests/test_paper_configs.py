"""The configurations of the papers, value by value, and their siblings for this machine.

Oracle: `PUBLISHED`, copied by hand from the papers' own sections. What a paper does not state is not listed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from onedial.cli import main as cli
from onedial.core.settings import Run
from onedial.core.settings_file import make_run, read_settings

EXAMPLES = Path(__file__).parents[1] / "examples"
PAPERS = EXAMPLES / "papers"

PUBLISHED: dict[str, dict[str, Any]] = {
    # DeepSeekMath, arXiv:2402.03300, §4.2, p. 15: rate 1e-6, KL 0.04, 64 outputs, 1,024 tokens, batch 1,024, a single
    # update following each exploration stage; Eq. 3 and 4: mean per response, k3 in the loss; Eq. 3 clips symmetrically
    "deepseekmath_grpo": {
        "model": "deepseek-ai/deepseek-math-7b-instruct", "lr": 1e-6, "kl_coef": 0.04, "group_size": 64,
        "max_new_tokens": 1024, "completions": 1024, "updates_per_iteration": 1, "epochs_per_iteration": 1,
        "kl_estimator": "k3", "kl_in": "loss", "aggregate": "sequence_mean", "baseline": "group_mean", "dial": 1.0,
        "keep": "all",
    },
    # DAPO, arXiv:2503.14476, §4.1, p. 8: AdamW, constant 1e-6, 20 rollout steps of warm-up, 512 × 16, mini-batch
    # 512, so 16 updates; 16,384 + 4,096 tokens; clip 0.2 and 0.28. §2.3: no KL. Eq. 7: ±1. avg@32 on 30 problems
    "dapo_32b": {
        "model": "Qwen/Qwen2.5-32B", "lr": 1e-6, "schedule": "constant", "warmup": 20, "prompts_per_iteration": 512,
        "group_size": 16, "minibatch": 512, "updates_per_iteration": 16, "max_new_tokens": 16384 + 4096,
        "overlong": "penalty", "overlong_buffer": 4096, "clip_low": 0.2, "clip_high": 0.28, "kl_coef": 0.0,
        "reward": "signed", "aggregate": "group_token_mean", "keep": "mixed", "refill": True, "temperature": 1.0,
        "eval_prompts": 30, "eval_samples": 32,
    },
    # 2-GRPO, arXiv:2510.00977, §5: 256 prompts × 2 at 8e-6, against 32 × 16 at 1e-6; 4,096 tokens; Eq. 12: ε 0.2 / 0.28
    "two_grpo": {
        "prompts_per_iteration": 256, "group_size": 2, "completions": 32 * 16, "lr": 8e-6, "max_new_tokens": 4096,
        "clip_low": 0.2, "clip_high": 0.28, "kl_coef": 0.0, "aggregate": "sequence_mean",
    },
    # VAPO, arXiv:2504.05118, §5: actor 1e-6, critic 2e-6, 512 prompts × 16 with mini-batches of 512, 50 steps of value
    # pre-training; §4.1 and 4.2: λ_critic 1, λ_policy = 1 − 1/(0.05·l); §4.3: clip 0.2 and 0.28, NLL weight 0.1
    "vapo": {
        "model": "Qwen/Qwen2.5-32B", "lr": 1e-6, "critic_lr": 2e-6, "prompts_per_iteration": 512, "group_size": 16,
        "minibatch": 512, "updates_per_iteration": 16, "critic_warmup": 50, "lambda_critic": 1.0, "lambda_length": 0.05,
        "gamma": 1.0, "clip_low": 0.2, "clip_high": 0.28, "positive_nll": 0.1, "aggregate": "token_mean",
    },
}  # fmt: skip
SIBLINGS = {
    "deepseekmath_grpo": PAPERS / "deepseekmath_grpo_small.toml",
    "dapo_32b": PAPERS / "dapo_32b_small.toml",
    "two_grpo": PAPERS / "two_grpo_small.toml",
    "vapo": EXAMPLES / "vapo.toml",
}
# what a sibling says in its own comments that it changes of the row
SCALED = {"dapo_32b": {"overlong_buffer"}, "vapo": {"updates_per_iteration", "critic_warmup", "lambda_length"}}


def configured(path: Path) -> Run:
    return make_run(read_settings(path)).resolved()


def value_of(run: Run, name: str) -> Any:
    completions = run.prompts_per_iteration * run.group_size
    counted = {"completions": completions, "minibatch": completions / run.algorithm.updates_per_iteration}
    if name in counted:
        return counted[name]
    return getattr(run, name) if hasattr(run, name) else getattr(run.algorithm, name)


def test_every_paper_has_its_table_and_its_sibling() -> None:
    files = {path.stem for path in PAPERS.glob("*.toml")}
    assert files == set(PUBLISHED) | {path.stem for path in SIBLINGS.values()}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_configuration_has_the_published_values(name: str) -> None:
    """Oracle: `PUBLISHED`."""
    run = configured(PAPERS / f"{name}.toml")
    assert {key: value_of(run, key) for key in PUBLISHED[name]} == PUBLISHED[name]


@pytest.mark.parametrize("name", SIBLINGS)
def test_a_sibling_keeps_the_row(name: str) -> None:
    """Oracle: the row of the paper's file; a sibling changes sizes, and of the row only what `SCALED` says. DAPO's band
    stays a fifth of its limit."""
    paper, small = configured(PAPERS / f"{name}.toml"), configured(SIBLINGS[name])
    cells, scaled = paper.algorithm.cells(), small.algorithm.cells()
    assert {cell for cell in cells if cells[cell] != scaled[cell]} == SCALED.get(name, set())
    assert small.model == "smollm2" and small.task == "arithmetic"
    shares = [run.algorithm.penalty_buffer(run.max_new_tokens) / run.max_new_tokens for run in (paper, small)]
    assert shares[0] == shares[1]


@pytest.mark.parametrize("path", [*sorted(PAPERS.glob("*.toml")), EXAMPLES / "vapo.toml"], ids=lambda path: path.stem)
def test_train_checks_it_without_training(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: what --dry-run prints is a configuration of the same run, and nothing is written."""
    assert cli.main(["train", "--config", str(path), "--out", str(tmp_path / "run"), "--dry-run"]) == 0
    printed = tmp_path / "printed.toml"
    printed.write_text(capsys.readouterr().out, encoding="utf-8")
    assert make_run(read_settings(printed)) == make_run(read_settings(path))
    assert not (tmp_path / "run").exists()


def test_a_dry_run_finds_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--config", str(PAPERS / "dapo_32b.toml"), "--algorithm.overlong-buffer", "30000", "--dry-run"]
    assert cli.main(["train", *words]) == 2
    assert "must not exceed max_new_tokens=20480" in capsys.readouterr().err
