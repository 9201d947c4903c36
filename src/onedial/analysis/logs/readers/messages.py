"""Plain text of chat messages, for the readers that read record by record."""

from __future__ import annotations

import json
from typing import Any


def flatten_text(value: Any) -> str | None:
    """Returns a prompt or completion as text: a string as it is, messages as their contents, one per line."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, dict):
        return get_message_text(value)
    if isinstance(value, list):
        return "\n".join(get_message_text(item) if isinstance(item, dict) else str(item) for item in value)
    return str(value)


def get_message_text(message: dict[str, Any]) -> str:
    """Returns the text of one message: parts of a multi-part content joined, a call of a tool as JSON."""
    content = message.get("content", message.get("value"))
    if isinstance(content, list):
        content = "\n".join(
            str(part.get("text", "")) if isinstance(part, dict) else str(part) for part in content if part is not None
        )
    if content in (None, "") and message.get("tool_calls"):
        return json.dumps(message["tool_calls"])
    return "" if content is None else str(content)


def get_assistant_text(completion: Any) -> str | None:
    """Returns the text that the policy wrote: of messages, those of the assistant."""
    if isinstance(completion, list) and any(
        isinstance(item, dict) and item.get("role") == "assistant" for item in completion
    ):
        return flatten_text([item for item in completion if isinstance(item, dict) and item.get("role") == "assistant"])
    return flatten_text(completion)


def hash_content(value: Any) -> str:
    """Returns a text to compare prompts by: equal for equal content in any order of keys."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
