"""Plain text out of chat messages, for the readers that go row by row."""

from __future__ import annotations

import json
from typing import Any


def plain(value: Any) -> str | None:
    """A prompt or completion as text: a string as it is, messages as their contents, one per line."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, dict):
        return content_of(value)
    if isinstance(value, list):
        return "\n".join(content_of(item) if isinstance(item, dict) else str(item) for item in value)
    return str(value)


def content_of(message: dict[str, Any]) -> str:
    """The text of one message; parts of a multi-part content joined, a call of a tool as JSON."""
    content = message.get("content", message.get("value"))
    if isinstance(content, list):
        content = "\n".join(
            str(part.get("text", "")) if isinstance(part, dict) else str(part) for part in content if part is not None
        )
    if content in (None, "") and message.get("tool_calls"):
        return json.dumps(message["tool_calls"])
    return "" if content is None else str(content)


def written(completion: Any) -> str | None:
    """What the policy wrote: of messages, those of the assistant."""
    if isinstance(completion, list) and any(
        isinstance(item, dict) and item.get("role") == "assistant" for item in completion
    ):
        return plain([item for item in completion if isinstance(item, dict) and item.get("role") == "assistant"])
    return plain(completion)


def key(value: Any) -> str:
    """A text to compare prompts by: equal for equal content, whatever the order of keys."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
