"""Solve-rate tables: one row per prompt with the share (and perhaps the number) of right answers.

A table of rates holds no groups, only how often each prompt was solved. Everything that follows from (k, n) can be
computed: the share of prompts solved never, always and sometimes in n tries, pass@k for k ≤ n, and the silent share
expected at any group size. Rewards other than right and wrong, lengths, tokens, and anything about training cannot.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from onedial.analysis.logs.columns import FILE, cast_integer, cast_number, cast_text, read_raw
from onedial.analysis.logs.formats import Format, Sample
from onedial.analysis.logs.lines import to_float
from onedial.analysis.logs.reader_options import Options
from onedial.analysis.logs.readers.names import (
    RATE_NAME,
    RIGHT_COUNTS,
    STRONG_IDS,
    SYNONYMS,
    TEXTS,
    TRY_COUNTS,
    WEAK_IDS,
    WEAK_RATES,
    find,
    normalize,
)  # fmt: skip
from onedial.analysis.logs.schema import RATE_COLUMNS, Coverage, Log, cast_to_schema
from onedial.core.errors import DataError
from onedial.core.tables.read_errors import ReadErrors

MAX_TRIES = 1024
MAX_COUNT = 10**6  # rollouts behind one rate
FRACTION = re.compile(r"^\s*(\d+)\s*/\s*(\d+)\s*$")
PERCENT = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*%\s*$")


@dataclass(frozen=True)
class Found:
    """The columns of a rate table; `series` = the rate column is a list, one rate per epoch."""

    rate: str | None = None
    right: str | None = None
    tries: str | None = None
    series: bool = False


def detect(sample: Sample) -> bool:
    found = find_columns(sample)
    named = find(sample.columns, (*STRONG_IDS, *TEXTS, *WEAK_IDS)) is not None
    return named and found is not None


def find_columns(sample: Sample, taken: Collection[str] = ()) -> Found | None:
    """The columns of rates, right counts and try counts, except those `taken`; None if the table holds no rates."""
    columns = sample.columns - set(taken)
    right = _numeric(sample, find(columns, RIGHT_COUNTS))
    tries = _numeric(sample, find(columns, TRY_COUNTS))
    for name in sorted(columns):
        if not RATE_NAME.search(normalize(name)) and not re.search(r"(acc|rate|solve)", normalize(name)):
            continue
        values = sample.values(name)
        if values and all(_is_series(value) for value in values) and _fractions([v for s in values for v in s]):
            return Found(rate=name, series=True)
    strong = [name for name in sorted(columns) if RATE_NAME.search(normalize(name)) and _rates(sample, name)]
    if strong:
        return Found(rate=strong[0], right=right, tries=tries)
    if right and tries:
        return Found(right=right, tries=tries)
    weak = find(columns, WEAK_RATES)
    alone = find(columns, SYNONYMS["completion"]) is None and _distinct(sample)
    if weak and alone and _unit(sample.values(weak)) and _fractions(sample.values(weak)):
        return Found(rate=weak, right=right, tries=tries)
    return None


def _numeric(sample: Sample, name: str | None) -> str | None:
    values = sample.values(name) if name else []
    return name if values and all(to_float(value) is not None for value in values) else None


def _is_series(value: object) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(item, int | float) and 0 <= item <= 1 for item in value)
    )


def _rates(sample: Sample, name: str) -> bool:
    """Whether most sampled values can be rates (percentages allowed); the others are noted when the table is read."""
    values = sample.values(name)
    numbers = [number for number in map(_rate, values) if number is not None]
    common = 2 * len(values) >= len(sample.rows)  # one odd row makes no table of rates
    return common and bool(values) and 2 * sum(0 <= number <= 100 for number in numbers) >= len(values)


def _unit(values: Sequence[object]) -> bool:
    """Whether all values are numbers in [0, 1]; asked where a name such as difficulty or score is ambiguous."""
    return bool(values) and all((number := _rate(value)) is not None and 0 <= number <= 1 for value in values)


def _rate(value: object) -> float | None:
    if isinstance(value, str) and (parts := FRACTION.match(value)):
        right, tries = float(parts[1]), float(parts[2])
        return right / max(1.0, tries) if right < math.inf else None
    if isinstance(value, str) and (part := PERCENT.match(value)):
        return float(part[1]) / 100
    return to_float(value) if not isinstance(value, bool) else None


def _fractions(values: Sequence[object]) -> bool:
    return any((number := _rate(value)) is not None and number not in (0.0, 1.0) for value in values)


def _distinct(sample: Sample) -> bool:
    """Whether no prompt occurs twice in the sample, so that rows are prompts and not rollouts."""
    name = find(sample.columns, (*STRONG_IDS, *TEXTS, *WEAK_IDS))
    values = [str(value) for value in sample.values(name)] if name else []
    return len(values) > 1 and len(set(values)) == len(values)


def read(samples: Sequence[Sample], options: Options, errors: ReadErrors) -> Log:
    columns = set().union(*(sample.columns for sample in samples))
    given = dict(options.columns)
    taken = given.values()
    found = next((found for sample in samples if (found := find_columns(sample, taken))), None) or Found()
    found = Found(given.get("rate", found.rate), given.get("k", found.right), given.get("n", found.tries), found.series)
    if found.rate is None and not (found.right and found.tries):
        raise DataError(
            f"{samples[0].file}: no column holds solve rates. Columns seen: {', '.join(sorted(columns)[:40])}. Needed: "
            "a rate such as solve_rate or pass_rate, or a count and a total; name yours with --map rate=COLUMN,n=COLUMN"
        )
    notes: list[str] = []
    if options.tries and found.tries:
        raise DataError(
            f"--tries {options.tries}: the table says itself how many rollouts stand behind each rate, in its column "
            f"{found.tries!r}; leave --tries out, or name another column with --map n=COLUMN"
        )
    raw, names = _raw(samples, columns, found, given, errors)
    frame = _with_rates(raw, found, notes)
    frame = _with_tries(frame, found, options, notes, errors)
    frame = frame.select(*_identity(raw, names, options), "rate", "k", "n", *_iteration(raw, names, found))
    have = set(frame.collect_schema().names())
    return Log(
        kind="rates",
        frame=cast_to_schema(frame, RATE_COLUMNS),
        format="rates",
        coverage=Coverage(reward_is=f"the column {found.rate or found.right}", notes=tuple(notes)),
        missing={name: "the table does not hold it" for name in RATE_COLUMNS if name not in have},
        files=tuple(sample.file for sample in samples),
        ignored=tuple(
            sorted(
                {name for name in columns if "." not in name}
                - {found.rate, found.right, found.tries}
                - set(names.values())
            )
        ),
        right=1.0,
        wrong=0.0,
    )


def _raw(
    samples: Sequence[Sample], columns: set[str], found: Found, given: dict[str, str], errors: ReadErrors
) -> tuple[pl.LazyFrame, dict[str, str]]:
    used = {name for name in (found.rate, found.right, found.tries) if name}
    free = columns - used
    names = {name: given[name] for name in RATE_COLUMNS if name in given and given[name] not in used}
    for ours in ("prompt", "answer", "source", "level"):
        theirs = find(free, SYNONYMS[ours])
        if ours not in names and theirs is not None:
            names[ours] = theirs
    strong, weak = find(free - set(names.values()), STRONG_IDS), find(free - set(names.values()), WEAK_IDS)
    own = strong or weak
    if own and "prompt_id" not in names:
        names["prompt_id"] = own
    numeric = pl.List(pl.Float64()) if found.series else pl.String()
    wanted: dict[str, pl.DataType] = dict.fromkeys((*names.values(), *(used - {found.rate})), pl.String())
    if found.rate:
        wanted[found.rate] = numeric
    raw = read_raw(samples, wanted, tuple(sorted(used)), errors)
    have = raw.collect_schema()
    names = {ours: theirs for ours, theirs in names.items() if theirs in have}
    if names.get("prompt_id") == weak and weak and "prompt" in names:
        unique = raw.select(pl.col(weak).n_unique() == pl.len()).collect(engine="streaming").item()
        if not unique:  # for example a number within a source: the text distinguishes prompts
            del names["prompt_id"]
    return raw, names


def _with_rates(raw: pl.LazyFrame, found: Found, notes: list[str]) -> pl.LazyFrame:
    """`rate` in [0, 1], one row per prompt (and epoch)."""
    have = raw.collect_schema()
    if found.series:
        notes.append(f"{found.rate} is a series: its n-th rate is taken as iteration n.")
        lengths = pl.int_ranges(1, pl.col(str(found.rate)).list.len() + 1)
        raw = raw.with_columns(iteration=lengths, rate=pl.col(str(found.rate)).cast(pl.List(pl.Float64)))
        return raw.explode("rate", "iteration")
    if found.rate is None:
        right, tries = str(found.right), str(found.tries)
        return raw.with_columns(rate=cast_number(right, have[right]) / cast_number(tries, have[tries]))
    rate = cast_number(found.rate, have[found.rate])
    if have[found.rate] == pl.String:
        parts = [pl.col(found.rate).str.extract(FRACTION.pattern, i).cast(pl.Float64) for i in (1, 2)]
        percent = pl.col(found.rate).str.extract(PERCENT.pattern, 1).cast(pl.Float64)
        rate = pl.coalesce(rate, parts[0] / parts[1], percent / 100)
    raw = raw.with_columns(rate=rate)
    top = raw.select(pl.col("rate").max()).collect(engine="streaming").item()
    if top is not None and 2 <= top <= 100:
        notes.append(f"{found.rate} goes up to {top:g}: the values are read as percentages.")
        raw = raw.with_columns(rate=pl.col("rate") / 100)
    return raw


def _with_tries(
    frame: pl.LazyFrame, found: Found, options: Options, notes: list[str], errors: ReadErrors
) -> pl.LazyFrame:
    """`k` and `n`, given or inferred; the note says which. Rates outside [0, 1] and NaN are left out and counted."""
    sane = pl.col("rate").is_finite() & pl.col("rate").is_between(0, 1)
    odd = frame.filter(pl.col("rate").is_not_null() & ~sane).select(FILE, "rate").collect()
    for file, rate in odd.iter_rows():
        errors.add(file, 0, f"a rate of {rate:g} is not between 0 and 1; left empty")
    frame = frame.with_columns(rate=pl.when(sane).then(pl.col("rate")))
    have = frame.collect_schema()
    tries: pl.Expr = pl.lit(None, dtype=pl.Int64)
    if found.tries:
        tries = cast_number(found.tries, have[found.tries]).round()
    elif found.rate and FRACTION.match(str(_first_text(frame, found.rate, have) or "")):
        if options.tries:
            raise DataError(
                f"--tries {options.tries}: the rates in {found.rate!r} are fractions, which say how many rollouts "
                "stand behind each; leave --tries out"
            )
        tries = pl.col(found.rate).str.extract(FRACTION.pattern, 2).cast(pl.Int64, strict=False)
    elif options.tries:
        tries = pl.lit(options.tries, dtype=pl.Int64)
        notes.append(f"Each rate is over {options.tries} rollouts, as you said.{_misfits(frame, options.tries)}")
    else:
        size, note = _infer_tries(frame, found, have)
        notes.append(note)
        tries = pl.lit(size, dtype=pl.Int64)
    frame = _drop_odd_counts(frame.with_columns(n=pl.when(pl.col("rate").is_not_null()).then(tries)), "n", errors)
    right = (pl.col("rate") * pl.col("n")).round().cast(pl.Int64)
    if found.right and (found.rate is None or "k" in options.columns):
        right = cast_number(found.right, have[found.right]).round()
    return _drop_odd_counts(frame.with_columns(k=right), "k", errors)


def _drop_odd_counts(frame: pl.LazyFrame, name: str, errors: ReadErrors) -> pl.LazyFrame:
    """Impossible counts (k below 0 or above n, n below 1 or beyond `MAX_COUNT`) become null and are counted."""
    column = pl.col(name)
    sane = column.is_between(1, MAX_COUNT) if name == "n" else (column >= 0) & (column <= pl.col("n")).fill_null(True)
    odd = frame.filter(~sane).select(FILE, name).collect(engine="streaming")
    for file, count in odd.iter_rows():
        errors.add(file, 0, f"{name} is {count:g}, which is no count of rollouts; left empty")
    return frame.with_columns(pl.when(sane).then(column).cast(pl.Int64, strict=False).alias(name))


def _misfits(frame: pl.LazyFrame, tries: int) -> str:
    """A sentence on how many rates are impossible for that many tries (rates may be rounded to two decimals); empty if
    none."""
    exact = pl.col("rate") * tries
    off = (exact - exact.round()).abs() > 0.005 * tries
    count = int(frame.select(off.sum()).collect(engine="streaming").item() or 0)
    return f" {count:,} of the rates are no multiple of 1/{tries}: the number does not fit the table." if count else ""


def _first_text(frame: pl.LazyFrame, name: str, have: pl.Schema) -> str | None:
    if have[name] != pl.String:
        return None
    values = frame.select(pl.col(name).drop_nulls().head(1)).collect().to_series()
    return str(values[0]) if len(values) else None


def _infer_tries(frame: pl.LazyFrame, found: Found, have: pl.Schema) -> tuple[int | None, str]:
    """n, and how it is known: from a count beside the rate, from a name such as avg@8, or from the spacing of the
    rates."""
    if found.right:
        counts = cast_number(found.right, have[found.right])
        both = frame.filter((pl.col("rate") > 0) & (counts > 0))
        sizes = both.select((counts / pl.col("rate")).round().alias("n")).unique().collect()
        if sizes.height == 1:
            many = int(sizes["n"][0])
            return many, f"{found.right} divided by {found.rate} is {many} in every row: rollouts behind a rate."
    named = re.search(r"(?:@|_of_)(\d+)$", normalize(found.rate or ""))
    if named and int(named.group(1)) > 1:
        return int(named.group(1)), f"The name {found.rate} says that {named.group(1)} rollouts stand behind a rate."
    rates = frame.select(pl.col("rate").drop_nulls().unique()).collect(engine="streaming").to_series().to_numpy()
    size = find_grid(rates)
    if size is None:
        return None, (
            "The table does not say how many rollouts stand behind a rate, and the rates do not fall on a grid that "
            "would tell; give it with --tries N. Figures that need the number are withheld."
        )
    return size, (
        f"The number of rollouts per rate is inferred, not given: {size} is the smallest that explains every rate (the "
        "true number may be a multiple). Say otherwise with --tries N."
    )


def find_grid(rates: np.ndarray) -> int | None:
    """Returns the smallest n ≤ 1024 with every rate a multiple of 1/n, allowing for rates rounded to a few decimals.

    None when there is none, or when all rates are 0 or 1 (which any n explains).
    """
    inner = rates[(rates > 0) & (rates < 1)]
    if not len(inner):
        return None
    exact = _grid(inner, MAX_TRIES, 1e-6)
    if exact not in (100, 1000):
        return exact
    # A grid of 100 or 1000 may be rates that were rounded to 2 or 3 decimals: try coarser grids.
    rounded = _grid(inner, exact // 2, 0.5 / exact + 1e-9)
    return rounded or exact


def _grid(rates: np.ndarray, limit: int, slack: float) -> int | None:
    """Returns the smallest n ≤ limit that brings every rate within `slack` of a multiple of 1/n."""
    for size in range(1, limit + 1):
        if np.all(np.abs(rates - np.round(rates * size) / size) <= slack):
            return size
    return None


def _iteration(raw: pl.LazyFrame, names: dict[str, str], found: Found) -> list[pl.Expr]:
    """The number of the epoch in a series, or the column that `--map iteration=` names."""
    if found.series:
        return [pl.col("iteration")]
    if "iteration" not in names:
        return []
    return [cast_integer(names["iteration"], raw.collect_schema()[names["iteration"]]).alias("iteration")]


def _identity(raw: pl.LazyFrame, names: dict[str, str], options: Options) -> list[pl.Expr]:
    have = raw.collect_schema()
    out = [
        cast_text(names[ours], have[names[ours]]).alias(ours)
        for ours in ("prompt", "answer", "source", "level")
        if ours in names and (ours != "prompt" or options.text)
    ]
    if "prompt_id" in names:
        dtype = have[names["prompt_id"]]
        own = pl.col(names["prompt_id"]) if dtype.is_integer() else cast_text(names["prompt_id"], dtype)
    elif "prompt" in names:
        parts = [
            cast_text(names[ours], have[names[ours]]).alias(ours) for ours in ("prompt", "answer") if ours in names
        ]
        own = pl.struct(parts).hash()
    else:
        own = pl.int_range(pl.len())
    return [own.alias("prompt_id"), *out]


FORMAT = Format(
    name="rates",
    title="solve-rate table",
    where="Big-Math (llama8b_solve_rate), AdaRFT (solve_rate, n_correct), POLARIS (difficulty 3/8), pass_rate, avg@16",
    shows="how often each prompt is solved (never, always, sometimes), pass@k, expected silent share at a group size",
    cannot="groups, rewards other than right and wrong, lengths, tokens, training",
    detect=detect,
    read=read,
    maps=tuple(RATE_COLUMNS),
    options=("tries",),
)
