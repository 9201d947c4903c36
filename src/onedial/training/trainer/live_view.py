"""The display of a running training: a live page on a terminal, one plain line per iteration elsewhere.

The page is redrawn only when the caller calls `update` or `progress` (there is no thread), at most four times per
second.
"""

from __future__ import annotations

import math
import os
import textwrap
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from onedial.core.palette import GROUP_KINDS
from onedial.core.safe_console import SafeConsole
from onedial.core.settings import Run

BLOCKS = " ▁▂▃▄▅▆▇█"
REFRESH_S = 0.25
HEADER_EVERY = 25
LABEL_WIDTH = 9
# The metric of each kind of group, with its label, glyph and color.
SHARES = tuple(
    (metric, style.label, style.glyph, style.terminal)
    for metric, style in zip(
        ("mixed_share", "all_correct_share", "all_wrong_share", "silent_other_share"),
        GROUP_KINDS.values(),
        strict=True,
    )
)
# Plain columns: heading, metric, format, width; 79 characters with the iteration. "all-corr" is short for all correct.
COLUMNS = (
    ("reward", "reward_mean", "{:.3f}", 7),
    ("correct", "correct_share", "{:.0%}", 8),
    ("mixed", "mixed_share", "{:.0%}", 6),
    ("all-corr", "all_correct_share", "{:.0%}", 9),
    ("all-wrong", "all_wrong_share", "{:.0%}", 10),
    ("entropy", "entropy", "{:.2f}", 8),
    ("length", "length_mean", "{:.1f}", 7),
    ("trained", "trained_share", "{:.0%}", 8),
    ("s", "time_s", "{:.1f}", 6),
)
# The same for rows that train on a dataset, where nothing is generated.
OFFLINE_COLUMNS = (
    ("loss", "loss", "{:.4f}", 9),
    ("nll", "nll", "{:.4f}", 9),
    ("pairs right", "pair_accuracy", "{:.0%}", 13),
    ("margin", "pair_margin", "{:.3f}", 9),
    ("gradient", "grad_norm", "{:.2f}", 10),
    ("tokens", "tokens_trained", "{:.0f}", 8),
    ("s", "time_s", "{:.1f}", 6),
)


