"""Groups by the order of rows, for trainers that write the rollouts of a group next to each other and give groups no
name.

A prompt that is drawn twice in one batch is two groups. Trainers that repeat each prompt `num_generations` times in a
row write groups as blocks of one size, so the size of most blocks shows where one group ends and the next begins.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import polars as pl

from onedial.analysis.logs.columns import FILE
from onedial.analysis.logs.readers.common import format_count
from onedial.analysis.logs.schema import GroupIdentity

BY_ORDER: GroupIdentity = "inferred from the order of the rows"
BY_TEXT: GroupIdentity = "inferred from the prompt text"
MIN_SHARE = 0.5  # of the blocks that must have the group size before it is believed


@dataclass(frozen=True)
class OrderedGroups:
    """How the rows of a log were put into groups.

    frame     the rows with `__block`: equal for rows of one group of a prompt, 0 where the order does not show them
    identity  for the log's coverage
    note      one sentence for the log's coverage
    """

    frame: pl.LazyFrame
    identity: GroupIdentity
    note: str


def infer_group_size(blocks: Sequence[int]) -> int | None:
    """The group size that blocks of neighboring rows with one prompt show, or None if the order does not show it.

    It is the most frequent length; it must be at least 2 and the length of at least half of the blocks, and every other
    length must be a multiple of it (a prompt drawn twice in a row).
    """
    if not blocks:
        return None
    counts = Counter(blocks)
    size = min(counts, key=lambda length: (-counts[length], length))
    usual = counts[size] >= MIN_SHARE * len(blocks)
    return size if size > 1 and usual and all(length % size == 0 for length in counts) else None


def number_blocks(prompts: Sequence[str]) -> list[int]:
    """A number per row of one batch: equal for rows of one group of a prompt, 0 everywhere if the order shows no
    groups."""
    runs = [(prompt, len(list(rows))) for prompt, rows in groupby(prompts)]
    size = infer_group_size([length for _, length in runs])
    if size is None:
        return [0] * len(prompts)
    return [row // size + 1 for row in range(len(prompts))]


def order_groups(raw: pl.LazyFrame, unit: str) -> OrderedGroups:
    """Adds `__block` to rows with `prompt_id` and the file's name; `unit` is what one file holds, for the note.

    The group size is taken from all files of a folder, because a run has one group size.
    """
    ids = raw.select(FILE, "prompt_id").collect(engine="streaming")
    runs = ids.select(FILE, "prompt_id", run=pl.col("prompt_id").rle_id().over(FILE)).group_by(FILE, "run")
    blocks = runs.agg(pl.len().alias("length"), pl.col("prompt_id").first())
    by_text = blocks.select(pl.struct(FILE, "prompt_id").n_unique()).item()
    sizes = _sizes_of_files(blocks)
    same = f"rows of one {unit} with the same prompt are taken as one group"
    by_order = sum(length // (sizes.get(file) or length) for file, length in blocks.select(FILE, "length").iter_rows())
    if by_order == by_text:
        return OrderedGroups(
            raw.with_columns(__block=pl.lit(0, dtype=pl.Int64)),
            BY_TEXT,
            f"The log names no groups: {same}.",
        )
    if not sizes:
        note = (
            f"The log names no groups: {same}. The order of the rows does not show where a group ends, so a prompt "
            f"drawn twice in one {unit} counts as one larger group."
        )
        return OrderedGroups(raw.with_columns(__block=pl.lit(0, dtype=pl.Int64)), BY_TEXT, note)
    unordered = blocks.filter(~pl.col(FILE).is_in(list(sizes))).get_column(FILE).n_unique()
    rest = f" In {format_count(unordered, 'file')} the order does not show it: there, {same}." if unordered else ""
    shown = " or ".join(str(size) for size in sorted(set(sizes.values())))
    note = (
        f"The log names no groups: each block of {shown} neighboring rows with one prompt is taken as a group, as the "
        f"trainer writes them. {format_count(by_order - by_text, 'group')} would be merged with another by the prompt "
        f"text alone, because the prompt was drawn more than once.{rest}"
    )
    return OrderedGroups(_with_blocks(raw, sizes), BY_ORDER, note)


def _sizes_of_files(blocks: pl.DataFrame) -> dict[str, int]:
    """The group size of every file whose blocks are whole groups of its folder's size."""
    lengths: dict[str, list[int]] = {}
    for file, length in blocks.select(FILE, "length").iter_rows():
        lengths.setdefault(file, []).append(length)
    folders: dict[Path, list[int]] = {}
    for file, found in lengths.items():
        folders.setdefault(Path(file).parent, []).extend(found)
    sizes: dict[str, int] = {}
    for file, found in lengths.items():
        size = infer_group_size(folders[Path(file).parent]) or infer_group_size(found)
        if size is not None and all(length % size == 0 for length in found):
            sizes[file] = size
    return sizes


def _with_blocks(raw: pl.LazyFrame, sizes: Mapping[str, int]) -> pl.LazyFrame:
    """Numbers the blocks of each file: rows of one prompt in a row, cut into pieces of the file's group size."""
    size = pl.col(FILE).replace_strict(dict(sizes), default=0, return_dtype=pl.Int64)
    within = pl.int_range(pl.len(), dtype=pl.Int64).over(FILE, "__run")
    numbered = raw.with_columns(__size=size, __run=pl.col("prompt_id").rle_id().over(FILE).cast(pl.Int64))
    numbered = numbered.with_columns(__piece=within // pl.col("__size").clip(lower_bound=1))
    block = pl.when(pl.col("__size") > 0).then(pl.struct("__run", "__piece").hash().reinterpret(signed=True))
    return numbered.with_columns(__block=block.otherwise(0)).drop("__size", "__run", "__piece")
