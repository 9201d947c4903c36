"""Damaged and hostile logs, seeded, from a sample of every format; and a worker that shows what becomes of each.

`make_corpus` writes the logs; `Worker` runs every command on them in one process, which is replaced when a command
takes more than `WAIT_S` or ends it. A finding is a traceback, a hang, memory beyond `MEMORY_GB`, a control character
in the terminal, the page or a message, a script in the page, a figure that cannot be, a process or file left behind.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import multiprocessing
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
import unicodedata
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import polars as pl

from hostile_files import CONTAINERS, PACKERS, records_of, trick, write_bomb
from hostile_values import BYTES, controls, encoded, flipped, mistyped, shuffled_lines, truncated

LIMIT_S, WAIT_S, MEMORY_GB = 20, 120, 4.0  # seconds of the processor and of the clock: other work may share the cores
SHARED = Path(__file__).parents[2] / "shared" / "data"
COMMANDS = ("json", "terminal", "page", "plan", "report")
KINDS = (
    "bytes", "values", "container", "lines", "values", "many bytes", "container bytes", "packed", "values",
    "packed bytes", "encoded", "mixed", "trick", "container values", "bomb", "cut",
)  # fmt: skip
BOMB_EVERY = 3  # of the places of a bomb in a corpus, how many are damage to bytes instead, so that it ends in an hour


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


def make_corpus(folder: Path, count: int, seed: int = 0) -> Iterator[Path]:
    """`count` folders one by one, each a log with one damaged file; the same ones for the same seed.

    Formats and kinds of damage are walked through, so that a thousand logs hold every kind for every format.
    """
    sources = samples(folder / "sound")
    for number in range(count):
        place = seed * count + number
        rng = random.Random(f"hostile/{seed}/{number}")
        kind = KINDS[(place + place // len(sources)) % len(KINDS)]
        if kind == "bomb" and rng.randrange(BOMB_EVERY):
            kind = "bytes"
        target = folder / f"{number:05d}-{sources[place % len(sources)].name}-{kind.replace(' ', '-')}"
        shutil.copytree(sources[place % len(sources)], target)
        damage(rng, kind, target, sources)
        yield target


def damage(rng: random.Random, kind: str, target: Path, sources: list[Path]) -> None:
    """Spoil one file of the folder in one way."""
    kinds = (".jsonl", ".json", ".parquet", ".gz")
    files = sorted(f for f in target.rglob("*") if f.is_file() and f.suffix in kinds)
    file = rng.choice([f for f in files if f.name not in ("metadata.json", "metrics.jsonl")] or files)
    data = file.read_bytes()
    if kind == "trick":
        trick(rng, target, file)
    elif kind == "bomb":
        file.unlink()
        write_bomb(rng, target)
    elif kind.startswith("container"):
        if records := records_of(file):
            if kind == "container values":
                file.write_bytes(mistyped(rng, file) or data)
                records = records_of(file) or records
            suffix, data = rng.choice(CONTAINERS)(rng, records)
            file.unlink()
            file = file.with_suffix(suffix)
        file.write_bytes(rng.choice(BYTES)(rng, data) if kind == "container bytes" or not records else data)
    elif kind.startswith("packed"):
        name, pack = rng.choice(sorted(PACKERS.items()))
        data = pack(data)
        data = rng.choice([truncated, flipped])(rng, data) if kind == "packed bytes" else data
        file.unlink()
        rng.choice([file, Path(f"{file}{name}")]).write_bytes(data)
    elif kind == "mixed":
        other = rng.choice([f for s in sources for f in sorted(s.rglob("*.jsonl"))])
        rng.choice([target / f"more{other.suffix}", file]).write_bytes(other.read_bytes())
        file.write_bytes(file.read_bytes() + rng.choice([b"\n", b""]) + other.read_bytes())
    else:
        changed = mistyped(rng, file) if kind == "values" else None
        file.write_bytes(_changed(rng, kind, data) if changed is None else changed)


def _changed(rng: random.Random, kind: str, data: bytes) -> bytes:
    ways = {"lines": shuffled_lines, "encoded": encoded, "cut": truncated, "values": controls}
    for _ in range(rng.choice([2, 3, 8]) if kind == "many bytes" else 1):
        data = ways.get(kind, rng.choice(BYTES))(rng, data) if data else data
    return data


# What becomes of a log


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
        stdout, stderr, started = io.StringIO(), io.StringIO(), time.process_time()
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
        text, error = stdout.getvalue() + stderr.getvalue(), stderr.getvalue().strip()
        told = [("control characters on the terminal", odd_characters(text))]
        told += [("exit code", code if code not in (0, 2) else ""), ("seconds", _slow(started))]
        told += [("refused without a message", code == 2 and not error)]
        if command == "json" and code == 0:
            told += [("figures", fault) for fault in figure_faults(stdout.getvalue())]
        if page.is_file():
            told += [("page", fault) for fault in page_faults(page.read_text("utf-8"))]
        faults += [f"{command}: {what} {seen}" for what, seen in told if seen]
    return faults


def _slow(started: float) -> str:
    used = time.process_time() - started
    return f"{used:.0f}" if used > LIMIT_S else ""


def odd_characters(text: str) -> str:
    """What a terminal or a browser may act on: controls, lone surrogates, marks of the direction of text."""
    odd = {c for c in text if (unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t")}
    odd |= {
        c
        for c in text
        if unicodedata.bidirectional(c) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    }
    return repr(sorted(odd)) if odd else ""


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.scripts, self.handlers = 0, list[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        for name, value in attrs:
            outside = name in ("src", "href") and not (value or "").startswith(("#", "data:", "https://arxiv"))
            if name.startswith("on") or outside or tag in ("iframe", "object"):
                self.handlers.append(f"<{tag} {name}={value!r:.40}>")


def page_faults(text: str) -> list[str]:
    """Scripts beyond the page's own two, handlers and sources of others, characters that a reader cannot see."""
    tags = _Tags()
    tags.feed(text)
    faults = [f"{tags.scripts} scripts"] if tags.scripts != 2 else []
    return faults + tags.handlers[:3] + ([odd] if (odd := odd_characters(text)) else [])


