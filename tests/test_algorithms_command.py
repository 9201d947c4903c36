"""`onedial algorithms`: the printed table against the rows themselves."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from rich.cells import cell_len

from onedial.cli import main as cli
from onedial.core.algorithm import Algorithm
from onedial.core.algorithm_table import ALGORITHMS
from onedial.core.field_rules import get_rules
from onedial.core.maths.coefficient import BASELINES, KLS, RATIOS, REWARDS, SOURCES, WEIGHTS, describe_coefficient


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert cli.main(["algorithms", *words]) == 0
    return capsys.readouterr().out


@pytest.fixture(autouse=True)
def columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def test_every_row_and_paper_is_there_within_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(capsys)
    assert max(map(cell_len, out.splitlines())) <= 80 and "…" not in out and "\x1b" not in out
    flat = " ".join(out.split())
    for name, row in ALGORITHMS.items():
        assert f"{name} {row.paper}" in flat
    lines = {line.split()[0]: line.split()[1:] for line in out.splitlines()[1 : len(ALGORITHMS) + 1]}
    assert list(lines) == list(ALGORITHMS)
    # by hand from the papers
    assert lines["grpo"] == ["group_mean", "1", "token", "0.2/0.2", "sequence_mean", "0.04", "all", "1"]
    assert lines["dapo"] == ["group_mean", "1", "token", "0.2/0.28", "group_token", "–", "refill", "16"]
    assert lines["mixed_grpo"] == ["group_mean", "1", "token", "0.2/0.28", "token_mean", "–", "refill", "1"]
    assert lines["gspo"] == ["group_mean", "1", "sequence", "3e-4/4e-4", "sequence_mean", "–", "all", "4"]
    assert lines["two_grpo"][-1] == "2"


def test_json_holds_every_cell(capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(printed(capsys, "--json")) == [row.cells() for row in ALGORITHMS.values()]
    assert json.loads(printed(capsys, "dapo", "--json")) == [ALGORITHMS["dapo"].cells()]


def test_one_row_shows_each_cell_and_what_differs_from_grpo(capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(capsys, "dapo")
    assert max(map(cell_len, out.splitlines())) <= 80
    for cell in set(ALGORITHMS["dapo"].cells()) - {"name", "paper"}:
        assert f"\n{cell} " in out
    flat = " ".join(out.split())
    dapo, grpo = ALGORITHMS["dapo"].cells(), ALGORITHMS["grpo"].cells()
    differs = {cell for cell in dapo if dapo[cell] != grpo[cell]} - {"name", "paper"}
    assert flat.count("(grpo: ") == len(differs) == 8
    assert "(grpo: 0.04)" in flat and "(grpo: sequence_mean)" in flat


def test_a_clip_that_cannot_bind_is_shown_as_idle(capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: one update per iteration has ratio 1 (DeepSeekMath drops the clip there, App. A.1.5); 16 have not."""
    idle = "idle here: with one update per iteration the ratio is 1"
    shown = {
        name: " ".join(printed(capsys, name).split()) for name in ("grpo", "mixed_grpo", "dapo", "rloo", "verl_grpo")
    }
    assert [shown[name].count(idle) for name in shown] == [2, 2, 0, 0, 3]
    assert f"{idle}, but on surplus groups of an earlier iteration" in shown["mixed_grpo"]
    assert replace(ALGORITHMS["grpo"], epochs_per_iteration=2).idle_clip == ""


