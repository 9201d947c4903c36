"""`onedial algorithms --rewards`: rows on typed groups. Oracles: hand values of the papers and of each aggregation."""

from __future__ import annotations

import json
from typing import Any

import pytest
from rich.cells import cell_len

from onedial.cli.main import main


def rows(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, dict[str, Any]]:
    assert main(["algorithms", "--json", *words]) == 0
    return {row["row"]: row for row in json.loads(capsys.readouterr().out)}


def test_advantages_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    found = rows(capsys, "--rewards", "1,0,1,0", "--rewards", "1,1,1,0")
    assert found["grpo"]["advantage"] == pytest.approx([1, -1, 1, -1, 3**-0.5, 3**-0.5, 3**-0.5, -(3**0.5)], abs=1e-5)
    assert found["dr_grpo"]["advantage"] == pytest.approx([0.5, -0.5, 0.5, -0.5, 0.25, 0.25, 0.25, -0.75])
    assert found["rloo"]["advantage"][4:] == pytest.approx([1 / 3, 1 / 3, 1 / 3, -1])
    assert found["trl_grpo"]["advantage"][4:] == pytest.approx([0.5, 0.5, 0.5, -1.5], abs=2e-3)  # sample deviation ½
    assert found["reinforce"]["advantage"] == [1, 0, 1, 0, 1, 1, 1, 0] and found["reinforce"]["trained"] == 5
    assert not {"ppo", "sft", "dpo", "online_rft"} & set(found), "these compare no rewards of a group"


def test_weights_of_tokens_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    # two groups of two in one step, 10 and 100 tokens an answer
    found = rows(capsys, "--rewards", "1,0", "--rewards", "1,0", "--lengths", "10,10", "--lengths", "100,100")
    assert found["naive_grpo"]["token"] == pytest.approx([1 / 40, -1 / 40, 1 / 400, -1 / 400], rel=1e-4)
    assert found["naive_grpo"]["answer"] == pytest.approx([1 / 4, -1 / 4, 1 / 4, -1 / 4], rel=1e-4)
    assert found["verl_grpo"]["token"] == pytest.approx([x * 2**-0.5 / 220 for x in (1, -1, 1, -1)], rel=1e-4)
    assert found["rloo"]["token"] == pytest.approx([1 / 4, -1 / 4, 1 / 4, -1 / 4])
    assert found["dr_grpo"]["token"] == pytest.approx([x / 4 / 1024 / 2 for x in (1, -1, 1, -1)])


def test_silent_answers_have_a_gradient_only_where_another_term_gives_one(capsys: pytest.CaptureFixture[str]) -> None:
    found = rows(capsys, "--rewards", "1,1,1")
    assert found["grpo"]["trained"] == 3, "the KL term of the published row"
    assert found["naive_grpo"]["trained"] == found["dr_grpo"]["trained"] == found["rloo"]["trained"] == 0


def test_screen_fits_80_columns_and_one_row_can_be_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["algorithms", "--rewards", "1,0,1,0,0.5,0,0,0,1", "--lengths", "1,20,300,4000,5,6,70,80,9"]) == 0
    screen = capsys.readouterr().out
    assert max(map(cell_len, screen.splitlines())) <= 80 and "verl_dr_grpo" in screen
    assert main(["algorithms", "rloo", "--rewards", "1,1,0"]) == 0
    screen = capsys.readouterr().out
    assert "σ̂ 0.4714 · σ̂² 0.2222" in screen and "grpo" not in screen


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--lengths", "1,2"], "--lengths goes with --rewards"),
        (["--rewards", "1,0", "--coefficients"], "give one of them"),
        (["--rewards", "1,x"], "must be numbers with commas"),
        (["--rewards", "1,nan"], "must be numbers with commas"),
        (["--rewards", "1,0", "--lengths", "3"], "one length per reward"),
        (["--rewards", "1,0", "--lengths", "3,0"], "--lengths 0: must be whole numbers"),
        (["--rewards", ",".join(["1"] * 10)], "at most 9 fit a line"),
        (["sft", "--rewards", "1,0"], "sft does not compare"),
    ],
)
def test_mistakes_are_one_message(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["algorithms", *words]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
