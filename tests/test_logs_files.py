"""Files that are not what they seem: another name, compression, separator or type. Oracle: dict loops over the rows."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from findings_logs import all_findings, key_figures
from logs_data import make
from onedial.analysis.findings import collect
from onedial.analysis.logs import lines, read, store
from onedial.analysis.logs.formats import Sample
from onedial.cli.main import main
from onedial.core.errors import DataError

Rows = list[dict[str, Any]]
SHARES = ("mixed_share", "all_correct_share", "all_wrong_share")


def dump(rows: Rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet(rows: Rows) -> bytes:
    import io

    out = io.BytesIO()
    pl.DataFrame(rows).write_parquet(out)
    return out.getvalue()


SEEMING: dict[str, tuple[str, Callable[[Rows], bytes]]] = {
    "lines named json": ("a.json", dump),
    "lines named txt": ("a.txt", dump),
    "lines named csv": ("a.csv", dump),
    "lines named parquet": ("a.parquet", dump),
    "parquet named jsonl": ("a.jsonl", parquet),
    "parquet named csv": ("a.csv", parquet),
    "array named jsonl": ("a.jsonl", lambda rows: json.dumps(rows).encode()),
    "indented array named jsonl": ("a.jsonl", lambda rows: json.dumps(rows, indent=1).encode()),
    "array by lines named jsonl": ("a.jsonl", lambda rows: b"[" + dump(rows).replace(b"}\n", b"},\n")[:-2] + b"]"),
    "gzip without gz": ("a.jsonl", lambda rows: gzip.compress(dump(rows))),
    "gz without gzip": ("a.jsonl.gz", dump),
    "zst without zst": ("a", lambda rows: pa.Codec("zstd").compress(dump(rows), asbytes=True)),
    "gzip of parquet": ("a.parquet.gz", lambda rows: gzip.compress(parquet(rows))),
    "byte order mark": ("a.csv", lambda rows: b"\xef\xbb\xbf" + pl.DataFrame(rows).write_csv().encode()),
    "line ends of windows": ("a.csv", lambda rows: pl.DataFrame(rows).write_csv(line_terminator="\r\n").encode()),
    "table of wandb": ("a.table.json", lambda rows: json.dumps(split(rows)).encode()),
    **{
        f"{mark!r} in {name}": (name, lambda rows, mark=mark: pl.DataFrame(rows).write_csv(separator=mark).encode())  # type: ignore[misc]
        for mark, name in ((";", "a.csv"), ("\t", "a.csv"), ("|", "a.csv"), (",", "a.tsv"))
    },
}


def split(rows: Rows) -> dict[str, Any]:
    return {"columns": list(rows[0]), "data": [list(row.values()) for row in rows]}


@pytest.mark.parametrize("case", SEEMING)
def test_the_content_tells_what_a_file_is(case: str, tmp_path: Path) -> None:
    rows = make.rollouts(4)
    name, write = SEEMING[case]
    path = tmp_path / name
    path.write_bytes(write(make.table(rows)))
    log, oracle = read(path), make.expected(rows)
    figures = key_figures(log)
    assert (log.format, figures["broken_lines"]) == ("table", 0)
    assert (figures["rollouts"], figures["groups"]) == (len(rows), oracle["groups"])
    assert {share: figures[share] for share in SHARES} == {share: oracle[share] for share in SHARES}
    assert figures["pass_at_k"] == pytest.approx(oracle["pass_at_k"], abs=1e-12)


def test_a_broken_first_line_does_not_make_lines_a_document(tmp_path: Path) -> None:
    for first in ('{"prompt": "a", "rew', "[1, 2", '["x"]'):
        path = tmp_path / "a.jsonl"
        path.write_bytes(first.encode() + b"\n" + dump([{"prompt": "a", "reward": i % 2} for i in range(4)]))
        figures = key_figures(read(path))
        assert (figures["rollouts"], figures["broken_lines"], figures["broken"][0]["line"]) == (4, 1, 1), first


def test_utf16_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(dump([{"prompt": "a", "reward": 1}]).decode().encode("utf-16"))
    with pytest.raises(DataError, match="UTF-16"):
        read(tmp_path / "a.jsonl")


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize(
    ("common", "late", "reward", "broken"),
    [
        ("1.0", "oops", None, 1),
        ("1.0", "True", 1.0, 0),
        ("true", "0.5", 0.5, 0),
        ("true", "no", 0.0, 0),
        ("true", "maybe", None, 1),
        ("1", "1e400", float("inf"), 0),
    ],
)
def test_a_late_value_of_another_type(
    kind: str, common: str, late: str, reward: float | None, broken: int, tmp_path: Path
) -> None:
    """The first rows decide how a column is parsed; what comes later is kept all the same."""
    values = [common] * 400 + [late]
    path = tmp_path / f"a.{kind}"
    if kind == "csv":
        path.write_text("prompt,correct\n" + "".join(f"p{i // 4},{v}\n" for i, v in enumerate(values)))
    else:
        bare = [v if v in ("1.0", "true", "1", "0.5", "1e400") else json.dumps(v) for v in values]
        path.write_text("".join(f'{{"prompt": "p{i // 4}", "correct": {v}}}\n' for i, v in enumerate(bare)))
    log = read(path)
    got = log.frame.select("outcome_reward").collect().to_series().to_list()
    assert got == [1.0] * 400 + [reward] and log.broken_lines == broken


def test_decimal_rewards_are_numbers(tmp_path: Path) -> None:
    rows = pl.DataFrame({"prompt": ["a", "a", "b", "b"], "reward": [1.0, 0.0, 1.0, 1.0]})
    rows.with_columns(pl.col("reward").cast(pl.Decimal(10, 2))).write_parquet(tmp_path / "a.parquet")
    figures = key_figures(read(tmp_path / "a.parquet"))
    assert (figures["mixed_share"], figures["mean_reward"]) == (0.5, 0.75)


@pytest.mark.parametrize("step", [False, True])
@pytest.mark.parametrize("text", [False, True])
def test_rows_without_a_prompt_are_in_no_group(text: bool, step: bool, tmp_path: Path) -> None:
    rows: Rows = [{"prompt": p, "reward": r} for p in (None, "a") for r in (1, 0, 1, 1)]
    path = make.lines(tmp_path / "a.jsonl", [{**row, "step": 3} for row in rows] if step else rows)
    log = read(path, text=text)
    figures = key_figures(log)
    assert (figures["groups"], figures["rollouts"], figures["rollouts_without_group"]) == (1, 8, 4)
    assert (figures["prompts"], len(collect(log).groups)) == (1, 1)


def test_programs_judged_test_by_test(tmp_path: Path) -> None:
    """APPS: true, false, −1 (run time) and −2 (compile time) per test; MultiPL-E: a file per problem."""
    apps = {"0": [[True, True], [True, False]], "1": [[-2], [False, -1]], "2": [[True], [True]]}
    (tmp_path / "apps.json").write_text(json.dumps(apps))
    figures = key_figures(read(tmp_path / "apps.json"))
    assert [figures[share] for share in SHARES] == [1 / 3] * 3 and figures["pass_at_k"]["1"] == 0.5
    for task, codes in (("a", (0, 0, 1)), ("b", (1, 1, 1))):
        results = [{"program": "x", "exit_code": code, "status": "Exception" if code else "OK"} for code in codes]
        document = {"name": f"HumanEval_{task}", "language": "lua", "stop_tokens": ["\n"], "results": results}
        (tmp_path / "lua").mkdir(exist_ok=True)
        (tmp_path / "lua" / f"{task}.results.json").write_text(json.dumps(document))
    figures = key_figures(read(tmp_path / "lua"))
    assert (figures["rollouts"], figures["groups"], figures["pass_at_k"]["1"]) == (6, 2, pytest.approx(1 / 3))


def test_plan_reads_what_inspect_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"q": f"p{i}", "r": {"ok": (i + j) % (2 + i % 3) == 0}} for i in range(30) for j in range(8)]
    path = make.lines(tmp_path / "a.jsonl", rows)
    names = ["--map", "prompt=q,outcome_reward=r.ok"]
    assert main(["inspect", str(path), "--json", *names]) == 0
    assert json.loads(capsys.readouterr().out)["groups"] == 30
    assert main(["plan", str(path), "--budget", "2000", *names]) == 0
    assert "of 30 prompts" in capsys.readouterr().out


def test_one_try_per_prompt_tells_no_distribution(tmp_path: Path) -> None:
    """Of one try each, all p at the mean and half at 0, half at 1 are equally likely: nothing but the mean is told."""
    rows = [{"messages": [{"role": "user", "content": f"q{i}"}, {"content": "a"}], "reward": i % 2} for i in range(40)]
    log = read(make.lines(tmp_path / "a.jsonl", rows))
    found = {finding.name: finding for finding in all_findings(log)}
    assert "single try" in found["solve_rates"].withheld and "single try" in found["expected_silence"].withheld
    assert "--map" in key_figures(log)["withheld"]["silent_share"] and key_figures(log)["mean_reward"] == 0.5


@pytest.mark.parametrize("column", [["50%", "100 %", "0%", "12.5%"], ["4/8", "8/8", "0/8", "1/8"]])
def test_rates_written_as_percentages_and_fractions(column: list[str], tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id;solve_rate\n" + "".join(f"{i};{rate}\n" for i, rate in enumerate(column)))
    figures = key_figures(read(path))
    assert (figures["mean_reward"], figures["mixed_share"], figures["broken_lines"]) == (0.40625, 0.5, 0)


def test_of_several_lists_of_verdicts_the_fullest_is_read(tmp_path: Path) -> None:
    """OpenR1-Math: a second judge was asked about few prompts only."""
    rows = [
        {"problem": f"q{i}", "correctness_math_verify": [True, i % 2 == 0], "correctness_llama": [True] if i else None}
        for i in range(2)
    ]
    figures = key_figures(read(make.lines(tmp_path / "a.jsonl", rows)))
    assert (figures["rollouts"], figures["groups"], figures["mixed_share"]) == (4, 2, 0.5)


def test_a_table_whose_compression_breaks_off_keeps_what_came_before(tmp_path: Path) -> None:
    table = "prompt,reward\n" + "".join(f"p{i // 4},{i * 7919 % 3 % 2}\n" for i in range(40_000))
    packed = gzip.compress(table.encode())
    (tmp_path / "a.csv.gz").write_bytes(packed[: len(packed) // 2])
    log = read(tmp_path / "a.csv.gz")
    assert 1000 < key_figures(log)["rollouts"] < 40_000 and log.broken_lines >= 1


@pytest.mark.parametrize("kind", ["parquet", "arrow file", "arrow stream"])
def test_what_is_sound_of_a_damaged_file_is_read(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two hundred bytes overwritten in the middle, of 16 parts: 14 or 15 are left; of a stream what came before."""
    rows = pl.DataFrame({"prompt": [f"p{i // 8}" for i in range(1600)], "completion": [f"c{i}" for i in range(1600)]})
    rows = rows.with_columns(reward=(pl.int_range(pl.len()) * 7919 % 3 % 2).cast(pl.Float64))
    path = tmp_path / ("a.parquet" if kind == "parquet" else "a.arrow")
    if kind == "parquet":
        rows.write_parquet(path, row_group_size=100)
    else:
        table = rows.to_arrow()
        new = pa.ipc.new_file if kind == "arrow file" else pa.ipc.new_stream
        with pa.OSFile(str(path), "wb") as sink, new(sink, table.schema) as writer:
            for batch in table.to_batches(max_chunksize=100):
                writer.write_batch(batch)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 200] = b"\xff" * 200
    path.write_bytes(bytes(data))
    assert main(["inspect", str(path), "--json", "--findings"]) == 0
    figures = json.loads(capsys.readouterr().out)
    kept = figures["rollouts"]
    assert kept % 100 == 0 and figures["broken_lines"] >= 1
    assert kept in ((1400, 1500) if kind != "arrow stream" else (700, 800)) and figures["groups"] >= kept // 8
    assert main(["plan", str(path), "--budget", "2000"]) == 0
    assert main(["inspect", str(path)]) == 0
    assert "broken place" in capsys.readouterr().out


