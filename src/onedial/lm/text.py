"""Text to tokens and back, with the model's own chat template."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from onedial.errors import DataError
from onedial.types import Prompt


class Text:
    """A tokenizer as training uses it: prompts are encoded once, completions decoded without special tokens."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """Tokens that the policy reads.

        Messages go through the chat template, ready for the assistant's turn; plain text is taken as it is.
        Raises DataError for an empty prompt, or for messages where the model has no chat template.
        """
        if not prompt.plain.strip():
            raise DataError(f"prompt {prompt.id} ({prompt.source or 'no source'}) is empty; remove it from the data")
        if prompt.messages:
            if self.tokenizer.chat_template is None:
                raise DataError(
                    f"prompt {prompt.id} is a list of messages, but the tokenizer has no chat template; "
                    "use an instruction-tuned model or give the prompt as plain text"
                )
            tokens = self.tokenizer.apply_chat_template(
                [dict(message) for message in prompt.messages], add_generation_prompt=True, return_dict=False
            )
        else:
            tokens = self.tokenizer(prompt.text).input_ids
        return tuple(int(token) for token in tokens)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of a completion, without end-of-sequence and other special tokens."""
        text: str = self.tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text

    def refuse_long(self, prompts: Iterable[Prompt], room: int) -> None:
        """Raises DataError naming the first prompt of more than `room` tokens.

        Only those long enough to be one are encoded: a token takes at least a byte, and no chat template adds more
        tokens than the first prompt has with it.
        """
        added: int | None = None
        for prompt in prompts:
            added = len(self.encode(prompt)) if added is None else added
            if added + len(prompt.plain.encode()) > room and (length := len(self.encode(prompt))) > room:
                raise DataError(
                    f"{place_of(prompt)}: the prompt has {length} tokens, and the model's context leaves room for "
                    f"{max(0, room)} beside max_new_tokens; shorten or drop it, or lower max_new_tokens"
                )


def place_of(prompt: Prompt) -> str:
    """Where a person finds the prompt: file and row where it came from one, else how it begins."""
    return str(prompt.meta.get("place") or f"{prompt.source} {prompt.plain[:60]!r}")
