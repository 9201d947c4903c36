"""`onedial inspect --follow` on logs that grow. Oracles: hand-made rewards, and the analysis of the whole log."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from onedial.analysis import analyze
from onedial.analysis.follower import WATCHED, Follower, summarize_iterations
from onedial.analysis.logs import read
from onedial.cli.follow import read_stamp
from onedial.cli.main import main

MIXED, RIGHT, WRONG = [1, 0, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0]


def write_step(folder: Path, step: int, *groups: list[int]) -> None:
    """One step's completions as TRL writes them, with lengths of 3 and 5 characters for wrong and right answers."""
    rewards = [reward for group in groups for reward in group]
    rows = {
        "step": [step] * len(rewards),
        "prompt": [f"prompt {step} {number}" for number, group in enumerate(groups) for _ in group],
        "completion": ["right" if reward else "bad" for reward in rewards],
        "accuracy_reward": [float(reward) for reward in rewards],
        "advantage": [0.0] * len(rewards),
    }
    folder.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(rows).write_parquet(folder / f"completions_{step:05d}.parquet")


def follow_to_its_end(capsys: pytest.CaptureFixture[str], log: Path, *words: str) -> tuple[int, str, str]:
    code = main(["inspect", str(log), "--follow", "--every", "0.05", "--idle", "0.1", *words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_an_iteration_is_told_once_and_only_when_the_next_has_begun(tmp_path: Path) -> None:
    follower = Follower()
    write_step(tmp_path, 1, MIXED, RIGHT, WRONG, MIXED)
    assert follower.compare(analyze(read(tmp_path))).iterations == ()
    write_step(tmp_path, 2, RIGHT, RIGHT)
    (first,) = follower.compare(analyze(read(tmp_path))).iterations
    assert (first.iteration, first.groups) == (1, 4)
    assert first.kinds == {"mixed": 2, "right": 1, "wrong": 1, "other": 0} and first.reward == 8 / 16
    assert follower.compare(analyze(read(tmp_path))).iterations == ()
    write_step(tmp_path, 3, MIXED)
    news = follower.compare(analyze(read(tmp_path)), ended=True)
    assert [each.iteration for each in news.iterations] == [2, 3] and news.without_signal == 0


def test_iterations_without_a_mixed_group_are_counted_from_the_latest_complete_one(tmp_path: Path) -> None:
    for step, group in enumerate([RIGHT, MIXED, RIGHT, WRONG, MIXED], 1):
        write_step(tmp_path, step, group, group)
    assert Follower().compare(analyze(read(tmp_path))).without_signal == 2  # steps 3 and 4; 5 may not be complete
    assert Follower().compare(analyze(read(tmp_path)), ended=True).without_signal == 0


def test_summaries_add_up_to_the_figures_of_the_log(tmp_path: Path) -> None:
    for step in range(1, 6):
        write_step(tmp_path, step, *[MIXED] * step, RIGHT, WRONG, WRONG)
    analysis = analyze(read(tmp_path))
    summaries = summarize_iterations(analysis)
    assert sum(each.groups for each in summaries) == analysis.figures["groups"]
    mixed = sum(each.kinds["mixed"] for each in summaries) / analysis.figures["groups"]
    assert mixed == pytest.approx(analysis.figures["mixed_share"])


def test_a_finding_is_told_again_only_when_its_figure_leaves_the_interval_told(tmp_path: Path) -> None:
    follower = Follower()

    def told() -> set[str]:
        return {finding.name for finding in follower.compare(analyze(read(tmp_path))).findings}

    write_step(tmp_path, 1, MIXED, RIGHT)
    assert "silent_share" not in told()  # one of two groups: the interval is as wide as the scale
    for step in range(2, 30):
        write_step(tmp_path, step, *[MIXED] * 4, *[RIGHT] * 4)
    assert "silent_share" in told()
    write_step(tmp_path, 30, *[MIXED] * 4, *[RIGHT] * 4)
    assert "silent_share" not in told()
    for step in range(31, 70):
        write_step(tmp_path, step, *[RIGHT] * 8)
    assert "silent_share" in told()


def test_the_findings_watched_exist() -> None:
    analysis = analyze(read(Path(__file__).parents[1] / "examples" / "rollouts.jsonl.gz"))
    assert set(WATCHED) <= {finding.name for finding in analysis.findings}


def test_a_run_without_signal_ends_with_its_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for step, group in enumerate([MIXED, RIGHT, RIGHT, RIGHT], 1):
        write_step(tmp_path, step, group, group)
    code, out, err = follow_to_its_end(capsys, tmp_path, "--stop-after", "2")
    assert code == 3 and "no mixed group in the last 2 iterations" in err
    assert [line.split()[:4] for line in out.splitlines()[1:4]] == [
        ["1", "2", "100", "%"],
        ["2", "2", "0", "%"],
        ["3", "2", "0", "%"],
    ]
    code, out, _ = follow_to_its_end(capsys, tmp_path, "--stop-after", "5")
    assert code == 0 and max(map(len, out.splitlines())) <= 80


def test_json_is_one_object_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for step in range(1, 30):
        write_step(tmp_path, step, MIXED, RIGHT, RIGHT, WRONG)
    code, out, _ = follow_to_its_end(capsys, tmp_path, "--json")
    events: list[dict[str, Any]] = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [event["iteration"] for event in events if event["event"] == "iteration"] == list(range(1, 30))
    findings = {event["name"]: event for event in events if event["event"] == "finding"}
    assert findings["silent_share"]["value"] == 0.75
    low, high = findings["silent_share"]["interval"]
    assert 0.5 < low < 0.75 < high < 0.9


def test_a_log_without_iterations_says_so_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table of solve rates used to be followed in silence. Oracle: one line, the end; none for a log with steps."""
    rates = tmp_path / "rates.csv"
    rates.write_text("prompt,solve_rate\n" + "".join(f"q{i},{i % 9 / 8}\n" for i in range(40)))
    code, out, err = follow_to_its_end(capsys, rates)
    assert (code, out) == (0, "")
    assert err.splitlines() == [
        f"{rates}: names no iteration with a group of 2 rollouts or more, so only findings are reported"
    ]
    write_step(tmp_path / "run", 1, MIXED)
    assert follow_to_its_end(capsys, tmp_path / "run")[2] == ""


def test_it_waits_for_a_log_that_is_not_there_yet_and_sees_it_grow(tmp_path: Path) -> None:
    folder = tmp_path / "outputs"
    words = ["inspect", str(folder), "--follow", "--every", "0.2", "--idle", "3", "--json"]
    command = [sys.executable, "-m", "onedial", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        assert "waiting for a log" in process.stderr.readline()
        for step in (1, 2):
            write_step(folder, step, MIXED, WRONG)
        assert json.loads(process.stdout.readline())["iteration"] == 1
        write_step(folder, 3, WRONG)
        rest = [json.loads(line)["iteration"] for line in process.stdout.read().splitlines() if "iteration" in line]
        assert rest == [2, 3] and process.wait() == 0


def test_a_change_of_any_file_is_seen(tmp_path: Path) -> None:
    assert read_stamp(tmp_path / "absent") == (0, 0, 0)
    write_step(tmp_path, 1, MIXED)
    before = read_stamp(tmp_path)
    write_step(tmp_path, 2, MIXED)
    assert read_stamp(tmp_path) != before == read_stamp(tmp_path / "completions_00001.parquet")
    time.sleep(0.01)
    before = read_stamp(tmp_path)
    write_step(tmp_path, 1, RIGHT)  # rewritten, perhaps to the same size
    assert read_stamp(tmp_path) != before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--every", "5"], "--every needs --follow"),
        (["--stop-after", "5"], "--stop-after needs --follow"),
        (["--follow", "--idle", "0"], "--idle 0.0: must be greater than 0"),
        (["--follow", "--every", "nan"], "--every nan: must be greater than 0"),
        (["--follow", "-o", "x.html"], "--output does not apply to --follow"),
        (["--follow", "--json", "--findings"], "--findings does not apply to --follow"),
        (["--follow", "--format", "trll"], "did you mean 'trl'"),
        (["--follow", "--idle", "1", "--map", "prompt"], "write OURS=THEIRS"),
    ],
)
def test_mistakes_are_one_message(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(tmp_path), *words]) == 2
    err = capsys.readouterr().err
    assert message in err and "Traceback" not in err