class View:
    """Context manager around a run. `title` names it, `iterations` is the number of the last one; 0 if it is not known.

    `plain` forces one line per iteration. That is the default if the output is not a terminal or a very simple one, if
    it cannot show block characters, or if NO_COLOR is set.
    """

    def __init__(
        self, title: str, iterations: int, *, console: Console | None = None, plain: bool | None = None
    ) -> None:
        self.console = console or SafeConsole(highlight=False)
        self.title, self.iterations = title, iterations
        self.plain = _must_be_plain(self.console) if plain is None else plain
        self.metrics: Mapping[str, Any] = {}
        self.columns: Sequence[tuple[str, str, str, int]] = COLUMNS
        self.rewards: list[float] = []
        self.stage: tuple[str, int, int] = ("", 0, 0)
        self._start = self._drawn = time.monotonic()
        self._updates = 0
        self._live: Live | None = None

    def __enter__(self) -> View:
        self._start = time.monotonic()
        if not self.plain:
            # redirect: what others print goes above the page instead of through it
            self._live = Live(self.page(), console=self.console, auto_refresh=False)
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self.stage = ("", 0, 0)
            self._live.update(self.page(), refresh=True)
            self._live.__exit__(kind, error, trace)
            self._live = None

    def update(self, metrics: Mapping[str, Any]) -> None:
        """Shows the metrics of a finished iteration (the keys of `metrics.jsonl`; absent or None is shown as –)."""
        self.metrics = metrics
        if self._updates == 0 and metrics.get("rollouts_generated") == 0:
            self.columns = OFFLINE_COLUMNS
        reward = _number(metrics.get("nll" if self.columns is OFFLINE_COLUMNS else "reward_mean"))
        if reward is not None:
            self.rewards.append(reward)
        if self.plain:
            if self._updates % HEADER_EVERY == 0:
                self._print("iteration".rjust(10) + "".join(name.rjust(width) for name, _, _, width in self.columns))
            self._print(self.line())
        self._updates += 1
        self._draw(force=True)

    def progress(self, stage: str, done: int, total: int) -> None:
        """Shows how far a stage (generate, verify, update) of the present iteration is; cheap, can be called often."""
        self.stage = (stage, done, total)
        self._draw(force=False)

    def note(self, text: str) -> None:
        """Prints text that stays, above the page, in lines of at most 80 columns; a long path is not broken."""
        for line in text.splitlines():
            for part in textwrap.wrap(line, 80, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False):
                self._print(part)

    def line(self) -> str:
        """The last iteration as one line of plain text, under 80 columns."""
        of = f"/{self.iterations}" if self.iterations else ""
        place = f"{self.metrics.get('iteration', self._updates)}{of}".rjust(10)
        shown = [_shown(self.metrics.get(key), form).rjust(width) for _, key, form, width in self.columns]
        return place + "".join(shown)

    def page(self) -> RenderableType:
        """The whole page for the console's present width."""
        width = min(self.console.width, 140)
        inner = width - 4
        if self.columns is COLUMNS:
            body = Group(self._reward(inner), Text(), self._groups(inner), Text(), self._figures())
        else:
            body = Group(self._likelihood(inner))
        return Panel(
            Group(body, Text(), self._stage_bar(inner)),
            title=Text(f" onedial · {self.title} ", "bold"),
            subtitle=Text(f" {self._clock()} "),
            title_align="left",
            subtitle_align="left",
            border_style="bright_black",
            width=width,
        )

    def _likelihood(self, width: int) -> Text:
        """The likelihood of the data, shown instead of rewards and groups for rows that train on a dataset."""
        get = self.metrics.get
        text = (
            Text().append("−log π   ", "bold").append(_shown(get("nll"), "{:.3f}"), "bold cyan").append(" nats a token")
        )
        text = self._curve(text, width)
        if get("pair_margin") is not None:
            text.append("\npairs    ", "bold").append(_shown(get("pair_accuracy"), "{:.0%}"), "bold cyan")
            text.append(f" correct, margin {_shown(get('pair_margin'), '{:.3f}')}")
        return text.append("\ngradient ", "bold").append(f"{_shown(get('grad_norm'), '{:.3f}')} norm")

    def _reward(self, width: int) -> Text:
        text = Text().append("reward   ", "bold").append(_shown(self.metrics.get("reward_mean"), "{:.3f}"), "bold cyan")
        text.append("   correct ", "default").append(_shown(self.metrics.get("correct_share"), "{:.0%}"), "bold cyan")
        return self._curve(text, width)

    def _curve(self, text: Text, width: int) -> Text:
        if not self.rewards:
            return text.append("\n         (no iteration has ended yet)", "bright_black")
        low, high = min(self.rewards), max(self.rewards)
        ends = (f"{low:.2f} ", f" {high:.2f}")
        line = draw_sparkline(self.rewards, max(8, min(width - LABEL_WIDTH - len(ends[0]) - len(ends[1]), 60)))
        return text.append(f"\n         {ends[0]}", "bright_black").append(line, "cyan").append(ends[1], "bright_black")

    def _groups(self, width: int) -> Text:
        values = [_number(self.metrics.get(key)) or 0.0 for key, *_ in SHARES]
        text = Text().append("groups   ", "bold")
        for cells, (_, _, glyph, color) in zip(stack_widths(values, width - LABEL_WIDTH), SHARES, strict=True):
            text.append(glyph * cells, color)
        if not any(values):
            text.append("–", "bright_black")
        text.append("\n         ")
        for value, (_, name, glyph, color) in zip(values, SHARES, strict=True):
            if value or name != "other":
                text.append(f"{glyph} ", color).append(f"{name} {value:.0%}  ")
        return text

    def _figures(self) -> Table:
        """The σ̂ histogram beside the numbers of tokens, lengths and clipping."""
        grid = Table.grid(padding=(0, 3, 0, 0))
        grid.add_column(no_wrap=True)
        grid.add_column(no_wrap=True)
        grid.add_row(self._histogram(), self._numbers())
        return grid

    def _histogram(self) -> Text:
        text = Text()
        lines = draw_bars(self.metrics.get("sigma_hist") or [0] * 10, height=4)
        for index, line in enumerate(lines):
            text.append("σ̂        " if index == 0 else " " * 9, "bold").append(line + "\n", "cyan")
        axis = "0" + "0.5".rjust(2 * 10 - 2)
        text.append(" " * 9 + axis + "\n", "bright_black")
        return text.append("         mean ", "default").append(_shown(self.metrics.get("sigma_mean"), "{:.3f}"), "cyan")

    def _numbers(self) -> Table:
        get = self.metrics.get
        numbers: tuple[tuple[str, str], ...] = (
            ("trained", f"{_shown(get('trained_share'), '{:.0%}')} of the tokens"),
            ("speed", f"{_shown(get('tokens_per_s'), '{:.0f}')} tokens/s"),
            ("length", f"{_shown(get('length_mean'), '{:.1f}')}, {_shown(get('truncated_share'), '{:.0%}')} cut off"),
            (
                "clipped",
                f"{_shown(get('clip_low_share'), '{:.1%}')} low, {_shown(get('clip_high_share'), '{:.1%}')} high",
            ),
            ("entropy", f"{_shown(get('entropy'), '{:.3f}')} nats"),
            ("gradient", f"{_shown(get('grad_norm'), '{:.3f}')} norm"),
        )
        if get("explained_variance") is not None:
            explains = f"explains {_shown(get('explained_variance'), '{:.0%}')}"
            numbers += (("critic", f"{explains}, off by {_shown(get('value_calibration'), '{:.2f}')}"),)
        if get("believed_mean") is not None:
            numbers += (("visited", self._visited()),)
        if get("calibration_error") is not None:
            audits = (
                f"{_shown(get('audit_believed'), '{:.2f}')} of audits, {_shown(get('audit_solved'), '{:.2f}')} solved"
            )
            off = f"off by {_shown(get('calibration_error'), '{:.3f}')} so far"
            numbers += (("believed", audits), ("", off))
        grid = Table.grid(padding=(0, 1, 0, 0))
        for name, value in numbers:
            grid.add_row(Text(name, "bright_black"), Text(value))
        return grid

    def _visited(self) -> str:
        """The number of candidates that were sampled, and how often each was."""
        groups, rollouts, of = (self.metrics[name] for name in ("groups_generated", "rollouts_generated", "candidates"))
        return f"{groups} of {of}, {rollouts / groups:.1f} tries each"

    def _stage_bar(self, inner: int) -> Text:
        stage, done, total = self.stage
        if not stage:
            return Text(" ")
        count = f" {done}/{total}"
        room = max(10, inner - LABEL_WIDTH - len(count))
        filled = round(room * min(1.0, done / total)) if total else 0
        return (
            Text()
            .append(f"{stage:<9}", "bold")
            .append("━" * filled, "cyan")
            .append("━" * (room - filled), "grey30")
            .append(count)
        )

    def _clock(self) -> str:
        spent = time.monotonic() - self._start
        at = self.metrics.get("iteration", 0)
        of = f" of {self.iterations}" if self.iterations else ""
        parts = [f"iteration {at}{of}", f"{_duration(spent)} elapsed"]
        if self._updates and at < self.iterations:
            parts.append(f"about {_duration(spent / self._updates * (self.iterations - at))} left")
        return " · ".join(parts)

    def _draw(self, *, force: bool) -> None:
        now = time.monotonic()
        if self._live is not None and (force or now - self._drawn >= REFRESH_S):
            self._drawn = now
            self._live.update(self.page(), refresh=True)

    def _print(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)


