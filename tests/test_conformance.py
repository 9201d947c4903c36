"""The conformance suite. Oracle: for each check a function with the bug that the check is about, which must fail it,
and onedial's own functions, which must pass all; conventions are recognized by functions that follow them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from onedial.cli import main as cli
from onedial.integrations.conformance import judged
from onedial.integrations.conformance.check import match, run_checks
from onedial.integrations.conformance.judged import Judged
from onedial.integrations.conformance.own_adapter import OnedialFunctions
from onedial.integrations.conformance.suite import CHECKS, run_suite

ROOT = Path(__file__).parents[1]
OWN = OnedialFunctions()
BY_NAME = {check.name: check for check in CHECKS}


def verdict_of(name: str, **functions: Any) -> tuple[str, str]:
    (judgement,) = run_checks(Judged(SimpleNamespace(**functions), "wrong"), [BY_NAME[name]])
    return judgement.verdict, judgement.note


def assert_verdicts_committed(name: str) -> None:
    """The committed verdicts of a trainer, which the page shows, are those of the version installed here."""
    trainer, judgements = run_suite(name)
    committed = json.loads((ROOT / "benchmarks" / "conformance" / f"{name}.json").read_text(encoding="utf-8"))
    renew = f"renew it: onedial conformance --trainer {name} --json > benchmarks/conformance/{name}.json, make docs"
    assert committed["version"] == trainer.version, renew
    shown = [[check[key] for key in ("check", "says", "seen", "verdict", "note")] for check in committed["checks"]]
    assert [[each.check, each.says, each.seen, each.verdict, each.note] for each in judgements] == shown, renew


def by_group(statistic: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """Advantages that a function makes of each group's rewards."""

    def advantages(rewards: Tensor, groups: Tensor, *, scale: str = "group") -> Tensor:
        result = torch.zeros_like(rewards)
        for group in groups.unique():
            result[groups == group] = statistic(rewards[groups == group])
        return result

    return advantages


def leave_one_out(rewards: Tensor) -> Tensor:
    others = torch.stack([torch.cat([rewards[:i], rewards[i + 1 :]]) for i in range(len(rewards))])
    return (rewards - others.mean(1)) / (others.std(1) + 1e-6)


def by_position(rewards: Tensor, groups: Tensor) -> Tensor:
    size = int((groups == groups[0]).sum())
    blocks = rewards.view(-1, size)
    return (blocks - blocks.mean(1, keepdim=True)).flatten()


def merged_names(rewards: Tensor, groups: Tensor) -> Tensor:
    return OWN.advantages(rewards, groups.to(torch.bfloat16).long())


WRONG_ADVANTAGES: dict[str, Callable[..., Tensor]] = {
    "unanimous": by_group(lambda r: (r - r.mean()) / r.std()),
    "unanimous-fractions": by_group(lambda r: (r - r.mean()) / (r.std() + 1e-9)),
    "group-of-one": by_group(lambda r: (r - r.mean()) / (r.std() + 1e-6)),
    "std": by_group(lambda r: (r - r.mean()) / (r.var(correction=0) + 1e-6)),
    "centered": by_group(lambda r: r),
    "identity": by_group(lambda r: 2 * r - 1),
    "constant": by_group(lambda r: r - r.median() * 0.5),
    "multiple": by_group(lambda r: (r - r.mean()).clamp(-1, 1)),
    "negative-rewards": by_group(lambda r: (r - r.mean()) / r.mean()),
    "small-spread": by_group(lambda r: (r - r.mean()) / r.std().clamp(min=0.1)),
    "bounded": by_group(leave_one_out),
    "ragged": by_position,
    "reordered": by_position,
    "group-names": merged_names,
    "unscorable": lambda rewards, groups: OWN.advantages(rewards.nan_to_num(0.0), groups),
}


def wrong_loss(**replaced: Any) -> Callable[..., Tensor]:
    """onedial's loss with some of its settings, whatever was asked for."""
    return lambda *arguments, **settings: OWN.loss(*arguments, **{**settings, **replaced})