def figure_faults(text: str) -> list[str]:
    """What cannot be: no JSON, numbers that are none, shares that do not add up, values outside their intervals."""

    def refuse(word: str) -> None:
        raise ValueError(f"{word} in the JSON")

    try:
        figures = json.loads(text, parse_constant=refuse)
    except ValueError as problem:
        return [str(problem)]
    faults = [f"{name} is {value}" for name, value in numbers(figures) if not math.isfinite(value)]
    shares = {name: value for name, value in figures.items() if name.endswith("_share") and isinstance(value, float)}
    faults += [f"{name} is {value}" for name, value in shares.items() if not 0 <= value <= 1]
    kinds = [shares.get(name) for name in ("mixed_share", "silent_share")]
    if None not in kinds and abs(sum(kinds) - 1) > 1e-9:
        faults.append(f"mixed and silent make {sum(kinds)}")
    for name, (low, high) in _intervals(figures):
        value = figures.get(name)
        if isinstance(value, float | int) and not low - 1e-9 <= value <= high + 1e-9:
            faults.append(f"{name} = {value} outside {low} … {high}")
    for finding in figures.get("findings", []):
        span, value = finding.get("interval"), finding.get("value")
        if span and value is not None and not span[0] - 1e-9 <= value <= span[1] + 1e-9:
            faults.append(f"{finding.get('name')} = {value} outside {span}")
    return faults + _count_faults(figures)


def _intervals(figures: dict[str, Any]) -> Iterator[tuple[str, list[float]]]:
    named = dict(figures.get("share_intervals") or {})
    if figures.get("mean_reward_interval"):
        named["mean_reward"] = figures["mean_reward_interval"]
    return ((name, span) for name, span in named.items() if span)


