"""Oracles: widths counted in terminal cells, hand-drawn bars, the contract of the plain lines, a stopped clock."""

from __future__ import annotations

import io
import math
import time
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from onedial.training.trainer.live_view import View, draw_bars, draw_sparkline, stack_widths

METRICS: dict[str, Any] = {
    "iteration": 3,
    "reward_mean": 0.4375,
    "correct_share": 0.4375,
    "sigma_mean": 0.21,
    "sigma_hist": [6, 0, 0, 0, 0, 0, 2, 0, 3, 5],
    "mixed_share": 0.625,
    "all_correct_share": 0.125,
    "all_wrong_share": 0.25,
    "silent_other_share": 0.0,
    "trained_share": 0.55,
    "entropy": 0.412,
    "clip_low_share": 0.003,
    "clip_high_share": 0.008,
    "length_mean": 8.1,
    "truncated_share": 0.02,
    "tokens_per_s": 412.3,
    "time_s": 6.2,
    "grad_norm": 0.8,
    "explained_variance": 0.42,
    "value_calibration": 0.08,
}


OFFLINE: dict[str, Any] = {
    "iteration": 3, "rollouts_generated": 0, "loss": 0.31, "nll": 1.25, "pair_accuracy": 0.75, "pair_margin": 0.4,
    "grad_norm": 0.8, "tokens_trained": 240, "time_s": 1.5, "reward_mean": None,
}  # fmt: skip


def terminal(width: int) -> Console:
    return Console(
        file=io.StringIO(), force_terminal=True, width=width, color_system=None, highlight=False, legacy_windows=False
    )


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 120, 200])
@pytest.mark.parametrize(
    "metrics", [METRICS, OFFLINE, {}, {"iteration": 3, "reward_mean": math.nan, "sigma_hist": None}]
)
def test_page_fits_its_width_and_half_a_screen(width: int, metrics: dict[str, Any]) -> None:
    console = terminal(width)
    view = View("dapo on arithmetic", 30, console=console, plain=False)
    for _ in range(200):
        view.update(metrics)
    view.progress("generate", 41, 64)
    console.print(view.page())
    lines = text_of(console).splitlines()
    assert max(cell_len(line) for line in lines) <= width
    assert len(lines) <= 18
    if metrics is OFFLINE:
        shown = "\n".join(lines)
        assert "1.250 nats a token" in shown and "75% correct, margin 0.400" in shown and "reward" not in shown


def test_an_iteration_without_new_rollouts_keeps_the_figures_of_rollouts() -> None:
    """A resumed iteration may find all its rollouts on disk; only a run that begins without any is offline."""
    view = View("t", 3, console=terminal(80), plain=True)
    view.update(METRICS)
    view.update(METRICS | {"rollouts_generated": 0})
    assert text_of(view.console).count("0.438") == 2 and "nll" not in text_of(view.console)


def test_a_long_path_in_a_note_is_one_word() -> None:
    console = terminal(80)
    path = "/folder" * 30
    View("t", 1, console=console, plain=True).note(f"saved in {path}\n{'word ' * 30}")
    lines = text_of(console).splitlines()
    assert path in "".join(line.strip() for line in lines[:4]) and any(path in line for line in lines)
    assert max(len(line) for line in lines if path not in line) <= 80
    assert lines[-1].startswith("  word"), "what is continued hangs"


def test_plain_lines_of_a_row_that_generates_nothing() -> None:
    """Oracle: the figures by hand; no column of rewards or groups."""
    console = terminal(80)
    view = View("dpo on arithmetic", 30, console=console, plain=True)
    view.update(OFFLINE)
    header, line = text_of(console).splitlines()
    assert header.split() == ["iteration", "loss", "nll", "pairs", "right", "margin", "gradient", "tokens", "s"]
    assert line.split() == ["3/30", "0.3100", "1.2500", "75%", "0.400", "0.80", "240", "1.5"]
    assert len(header) == len(line) <= 80


