"""How reading a log and `onedial inspect --json` scale: time against polars' own bare scan of the same columns, memory.

    python benchmarks/inspect_scale.py --rows 10000000 --kind parquet
    python benchmarks/inspect_scale.py --rows 2000000 --kind jsonl

Makes a plain log of that many rollouts (a prompt id, a step, a verdict, a token count, an answer) in a temporary
folder, then times in fresh processes, median of three:

    bare_scan  polars' streaming engine reads the same four columns of the same file and reduces each to one number that
               depends on every value (sums of the numbers, the largest prompt id)
    read       onedial reads the log and reduces the same columns of its own frame in the same way
    group_by   polars' streaming engine groups the same columns by step and prompt: rows, rewards, tokens of each group
    inspect    onedial reads the log and makes all key figures

Prints seconds, peak MiB (files that polars maps into memory included), and each time over that of the bare scan.
Linux only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

CHUNK = 1_000_000
SCHEMA = {"step": pl.Int64, "prompt_id": pl.String, "reward": pl.Float64, "completion_tokens": pl.Int64}

START = """
import polars as pl, sys, time
from onedial.analysis.logs import read
from onedial.analysis.result import analyze
path, kind = sys.argv[1], sys.argv[1].rpartition(".")[2]
schema = {"step": pl.Int64, "prompt_id": pl.String, "reward": pl.Float64, "completion_tokens": pl.Int64}
options = {"parquet": {}, "jsonl": {"schema": schema}, "csv": {"schema_overrides": schema}}[kind]
start = time.perf_counter()
theirs = {"parquet": pl.scan_parquet, "jsonl": pl.scan_ndjson, "csv": pl.scan_csv}[kind](path, **options)
"""
WORK = {
    "bare_scan": """
theirs = theirs.select(pl.col("step", "reward", "completion_tokens").sum(), pl.col("prompt_id").max())
theirs.collect(engine="streaming")
""",
    "read": """
ours = read(path, text=False).frame
ours = ours.select(pl.col("iteration", "outcome_reward", "completion_tokens").sum(), pl.col("prompt_id").max())
ours.collect(engine="streaming")
""",
    "group_by": """
grouped = theirs.group_by("step", "prompt_id").agg(pl.len(), pl.col("reward", "completion_tokens").sum())
grouped.collect(engine="streaming")
""",
    "inspect": """
analyze(read(path, text=False)).figures
""",
}
END = """
seconds = time.perf_counter() - start
status = open("/proc/self/status").read()  # ru_maxrss would count the parent, from which this process was forked
print(seconds, int(status.partition("VmHWM:")[2].split()[0]) / 1024)
"""


def generate(path: Path, rows: int, group_size: int, answer_chars: int, id_chars: int) -> None:
    """`rows` rollouts in groups of `group_size`, 1,024 groups a step; answers and ids of so many characters."""
    rng = np.random.default_rng(0)
    parts = []
    text = "x" * answer_chars
    with path.open("wb") as stream:
        for first in range(0, rows, CHUNK):
            number = np.arange(first, min(rows, first + CHUNK))
            group = number // group_size
            rate = rng.beta(0.4, 0.4, size=int(group[-1] - group[0] + 1))[group - group[0]]
            frame = pl.DataFrame(
                {
                    "step": group // 1024,
                    "prompt_id": pl.Series((group * 7919 % 200_003).astype(str)).str.zfill(id_chars),
                    "completion": [text] * len(number),
                    "reward": (rng.random(len(number)) < rate).astype(float),
                    "completion_tokens": rng.integers(10, 2000, len(number)),
                }
            )
            if path.suffix == ".jsonl":
                frame.write_ndjson(stream)
            elif path.suffix == ".csv":
                frame.write_csv(stream, include_header=first == 0)
            else:
                part = path.with_name(f"part{first}.parquet")
                frame.write_parquet(part)
                parts.append(part)
    if parts:
        pl.scan_parquet(parts).sink_parquet(path)
        for part in parts:
            part.unlink()


def measure(code: str, path: Path) -> tuple[float, float]:
    """(seconds, MiB at the peak) of the process with the median time of three."""
    runs = []
    for _ in range(3):
        command = [sys.executable, "-c", START + code + END, str(path)]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        seconds, memory = out.split()
        runs.append((float(seconds), float(memory)))
    return sorted(runs)[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--kind", choices=("parquet", "jsonl", "csv"), default="parquet")
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--answer-chars", type=int, default=40)
    parser.add_argument("--id-chars", type=int, default=1, help="least length of a prompt id, e.g. 36 as of a uuid")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"log.{args.kind}"
        start = time.perf_counter()
        generate(path, args.rows, args.group_size, args.answer_chars, args.id_chars)
        print(f"made {args.rows:,} rows, {path.stat().st_size / 2**20:,.0f} MiB in {time.perf_counter() - start:.0f} s")
        found = {name: measure(code, path) for name, code in WORK.items()}
    bare = found["bare_scan"][0]
    for name, (seconds, memory) in found.items():
        print(
            json.dumps({"what": name, "s": round(seconds, 3), "times": round(seconds / bare, 2), "mib": round(memory)})
        )


if __name__ == "__main__":
    main()
