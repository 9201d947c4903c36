"""Hostile logs: figures with the damage counted, or one clear error; no traceback, no hang, no control character."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import hostile_logs
import hostile_values as hostile
from logs_data import make
from onedial.analysis.logs import read
from onedial.cli.main import main
from onedial.core.errors import DataError, UserError
from onedial.core.tables.arrow_sizes import measure_arrow
from onedial.core.tables.expansion import check_expansion
from test_logs_options import WRITERS

MISTYPED = [value for value in hostile.VALUES if not (isinstance(value, str) and len(value) > 5000)]
TEXT_FORMATS = [name for name in WRITERS if name not in ("onedial", "trl")]


def read_or_refuse(path: Path) -> None:
    """Reads every column; an error of the user's kind is an answer too."""
    try:
        read(path).frame.collect()
    except UserError as problem:
        assert str(problem)


def fields_of(records: list[Any]) -> list[tuple[Any, ...]]:
    """One place for every field, whatever the item of a list."""
    named: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    for trail in (trail for record in records[:2] for trail in hostile.places(record)):
        named.setdefault(tuple(part for part in trail if not isinstance(part, int)), trail)
    return list(named.values())


def walk_fields(form: str, folder: Path, *, step: int = 1, offset: int = 0) -> int:
    """Reads the format's log with every field, in all records, set to every value of the wrong kind."""
    WRITERS[form](folder)
    file = next(f for f in sorted(folder.rglob("*.json*")) if f.name not in ("metadata.json", "run_metadata.jsonl"))
    text = file.read_text(encoding="utf-8")
    sound = [json.loads(text)] if file.suffix == ".json" else [json.loads(line) for line in text.splitlines()]
    cases = [(trail, value) for trail in fields_of(sound) for value in MISTYPED][offset::step]
    for trail, value in cases:
        records = json.loads(text if file.suffix == ".json" else "[" + ",".join(text.splitlines()) + "]")
        for record in [records] if file.suffix == ".json" else records:
            try:
                hostile.put(record, trail, value)
            except (KeyError, IndexError, TypeError):
                continue
        lines = [records] if file.suffix == ".json" else records
        file.write_bytes("\n".join(map(json.dumps, lines)).encode("utf-8", "surrogatepass"))
        try:
            read_or_refuse(folder)
        except Exception as problem:
            raise AssertionError(f"{form}: {trail} = {value!r:.60}") from problem
    return len(cases)


@pytest.mark.parametrize("form", TEXT_FORMATS)
def test_a_field_of_the_wrong_type(form: str, tmp_path: Path) -> None:
    """A slice of all fields × all values; the whole of it is `test_every_field_of_every_type`."""
    assert walk_fields(form, tmp_path, step=41, offset=TEXT_FORMATS.index(form)) > 1


@pytest.mark.slow
@pytest.mark.parametrize("form", TEXT_FORMATS)
def test_every_field_of_every_type(form: str, tmp_path: Path) -> None:
    assert walk_fields(form, tmp_path) > 100


@pytest.mark.parametrize("form", TEXT_FORMATS)
def test_integers_of_400_digits(form: str, tmp_path: Path) -> None:
    """They are numbers beyond every float: infinite, not a traceback."""
    WRITERS[form](tmp_path)
    file = next(f for f in sorted(tmp_path.rglob("*.json*")) if f.name not in ("metadata.json", "run_metadata.jsonl"))
    text = file.read_text(encoding="utf-8")
    for digits in ("9" * 400, "-" + "9" * 400, "9" * 5000):
        file.write_text("".join(digits if c == "1" and text[i - 1] in " [" else c for i, c in enumerate(text)))
        read_or_refuse(tmp_path)