# The three pages as they must look on 80 columns: every figure of METRICS and OFFLINE is in its place.
PAGE = """
╭─  onedial · dapo on arithmetic  ─────────────────────────────────────────────╮
│ reward   0.438   correct 44%                                                 │
│          0.25 ▁█▆ 0.50                                                       │
│                                                                              │
│ groups   ██████████████████████████████████████████▓▓▓▓▓▓▓▓▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒ │
│          █ mixed 62%  ▓ all correct 12%  ▒ all wrong 25%                     │
│                                                                              │
│ σ̂        ██                ▃▃   trained  55% of the tokens                   │
│          ██                ██   speed    412 tokens/s                        │
│          ██          ▃▃  ████   length   8.1, 2% cut off                     │
│          ██          ██  ████   clipped  0.3% low, 0.8% high                 │
│          0               0.5    entropy  0.412 nats                          │
│          mean 0.210             gradient 0.800 norm                          │
│                                 critic   explains 42%, off by 0.08           │
│                                                                              │
│ generate ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━ 41/64 │
╰─  iteration 3 of 30 · 1:15 elapsed · about 11:15 left  ──────────────────────╯
"""
OFFLINE_PAGE = """
╭─  onedial · dapo on arithmetic  ─────────────────────────────────────────────╮
│ −log π   1.438 nats a token                                                  │
│          1.25 ▁█▆ 1.50                                                       │
│ pairs    75% correct, margin 0.400                                           │
│ gradient 0.800 norm                                                          │
│                                                                              │
│ generate ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━ 41/64 │
╰─  iteration 3 of 30 · 1:15 elapsed · about 11:15 left  ──────────────────────╯
"""
EMPTY_PAGE = """
╭─  onedial · dapo on arithmetic  ─────────────────────────────────────────────╮
│ reward   -   correct -                                                       │
│          (no iteration has ended yet)                                        │
│                                                                              │
│ groups   –                                                                   │
│          █ mixed 0%  ▓ all correct 0%  ▒ all wrong 0%                        │
│                                                                              │
│ σ̂                               trained  - of the tokens                     │
│                                 speed    - tokens/s                          │
│                                 length   -, - cut off                        │
│                                 clipped  - low, - high                       │
│          0               0.5    entropy  - nats                              │
│          mean -                 gradient - norm                              │
│                                                                              │
│ generate ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━ 41/64 │
╰─  iteration 0 of 30 · 1:15 elapsed  ─────────────────────────────────────────╯
"""