@pytest.mark.parametrize("where", [0, 1, 777, 1500, 2999])
@pytest.mark.parametrize(
    "bad", ["{broken", '{"prompt": NaN}', "[1]", '{"other": 1}', '{"prompt": "x", "reward": "1"}', None]
)
def test_a_line_that_polars_refuses_costs_no_other(
    bad: str | None, where: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is read by polars' scan before it stops, every other line comes once, in order, blank lines or not."""
    monkeypatch.setattr(lines, "BLOCK_BYTES", 2000)  # the scan gives many small frames before it stops
    rows = [json.dumps({"prompt": f"p{i // 4}", "reward": 0.5 + i % 2, "step": i}) for i in range(3000)]
    text = [line for i, row in enumerate(rows) for line in ([row, " ", ""] if i % 500 == 3 else [row])]
    at = text.index(rows[where])
    if bad is not None:
        text.insert(at, bad)
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(text))
    log = read(path, columns={"completion_tokens": "step"})
    steps = log.frame.select("completion_tokens").collect().to_series().to_list()
    assert [step for step in steps if step is not None] == list(range(3000))
    fits = bad is None or "NaN" in bad or '"1"' in bad
    assert (len(steps), log.broken_lines) == (3000 + (bad is not None and fits), 0 if fits else 1)
    assert [place.line for place in log.broken] == ([] if fits else [at + 1])


