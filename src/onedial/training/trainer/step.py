"""One iteration's updates: log-probabilities, micro-batches, gradients, optimiser steps."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from onedial.core.batch import Batch, Counts
from onedial.core.maths.kl import kl
from onedial.core.maths.loss import contributes, policy_loss, with_logp
from onedial.core.settings import Run
from onedial.training.rollout.engine import seed_of
from onedial.training.trainer.critic import Critic, critic_rate
from onedial.training.trainer.packing import map_micro_batches, micro_batches, split_minibatches
from onedial.training.trainer.policy import Policy


@dataclass(frozen=True)
class Updated:
    """What an iteration's updates did; sums are over the tokens that were trained on."""

    steps: int
    loss: float
    grad_norm: float
    lr: float
    sums: dict[str, float]
    rows_trained: int
    tokens_trained: int
    value_loss: float | None = None

    def mean(self, name: str, over: str = "tokens") -> float | None:
        """Mean of a sum over trained tokens (or pairs); None where it was not measured."""
        count = self.sums.get(over, 0.0)
        return self.sums[name] / count if count and name in self.sums else None


def learning_rate(run: Run, iteration: int) -> float:
    """Rate of an iteration (counted from 0): linear warm-up, then constant, or linear or cosine to 0 at the end."""
    if iteration < run.warmup:
        return run.lr * (iteration + 1) / run.warmup
    share = (iteration - run.warmup) / max(1, run.iterations - run.warmup)
    factors = {"constant": 1.0, "linear": 1.0 - share, "cosine": 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))}
    return run.lr * factors[run.schedule]


Progress = Callable[[str, int, int], None]


def update(
    policy: Policy,
    reference: nn.Module | None,
    batch: Batch,
    iteration: int,
    progress: Progress,
    *,
    critic: Critic | None = None,
) -> Updated:
    """Trains on a packed batch in `updates_per_iteration` optimiser steps; the critic, where there is one, first.

    During `critic_warmup` the critic is all that learns.

    Rows whose gradient is exactly 0 are not computed at all, but counted in every denominator. An iteration
    without a single row that pulls makes no step: momentum alone would move the weights without evidence.
    """
    run, row = policy.run, policy.run.algorithm
    lr = learning_rate(run, iteration)
    learned = None if critic is None else critic.fit(batch, iteration + 1, critic_rate(run, lr), progress)
    if iteration < row.critic_warmup:
        return Updated(0, 0.0, 0.0, lr, {}, 0, 0, learned)
    if row.reference_in_loss and reference is not None:
        batch = replace(batch, ref_logp=evaluate_logps(policy, batch, reference))
    steps = split_minibatches(batch, row.updates_per_iteration, seed_of(run.seed, "minibatch", iteration))
    if len(steps) > 1:
        # later mini-batches meet a moved policy: remember where it stood when the iteration began
        steps = [replace(part, old_logp=_old_logps(policy, part)) for part in steps]
    sums: Counter[str] = Counter()
    loss, norms, rows = 0.0, [], 0
    for number, part in enumerate(steps):
        live = contributes(row, part).nonzero().squeeze(1)
        if not len(live):
            continue
        counts = Counts.of(part)
        pairs = row.preference_beta > 0
        pieces = micro_batches(part.select(live), run.micro_batch_tokens, whole_groups=pairs)
        for done, piece in enumerate(pieces):
            progress("update", number * len(pieces) + done, len(steps) * len(pieces))
            piece_loss, piece_sums = _backward(policy, piece, counts)
            loss += piece_loss / len(steps)
            sums.update(piece_sums)
        rows += len(live)
        norms.append(policy.step(lr))
    grad_norm = sum(norms) / len(norms) if norms else 0.0
    return Updated(len(norms), loss, grad_norm, lr, dict(sums), rows, int(sums["tokens"]), learned)


def _backward(policy: Policy, piece: Batch, counts: Counts) -> tuple[float, dict[str, float]]:
    piece = piece.to(policy.device)
    logp, layout = policy.logps(piece)
    if piece.old_logp is None and policy.run.algorithm.ratio_level != "none":
        piece = replace(piece, old_logp=_unmoved(piece, logp.detach()))
    result = policy_loss(policy.run.algorithm, with_logp(piece, logp), counts)
    policy.backward(result.loss, layout)
    return float(result.loss.detach()), result.sums


def _unmoved(piece: Batch, logp: Tensor) -> Tensor:
    """Old logps before the first step: the trainer's own, so the ratio is 1; for groups carried over from an earlier
    policy the engine's, so the ratio corrects for their age."""
    if piece.stale is None or piece.engine_logp is None:
        return logp
    return torch.where(piece.stale[piece.row], piece.engine_logp, logp)


def _old_logps(policy: Policy, part: Batch) -> Tensor:
    return _unmoved(part, evaluate_logps(policy, part))


def evaluate_logps(policy: Policy, batch: Batch, reference: nn.Module | None = None) -> Tensor:
    """(T,) logps of the whole batch without gradient, by the policy or the reference; fp32 on the CPU."""
    return map_micro_batches(
        batch,
        policy.run.micro_batch_tokens,
        lambda piece: policy.logps(piece.to(policy.device), reference=reference)[0],
    )


def kl_to_reference(policy: Policy, batch: Batch, reference: nn.Module) -> Tensor:
    """(T,) KL of each token to the reference, in nats, for kl_in='reward'."""
    reference_logp = evaluate_logps(policy, batch, reference)
    own = evaluate_logps(policy, batch)
    return kl(policy.run.algorithm.kl_estimator, own, reference_logp)