@pytest.mark.parametrize(
    ("metrics", "rewards", "page"),
    [
        (METRICS, [{"reward_mean": 0.25}, {"reward_mean": 0.5}, {"reward_mean": 0.4375}], PAGE),
        (OFFLINE, [{"nll": 1.25}, {"nll": 1.5}, {"nll": 1.4375}], OFFLINE_PAGE),
        ({}, [], EMPTY_PAGE),
    ],
    ids=["rollouts", "offline", "before the first iteration"],
)
def test_pages_look_as_drawn_by_hand(
    metrics: dict[str, Any], rewards: list[dict[str, float]], page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three iterations in 75 seconds: 27 more take about 675."""
    now = 1000.0
    monkeypatch.setattr("onedial.training.trainer.live_view.time.monotonic", lambda: now)
    console = terminal(80)
    view = View("dapo on arithmetic", 30, console=console, plain=False)
    for reward in rewards:
        view.update(metrics | reward)
    now += 75.0
    view.progress("generate", 41, 64)
    console.print(view.page())
    assert text_of(console).strip("\n") == page.strip("\n")


def test_silent_groups_of_another_kind_are_named_where_there_are_some() -> None:
    console = terminal(80)
    view = View("t", 2, console=console, plain=False)
    view.update(METRICS | {"iteration": 2, "mixed_share": 0.5, "silent_other_share": 0.125})
    console.print(view.page())
    lines = text_of(console).splitlines()
    assert "█ mixed 50%  ▓ all correct 12%  ▒ all wrong 25%  " in lines[5] and "other 12%" in lines[5]
    assert sum(lines[4].count(glyph) for glyph in "█▓▒░") >= 58, "the bar is full"
    assert "left" not in lines[-1], "no iteration is left"


@pytest.mark.parametrize(("seconds", "shown"), [(59.4, "0:59"), (60, "1:00"), (3599.6, "1:00:00"), (7322, "2:02:02")])
def test_elapsed_time_reads_as_a_clock(seconds: float, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("onedial.training.trainer.live_view.time.monotonic", lambda: now)
    view = View("t", 2, console=terminal(80), plain=False)
    now = seconds
    view.console.print(view.page())
    assert f" · {shown} elapsed" in text_of(view.console)


def test_page_shows_what_a_run_is_judged_by() -> None:
    console = terminal(80)
    view = View("dapo on arithmetic", 30, console=console, plain=False)
    view.update(METRICS)
    view.progress("verify", 16, 64)
    console.print(view.page())
    shown = " ".join(text_of(console).split())
    for part in (
        "reward 0.438", "correct 44%", "mixed 62%", "all correct 12%", "all wrong 25%", "mean 0.210", "entropy 0.412",
        "0.3% low, 0.8% high", "8.1, 2% cut off", "412 tokens/s", "55% of the tokens", "explains 42%, off by 0.08",
        "verify ━", "16/64", "iteration 3 of 30", "elapsed", "left",
    ):  # fmt: skip
        assert part in shown, part


def test_the_page_says_how_many_candidates_were_visited() -> None:
    view = View("t", 9, console=terminal(100), plain=False)
    found = {"believed_mean": 0.5, "candidates": 40, "groups_generated": 8, "rollouts_generated": 20}
    view.update({**METRICS, **found})
    view.console.print(view.page())
    assert "visited 8 of 40, 2.5 tries each" in " ".join(text_of(view.console).split())


@pytest.mark.parametrize("width, blocks", [(60, 37), (80, 57), (120, 60)])
def test_a_long_curve_fills_its_line_up_to_sixty_columns(width: int, blocks: int) -> None:
    """Hand values: the width less four of the frame, nine of the label, and ten of the two ends."""
    view = View("t", 500, console=terminal(width), plain=False)
    for iteration in range(1, 401):
        view.update({**METRICS, "iteration": iteration, "reward_mean": iteration / 400})
    view.console.print(view.page())
    (curve,) = [line for line in text_of(view.console).splitlines() if "0.00 " in line]
    assert len(curve.split("0.00 ")[1].split(" 1.00")[0]) == blocks


def test_a_finished_iteration_is_drawn_at_once() -> None:
    console = terminal(80)
    with View("t", 3, console=console, plain=False) as view:
        view.update({**METRICS, "reward_mean": 0.125})
        view.update({**METRICS, "reward_mean": 0.625})
        assert "0.625" in text_of(console)


def test_a_terminal_page_is_drawn_at_most_four_times_a_second() -> None:
    console = terminal(80)
    drawn = 0
    with View("t", 3, console=console, plain=False) as view:
        draw = view.page

        def page() -> Any:
            nonlocal drawn
            drawn += 1
            return draw()

        view.page = page  # type: ignore[method-assign]
        start = time.monotonic()
        for done in range(20_000):
            view.progress("generate", done, 20_000)
        spent = time.monotonic() - start
        assert drawn <= 1 + spent / 0.25
        assert spent < 2.0  # cheap enough to call for every finished row


def test_not_a_terminal_means_one_plain_line_per_iteration() -> None:
    console = Console(file=io.StringIO(), width=80)
    with View("dapo on arithmetic", 30, console=console) as view:
        for iteration in range(1, 28):
            view.progress("generate", 1, 2)
            view.update(METRICS | {"iteration": iteration})
    lines = text_of(console).splitlines()
    assert len(lines) == 27 + 2  # the heading comes again after 25 lines
    assert all(len(line) < 80 and line.isascii() for line in lines)
    assert lines[0].split() == [
        "iteration", "reward", "correct", "mixed", "all-corr", "all-wrong", "entropy", "length", "trained", "s",
    ]  # fmt: skip
    assert lines[3].split() == ["3/30", "0.438", "44%", "62%", "12%", "25%", "0.41", "8.1", "55%", "6.2"]


@pytest.mark.parametrize(("variable", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_environment_that_asks_for_plain_text_gets_it(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert not View("t", 1, console=Console(file=Utf8(), force_terminal=True)).plain
    monkeypatch.setenv(variable, value)
    assert View("t", 1, console=Console(file=Utf8(), force_terminal=True)).plain


class Utf8(io.StringIO):
    encoding = "utf-8"


def test_missing_and_unfinite_numbers_show_as_a_dash() -> None:
    console = Console(file=io.StringIO(), width=80)
    with View("t", 2, console=console) as view:
        view.update({"iteration": 1, "reward_mean": math.inf, "entropy": None})
    assert text_of(console).splitlines()[1].split() == ["1/2"] + ["-"] * 9


def test_markup_in_a_note_is_text() -> None:
    console = Console(file=io.StringIO(), width=80)
    View("t", 1, console=console).note("wrote [bold]x[/bold] [1, 2]")
    assert text_of(console) == "wrote [bold]x[/bold] [1, 2]\n"


def test_the_page_is_closed_when_the_run_fails() -> None:
    console = terminal(80)
    with pytest.raises(RuntimeError, match="engine"), View("t", 3, console=console, plain=False):
        raise RuntimeError("engine")
    assert "\x1b[?25h" in text_of(console)  # the cursor is shown again


def test_sparkline_hand_values() -> None:
    assert draw_sparkline([0.0, 0.5, 1.0], 10) == "▁▅█"  # lowest, half of 7 steps rounded to even, highest
    assert draw_sparkline([0.3, 0.3], 10) == "▄▄"
    assert draw_sparkline([0.0, 0.0, 1.0, 1.0], 2) == "▁█"  # pairs averaged
    assert draw_sparkline([0.3, 0.3 + 1e-9], 10) == "▁█"
    assert draw_sparkline([0, 7], 1) == "▄"
    assert len(draw_sparkline([float(x) for x in range(1000)], 40)) == 40


def test_bars_hand_values() -> None:
    assert draw_bars([8, 4, 0], 2) == ["██    ", "████  "]
    assert draw_bars([1000, 1], 1) == ["██▁▁"]  # a bin that is not empty is seen
    assert draw_bars([0, 0], 2) == ["    ", "    "]
    assert draw_bars([1], 1) == ["██"] and draw_bars([0.25, 0.5], 1) == ["▄▄██"]
    assert draw_bars([], 2) == ["", ""]


def test_stacked_cells_fill_the_bar() -> None:
    assert stack_widths([0.5, 0.25, 0.25], 8) == [4, 2, 2]
    assert stack_widths([0.26, 0.74], 10) == [3, 7] and stack_widths([0.24, 0.76], 10) == [2, 8]
    assert stack_widths([0.5, 0.0], 8) == [4, 0]
    assert stack_widths([1 / 3, 1 / 3, 1 / 3], 10) == [4, 3, 3]  # the remainder goes to the first
    for share in (0.0, 0.011, 0.49, 0.999, 1.0):
        assert sum(stack_widths([share, 1 - share], 71)) == 71


def test_a_run_by_tokens_does_not_know_its_last_iteration() -> None:
    from onedial.core.settings import Run
    from onedial.training.trainer.live_view import open_view

    by_tokens = open_view(Run(max_generated_tokens=500, iterations=70), plain=True)
    by_tokens.metrics = {"iteration": 3}
    assert by_tokens.line().split()[0] == "3" and by_tokens._clock().startswith("iteration 3 · ")
    by_iterations = open_view(Run(iterations=70), "title", plain=True)
    by_iterations.metrics = {"iteration": 3}
    assert by_iterations.line().split()[0] == "3/70" and "iteration 3 of 70" in by_iterations._clock()
