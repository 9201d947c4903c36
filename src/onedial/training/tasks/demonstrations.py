"""Demonstrations and preferences from a file, in the formats that TRL reads.

    demonstrations   {"prompt", "completion"} · {"messages"} · {"text"}
    preferences      {"prompt", "chosen", "rejected"} · {"chosen", "rejected"} as message lists that share a beginning

Prompts and completions are strings, or lists of messages. Strings go to the model as plain text and message lists
through its chat template, as in TRL. `messages` gives one demonstration per assistant turn, all before it the prompt.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onedial.core.errors import DataError
from onedial.core.types import Message, Prompt
from onedial.training.tasks.data_files import read_rows
from onedial.training.tasks.datasets import read_messages

Row = Mapping[str, Any]
SHOWN = 3  # places named in a message; the others are counted


@dataclass(frozen=True)
class Written:
    """A prompt and its completions: one, or a chosen and a rejected one. The prompt may be empty."""

    prompt: Prompt
    completions: tuple[str | Message, ...]

    @property
    def place(self) -> str:
        """File and row."""
        return str(self.prompt.meta.get("place", ""))

    @property
    def texts(self) -> list[str]:
        """The texts of the completions."""
        return [c if isinstance(c, str) else str(c["content"]) for c in self.completions]


def read_demonstrations(file: str) -> list[Written]:
    """Reads the demonstrations of a file.

    Raises DataError naming the record for a missing column or an empty completion.
    """
    return _read(
        file, {("prompt", "completion"): _read_pair_of_texts, ("messages",): _read_conversation, ("text",): _read_text}
    )


def read_preferences(file: str) -> list[Written]:
    """Reads the pairs of a file, chosen first. Raises DataError as `read_demonstrations` does."""
    return _read(file, {("chosen", "rejected"): _read_preference})


def hash_parts(parts: Iterable[object]) -> str:
    """Returns 16 hex digits of a SHA-256 hash of the parts."""
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(json.dumps(part, sort_keys=True, default=str).encode())
    return hashed.hexdigest()[:16]


def refuse_examples(problem: str, places: Sequence[str], total: int, remedy: str) -> DataError:
    """Returns one error for all records with the same problem: how many they are, and the places of the first."""
    named = ", ".join(places[:SHOWN]) + (f" and {len(places) - SHOWN} more" if len(places) > SHOWN else "")
    return DataError(f"{len(places)} of {total} examples {problem} ({named}); {remedy}")


def _read(file: str, formats: Mapping[tuple[str, ...], Callable[[Row, str], list[Written]]]) -> list[Written]:
    found: list[Written] = []
    for number, row in read_rows(file):
        place = f"{file}, row {number}"
        names = next((names for names in formats if all(row.get(name) is not None for name in names)), None)
        if names is None:
            wanted = " or ".join(" + ".join(repr(name) for name in names) for names in formats)
            raise DataError(f"{place}: must have {wanted}; its columns with a value are: {_list_filled(row)}")
        found += formats[names](row, place)
    empty = [example.place for example in found if not all(text.strip() for text in example.texts)]
    if empty:
        raise refuse_examples("have an empty completion", empty, len(found), "remove them or write the completion")
    if not found:
        raise DataError(f"{file}: no assistant turn in any of its conversations: nothing to learn from")
    return found


def _list_filled(row: Row) -> str:
    return ", ".join(name for name, value in row.items() if value is not None) or "none"


def _read_pair_of_texts(row: Row, place: str) -> list[Written]:
    prompt = _read_prompt(row["prompt"], place)
    return [Written(prompt, (_read_completion(row["completion"], "completion", place),))]


def _read_conversation(row: Row, place: str) -> list[Written]:
    messages = read_messages(row["messages"], place)
    turns = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
    return [Written(_make_prompt(messages[:turn], place), (messages[turn],)) for turn in turns]


def _read_text(row: Row, place: str) -> list[Written]:
    if not isinstance(row["text"], str):
        raise DataError(f"{place}: 'text' must be a string, got {row['text']!r:.80}")
    return [Written(_make_prompt((), place), (row["text"],))]


def _read_preference(row: Row, place: str) -> list[Written]:
    chosen, rejected, prompt = row["chosen"], row["rejected"], row.get("prompt")
    lists = not isinstance(chosen, str) and not isinstance(rejected, str)
    if lists and (prompt is None or isinstance(prompt, str)):
        # the prompt stands at the beginning of both conversations; a prompt beside them repeats it
        first, second = read_messages(chosen, place), read_messages(rejected, place)
        shared = next((n for n, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), None)
        if not shared:
            why = "begin differently" if shared == 0 else "are the same"
            raise DataError(f"{place}: 'chosen' and 'rejected' {why}; they must share the prompt and differ after it")
        turns = (
            _read_assistant_message(first[shared:], "chosen", place),
            _read_assistant_message(second[shared:], "rejected", place),
        )
        return [Written(_make_prompt(first[:shared], place), turns)]
    if prompt is None:
        raise DataError(f"{place}: no column 'prompt'; it can be left out only where chosen and rejected are messages")
    sides = [_read_completion(chosen, "chosen", place), _read_completion(rejected, "rejected", place)]
    if sides[0] == sides[1]:
        raise DataError(f"{place}: 'chosen' and 'rejected' are the same; a pair must differ")
    return [Written(_read_prompt(prompt, place), tuple(sides))]


def _read_prompt(value: Any, place: str) -> Prompt:
    if not isinstance(value, str):
        return _make_prompt(read_messages(value, place), place)
    if not value.strip():
        raise DataError(f"{place}: the prompt is empty; give it text, or use the column 'text' without a prompt")
    return Prompt(text=value, source="data", meta={"place": place})


def _make_prompt(messages: tuple[Message, ...], place: str) -> Prompt:
    return Prompt(messages=messages, source="data", meta={"place": place})


def _read_completion(value: Any, name: str, place: str) -> str | Message:
    return value if isinstance(value, str) else _read_assistant_message(value, name, place)


def _read_assistant_message(value: Any, name: str, place: str) -> Message:
    """Returns the assistant message of a completion."""
    right = isinstance(value, Sequence) and len(value) == 1 and isinstance(value[0], Mapping)
    if not right or value[0].get("role") != "assistant" or not isinstance(value[0].get("content"), str):
        raise DataError(f"{place}: {name!r} must be text, or one message of the assistant; got {value!r:.80}")
    return {"role": "assistant", "content": value[0]["content"]}
