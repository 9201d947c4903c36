"""`onedial algorithms`: the printed table against the rows themselves."""

from __future__ import annotations

import json

import pytest
from rich.cells import cell_len

from onedial import cli
from onedial.algorithms import ALGORITHMS


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
    assert lines["dapo"] == ["group_mean", "1", "token", "0.2/0.28", "token_mean", "–", "refill", "1"]
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
    assert flat.count("(grpo: ") == len(differs) == 5
    assert "(grpo: 0.04)" in flat and "(grpo: sequence_mean)" in flat


def test_an_unknown_row_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["algorithms", "dapoo"]) == 2
    assert "did you mean 'dapo'" in capsys.readouterr().err