def _count_faults(figures: dict[str, Any]) -> list[str]:
    """Counts that contradict each other."""
    names = ("rollouts", "unusable", "groups", "groups_of_one", "groups_in_shares", "tokens_generated", "tokens_silent")
    count = {name: figures.get(name) for name in names}
    faults = [f"{name} is {value}" for name, value in count.items() if value is not None and (value < 0 or value % 1)]
    pairs = [("unusable", "rollouts"), ("groups_in_shares", "groups"), ("tokens_silent", "tokens_generated")]
    for part, whole in pairs:
        if part == "unusable" and figures["kind"] == "rates":
            continue
        if None not in (count[part], count[whole]) and count[part] > count[whole]:
            faults.append(f"{part} {count[part]} of {whole} {count[whole]}")
    sizes = figures.get("group_sizes")
    if sizes and count["groups"] is not None and sum(sizes.values()) != count["groups"]:
        faults.append(f"group sizes make {sum(sizes.values())} of {count['groups']} groups")
    return faults


def numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Every number of a JSON value, with the keys that lead to it."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from numbers(inner, f"{name}.{key}")
    elif isinstance(value, float | int):
        yield name, value


# The process


def _serve(pipe: Connection, out: str) -> None:
    os.environ.pop("ONEDIAL_TRACEBACK", None)
    sys.path.insert(0, str(Path(__file__).parent))
    tempfile.tempdir = os.environ["TMPDIR"] = str(Path(out, "tmp"))
    resource.setrlimit(resource.RLIMIT_DATA, (int(1.5 * MEMORY_GB * 2**30),) * 2)
    while True:
        path, commands = pipe.recv()
        if path is None:
            return
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        faults = run_commands(Path(path), Path(out), commands)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if peak > MEMORY_GB * 2**20 > before:
            faults.append(f"memory: {peak / 2**20:.1f} GB")
        if multiprocessing.active_children() or _children():
            faults.append(f"processes left behind: {_children()}")
        pipe.send(faults)


def _children() -> str:
    """The children of this process, on Linux."""
    lists = Path("/proc/self/task").glob("*/children")
    return " ".join(file.read_text() for file in lists).strip()


class Worker:
    """One process that runs the commands; it is replaced when it hangs or dies."""

    def __init__(self, out: Path) -> None:
        self.out = out
        (out / "tmp").mkdir(parents=True, exist_ok=True)
        self.process: Any = None
        self.pipe: Connection

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, str(self.out)), daemon=True)
        self.process.start()
        theirs.close()

    def check(self, path: Path, commands: Sequence[str] = COMMANDS) -> list[str]:
        """The faults of one log; a hang is `WAIT_S` for one command, or twice that for all."""
        if self.process is None:
            self._start()
            self.pipe.send((str(path), ()))
            self.pipe.recv()  # the imports are not the log's fault
        self.pipe.send((str(path), tuple(commands)))
        try:
            if self.pipe.poll(WAIT_S * (1 if len(commands) == 1 else 2)):
                faults: list[str] = self.pipe.recv()
                return faults
            reason = "hang" if len(commands) == 1 else ""
        except EOFError:
            reason = "the process died"
        self.kill()
        if reason or len(commands) == 1:
            return [f"{'/'.join(commands)}: {reason}"]
        return [fault for command in commands for fault in self.check(path, [command])]

    def close(self) -> list[str]:
        """Lets the process end; the temporary files that it leaves behind."""
        if self.process is None:
            return []
        self.pipe.send((None, ()))
        self.process.join(WAIT_S)
        left = sorted(str(file) for file in (self.out / "tmp").iterdir())
        self.kill()
        return [f"left behind: {name}" for name in left]

    def kill(self) -> None:
        """Ends the process at once, with what it may have left."""
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process = None
            shutil.rmtree(self.out / "tmp", ignore_errors=True)
            (self.out / "tmp").mkdir()
