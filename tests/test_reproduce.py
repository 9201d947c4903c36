"""Claims: their results are what their figures say, finished work is kept, and mistakes are one message.

Oracles: published and hand-computed numbers, simulations with a known answer, the committed files themselves.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onedial.cli.main import main
from onedial.core.errors import ConfigError, RunDirError
from onedial.evidence.catalog import describe_claim, get_claim, list_claims, read_result
from onedial.evidence.claim import Check, Claim, NotAtHand, Setup, check_range, judge_checks
from onedial.evidence.claims import silent_rates
from onedial.evidence.reproduction import reproduce

WITH_RESULT = [name for name in list_claims() if read_result(name) is not None]


@pytest.mark.parametrize(
    ("held", "verdict"),
    [
        ((True, True), "holds"),
        ((True, False), "in part"),
        ((True, None), "in part"),
        ((False, None), "not here"),
        ((None,), "not here"),
        ((), "not here"),
    ],
)
def test_the_verdict_follows_from_the_checks(held: tuple[bool | None, ...], verdict: str) -> None:
    assert judge_checks([Check("", "", each) for each in held]) == verdict


def test_a_figure_that_is_missing_holds_nothing() -> None:
    assert check_range("share", None, 0, 1).held is None
    assert check_range("share", 0.5, 0, 0.5).held is True
    assert check_range("share", 0.51, 0, 0.5).held is False


# --- what comes with onedial -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list_claims())
def test_every_claim_says_what_it_is(name: str) -> None:
    claim = get_claim(name)
    assert claim.name == name
    assert claim.claim and claim.source and claim.minutes > 0
    assert not claim.trains or len(claim.seeds) >= 3


@pytest.mark.parametrize("name", WITH_RESULT)
def test_a_committed_result_is_whole_and_its_figures_follow_from_what_was_measured(name: str) -> None:
    claim, result = get_claim(name), read_result(name)
    assert result is not None and not result["settings"]["quick"]
    assert result["seeds"] == list(claim.seeds)
    assert json.loads(json.dumps(claim.figures(result["measured"]))) == result["figures"]
    assert {"date", "processor", "threads", "python"} <= set(result["machine"])
    known = describe_claim(claim, result)
    assert known["verdict"] in ("holds", "in part", "not here")
    assert "verdict" not in result, "a verdict is computed, never stored"


def test_a_changed_figure_changes_the_verdict() -> None:
    claim, result = get_claim("silent-rates"), read_result("silent-rates")
    assert result is not None
    measured = json.loads(json.dumps(result["measured"]))
    measured["deepscaler"]["silent"]["64"] = 0.01
    before = {check["statement"]: check["held"] for check in describe_claim(claim, result)["checks"]}
    after = {c["statement"]: c["held"] for c in describe_claim(claim, result | {"measured": measured})["checks"]}
    assert [s for s in before if before[s] != after[s]] == [s for s in before if "a fifth or more" in s]


def test_the_list_is_json_with_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "--list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in listed] == list_claims()
    for one in listed:
        assert {"name", "claim", "source", "verdict", "trains", "seeds", "figures", "file"} <= set(one)
        with_result = one["name"] in WITH_RESULT
        assert (one["verdict"] is not None) == (one["figures"] is not None) == (one["file"] is not None) == with_result


def test_a_claim_without_a_result_is_listed_as_such(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onedial.evidence.catalog.read_result", lambda name: None)
    assert main(["reproduce", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all("no result yet" in line and "costs about" in line for line in lines[1 : 1 + len(list_claims())])


# --- units of work -----------------------------------------------------------------------------------------------


def toy(measure: Any, units: tuple[str, ...] = ("a", "b", "c")) -> Claim:
    return Claim(
        name="toy", claim="c", source="s", trains=False, minutes=1.0, units=lambda setup: units, measure=measure,
        figures=lambda measured: {"sum": sum(unit["value"] for unit in measured.values())},
        checks=lambda figures: [check_range("sum", figures["sum"], 6, 6)],
    )  # fmt: skip


def test_a_second_start_goes_on_where_the_first_was_stopped(tmp_path: Path) -> None:
    """Oracle: the list of units measured; the stopped one is measured again, the finished one is not."""
    asked: list[str] = []

    def measure(setup: Setup, unit: str) -> dict[str, Any]:
        asked.append(unit)
        if asked == ["a", "b"]:
            raise KeyboardInterrupt
        return {"value": "abc".index(unit) + 1}

    setup = Setup(work=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        reproduce(toy(measure), setup)
    result = reproduce(toy(measure), setup)
    assert asked == ["a", "b", "b", "c"]
    assert result["figures"] == {"sum": 6} and describe_claim(toy(measure), result)["verdict"] == "holds"
    assert reproduce(toy(measure), setup)["figures"] == {"sum": 6} and len(asked) == 4


def test_units_of_other_settings_are_not_mixed(tmp_path: Path) -> None:
    claim = toy(lambda setup, unit: {"value": 2})
    reproduce(claim, Setup(work=tmp_path))
    with pytest.raises(RunDirError, match="other settings"):
        reproduce(claim, Setup(work=tmp_path, model="another"))
    reproduce(claim, Setup(work=tmp_path, quick=True))
    assert {path.name for path in tmp_path.iterdir()} == {"toy", "toy-quick"}


def test_a_damaged_unit_is_measured_again_and_the_others_are_kept(tmp_path: Path) -> None:
    asked: list[str] = []
    notes: list[str] = []

    def measure(setup: Setup, unit: str) -> dict[str, Any]:
        asked.append(unit)
        return {"value": 2}

    claim, setup = toy(measure), Setup(work=tmp_path, note=notes.append)
    reproduce(claim, setup)
    path = tmp_path / "toy" / "b.json"
    sound = path.read_bytes()
    for content in (sound[:9], b"\xff\xfe", b"[]", b'"text"', sound.replace(b'"value": 2', b'"value": 3')):
        assert content != sound
        path.write_bytes(content)
        asked.clear()
        assert reproduce(claim, setup)["figures"] == {"sum": 6}
        assert asked == ["b"] and any("b.json: the record is damaged" in note for note in notes)
    path.unlink()
    path.mkdir()
    with pytest.raises(RunDirError, match=r"b.json: cannot be read \(Is a directory\); move it away"):
        reproduce(claim, setup)


def test_units_of_earlier_versions_have_no_hash_and_are_kept(tmp_path: Path) -> None:
    claim = toy(lambda setup, unit: pytest.fail("measured again"), units=("a",))
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "a.json").write_text('{"value": 6, "seconds": 1.0}')
    assert reproduce(claim, Setup(work=tmp_path))["figures"] == {"sum": 6}


def test_damaged_settings_of_a_folder_are_one_message(tmp_path: Path) -> None:
    claim = toy(lambda setup, unit: {"value": 2})
    header = tmp_path / "toy" / "settings.txt"
    reproduce(claim, Setup(work=tmp_path))
    sound = header.read_bytes()
    for content in (b"\xff\xfe\x00", sound[:5], b""):
        header.write_bytes(content)
        with pytest.raises(RunDirError, match=r"settings.txt: damaged; .* delete this file to keep them"):
            reproduce(claim, Setup(work=tmp_path))
    header.unlink()
    header.mkdir()
    with pytest.raises(RunDirError, match=r"settings.txt: cannot be read \(Is a directory\)"):
        reproduce(claim, Setup(work=tmp_path))


def test_a_unit_that_is_not_at_hand_is_named_and_tried_again(tmp_path: Path) -> None:
    def measure(setup: Setup, unit: str) -> dict[str, Any]:
        if unit == "b" and setup.data is None:
            raise NotAtHand("needs a table")
        return {"value": 3}

    claim = replace(toy(measure, ("a", "b")), uses=("data",))
    result = reproduce(claim, Setup(work=tmp_path))
    assert result["missing"] == {"b": "needs a table"} and result["figures"] == {"sum": 3}
    whole = reproduce(claim, Setup(work=tmp_path, data=tmp_path))
    assert whole["missing"] == {} and whole["figures"] == {"sum": 6}


def test_nothing_at_hand_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="silent-rates: nothing could be measured: needs --data FOLDER"):
        reproduce(get_claim("silent-rates"), Setup(work=tmp_path))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give the NAME of a claim, or --list"),
        (["identity", "--list"], "give the NAME of a claim, or --list"),
        (["--list", "--quick"], "--quick would be ignored"),
        (["silent-rate"], "did you mean 'silent-rates'?"),
        (["silent-rates", "--model", "x"], "--model: the claim silent-rates does not use it"),
        (["silent-rates", "-o", "no/such/file.json"], "no folder no/such"),
        (["silent-rates", "--threads", "-1"], "--threads -1: must be at least 0"),
    ],
)
def test_mistakes_are_one_message(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


# --- silent-rates ------------------------------------------------------------------------------------------------


def test_a_table_of_three_rates_by_hand() -> None:
    """Rates 0, ½, 1 at G = 4: silent 1, 1/8, 1. Extreme: the outer two, without weight. With 0.05 and ½: σ² weights
    .0475 and .25, σ weights .2179 and .5."""
    table = silent_rates.measure_table(np.array([0.0, 0.5, 1.0]))
    assert table["silent"]["4"] == pytest.approx((1 + 1 / 8 + 1) / 3)
    assert table["extreme_weight"] == {"variance": 0.0, "sigma": 0.0, "sigma_at_8": 0.0}
    weights = silent_rates.measure_table(np.array([0.05, 0.5]))["extreme_weight"]
    assert weights["variance"] == pytest.approx(0.0475 / 0.2975)
    assert weights["sigma"] == pytest.approx(0.0475**0.5 / (0.0475**0.5 + 0.5))


def test_deepscaler_to_the_digit(shared_data: Path, tmp_path: Path) -> None:
    """Oracle: 66, 54, 45, 37, 32 % and 12.4 → 23.2 %, computed apart from this code when the table was first read."""
    figures = reproduce(get_claim("silent-rates"), Setup(work=tmp_path, data=shared_data))["figures"]["deepscaler"]
    assert [round(100 * share) for share in figures["silent"].values()] == [66, 54, 45, 37, 32]
    assert [round(100 * figures["extreme_weight"][law], 1) for law in ("variance", "sigma")] == [12.4, 23.2]


def test_a_run_of_still_prompts_is_foreseen() -> None:
    """Oracle: 20,000 prompts with a fixed rate each; observed and expected silent shares agree within sampling error,
    and the mean rate alone makes expect far fewer."""
    random = np.random.default_rng(0)
    rates = random.beta(0.5, 0.5, size=20_000)
    run = silent_rates.measure_run(random.binomial(8, rates[:, None], size=(20_000, 6)))
    truth = float((rates**8 + (1 - rates) ** 8).mean())
    assert np.allclose(run["observed"], truth, atol=0.015) and np.allclose(run["expected"], truth, atol=0.015)
    assert max(run["expected_of_mean"]) < 0.1 < truth
