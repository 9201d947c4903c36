"""`--probe`: what it logs of single groups follows from their exact gradients, and training does not notice it.

Oracles: autograd on the same groups, the same run without a probe, numbers put together by hand.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from maths_batches import MAX_TOKENS, batch_of, make_group
from onedial.core.algorithm_table import ALGORITHMS
from onedial.core.errors import ConfigError
from onedial.core.maths.half_split import estimate_signal, read_half_split, split_rewards
from onedial.core.run_log import append_json, read_json_lines
from onedial.core.settings import Run
from onedial.training.trainer.gradients import GradientSketch, flatten
from onedial.training.trainer.loop import train
from onedial.training.trainer.policy import Policy
from onedial.training.trainer.probe import PROBE_EVERY, PROBE_GROUPS, Probe
from train_tasks import Early


@pytest.fixture
def run(tiny_model: Path, tmp_path: Path) -> Run:
    return Run(
        model=str(tiny_model), task=Early(), algorithm=ALGORITHMS["naive_grpo"], out=str(tmp_path / "run"),
        iterations=PROBE_EVERY + 2, prompts_per_iteration=3, group_size=8, max_new_tokens=MAX_TOKENS, lr=1e-3,
        dtype="float32", threads=1, micro_batch_tokens=2048, eval_prompts=0, checkpoint_every=4, verifier_workers=1,
        probe=True,
    )  # fmt: skip


def test_figures_of_a_group_are_those_of_its_exact_gradients(run: Run, tiny_model: Path) -> None:
    """Oracle: autograd over the probed weights, score by score: s̄₊ − s̄₋ of each half, and σ̂(s̄₊ − s̄₋) with scores
    per token for the row. A sketch of 4,093 numbers keeps norms within a few per cent; here it is the exact map."""
    Path(run.out).mkdir()
    policy = Policy(run, tiny_model)
    probe = Probe(policy)
    probe.sketch = flatten  # type: ignore[assignment]
    rewards = [1.0, 0.0, 0.0, 1.0, 1.0, 0.0]
    groups = [make_group(rewards, seed=3), make_group([1.0] * 6, position=1), make_group([1.0, 0.0, 0.0], position=2)]
    batch = batch_of(run.algorithm, groups)
    metrics = probe.measure(batch, 1)
    first, second = read_json_lines(Path(run.out) / "probe.jsonl")
    assert [first["size"], second["size"]] == [6, 3] and second["half_product"] is None
    scores, means = [], []
    for number in range(6):
        one = batch.select([number])
        logp, _ = policy.logps(one)
        scores.append(flatten(torch.autograd.grad(logp.sum(), probe.parameters)))
        means.append(scores[-1] / len(logp))
    right = torch.tensor(rewards) == 1
    own = 0.5 * (torch.stack(means)[right].mean(0) - torch.stack(means)[~right].mean(0))
    assert first["sigma"] == pytest.approx(0.5) and first["norm"] == pytest.approx(float(own.norm()), rel=1e-3)
    halves = split_rewards(rewards)
    assert halves is not None
    slopes = []
    for half in halves:
        picked, marks = torch.stack(scores)[half], right[half]
        slopes.append(picked[marks].mean(0) - picked[~marks].mean(0))
    assert first["half_product"] == pytest.approx(float(slopes[0] @ slopes[1]), rel=1e-3)
    assert first["half_squares"] == pytest.approx([float(s @ s) for s in slopes], rel=1e-3)
    assert first["half_noise"] == pytest.approx((1 / 2 + 1 / 1) + (1 / 1 + 1 / 2)), "1/k₊ + 1/k₋ of each half"
    split = read_half_split(first)
    assert split is not None
    pooled = estimate_signal([split])
    assert pooled is not None and metrics["probe_rho"] == pytest.approx(pooled.rho)
    assert metrics["probe_groups"] == 2 and metrics["probe_half_cosine"] == pytest.approx(split.cosine)


def test_a_sketched_norm_is_near_the_exact_one(run: Run, tiny_model: Path) -> None:
    policy = Policy(run, tiny_model)
    probe = Probe(policy)
    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(weight.shape, generator=generator) for weight in probe.parameters]
    norm = float(flatten(gradients).norm())
    assert float(probe.sketch(gradients).norm()) == pytest.approx(norm, rel=0.05)
    assert isinstance(probe.sketch, GradientSketch)


def test_training_does_not_notice_the_probe(run: Run) -> None:
    """Oracle: the same run without it: every metric but the probe's and the clock's is the same to the last bit."""
    probed = train(run).directory
    plain = train(replace(run, probe=False, out=run.out + "-plain")).directory

    def rest(record: dict[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in record.items() if not k.startswith("probe_") and not k.endswith(("_s", "_gb"))}

    one, other = (read_json_lines(directory / "metrics.jsonl") for directory in (probed, plain))
    assert [rest(record) for record in one] == [rest(record) for record in other]
    looked = [record["iteration"] for record in one if record["probe_groups"] is not None]
    assert looked and set(looked) <= {1, 1 + PROBE_EVERY}
    assert all(record["probe_groups"] is None for record in other) and not (plain / "probe.jsonl").exists()
    lines = read_json_lines(probed / "probe.jsonl")
    assert {line["iteration"] for line in lines} == set(looked) and len(lines) <= 2 * PROBE_GROUPS


def test_a_plan_takes_the_rho_that_the_run_measured(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: `estimate_signal` of the lines of the run, to which ever longer halves that agree are added."""
    from onedial.cli.main import main

    folder = train(replace(run, iterations=1)).directory
    lines = [line for line in read_json_lines(folder / "probe.jsonl") if line["half_product"] is not None]
    capsys.readouterr()
    assert main(["plan", str(folder), "--budget", "24", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rho_source"] == "unknown", "too few groups for an interval"
    for number in range(12):
        part = (0.2 + 0.05 * number) * sum(lines[0]["half_squares"]) / 2
        lines.append(lines[0] | {"group_id": f"more {number}", "half_product": part})
        append_json(folder / "probe.jsonl", lines[-1])
    wanted = estimate_signal([split for line in lines if (split := read_half_split(line)) is not None])
    assert wanted is not None and wanted.rho > 0
    assert main(["plan", str(folder), "--budget", "24", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["rho_source"], made["rho_groups"]) == ("measured", len(lines))
    assert made["rho"] == pytest.approx(wanted.rho) and made["rho_range"][0] < made["rho"] < made["rho_range"][1]
    assert main(["plan", str(folder), "--budget", "24", "--rho", "0.3"]) == 0
    assert "is taken as 0.3, as given" in " ".join(capsys.readouterr().out.split())


def test_a_row_without_groups_of_its_own_cannot_be_probed(run: Run) -> None:
    with pytest.raises(ConfigError, match="probe=true: algorithm 'sft' has no groups"):
        replace(run, algorithm=ALGORITHMS["sft"])
