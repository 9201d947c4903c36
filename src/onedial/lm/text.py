"""Text to tokens and back, with the model's own chat template."""

from __future__ import annotations

from collections.abc import Sequence
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
