"""`onedial inspect --follow` inside TRL's trainer: what is new in the completions it logs, and an end without signal.

GRPOTrainer(..., args=GRPOConfig(log_completions=True, ...), callbacks=[FollowLog(stop_after=20)])
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from onedial.analysis.follower import Follower, News
from onedial.analysis.logs.detect import read
from onedial.analysis.result import analyze
from onedial.core.errors import ConfigError, DataError
from onedial.core.text_safety import escape_line

NAMES = {"mixed": "mixed", "right": "all correct", "wrong": "all wrong", "other": "equal otherwise"}


class FollowLog(TrainerCallback):
    """Reads the completions that TRL logs every `every` steps, and reports new iterations and findings.

    `report` gets each News; by default they are printed on stderr. With `stop_after`, training ends after so many
    logged steps in a row without a mixed group. Only the first process reads. A log that cannot be read is said once
    and never stops the training.
    """

    def __init__(
        self, *, every: int = 10, stop_after: int | None = None, report: Callable[[News], None] | None = None
    ) -> None:
        for name, value in (("every", every), ("stop_after", stop_after)):
            if value is not None and value < 1:
                raise ConfigError(f"FollowLog({name}={value}): must be at least 1")
        self.every, self.stop_after, self.report = every, stop_after, report or _print
        self.follower, self.trouble = Follower(), ""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Raises ConfigError where the trainer logs no completions."""
        if not getattr(args, "log_completions", False):
            raise ConfigError(
                "FollowLog reads the completions that TRL logs; set log_completions=True in the GRPOConfig"
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Looks at the log; ends the training where it has no signal."""
        if state.is_world_process_zero and state.global_step % self.every == 0:
            news = self._look(args, ended=False)
            if news is not None and self.stop_after and news.without_signal >= self.stop_after:
                print(
                    f"onedial: no mixed group in the last {news.without_signal} logged steps; training ends "
                    f"(stop_after={self.stop_after})",
                    file=sys.stderr,
                )
                control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Reports what is left."""
        if state.is_world_process_zero:
            self._look(args, ended=True)

    def _look(self, args: Any, *, ended: bool) -> News | None:
        try:
            log = read(Path(args.output_dir) / "completions", format="trl", text=False)
            news = self.follower.compare(analyze(log), ended=ended)
        except (DataError, OSError) as error:
            if ended and str(error) != self.trouble:
                self.trouble = str(error)
                print(f"onedial: the log of completions cannot be read: {escape_line(self.trouble)}", file=sys.stderr)
            return None
        self.report(news)
        return news


def _print(news: News) -> None:
    for line in describe_news(news):
        print(f"onedial: {escape_line(line)}", file=sys.stderr, flush=True)


def describe_news(news: News) -> Iterator[str]:
    """A line per iteration and per finding."""
    for each in news.iterations:
        kinds = ", ".join(f"{each.kinds[kind] / each.groups:.0%} {name}" for kind, name in NAMES.items())
        reward = "" if each.reward is None else f"; mean reward {each.reward:.3f}"
        yield f"step {each.iteration}: {each.groups} groups: {kinds}{reward}"
    for finding in news.findings:
        yield f"{finding.title}. {finding.headline} → {finding.what_to_do}"