def check_quickly(path: Path, capsys: pytest.CaptureFixture[str], *, words: tuple[str, ...] = ()) -> tuple[int, str]:
    """Exit code and all output of `inspect`, which must end within the limit and print nothing a terminal executes."""
    started = time.monotonic()
    code = main(["inspect", str(path), *words])
    assert time.monotonic() - started < hostile_logs.LIMIT_S
    shown = capsys.readouterr()
    text = shown.out + shown.err
    assert not {c for c in hostile.CONTROL if not c.isprintable()} & set(text), text
    return code, text


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fifo", "pipe or a device"),
        ("loop", "cannot be opened"),
        ("long", "cannot be opened"),
        ("absent", "no such file"),
    ],
)
def test_what_is_no_file(name: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / name
    if name == "fifo":
        os.mkfifo(path)
    elif name == "loop":
        path.symlink_to(path)
    elif name == "long":
        path = tmp_path / ("x" * 5000)
    code, text = check_quickly(path, capsys)
    assert code == 2 and message in text and len(text) < 500


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", "a\0b"])
def test_devices_and_impossible_names(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_quickly(Path(path), capsys)[0] == 2


def test_a_folder_with_a_pipe_a_loop_and_a_name_that_is_no_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make.lines(tmp_path / "a.jsonl", make.table(make.rollouts(1)))
    os.mkfifo(tmp_path / "b.jsonl")
    (tmp_path / "c.jsonl").symlink_to(tmp_path / "c.jsonl")
    (tmp_path / "d").symlink_to(tmp_path)
    (tmp_path / os.fsdecode(b"e\xff\x1b[31m.jsonl")).write_bytes((tmp_path / "a.jsonl").read_bytes())
    code, text = check_quickly(tmp_path, capsys)
    assert code == 0 and "rollouts" in text


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet", "arrow", "jsonl.gz"])
def test_a_file_whose_name_is_no_text(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"prompt": f"p{i // 4}", "reward": float(i % 2)} for i in range(40)]
    frame, path = pl.DataFrame(rows), tmp_path / os.fsdecode(b"\xff\xfe." + kind.encode())
    lines = "\n".join(map(json.dumps, rows)).encode()
    if kind in ("parquet", "arrow"):
        plain = tmp_path / "plain"
        frame.write_parquet(plain) if kind == "parquet" else frame.write_ipc(plain)
        plain.rename(path)
    else:
        data = {"jsonl": lines, "json": json.dumps(rows).encode(), "csv": frame.write_csv().encode()}
        path.write_bytes(data.get(kind) or gzip.compress(lines))
    for place in (path, tmp_path):
        code, text = check_quickly(place, capsys)
        assert code == 0 and "40 rollouts" in text, text


def test_a_folder_with_more_files_than_a_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from onedial.analysis.logs import log_files

    for number in range(30):
        (tmp_path / f"{number}.jsonl").touch()
    monkeypatch.setattr(log_files, "MAX_FILES", 20)
    with pytest.raises(DataError, match="more than 20 data files"):
        read(tmp_path)
    monkeypatch.setattr(log_files, "MAX_ENTRIES", 10)
    with pytest.raises(DataError, match="more than 10 files"):
        read(tmp_path)


def test_a_small_file_that_expands_without_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from onedial.core.tables import file_bytes

    line = json.dumps({"prompt": "p", "reward": 1}).encode() + b"\n"
    for name, data in (("zeros", b"\0" * (30 << 20)), ("lines", line * (1 << 17)), ("array", b"[" * (5 << 20))):
        (tmp_path / f"{name}.jsonl.gz").write_bytes(gzip.compress(data, 1))
    monkeypatch.setattr(file_bytes, "MIN_BOMB_BYTES", 1 << 20)
    monkeypatch.setattr(file_bytes, "MAX_EXPANSION", 20)
    code, text = check_quickly(tmp_path / "lines.jsonl.gz", capsys)
    assert code == 0 and "broken place" in text
    for name in ("zeros", "array"):
        assert check_quickly(tmp_path / f"{name}.jsonl.gz", capsys)[0] == 2


@pytest.mark.parametrize("depth", [1_000, 100_000, 3_000_000])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_json_that_is_too_deep(name: str, depth: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sound = [json.dumps({"prompt": "p", "reward": i % 2}) for i in range(4)]
    bad = '{"prompt": ' + hostile.deep(depth) + ', "reward": 1}'
    text = "\n".join([*sound, bad]) if name == "a.jsonl" else f"[{','.join([*sound, bad])}]"
    (tmp_path / name).write_text(text)
    code, text = check_quickly(tmp_path / name, capsys)
    assert code in (0, 2)


@pytest.mark.parametrize("count", [10**9, 10**12, 10**18, 2**63, -1, -(10**18)])
def test_counts_that_no_table_of_rates_can_hold(count: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"problem": f"p{i}", "n_correct": i, "n_samples": 8} for i in range(8)]
    rows += [{"problem": "bad", "n_correct": count // 2, "n_samples": count}]
    path = make.lines(tmp_path / "a.jsonl", rows)
    code, text = check_quickly(path, capsys)
    assert code == 0 and "broken place" in text
    log = read(path)
    assert log.frame.select(pl.col("n").max()).collect().item() == 8 and log.broken_lines >= 1
    code, _ = check_quickly(make.lines(tmp_path / "b.jsonl", rows[-1:]), capsys)
    assert code in (0, 2)


def test_a_dictionary_that_expands_a_thousandfold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Half a million rows of 100 kB each in a file of a few hundred kB."""
    rows = 500_000
    texts = pa.array([f"{i}" + "x" * 100_000 for i in range(4)])
    index = pa.array([i % 4 for i in range(rows)], pa.int32())
    table = pa.table({
        "prompt": pa.DictionaryArray.from_arrays(index, texts), "reward": pa.array([float(i % 2) for i in range(rows)]),
        "completion": pa.DictionaryArray.from_arrays(index, texts),
    })  # fmt: skip
    pq.write_table(table, tmp_path / "bomb.parquet", compression="zstd")
    script = (
        "import resource, sys; from onedial.cli.main import main; "
        "resource.setrlimit(resource.RLIMIT_DATA, (6 << 30, 6 << 30)); sys.exit(main(sys.argv[1:]))"
    )
    words = [sys.executable, "-c", script, "inspect", str(tmp_path / "bomb.parquet")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 2 and "GB of text" in done.stderr, done.stderr[-500:]


@pytest.mark.parametrize("codec", ["zstd", "lz4", None])
@pytest.mark.parametrize("form", ["file", "stream"])
def test_arrow_files_are_measured_without_decompressing(form: str, codec: str | None, tmp_path: Path) -> None:
    """Oracle: the bytes of the buffers that the very batches hold in memory; without a codec nothing expands."""
    dictionary = pa.array(["a" * 1000, "b"] * 500).dictionary_encode()
    table = pa.table({"reward": pa.array([0.0] * 1000), "prompt": ["x" * 50] * 1000, "kind": dictionary})
    options = pa.ipc.IpcWriteOptions(compression=codec)
    new = pa.ipc.new_file if form == "file" else pa.ipc.new_stream
    with new(tmp_path / "a.arrow", table.schema, options=options) as writer:
        for batch in table.to_batches(max_chunksize=300):
            writer.write_batch(batch)
    rows, size = measure_arrow(tmp_path / "a.arrow")
    held = 1000 * (8 + 50 + 4 + 4) + 1001 + 2 * 4
    assert rows == 1000
    assert size == 0 if codec is None else held <= size <= held + 64 * 12, "offsets begin anew in each batch"


@pytest.mark.parametrize("form", ["file", "stream"])
@pytest.mark.parametrize("content", ["rows", "text"])
def test_compressed_arrow_files_that_expand_are_not_read(content: str, form: str, tmp_path: Path) -> None:
    """A few kB that hold a hundred million rows, or 1.2 GB of text: refused before any of it is decompressed."""
    if content == "rows":
        zeros = pa.array(np.zeros(20_000_000, np.int8))
        table = pa.table({"reward": zeros, "prompt_id": zeros})
    else:
        offsets = pa.py_buffer(np.arange(0, 1_200_000_001, 100_000_000, dtype=np.int32))
        texts = pa.Array.from_buffers(pa.string(), 12, [None, offsets, pa.py_buffer(bytes(1_200_000_000))])
        table = pa.table({"prompt": texts, "reward": [0.0, 1.0] * 6})
    new = pa.ipc.new_file if form == "file" else pa.ipc.new_stream
    with new(tmp_path / "a.arrow", table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    pa.default_memory_pool().release_unused()
    before = pa.total_allocated_bytes()
    with pytest.raises(DataError, match="rows in" if content == "rows" else "is decompressed to 1.2 GB"):
        check_expansion(tmp_path / "a.arrow", "arrow")
    assert pa.total_allocated_bytes() - before < 1 << 20


def test_text_of_a_log_in_errors_and_broken_places(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[dict[str, Any]] = [{"prompt": hostile.CONTROL, "reward": hostile.CONTROL, hostile.CONTROL: 1}]
    rows += [{"prompt": "a", "reward": i % 2} for i in range(8)]
    path = make.lines(tmp_path / f"a{hostile.CONTROL}.jsonl", rows)
    assert check_quickly(path, capsys)[0] == 0
    assert check_quickly(path, capsys, words=("--map", f"prompt={hostile.CONTROL}x"))[0] == 2
    assert check_quickly(path, capsys, words=("--outcome", hostile.CONTROL + "x"))[0] == 2
    assert check_quickly(path, capsys, words=("--format", hostile.CONTROL))[0] == 2


def check_corpus(folder: Path, count: int, seed: int, commands: tuple[str, ...]) -> None:
    worker, faults = hostile_logs.Worker(folder / "out"), list[str]()
    try:
        for path in hostile_logs.make_corpus(folder / "corpus", count, seed):
            faults += [f"{path.name}: {fault}" for fault in worker.check(path, commands)]
            shutil.rmtree(path, ignore_errors=True)
        faults += worker.close()
    finally:
        worker.kill()
    assert not faults, "\n".join(faults[:50])


def test_a_slice_of_the_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostile_logs, "BOMB_EVERY", 10**9)
    check_corpus(tmp_path, 32, 0, ("json", "terminal"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 11))
def test_the_corpus(seed: int, tmp_path: Path) -> None:
    """A thousand files × every command, by seeds of a hundred."""
    check_corpus(tmp_path, 100, seed, hostile_logs.COMMANDS)


def test_the_corpus_is_the_same_for_the_same_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostile_logs, "BOMB_EVERY", 10**9)
    first, second = (list(hostile_logs.make_corpus(tmp_path / name, 30, 5)) for name in ("a", "b"))
    for one, other in zip(first, second, strict=True):
        files = [sorted(f for f in folder.rglob("*") if f.is_file()) for folder in (one, other)]
        assert [f.relative_to(one) for f in files[0]] == [f.relative_to(other) for f in files[1]]
        packed = (".gz", ".bz2", ".zst", ".lz4")  # gzip writes the time
        assert all(a.read_bytes() == b.read_bytes() for a, b in zip(*files, strict=True) if a.suffix not in packed)
