"""Datasets from files. Oracles: the rows as written; row counts; other libraries' schemas; the real files' answers."""

from __future__ import annotations

import builtins
import bz2
import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import polars
import pyarrow
import pytest

from onedial.core.errors import ConfigError, DataError, MissingExtra
from onedial.core.types import Prompt
from onedial.training.tasks import FiniteSource, assign_split, open_task, verify
from onedial.training.tasks.datasets import choose_verifier
from onedial.training.verify.pool import VerifierPool

SHARED = Path(__file__).parents[1].parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data files are not here")


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return str(path)


def sums(n: int) -> list[dict[str, Any]]:
    return [{"question": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(n)]


@pytest.fixture
def source(tmp_path: Path) -> FiniteSource:
    opened = open_task(write(tmp_path / "sums.jsonl", sums(50)))
    assert isinstance(opened, FiniteSource)
    return opened


def test_an_epoch_shows_every_prompt_once_and_epochs_differ(source: FiniteSource) -> None:
    n = source.size("train")
    assert n is not None and n + source.size("test") == 50  # type: ignore[operator]
    epochs = [[source.draw("train", 3, e * n + p).id for p in range(n)] for e in range(3)]
    assert all(sorted(epoch) == sorted(prompt.id for prompt in source.splits["train"]) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert source.draw("train", 3, 2 * n + 5).id == epochs[2][5]
    assert [source.draw("train", 4, p).id for p in range(n)] != epochs[0]


def test_reordering_the_file_changes_no_run(tmp_path: Path, source: FiniteSource) -> None:
    other = open_task(write(tmp_path / "sums2.jsonl", sums(50)[::-1]))
    assert isinstance(other, FiniteSource)
    for split in ("train", "test"):
        assert [p.id for p in other.splits[split]] == [p.id for p in source.splits[split]]


def test_one_file_is_split_by_content(source: FiniteSource) -> None:
    """Oracle: `assign_split` on each prompt; one question with two answers stays on one side."""
    for split in ("train", "test"):
        assert {assign_split(prompt) for prompt in source.splits[split]} == {split}
    assert {assign_split(Prompt("same", answer=a)) for a in range(20)} == {assign_split(Prompt("same"))}
    assert any("held out by content" in note for note in source.notes)


@pytest.mark.parametrize(("train_seed", "test_seed"), [(0, 0), (0, 1), (5, 2)])
def test_splits_share_no_content_at_any_seed_pair(source: FiniteSource, train_seed: int, test_seed: int) -> None:
    train = {source.draw("train", train_seed, position).plain for position in range(200)}
    test = {prompt.plain for prompt in source.heldout(100, test_seed)}
    assert train and test and not train & test


def test_train_prompts_that_are_also_in_the_test_file_are_left_out_and_counted(tmp_path: Path) -> None:
    train, test = write(tmp_path / "train.jsonl", sums(20)), write(tmp_path / "test.jsonl", sums(30)[15:])
    source = open_task("jsonl", path=train, test_path=test)
    assert (source.size("train"), source.size("test")) == (15, 15)
    assert "5 train prompts left out: they are in the test split as well" in source.notes


def test_a_test_file_alone_serves_evaluation(tmp_path: Path) -> None:
    source = open_task("jsonl", test_path=write(tmp_path / "test.jsonl", sums(9) + sums(3)))
    assert len(source.heldout(100)) == 9  # distinct
    with pytest.raises(DataError, match="has no train prompts"):
        source.draw("train", 0, 0)


SUFFIXES = [
    "jsonl", "jsonl.gz", "json", "csv", "parquet", "ndjson", "jsonl.zst", "jsonl.bz2", "csv.gz", "tsv", "arrow",
    "feather",
]  # fmt: skip


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_reads_the_same(tmp_path: Path, suffix: str, source: FiniteSource) -> None:
    path, rows = tmp_path / f"sums.{suffix}", sums(50)
    text = "\n".join(map(json.dumps, rows))
    makers = {
        "jsonl": lambda: path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n\r\n").encode()),
        "jsonl.gz": lambda: path.write_bytes(gzip.compress(text.encode())),
        "json": lambda: path.write_text(json.dumps(rows)),
        "csv": lambda: polars.DataFrame(rows).write_csv(path),
        "parquet": lambda: polars.DataFrame(rows).write_parquet(path),
        "ndjson": lambda: path.write_text(text),
        "jsonl.zst": lambda: path.write_bytes(pyarrow.Codec("zstd").compress(text.encode(), asbytes=True)),
        "jsonl.bz2": lambda: path.write_bytes(bz2.compress(text.encode())),
        "csv.gz": lambda: path.write_bytes(gzip.compress(polars.DataFrame(rows).write_csv().encode())),
        "tsv": lambda: polars.DataFrame(rows).write_csv(path, separator="\t"),
        "arrow": lambda: polars.DataFrame(rows).write_ipc_stream(path),
        "feather": lambda: polars.DataFrame(rows).write_ipc(path),
    }
    makers[suffix]()
    other = open_task(str(path))
    assert isinstance(other, FiniteSource)
    assert [p.plain for p in other.splits["train"]] and Counter(p.plain for p in other.splits["train"]) == Counter(
        p.plain for p in source.splits["train"]
    )
    assert verify(other, other.splits["train"][0], str(other.splits["train"][0].answer)).outcome == "correct"


def test_trl_schemas_are_read_as_they_are(tmp_path: Path) -> None:
    """A string `prompt` stays plain text; messages stay messages; every other column reaches the reward function."""
    plain = open_task(write(tmp_path / "a.jsonl", [{"prompt": f"p{i} ", "solution": "s", "n": i} for i in range(9)]))
    prompt = plain.draw("train", 0, 0)
    assert prompt.text.startswith("p") and prompt.text.endswith(" ") and not prompt.messages
    assert set(prompt.meta["columns"]) == {"solution", "n"} and prompt.answer == "s"
    messages = [[{"role": "system", "content": "be brief"}, {"role": "user", "content": f"q{i}"}] for i in range(9)]

    def reward(prompts, completions, n, **kwargs):  # type: ignore[no-untyped-def]
        return [float(prompts[0][1]["content"] == f"q{n[0]}")]

    chat = open_task(
        write(tmp_path / "b.jsonl", [{"prompt": m, "n": i} for i, m in enumerate(messages)]), reward=reward
    )
    prompt = chat.draw("train", 0, 0)
    assert [m["role"] for m in prompt.messages] == ["system", "user"] and prompt.text == ""
    assert verify(chat, prompt, "x").reward == 1.0


def test_verl_schema_is_read_as_it_is(tmp_path: Path) -> None:
    rows = [
        {
            "data_source": "openai/gsm8k",
            "prompt": [{"role": "user", "content": f"q{i}"}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": str(i)},
            "extra_info": {"split": "train", "index": i},
        }
        for i in range(9)
    ]
    path = tmp_path / "verl.parquet"
    polars.DataFrame(rows).write_parquet(path)
    seen: list[Any] = []

    def compute_score(data_source, solution_str, ground_truth, extra_info=None):  # type: ignore[no-untyped-def]
        seen.append((data_source, ground_truth, extra_info))
        return float(solution_str == ground_truth)

    source = open_task(str(path), reward=compute_score)
    prompt = source.draw("train", 0, 0)
    assert prompt.source == "openai/gsm8k" and prompt.messages[0]["content"] == f"q{prompt.answer}"
    assert verify(source, prompt, prompt.answer).reward == 1.0
    index = int(prompt.answer)
    assert seen == [("openai/gsm8k", prompt.answer, {"split": "train", "index": index})]
    assert verify(open_task(str(path)), prompt, f"it is {prompt.answer}").outcome == "correct"


def test_columns_by_name_and_joined(tmp_path: Path) -> None:
    rows = [
        {"Body": f"Tom has {i}.", "Question": "How many?", "Answer": float(i), "difficulty": i % 2} for i in range(9)
    ]
    path = write(tmp_path / "svamp.jsonl", rows)
    source = open_task("jsonl", path=path, prompt_column="Body,Question", wording="{question} Number only.")
    prompt = source.draw("train", 0, 0)
    assert prompt.plain == f"Tom has {int(prompt.answer)}. How many? Number only."
    assert prompt.meta["level"] == str(int(prompt.answer) % 2)
    assert prompt.messages[0]["role"] == "user"
    assert open_task("jsonl", path=path, prompt_column="Body", chat=False).draw("train", 0, 0).text.startswith("Tom")


def test_another_wording_moves_no_prompt_to_the_other_split(tmp_path: Path) -> None:
    path = write(tmp_path / "sums.jsonl", sums(50))
    splits = []
    for wording in ("{question}", "{question} Be brief."):
        source = open_task(path, wording=wording)
        assert isinstance(source, FiniteSource)
        splits.append({prompt.meta["split_key"] for prompt in source.splits["test"]})
    assert splits[0] == splits[1] and splits[0]


def test_the_judge_fits_the_answers() -> None:
    assert choose_verifier(["1", 2, "3.5", "1,000", "1/2"]) == "number"
    assert choose_verifier(["1", r"\frac{1}{2}"]) == "math"
    assert choose_verifier(["yes", "no"]) == "exact"


def test_answers_after_hashes_are_found_in_any_table(tmp_path: Path) -> None:
    path = write(tmp_path / "h.jsonl", [{"question": f"q{i}", "answer": f"work\n#### {i},000"} for i in range(1, 9)])
    prompt = open_task(path).draw("train", 0, 0)
    assert prompt.answer.endswith(",000") and len(prompt.answer) == 5


BAD_FILES: dict[str, tuple[str, str]] = {
    "broken.jsonl": ('{"prompt": "a", "answer": 1}\n{"prompt": "b", \n', r"broken.jsonl:2: not valid JSON .*\"b\""),
    "list.jsonl": ("[1, 2]\n[3]\n", "list.jsonl:1: must be a JSON object with columns, got list"),
    "empty.jsonl": ("\n\n", "empty.jsonl: holds no rows"),
    "noprompt.jsonl": ('{"foo": "a", "answer": 1}\n', "no column of prompts; the columns are: foo, answer; name one"),
    "gap.jsonl": ('{"prompt": "a", "answer": 1}\n{"answer": 1}\n', "gap.jsonl, row 2: no column 'prompt'"),
    "blank.jsonl": ('{"prompt": "a", "answer": 1}\n\n{"prompt": " ", "answer": 1}\n', "blank.jsonl, row 3: the prompt"),
    "null.jsonl": ('{"prompt": null, "answer": 1}\n', "null.jsonl, row 1: the prompt .* is empty"),
    "nomessages.jsonl": ('{"prompt": [], "answer": 1}\n', "nomessages.jsonl, row 1: the prompt is empty"),
    "role.jsonl": ('{"prompt": [{"content": "a"}], "answer": 1}\n', "row 1: the prompt must be a string or a list of"),
    "parts.jsonl": ('{"prompt": [{"role": "user", "content": [1]}]}\n', "row 1: a message's content must be text"),
    "noanswer.jsonl": ('{"prompt": "a"}\n{"prompt": "b"}\n', "no prompt has an answer; name the column"),
    "object.json": ('{"prompt": "a"}', "must hold a list of objects"),
    "broken.json": ('[{"prompt": "a"},', "broken.json:1: not valid JSON"),
    "not.parquet": ("this is no parquet file at all", "not.parquet: cannot be read"),
    "deep.jsonl": ("[" * 100_000 + "\n", "deep.jsonl:1: not valid JSON"),
    "bytes.jsonl": ('{"prompt": "\udcff"}\n', "bytes.jsonl:1: not valid JSON"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_named_with_the_place(tmp_path: Path, name: str) -> None:
    content, message = BAD_FILES[name]
    path = tmp_path / name
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=message):
        open_task(str(path))


def test_missing_files_and_columns_show_what_is_near(tmp_path: Path) -> None:
    path = write(tmp_path / "sums.jsonl", sums(9))
    cases: dict[str, Any] = {
        "sum.jsonl: no such file; did you mean 'sums.jsonl'": lambda: open_task(str(tmp_path / "sum.jsonl")),
        "is a folder": lambda: open_task("jsonl", path=str(tmp_path)),
        "no column 'questions'; did you mean 'question'.; the columns are: question, answer": lambda: open_task(
            path, prompt_column="questions"
        ),
        "no column 'anwser'; did you mean 'answer'": lambda: open_task(path, answer_column="anwser"),
        "no column 'level'": lambda: open_task(path, level_column="level"),
        "are both": lambda: open_task(path, test_path=path),
        "verifier 'maths' is unknown; did you mean 'math'": lambda: open_task(path, verifier="maths"),
        "must contain {question}": lambda: open_task(path, wording="Solve!"),
        "no column 'problem'": lambda: open_task("math", path=write(tmp_path / "m.jsonl", [{"q": 1}])),
        "no column 'answer' or 'solution'": lambda: open_task(
            "math", path=write(tmp_path / "n.jsonl", [{"problem": "a"}])
        ),
        "does not end in '#### number'": lambda: open_task(
            "gsm8k", path=write(tmp_path / "g.jsonl", [{"question": "a", "answer": "many"}])
        ),
        "countdown needs a list 'nums'": lambda: open_task(
            "countdown", path=write(tmp_path / "c.jsonl", [{"nums": 3}])
        ),
    }
    for message, open_it in cases.items():
        with pytest.raises((ConfigError, DataError), match=message):
            open_it()
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match="unknown kind of file; the name must end in .jsonl"):
        open_task("jsonl", path=str(tmp_path / "notes.txt"))


def test_rows_without_an_answer_are_left_out_and_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "some.jsonl", [*sums(20), {"question": "unanswered", "answer": " "}])
    source = open_task(path)
    assert source.size("train") + source.size("test") == 20  # type: ignore[operator]
    assert any(note.startswith("1 prompts without an answer left out (") and "row 21" in note for note in source.notes)
    judged = open_task(path, reward=lambda prompt, completion: 1.0)
    assert judged.size("train") + judged.size("test") == 21  # type: ignore[operator]


def test_hub_without_datasets_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    own_import = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "datasets":
            raise ImportError(name)
        return own_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match=r"openai/gsm8k.*pip install 'onedial\[hub\]'"):
        open_task("gsm8k")


def test_hub_data_sets_use_their_own_test_split(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the calls that a stand-in for the hub's library receives."""
    import onedial.training.tasks.data_files as files

    asked: list[tuple[str, str, str | None]] = []

    def hub(name: str, split: str, config: str | None = None) -> Any:
        asked.append((name, split, config))
        yield from enumerate(({"question": f"{split} {i}", "answer": f"#### {i}"} for i in range(3)), 1)

    monkeypatch.setattr(files, "read_hub_rows", hub)
    source = open_task("gsm8k")
    assert asked == [("openai/gsm8k", "train", "main"), ("openai/gsm8k", "test", "main")]
    assert (source.size("train"), source.size("test")) == (3, 3)


# The real files


def outcomes(source: FiniteSource, completion: Any, split: str = "test") -> Counter[str]:
    with VerifierPool(source.verifier, workers=2, timeout_s=20) as pool:
        for index, prompt in enumerate(source.splits[split]):
            pool.submit(index, prompt, completion(prompt))
        return Counter(verdict.outcome for _, verdict in pool.drain(60))


@needs_shared
def test_every_gsm8k_solution_verifies_against_itself() -> None:
    source = open_task("gsm8k", path=str(SHARED / "gsm8k_train.jsonl"), test_path=str(SHARED / "gsm8k_test.jsonl"))
    assert isinstance(source, FiniteSource)
    assert (source.size("train"), source.size("test")) == (7473, 1319)
    assert outcomes(source, lambda p: p.meta["columns"]["answer"]) == {"correct": 1319}
    assert outcomes(source, lambda p: f"#### {int(p.answer.replace(',', '')) + 1}") == {"wrong": 1319}


@needs_shared
def test_every_math500_answer_verifies_against_itself_through_math_verify() -> None:
    source = open_task("math", test_path=str(SHARED / "math500_test.jsonl"))
    assert isinstance(source, FiniteSource)
    # in dollars, not in a box: no literal comparison, so that every answer passes through math-verify
    assert outcomes(source, lambda p: f"The answer is ${p.answer}$.") == {"correct": 500}
    assert outcomes(source, lambda p: p.meta["columns"]["solution"]) == {"correct": 500}


@needs_shared
def test_every_countdown_reference_verifies() -> None:
    source = open_task("countdown", path=str(SHARED / "countdown_test.parquet"))
    assert isinstance(source, FiniteSource)
    references = {
        (tuple(sorted(row["nums"])), row["target"]): row["answer"]
        for row in polars.read_parquet(SHARED / "countdown_test.parquet").iter_rows(named=True)
    }
    for split in ("train", "test"):
        found = outcomes(source, lambda p: references[tuple(sorted(p.answer["numbers"])), p.answer["target"]], split)
        assert found == {"correct": source.size(split)}
