"""Damaged and hostile log files, seeded, from a sample of every format; and a worker that shows what becomes of each.

`make_corpus` writes the files; `Worker` runs every command on one of them in a process of its own, which is ended after
`LIMIT_S`. A finding is a traceback, a hang, memory beyond `MEMORY_GB`, a control character in the terminal or in an
error message, or a script in the page.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import json
import multiprocessing
import os
import random
import re
import resource
import shutil
import sys
import traceback
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

LIMIT_S, MEMORY_GB = 20, 4.0
SHARED = Path(__file__).parents[2] / "shared" / "data"
COMMANDS = ("json", "terminal", "page", "plan", "report")
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
NAMES = (
    CONTROL, SCRIPT, "", ".", "a.b", "__file", "reward_", "reward_" + CONTROL, "prompt_id", "$", "*", "\ud800", "π",
    "x" * 500,
)  # fmt: skip


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
    """The records with one field mistyped, in one, some or all of them, or under a hostile name."""
    records = json.loads(json.dumps(records))
    trails = sorted({t for record in records[:5] for t in places(record)}, key=str)
    if not trails:
        return records
    trail, new = rng.choice(trails), rng.choice(VALUES)
    rename = rng.choice(NAMES) if rng.random() < 0.15 else None
    share = rng.choice([0.0, 0.3, 1.0])
    for number, record in enumerate(records):
        if number == 0 or rng.random() < share:
            with contextlib.suppress(KeyError, IndexError, TypeError):
                put(record, trail, rng.choice(VALUES) if rng.random() < 0.1 else new, rename=rename)
    return records


def to_line(rng: random.Random, record: Any) -> str:
    text = json.dumps(record)
    if rng.random() < 0.02:
        text = text.replace(":", ": " + deep(rng.choice([50, 2000, 200_000])) + ', "dup": ', 1)
    if rng.random() < 0.02 and isinstance(record, dict) and record:
        name = json.dumps(next(iter(record)))
        text = text[:-1] + f", {name}: {json.dumps(rng.choice(VALUES))}" + "}"  # a key twice
    return text


def mistyped(rng: random.Random, file: Path) -> bytes | None:
    """The file with a value of the wrong kind, in its own container; None where it is not a table of records."""
    if file.suffix == ".parquet":
        return mistyped_parquet(rng, pl.read_parquet(file))
    try:
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".json":
            return json.dumps(spoiled(rng, [json.loads(text)])[0]).encode("utf-8", "surrogatepass")
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


def samples(folder: Path) -> list[Path]:
    """A folder or file of every format, written by the makers of the tests, and the head of every shared file."""
    from test_logs_options import WRITERS

    made = [(name, write(folder / name)) for name, write in WRITERS.items() if not (folder / name).mkdir(parents=True)]
    paths = [folder / name for name, _ in made]
    if SHARED.is_dir():
        for file in sorted(SHARED.iterdir()):
            target = folder / f"shared-{file.stem}" / file.name
            target.parent.mkdir()
            if file.suffix == ".jsonl":
                target.write_text("\n".join(file.read_text(encoding="utf-8").splitlines()[:80]), encoding="utf-8")
            elif file.suffix == ".parquet":
                pl.read_parquet(file).head(80).write_parquet(target)
            elif file.suffix in (".json", ".gz") and file.stat().st_size < 1_000_000:
                shutil.copy(file, target)
            else:
                continue
            paths.append(target.parent)
    return paths


def make_corpus(folder: Path, count: int, seed: int = 0) -> list[Path]:
    """`count` folders, each a log with one damaged file; the same ones for the same seed."""
    rng = random.Random(f"hostile/{seed}")
    sources = samples(folder / "sound")
    made = []
    for number in range(count):
        source = sources[number % len(sources)]
        target = folder / f"{number:05d}"
        shutil.copytree(source, target)
        kinds = (".jsonl", ".json", ".parquet", ".gz")
        files = sorted(f for f in target.rglob("*") if f.is_file() and f.suffix in kinds)
        file = rng.choice([f for f in files if f.name not in ("metadata.json", "metrics.jsonl")] or files)
        data = mistyped(rng, file) if rng.random() < 0.6 else None
        if data is None:
            data = file.read_bytes()
            for _ in range(rng.choice([1, 1, 2])):
                data = rng.choice(BYTES)(rng, data) if data else data
        if rng.random() < 0.05:
            other = rng.choice([f for s in sources for f in sorted(s.rglob("*.jsonl"))])
            data += b"\n" + other.read_bytes()
        file.write_bytes(data)
        made.append(target)
    return made


# What becomes of a file


def run_commands(path: Path, out: Path, commands: Sequence[str] = COMMANDS) -> list[str]:
    """Every fault that the commands show on one log, as a line each; nothing when all is well."""
    from onedial.cli.main import main

    page = out / "page.html"
    words = {
        "json": ["inspect", str(path), "--json", "--findings"],
        "terminal": ["inspect", str(path)],
        "page": ["inspect", str(path), "-o", str(page)],
        "plan": ["plan", str(path), "--budget", "2000"],
        "report": ["report", str(path), "-o", str(page)],
    }
    faults = []
    for command in commands:
        page.unlink(missing_ok=True)
        stdout, stderr = io.StringIO(), io.StringIO()
        try:
            with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
                code = main(words[command])
        except BaseException as problem:
            last = traceback.extract_tb(problem.__traceback__)[-1]
            own = [f for f in traceback.extract_tb(problem.__traceback__) if "onedial" in f.filename][-1]
            faults.append(
                f"{command}: traceback {type(problem).__name__}: {str(problem)[:120]!r} at {Path(own.filename).name}:"
                f"{own.lineno} ({Path(last.filename).name}:{last.lineno})"
            )
            continue
        text = stdout.getvalue() + stderr.getvalue()
        odd = {c for c in text if (unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t") or c in "\u202e\u2066"}
        if odd:
            faults.append(f"{command}: control characters {sorted(odd)!r} on the terminal")
        if code not in (0, 2):
            faults.append(f"{command}: exit code {code}")
        if code == 2 and not stderr.getvalue().strip():
            faults.append(f"{command}: refused without a message")
        if command == "json" and code == 0:
            faults += json_faults(stdout.getvalue())
        if page.is_file() and re.search(r"<img src=x|<script>alert", page.read_text("utf-8")):
            faults.append(f"{command}: a script of the log stands in the page")
    return faults


def json_faults(text: str) -> list[str]:
    """What cannot be: no JSON, or shares that are none."""
    try:
        figures = json.loads(text)
    except ValueError as problem:
        return [f"json: {problem}"]
    shares = {name: value for name, value in figures.items() if name.endswith("_share") and isinstance(value, float)}
    return [f"json: {name} is {value}" for name, value in shares.items() if not 0 <= value <= 1]


def _serve(pipe: Connection, out: str) -> None:
    os.environ.pop("ONEDIAL_TRACEBACK", None)
    sys.path.insert(0, str(Path(__file__).parent))
    while True:
        path, commands = pipe.recv()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        faults = run_commands(Path(path), Path(out), commands)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if peak > MEMORY_GB * 2**20 > before:
            faults.append(f"memory: {peak / 2**20:.1f} GB")
        pipe.send(faults)


class Worker:
    """One process that runs the commands; it is replaced when it hangs or dies."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.process: Any = None
        self.pipe: Connection

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, str(self.out)), daemon=True)
        self.process.start()
        theirs.close()

    def check(self, path: Path, commands: Sequence[str] = COMMANDS) -> list[str]:
        """The faults of one log; a hang is `LIMIT_S` for one command, or twice that for all."""
        if self.process is None:
            self._start()
            self.pipe.send((str(path), ()))
            self.pipe.recv()  # the imports are not the log's fault
        self.pipe.send((str(path), tuple(commands)))
        try:
            if self.pipe.poll(LIMIT_S * (1 if len(commands) == 1 else 2)):
                faults: list[str] = self.pipe.recv()
                return faults
            reason = "hang" if len(commands) == 1 else ""
        except EOFError:
            reason = "the process died"
        self.close()
        if reason or len(commands) == 1:
            return [f"{'/'.join(commands)}: {reason}"]
        return [fault for command in commands for fault in self.check(path, [command])]

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process = None
