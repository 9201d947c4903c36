"""Damage to bytes and values of a file, seeded: what the corpus of `hostile_logs` is made with."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import json
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

SCRIPT = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
CONTROL = "\x1b]0;owned\x07\x1b[31m\x9b2J\r\x08\u202e"
VALUES: tuple[Any, ...] = (
    None, True, False, -1, 0, 10**18, -(10**18), 10**9, 2**63, -(2**63) - 1, 1e308, -1e308, 5e-324, 0.1, 1e-9,
    float("nan"), float("inf"), int("9" * 400), "", " ", "²", "½", "١٢", "1e400", "-0", "0x10", "NaN", "3/0", "0/0",
    "9/8", "1" * 400, "150%", "true", "yes", [], {}, [None], [[]], [[1], "a"], {"a": {"b": []}}, [1, "x", None],
    {"": 1},
    "\ud800", "a\x00b", CONTROL, SCRIPT, "ل" * 2000, "x" * 200_000, {CONTROL: SCRIPT}, [True, "timeout", -2],
    {"content": None}, {"role": "assistant"}, [{"role": "assistant", "content": [1, {"text": None}]}], [{}], [[[[]]]],
)  # fmt: skip
RAW = (
    "1e400", "-1e400", "1e-400", "NaN", "-Infinity", "nan", "undefined", "0x1F", "01", "+1", ".5", "1.", "'x'", "[1,]",
    "{,}", "tru", "9" * 5000, "-" + "9" * 400, "0." + "9" * 400, '"\\ud800"', '"\\u0000"', '"\\x41"', '"\t"', '"',
    "[" * 40,
)  # fmt: skip
"""What no encoder writes: some of it JSON, most of it not."""
BIDI = "\u202e\u2066\u2069\u200f\u061c"
MARK = "put raw text here"
NAMES = (
    CONTROL, SCRIPT, "", ".", "a.b", "__file", "reward_", "reward_" + CONTROL, "prompt_id", "$", "*", "\ud800", "π",
    "x" * 500,
)  # fmt: skip


def anything(rng: random.Random, depth: int = 4) -> Any:
    """Any JSON value, nested at random."""
    if depth == 0 or rng.random() < 0.4:
        return rng.choice([*VALUES, BIDI, rng.getrandbits(rng.choice([1, 8, 64, 200])), rng.gauss(0, 1), MARK])
    if rng.random() < 0.5:
        return [anything(rng, depth - 1) for _ in range(rng.randrange(4))]
    return {rng.choice([*NAMES, "a", "content", "reward"]): anything(rng, depth - 1) for _ in range(rng.randrange(4))}


def deep(levels: int) -> str:
    return "[" * levels + "]" * levels


# Mutations of bytes


def truncated(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def flipped(rng: random.Random, data: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 3, 30])):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def overwritten(rng: random.Random, data: bytes) -> bytes:
    at, size = rng.randrange(len(data)), rng.choice([4, 64, 1000])
    return data[:at] + rng.choice([b"\0", b"\xff", b"{", b"\n", b'"']) * size + data[at + size :]


def repeated(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + data[rng.randrange(len(data)) :] + data[at:]


def encoded(rng: random.Random, data: bytes) -> bytes:
    text = data.decode("utf-8", "replace")
    return text.encode(rng.choice(["utf-16", "utf-16-le", "utf-8-sig", "utf-7", "cp500", "utf-32"]), "replace")


def line_ends(rng: random.Random, data: bytes) -> bytes:
    return data.replace(b"\n", rng.choice([b"\r", b"\r\n", b"\n\n", b"\0", b" ", b"", b"\xe2\x80\xa8"]))


def compressed(rng: random.Random, data: bytes) -> bytes:
    packed = rng.choice([gzip.compress, bz2.compress, lambda d: pa.Codec("zstd").compress(d, asbytes=True)])(data)
    return rng.choice([lambda r, d: d, truncated, flipped, lambda r, d: d + d[:50]])(rng, packed)


def controls(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data))
    marks = [CONTROL.encode(), b"\x00", b"\xed\xa0\x80", SCRIPT.encode(), b"\x1a", b"\xef\xbb\xbf"]
    return data[:at] + rng.choice(marks) + data[at:]


BYTES: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    truncated, flipped, overwritten, repeated, encoded, line_ends, compressed, controls,
)  # fmt: skip

# Mutations of values


def places(value: Any, trail: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place of a JSON value, as the keys that lead to it."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items)[:30]:
        yield (*trail, key)
        yield from places(inner, (*trail, key))


def put(value: Any, trail: Sequence[Any], new: Any, *, rename: str | None = None) -> None:
    for key in trail[:-1]:
        value = value[key]
    if rename is not None and isinstance(value, dict):
        value[rename] = value.pop(trail[-1])
    else:
        value[trail[-1]] = new


def spoiled(rng: random.Random, records: list[Any]) -> list[Any]:
    """The records with some fields mistyped, in one, some or all of them, or under hostile names."""
    records = json.loads(json.dumps(records))
    trails = sorted({t for record in records[:5] for t in places(record)}, key=str)
    for _ in range(rng.choice([1, 1, 1, 3]) if trails else 0):
        trail, new = rng.choice(trails), rng.choice([anything(rng), rng.choice(VALUES), MARK])
        rename = rng.choice(NAMES) if rng.random() < 0.15 else None
        share = rng.choice([0.0, 0.3, 1.0])
        for number, record in enumerate(records):
            if number == 0 or rng.random() < share:
                with contextlib.suppress(KeyError, IndexError, TypeError):
                    put(record, trail, anything(rng) if rng.random() < 0.1 else new, rename=rename)
    return records


def to_line(rng: random.Random, record: Any) -> str:
    """A record as JSON; now and then too deep, with raw text in it, or with a key twice."""
    text = json.dumps(record)
    while json.dumps(MARK) in text:
        text = text.replace(json.dumps(MARK), rng.choice(RAW), 1)
    if rng.random() < 0.02:
        text = text.replace(":", ": " + deep(rng.choice([50, 2000, 200_000])) + ', "dup": ', 1)
    if rng.random() < 0.02 and isinstance(record, dict) and record:
        name = json.dumps(next(iter(record)))
        text = text[:-1] + f", {name}: {json.dumps(rng.choice(VALUES))}" + "}"
    return text


def shuffled_lines(rng: random.Random, data: bytes) -> bytes:
    """Lines doubled, dropped, joined, cut and put into another order."""
    lines = data.split(b"\n")
    for _ in range(rng.choice([1, 3, 20])):
        at = rng.randrange(len(lines))
        other = rng.randrange(len(lines))
        change = rng.randrange(5)
        if change == 0:
            lines.insert(at, lines[other])
        elif change == 1 and len(lines) > 1:
            del lines[at]
        elif change == 2:
            lines[at] += lines[other]
        elif change == 3:
            lines[at] = lines[at][: rng.randrange(len(lines[at]) + 1)]
        else:
            lines[at], lines[other] = lines[other], lines[at]
    return b"\n".join(lines)


def mistyped(rng: random.Random, file: Path) -> bytes | None:
    """The file with a value of the wrong kind, in its own container; None where it is not a table of records."""
    if file.suffix == ".parquet":
        return mistyped_parquet(rng, pl.read_parquet(file))
    try:
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".json":
            return to_line(rng, spoiled(rng, [json.loads(text)])[0]).encode("utf-8", "surrogatepass")
        records = [json.loads(line) for line in text.splitlines()]
    except (ValueError, RecursionError):
        return None
    return "\n".join(to_line(rng, record) for record in spoiled(rng, records)).encode("utf-8", "surrogatepass")


def mistyped_parquet(rng: random.Random, frame: pl.DataFrame) -> bytes:
    name = rng.choice(frame.columns)
    plain = [v for v in VALUES if not isinstance(v, list | dict) and not (isinstance(v, int) and abs(v) > 2**62)]
    value = rng.choice(plain)
    free = [new for new in NAMES if new.isprintable() and new and new not in frame.columns]
    text = value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
    changes: list[Callable[[pl.DataFrame], pl.DataFrame]] = [
        lambda f: f.with_columns(pl.lit(text).alias(name)),
        lambda f: f.with_columns(pl.lit(None).alias(name)),
        lambda f: f.with_columns(pl.lit([[1.5, None]]).alias(name)),
        lambda f: f.with_columns(pl.struct(pl.lit(CONTROL).alias("x")).alias(name)),
        lambda f: f.with_columns(pl.col(name).cast(pl.String)) if f[name].dtype.is_numeric() else f.drop(name),
        lambda f: f.rename({name: rng.choice(free)}),
        lambda f: f.head(0),
        lambda f: f.with_columns(pl.lit(b"\xff\x00").alias(name)),
        lambda f: f.with_columns(pl.lit(0).cast(pl.Datetime).alias(name)),
        lambda f: f.with_columns(pl.lit("a").cast(pl.Categorical).alias(name)),
    ]
    out = io.BytesIO()
    rng.choice(changes)(frame).write_parquet(out)
    return out.getvalue()