def draw_sparkline(values: Sequence[float], width: int) -> str:
    """Draws the values in order as blocks, scaled from lowest to highest; averages neighbors beyond `width` values."""
    if len(values) > width:
        edges = [round(index * len(values) / width) for index in range(width + 1)]
        values = [math.fsum(values[a:b]) / (b - a) for a, b in zip(edges, edges[1:], strict=False)]
    low, high = min(values), max(values)
    span = high - low
    return "".join(BLOCKS[1 + round(7 * (value - low) / span)] if span > 0 else BLOCKS[4] for value in values)


def draw_bars(counts: Sequence[float], height: int) -> list[str]:
    """Draws a histogram as `height` lines, two columns per bin; a bin that is not empty shows at least one eighth."""
    top = max(counts, default=0)
    eighths = [max(1, round(8 * height * count / top)) if count else 0 for count in counts]
    lines = []
    for line in reversed(range(height)):
        levels = [min(8, max(0, value - 8 * line)) for value in eighths]
        lines.append("".join(BLOCKS[level] + " " if level == 0 else BLOCKS[level] * 2 for level in levels))
    return lines


def stack_widths(shares: Sequence[float], width: int) -> list[int]:
    """Returns the columns of each part of a bar; they add up to `width` times the sum of shares (largest remainder)."""
    exact = [share * width for share in shares]
    cells = [math.floor(value) for value in exact]
    by_remainder = sorted(range(len(shares)), key=lambda index: exact[index] - cells[index], reverse=True)
    for index in by_remainder[: round(math.fsum(exact)) - sum(cells)]:
        cells[index] += 1
    return cells


def _must_be_plain(console: Console) -> bool:
    utf8 = (console.encoding or "").lower().replace("-", "").startswith("utf")
    return not console.is_terminal or console.is_dumb_terminal or not utf8 or bool(os.environ.get("NO_COLOR"))


def _number(value: Any) -> float | None:
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable else None


def _shown(value: Any, form: str) -> str:
    number = _number(value)
    return "-" if number is None else form.format(number)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


def open_view(run: Run, title: str = "", *, plain: bool | None = None) -> View:
    """The view of a run, by default titled by its row and task. With a budget of tokens, the number of iterations is
    not known in advance."""
    last = 0 if run.max_generated_tokens else run.iterations
    return View(title or f"{run.algorithm.name} on {run.task_name}", last, plain=plain)
