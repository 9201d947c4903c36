"""The default engine: continuous batching in plain torch, with each prompt computed once for its whole group.

A finished sequence leaves the decode batch at once: the last sequence moves into its place, so the batch never holds
finished ones, and waiting requests enter as places become free. Per token, no Python code runs per sequence.
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np
import torch
from torch import Tensor, nn

from onedial.core.batch import compute_offsets
from onedial.core.errors import DataError, DivergenceError
from onedial.core.types import Completion
from onedial.training.cores import share_cores
from onedial.training.lm.decoder import Decoder, make_decoder
from onedial.training.lm.kv_cache import DecodeLayout, KVCache, PrefillLayout
from onedial.training.rollout.engine import Finished, Request, Sampling
from onedial.training.rollout.sampling import sample

PREFILL_TOKENS = 8192  # prompt tokens computed in one forward pass, at most


class _Slot:
    """A prompt in the cache, the number of its next rollout to start, and how many of its rollouts are unfinished."""

    def __init__(self, request: Request, index: int) -> None:
        self.request, self.index = request, index
        self.next_rollout = 0
        self.unfinished = len(request.seeds)


class TorchEngine:
    """Generates with a Hugging Face causal LM in this process. See `Engine` for the contract.

    `max_rows` completions are generated at a time. Each of `stop_ids` ends a completion.
    All requests in progress must share one `Sampling`.
    """

    def __init__(
        self, model: nn.Module, stop_ids: tuple[int, ...], *, max_rows: int = 64, context: int | None = None
    ) -> None:
        self.decoder: Decoder = make_decoder(model)
        parameter = next(model.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        self.max_rows = max_rows
        limit = getattr(model.config, "max_position_embeddings", None)
        self.context = context or (int(limit) if limit else 1 << 20)
        self.version = 0
        self.stop_ids = torch.tensor(stop_ids, dtype=torch.long, device=self.device)
        self.tokens_generated = 0
        self._waiting: deque[Request] = deque()
        self._starting: list[_Slot] = []
        self._slots: dict[int, _Slot] = {}
        self._sampling: Sampling | None = None
        self._prepared = False
        self._reset()

    def _reset(self) -> None:
        empty = torch.zeros(0, dtype=torch.long, device=self.device)
        self.cache = KVCache(self.decoder.num_layers)
        self.layout = DecodeLayout(self.cache)
        self._owner: list[tuple[_Slot, int]] = []  # per active sequence: slot, number in the request
        self._slot_of, self._own = empty, empty  # (B,)
        self._logits = torch.zeros(0, 0, device=self.device)  # (B, V) of the next token
        self._slot_logits = torch.zeros(0, 0, device=self.device)  # (S, V) after each prompt
        self._prompt_lengths = empty  # (S,)
        self._tokens = torch.zeros(0, 0, dtype=torch.long, device=self.device)  # (B, max_new)
        self._logps = torch.zeros(0, 0, device=self.device)
        self._unfiltered = torch.zeros(0, 0, device=self.device)
        self._uniform = torch.zeros(0, 0, dtype=torch.double, device=self.device)
        self._changed = False

    @property
    def pending(self) -> int:
        """Completions requested and not yet returned."""
        waiting = sum(len(request.seeds) for request in self._waiting)
        return waiting + sum(slot.unfinished for slot in self._slots.values())

    def submit(self, request: Request) -> None:
        """Queues a request.

        Raises DataError for an empty prompt or one that leaves no room for a single token.
        """
        length, sampling = len(request.prompt_tokens), request.sampling
        if length == 0:
            raise DataError(f"prompt {request.key!r} has no tokens; remove it from the data or give it text")
        if length + sampling.max_new_tokens > self.context:
            raise DataError(
                f"prompt {request.key!r} has {length} tokens; with max_new_tokens={sampling.max_new_tokens} it exceeds "
                f"the model's context of {self.context}. Shorten or drop the prompt, or lower max_new_tokens"
            )
        if self.pending and sampling != self._sampling:
            raise DataError("requests with different sampling settings cannot run together; finish the first ones")
        self._sampling = sampling
        self._waiting.append(request)

    def load_weights(self, model: nn.Module, version: int) -> None:
        """Takes the model's present weights; call it after an optimizer step, before the next `poll`.

        Only weights that the fast path joins are copied; the others are read from the model itself.
        """
        self.decoder.load(model)
        self._prepared = False
        self.version = version

    @torch.inference_mode()
    def poll(self) -> list[Finished]:
        """Generates one token for every active sequence, after admitting waiting requests; returns those that ended."""
        if not self._slots and not self._waiting:
            return []
        assert self._sampling is not None
        share_cores()
        if not self._prepared:
            self.decoder.prepare(self._sampling.max_new_tokens)
            self._prepared = True
        self._admit()
        finished = self._sample(self._sampling)
        if self._owner:
            self._forward()
        elif not self._slots and not self._waiting:
            self._reset()  # nothing in progress: free the cache
            self.decoder.rest()
            self._prepared = False
        return finished

    def generate(self, requests: list[Request]) -> list[Finished]:
        """Runs requests to their end and returns completions in the order of finishing; for small scripts."""
        for request in requests:
            self.submit(request)
        done: list[Finished] = []
        while self.pending:
            done.extend(self.poll())
        return done

    # -- admission -------------------------------------------------------------------------------

    def _admit(self) -> None:
        free = self.max_rows - len(self._owner)
        # admitting costs a forward pass: wait for enough free places, unless nothing else runs
        if free <= 0 or (self._owner and free < max(1, self.max_rows // 8)):
            return
        self._prefill(free)
        starting: list[tuple[_Slot, int]] = []
        while self._starting and len(starting) < free:
            slot = self._starting[0]
            take = min(free - len(starting), len(slot.request.seeds) - slot.next_rollout)
            starting.extend((slot, slot.next_rollout + i) for i in range(take))
            slot.next_rollout += take
            if slot.next_rollout == len(slot.request.seeds):
                self._starting.pop(0)
        if starting:
            self._start(starting)

    def _prefill(self, free: int) -> None:
        """Computes the prompts of which at least one completion can start now."""
        ready = sum(len(slot.request.seeds) - slot.next_rollout for slot in self._starting)
        new: list[_Slot] = []
        tokens = 0
        while self._waiting and ready < free and (not new or tokens < PREFILL_TOKENS):
            request = self._waiting.popleft()
            slot = _Slot(request, self._free_slot())
            self._slots[slot.index] = slot
            new.append(slot)
            ready += len(request.seeds)
            tokens += len(request.prompt_tokens)
        if not new:
            return
        lengths = [len(slot.request.prompt_tokens) for slot in new]
        offsets = compute_offsets(torch.tensor(lengths, device=self.device))
        flat = torch.tensor([t for slot in new for t in slot.request.prompt_tokens], device=self.device)
        where = torch.tensor([slot.index for slot in new], device=self.device)
        num_slots = max(self._slots) + 1
        layout = PrefillLayout(self.cache, offsets, where, num_slots)
        last = self.decoder.hidden(flat, layout)[offsets[1:] - 1]
        logits = self.decoder.head.logits(last)
        self._slot_logits = _grow(self._slot_logits, num_slots, logits.shape[1], logits.dtype)
        self._slot_logits[where] = logits
        self._prompt_lengths = _grow(self._prompt_lengths[:, None], num_slots, 1, torch.long)[:, 0]
        self._prompt_lengths[where] = torch.tensor(lengths, device=self.device)
        self._starting.extend(new)

    def _free_slot(self) -> int:
        return next(index for index in range(len(self._slots) + 1) if index not in self._slots)

    def _start(self, starting: list[tuple[_Slot, int]]) -> None:
        assert self._sampling is not None
        limit, old = self._sampling.max_new_tokens, len(self._owner)
        total = old + len(starting)
        slots = torch.tensor([slot.index for slot, _ in starting], device=self.device)
        self._owner.extend(starting)
        self._slot_of = torch.cat([self._slot_of, slots])
        self._own = torch.cat([self._own, torch.zeros_like(slots)])
        fresh = self._slot_logits[slots]
        self._logits = torch.cat([self._logits.to(fresh.dtype), fresh]) if old else fresh
        self._tokens = _grow(self._tokens, total, limit, torch.long)
        self._logps = _grow(self._logps, total, limit, torch.float32)
        self._unfiltered = _grow(self._unfiltered, total, limit, torch.float32)
        self._uniform = _grow(self._uniform, total, limit, torch.double)
        numbers = [np.random.Generator(np.random.Philox(slot.request.seeds[i])).random(limit) for slot, i in starting]
        self._uniform[old:total, :limit] = torch.from_numpy(np.stack(numbers)).to(self.device)
        self._changed = True

    # -- one token -------------------------------------------------------------------------------

    def _sample(self, sampling: Sampling) -> list[Finished]:
        count = len(self._owner)
        index = torch.arange(count, device=self.device)
        uniform = self._uniform[index, self._own]
        token, logp, unfiltered = sample(self._logits, uniform, sampling.temperature, sampling.top_k, sampling.top_p)
        self._tokens[index, self._own] = token
        self._logps[index, self._own] = logp
        if unfiltered is not None:
            self._unfiltered[index, self._own] = unfiltered
        self._own = self._own + 1
        self.tokens_generated += count
        stopped = torch.isin(token, self.stop_ids)
        done = stopped | (self._own >= sampling.max_new_tokens)
        if not bool(done.any()):
            return []
        return self._retire(done, stopped, filtered=unfiltered is not None)

    def _retire(self, done: Tensor, stopped: Tensor, *, filtered: bool) -> list[Finished]:
        """Removes finished sequences from the batch; the last ones move into their places."""
        which = done.nonzero().squeeze(1)
        tables = (self._tokens, self._logps, self._unfiltered)
        columns = (self._own[which], stopped[which], *(table[which] for table in tables))
        finished = []
        for place, length, stop, *written in zip(which.tolist(), *(column.tolist() for column in columns), strict=True):
            slot, index = self._owner[place]
            tokens, logps, unfiltered = (tuple(values[:length]) for values in written)
            if not all(map(math.isfinite, logps)):
                raise DivergenceError(
                    f"the policy after {self.version} optimizer steps gives log-probabilities that are not numbers: "
                    "it has diverged; start again with a lower lr"
                )
            completion = Completion(
                tokens,
                logps,
                "stop" if stop else "length",
                self.version,
                unfiltered_logps=unfiltered if filtered else (),
            )
            finished.append(Finished(slot.request.key, index, completion))
            slot.unfinished -= 1
            if slot.unfinished == 0:
                del self._slots[slot.index]
        self._compact(done)
        return finished

    def _compact(self, done: Tensor) -> None:
        keep = (~done).nonzero().squeeze(1)
        count = len(keep)
        target = done[:count].nonzero().squeeze(1)
        source = keep[keep >= count]
        order = torch.arange(count, device=self.device)
        order[target] = source
        if len(source):
            self.cache.move_sequences(source, target, int(self._own[source].max()))
            for table in (self._tokens, self._logps, self._unfiltered, self._uniform):
                table[target] = table[source]
        self._slot_of, self._own = self._slot_of[order], self._own[order]
        self._owner = [self._owner[sequence] for sequence in order.tolist()]
        self._changed = True

    def _forward(self) -> None:
        """Computes the logits of the next token for the active sequences."""
        if self._changed:
            self.layout.set_sequences(self._slot_of, self._prompt_lengths, self.dtype)
            self._changed = False
        index = torch.arange(len(self._owner), device=self.device)
        newest = self._tokens[index, self._own - 1]
        self.layout.advance(self._own - 1)
        self._logits = self.decoder.head.logits(self.decoder.hidden(newest, self.layout))


def _grow(table: Tensor, count: int, columns: int, dtype: torch.dtype) -> Tensor:
    """Returns a table of at least this shape with the content of the old one."""
    if table.shape[0] >= count and table.shape[1] >= columns and table.dtype == dtype:
        return table
    new = torch.zeros(max(count, table.shape[0]), max(columns, table.shape[1]), dtype=dtype, device=table.device)
    new[: table.shape[0], : table.shape[1]] = table
    return new
