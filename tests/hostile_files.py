"""Hostile containers, names and folders: the same records in every kind of file, and files that are none."""

from __future__ import annotations

import bz2
import contextlib
import csv
import gzip
import io
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq

from hostile_values import BIDI, CONTROL, NAMES, SCRIPT, anything

Records = list[dict[str, Any]]


def records_of(file: Path) -> Records:
    """The first records of a file of lines, of one document or of a table; none where it holds no objects."""
    try:
        if file.suffix == ".parquet":
            return pl.read_parquet(file).head(60).to_dicts()
        text = gzip.decompress(file.read_bytes()).decode() if file.suffix == ".gz" else file.read_text("utf-8")
        rows = json.loads(text) if file.suffix == ".json" else [json.loads(line) for line in text.splitlines()[:60]]
    except (ValueError, RecursionError, OSError, pl.exceptions.PolarsError):
        return []
    return [row for row in (rows if isinstance(rows, list) else [rows])[:60] if isinstance(row, dict)]


# Containers


def cell(rng: random.Random, value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    if rng.random() < 0.02:
        marks = [
            '"',
            '""',
            "\n",
            "\r",
            ",",
            ";",
            "\t",
            "=1+1",
            CONTROL,
            BIDI,
            SCRIPT,
            "\0",
            "'",
            "\ufeff",
            "x" * 140_000,
        ]
        text = rng.choice(marks) + text + rng.choice(marks)
    return text


def to_csv(rng: random.Random, records: Records) -> tuple[str, bytes]:
    """Delimited text with hostile cells; some files with a column twice, without a name or with unpaired quotes."""
    separator = rng.choice([",", ",", ";", "\t", "|"])
    names = list(dict.fromkeys(name for record in records for name in record))
    shown = [rng.choice([name, names[0], "", rng.choice(NAMES)]) if rng.random() < 0.05 else name for name in names]
    out = io.StringIO(newline="")
    quoting = rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONE])
    writer = csv.writer(out, delimiter=separator, quoting=quoting, escapechar="\\", lineterminator=rng.choice("\n\r"))
    writer.writerow(shown)
    for record in records:
        row = [cell(rng, record.get(name, "")) for name in names]
        writer.writerow(row[: rng.choice([len(row)] * 30 + [1, 0])] + ["more"] * rng.choice([0] * 30 + [1, 3]))
    text = out.getvalue()
    if rng.random() < 0.2:
        at = rng.randrange(len(text))
        text = text[:at] + '"' + text[at:]
    data = text.encode(rng.choice(["utf-8", "utf-8", "utf-8-sig"]), "surrogatepass")
    return rng.choice([".csv", ".tsv" if separator == "\t" else ".csv"]), data


def to_array(values: list[Any], rng: random.Random) -> Any:
    """An arrow array of the values, as text where their types differ, in a type chosen at random where one fits."""
    try:
        array = pa.array(values)
    except (pa.ArrowException, OverflowError, ValueError, TypeError):
        array = pa.array([None if v is None else json.dumps(v, default=str) for v in values])
    kinds = [pa.large_string(), pa.binary(), pa.float16(), pa.float32(), pa.decimal128(38, 2), pa.uint64(), pa.bool_(),
             pa.timestamp("us"), pa.date32(), pa.duration("s"), pa.string_view()]  # fmt: skip
    if rng.random() < 0.15:
        with contextlib.suppress(pa.ArrowException, ValueError, TypeError):
            array = array.cast(rng.choice(kinds), safe=False)
    if rng.random() < 0.15 and pa.types.is_string(array.type):
        array = array.dictionary_encode()
    return array