@pytest.mark.parametrize("width", [52, 60, 70])
def test_a_narrow_terminal_cuts_long_names_and_never_the_dial(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: the dial of each row of the algorithm table; its column was once the first to vanish."""
    monkeypatch.setenv("COLUMNS", str(width))
    assert cli.main(["algorithms"]) == 0
    lines = capsys.readouterr().out.splitlines()
    place = lines[0].index("α")
    rows = [line for line in lines[1 : lines.index("")] if line[:1].isalpha()]
    dials = {line.split()[0]: line[place:].split()[0] for line in rows}
    assert {name: dials[name] for name in ALGORITHMS} == {name: f"{row.dial:g}" for name, row in ALGORITHMS.items()}
    assert max(map(cell_len, lines)) <= width


def test_coefficients_of_every_row_within_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: DeepSeekMath's Table 10 and each paper's equation, by hand."""
    out = printed(capsys, "--coefficients")
    assert max(map(cell_len, out.splitlines())) <= 80 and "…" not in out
    lines = {line["row"]: line for line in json.loads(printed(capsys, "--coefficients", "--json"))}
    assert list(lines) == list(ALGORITHMS)
    for line in lines.values():
        first = line["coefficient"].split(",")[0]
        assert any(shown.startswith(line["row"] + " ") and first in shown for shown in out.splitlines())
    by_hand = {
        "sft": ("o ~ data", "1", "1"),
        "rft": ("o ~ π_ref", "1[correct]", "1[correct]"),
        "online_rft": ("o ~ π", "1[correct]", "1[correct]"),
        "dpo": ("o⁺, o⁻ ~ data", "o⁺ > o⁻", "±β·σ(−β·m), β = 0.1"),
        "grpo": ("o ~ π", "r", "ρ·(r − r̄)/σ̂, ρ in [0.8, 1.2] + 0.04(π_ref/π − 1)"),
        "rloo": ("o ~ π", "r", "(r − r̄₋ᵢ)"),
        "dr_grpo": ("o ~ π", "r", "ρ·(r − r̄), ρ in [0.8, 1.2]"),
        "mixed_grpo": ("o ~ π, mixed", "r", "ρ·(r − r̄)/σ̂, ρ in [0.8, 1.28]"),
        "dapo": ("o ~ π, mixed", "2r − 1 + R_length", "ρ·(r − r̄)/σ̂, ρ in [0.8, 1.28]"),
        "lpo": ("o ~ π", "r", "w − P"),
        "sign_grpo": ("o ~ π", "2r − 1", "ρ·(2r − 1), ρ in [0.8, 1.2]"),
        "pass_at_k": ("o ~ π", "r", "4·(b₄⁺ − b₄⁻)"),
        "gspo": ("o ~ π", "r", "s·(r − r̄)/σ̂, s in [0.9997, 1.0004]"),
    }
    # what the sum over tokens is divided by: DPO's pairs, GRPO's own length, DAPO's tokens, a constant for Dr. GRPO
    weights = {name: lines[name]["weight"] for name in ("dpo", "lpo", "grpo", "dapo", "dr_grpo")}
    assert weights == {
        "dpo": "1/N", "lpo": "1/N", "grpo": "1/(B·|o|)", "dapo": "1/(N·Σ_group|o|)", "dr_grpo": "1/(B·L)",
    }  # fmt: skip
    for name, expected in by_hand.items():
        assert tuple(lines[name][key] for key in ("source", "reward", "coefficient")) == expected
    assert printed(capsys, "dpo", "--coefficients").splitlines()[1].startswith("dpo ")


def test_coefficients_follow_the_cells() -> None:
    """Oracle: by hand, each optional term of a row; every value of a cell that they depend on has its words."""
    words = {"source": SOURCES, "reward": REWARDS, "baseline": BASELINES, "ratio_level": RATIOS, "aggregate": WEIGHTS}
    for cell, known in {**words, "kl_estimator": KLS}.items():
        assert set(known) == set(get_rules(Algorithm)[cell].choices), f"give {cell} its words in maths/coefficient.py"
    base = replace(ALGORITHMS["naive_grpo"], name="mine", clip_low=None, clip_high=None)
    for cells, expected in (
        ({"dial": 2.0, "scale_over": "batch"}, "ρ·(r − r̄)/σ̂_batch^2"),
        ({"baseline": len}, "ρ·(r − len)/σ̂"),
        ({"baseline": "none", "dial": 0.0, "reward": "signed"}, "ρ·(2r − 1)"),
        ({"kl_coef": 0.1, "kl_estimator": "k2"}, "ρ·(r − r̄)/σ̂ + 0.1·log π_ref/π"),
        ({"kl_coef": 0.1, "kl_estimator": "k1"}, "ρ·(r − r̄)/σ̂"),  # its expected gradient is 0
        ({"listwise": "reverse", "aggregate": "sequence_sum"}, "P·(log w/P + KL(P‖w))"),
        ({"entropy_coef": 0.01}, "ρ·(r − r̄)/σ̂ + 0.01·∇H"),
        ({"positive_nll": 0.1, "clip_dual": 3.0}, "ρ·(r − r̄)/σ̂, loss ≤ 3·|A| + 0.1·1[correct]"),
    ):
        assert describe_coefficient(replace(base, **cells)).coefficient == expected  # type: ignore[arg-type]
    shaped = replace(base, overlong="penalty", overlong_buffer=4, kl_coef=0.1, kl_in="reward")
    assert describe_coefficient(shaped).reward == "r + R_length − 0.1·KL"


def test_an_unknown_row_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["algorithms", "dapoo"]) == 2
    assert "did you mean 'dapo'" in capsys.readouterr().err
