"""`onedial algorithms --rewards`: the advantages and token weights that each algorithm row gives to groups typed by the
user.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, pstdev

from onedial.cli.terminal import Terminal
from onedial.core.algorithm import Algorithm
from onedial.core.errors import ConfigError, explain_missing_extra

LONGEST = 1024  # tokens by which rows with a constant length divide; longer answers raise it
MOST_ANSWERS = 9  # that fit a line


@dataclass(frozen=True)
class RowOnGroups:
    """One row on all answers typed, in order: the advantage, advantage × weight of one token, the same over the whole
    answer, and how many answers have a gradient."""

    row: str
    advantage: tuple[float, ...]
    token: tuple[float, ...]
    answer: tuple[float, ...]
    trained: int


def add_group_options(parser: argparse.ArgumentParser) -> None:
    """Adds --rewards and --lengths."""
    parser.add_argument(
        "--rewards",
        type=_numbers,
        action="append",
        metavar="R,R...",
        help="advantages of a group with these rewards under every row; give it once per group",
    )
    parser.add_argument(
        "--lengths",
        type=_numbers,
        action="append",
        metavar="N,N...",
        help="with --rewards: tokens of these answers, for the weight of one token",
    )


def _numbers(text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(word) for word in text.split(","))
    except ValueError:
        values = (math.nan,)
    if not all(map(math.isfinite, values)):
        raise argparse.ArgumentTypeError(f"{text!r}: must be numbers with commas between, as in 1,0,0,1")
    return values


def show_groups(rows: Sequence[Algorithm], args: argparse.Namespace) -> int:
    """Prints the groups under every row that compares the answers of a group; returns the exit code."""
    rewards: list[tuple[float, ...]] = args.rewards
    lengths = _checked_lengths(rewards, args.lengths)
    rows = [row for row in rows if _compares_groups(row)]
    if not rows:
        raise ConfigError(f"--rewards: {args.row} does not compare the answers of a group; leave the row out")
    try:
        found = [weigh_groups(row, rewards, lengths or [(1.0,) * len(group) for group in rewards]) for row in rows]
    except ModuleNotFoundError as error:
        raise explain_missing_extra(error) or error from error
    if args.json:
        print(json.dumps([asdict(each) for each in found], indent=1))
    else:
        _print(Terminal.on_stdout(), rewards, lengths, found)
    return 0


def _checked_lengths(
    rewards: Sequence[tuple[float, ...]], lengths: list[tuple[float, ...]] | None
) -> list[tuple[float, ...]] | None:
    if sum(map(len, rewards)) > MOST_ANSWERS:
        raise ConfigError(f"--rewards: {sum(map(len, rewards))} answers; at most {MOST_ANSWERS} fit a line")
    if lengths is None:
        return None
    if list(map(len, lengths)) != list(map(len, rewards)):
        raise ConfigError("--lengths: give one length per reward, and one --lengths per --rewards, in the same order")
    for length in (length for group in lengths for length in group):
        if not 1 <= length <= 1e6 or length != int(length):
            raise ConfigError(f"--lengths {length:g}: must be whole numbers of 1 to 1,000,000 tokens")
    return lengths


def _compares_groups(row: Algorithm) -> bool:
    judged, apart = row.reward in ("task", "signed"), row.listwise == "none" and not row.needs_belief
    return row.source == "policy" and judged and apart and not callable(row.baseline) and not row.needs_critic


def weigh_groups(row: Algorithm, rewards: Sequence[Sequence[float]], lengths: Sequence[Sequence[float]]) -> RowOnGroups:
    """Advantages and token weights of the groups in one step, computed by the functions that training uses."""
    from dataclasses import replace

    from onedial.core.batch import Counts
    from onedial.core.maths.aggregate import token_weights
    from onedial.core.maths.loss import contributes
    from onedial.core.types import Completion, Group, Prompt, Rollout, Verdict
    from onedial.training.trainer.advantages import add_advantages
    from onedial.training.trainer.packing import pack

    longest = max(LONGEST, *(int(length) for group in lengths for length in group))
    groups = []
    for position, (of_group, tokens) in enumerate(zip(rewards, lengths, strict=True)):
        rollouts = [
            Rollout(
                index,
                Completion(token_ids=(0,) * int(length), logps=(0.0,) * int(length), finish_reason="stop"),
                Verdict(reward, correct=reward > 0, outcome="correct" if reward > 0 else "wrong"),
            )
            for index, (reward, length) in enumerate(zip(of_group, tokens, strict=True))
        ]
        groups.append(
            Group(Prompt(text=str(position), answer=""), tuple(rollouts), position=position, prompt_tokens=(0,))
        )
    # far from the limit: no answer is cut, none pays an overlong penalty
    batch = add_advantages(row, pack(groups), max_new_tokens=2 * longest + row.overlong_buffer)
    if row.aggregate == "fixed_length":
        row = replace(row, length_budget=longest)
    weights = token_weights(row, batch, Counts.of(batch))[batch.offsets[:-1]]
    pull = (batch["advantage"] * weights.double()).tolist()
    return RowOnGroups(
        row=row.name,
        advantage=tuple(batch["advantage"].tolist()),
        token=tuple(pull),
        answer=tuple(value * length for value, length in zip(pull, batch.lengths.tolist(), strict=True)),
        trained=int(contributes(row, batch).sum()),
    )


def _print(
    terminal: Terminal,
    rewards: Sequence[tuple[float, ...]],
    lengths: Sequence[tuple[float, ...]] | None,
    found: Sequence[RowOnGroups],
) -> None:
    for number, group in enumerate(rewards, start=1):
        sigma = pstdev(group)
        of_lengths = f" · {_listed(lengths[number - 1])} tokens" if lengths else ""
        terminal.write(f"group {number}: rewards {_listed(group)}{of_lengths}", indent=0)
        terminal.write(f"mean {fmean(group):.4g} · σ̂ {sigma:.4g} · σ̂² {sigma**2:.4g}")
    count = sum(map(len, rewards))
    names = [f"{_letter(g)}{i + 1}" for g, group in enumerate(rewards) for i in range(len(group))]
    terminal.head("Advantage of each answer, and how many answers have a gradient")
    terminal.table(
        ("", *names, "trained"),
        [(each.row, *(f"{value:+.2f}" for value in each.advantage), f"{each.trained} of {count}") for each in found],
        gap=1,
    )
    if lengths:
        for title, name in (
            ("Advantage × weight of one token, in thousandths", "token"),
            ("Advantage × weight, over the whole answer, in thousandths", "answer"),
        ):
            terminal.head(title)
            rows = [(each.row, *(_thousandths(value) for value in getattr(each, name))) for each in found]
            terminal.table(("", *names), rows, gap=1)
        longest = max(LONGEST, *(length for group in lengths for length in group))
        terminal.write(f"Rows that divide by a constant length divide by {longest:,.0f} tokens here.")


def _thousandths(value: float) -> str:
    value *= 1000
    return "0" if not value else f"{value:+,.0f}" if abs(value) >= 1000 else f"{value:+.3g}"


def _listed(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values)


def _letter(number: int) -> str:
    return "abcdefghi"[number]
