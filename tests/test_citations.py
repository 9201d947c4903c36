"""A row cites an equation, a section, a table or an option of a library only where its cells are what that says.

Oracle: `SAYS`, written by hand from the papers and the libraries' releases: what each place says, in cells. A row that
cites a place that is not there fails until the place is read and written down.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from onedial.core.algorithm import Algorithm
from onedial.core.algorithm_table import ALGORITHMS

GROUP_Z = {"baseline": "group_mean", "dial": 1.0, "ddof": 0, "scale_over": "group"}
NO_STD = {"baseline": "group_mean", "dial": 0.0}
PLAIN = {"baseline": "none", "dial": 0.0, "ratio_level": "none"}
SYMMETRIC: Callable[[Algorithm], bool] = lambda row: row.clip_low == row.clip_high is not None  # noqa: E731
RAISED: Callable[[Algorithm], bool] = lambda row: (row.clip_low, row.clip_high) == (0.2, 0.28)  # noqa: E731
TRL = {"ddof": 1, "eps": 1e-4, "keep": "all", "updates_per_iteration": 1, "kl_coef": 0.0}

SAYS: dict[tuple[str, str], Any] = {
    ("Williams 1992", "Eq. 4"): PLAIN | {"aggregate": "sequence_sum", "reward": "task"},
    ("2402.14740", "Eq. 7"): {"baseline": "leave_one_out", "dial": 0.0, "aggregate": "sequence_sum"},
    # GRPO: a clipped token ratio, 1/G Σ 1/|o| Σ, KL in the loss; Eq. 4 is its estimator
    ("2402.03300", "Eq. 3"): [
        GROUP_Z | {"ratio_level": "token", "aggregate": "sequence_mean", "kl_in": "loss", "keep": "all"},
        SYMMETRIC, lambda row: row.kl_coef > 0,
    ],
    ("2402.03300", "Eq. 4"): {"kl_estimator": "k3"},
    # §4.2: β 0.04, one update after each exploration stage
    ("2402.03300", "§4.2"): {"kl_coef": 0.04, "updates_per_iteration": 1, "epochs_per_iteration": 1},
    ("2402.03300", "§5.2.1"): PLAIN | {"aggregate": "sequence_mean"},
    # Table 10: the data source and the gradient coefficient of each method
    ("2402.03300", "Table 10"): [PLAIN, lambda row: (row.name, row.source, row.reward) in (
        ("sft", "dataset", "one"), ("rft", "reference", "correct"), ("online_rft", "policy", "correct"),
    )],
    ("2308.01825", "§3.3"): {"source": "reference", "reward": "correct"},
    ("2503.14476", "Table 1"): GROUP_Z | {
        "aggregate": "sequence_mean", "keep": "all", "refill": False, "kl_coef": 0.0, "overlong": "none",
        "clip_low": 0.2, "clip_high": 0.2,
    },
    ("2503.14476", "Eq. 7"): {"reward": "signed"},
    ("2503.14476", "Eq. 8"): [
        {"ratio_level": "token", "aggregate": "group_token_mean", "keep": "mixed", "kl_coef": 0.0, "clip_dual": None},
        RAISED,
    ],
    ("2503.14476", "Eq. 9"): GROUP_Z | {"ratio_level": "token"},
    ("2503.14476", "Eq. 10"): RAISED,
    ("2503.14476", "Eq. 11"): {"keep": "mixed", "refill": True},
    ("2503.14476", "Eq. 12"): {"aggregate": "group_token_mean"},
    ("2503.14476", "Eq. 13"): lambda row: row.penalizes_length and row.overlong_buffer == 0,  # a fifth of the limit
    ("2503.14476", "§4.1"): {"updates_per_iteration": 16, "epochs_per_iteration": 1},
    ("2510.00977", "Eq. 12"): GROUP_Z | {"group_size": 2, "aggregate": "sequence_mean", "kl_coef": 0.0},
    ("2503.20783", "§3.2"): NO_STD | {"aggregate": "fixed_length", "ratio_level": "token"},
    ("2503.20783", "listing 1"): {"aggregate": "fixed_length"},
    ("2507.18071", "Eq. 5"): [GROUP_Z | {"ratio_level": "sequence", "aggregate": "sequence_mean"}],
    ("2507.18071", "Eq. 6"): GROUP_Z,
    ("2507.18071", "Eq. 7"): {"ratio_level": "sequence"},
    ("1707.06347", "Eq. 7"): [{"ratio_level": "token"}, SYMMETRIC],
    ("1707.06347", "Eq. 11"): {"baseline": "critic"},
    ("1506.02438", "Eq. 16"): [{"baseline": "critic", "dial": 0.0}, lambda row: row.lambda_policy < 1],
    # VAPO §4.1: value pre-training and decoupled GAE, length-adaptive λ is §4.2, 4.3: clip-higher, NLL of correct ones
    ("2504.05118", "§4.1"): {"baseline": "critic", "critic_warmup": 50, "lambda_critic": 1.0},
    ("2504.05118", "§4.2"): {"lambda_length": 0.05, "aggregate": "token_mean"},
    ("2504.05118", "§4.3"): [{"positive_nll": 0.1, "kl_coef": 0.0}, RAISED],
    ("2605.06139", "§4"): GROUP_Z | {"listwise": "forward", "aggregate": "sequence_sum", "kl_coef": 0.0},
    ("2605.07689", "A = 2r − 1"): PLAIN | {"reward": "signed", "ratio_level": "token"},
    ("this project", "docs/allocators.md"): {"baseline": "posterior", "dial": 0.0},
    ("2505.15201", "leave-one-out baseline"): [{"baseline": "leave_one_out", "dial": 0.0}, lambda row: row.pass_k > 1],
    ("2305.18290", "Eq. 7"): {"source": "pairs", "group_size": 2, "aggregate": "sequence_sum"},
    ("TRL", "loss_type='dapo'"): TRL | {"aggregate": "token_mean"},
    ("TRL", "loss_type='grpo'"): TRL | {"aggregate": "sequence_mean"},
    ("TRL", "loss_type='dr_grpo'"): TRL | {"aggregate": "fixed_length"},
    ("TRL", "scale_rewards='group'"): {"dial": 1.0, "scale_over": "group"},
    ("TRL", "scale_rewards='none'"): NO_STD,
    ("TRL", "importance_sampling_level='sequence'"): {"ratio_level": "sequence"},
    ("verl", "adv_estimator=grpo"): {"baseline": "group_mean", "ddof": 1, "dial": 1.0},
    ("verl", "loss_agg_mode=token-mean"): {"aggregate": "token_mean"},
    ("verl", "clip_ratio_c=3"): {"clip_dual": 3.0},
    ("verl", "norm_adv_by_std_in_grpo=False"): NO_STD,
    ("verl", "loss_agg_mode=seq-mean-token-sum-norm"): {"aggregate": "fixed_length"},
}  # fmt: skip
NAMED = {
    "DeepSeekMath": "2402.03300",
    "Williams 1992": "Williams 1992",
    "TRL": "TRL",
    "verl": "verl",
    "this project": "this project",
}


def cited(row: Algorithm) -> list[tuple[str, str]]:
    """The places that a row cites: (arXiv number or name, place)."""
    found = []
    for clause in row.paper.split("; "):
        number = re.search(r"arXiv:(\d{4}\.\d{5})", clause)
        source = number[1] if number else next((NAMED[name] for name in NAMED if name in clause), "")
        places = [place for text in re.findall(r"Eq\. [\d, toand]*\d", clause) for place in _numbers("Eq. ", text)]
        places += [place for text in re.findall(r"§[\d.]+(?: to [\d.]+)?", clause) for place in _sections(text)]
        places += re.findall(r"Table \d+|listing \d+|\w+=[\w'-]+|A = 2r − 1|leave-one-out baseline|docs/[\w.]+", clause)
        found += [(source, place) for place in places]
    return found


def _numbers(head: str, text: str) -> list[str]:
    """'Eq. 7 to 9' is 7, 8 and 9; 'Eq. 7 and 11' is 7 and 11."""
    numbers = [int(number) for number in re.findall(r"\d+", text)]
    return [f"{head}{n}" for n in (range(numbers[0], numbers[-1] + 1) if " to " in text else numbers)]


def _sections(text: str) -> list[str]:
    numbers = re.findall(r"[\d.]*\d", text)
    if len(numbers) == 1:
        return [f"§{numbers[0]}"]
    chapter, first = numbers[0].rsplit(".", 1)
    return [f"§{chapter}.{n}" for n in range(int(first), int(numbers[1].rsplit(".", 1)[1]) + 1)]


def _holds(row: Algorithm, said: Any) -> bool:
    if isinstance(said, list):
        return all(_holds(row, part) for part in said)
    return said(row) if callable(said) else all(getattr(row, cell) == value for cell, value in said.items())


@pytest.mark.parametrize("row", ALGORITHMS.values(), ids=lambda row: row.name)
def test_a_row_is_what_it_cites(row: Algorithm) -> None:
    """Oracle: `SAYS`."""
    places = cited(row)
    assert places, f"{row.name} cites no place"
    for place in places:
        assert place in SAYS, f"{row.name} cites {place}: write into SAYS what it says"
        assert _holds(row, SAYS[place]), f"{row.name} cites {place}, which its cells do not realize"


def test_every_place_is_cited() -> None:
    """Oracle: the table; a line of `SAYS` that no row cites checks nothing."""
    assert set(SAYS) == {place for row in ALGORITHMS.values() for place in cited(row)}


@pytest.mark.parametrize(
    "cells",
    [{"overlong": "none"}, {"reward": "task"}, {"updates_per_iteration": 1}, {"aggregate": "token_mean"},
     {"clip_high": 0.2}, {"keep": "all", "refill": False}, {"kl_coef": 0.1}, {"dial": 0.0}],
    ids=str,
)  # fmt: skip
def test_a_row_that_is_less_than_it_cites_is_noticed(cells: dict[str, Any]) -> None:
    """Oracle: DAPO without one of its parts is not what Eq. 7 to 13 and §4.1 say."""
    row = replace(ALGORITHMS["dapo"], **cells)
    assert not all(_holds(row, SAYS[place]) for place in cited(row))