def to_table(rng: random.Random, records: Records) -> pa.Table:
    """An arrow table; some with a column twice, under a hostile name, or of another length of rows a batch."""
    names = list(dict.fromkeys(name for record in records for name in record)) or ["a"]
    arrays = [to_array([record.get(name) for record in records], rng) for name in names]
    if rng.random() < 0.15:
        names, arrays = [*names, rng.choice(names)], [*arrays, rng.choice(arrays)]
    if rng.random() < 0.1:
        names[rng.randrange(len(names))] = rng.choice([n for n in NAMES if n.isprintable()] + [CONTROL])
    return pa.Table.from_arrays(arrays, names=[name.encode("utf-8", "replace").decode() for name in names])


def to_parquet(rng: random.Random, records: Records) -> tuple[str, bytes]:
    out = io.BytesIO()
    options = {
        "compression": rng.choice(["none", "snappy", "zstd", "gzip"]),
        "row_group_size": rng.choice([1, 7, 1000]),
    }
    try:
        pq.write_table(to_table(rng, records), out, use_dictionary=rng.random() < 0.5, **options)
    except (pa.ArrowException, ValueError):
        pl.DataFrame({"prompt": ["a", "a"], "reward": [0, 1]}).write_parquet(out)
    return rng.choice([".parquet", ".pq"]), out.getvalue()


def to_arrow(rng: random.Random, records: Records) -> tuple[str, bytes]:
    out, table = io.BytesIO(), to_table(rng, records)
    kind = rng.choice(["file", "stream", "feather", "feather 1"])
    try:
        if kind.startswith("feather"):
            feather.write_feather(table, out, version=1 if kind == "feather 1" else 2, compression=None)
            return ".feather", out.getvalue()
        make = pa.ipc.new_file if kind == "file" else pa.ipc.new_stream
        packing = pa.ipc.IpcWriteOptions(compression=rng.choice([None, "lz4", "zstd"]))
        with make(out, table.schema, options=packing) as writer:
            for batch in table.to_batches(max_chunksize=rng.choice([1, 7, 1000])):
                writer.write_batch(batch)
    except (pa.ArrowException, ValueError):
        return ".feather", b"FEA1" + out.getvalue()
    return rng.choice([".arrow", ".ipc"]), out.getvalue()


def to_document(rng: random.Random, records: Records) -> tuple[str, bytes]:
    columns = {name: [record.get(name) for record in records] for name in records[0]}
    whole = rng.choice(
        [records, {"data": records}, {"rows": {"x": records}}, columns, [records], {"a": 1, "b": records}]
    )
    text = json.dumps(whole, default=str, indent=rng.choice([None, 1]))
    return ".json", text.encode("utf-8", "surrogatepass")


def to_lines(rng: random.Random, records: Records) -> tuple[str, bytes]:
    text = "\n".join(json.dumps(record, default=str) for record in records)
    return rng.choice([".jsonl", ".ndjson", ".jl"]), text.encode("utf-8", "surrogatepass")


CONTAINERS: tuple[Callable[[random.Random, Records], tuple[str, bytes]], ...] = (
    to_csv, to_csv, to_parquet, to_arrow, to_document, to_lines,
)  # fmt: skip
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".zst": lambda data: pa.Codec("zstd").compress(data, asbytes=True),
    ".lz4": lambda data: pa.Codec("lz4").compress(data, asbytes=True),
}

# Bombs: small files that are large when read


def text_bomb(rng: random.Random, nested: bool) -> pa.Table:
    """300,000 rows of four texts of 100 kB, plain or inside lists of messages."""
    rows = 300_000
    texts = pa.array([f"{i}" + "x" * 100_000 for i in range(4)])
    repeated = pa.DictionaryArray.from_arrays(pa.array([i % 4 for i in range(rows)], pa.int32()), texts)
    column: Any = repeated
    if nested:
        message = pa.StructArray.from_arrays([repeated], ["content"])
        column = pa.ListArray.from_arrays(pa.array(range(rows + 1), pa.int32()), message)
    reward = pa.array([float(i % 2) for i in range(rows)])
    names = ["prompt", "completion"] if rng.random() < 0.5 else ["messages", "prompt"]
    return pa.Table.from_arrays([column, repeated if nested else column, reward], names=[*names, "reward"])


