"""What an allocator and an algorithm row require from each other, each rule with its reason and remedy."""

from __future__ import annotations

from dataclasses import replace

from onedial.core.algorithm import Algorithm
from onedial.core.allocator_table import ALLOCATORS, AllocatorRow

PLANNED = ("row", "fixed", "dynamic")
"""Allocators that take a plan's prompts and tries."""
CONSTANT_AGGREGATES = ("sequence_sum", "fixed_length")
Rules = list[tuple[bool, str]]


def choose_allocator(row: Algorithm, allocator: AllocatorRow) -> AllocatorRow:
    """The allocator of a run: the one that the run names, or for "row" the one that the algorithm row needs.

    That is dynamic if the row refills, adaptive with baseline='posterior', else fixed.
    """
    if allocator.name != "row" or not row.generates:
        return allocator
    if row.baseline == "posterior":
        return ALLOCATORS["adaptive"]
    return ALLOCATORS["dynamic" if row.refill else "fixed"]


def apply_allocator(row: Algorithm, allocator: AllocatorRow) -> Algorithm:
    """The algorithm row as it runs under the run's allocator: an allocator named by the run replaces the row's
    `refill`.

    Raises ConfigError if the row cannot refill (`algorithm_rules`).
    """
    return row if allocator.name == "row" else replace(row, refill=allocator.name == "dynamic")


def find_allocator_contradictions(row: Algorithm, allocator: AllocatorRow, *, plan: str, group_size: int) -> Rules:
    """For each rule, whether it is broken, and its message."""
    own = allocator.name != "row"
    allocator = choose_allocator(row, allocator)
    name = allocator.name
    posterior = row.baseline == "posterior"
    gives = allocator.believes or allocator.is_own or name == "sequential"
    exact = row.dial == 0 and row.baseline in ("posterior", "leave_one_out", "none") and row.keep == "all"
    return [
        (
            own and not row.generates,
            f"allocator={name!r}: algorithm {row.name!r} trains on a dataset, so nothing is sampled; leave the "
            "allocator out",
        ),
        (
            name not in PLANNED and row.group_size not in (None, 2 if name == "two" else None),
            f"allocator={name!r}: algorithm {row.name!r} fixes groups of {row.group_size}; use another row, or set "
            "algorithm.group_size=none",
        ),
        (
            bool(plan) and name not in PLANNED,
            f"plan={plan!r}: a plan says which prompts are sampled and how often, and so does allocator={name!r}; "
            "leave one of them out",
        ),
        (
            posterior and not gives,
            f"algorithm {row.name!r}: baseline='posterior' is what an allocator expected of a prompt, and "
            f"allocator={name!r} expects nothing; set the allocator to adaptive, spo, mopps, vip, paper or sequential",
        ),
        (
            name == "spo" and not posterior,
            f"allocator='spo' draws one rollout of a prompt, and baseline={row.baseline!r} compares rollouts of one "
            "prompt; use algorithm 'posterior', or set algorithm.baseline=posterior with keep=all and dial=0",
        ),
        (
            allocator.unbiased and not (exact and row.aggregate in CONSTANT_AGGREGATES),
            "allocator.unbiased=True: the gradient of uniform sampling needs a loss that is a plain sum over rollouts: "
            "dial=0, keep='all', baseline posterior, leave_one_out or none, aggregate sequence_sum or fixed_length; "
            f"algorithm {row.name!r} has dial={row.dial:g}, keep={row.keep!r}, baseline={row.baseline!r}, "
            f"aggregate={row.aggregate!r}",
        ),
        (
            "least" in allocator.uses and allocator.least > (allocator.most or group_size),
            f"allocator.least={allocator.least}: must not exceed allocator.most, which is group_size={group_size} here",
        ),
        (
            name == "two" and group_size % 2 == 1 and group_size > 1,
            f"allocator='two' makes group_size={group_size} rollouts of a prompt to pairs; set an even group_size",
        ),
        (
            row.pass_k > 1 and name not in (*PLANNED, "mopps"),
            f"allocator={name!r} makes groups of any size, and pass_k={row.pass_k} compares sets inside larger groups; "
            "use allocator fixed, dynamic or mopps",
        ),
        (
            row.needs_critic and allocator.believes,
            f"allocator={name!r} brings weights and a baseline from its belief, and algorithm {row.name!r} has a "
            "critic instead; use a row without a critic",
        ),
    ]
