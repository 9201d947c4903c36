"""The critic: predicts the reward still to come before each token of a completion, and is trained by regression."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from onedial.core.batch import Batch, Counts
from onedial.core.maths.gae import value_loss
from onedial.core.settings import Run
from onedial.training.lm.attention import PrefixLayout, use_layout
from onedial.training.lm.decoder import compute_hidden_states, get_base_model, get_head
from onedial.training.rollout.collector import Progress
from onedial.training.trainer.master_weights import Weights
from onedial.training.trainer.packing import make_micro_batches, map_micro_batches
from onedial.training.trainer.policy import Policy, load_trainable
from onedial.training.trainer.stopping import check_finite

TIMES_LR, HEAD_LR = 10.0, 1e-3


def critic_rate(run: Run, lr: float) -> float:
    """The critic's learning rate when the policy's is `lr`: both follow the same schedule.

    Unless the run sets it, it is ten times the policy's (verl's defaults are 1e-5 and 1e-6; VAPO's 2e-6 and 1e-6 are
    for many more steps than a small machine makes), and 1e-3 for a head alone, which is one linear layer.
    """
    peak = run.critic_lr or (TIMES_LR * run.lr if run.critic == "model" else HEAD_LR)
    return peak * lr / run.lr


class Critic:
    """V: one number per completion token, read from the hidden state that predicts the token.

    critic="model": a second model, initialized with the policy's weights, with a value head instead of the output
    layer. critic="head": a value head alone on the policy's hidden states, without gradient to the policy. The head is
    initialized with 0, so the first advantages are the rewards and nothing is random.
    """

    def __init__(self, run: Run, policy: Policy, model_path: str | Path) -> None:
        self.run, self.device = run, policy.device
        self.head = nn.Linear(get_head(policy.model).weight.shape[1], 1, device=policy.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.own_model = run.critic == "model"
        if self.own_model:
            model, exact = load_trainable(run, model_path, policy.device, policy.dtype)
            get_base_model(model).set_output_embeddings(nn.Identity())  # type: ignore[operator]
            module: nn.Module = nn.ModuleDict({"model": model, "head": self.head})
            self.weights = Weights(module, {f"model.{name}": weight for name, weight in exact.items()}, run)
        else:
            model = policy.model
            self.weights = Weights(self.head, {}, run)
        self.model: Any = model

    def _forward(self, piece: Batch) -> tuple[Tensor, PrefixLayout]:
        layout = PrefixLayout(piece)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.own_model):
            hidden = compute_hidden_states(self.model, layout.tokens, layout).index_select(0, layout.predictors)
        return self.head(hidden.float()).squeeze(1), layout

    def values(self, batch: Batch) -> Tensor:
        """(T,) values of a batch's tokens, without gradient; fp32 on the CPU."""
        return map_micro_batches(
            batch, self.run.micro_batch_tokens, lambda piece: self._forward(piece.to(self.device))[0]
        )

    def learn(self, batch: Batch, parts: Sequence[Tensor], lr: float, progress: Progress) -> float:
        """One optimizer step towards `returns` on the rollouts of each part; returns the mean loss.

        A critic also learns from silent groups, so every rollout in `rollout_mask` is used.
        """
        losses = []
        for number, part in enumerate(parts):
            minibatch = batch.select(part)
            live = (minibatch.rollout_mask & (minibatch.lengths > 0)).nonzero().squeeze(1)
            if not len(live):
                continue
            counts, loss = Counts.of(minibatch), 0.0
            pieces = make_micro_batches(minibatch.select(live), self.run.micro_batch_tokens)
            for done, piece in enumerate(pieces):
                progress("critic", number * len(pieces) + done, len(parts) * len(pieces))
                loss += self._backward(piece.to(self.device), counts)
            check_finite("critic's loss", loss, minibatch)
            check_finite("critic's gradient norm", self.weights.step(lr), minibatch)
            losses.append(loss)
        return sum(losses) / len(losses) if losses else 0.0

    def _backward(self, piece: Batch, counts: Counts) -> float:
        values, layout = self._forward(piece)
        weights = piece.mask.float() / max(counts.tokens, 1)
        loss = value_loss(values, piece["value"], piece["returns"], weights, self.run.algorithm.value_clip)
        with use_layout(layout):  # checkpointed blocks run forward again
            loss.backward()
        return float(loss.detach())