def write_bomb(rng: random.Random, folder: Path) -> None:
    kind = rng.choice(["gzip", "lines", "parquet", "arrow", "feather", "stream", "rows", "wide", "line", "files"])
    nested = rng.random() < 0.5
    if kind == "gzip":
        (folder / "a.jsonl.gz").write_bytes(
            gzip.compress(rng.choice([b"\0", b"[", b"{", b"\n", b" "]) * (400 << 20), 1)
        )
    elif kind == "lines":
        line = json.dumps({"prompt": "p" * 2000, "reward": 1}).encode() + b"\n"
        (folder / "a.jsonl.zst").write_bytes(pa.Codec("zstd").compress(line * 100_000, asbytes=True))
    elif kind == "parquet":
        pq.write_table(text_bomb(rng, nested), folder / "a.parquet", compression="zstd")
    elif kind == "arrow":
        table = text_bomb(rng, nested)
        with pa.ipc.new_file(folder / "a.arrow", table.schema) as writer:
            writer.write_table(table)
    elif kind == "feather":
        feather.write_feather(text_bomb(rng, nested), folder / "a.feather", compression="zstd")
    elif kind == "stream":
        table = text_bomb(rng, nested)
        with pa.ipc.new_stream(folder / "a.arrow", table.schema) as writer:
            writer.write_table(table)
    elif kind == "rows":
        same = pa.table({"prompt": pa.array(["p"] * 1_000_000), "reward": pa.array([1.0] * 1_000_000)})
        with pq.ParquetWriter(folder / "a.parquet", same.schema) as writer:
            for _ in range(200):
                writer.write_table(same)
    elif kind == "wide":
        rows = [{f"c{i}": i for i in range(20_000)} | {"prompt": "p", "reward": r % 2} for r in range(4)]
        (folder / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    elif kind == "line":
        line_of = '{"prompt": "p", "reward": 1, "completion": "' + "y" * (30 << 20) + '"}\n'
        (folder / "a.jsonl").write_text(line_of * 2)
    else:
        for number in range(2000):
            (folder / f"{number}.jsonl").write_text('{"prompt": "p", "reward": 1}\n')


# The file system


def trick(rng: random.Random, folder: Path, file: Path) -> None:
    """Something beside or instead of the file that is no log."""
    name = rng.choice(["x.jsonl", "0.parquet", "a.csv", "z.json", "b.arrow", "m.jsonl.gz"])
    other = folder / name
    tricks: list[Callable[[], Any]] = [
        lambda: other.touch(),
        lambda: file.write_bytes(b""),
        lambda: other.symlink_to(other),
        lambda: other.symlink_to("/etc/passwd"),
        lambda: other.symlink_to("/dev/zero"),
        lambda: other.symlink_to(folder / "absent"),
        lambda: (folder / "more").symlink_to(folder),
        lambda: os.mkfifo(other),
        lambda: (file.unlink(), os.mkfifo(file)),
        lambda: other.mkdir(),
        lambda: (file.unlink(), file.mkdir()),
        lambda: (other.write_bytes(file.read_bytes()), other.chmod(0)),
        lambda: file.chmod(0),
        lambda: file.rename(file.with_name(f"{CONTROL}{BIDI}{file.name}")),
        lambda: file.rename(folder / os.fsdecode(b"\xff\xfe" + file.suffix.encode())),
        lambda: file.rename(file.with_name(f"{SCRIPT.replace('/', '')}{file.suffix}")),
        lambda: file.rename(file.with_name("a*[b]?" + file.suffix)),
        lambda: file.rename(file.with_name("{0} %s $HOME `id`" + file.suffix)),
        lambda: file.rename(
            file.with_suffix(rng.choice([".txt", ".parquet", ".csv", ".arrow", ".json", ".jsonl", ""]))
        ),
        lambda: other.write_text(json.dumps(anything(rng))),
    ]
    rng.choice(tricks)()