def summed(logp: Tensor, old_logp: Tensor, mask: Tensor, advantages: Tensor, *, step: Any = None) -> Tensor:
    """The common form (x * mask).sum() / mask.sum(), without a clamp, whose mean is the micro-batch's own."""
    ratio = (logp - old_logp).exp()
    pull = advantages[:, None]
    loss = -torch.minimum(ratio * pull, ratio.clamp(0.8, 1.2) * pull)
    return (loss * mask).sum() / mask.sum()


def of_lengths(logp: Tensor, old_logp: Tensor, mask: Tensor, advantages: Tensor) -> Tensor:
    """Tokens weighed by the root of their row's length."""
    rows = mask.sum(1, keepdim=True).float().sqrt()
    return -((logp - logp.detach()).exp() * advantages[:, None] * mask / rows).sum()


def with_all_rows(logp: Tensor, old_logp: Tensor, mask: Tensor, advantages: Tensor, **settings: Any) -> Tensor:
    return OWN.loss(logp, old_logp, torch.ones_like(mask), advantages, **settings)


def with_summed_ratio(logp: Tensor, old_logp: Tensor, mask: Tensor, advantages: Tensor, **settings: Any) -> Tensor:
    total = ((logp - old_logp) * mask).sum(1, keepdim=True).expand_as(logp)
    return OWN.loss(total, torch.zeros_like(total), mask, advantages, **settings)


def with_k1(
    logp: Tensor, old_logp: Tensor, mask: Tensor, advantages: Tensor, *, kl_coef: float = 0.0, ref_logp: Any = None
) -> Tensor:
    loss = OWN.loss(logp, old_logp, mask, advantages)
    return loss if ref_logp is None else loss + kl_coef * ((logp - ref_logp) * mask).sum() / mask.sum()


WRONG_LOSSES: dict[str, Callable[..., Tensor]] = {
    "weights": of_lengths,
    "token-mean": wrong_loss(aggregate="sequence_mean"),
    "sequence-mean": wrong_loss(aggregate="token_mean"),
    "fixed-length": wrong_loss(aggregate="token_mean"),
    "sequence-sum": wrong_loss(aggregate="token_mean"),
    "value": lambda *arguments: OWN.loss(*arguments) + 1,
    "micro-batches": wrong_loss(step=None),
    "masked-rows": with_all_rows,
    "all-masked": lambda logp, old, mask, advantages: summed(logp, old, mask, advantages),
    "padding": with_all_rows,
    "padding-nan": summed,
    "silent-rows": lambda logp, *arguments: OWN.loss(logp, *arguments) + 0.1 * logp.mean(),
    "clip": wrong_loss(clip_high=0.2),
    "dual-clip": wrong_loss(clip_dual=None),
    "extreme-ratio": summed,
    "sequence-ratio": with_summed_ratio,
    "kl": with_k1,
}


def test_every_check_has_a_bug_that_fails_it() -> None:
    assert set(WRONG_ADVANTAGES) | set(WRONG_LOSSES) == set(BY_NAME) and len(BY_NAME) == len(CHECKS)


@pytest.mark.parametrize("name", WRONG_ADVANTAGES)
def test_wrong_advantages_fail(name: str) -> None:
    assert verdict_of(name, advantages=WRONG_ADVANTAGES[name])[0] == "failed"


@pytest.mark.parametrize("name", WRONG_LOSSES)
def test_a_wrong_loss_fails(name: str) -> None:
    assert verdict_of(name, loss=WRONG_LOSSES[name])[0] == "failed"


def test_onedial_passes_every_check_as_committed() -> None:
    _, judgements = run_suite("onedial")
    assert {each.check: each.verdict for each in judgements} == dict.fromkeys(BY_NAME, "passed")
    assert_verdicts_committed("onedial")


def sample_std(eps: float) -> Callable[..., Tensor]:
    return by_group(lambda r: (r - r.mean()) / (r.std() + eps))


