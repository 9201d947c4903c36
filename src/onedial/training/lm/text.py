"""Text to tokens and back, with the model's own chat template."""

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

    def encode_written(self, prompt: Prompt, completion: str | Message, ends: Sequence[int]) -> tuple[Tokens, Tokens]:
        """(prompt tokens, completion tokens) of what somebody else wrote, as the policy would have read and written it.

        The completion ends with one of `ends`, where the policy stops: what a chat template puts after it is left out,
        and where none is there the tokenizer's end-of-sequence token is added. A prompt without text gives its place
        to the completion's first token, which nothing predicts.
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
        """Raises DataError naming the first prompt of more than `room` tokens.

        Only those long enough to be one are encoded: a token takes at least a byte, and no chat template adds more
        tokens than the first prompt has with it.
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
    """Where a person finds the prompt: file and row where it came from one, else how it begins."""
    return str(prompt.meta.get("place") or f"{prompt.source} {prompt.plain[:60]!r}")
