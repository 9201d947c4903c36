"""Converts text to tokens and back, with the model's own chat template."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from onedial.core.errors import DataError
from onedial.core.types import Message, Prompt

Tokens = tuple[int, ...]


class Text:
    """Encodes prompts with the model's chat template, and decodes completions without special tokens."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """The tokens of a prompt, as the policy reads them.

        Messages go through the chat template, which ends with the beginning of the assistant's turn; plain text is
        encoded unchanged. Raises DataError for an empty prompt, or for messages if the model has no chat template.
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

    def encode_written(self, prompt: Prompt, completion: str | Message, ends: Sequence[int]) -> tuple[Tokens, Tokens]:
        """(prompt tokens, completion tokens) of an example from a dataset, as the policy would have read and written
        them.

        The completion ends with its last token in `ends`, the tokens at which the policy stops; what a chat template
        adds after it is left out. If there is no such token, the tokenizer's end-of-sequence token is added. If the
        prompt has no text, the first token of the completion takes its place, because nothing comes before it to
        predict it from.
        """
        words = completion if isinstance(completion, str) else str(completion.get("content") or "")
        read = self.encode(prompt) if prompt.plain else ()
        whole: Tokens = ()
        if prompt.messages:
            message = {"role": "assistant", "content": completion} if isinstance(completion, str) else dict(completion)
            turns = [*(dict(earlier) for earlier in prompt.messages), message]
            whole = tuple(self.tokenizer.apply_chat_template(turns, return_dict=False))
        elif prompt.text or not read:
            whole = tuple(self.tokenizer(prompt.text + words).input_ids)
        if not read:
            read = whole[:1]
        if whole[: len(read)] == read:
            written = whole[len(read) :]
        else:  # the tokens of the whole do not begin with the prompt's: take the completion by itself
            written = tuple(self.tokenizer(words, add_special_tokens=False).input_ids)
        last = max((place for place, token in enumerate(written) if token in ends), default=None)
        if last is not None and prompt.messages:
            return read, written[: last + 1]
        end = self.tokenizer.eos_token_id
        return read, written if end is None or (written and written[-1] in ends) else (*written, int(end))

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of a completion, without end-of-sequence and other special tokens."""
        text: str = self.tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text

    def refuse_long(self, prompts: Iterable[Prompt], room: int) -> None:
        """Raises DataError naming the first prompt with more than `room` tokens.

        Prompts that are certainly short enough are not encoded: a token takes at least a byte, and the chat template is
        taken to add at most as many tokens as the first prompt has in all.
        """
        added: int | None = None
        for prompt in prompts:
            added = len(self.encode(prompt)) if added is None else added
            if added + len(prompt.plain.encode()) > room and (length := len(self.encode(prompt))) > room:
                raise DataError(
                    f"{locate_prompt(prompt)}: the prompt has {length} tokens, and the model's context leaves room for "
                    f"{max(0, room)} beside max_new_tokens; shorten or drop it, or lower max_new_tokens"
                )


def locate_prompt(prompt: Prompt) -> str:
    """A description of a prompt for messages: file and row if it came from a file, else its beginning."""
    return str(prompt.meta.get("place") or f"{prompt.source} {prompt.plain[:60]!r}")