@pytest.mark.parametrize("limit", [1, 40_000, 1 << 30])
def test_rows_keep_their_order_when_memory_is_short(
    limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several files, one with a broken line, from memory and from the store's own files."""
    monkeypatch.setattr(store, "MEMORY_BYTES", limit)
    monkeypatch.setattr(lines, "BLOCK_BYTES", 5000)
    for number in range(4):
        rows = [{"prompt": f"p{i // 4}", "reward": i % 2, "tokens": 1000 * number + i} for i in range(900)]
        text = [json.dumps(row) for row in rows] + (["{broken"] if number == 1 else [])
        (tmp_path / f"part_{number}.jsonl").write_text("\n".join(text))
    log = read(tmp_path)
    got = log.frame.select("completion_tokens").collect().to_series().to_list()
    assert got == [1000 * number + i for number in range(4) for i in range(900)] and log.broken_lines == 1


def test_the_time_of_many_files_grows_with_their_number_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """20,000 files took minutes: samples were compared pairwise. Oracle: no sample is compared with another."""

    def compare(this: Sample, other: object) -> bool:
        raise AssertionError("samples are compared")

    for step in range(30):
        rows = [{"step": step, "prompt": f"p{i // 4}", "reward": float(i % 3 == 0)} for i in range(8)]
        (tmp_path / f"{step}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setattr(Sample, "__eq__", compare)
    assert len(read(tmp_path).frame.collect()) == 240


def test_a_folder_that_is_read_shows_it_on_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "log").mkdir()
    rows = [{"prompt": f"p{i // 4}", "reward": float(i % 3 == 0)} for i in range(64)]
    (tmp_path / "log" / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = ["inspect", str(tmp_path / "log"), "--json"]
    assert main(words) == 0 and "reading" not in capsys.readouterr().err
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes a stream for a terminal
    assert main(words) == 0
    shown = capsys.readouterr()
    assert "reading" in shown.err and json.loads(shown.out)
