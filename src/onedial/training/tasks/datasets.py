"""Datasets of prompts and answers: any table, TRL's and verl's schemas, GSM8K, MATH."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onedial.core.errors import ConfigError, DataError, suggest
from onedial.core.types import Message, Prompt
from onedial.training.tasks.data_files import (
    find_column,
    is_data_file,
    load_rows,
    make_finite,
    read_rows,
    require_column,
    split_files,
)
from onedial.training.tasks.task import HELD_OUT, FiniteSource
from onedial.training.verify.answer import after_hashes, boxed, parse_number
from onedial.training.verify.math_equal import Math
from onedial.training.verify.verdict import Verifier
from onedial.training.verify.verifiers import Exact, Number

PROMPT_COLUMNS = ("prompt", "question", "problem", "query", "instruction", "input", "messages", "prompt_text", "text")
ANSWER_COLUMNS = (
    "answer", "ground_truth", "final_answer", "expected_answer", "solution", "target", "label", "output", "completion"
)  # fmt: skip
LEVEL_COLUMNS = ("level", "difficulty")
VERIFIERS: dict[str, Callable[[], Verifier]] = {
    "exact": Exact,
    "number": lambda: Number("last"),
    "strict_number": lambda: Number("bare"),
    "math": Math,
}
GSM8K_HUB, MATH_HUB = "openai/gsm8k", "DigitalLearningGmbH/MATH-lighteval"
GSM8K_WORDING = "{question}\nReason step by step, then write the final number after ####."
MATH_WORDING = "{question}\nReason step by step, and put the final answer within \\boxed{}."
Row = Mapping[str, Any]


def jsonl(
    *,
    path: str | None = None,
    test_path: str | None = None,
    prompt_column: str | None = None,
    answer_column: str | None = None,
    level_column: str | None = None,
    verifier: str = "auto",
    chat: bool | None = None,
    wording: str = "{question}",
    held_out: float = HELD_OUT,
) -> FiniteSource:
    """Any jsonl, json, parquet or csv file with a column of prompts and, unless a reward function judges, of answers.

    TRL's datasets (`prompt` a string or a message list, any other columns) and verl's (`prompt` a message list,
    `reward_model.ground_truth`, `data_source`, `extra_info`) are read as they are. prompt_column: its name, or several
    joined by commas; otherwise the first of `PROMPT_COLUMNS`. chat: whether a string becomes a user message; by
    default yes, unless its column is called `prompt`, which TRL gives to the model as plain text. verifier: one of
    `VERIFIERS`, or auto: number when every answer is one, math when answers look like LaTeX, else exact.
    """
    if verifier != "auto" and verifier not in VERIFIERS:
        hint = suggest(verifier, [*VERIFIERS, "auto"])
        raise ConfigError(f"verifier {verifier!r} is unknown{hint}; allowed: auto, {', '.join(VERIFIERS)}")
    if "{question}" not in wording:
        raise ConfigError(f"wording={wording!r}: must contain {{question}}")
    prompts = {}
    for split, file in split_files(path, test_path).items():
        rows = list(read_rows(file))
        names = _Columns.find(rows[0][1], file, prompt_column, answer_column, level_column, chat)
        prompts[split] = [names.prompt(row, f"{file}, row {number}", wording) for number, row in rows]
    answers = [prompt.answer for part in prompts.values() for prompt in part]
    chosen = verifier if verifier != "auto" else choose_verifier(answers)
    name = f"jsonl/{Path(path or test_path or '').name.split('.')[0]}"
    source = make_finite(name, VERIFIERS[chosen](), prompts, held_out=held_out)
    note = f"answers judged as {chosen}" + (" (chosen from the answers)" if verifier == "auto" else "")
    return replace(source, notes=(*source.notes, note))


@dataclass(frozen=True)
class _Columns:
    """Which columns of a file mean what, and whether a string becomes a chat message."""

    prompt_names: tuple[str, ...]
    answer_name: str | None
    level_name: str | None
    chat: bool

    @classmethod
    def find(
        cls, row: Row, file: str, prompt: str | None, answer: str | None, level: str | None, chat: bool | None
    ) -> _Columns:
        """Columns asked for by name, or the usual ones; DataError showing what exists."""
        if prompt is not None:
            prompts = tuple(require_column(row, name.strip(), file) for name in prompt.split(","))
        else:
            found = find_column(row, PROMPT_COLUMNS)
            if found is None:
                raise DataError(
                    f"{file}: no column of prompts; the columns are: {', '.join(row)}; name one with prompt_column="
                )
            prompts = (found,)
        answer = require_column(row, answer, file) if answer is not None else find_column(row, ANSWER_COLUMNS)
        level = require_column(row, level, file) if level is not None else find_column(row, LEVEL_COLUMNS)
        return cls(prompts, answer, level, prompts != ("prompt",) if chat is None else chat)

    def prompt(self, row: Row, place: str, wording: str) -> Prompt:
        """The prompt of one row. Raises DataError naming the row when a column is missing or the prompt is empty."""
        values = [row[require_column(row, name, place)] for name in self.prompt_names]
        text, question = "", ""
        messages: tuple[Message, ...] = ()
        if len(values) == 1 and not isinstance(values[0], str) and values[0] is not None:
            messages = read_messages(values[0], place)
        else:
            question = " ".join(str(value).strip() for value in values if value is not None)
            if not question:
                raise DataError(f"{place}: the prompt ({', '.join(self.prompt_names)}) is empty; remove the row")
            text = wording.replace("{question}", values[0] if len(values) == 1 else question)
        if text and self.chat:
            text, messages = "", ({"role": "user", "content": text},)
        level = row.get(self.level_name) if self.level_name else None
        source = str(row.get("data_source") or "")
        columns = _other_columns(row, self.prompt_names)
        meta = {"level": "all" if level is None else str(level), "columns": columns, "place": place}
        if question:  # not its wording: another wording must not move a prompt to the other split
            meta["split_key"] = question
        return Prompt(text, messages, self._answer(row), source or "jsonl", meta)

    def _answer(self, row: Row) -> Any:
        judged = row.get("reward_model")
        if isinstance(judged, Mapping) and "ground_truth" in judged:  # verl's schema
            return judged["ground_truth"]
        answer = row.get(self.answer_name) if self.answer_name else None
        return after_hashes(answer) or answer if isinstance(answer, str) else answer


def _other_columns(row: Row, prompt_names: Iterable[str]) -> dict[str, Any]:
    """What TRL hands to a reward function: every column but prompt and completion."""
    return {key: value for key, value in row.items() if key not in {"prompt", "completion", *prompt_names}}


def read_messages(value: Any, place: str) -> tuple[Message, ...]:
    """Chat messages as they stand in a row. Raises DataError unless they are a list of {"role", "content"}."""
    if not isinstance(value, list) or not all(isinstance(m, Mapping) and "role" in m and "content" in m for m in value):
        raise DataError(f"{place}: the prompt must be a string or a list of {{'role', 'content'}}, got {value!r:.80}")
    if any(not isinstance(m["content"], str) for m in value):
        raise DataError(f"{place}: a message's content must be text, got {value!r:.80}")
    if not any(m["content"].strip() for m in value):
        raise DataError(f"{place}: the prompt is empty; remove the row")
    return tuple({"role": str(m["role"]), "content": m["content"]} for m in value)


def choose_verifier(answers: Iterable[Any]) -> str:
    """The verifier that fits the answers: number, math or exact."""
    texts = [str(answer) for answer in answers if answer is not None]
    if texts and all(parse_number(text) is not None for text in texts):
        return "number"
    return "math" if any("\\" in text or "$" in text or "^" in text for text in texts) else "exact"


def gsm8k(
    *,
    path: str | None = None,
    test_path: str | None = None,
    wording: str = GSM8K_WORDING,
    held_out: float = HELD_OUT,
) -> FiniteSource:
    """Grade-school word problems (Cobbe et al., arXiv:2110.14168): `question`, and an `answer` ending `#### number`.

    path: local file or hub name, by default `GSM8K_HUB`. A hub dataset brings its own test split; for a local file,
    test_path or content decides. test_path alone serves evaluation.
    """
    path = GSM8K_HUB if path is None and test_path is None else path
    source = _read_dataset("gsm8k", path, test_path, wording, held_out, _gsm8k_prompt, Number("last"), "main")
    return replace(source, demonstrate=_gsm8k_solution)


def _gsm8k_solution(prompt: Prompt) -> str:
    """The dataset's own solution, without its calculator's annotations."""
    return re.sub(r"<<[^>]*>>", "", str(prompt.meta["columns"]["answer"]))


def _gsm8k_prompt(row: Row, place: str, wording: str) -> Prompt:
    question = str(row[require_column(row, "question", place)]).strip()
    solution = str(row[require_column(row, "answer", place)])
    answer = after_hashes(solution) or solution.strip()
    if parse_number(answer) is None:
        raise DataError(f"{place}: the answer {solution[-60:]!r} does not end in '#### number'")
    steps = solution.count("<<")
    return _make_prompt(question, answer, f"{steps} steps" if steps else "all", wording, "gsm8k", row, place)


def math(
    *,
    path: str | None = None,
    test_path: str | None = None,
    wording: str = MATH_WORDING,
    held_out: float = HELD_OUT,
) -> FiniteSource:
    """Competition mathematics (Hendrycks et al., arXiv:2103.03874): `problem`, and `answer` or a boxed `solution`.

    path and test_path as for `gsm8k`; the hub's default is `MATH_HUB`.
    """
    path = MATH_HUB if path is None and test_path is None else path
    return _read_dataset("math", path, test_path, wording, held_out, _math_prompt, Math(), None)


def _math_prompt(row: Row, place: str, wording: str) -> Prompt:
    name = find_column(row, ("problem", "question"))
    if name is None:
        raise DataError(f"{place}: no column 'problem'; the columns are: {', '.join(row)}")
    answer = row.get("answer") if row.get("answer") is not None else boxed(str(row.get("solution", "")))
    if answer is None and not {"answer", "solution"} & set(row):
        raise DataError(f"{place}: no column 'answer' or 'solution'; the columns are: {', '.join(row)}")
    level = row.get("level", row.get("difficulty"))
    return _make_prompt(str(row[name]).strip(), answer, str(level or "all"), wording, "math", row, place)


def _make_prompt(question: str, answer: Any, level: str, wording: str, source: str, row: Row, place: str) -> Prompt:
    if not question:
        raise DataError(f"{place}: the question is empty; remove the row")
    content = wording.replace("{question}", question)
    meta = {"level": level, "split_key": question, "columns": _other_columns(row, ()), "place": place}
    return Prompt(messages=({"role": "user", "content": content},), answer=answer, source=source, meta=meta)


def _read_dataset(
    name: str,
    path: str | None,
    test_path: str | None,
    wording: str,
    held_out: float,
    of_row: Callable[[Row, str, str], Prompt],
    verifier: Verifier,
    config: str | None,
) -> FiniteSource:
    if "{question}" not in wording:
        raise ConfigError(f"{name} wording={wording!r}: must contain {{question}}")
    files = split_files(path, test_path)
    if path is not None and test_path is None and not is_data_file(path):
        files["test"] = path  # the hub's dataset brings a test split of its own
    prompts = {
        split: [of_row(row, f"{file}, row {number}", wording) for number, row in load_rows(file, split, config)]
        for split, file in files.items()
    }
    return make_finite(name, verifier, prompts, held_out=held_out)
