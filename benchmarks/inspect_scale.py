"""How `onedial inspect --json` scales: its time against polars' own bare scan of the same columns, and its memory.

    python benchmarks/inspect_scale.py --rows 10000000 --kind parquet
    python benchmarks/inspect_scale.py --rows 2000000 --kind jsonl

Makes a plain log of that many rollouts (a prompt id, a step, a verdict, a token count, an answer) in a temporary
folder, then times in fresh processes, median of three: (a) the bare scan: polars' streaming engine reads the same four
columns of the same file and reduces each to one number that depends on every value (sums of the numbers, the largest
prompt id); (b) reading the log and all key figures. Prints the ratio b/a and the peak memory of both.
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

BARE = """
import polars as pl, resource, sys, time
path = sys.argv[1]
schema = {"step": pl.Int64, "prompt_id": pl.String, "reward": pl.Float64, "completion_tokens": pl.Int64}
start = time.perf_counter()
lazy = pl.scan_parquet(path) if path.endswith("parquet") else pl.scan_ndjson(path, schema=schema)
exprs = [pl.col("step").sum(), pl.col("prompt_id").max(), pl.col("reward").sum(), pl.col("completion_tokens").sum()]
lazy.select(exprs).collect(engine="streaming")
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
OURS = """
import resource, sys, time
from onedial.findings.key_figures import key_figures
from onedial.logs import read
start = time.perf_counter()
figures = key_figures(read(sys.argv[1], text=False))
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, figures["groups"])
"""


def generate(path: Path, rows: int, group_size: int, answer_chars: int) -> None:
    """`rows` rollouts in groups of `group_size`, 1,024 groups a step, answers of `answer_chars` characters."""
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
                    "prompt_id": (group * 7919 % 200_003).astype(str),
                    "completion": [text] * len(number),
                    "reward": (rng.random(len(number)) < rate).astype(float),
                    "completion_tokens": rng.integers(10, 2000, len(number)),
                }
            )
            if path.suffix == ".jsonl":
                frame.write_ndjson(stream)
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
        out = subprocess.run([sys.executable, "-c", code, str(path)], check=True, capture_output=True, text=True).stdout
        seconds, memory = out.split()[:2]
        runs.append((float(seconds), float(memory)))
    return sorted(runs)[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--kind", choices=("parquet", "jsonl"), default="parquet")
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--answer-chars", type=int, default=40)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"log.{args.kind}"
        start = time.perf_counter()
        generate(path, args.rows, args.group_size, args.answer_chars)
        print(f"made {args.rows:,} rows, {path.stat().st_size / 2**20:,.0f} MiB in {time.perf_counter() - start:.0f} s")
        bare, ours = measure(BARE, path), measure(OURS, path)
        result = {
            "rows": args.rows,
            "kind": args.kind,
            "bare_scan_s": round(bare[0], 3),
            "inspect_s": round(ours[0], 3),
            "ratio": round(ours[0] / bare[0], 2),
            "bare_scan_mib": round(bare[1]),
            "inspect_mib": round(ours[1]),
        }
        print(json.dumps(result))


if __name__ == "__main__":
    main()