@pytest.mark.parametrize(
    ("name", "functions", "found"),
    [
        ("std", {"advantages": sample_std(1e-6)}, "sample standard deviation (ddof 1)"),
        ("std", {"advantages": by_group(lambda r: r - r.mean())}, "Dr. GRPO"),
        ("identity", {"advantages": sample_std(1e-6)}, "√((G−1)/G)"),
        ("identity", {"advantages": by_group(lambda r: (r - r.mean()) * len(r) / (len(r) - 1))}, "G/(G−1)"),
        ("small-spread", {"advantages": sample_std(1e-3)}, "eps of 1e-3"),
        ("group-of-one", {"advantages": by_group(lambda r: r)}, "keeps its reward"),
        ("value", {"loss": lambda p, o, m, a: -(p * a[:, None] * m).sum() / m.sum()}, "−A·log π"),
    ],
)
def test_a_convention_is_named(name: str, functions: dict[str, Any], found: str) -> None:
    verdict, note = verdict_of(name, **functions)
    assert verdict == "convention" and found in note


def test_what_a_trainer_does_not_have_is_not_applicable() -> None:
    assert verdict_of("kl", advantages=OWN.advantages) == ("not applicable", "the trainer has no function 'loss'")
    assert verdict_of("kl", loss=summed) == ("not applicable", "loss takes no kl_coef, ref_logp")

    def refuses(rewards: Tensor, groups: Tensor) -> Tensor:
        raise NotImplementedError("groups of one size only")

    assert verdict_of("ragged", advantages=refuses) == ("not applicable", "groups of one size only")


def test_an_answer_that_is_none_fails_and_is_quoted() -> None:
    assert verdict_of("std", advantages=lambda r, g: r[:2])[1] == (
        "advantages returned a tensor of shape (2,) for 12 rewards"
    )
    assert verdict_of("value", loss=lambda p, o, m, a: 3.0)[1].startswith("loss returned a float")
    assert "no gradient" in verdict_of("value", loss=lambda p, o, m, a: p.detach().sum())[1]
    verdict, note = verdict_of("ragged", advantages=by_position)
    assert verdict == "failed" and note.startswith("raised RuntimeError: shape")


def test_a_deviation_that_is_no_number_never_passes() -> None:
    nan, one = torch.tensor([float("nan")]), torch.ones(1)
    assert match(nan, {"": one}, {"another": one}, tolerance=1e9).verdict == "failed"


def test_the_example_passes_what_applies_to_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["conformance", "--json", "--trainer", f"{ROOT}/examples/own_functions.py:Mine"]) == 0
    verdicts = [check["verdict"] for check in json.loads(capsys.readouterr().out)["checks"]]
    assert set(verdicts) == {"passed", "not applicable"} and verdicts.count("passed") >= 25


WRONG_FILE = """
def advantages(rewards, groups):
    return rewards

class Neither: ...

class Asks:
    def __init__(self, model): ...
"""


def test_the_command_says_what_failed_and_ends_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.py"
    file.write_text("import types\n" + WRONG_FILE + "\nmine = types.SimpleNamespace(advantages=advantages)\n")
    assert cli.main(["conformance", "--trainer", f"{file}:mine"]) == 1
    out = capsys.readouterr().out
    assert "failed" in out and "18 not applicable" in out and max(map(len, out.splitlines())) <= 80 + len(str(file))


@pytest.mark.parametrize(("name", "version"), [("trl", "1.17.0"), ("verl", "0.10.0")])
def test_a_version_that_no_adapter_is_written_for_is_refused(
    name: str, version: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(judged, "find_version", lambda package: version)
    assert cli.main(["conformance", "--trainer", name]) == 2
    assert f"installed is {version}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("trainer", "said"),
    [
        ("tlr", "did you mean 'trl'?"),
        ("FILE:Neither", "no function 'advantages' and no function 'loss'"),
        ("FILE:Asks", "could not be made without arguments: TypeError"),
    ],
)
def test_a_trainer_that_is_none(trainer: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text(WRONG_FILE)
    assert cli.main(["conformance", "--trainer", trainer.replace("FILE", f"{tmp_path}/mine.py")]) == 2
    assert said in capsys.readouterr().err
